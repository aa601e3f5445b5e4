import re

import pytest
import torch
from torch import nn

import tubelet
from tubelet.blocks import TemporalShift
from tubelet.convert import recognise

MIT_BLOCK = {"expand.conv": 0, "expand.norm": 1, "depthwise.conv": 3, "depthwise.norm": 4}
MIT_BLOCK |= {"project.conv": 6, "project.norm": 7}


def small(name, **arguments):
    torch.manual_seed(0)
    return tubelet.create(name, num_classes=5, **arguments).eval()


def flat(state):
    """The state with 2D kernels, as these networks were published, but for the non-local blocks."""
    return {
        key: value[:, :, 0] if value.ndim == 5 and "non_local" not in key else value for key, value in state.items()
    }


def rename(state, rules):
    renamed = {}
    for key, value in flat(state).items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def layer(match):
    return f"layer{int(match[1]) + 1}."


def mit(state):
    return rename(
        state,
        (
            (r"^stem\.0\.conv", "conv1"),
            (r"^stem\.0\.norm", "bn1"),
            (r"^stages\.(\d)\.", layer),
            (r"branch\.conv", "conv"),
            (r"branch\.norm", "bn"),
            (r"shortcut\.conv", "downsample.0"),
            (r"shortcut\.norm", "downsample.1"),
            (r"non_local\.(g|phi)", r"nl.\1.0"),
            (r"non_local\.theta", "nl.theta"),
            (r"non_local\.out\.conv", "nl.W.0"),
            (r"non_local\.out\.norm", "nl.W.1"),
            (r"^", "base_model."),
            (r"^base_model\.head\.fc", "new_fc"),
        ),
    )


def mmaction(state):
    return rename(
        state,
        (
            (r"^stem\.0\.conv", "conv1.conv"),
            (r"^stem\.0\.norm", "conv1.bn"),
            (r"^stages\.(\d)\.", layer),
            (r"branch\.conv(\d)", r"conv\1.conv"),
            (r"branch\.norm(\d)", r"conv\1.bn"),
            (r"shortcut\.conv", "downsample.conv"),
            (r"shortcut\.norm", "downsample.bn"),
            (r"non_local\.(g|phi)", r"non_local_block.\1.0.conv"),
            (r"non_local\.theta", "non_local_block.theta.conv"),
            (r"non_local\.affinity\.project", "non_local_block.concat_project.conv"),
            (r"non_local\.out\.conv", "non_local_block.conv_out.conv"),
            (r"non_local\.out\.norm", "non_local_block.conv_out.bn"),
            (r"^", "backbone."),
            (r"^backbone\.head\.fc", "cls_head.fc_cls"),
        ),
    )


def mit_mobile(state):
    def place(match):
        return f"base_model.features.{(1, 2, 4, 7, 14)[int(match[1])] + int(match[2])}."

    def conv(match):
        number = MIT_BLOCK[match[2]] - (3 if match[1] == "1." else 0)
        return f"features.{match[1]}conv.{number}"

    return rename(
        state,
        (
            (r"^stages\.4\.4\.conv", "base_model.features.18.0"),
            (r"^stages\.4\.4\.norm", "base_model.features.18.1"),
            (r"^stem\.conv", "base_model.features.0.0"),
            (r"^stem\.norm", "base_model.features.0.1"),
            (r"^stages\.(\d)\.(\d)\.", place),
            (r"features\.(\d+\.)branch\.(\w+\.(conv|norm))", conv),
            (r"^head\.fc", "base_model.classifier"),
        ),
    )


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("tsm_mobilenetv2", 2_736_272),
        ("tsm_r18", 11_381_712),
        ("tsm_r34", 21_489_872),
        ("tsm_r50", 24_327_632),
        ("tsm_r50_nl", 31_686_096),
        ("tsm_r101", 43_319_760),
    ],
)
def test_published_sizes(name, parameters):
    with torch.device("meta"):
        model = tubelet.create(name)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.spec.num_frames == 8


