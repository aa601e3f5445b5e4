import copy
import io
import json
import logging
import pickle
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tubelet
from tests.models.test_every_model import KINDS, boxes, clip
from tubelet import blocks, kernels, optimize, speed, ways
from tubelet.capture import capture
from tubelet.graph import Activation, Convolution, Pool
from tubelet.optimize import PLANS
from tubelet.speed import LAST, Layer

QUICK = {"tiny", "unet3d"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    torch.manual_seed(0)
    # what is built once stays, what was timed does not
    library = kernels.available()
    monkeypatch.setenv("TUBELET_CACHE", str(tmp_path))
    return library


def lively(model):
    """Norms that do something, as trained ones do."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            if module.weight is not None:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.1)
    return model.eval()


def assert_same(answer, right, within=1e-4):
    assert answer.shape == right.shape
    assert answer.dtype == right.dtype
    assert (answer - right).abs().max() <= within * right.abs().max()


def quick(name):
    return pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])


@torch.no_grad()
@pytest.mark.parametrize("name", [quick(name) for name in sorted({*KINDS.values(), "x3d_xs"} - {"c3d"})])
def test_every_kind_of_network_answers_the_same(name):
    model = lively(tubelet.create(name, num_classes=5))
    inputs = {
        batch: (clip(model, plus, batch), *boxes(model, batch)) for batch, plus in ((2, (2, 9, 14)), (1, (1, 3, 3)))
    }
    fast = optimize(model, inputs[2], seconds=0.0)
    for given_ in inputs.values():
        assert_same(fast(*given_), model(*given_))
    assert len(fast._plans) == 2
    assert fast.spec == model.spec
    loaded = pickle.loads(pickle.dumps(fast))
    assert_same(loaded(*inputs[1]), model(*inputs[1]))


# Ways

triples = st.tuples(*[st.integers(1, 3)] * 3)


@st.composite
def convolutions(draw):
    """Any convolution that torch allows, and often those that have kernels of their own."""
    kernel, stride = draw(triples), draw(triples)
    dilation = draw(st.tuples(*[st.integers(1, 2)] * 3))
    padding = draw(st.tuples(*[st.integers(0, 2)] * 3))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    form = draw(st.sampled_from(["any", "space", "time", "stem", "dilated", "depthwise"]))
    special = {
        "space": ((1, 3, 3), (1, 1, 1), (0, 1, 1), (1, 1, 1)),
        "time": ((3, 1, 1), (1, 1, 1), (1, 0, 0), (1, 1, 1)),
        "stem": ((3, 7, 7), (1, 2, 2), (1, 3, 3), (1, 1, 1)),
        "dilated": ((3, 3, 3), (1, 1, 1), (2, 2, 2), (2, 2, 2)),
    }
    if form in special:
        (kernel, stride, padding, dilation), groups = special[form], 1
    widths = [groups * draw(st.integers(1, 20)) for _ in range(2)]
    if form == "depthwise":
        groups, widths = widths[0], [widths[0]] * 2
    size = tuple(
        max(1, d * (k - 1) + 1 - 2 * p) + draw(st.integers(0, 6))
        for k, d, p in zip(kernel, dilation, padding, strict=True)
    )
    layer = Layer(widths[0], size, widths[1], kernel, stride, padding, dilation, groups)
    weight = torch.randn(layer.out_channels, layer.in_channels // groups, *kernel)
    bias = draw(st.sampled_from([None, torch.randn(layer.out_channels)]))
    has_other = draw(st.booleans())
    some = [
        None,
        Activation("relu", torch.relu),
        Activation("swish", F.silu),
        Activation("leaky_relu", F.leaky_relu, (0.01,)),
    ]
    activation = draw(st.sampled_from(some[: 2 if has_other else 4]))
    return Convolution(layer, draw(st.integers(1, 3)), weight, bias, activation, has_other)


@settings(max_examples=80, deadline=None)
@given(work=convolutions(), seed=st.integers(0, 99), is_free=st.booleans())
def test_every_way_gives_the_sums_of_float64(work, seed, is_free):
    torch.manual_seed(seed)
    layer = work.layer
    x = torch.randn(work.batch, layer.in_channels, *layer.size)
    bias = None if work.bias is None else work.bias.double()
    rest = (layer.stride, layer.padding, layer.dilation, layer.groups)
    right = F.conv3d(x.double(), work.weight.double(), bias, *rest)
    other = torch.randn(right.shape).contiguous(memory_format=LAST) if work.has_other else None
    right = right if other is None else right + other.double()
    right = right if work.activation is None else work.activation.plain(right)
    rounding = max(1e-4, 5e-6 * right.abs().max().item())  # of sums of thousands, of which one may be near 0
    made = {**ways.known(work, torch.float32), "public": lambda: ways._public(work, torch.float32)}
    for make in made.values():
        given_ = None if other is None else other.clone(memory_format=torch.preserve_format)
        answer = make()(x, given_, is_free)
        torch.testing.assert_close(answer.double(), right, atol=rounding, rtol=1e-4)
        assert is_free or other is None or torch.equal(given_, other)


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 5, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["none", "relu", "swish", "sum", "sum and relu"])
def test_pointwise_convolutions_are_products(size, dtype, name):
    layer = Layer(24, size, 5, (1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1), 1)
    weight, bias = torch.randn(5, 24, 1, 1, 1), torch.randn(5)
    x, other = torch.randn(2, 24, *size), torch.randn(2, 5, *size) if "sum" in name else None
    act = {"relu": Activation("relu", torch.relu), "swish": Activation("swish", F.silu)}.get(name.split()[-1])
    work = Convolution(layer, 2, weight, bias, act, other is not None)
    products = {way: make for way, make in ways.known(work, dtype).items() if way in ("product", "BLAS")}
    is_single = size == (1, 1, 1)
    assert ("product" not in products) == is_single and ("BLAS" in products) == (is_single or dtype == torch.float32)
    right = F.conv3d(x, weight, bias) + (0 if other is None else other)
    right = right if act is None else act.plain(right)
    for make in products.values():
        made = make()
        for frame in (x, x.contiguous(memory_format=LAST)):
            given_ = None if other is None else other.to(dtype)
            answer = made(frame.to(dtype), given_, True)
            assert answer.dtype == dtype and answer.is_contiguous(memory_format=LAST)
            tolerance = 1e-5 if dtype == torch.float32 else 5e-2
            torch.testing.assert_close(answer.float(), right, atol=tolerance, rtol=tolerance)
    shrinking = ways.known(replace(work, layer=replace(layer, stride=(1, 2, 2))), dtype)
    assert bool({"product", "BLAS"} & set(shrinking)) == is_single


@settings(max_examples=80, deadline=None)
@given(
    kernel=triples,
    stride=triples,
    dilation=st.tuples(*[st.integers(1, 2)] * 3),
    size=st.tuples(*[st.integers(5, 9)] * 3),
    pads=st.booleans(),
    is_ceil=st.booleans(),
)
def test_maxima_by_slices_are_those_of_torch(kernel, stride, dilation, size, pads, is_ceil):
    padding = tuple(k // 2 if pads else 0 for k in kernel)
    work = Pool((2, 3, *size), kernel, stride, padding, dilation, is_ceil)
    x = torch.randn(2, 3, *size)
    right = F.max_pool3d(x, kernel, stride, padding, dilation, is_ceil)
    assert torch.equal(ways._slices(work)(x, None, False), right)


@settings(max_examples=80, deadline=None)
@given(kernel=triples, stride=triples, size=st.tuples(*[st.integers(3, 9)] * 3), pads=st.booleans())
def test_means_by_slices_are_those_of_torch(kernel, stride, size, pads):
    padding = tuple(k // 2 if pads else 0 for k in kernel)
    work = Pool((2, 3, *size), kernel, stride, padding, (1, 1, 1), False, is_mean=True)
    x = torch.randn(2, 3, *size).contiguous(memory_format=LAST)
    right = F.avg_pool3d(x, kernel, stride, padding)
    given_ = x.clone()
    torch.testing.assert_close(ways._slices(work)(x, None, False), right)
    torch.testing.assert_close(ways._slices(work)(x.bfloat16(), None, False).float(), right, atol=2e-2, rtol=2e-2)
    assert torch.equal(x, given_)


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool3d((4, 3, 3), 1),
        nn.AvgPool3d((8, 9, 9), 1),
        nn.AvgPool3d(2),
        nn.AvgPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        nn.AvgPool3d(3, 2, 1, count_include_pad=False),
        nn.AvgPool3d(2, ceil_mode=True),
        nn.AvgPool3d(2, divisor_override=5),
    ],
)
def test_means_of_a_network(pool):
    net, x = nn.Sequential(nn.Conv3d(3, 8, 1), pool, nn.ReLU()).eval(), torch.randn(2, 3, 8, 9, 9)
    fast = optimize(net, x, seconds=0.0)
    torch.testing.assert_close(fast(x), net(x))
    half = optimize(net, x, dtype=torch.bfloat16)  # its ways are timed
    torch.testing.assert_close(half(x), net(x), atol=3e-2, rtol=3e-2)
    by_slices = "mean" in str(fast)
    assert ("mean" in str(half)) == by_slices and "as it is" not in str(half)
    assert by_slices == (pool.divisor_override is None and not pool.ceil_mode and pool.count_include_pad)


def test_private_operators_are_what_they_were():
    ops = torch.ops.mkldnn
    assert ways._has_fused()
    end = "int[] padding, int[] stride, int[] dilation, int groups, str"
    unary = "Scalar?[] scalars, str? algorithm) -> Tensor Y"
    binary = "binary_attr, Scalar? alpha, str? unary_attr, Scalar?[] unary_scalars, str? unary_algorithm) -> Tensor"
    assert {str(op._schema) for op in (
        ops._convolution_pointwise.default,
        ops._convolution_pointwise.binary,
        ops._convolution_pointwise_.binary,
        ops._reorder_convolution_weight.default,
        ops._linear_pointwise.default,
        ops._linear_pointwise.binary,
        ops._reorder_linear_weight.default,
    )} == {
        f"mkldnn::_convolution_pointwise(Tensor X, Tensor W, Tensor? B, {end} attr, {unary}",
        f"mkldnn::_convolution_pointwise.binary(Tensor X, Tensor other, Tensor W, Tensor? B, {end} {binary} Y",
        f"mkldnn::_convolution_pointwise_.binary(Tensor(a!) other, Tensor X, Tensor W, Tensor? B, {end} {binary}(a!) Y",
        "mkldnn::_reorder_convolution_weight(Tensor self, int[2] padding=0, int[2] stride=1, int[2] dilation=1, "
        "int groups=1, int[]? input_size=None) -> Tensor Y",
        f"mkldnn::_linear_pointwise(Tensor X, Tensor W, Tensor? B, str attr, {unary}",
        "mkldnn::_linear_pointwise.binary(Tensor X, Tensor other, Tensor W, Tensor? B, str attr) -> Tensor Y",
        "mkldnn::_reorder_linear_weight(Tensor self, int? batch_size=None) -> Tensor Y",
    }  # fmt: skip


# Graphs


class Every(nn.Module):
    """A layer of each kind, and what may be shared between steps."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(blocks.SamePad((3, 7, 7), (1, 2, 2)), nn.Conv3d(3, 12, (3, 7, 7), (1, 2, 2)))
        self.block = blocks.residual([blocks.conv2plus1d(12, 12), blocks.conv3d(12, 12)], 12)
        self.pool = nn.Sequential(blocks.SamePad(3, (1, 2, 2)), nn.MaxPool3d(3, (1, 2, 2)))
        self.left = blocks.conv_norm_act(12, 8, 1, act=nn.Hardswish)
        self.right = nn.Sequential(nn.MaxPool3d(3, 1, 1), blocks.conv_norm_act(12, 8, 3, act=nn.SiLU))
        self.gate = blocks.SqueezeExcite(16, 4)
        self.norms = nn.Sequential(
            nn.InstanceNorm3d(16, affine=True), nn.LeakyReLU(), nn.GroupNorm(4, 16), nn.BatchNorm3d(16)
        )
        self.up = nn.ConvTranspose3d(16, 6, (1, 2, 2), (1, 2, 2))
        self.dropout = nn.Dropout3d(0.5)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        x = self.pool(self.block(self.stem(x)))
        x = torch.cat((self.left(x), self.right(x)), 1)
        y = self.norms(self.gate(x))
        y = y + x  # x is read again, so that nothing may be written over it
        y = torch.relu(y) * y
        y = self.up(self.dropout(y))
        return self.fc(y.mean((2, 3, 4))), {"dense": y, "twice": [x, x.transpose(1, 2)]}


@torch.no_grad()
@pytest.mark.parametrize("size", [(4, 20, 20), (5, 23, 17)])
@pytest.mark.parametrize("is_private", [True, False])
def test_layers_of_every_kind(size, is_private, monkeypatch):
    monkeypatch.setattr(ways, "_has_fused", lambda: is_private)
    model = lively(Every())
    fast = optimize(model, torch.randn(1, 3, *size), seconds=0.0)
    assert len(fast._plans) == 1
    for x in (torch.randn(1, 3, *size), torch.randn(3, 3, *size)):
        before = x.clone()
        (logits, rest), (right, right_rest) = fast(x), model(x)
        assert torch.equal(x, before)
        assert_same(logits, right)
        assert_same(rest["dense"], right_rest["dense"])
        for one, two in zip(rest["twice"], right_rest["twice"], strict=True):
            assert_same(one, two)
    assert len(fast._plans) == 2


def works(model, x):
    return [step.work for step in capture(model.eval(), (x,)).steps]


def test_a_residual_step_is_two_calls_without_a_norm():
    model = lively(blocks.residual([blocks.conv3d(4, 4), blocks.conv3d(4, 4)], 4))
    first, second = works(model, torch.randn(1, 4, 3, 8, 8))
    assert first.activation.name == second.activation.name == "relu"
    assert (first.has_other, second.has_other) == (False, True)
    assert first.norm is not None and second.norm is not None


class Multiplied(nn.Module):
    """A residual branch times something."""

    def __init__(self, gain):
        super().__init__()
        self.branch, self.norm = nn.Conv3d(4, 4, 1), nn.BatchNorm3d(4)
        self.gain = nn.Parameter(gain) if isinstance(gain, torch.Tensor) else gain

    def forward(self, x):
        y = self.norm(self.branch(x))
        return x + (y * y if self.gain is None else self.gain * y)


@pytest.mark.parametrize(
    ("gain", "is_folded"),
    [
        (0.3, True),
        (torch.tensor(0.3), True),
        (torch.randn(4, 1, 1, 1), True),
        (torch.randn(1, 4, 1, 1, 1), True),
        (torch.randn(1, 1, 3, 1, 1), False),
        (torch.randn(4), False),
        (torch.tensor([1.0, torch.inf, -2.0, 0.5]).view(4, 1, 1, 1), False),
        (torch.nan, False),
        (None, False),
    ],
)
def test_what_a_convolution_is_multiplied_by_goes_into_its_weight(gain, is_folded):
    model, x = lively(Multiplied(gain)), torch.randn(1, 4, 3, 5, 4)
    work = works(model, x)[0]
    assert work.has_other == is_folded
    torch.testing.assert_close(optimize(model, x, seconds=0.0)(x), model(x), equal_nan=True, atol=1e-5, rtol=1e-4)


class Multiplying(nn.Module):
    """Factors that no convolution takes."""

    def __init__(self, change):
        super().__init__()
        self.conv, self.change = nn.Conv3d(4, 4, 1), change

    def forward(self, x):
        return self.change(self.conv(x))


@pytest.mark.parametrize(
    "change",
    [lambda y: y * 2j, lambda y: y * torch.ones((1,) * 6), lambda y: torch.view_as_complex(y.new_ones(6, 2)) * y.sum()],
)
def test_factors_of_other_kinds_are_steps_of_their_own(change, caplog):
    model, x = Multiplying(change).eval(), torch.randn(1, 4, 3, 5, 4)
    torch.testing.assert_close(optimize(model, x, seconds=0.0)(x), model(x))
    assert "as it is" not in caplog.text


def test_answers_share_no_memory():
    model, x = (
        Multiplying(lambda y: (y, torch.cat([y, y[:, :0]], 1), F.pad(y, (0, 0)))).eval(),
        torch.randn(1, 4, 3, 5, 4),
    )
    answers, expected = optimize(model, x, seconds=0.0)(x), model(x)
    for answer, right in zip(answers, expected, strict=True):
        torch.testing.assert_close(answer, right)
        answer.fill_(9.0)


def test_what_is_made_of_sizes_alone_is_worked_out_once():
    model, x = blocks.HalvingMean(), torch.randn(1, 4, 3, 5, 6)
    names = [step.node.name for step in capture(model, (x,)).steps]
    assert names.count("avg_pool2d") == 1 and "new_ones" not in names
    assert_same(optimize(model, x, seconds=0.0)(x), model(x))


def test_zeros_around_go_into_convolutions_and_maxima():
    model = nn.Sequential(
        nn.ConstantPad3d(1, 0.0),
        nn.Conv3d(3, 4, 3),
        nn.ReLU(),
        blocks.SamePad(3, (1, 2, 2)),
        nn.MaxPool3d(3, (1, 2, 2)),
    )
    conv, pool = works(model, torch.randn(1, 3, 4, 8, 8))
    assert conv.layer.padding == (1, 1, 1)
    assert (pool.padding, pool.is_ceil) == ((1, 0, 0), True)
    # what may be below 0 keeps its zeros, which are larger
    model = nn.Sequential(nn.Conv3d(3, 4, 3), blocks.SamePad(3, 1), nn.MaxPool3d(3, 1))
    assert len(works(model, torch.randn(1, 3, 4, 8, 8))) == 3


class Unchanging(nn.Module):
    """What changes nothing between two convolutions, or something, where `by` is 1."""

    def __init__(self, by=0):
        super().__init__()
        self.first, self.last, self.by = nn.Conv3d(3, 4, 1), nn.Conv3d(4, 4, 1), by

    def forward(self, x):
        x = self.first(x)
        x = torch.cat([x[:, :, :0], x, x.new_zeros(0)], 2)[:, :, self.by :].clone().float().to(x.device)
        x = F.pad(F.dropout(x, training=False), (0, 0, self.by, -self.by)).expand(-1, 4, -1, -1, -1).reshape(x.shape)
        return self.last(x.contiguous())


def test_what_changes_nothing_is_no_step():
    x = torch.randn(2, 3, 4, 5, 5)
    for by in (0, 1):
        model = Unchanging(by).eval()
        assert (len(capture(model, (x,)).steps) == 2) == (by == 0)
        torch.testing.assert_close(optimize(model, x, seconds=0.0)(x), model(x))


def test_values_are_forgotten_after_their_last_use():
    model = nn.Sequential(*[nn.Conv3d(3, 3, 1) for _ in range(6)])
    captured = capture(model, (torch.randn(1, 3, 2, 4, 4),))
    assert [len(step.frees) for step in captured.steps] == [0, 1, 1, 1, 1, 1]


@torch.no_grad()
def test_layers_that_write_to_their_input_answer_the_same():
    model = lively(
        nn.Sequential(
            nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8), nn.ReLU(inplace=True), nn.Conv3d(8, 4, 1), nn.SiLU(inplace=True)
        )
    )
    x = torch.randn(2, 3, 5, 9, 9)
    fast = optimize(model, x, seconds=0.0)
    assert_same(fast(x), model(x))
    assert len(fast._plans) == 1


