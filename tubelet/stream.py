"""Stream: run a network on a video as it comes, chunk by chunk, with the answers of one long pass.

A stream works on a copy of the network that shares its weights. Every layer that reaches across frames is
swapped for a twin that keeps the frames it still needs, pads the video at its two ends as the layer pads a clip,
and gives out each result as soon as its last frame is there. A `Join` waits for the branch that is behind. What a
twin keeps depends on its kernel, never on the length of the video.
"""

from __future__ import annotations

import bisect
import copy
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import (
    CausalMean,
    HalvingMean,
    HardSigmoid,
    Join,
    Network,
    NonLocal,
    PastPad,
    SamePad,
    Scale,
    SpatialMean,
    TemporalShift,
    ZeroChannels,
    triple,
)
from .heads import MLP, Classify, Features

SLIDING = (nn.Conv3d, nn.MaxPool3d, nn.AvgPool3d)
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

State = dict[str, Any]


class Stream(nn.Module):
    """Chunked output equals offline output, whatever the chunks are: `cat(outputs, dim=2) == model(video)`.

    Args:
        model: any network whose time layers are `nn.Conv3d`, `nn.MaxPool3d`, `nn.AvgPool3d` or of `tubelet.blocks`, and
            whose branches meet in a `Join`. It is not changed; the stream runs in evaluation mode, without gradients,
            with the same weights.
        window: feature steps over which a `Classify` or `MLP` head averages; None averages all since the start, so that
            the last answer is the answer for the whole video. The head gives one set of logits a step: (B, K, n).

    Raises:
        ValueError: a layer cannot be streamed exactly (one that pools or normalises over all of time); the message
            names it. Also a `window` below 1.

    Example:
        ```python
        stream = tubelet.Stream(model)
        for frames in camera:  # (B, C, n, H, W), any n
            show(stream(frames))  # as many steps as are complete, maybe none
        show(stream.flush())  # the rest, padded at the end as the model pads a clip
        ```
    """

    def __init__(self, model: nn.Module, *, window: int | None = None) -> None:
        super().__init__()
        if window is not None and window < 1:
            raise ValueError(f"window {window} must be at least 1 feature step, or None for the whole video")
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self.model = _with_twins(copy.deepcopy(model, shared), window).eval()
        self.window = window
        self._shape: tuple[int, ...] | None = None
        self._delays: dict[tuple[int, ...], int] = {}

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        """The next frames (B, C, n, H, W) -> the output steps that they complete, along dim 2 (maybe none)."""
        if frames.ndim != 5:
            raise ValueError(f"frames are {tuple(frames.shape)}; a stream takes (B, C, n, H, W)")
        if not frames.is_floating_point():
            raise ValueError(f"frames are {frames.dtype}; a stream takes floats, normalised as a clip is")
        shape = (*frames.shape[:2], *frames.shape[3:])
        if self._shape is None:
            self._measure(shape)
            self._shape = shape
        elif shape != self._shape:
            raise ValueError(
                f"frames are (B, C, H, W) = {shape} and the stream began with {self._shape}: "
                "flush() or reset() it before another video"
            )
        return self.model(frames)

    @torch.no_grad()
    def flush(self) -> Tensor:
        """End of the video -> the output steps that were waiting for more; the stream is then as new."""
        if self._shape is None:
            raise ValueError("flush() of a stream that has seen no frames")
        batch, channels, height, width = self._shape
        weight = next(self.model.parameters(), None)
        end = (
            torch.empty(batch, channels, 0, height, width)
            if weight is None
            else weight.new_empty(batch, channels, 0, height, width)
        )
        _end(self.model)
        try:
            return self.model(end)
        finally:
            self.reset()

    def reset(self) -> None:
        """Forget the video; the next frames begin another one."""
        self._shape = None
        _restart(self.model)

    @property
    def state(self) -> State:
        """What the stream keeps between chunks: {"shape": ..., layer name: {name: tensor or number}}.

        A snapshot: it can be printed, saved with `torch.save`, and assigned to any stream of the same model.
        """
        return {
            "shape": self._shape,
            "window": self.window,
            **{name: twin.state for name, twin in _twins(self.model).items()},
        }

    @state.setter
    def state(self, state: State) -> None:
        twins = _twins(self.model)
        names = {"shape", "window", *twins}
        if set(state) != names:
            odd = sorted(set(state) ^ names)
            raise ValueError(f"the state is of another network: it differs in {', '.join(odd[:5])}")
        if state["window"] != self.window:
            raise ValueError(f"the state is of a stream with window {state['window']}, not {self.window}")
        self._shape = state["shape"]
        for name, twin in twins.items():
            twin.state = state[name]

    @property
    def delay(self) -> int:
        """Frames that go in before the first output comes out, fed one by one.

        Known without frames for a network with a `spec`; for others once the first frames have come.
        """
        if self._delays:
            return next(reversed(self._delays.values()))
        spec = getattr(self.model, "spec", None)
        if spec is None or spec.crop is None:
            raise ValueError("the delay of this network is known once its stream has seen frames")
        return self._measure((1, spec.in_channels, *spec.crop))

    def _measure(self, shape: tuple[int, ...]) -> int:
        if shape not in self._delays:
            self._delays[shape] = _probe(self.model, shape)
        return self._delays[shape]


