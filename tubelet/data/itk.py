"""SimpleITK: what it reads, writes and interpolates, in the terms of `grid`. The one file that imports it."""

from __future__ import annotations

import dataclasses
import functools
import locale
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

from ..machine import needs
from .grid import Grid, VolumeError, ending

__all__ = [
    "Header",
    "boxes",
    "channels_first",
    "filled",
    "known",
    "largest",
    "read",
    "read_header",
    "resample",
    "weights",
    "write",
]

# One at a time, since the file that errors go to is the whole process's.
_STDERR = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_STDERR._at_fork_reinit)  # type: ignore[attr-defined]


def _sitk() -> ModuleType:
    with needs("volume"):
        import SimpleITK
    return SimpleITK


# What is told on stderr alone: libtiff stops at a page that is not there, MetaIO at voxels that it cannot unpack.
_TOLD = {ending: re.compile("(?!.*Warning)") for ending in (".tif", ".tiff")}
_TOLD |= {ending: re.compile(".*failed") for ending in (".mha", ".mhd")}

_BEYOND = 12  # voxels over which a spline feels another value, and more


@contextmanager
def _hushed() -> Iterator[list[str]]:
    """Keep what the C libraries inside ITK print from the terminal; its lines are there after the block.

    Its reader of DICOM leaves the process in the C locale, in which Python would read files as ASCII: that is undone.
    """
    lines: list[str] = []
    spoken = locale.setlocale(locale.LC_ALL)
    with _STDERR, tempfile.TemporaryFile() as file:
        real = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(real, 2)
            os.close(real)
            locale.setlocale(locale.LC_ALL, spoken)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()


def _asked(path: Path, ask: Callable[[], Any], what: str = "cannot be read") -> Any:
    """What ITK answers, without its chatter; its errors in one line."""
    with _hushed() as lines:
        try:
            answer = ask()
        except RuntimeError as error:
            message = str(error)
            reason = next((line for line in message.splitlines()[::-1] if line.strip()), "")
            if "Zero-valued spacing" in message:
                raise VolumeError(f"{path}: its spacing is 0 along an axis; correct its header") from None
            if "Unable to determine ImageIO" in message:
                reason = f"not a {ending(path) or 'DICOM'} file, or cut short"
            elif "orthonormal" in message or "determinant is 0" in message:
                reason = "its axes are not at right angles; resample it to a straight grid first"
            elif "Reason: " in message:  # the system's last error, of something else; what was printed tells more
                reason = ""
        else:
            message = ""
    if not message:
        told = _TOLD.get(ending(path))
        if told is not None and (bad := [line for line in lines if told.match(line)]):
            raise VolumeError(f"{path}: damaged or cut short ({bad[0].strip()}); copy it again")
        return answer
    raise VolumeError(f"{path}: {what} ({(reason or [*lines, 'damaged or cut short'][0]).strip()})")


class Header(NamedTuple):
    """What a file tells before its voxels are read.

    Attributes:
        grid: where the voxels lie.
        shape: of the file's axes, slowest first.
        num_values: of a voxel.
        tags: what was asked for and is there.
    """

    grid: Grid
    shape: tuple[int, ...]
    num_values: int
    tags: dict[str, str]


def read_header(path: Path, *tags: str) -> Header:
    """What the header of a file tells, and what stands under these names in it, such as 0020|000e of DICOM.

    Raises:
        VolumeError: it cannot be read.
    """
    reader = _sitk().ImageFileReader()
    reader.SetFileName(str(path))
    _asked(path, reader.ReadImageInformation)
    told = {tag: reader.GetMetaData(tag).strip() for tag in tags if reader.HasMetaDataKey(tag)}
    return Header(_grid(path, reader), reader.GetSize()[::-1], reader.GetNumberOfComponents(), told)


def read(path: Path) -> tuple[np.ndarray, Grid]:
    """(C, D, H, W) and where it lies. A fourth axis, or several values a voxel, are the channels.

    Raises:
        VolumeError: it cannot be read, or its voxels are no real numbers.
    """
    image = _asked(path, lambda: _sitk().ReadImage(str(path)))
    array = _sitk().GetArrayFromImage(image)
    if array.dtype.kind not in "iuf":
        raise VolumeError(f"{path}: voxels of {array.dtype}; convert them to integers or floats")
    return channels_first(array, image.GetDimension()), _grid(path, image)


def channels_first(array: np.ndarray, num_axes: int) -> np.ndarray:
    """Voxels of 2 to 4 axes, and perhaps one more of several values a voxel -> (C, D, H, W), a view."""
    if array.ndim == num_axes:
        array = array[..., None]
    array = np.moveaxis(array, -1, 0)  # (values, axes)
    if num_axes == 4:
        return array.reshape(-1, *array.shape[2:]) if len(array) > 1 else array[0]
    return array if num_axes == 3 else array[:, None]


def write(path: Path, array: np.ndarray, grid: Grid) -> None:
    """Write (C, D, H, W), compressed where the format can; several channels become a fourth axis.

    Raises:
        VolumeError: it cannot be written.
    """
    sitk = _sitk()
    images = [_image(channel, grid) for channel in array]
    image = images[0] if len(images) == 1 else sitk.JoinSeries(images)
    is_packed = ending(path) != ".nii"
    _asked(path, lambda: sitk.WriteImage(image, str(path), useCompression=is_packed), "cannot be written")


