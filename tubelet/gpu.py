"""Fast inference on a GPU: the layout, torch.compile and a CUDA graph, each where it was found faster."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
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
    tensors, given = pytree.tree_flatten(inputs)
    right = model(*inputs)
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
    name, way = choose({name: lambda: way, "compiled": partial(torch.compile, way, dynamic=False)})
    if tensors[0].device.type == "cuda":
        name, way = choose({name: lambda: way, "CUDA graph": partial(_recorded, way, tensors)})
    title = f"{', '.join(str(tuple(x.shape)) for x in tensors)}, {str(dtype).removeprefix('torch.')}"
    return Ready(way, given, _sizes(tensors), tuple(rows), f"{title}, {tensors[0].device}")


def _sizes(tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    return tuple((x.shape, x.dtype, x.device) for x in tensors)


def _placed(model: nn.Module, given: Any, dtype: torch.dtype, layout: torch.memory_format) -> Way:
    """A network in a precision and layout; in float32 and its own layout, that network with the same weights."""
    if dtype != torch.float32 or layout == torch.channels_last_3d:
        model = copy.deepcopy(model).to(dtype).to(memory_format=layout)  # type: ignore[call-overload]

    def run(tensors: Sequence[Tensor]) -> Any:
        # clips alone: places of boxes need their digits
        found = [x.to(dtype, memory_format=layout) if x.ndim == 5 and x.is_floating_point() else x for x in tensors]
        answer = model(*pytree.tree_unflatten(found, given))
        return pytree.tree_map_only(Tensor, lambda x: _plain(x, dtype), answer)

    return run


def _plain(x: Tensor, dtype: torch.dtype) -> Tensor:
    return (x.float() if x.dtype == dtype else x).contiguous()


def _recorded(way: Way, tensors: Sequence[Tensor]) -> Way:
    """A way as one CUDA graph, in memory of its own: inputs are copied in, answers are copied out."""
    device = tensors[0].device
    own = [x.clone() for x in tensors]
    with torch.cuda.device(device):
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                way(own)
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            answer = way(own)

    lock = Lock()

    def run(given: Sequence[Tensor]) -> Any:
        with lock:  # of several threads
            for mine, x in zip(own, given, strict=True):
                mine.copy_(x)
            graph.replay()
            return pytree.tree_map_only(Tensor, torch.clone, answer)

    return run
