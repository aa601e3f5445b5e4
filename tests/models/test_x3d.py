import re

import pytest
import torch

import tubelet
from tubelet.convert import recognise


def on_meta(name, **arguments):
    with torch.device("meta"):
        return tubelet.create(name, **arguments)


@pytest.mark.parametrize(
    ("name", "millions"), [("x3d_xs", 3.794274), ("x3d_s", 3.794274), ("x3d_m", 3.794274), ("x3d_l", 6.153384)]
)
def test_published_sizes(name, millions):
    assert sum(p.numel() for p in on_meta(name).parameters()) == round(millions * 1e6)


def pyslowfast_key(key):
    """Our key -> PySlowFast's."""
    key = re.sub(r"^stages\.3\.conv5\.(conv|norm)", lambda m: f"head.conv_5{'_bn' if m[1] == 'norm' else ''}", key)
    key = re.sub(r"^stages\.(\d)\.(\d+)\.", lambda m: f"s{int(m[1]) + 2}.pathway0_res{m[2]}.", key)
    key = key.replace("shortcut.conv", "branch1").replace("shortcut.norm", "branch1_bn")
    key = re.sub(r"branch\.conv(\d)", lambda m: f"branch2.{'abc'[int(m[1]) - 1]}", key)
    key = re.sub(r"branch\.norm(\d)", lambda m: f"branch2.{'abc'[int(m[1]) - 1]}_bn", key)
    key = (
        key.replace("branch.gate", "branch2.se")
        .replace("head.hidden", "head.lin_5")
        .replace("head.fc", "head.projection")
    )
    for ours, theirs in (("space", "conv_xy"), ("time", "conv"), ("norm", "bn")):
        key = key.replace(f"stem.{ours}", f"s1.pathway0_stem.{theirs}")
    return key


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("x3d_s", {}),
        ("x3d_l", {"factor": 3.0}),
        ("x3d_xl", {"num_classes": 7, "in_channels": 1}),
        ("x3d_m", {"depths": [1, 1, 2, 1], "widths": [16, 16, 24, 48, 96], "hidden_channels": 512}),
    ],
)
def test_what_the_shapes_tell(name, arguments):
    model = on_meta(name, norms_all=True, **arguments)
    state = {pyslowfast_key(key): value for key, value in model.state_dict().items()}
    found, read = recognise(state)
    again = on_meta(found, **read)
    assert len(tubelet.convert(state, again)) == len(state)
    assert again.channels == model.channels


def test_which_of_the_small_ones_the_user_says(tmp_path, caplog):
    model = tubelet.create("x3d_m", num_classes=2)
    torch.save({pyslowfast_key(key): value for key, value in model.state_dict().items()}, tmp_path / "x3d.pyth")
    assert tubelet.create("x3d_xs", weights=tmp_path / "x3d.pyth").spec.num_frames == 4
    assert "WARNING" not in [each.levelname for each in caplog.records]


def test_every_other_block_has_a_gate():
    for stage, depth in zip(on_meta("x3d_l").stages, (5, 10, 25, 15), strict=True):
        gated = [hasattr(block.branch, "gate") for block in stage if isinstance(block, tubelet.blocks.Residual)]
        assert gated == [i % 2 == 0 for i in range(depth)]


def test_time_is_never_thinned():
    assert on_meta("x3d_m").strides == [(1, 4, 4), (1, 8, 8), (1, 16, 16), (1, 32, 32)]


@pytest.mark.parametrize(("norms_all", "more"), [(False, 0), (True, 48)])
def test_the_norm_of_a_shortcut_that_keeps_the_width(norms_all, more):
    model = on_meta("x3d_s", norms_all=norms_all)
    assert sum(p.numel() for p in model.parameters()) == 3_794_274 + more
    assert ("stages.0.0.shortcut.norm.weight" in model.state_dict()) is norms_all


def test_a_window_slides_over_maps_of_its_number_of_frames_alone():
    torch.manual_seed(0)
    head = tubelet.heads.MLP(4, 3, 8, windows=((4, 2, 2), (6, 3, 3))).eval()
    x = torch.randn(1, 4, 4, 3, 3)
    with torch.no_grad():
        places = [head(x[..., i : i + 2, j : j + 2]) for i in range(2) for j in range(2)]
        torch.testing.assert_close(head(x), torch.stack(places).mean(0))
        mean = head.fc(head.act(head.hidden(x[:, :, :3].mean((2, 3, 4)))))
        torch.testing.assert_close(head(x[:, :, :3]), mean)
