"""Lists of videos: `path label` in any separator, tables with a header, lists of frame folders.

PySlowFast, PyTorchVideo and MMAction2 write `path label`; MMAction2 and TSM `frame_dir total_frames label`.
"""

from __future__ import annotations

import csv
import json
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from math import isnan
from pathlib import Path, PurePosixPath
from typing import Any

from ...terminal import counted
from ..sample import Task, Unit
from .rows import Found, Layout, Row, actors, box, fold_of, split_of
from .text import (
    COLUMNS,
    EXTENTS,
    HEAD,
    LISTS,
    SPLITS,
    SUFFIXES,
    Part,
    cells_of,
    column,
    has_video_suffix,
    is_sure,
    kin,
    lines_in,
    may_be_end,
    may_be_length,
    names_of,
    read_lines,
    spelled,
)

log = logging.getLogger("tubelet")

SEPARATORS = "\t,;|"
_NUMBERS = r"\d+(?:,\d+)*"
# A path and the numbers after it, whatever separates them.
_NUMBERED = re.compile(rf"(?P<path>.*?)(?P<numbers>(?:\s+{_NUMBERS})+|(?:,\d+)+|(?:;\d+)+|(?:\|\d+)+)\s*")
_SEVERAL = re.compile(r"(?<=[\s,;|])\d+[\s,;|]+\d+\s*\Z")  # quick to search for
_VIDEO = re.compile(rf"(?:{'|'.join(map(re.escape, sorted(SUFFIXES)))})\b", re.IGNORECASE)
BOX = ("x1", "y1", "x2", "y2")
_CLOCK = re.compile(r"(\d+):([0-5]\d):([0-5]\d(?:\.\d+)?)", re.ASCII)
_MANY = re.compile(r"\s*[,;|]\s*")
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
# as Python, json and numpy write it: ['run', 'jump'], ["run", "jump"], ['run' 'jump'], [0 3]
_LISTED = re.compile(rf"[\[({{](?:[\s,]|{_QUOTED.pattern})*[\])}}]|\[[\s,\d]*\]|set\(\)", re.DOTALL)


class NoLabelsError(ValueError):
    """A list of which no column is known to be the labels."""


def _is_list(file: Path, head: str) -> bool:
    return file.suffix.lower() in LISTS


def _is_named(file: Path, head: str) -> bool:
    """`train.txt` and no more: nothing else is called so."""
    return _is_list(file, head) and file.stem.lower() in SPLITS


def _is_likely(file: Path, head: str) -> bool:
    """Named for a split among other things; its first line begins with a path, or is TSM's `id total_frames label`."""
    first = head.lstrip().partition("\n")[0].strip()
    path = re.split(r"[\t,;|]", first)[0].strip(" \"'")
    is_path = "/" in path or _VIDEO.search(path) or re.fullmatch(r"\S+ \d+ \d+", first)
    return _is_list(file, head) and kin(file.name)[1] is not None and bool(is_path)


def is_table(file: Path, head: str) -> bool:
    """A list whose header names paths and labels, so that no name is needed to see what it is."""
    cells = re.split(r"[\t,;|]|\s+", head.partition("\n")[0].strip())
    return _is_list(file, head) and _is_header(cells)


def _is_header(cells: Iterable[str]) -> bool:
    names = set(map(column, cells))
    return "path" in names and bool(names & {"label", "labels"})


def read_lists(parts: Sequence[Part], task: Task | None) -> Found:
    """Lists of any kind that is not a published data set's own.

    Raises:
        ValueError: a list is empty or has no row, its columns are not known, or a row cannot be read.
    """
    rows: list[Row] = []
    kinds: set[Task] = set()
    for part in parts:
        found, kind = _labelled(part, task, is_spare=part.split == "test" and len(parts) > 1)
        if kind is None:
            log.warning("%s: no labels; left out", part.file)
            continue
        if len(parts) > 1 and (others := [row for row in found if row.split != part.split]):
            number, first = counted(len(others), "row"), others[0]
            log.warning(
                "%s: its column split puts %s into other parts, first row %d into %s; read so",
                part.file, number, first.line, first.split,
            )  # fmt: skip
        kinds.add(kind)
        rows += found
    if kinds == {"classify", "multilabel"}:  # no row of one of the lists has several labels
        kinds = {"multilabel"}
        rows = [row if isinstance(row.label, tuple) else row._replace(label=(row.label,)) for row in rows]
    elif len(kinds) > 1:
        raise ValueError(
            f"{parts[0].file.parent}: {names_of(parts)} hold {' and '.join(sorted(kinds))}; give one of them"
        )
    (one,) = kinds
    if one == "multilabel":
        _check_marks(rows)
        rows = _united(rows)
    return Found(f"list ({names_of(parts)})", parts[0].file.parent, rows, one)


