import re

import pytest

from tubelet.data.layouts import open_data
from tubelet.data.sample import Actor, Sample, Span


@pytest.mark.parametrize(("name", "suffix"), [("train", "csv"), ("train", "txt"), ("Train", "TSV")])
def test_a_folder_with_a_list_for_each_split(touch, write, named, name, suffix):
    touch("clips/1.mp4", "clips/2.mp4", "clips/3.mp4")
    train = write(f"{name}.{suffix}", "clips/1.mp4 a", "clips/2.mp4 b")
    val = write(f"val.{suffix}", "clips/3.mp4 b")
    write("README.txt", "not a list")
    for path in (train.parent, train, val):  # a list brings the one that differs in the split
        data = open_data(path)
        assert named(data, "train") == [("clips/1.mp4", "a"), ("clips/2.mp4", "b")]
        assert named(data, "val") == [("clips/3.mp4", "b")]
    assert data.layout == f"list ({name}.{suffix}, val.{suffix})"


def test_lists_of_different_endings(touch, write, named):
    touch("1.mp4", "2.mp4")
    write("train.csv", "1.mp4,a", "2.mp4,b")
    data = open_data(write("val.txt", "2.mp4 b").parent)
    assert named(data, "val") == [("2.mp4", "b")]
    write("Validation.csv", "1.mp4,a")
    with pytest.raises(ValueError, match=r"Validation\.csv and val\.txt both say val"):
        open_data("train.csv")


@pytest.mark.parametrize(
    "kin", ["kinetics400_{}_list_videos.txt", "{}list.txt", "my_{}set.csv", "{}-split-1.csv", "my_{}_v2.txt"]
)
def test_a_list_is_read_with_its_kin_alone(touch, write, named, kin):
    touch(*(f"{i}.mp4" for i in range(4)))
    train = write(kin.format("train"), "0.mp4 0", "1.mp4 1")
    write(kin.format("val"), "2.mp4 1")
    write("other_val.txt", "3.mp4 0")
    for path in (train, train.parent):
        data = open_data(path)
        assert named(data, "val") == [("2.mp4", "1")]


SEPARATORS = {"space": " ", "comma": ",", "tab": "\t", "semicolon": ";", "bar": "|"}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("header", [None, "path{}label", "Video{}CLASS"])
@pytest.mark.parametrize("separator", SEPARATORS)
def test_lists_with_any_separator(touch, write, named, separator, header, end):
    touch(*(f"{i}.mp4" for i in range(4)))
    mark = SEPARATORS[separator]
    rows = [f"{i}.mp4{mark}{'ab'[i % 2]}" for i in range(4)]
    data = open_data(write("list.csv", *([header.format(mark)] if header else []), "", *rows, end=end))
    everything = named(data, "train") + named(data, "val")
    assert sorted(everything) == [("0.mp4", "a"), ("1.mp4", "b"), ("2.mp4", "a"), ("3.mp4", "b")]


