"""Backends of `optimize` that others wrote: OpenVINO and ONNX Runtime, int8 by them, and the fastest of what is there.

A backend is a function from a network in evaluation mode and its inputs to a `Plan` for inputs of that size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.metadata import version
from itertools import islice
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from . import runtimes
from .capture import followed, outline
from .fastest import Backend, Plan, away, fastest, shown
from .graph import Graph
from .runtimes import Run, Written
from .terminal import Table, counted, progress
from .weights import digest

log = logging.getLogger("tubelet")

NAMES = ("openvino", "onnxruntime")
DTYPES = {"openvino": (torch.float32, torch.bfloat16), "onnxruntime": (torch.float32,)}
TITLES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
MOST_CLIPS = 300  # to calibrate on


@dataclass(frozen=True)
class Borrowed:
    """A plan that another program runs.

    Attributes:
        graph: what goes in and comes out.
        run: the program's.
        row: what the table shows.
        summary: what stands below it.
    """

    graph: Graph
    run: Run
    row: Mapping[str, object]
    summary: Mapping[str, object] = field(default_factory=dict)

    def fits(self, tensors: Sequence[Tensor], given: Any) -> bool:
        """Whether it is for tensors such as (B, C, T, H, W), which are the leaves of inputs of this structure."""
        return self.graph.fits(tensors, given)

    def __call__(self, tensors: Sequence[Tensor]) -> Any:
        """The answer to the tensors of the inputs, (B, C, T, H, W) say."""
        found = iter(self.run(tensors))
        answers = [
            next(found).to(each.meta["val"].dtype) if isinstance(each, Node) else each for each in self.graph.outputs
        ]
        return pytree.tree_unflatten(answers, self.graph.answer)

    def table(self) -> Table:
        """The one row."""
        shapes = ", ".join(str(tuple(node.meta["val"].shape)) for node in self.graph.inputs)
        return Table([self.row], self.summary, f"{shapes}, {counted(torch.get_num_threads(), 'thread')}")


def borrowed(name: str, dtype: torch.dtype) -> Backend:
    """The backend `openvino` or `onnxruntime`.

    Args:
        name: which.
        dtype: float32, or bfloat16 in OpenVINO.

    Raises:
        ValueError: there is no such backend, or it has no such precision.
        ImportError: a package is missing; the message tells the line that installs it.
    """
    if name not in NAMES:
        raise ValueError(f"unknown backend {name!r}; there are torch, auto, {', '.join(NAMES)}")
    if dtype not in DTYPES[name]:
        raise ValueError(f"backend {name!r} has no {_name(dtype)} on a CPU; there is {', '.join(_having(dtype))}")
    runtimes.need(name)
    return partial(_borrowed, name, dtype)


def _having(dtype: torch.dtype) -> list[str]:
    return [*(name for name in NAMES if dtype in DTYPES[name]), "torch"]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _borrowed(name: str, dtype: torch.dtype, model: nn.Module, inputs: tuple[Any, ...]) -> Borrowed:
    program = followed(model, inputs)
    plan = _running(name, dtype, outline(program, inputs), _onnx(program))
    return _checked(plan, inputs, model(*inputs), dtype)


def _onnx(program: ExportedProgram) -> bytes:
    with runtimes.quietly():
        return runtimes.to_onnx(program).SerializeToString()


def _running(name: str, dtype: torch.dtype, graph: Graph, onnx: bytes) -> Borrowed:
    if name == "openvino":
        return Borrowed(graph, runtimes.openvino_run(runtimes.to_openvino(onnx), dtype), _row(name, dtype))
    return Borrowed(graph, runtimes.onnxruntime_run(onnx), _row(name, dtype))


def _row(name: str, dtype: torch.dtype) -> dict[str, object]:
    return {"backend": f"{TITLES[name]} {version(name)}", "precision": _name(dtype)}


def _checked(plan: Borrowed, inputs: tuple[Any, ...], right: Any, dtype: torch.dtype) -> Borrowed:
    """A plan whose answer was compared with the network's own.

    Raises:
        ValueError: it is something else.
    """
    furthest = away(plan(pytree.tree_leaves(inputs)), right, dtype)
    return replace(plan, row={**plan.row, "furthest from torch": f"{furthest:.1e}"})


# The fastest


@dataclass
class Auto:
    """The backend that is the fastest on the first inputs, among those that answer as the network does.

    Attributes:
        plain: the backend `torch`.
        dtype: float32 or bfloat16.
        taken: the name of the fastest, None before it was measured.
    """

    plain: Backend
    dtype: torch.dtype
    taken: str | None = None

    def __call__(self, model: nn.Module, inputs: tuple[Any, ...]) -> Plan:
        """A plan of the fastest."""
        if self.taken is None:
            return self._measured(model, inputs)
        if self.taken != "torch":
            try:
                return borrowed(self.taken, self.dtype)(model, inputs)
            except Exception as error:  # of any type: it runs somebody else's code
                log.warning("%s is left out at this size: %s", self.taken, runtimes.first_line(error))
        return self.plain(model, inputs)

    def _measured(self, model: nn.Module, inputs: tuple[Any, ...]) -> Plan:
        ways: dict[str, Callable[[], Any]] = {"torch": partial(self.plain, model, inputs)}
        names = [name for name in NAMES if self.dtype in DTYPES[name] and runtimes.installed(name)]
        right, tensors = model(*inputs), pytree.tree_leaves(inputs)
        if names:
            program = followed(model, inputs)
            graph, onnx = outline(program, inputs), cache(partial(_onnx, program))

            def make(name: str) -> Borrowed:
                return _checked(_running(name, self.dtype, graph, onnx()), inputs, right, self.dtype)

            ways |= {name: partial(make, name) for name in names}
        self.taken, plan, times = fastest(ways, tensors, right, self.dtype)
        return Noted(plan, {"taken": self.taken, "measured, ms": shown(times)})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Noted:
    """A plan with more to say in its table.

    Attributes:
        plan: what is run.
        notes: what the table says below.
    """

    plan: Plan
    notes: Mapping[str, object]

    def fits(self, tensors: Sequence[Tensor], given: Any) -> bool:
        """Whether it is for tensors such as (B, C, T, H, W), which are the leaves of inputs of this structure."""
        return self.plan.fits(tensors, given)

    def __call__(self, tensors: Sequence[Tensor]) -> Any:
        """The answer to the tensors of the inputs, (B, C, T, H, W) say."""
        return self.plan(tensors)

    def table(self) -> Table:
        """That of the plan, and the notes."""
        table = self.plan.table()
        return replace(table, summary={**table.summary, **self.notes})


# int8


@dataclass
class Int8:
    """int8 convolutions, calibrated on inputs such as those to come when the first plan is made.

    Attributes:
        name: `openvino` or `onnxruntime`.
        clips: what to calibrate on, each the arguments of the network; none are kept afterwards.
        model: the calibrated one, for another program.
        weights: a hash of the network's weights then.
        sizes: of each input but for the batch.
        agreement: with float32 on the clips.
    """

    name: str
    clips: Sequence[tuple[Any, ...]]
    model: bytes | Written | None = None
    weights: str = ""
    sizes: tuple[torch.Size, ...] = ()
    agreement: Mapping[str, object] = field(default_factory=dict)

    def __call__(self, model: nn.Module, inputs: tuple[Any, ...]) -> Plan:
        """A plan of the calibrated network.

        Raises:
            ValueError: it was calibrated with other weights or at another size.
        """
        if self.model is None:
            self._calibrate(model)
        if self.weights != digest(model):
            raise ValueError("its weights are others than it was calibrated with: optimize it again")
        if self.sizes != _sizes(inputs):
            raise ValueError(f"it was calibrated on inputs of {_by(self.sizes)}, not of {_by(_sizes(inputs))}")
        graph = outline(followed(model, inputs), inputs)
        plan = Borrowed(graph, self._run(), _row(self.name, torch.int8), self.agreement)
        return _checked(plan, inputs, model(*inputs), torch.int8)

    def _run(self) -> Run:
        if isinstance(self.model, Written):
            return runtimes.openvino_run(runtimes.read_openvino(self.model))
        assert self.model is not None
        return runtimes.onnxruntime_run(self.model)

    def _calibrate(self, model: nn.Module) -> None:
        right = [model(*clip) for clip in progress(self.clips, "float32 answers")]
        program = followed(model, pytree.tree_map(_twice, self.clips[0]))
        leaves = [pytree.tree_leaves(clip) for clip in self.clips]
        make = runtimes.openvino_int8 if self.name == "openvino" else runtimes.onnxruntime_int8
        self.model = make(_onnx(program), leaves)
        self.weights, self.sizes = digest(model), _sizes(self.clips[0])
        plan = Borrowed(outline(program, self.clips[0]), self._run(), {})
        self.agreement = agreement([plan(each) for each in progress(leaves, "int8 answers")], right)
        self.clips = ()


def int8(name: str, calibration: Iterable[Any] | None, inputs: tuple[Any, ...]) -> Int8:
    """int8 by OpenVINO and nncf, or by ONNX Runtime.

    Args:
        name: `openvino`, `onnxruntime`, or `auto` for the first of them that is installed.
        calibration: real inputs of the network, each a clip (B, C, T, H, W) or a tuple; the first 300 are taken.
        inputs: the example.

    Raises:
        ValueError: nothing to calibrate on, inputs of another size or type than the example, empty or not finite, or
            another backend.
        ImportError: a package is missing; the message tells the line that installs it.
    """
    if calibration is None:
        raise ValueError("int8 needs calibration=clips: some real inputs of the network, 30 or more, as it takes them")
    if name == "auto":
        name = "onnxruntime" if runtimes.installed("onnxruntime") and not runtimes.installed("nncf") else "openvino"
    if name not in NAMES:
        raise ValueError(f"backend {name!r} has no int8; there are {', '.join(NAMES)}")
    runtimes.need({"openvino": "nncf"}.get(name, name))
    clips = [each if isinstance(each, tuple) else (each,) for each in islice(calibration, MOST_CLIPS)]
    if not clips:
        raise ValueError("calibration has no clips: give some real inputs of the network, 30 or more")
    for i, clip in enumerate(clips):
        if not all(isinstance(each, Tensor) for each in pytree.tree_leaves(clip)) or _sizes(clip) != _sizes(inputs):
            found = _by(_sizes(clip)) or type(clip[0]).__name__
            raise ValueError(f"calibration input {i} is {found}, and the example {_by(_sizes(inputs))} in each clip")
        if _types(clip) != _types(inputs):
            raise ValueError(
                f"calibration input {i} is {_types(clip)}, and the example {_types(inputs)}: give both alike"
            )
        tensors = pytree.tree_leaves(clip)
        if not tensors[0].numel() or not all(each.isfinite().all() for each in tensors):
            raise ValueError(f"calibration input {i} is empty or holds nan or infinity: leave it out")
    return Int8(name, clips)


def agreement(answers: Sequence[Any], right: Sequence[Any]) -> dict[str, object]:
    """How near scores and highest classes are, over clips, of first answers (B, K) or (B, K, T, H, W)."""
    same: list[Tensor] = []
    apart: list[Tensor] = []
    for pair in zip(answers, right, strict=True):
        one, two = (pytree.tree_leaves(each)[0] for each in pair)
        if two.ndim < 2:
            return {}
        is_single = two.shape[1] == 1
        top = [each > 0 if is_single else each.argmax(1) for each in (one, two)]
        scores = [each.sigmoid() if is_single else each.softmax(1) for each in (one, two)]
        same.append((top[0] == top[1]).double().flatten())
        apart.append((scores[0] - scores[1]).abs().double().flatten())
    every = torch.cat(apart)
    return {
        "top-1 as in float32": f"{100 * float(torch.cat(same).mean()):.1f} % on {counted(len(right), 'clip')}",
        "scores differ": f"{float(every.mean()):.1e} in the mean, {float(every.max()):.1e} at most",
    }


def _twice(x: Any) -> Any:
    """A batch of 2 or more, which torch.export can leave free."""
    return torch.cat((x, x)) if x.ndim and len(x) == 1 else x


def _sizes(inputs: tuple[Any, ...]) -> tuple[torch.Size, ...]:
    return tuple(each.shape[1:] for each in pytree.tree_leaves(inputs) if isinstance(each, Tensor))


def _by(sizes: tuple[torch.Size, ...]) -> str:
    return ", ".join("x".join(map(str, size)) or "a number" for size in sizes)


def _types(inputs: tuple[Any, ...]) -> str:
    return ", ".join(_name(each.dtype) for each in pytree.tree_leaves(inputs))
