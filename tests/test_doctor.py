"""A data set with one of each fault, which must be found there and nowhere else."""

import csv
import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy
import pytest
import torch
from painted_scans import SIZE, painted, write_scans

import tubelet
from tubelet import doctor, examine, processes
from tubelet.data import fingerprint
from tubelet.data.layouts import open_data
from tubelet.data.motion import draw
from tubelet.data.sample import Sample, VideoData
from tubelet.data.transforms import resize
from tubelet.data.video import Video, write_video
from tubelet.data.volume import Grid, write_volume
from tubelet.prepare import videos_in

GRID = Path(__file__).parents[2] / "shared" / "data" / "grid"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TUBELET_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def untimed(monkeypatch):
    """Without the measurement of speed, which takes seconds."""
    monkeypatch.setattr(doctor, "_speeds", lambda videos, spec: {})


def drawn(seed, num_frames=24):
    """A clip (3, T, 64, 64) like no other."""
    return draw(["left", "up"], num_frames // 2, torch.Generator().manual_seed(seed))


def write(path, clip, fps=25.0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, clip.unbind(1), fps, **options)
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Two classes with four videos to train and two to validate each."""
    root = tmp_path_factory.mktemp("sound")
    for seed, (split, name, i) in enumerate(
        (split, name, i)
        for split, count in (("train", 4), ("val", 2))
        for name in ("jump", "walk")
        for i in range(count)
    ):
        write(root / split / name / f"{i}.mp4", drawn(seed))
    return root


@pytest.fixture
def root(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "data")


def kinds(diagnosis):
    """Names of the files that each finding is about."""
    return {
        finding.kind: {mark.name.removeprefix(f"{diagnosis.path}/") for mark in finding.marks}
        for finding in diagnosis.findings
    }


def test_nothing_is_found_in_a_sound_data_set(sound):
    diagnosis = doctor.data(sound, workers=1)
    assert diagnosis.is_healthy and not diagnosis.findings and not diagnosis.left_out
    assert [row["train"] for row in diagnosis.classes] == [4, 4]
    assert diagnosis.figures["videos"] == "12, 12 of them can be read"
    assert diagnosis.figures["pictures"] == "64x64 in 12"
    assert diagnosis.figures["frames a second"] == "25 in 12"
    assert diagnosis.figures["codecs"] == "h264 in 12"
    assert str(diagnosis).startswith("no problems\n")


def text(path, root):
    path.write_text("no video\n" * 100)


def cut(path, root):
    """A download that broke off; the index of the file comes first."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])


def black(path, root):
    write(path, torch.zeros(3, 24, 64, 64, dtype=torch.uint8))


def still(path, root):
    write(path, drawn(70)[:, :1].expand(-1, 24, -1, -1))


def copied(path, root):
    shutil.copyfile(root / "val" / "walk" / "0.mp4", path)


def reencoded(path, root):
    with Video(root / "val" / "walk" / "0.mp4") as video:
        write(path, resize(video.frames(range(1, video.num_frames)), (48, 56)), video.fps * 2, crf=30, gop=250)


def of_both_classes(path, root):
    shutil.copyfile(root / "train" / "jump" / "3.mp4", path)


def twice(path, root):
    shutil.copyfile(root / "train" / "walk" / "3.mp4", path)


FAULTS = {
    "unreadable": (text, True),
    "cut short": (cut, False),
    "blank": (black, True),
    "still": (still, False),
    "copy across splits": (copied, True),
    "near copy across splits": (reencoded, True),
    "copy": (twice, False),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_found_where_it_is(root, tmp_path, kind):
    spoil, is_left_out = FAULTS[kind]
    spoilt = root / "train" / "walk" / "1.mp4"
    spoil(spoilt, root)
    diagnosis = doctor.data(root, workers=1, out=tmp_path / "clean.csv")
    found = kinds(diagnosis)
    found.pop("mixed rates", None)
    name = str(spoilt.relative_to(root))
    if kind == "copy":  # either of two equal ones
        assert found[kind] <= {name, "train/walk/3.mp4"} and len(found[kind]) == 1 and len(found) == 1
    else:
        assert found == {kind: {name}}
    assert diagnosis.is_healthy is (kind in ("still", "copy"))
    whole, clean = open_data(root), open_data(tmp_path / "clean.csv")
    assert clean.classes == whole.classes
    for split, samples in whole.splits.items():
        kept = [sample for sample in samples if sample.path != spoilt or not is_left_out]
        assert sorted(kept, key=str) == sorted(clean.splits[split], key=str)
    told = json.loads((tmp_path / "clean.json").read_text())
    assert told["is_healthy"] is diagnosis.is_healthy and kind in {finding["kind"] for finding in told["findings"]}
    assert len(told["videos"]) == 12 - (kind == "unreadable")


def test_one_video_in_two_classes(root):
    of_both_classes(root / "train" / "walk" / "1.mp4", root)
    assert kinds(doctor.data(root, workers=1)) == {"copy of another class": {"train/walk/1.mp4", "train/jump/3.mp4"}}


def test_of_copies_the_one_to_test_on_stays_whatever_is_remembered(root):
    twice(root / "train" / "walk" / "1.mp4", root)
    doctor.data(root, workers=1)
    twice(root / "val" / "walk" / "0.mp4", root)
    assert kinds(doctor.data(root, workers=1)) == {"copy across splits": {"train/walk/1.mp4", "train/walk/3.mp4"}}


def test_problems_come_first_and_each_says_what_to_do(root):
    text(root / "train" / "walk" / "1.mp4", root)
    still(root / "val" / "walk" / "1.mp4", root)
    lines = str(doctor.data(root, workers=1)).splitlines()
    assert lines[0] == "1 problem" and lines[1] == "- unreadable: 1 video that cannot be read"
    assert lines[2].startswith(f"    {root}/train/walk/1.mp4: ") and lines[3].startswith("    fix: ")
    assert lines[4] == "good to know" and lines[5].startswith("- still: ")


def test_a_damaged_frame_that_is_not_among_the_sixteen_is_found_in_full(root):
    path = write(root / "train" / "jump" / "1.mp4", drawn(5, 64), gop=1)
    sixteen = fingerprint.spread(64)
    victim = next(i for i in range(20, 40) if i not in sixteen)
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][victim]
        place, size = packet.pos, packet.size
    held = bytearray(path.read_bytes())
    held[place + 4 : place + size] = bytes(255 for _ in range(size - 4))
    path.write_bytes(held)
    assert doctor.data(root, workers=1).is_healthy
    (finding,) = doctor.data(root, workers=1, full=True).findings
    assert finding.kind == "damaged" and f"frame {victim} of 64" in finding.marks[0].detail
    assert not doctor.data(root, workers=1, full=True).is_healthy


def test_a_file_that_hangs_or_crashes_is_named_and_the_others_are_examined(root, monkeypatch):
    def troubled(path):
        if path.parts[-2:] == ("jump", "1.mp4"):
            time.sleep(60)
        if path.parts[-3:] == ("train", "walk", "2.mp4"):
            os.kill(os.getpid(), signal.SIGKILL)
        return Video(path)

    monkeypatch.setattr(examine, "Video", troubled)
    diagnosis = doctor.data(root, workers=2, time_limit_s=1)
    (finding,) = diagnosis.findings
    told = {mark.name.removeprefix(f"{root}/"): mark.detail for mark in finding.marks}
    assert told.keys() == {"train/jump/1.mp4", "val/jump/1.mp4", "train/walk/2.mp4"}
    assert told["train/jump/1.mp4"] == "took longer than 1 s" and "killed" in told["train/walk/2.mp4"]
    assert len(diagnosis.videos) == 9


def test_what_was_found_out_is_remembered_until_the_file_changes(root, monkeypatch):
    first = doctor.data(root, workers=1)

    def opened(path):
        raise AssertionError(path)

    monkeypatch.setattr(examine, "Video", opened)
    assert doctor.data(root, workers=1).videos == first.videos
    os.utime(root / "val" / "jump" / "0.mp4", (1, 1))
    assert kinds(doctor.data(root, workers=1)) == {"unreadable": {"val/jump/0.mp4"}}


def test_an_examination_that_was_interrupted_goes_on(root, monkeypatch):
    def stopped(items, what, total):
        for done, item in enumerate(items):
            yield item
            if done == 4:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="5 of 12 videos are examined; "):
        patch.setattr(examine, "progress", stopped)
        doctor.data(root, workers=1)
    asked = []
    monkeypatch.setattr(
        examine, "each", lambda function, items, **kw: asked.append(len(items)) or processes.each(function, items, **kw)
    )
    assert doctor.data(root, workers=1).is_healthy
    assert asked[0] == 12 - 5


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")
def test_a_name_that_is_no_utf8_is_examined_and_remembered(root, monkeypatch):
    (root / "train" / "jump" / "0.mp4").rename(os.fsdecode(os.fsencode(root / "train" / "jump") + b"/caf\xe9.mp4"))
    first = doctor.data(root, workers=1)
    assert first.is_healthy and len(first.videos) == 12
    monkeypatch.setattr(examine, "Video", None)
    assert doctor.data(root, workers=1).videos == first.videos


