"""Video ResNets of 3x3x3 convolutions and of what stands in for them: (2+1)D, 1x3x3, groups, dilation.

Papers: Tran et al. 2018, arXiv 1711.11248 (R3D, MC3, rMC3, R(2+1)D); Hara et al. 2018, arXiv 1711.09577 (all depths,
pre-activation, Wide ResNet, ResNeXt); Kataoka et al. 2020, arXiv 2004.04968 (their R(2+1)D); Chen et al. 2019,
arXiv 1904.00625 (MedicalNet). Checkpoints: torchvision's, 3D-ResNets', MedicalNet's, MMAction2's.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from torch import nn

from .. import blocks, heads
from ..blocks import Triple
from ..preset import Paper, Preset
from ..spec import IMAGENET, TORCHVISION, ClipSpec

TRAN = Paper("Tran et al., A Closer Look at Spatiotemporal Convolutions", 2018, "https://arxiv.org/abs/1711.11248")
GHADIYARAM = Paper(
    "Ghadiyaram et al., Large-scale weakly-supervised pre-training", 2019, "https://arxiv.org/abs/1905.00561"
)
HARA = Paper("Hara et al., Can Spatiotemporal 3D CNNs Retrace 2D CNNs?", 2018, "https://arxiv.org/abs/1711.09577")
KATAOKA = Paper("Kataoka et al., Would Mega-scale Datasets Enhance 3D CNNs", 2020, "https://arxiv.org/abs/2004.04968")
CHEN = Paper("Chen, Ma, Zheng, Med3D: Transfer Learning for 3D Medical Image", 2019, "https://arxiv.org/abs/1904.00625")

Conv = Callable[[int, int, Triple], nn.Module]  # (in_channels, out_channels, stride)
ONE: Triple = (1, 1, 1)
T = TypeVar("T")


class Stage(NamedTuple):
    """Residual steps of one resolution.

    Attributes:
        convs: (in_channels, stride) -> the convolutions of a step.
        channels: what a step gives.
        depth: number of steps.
        stride: (t, h, w) of the first one.
    """

    convs: Callable[[int, Triple], Sequence[nn.Module]]
    channels: int
    depth: int
    stride: Triple


def full(in_channels: int, out_channels: int, stride: Triple, dilation: int = 1, groups: int = 1) -> nn.Module:
    """3x3x3 convolution."""
    return blocks.conv3d(in_channels, out_channels, 3, stride, dilation, groups)


def spatial(in_channels: int, out_channels: int, stride: Triple) -> nn.Module:
    """1x3x3 convolution: each frame on its own."""
    return blocks.conv3d(in_channels, out_channels, (1, 3, 3), stride)


def bottleneck(conv: Conv, mid_channels: int, channels: int, in_channels: int, stride: Triple) -> tuple[nn.Module, ...]:
    """The three convolutions of a bottleneck step, of which the middle one is `conv` and has the stride."""
    return (
        blocks.conv3d(in_channels, mid_channels, 1),
        conv(mid_channels, mid_channels, stride),
        blocks.conv3d(mid_channels, channels, 1),
    )


def convs_of(conv: Conv, width: int, is_bottleneck: bool, in_channels: int, stride: Triple) -> tuple[nn.Module, ...]:
    """The convolutions of a basic step to `width` channels, or of a bottleneck step to four times as many."""
    if is_bottleneck:
        return bottleneck(conv, width, 4 * width, in_channels, stride)
    return conv(in_channels, width, stride), conv(width, width, ONE)


def projection(in_channels: int, out_channels: int, stride: Triple, norm: blocks.Factory = nn.BatchNorm3d) -> nn.Module:
    """Shortcut B: 1x1x1 convolution and norm."""
    return blocks.conv_norm_act(in_channels, out_channels, 1, stride, norm=norm, act=nn.Identity)


def zero_padding(in_channels: int, out_channels: int, stride: Triple) -> nn.Module:
    """Shortcut A: every `stride`-th value, and zeros for the channels that are missing."""
    return nn.Sequential(nn.AvgPool3d(1, stride), blocks.ZeroChannels(out_channels - in_channels))


def pre_activation(
    convs: Sequence[nn.Conv3d], in_channels: int, stride: Triple, *, shortcut: nn.Module
) -> blocks.Residual:
    """Residual step with a norm and an activation before each convolution, none after the sum (arXiv 1603.05027)."""
    branch: OrderedDict[str, nn.Module] = OrderedDict()
    width = in_channels
    for i, conv in enumerate(convs, 1):
        branch[f"norm{i}"] = nn.BatchNorm3d(width)
        branch[f"act{i}"] = nn.ReLU()
        branch[f"conv{i}"] = conv
        width = conv.out_channels
    return blocks.Residual(nn.Sequential(branch), shortcut, act=nn.Identity)


SHORTCUTS: dict[str, Conv] = {"A": zero_padding, "B": projection}
# the convolution of a step, and how its layers are put together
BLOCKS: dict[str, tuple[Conv, blocks.Factory]] = {
    "plain": (full, blocks.residual),
    "preact": (full, pre_activation),
    "factored": (blocks.conv2plus1d, blocks.residual),
}


def _choose(what: str, name: str, among: Mapping[str, T]) -> T:
    if name not in among:
        raise ValueError(f"{what} {name!r}: known are {', '.join(among)}")
    return among[name]


def _network(
    spec: ClipSpec,
    head: nn.Module,
    stem: nn.Module,
    stem_channels: int,
    stem_stride: Triple,
    stages: Sequence[Stage],
    *,
    step: Callable[..., nn.Module] = blocks.residual,
    shortcut: Conv = projection,
) -> blocks.Network:
    """Stem, stages and head; `shortcut` makes the way past a step that changes the shape."""
    made = []
    width = stem_channels
    for stage in stages:
        steps = []
        for stride in (stage.stride, *[ONE] * (stage.depth - 1)):
            is_same = stride == ONE and width == stage.channels
            past = nn.Identity() if is_same else shortcut(width, stage.channels, stride)
            steps.append(step(stage.convs(width, stride), width, stride, shortcut=past))
            width = stage.channels
        made.append(nn.Sequential(*steps))
    return blocks.Network(
        stem,
        made,
        head,
        spec=spec,
        channels=[stage.channels for stage in stages],
        strides=blocks.total_strides(stem_stride, [stage.stride for stage in stages]),
    )


def _stem(
    in_channels: int, channels: int, kernel_size: int, stride: int, has_pool: bool, mid_channels: int | None = None
) -> tuple[nn.Module, Triple]:
    """7x7 convolution over `kernel_size` frames, or one over space and one over time, then a 3x3x3 maximum.

    Returns the stem and its (t, h, w) stride.
    """

    def layer(width: int, out: int, kernel: Triple, stride: Triple) -> nn.Sequential:
        # an even kernel gives one frame more than goes in, as in the source
        t, h, w = (k // 2 for k in kernel)
        conv = nn.Conv3d(width, out, kernel, stride, (t, h, w), bias=False)
        return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm3d(out), act=nn.ReLU()))

    if mid_channels is None:
        stem = layer(in_channels, channels, (kernel_size, 7, 7), (stride, 2, 2))
    else:
        stem = nn.Sequential(
            layer(in_channels, mid_channels, (1, 7, 7), (1, 2, 2)),
            layer(mid_channels, channels, (kernel_size, 1, 1), (stride, 1, 1)),
        )
    if not has_pool:
        return stem, (stride, 2, 2)
    stem.add_module("pool", nn.MaxPool3d(3, 2, 1))
    return stem, (2 * stride, 4, 4)


def video_resnet(
    spec: ClipSpec,
    num_classes: int,
    *,
    convs: Sequence[str] = ("full",) * 5,
    depths: Sequence[int] = (2, 2, 2, 2),
    is_bottleneck: bool = False,
    is_matched_once: bool = True,
    eps: float = 1e-5,
) -> blocks.Network:
    """R3D, MC3, rMC3 and R(2+1)D in torchvision's frame: no pooling but the last. (B, 3, 16, 112, 112) -> (B, 400).

    Args:
        spec: the clip.
        num_classes: K of the logits.
        convs: of the stem and of each stage: "full" 3x3x3, "spatial" 1x3x3 or "factored" (2+1)D.
        depths: residual steps in each stage.
        is_bottleneck: steps of three convolutions instead of two.
        is_matched_once: both (2+1)D convolutions of a step take the middle width that matches the first, as
            torchvision's do; else each its own, as those of the paper.
        eps: of the norms.
    """
    norm = partial(nn.BatchNorm3d, eps=eps)
    expansion = 4 if is_bottleneck else 1

    def step(kind: str, width: int, in_channels: int, stride: Triple) -> tuple[nn.Module, ...]:
        mid = blocks.matched_mid_channels(in_channels, width) if is_matched_once else None
        factored = partial(blocks.conv2plus1d, mid_channels=mid, norm=norm)
        kinds: dict[str, Conv] = {"full": full, "spatial": spatial, "factored": factored}
        return convs_of(_choose("convs", kind, kinds), width, is_bottleneck, in_channels, stride)

    layer = partial(blocks.conv_norm_act, norm=norm)
    if convs[0] == "factored":
        stem = nn.Sequential(layer(spec.in_channels, 45, (1, 7, 7), (1, 2, 2)), layer(45, 64, (3, 1, 1)))
    else:
        stem = layer(spec.in_channels, 64, (3 if convs[0] == "full" else 1, 7, 7), (1, 2, 2))
    stages = []
    for i, (kind, depth) in enumerate(zip(convs[1:], depths, strict=True)):
        width = 64 * 2**i
        # a stage that looks at single frames has nothing to gain from dropping every other one
        stride = ONE if i == 0 else (1, 2, 2) if kind == "spatial" else (2, 2, 2)
        stages.append(Stage(partial(step, kind, width), expansion * width, depth, stride))
    return _network(
        spec,
        heads.Classify(stages[-1].channels, num_classes),
        stem,
        64,
        (1, 2, 2),
        stages,
        step=partial(blocks.residual, norm=norm),
        shortcut=partial(projection, norm=norm),
    )


def pooled_r2plus1d(
    spec: ClipSpec, num_classes: int, *, depths: Sequence[int] = (3, 4, 6, 3), eps: float = 1e-3
) -> blocks.Network:
    """R(2+1)D in MMAction2's frame: a pooling behind the stem, (2+1)D shortcuts. (B, 3, 8, 224, 224) -> (B, 400).

    Args:
        spec: the clip.
        num_classes: K of the logits.
        depths: residual steps in each stage.
        eps: of the norms but those inside the (2+1)D convolutions, which keep 1e-5.
    """
    norm = partial(nn.BatchNorm3d, eps=eps)

    def shortcut(in_channels: int, out_channels: int, stride: Triple) -> nn.Module:
        # the middle width is that of a 3x1x1 convolution, though this one is 1x1x1
        mid = blocks.matched_mid_channels(in_channels, out_channels, (3, 1, 1))
        conv = blocks.conv2plus1d(in_channels, out_channels, stride, kernel_size=1, mid_channels=mid)
        return nn.Sequential(OrderedDict(conv=conv, norm=norm(out_channels)))

    mid = blocks.matched_mid_channels(spec.in_channels, 64, (3, 7, 7))
    stem = nn.Sequential(
        blocks.conv_norm_act(spec.in_channels, mid, (1, 7, 7), (1, 2, 2)),
        blocks.conv_norm_act(mid, 64, (3, 1, 1), norm=norm),
        nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
    )
    stages = []
    for i, depth in enumerate(depths):
        width = 64 * 2**i
        convs = partial(convs_of, blocks.conv2plus1d, width, False)
        stages.append(Stage(convs, width, depth, ONE if i == 0 else (2, 2, 2)))
    return _network(
        spec,
        heads.Classify(stages[-1].channels, num_classes, dropout=0.5),
        stem,
        64,
        (1, 4, 4),
        stages,
        step=partial(blocks.residual, norm=norm),
        shortcut=shortcut,
    )


def resnet3d(
    spec: ClipSpec,
    num_classes: int,
    *,
    block: str = "plain",
    depths: Sequence[int] = (2, 2, 2, 2),
    is_bottleneck: bool = False,
    shortcut: str = "B",
    widen_factor: float = 1.0,
    conv1_t_size: int = 7,
    conv1_t_stride: int = 1,
    no_max_pool: bool = False,
) -> blocks.Network:
    """3D-ResNets' ResNet, pre-activation ResNet and R(2+1)D. (B, 3, 16, 112, 112) -> (B, 400).

    Args:
        spec: the clip.
        num_classes: K of the logits.
        block: "plain" 3x3x3, "preact" with norm and activation first, or "factored" (2+1)D.
        depths: residual steps in each stage.
        is_bottleneck: steps of three convolutions instead of two.
        shortcut: where the shape changes: "A" without weights, "B" a projection.
        widen_factor: of all widths.
        conv1_t_size: frames of the first convolution's kernel.
        conv1_t_stride: its stride in time.
        no_max_pool: leaves out the pooling behind it.
    """
    conv, step = _choose("block", block, BLOCKS)
    expansion = 4 if is_bottleneck else 1
    widths = [int(width * widen_factor) for width in (64, 128, 256, 512)]
    stages = []
    for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        convs = partial(convs_of, conv, width, is_bottleneck)
        stages.append(Stage(convs, expansion * width, depth, ONE if i == 0 else (2, 2, 2)))
    # of a clip in colour, whatever the number of channels
    mid = blocks.matched_mid_channels(3, widths[0], (conv1_t_size, 7, 7)) if block == "factored" else None
    stem, stride = _stem(spec.in_channels, widths[0], conv1_t_size, conv1_t_stride, not no_max_pool, mid)
    return _network(
        spec,
        heads.Classify(stages[-1].channels, num_classes),
        stem,
        widths[0],
        stride,
        stages,
        step=step,
        shortcut=_choose("shortcut", shortcut, SHORTCUTS),
    )


def resnext3d(
    spec: ClipSpec,
    num_classes: int,
    *,
    depths: Sequence[int] = (3, 4, 23, 3),
    cardinality: int = 32,
    shortcut: str = "B",
    widen_factor: float = 1.0,
    stem_channels: int | None = None,
    conv1_t_size: int = 7,
    conv1_t_stride: int = 1,
    no_max_pool: bool = False,
) -> blocks.Network:
    """3D-ResNets' ResNeXt and, with one group, Wide ResNet of k = 2. (B, 3, 16, 112, 112) -> (B, 400).

    Args:
        spec: the clip.
        num_classes: K of the logits.
        depths: bottleneck steps in each stage, each twice as wide at its end as the stage's width.
        cardinality: groups of the middle convolution; 32, like 1, keep the stage's width there.
        shortcut: where the shape changes: "A" without weights, "B" a projection.
        widen_factor: of all widths; a Wide ResNet of k has k / 2.
        stem_channels: width of the first convolution; None is that of the first stage, checkpoints of 2018 have 64.
        conv1_t_size: frames of the first convolution's kernel.
        conv1_t_stride: its stride in time.
        no_max_pool: leaves out the pooling behind it.
    """
    conv = partial(full, groups=cardinality)
    widths = [int(width * widen_factor) for width in (128, 256, 512, 1024)]
    stages = []
    for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        mid = width if cardinality == 1 else cardinality * width // 32
        stages.append(Stage(partial(bottleneck, conv, mid, 2 * width), 2 * width, depth, ONE if i == 0 else (2, 2, 2)))
    first = stem_channels or widths[0]
    stem, stride = _stem(spec.in_channels, first, conv1_t_size, conv1_t_stride, not no_max_pool)
    head = heads.Classify(stages[-1].channels, num_classes)
    return _network(spec, head, stem, first, stride, stages, shortcut=_choose("shortcut", shortcut, SHORTCUTS))


def medicalnet(
    spec: ClipSpec,
    num_classes: int,
    *,
    depths: Sequence[int] = (2, 2, 2, 2),
    is_bottleneck: bool = False,
    shortcut: str = "B",
    has_head: bool = True,
) -> blocks.Network:
    """MedicalNet: a volume at 1/8 in every axis, the last two stages dilated. (B, 1, 56, 448, 448) -> 1/4 of that size.

    Args:
        spec: the volume.
        num_classes: K of the logits of each voxel.
        depths: residual steps in each stage.
        is_bottleneck: steps of three convolutions instead of two.
        shortcut: where the shape changes: "A" without weights, "B" a projection.
        has_head: False ends in the feature map, which is what the published checkpoints hold.
    """
    expansion = 4 if is_bottleneck else 1
    stages = []
    for i, (depth, stride, dilation) in enumerate(zip(depths, (1, 2, 1, 1), (1, 1, 2, 4), strict=True)):
        width = 64 * 2**i
        convs = partial(convs_of, partial(full, dilation=dilation), width, is_bottleneck)
        stages.append(Stage(convs, expansion * width, depth, (stride, stride, stride)))
    stem, total = _stem(spec.in_channels, 64, 7, 2, has_pool=True)
    head = heads.Doubled(stages[-1].channels, num_classes) if has_head else heads.Features()
    return _network(spec, head, stem, 64, total, stages, shortcut=_choose("shortcut", shortcut, SHORTCUTS))


HARA_SPEC = ClipSpec(resize=112, mean=(0.4345, 0.4051, 0.3775), std=(0.2768, 0.2713, 0.2737))
# a volume is brought to mean 0 and deviation 1 by its own values
CHEN_SPEC = ClipSpec(num_frames=56, resize=(448, 448), crop=(448, 448), mean=(0.0,), std=(1.0,))

DEPTHS: dict[int, tuple[int, ...]] = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}


def _size(depth: int) -> dict[str, object]:
    """Arguments of a network of that many layers."""
    return {"depths": DEPTHS[depth], "is_bottleneck": depth >= 50}


_FULL, _SPATIAL, _FACTORED = ("full",), ("spatial",), ("factored",)

PRESETS = (
    Preset("r3d_18", video_resnet, TORCHVISION, TRAN),
    Preset("mc3_18", video_resnet, TORCHVISION, TRAN, {"convs": 2 * _FULL + 3 * _SPATIAL}),
    Preset("rmc3_18", video_resnet, TORCHVISION, TRAN, {"convs": 2 * _SPATIAL + 3 * _FULL}),
    Preset("r2plus1d_18", video_resnet, TORCHVISION, TRAN, {"convs": 5 * _FACTORED}),
    Preset("r2plus1d_34", pooled_r2plus1d, IMAGENET, TRAN),
    Preset("r2plus1d_34_32x2", pooled_r2plus1d, dataclasses.replace(IMAGENET, num_frames=32, frame_stride=2), TRAN),
    Preset(
        "r2plus1d_34_ig65m",
        video_resnet,
        dataclasses.replace(TORCHVISION, num_frames=32, fps=None),
        GHADIYARAM,
        {"convs": 5 * _FACTORED, "depths": DEPTHS[34], "is_matched_once": False, "eps": 1e-3},
    ),
    *(Preset(f"resnet3d_{depth}", resnet3d, HARA_SPEC, HARA, _size(depth)) for depth in DEPTHS),
    *(
        Preset(f"preresnet3d_{depth}", resnet3d, HARA_SPEC, HARA, {"block": "preact", **_size(depth)})
        for depth in DEPTHS
    ),
    *(
        Preset(f"resnet2p1d_{depth}", resnet3d, HARA_SPEC, KATAOKA, {"block": "factored", **_size(depth)})
        for depth in DEPTHS
    ),
    Preset("wideresnet3d_50", resnext3d, HARA_SPEC, HARA, {"depths": DEPTHS[50], "cardinality": 1}),
    *(
        Preset(f"resnext3d_{depth}", resnext3d, HARA_SPEC, HARA, {"depths": DEPTHS[depth]})
        for depth in DEPTHS
        if depth >= 50
    ),
    *(
        Preset(
            f"medicalnet_{depth}",
            medicalnet,
            CHEN_SPEC,
            CHEN,
            {"shortcut": "A" if depth in (18, 34) else "B", **_size(depth)},
        )
        for depth in DEPTHS
    ),
)
