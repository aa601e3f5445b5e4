import re

import pytest

from tubelet.data.layouts import open_data

KINETICS = "label,youtube_id,time_start,time_end,split,is_cc"


def test_the_kinetics_csv(touch, write, named, caplog):
    touch("train/air drumming/-3B32lodo2M_000059_000069.mp4", "train/zumba/0Xyz_abcdef_000000_000010.mkv")
    touch("val/zumba/AAAAAAAAAAA_000120_000130.mp4.mkv")
    train = write(
        "train.csv",
        KINETICS,
        "air drumming,-3B32lodo2M,59,69,train,0",
        "zumba,0Xyz_abcdef,0,10,train,0",
        '"zumba",gone_______,0,10,train,0',
    )
    write("validate.csv", KINETICS, "zumba,AAAAAAAAAAA,120,130,validate,0", "zumba,goneagain__,5,15,validate,1")
    write("test.csv", "youtube_id,time_start,time_end,split", "BBBBBBBBBBB,0,10,test")
    data = open_data(train.parent)
    assert data.layout == "Kinetics csv (train.csv, validate.csv, test.csv)"
    assert named(data, "train") == [
        ("train/air drumming/-3B32lodo2M_000059_000069.mp4", "air drumming"),
        ("train/zumba/0Xyz_abcdef_000000_000010.mkv", "zumba"),
    ]
    assert named(data, "val") == [("val/zumba/AAAAAAAAAAA_000120_000130.mp4.mkv", "zumba")]
    assert data.splits["train"][0].group == "-3B32lodo2M"
    assert (data.missing, data.missing_of) == (2, {"train": 1, "val": 1})
    assert "2 of 5 videos are not there, first gone________000000_000010 (train.csv, row 4)" in caplog.text
    assert "test.csv: no labels; left out" in caplog.text


def test_one_list_beside_the_folders_of_its_videos(touch, write):
    touch(*(f"{part}/{name * 11}_000000_000010.mp4" for part in ("train", "val") for name in "ab"))
    for part in ("train", "val"):
        rows = [f"{name},{name * 11},0,10,{part}" for name in "ab"]
        file = write(f"{part}.csv", KINETICS[:-6], *rows)
    assert {split: len(samples) for split, samples in open_data(file).splits.items()} == {"train": 2, "val": 2}


def test_what_is_missing_of_a_part_made_here_is_not_known(touch, write):
    for n in range(4):
        touch(f"{n}aaaaaaaaaa_000000_000010.mp4")
    rows = [f"{'ab'[n % 2]},{n}aaaaaaaaaa,0,10,train" for n in range(5)]
    data = open_data(write("train.csv", KINETICS[:-6], *rows))
    assert (data.missing, data.missing_of, data.missing_in("val")) == (1, {}, 1)


@pytest.mark.parametrize(
    ("there", "sizes"), [("train test", {"train": 8, "test": 10, "val": 2}), ("test", {"test": 10})]
)
def test_of_three_parts_without_the_videos_of_the_second(touch, write, caplog, there, sizes):
    for number, (part, split) in enumerate((("train", "train"), ("validate", "val"), ("test", "test"))):
        ids = [f"{number}{n}aaaaaaaaa" for n in range(10)]
        write(f"{part}.csv", KINETICS[:-6], *(f"{'ab'[n % 2]},{name},0,10,{part}" for n, name in enumerate(ids)))
        if split in there:
            touch(*(f"{part}/{name}_000000_000010.mp4" for name in ids))
    data = open_data(touch())
    assert {split: len(samples) for split, samples in data.splits.items()} == sizes
    assert data.missing_in("val") == 10
    assert "two official parts" not in caplog.text
    assert ("none of 10 videos of val is there; a fifth of train" in caplog.text) is ("train" in there)


def test_youtube_ids_keep_their_case(touch, write, named):
    touch("abcdefghijk_000000_000010.mp4", "bbbbbbbbbbb_000000_000010.mp4")
    rows = [
        "a,abcdefghijk,0,10,train",
        "b,ABCDEFGHIJK,0,10,train",
        "b,bbbbbbbbbbb,0,10,train",
        "b,bbbbbbbbbbb,0,10,val",
    ]
    data = open_data(write("k.csv", KINETICS[:-6], *rows))
    assert data.missing == 1
    assert named(data, "train") == [("abcdefghijk_000000_000010.mp4", "a"), ("bbbbbbbbbbb_000000_000010.mp4", "b")]


ERRORS = {
    "a bad row": (("a,bbbbbbbbbbb,x,10,train,0",), r"list\.csv, row 2 \(a \| bbb.*'x'"),
    "a header alone": ((), r"list\.csv: a header \(label,youtube_id,.*\) and no row; get the file again"),
    "nothing is there": (
        ("a,bbbbbbbbbbb,0,10,train,0", "b,ccccccccccc,0,10,train,0"),
        r"2 of 2 videos are not there, first bbbbbbbbbbb_000000_000010 \(list\.csv, row 2\); looked in .*; put them",
    ),
}


@pytest.mark.parametrize("what", ERRORS)
def test_what_cannot_be_read_is_one_line(write, refused, what):
    rows, message = ERRORS[what]
    assert re.search(message, refused(write("list.csv", KINETICS, *rows)))


HACS = "classname,youtube_id,subset,start,end,label"


def test_the_csv_of_hacs_clips(touch, write, caplog):
    caplog.set_level("INFO", "tubelet")
    touch("videos/v_aaaaaaaaaaa.mp4", "videos/bbbbbbbbbbb.mp4")
    rows = ["Archery,aaaaaaaaaaa,training,1.5,3.5,1", "Archery,aaaaaaaaaaa,training,9,11,-1"]
    rows += ["Ballet,aaaaaaaaaaa,training,20,22,1", "Archery,bbbbbbbbbbb,validation,0,2,1"]
    data = open_data(write("HACS_clips_v1.1.1.csv", HACS, *rows).parent)
    train = [(each.path.name, data.classes[each.target], each.start, each.end) for each in data.splits["train"]]
    assert train == [("v_aaaaaaaaaaa.mp4", "Archery", 1.5, 3.5), ("v_aaaaaaaaaaa.mp4", "Ballet", 20, 22)]
    assert data.splits["train"][0].unit == "s"
    assert [each.path.name for each in data.splits["val"]] == ["bbbbbbbbbbb.mp4"]
    assert "1 clips without their class; left out" in caplog.text


def test_a_row_of_hacs_that_cannot_be_read(write):
    with pytest.raises(ValueError, match=r"HACS_clips\.csv, row 2 \(.*\): .*'now'"):
        open_data(write("HACS_clips.csv", HACS, "Archery,aaaaaaaaaaa,training,now,3.5,1"))
