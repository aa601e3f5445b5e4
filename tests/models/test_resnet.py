import re

import pytest
import torch
from torch import nn

import tubelet
from tubelet.convert import convert, recognise

HARA = [name for name in tubelet.models() if re.match("(pre|wide)?resnet3d_|resnet2p1d_|resnext3d_", name)]
MEDICAL = tubelet.models("medicalnet_*")


def on_meta(name, **arguments):
    with torch.device("meta"):
        return tubelet.create(name, **arguments)


def renamed(model, rules):
    state = {}
    for key, value in model.state_dict().items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        state[key] = value
    return state


def layer(match):
    return f"layer{int(match[1]) + 1}."


def as_3d_resnets(model):
    """Checkpoint of 3D-ResNets or MedicalNet with this network's weights."""
    return renamed(
        model,
        (
            (r"^stem\.0\.conv", "conv1_s"),
            (r"^stem\.0\.norm", "bn1_s"),
            (r"^stem\.1\.conv", "conv1_t"),
            (r"^stem\.1\.norm", "bn1_t"),
            (r"^stem\.conv", "conv1"),
            (r"^stem\.norm", "bn1"),
            (r"^stages\.(\d)\.", layer),
            (r"shortcut\.conv", "downsample.0"),
            (r"shortcut\.norm", "downsample.1"),
            (r"branch\.conv(\d)\.spatial", r"conv\1_s"),
            (r"branch\.conv(\d)\.norm", r"bn\1_s"),
            (r"branch\.conv(\d)\.temporal", r"conv\1_t"),
            (r"branch\.conv(\d)", r"conv\1"),
            (r"branch\.norm(\d)", r"bn\1"),
            (r"^head\.fc", "fc"),
            (r"^head\.up", "conv_seg.0"),
            (r"^head\.norm1", "conv_seg.1"),
            (r"^head\.conv", "conv_seg.3"),
            (r"^head\.norm2", "conv_seg.4"),
            (r"^head\.classify", "conv_seg.6"),
        ),
    )


def as_torchvision(model):
    """Checkpoint of torchvision with this network's weights."""
    return renamed(
        model,
        (
            (r"^stem\.0\.conv", "stem.0"),
            (r"^stem\.0\.norm", "stem.1"),
            (r"^stem\.1\.conv", "stem.3"),
            (r"^stem\.1\.norm", "stem.4"),
            (r"^stem\.conv", "stem.0"),
            (r"^stem\.norm", "stem.1"),
            (r"^stages\.(\d)\.", layer),
            (r"shortcut\.conv", "downsample.0"),
            (r"shortcut\.norm", "downsample.1"),
            (r"branch\.conv(\d)\.spatial", r"conv\1.0.0"),
            (r"branch\.conv(\d)\.norm", r"conv\1.0.1"),
            (r"branch\.conv(\d)\.temporal", r"conv\1.0.3"),
            (r"branch\.conv(\d)", r"conv\1.0"),
            (r"branch\.norm(\d)", r"conv\1.1"),
            (r"^head\.fc", "fc"),
        ),
    )


def as_mmaction(model):
    """Checkpoint of MMAction2 with this network's weights."""
    return renamed(
        model,
        (
            (r"^stem\.0\.conv", "backbone.conv1.conv.conv_s"),
            (r"^stem\.0\.norm", "backbone.conv1.conv.bn_s"),
            (r"^stem\.1\.conv", "backbone.conv1.conv.conv_t"),
            (r"^stem\.1\.norm", "backbone.conv1.bn"),
            (r"^stages\.(\d)\.", lambda match: f"backbone.{layer(match)}"),
            (r"shortcut\.norm", "downsample.bn"),
            (r"shortcut\.conv", "downsample.conv"),
            (r"branch\.conv(\d)", r"conv\1.conv"),
            (r"branch\.norm(\d)", r"conv\1.bn"),
            (r"conv\.spatial", "conv.conv_s"),
            (r"conv\.norm", "conv.bn_s"),
            (r"conv\.temporal", "conv.conv_t"),
            (r"^head\.fc", "cls_head.fc_cls"),
        ),
    )


