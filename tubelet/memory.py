"""Less memory for a training step: stages that are computed again for the backward pass instead of kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


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


def _run(stage: nn.Module, forward: Callable[..., Any], *inputs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=partial(_contexts, stage))


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
