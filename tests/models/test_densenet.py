import re

import pytest
import torch

import tubelet
from tubelet.convert import convert, recognise


def on_meta(name, **arguments):
    with torch.device("meta"):
        return tubelet.create(name, **arguments)


def foreign(model, *, is_old=False):
    """Checkpoint of 3D-ResNets with this network's weights; in 2018 two kinds of names were others."""
    first, dot = ("0", ".") if is_old else ("1", "")
    state = {}
    for key, value in model.state_dict().items():
        key = re.sub(r"^stem\.(conv|norm)", rf"features.\g<1>{first}", key)
        key = re.sub(
            r"^stages\.(\d)\.layer(\d+)\.branch\.(conv|norm)(\d)",
            lambda m: f"features.denseblock{int(m[1]) + 1}.denselayer{int(m[2]) + 1}.{m[3]}{dot}{m[4]}",
            key,
        )
        key = re.sub(r"^stages\.(\d)\.transition", r"features.transition\1", key)
        key = key.replace("stages.3.norm", "features.norm5").replace("head.fc", "classifier")
        state[key] = value
    return state


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *((name, {}) for name in tubelet.models("densenet3d_*")),
        ("densenet3d_121", {"conv1_t_size": 3, "depths": [2, 3, 2, 1], "growth_rate": 16}),
        ("densenet3d_169", {"growth_rate": 24, "num_init_features": 64, "bn_size": 2}),
    ],
)
def test_a_checkpoint_is_recognised_from_its_shapes(name, arguments, is_old):
    model = on_meta(name, num_classes=7, in_channels=1, **arguments)
    state = foreign(model, is_old=is_old)
    assert all(key.startswith(("features.", "classifier.")) for key in state)
    assert recognise(state) == (name, {"num_classes": 7, "in_channels": 1, **arguments})
    converted = convert(state, model)
    assert all(converted[key] is state[other] for key, other in zip(model.state_dict(), state, strict=True))


def test_a_2d_densenet_is_not_taken_for_one():
    state = foreign(on_meta("densenet3d_121"))
    assert recognise({key: value[:, :, 0] if value.ndim == 5 else value for key, value in state.items()}) is None


def test_published_sizes():
    model = on_meta("densenet3d_121")
    assert sum(p.numel() for p in model.parameters()) == 11_696_528
    assert model.channels == (256, 512, 1024, 1024)
    assert model.strides == [(2, 4, 4), (4, 8, 8), (8, 16, 16), (16, 32, 32)]


@pytest.mark.parametrize(
    ("arguments", "least"),
    [
        ({}, (15, 29, 29)),
        ({"no_max_pool": True}, (8, 15, 15)),
        ({"conv1_t_stride": 2}, (29, 29, 29)),
        ({"conv1_t_stride": 2, "no_max_pool": True, "conv1_t_size": 3}, (15, 15, 15)),
    ],
)
def test_the_least_clip_is_taken_and_a_smaller_one_named(arguments, least):
    model = tubelet.create("densenet3d_121", num_classes=3, depths=[1, 1, 1, 1], growth_rate=8, **arguments).eval()
    t, h, w = least
    with torch.no_grad():
        assert model(torch.randn(1, 3, t, h, w)).shape == (1, 3)
        assert model.features(torch.randn(1, 3, t + 2, h + 5, w))[-1].shape == (1, model.channels[-1], 1, 1, 1)
    for size in ((t - 1, h, w), (t, h - 1, w), (t, h, w - 1)):
        with pytest.raises(ValueError, match=f"T from {t}, H from {h} and W from {w} up"):
            model(torch.zeros(1, 3, *size))


def test_gradients_reach_every_parameter():
    model = tubelet.create("densenet3d_121", num_classes=3, depths=[2, 1, 1, 2], growth_rate=8)
    model(torch.randn(2, 3, 16, 32, 32)).logsumexp(1).sum().backward()
    assert all(value.grad is not None and value.grad.any() for value in model.parameters())
