"""Chunked output equals offline output: random networks, every network, both ends, constant memory."""

import copy
import io
import itertools
import re
import types

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

import tubelet
from tubelet import blocks, optimize
from tubelet.backends import Int8
from tubelet.blocks import Join, add, concat
from tubelet.models import MODELS
from tubelet.step import Continued, Step, steady
from tubelet.twins import twins_of


def run(stream, x, chunks):
    outputs, at = [], 0
    for n in chunks:
        outputs.append(stream(x[:, :, at : at + n]))
        at += n
    assert at == x.shape[2]
    return torch.cat([*outputs, stream.flush()], dim=2)


def assert_equal(chunked, offline):
    assert chunked.shape == offline.shape
    scale = offline.abs().max().clamp(min=1e-3) if offline.numel() else 1
    assert (chunked - offline).abs().max() <= 1e-5 * scale


def cut(frames, sizes):
    """Chunk sizes, taken in turn (0 is a chunk without frames), that make up the clip."""
    chunks = []
    turns = itertools.cycle([*sizes, 1])
    while sum(chunks) < frames:
        chunks.append(min(next(turns), frames - sum(chunks)))
    return chunks


@st.composite
def convs(draw, channels):
    kernel, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    padding = draw(st.one_of(st.just("same"), st.integers(0, 4)))
    stride = 1 if padding == "same" else draw(st.integers(1, 5))
    return nn.Conv3d(
        channels,
        channels,
        (kernel, 1, 1),
        (stride, 1, 1),
        padding=padding if padding == "same" else (padding, 0, 0),
        dilation=(dilation, 1, 1),
    )


