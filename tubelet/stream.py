"""Stream: run a network on a video as it comes, chunk by chunk, with the answers of one long pass.

A stream works on a copy of the network that shares its weights. Every layer that reaches across frames is
swapped for a twin that keeps the frames it still needs, pads the video at its two ends as the layer pads a clip,
and gives out each result as soon as its last frame is there. A `Join` waits for the branch that is behind. What a
twin keeps depends on its kernel, never on the length of the video.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from . import speed
from .copies import are_alike, before_compile, check_stays, is_altered, shared_copy
from .spec import at_least_one
from .step import Continued, steady
from .terminal import Table, counted
from .twins import Reach, Recalling, SoFar, State, Twinning, finish, met, restart, twins_of

log = logging.getLogger("tubelet")

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Step = tuple[Continued, Any]  # a chunk as a function of what the twins keep, and the same made fast

_MOST_GRAPHS = 4  # sizes of chunks for which an optimized network has a graph


def _uncompiled(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """The method, which torch.compile leaves alone: what a stream keeps is Python's.

    It is `torch.compiler.disable` where something is compiled; to import that takes a second.
    """

    @wraps(method)
    def run(*args: _P.args, **named: _P.kwargs) -> _R:
        if torch.compiler.is_dynamo_compiling():
            return torch.compiler.disable(method)(*args, **named)
        return method(*args, **named)

    return run


class Stream(nn.Module):
    """Chunked output equals offline output, whatever the chunks are: `cat(outputs, dim=2) == model(video)`.

    Args:
        model: any network whose time layers are `nn.Conv3d`, `nn.MaxPool3d`, `nn.AvgPool3d` or of `tubelet.blocks`, and
            whose branches meet in a `Join`. It is not changed; the stream runs in evaluation mode, without gradients,
            with the same weights. One that `tubelet.optimize` made fast is fast here as well: chunks that do alike run
            as one graph, prepared in some seconds when chunks of that size first come.
        window: feature steps over which a `Classify` or `MLP` head averages; None averages all since the start, so that
            the last answer is the answer for the whole video. The head gives one set of logits a step: (B, K, n).
        dense: an answer for each frame: nothing is padded in time, and strides in time become dilations (Giusti et al.
            2013, arXiv 1302.1700). The answers are those of the same weights without padding, not those of the network
            as it was trained; the first comes with the frame that completes the `receptive_field`.
        approximate: stream what can be streamed, and in place of layers that look at all of time something that looks
            at the past. The answers are not those of the network; `approximations` tells why.

    Attributes:
        approximations: a line for each layer that is not what it is offline.

    Raises:
        ValueError: a layer cannot be streamed exactly (one that pools or normalises over all of time); the message
            names it. Also a `window` below 1, or a model that holds a stream.

    Example:
        ```python
        stream = tubelet.Stream(model)
        for frames in camera:  # (B, C, n, H, W), any n
            show(stream(frames))  # as many steps as are complete, maybe none
        show(stream.flush())  # the rest, padded at the end as the model pads a clip
        ```
    """

    def __init__(
        self, model: nn.Module, *, window: int | None = None, dense: bool = False, approximate: bool = False
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise ValueError(f"model {model!r} must be a network: `tubelet.load(path)` reads one from a file")
        if any(isinstance(each, Stream) for each in model.modules()):
            raise ValueError("model is a Stream, or holds one: give the network that it was made of")
        if window is not None:
            at_least_one(window=window)
        self._fast: tuple[Any, ...] | None = None
        model = before_compile(model)  # what the twins keep would be compiled anew again and again
        if type(model).__name__ == "Optimized":  # by name, since its import takes long
            fast: Any = model
            model = before_compile(fast.model)
            if type(fast.backend).__name__ == "Int8":  # calibrated on clips, and not on what the twins keep
                log.warning("int8 is for whole clips; the stream runs in float32")
            else:
                self._fast = (type(fast), fast.backend, fast.device, fast._precision)
        twinning = Twinning(window, dense, approximate)
        self.model = twinning.twin(shared_copy(model)).eval()
        self.window = window
        self.dense = dense
        self.training = False
        self.approximations = tuple(twinning.approximations)
        self._offline = (model,)  # in a tuple, so that it is no part of this module
        self._shape: tuple[int, ...] | None = None
        self._reach: Reach | None = None
        self._measured: tuple[int, ...] = ()
        self._known: tuple[Any, dict[str, State]] = (None, {})  # what twins keep of videos of a shape
        # chunks as one graph, by their shape; the one that holds what the twins keep, and that
        self._steps: dict[tuple[int, ...], _Step | None] = {}
        self._live: _Step | None = None
        self._kept: list[Tensor] = []
        for twin in twins_of(self.model).values():
            if isinstance(twin, SoFar) and window is not None:
                twin.frames = window * (1 if dense else getattr(model, "strides", [(1,)])[-1][0])
            if isinstance(twin, Recalling) and (spec := getattr(model, "spec", None)) is not None:
                twin.frames = spec.num_frames

    @_uncompiled
    def forward(self, frames: Tensor) -> Tensor:
        """The next frames (B, C, n, H, W) -> the output steps that they complete, along dim 2 (maybe none)."""
        if frames.ndim != 5:
            raise ValueError(f"frames are {tuple(frames.shape)}; a stream takes (B, C, n, H, W)")
        if not frames.is_floating_point():
            raise ValueError(f"frames are {frames.dtype}; a stream takes floats, normalised as a clip is")
        dtype = next((x.dtype for x in self.model.parameters() if x.is_floating_point()), frames.dtype)
        if frames.dtype != dtype and not torch.is_autocast_enabled(frames.device.type):
            raise ValueError(f"frames are {frames.dtype} and the network is {dtype}: give frames.to({dtype})")
        shape = (*frames.shape[:2], *frames.shape[3:])
        if self._shape is None:
            self.measure(shape)
        elif shape != self._shape:
            raise ValueError(
                f"frames are (B, C, H, W) = {shape} and the stream began with {self._shape}: "
                "flush() or reset() it before another video"
            )
        answers = self._advance(frames)
        self._shape = shape  # only now: a chunk that is refused begins no video
        return answers

    @_uncompiled
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
        self._settle()
        finish(self.model)
        try:
            return self._as_it_is(end)
        finally:
            self.reset()

    def reset(self) -> None:
        """Forget the video; the next frames begin another one."""
        self._shape, self._live = None, None
        restart(self.model)

    def train(self, mode: bool = True) -> Stream:
        """Nothing: a stream stays in evaluation mode, also within a network that trains."""
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Stream:
        check_stays("a stream", self.model, fn)
        return super()._apply(fn, recurse)

    @property
    def state(self) -> State:
        """What the stream keeps between chunks: {"shape": ..., layer name: {name: tensor or number}}.

        A snapshot: it can be printed, saved with `torch.save`, and assigned to any stream of the same model. One that
        does not fit there is a ValueError that names the layer, and the stream stays where it was.
        """
        self._settle()
        return {
            "shape": self._shape,
            "window": self.window,
            "dense": self.dense,
            **{name: twin.state for name, twin in twins_of(self.model).items()},
        }

    @state.setter
    def state(self, state: State) -> None:
        self._settle()
        twins = twins_of(self.model)
        names = {"shape", "window", "dense", *twins}
        if not isinstance(state, dict):
            raise ValueError(f"state is a {type(state).__name__}; give what `state` of a stream of this network gave")
        if set(state) != names:
            odd = sorted(set(state) ^ names)
            raise ValueError(f"the state is of another network: it differs in {', '.join(odd[:5])}")
        if state["window"] != self.window:
            raise ValueError(f"the state is of a stream with window {state['window']}, not {self.window}")
        if state["dense"] != self.dense:
            raise ValueError(f"the state is of a stream with dense={state['dense']}, not {self.dense}")
        known = self._kept_at(state["shape"])
        for name in twins:
            if not _fits(state[name], known[name]):
                raise ValueError(f"the state is damaged, or of another network: that of layer {name} does not fit")
        self._shape = state["shape"]
        for name, twin in twins.items():
            twin.state = state[name]

    def _kept_at(self, shape: Any) -> dict[str, State]:
        """What each twin keeps once there are answers to frames (B, C, H, W), and nothing before there is one."""
        if shape is None:
            return {name: {} for name in twins_of(self.model)}
        if not isinstance(shape, tuple) or len(shape) != 4:
            raise ValueError(f"the state is damaged: its shape is {shape}, and that of frames is (B, C, H, W)")
        if self._known[0] != shape:
            self.measure(shape)
            model, device, dtype = _outline(self.model)
            with torch.no_grad():
                model(torch.zeros(*shape[:2], self.delay + 1, *shape[2:], device=device, dtype=dtype))
            self._known = (shape, {name: twin.state for name, twin in twins_of(model).items()})
        return self._known[1]

    @property
    def delay(self) -> int:
        """Frames that go in before the first output comes out, fed one by one.

        Known without frames for a network with a `spec`; for others once the first frames have come.
        """
        reach = self._known_reach()
        return self.receptive_field - 1 if self.dense else max(0, reach.last)

    @property
    def receptive_field(self) -> int:
        """Frames of the video that one output step depends on, apart from running means. Known when `delay` is."""
        reach = self._known_reach()
        return reach.last - reach.first + 1

    def _known_reach(self) -> Reach:
        if self._reach is not None:
            return self._reach
        spec = getattr(self.model, "spec", None)
        if spec is None or spec.crop is None:
            raise ValueError("the delay of this network is known once its stream has seen frames")
        return self.measure((1, spec.in_channels, *spec.crop))

    def measure(self, shape: tuple[int, ...]) -> Reach:
        """What an output step sees, of frames (B, C, H, W); the first time, the twins are told, too.

        Raises:
            ValueError: in chunks the network answers something else.
        """
        if self._reach is None:
            taken, reach = _trace(self.model, shape)
            for name, twin in twins_of(self.model).items():
                if name in taken:
                    twin.through(*taken[name])
            _check(self.model, shape, reach.last - (reach.first if self.dense else 0))
            self._reach, self._measured = reach, shape
        return self._reach

    def _advance(self, frames: Tensor) -> Tensor:
        if self.dense and frames.shape[2] == 1:
            frames = frames.clone()  # it is kept as it is, and the caller may write the next frame to the same memory
        if self._fast is None:
            return self._as_it_is(frames)
        shape = tuple(frames.shape)
        if not shape[2] or (shape not in self._steps and len(self._steps) >= _MOST_GRAPHS):
            self._settle()
            return self._as_it_is(frames)
        if shape not in self._steps:
            self._steps[shape] = self._prepared(shape, *self._fast)
        step = self._steps[shape]
        if step is None or step is not self._live:
            self._settle()
            states = {name: twin.state for name, twin in twins_of(self.model).items()}
            if step is None or not step[0].fits(states):
                return self._as_it_is(frames)
            self._live, self._kept = step, list(step[0].taken(states, frames.device))
        answers, *self._kept = step[1](frames, *self._kept)
        return answers

    def _as_it_is(self, frames: Tensor) -> Tensor:
        twins = twins_of(self.model)
        before = {name: twin.state for name, twin in twins.items()}
        try:
            with speed.inference():
                return self.model(frames)
        except BaseException:  # some layers have seen the chunk, others have not
            for name, twin in twins.items():
                twin.state = before[name]
            raise

    def _settle(self) -> None:
        """Give what a graph holds back to the twins."""
        if self._live is not None:
            step, fast = self._live
            step.put(self._kept, twins_of(self.model), fast.device, Tensor.tolist)
            self._live = None

    @torch.no_grad()
    def _prepared(
        self, shape: tuple[int, ...], kind: Any, backend: Any, place: torch.device, precision: str
    ) -> _Step | None:
        """A graph for chunks of this shape once they do alike; None where they never do."""
        model, device, dtype = _outline(self.model)
        frames = partial(torch.zeros, device=device, dtype=dtype)
        model(frames(*shape[:2], (self.delay // shape[2] + 2) * shape[2], *shape[3:]))
        try:
            before, now = steady(model, frames(*shape))
            step = Continued(self.model, before.states, now.states)
        except ValueError:
            log.info("chunks of %d frames are not alike, and run as they are", shape[2])
            return None
        example = [torch.zeros(x.shape, dtype=x.dtype, device=place) for x in step.taken(now.states, device)]
        fast = kind(step, backend, place, precision)
        return None if fast.prepare(torch.zeros(shape, device=place), *example) is None else (step, fast)

    def __str__(self) -> str:
        reach = self._known_reach()
        every = 1 if self.dense else reach.stride
        summary: dict[str, object] = {
            "receptive field": counted(self.receptive_field, "frame"),
            "delay": counted(self.delay, "frame"),
            "an answer": "every frame" if every == 1 else f"every {every} frames",
        }
        spec, shape = getattr(self.model, "spec", None), (1, *self._measured[1:])
        model, device, dtype = _outline(self.model)
        frames = partial(torch.zeros, device=device, dtype=dtype)
        with torch.no_grad():
            model(frames(*shape[:2], (self.delay // every + 2) * every, *shape[2:]))
        cost = _gflop(model, frames(*shape[:2], every, *shape[2:])) / every
        summary["a frame"] = f"{cost:.3g} GFLOP at {shape[2]}x{shape[3]}"
        if spec is not None:
            window = _gflop(_outline(self._offline[0])[0], frames(*shape[:2], spec.num_frames, *shape[2:]))
            summary["a whole window"] = (
                f"{window:.3g} GFLOP for {spec.num_frames} frames, {window / cost:.3g} times a frame's"
            )
        if self._fast is not None:
            sizes = [counted(shape[2], "frame") for shape, step in self._steps.items() if step]
            summary["as one graph"] = f"chunks of {', '.join(sizes)}" if sizes else "no chunks yet"
        lines = {f"approximate, {i}": line for i, line in enumerate(self.approximations, 1)}
        return str(Table([], {**summary, **lines}))


def _gflop(model: nn.Module, x: Tensor) -> float:
    """Of convolutions and matrix products, two for a multiplication and an addition."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() / 1e9


