"""Fast inference: a network followed once, its convolutions on the fastest way that this machine has.

`optimize` gives a module with the same answers. Batch norm is folded into convolutions, which take the activation and
the sum with a shortcut along; all of it is in channels-last layout through oneDNN, or through the kernels of
`tubelet.kernels` where a short measurement found them faster. `tubelet.backends` has programs of others for the same,
`tubelet.gpu` what is done on a GPU.
"""

from __future__ import annotations

import copy
import ctypes
import inspect
import logging
import math
import operator
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_arg
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.utils.weak import WeakIdKeyDictionary

from . import backends, gpu, kernels, ways
from .capture import capture
from .copies import are_alike, check_stays, is_altered, shared_copy
from .fastest import Backend, Plan
from .graph import IN_PLACE, Convolution, Graph, Pool, Step
from .heads import Detect
from .kernels import arena
from .runtimes import ALONE
from .step import Continued
from .terminal import Table, counted

log = logging.getLogger("tubelet")

PLANS = 4  # shapes of inputs that a module is prepared for at once, the ones used last
DTYPES = (torch.float32, torch.bfloat16, torch.int8)
CPU = torch.device("cpu")


def optimize(
    model: nn.Module,
    example: Any,
    *,
    dtype: torch.dtype = torch.float32,
    backend: str | None = None,
    calibration: Iterable[Any] | None = None,
    seconds: float = 20.0,
) -> Optimized:
    """The same network, fast for inference.

    The network is followed by `torch.export`, and its convolutions are timed once on this machine, which is kept in the
    cache folder. Inputs of another size than the example's are prepared for when they first come, in some seconds, and
    the last 4 sizes are kept; on a CPU the number of clips is free from 2 up. A network that torch.export cannot follow
    runs as it is, which the log says.

    The weights are shared with the network, which does not change; when they are written to, the module follows, or in
    int8, which needs its calibration again, runs as the network does. torch tells nobody of what is written through
    `.data`, through numpy or in inference mode: optimize anew after that.

    With weights or an example on a CUDA device it runs there, by what `tubelet.gpu` measures; each number of clips or
    boxes is a size of its own there.

    Args:
        model: any nn.Module; it answers as in evaluation mode, also when it is in training.
        example: what it takes, a clip (B, C, T, H, W) of the sizes to come; a tuple is several arguments.
        dtype: float32 for the same answers (within about 1e-5), bfloat16 for answers of two to three digits, faster on
            processors that have it, or int8 by a backend of others. Inputs and answers are float32.
        backend: "torch", which is this library's own; "openvino" or "onnxruntime"; or "auto" for the fastest of those
            that are installed, measured on the example. None is torch, and auto for int8.
        calibration: for int8 some real inputs of the network, as it takes them and of the example's size.
        seconds: to spend on timing at most, more or less. The costly layers come first; the rest take oneDNN.

    Returns:
        A module for inference; `print` shows what was done. `copy.deepcopy` and `pickle` work.

    Raises:
        ValueError: the model is no network, backend, dtype or seconds is none of these, int8 has nothing to calibrate
            on, or the example holds something else than tensors.
        ImportError: a package of the backend is missing; the message tells the line that installs it.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model {model!r} must be a network: `tubelet.load(path)` reads one from a file")
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype} must be torch.float32, torch.bfloat16 or torch.int8")
    if calibration is not None and dtype != torch.int8:
        raise ValueError(f"calibration is for dtype=torch.int8, not for {dtype}")
    if not seconds >= 0:
        raise ValueError(f"seconds {seconds} must be at least 0")
    inputs = example if isinstance(example, tuple) else (example,)
    if not inputs or not all(isinstance(each, Tensor) for each in pytree.tree_leaves(inputs)):
        raise ValueError("example must be a clip (B, C, T, H, W) as a tensor, or a tuple of what the network takes")
    if isinstance(model, Optimized):
        model = model.model
    places = [x.device for x in (*model.parameters(), *pytree.tree_leaves(inputs))]
    device = next((each for each in places if each.type == "cuda"), CPU)
    if device != CPU:
        if dtype == torch.int8 or backend not in (None, "torch", "auto"):
            raise ValueError(f"backend {backend or 'auto'!r} in {dtype} is for a CPU, and this is on {device}")
        if any(x.device != device for x in model.parameters()):
            model = copy.deepcopy(model).to(device)
        inputs = pytree.tree_map(lambda x: x.to(device), inputs)
        made: Backend = partial(gpu.ready, dtype)
    elif dtype == torch.int8:
        made = backends.int8(backend or "auto", calibration, inputs)
    elif backend in (None, "torch"):
        made = partial(_planned, dtype, seconds)
    elif backend == "auto":
        made = backends.Auto(partial(_planned, dtype, seconds), dtype)
    else:
        made = backends.borrowed(backend, dtype)
    precision = str(dtype).removeprefix("torch.")
    if isinstance(made, backends.Int8):
        precision += f" by {made.name}"
    _watch_fused()
    optimized = Optimized(model, made, device, precision)
    optimized.prepare(*inputs)
    return optimized


class Optimized(nn.Module):
    """What `optimize` makes of a network. Attributes that it lacks, such as `spec`, are those of the network.

    Args:
        model: the network.
        backend: what makes a plan of it for inputs of a size.
        device: where it runs.
        precision: of its convolutions, as notes beside its answers tell it.
    """

    def __init__(self, model: nn.Module, backend: Backend, device: torch.device, precision: str) -> None:
        super().__init__()
        self.model = shared_copy(model).eval()
        self.backend = backend
        self.device = device
        self._precision = precision
        self.training = False
        self._plans: list[Plan] = []
        self._marked = [*self.model.parameters(), *self.model.buffers()]
        self._weights = _weights_of(self.model)
        self._stamp: list[tuple[int, int]] | None = [_mark(x) for x in self._marked]
        self._refused: set[Any] = set()
        self._seen: list[tuple[weakref.ref[Tensor], Any]] = []

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the network takes, (B, C, T, H, W) -> what it answers, without gradients."""
        if _is_followed((inputs, named)):
            return self.model(*inputs, **named)  # of which a graph is made, maybe as a part of another network
        if named:
            bound = inspect.signature(self.model.forward).bind(*inputs, **named)
            inputs, named = bound.args, bound.kwargs
        plan = None if named else self.prepare(*inputs)  # a plan takes nothing by name
        tensors = [x for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)]
        if self.device == CPU and not self._are_numbers(tensors):
            plan = None  # oneDNN's ReLU makes 0 of what is no number, and hides it
        if plan is not None and len(inputs) == 2 and isinstance(head := getattr(self.model, "head", None), Detect):
            clips, boxes = inputs
            head.check(boxes, len(pytree.tree_leaves(clips)[0]))  # a graph has no way to refuse
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            if plan is not None:
                with suppress(_NoNumberError):
                    return plan(tensors)
            return self.model(*inputs, **named)

    def _are_numbers(self, tensors: list[Tensor]) -> bool:
        """Whether all are finite. What a stream keeps is looked at once, since most of it it takes again and again."""
        if not isinstance(self.model, Continued):
            return _are_finite(tensors)
        frames, *kept = tensors
        marks = [(id(x), _mark(x)) for x in kept]
        seen = {mark for known, mark in self._seen if known() is not None}
        is_finite = _are_finite([frames, *(x for x, mark in zip(kept, marks, strict=True) if mark not in seen)])
        self._seen = [(weakref.ref(x), mark) for x, mark in zip(kept, marks, strict=True)] if is_finite else []
        return is_finite

    def prepare(self, *inputs: Any) -> Plan | None:
        """Be ready for inputs of these shapes, (B, C, T, H, W); forward does so by itself.

        Returns:
            What will be run, None for the network as it is.
        """
        tensors, given = pytree.tree_flatten(inputs)
        if not all(isinstance(x, Tensor) and x.device == self.device for x in tensors):
            return None
        if not all(x.numel() for x in tensors[:1]):  # no clips: there is nothing to time
            return None
        plan = self._found(tensors, given)
        if plan is None:
            shapes = (str(given), tuple((x.shape, x.dtype) for x in tensors))
            with ALONE:
                plan = self._found(tensors, given)  # by now, in another thread
                if plan is None and shapes not in self._refused:
                    plan = self._made(inputs, shapes)
        return plan

    def _found(self, tensors: list[Tensor], given: Any) -> Plan | None:
        """The plan that there is for such inputs; weights that were written to want new ones."""
        if self._has_changed():
            with ALONE:
                if self._has_changed():  # by now another thread may have seen to it
                    self._marked = [*self.model.parameters(), *self.model.buffers()]
                    self._weights = _weights_of(self.model)
                    self._plans, self._refused, self._stamp = [], set(), [_mark(x) for x in self._marked]
        plans = self._plans
        plan = next((plan for plan in plans if plan.fits(tensors, given)), None)
        if plan is not None and plan is not plans[0] and ALONE.acquire(blocking=False):  # the order can wait
            try:
                if self._plans is plans:
                    self._plans = [plan, *(each for each in plans if each is not plan)]
            finally:
                ALONE.release()
        return plan

    def _has_changed(self) -> bool:
        is_there = all(place.get(name) is x for place, name, x in self._weights)
        return not is_there or self._stamp != [_mark(x) for x in self._marked]

    def _made(self, inputs: tuple[Any, ...], shapes: Any) -> Plan | None:
        try:
            self._check()
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                self._try(inputs)
                plan = self.backend(self.model, inputs)
        except Exception as error:  # of any type: torch.export runs the network's own code
            self._refused.add(shapes)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            log.warning("%s runs as it is: %s", type(self.model).__name__, reason)
            return None
        self._plans = [plan, *self._plans[: PLANS - 1]]
        return plan

    def _check(self) -> None:
        numbers = [x for x in self.model.parameters() if x.is_floating_point() or x.is_complex()]
        other = {str(x.dtype) for x in numbers if x.dtype != torch.float32}
        if other:
            raise ValueError(f"its weights are {', '.join(sorted(other))} and not float32")
        if any(x.device != self.device for x in self._marked):
            raise ValueError(f"its weights are not on the {self.device.type.upper()}")
        # what is masked is -inf in a buffer, rightly
        if not _are_finite(self.model.parameters()) or any(x.sum().isnan() for x in self.model.buffers()):
            raise ValueError("its weights are not finite")

    def _try(self, inputs: tuple[Any, ...]) -> None:
        """Raise ValueError where a call has a part in the answer of the next, which no plan repeats.

        Code of others is run for it, in copies with tensors of their own, after which all random numbers are as before.
        """
        if all(map(_keeps_nothing, self.model.modules())):
            return
        fresh, used = (shared_copy(self.model, torch.clone) for _ in range(2))
        self._answers(used, inputs, _other)
        right, again = (self._answers(each, inputs, torch.clone) for each in (fresh, used))
        if len(right) != len(again) or not all(map(_is_same, right, again)):
            raise ValueError("it keeps something from call to call")

    def _answers(self, model: nn.Module, inputs: tuple[Any, ...], change: Callable[[Tensor], Tensor]) -> list[Any]:
        with torch.random.fork_rng([self.device] if self.device != CPU else []):
            return pytree.tree_leaves(model(*pytree.tree_map(change, inputs)))

    def train(self, mode: bool = True) -> Optimized:
        """Only evaluation.

        Raises:
            ValueError: mode is true.
        """
        if mode:
            raise ValueError("an optimized network does not train: train the network itself and optimize it again")
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Optimized:
        check_stays("an optimized network", self.model, fn)
        return super()._apply(fn, recurse)

    def __setattr__(self, name: str, value: Any) -> None:
        """What the network has is set there: `fast.head = ...` changes the task."""
        if name in ("model", "backend", "device", "training") or name.startswith("_"):
            super().__setattr__(name, value)
            return
        setattr(self.model, name, shared_copy(value).eval() if isinstance(value, nn.Module) else value)
        if name != "spec":  # which is not run
            self._stamp = None

    def load_state_dict(self, *args: Any, **named: Any) -> Any:
        """That of nn.Module; also with `assign=True` the new weights are those that are run."""
        try:
            return super().load_state_dict(*args, **named)
        finally:
            self._stamp = None

    @property
    def _saved_as(self) -> nn.Module:
        """The network as it is, which `tubelet.save` writes."""
        return self.model

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
            return getattr(self.model, name)

    def __copy__(self) -> Optimized:
        return Optimized(self.model, self.backend, self.device, self._precision)

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_plans": [],
            "_marked": [],
            "_weights": [],
            "_stamp": None,
            "_refused": set(),
            "_seen": [],
        }

    def __str__(self) -> str:
        if not self._plans:
            return f"{type(self.model).__name__}, as it is"
        return "\n\n".join(str(plan.table()) for plan in self._plans)


