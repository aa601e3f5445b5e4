import copy
import json
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

import tubelet
from tubelet import blocks, kernels, speed

LAST = torch.channels_last_3d


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def usual(model, *inputs):
    """Every layer on its fast way, without timing."""
    return speed.Choices(
        {layer: speed.Route(*(n[0] for n in speed._ways(layer))) for layer in speed._layers(model, inputs)}
    )


def winograd(model, *inputs):
    """The same, with Winograd wherever there is a kernel."""
    if not kernels.available():
        pytest.skip(kernels.why())
    routes = {}
    for layer in speed._layers(model, inputs):
        outputs, grad_inputs, grad_weights = speed._ways(layer)
        of_input = grad_inputs[-1 if grad_inputs[-1] == "winograd" else 0]
        routes[layer] = speed.Route(outputs[-1], of_input, grad_weights[0])
    return speed.Choices(routes)


triples = st.tuples(*[st.integers(1, 3)] * 3)


@st.composite
def layers(draw):
    """Any convolution that torch allows, and often those that have a way of their own."""
    kernel, stride = draw(triples), draw(triples)
    dilation = draw(st.tuples(*[st.integers(1, 2)] * 3))
    padding = draw(st.tuples(*[st.integers(0, 2)] * 3))
    form = draw(st.sampled_from(["any", "space", "time", "point"]))
    if form != "any":
        ones = {"space": (0,), "time": (1, 2), "point": (0, 1, 2)}[form]
        kernel, stride = (tuple(1 if i in ones else n for i, n in enumerate(each)) for each in (kernel, stride))
        padding = tuple(0 if i in ones else n for i, n in enumerate(padding))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    widths = [groups * draw(st.integers(1, 3)) for _ in range(2)]
    size = tuple(
        max(1, d * (k - 1) + 1 - 2 * p) + draw(st.integers(0, 5))
        for k, d, p in zip(kernel, dilation, padding, strict=True)
    )
    return speed.Layer(widths[0], size, widths[1], kernel, stride, padding, dilation, groups)