def test_a_shift_moves_two_shares_of_the_channels():
    x = torch.arange(24.0).view(1, 8, 3, 1, 1)
    shifted = TemporalShift(4)(x)
    zero = torch.zeros(1, 2, 1, 1, 1)
    assert torch.equal(shifted[:, :2], torch.cat([x[:, :2, 1:], zero], 2))
    assert torch.equal(shifted[:, 2:4], torch.cat([zero, x[:, 2:4, :-1]], 2))
    assert torch.equal(shifted[:, 4:], x[:, 4:])
    alone = TemporalShift(4)(x[:, :, :1])
    assert torch.equal(alone, torch.cat([x[:, :4, :1] * 0, x[:, 4:, :1]], 1))


@pytest.mark.parametrize(
    ("arguments", "shifts"),
    [
        ({}, 8),
        ({"shift_place": "block"}, 8),
        ({"shift_place": None}, 0),
        ({"depth": 34}, 16),
        ({"depth": 101}, 18),  # every other step
        ({"depth": 101, "shift_every": 1}, 33),
        ({"depth": 50, "shift_every": 2}, 9),
        ({"depth": 101, "shift_place": "block"}, 33),
    ],
)
def test_number_of_shifts(arguments, shifts):
    with torch.device("meta"):
        model = tubelet.create("tsm_r18", **arguments)
    assert sum(isinstance(module, TemporalShift) for module in model.modules()) == shifts


@pytest.mark.parametrize("name", ["tsn_r18", "tsn_mobilenetv2"])
def test_tsn_is_the_mean_of_its_frames(name):
    model, x = small(name), torch.randn(2, 3, 4, 33, 47)
    with torch.no_grad():
        alone = torch.stack([model(frame) for frame in x.split(1, 2)])
        torch.testing.assert_close(model(x), alone.mean(0))


@pytest.mark.parametrize("shift_div", [2, 8])
def test_a_frame_reaches_as_many_others_as_there_are_shifts(shift_div):
    model, x = small("tsm_r18", shift_div=shift_div), torch.randn(1, 3, 25, 17, 17)
    other = x.clone()
    other[:, :, 12] += 1
    with torch.no_grad():
        moved = (model.features(x)[-1] - model.features(other)[-1]).abs().amax((0, 1, 3, 4)) > 0
    shifts = sum(isinstance(module, TemporalShift) for module in model.modules())
    assert moved.tolist() == [abs(t - 12) <= shifts for t in range(25)]


@pytest.mark.parametrize("publisher", [mit, mmaction])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("tsm_r18", {}),
        ("tsm_r34", {"in_channels": 10}),
        ("tsm_r50", {"num_classes": 7}),
        ("tsm_r101", {}),
        ("tsm_r101", {"depth": 152}),
        ("tsm_r34", {"shift_place": "block"}),
        ("tsn_r18", {}),
        ("tsm_r50_nl", {}),
        ("tsm_r50_nl", {"non_local_mode": "gaussian"}),
        ("tsm_r50_nl", {"non_local_bias": False}),
        ("tsm_r50_nl", {"shift_every": 2}),  # ResNet-101 with non-local blocks in the authors' code
        ("tsm_r101", {"non_local": ((), (1,), (0, 22), ())}),
    ],
)
def test_published_keys_tell_the_network(publisher, name, arguments):
    arguments = {"num_classes": 3, "in_channels": 3, **arguments}
    with torch.device("meta"):
        model = tubelet.create(name, **arguments)
    state = publisher(model.state_dict())
    assert recognise(state) == (name, arguments)
    assert tubelet.convert(state, model).keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("tsm_mobilenetv2", {}),
        ("tsn_mobilenetv2", {"num_classes": 3}),
        ("tsm_mobilenetv2", {"channels": (16, 8, 16, 16, 32, 48, 80, 160, 640)}),
    ],
)
def test_published_keys_tell_the_mobile_network(name, arguments):
    arguments = {"num_classes": 2, "in_channels": 3, **arguments}
    with torch.device("meta"):
        model = tubelet.create(name, **arguments)
    state = mit_mobile(model.state_dict())
    assert "base_model.features.1.conv.3.weight" in state
    assert recognise(state) == (name, arguments)
    assert tubelet.convert(state, model).keys() == model.state_dict().keys()