class _Traced(Tensor):
    """A tensor that knows the frames which its steps see; what is computed of it knows so, too."""

    reach: Reach

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = super().__torch_function__(function, types, args, kwargs or {})
        given = [x.reach for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, _Traced) and hasattr(x, "reach")]
        for each in pytree.tree_leaves(answer):
            if isinstance(each, _Traced) and given:
                each.reach = met(given)
        return answer


@torch.no_grad()
def _trace(model: nn.Module, shape: tuple[int, ...]) -> tuple[dict[str, tuple[Reach, ...]], Reach]:
    """What the inputs of each twin see, and what an output step sees, followed through one frame."""
    outline, device, dtype = _outline(model)
    taken = {}

    def before(name: str, twin: Any, inputs: tuple[_Traced, ...]) -> None:
        taken[name] = tuple(x.reach for x in inputs)
        twin.behind = twin.through(*taken[name])

    def after(twin: Any, inputs: tuple[_Traced, ...], output: Any) -> Tensor:
        output = output.view_as(output)  # a twin may give back what it took, which another branch has as well
        output.reach = twin.behind
        return output

    for name, twin in twins_of(outline).items():
        if hasattr(twin, "through"):
            twin.register_forward_pre_hook(partial(before, name))
            twin.register_forward_hook(after)
    batch, channels, height, width = shape
    zeros = torch.zeros(batch, channels, 1, height, width, device=device, dtype=dtype)
    frame: Any = zeros.as_subclass(_Traced)
    frame.reach = Reach()
    try:
        answer = outline(frame)
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"{_cannot(model)} ({str(error).splitlines()[0]})") from error
    if not isinstance(answer, Tensor):
        raise ValueError(
            f"{type(model).__name__} answers with a {type(answer).__name__}: wrap it in a network that answers with "
            "one tensor of it"
        )
    if not isinstance(answer, _Traced):  # it is not made of the frames
        raise ValueError(_cannot(model))
    return taken, answer.reach


