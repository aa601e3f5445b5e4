"""Decoders: dense maps from the stages of any encoder, at the size of the input.

`UNet(encoder, num_classes)` and `FPN(encoder, num_classes)` take over the stem and the stages of a network of
`tubelet.create`, share its weights and leave its head behind. What they make trains, freezes and saves as the encoder
does. Steps up follow the encoder's strides axis by axis: a step that leaves T alone has kernels of 1 along T.

Papers: Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, arXiv 1505.04597; Lin et al.: Feature Pyramid Networks, CVPR
2017, arXiv 1612.03144; for dense maps: Kirillov et al.: Panoptic Feature Pyramid Networks, CVPR 2019, arXiv 1901.02446.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from . import blocks, heads
from .blocks import Join, Triple
from .spec import ClipSpec
from .weights import layers

__all__ = ["FPN", "DenseNetwork", "Pyramid", "Step", "Steps", "UNet", "build", "supervised"]

FULL: Triple = (1, 1, 1)
FINEST = 16  # width at the size of the input, where a channel costs most; each step down doubles it
WIDEST = 256
NEEDED = ("stem", "stages", "spec", "channels", "strides", "least")


class Step(nn.Module):
    """One step up: the map brought to the size of a finer one, the two joined, then a block.

    Args:
        upsample: called with the map and the size (t, h, w) that it is brought to.
        merge: of the `Join`, called with the finer map and what `upsample` makes.
        block: what follows.
    """

    def __init__(self, upsample: nn.Module, merge: Callable[..., Tensor], block: nn.Module) -> None:
        super().__init__()
        self.upsample = upsample
        self.join = Join(merge)
        self.block = block

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """The encoder's map (B, C, T, H, W) and the one below it -> (B, C', T, H, W)."""
        return self.block(self.join(skip, self.upsample(x, skip.shape[2:])))


class Steps(nn.ModuleList):
    """A U-Net's decoder: a `Step` for each map but the coarsest, which come first."""

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C, T, H, W), finest first -> what each step makes, finest first, one less."""
        *skips, x = maps
        found = []
        for step, skip in zip(self, reversed(skips), strict=True):
            x = step(skip, x)
            found.append(x)
        return found[::-1]


class Pyramid(nn.Module):
    """A feature pyramid and the sum of its maps.

    Each map is brought to one width and gets the coarser one added; a convolution follows at each size, and all are
    added up at the finest.

    Args:
        widths: of the maps, finest first.
        kernels: (t, h, w) of the convolution at each size.
        channels: width of the pyramid.
        in_channels: of the input, where its size is finer than that of the first map: the sum is then brought to it,
            joined with it and refined; None for no such step.
        strides: (t, h, w) of the first map, which this step follows.
    """

    def __init__(
        self, widths: Sequence[int], kernels: Sequence[Triple], channels: int, in_channels: int | None, strides: Triple
    ) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(blocks.conv3d(width, channels, 1, bias=True) for width in widths)
        self.joins = nn.ModuleList(Join() for _ in widths[1:])
        self.nearest = blocks.Resize("nearest")
        self.smooths = nn.ModuleList(blocks.conv_norm_act(channels, channels, kernel) for kernel in kernels)
        self.trilinear = blocks.Resize("trilinear")
        self.merge = Join()
        self.refine = None
        if in_channels is not None:
            self.reduce = blocks.conv_norm_act(channels, FINEST, 1)
            self.refine = _step(FINEST, in_channels, FINEST, _kernel(FULL, strides))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C, T, H, W), finest first -> the sum at the finest size, then the maps of the pyramid below it."""
        tops = [lateral(each) for lateral, each in zip(self.laterals, maps[-len(self.laterals) :], strict=True)]
        for i in reversed(range(len(self.joins))):
            tops[i] = self.joins[i](tops[i], self.nearest(tops[i + 1], tops[i].shape[2:]))
        first, *others = (smooth(top) for smooth, top in zip(self.smooths, tops, strict=True))
        merged = self.merge(first, *(self.trilinear(each, first.shape[2:]) for each in others))
        found = [merged, *others]
        return found if self.refine is None else [self.refine(maps[0], self.reduce(merged)), *found]


