import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tubelet
from tubelet import heads
from tubelet.convert import recognise
from tubelet.models.unet import ConcurrentExcite, Deconvolution

NAMES = ("unet3d", "residual_unet3d", "residual_unet_se3d")
SMALL = {"channels": [8, 16, 32], "num_groups": 4}
# our keys -> those of pytorch-3dunet
FOREIGN = (
    (r"^stages\.", "encoders."),
    (r"\.block\.", ".basic_module."),
    (r"\.upsample\.conv\.", ".upsampling.upsample.conv_transposed."),
    (r"^head\.fc\.", "final_conv."),
    (r"basic_module\.first\.", "basic_module.SingleConv1."),
    (r"basic_module\.second\.", "basic_module.SingleConv2."),
    (r"\.project\.", ".conv1."),
    (r"\.residual\.branch\.first\.", ".conv2."),
    (r"\.residual\.branch\.second\.", ".conv3."),
    (r"\.gate\.channel\.", ".se_module.cSE."),
    (r"\.gate\.place\.", ".se_module.sSE."),
)


def foreign(model):
    """The model's weights as its source's code would have saved them."""
    state, norm = {}, "batchnorm" if any("running_mean" in key for key in model.state_dict()) else "groupnorm"
    for key, value in model.state_dict().items():
        for pattern, replacement in (*FOREIGN, (r"\.norm\.", f".{norm}.")):
            key = re.sub(pattern, replacement, key)
        is_linear = ".cSE." in key and value.ndim == 5
        state[key] = value.flatten(1) if is_linear else value
    return state


def small(name, **arguments):
    torch.manual_seed(0)
    model = tubelet.create(name, **{"num_classes": 3, "in_channels": 2, **SMALL, **arguments})
    for module in model.modules():
        if isinstance(module, nn.GroupNorm | nn.BatchNorm3d):
            nn.init.normal_(module.weight, 1, 0.1)
            nn.init.normal_(module.bias, 0, 0.1)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("unet3d", 16_318_821), ("residual_unet3d", 113_735_363), ("residual_unet_se3d", 117_233_996)],
)
def test_sizes_are_those_of_the_source(name, parameters):
    with torch.device("meta"):
        model = tubelet.create(name, num_classes=3, in_channels=1)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", NAMES)
def test_any_size_gives_logits_of_that_size(name):
    model = small(name).double()  # group norms of a few values, some of them nearly alike, magnify a rounding
    assert model.least == (4, 4, 4)
    with torch.no_grad():
        for size in ((4, 4, 4), (5, 7, 6), (9, 16, 13)):
            x = torch.randn(2, 2, *size, dtype=torch.double)
            logits = model(x)
            assert logits.shape == (2, 3, *size)
            torch.testing.assert_close(model(x[1:]), logits[1:])
            for found, channels, strides in zip(model.features(x), model.channels, model.strides, strict=True):
                assert found.shape == (2, channels, *(n // s for n, s in zip(size, strides, strict=True)))
    with pytest.raises(ValueError, match="T from 4, H from 4 and W from 4 up"):
        model(torch.randn(1, 2, 4, 3, 4))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name):
    model = small(name).train()
    model(torch.randn(2, 2, 9, 8, 11)).logsumexp(1).sum().backward()
    assert not [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()]


def test_other_heads_see_the_encoder_alone():
    model = small("unet3d")
    x, width = torch.randn(2, 2, 9, 16, 13), model.channels[-1]
    model.head = heads.PerFrame(width, 5)
    with torch.no_grad():
        assert torch.equal(model(x), model.head(model.features(x)[-1]))
        assert model(x).shape == (2, 5, 2)
        model.head = heads.Detect(width, 5, model.strides[-1][1])
        assert model(x, torch.tensor([[1, 2.0, 3.0, 9.0, 12.0]])).shape == (1, 5)
        model.head = heads.Segment(model.channels[0], 5)
        assert model(x).shape == (2, 5, 9, 16, 13)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *((name, {"order": order}) for name in NAMES for order in ("gcr", "cr", "bcr", "crg", "cbr")),
        ("unet3d", {"channels": [8, 24]}),
        ("unet3d", {"channels": [8, 8, 16, 16], "widens": 1}),
        ("unet3d", {"upsample": "deconv"}),
        ("unet3d", {"in_channels": 1, "num_classes": 1}),
        ("residual_unet3d", {"in_channels": 8}),
        ("residual_unet3d", {"channels": [4, 8, 12, 20]}),
        ("residual_unet3d", {"is_concatenated": True}),
        ("residual_unet_se3d", {"is_concatenated": True, "order": "cr"}),
    ],
)
def test_variants_are_recognised(tmp_path, name, arguments):
    model = small(name, **arguments)
    torch.save({"model_state_dict": foreign(model)}, tmp_path / "checkpoint.pytorch")
    loaded = tubelet.load(tmp_path / "checkpoint.pytorch", num_groups=4)
    assert loaded.architecture["name"] == name
    assert str(loaded) == str(model)
    x = torch.randn(1, model.spec.in_channels, 9, 8, 11)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
        saved = tubelet.load(tubelet.save(loaded, tmp_path / "ours.safetensors"))
        assert torch.equal(saved(x), model(x))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("order", ["gcr", "bcr", "cr"])
