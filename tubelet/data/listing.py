"""A data set as one list, with a header, that `open_data` reads back."""

from __future__ import annotations

import csv
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from ..machine import aside
from .layouts import open_data
from .layouts.classes import own_classes
from .sample import Actor, Sample, Span, VideoData

_BOX = ("x1", "y1", "x2", "y2")


def write_list(path: str | os.PathLike, data: VideoData) -> Path:
    """Write the samples of a data set as a csv: path, label, split, and what else its task needs.

    Paths below the list's folder are written relative to it. Where a reader cannot find the order of the classes, what
    they become in a mirror, or which are evaluated, a class file of the list's own is written beside it:
    `x.classes.csv` of `x.csv`.

    Args:
        path: the list, ending in .csv; an existing one is replaced.
        data: any data set.

    Raises:
        ValueError: the list does not read back as the data set, since no list can hold it; what was there stays.
    """
    path = Path(path)
    rows = [row for split, samples in data.splits.items() for sample in samples for row in _rows(data, split, sample)]
    columns = [name for name in _COLUMNS if any(row.get(name, "") != "" for row in rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    classes = own_classes(path)
    with _restored(path, classes):
        _write(path, columns, ({name: _told(value, path.parent) for name, value in row.items()} for row in rows))
        reason = difference(path, data)
        if reason:
            extra = ["evaluated"] if data.evaluated else []
            _write(classes, ["name", "mirrored", "reversed", *extra], _class_rows(data))
            reason = difference(path, data)
        if reason:
            raise ValueError(f"{path}: no list holds this data set ({reason})")
    return path


@contextmanager
def _restored(*files: Path) -> Iterator[None]:
    """Work on files; where it fails or is interrupted, they are what they were before."""
    before = {file: file.read_bytes() if file.is_file() else None for file in files}
    try:
        yield
    except BaseException:
        for file, held in before.items():
            if held is None:
                file.unlink(missing_ok=True)
            else:
                file.write_bytes(held)
        raise


def difference(path: Path, data: VideoData) -> str:
    """In what a folder or a list differs from a data set when `open_data` reads it; nothing if in nothing."""
    try:
        with silence():
            found = open_data(path, task=data.task)
    except ValueError as error:
        return str(error)
    for name in ("classes", "task", "mirrored", "reversed", "evaluated", "is_volume", "ignored"):
        if getattr(found, name) != getattr(data, name):
            return f"{name}: {getattr(found, name)} for {getattr(data, name)}"[:200]
    for split in {**found.splits, **data.splits}:
        theirs, ours = (Counter(map(_key, each.splits.get(split, ()))) for each in (found, data))
        if different := (ours - theirs) + (theirs - ours):
            return f"{different.total()} samples of {split}, such as of {next(iter(different))[0]}"
    return ""


@contextmanager
def silence() -> Iterator[None]:
    """While it lasts the log is still: what reading says of a data set was said when it was first read."""
    log = logging.getLogger("tubelet")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _key(sample: Sample) -> tuple:
    own: Any = sample.target
    is_one = isinstance(own, int | Path)
    target = (os.path.realpath(own) if isinstance(own, Path) else own,) if is_one else tuple(sorted(own))
    extent = sample.start, sample.end, sample.moment
    # of a whole video nothing is counted in the unit
    is_counted = extent != (0, None, None) or any(isinstance(each, Span) for each in target)
    unit = sample.unit if is_counted else ""
    return os.path.realpath(sample.path), target, *extent, unit, sample.group, sample.more, sample.fps


_COLUMNS = (
    "path", "image", "label", "labels", "split", "group", "start_frame", "end_frame", "start_s", "end_s", "frame",
    "time_s", "fps", *_BOX,
)  # fmt: skip


def _rows(data: VideoData, split: str, sample: Sample) -> Iterator[dict[str, Any]]:
    """The rows of one sample: one, or one a span or an actor's class."""
    unit = "frame" if sample.unit == "frames" else "s"
    kind = "image" if data.is_volume else "path"
    row: dict[str, Any] = {kind: sample.path, "split": split, "group": sample.group, "fps": sample.fps or ""}
    target = cast(Any, sample.target)
    if data.task == "segment":
        yield {**row, "label": target}
        return
    if data.task != "frames":
        row[f"start_{unit}"] = sample.start or ""
        row[f"end_{unit}"] = "" if sample.end is None else sample.end
    if data.task == "classify":
        yield {**row, "label": data.classes[target]}
    elif data.task == "multilabel":
        yield {**row, "labels": ";".join(data.classes[name] for name in target)}
    elif data.task == "frames" and not target:
        yield row
    elif data.task == "frames":
        for span in cast("tuple[Span, ...]", target):
            yield {**row, "label": data.classes[span.target], f"start_{unit}": span.start, f"end_{unit}": span.end}
    else:
        row["frame" if unit == "frame" else "time_s"] = sample.moment
        if not target:
            yield row
        for actor in cast("tuple[Actor, ...]", target):
            for name in actor.targets:
                yield {**row, "label": data.classes[name], **dict(zip(_BOX, actor[:4], strict=True))}


def _class_rows(data: VideoData) -> Iterator[dict[str, str]]:
    """Names in order; `-` for a class that is none in the mirror, nothing where a map has no word of it."""

    def name(becomes: Mapping[int, int | None], index: int) -> str:
        if index not in becomes:
            return ""
        other = becomes[index]
        return "-" if other is None else data.classes[other]

    for index, own in enumerate(data.classes):
        yield {
            "name": own,
            "mirrored": name(data.mirrored, index),
            "reversed": name({**data.reversed}, index),
            "evaluated": "1" if index in data.evaluated else "",
        }


def _told(value: Any, folder: Path) -> Any:
    """A path relative to a folder that holds it, else absolute; what is none as it is."""
    if not isinstance(value, Path):
        return value
    full, home = whole(value), whole(folder)
    return str(full.relative_to(home) if full.is_relative_to(home) else full)


def whole(path: Path) -> Path:
    """An absolute path without dots in it."""
    return Path(os.path.normpath(path.absolute()))


def _write(path: Path, columns: list[str], rows: Any) -> None:
    with aside(path) as made, made.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
