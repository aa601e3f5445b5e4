"""Heads: from the last feature map to an answer. Assign one to `model.head` to change the task."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import Resize


class Classify(nn.Module):
    """One set of logits for the clip: mean over time and space, dropout, linear layer.

    The logits serve for one label a clip (take their softmax) and for several (take the sigmoid of each).

    Args:
        in_channels: width of the last stage, `model.channels[-1]`.
        num_classes: K of the logits.
        dropout: probability, before the linear layer.
        window: (t, h, w) of an average pooling that slides over a map at least that large, as the head of a published
            network does; its positions are then averaged. A 0 is the whole axis. None, and for any smaller map, is the
            plain mean.
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
        # a copy, since a graph whose linear layer looks at the order of its memory is for several clips or for one
        rows = pooled.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        return self.fc(self.dropout(self.act(self.hidden(rows)))).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> logits (B, K)."""
        window = next((window for t, window in self.windows.items() if t == x.shape[2]), None)
        return self.logits(pool(x, window).flatten(2)).mean(2)


def pool(x: Tensor, window: tuple[int, ...] | None) -> Tensor:
    """Average of (B, C, T, H, W) over a sliding window (t, h, w), or over all where the map is smaller than it."""
    if window is None:
        return x.mean((2, 3, 4), keepdim=True)
    window = tuple(k or n for n, k in zip(x.shape[2:], window, strict=True))
    if any(n < k for n, k in zip(x.shape[2:], window, strict=True)):
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


class TemporalTransformer(nn.Module):
    """One set of logits for the clip, from attention between its steps: for what only a long context tells.

    Mean over space, linear layer, sinusoidal positions (Vaswani et al. 2017, arXiv 1706.03762), a few layers of
    attention with the norm first, mean over time, linear layer. Any number of steps; they may be frames or windows.

    Args:
        in_channels: width of the last stage, `model.channels[-1]`.
        num_classes: K of the logits.
        channels: width inside, a multiple of `num_heads`.
        num_layers: of attention.
        num_heads: of each layer.
        dropout: probability, inside each layer.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int = 256,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"channels {channels} must be a multiple of num_heads {num_heads}")
        self.arguments = {
            "in_channels": in_channels,
            "num_classes": num_classes,
            "channels": channels,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "dropout": dropout,
        }
        self.project = nn.Linear(in_channels, channels)
        layer = nn.TransformerEncoderLayer(
            channels, num_heads, 4 * channels, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, num_layers, nn.LayerNorm(channels), enable_nested_tensor=False)
        for weight in self.encoder.parameters():
            if weight.ndim == 2:  # torch begins with copies of one layer
                nn.init.xavier_uniform_(weight)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> logits (B, K)."""
        steps = self.project(x.mean((3, 4)).transpose(1, 2))
        return self.fc(self.encoder(steps + sinusoids(steps)).mean(1))


def sinusoids(steps: Tensor) -> Tensor:
    """Positions for steps (B, T, C) -> (T, C): sines and cosines of rates from 1 down to 1 / 10,000 in turn."""
    length, channels = steps.shape[1:]
    place = torch.arange(length, device=steps.device)[:, None]
    rate = 1e4 ** (-torch.arange(0, channels, 2, device=steps.device) / channels)
    angle = place * rate
    return torch.stack((angle.sin(), angle.cos()), 2).flatten(1)[:, :channels].to(steps.dtype)


class Segment(nn.Module):
    """Logits for every voxel at the clip's own size: dropout, 1x1x1 convolution, trilinear resize.

    Args:
        in_channels: width of the map, `model.channels[-1]` (behind a decoder, that of its finest map).
        num_classes: K of the logits.
        dropout: probability, before the convolution.
        deep: widths of a decoder's coarser maps, finest first, each of which gets a convolution to logits of its own
            for training (see `decoders.DenseNetwork`).
    """

    wants_size = True

    def __init__(self, in_channels: int, num_classes: int, dropout: float = 0.0, deep: Sequence[int] = ()) -> None:
        super().__init__()
        self.arguments = {
            "in_channels": in_channels,
            "num_classes": num_classes,
            "dropout": dropout,
            "deep": list(deep),
        }
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Conv3d(in_channels, num_classes, 1)
        self.resize = Resize("trilinear")
        self.deep = nn.ModuleList(nn.Conv3d(width, num_classes, 1) for width in deep)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """(B, C, T', H', W') and the clip's size (T, H, W) -> logits (B, K, T, H, W)."""
        logits = self.fc(self.dropout(x))
        return logits if logits.shape[2:] == tuple(size) else self.resize(logits, size)


class Detect(nn.Module):
    """Logits for each box: mean over time, RoI align, maximum over its bins, dropout, linear layer.

    Source: the action detectors of SlowFast (Feichtenhofer et al. 2019, arXiv 1812.03982, section 5).

    Args:
        in_channels: width of the last stage, `model.channels[-1]`.
        num_classes: K of the logits.
        stride: input pixels to one of the map, `model.strides[-1][1]`.
        dropout: probability, before the linear layer.
        output_size: bins along each side of a box.
        aligned: of `roi_align`.
        takes_max: maximum over time instead of the mean.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        stride: int,
        dropout: float = 0.0,
        output_size: int = 7,
        aligned: bool = False,
        takes_max: bool = False,
    ) -> None:
        super().__init__()
        self.arguments = {
            "in_channels": in_channels,
            "num_classes": num_classes,
            "stride": stride,
            "dropout": dropout,
            "output_size": output_size,
            "aligned": aligned,
            "takes_max": takes_max,
        }
        self.pool = TimeMax() if takes_max else TimeMean()
        self.stride = stride
        self.output_size = output_size
        self.aligned = aligned
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor, boxes: Tensor | None = None) -> Tensor:
        """(B, C, T, H, W) and boxes (N, 5), rows (clip, x1, y1, x2, y2) in input pixels -> logits (N, K).

        Raises:
            ValueError: as in `check`, and without boxes.
        """
        if boxes is None:
            raise ValueError("a detector takes boxes (N, 5) with the clips: model(clips, boxes)")
        self.check(boxes, x.shape[0])
        bins = roi_align(self.pool(x), boxes, self.output_size, 1 / self.stride, aligned=self.aligned)
        return self.fc(self.dropout(bins.amax((2, 3))))

    def check(self, boxes: Tensor, num_clips: int) -> None:
        """Check boxes (N, 5), rows (clip, x1, y1, x2, y2) in input pixels, for a batch of clips.

        Raises:
            ValueError: as in `check_boxes`; also when a box's second corner is before its first.
        """
        check_boxes(boxes, num_clips)
        is_turned = (boxes[:, 3:] < boxes[:, 1:3]).any(1)
        if not torch.compiler.is_compiling() and is_turned.any():
            row = int(is_turned.nonzero()[0])
            raise ValueError(
                f"box {row} is {boxes[row].tolist()}: x2 and y2 must not be below x1 and y1 (corners, not a width)"
            )


