import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tubelet
from tubelet import blocks, heads
from tubelet.heads import MLP, Classify, Detect, Features, PerFrame, Segment, TemporalTransformer, roi_align

X = torch.rand(2, 6, 5, 3, 4, generator=torch.Generator().manual_seed(0))


def test_shapes():
    assert Classify(6, 7)(X).shape == (2, 7)
    assert PerFrame(6, 7)(X).shape == (2, 7, 5)
    assert Features()(X) is X


def test_classify_is_a_linear_layer_on_the_mean():
    head = Classify(6, 7)
    expected = X.mean((2, 3, 4)) @ head.fc.weight.T + head.fc.bias
    torch.testing.assert_close(head(X), expected)
    steps = head.logits(X.mean((3, 4)))
    assert steps.shape == (2, 7, 5)
    torch.testing.assert_close(steps.mean(2), expected)


def test_per_frame_sees_one_step_alone():
    head = PerFrame(6, 7)
    logits = head(X)
    for t in range(5):
        torch.testing.assert_close(head(X[:, :, t : t + 1])[..., 0], logits[..., t])


@pytest.mark.parametrize("head", [Classify, PerFrame])
def test_dropout_acts_in_training_alone(head):
    module = head(6, 7, dropout=0.5)
    torch.manual_seed(0)
    assert not torch.equal(module(X), module(X))
    module.eval()
    assert torch.equal(module(X), module(X))


BOXES = torch.tensor([[1, 3.0, 5.0, 20.0, 30.0], [0, 0.0, 0.0, 31.0, 23.0]])


def answer(head, x=X):
    return blocks.apply_head(head, x, torch.empty(2, 3, 9, 24, 31), *([BOXES] if isinstance(head, Detect) else []))


@pytest.mark.parametrize(
    "head",
    [
        Classify(6, 7, dropout=0.25, window=(2, 1, 3)),
        MLP(6, 7, 8, bias=False, act=nn.SiLU, windows=((2, 1, 1),)),
        PerFrame(6, 7, window=2),
        TemporalTransformer(6, 7, channels=8, num_layers=1, num_heads=2),
        Segment(6, 7, dropout=0.25),
        Detect(6, 7, stride=8, dropout=0.25, output_size=3, aligned=True),
        Features(),
    ],
    ids=lambda head: type(head).__name__,
)
def test_a_description_builds_the_head_anew(head):
    description = heads.describe(head)
    built = heads.build(description)
    assert type(built) is type(head)
    assert heads.describe(built) == description
    assert getattr(built, "dropout", nn.Dropout(0)).p == getattr(head, "dropout", nn.Dropout(0)).p
    built.load_state_dict(head.state_dict())
    assert torch.equal(answer(built.eval()), answer(head.eval()))


class MyClassify(Classify):
    pass


@pytest.mark.parametrize("head", [nn.Linear(2, 3), MyClassify(6, 7)])
def test_a_head_of_another_kind_cannot_be_described(head):
    with pytest.raises(ValueError, match=f"a {type(head).__name__} cannot be saved.*Classify, .*Features"):
        heads.describe(head)


def test_a_head_of_a_later_version():
    with pytest.raises(ValueError, match=r"'Caption'.*newer tubelet"):
        heads.build({"name": "Caption", "arguments": {}})
    arguments = {**Classify(6, 7).arguments, "temperature": 2}
    with pytest.raises(ValueError, match=r"Classify has no argument 'temperature'.*newer tubelet"):
        heads.build({"name": "Classify", "arguments": arguments})


@pytest.mark.parametrize("cls", heads.HEADS)
def test_a_description_has_every_argument(cls):
    needed = {"in_channels": 6, "num_classes": 7, "hidden_channels": 8, "stride": 8}
    parameters = inspect.signature(cls).parameters
    head = cls(**{name: value for name, value in needed.items() if name in parameters})
    assert head.arguments.keys() == parameters.keys()


@pytest.mark.parametrize("steps", [1, 2, 33])
def test_a_temporal_transformer_takes_any_number_of_steps_and_sees_their_order(steps):
    torch.manual_seed(0)
    head = TemporalTransformer(6, 7, channels=16).eval()
    x = torch.rand(3, 6, steps, 2, 1)
    logits = head(x)
    assert logits.shape == (3, 7)
    torch.testing.assert_close(head(x[1:2]), logits[1:2])
    assert torch.allclose(head(x.flip(2)), logits, atol=1e-6) is (steps == 1)
    torch.testing.assert_close(head(x.mean((3, 4), keepdim=True)), logits)