def test_only_ends_of_lines_end_a_row(touch, write, named):
    touch("1.mp4", "2.mp4", "3.mp4")
    rows = ("1.mp4,a\u2028b,train,x\x85y", '2.mp4,"two\n lines",train,"of\n\ntext"', "3.mp4,a\u2028b,val,z")
    data = open_data(write("list.csv", "path,label,split,caption", *rows))
    assert named(data, "train") == [("1.mp4", "a\u2028b"), ("2.mp4", "two\n lines")]
    assert named(data, "val") == [("3.mp4", "a\u2028b")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_is_no_part_of_the_header(touch, write, named, encoding):
    touch("é.mp4", "2.mp4")
    rows = ["file,word,split", "é.mp4,ä,train", "2.mp4,b,train", "2.mp4,b,val"]
    data = open_data(write("list.csv", *rows, encoding=encoding))
    assert named(data, "train") == [("é.mp4", "ä"), ("2.mp4", "b")]


QUOTED = {
    "comma": '"{}",{}',
    "semicolon": '"{}";{}',
    "tab, bare": "{}\t{}",
    "comma, bare": "{},{}",
    "space": '"{}" {}',
    "space, bare": "{} {}",
    "space, both": '"{}" "{}"',
}


@pytest.mark.parametrize("layout", QUOTED)
def test_paths_with_spaces(touch, write, named, layout):
    names = ["a b/one two.mp4", "a b/three  four.mp4", "five.mp4"]
    root = touch(*names)
    rows = [QUOTED[layout].format(name, label) for name, label in zip(names, "xyx", strict=True)]
    rows.append(QUOTED[layout].format(names[1], "y"))
    write("val.txt", rows[0])
    write("train.txt", *rows)
    data = open_data(root)
    assert [path for path, _ in named(data, "train")] == [*names, names[1]]
    assert named(data, "val") == [("a b/one two.mp4", "x")]


def test_quoted_labels_with_spaces(touch, write, named):
    root = touch("1.mp4", "2.mp4")
    write("val.txt", '1.mp4 "high jump"')
    write("train.txt", '1.mp4 "high jump"', "2.mp4 run")
    assert named(open_data(root), "train") == [("1.mp4", "high jump"), ("2.mp4", "run")]


@pytest.mark.parametrize("header", [[], ["path, label"]])
def test_quotes_after_a_space(touch, write, named, header):
    touch("1.mp4", "2.mp4")
    data = open_data(write("val.csv", *header, '"1.mp4", "x, y"', '"2.mp4", "z"'))
    assert named(data, "val") == [("1.mp4", "x, y"), ("2.mp4", "z")]


@pytest.mark.parametrize("header", ["clip_path,label", "clip_name,clip_path,label", "video_name,filename,label"])
def test_other_names_of_the_column_of_paths(touch, write, named, header):
    touch("1.mp4", "2.mp4")
    rows = [f"{'x,' * (header.count(',') - 1)}{name}" for name in ("1.mp4,a", "2.mp4,b")]
    assert named(open_data(write("val.csv", header, *rows)), "val") == [("1.mp4", "a"), ("2.mp4", "b")]


def test_frames_split_and_group_of_a_list(tmp_path, touch, write):
    touch("1.mp4", "2.mp4")
    data = open_data(
        write(
            "list.csv",
            "note,subset,video_path,start_frame,end_frame,class,patient",
            "x,training,1.mp4,0,8,a,p1",
            "x,TRAIN,1.mp4,8,,b,p1",
            "x,validation,2.mp4,,12,b,p2",
            "x,,2.mp4,3,9,a,",
        )
    )
    one, two = tmp_path / "1.mp4", tmp_path / "2.mp4"
    assert data.splits["train"] == [
        Sample(one, 0, 0, 8, group="p1"), Sample(one, 1, 8, None, group="p1"), Sample(two, 0, 3, 9),
    ]  # fmt: skip
    assert data.splits["val"] == [Sample(two, 1, 0, 12, group="p2")]
    assert data.splits["val"][0].name == f"{two}[0:12]"


@pytest.mark.parametrize(
    "header",
    ["participant_id", "participant", "subject_id", "person_id", "Patient ID", "subjectId", "subject_id,patient"],
)
def test_other_names_of_the_column_of_groups(touch, write, header):
    touch("1.mp4", "2.mp4")
    rows = [f"{i}.mp4,{'ab'[i % 2]},{','.join(f'{name}{i}' for name in header.split(','))}" for i in (1, 2)]
    data = open_data(write("val.csv", f"path,label,{header}", *rows))
    assert [sample.group for sample in data.splits["val"]] == [f"{header.split(',')[-1]}{i}" for i in (1, 2)]


def test_a_person_of_a_box_is_no_group(touch, write):
    touch("1.mp4", "2.mp4")
    header = "path,time_s,x1,y1,x2,y2,label,person_id"
    data = open_data(write("val.csv", header, "1.mp4,1,0,0,1,1,sit,0", "2.mp4,1,0,0,1,1,talk,0"))
    assert [sample.group for sample in data.splits["val"]] == ["", ""]


def test_a_column_of_folds(touch, write, named, refused):
    touch(*(f"{i}.mp4" for i in range(6)))
    rows = [f"{i}.mp4,{'ab'[i % 2]},{i // 2 + 1}" for i in range(6)]
    file = write("list.csv", "path,label,fold", *rows)
    assert open_data(file).layout == "list (list.csv), fold 1"
    assert named(open_data(file), "val") == [("0.mp4", "a"), ("1.mp4", "b")]
    data = open_data(file, fold=3)
    assert named(data, "val") == [("4.mp4", "a"), ("5.mp4", "b")] and len(data.splits["train"]) == 4
    with pytest.raises(ValueError, match=r"list\.csv: fold 4; there is 1, 2, 3"):
        open_data(file, fold=4)
    assert "row 8: no fold, others have one" in refused(write("list.csv", "path,label,fold", *rows, "1.mp4,b,"))
    assert "fold 'first' is no whole number" in refused(write("list.csv", "path,label,fold", "1.mp4,b,first"))


def test_parts_go_before_folds(touch, write, named):
    touch(*(f"{i}.mp4" for i in range(6)))
    rows = [f"{i}.mp4,{'ab'[i % 2]},{i // 2},{split}" for i, split in enumerate(["train"] * 4 + ["val"] * 2)]
    file = write("list.csv", "path,label,fold,split", *rows)
    assert named(open_data(file), "val") == [("4.mp4", "a"), ("5.mp4", "b")]
    with pytest.raises(ValueError, match="no list without a part val whose column fold has several"):
        open_data(file, fold=1)
    data = open_data(write("list.csv", "path,label,fold,split", *(row.replace("val", "test") for row in rows)))
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [2, 2, 2]


@pytest.mark.parametrize("first", ["sep=;", '"SEP=;"'])
def test_the_line_of_excel_that_names_the_separator(touch, write, named, first):
    touch("1.mp4", "2.mp4")
    file = write("list.csv", first, "path;label;split", "1.mp4;x;val", "2.mp4;y;val", end="\r\n")
    for path in (file, file.parent):
        assert named(open_data(path), "val") == [("1.mp4", "x"), ("2.mp4", "y")]


@pytest.mark.parametrize("name", ["training_data.csv", "test.csv", "all.csv"])
def test_a_column_split_goes_before_the_name_of_the_list(touch, write, named, name, caplog):
    touch("1.mp4", "2.mp4", "3.mp4", "4.mp4")
    rows = ["1.mp4,a,train", "2.mp4,b,train", "3.mp4,a,val", "4.mp4,b,test"]
    data = open_data(write(name, "path,label,split", *rows))
    assert named(data, "train") == [("1.mp4", "a"), ("2.mp4", "b")]
    assert named(data, "val") == [("3.mp4", "a")] and named(data, "test") == [("4.mp4", "b")]
    assert not caplog.text


def test_a_column_split_that_contradicts_one_of_several_lists_is_said(touch, write, named, caplog):
    root = touch("1.mp4", "2.mp4", "3.mp4", "4.mp4")
    write("train.csv", "path,label,split", "1.mp4,a,train", "2.mp4,b,", "3.mp4,a,val")
    write("val.csv", "path,label", "4.mp4,b")
    data = open_data(root)
    assert named(data, "train") == [("1.mp4", "a"), ("2.mp4", "b")]
    assert named(data, "val") == [("3.mp4", "a"), ("4.mp4", "b")]
    assert "train.csv: its column split puts 1 row into other parts, first row 4 into val; read so" in caplog.text


def test_frames_as_pandas_writes_them(touch, write):
    touch("1.mp4", "2.mp4")
    data = open_data(write("val.csv", "path,label,start_frame,end_frame", "1.mp4,a,0.0,8.0", "2.mp4,b,3.0,"))
    assert [(sample.start, sample.end) for sample in data.splits["val"]] == [(0, 8), (3, None)]


def test_parts_in_seconds(tmp_path, touch, write):
    touch("1.mp4", "2.mp4")
    rows = ["1.mp4,a,0.5,2,train", "2.mp4,b,,3.25,train", "2.mp4,b,4,,val"]
    data = open_data(write("list.csv", "path,label,start_s,end_s,split", *rows))
    one, two = tmp_path / "1.mp4", tmp_path / "2.mp4"
    assert data.splits["train"] == [Sample(one, 0, 0.5, 2, unit="s"), Sample(two, 1, 0, 3.25, unit="s")]
    assert data.splits["val"][0].name == f"{two}[4.0: s]"


def test_parts_as_spans_of_one_video(tmp_path, touch, write):
    touch("1.mp4", "2.mp4")
    rows = ["1.mp4,a,0.5,2,train", "1.mp4,b,2,3,train", "2.mp4,b,4,5,val"]
    data = open_data(write("list.csv", "path,label,start_s,end_s,split", *rows), task="frames")
    assert data.splits["train"] == [
        Sample(tmp_path / "1.mp4", (Span(0.5, 2, 0), Span(2, 3, 1)), unit="s"),
    ]  # fmt: skip
    assert data.splits["val"] == [Sample(tmp_path / "2.mp4", (Span(4, 5, 1),), unit="s")]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("start_frame", "stop_frame"), ("Start Frame", "End Frame"), ("startFrame", "endFrame"),
        ("start-frame", "end-frame"), ("startframe", "endframe"), ("frame_start", "frame_end"),
        ("begin_frame", "end_frame"), ("first_frame", "last_frame"), ("onset_frame", "offset_frame"),
        ("start_time", "stop_time"), ("t_start", "t_end"), ("Start time (s)", "End (s)"), ("startSec", "stopTimestamp"),
    ],
)  # fmt: skip
def test_names_of_starts_and_ends(touch, write, start, end):
    touch("1.mp4", "2.mp4")
    rows = ["1.mp4,5,15,a", "2.mp4,0,9,b"]
    (sample, _) = open_data(write("val.csv", f"video_id,{start},{end},label", *rows)).splits["val"]
    is_frame = "frame" in start.lower()
    assert (sample.start, sample.end, sample.unit) == (5, 15, "frames" if is_frame else "s")


