"""Export: a network as a file that other programs run, proven to give the network's own answers.

The ending of the path chooses: `.onnx` for ONNX Runtime and many others, `.pt2` for `torch.export.load`, `.xml` (with a
`.bin` beside it) for OpenVINO. The file is written aside, read back and run on clips of several sizes. It gets its name
only when its answers are those of the network.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from . import heads, runtimes
from .copies import plain
from .data import sampling, transforms
from .data.scans import cut, middle, window_of
from .data.video import Video
from .data.volume import prepared, read_volume
from .machine import aside, folder_for
from .models import ready
from .runtimes import Run
from .spec import ClipSpec
from .step import Step
from .stream import Stream
from .terminal import Table, show

__all__ = ["Axis", "Check", "Report", "export"]

TOLERANCE = 1e-4  # the largest difference, of the largest answer
_AXES = ("batch", "channels", "frames", "height", "width")
_FARTHEST = 1024  # frames or pixels up to which limits are looked for
_KEY = "tubelet"  # of the note in a file's metadata


@dataclass(frozen=True)
class Axis:
    """An axis of an input: its one size, or the sizes that go.

    Attributes:
        name: batch, frames, height ...
        low: smallest size.
        high: largest size; None is no limit.
        step: sizes are multiples of it.
    """

    name: str
    low: int
    high: int | None
    step: int = 1

    def __str__(self) -> str:
        if self.low == self.high:
            return str(self.low)
        ends = f" from {self.low}" if self.low > 1 else ""
        ends += f" to {self.high}" if self.high is not None else ""
        return f"{self.name}{ends}" + (f" by {self.step}" if self.step > 1 else "")

    def nearest(self, size: int) -> int:
        """The size that goes, at or below this one where there is one."""
        size = min(max(size, self.low), self.high or size)
        return max(-(-self.low // self.step) * self.step, size // self.step * self.step)


@dataclass(frozen=True)
class Check:
    """How near the answers of the file are to those of the network.

    Attributes:
        clip: which clip it was.
        size: of the clip, (B, C, T, H, W).
        largest: the largest difference of a logit.
        relative: the same as a share of the largest logit.
        top1: share of the answers whose highest class is the same.
        limit: of `relative`.
    """

    clip: str
    size: tuple[int, ...]
    largest: float
    relative: float
    top1: float
    limit: float = TOLERANCE


@dataclass(frozen=True)
class Report:
    """What was written, what it takes, and how near its answers are; `print(report)` draws it.

    Attributes:
        path: the file.
        runtime: what ran it.
        inputs: axes of each input, by its name.
        checks: a row for each clip that was run.
    """

    path: Path
    runtime: str
    inputs: Mapping[str, tuple[Axis, ...]]
    checks: tuple[Check, ...]

    def __str__(self) -> str:
        rows = [
            {
                "clip": check.clip,
                "size": " x ".join(map(str, check.size)),
                "largest difference": check.largest,
                "relative": f"{check.relative:.1e}",
                "top-1 agrees": f"{100 * check.top1:.1f} %",
            }
            for check in self.checks
        ]
        shown = [name for name in self.inputs if name in ("clip", "boxes", "frames")]
        summary: dict[str, object] = {name: " x ".join(map(str, self.inputs[name])) for name in shown}
        if len(self.inputs) > len(shown):
            summary["states"] = len(self.inputs) - len(shown)
        files = [path for path in (self.path, *_weights(self.path)) if path.exists()]
        megabytes = sum(path.stat().st_size for path in files) / 1e6
        return str(Table(rows, summary, f"{self.path} ({show(megabytes)} MB), run by {self.runtime}"))


def export(
    model: str | os.PathLike | nn.Module, path: str | os.PathLike, example: Tensor | str | os.PathLike | None = None
) -> Report:
    """Write a network as a file for other programs, and prove that it gives the same answers.

    Batch, frames, height and width are free where the network's own code lets them be. The file is run at the size of
    the example, at a larger and at a smaller one. Its metadata hold, as json under the key `tubelet`, the class names,
    the normalisation and the whole `ClipSpec`.

    Args:
        model: a file of weights, a run's folder, a tag of the catalogue, or a network in memory, also one that
            `optimize` made, which is exported as it was before; a `Stream` gives one step of it, for chunks of so many
            frames, with what it keeps as inputs and outputs.
        path: the file to write; its ending is `.onnx`, `.pt2` or `.xml`.
        example: a clip (B, C, T, H, W) as the network takes it, or of uint8; or a video or scan, of which the clip in
            the middle is taken; None is noise of the size that the network's `spec` tells. Of a `Stream` a first chunk
            (B, C, n, H, W), whose size all chunks have.

    Returns:
        The differences on each clip; `print` draws them.

    Raises:
        ValueError: an unknown ending, a folder as the path, an example that is no clip, a network that takes more than
            one or a layer that cannot be exported, or answers that differ by more than 1e-4 of the largest one: then
            there is no file.
            Where twice what float32 rounds off in a network is more, and below 1e-3, that is the limit; of a `Stream`
            it always is 1e-4.
        ImportError: a package is missing; the message tells the line that installs it.
        OSError: the file cannot be written there.

    Example:
        ```python
        print(tubelet.export("runs/shapes", "shapes.onnx", "clip.mp4"))
        ```
    """
    path = Path(path)
    form = _form(path)
    form.check()
    if not (example is None or isinstance(example, Tensor | str | os.PathLike)):
        raise ValueError(
            f"example is a {type(example).__name__}; give a tensor (B, C, T, H, W), the path of a video or scan, None"
        )
    model = plain(model)
    if isinstance(model, Stream):
        if example is not None and not isinstance(example, Tensor):
            raise ValueError(f"example {example}: of a stream it is a first chunk (B, C, n, H, W)")
        return _export_step(model, path, form, example)
    if not isinstance(model, nn.Module):
        model, _ = ready(model)  # for a download no other thread has to wait
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"{runtimes.layer([name])} is TorchScript: export the network that it was made of")
    with runtimes.ALONE, _restored(model):  # another thread may export the same network
        if not hasattr(model, "spec") and isinstance(example, Tensor):
            network, spec = model.eval(), None
        else:
            network, spec = ready(model)
        return _export_network(_on_cpu(network), spec, path, form, example)


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Afterwards each module of a network trains, or does not, as it did before."""
    before = [(each, each.training) for each in model.modules()]
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def _export_network(
    network: nn.Module, spec: ClipSpec | None, path: Path, form: _Format, example: Tensor | str | os.PathLike | None
) -> Report:
    real = _clip(example, spec)
    size = tuple(real.shape) if real is not None else _size(spec)
    given = [("noise", _inputs(network, _noise(size)))]
    if real is not None:
        given.insert(0, ("example", _inputs(network, real)))
    with _writable(path), torch.no_grad():

        def compare(cases: Sequence[_Case], run: Run) -> Iterator[Check]:
            for name, inputs in cases:
                shape = tuple(inputs[0].shape)
                try:
                    answer = run(inputs)[0]
                except Exception as error:  # each program has types of its own
                    raise ValueError(
                        f"{path}: not written: {form.runtime} fails on {name} {shape} ({runtimes.first_line(error)})"
                    ) from error
                check = _checked(name, shape, answer, network(*inputs))
                yield check if check.relative <= TOLERANCE else replace(check, limit=_limit(network, inputs))

        for free in ((0, 2, 3, 4), (0, 3, 4), (0,)):
            # a file that refuses what the graph was not made for would refuse the example
            traced = size if form.is_guarded else _grown(network, size, free)
            try:
                graph, others = _traced(network, traced, free, size, form.is_guarded)
                if not others and len(free) > 1:  # what looks free has been proven nowhere
                    continue
                return _proven(graph, path, form, _note(network, spec), partial(compare, [*given, *others]))
            except ValueError:
                if len(free) == 1:
                    raise
        raise AssertionError("the last graph is written, or raises")


