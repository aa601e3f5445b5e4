import logging

import pytest
import torch
from torch import nn

import tubelet
from tubelet.convert import inflate


class Step(nn.Module):
    """Residual step of a 2D ResNet under torchvision's names, basic or bottleneck."""

    def __init__(self, width, out, stride, is_bottleneck):
        super().__init__()
        mid = out // 4
        sizes = [(width, mid, 1, 1), (mid, mid, 3, stride), (mid, out, 1, 1)] if is_bottleneck else [
            (width, out, 3, stride), (out, out, 3, 1)
        ]  # fmt: skip
        self.num = len(sizes)
        for i, (a, b, k, s) in enumerate(sizes, 1):
            setattr(self, f"conv{i}", nn.Conv2d(a, b, k, s, k // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(b))
        if stride > 1 or width != out:
            self.downsample = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        y = x
        for i in range(1, self.num + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = y if i == self.num else y.relu()
        return (y + (self.downsample(x) if hasattr(self, "downsample") else x)).relu()


class ResNet2D(nn.Module):
    def __init__(self, depths, is_bottleneck=False, has_pool=True, in_channels=3, num_classes=1000):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, 2, 1) if has_pool else nn.Identity()
        width = 64
        for i, depth in enumerate(depths):
            out = 64 * 2**i * (4 if is_bottleneck else 1)
            steps = [Step(width if j == 0 else out, out, 2 if i and not j else 1, is_bottleneck) for j in range(depth)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*steps))
            width = out
        self.fc = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data.uniform_(0.3, 0.6)
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)

    def features(self, x):
        x = self.pool(self.bn1(self.conv1(x)).relu())
        maps = []
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
            maps.append(x)
        return maps

    def forward(self, x):
        return self.fc(self.features(x)[-1].mean((2, 3)))


def image_net(path, *arguments, **options):
    torch.manual_seed(3)
    model = ResNet2D(*arguments, **options).eval()
    torch.save(model.state_dict(), path)
    return model


