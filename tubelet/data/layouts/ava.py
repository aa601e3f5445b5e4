"""AVA 2.1 and 2.2, and lists in its form: who does what in one frame a second. Gu et al. 2018 (arXiv 1705.08421)."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from ..sample import Task
from .classes import read_pbtxt
from .rows import Found, Layout, Row, actors, box
from .text import Part, names_of, read_lines, without_suffix

log = logging.getLogger("tubelet")

FRAMES_FPS = 30.0
CUT_S = 900  # where frames and cut copies of the films begin
_ROW = re.compile(r"[^,]+,\d+(\.\d+)?(,[\d.]*){4},\d*(,(-?\d+)?)?")


def _is_csv(file: Path, head: str) -> bool:
    lines = head.splitlines()[:-1] or head.splitlines()
    return file.suffix.lower() == ".csv" and bool(lines) and all(_ROW.fullmatch(line.strip()) for line in lines)


def read(parts: Sequence[Part], task: Task | None) -> Found:
    """Rows `video_id, second, x1, y1, x2, y2, action, person` without a header; actions count from 1.

    The excluded timestamps beside a list are left out. Classes are those of the label map beside it, by preference of
    all 80; where there is the map of the 60 that are evaluated too, it says which these are.

    Raises:
        ValueError: a row cannot be read, or has an action that the label map does not know.
    """
    folder = parts[0].file.parent
    names, evaluated = _label_maps(folder)
    rows = []
    nobody = 0
    for part in parts:
        excluded = _excluded(part)
        for line, cells in enumerate(csv.reader(read_lines(part.file)), start=1):
            try:
                if len(cells) < 7:
                    raise ValueError("not `video,second,x1,y1,x2,y2,action,person`")
                if (cells[0], int(float(cells[1]))) in excluded:
                    continue
                if not cells[6]:
                    nobody += 1
                    continue
                name = names.get(int(cells[6])) if names else cells[6]
                if name is None:
                    raise ValueError(f"action {cells[6]} is not in the label map")
                label = ((box(cells[2:6]), (name,)),)
            except ValueError as error:
                raise ValueError(f"{part.file}, row {line} ({','.join(cells)}): {error}") from None
            rows.append(
                Row(
                    (without_suffix(cells[0]),),
                    label,
                    part.split,
                    unit="s",
                    moment=float(cells[1]),
                    group=cells[0],
                    fps=FRAMES_FPS,
                    file=part.file,
                    line=line,
                )
            )
    if nobody:
        log.info("%s: %d rows without an action; left out", folder, nobody)
    classes = tuple(name for _, name in sorted(names.items())) or None
    is_cut = all(row.moment is not None and row.moment >= CUT_S for row in rows)  # else of films that begin at 0
    return Found(
        f"AVA csv ({names_of(parts)})",
        folder,
        actors(rows),
        task="detect",
        classes=classes,
        is_official=True,
        cut_s=CUT_S if is_cut else 0,
        evaluated=evaluated,
    )


def _label_maps(folder: Path) -> tuple[dict[int, str], tuple[str, ...]]:
    """Names by number, and those that are evaluated where a smaller map says so; nothing without a map."""
    maps = sorted((read_pbtxt(file) for file in folder.iterdir() if ".pbtxt" in file.name), key=len)
    if not maps:
        return {}, ()
    smallest, largest = maps[0], maps[-1]
    for each in maps:
        if not each.items() <= largest.items():
            raise ValueError(
                f"{folder}: the label maps (.pbtxt) give one number several names; keep those of one version"
            )
    return largest, tuple(name for _, name in sorted(smallest.items())) if len(smallest) < len(largest) else ()


def _excluded(part: Part) -> set[tuple[str, int]]:
    """Videos and seconds of `ava_train_excluded_timestamps_v2.2.csv` for `ava_train_v2.2.csv`."""
    file = part.file.with_name(re.sub("(train|val|test)", r"\1_excluded_timestamps", part.file.name, count=1))
    if file == part.file or not file.exists():
        return set()
    return {(cells[0], int(float(cells[1]))) for cells in csv.reader(read_lines(file))}


LAYOUTS = (Layout(_is_csv, read),)
