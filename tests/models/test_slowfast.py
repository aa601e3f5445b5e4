import re

import pytest
import torch

import tubelet
from tubelet.convert import recognise


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return tubelet.create("slowfast_r50", num_classes=3).eval()


def on_meta(name, **arguments):
    with torch.device("meta"):
        return tubelet.create(name, **arguments)


def facebook_key(key):
    """Our key -> PyTorchVideo's."""
    key = re.sub(r"^stem\.", "blocks.0.", key)
    key = re.sub(r"^stages\.(\d)\.", lambda m: f"blocks.{int(m[1]) + 1}.", key)
    key = re.sub(r"\.fuse\.conv\.", ".multipathway_fusion.conv_fast_to_slow.", key)
    key = re.sub(r"\.fuse\.norm\.", ".multipathway_fusion.norm.", key)
    for number, path in enumerate(("slow", "fast")):
        key = re.sub(rf"\.{path}\.(\d+)\.", rf".multipathway_blocks.{number}.res_blocks.\1.", key)
        key = key.replace(f".{path}.", f".multipathway_blocks.{number}.")
    key = key.replace("shortcut.", "branch1_")
    key = re.sub(r"branch\.(conv|norm)(\d)", lambda m: f"branch2.{m[1]}_{'abc'[int(m[2]) - 1]}", key)
    return key.replace("head.fc", "blocks.6.proj")


def test_the_slow_frames_are_spread_from_the_first_to_the_last(small):
    frames = torch.arange(32.0).view(1, 1, 32, 1, 1)
    assert small.pick(frames).flatten().tolist() == [0, 4, 8, 13, 17, 22, 26, 31]
    plain = on_meta("slowfast_4x16_r50", is_plain=True).pick
    assert plain(frames).flatten().tolist() == [0, 8, 16, 24]


def test_both_clips_or_the_fast_one_alone(small):
    fast = torch.randn(2, 3, 16, 40, 40)
    with torch.no_grad():
        assert torch.equal(small([small.pick(fast), fast]), small(fast))
        assert not torch.equal(small([fast[:, :, ::4], fast]), small(fast))


def test_frames_that_do_not_match_are_refused_with_the_ratio(small):
    fast = torch.zeros(1, 3, 16, 32, 32)
    with pytest.raises(ValueError, match=r"2 slow and 16 fast frames: .* alpha = 4 .*hint"):
        small([fast[:, :, :2], fast])
    with pytest.raises(ValueError, match=r"the clip has 15 frames; .* multiples of alpha = 4"):
        small(fast[:, :, :15])
    with pytest.raises(ValueError, match=r"takes .* T from 4"):
        small(fast[:, :, :2])


def test_the_head_takes_the_mean_of_both_pathways(small):
    x = torch.randn(1, 3, 8, 64, 64)
    with torch.no_grad():
        slow, fast = small.stem(small.pick(x), x)
        for stage in list(small.stages)[:-1]:
            slow, fast = stage(slow, fast)
        last = small.stages[-1]
        both = torch.cat([last.slow(slow).mean((2, 3, 4)), last.fast(fast).mean((2, 3, 4))], 1)
        torch.testing.assert_close(small(x), small.head.fc(both))


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("slowfast_r50", 34.566488),
        ("slowfast_4x16_r50", 34.480216),
        ("slowfast_r101", 62.826968),
        ("slowfast_16x8_r101_50_50", 53.774808),
        ("slowfast_r50_detection", 34.566488),
    ],
)
def test_published_sizes(name, millions):
    assert sum(p.numel() for p in on_meta(name).parameters()) == round(millions * 1e6)


@pytest.mark.parametrize("name", ["slowfast_r50", "slowfast_4x16_r50", "slowfast_r101", "slowfast_16x8_r101_50_50"])
def test_what_the_shapes_tell(name):
    model = on_meta(name, num_classes=9, in_channels=1)
    state = {facebook_key(key): value for key, value in model.state_dict().items()}
    found, arguments = recognise(state)
    again = on_meta(found, **arguments)
    assert (again.alpha, again.head.window) == (model.alpha, model.head.window)
    assert len(tubelet.convert(state, again)) == len(state)


def test_with_non_local_blocks_8x8_is_taken():
    # 4x16 has the same keys and shapes, and alpha is its hint
    model = on_meta("slowfast_r50_nl", fusion=5)
    state = model.state_dict()
    rules = (
        (r"^stem\.(slow|fast)\.", r"stages.-1.\1_stem."),
        (r"^stem\.fuse", "stages.-1.fuse"),
        (r"^stages\.(-?\d)\.", lambda m: f"s{int(m[1]) + 2}."),
        (r"^(s\d)\.fuse\.conv", r"\1_fuse.conv_f2s"),
        (r"^(s\d)\.fuse\.norm", r"\1_fuse.bn"),
        (r"\.slow[._](\d+)", r".pathway0_res\1"),
        (r"\.fast[._](\d+)", r".pathway1_res\1"),
        (r"\.slow[._]", ".pathway0_"),
        (r"\.fast[._]", ".pathway1_"),
        (r"_stem\.norm", "_stem.bn"),
        (r"shortcut\.conv", "branch1"),
        (r"shortcut\.norm", "branch1_bn"),
        (r"branch\.conv(\d)", lambda m: f"branch2.{'abc'[int(m[1]) - 1]}"),
        (r"branch\.norm(\d)", lambda m: f"branch2.{'abc'[int(m[1]) - 1]}_bn"),
        (r"(nonlocal\d)\.(theta|phi|g)\.", r"\1.conv_\2."),
        (r"(nonlocal\d)\.out\.conv", r"\1.conv_out"),
        (r"(nonlocal\d)\.out\.norm", r"\1.bn"),
        (r"^head\.fc", "head.projection"),
    )
    for pattern, replacement in rules:
        state = {re.sub(pattern, replacement, key): value for key, value in state.items()}
    found, arguments = recognise(state)
    assert on_meta(found, **arguments).alpha == 4
    assert len(tubelet.convert(state, on_meta(found, **arguments))) == len(state)
    assert on_meta(found, **(arguments | {"alpha": 8})).strides[0][0] == 8


def test_the_detectors_file_is_told_from_the_classifiers():
    model = on_meta("slowfast_r50_detection", num_classes=80)
    state = {
        f"model.{facebook_key(key)}".replace("model.blocks.6.proj", "detection_head.proj"): value
        for key, value in model.state_dict().items()
    }
    assert recognise(state)[0] == "slowfast_r50_detection"
    assert len(tubelet.convert(state, model)) == len(state)
