"""Prepared videos have the frames of their sources, number for number, and prepared data sets the samples."""

import errno
import importlib
import os
import signal
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from painted_scans import write_scans

from tubelet.data.layouts import open_data
from tubelet.data.video import Video, VideoError, write_video
from tubelet.prepare import Prepared, new_places, new_size, prepare, videos_in

av = pytest.importorskip("av")

module = importlib.import_module("tubelet.prepare")  # the package's name for it may be the function
STAMPS_MS = np.cumsum([20 + 13 * (i % 7) + 300 * (i % 9 == 0) for i in range(40)]).tolist()


@pytest.fixture(autouse=True)
def untimed(monkeypatch):
    """Without the measurement of speed, which takes seconds."""
    monkeypatch.setattr(module, "_speeds", lambda new, ready: None)


def painted(index, height=48, width=96):
    """(H, W, 3): the index as 2x4 black or white blocks, most significant first."""
    bits = (index >> np.arange(8)[::-1]) & 1
    blocks = np.repeat(np.repeat(bits.reshape(2, 4), 24, axis=0), 24, axis=1).astype(np.uint8) * 255
    rows, columns = np.arange(height) * 48 // height, np.arange(width) * 96 // width
    return np.repeat(blocks[rows][:, columns, None], 3, axis=2)


def indices(path):
    """The index painted in each frame of a video."""
    with Video(path) as video:
        clip = video.frames(range(video.num_frames), resize=(4, 8)).float().mean(0)
    bits = (clip.unflatten(2, (4, 2)).unflatten(1, (2, 2)).mean((2, 4)) > 128).flatten(1)
    return [int("".join("01"[bit] for bit in frame), 2) for frame in bits.tolist()]


