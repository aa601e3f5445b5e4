"""How weights move: their rates and decay, the optimizers, the schedule, the running average.

Nothing here keeps a state but torch's own optimizers and average, whose `state_dict` is all that resuming needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

__all__ = ["OPTIMIZERS", "REFERENCE_BATCH", "Optimizer", "averaged", "parameter_groups", "scaled_rate", "warmup_cosine"]

Optimizer = Literal["adamw", "sgd"]

# AdamW: Loshchilov and Hutter 2019, arXiv 1711.05101. SGD with Nesterov momentum: Sutskever et al. 2013.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
}
REFERENCE_BATCH = 16  # clips of a step, for which rates are given


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float, *, layer_decay: float = 1.0, head_factor: float = 1.0
) -> list[dict[str, Any]]:
    """What an optimizer takes: each parameter that has a gradient once, with its rate and its weight decay.

    Weights decay, norms and biases do not (He et al. 2019, arXiv 1812.01187). The rate falls from the last layers to
    the first (Clark et al. 2020, arXiv 2003.10555): the parts of the network are its children in their order, `stages`
    one by one, and each has `layer_decay` times the rate of the next.

    Args:
        model: any network.
        lr: highest rate of the last part.
        weight_decay: of convolutions and linear layers.
        layer_decay: rate of a part to that of the next, above 0 and at most 1.
        head_factor: rate of the head times this, above 0; for a head of new classes on weights that are not new. The
            head is `model.head`, or else the last part that has parameters.

    Returns:
        One group for each rate and decay, with `lr` and `initial_lr`, the rate that a schedule multiplies.

    Raises:
        ValueError: a number is out of its range, or no parameter has a gradient.
    """
    for name, value, is_right, limit in (
        ("lr", lr, 0 < lr < math.inf, "above 0"),
        ("weight_decay", weight_decay, 0 <= weight_decay < math.inf, "at least 0"),
        ("layer_decay", layer_decay, 0 < layer_decay <= 1, "above 0 and at most 1"),
        ("head_factor", head_factor, 0 < head_factor < math.inf, "above 0"),
    ):
        if not is_right:
            raise ValueError(f"{name} {value} must be {limit}")
    parts = _parts(model)
    head = "head" if hasattr(model, "head") else parts[-1] if parts else None
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.LayerNorm | nn.RMSNorm)  # of any number of axes; those of all others have one
        for parameter in module.parameters(recurse=False)
    }
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        depth = next((i for i, part in enumerate(parts) if name.startswith(f"{part}.")), 0)
        rate = lr * layer_decay ** max(0, len(parts) - 1 - depth)
        if head is not None and name.startswith(f"{head}."):
            rate *= head_factor
        decay = 0.0 if parameter.ndim <= 1 or id(parameter) in norms else weight_decay
        group = {"params": [], "lr": rate, "initial_lr": rate, "weight_decay": decay}
        groups.setdefault((rate, decay), group)["params"].append(parameter)
    if not groups:
        raise ValueError("no parameter has a gradient: freeze fewer stages")
    return list(groups.values())


def _parts(model: nn.Module) -> list[str]:
    """Names of the children that have parameters, from input to output, each stage on its own."""
    children: list[tuple[str, nn.Module]] = []
    for name, child in model.named_children():
        inner = child.named_children() if name == "stages" else ()
        children += [(f"{name}.{number}", stage) for number, stage in inner] or [(name, child)]
    return [name for name, child in children if any(True for _ in child.parameters())]


def scaled_rate(lr: float, optimizer: Optimizer, batch_size: int) -> tuple[float, str]:
    """The rate for the clips that a step takes, from that for `REFERENCE_BATCH`, and how it came about, in words.

    SGD's rate grows with the batch (Goyal et al. 2017, arXiv 1706.02677), AdamW's with its root (Malladi et al. 2022,
    arXiv 2205.10287).

    Args:
        lr: for 16 clips.
        optimizer: whose rate it is.
        batch_size: clips between two changes of the weights, over all processes and accumulated parts.

    Raises:
        ValueError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be at least 1")
    ratio = batch_size / REFERENCE_BATCH
    rate = lr * (ratio if optimizer == "sgd" else math.sqrt(ratio))
    how = "" if optimizer == "sgd" else "the root of "
    return (
        rate,
        f"{lr:.2g} for {REFERENCE_BATCH} clips, times {how}{ratio:.3g} for steps of {batch_size}",
    )


def warmup_cosine(step: int, steps: int, warmup: float = 0.1) -> float:
    """Factor of the rate at a step: it rises along a line to 1, then falls along a cosine to 0.

    Linear warmup: Goyal et al. 2017, arXiv 1706.02677. Cosine: Loshchilov and Hutter 2017, arXiv 1608.03983. With
    `partial` it is what `torch.optim.lr_scheduler.LambdaLR` takes.

    Args:
        step: number of the step, from 0.
        steps: of the run.
        warmup: share of the steps, 0..1, in which it rises; one step at least.
    """
    rising = max(1, int(warmup * steps))
    if step < rising:
        return (1 + (rising - 1) * step / rising) / rising
    return (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, steps - rising)))) / 2


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of a network that holds the running average of its weights (EMA), with no gradient.

    `average.update_parameters(model)` after each step; `average.module` is the network to validate and to keep. The
    statistics of batch norms are averaged as well, since they belong to the weights; `regularize.precise_norms` takes
    them anew for the averaged weights. Its state_dict has the number of updates too, so a resumed run goes on to the
    bit.

    Args:
        model: the network that is trained.
        decay: of the average, 0..1: it looks back over some 1 / (1 - decay) steps.

    Raises:
        ValueError: `decay` is out of its range.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay {decay} must be at least 0 and below 1")
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    return average.requires_grad_(False).eval()
