"""Networks around the weights of another, as streams and fast networks are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def shared_copy(model: nn.Module, move: Callable[[Tensor], Tensor] | None = None) -> Any:
    """Modules of one's own around the same weights and buffers; of an optimized one inside, its network.

    Args:
        model: any network; what a pass with gradients left in an attribute is copied without them.
        move: what the copy has in the place of each weight and buffer, such as the same on another device.

    Raises:
        ValueError: an attribute cannot be copied, such as a lock.
    """
    own = [*model.parameters(), *model.buffers()]  # held here, since TorchScript makes its own anew when asked
    tensors: dict[int, Any] = {id(x): x if move is None else move(x) for x in own}
    kept = (value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))
    tensors |= {id(x): x.detach() for x in kept if not x.is_leaf}
    try:
        for module in model.modules():
            if module is not model and (network := getattr(module, "_saved_as", None)) is not None:
                tensors[id(module)] = copy.deepcopy(network, tensors)
            if isinstance(module, torch.jit.ScriptModule) and id(module) not in tensors:
                _copy_script(module, tensors)
        return copy.deepcopy(model, tensors)
    except (TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{type(model).__name__} holds what cannot be copied ({reason}): leave it out") from None


def _copy_script(module: nn.Module, tensors: dict[int, Any]) -> None:
    """Copies of TorchScript and its parts, by their ids; `copy.deepcopy` gives it tensors of its own."""
    for one, two in zip(module.modules(), copy.deepcopy(module).modules(), strict=True):
        tensors[id(one)] = two
        for given, made in ((one._parameters, two._parameters), (one._buffers, two._buffers)):
            for name, x in given.items():
                made[name] = tensors[id(x)]


def plain(model: Any) -> Any:
    """The network that `optimize` or torch.compile made another of; any other as it is."""
    return before_compile(getattr(model, "_saved_as", model))


def before_compile(model: Any) -> Any:
    """The network that torch.compile made another of; any other as it is."""
    parts = dict(model.named_children()) if isinstance(model, nn.Module) else {}
    return parts.get("_orig_mod", model)


def check_stays(name: str, model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Raise ValueError where a change of all tensors would take shared weights to another type or device.

    Args:
        name: what shares them with the network.
        model: the network; its own buffers would stay behind.
        change: as `nn.Module.to` makes it of its arguments.
    """
    for x in model.parameters():
        like = change(x.detach().new_empty(0))
        if (like.dtype, like.device) != (x.dtype, x.device):
            raise ValueError(
                f"{name} shares its weights, {x.dtype} on {x.device}: bring the network itself to {like.dtype} on "
                f"{like.device}, and then make {name} of it anew"
            )


def is_altered(module: nn.Module) -> bool:
    """Whether a module does something else than its class: it has hooks, or a forward of its own."""
    return bool(module._forward_hooks or module._forward_pre_hooks) or "forward" in vars(module)


def are_alike(one: Tensor, two: Tensor) -> bool:
    """Whether two answers, such as (B, K), are the same but for rounding; nan is as nan."""
    if one.shape != two.shape or not two.is_floating_point():
        return torch.equal(one, two)
    scale = float(two.abs().nan_to_num(0, 0).max()) if two.numel() else 0.0
    return torch.allclose(one, two, rtol=0, atol=1e-4 * scale, equal_nan=True)
