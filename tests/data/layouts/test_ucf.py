import pytest

from tubelet.data.layouts import open_data

LISTS = "ucfTrainTestlist"


@pytest.fixture
def ucf(touch, write):
    """Three classes of UCF101 with the oddity of the real one: folder and files differ in case."""
    classes = {"ApplyEyeMakeup": "ApplyEyeMakeup", "Archery": "Archery", "HandstandPushups": "HandStandPushups"}
    write(f"{LISTS}/classInd.txt", *(f"{i} {name}" for i, name in enumerate(classes, start=1)), end=" \r\n")
    for fold in (1, 2, 3):
        train, test = [], []
        for index, (folder, file) in enumerate(classes.items(), start=1):
            for group in range(1, 7):
                path = f"{folder}/v_{file}_g{group:02}_c01.avi"
                touch(f"UCF-101/{path}")
                is_test = group % 3 == fold % 3
                (test if is_test else train).append(path if is_test else f"{path} {index}")
        write(f"{LISTS}/trainlist0{fold}.txt", *train, end="\r\n")
        write(f"{LISTS}/testlist0{fold}.txt", *test, end="\r\n")
    return touch()


def groups(data, split):
    return {sample.group.split("_g")[1] for sample in data.splits[split]}


def test_ucf101(ucf, named):
    data = open_data(ucf)
    assert data.layout == f"UCF101 fold 1 ({LISTS})"
    assert data.classes == ("ApplyEyeMakeup", "Archery", "HandstandPushups")
    assert {split: len(samples) for split, samples in data.splits.items()} == {"train": 12, "val": 6}
    assert ("UCF-101/HandstandPushups/v_HandStandPushups_g02_c01.avi", "HandstandPushups") in named(data, "train")
    assert ("UCF-101/Archery/v_Archery_g01_c01.avi", "Archery") in named(data, "val")
    assert data.missing == 0
    assert data.splits["val"][0].group == "v_ApplyEyeMakeup_g01"


def test_ucf101_folds(ucf):
    assert groups(open_data(ucf), "val") == {"01", "04"}
    assert groups(open_data(ucf, fold=2), "val") == {"02", "05"}
    assert groups(open_data(ucf, fold=3), "train") == {"01", "02", "04", "05"}
    assert groups(open_data(ucf / LISTS, fold=2), "val") == {"02", "05"}
    assert groups(open_data(ucf / LISTS / "trainlist02.txt"), "val") == {"02", "05"}
    with pytest.raises(ValueError, match=r"ucfTrainTestlist: no fold 4; there is 1, 2, 3"):
        open_data(ucf, fold=4)


@pytest.mark.parametrize(
    "place",
    ["{name}.mp4", "videos/{name}.avi", "rawframes/{folder}/{name}", "jpegs_256/{name}", "x/{spelled}/{name}.avi"],
)
def test_ucf101_wherever_the_videos_lie(ucf, touch, frames, named, place):
    for file in (ucf / "UCF-101").rglob("*.avi"):
        file.unlink()
        name = file.stem.replace("HandStand", "Handstand")
        path = place.format(folder=file.parent.name, name=name, spelled=file.parent.name.replace("stand", "Stand"))
        touch(path) if path.endswith(("avi", "mp4")) else frames(path)
    data = open_data(ucf)
    assert data.missing == 0
    assert len(data.splits["train"]) == 12
    labels = {path.split("v_")[1].split("_")[0]: label for path, label in named(data, "train")}
    assert labels == {name: name for name in data.classes}


def test_ucf101_with_videos_missing(ucf, caplog):
    (ucf / "UCF-101/Archery/v_Archery_g01_c01.avi").unlink()
    data = open_data(ucf)
    assert (data.missing, data.missing_of) == (1, {"train": 0, "val": 1})
    assert [data.missing_in(split) for split in ("train", "val")] == [0, 1]
    assert len(data.splits["val"]) == 5
    assert "1 of 18 videos are not there, first Archery/v_Archery_g01_c01 (testlist01.txt, row 3)" in caplog.text


def test_ucf101_with_tabs(ucf):
    for file in (ucf / LISTS).glob("trainlist*"):
        file.write_text(file.read_text().replace(" ", "\t"))
    assert (len(open_data(ucf).splits["train"]), open_data(ucf).missing) == (12, 0)


@pytest.mark.parametrize("number", ["1", "two"])
def test_ucf101_with_wrong_lists(ucf, write, number):
    write(f"{LISTS}/trainlist01.txt", f"Archery/v_Archery_g02_c01.avi {number}")
    with pytest.raises(
        ValueError, match=rf"trainlist01\.txt, row 1 \(Archery.* {number}\): no such class or number in classInd"
    ):
        open_data(ucf)
    (ucf / LISTS / "classInd.txt").unlink()
    with pytest.raises(ValueError, match=r"classInd\.txt: no such file; the lists of UCF101 come with it"):
        open_data(ucf)


def test_ucf101_as_class_folders_keeps_its_groups(ucf):
    data = open_data(ucf / "UCF-101")
    assert {sample.group for sample in data.splits["train"]}.isdisjoint(sample.group for sample in data.splits["val"])
    assert len(data.splits["val"]) == 3


SPLITS = "testTrainMulti_7030_splits"


@pytest.fixture
def hmdb(touch, write):
    for name, source in (("brush_hair", "April_09"), ("wave", "#20_Rhythm")):
        files = [f"{source}_{name}_u_nm_np1_ba_goo_{i}.avi" for i in range(4)]
        touch(*(f"hmdb51_org/{name}/{file}" for file in files))
        for fold in (1, 2, 3):
            marks = [1, 1, 2, 0] if fold == 1 else [2, 1, 1, 1]
            write(f"{SPLITS}/{name}_test_split{fold}.txt", *(f"{f} {m} " for f, m in zip(files, marks, strict=True)))
    return touch()


def test_hmdb51(hmdb, named):
    data = open_data(hmdb)
    assert data.layout == f"HMDB51 fold 1 ({SPLITS})"
    assert data.classes == ("brush_hair", "wave")
    assert named(data, "val") == [
        ("hmdb51_org/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_2.avi", "brush_hair"),
        ("hmdb51_org/wave/#20_Rhythm_wave_u_nm_np1_ba_goo_2.avi", "wave"),
    ]
    assert len(data.splits["train"]) == 4
    assert data.splits["train"][0].group == "brush_hair April_09"
    assert len(open_data(hmdb, fold=2).splits["train"]) == 6
    assert len(open_data(hmdb / SPLITS / "wave_test_split3.txt").splits["train"]) == 6


def test_hmdb51_with_a_name_in_two_classes(hmdb, touch, named):
    touch("hmdb51_org/wave/April_09_brush_hair_u_nm_np1_ba_goo_2.avi")
    data = open_data(hmdb)
    assert named(data, "val")[0][0] == "hmdb51_org/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_2.avi"


def test_hmdb51_with_wrong_lists(hmdb, write):
    write(f"{SPLITS}/wave_test_split1.txt", "one.avi 3")
    with pytest.raises(ValueError, match=r"wave_test_split1\.txt, row 1 \(one\.avi 3\): not `name\.avi` and 0, 1 or 2"):
        open_data(hmdb)