def test_without_a_cache_folder_it_works_all_the_same(root, monkeypatch):
    monkeypatch.setenv("TUBELET_CACHE", "/dev/null/no")
    assert doctor.data(root, workers=1).is_healthy


def test_a_list_whose_videos_are_missing_gets_a_clean_one(sound, tmp_path):
    whole = open_data(sound)
    rows = [(str(each.path), whole.classes[each.target]) for split in whole.splits.values() for each in split]
    lines = [f"{path},{label}" for path, label in [*rows, ("gone/a.mp4", rows[0][1]), ("gone/b.mp4", rows[0][1])]]
    (tmp_path / "all.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"2 of .* videos are not there"):
        open_data(tmp_path / "all.csv")
    found = doctor.data(tmp_path / "all.csv", out=tmp_path / "clean.csv", workers=1)
    assert [finding.text for finding in found.findings if finding.kind == "missing"] == [
        "2 videos of the lists not there"
    ]
    assert not found.is_healthy
    clean = open_data(tmp_path / "clean.csv")
    names = {each.path.name for split in clean.splits.values() for each in split}
    assert names == {Path(path).name for path, _ in rows}


def test_videos_too_short_for_a_clip(root):
    write(root / "train" / "walk" / "1.mp4", drawn(50, 10))
    assert doctor.data(root, workers=1).is_healthy
    diagnosis = doctor.data(root, workers=1, num_frames=6, frame_stride=3)
    assert kinds(diagnosis) == {"too short": {"train/walk/1.mp4"}}
    assert diagnosis.findings[0].marks[0].detail == "10 frames of 16" and len(diagnosis.left_out) == 1
    diagnosis = doctor.data(root, workers=1, model="tiny")
    assert len(diagnosis.findings[0].marks) == 12 and not diagnosis.left_out  # the clip is wrong, not the videos


def test_videos_too_small_for_the_crop(root, monkeypatch):
    write(root / "train" / "walk" / "1.mp4", resize(drawn(50), (32, 48)))
    spec = doctor.ClipSpec(num_frames=8, resize=None, crop=(40, 40))
    monkeypatch.setattr(doctor, "_clip", lambda *_: spec)
    diagnosis = doctor.data(root, workers=1)
    assert kinds(diagnosis) == {"too small": {"train/walk/1.mp4"}} and len(diagnosis.left_out) == 1
    assert diagnosis.findings[0].marks[0].detail == "32x48 after the resize, and the crop is 40x40"


def test_parts_in_seconds_have_the_frames_that_training_finds(tmp_path):
    clip = drawn(3)
    steady = write(tmp_path / "steady.mp4", clip)
    varying = write(tmp_path / "varying.mp4", clip, times_s=[0.04 * i if i < 16 else 4.0 + i for i in range(24)])
    parts = [Sample(steady, 0, 0.09, 0.9, unit="s"), Sample(varying, 1, 0, 0.65, unit="s")]
    videos = examine.examine([steady, varying], workers=1)[0]
    marks = list(doctor._of_samples({"train": parts}, videos, doctor.ClipSpec(num_frames=21, frame_stride=1)))
    assert [mark.detail for mark in marks] == ["20 frames of 21", "16 frames of 21"]


def test_a_video_is_opened_once_and_for_parts_of_a_doubtful_length_alone(tmp_path, monkeypatch):
    paths = [write(tmp_path / f"{i}.mp4", drawn(i)) for i in range(3)]
    lengths = [(0, 0.2), (1, 0.9), (2, 0.42), (0, 0.3), (2, 0.44), (0, 0.9)]
    parts = [Sample(paths[i], 0, 0.04, 0.04 + length, unit="s") for i, length in lengths]
    videos, opened, plain = examine.examine(paths, workers=1)[0], [], doctor.Video

    def noted(path, fps):
        opened.append(path)
        return plain(path, fps)

    monkeypatch.setattr(doctor, "Video", noted)
    spec = doctor.ClipSpec(num_frames=10, frame_stride=1)
    marks = list(doctor._of_samples({"train": parts}, videos, spec))
    assert {mark.name for mark in marks} == {parts[0].name, parts[3].name} and opened == [paths[0], paths[2]]


def test_parts_that_lie_outside_of_their_video(root, tmp_path):
    parts = [
        ("train/jump/0.mp4", "jump", 0, 24),
        ("train/jump/1.mp4", "jump", 3, 25),
        ("train/walk/0.mp4", "walk", 24, 30),
    ]
    parts += [
        ("train/walk/1.mp4", "walk", 2, 9),
        ("train/walk/2.mp4", "walk", 2, 9),
        ("train/jump/3.mp4", "jump", 2, 9),
    ]
    (root / "parts.csv").write_text(
        "path,label,start_frame,end_frame\n" + "".join(f"{','.join(map(str, p))}\n" for p in parts)
    )
    diagnosis = doctor.data(root / "parts.csv", workers=1, out=root / "clean.csv")
    found = {mark.name for mark in diagnosis.findings[0].marks}
    assert diagnosis.findings[0].kind == "outside"
    assert found == {f"{root}/train/jump/1.mp4[3:25]", f"{root}/train/walk/0.mp4[24:30]"}
    kept = [sample for samples in open_data(root / "clean.csv").splits.values() for sample in samples]
    assert {(sample.path.parent.name, sample.start, sample.end) for sample in kept} == {
        ("jump", 0, 24),
        ("jump", 2, 9),
        ("walk", 2, 9),
    }


def test_spans_that_reach_beyond_their_video(root):
    spans = [("0", 10, 24), ("1", 10, 40), ("2", 10, 60), ("3", 25, 30)]  # of videos of 24 frames
    for unit, per_unit in (("frame", 1), ("s", 1 / 25)):
        rows = [f"train/jump/{i}.mp4,jump,{start * per_unit},{end * per_unit},train" for i, start, end in spans]
        header = f"path,label,start_{unit},end_{unit},split"
        (root / "spans.csv").write_text("\n".join([header, *rows, "train/walk/0.mp4,walk,0,1,val"]))
        diagnosis = doctor.data(root / "spans.csv", workers=1, task="frames")
        found = {finding.kind: [Path(mark.name).name for mark in finding.marks] for finding in diagnosis.findings}
        assert found["outside"] == ["3.mp4"] and found["late spans"] == ["2.mp4"]


def test_classes_and_groups(root):
    for name in ("Wave", "wave_"):
        write(root / "train" / name / "v_Wave_g01_c01.mp4", drawn(len(name)))
    write(root / "val" / "Wave" / "v_Wave_g01_c02.mp4", drawn(99))
    for i in range(46):
        (root / "train" / "jump" / f"link{i}.mp4").symlink_to(root / "train" / "jump" / "0.mp4")
    found = {finding.kind: finding for finding in doctor.data(root, workers=1).findings}
    assert {"class names", "shared group", "lacking classes", "imbalance"} <= set(found)
    assert "Wave and wave_" in found["class names"].text
    assert found["shared group"].marks[0][1:] == ("v_Wave_g01", "train, val")
    assert found["lacking classes"].text == "1 of 4 classes without samples in val: wave_"
    assert found["imbalance"].text == "1 sample of the rarest class to train on, 50 of the most frequent"


def test_names_that_look_the_same_are_told():
    (found,) = doctor._of_classes(VideoData(("caf\u00e9", "cafe\u0301", "cafe"), {}), ())
    assert found.text.endswith("the code of accents: caf\u00e9 and cafe\u0301")


def test_a_folder_without_classes(root, tmp_path):
    bare = tmp_path / "bare"
    for i, path in enumerate(sorted(root.rglob("*.mp4"))[:3]):
        bare.mkdir(exist_ok=True)
        path.rename(bare / f"{i}.mp4")
    (bare / "empty.mp4").touch()
    diagnosis = doctor.data(bare, workers=1, out=tmp_path / "clean.csv")
    assert kinds(diagnosis).keys() == {"unreadable", "no data set", "no clean list"}
    assert not (tmp_path / "clean.csv").exists() and (tmp_path / "clean.json").exists()
    for one in diagnosis.findings:
        assert one.is_problem is (one.kind != "no data set")  # no classes are asked for, and a list is
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="no videos"):
        doctor.data(tmp_path / "nothing", workers=1)


