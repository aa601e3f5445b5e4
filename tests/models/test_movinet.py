"""MoViNet: sizes, variants from their keys, TensorFlow's padding, and answers frame by frame."""

import io
import re

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import tubelet
from tubelet import blocks
from tubelet.convert import recognise
from tubelet.models.movinet import PRESETS, SIZES, NowAndSoFar

SMALL = {
    "stem_channels": 5,
    "channels": (5, 8, 12, 16, 16),
    "rows": (
        ((24, 1, 5), (16, 3, 3)),
        ((40, 3, 3),),
        ((24, 5, 3), (48, 1, 3)),
        ((24, 3, 3),),
        ((24, 5, 3), (40, 1, 5)),
    ),
    "last_channels": 20,
    "hidden_channels": 30,
}
KINDS = [(is_causal, is_factored) for is_causal in (False, True) for is_factored in (False, True)]


def small(is_causal, is_factored, **sizes):
    torch.manual_seed(0)
    model = tubelet.create("movinet_a0", **{**SMALL, "is_causal": is_causal, "is_factored": is_factored, **sizes})
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm3d):
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.normal_(norm.bias, std=0.5)
    return model.eval()


def published_keys(model):
    """The state dict under the keys of Atze00/MoViNet-pytorch, with 2D kernels where it has them."""
    own = model.state_dict()
    is_factored = "stages.0.0.branch.depthwise.space.conv.weight" in own
    conv = "conv2d" if is_factored else "conv3d"
    rules = (
        (r"^stem\.", "conv1.conv_1."),
        (r"^stages\.4\.last\.", "conv7.conv_1."),
        # where a stage halves the size, the pooling comes before the convolution
        (r"^(stages\.[0124]\.0)\.shortcut\.project\.", r"\1.res.1.conv_1."),
        (r"\.shortcut\.project\.", ".res.0.conv_1."),
        (r"^stages\.(\d+)\.(\d+)\.", r"blocks.b\1_l\2."),
        (r"\.branch\.scale\.weight", ".alpha"),
        (r"\.branch\.gate\.(fc\d)\.", rf".se.\1.conv_1.{conv}."),
        (r"\.branch\.depthwise\.time\.", ".deep.conv_2."),
        (r"\.branch\.depthwise\.(space\.)?", ".deep.conv_1."),
        (r"\.branch\.(expand|project)\.", r".\1.conv_1."),
        (r"\.conv\.", f".{conv}."),
        (r"^head\.hidden\.", f"classifier.0.conv_1.{conv}."),
        (r"^head\.fc\.", f"classifier.3.conv_1.{conv}."),
    )
    state = {}
    for key, value in own.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        if value.ndim == 2:
            value = value[..., None, None, None]
        if value.ndim == 5 and is_factored:
            value = value.squeeze(2 if value.shape[2] == 1 else 4)
        state[key] = value
    return state


@pytest.mark.parametrize(("is_causal", "is_factored"), KINDS)
@pytest.mark.parametrize("sizes", [{}, {"num_classes": 7, "in_channels": 2}, {"channels": (8, 16, 16, 16, 24)}])
def test_a_published_checkpoint_of_any_sizes_is_recognised(is_causal, is_factored, sizes, tmp_path):
    model = small(is_causal, is_factored, **sizes)
    torch.save(published_keys(model), tmp_path / "movinet.pth")
    loaded = tubelet.load(tmp_path / "movinet.pth")
    assert loaded.architecture["name"].endswith("_stream") is is_causal
    x = torch.rand(2, model.spec.in_channels, 4, 20, 24)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_each_size_is_recognised_as_itself(preset):
    with torch.device("meta"):
        state = published_keys(preset(num_classes=600))
    name, arguments = recognise(state)
    assert name == preset.name
    assert arguments == {**arguments, **SIZES[name.removesuffix("_stream")][1], "num_classes": 600, "in_channels": 3}
    assert "is_factored" not in arguments


@pytest.mark.parametrize(
    ("name", "params"), [("movinet_a0", 3_111_799), ("movinet_a0_stream", 3_748_031), ("movinet_a2", 5_249_562)]
)
def test_published_numbers_of_parameters(name, params):
    with torch.device("meta"):
        model = tubelet.create(name, num_classes=600)
    assert sum(p.numel() for p in model.parameters()) == params


