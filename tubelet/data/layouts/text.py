"""Annotation files as text: reading them, and what their names say of splits."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

# of these `.webp` alone may be a still picture too, see `places.is_video`
SUFFIXES = frozenset({
    ".3gp", ".asf", ".avi", ".flv", ".gif", ".h264", ".m2ts", ".m2v", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
    ".mts", ".ogv", ".ts", ".vob", ".webm", ".webp", ".wmv",
})  # fmt: skip
LISTS = frozenset({".csv", ".tsv", ".txt"})
SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "validate": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
# columns of paths and of groups where no other is one
OTHER_PATHS = ("file_path", "filepath", "clip_path", "video_name")
OTHER_GROUPS = ("participant", "participant_id", "subject_id", "person_id", "patient_id")
# Words of a start and an end and of their units: one of each, in either order, name a column too.
_ENDS = {"start": ("start", "begin", "first", "onset"), "end": ("end", "stop", "last", "offset")}
_SECONDS = ("s", "sec", "secs", "second", "seconds")
_UNITS = {
    "frame": ("frame", "frames"),
    "s": (*_SECONDS, "t", "time", "timestamp", *(f"time_{unit}" for unit in _SECONDS)),
}
EXTENTS = {unit: frozenset({f"start_{unit}", f"end_{unit}"}) for unit in _UNITS}
COLUMNS = {
    "path": ("path", "file", "filename", "video", "video_path", "clip", "video_id", "frame_dir", *OTHER_PATHS),
    "label": ("label", "class", "target", "word", "class_name", "label_name"),
    "labels": ("labels", "classes", "targets", "tags", "actions"),
    "start_frame": ("start_frame",),
    "end_frame": ("end_frame",),
    "start_s": ("start_s", "start_time", "time_start", "start_sec", "start_seconds"),
    "end_s": ("end_s", "end_time", "time_end", "end_sec", "end_seconds"),
    "split": ("split", "subset", "set", "part"),
    "fold": ("fold",),
    "group": ("group", "source", "person", "patient", "subject", *OTHER_GROUPS),
    "frame": ("frame",),
    "fps": ("fps",),
    "time_s": ("time_s", "timestamp"),
    "x1": ("x1",), "y1": ("y1",), "x2": ("x2",), "y2": ("y2",),
}  # fmt: skip
HEAD = 4096  # bytes that tell a layout
_EXCEL = re.compile(r'\A"?sep=."?[\r\n]+', re.IGNORECASE)  # a first line that tells Excel the separator
_SPLIT = re.compile(
    rf"(?<![A-Za-z])({'|'.join(SPLITS)})(?=(?:list|split|set|file)?(?![A-Za-z]))", re.IGNORECASE
)  # a word, or the beginning of one such as `trainlist`
_COLUMN = {alias: name for name, aliases in COLUMNS.items() for alias in aliases}
_OTHER_COLUMN = {
    spelled: f"{end}_{unit}"
    for end, words in _ENDS.items()
    for unit, names in _UNITS.items()
    for word in words
    for name in names
    for spelled in (f"{word}_{name}", f"{name}_{word}", *([f"{word}{name}"] if len(name) > 1 else ()))
}
_UNIT = rf"(?:{'|'.join(name for names in _UNITS.values() for name in names)}|ms|idx|index|f)"
_MAY_BE_END = re.compile(
    rf"(?:.*_)?(?:start.*|(?:begin|stop|end|onset|offset){_UNIT}?(?:_.*)?)"
    rf"|(?:{_UNIT}_)?(?:from|to|first|last)(?:_{_UNIT})?"
)
_LENGTHS = frozenset({"duration", "length", "len", "frames"})


class Part(NamedTuple):
    """An annotation file, and the split that its name says."""

    file: Path
    split: str | None


def read_text(file: Path) -> str:
    """All of a file, without a first line `sep=;`.

    Raises:
        ValueError: it is no UTF-8.
    """
    try:
        return _EXCEL.sub("", file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: no UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None


def read_lines(file: Path) -> list[str]:
    """The lines of a file that hold anything."""
    return lines_in(read_text(file))


def lines_in(text: str) -> list[str]:
    """The lines of a text that hold anything.

    Of Unicode's other line ends (U+0085, U+2028, ...) none ends a row: in captions from the web they stand in cells.
    """
    return [line for line in re.split(r"\r\n?|\n", text) if line.strip()]


def cells_of(lines: Iterable[str], separator: str = ",", *, skips_space: bool = False) -> Iterator[list[str]]:
    """Cells of the rows of a csv; a cell in quotes keeps the ends of its lines."""
    return csv.reader((f"{line}\n" for line in lines), delimiter=separator, skipinitialspace=skips_space)


def read_json(file: Path) -> Any:
    """What a json file holds.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}, line {error.lineno}: no json ({error.msg}); get the file again") from None


