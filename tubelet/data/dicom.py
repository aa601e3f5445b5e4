"""DICOM series: which slices of a folder belong together, in which order, and where they lie. Arithmetic, no files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .grid import Grid, VolumeError

__all__ = ["THICKNESS", "Slice", "choose", "holds_image", "in_order", "thickness_mm"]

THICKNESS = ("0018|0088", "0018|0050")  # SpacingBetweenSlices, SliceThickness: the first that is there counts

# Positions are written with a few decimals: steps from one slice to the next differ by as much of the middle one.
_UNEVEN = 0.2
# Slices of one scan lie this exactly above one another, and along the same directions.
_ASIDE_MM = 0.1
_TURNED = 1e-3


# Kinds of objects (DICOM PS3.4, B.5) that hold no image: waveforms, presentation states, registrations, raw data,
# reports, documents, and of radiotherapy structures, plans and records.
_OBJECTS = b"1.2.840.10008.5.1.4.1.1."
_NO_IMAGE = re.compile(rb"(9|11|88|104)\..*|66(\.[12356])?|481\.[3-9]")


class Slice(NamedTuple):
    """What the header of one file tells.

    Attributes:
        path: the file.
        series: SeriesInstanceUID.
        description: SeriesDescription, perhaps empty.
        grid: of its one slice, or of its frames.
    """

    path: Path
    series: str
    description: str
    grid: Grid

    @property
    def position_mm(self) -> float:
        """Of its first voxel along the direction in which the slices are stacked."""
        return float(self.grid.steps[:, 0] @ self.grid.origin_mm)


def holds_image(begin: bytes) -> bool:
    """Whether a DICOM file can hold an image, by its kind (Media Storage SOP Class UID, in its first KiB)."""
    place = begin.find(b"\2\0\2\0UI")
    if place < 0:
        return True
    length = int.from_bytes(begin[place + 6 : place + 8], "little")
    uid = begin[place + 8 : place + 8 + length].rstrip(b"\0 ")
    return not (uid.startswith(_OBJECTS) and _NO_IMAGE.fullmatch(uid.removeprefix(_OBJECTS)))


def thickness_mm(tags: Mapping[str, str]) -> float | None:
    """Of a slice, from what stands in its header under the names in `THICKNESS`; None where nothing above 0 does."""
    for tag in THICKNESS:
        with suppress(ValueError):
            if 0 < (value := float(tags.get(tag, ""))) < float("inf"):
                return value
    return None


def choose(slices: Sequence[Slice], folder: Path, series: str | None) -> list[Slice]:
    """The slices of the one series of a folder, or of that which is asked for.

    Raises:
        VolumeError: there are several, or not that one; the message lists them.
    """
    by_series: dict[str, list[Slice]] = defaultdict(list)
    for one in slices:
        by_series[one.series].append(one)
    if series is None and len(by_series) == 1:
        return list(slices)
    if series in by_series:
        return by_series[series]
    told = "; ".join(
        f"{name} ({each[0].description or 'no description'}, {len(each)} files of "
        f"{'x'.join(map(str, each[0].grid.size[1:]))})"
        for name, each in sorted(by_series.items())
    )
    what = f"{len(by_series)} series" if series is None else f"no series {series}"
    raise VolumeError(f"{folder}: {what}; pass series=... (--series) with the id of one: {told}")


def in_order(slices: Sequence[Slice], folder: Path) -> tuple[list[Slice], Grid]:
    """Slices of one series by their position, whatever the files are called, and the grid that they make.

    Raises:
        VolumeError: they differ in size, spacing or direction, two lie at one place, one is missing, they are not
            evenly apart, or they do not lie straight above one another (a tilted gantry).
    """
    first = slices[0]
    for one in slices[1:]:
        for what, ours, theirs in (
            ("voxels (height, width)", first.grid.size[1:], one.grid.size[1:]),
            ("spacing (height, width)", first.grid.spacing_mm[1:], one.grid.spacing_mm[1:]),
            ("direction", first.grid.direction, one.grid.direction),
        ):
            if not np.allclose(ours, theirs, rtol=0, atol=_TURNED):
                raise VolumeError(
                    f"{folder}: {first.path.name} has {what} {ours}, {one.path.name} {theirs}: no one volume; "
                    "move what does not belong to it elsewhere"
                )
        if one.grid.size[0] > 1 or first.grid.size[0] > 1:
            raise VolumeError(
                f"{folder}: {one.path.name} and {first.path.name} are of one series, and one of them holds several "
                "slices; read that file alone"
            )
    if len(slices) == 1:
        return [first], first.grid
    placed = sorted(slices, key=lambda one: one.position_mm)
    positions = np.array([one.position_mm for one in placed])
    gaps = np.diff(positions)
    step = float(np.percentile(gaps, 50, method="lower"))  # the larger of two may be a gap
    for number, gap in enumerate(gaps):
        before, after = placed[number], placed[number + 1]
        where = f"{before.path.name} at {positions[number]:.2f} mm and {after.path.name} at {positions[number + 1]:.2f}"
        if gap < _TURNED:
            raise VolumeError(f"{folder}: {where} mm lie at the same place; keep one of each, or split the phases")
        if gap > step * (1 + _UNEVEN):
            raise VolumeError(
                f"{folder}: {round(gap / step) - 1 or 'less than one'} missing between {where} mm, where slices are "
                f"{step:.2f} mm apart; bring the missing files, or take away those on one side of the gap"
            )
        if gap < step * (1 - _UNEVEN):
            raise VolumeError(f"{folder}: {where} mm are {gap:.2f} mm apart, others {step:.2f}; take one of them away")
    step = float(positions[-1] - positions[0]) / len(gaps)
    lowest = placed[0].grid
    grid = Grid((len(placed), *lowest.size[1:]), (step, *lowest.spacing_mm[1:]), lowest.origin_mm, lowest.direction)
    for number, one in enumerate(placed):
        off = float(np.linalg.norm(grid.at((number, 0, 0)) - one.grid.origin_mm))
        if off > max(_ASIDE_MM, _UNEVEN * step):
            raise VolumeError(
                f"{folder}: {one.path.name} lies {off:.2f} mm from where the slices around it lead: unevenly apart or "
                "taken with a tilted gantry; resample the series to a straight grid first"
            )
    return placed, grid
