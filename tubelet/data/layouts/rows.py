"""What a layout reads out of its annotation: rows, with class names and videos as they are written there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..sample import Task, Unit
from .text import LISTS, SPLITS, Part

Box = tuple[float, float, float, float]  # x1, y1, x2, y2, fractions of the frame

ACCEPTED = (
    f"give a folder with a folder of videos for each class, or a list ({', '.join(sorted(LISTS))}) of `path label`, "
    "or a .npz of volumes as MedMNIST has them; scans (NIfTI, NRRD, MHA, DICOM series) in `images/` with masks of the "
    "same names in `labels/`, or in a folder for each class"
)


class Row(NamedTuple):
    """One sample as its annotation has it.

    Attributes:
        video: a file or folder that is there; a path as it is written; or the names, best first, by one of which the
            video is looked for, whatever its ending, where a `/` names its folders too.
        label: by the task a class name; all names; (start, end, name) of each span; (box, names) of each actor.
        split: train, val, test, or None where nothing says so.
        start: as in `Sample`; so are end, unit, moment, group and fps.
        file: the annotation.
        line: of the row there, 0 where it has no lines.
        title: as in `Sample`.
        fold: in which it validates; None where nothing says so.
    """

    video: Path | str | tuple[str, ...]
    label: Any
    split: str | None = None
    start: float = 0
    end: float | None = None
    unit: Unit = "frames"
    moment: float | None = None
    group: str = ""
    fps: float | None = None
    file: Path = Path()
    line: int = 0
    title: str = ""
    fold: int | None = None

    @property
    def where(self) -> str:
        """File and line, for a reader."""
        return self.file.name + (f", row {self.line}" if self.line else "")


@dataclass(frozen=True)
class Found:
    """What a layout read.

    Attributes:
        layout: its name, and the files it was read from.
        home: folder of the annotation, beside which the videos lie.
        rows: the samples.
        task: what a label is.
        classes: all names in order; None: those of a class file beside the annotation, or the sorted names of the rows.
        is_official: a published list: videos that are not there are counted and left out.
        cut_s: seconds of a video that its folder of frames, or its cut copy, leaves out at the start.
        evaluated: names of the classes that the data set's own measure counts; empty means all.
        is_volume: the third axis is a depth: backwards is one more mirror, in which a class is what it is in the other.
    """

    layout: str
    home: Path
    rows: Sequence[Row]
    task: Task = "classify"
    classes: tuple[str, ...] | None = None
    is_official: bool = False
    cut_s: float = 0
    evaluated: tuple[str, ...] = ()
    is_volume: bool = False


class Layout(NamedTuple):
    """One way to annotate.

    Attributes:
        fits: whether an annotation file, given its beginning, is of this kind.
        read: what the files of one kind say; the task where one is asked for.
        is_loose: fits so much that it counts for a file that is given, and for none that only lies in a folder.
    """

    fits: Callable[[Path, str], bool]
    read: Callable[[Sequence[Part], Task | None], Found]
    is_loose: bool = False


def split_of(told: str) -> str | None:
    """The split that a cell says.

    Raises:
        ValueError: it is no split.
    """
    if told and told.lower() not in SPLITS:
        raise ValueError(f"split {told!r} is none of {', '.join(SPLITS)}")
    return SPLITS.get(told.lower())


def fold_of(told: str) -> int | None:
    """The fold that a cell says.

    Raises:
        ValueError: it is no number of one.
    """
    number = told.removesuffix(".0")  # where a row has none, pandas writes numbers so
    if number and not number.isdecimal():
        raise ValueError(f"fold {number!r} is no whole number from 0")
    return int(number) if number else None


def box(cells: Iterable[str]) -> Box:
    """Four cells as x1, y1, x2, y2.

    Raises:
        ValueError: they are no fractions of the frame, or no box.
    """
    x1, y1, x2, y2 = map(float, cells)
    if not (0 <= x1 <= 1 and 0 <= x2 <= 1 and 0 <= y1 <= 1 and 0 <= y2 <= 1):
        raise ValueError("a box is x1, y1, x2, y2 in fractions of the frame, 0 to 1; divide pixels by width and height")
    if x2 <= x1 or y2 <= y1:
        raise ValueError("the box is empty; x1, y1 is its upper left corner and x2, y2 the lower right one")
    return x1, y1, x2, y2


def actors(rows: Iterable[Row]) -> list[Row]:
    """One row for each moment of a video, out of rows that have one box and one class each."""
    moments: dict[tuple, tuple[Row, dict[Box, list[str]]]] = {}
    for row in rows:
        _, boxes = moments.setdefault((row.video, row.moment, row.split), (row, {}))
        for place, names in row.label:
            boxes.setdefault(place, []).extend(names)
    return [
        row._replace(label=tuple((place, tuple(dict.fromkeys(names))) for place, names in boxes.items()))
        for row, boxes in moments.values()
    ]
