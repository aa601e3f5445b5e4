import argparse
import collections
import datetime
import functools
import json
import logging
import pathlib
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_convert import RESNETS, foreign
from torch import nn

import tubelet
from tubelet import ClipSpec, weights
from tubelet.heads import Classify, Features, PerFrame

SPEC = ClipSpec(num_frames=8, fps=12.5, resize=(30, 40), crop=(24, 24), classes=("a", "é", "c"))
# one of each family; the rest is for test_every_model
NETWORKS = ("tiny", "tiny_3d", "tiny_2d", "r3d_18", "resnet3d_10", "movinet_a0", "tsm_mobilenetv2", "x3d_xs", "unet3d")
HEADS = {"Classify": Classify, "PerFrame": PerFrame, "Features": lambda *_, **__: Features()}


@functools.lru_cache(maxsize=len(NETWORKS))
def made(name):
    torch.manual_seed(0)
    model = tubelet.create(name, num_classes=3).eval()
    for buffer_name, value in model.named_buffers():
        if buffer_name.endswith("running_mean"):
            value.normal_()
    model.spec = SPEC.with_channels(model.spec.in_channels)
    return model


def tiny(num_classes=3):
    torch.manual_seed(1)
    return tubelet.create("tiny", num_classes=num_classes).eval()


def assert_same(one, two):
    ours, theirs = one.state_dict(), two.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


# our own files


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_gives_the_network_back(tmp_path, monkeypatch, name, head):
    model = made(name)
    monkeypatch.setitem(model._modules, "head", HEADS[head](model.channels[-1], 3, dropout=0.25).eval())
    path = tubelet.save(model, tmp_path / "m.safetensors")
    loaded = tubelet.load(path)
    path.unlink()
    assert type(loaded.head) is type(model.head)
    assert loaded.architecture == model.architecture
    assert loaded.spec == model.spec
    assert not loaded.training
    assert_same(model, loaded)
    if name.startswith("tiny"):
        x = torch.rand(1, 3, 4, 16, 16)
        with torch.no_grad():
            assert torch.equal(model(x), loaded(x))


def test_the_header_tells_everything(tmp_path):
    model = tubelet.create("tiny", num_classes=3, in_channels=1)
    path = tubelet.save(model, tmp_path / "new" / "folder" / "m.safetensors", metrics={"top1": 0.75})
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["tubelet"])
    assert header["format"] == weights.FORMAT
    assert header["architecture"] == {"name": "tiny", "arguments": {"num_classes": 3, "in_channels": 1}}
    assert header["head"]["name"] == "Classify"
    assert header["metrics"] == {"top1": 0.75}
    assert header["versions"] == {"tubelet": tubelet.__version__, "torch": torch.__version__}
    assert ClipSpec.from_dict(header["spec"]) == model.spec
    assert load_file(path).keys() == model.state_dict().keys()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_folder_of_a_run_is_its_file(tmp_path):
    tubelet.save(made("tiny"), tmp_path / "model.safetensors")
    assert_same(tubelet.load(tmp_path), made("tiny"))
    assert tubelet.load(str(tmp_path)).spec == SPEC


def test_views_and_shared_memory_are_saved(tmp_path):
    model = tiny()
    model.head.fc.weight = nn.Parameter(torch.rand(64, 3).T)
    assert_same(tubelet.load(tubelet.save(model, tmp_path / "m.safetensors")), model)