def test_following_a_network_says_nothing():
    model = nn.Sequential(nn.Conv3d(3, 4, 3), nn.ReLU(inplace=True)).eval()
    with warnings.catch_warnings(action="error"):
        capture(model, (torch.randn(2, 3, 6, 12, 12),))


class Numbered(nn.Module):
    """A sum with the number of clips, and channels in an order that is kept among the weights."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 3)
        self.order = nn.Parameter(torch.tensor([2, 0, 1]), requires_grad=False)

    def forward(self, x):
        return (self.conv(x) + x.shape[0])[:, self.order]


@torch.no_grad()
def test_whole_numbers_are_followed():
    model = Numbered()
    fast = optimize(model, torch.randn(2, 3, 6, 12, 12), seconds=0.0)
    for batch in (2, 3):
        x = torch.randn(batch, 3, 6, 12, 12)
        assert_same(fast(x), model(x))
    model.order[0] = 3
    assert_same(fast(x), model(x))
    assert len(fast._plans) == 1


class Repeating(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.kept = nn.Conv3d(3, 4, 1), nn.Parameter(torch.ones(2))

    def forward(self, x):
        return x.clone(), self.kept * 2, self.conv(x)


def test_an_answer_is_memory_of_its_own():
    x = torch.randn(1, 3, 2, 4, 4)
    fast = optimize(Repeating(), x, seconds=0.0)
    assert len(fast._plans) == 1
    for answer in fast(x):
        answer.zero_()
    assert x.any()
    assert torch.equal(fast(x)[1], torch.full((2,), 2.0))


# The module


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return lively(tubelet.create("tiny", num_classes=4))


def test_the_network_stays_as_it_is():
    model = lively(tubelet.create("tiny", num_classes=4)).train()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(2, 3, 8, 32, 32)
    fast = optimize(model, x, seconds=0.0)
    answer = fast(x)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        assert_same(answer, model.eval()(x))
    assert not answer.requires_grad
    with pytest.raises(ValueError, match="does not train"):
        fast.train()


def test_it_follows_the_weights(tiny):
    model = copy.deepcopy(tiny)
    x = torch.randn(1, 3, 8, 32, 32)
    fast = optimize(model, x, seconds=0.0)
    fast(x)
    with torch.no_grad():
        next(model.parameters()).mul_(2)
        assert_same(fast(x), model(x))


@pytest.mark.parametrize("options", [{}, {"fused": True}])
def test_it_follows_an_optimizer(tiny, options):
    model = copy.deepcopy(tiny)
    x = torch.randn(1, 3, 8, 32, 32)
    fast = optimize(model, x, seconds=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, **options)
    model(x).sum().backward()
    optimizer.step()
    assert_same(fast(x), model(x).detach())


@pytest.mark.parametrize("change", ["double", "half", "bfloat16"])
def test_shared_weights_keep_their_type(tiny, change):
    fast = optimize(tiny, torch.randn(1, 3, 8, 32, 32), seconds=0.0)
    with pytest.raises(ValueError, match=r"an optimized network shares its weights, torch.float32 on cpu: bring the"):
        getattr(fast, change)()
    assert {x.dtype for x in tiny.parameters()} == {torch.float32}
    assert fast.float().to("cpu") is fast


def test_batches_are_free_and_only_some_sizes_are_kept(tiny):
    fast = optimize(tiny, torch.randn(2, 3, 8, 32, 32), seconds=0.0)
    for batch in (3, 5, 2):
        x = torch.randn(batch, 3, 8, 32, 32)
        assert_same(fast(x), tiny(x).detach())
        assert len(fast._plans) == 1
    for frames in range(9, 9 + PLANS):
        fast(torch.randn(1, 3, frames, 16, 16))
    assert len(fast._plans) == PLANS
    assert all("s" not in str(plan.graph.inputs[0].meta["val"].shape) for plan in fast._plans)


def test_copied_and_saved_it_answers_the_same(tiny, tmp_path):
    x = torch.randn(1, 3, 8, 32, 32)
    fast = optimize(tiny, x, seconds=0.0)
    right = fast(x)
    file = io.BytesIO()
    torch.save(fast, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), right)
    assert torch.equal(copy.deepcopy(fast)(x), right)
    again = tubelet.load(tubelet.save(fast.model, tmp_path / "model.safetensors"))
    assert torch.equal(optimize(again, x, seconds=0.0)(x), right)


def test_bad_input_is_refused_as_by_the_network(tiny):
    fast = optimize(tiny, torch.randn(1, 3, 8, 32, 32), seconds=0.0)
    with pytest.raises(ValueError, match=r"takes \(B, 3, T, H, W\)"):
        fast(torch.randn(1, 4, 8, 32, 32))


def test_inside_inference_mode_and_autocast(tiny):
    x = torch.randn(1, 3, 8, 32, 32)
    right = tiny(x).detach()
    with torch.inference_mode():
        fast = optimize(tiny, x.clone(), seconds=0.0)
        assert_same(fast(x), right)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(fast(torch.cat((x, x))), torch.cat((right, right)))


def test_bfloat16_answers_in_float32(tiny):
    x = torch.randn(2, 3, 8, 32, 32)
    fast = optimize(tiny, x, dtype=torch.bfloat16, seconds=0.0)
    assert_same(fast(x), tiny(x).detach(), within=5e-2)
    model = nn.Sequential(nn.Conv3d(3, 4, 3), nn.AvgPool3d(2), nn.Upsample(scale_factor=2)).eval()  # no kernel for all
    assert_same(optimize(model, x, dtype=torch.bfloat16, seconds=0.0)(x), model(x).detach(), within=5e-2)


class Normalising(nn.Module):
    """Brings its clips to a range by itself."""

    def __init__(self, normalise):
        super().__init__()
        self.normalise = normalise
        self.layers = nn.Sequential(nn.Conv3d(3, 8, 3), nn.ReLU(), nn.Conv3d(8, 4, 1))

    def forward(self, x):
        return self.layers(self.normalise(x))


@pytest.mark.parametrize(
    "normalise",
    [
        lambda x: x / 255,
        lambda x: torch.cat([x[:, :2] * 0.01, torch.zeros(x.shape[0], 1, *x.shape[2:])], 1),
        lambda x: torch.fft.rfftn((x / 255).float(), dim=(2, 3, 4)).abs(),
    ],
)
def test_bfloat16_where_torch_has_it_not(normalise, caplog):
    model, x = Normalising(normalise).eval(), torch.randint(0, 256, (2, 3, 4, 8, 8), dtype=torch.uint8)
    fast = optimize(model, x, dtype=torch.bfloat16, seconds=0.0)
    assert_same(fast(x), model(x).detach(), 0.03)
    assert "runs as it is" not in caplog.text


def test_prediction_takes_it(tiny):
    frames = torch.randint(0, 255, (3, 40, 60, 60), dtype=torch.uint8)
    spec = tiny.spec
    fast = optimize(tiny, torch.randn(1, 3, spec.num_frames, *spec.crop), seconds=0.0)
    scores, right = (tubelet.predict(model, frames).scores for model in (fast, tiny))
    torch.testing.assert_close(scores, right, atol=1e-5, rtol=0)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x + self.calls


@pytest.mark.parametrize("model", [Branching(), Counting(), nn.Conv3d(3, 2, 1).double()])
def test_what_cannot_be_followed_runs_as_it_is(model, caplog):
    dtype = next((each.dtype for each in model.parameters()), torch.float32)
    x = -torch.ones(1, 3, 2, 4, 4, dtype=dtype)
    with caplog.at_level(logging.WARNING, "tubelet"):
        fast = optimize(model, x)
    assert "as it is" in caplog.text
    assert "as it is" in str(fast)
    right = copy.deepcopy(fast.model)(x)
    assert torch.equal(fast(x), right)


class Remembering(nn.Module):
    """Answers by what it has seen before, which it keeps where torch.export does not look."""

    def __init__(self, kind):
        super().__init__()
        self.conv, self.kept = nn.Conv3d(3, 2, 1), kind()

    def forward(self, x):
        y = self.conv(x)
        if isinstance(self.kept, list):
            self.kept.append(0)
            return y * len(self.kept)
        before = self.kept.get("first", x)
        self.kept = {"first": before}
        return y - before.mean()


@torch.no_grad()
@pytest.mark.parametrize("kind", [list, dict])
def test_a_network_that_keeps_something_between_calls_runs_as_it_is(kind, caplog):
    model, random = Remembering(kind).eval(), torch.get_rng_state()
    fast = optimize(model, torch.zeros(1, 3, 2, 4, 4))
    assert "Remembering runs as it is: it keeps something from call to call" in caplog.messages
    assert torch.equal(torch.get_rng_state(), random) and model.kept == kind()
    for x in torch.randn(3, 1, 3, 2, 4, 4):
        assert torch.equal(fast(x), model(x))


class Noisy(nn.Module):
    """Random, by statistics of the clip, and keeps what its answers do not depend on."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv3d(3, 2, 1), nn.BatchNorm3d(2)

    def train(self, mode=True):
        return self

    def forward(self, x):
        self.last = F.dropout(self.norm(self.conv(x)), 0.5)
        return self.last


