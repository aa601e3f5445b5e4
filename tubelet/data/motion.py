"""The built-in data set: real H.264 files, drawn by code, in which only motion tells the class.

Each clip shows one shape before a smooth background, with a camera's noise. Its place, angle and size are
uniform over their ranges at every instant, whatever the class: what leaves its range begins again at the other
end. So a single frame says nothing about the class, only change does.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..machine import cache_dir, kept
from ..terminal import progress
from .video import write_video

CLASSES = ("clockwise", "counterclockwise", "down", "growing", "left", "right", "shrinking", "up")
SIZE = 64
FPS = 25.0
NUM_FRAMES = 40
TRAIN, VAL = 28, 8  # clips a class
VERSION = 1  # of the drawing: another one is another folder

_SMALLEST, _LARGEST = 0.16, 0.32  # radius of a shape, in sides of the frame
_NEAR, _FAR = 0.2, 0.8  # its place

Shape = Callable[[Tensor, Tensor], Tensor]

# Shapes without symmetry under rotation, so that their angle can be seen; (u, v) run over -1..1.
SHAPES: tuple[Shape, ...] = (
    lambda u, v: (u.abs() < 1) & (v.abs() < 0.35),  # bar
    lambda u, v: (v > -0.6) & (v < 1 - 2 * u.abs()),  # triangle
    lambda u, v: (u * u + v * v < 1) & (v > 0),  # half disc
    lambda u, v: (u.abs().maximum(v.abs()) < 0.9) & ((u < -0.25) | (v > 0.25)),  # L
    lambda u, v: (u * u + v * v < 1) & ((u + 0.45) ** 2 + v * v > 0.5),  # crescent
)


@dataclass(frozen=True)
class Motion:
    """How a shape changes from one frame to the next.

    Attributes:
        right: of place, to the right, in parts of its range.
        down: of place, downwards, in parts of its range.
        turn: of angle, clockwise, in radians.
        grow: of size, in parts of its range.
    """

    right: float = 0.0
    down: float = 0.0
    turn: float = 0.0
    grow: float = 0.0


def motion_of(name: str, speed: float) -> Motion:
    """The motion of a class; speed 1 is the middle one."""
    return {
        "left": Motion(right=-0.04 * speed),
        "right": Motion(right=0.04 * speed),
        "up": Motion(down=-0.04 * speed),
        "down": Motion(down=0.04 * speed),
        "clockwise": Motion(turn=0.14 * speed),
        "counterclockwise": Motion(turn=-0.14 * speed),
        "growing": Motion(grow=0.025 * speed),
        "shrinking": Motion(grow=-0.025 * speed),
    }[name]


def draw(names: Sequence[str], num_frames: int, generator: torch.Generator) -> Tensor:
    """A clip in which one shape makes these motions in turn: uint8 (3, len(names) * num_frames, 64, 64)."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    x, y, angle, size = uniform(0, 1, 4).tolist()
    angle *= 2 * math.pi
    poses = []
    for name in names:
        motion = motion_of(name, float(uniform(0.7, 1.4)))
        for _ in range(num_frames):
            poses.append((x % 1, y % 1, angle, size % 1))
            x, y, angle, size = x + motion.right, y + motion.down, angle + motion.turn, size + motion.grow
    shape = SHAPES[int(torch.randint(len(SHAPES), (), generator=generator))]
    masks = _masks(shape, torch.tensor(poses))
    ground = F.interpolate(uniform(0, 0.45, 1, 3, 4, 4), SIZE, mode="bicubic")[0].unsqueeze(1)
    clip = ground * (1 - masks) + uniform(0.55, 1, 3, 1, 1, 1) * masks
    noise = torch.randn(clip.shape, generator=generator) * float(uniform(0.01, 0.04))
    return ((clip + noise).clamp(0, 1) * 255).round().to(torch.uint8)


def _masks(shape: Shape, poses: Tensor) -> Tensor:
    """Coverage (T, 64, 64) of a shape at poses (T, 4), antialiased."""
    fine = (torch.arange(2 * SIZE) + 0.5) / (2 * SIZE)
    x, y, angle, size = (column.view(-1, 1, 1) for column in poses.unbind(1))
    radius = _SMALLEST * (_LARGEST / _SMALLEST) ** size
    dx = fine.view(1, 1, -1) - (_NEAR + (_FAR - _NEAR) * x)
    dy = fine.view(1, -1, 1) - (_NEAR + (_FAR - _NEAR) * y)
    u = (dx * angle.cos() + dy * angle.sin()) / radius
    v = (dy * angle.cos() - dx * angle.sin()) / radius
    return F.avg_pool2d(shape(u, v).float(), 2)


def motion(root: str | os.PathLike | None = None, *, seed: int = 0) -> Path:
    """Folder of the data set, `train/` and `val/` with a folder of clips for each class; drawn once, in seconds.

    It holds 288 clips of 40 frames, 64x64 pixels, 25 frames a second.

    Args:
        root: where; None is the cache folder.
        seed: of all that is drawn at random.
    """
    root = Path(root) if root is not None else cache_dir() / f"motion-v{VERSION}-seed{seed}"
    if root.exists():
        if not (root / "train").is_dir():
            raise ValueError(f"{root}: exists and is not the motion data set; give a new folder")
        return root
    files = [
        (split, name, number)
        for split, count in (("train", TRAIN), ("val", VAL))
        for name in CLASSES
        for number in range(count)
    ]
    with kept(root) as made:
        for i, (split, name, number) in enumerate(progress(files, "drawing the motion data set")):
            path = made / split / name / f"{name}_{number:03}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            generator = torch.Generator().manual_seed(1_000_003 * seed + i)
            write_video(path, draw([name], NUM_FRAMES, generator).unbind(1), FPS)
    return root


def long_video(
    path: str | os.PathLike, names: Sequence[str], *, seconds: float = 4.0, seed: int = 0
) -> list[tuple[float, float, str]]:
    """Write one video with several motions in a row.

    Args:
        path: the video file.
        names: the motions, in order.
        seconds: length of each.
        seed: of all that is drawn at random.

    Returns:
        Its truth, rows (start_s, end_s, class name).
    """
    frames = round(seconds * FPS)
    generator = torch.Generator().manual_seed(seed)
    write_video(path, draw(names, frames, generator).unbind(1), FPS)
    return [(i * frames / FPS, (i + 1) * frames / FPS, name) for i, name in enumerate(names)]
