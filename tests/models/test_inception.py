import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tubelet
from tubelet import blocks, heads
from tubelet.convert import convert, recognise
from tubelet.models.inception import Gate


def sub(key, *rules):
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def mixed(name):
    return lambda match: f"{name}_{int(match[1]) + 2}{'abcdef'[int(match[2])]}."


def place(name):
    starts = {"1": 4, "2": 7, "3": 13}
    return lambda match: f"{name}.{starts[match[1]] + int(match[2])}."


# our keys -> those of each code base
FOREIGN = {
    "pytorch-i3d": (
        (r"^head\.fc\.", "logits.conv3d."),
        (r"\.conv\.", ".conv3d."),
        (r"\.norm\.", ".bn."),
        (r"^stem\.", "Conv3d_1a_7x7."),
        (r"^stages\.0\.conv1\.", "Conv3d_2b_1x1."),
        (r"^stages\.0\.conv2\.", "Conv3d_2c_3x3."),
        (r"^stages\.(\d)\.(\d)\.", mixed("Mixed")),
        (r"\.branches\.0\.0\.", ".b0."),
        (r"\.branches\.3\.1\.", ".b3b."),
        (r"\.branches\.([12])\.0\.", r".b\1a."),
        (r"\.branches\.([12])\.1\.", r".b\1b."),
    ),
    "kinetics_i3d_pytorch": (
        (r"^head\.fc\.", "conv3d_0c_1x1.conv3d."),
        (r"\.conv\.", ".conv3d."),
        (r"\.norm\.", ".batch3d."),
        (r"^stem\.", "conv3d_1a_7x7."),
        (r"^stages\.0\.conv1\.", "conv3d_2b_1x1."),
        (r"^stages\.0\.conv2\.", "conv3d_2c_3x3."),
        (r"^stages\.(\d)\.(\d)\.", mixed("mixed")),
        (r"\.branches\.0\.0\.", ".branch_0."),
        (r"\.branches\.(\d)\.", r".branch_\1."),
    ),
    "torchvision": (
        (r"^head\.fc\.", "classifier.1."),
        (r"\.branches\.0\.0\.", ".branch0."),
        (r"\.branches\.(\d)\.", r".branch\1."),
        (r"\.conv\.(?=\w+$)", ".0."),
        (r"\.norm\.", ".1."),
        (r"\.spatial\.", ".0."),
        (r"\.temporal\.", ".1."),
        (r"^stem\.", "features.0."),
        (r"^stages\.0\.conv1\.", "features.2."),
        (r"^stages\.0\.conv2\.", "features.3."),
        (r"^stages\.(\d)\.(\d+)\.", place("features")),
    ),
    "kylemin/S3D": (
        (r"^head\.fc\.", "fc.0."),
        (r"\.spatial\.conv\.", ".conv_s."),
        (r"\.temporal\.conv\.", ".conv_t."),
        (r"\.spatial\.norm\.", ".bn_s."),
        (r"\.temporal\.norm\.", ".bn_t."),
        (r"\.norm\.", ".bn."),
        (r"\.branches\.(\d)\.", r".branch\1."),
        (r"^stem\.", "base.0."),
        (r"^stages\.0\.conv1\.", "base.2."),
        (r"^stages\.0\.conv2\.", "base.3."),
        (r"^stages\.(\d)\.(\d+)\.", place("base")),
    ),
    "S3D_HowTo100M": (
        (r"^head\.fc\.", "fc."),
        (r"\.spatial\.conv\.", ".conv1."),
        (r"\.temporal\.conv\.", ".conv2."),
        (r"\.spatial\.norm\.", ".bn1."),
        (r"\.temporal\.norm\.", ".bn2."),
        (r"\.conv\.", ".conv1."),
        (r"\.norm\.", ".bn1."),
        (r"^stem\.", "conv1."),
        (r"^stages\.0\.conv1\.", "conv_2b."),
        (r"^stages\.0\.conv2\.", "conv_2c."),
        (r"^stages\.0\.gate\.", "gating."),
        (r"^stages\.(\d)\.(\d)\.", mixed("mixed")),
        (r"\.branches\.(?:0\.1|([123])\.2)\.", lambda match: f".gating_b{match[1] or 0}."),
        (r"\.branches\.0\.0\.", ".conv_b0."),
        (r"\.branches\.3\.1\.", ".conv_b3_b."),
        (r"\.branches\.([12])\.0\.", r".conv_b\1_a."),
        (r"\.branches\.([12])\.1\.", r".conv_b\1_b."),
    ),
}
VARIANTS = [
    ("pytorch-i3d", "i3d", {"num_classes": 157, "in_channels": 3}, {"per_frame": True}),
    ("pytorch-i3d", "i3d_flow", {"num_classes": 400, "in_channels": 2}, {"per_frame": True}),
    ("kinetics_i3d_pytorch", "i3d", {"num_classes": 400, "in_channels": 3}, {"even_padding": True}),
    ("kinetics_i3d_pytorch", "i3d_flow", {"num_classes": 7, "in_channels": 2}, {"even_padding": True}),
    ("torchvision", "s3d", {"num_classes": 101, "in_channels": 1}, {}),
    ("kylemin/S3D", "s3d", {"num_classes": 10, "in_channels": 3}, {"window": [2, 1, 1]}),
    ("S3D_HowTo100M", "s3d_g_milnce", {"num_classes": 512, "in_channels": 3}, {}),
]