@st.composite
def pools(draw, channels):
    kernel = draw(st.integers(1, 4))
    size = {
        "kernel_size": (kernel, 1, 1),
        "stride": (draw(st.integers(1, 5)), 1, 1),
        "padding": (draw(st.integers(0, kernel // 2)), 0, 0),
        "ceil_mode": draw(st.booleans()),
    }
    if draw(st.booleans()):
        return nn.MaxPool3d(**size, dilation=(draw(st.integers(1, 3)), 1, 1))
    divisor = draw(st.sampled_from([None, 3]))
    return nn.AvgPool3d(**size, count_include_pad=draw(st.booleans()), divisor_override=divisor)


class Branches(nn.Module):
    """Branches of different delay and one length, as in Inception and SlowFast."""

    def __init__(self, branches, merge, back):
        super().__init__()
        self.branches, self.join, self.back = nn.ModuleList(branches), Join(merge), back

    def forward(self, x):
        return self.back(self.join(*(branch(x) for branch in self.branches)))


@st.composite
def merges(draw, channels):
    stride = draw(st.integers(1, 3))
    branches = [
        blocks.conv3d(
            channels,
            channels,
            (2 * draw(st.integers(0, 2)) + 1, 1, 1),
            (stride, 1, 1),
            draw(st.integers(1, 2)),
        )
        for _ in range(draw(st.integers(2, 3)))
    ]
    if draw(st.booleans()):
        return Branches(branches, add, nn.ReLU())
    return Branches(branches, concat, blocks.conv3d(channels * len(branches), channels, 1))


@st.composite
def residuals(draw, channels):
    stride = (draw(st.integers(1, 3)), 1, 1)
    if draw(st.booleans()):
        conv1 = blocks.conv2plus1d(channels, channels, stride, mid_channels=2)
    else:
        conv1 = blocks.conv3d(channels, channels, (3, 1, 1), stride)
    return blocks.residual((conv1, blocks.conv3d(channels, channels, (3, 1, 1))), channels, stride)


@st.composite
def networks(draw, channels=3):
    layer = st.one_of(convs(channels), pools(channels), merges(channels), residuals(channels))
    return nn.Sequential(*draw(st.lists(layer, min_size=1, max_size=4)))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_random_networks_stream_exactly(data):
    streams_exactly(data)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(st.data())
def test_many_random_networks_stream_exactly(data):
    streams_exactly(data)


def streams_exactly(data):
    torch.manual_seed(0)
    frames = data.draw(st.integers(1, 40))
    network = data.draw(networks()).eval()
    x = torch.rand(2, 3, frames, 2, 2)
    try:
        with torch.no_grad():
            offline = network(x)
    except RuntimeError:  # the clip is shorter than a kernel
        assume(False)
    assume(offline.isfinite().all())  # a dilated max pool of one frame sees padding alone
    stream = tubelet.Stream(network)
    sizes = data.draw(st.lists(st.integers(0, 9), max_size=3))
    assert_equal(run(stream, x, cut(frames, sizes)), offline)
    assert_equal(run(stream, x, [frames]), offline)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 16, 40])
@pytest.mark.parametrize("frames", [1, 2, 15, 16, 33])
@pytest.mark.parametrize("head", ["frames", "features"])
@pytest.mark.parametrize("name", tubelet.models("tiny*"))
def test_tiny_streams_exactly(name, head, frames, chunk):
    torch.manual_seed(0)
    model = tubelet.create(name, num_classes=4).eval()
    width = model.channels[-1]
    model.head = tubelet.heads.PerFrame(width, 4) if head == "frames" else tubelet.heads.Features()
    x = torch.rand(2, 3, frames, 16, 20)
    with torch.no_grad():
        offline = model(x)
    stream = tubelet.Stream(model)
    chunks = [min(chunk, frames - at) for at in range(0, frames, chunk)]
    assert_equal(run(stream, x, chunks), offline)


def test_classifier_averages_the_video_or_a_window():
    model = tubelet.create("tiny", num_classes=4).eval()
    x = torch.rand(1, 3, 40, 16, 16)
    with torch.no_grad():
        whole = model(x)
        steps = model.head.logits(model.features(x)[-1].mean((3, 4)))
    everything = run(tubelet.Stream(model), x, [9, 1, 30])
    assert everything.shape == (1, 4, 10)
    assert_equal(everything[:, :, -1], whole)
    window = run(tubelet.Stream(model, window=3), x, [9, 1, 30])
    assert_equal(window[:, :, 0], steps[:, :, 0])
    assert_equal(window[:, :, 1], steps[:, :, :2].mean(2))
    assert_equal(window[:, :, 7], steps[:, :, 5:8].mean(2))


@pytest.mark.parametrize(("make", "window"), [
    *itertools.product(["Classify", "MLP"], [None, (1, 2, 3), (4, 2, 3), (40, 2, 3), (4, 3, 3)]),
    ("Classify", (2, 1, 1)),
])  # fmt: skip
def test_a_heads_own_window_streams_exactly(make, window):
    head = (
        tubelet.heads.Classify(6, 5, window=window)
        if make == "Classify"
        else tubelet.heads.MLP(6, 5, 7, windows=[window] if window else [])
    ).eval()
    x = torch.rand(2, 6, 11, 2, 3)
    answers = run(tubelet.Stream(head), x, [2, 0, 5, 4])
    with torch.no_grad():
        assert_equal(answers, torch.stack([head(x[:, :, : t + 1]) for t in range(11)], 2))


@pytest.mark.parametrize(
    "head",
    [
        tubelet.heads.Classify(6, 5, window=(4, 2, 2)),
        tubelet.heads.MLP(6, 5, 7, windows=[(4, 2, 3), (8, 3, 3)]),
        tubelet.heads.MLP(6, 5, 7, windows=[(2, 1, 1)]),
    ],
)
def test_a_heads_window_on_a_larger_map_is_refused(head):
    with pytest.raises(ValueError, match=r"layer model \(\w+\) cannot be .* map of 3x3"):
        tubelet.Stream(head)(torch.rand(1, 6, 2, 3, 3))


@pytest.mark.parametrize("chunks", [[9], [1] * 9, [0, 4, 0, 5]])
@pytest.mark.parametrize(
    "layer",
    [
        blocks.TemporalShift(4),
        blocks.PastPad(2),
        blocks.CausalMean(),
        blocks.SpatialMean(),
        blocks.HalvingMean(),
        blocks.HardSigmoid(),
        blocks.Scale(),
        blocks.ZeroChannels(2),
        blocks.SpaceToDepth(),
        blocks.SamePad((1, 3, 3), (1, 2, 2)),
        nn.ConstantPad3d((1, 0, 0, 2, 2, 1), 0.0),
        nn.AdaptiveAvgPool3d((None, 1, 2)),
        nn.AdaptiveMaxPool3d((None, 2, 1)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_other_layers_stream_exactly(layer, chunks):
    x = torch.rand(2, 8, 9, 5, 4)
    network = nn.Sequential(layer, nn.MaxPool3d((2, 1, 1)))
    with torch.no_grad():
        assert_equal(run(tubelet.Stream(network), x, chunks), network(x))


def test_a_step_of_a_halving_mean_is_the_streams():
    """Its counts of what is no padding are of space alone: frames before the first have them, too."""
    torch.manual_seed(0)
    stream = tubelet.Stream(nn.Sequential(nn.Conv3d(3, 4, (3, 1, 1), padding=(1, 0, 0)), blocks.HalvingMean()))
    video = torch.rand(1, 3, 12, 5, 6)
    step, answers = Step(stream, (1, 3, 2, 5, 6)), []
    number, states = torch.zeros((), dtype=torch.int64), step.states
    assert step.names == ("0.tail",)  # nothing is passed along for a layer that keeps nothing
    for chunk in video.split(2, 2):
        answer, number, *states = step(chunk, number, *states)
        answers.append(answer)
    torch.testing.assert_close(torch.cat(answers, 2)[:, :, step.lead :], stream(video))


@pytest.mark.parametrize(
    "layer",
    [
        blocks.GlobalMean(),
        blocks.NonLocal(8, 4, "concatenation"),
        blocks.SamePad(3, 1),
        blocks.SpreadFrames(4),
        nn.AdaptiveAvgPool3d(1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_see_all_of_time_are_named_and_streamed_on_request(layer):
    name = rf"layer 0 \({type(layer).__name__}\)"
    with pytest.raises(ValueError, match=f"{name} cannot be streamed exactly: .* Give approximate=True"):
        tubelet.Stream(nn.Sequential(layer))
    stream = tubelet.Stream(nn.Sequential(layer), approximate=True)
    (line,) = stream.approximations
    assert re.match(rf"0 \({type(layer).__name__}\): \w", line)
    x = torch.rand(2, 8, 9, 4, 4)
    whole = run(stream, x, [9])
    assert whole.shape[2] >= 2 and torch.allclose(run(stream, x, [2, 1, 0, 6]), whole, atol=1e-6)


def test_the_mean_of_the_frames_so_far_or_of_the_last():
    x = torch.rand(1, 8, 9, 4, 4)
    means = x.mean((3, 4), keepdim=True)
    stream = tubelet.Stream(blocks.GlobalMean(), approximate=True)
    assert torch.allclose(run(stream, x, [4, 5]), means.cumsum(2) / torch.arange(1, 10).view(-1, 1, 1))
    last = run(tubelet.Stream(blocks.GlobalMean(), approximate=True, window=3), x, [4, 5])
    assert torch.allclose(last[:, :, 1], means[:, :, :2].mean(2)) and torch.allclose(
        last[:, :, 7], means[:, :, 5:8].mean(2)
    )


@pytest.mark.parametrize("chunks", [[1], [5], [24]])
def test_a_bad_step_is_in_the_means_of_its_own_windows_alone(chunks):
    x = torch.rand(1, 8, 24, 4, 4)
    x[:, :, 5] = torch.nan
    x[:, :, 12] = 1e25
    head = tubelet.heads.Classify(8, 3).eval()
    right = head.logits(x.mean((3, 4)).unfold(2, 2, 1).mean(3))
    found = run(tubelet.Stream(head, window=2), x, cut(24, chunks))
    torch.testing.assert_close(found[:, :, 1:], right, equal_nan=True)
    found = run(tubelet.Stream(blocks.GlobalMean(), window=2, approximate=True), x, cut(24, chunks))
    torch.testing.assert_close(head.logits(found.mean((3, 4)))[:, :, 1:], right, equal_nan=True)


@pytest.mark.slow
def test_an_approximate_network_ends_near_the_offline_one():
    """At the end all frames have been seen, but the gates of the first frames had seen few."""
    torch.manual_seed(0)
    model = tubelet.create("x3d_xs", num_classes=5).eval()
    stream = tubelet.Stream(model, approximate=True)
    assert len(stream.approximations) == 15 and all("GlobalMean" in line for line in stream.approximations)
    still = torch.rand(1, 3, 1, 32, 32).expand(-1, -1, 12, -1, -1)  # where nothing moves, the means are equal
    torch.testing.assert_close(run(stream, still, [5, 7])[:, :, -1], model(still), rtol=0, atol=2e-2)
    assert "approximate, 15" in str(stream)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["i3d", "slowfast_r50", "s3d_g", "s3d_g_milnce", "movinet_a0", "slow_r50_nl"])
def test_other_networks_stream_approximately(name):
    torch.manual_seed(0)
    model = tubelet.create(name, num_classes=5).eval()
    stream = tubelet.Stream(model, approximate=True)
    assert stream.approximations
    x = torch.rand(1, 3, 32, 32, 32)
    whole = run(stream, x, [32])
    assert whole.shape[2] >= 4
    assert_equal(run(stream, x, [3, 20, 9]), whole)


@torch.no_grad()
def test_a_window_over_single_places_streams_at_the_published_size():
    with torch.device("meta"):
        model = tubelet.create("i3d", num_classes=4)
    x = torch.empty(1, model.spec.in_channels, 32, *model.spec.crop, device="meta")
    assert run(tubelet.Stream(model, approximate=True), x, [9, 23]).shape == (1, 4, 4)


# Dense streams: the reference is written anew, with torch's functions.


def plain_conv(x, layer, dilation):
    """A convolution without padding in time, whose stride in time is left out."""
    (_, *stride), (_, *padding) = layer.stride, layer.padding
    size = (dilation, 1, 1)
    return nn.functional.conv3d(x, layer.weight, layer.bias, (1, *stride), (0, *padding), size, layer.groups)


def plain_norm(x, norm):
    return nn.functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def plain_layers(x, layers, dilation):
    """Convolutions, norms and activations in order -> the answer, the dilation behind it, frames lost in front."""
    lost = 0
    for layer in (module for module in layers.modules() if not list(module.children())):
        if isinstance(layer, nn.Conv3d):
            x = plain_conv(x, layer, dilation)
            lost += layer.padding[0] * dilation
            dilation *= layer.stride[0]
        elif isinstance(layer, nn.BatchNorm3d):
            x = plain_norm(x, layer)
        elif isinstance(layer, nn.ReLU):
            x = x.relu()
        else:
            assert isinstance(layer, nn.Identity)
    return x, dilation, lost


def plain_resnet(model, x):
    x, dilation, _ = plain_layers(x, model.stem, 1)
    for stage in model.stages:
        for block in [stage] if isinstance(stage, blocks.Residual) else stage:
            y, behind, lost = plain_layers(x, block.branch, dilation)
            skip, _, _ = plain_layers(x[:, :, lost : x.shape[2] - lost], block.shortcut, dilation)
            x, dilation = (y + skip).relu(), behind
    return x


def with_statistics(model):
    """Norms that change something: running means and variances of their own."""
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm3d)):
        norm.running_mean.uniform_(-0.1, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("tiny", 60),
        pytest.param("r2plus1d_18", 112, marks=pytest.mark.slow),
        pytest.param("r3d_18", 112, marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_a_dense_stream_is_the_network_without_padding_and_strides(name, frames):
    torch.manual_seed(0)
    model = with_statistics(tubelet.create(name, num_classes=5))
    x = torch.rand(2, 3, frames, 16, 16)
    expected = plain_resnet(model, x)
    model.head = tubelet.heads.Features()
    stream = tubelet.Stream(model, dense=True)
    assert stream.receptive_field == stream.delay + 1 == frames - expected.shape[2] + 1
    parts = [stream(chunk) for chunk in x.split([stream.delay, *[1] * (frames - stream.delay)], 2)]
    assert [part.shape[2] for part in parts] == [0, *[1] * (frames - stream.delay)]
    assert stream.flush().shape[2] == 0
    chunked, scale = torch.cat(parts, 2), expected.abs().max()
    assert (chunked - expected).abs().max() <= 1e-4 * scale
    assert (run(stream, x, [7, frames - 7]) - expected).abs().max() <= 1e-4 * scale


@pytest.mark.slow
def test_the_receptive_field_of_published_networks():
    """Worked by hand: 1 + 2 a convolution of 3 frames, times the strides before it."""
    for name, frames in (("r2plus1d_18", 109), ("tsn_r18", 1)):
        with torch.device("meta"):
            model = tubelet.create(name, num_classes=5)
        assert tubelet.Stream(model).receptive_field == frames


def test_dense_layers_without_padding():
    """Inception's branches, pools, shifts and padding in the past alone, against taps written out."""
    torch.manual_seed(0)
    x = torch.rand(1, 8, 20, 2, 2)
    pool = nn.AvgPool3d((3, 1, 1), (2, 1, 1), (1, 0, 0))
    dense = run(tubelet.Stream(nn.Sequential(pool, nn.MaxPool3d((2, 1, 1))), dense=True), x, [4, 1, 15])
    mean = (x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]) / 3
    assert torch.allclose(dense, torch.maximum(mean[:, :, :-2], mean[:, :, 2:]))
    thinned = nn.MaxPool3d(1, (2, 1, 1))
    dense = run(tubelet.Stream(nn.Sequential(thinned, blocks.TemporalShift(4)), dense=True), x, [4, 1, 15])
    assert torch.equal(dense, torch.cat([x[:, :2, 4:], x[:, 2:4, :-4], x[:, 4:, 2:-2]], 1))
    causal = nn.Sequential(blocks.PastPad(2), nn.MaxPool3d((3, 1, 1), 1))
    network = Branches([causal, nn.Identity()], add, nn.ReLU())
    dense = run(tubelet.Stream(network, dense=True), x, [1, 12, 7])
    assert torch.equal(dense, torch.stack([x[:, :, :-2], x[:, :, 1:-1], x[:, :, 2:]]).amax(0) + x[:, :, 2:])


def test_a_batch_of_dense_streams_has_a_state():
    model = tubelet.create("tiny", num_classes=4).eval()
    stream, other = (tubelet.Stream(model, dense=True, window=2) for _ in range(2))
    x = torch.rand(3, 3, 40, 16, 16)
    stream(x[:, :, :33])
    file = io.BytesIO()
    torch.save(stream.state, file)
    file.seek(0)
    other.state = torch.load(file)
    assert torch.equal(stream(x[:, :, 33:]), other(x[:, :, 33:]))
    alone = tubelet.Stream(model, dense=True, window=2)
    assert torch.allclose(
        run(alone, x[1:2], [40]), run(tubelet.Stream(model, dense=True, window=2), x, [40])[1:2], atol=1e-5
    )
    with pytest.raises(ValueError, match="dense=True, not False"):
        tubelet.Stream(model, window=2).state = other.state


NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.parametrize(
    ("dense", "chunk", "window", "device"),
    [
        (True, 1, None, "cpu"),
        (False, 4, 8, "cpu"),
        pytest.param(False, 4, None, "cpu", marks=pytest.mark.slow),
        pytest.param(True, 1, None, "cuda", marks=[pytest.mark.slow, NO_GPU]),
        pytest.param(False, 4, None, "cuda", marks=[pytest.mark.slow, NO_GPU]),
    ],
)
def test_an_optimized_network_streams_with_the_same_answers(dense, chunk, window, device, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    model = with_statistics(tubelet.create("tiny", num_classes=4)).to(device)
    x = torch.rand(1, 3, 72, 16, 16, device=device)
    expected = run(tubelet.Stream(model, dense=dense, window=window), x, [72])
    stream = tubelet.Stream(optimize(model, x[:, :, :2], seconds=0), dense=dense, window=window)
    chunks = [chunk] * (56 // chunk)
    for _ in range(2):  # the second video begins anew
        assert_equal(run(stream, x, [*chunks, 3, 13]), expected)
    for part in x[:, :, :56].split(chunk, 2):
        stream(part)
    assert stream._live is not None  # it is the graph that runs, and gives its state back
    assert stream._live[1].prepare(x[:, :, :chunk], *stream._kept) is not None
    assert all(kept.numel() for kept in stream._kept)
    assert f"chunks of {chunk} frame" in str(stream)
    other = tubelet.Stream(model, dense=dense, window=window)
    other.state = stream.state
    assert_equal(
        torch.cat([stream(x[:, :, 56:]), stream.flush()], 2), torch.cat([other(x[:, :, 56:]), other.flush()], 2)
    )


@pytest.mark.parametrize("chunk", [1, 2])
def test_an_optimized_stream_shares_no_memory_and_hides_no_number_that_is_none(chunk):
    torch.manual_seed(0)
    model = with_statistics(tubelet.create("tiny", num_classes=4))
    x = torch.rand(1, 3, 80, 16, 16)
    x[:, :, 50] = torch.nan
    plain = tubelet.Stream(model, dense=True, window=1)
    stream = tubelet.Stream(optimize(model, x[:, :, :2], seconds=0), dense=True, window=1)
    frames = torch.empty(1, 3, chunk, 16, 16)
    for part in x.split(chunk, 2):
        frames.copy_(part)
        answer, expected = stream(frames), plain(part)
        torch.testing.assert_close(answer, expected, equal_nan=True, atol=1e-5, rtol=1e-4)
        for each in (answer, frames):  # the caller's, to write to
            each.fill_(9.0)
    assert expected.isfinite().all() and stream._live is not None


def test_an_optimized_stream_without_counts_gives_its_state_and_sees_what_is_written_to_it():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(3, 4, (3, 1, 1)), nn.ReLU(), nn.Conv3d(4, 4, (2, 1, 1)), nn.ReLU()).eval()
    x = torch.rand(1, 3, 20, 4, 4)
    stream = tubelet.Stream(optimize(net, x[:, :, :8], seconds=0), dense=True)
    assert_equal(run(stream, x, [1] * 20), run(tubelet.Stream(net, dense=True), x, [20]))
    for frame in x.split(1, 2):
        stream(frame)
    assert stream._live is not None
    stream.state["2"]["frames"][-1].fill_(torch.nan)
    assert stream(frame).isnan().any()


def test_a_backend_of_others_that_has_no_graph_leaves_the_stream_as_it_is(monkeypatch, caplog):
    torch.manual_seed(0)
    model, x = nn.Conv3d(3, 4, 3).eval(), torch.rand(1, 3, 8, 4, 4)
    expected = run(tubelet.Stream(model), x, [8])
    fast = optimize(model, x, seconds=0)
    with monkeypatch.context() as patch:
        patch.setattr(type(fast), "prepare", lambda *_: None)
        stream = tubelet.Stream(fast)
        assert_equal(run(stream, x, [2] * 4), expected)
        assert "no chunks yet" in str(stream)
    fast.backend = Int8("onnxruntime", [])
    stream = tubelet.Stream(fast)
    assert_equal(run(stream, x, [2] * 4), expected)
    assert "the stream runs in float32" in caplog.text and "as one graph" not in str(stream)


@pytest.mark.parametrize("layer", [blocks.GlobalMean(), blocks.NonLocal(4, 2, "dot_product")])
def test_what_looks_at_the_last_steps_is_one_graph_once_it_has_them(layer):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(3, 4, (3, 1, 1), padding=(1, 0, 0)), layer).eval()
    x = torch.rand(1, 3, 24, 4, 4)
    expected = run(tubelet.Stream(model, approximate=True, window=6), x, [24])
    stream = tubelet.Stream(optimize(model, x[:, :, :2], seconds=0), approximate=True, window=6)
    answers = [stream(chunk) for chunk in x.split(1, 2)]
    assert stream._live is not None
    assert_equal(torch.cat([*answers, stream.flush()], 2), expected)


@torch.no_grad()
def test_a_graph_of_a_chunk_keeps_to_its_device():
    """A device without numbers stands for one that is not the processor."""
    with torch.device("meta"):
        pool = nn.AvgPool3d((3, 1, 1), (1, 1, 1), (1, 0, 0), count_include_pad=False)
        stream = tubelet.Stream(nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), pool))
        frames = torch.empty(1, 3, 2, 4, 4)
        stream(frames)
        graph = Continued(stream.model, *(moment.states for moment in steady(stream.model, frames)))
        kept = graph.taken({name: twin.state for name, twin in twins_of(stream.model).items()}, frames.device)
    answers, *after = graph(frames, *kept)
    assert len(kept[0]) and answers.shape == (1, 4, 2, 4, 4)
    assert [x.shape for x in after] == [x.shape for x in kept]
    assert {x.device.type for x in (*kept, *after)} == {"meta"}


def test_what_a_stream_costs_is_told():
    with torch.device("meta"):
        model = tubelet.create("r3d_18", num_classes=400)
    told = str(tubelet.Stream(model))
    assert "receptive field: 109 frames" in told and "an answer: every 8 frames" in told
    # 81.4 GFLOP a window of 16 frames at 112x112: twice the published 40.7 giga multiply-adds (Tran et al. 2018)
    window, times = re.search(r"a whole window: ([\d.]+) GFLOP for 16 frames, ([\d.]+) times", told).groups()
    assert float(window) == pytest.approx(81.4, rel=0.01) and 15 < float(times) < 17
    assert "an answer: every frame" in str(tubelet.Stream(model, dense=True))


def test_delay_is_the_number_of_frames_before_the_first_output():
    for name in tubelet.models("tiny*"):
        model = tubelet.create(name, num_classes=4)
        stream = tubelet.Stream(model)
        told = stream.delay
        x = torch.rand(1, 3, told + 1, 56, 56)
        assert stream(x[:, :, :told]).shape[2] == 0
        assert stream(x[:, :, told:]).shape[2] == 1


def test_state_can_be_saved_and_restored():
    model = tubelet.create("tiny", num_classes=4)
    model.head = tubelet.heads.Features()
    stream, other = tubelet.Stream(model), tubelet.Stream(model)
    x = torch.rand(1, 3, 30, 16, 16)
    stream(x[:, :, :13])
    file = io.BytesIO()
    torch.save(stream.state, file)
    file.seek(0)
    rest = torch.cat([stream(x[:, :, 13:]), stream.flush()], 2)
    other.state = torch.load(file)
    assert torch.equal(torch.cat([other(x[:, :, 13:]), other.flush()], 2), rest)
    with pytest.raises(ValueError, match="another network"):
        tubelet.Stream(tubelet.create("tiny_2d", num_classes=4)).state = stream.state


def test_a_state_that_does_not_fit_is_refused_whole():
    torch.manual_seed(0)
    wide, slim = (nn.Sequential(nn.Conv3d(1, n, 3), nn.Conv3d(n, 1, 3)) for n in (4, 2))
    for dense in (False, True):
        stream, other = tubelet.Stream(wide, dense=dense), tubelet.Stream(slim, dense=dense)
        x = torch.rand(1, 1, 9, 12, 12)
        before = torch.cat([stream(x[:, :, :4]), stream(x[:, :, 4:6])], 2)
        with pytest.raises(ValueError, match="another network: that of layer 1 does not fit"):
            other.state = stream.state
        whole = stream.state
        for layer in ({"odd": 1}, dict.fromkeys(whole["0"]), None):
            with pytest.raises(ValueError, match="damaged, or of another network: that of layer 0 does not fit"):
                stream.state = {**whole, "0": layer}
        with pytest.raises(ValueError, match=r"its shape is 3, and that of frames is \(B, C, H, W\)"):
            stream.state = {**whole, "shape": 3}
        with torch.no_grad():
            assert_equal(torch.cat([before, stream(x[:, :, 6:])], 2), wide(x))


def test_weights_are_shared_and_the_model_is_untouched():
    model = tubelet.create("tiny", num_classes=4).train()
    before = copy.deepcopy(model.state_dict())
    stream = tubelet.Stream(model)
    run(stream, torch.rand(1, 3, 9, 16, 16), [9])
    assert (
        model.training
        and type(model.stem.conv) is nn.Conv3d
        and model.stages[0].branch.conv1.temporal.padding == (1, 0, 0)
    )
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    ours = {id(p) for p in model.parameters()}
    assert {id(p) for p in stream.parameters()} == ours


@pytest.mark.slow
def test_memory_is_constant_over_ten_thousand_frames():
    model = tubelet.create("tiny", num_classes=4)
    stream = tubelet.Stream(model, window=8)

    def kept():
        tensors, todo = [], list(stream.state.values())
        while todo:
            value = todo.pop()
            if isinstance(value, torch.Tensor):
                tensors.append(value)
            elif isinstance(value, dict | list):
                todo += value.values() if isinstance(value, dict) else value
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    chunk = torch.rand(1, 3, 8, 8, 8)
    sizes = []
    for _ in range(10_000 // 8):
        stream(chunk)
        sizes.append(kept())
    assert len(set(sizes[10:])) == 1


def test_what_cannot_be_exact_is_named():
    model = tubelet.create("tiny", num_classes=4)
    model.stages[1].branch.norm1 = nn.InstanceNorm3d(32)
    with pytest.raises(ValueError, match=r"stages\.1\.branch\.norm1 \(InstanceNorm3d\)"):
        tubelet.Stream(model)
    with pytest.raises(ValueError, match=r"padding_mode 'circular'"):
        tubelet.Stream(nn.Conv3d(1, 1, 3, padding=1, padding_mode="circular"))


class Unjoined(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = blocks.conv3d(2, 2)

    def forward(self, x):
        return x + self.conv(x)


class Gated(Unjoined):
    def forward(self, x):
        return self.conv(x) * x.mean((2, 3, 4), keepdim=True)


class Gate(nn.Sequential):
    def forward(self, x):
        return x * super().forward(x.mean((2, 3, 4), keepdim=True))


def gated():
    return nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), Gate(nn.Conv3d(4, 4, 1), nn.Sigmoid()))


@pytest.mark.parametrize("network", [Unjoined, Gated, gated])
def test_mixing_frames_outside_a_layer_is_found(network):
    with pytest.raises(ValueError, match="cannot be streamed exactly"):
        tubelet.Stream(network())(torch.rand(1, 2, 4, 5, 5))


def test_a_stage_of_another_class_is_tried_on_data():
    model = tubelet.create("tiny", num_classes=4)
    model.stages[0] = nn.Sequential(blocks.conv3d(16, 2), Gated(), blocks.conv3d(2, 16))
    with pytest.raises(ValueError, match="cannot be streamed exactly"):
        tubelet.Stream(model)(torch.rand(1, 3, 4, 16, 16))


def mixing(layer, inputs, output):
    return output - output.mean(2, keepdim=True)


def test_hooks_and_forwards_of_ones_own_are_run_or_named():
    def stage(model):
        model.stages[0].register_forward_hook(mixing)

    def network(model):
        model.forward = types.MethodType(lambda self, x: type(self).forward(self, x - x.mean(2, keepdim=True)), model)

    x = torch.rand(1, 3, 9, 16, 16)
    for change, name in ((stage, "stages.0 (Residual)"), (network, "model (Network)")):
        model = tubelet.create("tiny", num_classes=4).eval()
        change(model)
        with pytest.raises(ValueError, match=re.escape(f"exactly: the forward or a hook of layer {name} merges")):
            tubelet.Stream(model)(x)
    for head in (tubelet.heads.Classify(64, 4), tubelet.heads.MLP(64, 4, 5)):
        model.head = head
        head.register_forward_pre_hook(lambda layer, inputs: (inputs[0] + 1,))
        with pytest.raises(ValueError, match=r"layer head \(\w+\) cannot be streamed: it has hooks"):
            tubelet.Stream(model)
    model = tubelet.create("tiny", num_classes=4).eval()
    model.head = tubelet.heads.PerFrame(model.channels[-1], 4)
    for layer in model.modules():
        if isinstance(layer, (nn.Conv3d, Join, tubelet.heads.PerFrame)):
            layer.register_forward_hook(lambda layer, inputs, output: output + 1)
    with torch.no_grad():
        assert_equal(run(tubelet.Stream(model), x, [4, 5]), model(x))


class Trailing(nn.Module):
    """Keeps a mean of the frames by itself: of a chunk without frames one that is no number."""

    def __init__(self):
        super().__init__()
        self.conv, self.mean = nn.Conv3d(3, 4, 1), 0.0

    def forward(self, x):
        y = self.conv(x)
        self.mean = 0.9 * self.mean + 0.1 * y.mean(2, keepdim=True)
        return y + self.mean


class Shifted(nn.Module):
    """Exact for the first video: keeps the last frame by itself."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv3d(3, 3, 1), torch.zeros(1, 3, 1, 5, 5)

    def forward(self, x):
        x = torch.cat([self.last, x], 2)
        self.last = x[:, :, -1:]
        return self.conv(x[:, :, :-1])


@pytest.mark.parametrize("network", [Trailing, Shifted])
def test_what_a_network_keeps_by_itself_is_found(network):
    says = rf"layer model \({network.__name__}\) .* keeps something of the frames before"
    with pytest.raises(ValueError, match=says):
        tubelet.Stream(network())(torch.rand(1, 3, 4, 5, 5))
    diverged = ByPixel(nn.Linear(3, 4)).eval()
    nn.init.constant_(diverged.function.weight, torch.nan)
    assert tubelet.Stream(diverged)(torch.rand(1, 3, 4, 5, 5)).isnan().all()


def on_meta(preset):
    with torch.device("meta"):
        model = preset(num_classes=4).eval()
    model.head = tubelet.heads.Features()
    return model


def clip(model, device):
    t, h, w = (max(n, low) for n, low in zip((19, 24, 16), model.least, strict=True))
    return torch.rand(1, model.spec.in_channels, t, h, w, device=device)


def streamed_or_named(model):
    """The model's stream, or None when the error says which layer cannot be streamed."""
    try:
        return tubelet.Stream(model)
    except ValueError as error:
        assert re.match(r"layer \S+ \(\w+\) cannot be streamed exactly", str(error))
        return None


# Kinds whose smallest network takes long; others are built of the same blocks.
LONG = {"c3d", "densenet3d", "movinet", "mobilenetv2", "p3d", "pooled_r2plus1d", "resnext3d", "s3d"}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.slow] if kind in LONG else [])
        for kind in sorted({preset.build.__name__ for preset in MODELS})
    ],
)
def test_networks_stream_exactly_or_a_layer_is_named(kind):
    """The smallest one of a kind is run; of the others, what cannot be streamed is named."""
    streaming = []
    for preset in (preset for preset in MODELS if preset.build.__name__ == kind):
        model = on_meta(preset)
        if streamed_or_named(model) is not None:
            streaming.append((sum(p.numel() for p in model.parameters()), preset.name))
    if not streaming:
        return
    torch.manual_seed(0)
    model = tubelet.create(min(streaming)[1], num_classes=4).eval()
    model.head = tubelet.heads.Features()
    x = clip(model, "cpu")
    with torch.no_grad():
        offline = model(x)
    assert_equal(run(tubelet.Stream(model), x, [5, 1, 0, x.shape[2] - 6]), offline)


