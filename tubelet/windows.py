"""Dense maps of volumes that no network takes at once: windows slide over them, overlap, and are blended.

Source of starts and weights: MONAI 1.6, whose `sliding_window_inference` gives the same answers (Cardoso et al., MONAI,
2022, arXiv 2211.02701).
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, combinations, groupby, product
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from . import speed, terminal
from .blocks import Triple, triple

Blend = Literal["gaussian", "constant"]
FLOOR = 1e-3  # of a Gaussian's weights: where corners of windows alone reach, sums are divided by no less
MANY = 64  # windows, above which a bar tells how many are done


def starts(size: int, window: int, overlap: float) -> list[int]:
    """Where windows start along an axis of this size, so that they cover all of it.

    The step is `window * (1 - overlap)`, rounded down, at least 1; the last window ends where the axis ends. An axis
    shorter than the window has one start, not above 0: the window reaches out on both sides.
    """
    if size <= window:
        return [-((window - size) // 2)]
    step = max(1, int(window * (1 - overlap)))
    return [min(start, size - window) for start in range(0, size - window + step, step)]


def importance(window: Sequence[int], blend: Blend = "gaussian", sigma_scale: float = 0.125) -> Tensor:
    """Weights (D, H, W) of a window's voxels where windows overlap, float32.

    Args:
        window: (D, H, W).
        blend: constant, 1; or gaussian, highest in the middle, at least 0.001.
        sigma_scale: deviation of the Gaussian along each axis, as a share of the window.
    """
    if blend == "constant":
        return torch.ones(*window)
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in window]
    d, h, w = (torch.exp(x.square() / (-2 * (sigma_scale * n) ** 2)) for x, n in zip(axes, window, strict=True))
    weights = d[:, None, None] * h[:, None] * w
    return weights.clamp(min=max(weights.min().item(), FLOOR))


def sliding(
    model: Callable[[Tensor], Tensor],
    volume: Any,
    *,
    window: int | Sequence[int | None],
    overlap: float | Sequence[float] = 0.5,
    blend: Blend = "gaussian",
    sigma_scale: float = 0.125,
    batch_size: int | None = None,
    mirrored: Sequence[int] = (),
    labels: bool = False,
    out: Any = None,
) -> Any:
    """Logits or labels for each voxel of volumes (B, C, D, H, W) of any size, window by window.

    The network runs without gradients on its own device, in its own precision and as it stands: call `model.eval()`
    before. A float32 network on a CPU runs within `speed.inference`.

    With labels, sums of logits are held for the depth of one window, so that memory grows with neither D nor the number
    of volumes. A memory map is read slab by slab, and its pages are given back.

    Args:
        model: from (N, C, *window) to logits (N, K, *window), any function or nn.Module.
        volume: (B, C, D, H, W) or (C, D, H, W): a tensor, or what has a shape and gives arrays when it is sliced, such
            as `np.memmap`.
        window: (D, H, W), or one number for the three; -1 or None is the whole axis. Along an axis that is shorter,
            zeros are put around the volume, and their answers cut off.
        overlap: of neighbours along each axis, as a share of the window: from 0 to below 1, one for all or three.
        blend: how windows count where they overlap, see `importance`.
        sigma_scale: of the Gaussian, see `importance`.
        batch_size: windows at once; None is 1 on a CPU, where more are slower, and 4 elsewhere.
        mirrored: axes, of 2 (D), 3 (H) and 4 (W), along which windows are also seen mirrored; the mean of all
            combinations counts, 2, 4 or 8 passes.
        labels: whether to answer the class of the highest logit (the first of equals) instead of the logits.
        out: tensor or writable array, such as `np.memmap`, that takes the answer; it has the answer's shape, or that
            without B where the volume has none.

    Returns:
        Logits (B, K, D, H, W) where the volume is, in float32 at least; with labels (B, D, H, W) in uint8, or int16
        above 256 classes. B is 1 for a volume without. `out`, where it is given.

    Raises:
        ValueError: an argument is out of its range; the network refuses a window, answers another size or a list, or
            logits that are not finite.
    """
    sides = _three("window", window)
    overlaps = _three("overlap", overlap)
    window, size = _checked(volume.shape, sides, overlaps, blend, sigma_scale, batch_size, mirrored)
    batch = volume.shape[0] if len(volume.shape) == 5 else 1
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    home = volume.device if isinstance(volume, Tensor) else torch.device("cpu")
    device = home if parameter is None else parameter.device
    like = volume if parameter is None and isinstance(volume, Tensor) else parameter
    dtype = like.dtype if like is not None and like.is_floating_point() else torch.float32
    weights = importance(window, blend, sigma_scale)
    weights = weights.to(device if labels else home, torch.promote_types(dtype, torch.float32))
    depths, *across = (starts(n, length, share) for n, length, share in zip(size, window, overlaps, strict=True))

    def windows() -> Iterator[tuple[int, int, Triple, Tensor]]:
        """Volume, row of windows along D, where the window starts, and its logits (K, *window)."""
        count = batch_size or (1 if device.type == "cpu" else 4)
        for b, row in product(range(batch), range(len(depths))):
            corners = [triple(corner) for corner in product([depths[row]], *across)]
            for some in (corners[i : i + count] for i in range(0, len(corners), count)):
                x = torch.zeros(len(some), volume.shape[-4], *window, dtype=dtype, device=device)
                for each, corner in zip(x, some, strict=True):
                    inside, part = _spans(corner, window, size)
                    each[:, *part] = _read(volume, b, inside, dtype)
                logits = _logits(model, x, mirrored, some).to(weights, memory_format=torch.contiguous_format)
                yield from ((b, row, corner, each) for corner, each in zip(some, logits, strict=True))

    total = batch * len(depths) * len(across[0]) * len(across[1])
    found = terminal.progress(windows(), "windows", total) if total > MANY else windows()
    first = next(found)
    num_classes, depth = len(first[-1]), min(window[0], size[0])
    answer = _room(
        out, (batch, *size) if labels else (batch, num_classes, *size), num_classes, labels, weights.dtype, home
    )
    sums = weights.new_empty(num_classes, depth, *size[1:]) if labels else None
    totals = None if labels else _totals(weights, size, across)
    begins = [max(0, start) for start in depths]
    found = chain([first], found)
    del first  # its logits are as large as the others'
    for (b, row), some in groupby(found, key=lambda each: each[:2]):
        begin, end = begins[row], (*begins[1:], size[0])[row]
        slab = answer[b, :, begin : begin + depth] if sums is None else sums
        slab[:, begins[row - 1] + depth - begin if row else 0 :] = 0
        for _, _, corner, logits in some:
            (_, *inside), part = _spans(corner, window, size)
            slab[:, :, *inside].addcmul_(logits[:, *part], weights[*part])
        if totals is None:
            for plane in range(end - begin):  # the places of all planes, in int64, would be large
                answer[b, begin + plane] = slab[:, plane].argmax(0)
            _move_up(slab, end - begin)
        else:
            slab[:, : end - begin] /= _summed(totals, begins, begin, end)
        give_back(volume)
        give_back(out)
    return answer if out is None else out


def _three(name: str, value: Any) -> tuple:
    """One value for all of (D, H, W), or the three given."""
    each = tuple(value) if np.ndim(value) else (value,) * 3
    if len(each) != 3:
        raise ValueError(f"{name} {each} must be three numbers (D, H, W), or one for all of them")
    return each


def _checked(
    shape: Sequence[int],
    window: Sequence[int | None],
    overlaps: Sequence[float],
    blend: str,
    sigma_scale: float,
    batch_size: int | None,
    mirrored: Sequence[int],
) -> tuple[Triple, Triple]:
    """The (D, H, W) of a window and of a volume, or ValueError for what does not fit."""
    if len(shape) not in (4, 5):
        raise ValueError(f"volume {tuple(shape)} must be (C, D, H, W) or (B, C, D, H, W)")
    if 0 in shape:
        raise ValueError(f"volume {tuple(shape)} is empty: no axis may be 0")
    size = triple(shape[-3:])
    whole = triple([n if side in (None, -1) else side for n, side in zip(size, window, strict=True)])
    if min(whole) < 1:
        raise ValueError(f"window {tuple(window)} must be at least 1 along each axis, or -1 for all of it")
    if wrong := [overlap for overlap in overlaps if not 0 <= overlap < 1]:
        raise ValueError(f"overlap {wrong[0]} must be at least 0 and below 1")
    if blend not in ("gaussian", "constant"):
        raise ValueError(f"blend {blend!r}; there is gaussian, constant")
    if not sigma_scale > 0:
        raise ValueError(f"sigma_scale {sigma_scale} must be above 0")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be at least 1")
    if not set(mirrored) <= {2, 3, 4} or len(set(mirrored)) < len(mirrored):
        raise ValueError(f"mirrored {tuple(mirrored)} must be axes out of 2 (D), 3 (H), 4 (W), each once")
    return whole, size


def _spans(corner: Triple, window: Triple, size: Triple) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The part of the volume that a window covers, and the part of the window that lies in the volume."""
    ends = [min(start + length, n) for start, length, n in zip(corner, window, size, strict=True)]
    inside = tuple(slice(max(0, start), end) for start, end in zip(corner, ends, strict=True))
    return inside, tuple(slice(max(0, -start), end - start) for start, end in zip(corner, ends, strict=True))


