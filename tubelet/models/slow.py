"""Bottleneck video ResNets: C2D, I3D-R50, Slow (with or without non-local blocks), CSN and R(2+1)D-50.

One trunk of four bottleneck stages; the families differ in where it looks across frames. Papers: Wang et al. 2018 (C2D,
I3D-R50, non-local), Feichtenhofer et al. 2019 (Slow), Tran et al. 2019 (CSN), Tran et al. 2018 (R(2+1)D).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from torch import nn

from .. import blocks, heads
from ..blocks import Triple
from ..preset import Paper, Preset
from ..spec import ClipSpec, kinetics

NON_LOCAL = Paper("Wang et al., Non-local Neural Networks", 2018, "https://arxiv.org/abs/1711.07971")
SLOWFAST = Paper("Feichtenhofer et al., SlowFast Networks", 2019, "https://arxiv.org/abs/1812.03982")
CSN = Paper("Tran et al., Channel-Separated Convolutional Networks", 2019, "https://arxiv.org/abs/1904.02811")
R2PLUS1D = Paper("Tran et al., A Closer Look at Spatiotemporal Convolutions", 2018, "https://arxiv.org/abs/1711.11248")

WIDTHS = (64, 128, 256, 512)
STRIDES: tuple[Triple, ...] = ((1, 1, 1), (1, 2, 2), (1, 2, 2), (1, 2, 2))


def _stem(
    in_channels: int,
    kernel: int,
    stride: int = 1,
    pool: int = 1,
    padding: int = 1,
    *,
    norm: blocks.Factory = nn.BatchNorm3d,
) -> nn.Sequential:
    """A (kernel, 7, 7) convolution to 64 channels and a 1x3x3 maximum; both halve the size."""
    layers = blocks.conv_norm_act(in_channels, WIDTHS[0], (kernel, 7, 7), (stride, 2, 2), norm=norm)
    layers.add_module("pool", nn.MaxPool3d((1, 3, 3), (pool, 2, 2), (0, padding, padding)))
    return layers


def slow(
    spec: ClipSpec,
    num_classes: int,
    *,
    depth: int = 50,
    temporal: Sequence[Sequence[int]] = ((1,), (1,), (3,), (3,)),
    stem: Sequence[int] = (1, 1, 1, 1),
    has_pool2: bool = False,
    non_local: Sequence[Sequence[int]] = ((), (), (), ()),
    non_local_mode: str = "embedded_gaussian",
    pool_first: bool = False,
    window: Sequence[int] | None = None,
) -> blocks.Network:
    """Slow, I3D and C2D of 50 to 152 layers: bottlenecks whose first convolution may look at three frames.

    Args:
        spec: the clip.
        num_classes: K of the logits.
        depth: 50, 101 or 152.
        temporal: for each stage, t of the first convolutions of its steps, over and over.
        stem: t of the first kernel, its stride in time; stride in time of the maximum after it, its padding in space.
        has_pool2: whether the second stage begins with a maximum of two frames.
        non_local: for each stage, numbers of the steps that a non-local block follows.
        non_local_mode: its pairwise function, see `blocks.Affinity`.
        pool_first: whether non-local blocks have their maximum before the convolutions, and a bias before the norm, as
            in PySlowFast.
        window: of the head, see `heads.Classify`.
    """
    make_non_local = partial(_non_local, mode=non_local_mode, pool_first=pool_first)
    stages = [
        blocks.bottleneck_stage(
            64 if i == 0 else 4 * WIDTHS[i - 1],
            width,
            steps,
            STRIDES[i],
            temporal=temporal[i],
            non_local=make_non_local,
            non_local_after=non_local[i],
        )
        for i, (width, steps) in enumerate(zip(WIDTHS, blocks.bottleneck_depths(depth), strict=True))
    ]
    _, stride, pool, padding = stem
    strides = list(STRIDES)
    if has_pool2:
        stages[1] = nn.Sequential(OrderedDict([("pool", nn.MaxPool3d((2, 1, 1))), *stages[1].named_children()]))
        strides[1] = (2, 2, 2)
    # of less than five pixels a maximum without padding leaves nothing, and so does pool2 of a single frame
    height, width = (max(n, 1 if padding else 5) for n in blocks.non_local_least(non_local))
    return blocks.Network(
        _stem(spec.in_channels, *stem),
        stages,
        heads.Classify(4 * WIDTHS[-1], num_classes, 0.5, window),
        spec=spec,
        channels=[4 * width for width in WIDTHS],
        strides=blocks.total_strides((stride * pool, 4, 4), strides),
        least=(stride * pool + 1 if has_pool2 else 1, height, width),
    )


def _non_local(channels: int, mode: str, pool_first: bool) -> nn.Module:
    return blocks.NonLocal(channels, channels // 2, mode, pool_first=pool_first, bias=pool_first)


def slow_detection(
    spec: ClipSpec,
    num_classes: int,
    *,
    depth: int = 50,
    dilation: int = 2,
    non_local: Sequence[Sequence[int]] = ((), (), (), ()),
    non_local_mode: str = "scaled_gaussian",
    output_size: int = 7,
    aligned: bool = False,
    takes_max: bool = False,
) -> blocks.Network:
    """Slow that scores boxes: its last stage keeps the size of the one before; (clip, boxes) -> (N, K).

    Args:
        spec: the clip.
        num_classes: K of the logits.
        depth: 50 or 101.
        dilation: of the last stage, in space.
        non_local: for each stage, numbers of the steps that a non-local block follows.
        non_local_mode: its pairwise function, see `blocks.Affinity`.
        output_size: of the head, see `heads.Detect`.
        aligned: likewise.
        takes_max: likewise.
    """
    network = slow(spec, num_classes, depth=depth, non_local=non_local, non_local_mode=non_local_mode)
    network.stages[3] = blocks.bottleneck_stage(
        4 * WIDTHS[2], WIDTHS[3], blocks.bottleneck_depths(depth)[3], (1, 1, 1), temporal=(3,), dilation=dilation
    )
    network.strides[3] = network.strides[2]
    network.head = heads.Detect(
        4 * WIDTHS[-1], num_classes, network.strides[3][1], 0.5, output_size, aligned, takes_max
    )
    return network


def csn(
    spec: ClipSpec,
    num_classes: int,
    *,
    depth: int = 50,
    keeps_interaction: bool = False,
    eps: float = 1e-5,
    window: Sequence[int] | None = None,
) -> blocks.Network:
    """CSN: channel-separated bottlenecks, whose 3x3x3 convolution is depthwise.

    Args:
        spec: the clip.
        num_classes: K of the logits.
        depth: 26, 50, 101 or 152.
        keeps_interaction: whether a 1x1x1 convolution stands before the depthwise one (ip-CSN; else ir-CSN).
        eps: of the norms.
        window: of the head, see `heads.Classify`.
    """
    norm = partial(nn.BatchNorm3d, eps=eps)

    def separated(channels: int, stride: Triple, dilation: int) -> nn.Module:
        depthwise = blocks.conv3d(channels, channels, 3, stride, groups=channels)
        if not keeps_interaction:
            return depthwise
        mix = blocks.conv3d(channels, channels, 1)
        return nn.Sequential(OrderedDict(mix=mix, norm=norm(channels), depthwise=depthwise))

    strides: list[Triple] = [(1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)]
    stages = [
        blocks.bottleneck_stage(
            64 if i == 0 else 4 * WIDTHS[i - 1], width, steps, strides[i], conv2=separated, norm=norm
        )
        for i, (width, steps) in enumerate(zip(WIDTHS, blocks.bottleneck_depths(depth), strict=True))
    ]
    return blocks.Network(
        _stem(spec.in_channels, 3, norm=norm),
        stages,
        heads.Classify(4 * WIDTHS[-1], num_classes, 0.5, window),
        spec=spec,
        channels=[4 * width for width in WIDTHS],
        strides=blocks.total_strides((1, 4, 4), strides),
    )


def r2plus1d(
    spec: ClipSpec, num_classes: int, *, depth: int = 50, window: Sequence[int] | None = (4, 7, 7)
) -> blocks.Network:
    """R(2+1)D bottlenecks: time, norm, activation and space in place of the middle convolution.

    Args:
        spec: the clip.
        num_classes: K of the logits.
        depth: 50, 101 or 152.
        window: of the head, see `heads.Classify`.
    """
    strides: list[Triple] = [(1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2)]

    def factored(channels: int, stride: Triple, dilation: int) -> nn.Module:
        t, h, w = stride
        return nn.Sequential(
            OrderedDict(
                temporal=blocks.conv3d(channels, channels, (3, 1, 1), (t, 1, 1)),
                norm=nn.BatchNorm3d(channels),
                act=nn.ReLU(),
                spatial=blocks.conv3d(channels, channels, (1, 3, 3), (1, h, w)),
            )
        )

    stages = [
        blocks.bottleneck_stage(64 if i == 0 else 4 * WIDTHS[i - 1], width, steps, strides[i], conv2=factored)
        for i, (width, steps) in enumerate(zip(WIDTHS, blocks.bottleneck_depths(depth), strict=True))
    ]
    return blocks.Network(
        blocks.conv_norm_act(spec.in_channels, WIDTHS[0], (1, 7, 7), (1, 2, 2)),
        stages,
        heads.Classify(4 * WIDTHS[-1], num_classes, 0.5, window),
        spec=spec,
        channels=[4 * width for width in WIDTHS],
        strides=blocks.total_strides((1, 2, 2), strides),
    )


C2D = {"temporal": ((1,), (1,), (1,), (1,)), "has_pool2": True}
I3D = {"temporal": ((3,), (3, 1), (3, 1), (1, 3)), "stem": (5, 1, 1, 1), "has_pool2": True}
# non-local blocks after every other step of the second and third stage
NL = {"non_local": ((), (1, 3), (1, 3, 5), ()), "non_local_mode": "scaled_gaussian", "pool_first": True}

PRESETS = (
    Preset("slow_r50", slow, kinetics(8, 8), SLOWFAST, {"window": (8, 7, 7)}),
    Preset("slow_r101", slow, kinetics(8, 8), SLOWFAST, {"depth": 101, "window": (8, 7, 7)}),
    Preset("slow_4x16_r50", slow, kinetics(4, 16), SLOWFAST, {"window": (4, 7, 7)}),
    Preset("slow_r50_nl", slow, kinetics(8, 8), SLOWFAST, {"window": (8, 7, 7), **NL, "non_local_mode": "dot_product"}),
    Preset("slow_r50_detection", slow_detection, kinetics(4, 16), SLOWFAST),
    Preset("c2d_r50", slow, kinetics(8, 8), NON_LOCAL, {"window": (4, 7, 7), **C2D}),
    Preset("c2d_r101", slow, kinetics(8, 8), NON_LOCAL, {"depth": 101, "window": (4, 7, 7), **C2D}),
    Preset("c2d_r50_nl", slow, kinetics(8, 8), NON_LOCAL, {"window": (4, 7, 7), **C2D, **NL}),
    Preset("i3d_r50", slow, kinetics(8, 8), NON_LOCAL, {"window": (4, 7, 7), **I3D}),
    Preset("i3d_r101", slow, kinetics(8, 8), NON_LOCAL, {"depth": 101, "window": (4, 7, 7), **I3D}),
    Preset("i3d_r50_nl", slow, kinetics(8, 8), NON_LOCAL, {"window": (4, 7, 7), **I3D, **NL}),
    Preset("i3d_r101_nl", slow, kinetics(8, 8), NON_LOCAL, {"depth": 101, "window": (4, 7, 7), **I3D, **NL}),
    Preset("i3d_32x2_r50", slow, kinetics(32, 2), NON_LOCAL, {**I3D, "stem": (5, 2, 2, 1)}),
    Preset(
        "i3d_32x2_r50_nl", slow, kinetics(32, 2), NON_LOCAL, {**I3D, "stem": (5, 2, 2, 1), "non_local": NL["non_local"]}
    ),
    *(Preset(f"ir_csn_{depth}", csn, kinetics(32, 2), CSN, {"depth": depth}) for depth in (26, 50, 101, 152)),
    *(
        Preset(f"ip_csn_{depth}", csn, kinetics(32, 2), CSN, {"depth": depth, "keeps_interaction": True})
        for depth in (26, 50, 101, 152)
    ),
    Preset("r2plus1d_r50", r2plus1d, kinetics(16, 4), R2PLUS1D),
)
