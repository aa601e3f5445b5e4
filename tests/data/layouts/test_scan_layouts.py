import json
from pathlib import Path

import numpy as np
import pytest

from tubelet.data.layouts import open_data
from tubelet.data.layouts.scans import labels_in

DECATHLON = {
    "modality": {"0": "MRI"},
    "labels": {"0": "background", "1": "anterior", "2": "posterior"},
    "training": [{"image": f"./imagesTr/h{i}.nii.gz", "label": f"./labelsTr/h{i}.nii.gz"} for i in range(10)],
    "test": ["./imagesTs/h10.nii.gz"],
}


@pytest.fixture
def save(tmp_path):
    """Write an array that holds these labels."""

    def make(name, *labels):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.array([[labels]], np.int16))
        return file

    return make


def stems(data, split):
    return [Path(sample.path).name.partition(".")[0] for sample in data.splits[split]]


def test_decathlon(touch, write):
    root = touch(*(item[key][2:] for item in DECATHLON["training"] for key in ("image", "label")))
    write("dataset.json", json.dumps(DECATHLON))
    for path in (root, root / "dataset.json"):
        data = open_data(path)
        assert (data.task, data.is_volume) == ("segment", True)
        assert data.classes == ("background", "anterior", "posterior")
        assert {name: len(samples) for name, samples in data.splits.items()} == {"train": 8, "val": 2}
        assert all(sample.target == root / "labelsTr" / sample.path.name for sample in data.splits["train"])


def test_names_of_many_classes_stand_before_what_tells_the_layout(touch, write):
    root = touch(*(f"{name}.nii.gz" for i in range(10) for name in (f"imagesTr/h{i}", f"imagesTr/h{i}_0000")))
    touch(*(f"labelsTr/h{i}.nii.gz" for i in range(10)))
    names = {0: "background", **{i: f"structure {i} of all that there are in the body" for i in range(1, 118)}}
    decathlon = {"labels": names, **{key: DECATHLON[key] for key in ("modality", "training")}}
    nnunet = {"labels": {name: i for i, name in names.items()}, "channel_names": {"0": "CT"}}
    for told, layout in ((decathlon, "Decathlon (dataset.json)"), (nnunet, "nnU-Net (dataset.json)")):
        write("dataset.json", json.dumps(told))
        data = open_data(root)
        assert (data.layout, data.classes) == (layout, tuple(names.values()))


def test_monai_list_with_folds_channels_and_a_test_part(touch, write):
    touch(*(f"{kind}{i}.nrrd" for i in range(4) for kind in "abm"))
    items = [{"image": [f"a{i}.nrrd", f"b{i}.nrrd"], "label": f"m{i}.nrrd", "fold": i % 3} for i in range(3)]
    test = [{"image": ["a3.nrrd", "b3.nrrd"], "label": "m3.nrrd"}]
    labels = {"background": 0, "left lung": 1, "right lung": 2}
    file = write("folds.json", json.dumps({"training": items, "testing": test, "labels": labels}))
    data = open_data(file, fold=1)
    assert [stems(data, split) for split in ("train", "val", "test")] == [["a0", "a2"], ["a1"], ["a3"]]
    assert [path.name for path in data.splits["val"][0].more] == ["b1.nrrd"]
    assert data.mirrored == {1: 2, 2: 1}
    assert stems(open_data(file), "val") == ["a2"]
    with pytest.raises(ValueError, match="fold 5; there is 0, 1, 2"):
        open_data(file, fold=5)


def test_whole_numbers_that_are_written_as_floats(touch, save, write):
    touch(*(f"{i}.mha" for i in range(3)))
    save("m.npy", 0, 1)
    rows = ("0.mha,m.npy,0.0,train", "1.mha,m.npy,1.0,train", "2.mha,m.npy,,test")
    data = open_data(write("cases.csv", "image,label,fold,split", *rows), fold=0)
    assert [stems(data, split) for split in ("train", "val", "test")] == [["1"], ["0"], ["2"]]
    items = [{"image": f"{i}.mha", "label": float(i % 2), "fold": float(i == 2)} for i in range(3)]
    data = open_data(write("folds.json", json.dumps({"training": items})))
    assert data.classes == ("0", "1") and stems(data, "val") == ["2"]


