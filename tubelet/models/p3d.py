"""Pseudo-3D ResNets: a 1x3x3 and a 3x1x1 convolution, joined in three ways, stand for the 3x3x3 one of a bottleneck.

Paper: Qiu, Yao, Mei: Learning Spatio-Temporal Representation with Pseudo-3D Residual Networks, ICCV 2017, arXiv
1711.10305. Checkpoints: qijiezhao/pseudo-3d-pytorch, whose code takes clips of 16x160x160 alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from .. import blocks, heads
from ..blocks import Triple
from ..preset import Paper, Preset
from ..spec import ClipSpec

PAPER = Paper("Qiu et al., Pseudo-3D Residual Networks", 2017, "https://arxiv.org/abs/1711.10305")
SPEC = ClipSpec(
    num_frames=16,
    resize=(182, 242),
    crop=(160, 160),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


class SpaceTime(nn.Module):
    """A convolution in space and one in time (section 3.1 of the paper).

    Args:
        channels: channels of the input and the output.
        kind: "A" time after space, "B" both side by side, "C" time after space beside space alone.

    Raises:
        ValueError: kind is none of the three.
    """

    def __init__(self, channels: int, kind: str) -> None:
        super().__init__()
        if kind not in ("A", "B", "C"):
            raise ValueError(f"unknown kind {kind!r} of P3D block; known are A, B and C")
        self.kind = kind
        self.spatial = blocks.conv_norm_act(channels, channels, (1, 3, 3))
        self.temporal = blocks.conv_norm_act(channels, channels, (3, 1, 1))
        self.join = blocks.Join(blocks.add)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same shape."""
        space = self.spatial(x)
        if self.kind == "A":
            return self.temporal(space)
        return self.join(space, self.temporal(x if self.kind == "B" else space))


def _halved_time() -> nn.Module:
    """Maximum of each two frames; an odd last one stays alone, so that a clip of any length goes."""
    return nn.MaxPool3d((2, 1, 1), (2, 1, 1), ceil_mode=True)


def _bottleneck(in_channels: int, mid_channels: int, stride: Triple, middle: nn.Module) -> nn.Module:
    """Bottleneck whose stride is in its first convolution."""
    out_channels = 4 * mid_channels
    shortcut: nn.Module = nn.Identity()
    if in_channels != out_channels:
        shortcut = blocks.conv_norm_act(in_channels, out_channels, 1, stride, act=nn.Identity)
    reduce = blocks.conv_norm_act(in_channels, mid_channels, 1, stride)
    expand = blocks.conv_norm_act(mid_channels, out_channels, 1, act=nn.Identity)
    return blocks.Residual(nn.Sequential(OrderedDict(reduce=reduce, middle=middle, expand=expand)), shortcut)


def p3d(
    spec: ClipSpec, num_classes: int, *, depths: Sequence[int] = (3, 4, 6, 3), kinds: Sequence[str] = ("A", "B", "C")
) -> blocks.Network:
    """P3D ResNet: space and time in turn, last stage within frames. (B, 3, 16, 160, 160) -> (B, 400).

    Args:
        spec: the clip it takes.
        num_classes: K of the logits.
        depths: number of bottlenecks of each of the four stages.
        kinds: of `SpaceTime`, in turn from bottleneck to bottleneck of the first three stages.

    Raises:
        ValueError: there are not four depths, there is no kind, or a kind is none of A, B and C.
    """
    if len(depths) != 4 or not kinds:
        raise ValueError(f"{len(depths)} depths {tuple(depths)} and {len(kinds)} kinds; there must be 4 and at least 1")
    channels = (256, 512, 1024, 2048)
    strides: list[Triple] = [(1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)]
    stages = []
    width = 64
    for i, (out, depth) in enumerate(zip(channels, depths, strict=True)):
        steps: OrderedDict[str, nn.Module] = OrderedDict()
        if i > 0:
            steps["pool"] = _halved_time()
        for j in range(depth):
            mid = out // 4
            middle: nn.Module = blocks.conv_norm_act(mid, mid, (1, 3, 3))
            if i < 3:
                middle = SpaceTime(mid, kinds[(sum(depths[:i]) + j) % len(kinds)])
            # the pooling has the stride in time
            stride = (1, 2, 2) if i > 0 and j == 0 else (1, 1, 1)
            steps[str(j)] = _bottleneck(width, mid, stride, middle)
            width = out
        stages.append(nn.Sequential(steps))
    return blocks.Network(
        nn.Sequential(
            blocks.conv_norm_act(spec.in_channels, 64, (1, 7, 7), (1, 2, 2)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            _halved_time(),
        ),
        stages,
        heads.Classify(width, num_classes, dropout=0.5, window=(1, 5, 5)),
        spec=spec,
        channels=channels,
        strides=blocks.total_strides((2, 4, 4), strides),
    )


PRESETS = (
    Preset("p3d131", p3d, SPEC, PAPER, {"depths": (3, 4, 23, 3)}),
    Preset("p3d199", p3d, SPEC, PAPER, {"depths": (3, 8, 36, 3)}),
    Preset("p3d63", p3d, SPEC, PAPER),
)
