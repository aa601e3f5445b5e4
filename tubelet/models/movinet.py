"""MoViNet A0 to A5: mobile networks found by search, and their causal twins, which answer frame by frame.

Paper: Kondratyuk, Yuan, Li, Zhang, Tan, Brown, Gong: MoViNets: Mobile Video Networks for Efficient Video Recognition,
CVPR 2021, arXiv 2103.11511. Checkpoints: Atze00/MoViNet-pytorch, a port of the authors' TensorFlow code.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from .. import blocks, heads
from ..blocks import Factory, Triple
from ..preset import Paper, Preset
from ..spec import ClipSpec

PAPER = Paper("Kondratyuk et al., MoViNets", 2021, "https://arxiv.org/abs/2103.11511")
STRIDES: tuple[Triple, ...] = ((1, 2, 2), (1, 2, 2), (1, 2, 2), (1, 1, 1), (1, 2, 2))
NORM = partial(nn.BatchNorm3d, eps=1e-3)


class NowAndSoFar(nn.Module):
    """Means over space of all frames so far, and beside them those of the frame itself."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = blocks.SpatialMean()
        self.so_far = blocks.CausalMean()
        self.join = blocks.Join(blocks.concat)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, 2C, T, 1, 1)."""
        now = self.pool(x)
        return self.join(self.so_far(now), now)


def conv_norm_act(
    in_channels: int,
    out_channels: int,
    kernel_size: Triple = (1, 1, 1),
    stride: Triple = (1, 1, 1),
    *,
    groups: int = 1,
    is_causal: bool = False,
    act: Factory = nn.Identity,
) -> nn.Sequential:
    """Convolution, norm and activation; padded as by TensorFlow in space, and in time at both ends or the front."""
    t, h, w = kernel_size
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    padding = (t // 2, h // 2, w // 2)
    if is_causal and t > 1:
        layers["past"] = blocks.PastPad(t - 1)
        padding = (0, *padding[1:])
    if stride != (1, 1, 1):
        layers["pad"] = blocks.SamePad((1, h, w), stride)
        padding = (padding[0], 0, 0)
    layers["conv"] = nn.Conv3d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
    layers["norm"] = NORM(out_channels)
    layers["act"] = act()
    return nn.Sequential(layers)


def factored(channels: int, kernel_size: Triple, stride: Triple, **options: Any) -> nn.Sequential:
    """Depthwise convolution over space and, if the kernel reaches over time, another over time."""
    t, h, w = kernel_size
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        space=conv_norm_act(channels, channels, (1, h, w), stride, groups=channels, **options)
    )
    if t > 1:
        layers["time"] = conv_norm_act(channels, channels, (t, 1, 1), groups=channels, **options)
    return nn.Sequential(layers)


def whole(channels: int, kernel_size: Triple, stride: Triple, **options: Any) -> nn.Sequential:
    """Depthwise convolution over space and time at once."""
    return conv_norm_act(channels, channels, kernel_size, stride, groups=channels, **options)


def bottleneck(
    in_channels: int,
    out_channels: int,
    row: Sequence[int],
    stride: Triple,
    *,
    is_causal: bool,
    is_factored: bool,
    act: Factory,
) -> blocks.Residual:
    """Inverted bottleneck with squeeze and excitation, whose sum has a learned weight.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        row: middle width, and t and h = w of the depthwise kernel.
        stride: (t, h, w).
        is_causal: see `movinet`.
        is_factored: see `movinet`.
        act: makes the activations.
    """
    mid, t, size = row
    depthwise = factored if is_factored else whole
    pooled = 2 if is_causal else 1
    gate = blocks.SqueezeExcite(
        mid,
        blocks.make_divisible(mid // 4 * pooled),
        pool=NowAndSoFar if is_causal else blocks.GlobalMean,
        act=act,
        gate=blocks.HardSigmoid if is_factored else nn.Sigmoid,
        pooled_channels=pooled * mid,
    )
    branch = OrderedDict(
        expand=conv_norm_act(in_channels, mid, act=act),
        depthwise=depthwise(mid, (t, size, size), stride, is_causal=is_causal, act=act),
        gate=gate,
        project=conv_norm_act(mid, out_channels),
        scale=blocks.Scale(),
    )
    shortcut: OrderedDict[str, nn.Module] = OrderedDict()
    if stride != (1, 1, 1):
        shortcut["pool"] = blocks.HalvingMean()
    if shortcut or in_channels != out_channels:
        shortcut["project"] = conv_norm_act(in_channels, out_channels)
    return blocks.Residual(nn.Sequential(branch), nn.Sequential(shortcut), nn.Identity)


def movinet(
    spec: ClipSpec,
    num_classes: int,
    *,
    stem_channels: int,
    channels: Sequence[int],
    rows: Sequence[Sequence[Sequence[int]]],
    last_channels: int,
    hidden_channels: int = 2048,
    is_causal: bool = False,
    is_factored: bool = False,
) -> blocks.Network:
    """Inverted bottlenecks of searched widths and kernels. A0: (B, 3, 50, 172, 172) -> (B, 400).

    Args:
        spec: the clip it takes.
        num_classes: K of the logits.
        stem_channels: width after the first convolution.
        channels: width of each of the five stages.
        rows: for each stage, (middle width, t, h = w) of each block: t, h and w of its depthwise kernel.
        last_channels: width of the convolution behind the last stage.
        hidden_channels: width between the two linear layers of the head.
        is_causal: whether a step sees the past alone, so that a stream answers each frame without delay.
        is_factored: whether depthwise convolutions are one over space and one over time, with hard activations.
    """
    act = nn.Hardswish if is_factored else nn.SiLU
    width, stages = stem_channels, []
    for out, stage, first in zip(channels, rows, STRIDES, strict=True):
        steps: list[nn.Module] = []
        for row in stage:
            stride = (1, 1, 1) if steps else first
            steps.append(bottleneck(width, out, row, stride, is_causal=is_causal, is_factored=is_factored, act=act))
            width = out
        stages.append(nn.Sequential(*steps))
    stages[-1].add_module("last", conv_norm_act(width, last_channels, act=act))
    return blocks.Network(
        conv_norm_act(spec.in_channels, stem_channels, (1, 3, 3), (1, 2, 2), act=act),
        stages,
        heads.MLP(last_channels, num_classes, hidden_channels, dropout=0.2, act=nn.SiLU),
        spec=spec,
        channels=(*channels[:-1], last_channels),
        strides=blocks.total_strides((1, 2, 2), STRIDES),
    )


def _spec(num_frames: int, frame_stride: int, resize: int, crop: int) -> ClipSpec:
    return ClipSpec(num_frames, frame_stride, 25.0, resize, (crop, crop), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


# the paper's tables of architectures, with the widths to which the authors' code rounds them
SIZES: dict[str, tuple[ClipSpec, dict[str, Any]]] = {
    "movinet_a0": (
        _spec(50, 5, 192, 172),
        {
            "stem_channels": 8,
            "channels": (8, 32, 56, 56, 104),
            "rows": (
                ((24, 1, 5),),
                3 * ((80, 3, 3),),
                ((184, 5, 3), (112, 3, 3), (184, 3, 3)),
                ((184, 5, 3), *3 * ((184, 3, 3),)),
                ((384, 5, 3), (280, 1, 5), (280, 1, 5), (344, 1, 5)),
            ),
            "last_channels": 480,
        },
    ),
    "movinet_a1": (
        _spec(50, 5, 192, 172),
        {
            "stem_channels": 16,
            "channels": (16, 40, 64, 64, 136),
            "rows": (
                ((40, 1, 5), (40, 3, 3)),
                ((96, 3, 3), (120, 3, 3), (96, 3, 3), (96, 3, 3)),
                ((216, 5, 3), (128, 3, 3), (216, 3, 3), (168, 3, 3), (216, 3, 3)),
                ((216, 5, 3), (216, 3, 3), (216, 3, 3), (128, 3, 3), (128, 1, 5), (216, 3, 3)),
                ((456, 5, 3), *3 * ((360, 1, 5),), (456, 1, 5), (456, 3, 3), (544, 1, 3)),
            ),
            "last_channels": 600,
        },
    ),
    "movinet_a2": (
        _spec(50, 5, 256, 224),
        {
            "stem_channels": 16,
            "channels": (16, 40, 72, 72, 144),
            "rows": (
                ((40, 1, 5), (40, 3, 3), (64, 3, 3)),
                ((96, 3, 3), (120, 3, 3), (96, 3, 3), (96, 3, 3), (120, 3, 3)),
                ((240, 5, 3), (160, 3, 3), (240, 3, 3), (192, 3, 3), (240, 3, 3)),
                ((240, 5, 3), *3 * ((240, 3, 3),), (144, 1, 5), (240, 3, 3)),
                ((480, 5, 3), *2 * ((384, 1, 5),), *2 * ((480, 1, 5),), (480, 3, 3), (576, 1, 3)),
            ),
            "last_channels": 640,
        },
    ),
    "movinet_a3": (
        _spec(120, 2, 288, 256),
        {
            "stem_channels": 16,
            "channels": (16, 48, 80, 88, 168),
            "rows": (
                ((40, 1, 5), (40, 3, 3), (64, 3, 3), (40, 3, 3)),
                ((112, 3, 3), (144, 3, 3), (112, 3, 3), (112, 1, 5), (144, 3, 3), (144, 3, 3)),
                ((240, 5, 3), (152, 3, 3), (240, 3, 3), (192, 3, 3), (240, 3, 3)),
                ((264, 5, 3), *3 * ((264, 3, 3),), (160, 1, 5), *3 * ((264, 3, 3),)),
                (
                    (560, 5, 3),
                    *2 * ((448, 1, 5),),
                    *2 * ((560, 1, 5),),
                    (560, 3, 3),
                    *2 * ((448, 1, 5),),
                    (560, 3, 3),
                    (672, 1, 3),
                ),
            ),
            "last_channels": 744,
        },
    ),
    "movinet_a4": (
        _spec(80, 3, 320, 290),
        {
            "stem_channels": 24,
            "channels": (24, 56, 96, 96, 192),
            "rows": (
                ((64, 1, 5), (64, 3, 3), (96, 3, 3), (64, 3, 3), (96, 3, 3), (64, 3, 3)),
                (
                    *2 * ((168, 3, 3),),
                    *2 * ((136, 3, 3),),
                    *3 * ((168, 3, 3),),
                    (136, 1, 5),
                    (136, 3, 3),
                ),
                (
                    (320, 5, 3),
                    (160, 3, 3),
                    (320, 3, 3),
                    (192, 3, 3),
                    (320, 3, 3),
                    (160, 3, 3),
                    (320, 3, 3),
                    (256, 3, 3),
                    (320, 3, 3),
                ),
                (
                    (320, 5, 3),
                    *3 * ((320, 3, 3),),
                    (192, 1, 5),
                    *2 * ((320, 3, 3),),
                    (192, 3, 3),
                    *2 * ((320, 3, 3),),
                ),
                (
                    (640, 5, 3),
                    *2 * ((512, 1, 5),),
                    *2 * ((640, 1, 5),),
                    (640, 3, 3),
                    *2 * ((512, 1, 5),),
                    (640, 1, 5),
                    (768, 1, 5),
                    (640, 1, 5),
                    (640, 3, 3),
                    (768, 3, 3),
                ),
            ),
            "last_channels": 856,
        },
    ),
    "movinet_a5": (
        _spec(120, 2, 368, 320),
        {
            "stem_channels": 24,
            "channels": (24, 64, 112, 120, 224),
            "rows": (
                (*2 * ((64, 1, 5),), (96, 3, 3), (64, 3, 3), (96, 3, 3), (64, 3, 3)),
                (
                    (192, 5, 3),
                    *3 * ((152, 3, 3),),
                    *3 * ((192, 3, 3),),
                    *2 * ((152, 3, 3),),
                    *2 * ((192, 3, 3),),
                ),
                (
                    (376, 5, 3),
                    (224, 3, 3),
                    *2 * ((376, 3, 3),),
                    (296, 3, 3),
                    (376, 3, 3),
                    (224, 3, 3),
                    *2 * ((376, 3, 3),),
                    (296, 3, 3),
                    *3 * ((376, 3, 3),),
                ),
                (
                    (376, 5, 3),
                    *3 * ((376, 3, 3),),
                    (224, 1, 5),
                    *2 * ((376, 3, 3),),
                    (224, 3, 3),
                    *3 * ((376, 3, 3),),
                ),
                (
                    (744, 5, 3),
                    (744, 3, 3),
                    *2 * ((600, 1, 5),),
                    *2 * ((744, 1, 5),),
                    (744, 3, 3),
                    (896, 1, 5),
                    *2 * ((600, 1, 5),),
                    (896, 1, 5),
                    (744, 1, 5),
                    (744, 3, 3),
                    (896, 1, 5),
                    *2 * ((600, 1, 5),),
                    (744, 1, 5),
                    (744, 3, 3),
                ),
            ),
            "last_channels": 992,
        },
    ),
}

CAUSAL = {"is_causal": True, "is_factored": True}
PRESETS = (
    *(Preset(name, movinet, spec, PAPER, size) for name, (spec, size) in SIZES.items()),
    *(Preset(f"{name}_stream", movinet, spec, PAPER, {**size, **CAUSAL}) for name, (spec, size) in SIZES.items()),
)
