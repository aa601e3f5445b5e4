import copy
import io
import logging
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tubelet import runtimes


@pytest.mark.parametrize(("name", "package", "extra"), [
    ("onnxruntime", "onnxscript", "export"), ("openvino", "onnx", "openvino"), ("nncf", "nncf", "int8"),
])  # fmt: skip
def test_a_missing_package_is_named_with_its_pip_line(name, package, extra, monkeypatch):
    monkeypatch.setattr(runtimes, "find_spec", lambda each: None if each == package else object())
    assert not runtimes.installed(name)
    with pytest.raises(ImportError, match=rf"'{package}'; install it with: pip install \"tubelet\[{extra}\]\""):
        runtimes.need(name)
    monkeypatch.setattr(runtimes, "find_spec", lambda each: object())
    assert runtimes.installed(name)
    runtimes.need(name)


def test_what_exporters_say_is_not_shown(capsys):
    level = logging.getLogger().level
    with pytest.raises(KeyError), runtimes.quietly():
        sys.stdout.write("progress 10 %")
        warnings.warn("deprecated", stacklevel=1)
        for name in ("torch.onnx", "torch._export.non_strict_utils"):
            assert not logging.getLogger(name).isEnabledFor(logging.WARNING)
        raise KeyError
    assert capsys.readouterr() == ("", "")
    assert logging.getLogger().level == level


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_what_other_threads_say_is_shown(name, capsys):
    before = getattr(sys, name)
    with runtimes.silent(name, logging.ERROR), ThreadPoolExecutor(1) as pool:
        kept = getattr(sys, name)
        print("mine", file=kept)
        pool.submit(print, "another's", file=kept).result()
        assert not kept.isatty() and kept.encoding == before.encoding
    assert getattr(sys, name) is before
    print("later", file=kept)
    assert getattr(capsys.readouterr(), name[3:]) == "another's\nlater\n"


def test_a_stream_that_another_thread_put_there_meanwhile_stays(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)  # as in a program without a terminal
    other = io.StringIO()
    with runtimes.quietly():
        sys.stdout.write("mine")
        sys.stdout = other
    assert sys.stdout is other and not other.getvalue()


def test_one_thread_at_a_time_is_silent():
    with runtimes.quietly(), ThreadPoolExecutor(1) as pool:
        assert not pool.submit(runtimes.ALONE.acquire, blocking=False).result()


def test_lines_of_errors():
    assert runtimes.first_line(ValueError("\n  no operator \nmore")) == "no operator"
    assert runtimes.first_line(KeyError()) == "KeyError"
    assert runtimes.layer(["stem", "stem.conv"]) == "layer stem.conv"
    assert runtimes.layer([""]) == "the network"


@pytest.mark.skipif(sys.platform != "linux", reason="the stack of signals is Linux' own")
def test_a_signal_after_two_models_of_openvino_does_not_kill(tmp_path):
    """Each puts back the stack for signals that was there before it: that of the other, which is freed by then."""
    pytest.importorskip("openvino")
    code = """
import gc, signal, subprocess, torch, tubelet
from tubelet import optimize

signal.signal(signal.SIGCHLD, lambda *_: None)  # as torch's DataLoader does
clip = torch.randn(1, 3, 8, 32, 32)
model = tubelet.create("tiny", num_classes=3).eval()
one, two = (optimize(model, clip, backend="openvino") for _ in range(2))
del one
gc.collect()
del two
gc.collect()
subprocess.run(["true"], check=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("norm", [
    torch.nn.GroupNorm(2, 4), torch.nn.InstanceNorm3d(4, affine=True), torch.nn.InstanceNorm3d(4),
    torch.nn.InstanceNorm3d(4, affine=True, track_running_stats=True),
])  # fmt: skip
def test_statistics_of_large_maps_are_right_in_onnxruntime(norm):
    """Its own normalization adds a million values one after the other: of a map far from 0 it is 1e-3 off."""
    pytest.importorskip("onnxruntime")
    x = torch.randn(1, 4, 32, 96, 96, generator=torch.Generator().manual_seed(0)) + 3
    for tensor in (*norm.parameters(), *(each for each in norm.buffers() if each.is_floating_point())):
        torch.nn.init.uniform_(tensor, 0.5, 1.5)
    norm.eval()
    with runtimes.quietly():
        model = runtimes.to_onnx(torch.export.export(norm, (x,), strict=False))
    (found,) = runtimes.onnxruntime_run(model.SerializeToString())([x])
    right = copy.deepcopy(norm).double()(x.double())
    assert (found - right).abs().max() < 1e-5


def test_what_openvino_cannot_convert_is_a_line_and_leaves_the_root_logger():
    pytest.importorskip("openvino")
    make = pytest.importorskip("onnx").helper
    x, y = (make.make_tensor_value_info(name, 1, [1, 2]) for name in "xy")
    graph = make.make_graph([make.make_node("Odd", ["x"], ["y"], domain="own")], "g", [x], [y])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 18), make.make_opsetid("own", 1)])
    root = logging.getLogger()
    before = (root.level, root.filters[:], root.handlers[:])
    with pytest.raises(ValueError, match=r"^OpenVINO cannot convert the network \(No .*own\.Odd\)$"):
        runtimes.to_openvino(model.SerializeToString())
    assert (root.level, root.filters, root.handlers) == before


class Applied(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(("function", "says"), [
    (torch.histc, r"^layer 1 \(aten\.histc\.default\) has no"),
    (torch.special.bessel_j0, r"^the network \(No ONNX function found for .*bessel_j0.*\) has no"),
])  # fmt: skip
def test_what_onnx_lacks_is_named(function, says):
    pytest.importorskip("onnxscript")
    model = torch.nn.Sequential(torch.nn.ReLU(), Applied(function))
    with pytest.raises(ValueError, match=says), runtimes.quietly():
        runtimes.to_onnx(torch.export.export(model, (torch.rand(2, 3),), strict=False))


def test_an_answer_that_is_no_tensor_is_named():
    pytest.importorskip("onnxscript")
    program = torch.export.export(Applied(lambda x: {"x": x + 1, "frames": 3}), (torch.rand(2, 3),), strict=False)
    with pytest.raises(ValueError, match=r"^the network answers with 3 beside its tensors, and ONNX has"):
        runtimes.to_onnx(program)


def test_sizes_that_openvino_does_not_run_are_named():
    pytest.importorskip("openvino")
    with runtimes.quietly():
        model = runtimes.to_onnx(torch.export.export(torch.nn.Conv3d(3, 4, 1), (torch.rand(1, 3, 2, 4, 4),)))
    run = runtimes.openvino_run(runtimes.to_openvino(model.SerializeToString()))
    with pytest.raises(ValueError, match=r"^OpenVINO cannot run the network on 1x5x2x4x4 \((?!Exception from).+\)$"):
        run([torch.rand(1, 5, 2, 4, 4)])
