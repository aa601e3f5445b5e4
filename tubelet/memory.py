"""Memory of a training step: told before the first one, and made less.

`predict_peak` follows a step on shapes alone, `plan` chooses what makes it fit, `checkpointed` keeps less for the
backward pass, `returned` has freed memory go back to the system at once.
"""

from __future__ import annotations

import copy
import math
import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from itertools import product, starmap
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeCopyMode,
    FakeTensorMode,
)
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from .blocks import stages_of
from .machine import glibc
from .recipe import SMALL_BATCH

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

MIB = 2**20
SLOW = torch._C._ConvBackend.Slow3d  # type: ignore[attr-defined]
DTYPES = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}

SHARE = 0.8  # of the memory at hand that a step may take: the rest is for readers, validation and what is not foreseen
# Measured on one thread with r3d_18, r2plus1d_18, x3d_s, slowfast_r50 and unet3d: what glibc holds of freed blocks, as
# a share of the live ones, is 0.1 to 0.6; and times of a step as multiples of the plain one.
KEPT = 0.6
RETURNED_TIME = 1.5  # 1.1 to 2
BF16_TIME = 0.65  # 0.55 to 0.95
CHECKPOINTED_TIME = 1 / 3  # on top, with all stages: one more forward pass
ACCUMULATED_TIME = 0.02  # on top, for each part but the first; ours


@dataclass(frozen=True)
class Peak:
    """Bytes at the highest point of a training step.

    Attributes:
        weights: parameters and buffers.
        gradients: of the parameters, as far as they are there at that point.
        optimizer: what it keeps between steps.
        activations: what the forward pass leaves for the backward pass, the batch too, as far as it is still there.
        temporaries: the rest: tensors being made, and what convolutions take for themselves.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    temporaries: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(vars(self).values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value / MIB:.0f}" for name, value in vars(self).items())
        return f"{self.total / MIB:.0f} MiB ({parts})"


def predict_peak(
    model: nn.Module,
    *inputs: Tensor,
    optimizer: MakeOptimizer = torch.optim.AdamW,
    dtype: torch.dtype = torch.float32,
    num_checkpointed: int = 0,
    is_accumulated: bool = False,
) -> Peak:
    """Memory of a training step of a network, without running it: its tensors are counted while they live.

    Measured steps on a CPU took up to 8 % more in `returned`; outside, glibc holds freed blocks as well, up to 60 %
    more. Python, torch itself and the data are not counted, nor on a GPU what cuDNN takes for itself.
    Call it outside `speed.applied`, whose convolutions have no shapes to follow; steps inside take the same.

    Args:
        model: any nn.Module; it is not run, and nothing in it changes.
        inputs: what a step, or an accumulated part of one, gives it: clips (B, C, T, H, W) first; only shapes and
            dtypes count, so that they may be on the `meta` device.
        optimizer: makes one from a list of parameters.
        dtype: precision of autocast, float32 for none.
        num_checkpointed: stages, the first ones of `model.stages`, that are `checkpointed`.
        is_accumulated: whether gradients of other parts are there from the start.

    Raises:
        ValueError: the network's shapes depend on values, or it has fewer stages.
    """
    stages = stages_of(model)
    if not 0 <= num_checkpointed <= len(stages):
        raise ValueError(
            f"num_checkpointed {num_checkpointed} must be from 0 to {len(stages)}, the stages of the network"
        )
    device = _device(model)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        with FakeCopyMode(fake):
            twin: Any = copy.deepcopy(model)
        clips = [torch.empty(x.shape, dtype=x.dtype, device=device) for x in inputs]
        learned = [each for each in twin.parameters() if each.requires_grad]
        made = optimizer(learned)
        for each in learned:
            each.grad = torch.empty_like(each)
        try:
            made.step()  # gives the optimizer the state that it has from the second step on
            if not is_accumulated:
                made.zero_grad()
            live = _Live()
            weights = live.add(*twin.parameters(), *twin.buffers())
            gradients = live.add(*(each.grad for each in learned if each.grad is not None))
            state = live.add(*(each for each in tree_leaves([*made.state.values()]) if isinstance(each, Tensor)))
            live.add(*clips)
            with live, checkpointed(stages_of(twin)[:num_checkpointed]):
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    output = twin(*clips)
                loss = sum(each.float().square().mean() for each in tree_leaves(output))
                forward = set(live.sizes)
                loss.backward()
                gradients |= live.add(*(each.grad for each in learned if each.grad is not None))
                del output, loss
                made.step()
        except (DataDependentOutputException, DynamicOutputShapeException):
            raise ValueError(
                f"the memory of {type(model).__name__} cannot be told: its shapes depend on values; say yourself how "
                "a step is accumulated or checkpointed"
            ) from None

    def held(group: set[int]) -> int:
        return sum(size for key, size in live.highest.items() if key in group)

    parts = held(weights), held(gradients), held(state), held(forward - weights - gradients - state)
    return Peak(*parts, live.peak - sum(parts))


def _device(model: nn.Module) -> torch.device:
    return next((each.device for each in model.parameters()), torch.device("cpu"))


class _Live(TorchDispatchMode):
    """Follows the storages of tensors that are made in it.

    Attributes:
        sizes: bytes of each that is alive, by number.
        highest: the same when they were most.
        peak: their sum then, with what a convolution takes for itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.highest: dict[int, int] = {}
        self.peak = self._now = self._count = 0
        self._numbers: dict[int, int] = {}  # by address, which another storage takes later

    def add(self, *tensors: Tensor) -> set[int]:
        """Count these, those that are known once; their numbers."""
        return {self._number(each.untyped_storage()) for each in tensors}

    def _number(self, storage: Any) -> int:
        address = storage._cdata
        if address not in self._numbers:
            self._count += 1
            self._numbers[address] = self._count
            self.sizes[self._count] = storage.nbytes()
            self._now += storage.nbytes()
            weakref.finalize(storage, self._freed, address)
        return self._numbers[address]

    def _freed(self, address: int) -> None:
        self._now -= self.sizes.pop(self._numbers.pop(address))

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.add(*(each for each in tree_leaves(made) if isinstance(each, Tensor)))
        if (now := self._now + _copies(func, args)) > self.peak:
            self.peak, self.highest = now, dict(self.sizes)
        return made