def _planned(dtype: torch.dtype, seconds: float, model: nn.Module, inputs: tuple[Any, ...]) -> _Plan:
    """The backend `torch`."""
    if not torch.backends.mkldnn.is_available():
        raise ValueError("this torch has no oneDNN")
    if not kernels.available():
        _say_once(kernels.why())
    plan = _Plan(capture(model, inputs), dtype, seconds, isinstance(model, Continued))
    if dtype != torch.float32:
        plan(pytree.tree_leaves(inputs))  # what torch cannot do in it is an error now, and not in a later call
    with suppress(
        AttributeError, OSError, TypeError
    ):  # what the making took goes back to the system, where the C library can
        ctypes.CDLL(None).malloc_trim(0)
    return plan


@cache
def _say_once(reason: str) -> None:
    log.warning("all convolutions go through oneDNN: %s", reason)


class _Plan:
    """A captured network with a way for each of its convolutions and maxima; of a stream, a chunk of it."""

    def __init__(self, captured: Graph, dtype: torch.dtype, seconds: float, is_stream: bool) -> None:
        self.is_stream = is_stream
        self.graph = replace(captured, steps=())  # the steps hold the plain weights, which the calls have in their form
        self.fits = self.graph.fits
        self.dtype = dtype
        works = [step.work for step in captured.steps if isinstance(step.work, Convolution | Pool)]
        weakref.finalize(self, arena.trim)
        with arena.kept():  # as it will run
            choices = ways.choose(works, dtype, seconds)
        arena.trim()
        self.rows: Counter[tuple[str, ways.Choice]] = Counter()
        self.calls: list[tuple[Node, Callable[[dict[Node, Any]], Any], tuple[Node, ...]]] = []
        for step in captured.steps:
            if isinstance(step.work, Convolution | Pool):
                choice = choices[ways.key(step.work, dtype)]
                self.rows[ways.kind(step.work), choice] += 1
                call = _placed(step, ways.known(step.work, dtype)[choice.way]())
            else:
                call = _called(step, dtype)
            self.calls.append((step.node, call, step.frees))
        self.constants = {node: _cast(value, dtype) for node, value in captured.constants.items()}
        self.held = {_memory(x) for x in self.constants.values() if isinstance(x, Tensor)}
        self.others = Counter(step.node.name.rstrip("0123456789_") for step in captured.steps if callable(step.work))

    def __call__(self, tensors: Sequence[Tensor]) -> Any:
        with arena.kept():
            answers = self._answers(tensors)
        return pytree.tree_unflatten(answers, self.graph.answer)

    def _answers(self, tensors: Sequence[Tensor]) -> list[Any]:
        values = dict(self.constants)
        values.update((node, _cast(x, self.dtype)) for node, x in zip(self.graph.inputs, tensors, strict=True))
        for node, call, frees in self.calls:
            values[node] = call(values)
            for each in frees:
                del values[each]
        held = self.held | {_memory(x) for x in tensors}
        answers = []
        for each in self.graph.outputs:
            value = values[each] if isinstance(each, Node) else each
            if isinstance(value, Tensor):
                value = value.to(each.meta["val"].dtype).contiguous()
                value = value.clone() if _memory(value) in held else value  # the caller may write to either
                held.add(_memory(value))
            answers.append(value)
            if self.is_stream and len(answers) == 1:  # what is kept goes from call to call, and stays where it is
                held = self.held | {_memory(tensors[0]), _memory(answers[0])}
        return answers

    def table(self) -> Table:
        """What was done: a row for each kind of step and way."""
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        sums = [0.0, 0.0]
        for (kind, choice), times in self.rows.items():
            row = rows.setdefault((kind, choice.way), {"step": kind, "way": choice.way, "times": 0})
            row["times"] += times
            for i, (name, ms) in enumerate((("torch ms", choice.torch_ms), ("ms", choice.ms))):
                row.setdefault(name, 0.0)
                row[name] += times * (ms or 0.0)
                sums[i] += times * (ms or 0.0)
        for row in rows.values():
            row |= {name: round(row[name], 2) or "" for name in ("torch ms", "ms")}
        ordered = sorted(rows.values(), key=lambda row: -(row["torch ms"] or 0))
        shapes = ", ".join(str(tuple(node.meta["val"].shape)) for node in self.graph.inputs)
        left = ", ".join(f"{name} {times}" for name, times in self.others.most_common())
        return Table(
            ordered,
            {"timed, torch ms": sums[0], "timed, ms": sums[1], "left to torch": left or "nothing"},
            f"{shapes}, {str(self.dtype).removeprefix('torch.')}, {counted(torch.get_num_threads(), 'thread')}",
        )


