"""Scans to the space of a network and back: against ITK's own resampling, numbers worked by hand, and round trips."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("SimpleITK")

import SimpleITK as sitk  # noqa: N813

from tubelet.data import itk
from tubelet.data.volume import (
    Grid,
    Volume,
    VolumeError,
    cleaned,
    oriented,
    prepared,
    prepared_part,
    read_volume,
    resampled,
    resampled_grid,
    restored,
    restored_scores,
)
from tubelet.spec import ClipSpec, Intensity

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
ORIENTATIONS = [
    "".join(p) for letters in itertools.product("RL", "AP", "SI") for p in itertools.permutations(letters)
]  # fmt: skip


def smooth(grid: Grid, num_channels: int = 1) -> Volume:
    """Grey levels 0 to 255 that vary slowly over the place in the body, never faster than 30 voxels a wave."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.size), indexing="ij"), -1)
    waves = [np.sin(2 * np.pi * index[..., k] / 30 + k) for k in range(3)]
    array = np.stack([127.5 + 42 * sum(waves) / (1 + channel) for channel in range(num_channels)])
    return Volume(array.astype(np.float32), grid, Path("smooth"))


def spec_of(**changes) -> ClipSpec:
    return ClipSpec(num_frames=16, crop=(16, 16), mean=(0.0,), std=(1.0,), **changes)


@st.composite
def grids(draw):
    size = tuple(draw(st.integers(1, 24)) for _ in range(3))
    spacing = tuple(draw(st.floats(0.3, 5)) for _ in range(3))
    origin = tuple(draw(st.floats(-300, 300)) for _ in range(3))
    angles = [draw(st.floats(-3, 3)) for _ in range(3)]
    direction = np.array(sitk.Euler3DTransform((0, 0, 0), *angles).GetMatrix()).reshape(3, 3)
    order, signs = draw(st.permutations(range(3))), draw(st.tuples(*[st.sampled_from((1, -1))] * 3))
    return Grid(size, spacing, origin, tuple(map(float, (direction[:, order] * signs).ravel())))


@given(grids(), st.sampled_from(ORIENTATIONS), st.sampled_from(ORIENTATIONS))
@settings(max_examples=30, deadline=None)
def test_turning_keeps_every_voxel_in_its_place(grid, first, second):
    volume = Volume(np.arange(np.prod(grid.size)).reshape(1, *grid.size), grid, Path("a"))
    for letters in (first, second):
        turned = oriented(volume, letters)
        assert turned.grid.orientation == letters and turned.array.shape[1:] == turned.grid.size
        for index in itertools.product(*((0, n - 1) for n in turned.grid.size)):
            d, h, w = np.unravel_index(turned.array[0][index], grid.size)
            assert np.allclose(turned.affine @ (*index, 1), grid.affine @ (d, h, w, 1), atol=1e-9)
        volume = dataclasses.replace(turned)
    back = oriented(volume, grid.orientation)
    assert np.array_equal(back.array[0].ravel(), np.arange(back.array.size))
    assert np.allclose(back.affine, grid.affine, atol=1e-9)


@given(grids(), st.tuples(*[st.floats(0.3, 3)] * 3), st.data())
@settings(max_examples=30, deadline=None)
def test_a_part_is_what_the_whole_has_there(grid, ratio, data):
    size = [data.draw(st.sampled_from((1, 5, 40, 90))) for _ in range(3)]
    grid = dataclasses.replace(grid, size=tuple(size))
    array = np.random.default_rng(0).normal(0, 100, (1, *grid.size)).astype(np.float32)
    volume = Volume(array, grid, Path("a"))
    spacing = tuple(a * b for a, b in zip(grid.spacing_mm, ratio, strict=True))
    spec = spec_of(intensity=Intensity("window", -200, 200), spacing_mm=spacing)
    whole = prepared(volume, spec)
    wanted = resampled_grid(grid, spacing)
    assert wanted == whole.grid
    starts = [data.draw(st.integers(0, n - 1)) for n in wanted.size]
    part = tuple(slice(a, data.draw(st.integers(a + 1, n))) for a, n in zip(starts, wanted.size, strict=True))
    here = prepared_part(volume, spec, wanted, (slice(None), *part))
    assert here.dtype == np.float32
    np.testing.assert_allclose(here, whole.array[(slice(None), *part)], atol=2e-5)


