import pytest
import torch

import tubelet


@pytest.mark.parametrize(
    ("name", "num_classes", "in_channels", "parameters", "channels", "strides", "least"),
    [
        ("video_cnn", 5, 3, 15_333, (16, 32), [(1, 1, 1), (2, 2, 2)], (2, 2, 2)),
        ("tiny3d", 10, 3, 3_546_090, (64, 128, 256), [(2, 4, 4), (4, 8, 8), (8, 16, 16)], (1, 1, 1)),
        ("video_analyzer", 10, 3, 285_194, (32, 64, 128), [(1, 1, 1), (1, 2, 2), (2, 4, 4)], (2, 4, 4)),
        ("medical_analyzer", 2, 1, 69_794, (16, 32, 64), [(1, 1, 1), (2, 2, 2), (4, 4, 4)], (4, 4, 4)),
    ],
)
def test_the_textbooks_networks(name, num_classes, in_channels, parameters, channels, strides, least):
    torch.manual_seed(0)
    model = tubelet.create(name, num_classes=num_classes, in_channels=in_channels)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert (model.channels, model.strides, model.least) == (channels, strides, least)
    x = torch.randn(2, in_channels, 9, 33, 31)
    assert [found.shape[1] for found in model.features(x)] == list(channels)
    model(x).logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    model.eval()
    for size in (least, (9, 33, 31)):
        assert model(torch.randn(2, in_channels, *size)).shape == (2, num_classes)
    if least != (1, 1, 1):
        with pytest.raises(ValueError, match=rf"takes .*T from {least[0]}"):
            model(torch.randn(1, in_channels, least[0] - 1, 33, 31))


@pytest.mark.parametrize("name", ["video_cnn", "tiny3d", "video_analyzer", "medical_analyzer"])
def test_they_stream(name):
    torch.manual_seed(0)
    model = tubelet.create(name, num_classes=3).eval()
    model.head = tubelet.heads.PerFrame(model.channels[-1], 3)
    x = torch.rand(1, model.spec.in_channels, 11, 16, 16)
    stream = tubelet.Stream(model)
    outputs = [*(stream(frames) for frames in x.split(2, 2)), stream.flush()]
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(outputs, 2), model(x))
