"""Measures of quality, from torchmetrics where it has them, exact over batches and over processes.

`classification`, `multilabel`, `framewise` and `detection` collect batch by batch, one for each task. The other
functions take the scores of all samples at once. How sure a figure is tells `bootstrap`. What is right for frames and
for boxes stands in `frames` and `boxes`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from . import boxes, frames
from .machine import needs
from .spec import at_least_one

TOP_K = 5
BINS = 15
_COLUMNS = 50  # resamples at a time


def classification(num_classes: int, *, has_auc: bool = False) -> Any:
    """Accuracies of logits or scores (N, K) against class indices (N,).

    Args:
        num_classes: K.
        has_auc: also the mean of `roc_auc`, for which the scores, not logits, of all samples are kept.

    Returns:
        A torchmetrics MetricCollection of `top1`, `top5` (above five classes) and `confusion` (K, K) counts, rows the
            target, columns the prediction; and `auc`.
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
    if has_auc:
        measures["auc"] = rows(
            (torch.zeros(0, num_classes), torch.zeros(0, dtype=torch.int64)),
            lambda scores, targets: (scores.detach(), targets),
            lambda scores, targets: {"auc": roc_auc(scores, targets).nanmean()},
        )
    return MetricCollection(measures, compute_groups=False)


def multilabel(num_classes: int) -> Any:
    """Mean average precision of logits or scores (N, K) against labels (N, K), 0 or 1.

    Args:
        num_classes: K.

    Returns:
        A torchmetrics Metric; `update(scores, labels)`, `compute()` gives `map`, the mean of `average_precision` over
            the classes that occur.
    """
    return rows(
        (torch.zeros(0, num_classes), torch.zeros(0, num_classes, dtype=torch.int8)),
        lambda scores, labels: (scores.detach(), labels > 0),
        lambda scores, labels: {"map": average_precision(scores, labels).nanmean()},
    )


def framewise(background: Collection[int] = ()) -> Any:
    """Frame accuracy, edit score and F1 at overlaps of logits or scores (B, K, T) against class indices (B, T).

    Each of the B is a video; targets below 0 have no label. See `frames.counts` for the definitions.

    Args:
        background: classes whose spans do not count.

    Returns:
        A torchmetrics Metric; `update(scores, targets)`, `compute()` gives `frame_accuracy`, `edit`, `f1_10`, `f1_25`
            and `f1_50`.
    """

    def measure(scores: Tensor, targets: Tensor) -> tuple[Tensor]:
        pairs = zip(scores.argmax(1).cpu(), targets.cpu(), strict=True)
        return (torch.stack([frames.counts(labels, true, background) for labels, true in pairs]),)

    empty = torch.zeros(0, frames.NUM_COUNTS)
    return rows((empty,), measure, lambda counts: frames.figures(counts.cpu().double().sum(0)))


