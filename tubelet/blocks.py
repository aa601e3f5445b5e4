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
        if any(length != lengths[0] for length in lengths):
            raise ValueError(f"Join: the branches have {lengths} frames; they must have the same number")
        return self.merge(*branches)

    def extra_repr(self) -> str:
        """Name of the merge."""
        return getattr(self.merge, "__name__", repr(self.merge))


def triple(value: int | Sequence[int]) -> Triple:
    """One number for all of (t, h, w), or the three given."""
    t, h, w = (value, value, value) if isinstance(value, int) else value
    return t, h, w


def make_divisible(width: float, divisor: int = 8) -> int:
    """The nearest multiple of the divisor, not below the divisor nor more than a tenth below the width.

    Source: Sandler et al. 2018, arXiv 1801.04381, their code.
    """
    nearest = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * width else nearest


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
    dilation: int | Triple = 1,
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
        dilation: likewise.
        groups: of the convolution; `in_channels` makes it depthwise.
        norm: makes the norm, from a number of channels: `nn.BatchNorm3d`, `nn.SyncBatchNorm`, `ChannelNorm`,
            `partial(nn.GroupNorm, 8)`.
        act: makes the activation; `nn.Identity` for none.
    """
    conv = conv3d(in_channels, out_channels, kernel_size, stride, dilation, groups)
    return nn.Sequential(OrderedDict(conv=conv, norm=norm(out_channels), act=act()))


def depthwise_separable(
    in_channels: int,
    out_channels: int,
    kernel_size: int | Triple = 3,
    stride: int | Triple = 1,
    *,
    norm: Factory = nn.BatchNorm3d,
    act: Factory = nn.ReLU,
) -> nn.Sequential:
    """A convolution of each channel alone, then 1x1x1 across channels, each with norm and activation.

    Source: Howard et al. 2017, arXiv 1704.04861, with a third axis.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: of the first, one number for all of (t, h, w), or the three.
        stride: likewise.
        norm: makes a norm, from a number of channels.
        act: makes an activation.
    """
    return nn.Sequential(
        OrderedDict(
            depthwise=conv_norm_act(
                in_channels, in_channels, kernel_size, stride, groups=in_channels, norm=norm, act=act
            ),
            pointwise=conv_norm_act(in_channels, out_channels, 1, norm=norm, act=act),
        )
    )


class ChannelNorm(nn.Module):
    """Layer norm over the channels at each place and frame (Ba et al. 2016, arXiv 1607.06450).

    Args:
        channels: channels of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same shape."""
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


def matched_mid_channels(in_channels: int, out_channels: int, kernel_size: int | Triple = 3) -> int:
    """Middle width at which a (1, h, w) and a (t, 1, 1) convolution have as many weights as one (t, h, w).

    Source: Tran et al. 2018, arXiv 1711.11248, section 3.5.
    """
    t, h, w = triple(kernel_size)
    return (in_channels * out_channels * t * h * w) // (in_channels * h * w + out_channels * t)


def conv2plus1d(
    in_channels: int,
    out_channels: int,
    stride: int | Triple = 1,
    *,
    kernel_size: int | Triple = 3,
    mid_channels: int | None = None,
    norm: Factory = nn.BatchNorm3d,
    act: Factory = nn.ReLU,
) -> nn.Sequential:
    """(2+1)D convolution: space, norm, activation, then time (Tran et al. 2018, arXiv 1711.11248).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: one number for all of (t, h, w), or the three.
        kernel_size: likewise.
        mid_channels: width between the two; None takes `matched_mid_channels`.
        norm: makes the norm, from a number of channels.
        act: makes the activation.
    """
    mid = matched_mid_channels(in_channels, out_channels, kernel_size) if mid_channels is None else mid_channels
    (kt, kh, kw), (t, h, w) = triple(kernel_size), triple(stride)
    return nn.Sequential(
        OrderedDict(
            spatial=conv3d(in_channels, mid, (1, kh, kw), (1, h, w)),
            norm=norm(mid),
            act=act(),
            temporal=conv3d(mid, out_channels, (kt, 1, 1), (t, 1, 1)),
        )
    )


class ZeroChannels(nn.Module):
    """Channels of zeros behind those of the input: a shortcut without weights (He et al. 2016, option A).

    Args:
        channels: how many.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C + channels, T, H, W)."""
        return nn.functional.pad(x, (0, 0, 0, 0, 0, 0, 0, self.channels))

    def extra_repr(self) -> str:
        """Number of channels."""
        return str(self.channels)


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


class SpatialMean(nn.Module):
    """Mean over space alone."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, T, 1, 1)."""
        return x.mean((3, 4), keepdim=True)


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
        pooled_channels: width of what `pool` gives; None is `channels`.
    """

    def __init__(
        self,
        channels: int,
        mid_channels: int,
        *,
        pool: Factory = GlobalMean,
        act: Factory = nn.ReLU,
        gate: Factory = nn.Sigmoid,
        pooled_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.pool = pool()
        self.fc1 = nn.Conv3d(pooled_channels or channels, mid_channels, 1)
        self.act = act()
        self.fc2 = nn.Conv3d(mid_channels, channels, 1)
        self.gate = gate()
        self.join = Join(multiply)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same shape."""
        gate = self.gate(self.fc2(self.act(self.fc1(self.pool(x)))))
        return self.join(x, gate.expand(-1, -1, x.shape[2], -1, -1))


