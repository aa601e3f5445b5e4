"""The fastest of several ways to the same answer, by a short measurement; one that answers otherwise is none."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from . import speed
from .runtimes import first_line
from .terminal import Table, progress

log = logging.getLogger("tubelet")

# The largest difference of two answers, of the largest value. In lower precisions how near is near is for the reader to
# judge, and this is for what is broken.
WITHIN = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.int8: 0.5}
ROUNDS = 3


class Plan(Protocol):
    """What is run for inputs of some sizes."""

    def fits(self, tensors: Sequence[Tensor], given: Any) -> bool:
        """Whether it is for tensors such as (B, C, T, H, W), which are the leaves of inputs of this structure."""

    def __call__(self, tensors: Sequence[Tensor]) -> Any:
        """The answer to the tensors of the inputs, (B, C, T, H, W) say."""

    def table(self) -> Table:
        """What was done."""


Backend = Callable[[nn.Module, tuple[Any, ...]], Plan]  # a network in evaluation mode and its inputs -> a plan


def away(answer: Any, right: Any, dtype: torch.dtype) -> float:
    """How far an answer, such as (B, K), is from the right one, of the largest value.

    Raises:
        ValueError: further than is taken for the same in this precision.
    """
    found, wanted = pytree.tree_leaves(answer), pytree.tree_leaves(right)
    furthest = 0.0 if len(found) == len(wanted) else float("inf")
    for one, two in zip(found, wanted, strict=False):
        if not isinstance(two, Tensor) or not two.numel():
            continue
        if one.shape != two.shape:
            furthest = float("inf")
            continue
        one, two = one.double(), two.double()
        here = float((one - two).abs().max() / two.abs().max().clamp_min(1e-30))
        furthest = max(furthest, here) if here == here else float("inf")
    if furthest > WITHIN[dtype]:
        raise ValueError(f"its answers differ by {furthest:.1e} of the largest one, and the limit is {WITHIN[dtype]:g}")
    return furthest


def fastest(
    ways: Mapping[str, Callable[[], Callable[[Any], Any]]], given: Any, right: Any, dtype: torch.dtype
) -> tuple[str, Callable[[Any], Any], dict[str, float]]:
    """The name of the fastest way, the way, and the milliseconds of each; what fails is left out, which the log says.

    Args:
        ways: by name, what makes a function of `given`.
        given: tensors such as (B, C, T, H, W); their device is where it is measured.
        right: the answer.
        dtype: for how near an answer must be.

    Raises:
        ValueError: every one fails.
    """
    made: dict[str, Callable[[Any], Any]] = {}
    for name, make in progress(ways.items(), "ways", len(ways)) if len(ways) > 1 else ways.items():
        try:
            way = make()
            away(way(given), right, dtype)
            made[name] = way
        except Exception as error:  # of any type: each runs somebody else's code
            log.warning("%s is left out: %s", name, first_line(error))
    if not made:
        raise ValueError(f"none of {', '.join(ways)} can run it")
    device = next((x.device for x in pytree.tree_leaves(given)), torch.device("cpu"))
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(ROUNDS):
        for name, way in made.items():
            times[name].append(speed.milliseconds(partial(way, given), device))
    medians = {name: statistics.median(each) for name, each in times.items()}
    best = min(medians, key=medians.__getitem__)
    return best, made[best], medians


def shown(times: Mapping[str, float]) -> str:
    """Milliseconds by name, the least first."""
    return ", ".join(f"{name} {times[name]:.4g}" for name in sorted(times, key=times.__getitem__))
