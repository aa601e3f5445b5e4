"""Other programs that run a network: ONNX Runtime and OpenVINO, both by way of ONNX, and their int8.

What is made here is a `Run`: a function from the input tensors, (B, C, T, H, W) say, to the list of the answers.
"""

from __future__ import annotations

import ctypes
import io
import logging
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, OutputKind

from .machine import needs
from .terminal import progress

Run = Callable[[Sequence[Tensor]], list[Tensor]]
READY = 4  # numbers of threads, and in OpenVINO sizes of inputs, for which a model is kept ready
EXTRAS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "onnxruntime": ("export", ("onnx", "onnxscript", "onnxruntime")),
    "openvino": ("openvino", ("onnx", "onnxscript", "openvino")),
    "nncf": ("int8", ("onnx", "onnxscript", "openvino", "nncf")),
}
ALONE = threading.RLock()  # exporters follow one network at a time, and what `silent` changes is of the whole process


def installed(name: str) -> bool:
    """Whether the packages are there that `onnxruntime`, `openvino` or `nncf` takes here."""
    return all(find_spec(each) is not None for each in EXTRAS[name][1])


def need(name: str) -> None:
    """Refuse to go on without the packages that `onnxruntime`, `openvino` or `nncf` takes here.

    Raises:
        ImportError: one is missing; the message tells the line that installs it.
    """
    extra, packages = EXTRAS[name]
    with needs(extra):
        for each in packages:
            if find_spec(each) is None:
                raise ModuleNotFoundError(name=each)


def quietly() -> AbstractContextManager[None]:
    """While it lasts, none of the exporters' own lines are shown."""
    return silent("stdout", logging.ERROR, "torch", "torch.onnx", "nncf", None)


@contextmanager
def silent(stream: str, level: int, *names: str | None) -> Iterator[None]:
    """While it lasts, nothing that this thread writes to a stream is shown, no warnings, and little of some loggers.

    One thread at a time: of two that came and went in another order, what the first had changed would stay.

    Args:
        stream: `stdout` or `stderr`; what other threads write is shown.
        level: of the loggers.
        names: of the loggers; None is the root.
    """
    with ALONE:
        loggers = {logging.getLogger(name): logging.getLogger(name).level for name in names}
        shown = getattr(sys, stream)
        mine = _OfOthers(shown or io.StringIO())
        setattr(sys, stream, mine)
        try:
            for log in loggers:
                log.setLevel(level)
            with warnings.catch_warnings(action="ignore"):
                yield
        finally:
            for log, before in loggers.items():
                log.setLevel(before)
            mine.unheard = None  # who took it for the stream meanwhile may keep it
            if getattr(sys, stream) is mine:
                setattr(sys, stream, shown)


