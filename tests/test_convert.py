import re

import pytest
import torch

import tubelet
from tubelet import convert
from tubelet.convert import UNTOLD, recognise, rename
from tubelet.models import MODELS

RESNETS = ("r3d_18", "mc3_18", "r2plus1d_18")


def torchvision_key(key, name):
    """Our key -> torchvision's."""
    if name == "r2plus1d_18":
        key = re.sub(r"^stem\.([01])\.(conv|norm)", lambda m: f"stem.{3 * int(m[1]) + (m[2] == 'norm')}", key)
    key = re.sub(r"^stem\.(conv|norm)", lambda m: f"stem.{int(m[1] == 'norm')}", key)
    key = re.sub(r"^stages\.(\d)", lambda m: f"layer{int(m[1]) + 1}", key)
    key = re.sub(r"branch\.norm(\d)", r"conv\1.1", key)
    for part, place in {"spatial": 0, "norm": 1, "temporal": 3}.items():
        key = re.sub(rf"branch\.conv(\d)\.{part}", rf"conv\1.0.{place}", key)
    key = re.sub(r"branch\.conv(\d)", r"conv\1.0", key)
    key = key.replace("shortcut.conv", "downsample.0").replace("shortcut.norm", "downsample.1")
    return key.replace("head.fc", "fc")


def foreign(model):
    """The model's weights as a checkpoint of torchvision."""
    name = model.architecture["name"]
    return {torchvision_key(key, name): value for key, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def tiny():
    return tubelet.create("tiny", num_classes=4)


@pytest.fixture(scope="module", params=RESNETS)
def on_meta(request):
    with torch.device("meta"):
        return tubelet.create(request.param, num_classes=7, in_channels=2)


def test_names_of_torchvision(on_meta):
    state = foreign(on_meta)
    assert "layer4.1.conv2.1.running_var" in state
    assert "layer2.0.downsample.0.weight" in state
    assert not {"stem.0.weight", "fc.bias"} - set(state)
    assert not [key for key in state if "stages" in key or "branch" in key or "norm" in key]


def test_a_checkpoint_of_torchvision_is_recognised_and_renamed(on_meta):
    state = foreign(on_meta)
    assert recognise(state) == (on_meta.architecture["name"], {"num_classes": 7, "in_channels": 2})
    own = on_meta.state_dict()
    converted = convert(dict(reversed(state.items())), on_meta)
    assert list(converted) == list(own)
    assert all(converted[torchvision] is state[key] for key, torchvision in zip(state, own, strict=True))


def test_own_keys_pass_unchanged(tiny):
    state = tiny.state_dict()
    converted = convert(state, tiny)
    assert list(converted) == list(state)
    assert all(converted[key] is state[key] for key in state)
    assert recognise(state) is None


@pytest.mark.parametrize("missing", ["stem.0.weight", "fc.weight", "layer4.0.conv2.0.weight"])
def test_what_lacks_an_end_is_not_recognised(on_meta, missing):
    state = foreign(on_meta)
    key = missing.replace("conv2.0.weight", "conv2.0.3.weight") if missing not in state else missing
    del state[key]
    assert recognise(state) is None


def test_what_is_missing_left_over_or_of_another_shape_is_listed(tiny):
    state = dict(tiny.state_dict())
    del state["stem.conv.weight"], state["stages.0.branch.norm1.bias"]
    state["extra.weight"] = torch.zeros(3)
    state["head.fc.weight"] = torch.zeros(9, 64)
    with pytest.raises(ValueError) as caught:
        convert(state, tiny)
    message = str(caught.value)
    num = len(tiny.state_dict())
    assert f"({num - 1} entries) does not fit tiny ({num} entries)" in message
    assert "2 missing: stem.conv.weight, stages.0.branch.norm1.bias" in message
    assert "1 left over: extra.weight" in message
    assert "1 of another shape: head.fc.weight (9, 64) for (4, 64)" in message
    assert "\n" not in message


@pytest.mark.parametrize("fault", ["missing", "left over", "of another shape"])
def test_each_fault_alone_is_refused(tiny, fault):
    state = dict(tiny.state_dict())
    if fault == "missing":
        del state["head.fc.bias"]
    else:
        state["head.fc.bias" if "shape" in fault else "head.fc.other"] = torch.zeros(5)
    with pytest.raises(ValueError, match=rf"entries\): 1 {fault}: head\.fc\.\w+( \(5,\) for \(4,\))?$"):
        convert(state, tiny)


def test_long_lists_are_cut(tiny):
    keys = list(tiny.state_dict())
    num = len([key for key in keys if not key.endswith("num_batches_tracked")])  # those are filled
    with pytest.raises(ValueError, match=rf"{num} missing: {keys[0]}, .*, and {num - 5} more; 1 left over: a$"):
        convert({"a": torch.zeros(1)}, tiny)
    with pytest.raises(ValueError, match=r"the checkpoint \(0 entries\)"):
        convert({}, tiny)


def test_names_of_the_right_shape_under_a_wrong_name_are_not_guessed(tiny):
    state = {f"net.{key}": value for key, value in tiny.state_dict().items()}
    with pytest.raises(ValueError, match=r"missing: stem\.conv\.weight.*left over: net\.stem\.conv\.weight"):
        convert(state, tiny)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "module.backbone."])
def test_what_torch_puts_before_each_key_is_taken_off(tiny, prefix):
    state = tiny.state_dict()
    converted = convert({f"{prefix}{key}": value for key, value in state.items()}, tiny)
    assert all(converted[key] is value for key, value in state.items())
    wrapped = torch.nn.DataParallel(tiny)
    assert convert(wrapped.state_dict(), wrapped).keys() == wrapped.state_dict().keys()


def test_any_module_takes_its_own_keys():
    module = torch.nn.Linear(2, 3)
    assert convert(module.state_dict(), module).keys() == module.state_dict().keys()
    with pytest.raises(ValueError, match="does not fit Linear"):
        convert({}, module)


def test_rename_takes_the_layout_that_fits_best(on_meta):
    renamed = rename({**foreign(on_meta), "extra": torch.zeros(1)}, on_meta)
    assert renamed.keys() ^ on_meta.state_dict().keys() == {"extra"}


def test_what_keys_do_not_tell_are_arguments():
    options = {preset.build.__name__: preset.options for preset in MODELS}
    for function, names in UNTOLD.items():
        assert set(names) <= set(options[function])
