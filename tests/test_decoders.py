"""U-Nets and feature pyramids over every kind of encoder."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tubelet
from tubelet import decoders, heads, memory, optim, regularize
from tubelet.models import MODELS

KINDS = {}
for preset in MODELS:
    KINDS.setdefault(preset.build, preset.name)  # the first row of a family's function is its smallest or its plainest
ENCODERS = sorted(name for name in KINDS.values() if not name.startswith("slowfast"))
QUICK = {"tiny", "medical_analyzer", "plain_unet3d"}
# as in models/test_every_model.py; and what the coarsest map's own last layers do not show at one voxel
MAY_REST = re.compile(r"non_?local|branch\.conv2\.norm\.bias|block\.gate\.(channel|place)\.")


@pytest.fixture(params=decoders.DECODERS, ids=lambda make: make.__name__)
def make(request):
    return request.param


def encoder(name, **arguments):
    torch.manual_seed(0)
    return tubelet.create(name, num_classes=5, **arguments)


def clip(model, plus=(0, 0, 0), batch=1):
    t, h, w = (low + more for low, more in zip(model.least, plus, strict=True))
    return torch.randn(batch, model.spec.in_channels, t, h, w)


def test_a_clip_below_the_encoders_least_is_refused(make):
    model = make(encoder("s3d"), 2)
    assert model.least == (5, 17, 17)
    with pytest.raises(ValueError, match="with any T from 5, H from 17 and W from 17 up"):
        model(clip(model, (-1, 0, 0)))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in ENCODERS]
)
def test_any_encoder_at_any_size(name, make):
    model = make(encoder(name), 4, deep=name != "video_cnn").eval()  # which has a step too few
    for plus in ((0, 0, 0), (2, 9, 14)):
        x = clip(model, plus, batch=2)
        with torch.no_grad():
            both, second = model(x), model(x[1:])
        assert both.shape == (2, 4, *x.shape[2:]) and both.isfinite().all()
        torch.testing.assert_close(both[1:], second, rtol=0, atol=1e-4 * float(both.abs().max()))
    model.train()
    answers = model(clip(model, (2, 16, 16), batch=2))
    sum(each.logsumexp(1).sum() + each[:, 0].square().sum() for each in answers).backward()
    assert not [key for key, value in model.named_parameters() if value.grad is None]
    unmoved = [key for key, value in model.named_parameters() if not value.grad.any()]
    assert not [key for key in unmoved if not MAY_REST.search(key)]


def layer(state, name, x):
    """Convolution, batch norm in evaluation, ReLU, from the weights under a name."""
    kernel = state[f"{name}.conv.weight"]
    x = F.conv3d(x, kernel, padding=[k // 2 for k in kernel.shape[2:]])
    moments = (state[f"{name}.norm.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *moments).relu()


def up(x, like, mode):
    return F.interpolate(x, like.shape[2:], mode=mode)


def test_unet_is_the_papers():
    """Up, beside the encoder's map, twice a convolution; from the coarsest map to the clip itself."""
    model = decoders.UNet(encoder("tiny"), 3).eval()
    x, state = clip(model, (4, 20, 27)), model.state_dict()
    with torch.no_grad():
        fine, middle, coarse = model.features(x)
        y = coarse
        for i, skip in enumerate((middle, fine, x)):
            y = torch.cat((skip, up(y, skip, "trilinear")), 1)
            y = layer(state, f"decoders.{i}.block.second", layer(state, f"decoders.{i}.block.first", y))
        torch.testing.assert_close(F.conv3d(y, state["head.fc.weight"], state["head.fc.bias"]), model(x))