@torch.no_grad()
def test_a_trial_of_a_network_leaves_it_as_it_was(caplog):
    x, model = torch.randn(2, 3, 2, 4, 4), Noisy()
    before = copy.deepcopy(model.state_dict())
    optimize(model, x, seconds=0.0)
    assert "Noisy runs as it is: it writes to its inputs or buffers" in caplog.messages
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not hasattr(model, "last") and model.norm.training
    model.norm = nn.BatchNorm3d(2, track_running_stats=False)
    fast = optimize(model, x, seconds=0.0)
    assert fast.prepare(x) is not None and not torch.equal(fast(x), fast(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "tpu"}, "unknown backend 'tpu'; there are torch, auto, openvino, onnxruntime"),
        ({"dtype": torch.float16}, "dtype torch.float16 must be"),
        ({"seconds": -1}, "seconds -1 must be at least 0"),
        ({"example": "clip"}, r"example must be a clip \(B, C, T, H, W\)"),
    ],
)
def test_bad_arguments_are_named(tiny, arguments, message):
    with pytest.raises(ValueError, match=message):
        optimize(tiny, **{"example": torch.randn(1, 3, 8, 32, 32), **arguments})


# Choice


def test_what_was_timed_is_kept(tiny, tmp_path, monkeypatch):
    x = torch.randn(1, 3, 8, 32, 32)
    fast = optimize(tiny, x, seconds=5.0)
    assert "convolution" in str(fast)
    assert "1x3x3" in str(fast)
    (file,) = (tmp_path / "optimize").iterdir()
    choices = json.loads(file.read_text())
    assert all(choice["ms"] > 0 and choice["torch_ms"] > 0 for choice in choices.values())

    def refuse(*_):
        raise AssertionError("timed again")

    with monkeypatch.context() as context:
        context.setattr(ways, "_timed", refuse)
        assert torch.equal(optimize(tiny, x)(x), fast(x))
    file.write_text("{")
    optimize(tiny, x, seconds=0.0)
    assert file.read_text() == "{"  # nothing was timed
    changed = tmp_path / "ways.py"
    changed.write_bytes(Path(ways.__file__).read_bytes() + b"#")
    monkeypatch.setattr(ways, "__file__", str(changed))
    assert ways._file() != file  # another version of the library


