from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tubelet.data import transforms
from tubelet.data.transforms import resize_shape
from tubelet.spec import TORCHVISION, ClipSpec


def noise(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def grid(height, width, frames=2):
    """Frames whose two first channels are the row and the column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, rows * 0]).to(torch.uint8).unsqueeze(1).repeat(1, frames, 1, 1)


def place(crop):
    """Top and left of a crop of `grid`."""
    return int(crop[0, 0, 0, 0]), int(crop[1, 0, 0, 0])


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 1000))
def test_resize_shape_keeps_the_proportion(height, width, short):
    size = resize_shape(height, width, short)
    assert min(size) == short
    assert max(size) == int(Fraction(short * max(height, width), min(height, width)))
    assert (size[0] <= size[1]) if height <= width else (size[0] >= size[1])


def test_resize_shape_of_a_pair_or_nothing():
    assert resize_shape(10, 20, (3, 4)) == (3, 4)
    assert resize_shape(10, 20, None) == (10, 20)
    with pytest.raises(ValueError, match="at least 1"):
        resize_shape(10, 20, (3, 0))


@pytest.mark.parametrize(("size", "expected"), [(10, (10, 15)), ((8, 30), (8, 30)), (None, (20, 30)), (20, (20, 30))])
def test_resize_of_a_clip(size, expected):
    clip = noise(3, 4, 20, 30)
    resized = transforms.resize(clip, size)
    assert resized.shape == (3, 4, *expected)
    assert resized.dtype == torch.uint8
    for t in range(4):
        assert torch.equal(resized[:, t : t + 1], transforms.resize(clip[:, t : t + 1], size))


def test_resize_averages_instead_of_picking():
    stripes = torch.zeros(3, 1, 8, 64, dtype=torch.uint8)
    stripes[..., ::2] = 200
    assert (transforms.resize(stripes, (8, 16)).float()[..., 2:-2] - 100).abs().max() <= 2


@pytest.mark.parametrize(("size", "expected"), [((4, 6), (8, 7)), ((20, 20), (0, 0)), ((19, 19), (0, 0)), (None, None)])
def test_center_crop(size, expected):
    clip = grid(20, 20)
    crop = transforms.center_crop(clip, size)
    assert crop.shape[-2:] == (size or (20, 20))
    assert place(crop) == (expected or (0, 0))


def test_random_crops_reach_every_place():
    clip, generator = grid(7, 8), torch.Generator().manual_seed(0)
    places = {place(transforms.random_crop(clip, (5, 6), generator)) for _ in range(300)}
    assert places == {(top, left) for top in range(3) for left in range(3)}
    assert transforms.random_crop(clip, None, generator) is clip


@pytest.mark.parametrize("max_shift", [0, 1, 2, 9])
def test_random_crops_keep_within_their_shift(max_shift):
    clip, generator = grid(10, 14), torch.Generator().manual_seed(0)
    places = {place(transforms.random_crop(clip, (6, 12), generator, max_shift)) for _ in range(300)}
    tops = range(max(0, 2 - max_shift), min(4, 2 + max_shift) + 1)
    lefts = range(max(0, 1 - max_shift), min(2, 1 + max_shift) + 1)
    assert places == {(top, left) for top in tops for left in lefts}


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(12, 30, [(1, 0), (1, 10), (1, 20)]), (31, 12, [(0, 1), (10, 1), (21, 1)]), (10, 10, [(0, 0)] * 3)],
)
def test_three_crops_cover_both_ends_of_the_longer_side(height, width, expected):
    crops = transforms.spread_crops(grid(height, width), (10, 10), 3)
    assert [tuple(crop.shape) for crop in crops] == [(3, 2, 10, 10)] * 3
    assert [place(crop) for crop in crops] == expected


def test_spread_crops_of_one_or_no_size_are_the_centre():
    clip = grid(12, 30)
    assert place(*transforms.spread_crops(clip, (10, 10), 1)) == (1, 10)
    assert all(crop is clip for crop in transforms.spread_crops(clip, None, 3))


@pytest.mark.parametrize("size", [(21, 5), (5, 31), (0, 5)])
def test_a_crop_that_does_not_fit_names_both_sizes(size):
    clip = noise(3, 2, 20, 30)
    for crop in (
        lambda: transforms.center_crop(clip, size),
        lambda: transforms.random_crop(clip, size, torch.Generator()),
        lambda: transforms.spread_crops(clip, size, 3),
    ):
        with pytest.raises(ValueError, match=rf"crop {size[0]}x{size[1]} .* 20x30 \(height x width\)"):
            crop()


@pytest.mark.parametrize("seed", range(5))
def test_every_frame_of_a_clip_changes_alike(seed):
    still = noise(3, 1, 20, 30).expand(3, 6, 20, 30)
    cropped = transforms.random_crop(still, (9, 9), torch.Generator().manual_seed(seed))
    jittered = transforms.color_jitter(still, 0.5, torch.Generator().manual_seed(seed))
    for clip in (cropped, jittered, transforms.flip(still), transforms.resize(still, 12)):
        assert clip.dtype == torch.uint8
        assert (clip == clip[:, :1]).all()


def test_flip_mirrors_left_and_right():
    clip = grid(4, 6)
    assert transforms.flip(clip)[1, 0, 0].tolist() == [5, 4, 3, 2, 1, 0]
    assert torch.equal(transforms.flip(clip)[0], clip[0])
    assert torch.equal(transforms.flip(transforms.flip(clip)), clip)


def test_color_jitter_keeps_order_and_stays_within_its_strength():
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    means = []
    for seed in range(50):
        changed = transforms.color_jitter(ramp, 0.3, torch.Generator().manual_seed(seed)).flatten().int()
        assert (changed.diff() >= 0).all()
        means.append(float(changed.float().mean()))
    assert 0.69 * 127.5 < min(means) < 0.8 * 127.5
    assert 1.2 * 127.5 < max(means) < 1.31 * 127.5
    assert torch.equal(transforms.color_jitter(ramp, 0.0, torch.Generator()), ramp)


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (2, 3, 4, 5, 6)])
@pytest.mark.parametrize("spec", [ClipSpec(), TORCHVISION, ClipSpec(mean=(0, 0.5, 1), std=(1, 0.5, 0.1))])
def test_normalize_is_its_definition(spec, shape):
    clip = noise(*shape)
    before = clip.clone()
    mean, std = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1) for values in (spec.mean, spec.std))
    expected = (clip.double() / 255 - mean) / std
    result = transforms.normalize(clip, spec.mean, spec.std)
    assert result.dtype == torch.float32
    assert ((result - expected).abs() <= 1e-6 * expected.abs().clamp(min=1)).all()
    assert torch.equal(clip, before)
