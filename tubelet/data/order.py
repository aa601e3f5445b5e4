"""The order of the samples in each epoch of a training, and their parts in its steps: pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index as as_int
from typing import NamedTuple

import torch

Key = tuple[int, int, int]  # epoch, index of the sample, which of its clips


@dataclass(frozen=True)
class EpochOrder:
    """The keys (epoch, index, draw) of each epoch in a random order, the same for the same seed and epoch.

    Attributes:
        num_samples: of the data set; an epoch visits as many videos.
        seed: of the order.
        clips_per_video: keys of one video that follow one another, so that it is opened once for all of them
            (repeated augmentation, arXiv 1901.09335); `draw` counts the keys of a video in the epoch.
        classes: class of each sample, a number. Then each class is as likely: an epoch has as many videos of each, the
            rare ones several times, the frequent ones in part, another part every epoch. None: each sample once.

    Raises:
        ValueError: a number is out of its range.
    """

    num_samples: int
    seed: int
    clips_per_video: int = 1
    classes: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.clips_per_video < 1:
            raise ValueError(f"clips_per_video {self.clips_per_video} must be at least 1")
        if self.classes is not None and len(self.classes) != self.num_samples:
            raise ValueError(f"{len(self.classes)} classes for {self.num_samples} samples: give one for each")

    def __len__(self) -> int:
        return self.num_samples * self.clips_per_video

    def keys(self, epoch: int) -> list[Key]:
        """The keys of an epoch."""
        generator = torch.Generator().manual_seed(hash((self.seed, epoch)) & (2**63 - 1))
        if self.classes is None:
            indices = torch.randperm(self.num_samples, generator=generator).tolist()
        else:
            indices = _balanced(self.classes, generator)
        visits: Counter[int] = Counter()
        keys = []
        for index in indices:
            first = visits[index] * self.clips_per_video
            visits[index] += 1
            keys += [(epoch, index, first + i) for i in range(self.clips_per_video)]
        return keys


def _balanced(classes: Sequence[int], generator: torch.Generator) -> list[int]:
    """As many indices as samples, as many of each class, or one more of some."""
    members: dict[int, list[int]] = {}
    for index, name in enumerate(map(as_int, classes)):  # those of a tensor are equal to themselves alone
        members.setdefault(name, []).append(index)
    lucky = set(torch.randperm(len(members), generator=generator)[: len(classes) % len(members)].tolist())
    chosen: list[int] = []
    for number, indices in enumerate(members.values()):
        left = len(classes) // len(members) + (number in lucky)
        while left > 0:  # every video of the class once, before any comes again
            order = torch.randperm(len(indices), generator=generator)[:left].tolist()
            chosen += [indices[i] for i in order]
            left -= len(order)
    return [chosen[i] for i in torch.randperm(len(chosen), generator=generator).tolist()]


class Part(NamedTuple):
    """Clips that go through the network at once: a step, or a part of one.

    Attributes:
        start: place of the first clip in the epoch.
        stop: the place after the last.
        share: of the step's clips, 0..1: weight of this part's mean loss in that of the step.
        number: of the part in the epoch, counted over all processes, so that chance drawn by it does not depend on
            how many there are.
        is_last: the weights change after it.
    """

    start: int
    stop: int
    share: float
    number: int
    is_last: bool


def deal(num_clips: int, batch_size: int, *, accumulate: int = 1, rank: int = 0, world: int = 1) -> list[Part]:
    """The parts of an epoch that a process reads, in order.

    A step of `batch_size` clips is cut into `world * accumulate` parts, as even as they can be. So two processes
    compute what one does that accumulates two parts, batch norm included. The last step of an epoch may be smaller;
    what cannot be shared among the processes is left out.

    Args:
        num_clips: of an epoch.
        batch_size: clips of a step, over all processes.
        accumulate: parts of a step that a process computes one after another.
        rank: of this process.
        world: number of processes.

    Raises:
        ValueError: a step has fewer clips than parts, or an epoch fewer than processes.
    """
    if batch_size < world * accumulate:
        raise ValueError(
            f"batch_size {batch_size} is less than {world} processes x {accumulate} parts: take a larger batch_size"
        )
    if num_clips < world:
        raise ValueError(f"{num_clips} clips for {world} processes: each needs one at least")
    parts: list[Part] = []
    for number, start in enumerate(range(0, num_clips, batch_size)):
        size = min(batch_size, num_clips - start)
        # each process has as many parts as the others, or they would wait for it for ever
        rounds = min(accumulate, size // world)
        pieces = rounds * world
        for i in range(rounds):
            piece = i * world + rank
            first, end = (start + size * each // pieces for each in (piece, piece + 1))
            share = (end - first) / size
            parts.append(Part(first, end, share, number * world * accumulate + piece, i == rounds - 1))
    return parts