def test_of_frames_and_timestamps_frames_are_read(touch, write, caplog):
    """As EPIC-KITCHENS has them."""
    touch("1.mp4", "2.mp4")
    header = "video_id,start_timestamp,stop_timestamp,start_frame,stop_frame,label"
    rows = [f"{i}.mp4,00:00:01.089,00:00:02.290,65,137,{'ab'[i % 2]}" for i in (1, 2)]
    data = open_data(write("val.csv", header, *rows))
    assert [(each.start, each.end, each.unit) for each in data.splits["val"]] == [(65, 137, "frames")] * 2
    assert "start_frame, stop_frame); frames are read" in caplog.text
    rows = ["1.mp4,00:00:01.089,01:01:02.290,a", "2.mp4,0.5,,b"]
    data = open_data(write("val.csv", "video_id,start_timestamp,stop_timestamp,label", *rows))
    assert [(each.start, each.end) for each in data.splits["val"]] == [(1.089, 3662.29), (0.5, None)]


def test_other_columns_beside_a_start_and_an_end_are_ignored(touch, write, caplog):
    touch("1.mp4", "2.mp4")
    header = "path,start_s,end_s,label,frame_start,frame_end,stop_time,clip_start,onset,duration"
    data = open_data(write("val.csv", header, "1.mp4,1,2,a,30,60,9,,,12", "2.mp4,1,2,b,30,60,9,,,12"))
    assert [(each.start, each.end, each.unit) for each in data.splits["val"]] == [(1, 2, "s")] * 2
    header = "path,end_s,label,first_name,caption"
    data = open_data(write("val.csv", header, "1.mp4,2,a,x,y", "2.mp4,2,b,x,y"))
    assert [(each.start, each.end) for each in data.splits["val"]] == [(0, 2)] * 2
    assert not caplog.text