def test_nnunet(touch, write, refused):
    root = touch(*(f"imagesTr/c{i}_000{c}.nii.gz" for i in range(4) for c in (0, 1)))
    touch(*(f"labelsTr/c{i}.nii.gz" for i in range(4)))
    told = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz"}
    write("dataset.json", json.dumps(told))
    folds = [{"train": ["c0", "c1"], "val": ["c2"]}, {"train": ["c2", "c3"], "val": ["c0"]}]
    write("splits_final.json", json.dumps(folds))
    data = open_data(root, fold=0)
    assert [stems(data, split) for split in ("train", "val")] == [["c0_0000", "c1_0000"], ["c2_0000"]]
    assert [path.name for path in data.splits["val"][0].more] == ["c2_0001.nii.gz"]
    assert stems(open_data(root), "val") == ["c0_0000"]
    touch("imagesTr/._c3_0000.nii.gz", "labelsTr/._c3.nii.gz")  # of macOS
    assert stems(open_data(root), "val") == ["c0_0000"]
    (root / "imagesTr/c3_0001.nii.gz").unlink()
    assert "1 channel of c3, and dataset.json names 2" in refused(root)
    touch("labelsTr/c9.nii.gz")
    assert "1 mask without an image, first c9" in refused(root)
    (root / "labelsTr/c9.nii.gz").unlink()
    (root / "labelsTr/c3.nii.gz").unlink()
    (root / "splits_final.json").unlink()
    write("dataset.json", json.dumps(told | {"labels": {"background": 0, "organ": 1, "ignore": 2}}))
    data = open_data(root)
    assert data.classes == ("background", "organ") and data.ignored == 2
    for labels in ({"background": 0, "ignore": 1}, {"background": 0, "organ": 1, "ignore": 3}):
        write("dataset.json", json.dumps(told | {"labels": labels}))
        assert "ignore has the number after that of the last class" in refused(root)
    write("dataset.json", json.dumps(told | {"labels": {"background": 0, "all": [1, 2], "organ": 1}}))
    assert "without regions" in refused(root)


def test_nnunet_whose_files_are_listed(touch, write, refused):
    root = touch(*(f"scans/{kind}{i}.nii.gz" for i in range(3) for kind in "xym"))
    listed = {
        f"c{i}": {"images": [f"scans/{kind}{i}.nii.gz" for kind in "xy"], "label": str(root / f"scans/m{i}.nii.gz")}
        for i in range(3)
    }
    told = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "organ": 1}, "dataset": listed}
    write("dataset.json", json.dumps(told))
    write("splits_final.json", json.dumps([{"train": ["c0", "c2"], "val": ["c1"]}]))
    data = open_data(root)
    assert [stems(data, split) for split in ("train", "val")] == [["x0", "x2"], ["x1"]]
    (sample,) = data.splits["val"]
    assert (sample.more, sample.target) == ((root / "scans/y1.nii.gz",), root / "scans/m1.nii.gz")
    listed["c1"]["images"].pop()
    write("dataset.json", json.dumps(told))
    assert "1 channel of c1, and dataset.json names 2" in refused(root)
    listed["c1"]["images"].clear()
    write("dataset.json", json.dumps(told))
    assert "dataset c1: image []; give a path" in refused(root)


def test_tables_of_masks(touch, save, write):
    touch(*(f"scans/{i}.mha" for i in range(4)))
    for i in range(4):
        save(f"masks/{i}.npy", 0, 2)
    rows = [f"scans/{i}.mha,masks/{i}.npy,{i % 2},p{i // 2}" for i in range(4)]
    file = write("cases.csv", "image,label,fold,patient", *rows)
    data = open_data(file.parent, fold=0)
    assert [stems(data, split) for split in ("train", "val")] == [["1", "3"], ["0", "2"]]
    assert data.classes == ("background", "class 1", "class 2")
    assert [sample.group for sample in data.splits["train"]] == ["p0", "p1"]
    write(
        "cases.csv", "image,label,split", *(f"scans/{i}.mha,masks/{i}.npy,{'train' if i else 'val'}" for i in range(4))
    )
    assert [stems(open_data(file), split) for split in ("train", "val")] == [["1", "2", "3"], ["0"]]
    with pytest.raises(ValueError, match="has no folds"):
        open_data(file, fold=1)
    with pytest.raises(ValueError, match="read as segment, not as classify"):
        open_data(file, task="classify")


def test_other_names_of_groups_in_tables(touch, write):
    touch("0.mha", "1.mha")
    data = open_data(write("cases.csv", "image,class,split,patient_id", "0.mha,a,val,p0", "1.mha,b,val,p1"))
    assert [sample.group for sample in data.splits["val"]] == ["p0", "p1"]


def test_scans_of_one_fold_are_there_to_validate(touch, save, write):
    touch("0.mha", "1.mha")
    save("m.npy", 0, 1)
    file = write("cases.csv", "image,label,fold", "0.mha,m.npy,4", "1.mha,m.npy,4")
    data = open_data(file)
    assert list(data.splits) == ["val"]
    assert stems(data, "val") == ["0", "1"]


