import re

import pytest
import torch

import tubelet
from tubelet.convert import recognise


def on_meta(name, **arguments):
    with torch.device("meta"):
        return tubelet.create(name, **arguments)


def caffe2_key(key):
    """PySlowFast's key -> the name of the same blob in Caffe2."""
    ends = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
    layer, _, end = key.rpartition(".")
    end = (ends if layer.endswith("bn") else {"weight": "w", "bias": "b"})[end]
    layer = re.sub(r"^s1\.pathway0_stem\.conv$", "conv1", layer)
    layer = re.sub(r"^s1\.pathway0_stem\.bn$", "res_conv1_bn", layer)
    layer = re.sub(r"^s1\.pathway1_stem\.conv$", "t_conv1", layer)
    layer = re.sub(r"^s1\.pathway1_stem\.bn$", "t_res_conv1_bn", layer)
    layer = re.sub(r"^s1_fuse\.conv_f2s$", "t_pool1_subsample", layer)
    layer = re.sub(r"^s1_fuse\.bn$", "t_pool1_subsample_bn", layer)
    last = {"2": 2, "3": 3, "4": 5, "5": 2}
    layer = re.sub(r"^s(\d)_fuse\.conv_f2s$", lambda m: f"t_res{m[1]}_{last[m[1]]}_branch2c_bn_subsample", layer)
    layer = re.sub(r"^s(\d)_fuse\.bn$", lambda m: f"t_res{m[1]}_{last[m[1]]}_branch2c_bn_subsample_bn", layer)
    layer = re.sub(r"^s(\d)\.pathway0_nonlocal(\d)\.(?:conv_)?(\w+)$", r"nonlocal_conv\1_\2_\3", layer)
    layer = re.sub(r"^s(\d)\.pathway0_res(\d+)\.branch1(_bn)?$", r"res\1_\2_branch1\3", layer)
    layer = re.sub(r"^s(\d)\.pathway0_res(\d+)\.branch2\.(\w+)$", r"res\1_\2_branch2\3", layer)
    layer = re.sub(r"^s(\d)\.pathway1_res(\d+)\.branch1(_bn)?$", r"t_res\1_\2_branch1\3", layer)
    layer = re.sub(r"^s(\d)\.pathway1_res(\d+)\.branch2\.(\w+)$", r"t_res\1_\2_branch2\3", layer)
    return f"{layer.replace('head.projection', 'pred')}_{end}"


def pyslowfast_key(key):
    """Our key of a Slow, I3D or C2D -> PySlowFast's."""
    key = re.sub(r"^stem\.conv", "s1.pathway0_stem.conv", key)
    key = re.sub(r"^stem\.norm", "s1.pathway0_stem.bn", key)
    key = re.sub(r"^stages\.(\d)\.nonlocal", lambda m: f"s{int(m[1]) + 2}.pathway0_nonlocal", key)
    key = re.sub(r"^stages\.(\d)\.", lambda m: f"s{int(m[1]) + 2}.pathway0_res", key)
    key = re.sub(r"(nonlocal\d)\.(theta|phi|g)\.", r"\1.conv_\2.", key)
    key = key.replace(".out.conv.", ".conv_out.").replace(".out.norm.", ".bn.")
    key = key.replace(".shortcut.conv", ".branch1").replace(".shortcut.norm", ".branch1_bn")
    key = re.sub(r"branch\.conv([123])", lambda m: f"branch2.{'abc'[int(m[1]) - 1]}", key)
    key = re.sub(r"branch\.norm([123])", lambda m: f"branch2.{'abc'[int(m[1]) - 1]}_bn", key)
    return key.replace("head.fc", "head.projection")


def foreign(model, rename):
    return {rename(key): value for key, value in model.state_dict().items() if "num_batches" not in key}