@pytest.mark.parametrize(
    ("columns", "odd"),
    [
        ("begin,stop", "begin"), ("onset,offset", "onset"), ("start_ms,end_ms", "start_ms"), ("from,to", "from"),
        ("clip_start,clip_end", "clip_start"), ("start_idx,end_idx", "start_idx"), ("start_s,endms", "endms"),
        ("start_frame,clip_end", "clip_end"), ("startMs,endMs", "startMs"), ("f_init,f_end", "f_end"),
        ("start_frame,clip_offset", "clip_offset"), ("start_frame,duration", "start_frame"),
        ("start_s,duration_s", "start_s"), ("num_frames,start_frame", "start_frame"), ("stop_frame,x", "stop_frame"),
    ],
)  # fmt: skip
def test_a_start_or_an_end_that_is_not_known_is_refused(touch, write, refused, columns, odd):
    touch("1.mp4", "2.mp4")
    told = refused(write("list.csv", f"path,label,{columns}", "1.mp4,a,1,2", "2.mp4,b,1,2"))
    assert re.search(rf"list\.csv: column {odd} (may be a start or an end of samples|without the other end); ", told)


def test_boxes_of_ones_own(tmp_path, touch, write):
    touch("1.mp4", "2.mp4")
    data = open_data(
        write(
            "boxes.csv",
            "path,time_s,x1,y1,x2,y2,label,split",
            "1.mp4,2.5,0.1,0.2,0.5,0.9,sit,train",
            "1.mp4,2.5,0.1,0.2,0.5,0.9,talk,train",
            "1.mp4,2.5,0.5,0.2,0.8,0.9,sit,train",
            "1.mp4,3.5,0.5,0.2,0.8,0.9,sit,train",
            "2.mp4,1,0,0,1,1,talk,val",
        )
    )
    assert (data.task, data.classes) == ("detect", ("sit", "talk"))
    actors = (Actor(0.1, 0.2, 0.5, 0.9, (0, 1)), Actor(0.5, 0.2, 0.8, 0.9, (0,)))
    assert data.splits["train"][0] == Sample(tmp_path / "1.mp4", actors, moment=2.5, unit="s")
    assert [sample.moment for sample in data.splits["train"]] == [2.5, 3.5]
    assert data.splits["val"][0].target == (Actor(0, 0, 1, 1, (1,)),)


