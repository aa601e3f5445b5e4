"""Batches: the order of the samples, the worker processes, and what a failed worker has to say."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from .video import VideoError


class EpochOrder(Sampler[tuple[int, int]]):
    """Keys (epoch, index) of all samples in a random order, the same for the same (seed, epoch)."""

    def __init__(self, num_samples: int, seed: int) -> None:
        self.num_samples, self.seed, self.epoch = num_samples, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(hash((self.seed, self.epoch)) & (2**63 - 1))
        for index in torch.randperm(self.num_samples, generator=generator).tolist():
            yield self.epoch, index


def loader(
    dataset: Dataset, batch_size: int, *, order: Sampler | None = None, workers: int | None = None
) -> DataLoader:
    """Batches of `batch_size`, the last one maybe smaller.

    Args:
        dataset: gives a sample for each key.
        batch_size: samples in a batch.
        order: the keys in the order of reading; None takes the samples as they stand.
        workers: processes that read; 0 reads in this one. None takes one a core and leaves one core to the network,
            and 0 where processes are not forked (macOS, Windows).
    """
    if workers is None:
        # elsewhere a worker imports the caller's script anew, which runs a script without `if __name__` twice
        can_fork = multiprocessing.get_start_method() == "fork"
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = max(1, min(8, cores - 1)) if can_fork else 0
    if workers < 0:
        raise ValueError(f"workers {workers} must be at least 0")
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=order,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=_batch,
        pin_memory=torch.cuda.is_available(),
    )


def _batch(samples: list) -> object:
    try:
        return default_collate(samples)
    except RuntimeError:
        sizes = sorted({tuple(sample[0].shape[-2:]) for sample in samples})
        raise VideoError(
            f"clips of different sizes (height, width) {sizes} cannot be one batch: give a crop, or resize to a size"
        ) from None


def reason(error: Exception) -> str:
    """What an error says in one line; one that a worker process raised comes wrapped in its traceback."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    text, name = str(error).strip(), type(error).__name__
    if "Original Traceback" in text:
        name, _, text = text.splitlines()[-1].partition(": ")
    return text or name
