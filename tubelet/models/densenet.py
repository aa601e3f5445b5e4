"""3D DenseNet: each layer sees the maps of all layers before it in its block.

Papers: Huang et al. 2017, arXiv 1608.06993 (DenseNet-BC); Hara et al. 2018, arXiv 1711.09577 (in 3D). Checkpoints:
3D-ResNets'.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from .. import blocks, heads
from ..blocks import Triple
from ..preset import Paper, Preset
from ..spec import ClipSpec

PAPER = Paper("Hara et al., Can Spatiotemporal 3D CNNs Retrace 2D CNNs?", 2018, "https://arxiv.org/abs/1711.09577")
SPEC = ClipSpec(resize=112, mean=(0.4345, 0.4051, 0.3775), std=(0.2768, 0.2713, 0.2737))


class DenseLayer(nn.Module):
    """The input, and behind it `growth_rate` channels that 1x1x1 and 3x3x3 convolutions make of it.

    Args:
        in_channels: channels of the input.
        growth_rate: channels that are added.
        bn_size: for each of these, channels between the two convolutions.
    """

    def __init__(self, in_channels: int, growth_rate: int, bn_size: int) -> None:
        super().__init__()
        mid = bn_size * growth_rate
        self.branch = nn.Sequential(
            OrderedDict(
                norm1=nn.BatchNorm3d(in_channels),
                act1=nn.ReLU(),
                conv1=blocks.conv3d(in_channels, mid, 1),
                norm2=nn.BatchNorm3d(mid),
                act2=nn.ReLU(),
                conv2=blocks.conv3d(mid, growth_rate, 3),
            )
        )
        self.join = blocks.Join(blocks.concat)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C + growth_rate, T, H, W)."""
        return self.join(x, self.branch(x))


def transition(in_channels: int, out_channels: int) -> nn.Sequential:
    """Norm, activation and 1x1x1 convolution, then the mean of each 2x2x2; an odd one at the far side is left out."""
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm3d(in_channels),
            act=nn.ReLU(),
            conv=blocks.conv3d(in_channels, out_channels, 1),
            pool=nn.AvgPool3d(2, 2),
        )
    )


def densenet3d(
    spec: ClipSpec,
    num_classes: int,
    *,
    depths: Sequence[int] = (6, 12, 24, 16),
    growth_rate: int = 32,
    num_init_features: int | None = None,
    bn_size: int = 4,
    conv1_t_size: int = 7,
    conv1_t_stride: int = 1,
    no_max_pool: bool = False,
) -> blocks.Network:
    """3D DenseNet-BC in 3D-ResNets' frame. (B, 3, 16, 112, 112) -> (B, 400).

    Args:
        spec: the clip.
        num_classes: K of the logits.
        depths: layers in each block.
        growth_rate: channels that each layer adds.
        num_init_features: width of the first convolution; None is twice `growth_rate`.
        bn_size: of `DenseLayer`.
        conv1_t_size: frames of the first convolution's kernel.
        conv1_t_stride: its stride in time.
        no_max_pool: leaves out the pooling behind it.
    """
    width = num_init_features or 2 * growth_rate
    conv = nn.Conv3d(
        spec.in_channels, width, (conv1_t_size, 7, 7), (conv1_t_stride, 2, 2), (conv1_t_size // 2, 3, 3), bias=False
    )
    stem = nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm3d(width), act=nn.ReLU()))
    stride: Triple = (conv1_t_stride, 2, 2)
    if not no_max_pool:
        stem.add_module("pool", nn.MaxPool3d(3, 2, 1))
        stride = (2 * conv1_t_stride, 4, 4)

    stages, channels = [], []
    for i, depth in enumerate(depths):
        stage: OrderedDict[str, nn.Module] = OrderedDict()
        if i > 0:
            stage["transition"] = transition(width, width // 2)
            width //= 2
        for j in range(depth):
            stage[f"layer{j}"] = DenseLayer(width, growth_rate, bn_size)
            width += growth_rate
        if i == len(depths) - 1:
            stage |= {"norm": nn.BatchNorm3d(width), "act": nn.ReLU()}
        stages.append(nn.Sequential(stage))
        channels.append(width)
    # each transition halves and rounds down: the stem must leave so many steps
    needed = 2 ** (len(depths) - 1)
    t, h, w = stride
    return blocks.Network(
        stem,
        stages,
        heads.Classify(width, num_classes),
        spec=spec,
        channels=channels,
        strides=blocks.total_strides(stride, [(1, 1, 1), *[(2, 2, 2)] * (len(depths) - 1)]),
        least=((needed - 1) * t + 1, (needed - 1) * h + 1, (needed - 1) * w + 1),
    )


PRESETS = tuple(
    Preset(f"densenet3d_{depth}", densenet3d, SPEC, PAPER, {"depths": depths})
    for depth, depths in {
        121: (6, 12, 24, 16),
        169: (6, 12, 32, 32),
        201: (6, 12, 48, 32),
        264: (6, 12, 64, 48),
    }.items()
)