def test_a_moment_in_which_nobody_is_seen(touch, write):
    touch("1.mp4", "2.mp4")
    header = "path,time_s,x1,y1,x2,y2,label,split"
    rows = ["1.mp4,1,0,0,1,1,sit,train", "1.mp4,2,,,,,,train", "2.mp4,1,,,,,,val"]
    data = open_data(write("boxes.csv", header, *rows))
    assert [(sample.moment, len(sample.target)) for sample in data.splits["train"]] == [(1, 1), (2, 0)]
    assert [sample.target for sample in data.splits["val"]] == [()]
    with pytest.raises(ValueError, match=r"row 3 .*no path or no label"):
        open_data(write("boxes.csv", header, *rows[:1], "1.mp4,2,0,0,1,1,,train"))


def test_integer_labels_keep_numeric_order(touch, write):
    touch("1.mp4")
    rows = [f"1.mp4,{label},{split}" for split in ("train", "val") for label in (10, 9, 2)]
    data = open_data(write("list.csv", "path,label,split", *rows))
    assert data.classes == ("2", "9", "10")
    assert [sample.target for sample in data.splits["train"]] == [2, 1, 0]


LABELS = {
    "commas after a space": ("1.mp4 1,5,7", "2.mp4 5"),
    "commas after a tab": ("1.mp4\t1,5,7", "2.mp4\t5"),
    "repeated integers": ("1.mp4 1 5 7", "2.mp4 5"),
    "repeated after commas": ("1.mp4,1,5,7", "2.mp4,5"),
    "a column of labels": ("path,labels", '1.mp4,"1,5,7"', "2.mp4,5"),
    "quotes without a header": ('1.mp4,"1,5,7"', "2.mp4,5"),
    "quotes in a column called label": ("path,label", '1.mp4,"1,5,7"', "2.mp4,5"),
    "labels between bars": ("path,tags", "1.mp4,1|5|7", "2.mp4,5"),
}


@pytest.mark.parametrize("layout", LABELS)
def test_several_labels(touch, write, named, layout):
    root = touch("1.mp4", "2.mp4")
    *rows, last = LABELS[layout]
    write("train.csv", *rows, last)
    write("val.csv", *rows[:-1], last)  # no row of it has several
    data = open_data(root)
    assert (data.task, data.classes) == ("multilabel", ("1", "5", "7"))
    assert named(data, "train") == [("1.mp4", ("1", "5", "7")), ("2.mp4", ("5",))]
    assert named(data, "val") == [("2.mp4", ("5",))]


LISTED = {
    "Python": ("labels", """"['run', 'high jump']",train""", '"[]",train', """"['high jump']",val"""),
    "json": ("labels", """"[""run"", ""high jump""]",train""", "[],train", '"[""high jump""]",val'),
    "numpy": ("labels", "['run' 'high\\ jump' ''],train", "[],train", "['high jump'],val"),
    "sets": ("labels", """"{'run', 'high jump'}",train""", "set(),train", "{'high jump'},val"),
    "a column called label": ("label", """"['run', 'high jump']",train""", '"[]",train', """"['high jump']",val"""),
    "without quotes": ("labels", '"[run, high jump]",train', '"[ ]",train', "[high jump],val"),
}


@pytest.mark.parametrize("form", LISTED)
def test_labels_as_lists_of_python_or_json(touch, write, named, form):
    touch("1.mp4", "2.mp4")
    column, *cells = LISTED[form]
    rows = [f"{name},{cell}" for name, cell in zip(("1.mp4", "2.mp4", "2.mp4"), cells, strict=True)]
    data = open_data(write("list.csv", f"path,{column},split", *rows))
    assert named(data, "train") == [("1.mp4", ("high jump", "run")), ("2.mp4", ())]
    assert named(data, "val") == [("2.mp4", ("high jump",))]


@pytest.mark.parametrize("header", [[], ["path,labels"], ["path,label"]])
@pytest.mark.parametrize("cells", [("[0, 3]", "[3]"), ("[3 0]", "[3]")])
def test_numbers_as_lists(touch, write, named, header, cells):
    touch("1.mp4", "2.mp4")
    data = open_data(write("val.csv", *header, *(f'{i}.mp4,"{cell}"' for i, cell in enumerate(cells, start=1))))
    assert named(data, "val") == [("1.mp4", ("0", "3")), ("2.mp4", ("3",))]


def test_a_video_may_show_no_class_of_several(touch, write, named):
    touch("1.mp4", "2.mp4")
    data = open_data(write("list.csv", "path,labels,split", "1.mp4,jump;run,train", "2.mp4,,train", "2.mp4,run,val"))
    assert named(data, "train") == [("1.mp4", ("jump", "run")), ("2.mp4", ())]


