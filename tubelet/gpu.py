"""Fast inference on a GPU: the layout, torch.compile and a CUDA graph, each where it was found faster."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from types import FunctionType
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from .fastest import fastest, shown
from .terminal import Table

LAYOUTS = {"torch's layout": torch.contiguous_format, "channels last": torch.channels_last_3d}
WARM_UP = 3  # runs before a CUDA graph is recorded, in which kernels are chosen and memory is taken

Way = Callable[[Sequence[Tensor]], Any]  # tensors of the inputs, (B, C, T, H, W) say -> the answer


@dataclass(frozen=True)
class Ready:
    """What is run on a GPU for inputs of one size.

    Attributes:
        way: the fastest that was found.
        given: structure of the inputs.
        sizes: shape, precision and device of each tensor of the inputs.
        rows: what the table shows.
        title: what stands above it.
    """

    way: Way
    given: Any
    sizes: tuple[Any, ...]
    rows: tuple[Mapping[str, object], ...]
    title: str

    def fits(self, tensors: Sequence[Tensor], given: Any) -> bool:
        """Whether it is for tensors such as (B, C, T, H, W), which are the leaves of inputs of this structure."""
        return given == self.given and self.sizes == _sizes(tensors)

    def __call__(self, tensors: Sequence[Tensor]) -> Any:
        """The answer to the tensors of the inputs, (B, C, T, H, W) say."""
        return self.way(tensors)

    def table(self) -> Table:
        """What was measured."""
        return Table(self.rows, {}, self.title)


def ready(dtype: torch.dtype, model: nn.Module, inputs: tuple[Any, ...]) -> Ready:
    """The fastest way to a network's answer, where its weights and inputs are, at equal answers.

    The layout is chosen first, then whether it is compiled, then whether it is a CUDA graph; what fails, such as a
    compiler that is not there, is left out, and the network as it is remains.

    Args:
        dtype: float32 or bfloat16.
        model: in evaluation mode.
        inputs: its arguments, tensors such as (B, C, T, H, W).
    """
    with torch.inference_mode(False), torch.no_grad():  # what is made in inference mode is not written to outside it
        return _ready(dtype, model, inputs)


def _ready(dtype: torch.dtype, model: nn.Module, inputs: tuple[Any, ...]) -> Ready:
    tensors, given = pytree.tree_flatten(inputs)
    tensors = [x.clone() if x.is_inference() else x for x in tensors]
    right = model(*pytree.tree_unflatten(tensors, given))
    placed = {name: partial(_placed, model, given, dtype, layout) for name, layout in LAYOUTS.items()}
    plain = (
        {}
        if dtype == torch.float32
        else {"float32": partial(_placed, model, given, torch.float32, torch.preserve_format)}
    )
    rows = []

    def choose(ways: Mapping[str, Callable[[], Way]]) -> tuple[str, Way]:
        name, way, times = fastest(ways, tensors, right, dtype)
        rows.append({"tried, ms": shown(times), "taken": name})
        return name, way

    name, way = choose({**placed, **plain})
    name, way = choose({name: lambda: way, "compiled": partial(_compiled, way)})
    if tensors[0].device.type == "cuda":
        name, way = choose({name: lambda: way, "CUDA graph": partial(_Recorded, way, tensors)})
    title = f"{', '.join(str(tuple(x.shape)) for x in tensors)}, {str(dtype).removeprefix('torch.')}"
    return Ready(way, given, _sizes(tensors), tuple(rows), f"{title}, {tensors[0].device}")


def _sizes(tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    return tuple((x.shape, x.dtype, x.device) for x in tensors)


def _placed(model: nn.Module, given: Any, dtype: torch.dtype, layout: torch.memory_format) -> Way:
    """A network in a precision and layout; in float32 and its own layout, that network with the same weights."""
    if dtype != torch.float32 or layout == torch.channels_last_3d:
        model = copy.deepcopy(model).to(dtype).to(memory_format=layout)  # type: ignore[call-overload]

    def run(tensors: Sequence[Tensor]) -> Any:
        # clips alone: places of boxes need their digits, and so do sums in float64 that a stream keeps
        found = [x.to(dtype, memory_format=layout) if x.ndim == 5 and x.dtype == torch.float32 else x for x in tensors]
        answer = model(*pytree.tree_unflatten(found, given))
        return pytree.tree_map_only(Tensor, lambda x: _plain(x, dtype), answer)

    return run


def _plain(x: Tensor, dtype: torch.dtype) -> Tensor:
    return (x.float() if x.dtype == dtype else x).contiguous()


def _compiled(way: Way) -> Way:
    """A way through torch.compile, which compiles one code object a few times only: so each way gets its own."""
    assert isinstance(way, FunctionType)
    own = FunctionType(way.__code__.replace(), way.__globals__, closure=way.__closure__)
    return torch.compile(own, dynamic=False)


class _Recorded:
    """A way as one CUDA graph, in memory of its own: inputs are copied in, answers are copied out."""

    def __init__(self, way: Way, tensors: Sequence[Tensor]) -> None:
        self.way = way  # which holds the weights that the graph reads
        self.device = tensors[0].device
        self.own = [x.clone() for x in tensors]
        with torch.cuda.device(self.device):
            stream = torch.cuda.Stream(self.device)
            stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    way(self.own)
            torch.cuda.current_stream(self.device).wait_stream(stream)
            self.graph = torch.cuda.CUDAGraph()
            # other threads may take memory meanwhile, as those that pin clips do
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.answer = way(self.own)
        self.lock, self.done = Lock(), torch.cuda.Event()
        # its memory goes to others only when no stream works in it
        weakref.finalize(self, self.done.synchronize)

    def __call__(self, given: Sequence[Tensor]) -> Any:
        # of several threads, each perhaps with a stream and a device of its own
        with self.lock, torch.cuda.device(self.device):
            torch.cuda.current_stream().wait_event(self.done)
            for mine, x in zip(self.own, given, strict=True):
                mine.copy_(x)
            self.graph.replay()
            found = pytree.tree_map_only(Tensor, torch.clone, self.answer)
            self.done.record()
            return found
