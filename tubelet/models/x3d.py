"""X3D: one tiny 2D network expanded along time, depth, width and resolution.

Paper: Feichtenhofer: X3D: Expanding Architectures for Efficient Video Recognition, CVPR 2020, arXiv 2004.04730.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from .. import blocks, heads
from ..preset import Paper, Preset
from ..spec import ClipSpec, kinetics

PAPER = Paper("Feichtenhofer, X3D", 2020, "https://arxiv.org/abs/2004.04730")


def _block(
    in_channels: int, out_channels: int, factor: float, stride: int, *, has_gate: bool, norms: bool
) -> nn.Module:
    """1x1x1, depthwise 3x3x3 and 1x1x1 convolution; a gate after the second in every other block."""
    width = int(factor * out_channels)
    step = (1, stride, stride)
    branch: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=blocks.conv3d(in_channels, width, 1),
        norm1=nn.BatchNorm3d(width),
        act1=nn.ReLU(),
        conv2=blocks.conv3d(width, width, 3, step, groups=width),
        norm2=nn.BatchNorm3d(width),
    )
    if has_gate:
        branch["gate"] = blocks.SqueezeExcite(width, blocks.make_divisible(width / 16))
    branch["act2"] = nn.SiLU()
    branch["conv3"] = blocks.conv3d(width, out_channels, 1)
    branch["norm3"] = nn.BatchNorm3d(out_channels)
    shortcut: nn.Module = nn.Identity()
    if stride > 1 or in_channels != out_channels:
        has_norm = norms or in_channels != out_channels
        norm = nn.BatchNorm3d if has_norm else nn.Identity
        shortcut = blocks.conv_norm_act(in_channels, out_channels, 1, step, norm=norm, act=nn.Identity)
    return blocks.Residual(nn.Sequential(branch), shortcut)


def x3d(
    spec: ClipSpec,
    num_classes: int,
    *,
    depths: Sequence[int] = (3, 5, 11, 7),
    widths: Sequence[int] = (24, 24, 48, 96, 192),
    factor: float = 2.25,
    hidden_channels: int = 2048,
    norms_all: bool = False,
    windows: Sequence[Sequence[int]] = (),
) -> blocks.Network:
    """X3D: depthwise bottlenecks with gates; time is never thinned.

    Args:
        spec: the clip.
        num_classes: K of the logits.
        depths: blocks in each of the four stages.
        widths: of the stem and of each stage.
        factor: width of the middle of a block, for each channel of its output.
        hidden_channels: width between the two linear layers of the head.
        norms_all: whether a shortcut that keeps the number of channels has a norm as well (PySlowFast, MMAction2).
        windows: of the head, see `heads.MLP`.
    """
    stem = nn.Sequential(
        OrderedDict(
            space=blocks.conv3d(spec.in_channels, widths[0], (1, 3, 3), (1, 2, 2)),
            time=blocks.conv3d(widths[0], widths[0], (5, 1, 1), groups=widths[0]),
            norm=nn.BatchNorm3d(widths[0]),
            act=nn.ReLU(),
        )
    )
    stages = []
    before = widths[0]
    for width, depth in zip(widths[1:], depths, strict=True):
        steps = [
            _block(before if i == 0 else width, width, factor, 2 if i == 0 else 1, has_gate=i % 2 == 0, norms=norms_all)
            for i in range(depth)
        ]
        stages.append(nn.Sequential(*steps))
        before = width
    wide = int(factor * before)
    stages[-1].add_module("conv5", blocks.conv_norm_act(before, wide, 1))
    return blocks.Network(
        stem,
        stages,
        heads.MLP(wide, num_classes, hidden_channels, 0.5, bias=False, windows=windows),
        spec=spec,
        channels=(*widths[1:-1], wide),
        strides=blocks.total_strides((1, 2, 2), [(1, 2, 2)] * 4),
    )


PRESETS = (
    Preset("x3d_xs", x3d, kinetics(4, 12, 182, 182), PAPER, {"windows": ((4, 5, 5),)}),
    Preset("x3d_s", x3d, kinetics(13, 6, 182, 182), PAPER, {"windows": ((13, 5, 5),)}),
    Preset("x3d_m", x3d, kinetics(16, 5, 256, 256), PAPER, {"windows": ((16, 7, 7),)}),
    Preset("x3d_l", x3d, kinetics(16, 5, 356, 356), PAPER, {"depths": (5, 10, 25, 15), "windows": ((16, 10, 10),)}),
    Preset(
        "x3d_xl",
        x3d,
        kinetics(16, 5, 356, 356),
        PAPER,
        {"depths": (5, 10, 25, 15), "widths": (32, 32, 72, 136, 280), "windows": ((16, 10, 10),)},
    ),
)
