"""Twins: the layers of a stream. Each does what a layer does, chunk by chunk, and keeps what it still needs.

A twin pads the video at its two ends as its layer pads a clip, and gives out each result as soon as its last frame is
there. In a dense stream nothing is padded in time and strides in time become dilations. What a twin keeps depends on
its kernel or window, never on the length of the video.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .blocks import (
    CausalMean,
    GlobalMean,
    HalvingMean,
    HardSigmoid,
    Join,
    NonLocal,
    PastPad,
    SamePad,
    Scale,
    SpaceToDepth,
    SpatialMean,
    SpreadFrames,
    TemporalShift,
    ZeroChannels,
    triple,
)
from .copies import is_altered
from .heads import MLP, Classify, Features

SLIDING = (nn.Conv3d, nn.MaxPool3d, nn.AvgPool3d, SpaceToDepth)
ADAPTIVE = (nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d)
POINTWISE = (
    Features,
    HalvingMean,
    HardSigmoid,
    Scale,
    SpatialMean,
    ZeroChannels,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.Dropout,
    nn.Dropout3d,
    nn.Identity,
    nn.Linear,
    *(
        getattr(nn, name)
        for name in [
            "ReLU",
            "ReLU6",
            "LeakyReLU",
            "PReLU",
            "ELU",
            "CELU",
            "SELU",
            "GELU",
            "SiLU",
            "Mish",
            "Sigmoid",
            "Tanh",
            "Hardtanh",
            "Hardswish",
            "Hardsigmoid",
            "Softplus",
            "LogSigmoid",
        ]
    ),
)
CLIP = 16  # frames of a clip, for a network that does not say it

State = dict[str, Any]


class Reach(NamedTuple):
    """The frames of the video that a step sees: step i those from `first` to `last`, both moved by i strides."""

    stride: int = 1
    first: int = 0
    last: int = 0

    def through(self, before: int, span: int, stride: int) -> Reach:
        """Behind a layer that pads `before` steps, slides over `span` of them and moves by `stride`."""
        first, last = self.first - before * self.stride, self.last + (span - 1 - before) * self.stride
        return Reach(self.stride * stride, first, last)


def met(reaches: Sequence[Reach]) -> Reach:
    """Where branches meet."""
    strides, firsts, lasts = zip(*reaches, strict=True)
    return Reach(max(strides), min(firsts), max(lasts))


def twins_of(model: nn.Module) -> dict[str, Any]:
    """The twins in a network, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, TWINS)}


def restart(model: nn.Module) -> None:
    """Forget the video."""
    for twin in twins_of(model).values():
        twin.state, twin.is_ending = {}, False


def finish(model: nn.Module) -> None:
    """Tell the twins that what follows is the last."""
    for twin in twins_of(model).values():
        twin.is_ending = True


