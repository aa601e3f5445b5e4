"""Changes to a clip (C, T, H, W), the same for all its frames: in uint8 until `normalize` makes it float."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..spec import ClipSpec

Size = tuple[int, int]
Box = tuple[int, int, int, int]  # (top, left, height, width), pixels
Steps = tuple[tuple[str, float], ...]  # (name, amount) of each change, in their order

LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue: ITU-R BT.601, Pillow's "L"
OUTSIDE = 128  # grey level of what a warp brings in from beyond the frame, as in RandAugment's code


def resize_shape(height: int, width: int, resize: int | Size | None) -> Size:
    """Size of a frame after a resize.

    Args:
        height: of the frame before it.
        width: of the frame before it.
        resize: the short side (the long one keeps the proportion, rounded down), (height, width), or None.

    Raises:
        ValueError: a side would be below 1 pixel.
    """
    if resize is None:
        return height, width
    if isinstance(resize, int):
        short = min(height, width)
        size = (height * resize // short, width * resize // short)
    else:
        size = (resize[0], resize[1])
    if min(size) < 1:
        raise ValueError(f"resize {resize} gives a frame of {size[0]}x{size[1]}; a side must be at least 1")
    return size


def resize(clip: Tensor, size: int | Size | None) -> Tensor:
    """(C, T, H, W) uint8 -> the same with short side or (height, width) `size`, bilinear and antialiased."""
    height, width = clip.shape[-2:]
    shape = resize_shape(height, width, size)
    if shape == (height, width):
        return clip
    return F.interpolate(clip.transpose(0, 1), shape, mode="bilinear", antialias=True).transpose(0, 1)


def check_crop(height: int, width: int, size: Size) -> None:
    """Raise ValueError unless a crop of `size` fits in a frame of (height, width)."""
    if not (1 <= size[0] <= height and 1 <= size[1] <= width):
        raise ValueError(
            f"crop {size[0]}x{size[1]} does not fit in the frame of {height}x{width} (height x width) "
            "after the resize; crop less or resize to more"
        )


def center_crop(clip: Tensor, size: Size | None) -> Tensor:
    """(..., H, W) -> (..., *size) from the centre; `size` None leaves the clip as it is.

    Raises:
        ValueError: the crop does not fit in the frame.
    """
    if size is None:
        return clip
    height, width = clip.shape[-2:]
    check_crop(height, width, size)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return clip[..., top : top + size[0], left : left + size[1]]


def spread_area(height: int, width: int, size: Size | None, num_crops: int) -> Size | None:
    """(height, width) of the centre crop that holds all of `spread_crops`: no more of a frame is needed.

    Raises:
        ValueError: the crop does not fit in the frame.
    """
    if size is None or num_crops == 1:
        return size
    check_crop(height, width, size)
    return (height, size[1]) if height - size[0] > width - size[1] else (size[0], width)


def spread_crops(clip: Tensor, size: Size | None, num_crops: int) -> list[Tensor]:
    """(..., H, W) -> crops (..., *size) spread evenly along the roomier side (or the width); one is the centre.

    Raises:
        ValueError: the crop does not fit in the frame.
    """
    if size is None:
        return [clip] * num_crops
    area = center_crop(clip, spread_area(clip.shape[-2], clip.shape[-1], size, num_crops))
    rooms = area.shape[-2] - size[0], area.shape[-1] - size[1]
    crops = []
    for i in range(num_crops):
        top, left = (room * i // max(1, num_crops - 1) for room in rooms)
        crops.append(area[..., top : top + size[0], left : left + size[1]])
    return crops


def flip(clip: Tensor) -> Tensor:
    """(..., H, W) mirrored left to right."""
    return clip.flip(-1)


def negated(flow: Tensor, channels: Sequence[int] = (0, 1)) -> Tensor:
    """uint8 (2, T, H, W) of optical flow, 0..255 for -20..20 pixels -> the same with these channels the other way."""
    flow = flow.clone()
    for channel in channels:
        flow[channel] = 255 - flow[channel]
    return flow


def change(clip: Tensor, steps: Steps) -> Tensor:
    """Change places and colours, alike in every frame.

    | name | amount |
    |---|---|
    | rotate | degrees, counterclockwise, about the centre |
    | shear_x, shear_y | pixels right (down) for each pixel below (right of) the centre |
    | translate_x, translate_y | share of the width to the right, of the height down |
    | brightness | factor of all values |
    | contrast | factor of the distance from the mean grey of the clip |
    | saturation | factor of the distance from each pixel's grey |
    | hue | turn of the chroma at constant grey, share of the circle (YIQ, not HSV) |
    | autocontrast | the darkest value of the clip becomes 0, the brightest 255; by channel (no amount) |
    | equalize | the values of the clip become equally frequent; by channel (no amount) |
    | posterize | bits kept of each value, rounded |
    | solarize | grey level from which values are inverted |
    | sharpness | factor of the distance from the smoothed picture |

    Places come first, all in one warp: bilinear, and `OUTSIDE` where nothing is. Colours follow in their order. A run
    of brightness, contrast, saturation and hue is one affine map in float, so between them nothing is cut off or
    rounded (and then their order makes no difference); a run of autocontrast, equalize, posterize and solarize is one
    table. After the warp, each run and each sharpness, values are cut off at 0 and 255 and rounded.

    A clip of one channel is changed as three equal ones would be.

    Args:
        clip: uint8 (3, T, H, W) or (1, T, H, W); it is not changed. Of other channels, places alone are defined.
        steps: (name, amount) of each change.
    """
    places = [step for step in steps if step[0] in _PLACES]
    if places:
        clip = _warp(clip, places)
    colors = (step for step in steps if step[0] not in _PLACES)
    for kind, run in groupby(colors, lambda step: _COLORS[step[0]]):
        clip = kind(clip, list(run))
    return clip


def erase(clip: Tensor, box: Box, seed: int) -> Tensor:
    """uint8 (C, T, H, W) -> the same with the box covered with noise, alike in every frame (arXiv 1708.04896)."""
    top, left, height, width = box
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 256, (len(clip), 1, height, width), dtype=torch.uint8, generator=generator)
    clip = clip.clone()
    clip[..., top : top + height, left : left + width] = noise
    return clip


def prepare(clips: Tensor, spec: ClipSpec, network: nn.Module) -> Tensor:
    """Clips (B, C, T, H, W) -> what the network takes, on its device, in its precision.

    Pictures, of uint8, are normalised; scans, of floating point, were when they were read.
    """
    like = next(network.parameters(), torch.empty(0))
    return prepared(clips.to(like.device), spec).to(like.dtype)


def prepared(clips: Tensor, spec: ClipSpec) -> Tensor:
    """Clips (B, C, T, H, W) of uint8 -> normalised; those of floating point are scans, and stay."""
    return clips if clips.is_floating_point() else normalize(clips, spec.mean, spec.std)


def normalize(clips: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (..., C, T, H, W) in any memory layout -> contiguous float32 `(x / 255 - mean) / std`, channel by channel.

    A network of bfloat16 is given the result rounded: in its own precision a mean would be off by up to a quarter of a
    grey level.
    """
    shape = (-1, 1, 1, 1)
    shift = 255 * torch.tensor(mean, device=clips.device).view(shape)
    scale = 1 / (255 * torch.tensor(std, device=clips.device).view(shape))
    result = torch.empty(clips.shape, device=clips.device).copy_(clips)  # new layout and float in one pass
    return result.sub_(shift).mul_(scale)


