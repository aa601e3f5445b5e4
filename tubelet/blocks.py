"""Layers over (B, C, T, H, W): every layer that has a time axis, and the network they make.

`tubelet.Stream` can run a network chunk by chunk because two rules hold in this library: whatever reaches
across frames is a module (`nn.Conv3d`, `nn.MaxPool3d`, `nn.AvgPool3d` or a class of this file), and branches
meet in a `Join`. A network of your own that keeps both rules streams exactly, too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from .spec import ClipSpec

Triple = tuple[int, int, int]
Factory = Callable[..., nn.Module]


def add(*branches: Tensor) -> Tensor:
    """Sum of the branches, all (B, C, T, H, W)."""
    return reduce(torch.add, branches)


def concat(*branches: Tensor) -> Tensor:
    """The branches (B, C_i, T, H, W) side by side: (B, sum of C_i, T, H, W)."""
    return torch.cat(branches, dim=1)


class Join(nn.Module):
    """Where branches meet: `merge(*branches)` of tensors (B, C, T, H, W) with one T.

    A stream waits here for the branch that is behind, so every merge of branches must be a Join.

    Args:
        merge: a function of the tensors, `add` (default), `concat` or one of your own that mixes no frames.
    """

    def __init__(self, merge: Callable[..., Tensor] = add) -> None:
        super().__init__()
        self.merge = merge

    def forward(self, *branches: Tensor) -> Tensor:
        """Tensors (B, C, T, H, W) -> what `merge` makes of them."""
        lengths = [branch.shape[2] for branch in branches]
        if len(set(lengths)) > 1:
            raise ValueError(f"Join: the branches have {lengths} frames; they must have the same number")
        return self.merge(*branches)

    def extra_repr(self) -> str:
        """Name of the merge."""
        return getattr(self.merge, "__name__", repr(self.merge))


def triple(value: int | Sequence[int]) -> Triple:
    """One number for all of (t, h, w), or the three given."""
    t, h, w = (value, value, value) if isinstance(value, int) else value
    return t, h, w


def conv3d(
    in_channels: int,
    out_channels: int,
    kernel_size: int | Triple = 3,
    stride: int | Triple = 1,
    dilation: int | Triple = 1,
    groups: int = 1,
    bias: bool = False,
) -> nn.Conv3d:
    """(B, C, T, H, W) convolution that keeps the size (stride 1, odd kernels)."""
    kernel, spread = triple(kernel_size), triple(dilation)
    t, h, w = (d * (k - 1) // 2 for k, d in zip(kernel, spread, strict=True))
    return nn.Conv3d(in_channels, out_channels, kernel, triple(stride), (t, h, w), spread, groups, bias)


def conv_norm_act(
    in_channels: int,
    out_channels: int,
    kernel_size: int | Triple = 3,
    stride: int | Triple = 1,
    *,
    groups: int = 1,
    norm: Factory = nn.BatchNorm3d,
    act: Factory = nn.ReLU,
) -> nn.Sequential:
    """Convolution, norm and activation.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: one number for all of (t, h, w), or the three.
        stride: likewise.
        groups: of the convolution; `in_channels` makes it depthwise.
        norm: makes the norm, from a number of channels.
        act: makes the activation; `nn.Identity` for none.
    """
    conv = conv3d(in_channels, out_channels, kernel_size, stride, groups=groups)
    return nn.Sequential(OrderedDict(conv=conv, norm=norm(out_channels), act=act()))


def matched_mid_channels(in_channels: int, out_channels: int) -> int:
    """Middle width at which a (1,3,3) and a (3,1,1) convolution have as many weights as one (3,3,3).

    Source: Tran et al. 2018, arXiv 1711.11248, section 3.5.
    """
    return (in_channels * out_channels * 27) // (in_channels * 9 + out_channels * 3)


def conv2plus1d(
    in_channels: int,
    out_channels: int,
    stride: int | Triple = 1,
    *,
    mid_channels: int | None = None,
    norm: Factory = nn.BatchNorm3d,
    act: Factory = nn.ReLU,
) -> nn.Sequential:
    """(2+1)D convolution: space, norm, activation, then time (Tran et al. 2018, arXiv 1711.11248).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: one number for all of (t, h, w), or the three.
        mid_channels: width between the two; None takes `matched_mid_channels`.
        norm: makes the norm, from a number of channels.
        act: makes the activation.
    """
    mid = matched_mid_channels(in_channels, out_channels) if mid_channels is None else mid_channels
    t, h, w = triple(stride)
    return nn.Sequential(
        OrderedDict(
            spatial=conv3d(in_channels, mid, (1, 3, 3), (1, h, w)),
            norm=norm(mid),
            act=act(),
            temporal=conv3d(mid, out_channels, (3, 1, 1), (t, 1, 1)),
        )
    )


class Residual(nn.Module):
    """`act(branch(x) + shortcut(x))`: the residual step of every family (He et al. 2016, arXiv 1512.03385).

    Args:
        branch: the layers that are learned.
        shortcut: the way past them, to the same shape.
        act: makes the activation.
    """

    def __init__(self, branch: nn.Module, shortcut: nn.Module, act: Factory = nn.ReLU) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.join = Join(add)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the branch's shape."""
        return self.act(self.join(self.branch(x), self.shortcut(x)))


