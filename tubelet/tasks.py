"""Tasks: the head that answers, how wrong an answer is, and how good it is. The same loop trains them all."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from . import decoders, heads, losses, masks, metrics, windows
from .data.datasets import has_overlaps
from .data.sample import VideoData

__all__ = ["TASKS", "Task", "inputs_of", "task_of", "with_head"]

TASKS = ("classify", "multilabel", "frames", "detect", "segment")

# Share of the training samples in one class, from which accuracy tells little: to answer it always is hard to beat.
# Ours. Of two runs on AdrenalMNIST3D (78 %), choosing the epoch by the AUC of 98 samples gave other 224 an AUC 0.4 and
# 1.2 points higher than choosing it by their accuracy.
LOPSIDED = 0.75
BACKGROUND = "background"  # of GTEA: its spans do not count, as published figures of frames have it

Loss = Callable[[Tensor, Tensor], Tensor]
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Task:
    """What a network learns from a data set.

    Attributes:
        name: one of `TASKS`.
        num_classes: K of the logits.
        loss: logits and target -> mean loss of the clips, in training.
        plain_loss: the same without smoothing and weights, in validation.
        measures: makes a torchmetrics object.
        best: name of the figure of which the best epoch has most.
        window: (T, H, W) that a network for voxels is trained on, and sees at a time of whole scans.
    """

    name: str
    num_classes: int
    loss: Loss
    plain_loss: Loss
    measures: Callable[[], Any]
    best: str
    window: Triple | None = None

    def answer(self, network: nn.Module, clips: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Logits that stand beside the last of the targets.

        Args:
            network: with the task's head.
            clips: (B, C, T, H, W), as the network takes them.
            targets: what a batch holds beside its clips: of detect the boxes (N, 5) and their classes (N, K), of the
                others one tensor.

        Returns:
            (B, K); of frames (B, K, T), one for each frame of the clip; of detect (N, K); of segment (B, K, T, H, W),
            in training what the network makes of a window, else of a whole scan window by window.
        """
        if self.name == "segment" and not network.training:
            assert self.window is not None
            # next to no overlap: that costs eight times as much, and is for what is measured in the end
            return windows.sliding(network, clips, window=self.window, overlap=0.0, blend="constant")
        logits = network(clips, *targets[:-1])
        if self.name == "frames":  # the network answers for T' steps
            logits = F.interpolate(logits, targets[-1].shape[-1], mode="linear")
        return logits

    def update(self, measures: Any, logits: Tensor, targets: Sequence[Tensor]) -> None:
        """Tell the measures of a batch, with the logits of `answer`."""
        if self.name == "detect":
            boxes, labels = targets
            for clip in boxes[:, 0].unique():
                rows = boxes[:, 0] == clip
                measures.update(boxes[rows, 1:], logits[rows], boxes[rows, 1:], labels[rows])
        elif targets[-1].shape == logits.shape and logits.ndim == 3:  # several classes a frame: each frame is a sample
            measures.update(*(each.movedim(1, -1).flatten(0, 1) for each in (logits, targets[-1])))
        elif self.best == "val_auc":  # between samples the order of logits is not that of scores
            measures.update(logits.float().softmax(1), targets[-1])
        else:
            measures.update(logits, targets[-1])

    @property
    def is_uneven(self) -> bool:
        """Whether clips differ in how many answers of them count."""
        return self.name in ("frames", "detect")

    def density(self, clips: Tensor, targets: Sequence[Tensor]) -> float:
        """Answers that count, for each clip of a batch: what the mean loss of a batch is a mean over."""
        if not self.is_uneven:
            return 1.0
        last = targets[-1]
        if self.name == "detect":
            counted = len(last)
        else:
            counted = last[:, 0].numel() if last.is_floating_point() else int((last != losses.IGNORED).sum())
        return counted / len(clips)

    def figures(self, measured: Mapping[str, Tensor]) -> dict[str, float]:
        """What the measures computed, as figures of a row of the history."""
        found = {f"val_{name}": value.item() for name, value in sorted(measured.items()) if value.ndim == 0}
        if "confusion" in measured:
            found["val_mean_class"] = metrics.mean_class(measured["confusion"])
        return found

    def quality(self, row: Mapping[str, float]) -> tuple[float, float]:
        """What the best epoch has most of: its figure, and among equals the lower loss."""
        best = row[self.best]
        return -math.inf if math.isnan(best) else best, -row["val_loss"]