# name, frames, arguments of the 2D network
NETWORKS = {
    "r3d_18": (136, {"depths": (2, 2, 2, 2), "has_pool": False}),
    "resnet3d_18": (136, {"depths": (2, 2, 2, 2)}),
    "tsn_r18": (2, {"depths": (2, 2, 2, 2)}),
    "c2d_r50": (4, {"depths": (3, 4, 6, 3), "is_bottleneck": True}),
    "slow_r50": (24, {"depths": (3, 4, 6, 3), "is_bottleneck": True}),
    "i3d_r50": (48, {"depths": (3, 4, 6, 3), "is_bottleneck": True}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_boring_video_gives_the_features_of_its_frame(tmp_path, caplog, name):
    caplog.set_level(logging.INFO, "tubelet")
    frames, options = NETWORKS[name]
    image = image_net(tmp_path / "m.pth", **options)
    model = tubelet.create(name, weights=tmp_path / "m.pth").eval()
    assert "2D network: its kernels are spread over time" in caplog.text
    assert model.head.fc.out_features == 1000
    x = torch.rand(1, 3, 33, 33)
    with torch.no_grad():
        for ours, theirs in zip(
            model.features(x.unsqueeze(2).repeat(1, 1, frames, 1, 1)), image.features(x), strict=True
        ):
            middle = ours[:, :, ours.shape[2] // 2]
            assert torch.allclose(middle, theirs, atol=1e-4 * float(theirs.abs().max()))
        if name in ("tsn_r18", "c2d_r50"):  # nothing pads in time
            assert torch.allclose(model(x.unsqueeze(2).repeat(1, 1, frames, 1, 1)), image(x), atol=1e-4)


def test_other_classes_and_channels(tmp_path, caplog):
    image = image_net(tmp_path / "m.pth", (2, 2, 2, 2), has_pool=False)
    model = tubelet.create("r3d_18", num_classes=7, in_channels=1, weights=tmp_path / "m.pth").eval()
    assert "answers 1000 classes, 7 are wanted" in caplog.text
    gray = torch.rand(1, 1, 33, 33)
    with torch.no_grad():
        ours = model.features(gray.unsqueeze(2).repeat(1, 1, 136, 1, 1))[-1]
        theirs = image.features(gray.expand(-1, 3, -1, -1))[-1]
    assert torch.allclose(ours[:, :, ours.shape[2] // 2], theirs, atol=1e-4 * float(theirs.abs().max()))


def test_layers_that_an_image_network_cannot_have_stay_new(tmp_path):
    image_net(tmp_path / "m.pth", (3, 4, 6, 3), is_bottleneck=True)
    model = tubelet.create("i3d_r50_nl", weights=tmp_path / "m.pth")
    assert tubelet.create("i3d_r50_nl").state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "i3d_r50",
            r"the image network has \[2, 2, 2, 2\] residual steps .*\[3, 4, 6, 3\]: take an image network of its depth",
        ),
        ("r2plus1d_18", r"layers Conv3d where the image network has 2: its weights cannot be inflated"),
        ("tiny", r"residual steps"),
        ("s3d", r"residual steps"),
    ],
)
def test_what_cannot_be_inflated_is_one_error(tmp_path, name, message):
    image_net(tmp_path / "m.pth", (2, 2, 2, 2))
    with pytest.raises(ValueError, match=rf"m\.pth: .*{message}") as caught:
        tubelet.create(name, weights=tmp_path / "m.pth")
    assert "\n" not in str(caught.value)


def test_an_image_network_is_no_network_of_its_own(tmp_path):
    image_net(tmp_path / "m.pth", (2, 2, 2, 2))
    with pytest.raises(ValueError, match=r"m\.pth: holds a 2D ResNet; .*create\(NAME"):
        tubelet.load(tmp_path / "m.pth")


@pytest.mark.parametrize(("old", "new"), [(3, 1), (3, 2), (3, 8), (1, 3), (10, 3)])
def test_spread_channels_answer_equal_channels_alike(old, new):
    kernel, own = torch.randn(5, old, 3, 3, 3), torch.zeros(5, new, 3, 3, 3)
    other = torch.randn(5, 4, 1, 1, 1)
    state = {"stem.weight": kernel, "next.weight": other}
    found = inflate.spread_channels(state, {"stem.weight": own, "next.weight": other}, new)
    gray = torch.randn(1, 1, 4, 5, 5)
    one = nn.functional.conv3d(gray.expand(-1, old, -1, -1, -1), kernel)
    two = nn.functional.conv3d(gray.expand(-1, new, -1, -1, -1), found["stem.weight"])
    assert torch.allclose(one, two, atol=1e-4)
    assert found["next.weight"] is other


@pytest.mark.slow
def test_dense_kernels_are_not_summed_for_depthwise_ones(tmp_path):
    state = tubelet.create("ir_csn_26").state_dict()
    for key, value in state.items():
        if value.ndim == 5 and value.shape[1] == 1:
            state[key] = value.expand(-1, len(value), -1, -1, -1)
    own = tubelet.create("ir_csn_26", in_channels=1).state_dict()
    found = inflate.spread_channels(state, own, 1)
    assert [key for key, value in found.items() if value is not state[key]] == ["stem.conv.weight"]
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(ValueError, match=r"m\.pth: "):
        tubelet.create("ir_csn_26", in_channels=1, weights=tmp_path / "m.pth")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("slowfast_r50", ["stem.slow.conv.weight", "stem.fast.conv.weight"]),
        ("unet3d", ["stages.0.block.first.conv.weight"]),
        ("x3d_xs", ["stem.space.weight"]),
    ],
)
def test_first_convolutions_alone_are_spread(name, expected):
    with torch.device("meta"):
        state, own = (tubelet.create(name, in_channels=n).state_dict() for n in (3, 1))
    found = inflate.spread_channels(state, own, 1)
    assert [key for key, value in found.items() if value is not state[key]] == expected