def _labelled(part: Part, task: Task | None, *, is_spare: bool) -> tuple[list[Row], Task | None]:
    """The rows of a list that have a label, and their task; of a list that can be spared and has no labels, nothing."""
    lines = read_lines(part.file)
    if not lines:
        raise ValueError(f"{part.file}: the list is empty")
    try:
        found, kind = _read(part, lines, task)
    except NoLabelsError:
        if is_spare:
            return [], None
        raise
    rows = [row for row in found if row.label is not None]
    # a header that names no label is read as a row
    if is_spare and (not rows or column(str(rows[0].video)) == "path"):
        return [], None
    if not found:
        raise ValueError(f"{part.file}: a header ({lines[0].strip()}) and no row; write one for each video")
    if not rows:
        raise ValueError(f"{part.file}: rows of test alone and no label; write labels, or give a list that has some")
    if len(rows) < len(found):
        number = counted(len(found) - len(rows), "row")
        log.warning("%s: %s of test without a label; left out", part.file, number)
    return rows, kind


def _check_marks(rows: Sequence[Row]) -> None:
    """Raise ValueError where labels are a 0 or 1 for each class, and not the classes."""
    twice = next((row for row in rows if len(set(row.label)) < len(row.label)), None)
    if twice and {"0", "1"}.issuperset(name for row in rows for name in row.label):
        raise ValueError(
            f"{twice.file}, row {twice.line} ({twice.video}): labels {', '.join(twice.label)} mark each class with 0 "
            "or 1; write the names or numbers of those that are seen"
        )


def _united(rows: Iterable[Row]) -> list[Row]:
    """One row for each part of a video, with all labels that its rows have: lists may have one label in a row."""
    found: dict[tuple, Row] = {}
    for row in rows:
        part = row.video, row.split, row.start, row.end, row.unit
        first = found.setdefault(part, row)
        found[part] = first._replace(label=tuple(dict.fromkeys((*first.label, *row.label))))
    return list(found.values())


def first_rows(part: Part, head: str) -> list[Row]:
    """The rows in the beginning of a list; none where it is no list."""
    lines = lines_in(head)
    if part.file.stat().st_size > HEAD:
        lines = lines[:-1]
    try:
        return _read(part, lines, None)[0] if lines else []
    except (ValueError, csv.Error):
        return []


def _read(part: Part, lines: Sequence[str], task: Task | None) -> tuple[list[Row], Task]:
    """Rows of a list, and their task."""
    for separator in SEPARATORS:
        header = next(_cells(lines[:1], separator))
        if _is_header(header):
            return _table(part, header, _cells(lines[1:], separator), task)
    header = lines[0].split()
    if [column(cell) for cell in header] in (["path", "label"], ["path", "labels"]):
        return _table(part, header, map(_by_spaces, lines[1:]), task)
    if numbered := _numbered(part, lines):
        return numbered
    table = _columns(lines)
    if len(table[0]) != 2:
        known = ", ".join(f"{name} ({'|'.join(aliases)})" for name, aliases in COLUMNS.items())
        raise NoLabelsError(
            f"{part.file}: {len(table[0])} columns and no header that names them; two columns are `path label`, "
            f"more need a header: {known}"
        )
    return _table(part, ["path", "label"], table, task, first=1)


def _cells(lines: Iterable[str], separator: str) -> Iterator[list[str]]:
    return cells_of(lines, separator, skips_space=True)


def _columns(lines: Sequence[str]) -> list[list[str]]:
    """Cells of each line, by the separator that gives every line as many (at least two)."""
    for separator in SEPARATORS:
        if all(separator in line for line in islice(lines, 1000)):
            table = list(_cells(lines, separator))
            if len(table[0]) > 1 and len({len(cells) for cells in table}) == 1:
                return table
    return [_by_spaces(line) for line in lines]


