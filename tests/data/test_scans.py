import dataclasses
import json
import logging

import numpy as np
import pytest
import torch

from tubelet import ClipSpec
from tubelet.data import scans
from tubelet.data.distort import RECIPES, Distort
from tubelet.data.layouts import open_data
from tubelet.data.loader import loader
from tubelet.data.order import EpochOrder
from tubelet.data.sample import Sample, VideoData
from tubelet.data.scans import ScanWindows, WholeScans, cut, middle, prepare
from tubelet.data.video import VideoError
from tubelet.spec import Intensity

WINDOW = (6, 8, 8)
SIZES = [(10, 20, 24), (4, 9, 30), (12, 8, 8)]


def spec_of(**fields):
    fields = {"num_frames": WINDOW[0], "crop": WINDOW[1:], "resize": None, "mean": (0.0,), "std": (1.0,)} | fields
    return ClipSpec(intensity=Intensity("window", 0, 1000), **fields)


SPEC = spec_of()


def number(size):
    """Each voxel holds its own place, from 1 on, in thousandths."""
    return np.arange(1, np.prod(size) + 1, dtype=np.float32).reshape(size) / 10


@pytest.fixture
def data(tmp_path):
    """Three scans of numbered voxels; the masks have one voxel of class 1, and in the first a block of class 2."""
    samples = []
    for i, size in enumerate(SIZES):
        mask = np.zeros(size, np.uint8)
        mask[1, 2, 3] = 1
        if i == 0:
            mask[5:9, 10:18, 10:20] = 2
        np.save(tmp_path / f"image{i}.npy", number(size))
        np.save(tmp_path / f"mask{i}.npy", mask)
        samples.append(Sample(tmp_path / f"image{i}.npy", tmp_path / f"mask{i}.npy"))
    return VideoData(("background", "left", "right"), {"train": samples, "val": samples[:2]}, "segment", is_volume=True)


def windows(data, augment=None, seed=0, spec=SPEC, **arguments):
    return ScanWindows(data, "train", spec, augment or Distort(), seed, **arguments)


def test_windows_are_the_same_for_the_same_key_and_fit_in_a_batch(data):
    for recipe in ("none", "nnunet"):
        one, two, other = (windows(data, RECIPES[recipe], seed) for seed in (0, 0, 1))
        assert len(one) == 3
        order = EpochOrder(len(one), 3, 2)
        batches = [list(loader(one, 4, order=order, workers=workers)) for workers in (0, 2)]
        for here, there in zip(*batches, strict=True):
            assert here[0].shape[1:] == (1, *WINDOW)
            assert here[0].dtype == torch.float32
            assert here[1].shape[1:] == WINDOW
            assert here[1].dtype == torch.int64
            assert torch.equal(here[0], there[0])
            assert torch.equal(here[1], there[1])
        for key in ((0, 0), (5, 1, 1)):
            assert torch.equal(one[key][0], two[key][0])
            assert torch.equal(one[key][1], two[key][1])
            assert not torch.equal(one[key][0], other[key][0])
        assert not torch.equal(one[0, 0][0], one[0, 2][0])
        assert one.name((0, 2)) == one.name((1, 2))


def test_changes_fade_over_the_last_epochs(data):
    distort = Distort(rotate=(1, 20, 20))
    held = windows(data, distort, fades=(2, 6))
    for epoch, degrees in ((0, 20), (2, 20), (3, 15), (5, 5), (6, 0), (9, 0)):
        expected = windows(data, Distort(rotate=(1, degrees, degrees)))
        assert torch.equal(held[epoch, 0][0], expected[epoch, 0][0])


def test_windows_are_cut_from_the_scan_with_its_mask(data):
    held = windows(data)
    for epoch in range(30):
        for index, size in enumerate(SIZES):
            window, mask = held[epoch, index]
            place = (window[0].double() * 10000).round().long() - 1  # the intensity brings 0..1000 to 0..1
            inside = place >= 0
            d, h, w = np.unravel_index(place[inside].numpy(), size)
            whole = np.load(data.splits["train"][index].target)
            assert np.array_equal(mask[inside].numpy(), whole[d, h, w])
            # the scan is smaller than the window along some axes: there all of it is seen
            assert inside.sum() == np.prod(np.minimum(size, WINDOW))
            assert not mask[~inside].any()


