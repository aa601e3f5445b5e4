import pytest

from tubelet.data.layouts import open_data
from tubelet.data.sample import Sample


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def touch(root, *names):
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return root


def write(root, name, *lines, end="\n", encoding="utf-8"):
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes("".join(line + end for line in lines).encode(encoding))
    return file


def named(data, split):
    """(file name, class name) of each sample."""
    return [(sample.path.name, data.classes[sample.target]) for sample in data.splits[split]]


def test_a_folder_for_each_class(tmp_path):
    touch(tmp_path, *(f"{c}/{c}{i}.mp4" for c in ("run", "jump") for i in range(5)))
    touch(tmp_path, "run/deeper/run5.MP4", "run/notes.doc", ".cache/x.mp4")
    data = open_data(tmp_path)
    assert data.classes == ("jump", "run")
    assert sorted(data.splits) == ["train", "val"]
    everything = named(data, "train") + named(data, "val")
    assert sorted(everything) == sorted(
        [(f"{c}{i}.mp4", c) for c in ("run", "jump") for i in range(5)] + [("run5.MP4", "run")]
    )
    assert {label for _, label in named(data, "val")} == {"run", "jump"}
    assert len(data.splits["val"]) == 2


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
@pytest.mark.parametrize("train", ["train", "Training"])
def test_a_folder_for_each_split(tmp_path, train, val):
    touch(tmp_path, f"{train}/a/1.avi", f"{train}/b/2.avi", f"{val}/b/3.webm", "test/a/4.gif", "other/c/5.mp4")
    data = open_data(tmp_path)
    assert data.classes == ("a", "b")
    assert named(data, "train") == [("1.avi", "a"), ("2.avi", "b")]
    assert named(data, "val") == [("3.webm", "b")]
    assert named(data, "test") == [("4.gif", "a")]


def test_a_train_folder_alone_is_set_aside_from(tmp_path):
    touch(tmp_path, *(f"train/{c}/{i}.mp4" for c in "ab" for i in range(5)))
    data = open_data(tmp_path)
    assert (len(data.splits["train"]), len(data.splits["val"])) == (8, 2)


@pytest.mark.parametrize(("name", "suffix"), [("train", "csv"), ("train", "txt"), ("Train", "TSV")])
def test_a_folder_with_a_list_for_each_split(tmp_path, name, suffix):
    touch(tmp_path, "clips/1.mp4", "clips/2.mp4", "clips/3.mp4")
    write(tmp_path, f"{name}.{suffix}", "clips/1.mp4 a", "clips/2.mp4 b")
    write(tmp_path, f"val.{suffix}", "clips/3.mp4 b")
    write(tmp_path, "README.txt", "not a list")
    data = open_data(tmp_path)
    assert named(data, "train") == [("1.mp4", "a"), ("2.mp4", "b")]
    assert named(data, "val") == [("3.mp4", "b")]


SEPARATORS = {"space": " ", "comma": ",", "tab": "\t", "semicolon": ";"}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("header", [None, "path{}label", "Video{}CLASS"])
@pytest.mark.parametrize("separator", SEPARATORS)
def test_lists_with_any_separator(tmp_path, separator, header, end):
    touch(tmp_path, *(f"{i}.mp4" for i in range(4)))
    mark = SEPARATORS[separator]
    rows = [f"{i}.mp4{mark}{'ab'[i % 2]}" for i in range(4)]
    data = open_data(write(tmp_path, "list.csv", *([header.format(mark)] if header else []), "", *rows, end=end))
    everything = named(data, "train") + named(data, "val")
    assert sorted(everything) == [("0.mp4", "a"), ("1.mp4", "b"), ("2.mp4", "a"), ("3.mp4", "b")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path, encoding):
    touch(tmp_path, "é.mp4", "2.mp4")
    rows = ["file,word,split", "é.mp4,ä,train", "2.mp4,b,train", "2.mp4,b,val"]
    data = open_data(write(tmp_path, "list.csv", *rows, encoding=encoding))
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
def test_paths_with_spaces(tmp_path, layout):
    names = ["a b/one two.mp4", "a b/three  four.mp4", "five.mp4"]
    touch(tmp_path, *names)
    rows = [QUOTED[layout].format(name, label) for name, label in zip(names, "xyx", strict=True)]
    rows.append(QUOTED[layout].format(names[1], "y"))
    write(tmp_path, "val.txt", rows[0])
    write(tmp_path, "train.txt", *rows)
    data = open_data(tmp_path)
    assert [str(sample.path.relative_to(tmp_path)) for sample in data.splits["train"]] == [*names, names[1]]
    assert named(data, "val") == [("one two.mp4", "x")]