_Case = tuple[str, tuple[Tensor, ...]]  # what a clip is, and the inputs that it makes


class _Graph(NamedTuple):
    """A traced network, and the names of what goes in and comes out."""

    program: ExportedProgram
    inputs: dict[str, tuple[Axis, ...]]
    outputs: tuple[str, ...]


def _on_cpu(network: nn.Module) -> nn.Module:
    """The network in float32 on the CPU, itself if it is there."""
    tensors = [*network.parameters(), *(each for each in network.buffers() if each.is_floating_point())]
    if all(each.device.type == "cpu" and each.dtype == torch.float32 for each in tensors):
        return network
    return copy.deepcopy(network).to("cpu", torch.float32)


def _clip(example: Tensor | str | os.PathLike | None, spec: ClipSpec | None) -> Tensor | None:
    """The clip (B, C, T, H, W) of an example, as the network takes it."""
    if example is None:
        return None
    if isinstance(example, Tensor):
        clip = example
        if clip.ndim != 5:
            raise ValueError(f"example is {tuple(clip.shape)}; give a clip (B, C, T, H, W), or None for noise")
    elif spec is None:
        raise ValueError(f"example {example}: the network has no spec; give a clip (B, C, T, H, W)")
    elif spec.intensity is not None:
        window = window_of(spec)
        scan = prepared(read_volume(example), spec).array
        clip = torch.from_numpy(cut(scan, middle(scan.shape[1:], window), window))[None]
    else:
        with Video(example) as video:
            step = sampling.step(spec, video.fps)
            start = max(0, video.num_frames - sampling.span(spec.num_frames, step)) // 2
            places = sampling.fit(sampling.clip(start, spec.num_frames, step), video.num_frames, "loop")
            clip = video.frames(places, resize=spec.resize, crop=spec.crop)[None]
    if not clip.is_floating_point():
        if spec is None:
            raise ValueError(f"example is {clip.dtype} and the network has no spec to normalise it: give float32")
        clip = transforms.prepared(clip, spec)
    if not clip.isfinite().all():
        raise ValueError("example holds nan or infinity: give a clip of finite values, or None for noise")
    return clip.detach().to("cpu", torch.float32)


