"""DICOM: which slices of a folder or frames of a file belong together, in which order, and where. No files."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .grid import Grid, VolumeError

__all__ = [
    "SPACING",
    "THICKNESS",
    "Slice",
    "check_spacing",
    "choose",
    "frames_in_order",
    "holds_image",
    "in_order",
    "is_enhanced",
    "rescales",
    "thickness_mm",
]

SPACING = "0028|0030"  # PixelSpacing
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
# CT, MR, PET and X-ray 3D in many frames: ITK applies the rescale of the first to all.
_ENHANCED = re.compile(r"(2\.[12]|4\.[14]|13\.1\.[12]|128\.1|130)")
_SAVED = "save them as single slices or NIfTI"


class Slice(NamedTuple):
    """What the header of one file tells.

    Attributes:
        path: the file.
        series: SeriesInstanceUID.
        description: SeriesDescription, perhaps empty.
        grid: of its one slice, or of its frames.
        spacing: PixelSpacing as it stands there, perhaps empty.
    """

    path: Path
    series: str
    description: str
    grid: Grid
    spacing: str = ""

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


def check_spacing(stored: str, path: Path) -> None:
    """Refuse a PixelSpacing that is there and not above 0: ITK takes 1 mm in its place, without a word.

    Raises:
        VolumeError: it is no finite number above 0.
    """
    numbers = _numbers({SPACING: stored}, SPACING, stored.count("\\") + 1)
    if stored and (numbers is None or min(numbers) <= 0):
        raise VolumeError(f"{path}: spacing {stored} mm (PixelSpacing); each must be above 0: correct its header")


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
        VolumeError: a spacing is not above 0, they differ in size, spacing or direction, two lie at one place, one is
            missing, they are not evenly apart, or they do not lie straight above one another (a tilted gantry).
    """
    for one in slices:
        check_spacing(one.spacing, one.path)
    first = slices[0]
    for one in slices[1:]:
        for what, ours, theirs in (
            ("voxels (height, width)", first.grid.size[1:], one.grid.size[1:]),
            ("spacing (height, width)", first.grid.spacing_mm[1:], one.grid.spacing_mm[1:]),
            ("direction", first.grid.direction, one.grid.direction),
        ):
            if not np.abs(np.subtract(ours, theirs)).max() <= _TURNED:
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
                f"{step:.2f} mm apart; bring what is missing, or take away those on one side of the gap"
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


def frames_in_order(frames: Sequence[Mapping[str, str]], path: Path) -> tuple[list[int], Grid | None]:
    """Frames of one file by their position, and the grid that they make, as if each were of one voxel.

    They stay in the order in which they are stored where their positions ascend or descend in it.

    Args:
        frames: what is told of each, under names such as 0020|0032.
        path: what errors call the file.

    Returns:
        The index of each frame, and None for a grid where no frame tells its position.

    Raises:
        VolumeError: as `in_order`; some frames do not tell where they lie.
    """
    if not any("0020|0032" in told for told in frames):
        return list(range(len(frames))), None
    slices = [_of_frame(told, number, path) for number, told in enumerate(frames, start=1)]
    _, grid = in_order(slices, path)
    order = sorted(range(len(slices)), key=lambda index: slices[index].position_mm)
    if order != list(range(len(slices)))[::-1]:
        return order, grid
    steps = grid.steps * (-1, 1, 1)
    grid = grid.moved(grid.size, grid.spacing_mm, (len(order) - 1, 0, 0))
    return order[::-1], dataclasses.replace(grid, direction=tuple(map(float, steps[:, ::-1].ravel())))


def rescales(frames: Sequence[Mapping[str, str]], path: Path) -> list[tuple[float, ...]] | None:
    """Slope and intercept of each frame, None where they are the same for all.

    Args:
        frames: as for `frames_in_order`.
        path: what errors call the file.

    Raises:
        VolumeError: they differ in a file of a kind for which nobody knows which of them ITK has applied.
    """
    each = [
        tuple((_numbers(told, tag, 1) or [default])[0] for tag, default in (("0028|1053", 1.0), ("0028|1052", 0.0)))
        for told in frames
    ]
    if all(one == each[0] for one in each):
        return None
    kind = frames[0].get("0008|0016", "")
    if not is_enhanced(kind) or not each[0][0]:
        raise VolumeError(f"{path}: frames that differ in slope and intercept, of kind {kind}; {_SAVED}")
    return each


def is_enhanced(kind: str) -> bool:
    """Whether files of this SOP class tell of each frame in functional groups."""
    return bool(_ENHANCED.fullmatch(kind.strip("\0 ").removeprefix(_OBJECTS.decode())))


def _of_frame(told: Mapping[str, str], number: int, path: Path) -> Slice:
    tags = {"0020|0032": 3, "0020|0037": 6, SPACING: 2}
    position, along, spacing = (_numbers(told, tag, count) for tag, count in tags.items())
    if position and along and spacing and min(spacing) > 0:
        right, down = np.array(along[:3]), np.array(along[3:])
        across = np.cross(right, down)
        if abs(np.linalg.norm(across) - 1) < _TURNED:
            columns = np.stack([each / np.linalg.norm(each) for each in (right, np.cross(across, right), across)], 1)
            direction = tuple(map(float, columns.ravel()))
            (height, width), (x, y, z) = spacing, position
            grid = Grid((1, 1, 1), (1.0, height, width), (x, y, z), direction)
            return Slice(Path(f"frame {number}"), "", "", grid)
    raise VolumeError(f"{path}: frame {number} does not tell where it lies, but others do; {_SAVED}")


def _numbers(told: Mapping[str, str], tag: str, count: int) -> list[float] | None:
    """What stands under a name, where these are so many finite numbers."""
    with suppress(ValueError):
        numbers = [float(value) for value in told.get(tag, "").split("\\")]
        return numbers if len(numbers) == count and np.isfinite(numbers).all() else None
    return None
