"""A list that is written reads back as the data set it was written of, whatever its task."""

from dataclasses import replace

import pytest

from tubelet.data import listing
from tubelet.data.layouts import open_data
from tubelet.data.listing import difference, write_list
from tubelet.data.sample import Actor, Sample, Span, VideoData


@pytest.fixture
def folder(tmp_path):
    for name in ("a b.mp4", "ü,1.avi", "c.mp4", "d.mkv", "deep/e.mp4"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"seen only by name")
    return tmp_path / "videos"


def data(folder, task, targets, **fields):
    paths = [folder / name for name in ("a b.mp4", "ü,1.avi", "c.mp4", "d.mkv", "deep/e.mp4")]
    samples = [Sample(path, target, **fields) for path, target in zip(paths, targets, strict=True)]
    return VideoData(("jump", "walk"), {"train": samples[:3], "val": samples[3:4], "test": samples[4:]}, task)


def targets():
    spans = [(Span(0, 4, 0),), (Span(0, 4, 0), Span(2, 9, 1)), (Span(5, 6, 1),), (Span(1, 2, 0),), (Span(3, 4, 1),)]
    seconds = [tuple(Span(s.start + 0.25, s.end + 0.5, s.target) for s in each) for each in spans]
    here, there = Actor(0.1, 0.25, 0.5, 0.75, (0, 1)), Actor(0.5, 0, 1, 1, (1,))
    yield "classify", [0, 1, 1, 0, 1], {}
    yield "classify", [0, 1, 1, 0, 1], {"start": 3, "end": 20, "group": "g, 1"}
    yield "classify", [0, 1, 1, 0, 1], {"start": 0.5, "end": 2.75, "unit": "s"}
    yield "multilabel", [(0,), (0, 1), (1,), (1,), ()], {}
    yield "frames", spans, {}
    yield "frames", seconds, {"unit": "s"}
    yield "frames", [spans[0], (), spans[1], spans[2], ()], {}
    yield "detect", [(here,), (here, there), (there,), (there,), (here,)], {"moment": 12}
    yield "detect", [(here,), (here, there), (there,), (there,), (here,)], {"moment": 1.5, "unit": "s"}
    yield "detect", [(here,), (), (there,), (there,), ()], {"moment": 12}


@pytest.mark.parametrize(("task", "answers", "fields"), list(targets()))
@pytest.mark.parametrize("beside", [True, False])
def test_it_reads_back(folder, tmp_path, task, answers, fields, beside):
    wanted = data(folder, task, answers, **fields)
    path = write_list((folder if beside else tmp_path / "lists") / "all.csv", wanted)
    found = open_data(path, task=task)
    assert found.classes == wanted.classes and found.task == task
    for split, samples in wanted.splits.items():
        assert sorted(found.splits[split], key=str) == sorted(samples, key=str)
    assert difference(path, wanted) == ""
    assert not (path.parent / "classes.csv").exists()
    assert (str(folder) in path.read_text()) is not beside  # a folder that holds its list can be moved


def test_a_list_may_be_called_after_a_part(folder, tmp_path):
    wanted = data(folder, "classify", [0, 1, 1, 0, 1])
    assert difference(write_list(tmp_path / "train_clean.csv", wanted), wanted) == ""


def test_classes_come_along_where_names_do_not_tell(folder, tmp_path):
    wanted = replace(
        data(folder, "classify", [0, 1, 1, 0, 1]), classes=("walk", "jump"), mirrored={0: None}, reversed={1: 0}
    )
    path = write_list(tmp_path / "all.csv", wanted)
    found = open_data(path)
    assert (found.classes, found.mirrored, found.reversed) == (("walk", "jump"), {0: None}, {1: 0})


def test_the_classes_that_are_evaluated_come_along(folder, tmp_path):
    wanted = replace(data(folder, "detect", [(Actor(0, 0, 1, 1, (0, 1)),)] * 5, moment=12), evaluated=(1,))
    assert open_data(write_list(tmp_path / "all.csv", wanted)).evaluated == (1,)
    assert difference(tmp_path / "all.csv", replace(wanted, evaluated=())) == "evaluated: (1,) for ()"


