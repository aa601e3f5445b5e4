"""TSM and TSN: an image network run on each frame, with (TSM) or without (TSN) channels shifted along time.

Papers: Lin, Gan, Han: TSM: Temporal Shift Module for Efficient Video Understanding, ICCV 2019, arXiv 1811.08383;
Wang et al.: Temporal Segment Networks, ECCV 2016, arXiv 1608.00859. The image networks: He et al. 2016, arXiv
1512.03385; Sandler et al.: MobileNetV2, CVPR 2018, arXiv 1801.04381; the non-local blocks: Wang et al. 2018, arXiv
1711.07971. Checkpoints: the authors' (mit-han-lab/temporal-shift-module) and MMAction2's.

Each frame of the clip is a segment, and any number of them goes: the logits are the mean of the frames' own.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from .. import blocks, heads
from ..blocks import Triple
from ..preset import Paper, Preset
from ..spec import IMAGENET, ClipSpec

TSM = Paper("Lin et al., TSM: Temporal Shift Module", 2019, "https://arxiv.org/abs/1811.08383")
TSN = Paper("Wang et al., Temporal Segment Networks", 2016, "https://arxiv.org/abs/1608.00859")
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
NON_LOCAL = ((), (0, 2), (0, 2, 4), ())
MOBILE_CHANNELS = (32, 16, 24, 32, 64, 96, 160, 320, 1280)
# expansion, number of blocks and stride of each width but the first and the last
MOBILE_LAYERS = ((1, 1, 1), (6, 2, 2), (6, 3, 2), (6, 4, 2), (6, 3, 1), (6, 3, 2), (6, 1, 1))


def _shifted(layer: nn.Module, shift_div: int) -> nn.Module:
    """The layer behind a temporal shift."""
    return nn.Sequential(OrderedDict(shift=blocks.TemporalShift(shift_div), net=layer))


def _check_place(shift_place: str | None, known: Sequence[str]) -> None:
    if shift_place is not None and shift_place not in known:
        raise ValueError(f"unknown shift_place {shift_place!r}; known are {', '.join(known)} and None for no shift")


def _convs(in_channels: int, width: int, stride: Triple, *, is_bottleneck: bool) -> list[nn.Module]:
    """Convolutions of a residual step, within one frame."""
    if not is_bottleneck:
        return [blocks.conv3d(in_channels, width, (1, 3, 3), stride), blocks.conv3d(width, width, (1, 3, 3))]
    return [
        blocks.conv3d(in_channels, width, 1),
        blocks.conv3d(width, width, (1, 3, 3), stride),
        blocks.conv3d(width, 4 * width, 1),
    ]


def resnet(
    spec: ClipSpec,
    num_classes: int,
    *,
    depth: int = 50,
    num_segments: int = 8,
    shift_div: int = 8,
    shift_place: str | None = "blockres",
    shift_every: int | None = None,
    non_local: Sequence[Sequence[int]] = (),
    non_local_mode: str = "embedded_gaussian",
    non_local_bias: bool = True,
) -> blocks.Network:
    """ResNet on each frame, with a temporal shift. (B, 3, 8, 224, 224) -> (B, 400).

    Args:
        spec: the clip it takes.
        num_classes: K of the logits.
        depth: 18, 34, 50, 101 or 152.
        num_segments: frames of the published clip; it is the `num_frames` of the spec and changes no layer.
        shift_div: one channel of `shift_div` comes from the frame after, as many from the frame before.
        shift_place: "blockres" shifts what the residual branch sees, "block" what the whole step sees; None shifts
            nothing, which is TSN.
        shift_every: "blockres" is for one step of so many; None is 1, and 2 in ResNet-101 and deeper. The authors' code
            cuts those to the length of ResNet-50 where it adds non-local blocks, but shifts every other step still.
        non_local: for each stage, the steps that a non-local block follows; empty is none.
        non_local_mode: of `blocks.Affinity`.
        non_local_bias: whether the last convolution of a non-local block has one; MMAction2's has none.

    Raises:
        ValueError: depth or shift_place is not one of these, shift_div is below 2, or non_local is not for four stages.
    """
    if depth not in DEPTHS:
        raise ValueError(f"depth {depth} must be one of {', '.join(map(str, DEPTHS))}")
    _check_place(shift_place, ("blockres", "block"))
    followed = non_local or ((),) * 4
    if len(followed) != 4:
        raise ValueError(f"non_local is given for {len(followed)} stages; there are 4")
    every = shift_every or (2 if depth > 50 else 1)
    stages, channels = [], []
    width = 64
    for i, count in enumerate(DEPTHS[depth]):
        steps = []
        for j in range(count):
            stride = (1, 2, 2) if i > 0 and j == 0 else (1, 1, 1)
            convs = _convs(width, 64 * 2**i, stride, is_bottleneck=depth >= 50)
            if shift_place == "blockres" and j % every == 0:
                convs[0] = _shifted(convs[0], shift_div)
            step: nn.Module = blocks.residual(convs, width, stride)
            if shift_place == "block":
                step = _shifted(step, shift_div)
            width = 64 * 2**i * (4 if depth >= 50 else 1)
            if j in followed[i]:
                attention = blocks.NonLocal(width, width // 2, non_local_mode, bias=non_local_bias)
                step = nn.Sequential(OrderedDict(block=step, non_local=attention))
            steps.append(step)
        stages.append(nn.Sequential(*steps))
        channels.append(width)
    strides = blocks.total_strides((1, 4, 4), ((1, 1, 1), (1, 2, 2), (1, 2, 2), (1, 2, 2)))
    return blocks.Network(
        nn.Sequential(
            blocks.conv_norm_act(spec.in_channels, 64, (1, 7, 7), (1, 2, 2)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        ),
        stages,
        heads.Classify(width, num_classes, dropout=0.5),
        spec=dataclasses.replace(spec, num_frames=num_segments),
        channels=channels,
        strides=strides,
        least=(1, *blocks.non_local_least(followed)),
    )


def _inverted(in_channels: int, out_channels: int, stride: Triple, expansion: int, shift_div: int | None) -> nn.Module:
    """Inverted residual: expand, depthwise, project; a shift, if any, is in the branch of a true residual step."""
    mid = expansion * in_channels
    is_residual = stride == (1, 1, 1) and in_channels == out_channels
    branch: OrderedDict[str, nn.Module] = OrderedDict()
    if expansion > 1:
        expand = blocks.conv_norm_act(in_channels, mid, 1, act=nn.ReLU6)
        if is_residual and shift_div is not None:
            expand[0] = _shifted(expand[0], shift_div)
        branch["expand"] = expand
    branch["depthwise"] = blocks.conv_norm_act(mid, mid, (1, 3, 3), stride, groups=mid, act=nn.ReLU6)
    branch["project"] = blocks.conv_norm_act(mid, out_channels, 1, act=nn.Identity)
    if is_residual:
        return blocks.Residual(nn.Sequential(branch), nn.Identity(), act=nn.Identity)
    return nn.Sequential(OrderedDict(branch=nn.Sequential(branch)))


def mobilenetv2(
    spec: ClipSpec,
    num_classes: int,
    *,
    channels: Sequence[int] = MOBILE_CHANNELS,
    num_segments: int = 8,
    shift_div: int = 8,
    shift_place: str | None = "blockres",
) -> blocks.Network:
    """MobileNetV2 on each frame, with a temporal shift. (B, 3, 8, 224, 224) -> (B, 400).

    Args:
        spec: the clip it takes.
        num_classes: K of the logits.
        channels: widths of the stem, of the seven groups of blocks and of the last convolution.
        num_segments: frames of the published clip; it is the `num_frames` of the spec and changes no layer.
        shift_div: one channel of `shift_div` comes from the frame after, as many from the frame before.
        shift_place: "blockres" shifts what the residual branches see; None shifts nothing, which is TSN.

    Raises:
        ValueError: there are not nine channels, shift_place is not one of these, or shift_div is below 2.
    """
    if len(channels) != len(MOBILE_CHANNELS):
        raise ValueError(f"{len(channels)} channels {tuple(channels)} are given; there must be {len(MOBILE_CHANNELS)}")
    _check_place(shift_place, ("blockres",))
    stem, *widths, last = channels
    stages: list[list[nn.Module]] = []
    width = stem
    for out, (expansion, count, step) in zip(widths, MOBILE_LAYERS, strict=True):
        if not stages or step > 1:
            stages.append([])
        for j in range(count):
            stride = (1, step, step) if j == 0 else (1, 1, 1)
            stages[-1].append(_inverted(width, out, stride, expansion, shift_div if shift_place else None))
            width = out
    stages[-1].append(blocks.conv_norm_act(width, last, 1, act=nn.ReLU6))
    return blocks.Network(
        blocks.conv_norm_act(spec.in_channels, stem, (1, 3, 3), (1, 2, 2), act=nn.ReLU6),
        [nn.Sequential(*stage) for stage in stages],
        heads.Classify(last, num_classes, dropout=0.5),
        spec=dataclasses.replace(spec, num_frames=num_segments),
        channels=(*(channels[i] for i in (1, 2, 3, 5)), last),
        strides=blocks.total_strides((1, 2, 2), ((1, 1, 1), *((1, 2, 2),) * 4)),
    )


PRESETS = (
    Preset("tsm_mobilenetv2", mobilenetv2, IMAGENET, TSM),
    Preset("tsm_r101", resnet, IMAGENET, TSM, {"depth": 101}),
    Preset("tsm_r18", resnet, IMAGENET, TSM, {"depth": 18}),
    Preset("tsm_r34", resnet, IMAGENET, TSM, {"depth": 34}),
    Preset("tsm_r50", resnet, IMAGENET, TSM),
    Preset("tsm_r50_nl", resnet, IMAGENET, TSM, {"non_local": NON_LOCAL}),
    Preset("tsn_mobilenetv2", mobilenetv2, IMAGENET, TSN, {"shift_place": None}),
    Preset("tsn_r101", resnet, IMAGENET, TSN, {"depth": 101, "shift_place": None}),
    Preset("tsn_r18", resnet, IMAGENET, TSN, {"depth": 18, "shift_place": None}),
    Preset("tsn_r34", resnet, IMAGENET, TSN, {"depth": 34, "shift_place": None}),
    Preset("tsn_r50", resnet, IMAGENET, TSN, {"shift_place": None}),
)