@pytest.mark.slow
@pytest.mark.parametrize("preset", MODELS, ids=lambda preset: preset.name)
def test_every_stream_gives_as_many_steps_as_the_network(preset):
    model = on_meta(preset)
    stream = streamed_or_named(model)
    if stream is not None:
        x = clip(model, "meta")
        assert run(stream, x, [5, 1, 0, x.shape[2] - 6]).shape == model(x).shape


class Shuffling(nn.Conv3d):
    def forward(self, x):
        return super().forward(x.flip(2))


class Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.conv, self.function = blocks.conv3d(3, 3), function

    def forward(self, x):
        return self.function(self.conv(x))


class ByPixel(Applied):
    def forward(self, x):
        return self.function(self.conv(x).movedim(1, -1)).movedim(-1, 1)


def reused():
    conv = blocks.conv3d(3, 3)
    return nn.Sequential(conv, nn.ReLU(), conv)


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (lambda: nn.Sequential(Shuffling(3, 3, 3)), r"layer 0 \(Shuffling\)"),
        (reused, "layers 0 and 2 are one"),
        (lambda: nn.Sequential(nn.BatchNorm3d(3, track_running_stats=False)), r"layer 0 \(BatchNorm3d\)"),
    ],
)
def test_layers_that_only_look_known_are_refused(network, says):
    with pytest.raises(ValueError, match=says):
        tubelet.Stream(network())


