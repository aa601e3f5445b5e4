"""A network followed once by torch.export, and rewritten as the steps of a graph.

A convolution takes the batch norm, the sum with a shortcut and the activation that follow it, and the zeros that a
layer of its own puts around its input. What depends on weights alone is worked out once. Everything else stays the
operator that torch.export found.
"""

from __future__ import annotations

import logging
import math
import operator
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree  # what torch.export describes inputs and outputs with
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_arg

from . import speed
from .blocks import Triple, triple
from .graph import Activation, Convolution, Graph, Norm, Pool, Step, reads, scheduled
from .runtimes import silent
from .speed import Layer

A = torch.ops.aten


def capture(model: nn.Module, inputs: tuple[Any, ...]) -> Graph:
    """Follow a network in evaluation mode on example inputs, without running it.

    The first axis of each input is free where torch.export proves that it is and the example has 2 or more there, since
    a network may do something else with one clip.

    Args:
        model: any nn.Module.
        inputs: its positional arguments, tensors such as (B, C, T, H, W) or lists of them.

    Raises:
        ValueError: it writes to its inputs or weights, or does something that steps cannot repeat.
        Exception: whatever torch.export raises for a network that it cannot follow.
    """
    program = followed(model, inputs)
    if any(_writes(node) for node in program.graph.nodes):
        with _quiet():
            program = program.run_decompositions({})
    signature = program.graph_signature
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        raise ValueError("it writes to its inputs or buffers")
    _shorten(program.graph)
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    named |= signature.inputs_to_lifted_tensor_constants
    state = {**program.state_dict, **program.constants}
    nodes = list(program.graph.nodes)
    constants: dict[Node, Any] = {n: state[named[n.name]].detach() for n in nodes if n.name in named}
    batch = next((int(each.shape[0]) for each in pytree.tree_leaves(inputs) if each.ndim), 1)
    graph = outline(program, inputs)
    steps = scheduled(_Rewriting(constants, batch).steps(nodes), graph.inputs, graph.outputs)
    read = {each for step in steps for each in reads(step)} | {each for each in graph.outputs if isinstance(each, Node)}
    return replace(graph, steps=steps, constants={node: value for node, value in constants.items() if node in read})


def followed(model: nn.Module, inputs: tuple[Any, ...]) -> torch.export.ExportedProgram:
    """A network followed by torch.export on inputs such as (B, C, T, H, W), the first axis free as in `capture`.

    Raises:
        Exception: whatever torch.export raises for a network that it cannot follow.
    """
    # of views of one another, such as every fourth frame, torch.export loses the sizes
    inputs = pytree.tree_map(lambda x: x.detach().clone(), inputs)
    shapes = torch.export.ShapesCollection()
    for each in pytree.tree_leaves(inputs):
        if each.ndim and each.shape[0] > 1:
            shapes[each] = {0: torch.export.Dim.AUTO}
    program = _exported(model, inputs, shapes.dynamic_shapes(model, inputs))
    if any(is_free for is_free in _guards(program)):
        program = _exported(model, inputs, None)
    return program


def outline(program: torch.export.ExportedProgram, inputs: tuple[Any, ...]) -> Graph:
    """What goes into a program, such as (B, C, T, H, W), and what comes out, without its steps."""
    nodes = list(program.graph.nodes)
    users = set(program.graph_signature.user_inputs)
    return Graph(
        (),
        {},
        tuple(node for node in nodes if node.op == "placeholder" and node.name in users),
        tuple(nodes[-1].args[0]),
        pytree.tree_structure(inputs),
        program.call_spec.out_spec,
        {str(name): (_bound(r.lower), _bound(r.upper)) for name, r in program.range_constraints.items()},
    )


def _exported(model: nn.Module, inputs: tuple[Any, ...], shapes: Any) -> torch.export.ExportedProgram:
    with torch.no_grad(), speed.torchs(), _quiet():
        return torch.export.export(model, inputs, dynamic_shapes=shapes, strict=False)


def _quiet() -> AbstractContextManager[None]:
    """Without what torch.export prints: of a network that it cannot follow the error says it in a line."""
    return silent("stderr", logging.CRITICAL, "torch")


