import pytest
import torch

import tubelet


def on_meta(name, **arguments):
    with torch.device("meta"):
        return tubelet.create(name, **arguments)


@pytest.mark.parametrize(
    ("name", "millions"), [("x3d_xs", 3.794274), ("x3d_s", 3.794274), ("x3d_m", 3.794274), ("x3d_l", 6.153384)]
)
def test_published_sizes(name, millions):
    assert sum(p.numel() for p in on_meta(name).parameters()) == round(millions * 1e6)


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