def test_quoted_labels_with_spaces(tmp_path):
    touch(tmp_path, "1.mp4", "2.mp4")
    write(tmp_path, "val.txt", '1.mp4 "high jump"')
    data = open_data(write(tmp_path, "train.txt", '1.mp4 "high jump"', "2.mp4 run").parent)
    assert named(data, "train") == [("1.mp4", "high jump"), ("2.mp4", "run")]


def test_frames_and_split_of_a_list(tmp_path):
    touch(tmp_path, "1.mp4", "2.mp4")
    data = open_data(
        write(
            tmp_path,
            "list.csv",
            "note,subset,video_path,start_frame,end_frame,class",
            "x,training,1.mp4,0,8,a",
            "x,TRAIN,1.mp4,8,,b",
            "x,validation,2.mp4,,12,b",
            "x,,2.mp4,3,9,a",
        )
    )
    one, two = tmp_path / "1.mp4", tmp_path / "2.mp4"
    assert data.splits["train"] == [Sample(one, 0, 0, 8), Sample(one, 1, 8, None), Sample(two, 0, 3, 9)]
    assert data.splits["val"] == [Sample(two, 1, 0, 12)]
    assert data.splits["val"][0].name == f"{two}[0:12]"


def test_integer_labels_keep_numeric_order(tmp_path):
    touch(tmp_path, "1.mp4")
    rows = [f"1.mp4,{label},{split}" for split in ("train", "val") for label in (10, 9, 2)]
    data = open_data(write(tmp_path, "list.csv", "path,label,split", *rows))
    assert data.classes == ("2", "9", "10")
    assert [sample.target for sample in data.splits["train"]] == [2, 1, 0]


def test_relative_paths_are_beside_the_list_or_where_one_works(tmp_path):
    touch(tmp_path, "lists/near.mp4", "far.mp4", "absolute.mp4")
    rows = ["near.mp4,a,train", "far.mp4,b,train", f"{tmp_path / 'absolute.mp4'},a,val"]
    data = open_data(write(tmp_path, "lists/list.csv", "path,label,split", *rows))
    train, val = data.splits["train"], data.splits["val"]
    assert [sample.path for sample in train] == [
        tmp_path / "lists/near.mp4",
        (tmp_path / "far.mp4").relative_to(tmp_path),
    ]
    assert [sample.path for sample in val] == [tmp_path / "absolute.mp4"]


# the part set aside


def test_the_part_set_aside_is_a_fifth_and_always_the_same(tmp_path):
    touch(tmp_path, *(f"{c}/{c}{i}.mp4" for c in "ab" for i in range(50)))
    before = open_data(tmp_path)
    assert before == open_data(tmp_path)
    assert [sum(s.target == t for s in before.splits["val"]) for t in (0, 1)] == [10, 10]
    assert not {s.path for s in before.splits["val"]} & {s.path for s in before.splits["train"]}
    touch(tmp_path, "a/new.mp4")
    after = open_data(tmp_path)
    assert len({s.path for s in before.splits["val"]} ^ {s.path for s in after.splits["val"]}) <= 2


def test_files_of_one_name_are_set_aside_in_a_stable_order(tmp_path):
    touch(tmp_path, *(f"{c}/person{i:02}/clip.mp4" for c in "ab" for i in range(20)))
    aside = [sample.path.relative_to(tmp_path) for sample in open_data(tmp_path).splits["val"]]
    assert [str(path) for path in aside] == [f"{c}/person{i:02}/clip.mp4" for c in "ab" for i in range(4)]


