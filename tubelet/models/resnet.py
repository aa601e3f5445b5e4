"""18-layer video ResNets: R3D, MC3 and R(2+1)D, one network with a swapped convolution.

Paper: Tran, Wang, Torresani, Ray, LeCun, Paluri: A Closer Look at Spatiotemporal Convolutions for Action
Recognition, CVPR 2018, arXiv 1711.11248. Checkpoints: torchvision's.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .. import blocks, heads
from ..blocks import Triple
from ..preset import Paper, Preset
from ..spec import TORCHVISION, ClipSpec

PAPER = Paper("Tran et al., A Closer Look at Spatiotemporal Convolutions", 2018, "https://arxiv.org/abs/1711.11248")
Pair = Callable[[int, int, Triple], tuple[nn.Module, nn.Module]]


def full(in_channels: int, out_channels: int, stride: Triple) -> tuple[nn.Module, nn.Module]:
    """Two 3x3x3 convolutions."""
    return (
        blocks.conv3d(in_channels, out_channels, 3, stride),
        blocks.conv3d(out_channels, out_channels, 3),
    )


def spatial(in_channels: int, out_channels: int, stride: Triple) -> tuple[nn.Module, nn.Module]:
    """Two 1x3x3 convolutions: each frame on its own."""
    return (
        blocks.conv3d(in_channels, out_channels, (1, 3, 3), stride),
        blocks.conv3d(out_channels, out_channels, (1, 3, 3)),
    )


def factored(in_channels: int, out_channels: int, stride: Triple) -> tuple[nn.Module, nn.Module]:
    """Two (2+1)D convolutions; both take the middle width that matches the first, as the published nets do."""
    mid = blocks.matched_mid_channels(in_channels, out_channels)
    return (
        blocks.conv2plus1d(in_channels, out_channels, stride, mid_channels=mid),
        blocks.conv2plus1d(out_channels, out_channels, mid_channels=mid),
    )


def full_stem(in_channels: int) -> nn.Module:
    """3x7x7 convolution to 64 channels."""
    return blocks.conv_norm_act(in_channels, 64, (3, 7, 7), (1, 2, 2))


def factored_stem(in_channels: int) -> nn.Module:
    """1x7x7 convolution to 45 channels, then 3x1x1 to 64."""
    return nn.Sequential(
        blocks.conv_norm_act(in_channels, 45, (1, 7, 7), (1, 2, 2)),
        blocks.conv_norm_act(45, 64, (3, 1, 1)),
    )


def _resnet(spec: ClipSpec, num_classes: int, stem: nn.Module, convs: tuple[Pair, ...]) -> blocks.Network:
    """Stages of 64, 128, 256 and 512 channels, two residual steps each, with `convs[i]` in stage i."""
    channels = (64, 128, 256, 512)
    stages, strides = [], []
    width = 64
    for i, (out, pair) in enumerate(zip(channels, convs, strict=True)):
        # a stage that looks at single frames has nothing to gain from dropping every other one
        stride = (1, 1, 1) if i == 0 else (1, 2, 2) if pair is spatial else (2, 2, 2)
        stages.append(
            nn.Sequential(
                blocks.residual(pair(width, out, stride), width, stride),
                blocks.residual(pair(out, out, (1, 1, 1)), out),
            )
        )
        strides.append(stride)
        width = out
    return blocks.Network(
        stem,
        stages,
        heads.Classify(width, num_classes),
        spec=spec,
        channels=channels,
        strides=blocks.total_strides((1, 2, 2), strides),
    )


def r3d_18(spec: ClipSpec, num_classes: int) -> blocks.Network:
    """R3D-18: 3x3x3 everywhere. 33,371,472 parameters; (B, 3, 16, 112, 112) -> (B, 400)."""
    return _resnet(spec, num_classes, full_stem(spec.in_channels), (full,) * 4)


def mc3_18(spec: ClipSpec, num_classes: int) -> blocks.Network:
    """MC3-18: 3x3x3 in the first stage, 1x3x3 after it. (B, 3, 16, 112, 112) -> (B, 400)."""
    return _resnet(spec, num_classes, full_stem(spec.in_channels), (full, spatial, spatial, spatial))


def r2plus1d_18(spec: ClipSpec, num_classes: int) -> blocks.Network:
    """R(2+1)D-18: space and time in turn. 31,505,325 parameters; (B, 3, 16, 112, 112) -> (B, 400)."""
    return _resnet(spec, num_classes, factored_stem(spec.in_channels), (factored,) * 4)


PRESETS = tuple(Preset(network.__name__, network, TORCHVISION, PAPER) for network in (mc3_18, r2plus1d_18, r3d_18))
