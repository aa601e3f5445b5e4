"""Small networks that train from scratch on a CPU: three tiny ones in minutes, one of twice their width in an hour.

The tiny ones, a (2+1)D one, its 3x3x3 twin and its frame-by-frame twin, differ in their convolution alone, so that what
they answer differently comes from how they see time.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .. import blocks, heads
from ..blocks import Triple
from ..preset import Paper, Preset
from ..spec import ClipSpec

PAPER = Paper("This library's own", 2026, "")
SPEC = ClipSpec(num_frames=16, frame_stride=2, resize=64, crop=(56, 56))
TINY = (16, 32, 64)
SMALL = (32, 64, 128)
STRIDES: tuple[Triple, ...] = ((1, 2, 2), (2, 2, 2), (2, 2, 2))


def _full(in_channels: int, out_channels: int, stride: Triple = (1, 1, 1)) -> nn.Module:
    return blocks.conv3d(in_channels, out_channels, 3, stride)


def _factored(in_channels: int, out_channels: int, stride: Triple = (1, 1, 1)) -> nn.Module:
    # narrower in the middle than weights would allow: a third of the time, and it learns as well
    return blocks.conv2plus1d(in_channels, out_channels, stride, mid_channels=out_channels)


def _spatial(in_channels: int, out_channels: int, stride: Triple = (1, 1, 1)) -> nn.Module:
    return blocks.conv3d(in_channels, out_channels, (1, 3, 3), stride)


def _network(
    spec: ClipSpec, num_classes: int, conv: Callable[..., nn.Module], channels: tuple[int, ...] = TINY
) -> blocks.Network:
    width = channels[0]
    stem = blocks.conv_norm_act(spec.in_channels, width, (1, 5, 5), (1, 2, 2))
    stages = []
    for out, stride in zip(channels, STRIDES, strict=True):
        stages.append(blocks.residual((conv(width, out, stride), conv(out, out)), width, stride))
        width = out
    return blocks.Network(
        stem,
        stages,
        heads.Classify(width, num_classes, dropout=0.1),
        spec=spec,
        channels=channels,
        strides=blocks.total_strides((1, 2, 2), STRIDES),
    )


def tiny(spec: ClipSpec, num_classes: int) -> blocks.Network:
    """(2+1)D convolutions in three residual stages of 16, 32 and 64. (B, 3, 16, 56, 56) -> (B, 400)."""
    return _network(spec, num_classes, _factored)


def tiny_3d(spec: ClipSpec, num_classes: int) -> blocks.Network:
    """The twin of `tiny` with plain 3x3x3 convolutions. (B, 3, 16, 56, 56) -> (B, 400)."""
    return _network(spec, num_classes, _full)


def tiny_2d(spec: ClipSpec, num_classes: int) -> blocks.Network:
    """The twin of `tiny` that sees each frame alone and averages. (B, 3, 16, 56, 56) -> (B, 400)."""
    return _network(spec, num_classes, _spatial)


def small(spec: ClipSpec, num_classes: int) -> blocks.Network:
    """`tiny` of twice the width: three residual stages of 32, 64 and 128. (B, 3, 16, 56, 56) -> (B, 400)."""
    return _network(spec, num_classes, _factored, SMALL)


PRESETS = tuple(Preset(network.__name__, network, SPEC, PAPER) for network in (tiny, tiny_2d, tiny_3d, small))
