import re

import pytest

from tubelet.data.layouts import open_data


def two_classes(touch):
    return touch("a/1.mp4", "a/2.mp4", "b/3.mp4", "b/4.mp4")


ERRORS = {
    "no such folder or list": (lambda touch, write: touch() / "absent", r"absent: no such folder or list"),
    "empty folder": (
        lambda touch, write: touch(),
        r"no videos; give a folder with a folder of videos for each class, or a list",
    ),
    "empty class folder": (
        lambda touch, write: (two_classes(touch) / "c").mkdir() or touch(),
        r"/c: no videos \(.*\.mp4.*\); fill or remove",
    ),
    "one class only": (lambda touch, write: touch("a/1.mp4"), r"one class only \(a\).* at least two"),
    "one file that is no list": (
        lambda touch, write: touch("x.mp4") / "x.mp4",
        r"x\.mp4: one file of type \.mp4; give",
    ),
    "one file without suffix": (lambda touch, write: touch("x") / "x", r"/x: one file of type unknown; give"),
    "a json of something else": (
        lambda touch, write: write("x.json", '{"a": 1}'),
        r"x\.json: no annotation of a known",
    ),
    "one class beside a json of something else": (
        lambda touch, write: write("x.json", '{"a": 1}') and touch("videos/1.mp4", "videos/2.mp4"),
        r"one class only \(videos\), and x\.json of no known form; give",
    ),
    "an unknown csv alone": (
        lambda touch, write: write("x.csv", "a,b", "1,2").parent,
        r"no class folders, and x\.csv of no known form; give",
    ),
    "a class that training lacks": (
        lambda touch, write: touch("train/a/1.mp4", "train/b/2.mp4", "val/c/3.mp4", "val/d/3.mp4"),
        r"no training video for c, d, which validation has",
    ),
    "one video of a class": (
        lambda touch, write: touch("a/1.mp4", "a/2.mp4", "b/3.mp4"),
        r"one video only \(.*3\.mp4\) for class b.*add videos or give a validation part",
    ),
    "a list in another encoding": (
        lambda touch, write: write("list.csv", "1.mp4,é", "1.mp4,b", encoding="latin-1"),
        r"list\.csv: .*UTF-8",
    ),
    "a damaged json": (
        lambda touch, write: write("x.json", '{"database": {'),
        r"x\.json, line 2: no json \(.*\); get the file again",
    ),
    "pictures for videos": (
        lambda touch, write: touch("a/001.jpg", "a/002.jpg", "b/001.jpg", "b/002.jpg"),
        r"/a: pictures; a class folder holds a folder of pictures for each video",
    ),
    "a video beside the parts of a class": (
        lambda touch, write: touch("a/train/1.mp4", "a/2.mp4", "b/train/1.mp4"),
        r"/a: 2\.mp4 is beside a folder of a part; move it into one",
    ),
    "a folder that is no class": (
        lambda touch, write: write("classes.txt", "a", "c") and two_classes(touch),
        r"b is not among the 2 classes of .*classes\.txt; add it there",
    ),
    "two lists for a part": (
        lambda touch, write: write("val.txt", "1.mp4 a").parent / write("valid.txt", "1.mp4 a").name,
        r"val\.txt and valid\.txt both say val; remove or rename one",
    ),
    "several kinds of lists": (
        lambda touch, write: (
            write("k_train_videos.txt", "1.mp4 a"),
            write("k_train_rawframes.txt", "x/1 8 0"),
            touch(),
        )[-1],
        r"2 annotations \(k_train_rawframes\.txt; k_train_videos\.txt\); give the file that is meant as the path",
    ),
}


@pytest.mark.parametrize("what", ERRORS)
def test_what_cannot_be_read_is_one_line(touch, write, refused, what):
    make, message = ERRORS[what]
    assert re.search(message, refused(make(touch, write)))


SEVERAL_LISTS = {
    "x.csv; y.csv": {
        "x.csv": ("path,label", "v/1.mp4,a", "v/2.mp4,b"),
        "y.csv": ("path,label", "v/1.mp4,c", "v/2.mp4,d"),
    },
    "ids.csv; more.csv": {"ids.csv": ("video_id,label", "1,a", "2,b"), "more.csv": ("video_id,label", "1,c", "2,d")},
    "head.csv; list.txt": {"list.txt": ("v/1.mp4 a", "v/2.mp4 b"), "head.csv": ("path,label", "v/1.mp4,c")},
    "head.csv; rgb.txt": {"rgb.txt": ("frames/1 3 0", "frames/2 3 1"), "head.csv": ("path,label", "v/1.mp4,c")},
    "test.txt; all.csv": {"test.txt": ("v/1.mp4 a", "v/2.mp4 b"), "all.csv": ("path,label", "v/1.mp4,a", "v/2.mp4,b")},
    "a.txt; b.txt": {"a.txt": ("v/1.mp4 a", "v/2.mp4 b"), "b.txt": ("v/1.mp4 c", "v/2.mp4 d")},
    "only.txt": {"only.txt": ("v/1.mp4 a", "v/2.mp4 b")},  # beside v, which is no data set of class folders
}


@pytest.mark.parametrize("names", SEVERAL_LISTS)
def test_lists_among_which_one_must_choose(touch, write, frames, refused, names):
    root = touch("v/1.mp4", "v/2.mp4")
    if "rgb.txt" in names:
        frames("frames/1", "frames/2")
    for name, lines in SEVERAL_LISTS[names].items():
        write(name, *lines)
    assert re.search(rf"\d annotations? \({re.escape(names)}\); give the file that is meant as the path", refused(root))


