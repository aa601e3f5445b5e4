"""Fast convolutions for training on a CPU, chosen by a short measurement; modules and weights stay as they are.

torch sends some 3D convolutions of float32 to a slow kernel (on one thread those of kernel (k, 1, 1), forward and
backward), and its gradients of depthwise ones are slow in any precision. Here the same sums are written as 2D
convolutions over frames or over time, as matrix products or as forward convolutions, for which oneDNN is fast, in
channels-last layout, or go with fewer multiplications through the kernels of `tubelet.kernels`. `choose` times these
ways for each layer of a network, `applied` puts the chosen ones in the place of `conv3d` while it lasts.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.autograd.function import once_differentiable

from . import kernels
from .blocks import Triple, triple
from .terminal import Table

LAST = torch.channels_last_3d
FAST_DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Layer:
    """What the speed of a convolution depends on, apart from the batch; triples are (t, h, w).

    Attributes:
        in_channels: C of its input.
        size: (T, H, W) of its input.
        out_channels: C of its output.
        kernel_size: of the weight.
        stride: of the kernel.
        padding: zeros on either side.
        dilation: of the kernel.
        groups: of the channels.
    """

    in_channels: int
    size: Triple
    out_channels: int
    kernel_size: Triple
    stride: Triple
    padding: Triple
    dilation: Triple
    groups: int

    @property
    def output_size(self) -> Triple:
        """(T, H, W) of its output."""
        sizes = zip(self.size, self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        return triple([(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes])

    def __str__(self) -> str:
        parts = [f"{self.in_channels} -> {self.out_channels}, kernel {written(self.kernel_size)}"]
        parts += [f"stride {written(self.stride)}"] if self.stride != (1, 1, 1) else []
        parts += [f"{self.groups} groups"] if self.groups > 1 else []
        return ", ".join([*parts, f"on {written(self.size)}"])


@dataclass(frozen=True)
class Route:
    """The way taken to each part of a layer's step, by name: keys of `OUTPUT`, `GRAD_INPUT` and `GRAD_WEIGHT`."""

    output: str = "plain"
    grad_input: str = "plain"
    grad_weight: str = "plain"


@dataclass(frozen=True)
class Choices:
    """What was chosen for a network; `print` shows it.

    Attributes:
        routes: for each layer; empty leaves everything to torch.
        rows: what was measured, a row for each kind of layer, in milliseconds for `clips` clips.
        clips: clips in the batch that was timed.
    """

    routes: Mapping[Layer, Route]
    rows: tuple[dict[str, object], ...] = ()
    clips: int = 0

    def state(self) -> list[dict[str, Any]]:
        """The routes in plain numbers and words, for json; timings differ from run to run, so a run keeps its own."""
        return [{"layer": asdict(layer), "route": asdict(route)} for layer, route in self.routes.items()]

    @classmethod
    def restored(cls, state: list[dict[str, Any]]) -> Choices:
        """What `state` gave, from json or not.

        Raises:
            ValueError: it is something else, or has a way that this version does not know.
        """
        if not isinstance(state, list):
            raise ValueError("no list of layers")
        routes = {}
        for number, each in enumerate(state, 1):
            try:
                layer: dict[str, Any] = {
                    key: tuple(value) if isinstance(value, list) else value for key, value in each["layer"].items()
                }
                route = Route(**each["route"])
                routes[Layer(**layer)] = route
            except (AttributeError, KeyError, TypeError):
                raise ValueError(f"entry {number} is no layer with a route") from None
            for name, known in (
                (route.output, OUTPUT), (route.grad_input, GRAD_INPUT), (route.grad_weight, GRAD_WEIGHT),
            ):  # fmt: skip
                if name not in known:
                    raise ValueError(f"entry {number} takes the way {name!r}; there is {', '.join(known)}")
        return cls(routes)

    def __str__(self) -> str:
        return str(Table(list(self.rows), title=f"convolutions of a step of {self.clips} clips, milliseconds"))