def test_several_labels_in_rows_of_their_own(touch, write, named):
    touch("1.mp4", "2.mp4")
    rows = ["1.mp4,b,,train", "1.mp4,a,,train", "2.mp4,a,,train", "1.mp4,a,9,train", "1.mp4,a,,val", "2.mp4,,,train"]
    data = open_data(write("list.csv", "path,labels,end_frame,split", *rows))
    assert named(data, "train") == [("1.mp4", ("a", "b")), ("2.mp4", ("a",)), ("1.mp4", ("a",))]
    assert named(data, "val") == [("1.mp4", ("a",))]


@pytest.mark.parametrize("separator", [" ", "\t"])
def test_lists_of_frame_folders(frames, write, named, separator):
    frames("rawframes/run/one two", "rawframes/jump/three", "rawframes/jump/four")
    rows = [("run/one two", "3", "0"), ("jump/three", "3", "1")]
    write("train_videofolder.txt", *map(separator.join, rows))
    data = open_data(write("val_videofolder.txt", separator.join(("jump/four", "3", "1"))).parent)
    assert named(data, "train") == [("rawframes/run/one two", "0"), ("rawframes/jump/three", "1")]
    assert data.task == "classify"


def test_frame_folders_with_several_labels(frames, write, named):
    root = frames("a", "b")
    write("train.txt", "a 3 0 2", "b 3 1")
    write("val.txt", "b 3 1")
    assert named(open_data(root), "train") == [("a", ("0", "2")), ("b", ("1",))]


def test_an_ending_is_not_needed(touch, frames, write, named):
    touch("videos/x/1.webm")
    frames("videos/2")
    data = open_data(write("list.csv", "video_id,label,split", "1,a,train", "2,b,train", "x/1,a,val"))
    assert named(data, "train") == [("videos/x/1.webm", "a"), ("videos/2", "b")]
    assert named(data, "val") == [("videos/x/1.webm", "a")]


@pytest.mark.parametrize("file", ["classes.txt", "label_map_k400.txt", "classInd.txt", "kinetics_classnames.json"])
def test_numbers_get_names_from_a_class_file(touch, write, named, file):
    root = touch("1.mp4", "2.mp4")
    write("train.txt", "1.mp4 2", "2.mp4 0")
    write("val.txt", "2.mp4 0")
    lines = {
        "classInd.txt": ["1 bowling", "2 eating", "3 abseiling"],  # these count from 1, the list from 0
        "kinetics_classnames.json": ['{"\\"abseiling\\"": 2, "bowling": 0, "eating": 1}'],
    }
    write(file, *lines.get(file, ["bowling", "eating", "abseiling"]))
    data = open_data(root)
    assert data.classes == ("bowling", "eating", "abseiling")
    assert named(data, "train") == [("1.mp4", "abseiling"), ("2.mp4", "bowling")]


def test_the_rate_is_of_folders_of_frames_alone(touch, frames, write):
    """A file has times of its own, whatever its name."""
    touch("1.mp4", "2.m4p", "3.npy")
    frames("4", "5.1")
    rows = [
        f"{name},{label},12,train" for name, label in zip(("1.mp4", "2.m4p", "3.npy", "4", "5.1"), "ababa", strict=True)
    ]
    data = open_data(write("list.csv", "path,label,fps,split", *rows, "4,b,,val"))
    assert [sample.fps for sample in data.splits["train"]] == [None, None, 12, 12, 12]


SECRET = {
    "one column": ("path", "3.mp4"),
    "one column without a header": ("3.mp4",),
    "a header without labels": ("path,start_frame,end_frame", "3.mp4,1,2"),
    "a header of two columns": ("video_id,duration", "3,12"),
    "columns that are not known": ("id,frames,label_id", "3,37,"),
    "-1 for each": ("3.mp4 -1",),
    "-1 in folders of frames": ("frames/3 37 -1",),
    "empty cells": ("path,label", "3.mp4,"),
}


@pytest.mark.parametrize("form", SECRET)
def test_a_test_part_without_labels_is_left_out(touch, write, named, form, caplog):
    root = touch("1.mp4", "2.mp4", "3.mp4")
    write("train.csv", "path,label", "1.mp4,0", "2.mp4,1")
    write("val.csv", "path,label", "2.mp4,1")
    write("test.csv", *SECRET[form])
    data = open_data(root)
    assert named(data, "train") == [("1.mp4", "0"), ("2.mp4", "1")] and sorted(data.splits) == ["train", "val"]
    assert "test.csv: no labels; left out" in caplog.text


