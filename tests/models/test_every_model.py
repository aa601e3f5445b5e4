"""What holds for every network: one of each kind here, all of them with `make test-all`."""

import copy
import re

import pytest
import torch

import tubelet
from tubelet.models import MODELS

KINDS = {}
for preset in MODELS:
    KINDS.setdefault(preset.build, preset.name)  # the first row of a family's function is its smallest or its plainest
QUICK = set(KINDS.values()) - {"c3d", "wideresnet3d_50", "residual_unet3d"}  # the largest, which take minutes
EXPORTED = {"tiny", "r3d_18", "movinet_a0_stream", "tsm_mobilenetv2", "x3d_xs", "unet3d"}  # a minute for all of them


def names(quick):
    """Every network, but for the quick ones with `make test-all`."""
    return [pytest.param(each.name, marks=[] if each.name in quick else [pytest.mark.slow]) for each in MODELS]


# What has no gradient at first, or none on a small clip: a non-local block begins as the identity, so that its last
# norm alone moves; the next norm takes away a shift between the two convolutions of an ip-CSN; of two gates in a U-Net
# the larger counts.
MAY_REST = re.compile(r"non_?local|branch\.conv2\.norm\.bias|block\.gate\.(channel|place)\.")
DENSE = tubelet.models("*unet*")
DETECTORS = tubelet.models("*_detection")


def clip(model, plus=(0, 0, 0), batch=1):
    """A clip of the smallest size that a network takes, and that many frames, rows and columns more."""
    step = getattr(model, "alpha", 1)
    t, h, w = (low + more for low, more in zip(model.least, (step * plus[0], *plus[1:]), strict=True))
    return torch.randn(batch, model.spec.in_channels, t, h, w)


def boxes(model, batch=1):
    """What a detector takes beside the clip: a box for each of its clips."""
    if model.architecture["name"] not in DETECTORS:
        return ()
    return (torch.tensor([[float(i), 0.0, 0.0, 9.0, 7.0] for i in range(batch)]),)


@pytest.fixture(scope="module", params=names(QUICK))
def model(request):
    torch.manual_seed(0)
    return tubelet.create(request.param, num_classes=5).eval()


@pytest.mark.parametrize("plus", [(0, 0, 0), (2, 9, 14)])
def test_any_size_gives_logits(model, plus):
    x = clip(model, plus, batch=2)
    with torch.no_grad():
        both = model(x, *boxes(model, 2))
        second = model(x[1:], *boxes(model))
    if isinstance(model.head, tubelet.heads.Doubled):
        places = [2 * n for n in model.features(x)[-1].shape[2:]]
    else:
        places = x.shape[2:] if model.architecture["name"] in DENSE else ()
    assert both.shape == (2, 5, *places)
    assert both.isfinite().all()
    scale = float(both.abs().max())
    torch.testing.assert_close(both[1:], second, rtol=0, atol=1e-4 * scale)


def test_features_are_as_described(model):
    x = clip(model, (2, 9, 14))
    with torch.no_grad():
        maps = model.features(x)
    assert len(maps) == len(model.channels) == len(model.strides) == len(model.stages)
    for i, (found, channels, strides) in enumerate(zip(maps, model.channels, model.strides, strict=True)):
        assert found.shape[:2] == (1, channels)
        if (model.architecture["name"], i) == ("c3d", 4):
            continue  # its first fully connected layer covers four pixels, whatever the stride
        for given, stride, n in zip(found.shape[2:], strides, x.shape[2:], strict=True):
            assert abs(given - n / stride) < 1.01


def test_a_head_can_be_assigned(model, monkeypatch):
    x = clip(model, (1, 3, 3))
    with torch.no_grad():
        last = model.features(x)[-1]
        for head, shape in (
            (tubelet.heads.PerFrame(model.channels[-1], 7), (1, 7, last.shape[2])),
            (tubelet.heads.Features(), last.shape),
        ):
            monkeypatch.setitem(model._modules, "head", head)
            assert model(x).shape == shape