@settings(max_examples=150, deadline=None)
@given(layer=layers(), clips=st.integers(1, 3), seed=st.integers(0, 99))
def test_every_way_gives_the_sums_of_float64(layer, clips, seed):
    torch.manual_seed(seed)
    x = torch.randn(clips, layer.in_channels, *layer.size, dtype=torch.float64, requires_grad=True)
    shape = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
    w = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y = F.conv3d(x, w, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    assert layer.output_size == tuple(y.shape[2:])
    g = torch.randn_like(y)
    y.backward(g)
    x32, w32, g32 = (each.detach().float().contiguous(memory_format=torch.channels_last_3d) for each in (x, w, g))
    output, grad_input, grad_weight = speed._ways(layer)
    for name in output:
        torch.testing.assert_close(speed.OUTPUT[name](layer, x32, w32).double(), y, atol=1e-4, rtol=1e-4)
    for names, known, true in ((grad_input, speed.GRAD_INPUT, x.grad), (grad_weight, speed.GRAD_WEIGHT, w.grad)):
        for name in {*names, "plain"}:
            torch.testing.assert_close(known[name](layer, x32, w32, g32).double(), true, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("size", "widths", "kernel", "stride", "padding"),
    [
        ((4, 14, 14), (64, 144), (1, 3, 3), (1, 1, 1), (0, 1, 1)),
        ((3, 9, 10), (17, 70), (3, 3, 3), (1, 1, 1), (1, 1, 1)),
        ((3, 7, 8), (16, 33), (3, 3, 3), (1, 1, 1), (2, 0, 1)),  # its gradient has no kernel
        ((5, 8, 9), (20, 16), (1, 3, 3), (2, 1, 1), (0, 1, 1)),  # nor this
        ((6, 5, 7), (24, 1), (3, 1, 1), (1, 1, 1), (1, 0, 0)),
        ((4, 9, 9), (1, 40), (3, 1, 1), (1, 1, 1), (0, 0, 0)),
    ],
)
def test_winograd_steps_have_the_gradients_of_float64(size, widths, kernel, stride, padding):
    conv = nn.Conv3d(*widths, kernel, stride, padding)
    x = torch.randn(2, widths[0], *size, requires_grad=True)
    choices = winograd(conv, x)
    (route,) = choices.routes.values()
    has_gradient = stride == (1, 1, 1) and padding != (2, 0, 1)
    assert (route.output, route.grad_input == "winograd") == ("winograd", has_gradient)
    single = [x, *conv.parameters()]
    double = [each.detach().double().requires_grad_() for each in single]
    true = F.conv3d(*double, stride, padding)
    g = torch.randn(true.shape)
    wanted = [true, *torch.autograd.grad(true, double, g.double())]
    with speed.applied(choices):
        twice = [[y, *torch.autograd.grad(y, single, g)] for y in (conv(x), conv(x))]
    for got, again, expected in zip(*twice, wanted, strict=True):
        torch.testing.assert_close(got.double(), expected, atol=1e-5 * expected.abs().max().item(), rtol=0)
        assert torch.equal(got, again)


def test_without_the_kernels_the_usual_way_is_taken(monkeypatch):
    model, clips, targets = Every(), torch.randn(2, 3, 4, 16, 16), torch.arange(2)
    choices = winograd(model, clips)
    assert any(route.output == "winograd" for route in choices.routes.values())
    plain, half = (losses(model, clips, targets, usual(model, clips), 2, dtype) for dtype in (None, torch.bfloat16))
    assert torch.equal(losses(model, clips, targets, choices, 2, torch.bfloat16), half)
    monkeypatch.setattr(kernels, "available", lambda: False)
    assert torch.equal(losses(model, clips, targets, choices, 2), plain)
    assert "winograd" not in str(speed.choose(model, clips, seconds=1))


def losses(model, clips, targets, choices, steps=20, dtype=None, lr=1e-3):
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    told = []
    with speed.applied(choices):
        for step in range(steps):
            torch.manual_seed(step)  # of dropout
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                loss = F.cross_entropy(model(clips), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            told.append(loss.item())
    return torch.tensor(told)


class Every(nn.Module):
    """A layer for each way, with norms and a bias."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            blocks.conv2plus1d(3, 12, (1, 2, 2)),
            nn.GroupNorm(2, 12),
            nn.Conv3d(12, 24, 1),
            nn.ReLU(),
            blocks.conv3d(24, 24, 3, (1, 2, 2), groups=24),
            blocks.conv3d(24, 24, 3, groups=24),
            nn.GroupNorm(2, 24),
            blocks.conv3d(24, 16, 3),
            nn.ReLU(),
        )
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3, 4)))


@pytest.mark.parametrize("make", [Every, lambda: tubelet.create("tiny", num_classes=4)])
def test_losses_are_those_of_the_plain_step(make):
    model, clips, targets = make(), torch.randn(4, 3, 8, 32, 32), torch.arange(4)
    plain = losses(model, clips, targets, speed.Choices({}))
    assert plain[-1] < plain[0] - 0.005  # it learns
    for choices in (usual(model, clips), winograd(model, clips)):
        torch.testing.assert_close(losses(model, clips, targets, choices), plain, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_losses_of_a_published_network_are_those_of_the_plain_step():
    """At a small rate: with new weights and four clips, batch norms multiply any difference by ten in a few steps."""
    model, clips, targets = tubelet.create("r2plus1d_18", num_classes=4), torch.randn(4, 3, 8, 32, 32), torch.arange(4)
    plain = losses(model, clips, targets, speed.Choices({}), lr=1e-7)
    fast = losses(model, clips, targets, winograd(model, clips), lr=1e-7)
    assert not torch.equal(fast, plain) and plain[-1] < plain[0]
    torch.testing.assert_close(fast, plain, atol=0, rtol=1e-4)


@pytest.mark.parametrize("shape", [(2, 5, 3, 70, 70), (3, 4, 6, 5, 7), (2, 3, 1, 1, 2)])
def test_batch_norm_is_as_exact_as_in_the_usual_layout(shape):
    clips = (1.3 * torch.randn(shape) + 0.4).double()
    g = torch.randn(shape).double()
    norm = nn.BatchNorm3d(shape[1]).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    single = copy.deepcopy(norm).float()
    x = clips.clone().requires_grad_()
    y = norm(x)
    y.backward(g)
    z = clips.float().contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    point = blocks.conv3d(1, 1, 1)
    with speed.applied(usual(point, torch.zeros(1, 1, 1, 1, 1))):
        fast = single(z)
        fast.backward(g.float())
    assert fast.grad_fn.name() == "_BatchNormBackward"
    for got, true in (
        (fast, y),
        (z.grad, x.grad),
        (single.weight.grad, norm.weight.grad),
        (single.bias.grad, norm.bias.grad),
        (single.running_mean, norm.running_mean),
        (single.running_var, norm.running_var),
    ):
        torch.testing.assert_close(got.double(), true, atol=3e-6 * true.abs().max().item(), rtol=0)


def test_autocast():
    model, clips, targets = Every(), torch.randn(2, 3, 8, 32, 32), torch.arange(2)
    choices = usual(model, clips)
    with speed.applied(choices), torch.autocast("cpu", torch.bfloat16):
        assert model.body[0](clips).dtype == torch.bfloat16
    plain, fast = (losses(model, clips, targets, each, 5, torch.bfloat16) for each in (speed.Choices({}), choices))
    torch.testing.assert_close(fast, plain, atol=0.02, rtol=0)


def test_the_network_stays_as_it_is():
    model, clip = tubelet.create("tiny", num_classes=4), torch.randn(1, 3, 8, 32, 32)
    before, keys = copy.deepcopy(model.state_dict()), list(vars(model))
    state = torch.get_rng_state()
    choices = speed.choose(model, clip, seconds=0)
    assert set(choices.routes) == set(speed._layers(model, (clip,)))
    assert torch.equal(state, torch.get_rng_state()) and list(vars(model)) == keys
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    model.eval()
    plain = model(clip)
    with speed.applied(choices):
        copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
        fast = copied(clip)
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-5)
    assert torch.equal(model(clip), plain)


def test_checkpointed_steps_are_the_same():
    model, clips = Every(), torch.randn(2, 3, 4, 16, 16)
    with speed.applied(usual(model, clips)):
        model(clips).sum().backward()
        plain = [parameter.grad.clone() for parameter in model.parameters()]
        model.zero_grad()
        model.head(checkpoint(model.body, clips, use_reentrant=False).mean((2, 3, 4))).sum().backward()
    for parameter, true in zip(model.parameters(), plain, strict=True):
        assert torch.equal(parameter.grad, true)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_route", [False, True])
@pytest.mark.parametrize(
    ("size", "kernel", "stride"),
    [
        ((2, 7, 7), (3, 1, 1), 1),
        ((2, 7, 7), (3, 3, 3), 1),
        ((4, 6, 6), (5, 1, 1), 1),
        ((7, 8, 8), (7, 1, 1), (2, 1, 1)),
        ((2, 1, 1), (3, 3, 3), 2),
        ((1, 1, 1), (1, 3, 3), (1, 2, 2)),
    ],
)
def test_kernels_as_long_as_their_input_have_the_gradient_of_float64(size, kernel, stride, has_route, dtype):
    """Of torch's own, several are memory that nobody wrote."""
    layer = nn.Conv3d(16, 16, kernel, stride, tuple(k // 2 for k in kernel), bias=False)
    x = torch.randn(2, 16, *size)
    plain = copy.deepcopy(layer).double()
    g = torch.randn_like(plain(x.double()))
    (right,) = torch.autograd.grad(plain(x.double()), plain.weight, g)
    choices = usual(layer, x) if has_route else speed.Choices({})
    unit = right.abs().max()
    for _ in range(5):
        lost = [torch.full(layer.weight.shape, float("nan")) for _ in range(4)]  # what such memory may hold
        del lost
        with speed.applied(choices), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            (found,) = torch.autograd.grad(layer(x), layer.weight, g.to(dtype))
        torch.testing.assert_close(
            found.double() / unit, right / unit, atol=2e-2 if dtype == torch.bfloat16 else 1e-5, rtol=0
        )


@pytest.mark.parametrize(("kernel", "padding"), [((3, 1, 1), "same"), ((2, 2, 4), "same"), ((3, 3, 1), "valid")])
def test_padding_by_name_is_torchs_and_its_gradient_right(kernel, padding):
    layer, x = nn.Conv3d(16, 16, kernel, padding=padding), torch.randn(2, 16, 3, 7, 7)
    layer = layer.requires_grad_()
    x = x[:, :, :2] if padding == "same" else x
    plain = copy.deepcopy(layer).double()
    right = plain(x.double())
    with speed.applied(speed.Choices({})), torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
        found.float().square().mean().backward()
    right.square().mean().backward()
    torch.testing.assert_close(found.double(), right, atol=3e-2, rtol=3e-2)
    unit = plain.weight.grad.abs().max()
    torch.testing.assert_close(layer.weight.grad.double() / unit, plain.weight.grad / unit, atol=3e-2, rtol=0)
    with speed.applied(speed.Choices({})), pytest.raises(RuntimeError, match="strided"):
        F.conv3d(x, layer.weight, None, 2, "same")


def test_what_has_no_route_is_left_to_torch():
    model = Every()
    choices = usual(model, torch.randn(2, 3, 4, 16, 16))
    others = (
        lambda: model(torch.ones(1, 3, 5, 17, 16)),
        lambda: model.double()(torch.ones(1, 3, 4, 16, 16, dtype=torch.float64)),
        lambda: F.conv3d(torch.ones(3, 4, 4, 4), torch.ones(2, 3, 1, 1, 1)),
        lambda: F.conv3d(torch.ones(1, 3, 4, 4, 4), torch.ones(2, 3, 3, 1, 1), padding="same"),
        lambda: F.conv3d(torch.ones(0, 3, 4, 16, 16), torch.ones(2, 3, 1, 1, 1), stride=2),
    )
    for call in others:
        plain = call()
        with speed.applied(choices):
            assert torch.equal(call(), plain)
        model.float()


def test_choices_are_measured_kept_and_shown():
    model, clips = Every(), torch.randn(3, 3, 4, 32, 32)
    state = torch.get_rng_state()
    choices = speed.choose(model, clips)
    assert torch.equal(state, torch.get_rng_state())
    assert choices.clips == 2 and len(choices.rows) == 6 + 1  # layers, and their sum
    assert all(row["plain"] > 0 and row["chosen"] > 0 for row in choices.rows)
    assert "24 groups" in str(choices)
    again = speed.Choices.restored(json.loads(json.dumps(choices.state())))
    assert again.routes == choices.routes


LAYER = {
    "in_channels": 3, "size": [4, 8, 8], "out_channels": 8, "kernel_size": [3, 3, 3], "stride": [1, 1, 1],
    "padding": [1, 1, 1], "dilation": [1, 1, 1], "groups": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({}, "no list of layers"),
        ({"data": "clips", "epochs": 3}, "no list of layers"),
        ([1], "entry 1 is no layer with a route"),
        ([{"layer": {"name": "conv"}, "route": {}}], "entry 1 is no layer with a route"),
        ([{"layer": LAYER, "route": {"output": "plain"}}, {"name": "flat"}], "entry 2 is no layer with a route"),
        ([{"layer": LAYER, "route": {"grad_input": "fft"}}], "entry 1 takes the way 'fft'; there is plain, frames, "),
    ],
)
def test_what_is_not_a_choice_is_told(state, says):
    with pytest.raises(ValueError, match=f"^{says}"):
        speed.Choices.restored(state)


def test_without_time_layers_take_their_usual_way():
    model, clips = Every(), torch.randn(1, 3, 4, 32, 32)
    layers = speed._layers(model, (clips,))
    assert sum(layers.values()) == 6
    with pytest.raises(ValueError, match="seconds -1 must be at least 0"):
        speed.choose(model, clips, seconds=-1)
    assert speed.choose(model, clips, dtype=torch.float64) == speed.Choices({})
    asks_values = nn.Sequential(model.body, nn.BatchNorm3d(16, momentum=None))
    assert speed._layers(asks_values, (clips,)) == speed._layers(model.body, (clips,))  # what comes before is known


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r2plus1d_18", "x3d_s", "slowfast_r50", "unet3d", "movinet_a0", "densenet3d_121"])
def test_layers_of_published_networks_are_found(name):
    model = tubelet.create(name)
    clip = torch.zeros(1, model.spec.in_channels, 16, 64, 64)
    convs = [module for module in model.modules() if isinstance(module, nn.Conv3d)]
    assert sum(speed._layers(model, (clip,)).values()) >= len(convs)


def answers(module, x):
    with speed.inference():
        return module(x)


class Inference(nn.Module):
    """Whatever `inference` has a way for, large and small."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(1, 16, 3, padding=1),
            nn.InstanceNorm3d(16, affine=True),
            nn.LeakyReLU(),
            nn.Conv3d(16, 16, 3, padding=1, groups=16, bias=False),
            nn.GroupNorm(4, 16),
            nn.Conv3d(16, 24, (1, 3, 3), padding=(0, 1, 1)),
            nn.Conv3d(24, 8, (3, 1, 1), padding=(1, 0, 0)),
            nn.InstanceNorm3d(8),
            nn.Conv3d(8, 8, 2, 2, dilation=2),
            nn.GroupNorm(1, 8, affine=False),
            nn.Conv3d(8, 3, 1),
        )

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("shape", [(1, 1, 14, 16, 18), (2, 1, 7, 9, 8), (3, 1, 3, 4, 5)])
def test_inference_gives_the_answers_of_float64(shape):
    model, x = Inference().eval(), torch.randn(shape)
    with torch.no_grad():
        true = copy.deepcopy(model).double()(x.double())
    before = copy.deepcopy(model.state_dict())
    fast = answers(model, x)
    assert fast.is_contiguous(memory_format=LAST) and not fast.requires_grad
    torch.testing.assert_close(fast.double(), true, atol=2e-5 * true.abs().max().item(), rtol=0)
    assert torch.equal(answers(model, x), fast)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_inference_takes_large_convolutions_to_the_kernels(monkeypatch):
    seen, run = [], kernels.run
    monkeypatch.setattr(kernels, "run", lambda x, *rest: seen.append(tuple(x.shape)) or run(x, *rest))
    conv, large, small = nn.Conv3d(2, 4, 3, padding=1), torch.randn(2, 2, 4, 16, 16), torch.randn(1, 2, 7, 16, 16)
    for x in (large, small):
        torch.testing.assert_close(answers(conv, x), conv(x), atol=1e-5, rtol=1e-5)
    assert seen == [(2, 2, 4, 16, 16)] * kernels.available()


def test_norms_of_inference_keep_their_digits():
    x = torch.randn(2, 6, 5, 40, 41) + 30  # a mean far from zero
    group, instance = nn.GroupNorm(2, 6), nn.InstanceNorm3d(6)
    for norm in (group, instance):
        true = copy.deepcopy(norm).double()(x.double())
        for layout in (torch.contiguous_format, LAST):
            fast = answers(norm, x.contiguous(memory_format=layout))
            torch.testing.assert_close(fast.double(), true, atol=2e-5, rtol=0)


def test_inference_leaves_the_rest_to_torch():
    conv, norm, x = nn.Conv3d(2, 4, 3), nn.GroupNorm(2, 4), torch.randn(1, 2, 4, 16, 16)
    counted = nn.InstanceNorm3d(2, track_running_stats=True).eval()
    calls = [
        lambda: copy.deepcopy(conv).double()(x.double()),
        lambda: conv.bfloat16()(x.bfloat16()),
        lambda: conv.float()(x[0]),  # no batch
        lambda: norm(torch.ones(3, 4)),
        lambda: F.conv3d(x, conv.weight, padding="same"),
        lambda: counted(x),
        lambda: conv.to("meta")(x.to("meta")),
    ]
    for call in calls:
        plain = call()
        with speed.inference():
            fast = call()
        assert fast.dtype == plain.dtype and fast.device == plain.device and fast.shape == plain.shape
        assert fast.is_meta or torch.equal(fast, plain)
    with torch.autocast("cpu", torch.bfloat16):
        assert answers(nn.Conv3d(2, 4, 3), x).dtype == torch.bfloat16


def test_after_inference_all_is_as_it_was():
    before = (F.conv3d, F.group_norm, F.instance_norm)
    conv = nn.Conv3d(2, 4, 3)
    for wrong in (torch.randn(1, 3, 8, 20, 20), torch.randn(1, 2, 2, 2, 2)):  # channels, size
        with pytest.raises(RuntimeError) as plain:
            conv(wrong)
        with pytest.raises(RuntimeError) as fast:
            answers(conv, wrong)
        assert str(fast.value).split(",")[0] == str(plain.value).split(",")[0]
    assert before == (F.conv3d, F.group_norm, F.instance_norm)
    assert torch.is_grad_enabled() and conv(torch.randn(1, 2, 3, 3, 3)).requires_grad


def test_threads_that_come_and_go_leave_torch_as_it_was():
    """One comes in, then the other; the first leaves, then the other."""
    before = F.conv3d
    one, two = speed.inference(), speed.inference()
    one.__enter__()
    grads = torch.is_grad_enabled()
    two.__enter__()
    one.__exit__(None, None, None)
    assert F.conv3d is not before
    two.__exit__(None, None, None)
    torch.set_grad_enabled(True)
    assert F.conv3d is before and not grads


def test_who_trains_beside_inference_has_gradients():
    layer, x = torch.nn.Conv3d(16, 16, (1, 3, 3), padding=(0, 1, 1)), torch.randn(1, 16, 4, 32, 32)
    with speed.inference(), torch.enable_grad():
        layer(x).sum().backward()
    assert layer.weight.grad is not None


class Padded(nn.Module):
    def forward(self, x):
        return F.conv3d(x, x.new_ones(4, 4, 1, 3, 3), padding="same")


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit")
@torch.no_grad()
@pytest.mark.parametrize("around", [None, usual, winograd])
def test_who_follows_a_network_beside_it_has_torchs_graph(around):
    model = nn.Sequential(nn.Conv3d(2, 4, 3), nn.GroupNorm(2, 4), nn.InstanceNorm3d(4), Padded()).eval()
    x = torch.randn(1, 2, 6, 20, 20)
    ways = {
        "export": lambda: [node.target for node in torch.export.export(model, (x,)).graph.nodes],
        "trace": lambda: [node.kind() for node in torch.jit.trace(model, x, check_trace=False).inlined_graph.nodes()],
    }
    right = {name: make() for name, make in ways.items()}
    with speed.inference() if around is None else speed.applied(around(model, x)):
        assert {name: make() for name, make in ways.items()} == right


def test_convolutions_before_a_head_that_looks_at_boxes_are_known():
    model = tubelet.create("r2plus1d_18", num_classes=3)
    model.head = tubelet.heads.Detect(model.channels[-1], 3, model.strides[-1][1])
    clips, box = torch.zeros(1, 3, 4, 32, 32), torch.tensor([[0.0, 0, 0, 16, 16]])
    plain = tubelet.create("r2plus1d_18", num_classes=3)
    assert speed._layers(model, (clips, box)) == speed._layers(plain, (clips,))


def test_inference_in_another_thread_leaves_training_its_functions():
    """Also where it began later: what trains within `applied` keeps its convolutions."""
    seen = []
    with speed.applied(speed.Choices({})), speed.inference(), torch.enable_grad():
        under = speed._ACTIVE[0]["conv3d"]
        speed._ACTIVE[0]["conv3d"] = lambda *given: seen.append(given[0]) or under(*given)
        F.conv3d(torch.randn(1, 2, 3, 5, 5), torch.randn(4, 2, 3, 3, 3, requires_grad=True)).sum().backward()
    assert len(seen) == 1


def test_on_another_device_convolutions_are_torchs_at_once():
    """torch.compile makes anew what looked at who else is within `inference`."""

    def refuse(*_):
        raise AssertionError

    x, w = torch.empty(1, 2, 3, 5, 5, device="meta"), torch.empty(4, 2, 3, 3, 3, device="meta")
    with speed._instead(conv3d=refuse), speed.inference():
        assert F.conv3d(x, w).shape == (1, 4, 1, 3, 3)


def test_a_batch_norm_without_a_bias_trains():
    x = speed.channels_last(torch.randn(2, 4, 3, 5, 5)).requires_grad_()
    norm = nn.BatchNorm3d(4)
    norm.bias = None
    expected = torch.autograd.grad(norm(x).square().sum(), x)[0]
    conv = speed.Layer(4, (3, 5, 5), 4, (1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1), 1)
    with speed.applied(speed.Choices({conv: speed.Route("plain", "plain", "plain")})):
        torch.testing.assert_close(torch.autograd.grad(norm(x).square().sum(), x)[0], expected)
