import re

import pytest
import torch

import tubelet
from tubelet.convert import recognise
from tubelet.models.p3d import SpaceTime

SMALL = {"depths": (1, 1, 1, 1)}
RULES = (
    (r"^stem\.0\.conv", "conv1_custom"),
    (r"^stem\.0\.norm", "bn1"),
    (r"^stages\.(\d)\.", lambda match: f"layer{int(match[1]) + 1}."),
    (r"branch\.reduce\.conv", "conv1"),
    (r"branch\.reduce\.norm", "bn1"),
    (r"branch\.middle\.spatial\.conv", "conv2"),
    (r"branch\.middle\.spatial\.norm", "bn2"),
    (r"branch\.middle\.temporal\.conv", "conv3"),
    (r"branch\.middle\.temporal\.norm", "bn3"),
    (r"branch\.middle\.conv", "conv_normal"),
    (r"branch\.middle\.norm", "bn_normal"),
    (r"branch\.expand\.conv", "conv4"),
    (r"branch\.expand\.norm", "bn4"),
    (r"shortcut\.conv", "downsample.0"),
    (r"shortcut\.norm", "downsample.1"),
    (r"^head\.fc", "fc"),
)


def published(state):
    """The state under the names of its source, whose last stage is 2D."""
    renamed = {}
    for key, value in state.items():
        if key.startswith("stages.3.") and value.ndim == 5:
            value = value[:, :, 0]
        for pattern, replacement in RULES:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def small(**arguments):
    torch.manual_seed(0)
    return tubelet.create("p3d63", num_classes=5, **{**SMALL, **arguments}).eval()


@pytest.mark.parametrize(
    ("name", "parameters"), [("p3d63", 25_745_232), ("p3d131", 48_088_400), ("p3d199", 66_492_240)]
)
def test_published_sizes(name, parameters):
    with torch.device("meta"):
        model = tubelet.create(name)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.strides == [(2, 4, 4), (4, 8, 8), (8, 16, 16), (16, 32, 32)]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("p3d63", {}),
        ("p3d131", {"num_classes": 3}),
        ("p3d199", {"in_channels": 2}),
        ("p3d63", {"depths": (2, 2, 2, 2)}),
    ],
)
def test_published_keys_tell_the_network(name, arguments):
    arguments = {"num_classes": 7, "in_channels": 3, **arguments}
    with torch.device("meta"):
        model = tubelet.create(name, **arguments)
    state = published(model.state_dict())
    assert recognise(state) == (name, arguments)
    assert tubelet.convert(state, model).keys() == model.state_dict().keys()


def test_three_kinds_take_turns_through_the_first_three_stages():
    with torch.device("meta"):
        model = tubelet.create("p3d63")
    kinds = "".join(module.kind for module in model.modules() if isinstance(module, SpaceTime))
    assert kinds == "ABCABCABCABCA"


@pytest.mark.parametrize("kind", ["A", "B", "C"])
def test_kinds_join_space_and_time_as_in_the_paper(kind):
    layer, x = SpaceTime(4, kind).eval(), torch.randn(2, 4, 3, 5, 5)
    space, time = layer.spatial, layer.temporal
    wanted = {"A": time(space(x)), "B": space(x) + time(x), "C": space(x) + time(space(x))}[kind]
    assert torch.equal(layer(x), wanted)


@pytest.mark.parametrize("kinds", [("A",), ("C", "B")])
def test_kinds_are_a_hint(kinds, tmp_path):
    model = small(kinds=list(kinds))
    torch.save({"state_dict": published(model.state_dict())}, tmp_path / "p3d.pth")
    loaded = tubelet.load(tmp_path / "p3d.pth", kinds=kinds)
    x = torch.randn(1, 3, 8, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
        assert kinds == ("A",) or not torch.equal(tubelet.load(tmp_path / "p3d.pth")(x), model(x))


@pytest.mark.parametrize("size", [(1, 1, 1), (16, 32, 32), (17, 33, 47), (33, 20, 31)])
def test_any_size(size):
    model, x = small(), torch.randn(1, 3, *size)
    with torch.no_grad():
        maps = model.features(x)
        assert model(x).isfinite().all()
    for found, channels, strides in zip(maps, model.channels, model.strides, strict=True):
        assert found.shape[1:] == (channels, *(-(-n // s) for n, s in zip(size, strides, strict=True)))


def test_a_long_clip_is_the_mean_of_its_last_maps():
    model, x = small(), torch.randn(1, 3, 32, 160, 192)
    with torch.no_grad():
        steps = model.features(x)[-1].split(1, 2)
        windows = [step[..., i : i + 5] for step in steps for i in range(2)]
        logits = torch.stack([model.head(window) for window in windows]).mean(0)
        torch.testing.assert_close(model(x), logits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"kinds": ("A", "D")}, "'D' of P3D block"), ({"depths": (1, 1)}, r"2 depths \(1, 1\)"), ({"kinds": ()}, "kinds")],
)
def test_wrong_arguments_are_named(arguments, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        tubelet.create("p3d63", **arguments)
