"""Inception networks over video: I3D, S3D and S3D-G, one network with a swapped convolution and a swapped gate.

Papers: Carreira, Zisserman: Quo Vadis, Action Recognition?, CVPR 2017, arXiv 1705.07750. Xie, Sun, Huang, Tu, Murphy:
Rethinking Spatiotemporal Feature Learning, ECCV 2018, arXiv 1712.04851. Miech et al.: End-to-End Learning of Visual
Representations from Uncurated Instructional Videos, CVPR 2020, arXiv 1912.06430.
Checkpoints: pytorch-i3d, kinetics_i3d_pytorch, torchvision, kylemin/S3D, S3D_HowTo100M.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from .. import blocks, heads
from ..blocks import Factory, Triple
from ..preset import Paper, Preset
from ..spec import TORCHVISION, ClipSpec

I3D = Paper("Carreira and Zisserman, Quo Vadis, Action Recognition?", 2017, "https://arxiv.org/abs/1705.07750")
S3D = Paper("Xie et al., Rethinking Spatiotemporal Feature Learning", 2018, "https://arxiv.org/abs/1712.04851")
MIL_NCE = Paper("Miech et al., End-to-End Learning of Visual Representations", 2020, "https://arxiv.org/abs/1912.06430")

# One row an Inception module, in three stages: 1x1x1; 1x1x1 and 3x3x3; 1x1x1 and 3x3x3; 1x1x1 after the pooling.
WIDTHS = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)
# (kernel, stride) of the pooling before each stage
POOLS: tuple[tuple[Triple, Triple], ...] = (
    ((1, 3, 3), (1, 2, 2)),
    ((1, 3, 3), (1, 2, 2)),
    ((3, 3, 3), (2, 2, 2)),
    ((2, 2, 2), (2, 2, 2)),
)
# with the eps of TensorFlow, in which these networks were made
norm = partial(nn.BatchNorm3d, eps=1e-3)


class Gate(nn.Module):
    """Channels weighted by a sigmoid of a linear layer on their means over the clip (arXiv 1712.04851).

    Args:
        channels: of the input and the output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = blocks.GlobalMean()
        self.fc = nn.Conv3d(channels, channels, 1)
        self.act = nn.Sigmoid()
        self.join = blocks.Join(blocks.multiply)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same shape."""
        return self.join(x, self.act(self.fc(self.pool(x))).expand(-1, -1, x.shape[2], -1, -1))


class Inception(nn.Module):
    """Four branches side by side, each with its gate (Szegedy et al. 2015, arXiv 1409.4842).

    Args:
        in_channels: channels of the input.
        widths: a row of `WIDTHS`.
        conv: makes a 3x3x3 convolution with its norm and activation, from channels in and out.
        gate: makes the end of a branch, from its channels.
        norm: makes the norm of the 1x1x1 convolutions, from a number of channels.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], conv: Factory, gate: Factory, norm: Factory) -> None:
        super().__init__()
        point = partial(blocks.conv_norm_act, kernel_size=1, norm=norm)
        one, mid_two, two, mid_three, three, four = widths
        self.branches = nn.ModuleList(
            [
                nn.Sequential(point(in_channels, one), gate(one)),
                nn.Sequential(point(in_channels, mid_two), conv(mid_two, two), gate(two)),
                nn.Sequential(point(in_channels, mid_three), conv(mid_three, three), gate(three)),
                nn.Sequential(nn.MaxPool3d(3, 1, 1), point(in_channels, four), gate(four)),
            ]
        )
        self.join = blocks.Join(blocks.concat)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, sum of the branches' widths, T, H, W)."""
        return self.join(*(branch(x) for branch in self.branches))


def separable(
    in_channels: int, out_channels: int, size: int = 3, stride: int = 1, *, norm: Factory = norm
) -> nn.Sequential:
    """Convolution in space, then in time, each with norm and activation."""
    return nn.Sequential(
        OrderedDict(
            spatial=blocks.conv_norm_act(in_channels, out_channels, (1, size, size), (1, stride, stride), norm=norm),
            temporal=blocks.conv_norm_act(out_channels, out_channels, (size, 1, 1), (stride, 1, 1), norm=norm),
        )
    )