def of_one_class(root):
    for split in ("train", "val"):
        shutil.rmtree(root / split / "walk")
    return "one class only (jump)"


def with_an_empty_class(root):
    (root / "train" / "wave").mkdir()
    return "train/wave: no videos"


def with_two_lists(root):
    for name in ("x.csv", "y.csv"):
        (root / name).write_text("path,label\ntrain/jump/0.mp4,a\n")
    return "2 annotations (x.csv; y.csv)"


def test_what_opening_says_is_said_once(root, caplog):
    of_one_class(root)
    shutil.copyfile(root / "val" / "jump" / "0.mp4", root / "train" / "stray.mp4")
    doctor.data(root, workers=1)
    assert caplog.text.count("1 video in no class folder") == 1


@pytest.mark.parametrize("spoil", [of_one_class, with_an_empty_class, with_two_lists])
def test_a_data_set_that_does_not_open_is_a_problem(root, spoil):
    told = spoil(root)
    diagnosis = doctor.data(root, workers=1)
    assert [finding.kind for finding in diagnosis.findings] == ["no data set"]
    assert told in diagnosis.findings[0].text and not diagnosis.is_healthy
    assert len(diagnosis.videos) == len(videos_in(root))


def test_classes_are_shown_in_their_order_and_of_many_the_rarest():
    rows = [{"class": f"c{i:02}", "train": 2 + (i % 3), "val": 1} for i in range(12)]
    shown = [row["class"] for row in doctor._rarest(rows)]
    assert shown == sorted(shown) and len(shown) == 10
    assert {"c02", "c05", "c08", "c11"} - set(shown) == {"c08", "c11"}
    assert doctor._rarest(rows[:3]) == rows[:3]


