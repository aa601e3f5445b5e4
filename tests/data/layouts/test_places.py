from pathlib import Path

import pytest

from tubelet.data.layouts import open_data, places
from tubelet.data.layouts.places import Places
from tubelet.data.layouts.rows import Row


def paths(rows, home):
    return [row and row.as_posix() for row in Places([Row(video, "a") for video in rows], home).paths]


def test_paths_are_beside_the_list_or_where_one_works(tmp_path, touch, write):
    touch("lists/near.mp4", "far.mp4", "absolute.mp4")
    rows = ["near.mp4,a,train", "far.mp4,b,train", f"{tmp_path / 'absolute.mp4'},a,val"]
    data = open_data(write("lists/list.csv", "path,label,split", *rows))
    assert [sample.path for sample in data.splits["train"]] == [tmp_path / "lists/near.mp4", Path("far.mp4")]
    assert [sample.path for sample in data.splits["val"]] == [tmp_path / "absolute.mp4"]


def test_a_path_may_begin_at_the_root_of_the_data_set(tmp_path, touch):
    names = ["train/a/1.mp4", "train/a/gone.mp4"]
    touch(names[0])
    found = Places([Row(f"/{name}", "a") for name in names], tmp_path)
    assert found.paths == [tmp_path / names[0], None]


@pytest.mark.parametrize("number", [2, places.FEW + 2])
@pytest.mark.parametrize("place", ["home", "home/videos", "home/videos_train", "videos", "rawframes"])
def test_paths_in_folders_of_videos(tmp_path, touch, place, number):
    names = [f"run/{i}.mp4" for i in range(number)]
    touch("home/x.txt", *(f"{place}/{name}" for name in names[:-1]))
    found = Places([Row(name, "a") for name in names], tmp_path / "home")
    assert found.paths == [*(tmp_path / place / name for name in names[:-1]), None]
    assert tmp_path / "home" in found.looked


@pytest.mark.parametrize("number", [2, places.FEW + 2])
def test_equal_names_in_the_folders_of_two_parts(touch, write, caplog, number):
    names = [f"{i}.mp4" for i in range(number)]
    touch(*(f"videos_{part}/{name}" for part in ("train", "val") for name in names))
    for part, classes in (("train", "ab"), ("val", "ba")):
        file = write(f"{part}.csv", "path,label", *(f"{name},{classes[i % 2]}" for i, name in enumerate(names)))
    for split, samples in open_data(file).splits.items():
        assert {(sample.path.parent.name, sample.path.name) for sample in samples} == {
            (f"videos_{split}", name) for name in names
        }
    assert not caplog.records


def test_a_path_in_several_folders_of_videos_is_told(tmp_path, touch):
    touch("videos_new/a.mp4", "videos_old/a.mp4", "videos_old/b.mp4")
    found = Places([Row("a.mp4", "x"), Row("b.mp4", "x")], tmp_path)
    assert found.paths == [tmp_path / "videos_new/a.mp4", tmp_path / "videos_old/b.mp4"]
    assert found.doubles == {"a.mp4": [found.paths[0], tmp_path / "videos_old/a.mp4"]}


def test_a_folder_that_has_a_few_of_many(tmp_path, touch):
    names = [f"{i}.mp4" for i in range(10 * places.PROBES)]
    few = {3, 44}  # neither is asked for first
    root = touch(*(f"videos_{'extra' if i in few else 'main'}/{name}" for i, name in enumerate(names)))
    assert None not in Places([Row(name, "a") for name in names], root).paths


def test_files_in_many_folders_are_listed_not_asked_for(tmp_path, touch, monkeypatch):
    names = [f"videos/{c}/{i}.mp4" for c in "ab" for i in range(200)]
    touch(*names)
    asked = []
    monkeypatch.setattr(Path, "exists", asked.append)
    assert None not in Places([Row(name, "a") for name in names], tmp_path).paths
    assert not asked