def test_a_concatenating_block_is_told_by_its_projection():
    with torch.device("meta"):
        model = tubelet.create("tsm_r50_nl", non_local_mode="concatenation", non_local_bias=False)
    name, arguments = recognise(mmaction(model.state_dict()))
    assert name == "tsm_r50_nl"
    assert arguments["non_local_mode"] == "concatenation"
    assert arguments["non_local_bias"] is False


def test_hints_say_what_keys_do_not(tmp_path):
    model = small("tsm_r18", shift_div=4, num_segments=16)
    torch.save({"state_dict": mit(model.state_dict())}, tmp_path / "tsm.pth")
    loaded = tubelet.load(tmp_path / "tsm.pth", shift_div=4, num_segments=16)
    x = torch.randn(1, 3, 3, 20, 20)
    assert loaded.spec.num_frames == 16
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
        assert not torch.equal(tubelet.load(tmp_path / "tsm.pth")(x), model(x))


def test_tsn_of_mmaction_is_loaded_by_name(tmp_path):
    model = small("tsn_r50")
    torch.save(mmaction(model.state_dict()), tmp_path / "tsn.pth")
    loaded = tubelet.create("tsn_r50", num_classes=5, weights=tmp_path / "tsn.pth").eval()
    x = torch.randn(1, 3, 2, 20, 20)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


def test_lists_are_as_good_as_tuples_and_a_file_keeps_them(tmp_path):
    model = small("tsm_r18", non_local=[[], [1], [], []], shift_place="block", num_segments=4)
    tubelet.save(model, tmp_path / "tsm.safetensors")
    loaded = tubelet.load(tmp_path / "tsm.safetensors")
    x = torch.randn(1, 3, 3, 17, 21)
    assert loaded.spec.num_frames == 4
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


def test_a_non_local_block_needs_two_positions():
    model = small("tsm_r50_nl")
    assert model.least == (1, 17, 17)
    with torch.no_grad():
        assert model(torch.randn(1, 3, 1, 17, 17)).isfinite().all()
    with pytest.raises(ValueError, match="H from 17 and W from 17"):
        model(torch.randn(1, 3, 1, 16, 17))


def test_mobile_stages_end_where_the_size_changes():
    model = small("tsm_mobilenetv2")
    with torch.no_grad():
        maps = model.features(torch.randn(1, 3, 2, 45, 33))
    assert [tuple(x.shape[1:]) for x in maps] == [
        (16, 2, 23, 17),
        (24, 2, 12, 9),
        (32, 2, 6, 5),
        (96, 2, 3, 3),
        (1280, 2, 2, 2),
    ]
    assert not any(isinstance(module, nn.ReLU) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("tsm_r50", {"depth": 20}, "depth 20 must be one of 18, 34, 50, 101, 152"),
        ("tsm_r50", {"shift_place": "blocks"}, "'blocks'; known are blockres, block and None"),
        ("tsm_mobilenetv2", {"shift_place": "block"}, "'block'; known are blockres and None"),
        ("tsm_r18", {"shift_div": 1}, "shift_div 1 must be at least 2"),
        ("tsm_r50", {"non_local": ((), (), ()), "non_local_mode": "dot"}, "3 stages"),
        ("tsm_r50", {"non_local": ((), (), (0,), ()), "non_local_mode": "dot"}, "'dot'"),
        ("tsm_mobilenetv2", {"channels": (8, 8)}, r"2 channels \(8, 8\)"),
    ],
)
def test_wrong_arguments_are_named(name, arguments, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        tubelet.create(name, **arguments)
