from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tubelet
from tubelet import blocks
from tubelet.blocks import Join, add, concat


def num_weights(module):
    return sum(p.numel() for name, p in module.named_parameters() if name.endswith("weight") and p.ndim == 5)


def test_join_merges():
    a, b, c = torch.rand(3, 1, 2, 4, 3, 3).unbind(0)
    torch.testing.assert_close(Join()(a, b, c), a + b + c)
    assert torch.equal(Join(concat)(a, b), torch.cat([a, b], 1))
    assert torch.equal(Join(lambda x, y: x * y)(a, b), a * b)
    assert torch.equal(Join()(a), a)


def test_join_names_what_it_does():
    assert repr(Join(concat)) == "Join(concat)"
    assert repr(Join(add)) == "Join(add)"


def test_join_of_other_lengths_names_them():
    a, b = torch.rand(1, 2, 4, 3, 3), torch.rand(1, 2, 5, 3, 3)
    with pytest.raises(ValueError, match=r"\[4, 4, 5\] frames"):
        Join()(a, a, b)
    with pytest.raises(ValueError, match=r"\[5, 4\] frames"):
        Join(concat)(b, a)


def test_triple():
    assert blocks.triple(3) == (3, 3, 3)
    assert blocks.triple([1, 2, 3]) == (1, 2, 3)
    with pytest.raises(ValueError, match="2"):
        blocks.triple((1, 2))


@pytest.mark.parametrize(
    ("width", "divisor", "rounded"),
    [
        (1, 8, 8),
        (11.9, 8, 16),
        (12, 8, 16),
        (17.5, 8, 16),
        (18, 8, 24),
        (19, 8, 24),
        (40, 8, 40),
        (43, 8, 40),
        (6, 4, 8),
    ],
)
def test_make_divisible_goes_to_the_nearest_but_not_far_down(width, divisor, rounded):
    assert blocks.make_divisible(width, divisor) == rounded


odd = st.sampled_from([1, 3, 5, 7])


