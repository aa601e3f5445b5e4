"""SlowFast: a wide pathway that sees few frames and a narrow one that sees them all.

Paper: Feichtenhofer, Fan, Malik, He: SlowFast Networks for Video Recognition, ICCV 2019, arXiv 1812.03982.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from .. import blocks, heads
from ..blocks import Triple
from ..preset import Paper, Preset
from ..spec import ClipSpec, kinetics

PAPER = Paper("Feichtenhofer et al., SlowFast Networks", 2019, "https://arxiv.org/abs/1812.03982")
WIDTHS = (64, 128, 256, 512)
BETA = 8  # the fast pathway is that much narrower
RATIO = 2  # channels that the slow pathway gets, for each of the fast one's
TEMPORAL = ((1,), (1,), (3,), (3,))
FAST_TEMPORAL = ((3,), (3,), (3,), (3,))
STRIDES: tuple[Triple, ...] = ((1, 1, 1), (1, 2, 2), (1, 2, 2), (1, 2, 2))


class TwoPaths(nn.Module):
    """One step of both pathways, after which the slow one gets what `fuse` makes of the fast one."""

    def __init__(
        self, slow: nn.Module, fast: nn.Module, fuse: nn.Module, merge: Callable[..., Tensor] = blocks.concat
    ) -> None:
        super().__init__()
        self.slow = slow
        self.fast = fast
        self.fuse = fuse
        self.join = blocks.Join(merge)

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T / alpha, H, W) and (B, C', T, H, W) -> the two maps of this step."""
        slow, fast = self.slow(slow), self.fast(fast)
        return self.join(slow, self.fuse(fast)), fast


def fast_first(slow: Tensor, fast: Tensor) -> Tensor:
    """The maps side by side, the fast one in front."""
    return blocks.concat(fast, slow)


