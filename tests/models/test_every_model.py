import pytest
import torch

import tubelet

SIZES = [(1, 1, 1), (5, 33, 47), (2, 16, 16)]


@pytest.fixture(scope="module", params=tubelet.models())
def model(request):
    torch.manual_seed(0)
    return tubelet.create(request.param, num_classes=5).eval()


@pytest.mark.parametrize("size", SIZES)
def test_any_size_gives_logits(model, size):
    with torch.no_grad():
        logits = model(torch.randn(2, 3, *size))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize("size", SIZES)
def test_features_are_as_described(model, size):
    with torch.no_grad():
        maps = model.features(torch.randn(1, 3, *size))
    assert len(maps) == len(model.channels) == len(model.strides) == len(model.stages)
    for found, channels, strides in zip(maps, model.channels, model.strides, strict=True):
        assert found.shape == (1, channels, *(-(-n // s) for n, s in zip(size, strides, strict=True)))


def test_the_answer_is_the_heads_of_the_last_map(model):
    x = torch.randn(1, 3, 4, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(x), model.head(model.features(x)[-1]))
        assert torch.equal(model.stages[0](model.stem(x)), model.features(x)[0])


def test_the_order_of_frames_matters_but_to_the_frame_by_frame_twin(model):
    x = torch.randn(1, 3, 8, 16, 16)
    swapped = x[:, :, [4, 1, 2, 3, 0, 5, 6, 7]]  # two that a stride of 4 keeps
    with torch.no_grad():
        is_blind = torch.allclose(model(x), model(swapped), atol=1e-6)
    assert is_blind is (model.architecture["name"] == "tiny_2d")


@pytest.mark.parametrize("name", tubelet.models())
def test_gradients_reach_every_parameter(name):
    torch.manual_seed(0)
    model = tubelet.create(name, num_classes=5).train()
    model(torch.randn(2, 3, 8, 16, 16)).logsumexp(1).sum().backward()
    unmoved = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert not unmoved


@pytest.mark.parametrize("name", tubelet.models())
def test_other_numbers_of_channels(name):
    for in_channels in (1, 5) if name.startswith("tiny") else (4,):
        model = tubelet.create(name, num_classes=3, in_channels=in_channels).eval()
        assert model.spec.in_channels == in_channels
        with torch.no_grad():
            assert model(torch.randn(1, in_channels, 2, 8, 8)).shape == (1, 3)


@pytest.mark.parametrize("shape", [(3, 4, 8, 8), (1, 1, 4, 8, 8), (1, 4, 3, 8, 8), (1, 3, 4, 8, 8, 1), (3,)])
def test_another_input_is_named_with_what_is_taken(model, shape):
    message = rf"{', '.join(map(str, shape))}.*takes \(B, 3, T, H, W\)"
    for call in (model, model.features):
        with pytest.raises(ValueError, match=message):
            call(torch.zeros(shape))


def test_heads_change_the_task(model, monkeypatch):
    x, width = torch.randn(1, 3, 8, 16, 16), model.channels[-1]
    t, h, w = (-(-n // s) for n, s in zip((8, 16, 16), model.strides[-1], strict=True))
    with torch.no_grad():
        for head, shape in (
            (tubelet.heads.PerFrame(width, 7), (1, 7, t)),
            (tubelet.heads.Features(), (1, width, t, h, w)),
        ):
            monkeypatch.setitem(model._modules, "head", head)
            assert model(x).shape == shape


def test_names_and_patterns():
    names = tubelet.models()
    assert len(set(names)) == len(names)
    assert {"tiny", "tiny_2d", "tiny_3d", "r3d_18", "mc3_18", "r2plus1d_18"} <= set(names)
    assert sorted(tubelet.models("tiny*")) == ["tiny", "tiny_2d", "tiny_3d"]
    assert tubelet.models("no such*") == ()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("r3d18", r"unknown model 'r3d18'; did you mean r3d_18"),
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


@pytest.mark.parametrize(
    ("name", "millions"), [("r3d_18", 33.371472), ("mc3_18", 11.695440), ("r2plus1d_18", 31.505325)]
)
def test_published_sizes(name, millions):
    halves = 1 if name == "mc3_18" else 2  # stages of single frames keep them all
    with torch.device("meta"):
        model = tubelet.create(name)
    assert sum(p.numel() for p in model.parameters()) == round(millions * 1e6)
    assert model.channels == (64, 128, 256, 512)
    assert model.strides == [(halves**i, 2 * 2**i, 2 * 2**i) for i in range(4)]
