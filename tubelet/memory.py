"""Memory of a training step, told before it runs: weights, gradients, optimizer state, activations, temporaries.

The step is followed on shapes alone (torch's FakeTensorMode): every tensor that it makes is counted while it lives, and
beside it what a convolution takes for itself on a CPU.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MIB = 2**20


@dataclass(frozen=True)
class Peak:
    """Bytes at the highest point of a training step.

    Attributes:
        weights: parameters and buffers.
        gradients: of the parameters.
        optimizer: what it keeps between steps.
        activations: what the forward pass keeps for the backward pass, the batch itself too.
        temporary: the rest at the highest point: the tensors being made, and what kernels take for themselves.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    temporary: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.temporary

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value / MIB:.0f}" for name, value in vars(self).items())
        return f"{self.total / MIB:.0f} MiB ({parts})"


def predict_peak(
    model: nn.Module,
    *inputs: Tensor,
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] = torch.optim.AdamW,
    dtype: torch.dtype = torch.float32,
) -> Peak:
    """Memory of a training step of a network, without running it.

    Args:
        model: any nn.Module on a CPU; nothing in it changes.
        inputs: what a step gives it, a batch (B, C, T, H, W) first; only shapes and dtypes count.
        optimizer: makes one, from a list of parameters.
        dtype: precision of autocast, float32 for none.
    """
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        weights = {name: fake.from_tensor(value) for name, value in model.named_parameters()}
        buffers = {name: fake.from_tensor(value) for name, value in model.named_buffers()}
        leaves = [nn.Parameter(value, value.requires_grad) for value in weights.values()]
        state: dict[str, Any] = {**dict(zip(weights, leaves, strict=True)), **buffers}
        batch = tuple(fake.from_tensor(each) for each in inputs)
        made = optimizer([each for each in leaves if each.requires_grad])
        kept: dict[int, int] = {}

        def keep(x: Tensor) -> Tensor:
            kept[x.untyped_storage()._cdata] = x.untyped_storage().nbytes()
            return x

        own = {each.untyped_storage()._cdata for each in state.values()}
        with _Live() as live:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
                with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                    output = torch.func.functional_call(model, state, batch)
                loss = sum(each.float().square().mean() for each in tree_leaves(output))
            loss.backward()
            made.step()
            del output, loss
            # the first step makes the optimizer's state; a later one, gradients dropped, has it from the start
        optimizer_state = sum(_bytes(each) for each in tree_leaves([*made.state.values()]) if isinstance(each, Tensor))
    of_weights = sum(_bytes(each) for each in state.values())
    gradients = sum(_bytes(each) for each in leaves if each.requires_grad)
    activations = sum(size for key, size in kept.items() if key not in own)
    batch_bytes = sum(_bytes(each) for each in batch)
    at_peak = live.peak + batch_bytes + optimizer_state
    return Peak(of_weights, gradients, optimizer_state, activations, max(0, at_peak - gradients - optimizer_state - activations))


def _bytes(x: Tensor) -> int:
    return x.untyped_storage().nbytes()


class _Live(TorchDispatchMode):
    """Bytes of the tensors made in it that are alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def _freed(self, key: int, size: int) -> None:
        self.now -= size
        self.seen.discard(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        old = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        made = func(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, Tensor):
                storage = x.untyped_storage()
                key = storage._cdata
                if key not in old and key not in self.seen:
                    self.seen.add(key)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._freed, key, storage.nbytes())
        self.peak = max(self.peak, self.now + _scratch(func, args))
        return made


def _scratch(func: Any, args: tuple) -> int:
    """Bytes that a convolution takes for itself on a CPU."""
    if func is torch.ops.aten.convolution.default:
        x, w, bias, *rest = args
        grads = 0
    elif func is torch.ops.aten.convolution_backward.default:
        _, x, w, bias, *rest = args
        rest = rest[:6]
    else:
        return 0
    stride, padding, dilation, transposed, extra, groups = rest
    sizes = zip(x.shape[2:], w.shape[2:], stride, padding, dilation, strict=True)
    out = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes]
    y = x.shape[0] * w.shape[0] * math.prod(out)
    backend = torch._C._select_conv_backend(x, w, None, stride, padding, dilation, transposed, extra, groups)
    if backend == torch._C._ConvBackend.Slow3d:  # every kernel's worth of the input side by side
        return x.element_size() * x.shape[0] * x.shape[1] * math.prod(w.shape[2:]) * math.prod(out)
    return x.element_size() * (x.numel() + y)  # oneDNN: both in its own layout
