"""18-layer video ResNets: R3D, MC3 and R(2+1)D, one network with a swapped convolution.

Paper: Tran, Wang, Torresani, Ray, LeCun, Paluri: A Closer Look at Spatiotemporal Convolutions for Action
Recognition, CVPR 2018, arXiv 1711.11248. Checkpoints: torchvision's.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .. import blocks, heads
from ..blocks import Triple
from ..spec import TORCHVISION

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


def resnet(stem: nn.Module, convs: tuple[Pair, ...], *, num_classes: int, in_channels: int) -> blocks.Network:
    """Stages of 64, 128, 256 and 512 channels, two residual steps each, with `convs[i]` in stage i."""
    channels = (64, 128, 256, 512)
    stages, strides = [], []
    width = 64
    for i, (out, pair) in enumerate(zip(channels, convs, strict=True)):
        # a stage that looks at single frames has nothing to gain from dropping every other one
        stride = (1, 1, 1) if i == 0 else (1, 2, 2) if pair is spatial else (2, 2, 2)
        stages.append(
            nn.Sequential(
                blocks.basic_residual(*pair(width, out, stride), width, out, stride),
                blocks.basic_residual(*pair(out, out, (1, 1, 1)), out, out),
            )
        )
        strides.append(stride)
        width = out
    network = blocks.Network(
        stem,
        stages,
        heads.Classify(width, num_classes),
        spec=TORCHVISION.with_channels(in_channels),
        channels=channels,
        strides=blocks.total_strides((1, 2, 2), strides),
    )
    blocks.init_weights(network)
    return network


def r3d_18(*, num_classes: int = 400, in_channels: int = 3) -> blocks.Network:
    """R3D-18: 3x3x3 everywhere. 33,371,472 parameters; (B, 3, 16, 112, 112) -> (B, 400)."""
    return resnet(full_stem(in_channels), (full,) * 4, num_classes=num_classes, in_channels=in_channels)


def mc3_18(*, num_classes: int = 400, in_channels: int = 3) -> blocks.Network:
    """MC3-18: 3x3x3 in the first stage, 1x3x3 after it. (B, 3, 16, 112, 112) -> (B, 400)."""
    convs = (full, spatial, spatial, spatial)
    return resnet(full_stem(in_channels), convs, num_classes=num_classes, in_channels=in_channels)


def r2plus1d_18(*, num_classes: int = 400, in_channels: int = 3) -> blocks.Network:
    """R(2+1)D-18: space and time in turn. 31,505,325 parameters; (B, 3, 16, 112, 112) -> (B, 400)."""
    return resnet(factored_stem(in_channels), (factored,) * 4, num_classes=num_classes, in_channels=in_channels)