class TemporalShift(nn.Module):
    """Some channels come from the frame after, as many from the frame before (Lin et al. 2019, arXiv 1811.08383).

    Zeros come in at the two ends of the clip; the other channels stay where they are.

    Args:
        div: one channel of `div` moves each way.

    Raises:
        ValueError: div is below 2.
    """

    def __init__(self, div: int = 8) -> None:
        super().__init__()
        if div < 2:
            raise ValueError(f"shift_div {div} must be at least 2: one share of the channels moves each way")
        self.div = div

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same shape."""
        fold = x.shape[1] // self.div
        after, before, rest = x.split((fold, fold, x.shape[1] - 2 * fold), dim=1)
        pad = nn.functional.pad
        return concat(pad(after, (0, 0, 0, 0, -1, 1)), pad(before, (0, 0, 0, 0, 1, -1)), rest)

    def extra_repr(self) -> str:
        """The share of the channels that moves each way."""
        return f"div={self.div}"


class Affinity(nn.Module):
    """How much each position of a clip takes from each other one: the pairwise function of a non-local block.

    Args:
        mode: "gaussian" and "embedded_gaussian" (softmax of dot products), "dot_product" or "concatenation", the names
            of the paper (Wang et al. 2018, arXiv 1711.07971, section 3.2); "scaled_gaussian" is the embedded one with
            dot products divided by the root of C, as PySlowFast has it.
        channels: C of both inputs.
    """

    def __init__(self, mode: str, channels: int) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"unknown non-local mode {mode!r}; known are {', '.join(MODES)}")
        self.mode = mode
        self.scale = channels**-0.5 if mode == "scaled_gaussian" else 1.0
        self.project = nn.Conv3d(2 * channels, 1, 1, bias=False) if mode == "concatenation" else None

    def forward(self, theta: Tensor, phi: Tensor) -> Tensor:
        """(B, C, N) and (B, C, M) -> weights (B, N, M)."""
        if self.project is not None:
            left, right = self.project.weight.flatten().chunk(2)
            # the weights of a concatenation are a sum of two parts: no (N, M) map of 2C channels is made
            both = torch.einsum("c,bcn->bn", left, theta)[:, :, None] + torch.einsum("c,bcm->bm", right, phi)[:, None]
            return both.relu() / phi.shape[2]
        product = theta.transpose(1, 2) @ phi
        return product / phi.shape[2] if self.mode == "dot_product" else (product * self.scale).softmax(2)


MODES = ("gaussian", "embedded_gaussian", "scaled_gaussian", "dot_product", "concatenation")


class NonLocal(nn.Module):
    """Non-local block: each position gets a weighted sum over all of time and space (arXiv 1711.07971).

    Args:
        channels: channels of the input and the output.
        mid_channels: width inside.
        mode: of the `Affinity`.
        pool_first: whether the 1x2x2 maximum that thins the positions summed over stands before the convolutions, else
            after.
        bias: whether the convolution before the norm has one.
        norm: makes the norm of the result, from a number of channels.
    """

    def __init__(
        self,
        channels: int,
        mid_channels: int,
        mode: str = "embedded_gaussian",
        *,
        pool_first: bool = False,
        bias: bool = True,
        norm: Factory = nn.BatchNorm3d,
    ) -> None:
        super().__init__()
        has_maps = mode != "gaussian"
        self.pool = nn.MaxPool3d((1, 2, 2))
        self.pool_first = pool_first
        self.theta = nn.Conv3d(channels, mid_channels, 1) if has_maps else nn.Identity()
        self.phi = nn.Conv3d(channels, mid_channels, 1) if has_maps else nn.Identity()
        self.g = nn.Conv3d(channels, mid_channels, 1)
        self.affinity = Affinity(mode, mid_channels if has_maps else channels)
        self.out = nn.Sequential(OrderedDict(conv=nn.Conv3d(mid_channels, channels, 1, bias=bias), norm=norm(channels)))
        self.join = Join(add)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same shape."""
        if self.pool_first:
            pooled = self.pool(x)
            phi, g = self.phi(pooled), self.g(pooled)
        else:
            phi, g = self.pool(self.phi(x)), self.pool(self.g(x))
        weights = self.affinity(self.theta(x).flatten(2), phi.flatten(2))
        summed = g.flatten(2) @ weights.transpose(1, 2)
        return self.join(x, self.out(summed.unflatten(2, x.shape[2:])))