def test_a_head_is_exchanged_and_the_network_saved(tmp_path):
    tiny, x = tubelet.create("tiny", num_classes=5).eval(), torch.randn(1, 3, 8, 32, 32)
    fast = optimize(tiny, x, seconds=0.0)
    assert torch.equal(tubelet.load(tubelet.save(fast, tmp_path / "fast.safetensors")).eval()(x), tiny(x))
    fast.head = tubelet.heads.PerFrame(tiny.channels[-1], 2)
    tiny.head = fast.head
    assert fast(x).shape == tiny.eval()(x).shape == (1, 2, 2)
    torch.testing.assert_close(fast(x), tiny(x), atol=1e-4, rtol=1e-4)
    fast.spec = replace(fast.spec, classes=("to", "fro"))
    again = tubelet.load(tubelet.save(fast, tmp_path / "fast.safetensors")).eval()
    assert torch.equal(again(x), tiny(x)) and again.spec.classes == ("to", "fro") != tiny.spec.classes
    with pytest.raises(ValueError, match=r"must be a network: `tubelet\.load"):
        optimize("runs/a", x)


def test_without_kernels_it_says_so_once(caplog, monkeypatch):
    monkeypatch.setattr(kernels, "available", lambda: False)
    monkeypatch.setattr(kernels, "why", lambda: "no C++ compiler was found in this test")
    net, x = nn.Sequential(nn.Conv3d(3, 8, 3, padding=1), nn.ReLU()).eval(), torch.randn(1, 3, 4, 9, 9)
    with caplog.at_level(logging.WARNING, "tubelet"):
        answers = [optimize(net, x)(x), optimize(net, x)(x)]
    assert caplog.text.count("through oneDNN: no C++ compiler was found in this test") == 1
    for each in answers:
        torch.testing.assert_close(each, net(x), atol=1e-4, rtol=1e-4)