def _by_spaces(line: str) -> list[str]:
    """Path and label between spaces; a path may hold spaces, a label of such lists only in quotes."""
    if '"' in line:
        quoted = next(csv.reader([line.strip()], delimiter=" ", skipinitialspace=True))
        if len(quoted) == 2:
            return quoted
    return line.rsplit(maxsplit=1)


def _numbered(part: Part, lines: Sequence[str]) -> tuple[list[Row], Task] | None:
    """Lists of numbers alone that are more than `path number`: several labels, or `frame_dir total_frames label`."""
    if not any(_SEVERAL.search(line) for line in lines):
        return None
    found: list[tuple[str, list[str]]] = []
    is_spaced = True
    for line in lines:
        match = _NUMBERED.fullmatch(line)
        if not match or not match["path"].strip():
            return None
        is_spaced = is_spaced and match["numbers"][0].isspace()
        numbers = re.split(
            r"[\s;|]+" if re.match(r"\s", match["numbers"]) else r"[,;|]", match["numbers"].strip(" \t,;|")
        )
        if has_video_suffix(match["path"].split(",")[0]) and not has_video_suffix(match["path"]):
            raise ValueError(
                f"{part.file}, row {len(found) + 1} ({line.strip()}): words and numbers behind the path; "
                "write a header that names the columns, such as path,label,votes"
            )
        found.append((match["path"].strip(), numbers))
    if all(len(numbers) == 1 and "," not in numbers[0] for _, numbers in found):
        return None
    is_frames = [not has_video_suffix(path) and len(numbers) > 1 for path, numbers in found]
    if any(is_frames) and not all(is_frames):
        other = is_frames.index(not is_frames[0])
        raise ValueError(
            f"{part.file}, row {other + 1} ({lines[other].strip()}): other rows are "
            f"{'`frame_dir total_frames label`' if is_frames[0] else '`path label`'}; use one form in a list"
        )
    if all(len(numbers) == 3 for _, numbers in found):
        _check_threes(part.file, [numbers for _, numbers in found], is_frames[0], is_spaced)
    labels = [
        tuple(",".join(numbers[is_dir:]).split(",")) for (_, numbers), is_dir in zip(found, is_frames, strict=True)
    ]
    kind: Task = "multilabel" if any(len(each) > 1 for each in labels) else "classify"
    return [
        Row(_path(path), each if kind == "multilabel" else each[0], part.split, file=part.file, line=line)
        for line, ((path, _), each) in enumerate(zip(found, labels, strict=True), start=1)
    ], kind


def _check_threes(file: Path, rows: Sequence[Sequence[str]], is_frames: bool, is_spaced: bool) -> None:
    """Raise ValueError where three numbers in every row may be a start, an end and a label."""
    if is_frames:
        raise ValueError(
            f"{file}: three numbers in every row, `frame_dir total_frames label label` or MMAction2's `frame_dir "
            "offset total_frames label`; write `frame_dir total_frames label,label`, or a header "
            "frame_dir,start_frame,end_frame,label"
        )
    if is_spaced and all(start.isdecimal() and end.isdecimal() and int(start) < int(end) for start, end, _ in rows):
        raise ValueError(
            f"{file}: three numbers in every row, `path start end label` or `path label label label`; write a header "
            "path,start_frame,end_frame,label, or commas between labels"
        )


def _table(
    part: Part,
    header: Sequence[str],
    table: Iterator[list[str]] | Sequence[list[str]],
    task: Task | None,
    first: int = 2,
) -> tuple[list[Row], Task]:
    places = _places(part.file, header)
    kind: Task = "classify"
    read = _one
    if "labels" in places:
        kind, read = "multilabel", _several
    elif places.keys() & set(BOX):
        needed = {*BOX, "frame" if "frame" in places else "time_s"}
        if absent := sorted(needed - places.keys()):
            raise ValueError(f"{part.file}: boxes need x1, y1, x2, y2 and time_s or frame; add {', '.join(absent)}")
        kind, read = "detect", _actor
        if "group" in places and spelled(header[places["group"]]) == "person_id":  # it numbers boxes
            del places["group"]
    elif task == "frames":
        read = _span
    rows = []
    for line, cells in enumerate(table, start=first):
        values = {name: cells[place].strip() for name, place in places.items() if place < len(cells)}
        try:
            if any(map(str.strip, cells[len(header) :])):
                raise ValueError("more cells than the header has; put what holds a separator in quotes")
            rows.append(read(values, part, line))
        except ValueError as error:
            told = " | ".join(cells).replace("\n", " ")
            raise ValueError(f"{part.file}, row {line} ({told}): {error}") from None
    if kind == "detect":
        return actors(rows), kind
    if kind == "classify" and _are_several([row.label for row in rows if row.label]):
        return [row._replace(label=_names(row.label or "")) for row in rows], "multilabel"
    if task == "frames" and kind == "classify":
        return _spans(part.file, rows), task
    return rows, kind