class _OfOthers:
    """A stream such as `sys.stdout` without what this thread writes."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.unheard: int | None = threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self.unheard else self.stream.write(text)

    def isatty(self) -> bool:
        return self.unheard is None and self.stream.isatty()  # else exporters draw bars, in threads of their own

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


# ONNX


def to_onnx(program: ExportedProgram, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None) -> Any:
    """A program as an ONNX model, with these names of what goes in and comes out.

    Raises:
        ValueError: ONNX has nothing for one of its layers, or for an answer that is no tensor; the message names it.
    """
    answers = [each.arg for each in program.graph_signature.output_specs if each.kind == OutputKind.USER_OUTPUT]
    for each in answers:
        if isinstance(each, ConstantArgument) and each.value is not None:
            raise ValueError(f"the network answers with {each.value!r} beside its tensors, and ONNX has tensors alone")
    try:
        made = torch.onnx.export(
            program, (), input_names=inputs, output_names=outputs, verbose=False, custom_translation_table=_norms()
        )
    except Exception as error:  # the exporter has errors of many kinds, and the first of them is the cause
        raise ValueError(f"{_untranslated(program, error)} has no counterpart in ONNX") from error
    assert made is not None
    return made.model_proto


def _norms() -> dict[Any, Callable[..., Any]]:
    """Normalizations in ONNX, by means over one axis after the other.

    ONNX Runtime adds the values of a channel, a million in a window of 128^3, one after the other, and is then 1e-4
    off; sums of sums are not.
    """
    from onnxscript import opset18 as op

    def by_channel(x: Any, weight: Any, bias: Any, rank: int) -> Any:
        each = op.Constant(value_ints=[-1, *[1] * (rank - 2)])
        x = x if weight is None else op.Mul(x, op.Reshape(weight, each))
        return x if bias is None else op.Add(x, op.Reshape(bias, each))

    def group_norm(
        x: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn_enabled: bool = True
    ) -> Any:
        rank = len(x.shape)

        def mean(of: Any) -> Any:
            for axis in reversed(range(2, rank + 1)):
                of = op.ReduceMean(of, op.Constant(value_ints=[axis]), keepdims=1)
            return of

        split = op.Constant(value_ints=[groups, int(x.shape[1]) // groups])
        values = op.Reshape(x, op.Concat(op.Shape(x, start=0, end=1), split, op.Shape(x, start=2), axis=0))
        values = op.Sub(values, mean(values))
        deviation = op.Sqrt(op.Add(mean(op.Mul(values, values)), op.Constant(value_float=eps)))
        return by_channel(op.Reshape(op.Div(values, deviation), op.Shape(x)), weight, bias, rank)

    def instance_norm(
        x: Any,
        weight: Any = None,
        bias: Any = None,
        running_mean: Any = None,
        running_var: Any = None,
        use_input_stats: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
        cudnn_enabled: bool = True,
    ) -> Any:
        if use_input_stats:
            return group_norm(x, int(x.shape[1]), weight, bias, eps)
        deviation = op.Sqrt(op.Add(running_var, op.Constant(value_float=eps)))
        scale = op.Reciprocal(deviation) if weight is None else op.Div(weight, deviation)
        return by_channel(by_channel(x, None, op.Neg(running_mean), len(x.shape)), scale, bias, len(x.shape))

    return {torch.ops.aten.group_norm.default: group_norm, torch.ops.aten.instance_norm.default: instance_norm}


def layer(where: Sequence[str]) -> str:
    """The last of these names of layers, in a sentence."""
    return f"layer {where[-1]}" if where and where[-1] else "the network"


def first_line(error: BaseException) -> str:
    """The first line of an error that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _summary(error: BaseException) -> str:
    """The last line of an error of OpenVINO's, which begins at a place in its code and ends with a list of reasons."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    listed = [line.removeprefix("-- ") for line in lines if line.startswith("-- ")]
    return (listed or lines)[-1]


def _untranslated(program: ExportedProgram, error: BaseException) -> str:
    """The layer that an exporter stopped at."""
    names = {node.name: node for node in program.graph.nodes}
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
        found = re.search(r"translating node %(\w+)", str(cause))
        if found and found[1] in names:
            stack = list(names[found[1]].meta.get("nn_module_stack", {}).values())
            return f"{layer([stack[-1][0]] if stack else [])} ({names[found[1]].target})"
    return f"the network ({first_line(cause)})"  # the exporter itself begins with steps to take


def with_note(model: Any, key: str, note: str) -> Any:
    """An ONNX model with a line in its metadata."""
    import onnx

    onnx.helper.set_model_props(model, {key: note})
    return model


def save_onnx(model: Any, path: Path) -> None:
    """Write an ONNX model."""
    import onnx

    onnx.save(model, path)


def onnxruntime_run(model: bytes | str) -> Run:
    """An ONNX model, or the path of its file, in ONNX Runtime, on as many threads as torch has at the time."""
    import onnxruntime

    @lru_cache(READY)
    def ready(threads: int) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        session = ready(torch.get_num_threads())
        names = [each.name for each in session.get_inputs()]
        feed = {name: _array(tensor) for name, tensor in zip(names, inputs, strict=True)}
        return [torch.from_numpy(answer) for answer in session.run(None, feed)]

    return run


def _array(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().numpy()


# OpenVINO


@dataclass(frozen=True)
class Written:
    """A model of OpenVINO as the contents of its two files."""

    graph: bytes
    weights: bytes


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Afterwards the root logger is as before: OpenVINO leaves it as it set it for itself where it fails."""
    root = logging.getLogger()
    level, filters, handlers = root.level, root.filters[:], root.handlers[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters[:], root.handlers[:] = filters, handlers


def to_openvino(model: bytes) -> Any:
    """An ONNX model in OpenVINO's own form.

    Raises:
        ValueError: OpenVINO has nothing for one of its operators.
    """
    import openvino

    try:
        with _root_logger_kept():
            return openvino.convert_model(io.BytesIO(model))
    except Exception as error:  # of types of its own
        raise ValueError(f"OpenVINO cannot convert the network ({_summary(error)})") from error


def read_openvino(path: Path | Written) -> Any:
    """A model from its file, or from the contents of its files."""
    import openvino

    if isinstance(path, Written):
        return openvino.Core().read_model(path.graph, path.weights)
    return openvino.Core().read_model(path)


def save_openvino(model: Any, path: Path) -> None:
    """Write a model in float32; its weights go to a `.bin` beside the `.xml`."""
    import openvino

    openvino.save_model(model, path, compress_to_fp16=False)


@contextmanager
def _signal_stack() -> Iterator[None]:
    """While it lasts, another program may take over the stack on which this thread handles signals; not afterwards.

    A model of OpenVINO's brings a stack of its own and puts back what was there when it goes. Of two models the one
    that goes last puts back the freed stack of the other: the next signal (a worker process that ends) kills the
    process.
    """
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), (ctypes.c_size_t * 3)()  # stack_t: address, flags, size
    libc.sigaltstack(None, before)
    try:
        yield
    finally:
        libc.sigaltstack(before, None)