# as the authors' page gives them, in two digits; for A2 it has 10, where the published code itself comes to 11.6
@pytest.mark.parametrize(
    ("name", "giga", "mebibytes"),
    [("a0", 2.7, 12), ("a1", 6.0, 18), ("a2", 11.6, 20), ("a3", 57, 29), ("a4", 110, 44), ("a5", 280, 72)],
)
def test_published_costs_of_a_clip_and_sizes_of_files(name, giga, mebibytes):
    preset = next(preset for preset in PRESETS if preset.name == f"movinet_{name}")
    with torch.device("meta"):
        model = preset(num_classes=600).eval()
        x = torch.rand(1, 3, preset.spec.num_frames, *preset.spec.crop)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga, rel=0.07)
    assert sum(value.numel() for value in model.state_dict().values()) * 4 / 2**20 == pytest.approx(mebibytes, abs=0.7)


@pytest.mark.parametrize(("is_causal", "is_factored"), KINDS)
@pytest.mark.parametrize("size", [(1, 1, 1), (3, 33, 47), (2, 2, 64), (4, 31, 18)])
def test_maps_are_halved_and_rounded_up(is_causal, is_factored, size):
    model = small(is_causal, is_factored)
    with torch.no_grad():
        maps = model.features(torch.rand(1, 3, *size))
    for found, channels, strides in zip(maps, model.channels, model.strides, strict=True):
        assert found.shape == (1, channels, *(-(-n // s) for n, s in zip(size, strides, strict=True)))


@pytest.mark.parametrize("is_factored", [False, True])
def test_a_causal_networks_answer_is_its_streams_last_step(is_factored):
    model = small(True, is_factored)
    stream, other = tubelet.Stream(model), tubelet.Stream(model)
    x = torch.rand(2, 3, 9, 20, 13)
    assert stream.delay == 0
    steps = [stream(x[:, :, :1]), stream(x[:, :, 1:5])]
    file = io.BytesIO()
    torch.save(stream.state, file)
    file.seek(0)
    other.state = torch.load(file)
    steps.append(stream(x[:, :, 5:]))
    assert torch.equal(other(x[:, :, 5:]), steps[-1])
    assert stream.flush().shape[2] == 0
    with torch.no_grad():
        offline = torch.stack([model(x[:, :, : t + 1]) for t in range(9)], 2)
    assert torch.allclose(torch.cat(steps, 2), offline, atol=1e-5)


def test_a_base_network_names_the_layer_that_cannot_be_streamed():
    with pytest.raises(ValueError, match=r"layer stages\.0\.0\.branch\.gate\.pool \(GlobalMean\)"):
        tubelet.Stream(small(False, True))


def test_a_causal_step_does_not_see_what_follows():
    model = small(True, False)
    x = torch.rand(1, 3, 8, 16, 16)
    changed = torch.cat([x[:, :, :5], torch.rand(1, 3, 3, 16, 16)], 2)
    with torch.no_grad():
        first, second = model.features(x)[-1], model.features(changed)[-1]
    assert torch.allclose(first[:, :, :5], second[:, :, :5], atol=1e-6)
    assert not torch.allclose(first[:, :, 5], second[:, :, 5], atol=1e-3)


def test_means_of_all_frames_so_far_stand_beside_the_frames_own():
    x = torch.rand(2, 3, 5, 4, 6)
    so_far, now = NowAndSoFar()(x).chunk(2, dim=1)
    assert torch.allclose(now, x.mean((3, 4), keepdim=True))
    for t in range(5):
        assert torch.allclose(so_far[:, :, t], x[:, :, : t + 1].mean((2, 3, 4))[..., None, None])


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 5), (7, 8)])
def test_the_halving_mean_leaves_its_padding_out(size):
    x = torch.rand(1, 2, 3, *size)
    pad = blocks.SamePad((1, 3, 3), (1, 2, 2))
    counted = nn.functional.avg_pool3d(pad(torch.ones_like(x)), (1, 3, 3), (1, 2, 2))
    expected = nn.functional.avg_pool3d(pad(x), (1, 3, 3), (1, 2, 2)) / counted
    assert torch.allclose(blocks.HalvingMean()(x), expected)


@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "edges"),
    [
        (8, 3, 2, (0, 1)),
        (7, 3, 2, (1, 1)),
        (8, 5, 2, (1, 2)),
        (9, 5, 2, (2, 2)),
        (8, 7, 2, (2, 3)),
        (5, 1, 2, (0, 0)),
        (5, 4, 1, (1, 2)),
    ],
)
def test_same_padding_has_its_odd_step_on_the_far_side(size, kernel_size, stride, edges):
    x = torch.rand(1, 1, size, size, size)
    expected = nn.functional.pad(x, edges * 3)
    assert torch.equal(blocks.SamePad(kernel_size, stride)(x), expected)