def test_sorted_keys_as_in_safetensors_tell_the_same_network(name, order):
    state = foreign(small(name, order=order))
    assert recognise(dict(sorted(state.items()))) == recognise(state)
    assert recognise(state)[1].get("order", "gcr") == order


def test_what_keys_cannot_tell_is_a_hint(tmp_path):
    path = tmp_path / "checkpoint.pytorch"
    hints = {"order": "gcl", "num_groups": 2, "upsample": "trilinear", "pool": [1, 2, 2]}
    model = small("unet3d", **hints)
    torch.save(foreign(model), path)
    loaded = tubelet.load(path, **hints)
    assert loaded.strides == [(1, 1, 1), (1, 2, 2), (1, 4, 4)]
    assert loaded.least == (1, 4, 4)
    assert str(loaded) == str(model)


def test_the_sources_earlier_releases_are_recognised(tmp_path):
    model = small("residual_unet3d", projects_fully=True, is_padded=True)
    state = {key.replace("upsample.conv_transposed", "upsample"): value for key, value in foreign(model).items()}
    assert {"decoders.0.upsampling.upsample.bias", "encoders.0.basic_module.conv1.conv.weight"} <= set(state)
    torch.save(state, tmp_path / "checkpoint.pytorch")
    loaded = tubelet.load(tmp_path / "checkpoint.pytorch", num_groups=4)
    assert str(loaded) == str(model)


def test_a_2d_network_is_not_taken_for_a_3d_one(tmp_path):
    state = {key: value[..., 0, :, :] if value.ndim == 5 else value for key, value in foreign(small("unet3d")).items()}
    torch.save(state, tmp_path / "checkpoint.pytorch")
    with pytest.raises(ValueError, match="no known network"):
        tubelet.load(tmp_path / "checkpoint.pytorch")


def test_without_padding_the_middle_is_answered():
    padded, model = (
        small("unet3d", channels=[8, 16], order="cr"),
        small("unet3d", channels=[8, 16], order="cr", padding=0),
    )
    model.load_state_dict(padded.state_dict())
    t, h, w = model.least
    with torch.no_grad():
        assert model(torch.randn(1, 2, t, h, w)).shape == (1, 3, *(n - 8 for n in model.least))
        assert model(torch.randn(1, 2, t + 8, h + 1, w)).shape == (1, 3, t, h - 7, w - 8)
    with pytest.raises(ValueError, match=f"H from {h}"):
        model(torch.randn(1, 2, t, h - 1, w))


def test_the_gates_are_the_papers():
    gate = ConcurrentExcite(6)
    x = torch.randn(2, 6, 3, 4, 5)
    first, second = gate.channel.fc1, gate.channel.fc2
    hidden = F.relu(x.mean((2, 3, 4)) @ first.weight.flatten(1).T + first.bias)
    by_channel = x * torch.sigmoid(hidden @ second.weight.flatten(1).T + second.bias)[:, :, None, None, None]
    place = torch.einsum("c,bcthw->bthw", gate.place.conv.weight.flatten(), x) + gate.place.conv.bias
    torch.testing.assert_close(gate(x), torch.maximum(by_channel, x * torch.sigmoid(place)[:, None]))


