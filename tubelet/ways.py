"""Ways to a convolution or a pool of a captured network, and the choice between them by a short measurement.

What was timed is kept in the cache folder, in a file for this processor, this torch and these kernels.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import kernels, machine, speed
from .graph import Activation, Convolution, Pool
from .kernels import arena
from .speed import LAST
from .terminal import counted

log = logging.getLogger("tubelet")

MEGABYTES = 8  # of weights, that a millisecond saved is worth

Way = Callable[[Tensor, Tensor | None, bool], Tensor]


@dataclass(frozen=True)
class Choice:
    """The way chosen for a kind of step, and the milliseconds of torch's own convolution and of the way, if timed."""

    way: str
    torch_ms: float | None = None
    ms: float | None = None


def kind(work: Convolution | Pool) -> str:
    """What it is, in some words."""
    if isinstance(work, Pool):
        return f"{'mean' if work.is_mean else 'maximum'} {speed.written(work.kernel_size)}"
    layer = work.layer
    depthwise = layer.groups > 1 and layer.groups == layer.in_channels
    parts = ["depthwise " if depthwise else "", f"convolution {speed.written(layer.kernel_size)}"]
    parts += [f", stride {speed.written(layer.stride)}"] if layer.stride != (1, 1, 1) else []
    return "".join(parts)


# Ways. Each is made for one convolution or maximum: it prepares what can be prepared, and gives a function of x
# (B, C, T, H, W), of what is added to its output (B, O, T', H', W') and of whether that may be overwritten.


def known(work: Convolution | Pool, dtype: torch.dtype) -> dict[str, Callable[[], Way]]:
    """By name, the usually fastest first."""
    if isinstance(work, Pool):
        return {"slices": partial(_slices, work), "torch": partial(_torch_pool, work)}
    layer, activation = work.layer, work.activation
    fused = partial(_onednn, work, dtype)
    found: dict[str, Callable[[], Way]] = {"oneDNN": fused if _has_fused() else partial(_public, work, dtype)}
    is_relu = activation is None or activation.name == "relu"
    is_pointwise = layer.groups == 1 and layer.kernel_size == (1, 1, 1) and layer.padding == (0, 0, 0)
    if is_pointwise and layer.size == layer.output_size:
        if _has_fused() and layer.size != (1, 1, 1):
            found["product"] = partial(_product, work, dtype)
        if dtype == torch.float32 or layer.size == (1, 1, 1):
            found["BLAS"] = partial(_blas, work, dtype)
    sizes = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
    supported = kernels.supports(*sizes, layer.in_channels, layer.out_channels)
    if supported and is_relu and kernels.available():
        found["Winograd"] = partial(_winograd, work)
    return found


@cache
def _has_fused() -> bool:
    """Whether torch has its private operators for a convolution or a product with all that follows it."""
    names = ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight",
             "_linear_pointwise", "_reorder_linear_weight")  # fmt: skip
    return all(hasattr(torch.ops.mkldnn, name) for name in names)