def test_a_stream_of_a_stream_is_refused():
    stream = tubelet.Stream(nn.Conv3d(3, 3, 3))
    for model in (stream, nn.Sequential(stream)):
        with pytest.raises(ValueError, match="model is a Stream, or holds one: give the network"):
            tubelet.Stream(model)


def test_a_parametrized_layer_is_named_with_the_way_out():
    conv = parametrizations.spectral_norm(nn.Conv3d(3, 3, 3, padding=1))
    with pytest.raises(ValueError, match=r"layer 1 \(Conv3d\) .* is parametrized; .*\.remove_parametrizations"):
        tubelet.Stream(nn.Sequential(nn.ReLU(), conv))
    network = ByPixel(parametrizations.spectral_norm(nn.Linear(3, 4))).eval()  # it treats each frame alone
    x = torch.rand(1, 3, 9, 6, 6)
    assert torch.allclose(run(tubelet.Stream(network), x, [4, 5]), network(x), atol=1e-6)


@pytest.mark.parametrize(("answer", "kind"), [(lambda y: {"logits": y}, "dict"), (lambda y: (y, y), "tuple")])
def test_an_answer_that_is_no_tensor_is_named(answer, kind):
    with pytest.raises(ValueError, match=f"^Applied answers with a {kind}: wrap it in a network .* one tensor of it$"):
        tubelet.Stream(Applied(answer))(torch.rand(1, 3, 4, 5, 5))
    with pytest.raises(ValueError, match="cannot be streamed exactly"):
        tubelet.Stream(Applied(lambda y: torch.zeros(1, 3, 4, 5, 5)))(torch.rand(1, 3, 4, 5, 5))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    torch.manual_seed(0)
    for network in (
        tubelet.create("tiny", num_classes=4).eval(),
        Branches([nn.Identity(), blocks.conv3d(3, 3)], add, nn.ReLU()),
    ):
        network = network.to(dtype)
        x = torch.rand(1, 3, 17, 16, 16, dtype=dtype)
        with torch.no_grad():
            offline = network(x)
        out = run(tubelet.Stream(network), x, [4, 13])
        assert out.dtype == dtype
        last = out[:, :, -1] if offline.ndim == 2 else out
        assert torch.allclose(last.double(), offline.double(), rtol=0, atol=0.05 if dtype == torch.bfloat16 else 1e-9)