def test_rows_of_test_without_a_label_are_left_out(touch, write, named, refused, caplog):
    touch("1.mp4", "2.mp4", "3.mp4")
    rows = ["1.mp4,a,train", "2.mp4,b,train", "2.mp4,b,val", "3.mp4,,test", "1.mp4,a,test"]
    data = open_data(write("list.csv", "path,label,split", *rows))
    assert named(data, "test") == [("1.mp4", "a")]
    assert "list.csv: 1 row of test without a label; left out" in caplog.text
    assert "rows of test alone and no label" in refused(write("list.csv", "path,label,split", rows[3]))


def test_paths_of_windows(touch, write, named):
    touch("a/1.mp4", "b/2.mp4")
    data = open_data(
        write(
            "list.csv",
            "path,label,split",
            *(f"{p},{s}" for s in ("train", "val") for p in (r"a\1.mp4,x", r"b\2.mp4,y")),
        )
    )
    assert named(data, "train") == [("a/1.mp4", "x"), ("b/2.mp4", "y")]


def test_a_part_with_two_classes_is_said(touch, write, caplog):
    touch("1.mp4", "2.mp4")
    open_data(write("list.csv", "path,label,split", "1.mp4,a,train", "2.mp4,b,train", "2.mp4,a,train", "1.mp4,a,val"))
    assert "1 sample with several classes, first" in caplog.text
    assert "2.mp4 (b, a); write a column labels" in caplog.text


def test_the_lists_of_tsm_in_a_folder(frames, write, named):
    frames("20bn-frames/7", "20bn-frames/8", "20bn-frames/9")
    write("category.txt", "push", "pull")
    write("train_videofolder.txt", "7 3 0", "8 3 1")
    data = open_data(write("val_videofolder.txt", "9 3 1").parent)
    assert data.classes == ("push", "pull")
    assert named(data, "train") == [("20bn-frames/7", "push"), ("20bn-frames/8", "pull")]
    assert named(data, "val") == [("20bn-frames/9", "pull")]


# errors


HEADER = "path,label,start_frame,end_frame,split"
ERRORS = {
    "empty list": ((), r"list\.csv: the list is empty"),
    "a header alone": (("path,label",), r"list\.csv: a header \(path,label\) and no row; write one for each video"),
    "three columns without header": (("1.mp4,3,a", "2.mp4,3,b"), r"3 columns .* header: path \(path\|file"),
    "one column": (("1.mp4", "2.mp4"), r"1 columns .* two columns are `path label`"),
    "missing files": (
        ("1.mp4 a", "2.mp4 b", "8.mp4 a", "9.mp4 a"),
        r"list\.csv: 2 of 4 videos are not there, first 8\.mp4 \(list\.csv, row 3\); looked in .*; correct these",
    ),
    "captions for paths": (("path,label", "1.mp4,a", f"{'x' * 300},b"), r"1 of 2 videos are not there, first x{300} "),
    "an unknown header": (("clip,action", "1.mp4,a"), r"first clip \(list\.csv, row 1\); .*; if this row is a header"),
    "a number below 0": (("1.mp4 0", "2.mp4 -1"), r"label -1 where all are numbers; write whole ones from 0"),
    "numbers as pandas writes them": (("1.mp4,0.0", "2.mp4,1.0"), r"label 0\.0 where all are numbers; write whole"),
    "a line without end": (("1.mp4 " + "x" * 200_000,), r"a row that csv cannot read \(field larger"),
    "unknown split": ((HEADER, "1.mp4,a,,,half"), r"row 2 \(1\.mp4 .*half\): split 'half' is none of train"),
    "frames that are no numbers": ((HEADER, "1.mp4,a,,,", "2.mp4,b,x,,"), r"list\.csv, row 3 \(2\.mp4.*'x'"),
    "half a frame": ((HEADER, "1.mp4,a,0.5,8,"), r"row 2 .*\): frame 0\.5 is no whole number"),
    "a time code": (("path,label,end_s", "1.mp4,a,0:01"), r"row 2 .*\): '0:01' is no number; write one, seconds as 61"),
    "frames in the wrong order": ((HEADER, "1.mp4,a,8,8,"), r"row 2 .*\): frames \[8, 8\) are none"),
    "a negative frame": ((HEADER, "1.mp4,a,-1,8,"), r"row 2 .*\): frames \[-1, 8\) are none"),
    "seconds in the wrong order": (("path,label,start_s,end_s", "1.mp4,a,3,2.5"), r"row 2 .*\): seconds \[3, 2\.5\)"),
    "no label": ((HEADER, "1.mp4,,,,"), r"row 2 .*\): no path or no label"),
    "a start of no unit": (("path,label,start,end", "1.mp4,a,1,2"), r"column start of frames or seconds\? .* start_s"),
    "two columns of labels": (("path,label,class", "1.mp4,a,1"), r"columns label and class are both the label; rename"),
    "label and labels": (("path,label,tags", "1.mp4,a,1"), r"columns label and tags; rename one"),
    "frames and seconds": (("path,label,start_frame,end_s", "1.mp4,a,1,2"), r"columns of frames and of seconds"),
    "boxes without a time": (("path,x1,y1,x2,y2,label", "1.mp4,0,0,1,1,a"), r"boxes need .*; add time_s"),
    "boxes in pixels": (
        ("path,time_s,x1,y1,x2,y2,label", "1.mp4,0,10,20,30,40,a"), r"row 2 .*fractions of the frame, 0 to 1; divide"
    ),
    "boxes as width and height": (
        ("path,time_s,x1,y1,x2,y2,label", "1.mp4,0,0.5,0.5,0.2,0.2,a"), r"row 2 .*the box is empty; x1, y1 is its upper"
    ),
    "a moment before the video": (("path,time_s,x1,y1,x2,y2,label", "1.mp4,-1,0,0,1,1,a"), r"row 2 .*moment -1 is"),
    "frame folders among videos": (("a 3 0", "1.mp4 1"), r"row 2 \(1\.mp4 1\): other rows are `frame_dir total_frames"),
    "a comma without quotes": (("path,label", "1.mp4,a,", "2.mp4,to b, then c"), r"row 3 .*more cells .* in quotes"),
    "a list that is none": (("path,labels", """1.mp4,"['a', None]\""""), r"row 2 .*\): no list of names or of numbers"),
    "a mark for each class": (("path,labels", '1.mp4,"[0, 1, 1]"'), r"row 2 .*: labels 0, 1, 1 mark each class"),
    "a start, or a label": (("1.mp4 0 30 5", "2.mp4 3 33 5"), r"three numbers in every row, `path start end label` or"),
    "Moments in Time": (
        ("run/1.mp4,run,7,4", "jump/2.mp4,jump,3,0"),
        r"row 1 \(run/1\.mp4,run,7,4\): words and numbers behind the path; write a header",
    ),
    "an offset, or two labels": (("a 2 5 127", "b 2 5 127"), r"three numbers in every row, .* or MMAction2's"),
}  # fmt: skip


