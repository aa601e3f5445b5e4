"""FSDP: each process keeps a share of the weights, their gradients, the optimizer's states and the running average.

The weights of a stage are put together while it is computed, then given up. Checkpoints and files hold whole tensors,
so that they know nothing of it. What is not shared is left as it is. Source: Zhao et al. 2023, arXiv 2304.11277, by
torch's `fully_shard`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["is_sharded", "load", "set_up", "shard", "share_statistics", "whole_state"]


def shard(network: Any, mesh: Any) -> nn.Module:
    """Have each process keep a share of each weight of a network, in place.

    Args:
        network: any; its `stages` are put together one by one, what is outside them for the whole step.
        mesh: torch's `DeviceMesh` of the processes, with an axis `data_parallel`, as Lightning makes it.

    Raises:
        ValueError: a weight is a single number, which torch does not share.
    """
    from torch.distributed.fsdp import fully_shard

    for name, parameter in network.named_parameters():
        if parameter.ndim == 0:
            raise ValueError(
                f"strategy fsdp cannot share {name} of {type(network).__name__}, a single number: train with ddp"
            )
    # of logits that are a view, which no loss here changes in place
    warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
    for part in (*getattr(network, "stages", ()), network):
        fully_shard(part, mesh=mesh["data_parallel"])
    return network


def is_sharded(network: nn.Module) -> bool:
    """Whether processes share the weights of a network."""
    return any(_is_share(each) for each in network.parameters())


def set_up(
    fabric: Any, network: nn.Module, optimizer: torch.optim.Optimizer, average: Any = None
) -> tuple[nn.Module, Any, Callable[[], AbstractContextManager[Any]]]:
    """Give a network and its optimizer to Fabric, and have the processes share them if it was opened so.

    Args:
        fabric: launched.
        network: on its device.
        optimizer: of its parameters, new.
        average: the running average of the network, None for none.

    Returns:
        The model to train, its optimizer, and a context in which the network to validate, the average if there is one,
        is whole in each process.
    """
    validated = network if average is None else average.module
    mesh = getattr(fabric.strategy, "device_mesh", None)
    if mesh is None:
        return *fabric.setup(network, optimizer), partial(nullcontext, validated)
    bare = copy.deepcopy(validated)  # torch copies no network that is shared
    _give_up(bare)
    names = {parameter: name for name, parameter in network.named_parameters()}
    model = fabric.setup_module(network)
    shares = dict(network.named_parameters())
    for group in optimizer.param_groups:
        group["params"] = [shares[names[each]] for each in group["params"]]
    if average is not None:
        shard(average.module, mesh)
        average.multi_avg_fn = partial(_averaged, average.multi_avg_fn)
    return model, fabric.setup_optimizers(optimizer), partial(_whole, validated, bare, fabric.device)


@contextmanager
def _whole(network: nn.Module, bare: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """A plain copy of a network with its whole weights; its buffers are the network's own."""
    bare.load_state_dict(whole_state(network, device), assign=True)
    try:
        yield bare
    finally:
        _give_up(bare)


def _give_up(bare: nn.Module) -> None:
    """Free the weights of a network."""
    empty = {name: torch.empty_like(each, device="meta") for name, each in bare.named_parameters()}
    bare.load_state_dict(empty, strict=False, assign=True)


def _averaged(average: Callable[..., None], *several: Any) -> None:
    """Average shares with shares, which makes the share of the average; torch takes no mixture with whole buffers."""
    average(*tree_map(lambda each: each.to_local() if _is_share(each) else each, several))


def whole_state(target: nn.Module | torch.optim.Optimizer, device: torch.device | str) -> dict[str, Any]:
    """The `state_dict` of a network or an optimizer with whole tensors; all processes ask for it at once.

    Args:
        target: what has the state.
        device: where tensors go that were shared: `meta` for a process that only takes part.
    """
    state = target.state_dict()
    if not any(_is_share(each) for each in tree_leaves(state)):
        return state
    return tree_map(lambda each: each.full_tensor().to(device) if _is_share(each) else each, state)


def load(target: nn.Module | torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a `state_dict` of whole tensors, whatever number of processes it came from.

    Args:
        target: a network, or an optimizer.
        state: the same in all processes.
    """
    own: dict[Any, Any]
    if isinstance(target, nn.Module):
        own, state = target.state_dict(), copy.copy(state)  # with the versions that torch keeps beside it
        state.update({name: _like(own.get(name), each) for name, each in state.items()})
    else:
        own = dict(enumerate(each for group in target.param_groups for each in group["params"]))
        states = state["state"].items()
        state = state | {"state": {i: {key: _like(own[i], each) for key, each in kept.items()} for i, kept in states}}
    target.load_state_dict(state)


def _like(own: Any, value: Any) -> Any:
    """This process's share of a tensor, where its own one of that shape is a share."""
    if not _is_share(own) or not isinstance(value, Tensor) or value.shape != own.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)


def _is_share(value: Any) -> bool:
    return hasattr(value, "full_tensor")  # a DTensor, which some builds of torch do not have


@torch.no_grad()
def share_statistics(fabric: Any, network: nn.Module) -> None:
    """Give all processes the mean of their batch norms' statistics, of which each has seen its own clips."""
    buffers = [each for each in network.buffers() if each.is_floating_point()]
    if fabric.world_size == 1 or not buffers:
        return
    # in float64, so that the mean of equal ones is the same to the bit
    flat = fabric.all_reduce(torch.cat([each.double().flatten() for each in buffers]), reduce_op="mean")
    for each, mean in zip(buffers, flat.split([each.numel() for each in buffers]), strict=True):
        each.copy_(mean.view_as(each))
