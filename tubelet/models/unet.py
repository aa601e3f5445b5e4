"""3D U-Nets: an encoder, a decoder that sees the encoder's maps, and logits for every voxel.

Papers: Cicek, Abdulkadir, Lienkamp, Brox, Ronneberger: 3D U-Net, MICCAI 2016, arXiv 1606.06650; residual: Lee, Zung,
Li, Jain, Seung: Superhuman Accuracy on the SNEMI3D Connectomics Challenge, 2017, arXiv 1706.00120; gates: Roy, Navab,
Wachinger: Concurrent Spatial and Channel Squeeze & Excitation, MICCAI 2018, arXiv 1803.02579; plain: Isensee, Jaeger,
Kohl, Petersen, Maier-Hein: nnU-Net, Nature Methods 18, 2021.
Checkpoints: wolny/pytorch-3dunet, whose details differ from the papers' and are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from .. import blocks, heads
from ..blocks import Join, Triple
from ..decoders import FULL, DenseNetwork, Step, Steps, supervised
from ..preset import Paper, Preset
from ..spec import ClipSpec

PAPER = Paper("Cicek et al., 3D U-Net", 2016, "https://arxiv.org/abs/1606.06650")
RESIDUAL = Paper("Lee et al., Superhuman Accuracy on the SNEMI3D Challenge", 2017, "https://arxiv.org/abs/1706.00120")
PLAIN = Paper("Isensee et al., nnU-Net", 2021, "https://doi.org/10.1038/s41592-020-01008-z")
GATED = Paper("Roy et al., Concurrent Squeeze & Excitation", 2018, "https://arxiv.org/abs/1803.02579")
# the patch of the source's own examples; it brings each volume to mean 0 and deviation 1
SPEC = ClipSpec(num_frames=80, resize=None, crop=(170, 170), mean=(0.0,), std=(1.0,))
WINDOW = ClipSpec(num_frames=64, resize=None, crop=(64, 64), mean=(0.0,), std=(1.0,))
Block = Callable[[int, int], nn.Module]
UPSAMPLING = ("nearest", "trilinear", "area", "deconv")
ACTS: dict[str, Callable[[], nn.Module]] = {"r": nn.ReLU, "l": nn.LeakyReLU, "e": nn.ELU}


def convolution(
    in_channels: int,
    out_channels: int,
    order: str,
    *,
    num_groups: int = 8,
    padding: int = 1,
    dropout: float = 0.1,
) -> nn.Sequential:
    """A 3x3x3 convolution, with the layers around it in the order of the letters.

    c convolution, b batch norm, g group norm (one group where there are fewer channels than `num_groups`), r ReLU,
    l leaky ReLU, e ELU, d dropout, D dropout of whole channels.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    width = in_channels
    for letter in order:
        if letter == "c":
            layers["conv"] = nn.Conv3d(in_channels, out_channels, 3, padding=padding, bias=not set("bg") & set(order))
            width = out_channels
        elif letter == "b":
            layers["norm"] = nn.BatchNorm3d(width)
        elif letter == "g":
            groups = num_groups if num_groups <= width else 1
            if width % groups:
                raise ValueError(f"num_groups {num_groups} does not divide the {width} channels of a group norm")
            layers["norm"] = nn.GroupNorm(groups, width)
        elif letter in ACTS:
            layers["act"] = ACTS[letter]()
        elif letter in "dD":
            layers["dropout"] = (nn.Dropout if letter == "d" else nn.Dropout3d)(dropout)
        else:
            raise ValueError(f"order {order!r}: unknown letter {letter!r}; known are b c d D e g l r")
    if "conv" not in layers or len(layers) < len(order):
        raise ValueError(f"order {order!r}: one c, and at most one norm, one activation and one dropout")
    return nn.Sequential(layers)


class ConcurrentExcite(nn.Module):
    """Channels gated by their means beside places gated by their channels; the larger counts (arXiv 1803.02579)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel = blocks.SqueezeExcite(channels, channels)
        self.place = nn.Sequential(OrderedDict(conv=nn.Conv3d(channels, 1, 1), gate=nn.Sigmoid()))
        self.weigh = Join(blocks.multiply)
        self.join = Join(torch.maximum)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same shape."""
        return self.join(self.channel(x), self.weigh(x, self.place(x)))


class Deconvolution(nn.Module):
    """3x3x3 transposed convolution with stride 2, then nearest resizing to the size that is wanted.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        is_padded: whether it has a bias and gives a last row, too, where that is wanted, as in the source's earlier
            releases; else n rows become 2 n - 1 before the resizing.
    """

    def __init__(self, in_channels: int, out_channels: int, is_padded: bool = False) -> None:
        super().__init__()
        last = int(is_padded)
        self.conv = nn.ConvTranspose3d(in_channels, out_channels, 3, 2, padding=1, output_padding=last, bias=is_padded)
        self.resize = blocks.Resize("nearest")

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """(B, C, T, H, W) -> (B, C', *size)."""
        t, h, w = size
        return self.resize(self.conv(x)[:, :, :t, :h, :w], size)  # a last row that is not wanted is cut off