def test_a_task_that_is_not_there(touch):
    with pytest.raises(ValueError, match="class folders is read as classify, not as detect"):
        open_data(two_classes(touch), task="detect")


def test_a_fold_that_is_not_there(touch):
    with pytest.raises(ValueError, match="fold 2, but no folds of UCF101"):
        open_data(two_classes(touch), fold=2)


def test_what_was_recognised_is_logged_once(touch, caplog):
    with caplog.at_level("INFO", "tubelet"):
        data = open_data(two_classes(touch))
    (line,) = [record.message for record in caplog.records]
    assert line.endswith(f": {data.layout}, classify, 2 classes, train 2, val 2")


def test_the_only_list_with_a_header_in_a_folder(touch, write, named):
    root = touch("videos/1.mp4", "videos/2.mp4")
    write("anything.csv", "file,class,split", "videos/1.mp4,a,train", "videos/2.mp4,b,train", "videos/2.mp4,b,val")
    write("README.txt", "some words", "and more")
    assert named(open_data(root), "train") == [("videos/1.mp4", "a"), ("videos/2.mp4", "b")]


def test_files_that_are_no_lists_of_videos(touch, write):
    root = two_classes(touch)
    write("train_log.txt", "epoch 1 of 3", "loss 0.5")
    write("validation notes.txt", "some words")
    write("a.csv", "file,class", "x,y")
    write("b.csv", "file,class", "x,y")
    write("x.json", '{"version": "5.0", "shapes": []}')
    write("y.json", '{"annotations": []}')
    (root / "folder.csv").mkdir()
    (root / "folder.csv/3.mp4").touch()
    (root / "folder.csv/4.mp4").touch()
    assert open_data(root).layout == "class folders"


def test_class_folders_beside_what_is_no_list(touch, write, refused, caplog):
    root = touch(*(f"{part}/{name}/1.mp4" for part in ("train", "val") for name in "ab"))
    file = write("train.csv", "name,frames,kind", "1,30,a")
    assert open_data(root).layout == "class folders in train, val"
    assert f"{file}: 3 columns and no header that names them; the class folders are read in its place" in caplog.text
    assert "3 columns and no header" in refused(file)
    write("train.csv", "path,label,split", "1.mp4,a,half")  # a list, with an error in it
    assert "split 'half' is none of train" in refused(root)


def test_parts_go_before_other_lists(touch, write):
    root = touch("1.mp4", "2.mp4", "3.mp4")
    write("train.txt", "1.mp4 a", "2.mp4 b")
    write("val.txt", "3.mp4 a")
    write("all.csv", "path,label", "1.mp4,x", "2.mp4,y")
    assert open_data(root).layout == "list (train.txt, val.txt)"


def test_one_table_among_others_that_names_videos_that_are_there(touch, write):
    root = touch("1.mp4", "2.mp4", "3.mp4", "4.mp4")
    write("list.csv", "path,label", *(f"{i}.mp4,{'ab'[i % 2]}" for i in (1, 2, 3, 4)))
    write("results.csv", "path,label", "gone/9.mp4,a")
    write("notes.txt", "a word")
    write("long.txt", "1.mp4 " + "x" * 5000)
    assert open_data(root).layout == "list (list.csv)"


@pytest.mark.parametrize("folder", ["annotations", "labels", "metafile", "splits"])
def test_a_folder_for_annotations(touch, write, named, folder):
    root = touch("videos/1.mp4", "videos/2.mp4")
    write(f"{folder}/train.txt", "1.mp4 a", "2.mp4 b")
    write(f"{folder}/val.txt", "videos/2.mp4 b")
    assert named(open_data(root), "train") == [("videos/1.mp4", "a"), ("videos/2.mp4", "b")]
    assert named(open_data(root / folder), "val") == [("videos/2.mp4", "b")]


def test_numbers_beyond_the_class_file(touch, write):
    root = touch("1.mp4")
    write("classes.txt", "a", "b")
    write("train.txt", "1.mp4 0", "1.mp4 2")
    with pytest.raises(ValueError, match=r"2 is not among the 2 classes of .*classes\.txt"):
        open_data(root / "train.txt")


def test_groups_in_several_parts_are_told(touch, write, caplog):
    root = touch("v_A_g01_c01.mp4", "v_A_g01_c02.mp4", "v_B_g02_c01.mp4")
    write("train.txt", "v_A_g01_c01.mp4 a", "v_B_g02_c01.mp4 b")
    write("val.txt", "v_A_g01_c02.mp4 a")
    open_data(root)
    assert "1 group in several parts, first v_A_g01 in train and val" in caplog.text


def test_the_maps_of_the_built_in_data_set(touch):
    from tubelet.data.motion import CLASSES

    data = open_data(touch(*(f"{split}/{name}/1.mp4" for split in ("train", "val") for name in CLASSES)))
    assert data.classes == CLASSES
    partners = {"left": "right", "right": "left", "clockwise": "counterclockwise", "counterclockwise": "clockwise"}
    assert {CLASSES[i]: CLASSES[j] for i, j in data.mirrored.items()} == partners
    partners |= {"up": "down", "down": "up", "growing": "shrinking", "shrinking": "growing"}
    assert {CLASSES[i]: CLASSES[j] for i, j in data.reversed.items()} == partners


def test_a_class_file_goes_before_the_names(touch, write):
    root = touch(*(f"{name}/{i}.mp4" for name in ("left", "right", "wave") for i in range(2)))
    write("classes.csv", "name,mirrored,reversed", "wave,,wave", "right,-,", "left,left,")
    data = open_data(root)
    assert data.classes == ("wave", "right", "left")
    assert data.mirrored == {1: None, 2: 2}
    assert data.reversed == {0: 0}
