"""Heads: from the last feature map to an answer. Assign one to `model.head` to change the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn


class Classify(nn.Module):
    """One set of logits for the clip: mean over time and space, dropout, linear layer.

    Args:
        in_channels: width of the last stage, `model.channels[-1]`.
        num_classes: K of the logits.
        dropout: probability, before the linear layer.
        window: (t, h, w) of an average pooling that slides over a map at least that large, as the head of a published
            network does; its positions are then averaged. None, and for any smaller map, is the plain mean.
    """

    def __init__(
        self, in_channels: int, num_classes: int, dropout: float = 0.0, window: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.arguments = {
            "in_channels": in_channels,
            "num_classes": num_classes,
            "dropout": dropout,
            "window": None if window is None else list(window),
        }
        self.window = None if window is None else tuple(window)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_channels, num_classes)

    def logits(self, pooled: Tensor) -> Tensor:
        """Pooled features (B, C, N) -> logits (B, K, N)."""
        return self.fc(self.dropout(pooled.transpose(1, 2))).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> logits (B, K)."""
        return self.logits(pool(x, self.window).mean((2, 3, 4)).unsqueeze(2)).squeeze(2)


class MLP(nn.Module):
    """One set of logits for the clip: mean over time and space, linear layer, activation, dropout, linear layer.

    Args:
        in_channels: width of the last stage, `model.channels[-1]`.
        num_classes: K of the logits.
        hidden_channels: width between the two linear layers.
        dropout: probability, before the second linear layer.
        bias: whether the first linear layer has one.
        act: makes the activation, one of torch.nn's.
        windows: sizes (t, h, w) of an average pooling that slides over the map; the one whose t is the map's T is
            taken if the map is as large, and the logits of its positions are averaged. Else it is the plain mean.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        hidden_channels: int,
        dropout: float = 0.0,
        *,
        bias: bool = True,
        act: type[nn.Module] = nn.ReLU,
        windows: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__()
        self.arguments = {
            "in_channels": in_channels,
            "num_classes": num_classes,
            "hidden_channels": hidden_channels,
            "dropout": dropout,
            "bias": bias,
            "act": act.__name__,
            "windows": [list(window) for window in windows],
        }
        self.windows = {window[0]: tuple(window) for window in windows}
        self.hidden = nn.Linear(in_channels, hidden_channels, bias)
        self.act = act()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(hidden_channels, num_classes)

    def logits(self, pooled: Tensor) -> Tensor:
        """Pooled features (B, C, N) -> logits (B, K, N)."""
        return self.fc(self.dropout(self.act(self.hidden(pooled.transpose(1, 2))))).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> logits (B, K)."""
        return self.logits(pool(x, self.windows.get(x.shape[2])).flatten(2)).mean(2)


def pool(x: Tensor, window: tuple[int, ...] | None) -> Tensor:
    """Average of (B, C, T, H, W) over a sliding window (t, h, w), or over all where the map is smaller than it."""
    if window is None or any(n < k for n, k in zip(x.shape[2:], window, strict=True)):
        return x.mean((2, 3, 4), keepdim=True)
    return nn.functional.avg_pool3d(x, window, 1)


class PerFrame(nn.Module):
    """Logits for every step of the feature map: mean over space, dropout, linear layer.

    Args:
        in_channels: width of the last stage, `model.channels[-1]`.
        num_classes: K of the logits.
        dropout: probability, before the linear layer.
        window: steps that are averaged, sliding by one, before the linear layer: T - window + 1 steps of logits.
    """

    def __init__(self, in_channels: int, num_classes: int, dropout: float = 0.0, window: int = 1) -> None:
        super().__init__()
        self.arguments = {
            "in_channels": in_channels,
            "num_classes": num_classes,
            "dropout": dropout,
            "window": window,
        }
        self.pool: nn.Module = nn.AvgPool3d((window, 1, 1), 1) if window > 1 else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> logits (B, K, T)."""
        pooled = self.pool(x.mean((3, 4), keepdim=True))
        return self.fc(self.dropout(pooled.flatten(2).transpose(1, 2))).transpose(1, 2)


class Features(nn.Module):
    """The feature map itself."""

    def __init__(self) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {}

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


HEADS = (Classify, MLP, PerFrame, Features)


def describe(head: Any) -> dict[str, Any]:
    """A head of this file as plain values, from which `build` makes it anew (without its weights)."""
    if type(head) not in HEADS:
        names = ", ".join(cls.__name__ for cls in HEADS)
        raise ValueError(f"a {type(head).__name__} cannot be saved as a head; known are {names}")
    return {"name": type(head).__name__, "arguments": head.arguments}


def build(description: Mapping[str, Any]) -> nn.Module:
    """The head that `describe` described, with new weights."""
    cls = next((cls for cls in HEADS if cls.__name__ == description["name"]), None)
    if cls is None:
        raise ValueError(f"unknown head {description['name']!r}: the file is from a newer tubelet")
    arguments = dict(description["arguments"])
    if "act" in arguments:
        arguments["act"] = getattr(nn, arguments["act"])
    return cls(**arguments)
