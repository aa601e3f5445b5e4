"""A network as a list of steps on values, each forgotten or overwritten after its last use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from .blocks import Triple
from .speed import Layer

A = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """What oneDNN applies to the output of a convolution: its name there, numbers and variant; torch's own function."""

    name: str
    plain: Callable[[Tensor], Tensor]
    scalars: tuple[float, ...] = ()
    variant: str | None = None


@dataclass(frozen=True)
class Norm:
    """A batch norm by running statistics, each (O,)."""

    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor
    var: Tensor
    eps: float


@dataclass(frozen=True)
class Convolution:
    """A convolution and what is done to its output: `activation(norm(conv(x) + bias) + other)`.

    Attributes:
        layer: its sizes for one clip.
        batch: clips in the example.
        weight: (O, C / groups, t, h, w), the network's own.
        bias: (O,), likewise.
        activation: None for none.
        has_other: whether a tensor of the output's shape is added.
        norm: None for none.
    """

    layer: Layer
    batch: int
    weight: Tensor
    bias: Tensor | None
    activation: Activation | None = None
    has_other: bool = False
    norm: Norm | None = None

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weight (O, C / groups, t, h, w) and bias (O,) that do what the convolution and the norm do."""
        if self.norm is None:
            return self.weight, self.bias
        norm = self.norm
        scale = (norm.var.double() + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight.double()
        start = -norm.mean.double() if self.bias is None else self.bias.double() - norm.mean.double()
        offset = start * scale if norm.bias is None else start * scale + norm.bias.double()
        # some channels at a time: twice as wide, a large weight would take four times its memory for this
        parts = zip(self.weight.split(64), scale.view(-1, 1, 1, 1, 1).split(64), strict=True)
        weight = torch.cat([(of.double() * by).to(of.dtype) for of, by in parts])
        return weight, offset.to(weight.dtype)


@dataclass(frozen=True)
class Pool:
    """A maximum over windows of an example (B, C, T, H, W), or their mean; triples are (t, h, w)."""

    size: tuple[int, ...]
    kernel_size: Triple
    stride: Triple
    padding: Triple
    dilation: Triple
    is_ceil: bool
    is_mean: bool = False


@dataclass
class Step:
    """One call.

    Attributes:
        node: what torch.export calls the value that it makes.
        work: a convolution or pool, for which a way is to be found, or what to call.
        args: of the call; nodes stand for values made before.
        kwargs: likewise.
        is_last_use: whether its operand may be overwritten: the `other` of a convolution, the first of a plain call.
        frees: values that no later step needs.
    """

    node: Node
    work: Convolution | Pool | Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    is_last_use: bool = False
    frees: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Graph:
    """What `capture` found.

    Attributes:
        steps: in the order in which they run.
        constants: values that depend on no input and that steps read.
        inputs: nodes of the tensors given, in order.
        outputs: nodes, or plain values, of the answer's tensors, in order.
        given: structure of the arguments.
        answer: structure of the answer.
        limits: of each symbol of an input's shape, the least and the most.
    """

    steps: tuple[Step, ...]
    constants: Mapping[Node, Any]
    inputs: tuple[Node, ...]
    outputs: tuple[Any, ...]
    given: Any
    answer: Any
    limits: Mapping[str, tuple[float, float]]

    def fits(self, tensors: Sequence[Tensor], given: Any) -> bool:
        """Whether it holds for inputs of these shapes (any, as the network takes), such as (B, C, T, H, W)."""
        if given != self.given or len(tensors) != len(self.inputs):
            return False
        sizes: dict[str, int] = {}
        for node, x in zip(self.inputs, tensors, strict=True):
            known = node.meta["val"]
            if known.dtype != x.dtype or known.ndim != x.ndim:
                return False
            for size, n in zip(known.shape, x.shape, strict=True):
                if isinstance(size, int):
                    if size != n:
                        return False
                    continue
                low, high = self.limits[str(size)]
                if not low <= n <= high or sizes.setdefault(str(size), n) != n:
                    return False
        return True


# What makes memory of its own, which a later step may write to; of all else it is taken that it may show its operands'.
FRESH = {
    A.conv3d.default,
    A.batch_norm.default,
    A.add.Tensor,
    A.mul.Tensor,
    A.relu.default,
    A.silu.default,
    A.sigmoid.default,
    A.hardswish.default,
    A.cat.default,
    A.max_pool3d.default,
    A.avg_pool3d.default,
    A.mean.dim,
    A.linear.default,
    A.group_norm.default,
    A.instance_norm.default,
    A.conv_transpose3d.input,
}
IN_PLACE: dict[Any, Callable[..., Tensor]] = {
    A.relu.default: torch.relu_,
    A.silu.default: lambda x: F.silu(x, inplace=True),
    A.sigmoid.default: torch.sigmoid_,
    A.hardswish.default: lambda x: F.hardswish(x, inplace=True),
    A.leaky_relu.default: F.leaky_relu_,
    A.add.Tensor: Tensor.add_,
    A.mul.Tensor: Tensor.mul_,
}


def scheduled(steps: Sequence[Step], inputs: Sequence[Node], outputs: Sequence[Any]) -> tuple[Step, ...]:
    """Those that are needed, with what each frees and may overwrite."""
    needed = {each for each in outputs if isinstance(each, Node)}
    kept = []
    for step in reversed(steps):
        is_check = step.node.name.startswith("_assert")
        if step.node in needed or is_check:
            needed |= set(reads(step))
            kept.append(step)
    kept.reverse()
    # the values whose memory a value may show, itself among them where it has its own
    roots: dict[Node, set[Node]] = {node: {node} for node in inputs}
    for step in kept:
        has_own = isinstance(step.work, Convolution | Pool) or step.node.target in FRESH
        shown = {step.node} if has_own else {step.node}.union(*(roots.get(each, set()) for each in reads(step)))
        roots[step.node] = shown
    last: dict[Node, int] = {}  # the last step that reads a value
    seen: dict[Node, int] = {}  # or anything that shows its memory
    for i, step in enumerate(kept):
        for each in reads(step):
            last[each] = i
            for root in roots.get(each, ()):
                seen[root] = i
    end = len(kept)
    for each in outputs:
        for root in roots.get(each, ()) if isinstance(each, Node) else ():
            seen[root] = end
        if isinstance(each, Node):
            last[each] = end
    frees: list[list[Node]] = [[] for _ in kept]
    for node, i in last.items():
        if i < end and node in roots and node not in inputs:
            frees[i].append(node)
    for i, step in enumerate(kept):
        step.frees = (*frees[i], *([step.node] if step.node not in last else []))
        operand = _operand(step)
        if operand is not None and operand not in inputs and roots.get(operand) == {operand} and seen[operand] == i:
            is_alone = sum(operand in roots.get(each, ()) for each in reads(step)) == 1
            step.is_last_use = is_alone and _takes(step, operand)
    return tuple(kept)


def reads(step: Step) -> list[Node]:
    """Values that a step reads, as often as it does."""
    found: list[Node] = []
    map_arg((step.args, dict(step.kwargs)), found.append)
    return found


def _operand(step: Step) -> Node | None:
    """What a step could write its answer to."""
    if isinstance(step.work, Convolution):
        return step.args[1]
    if step.work in IN_PLACE and not step.kwargs and step.args:
        first = step.args[0]
        return first if isinstance(first, Node) else None
    return None


def _takes(step: Step, operand: Node) -> bool:
    """Whether the answer has the operand's shape and type."""
    mine, theirs = step.node.meta["val"], operand.meta["val"]
    return mine.shape == theirs.shape and mine.dtype == theirs.dtype