def test_one_stream_after_another_at_other_sizes():
    model = tubelet.create("tiny", num_classes=4).eval()
    stream = tubelet.Stream(model)
    assert stream.delay == 11
    for size in ((16, 20), (24, 24), (16, 20), (33, 9)):
        x = torch.rand(1, 3, 14, *size)
        with torch.no_grad():
            assert_equal(run(stream, x, [3, 11])[:, :, -1], model(x))


def test_a_refused_chunk_begins_no_video():
    stream = tubelet.Stream(tubelet.create("tiny", num_classes=4))
    x = torch.rand(1, 3, 4, 16, 16)
    first = stream(x), stream.flush()
    with pytest.raises((ValueError, RuntimeError)):
        stream(torch.rand(1, 4, 4, 20, 20))
    assert all(map(torch.equal, (stream(x), stream.flush()), first))


def test_a_state_is_of_its_window():
    model = tubelet.create("tiny", num_classes=4)
    one, other = tubelet.Stream(model, window=3), tubelet.Stream(model)
    one(torch.rand(1, 3, 20, 16, 16))
    with pytest.raises(ValueError, match="window 3, not None"):
        other.state = one.state


def test_wrong_frames():
    stream = tubelet.Stream(tubelet.create("tiny", num_classes=4))
    with pytest.raises(ValueError, match="takes"):
        stream(torch.rand(3, 4, 16, 16))
    with pytest.raises(ValueError, match="seen no frames"):
        stream.flush()
    with pytest.raises(ValueError, match=r"float64 and the network is torch\.float32: give frames\.to"):
        stream(torch.rand(1, 3, 4, 16, 16).double())
    with pytest.raises(ValueError, match="state is a NoneType"):
        stream.state = None
    with pytest.raises(ValueError, match="must be a network"):
        tubelet.Stream("tiny")
    stream(torch.rand(1, 3, 4, 16, 16))
    with pytest.raises(ValueError, match=r"\(1, 3, 20, 20\).*\(1, 3, 16, 16\)"):
        stream(torch.rand(1, 3, 4, 20, 20))