# Places


def _warp(clip: Tensor, steps: Sequence[tuple[str, float]]) -> Tensor:
    channels, frames, height, width = clip.shape
    forward = np.eye(3)  # in pixels from the centre, x right, y down
    for name, amount in steps:
        forward = _PLACES[name](amount, height, width) @ forward
    half = np.diag([width / 2, height / 2, 1])
    back = np.linalg.inv(half) @ np.linalg.inv(forward) @ half  # where each pixel comes from, in -1..1
    grid = F.affine_grid(torch.from_numpy(back[None, :2]).float(), [1, 1, height, width], align_corners=False)
    # All frames and channels are the channels of one picture, so that its grid is worked out once.
    picture = clip.reshape(1, channels * frames, height, width).float()
    moved = F.grid_sample(picture, grid, padding_mode="border", align_corners=False)
    is_inside = (grid.abs() <= 1).all(-1).float()
    return _to_uint8(moved.sub_(OUTSIDE).mul_(is_inside).add_(OUTSIDE)).view(clip.shape)


def _rotation(degrees: float, height: int, width: int) -> np.ndarray:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])


_PLACES: dict[str, Callable[[float, int, int], np.ndarray]] = {
    "rotate": _rotation,
    "shear_x": lambda amount, height, width: np.array([[1, amount, 0], [0, 1, 0], [0, 0, 1]]),
    "shear_y": lambda amount, height, width: np.array([[1, 0, 0], [amount, 1, 0], [0, 0, 1]]),
    "translate_x": lambda amount, height, width: np.array([[1, 0, amount * width], [0, 1, 0], [0, 0, 1]]),
    "translate_y": lambda amount, height, width: np.array([[1, 0, 0], [0, 1, amount * height], [0, 0, 1]]),
}


# Colours


def _recolor(clip: Tensor, steps: Sequence[tuple[str, float]]) -> Tensor:
    """A run of linear changes: one affine map of (R, G, B, 1)."""
    pixels = clip.reshape(len(clip), -1).float()
    matrix = np.eye(4)
    for name, amount in steps:
        if name == "hue":
            matrix = _turn(amount) @ matrix
            continue
        other = _WITHOUT[name]
        if name == "contrast":
            mean = matrix @ [*pixels.mean(1).expand(3).tolist(), 1]
            other = other + LUMA @ mean[:3] * _TO_FLAT
        matrix = (amount * np.eye(4) + (1 - amount) * other) @ matrix
    if len(clip) == 1:  # three equal channels
        return _to_uint8(pixels.mul_(matrix[0, :3].sum()).add_(matrix[0, 3])).view(clip.shape)
    values = torch.from_numpy(matrix.astype(np.float32))
    return _to_uint8(torch.addmm(values[:3, 3:], values[:3, :3], pixels)).view(clip.shape)