def _are_several(labels: Sequence[str]) -> bool:
    """Whether these are numbers, of which some videos have several, `"1,5"` in the quotes of a csv, or are lists."""
    if any("," in label for label in labels) and all(re.fullmatch(_NUMBERS, label) for label in labels):
        return True
    return bool(labels) and all(map(_LISTED.fullmatch, labels))


def _names(told: str) -> tuple[str, ...]:
    """The labels of a cell that may hold several."""
    if _LISTED.fullmatch(told):
        try:
            items = json.loads(told)
        except ValueError:  # of Python or numpy
            items = [re.sub(r"\\(.)", r"\1", each[1:-1]) for each in _QUOTED.findall(told)] or re.findall(r"\d+", told)
        return tuple(filter(None, (str(item).strip() for item in items)))
    if told.startswith("[") and told.endswith("]"):
        if set(told) & set("'\""):
            raise ValueError("no list of names or of numbers; write these between semicolons")
        told = told[1:-1].strip()
    return tuple(filter(None, _MANY.split(told)))


def _places(file: Path, header: Sequence[str]) -> dict[str, int]:
    """Column of each thing that a header names."""
    places: dict[str, int] = {}
    sure = {column(cell) for cell in header if is_sure(cell)}
    if any(pair <= sure for pair in EXTENTS.values()):  # then starts and ends of other names are other things
        sure.update(*EXTENTS.values())
    for place, cell in enumerate(header):
        name = column(cell)
        if cell.strip().lower() in ("start", "end"):
            raise ValueError(
                f"{file}: column {cell.strip()} of frames or seconds? name it {cell.strip()}_frame or {cell.strip()}_s"
            )
        if name in sure and not is_sure(cell):
            continue
        if name in places:
            raise ValueError(f"{file}: columns {header[places[name]]} and {cell} are both the {name}; rename one")
        if name:
            places[name] = place
    if "label" in places and "labels" in places:
        raise ValueError(f"{file}: columns {header[places['label']]} and {header[places['labels']]}; rename one")
    frames, seconds = (places.keys() & pair for pair in EXTENTS.values())
    named = ", ".join(header[place].strip() for name, place in places.items() if name in frames | seconds)
    if len(frames) == len(seconds) == 2:
        log.warning("%s: columns of frames and of seconds (%s); frames are read", file, named)
        return {name: place for name, place in places.items() if name not in seconds}
    if frames and seconds:
        raise ValueError(f"{file}: columns of frames and of seconds ({named}); keep the one or the other")
    if len(frames | seconds) < 2:
        _check_extent(file, header, places)
    return places


def _check_extent(file: Path, header: Sequence[str], places: Mapping[str, int]) -> None:
    """Raise ValueError where a table without both ends of its samples has a column that may be one."""
    pair = next((pair for pair in EXTENTS.values() if pair & places.keys()), frozenset())
    known = [header[places[name]] for name in pair & places.keys()]
    for cell in header:
        if may_be_end(cell) and not column(cell):
            raise ValueError(
                f"{file}: column {cell.strip()} may be a start or an end of samples; name it start_frame, end_frame, "
                "start_s or end_s (begin, first, onset; stop, last, offset; frames, sec, time, timestamp are known "
                "too), or something else if it is neither"
            )
        is_length = may_be_length(cell) and not column(cell)
        if known and (is_length or (cell in known and not is_sure(cell))):
            (other,) = pair - places.keys()
            raise ValueError(
                f"{file}: column {known[0].strip()} without the other end; write a column {other}"
                + (f" in place of {cell.strip()}" if is_length else ", empty where none is meant")
            )


def _spans(file: Path, rows: Sequence[Row]) -> list[Row]:
    """One row a video, with the parts that its rows name."""
    videos: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        if row.label and row.end is None:
            raise ValueError(
                f"{file}, row {row.line} ({row.video}): no end; the task frames needs the part of each label"
            )
        videos[row.video, row.split].append(row)
    found = []
    for each in videos.values():
        spans = [row for row in each if row.label]
        label = tuple((row.start, row.end, row.label) for row in spans)
        found.append((spans or each)[0]._replace(label=label, start=0, end=None))
    return found