def residual(
    convs: Sequence[nn.Module],
    in_channels: int,
    stride: Triple = (1, 1, 1),
    *,
    shortcut: nn.Module | None = None,
    norm: Factory = nn.BatchNorm3d,
    act: Factory = nn.ReLU,
) -> Residual:
    """Residual step: a norm after each convolution, an activation between them and after the sum.

    Two convolutions make the basic block, three the bottleneck (He et al. 2016, arXiv 1512.03385).

    Args:
        convs: the convolutions in order, the first from `in_channels`.
        in_channels: channels of the input.
        stride: (t, h, w) of all convolutions together.
        shortcut: the way past them; None is a 1x1x1 projection where the shape changes, else the input itself.
        norm: makes a norm, from a number of channels.
        act: makes an activation.
    """
    branch: OrderedDict[str, nn.Module] = OrderedDict()
    for i, conv in enumerate(convs, 1):
        branch[f"conv{i}"] = conv
        branch[f"norm{i}"] = norm(_width(conv))
        if i < len(convs):
            branch[f"act{i}"] = act()
    width = _width(convs[-1])
    if shortcut is None:
        shortcut = nn.Identity()
        if stride != (1, 1, 1) or in_channels != width:
            shortcut = conv_norm_act(in_channels, width, 1, stride, norm=norm, act=nn.Identity)
    return Residual(nn.Sequential(branch), shortcut, act)


def _width(conv: nn.Module) -> int:
    """Channels that a convolution, or a sequence that ends in one, gives."""
    return [layer for layer in conv.modules() if isinstance(layer, nn.Conv3d)][-1].out_channels


class GlobalMean(nn.Module):
    """Mean over all of time and space, kept as (B, C, 1, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, 1, 1, 1)."""
        return x.mean((2, 3, 4), keepdim=True)


def multiply(x: Tensor, gate: Tensor) -> Tensor:
    """Each channel and frame of x (B, C, T, H, W) times its gate (B, C, T, 1, 1)."""
    return x * gate


class SqueezeExcite(nn.Module):
    """Channels weighted by a gate that two 1x1x1 convolutions make of their means (Hu et al. 2018, arXiv 1709.01507).

    Args:
        channels: channels of the input and the output.
        mid_channels: width between the two convolutions.
        pool: makes the layer that takes the means, to (B, C, 1 or T, 1, 1).
        act: makes the activation between the convolutions.
        gate: makes the activation at the end.
    """

    def __init__(
        self,
        channels: int,
        mid_channels: int,
        *,
        pool: Factory = GlobalMean,
        act: Factory = nn.ReLU,
        gate: Factory = nn.Sigmoid,
    ) -> None:
        super().__init__()
        self.pool = pool()
        self.fc1 = nn.Conv3d(channels, mid_channels, 1)
        self.act = act()
        self.fc2 = nn.Conv3d(mid_channels, channels, 1)
        self.gate = gate()
        self.join = Join(multiply)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same shape."""
        gate = self.gate(self.fc2(self.act(self.fc1(self.pool(x)))))
        return self.join(x, gate.expand(-1, -1, x.shape[2], -1, -1))


class Network(nn.Module):
    """An encoder and its head: `head(stages(stem(x)))`.

    Attributes:
        stem: the first layers.
        stages: one module for each resolution.
        head: anything from the last stage's map to an answer; change the task by assigning another one.
        spec: the clip the weights eat.
        channels: width of each stage.
        strides: total stride (t, h, w) of each stage.
        least: the smallest (T, H, W) it takes.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Iterable[nn.Module],
        head: nn.Module,
        *,
        spec: ClipSpec,
        channels: Sequence[int],
        strides: Sequence[Triple],
        least: Triple = (1, 1, 1),
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.head = head
        self.spec = spec
        self.channels = tuple(channels)
        self.strides = list(strides)
        self.least = least

    def features(self, x: Tensor) -> list[Tensor]:
        """(B, C, T, H, W) -> the map of each stage, coarse last, described by `channels` and `strides`."""
        check_clip(x, self.spec.in_channels, self.least)
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor, *boxes: Tensor) -> Tensor:
        """(B, C, T, H, W) -> what the head makes of the last stage; a `Detect` head takes boxes (N, 5), too."""
        return apply_head(self.head, self.features(x)[-1], x, *boxes)


def apply_head(head: nn.Module, features: Tensor, x: Tensor, *boxes: Tensor) -> Tensor:
    """What a head makes of the last map (B, C, T', H', W') of a clip x (B, C, T, H, W).

    A head with a true `wants_size` is called with the clip's (T, H, W) as well, to answer at that size.
    """
    if getattr(head, "wants_size", False):
        return head(features, x.shape[2:])
    return head(features, *boxes)


def check_clip(x: Tensor, in_channels: int, least: Triple = (1, 1, 1)) -> None:
    """Check that a network can take a clip.

    Raises:
        ValueError: x is not (B, in_channels, T, H, W), or one of T, H and W is below `least`.
    """
    if x.ndim != 5 or x.shape[1] != in_channels or any(n < low for n, low in zip(x.shape[2:], least, strict=True)):
        t, h, w = least
        raise ValueError(
            f"input is {tuple(x.shape)}; this network takes (B, {in_channels}, T, H, W) with any "
            + ("T, H and W of at least 1" if least == (1, 1, 1) else f"T from {t}, H from {h} and W from {w} up")
        )


def total_strides(stem: Triple, stages: Iterable[Triple]) -> list[Triple]:
    """Strides of the stem and of each stage alone -> total stride (t, h, w) at the end of each stage."""
    totals = []
    t, h, w = stem
    for dt, dh, dw in stages:
        t, h, w = t * dt, h * dh, w * dw
        totals.append((t, h, w))
    return totals


NORMS = (nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm)


def init_weights(network: nn.Module) -> None:
    """He initialisation of the convolutions (arXiv 1502.01852), ones and zeros for norms, small linear layers."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        elif isinstance(module, NORMS) and module.weight is not None:
            nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
