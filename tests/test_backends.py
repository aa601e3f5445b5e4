"""Answers of other programs are those of torch."""

import copy
import io
import logging
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import tubelet
from tests.models.test_every_model import boxes, clip
from tests.test_optimize import Branching, Every, assert_same, lively
from tubelet import backends, optimize, runtimes
from tubelet.backends import NAMES, agreement
from tubelet.optimize import PLANS

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

SIZE = (1, 3, 4, 12, 12)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setenv("TUBELET_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    layers = (nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8), nn.SiLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 5))
    model = lively(nn.Sequential(*layers))
    model.spec = "of the network"
    return model


@pytest.fixture(scope="module")
def auto(small):
    return optimize(small, torch.randn(SIZE), backend="auto", seconds=0.0)


@torch.no_grad()
def test_auto_takes_the_fastest_of_equal_answers(auto, small):
    text = str(auto)
    assert auto.backend.taken in ("torch", *NAMES)
    assert f"taken: {auto.backend.taken}" in text
    assert all(name in text for name in ("measured, ms", "torch", *NAMES))
    x = torch.randn(SIZE)
    assert_same(auto(x), small(x))
    assert pickle.loads(pickle.dumps(auto)).backend.taken == auto.backend.taken


@torch.no_grad()
def test_auto_takes_torch_at_a_size_where_the_fastest_fails(small, monkeypatch, caplog):
    def failing(name, dtype):
        raise RuntimeError("no such size\nmore")

    monkeypatch.setattr(backends, "borrowed", failing)
    x = torch.randn(SIZE)
    plan = backends.Auto(lambda model, inputs: model, torch.float32, "openvino")(small, (x,))
    assert plan is small and "openvino is left out at this size: no such size" in caplog.messages


@torch.no_grad()
def test_auto_leaves_out_what_is_wrong_or_fails(small, monkeypatch, caplog):
    monkeypatch.setattr(backends, "_onnx", lambda program: b"")

    def running(name, dtype, graph, onnx):
        if name == "openvino":
            raise RuntimeError("no such operator\nmore")
        return backends.Borrowed(graph, lambda tensors: [small(*tensors) + 1], {})

    monkeypatch.setattr(backends, "_running", running)
    x = torch.randn(SIZE)
    with caplog.at_level(logging.WARNING, "tubelet"):
        fast = optimize(small, x, backend="auto", seconds=0.0)
    assert fast.backend.taken == "torch"
    assert "openvino is left out: no such operator" in caplog.messages
    assert any(line.startswith("onnxruntime is left out: its answers differ by") for line in caplog.messages)
    assert_same(fast(x), small(x))


@torch.no_grad()
@pytest.mark.parametrize("name", ["openvino", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_batches_threads_and_strides_are_free(small, name):
    model = small
    fast = optimize(model, torch.randn(2, *SIZE[1:]), backend=name)
    for batch in (2, 3):
        x = torch.randn(batch, *SIZE[1:])
        assert_same(fast(x), model(x))
    assert len(fast._plans) == 1
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert_same(fast(x), model(x))
    finally:
        torch.set_num_threads(threads)
    assert_same(fast(x.transpose(3, 4)), model(x.transpose(3, 4)))  # any strides
    assert fast.spec == "of the network"
    with pytest.raises(ValueError, match="does not train"):
        fast.train()


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_saved_and_with_other_weights(small, name):
    model, x = copy.deepcopy(small), torch.randn(SIZE)
    fast = optimize(model, x, backend=name)
    file = io.BytesIO()
    torch.save(fast, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    model[0].weight.mul_(2)
    assert_same(fast(x), model(x))
    model[0].weight.div_(2)
    assert_same(loaded(x), model(x))


@torch.no_grad()
def test_what_a_backend_cannot_do_runs_as_it_is(small, monkeypatch, caplog):
    x = -torch.ones(SIZE)
    with caplog.at_level(logging.WARNING, "tubelet"):
        fast = optimize(Branching(), x, backend="openvino")
    assert "as it is" in caplog.text and "as it is" in str(fast)
    assert torch.equal(fast(x), -x)
    double = lambda name, dtype, graph, onnx: backends.Borrowed(graph, lambda given: [2 * small(*given)], {})  # noqa: E731
    monkeypatch.setattr(backends, "_onnx", lambda program: b"")
    monkeypatch.setattr(backends, "_running", double)
    with caplog.at_level(logging.WARNING, "tubelet"):
        fast = optimize(small, x, backend="onnxruntime")
    assert "runs as it is: its answers differ by 1.0e+00 of the largest one, and the limit is 0.001" in caplog.text
    assert torch.equal(fast(x), small(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"backend": "onnxruntime", "dtype": torch.bfloat16},
            "'onnxruntime' has no bfloat16 .*; there is openvino, torch",
        ),
        ({"dtype": torch.int8}, "int8 needs calibration=clips"),
        ({"dtype": torch.int8, "calibration": []}, "calibration has no clips"),
        ({"dtype": torch.int8, "calibration": ["a.mp4"]}, "calibration input 0 is str, and the example 3x4x12x12"),
        (
            {"dtype": torch.int8, "calibration": [torch.zeros(1, 3, 4, 8, 8)]},
            "calibration input 0 is 3x4x8x8, and the example 3x4x12x12",
        ),
        (
            {"dtype": torch.int8, "calibration": [(torch.zeros(SIZE), torch.zeros(1))]},
            "calibration input 0 is 3x4x12x12, a number, and the example 3x4x12x12 in",
        ),
        (
            {"dtype": torch.int8, "calibration": [torch.zeros(SIZE, dtype=torch.uint8)]},
            "calibration input 0 is uint8, and the example float32: give both alike",
        ),
        *(
            ({"dtype": torch.int8, "calibration": [torch.zeros(SIZE), wrong]}, "input 1 is empty or holds nan or inf")
            for wrong in (torch.zeros(0, *SIZE[1:]), torch.full(SIZE, torch.nan))
        ),
        ({"dtype": torch.int8, "backend": "torch", "calibration": [torch.zeros(SIZE)]}, "'torch' has no int8"),
        ({"calibration": []}, "calibration is for dtype=torch.int8, not for torch.float32"),
    ],
)
def test_bad_arguments_are_named(small, arguments, message, monkeypatch):
    monkeypatch.setattr(runtimes, "need", lambda name: None)
    with pytest.raises(ValueError, match=message):
        optimize(small, torch.zeros(SIZE), **arguments)


@pytest.mark.parametrize(
    ("package", "backend", "extra"), [("openvino", "openvino", "openvino"), ("nncf", None, "int8")]
)
def test_a_missing_package_is_named_with_its_pip_line(package, backend, extra, small, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(backends.runtimes, "installed", lambda name: False)
    given = {"backend": backend} if backend else {"dtype": torch.int8, "calibration": [torch.zeros(SIZE)]}
    with pytest.raises(ImportError, match=rf"'{package}'; install it with: pip install \"tubelet\[{extra}\]\""):
        optimize(small, torch.zeros(SIZE), **given)


def test_agreement_with_float32():
    right = [torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([[3.0, 0.0]])]
    assert agreement(right, right)["top-1 as in float32"] == "100.0 % on 2 clips"
    other = [torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[3.0, 0.0]])]
    found = agreement(other, right)
    assert found["top-1 as in float32"] == "66.7 % on 2 clips"
    # sigmoid(1) - sigmoid(-1) for both classes of one clip of three
    assert found["scores differ"] == "1.5e-01 in the mean, 4.6e-01 at most"
    single = [torch.tensor([[1.0], [-1.0]])]
    assert agreement([-single[0]], single)["top-1 as in float32"] == "0.0 % on 1 clip"
    assert agreement([torch.ones(3)], [torch.ones(3)]) == {}


def test_a_dense_stream_is_one_graph_of_openvino():
    model, x = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.Conv3d(4, 2, 3)).eval(), torch.randn(1, 3, 9, 8, 8)
    stream = tubelet.Stream(optimize(model, x, backend="openvino"), dense=True)
    answers = torch.cat([stream(frame) for frame in x.split(1, 2)], 2)
    assert_same(answers, tubelet.Stream(model, dense=True)(x))
    assert "as one graph: chunks of 1 frame" in str(stream)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("backend", NAMES)
