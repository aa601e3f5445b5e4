"""What training minimises: pure functions of logits and targets, on F.cross_entropy and its kin.

Logits are (B, K) for a clip, (N, K) for a box, (B, K, T) for a frame, (B, K, T, H, W) for a voxel; classes lie in
dimension 1. Targets are either

- class indices, the logits' shape without K; `IGNORED` where there is no label, which counts nowhere, or
- probabilities of the logits' own shape: soft targets of mixed clips, and 0 or 1 for each label of a multi-label task.

Every loss is the mean over labelled positions of the weighted losses. `F.cross_entropy` instead divides by the sum of
the weights in the batch, so that its mean depends on how samples were dealt out to batches and processes; this one does
not. It is 0 for a batch without a label.

`dice`, `dice_ce` and `tversky` are for maps of voxels alone. They measure how two regions overlap, for each class but
the first, the background, of each sample; the mean over classes and samples is the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -1
OF_MAPS = ("dice", "dice_ce", "tversky")
LOSSES = ("cross_entropy", "focal", "logit_adjusted", *OF_MAPS)

Loss = Callable[[Any, Tensor], Tensor]
SMOOTH = 1e-5  # nnU-Net's and MONAI's: a class that is nowhere, and is said to be nowhere, costs nothing


def cross_entropy(
    logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy of a softmax, for one class a position.

    Args:
        logits: (B, K), (B, K, T) or (B, K, T, H, W).
        targets: indices of the same shape without K, or probabilities of the logits' shape.
        label_smoothing: probability spread evenly over all classes (Szegedy et al. 2016, arXiv 1512.00567).
        class_weights: (K,), of each class's term.

    Returns:
        The mean, a scalar.
    """
    weights = None if class_weights is None else class_weights.to(logits.device, torch.float32)
    is_soft = targets.is_floating_point()
    losses = F.cross_entropy(
        logits.float(),
        targets.float() if is_soft else targets.long(),
        weights,
        ignore_index=-100 if is_soft else IGNORED,  # torch's own, since it refuses another one with probabilities
        reduction="none",
        label_smoothing=label_smoothing,
    )
    return losses.sum() / _count(targets, losses)