def _probe(model: nn.Module, shape: tuple[int, ...], most: int = 10_000) -> int:
    """Delay of a stream at (B, C, H, W), and a check that it can be exact: chunks give what all at once gives.

    What this library is made of keeps the rules by construction, so only shapes are computed (on the meta device);
    a network with a class of another's is run on noise, since its forward may mix frames where no layer shows it.
    """
    is_ours = all(map(_is_known, model.modules()))
    like = next(model.parameters(), torch.empty(0))
    device, dtype = "meta" if is_ours else like.device, like.dtype
    tensors = (*model.parameters(), *model.buffers())
    model = copy.deepcopy(model, {id(tensor): tensor.to(device) for tensor in tensors})
    _restart(model)
    batch, channels, height, width = shape

    def noise(frames: int) -> Tensor:
        # of another brightness in each frame, so that a mean over all of them differs from that of a few
        brightness = torch.rand(batch, 1, frames, 1, 1, device=device, dtype=dtype)
        return brightness * torch.rand(batch, channels, frames, height, width, device=device, dtype=dtype)

    def gives(frames: int) -> bool:
        _restart(model)
        return model(noise(frames)).shape[2] > 0

    try:
        if is_ours:
            high = 1
            while not gives(high) and high < most:
                high *= 2
            # whole chunks, since a deep network waits for hundreds of frames
            delay = bisect.bisect_left(range(1, high + 1), True, key=gives)
        else:
            delay = next((count for count in range(most) if model(noise(1)).shape[2]), most)
        _restart(model)
        frames = noise(delay + 4)
        before = [delay] if is_ours else [1] * delay
        outputs = [model(chunk) for chunk in frames.split([0, *before, 1, 1, 1, 1], 2)]
        _end(model)
        outputs.append(model(noise(0)))
        _restart(model)
        _end(model)
        chunked, whole = torch.cat(outputs, 2), model(frames)
        is_exact = chunked.shape == whole.shape
        if not is_ours and is_exact:
            scale = float(whole.abs().nan_to_num(0, 0).max())
            is_exact = torch.allclose(chunked, whole, rtol=0, atol=1e-4 * scale, equal_nan=True)
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"{_CANNOT} ({str(error).splitlines()[0]})") from error
    if not is_exact:
        raise ValueError(_CANNOT)
    return delay


_CANNOT = (
    "this network cannot be streamed exactly: its forward merges branches outside a tubelet.blocks.Join, pools over "
    "time outside a layer, or gives an output without a time axis"
)


def _is_known(module: nn.Module) -> bool:
    """Whether a forward is code of this library, or no code of its own."""
    is_plain = isinstance(module, nn.Sequential | nn.ModuleList) or not list(module.children())
    return is_plain or type(module).__module__.startswith("tubelet.")


def _twins(model: nn.Module) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if isinstance(module, TWINS)}


def _end(model: nn.Module) -> None:
    for twin in _twins(model).values():
        twin.is_ending = True


def _restart(model: nn.Module) -> None:
    for twin in _twins(model).values():
        twin.state, twin.is_ending = {}, False


