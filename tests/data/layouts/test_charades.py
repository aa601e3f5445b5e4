import pytest

from tubelet.data.layouts import open_data
from tubelet.data.sample import Span

# the header of the real file
HEADER = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"


def row(video, subject, actions):
    return f'{video},{subject},Kitchen,6,7,Yes,"A person, cooking.",food;stove,"Cooking; eating.",{actions},24.83'


@pytest.fixture
def charades(write, touch):
    write("Charades_v1_train.csv", HEADER,
          row("46GP8", "HR43", "c092 11.90 21.20;c147 0.00 12.60;c092 22.00 23.00"), row("N11GT", "0KZ7", ""),
          row("0IH69", "6RE8", "c000 5.00 5.00"), row("GONE1", "6RE8", "c001 5.00 6.00"))  # fmt: skip
    write("Charades_v1_test.csv", HEADER, row("YSKX3", "BYDE", "c156 1.00 30.60"))
    return touch(*(f"Charades_v1_480/{video}.mp4" for video in ("46GP8", "N11GT", "0IH69", "YSKX3")))


def test_labels_of_videos(charades, named):
    data = open_data(charades)
    assert (data.task, len(data.classes), data.missing) == ("multilabel", 157, 1)
    assert named(data, "train") == [
        ("Charades_v1_480/46GP8.mp4", ("c092", "c147")),
        ("Charades_v1_480/N11GT.mp4", ()),
        ("Charades_v1_480/0IH69.mp4", ()),
    ]
    assert named(data, "val") == [("Charades_v1_480/YSKX3.mp4", ("c156",))]
    assert [sample.group for sample in data.splits["train"]] == ["HR43", "0KZ7", "6RE8"]


def test_the_folders_of_the_official_archives(charades, named):
    (charades / "Charades").mkdir()
    for file in charades.glob("*.csv"):
        file.rename(charades / "Charades" / file.name)
    for path in (charades, charades / "Charades"):
        assert len(named(open_data(path), "train")) == 3


def test_videos_that_are_not_there(charades):
    for file in charades.rglob("*.mp4"):
        file.unlink()
    with pytest.raises(ValueError, match=r"first 46GP8 \(Charades_v1_train\.csv, row 2\); looked in"):
        open_data(charades)


def test_spans(charades, caplog):
    with caplog.at_level("INFO", "tubelet"):
        data = open_data(charades / "Charades_v1_train.csv", task="frames")
    assert data.task == "frames"
    sample = data.splits["train"][0]
    assert (sample.unit, sample.start, sample.end, sample.fps) == ("s", 0, None, None)
    assert sample.target == (Span(11.9, 21.2, 92), Span(0, 12.6, 147), Span(22, 23, 92))
    assert data.splits["val"][0].target == (Span(1, 30.6, 156),)
    assert "1 actions that end before they begin; left out" in caplog.text


def test_frames_and_names(charades, frames, write):
    names = [f"c{number:03} Doing {number}" for number in range(157)]
    write("Charades_v1_classes.txt", *names)
    for file in charades.rglob("*.mp4"):
        file.unlink()
        frames(f"Charades_v1_rgb/{file.stem}", name=f"{file.stem}-{{:06}}.jpg")
    data = open_data(charades, task="frames")
    assert data.classes == tuple(name[5:] for name in names)
    assert data.splits["val"][0].path == charades / "Charades_v1_rgb/YSKX3"
    assert data.splits["val"][0].fps == 24


def test_a_row_is_a_line_of_the_file(charades, write, named):
    plain = "46GP8,HR43,Kitchen,6,7,Yes,cooking\x85and\u2028eating,food,eating,c092 11.90 21.20,24.83"
    write("Charades_v1_train.csv", HEADER, plain)
    assert named(open_data(charades), "train") == [("Charades_v1_480/46GP8.mp4", ("c092",))]
    write("Charades_v1_train.csv", HEADER, plain.partition("\x85")[0])
    with pytest.raises(ValueError, match=r"train\.csv, row 2 \(46GP8\): fewer cells than the header"):
        open_data(charades)


def test_wrong_files(charades, write):
    write("Charades_v1_train.csv", HEADER, row("46GP8", "HR43", "c092 11.90"))
    with pytest.raises(
        ValueError, match=r"Charades_v1_train\.csv, row 2 \(46GP8\): 'c092 11\.90' is not `c000 start end`"
    ):
        open_data(charades)
    write("Charades_v1_train.csv", HEADER, row("46GP8", "HR43", "c157 1 2"))
    with pytest.raises(ValueError, match=r"'c157 1 2' is not"):
        open_data(charades)
    write("Charades_v1_classes.txt", "c000 One")
    with pytest.raises(ValueError, match=r"Charades_v1_classes\.txt: 1 classes, not c000 to c156"):
        open_data(charades)