def test_a_share_of_the_windows_shows_the_foreground_each_class_as_often(data):
    def seen(foreground):
        held = windows(data, foreground=foreground)
        masks = [held[epoch, 0][1] for epoch in range(200)]
        return [np.mean([bool((mask == each).any()) for mask in masks]) for each in (1, 2)]

    one, two = seen(1)
    assert 0.4 < one < 0.75  # the only voxel of its class
    assert 0.4 < two < 0.75
    none = seen(0)
    third = seen(1 / 3)
    assert none[0] < third[0] < one
    assert abs(third[0] - (1 / 3 * one + 2 / 3 * none[0])) < 0.08
    held = windows(data, foreground=1)
    mask = next(mask for epoch in range(20) if (mask := held[epoch, 0][1]).eq(2).any())
    assert mask[WINDOW[0] // 2, WINDOW[1] // 2, WINDOW[2] // 2] == 2


def test_places_are_voxels_of_their_class_and_not_too_many(data, monkeypatch):
    monkeypatch.setattr(scans, "MOST_PLACES", 20)
    folders, _ = prepare(data.splits["train"], SPEC, 7)
    sample = data.splits["train"][0]
    places = np.load(folders[sample.name] / "places.npy")
    assert np.bincount(places[:, 0]).tolist() == [0, 1, 20]
    assert np.array_equal(np.load(sample.target).ravel()[places[:, 1]], places[:, 0])


def test_voxels_that_do_not_count(data):
    """The last class becomes the label after the classes: none of its voxels is sought, all have no label."""
    some = dataclasses.replace(data, classes=("background", "left"), ignored=2)
    found = [windows(some, foreground=1.0)[0, 0, draw][1] for draw in range(20)]
    assert all((mask == 1).any() for mask in found)
    found = [windows(some, foreground=0.0)[0, 0, draw][1] for draw in range(20)]
    assert set(torch.stack(found).unique().tolist()) == {-1, 0, 1}
    whole, counted = (WholeScans(each, "val", SPEC)[0][1] for each in (data, some))
    assert torch.equal(whole == 2, counted == -1) and torch.equal(whole == 1, counted == 1)
    mirrored = dataclasses.replace(some, mirrored={1: 1})
    of_mirror = [windows(mirrored, Distort(flip=(0,)), spec=spec_of(orientation="RAS"))[0, 0, i][1] for i in range(20)]
    assert set(torch.stack(of_mirror).unique().tolist()) == {-1, 0, 1}


def test_a_mask_without_foreground_gives_windows_anywhere(data, tmp_path):
    np.save(tmp_path / "mask0.npy", np.zeros(SIZES[0], np.uint8))
    assert not windows(data, foreground=1)[0, 0][1].any()


def test_what_is_prepared_once_is_not_prepared_again(data, monkeypatch):
    monkeypatch.setattr(scans, "MOST_PLACES", 21)
    first, _ = prepare(data.splits["train"][:1], SPEC, 3)
    stamp = (first[data.splits["train"][0].name] / "image.npy").stat().st_mtime_ns
    folders, _ = prepare(data.splits["train"], SPEC, 3)
    assert len(set(folders.values())) == 3
    assert (folders[data.splits["train"][0].name] / "image.npy").stat().st_mtime_ns == stamp
    np.save(data.splits["train"][0].path, 2 * number(SIZES[0]))
    again, _ = prepare(data.splits["train"], SPEC, 3)
    other, _ = prepare(data.splits["train"], spec_of(spacing_mm=(2, 2, 2)), 3)
    changed = [sum(folders[name] != there[name] for name in folders) for there in (again, other)]
    assert changed == [1, 3]


def test_whole_scans_are_prepared_and_of_their_own_size(data):
    held = WholeScans(data, "val", SPEC)
    for index, size in enumerate(SIZES[:2]):
        image, mask, at = held[index]
        np.testing.assert_allclose(image[0, 0].numpy(), number(size) / 1000, rtol=1e-6)
        assert image.dtype == torch.float32
        assert np.array_equal(mask[0].numpy(), np.load(data.splits["val"][index].target))
        assert mask.dtype == torch.int64
        assert at == index
        assert held.grid(index).size == size
    image, mask, at = next(iter(loader(held, 1, workers=0)))
    assert image.shape == (1, 1, 1, *SIZES[0])
    coarse = WholeScans(data, "val", spec_of(spacing_mm=(2, 2, 2)))[0][0]
    assert coarse.shape == (1, 1, 5, 10, 12)


def test_a_classifier_sees_the_middle_of_the_scan(data, tmp_path):
    samples = [Sample(tmp_path / f"image{i}.npy", i % 2) for i in range(3)]
    data = VideoData(("a", "b"), {"train": samples}, "classify", is_volume=True)
    held, whole = windows(data), WholeScans(data, "train", SPEC)
    for index, size in enumerate(SIZES):
        window, target = held[4, index]
        assert target == index % 2
        start = middle(size, WINDOW)
        np.testing.assert_allclose(window[0].numpy(), cut(number(size) / 1000, start, WINDOW), rtol=1e-6)
        assert torch.equal(whole[index][0][0], window)
        assert whole[index][1] == target
    assert windows(data, RECIPES["nnunet"])[0, 1][0].shape == (1, *WINDOW)


def test_cut_pads_with_zeros_on_every_side():
    array = np.arange(1, 25).reshape(2, 3, 4)
    padded = np.pad(array, 5)
    for start in ((-5, -5, -5), (-1, 2, 3), (1, -2, -3), (0, 0, 0), (4, 0, 0), (-3, 0, 0)):
        wanted = padded[tuple(slice(at + 5, at + 8) for at in start)]
        assert np.array_equal(cut(array, start, wanted.shape), wanted)
        assert np.array_equal(cut(array[None], start, wanted.shape)[0], wanted)


def test_mirrors_are_those_in_which_each_class_has_a_name(data, caplog):
    caplog.set_level(logging.INFO, "tubelet")
    swapped = VideoData(data.classes, data.splits, "segment", mirrored={1: 2, 2: 1}, is_volume=True)
    spec = spec_of(orientation="SPR")
    held = windows(swapped, Distort(flip=(2,)), spec=spec)
    assert held.swapped.axis == 2
    assert held.swapped.classes == [0, 2, 1]
    assert windows(swapped, Distort(flip=(0, 1)), spec=spec).swapped is None
    assert windows(swapped, Distort(flip=(0, 2))).augment.flip == ()
    alone = VideoData(data.classes, data.splits, "segment", mirrored={1: None}, is_volume=True)
    assert windows(alone, Distort(flip=(0, 2)), spec=spec).augment.flip == (0,)
    assert "left and right are classes" in caplog.text
    assert windows(swapped, spec=spec).swapped is None


def test_a_mirrored_mask_is_the_mirror_with_the_classes_exchanged(tmp_path):
    mask = np.zeros(WINDOW, np.uint8)
    mask[..., :3], mask[..., 5:] = 1, 2
    np.save(tmp_path / "image.npy", mask * 100.0)
    np.save(tmp_path / "mask.npy", mask)
    sample = Sample(tmp_path / "image.npy", tmp_path / "mask.npy")
    data = VideoData(("background", "left", "right"), {"train": [sample]}, "segment", mirrored={1: 2, 2: 1})
    held = windows(data, Distort(flip=(2,)), spec=spec_of(orientation="SPL"))
    seen = set()
    for epoch in range(20):
        image, labels = held[epoch, 0]
        seen.add(bool(image[0, 0, 0, 0] != 0.1))
        assert torch.equal(labels, held[0, 0][1])  # left stays on its side of the picture
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mask": np.full(SIZES[0], 3, np.uint8)}, "label 3, and the classes are 0 to 2"),
        ({"mask": np.zeros((10, 20, 25), np.uint8)}, "mask0.npy"),
        ({"image": np.zeros((2, 10, 20, 24), np.float32)}, "channels"),
        ({"image": np.full(SIZES[0], np.nan, np.float32)}, "NaN"),
        ({"image": None}, "image0.npy: No such file"),
    ],
)
def test_a_bad_scan_is_told_by_its_items_alone(data, tmp_path, change, told):
    for name, array in change.items():
        (tmp_path / f"{name}0.npy").unlink()
        if array is not None:
            np.save(tmp_path / f"{name}0.npy", array)
    held = windows(data)
    with pytest.raises(VideoError, match=told) as caught:
        held[0, 0]
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert held[0, 1][0].shape == (1, *WINDOW)
    batches = loader(held, 3, order=EpochOrder(3, 0), workers=0, on_bad="skip")
    assert sum(len(batch[0]) for batch in batches) == 2
    data.splits["train"][1:] = []
    with pytest.raises(ValueError, match="none of 1 scan can be read"):
        windows(data)


