"""Small networks to read: the four that a textbook on 3D convolution begins with.

Their sizes are the textbook's: 15,333 (5 classes), 3,546,090 (10), 285,194 (10) and 69,794 (2) parameters.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from .. import blocks, heads
from ..blocks import Triple
from ..preset import Paper, Preset
from ..spec import ClipSpec

PAPER = Paper("Textbook networks", 2026, "")
VIDEO = ClipSpec(num_frames=16, frame_stride=2, resize=128, crop=(112, 112))
SCAN = ClipSpec(num_frames=32, resize=None, crop=(64, 64), mean=(0.45,), std=(0.225,))
FULL, HALF, FLAT = (1, 1, 1), (2, 2, 2), (1, 2, 2)


def _stage(in_channels: int, out_channels: int, pool: Triple = FULL, kernel_size: int | Triple = 3) -> nn.Sequential:
    """Max pooling, convolution with bias, ReLU."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if pool != FULL:
        layers["pool"] = nn.MaxPool3d(pool)
    layers["conv"] = blocks.conv3d(in_channels, out_channels, kernel_size, bias=True)
    layers["act"] = nn.ReLU()
    return nn.Sequential(layers)


def _plain(
    spec: ClipSpec,
    num_classes: int,
    channels: tuple[int, ...],
    pools: tuple[Triple, ...],
    kernel_size: int | Triple = 3,
) -> blocks.Network:
    """Stages of one convolution each, `pools[i]` before that of stage i, `kernel_size` for the first."""
    stages: list[nn.Module] = []
    width = spec.in_channels
    for out, pool in zip(channels, pools, strict=True):
        stages.append(_stage(width, out, pool, 3 if stages else kernel_size))
        width = out
    strides = blocks.total_strides(FULL, pools)
    return blocks.Network(
        nn.Identity(),
        stages,
        heads.Classify(width, num_classes),
        spec=spec,
        channels=channels,
        strides=strides,
        least=strides[-1],
    )


def video_cnn(spec: ClipSpec, num_classes: int) -> blocks.Network:
    """Convolution to 16, pooling, convolution to 32, mean. (B, 3, 16, 112, 112) -> (B, K)."""
    return _plain(spec, num_classes, (16, 32), (FULL, HALF))


def video_analyzer(spec: ClipSpec, num_classes: int) -> blocks.Network:
    """3x5x5 convolution to 32, 3x3x3 to 64 and 128; the first pooling keeps T. (B, 3, 16, 112, 112) -> (B, K)."""
    return _plain(spec, num_classes, (32, 64, 128), (FULL, FLAT, HALF), (3, 5, 5))


def medical_analyzer(spec: ClipSpec, num_classes: int) -> blocks.Network:
    """Convolutions to 16, 32 and 64 for a scan of one channel. (B, 1, 32, 64, 64) -> (B, K)."""
    return _plain(spec, num_classes, (16, 32, 64), (FULL, HALF, HALF))


def tiny3d(spec: ClipSpec, num_classes: int) -> blocks.Network:
    """3x7x7 stem to 32, residual steps of 64, 128 and 256, each halving all axes. (B, 3, 16, 112, 112) -> (B, K)."""
    channels = (64, 128, 256)
    stages = []
    width = 32
    for out in channels:
        convs = (blocks.conv3d(width, out, 3, HALF), blocks.conv3d(out, out))
        stages.append(blocks.residual(convs, width, HALF))
        width = out
    return blocks.Network(
        blocks.conv_norm_act(spec.in_channels, 32, (3, 7, 7), FLAT),
        stages,
        heads.Classify(width, num_classes),
        spec=spec,
        channels=channels,
        strides=blocks.total_strides(FLAT, (HALF,) * 3),
    )


PRESETS = (
    Preset("medical_analyzer", medical_analyzer, SCAN, PAPER),
    Preset("tiny3d", tiny3d, VIDEO, PAPER),
    Preset("video_analyzer", video_analyzer, VIDEO, PAPER),
    Preset("video_cnn", video_cnn, VIDEO, PAPER),
)