def detection(num_classes: int, classes: Collection[int] = ()) -> Any:
    """Frame mAP of boxes at an IoU of 0.5, as AVA has it; see `boxes` for the definition.

    Args:
        num_classes: K.
        classes: those that are evaluated (60 of AVA's 80); empty means all.

    Returns:
        A torchmetrics Metric; `update(boxes (N, 4), scores (N, K), truth (M, 4), labels (M, K), ignored (M,) or None)`
            with one frame, `compute()` gives `map` and `average_precision` (K,), nan for classes that are not evaluated
            or do not occur.
    """

    def measure(
        found: Tensor, scores: Tensor, truth: Tensor, labels: Tensor, ignored: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        counted = labels if ignored is None else labels[~ignored.bool()]
        is_right = boxes.matches(found, scores, truth, labels, ignored)
        return scores.detach(), is_right, (counted > 0).sum(0, keepdim=True)

    def figures(scores: Tensor, is_right: Tensor, num_true: Tensor) -> dict[str, Tensor]:
        total = num_true.sum(0)
        if classes:
            total[[k for k in range(num_classes) if k not in classes]] = 0
        values = boxes.average_precision(scores, is_right, total)
        return {"map": values.nanmean(), "average_precision": values}

    parts = tuple(torch.zeros(0, num_classes, dtype=dtype) for dtype in (torch.float32, torch.int8, torch.int64))
    return rows(parts, measure, figures)


def rows(empty: tuple[Tensor, ...], measure: Callable, figures: Callable) -> Any:
    """A torchmetrics Metric that keeps rows of what it measures of each update, on all processes.

    Args:
        empty: for each of its parts a tensor (0, ...) of no rows, which tells shape and dtype.
        measure: from what `update` is given to the rows (N, ...) of each part.
        figures: from all rows of each part (N, ...) to what `compute` answers.
    """
    return _rows_class()(empty, measure, figures)


@functools.cache
def _rows_class() -> type:
    with needs("train"):
        from torchmetrics import Metric
        from torchmetrics.utilities import dim_zero_cat

    class Rows(Metric):
        """Keeps rows of what `measure` makes of each update, on all processes, and computes `figures` of all rows."""

        full_state_update = False

        def __init__(self, empty: tuple[Tensor, ...], measure: Callable, figures: Callable) -> None:
            super().__init__()
            self.empty = {f"part{i}": part for i, part in enumerate(empty)}
            self.measure, self.figures = measure, figures
            for name in self.empty:
                self.add_state(name, [], dist_reduce_fx="cat")
            self.reset()

        def reset(self) -> None:
            super().reset()
            for name, part in self.empty.items():  # so that a process without a sample has rows to gather, none
                getattr(self, name).append(part.to(self.device))

        def update(self, *values: Any) -> None:
            for (name, part), rows in zip(self.empty.items(), self.measure(*values), strict=True):
                getattr(self, name).append(rows.to(self.device, part.dtype))

        def rows(self) -> tuple[Tensor, ...]:
            return tuple(dim_zero_cat(getattr(self, name)) for name in self.empty)

        def compute(self) -> dict[str, Tensor]:
            return self.figures(*self.rows())

    return Rows


def mean_class(confusion: Tensor) -> float:
    """Accuracy averaged over the classes that occur, from (K, K) counts, rows the target."""
    counts = confusion.sum(1)
    return (confusion.diagonal()[counts > 0] / counts[counts > 0]).mean().item()


def per_class(confusion: Tensor) -> dict[str, Tensor]:
    """Figures of each class (K,), from (K, K) counts, rows the target.

    Returns:
        `samples`; `recall`, of its samples how many were found; `precision`, of those taken for it how many were right;
            `f1`, their harmonic mean. nan where there is nothing to divide by.
    """
    right, samples, taken = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    return {
        "samples": samples,
        "recall": right / samples,
        "precision": right / taken,
        "f1": 2 * right / (samples + taken),
    }


def average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """Average precision of each class of a multi-label task: precision at each positive's rank, averaged.

    The mean over the classes that occur, each counted alike, is the mAP of Charades as PySlowFast measures it. The
    script of Charades itself also ranks videos without any label last.

    Args:
        scores: (N, K), or logits: only their order counts.
        labels: (N, K), 0 or 1.

    Returns:
        (K,) float64, 0..1; nan for classes that do not occur.

    Raises:
        ValueError: the shapes differ, or a score is no number.
    """
    with needs("train"):
        from torchmetrics.functional.classification import binary_average_precision

    return _of_classes(binary_average_precision, scores, labels, (labels > 0).any(0))


def roc_auc(scores: Tensor, targets: Tensor) -> Tensor:
    """Area under the ROC curve of each class against the rest.

    The mean over classes is the AUC of MedMNIST (Yang et al. 2023); with two classes both have the same.

    Args:
        scores: (N, K); of several classes not their logits, whose order between samples is another.
        targets: class indices (N,), or labels (N, K), 0 or 1.

    Returns:
        (K,) float64, 0..1; nan for classes that no sample has, or all.

    Raises:
        ValueError: the shapes differ, or a score is no number.
    """
    with needs("train"):
        from torchmetrics.functional.classification import binary_auroc

    labels = torch.nn.functional.one_hot(targets.long(), scores.shape[1]) if targets.ndim == 1 else targets
    return _of_classes(binary_auroc, scores, labels, (labels > 0).any(0) & ~(labels > 0).all(0))


def _of_classes(measure: Callable, scores: Tensor, labels: Tensor, is_defined: Tensor) -> Tensor:
    """`measure` of each class for which it is defined; float64, nan elsewhere."""
    if scores.shape != labels.shape or scores.ndim != 2:
        raise ValueError(f"scores {tuple(scores.shape)} for labels {tuple(labels.shape)}: both are (N, K)")
    if not scores.isfinite().all():
        raise ValueError("scores hold nan or infinity: there is no order among them")
    scores, labels = scores.cpu(), labels.cpu()
    values = torch.full((scores.shape[1],), torch.nan, dtype=torch.float64)
    for k in is_defined.nonzero().flatten().tolist():
        # torchmetrics squeezes numbers beyond 0..1 through a sigmoid, in which large logits become equal; ranks do not
        rank = scores[:, k].unique(return_inverse=True)[1].double() / len(scores)
        values[k] = measure(rank, (labels[:, k] > 0).long(), validate_args=False)
    return values


def calibration_error(scores: Tensor, targets: Tensor) -> float:
    """Expected calibration error, 0..1: how far the score of an answer is from how often such answers are right.

    Over 15 bins of equal width, weighted by their samples (Guo et al. 2017, arXiv 1706.04599).

    Args:
        scores: softmax scores (N, K).
        targets: class indices (N,).
    """
    with needs("train"):
        from torchmetrics.functional.classification import multiclass_calibration_error

    # scores of exactly 1 would have a bin of their own there, and rounding may go beyond 1
    scores = scores.clamp(max=1 - 2**-24)
    return multiclass_calibration_error(scores, targets, scores.shape[1], n_bins=BINS, norm="l1").item()


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The number to divide logits by that makes scores most honest: the lowest cross-entropy (Guo et al. 2017).

    No answer changes, only how sure it is. Fit it on the validation part, use it elsewhere: `softmax(logits / T)`. Log
    scores, averaged over views or not, serve as logits.

    Args:
        logits: (N, K).
        targets: class indices (N,).

    Returns:
        The temperature, within 0.01 and 100; an end of that range where every sample is right, or the
            scores are worse than equal ones.

    Raises:
        ValueError: a logit is no number.
    """
    logits, targets = logits.cpu().double(), targets.cpu()
    if not logits.isfinite().all():
        raise ValueError("logits hold nan or infinity; scores of 0 have no log: clamp them first")
    right = logits.gather(1, targets[:, None].long())[:, 0]
    # In 1 / T the loss is convex, and its slope is the mean logit expected under the scores less that of the truth.
    low, high = 0.01, 100.0
    for _ in range(40):
        middle = (low * high) ** 0.5
        expected = ((logits / middle).softmax(1) * logits).sum(1)
        if (expected - right).mean() > 0:  # too sure of itself: hotter
            low = middle
        else:
            high = middle
    return (low * high) ** 0.5


def bootstrap(statistic: Callable[..., Any], *samples: Tensor, rounds: int = 1000, seed: int = 0) -> Tensor:
    """What a figure would have been on other samples like these: its value on resamples with replacement (Efron 1979).

    Args:
        statistic: from tensors like `samples` to a number.
        samples: tensors (N, ...) with one row for each sample, resampled together.
        rounds: R.
        seed: of the resamples; the same seed draws the same ones.

    Returns:
        (R,) float64.

    Raises:
        ValueError: there are no samples, or the tensors differ in length.
    """
    at_least_one(rounds=rounds)
    sizes = {len(each) for each in samples}
    if len(sizes) != 1 or sizes == {0}:
        raise ValueError(f"{sorted(sizes)} samples; give tensors of one length, at least 1")
    (count,) = sizes
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(rounds):
        drawn = torch.randint(count, (count,), generator=generator)
        values.append(float(statistic(*(each[drawn] for each in samples))))
    return torch.tensor(values, dtype=torch.float64)


def share_interval(is_right: Tensor, level: float = 0.95) -> tuple[float, float]:
    """The interval of a share by bootstrap, and where all samples are alike, which says nothing to resamples, Wilson's.

    Args:
        is_right: (N,), 0 or 1 for each sample.
        level: as in `interval`.

    Source: Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference.
    """
    share, count = float(is_right.double().mean()), len(is_right)
    if 0 < share < 1:
        return interval(bootstrap(torch.mean, is_right.double()), level)
    z = float(torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64)))
    rest = z**2 / (count + z**2)
    return (1 - rest, 1.0) if share else (0.0, rest)


def bootstrap_auc(scores: Tensor, targets: Tensor, *, rounds: int = 1000, seed: int = 0) -> Tensor:
    """The mean of `roc_auc` over classes on resamples: what `bootstrap` gives of it, sorted once for all resamples.

    Args:
        scores: (N, K).
        targets: class indices (N,).
        rounds: R.
        seed: as in `bootstrap`.

    Returns:
        (R,) float64; nan for resamples in which all samples are of one class.
    """
    labels = torch.nn.functional.one_hot(targets.long(), scores.shape[1])
    return _bootstrap_ranked(_weighted_auc, scores, labels, rounds, seed)


def bootstrap_precision(scores: Tensor, labels: Tensor, *, rounds: int = 1000, seed: int = 0) -> Tensor:
    """The mean of `average_precision` over classes on resamples, as `bootstrap_auc` has it of `roc_auc`.

    Args:
        scores: (N, K).
        labels: (N, K), 0 or 1.
        rounds: R.
        seed: as in `bootstrap`.

    Returns:
        (R,) float64; nan for resamples in which no class occurs.
    """
    return _bootstrap_ranked(_weighted_precision, scores, labels, rounds, seed)


def _bootstrap_ranked(measure: Callable, scores: Tensor, labels: Tensor, rounds: int, seed: int) -> Tensor:
    """The mean over classes of a measure of weighted samples by rank, (R,), where weights count who is drawn."""
    scores, labels = scores.cpu(), labels.cpu() > 0
    count, num_classes = scores.shape
    order = scores.argsort(dim=0)
    ranks = [scores[order[:, k], k].unique_consecutive(return_inverse=True)[1] for k in range(num_classes)]
    generator, found = torch.Generator().manual_seed(seed), []
    for first in range(0, rounds, _COLUMNS):
        drawn = [torch.randint(count, (count,), generator=generator) for _ in range(min(_COLUMNS, rounds - first))]
        times = torch.stack([each.bincount(minlength=count) for each in drawn], dim=1).float()
        values = []
        for k, rank in enumerate(ranks):
            weights = times[order[:, k]]
            positive = weights * labels[order[:, k], k, None]
            negative = weights - positive
            if rank[-1] + 1 < len(rank):  # equal scores are one
                empty = weights.new_zeros(int(rank[-1]) + 1, weights.shape[1])
                positive, negative = (empty.index_add(0, rank, each) for each in (positive, negative))
            values.append(measure(positive, negative))
        found.append(torch.stack(values).nanmean(0))
    return torch.cat(found)


def _weighted_auc(positive: Tensor, negative: Tensor) -> Tensor:
    """(R,) from weights (ranks, R), lowest score first."""
    below = negative.cumsum(0) - negative / 2  # an equal score is half in order
    order = (positive * below).sum(0, dtype=torch.float64)
    return order / (positive.sum(0, dtype=torch.float64) * negative.sum(0))


def _weighted_precision(positive: Tensor, negative: Tensor) -> Tensor:
    """(R,) from weights (ranks, R), lowest score first."""
    positive, negative = positive.flip(0), negative.flip(0)
    right = positive.cumsum(0)
    precision = right / (right + negative.cumsum(0)).clamp(min=1)
    return (positive * precision).sum(0, dtype=torch.float64) / positive.sum(0, dtype=torch.float64)


def interval(estimates: Tensor, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of `bootstrap` estimates (R,): between its ends lies the share `level` of them.

    Resamples on which the figure is not defined (nan) are left out.

    Raises:
        ValueError: `level` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level {level} must be above 0 and below 1")
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = estimates.double().nanquantile(ends).tolist()
    return low, high
