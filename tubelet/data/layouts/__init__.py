"""Data sets on disk: which layout a path has, its samples and its classes.

Layouts, recognised without flags:

- a folder for each class, `videos/jump/a.mp4`, alone or under `train/` and `val/` (and `test/`);
- a list, `.csv`, `.tsv` or `.txt`: two columns `path label`, or a header with the columns of `COLUMNS`;
- a folder with `train.csv` and `val.csv` (or `.txt`, `.tsv`).

Without a validation part, a fifth of each class is set aside, the same one every time.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..sample import Sample, VideoData

SUFFIXES = frozenset({
    ".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv",
    ".ts", ".webm", ".wmv",
})  # fmt: skip
LISTS = frozenset({".csv", ".tsv", ".txt"})
SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "validate": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
COLUMNS = {
    "path": ("path", "file", "filename", "video", "video_path", "clip"),
    "label": ("label", "class", "target", "word", "class_name", "label_name"),
    "start": ("start_frame",),
    "end": ("end_frame",),
    "split": ("split", "subset", "set", "part"),
}
VAL_FRACTION = 0.2


def open_data(path: str | os.PathLike) -> VideoData:
    """Recognise the layout of a folder or a list and read which samples it names.

    Raises:
        ValueError: no such path, no videos, one class only, a class of the validation part that training lacks, a row
            that cannot be read, or a file that is not there; the message says what is wrong and what is accepted.
    """
    path = Path(path)
    if path.is_dir():
        lists = {SPLITS.get(file.stem.lower()): file for file in sorted(path.iterdir()) if file.suffix.lower() in LISTS}
        if "train" in lists:
            rows = [row for split, file in lists.items() if split for row in _read_list(file, split)]
        else:
            rows = list(_read_folder(path))
    elif not path.is_file():
        raise ValueError(f"{path}: no such folder or list of videos")
    elif path.suffix.lower() in LISTS:
        rows = list(_read_list(path))
    else:
        raise ValueError(f"{path}: one file of type {path.suffix or 'unknown'}; {_ACCEPTED}")
    return _collect(path, rows)


_ACCEPTED = (
    f"give a folder with a folder of videos for each class, or a list ({', '.join(sorted(LISTS))}) of `path label`"
)


class Row(NamedTuple):
    """One line of a list or one file of a folder."""

    split: str | None
    label: str
    path: Path
    start: int = 0
    end: int | None = None


def _read_folder(root: Path) -> Iterator[Row]:
    folders = {SPLITS.get(folder.name.lower()): folder for folder in _subfolders(root)}
    if "train" not in folders:
        folders = {None: root}
    for split, folder in folders.items():
        if split or folder is root:
            yield from _read_classes(folder, split)


def _read_classes(root: Path, split: str | None) -> Iterator[Row]:
    for folder in _subfolders(root):
        videos = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not videos:
            raise ValueError(f"{folder}: no videos ({' '.join(sorted(SUFFIXES))}); fill or remove the folder")
        for video in videos:
            yield Row(split, folder.name, video)


def _subfolders(root: Path) -> list[Path]:
    return [folder for folder in sorted(root.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]


def _read_list(file: Path, split: str | None = None) -> Iterator[Row]:
    """Rows of a list; `split` is that of the whole file, or None where a column may tell."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: no UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{file}: the list is empty")
    table = _columns(lines)
    header = [cell.strip().lower() for cell in table[0]]
    places = {
        name: next((header.index(alias) for alias in aliases if alias in header), None)
        for name, aliases in COLUMNS.items()
    }
    has_header = places["path"] is not None and places["label"] is not None
    if not has_header and len(header) != 2:
        known = ", ".join(f"{name} ({'|'.join(aliases)})" for name, aliases in COLUMNS.items())
        raise ValueError(
            f"{file}: {len(header)} columns and no header that names them; two columns are `path label`, "
            f"more need a header: {known}"
        )
    if not has_header:
        places = {"path": 0, "label": 1}
    for number, cells in enumerate(table[has_header:], start=1 + has_header):
        values = {
            name: cells[place].strip() for name, place in places.items() if place is not None and place < len(cells)
        }
        try:
            yield _row(values, file.parent, split)
        except ValueError as error:
            raise ValueError(f"{file}, row {number} ({' | '.join(cells)}): {error}") from None