def test_both_kinds_of_transposed_convolution():
    x = torch.randn(1, 4, 3, 4, 5)
    padded = Deconvolution(4, 2, is_padded=True)
    weight, bias = padded.conv.weight, padded.conv.bias
    expected = F.conv_transpose3d(x, weight, bias, stride=2, padding=1, output_padding=1)
    torch.testing.assert_close(padded(x, (6, 8, 10)), expected)
    assert padded(x, (7, 7, 10)).shape == (1, 2, 7, 7, 10)
    plain = Deconvolution(4, 2)
    expected = F.interpolate(F.conv_transpose3d(x, plain.conv.weight, stride=2, padding=1), (6, 8, 10))
    torch.testing.assert_close(plain(x, (6, 8, 10)), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": "gxr"}, "'gxr': unknown letter 'x'; known are b c d D e g l r"),
        ({"order": "gr"}, "'gr': one c"),
        ({"order": "gcrr"}, "'gcrr': one c"),
        ({"upsample": "linear"}, "'linear': known are nearest, trilinear, area, deconv"),
        ({"num_groups": 3}, "num_groups 3 does not divide the 8 channels"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        small("unet3d", **arguments)


def test_dropout_acts_in_training_alone():
    model = small("unet3d", order="gcrd", dropout=0.5)
    x = torch.randn(1, 2, 4, 4, 4)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_a_stream_names_what_looks_at_all_of_time():
    with pytest.raises(ValueError, match=r"stages\.0\.block\.first\.norm \(GroupNorm\) cannot be streamed"):
        tubelet.Stream(small("unet3d"))


MONAI = (
    (r"^input_block\.", "stages.0."),
    (r"^upsamples\.(\d+)\.transp_conv\.", r"decoders.\1.upsample."),
    (r"^upsamples\.(\d+)\.conv_block\.", r"decoders.\1.block."),
    (r"^output_block\.conv\.conv\.", "head.fc."),
    (r"^deep_supervision_heads\.(\d+)\.conv\.conv\.", r"head.deep.\1."),
    (r"conv1\.conv\.", "first.conv."),
    (r"conv2\.conv\.", "second.conv."),
    (r"norm1\.", "first.norm."),
    (r"norm2\.", "second.norm."),
)


@pytest.mark.parametrize(
    ("strides", "kernels"),
    [
        (None, [[3, 3, 3]] * 4),
        ([(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 1)], [[1, 3, 3], *[[3, 3, 3]] * 3]),
        ([(1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2)], [*[[1, 3, 3]] * 2, *[[3, 3, 3]] * 2]),
    ],
)
def test_plain_is_monais_dynunet(strides, kernels):
    nets = pytest.importorskip("monai.networks.nets")
    torch.manual_seed(0)
    channels = [8, 12, 16, 20]
    model = tubelet.create("plain_unet3d", num_classes=3, in_channels=2, channels=channels, strides=strides, deep=True)
    steps = [(1, 1, 1), *[(2, 2, 2)] * 3] if strides is None else strides
    theirs = nets.DynUNet(
        3, 2, 3, kernels, steps, steps[1:], filters=channels, deep_supervision=True, deep_supr_num=1
    )  # fmt: skip
    state = {}
    for key, value in theirs.state_dict().items():
        if key.startswith("skip_layers."):  # the same once more
            continue
        key = re.sub(r"^downsamples\.(\d+)\.", lambda found: f"stages.{int(found[1]) + 1}.", key)
        key = re.sub(r"^bottleneck\.", "stages.3.", key)
        for pattern, replacement in MONAI:
            key = re.sub(pattern, replacement, key)
        if ".norm." in key:
            nn.init.normal_(value, 0.5)
        state[key] = value
    model.load_state_dict(state)
    x = torch.randn(2, 2, 16, 24, 32)
    with torch.no_grad():
        finest, second = model.train()(x)
        expected = theirs.train()(x)
        torch.testing.assert_close(finest, expected[:, 0])
        torch.testing.assert_close(F.interpolate(second, x.shape[2:]), expected[:, 1])
        torch.testing.assert_close(model.eval()(x), theirs.eval()(x))


def test_plain_keeps_its_strides_in_the_file(tmp_path):
    strides = ((1, 1, 1), (1, 2, 2), (2, 2, 2))
    model = tubelet.create(
        "plain_unet3d", num_classes=3, in_channels=1, channels=(4, 6, 8), strides=strides, deep=True
    ).eval()
    assert (model.strides, model.least) == ([(1, 1, 1), (1, 2, 2), (2, 4, 4)], (3, 5, 5))
    loaded = tubelet.load(tubelet.save(model, tmp_path / "a.safetensors"))
    x = torch.randn(1, 1, 5, 11, 14)
    assert torch.equal(loaded(x), model(x)) and loaded.strides == model.strides
    assert len(tubelet.load(tmp_path / "a.safetensors", num_classes=5).train()(x)) == 2


@pytest.mark.parametrize(
    ("channels", "strides"), [((8, 16), ((1, 1, 1),)), ((8,), None), ((8, 16), ((2, 2, 2), (2, 2, 2)))]
)
def test_plain_needs_a_stride_for_each_stage(channels, strides):
    with pytest.raises(ValueError, match=r"strides .* for channels .*first \(1, 1, 1\)"):
        tubelet.create("plain_unet3d", channels=channels, strides=strides)