def test_a_large_weight_is_not_made_larger_for_little():
    if not kernels.available():
        pytest.skip(kernels.why())
    layer = Layer(512, (1, 7, 7), 512, (1, 3, 3), (1, 1, 1), (0, 1, 1), (1, 1, 1), 1)
    work = Convolution(layer, 1, torch.randn(512, 512, 1, 3, 3), None)
    packed = kernels.pack(work.weight, padding=layer.padding)
    more = (packed.data.nbytes - work.weight.nbytes) / 2**20
    assert ways._price(work, "Winograd", 10.0) == pytest.approx(1 + more / ways.MEGABYTES)
    assert ways._price(work, "oneDNN", 10.0) == 0


def test_winograd_in_bfloat16():
    if not kernels.available():
        pytest.skip(kernels.why())
    layer = Layer(8, (3, 9, 9), 16, (1, 3, 3), (1, 1, 1), (0, 1, 1), (1, 1, 1), 1)
    x, other = torch.randn(2, 8, 3, 9, 9).bfloat16(), torch.randn(2, 16, 3, 9, 9).bfloat16()
    work = Convolution(layer, 2, torch.randn(16, 8, 1, 3, 3), torch.randn(16), Activation("relu", torch.relu), True)
    answer = ways.known(work, torch.bfloat16)["Winograd"]()(x, other, True)
    right = F.conv3d(x.double(), work.weight.double(), work.bias.double(), padding=layer.padding) + other.double()
    assert answer.dtype == torch.bfloat16
    torch.testing.assert_close(answer.double(), right.relu(), atol=1e-2, rtol=1e-2)


