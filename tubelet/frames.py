"""How well a label for each frame fits, counted in spans: edit score and F1 at an overlap (Lea et al. 2017).

Both ask what temporal action segmentation asks: are the same actions there, in the same order, at about the same time,
and not in splinters? The definitions are those of Lea et al. 2017 (arXiv 1611.05267) and of MS-TCN (Abu Farha and Gall
2019, arXiv 1903.01945), whose way of adding up over videos the field follows: frames are counted over all videos, the
edit score is the mean over videos, and the spans of all videos make one F1.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from .data.sample import Span

OVERLAPS = (0.1, 0.25, 0.5)
NUM_COUNTS = 5 + len(OVERLAPS)


def spans(labels: Tensor, background: Collection[int] = ()) -> list[Span]:
    """Stretches of one label, in frames, from labels (T,); those of background classes are left out.

    Args:
        labels: class indices (T,).
        background: classes that are no action; MS-TCN leaves out what is called `background`, and nothing else.
    """
    values, lengths = labels.unique_consecutive(return_counts=True)
    ends = lengths.cumsum(0)
    rows = zip((ends - lengths).tolist(), ends.tolist(), values.tolist(), strict=True)
    return [Span(*row) for row in rows if row[2] not in background]


def edit_score(found: Sequence[Span], truth: Sequence[Span]) -> float:
    """Likeness of two orders of actions, 0..1: 1 - Levenshtein distance / the longer length; 1 where both are empty.

    The length of a span does not matter, one splinter more does.
    """
    row = list(range(len(truth) + 1))
    for i, span in enumerate(found, start=1):
        above, row = row, [i]
        for j, other in enumerate(truth, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (span.target != other.target)))
    return 1 - row[-1] / max(1, len(found), len(truth))


def num_matched(found: Sequence[Span], truth: Sequence[Span], overlap: float) -> int:
    """How many true spans are found: each found span points at the one of its class that it overlaps most.

    It finds it where intersection over union is at least `overlap`; a second one that does is a false positive.
    """
    if not found or not truth:
        return 0
    a, b = torch.tensor(found, dtype=torch.float64)[:, None], torch.tensor(truth, dtype=torch.float64)[None]
    shared = torch.minimum(a[..., 1], b[..., 1]) - torch.maximum(a[..., 0], b[..., 0])
    reach = torch.maximum(a[..., 1], b[..., 1]) - torch.minimum(a[..., 0], b[..., 0])
    iou, which = (shared / reach * (a[..., 2] == b[..., 2])).max(1)
    return len(which[iou >= overlap].unique())


def counts(labels: Tensor, targets: Tensor, background: Collection[int] = ()) -> Tensor:
    """What is added up over videos, from one: (8,) for `figures`.

    Args:
        labels: found, class indices (T,).
        targets: true, class indices (T,); frames below 0 have no label and are cut out of both first.
        background: see `spans`; its frames count in the accuracy all the same.

    Returns:
        Videos, frames, frames that are right, edit score, found and true spans together, and for each of `OVERLAPS` the
            true spans that are found: (5 + 3,), float64. All are 0 where no frame has a label: that is no video.

    Raises:
        ValueError: there are not as many labels as targets.
    """
    if labels.shape != targets.shape or labels.ndim != 1:
        raise ValueError(f"labels {tuple(labels.shape)} for targets {tuple(targets.shape)}: both are (T,), one a frame")
    labels, targets = labels[targets >= 0], targets[targets >= 0]
    if not len(targets):
        return torch.zeros(NUM_COUNTS, dtype=torch.float64)
    found, truth = spans(labels, background), spans(targets, background)
    right = (labels == targets).sum().item()
    matched = [num_matched(found, truth, overlap) for overlap in OVERLAPS]
    values = [1, len(targets), right, edit_score(found, truth), len(found) + len(truth), *matched]
    return torch.tensor(values, dtype=torch.float64)


def figures(total: Tensor) -> dict[str, Tensor]:
    """`frame_accuracy`, `edit` and `f1_10`, `f1_25`, `f1_50`, 0..1, from the sum of `counts` over videos, (8,)."""
    videos, frames, right, edit, num_spans, *matched = total
    f1 = {
        f"f1_{100 * overlap:.0f}": 2 * found / num_spans.clamp(min=1)
        for overlap, found in zip(OVERLAPS, matched, strict=True)
    }
    return {"frame_accuracy": right / frames.clamp(min=1), "edit": edit / videos.clamp(min=1), **f1}
