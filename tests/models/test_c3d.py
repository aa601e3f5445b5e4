import re

import pytest
import torch
from torch.nn import functional as F

import tubelet
from tubelet.convert import convert, recognise

CONVS = ("1", "2", "3a", "3b", "4a", "4b", "5a", "5b")
OURS = ("stem.conv", "stages.0.conv1", *(f"stages.{i}.conv{j}" for i in (1, 2, 3) for j in (1, 2)))
WIDE = ("stages.4.fc6", "stages.4.fc7", "head.fc")
SOURCES = {
    "c3d-pytorch": (*(f"conv{name}" for name in CONVS), "fc6", "fc7", "fc8"),
    "MMAction2": (
        *(f"backbone.conv{name if len(name) > 1 else name + 'a'}.conv" for name in CONVS),
        "backbone.fc6",
        "backbone.fc7",
        "cls_head.fc_cls",
    ),
    "Caffe": (*(f"features.{i}" for i in (0, 3, 6, 8, 11, 13, 16, 18)), "classifier.0", "classifier.3", "classifier.6"),
}


def foreign(model, source):
    """The model's weights in the keys and shapes of a code base, whose wide layers are matrices."""
    names = dict(zip((*OURS, *WIDE), SOURCES[source], strict=True))
    state = {}
    for key, value in model.state_dict().items():
        layer, kind = key.rsplit(".", 1)
        state[f"{names[layer]}.{kind}"] = value.flatten(1) if layer in WIDE and kind == "weight" else value
    return state


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"window": [1, 3, 3], "pool5_padding": "none"},
        {"window": [2, 4, 4]},
        {"window": [1, 7, 7], "pool5_padding": "none", "widths": [2048, 1024]},
    ],
)
def test_each_code_base_and_variant_is_recognised(source, arguments):
    with torch.device("meta"):
        model = tubelet.create("c3d", num_classes=101, in_channels=3, **arguments)
    state = foreign(model, source)
    assert recognise(state) == ("c3d", {"num_classes": 101, "in_channels": 3, **arguments})
    own = model.state_dict()
    assert {key: value.shape for key, value in convert(state, model).items()} == {k: v.shape for k, v in own.items()}


def test_published_size():
    with torch.device("meta"):
        model = tubelet.create("c3d", num_classes=487)
    assert sum(p.numel() for p in model.parameters()) == 79_991_015
    assert model.channels == (128, 256, 512, 512, 4096)
    assert model.strides == [(1, 2, 2), (2, 4, 4), (4, 8, 8), (8, 16, 16), (16, 32, 32)]


@pytest.mark.parametrize(
    ("padding", "window", "least", "published"),
    [
        ("both", (1, 4, 4), (16, 96, 96), (16, 112, 112)),
        ("behind", (1, 4, 4), (16, 112, 112), (16, 112, 112)),
        ("none", (1, 3, 3), (16, 96, 96), (16, 112, 112)),
        ("both", (2, 8, 8), (32, 224, 224), (32, 224, 224)),
    ],
)
def test_the_smallest_and_the_published_clip_leave_one_place(padding, window, least, published):
    with torch.device("meta"):
        model = tubelet.create("c3d", pool5_padding=padding, window=window)
        assert model.least == least
        for size in (least, published):
            assert model.features(torch.zeros(1, 3, *size))[-1].shape == (1, 4096, 1, 1, 1)
        for axis in range(3):
            smaller = [n - (i == axis) for i, n in enumerate(least)]
            with pytest.raises(ValueError, match=f"T from {least[0]}, H from {least[1]}"):
                model(torch.zeros(1, 3, *smaller))


def test_odd_and_long_clips():
    with torch.device("meta"):
        model = tubelet.create("c3d", num_classes=5)
        maps = model.features(torch.zeros(1, 3, 35, 147, 179))
        assert [tuple(m.shape[2:]) for m in maps] == [(35, 73, 89), (17, 36, 44), (8, 18, 22), (4, 9, 11), (2, 2, 3)]
        assert model(torch.zeros(2, 3, 35, 147, 179)).shape == (2, 5)


@pytest.mark.parametrize("padding", ["both", "behind", "none"])
def test_wide_layers_are_the_matrices_of_the_source(padding):
    torch.manual_seed(0)
    side = 3 if padding == "none" else 4
    stage = tubelet.create("c3d", window=(1, side, side), widths=(32, 16), pool5_padding=padding).stages[4].eval()
    x = torch.rand(2, 512, 2, 7, 7)
    edges = {"both": (1, 1, 1, 1), "behind": (0, 1, 0, 1), "none": (0, 0, 0, 0)}[padding]
    pooled = F.max_pool3d(F.pad(x, (*edges, 0, 0)), 2).flatten(1)
    expected = F.linear(pooled, stage.fc6.weight.flatten(1), stage.fc6.bias).relu()
    expected = F.linear(expected, stage.fc7.weight.flatten(1), stage.fc7.bias).relu()
    torch.testing.assert_close(stage(x).flatten(1), expected)


def test_an_unknown_padding_lists_the_known():
    with pytest.raises(ValueError, match=re.escape("'same': known are both, behind, none")):
        tubelet.create("c3d", pool5_padding="same")


def test_a_larger_clip_is_the_mean_over_its_places():
    torch.manual_seed(0)
    model = tubelet.create("c3d", num_classes=5, widths=(16, 8)).eval()
    with torch.no_grad():
        maps = model.features(torch.randn(1, 3, 16, 96, 128))[-1]
        assert maps.shape == (1, 8, 1, 1, 2)
        places = torch.stack([model.head(place) for place in maps.split(1, 4)])
        torch.testing.assert_close(model.head(maps), places.mean(0))
