"""Average precision of boxes, as AVA measures who does what in a frame (Gu et al. 2018, arXiv 1705.08421).

The measure is that of PASCAL VOC 2010 and later (Everingham et al. 2015): a box of a class is right where it overlaps
a true box of the class by at least half, the surest one first; each true box is found once. Average precision is the
area under all points of precision over recall, precision made to fall. The mean is over the classes that are evaluated
and occur. Boxes are (x1, y1, x2, y2), in any unit that both sides share.
"""

from __future__ import annotations

import torch
from torch import Tensor

IOU = 0.5


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (N, 4) with boxes (M, 4): (N, M), 0..1; 0 of two empty boxes."""
    top_left = torch.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (bottom_right - top_left).clamp(min=0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None] - shared
    return torch.where(union > 0, shared / union, torch.zeros_like(union))


def matches(boxes: Tensor, scores: Tensor, truth: Tensor, labels: Tensor, ignored: Tensor | None = None) -> Tensor:
    """Which of the boxes found in one frame are right, for each class.

    Args:
        boxes: found, (N, 4).
        scores: of each class, (N, K).
        truth: true boxes (M, 4).
        labels: their classes (M, K), 0 or 1.
        ignored: (M,) true for true boxes that it is neither right nor wrong to find (VOC's `difficult`).

    Returns:
        int8 (N, K): 1 right, 0 wrong, -1 not counted.

    Raises:
        ValueError: the shapes do not fit.
    """
    if boxes.shape != (len(scores), 4) or truth.shape != (len(labels), 4) or scores.shape[1:] != labels.shape[1:]:
        shapes = ", ".join(str(tuple(each.shape)) for each in (boxes, scores, truth, labels))
        raise ValueError(f"boxes, scores, truth, labels {shapes}; they are (N, 4), (N, K), (M, 4), (M, K)")
    if not len(boxes) or not len(truth):
        return torch.zeros_like(scores, dtype=torch.int8)
    order = scores.argsort(dim=0, descending=True, stable=True)
    of_class = torch.where(labels[None] > 0, box_iou(boxes, truth)[..., None], -1.0)  # (N, M, K)
    iou, which = (each.gather(0, order) for each in of_class.max(1))  # from here on, the surest box of a class first
    points = torch.nn.functional.one_hot(which, len(truth)) * (iou >= IOU)[..., None]  # (N, K, M)
    is_first = (points.cumsum(0) * points == 1).any(2)
    counted = is_first.to(torch.int8)
    if ignored is not None:
        counted[(points.bool() & ignored.bool()).any(2)] = -1
    return torch.zeros_like(counted).scatter(0, order, counted)


def average_precision(scores: Tensor, found: Tensor, num_true: Tensor) -> Tensor:
    """Average precision of each class over all frames.

    Args:
        scores: of the boxes of all frames, (N, K).
        found: of them, from `matches`, (N, K).
        num_true: true boxes of each class, without ignored ones, (K,).

    Returns:
        (K,) float64, 0..1; nan for classes without a true box.
    """
    scores, found, num_true = scores.cpu(), found.cpu(), num_true.cpu()
    values = torch.full((scores.shape[1],), torch.nan, dtype=torch.float64)
    for k in num_true.nonzero().flatten().tolist():
        is_counted = found[:, k] >= 0
        order = scores[is_counted, k].argsort(descending=True, stable=True)
        right = found[is_counted, k][order].double()
        precision = right.cumsum(0) / torch.arange(1, len(right) + 1)
        falling = precision.flip(0).cummax(0).values.flip(0) if len(right) else precision
        values[k] = (falling * right).sum() / num_true[k]
    return values