def _copies(func: Any, args: tuple) -> int:
    """Bytes that a convolution on a CPU takes for itself, beside what it gives.

    oneDNN brings input and output to a layout of its own. torch's own kernel copies the input for each position of the
    window.
    """
    if func is torch.ops.aten.convolution.default:
        x, weight, _, *layer = args
    elif func is torch.ops.aten.convolution_backward.default:
        x, weight, _, *layer = args[1:10]
    else:
        return 0
    stride, padding, dilation, transposed, *_ = layer
    if x.device.type != "cpu" or transposed:
        return 0
    sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    positions = x.shape[0] * math.prod((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
    if torch._C._select_conv_backend(x, weight, None, *layer) == SLOW:
        return x.element_size() * positions * x.shape[1] * math.prod(weight.shape[2:])
    return x.element_size() * (x.numel() + positions * weight.shape[0])


@dataclass(frozen=True)
class Plan:
    """How a step fits into memory.

    Attributes:
        precision: 32, bf16 or 16.
        accumulate: parts of a step.
        num_checkpointed: stages, the first ones of the network, that are `checkpointed`.
        is_returned: whether training belongs into `returned`.
        peak: of the step.
        reason: what was chosen and why, in a line.
    """

    precision: str
    accumulate: int
    num_checkpointed: int
    is_returned: bool
    peak: Peak
    reason: str


def plan(
    model: nn.Module,
    batch_size: int,
    clip_shape: Iterable[int],
    *,
    optimizer: MakeOptimizer = torch.optim.AdamW,
    available: int | None = None,
    precision: str | None = None,
) -> Plan:
    """What has a training step fit into 80 % of the memory at hand, and costs the least time.

    Nothing where it fits as it is. Else mixed precision where the device has bf16, accumulation, checkpointing, and on
    a CPU `returned`, by what they cost; parts of fewer than 8 clips come last where there are batch norms.

    Args:
        model: any nn.Module, on the device where it is trained.
        batch_size: clips of a step of one process.
        clip_shape: (C, T, H, W).
        optimizer: makes one from a list of parameters.
        available: bytes at hand; None asks the machine (`available_bytes`).
        precision: 32, bf16 or 16 to keep to it; None chooses.

    Raises:
        ValueError: nothing fits, and the message has the numbers; the network's shapes depend on values; or there is
            no such precision.
    """
    if precision not in (None, *DTYPES):
        raise ValueError(f"precision {precision!r}; there is {', '.join(DTYPES)}")
    device = _device(model)
    available = available_bytes(device) if available is None else available
    num_stages = len(stages_of(model))
    has_norms = any(isinstance(module, _BatchNorm) for module in model.modules())
    shape = tuple(clip_shape)

    @cache
    def peak(precision: str, accumulate: int, num_checkpointed: int) -> Peak:
        return predict_peak(
            model,
            torch.empty(math.ceil(batch_size / accumulate), *shape, device="meta"),
            optimizer=optimizer,
            dtype=DTYPES[precision],
            num_checkpointed=num_checkpointed,
            is_accumulated=accumulate > 1,
        )

    def fits(way: _Way) -> bool:
        held = KEPT if _can_return(device) and not way.is_returned else 0
        return peak(*way[:3]).total * (1 + held) <= SHARE * available

    def cost(way: _Way) -> tuple[bool, float]:
        time = 1 + ACCUMULATED_TIME * (way.accumulate - 1)
        time += CHECKPOINTED_TIME * way.num_checkpointed / max(1, num_stages)
        time *= (BF16_TIME if way.precision != plain.precision else 1) * (RETURNED_TIME if way.is_returned else 1)
        return has_norms and way.accumulate > 1 and batch_size / way.accumulate < SMALL_BATCH, time

    plain = _Way(precision or "32", 1, 0, False)
    names = [plain.precision, "bf16"] if precision is None and _has_bf16(device) else [plain.precision]
    parts = sorted({min(2**i, batch_size) for i in range(batch_size.bit_length() + 1)})
    stages = sorted({0, num_stages // 2, num_stages})
    ways = sorted(starmap(_Way, product(names, parts, stages, sorted({False, _can_return(device)}))), key=cost)
    chosen = next((way for way in (plain, *ways) if fits(way)), None)
    step = f"a step of {batch_size} clips of {'x'.join(map(str, shape))} takes {peak(*plain[:3]).total / MIB:,.0f} MiB"
    hand = f"{SHARE:.0%} of the {available / MIB:,.0f} MiB at hand"
    if chosen is None:
        least = min(ways, key=lambda way: peak(*way[:3]).total)
        raise ValueError(
            f"{step}, and at least {peak(*least[:3]).total / MIB:,.0f} MiB{_named(least)}, more than {hand}: take "
            "fewer or smaller frames, or a smaller network"
        )
    if chosen == plain:
        reason = f"{step}, well within {hand}: nothing is changed"
    else:
        reason = f"{step}, too much for {hand}: {peak(*chosen[:3]).total / MIB:,.0f} MiB{_named(chosen)}"
    return Plan(*chosen, peak(*chosen[:3]), reason)


def fits(model: nn.Module, shape: Iterable[int], optimizer: MakeOptimizer, precision: str, available: int) -> bool:
    """Whether a plain training step takes no more than 80 % of the memory at hand.

    Args:
        model: any nn.Module.
        shape: (B, C, T, H, W) of a step.
        optimizer: makes one from a list of parameters.
        precision: 32, bf16 or 16.
        available: bytes at hand.
    """
    inputs = torch.empty(*shape, device="meta")
    peak = predict_peak(model, inputs, optimizer=optimizer, dtype=DTYPES[precision])
    return peak.total * (1 + (KEPT if _can_return(_device(model)) else 0)) <= SHARE * available


class _Way(NamedTuple):
    """To make a step: the first fields of a `Plan`."""

    precision: str
    accumulate: int
    num_checkpointed: int
    is_returned: bool


def _named(way: _Way) -> str:
    parts = [f" in {way.precision}"] if way.precision != "32" else []
    parts += [f" in {way.accumulate} parts"] if way.accumulate > 1 else []
    parts += [f" with {way.num_checkpointed} stages computed again"] if way.num_checkpointed else []
    parts += [" with freed memory returned at once"] if way.is_returned else []
    return ",".join(parts)


def _has_bf16(device: torch.device) -> bool:
    """Whether it computes in bf16 faster than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def available_bytes(device: torch.device | str = "cpu", root: Path = Path("/")) -> int:
    """Memory that this process can still take on a device.

    Of a CPU what the system has available, or what the limits of its control groups (version 1 or 2) leave, if less.

    Args:
        device: cpu or cuda.
        root: where `proc` and `sys` are.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:  # no Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    fields = dict(line.split(":") for line in lines)
    return min([1024 * int(fields["MemAvailable"].split()[0]), *_left_by_groups(root)])


def _left_by_groups(root: Path) -> Iterator[int]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mounted = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        limit, usage, cache = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            if controllers
            else ("memory.max", "memory.current", "inactive_file")
        )
        inner = mounted / path.lstrip("/")
        for group in (inner, *inner.parents):  # in a container the path may be the host's
            try:
                most, used = (group / limit).read_text().strip(), int((group / usage).read_text())
                stat = dict(each.split() for each in (group / "memory.stat").read_text().splitlines())
            except OSError:
                continue
            if most != "max":
                yield max(0, int(most) - used + int(stat.get(cache, 0)))  # files read once give way


# numbers of mallopt's options in glibc's malloc.h, and the values that its own rule for growth ends at
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_GROWN = {_TRIM_THRESHOLD: 64 * MIB, _MMAP_THRESHOLD: 32 * MIB}


@contextmanager
def returned() -> Iterator[None]:
    """While it lasts, freed blocks of 256 KiB and more go back to the system at once; with glibc, else nothing changes.

    A step then takes what `predict_peak` says, in place of up to 1.5 times as much, for 1.1 to 2 times the time, since
    the system clears each block anew. Enter it before the first step: what glibc holds by then stays.
    """
    libc = glibc()
    if libc is None:
        yield
        return
    libc.malloc_trim(0)
    libc.mallopt(_MMAP_THRESHOLD, 2**18)
    try:
        yield
    finally:
        for option, value in _GROWN.items():
            libc.mallopt(option, value)


def _can_return(device: torch.device) -> bool:
    return device.type == "cpu" and glibc() is not None


@contextmanager
def checkpointed(stages: Iterable[nn.Module]) -> Iterator[None]:
    """While it lasts, these modules keep their inputs alone and are run again in the backward pass.

    Losses, gradients, running statistics and dropout are those of the plain step, bit for bit. The whole step belongs
    inside. Names, weights and copies of the modules stay as they are. Source: Chen et al. 2016, arXiv 1604.06174.

    Args:
        stages: modules of the network, none inside another: `model.stages`, or some of them.

    Raises:
        ValueError: one of them holds another.
    """
    stages = list(stages)
    inner = {id(module) for stage in stages for module in list(stage.modules())[1:]}
    if any(id(stage) in inner for stage in stages):
        raise ValueError("one of the stages holds another; give the outer or the inner ones")
    for stage in stages:
        stage.forward = partial(_run, stage, stage.forward)
    try:
        yield
    finally:
        for stage in stages:
            del stage.forward


def _run(stage: nn.Module, forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **named)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=partial(_contexts, stage), **named)


def _contexts(stage: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Around the first run of a stage, and around its second."""
    return nullcontext(), _statistics_kept(stage)


@contextmanager
def _statistics_kept(stage: nn.Module) -> Iterator[None]:
    """Batch norms normalise by their batch as ever, and do not count it a second time."""
    norms = [module for module in stage.modules() if isinstance(module, _BatchNorm) and module.training]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count