@given(
    st.tuples(odd, odd, odd),
    st.tuples(*[st.integers(1, 3)] * 3),
    st.tuples(*[st.integers(1, 2)] * 3),
    st.tuples(*[st.integers(1, 9)] * 3),
)
def test_padding_keeps_the_size_and_a_stride_rounds_up(kernel, stride, dilation, size):
    conv = blocks.conv3d(1, 1, kernel, stride, dilation).to("meta")
    out = conv(torch.empty(1, 1, *size, device="meta"))
    assert tuple(out.shape[2:]) == tuple(-(-n // s) for n, s in zip(size, stride, strict=True))


def test_convolutions_have_no_bias_and_take_groups():
    conv = blocks.conv3d(4, 8, (1, 3, 3), groups=2)
    assert conv.bias is None
    assert conv.weight.shape == (8, 2, 1, 3, 3)


def test_conv_norm_act_is_the_three_in_order():
    block = blocks.conv_norm_act(2, 3, (1, 3, 3), (1, 2, 2)).eval()
    assert list(dict(block.named_children())) == ["conv", "norm", "act"]
    x = torch.randn(1, 2, 4, 6, 6)
    torch.testing.assert_close(block(x), block.norm(block.conv(x)).relu())
    assert block(x).shape == (1, 3, 4, 3, 3)
    assert (blocks.conv_norm_act(2, 3, act=nn.Identity)(x) < 0).any()
    assert isinstance(blocks.conv_norm_act(2, 3, norm=nn.InstanceNorm3d).norm, nn.InstanceNorm3d)


@pytest.mark.parametrize("in_channels", [64, 128, 256, 512])
@pytest.mark.parametrize("out_channels", [64, 128, 256, 512])
def test_matched_mid_channels_has_the_weights_of_a_full_convolution(in_channels, out_channels):
    factored = num_weights(blocks.conv2plus1d(in_channels, out_channels).to("meta"))
    full = num_weights(blocks.conv3d(in_channels, out_channels).to("meta"))
    assert 0.99 * full < factored <= full


@pytest.mark.parametrize(
    ("in_channels", "out_channels", "mid"), [(64, 64, 144), (64, 128, 230), (128, 128, 288), (512, 512, 1152)]
)
def test_matched_mid_channels_of_the_paper(in_channels, out_channels, mid):
    assert blocks.matched_mid_channels(in_channels, out_channels) == mid
    assert blocks.conv2plus1d(in_channels, out_channels).spatial.out_channels == mid


def test_conv2plus1d_is_space_then_time():
    block = blocks.conv2plus1d(2, 3, (2, 3, 1), mid_channels=5).eval()
    assert block.spatial.weight.shape == (5, 2, 1, 3, 3)
    assert block.temporal.weight.shape == (3, 5, 3, 1, 1)
    x = torch.randn(1, 2, 7, 7, 7)
    assert block(x).shape == (1, 3, 4, 3, 7)
    torch.testing.assert_close(block(x), block.temporal(block.norm(block.spatial(x)).relu()))


@pytest.mark.parametrize(
    ("in_channels", "out_channels", "stride", "is_projected"),
    [(4, 4, (1, 1, 1), False), (4, 6, (1, 1, 1), True), (4, 4, (1, 2, 2), True), (4, 4, (2, 1, 1), True)],
)
def test_a_shortcut_is_projected_where_the_shape_changes(in_channels, out_channels, stride, is_projected):
    conv1 = blocks.conv3d(in_channels, out_channels, 3, stride)
    block = blocks.residual((conv1, blocks.conv3d(out_channels, out_channels)), in_channels, stride)
    assert isinstance(block.shortcut, nn.Identity) is not is_projected
    x = torch.randn(2, in_channels, 5, 5, 5)
    block.eval()
    out = block(x)
    assert out.shape == (2, out_channels, *(-(-5 // s) for s in stride))
    torch.testing.assert_close(out, (block.branch(x) + block.shortcut(x)).relu())
    assert "act" not in dict(getattr(block.shortcut, "named_children", dict)()) or isinstance(
        block.shortcut.act, nn.Identity
    )


def test_total_strides_multiply():
    assert blocks.total_strides((1, 2, 2), [(1, 1, 1), (2, 2, 2), (1, 3, 1)]) == [(1, 2, 2), (2, 4, 4), (2, 12, 4)]


def test_init_weights():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(8, 64, 3), nn.BatchNorm3d(64), nn.Linear(64, 200))
    nn.init.constant_(network[1].weight, 5)
    blocks.init_weights(network)
    conv, norm, linear = network
    assert conv.weight.std().item() == pytest.approx((2 / (64 * 27)) ** 0.5, rel=0.03)
    assert linear.weight.std().item() == pytest.approx(0.01, rel=0.03)
    assert all((layer.bias == 0).all() for layer in network)
    assert (norm.weight == 1).all()


NORMS = [nn.BatchNorm3d, nn.SyncBatchNorm, partial(nn.GroupNorm, 2), blocks.ChannelNorm]


@pytest.mark.parametrize("norm", NORMS, ids=["batch", "sync", "group", "layer"])
def test_a_norm_is_passed_as_a_class(norm):
    stem = blocks.conv_norm_act(3, 4, (1, 3, 3), (1, 2, 2), norm=norm)
    convs = (blocks.conv2plus1d(4, 6, norm=norm), blocks.conv3d(6, 6, groups=2))
    network = nn.Sequential(
        stem,
        blocks.residual(convs, 4, norm=norm),
        blocks.depthwise_separable(6, 8, norm=norm),
    ).eval()
    blocks.init_weights(network)
    assert network(torch.rand(2, 3, 5, 6, 7)).shape == (2, 8, 5, 3, 4)


def test_channel_norm_is_a_layer_norm_at_each_place():
    torch.manual_seed(0)
    norm = blocks.ChannelNorm(6)
    nn.init.normal_(norm.norm.weight)
    nn.init.normal_(norm.norm.bias)
    x = torch.rand(2, 6, 3, 4, 5)
    weight, bias = (value.view(6, 1, 1, 1) for value in norm.parameters())
    spread = (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(norm(x), (x - x.mean(1, keepdim=True)) / spread * weight + bias)


def test_textbook_blocks_stream():
    torch.manual_seed(0)
    network = nn.Sequential(
        blocks.conv_norm_act(2, 4, 3, dilation=(2, 1, 1), norm=blocks.ChannelNorm),
        blocks.depthwise_separable(4, 6, stride=(2, 1, 1)),
        blocks.residual((blocks.conv3d(6, 6, groups=3), blocks.conv3d(6, 6, dilation=2)), 6),
    ).eval()
    x = torch.rand(1, 2, 11, 5, 5)
    stream = tubelet.Stream(network)
    outputs = [*(stream(frames) for frames in x.split(3, 2)), stream.flush()]
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(outputs, 2), network(x))


def test_a_scale_changes_nothing_at_first_and_lets_the_gradient_through():
    x = torch.rand(1, 2, 3, 4, 5, requires_grad=True)
    scaled = blocks.Scale()(x)
    assert torch.equal(scaled, x)
    scaled.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_depthwise_separable_is_each_channel_alone_then_all():
    block = blocks.depthwise_separable(4, 6, (3, 5, 5), (1, 2, 2)).eval()
    assert num_weights(block) == 4 * 75 + 4 * 6
    x = torch.rand(1, 4, 3, 6, 6)
    assert block(x).shape == (1, 6, 3, 3, 3)
    other = x.clone()
    other[:, 1:] += 1
    assert torch.equal(block.depthwise(x)[:, 0], block.depthwise(other)[:, 0])


def test_a_dilation_keeps_the_size():
    block = blocks.conv_norm_act(2, 3, 3, dilation=(1, 2, 4))
    assert block.conv.dilation == (1, 2, 4)
    assert block(torch.rand(1, 2, 4, 9, 9)).shape == (1, 3, 4, 9, 9)


@pytest.mark.parametrize("mode", ["nearest", "trilinear", "area"])
def test_resize_gives_the_size_that_is_asked_for(mode):
    resize = blocks.Resize(mode)
    x = torch.rand(1, 2, 3, 4, 5)
    assert resize(x, (7, 2, 5)).shape == (1, 2, 7, 2, 5)
    torch.testing.assert_close(resize(x, x.shape[2:]), x)
    assert repr(resize) == f"Resize({mode})"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_halving_mean_takes_every_precision(dtype):
    x = torch.arange(2 * 3 * 5 * 6.0).view(1, 2, 3, 5, 6)
    means = blocks.HalvingMean()(x.to(dtype))
    assert means.dtype == dtype
    torch.testing.assert_close(means.float(), blocks.HalvingMean()(x), rtol=2e-2, atol=0)


def test_the_halving_mean_of_no_frames_is_none():
    assert blocks.HalvingMean()(torch.zeros(1, 2, 0, 5, 6)).shape == (1, 2, 0, 3, 3)


def test_what_is_padded_alike_traces_to_short_sizes():
    """Sizes that are nested Max and Mod of one another took torch.export half an hour for i3d."""
    layers = [nn.Sequential(blocks.SamePad(3, 2), nn.MaxPool3d(3, 2)) for _ in range(5)]
    free = dict.fromkeys((2, 3, 4), torch.export.Dim.AUTO)
    traced = torch.export.export(nn.Sequential(*layers), (torch.zeros(1, 1, 96, 97, 98),), dynamic_shapes=(free,))
    sizes = [str(size) for size in traced.graph.find_nodes(op="output")[0].args[0][0].meta["val"].shape[2:]]
    assert all("Max" not in size and "Mod" not in size and size.count("s") == 1 for size in sizes), sizes
