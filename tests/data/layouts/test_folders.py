import numpy as np
import pytest

from tubelet.data import pictures
from tubelet.data.layouts import open_data, places
from tubelet.data.pictures import is_animated

Image = pytest.importorskip("PIL.Image")


def test_a_folder_for_each_class(touch, named):
    touch(*(f"{c}/{c}{i}.mp4" for c in ("run", "jump") for i in range(5)))
    data = open_data(touch("run/deeper/run5.MP4", "run/notes.doc", ".cache/x.mp4", "run/.hidden/x.mp4"))
    assert (data.classes, data.task, data.layout) == (("jump", "run"), "classify", "class folders")
    assert sorted(data.splits) == ["train", "val"]
    everything = named(data, "train") + named(data, "val")
    assert sorted(everything) == sorted(
        [(f"{c}/{c}{i}.mp4", c) for c in ("run", "jump") for i in range(5)] + [("run/deeper/run5.MP4", "run")]
    )
    assert {label for _, label in named(data, "val")} == {"run", "jump"}
    assert len(data.splits["val"]) == 2


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
@pytest.mark.parametrize("train", ["train", "Training"])
def test_a_folder_for_each_split(touch, named, caplog, train, val):
    root = touch(f"{train}/a/1.avi", f"{train}/b/2.avi", f"{val}/b/3.webm", "test/a/4.gif", "other/c/5.mp4")
    with caplog.at_level("INFO", "tubelet"):
        data = open_data(root)
    assert data.classes == ("a", "b")
    assert named(data, "train") == [(f"{train}/a/1.avi", "a"), (f"{train}/b/2.avi", "b")]
    assert named(data, "val") == [(f"{val}/b/3.webm", "b")]
    assert named(data, "test") == [("test/a/4.gif", "a")]
    assert "other is no part and is left out" in caplog.text


@pytest.mark.parametrize(("train", "others", "val"), [
    ("train", ["dev"], "dev"), ("Train", ["eval", "Dev"], "Dev"), ("train", ["val", "dev"], "val"),
    ("train", ["test", "eval"], "eval"), ("set_train", ["set_dev", "set_test"], "set_dev"),
])  # fmt: skip
def test_a_folder_to_validate_on_by_another_name(touch, named, train, others, val):
    data = open_data(touch(*(f"{part}/{name}/1.mp4" for part in (train, *others) for name in "ab")))
    assert named(data, "val") == [(f"{val}/a/1.mp4", "a"), (f"{val}/b/1.mp4", "b")]
    assert ("test" in data.splits) == any("test" in name for name in others)


def test_what_is_left_out_is_said(touch, caplog):
    open_data(touch(*(f"train/{c}/{i}.vob" for c in "ab" for i in "12"), "extra/a/1.mp4", "x.mp4", "train/y.h264"))
    assert "extra is no part and is left out" in caplog.text
    assert "1 video in no class folder, first x.mp4; left out" in caplog.text
    assert f"{touch() / 'train'}: 1 video in no class folder, first y.h264; left out" in caplog.text


@pytest.mark.parametrize("name", ["videos_{}", "{}_set", "{}ing-set"])
def test_parts_in_folders_that_differ_in_that_word(touch, named, name):
    train, test = name.format("train"), name.format("test")
    data = open_data(
        touch(f"{train}/a/1.mp4", f"{train}/a/2.mp4", f"{train}/b/3.mp4", f"{train}/b/4.mp4", f"{test}/b/5.mp4")
    )
    assert data.classes == ("a", "b")
    assert named(data, "test") == [(f"{test}/b/5.mp4", "b")]


def test_classes_that_are_called_like_parts(touch):
    assert open_data(touch(*(f"{c}/{i}.mp4" for c in ("bus", "train") for i in "12"))).classes == ("bus", "train")
    assert open_data(touch(*(f"{c}/{i}.mp4" for c in ("test ride", "train ride") for i in "12"))).classes == (
        "bus", "test ride", "train", "train ride",
    )  # fmt: skip


@pytest.mark.parametrize("inner", ["{}", "{}/deep", "train/{}"])
def test_class_folders_one_folder_deeper_are_told(touch, refused, inner):
    root = touch(*(f"videos/{inner.format(c)}/{i}.mp4" for c in ("a", "b") for i in "12"))
    touch(*(["videos/val/a/3.mp4"] if "train" in inner else []))
    folders = "train, val" if "train" in inner else "a, b"
    told = f"its folders ({folders}) are classes or parts, give {root / 'videos'}"
    assert f"one class only (videos); if {told}" in refused(root)
    assert open_data(root / "videos").classes == ("a", "b")
    (root / "classes.txt").write_text("run\nvideos\n")  # the one is one of several
    assert open_data(root).classes == ("run", "videos")