def check(model, foreign):
    """A foreign checkpoint is for the network that it came from."""
    assert not [key for key in foreign if re.search("stages|branch|shortcut|head\\.", key.replace("cls_head", ""))]
    name, arguments = recognise(foreign)
    assert name == model.architecture["name"]
    assert arguments == model.architecture["arguments"]
    own = model.state_dict()
    converted = convert(foreign, on_meta(name, **arguments))
    assert list(converted) == list(own)
    assert all(converted[key] is foreign[other] for key, other in zip(own, foreign, strict=True))


@pytest.mark.parametrize("name", HARA)
def test_each_network_of_3d_resnets_is_recognised(name):
    model = on_meta(name, num_classes=7, in_channels=2)
    check(model, as_3d_resnets(model))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet3d_18", {"shortcut": "A", "widen_factor": 0.5, "conv1_t_size": 3}),
        ("resnet3d_50", {"shortcut": "A", "widen_factor": 2.0}),
        ("resnet3d_18", {"depths": [1, 2, 1, 3], "is_bottleneck": False}),
        ("resnet3d_50", {"depths": [1, 2, 1, 3], "is_bottleneck": True}),
        ("preresnet3d_18", {"shortcut": "A", "widen_factor": 0.25, "conv1_t_size": 5}),
        ("preresnet3d_50", {"widen_factor": 0.5}),
        ("resnet2p1d_18", {"shortcut": "A", "widen_factor": 0.5, "conv1_t_size": 3}),
        ("resnet2p1d_50", {"widen_factor": 0.25}),
        ("resnext3d_50", {"cardinality": 16, "widen_factor": 0.5}),
        ("resnext3d_101", {"stem_channels": 64, "shortcut": "A"}),
        ("wideresnet3d_50", {"widen_factor": 0.5}),
        ("wideresnet3d_50", {"stem_channels": 64}),
        ("wideresnet3d_50", {"widen_factor": 1.5, "conv1_t_size": 3}),
    ],
)
def test_options_of_3d_resnets_are_read_from_the_shapes(name, arguments):
    model = on_meta(name, num_classes=7, in_channels=1, **arguments)
    check(model, as_3d_resnets(model))


@pytest.mark.parametrize("has_head", [True, False])
@pytest.mark.parametrize("name", MEDICAL)
def test_each_network_of_medicalnet_is_recognised(name, has_head):
    sizes = {"num_classes": 2} if has_head else {"has_head": False}
    model = on_meta(name, in_channels=1, **sizes)
    foreign = as_3d_resnets(model)
    assert recognise(foreign) == (name, {"in_channels": 1, **sizes})
    assert list(convert(foreign, model)) == list(model.state_dict())


def test_a_trunk_of_3d_resnets_is_not_taken_for_medicalnet():
    state = as_3d_resnets(on_meta("resnet3d_18", in_channels=3))
    assert recognise({key: value for key, value in state.items() if not key.startswith("fc.")}) is None


@pytest.mark.parametrize(("name", "shortcut"), [("medicalnet_18", "B"), ("medicalnet_50", "A")])
def test_another_shortcut_of_medicalnet_is_seen(name, shortcut):
    model = on_meta(name, num_classes=3, in_channels=2, shortcut=shortcut)
    check(model, as_3d_resnets(model))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("r3d_18", {}),
        ("mc3_18", {}),
        ("rmc3_18", {}),
        ("r2plus1d_18", {}),
        ("r2plus1d_34_ig65m", {}),
        ("r2plus1d_34_ig65m", {"depths": [1, 1, 2, 1]}),
        ("r3d_18", {"depths": [3, 4, 6, 3]}),
        ("r2plus1d_18", {"depths": [3, 4, 6, 3], "is_bottleneck": True}),
        ("r3d_18", {"convs": ["full", "spatial", "spatial", "spatial", "spatial"]}),
        ("r3d_18", {"convs": ["full", "factored", "full", "spatial", "spatial"], "is_bottleneck": True}),
    ],
)
def test_networks_in_torchvisions_frame_are_recognised(name, arguments):
    model = on_meta(name, num_classes=7, in_channels=2, **arguments)
    check(model, as_torchvision(model))


@pytest.mark.parametrize("arguments", [{}, {"depths": [2, 2, 2, 2]}, {"in_channels": 2}])
def test_networks_in_mmactions_frame_are_recognised(arguments):
    model = on_meta("r2plus1d_34", **{"num_classes": 7, "in_channels": 3, **arguments})
    check(model, as_mmaction(model))


