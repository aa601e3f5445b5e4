"""Measures of quality, from torchmetrics, so that they are exact over batches and over processes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .machine import needs

TOP_K = 5


def classification(num_classes: int) -> Any:
    """Accuracies of logits or scores (N, K) against class indices (N,).

    Args:
        num_classes: K.

    Returns:
        A torchmetrics MetricCollection of `top1`, `top5` (above five classes) and `confusion` (K, K) counts, rows the
            target, columns the prediction.
    """
    with needs("train"):
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

    measures: dict[str, Any] = {
        "top1": MulticlassAccuracy(num_classes, average="micro"),
        "confusion": MulticlassConfusionMatrix(num_classes),
    }
    if num_classes > TOP_K:
        measures["top5"] = MulticlassAccuracy(num_classes, top_k=TOP_K, average="micro")
    return MetricCollection(measures, compute_groups=False)


def mean_class(confusion: Tensor) -> float:
    """Accuracy averaged over the classes that occur, from (K, K) counts, rows the target."""
    counts = confusion.sum(1)
    return (confusion.diagonal()[counts > 0] / counts[counts > 0]).mean().item()