def test_animated_webp_is_examined(root):
    pillow = pytest.importorskip("PIL.Image")
    pictures = [pillow.fromarray(each.permute(1, 2, 0).numpy()) for each in drawn(80).unbind(1)]
    pictures[0].save(root / "train" / "walk" / "a.webp", save_all=True, append_images=pictures[1:], duration=40)
    diagnosis = doctor.data(root, workers=1)
    assert diagnosis.is_healthy and diagnosis.figures["codecs"] == "h264 in 12, webp in 1"


def test_mistakes_are_told_before_the_work(root):
    with pytest.raises(ValueError, match=r"clean.txt: the clean list is a .csv"):
        doctor.data(root, out="clean.txt")
    (root / "list.csv").touch()
    with pytest.raises(ValueError, match=r"list.csv: the list that is examined, which stays"):
        doctor.data(root / "list.csv", out=root / "val" / ".." / "list.csv")
    with pytest.raises(ValueError, match="tiny5: no such file of weights"):
        doctor.data(root, model="tiny5")
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        doctor.data("nowhere")


@pytest.mark.parametrize(
    ("examined", "out", "kept"),
    [
        ("anet.json", "anet.csv", "anet.json"),
        (".", "data.csv", "data.csv"),
        ("train.csv", "val.csv", "val.csv"),
        (".", "new.csv", "new.classes.csv"),
    ],
)
def test_what_is_examined_stays(root, examined, out, kept):
    for file in (examined, kept):
        if file != ".":
            (root / file).write_text("the user's")
    with pytest.raises(ValueError, match=rf"{kept}: is there and was not written by doctor"):
        doctor.data(root / examined, out=root / out)
    assert (root / kept).read_text() == "the user's"