CHANGES = {
    "another norm": lambda model: setattr(model.stages[1].branch, "norm1", nn.InstanceNorm3d(32)),
    "another activation": lambda model: setattr(model.stages[0], "act", nn.SiLU()),
    "another stride": lambda model: setattr(model.stem.conv, "stride", (1, 1, 1)),
    "one stage less": lambda model: model.stages.__delitem__(2),
    "one layer more": lambda model: model.stages.append(nn.Dropout(0.5)),
    "another shape": lambda model: setattr(model.stem.conv, "weight", nn.Parameter(torch.zeros(16, 1, 1, 5, 5))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_network_that_no_file_could_rebuild_is_not_saved(tmp_path, change):
    model = tiny()
    CHANGES[change](model)
    with pytest.raises(ValueError, match=r"layers are not those that tiny is made with, first (stages|stem)\."):
        tubelet.save(model, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())
    model.architecture = None
    path = tubelet.save(model, tmp_path / "m.safetensors")
    assert load_file(path).keys() == model.state_dict().keys()


def test_another_kind_of_head_is_not_saved(tmp_path):
    model = tiny()
    model.head = nn.Identity()
    with pytest.raises(ValueError, match="Identity cannot be saved as a head"):
        tubelet.save(model, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_network_of_others_is_saved_without_its_call(tmp_path):
    model = nn.Conv3d(3, 4, 1)
    path = tubelet.save(model, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"m\.safetensors: .* tubelet did not make; build it"):
        tubelet.load(path)
    assert weights.read(path).state.keys() == model.state_dict().keys()
    other = nn.Conv3d(3, 4, 1)
    assert tubelet.load(path, model=other) is other and not other.training
    assert torch.equal(other.weight, model.weight)
    with pytest.raises(ValueError, match=r"m\.safetensors: .* 1 of another shape: weight"):
        tubelet.load(path, model=nn.Conv3d(3, 4, 3))
    with pytest.raises(ValueError, match="num_classes with a network in memory: leave them out"):
        tubelet.load(path, model=other, num_classes=4)


def test_a_file_of_a_later_format(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"tubelet": json.dumps({"format": "tubelet-9"})})
    with pytest.raises(ValueError, match=r"m\.safetensors: format 'tubelet-9'.*'tubelet-1'.*upgrade"):
        tubelet.load(path)


# weights into a new network


def test_other_classes_make_a_new_head(tmp_path, caplog):
    path = tubelet.save(made("tiny"), tmp_path / "m.safetensors")
    with caplog.at_level(logging.INFO, "tubelet"):
        same = tubelet.create("tiny", num_classes=3, weights=path)
        assert not caplog.messages
        other = tubelet.create("tiny", num_classes=5, weights=path)
    (message,) = caplog.messages
    assert f"{path} answers 3 classes" in message
    assert "5" in message
    assert "head is new" in message
    assert_same(same, made("tiny"))
    assert same.spec == SPEC
    assert other.head.fc.out_features == 5
    assert other.spec == replace(SPEC, classes=())
    assert_same(other.stages, made("tiny").stages)
    assert_same(tubelet.load(tubelet.save(other, tmp_path / "other.safetensors")), other)


@pytest.mark.parametrize(
    ("head", "said", "kind"),
    [(PerFrame(64, 3), "answers 3 classes", PerFrame), (Features(), "no last layer: the head is new", Classify)],
)
def test_other_classes_after_another_head(tmp_path, caplog, head, said, kind):
    model = tiny()
    model.head = head
    path = tubelet.save(model, tmp_path / "m.safetensors")
    other = tubelet.create("tiny", num_classes=5, weights=path)
    assert type(other.head) is kind
    assert other.head.fc.out_features == 5
    assert said in caplog.text
    assert_same(other.stages, model.stages)


def test_another_networks_weights_are_one_error(tmp_path):
    ours = tubelet.save(made("tiny"), tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"m\.safetensors: holds tiny, not tiny_2d"):
        tubelet.create("tiny_2d", num_classes=3, weights=ours)
    plain = tmp_path / "m.pth"
    torch.save(made("tiny").state_dict(), plain)
    with pytest.raises(
        ValueError, match=r"m\.pth: the checkpoint .* does not fit tiny_2d .*missing.*left over"
    ) as caught:
        tubelet.create("tiny_2d", num_classes=3, weights=plain)
    assert "\n" not in str(caught.value)


def test_sizes_are_those_of_the_weights_unless_given(tmp_path, caplog):
    path = tubelet.save(made("tiny"), tmp_path / "m.safetensors")
    model = tubelet.create("tiny", weights=path)
    assert_same(model, made("tiny"))
    assert model.architecture["arguments"] == {"num_classes": 3, "in_channels": 3}
    torch.save(made("tiny").state_dict(), tmp_path / "m.pth")
    assert_same(tubelet.create("tiny", weights=tmp_path / "m.pth"), made("tiny"))
    assert not caplog.messages
    assert tubelet.create("tiny").head.fc.out_features == 400


@pytest.mark.parametrize("in_channels", [1, 2, 5])
@pytest.mark.parametrize("loads", [tubelet.load, functools.partial(tubelet.create, "tiny", weights=None)])
def test_other_channels_spread_the_first_convolution(tmp_path, caplog, in_channels, loads):
    path = tubelet.save(made("tiny"), tmp_path / "m.safetensors")
    caplog.set_level(logging.INFO, "tubelet")
    if isinstance(loads, functools.partial):
        other = tubelet.create("tiny", in_channels=in_channels, weights=path).eval()
    else:
        other = tubelet.load(path, in_channels=in_channels)
    assert f"spread over {in_channels} channels" in caplog.text
    assert other.spec.in_channels == in_channels
    gray = torch.rand(1, 1, 8, 24, 24)
    with torch.no_grad():
        one, two = (model(gray.expand(-1, n, -1, -1, -1)) for model, n in ((made("tiny"), 3), (other, in_channels)))
    assert torch.allclose(one, two, atol=1e-5)
    assert_same(tubelet.load(tubelet.save(other, tmp_path / "other.safetensors")), other)


def test_hints_go_before_what_was_recognised(tmp_path, caplog):
    torch.save(made("tiny").state_dict(), tmp_path / "m.pth")
    model = tubelet.load(tmp_path / "m.pth", num_classes=7)
    assert model.head.fc.out_features == 7
    assert "head is new" in caplog.text
    with pytest.raises(ValueError, match=r"tiny takes no alpha; it takes num_classes, in_channels"):
        tubelet.load(tmp_path / "m.pth", alpha=4)
    torch.save(made("tsm_mobilenetv2").state_dict(), tmp_path / "t.pth")
    assert tubelet.load(tmp_path / "t.pth", shift_div=4).architecture["arguments"]["shift_div"] == 4


def test_an_unknown_network_is_one_error(tmp_path):
    torch.save({"a.weight": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "m.pth")
    with pytest.raises(ValueError, match=r"m\.pth: no known network has these 2 keys \(a\.weight, b.*create\(NAME"):
        tubelet.load(tmp_path / "m.pth")


@pytest.mark.slow
def test_a_damaged_network_is_compared_with_the_nearest(tmp_path):
    state = foreign(made("r2plus1d_18"))
    del state["fc.weight"], state["fc.bias"], state["layer2.0.conv1.0.0.weight"]
    state["extra.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(ValueError, match=r"m\.pth: no known network .*the nearest is r2plus1d_18: .*missing") as caught:
        tubelet.load(tmp_path / "m.pth")
    for part in ("3 missing", "stages.1.0.branch.conv1.spatial.weight", "head.fc.weight", "1 left over: extra.weight"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


# files of others


@pytest.mark.parametrize("name", RESNETS)
def test_a_file_of_torchvision_is_recognised(tmp_path, name):
    model = made(name)
    path = tmp_path / "m.pth"
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in foreign(model).items()}}, path)
    loaded = tubelet.load(path)
    path.unlink()
    assert loaded.architecture["name"] == name
    assert_same(model, loaded)


STATE = {"a.weight": torch.arange(3.0), "b": torch.ones(2, dtype=torch.int64)}
PREFIXED = {f"module.{key}": value for key, value in STATE.items()}
WRAPPED = {
    "plain": STATE,
    "parallel": PREFIXED,
    "state_dict": {"state_dict": STATE, "epoch": 3, "optimizer": {"lr": 0.1}},
    "model": {"model": PREFIXED},
    "model_state": {"model_state": STATE, "cfg": "text"},
    "twice": {"model": {"state_dict": PREFIXED}},
    "with other values": {**STATE, "version": 3},
}


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_wrappers_and_prefixes_are_taken_off(tmp_path, wrapper, old_format):
    torch.save(WRAPPED[wrapper], tmp_path / "m.pth", _use_new_zipfile_serialization=not old_format)
    state = weights.read(tmp_path / "m.pth").state
    assert state.keys() == STATE.keys()
    assert all(torch.equal(value, STATE[key]) for key, value in state.items())


def test_a_prefix_of_some_is_no_prefix(tmp_path):
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "m.pth")
    assert set(weights.read(tmp_path / "m.pth").state) == {"module.a", "b"}


def test_what_a_training_module_keeps_beside_the_network_is_left_out(tmp_path, caplog):
    model, path = made("tiny"), tmp_path / "m.ckpt"
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": {**state, "criterion.weight": torch.ones(3)}}, path)
    own = tubelet.create("tiny", num_classes=3)
    for loaded in (tubelet.load(path), tubelet.create("tiny", weights=path), tubelet.load(path, model=own)):
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert caplog.text.count(f"{path}: left out what is beside the network: criterion.weight") == 3


def test_layers_of_ones_own_beside_a_network_stay(tmp_path, caplog):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.fc = tubelet.create("tiny", num_classes=3), nn.Linear(3, 2)

    torch.save((right := Own()).state_dict(), tmp_path / "m.pth")
    loaded = tubelet.load(tmp_path / "m.pth", model=Own())
    assert torch.equal(loaded.fc.weight, right.fc.weight)
    assert not caplog.text


def test_the_entries_of_a_file_that_does_not_fit_are_counted(tmp_path):
    torch.save(STATE, tmp_path / "m.pth")
    with pytest.raises(ValueError, match=rf"the checkpoint \({len(STATE)} entries\) does not fit tiny \(98 entries\)"):
        tubelet.create("tiny", weights=tmp_path / "m.pth")


def test_plain_safetensors_are_read(tmp_path):
    save_file(STATE, tmp_path / "m.safetensors", metadata={"format": "pt"})
    checkpoint = weights.read(tmp_path / "m.safetensors")
    assert checkpoint.header is None
    assert checkpoint.state.keys() == STATE.keys()


def test_an_average_over_training_comes_first(tmp_path):
    other = {key: value + 1 for key, value in STATE.items()}
    for name in ("model_ema", "state_dict_ema", "ema_state", "ema"):
        torch.save({"state_dict": other, name: {"module": STATE}}, tmp_path / "m.pth")
        assert torch.equal(weights.read(tmp_path / "m.pth").state["a.weight"], STATE["a.weight"])
    # MMEngine writes the averaged weights as the state_dict
    torch.save({"ema_state_dict": other, "state_dict": STATE, "ema": {"decay": 0.99}}, tmp_path / "m.pth")
    assert torch.equal(weights.read(tmp_path / "m.pth").state["a.weight"], STATE["a.weight"])


@pytest.mark.parametrize("name", ["m.pth", "m.pt", "m.pyth", "m.pkl", "m.ckpt", "m.pth.tar", "no_suffix"])
def test_any_name_is_read(tmp_path, name):
    torch.save(STATE, tmp_path / name)
    assert weights.read(tmp_path / name).state.keys() == STATE.keys()


def test_averaged_and_compiled_networks(tmp_path):
    state = {f"module._orig_mod.{key}": value for key, value in STATE.items()}
    torch.save({**state, "n_averaged": torch.tensor(7)}, tmp_path / "m.pth")
    assert weights.read(tmp_path / "m.pth").state.keys() == STATE.keys()


def test_a_compiled_network_is_saved_as_it_was_before(tmp_path):
    model = tubelet.create("tiny", num_classes=2)
    compiled = torch.compile(model, backend="eager")
    tubelet.save(compiled, tmp_path / "m.safetensors")
    loaded = tubelet.load(tmp_path / "m.safetensors")
    assert weights.identity(loaded) == weights.identity(compiled) == weights.identity(model)


def test_blobs_of_caffe2(tmp_path):
    blobs = {
        "conv1_w": np.arange(6, dtype=">f4").reshape(1, 2, 3),
        "conv1_w_momentum": np.ones(3, "f4"),
        "res_conv1_bn_rm": np.ones(4, "f4"),
        "lr": np.ones(1, "f4"),
        "model_iter": np.ones(1, "i8"),
        "data": None,
    }
    for protocol in (0, 2, 5):
        (tmp_path / "m.pkl").write_bytes(pickle.dumps({"blobs": blobs}, protocol=protocol))
        state = weights.read(tmp_path / "m.pkl").state
        assert state.keys() == {"conv1_w", "res_conv1_bn_rm"}
        assert torch.equal(state["conv1_w"], torch.arange(6.0).reshape(1, 2, 3))


def test_a_pickle_of_python_2(tmp_path):
    # pickle.dumps({'blobs': {'conv1_w': numpy.float32([1, 2])}}, 2) under Python 2: text of bytes
    made_by_2 = (
        b"\x80\x02}q\x01U\x05blobsq\x02}q\x03U\x07conv1_wq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\n"
        b"ndarray\nq\x06K\x00\x85q\x07U\x01bq\x08\x87q\tRq\n(K\x01K\x02\x85q\x0bcnumpy\ndtype\nq\x0cU\x02f4q\rK\x00K\x01"
        b"\x87q\x0eRq\x0f(K\x03U\x01<q\x10NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x11b\x89U\x08\x00\x00\x80?\x00\x00\x00@q\x12"
        b"tq\x13bss."
    )
    (tmp_path / "m.pkl").write_bytes(made_by_2)
    assert torch.equal(weights.read(tmp_path / "m.pkl").state["conv1_w"], torch.tensor([1.0, 2.0]))


class ConfigDict(dict):
    pass


EXTRAS = {
    "opt": argparse.Namespace(lr=0.1),
    "best": np.float64(0.5),
    "when": datetime.datetime(2020, 1, 1),
    "cfg": ConfigDict(model=ConfigDict(depth=50)),
    "folder": pathlib.PurePosixPath("runs"),
    "seen": {1, 2},
    "counts": collections.defaultdict(int, a=1),
    "order": collections.OrderedDict(a=1),
    "scores": np.arange(3.0),
    "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
    "schedule": torch.optim.lr_scheduler.StepLR(torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1), 1),
}


