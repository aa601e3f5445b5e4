"""Charades, as several labels of a video or as spans: the official csv, and PySlowFast's frame lists of any data set.

Sigurdsson et al. 2016 (arXiv 1604.01753).
"""

from __future__ import annotations

import csv
import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from ..sample import Task
from .rows import Found, Layout, Row
from .text import Part, names_of, read_lines

log = logging.getLogger("tubelet")

CODES = tuple(f"c{number:03}" for number in range(157))
FRAMES_FPS = 24.0  # of the official frames
_NUMBER = re.compile(r"(\d+)\D*$")
_ACTION = re.compile(r"(c\d{3}) (\d+(?:\.\d+)?) (\d+(?:\.\d+)?)")


def _is_csv(file: Path, head: str) -> bool:
    header = head.partition("\n")[0].strip().lower().split(",")
    return file.suffix.lower() == ".csv" and {"id", "subject", "script", "actions"} <= set(header)


def _is_frame_list(file: Path, head: str) -> bool:
    return head.startswith(("original_vido_id", "original_video_id"))


def read_csv(parts: Sequence[Part], task: Task | None) -> Found:
    """The official csv, whose column `actions` holds `c092 11.90 21.20;c147 0.00 12.60`; seconds.

    Raises:
        ValueError: a row has no cell of actions, or one that cannot be read.
    """
    names = dict(zip(CODES, _classes(parts[0].file.parent), strict=True))
    rows = []
    empty = 0
    for part in parts:
        for line, cells in enumerate(csv.DictReader(read_lines(part.file)), start=2):
            spans = []
            if cells["actions"] is None:
                raise ValueError(f"{part.file}, row {line} ({cells['id']}): fewer cells than the header; complete it")
            for action in filter(None, cells["actions"].split(";")):
                match = _ACTION.fullmatch(action.strip())
                if not match or match[1] not in names:
                    raise ValueError(f"{part.file}, row {line} ({cells['id']}): {action!r} is not `c000 start end`")
                start, end = float(match[2]), float(match[3])
                if end > start:
                    spans.append((start, end, names[match[1]]))
                else:
                    empty += 1
            rows.append(
                Row(
                    (cells["id"],),
                    tuple(spans),
                    part.split,
                    unit="s",
                    group=cells["subject"],
                    fps=FRAMES_FPS,
                    file=part.file,
                    line=line,
                )
            )
    if empty:
        log.info("%s: %d actions that end before they begin; left out", parts[0].file.parent, empty)
    return _found(f"Charades csv ({names_of(parts)})", parts[0].file.parent, rows, task, tuple(names.values()))


def read_frame_lists(parts: Sequence[Part], task: Task | None) -> Found:
    """PySlowFast's lists: a row a frame, `original_vido_id video_id frame_id path labels`, labels as `"1,5"`.

    Where each video has one label, the same in all of its frames and without quotes, they are of a data set of classes,
    and not of Charades; with quotes only if that is asked for.

    Raises:
        ValueError: a row cannot be read, frames of a video lie in several folders, or no frame has a label; or spans
            are asked for, and frames do not follow one another.
    """
    home, layout = parts[0].file.parent, f"frame list ({names_of(parts)})"
    found: list[tuple[Row, str, list[str]]] = []
    is_quoted = False
    for part in parts:
        folders: dict[str, str] = {}
        last: dict[str, int] = {}
        frames: dict[str, list[str]] = defaultdict(list)
        with part.file.open(encoding="utf-8-sig") as stream:
            next(stream)
            for line, text in enumerate(stream, start=2):
                cells = text.split()
                if len(cells) != 5:
                    raise ValueError(f"{part.file}, row {line} ({text.strip()}): not `id number frame path labels`")
                video, _, _, path, labels = cells
                folder = path.rpartition("/")[0]
                if folders.setdefault(video, folder or video) != (folder or video):
                    raise ValueError(
                        f"{part.file}, row {line} ({path}): the frames of a video lie in a folder of their own"
                    )
                if task == "frames" and (gap := _gap(path, video, last)):
                    raise ValueError(
                        f"{part.file}, row {line} ({path}): {gap}; spans need all frames of a video, in their order"
                    )
                is_quoted = is_quoted or not labels.isdecimal()
                frames[video].append(labels.strip("\"'"))
        for video, told in frames.items():
            place = folders[video] if Path(folders[video]).is_absolute() else (folders[video], video)
            found.append((Row(place, None, part.split, file=part.file), video, told))
    is_single = all(len(set(told)) == 1 and told[0].isdecimal() for *_, told in found)
    if is_single and (task == "classify" or (task is None and not is_quoted)):
        return Found(layout, home, [row._replace(label=told[0]) for row, _, told in found], is_official=True)
    classes = _classes(home)
    rows = [row._replace(label=_spans(told, classes, row.file, video), fps=FRAMES_FPS) for row, video, told in found]
    if not any(row.label for row in rows):
        raise ValueError(
            f"{parts[0].file}: a frame list without labels; give the annotation that it belongs to "
            "(json of Something-Something, csv of AVA), which finds these folders by their names"
        )
    return _found(layout, home, rows, task, classes)


def _gap(path: str, video: str, last: dict[str, int]) -> str:
    """What is wrong where this frame is not the one behind the `last` of its video, which it becomes."""
    found = _NUMBER.search(path.rpartition("/")[2].rpartition(".")[0])
    if not found:
        return ""
    number = int(found[1])
    before, last[video] = last.get(video, number - 1), number
    return "" if number == before + 1 else f"frame {number} after {before}"


def _spans(told: Sequence[str], classes: Sequence[str], file: Path, video: str) -> tuple[tuple[int, int, str], ...]:
    """Runs of frames that have a label, from the labels of each frame."""
    spans = []
    begun: dict[int, int] = {}
    at = 0
    for labels, run in groupby([*told, ""]):
        now = {int(label) for label in filter(None, labels.split(","))}
        if unknown := now - set(range(len(classes))):
            raise ValueError(f"{file}, video {video}: label {unknown.pop()}; Charades has 0 to {len(classes) - 1}")
        spans += [(begun.pop(label), at, classes[label]) for label in begun.keys() - now]
        for label in sorted(now - begun.keys()):
            begun[label] = at
        at += len(list(run))
    return tuple(sorted(spans + [(start, at, classes[label]) for label, start in begun.items()]))


def _classes(folder: Path) -> tuple[str, ...]:
    """The 157 names of `Charades_v1_classes.txt`, lines `c000 Holding some clothes`; without it the codes."""
    file = folder / "Charades_v1_classes.txt"
    if not file.exists():
        return CODES
    names = dict(line.strip().split(maxsplit=1) for line in read_lines(file))
    if tuple(sorted(names)) != CODES:
        raise ValueError(f"{file}: {len(names)} classes, not {CODES[0]} to {CODES[-1]}; get the file again")
    return tuple(names[code] for code in CODES)


def _found(layout: str, home: Path, rows: Sequence[Row], task: Task | None, classes: tuple[str, ...]) -> Found:
    """The spans as they are, or what is seen anywhere in a video."""
    if task != "frames":
        rows = [row._replace(label=tuple(dict.fromkeys(name for *_, name in row.label))) for row in rows]
    return Found(
        layout, home, rows, task="frames" if task == "frames" else "multilabel", classes=classes, is_official=True
    )


LAYOUTS = (Layout(_is_csv, read_csv), Layout(_is_frame_list, read_frame_lists))