def test_cosines_that_are_almost_nothing():
    cos, sin = 0.5403023058681398, 0.8414709848078965
    first = (1.0, -1.2022125364783e-311, 1.8723350909884e-311)
    grid = Grid((1, 1, 1), (1.015625, 5.0, 1.0), direction=(*first, 2.225073858507e-311, cos, -sin, 0.0, sin, cos))
    turned = oriented(smooth(grid), "RAS")
    assert restored(np.full((1, 1, 1), 5, np.uint8), turned.grid, grid).item() == 5


def test_an_orientation_that_is_none():
    with pytest.raises(ValueError, match="orientation 'SSR'; give one letter each"):
        oriented(smooth(Grid((2, 2, 2), (1.0, 1.0, 1.0))), "SSR")


@given(grids(), st.sampled_from(ORIENTATIONS), st.tuples(*[st.floats(0.4, 1)] * 3), st.data())
@settings(max_examples=25, deadline=None)
def test_there_and_back(grid, letters, finer, data):
    """Labels come back exactly, smooth grey levels within a half, also from a part."""
    volume = smooth(grid)
    own = oriented(volume, letters).grid.spacing_mm
    spacing = tuple(a * b for a, b in zip(own, finer, strict=True))
    seen = resampled(oriented(volume, letters), spacing, is_mask=False)
    labels = Volume((volume.array.astype(int) % 7).astype(np.uint8), grid, Path("mask"))
    mask = prepared(labels, spec_of(orientation=letters, spacing_mm=spacing), is_mask=True)
    assert mask.grid == seen.grid and mask.array.dtype == np.uint8
    assert np.allclose(
        np.multiply(seen.grid.size, seen.spacing_mm), np.multiply(own, oriented(volume, letters).grid.size)
    )
    assert np.array_equal(restored(mask.array[0], mask.grid, grid), labels.array[0])
    scores = np.stack([mask.array[0] == k for k in range(7)]).astype(np.float32)
    assert restored_scores(scores, mask.grid, grid).shape == grid.size
    start = tuple(data.draw(st.integers(0, n - 1)) for n in mask.grid.size)
    size = tuple(n - first for n, first in zip(mask.grid.size, start, strict=True))
    part = mask.array[0][tuple(slice(first, None) for first in start)]
    back = restored(part, mask.grid.cropped(start, size), grid)
    assert (back[back != 0] == labels.array[0][back != 0]).all()
    back = restored(np.ascontiguousarray(seen.array[0]), seen.grid, grid)
    assert np.abs(back - volume.array[0]).max() < 0.5


