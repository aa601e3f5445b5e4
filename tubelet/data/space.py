"""Scans brought to the space of a network, and what it says brought back to the scanner's own grid."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch

from ..spec import ClipSpec, Intensity
from . import itk
from .grid import Grid, Volume, VolumeError, oriented

__all__ = ["cleaned", "prepared", "prepared_part", "resampled", "resampled_grid", "restored", "restored_scores"]

_BEYOND = 8  # voxels
_NEGLIGIBLE = 1e-7  # share of a value in another, far from it
_SLAB = 2**24  # voxels of a scan whose scores are in memory at once


def resampled(volume: Volume, spacing_mm: Sequence[float], *, is_mask: bool) -> Volume:
    """The scan in voxels of another size, over the same place in the body.

    The outer faces of the volume stay where they are. So the spacing is that which fits a whole number of voxels
    between them, the nearest to the one asked for; an axis whose number of voxels stays is not touched.

    Values are cubic B-splines (ITK's, order 3), which bring a scan to smaller voxels and back (`restored`) without
    visible loss, where linear interpolation blurs it. Beyond the outermost centres values go on as they come. Towards
    larger voxels, a Gaussian goes before, of (ratio - 1) / 2 voxels as in scikit-image and MONAI, so that fine texture
    does not turn into coarse.

    No label is made up. Towards smaller voxels labels are those of the nearest voxel, and come back exactly; a larger
    voxel has the label with the largest share of it, of equal ones the highest.

    Args:
        volume: array (C, D, H, W).
        spacing_mm: (depth, height, width).
        is_mask: its values are labels.

    Returns:
        float32, or the labels in their own type.

    Raises:
        VolumeError: a spacing that is not above 0.
        ImportError: SimpleITK is not installed.
    """
    own, grid = volume.grid, resampled_grid(volume.grid, spacing_mm)
    if is_mask:
        array = _most(volume.array, [min(n, m) for n, m in zip(own.size, grid.size, strict=True)])
        for axis, (n, m) in enumerate(zip(own.size, grid.size, strict=True), start=1):
            if n < m:
                array = array.take((2 * np.arange(m) + 1) * n // (2 * m), axis)
        return dataclasses.replace(volume, array=array, grid=grid)
    each = zip(own.size, grid.size, strict=True)
    array = _products(volume.array, [itk.weights(n, m) if n != m else None for n, m in each])
    return dataclasses.replace(volume, array=array, grid=grid)


def resampled_grid(own: Grid, spacing_mm: Sequence[float]) -> Grid:
    """The grid that `resampled` brings a scan to.

    Raises:
        VolumeError: a spacing that is not above 0.
    """
    if len(spacing_mm) != 3 or not all(0 < value < float("inf") for value in spacing_mm):
        raise VolumeError(f"spacing_mm {tuple(spacing_mm)} must be three lengths above 0: depth, height, width")
    d, h, w = (max(1, round(n * a / b)) for n, a, b in zip(own.size, own.spacing_mm, spacing_mm, strict=True))
    ratios = [n / m for n, m in zip(own.size, (d, h, w), strict=True)]
    s, t, u = (value * ratio for value, ratio in zip(own.spacing_mm, ratios, strict=True))
    return own.moved((d, h, w), (s, t, u), [(ratio - 1) / 2 for ratio in ratios])


def _products(array: np.ndarray, matrices: Sequence[torch.Tensor | None]) -> np.ndarray:
    """(C, D, H, W) float32 with each axis of D, H, W multiplied by its matrix (m, n), where it has one."""
    values = torch.from_numpy(np.require(array, np.float32, ["C", "W"]))
    shrinks = {i: m.shape[1] / m.shape[0] for i, m in enumerate(matrices) if m is not None}
    for axis in sorted(shrinks, key=lambda axis: -shrinks[axis]):  # what shrinks first leaves less to do
        matrix, shape = matrices[axis], values.shape
        assert matrix is not None
        parts = values.reshape(-1, matrix.shape[1], shape[axis + 2 :].numel())
        parts = torch.matmul(matrix, parts) if axis < 2 else parts[..., 0] @ matrix.T
        values = parts.reshape(*shape[: axis + 1], len(matrix), *shape[axis + 2 :])
    return values.numpy()


def _most(labels: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Labels (C, D, H, W) in as many voxels or fewer: the nearest one's would lie half a voxel off at even ratios."""
    own = labels.shape[1:]
    if own == tuple(size):
        return labels
    shares = [_shares(n, m) if n > m else None for n, m in zip(own, size, strict=True)]
    result = np.zeros((len(labels), *size), labels.dtype)
    for channel, made in zip(labels, result, strict=True):
        most = np.zeros(size, np.float32)
        # one label after the other, each in its box alone, since a scan may have a hundred
        for label, box in {0: tuple(slice(0, n) for n in own), **itk.boxes(channel)}.items():
            each = list(zip(own, size, box, strict=True))
            here = tuple(slice(part.start * m // n, -(-part.stop * m // n)) for n, m, part in each)
            of_box = zip(shares, here, box, strict=True)
            matrices = [None if share is None else share[rows, part] for share, rows, part in of_box]
            share = _products((channel[box] == label)[None], matrices)[0]
            made[here][share >= most[here]] = label  # a tie with the background is won: half a voxel of a vessel stays
            np.maximum(most[here], share, out=most[here])
    return result


def _shares(n: int, m: int) -> torch.Tensor:
    """(m, n) float32: how much of each of n voxels lies in each of m larger ones, in whole numbers: ties are exact."""
    near, far = np.arange(m)[:, None] * n, np.arange(n) * m
    inside = np.minimum(near + n, far + m) - np.maximum(near, far)
    return torch.from_numpy((inside.clip(0) // math.gcd(n, m)).astype(np.float32))


def prepared(volume: Volume, spec: ClipSpec, *, is_mask: bool = False) -> Volume:
    """The scan as the network of `spec` takes it: its intensity, its orientation, its spacing.

    Intensity goes by channel and comes first, so that interpolation meets no metal or noise beyond the window. Windows
    and percentiles then have `spec.mean` and `spec.std` applied; z_score takes mean and deviation of the whole channel;
    of one without any contrast, percentile and z_score give 0. Without `spec.intensity` values are pictures, 0..255.

    Args:
        volume: array (C, D, H, W).
        spec: its `intensity`, `orientation`, `spacing_mm`, `mean` and `std` count.
        is_mask: its values are labels, which are turned and resampled alone.

    Returns:
        float32, or the labels in their own type; its grid is what `restored` needs.

    Raises:
        VolumeError: another number of channels than the network takes.
        ImportError: SimpleITK is not installed and there is something to resample.
    """
    if not is_mask:
        if len(volume.array) != spec.in_channels:
            raise VolumeError(f"{volume.path}: {len(volume.array)} channels; the network takes {spec.in_channels}")
        channels = zip(volume.array, spec.mean, spec.std, strict=True)
        array = np.stack([_normalized(channel, spec.intensity, mean, std) for channel, mean, std in channels])
        volume = dataclasses.replace(volume, array=array)
    if spec.orientation is not None:
        volume = oriented(volume, spec.orientation)
    if spec.spacing_mm is not None:
        volume = resampled(volume, spec.spacing_mm, is_mask=is_mask)
    return dataclasses.replace(volume, array=np.ascontiguousarray(volume.array))


def prepared_part(volume: Volume, spec: ClipSpec, grid: Grid, part: tuple[slice, ...]) -> np.ndarray:
    """A part of a scan on another grid of the same place, from no more of the scan than that takes.

    Args:
        volume: (C, D, H, W), which may be mapped, in the network's orientation.
        spec: its intensity counts, as `prepared` tells, of what is read: not of all.
        grid: as `resampled_grid` gives it.
        part: of (C, D, H, W) there.

    Returns:
        (C, d, h, w) float32, what `prepared` has there to six digits.

    Raises:
        VolumeError: as `prepared`; what is read has values that are not finite.
    """
    box: list[slice] = [part[0]]
    matrices: list[torch.Tensor | None] = []
    for n, m, taken in zip(volume.grid.size, grid.size, part[1:], strict=True):
        rows = None if n == m else itk.weights(n, m)[taken]
        if rows is not None:
            reached = (rows.abs() > _NEGLIGIBLE).any(0).nonzero()
            taken = slice(int(reached[0]), int(reached[-1]) + 1)
            rows = rows[:, taken]
        box.append(taken)
        matrices.append(rows)
    plain = dataclasses.replace(spec, orientation=None, spacing_mm=None)
    read = volume.array[tuple(box)]
    if read.dtype.kind == "f" and not np.isfinite(read).all():
        raise VolumeError(f"{volume.path}: values that are NaN or infinite; write it anew with numbers in their place")
    return _products(prepared(dataclasses.replace(volume, array=read), plain).array, matrices)


def restored(values: np.ndarray, grid: Grid, source: Grid) -> np.ndarray:
    """Labels or grey levels (D, H, W) on a prepared grid, or on a part of it, -> on the source's.

    Labels, which are whole numbers, come from the nearest voxel, grey levels, which are floats, as cubic B-splines.
    What the part does not reach is 0.
    """
    if grid == source:
        return values
    if values.dtype.kind != "f":
        labels = values.astype(np.uint8) if values.dtype.kind == "b" else values
        return itk.resample(labels, grid, source, order=0).astype(values.dtype, copy=False)
    reached = itk.resample(np.ones(grid.size, np.uint8), grid, source, order=0)
    # as in `resampled`, values go on beyond the faces as they come
    d, h, w = (min(n - 1, _BEYOND) for n in grid.size)
    more = np.pad(values, [(d, d), (h, h), (w, w)], "reflect", reflect_type="odd")
    wide = grid.cropped((-d, -h, -w), more.shape)
    return itk.resample(more, wide, source, order=3 if min(more.shape) >= 4 else 1) * reached


def restored_scores(scores: np.ndarray, grid: Grid, source: Grid) -> np.ndarray:
    """Scores or logits (K, D, H, W) on a prepared grid, or a part of it, -> labels (D, H, W) uint8 on the source's.

    Scores are interpolated linearly, and a voxel has the label of the highest, of equal ones the first. Slab by slab,
    one class at a time: beside the labels memory holds three maps of one class. What the part does not reach is 0.
    """
    labels = np.zeros(source.size, np.uint8 if len(scores) <= 256 else np.int64)
    depth, height, width = source.size
    planes = max(1, _SLAB // (height * width))
    for first in range(0, depth, planes):
        part = labels[first : first + planes]
        where = source.cropped((first, 0, 0), part.shape)
        best: np.ndarray | None = None
        for label, score in enumerate(scores):
            outside = float(np.finfo(np.float32).min if label else np.finfo(np.float32).max)
            values = score.astype(np.float32, copy=False)
            if grid == source:
                here = values[first : first + planes]
            else:
                here = itk.resample(values, grid, where, order=1, outside=outside)
            if best is None:
                best = here.copy()
            else:
                np.copyto(part, label, where=here > best, casting="unsafe")
                np.maximum(best, here, out=best)
    return labels


def cleaned(labels: np.ndarray, *, largest: bool, holes: bool) -> np.ndarray:
    """Labels (D, H, W) without specks and cavities, class by class; 0 is the background.

    Args:
        labels: whole numbers from 0 on.
        largest: keep of each class the largest part that hangs together, by corners too; the rest becomes background.
        holes: fill background that one class encloses on all sides, in a single slice within it. What belongs to
            another class stays.

    Returns:
        A new array of the same type.

    Raises:
        ImportError: SimpleITK is not installed.
    """
    labels = labels.copy()
    if largest:
        for label, box in itk.boxes(labels).items():
            part = labels[box]
            mask = part == label
            part[mask & ~itk.largest(mask)] = 0
    if holes:  # after all are at their largest: what became background may lie in another class
        # an axis of one voxel has no sides: walls along it close what lies between
        walls = [(int(n == 1),) * 2 for n in labels.shape]
        inner = tuple(slice(wall, -wall or None) for wall, _ in walls)
        for label, box in itk.boxes(labels).items():
            part = labels[box]
            closed = itk.filled(np.pad(part == label, walls, constant_values=True))[inner]
            part[closed & (part == 0)] = label
    return labels


def _normalized(channel: np.ndarray, intensity: Intensity | None, mean: float, std: float) -> np.ndarray:
    """(D, H, W) -> float32, as `prepared` tells."""
    if intensity is not None and intensity.kind == "z_score":
        mean, std = float(channel.mean(dtype=np.float64)), float(channel.std(dtype=np.float64))
        low, high = 0.0, 1.0
    elif intensity is None:
        low, high = 0.0, 255.0
    else:
        low, high = intensity.low, intensity.high
        if intensity.kind == "percentile":
            low, high = map(float, np.percentile(channel, (low, high)))
    # one product and one sum for each voxel
    scale = 1 / ((high - low) * std) if high > low and std > 0 else 0.0
    values = channel.astype(np.float32)
    if intensity is not None and intensity.kind != "z_score":
        values.clip(low, high, out=values)
    values -= np.float32(low + mean * (high - low))
    values *= np.float32(scale)
    return values