def choose(model: nn.Module, *inputs: Tensor, dtype: torch.dtype = torch.float32, seconds: float = 5.0) -> Choices:
    """Time the ways to each convolution of a network and choose the fastest.

    On a GPU the choice is between torch's own two layouts. On a CPU without oneDNN, in another precision, or where the
    network's shapes depend on values, all is left to torch.

    Args:
        model: any nn.Module; it is not run, only its shapes are followed, and nothing in it changes.
        inputs: what a step gives it, a batch (B, C, T, H, W) first; only shapes and device count.
        dtype: precision of the convolutions: float32, or that of autocast.
        seconds: to spend at most, more or less, after the kernels were built, which is done once on a machine. The
            costly layers come first; the last ones take their usual way without being timed.

    Raises:
        ValueError: seconds is negative.
    """
    if seconds < 0:
        raise ValueError(f"seconds {seconds} must be at least 0")
    device = inputs[0].device
    if device.type == "cpu" and not (torch.backends.mkldnn.is_available() and dtype in FAST_DTYPES):
        return Choices({})
    layers = _layers(model, inputs)
    clips = min(2, len(inputs[0]))  # two stand for more; torch's way for one clip is another
    found = {layer: _ways(layer, device.type, dtype) for layer in sorted(layers, key=cost, reverse=True)}
    deadline = time.perf_counter() + seconds
    routes, rows, totals = {}, [], [0.0, 0.0]
    for layer, ways in found.items():
        if time.perf_counter() > deadline:
            routes[layer] = Route(*(names[0] for names in ways))
            continue
        plain, best, routes[layer] = _timed(layer, ways, clips, dtype, device)
        totals = [totals[0] + layers[layer] * plain, totals[1] + layers[layer] * best]
        row = {"layer": str(layer), "times": layers[layer], "plain": round(plain, 2), "chosen": round(best, 2)}
        rows.append({**row, **asdict(routes[layer])})
    rows.append({"layer": "all that were timed", "plain": round(totals[0], 1), "chosen": round(totals[1], 1)})
    return Choices(routes if totals[1] <= totals[0] else {}, tuple(rows), clips)


@contextmanager
def applied(choices: Choices) -> Iterator[None]:
    """While it lasts, convolutions of this process whose layer is among the choices take their route.

    The whole step belongs inside, backward included. Networks, their weights and copies of them are not touched.
    Other convolutions are torch's, but for an error of oneDNN: where a padded axis is not longer than the kernel,
    torch's own gradient of the weight may be any number at all. Gradients of gradients are an error. Where the
    Winograd kernels that were chosen cannot be had, as on another machine, the usual way takes their place.
    """
    norm = {"batch_norm": _batch_norm} if choices.routes else {}
    with _instead(conv3d=partial(_conv3d, choices.routes), **norm):
        yield


@contextmanager
def inference() -> Iterator[None]:
    """While it lasts, float32 networks on a CPU run without gradients, in channels-last layout.

    It concerns convolutions, which go through oneDNN or the Winograd kernels, group norms and instance norms of
    (B, C, T, H, W), and leaves all else to torch, such as another device or precision. Networks, their weights and
    copies of them are not touched. The first large convolution on a machine has the kernels built, in some seconds.
    """
    with torch.no_grad(), _instead(conv3d=_conv3d_alone, group_norm=group_norm, instance_norm=instance_norm):
        yield


@contextmanager
def _instead(**functions: Callable[..., Tensor]) -> Iterator[None]:
    """Other functions under these names of `torch.nn.functional`, where torch's modules look them up at each call.

    A TorchFunctionMode would not do: it ends at `backward`, in which checkpointed stages run again.
    """
    with _LOCK:
        _ACTIVE.append(functions)
        _put()
    try:
        yield
    finally:
        with _LOCK:  # another thread may have come in between, and stays
            _ACTIVE[:] = [each for each in _ACTIVE if each is not functions]
            _put()