def test_a_caller_may_write_each_frame_to_the_same_memory():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 3, padding=1))
    video, buffer = torch.randn(1, 1, 9, 8, 8), torch.empty(1, 1, 1, 8, 8)
    for model, dense in ((net, True), (net, False), (optimize(net, video, seconds=0), True)):
        one, two = (tubelet.Stream(model, dense=dense) for _ in range(2))
        for frame in video.split(1, 2):
            torch.testing.assert_close(one(buffer.copy_(frame)), two(frame.clone()))


def test_the_weights_of_a_stream_keep_their_type():
    model = tubelet.create("tiny", num_classes=4)
    stream = tubelet.Stream(model)
    with pytest.raises(ValueError, match=r"a stream shares its weights, torch.float32 on cpu: bring"):
        stream.double()
    assert {x.dtype for x in model.parameters()} == {torch.float32}
    assert stream.float() is stream


@torch.no_grad()
def test_compiled_it_answers_as_it_does():
    model, video = tubelet.create("tiny", num_classes=4).eval(), torch.rand(1, 3, 16, 16, 16)
    stream = tubelet.Stream(model)
    answers = [torch.compile(stream, backend="eager")(chunk) for chunk in video.split(5, 2)]
    flush = torch.compile(lambda: 2 * stream.flush(), backend="eager")
    assert_equal(torch.cat([*answers, flush() / 2], 2)[:, :, -1], model(video))


