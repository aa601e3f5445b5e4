"""Which clips of an epoch belong to which step, and which process reads them."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Part", "deal"]


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

    A step of `batch_size` clips is cut into `world * accumulate` parts, as even as they can be. So two processes compute
    what one does that accumulates two parts, batch norm included. The last step of an epoch may be smaller; what cannot
    be shared among the processes is left out.

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