class DenseNetwork(nn.Module):
    """An encoder, a decoder over its maps and a head.

    A head for voxels (`heads.Segment`) works on the decoder's finest map; any other head on the encoder's last map, of
    `channels[-1]`, without the decoder. In training, a head with `deep` convolutions answers with a list of logits, the
    finest first, one for each of the decoder's maps that it has one for (deep supervision, Lee et al. 2015, arXiv
    1409.5185); otherwise with the finest alone.

    Attributes:
        stem: of the encoder.
        stages: of the encoder, one for each resolution.
        decoders: from the maps, finest first, to finer ones, finest first. Where the encoder's first map is smaller
            than the clip, the clip itself goes before the maps.
        head: from the map to logits.
        spec: the clip the weights eat.
        channels: width of each stage.
        strides: total stride (t, h, w) of each stage.
        least: the smallest (T, H, W) it takes.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Iterable[nn.Module],
        decoders: nn.Module,
        head: nn.Module,
        *,
        spec: ClipSpec,
        channels: Sequence[int],
        strides: Sequence[Triple],
        least: Triple,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.decoders = decoders
        self.head = head
        self.spec = spec
        self.channels = tuple(channels)
        self.strides = list(strides)
        self.least = least

    def features(self, x: Tensor) -> list[Tensor]:
        """(B, C, T, H, W) -> the encoder's maps, coarse last, described by `channels` and `strides`."""
        blocks.check_clip(x, self.spec.in_channels, self.least)
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor, *boxes: Tensor) -> Tensor | list[Tensor]:
        """(B, C, T, H, W) -> logits (B, K, T, H, W), a list of them, or what another head makes of the last map."""
        maps = self.features(x)
        if not getattr(self.head, "wants_size", False):
            return blocks.apply_head(self.head, maps[-1], x, *boxes)
        finest, *others = self.decoders([x, *maps] if self.strides[0] != FULL else maps)
        # the map's own size, which is the clip's unless convolutions without padding have cut off its edges
        logits = self.head(finest, finest.shape[2:])
        deep: Any = getattr(self.head, "deep", None)
        if not (self.training and deep):
            return logits
        return [logits, *(fc(each) for fc, each in zip(deep, others, strict=False))]


def UNet(  # noqa: N802
    encoder: Any, num_classes: int, *, channels: Sequence[int] | None = None, deep: bool = False
) -> DenseNetwork:
    """U-Net over an encoder: (B, C, T, H, W) -> logits (B, K, T, H, W).

    From the coarsest map up, each is resized to the next finer one and stands beside it before two convolutions; the
    last of these steps is to the clip itself.

    Args:
        encoder: a network with `stem` and `stages`, through which a clip goes one after the other, and `spec`,
            `channels`, `strides` and `least`. Its weights are shared, its head is left out.
        num_classes: K of the logits.
        channels: width of each step, finest first; None is 16 at the size of the clip and doubles with each step down,
            to 256 and the width of the encoder's map at most.
        deep: whether it answers, in training, with a list: logits of the coarser steps follow the finest ones.

    Raises:
        ValueError: a decoder cannot follow this encoder, or `channels` are not as many as the steps.
    """
    widths, strides = _levels(encoder)
    own = [FINEST, *widths[1:]] if len(widths) > len(encoder.channels) else widths
    widest = [min(WIDEST, FINEST << i, width) for i, width in enumerate(own[:-1])]
    chosen = widest if channels is None else list(channels)
    if len(chosen) != len(widest) or not chosen:
        raise ValueError(f"channels {tuple(chosen)}: a U-Net over this encoder has {len(widest)} steps, finest first")
    steps = []
    inner = [*chosen[1:], widths[-1]]
    for skip, out, below, (fine, coarse) in zip(widths, chosen, inner, pairwise(strides), strict=False):
        steps.append(_step(below, skip, out, _kernel(fine, coarse)))
    arguments = {"channels": channels if channels is None else chosen, "deep": deep}
    return _assembled(encoder, num_classes, Steps(reversed(steps)), chosen, "UNet", arguments)


def FPN(  # noqa: N802
    encoder: Any, num_classes: int, *, channels: int = 128, deep: bool = False
) -> DenseNetwork:
    """Feature pyramid over an encoder: (B, C, T, H, W) -> logits (B, K, T, H, W).

    Lighter than a U-Net where the encoder is wide: every map of the pyramid has `channels`, and 16 do at the clip's own
    size.

    Args:
        encoder: as of `UNet`.
        num_classes: K of the logits.
        channels: width of the pyramid.
        deep: as of `UNet`.

    Raises:
        ValueError: a decoder cannot follow this encoder.
    """
    _, strides = _levels(encoder)
    is_reduced = len(strides) > len(encoder.strides)
    kernels = [_kernel(fine, coarse) for fine, coarse in pairwise([FULL, *encoder.strides])]
    in_channels = encoder.spec.in_channels if is_reduced else None
    pyramid = Pyramid(encoder.channels, kernels, channels, in_channels, encoder.strides[0])
    widths = [*([FINEST] if is_reduced else []), *(channels for _ in encoder.channels)]
    return _assembled(encoder, num_classes, pyramid, widths, "FPN", {"channels": channels, "deep": deep})


