"""Masks measured case by case: by a network or a folder of masks, against figures worked by hand."""

import csv
import json

import numpy as np
import pytest
from painted_scans import SIZE, Thresholds, painted, write_scans, write_table

import tubelet
from tubelet import plot
from tubelet.data.volume import Grid, read_volume, write_volume
from tubelet.spec import Intensity

GRID = Grid(SIZE, (2.0, 1.0, 1.0))


@pytest.fixture(autouse=True)
def bare(request, monkeypatch):
    """No pages and pictures, but for one test."""
    if "by_hand" not in request.node.name:
        monkeypatch.setitem(tubelet.evaluate.__globals__, "_write_page", lambda folder: None)
        monkeypatch.setattr(plot, "slices", lambda *_, **__: None)


def box(start, stop):
    mask = np.zeros(SIZE, np.uint8)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = 1
    return mask


@pytest.fixture
def pair(tmp_path):
    """Two scans: truth 4x4x4, answers 4x4x4 moved by one voxel of 2 mm, and nothing at all."""
    root = tmp_path / "data"
    for name, truth, answer in (
        ("one.1", box((4, 4, 4), (8, 8, 8)), box((5, 4, 4), (9, 8, 8))),
        ("one.2", box((4, 4, 4), (8, 8, 8)), box((0, 0, 0), (0, 0, 0))),
    ):
        for folder, array in ((root / "images", truth * 100.0), (root / "labels", truth), (tmp_path / "masks", answer)):
            folder.mkdir(parents=True, exist_ok=True)
            write_volume(folder / f"{name}.nii.gz", array, GRID)
    return tmp_path


def test_a_folder_of_masks_against_figures_by_hand(pair, capsys):
    table = tubelet.evaluate(pair / "masks", pair / "data", out=pair / "out")
    # 48 of 64 voxels are right: Dice 2 * 48 / 128, IoU 48 / 80; the surfaces are 2 mm apart at the far faces
    assert table.summary["dice"] == pytest.approx(0.75 / 2) and table.summary["iou"] == pytest.approx(0.6 / 2)
    assert table.summary["hd95_mm"] == pytest.approx(2.0) and table.summary["samples"] == 2
    (row,) = table.rows
    assert row["class"] == "class 1" and row["missed"] == 1 and row["dice"] == pytest.approx(0.375)
    rows = list(csv.DictReader((pair / "out" / "cases.csv").open()))
    assert [(row["class"], float(row["dice"]), row["voxels"]) for row in rows] == [
        ("class 1", 0.75, "64"), ("class 1", 0.0, "64")
    ]  # fmt: skip
    assert len(list((pair / "out" / "worst").glob("*.png"))) == 2
    held = json.loads((pair / "out" / "evaluate.json").read_text())
    assert held["task"] == "segment" and held["per_class"][0]["hd95_mm"] == 2.0 and held["bad"] == {}
    assert "all 2 scans are measured" in capsys.readouterr().err