def test_samples_of_one_file_stay_on_one_side(tmp_path):
    touch(tmp_path, *(f"{i}.mp4" for i in range(12)))
    rows = [f"{i}.mp4,{start},{start + 5},{'ab'[start // 5 % 2]}" for i in range(12) for start in (0, 5, 10)]
    rows += [f"{i}.mp4,20,25,b" for i in range(6)]
    data = open_data(write(tmp_path, "list.csv", "path,start_frame,end_frame,label", *rows))
    train, val = ({sample.path for sample in data.splits[split]} for split in ("train", "val"))
    assert val
    assert not train & val
    assert len(data.splits["train"]) + len(data.splits["val"]) == len(rows)


# errors


def two_classes(root):
    return touch(root, "a/1.mp4", "a/2.mp4", "b/3.mp4", "b/4.mp4")


def listed(*lines):
    return lambda root: write(touch(root, "1.mp4", "2.mp4"), "list.csv", *lines)


HEADER = "path,label,start_frame,end_frame,split"
ERRORS = {
    "no such folder or list": (lambda root: root / "absent", r"absent: no such folder or list"),
    "empty folder": (lambda root: root, r"no videos; give a folder with a folder of videos for each class, or a list"),
    "empty class folder": (
        lambda root: (two_classes(root) / "c").mkdir() or root,
        r"/c: no videos \(.*\.mp4.*\); fill or remove",
    ),
    "one class only": (lambda root: touch(root, "a/1.mp4"), r"one class only \(a\).* at least two"),
    "one file that is no list": (lambda root: touch(root, "x.mp4") / "x.mp4", r"x\.mp4: one file of type \.mp4; give"),
    "one file without suffix": (lambda root: touch(root, "x") / "x", r"/x: one file of type unknown; give"),
    "empty list": (listed(), r"list\.csv: the list is empty"),
    "three columns without header": (listed("1.mp4,3,a", "2.mp4,3,b"), r"3 columns .* header: path \(path\|file"),
    "one column": (listed("1.mp4", "2.mp4"), r"1 columns .* two columns are `path label`"),
    "missing files": (
        listed("1.mp4 a", "2.mp4 b", "8.mp4 a", "9.mp4 a"),
        r"list\.csv: 2 of 4 files are not there, first .*8\.mp4",
    ),
    "unknown split": (listed(HEADER, "1.mp4,a,,,half"), r"row 2 \(1\.mp4 .*half\): split 'half' is none of train"),
    "frames that are no numbers": (listed(HEADER, "1.mp4,a,,,", "2.mp4,b,x,,"), r"list\.csv, row 3 \(2\.mp4.*'x'"),
    "frames in the wrong order": (listed(HEADER, "1.mp4,a,8,8,"), r"row 2 .*\): frames \[8, 8\) are none"),
    "a negative frame": (listed(HEADER, "1.mp4,a,-1,8,"), r"row 2 .*\): frames \[-1, 8\) are none"),
    "no label": (listed(HEADER, "1.mp4,,,,"), r"row 2 .*\): no path or no label"),
    "a class that training lacks": (
        lambda root: touch(root, "train/a/1.mp4", "train/b/2.mp4", "val/c/3.mp4", "val/d/3.mp4"),
        r"no training video for c, d, which validation has",
    ),
    "one video of a class": (
        lambda root: touch(root, "a/1.mp4", "a/2.mp4", "b/3.mp4"),
        r"one video only \(.*3\.mp4\) for class b.*add videos or give a validation part",
    ),
    "a list in another encoding": (
        lambda root: write(touch(root, "1.mp4"), "list.csv", "1.mp4,é", "1.mp4,b", encoding="latin-1"),
        r"list\.csv: .*UTF-8",
    ),
}


@pytest.mark.parametrize("what", ERRORS)
def test_what_cannot_be_read_is_one_line(tmp_path, what):
    make, message = ERRORS[what]
    with pytest.raises(ValueError, match=message) as caught:
        open_data(make(tmp_path))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


# clips