def test_fpn_is_the_papers():
    """1x1x1 convolutions, top-down sums, a convolution at each size, and their sum at the finest."""
    model = decoders.FPN(encoder("tiny"), 3, channels=24).eval()
    x, state = clip(model, (4, 20, 27)), model.state_dict()
    with torch.no_grad():
        tops = [
            F.conv3d(each, state[f"decoders.laterals.{i}.weight"], state[f"decoders.laterals.{i}.bias"])
            for i, each in enumerate(model.features(x))
        ]
        tops[1] = tops[1] + up(tops[2], tops[1], "nearest")
        tops[0] = tops[0] + up(tops[1], tops[0], "nearest")
        y = sum(up(layer(state, f"decoders.smooths.{i}", top), tops[0], "trilinear") for i, top in enumerate(tops))
        y = torch.cat((x, up(layer(state, "decoders.reduce", y), x, "trilinear")), 1)
        y = layer(state, "decoders.refine.block.second", layer(state, "decoders.refine.block.first", y))
        torch.testing.assert_close(F.conv3d(y, state["head.fc.weight"], state["head.fc.bias"]), model(x))


def kernels(model):
    return [module.kernel_size for module in model.decoders.modules() if isinstance(module, nn.Conv3d)]


def test_kernels_and_widths_follow_the_encoder(make):
    """tiny halves T from its first map on, not before: no kernel over T at the size of the clip."""
    model = make(encoder("tiny"), 3)
    assert model.strides == [(1, 4, 4), (2, 8, 8), (4, 16, 16)]
    if make is decoders.UNet:
        assert kernels(model) == [(3, 3, 3)] * 4 + [(1, 3, 3)] * 2
        assert [step.block.first.conv.out_channels for step in model.decoders] == [32, 16, 16]
    else:
        assert kernels(model)[3:6] == [(1, 3, 3), (3, 3, 3), (3, 3, 3)]
    frame_by_frame = make(encoder("tsm_r18"), 3)
    assert all(t == 1 for t, _, _ in kernels(frame_by_frame))


def test_a_first_map_of_the_clips_own_size_needs_no_further_step():
    model = decoders.UNet(encoder("medical_analyzer"), 3)
    assert model.strides[0] == (1, 1, 1)
    assert len(model.decoders) == 2
    assert decoders.FPN(encoder("medical_analyzer"), 3).decoders.refine is None


def test_deep_answers_are_those_of_the_coarser_maps(make):
    model = make(encoder("tiny"), 3, deep=True)
    x = clip(model, (8, 31, 31), batch=2)
    finest, *others = model.train()(x)
    assert finest.shape == (2, 3, 9, 32, 32)
    sizes = [(9, 8, 8)] if make is decoders.UNet else [(9, 8, 8), (5, 4, 4)]
    assert [each.shape for each in others] == [(2, 3, *size) for size in sizes]
    assert model.eval()(x).shape == finest.shape
    assert isinstance(make(encoder("tiny"), 3).train()(x), torch.Tensor)


def test_it_learns_where_things_are(make):
    torch.manual_seed(0)
    model = make(encoder("tiny", in_channels=1), 2).train()
    x, targets = torch.randn(2, 1, 7, 29, 34), torch.zeros(2, 7, 29, 34, dtype=torch.long)
    targets[0, 2:5, 8:20, 3:17] = targets[1, 1:6, 4:12, 15:31] = 1
    x += targets[:, None]
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    for _ in range(15):
        optimizer.zero_grad()
        F.cross_entropy(model(x), targets).backward()
        optimizer.step()
    found = model(x).argmax(1)
    assert 2 * (found * targets).sum() / (found.sum() + targets.sum()) > 0.9


@pytest.mark.parametrize("options", [{}, {"deep": True}, {"channels": 8}])
def test_saved_and_loaded_it_answers_the_same(make, options, tmp_path):
    if make is decoders.UNet and "channels" in options:
        options = {"channels": (8, 12, 20)}
    check_round_trip(make(encoder("tiny", in_channels=2), 3, **options).eval(), tmp_path / "a.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r3d_18", "unet3d", "x3d_s", "i3d", "medicalnet_10"])
def test_saved_and_loaded_over_others(name, make, tmp_path):
    check_round_trip(make(encoder(name), 3, deep=True).eval(), tmp_path / "a.safetensors")