class Twinning:
    """How the layers of a network become twins.

    Args:
        window: feature steps over which means are taken, None for all since the start.
        is_dense: nothing is padded in time, and strides in time become dilations.
        is_approximate: layers that look at all of time get a twin that looks at the past.

    Attributes:
        approximations: a line for each such layer.
    """

    def __init__(self, window: int | None, is_dense: bool, is_approximate: bool) -> None:
        self.window = window
        self.is_dense = is_dense
        self.is_approximate = is_approximate
        self.approximations: list[str] = []
        self._seen: dict[int, str] = {}

    def twin(self, module: Any, name: str = "") -> nn.Module:
        """The module with every layer that has a time axis swapped for its twin; `module` is the stream's own copy.

        Raises:
            ValueError: a layer cannot be streamed.
        """
        if parametrize.is_parametrized(module):
            return _parametrized(module, name)
        kind = type(module)  # exactly: a subclass may do anything
        if kind in SLIDING or kind in _TWIN_OF or kind in _APPROXIMATE or kind in (Join, Classify, MLP):
            if id(module) in self._seen:
                raise ValueError(
                    f"layers {self._seen[id(module)]} and {name} are one; a stream needs one for each place"
                )
            self._seen[id(module)] = name
        is_run = kind not in _TAKEN_APART and (kind not in _APPROXIMATE or is_pointwise(module))
        if is_altered(module) and not is_run:
            raise ValueError(
                f"layer {name or 'model'} ({kind.__name__}) cannot be streamed: it has hooks or a forward of its own, "
                "which a stream does not run: take them off"
            )
        if kind in SLIDING:
            return Dilated(module, name) if self.is_dense else Sliding(module, name)
        if kind is Join:
            return Delaying(module) if self.is_dense else Waiting(module)
        if kind in _TWIN_OF:
            return _TWIN_OF[kind](module, self.is_dense)
        if kind in (Classify, MLP):
            return Averaging(module, self.window, name, self.is_dense)
        if kind in ADAPTIVE and is_pointwise(module):
            return _Framewise(module)
        if (kind is SamePad and self.is_dense) or (kind is nn.ConstantPad3d and module.value == 0):
            return _Leading(module, self.is_dense)
        if kind is NonLocal or not (list(module.children()) or is_pointwise(module)):
            return self._approximated(module, f"{name or 'model'} ({kind.__name__})")
        if hasattr(module, "least"):
            module.least = (0, *module.least[1:])  # a chunk may be shorter than any clip
        # not named_children, which leaves out a layer's second place
        for child_name, child in module._modules.items():
            if child is not None:
                setattr(module, child_name, self.twin(child, f"{name}.{child_name}".lstrip(".")))
        return module

    def _approximated(self, module: Any, place: str) -> nn.Module:
        make, tell = _APPROXIMATE.get(type(module), (None, None))
        told = tell(module) if tell else ""
        if make is None or not told:
            raise ValueError(
                f"layer {place} cannot be streamed exactly: it looks at all of time, or it is a class that a stream "
                "does not know"
            )
        if not self.is_approximate:
            raise ValueError(
                f"layer {place} cannot be streamed exactly: it looks at all of time. Give approximate=True for a "
                f"stream that is not the same: {told}"
            )
        self.approximations.append(f"{place}: {told}")
        return make(module, self.is_dense)


def _parametrized(module: nn.Module, name: str) -> nn.Module:
    """A layer whose weights are worked out at each call, which a stream takes where it needs no twin for it."""
    kind = parametrize.type_before_parametrizations(module)
    if kind is not nn.Linear:
        raise ValueError(
            f"layer {name or 'model'} ({kind.__name__}) cannot be streamed: it is parametrized; give it plain weights "
            "first, by torch.nn.utils.parametrize.remove_parametrizations(layer, name of the weight)"
        )
    return module


def is_pointwise(module: Any) -> bool:
    """Whether a layer without layers of its own treats each frame alone."""
    kind = type(module)
    if kind is nn.LayerNorm:
        return len(module.normalized_shape) == 1
    if kind in ADAPTIVE:
        size = module.output_size
        return isinstance(size, tuple) and size[0] is None
    if kind is SamePad:
        return module.kernel_size[0] == module.stride[0] == 1
    if kind in (nn.BatchNorm3d, nn.SyncBatchNorm) and module.running_mean is None:
        return False  # it takes the statistics of the clip
    return kind in POINTWISE or (kind in (nn.Sequential, nn.ModuleList) and not len(module))