@pytest.mark.parametrize("old_format", [False, True])
def test_harmless_objects_beside_the_weights(tmp_path, old_format):
    state = {
        **STATE,
        "half": torch.ones(3, dtype=torch.bfloat16),
        "part": torch.arange(9.0)[2:5],
        "turned": torch.arange(6).reshape(2, 3).T,
        "parameter": nn.Parameter(torch.ones(2)),
        "number": torch.tensor(3),
        "none": torch.empty(0),
    }
    content = {"state_dict": state, **EXTRAS}
    torch.save(content, tmp_path / "m.pth", _use_new_zipfile_serialization=not old_format)
    found = weights.read(tmp_path / "m.pth").state
    assert found.keys() == state.keys()
    for key, value in state.items():
        assert found[key].dtype is value.dtype
        assert torch.equal(found[key], value)


class Code:
    def __reduce__(self):
        return eval, ("open('run', 'w')",)


@pytest.mark.parametrize("kind", ["new", "old", "plain"])
def test_code_in_a_file_does_not_run(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    if kind == "plain":
        (tmp_path / "m.pkl").write_bytes(pickle.dumps({"blobs": {"a": np.ones(2)}, "b": Code()}))
    else:
        torch.save({"a": torch.ones(2), "b": Code()}, "m.pkl", _use_new_zipfile_serialization=kind == "new")
    assert weights.read(tmp_path / "m.pkl").state.keys() == {"a"}
    assert not (tmp_path / "run").exists()


def test_what_holds_itself_is_one_error(tmp_path):
    content = {"a": torch.ones(1)}
    content["model"] = content
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"m\.pkl: not a file of weights \(what it holds, holds itself\)"):
        weights.read(tmp_path / "m.pkl")