class SlowFast(nn.Module):
    """Both pathways and one head; the attributes are those of `blocks.Network`.

    A stage's map is the slow pathway's with what it gets of the fast one; at the last stage that is the fast map
    averaged over each `alpha` frames.

    Args:
        pick: makes the slow clip of the fast one.
        stem: the first layers of both.
        stages: the four stages.
        head: from the last map to an answer.
        spec: the fast clip.
        channels: width of each stage's map.
        alpha: fast frames for a slow one.
    """

    def __init__(
        self,
        pick: nn.Module,
        stem: TwoPaths,
        stages: Sequence[TwoPaths],
        head: nn.Module,
        *,
        spec: ClipSpec,
        channels: Sequence[int],
        alpha: int,
    ) -> None:
        super().__init__()
        self.pick = pick
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.head = head
        self.spec = spec
        self.channels = tuple(channels)
        self.strides = blocks.total_strides((alpha, 4, 4), STRIDES)
        self.least: Triple = (alpha, 1, 1)
        self.alpha = alpha

    def features(self, x: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """The fast clip (B, C, T, H, W), or [slow, fast] -> the map of each stage, coarse last."""
        slow, fast = self._clips(x)
        slow, fast = self.stem(slow, fast)
        maps = []
        for stage in self.stages:
            slow, fast = stage(slow, fast)
            maps.append(slow)
        return maps

    def forward(self, x: Tensor | Sequence[Tensor], *boxes: Tensor) -> Tensor:
        """The fast clip (B, C, T, H, W), or [slow, fast] -> what the head makes of the last map."""
        clip = x if isinstance(x, Tensor) else x[-1]
        return blocks.apply_head(self.head, self.features(x)[-1], clip, *boxes)

    def _clips(self, x: Tensor | Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        if isinstance(x, Tensor):
            blocks.check_clip(x, self.spec.in_channels, self.least)
            if self.least[0] and x.shape[2] % self.alpha:  # a chunk of a stream may have any number
                raise ValueError(
                    f"the clip has {x.shape[2]} frames; this network takes multiples of alpha = {self.alpha}"
                )
            return self.pick(x), x
        slow, fast = x
        for clip in (slow, fast):
            blocks.check_clip(clip, self.spec.in_channels)
        if slow.shape[2] * self.alpha != fast.shape[2]:
            raise ValueError(
                f"{slow.shape[2]} slow and {fast.shape[2]} fast frames: this network takes alpha = {self.alpha} fast "
                "ones for each slow one; `alpha` is an argument of its name and a hint for tubelet.load"
            )
        return slow, fast


def slowfast(
    spec: ClipSpec,
    num_classes: int,
    *,
    depth: int = 50,
    fast_depth: int | None = None,
    temporal: Sequence[Sequence[Sequence[int]]] = (TEMPORAL, FAST_TEMPORAL),
    alpha: int = 4,
    fusion: int = 7,
    is_plain: bool = False,
    non_local: Sequence[Sequence[int]] = ((), (), (), ()),
    non_local_mode: str = "dot_product",
) -> SlowFast:
    """SlowFast of 50 to 152 layers.

    Args:
        spec: the fast clip.
        num_classes: K of the logits.
        depth: layers of the slow pathway.
        fast_depth: layers of the fast pathway; None is `depth`.
        temporal: for the slow and the fast pathway, for each stage: t of the first convolutions of its steps, over
            and over.
        alpha: fast frames for a slow one.
        fusion: t of the convolutions from the fast to the slow pathway.
        is_plain: whether those stand alone, the slow frames are each alpha-th and the fast map comes first at the end,
            as in MMAction2; else a norm and an activation follow them, the slow frames are spread from the first to the
            last and the fast map comes second.
        non_local: for each stage of the slow pathway, numbers of the steps that a non-local block follows.
        non_local_mode: its pairwise function, see `blocks.Affinity`.
    """
    make_non_local = partial(_non_local, mode=non_local_mode)
    trunk = _trunk(depth, fast_depth or depth, temporal, (1, 2, 2), 1, non_local, make_non_local)
    window = None if is_plain else (0, 7, 7)
    head = heads.Classify(4 * WIDTHS[3] * (BETA + 1) // BETA, num_classes, 0.5, window)
    merge = fast_first if is_plain else blocks.concat
    network = _assemble(spec, trunk, head, alpha, fusion, is_plain, (nn.AvgPool3d((alpha, 1, 1)), merge))
    network.least = (alpha, *blocks.non_local_least(non_local))
    return network


def slowfast_detection(
    spec: ClipSpec,
    num_classes: int,
    *,
    depth: int = 50,
    alpha: int = 4,
    fusion: int = 7,
    is_plain: bool = False,
    dilation: int = 2,
    output_size: int = 7,
    aligned: bool = False,
    takes_max: bool = False,
) -> SlowFast:
    """SlowFast that scores boxes: its last stage keeps the size of the one before; (clip, boxes) -> (N, K).

    Args:
        spec: the fast clip.
        num_classes: K of the logits.
        depth: layers of both pathways.
        alpha: fast frames for a slow one.
        fusion: t of the convolutions from the fast to the slow pathway.
        is_plain: as in `slowfast`, but for the order of the two maps at the end.
        dilation: of the last stage, in space.
        output_size: of the head, see `heads.Detect`.
        aligned: likewise.
        takes_max: likewise.
    """
    trunk = _trunk(depth, depth, (TEMPORAL, FAST_TEMPORAL), (1, 1, 1), dilation)
    width = 4 * WIDTHS[3] * (BETA + 1) // BETA
    head = heads.Detect(width, num_classes, 16, 0.5, output_size, aligned, takes_max)
    pool = nn.MaxPool3d if takes_max else nn.AvgPool3d
    network = _assemble(spec, trunk, head, alpha, fusion, is_plain, (pool((alpha, 1, 1)), blocks.concat))
    network.strides[3] = network.strides[2]
    return network


Trunk = list[tuple[nn.Module, nn.Module]]


def _trunk(
    depth: int,
    fast_depth: int,
    temporal: Sequence[Sequence[Sequence[int]]],
    last: Triple,
    last_dilation: int,
    non_local: Sequence[Sequence[int]] = ((), (), (), ()),
    make_non_local: Callable[[int], nn.Module] | None = None,
) -> Trunk:
    """The (slow, fast) stages; `last` is the stride of the last one."""
    stages: Trunk = []
    for i, width in enumerate(WIDTHS):
        before = 64 if i == 0 else 4 * WIDTHS[i - 1]
        stride = last if i == 3 else STRIDES[i]
        dilation = last_dilation if i == 3 else 1
        slow = blocks.bottleneck_stage(
            before * (BETA + RATIO) // BETA,
            width,
            blocks.bottleneck_depths(depth)[i],
            stride,
            temporal=temporal[0][i],
            dilation=dilation,
            non_local=make_non_local,
            non_local_after=non_local[i],
        )
        fast = blocks.bottleneck_stage(
            before // BETA,
            width // BETA,
            blocks.bottleneck_depths(fast_depth)[i],
            stride,
            temporal=temporal[1][i],
            dilation=dilation,
        )
        stages.append((slow, fast))
    return stages


def _non_local(channels: int, mode: str) -> nn.Module:
    return blocks.NonLocal(channels, channels // 2, mode, pool_first=True)


def _assemble(
    spec: ClipSpec,
    trunk: Trunk,
    head: nn.Module,
    alpha: int,
    fusion: int,
    is_plain: bool,
    last: tuple[nn.Module, Callable[..., Tensor]],
) -> SlowFast:
    """The network; `last` thins the fast map of the last stage, and merges it with the slow one."""

    def stem(width: int, kernel: int) -> nn.Module:
        layers = blocks.conv_norm_act(spec.in_channels, width, (kernel, 7, 7), (1, 2, 2))
        layers.add_module("pool", nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)))
        return layers

    def fuse(width: int) -> nn.Module:
        channels = width // BETA
        norm, act = (nn.Identity, nn.Identity) if is_plain else (nn.BatchNorm3d, nn.ReLU)
        return blocks.conv_norm_act(channels, RATIO * channels, (fusion, 1, 1), (alpha, 1, 1), norm=norm, act=act)

    widths = [4 * width for width in WIDTHS]
    return SlowFast(
        nn.AvgPool3d(1, (alpha, 1, 1)) if is_plain else blocks.SpreadFrames(alpha),
        TwoPaths(stem(64, 1), stem(64 // BETA, 5), fuse(64)),
        [TwoPaths(slow, fast, *(last if i == 3 else (fuse(widths[i]),))) for i, (slow, fast) in enumerate(trunk)],
        head,
        spec=spec,
        channels=[*(width * (BETA + RATIO) // BETA for width in widths[:3]), widths[3] * (BETA + 1) // BETA],
        alpha=alpha,
    )


# in the third stage the first six steps alone look across frames
HALF = (((1,), (1,), (3,) * 6 + (1,) * 17, (3,)), ((3,), (3,), (3,) * 6 + (1,) * 17, (3,)))
NON_LOCAL = ((), (1, 3), (1, 3, 5), ())
R101 = {"depth": 101, "fusion": 5}
R50_4X16 = {"alpha": 8, "fusion": 5}

PRESETS = (
    Preset("slowfast_r50", slowfast, kinetics(32, 2), PAPER),
    Preset("slowfast_r50_nl", slowfast, kinetics(32, 2), PAPER, {"fusion": 5, "non_local": NON_LOCAL}),
    Preset("slowfast_4x16_r50", slowfast, kinetics(32, 2), PAPER, R50_4X16),
    Preset("slowfast_r101", slowfast, kinetics(32, 2), PAPER, R101),
    Preset("slowfast_16x8_r101", slowfast, kinetics(64, 2), PAPER, R101),
    Preset("slowfast_16x8_r101_50_50", slowfast, kinetics(64, 2), PAPER, {**R101, "temporal": HALF}),
    Preset("slowfast_r50_detection", slowfast_detection, kinetics(32, 2), PAPER),
)