def _outline(model: nn.Module) -> tuple[nn.Module, Any, torch.dtype]:
    """A copy of a stream's network at its start, on the meta device where all of it is of this library."""
    like = next(model.parameters(), torch.empty(0))
    device = "meta" if all(map(_is_known, model.modules())) else like.device
    model = shared_copy(model, lambda tensor: tensor.to(device))
    restart(model)
    return model, device, like.dtype


@torch.no_grad()
def _check(model: nn.Module, shape: tuple[int, ...], delay: int) -> None:
    """Raise ValueError unless chunks (B, C, n, H, W) give what all frames at once give.

    What this library is made of keeps the rules by construction, so only shapes are computed; a network with a class of
    another's is run on noise, since its forward may mix frames where no layer shows it.
    """
    used, device, dtype = _outline(model)
    batch, channels, height, width = shape

    def noise(frames: int) -> Tensor:
        # of another brightness in each frame, so that a mean over all of them differs from that of a few
        brightness = torch.rand(batch, 1, frames, 1, 1, device=device, dtype=dtype)
        return brightness * torch.rand(batch, channels, frames, height, width, device=device, dtype=dtype)

    is_ours = device == "meta"
    delay = max(0, delay)
    frames = noise(delay + 4)
    try:
        outputs = [used(chunk) for chunk in frames.split([delay, 4] if is_ours else [0, *[1] * delay, 1, 1, 1, 1], 2)]
        finish(used)
        outputs.append(used(noise(0)))
        restart(used)
        finish(used)
        chunked, whole = torch.cat(outputs, 2), used(frames)
        is_exact = chunked.shape == whole.shape
        if not is_ours and is_exact:
            fresh = _outline(model)[0]
            finish(fresh)
            right = fresh(frames)
            is_exact = are_alike(chunked, right) and are_alike(whole, right)
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"{_cannot(model)} ({str(error).splitlines()[0]})") from error
    if not is_exact:
        raise ValueError(_cannot(model))


