"""Answers, sizes and costs of the published networks, as their own code gave them."""

import copy
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import tubelet
from tubelet.convert import recognise

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"
FILES = sorted(path.stem for path in (GOLDEN / "models").glob("*.json") if not path.stem.startswith("monai"))
# what keys and shapes do not tell
HINTS: dict[str, dict] = {
    "pyslowfast_i3d_nln_dot_product_8x8_r50": {"non_local_mode": "dot_product"},
    "resnets3d_resnet18_b_nomaxpool_half_width": {"conv1_t_stride": 2, "no_max_pool": True},
    "tsm_resnet34_8seg_block_div4": {"shift_div": 4},
}
# the nearest of several names of one function
NAMES = {
    "mmaction_i3d_r50": "i3d_32x2_r50",
    "mmaction_i3d_r50_nl_gaussian": "i3d_32x2_r50_nl",
    "mmaction_slowfast_r50_4x16": "slowfast_4x16_r50",
    "pyslowfast_i3d_nln_8x8_r50": "i3d_r50_nl",
    "pytorchvideo_csn_r101": "ir_csn_101",
    "pytorchvideo_slowfast_16x8_r101_50_50": "slowfast_16x8_r101_50_50",
    "resnets3d_resnet101_b": "resnet3d_101",
    "tsm_resnet34_8seg_block_div4": "tsm_r34",
}
# above this, a case is left to `make test-all`
SLOW_FLOPS = 20e9

pytestmark = pytest.mark.skipif(not FILES, reason=f"needs {GOLDEN}, reference values that the project does not ship")


@pytest.fixture(scope="module")
def golden():
    spec = importlib.util.spec_from_file_location("golden", GOLDEN / "golden.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["golden"] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module.Golden


# the largest, of whose kinds there are smaller ones
LARGE = {
    "c3d_sports1m",
    "mmaction_c3d_ucf101",
    "mmaction_i3d_r50_nl_gaussian",
    "mmaction_ipcsn_r152",
    "mmaction_r2plus1d_r34_8x8",
    "p3d131",
    "pytorchvideo_csn_r101",
    "pytorchvideo_slowfast_16x8_r101_50_50",
    "pyslowfast_i3d_nln_dot_product_8x8_r50",
    "resnets3d_preresnet50_b",
    "resnets3d_resnet101_b",
    "resnets3d_resnet34_b",
    "resnets3d_resnext101_b",
    "resnets3d_wideresnet50_b",
    "tsm_resnet101_8seg",
}


@pytest.fixture(
    scope="module",
    params=[pytest.param(file, marks=[pytest.mark.slow] if file in LARGE else []) for file in FILES],
)
def reference(request, golden):
    return golden.load(request.param)


@pytest.fixture(scope="module")
def loaded(reference, tmp_path_factory):
    """The checkpoint in its publisher's keys, through a file whose network must be recognised."""
    path = tmp_path_factory.mktemp("golden") / "checkpoint.pth"
    torch.save(reference.state_dict(), path)
    model = tubelet.load(path, **HINTS.get(reference.raw["name"], {}))
    path.unlink()
    return model


def answer(model, case, layout):
    """The model's answer to a case, whose axes are in the order that its own code takes."""
    inputs = case.inputs
    if layout == "NMCTHW":
        inputs[0] = inputs[0].flatten(0, 1)
    elif layout == "NTCHW":
        inputs[0] = inputs[0].transpose(1, 2)
    if case.raw["float32_error"] > 2e-5:
        model, inputs = copy.deepcopy(model).double(), [x.double() for x in inputs]
    if case.name == "two_chunks":
        stream = tubelet.Stream(model)
        first, second = inputs[0].chunk(2, dim=2)
        stream(first)
        return stream(second)[..., -1]
    is_slowfast = [given["name"] for given in case.raw["inputs"]] == ["slow", "fast"]
    return model(inputs) if is_slowfast else model(*inputs)


def test_the_network_is_recognised_and_complete(reference, loaded):
    name = loaded.architecture["name"]
    assert NAMES.get(reference.raw["name"], name) == name
    assert sum(p.numel() for p in loaded.parameters()) == reference.raw["params"]
    state = reference.state_dict()
    converted = tubelet.convert(state, loaded)
    assert len(converted) == len(state) == reference.raw["num_state_entries"]
    assert all(torch.equal(value, converted[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize("place", range(3))
def test_answers_are_the_published_codes(reference, loaded, place, request, record_property):
    if place >= len(reference.cases):
        pytest.skip(f"has {len(reference.cases)} cases")
    case = reference.cases[place]
    if case.raw["flops"] > SLOW_FLOPS and request.config.option.markexpr == "not slow":
        pytest.skip("large: part of `make test-all`")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        logits = answer(loaded, case, reference.raw["layout"])
    error = case.error(logits)
    source = reference.raw["source"]["package"]
    record_property("golden", (reference.raw["name"], loaded.architecture["name"], source, case.name, f"{error:.1e}"))
    assert error < 1e-4
    if case.name != "two_chunks":
        # heads average before their linear layers, where some sources do it after
        assert abs(counter.get_total_flops() / case.raw["flops"] - 1) < 0.02
    if "top5" in case.raw and logits.ndim == 2:
        assert logits[0].topk(5).indices.tolist() == case.raw["top5"]


def test_the_slow_frames_are_the_sources(golden):
    clips = [
        case.inputs
        for name in FILES
        for case in golden.load(name).cases
        if "derived_from" in case.raw["inputs"][0] and case.name != "canonical"
    ]
    assert clips
    model = tubelet.create("slowfast_r50")
    for slow, fast in clips:
        assert torch.equal(model.pick(fast), slow)


def test_the_order_of_keys_does_not_matter(reference):
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape, *_ in reference.raw["state"]}
    assert recognise(dict(sorted(state.items()))) == recognise(state) is not None


def test_a_file_of_a_twin_takes_the_name_that_is_asked_for(golden, tmp_path):
    reference = golden.load("pyslowfast_x3d_s")
    torch.save(reference.state_dict(), tmp_path / "mine.pyth")
    model = tubelet.create("x3d_s", weights=tmp_path / "mine.pyth").eval()
    assert model.spec.num_frames == 13
    small = reference.cases[1]
    with torch.no_grad():
        assert small.error(model(*small.inputs)) < 1e-4
