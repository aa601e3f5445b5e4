"""A small run for tests/test_fit.py, which may die on the way."""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import torch

import tubelet
from tubelet import feed, fit, memory, optim, tasks
from tubelet.data.loader import loader
from tubelet.data.mixing import Mixing
from tubelet.data.order import EpochOrder
from tubelet.data.sample import VideoData


class Clips:
    """Drawn by their key."""

    size = 4, 16, 16

    def __len__(self):
        return 22

    def name(self, key):
        return f"clip {key}"

    def __getitem__(self, key):
        _, index, _ = key
        generator = torch.Generator().manual_seed(hash(key))
        return torch.randint(0, 255, (3, *self.size), generator=generator, dtype=torch.uint8), index % 3


class Views(Clips):
    """The validation part."""

    def __len__(self):
        return 7

    def __getitem__(self, index):
        clip, target = super().__getitem__((0, index, 0))
        return clip[None], target, index


class DyingSGD(torch.optim.AdamW):
    """An optimizer that kills its process after a number of steps, as kill -9 does."""

    dies_at: int | None = None
    slow_s = 0.0
    steps = 0

    def step(self, closure=None):
        time.sleep(self.slow_s)
        self.steps += 1
        if self.steps == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(closure)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--die_at", type=int)
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--large", action="store_true", help="clips, whose last maps hold a kernel")
    parser.add_argument("--strategy", default="ddp")
    parser.add_argument("--precision", default="32")
    parser.add_argument("--average", action="store_true")
    parser.add_argument("--precise", action="store_true", help="statistics of batch norms")
    parser.add_argument("--checkpointed", action="store_true", help="stages are computed again")
    asked = parser.parse_args()
    asked.folder.mkdir(exist_ok=True)
    if asked.large:
        Clips.size = 16, 56, 56

    torch.manual_seed(0)
    network = tubelet.create("tiny_3d", num_classes=3)
    network.head.dropout.p = 0.2
    network.spec = dataclasses.replace(network.spec, classes=("a", "b", "c"))
    average = optim.averaged(network, 0.5) if asked.average else None
    fabric = fit.open_fabric(precision=asked.precision, strategy=asked.strategy)
    optimizer = DyingSGD(network.parameters(), lr=1e-2)
    optimizer.dies_at, optimizer.slow_s = asked.die_at, asked.slow
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    shared = {"rank": fabric.global_rank, "world": fabric.world_size}
    batches = loader(
        feed.Noted(Clips()), asked.batch, order=EpochOrder(22, 0), accumulate=asked.accumulate, workers=2, **shared
    )
    val_batches = loader(feed.Noted(Views()), 4, order=range(fabric.global_rank, 7, fabric.world_size), workers=0)
    still = loader(feed.Noted(Clips()), 4, order=[(0, i, 0) for i in range(8)], workers=0)
    course = fit.Course(3, 0, lambda step, steps: 1 - step / steps, Mixing(mixup=0.2), clip_norm=1.0, checkpoint_s=0)
    task = tasks.task_of(VideoData(("a", "b", "c"), {}), "cross_entropy", 0.1, "none", torch.ones(3))
    stages = memory.checkpointed(network.stages) if asked.checkpointed else contextlib.nullcontext()

    def on_epoch(validated, progress, _):
        (asked.folder / "history.json").write_text(json.dumps(progress.history))
        torch.save(validated.state_dict(), asked.folder / "weights.pt")

    try:
        with stages:
            fit.fit(
                fabric, network, task, optimizer, batches, val_batches, course, asked.folder, resume=asked.resume,
                average=average, still=still if asked.precise else None, on_epoch=on_epoch,
            )  # fmt: skip
    finally:
        batches.close()
        val_batches.close()


if __name__ == "__main__":
    main()