MEMORY = """
import re, sys, torch, tubelet
from pathlib import Path
from tubelet import optimize

def megabytes(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

torch.set_num_threads(1)
network, clip = tubelet.create("r2plus1d_18").eval(), torch.randn(1, 3, 16, 112, 112)
network = optimize(network, clip, seconds=0.0) if sys.argv[1] == "fast" else network
before = megabytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
with torch.no_grad():
    for _ in range(3):
        network(clip)
print(megabytes("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_answer_takes_less_memory_than_that_of_torch():
    """Beside the weights in their form, and what torch.export itself takes."""
    command = [sys.executable, "-c", MEMORY]
    fast, plain = (
        int(subprocess.run([*command, case], capture_output=True, text=True, check=True).stdout.split()[-1])
        for case in ("fast", "plain")
    )
    assert fast < 0.75 * plain


def test_a_way_that_is_wrong_is_not_taken(monkeypatch):
    layer = Layer(4, (2, 6, 6), 4, (1, 3, 3), (1, 1, 1), (0, 1, 1), (1, 1, 1), 1)
    work = Convolution(layer, 1, torch.randn(4, 4, 1, 3, 3), None)
    right = ways._public(work, torch.float32)
    made = {
        "slow": lambda: lambda *given_: torch.stack([right(*given_) for _ in range(30)])[0],
        "wrong": lambda: lambda *given_: right(*given_) + 1,
    }
    assert ways._timed(work, made, torch.float32).way == "slow"


def test_a_maximum_of_single_values_is_not_overwritten():
    x = torch.randn(1, 3, 2, 8, 8)
    before = x.clone()
    fast = optimize(torch.nn.Sequential(torch.nn.MaxPool3d(1, 1), torch.nn.Sigmoid()), x, seconds=0)
    for _ in range(2):
        assert torch.equal(fast(x), before.sigmoid())
    assert torch.equal(x, before)


def test_within_inference_a_new_size_is_prepared_too():
    model = torch.nn.Sequential(torch.nn.Conv3d(3, 16, 3, padding=1), torch.nn.GroupNorm(4, 16)).eval()
    fast = optimize(model, torch.randn(1, 3, 4, 16, 16), seconds=0)
    x = torch.randn(1, 3, 4, 12, 12)
    with speed.inference():
        answer = fast(x)
    assert fast.prepare(x) is not None
    assert torch.allclose(answer, model(x), atol=1e-4)


def test_the_sizes_used_last_are_kept():
    fast = optimize(torch.nn.Sequential(torch.nn.Conv3d(3, 4, 1)), torch.randn(1, 3, 1, 8, 8), seconds=0)
    main = torch.randn(1, 3, 1, 8, 8)
    plan = fast.prepare(main)
    for size in range(9, 15):
        fast(torch.randn(1, 3, 1, size, size))
        assert fast.prepare(main) is plan


# What must not be hidden, and threads


def test_what_is_no_number_is_not_hidden(tiny, caplog):
    x = torch.randn(1, 3, 8, 32, 32)
    fast = optimize(tiny, x, seconds=0.0)
    for value in (float("nan"), float("inf")):
        broken = x.clone()
        broken[0, 0, 0, 0, 0] = value
        assert fast(broken).isnan().all() and tiny(broken).isnan().all()
    assert fast(x).isfinite().all()
    diverged = tubelet.create("tiny", num_classes=5)
    next(diverged.parameters()).data[0] = float("nan")
    assert optimize(diverged, x, seconds=0.0)(x).isnan().all()
    assert "runs as it is: its weights are not finite" in caplog.text
    caplog.clear()
    for value in (float("nan"), float("-inf")):
        model = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.ReLU()).eval()
        model[1].running_mean[0] = value
        model.register_buffer("mask", torch.tensor([float("-inf"), 0.0]))  # as of attention
        assert torch.equal(optimize(model, x, seconds=0.0)(x).isfinite(), model(x).isfinite())
    assert caplog.text.count("its weights are not finite") == 1


@pytest.mark.parametrize("normalise", [lambda x: (x - x.mean()) / x.std(), lambda x: (x - 1).log()])
def test_what_becomes_no_number_within_is_not_hidden(normalise):
    model, x = Normalising(normalise).eval(), torch.rand(1, 3, 4, 8, 8) + 2
    fast = optimize(model, x, seconds=0.0)
    assert_same(fast(x), model(x).detach())
    assert fast(torch.ones_like(x)).isnan().all() and model(torch.ones_like(x)).isnan().all()


@pytest.mark.filterwarnings("ignore:var_mean")
@pytest.mark.parametrize("becomes", [
    lambda x: x.masked_fill(x.amax(1, keepdim=True) < 2, float("-inf")).softmax(1),
    lambda x: (200 / x - 50).exp() - (200 / x - 50).exp().mean(),
    lambda x: (x - 2).acosh(),
    lambda x: x.fmod(x - 1),
    lambda x: torch.var_mean(x[:, :, :1], 2, keepdim=True)[0] + x,  # of one value
])  # fmt: skip
def test_other_operators_that_make_no_number_within_hide_nothing(becomes):
    model, x = Normalising(becomes).eval(), torch.rand(1, 3, 4, 8, 8) + 3
    fast = optimize(model, x, seconds=0.0)
    assert fast.prepare(x) is not None
    assert model(torch.ones_like(x)).isnan().all() and fast(torch.ones_like(x)).isnan().all()


def test_a_network_that_keeps_what_it_computed_is_copied():
    class Keeping(nn.Sequential):
        def forward(self, x):
            self.last = super().forward(x)
            return self.last

    model, x = Keeping(nn.Conv3d(3, 4, 1), nn.Conv3d(4, 4, 1)).eval(), torch.randn(1, 3, 2, 4, 4)
    model(x).sum()
    assert_same(optimize(model, x, seconds=0.0)(x), model(x).detach())
    model.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"Keeping holds what cannot be copied \(cannot pickle"):
        optimize(model, x)


def test_threads_that_bring_new_sizes(tiny, caplog):
    fast = optimize(tiny, torch.randn(1, 3, 8, 32, 32), seconds=0.0)
    clips = [torch.randn(1, 3, 8, side, side) for side in (40, 48, 40, 56)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(fast, clips))
    for x, answer in zip(clips, answers, strict=True):
        torch.testing.assert_close(answer, tiny(x), atol=1e-4, rtol=1e-4)
    assert len(fast._plans) == 4 and "runs as it is" not in caplog.text


@torch.no_grad()
def test_no_clips_run_as_they_are_without_a_line(caplog):
    model, x = nn.Sequential(nn.Conv3d(3, 4, 3), nn.ReLU()).eval(), torch.randn(2, 3, 4, 8, 8)
    fast = optimize(model, x[:0])
    assert fast(x[:0]).shape == (0, 4, 2, 6, 6) and not caplog.text
    assert_same(fast(x), model(x))
    assert fast.prepare(x) is not None and fast.prepare(x[:0]) is None


class Two(nn.Module):
    def forward(self, x, y, scale=2.0):
        return x.mean((2, 3, 4)) - scale * y.mean((2, 3, 4))


def test_arguments_by_name_and_an_optimized_network_again(tiny):
    x, y = torch.randn(2, 1, 3, 8, 16, 16)
    torch.testing.assert_close(optimize(Two(), (x, y))(x, y=y), Two()(x, y))
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'y'"):
        optimize(Two(), (x, y))(x)
    again = optimize(optimize(tiny, x, seconds=0.0), x, seconds=0.0)
    torch.testing.assert_close(again(x), tiny(x), atol=1e-4, rtol=1e-4)
    assert type(again.model).__name__ == "Network"


@torch.no_grad()
def test_an_optimized_network_within_another_is_that_network(tiny):
    x = torch.randn(1, 3, 8, 32, 32)
    within = nn.Sequential(optimize(tiny, x, seconds=0.0), nn.Softmax(1)).eval()
    fast = optimize(within, x, seconds=0.0)
    assert fast.prepare(x) is not None and type(fast.model[0]).__name__ == "Network"
    assert next(fast.parameters()) is next(tiny.parameters())
    assert_same(fast(x), tiny(x).softmax(1))
    program = torch.export.export(within, (x,))
    assert_same(program.module()(x), tiny(x).softmax(1))
    stream = tubelet.Stream(nn.Sequential(within[0]))
    answers = torch.cat([stream(x), stream.flush()], 2)
    assert_same(answers[:, :, -1], tiny(x))


@pytest.mark.filterwarnings("ignore:`torch.jit")
@torch.no_grad()
def test_an_optimized_network_that_is_compiled_or_traced_stays_whole(caplog):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 3, padding=1)).eval()
    sizes = [torch.randn(2, 3, 4, 6, 6), torch.randn(3, 3, 5, 7, 8)]
    fast = optimize(model, sizes[0], seconds=0.0)
    for other in (torch.compile(fast, backend="eager"), torch.jit.trace(fast, sizes[0]), fast):
        for x in sizes:
            assert_same(other(x), model(x))
    assert all(map(fast.prepare, sizes)) and "runs as it is" not in caplog.text


@pytest.mark.filterwarnings("ignore:`torch.jit")
@torch.no_grad()
@pytest.mark.parametrize("make", [torch.jit.script, lambda net: nn.Sequential(torch.jit.script(net), Forked())])
def test_torchscript_runs_as_it_is_with_its_weights(make, caplog):
    x, net = torch.randn(2, 3, 4, 8, 8), make(nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4)))
    fast = optimize(net, x, seconds=0.0)
    assert net.training and "runs as it is" in caplog.text
    before = net.eval()(x)
    assert torch.equal(fast(x), before)
    for weight in net.parameters():
        weight.add_(1)
    assert torch.equal(fast(x), net(x)) and not torch.equal(net(x), before)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 1)

    def forward(self, x, boxes=None, mask=None, *, scale=1.0):
        y = self.conv(x) * scale
        return y if mask is None else y * mask


@torch.no_grad()
def test_arguments_that_a_plan_has_no_place_for_are_not_dropped():
    x, model = torch.randn(1, 3, 2, 4, 4), Masked()
    fast = optimize(model, x, seconds=0.0)
    mask = torch.zeros(1, 1, 2, 4, 4)
    assert torch.equal(fast(x, mask=mask), torch.zeros(1, 4, 2, 4, 4))
    torch.testing.assert_close(fast(x, scale=3.0), model(x, scale=3.0))
    torch.testing.assert_close(fast(x=x), model(x))
    for arguments in ((None,), (None, mask), ([2.0, None],)):
        torch.testing.assert_close(fast(x, *arguments), model(x, *arguments))
    torch.testing.assert_close(fast(x, boxes=None), model(x))
    with pytest.raises(TypeError, match="unexpected keyword argument 'masks'"):
        fast(x, masks=mask)


@torch.no_grad()
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0, 20.0, 25.0, 10.0, 12.0], "x2 and y2 must not be below x1 and y1"),
        ([1, 2.0, 2.0, 20.0, 20.0], "its clip must be one of 0 to 0"),
        ([0, 2.0, 2.0, float("nan"), 20.0], "its corners finite"),
    ],
)
def test_boxes_are_checked_as_by_the_network(tiny, row, message):
    model, x = copy.deepcopy(tiny), torch.randn(1, 3, 8, 32, 32)
    model.head = tubelet.heads.Detect(model.channels[-1], 3, model.strides[-1][1]).eval()
    right = torch.tensor([[0, 2.0, 3.0, 20.0, 30.0]])
    fast = optimize(model, (x, right), seconds=0.0)
    assert_same(fast(x, right), model(x, right))
    for network in (model, fast):
        with pytest.raises(ValueError, match=message):
            network(x, torch.tensor([row]))
    assert fast.prepare(x, right) is not None


class Pathways(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.head = model, model.head

    def forward(self, x, boxes):
        return self.model(x[1], boxes)


@torch.no_grad()
def test_boxes_of_two_pathways_are_of_as_many_clips(tiny):
    model, x = copy.deepcopy(tiny), torch.randn(3, 3, 8, 32, 32)
    model.head = tubelet.heads.Detect(model.channels[-1], 3, model.strides[-1][1]).eval()
    pathways, of_last = [x[:, :, ::4], x], torch.tensor([[2, 2.0, 3.0, 20.0, 30.0]])
    fast = optimize(Pathways(model), (pathways, of_last), seconds=0.0)
    assert_same(fast(pathways, of_last), model(x, of_last))
    with pytest.raises(ValueError, match="its clip must be one of 0 to 2"):
        fast(pathways, of_last + torch.tensor([1, 0, 0, 0, 0]))


class Gained(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 1)
        self.gain, self.scale = nn.Parameter(torch.ones(1)), 1.0

    def forward(self, x):
        return self.conv(x) * self.gain * self.scale


@torch.no_grad()
def test_what_is_replaced_through_it_is_seen():
    x, model = torch.randn(1, 3, 2, 4, 4), Gained()
    fast = optimize(model, x, seconds=0.0)
    right = model(x)
    fast.gain = nn.Parameter(torch.full((1,), 2.0))
    torch.testing.assert_close(fast(x), 2 * right)
    fast.scale = 3.0
    torch.testing.assert_close(fast(x), 6 * right)
    fast.load_state_dict({f"model.{name}": 2 * value for name, value in model.state_dict().items()}, assign=True)
    torch.testing.assert_close(fast(x), 12 * right)
    plan = fast.prepare(x)
    fast.spec = "any"  # what is not run
    assert plan is not None and fast.prepare(x) is plan
    torch.testing.assert_close(model(x), right)


@torch.no_grad()
def test_weights_that_others_take_the_place_of_are_seen():
    x, model = torch.randn(1, 3, 2, 4, 4), Gained()
    fast, right = optimize(model, x, seconds=0.0), model(x)
    twice = {"model.gain": torch.full((1,), 2.0)}
    torch.testing.assert_close(torch.func.functional_call(fast, twice, (x,)), 2 * right)
    torch.testing.assert_close(fast(x), right)
    fast.conv.weight, fast.conv.bias = (nn.Parameter(2 * each) for each in model.conv.parameters())
    torch.testing.assert_close(fast(x), 2 * right)


def test_a_copy_is_a_network_of_its_own(tiny):
    x = torch.randn(1, 3, 8, 32, 32)
    fast = optimize(tiny, x, seconds=0.0)
    right, other = fast(x), copy.copy(fast)
    other.head = tubelet.heads.Features()
    other.channels = ()
    assert torch.equal(fast(x), right) and type(fast.head) is type(tiny.head) and fast.channels == tiny.channels
    assert other(x).ndim == 5 and next(other.parameters()) is next(tiny.parameters())


def test_weights_written_to_while_others_answer_leave_no_old_plan():
    """What one thread finds and puts first, when another has thrown all plans away."""
    net = nn.Sequential(nn.Conv3d(3, 4, 1))
    small, large = torch.randn(1, 3, 1, 4, 4), torch.randn(1, 3, 1, 5, 5)
    fast = optimize(net, small, seconds=0.0)
    fast.prepare(large)
    old = fast._plans[1]

    class Writing:
        """A plan that fits when the weights have been written to, and a call of another thread has seen it."""

        def fits(self, tensors, given):
            if not done:
                done.append(True)
                with torch.no_grad():
                    net[0].weight.mul_(2)
                with ThreadPoolExecutor(1) as pool:
                    pool.submit(fast.prepare, large).result()
            return old.fits(tensors, given)

    done = []
    fast._plans[1] = Writing()
    fast.prepare(small)
    assert len(fast._plans) == 1  # that of the other thread
    with torch.no_grad():
        torch.testing.assert_close(fast(small), net(small))


class Forked(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_torch_does_not_tell_pages(capfd, caplog):
    optimize(Forked(), torch.ones(1, 3, 2, 4, 4))
    told = capfd.readouterr()
    assert "Forked runs as it is: " in caplog.text and "\n" not in caplog.messages[-1]
    assert not told.out and "def forward" not in told.err