def _put() -> None:
    """The functions of those who came last, and torch's own where nobody is left."""
    for name, function in {**_TORCHS, **{name: f for each in _ACTIVE for name, f in each.items()}}.items():
        setattr(F, name, function)


def torchs() -> AbstractContextManager[None]:
    """While it lasts, `applied` and `inference` around it do nothing, in any thread: for who follows a network."""
    return _instead(**_TORCHS)


def _conv3d(
    routes: Mapping[Layer, Route],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.conv3d`, by the layer's route where it has one."""
    if _is_followed(input):
        return torch.conv3d(input, weight, bias, stride, padding, dilation, groups)
    if isinstance(padding, str) and of_three(stride) == (1, 1, 1):  # "same" with others is torch's error
        input, padding = _named(input, weight, padding, dilation)
    layer = _layer(input, weight, stride, padding, dilation, groups)
    route = routes.get(layer) if layer and input.numel() else None
    kind = input.device.type
    if route and kind == "cpu" and torch.is_autocast_enabled(kind):
        input, weight = (each.to(torch.get_autocast_dtype(kind)) for each in (input, weight))
    if layer is None or route is None or (kind == "cpu" and not input.dtype == weight.dtype in FAST_DTYPES):
        if layer is not None and kind == "cpu" and weight.requires_grad:
            input, padding = _around(input, layer.kernel_size, layer.padding, layer.dilation)
        return torch.conv3d(input, weight, bias, stride, padding, dilation, groups)
    if kind != "cpu":
        input, weight = (each.contiguous(memory_format=LAST) for each in (input, weight))
        return torch.conv3d(input, weight, bias, stride, padding, dilation, groups)
    if WINOGRAD in (route.output, route.grad_input) and not (input.dtype == torch.float32 and kernels.available()):
        route = _without_winograd(layer, route)
    output = _Convolution.apply(input, weight, layer, route)
    return output if bias is None else output + bias.to(output.dtype).view(-1, 1, 1, 1)


def _named(x: Tensor, w: Tensor, padding: str, dilation: Any) -> tuple[Tensor, Any]:
    """x and a padding in numbers for one by name; of "same" with an even kernel the zeros are put around x."""
    if padding != "same":
        return x, 0 if padding == "valid" else padding
    totals = [d * (k - 1) for k, d in zip(w.shape[2:], of_three(dilation), strict=True)]
    if any(total % 2 for total in totals):
        ends = [(total // 2, total - total // 2) for total in reversed(totals)]
        return F.pad(x, [n for pair in ends for n in pair]), 0
    return x, [total // 2 for total in totals]


def _around(
    x: Tensor, kernel_size: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[Tensor, list[int]]:
    """x (B, C, ...) with zeros around the axes that a kernel spans from end to end, and the padding that is left to do.

    There oneDNN's gradient of the weight is memory that nobody wrote, or it writes where it must not: in bfloat16, and
    in float32 with a stride (torch 2.13, on AVX512). It takes two frames for a kernel of three.
    """
    sizes = zip(x.shape[2:], kernel_size, padding, dilation, strict=True)
    zeros = [p if n <= d * (k - 1) + 1 else 0 for n, k, p, d in sizes]
    if any(zeros):
        x = F.pad(x, [each for each in reversed(zeros) for _ in range(2)])
    return x, [p - z for p, z in zip(padding, zeros, strict=True)]


def _without_winograd(layer: Layer, route: Route) -> Route:
    """The usual ways in its place."""
    (output, *_), (grad_input, *_), _ = _ways(layer)
    return replace(
        route,
        output=output if route.output == WINOGRAD else route.output,
        grad_input=grad_input if route.grad_input == WINOGRAD else route.grad_input,
    )


def _layer(x: Tensor, w: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> Layer | None:
    """None for what is no batch of clips, or padded by name."""
    if x.ndim != 5 or isinstance(padding, str):
        return None
    stride, padding, dilation = (of_three(each) for each in (stride, padding, dilation))
    return Layer(x.shape[1], triple(x.shape[2:]), w.shape[0], triple(w.shape[2:]), stride, padding, dilation, groups)


def of_three(value: Any) -> Triple:
    """A size of a layer, as torch takes it, as (t, h, w)."""
    return triple(value if isinstance(value, int) or len(value) == 3 else int(value[0]))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, layer: Layer, route: Route) -> Tensor:
        x = x.contiguous(memory_format=LAST)
        ctx.save_for_backward(x, w)
        ctx.layer, ctx.route = layer, route
        return OUTPUT[route.output](layer, x, w)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        g = g.contiguous(memory_format=LAST)
        of_x, of_w = ctx.needs_input_grad[:2]
        grad_x = GRAD_INPUT[ctx.route.grad_input](ctx.layer, x, w, g) if of_x else None
        grad_w = GRAD_WEIGHT[ctx.route.grad_weight](ctx.layer, x, w, g) if of_w else None
        return grad_x, grad_w, None, None


# The ways. x is (B, C, T, H, W), w (O, C / groups, t, h, w), g the gradient of the output (B, O, T', H', W'). x and g
# are in channels-last layout, so that frames of (B, T) and positions of (H, W) flatten without a copy.


def _frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B T, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)


def _backward(axes: slice, wanted: int, layer: Layer, x: Tensor, w: Tensor, g: Tensor) -> Tensor:
    """torch's gradient of the input (wanted 0) or the weight (1) of a convolution over these axes of (t, h, w)."""
    stride, padding, dilation = (list(each)[axes] for each in (layer.stride, layer.padding, layer.dilation))
    if wanted == 1:
        x, padding = _around(x, w.shape[2:], padding, dilation)
    mask, zeros = [wanted == 0, wanted == 1, False], [0] * len(stride)
    backward = torch.ops.aten.convolution_backward
    return backward(g, x, w, None, stride, padding, dilation, False, zeros, layer.groups, mask)[wanted]


ALL, SPACE, TIME = slice(None), slice(1, None), slice(0, 2)


def _plain(layer: Layer, x: Tensor, w: Tensor) -> Tensor:
    return torch.conv3d(x, w, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def _onednn(layer: Layer, x: Tensor, w: Tensor) -> Tensor:
    return torch.mkldnn_convolution(x, w, None, layer.padding, layer.stride, layer.dilation, layer.groups)


def _winograd(layer: Layer, x: Tensor, w: Tensor) -> Tensor:
    return kernels.run(x, kernels.pack(w, layer.stride, layer.padding, layer.dilation))


def _winograd_input(layer: Layer, x: Tensor, w: Tensor, g: Tensor) -> Tensor:
    return kernels.run(g, kernels.pack(w, layer.stride, layer.padding, layer.dilation, transposed=True))


def _plain_input(layer: Layer, x: Tensor, w: Tensor, g: Tensor) -> Tensor:
    return _backward(ALL, 0, layer, x, w, g)


def _plain_weight(layer: Layer, x: Tensor, w: Tensor, g: Tensor) -> Tensor:
    return _backward(ALL, 1, layer, x, w, g)


def _frames_input(layer: Layer, x: Tensor, w: Tensor, g: Tensor) -> Tensor:
    grad = _backward(SPACE, 0, layer, _frames(x), w[:, :, 0], _frames(g))
    return grad.unflatten(0, (x.shape[0], -1)).transpose(1, 2)


def _frames_weight(layer: Layer, x: Tensor, w: Tensor, g: Tensor) -> Tensor:
    return _backward(SPACE, 1, layer, _frames(x), w[:, :, 0], _frames(g)).unsqueeze(2)


def _times_input(layer: Layer, x: Tensor, w: Tensor, g: Tensor) -> Tensor:
    return _backward(TIME, 0, layer, x.flatten(3), w[..., 0], g.flatten(3)).unflatten(3, x.shape[3:])


def _times_weight(layer: Layer, x: Tensor, w: Tensor, g: Tensor) -> Tensor:
    return _backward(TIME, 1, layer, x.flatten(3), w[..., 0], g.flatten(3)).unsqueeze(4)


def _flipped_input(layer: Layer, x: Tensor, w: Tensor, g: Tensor) -> Tensor:
    """A forward convolution of the gradient, spread by the stride, with the kernel turned round."""
    reach = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
    padding = [r - p for r, p in zip(reach, layer.padding, strict=True)]
    if layer.stride != (1, 1, 1):
        size = [n - r + 2 * p for n, r, p in zip(layer.size, reach, layer.padding, strict=True)]
        spread = torch.empty(*g.shape[:2], *size, dtype=g.dtype, memory_format=LAST).zero_()
        spread[:, :, :: layer.stride[0], :: layer.stride[1], :: layer.stride[2]] = g
        g = spread
    turned = w.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1).flip(2, 3, 4)
    return torch.mkldnn_convolution(g, turned, None, padding, (1, 1, 1), layer.dilation, layer.groups)


def _taps(layer: Layer) -> Iterator[tuple[int, slice, slice]]:
    """For each frame of the kernel: its number, the frames of the output that it reaches, and theirs of the input."""
    frames, outputs = layer.size[0], layer.output_size[0]
    s, p, d = layer.stride[0], layer.padding[0], layer.dilation[0]
    for tap in range(layer.kernel_size[0]):
        first = max(0, -(-(p - tap * d) // s))
        end = min(outputs, (frames - 1 + p - tap * d) // s + 1)
        if first < end:
            start = first * s + tap * d - p
            yield tap, slice(first, end), slice(start, start + (end - first - 1) * s + 1, s)


def _taps_weight(layer: Layer, x: Tensor, w: Tensor, g: Tensor) -> Tensor:
    """A 2D convolution's gradient for each frame of the kernel and each clip, where all is a view."""
    grad = torch.zeros_like(w)
    for tap, of_output, of_input in _taps(layer):
        for clip, gradient in zip(x, g, strict=True):
            frames, wanted = (each.transpose(0, 1) for each in (clip[:, of_input], gradient[:, of_output]))
            grad[:, :, tap] += _backward(SPACE, 1, layer, frames, w[:, :, tap], wanted)
    return grad


def _matmul_weight(layer: Layer, x: Tensor, w: Tensor, g: Tensor) -> Tensor:
    """A matrix product for each frame of the kernel and each clip, where all is a view."""
    grad = w.new_zeros(w.shape[2], *w.shape[:2])
    for tap, of_output, of_input in _taps(layer):
        for clip, gradient in zip(x, g, strict=True):
            positions, wanted = (each.flatten(1) for each in (clip[:, of_input], gradient[:, of_output]))
            grad[tap].addmm_(wanted, positions.t())
    return grad.permute(1, 2, 0)[..., None, None]


# In this layout torch's own batch norm adds up a whole map, one number after the other, and loses two digits of seven
# (in its usual layout it does not). Sums of some frames at a time, put together, keep them and take no longer.
POSITIONS = 4096
BATCH_NORM = F.batch_norm


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm`, more exactly where it trains on a float32 batch (B, C, T, H, W) in channels-last layout."""
    is_last = input.ndim == 5 and input.is_contiguous(memory_format=LAST) and not input.is_contiguous()
    is_single = input.device.type == "cpu" and input.dtype == torch.float32
    if not (training and is_last and is_single and weight is not None and bias is not None):
        return BATCH_NORM(input, running_mean, running_var, weight, bias, training, momentum, eps)
    output, mean, var = _BatchNorm.apply(input, weight, bias, eps)
    if running_mean is not None and running_var is not None:
        count = input.numel() // input.shape[1]
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * (count / (count - 1)), momentum)
    return output


def _parts(x: Tensor) -> tuple[Tensor, ...]:
    """(B, C, T, H, W) -> some frames (n, C, H, W) each."""
    return _frames(x).split(max(1, POSITIONS // (x.shape[3] * x.shape[4])))


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        parts = _parts(x)
        shares = x.new_tensor([[part.shape[0] for part in parts]]) / (x.shape[0] * x.shape[2])
        measured = [torch.ops.aten.batch_norm_update_stats(part, None, None, 0.0) for part in parts]
        means, variances = (torch.stack(each) for each in zip(*measured, strict=True))
        mean = (shares @ means)[0]
        var = (shares @ (variances + (means - mean).square()))[0]
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt())
        ctx.mark_non_differentiable(mean, var)
        return torch.native_batch_norm(x, weight, bias, mean, var, False, 0.0, eps)[0], mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        g = g.contiguous(memory_format=LAST)
        backward, mask = torch.ops.aten.native_batch_norm_backward, [False, True, True]
        sums = [
            backward(of_g, of_x, weight, None, None, mean, scale, True, 0.0, mask)[1:]
            for of_x, of_g in zip(_parts(x), _parts(g), strict=True)
        ]
        grad_weight, grad_bias = (torch.stack(each).sum(0) for each in zip(*sums, strict=True))
        count = x.numel() // x.shape[1]
        of_g = weight * scale
        of_x = -of_g * scale * grad_weight / count
        rest = -of_g * grad_bias / count - of_x * mean
        of_g, of_x, rest = (each.view(-1, 1, 1, 1) for each in (of_g, of_x, rest))
        return torch.addcmul(rest, g, of_g).addcmul_(x, of_x), grad_weight, grad_bias, None


# The same for inference. torch's own group norm loses four digits of seven in channels-last layout, its instance norm
# leaves the layout.
GROUP_NORM, INSTANCE_NORM = F.group_norm, F.instance_norm
# torch's own of what `_instead` changes, and what is in their place now: of who came last, the last
_TORCHS: dict[str, Callable[..., Tensor]] = {
    "conv3d": F.conv3d, "batch_norm": F.batch_norm, "group_norm": GROUP_NORM, "instance_norm": INSTANCE_NORM,
}  # fmt: skip
_ACTIVE: list[Mapping[str, Callable[..., Tensor]]] = []
_LOCK = threading.Lock()
WORTH_PACKING = 2048  # positions (B, T, H, W) of an output, from which on Winograd gains more than each packing costs


def _is_fast(x: Tensor) -> bool:
    """Whether it is a batch (B, C, T, H, W) that oneDNN is the way for, and nobody wants gradients or a graph.

    Another thread may train or export while this one is within `inference`.
    """
    if torch.is_grad_enabled() or _is_followed(x):
        return False
    is_single = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return is_single and x.ndim == 5 and x.numel() > 0 and torch.backends.mkldnn.is_available()


def _is_followed(x: Tensor) -> bool:
    """Whether torch.export or torch.jit.trace follows this call; neither has a word for the kernels."""
    is_fake = type(x) is not Tensor and isinstance(x, FakeTensor | FunctionalTensor)
    return is_fake or torch.jit.is_tracing()


def channels_last(x: Tensor) -> Tensor:
    """(B, C, T, H, W) in channels-last layout, in its strides too where there is one channel alone."""
    if x.shape[1] > 1:
        return x.contiguous(memory_format=LAST)
    return torch.empty_like(x, memory_format=LAST).copy_(x)


def _conv3d_alone(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.conv3d` without gradients; with them what stood here before."""
    if input.device.type != "cpu":  # first, since what reads `_ACTIVE` is compiled anew when that changes
        return torch.conv3d(input, weight, bias, stride, padding, dilation, groups)
    layer = None
    if _is_fast(input):
        alike = (weight.dtype, weight.device, weight.shape[1] * groups) == (input.dtype, input.device, input.shape[1])
        layer = _layer(input, weight, stride, padding, dilation, groups) if alike else None
    if layer is None:  # of another thread, say, that trains within `applied`
        others = (each.get("conv3d") for each in reversed([*_ACTIVE]))
        under = next((other for other in others if other not in (None, _conv3d_alone)), torch.conv3d)
        return under(input, weight, bias, stride, padding, dilation, groups)
    sizes = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    is_large = min(layer.output_size) > 0 and len(input) * math.prod(layer.output_size) >= WORTH_PACKING
    if is_large and kernels.supports(*sizes, groups, layer.in_channels, layer.out_channels) and kernels.available():
        return kernels.run(channels_last(input), kernels.pack(weight, *sizes[1:]), bias)
    x = channels_last(input)
    return torch.mkldnn_convolution(x, weight, bias, layer.padding, layer.stride, layer.dilation, groups)


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """`F.group_norm` without gradients."""
    if not _is_fast(input) or input.shape[1] % num_groups:
        return GROUP_NORM(input, num_groups, weight, bias, eps)
    return _normed(channels_last(input), num_groups, weight, bias, eps)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.instance_norm` without gradients."""
    if not _is_fast(input) or running_mean is not None or input[0, 0].numel() == 1:
        return INSTANCE_NORM(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    return _normed(channels_last(input), input.shape[1], weight, bias, eps)


def _normed(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Each group of channels of each sample of (B, C, T, H, W), in channels-last layout, to mean 0 and deviation 1."""
    output = torch.empty_like(x)
    for sample, out in zip(x.split(1), output.split(1), strict=True):
        # of a mean torch adds up parts, so that no digits are lost
        means = sample.mean((0, 2, 3, 4))
        variances = (sample - means.view(-1, 1, 1, 1)).square_().mean((0, 2, 3, 4)).view(groups, -1)
        means = means.view(groups, -1)
        mean = means.mean(1, keepdim=True)
        var = (variances + (means - mean).square()).mean(1, keepdim=True)
        mean, var = (each.expand_as(means).reshape(-1) for each in (mean, var))
        out.copy_(torch.native_batch_norm(sample, weight, bias, mean, var, False, 0.0, eps)[0])
    return output


WINOGRAD = "winograd"
OUTPUT: dict[str, Callable[[Layer, Tensor, Tensor], Tensor]] = {
    "plain": _plain,
    "onednn": _onednn,
    WINOGRAD: _winograd,
}
GRAD_INPUT: dict[str, Callable[[Layer, Tensor, Tensor, Tensor], Tensor]] = {
    "plain": _plain_input,
    "frames": _frames_input,
    "times": _times_input,
    "flipped": _flipped_input,
    WINOGRAD: _winograd_input,
}
GRAD_WEIGHT: dict[str, Callable[[Layer, Tensor, Tensor, Tensor], Tensor]] = {
    "plain": _plain_weight,
    "frames": _frames_weight,
    "times": _times_weight,
    "taps": _taps_weight,
    "matmul": _matmul_weight,
}


def _ways(
    layer: Layer, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[list[str], list[str], list[str]]:
    """Names of the ways to output, grad_input and grad_weight worth timing, the usually fastest first.

    torch's own, slower in this layout wherever there is another, is for the rest: dense kernels over time and space.
    """
    if device != "cpu":
        return ["plain"], ["plain"], ["plain"]
    (kt, *space), (st, *strides), (pt, *paddings) = layer.kernel_size, layer.stride, layer.padding
    by_frame = (kt, st, pt) == (1, 1, 0)
    by_time = (space, strides, paddings) == ([1, 1], [1, 1], [0, 0])
    grouped = layer.groups > 1
    turns = all(d * (k - 1) >= p for k, p, d in zip(layer.kernel_size, layer.padding, layer.dilation, strict=True))
    of_input = {"frames": by_frame, "times": by_time, "flipped": grouped and turns}
    of_weight = {"frames": by_frame, "matmul": by_time and not grouped, "times": by_time, "taps": grouped}
    inputs, weights = ([name for name, fits in each.items() if fits][:2] for each in (of_input, of_weight))
    outputs, inputs = ["onednn"], inputs or ["plain"]
    rest, c, o = (layer.dilation, layer.groups), layer.in_channels, layer.out_channels
    sizes = zip(layer.kernel_size, layer.padding, layer.dilation, strict=True)
    turned = [d * (k - 1) - p for k, p, d in sizes]
    forward = kernels.supports(layer.kernel_size, layer.stride, layer.padding, *rest, c, o)
    back = layer.stride == (1, 1, 1) and kernels.supports(layer.kernel_size, layer.stride, turned, *rest, o, c)
    if dtype == torch.float32 and (forward or back) and kernels.available():
        outputs += [WINOGRAD] if forward else []
        inputs += [WINOGRAD] if back else []
    return outputs, inputs, weights or ["plain"]


def _layers(model: nn.Module, inputs: tuple[Tensor, ...]) -> Counter[Layer]:
    """The convolutions that one pass of the network makes, and how often, without running it."""
    found: Counter[Layer] = Counter()

    def noted(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        layer = _layer(input, weight, stride, padding, dilation, groups)
        found.update([layer] if layer else [])
        return torch.conv3d(input, weight, bias, stride, padding, dilation, groups)

    with (
        suppress(DataDependentOutputException),  # of a head that looks at boxes, say: what comes before it is known
        FakeTensorMode(allow_non_fake_inputs=True) as fake,
        torch.no_grad(),
        _instead(conv3d=noted),
    ):
        state: dict[str, Tensor] = {}
        state |= {name: fake.from_tensor(value) for name, value in (*model.named_parameters(), *model.named_buffers())}
        torch.func.functional_call(model, state, tuple(fake.from_tensor(each) for each in inputs))
    return found


def cost(layer: Layer) -> float:
    """Grows with the time that a layer may take: multiplications, of which a depthwise kernel does few at a time."""
    t, h, w = layer.output_size
    kt, kh, kw = layer.kernel_size
    return t * h * w * kt * kh * kw * layer.out_channels * (layer.in_channels / layer.groups + 64)


def _timed(
    layer: Layer, ways: tuple[list[str], list[str], list[str]], clips: int, dtype: torch.dtype, device: torch.device
) -> tuple[float, float, Route]:
    """Milliseconds of torch's own step of a layer and of the fastest route, and that route."""
    generator = torch.Generator(device).manual_seed(0)  # its own: the order of a training's draws stays
    made = partial(torch.randn, dtype=dtype, device=device, generator=generator)
    x = made(clips, layer.in_channels, *layer.size)
    w = made(layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
    g = made(clips, layer.out_channels, *layer.output_size)
    plain = sum(
        milliseconds(call, device)
        for call in (
            partial(_plain, layer, x, w),
            partial(_plain_input, layer, x, w, g),
            partial(_plain_weight, layer, x, w, g),
        )
    )
    x, w, g = (each.contiguous(memory_format=LAST) for each in (x, w, g))
    best, taken = 0.0, []
    parts: tuple[tuple[Mapping[str, Callable[..., Tensor]], tuple[Tensor, ...]], ...] = (
        (OUTPUT, (x, w)),
        (GRAD_INPUT, (x, w, g)),
        (GRAD_WEIGHT, (x, w, g)),
    )
    for (known, tensors), names in zip(parts, ways, strict=True):
        times = {name: milliseconds(partial(known[name], layer, *tensors), device) for name in names}
        taken.append(min(times, key=times.__getitem__))
        best += times[taken[-1]]
    return plain, best, Route(*taken)


def milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """The least of some runs; of one alone where that takes long, since its first is not much slower then."""
    # of one thread processor time, to which other work on the machine adds nothing
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    least, spent = float("inf"), 0.0
    while spent < 0.05:
        start = clock()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took = clock() - start
        least, spent = min(least, took), spent + max(took, 0.01)
    return 1000 * least


def written(sizes: Triple) -> str:
    """(t, h, w) as "txhxw"."""
    return "x".join(map(str, sizes))