BOTTLENECKS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}


def bottleneck_depths(depth: int) -> tuple[int, int, int, int]:
    """Bottleneck steps in each of the four stages of a ResNet of 26 to 200 layers."""
    if depth not in BOTTLENECKS:
        raise ValueError(f"depth {depth}: known are {', '.join(map(str, BOTTLENECKS))}")
    return BOTTLENECKS[depth]


def bottleneck_stage(
    in_channels: int,
    mid_channels: int,
    depth: int,
    stride: Triple,
    *,
    temporal: Sequence[int] = (1,),
    dilation: int = 1,
    conv2: Callable[[int, Triple, int], nn.Module] | None = None,
    non_local: Callable[[int], nn.Module] | None = None,
    non_local_after: Sequence[int] = (),
    norm: Factory = nn.BatchNorm3d,
) -> nn.Sequential:
    """Bottleneck residual steps to 4 * mid_channels: (t,1,1), then a convolution over space, then 1x1x1.

    Args:
        in_channels: channels of the input.
        mid_channels: width of the first two convolutions.
        depth: number of steps.
        stride: (t, h, w) of the first step, on its second convolution.
        temporal: t of the first convolution, step after step, over and over.
        dilation: of the second convolution, in space.
        conv2: makes the second convolution from (channels, stride, dilation); None is 1x3x3.
        non_local: makes a non-local block, from a number of channels.
        non_local_after: numbers of the steps that one follows.
        norm: makes a norm, from a number of channels.
    """
    stage: OrderedDict[str, nn.Module] = OrderedDict()
    width = in_channels
    for i in range(depth):
        step = stride if i == 0 else (1, 1, 1)
        convs = (
            conv3d(width, mid_channels, (temporal[i % len(temporal)], 1, 1)),
            (conv2 or _frame_conv)(mid_channels, step, dilation),
            conv3d(mid_channels, 4 * mid_channels, 1),
        )
        stage[str(i)] = residual(convs, width, step, norm=norm)
        width = 4 * mid_channels
        if non_local and i in non_local_after:
            stage[f"nonlocal{i}"] = non_local(width)
    return nn.Sequential(stage)