def test_a_missing_mask_and_one_of_another_shape(pair):
    (pair / "masks" / "one.1.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"one\.1\.nii\.gz: no mask of this name in .*masks; .*--on_bad skip"):
        tubelet.evaluate(pair / "masks", pair / "data", out=pair / "out")
    table = tubelet.evaluate(pair / "masks", pair / "data", out=pair / "out", on_bad="skip")
    assert table.summary["samples"] == 1 and table.summary["bad"] == 1 and table.summary["dice"] == 0
    write_volume(pair / "masks" / "one.1.nii.gz", np.zeros((3, 3, 3), np.uint8), Grid((3, 3, 3), (1.0, 1.0, 1.0)))
    with pytest.raises(ValueError, match="3x3x3 voxels where its image has 20x24x18"):
        tubelet.evaluate(pair / "masks", pair / "data", out=pair / "out")
    write_volume(pair / "masks" / "one.1.nii.gz", 7 * box((0, 0, 0), (2, 2, 2)), GRID)
    with pytest.raises(ValueError, match=r"one\.1\.nii\.gz: label 7, and the classes are 0 to 1"):
        tubelet.evaluate(pair / "masks", pair / "data", out=pair / "out")


def test_what_is_bad_in_the_data(pair):
    write_volume(pair / "data" / "labels" / "one.2.nii.gz", np.zeros((3, 3, 3), np.uint8), Grid((3, 3, 3), (1, 1, 1)))
    with pytest.raises(ValueError, match=r"one\.2\.nii\.gz: 3x3x3 voxels"):
        tubelet.evaluate(pair / "masks", pair / "data", out=pair / "out")
    scan = np.full(SIZE, np.nan, np.float32)
    write_volume(pair / "data" / "images" / "one.1.nii.gz", scan, GRID)
    with pytest.raises(ValueError, match=r"no scan of val can be measured, first .*NaN"):
        tubelet.evaluate(pair / "masks", pair / "data", out=pair / "out", on_bad="skip")


def test_masks_in_folders_of_patients(tmp_path):
    for i, patient in enumerate("ab"):
        scan, mask = painted(i)
        for home, array in (("data/images", scan), ("data/labels", mask), ("masks", mask)):
            (tmp_path / home / patient).mkdir(parents=True)
            write_volume(tmp_path / home / patient / "ct.nii.gz", array, GRID)
    assert tubelet.evaluate(tmp_path / "masks", tmp_path / "data", out=tmp_path / "out").summary["dice"] == 1
    (tmp_path / "masks" / "a" / "ct.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"a/ct\.nii\.gz: no mask of this name"):
        tubelet.evaluate(tmp_path / "masks", tmp_path / "data", out=tmp_path / "out")
    (tmp_path / "masks" / "b" / "ct.nii.gz").rename(tmp_path / "masks" / "ct.nii.gz")
    with pytest.raises(ValueError, match="as well; keep them in folders"):
        tubelet.evaluate(tmp_path / "masks", tmp_path / "data", out=tmp_path / "out")


def test_a_network_and_its_masks_measure_the_same(tmp_path):
    root = write_scans(tmp_path / "data", 4, Grid(SIZE, (3.0, 1.0, 1.0), (5.0, 6.0, 7.0)))
    network = Thresholds(spacing_mm=(1.5, 1.5, 1.5), intensity=Intensity("z_score"), mean=(0.0,), std=(1.0,), value=3.0)
    table = tubelet.evaluate(network, root, out=tmp_path / "out")
    assert table.summary["samples"] == 4 and 0.3 < table.summary["dice"] < 1
    tubelet.predict(network, root / "images", out=tmp_path / "masks")
    again = tubelet.evaluate(tmp_path / "masks", root, out=tmp_path / "out2")
    assert again.summary == pytest.approx(table.summary, nan_ok=True)
    low, high = table.summary["dice_low"], table.summary["dice_high"]
    assert low <= table.summary["dice"] <= high


def test_bad_input_leaves_what_is_there(tmp_path):
    root = write_scans(tmp_path / "data", 3)
    (root / "labels" / "c02.nii.gz").write_bytes(b"no mask")
    (root / "classes.txt").write_text("background\nball\ncube\n")
    with pytest.raises(ValueError, match=r"labels/c02\.nii\.gz: .*--on_bad skip"):
        tubelet.evaluate(Thresholds(), root, out=tmp_path / "runs" / "out")
    assert not (tmp_path / "runs").exists()
    worst = tmp_path / "runs" / "out" / "worst"
    worst.mkdir(parents=True)
    (worst / "0001.png").write_bytes(b"of before")
    with pytest.raises(ValueError, match="c02"):
        tubelet.evaluate(Thresholds(), root, out=tmp_path / "runs" / "out")
    assert (worst / "0001.png").read_bytes() == b"of before"


def test_ignored_voxels_count_in_no_figure(tmp_path):
    """Of 4x4x4 voxels of truth 32 are ignored, and so are all that are wrong: what is left is right."""
    root, answer, truth = tmp_path / "Dataset001_X", box((4, 4, 4), (9, 8, 8)), box((4, 4, 4), (8, 8, 8))
    truth[8], truth[4:6] = 2, 2
    files = {"imagesTr/a_0000": answer * 100.0, "labelsTr/a": truth, "imagesTr/b_0000": answer * 100.0}
    for name, array in (files | {"labelsTr/b": np.where(truth == 2, 0, truth)}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_volume(root / f"{name}.nii.gz", array, GRID)
    labels = {"background": 0, "ball": 1, "ignore": 2}
    told = {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz", "numTraining": 2, "labels": labels}
    (root / "dataset.json").write_text(json.dumps(told))
    tubelet.evaluate(Thresholds(classes=("background", "ball", "cube")), root, out=tmp_path / "out")
    rows = csv.DictReader((tmp_path / "out" / "cases.csv").open())
    found = [(row["class"], float(row["dice"]), row["voxels"]) for row in rows]
    assert found[0] == ("ball", 1.0, "32") and found[1][0] == "cube" and np.isnan(found[1][1])
    # without the label 32 of 80 voxels are right
    assert found[2] == ("ball", pytest.approx(2 * 32 / (80 + 32), rel=1e-5), "32")


def test_one_further_fold_and_classes_that_are_not_there(tmp_path):
    root = write_scans(tmp_path / "data", 3)
    for i in range(3):  # the last class is in none of them
        path = root / "labels" / f"c{i:02}.nii.gz"
        mask = read_volume(path)
        path.unlink()
        write_volume(path, np.where(mask.array == 2, 0, mask.array), mask.grid)
    file = write_table(root, [4, 4, 4])
    table = tubelet.evaluate(Thresholds(), file, out=tmp_path / "out")
    assert table.summary["samples"] == 3 and [row["class"] for row in table.rows] == ["ball", "cube"]
    assert table.rows[1]["missed"] == 3 and table.rows[1]["dice"] == 0
    tubelet.predict(Thresholds(), root / "images", out=tmp_path / "masks")
    assert tubelet.evaluate(tmp_path / "masks", file, out=tmp_path / "out2").summary["samples"] == 3


def test_classes_must_be_the_same(tmp_path):
    root = write_scans(tmp_path / "data", 2)
    (root / "classes.txt").write_text("background\ncube\nball\n")
    with pytest.raises(
        ValueError, match="its classes are background, cube, ball, and the model's background, ball, cube"
    ):
        tubelet.evaluate(Thresholds(), root, out=tmp_path / "out")
    table = tubelet.evaluate(Thresholds(classes=()), root, out=tmp_path / "out")
    assert [row["class"] for row in table.rows] == ["cube", "ball"]


def test_what_is_not_for_masks(pair):
    for options, says in (
        ({"views": 2}, "views is not for task segment"),
        ({"temperature": True}, "temperature is not for"),
        ({"batch_size": 0}, "batch_size 0 must be at least 1"),
    ):
        with pytest.raises(ValueError, match=says):
            tubelet.evaluate(pair / "masks", pair / "data", out=pair / "out", **options)
    with pytest.raises(ValueError, match="several models are not for task segment"):
        tubelet.evaluate([pair / "masks", pair / "masks"], pair / "data", out=pair / "out")
    assert not (pair / "out").exists()
    with pytest.raises(ValueError, match="it does not answer for each voxel"):
        tubelet.evaluate(tubelet.create("tiny_3d", num_classes=2), pair / "data", out=pair / "out", task="segment")


def test_the_interval_is_that_of_dice(tmp_path, monkeypatch):
    """Scans without the ball, in truth and answer, count in neither: Dice is 0.75 in each other one."""
    root = tmp_path / "data"
    for i in range(6):
        truth, answer = box((4, 4, 4), (8, 8, 8)) * (i % 2), box((5, 4, 4), (9, 8, 8)) * (i % 2)
        for folder, array in ((root / "images", truth * 100.0), (root / "labels", truth), (tmp_path / "masks", answer)):
            folder.mkdir(parents=True, exist_ok=True)
            write_volume(
                folder / f"{i}.nii.gz", array.astype(np.float32 if folder.name == "images" else np.uint8), GRID
            )
    summary = tubelet.evaluate(tmp_path / "masks", root, out=tmp_path / "out").summary
    assert [summary[name] for name in ("dice", "dice_low", "dice_high")] == pytest.approx([0.75] * 3)