def _row(values: dict[str, str], folder: Path, split: str | None) -> Row:
    if not values.get("path") or not values.get("label"):
        raise ValueError("no path or no label")
    told = values.get("split", "").lower()
    if told and told not in SPLITS:
        raise ValueError(f"split {told!r} is none of {', '.join(SPLITS)}")
    start = int(values.get("start") or 0)
    end = int(values["end"]) if values.get("end") else None
    if start < 0 or (end is not None and end <= start):
        raise ValueError(f"frames [{start}, {end}) are none")
    path = Path(values["path"])
    beside = folder / path
    return Row(split or SPLITS.get(told), values["label"], beside if beside.exists() else path, start, end)


def _column(cell: str) -> str | None:
    """The column that a cell of a header names."""
    return next((name for name, aliases in COLUMNS.items() if cell.strip().lower() in aliases), None)


def _columns(lines: list[str]) -> list[list[str]]:
    """Cells of each line, by the separator that gives every line as many (at least two)."""
    for separator in "\t,;":
        table = list(csv.reader(lines, delimiter=separator))
        is_header = {"path", "label"} <= {_column(cell) for cell in table[0]}
        if len(table[0]) > 1 and (is_header or len({len(cells) for cells in table}) == 1):
            return table
    quoted = list(csv.reader(lines, delimiter=" ", skipinitialspace=True))
    if all(len(cells) == 2 for cells in quoted):
        return quoted
    # bare paths may hold spaces, labels of such lists do not
    return [line.rsplit(maxsplit=1) for line in lines]


def _collect(root: Path, rows: Sequence[Row]) -> VideoData:
    if not rows:
        raise ValueError(f"{root}: no videos; {_ACCEPTED}")
    labels = {label for _, label, *_ in rows}
    is_numbered = all(label.isdecimal() for label in labels)
    classes = tuple(sorted(labels, key=int) if is_numbered else sorted(labels))
    if len(classes) == 1:
        raise ValueError(f"{root}: one class only ({classes[0]}); a classifier needs at least two")
    targets = {name: number for number, name in enumerate(classes)}
    splits: dict[str, list[Sample]] = defaultdict(list)
    for split, label, path, start, end in rows:
        splits[split or "train"].append(Sample(path, targets[label], start, end))
    if missing := [sample.path for samples in splits.values() for sample in samples if not sample.path.exists()]:
        raise ValueError(f"{root}: {len(missing)} of {len(rows)} files are not there, first {missing[0]}")
    if not splits.get("train"):
        return VideoData(classes, dict(splits))
    if "val" not in splits:
        splits["train"], splits["val"] = _set_aside(splits["train"], classes, root)
    taught = {sample.target for sample in splits["train"]}
    if unknown := sorted({classes[s.target] for s in splits["val"] if s.target not in taught}):
        raise ValueError(f"{root}: no training video for {', '.join(unknown[:5])}, which validation has")
    return VideoData(classes, dict(splits))


def _set_aside(samples: list[Sample], classes: Sequence[str], root: Path) -> tuple[list[Sample], list[Sample]]:
    """Training and validation parts: of each class, the fifth whose names hash lowest.

    A hash of the name, so that adding videos moves few of the others; all samples of one file stay together.
    """

    def rank(path: Path) -> tuple[str, Path]:
        # the path settles ties: a set of strings has another order in each process
        return hashlib.sha256(path.name.encode()).hexdigest(), path

    by_class: dict[int, set[Path]] = defaultdict(set)
    owner: dict[Path, int] = {}
    for sample in samples:
        by_class[owner.setdefault(sample.path, sample.target)].add(sample.path)
    aside: set[Path] = set()
    for target, paths in by_class.items():
        if len(paths) < 2:
            path = next(iter(paths))
            raise ValueError(
                f"{root}: one video only ({path}) for class {classes[target]}, so none is left to validate on; "
                "add videos or give a validation part"
            )
        aside |= set(sorted(paths, key=rank)[: max(1, round(VAL_FRACTION * len(paths)))])
    return [s for s in samples if s.path not in aside], [s for s in samples if s.path in aside]