def test_one_below_the_smallest_size_is_refused(model):
    x = clip(model)
    for axis, low in enumerate(model.least):
        if low > 1:
            with pytest.raises(ValueError, match=rf"takes .*from {low}"):
                model(x.narrow(2 + axis, 0, low - 1))


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (1, 7, 4, 8, 8), (1, 4, 3, 8, 8, 1)])
def test_another_input_is_named_with_what_is_taken(model, shape):
    message = rf"{', '.join(map(str, shape))}.*takes \(B, {model.spec.in_channels}, T, H, W\)"
    for call in (model, model.features):
        with pytest.raises(ValueError, match=message):
            call(torch.zeros(shape))


@pytest.mark.parametrize("name", names(QUICK))
def test_gradients_reach_every_parameter(name):
    torch.manual_seed(0)
    model = tubelet.create(name, num_classes=5).train()
    x = clip(model, (2, 16, 16), batch=2)
    model(x, *boxes(model, 2)).logsumexp(1).sum().backward()
    assert not [key for key, value in model.named_parameters() if value.grad is None]
    unmoved = [key for key, value in model.named_parameters() if not value.grad.any()]
    assert not [key for key in unmoved if not MAY_REST.search(key)]


def test_saved_loaded_and_copied_it_answers_the_same(model, tmp_path):
    x = clip(model, (1, 3, 3))
    loaded = tubelet.load(tubelet.save(model, tmp_path / "model.safetensors"))
    assert loaded.architecture["name"] == model.architecture["name"]
    with torch.no_grad():
        expected = model(x, *boxes(model))
        assert torch.equal(loaded(x, *boxes(model)), expected)
        assert torch.equal(copy.deepcopy(model)(x, *boxes(model)), expected)


@pytest.mark.parametrize("model", names(EXPORTED), indirect=True)
def test_it_can_be_exported(model):
    x = clip(model, (1, 3, 3))
    inputs = (x, *boxes(model))
    with torch.no_grad():
        exported = torch.export.export(model, inputs).module()(*inputs)
        torch.testing.assert_close(exported, model(*inputs))


@pytest.mark.parametrize("name", tubelet.models())
def test_the_published_clip_fits(name):
    with torch.device("meta"):
        model = tubelet.create(name)
    spec = model.spec
    assert spec.crop is not None
    with torch.no_grad():
        maps = model.features(torch.empty(2, spec.in_channels, spec.num_frames, *spec.crop, device="meta"))
    assert [found.shape[1] for found in maps] == list(model.channels)


def test_the_order_of_frames_matters_but_to_the_frame_by_frame_twin():
    for name in tubelet.models("tiny_*") + tubelet.models("tiny"):
        torch.manual_seed(0)
        model = tubelet.create(name, num_classes=5).eval()
        x = torch.randn(1, 3, 8, 16, 16)
        swapped = x[:, :, [4, 1, 2, 3, 0, 5, 6, 7]]  # two that a stride of 4 keeps
        with torch.no_grad():
            is_blind = torch.allclose(model(x), model(swapped), atol=1e-6)
        assert is_blind is (name == "tiny_2d")


def test_names_and_patterns():
    names = tubelet.models()
    assert len(set(names)) == len(names)
    assert {"tiny", "r3d_18", "slowfast_r50", "x3d_s", "i3d", "unet3d", "movinet_a0_stream"} <= set(names)
    assert sorted(tubelet.models("x3d_[sm]")) == ["x3d_m", "x3d_s"]
    assert tubelet.models("no such*") == ()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("r3d18", r"unknown model 'r3d18'; did you mean .*r3d_18"),
        ("tiny2d", r"'tiny2d'; did you mean tiny_2d"),
        ("R2PLUS1D", r"'R2PLUS1D'; (did you mean|known are) .*r2plus1d_18"),
        ("!", r"'!'; known are .*tiny"),
    ],
)
def test_an_unknown_name_lists_the_nearest(name, message):
    with pytest.raises(ValueError, match=message):
        tubelet.create(name)


def test_unknown_arguments_are_named_with_the_known():
    with pytest.raises(ValueError, match=r"tiny takes no depth, wide; it takes num_classes, in_channels"):
        tubelet.create("tiny", wide=2, depth=3)