def _memory(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _weights_of(model: nn.Module) -> list[tuple[dict[str, Any], str, Tensor]]:
    """Each weight with the dictionary of its layer and its name there, where another may take its place.

    Buffers are none of these: networks that run as they are put new ones there in each call. TorchScript has none of
    these dictionaries, and runs as it is.
    """
    places = [each._parameters for each in model.modules() if not isinstance(each, torch.jit.ScriptModule)]
    return [(place, name, x) for place in places for name, x in place.items() if x is not None]


def _mark(x: Tensor) -> tuple[int, int]:
    """What changes when a weight is written to or replaced."""
    fused = _FUSED.get(x, 0) if _FUSED else 0
    return x.data_ptr(), 0 if x.is_inference() else x._version + fused


# Steps that fused optimizers made of a weight: torch does not count these as writing to it.
_FUSED: WeakIdKeyDictionary = WeakIdKeyDictionary()


@cache
def _watch_fused() -> None:
    register_optimizer_step_post_hook(_count_fused)


def _count_fused(optimizer: Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for x in group["params"] if group.get("fused") else ():
            _FUSED[x] = _FUSED.get(x, 0) + 1


def _is_followed(given: Any) -> bool:
    """Whether torch.compile, torch.jit.trace or torch.export follows this call, and not one of another thread."""
    if torch.compiler.is_dynamo_compiling() or torch.jit.is_tracing():
        return True
    return torch.compiler.is_compiling() and any(map(_is_fake, pytree.tree_leaves(given)))


def _is_fake(x: Any) -> bool:
    """Whether this thread, and no other, is the one that exports."""
    return isinstance(x, Tensor) and type(x) not in (Tensor, nn.Parameter)


def _keeps_nothing(module: nn.Module) -> bool:
    """Whether its code is torch's or of this library, where nothing is kept but in buffers, which torch.export sees."""
    return type(module).__module__.startswith(("torch.nn.", "tubelet.")) and not is_altered(module)


def _other(x: Tensor) -> Tensor:
    """Another clip (B, C, T, H, W) of this size; what is none, such as boxes, as it is."""
    return torch.rand_like(x) if x.ndim == 5 and x.is_floating_point() else x.clone()


def _is_same(one: Any, two: Any) -> bool:
    return are_alike(one, two) if isinstance(one, Tensor) and isinstance(two, Tensor) else one == two


def _are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether sums are, which is quick; very large values may be taken for infinite ones."""
    return all(math.isfinite(x.detach().sum()) for x in tensors if x.is_floating_point())


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """float32 to the precision of a plan; other types, such as of indices, stay."""
    return value.to(dtype) if isinstance(value, Tensor) and value.dtype == torch.float32 else value


class _NoNumberError(Exception):
    """A plan met what oneDNN's ReLU would make 0 of, and hide."""


# What makes something that is no number, or infinite, of numbers.
_UNSURE = {
    *("div", "floor_divide", "fmod", "remainder", "reciprocal", "addcdiv"),
    *("log", "log2", "log10", "log1p", "logit", "logsumexp", "xlogy", "sqrt", "rsqrt", "pow", "float_power"),
    *("exp", "exp2", "expm1", "sinh", "cosh", "tan", "asin", "acos", "acosh", "atanh", "erfinv", "lgamma", "digamma"),
    *("softmax", "_softmax", "_safe_softmax", "log_softmax", "_log_softmax", "scaled_dot_product_attention"),
    *("std", "var", "std_mean", "var_mean", "nanmean"),
}


def _placed(step: Step, way: ways.Way) -> Callable[[dict[Node, Any]], Tensor]:
    if isinstance(step.work, Pool):
        (x,) = step.args
        return lambda values: way(values[x], None, False)
    x, other = step.args
    if other is None:
        return lambda values: way(values[x], None, False)
    return lambda values: way(values[x], values[other], step.is_last_use)


def _called(step: Step, dtype: torch.dtype) -> Callable[[dict[Node, Any]], Any]:
    function: Callable[..., Any] = IN_PLACE[step.work] if step.is_last_use else step.work  # type: ignore
    args, kwargs = step.args, step.kwargs
    if dtype != torch.float32:
        function = _also_single(function, dtype)
        args, kwargs = pytree.tree_map(lambda each: dtype if each is torch.float32 else each, (args, dict(kwargs)))

    if getattr(step.work, "_opname", "") in _UNSURE:
        function = _checked(function)

    positional, named = [_reader(each) for each in args], {name: _reader(each) for name, each in kwargs.items()}

    def call(values: dict[Node, Any]) -> Any:
        return function(*[read(values) for read in positional], **{name: read(values) for name, read in named.items()})

    def call_flat(values: dict[Node, Any]) -> Any:
        return function(*[values[each] if type(each) is Node else each for each in args], **kwargs)

    inner: list[Node] = []
    map_arg(([each for each in args if not isinstance(each, Node)], kwargs), inner.append)
    return call if inner else call_flat


def _reader(argument: Any) -> Callable[[dict[Node, Any]], Any]:
    """What finds an argument of a step, maybe a list of nodes and of others, among the values that there are."""
    if isinstance(argument, Node):
        return operator.itemgetter(argument)
    if isinstance(argument, list | tuple):
        readers = [_reader(each) for each in argument]
        return lambda values: [read(values) for read in readers]
    return lambda values: map_arg(argument, values.__getitem__)


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        answer = function(*args, **kwargs)
        if not _are_finite(each for each in pytree.tree_leaves(answer) if isinstance(each, Tensor)):
            raise _NoNumberError
        return answer

    return call


def _also_single(function: Callable[..., Any], dtype: torch.dtype) -> Callable[..., Any]:
    """A function in a lower precision, or in float32 where torch has none for it.

    What it makes in float32 of other types, such as shares of whole numbers, goes on in the lower one.
    """
    has_kernel = True

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal has_kernel
        if has_kernel:
            with suppress(RuntimeError):  # of several words: no kernel, no such type
                return pytree.tree_map(lambda each: _cast(each, dtype), function(*args, **kwargs))
            has_kernel = False
        single = lambda each: each.float() if isinstance(each, Tensor) and each.dtype == dtype else each  # noqa: E731
        args, kwargs = pytree.tree_map(single, (args, kwargs))
        return pytree.tree_map(lambda each: _cast(each, dtype), function(*args, **kwargs))

    return call
