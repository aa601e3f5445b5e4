import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tubelet.data.distort import RECIPES, Distort, Distortion

WINDOW = (12, 16, 14)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def offsets(size):
    """Distance of each voxel from the middle along each axis, (3, D, H, W)."""
    return torch.stack(torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in size), indexing="ij"))


def blob(size, seed=0):
    return torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(seed).random(size), 2)).float()


sizes = st.tuples(*[st.integers(1, 9)] * 3)
spacings = st.tuples(*[st.sampled_from((0.5, 1.0, 2.5))] * 3)


@settings(max_examples=60, deadline=None)
@given(sizes, spacings, st.integers(0, 10**6))
def test_each_voxel_is_read_where_the_matrix_says(window, spacing, seed):
    distort = Distort(rotate=(1, -180, 180), scale=(1, 0.5, 2))
    change = distort.draw(window, spacing, generator(seed))
    slope = torch.tensor([0.3, -0.7, 1.1])
    ramp = (offsets(change.reach) * slope[:, None, None, None]).sum(0, keepdim=True)
    found, _ = change.apply(ramp)
    wanted = torch.einsum("i,ij,jdhw->dhw", slope, torch.tensor(change.matrix).reshape(3, 3), offsets(window))
    # a ramp is exact under linear interpolation, unless it is read beyond what `reach` asked for
    torch.testing.assert_close(found[0], wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (2, 1, 0.8)])
def test_turning_keeps_lengths_in_millimetres_and_scale_changes_them(spacing):
    mm = torch.diag(torch.tensor(spacing, dtype=torch.float64))
    for seed in range(10):
        change = Distort(rotate=(1, -40, 40), scale=(1, 2, 2)).draw(WINDOW, spacing, generator(seed))
        turned = mm @ torch.tensor(change.matrix, dtype=torch.float64).reshape(3, 3) @ mm.inverse()
        torch.testing.assert_close(turned @ turned.T, torch.eye(3, dtype=torch.float64) / 4)


def test_image_and_mask_are_those_of_scipy():
    change = Distort(rotate=(1, -40, 40), scale=(1, 0.8, 1.3)).draw(WINDOW, None, generator(3))
    image, other = blob(change.reach), blob(change.reach, 1)
    mask = torch.bucketize(other, other.quantile(torch.tensor([0.3, 0.6]))).to(torch.uint8)
    matrix = np.array(change.matrix).reshape(3, 3)
    start = (np.array(change.reach) - 1) / 2 - matrix @ ((np.array(WINDOW) - 1) / 2)
    found, labels = change.apply(image[None], mask)
    wanted = ndimage.affine_transform(image.numpy(), matrix, start, WINDOW, order=1, mode="nearest")
    np.testing.assert_allclose(found[0].numpy(), wanted, atol=1e-5)
    shares = [
        ndimage.affine_transform((mask.numpy() == k).astype("f4"), matrix, start, WINDOW, order=1, mode="nearest")
        for k in range(3)
    ]
    assert len(mask.unique()) == 3 and labels.dtype == torch.uint8
    assert (labels.numpy() != np.argmax(shares, 0)).mean() < 0.001  # two classes with the same share


def test_elastic_moves_image_and_mask_alike_and_no_farther_than_it_says():
    change = Distort(elastic=(1, 2, 2)).draw((24, 24, 24), (2, 1, 1), generator())
    assert change.elastic == (1, 2, 2)
    axes = offsets(change.reach)
    for axis, limit in enumerate(change.elastic):
        moved, _ = change.apply(axes[axis][None])
        far = (moved[0] - offsets((24, 24, 24))[axis]).abs().max()
        assert 0.3 * limit < far <= limit + 1e-4
    mask = (blob(change.reach) > 0.5).to(torch.uint8)
    image, labels = change.apply(mask[None].float(), mask)
    is_sure = (image[0] - 0.5).abs() > 0.49
    assert is_sure.float().mean() > 0.3
    assert torch.equal(labels[is_sure].bool(), image[0][is_sure] > 0.5)


def test_flip_mirrors_both_along_the_axes():
    image, mask = torch.rand(2, *WINDOW), torch.randint(3, WINDOW)
    found, labels = Distortion(WINDOW, flip=(0, 2)).apply(image, mask)
    assert torch.equal(found, image.flip(1, 3))
    assert torch.equal(labels, mask.flip(0, 2))
    drawn = [Distort(flip=(0, 2)).draw(WINDOW, None, generator(seed)).flip for seed in range(40)]
    assert set(drawn) == {(), (0,), (2,), (0, 2)}