def _size(spec: ClipSpec | None) -> tuple[int, ...]:
    """(1, C, T, H, W) that a spec tells."""
    if spec is None or spec.crop is None:
        raise ValueError("the network's spec has no crop, so no size is known: give a clip as the example")
    return (1, spec.in_channels, spec.num_frames, *spec.crop)


def _inputs(network: nn.Module, clip: Tensor) -> tuple[Tensor, ...]:
    """What a network takes beside the clip: a detector takes boxes, here two for each clip and one more."""
    if not isinstance(getattr(network, "head", None), heads.Detect):
        return (clip,)
    batch, height, width = len(clip), *clip.shape[3:]
    corners = torch.tensor([[0.1, 0.2, 0.6, 0.9], [0.3, 0.0, 1.0, 0.5]]).repeat(batch + 1, 1)[: 2 * batch + 1]
    clips = torch.arange(2 * batch + 1).div(2, rounding_mode="floor").clamp(max=batch - 1)
    return clip, torch.cat([clips[:, None], corners * torch.tensor([width, height] * 2)], 1)


def _strides(network: nn.Module) -> tuple[int, ...] | None:
    """Frames and pixels (t, h, w) to one of the last map, of a network that tells it as those of `create` do."""
    strides = getattr(network, "strides", None)
    last = strides[-1] if isinstance(strides, Sequence) and strides else None
    return tuple(last) if isinstance(last, Sequence) and len(last) == 3 else None