def test_arguments_out_of_range_are_refused(data):
    for wrong in ({"foreground": 1.5}, {"spec": spec_of(crop=None)}):
        with pytest.raises(ValueError, match=next(iter(wrong)).replace("spec", "crop")):
            windows(data, **wrong)


def test_a_folder_that_is_gone_is_one_line(data, tmp_path):
    held = windows(data)
    for name in ("image.npy", "mask.npy"):
        (held.scans.folders[str(tmp_path / "image1.npy")] / name).unlink()
    with pytest.raises(VideoError, match="is gone"):
        held[0, 1]
    json.loads((held.scans.folders[str(tmp_path / "image0.npy")] / "grid.json").read_text())


def test_hippocampi(pytestconfig):
    root = pytestconfig.rootpath.parent / "shared/data/hippocampus"
    if not root.exists():
        pytest.skip("no ../shared/data/hippocampus")
    data = open_data(root)
    some = VideoData(data.classes, {"train": data.splits["train"][:4]}, "segment", mirrored=data.mirrored)
    fields = {"num_frames": 40, "crop": (56, 40), "spacing_mm": (1, 1, 1), "orientation": "SPR"}
    spec = ClipSpec(resize=None, mean=(0.0,), std=(1.0,), intensity=Intensity("z_score"), **fields)
    held = windows(some, RECIPES["nnunet"], spec=spec, foreground=1)
    window, mask = held[0, 0]
    assert window.shape == (1, 40, 56, 40)
    assert set(mask.unique().tolist()) == {0, 1, 2}
    image, labels, _ = WholeScans(some, "train", spec)[0]
    assert image.shape[2:] == labels.shape[1:]
    assert abs(float(image.mean())) < 1e-4
    assert abs(float(image.std()) - 1) < 1e-3
