"""Where the voxels of a scan lie in the body, and the scan turned by whole axes: arithmetic, without a file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np

from ..spec import is_orientation

__all__ = ["Grid", "Volume", "VolumeError", "distance_mm", "ending", "oriented"]

Size = tuple[int, int, int]
Vector = tuple[float, float, float]

_TOWARDS, _AWAY = "LPS", "RAI"  # the body's letters along ITK's x, y, z, and against them


class VolumeError(ValueError):
    """A scan that cannot be read, written or used; the message names it, the reason and the fix."""


@dataclass(frozen=True)
class Grid:
    """Where voxels lie. Spaces are ITK's: x to the left, y to the back, z to the head (LPS), in millimetres.

    Attributes:
        size: voxels along (depth, height, width).
        spacing_mm: from one voxel's centre to the next, along (depth, height, width).
        origin_mm: (x, y, z) of the centre of the first voxel.
        direction: ITK's 3x3 cosines, row by row; its columns are the directions of width, height and depth.
    """

    size: Size
    spacing_mm: Vector
    origin_mm: Vector = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @property
    def steps(self) -> np.ndarray:
        """(3, 3) float64: columns are the unit vectors, in LPS, along which depth, height and width grow."""
        return np.array(self.direction, float).reshape(3, 3)[:, ::-1]

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) float64, from (d, h, w, 1) to millimetres in RAS+, which NIfTI and nibabel use."""
        affine = np.eye(4)
        affine[:3, :3] = self.steps * self.spacing_mm
        affine[:3, 3] = self.origin_mm
        affine[:2] *= -1
        return affine + 0.0  # no negative zero

    @property
    def orientation(self) -> str:
        """Where depth, height and width point, each along the nearest axis of the body: such as SPL."""
        near = np.abs(self.steps)
        axes = max(permutations(range(3)), key=lambda axes: sum(near[axis, k] for k, axis in enumerate(axes)))
        return "".join((_TOWARDS if self.steps[axis, k] > 0 else _AWAY)[axis] for k, axis in enumerate(axes))

    def at(self, index: Any) -> np.ndarray:
        """(..., 3) indices (depth, height, width), not only whole ones -> (..., 3) millimetres in LPS."""
        return np.asarray(index) @ (self.steps * self.spacing_mm).T + self.origin_mm

    def moved(self, size: Size, spacing_mm: Vector, first: Any) -> Grid:
        """The grid of another size and spacing whose first voxel lies at index `first` of this one."""
        x, y, z = map(float, self.at(first))
        return dataclasses.replace(self, size=size, spacing_mm=spacing_mm, origin_mm=(x, y, z))

    def cropped(self, start: Size, size: Size) -> Grid:
        """The part that begins at voxel `start`, of `size` voxels."""
        return self.moved(size, self.spacing_mm, start)


@dataclass(frozen=True)
class Volume:
    """A scan.

    Attributes:
        array: (C, D, H, W).
        grid: where its voxels lie.
        path: where it was read from, or what errors call it.
    """

    array: np.ndarray
    grid: Grid
    path: Path

    @property
    def spacing_mm(self) -> Vector:
        """(depth, height, width) of a voxel."""
        return self.grid.spacing_mm

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) float64, from (d, h, w, 1) to millimetres in RAS+."""
        return self.grid.affine


def ending(path: Path) -> str:
    """The end of a file's name that tells its format, in small letters: .nii.gz is one."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def distance_mm(one: Grid, other: Grid) -> float:
    """The most that two grids of the same size differ, at any of their corners."""
    corners = np.array(list(product(*((0, n - 1) for n in one.size))))
    return float(np.linalg.norm(one.at(corners) - other.at(corners), axis=1).max())


def oriented(volume: Volume, orientation: str) -> Volume:
    """The scan with its axes exchanged and mirrored so that they point as asked. No value changes.

    Args:
        volume: array (C, D, H, W); the result is a view of it.
        orientation: where depth, height and width are to point, such as SPR. An oblique scan stays oblique: each axis
            points nearest to its letter.

    Raises:
        ValueError: it is not one letter each of R or L, A or P, S or I.
    """
    if not is_orientation(orientation):
        raise ValueError(f"orientation {orientation!r}; give one letter each of R or L, A or P, S or I, such as SPR")
    grid, own = volume.grid, volume.grid.orientation
    bodily = [_axis(letter) for letter in own]
    order = [bodily.index(_axis(letter)) for letter in orientation]
    is_mirrored = [own[k] != letter for k, letter in zip(order, orientation, strict=True)]
    array = volume.array.transpose(0, *(k + 1 for k in order))
    array = array[
        (
            slice(None),
            *(
                slice(None, None, -1 if back and n > 1 else 1)
                for back, n in zip(is_mirrored, array.shape[1:], strict=True)
            ),
        )
    ]
    first = [0, 0, 0]
    for k, mirrored in zip(order, is_mirrored, strict=True):
        first[k] = (grid.size[k] - 1) * mirrored
    steps = grid.steps[:, order] * np.where(is_mirrored, -1, 1) + 0.0
    d, h, w = order
    turned = grid.moved(_picked(grid.size, d, h, w), _picked(grid.spacing_mm, d, h, w), first)
    turned = dataclasses.replace(turned, direction=tuple(map(float, steps[:, ::-1].ravel())))
    return dataclasses.replace(volume, array=array, grid=turned)


def _axis(letter: str) -> int:
    """Which axis of the body a letter lies on."""
    return (_TOWARDS + _AWAY).index(letter) % 3


def _picked(values: tuple, d: int, h: int, w: int) -> tuple:
    return values[d], values[h], values[w]
