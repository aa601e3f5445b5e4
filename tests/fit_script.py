"""A small run for tests/test_fit.py, which may die on the way."""

import argparse
import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import torch

import tubelet
from tubelet import feed, fit, tasks
from tubelet.data.loader import loader
from tubelet.data.mixing import Mixing
from tubelet.data.order import EpochOrder
from tubelet.data.sample import VideoData


class Clips:
    """Drawn by their key."""

    def __len__(self):
        return 22

    def name(self, key):
        return f"clip {key}"

    def __getitem__(self, key):
        _, index, _ = key
        generator = torch.Generator().manual_seed(hash(key))
        return torch.randint(0, 255, (3, 4, 16, 16), generator=generator, dtype=torch.uint8), index % 3


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
    asked = parser.parse_args()
    asked.folder.mkdir(exist_ok=True)

    torch.manual_seed(0)
    network = tubelet.create("tiny_3d", num_classes=3)
    network.head.dropout.p = 0.2
    network.spec = dataclasses.replace(network.spec, classes=("a", "b", "c"))
    fabric = fit.open_fabric()
    optimizer = DyingSGD(network.parameters(), lr=1e-2)
    optimizer.dies_at, optimizer.slow_s = asked.die_at, asked.slow
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    shared = {"rank": fabric.global_rank, "world": fabric.world_size}
    batches = loader(feed.Noted(Clips()), 8, order=EpochOrder(22, 0), accumulate=asked.accumulate, workers=2, **shared)
    val_batches = loader(feed.Noted(Views()), 4, order=range(fabric.global_rank, 7, fabric.world_size), workers=0)
    course = fit.Course(3, 0, lambda step, steps: 1 - step / steps, Mixing(mixup=0.2), clip_norm=1.0, checkpoint_s=0)
    task = tasks.task_of(VideoData(("a", "b", "c"), {}), "cross_entropy", 0.1, "none", torch.ones(3))
    try:
        progress = fit.fit(
            fabric, network, task, optimizer, batches, val_batches, course, asked.folder, resume=asked.resume,
            on_epoch=lambda *_: None,
        )  # fmt: skip
    finally:
        batches.close()
        val_batches.close()
    if fabric.is_global_zero:
        (asked.folder / "history.json").write_text(json.dumps(progress.history))
        torch.save(network.state_dict(), asked.folder / "weights.pt")


if __name__ == "__main__":
    main()
