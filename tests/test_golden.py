"""Answers, sizes and costs of the published networks, as their own code gave them."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import tubelet

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"
# file: name of the network here
NETWORKS = {"torchvision_r3d_18": "r3d_18", "torchvision_r2plus1d_18": "r2plus1d_18"}

pytestmark = pytest.mark.skipif(
    not (GOLDEN / "golden.py").is_file(), reason=f"needs {GOLDEN}, reference values that the project does not ship"
)


@pytest.fixture(scope="module")
def golden():
    spec = importlib.util.spec_from_file_location("golden", GOLDEN / "golden.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["golden"] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module.Golden


@pytest.fixture(scope="module", params=NETWORKS)
def reference(request, golden):
    return request.param, golden.load(request.param)


@pytest.fixture(scope="module")
def loaded(reference, tmp_path_factory):
    """The checkpoint in its publisher's keys, through a file whose network must be recognised."""
    name, golden = reference
    path = tmp_path_factory.mktemp(name) / "checkpoint.pth"
    torch.save(golden.state_dict(), path)
    model = tubelet.load(path)
    path.unlink()
    return model


def test_the_network_is_recognised_and_complete(reference, loaded):
    name, golden = reference
    assert loaded.architecture["name"] == NETWORKS[name]
    assert sum(p.numel() for p in loaded.parameters()) == golden.raw["params"]
    state = golden.state_dict()
    converted = tubelet.convert(state, loaded)
    assert len(converted) == len(state) == golden.raw["num_state_entries"]
    assert all(torch.equal(value, converted[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize("case", ["canonical", "small"])
def test_answers_and_costs_are_the_published_codes(reference, loaded, case):
    (case,) = [found for found in reference[1].cases if found.name == case]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        logits = loaded(*case.inputs)
    assert case.error(logits) < 1e-4
    assert counter.get_total_flops() == case.raw["flops"]
    if "top5" in case.raw:
        assert logits[0].topk(5).indices.tolist() == case.raw["top5"]


def test_every_case_is_compared(reference):
    assert [case.name for case in reference[1].cases] == ["canonical", "small"]
