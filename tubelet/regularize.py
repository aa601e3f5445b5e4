"""What a network does differently while it is trained: stages held, norms held or split, steps and features dropped.

All of it is done by hooks on the network in place: its modules, their types and the keys of its state_dict stay as they
are, so that checkpoints, streams and exports know nothing of it. A copy (`copy.deepcopy`) takes it along, a file
does not. In evaluation mode nothing differs. Chance comes from torch's global generator, as that of `nn.Dropout` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from .blocks import Residual

__all__ = ["free_norms", "freeze", "freeze_norms", "precise_norms", "set_dropout", "split_norms", "stochastic_depth"]


def freeze(model: Any, num_stages: int) -> list[RemovableHandle]:
    """Hold the stem and the first stages as they are: no gradient, norms and dropout as in evaluation, for good.

    Source: Yosinski et al. 2014, arXiv 1411.1792, on what the first layers of a trained network are worth.

    Args:
        model: a network with `stem` and `stages`.
        num_stages: stages held; 0 holds nothing, not the stem either.

    Returns:
        Handles of what keeps norms and dropout in evaluation; `remove()` on each takes it back, `requires_grad_` the
        rest.

    Raises:
        ValueError: the network has no such parts, or not as many.
    """
    if not num_stages:
        return []
    if not hasattr(model, "stem") or not hasattr(model, "stages"):
        raise ValueError(
            f"{type(model).__name__} has no stem and stages to freeze: call requires_grad_(False) on what is to be held"
        )
    if not 0 < num_stages <= len(model.stages):
        raise ValueError(
            f"{num_stages} stages to freeze (num_stages; of train frozen_stages), and the network has "
            f"{len(model.stages)}: give 0 to {len(model.stages)}"
        )
    held = (model.stem, *model.stages[:num_stages])
    for part in held:
        part.requires_grad_(False)
    return [_hold(module) for part in held for module in part.modules()]


def freeze_norms(model: nn.Module) -> list[RemovableHandle]:
    """Hold the statistics of all batch norms as they are; their scale and shift still learn.

    Beside norms that have statistics, those that have none yet, such as a new decoder's, are left free.

    For fine-tuning on few clips or small batches, whose own statistics are poor (Wang et al. 2016, arXiv 1608.00859; Wu
    and He 2018, arXiv 1803.08494).

    Returns:
        Handles; `remove()` on each takes it back.

    Raises:
        ValueError: the network has no batch norm.
    """
    norms = _batch_norms(model)
    return [_hold(norm) for norm in [norm for norm in norms if _has_seen(norm)] or norms]


def _has_seen(norm: _BatchNorm) -> bool:
    """Whether its statistics are those of data; published weights may come without a count of batches."""
    assert norm.running_mean is not None and norm.running_var is not None
    if norm.running_mean.is_meta:  # it has no values
        return False
    return bool(norm.running_mean.any()) or bool((norm.running_var != 1).any())


def _hold(module: nn.Module) -> RemovableHandle:
    """Keep a module in evaluation mode, whatever `train` says: it is brought back each time before it runs."""
    module.eval()
    return module.register_forward_pre_hook(_evaluate)


def _evaluate(module: nn.Module, _: Any) -> None:
    if module.training:  # an exported graph allows no assignment
        module.training = False


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        raise ValueError(f"{type(model).__name__} has no batch norm with running statistics")
    return norms


def free_norms(model: nn.Module) -> list[_BatchNorm]:
    """Batch norms with running statistics that neither `freeze` nor `freeze_norms` holds."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    return [norm for norm in norms if _evaluate not in norm._forward_pre_hooks.values()]


def split_norms(model: nn.Module, num_parts: int) -> list[RemovableHandle]:
    """Batch norms take their statistics over each of so many parts of the batch, instead of over all of it.

    For large batches, where a little noise in the statistics is worth having (ghost batch norm, Hoffer et al. 2017,
    arXiv 1705.08741; SlowFast's sub-batch norm). Running statistics stay those of the whole batch. The opposite, the
    statistics of a batch that is shared among processes, is `nn.SyncBatchNorm.convert_sync_batchnorm`.

    Args:
        model: any network.
        num_parts: of the batch, at least 2; a batch that is smaller has parts of one clip.

    Returns:
        Handles; `remove()` on each takes it back.

    Raises:
        ValueError: the network has no batch norm, or a part would be the whole.
    """
    if num_parts < 2:
        raise ValueError(f"num_parts {num_parts} must be at least 2; 1 is a plain batch norm")
    return [norm.register_forward_hook(_Split(num_parts)) for norm in _batch_norms(model)]