def test_values_are_changed_as_told_and_the_mask_is_not():
    image, mask = blob((20, 24, 22))[None] * 3 - 1, torch.randint(3, (20, 24, 22))

    def changed(**change):
        found, labels = Distortion((20, 24, 22), seed=5, **change).apply(image, mask)
        assert torch.equal(labels, mask)
        assert found.shape == image.shape
        assert type(found) is torch.Tensor
        assert found.dtype == torch.float32
        return found

    noise = changed(noise=0.5) - image
    assert abs(float(noise.std() / image.std()) - 0.5) < 0.03
    assert abs(float(noise.mean())) < 0.05 * image.std()
    torch.testing.assert_close(changed(brightness=1.2), image * 1.2)
    contrasted = changed(contrast=1.5)
    assert contrasted.min() >= image.min()
    middle = (image - image.mean()).abs() < 0.3 * image.std()
    torch.testing.assert_close((contrasted - image.mean())[middle], 1.5 * (image - image.mean())[middle])
    ratio = changed(bias=0.2) / image
    assert 0.01 < ratio.log().std() < 1
    assert ratio.diff(dim=1).abs().max() < 0.5  # smooth
    assert changed(low_resolution=0.5).diff(dim=1).abs().mean() < image.diff(dim=1).abs().mean()
    for is_negative in (False, True):
        gamma = changed(gamma=1.4, is_negative=is_negative)
        torch.testing.assert_close(gamma.mean(), image.mean())
        torch.testing.assert_close(gamma.std(), image.std())
        assert torch.equal(gamma.flatten().argsort()[:5], image.flatten().argsort()[:5])


@pytest.mark.parametrize("size", [(31, 37, 41), (40, 56, 48)])  # the nearest voxel of an even share is a half off
@pytest.mark.parametrize("share", [0.5, 0.6, 0.75, 0.9])
def test_low_resolution_leaves_the_image_where_its_mask_is(share, size):
    for axis, ramp in enumerate(offsets(size)):
        found, _ = Distortion(size, low_resolution=share).apply(ramp[None])
        off = (found[0] - ramp)[4:-4, 4:-4, 4:-4]  # away from the edges, beyond which nothing is read
        assert off.mean().abs() < 0.02, axis


def test_blur_is_a_gaussian_of_its_sigma():
    image = torch.zeros(1, 15, 15, 15)
    image[0, 7, 7, 7] = 1
    found, _ = Distortion((15, 15, 15), blur=0.8).apply(image)
    assert abs(float(found.sum()) - 1) < 0.01
    for axis in offsets((15, 15, 15)):
        variance = float((found[0] * axis**2).sum())
        assert 0.8**2 - 0.02 < variance < 0.8**2 + 1 / 12 + 0.01  # of the Gaussian, or averaged over each voxel


@pytest.mark.parametrize("name", RECIPES)
def test_a_window_is_the_same_for_the_same_seed(name):
    seen = []
    for seed in (*range(12), *range(12)):
        change = RECIPES[name].draw(WINDOW, None, generator(seed))
        image, mask = blob(change.reach)[None], torch.randint(3, change.reach, generator=generator(1))
        seen.append(change.apply(image, mask))
        assert seen[-1][0].shape == (1, *WINDOW)
        assert seen[-1][1].shape == WINDOW
        assert seen[-1][0].isfinite().all()
    for one, two in zip(seen[:12], seen[12:], strict=True):
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])
    num_different = len({float(image.sum()) for image, _ in seen})
    assert num_different == 1 if name == "none" else num_different > 6


def test_thick_slices_are_turned_within_themselves_alone():
    distort = Distort(rotate=(1, 20, 20), elastic=(1, 3, 3))
    for window, spacing in ((WINDOW, (5, 1, 1)), ((1, 16, 16), None)):
        change = distort.draw(window, spacing, generator())
        cos, sin = math.cos(math.radians(20)), math.sin(math.radians(20))
        np.testing.assert_allclose(change.matrix, (1, 0, 0, 0, cos, -sin, 0, sin, cos), atol=1e-12)
        assert change.elastic == (0, 3, 3)
        assert change.reach[0] == window[0]


def test_probabilities_are_kept():
    drawn = [Distort(gamma=(0.25, 0.5, 0.9)).draw(WINDOW, None, generator(seed)).gamma for seed in range(2000)]
    happened = [value for value in drawn if value != 1]
    assert 0.2 < len(happened) / 2000 < 0.3
    assert 0.5 <= min(happened) < 0.55
    assert 0.85 < max(happened) <= 0.9


def test_weakened_changes_come_as_often_and_do_less():
    varied = RECIPES["varied"]
    assert Distort().weakened(0.5) == Distort() and varied.weakened(1) == varied
    half = varied.weakened(0.5)
    assert half.rotate == (0.5, -15, 15) and half.scale == pytest.approx((0.5, 0.85, 1.2))
    assert half.elastic == (0.1, 0, 2) and half.blur == (0.1, 0.25, 0.5) and half.noise == (0.1, 0, 0.15)
    assert half.low_resolution == (0.25, 0.75, 1) and half.gamma == pytest.approx((0.4, 0.85, 1.25))
    image = torch.rand(1, *WINDOW)
    for seed in range(20):
        change = varied.weakened(0).draw(WINDOW, (2, 1, 1), generator(seed))
        expected = image.flip([axis + 1 for axis in change.flip])
        torch.testing.assert_close(change.apply(image)[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"rotate": (2, 0, 10)}, "rotate"),
        ({"scale": (0.5, 1.2, 0.8)}, "scale"),
        ({"scale": (0.5, 0, 1)}, "0.25"),
        ({"noise": (0.5, -1, 1)}, "noise"),
        ({"gamma": (0.5, 1)}, "gamma"),
        ({"flip": (3,)}, "flip"),
        ({"flip": (1, 1)}, "flip"),
    ],
)
def test_values_out_of_range_are_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        Distort(**wrong)


def test_a_window_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 3, 3\) voxels"):
        Distortion(WINDOW).apply(torch.zeros(1, 3, 3, 3))