def focal(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma: float = 2.0,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy with what is already well known counted less: (1 - p)^gamma (Lin et al. 2017, arXiv 1708.02002).

    Args:
        logits: (B, K), (B, K, T) or (B, K, T, H, W).
        targets: indices of the same shape without K, or probabilities of the logits' shape.
        gamma: how much less; 0 is cross-entropy.
        label_smoothing: as in `cross_entropy`.
        class_weights: (K,), of each class's term, the paper's alpha.

    Returns:
        The mean, a scalar.
    """
    known = logits.float().log_softmax(1)
    wanted = targets.to(known) if targets.is_floating_point() else _one_hot(targets, known)
    is_labelled = wanted.sum(1, keepdim=True)
    wanted = wanted * (1 - label_smoothing) + is_labelled * label_smoothing / known.shape[1]
    losses = _by_class(wanted * _rest(known) ** gamma * -known, class_weights).sum(1)
    return losses.sum() / _count(targets, losses)


def logit_adjusted(
    logits: Tensor,
    targets: Tensor,
    *,
    counts: Tensor,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of logits to which the log of each class's share is added (Menon et al. 2021, arXiv 2007.07314).

    Rare classes must win by a margin in training; the plain logits then aim at the mean accuracy over classes.

    Args:
        logits: (B, K), (B, K, T) or (B, K, T, H, W).
        targets: indices of the same shape without K, or probabilities of the logits' shape.
        counts: (K,) training samples of each class; one without any counts as one.
        label_smoothing: as in `cross_entropy`.
        class_weights: (K,), of each class's term.

    Returns:
        The mean, a scalar.
    """
    share = counts.to(logits.device, torch.float32).clamp(min=1)
    prior = (share / share.sum()).log().reshape(-1, *[1] * (logits.ndim - 2))
    return cross_entropy(logits.float() + prior, targets, label_smoothing=label_smoothing, class_weights=class_weights)


def binary_cross_entropy(
    logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy of a sigmoid for each class, for any number of classes a position.

    Args:
        logits: (B, K), (N, K) or (B, K, T).
        targets: probabilities of the logits' shape, 0 or 1 for plain labels.
        label_smoothing: targets go this share of the way to one half.
        class_weights: (K,), of each class's term, whether it is there or not.

    Returns:
        The mean over positions and classes, a scalar; 0 where there is no position.

    Raises:
        ValueError: targets are not of the logits' shape.
    """
    wanted = _labels(targets, logits, label_smoothing)
    losses = F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none")
    return _by_class(losses, class_weights).sum() / max(1, losses.numel())


def binary_focal(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma: float = 2.0,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """`focal` of a sigmoid for each class, for any number of classes a position; the paper's own form.

    Args:
        logits: (B, K), (N, K) or (B, K, T).
        targets: probabilities of the logits' shape, 0 or 1 for plain labels.
        gamma: how much less well-known answers count; 0 is `binary_cross_entropy`.
        label_smoothing: targets go this share of the way to one half.
        class_weights: (K,), of each class's term, whether it is there or not.

    Returns:
        The mean over positions and classes, a scalar; 0 where there is no position.

    Raises:
        ValueError: targets are not of the logits' shape.
    """
    wanted = _labels(targets, logits, label_smoothing)
    here, absent = F.logsigmoid(logits.float()), F.logsigmoid(-logits.float())
    losses = -wanted * here * _rest(here) ** gamma - (1 - wanted) * absent * _rest(absent) ** gamma
    return _by_class(losses, class_weights).sum() / max(1, losses.numel())


def dice(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - the soft Dice coefficient (Milletari et al. 2016, arXiv 1606.04797, with nnU-Net's plain sums, no squares).

    Args:
        logits: (B, K, T, H, W).
        targets: class indices (B, T, H, W), 0 the background, which has no term; `IGNORED` voxels count nowhere.

    Returns:
        The mean over samples and classes, a scalar.
    """
    return _apart(logits, targets, 0.5, 0.5, SMOOTH / 2)


def tversky(logits: Tensor, targets: Tensor, *, alpha: float = 0.3, beta: float = 0.7) -> Tensor:
    """1 - the Tversky index: as `dice`, with a say in which errors count more (Salehi et al. 2017, arXiv 1706.05721).

    Args:
        logits: (B, K, T, H, W).
        targets: as in `dice`.
        alpha: of voxels that are wrongly taken for the class.
        beta: of voxels of the class that are missed. With 0.5 for both it is `dice`.

    Returns:
        The mean over samples and classes, a scalar.
    """
    return _apart(logits, targets, alpha, beta, SMOOTH)


def dice_ce(
    logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """The sum of `dice` and `cross_entropy`, nnU-Net's loss (Isensee et al. 2021, Nature Methods 18).

    Args:
        logits: (B, K, T, H, W).
        targets: as in `dice`.
        label_smoothing: of the cross-entropy.
        class_weights: (K,), of the cross-entropy.

    Returns:
        A scalar.
    """
    entropy = cross_entropy(logits, targets, label_smoothing=label_smoothing, class_weights=class_weights)
    return dice(logits, targets) + entropy


def deep(loss: Loss, logits: Tensor | Sequence[Tensor], targets: Tensor) -> Tensor:
    """A loss of the logits of several sizes, finest first, weighed 1, 1/2, 1/4 ... over the sum of these weights.

    Deep supervision as nnU-Net has it; targets are brought to each size by taking the nearest.

    Args:
        loss: of logits (B, K, T, H, W) and class indices (B, T, H, W).
        logits: (B, K, T', H', W') each; a tensor alone is a list of one, or of all in one size, stacked as (B, N, K, T,
            H, W), as MONAI's DynUNet answers in training.
        targets: class indices (B, T, H, W).

    Returns:
        A scalar.
    """
    if isinstance(logits, Tensor):
        logits = logits.unbind(1) if logits.ndim == targets.ndim + 2 else [logits]
    weights = [0.5**i for i in range(len(logits))]
    losses = [weight * loss(each, _resized(targets, each)) for weight, each in zip(weights, logits, strict=True)]
    return torch.stack(losses).sum() / sum(weights)


def balanced(counts: Tensor) -> Tensor:
    """Class weights (K,) that give each class an equal say: samples / (classes that occur x samples of the class).

    They average 1 over the samples, so the learning rate stays right. It is scikit-learn's `balanced` (King and Zeng
    2001). A class without a sample gets 0.

    Args:
        counts: (K,) training samples of each class.
    """
    counts = counts.double()
    share = counts.sum() / ((counts > 0).sum() * counts)
    return share.where(counts > 0, 0).float()


def choose(
    name: str,
    *,
    multilabel: bool = False,
    is_dense: bool = False,
    label_smoothing: float = 0.0,
    class_weights: str | None = None,
    counts: Tensor | None = None,
) -> Loss:
    """The loss that a command line names: a function (logits (B, K), (B, K, T) or more, targets) -> scalar.

    Args:
        name: one of `LOSSES`.
        multilabel: any number of classes a position, rather than one.
        is_dense: the logits are those of voxels, (B, K, T, H, W), or a list of them for `deep`.
        label_smoothing: as in `cross_entropy`, or `binary_cross_entropy` where multilabel.
        class_weights: none, or balanced.
        counts: (K,) training samples of each class, for what needs them.

    Raises:
        ValueError: a name is unknown, a value is out of its range, or counts are missing.
    """
    if name not in LOSSES:
        raise ValueError(f"loss {name!r}; there is {', '.join(LOSSES)}")
    if name in OF_MAPS and not is_dense:
        others = ", ".join(each for each in LOSSES if each not in OF_MAPS)
        raise ValueError(f"loss {name!r} is for voxels (task segment); for other tasks there is {others}")
    if class_weights not in (None, "balanced"):
        raise ValueError(f"class_weights {class_weights!r}; there is balanced")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing {label_smoothing} must be at least 0 and below 1")
    if multilabel and name == "logit_adjusted":
        raise ValueError("loss 'logit_adjusted' is for one class a clip; with several use cross_entropy or focal")
    if counts is None and (class_weights or name == "logit_adjusted"):
        raise ValueError(f"loss {name!r} with class_weights {class_weights!r} needs the counts of the classes")
    if name in ("dice", "tversky") and (label_smoothing or class_weights):
        raise ValueError(
            f"loss {name!r} has no label_smoothing or class_weights; dice_ce has both, of its cross-entropy"
        )
    options: dict[str, Any] = {"label_smoothing": label_smoothing}
    if class_weights and counts is not None:
        options["class_weights"] = balanced(counts)
    if name == "logit_adjusted":
        options["counts"] = counts
    if name in ("dice", "tversky"):
        options = {}
    kinds: dict[str, Callable[..., Tensor]] = {
        "cross_entropy": binary_cross_entropy if multilabel else cross_entropy,
        "focal": binary_focal if multilabel else focal,
        "logit_adjusted": logit_adjusted,
        "dice": dice,
        "dice_ce": dice_ce,
        "tversky": tversky,
    }
    chosen = partial(kinds[name], **options)
    return partial(deep, chosen) if is_dense else chosen


def _apart(logits: Tensor, targets: Tensor, alpha: float, beta: float, smooth: float) -> Tensor:
    """Mean of 1 - right / (right + alpha wrong + beta missed) over samples and all classes but the first."""
    scores = logits.float().softmax(1)
    truth = _one_hot(targets, scores)
    scores = scores * (targets != IGNORED).unsqueeze(1)
    right, taken, there = (each[:, 1:].flatten(2).sum(2) for each in (scores * truth, scores, truth))
    index = (right + smooth) / (right + alpha * (taken - right) + beta * (there - right) + smooth)
    return (1 - index).mean()


def _resized(targets: Tensor, logits: Tensor) -> Tensor:
    """Class indices (B, T, H, W) at the size of logits (B, K, T', H', W'), each the nearest."""
    if targets.shape[1:] == logits.shape[2:]:
        return targets
    # in float32, where whole numbers below 2^24 are exact: torch resizes no integers of 64 bits
    resized = F.interpolate(targets[:, None].float(), logits.shape[2:], mode="nearest-exact")
    return resized[:, 0].to(targets.dtype)


def _count(targets: Tensor, losses: Tensor) -> int | Tensor:
    """Positions with a label, at least one."""
    if targets.is_floating_point():
        return max(1, losses.numel())
    return (targets != IGNORED).sum().clamp(min=1)


def _one_hot(targets: Tensor, like: Tensor) -> Tensor:
    """Indices (B,), (B, T) or more as (B, K), (B, K, T) or more, all zero where ignored."""
    targets = targets.long().unsqueeze(1)
    one = torch.zeros_like(like).scatter_(1, targets.clamp(min=0), 1.0)
    return one * (targets != IGNORED)


def _labels(targets: Tensor, logits: Tensor, label_smoothing: float) -> Tensor:
    """Labels of several classes, 0..1 for each, smoothed; float32, where the logits are."""
    if targets.shape != logits.shape:
        raise ValueError(
            f"targets {tuple(targets.shape)} for logits {tuple(logits.shape)}: labels of several classes are 0 or 1 "
            "for each, in the logits' shape"
        )
    return targets.to(logits.device, torch.float32) * (1 - label_smoothing) + label_smoothing / 2


def _rest(log_p: Tensor) -> Tensor:
    """1 - p from log p; above 0, where a power below 1 would have an endless slope."""
    return (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)


def _by_class(losses: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return losses
    return losses * weights.to(losses).reshape(-1, *[1] * (losses.ndim - 2))