class TimeMax(nn.Module):
    """Maximum over all of time."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, H, W)."""
        return x.amax(2)


class TimeMean(nn.Module):
    """Mean over all of time."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, H, W)."""
        return x.mean(2)


def check_boxes(boxes: Tensor, num_clips: int) -> None:
    """Check boxes (N, 5), rows (clip, x1, y1, x2, y2), for a batch of clips.

    Raises:
        ValueError: they have another shape, or a row is not finite or names no clip of the batch.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 5:
        raise ValueError(f"boxes are {tuple(boxes.shape)}; they must be (N, 5), rows (clip, x1, y1, x2, y2)")
    if torch.compiler.is_compiling():  # a graph has no way to refuse
        return
    clip = boxes[:, 0]
    is_bad = ~boxes.isfinite().all(1) | (clip < 0) | (clip >= num_clips) | (clip != clip.floor())
    if is_bad.any():
        row = int(is_bad.nonzero()[0])
        raise ValueError(
            f"box {row} is {boxes[row].tolist()}: its clip must be one of 0 to {num_clips - 1} and its corners finite"
        )


def roi_align(
    maps: Tensor,
    boxes: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = False,
) -> Tensor:
    """Bilinear samples of each box, averaged in a grid of bins: (B, C, H, W) and boxes (N, 5) -> (N, C, h, w).

    The same numbers as `torchvision.ops.roi_align` (He et al. 2017, Mask R-CNN, arXiv 1703.06870). Since the samples
    of a box are a grid and bilinear weights are a product, each box is a matrix for its rows and one for its columns.

    Args:
        maps: (B, C, H, W).
        boxes: (N, 5), rows (clip, x1, y1, x2, y2), in the pixels of the input.
        output_size: bins (h, w), one number for both.
        spatial_scale: pixels of the map to one of the input.
        sampling_ratio: samples along each side of a bin; 0 is as many as it has pixels, rounded up.
        aligned: whether a pixel's value stands at its centre; else at its corner, and no box is less than 1 pixel wide.

    Raises:
        ValueError: as in `check_boxes`.
    """
    check_boxes(boxes, maps.shape[0])
    height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
    dtype = torch.promote_types(maps.dtype, torch.float32)
    corners = boxes[:, 1:].to(dtype) * spatial_scale - (0.5 if aligned else 0.0)
    start, size = corners[:, :2], corners[:, 2:] - corners[:, :2]
    if not aligned:
        size = size.clamp(min=1.0)
    rows = _bin_weights(start[:, 1], size[:, 1], height, maps.shape[2], sampling_ratio)
    columns = _bin_weights(start[:, 0], size[:, 0], width, maps.shape[3], sampling_ratio)
    clips = boxes[:, 0].long()
    pooled = []
    everything = torch.arange(boxes.shape[0], device=maps.device)
    # as many boxes at once as keep their maps near 64 MB; a graph, which is for any number of them, takes all
    at_once = (everything,) if torch.compiler.is_compiling() else everything.split(max(1, 2**24 // maps[0].numel()))
    for places in at_once:
        over_rows = torch.einsum("npy,ncyx->ncpx", rows[places], maps[clips[places]].to(dtype))
        pooled.append(torch.einsum("ncpx,nqx->ncpq", over_rows, columns[places]).to(maps.dtype))
    return torch.cat(pooled)


def _bin_weights(start: Tensor, size: Tensor, bins: int, length: int, sampling_ratio: int) -> Tensor:
    """How much each of `length` pixels counts in each bin, along one axis: (N,) and (N,) -> (N, bins, length)."""
    each = size / bins
    count = torch.full_like(each, sampling_ratio) if sampling_ratio > 0 else each.ceil().clamp(min=0)
    # an exported graph cannot look at the boxes: there it is enough for those up to `bins` times as large as the map
    most = length if torch.compiler.is_compiling() else int(count.max()) if len(count) else 0
    sample = torch.arange(most, device=size.device)
    bin_start = start[:, None] + torch.arange(bins, device=size.device) * each[:, None]
    step = (sample + 0.5) * each[:, None] / count.clamp(min=1)[:, None]
    place = bin_start[:, :, None] + step[:, None]  # (N, bins, samples)
    # samples up to a pixel outside count as the edge, those further out as nothing
    is_inside = (place >= -1) & (place <= length) & (sample < count[:, None])[:, None]
    share = is_inside / count.clamp(min=1)[:, None, None]
    place = place.clamp(0, length - 1)
    low = place.floor()
    high_share = share * (place - low)
    weights = size.new_zeros(size.shape[0], bins, length)
    weights = weights.scatter_add(2, low.long(), share - high_share)
    return weights.scatter_add(2, (low.long() + 1).clamp(max=length - 1), high_share)


class Doubled(nn.Module):
    """Dense logits on a grid twice as fine as the map: a transposed convolution, two more, as in MedicalNet.

    Source: Chen, Ma, Zheng 2019, arXiv 1904.00625.

    Args:
        in_channels: width of the last stage, `model.channels[-1]`.
        num_classes: K of the logits.
        hidden_channels: width of the finer grid.
    """

    def __init__(self, in_channels: int, num_classes: int, hidden_channels: int = 32) -> None:
        super().__init__()
        self.arguments = {
            "in_channels": in_channels,
            "num_classes": num_classes,
            "hidden_channels": hidden_channels,
        }
        self.up = nn.ConvTranspose3d(in_channels, hidden_channels, 2, 2)
        self.norm1 = nn.BatchNorm3d(hidden_channels)
        self.act = nn.ReLU()
        self.conv = nn.Conv3d(hidden_channels, hidden_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm3d(hidden_channels)
        self.classify = nn.Conv3d(hidden_channels, num_classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> logits (B, K, 2 T, 2 H, 2 W)."""
        x = self.act(self.norm1(self.up(x)))
        return self.classify(self.act(self.norm2(self.conv(x))))


