"""C3D: eight 3x3x3 convolutions, five poolings and two wide layers, without norms.

Paper: Tran, Bourdev, Fergus, Torresani, Paluri: Learning Spatiotemporal Features with 3D Convolutional Networks, ICCV
2015, arXiv 1412.0767. Checkpoints: c3d-pytorch, pytorch-video-recognition, MMAction2.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn

from .. import blocks, heads
from ..blocks import Triple
from ..preset import Paper, Preset
from ..spec import ClipSpec

PAPER = Paper("Tran et al., Learning Spatiotemporal Features with 3D ConvNets", 2015, "https://arxiv.org/abs/1412.0767")
# of values in 0..255 that are not divided, as the checkpoints expect
SPEC = ClipSpec(resize=(128, 171), mean=(104 / 255, 117 / 255, 128 / 255), std=(1 / 255,) * 3)

# how the last pooling treats an odd height and width, and the smallest input of which it leaves n
POOL5: dict[str, tuple[Callable[[], nn.Module], Callable[[int], int]]] = {
    "both": (lambda: nn.MaxPool3d(2, padding=(0, 1, 1)), lambda n: 32 * (n - 1)),
    "behind": (lambda: nn.MaxPool3d(2, ceil_mode=True), lambda n: 32 * n - 16),
    "none": (lambda: nn.MaxPool3d(2), lambda n: 32 * n),
}


def _stage(pool: nn.Module, in_channels: int, *widths: int) -> nn.Sequential:
    """A pooling, then 3x3x3 convolutions with bias."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(pool=pool)
    for i, width in enumerate(widths, 1):
        layers[f"conv{i}"] = blocks.conv3d(in_channels, width, 3, bias=True)
        layers[f"act{i}"] = nn.ReLU()
        in_channels = width
    return nn.Sequential(layers)


def c3d(
    spec: ClipSpec,
    num_classes: int,
    *,
    window: Sequence[int] = (1, 4, 4),
    widths: Sequence[int] = (4096, 4096),
    pool5_padding: str = "both",
) -> blocks.Network:
    """C3D. 79,991,015 parameters at 487 classes; (B, 3, 16, 112, 112) -> (B, 400).

    The wide layers are convolutions, so that a longer or larger clip gives the mean over all its places; the published
    networks take one size alone.

    Args:
        spec: of the clip.
        num_classes: K of the logits.
        window: (t, h, w) of the map that the first wide layer, fc6, sees at once.
        widths: of fc6 and fc7.
        pool5_padding: of the last pooling, in space: "both" sides (7 -> 4), "behind" alone, as Caffe does (7 -> 4), or
            "none" (7 -> 3).

    Raises:
        ValueError: `pool5_padding` is none of these.
    """
    if pool5_padding not in POOL5:
        raise ValueError(f"pool5_padding {pool5_padding!r}: known are {', '.join(POOL5)}")
    pool5, smallest = POOL5[pool5_padding]
    t, h, w = window
    fc6, fc7 = widths
    last: OrderedDict[str, nn.Module] = OrderedDict(
        pool=pool5(),
        fc6=nn.Conv3d(512, fc6, (t, h, w)),
        act6=nn.ReLU(),
        dropout=nn.Dropout(0.5),
        fc7=nn.Conv3d(fc6, fc7, 1),
        act7=nn.ReLU(),
    )
    strides: tuple[Triple, ...] = ((1, 2, 2), *((2, 2, 2),) * 4)
    return blocks.Network(
        nn.Sequential(OrderedDict(conv=blocks.conv3d(spec.in_channels, 64, 3, bias=True), act=nn.ReLU())),
        [
            _stage(nn.MaxPool3d((1, 2, 2)), 64, 128),
            _stage(nn.MaxPool3d(2), 128, 256, 256),
            _stage(nn.MaxPool3d(2), 256, 512, 512),
            _stage(nn.MaxPool3d(2), 512, 512, 512),
            nn.Sequential(last),
        ],
        heads.Classify(fc7, num_classes, 0.5),
        spec=spec,
        channels=(128, 256, 512, 512, fc7),
        strides=blocks.total_strides((1, 1, 1), strides),
        least=(16 * t, smallest(h), smallest(w)),
    )


PRESETS = (Preset("c3d", c3d, SPEC, PAPER),)