def test_what_doctor_wrote_is_replaced(root):
    doctor.data(root, workers=1, out=root / "clean.csv")
    whole = (root / "clean.csv").read_text()
    (root / "train" / "walk" / "1.mp4").write_text("no video")
    doctor.data(root, workers=1, out=root / "clean.csv")
    assert len((root / "clean.csv").read_text()) < len(whole)


def test_a_small_set_is_timed(sound, monkeypatch):
    monkeypatch.undo()
    told = doctor._speeds(
        examine.examine(sorted(sound.rglob("*.mp4"))[:2], workers=1)[0], doctor.ClipSpec(num_frames=4)
    )
    assert told.keys() == {"reading", "reading after `tubelet prepare`"}


@pytest.mark.skipif(not GRID.exists(), reason="no ../shared/data/grid")
def test_takes_of_one_face_are_no_copies_and_copies_are(tmp_path):
    """One speaker before one camera: a hash of single frames takes all of them for the same."""
    clips = sorted((GRID / "clips").iterdir())[:150]
    for i, path in enumerate(clips):
        target = tmp_path / ("train" if i % 2 else "val") / str(i % 3) / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    changes = [
        lambda clip: clip,
        lambda clip: resize(clip, (72, 96)),
        lambda clip: resize(clip, (144, 192)),
        lambda clip: clip[:, 3:],
        lambda clip: clip[:, 2:-2],
        lambda clip: clip[:, ::2],
    ]
    copies = {}
    for i, change in enumerate(changes):
        with Video(clips[2 * i]) as video:  # of the validation part
            path = write(
                tmp_path / "train" / "0" / f"copy{i}.mp4", change(video.frames(range(video.num_frames))), crf=28
            )
            copies[str(path)] = clips[2 * i].name
    diagnosis = doctor.data(tmp_path, workers=2)
    near = [finding for finding in diagnosis.findings if finding.kind == "near copy across splits"]
    assert {mark.name: Path(mark.detail.split(",")[0]).name for mark in near[0].marks} == copies
    assert "near copy" not in kinds(diagnosis)