def _guards(program: torch.export.ExportedProgram) -> list[Any]:
    """What torch.export had to take for granted about free sizes."""
    for node in program.graph.nodes:
        for size in getattr(node.meta.get("val"), "shape", ()) if node.op == "placeholder" else ():
            if not isinstance(size, int):
                return list(size.node.shape_env.guards)
    return []


def _bound(value: Any) -> float:
    return float(value) if value.is_finite else math.inf


def _writes(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _norm(node: Node) -> bool:
    """Whether it is a batch norm by running statistics."""
    if node.target == A.batch_norm.default:
        return not node.args[5]
    return node.target == A._native_batch_norm_legit_no_training.default


IDENTITIES = {A.contiguous.default, A.clone.default, A.detach.default, A.alias.default, A.lift_fresh_copy.default}
# What gives back what it is given, when sizes and type stay.
UNCHANGING = {
    *(A.slice.Tensor, A.expand.default, A.view.default, A.reshape.default, A.flatten.using_ints),
    *(A.to.device, A.to.dtype, A.to.dtype_layout, A._to_copy.default),
}
# What is made of sizes alone, and of which number.
MOST_MADE = 2**16  # numbers: more would take memory from call to call that is as quickly made anew
MADE = {A.new_ones.default: 1, A.ones_like.default: 1, A.new_zeros.default: 0, A.zeros_like.default: 0}
DROPOUTS = {A.dropout.default, A.feature_dropout.default, A.alpha_dropout.default, A.feature_alpha_dropout.default}
RESHAPES = {A.view.default, A._unsafe_view.default}
# The rest of these would see the layout, which is another one here.
REFUSED = {A.as_strided.default, A.empty_strided.default, A.set_.source_Tensor}


def _shorten(graph: torch.fx.Graph) -> None:
    """Take out what gives back what it is given, of which the steps of a stream have hundreds."""
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target == A.cat.default:
            node.args = (_with_elements(node), *node.args[1:])
        x = _given_back(node)
        if x is not None:
            node.replace_all_uses_with(x)
            graph.erase_node(node)


def _with_elements(cat: Node) -> Any:
    """What a concatenation is of, without tensors that are empty."""
    parts: Any = cat.args[0]
    kept = [x for x in parts if 0 not in _sizes(x) or x.meta["val"].dtype != cat.meta["val"].dtype]
    return kept or parts


def _given_back(node: Node) -> Node | None:
    """What a node gives back as it was given, with the same sizes, type and values."""
    x: Any = node.args[0] if node.args else None
    if node.target == A.cat.default and len(x) == 1:
        (x,) = x
    if not isinstance(x, Node):
        return None
    if node.target == A.permute.default and x.target == A.permute.default:
        inner, outer = (cast(list[int], each.args[1]) for each in (x, node))
        is_undone = all(inner[axis] % len(inner) == i for i, axis in enumerate(outer))
        return cast(Node, x.args[0]) if is_undone else None
    if node.target in DROPOUTS:
        return None if node.args[2] else x
    if node.target in (A.pad.default, A.constant_pad_nd.default):
        return x if all(isinstance(n, int) and n == 0 for n in cast(list[Any], node.args[1])) else None
    if node.target not in UNCHANGING and node.target not in IDENTITIES and node.target != A.cat.default:
        return None
    mine, given = node.meta["val"], x.meta["val"]
    return x if _sizes(node) == _sizes(x) and (mine.dtype, mine.device) == (given.dtype, given.device) else None


def _sizes(node: Node) -> list[int | str]:
    """Of a tensor such as (B, C, T, H, W); free ones by name, since torch.export would fix what is compared."""
    return [n if isinstance(n, int) else str(n) for n in node.meta["val"].shape]


def _activation(node: Node) -> Activation | None:
    """What oneDNN has for a node, None for nothing."""
    simple: dict[Any, tuple[str, Callable[[Tensor], Tensor]]] = {
        A.relu.default: ("relu", torch.relu),
        A.silu.default: ("swish", F.silu),
        A.sigmoid.default: ("sigmoid", torch.sigmoid),
        A.tanh.default: ("tanh", torch.tanh),
        A.hardswish.default: ("hardswish", F.hardswish),
        A.hardsigmoid.default: ("hardsigmoid", F.hardsigmoid),
    }
    if node.target in simple:
        return Activation(*simple[node.target])
    if node.target == A.leaky_relu.default:
        slope = float(node.args[1]) if len(node.args) > 1 else 0.01  # type: ignore[arg-type]
        return Activation("leaky_relu", lambda x: F.leaky_relu(x, slope), (slope,))
    if node.target == A.relu6.default:
        return Activation("hardtanh", F.relu6, (0.0, 6.0))
    return None


def _shape(node: Node, batch: int) -> tuple[int, ...]:
    """Of a node's value, (B, C, T, H, W) say, with the example's batch."""
    return tuple(size if isinstance(size, int) else batch for size in node.meta["val"].shape)


def _only_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


class _Rewriting:
    """Nodes to steps, from the first to the last; `constants` grows by what depends on constants alone."""

    def __init__(self, constants: dict[Node, Any], batch: int) -> None:
        self.constants = constants
        self.batch = batch
        self.made: dict[Node, Step] = {}
        self.inside: set[Node] = set()  # a later node of a step that is made
        self.around: dict[Node, tuple[Node, Triple]] = {}  # convolutions with the zeros before them
        self.known: set[Node] = set()  # values there are by now

    def steps(self, nodes: Sequence[Node]) -> list[Step]:
        """All of them."""
        for node in nodes:
            if node.op == "placeholder":
                self.known.add(node)
            elif node.op == "call_function" and node not in self.inside:
                step = self._step(node)
                if step is not None:
                    self.made[step.node] = step
                    self.known.add(step.node)
            elif node.op not in ("call_function", "output"):
                raise ValueError(f"it has a part that steps cannot repeat ({node.op} {node.target})")
        return list(self.made.values())

    def _step(self, node: Node) -> Step | None:
        target = node.target
        if target in REFUSED or isinstance(target, torch._ops.HigherOrderOperator):
            raise ValueError(f"it has an operator that steps cannot repeat ({target})")
        if target == A._assert_tensor_metadata.default:
            return None
        if target in MADE and all(isinstance(n, int) for n in _sizes(node)) and node.meta["val"].numel() <= MOST_MADE:
            value = node.meta["val"]
            self.constants[node] = torch.full(value.shape, MADE[target], dtype=value.dtype, device=value.device)
            return None
        if self._is_constant(node):
            arguments = map_arg((node.args, node.kwargs), self.constants.__getitem__)
            with torch.no_grad():
                self.constants[node] = target(*arguments[0], **arguments[1])  # type: ignore[operator]
            return None
        if target == A.conv3d.default and self._is_weight(node.args[1]):
            return self._convolution(node)
        if target in (A.max_pool3d.default, A.max_pool3d_with_indices.default):
            return self._pool(node)
        if target == A.avg_pool3d.default:
            return self._average(node)
        if target in (A.pad.default, A.constant_pad_nd.default) and self._goes_inside(node):
            return None
        return self._call(node)

    def _is_constant(self, node: Node) -> bool:
        tags = getattr(node.target, "tags", ())
        is_random = torch.Tag.nondeterministic_seeded in tags
        return not is_random and all(each in self.constants for each in node.all_input_nodes)

    def _is_weight(self, node: Any) -> bool:
        value = self.constants.get(node)
        return isinstance(value, Tensor) and value.ndim == 5 and value.dtype == torch.float32

    def _goes_inside(self, node: Node) -> bool:
        """Whether a pad is taken over by the convolution or maximum that alone reads it."""
        user = _only_user(node)
        x, pads, *rest = node.args
        mode, value = (rest[0], rest[1:]) if rest and isinstance(rest[0], str) else ("constant", rest)
        is_zero = mode == "constant" and not any(value) and not node.kwargs
        if user is None or not is_zero or not isinstance(x, Node) or x.meta["val"].ndim != 5:
            return False
        ends = list(pads) + [0] * (6 - len(pads))  # type: ignore[arg-type]
        if len(ends) > 6 or not all(isinstance(n, int) and n >= 0 for n in ends):
            return False
        before, after = triple(ends[4::-2]), triple(ends[5::-2])
        if user.target == A.conv3d.default and user.args[0] is node and self._is_weight(user.args[1]):
            if before != after:
                return False
        elif user.target == A.max_pool3d.default and user.args[0] is node:
            if not self._is_positive(x) or not _ends_alike(user, before, after):
                return False
        else:
            return False
        self.around[user] = (x, before)
        return True

    def _is_positive(self, node: Node) -> bool:
        """Whether no value is below 0, for which a maximum may take zeros outside for nothing."""
        if node.target in (A.relu.default, A.sigmoid.default, A.relu6.default):
            return True
        if node.target == A.max_pool3d.default:
            return self._is_positive(node.args[0])  # type: ignore[arg-type]
        if node.target == A.cat.default:
            return all(self._is_positive(each) for each in node.args[0])  # type: ignore[union-attr, arg-type]
        if node.target == A.mul.Tensor and all(isinstance(each, Node) for each in node.args):
            return all(self._is_positive(each) for each in node.args)  # type: ignore[arg-type]
        return node.target == A.expand.default and self._is_positive(node.args[0])  # type: ignore[arg-type]

    def _convolution(self, node: Node) -> Step | None:
        x, weight, bias, stride, padding, dilation, groups = _filled(node, None, 1, 0, 1, 1)
        x, zeros = self.around.get(node, (x, (0, 0, 0)))
        w = self.constants[weight]
        b = None if bias is None else self.constants.get(bias)
        size = _shape(x, self.batch)
        if len(size) != 5 or (bias is not None and b is None):
            return self._call(node)
        inner = speed.of_three(padding)
        layer = Layer(
            in_channels=size[1],
            size=triple(size[2:]),
            out_channels=w.shape[0],
            kernel_size=triple(w.shape[2:]),
            stride=speed.of_three(stride),
            padding=triple([p + z for p, z in zip(inner, zeros, strict=True)]),
            dilation=speed.of_three(dilation),
            groups=groups,
        )
        last, folded = node, None
        norm = _only_user(last)
        if norm is not None and _norm(norm) and all(n in self.constants for n in norm.args[1:5] if n is not None):
            gain, shift = (None if n is None else self.constants[cast(Node, n)] for n in norm.args[1:3])
            mean, var = (self.constants[cast(Node, n)] for n in norm.args[3:5])
            eps = cast(float, norm.args[7] if norm.target == A.batch_norm.default else norm.args[6])
            folded = Norm(gain, shift, mean, var, eps)
            self.inside.add(norm)
            last = norm
            if norm.target != A.batch_norm.default:
                (last,) = norm.users
                self.inside.add(last)
        product = _only_user(last)
        gain = None if product is None else self._gain(product, last, w.shape[0])
        if product is not None and gain is not None:
            folded = _scaled(folded or Norm(None, None, torch.zeros_like(gain), torch.ones_like(gain), 0.0), gain)
            self.inside.add(product)
            last = product
        conv = Convolution(layer, size[0], w, b, norm=folded)
        total = _only_user(last)
        other = None if total is None else self._other(total, last)
        if total is not None and other is not None:
            self.inside.add(total)
            conv, last = replace(conv, has_other=True), total
        activated = _only_user(last)
        activation = None if activated is None else _activation(activated)
        if activated is not None and activation and (other is None or activation.name == "relu"):
            self.inside.add(activated)
            conv, last = replace(conv, activation=activation), activated
        return Step(last, conv, (x, other))

    def _gain(self, product: Node, last: Node, channels: int) -> Tensor | None:
        """(O,) what a value (B, O, T, H, W) is multiplied by, where that is a constant for each channel."""
        if product.target != A.mul.Tensor or len(product.args) != 2:
            return None
        left, right = product.args
        factor: Any = right if left is last else left
        value = torch.tensor(float(factor)) if isinstance(factor, int | float) else self.constants.get(factor)
        if not isinstance(value, Tensor) or value.dtype != torch.float32 or value.ndim > 5:
            return None
        is_per_channel = value.numel() == 1 or (value.ndim >= 4 and value.shape[-4:] == (channels, 1, 1, 1))
        if not is_per_channel or value.numel() not in (1, channels) or not value.isfinite().all():
            return None  # what is no number would be hidden by oneDNN's ReLU
        return value.flatten().expand(channels)

    def _other(self, total: Node, last: Node) -> Node | None:
        """What is added to a value in a sum, where that is there already and of the same shape."""
        if total.target != A.add.Tensor or total.kwargs or len(total.args) != 2:
            return None
        left, right = total.args
        other = right if left is last else left
        if not isinstance(other, Node) or other is last or other not in self.known or other in self.constants:
            return None
        one, two = other.meta["val"], last.meta["val"]
        is_same = isinstance(one, Tensor) and one.shape == two.shape and one.dtype == two.dtype  # not a free size
        return other if is_same else None

    def _pool(self, node: Node) -> Step:
        last = node
        if node.target != A.max_pool3d.default:  # what it is decomposed to, with the places
            user = _only_user(node)
            if user is None or user.target is not operator.getitem or user.args[1] != 0:
                return self._call(node)
            self.inside.add(user)
            last = user
        if node.args[0].meta["val"].ndim != 5:  # type: ignore[union-attr]
            return self._call(node)
        x, kernel, stride, padding, dilation, is_ceil = _filled(node, [], 0, 1, False)
        kernel_size, strides = speed.of_three(kernel), speed.of_three(stride or kernel)
        x, zeros = self.around.get(node, (x, None))
        paddings = speed.of_three(padding) if zeros is None else zeros
        pool = Pool(
            _shape(x, self.batch),
            kernel_size,
            strides,
            paddings,
            speed.of_three(dilation),
            is_ceil or zeros is not None,
        )
        return Step(last, pool, (x,))

    def _average(self, node: Node) -> Step:
        x, kernel, stride, padding, is_ceil, counts_zeros, divisor = _filled(node, [], 0, False, True, None)
        paddings = speed.of_three(padding)
        if x.meta["val"].ndim != 5 or is_ceil or divisor is not None or (any(paddings) and not counts_zeros):
            return self._call(node)
        kernel_size, strides = speed.of_three(kernel), speed.of_three(stride or kernel)
        pool = Pool(_shape(x, self.batch), kernel_size, strides, paddings, (1, 1, 1), False, is_mean=True)
        return Step(node, pool, (x,))

    def _call(self, node: Node) -> Step:
        work, args, kwargs = node.target, node.args, node.kwargs
        if work in RESHAPES:
            work = torch.reshape
        elif work == A.group_norm.default:
            work, args = speed.group_norm, args[:5]
        elif work == A.instance_norm.default and args[5]:
            work, args = speed.instance_norm, (args[0], args[3], args[4], args[1], args[2], *args[5:8])
        assert callable(work)
        return Step(node, work, args, kwargs)


def _scaled(norm: Norm, gain: Tensor) -> Norm:
    """A norm, and what it gives times (O,)."""
    weight = gain if norm.weight is None else gain * norm.weight
    return replace(norm, weight=weight, bias=None if norm.bias is None else gain * norm.bias)


def _filled(node: Node, *rest: Any) -> list[Any]:
    """The arguments of a node: two, and others, which are these where they are left out."""
    given: list[Any] = [*node.args]
    return given + list(rest[len(given) - 2 :])


def _ends_alike(pool: Node, before: Triple, after: Triple) -> bool:
    """Whether a maximum that pads `before` on either side and may end outside does the same as its own with pads."""
    x, kernel, stride, padding, dilation, is_ceil = _filled(pool, [], 0, 1, False)
    if any(speed.of_three(padding)) or speed.of_three(dilation) != (1, 1, 1) or is_ceil:
        return False
    found = []
    sizes = x.args[0].meta["val"].shape[2:]
    for n, k, s, p in zip(sizes, speed.of_three(kernel), speed.of_three(stride or kernel), before, strict=True):
        if 2 * p > k:
            return False
        outputs = -(-(n + 2 * p - k) // s) + 1
        found.append(outputs - ((outputs - 1) * s >= n + p))
    return tuple(found) == tuple(pool.meta["val"].shape[2:]) and all(
        b <= a <= b + 1 for b, a in zip(before, after, strict=True)
    )