def test_int8_is_calibrated_once(small, backend):
    if backend == "openvino":
        pytest.importorskip("nncf")
    model = copy.deepcopy(small)
    calibration = (torch.randn(SIZE) for _ in range(16))
    fast = optimize(model, torch.randn(SIZE), dtype=torch.int8, backend=backend, calibration=calibration)
    text = str(fast)
    assert "int8" in text and "top-1 as in float32" in text and "on 16 clips" in text and "scores differ" in text
    for batch in (1, 3):
        x = torch.randn(batch, *SIZE[1:])
        assert_same(fast(x), model(x), within=0.2)
        assert not torch.equal(fast(x), model(x))
    assert len(fast._plans) == 2
    loaded = pickle.loads(pickle.dumps(fast))
    assert torch.equal(loaded(x), fast(x))
    assert loaded.backend.clips == ()
    other = torch.randn(1, 3, 4, 16, 16)  # not calibrated for it
    assert torch.equal(fast(other), model(other))
    model[0].weight.mul_(2)
    assert torch.equal(fast(x), model(x))


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("backend", NAMES)
@pytest.mark.parametrize(
    "name", ["r3d_18", "x3d_xs", "slowfast_r50", "s3d", "movinet_a0", "tsm_mobilenetv2", "unet3d", "another"]
)
def test_every_kind_of_network_answers_the_same(name, backend):
    if name == "another":
        model, size = lively(Every()), (3, 4, 20, 20)
        inputs = {batch: (torch.randn(batch, *size),) for batch in (1, 2, 3)}
    else:
        model = lively(tubelet.create(name, num_classes=5))
        # OpenVINO has no pool whose kernel is larger than the map, as movinet's is on the smallest clips
        plus = (1, 40, 40) if name == "movinet_a0" else (1, 3, 3)
        inputs = {batch: (clip(model, plus, batch), *boxes(model, batch)) for batch in (1, 2, 3)}
    fast = optimize(model, inputs[2][0], backend=backend)
    for given in inputs.values():
        found, right = (each(*given) for each in (fast, model))
        leaves = torch.utils._pytree.tree_leaves
        for one, two in zip(leaves(found), leaves(right), strict=True):
            assert_same(one, two)
    assert 2 <= len(fast._plans) <= PLANS


def test_threads_get_the_answers_to_their_own_clips():
    torch.manual_seed(0)
    model = tubelet.create("tiny", num_classes=3).eval()
    clips = [torch.randn(1, 3, 8, 32, 32) for _ in range(3)]
    fast = optimize(model, clips[0], backend="openvino")
    with torch.no_grad():
        right = [model(clip) for clip in clips]
    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(lambda i: fast(clips[i % 3]), range(60)))
    for i, answer in enumerate(answers):
        assert torch.allclose(answer, right[i % 3], atol=1e-4)