@pytest.mark.parametrize(("source", "name", "sizes", "arguments"), VARIANTS)
def test_each_code_base_is_recognised(source, name, sizes, arguments):
    with torch.device("meta"):
        model = tubelet.create(name, **sizes, **arguments)
    own = model.state_dict()
    foreign = {sub(key, *FOREIGN[source]): value for key, value in own.items()}
    assert len(foreign) == len(own)
    if source != "S3D_HowTo100M":
        # there the last layer is a convolution
        foreign = {k: v[:, :, None, None, None] if v is own["head.fc.weight"] else v for k, v in foreign.items()}
    assert recognise(foreign) == (name, {**sizes, **arguments})
    converted = convert(foreign, model)
    assert all(converted[key].shape == value.shape for key, value in own.items())


def test_the_text_half_of_mil_nce_is_left_out():
    with torch.device("meta"):
        model = tubelet.create("s3d_g_milnce", num_classes=512)
        text = {"text_module.fc1.weight": torch.zeros(2048, 300)}
    foreign = {sub(key, *FOREIGN["S3D_HowTo100M"]): value for key, value in model.state_dict().items()}
    assert convert({**text, **foreign}, model).keys() == model.state_dict().keys()


# s3d_g is s3d and, for each gate, a square matrix with its bias
@pytest.mark.parametrize(("name", "count"), [("i3d", 12_697_264), ("s3d", 8_320_048), ("s3d_g", 8_320_048 + 1_225_008)])
def test_published_sizes(name, count):
    with torch.device("meta"):
        model = tubelet.create(name)
    assert sum(p.numel() for p in model.parameters()) == count
    assert model.channels == (192, 480, 832, 1024)
    assert model.strides == [(2, 4, 4), (2, 8, 8), (4, 16, 16), (8, 32, 32)]


@pytest.mark.parametrize(
    ("name", "arguments", "size", "last"),
    [
        ("i3d", {}, (64, 224, 224), (8, 7, 7)),
        ("i3d", {}, (19, 225, 33), (3, 8, 2)),
        ("i3d", {}, (1, 1, 1), (1, 1, 1)),
        ("i3d", {"even_padding": True}, (19, 225, 33), (3, 7, 1)),
        ("i3d", {"even_padding": True}, (1, 2, 3), (1, 1, 1)),
        ("s3d", {}, (16, 224, 224), (2, 7, 7)),
        ("s3d", {}, (19, 225, 33), (2, 7, 1)),
        ("s3d", {}, (5, 17, 17), (1, 1, 1)),
        ("s3d_g_milnce", {}, (32, 200, 200), (4, 7, 7)),
        ("s3d_g_milnce", {}, (1, 1, 1), (1, 1, 1)),
    ],
)
def test_sizes_of_the_last_map(name, arguments, size, last):
    with torch.device("meta"):
        model = tubelet.create(name, **arguments).eval()
        assert model.features(torch.zeros(1, 3, *size))[-1].shape == (1, 1024, *last)