def _grown(network: nn.Module, size: tuple[int, ...], free: Sequence[int]) -> tuple[int, ...]:
    """The size with its free axes such that the last map is larger than 1, which torch.export takes for a constant."""
    grown = list(size)
    least = getattr(network, "least", (1, 1, 1))
    for i, step in enumerate(_strides(network) or (), 2):
        if i in free and size[i] < 2 * step:
            grown[i] = max(2 * step, size[i], -(-(least[i - 2] + step) // step) * step)
    return tuple(grown)


def _traced(
    network: nn.Module, size: Sequence[int], free: Sequence[int], least: Sequence[int], is_guarded: bool
) -> tuple[_Graph, list[_Case]]:
    """The graph of a network, these axes free where its code lets them be, and clips of other sizes that it takes.

    Args:
        network: the network.
        size: of the clip that it is followed with.
        free: the axes.
        least: a size that it will be proven on, too.
        is_guarded: whether the file will refuse what the graph was not made for.
    """
    head = getattr(network, "head", None)
    outputs = ("features" if isinstance(head, heads.Features) else "logits",)
    for batch in (2, size[0]):  # 1 would be taken for a constant; where 2 becomes one, it must be the example's
        inputs = _inputs(network, torch.zeros(batch, *size[1:]))
        program = _program(network, inputs, (dict.fromkeys(free, Dim.AUTO), {0: Dim.AUTO})[: len(inputs)])
        answer = program.call_spec.out_spec
        if answer is not None and not answer.is_leaf():
            raise ValueError(
                f"{type(network).__name__} answers with a {answer.type.__name__}: wrap it in a network that answers "
                "with one tensor of it"
            )
        guarded = program.module()
        guards = getattr(guarded, "_guards_fn", None)
        # a last map of one place is refused by the guards, and is right all the same in a file that has none
        loose = None if is_guarded or guards is None else program.module(check_guards=False)
        axes = _axes(network, program, inputs, guards, loose)
        if axes["clip"][0].high != 2:
            break
    axes["clip"] = tuple(replace(axis, low=min(axis.low, n)) for axis, n in zip(axes["clip"], least, strict=True))
    graph = _Graph(program, axes, outputs)
    return graph, _others(network, graph, size, guarded, loose)


def _program(network: nn.Module, inputs: tuple[Tensor, ...], dynamic: tuple[Any, ...] | None) -> ExportedProgram:
    where: list[str] = []
    try:
        # a `*boxes` of a forward wants what it holds as a tuple
        shapes = None if dynamic is None else dict(inspect.signature(network.forward).bind(*dynamic).arguments)
    except TypeError as error:
        raise ValueError(
            f"{type(network).__name__} takes something else than a clip ({error}): wrap it in a network that takes a "
            "clip (B, C, T, H, W) alone"
        ) from None

    def enter(name: str, *_: Any) -> None:
        where.append(name)

    def leave(*_: Any) -> None:
        where.pop()

    hooks = [module.register_forward_pre_hook(partial(enter, name)) for name, module in network.named_modules()]
    hooks += [module.register_forward_hook(leave) for module in network.modules()]
    try:
        return torch.export.export(network, inputs, dynamic_shapes=shapes)
    except Exception as error:  # a forward may raise anything
        raise ValueError(f"{runtimes.layer(where)} cannot be exported ({runtimes.first_line(error)})") from error
    finally:
        for hook in hooks:
            hook.remove()


def _axes(
    network: nn.Module,
    program: ExportedProgram,
    inputs: Sequence[Tensor],
    guards: Callable[..., Any] | None,
    loose: Callable[..., Tensor] | None,
) -> dict[str, tuple[Axis, ...]]:
    """Axes of the inputs: one size, or what the network's code allows; `guards` and `loose` as in `_others`."""
    ranges = {str(symbol): limits for symbol, limits in program.range_constraints.items()}
    least = {2 + i: low for i, low in enumerate(getattr(network, "least", ()))}
    found = {}
    for name, tensor in zip(("clip", "boxes"), _placeholders(program), strict=False):
        axes = []
        for i, size in enumerate(tensor.shape):
            label = _AXES[i] if name == "clip" else "boxes" if i == 0 else "columns"
            limits = ranges.get(str(size))
            if limits is None:  # a number, also of the kind of a symbol
                axes.append(Axis(label, int(size), int(size)))
                continue
            low = max(1 if limits.lower <= 2 else int(limits.lower), least.get(i, 1) if name == "clip" else 1)
            high, step = int(limits.upper) if limits.upper < 2**31 else None, 1
            if guards is not None and name == "clip" and i > 1:
                first, last, step = _reach(guards, [each.shape for each in inputs], i)
                high = min(filter(None, (high, last)), default=None)
                low = -(-low // step) * step
                made = partial(_resized, network, inputs[0].shape, i)
                if low < first and not _is_right(network, loose, made(low)):
                    low = first
                if not _goes(network, made(low)):  # what depends on values has no guard
                    refused = range(low, inputs[0].shape[i], step)
                    low += step * bisect_left(refused, True, key=lambda n: _goes(network, made(n)))
            axes.append(Axis(label, low, high, step))
        found[name] = tuple(axes)
    return found


def _resized(network: nn.Module, shape: Sequence[int], axis: int, size: int) -> tuple[Tensor, ...]:
    """Inputs of a network whose clip (B, C, T, H, W) has another size along one axis."""
    return _inputs(network, _noise((*shape[:axis], size, *shape[axis + 1 :])))


def _placeholders(program: ExportedProgram) -> list[Tensor]:
    """The inputs as the graph has them, with symbols for free sizes."""
    names = program.graph_signature.user_inputs
    return [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]


def _reach(guards: Callable[..., Any], sizes: Sequence[Sequence[int]], axis: int) -> tuple[int, int | None, int]:
    """Smallest and largest size of an axis of the clip that a graph is for (None: no limit was found), and its step.

    The ranges that torch.export gives lack the limits of what is divided, such as a last map below a head's window.
    """
    clip, *others = sizes
    start = clip[axis]

    def goes(size: int) -> bool:
        shapes = ((*clip[:axis], size, *clip[axis + 1 :]), *others)
        return _goes(guards, tuple(torch.empty(()).expand(shape) for shape in shapes))

    nearest = next((n for n in (*range(start + 1, _FARTHEST), *range(start - 1, 0, -1)) if goes(n)), start)
    step = abs(nearest - start) or 1
    if start % step:
        step = 1
    refused = next((n for n in range(start + step, _FARTHEST, step) if not goes(n)), None)
    below = next((n for n in range(start - step, 0, -step) if not goes(n)), 0)
    return below + step, None if refused is None else refused - step, step


def _others(
    network: nn.Module,
    graph: _Graph,
    size: Sequence[int],
    guarded: Callable[..., Any],
    loose: Callable[..., Tensor] | None,
) -> list[_Case]:
    """Noise of a larger and of a smaller size, as far as both the network and the graph take one.

    Args:
        network: the network.
        graph: of it.
        size: of the clip that it was followed with.
        guarded: runs the graph, and refuses sizes that it was not made for.
        loose: runs it at any size; where its answers are the network's, the size counts as taken.
    """

    steps = _strides(network) or (8, 32, 32)
    # a larger last map along each axis; some networks want whole steps
    larger = [
        [n + s + more for n, s, more in zip(size[2:], steps, extra, strict=True)] for extra in ((1, 5, 3), (0,) * 3)
    ]
    pairs = list(zip(size[2:], steps, strict=True))
    smaller = [[n // 2 + 1 for n in size[2:]], [max(s, n // 2 // s * s) for n, s in pairs]]
    smaller.append([max(1, n - s // 2) for n, s in pairs])  # a map as large, for heads with a window
    found = []
    for name, batch, sizes in (("larger", 1, larger), ("smaller", 3, smaller)):
        for wanted in sizes:
            shape = [axis.nearest(n) for axis, n in zip(graph.inputs["clip"], (batch, size[1], *wanted), strict=True)]
            inputs = _inputs(network, _noise(shape))
            if shape[2:] == list(size[2:]) or not _goes(network, inputs):
                continue
            if _goes(guarded, inputs) or _is_right(network, loose, inputs):
                found.append((name, inputs))
                break
    return found


def _is_right(network: nn.Module, loose: Callable[..., Tensor] | None, inputs: tuple[Tensor, ...]) -> bool:
    """Whether a graph without guards answers as the network does."""
    if loose is None or not _goes(network, inputs) or not _goes(loose, inputs):
        return False
    expected, answer = network(*inputs), loose(*inputs)
    return answer.shape == expected.shape and _apart(answer, expected)[1] <= TOLERANCE


def _apart(answer: Tensor, expected: Tensor) -> tuple[float, float]:
    """The largest difference of two answers, and its share of the largest number expected."""
    answer, expected = _numbers(answer), _numbers(expected)
    largest = float((answer - expected).abs().max())
    return largest, largest / max(float(expected.abs().max()), 1e-30)


def _numbers(answer: Tensor) -> Tensor:
    """Bools as 0 and 1: torch has neither differences nor a largest of bools."""
    return answer.detach() if answer.dtype != torch.bool else answer.float()


def _noise(shape: Sequence[int]) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0))


def _goes(run: Callable[..., Any], inputs: tuple[Tensor, ...]) -> bool:
    """Whether clips of this size are taken, and have an answer that is not empty."""
    try:
        answer = run(*inputs)
    except Exception:  # a forward may raise anything
        return False
    return not isinstance(answer, Tensor) or answer.numel() > 0


def _proven(
    graph: _Graph, path: Path, form: _Format, note: Mapping[str, Any], compare: Callable[[Run], Iterable[Check]]
) -> Report:
    """The file, written aside and found to answer as the network does.

    Raises:
        ValueError: it does not; there is no file then.
    """
    sizes = {name: [str(axis) for axis in axes] for name, axes in graph.inputs.items()}
    with _aside(path) as made:
        form.write(graph, made, json.dumps({**note, "inputs": sizes}))
        checks = []
        for check in compare(form.read(made)):
            if not check.relative <= check.limit:
                raise ValueError(
                    f"{path}: not written: in {form.runtime} its answers on {check.clip} {check.size} differ by "
                    f"{check.relative:.1e} of the largest one, and the limit is {check.limit:.2g}"
                )
            checks.append(check)
    return Report(path, form.runtime, graph.inputs, tuple(checks))


def _limit(network: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """How far two programs may differ on a clip: further where float32 itself leaves the network's answers open."""
    try:
        exact = copy.deepcopy(network).double()(*(each.double() for each in inputs))
    except Exception:  # of a network that goes to float32 itself, say
        return TOLERANCE
    own = _apart(network(*inputs), exact)[1]
    return 2 * own if TOLERANCE < 2 * own < 10 * TOLERANCE else TOLERANCE  # beyond that it is not rounding


def _checked(name: str, size: tuple[int, ...], answer: Tensor, expected: Tensor) -> Check:
    if not expected.numel():
        raise ValueError(f"the network's answers on {name} {size} are empty: give a larger clip as the example")
    if answer.shape != expected.shape or not expected.isfinite().all():
        raise ValueError(
            f"answers on {name} {size} are {tuple(answer.shape)}, the network's {tuple(expected.shape)}"
            + ("" if expected.isfinite().all() else " with nan or infinity: its weights are damaged")
        )
    answer, expected = _numbers(answer), _numbers(expected)
    same = (answer.argmax(1) == expected.argmax(1)).float().mean() if expected.ndim > 1 else torch.tensor(1.0)
    return Check(name, size, *_apart(answer, expected), float(same))


# Streams


def _export_step(stream: Stream, path: Path, form: _Format, example: Tensor | None) -> Report:
    spec = getattr(stream.model, "spec", None)
    if example is not None and example.ndim != 5:
        raise ValueError(f"example is {tuple(example.shape)}; give a chunk (B, C, n, H, W)")
    if example is not None:
        size = tuple(example.shape)
    else:
        one, channels, _, height, width = _size(spec)
        size = (one, channels, getattr(stream.model, "strides", [(1, 1, 1)])[-1][0], height, width)
    like = next(stream.model.parameters(), torch.empty(0))
    if like.device.type != "cpu" or like.dtype != torch.float32:
        raise ValueError(f"the stream's network is {like.dtype} on {like.device}; export one of float32 on the CPU")
    with _writable(path), torch.no_grad():
        step = Step(stream, size).eval()
        chance = torch.Generator().manual_seed(0)
        video = [torch.randn(size, generator=chance) for _ in range(step.filled_after + 3)]
        kept = stream.state
        stream.reset()
        expected = torch.cat([stream(chunk) for chunk in video], 2)
        stream.state = kept
        number = torch.zeros((), dtype=torch.int64)
        inputs = {"frames": video[0], "number": number, **dict(zip(step.names, step.states, strict=True))}
        axes = {name: tuple(Axis("", n, n) for n in tensor.shape) for name, tensor in inputs.items()}
        outputs = ("logits", *(f"next.{name}" for name in list(inputs)[1:]))
        graph = _Graph(_program(step, tuple(inputs.values()), None), axes, outputs)
        note = {**_note(stream.model, spec), "delay": stream.delay, "lead": step.lead}

        def compare(run: Run) -> Iterator[Check]:
            state, answers = [number, *step.states], []
            for chunk in video:
                answer, *state = run((chunk, *state))
                answers.append(answer)
            found = torch.cat(answers, 2)[:, :, step.lead :]
            yield _checked(f"noise, {len(video)} chunks", size, found, expected)

        return _proven(graph, path, form, note, compare)


# Files


class _Format(NamedTuple):
    """How a graph is written, and read and run again; a guarded file refuses what its graph was not made for."""

    runtime: str
    is_guarded: bool
    check: Callable[[], None]
    write: Callable[[_Graph, Path, str], None]
    read: Callable[[Path], Run]


def _form(path: Path) -> _Format:
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; give a file in it, such as {path / 'model.onnx'}")
    if path.suffix not in _FORMATS:
        raise ValueError(f"{path}: ends in {path.suffix or 'nothing'}; give a path ending in {', '.join(_FORMATS)}")
    return _FORMATS[path.suffix]


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    """Find out before the work whether a file can be written; none of the exporters' own lines are shown meanwhile."""
    with folder_for(path.parent), runtimes.quietly():
        yield


def _weights(path: Path) -> list[Path]:
    """The file of weights that OpenVINO has beside its .xml."""
    return [path.with_suffix(".bin")] if path.suffix == ".xml" else []


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """`machine.aside`, also for the weights that OpenVINO has beside its .xml."""
    with aside(path) as made:
        try:
            yield made
            for weights, place in zip(_weights(made), _weights(path), strict=True):
                weights.replace(place)
        finally:
            for weights in _weights(made):
                weights.unlink(missing_ok=True)


def _note(network: nn.Module, spec: ClipSpec | None) -> dict[str, Any]:
    """What a file says of the network: class names, normalisation, the clip."""
    note: dict[str, Any] = {"tubelet": version("tubelet")}
    if architecture := getattr(network, "architecture", None):
        note["network"] = architecture["name"]
    if spec is not None:
        note |= {"classes": spec.classes, "mean": spec.mean, "std": spec.std}
        # of pictures 0..255; the values of scans come to 0..1 by the spec's intensity
        note |= {"scale": 1 / 255 if spec.intensity is None else None, "spec": spec.to_dict()}
    return note


def _need_torch() -> None:
    pass


def _save_program(graph: _Graph, path: Path, note: str) -> None:
    torch.export.save(graph.program, path, extra_files={f"{_KEY}.json": note})


def _run_program(path: Path) -> Run:
    module = torch.export.load(path).module()

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        answers = module(*inputs)
        return list(answers) if isinstance(answers, tuple | list) else [answers]

    return run


def _need_onnx() -> None:
    runtimes.need("onnxruntime")


def _onnx(graph: _Graph) -> Any:
    """The ONNX model, its free axes under their own names, and the others with their one size."""
    model = runtimes.to_onnx(graph.program, list(graph.inputs), graph.outputs)
    names: dict[str, str] = {}
    for axes, tensor in zip(graph.inputs.values(), _placeholders(graph.program), strict=True):
        for axis, size in zip(axes, tensor.shape, strict=True):
            if not isinstance(size, int):
                names.setdefault(str(size), axis.name if axis.low != axis.high else str(axis))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), size.dim_param)
                if size.dim_param.isdigit():  # a free one would let in what the graph was not made for
                    size.dim_value = int(size.dim_param)
    return model


def _save_onnx(graph: _Graph, path: Path, note: str) -> None:
    runtimes.save_onnx(runtimes.with_note(_onnx(graph), _KEY, note), path)


def _run_onnx(path: Path) -> Run:
    return runtimes.onnxruntime_run(str(path))


def _need_openvino() -> None:
    runtimes.need("openvino")


def _save_openvino(graph: _Graph, path: Path, note: str) -> None:
    model = runtimes.to_openvino(_onnx(graph).SerializeToString())
    model.set_rt_info(note, [_KEY])
    runtimes.save_openvino(model, path)


def _run_openvino(path: Path) -> Run:
    return runtimes.openvino_run(runtimes.read_openvino(path))


_FORMATS = {
    ".onnx": _Format("onnxruntime", False, _need_onnx, _save_onnx, _run_onnx),
    ".pt2": _Format("torch.export", True, _need_torch, _save_program, _run_program),
    ".xml": _Format("OpenVINO", False, _need_openvino, _save_openvino, _run_openvino),
}