def test_a_temporal_transformer_learns_with_every_weight():
    torch.manual_seed(0)
    head = TemporalTransformer(6, 7, channels=8, num_heads=2)
    head(X).logsumexp(1).sum().backward()
    assert all(p.grad.any() for p in head.parameters())
    first, second = head.encoder.layers
    assert not torch.equal(first.linear1.weight, second.linear1.weight)
    with pytest.raises(ValueError, match="channels 10 must be a multiple of num_heads 4"):
        TemporalTransformer(6, 7, channels=10)


def test_positions_are_of_the_paper():
    positions = heads.sinusoids(torch.zeros(1, 5, 6))
    assert positions.shape == (5, 6)
    for t in range(5):
        for i in range(3):
            angle = t / 10000 ** (2 * i / 6)
            assert positions[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert positions[t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)
    assert heads.sinusoids(torch.zeros(1, 5, 7)).shape == (5, 7)


def test_segment_answers_at_the_clips_own_size():
    head = Segment(6, 7)
    torch.testing.assert_close(head(X, X.shape[2:]), head.fc(X))
    for size in ((1, 1, 1), (9, 24, 31)):
        assert head(X, size).shape == (2, 7, *size)
    even = torch.ones_like(X)
    torch.testing.assert_close(head(even, (9, 24, 31)), head.fc(even)[:, :, :1, :1, :1].expand(-1, -1, 9, 24, 31))


def test_detect_is_a_linear_layer_on_the_largest_bin_of_the_mean_over_time():
    head = Detect(6, 7, stride=8)
    bins = roi_align(X.mean(2), BOXES, 7, 1 / 8)
    torch.testing.assert_close(head(X, BOXES), bins.amax((2, 3)) @ head.fc.weight.T + head.fc.bias)
    assert head(X, BOXES[:0]).shape == (0, 7)


def test_dense_and_box_heads_on_a_network(tmp_path):
    model = tubelet.create("tiny", num_classes=4).eval()
    x = torch.rand(2, 3, 5, 33, 47)
    width = model.channels[-1]
    model.head = Segment(width, 3)
    assert model(x).shape == (2, 3, 5, 33, 47)
    with pytest.raises(ValueError, match=r"head\.resize \(Resize\) cannot be streamed"):
        tubelet.Stream(model)
    model.head = Detect(width, 3, model.strides[-1][1]).eval()
    assert model(x, BOXES).shape == (2, 3)
    with pytest.raises(ValueError, match=r"head\.pool \(TimeMean\) cannot be streamed"):
        tubelet.Stream(model)
    loaded = tubelet.load(tubelet.save(model, tmp_path / "boxes.safetensors"))
    assert torch.equal(loaded(x, BOXES), model(x, BOXES))
    model.head = TemporalTransformer(width, 3, channels=8)
    assert model(x).shape == (2, 3)
    with pytest.raises(ValueError, match="cannot be streamed"):
        tubelet.Stream(model)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (torch.zeros(3, 4), r"boxes are \(3, 4\); they must be \(N, 5\)"),
        (torch.zeros(5), r"boxes are \(5,\)"),
        (torch.tensor([[0, 1, 1, 2, 2], [2, 1, 1, 2, 2.0]]), r"box 1 is \[2.0, .*one of 0 to 1"),
        (torch.tensor([[-1, 1, 1, 2, 2.0]]), "box 0 is .*one of 0 to 1"),
        (torch.tensor([[0.5, 1, 1, 2, 2.0]]), "box 0 is .*one of 0 to 1"),
        (torch.tensor([[0, 1, 1, torch.inf, 2.0]]), "corners finite"),
        (torch.tensor([[0, 1, torch.nan, 2, 2.0]]), "corners finite"),
        (None, r"takes boxes \(N, 5\) with the clips"),
        (torch.tensor([[0, 9, 9, 20, 8.0]]), r"box 0 is \[.*x2 and y2 must not be below x1 and y1"),
    ],
)
def test_bad_boxes_are_named(boxes, message):
    with pytest.raises(ValueError, match=message):
        Detect(6, 7, stride=8)(X, boxes)