def _with_twins(module: Any, window: int | None, name: str = "", seen: dict[int, str] | None = None) -> nn.Module:
    """The module with every layer that has a time axis swapped for its twin; `module` is the stream's own copy."""
    seen = {} if seen is None else seen
    kind = type(module)  # exactly: a subclass may do anything
    if kind in SLIDING or kind in _TWIN_OF or kind in (Classify, MLP):
        if id(module) in seen:
            raise ValueError(f"layers {seen[id(module)]} and {name} are one; a stream needs one for each place")
        seen[id(module)] = name
    if kind in SLIDING:
        return _Sliding(module, name)
    if kind in _TWIN_OF:
        return _TWIN_OF[kind](module)
    if kind in (Classify, MLP):
        return _Averaging(module, window, name)
    if kind in (nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d) and _is_pointwise(module):
        return _Framewise(module)
    if kind is NonLocal or (not list(module.children()) and not _is_pointwise(module)):
        raise ValueError(
            f"layer {name or 'model'} ({kind.__name__}) cannot be streamed exactly: "
            "it looks at all of time, or it is a class that a stream does not know"
        )
    if kind is Network:
        module.least = (0, *module.least[1:])  # a chunk may be shorter than any clip
    # not named_children, which leaves out a layer's second place
    for child_name, child in module._modules.items():
        if child is not None:
            setattr(module, child_name, _with_twins(child, window, f"{name}.{child_name}".lstrip("."), seen))
    return module


def _is_pointwise(module: Any) -> bool:
    kind = type(module)
    if kind is nn.LayerNorm:
        return len(module.normalized_shape) == 1
    if kind in (nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d):
        size = module.output_size
        return isinstance(size, tuple) and size[0] is None
    if kind is SamePad:
        return module.kernel_size[0] == module.stride[0] == 1
    if kind in (nn.BatchNorm3d, nn.SyncBatchNorm) and module.running_mean is None:
        return False  # it takes the statistics of the clip
    return kind in POINTWISE or (kind in (nn.Sequential, nn.ModuleList) and not len(module))


class _Sliding(nn.Module):
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

    def forward(self, x: Tensor) -> Tensor:
        state = self.state or {"tail": self._filled(x, self.before), "skip": 0, "seen": 0, "given": 0}
        seen = state["seen"] + x.shape[2]
        x = torch.cat([state["tail"], x], dim=2)
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
            key = (x.device, x.dtype, *x.shape[:2], *x.shape[3:])
            if key not in self._empty:
                self._empty[key] = self.layer(self._filled(x, self.span))[:, :, :0]
            return self._empty[key]
        out = self.layer(x[:, :, : (count - 1) * self.stride + self.span])
        if isinstance(self.layer, nn.AvgPool3d) and not self.layer.divisor_override:
            out = out * self._divisor_correction(out, given, seen)
        return out

    def _divisor_correction(self, out: Tensor, given: int, seen: int) -> Tensor:
        """kernel / frames that the offline layer divides by: fewer where a window hangs over an end."""
        start = (torch.arange(out.shape[2]) + given) * self.stride - self.before
        end = start + self.kernel
        low, high = (-self.before, seen + self.after) if self.layer.count_include_pad else (0, seen)
        if self.is_ending:
            end = end.clamp(max=high)
        counted = (end - start.clamp(min=low)).clamp(min=1)
        return (self.kernel / counted).to(out).view(1, 1, -1, 1, 1)


