"""Changes to a clip (C, T, H, W), the same for all its frames: in uint8 until `normalize` makes it float."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..spec import ClipSpec

Size = tuple[int, int]


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


def _check_crop(height: int, width: int, size: Size) -> None:
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
    _check_crop(height, width, size)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return clip[..., top : top + size[0], left : left + size[1]]


def random_crop(clip: Tensor, size: Size | None, generator: torch.Generator, max_shift: int | None = None) -> Tensor:
    """(..., H, W) -> (..., *size) from a random place, each as likely.

    Args:
        clip: (..., H, W).
        size: (height, width) of the crop; None leaves the clip as it is.
        generator: source of chance.
        max_shift: pixels that the crop may lie off the centre; None lets it lie anywhere.

    Raises:
        ValueError: the crop does not fit in the frame.
    """
    if size is None:
        return clip
    height, width = clip.shape[-2:]
    _check_crop(height, width, size)
    top, left = (_random_place(room, generator, max_shift) for room in (height - size[0], width - size[1]))
    return clip[..., top : top + size[0], left : left + size[1]]


def _random_place(room: int, generator: torch.Generator, max_shift: int | None) -> int:
    slack = room if max_shift is None else min(room, 2 * max_shift)
    return (room - slack) // 2 + int(torch.randint(slack + 1, (), generator=generator))


def spread_crops(clip: Tensor, size: Size | None, num_crops: int) -> list[Tensor]:
    """(..., H, W) -> crops (..., *size) spread evenly along the roomier side (or the width); one is the centre.

    Raises:
        ValueError: the crop does not fit in the frame.
    """
    if size is None or num_crops == 1:
        return [center_crop(clip, size)] * num_crops
    height, width = clip.shape[-2:]
    _check_crop(height, width, size)
    rooms = (height - size[0], width - size[1])
    crops = []
    along_height = rooms[0] > rooms[1]
    for i in range(num_crops):
        top, left = (
            room * i // (num_crops - 1) if is_spread else room // 2
            for room, is_spread in zip(rooms, (along_height, not along_height), strict=True)
        )
        crops.append(clip[..., top : top + size[0], left : left + size[1]])
    return crops


def flip(clip: Tensor) -> Tensor:
    """(..., H, W) mirrored left to right."""
    return clip.flip(-1)


def color_jitter(clip: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """uint8 -> uint8 with contrast and brightness changed by up to `strength` (0..1), alike in all frames."""
    contrast, brightness = 1 + strength * (2 * torch.rand(2, generator=generator) - 1)
    mean = clip.float().mean()
    table = ((torch.arange(256) - mean) * contrast + mean * brightness).round().clamp(0, 255).to(torch.uint8)
    return table[clip.long()]


def prepare(clips: Tensor, spec: ClipSpec, network: nn.Module) -> Tensor:
    """uint8 clips (B, C, T, H, W) -> what the network takes: normalised, on its device, in its precision."""
    like = next(network.parameters(), torch.empty(0))
    return normalize(clips.to(like.device), spec.mean, spec.std).to(like.dtype)


def normalize(clips: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (..., C, T, H, W) -> float32 `(x / 255 - mean) / std`, channel by channel."""
    shape = (-1, 1, 1, 1)
    scale = torch.tensor(std, device=clips.device).view(shape) * 255
    shift = torch.tensor(mean, device=clips.device).view(shape) * 255
    return clips.float().sub_(shift).div_(scale)