class Features(nn.Module):
    """The feature map itself."""

    def __init__(self) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same."""
        return x


def scores(logits: Tensor, classes: Sequence[str] = (), *, is_multilabel: bool = False) -> Tensor:
    """Logits (B, K) of a classifier -> softmax scores (B, K), or sigmoids, float32, on the CPU.

    Raises:
        ValueError: the logits have another shape, are not as many as the names of classes, if there are any, or are
            no numbers.
    """
    if logits.ndim != 2:
        raise ValueError(f"the network answers {tuple(logits.shape)}; a classifier answers logits (B, K)")
    _check_number(classes, logits.shape[1])
    found = (logits.float().sigmoid() if is_multilabel else logits.float().softmax(1)).cpu()
    if not found.isfinite().all():  # else the first class would be the answer
        raise ValueError(
            "the network answers nan or infinity: its weights are damaged, or its numbers too large for their "
            "precision (run it in float32)"
        )
    return found


HEADS = (Classify, MLP, PerFrame, TemporalTransformer, Segment, Detect, Features, Doubled)
# what those that do not answer once a clip answer
_OTHERS = {
    PerFrame: "for each frame",
    Segment: "for each voxel",
    Doubled: "for each voxel",
    Detect: "for each box that it is given",
    Features: "with the feature map",
}


def num_classes(head: Any) -> int | None:
    """K of a head of this file; None of `Features`, and of any other module."""
    return head.arguments.get("num_classes") if type(head) in HEADS else None


def check_classes(head: Any, classes: Sequence[str]) -> None:
    """Check that there is a name for each of a head's logits, or none.

    Raises:
        ValueError: there are more or fewer; a head that is not of this file may have any number.
    """
    _check_number(classes, num_classes(head) or len(classes))


def _check_number(classes: Sequence[str], number: int) -> None:
    if classes and len(classes) != number:
        raise ValueError(
            f"{len(classes)} names of classes (`spec.classes`) for {number} logits: give one for each, in their order"
        )


def labels_frames(network: nn.Module) -> bool:
    """Whether a network's head answers for each frame."""
    return type(getattr(network, "head", None)) is PerFrame