@dataclass(frozen=True)
class _Split:
    """Hook on a batch norm: another answer, after the plain one has kept its statistics."""

    num_parts: int

    def __call__(self, norm: _BatchNorm, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        if not norm.training:
            return output
        parts = inputs[0].tensor_split(min(self.num_parts, len(output)))
        return torch.cat([F.batch_norm(x, None, None, norm.weight, norm.bias, True, 0.0, norm.eps) for x in parts])


@torch.no_grad()
def precise_norms(model: nn.Module, batches: Iterable[Tensor | tuple[Tensor, ...]]) -> None:
    """Give batch norms the true mean and variance over many batches, in place of a running average.

    Source: Wu and Johnson 2021, arXiv 2105.07576, section 3. `torch.optim.swa_utils.update_bn` averages the variances
    of the batches and so leaves out that between their means; this does not. While it runs, batch norms alone are in
    training mode: no dropout and no stochastic depth. Norms that are held stay as they are.

    In several processes give each the same batches, or let one do it and share its buffers.

    Args:
        model: the network, on the device where the batches are.
        batches: clips (B, C, T, H, W) as the network takes them in training, or tuples of clips and what it takes
            besides; some 1,000 to 10,000 clips in all.

    Raises:
        ValueError: the network has no batch norm, or there is no batch.
    """
    norms = _batch_norms(model)
    momenta = [norm.momentum for norm in norms]
    sums: dict[_BatchNorm, Tensor] = {}
    handles = [norm.register_forward_pre_hook(partial(_add_moments, sums)) for norm in norms]
    try:
        with _modes_kept(model):
            model.eval()
            for norm in norms:
                norm.train()
                norm.momentum = 0.0  # the running average stays until the true one is there
            for inputs in batches:
                model(*(inputs if isinstance(inputs, tuple) else (inputs,)))
    finally:
        for handle in handles:
            handle.remove()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    if not sums:
        raise ValueError("no batch to take statistics over, or all norms are held")
    for norm, (count, total, squares) in sums.items():
        mean = total / count
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(mean)
        # the unbiased one, as torch keeps it
        norm.running_var.copy_((squares / count - mean**2).clamp(min=0) * count / (count - 1).clamp(min=1))


def _add_moments(sums: dict[_BatchNorm, Tensor], norm: _BatchNorm, inputs: tuple[Tensor]) -> None:
    """Hook before a batch norm: count, sum and sum of squares of each channel, (3, C) in float64."""
    if not norm.training:
        return
    x = inputs[0].float()
    variance, mean = (each.double() for each in torch.var_mean(x, [0, *range(2, x.ndim)], correction=0))
    count = torch.full_like(mean, x.numel() / x.shape[1])
    moments = torch.stack((count, count * mean, count * (variance + mean**2)))
    sums[norm] = sums[norm] + moments if norm in sums else moments


@contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def stochastic_depth(model: nn.Module, rate: float) -> list[RemovableHandle]:
    """Residual steps are left out at random for each clip, the later ones more often.

    Of L steps, in the order of the network's modules, the l-th is left out with probability `rate * l / L` (Huang et
    al. 2016, arXiv 1603.09382); the others are scaled up, so that nothing differs in evaluation.

    Args:
        model: a network of `blocks.Residual`.
        rate: of the last step, 0..1.

    Returns:
        Handles; `remove()` on each takes it back.

    Raises:
        ValueError: `rate` is out of its range, or there are no such steps.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"stochastic depth {rate} must be at least 0 and below 1")
    steps = residual_steps(model)
    if not steps:
        raise ValueError(f"{type(model).__name__} has no residual steps to leave out: set stochastic depth to 0")
    count = len(steps)
    return [step.branch.register_forward_hook(_Drop(rate * i / count)) for i, step in enumerate(steps, 1)]


def residual_steps(model: nn.Module) -> list[Residual]:
    """The residual steps of a network, in the order of its modules."""
    return [module for module in model.modules() if isinstance(module, Residual)]


@dataclass(frozen=True)
class _Drop:
    """Hook on the branch of a residual step."""

    rate: float

    def __call__(self, branch: nn.Module, _: Any, output: Tensor) -> Tensor:
        if not branch.training:
            return output
        return output * F.dropout(output.new_ones(len(output), *[1] * (output.ndim - 1)), self.rate)


def set_dropout(model: nn.Module, rate: float) -> None:
    """Set the dropout of the head, or of all of a network without one.

    Args:
        model: any network.
        rate: probability, 0..1.

    Raises:
        ValueError: `rate` is out of its range, or there is no dropout to set.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"dropout {rate} must be at least 0 and below 1")
    layers = dropouts(model)
    if not layers:
        raise ValueError(f"{type(model).__name__} has no dropout before its last layer: leave dropout out")
    for layer in layers:
        layer.p = rate
    head: Any = getattr(model, "head", None)
    if "dropout" in getattr(head, "arguments", {}):
        head.arguments["dropout"] = rate  # a saved head is made anew from them


def dropouts(model: Any) -> list[nn.Dropout]:
    """Dropout layers of the head, or of all of a network without one."""
    return [module for module in getattr(model, "head", model).modules() if isinstance(module, nn.Dropout)]