def truncated(path):
    save_file({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


def truncated_zip(path):
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


def truncated_old(path):
    torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:2000])


def truncated_pickle(path):
    path.write_bytes(pickle.dumps({"blobs": {"a": np.zeros(1000)}})[:2000])


BAD_FILES = {
    "absent.pth": (lambda path: None, "no such file"),
    "absent.safetensors": (lambda path: None, "no such file"),
    "text.pth": (lambda path: path.write_text("version https://git-lfs\noid sha256:1\n"), "a page of text"),
    "words.pth": (lambda path: path.write_text("hello " * 9), "not a file of weights"),
    "page.pt": (lambda path: path.write_text("<!DOCTYPE html><html>"), "a page of text"),
    "empty.pth": (lambda path: path.touch(), "it is empty"),
    "empty.safetensors": (lambda path: path.touch(), "not a safetensors file, or a damaged one"),
    "text.safetensors": (lambda path: path.write_text("hello " * 9), "not a safetensors file, or a damaged one"),
    "cut.safetensors": (truncated, "not a safetensors file, or a damaged one"),
    "cut.pth": (truncated_zip, "its end is missing"),
    "cut_old.pth": (truncated_old, "not a file of weights, or a damaged one"),
    "cut.pkl": (truncated_pickle, "not a file of weights, or a damaged one"),
    "module.pth": (lambda path: torch.save(nn.Conv3d(1, 1, 1), path), "holds a Conv3d, .*state_dict"),
    "script.pt": (lambda path: torch.jit.script(nn.ReLU()).save(path), "TorchScript"),
    "code.pth": (lambda path: torch.save({"b": Code()}, path), "holds no tensors"),
    "list.pth": (lambda path: torch.save([torch.zeros(1)], path), "holds a list, not a mapping"),
    "two.pth": (
        lambda path: torch.save({"student": STATE, "deep": {"teacher": STATE}, "optimizer": {0: STATE}}, path),
        r"tensors are in content\['student'\], content\['deep'\]\['teacher'\]: save the network's alone$",
    ),
    "meta.pth": (lambda path: torch.save({"a": torch.ones(2, device="meta")}, path), "meta ones, without numbers"),
    "arrays.npz": (lambda path: np.savez(path, a=np.ones(2)), r"numpy's; torch.save\(dict\(numpy.load\(path\)\), "),
    "array.npy": (lambda path: np.save(path, np.ones(2)), "it is numpy's; "),
    "numbers.pth": (lambda path: torch.save({"a": 1}, path), "holds no tensors"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_named_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    make, message = BAD_FILES[name]
    path = tmp_path / name
    make(path)
    with pytest.raises(ValueError, match=message) as caught:
        weights.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_is_that_of_a_run(tmp_path):
    with pytest.raises(ValueError, match=r"model\.safetensors: no such file of weights"):
        weights.read(tmp_path)
    tubelet.save(made("tiny"), tmp_path / "model.safetensors")
    assert weights.read(tmp_path).header["architecture"]["name"] == "tiny"


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=40), st.text("q(}.\x80\x020KJ]abX", max_size=20).map(str.encode)))
def test_any_bytes_are_weights_or_a_named_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"any\.pth: "):
        weights.read(path)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_plain_state_dict_of_ours_is_recognised(tmp_path, name):
    torch.save(made(name).state_dict(), tmp_path / "m.pth")
    save_file(made(name).state_dict(), tmp_path / "m.safetensors")  # in the order of the alphabet
    for path in tmp_path.iterdir():
        model = tubelet.load(path)
        path.unlink()
        # some networks differ in what has no weights
        assert type(model) is type(made(name))
        assert model.channels == made(name).channels
        assert_same(model, made(name))