def test_names_at_any_place(tmp_path, touch, frames):
    touch(
        "a.mp4", "videos/b.webm", "videos/class/c.MKV", "videos/class/deep/d.mp4.mkv", ".hidden/e.mp4", "videos/f.txt"
    )
    frames("rawframes/class/g")
    touch("rawframes/h/notes.txt")
    found = paths([(name,) for name in "abcdefgh"], Path())
    expected = [
        "a.mp4",
        "videos/b.webm",
        "videos/class/c.MKV",
        "videos/class/deep/d.mp4.mkv",
        None,
        None,
        "rawframes/class/g",
    ]
    assert found == [*expected, None]


def test_an_empty_folder_of_frames_hides_no_others(tmp_path, frames):
    frames("videos/2", "videos/3")
    (tmp_path / "videos/1").mkdir()
    assert paths([(name,) for name in "123"], Path()) == [None, "videos/2", "videos/3"]


def test_names_beside_a_folder_of_annotations(tmp_path, touch):
    touch("annotations/x.csv", "anything/a.mp4", "other/x.csv", "videos/b.mp4")
    assert Places([Row(("a",), "x")], tmp_path / "annotations").paths == [tmp_path / "anything/a.mp4"]
    # of other folders only what is named for videos is searched
    assert Places([Row(("a",), "x"), Row(("b",), "x")], tmp_path / "other").paths == [None, tmp_path / "videos/b.mp4"]


def test_names_with_folders_and_second_names(touch):
    touch("x/one/v.mp4", "x/two/v.mp4", "x/w.mp4")
    assert paths([("two/v",), ("three/v",), ("three/w", "w"), ("one/v", "v")], Path()) == [
        "x/two/v.mp4", None, "x/w.mp4", "x/one/v.mp4",
    ]  # fmt: skip


def test_a_thumbnail_beside_a_video_is_none(touch, write, caplog):
    """Downloaders write them."""
    touch(*(f"videos/{name}_000000_000010.{ending}" for name in ("a" * 11, "b" * 11) for ending in ("mkv", "webp")))
    rows = ["a,aaaaaaaaaaa,0,10,train", "b,bbbbbbbbbbb,0,10,train", "b,bbbbbbbbbbb,0,10,val"]
    data = open_data(write("k.csv", "label,youtube_id,time_start,time_end,split", *rows))
    assert {sample.path.suffix for samples in data.splits.values() for sample in samples} == {".mkv"}
    assert "two places" not in caplog.text


def test_a_name_in_two_places_is_told(tmp_path, touch, frames, write, caplog):
    touch("videos/aaaaaaaaaaa_000000_000010.mp4", "videos_256/aaaaaaaaaaa_000000_000010.mp4")
    touch("videos/bbbbbbbbbbb_000000_000010.mp4")
    frames("rawframes/bbbbbbbbbbb_000000_000010")
    rows = ["a,aaaaaaaaaaa,0,10,train", "b,bbbbbbbbbbb,0,10,train", "b,bbbbbbbbbbb,0,10,val"]
    data = open_data(write("k.csv", "label,youtube_id,time_start,time_end,split", *rows))
    assert [sample.path.parent.name for sample in data.splits["train"]] == ["videos", "videos"]
    assert "2 names in two places; " in caplog.text
    assert f"{tmp_path / 'videos/aaaaaaaaaaa_000000_000010.mp4'} is read, not {tmp_path / 'videos_256'}" in caplog.text


def test_a_folder_that_is_searched_twice_is_no_second_place(tmp_path, touch):
    touch("annotations/a.mp4", "b/x.mp4")
    found = Places([Row(("a",), "x"), Row(("gone",), "x")], tmp_path / "annotations")
    assert found.paths == [tmp_path / "annotations/a.mp4", None]
    assert not found.doubles


def test_links_are_followed(tmp_path, touch):
    touch("far/videos/a.mp4")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/data").symlink_to(tmp_path / "far")
    (tmp_path / "home/b.mp4").symlink_to(tmp_path / "far/videos/a.mp4")
    for name in ("home/self", "videos"):
        (tmp_path / name).symlink_to((tmp_path / name).name)
    found = Places([Row(("a",), "x"), Row(("b",), "x")], tmp_path / "home")
    assert found.paths == [tmp_path / "home/data/videos/a.mp4", tmp_path / "home/b.mp4"]