def test_tables_of_classes(touch, write):
    touch(*(f"{i}.nii" for i in range(6)))
    file = write(
        "scans.tsv", "file\tclass\tsplit", *(f"{i}.nii\t{'well' if i % 2 else 'ill'}\ttrain" for i in range(6))
    )
    data = open_data(file)
    assert (data.task, data.is_volume, data.classes) == ("classify", True, ("ill", "well"))
    assert len(data.splits["train"]) == 4
    assert {sample.target for sample in data.splits["val"]} == {0, 1}


def test_missing_scans_of_classes_are_of_no_part(touch, write):
    touch(*(f"{i}.nii" for i in range(6)))
    rows = (f"{i}.nii,{'well' if i % 2 else 'ill'},{'train' if i < 4 else 'val'}" for i in range(8))
    data = open_data(write("scans.csv", "file,class,split", *rows), skip_missing=True)
    assert (data.missing, data.missing_of, data.missing_in("val")) == (2, {}, 2)


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("image", "masks"), ("imagesTr", "labelsTr")])
def test_folders_of_images_and_labels(touch, save, write, images, labels):
    root = touch(*(f"{images}/case{i}.nii.gz" for i in range(5)), f"{images}/.case0.nii.gz")
    for i in range(5):
        save(f"{labels}/case{i}_mask.npy", 0, 1, 1)
    data = open_data(root)
    assert {name: len(samples) for name, samples in data.splits.items()} == {"train": 4, "val": 1}
    assert data.classes == ("background", "class 1")
    assert all(sample.target.name.startswith(sample.path.name[:5]) for sample in data.splits["train"])
    write("classes.txt", "tumour")
    assert open_data(root).classes == ("background", "tumour")


def test_folders_in_folders_of_parts(touch, save):
    root = touch("train/images/a.nii", "val/images/b.nii")
    save("train/labels/a.npy", 0, 1)
    save("val/labels/b.npy", 0, 1)
    data = open_data(root)
    assert [stems(data, split) for split in ("train", "val")] == [["a"], ["b"]]


def test_folders_that_do_not_match(touch, save, refused, caplog):
    root = touch("images/a.nii", "images/b.nii", "images/c.nii")
    for name in "ab":
        save(f"labels/{name}.npy", 0, 1)
    open_data(root)
    assert "no mask for 1 image, first" in caplog.text
    save("labels/d.npy", 0, 1)
    assert "1 mask without an image, first d" in refused(root)
    (root / "labels/d.npy").unlink()
    touch("images/a.mha")
    assert "have one name" in refused(root)


def test_class_folders_of_scans(touch):
    root = touch(*(f"{name}/{i}.nii.gz" for name in ("ill", "well") for i in range(5)))
    data = open_data(root)
    assert (data.task, data.is_volume, data.classes) == ("classify", True, ("ill", "well"))
    assert {name: len(samples) for name, samples in data.splits.items()} == {"train": 8, "val": 2}


def test_class_folders_that_are_wrong(touch, refused):
    root = touch("ill/0.nii", "well/notes.txt")
    assert "well: no scans" in refused(root)
    touch("well/deeper/features.npy", "features/0.npy")
    assert "no videos" in refused(touch("features/1.npy") / "features")


def test_links_are_followed_once(touch):
    root = touch(*(f"{name}/{i}.nii" for name in ("store/ill", "data/well") for i in range(3)))
    (root / "data/ill").symlink_to(root / "store/ill")
    (root / "data/well/loop").symlink_to(root / "data/well")
    assert sum(map(len, open_data(root / "data").splits.values())) == 6


def test_a_folder_of_dicom_is_one_scan(pytestconfig, tmp_path):
    series = pytestconfig.rootpath.parent / "shared/data/dicom/ct_series"
    if not series.exists():
        pytest.skip("no ../shared/data/dicom")
    for name in ("ill", "well"):
        (tmp_path / name).mkdir()
        for number in range(2):
            (tmp_path / name / f"patient{number}").symlink_to(series)
    data = open_data(tmp_path)
    assert data.classes == ("ill", "well")
    assert sorted(map(len, data.splits.values())) == [2, 2]


@pytest.mark.parametrize("name", ["1-00{}.dcm", "CT.{}.IMA", "1.2.840.{}"])
def test_a_series_is_one_scan_whatever_lies_beside_it(touch, write, refused, name):
    slices = {f"{group}/p{i}/{name.format(k)}" for group in ("ill", "well") for i in range(2) for k in range(3)}
    root = touch(*(f"{group}/p{i}/069.xml" for group in ("ill", "well") for i in range(2)))
    for each in slices:
        write(each, end="").write_bytes(bytes(128) + b"DICM")
    data = open_data(root)
    assert sorted(str(sample.path.relative_to(root)) for part in data.splits.values() for sample in part) == [
        "ill/p0", "ill/p1", "well/p0", "well/p1"
    ]  # fmt: skip
    for each in sorted(slices)[:3]:
        (root / each).rename(root / "ill" / Path(each).name)
    assert "ill: slices of DICOM series; put each series into a folder" in refused(root)


