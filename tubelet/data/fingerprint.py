"""Near copies: a video in 576 numbers that change little when it is re-encoded, resized or trimmed a little.

A hash of single frames cannot tell two scenes of one camera from two copies of one scene. So what is compared is how
the picture looks on average and how it changes, and a difference counts by how much there is of that change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

NUM_FRAMES = 16  # looked at in each video
SIZE = 32  # pixels of the sides to which they are resized
NEAR = 0.2  # distance below which two are copies; docs/doctor.md has the measurements
_GRID = 8  # fields along a side
_WAVES = 9  # of change over time that are kept, the average among them: quicker ones do not survive a trim
_NOISE = 1.0  # grey levels that compression alone may change
_BLOCK = 1024


def spread(num_frames: int) -> list[int]:
    """The frames to look at, from the first to the last; of a short video some come twice."""
    return [round(i * (num_frames - 1) / (NUM_FRAMES - 1)) for i in range(NUM_FRAMES)]


def fingerprint(clip: Tensor) -> Tensor:
    """A video in (576,) float32, from its frames `spread`, uint8 (3, 16, 32, 32).

    Of each of 8 x 8 fields the grey level over time, as the amplitudes of its first nine cosine waves. The mean level
    of all is left out. The squares of the numbers add up to squared grey levels.
    """
    fields = torch.nn.functional.avg_pool2d(clip.float().mean(0), SIZE // _GRID).flatten(1)
    time = (torch.arange(NUM_FRAMES) + 0.5) / NUM_FRAMES
    waves = torch.cos(math.pi * time * torch.arange(_WAVES).unsqueeze(1)) * math.sqrt(2)
    waves[0] = 1
    amplitudes = waves @ fields / NUM_FRAMES / _GRID
    amplitudes[0] -= amplitudes[0].mean()
    return amplitudes.flatten()


def nearest(prints: Tensor, among: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """The nearest of other videos for each video, 1024 at a time: distances (n,) and their indices (n,).

    The distance is the mean square of the differences, in parts of the mean square of all change over time in both
    videos: 0 for equal ones, about 1 for two takes of one scene, more for different scenes.

    Args:
        prints: (N, 576) float32.
        among: (M, 576) float32, M at least 1; None looks among the videos that follow each, and the last has an
            infinite distance.
    """
    others = prints if among is None else among
    square, other_square = prints.square().sum(1), others.square().sum(1)
    change, other_change = (each[:, _GRID**2 :].square().sum(1) + _NOISE**2 / 2 for each in (prints, others))
    for start in range(0, len(prints), _BLOCK):
        block = slice(start, start + _BLOCK)
        first = start if among is None else 0
        distance = prints[block] @ others[first:].T
        distance.mul_(-2).add_(square[block, None]).add_(other_square[first:]).clamp_(min=0)
        distance.div_(change[block, None] + other_change[first:])
        if among is None:
            own = distance[:, : len(distance)]
            own += torch.full_like(own, torch.inf).tril_()
        least, index = distance.min(1)
        yield least, index + first
