"""Tiny networks that train in a minute on a CPU: a (2+1)D one, its 3x3x3 twin and its frame-by-frame twin.

The three differ in their convolution alone, so that what they answer differently comes from how they see time.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .. import blocks, heads
from ..blocks import Triple
from ..spec import ClipSpec

SPEC = ClipSpec(num_frames=16, frame_stride=2, resize=64, crop=(56, 56))
CHANNELS = (16, 32, 64)
STRIDES: tuple[Triple, ...] = ((1, 2, 2), (2, 2, 2), (2, 2, 2))


def _full(in_channels: int, out_channels: int, stride: Triple = (1, 1, 1)) -> nn.Module:
    return blocks.conv3d(in_channels, out_channels, 3, stride)


def _factored(in_channels: int, out_channels: int, stride: Triple = (1, 1, 1)) -> nn.Module:
    # narrower in the middle than weights would allow: a third of the time, and it learns as well
    return blocks.conv2plus1d(in_channels, out_channels, stride, mid_channels=out_channels)


def _spatial(in_channels: int, out_channels: int, stride: Triple = (1, 1, 1)) -> nn.Module:
    return blocks.conv3d(in_channels, out_channels, (1, 3, 3), stride)


def _network(conv: Callable[..., nn.Module], num_classes: int, in_channels: int) -> blocks.Network:
    stem = blocks.conv_norm_act(in_channels, CHANNELS[0], (1, 5, 5), (1, 2, 2))
    stages = []
    width = CHANNELS[0]
    for out, stride in zip(CHANNELS, STRIDES, strict=True):
        stages.append(blocks.basic_residual(conv(width, out, stride), conv(out, out), width, out, stride))
        width = out
    network = blocks.Network(
        stem,
        stages,
        heads.Classify(width, num_classes, dropout=0.1),
        spec=SPEC.with_channels(in_channels),
        channels=CHANNELS,
        strides=blocks.total_strides((1, 2, 2), STRIDES),
    )
    blocks.init_weights(network)
    return network


def tiny(*, num_classes: int = 400, in_channels: int = 3) -> blocks.Network:
    """(2+1)D convolutions in three residual stages of 16, 32 and 64. (B, 3, 16, 56, 56) -> (B, 400)."""
    return _network(_factored, num_classes, in_channels)


def tiny_3d(*, num_classes: int = 400, in_channels: int = 3) -> blocks.Network:
    """The twin of `tiny` with plain 3x3x3 convolutions. (B, 3, 16, 56, 56) -> (B, 400)."""
    return _network(_full, num_classes, in_channels)


def tiny_2d(*, num_classes: int = 400, in_channels: int = 3) -> blocks.Network:
    """The twin of `tiny` that sees each frame alone and averages. (B, 3, 16, 56, 56) -> (B, 400)."""
    return _network(_spatial, num_classes, in_channels)