@pytest.mark.parametrize("what", ERRORS)
def test_what_cannot_be_read_is_one_line(touch, write, refused, what):
    touch("1.mp4", "2.mp4")
    rows, message = ERRORS[what]
    assert re.search(message, refused(write("list.csv", *rows)))


def test_a_video_without_a_span(touch, write):
    touch("1.mp4", "2.mp4", "3.mp4")
    rows = ["1.mp4,a,1,2,train", "2.mp4,,,,train", "3.mp4,,,,val", "3.mp4,a,0.5,2,val"]
    data = open_data(write("list.csv", "path,label,start_s,end_s,split", *rows), task="frames")
    assert [sample.target for sample in data.splits["train"]] == [(Span(1, 2, 0),), ()]
    (last,) = data.splits["val"]
    assert (last.target, last.unit) == ((Span(0.5, 2, 0),), "s")
    write("list.csv", "path,label,start_s,end_s,split", *rows[:1], "2.mp4,,1,2,train")
    with pytest.raises(ValueError, match=r"row 3 .*no path or no label"):
        open_data("list.csv", task="frames")
    write("list.csv", "path,label,start_s,end_s,split", '1.mp4,"1,5",1,2,train', "2.mp4,,,,val")
    with pytest.raises(ValueError, match="is read as multilabel, not as frames"):
        open_data("list.csv", task="frames")


def test_a_video_that_is_written_in_two_ways_is_one(touch, write):
    touch("clips/1.mp4", "2.mp4")
    rows = ["clips/1.mp4,a,1,2,train", "./clips//1.mp4,b,3,4,train", "2.mp4,a,1,2,val"]
    data = open_data(write("list.csv", "path,label,start_s,end_s,split", *rows), task="frames")
    assert [sample.target for sample in data.splits["train"]] == [(Span(1, 2, 0), Span(3, 4, 1))]


def test_spans_need_an_end(touch, write):
    touch("1.mp4")
    with pytest.raises(ValueError, match=r"list\.csv, row 2 \(1\.mp4\): no end"):
        open_data(write("list.csv", "path,label,start_s,end_s", "1.mp4,a,1,"), task="frames")


def test_lists_of_different_tasks(touch, write):
    root = touch("1.mp4")
    write("train.csv", "path,time_s,x1,y1,x2,y2,label", "1.mp4,0,0,0,1,1,a")
    write("val.csv", "1.mp4 a")
    with pytest.raises(ValueError, match=r"train\.csv, val\.csv hold classify and detect; give one of them"):
        open_data(root)