def non_local_least(places: Sequence[Sequence[int]]) -> tuple[int, int]:
    """The smallest H and W of a bottleneck network, of whose map the maximum in its non-local blocks leaves a pixel.

    Args:
        places: for each stage, numbers of the steps that a non-local block follows.
    """
    pixels = max([1, *((4 << i) + 1 for i, steps in enumerate(places) if steps)])
    return pixels, pixels


def _frame_conv(channels: int, stride: Triple, dilation: int) -> nn.Module:
    return conv3d(channels, channels, (1, 3, 3), stride, (1, dilation, dilation))


def _same_padded(x: Tensor, kernel_size: Triple, stride: Triple) -> Tensor:
    """What `SamePad` does, (B, C, T, H, W) -> the same with its edges."""
    edges: list[int] = []
    for size, k, s in zip(x.shape[2:], kernel_size, stride, strict=True):
        # where `max` does nothing it is left out: with it torch.export does not see that n becomes ceil(n / s)
        both = (size + s - 1) // s * s - size + k - s
        both = max(0, both) if k < s else both
        edges = [both // 2, both - both // 2, *edges]
    return nn.functional.pad(x, edges)


class SamePad(nn.Module):
    """TensorFlow's 'same' padding with zeros, before a layer that pads nothing: n steps become ceil(n / stride).

    How much there is depends on the size of the input; the odd one goes to the far side.

    Args:
        kernel_size: (t, h, w) of the layer that follows.
        stride: likewise.
    """

    def __init__(self, kernel_size: int | Triple, stride: int | Triple) -> None:
        super().__init__()
        self.kernel_size = triple(kernel_size)
        self.stride = triple(stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same with its edges."""
        return _same_padded(x, self.kernel_size, self.stride)

    def extra_repr(self) -> str:
        """Kernel and stride."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}"


class SpaceToDepth(nn.Module):
    """Each 2x2x2 cube of positions becomes the channels of one: 8 C of them, in the order (t, h, w, channel).

    An odd size gets zeros behind.
    """

    # as a pooling has them, since in time it slides as one does
    kernel_size = stride = (2, 2, 2)
    padding = (0, 0, 0)
    ceil_mode = True

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, 8 C, T / 2, H / 2, W / 2), sizes rounded up."""
        t, h, w = (n % 2 for n in x.shape[2:])
        x = nn.functional.pad(x, (0, w, 0, h, 0, t))
        x = x.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (B, C, T, 2, H, 2, W, 2)
        return x.permute(0, 3, 5, 7, 1, 2, 4, 6).flatten(1, 4)


class SpreadFrames(nn.Module):
    """Every `alpha`-th frame on average, first and last included: the slow frames of PySlowFast and PyTorchVideo.

    Args:
        alpha: fast frames for a slow one.
    """

    def __init__(self, alpha: int) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, T // alpha, H, W)."""
        places = torch.linspace(0, x.shape[2] - 1, x.shape[2] // self.alpha).long()
        return x.index_select(2, places.to(x.device))


class PastPad(nn.Module):
    """Frames of zeros before the first: a convolution of `frames` + 1 after it sees the past alone.

    Args:
        frames: how many.
    """

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, frames + T, H, W)."""
        return nn.functional.pad(x, (0, 0, 0, 0, self.frames, 0))

    def extra_repr(self) -> str:
        """Number of frames."""
        return str(self.frames)


class CausalMean(nn.Module):
    """Mean of the frames so far, each position on its own."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same shape."""
        means, _ = self.resume(x, x.new_zeros(()), 0)
        return means

    def resume(self, x: Tensor, total: Tensor, seen: int) -> tuple[Tensor, Tensor]:
        """The same after `seen` frames of the sum `total` (B, C, 1, H, W); and the new sum, in float64."""
        # float64: a sum over hours drifts in float32
        totals = total.double() + x.double().cumsum(2)
        counts = (torch.arange(1, x.shape[2] + 1, device=x.device) + seen).view(-1, 1, 1)
        return (totals / counts).to(x.dtype), totals[:, :, -1:].clone() if x.shape[2] else total


class HalvingMean(nn.Module):
    """1x3x3 average with stride 2 and TensorFlow's 'same' padding, which the average leaves out."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, T, ceil(H / 2), ceil(W / 2))."""
        sums, shares = (self._with_zeros(each) for each in (x, x.new_ones(1, 1, 1, *x.shape[3:])))
        # divided, since a pooling that leaves its padding out has none that depends on the size
        return (sums / shares).view(*x.shape[:3], *sums.shape[2:])

    @staticmethod
    def _with_zeros(x: Tensor) -> Tensor:
        """Averages that count the padding, (B, C, T, H, W) -> (B C T, 1, ceil(H / 2), ceil(W / 2))."""
        frames = _same_padded(x, (1, 3, 3), (1, 2, 2)).flatten(0, 2).unsqueeze(1)
        # in 2D, since torch has no 3D average in bfloat16 on a CPU
        return nn.functional.avg_pool2d(frames, 3, 2)


class Scale(nn.Module):
    """The input times one learned number (ReZero, Bachlechner et al. 2020, arXiv 2003.04887).

    At first 1, a plain residual step: at the paper's 0 the layers before it would get no gradient at the first update.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same shape."""
        return self.weight * x


class HardSigmoid(nn.Module):
    """Keras' hard sigmoid, 0.2 x + 0.5 between 0 and 1; that of torch.nn rises by 1/6."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same shape."""
        return (0.2 * x + 0.5).clamp(0, 1)


class Resize(nn.Module):
    """A map resampled to another size, in time as well.

    Args:
        mode: of `torch.nn.functional.interpolate`: "nearest", "trilinear" or "area".
    """

    def __init__(self, mode: str = "nearest") -> None:
        super().__init__()
        self.mode = mode

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """(B, C, T, H, W) -> (B, C, *size), size being (t, h, w)."""
        return nn.functional.interpolate(x, tuple(size), mode=self.mode)

    def extra_repr(self) -> str:
        """The mode."""
        return self.mode


def stages_of(model: nn.Module) -> list[nn.Module]:
    """The stages of a network that has some as `Network` does; what others call so may be anything."""
    stages = getattr(model, "stages", None)
    return list(stages) if isinstance(stages, nn.Sequential | nn.ModuleList) else []


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
        ValueError: x is not (B, in_channels, T, H, W) in floating point, or one of T, H and W is below `least`.
    """
    if x.ndim != 5 or x.shape[1] != in_channels or any(n < low for n, low in zip(x.shape[2:], least, strict=True)):
        t, h, w = least
        raise ValueError(
            f"input is {tuple(x.shape)}; this network takes (B, {in_channels}, T, H, W) with any "
            + ("T, H and W of at least 1" if least == (1, 1, 1) else f"T from {t}, H from {h} and W from {w} up")
        )
    if not x.is_floating_point():
        raise ValueError(f"input is {x.dtype}; bring it to floating point and to the spec's mean and std")


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
    """He initialisation of the convolutions (arXiv 1502.01852), ones and zeros for norms, small linear layers.

    Non-local blocks begin as the identity (arXiv 1711.07971, section 4.1).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.groups > 1:  # kaiming takes the fan of all groups together
                module.weight.data.mul_(module.groups**0.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        elif isinstance(module, NORMS) and module.weight is not None:
            nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    for block in network.modules():
        if isinstance(block, NonLocal):
            for conv in (block.theta, block.phi, block.g):
                if isinstance(conv, nn.Conv3d):
                    nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(block.out.get_parameter("norm.weight"))
