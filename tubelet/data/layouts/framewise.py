"""A class for every frame: Breakfast, 50Salads and GTEA as MS-TCN has them (arXiv 1903.01945).

`groundTruth/<video>.txt` holds a class a line, `mapping.txt` `number class`, `splits/train.split1.bundle` file names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from .classes import read_classes
from .rows import Found, Row
from .text import read_lines, read_text

_BUNDLE = re.compile(r"(train|test)\.split(\d+)\.bundle")
# Breakfast P16_cam01_P16_cereals, 50Salads rgb-01-1, GTEA S1_Cheese_C1: the person is the group
_PERSON = re.compile(r"(P\d+)_.*|rgb-(\d+)-\d+|(S\d+)_.*")
_BREAKFAST = re.compile(r"(P\d+)_([a-z]+)(\d+)_(P\d+_\w+)")


def read(folder: Path, fold: int) -> Found | None:
    """A data set with a class for every frame, if a folder has `groundTruth`; None if it has not.

    Raises:
        ValueError: no such fold, a file that a split names is not there, or a class that `mapping.txt` has not.
    """
    truth = next((inner for inner in folder.iterdir() if inner.name.lower() == "groundtruth" and inner.is_dir()), None)
    if not truth:
        return None
    files = {file.stem: file for file in sorted(truth.glob("*.txt"))}
    mapping = folder / "mapping.txt"
    classes = read_classes(mapping).classes if mapping.exists() else None
    rows = []
    for split, video in _split(folder, fold) or ((None, video) for video in files):
        if video not in files:
            raise ValueError(f"{folder}: no {truth.name}/{video}.txt, which fold {fold} names; get the files again")
        rows.append(
            Row(_names(video), tuple(_spans(files[video], classes)), split, group=_group(video), file=files[video])
        )
    name = f"frame labels ({truth.name}" + (f", fold {fold})" if (folder / "splits").exists() else ")")
    return Found(name, folder, rows, task="frames", classes=classes, is_official=True)


def _split(folder: Path, fold: int) -> list[tuple[str, str]]:
    """(split, video) of a fold; nothing where there are no splits."""
    bundles = {
        (m[1], int(m[2])): file for file in sorted((folder / "splits").glob("*")) if (m := _BUNDLE.fullmatch(file.name))
    }
    folds = sorted({number for _, number in bundles})
    if bundles and fold not in folds:
        raise ValueError(f"{folder / 'splits'}: no fold {fold}; there is {', '.join(map(str, folds))}")
    return [
        (split, line.strip().removesuffix(".txt").rpartition("/")[2])
        for (split, number), file in bundles.items() if number == fold
        for line in read_lines(file)
    ]  # fmt: skip


def _spans(file: Path, classes: tuple[str, ...] | None) -> Iterator[tuple[int, int, str]]:
    """Runs of lines of one class, as [first frame, frame after the last)."""
    at = 0
    for name, run in groupby(line.strip() for line in read_text(file).rstrip().splitlines()):
        if not name or (classes and name not in classes):
            raise ValueError(f"{file}, row {at + 1} ({name}): no such class{' in mapping.txt' if classes else ''}")
        length = len(list(run))
        yield at, at + length, name
        at += length


def _group(video: str) -> str:
    found = _PERSON.fullmatch(video)
    return next(filter(None, found.groups())) if found else ""


def _names(video: str) -> tuple[str, ...]:
    """`P16_cam01_P16_cereals` is `P16/cam01/P16_cereals.avi`; of the two files of a stereo camera ch1 goes first."""
    found = _BREAKFAST.fullmatch(video)
    if not found:
        return (video,)
    person, camera, number, rest = found.groups()
    folder = f"{person}/stereo" if camera == "stereo" else f"{person}/{camera}{number}"
    return (video, f"{folder}/{rest}", f"{folder}/{rest}_ch1", f"{folder}/{rest}_ch0")