def task_of(
    data: VideoData,
    loss: str,
    label_smoothing: float,
    class_weights: str,
    counts: Tensor,
    window: Triple | None = None,
) -> Task:
    """The task of a data set.

    Args:
        data: what is learned.
        loss: of `losses.LOSSES`.
        label_smoothing: of `losses.choose`.
        class_weights: none or balanced.
        counts: (K,) training samples of each class, or of frames how long each is seen.
        window: (T, H, W) of a network for voxels.

    Raises:
        ValueError: the loss does not fit the task, or a value is out of its range.
    """
    number = len(data.classes)
    if data.task == "segment" and (loss == "logit_adjusted" or class_weights == "balanced"):
        raise ValueError(
            "loss logit_adjusted and class_weights balanced want to know how often each class occurs, and voxels are "
            "not counted: leave them out (dice_ce gives each class the same weight)"
        )
    overlaps, is_open = data.task == "frames" and has_overlaps(data), is_multilabel(data)
    weights = None if class_weights == "none" else class_weights
    chosen = losses.choose(
        loss,
        multilabel=is_open,
        is_dense=data.task == "segment",
        label_smoothing=label_smoothing,
        class_weights=weights,
        counts=counts,
    )
    plain = losses.choose("cross_entropy", multilabel=is_open)
    measures: Callable[[], Any]
    if data.task == "segment":
        return Task(data.task, number, chosen, plain, lambda: masks.overlaps(number), "val_dice", window)
    if overlaps or data.task == "multilabel":
        measures, best = lambda: metrics.multilabel(number), "val_map"
    elif data.task == "frames":
        background = [k for k, name in enumerate(data.classes) if name == BACKGROUND]
        measures, best = partial(metrics.framewise, background), "val_frame_accuracy"
    elif data.task == "detect":
        measures, best = lambda: metrics.detection(number, data.evaluated), "val_map"
    else:
        is_lopsided = bool(counts.max() >= LOPSIDED * counts.sum())
        measures = partial(metrics.classification, number, has_auc=is_lopsided)
        best = "val_auc" if is_lopsided else "val_top1"
    return Task(data.task, number, chosen, plain, measures, best)


def inputs_of(model: Any, clips: Tensor) -> list[Tensor]:
    """What a step gives a network: clips (B, C, T, H, W), and a box (1, 5) where its head answers for boxes."""
    if isinstance(getattr(model, "head", None), heads.Detect):
        return [clips, clips.new_tensor([[0.0, 0.0, 0.0, 16.0, 16.0]])]
    return [clips]


def is_multilabel(data: VideoData) -> bool:
    """Whether several classes may be true at once: each is a question of its own."""
    return data.task in ("multilabel", "detect") or (data.task == "frames" and has_overlaps(data))


def with_head(model: Any, task: str) -> Any:
    """A network that classifies clips with the head of another task, or with a U-Net's decoder, with new weights.

    One that is not of `tubelet.heads` is left as it is, as is one that has the head.

    Raises:
        ValueError: the network does not tell the width of its stages.
    """
    kind = {"frames": heads.PerFrame, "detect": heads.Detect, "segment": heads.Segment}.get(task)
    if kind is None or isinstance(getattr(model, "head", None), kind):
        return model
    if task == "segment" and type(getattr(model, "head", None)) not in heads.HEADS:
        return model  # its own network for voxels
    if not hasattr(model, "channels") or not hasattr(model, "strides"):
        raise ValueError(f"{type(model).__name__} tells no channels and strides: give it the head of {task} yourself")
    number = heads.num_classes(model.head)
    if number is None:
        raise ValueError(f"the head {type(model.head).__name__} tells no number of classes: replace it yourself")
    if task == "segment":
        return decoders.UNet(model, number)
    if task == "frames":
        model.head = heads.PerFrame(model.channels[-1], number)
    else:
        model.head = heads.Detect(model.channels[-1], number, model.strides[-1][1])
    return model