def centred_pool(kernel_size: Triple, stride: Triple) -> nn.Module:
    """Max pooling padded alike on both sides; an even kernel is not padded and drops what is left over."""
    t, h, w = ((k - 1) // 2 for k in kernel_size)
    return nn.MaxPool3d(kernel_size, stride, (t, h, w))


def same_pool(kernel_size: Triple, stride: Triple) -> nn.Module:
    """Max pooling with TensorFlow's 'same' padding."""
    return nn.Sequential(OrderedDict(pad=blocks.SamePad(kernel_size, stride), pool=nn.MaxPool3d(kernel_size, stride)))


def even_pool(kernel_size: Triple, stride: Triple) -> nn.Module:
    """Max pooling with the padding that 'same' gives even sizes; the last window of an odd size hangs over."""
    pool = nn.MaxPool3d(kernel_size, stride, ceil_mode=True)
    return nn.Sequential(OrderedDict(pad=even_pad(kernel_size, stride), pool=pool))


def even_pad(kernel_size: Triple, stride: Triple) -> nn.Module:
    """The padding that 'same' gives sizes which the stride divides."""
    t, h, w = (max(0, k - s) for k, s in zip(kernel_size, stride, strict=True))
    return nn.ConstantPad3d((w // 2, w - w // 2, h // 2, h - h // 2, t // 2, t - t // 2), 0.0)


def _network(
    spec: ClipSpec,
    stem: nn.Module,
    head: nn.Module,
    least: Triple,
    *,
    conv: Factory,
    pool: Callable[[Triple, Triple], nn.Module],
    gate: Factory = nn.Identity,
    norm: Factory = norm,
) -> blocks.Network:
    """Two convolutions and nine Inception modules, in four stages that each begin with a pooling."""
    first = OrderedDict(
        pool=pool(*POOLS[0]),
        conv1=blocks.conv_norm_act(64, 64, 1, norm=norm),
        conv2=conv(64, 192),
        gate=gate(192),
    )
    stages, channels = [nn.Sequential(first)], [192]
    for rows, place in zip(WIDTHS, POOLS[1:], strict=True):
        layers, width = [pool(*place)], channels[-1]
        for row in rows:
            layers.append(Inception(width, row, conv, gate, norm))
            width = row[0] + row[2] + row[4] + row[5]
        stages.append(nn.Sequential(*layers))
        channels.append(width)
    strides = blocks.total_strides((2, 2, 2), [stride for _, stride in POOLS])
    return blocks.Network(stem, stages, head, spec=spec, channels=channels, strides=strides, least=least)


def _stem(in_channels: int, pad: nn.Module, kernel_size: Triple, stride: int, norm: Factory) -> nn.Sequential:
    """Convolution to 64 channels after its padding, with norm and activation."""
    conv = nn.Conv3d(in_channels, 64, kernel_size, stride, bias=False)
    return nn.Sequential(OrderedDict(pad=pad, conv=conv, norm=norm(64), act=nn.ReLU()))


def i3d(spec: ClipSpec, num_classes: int, *, per_frame: bool = False, even_padding: bool = False) -> blocks.Network:
    """I3D: Inception-v1 with 3x3x3 convolutions. 12,697,264 parameters; (B, 3, 64, 224, 224) -> (B, 400).

    The published head averages 7x7 positions, all that a 224x224 clip leaves; here it averages all of any size.

    Args:
        spec: of the clip.
        num_classes: K of the logits.
        per_frame: one set of logits for each two steps of the last map, (B, K, T / 8 - 1), from 9 frames up; their mean
            is the answer for the clip, which is what False gives.
        even_padding: pad odd sizes as the next even one, not as TensorFlow does (kinetics_i3d_pytorch, whose first
            convolution still does so in time).
    """
    head: nn.Module
    if per_frame:
        head = heads.PerFrame(1024, num_classes, 0.5, window=2)
    else:
        head = heads.Classify(1024, num_classes, 0.5, window=(2, 1, 1))
    pad: nn.Module = blocks.SamePad(7, 2)
    if even_padding:
        pad = nn.Sequential(blocks.SamePad((7, 1, 1), (2, 1, 1)), even_pad((1, 7, 7), (1, 2, 2)))
    # a head of two steps needs two; an even padding leaves nothing of a single pixel
    shortest, smallest = (9 if per_frame else 1), (2 if even_padding else 1)
    return _network(
        spec,
        _stem(spec.in_channels, pad, (7, 7, 7), 2, norm),
        head,
        (shortest, smallest, smallest),
        conv=partial(blocks.conv_norm_act, norm=norm),
        pool=even_pool if even_padding else same_pool,
    )


def s3d(spec: ClipSpec, num_classes: int, *, gating: bool = False, window: Sequence[int] = (2, 7, 7)) -> blocks.Network:
    """S3D: I3D with its convolutions split in space and time. 8,320,048 parameters; (B, 3, T, 224, 224) -> (B, 400).

    Args:
        spec: of the clip.
        num_classes: K of the logits.
        gating: S3D-G, in which a `Gate` ends the second convolution and each branch of the Inception modules.
        window: (t, h, w) of the head's average pooling; (2, 1, 1) averages any size of picture alike.
    """
    return _network(
        spec,
        separable(spec.in_channels, 64, 7, 2),
        heads.Classify(1024, num_classes, 0.2, window=window),
        (5, 17, 17),
        conv=separable,
        pool=centred_pool,
        gate=Gate if gating else nn.Identity,
    )


def s3d_g_milnce(spec: ClipSpec, num_classes: int) -> blocks.Network:
    """S3D-G of MIL-NCE: begins with 2x2x2 cubes as channels; 512 numbers to be compared with those of a sentence.

    Args:
        spec: of the clip.
        num_classes: size of the answer, 512 in the published network.
    """
    pad = nn.Sequential(blocks.SpaceToDepth(), blocks.SamePad((2, 4, 4), 1))
    return _network(
        spec,
        _stem(8 * spec.in_channels, pad, (2, 4, 4), 1, nn.BatchNorm3d),
        heads.Classify(1024, num_classes),
        (1, 1, 1),
        conv=partial(separable, norm=nn.BatchNorm3d),
        pool=even_pool,
        gate=Gate,
        norm=nn.BatchNorm3d,
    )


HALVES = (0.5, 0.5, 0.5)
RGB = ClipSpec(num_frames=64, fps=25.0, resize=256, crop=(224, 224), mean=HALVES, std=HALVES)
FLOW = ClipSpec(num_frames=64, fps=25.0, resize=256, crop=(224, 224), mean=HALVES[:2], std=HALVES[:2])
LONG = ClipSpec(
    num_frames=128, fps=15.0, resize=(256, 256), crop=(224, 224), mean=TORCHVISION.mean, std=TORCHVISION.std
)
HOWTO100M = ClipSpec(num_frames=32, fps=10.0, resize=224, crop=(224, 224), mean=(0.0,) * 3, std=(1.0,) * 3)

PRESETS = (
    Preset("i3d", i3d, RGB, I3D),
    Preset("i3d_flow", i3d, FLOW, I3D),
    Preset("s3d", s3d, LONG, S3D),
    Preset("s3d_g", s3d, RGB, S3D, {"gating": True}),
    Preset("s3d_g_milnce", s3d_g_milnce, HOWTO100M, MIL_NCE),
)