class _Framewise(nn.Module):
    """An adaptive pooling over space alone, which torch does not run on a chunk without frames."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2]:
            return self.layer(x)
        return self.layer(x.new_zeros((*x.shape[:2], 1, *x.shape[3:])))[:, :, :0]


class _Waiting(nn.Module):
    """Twin of a Join: keeps what one branch is ahead of the others."""

    def __init__(self, join: Join) -> None:
        super().__init__()
        self.join = join
        self.state: State = {}
        self.is_ending = False

    def forward(self, *branches: Tensor) -> Tensor:
        if self.state:
            branches = tuple(
                torch.cat([ahead, branch], dim=2) for ahead, branch in zip(self.state["ahead"], branches, strict=True)
            )
        ready = min(branch.shape[2] for branch in branches)
        self.state = {"ahead": [branch[:, :, ready:].clone() for branch in branches]}
        if self.is_ending:
            return self.join(*branches)
        return self.join(*(branch[:, :, :ready] for branch in branches))


class _Shifting(nn.Module):
    """Twin of a TemporalShift: keeps the last two frames, since each needs the one before it and the one after."""

    def __init__(self, layer: TemporalShift) -> None:
        super().__init__()
        self.layer = layer
        self.state: State = {}
        self.is_ending = False

    def forward(self, x: Tensor) -> Tensor:
        zeros = x.new_zeros((*x.shape[:2], 1, *x.shape[3:]))
        x = torch.cat([self.state.get("tail", zeros), x, *([zeros] if self.is_ending else [])], dim=2)
        self.state = {"tail": x[:, :, -2:].clone()}
        return self.layer(x)[:, :, 1:-1]


class _Leading(nn.Module):
    """Twin of a PastPad: the frames of zeros come once, before the first chunk."""

    def __init__(self, layer: PastPad) -> None:
        super().__init__()
        self.layer = layer
        self.state: State = {}
        self.is_ending = False

    def forward(self, x: Tensor) -> Tensor:
        if self.state:
            return x
        self.state = {"has_begun": True}
        return self.layer(x)


class _Resuming(nn.Module):
    """Twin of a CausalMean: keeps the sum and the number of the frames so far."""

    def __init__(self, layer: CausalMean) -> None:
        super().__init__()
        self.layer = layer
        self.state: State = {}
        self.is_ending = False

    def forward(self, x: Tensor) -> Tensor:
        seen = self.state.get("seen", 0)
        means, total = self.layer.resume(x, self.state.get("total", x.new_zeros(())), seen)
        self.state = {"total": total, "seen": seen + x.shape[2]}
        return means


class _Averaging(nn.Module):
    """Twin of a head that averages: logits of the running mean over the last `window` steps, or over all.

    A head whose own window slides over time answers with the running mean of its complete windows.
    """

    def __init__(self, head: Any, window: int | None, name: str) -> None:
        super().__init__()
        self.head = head
        self.window = window
        self.name = name or "model"
        self.state: State = {}
        self.is_ending = False

    def forward(self, x: Tensor) -> Tensor:
        own = self._own_span(x)
        span = self.window or own
        steps = x.mean((3, 4)).double()  # (B, C, n); double, since a sum over hours drifts in float32
        steps = torch.cat([self.state.get("past", steps[:, :, :0]), steps], dim=2)
        sums = nn.functional.pad(steps.cumsum(2), (1, 0))
        last = torch.arange(steps.shape[2] - x.shape[2], steps.shape[2], device=x.device) + 1
        first = (last - span).clamp(min=0)
        seen = self.state.get("seen", 0)
        so_far = torch.arange(1, x.shape[2] + 1, device=x.device) + seen
        means = (sums[:, :, last] - sums[:, :, first]) / so_far.clamp(min=1, max=span)
        state = {"past": steps[:, :, max(0, steps.shape[2] - span + 1) :].clone(), "seen": seen + x.shape[2]}
        if self.window is None:
            complete = so_far - span + 1
            totals = torch.cat([self.state.get("total", sums[:, :, :1]), means * (complete > 0)], dim=2).cumsum(2)
            means = torch.where(complete > 0, totals[:, :, 1:] / complete.clamp(min=1), means)
            state["total"] = totals[:, :, -1:].clone()
        self.state = state
        return self.head.logits(means.to(x.dtype))

    def _own_span(self, x: Tensor) -> int:
        """Steps of the window that the head slides over time; 1 for a head that takes the plain mean.

        A window as large as the map in space slides over time alone: its mean of means is kept as a running mean.
        The windows of an MLP are for clips of their own length, where the one position is the plain mean.
        """
        windows = tuple(self.head.windows.values()) if isinstance(self.head, MLP) else (self.head.window,)
        height, width = x.shape[3:]
        span = 1
        for t, h, w in filter(None, windows):
            if h <= height and w <= width and (h, w) != (height, width):
                raise ValueError(
                    f"layer {self.name} ({type(self.head).__name__}) cannot be streamed exactly at this size: "
                    f"its average over {h}x{w} slides over a map of {height}x{width}; "
                    "give smaller frames or assign another head"
                )
            if (h, w) == (height, width) and not isinstance(self.head, MLP):
                span = t
        return span


_TWIN_OF: dict[type, Any] = {Join: _Waiting, TemporalShift: _Shifting, PastPad: _Leading, CausalMean: _Resuming}
TWINS = (_Sliding, _Averaging, *_TWIN_OF.values())


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