def test_images_that_are_series(touch, save, write):
    for i in range(5):
        touch(f"images/p{i}/069.xml")
        write(f"images/p{i}/1-001.dcm").write_bytes(bytes(128) + b"DICM")
        save(f"labels/p{i}.npy", 0, 1)
    data = open_data(Path())
    assert sorted(sample.path.name for part in data.splits.values() for sample in part) == [f"p{i}" for i in range(5)]


def test_masks_that_are_series(touch, write):
    write("classes.txt", "background", "organ")
    for folder in ("masks/background", "masks/organ", "background", "organ"):
        write(f"{folder}/1-001.dcm").write_bytes(bytes(128) + b"DICM")
    cases = [(name, part) for name in ("background", "organ") for part in ("train", "val")]
    touch(*(f"{name}-{part}.mha" for name, part in cases))
    for masks, task in (("masks/", "segment"), ("", "classify")):
        rows = [f"{name}-{part}.mha,{masks}{name},{part}" for name, part in cases]
        assert open_data(write("cases.csv", "image,label,split", *rows)).task == task


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["a.nii,m.npy", "a.nii,m.npy"], "row 3: .*a.nii is there twice, first in .*row 2"),
        (["", "a.nii,m.npy", " ", "a.nii,m.npy"], "row 5: .*a.nii is there twice, first in .*row 3"),
        (["a.nii,m.npy", "lost.nii,m.npy"], "files of 1 of 2 scans are not there, first .*lost.nii .*row 3"),
        (["a.nii,m.npy", "b.nii,lost.npy"], "first .*lost.npy"),
        (["a.nii,m.npy", "b.nii,ill"], "row 3: label 'ill' is no mask"),
        (["a.nii,m.npy", "b.nii,"], "row 3 .*no image or no label"),
        (["a.nii,sparse.npy"], "sparse.npy: label 255, and all masks hold 2 labels"),
        (["a.nii,below.npy"], "below.npy: label -1"),
        (["a.nii,empty.npy"], "hold the background alone"),
    ],
)
def test_rows_that_are_wrong(touch, save, write, rows, told):
    touch("a.nii", "b.nii")
    for name, labels in {"m": (0, 1), "sparse": (0, 255), "below": (-1, 1), "empty": (0, 0)}.items():
        save(f"{name}.npy", *labels)
    with pytest.raises(ValueError, match=told) as caught:
        open_data(write("cases.csv", "image,label", *rows))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "row", "told"),
    [
        ("image,label,fold", "a.nii,m.npy,first", "fold 'first'"),
        ("image,label,fold", "a.nii,m.npy,1.5", "fold '1.5'"),
        ("image,label,split", "a.nii,m.npy,some", "split 'some'"),
    ],
)
def test_cells_that_are_wrong(touch, write, header, row, told):
    touch("a.nii", "m.npy")
    with pytest.raises(ValueError, match=f"row 2: {told}"):
        open_data(write("cases.csv", header, row))


@pytest.mark.parametrize(
    ("header", "row", "told"),
    [
        (
            "image,image2,label",
            "a.nii,b.nii,m.npy",
            "column image2: a table has one file for each scan; give channels as",
        ),
        ("image,label,mask", "a.nii,ill,m.npy", "column label has classes, column mask masks; remove one"),
    ],
)
def test_tables_of_which_a_column_would_be_left_out(touch, write, refused, header, row, told):
    touch("a.nii", "b.nii", "m.npy")
    assert told in refused(write("cases.csv", header, row))


def test_masks_are_read_once_until_they_change(save, monkeypatch):
    mask = save("m.npy", 0, 1, 1)
    assert labels_in([mask]) == {mask: {0: 1, 1: 2}}
    monkeypatch.setattr("tubelet.data.layouts.scans.read_mask", None)
    assert labels_in([mask]) == {mask: {0: 1, 1: 2}}
    save("m.npy", 0, 1, 1, 2)
    with pytest.raises(ValueError, match="not callable"):
        labels_in([mask])


def test_hippocampi(pytestconfig):
    root = pytestconfig.rootpath.parent / "shared/data/hippocampus"
    if not root.exists():
        pytest.skip("no ../shared/data/hippocampus")
    data = open_data(root, fold=0)
    assert (data.task, data.classes) == ("segment", ("background", "class 1", "class 2"))
    assert {name: len(samples) for name, samples in data.splits.items()} == {"train": 156, "val": 52}
