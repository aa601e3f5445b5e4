"""Which frames make a clip: index arithmetic alone, nothing is read.

All functions count frames from 0 and take `num_frames`, T of the clip, and `step`, source frames between two of
its frames (a float where the rate of the video is not the clip's).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch

from ..spec import ClipSpec

Short = Literal["error", "loop", "hold"]


def step(spec: ClipSpec, fps: float) -> float:
    """Source frames between two frames of a clip, in a video of `fps` frames a second."""
    return spec.frame_stride if spec.fps is None else spec.frame_stride * fps / spec.fps


def _floor(frames: float) -> int:
    # a rate read from a file may fall short of the true one by a rounding error: 3 * 0.9999999 is frame 3
    return math.floor(frames + 1e-6)


def span(num_frames: int, step: float) -> int:
    """Source frames from the first to the last of a clip, both counted."""
    return _floor((num_frames - 1) * step) + 1


def count(total: int, step: float) -> int:
    """Frames of a clip that lasts as long as a video of `total` frames: those at or before the last one."""
    return _floor((total - 1) / step) + 1


def clip(start: int, num_frames: int, step: float) -> list[int]:
    """The clip that begins at frame `start`: T indices, none rounded up."""
    return [start + _floor(i * step) for i in range(num_frames)]


def fit(indices: list[int], total: int, short: Short = "error") -> list[int]:
    """Indices brought into a video of `total` frames.

    Args:
        indices: frames of a clip.
        total: frames of the video.
        short: what to do with indices beyond the end: `error` raises, `loop` begins again at frame 0, `hold` repeats
            the last frame.

    Raises:
        ValueError: an index is beyond the end and `short` is `error`, or the video has no frame.
    """
    if total < 1:
        raise ValueError(f"a video of {total} frames has no clip")
    if max(indices) < total:
        return indices
    if short == "error":
        raise ValueError(
            f"{total} frame{'s' * (total != 1)}, and a clip reaches over {max(indices) - min(indices) + 1}: take fewer "
            "frames (num_frames) or closer ones (frame_stride) in training, or say what short videos do: `short` loop "
            "begins them again, hold repeats their last frame"
        )
    return [SHORT[short](index, total) for index in indices]


SHORT: dict[str, Callable[[int, int], int]] = {
    "loop": lambda index, total: index % total,
    "hold": lambda index, total: min(index, total - 1),
}
SHORTS = ("error", *SHORT)


def random_start(total: int, span: int, generator: torch.Generator) -> int:
    """Start of a clip that lies in the video, every place as likely; 0 when the video is shorter."""
    return int(torch.randint(max(0, total - span) + 1, (), generator=generator))


def view_starts(total: int, span: int, num_views: int) -> list[int]:
    """Starts of `num_views` clips spread evenly from the first frame to the last; one view is the centre."""
    slack = max(0, total - span)
    if num_views == 1:
        return [slack // 2]
    return [slack * i // (num_views - 1) for i in range(num_views)]


def uniform(total: int, num_frames: int) -> list[int]:
    """The middle frames of `num_frames` equal parts of the video."""
    return [(2 * i + 1) * total // (2 * num_frames) for i in range(num_frames)]


def segments(total: int, num_segments: int, generator: torch.Generator | None = None) -> list[int]:
    """One frame of each of `num_segments` equal parts (TSN, arXiv 1608.00859): a random one, or the middle."""
    if generator is None:
        return uniform(total, num_segments)
    edges = [i * total // num_segments for i in range(num_segments + 1)]
    return [low + int(torch.randint(max(1, high - low), (), generator=generator)) for low, high in pairwise(edges)]


def window_starts(total: int, span: int, stride: int) -> list[int]:
    """Starts of windows every `stride` frames, the last one moved back so that it ends with the video."""
    last = max(0, total - span)
    starts = list(range(0, last + 1, stride))
    return starts if starts[-1] == last else [*starts, last]


def consecutive(total: int, num_frames: int, step: float, short: Short = "error") -> list[tuple[list[int], slice]]:
    """Clips that follow one another over a video of `total` frames, and which frames of each no clip before it has.

    Frames lie `step` apart from the first on, across clips as well. The last clip is moved back to end with the video.

    Raises:
        ValueError: as `fit`.
    """
    frames = count(total, step)
    grid, clips, done = clip(0, max(frames, num_frames), step), [], 0
    for start in window_starts(frames, num_frames, num_frames):
        end = min(start + num_frames, frames)
        clips.append((fit(grid[start : start + num_frames], total, short), slice(done - start, end - start)))
        done = end
    return clips