def openvino_run(model: Any, dtype: torch.dtype = torch.float32) -> Run:
    """A model in OpenVINO, compiled for the sizes of its inputs and the number of torch's threads when they come.

    Where it cannot be, the run is a ValueError with the sizes and the reason.
    """
    import openvino

    # of itself it takes bfloat16 on some processors
    precision = {torch.bfloat16: "bf16"}.get(dtype, "f32")

    @lru_cache(READY)
    def ready(sizes: tuple[torch.Size, ...], threads: int) -> Any:
        sized = model.clone()
        settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
        try:
            sized.reshape({each: list(size) for each, size in zip(sized.inputs, sizes, strict=True)})
            with _signal_stack():
                return openvino.Core().compile_model(sized, "CPU", settings)
        except Exception as error:  # of types of its own
            what = ", ".join("x".join(map(str, size)) for size in sizes)
            raise ValueError(f"OpenVINO cannot run the network on {what} ({_summary(error)})") from error

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        compiled = ready(tuple(x.shape for x in inputs), torch.get_num_threads())
        # a request of its own: that of `compiled` is one for all threads
        answers = compiled.create_infer_request().infer([_array(x) for x in inputs], share_inputs=True)
        return [torch.from_numpy(answers[output].copy()) for output in compiled.outputs]

    return run


# int8


class _Passes:
    """Calibration inputs, with a bar for each time that they are gone through."""

    def __init__(self, clips: Sequence[Sequence[Tensor]]) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __iter__(self) -> Iterator[Sequence[Tensor]]:
        yield from progress(self.clips, "calibration")


def openvino_int8(model: bytes, clips: Sequence[Sequence[Tensor]]) -> Written:
    """An ONNX model in int8 by nncf's quantisation after training; `clips` are inputs to calibrate on."""
    import nncf

    data = nncf.Dataset(_Passes(clips), lambda inputs: [_array(x) for x in inputs])
    with quietly(), _signal_stack():
        # activations below 0 (SiLU, the borders of a normalised clip) get a zero of their own
        preset = nncf.QuantizationPreset.MIXED
        made = nncf.quantize(to_openvino(model), data, preset=preset, subset_size=len(clips))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.xml"
        save_openvino(made, path)
        return Written(path.read_bytes(), path.with_suffix(".bin").read_bytes())


def onnxruntime_int8(model: bytes, clips: Sequence[Sequence[Tensor]]) -> bytes:
    """An ONNX model in int8 by ONNX Runtime's static quantisation; `clips` are inputs to calibrate on."""
    from onnxruntime import InferenceSession, quantization

    names = [each.name for each in InferenceSession(model, providers=["CPUExecutionProvider"]).get_inputs()]

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(_Passes(clips))

        def get_next(self) -> dict[str, Any] | None:
            inputs = next(self.left, None)
            return None if inputs is None else {name: _array(x) for name, x in zip(names, inputs, strict=True)}

    with quietly(), tempfile.TemporaryDirectory() as folder:
        plain, made = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        plain.write_bytes(model)
        form, eight = quantization.QuantFormat.QOperator, quantization.QuantType
        types = {"activation_type": eight.QUInt8, "weight_type": eight.QInt8}
        quantization.quantize_static(plain, made, Reader(), quant_format=form, per_channel=True, **types)
        return made.read_bytes()