def _folded(work: Convolution, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    weight, bias = work.folded()
    return weight.to(dtype).contiguous(memory_format=LAST), None if bias is None else bias.to(dtype)


def _onednn(work: Convolution, dtype: torch.dtype) -> Way:
    layer, ops = work.layer, torch.ops.mkldnn
    rest = (list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups)
    weight, bias = _folded(work, dtype)
    size = [work.batch, layer.in_channels, *layer.size]
    weight = ops._reorder_convolution_weight(weight, *rest, size)
    activation = work.activation
    after = _after(activation)
    added: tuple[Any, ...] = ("add", 1.0, None if activation is None else activation.name, [], None)

    def run(x: Tensor, other: Tensor | None, is_free: bool) -> Tensor:
        x = speed.channels_last(x)
        if other is None:
            return ops._convolution_pointwise.default(x, weight, bias, *rest, *after)
        if is_free and other.is_contiguous(memory_format=LAST):
            return ops._convolution_pointwise_.binary(other, x, weight, bias, *rest, *added)
        return ops._convolution_pointwise.binary(x, speed.channels_last(other), weight, bias, *rest, *added)

    return run


def _after(activation: Activation | None) -> tuple[str, list[float], str | None]:
    """An activation as oneDNN's operators take it."""
    return ("none", [], None) if activation is None else (activation.name, list(activation.scalars), activation.variant)


def _public(work: Convolution, dtype: torch.dtype) -> Way:
    """The same sums by torch's public operators, one after the other."""
    layer = work.layer
    weight, bias = _folded(work, dtype)
    rest = (layer.padding, layer.stride, layer.dilation, layer.groups)

    def run(x: Tensor, other: Tensor | None, is_free: bool) -> Tensor:
        return _ended(work, torch.mkldnn_convolution(speed.channels_last(x), weight, bias, *rest), other)

    return run


def _product(work: Convolution, dtype: torch.dtype) -> Way:
    """Of each place by itself, as a product of matrices."""
    weight, bias = _folded(work, dtype)
    activation, ops = work.activation, torch.ops.mkldnn
    packed = ops._reorder_linear_weight(weight.flatten(1), work.batch * math.prod(work.layer.size))
    after = _after(activation)

    def run(x: Tensor, other: Tensor | None, is_free: bool) -> Tensor:
        if other is None:
            return _places(ops._linear_pointwise.default(_rows(x), packed, bias, *after), x)
        y = ops._linear_pointwise.binary(_rows(x), _rows(other), packed, bias, "add")
        return _places(y if activation is None else y.relu_(), x)  # no other follows a sum

    return run


def _blas(work: Convolution, dtype: torch.dtype) -> Way:
    """As `_product`, by what torch's own products call: oneDNN takes longer to begin than a few places to end."""
    weight, bias = _folded(work, dtype)
    weight = weight.flatten(1)

    def run(x: Tensor, other: Tensor | None, is_free: bool) -> Tensor:
        return _ended(work, _places(F.linear(_rows(x), weight, bias), x), other)

    return run


def _rows(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> a row of C for each place, (B T H W, C)."""
    return speed.channels_last(x).movedim(1, -1).flatten(0, -2)


def _places(rows: Tensor, like: Tensor) -> Tensor:
    """A row for each place of a tensor -> (B, O, T, H, W)."""
    return rows.view(like.shape[0], *like.shape[2:], -1).movedim(-1, 1)


def _ended(work: Convolution, y: Tensor, other: Tensor | None) -> Tensor:
    y = y if other is None else y.add_(other)
    return y if work.activation is None else work.activation.plain(y)


def _winograd(work: Convolution) -> Way:
    """In float32 inside, which is worth it in bfloat16 too where the products are many."""
    weight, bias = work.folded()
    packed = kernels.pack(weight, work.layer.stride, work.layer.padding, work.layer.dilation)
    is_relu = work.activation is not None

    def run(x: Tensor, other: Tensor | None, is_free: bool) -> Tensor:
        out = other if is_free and other is not None and other.is_contiguous(memory_format=LAST) else None
        return kernels.run(x, packed, bias, other, is_relu, out=out)

    return run


def _torch_pool(work: Pool) -> Way:
    sizes = (work.kernel_size, work.stride, work.padding)
    if work.is_mean:
        # torch has none for bfloat16
        return lambda x, other, is_free: F.avg_pool3d(x.float(), *sizes).to(x.dtype)
    return lambda x, other, is_free: F.max_pool3d(x, *sizes, work.dilation, work.is_ceil)


def _slices(work: Pool) -> Way:
    """One axis after the other, of slices: torch's own take all at once, and its maximum keeps places, too."""
    reach = zip(work.size[2:], work.kernel_size, work.stride, work.padding, strict=True)
    shrinks = [(n + 2 * p - k + s) / (n * s) for n, k, s, p in reach]
    axes = sorted(range(3), key=lambda axis: (shrinks[axis], -axis))  # what makes it smallest first

    def run(x: Tensor, other: Tensor | None, is_free: bool) -> Tensor:
        given = x
        if work.is_mean:
            x = x.float()  # sums in bfloat16 would lose a digit
        for axis in axes:
            k, s, p, d = (each[axis] for each in (work.kernel_size, work.stride, work.padding, work.dilation))
            if (k, s, p) != (1, 1, 0):
                x = pooled(x, axis + 2, k, s, p, d, work.is_ceil, work.is_mean)
        x = x.clone() if x is given else x  # what follows may write to it
        return x.div_(math.prod(work.kernel_size)).to(given.dtype) if work.is_mean else x

    return run


def pooled(
    x: Tensor,
    axis: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int = 1,
    is_ceil: bool = False,
    is_sum: bool = False,
) -> Tensor:
    """Maximum or sum of (B, C, T, H, W) over windows along one axis, sizes as in `F.max_pool3d`."""
    n = x.shape[axis]
    over = n + 2 * padding - dilation * (kernel - 1) - 1
    outputs = (-(-over // stride) if is_ceil else over // stride) + 1
    outputs -= is_ceil and (outputs - 1) * stride >= n + padding
    if is_sum and outputs == 1 and kernel >= n + padding:
        # of a view whose memory is in order: of the other, torch's sum takes forty times as long
        return x.permute(0, 2, 3, 4, 1).sum(axis - 1, keepdim=True).permute(0, 4, 1, 2, 3)
    spans = []
    for tap in range(kernel):
        shift = tap * dilation - padding
        first, end = max(0, -(shift // stride)), min(outputs, (n - 1 - shift) // stride + 1)
        if first < end:
            start = first * stride + shift
            spans.append((first, end, slice(start, start + (end - first - 1) * stride + 1, stride)))
    spans.sort(key=lambda span: span[0] - span[1])  # the longest first
    combine, nothing = (torch.add, 0.0) if is_sum else (torch.maximum, float("-inf"))
    before = (slice(None),) * axis
    y = torch.empty((*x.shape[:axis], outputs, *x.shape[axis + 1 :]), dtype=x.dtype, memory_format=LAST)
    first, end, taken = spans[0]
    if end - first < outputs:
        y.fill_(nothing)
    if len(spans) > 1 and spans[1][:2] == (first, end):
        combine(x[*before, taken], x[*before, spans[1][2]], out=y[*before, first:end])
        spans = spans[2:]
    else:
        y[*before, first:end] = x[*before, taken]
        spans = spans[1:]
    for first, end, taken in spans:
        part = y[*before, first:end]
        combine(part, x[*before, taken], out=part)
    return y


# Choice


def choose(works: Sequence[Convolution | Pool], dtype: torch.dtype, seconds: float) -> dict[str, Choice]:
    """A way for each kind of step, by the file of this machine, or timed, the costly ones first, and written there."""
    kept = _kept()
    wanted = {key(work, dtype): work for work in works}
    choices = {name: kept[name] for name in wanted if name in kept}
    missing = {name: work for name, work in wanted.items() if name not in kept}
    deadline = time.perf_counter() + seconds
    timed = {}
    for name, work in sorted(missing.items(), key=lambda item: -_cost(item[1])):
        made = known(work, dtype)
        if time.perf_counter() > deadline:
            choices[name] = Choice(next(iter(made)))
        else:
            choices[name] = timed[name] = _timed(work, made, dtype)
    if timed:
        _keep(timed)
    return choices


def key(work: Convolution | Pool, dtype: torch.dtype) -> str:
    """What the speed of a step depends on, in a line."""
    end = f"{str(dtype).removeprefix('torch.')}, {counted(torch.get_num_threads(), 'thread')}"
    if isinstance(work, Pool):
        return f"{work}, {end}"
    activation = "none" if work.activation is None else work.activation.name
    after = f"{activation}, {'sum' if work.has_other else 'no sum'}"
    return f"{work.layer!r}, {counted(work.batch, 'clip')}, {after}, {end}"


def _cost(work: Convolution | Pool) -> float:
    return 0.0 if isinstance(work, Pool) else speed.cost(work.layer)


def _timed(work: Convolution | Pool, ways: Mapping[str, Callable[[], Way]], dtype: torch.dtype) -> Choice:
    generator = torch.Generator().manual_seed(0)
    made = partial(torch.randn, dtype=dtype, generator=generator)
    if isinstance(work, Pool):
        x = made(work.size)
        plain, other = partial(_torch_pool(work), x, None, False), None
    else:
        layer = work.layer
        x = made(work.batch, layer.in_channels, *layer.size)
        w = work.weight.to(dtype)
        plain = partial(torch.conv3d, x, w, None, layer.stride, layer.padding, layer.dilation, layer.groups)
        size = (work.batch, layer.out_channels, *layer.output_size)
        other = made(size).contiguous(memory_format=LAST) if work.has_other else None
    torch_ms = speed.milliseconds(plain, torch.device("cpu"))
    x = x.contiguous(memory_format=LAST)
    times, right = {}, None
    for name, make in ways.items():
        way = make()
        answer = way(x, other, False)
        right = answer if right is None else right
        # a way that is wrong on this processor is none
        if (answer - right).abs().max() <= (1e-3 if dtype == torch.float32 else 3e-2) * right.abs().max():
            times[name] = speed.milliseconds(
                partial(way, x, None if other is None else other.clone(), True), torch.device("cpu")
            )
    best = min(times, key=lambda name: times[name] + _price(work, name, times[next(iter(times))]))
    return Choice(best, round(torch_ms, 3), round(times[best], 3))


def _price(work: Convolution | Pool, way: str, usual_ms: float) -> float:
    """Milliseconds that a way has to save for what its weight takes more: a tenth, and one for some megabytes."""
    if isinstance(work, Pool) or way != "Winograd":
        return 0.0
    more = work.weight.nbytes * (kernels.growth(work.layer.kernel_size, work.layer.stride) - 1)
    return 0.1 * usual_ms + more / 2**20 / MEGABYTES


def _file() -> Path:
    """Where what was timed on this machine, by these ways, is kept."""
    names: list[str] = []
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line for line in lines if line.startswith(("model name", "flags"))][:2]
    here = (
        names,
        platform.processor(),
        platform.machine(),
        torch.__version__,
        hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),  # another version may lack a way, or have one more
        kernels.available() and kernels.version(),
        arena.available(),  # new memory costs some ways more than others
        MEGABYTES,
    )
    return machine.cache_dir() / "optimize" / f"{hashlib.sha256(repr(here).encode()).hexdigest()[:16]}.json"


def _kept() -> dict[str, Choice]:
    try:
        return {key: Choice(**choice) for key, choice in json.loads(_file().read_text()).items()}
    # none yet, or damaged: it is timed again; or nobody's home is known
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError):
        return {}


def _keep(timed: Mapping[str, Choice]) -> None:
    text = json.dumps({key: asdict(choice) for key, choice in {**_kept(), **timed}.items()}, indent=0)
    try:
        file = _file()
        file.parent.mkdir(parents=True, exist_ok=True)
        with machine.kept(file) as made:
            made.write_text(text)
    except (OSError, ValueError, RuntimeError) as error:
        log.warning("what was timed is not kept: %s", error)
