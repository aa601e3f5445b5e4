"""The order of the samples in each epoch of a training: a pure function of seed and epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

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
        classes: class of each sample. Then each class is as likely: an epoch has as many videos of each, the rare
            ones several times, the frequent ones in part, another part every epoch. None: each sample once.
        rank: of this process, of `world` that share each epoch. All have as many keys: what is left over is left
            out, others every epoch.
        world: number of processes.

    Raises:
        ValueError: a number is out of its range, or there are fewer samples than processes.
    """

    num_samples: int
    seed: int
    clips_per_video: int = 1
    classes: Sequence[int] | None = None
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.clips_per_video < 1:
            raise ValueError(f"clips_per_video {self.clips_per_video} must be at least 1")
        if self.classes is not None and len(self.classes) != self.num_samples:
            raise ValueError(f"{len(self.classes)} classes for {self.num_samples} samples: give one for each")
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank {self.rank} must lie in 0..{self.world - 1}, world is {self.world}")
        if 0 < self.num_samples < self.world:
            raise ValueError(f"{self.num_samples} samples for {self.world} processes: each needs one at least")

    def __len__(self) -> int:
        return self.num_samples // self.world * self.clips_per_video

    def keys(self, epoch: int) -> list[Key]:
        """The keys of an epoch."""
        generator = torch.Generator().manual_seed(hash((self.seed, epoch)) & (2**63 - 1))
        if self.classes is None:
            indices = torch.randperm(self.num_samples, generator=generator).tolist()
        else:
            indices = _balanced(self.classes, generator)
        visits: Counter[int] = Counter()
        keys = []
        for index in indices[: self.num_samples // self.world * self.world]:
            first = visits[index] * self.clips_per_video
            visits[index] += 1
            keys.append([(epoch, index, first + i) for i in range(self.clips_per_video)])
        return [key for video in keys[self.rank :: self.world] for key in video]


def _balanced(classes: Sequence[int], generator: torch.Generator) -> list[int]:
    """As many indices as samples, as many of each class, or one more of some."""
    members: dict[int, list[int]] = {}
    for index, name in enumerate(classes):
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