def slow_roi_align(maps, boxes, output_size, scale, sampling_ratio, aligned):
    """RoI align one sample after another, in float64, from the definition that torchvision documents and follows."""
    maps, boxes = maps.double(), boxes.double()
    height, width = output_size
    rows, columns = maps.shape[2:]

    def at(values, y, x):
        if y < -1 or y > rows or x < -1 or x > columns:
            return torch.zeros(len(values), dtype=torch.double)
        y, x = min(max(y, 0), rows - 1), min(max(x, 0), columns - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
        dy, dx = y - top, x - left
        above = (1 - dx) * values[:, top, left] + dx * values[:, top, right]
        below = (1 - dx) * values[:, bottom, left] + dx * values[:, bottom, right]
        return (1 - dy) * above + dy * below

    out = torch.zeros(len(boxes), maps.shape[1], height, width, dtype=torch.double)
    for n, (clip, x1, y1, x2, y2) in enumerate(boxes.tolist()):
        offset = 0.5 if aligned else 0.0
        x1, y1, x2, y2 = (value * scale - offset for value in (x1, y1, x2, y2))
        box_height, box_width = y2 - y1, x2 - x1
        if not aligned:
            box_height, box_width = max(box_height, 1), max(box_width, 1)
        bin_height, bin_width = box_height / height, box_width / width
        down = sampling_ratio or math.ceil(bin_height)
        across = sampling_ratio or math.ceil(bin_width)
        for i in range(height):
            for j in range(width):
                for k in range(down):
                    for m in range(across):
                        y = y1 + i * bin_height + (k + 0.5) * bin_height / down
                        x = x1 + j * bin_width + (m + 0.5) * bin_width / across
                        out[n, :, i, j] += at(maps[int(clip)], y, x) / max(down * across, 1)
    return out


corner = st.floats(-60, 200, width=32)


@settings(max_examples=60, deadline=None)
@given(
    boxes=st.lists(st.tuples(st.integers(0, 1), corner, corner, corner, corner), max_size=4),
    size=st.tuples(st.integers(1, 9), st.integers(1, 12)),
    output_size=st.sampled_from([(7, 7), (1, 2), (3, 1)]),
    scale=st.sampled_from([1 / 16, 0.1, 1 / 8]),
    sampling_ratio=st.integers(0, 3),
    aligned=st.booleans(),
)
def test_roi_align_is_that_of_a_slow_loop(boxes, size, output_size, scale, sampling_ratio, aligned):
    # corners in order, as boxes have them; some lie outside of the map, some are empty
    rows = [(clip, min(a, c), min(b, d), max(a, c), max(b, d)) for clip, a, b, c, d in boxes]
    boxes = torch.tensor(rows, dtype=torch.double).view(-1, 5)
    maps = torch.rand(2, 3, *size, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    found = roi_align(maps, boxes, output_size, scale, sampling_ratio, aligned)
    torch.testing.assert_close(found, slow_roi_align(maps, boxes, output_size, scale, sampling_ratio, aligned))


def test_roi_align_of_known_values():
    ramp = torch.arange(20.0).expand(1, 1, 10, 20)  # each pixel is its own column
    boxes = torch.tensor([[0, 2.0, 1.0, 10.0, 9.0]])
    bins = roi_align(ramp, boxes, (2, 4))
    torch.testing.assert_close(bins[0, 0], torch.tensor([3.0, 5.0, 7.0, 9.0]).expand(2, 4))
    bins = roi_align(ramp, boxes, (2, 4), aligned=True)
    torch.testing.assert_close(bins[0, 0], torch.tensor([2.5, 4.5, 6.5, 8.5]).expand(2, 4))
    outside = torch.tensor([[0, 100.0, 100.0, 110.0, 110.0]])
    assert not roi_align(ramp, outside, 3).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_roi_align_in_low_precision_keeps_the_order_of_the_boxes(dtype):
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 4, 14, 14, generator=generator)
    starts = torch.rand(50, 2, generator=generator) * 150
    ends = starts + torch.rand(50, 2, generator=generator) * 80
    boxes = torch.cat([torch.randint(3, (50, 1), generator=generator), starts, ends], 1)
    found = roi_align(maps.to(dtype), boxes, 7, 1 / 16)
    assert found.dtype is dtype
    expected = slow_roi_align(maps.to(dtype), boxes, (7, 7), 1 / 16, 0, False)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5 if dtype is torch.float32 else 5e-3)


def test_roi_align_has_gradients():
    maps = torch.rand(2, 2, 4, 5, dtype=torch.double, requires_grad=True)
    boxes = torch.tensor([[0, 3.0, -5.0, 20.0, 30.0], [1, 10.0, 8.0, 50.0, 40.0]], dtype=torch.double)
    assert torch.autograd.gradcheck(lambda values: roi_align(values, boxes, (2, 3), 1 / 8), maps)