DECODERS = (UNet, FPN)


def build(description: Mapping[str, Any], encoder: Any, num_classes: int) -> DenseNetwork:
    """The network that a saved description (`model.architecture["decoder"]`) names, over an encoder, with new weights.

    Raises:
        ValueError: there is no such decoder, or it has no such argument.
    """
    make = next((make for make in DECODERS if make.__name__ == description["name"]), None)
    if make is None or set(description["arguments"]) - {"channels", "deep"}:
        raise ValueError(f"unknown decoder {dict(description)}: the file is from a newer tubelet")
    return make(encoder, num_classes, **description["arguments"])


def supervised(channels: Sequence[int], deep: bool) -> Sequence[int]:
    """Widths of the decoder's maps that have logits of their own in training, beside the finest: all but the coarsest.

    Source: Isensee et al. 2021, Nature Methods 18; where there are but two maps, the coarser one has them.

    Args:
        channels: width of each of the decoder's maps, finest first.
        deep: False is none.

    Raises:
        ValueError: there is one map alone.
    """
    if deep and len(channels) < 2:
        raise ValueError("deep needs a decoder of two steps or more, and this one has one: set deep to False")
    return tuple(channels[1 : max(2, len(channels) - 1)]) if deep else ()


def _levels(encoder: Any) -> tuple[list[int], list[Triple]]:
    """Width and total stride of the maps that a decoder joins, finest first: the clip, unless the first map is as fine.

    Raises:
        ValueError: the encoder lacks what is needed, or has two pathways.
    """
    name = type(encoder).__name__
    if missing := [each for each in NEEDED if not hasattr(encoder, each)]:
        raise ValueError(f"{name} has no {', '.join(missing)}: a decoder needs an encoder of tubelet.create, or alike")
    if hasattr(encoder, "alpha"):
        raise ValueError(f"{name} has two pathways, which a decoder cannot follow: give one of one, such as slow_r50")
    has_full = encoder.strides[0] == FULL
    first = ([], []) if has_full else ([encoder.spec.in_channels], [FULL])
    return [*first[0], *encoder.channels], [*first[1], *encoder.strides]


def _kernel(fine: Triple, coarse: Triple) -> Triple:
    """3 along the axes that differ between two total strides, else 1; 3 along all where none differs."""
    t, h, w = (3 if a != b or fine == coarse else 1 for a, b in zip(fine, coarse, strict=True))
    return t, h, w


def _step(below: int, skip: int, out: int, kernel: Triple) -> Step:
    """Trilinear resizing, the finer map beside it, two convolutions."""
    first = blocks.conv_norm_act(skip + below, out, kernel)
    block = nn.Sequential(OrderedDict(first=first, second=blocks.conv_norm_act(out, out, kernel)))
    return Step(blocks.Resize("trilinear"), blocks.concat, block)


def _assembled(
    encoder: Any, num_classes: int, decoders: nn.Module, widths: Sequence[int], name: str, arguments: dict[str, Any]
) -> DenseNetwork:
    """Encoder, decoder with new weights, and the head; it knows its own call where the encoder does."""
    blocks.init_weights(decoders)
    head = heads.Segment(widths[0], num_classes, deep=supervised(widths, arguments["deep"]))
    network: Any = DenseNetwork(
        encoder.stem,
        encoder.stages,
        decoders,
        head,
        spec=encoder.spec,
        channels=encoder.channels,
        strides=encoder.strides,
        least=encoder.least,
    )
    if architecture := getattr(encoder, "architecture", None):
        made = {key: text for key, text in architecture["layers"].items() if not key.startswith("decoders.")}
        own = {key: text for key, text in layers(network).items() if key.startswith("decoders.")}
        network.architecture = {
            **{key: architecture[key] for key in ("name", "arguments")},
            "decoder": {"name": name, "arguments": arguments},
            "layers": {**made, **own},
        }
    return network
