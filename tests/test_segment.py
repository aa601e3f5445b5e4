"""Masks of scans: on the scan's own grid, in its own file's geometry, folder by folder, of scans of any size."""

import gzip
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from painted_scans import SIZE, Thresholds, expected, painted, write_scans, write_slice

import tubelet
from tubelet import segment as segments
from tubelet.data import space
from tubelet.data.volume import Grid, VolumeError, read_volume, write_volume
from tubelet.spec import Intensity

DICOM = Path(__file__).parents[2] / "shared" / "data" / "dicom"


def turned(angle, axes=(0, 1)):
    """Nine cosines of a grid turned by degrees."""
    one, other = axes
    turn = np.eye(3)
    turn[one, one] = turn[other, other] = np.cos(np.radians(angle))
    turn[one, other], turn[other, one] = -np.sin(np.radians(angle)), np.sin(np.radians(angle))
    return tuple(turn.flatten())


def geometry(path):
    """The bytes of a NIfTI header that say where its voxels lie: pixdim, and from qform_code to srow_z."""
    header = path.read_bytes()[:348]
    assert struct.unpack("<i", header[:4]) == (348,)
    return header[76:108][:16], header[252:328]


GRIDS = {
    "plain": Grid(SIZE, (1.0, 1.0, 1.0)),
    "anisotropic": Grid(SIZE, (5.0, 0.7, 0.7), (3.0, -20.0, 7.0)),
    "oblique": Grid(SIZE, (3.0, 1.0, 1.2), (-31.0, 12.5, 80.0), turned(20, (0, 2))),
    "mirrored": Grid(SIZE, (2.0, 1.0, 1.0), (0.0, 0.0, 0.0), (-1.0, 0, 0, 0, 0, 1.0, 0, -1.0, 0)),
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_a_mask_lies_where_its_scan_lies(tmp_path, grid):
    scan, _ = painted(3)
    write_volume(tmp_path / "scan.nii", scan, grid)
    for number, spacing in enumerate([None, grid.spacing_mm]):
        out = tmp_path / f"mask{number}.nii"
        (case,) = tubelet.predict(Thresholds(), tmp_path / "scan.nii", out=out).cases
        mask, source = read_volume(out), read_volume(tmp_path / "scan.nii")
        assert mask.grid == source.grid and mask.array.dtype == np.uint8
        assert np.array_equal(mask.array[0], expected(scan)) and np.array_equal(case.labels, mask.array[0])
        assert geometry(out) == geometry(tmp_path / "scan.nii")
        assert case.file == out and case.voxels == tuple(np.bincount(expected(scan).ravel(), minlength=3)), spacing


def test_a_scan_is_resampled_and_its_mask_brought_back(tmp_path):
    scan, truth = painted(5)
    write_volume(tmp_path / "scan.nrrd", scan, GRIDS["oblique"])
    network = Thresholds(spacing_mm=(1.5, 1.5, 1.5), orientation="LAS")
    (case,) = tubelet.predict(network, tmp_path / "scan.nrrd", out=tmp_path / "masks").cases
    assert case.file.name == "scan.nrrd" and read_volume(case.file).grid == read_volume(tmp_path / "scan.nrrd").grid
    ball = case.labels == 1
    assert 2 * (ball & (truth == 1)).sum() / (ball.sum() + (truth == 1).sum()) > 0.8


def test_labels_alone_where_scores_are_too_large(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "tubelet")
    scan, _ = painted(1)
    monkeypatch.setattr(segments, "MOST_SCORES", 10)
    (case,) = tubelet.predict(Thresholds(orientation="RAS"), scan).cases
    assert np.array_equal(case.labels, expected(scan)) and not caplog.text
    write_volume(tmp_path / "scan.nii", scan, GRIDS["plain"])
    tubelet.predict(Thresholds(spacing_mm=(2.0, 2.0, 2.0)), tmp_path / "scan.nii")
    assert "scan.nii: its scores are too large to be brought back" in caplog.text


def test_an_array_is_a_scan():
    scan, _ = painted(2)
    for source in (scan, scan[0], torch.from_numpy(scan)):
        found = tubelet.predict(Thresholds(), source)
        assert np.array_equal(found.cases[0].labels, expected(scan)) and found.cases[0].file is None
    assert "ball" in str(found.top()) and "ml" in str(found.top())
    with pytest.raises(ValueError, match="not finite"):
        tubelet.predict(Thresholds(), np.full_like(scan, np.nan))
    with pytest.raises(ValueError, match=r"array \(2, 2\); a scan is"):
        tubelet.predict(Thresholds(), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="array: 1 channel, and the network takes 2"):
        tubelet.predict(Thresholds(2), scan)


@pytest.mark.parametrize("orientation", ["SPR", "RAI", "LSP"])
def test_an_array_lies_as_the_network_sees_it(orientation):
    class Edge(Thresholds):
        """Class 1 where the values rise along the width: no voxel tells that by itself."""

        def forward(self, x):
            return super().forward(x.roll(-1, -1) - x)

    scan = np.zeros((6, 7, 8), np.float32)
    scan[..., 3:] = 100
    for spacing in (None, (3.0, 2.0, 1.0)):
        network = Edge(orientation=orientation, spacing_mm=spacing, num_frames=6, crop=(7, 8))
        (case,) = tubelet.predict(network, scan).cases
        assert case.labels.shape == scan.shape and (case.labels[..., 2] == 1).all() and not case.labels[..., 3:7].any()
        assert case.grid.orientation == orientation and case.grid.spacing_mm == (spacing or (1.0, 1.0, 1.0))


def test_a_network_without_names_and_ways_of_seeing():
    scan, _ = painted(2)
    found = tubelet.predict(Thresholds(classes=()), scan, mirrored=True, overlap=0.25, batch_size=3)
    assert found.classes == ("background", "class 1", "class 2") and len(found.cases[0].voxels) == 3
    assert np.array_equal(found.cases[0].labels, expected(scan))
    with pytest.raises(ValueError, match="2 names of classes for a network of 3"):
        tubelet.predict(Thresholds(classes=("a", "b")), scan)
    with pytest.raises(ValueError, match="stride_s is for videos"):
        tubelet.predict(Thresholds(), scan, stride_s=1.0)


def test_a_scan_is_mirrored_as_in_training():
    scan, _ = painted(2)
    lungs = ("background", "left lung", "right lung")  # in a mirror the one is the other
    for axes, classes, wanted in (
        ((1, 2), ("background", "ball", "cube"), [(), (1,), (2,), (1, 2)]),
        ((1, 2), lungs, [(), (1,)]),
        (None, lungs, [(), (0,), (1,), (0, 1)]),
    ):
        network = Thresholds(num_frames=SIZE[0], crop=SIZE[1:], mirror_axes=axes, classes=classes)
        seen = []
        network.register_forward_pre_hook(lambda _, inputs, to=seen: to.append(inputs[0][0, 0].clone()))
        tubelet.predict(network, scan, mirrored=True, batch_size=1)
        whole = torch.from_numpy(scan[0])
        assert len(seen) == 1 + len(wanted)  # the first is zeros, for the number of classes
        assert all(any(torch.allclose(each, whole.flip(flips), atol=1e-2) for each in seen) for flips in wanted)
    with pytest.raises(ValueError, match="trained on no mirrored windows"):
        tubelet.predict(Thresholds(mirror_axes=()), scan, mirrored=True)


@pytest.mark.parametrize(
    ("mirrored", "orientation", "kept"),
    [
        ({}, None, (0, 2)),
        ({1: 1}, None, (0, 2)),
        ({1: 2, 2: 1}, "SPL", (0,)),
        ({1: None}, "RPS", (2,)),
        ({1: 2, 2: 1}, None, ()),
    ],
)
def test_axes_along_which_classes_are_kept(mirrored, orientation, kept):
    assert segments.keeping_axes((0, 2), mirrored, orientation) == kept


def test_specks_and_holes_are_cleaned():
    scan = np.zeros((1, 12, 12, 12), np.float32)
    scan[0, 2:9, 2:9, 2:9] = 100
    scan[0, 5, 5, 5] = 0
    scan[0, 11, 11, 11] = 100
    labels = [
        tubelet.predict(Thresholds(), scan, **how).cases[0].labels for how in ({}, {"largest": True}, {"holes": True})
    ]
    assert [(found[5, 5, 5], found[11, 11, 11]) for found in labels] == [(0, 1), (0, 0), (1, 1)]


@pytest.fixture
def folder(tmp_path):
    """Three scans in a folder of patients."""
    for i, name in enumerate(["a/ct.nii.gz", "b/ct.nii.gz", "1.2.840.nii.gz"]):
        (tmp_path / "scans" / name).parent.mkdir(parents=True, exist_ok=True)
        write_volume(tmp_path / "scans" / name, painted(i)[0], GRIDS["oblique"])
    return tmp_path / "scans"


def test_a_folder_keeps_its_names(folder, tmp_path):
    found = tubelet.predict(Thresholds(), folder, out=tmp_path / "out")
    assert [case.file.relative_to(tmp_path / "out").as_posix() for case in found.cases] == [
        "1.2.840.nii.gz", "a/ct.nii.gz", "b/ct.nii.gz"
    ]  # fmt: skip
    assert all(case.labels is None for case in found.cases)
    for i, name in enumerate(["a/ct.nii.gz", "b/ct.nii.gz", "1.2.840.nii.gz"]):
        assert np.array_equal(read_volume(tmp_path / "out" / name).array[0], expected(painted(i)[0]))
    assert str(folder / "a") in str(found.top()) or "a/ct" in str(found.top())


def test_a_folder_is_gone_on_with(folder, tmp_path, monkeypatch):
    seen = []
    plain = segments.segment

    def noted(network, spec, scan, way, **options):
        seen.append(Path(scan[0]).parent.name)
        if seen == ["scans", "a"]:
            raise KeyboardInterrupt
        return plain(network, spec, scan, way, **options)

    monkeypatch.setattr(segments, "segment", noted)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        tubelet.predict(Thresholds(), folder, out=out)
    seen.append("|")
    first = tubelet.predict(Thresholds(), folder, out=out)
    assert seen == ["scans", "a", "|", "a", "b"] and len(first.cases) == 3
    seen.clear()
    again = tubelet.predict(Thresholds(), folder, out=out)
    assert seen == [] and [case.voxels for case in again.cases] == [case.voxels for case in first.cases]
    write_volume(folder / "a" / "ct.nii.gz", painted(9)[0], GRIDS["oblique"])
    seen.append("|")
    tubelet.predict(Thresholds(), folder, out=out)
    assert seen == ["|", "a"]  # what changed is seen anew
    for options, network in (({}, Thresholds(value=60.0)), ({"largest": True}, Thresholds(value=60.0))):
        seen[:] = ["|", "|"]
        tubelet.predict(network, folder, out=out, **options)
        assert seen[2:] == ["scans", "a", "b"]
    seen[:] = ["|", "|"]
    other = Thresholds(value=60.0, num_frames=10)  # the same weights, otherwise prepared
    tubelet.predict(other, folder, out=out, largest=True)
    assert seen[2:] == ["scans", "a", "b"]


def test_a_call_with_other_options_is_gone_on_with(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    tubelet.predict(Thresholds(), folder, out=out)
    plain, network = segments.segment, Thresholds(value=60.0)

    def cut_off(network, spec, scan, way, **options):
        if Path(scan[0]).parent.name == "a":
            raise KeyboardInterrupt
        return plain(network, spec, scan, way, **options)

    monkeypatch.setattr(segments, "segment", cut_off)
    with pytest.raises(KeyboardInterrupt):
        tubelet.predict(network, folder, out=out)
    monkeypatch.setattr(segments, "segment", plain)
    (folder / "b" / "ct.nii.gz").write_bytes(b"no scan")
    found = tubelet.predict(network, folder, out=out)
    assert len(found.cases) == 2 and len(found.failed) == 1
    assert np.array_equal(read_volume(out / "a" / "ct.nii.gz").array[0], expected(painted(0)[0], 60.0))
    assert not (out / "b" / "ct.nii.gz").exists()  # the first network's


def test_wrong_options_leave_finished_masks(folder, tmp_path, monkeypatch):
    out, other = tmp_path / "out", Thresholds(value=60.0)
    tubelet.predict(Thresholds(), folder, out=out)
    before = {path: path.read_bytes() for path in out.rglob("*.nii.gz")}

    def full(path, *arguments, **options):
        raise VolumeError(f"{path}: cannot be written (No space left on device)")

    with monkeypatch.context() as patched, pytest.raises(VolumeError, match="No space"):
        patched.setattr(segments, "write_volume", full)
        tubelet.predict(other, folder, out=out)
    with pytest.raises(VolumeError, match=r"series=1\.2\.3 is for a folder"):
        tubelet.predict(other, folder, out=out, series="1.2.3")
    two = Thresholds(2, 60.0)
    with pytest.raises(VolumeError, match="the network takes 2"):
        tubelet.predict(two, folder, out=out)
    write_volume(folder / "two.nii.gz", np.concatenate([painted(0)[0]] * 2), GRIDS["plain"])
    assert len(tubelet.predict(two, folder, out=out).cases) == 1  # also where one scan fits
    assert len(before) == 3 and {path: path.read_bytes() for path in before} == before


def test_a_mask_that_cannot_be_read_is_made_anew(folder, tmp_path):
    out = tmp_path / "out"
    tubelet.predict(Thresholds(), folder, out=out)
    (out / "a" / "ct.nii.gz").write_bytes(b"no mask")
    assert not tubelet.predict(Thresholds(), folder, out=out).failed
    assert np.array_equal(read_volume(out / "a" / "ct.nii.gz").array[0], expected(painted(0)[0]))


def test_a_mask_in_place_of_a_removed_one_is_the_users(folder, tmp_path):
    out, own = tmp_path / "out", tmp_path / "out" / "b" / "ct.nii.gz"
    tubelet.predict(Thresholds(), folder, out=out)
    (folder / "b" / "ct.nii.gz").write_bytes(b"no scan")
    tubelet.predict(Thresholds(), folder, out=out)
    assert not own.exists() and "b/ct.nii.gz" not in json.loads((out / "masks.json").read_text())["masks"]
    own.write_bytes(b"by hand")
    with pytest.raises(ValueError, match="was not made by predict"):
        tubelet.predict(Thresholds(), folder, out=out)
    assert own.read_bytes() == b"by hand"
    own.unlink()
    (out / "a" / "ct.nii.gz").unlink()
    (folder / "a" / "ct.nii.gz").write_bytes(b"no scan")
    tubelet.predict(Thresholds(), folder, out=out)
    assert set(json.loads((out / "masks.json").read_text())["masks"]) == {"1.2.840.nii.gz"}


def test_an_optimized_network_goes_on_with_masks_of_its_precision(tmp_path):
    network, out = Thresholds(), tmp_path / "out"
    for i in range(2):
        (tmp_path / "scans").mkdir(exist_ok=True)
        write_volume(tmp_path / "scans" / f"{i}.nii", painted(i)[0], GRIDS["plain"])
    tubelet.predict(network, tmp_path / "scans", out=out)
    note = json.loads((out / "masks.json").read_text())
    assert note.pop("precision") == "float32"
    (out / "masks.json").write_text(json.dumps(note))  # as an earlier version wrote it
    before = [path.stat().st_mtime_ns for path in sorted(out.glob("*.nii"))]
    fast, low = (
        tubelet.optimize(network, torch.rand(1, 1, 8, 8, 8), dtype=dtype, seconds=0)
        for dtype in (torch.float32, torch.bfloat16)
    )
    tubelet.predict(fast, tmp_path / "scans", out=out)
    assert [path.stat().st_mtime_ns for path in sorted(out.glob("*.nii"))] == before
    tubelet.predict(low, tmp_path / "scans", out=out)
    assert all(path.stat().st_mtime_ns > was for path, was in zip(sorted(out.glob("*.nii")), before, strict=True))


def test_a_call_that_ends_between_mask_and_note_is_gone_on_with(folder, tmp_path, monkeypatch):
    plain = segments.write_volume

    def killed(*arguments, **options):
        plain(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(segments, "write_volume", killed)
    with pytest.raises(KeyboardInterrupt):
        tubelet.predict(Thresholds(), folder, out=tmp_path / "out")
    monkeypatch.setattr(segments, "write_volume", plain)
    assert len(tubelet.predict(Thresholds(), folder, out=tmp_path / "out").cases) == 3


def test_nothing_of_the_users_is_replaced(folder, tmp_path):
    network, scan = Thresholds(), folder / "a" / "ct.nii.gz"
    before = scan.read_bytes()
    for source, out, says in (
        (scan, scan, "is the scan itself"),
        (scan, scan.parent, "was not made by predict"),
        (folder, folder, "folder of the scans"),
        (folder, folder / "masks", "folder of the scans"),
        (folder, tmp_path / "one.nii.gz", "one file for 3 scans"),
        (scan, tmp_path / "mask.json", "a mask is written as"),
    ):
        with pytest.raises(ValueError, match=says):
            tubelet.predict(network, source, out=out)
    assert scan.read_bytes() == before and not (folder / "masks").exists() and not (tmp_path / "mask.json").exists()
    truth = tmp_path / "truth"
    truth.mkdir()
    shutil.copy(scan, truth / "1.2.840.nii.gz")
    with pytest.raises(ValueError, match="is there and was not made by predict"):
        tubelet.predict(network, folder, out=truth)
    assert [file.name for file in truth.iterdir()] == ["1.2.840.nii.gz"]


def test_unreadable_scans_are_named(folder, tmp_path, caplog):
    (folder / "a" / "ct.nii.gz").write_bytes(b"no scan")
    bad = painted(0)[0]
    bad[0, 3, 4, 5] = np.nan
    write_volume(folder / "b" / "ct.nii.gz", bad, GRIDS["plain"])
    found = tubelet.predict(Thresholds(), folder, out=tmp_path / "out")
    assert [case.source.name for case in found.cases] == ["1.2.840.nii.gz"]
    assert {Path(name).parent.name for name in found.failed} == {"a", "b"} and "NaN" in caplog.text
    with pytest.raises(VolumeError, match="NaN"):
        tubelet.predict(Thresholds(), folder / "b" / "ct.nii.gz", out=tmp_path / "x.nii.gz")
    assert not (tmp_path / "x.nii.gz").exists()
    with pytest.raises(VolumeError, match="none of its 2 scans"):
        (folder / "1.2.840.nii.gz").unlink()
        tubelet.predict(Thresholds(), folder, out=tmp_path / "out2")
    with pytest.raises(VolumeError, match="empty: no such file or folder"):
        tubelet.predict(Thresholds(), tmp_path / "empty", out=tmp_path / "out2")
    (tmp_path / "empty").mkdir()
    with pytest.raises(VolumeError, match="no scans there"):
        tubelet.predict(Thresholds(), tmp_path / "empty", out=tmp_path / "out2")
    with pytest.raises(VolumeError, match="no such file or folder"):
        tubelet.predict(Thresholds(), "null\0byte.nii")


def test_a_scan_that_may_not_be_read_does_not_end_a_folder(folder, tmp_path, monkeypatch):
    (folder / "locked").write_bytes(b"")

    def refusing(plain):
        def opened(path, *arguments, **options):
            if Path(path) in (folder / "a" / "ct.nii.gz", folder / "locked"):
                raise PermissionError(13, "Permission denied", str(path))
            return plain(path, *arguments, **options)

        return opened

    monkeypatch.setattr(Path, "open", refusing(Path.open))
    monkeypatch.setattr(gzip, "open", refusing(gzip.open))
    found = tubelet.predict(Thresholds(), folder, out=tmp_path / "out")
    assert len(found.cases) == 2
    assert set(found.failed.values()) == {
        f"{folder / name}: cannot be read (Permission denied)" for name in ("a/ct.nii.gz", "locked")
    }


def test_scans_beside_a_dicom_series_are_told(tmp_path, caplog):
    pytest.importorskip("SimpleITK")
    caplog.set_level("INFO", "tubelet")
    folder = tmp_path / "in" / "series"
    (folder / "more").mkdir(parents=True)
    for number in range(2):
        write_slice(folder / f"{number}.dcm", np.zeros((4, 5)), (0, 0, number))
    assert segments.scans_of(tmp_path / "in", 1) == [[folder]] and not caplog.text
    write_volume(folder / "more" / "x.nii.gz", painted(0)[0], GRIDS["plain"])
    for source in (tmp_path / "in", folder):
        caplog.clear()
        assert segments.scans_of(source, 1) == [[folder]]
        assert f"{folder}: a DICOM series; 1 file of other scans in it, first more/x.nii.gz, left out" in caplog.text


def test_numbers_of_patients_are_not_those_of_channels(tmp_path):
    names = ["a_0000.nii", "a_0001.nii", "b_0001.nii", "b_0002.nii", "c_0000.nii", "c_0001.nii", "c_0002.nii"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    found = [[path.name for path in paths] for paths in segments.scans_of(tmp_path, 2)]
    assert found == [names[:2], *([name] for name in names[2:])]


def test_channels_are_one_scan(tmp_path):
    scan = painted(4, channels=2)[0]
    (tmp_path / "in").mkdir()
    for i in range(2):
        write_volume(tmp_path / "in" / f"case_000{i}.nii.gz", scan[i : i + 1], GRIDS["oblique"])
    write_volume(tmp_path / "in" / "four.nii.gz", scan, GRIDS["oblique"])
    with pytest.raises(
        ValueError, match="takes 2: give a folder with a file for each, named as in case_0000 to case_0001"
    ):
        tubelet.predict(Thresholds(2), tmp_path / "in" / "case_0000.nii.gz", out=tmp_path / "one.nii.gz")
    found = tubelet.predict(Thresholds(2), tmp_path / "in", out=tmp_path / "out")
    assert sorted(case.file.name for case in found.cases) == ["case.nii.gz", "four.nii.gz"]
    for case in found.cases:
        mask = read_volume(case.file)
        assert mask.array.shape == (1, *SIZE) and np.array_equal(mask.array[0], expected(scan))
        assert mask.grid == read_volume(tmp_path / "in" / "case_0000.nii.gz").grid


def test_a_dicom_series(tmp_path):
    if not DICOM.exists():
        pytest.skip("../shared/data is absent")
    source = DICOM / "mr_hippocampus_crop"
    scan = read_volume(source)
    (case,) = tubelet.predict(Thresholds(), source, out=tmp_path / "out").cases
    mask = read_volume(case.file)
    assert case.file.name == source.name + ".nii.gz" and mask.grid.size == scan.grid.size
    assert np.allclose(mask.affine, scan.affine, atol=1e-3)


def test_masks_of_two_series_of_one_folder(tmp_path):
    pytest.importorskip("SimpleITK")
    (tmp_path / "scan").mkdir()
    scans = {series: painted(int(series[-1]), (13, 14, 14))[0].round() for series in ("1.2.3", "1.2.4")}
    for series, scan in scans.items():
        for z, values in enumerate(scan[0]):
            write_slice(tmp_path / "scan" / f"{series}.{z}.dcm", values, (0, 0, z), series=series)
    for series, scan in scans.items():
        (case,) = tubelet.predict(Thresholds(), tmp_path / "scan", series=series, out=tmp_path / "out").cases
        assert np.array_equal(case.labels, expected(scan))
        assert np.array_equal(read_volume(case.file).array[0], case.labels)


INTENSITIES = [Intensity("window", -80.0, 80.0), Intensity("z_score"), Intensity("percentile", 1.0, 99.0)]


@pytest.mark.parametrize("intensity", INTENSITIES, ids=lambda each: each.kind)
@pytest.mark.parametrize("orientation", ["SPL", "RAI"])
def test_a_large_scan_is_seen_from_the_disk(tmp_path, monkeypatch, intensity, orientation):
    scan, _ = painted(6)
    write_volume(tmp_path / "scan.nii", scan, Grid(SIZE, (2.0, 1.0, 1.5)))
    spacing = {"SPL": (2.0, 1.0, 1.5), "RAI": (1.5, 1.0, 2.0)}[orientation]
    network = Thresholds(value=0.3, intensity=intensity, orientation=orientation, spacing_mm=spacing,
                         mean=(0.5,), std=(0.25,))  # fmt: skip
    plain = tubelet.predict(network, tmp_path / "scan.nii").cases[0].labels
    monkeypatch.setattr(segments, "LARGE", 1000)
    monkeypatch.setattr(segments, "read_volume", lambda *_, **__: pytest.fail("read into memory"))
    mapped = tubelet.predict(network, tmp_path / "scan.nii").cases[0].labels
    assert np.array_equal(mapped, plain) and len(np.unique(plain)) == 3


@pytest.mark.parametrize("most", [10, 2**29])  # bytes of scores: labels alone, or scores
@pytest.mark.parametrize("spacing", [(1.1, 2.1, 1.5), (2.0, 1.0, 0.7)])
@pytest.mark.parametrize("kind", INTENSITIES, ids=lambda each: each.kind)
def test_a_large_scan_is_resampled_part_by_part(tmp_path, monkeypatch, kind, spacing, most):
    scan, _ = painted(6)
    write_volume(tmp_path / "scan.nii", scan, Grid(SIZE, (2.0, 1.0, 1.5)))
    network = Thresholds(value=0.3, intensity=kind, orientation="LAS", spacing_mm=spacing, mean=(0.5,), std=(0.25,))
    monkeypatch.setattr(segments, "MOST_SCORES", most)
    plain = tubelet.predict(network, tmp_path / "scan.nii").cases[0].labels
    monkeypatch.setattr(segments, "LARGE", 1000)
    monkeypatch.setattr(segments, "read_volume", lambda *_, **__: pytest.fail("read into memory"))
    if most > 1000:
        monkeypatch.setattr(segments, "_large", lambda paths, spec: segments.mapped(paths[0]))
        monkeypatch.setattr(segments, "LARGE", most)
        monkeypatch.setattr(space, "_SLAB", 3 * SIZE[1] * SIZE[2])
    mapped = tubelet.predict(network, tmp_path / "scan.nii").cases[0].labels
    assert (mapped == plain).mean() > 0.9995 and len(np.unique(plain)) == 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts resident memory as Linux does")
@pytest.mark.parametrize(
    ("intensity", "spacing", "most"),
    [(each, None, 450) for each in INTENSITIES] + [(INTENSITIES[1], (2.0, 2.0, 2.0), 900)],
    ids=lambda each: getattr(each, "kind", None),
)
def test_a_scan_that_memory_does_not_hold(tmp_path, intensity, spacing, most):
    """600 MB of float32 pass through; what stays resident is far less."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np, torch, tubelet
from painted_scans import Thresholds
from tubelet.spec import Intensity
scan = np.lib.format.open_memmap({str(tmp_path / "scan.npy")!r}, "w+", np.float32, (600, 512, 512))
for i in range(600):
    scan[i] = np.random.default_rng(i).normal(0, 30, (512, 512))
    if i % 50 == 0:
        scan._mmap.madvise(4)
del scan
network = Thresholds(num_frames=32, crop=(256, 256), intensity=Intensity(*{tuple(intensity)!r}), spacing_mm={spacing})
tubelet.predict(network, np.zeros((32, 32, 32), np.float32), overlap=0.0)
def most():  # of this program alone: ru_maxrss begins with that of the process that started it
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = most()
found = tubelet.predict(network, {str(tmp_path / "scan.npy")!r}, overlap=0.0)
print((most() - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # MB: the labels are 150, sums of logits of three classes and 32 planes 96; resampled, all logits are 236
    assert int(done.stdout) < most


@pytest.mark.parametrize("intensity", INTENSITIES, ids=lambda each: each.kind)
def test_a_large_scan_without_contrast(tmp_path, monkeypatch, intensity):
    write_volume(tmp_path / "scan.nii", np.full((1, *SIZE), 7.3, np.float32), GRIDS["plain"])
    monkeypatch.setattr(segments, "LARGE", 1000)
    network = Thresholds(value=0.3, intensity=intensity, mean=(0.5,), std=(0.25,))
    assert not tubelet.predict(network, tmp_path / "scan.nii").cases[0].labels.any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_large_scan_that_is_damaged_does_not_end_a_folder(folder, tmp_path, monkeypatch, value):
    bad = painted(0)[0]
    bad[0, 3, 4, 5] = value
    write_volume(folder / "bad.nii", bad, GRIDS["plain"])
    monkeypatch.setattr(segments, "LARGE", 1000)
    found = tubelet.predict(Thresholds(), folder, out=tmp_path / "out")
    assert len(found.cases) == 3 and "NaN or infinite" in found.failed[str(folder / "bad.nii")]


def test_links_to_folders_are_followed_once(folder, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "p").symlink_to(folder)
    (folder / "a" / "loop").symlink_to(tmp_path / "linked")
    found = segments.scans_of(tmp_path / "linked", 1)
    assert [path.relative_to(tmp_path / "linked").as_posix() for (path,) in found] == [
        "p/1.2.840.nii.gz", "p/a/ct.nii.gz", "p/b/ct.nii.gz"
    ]  # fmt: skip


@pytest.mark.parametrize(("ending", "written"), [(".mhd", ".mha"), (".nhdr", ".nrrd")])
def test_a_scan_in_two_files_has_a_mask_of_its_own_geometry_in_one(tmp_path, ending, written):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(painted(1)[0][0])
    image.SetSpacing((0.7 + 1e-9, 1 / 3, 5.1))
    image.SetOrigin((-31.123456789, 12.5, 80.0))
    image.SetDirection(turned(20, (0, 2)))
    sitk.WriteImage(image, str(tmp_path / f"scan{ending}"))
    (case,) = tubelet.predict(Thresholds(), tmp_path / f"scan{ending}", out=tmp_path / "out").cases
    mask = sitk.ReadImage(str(case.file))
    assert case.file.name == f"scan{written}"
    for told in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(mask, told)() == getattr(sitk.ReadImage(str(tmp_path / f"scan{ending}")), told)()
    for out, source in ((f"x{ending}", f"scan{ending}"), (f"x{ending}", "")):
        with pytest.raises(ValueError, match=r"a mask is written as \.nii, .*\.mha"):
            tubelet.predict(Thresholds(), tmp_path / source, out=tmp_path / "new" / out)
    assert not (tmp_path / "new").exists()


def test_masks_that_training_reads_as_labels_are_not_segmented(tmp_path, caplog):
    caplog.set_level("INFO", "tubelet")
    plain = write_scans(tmp_path / "plain", 2)
    assert [case.source.parent.name for case in tubelet.predict(Thresholds(), plain).cases] == ["images"] * 2
    assert f"{plain}: labels in labels, left out" in caplog.text
    (plain / "images").rename(plain / "imagesTr")
    (plain / "labels").rename(plain / "labelsTr")
    assert {path.parent.name for (path,) in segments.scans_of(tmp_path, 1)} == {"imagesTr"}
    (plain / "imagesTr").rename(plain / "ct")
    assert len(segments.scans_of(plain, 1)) == 4  # nothing tells
    (plain / "cases.csv").write_text("image,label\nct/c00.nii.gz,labelsTr/c00.nii.gz\n")
    listed = [{"image": "ct/c01.nii.gz", "label": "../plain/labelsTr/c01.nii.gz"}]
    (plain / "list.json").write_text(json.dumps({"training": listed}))
    (plain / "broken.csv").write_text("image,label\nct/c00.nii.gz,\n")
    assert [path.name for (path,) in segments.scans_of(plain, 1)] == ["c00.nii.gz", "c01.nii.gz"]
    assert {path.parent.name for (path,) in segments.scans_of(plain, 1)} == {"ct"}
    assert len(segments.scans_of(plain / "labelsTr", 1)) == 2 and len(segments.scans_of(plain, 1, has_labels=True)) == 4


def test_a_scan_that_cannot_be_read_leaves_no_folder(tmp_path):
    (tmp_path / "scan.nii.gz").write_bytes(b"no scan")
    for out in ("a/b/masks", "a/b/mask.nii.gz"):
        with pytest.raises(VolumeError, match=r"scan\.nii\.gz"):
            tubelet.predict(Thresholds(), tmp_path / "scan.nii.gz", out=tmp_path / out)
    assert not (tmp_path / "a").exists()


def test_a_note_that_is_damaged_is_no_note(folder, tmp_path):
    tubelet.predict(Thresholds(), folder, out=tmp_path / "out")
    assert set(json.loads((tmp_path / "out" / "masks.json").read_text())["masks"]) == {
        "1.2.840.nii.gz", "a/ct.nii.gz", "b/ct.nii.gz"
    }  # fmt: skip
    (tmp_path / "out" / "masks.json").write_text("{")
    with pytest.raises(ValueError, match="was not made by predict"):
        tubelet.predict(Thresholds(), folder, out=tmp_path / "out")