def test_lists_of_one_folder_keep_their_classes(folder, tmp_path):
    """Whatever class file is there already."""
    (tmp_path / "classes.csv").write_text("name\nrun\n")
    wanted = [data(folder, "classify", [0, 1, 1, 0, 1]) for _ in range(2)]
    wanted[1] = replace(wanted[1], classes=("walk", "jump"))
    paths = [write_list(tmp_path / f"{name}.csv", each) for name, each in zip("ab", wanted, strict=True)]
    assert [open_data(path).classes for path in paths] == [("jump", "walk"), ("walk", "jump")]
    write_list(paths[0], wanted[1])
    assert open_data(paths[0]).classes == ("walk", "jump")


@pytest.mark.parametrize("task", ["multilabel", "classify"])
def test_a_class_without_a_sample_stays(folder, tmp_path, task):
    """Of whole videos it does not matter what a part of them would be counted in."""
    targets = [0, 2, 2, 0, 2] if task == "classify" else [(0,), (0, 2), (2,), (2,), ()]
    wanted = replace(data(folder, task, targets, unit="s"), classes=("jump", "run", "walk"))
    found = open_data(write_list(tmp_path / "all.csv", wanted), task=task)
    assert found.classes == ("jump", "run", "walk")
    assert {sample.target for sample in found.splits["train"]} == set(targets[:3])


def test_a_difference_is_told(folder, tmp_path):
    wanted = data(folder, "classify", [0, 1, 1, 0, 1])
    path = write_list(tmp_path / "all.csv", wanted)
    assert difference(path, replace(wanted, classes=("jump", "run"))).startswith("classes: ")
    other = {**wanted.splits, "val": [replace(wanted.splits["val"][0], end=9)]}
    assert difference(path, replace(wanted, splits=other)).startswith("2 samples of val, such as of ")
    assert "no such folder" in difference(tmp_path / "none.csv", wanted)


def test_what_no_list_can_hold_leaves_none(folder, tmp_path):
    one, other, nothing = (Actor(0.1, 0.25, 0.5, 0.75, names) for names in ((0,), (1,), ()))
    wanted = data(folder, "detect", [(one,), (nothing,), (other,), (one,), (other,)], moment=12)
    with pytest.raises(ValueError, match=r"all.csv: no list holds this data set \(1 samples of train"):
        write_list(tmp_path / "all.csv", wanted)
    assert {path.name for path in tmp_path.iterdir()} == {"videos"}


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_what_fails_leaves_the_list_that_was_there(folder, tmp_path, monkeypatch, error):
    path = tmp_path / "all.csv"
    path.write_text("path,label,note\nx.mp4,jump,mine\n")
    (tmp_path / "all.classes.csv").write_text("name\njump\n")
    before = {file: file.read_bytes() for file in tmp_path.glob("*.csv")}

    def different(path, data):
        if error:
            raise error
        return "classes"

    monkeypatch.setattr(listing, "difference", different)
    with pytest.raises(error or ValueError):
        write_list(path, data(folder, "classify", [0, 1, 1, 0, 1]))
    assert {file: file.read_bytes() for file in tmp_path.glob("*.csv")} == before


def test_the_rate_of_folders_of_frames_comes_along(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.png").write_bytes(b"seen only by name")
    samples = [Sample(tmp_path / name, i, fps=fps) for i, (name, fps) in enumerate((("a", 12.0), ("b", None)))]
    found = VideoData(("jump", "walk"), {"train": samples, "val": samples})
    path = write_list(tmp_path / "list.csv", found)
    assert [sample.fps for sample in open_data(path).splits["train"]] == [12.0, None]
    assert "samples of train" in difference(
        path, replace(found, splits={"train": [replace(samples[0], fps=None)], "val": samples})
    )
    path.write_text(path.read_text().replace("12.0", "-1"))
    with pytest.raises(ValueError, match=r"row 2 .*fps -1 must be above 0"):
        open_data(path)