FILES = ["volumes/anatomical.nii", "dicom/mr_hippocampus_crop", "dicom/ct_series/7136", "dicom/ct_series/7106"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("letters", ["SPR", "RAI", "LSP"])
def test_real_files_there_and_back(name, letters):
    if not (SHARED / name).exists():
        pytest.skip(f"needs {SHARED / name}, real data that the project does not ship")
    source = read_volume(SHARED / name)
    spacing = tuple(0.7 * value for value in oriented(source, letters).grid.spacing_mm)
    labels = dataclasses.replace(source, array=(source.array > source.array.mean()).astype(np.uint8))
    mask = prepared(labels, spec_of(orientation=letters, spacing_mm=spacing), is_mask=True)
    assert np.array_equal(restored(mask.array[0], mask.grid, source.grid), labels.array[0])
    volume = smooth(source.grid)
    seen = resampled(oriented(volume, letters), spacing, is_mask=False)
    back = restored(np.ascontiguousarray(seen.array[0]), seen.grid, source.grid)
    assert np.abs(back - volume.array[0]).max() < 0.5


@pytest.mark.parametrize("spacing", [(1.5, 1.0, 0.7), (3.0, 0.5, 0.8)])
def test_values_are_those_of_itk(spacing):
    grid = Grid((20, 31, 28), (3.0, 1.5, 0.8), (10.0, -4.0, 7.0))
    array = np.random.default_rng(0).normal(0, 100, (1, *grid.size)).astype(np.float32)
    seen = resampled(Volume(array, grid, Path("a")), spacing, is_mask=False)
    for ours, channel in zip(seen.array, array, strict=True):
        reference = itk._image(ours, seen.grid)
        theirs = sitk.Resample(
            itk._image(channel, grid), reference, sitk.Transform(), sitk.sitkBSpline3, 0.0, sitk.sitkFloat32, True
        )
        inner = tuple(slice(n // 3, -n // 3) for n in ours.shape)  # at the faces ITK mirrors
        assert np.abs(sitk.GetArrayFromImage(theirs) - ours)[inner].max() < 0.05


def test_the_outer_faces_stay():
    """4 voxels of 3 mm become 12 of 1 mm: the first centre moves from 1.5 mm behind the face to 0.5 mm."""
    grid = Grid((4, 1, 1), (3.0, 1.0, 1.0), (0.0, 0.0, 100.0))
    seen = resampled(smooth(grid), (1.0, 1.0, 1.0), is_mask=False)
    assert seen.grid == Grid((12, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 99.0))
    seen = resampled(smooth(grid), (5.0, 1.0, 1.0), is_mask=False)  # 12 mm are two voxels of 6
    assert seen.grid == Grid((2, 1, 1), (6.0, 1.0, 1.0), (0.0, 0.0, 101.5))


@pytest.mark.parametrize("n", range(1, 12))
@pytest.mark.parametrize("m", [1, 2, 3, 7, 30])
def test_what_is_constant_stays_so(n, m):
    assert np.allclose(itk.weights(n, m).sum(1), 1, atol=1e-5)


def test_fine_texture_does_not_become_coarse():
    """Every other voxel bright: at four times the size the mean is left, where plain sampling keeps stripes."""
    grid = Grid((1, 1, 64), (1.0, 1.0, 1.0))
    stripes = Volume(np.tile([0, 100], 32).reshape(1, 1, 1, 64).astype(np.float32), grid, Path("a"))
    seen = resampled(stripes, (1.0, 1.0, 3.2), is_mask=False).array
    assert np.abs(seen - 50).max() < 10


def test_labels_of_the_nearest_voxel():
    grid = Grid((1, 1, 4), (1.0, 1.0, 1.0))
    mask = Volume(np.array([1, 0, 3, 7], np.int64).reshape(1, 1, 1, 4), grid, Path("a"))
    assert resampled(mask, (1, 1, 0.5), is_mask=True).array.ravel().tolist() == [1, 1, 0, 0, 3, 3, 7, 7]
    assert resampled(mask, (1, 1, 1.33), is_mask=True).array.ravel().tolist() == [1, 3, 7]


@pytest.mark.parametrize("ratio", [1.5, 2.0, 3.0, 4.0])
def test_larger_voxels_have_the_label_with_the_largest_share(ratio):
    """Balls stay where they are and as large; half a voxel of a vessel stays a vessel."""
    grid = Grid((48, 48, 48), (1.0, 1.0, 1.0))
    off, sizes = [], []
    for middle in np.random.default_rng(0).uniform(20, 28, (12, 3)):
        ball = ((np.stack(np.indices(grid.size), -1) - middle) ** 2).sum(-1) < 121
        seen = resampled(Volume(ball[None].astype(np.uint8), grid, Path("a")), (ratio,) * 3, is_mask=True)
        off.append(seen.grid.at(np.argwhere(seen.array[0])).mean(0) - grid.at(np.argwhere(ball)).mean(0))
        sizes.append(seen.array.sum() * ratio**3 / ball.sum())
    assert np.abs(np.mean(off, 0)).max() < 0.06 * ratio and abs(np.mean(sizes) - 1) < 0.06
    vessel = np.zeros((1, 4, 4, 6), np.int64)
    vessel[..., 1], vessel[..., 2:4], vessel[0, 0, 0, 2] = 5, 7, 0
    seen = resampled(Volume(vessel, Grid((4, 4, 6), (1.0, 1.0, 1.0)), Path("a")), (1, 0.5, 2), is_mask=True)
    assert seen.array.shape == (1, 4, 8, 3) and (seen.array == [5, 7, 0]).all() and seen.array.dtype == np.int64


@pytest.mark.parametrize("spacing", [(0, 1, 1), (1, -1, 1), (1, 1), (1, float("nan"), 1)])
def test_spacings_that_are_none(spacing):
    with pytest.raises(VolumeError, match="must be three lengths above 0"):
        resampled(smooth(Grid((2, 2, 2), (1.0, 1.0, 1.0))), spacing, is_mask=False)


VALUES = np.array([-1000, -100, 0, 50, 300], np.int16).reshape(1, 1, 1, 5)


@pytest.mark.parametrize(
    ("intensity", "expected"),
    [
        (Intensity("window", -100, 300), [-2.0, -2.0, -1.0, -0.5, 2.0]),
        (Intensity("percentile", 25, 75), [-2.0, -2.0, 2 / 3, 2.0, 2.0]),
        (Intensity("z_score"), None),
        (None, [(value / 255 - 0.5) / 0.25 for value in VALUES.ravel()]),
    ],
)
def test_intensities_by_hand(intensity, expected):
    volume = Volume(VALUES, Grid((1, 1, 5), (1.0, 1.0, 1.0)), Path("a"))
    spec = ClipSpec(mean=(0.5,), std=(0.25,), intensity=intensity)
    seen = prepared(volume, spec).array
    expected = expected or (VALUES.ravel() - VALUES.mean()) / VALUES.std()
    assert seen.dtype == np.float32 and np.allclose(seen.ravel(), expected, atol=1e-5)


def test_each_channel_has_its_own_intensity():
    grid = Grid((2, 3, 4), (1.0, 1.0, 1.0))
    array = np.stack([np.arange(24).reshape(2, 3, 4), np.full((2, 3, 4), 7)])
    seen = prepared(Volume(array, grid, Path("a")), ClipSpec(mean=(0, 0), std=(1, 1), intensity=Intensity("z_score")))
    assert abs(seen.array[0].mean()) < 1e-6 and abs(seen.array[0].std() - 1) < 1e-6 and not seen.array[1].any()
    with pytest.raises(VolumeError, match="a: 2 channels; the network takes 1"):
        prepared(Volume(array, grid, Path("a")), spec_of())


def test_scores_are_interpolated_before_the_label_is_taken():
    """Between voxels of scores (1, 0) and (0, 3) a quarter of the way, class 1 has 0.75 of both: the first wins."""
    scores = np.array([[1.0, 0.0], [0.0, 3.0]], np.float32).reshape(2, 1, 1, 2)
    grid = Grid((1, 1, 2), (1.0, 1.0, 1.0))
    source = Grid((1, 1, 4), (1.0, 1.0, 0.5), (-0.25, 0.0, 0.0))
    assert restored_scores(scores, grid, source).ravel().tolist() == [0, 0, 1, 1]
    assert restored_scores(scores - 5, grid, grid).ravel().tolist() == [0, 1]
    beyond = Grid((1, 1, 6), (1.0, 1.0, 1.0), (-2.0, 0.0, 0.0))
    assert restored_scores(scores - 5, grid, beyond).ravel().tolist() == [0, 0, 0, 1, 0, 0]


def test_specks_and_holes_go():
    labels = np.zeros((12, 12, 12), np.int64)
    labels[1:8, 1:8, 1:8] = 1
    labels[3:6, 3:6, 3:6] = 0  # a cavity, with something else in it
    labels[4, 4, 4] = 2
    labels[10, 10, 10] = 1
    labels[8:11, 0:3, 0:3] = 3
    labels[9, 1, 1] = 0
    labels[8, 1, 1] = 0  # open to one side, against class 1 below
    before = labels.copy()
    both = cleaned(labels, largest=True, holes=True)
    assert np.array_equal(labels, before) and both.dtype == np.int64
    assert both[10, 10, 10] == 0 and both[4, 4, 4] == 2 and (both[1:8, 1:8, 1:8] == 0).sum() == 0
    assert both[9, 1, 1] == 0
    for dtype in (">i4", "?"):
        some = labels == 1 if dtype == "?" else labels.astype(dtype)
        assert cleaned(some, largest=True, holes=True).dtype == dtype
    assert cleaned(labels, largest=False, holes=False).tolist() == labels.tolist()
    assert (cleaned(labels, largest=True, holes=False) != labels).sum() == 1
    assert (cleaned(labels, largest=False, holes=True) != labels).sum() == 26
    corner = np.zeros((3, 3, 3), np.uint8)
    corner[0, 0, 0] = corner[1, 1, 1] = 1
    assert cleaned(corner, largest=True, holes=True).tolist() == corner.tolist()
    assert not cleaned(np.zeros((3, 3, 3), np.uint8), largest=True, holes=True).any()


def test_what_becomes_background_is_filled():
    """A speck of class 2 in class 1; and holes of one slice, but not those of a slice among others."""
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[1:9, 1:9, 1:9], labels[10:, 10:, 10:] = 1, 2
    labels[4, 4, 4] = 2
    assert cleaned(labels, largest=True, holes=True)[4, 4, 4] == 1
    ring = np.array([[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 0, 1], [0, 1, 1, 1]], np.uint8)
    for axis in range(3):
        assert (cleaned(np.expand_dims(ring, axis), largest=False, holes=True) != 0).sum() == 9
        assert (cleaned(np.stack([ring, 0 * ring], axis), largest=False, holes=True) != 0).sum() == 8
