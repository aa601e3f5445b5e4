"""Volumes of an npz: written here with numpy alone, as the files of MedMNIST v2 are."""

import io
import multiprocessing
import re
import zipfile

import numpy as np
import pytest

from tubelet.data.layouts import open_data
from tubelet.data.video import Video

SIZE = (5, 6, 7)  # unlike one another, so that axes cannot be taken for each other


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TUBELET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def arrays(*parts, num=6, classes=2, dtype=np.uint8):
    held = {}
    for part in parts:
        values = np.random.default_rng(len(held)).integers(0, 256, (num, *SIZE))
        held[f"{part}_images"] = values.astype(dtype)
        held[f"{part}_labels"] = (np.arange(num) % classes).astype(np.uint8)[:, None]
    return held


@pytest.fixture
def save(tmp_path):
    def write(name="x.npz", **held):
        np.savez_compressed(tmp_path / name, **held)
        return tmp_path / name

    return write


def test_every_volume_is_there_with_its_label(save):
    held = arrays("train", "val", "test")
    data = open_data(save(**held))
    assert data.classes == ("0", "1") and data.task == "classify" and data.layout == "MedMNIST volumes (x.npz)"
    assert list(data.splits) == ["train", "val", "test"]
    for part, samples in data.splits.items():
        assert [sample.target for sample in samples] == held[f"{part}_labels"].ravel().tolist()
        for sample, volume in zip(samples, held[f"{part}_images"], strict=True):
            with Video(sample.path) as video:
                assert (video.frames(range(SIZE[0])).numpy() == volume).all()  # (1, D, H, W)


def test_a_volume_is_called_by_its_place(save):
    path = save(**arrays("train", "val"))
    assert open_data(path).splits["val"][3].name == f"{path}[val 3]"


@pytest.mark.parametrize("name", ["x.npz", "x_test.npz"])
def test_a_file_of_one_part(save, name):
    save("x_train.npz", **arrays("train", "val", "test"))
    data = open_data(save(name, **arrays("test", classes=3)))
    assert list(data.splits) == ["test"] and data.classes == ("0", "1", "2")


def test_without_a_validation_part_one_is_set_aside(save):
    data = open_data(save(**arrays("train", num=20)))
    assert {part: len(samples) for part, samples in data.splits.items()} == {"train": 16, "val": 4}


def test_labels_may_lack_their_second_axis_and_have_names(save, write):
    held = arrays("train", "val")
    held["train_labels"] = held["train_labels"].ravel().astype(np.int64)
    write("classes.txt", "normal", "hyperplasia")
    assert open_data(save(**held)).classes == ("normal", "hyperplasia")


def test_backwards_a_volume_is_what_it_is_in_a_mirror(save, write):
    path = save(**arrays("train", "val", classes=3))
    assert open_data(path).reversed == {0: 0, 1: 1, 2: 2}
    write("classes.txt", "kidney-left", "kidney-right", "liver")
    data = open_data(path)
    assert data.reversed == {0: 1, 1: 0, 2: 2} and data.mirrored == {0: 1, 1: 0}


def test_a_folder_that_holds_one(save, write):
    path = save(**arrays("train", "val"))
    np.savez(path.with_name("features.npz"), x=np.zeros(3))
    write("README.txt", "some words")
    assert open_data(path.parent).layout == "MedMNIST volumes (x.npz)"


def test_a_file_that_changes_is_read_anew(save):
    first, second = arrays("train", "val"), arrays("val", "train")
    for held in (first, second):
        (sample, *_) = open_data(save(**held)).splits["train"]
        with Video(sample.path) as video:
            assert (video.frames([0]).numpy() == held["train_images"][0, :1]).all()


def _read(path):
    data = open_data(path)
    return [np.load(sample.path).sum() for sample in data.splits["train"]]


def test_several_processes_unpack_at_once(save, cache):
    path = save(**arrays("train", "val", num=30))
    with multiprocessing.get_context("fork").Pool(4) as pool:
        one, *others = pool.map(_read, [path] * 8, chunksize=1)
    assert all(other == one for other in others)
    assert len(list(cache.iterdir())) == 1  # nothing is left beside it


def test_a_cache_that_cannot_be_written(save, monkeypatch, write):
    monkeypatch.setenv("TUBELET_CACHE", str(write("file", "x") / "inside"))
    with pytest.raises(ValueError, match=r"file/inside/x-\w+: cannot be written \(.*\); set TUBELET_CACHE"):
        open_data(save(**arrays("train", "val")))


def without(held, key):
    return {name: array for name, array in held.items() if name != key}


GOOD = arrays("train", "val")
ERRORS = {
    "no labels": (without(GOOD, "val_labels"), r"no val_labels; give `train_images` \(N, D, H, W\)"),
    "other keys": ({"x": np.zeros(2)}, r"holds x; give `train_images`"),
    "nothing": ({}, r"holds nothing; give"),
    "fewer labels": (GOOD | {"val_labels": np.zeros((4, 1), int)}, r"val_images .* for 4 labels; give one each"),
    "floats": (arrays("train", "val", dtype=np.float32), r"train_images \(6, 5, 6, 7\) of float32; give"),
    "pictures": (GOOD | {"train_images": np.zeros((6, 8, 8), np.uint8)}, r"are pictures; volumes are \(N, D, H, W\)"),
    "colours": (GOOD | {"train_images": np.zeros((6, 8, 8, 3), np.uint8)}, r"are pictures; .* ends in 3D"),
    "several labels": (GOOD | {"train_labels": np.zeros((6, 14), int)}, r"train_labels \(6, 14\) are several labels"),
    "labels that are no numbers": (GOOD | {"train_labels": np.zeros(6)}, r"train_labels \(6,\) of float64; give whole"),
    "labels below 0": (GOOD | {"train_labels": np.full(6, -1)}, r"train_labels hold -1; classes count from 0"),
    "empty": (GOOD | {"val_labels": np.zeros((0, 1), int)}, "val_labels is empty; give"),
    "objects": (GOOD | {"train_labels": np.array([{}] * 6)}, r"train_labels cannot be read \(Object arrays"),
    "one class": (GOOD | {f"{part}_labels": np.zeros(6, int) for part in ("train", "val")}, r"one class only \(0\)"),
}


@pytest.mark.parametrize("what", ERRORS)
def test_what_does_not_fit_is_one_line(save, refused, cache, what):
    held, message = ERRORS[what]
    assert re.search(message, refused(save(**held)))


def test_objects_are_never_unpickled(save, refused, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    refused(save(**GOOD | {"train_images": np.array([Bomb()] * 6, dtype=object)}))
    assert not (tmp_path / "exploded").exists()


def test_what_is_no_archive(write, refused):
    assert re.search(r"x\.npz: no npz archive, or one that breaks off; get", refused(write("x.npz", "words")))


def test_a_damaged_archive(save, refused, tmp_path):
    path = save(**GOOD)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        start = archive.getinfo("train_images.npy").header_offset
    content[start + 200 : start + 300] = bytes(100)
    path.write_bytes(content)
    assert re.search(r"train_images cannot be read \(.*\); get the file again", refused(path))


def test_one_part_in_two_files_of_a_folder(save, refused, tmp_path):
    save("x_train.npz", **GOOD)
    save("x_val.npz", **GOOD)
    assert "holds the part train, as a file beside it does; give one as the path" in refused(tmp_path)
