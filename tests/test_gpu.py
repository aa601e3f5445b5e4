"""The choices of a GPU, made on the processor at hand where there is none."""

import copy
import gc
import pickle
import weakref
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

import tubelet
from tests.test_optimize import assert_same, lively
from tubelet import gpu, optimize

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")),
]


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no compiler here")

    torch.manual_seed(0)
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch, "compile", refuse)


@torch.no_grad()
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_way_taken_answers_the_same(device, dtype):
    model = lively(tubelet.create("tiny", num_classes=4)).to(device)
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(2, 3, 8, 32, 32, device=device)
    plan = gpu.ready(dtype, model, (x,))
    y = torch.randn_like(x)
    for each in (x, y):
        assert_same(plan([each]), model(each), within=1e-3 if dtype == torch.float32 else 5e-2)
    assert plan.fits([y], plan.given)
    assert not plan.fits([y[:1]], plan.given)
    assert not plan.fits([y.double()], plan.given)
    assert "channels last" in str(plan.table())
    assert len(plan.rows) == (2 if device == "cpu" else 3)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.stride() == before[name].stride()


class Boxes(nn.Module):
    """Several inputs, and answers that are no single tensor."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 3)

    def forward(self, clip, places):
        assert places.dtype == torch.float32
        y = self.conv(clip)
        return {"dense": y, "rows": y.mean((2, 3, 4))[places[:, 0].long()], "many": 3}


@torch.no_grad()
@pytest.mark.parametrize("device", DEVICES)
def test_places_keep_their_digits(device):
    model = Boxes().eval().to(device)
    clip, places = torch.randn(2, 3, 4, 8, 8, device=device), torch.tensor([[1, 0.123456789]], device=device)
    plan = gpu.ready(torch.bfloat16, model, (clip, places))
    answer, right = plan([clip, places]), model(clip, places)
    assert answer["many"] == 3
    for name in ("dense", "rows"):
        assert_same(answer[name], right[name], within=2e-2)
        assert answer[name].is_contiguous()


class Summing(nn.Module):
    """Answers with a sum in float64 that goes on, as streams keep some, and writes to a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("last", torch.zeros(()))

    def forward(self, clip, total):
        self.last.copy_(clip.sum())
        return clip, total + clip.double()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_of_float64_keep_their_digits(dtype):
    clip, total = torch.ones(1, 2, 3, 4, 5), torch.full((1, 2, 3, 4, 5), 123456789.0, dtype=torch.float64)
    for layout in gpu.LAYOUTS.values():
        way = gpu._placed(Summing(), torch.utils._pytree.tree_flatten((clip, total))[1], dtype, layout)
        _, found = way([clip, total])
        assert torch.equal(found, total + 1)


def test_what_is_made_in_inference_mode_runs_outside_it(monkeypatch):
    monkeypatch.setattr(gpu, "LAYOUTS", {"channels last": torch.channels_last_3d})  # the network is copied
    model = Summing()
    with torch.inference_mode():
        x = torch.randn(1, 2, 3, 4, 5)
        plan = gpu.ready(torch.float32, model, (x, x.double()))
    x = torch.randn(1, 2, 3, 4, 5)
    with torch.no_grad():
        assert_same(plan([x, x.double()])[1], 2 * x.double(), within=1e-6)


def test_each_way_is_compiled_by_itself(monkeypatch):
    """torch compiles one code object a few times only, and leaves it as it is from then on."""
    seen = []
    monkeypatch.setattr(torch, "compile", lambda way, **_: seen.append(way) or way)
    x = torch.randn(1, 2, 3, 4, 5)
    for _ in range(2):
        gpu.ready(torch.float32, nn.Identity(), (x,))
    one, other = seen
    assert one.__code__ is not other.__code__
    assert torch.equal(one([x]), x)


def test_a_graph_keeps_the_weights_that_it_reads_and_waits_at_its_end(monkeypatch):
    """With torch.cuda in name only: what is recorded is not run again."""
    for name in ("CUDAGraph", "Event", "Stream", "current_stream", "device", "graph", "stream"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    model, x = nn.Conv3d(1, 1, 1), torch.randn(1, 1, 2, 3, 4)
    way = gpu._placed(model, torch.utils._pytree.tree_flatten((x,))[1], torch.float32, torch.contiguous_format)
    weight, run = weakref.ref(model.weight), gpu._Recorded(way, [x])
    assert torch.cuda.graph.call_args.kwargs == {"capture_error_mode": "thread_local"}
    assert_same(run([x]), model(x), within=0)
    del way, model
    gc.collect()
    assert weight() is not None
    run.done.synchronize.assert_not_called()
    done = run.done
    del run
    gc.collect()
    done.synchronize.assert_called_once_with()
    assert weight() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@torch.no_grad()
@pytest.mark.parametrize("name", ["r3d_18", "x3d_xs", "s3d"])
def test_optimized_on_a_gpu(name):
    model = lively(tubelet.create(name, num_classes=5))
    x = torch.randn(2, 3, 16, 96, 96, device="cuda")
    fast = optimize(model, x)  # the network itself stays on the CPU
    assert next(model.parameters()).device.type == "cpu"
    right = copy.deepcopy(model).cuda()
    for batch in (2, 1):
        assert_same(fast(x[:batch]), right(x[:batch]), within=2e-3)
    assert len(fast._plans) == 2
    assert "cuda" in str(fast)
    assert_same(pickle.loads(pickle.dumps(fast))(x), right(x), within=2e-3)
    with pytest.raises(ValueError, match="is for a CPU, and this is on cuda"):
        optimize(model, x, backend="openvino")