# what new users run into


def test_safetensors_are_known_by_their_content(tmp_path):
    path = tubelet.save(made("tiny"), tmp_path / "own.pth")
    assert_same(tubelet.load(path), made("tiny"))


def test_a_plain_pickle_of_tensors(tmp_path):
    state = made("tiny").state_dict()
    path = tmp_path / "plain.pkl"
    path.write_bytes(pickle.dumps(state))
    read = tubelet.weights.read(path).state
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], value) for key, value in state.items())


@pytest.mark.parametrize("prefix", ["net.", "network.", "encoder.", "module.model."])
def test_prefixes_of_all_keys(tmp_path, prefix):
    path = tmp_path / "m.pth"
    torch.save({f"{prefix}{key}": value for key, value in made("tiny").state_dict().items()}, path)
    assert_same(tubelet.load(path), made("tiny"))


def test_what_has_no_tensors_says_what_it_has(tmp_path):
    path = tmp_path / "m.pth"
    torch.save({"params": {"a": 1}, "epoch": 3}, path)
    with pytest.raises(ValueError, match=r"m\.pth: holds no tensors under names; it has params, epoch"):
        tubelet.load(path)


@pytest.mark.slow
def test_a_file_without_a_last_layer_starts_a_new_one(tmp_path, caplog):
    state = {key: value for key, value in made("tiny").state_dict().items() if not key.startswith("head.")}
    path = tmp_path / "trunk.pth"
    torch.save(state, path)
    model = tubelet.create("tiny", num_classes=7, weights=path)
    assert "no last layer: the head is new" in caplog.text
    assert model.head.fc.out_features == 7
    assert_same(model.stages, made("tiny").stages)