def _affine(linear: np.ndarray) -> np.ndarray:
    """(3, 3) as a map of (R, G, B, 1)."""
    return np.block([[linear, np.zeros((3, 1))], [np.zeros((1, 3)), 1]])


def _turn(amount: float) -> np.ndarray:
    """Rotation of (I, Q) at constant Y."""
    cos, sin = math.cos(2 * math.pi * amount), math.sin(2 * math.pi * amount)
    return _FROM_YIQ @ np.array([[1, 0, 0, 0], [0, cos, -sin, 0], [0, sin, cos, 0], [0, 0, 0, 1]]) @ _TO_YIQ


_TO_YIQ = _affine(np.array([LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]))  # NTSC
_FROM_YIQ = np.linalg.inv(_TO_YIQ)
_TO_FLAT = np.outer([1, 1, 1, 0], [0, 0, 0, 1])  # every pixel white, of level 1
_BLACK = np.diag([0, 0, 0, 1])
# What is left at amount 0; amounts mix it with the picture, as in Pillow's ImageEnhance.
_WITHOUT = {"brightness": _BLACK, "contrast": _BLACK, "saturation": _affine(np.tile(LUMA, (3, 1)))}


def _to_uint8(values: Tensor) -> Tensor:
    """Float to uint8, cut off and rounded, `values` being overwritten; by int16, which is four times as fast."""
    return values.add_(0.5).clamp_(0, 255).to(torch.int16).to(torch.uint8)


def _look_up(clip: Tensor, steps: Sequence[tuple[str, float]]) -> Tensor:
    """A run of changes of single values: one table a channel."""
    clip = clip.contiguous()
    result = torch.empty_like(clip)
    needs_counts = any(name in ("autocontrast", "equalize") for name, _ in steps)
    for channel, changed in zip(clip, result, strict=True):
        table = np.arange(256)
        counts = torch.bincount(channel.flatten(), minlength=256).numpy() if needs_counts else np.zeros(256, int)
        for name, amount in steps:
            step = _TABLES[name](amount, counts)
            table, counts = step[table], np.bincount(step, counts, 256).astype(int)
        # Python's own table is several times as fast as an index of torch or numpy
        seen = bytearray(channel.numpy()).translate(table.astype(np.uint8).tobytes())
        changed.copy_(torch.frombuffer(seen, dtype=torch.uint8).view(channel.shape))
    return result


def _autocontrast(amount: float, counts: np.ndarray) -> np.ndarray:
    """As in Pillow's ImageOps."""
    least, most = np.flatnonzero(counts)[[0, -1]]
    if least == most:
        return np.arange(256)
    scale = 255 / (most - least)
    return (np.arange(256) * scale - least * scale).clip(0, 255).astype(int)


def _equalize(amount: float, counts: np.ndarray) -> np.ndarray:
    """As in Pillow's ImageOps."""
    step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
    if step == 0:
        return np.arange(256)
    return ((step // 2 + np.cumsum(counts) - counts) // step).clip(0, 255)


def _posterize(amount: float, counts: np.ndarray) -> np.ndarray:
    return np.arange(256) & (256 - 2 ** (8 - round(amount)))


def _solarize(amount: float, counts: np.ndarray) -> np.ndarray:
    values = np.arange(256)
    return np.where(values < amount, values, 255 - values)


_TABLES: dict[str, Callable[[float, np.ndarray], np.ndarray]] = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "posterize": _posterize,
    "solarize": _solarize,
}


def _sharpen(clip: Tensor, steps: Sequence[tuple[str, float]]) -> Tensor:
    """Each sharpness by itself; the outermost pixels stay, as in Pillow's ImageEnhance."""
    for _, amount in steps:
        values = clip.to(torch.int16)
        rows = values[..., :-2, :] + values[..., 1:-1, :] + values[..., 2:, :]
        inner = values[..., 1:-1, 1:-1]
        # Pillow's smooth picture: of 13 parts, 5 are the pixel and 1 each of its neighbours
        smooth = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * inner) * (1 / 13)
        clip = clip.clone()
        clip[..., 1:-1, 1:-1] = _to_uint8(smooth.lerp_(inner.float(), amount))
    return clip


_COLORS: dict[str, Callable[[Tensor, Sequence[tuple[str, float]]], Tensor]] = {
    **dict.fromkeys((*_WITHOUT, "hue"), _recolor),
    **dict.fromkeys(_TABLES, _look_up),
    "sharpness": _sharpen,
}