class Sliding(nn.Module):
    """Twin of a convolution or pooling: keeps the tail of its input, pads in time at the two ends itself."""

    def __init__(self, layer: Any, name: str) -> None:
        super().__init__()
        self.layer = layer
        self.kernel = triple(layer.kernel_size)[0]
        self.stride = triple(layer.stride)[0]
        self.span = (self.kernel - 1) * triple(getattr(layer, "dilation", 1))[0] + 1
        self.before, self.after = _take_time_padding(layer, name)
        self.fill = -torch.inf if isinstance(layer, nn.MaxPool3d) else 0.0
        self.can_overhang = getattr(layer, "ceil_mode", False)
        self.state: State = {}
        self.is_ending = False
        self._empty: dict[tuple[Any, ...], Tensor] = {}

    def through(self, reach: Reach) -> Reach:
        """What its steps see, when those of its input see `reach`; called once before the first frames."""
        return reach.through(self.before, self.span, self.stride)

    def forward(self, x: Tensor) -> Tensor:
        """What the layer does, (B, C, n, H, W) -> (B, C, m, H, W), m steps that are complete."""
        state = self.state or {"tail": self._filled(x, self.before), "skip": 0, "seen": 0, "given": 0}
        seen = state["seen"] + x.shape[2]
        tail = state["tail"]
        x = torch.cat([tail, x], dim=2) if tail.shape[2] else x
        count = self._count(x.shape[2] - state["skip"])
        if self.is_ending:
            count = self._total(seen) - state["given"]
            short = state["skip"] + (count - 1) * self.stride + self.span - x.shape[2]
            if count and short > 0:
                x = torch.cat([x, self._filled(x, short)], dim=2)
        first = min(state["skip"], x.shape[2])
        used = state["skip"] + count * self.stride
        out = self._run(x[:, :, first:], count, state["given"], seen)
        self.state = {
            # a copy, since a view would keep the whole chunk alive
            "tail": x[:, :, min(used, x.shape[2]) :].clone(),
            "skip": max(0, used - x.shape[2]),
            "seen": seen,
            "given": state["given"] + count,
        }
        return out

    def _filled(self, like: Tensor, frames: int) -> Tensor:
        return like.new_full((*like.shape[:2], frames, *like.shape[3:]), self.fill)

    def _count(self, frames: int) -> int:
        return max(0, (frames - self.span) // self.stride + 1)

    def _total(self, seen: int) -> int:
        """Output steps that the layer gives for a clip of `seen` frames."""
        rest = seen + self.before + self.after - self.span
        if not self.can_overhang:
            return max(0, rest // self.stride + 1)
        steps = -(-rest // self.stride) + 1
        # torch drops a last window that would begin in the padding behind the clip
        return steps - 1 if (steps - 1) * self.stride >= seen + self.before else max(0, steps)

    def _run(self, x: Tensor, count: int, given: int, seen: int) -> Tensor:
        """`count` output steps from the front of x; none of them costs a run once per frame size only."""
        if count == 0:
            return _nothing(self.layer, x, self.span, self._empty)
        out = self.layer(x[:, :, : (count - 1) * self.stride + self.span])
        if isinstance(self.layer, nn.AvgPool3d) and not self.layer.divisor_override:
            out = out * self._divisor_correction(out, given, seen)
        return out

    def _divisor_correction(self, out: Tensor, given: int, seen: int) -> Tensor:
        """kernel / frames that the offline layer divides by: fewer where a window hangs over an end."""
        start = (torch.arange(out.shape[2], device=out.device) + given) * self.stride - self.before
        end = start + self.kernel
        low, high = (-self.before, seen + self.after) if self.layer.count_include_pad else (0, seen)
        if self.is_ending:
            end = end.clamp(max=high)
        counted = (end - start.clamp(min=low)).clamp(min=1)
        return (self.kernel / counted).to(out).view(1, 1, -1, 1, 1)


class Dilated(nn.Module):
    """Twin of a convolution or pooling in a dense stream: pads nothing in time, and gives an answer for each frame.

    It keeps frames one by one, so that with a new one none is copied but those that its answer needs.
    """

    def __init__(self, layer: Any, name: str) -> None:
        super().__init__()
        self.layer = layer
        self.kernel = triple(layer.kernel_size)[0]
        self.stride = triple(layer.stride)[0]
        self.dilation = triple(getattr(layer, "dilation", 1))[0]
        self.before, _ = _take_time_padding(layer, name)
        # the layer gets its frames side by side, those of one answer after those of another
        layer.stride = (self.kernel, *triple(layer.stride)[1:])
        if hasattr(layer, "dilation"):
            layer.dilation = (1, *triple(layer.dilation)[1:])
        self.spread = self.dilation
        self.state: State = {}
        self.is_ending = False
        self._empty: dict[tuple[Any, ...], Tensor] = {}

    def through(self, reach: Reach) -> Reach:
        """As of a `Sliding` one; a step of the input, which was `reach.stride` frames, is now one."""
        self.spread = self.dilation * reach.stride
        return reach.through(self.before, (self.kernel - 1) * self.dilation + 1, self.stride)

    def forward(self, x: Tensor) -> Tensor:
        """What the layer does, (B, C, n, H, W) -> (B, C, m, H, W), m steps that are complete."""
        if self.kernel == 1 and x.shape[2]:
            return self.layer(x)
        frames = [*self.state.get("frames", []), *_frames(x)]
        count = max(0, len(frames) - (self.kernel - 1) * self.spread)
        if self.kernel > 1:
            self.state = {"frames": _own(frames[count:], x)}
        if not count:
            return _nothing(self.layer, x, self.kernel, self._empty)
        return self.layer(torch.cat([frames[i + k * self.spread] for i in range(count) for k in range(self.kernel)], 2))


def _frames(x: Tensor) -> list[Tensor]:
    return [x[:, :, t : t + 1] for t in range(x.shape[2])]


def _own(frames: list[Tensor], chunk: Tensor) -> list[Tensor]:
    """Frames to keep: copies of those of a larger chunk, all of which a view would keep alive."""
    return frames if chunk.shape[2] == 1 else [frame.clone() for frame in frames]


def _nothing(layer: nn.Module, like: Tensor, frames: int, known: dict[tuple[Any, ...], Tensor]) -> Tensor:
    """No steps of a layer's answer, of the right size; this costs a run of the layer once per frame size only."""
    key = (like.device, like.dtype, *like.shape[:2], *like.shape[3:])
    if key not in known:
        known[key] = layer(like.new_zeros((*like.shape[:2], frames, *like.shape[3:])))[:, :, :0]
    return known[key]


class _Framewise(nn.Module):
    """An adaptive pooling over space alone, which torch does not run on a chunk without frames."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2]:
            return self.layer(x)
        return self.layer(x.new_zeros((*x.shape[:2], 1, *x.shape[3:])))[:, :, :0]


class Waiting(nn.Module):
    """Twin of a Join: keeps what one branch is ahead of the others."""

    def __init__(self, join: Join) -> None:
        super().__init__()
        self.join = join
        self.state: State = {}
        self.is_ending = False

    def through(self, *reaches: Reach) -> Reach:
        """What its steps see, when those of the branches see `reaches`."""
        return met(reaches)

    def forward(self, *branches: Tensor) -> Tensor:
        """What the layer does, (B, C, n, H, W) -> (B, C, m, H, W), m steps that are complete."""
        if self.state:
            branches = tuple(
                torch.cat([ahead, branch], dim=2) if ahead.shape[2] else branch
                for ahead, branch in zip(self.state["ahead"], branches, strict=True)
            )
        ready = min(branch.shape[2] for branch in branches)
        self.state = {"ahead": [branch[:, :, ready:].clone() for branch in branches]}
        return self.join(*(branch[:, :, :ready] for branch in branches))


class Delaying(nn.Module):
    """Twin of a Join in a dense stream: branches begin at different frames, and the first of the early are dropped.

    It keeps frames one by one, as `Dilated` does.
    """

    def __init__(self, join: Join) -> None:
        super().__init__()
        self.join = join
        self.early: list[int] = []
        self.state: State = {}
        self.is_ending = False

    def through(self, *reaches: Reach) -> Reach:
        """As of a `Waiting` one."""
        behind = met(reaches)
        self.early = [reach.first - behind.first for reach in reaches]
        return behind

    def forward(self, *branches: Tensor) -> Tensor:
        """What the layer does, (B, C, n, H, W) -> (B, C, m, H, W), m steps that are complete."""
        waiting, state = [], {}
        for i, branch in enumerate(branches):
            frames = [*self.state.get(f"ahead{i}", []), *_frames(branch)]
            early = self.state.get(f"early{i}", self.early[i])
            dropped = min(early, len(frames))
            waiting.append(frames[dropped:])
            state[f"early{i}"] = early - dropped
        ready = min(map(len, waiting))
        for i, branch in enumerate(branches):
            state[f"ahead{i}"] = _own(waiting[i][ready:], branch)
        self.state = state
        if ready == 1:
            return self.join(*(frames[0] for frames in waiting))
        empty = [branch[:, :, :0] for branch in branches]
        return self.join(*(torch.cat([none, *frames[:ready]], 2) for none, frames in zip(empty, waiting, strict=True)))


class _Shifting(nn.Module):
    """Twin of a TemporalShift: keeps the last two frames, since each needs the one before it and the one after."""

    def __init__(self, layer: TemporalShift, is_dense: bool) -> None:
        super().__init__()
        self.layer = layer
        self.is_dense = is_dense
        self.spread = 1
        self.state: State = {}
        self.is_ending = False

    def through(self, reach: Reach) -> Reach:
        """As of a `Sliding` one."""
        self.spread = reach.stride if self.is_dense else 1
        return reach.through(1, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        zeros = x.new_zeros((*x.shape[:2], 0 if self.is_dense else 1, *x.shape[3:]))
        x = torch.cat([self.state.get("tail", zeros), x, *([zeros] if self.is_ending else [])], dim=2)
        self.state = {"tail": x[:, :, -2 * self.spread :].clone()}
        if self.spread == 1:
            return self.layer(x)[:, :, 1:-1]
        count = max(0, x.shape[2] - 2 * self.spread)
        # before, now and after of each step side by side; of the three that the layer gives, the one in the middle
        steps = torch.arange(count)[:, None] + self.spread * torch.arange(3)
        three = x.index_select(2, steps.flatten().to(x.device)).unflatten(2, (count, 3)).movedim(2, 1)
        return self.layer(three.flatten(0, 1))[:, :, 1].unflatten(0, (len(x), count)).movedim(1, 2)


class _Leading(nn.Module):
    """Twin of a PastPad: the frames of zeros come once, before the first chunk.

    Of a ConstantPad3d, too, and of a SamePad, whose zeros in time are those for as many steps as make whole strides.
    """

    def __init__(self, layer: PastPad | SamePad | nn.ConstantPad3d, is_dense: bool) -> None:
        super().__init__()
        self.before, self.after = layer.frames if isinstance(layer, PastPad) else 0, 0
        self.in_space: nn.Module = nn.Identity()
        if isinstance(layer, SamePad):
            (k, *kernel), (s, *stride) = layer.kernel_size, layer.stride
            self.before, self.after = max(0, k - s) // 2, -(-max(0, k - s) // 2)
            self.in_space = SamePad(triple((1, *kernel)), triple((1, *stride)))
        elif isinstance(layer, nn.ConstantPad3d):
            left, right, top, bottom, self.before, self.after = layer.padding
            self.in_space = nn.ConstantPad3d((left, right, top, bottom, 0, 0), 0.0)
        self.is_dense = is_dense
        self.state: State = {}
        self.is_ending = False

    def through(self, reach: Reach) -> Reach:
        """As of a `Sliding` one."""
        return reach.through(self.before, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_space(x)
        if self.is_dense:
            return x
        before = 0 if self.state else self.before
        self.state = {"has_begun": True}
        return nn.functional.pad(x, (0, 0, 0, 0, before, self.after if self.is_ending else 0))


class _Resuming(nn.Module):
    """Twin of a CausalMean: keeps the sum and the number of the frames so far."""

    def __init__(self, layer: CausalMean, is_dense: bool) -> None:
        super().__init__()
        self.layer = layer
        self.state: State = {}
        self.is_ending = False

    def forward(self, x: Tensor) -> Tensor:
        seen = self.state.get("seen", 0)
        means, total = self.layer.resume(x, self.state.get("total", x.new_zeros(())), seen)
        self.state = {"total": total, "seen": seen + x.shape[2]}
        return means


class Averaging(nn.Module):
    """Twin of a head that averages: logits of the running mean over the last `window` steps, or over all.

    A head whose own window slides over time answers with the running mean of its complete windows.
    """

    def __init__(self, head: Any, window: int | None, name: str, is_dense: bool) -> None:
        super().__init__()
        self.head = head
        self.window = window
        self.name = name or "model"
        self.is_dense = is_dense
        self.state: State = {}
        self.is_ending = False

    def forward(self, x: Tensor) -> Tensor:
        """What the layer does, (B, C, n, H, W) -> (B, C, m, H, W), m steps that are complete."""
        own = self._own_span(x)
        span = self.window or own
        steps = x.mean((3, 4)).double()  # (B, C, n); double, since a sum over hours drifts in float32
        steps = torch.cat([self.state.get("past", steps[:, :, :0]), steps], dim=2)
        seen = self.state.get("seen", 0)
        so_far = torch.arange(1, x.shape[2] + 1, device=x.device) + seen
        means = _last_sums(steps, span, x.shape[2]) / so_far.clamp(min=1, max=span)
        state = {"past": steps[:, :, max(0, steps.shape[2] - span + 1) :].clone(), "seen": seen + x.shape[2]}
        if self.window is None:
            complete = so_far - span + 1
            total = self.state.get("total", means.new_zeros((*means.shape[:2], 1)))
            totals = torch.cat([total, means * (complete > 0)], dim=2).cumsum(2)
            means = torch.where(complete > 0, totals[:, :, 1:] / complete.clamp(min=1), means)
            state["total"] = totals[:, :, -1:].clone()
        self.state = state
        return self.head.logits(means.to(x.dtype))

    def _own_span(self, x: Tensor) -> int:
        """Steps of the window that the head slides over time; 1 for a head that takes the plain mean.

        A window as large as the map in space slides over time alone: its mean of means is kept as a running mean. So is
        that of a window of single places, which all count alike where no layer is between their means and their mean.
        The windows of an MLP are for clips of their own length, where the one position is the plain mean.
        """
        is_mlp = isinstance(self.head, MLP)
        windows = tuple(self.head.windows.values()) if is_mlp else (self.head.window,)
        height, width = x.shape[3:]
        span = 1
        for t, h, w in filter(None, windows):
            h, w = h or height, w or width  # 0 is the whole axis
            is_all = (h, w) == (height, width) or ((h, w) == (1, 1) and not is_mlp)
            if h <= height and w <= width and not is_all:
                raise ValueError(
                    f"layer {self.name} ({type(self.head).__name__}) cannot be streamed exactly at this size: "
                    f"its average over {h}x{w} slides over a map of {height}x{width}; "
                    "give smaller frames or assign another head"
                )
            if is_all and not (is_mlp or self.is_dense):
                span = t or 1
        return span


class SoFar(nn.Module):
    """In place of a mean over all of time: at each frame, the mean of the frames so far, or of the last ones."""

    def __init__(self, layer: Any, is_dense: bool) -> None:
        super().__init__()
        size = getattr(layer, "output_size", 1)
        self.pool = _Framewise(nn.AdaptiveAvgPool3d((None, *triple(size)[1:])))
        self.is_dense = is_dense
        self.frames: int | None = None  # of the video
        self.steps: int | None = None
        self.state: State = {}
        self.is_ending = False

    def through(self, reach: Reach) -> Reach:
        """As of a `Sliding` one; a mean is not counted as reach."""
        if self.frames is not None:
            self.steps = max(1, self.frames // (1 if self.is_dense else reach.stride))
        return reach

    def forward(self, x: Tensor) -> Tensor:
        """What the layer does, (B, C, n, H, W) -> (B, C, m, H, W), m steps that are complete."""
        means, seen = self.pool(x), self.state.get("seen", 0)
        if self.steps is None:
            means, total = CausalMean().resume(means, self.state.get("total", means.new_zeros(())), seen)
            self.state = {"total": total, "seen": seen + x.shape[2]}
            return means
        each = torch.cat([self.state.get("past", means[:, :, :0].double()), means.double()], dim=2)
        counts = (torch.arange(1, x.shape[2] + 1, device=x.device) + seen).clamp(max=self.steps)
        past = each[:, :, max(0, each.shape[2] - self.steps + 1) :].clone()
        self.state = {"past": past, "seen": seen + x.shape[2]}
        return (_last_sums(each, self.steps, x.shape[2]) / counts.view(-1, 1, 1)).to(x.dtype)


def _last_sums(steps: Tensor, span: int, count: int) -> Tensor:
    """At each of the last `count` of the steps (B, C, n, ...), the sum of `span` of them up to it, or of all so far.

    Each is added up by itself: in differences of running sums one step that is no number spoils all that follow.
    """
    if not count:
        return steps[:, :, :0]
    span = min(span, steps.shape[2])
    missing = span - 1 + count - steps.shape[2]
    padded = nn.functional.pad(steps, (*(0, 0) * (steps.ndim - 3), missing, 0))
    return padded.unfold(2, span, 1).sum(-1)


class Recalling(nn.Module):
    """In place of a NonLocal, which looks at all of time: each frame looks at the last ones, as many as a clip has."""

    def __init__(self, layer: NonLocal, is_dense: bool) -> None:
        super().__init__()
        self.layer = layer
        self.is_dense = is_dense
        self.frames = CLIP  # of the video
        self.spread, self.steps = 1, CLIP
        self.state: State = {}
        self.is_ending = False

    def through(self, reach: Reach) -> Reach:
        """As of a `Sliding` one."""
        self.steps = max(1, self.frames // reach.stride)
        self.spread = reach.stride if self.is_dense else 1
        return reach.through(self.steps - 1, self.steps, 1)

    def forward(self, x: Tensor) -> Tensor:
        """What the layer does, (B, C, n, H, W) -> (B, C, m, H, W), m steps that are complete."""
        layer, count = self.layer, x.shape[2]
        if not count:
            return x
        if layer.pool_first:
            pooled = layer.pool(x)
            phi, g = layer.phi(pooled), layer.g(pooled)
        else:
            phi, g = layer.pool(layer.phi(x)), layer.pool(layer.g(x))
        phi = torch.cat([self.state.get("phi", phi[:, :, :0]), phi], dim=2)
        g = torch.cat([self.state.get("g", g[:, :, :0]), g], dim=2)
        theta, summed = layer.theta(x), []
        for i in range(count):
            last = phi.shape[2] - count + i
            seen = range(last, -1, -self.spread)[: self.steps]
            part = slice(seen[-1], last + 1, self.spread)
            weights = layer.affinity(theta[:, :, i].flatten(2), phi[:, :, part].flatten(2))
            summed.append((g[:, :, part].flatten(2) @ weights.transpose(1, 2)).unflatten(2, x.shape[3:]))
        kept = (self.steps - 1) * self.spread
        first = max(0, phi.shape[2] - kept)
        self.state = {"phi": phi[:, :, first:].clone(), "g": g[:, :, first:].clone()}
        return layer.join(x, layer.out(torch.stack(summed, 2)))


def _each_slow_frame(layer: SpreadFrames, is_dense: bool) -> nn.Module:
    pick = nn.AvgPool3d(1, (layer.alpha, 1, 1))
    return Dilated(pick, "") if is_dense else Sliding(pick, "")


_TWIN_OF: dict[type, Callable[[Any, bool], nn.Module]] = {
    TemporalShift: _Shifting,
    PastPad: _Leading,
    CausalMean: _Resuming,
}
# Exact ones of whose layer a twin runs parts, or nothing.
_TAKEN_APART = (Classify, MLP, CausalMean, PastPad, SamePad, nn.ConstantPad3d)
TWINS = (Sliding, Dilated, Waiting, Delaying, Averaging, SoFar, Recalling, _Shifting, _Leading, _Resuming)
_SO_FAR = "its mean over all of time is one over the frames so far, or the last `window`"
# Kinds of layers that look at all of time: what takes their place, and words for it, none where nothing does.
_APPROXIMATE: dict[type, tuple[Callable[[Any, bool], nn.Module], Callable[[Any], str]]] = {
    GlobalMean: (SoFar, lambda layer: _SO_FAR),
    nn.AdaptiveAvgPool3d: (SoFar, lambda layer: _SO_FAR if triple(layer.output_size)[0] == 1 else ""),
    NonLocal: (Recalling, lambda layer: "each frame looks at as many of the last frames as a clip has, not at all"),
    SamePad: (_Leading, lambda layer: f"it pads as for frames in whole strides of {layer.stride[0]}"),
    SpreadFrames: (
        _each_slow_frame,
        lambda layer: f"the slow frames are the first of each {layer.alpha}, not spread from the first to the last",
    ),
}


def _take_time_padding(layer: Any, name: str) -> tuple[int, int]:
    """Padding in time (before, after) of a layer, which is left with its padding in space alone."""
    padding = layer.padding
    if isinstance(padding, str):
        sizes = zip(triple(layer.kernel_size), triple(layer.dilation), strict=True)
        both = [d * (k - 1) if padding == "same" else 0 for k, d in sizes]
        if any(total % 2 for total in both[1:]):
            raise ValueError(f"layer {name}: padding 'same' of an even kernel in space cannot be streamed")
        padding = tuple(total // 2 for total in both)
        before, after = both[0] // 2, both[0] - both[0] // 2
    else:
        padding = triple(padding)
        before = after = padding[0]
    if getattr(layer, "padding_mode", "zeros") != "zeros" and (before or after):
        raise ValueError(f"layer {name}: padding_mode {layer.padding_mode!r} in time cannot be streamed; use zeros")
    if getattr(layer, "return_indices", False):
        raise ValueError(f"layer {name}: a max pooling that returns indices cannot be streamed")
    layer.padding = (0, *padding[1:])
    return before, after