def test_a_name_that_is_no_file_is_told_where_it_belongs():
    with pytest.raises(ValueError, match=r"no such file of weights; tubelet.create\('x3d_m'\) makes the network"):
        tubelet.load("x3d_m")
    with pytest.raises(ValueError, match=r"tubelet.create\('r3d_18', weights='r3d_18.kinetics400_torchvision'\)"):
        tubelet.load("r3d_18.kinetics400_torchvision")


@pytest.mark.parametrize("value", ["5", 2.0, 0, -1])
def test_counts_must_be_whole_and_at_least_one(value):
    with pytest.raises(ValueError, match=rf"num_classes {value!r} must be a whole number of at least 1"):
        tubelet.create("tiny", num_classes=value)


def test_weights_that_nobody_published():
    with pytest.raises(ValueError, match=r"none are published for tiny"):
        tubelet.create("tiny", weights="kinetics400")
    with pytest.raises(
        ValueError, match=r"'kinetics600' is neither a file nor a tag; published for x3d_m are kinetics400"
    ):
        tubelet.create("x3d_m", weights="kinetics600")


def test_what_keys_do_not_tell_is_said(tmp_path, caplog):
    model = tubelet.create("tsm_r18", num_classes=2)
    state = {}
    for key, value in model.state_dict().items():
        key = re.sub(r"^stem\.0\.conv", "base_model.conv1", key)
        key = re.sub(r"^stem\.0\.norm", "base_model.bn1", key)
        key = re.sub(r"^stages\.(\d)", lambda match: f"base_model.layer{int(match[1]) + 1}", key)
        key = re.sub(r"branch\.conv(\d)", r"conv\1", key)
        key = re.sub(r"branch\.norm(\d)", r"bn\1", key)
        key = key.replace("shortcut.conv", "downsample.0").replace("shortcut.norm", "downsample.1")
        state[key.replace("head.fc", "new_fc")] = value.squeeze(2) if value.ndim == 5 else value
    path = tmp_path / "mine.pth"
    torch.save(state, path)
    assert tubelet.load(path).architecture["name"] == "tsm_r18"
    assert "taken for tsm_r18 with shift_div=8, as published" in caplog.text
    caplog.clear()
    tubelet.load(path, shift_div=8)
    assert not caplog.text


def test_a_trunk_and_all_below_a_prefix(tmp_path):
    path = tmp_path / "m.pth"
    torch.save({f"backbone.{key}": value for key, value in foreign(tubelet.create("mc3_18")).items()}, path)
    model = tubelet.load(path)
    assert model.architecture["name"] == "mc3_18"


def test_twins_of_equal_weights_are_named(tmp_path, caplog):
    path = tmp_path / "m.pth"
    torch.save(tubelet.create("r2plus1d_34", num_classes=2).state_dict(), path)
    assert tubelet.load(path).architecture["name"] == "r2plus1d_34"
    assert "taken for r2plus1d_34; r2plus1d_34_32x2 have the same weights" in caplog.text


def test_a_run_without_an_epoch_says_so(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"no such file of weights; the run has not come to the end of its first epoch"
    ):
        tubelet.load(tmp_path)