def _read(volume: Any, b: int, inside: tuple[slice, ...], dtype: torch.dtype) -> Tensor:
    """A part (C, D, H, W) of a volume, an array's copied."""
    where = (slice(None), *inside)
    part = volume[(b, *where) if len(volume.shape) == 5 else where]
    if isinstance(part, Tensor):
        return part.detach()
    return torch.from_numpy(np.array(part, dtype=np.float64 if dtype == torch.float64 else np.float32))


def _logits(model: Callable[[Tensor], Tensor], x: Tensor, mirrored: Sequence[int], corners: Sequence[Triple]) -> Tensor:
    """Windows (N, C, D, H, W) -> their logits (N, K, D, H, W), the mean over what is mirrored."""
    flips = [axes for n in range(len(mirrored) + 1) for axes in combinations(mirrored, n)]
    answers = (_answer(model, x.flip(axes) if axes else x).flip(axes) for axes in flips[1:])
    logits = sum(answers, _answer(model, x)) / len(flips) if mirrored else _answer(model, x)
    # a sum over all is quick; it is not finite either where finite logits are too large to be added up
    if not logits.sum().isfinite() and not (is_finite := logits.isfinite().flatten(1).all(1)).all():
        where = corners[int(is_finite.logical_not().nonzero()[0])]
        raise ValueError(
            f"the network's logits are not finite in the window at voxel {where}: the volume's values there or "
            "the network's weights are not either, or are too large"
        )
    return logits