def _row(values: dict[str, str], label: Any, part: Part, line: int) -> Row:
    if not values.get("path") or not (label or label is None or "labels" in values):
        raise ValueError("no path or no label")
    path = _path(values["path"])
    if len(values) == 2:
        return Row(path, label, part.split, file=part.file, line=line)
    start, end, unit = _extent(values)
    split = _split(values, part)
    group, fold = values.get("group", ""), fold_of(values.get("fold", ""))
    return Row(path, label, split, start, end, unit, None, group, _fps(values), part.file, line, fold=fold)


def _split(values: dict[str, str], part: Part) -> str | None:
    return split_of(values.get("split", "")) or part.split


def _fps(values: dict[str, str]) -> float | None:
    fps = float(values.get("fps") or "nan")
    if fps <= 0:
        raise ValueError(f"fps {fps:g} must be above 0")
    return None if isnan(fps) else fps


def _path(told: str) -> str:
    """A path as it is written, on Windows too; `./a.mp4` is `a.mp4`, so that rows of one video are known to be that."""
    path = told.replace("\\", "/")
    return PurePosixPath(path).as_posix() if "./" in path or "//" in path else path  # which takes its time


def _one(values: dict[str, str], part: Part, line: int) -> Row:
    """A video of one class; a row of test may have none, or -1, as challenges publish them."""
    label = values.get("label", "")
    is_secret = label in ("", "-1") and _split(values, part) == "test"
    return _row(values, None if is_secret else label, part, line)


def _span(values: dict[str, str], part: Part, line: int) -> Row:
    """A stretch of a video; where label, start and end are empty, a video in which nothing is seen."""
    told = any(values.get(name) for name in ("label", "start_frame", "end_frame", "start_s", "end_s"))
    return _row(values, values.get("label", "") if told else None, part, line)


def _several(values: dict[str, str], part: Part, line: int) -> Row:
    return _row(values, _names(values.get("labels", "")), part, line)


def _actor(values: dict[str, str], part: Part, line: int) -> Row:
    """A box and its class; where both are empty, a moment in which nobody is seen."""
    is_told = any(values.get(name) for name in ("label", *BOX))
    label = ((box(values[name] for name in BOX), (values["label"],)),) if values.get("label") else ()
    moment = float(values["frame" if "frame" in values else "time_s"])
    if not moment >= 0:
        raise ValueError(f"moment {moment:g} is before the video")
    row = _row(values, label if is_told else None, part, line)
    return row._replace(label=label, moment=moment, unit="frames" if "frame" in values else "s")


def _extent(values: dict[str, str]) -> tuple[float, float | None, Unit]:
    start_s, end_s = values.get("start_s"), values.get("end_s")
    if start_s or end_s:
        first, last = _seconds(start_s or "0"), _seconds(end_s) if end_s else None
        if not first >= 0 or (last is not None and not last > first):
            raise ValueError(f"seconds [{start_s or 0}, {end_s}) are none")
        return first, last, "s"
    start = _frame(values.get("start_frame") or "0")
    end = _frame(values["end_frame"]) if values.get("end_frame") else None
    if start < 0 or (end is not None and end <= start):
        raise ValueError(f"frames [{start}, {end}) are none")
    return start, end, "frames"


def _number(told: str) -> float:
    try:
        return float(told)
    except ValueError:
        raise ValueError(f"{told!r} is no number; write one, seconds as 61.5") from None


def _seconds(told: str) -> float:
    """Seconds, also of a timestamp: 00:01:01.5 as 61.5."""
    if clock := _CLOCK.fullmatch(told):
        return 3600 * int(clock[1]) + 60 * int(clock[2]) + float(clock[3])
    return _number(told)


def _frame(told: str) -> int:
    """The number of a frame; where a column has gaps, pandas writes it as 3.0."""
    number = _number(told)
    if not number.is_integer():
        raise ValueError(f"frame {told} is no whole number")
    return int(number)


LAYOUTS = (
    Layout(_is_named, read_lists),
    Layout(is_table, read_lists),
    Layout(_is_likely, read_lists),
    Layout(_is_list, read_lists, is_loose=True),
)