def resample(array: np.ndarray, grid: Grid, wanted: Grid, *, order: int, outside: float = 0) -> np.ndarray:
    """(D, H, W) on one grid -> on another, by splines of order 0 (the nearest voxel), 1 or 3; `outside` beyond it."""
    sitk = _sitk()
    kind = {0: sitk.sitkNearestNeighbor, 1: sitk.sitkLinear, 3: sitk.sitkBSpline3}[order]
    x, y, z = wanted.spacing_mm[::-1]
    grid, wanted = _whole(grid), _whole(wanted)
    made = sitk.Resample(
        _image(array, grid), wanted.size[::-1], sitk.Transform(), kind, wanted.origin_mm, (x, y, z), wanted.direction,
        outside,
    )  # fmt: skip
    return sitk.GetArrayFromImage(made)


def _whole(grid: Grid) -> Grid:
    """A grid with 0 for what is left of a rounding: of a cosine of 1e-311 ITK's inverse is no number."""
    return dataclasses.replace(grid, direction=tuple(0.0 if abs(c) < 1e-12 else c for c in grid.direction))


@functools.lru_cache(maxsize=64)
def weights(n: int, m: int) -> torch.Tensor:
    """(m, n) float32: what each of n values along an axis contributes to each of m that cover the same length.

    Interpolation along the axes is linear in the values, and goes axis by axis. So ITK interpolates n rows with a
    single 1 in them, once, and a matrix product does with it what ITK would take ten times as long for.
    """
    sitk = _sitk()
    if n == 1:
        return torch.ones(m, 1)
    # beyond the ends the values go on as they come, not mirrored, so that a slope keeps its course up to the face
    beyond = min(n - 1, _BEYOND)
    rows = sitk.GetImageFromArray(np.pad(np.eye(n), ((0, 0), (beyond, beyond)), "reflect", reflect_type="odd"))
    if n > m:
        sigma = (n / m - 1) / 2
        rows = sitk.DiscreteGaussian(rows, [sigma**2, 0.0], 8 * int(sigma + 4), [1e-4, 1e-4], False)
    # ITK's splines want four values
    kind = sitk.sitkBSpline3 if n + 2 * beyond >= 4 else sitk.sitkLinear
    start, step = (beyond + (n / m - 1) / 2, 0.0), (n / m, 1.0)
    made = sitk.Resample(rows, (m, n), sitk.Transform(), kind, start, step, (1, 0, 0, 1), 0.0, sitk.sitkFloat64, True)
    return torch.from_numpy(sitk.GetArrayFromImage(made).T.astype(np.float32))


def known(array: np.ndarray) -> np.ndarray:
    """The same values in a type that ITK has: no bool, no float16, no foreign byte order."""
    dtype = {"?": np.uint8, "e": np.float32}.get(array.dtype.char, array.dtype.newbyteorder("="))
    return array.astype(dtype, copy=False)


def boxes(labels: np.ndarray) -> dict[int, tuple[slice, slice, slice]]:
    """The smallest box (depth, height, width) around each label of (D, H, W), but for 0."""
    shapes = _sitk().LabelShapeStatisticsImageFilter()
    shapes.Execute(_sitk().GetImageFromArray(known(labels)))
    found = {}
    for label in shapes.GetLabels():
        x, y, z, w, h, d = shapes.GetBoundingBox(label)
        found[label] = (slice(z, z + d), slice(y, y + h), slice(x, x + w))
    return found


def largest(mask: np.ndarray) -> np.ndarray:
    """(D, H, W) bool -> the largest part that hangs together by faces, edges or corners; of equal ones the first."""
    sitk = _sitk()
    parts = sitk.ConnectedComponent(sitk.GetImageFromArray(known(mask)), True)
    return sitk.GetArrayFromImage(sitk.RelabelComponent(parts, sortByObjectSize=True)) == 1


def filled(mask: np.ndarray) -> np.ndarray:
    """(D, H, W) bool -> the same with the holes that it encloses on all sides."""
    sitk = _sitk()
    return sitk.GetArrayFromImage(sitk.BinaryFillhole(sitk.GetImageFromArray(known(mask)))) == 1


def _image(array: np.ndarray, grid: Grid) -> Any:
    """An ITK image of (D, H, W)."""
    image = _sitk().GetImageFromArray(known(array))
    image.SetSpacing(grid.spacing_mm[::-1])
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction)
    return image


def _grid(path: Path, told: Any) -> Grid:
    """The geometry of an image or of a header, of 2, 3 or 4 axes."""
    num_axes = told.GetDimension()
    rank = min(num_axes, 3)
    direction = np.eye(3)
    direction[:rank, :rank] = np.array(told.GetDirection()).reshape(num_axes, num_axes)[:rank, :rank]
    w, h, d = (*told.GetSize()[:rank], 1)[:3]
    x, y, z = (*told.GetSpacing()[:rank], 1.0)[:3]
    direction *= np.where(np.array([x, y, z]) < 0, -1, 1)  # as ITK does once it reads the voxels
    a, b, c = (*told.GetOrigin()[:rank], 0.0)[:3]
    grid = Grid((d, h, w), (abs(z), abs(y), abs(x)), (a, b, c), tuple(map(float, direction.ravel())))
    numbers = (*grid.spacing_mm, *grid.origin_mm, *grid.direction)
    if not np.isfinite(numbers).all() or min(grid.spacing_mm) <= 0:
        raise VolumeError(
            f"{path}: spacing {grid.spacing_mm} mm, origin {grid.origin_mm}, direction {grid.direction}: these must be "
            "finite, and the spacing above 0; correct its header"
        )
    return grid