def check_classifier(network: nn.Module) -> None:
    """Check that a network's head answers once a clip; one that is not of this file is taken to do so.

    Raises:
        ValueError: it has another task; the message says what to do.
    """
    head = getattr(network, "head", None)
    if (answers := _OTHERS.get(type(head))) is None:
        return
    advice = f"`model.head = tubelet.heads.Classify(model.channels[-1], {num_classes(head) or 'K'})` is one to train"
    arguments = (getattr(network, "architecture", None) or {}).get("arguments", {})
    if type(head) is PerFrame and arguments.get("per_frame"):
        advice = "`tubelet.save(tubelet.load(PATH, per_frame=False), 'clip.safetensors')` keeps the mean of its answers"
    raise ValueError(
        f"the network answers {answers} (its head is {type(head).__name__}), not once a clip, as a classifier: {advice}"
    )


def describe(head: Any) -> dict[str, Any]:
    """A head of this file as plain values, from which `build` makes it anew (without its weights)."""
    if type(head) not in HEADS:
        names = ", ".join(cls.__name__ for cls in HEADS)
        raise ValueError(f"a {type(head).__name__} cannot be saved as a head; known are {names}")
    return {"name": type(head).__name__, "arguments": head.arguments}


def build(description: Mapping[str, Any]) -> nn.Module:
    """The head that `describe` described, with new weights.

    Raises:
        ValueError: there is no such head, or it has no such argument.
    """
    cls = next((cls for cls in HEADS if cls.__name__ == description["name"]), None)
    if cls is None:
        raise ValueError(f"unknown head {description['name']!r}: the file is from a newer tubelet")
    arguments = dict(description["arguments"])
    if unknown := arguments.keys() - inspect.signature(cls).parameters.keys():
        raise ValueError(f"{cls.__name__} has no argument {min(unknown)!r}: the file is from a newer tubelet")
    if "act" in arguments:
        arguments["act"] = getattr(nn, arguments["act"])
    return cls(**arguments)
