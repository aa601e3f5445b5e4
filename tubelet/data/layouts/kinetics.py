"""Kinetics 400, 600 and 700, and HACS clips: the official csv; the videos have any place and ending.

Kay et al. 2017 (arXiv 1705.06950), Zhao et al. 2019 (arXiv 1712.09374).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ..sample import Task
from .rows import Found, Layout, Row, split_of
from .text import Part, cells_of, names_of, read_lines

log = logging.getLogger("tubelet")

_COLUMNS = ("youtube_id", "time_start", "time_end")
_OF_HACS = "classname,youtube_id,subset,start,end,label"


def _is_kinetics(file: Path, head: str) -> bool:
    first = head.partition("\n")[0].lower()
    return file.suffix.lower() == ".csv" and all(name in first for name in _COLUMNS)


def read_kinetics(parts: Sequence[Part], task: Task | None) -> Found:
    """The official csv of Kinetics: videos are `<id>_<start, 6 digits>_<end, 6 digits>` with any ending.

    Raises:
        ValueError: there is no row, or one that cannot be read.
    """
    rows = []
    for part in parts:
        lines = read_lines(part.file)
        if len(lines) < 2:
            raise ValueError(f"{part.file}: a header ({lines[0].strip()}) and no row; get the file again")
        table = cells_of(lines)
        header = [cell.strip().lower() for cell in next(table)]
        if "label" not in header:
            log.warning("%s: no labels; left out", part.file)
            continue
        label, name, start, end = (header.index(cell) for cell in ("label", *_COLUMNS))
        split = header.index("split") if "split" in header else None
        for line, cells in enumerate(table, start=2):
            try:
                video = f"{cells[name]}_{int(float(cells[start])):06d}_{int(float(cells[end])):06d}"
                told = split_of(cells[split].strip()) if split is not None else part.split
                if not cells[label].strip():
                    raise ValueError("no label; remove the row")
            except (ValueError, IndexError) as error:
                raise ValueError(f"{part.file}, row {line} ({' | '.join(cells)}): {error}") from None
            rows.append(Row((video,), cells[label].strip(), told, group=cells[name], file=part.file, line=line))
    return Found(f"Kinetics csv ({names_of(parts)})", parts[0].file.parent, rows, is_official=True)


def _is_hacs(file: Path, head: str) -> bool:
    return file.suffix.lower() == ".csv" and head.partition("\n")[0].strip().lower() == _OF_HACS


def read_hacs(parts: Sequence[Part], task: Task | None) -> Found:
    """The csv of HACS clips: two seconds of a video, in which the class is seen (label 1) or is not (-1, left out).

    Raises:
        ValueError: a row cannot be read.
    """
    rows = []
    num_others = 0
    for part in parts:
        for line, cells in enumerate(cells_of(read_lines(part.file)[1:]), start=2):
            try:
                name, video, subset, start, end, label = map(str.strip, cells)
                if label != "1":
                    num_others += 1
                    continue
                split, span = split_of(subset) or part.split, (float(start), float(end))
            except ValueError as error:
                raise ValueError(f"{part.file}, row {line} ({' | '.join(cells)}): {error}") from None
            rows.append(
                Row((f"v_{video}", video), name, split, *span, unit="s", group=video, file=part.file, line=line)
            )
    folder = parts[0].file.parent
    if num_others:
        log.info("%s: %d clips without their class; left out", folder, num_others)
    return Found(f"HACS csv ({names_of(parts)})", folder, rows, is_official=True)


LAYOUTS = (Layout(_is_kinetics, read_kinetics), Layout(_is_hacs, read_hacs))
