"""Measures of masks: how much of each structure is right, and how far in millimetres its surface is off.

All are of one case and one class at a time, of the classes from 1 up; class 0 is the background and voxels with a
target below 0 have no label. Where a class is

- neither in the answer nor in the truth, it is not counted: every measure is nan, which means leave out;
- in one of the two alone, Dice, IoU and surface Dice are 0 and HD95 is infinite: there is no surface to be near to.

A figure of a class is the mean over cases, that of a task the mean over its classes. Means of HD95 are over the cases
in which it is finite, and stand beside `missed`, the number of those in which it is not.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import metrics
from .machine import needs

__all__ = ["MEASURES", "case", "counts", "dice_iou", "mean", "overlaps", "summary"]

MEASURES = ("dice", "iou", "hd95_mm", "surface_dice")
TOLERANCE_MM = 1.0  # as most tasks of the Medical Segmentation Decathlon have it
PERCENTILE = 95


def counts(labels: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """Voxels of each class in one case: right, answered and true, (3, K) int64.

    Args:
        labels: found, class indices (D, H, W).
        targets: true, class indices (D, H, W); voxels below 0 have no label and are cut out of both.
        num_classes: K.

    Raises:
        ValueError: the shapes differ, or a class is none of these.
    """
    labels, targets = _checked(labels, targets, num_classes)
    pairs = torch.bincount(num_classes * targets[targets >= 0] + labels[targets >= 0], minlength=num_classes**2)
    confusion = pairs.view(num_classes, num_classes)
    return torch.stack((confusion.diagonal(), confusion.sum(0), confusion.sum(1)))


def dice_iou(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Dice coefficient and intersection over union (..., K - 1) of the classes from 1 up, from `counts` (..., 3, K).

    nan where a class is in neither.
    """
    right, answered, true = numbers.double()[..., 1:].unbind(-2)
    return 2 * right / (answered + true), right / (answered + true - right)


def mean(values: Tensor) -> tuple[Tensor, Tensor]:
    """Measures (N, K - 1) of N cases -> the mean over cases of each class (K - 1,), and that over its classes.

    What is nan or infinite is left out.
    """
    each = values.where(values.isfinite(), torch.nan).nanmean(0)
    return each, each.nanmean()


def overlaps(num_classes: int) -> Any:
    """Dice and IoU of whole cases, batch by batch, exact over processes.

    Args:
        num_classes: K.

    Returns:
        A torchmetrics Metric; `update(logits (B, K, D, H, W) or labels (B, D, H, W), targets (B, D, H, W))` with B
            cases, `compute()` gives `dice` and `iou`, means over classes of the mean over cases, and `dice_of_class`
            and `iou_of_class` (K - 1,) of the classes from 1 up, nan of one that no case has.
    """

    def measure(answers: Tensor, targets: Tensor) -> tuple[Tensor]:
        labels = answers.argmax(1) if answers.ndim > targets.ndim else answers
        pairs = zip(labels, targets, strict=True)
        return (torch.stack([counts(found, true, num_classes) for found, true in pairs]),)

    def figures(numbers: Tensor) -> dict[str, Tensor]:
        (dice, mean_dice), (iou, mean_iou) = map(mean, dice_iou(numbers.cpu()))
        return {"dice": mean_dice, "iou": mean_iou, "dice_of_class": dice, "iou_of_class": iou}

    return metrics.rows((torch.zeros(0, 3, num_classes, dtype=torch.int64),), measure, figures)