def test_volumes_that_are_alike_are_no_copies_and_copies_are(tmp_path):
    """Balls of nearly one size, as organs cut out alike; one of them is there twice."""
    z, y, x = numpy.ogrid[:16, :16, :16]
    distance = ((z - 8) ** 2 + (y - 8) ** 2 + (x - 8) ** 2) ** 0.5
    balls = numpy.stack([255 * (distance < 5 + i / 10) for i in range(0, 16, 2)]).astype(numpy.uint8)
    val = numpy.stack([balls[1] // 2, balls[3]])
    labels = {"train_labels": numpy.arange(8) % 2, "val_labels": numpy.array([0, 1])}
    numpy.savez(tmp_path / "x.npz", train_images=balls, val_images=val, **labels)
    diagnosis = doctor.data(tmp_path / "x.npz", workers=1, out=tmp_path / "clean.csv")
    (problem,) = (finding for finding in diagnosis.findings if finding.is_problem)
    assert problem.kind == "copy across splits" and "train/3.npy" in str(problem)
    clean = open_data(tmp_path / "clean.csv")
    assert {split: len(samples) for split, samples in clean.splits.items()} == {"train": 7, "val": 2}


def test_scans_are_read_as_training_reads_them(tmp_path):
    pytest.importorskip("SimpleITK")
    root = write_scans(tmp_path / "data", number=8)
    assert doctor.data(root, workers=1).is_healthy
    image, mask = painted(1)
    nan = numpy.where(mask == 1, numpy.nan, image).astype(numpy.float32)
    write_volume(root / "images" / "c01.nii.gz", nan, Grid(SIZE, (1.0, 1.0, 1.0)))
    write_volume(root / "labels" / "c02.nii.gz", mask, Grid(SIZE, (2.0, 1.0, 1.0)))
    write_volume(root / "labels" / "c03.nii.gz", mask * 0, Grid(SIZE, (1.0, 1.0, 1.0)))
    diagnosis = doctor.data(root, workers=1, out=tmp_path / "clean.csv")
    assert kinds(diagnosis) == {
        "unreadable": {"images/c01.nii.gz"}, "wrong mask": {"images/c02.nii.gz"}, "empty mask": {"images/c03.nii.gz"},
    }  # fmt: skip
    assert "values are NaN" in str(diagnosis) and "mm from its image" in str(diagnosis)
    assert diagnosis.figures["spacing in mm"] == "1x1x1 in 7" and not diagnosis.is_healthy
    assert sum(int(str(diagnosis.classes[0][split])) for split in ("train", "val")) == 6  # whose masks can be used
    clean = open_data(tmp_path / "clean.csv")
    assert clean.task == "segment" and sum(map(len, clean.splits.values())) == 6
    with pytest.raises(ValueError, match="scans, of which training fills up what a window lacks"):
        doctor.data(root, num_frames=8)


def test_scans_of_classes_and_copies_of_them(tmp_path):
    pytest.importorskip("SimpleITK")
    for split, label, seed in [(s, c, i) for i, s in enumerate(("train", "val")) for c in ("sick", "well")]:
        (tmp_path / "data" / split / label).mkdir(parents=True)
        array = painted(seed + 10 * (label == "well"))[0]
        write_volume(tmp_path / "data" / split / label / "a.nii", array, Grid(SIZE, (1.0, 1.0, 1.0)))
    assert doctor.data(tmp_path / "data", workers=1).is_healthy
    shutil.copy(tmp_path / "data/val/sick/a.nii", tmp_path / "data/train/sick/b.nii")
    diagnosis = doctor.data(tmp_path / "data", workers=1, out=tmp_path / "clean.csv")
    assert kinds(diagnosis) == {"copy across splits": {"train/sick/b.nii"}}
    assert "1 scan in another split" in diagnosis.findings[0].text
    assert {split: len(samples) for split, samples in open_data(tmp_path / "clean.csv").splits.items()} == {
        "train": 2, "val": 2,
    }  # fmt: skip


@pytest.mark.skipif(not GRID.exists(), reason="no ../shared/data/grid")
def test_parts_that_are_too_short_are_counted_as_the_list_has_them():
    with (GRID / "words.csv").open() as file:
        lengths = [int(row["end_frame"]) - int(row["start_frame"]) for row in csv.DictReader(file)]
    splits = open_data(GRID / "words.csv").splits
    seen = examine.Seen(75, 25.0, 3.0, 96, 128, "h264", 1, True)
    paths = {sample.path for samples in splits.values() for sample in samples}
    marks = list(doctor._of_samples(splits, dict.fromkeys(paths, seen), doctor.ClipSpec(num_frames=8)))
    assert len(marks) == sum(length < 8 for length in lengths)


def test_speed_shows_each_layer_and_the_whole_step():
    table = doctor.speed("tiny", num_frames=4, crop=(16, 16), batch_size=2, seconds=0.2)
    assert table.rows[-1]["layer"] == "all that were timed"
    summary = table.summary
    plain, fast = summary["step as torch does it, ms"], summary["step with what was chosen, ms"]
    assert summary["times as fast"] == plain / fast > 0
    assert summary["clips a second"] == pytest.approx(2e3 / fast)
    assert "2x3x4x16x16 on" in str(table)


def test_speed_of_a_detector(tmp_path):
    model = tubelet.create("tiny", num_classes=2)
    model.head = tubelet.heads.Detect(model.channels[-1], 2, model.strides[-1][1])
    path = tubelet.save(model, tmp_path / "detector.safetensors")
    table = doctor.speed(str(path), num_frames=4, crop=(16, 16), batch_size=2, seconds=0)
    assert table.summary["times as fast"] > 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model": "resnet3d_99"}, "resnet3d_99"),
        ({"model": "tiny", "batch_size": 0}, "batch_size 0"),
        ({"model": "tiny", "num_frames": 0}, "num_frames 0"),
        ({"model": "tiny", "precision": "16"}, "precision '16'; there is 32, bf16"),
    ],
)
def test_speed_of_what_is_not_there(options, reason):
    with pytest.raises(ValueError, match=reason):
        doctor.speed(**options)