def head(file: Path) -> str:
    """The beginning of a file, by which its layout is recognised."""
    with file.open("rb") as stream:
        return _EXCEL.sub("", stream.read(HEAD).decode("utf-8-sig", errors="replace"))


def column(cell: str) -> str | None:
    """The column of `COLUMNS` that a cell of a header names; "Start Frame", start-frame and startFrame are one."""
    name = spelled(cell)
    return _COLUMN.get(cell.strip().lower()) or _COLUMN.get(name) or _OTHER_COLUMN.get(name)


def is_sure(cell: str) -> bool:
    """Whether a cell of a header names its column as `COLUMNS` does; other cells count where none does."""
    name = cell.strip().lower()
    return name in _COLUMN and name not in OTHER_PATHS + OTHER_GROUPS


def may_be_end(cell: str) -> bool:
    """Whether a cell of a header looks like a start or an end of samples."""
    return bool(_MAY_BE_END.fullmatch(spelled(cell)))


def may_be_length(cell: str) -> bool:
    """Whether a cell of a header looks like a length of samples or of videos."""
    return not _LENGTHS.isdisjoint(spelled(cell).split("_"))


def spelled(cell: str) -> str:
    """A cell of a header in lower case, with underscores between its words."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cell)
    return re.sub(r"[\s_()\[\]-]+", "_", words).strip("_").lower()


def has_video_suffix(name: str) -> bool:
    """Whether a name ends as a video does."""
    stem, dot, ending = name.rpartition(".")
    return bool(stem) and f"{dot}{ending.lower()}" in SUFFIXES


def without_suffix(name: str) -> str:
    """A name without the ending of a video, or both of what downloaders call `x.mp4.mkv`."""
    while has_video_suffix(name):
        name = name.rpartition(".")[0]
    return name


def kin(name: str) -> tuple[str, str | None]:
    """What the annotation files of one kind have in common, and the split that this name says, if it says one.

    `ava_train_v2.2.csv` and `ava_val_v2.2.csv` are kin, and so are `train.csv` and `val.txt`, and `trainlist.txt` and
    `testlist.txt`.
    """
    stem, suffix = Path(name).stem.lower(), Path(name).suffix.lower()
    if stem in SPLITS and suffix in LISTS:
        return "*", SPLITS[stem]
    found = list(_SPLIT.finditer(name))
    if len({SPLITS[word[0].lower()] for word in found}) != 1:
        return name.lower(), None
    word = found[0]
    return f"{name[: word.start()]}*{name[word.end() :]}".lower(), SPLITS[word[0].lower()]


def families(files: Iterable[Path]) -> dict[tuple[Path, str], list[Part]]:
    """Annotation files by folder and kin, in the order train, val, test.

    Raises:
        ValueError: two of one kin say the same split.
    """
    found: dict[tuple[Path, str], list[Part]] = {}
    for file in sorted(files):
        name, split = kin(file.name)
        found.setdefault((file.parent, name), []).append(Part(file, split))
    order = ("train", "val", "test", None)
    for parts in found.values():
        parts.sort(key=lambda part: order.index(part.split))
        for one, other in pairwise(parts):
            if one.split == other.split:
                raise ValueError(f"{one.file} and {other.file.name} both say {one.split}; remove or rename one")
    return found


def names_of(parts: Iterable[Part]) -> str:
    """The names of files, for a reader."""
    return ", ".join(part.file.name for part in parts)