def test_parts_of_one_class_are_no_classes(touch, frames, refused):
    frames("a/train/1", "a/val/2")
    assert refused(touch("a/train/3.mp4")).endswith("one class only (a); a classifier needs at least two")


def test_two_folders_of_one_part(touch):
    with pytest.raises(ValueError, match=r"val and validation both say val; remove or rename one"):
        open_data(touch("train/a/1.mp4", "train/b/2.mp4", "val/a/3.mp4", "validation/a/4.mp4"))


def test_links_that_lead_back_end(touch, named):
    root = touch(*(f"{c}/{c}{i}.mp4" for c in "abc" for i in "12"))
    for name in "abc":
        (root / name / "up").symlink_to(root)
        (root / name / "next").symlink_to(root / "a")
    data = open_data(root)
    assert ("a/a1.mp4", "a") in named(data, "train") + named(data, "val")


def test_what_macos_leaves_beside_a_video_is_none(touch, named):
    data = open_data(
        touch(*(f"{part}/{c}/{name}.mp4" for part in ("train", "val") for c in "ab" for name in ("1", "._1")))
    )
    assert named(data, "train") == [("train/a/1.mp4", "a"), ("train/b/1.mp4", "b")]


def test_a_train_folder_alone_is_set_aside_from(touch):
    data = open_data(touch(*(f"train/{c}/{i}.mp4" for c in "ab" for i in range(5))))
    assert (len(data.splits["train"]), len(data.splits["val"])) == (8, 2)


def test_parts_inside_the_class_folders(touch, named):
    data = open_data(touch("a/train/1.mp4", "a/test/2.mp4", "a/val/3.mp4", "b/Train/4.mp4", "b/test/deep/5.mp4"))
    assert named(data, "train") == [("a/train/1.mp4", "a"), ("b/Train/4.mp4", "b")]
    assert named(data, "val") == [("a/val/3.mp4", "a")]
    assert named(data, "test") == [("a/test/2.mp4", "a"), ("b/test/deep/5.mp4", "b")]


def test_folders_of_frames_are_videos(frames, touch, named):
    frames("train/a/one", "train/a/deep/two", "train/b/v_x.avi", name="{:06}.jpg")
    data = open_data(touch("train/b/three.mp4", "val/b/four.mp4"))
    assert named(data, "train") == [
        ("train/a/deep/two", "a"), ("train/a/one", "a"), ("train/b/three.mp4", "b"), ("train/b/v_x.avi", "b"),
    ]  # fmt: skip


def webp(path, num_pictures):
    first, *rest = [Image.fromarray(np.full((16, 16, 3), 40 * i, np.uint8)) for i in range(num_pictures)]
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, save_all=num_pictures > 1, append_images=rest, duration=40)


def test_animated_webp_is_a_video_and_a_still_one_is_none(tmp_path, touch, named):
    for name in ("a/1", "a/2", "b/3", "b/4"):
        webp(tmp_path / f"{name}.webp", 3)
        webp(tmp_path / f"{name[0]}/thumb{name[-1]}.webp", 1)
    for i in range(4):
        webp(tmp_path / f"b/frames/{i}.webp", 1)
    data = open_data(touch("c/5.mp4", "c/6.mp4", "c/5.webp"))
    together = sorted(named(data, "train") + named(data, "val"))
    assert [name for name, _ in together] == [
        "a/1.webp", "a/2.webp", "b/3.webp", "b/4.webp", "b/frames", "c/5.mp4", "c/6.mp4",
    ]  # fmt: skip


def test_of_a_folder_of_frames_one_file_is_looked_into(tmp_path, monkeypatch):
    for name in ("a/1", "a/2", "b/3", "b/4"):
        for i in range(20):
            webp(tmp_path / f"{name}/{i}.webp", 1)
    looked = []
    monkeypatch.setattr(pictures, "is_animated", lambda path: looked.append(path) or is_animated(path))
    monkeypatch.setattr(places, "is_animated", pictures.is_animated)
    assert sum(map(len, open_data(tmp_path).splits.values())) == 4
    assert len(looked) == 8  # once to see that these are no videos, once to see that they are frames


def test_a_class_file_gives_the_order(touch, write, named):
    root = touch("train/run/1.mp4", "train/jump/2.mp4", "val/run/3.mp4")
    write("classes.txt", "run", "jump", "swim")
    data = open_data(root)
    assert data.classes == ("run", "jump", "swim")
    assert named(data, "train") == [("train/jump/2.mp4", "jump"), ("train/run/1.mp4", "run")]


def test_a_relative_path(touch, named):
    touch(*(f"videos/{c}/{i}.mp4" for c in "ab" for i in range(5)))
    data = open_data("videos")
    assert not data.splits["val"][0].path.is_absolute()
    assert len(named(data, "train")) == 8