def _answer(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    shape = tuple(x.shape)
    try:
        with speed.inference():
            logits = model(x)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(f"the network does not take windows {shape}: {str(error).splitlines()[0]}") from error
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"the network answers a {type(logits).__name__} and not one tensor of logits; with deep supervision, call "
            "model.eval() first"
        )
    if logits.ndim != 5 or (logits.shape[0], *logits.shape[2:]) != (shape[0], *shape[2:]):
        raise ValueError(
            f"the network answers {tuple(logits.shape)} to windows {shape}: it must be (N, K, D, H, W) of the same size"
        )
    return logits


def _room(
    out: Any, shape: tuple[int, ...], num_classes: int, labels: bool, dtype: torch.dtype, home: torch.device
) -> Tensor:
    """Where the answer goes, a tensor of this shape: new, or the memory of `out`."""
    if out is None:
        smallest = torch.uint8 if num_classes <= 256 else torch.int16
        return torch.empty(shape, dtype=smallest if labels else dtype, device=home)
    if isinstance(out, np.ndarray) and not out.flags.writeable:
        raise ValueError("out is read-only; open it for writing, such as with mode 'r+' or 'w+'")
    room = out if isinstance(out, Tensor) else torch.from_numpy(out)
    if tuple(room.shape) not in (shape, shape[1:] if shape[0] == 1 else shape):
        raise ValueError(f"out {tuple(room.shape)} must have the shape of the answer, {shape}")
    is_kind = not room.is_floating_point() if labels else room.dtype in (torch.float32, torch.float64)
    if not is_kind or (labels and torch.iinfo(room.dtype).max < num_classes - 1):
        wanted = f"integers up to {num_classes - 1}" if labels else "float32 or float64"
        raise ValueError(f"out is of {room.dtype}: it must take {wanted}")
    return room.view(shape)


def _totals(weights: Tensor, size: Triple, across: Sequence[Sequence[int]]) -> Tensor:
    """Sums of the weights (D, H, W) of one row of windows, that of any start along D."""
    window = triple(weights.shape)
    totals = weights.new_zeros(min(window[0], size[0]), *size[1:])
    for place in product([-((window[0] - len(totals)) // 2)], *across):
        (_, *inside), part = _spans(triple(place), window, (len(totals), *size[1:]))
        totals[:, *inside] += weights[*part]
    return totals


def _summed(totals: Tensor, begins: Sequence[int], begin: int, end: int) -> Tensor:
    """Sums of the weights (D, H, W) of all windows, at the planes from `begin` to `end`."""
    summed = totals.new_zeros(end - begin, *totals.shape[1:])
    for other in begins:
        low, high = max(begin, other), min(end, other + len(totals))
        if low < high:
            summed[low - begin : high - begin] += totals[low - other : high - other]
    return summed


def _move_up(slab: Tensor, planes: int) -> None:
    """Drop the first planes of (K, D, H, W); as many at a time follow, so that none is overwritten before it moved."""
    for first in range(planes, slab.shape[1], planes):
        moving = slab[:, first : first + planes]
        slab[:, first - planes : first - planes + moving.shape[1]] = moving


def give_back(array: Any) -> None:
    """Let the system have the pages of a memory map of a file; they are read anew where they are wanted again."""
    mode = None
    while isinstance(array, np.ndarray):
        mode = getattr(array, "mode", mode)
        array = array.base
    # what was written to a map of mode "c" is in its pages alone
    if isinstance(array, mmap.mmap) and mode not in (None, "c") and hasattr(mmap, "MADV_DONTNEED"):
        array.madvise(mmap.MADV_DONTNEED)