FRAME_LIST = "original_vido_id video_id frame_id path labels"


def frame_rows(video, *labels):
    return [f'{video} 0 {i} {video}/{video}-{i + 1:06}.jpg "{each}"' for i, each in enumerate(labels)]


@pytest.mark.parametrize("header", [FRAME_LIST, FRAME_LIST.replace("vido", "video")])
def test_the_frame_lists_of_pyslowfast(frames, write, header):
    frames("Charades_v1_rgb/001YG", "Charades_v1_rgb/00T1E", "Charades_v1_rgb/004QE")
    write("frame_lists/val.csv", header, *frame_rows("004QE", "156", "156"))
    train = write(
        "frame_lists/train.csv", header, *frame_rows("001YG", "", "4,7", "7", "7", "4"), *frame_rows("00T1E", "", "")
    )
    data = open_data(train)
    assert (data.task, len(data.classes)) == ("multilabel", 157)
    assert [sample.target for sample in data.splits["train"]] == [(4, 7), ()]
    spans = open_data(train, task="frames")
    sample = spans.splits["train"][0]
    assert set(sample.target) == {Span(1, 2, 4), Span(1, 4, 7), Span(4, 5, 4)}
    assert (sample.unit, sample.fps, sample.path.name) == ("frames", 24, "001YG")
    assert [sample.target for sample in spans.splits["val"]] == [(Span(0, 2, 156),)]


def test_frame_lists_of_others(tmp_path, frames, write):
    """MMAction2 leaves the folder out, PyTorchVideo writes it from the root."""
    frames("imgs/YSKX3", "far/away/x")
    rows = ['YSKX3 7811 0 img_00001.jpg ""', 'YSKX3 7811 0 img_00002.jpg "79,76"']
    rows += [
        f"{tmp_path}/far/away/x 1 {i} {tmp_path}/far/away/x/{i}.png {label}" for i, label in enumerate(("''", "0"))
    ]
    data = open_data(write("lists/charades_train.csv", FRAME_LIST, *rows), task="multilabel")
    found = {sample.path: sample.target for split in data.splits.values() for sample in split}
    assert found == {tmp_path / "imgs/YSKX3": (76, 79), tmp_path / "far/away/x": (0,)}


def test_frame_lists_with_one_label_a_video(frames, write):
    """Those of data sets of classes: the labels are no lists, and stand without quotes."""
    frames(*"abcdef")
    rows = [row for video, label in zip("abcdef", "170170", strict=True) for row in frame_rows(video, label, label)]
    plain = [row.replace('"', "") for row in rows]
    data = open_data(write("plain.csv", FRAME_LIST, *plain))
    assert (data.task, data.classes) == ("classify", ("0", "1", "7"))
    found = {sample.path.name: sample.target for part in data.splits.values() for sample in part}
    assert found == dict(zip("abcdef", [1, 2, 0, 1, 2, 0], strict=True))
    quoted = write("quoted.csv", FRAME_LIST, *rows)
    assert open_data(quoted).task == "multilabel" and open_data(quoted, task="classify").classes == data.classes
    with pytest.raises(ValueError, match="read as multilabel, not as classify"):
        open_data(write("several.csv", FRAME_LIST, *rows, *frame_rows("a", "2")), task="classify")


@pytest.mark.parametrize("wrong", [[0, 2], [1, 0], [0, 0]])
def test_spans_of_frame_lists_need_every_frame_in_order(frames, write, wrong):
    frames("004QE", "00T1E")
    rows = frame_rows("004QE", "1", "5", "5")
    file = write("train.csv", FRAME_LIST, *frame_rows("00T1E", "1"), *(rows[i] for i in wrong))
    with pytest.raises(ValueError, match=r"train\.csv, row 4 \(004QE/004QE-00000[123]\.jpg\): frame [123] after [12];"):
        open_data(file, task="frames")
    assert open_data(file).task == "multilabel"  # which asks for no order


ERRORS = {
    "no labels at all": (frame_rows("001YG", "", ""), r"train\.csv: a frame list without labels; give the annotation"),
    "too few cells": (["001YG 0 0"], r"train\.csv, row 2 \(001YG 0 0\): not `id number frame path labels`"),
    "two folders": (
        ['001YG 0 0 a/1.jpg "1"', '001YG 0 1 b/2.jpg "1"'],
        r"row 3 \(b/2\.jpg\): the frames of a video lie",
    ),
    "a label too high": (frame_rows("001YG", "157"), r"train\.csv, video 001YG: label 157; Charades has 0 to 156"),
}


@pytest.mark.parametrize("what", ERRORS)
def test_frame_lists_that_cannot_be_read(frames, write, what):
    frames("001YG")
    rows, message = ERRORS[what]
    with pytest.raises(ValueError, match=message):
        open_data(write("train.csv", FRAME_LIST, *rows))