def test_a_2d_resnet_or_other_kernels_are_not_taken_for_one():
    state = as_3d_resnets(on_meta("resnet3d_50"))
    flat = {key: value[:, :, 0] if value.ndim == 5 else value for key, value in state.items()}
    assert recognise(flat) is None
    spread = {key: value[:, :, :1] if ".conv2." in key else value for key, value in state.items()}
    assert recognise(spread) is None
    assert recognise({key: value for key, value in flat.items() if not key.startswith("fc")}) is None


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("rmc3_18", 33_057_744),
        ("r2plus1d_34", 63_759_281),
        ("resnet3d_10", 14_604_624),
        ("resnet3d_18", 33_409_104),
        ("resnet3d_34", 63_718_736),
        ("resnet3d_50", 47_018_576),
        ("resnet3d_101", 86_064_720),
        ("preresnet3d_18", 33_408_208),
        ("preresnet3d_50", 47_014_608),
        ("resnet2p1d_18", 33_421_164),
        ("resnext3d_101", 48_431_376),
        ("wideresnet3d_50", 158_338_832),
    ],
)
def test_published_sizes(name, parameters):
    assert sum(p.numel() for p in on_meta(name).parameters()) == parameters


def test_a_mixed_network_sees_single_frames_first_or_last():
    for name, kernels in (("mc3_18", [3, 3, 1, 1, 1]), ("rmc3_18", [1, 1, 3, 3, 3])):
        model = on_meta(name)
        first = [model.stem, *model.stages]
        assert [next(m for m in part.modules() if isinstance(m, nn.Conv3d)).kernel_size[0] for part in first] == kernels


@pytest.mark.parametrize("size", [(1, 1, 1), (7, 33, 47)])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet3d_10", {"widen_factor": 0.25, "shortcut": "A", "conv1_t_size": 3, "conv1_t_stride": 2}),
        ("preresnet3d_10", {"widen_factor": 0.25, "shortcut": "A", "no_max_pool": True}),
        ("resnet2p1d_10", {"widen_factor": 0.25, "conv1_t_size": 5, "conv1_t_stride": 2, "no_max_pool": True}),
        ("medicalnet_10", {"has_head": False, "shortcut": "A"}),
    ],
)
def test_stages_have_the_size_that_the_strides_tell(name, arguments, size):
    model = tubelet.create(name, num_classes=3, **arguments)
    with torch.no_grad():
        maps = model.eval().features(torch.randn(1, model.spec.in_channels, *size))
    for found, channels, strides in zip(maps, model.channels, model.strides, strict=True):
        assert found.shape == (1, channels, *(-(-n // s) for n, s in zip(size, strides, strict=True)))


def test_shortcut_a_has_no_weights_and_passes_the_gradient():
    model = tubelet.create("resnet3d_10", num_classes=3, shortcut="A", widen_factor=0.125)
    assert not [key for key in model.state_dict() if "shortcut" in key]
    x = torch.randn(1, 8, 3, 5, 5, requires_grad=True)
    past = model.stages[1][0].shortcut(x)
    assert torch.equal(past[:, :8], x[:, :, ::2, ::2, ::2])
    assert past.shape[1] == 16
    assert not past[:, 8:].any()
    past.sum().backward()
    assert x.grad.any()


def test_medicalnet_answers_at_a_quarter_of_the_size():
    model = tubelet.create("medicalnet_10", num_classes=2, in_channels=1).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 1, 16, 24, 32)).shape == (1, 2, 4, 6, 8)
        assert model(torch.randn(1, 1, 5, 17, 9)).shape == (1, 2, 2, 6, 4)


def test_medicalnet_is_saved_with_its_head(tmp_path):
    model = tubelet.create("medicalnet_10", num_classes=2, in_channels=1).eval()
    loaded = tubelet.load(tubelet.save(model, tmp_path / "model.safetensors"))
    x = torch.randn(1, 1, 8, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet3d_10", {"shortcut": "C"}, "shortcut 'C': known are A, B"),
        ("resnet3d_10", {"block": "wide"}, "block 'wide': known are plain, preact, factored"),
        ("r3d_18", {"convs": ["full"] * 4 + ["2d"]}, "convs '2d': known are full, spatial, factored"),
    ],
)
def test_an_unknown_choice_is_named_with_the_known(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        on_meta(name, **arguments)