@pytest.mark.parametrize("in_caffe2", [False, True])
@pytest.mark.parametrize("name", ["slow_r50", "slow_r101", "slow_r50_nl", "i3d_r50", "i3d_r101_nl", "c2d_r50_nl"])
def test_a_checkpoint_of_pyslowfast_is_recognised_whatever_its_names(name, in_caffe2):
    model = on_meta(name, num_classes=17, in_channels=2)
    state = foreign(model, lambda key: caffe2_key(pyslowfast_key(key)) if in_caffe2 else pyslowfast_key(key))
    assert ("conv1_w" in state) is in_caffe2
    found, arguments = recognise(state)
    again = on_meta(found, **arguments)
    assert {key: value.shape for key, value in again.state_dict().items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }
    assert again.head.window == (0, 7, 7)  # of all frames, whichever number the file was trained with
    assert again.strides == model.strides
    modes = [
        [part.mode for part in net.modules() if isinstance(part, tubelet.blocks.Affinity)] for net in (again, model)
    ]
    assert modes[0] == modes[1]
    assert len(tubelet.convert(state, again)) == len(model.state_dict())


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("slow_r50", 32.454096),
        ("slow_r50_detection", 32.454096),
        ("c2d_r50", 24.327632),
        ("i3d_r50", 28.043472),
        ("i3d_r50_nl", 35.401936),
        ("ir_csn_101", 22.213776),
        ("ip_csn_152", 33.016592),
        ("ir_csn_152", 29.703568),
        ("r2plus1d_r50", 28.107600),
    ],
)
def test_published_sizes(name, millions):
    assert sum(p.numel() for p in on_meta(name).parameters()) == round(millions * 1e6)


def test_where_time_is_thinned():
    assert on_meta("slow_r50").strides == [(1, 4, 4), (1, 8, 8), (1, 16, 16), (1, 32, 32)]
    assert on_meta("i3d_r50").strides == [(1, 4, 4), (2, 8, 8), (2, 16, 16), (2, 32, 32)]
    assert on_meta("i3d_32x2_r50").strides[-1] == (8, 32, 32)
    assert on_meta("ir_csn_50").strides[-1] == (8, 32, 32)
    assert on_meta("slow_r50_detection").strides[-1] == (1, 16, 16)


@pytest.mark.parametrize("mode", ["gaussian", "embedded_gaussian", "scaled_gaussian", "dot_product", "concatenation"])
def test_non_local_modes_have_the_weights_they_need(mode):
    model = on_meta("i3d_r50_nl", non_local_mode=mode)
    names = {key.split(".")[3] for key in model.state_dict() if ".nonlocal" in key}
    assert ("theta" in names) is (mode != "gaussian")
    assert ("affinity" in names) is (mode == "concatenation")


def test_another_depth_or_mode_is_refused_with_the_known():
    with pytest.raises(ValueError, match=r"depth 34: known are 26, 50, 101, 152, 200"):
        on_meta("slow_r50", depth=34)
    with pytest.raises(ValueError, match=r"unknown non-local mode 'softmax'; known are gaussian, embedded_gaussian"):
        on_meta("i3d_r50_nl", non_local_mode="softmax")


def test_2d_names_that_two_networks_share_are_said(caplog):
    model = on_meta("c2d_r50", window=None, stem=(1, 1, 1, 0))
    state = {}
    for key, value in model.state_dict().items():
        key = re.sub(r"^stem\.conv", "backbone.conv1.conv", key)
        key = re.sub(r"^stem\.norm", "backbone.conv1.bn", key)
        key = re.sub(r"^stages\.(\d)", lambda m: f"backbone.layer{int(m[1]) + 1}", key)
        key = re.sub(r"branch\.conv(\d)", r"conv\1.conv", key)
        key = re.sub(r"branch\.norm(\d)", r"conv\1.bn", key)
        key = key.replace("shortcut.conv", "downsample.conv").replace("shortcut.norm", "downsample.bn")
        state[key.replace("head.fc", "cls_head.fc_cls")] = value.squeeze(2) if value.ndim == 5 else value
    name, arguments = recognise(state)
    assert name == "c2d_r50"
    assert "tsn_*" in caplog.text
    assert len(tubelet.convert(state, on_meta(name, **arguments))) == len(state)
