"""Tasks: what a network is asked, how wrong it is, and how well it does. The same loop trains them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from . import metrics

__all__ = ["Task", "classify"]

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Task:
    """A task on a number of classes.

    Attributes:
        name: as `--task` names it.
        num_classes: K of the logits.
        loss: output and target -> mean loss of a part of a step, in training.
        plain_loss: the same without smoothing and weights, in validation.
        measures: makes a torchmetrics collection, updated with output and target.
        figures: what it computes -> figures of a row, their names with `val_`.
        best: name of the figure of which the best epoch has most.
    """

    name: str
    num_classes: int
    loss: Loss
    plain_loss: Loss
    measures: Callable[[], Any]
    figures: Callable[[dict[str, Tensor]], dict[str, float]]
    best: str

    def quality(self, row: dict[str, float]) -> tuple[float, float]:
        """What the best epoch has most of: its figure, and among equals the lower loss."""
        return row[self.best], -row["val_loss"]


def classify(num_classes: int, loss: Loss) -> Task:
    """One class a clip: logits (B, K), targets (B,) or, mixed, (B, K)."""

    def figures(measured: dict[str, Tensor]) -> dict[str, float]:
        confusion = measured.pop("confusion")
        found = {f"val_{name}": value.item() for name, value in sorted(measured.items())}
        return found | {"val_mean_class": metrics.mean_class(confusion)}

    return Task(
        "classify", num_classes, loss, F.cross_entropy, lambda: metrics.classification(num_classes), figures, "val_top1"
    )
