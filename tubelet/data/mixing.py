"""Mixup and CutMix: two clips of a batch become one, and so do their targets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Mixing:
    """Mixes each clip of a batch with another one, on the device where the batch is.

    A batch is mixed in one way, with one weight or one box for all its clips and frames, as in the published code.
    The label smoothing of a loss comes on top.

    Attributes:
        mixup: alpha of the Beta distribution from which mixup's weight is drawn, at least 0; 0 leaves mixup out. 0.2
            as published for ImageNet (arXiv 1710.09412), 0.8 in the recipes of video networks.
        cutmix: the same for CutMix (arXiv 1905.04899), which replaces a box; 1 as published.
        probability: of a batch being mixed at all, 0..1. Where both alphas are given, each takes half of these.

    Raises:
        ValueError: a value is out of its range.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 0 (0 leaves it out)")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability {self.probability} must lie in 0..1")

    def __call__(
        self, clips: Tensor, targets: Tensor, generator: torch.Generator, num_classes: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """A batch mixed with itself, moved on by half of its clips: neighbours may be of one video.

        Args:
            clips: (B, C, T, H, W), uint8 or float; they are not changed.
            targets: (B,) indices of classes, or (B, K) with what is true of each class, 0..1.
            generator: source of chance, on the CPU.
            num_classes: K, needed for indices alone.

        Returns:
            Clips as they were in shape, dtype and device, and float32 targets (B, K): weights as exact as the share of
            each clip that is left, a box cut off at the border included.

        Raises:
            ValueError: there are no clips; targets do not belong to them, or are out of range, or are indices without
                `num_classes`.
        """
        soft = _soft(targets, len(clips), num_classes)
        alphas = [(kind, alpha) for kind, alpha in ((_mixup, self.mixup), (_cutmix, self.cutmix)) if alpha]
        if not alphas or float(torch.rand((), generator=generator)) >= self.probability:
            return clips, soft
        kind, alpha = alphas[int(torch.randint(len(alphas), (), generator=generator))]
        # torch's own Beta takes no generator
        weight = np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator))).beta(alpha, alpha)
        half = len(clips) // 2
        mixed, kept = kind(clips, clips.roll(half, 0), weight, generator)
        return mixed, soft.lerp(soft.roll(half, 0), 1 - kept)


def _soft(targets: Tensor, batch: int, num_classes: int | None) -> Tensor:
    if len(targets) != batch or targets.ndim not in (1, 2):
        raise ValueError(f"targets {tuple(targets.shape)} of {batch} clips must be ({batch},) or ({batch}, K)")
    if not targets.numel():
        raise ValueError(f"targets {tuple(targets.shape)} of {batch} clips hold nothing; give at least one clip")
    least, most = torch.stack(targets.aminmax()).tolist()
    if targets.ndim == 2:
        if least < 0 or most > 1:
            raise ValueError(f"targets {tuple(targets.shape)} go from {least} to {most}; (B, K) holds 0..1 a class")
        return targets.float()
    if num_classes is None:
        raise ValueError("targets are indices of classes: give num_classes")
    if least < 0 or most >= num_classes:
        raise ValueError(f"targets go from {least} to {most}, and there are {num_classes} classes from 0")
    return F.one_hot(targets.long(), num_classes).float()


def _mixup(clips: Tensor, others: Tensor, weight: float, generator: torch.Generator) -> tuple[Tensor, float]:
    if clips.is_floating_point():
        return clips.lerp(others, 1 - weight), weight
    return clips.float().lerp_(others.float(), 1 - weight).round_().to(clips.dtype), weight


def _cutmix(clips: Tensor, others: Tensor, weight: float, generator: torch.Generator) -> tuple[Tensor, float]:
    """A box of 1 - weight of the frame, its centre anywhere; what lies beyond the border is cut off."""
    spans = []
    for side in clips.shape[-2:]:
        half = side * math.sqrt(1 - weight) / 2
        centre = side * float(torch.rand((), generator=generator))
        spans.append((max(0, round(centre - half)), min(side, round(centre + half))))
    (top, bottom), (left, right) = spans
    mixed = clips.clone()
    mixed[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (clips.shape[-2] * clips.shape[-1])
