"""Sliding windows against MONAI's, stored and run beside them, and the promises of memory."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tubelet import windows
from tubelet.windows import sliding

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "models" / "monai_sliding_window.json"


@pytest.fixture(scope="module")
def golden():
    if not GOLDEN.exists():
        pytest.skip(f"{GOLDEN} is not there")
    return json.loads(GOLDEN.read_text())


def normal(seed, shape):
    return torch.from_numpy(np.random.Generator(np.random.Philox(seed)).standard_normal(shape, dtype=np.float32))


def network(in_channels=1, num_classes=3):
    torch.manual_seed(0)
    layers = (
        nn.Conv3d(in_channels, 4, 3, padding=1),
        nn.InstanceNorm3d(4),
        nn.ReLU(),
        nn.Conv3d(4, num_classes, 3, padding=1),
    )
    return nn.Sequential(*layers).eval()


def position(x):
    """The predictor of the stored cases, in words there."""
    z, y, w = (torch.arange(n, dtype=x.dtype) for n in x.shape[2:])
    where = 0.1 * z[:, None, None] + 0.01 * y[:, None] + 0.001 * w
    return torch.cat([where.expand_as(x), x], 1)


def spied(model, seen):
    def call(x):
        seen.append(len(x))
        return model(x)

    return call


def test_the_stored_cases(golden):
    import importlib.util

    spec = importlib.util.spec_from_file_location("golden", GOLDEN.parents[1] / "golden.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["golden"] = module
    spec.loader.exec_module(module)
    reference = module.Golden(golden)
    conv = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 3, padding=1))
    conv.load_state_dict(reference.state_dict())
    for case in golden["cases"]:
        x = normal(case["input"]["seed"], case["input"]["shape"])
        seen = []
        answer = sliding(
            spied({"conv": conv, "position": position}[case["predictor"]], seen),
            x,
            window=case["roi_size"],
            overlap=case["overlap"],
            blend=case["mode"],
            sigma_scale=case["sigma_scale"],
            batch_size=case["sw_batch_size"],
        )
        assert list(answer.shape) == case["output_shape"]
        assert sum(seen) == case["num_windows"], case["name"]
        wanted = torch.tensor(case["sample_value"])
        error = (answer.flatten()[torch.tensor(case["sample_index"])] - wanted).abs().max() / wanted.abs().max()
        assert error < 1e-5, case["name"]


def test_the_stored_weights(golden):
    for stored in golden["importance_maps"]:
        found = windows.importance(stored["size"], "gaussian", stored["sigma_scale"])
        middle = [n // 2 for n in stored["size"]]
        for axis in range(3):
            line = found[tuple(slice(None) if a == axis else middle[a] for a in range(3))]
            assert line.tolist() == pytest.approx(stored[f"line_axis{axis}"], rel=1e-5)
        n = torch.arange(min(stored["size"]))
        assert found[n, n, n].tolist() == pytest.approx(stored["diagonal"], rel=1e-5)
        assert found.min().item() == pytest.approx(stored["min"], rel=1e-5)


def test_an_overlap_for_each_axis_and_whole_axes_as_in_monai():
    inferers = pytest.importorskip("monai.inferers")
    x, model, share = normal(1, (1, 1, 21, 18, 15)), network(), (0.5, 0.25, 0.75)
    wanted = inferers.sliding_window_inference(x, (8, 8, None), 1, model, share, mode="gaussian")
    answer = sliding(model, x, window=(8, 8, None), overlap=share)
    assert (answer - wanted).abs().max() < 1e-5 * wanted.abs().max()


@given(size=st.integers(1, 200), window=st.integers(1, 80), overlap=st.floats(0, 1, exclude_max=True))
def test_windows_cover_an_axis(size, window, overlap):
    found = windows.starts(size, window, overlap)
    covered = {i for start in found for i in range(start, start + window)}
    assert covered >= set(range(size))
    assert found == sorted(set(found))
    if size >= window:
        assert found[0] == 0 and found[-1] == size - window
    else:
        assert found == [-((window - size) // 2)]


@given(
    window=st.tuples(*[st.integers(1, 12)] * 3),
    blend=st.sampled_from(["gaussian", "constant"]),
    sigma_scale=st.floats(0.01, 2),
)
def test_every_weight_counts(window, blend, sigma_scale):
    weights = windows.importance(window, blend, sigma_scale)
    assert weights.shape == window
    assert weights.min() >= 1e-3 and weights.max() <= 1


shapes = st.tuples(*[st.integers(1, 14)] * 3)


@settings(max_examples=60, deadline=None)
@given(
    size=shapes,
    window=st.tuples(*[st.integers(2, 9)] * 3),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.6, 0.75]),
    blend=st.sampled_from(["gaussian", "constant"]),
    batch=st.integers(1, 2),
    batch_size=st.sampled_from([None, 1, 3]),
)
def test_answers_are_those_of_monai(size, window, overlap, blend, batch, batch_size):
    inferers = pytest.importorskip("monai.inferers")
    model, x = network(2), normal(0, (batch, 2, *size))
    with torch.no_grad():
        wanted = inferers.sliding_window_inference(x, window, 2, model, overlap, mode=blend)
    options = {"window": window, "overlap": overlap, "blend": blend, "batch_size": batch_size}
    found = sliding(model, x, **options)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.equal(sliding(model, x.numpy(), **options), found)
    labels = sliding(model, x, labels=True, **options)
    assert labels.dtype == torch.uint8 and labels.shape == (batch, *size)
    best = found.gather(1, labels[:, None].long())[:, 0]
    assert torch.allclose(best, found.amax(1), atol=1e-5)


def test_mirrored_windows_are_the_mean_over_all_combinations():
    model, x = network(), normal(1, (1, 1, 11, 9, 10))
    options = {"window": (6, 5, 4), "blend": "constant"}
    combinations = [(), (2,), (4,), (2, 4)]
    wanted = sum(sliding(lambda x, f=f: model(x.flip(f)).flip(f), x, **options) for f in combinations) / 4
    assert torch.allclose(sliding(model, x, mirrored=(2, 4), **options), wanted, atol=1e-6)


def test_a_volume_without_a_batch():
    model, x = network(), normal(2, (1, 9, 8, 7))
    assert torch.equal(sliding(model, x, window=5), sliding(model, x[None], window=(5, 5, 5)))


def test_precision_is_the_networks():
    model, x = network(), normal(3, (1, 1, 9, 8, 7))
    wanted = sliding(model, x, window=5)
    double = sliding(network().double(), x.numpy(), window=5)
    assert double.dtype == torch.float64 and torch.allclose(double.float(), wanted, atol=1e-5)
    half = sliding(network().bfloat16(), x, window=5)
    assert half.dtype == torch.float32 and torch.allclose(half, wanted, atol=0.1)
    counts = (100 * x).to(torch.int16)
    assert torch.equal(sliding(model, counts, window=5), sliding(model, counts.numpy().astype(">i2"), window=5))


def test_nothing_is_recorded_and_the_mode_stays():
    model = network().train()
    answer = sliding(model, normal(4, (1, 1, 6, 6, 6)).requires_grad_(), window=4)
    assert not answer.requires_grad and model.training and torch.is_grad_enabled()


@pytest.mark.parametrize("depth", [3, 8, 23])
def test_memory_maps_in_and_out(tmp_path, depth):
    np.save(tmp_path / "in.npy", normal(5, (1, depth, 11, 10)).numpy())
    volume, model = np.load(tmp_path / "in.npy", mmap_mode="r"), network()
    wanted = sliding(model, torch.from_numpy(np.array(volume)), window=8)
    for labels, dtype, truth in ((True, np.uint8, wanted.argmax(1)), (False, np.float32, wanted)):
        shape = tuple(truth.shape[1:])
        out = np.lib.format.open_memmap(tmp_path / "out.npy", mode="w+", dtype=dtype, shape=shape)
        assert sliding(model, volume, window=8, labels=labels, out=out) is out
        out.flush()
        kept = torch.from_numpy(np.load(tmp_path / "out.npy"))
        assert torch.equal(kept, truth[0].to(kept.dtype))


def test_what_was_written_to_a_private_map_stays(tmp_path):
    np.save(tmp_path / "in.npy", np.zeros((1, 4, 4, 4), np.float32))
    volume = np.load(tmp_path / "in.npy", mmap_mode="c")
    volume[:] = 1
    assert sliding(nn.Identity(), volume, window=4).eq(1).all() and (volume == 1).all()


def test_many_classes_need_wider_labels():
    def one_of_many(x):
        return torch.nn.functional.one_hot(torch.full_like(x[:, 0], 299).long(), 300).movedim(-1, 1).float()

    answer = sliding(one_of_many, torch.zeros(1, 1, 4, 4, 4), window=2, labels=True)
    assert answer.dtype == torch.int16 and answer.eq(299).all()


X = torch.zeros(1, 1, 6, 6, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": (4, 0, 4)}, r"window \(4, 0, 4\) must be at least 1"),
        ({"window": (8, 8)}, r"window \(8, 8\) must be three numbers"),
        ({"overlap": (0.5, 0.5)}, r"overlap \(0.5, 0.5\) must be three numbers"),
        ({"overlap": (0.5, 0.5, 1)}, "overlap 1 must be"),
        ({"overlap": 1.0}, "overlap 1.0 must be at least 0 and below 1"),
        ({"overlap": -0.1}, "overlap -0.1"),
        ({"blend": "mean"}, "blend 'mean'; there is gaussian, constant"),
        ({"sigma_scale": 0}, "sigma_scale 0 must be above 0"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"mirrored": (1,)}, r"mirrored \(1,\) must be axes"),
        (
            {"out": torch.zeros(1, 3, 6, 6, 5)},
            r"out \(1, 3, 6, 6, 5\) must have the shape of the answer, \(1, 3, 6, 6, 6\)",
        ),
        ({"out": torch.zeros(1, 3, 6, 6, 6, dtype=torch.int32)}, "float32 or float64"),
        ({"out": torch.zeros(1, 6, 6, 6), "labels": True}, "integers up to 2"),
    ],
)
def test_what_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        sliding(network(), X, **{"window": 4, **options})


@pytest.mark.parametrize(
    ("model", "volume", "message"),
    [
        (network(2), X, r"the network does not take windows \(1, 1, 4, 4, 4\): .*2 channels"),
        (network(), X[0, 0], r"volume \(6, 6, 6\) must be \(C, D, H, W\)"),
        (network(), X[:, :, :0], "is empty"),
        (lambda x: [x, x], X, "answers a list .* with deep supervision"),
        (lambda x: x[..., ::2], X, r"answers \(1, 1, 4, 4, 2\) to windows \(1, 1, 4, 4, 4\)"),
        (lambda x: x.mean((2, 3, 4)), X, r"answers \(1, 1\) to windows"),
        (
            nn.Identity(),
            X.index_fill(4, torch.tensor([5]), float("nan")),
            r"not finite in the window at voxel \(0, 0, 2\)",
        ),
    ],
)
def test_networks_and_volumes_that_do_not_fit(model, volume, message):
    with pytest.raises(ValueError, match=message):
        sliding(model, volume, window=4)


def test_finite_logits_whose_sum_is_not():
    assert sliding(lambda x: torch.full_like(x, 3e37), X, window=4, blend="constant").isfinite().all()


def test_many_windows_show_a_bar(monkeypatch):
    told = []
    monkeypatch.setattr(windows.terminal, "progress", lambda items, what, total: told.append((what, total)) or items)
    sliding(nn.Identity(), X, window=4)
    assert not told
    sliding(nn.Identity(), X, window=2)
    assert told == [("windows", 125)]


BIG = """
    import sys
    import numpy as np, torch
    from torch import nn
    from tubelet import windows

    torch.set_num_threads(1)
    folder = sys.argv[1]
    volume = np.load(folder + "/in.npy", mmap_mode="r")[None]
    out = np.lib.format.open_memmap(folder + "/out.npy", mode="w+", dtype=np.uint8, shape=volume.shape[1:])
    model = nn.Sequential(nn.Conv3d(1, 2, 4, stride=4), nn.Upsample(scale_factor=4)).eval()
    with torch.no_grad():
        model[0].weight.fill_(1 / 64)
        model[0].weight[0] = 0
        model[0].bias.copy_(torch.tensor([0.5, 0.0]))
    windows.sliding(model, volume, window=(64, 128, 128), overlap=0.5, labels=True, out=out)
    out.flush()
    # of this program alone: ru_maxrss begins with that of the process that started it
    print(next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
def test_a_volume_of_a_gigabyte_in_bounded_memory(tmp_path):
    """1,000 x 512 x 512 float32 on disk, two classes: below 2 GB, and no page of the map is kept."""
    volume = np.lib.format.open_memmap(tmp_path / "in.npy", mode="w+", dtype=np.float32, shape=(1000, 512, 512))
    volume[480:520, 64:128, 256:384] = 1
    volume[992:, :, :] = 1
    volume.flush()
    del volume
    code = textwrap.dedent(BIG)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000, f"{done.stdout} MiB"
    labels = np.load(tmp_path / "out.npy", mmap_mode="r")
    assert labels[480:520, 64:128, 256:384].all() and labels[992:].all()
    assert labels.sum(dtype=int) == 40 * 64 * 128 + 8 * 512 * 512