def write(path, num_frames=20, codec="libx264", stamps_ms=None, height=48, width=96, has_sound=False):
    """A painted video of any container."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": "250"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        sound = container.add_stream("aac", rate=8000) if has_sound else None
        if stamps_ms:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(painted(index, height, width), format="rgb24")
            if stamps_ms:
                frame.pts, frame.time_base = stamps_ms[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound:
            quiet = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            quiet.rate = 8000
            container.mux(sound.encode(quiet))
            container.mux(sound.encode())
    return path


def classes(root, ending=".mp4", count=3, codec="libx264"):
    """A folder of two classes."""
    for name in ("jump", "walk"):
        for i in range(count):
            write(root / name / f"{name} {i}{ending}", codec=codec)
    return root


def samples(path, root, **options):
    """All that a data set says, with videos by their name below `root`, without endings."""
    data = open_data(path, **options)
    rows = {
        split: sorted(
            (os.path.relpath(s.path, root).rpartition(".")[0], s.target, s.start, s.end, s.moment, s.unit, s.group)
            for s in samples
        )
        for split, samples in data.splits.items()
    }
    return data.classes, data.task, data.mirrored, data.reversed, rows


def test_every_frame_is_there_at_its_time(tmp_path):
    sources = {
        "long gop.mp4": {},
        "deep/er/ü ñ 木.avi": {"codec": "mpeg4"},
        "vfr.mkv": {"num_frames": 40, "stamps_ms": STAMPS_MS},
        "late.mkv": {"stamps_ms": [5000 + 40 * i for i in range(20)]},
        "with sound.mp4": {"has_sound": True},
        "one.mp4": {"num_frames": 1},
    }
    for name, options in sources.items():
        write(tmp_path / "in" / name, **options)
    result = prepare(tmp_path / "in", tmp_path / "out", short_side=24, gop=6)
    assert (result.videos, result.kept, result.failed, result.cut_short) == (6, 0, (), ())
    assert videos_in(tmp_path / "out") == sorted((tmp_path / "out" / name).with_suffix(".mp4") for name in sources)
    for name, options in sources.items():
        new = (tmp_path / "out" / name).with_suffix(".mp4")
        assert indices(new) == list(range(options.get("num_frames", 20)))
        with Video(tmp_path / "in" / name) as old, Video(new) as video:
            torch.testing.assert_close(video.times, old.times, atol=1e-3, rtol=0)
            if name != "vfr.mkv":  # else the clip of a rate would have other frames
                assert video.fps == pytest.approx(old.fps, rel=1e-9)
            assert (video.height, video.width) == (24, 48)
        with av.open(str(new)) as container:
            assert [stream.type for stream in container.streams] == ["video"]
            keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
            assert all(any(keys[i : i + 6]) for i in range(len(keys) - 5))


def test_folders_of_frames_become_videos(tmp_path):
    for name in ("jump", "walk"):
        for video in ("a", "b"):
            folder = tmp_path / "in" / name / video
            folder.mkdir(parents=True)
            for i in range(8):
                image = av.CodecContext.create("png", "w")
                image.height, image.width, image.pix_fmt, image.time_base = 48, 96, "rgb24", Fraction(1, 25)
                frame = av.VideoFrame.from_ndarray(painted(i), format="rgb24")
                (folder / f"img_{i + 1:05}.png").write_bytes(b"".join(map(bytes, image.encode(frame))))
    assert prepare(tmp_path / "in", tmp_path / "out").videos == 4
    assert indices(tmp_path / "out" / "walk" / "b.mp4") == list(range(8))
    with Video(tmp_path / "out" / "walk" / "b.mp4") as video:
        assert video.fps == pytest.approx(30, rel=1e-9)
    assert open_data(tmp_path / "out").classes == ("jump", "walk")
    rows = [f"{name}/{video},{name},12" for name in ("jump", "walk") for video in "ab"]
    (tmp_path / "in" / "list.csv").write_text("\n".join(["path,label,fps", *rows]))
    prepare(tmp_path / "in" / "list.csv", tmp_path / "slow")
    with Video(tmp_path / "slow" / "walk" / "b.mp4") as video:
        assert video.fps == pytest.approx(12, rel=1e-9)
    (tmp_path / "in" / "list.csv").write_text("\n".join(["path,label,fps", *rows]).replace(",12", ",10"))
    assert prepare(tmp_path / "in" / "list.csv", tmp_path / "slow").kept == 0
    with Video(tmp_path / "slow" / "walk" / "b.mp4") as video:
        assert video.fps == pytest.approx(10, rel=1e-9)


def test_a_long_video_of_a_steady_rate_is_written_as_such(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.zeros((3, 100, 16, 16), np.uint8))
    given = []
    monkeypatch.setattr(
        module,
        "write_video",
        lambda *args, times_s, **kw: given.append(times_s) or write_video(*args, times_s=times_s, **kw),
    )
    module.reencode(tmp_path / "a.npy", tmp_path / "a.mp4", fps=0.3)
    assert given == [None]


def test_optical_flow_is_no_video_to_write(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 16, 16), np.uint8))
    with pytest.raises(VideoError, match=r"a\.npy: 2 channels, and an mp4 has 3"):
        module.reencode(tmp_path / "a.npy", tmp_path / "a.mp4")


def test_a_video_that_is_spelled_in_two_ways_keeps_its_samples(tmp_path, monkeypatch):
    root = classes(tmp_path / "in", count=1)
    rows = [f"{place}{name}/{name} 0.mp4,{name},{split}" for name in ("jump", "walk")
            for place, split in (("", "train"), (f"{root}/", "val"))]  # fmt: skip
    (root / "all.csv").write_text("\n".join(["path,label,split", *rows]))
    monkeypatch.chdir(tmp_path)
    result = prepare("in", "out")
    assert result.videos == 2 and samples(result.data, tmp_path / "out") == samples(root, root)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 600))
def test_sizes_are_even_and_never_larger(height, width, short_side):
    try:
        new = new_size(height, width, short_side)
    except ValueError:
        return
    assert new[0] % 2 == new[1] % 2 == 0
    assert new[0] <= max(2, height) and new[1] <= max(2, width)
    assert min(new) == max(2, min(height, width, short_side) // 2 * 2)
    assert abs(new[0] * width - new[1] * height) <= 4 * max(height, width)  # the proportion, but for the rounding


def test_names_that_would_be_one_stay_two(tmp_path):
    root = Path("r")
    names = ["a.avi", "a.mp4", "a.mkv", "b.MP4", "c/a.avi", "d.avi", "d.avi.mp4", "d.mp4", "e", "e.webm"]
    places = new_places(root, [root / name for name in names])
    assert {str(path.relative_to(root)): str(place) for path, place in places.items()} == {
        "a.avi": "a.avi.mp4", "a.mp4": "a.mp4", "a.mkv": "a.mkv.mp4", "b.MP4": "b.mp4", "c/a.avi": "c/a.mp4",
        "d.avi": "d.avi.mp4.mp4", "d.avi.mp4": "d.avi.mp4", "d.mp4": "d.mp4", "e": "e.mp4", "e.webm": "e.webm.mp4",
    }  # fmt: skip


@settings(max_examples=30)
@given(st.sets(st.from_regex(r"(x/)?[ab](\.avi|\.mp4|\.MP4|\.mkv)?(\.mp4)?", fullmatch=True), max_size=8))
def test_no_two_videos_get_one_place(names):
    places = new_places(Path(), [Path(name) for name in names])
    assert len(set(places.values())) == len(names) and all(place.suffix == ".mp4" for place in places.values())


def test_links_are_followed_once_and_hidden_files_left_out(tmp_path):
    write(tmp_path / "elsewhere" / "a.mp4")
    write(tmp_path / "in" / "b.mp4")
    (tmp_path / "in" / ".c.mp4").touch()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "l.mp4").symlink_to(tmp_path / "in" / "b.mp4")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "in")
    found = [str(path.relative_to(tmp_path / "in")) for path in videos_in(tmp_path / "in")]
    assert found == ["b.mp4", "l.mp4", "linked/a.mp4"]
    assert prepare(tmp_path / "in", tmp_path / "out").videos == 3
    assert not (tmp_path / "out" / "l.mp4").is_symlink()


@pytest.mark.parametrize("ending", [".mp4", ".avi"])
def test_class_folders_read_the_same(tmp_path, ending):
    """Without a validation part, too, which is drawn by the names of the files."""
    root = classes(tmp_path / "in", ending, 6, "mpeg4")
    (root / "classes.txt").write_text("walk\njump\n")
    result = prepare(root, tmp_path / "out")
    assert samples(result.data, tmp_path / "out") == samples(root, root)
    assert samples(tmp_path / "out", tmp_path / "out") == samples(root, root)


def lists_beside(root):
    videos = classes(root / "videos", ".avi", codec="mpeg4")
    for split, parts in (("train", (0, 1)), ("val", (2,))):
        rows = [f"videos/{name}/{name} {i}.avi {name}\n" for name in ("jump", "walk") for i in parts]
        (root / f"{split}.csv").write_text("".join(rows))
    assert videos.exists()
    return root


def absolute_list(root):
    classes(root, ".avi", codec="mpeg4")
    lists = root.parent / "lists"
    lists.mkdir()
    rows = [f"{root}/{name}/{name} {i}.avi,{name},{3 * i},{3 * i + 5},{split}\n"
            for name in ("jump", "walk") for i, split in enumerate(("train", "val", "test"))]  # fmt: skip
    (lists / "all.csv").write_text("path,label,start_frame,end_frame,split\n" + "".join(rows))
    return lists / "all.csv"


def lists_in_a_folder(root):
    classes(root / "videos", ".avi", codec="mpeg4")
    (root / "annotations").mkdir()
    for split, parts in (("train", (0, 1)), ("val", (2,))):
        rows = [f"{name}/{name} {i} {name}\n" for name in ("jump", "walk") for i in parts]
        (root / "annotations" / f"{split}.txt").write_text("".join(rows))
    return root


def turned_classes(root):
    classes(root, ".mp4")
    rows = [f"{name}/{name} {i}.mp4,{name},p{i}\n" for name in ("jump", "walk") for i in range(3)]
    (root / "all.csv").write_text("path,labels,group\n" + "".join(rows))
    (root / "classes.csv").write_text("name,mirrored\njump,walk\nwalk,jump\n")
    return root


@pytest.mark.parametrize("make", [lists_beside, lists_in_a_folder, absolute_list, turned_classes])
def test_lists_come_along(tmp_path, make, monkeypatch):
    source = make(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    result = prepare(source.relative_to(tmp_path), tmp_path / "out")
    assert result.videos == 6 and not result.notes
    assert len(videos_in(tmp_path / "out")) == 6
    old = samples(source, tmp_path / "in")
    assert samples(result.data, tmp_path / "out") == old
    if source.is_dir():
        assert result.data == tmp_path / "out"
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    assert samples(moved / result.data.relative_to(tmp_path / "out"), moved) == old


def test_the_new_folder_may_lie_beside_the_list(tmp_path):
    root = classes(tmp_path / "in" / "videos").parent
    rows = [f"videos/{name}/{name} {i}.mp4,{name}\n" for name in ("jump", "walk") for i in range(3)]
    (root / "my.csv").write_text("path,label\n" + "".join(rows))
    result = prepare(root / "my.csv", root / "out")
    assert result.videos == 6 and not result.notes
    assert samples(result.data, root / "out") == samples(root / "my.csv", root)
    assert prepare(root / "my.csv", root / "out").kept == 6
    for out in (root, root / "videos", root / "videos" / "new"):
        with pytest.raises(ValueError, match="is the folder of the videos"):
            prepare(root / "my.csv", out)


def test_labels_of_frames_come_along_where_they_are_asked_for(tmp_path):
    root = classes(tmp_path / "in", ".avi", codec="mpeg4")
    rows = [f"{c}/{c} {i}.avi,{c},{i},{i + 5},{('train', 'val')[i == 2]}\n" for c in ("jump", "walk") for i in range(3)]
    rows[0] = "jump/jump 0.avi,,,,train\n"
    (root / "spans.csv").write_text("path,label,start_frame,end_frame,split\n" + "".join(rows))
    with pytest.raises(ValueError, match=r"row 2 \(.*no path or no label; give task frames"):
        prepare(root / "spans.csv", tmp_path / "out")
    assert prepare(root, tmp_path / "out").notes[0].endswith("no path or no label; give task frames")
    result = prepare(root, tmp_path / "out", task="frames")
    assert result.kept == 6 and not result.notes
    assert samples(result.data, tmp_path / "out", task="frames") == samples(root, root, task="frames")
    (root / "spans.csv").unlink()
    with pytest.raises(ValueError, match="is read as classify, not as frames"):
        prepare(root, tmp_path / "other", task="frames")
    assert not (tmp_path / "other").exists()


def test_labels_of_frames_that_stay_behind_are_told(tmp_path):
    classes(tmp_path / "Charades_v1_480")
    for split, number in (("train", 0), ("test", 1)):
        rows = [f"{name} {number},P,,c{action:03} 0.10 0.50" for action, name in enumerate(("jump", "walk"))]
        (tmp_path / f"Charades_v1_{split}.csv").write_text("\n".join(["id,subject,script,actions", *rows, ""]))
    file, out = tmp_path / "Charades_v1_train.csv", tmp_path / "out"
    assert prepare(file, out).notes == ["its labels of frames do not come along; give task frames"]
    result = prepare(file, out, task="frames")
    assert not result.notes
    assert samples(result.data, out, task="frames") == samples(file, tmp_path, task="frames")


def test_texts_that_are_no_files_do_not_come_along(tmp_path):
    root = lists_beside(tmp_path / "in")
    (root / "notes.txt").symlink_to("gone.txt")
    assert prepare(root, tmp_path / "out").data == tmp_path / "out"
    assert not (tmp_path / "out" / "notes.txt").exists()


def test_a_list_that_holds_no_longer_goes(tmp_path, monkeypatch):
    source, out = absolute_list(tmp_path / "in"), tmp_path / "out"
    assert prepare(source, out).data == out
    (out / "data.classes.csv").write_text("name\njump\nwalk\n")

    def none(path, data):
        raise ValueError(f"{path}: no list holds this data set")

    monkeypatch.setattr(module, "write_list", none)
    assert "its lists do not come along" in prepare(source, out).notes[0]
    assert not [*out.glob("*.csv")] and len(videos_in(out)) == 6


def test_a_second_run_does_what_is_left(tmp_path, monkeypatch):
    root = classes(tmp_path / "in")
    asked = []
    real = module.each
    monkeypatch.setattr(module, "each", lambda f, items, **kw: asked.extend(items) or real(f, items, **kw))

    def again():
        asked.clear()
        result = prepare(root, tmp_path / "out", workers=1)
        assert result.videos == 6 and result.kept == 6 - len(asked)
        return {str(path.relative_to(root)) for path in asked}

    assert len(again()) == 6
    assert again() == set()
    ledger = tmp_path / "out" / ".prepared.jsonl"
    ledger.write_text(ledger.read_text()[:-20])  # stopped as it wrote the last line
    assert len(again()) == 1
    ledger.write_text(ledger.read_text().replace('"place": "jump/jump 2', '"place": "jump\n/jump 2'))
    assert again() == {"jump/jump 2.mp4"}
    write(root / "jump" / "jump 1.mp4", 30)
    (tmp_path / "out" / "walk" / "walk 2.mp4").unlink()
    (tmp_path / "out" / "walk" / "walk 0.mp4").write_bytes(b"half of it")
    assert again() == {"jump/jump 1.mp4", "walk/walk 2.mp4", "walk/walk 0.mp4"}
    assert len(indices(tmp_path / "out" / "jump" / "jump 1.mp4")) == 30
    assert again() == set()
    with pytest.raises(ValueError, match="was prepared with short_side 256, gop 12, crf 20; give the same"):
        prepare(root, tmp_path / "out", short_side=128)
    ledger.write_text(ledger.read_text()[4:])
    with pytest.raises(ValueError, match=r"\.prepared\.jsonl: its first line is damaged; give another folder"):
        again()


def test_ctrl_c_keeps_what_is_done(tmp_path, monkeypatch):
    root = classes(tmp_path / "in")

    def stopped(items, what, total):
        for done, item in enumerate(items, start=1):
            yield item
            if done == 2:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="2 of 6 videos are made; the same co"):
        patch.setattr(module, "progress", stopped)
        prepare(root, tmp_path / "out", workers=2)
    assert all(indices(path) == list(range(20)) for path in videos_in(tmp_path / "out"))
    assert not (tmp_path / "out" / ".unfinished").exists()
    assert prepare(root, tmp_path / "out").kept == 2


def test_bad_files_are_told_and_left_out(tmp_path):
    root = lists_beside(tmp_path / "in")
    (root / "videos" / "jump" / "jump 1.avi").write_text("no video\n" * 50)
    result = prepare(root, tmp_path / "out")
    assert result.videos == 5 and len(result.failed) == 1
    assert "jump 1.avi: " in result.failed[0] and "left out: " + result.failed[0] in str(result)
    old = samples(root, root)
    old[-1]["train"] = [row for row in old[-1]["train"] if "jump 1" not in row[0]]
    assert samples(tmp_path / "out", tmp_path / "out") == old


def test_a_video_that_breaks_off_keeps_its_beginning(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    clip = torch.stack([torch.from_numpy(painted(i)) for i in range(40)]).permute(0, 3, 1, 2)
    clip[:, :, 40:] = torch.randint(0, 256, clip[:, :, 40:].shape, dtype=torch.uint8)  # else it is too small to cut
    write_video(root / "a.mp4", clip, 25)
    whole = (root / "a.mp4").read_bytes()
    (root / "a.mp4").write_bytes(whole[: len(whole) // 2])
    result = prepare(root, tmp_path / "out", short_side=48)
    with pytest.warns(UserWarning, match="cut short"):
        left = indices(root / "a.mp4")
    assert 0 < len(left) < 40 and left == indices(tmp_path / "out" / "a.mp4")
    assert f"{root}/a.mp4: " in result.cut_short[0] and f" {len(left)} frames " in result.cut_short[0]
    assert f"cut short: {result.cut_short[0]}" in str(result)


def test_a_process_that_dies_or_hangs_costs_one_video(tmp_path, monkeypatch):
    root = classes(tmp_path / "in")

    def troubled(path, fps=None):
        if path.name == "jump 1.mp4":
            os.kill(os.getpid(), signal.SIGKILL)
        if path.name == "walk 1.mp4":
            time.sleep(60)
        return Video(path, fps)

    monkeypatch.setattr(module, "Video", troubled)
    monkeypatch.setattr(module, "_LIMIT_S", 1.0)
    result = prepare(root, tmp_path / "out", workers=2)
    assert result.videos == 4
    assert sorted(result.failed) == [
        f"{root}/jump/jump 1.mp4: its process was killed, as when the machine runs out of memory",
        f"{root}/walk/walk 1.mp4: took longer than 1 s",
    ]
    monkeypatch.undo()
    monkeypatch.setattr(module, "_speeds", lambda new, ready: None)
    assert prepare(root, tmp_path / "out").kept == 4


@pytest.mark.parametrize(
    ("number", "says"), [(errno.ENOSPC, "the disk is full"), (errno.EFBIG, "a file is larger than this disk or shell")]
)
def test_a_full_disk_is_one_error_and_the_run_goes_on_later(tmp_path, monkeypatch, number, says):
    root = classes(tmp_path / "in")

    def full(path, *arguments, **options):
        if len(videos_in(tmp_path / "out")) == 3:
            raise VideoError(f"{path}: cannot be written ({os.strerror(number)})")
        write_video(path, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(ValueError, match=f"{says}.*; 3 of 6 videos are made"):
        patch.setattr(module, "write_video", full)
        prepare(root, tmp_path / "out", workers=1)
    assert prepare(root, tmp_path / "out").kept == 3


def test_mistakes_are_told_before_the_work(tmp_path):
    root = classes(tmp_path / "in", count=1)
    for out in (root, root / "new", tmp_path, root / "jump" / ".." / "new"):
        with pytest.raises(ValueError, match="is the folder of the videos"):
            prepare(root, out)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file: a file; give a folder"):
        prepare(root, tmp_path / "file")
    with pytest.raises(ValueError, match="short_side 0 must be at least 1"):
        prepare(root, tmp_path / "out", short_side=0)
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        prepare("nowhere", tmp_path / "out")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="nothing: no videos"):
        prepare(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(ValueError, match="scans: scans; prepare is for videos"):
        prepare(write_scans(tmp_path / "scans", number=4, ending=".npy"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "nothing" / "a.mp4").touch()
    with pytest.raises(ValueError, match=r"none of 1 video can be read, first .*a.mp4: the file is empty"):
        prepare(tmp_path / "nothing", tmp_path / "out")


def test_other_files_are_not_overwritten(tmp_path):
    for name in ("in", "own"):
        (tmp_path / name).mkdir()
    write_video(tmp_path / "in" / "a.mp4", [torch.zeros(3, 24, 48, dtype=torch.uint8)] * 4, 25)
    (tmp_path / "own" / "a.mp4").write_text("precious")
    with pytest.raises(ValueError, match="own: holds other files"):
        prepare(tmp_path / "in", tmp_path / "own")
    assert (tmp_path / "own" / "a.mp4").read_text() == "precious"


def test_where_nothing_is_won_the_sources_are_advised(tmp_path):
    made = Prepared(tmp_path, 2, 0, 1, 1, clips_per_s=(100.0, 70.0))
    assert "100 before, 70 after; no faster (0.7 times as fast): " in str(made)
    assert "train on the videos as they are" in str(made)
    assert str(replace(made, clips_per_s=(100.0, 320.0))).endswith("100 before, 320 after; 3.2 times as fast")
    assert str(replace(made, videos=1)).startswith("1 video prepared; ")


def test_animated_webp_is_prepared_and_a_still_one_is_not(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    first, *rest = [pillow.fromarray(painted(i)) for i in range(20)]
    (tmp_path / "in").mkdir()
    first.save(tmp_path / "in" / "a.webp", save_all=True, append_images=rest, duration=40, lossless=True)
    first.save(tmp_path / "in" / "still.webp")
    prepare(tmp_path / "in", tmp_path / "out", workers=1)
    assert videos_in(tmp_path / "out") == [tmp_path / "out" / "a.mp4"]
    assert indices(tmp_path / "out" / "a.mp4") == list(range(20))


def test_what_was_won_is_told(tmp_path, monkeypatch):
    monkeypatch.undo()
    classes(tmp_path / "in", count=1)
    result = prepare(tmp_path / "in", tmp_path / "out", short_side=24)
    assert result.clips_per_s is not None and min(result.clips_per_s) > 0
    lines = str(result).splitlines()
    assert lines[0] == "2 videos prepared; sound is not kept" and lines[1].startswith("size: ")
    assert lines[2].startswith("random training clips a second and core: ")
    assert result.bytes_before == sum(path.stat().st_size for path in videos_in(tmp_path / "in"))
    assert result.bytes_after == sum(path.stat().st_size for path in videos_in(tmp_path / "out"))
