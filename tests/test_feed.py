"""What train and evaluate read: parts and folds, videos of which none fits, notes on damaged files."""

import json
import warnings

import numpy as np
import pytest
import torch

import tubelet
from tubelet import feed
from tubelet.data.augment import Augment
from tubelet.data.datasets import TrainClips, ViewClips
from tubelet.data.layouts import open_data
from tubelet.data.loader import loader
from tubelet.data.order import EpochOrder
from tubelet.data.sample import Sample, VideoData
from tubelet.data.video import VideoError, write_video

SPEC = tubelet.ClipSpec(num_frames=4, resize=None, crop=(16, 16))


def write(path, frames=8, height=32, width=32):
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    write_video(path, torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8, generator=generator), 25.0)


@pytest.fixture
def clips(tmp_path):
    for part in ("train", "val"):
        for name in ("a", "b"):
            for number in range(2):
                write(tmp_path / "clips" / part / name / f"{number}.mp4")
    return tmp_path / "clips"


def test_what_can_be_read_in_several_ways_is_read_as_classes(tmp_path):
    database = {}
    for number in range(4):
        write(tmp_path / f"v_{number}.mp4", frames=50)
        spans = [{"segment": [0, 1], "label": "run"}, {"segment": [1, 2], "label": "jump"}]
        database[f"{number}"] = {"subset": "training" if number < 2 else "validation", "annotations": spans}
    (tmp_path / "list.json").write_text(json.dumps({"database": database}))
    assert open_data(tmp_path / "list.json").task == "frames"
    found = feed.open_parts(tmp_path / "list.json", ("train", "val"), "classify", None)
    assert found.task == "classify" and len(found.splits["val"]) == 4
    assert feed.open_parts(tmp_path / "list.json", ("train", "val"), None, None).task == "classify"
    (tmp_path / "tags.csv").write_text("path,labels\n" + "".join(f"v_{i}.mp4,{'a;b'[i % 2 :]}\n" for i in range(4)))
    assert feed.open_parts(tmp_path / "tags.csv", ("train", "val"), None, None).task == "multilabel"


def test_parts_without_samples_are_not_offered(clips, tmp_path):
    with pytest.raises(ValueError, match=r"no part 'test'; it has train, val$"):
        feed.open_parts(clips, ("train", "test"), "classify", None)
    with pytest.raises(ValueError, match="fold 2, but no folds"):
        feed.open_parts(clips, ("train",), "classify", 2)


def test_a_part_of_which_nothing_can_be_set_aside_is_told_with_its_fix(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.mp4").touch()
    (tmp_path / "list.csv").write_text("path,labels\na.mp4,x\nb.mp4,y\n")
    with pytest.raises(ValueError, match=r"as each group of train has a class .* add others, or a part val$"):
        feed.open_parts(tmp_path / "list.csv", ("train", "val"), None, None)


def test_parts_without_a_label_are_not_offered(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.mp4")
    rows = ["path,labels,split", "0.mp4,a;b,train", "1.mp4,,train", "2.mp4,,val"]
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    assert len(feed.open_parts(tmp_path / "list.csv", ("train",), None, None).splits["train"]) == 2
    with pytest.raises(ValueError, match=r"list\.csv: part val has 1 sample and not one label, so that nothing"):
        feed.open_parts(tmp_path / "list.csv", ("train", "val"), None, None)


@pytest.mark.slow
def test_the_built_in_data_has_no_folds():
    with pytest.raises(ValueError, match="fold 2, but no folds"):
        feed.open_parts("motion", ("train",), "classify", 2)


def test_what_has_several_classes_at_once_is_refused(tmp_path):
    header = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"
    for split in ("train", "test"):
        write(tmp_path / "Charades_v1_480" / f"{split}.mp4")
        row = f"{split},S1,Kitchen,6,7,Yes,cooking,food,eating,c092 0.0 0.2;c147 0.0 0.3,0.32"
        (tmp_path / f"Charades_v1_{split}.csv").write_text(f"{header}\n{row}\n")
    with pytest.raises(ValueError, match="read as multilabel, not as classify"):
        feed.open_parts(tmp_path, ("train",), "classify", None)


def test_where_no_video_fits_it_is_said_in_place_of_the_first_error(clips):
    data = open_data(clips)

    def error(spec, short="error"):
        with pytest.raises(VideoError) as caught, feed.explained(data, ("train", "val"), spec, short):
            raise VideoError("the first one (--on_bad skip)")
        return str(caught.value)

    assert error(SPEC) == "the first one (--on_bad skip)"
    long = tubelet.ClipSpec(num_frames=9, resize=None, crop=(16, 16))
    said = error(long)
    assert said.startswith("no video of train gives a clip (4 of 4 looked at), first ")
    assert "8 frames, and a clip reaches over 9: take fewer frames (num_frames)" in said and "on_bad" not in said
    assert error(long, "loop") == "the first one (--on_bad skip)"
    assert "crop 64x64 does not fit" in error(tubelet.ClipSpec(num_frames=4, resize=None, crop=(64, 64)))
    write(clips / "train" / "b" / "1.mp4", frames=12)
    assert error(long).startswith("no video of val gives a clip")
    write(clips / "val" / "b" / "1.mp4", frames=12)
    assert error(long) == "the first one (--on_bad skip)"


def test_nothing_is_looked_at_where_all_goes_well(clips, monkeypatch):
    monkeypatch.setattr(ViewClips, "__getitem__", None)
    with feed.explained(open_data(clips), ("train",), SPEC, "error"):
        pass


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_file_is_told_once_without_a_line_of_code(clips, capfd, workers):
    whole = clips / "train" / "a" / "0.mp4"
    write(whole, frames=40)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    data, said = open_data(clips), set()
    sets = (TrainClips(data, "train", SPEC, Augment(), "error", 0), ViewClips(data, "train", SPEC, 1, 1, "error"))
    capfd.readouterr()
    for order, dataset in zip((EpochOrder(4, 0), None), sets, strict=True):
        batches = loader(feed.Noted(dataset), 1, order=order, workers=workers)
        plain = dataset[(0, 1)] if order else dataset[1]
        for _ in range(3):
            for *items, notes in batches:
                assert len(items) == len(plain)
                feed.say_once(notes, said)
        batches.close()
    err = capfd.readouterr().err
    assert len(err.splitlines()) == 1 and "Warning" not in err
    assert err.startswith(f"{whole}: the file is damaged or cut short: only ")


def test_a_note_is_not_said_where_there_is_none(clips, capsys):
    with warnings.catch_warnings(action="error"):
        items = feed.Noted(ViewClips(open_data(clips), "val", SPEC, 1, 1, "error"))[0]
    capsys.readouterr()
    feed.say_once(items[-1:], set())
    assert items[-1] == "" and capsys.readouterr().err == ""


def test_the_channels_of_a_part_are_those_of_its_first_video_that_opens(clips, tmp_path):
    assert feed.channels_of(open_data(clips), "train") == 3
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    np.save(tmp_path / "gray.npy", np.zeros((1, 8, 16, 16), np.uint8))
    samples = [Sample(tmp_path / name, 0) for name in ("bad.mp4", "gray.npy")]
    assert feed.channels_of(VideoData(("a",), {"train": samples}), "train") == 1
    assert feed.channels_of(VideoData(("a",), {"train": samples[:1]}), "train") == 3
