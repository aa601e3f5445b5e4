"""Heads: from the last feature map to an answer. Assign one to `model.head` to change the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class Classify(nn.Module):
    """One set of logits for the clip: mean over time and space, dropout, linear layer.

    Args:
        in_channels: width of the last stage, `model.channels[-1]`.
        num_classes: K of the logits.
        dropout: probability, before the linear layer.
    """

    def __init__(self, in_channels: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_channels, num_classes)

    def logits(self, pooled: Tensor) -> Tensor:
        """Pooled features (B, C, N) -> logits (B, K, N)."""
        return self.fc(self.dropout(pooled.transpose(1, 2))).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> logits (B, K)."""
        return self.logits(x.mean((2, 3, 4)).unsqueeze(2)).squeeze(2)


class PerFrame(nn.Module):
    """Logits for every step of the feature map: mean over space, dropout, linear layer.

    Args:
        in_channels: width of the last stage, `model.channels[-1]`.
        num_classes: K of the logits.
        dropout: probability, before the linear layer.
    """

    def __init__(self, in_channels: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> logits (B, K, T)."""
        return self.fc(self.dropout(x.mean((3, 4)).transpose(1, 2))).transpose(1, 2)


class Features(nn.Module):
    """The feature map itself."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same."""
        return x


def scores(logits: Tensor) -> Tensor:
    """Logits (B, K) of a classifier -> softmax scores (B, K), float32, on the CPU.

    Raises:
        ValueError: the logits have another shape, such as those of a head for another task.
    """
    if logits.ndim != 2:
        raise ValueError(f"the network answers {tuple(logits.shape)}; a classifier answers logits (B, K)")
    return logits.float().softmax(1).cpu()


HEADS = (Classify, PerFrame, Features)


def describe(head: nn.Module) -> dict[str, Any]:
    """A head of this file as plain values, from which `build` makes it anew (without its weights)."""
    if type(head) not in HEADS:
        names = ", ".join(cls.__name__ for cls in HEADS)
        raise ValueError(f"a {type(head).__name__} cannot be saved as a head; known are {names}")
    arguments: dict[str, Any] = {}
    if isinstance(head, Classify | PerFrame):
        arguments = {
            "in_channels": head.fc.in_features,
            "num_classes": head.fc.out_features,
            "dropout": head.dropout.p,
        }
    return {"name": type(head).__name__, "arguments": arguments}


def build(description: Mapping[str, Any]) -> nn.Module:
    """The head that `describe` described, with new weights."""
    cls = next((cls for cls in HEADS if cls.__name__ == description["name"]), None)
    if cls is None:
        raise ValueError(f"unknown head {description['name']!r}: the file is from a newer tubelet")
    return cls(**description["arguments"])