@torch.no_grad()
def test_of_a_compiled_network_the_network_is_streamed():
    model, video = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.ReLU()).eval(), torch.rand(1, 3, 6, 8, 8)
    fast = optimize(model, video, seconds=0.0)
    for each in (model, fast, optimize(torch.compile(model, backend="eager"), video, seconds=0.0)):
        stream = tubelet.Stream(torch.compile(each, backend="eager"))
        assert type(stream.model) is nn.Sequential and (stream._fast is None) == (each is model)
        assert_equal(torch.cat([stream(video), stream.flush()], 2), model(video))


def test_a_stream_does_not_train():
    model = with_statistics(tubelet.create("tiny", num_classes=4)).eval()
    before = copy.deepcopy(model.state_dict())
    holder = nn.ModuleList([tubelet.Stream(model)]).train()
    holder[0](torch.rand(1, 3, 20, 16, 16))
    assert not any(module.training for module in holder[0].modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_interrupted_chunk_was_never_seen():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 3, padding=1))
    video = torch.randn(1, 3, 12, 8, 8)
    stream = tubelet.Stream(net)
    found = [stream(video[:, :, :4])]

    def interrupt(*_):
        raise KeyboardInterrupt

    hook = stream.model[1].register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        stream(video[:, :, 4:8])
    hook.remove()
    found += [stream(video[:, :, 4:8]), stream(video[:, :, 8:]), stream.flush()]
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(found, 2), net(video), rtol=1e-4, atol=1e-5)


def test_a_window_is_a_number_of_steps():
    with pytest.raises(ValueError, match=r"window 2\.5 must be a whole number"):
        tubelet.Stream(tubelet.create("tiny", num_classes=2), window=2.5)