class Transposed(nn.Module):
    """Transposed convolution whose kernel is its stride, cut to the size that is wanted.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: (t, h, w).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: Triple) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose3d(in_channels, out_channels, stride, stride, bias=False)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """(B, C, T, H, W) -> (B, C', *size)."""
        t, h, w = size
        return self.conv(x)[:, :, :t, :h, :w]


def _unet(
    spec: ClipSpec,
    num_classes: int,
    channels: Sequence[int],
    encode: Block,
    decoders: Iterable[nn.Module],
    *,
    pool: Triple,
    margin: int = 0,
) -> DenseNetwork:
    """A U-Net with `encode(in_channels, out_channels)` after each pooling; each block cuts `margin` rows off."""
    stages = []
    for i, (width, out) in enumerate(zip((spec.in_channels, *channels), channels, strict=False)):
        layers = [] if i == 0 else [("pool", nn.MaxPool3d(pool))]
        stages.append(nn.Sequential(OrderedDict([*layers, ("block", encode(width, out))])))
    least = [1, 1, 1]
    for _ in channels[1:]:
        least = [s * (n + margin) for n, s in zip(least, pool, strict=True)]
    t, h, w = (n + margin for n in least)
    return DenseNetwork(
        nn.Identity(),
        stages,
        Steps(decoders),
        heads.Segment(channels[0], num_classes),
        spec=spec,
        channels=channels,
        strides=blocks.total_strides((1, 1, 1), ((1, 1, 1), *(pool for _ in channels[1:]))),
        least=(t, h, w),
    )


def unet3d(
    spec: ClipSpec,
    num_classes: int,
    *,
    channels: Sequence[int] = (64, 128, 256, 512),
    order: str = "gcr",
    num_groups: int = 8,
    widens: int = 2,
    upsample: str = "nearest",
    pool: int | Sequence[int] = 2,
    padding: int = 1,
    dropout: float = 0.1,
) -> DenseNetwork:
    """3D U-Net: two convolutions a step, encoder and decoder side by side. (B, 1, T, H, W) -> (B, K, T, H, W).

    Args:
        spec: the clip.
        num_classes: K of the logits.
        channels: width of each stage.
        order: layers of a convolution, see `convolution`.
        num_groups: of group norms.
        widens: which of the encoder's two convolutions widens (the first then to half, or to all): 2 or 1.
        upsample: one of `UPSAMPLING`: resizing, or a transposed convolution.
        pool: (t, h, w) of the max pooling between stages, one number for all.
        padding: of the convolutions; with 0 the logits are those of the middle of the clip.
        dropout: probability, where `order` has one.
    """
    if upsample not in UPSAMPLING:
        raise ValueError(f"upsample {upsample!r}: known are {', '.join(UPSAMPLING)}")
    conv = partial(convolution, order=order, num_groups=num_groups, padding=padding, dropout=dropout)

    def double(width: int, mid: int, out: int) -> nn.Module:
        return nn.Sequential(OrderedDict(first=conv(width, mid), second=conv(mid, out)))

    def encode(width: int, out: int) -> nn.Module:
        return double(width, max(width, out // 2 if widens == 2 else out), out)

    def decode(width: int, out: int) -> nn.Module:
        if upsample == "deconv":
            return Step(Deconvolution(width, out), blocks.concat, double(2 * out, out, out))
        return Step(blocks.Resize(upsample), blocks.concat, double(width + out, out, out))

    decoders = [decode(width, out) for out, width in pairwise(channels)][::-1]
    return _unet(spec, num_classes, channels, encode, decoders, pool=blocks.triple(pool), margin=4 * (1 - padding))


def residual_unet3d(
    spec: ClipSpec,
    num_classes: int,
    *,
    channels: Sequence[int] = (64, 128, 256, 512, 1024),
    order: str = "gcr",
    num_groups: int = 8,
    has_gates: bool = False,
    is_concatenated: bool = False,
    is_padded: bool = False,
    projects_fully: bool = False,
    pool: int | Sequence[int] = 2,
) -> DenseNetwork:
    """Residual 3D U-Net: a residual step each, encoder and decoder added. (B, 1, T, H, W) -> (B, K, T, H, W).

    Args:
        spec: the clip.
        num_classes: K of the logits.
        channels: width of each stage.
        order: layers of a convolution, see `convolution`.
        num_groups: of group norms.
        has_gates: whether a `ConcurrentExcite` follows each step.
        is_concatenated: whether the decoder sets the encoder's map beside its own, and does not add it.
        is_padded: of the `Deconvolution`.
        projects_fully: whether a 3x3x3 convolution with its norm and activation stands before each step, as in the
            source's earlier releases, and not a 1x1x1 convolution where the width changes.
        pool: (t, h, w) of the max pooling between stages, one number for all.
    """
    conv = partial(convolution, num_groups=num_groups)

    def step(width: int, out: int) -> nn.Module:
        project: nn.Module = nn.Identity()
        if projects_fully:
            project = conv(width, out, order)
        elif width != out:
            project = nn.Conv3d(width, out, 1)
        # the second activation stands behind the sum, there with another slope
        plain = "".join(letter for letter in order if letter not in ACTS)
        act = partial(nn.LeakyReLU, 0.1) if "l" in order else nn.ELU if "e" in order else nn.ReLU
        branch = nn.Sequential(OrderedDict(first=conv(out, out, order), second=conv(out, out, plain)))
        layers = OrderedDict(project=project, residual=blocks.Residual(branch, nn.Identity(), act))
        if has_gates:
            layers["gate"] = ConcurrentExcite(out)
        return nn.Sequential(layers)

    def decode(width: int, out: int) -> nn.Module:
        upsample = Deconvolution(width, out, is_padded)
        if is_concatenated:
            return Step(upsample, blocks.concat, step(2 * out, out))
        return Step(upsample, blocks.add, step(out, out))

    decoders = [decode(width, out) for out, width in pairwise(channels)][::-1]
    return _unet(spec, num_classes, channels, step, decoders, pool=blocks.triple(pool))


def _decoded_first(skip: Tensor, x: Tensor) -> Tensor:
    """The maps side by side, the decoder's in front, as in the source."""
    return blocks.concat(x, skip)


def _kernels(strides: Sequence[Triple]) -> list[Triple]:
    """Kernel (t, h, w) of each stage: 1 along an axis that is halved later than the others, up to there, else 3.

    That is what nnU-Net chooses for thick slices: no mixing across them until voxels are about as thick as wide.
    """

    def size(i: int, axis: int) -> int:
        waits = all(stride[axis] == 1 for stride in strides[: i + 2])
        return 1 if waits and any(stride[axis] > 1 for stride in strides[i + 2 :]) else 3

    return [(size(i, 0), size(i, 1), size(i, 2)) for i in range(len(strides))]


def plain_unet3d(
    spec: ClipSpec,
    num_classes: int,
    *,
    channels: Sequence[int] = (32, 64, 128, 256),
    strides: Sequence[Sequence[int]] | None = None,
    deep: bool = False,
) -> DenseNetwork:
    """nnU-Net's plain network: two convolutions with instance norm a stage. (B, 1, T, H, W) -> (B, K, T, H, W).

    Convolutions with a stride lead down, transposed ones up. Where the strides leave an axis for later, kernels before
    that are 1 along it, as nnU-Net has them for thick slices.

    Args:
        spec: the clip.
        num_classes: K of the logits.
        channels: width of each stage.
        strides: (t, h, w) of each stage, the first (1, 1, 1); None is (2, 2, 2) for all others.
        deep: whether it answers, in training, with a list: logits of the coarser steps follow the finest ones.

    Raises:
        ValueError: there are not as many strides as channels, fewer than two, or the first is not (1, 1, 1).
    """
    steps = [FULL, *[(2, 2, 2)] * (len(channels) - 1)] if strides is None else [blocks.triple(each) for each in strides]
    if len(steps) != len(channels) or len(steps) < 2 or steps[0] != FULL:
        raise ValueError(
            f"strides {tuple(steps)} for channels {tuple(channels)}: give one for each, two or more, first (1, 1, 1)"
        )
    kernels = _kernels(steps)
    norm, act = partial(nn.InstanceNorm3d, affine=True), partial(nn.LeakyReLU, 0.01)

    def double(width: int, out: int, kernel: Triple, stride: Triple = FULL) -> nn.Module:
        layer = partial(blocks.conv_norm_act, norm=norm, act=act)
        return nn.Sequential(OrderedDict(first=layer(width, out, kernel, stride), second=layer(out, out, kernel)))

    stages, decoders = [], []
    width = spec.in_channels
    for out, kernel, stride in zip(channels, kernels, steps, strict=True):
        stages.append(double(width, out, kernel, stride))
        width = out
    # the kernel of a step up is that of the stage below, as in the source
    for (out, width), kernel, stride in zip(pairwise(channels), kernels[1:], steps[1:], strict=True):
        decoders.append(Step(Transposed(width, out, stride), _decoded_first, double(2 * out, out, kernel)))
    totals = blocks.total_strides(FULL, steps)
    # an instance norm of one voxel would be nothing
    t, h, w = (n + 1 if n > 1 else 1 for n in totals[-1])
    return DenseNetwork(
        nn.Identity(),
        stages,
        Steps(decoders[::-1]),
        heads.Segment(channels[0], num_classes, deep=supervised(channels[:-1], deep)),
        spec=spec,
        channels=channels,
        strides=totals,
        least=(t, h, w),
    )


PRESETS = (
    Preset("plain_unet3d", plain_unet3d, WINDOW, PLAIN),
    Preset("unet3d", unet3d, SPEC, PAPER),
    Preset("residual_unet3d", residual_unet3d, SPEC, RESIDUAL),
    Preset("residual_unet_se3d", residual_unet3d, SPEC, GATED, {"has_gates": True}),
)