def check_round_trip(model, path):
    x = clip(model, (1, 3, 3))
    loaded = tubelet.load(tubelet.save(model, path))
    assert loaded.architecture["decoder"] == model.architecture["decoder"]
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(loaded(x), expected)
        assert torch.equal(copy.deepcopy(model)(x), expected)
    again = tubelet.load(tubelet.save(loaded, path), num_classes=7)
    assert again(x).shape == (1, 7, *x.shape[2:])
    assert len(again.train()(torch.cat((x, x)))) == 1 + len(model.head.deep) or not model.head.deep
    assert tubelet.create(model.architecture["name"], weights=path).head.fc.out_channels == 3


def test_what_is_not_as_its_call_makes_it_is_not_saved(make, tmp_path):
    changed = encoder("tiny")
    changed.stages[0].act = nn.SiLU()
    model = make(changed, 3)
    with pytest.raises(ValueError, match=r"first stages\.0\.act: SiLU"):
        tubelet.save(model, tmp_path / "a.safetensors")
    model = make(encoder("tiny"), 3)
    next(each for each in model.decoders.modules() if isinstance(each, nn.BatchNorm3d)).eps = 0.1
    with pytest.raises(ValueError, match=r"1 layers are not those that tiny is made with, first decoders\."):
        tubelet.save(model, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="newer tubelet"):
        decoders.build({"name": "Mask", "arguments": {}}, encoder("tiny"), 3)


def test_the_encoder_shares_its_weights_and_keeps_its_head(make):
    own = encoder("tiny").eval()
    model, x = make(own, 3), clip(own, (3, 20, 20))
    before = own(x)
    assert all(a is b for a, b in zip(own.stages.parameters(), model.stages.parameters(), strict=True))
    assert torch.equal(own.eval()(x), before)
    model.head = heads.Classify(model.channels[-1], 6)
    assert model.eval()(x).shape == (1, 6)


def test_what_training_does_to_networks_it_does_to_these(make):
    model = make(encoder("tiny"), 3, deep=True).train()
    groups = optim.parameter_groups(model, 1.0, 0.0, layer_decay=0.5, head_factor=3.0)
    rates = {id(each): group["lr"] for group in groups for each in group["params"]}
    parts = [model.stem, *model.stages, model.decoders, model.head]
    found = [{rates[id(each)] for each in part.parameters()} for part in parts]
    assert found == [{0.5**5}, {0.5**4}, {0.5**3}, {0.5**2}, {0.5}, {3.0}]

    x = clip(model, (3, 20, 20), batch=2)
    plain = torch.autograd.grad(sum(each.sum() for each in model(x)), model.stem.conv.weight)[0]
    with memory.checkpointed(model.stages):
        again = torch.autograd.grad(sum(each.sum() for each in model(x)), model.stem.conv.weight)[0]
    torch.testing.assert_close(again, plain)
    assert memory.predict_peak(model, x, num_checkpointed=3).total > 0

    regularize.freeze(model, 1)
    held = [key for key, value in model.named_parameters() if not value.requires_grad]
    assert held and all(key.startswith(("stem.", "stages.0.")) for key in held)


def test_streams_name_what_they_cannot_do(make):
    with pytest.raises(ValueError, match=r"layer decoders\..*\(Resize\) cannot be streamed exactly"):
        tubelet.Stream(make(encoder("tiny"), 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decoders.UNet(encoder("slowfast_r50"), 3), "SlowFast has two pathways, .* such as slow_r50"),
        (lambda: decoders.FPN(encoder("slowfast_r50"), 3), "SlowFast has two pathways"),
        (lambda: decoders.UNet(nn.Conv3d(3, 8, 3), 3), "Conv3d has no stem, stages, spec"),
        (lambda: decoders.UNet(encoder("tiny"), 3, channels=(8, 16)), r"channels \(8, 16\): a U-Net .* has 3 steps"),
        (lambda: decoders.UNet(encoder("video_cnn"), 3, deep=True), "deep needs a decoder of two steps or more"),
    ],
)
def test_what_does_not_fit(call, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        call()