@pytest.mark.parametrize(
    ("name", "arguments", "size", "least"),
    [
        ("s3d", {}, (4, 32, 32), "T from 5, H from 17 and W from 17"),
        ("i3d", {"per_frame": True}, (8, 32, 32), "T from 9, H from 1 and W from 1"),
        ("i3d", {"even_padding": True}, (8, 32, 1), "T from 1, H from 2 and W from 2"),
    ],
)
def test_smallest_sizes_are_told(name, arguments, size, least):
    with torch.device("meta"):
        model = tubelet.create(name, **arguments)
        with pytest.raises(ValueError, match=least):
            model(torch.zeros(1, 3, *size))


@pytest.fixture(scope="module")
def i3d():
    torch.manual_seed(0)
    return tubelet.create("i3d", num_classes=5).eval()


def test_the_clips_answer_is_the_mean_of_its_steps(i3d):
    steps = heads.PerFrame(1024, 5, window=2)
    steps.load_state_dict(i3d.head.state_dict())
    maps = torch.randn(2, 1024, 4, 3, 9)
    assert steps(maps).shape == (2, 5, 3)
    torch.testing.assert_close(i3d.head(maps), steps(maps).mean(2))


def test_even_padding_changes_odd_sizes_alone(i3d):
    even = tubelet.create("i3d", num_classes=5, even_padding=True).eval()
    even.load_state_dict(i3d.state_dict())
    with torch.no_grad():
        x = torch.randn(1, 3, 16, 32, 64)
        torch.testing.assert_close(even(x), i3d(x))
        x = torch.randn(1, 3, 16, 31, 64)
        assert not torch.allclose(even(x), i3d(x))


def test_cubes_make_a_convolution_of_stride_one_of_one_of_two():
    x, weight = torch.randn(2, 3, 6, 8, 10), torch.randn(5, 3, 4, 8, 8)
    # a kernel over cubes is that over positions, cut into cubes
    over_cubes = weight.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    over_cubes = over_cubes.permute(0, 3, 5, 7, 1, 2, 4, 6).flatten(1, 4)
    cubes = nn.Sequential(blocks.SpaceToDepth(), blocks.SamePad((2, 4, 4), 1))(x)
    expected = F.conv3d(F.pad(x, (2, 4, 2, 4, 0, 2)), weight, stride=2)
    torch.testing.assert_close(F.conv3d(cubes, over_cubes), expected, atol=1e-4, rtol=1e-4)


def test_odd_sizes_get_zeros_before_they_are_cubes():
    x = torch.randn(1, 2, 3, 5, 7)
    padded = F.pad(x, (0, 1, 0, 1, 0, 1))
    assert torch.equal(blocks.SpaceToDepth()(x), blocks.SpaceToDepth()(padded))


def test_a_gate_weighs_channels_by_their_means():
    gate = Gate(4)
    nn.init.eye_(gate.fc.weight.view(4, 4))
    nn.init.zeros_(gate.fc.bias)
    x = torch.randn(2, 4, 3, 5, 6)
    torch.testing.assert_close(gate(x), x * x.mean((2, 3, 4), keepdim=True).sigmoid())


def test_the_window_matters_to_other_pictures_alone():
    published, whole = (heads.Classify(1024, 5, window=window) for window in ((2, 7, 7), (2, 1, 1)))
    whole.load_state_dict(published.state_dict())
    for size, is_same in (((3, 7, 7), True), ((3, 8, 8), False)):
        maps = torch.randn(1, 1024, *size)
        assert torch.allclose(published(maps), whole(maps), atol=1e-6) is is_same


def test_per_frame_answers_survive_a_file(tmp_path):
    torch.manual_seed(0)
    model = tubelet.create("i3d", num_classes=3, per_frame=True).eval()
    x = torch.randn(1, 3, 17, 16, 16)
    again = tubelet.load(tubelet.save(model, tmp_path / "i3d.safetensors"))
    with torch.no_grad():
        assert model(x).shape == (1, 3, 2)
        assert torch.equal(again(x), model(x))