def _cannot(model: nn.Module) -> str:
    """An error that names layers whose code is another's, the outer ones first."""
    others = [(name or "model", type(each).__name__) for name, each in model.named_modules() if not _is_known(each)]
    named = " or ".join([*(f"{name} ({kind})" for name, kind in others[:3]), *(["another"] if others[3:] else [])])
    whose = f"the forward or a hook of layer {named}" if others else "its forward"
    return (
        f"this network cannot be streamed exactly: {whose} merges branches outside a tubelet.blocks.Join, pools over "
        "time outside a layer, keeps something of the frames before, or gives an output without a time axis"
    )


def _fits(state: Any, known: State) -> bool:
    """Whether a twin may have kept this, by what it keeps of such a video: numbers and lengths in time differ."""
    return state == {} or (
        isinstance(state, dict)
        and state.keys() == known.keys()
        and all(isinstance(state[key], type(value)) for key, value in known.items())
        and all(_sizes(state[key]) <= (_sizes(value) or _sizes(state[key])) for key, value in known.items())
    )


def _sizes(value: Any) -> set[tuple[int, ...]]:
    """Of the tensors (B, C, n, ...) that a twin keeps under a name, without n; the sum of no frames has no size."""
    return {(*x.shape[:2], *x.shape[3:]) for x in pytree.tree_leaves(value) if isinstance(x, Tensor) and x.ndim}


def _is_known(module: nn.Module) -> bool:
    """Whether a forward is code of this library, or no code of its own, and no hook is around it."""
    is_plain = type(module) in (nn.Sequential, nn.ModuleList) or not list(module.children())
    return (is_plain or type(module).__module__.startswith("tubelet.")) and not is_altered(module)