def case(
    labels: Tensor,
    targets: Tensor,
    num_classes: int,
    spacing_mm: Sequence[float],
    *,
    tolerance_mm: float = TOLERANCE_MM,
) -> dict[str, Tensor]:
    """All measures of one case.

    Surfaces are the voxels of a class that have a face outside it, or at the border of the scan; faces along an axis of
    one voxel do not count, so that those of a single slice are the edges of areas. HD95 is the distance within which
    95 % of one surface lie from the other, the larger of the two directions (Huttenlocher et al. 1993, the percentile
    as in MONAI). Surface Dice is the share of both surfaces within a tolerance of the other (Nikolov et al.
    2018, arXiv 1809.04430, counted in voxels).

    Args:
        labels: found, class indices (D, H, W).
        targets: true, class indices (D, H, W); those below 0 are taken out of both.
        num_classes: K.
        spacing_mm: (depth, height, width) of a voxel.
        tolerance_mm: of surface Dice.

    Returns:
        For each of `MEASURES` a tensor (K - 1,) float64 of the classes from 1 up, after the rule for empty ones.

    Raises:
        ValueError: the shapes differ, a class is none of these, or a spacing is not above 0.
    """
    if len(spacing_mm) != 3 or not min(spacing_mm) > 0:
        raise ValueError(f"spacing_mm {tuple(spacing_mm)} must be three lengths above 0: depth, height, width")
    labels, targets = labels.cpu(), targets.cpu()
    numbers = counts(labels, targets, num_classes)
    dice, iou = dice_iou(numbers)
    far, near = dice.clone(), dice.clone()  # nan where a class is in neither
    for k in range(1, num_classes):
        _, answered, true = numbers[:, k].tolist()
        if answered and true:
            far[k - 1], near[k - 1] = _surfaces((labels == k) & (targets >= 0), targets == k, spacing_mm, tolerance_mm)
        elif answered or true:
            far[k - 1], near[k - 1] = torch.inf, 0.0
    return dict(zip(MEASURES, (dice, iou, far, near), strict=True))


def summary(cases: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Means over cases, of what `case` gave of each.

    Args:
        cases: of each case, tensors (K - 1,).

    Returns:
        For each of `MEASURES` the mean over classes of the mean over cases, under its name with `_of_class` the means
            of each class (K - 1,), and `missed` (K - 1,), in how many cases a class is in one of the two alone.

    Raises:
        ValueError: there are no cases.
    """
    if not cases:
        raise ValueError("no cases to take means over")
    stacked = {name: torch.stack([each[name] for each in cases]) for name in MEASURES}
    found = {}
    for name, values in stacked.items():
        found[f"{name}_of_class"], found[name] = mean(values)
    return {**found, "missed": stacked["hd95_mm"].isinf().sum(0)}


def _checked(labels: Tensor, targets: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Both as flat int64 on one device."""
    if labels.shape != targets.shape:
        raise ValueError(f"labels {tuple(labels.shape)} for targets {tuple(targets.shape)}: both are (D, H, W)")
    flat = labels.long().flatten(), targets.to(labels.device).long().flatten()
    for name, values in zip(("labels", "targets"), flat, strict=True):
        if values.numel() and int(values.max()) >= num_classes:
            raise ValueError(f"{name} hold class {int(values.max())}; there are {num_classes}, from 0 up")
    if flat[0].numel() and int(flat[0].min()) < 0:
        raise ValueError(f"labels hold {int(flat[0].min())}; an answer is a class from 0 up")
    return flat


def _surfaces(found: Tensor, true: Tensor, spacing_mm: Sequence[float], tolerance_mm: float) -> tuple[Tensor, Tensor]:
    """HD95 in millimetres and surface Dice of two masks (D, H, W), neither empty."""
    with needs("volume"):
        from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    flat = [axis for axis, n in enumerate(true.shape) if n == 1][:1]  # MONAI takes two axes or three
    pair = found.squeeze(flat)[None, None], true.squeeze(flat)[None, None]
    spacing = [float(each) for axis, each in enumerate(spacing_mm) if axis not in flat]
    options: dict[str, Any] = {"include_background": True, "spacing": spacing}
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of MONAI about its own calls
        far = compute_hausdorff_distance(*pair, percentile=PERCENTILE, **options)
        return far[0, 0], compute_surface_dice(*pair, [tolerance_mm], **options)[0, 0]
