"""Prediction: windows and their times, every kind of source, what is written."""

import csv
import dataclasses
import json
import math
import os
import re
import time

import pytest
import torch
from PIL import Image
from streams import mpegts, serve
from test_evaluate import CLASSES, Brightness, flat, rising

import tubelet
from tubelet import heads
from tubelet.data import transforms
from tubelet.data.video import Video, write_video
from tubelet.predict import Prediction, write


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """One second dark, one light, and eight rising frames, at 25 frames a second."""
    path = tmp_path_factory.mktemp("video") / "long.mp4"
    write_video(path, [*flat(20, 25), *flat(220, 25), *rising(8)], 25.0)
    return path


def test_windows_tell_what_happens_and_when(video):
    seen = tubelet.predict(Brightness(), video, stride_s=0.08)
    assert seen.classes == CLASSES and set(seen.sources) == {str(video)}
    assert seen.times[0].tolist() == pytest.approx([0, 0.16]) and seen.times[-1, 1].item() == pytest.approx(58 / 25)
    assert (seen.times[1:, 0] - seen.times[:-1, 0]).max().item() == pytest.approx(0.08)
    said = [CLASSES[i] for i in seen.scores.argmax(1)]
    middles = seen.times.mean(1)
    assert {name for name, t in zip(said, middles, strict=True) if t < 0.9} == {"dark"}
    assert {name for name, t in zip(said, middles, strict=True) if 1.1 < t < 1.9} == {"light"}
    assert said[-1] == "rising"


def test_an_array_gives_what_its_file_gives(video):
    with Video(video) as opened:
        array = opened.frames(range(opened.num_frames))
    from_file = tubelet.predict(Brightness(), video)
    for source in (array, array.numpy()):
        from_array = tubelet.predict(Brightness(), source, fps=25.0)
        assert torch.allclose(from_array.scores, from_file.scores, atol=1e-5)
        assert torch.allclose(from_array.times.double(), from_file.times, atol=1e-6)
    frames = tubelet.predict(Brightness(), array)
    assert frames.times[0].tolist() == [0, 4]


def test_a_folder_of_frames_gives_what_its_file_gives(video, tmp_path, monkeypatch):
    with Video(video) as opened:
        clip = opened.frames(range(opened.num_frames))
    for number, picture in enumerate(clip.permute(1, 2, 3, 0).numpy(), start=1):
        for name in ("a", "b"):
            (tmp_path / "deep" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(tmp_path / "deep" / name / f"img_{number:05d}.png")
    from_file = tubelet.predict(Brightness(), video)
    from_frames = tubelet.predict(Brightness(), tmp_path / "deep" / "a", fps=25.0)
    assert torch.equal(from_frames.scores, from_file.scores) and torch.equal(from_frames.times, from_file.times)
    assert set(from_frames.sources) == {str(tmp_path / "deep" / "a")}
    with Video(from_frames.to_video(tmp_path / "seen.mp4")) as drawn:
        assert drawn.num_frames == len(clip[0]) and drawn.fps == pytest.approx(25)
    (tmp_path / "seen.mp4").unlink()
    both = tubelet.predict(Brightness(), tmp_path)
    assert [part.sources[0] for part in both.videos()] == [str(tmp_path / "deep" / name) for name in ("a", "b")]
    assert both.times[-1, 1].item() == pytest.approx(len(clip[0]) / 30)
    monkeypatch.chdir(tmp_path / "deep" / "a")
    (tmp_path / "out").mkdir()
    within = tubelet.predict(Brightness(), ".")
    assert write(within, tmp_path / "out")[-1] == tmp_path / "out" / "a_seen.mp4"
    assert within.top(1).rows[0]["video"] == "a"


def test_a_flow_network_reads_flow(tmp_path):
    for number in range(31):
        for way in ("x", "y"):
            Image.new("L", (64, 64), 8 * number).save(tmp_path / f"flow_{way}_{number:05d}.jpg")
    model = tubelet.create("tiny", num_classes=3, in_channels=2)
    assert tubelet.predict(model, tmp_path).scores.shape == (1, 3)
    with pytest.raises(ValueError, match="2 channels, and the clips of the network have 3"):
        tubelet.predict(tubelet.create("tiny", num_classes=3), tmp_path)


def test_a_stream_is_seen_until_it_ends(capsys):
    """The windows are those of the last frames; each is told as it is seen."""
    with serve(mpegts(60, fps=50, is_paced=True)) as url:
        seen = tubelet.predict(Brightness(), url)
    assert set(seen.sources) == {url} and seen.classes == CLASSES and not seen.failed
    assert len(seen.scores) >= 2 and torch.allclose(seen.scores.sum(1), torch.ones(len(seen.scores)))
    assert seen.times[0, 0] == 0 and (seen.times.diff(dim=0) > 0).all() and seen.times[-1, 1] < 3
    assert seen.classes[seen.scores[-1].argmax()] == "light" or seen.classes[seen.scores[-1].argmax()] == "rising"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(seen.scores)
    assert all(
        re.search(r"\d\.\d s  (dark|light|rising) \d+ %  \(lag \d+\.\d\d s, \d+ frames dropped\)", line)
        for line in lines
    )


def test_a_network_at_a_rate_of_its_own_sees_a_stream_at_that_rate():
    model = Brightness()
    model.spec = dataclasses.replace(model.spec, fps=10.0)
    with serve(mpegts(60, fps=50, is_paced=True)) as url:
        seen = tubelet.predict(model, url, stride_s=0.1)
    assert len(seen.times) >= 2
    lengths = seen.times[:, 1] - seen.times[:, 0]
    assert (lengths[1:] > 0.25).all() and (lengths[1:] < 0.6).all()


class Slow(torch.nn.Module):
    """A convolution that takes its time."""

    def __init__(self, seconds):
        super().__init__()
        self.conv = torch.nn.Conv3d(3, 3, 1)
        self.head = heads.Classify(3, 3)
        self.spec = dataclasses.replace(Brightness().spec, num_frames=4, resize=16, crop=(16, 16))
        self.seconds = seconds

    def forward(self, x):
        time.sleep(self.seconds if x.device.type == "cpu" else 0)
        return self.head(self.conv(x))


def test_a_file_is_played_through_a_stream(tmp_path, capsys):
    """For a slow network stale frames are dropped, counted and told, and it does not lag."""
    write_video(tmp_path / "a.mp4", flat(90, 50), 25.0)
    for seconds, drops in ((0.0, False), (0.2, True)):
        seen = tubelet.predict(Slow(seconds), str(tmp_path / "a.mp4"), stream=True, stride_s=0.4)
        assert seen.times[0, 0] == 0 and 0.9 < seen.times[-1, 1] <= 2.3
        lines = capsys.readouterr().err.splitlines()
        form = r"\d\.\d s  \w+ \d+ %  \(([\d.]+) ms a frame, lag (\d+\.\d\d) s, (\d+) frames dropped\)"
        told = [re.search(form, line).groups() for line in lines]
        assert len(told) == len(seen.scores) >= 2
        if drops:
            assert int(told[-1][2]) > 10 and float(told[-1][0]) >= 200
            assert all(float(lag) < 2 for _, lag, _ in told)
        else:  # to the end of the file, without a gap
            assert seen.times[-1, 1] == pytest.approx(2, abs=0.1)
            assert (seen.times[1:, 0] <= seen.times[:-1, 1]).all()
            assert len(seen.segments(enter=0.0)) == seen.scores.shape[1]
    with pytest.raises(ValueError, match="stream plays a video file, a camera or an address"):
        tubelet.predict(Slow(0), tmp_path, stream=True)


def test_a_file_of_one_frame_lasts_as_long_as_one(tmp_path):
    write_video(tmp_path / "a.mp4", flat(90, 1), 25.0)
    model = Slow(0)
    for fps, lasts_s in ((None, 1 / 30), (20.0, 1 / 20)):
        model.spec = dataclasses.replace(model.spec, fps=fps)
        seen = tubelet.predict(model, tmp_path / "a.mp4", stream=True)
        assert seen.times.tolist() == [[0, pytest.approx(lasts_s)]]


def test_one_path_is_predicted_whatever_its_type(video):
    with pytest.raises(TypeError, match=r"source \['a\.mp4'\]; give one path"):
        tubelet.predict(Brightness(), ["a.mp4"])
    assert set(tubelet.predict(Brightness(), os.fsencode(video)).sources) == {str(video)}


def test_answers_of_a_stream_are_told_at_the_time_of_their_frames(tmp_path):
    """Its answers are late by the stream's delay; those of a short file come at its end."""
    write_video(tmp_path / "a.mp4", [*flat(20, 40), *flat(220, 20)], 20.0)
    torch.manual_seed(0)
    model = tubelet.create("tiny", num_classes=2).eval()
    model.spec = dataclasses.replace(model.spec, num_frames=8, frame_stride=1, fps=None, resize=32, crop=(32, 32))
    seen = tubelet.predict(model, str(tmp_path / "a.mp4"), stream=True, stride_s=0.2)
    with Video(tmp_path / "a.mp4") as video, torch.no_grad():
        clip = video.frames(range(60), resize=32, crop=(32, 32))
        steps = model.features(transforms.prepare(clip[None], model.spec, model))[-1]
        size = model.strides[-1][0]
        for (start, end), scores in zip(seen.times.tolist(), seen.scores, strict=True):
            last = min(60, round(20 * end)) // size
            part = steps[:, :, max(0, last - 8 // size) : last]
            assert start == pytest.approx(max(0, last * size - 8) / 20, abs=0.01) or start < last * size / 20 - 0.4
            assert torch.allclose(model.head(part).softmax(1)[0].double(), scores.double(), atol=1e-4)
    assert seen.times[-1, 1] == pytest.approx(3, abs=0.01)


def test_segments_of_a_video(video, tmp_path):
    seen = tubelet.predict(Brightness(), video, stride_s=0.08)
    found = seen.segments(smooth_s=0.2, enter=0.6, leave=0.4, shortest_s=0.3)
    assert [each.label for each in found][:2] == ["dark", "light"]
    assert found[0].start_s == 0 and found[0].end_s == pytest.approx(1, abs=0.15)
    assert "--> " in seen.to_srt(tmp_path / "a.srt").read_text()


def test_subtitles_of_nothing_are_told(tmp_path, caplog):
    seen = Prediction(("v",), torch.tensor([[0.0, 1]]), torch.tensor([[0.4, 0.3]]), ("a", "b"))
    assert write(seen, tmp_path / "v.SRT") == [tmp_path / "v.SRT"] and not (tmp_path / "v.SRT").read_text()
    assert f"{tmp_path / 'v.SRT'}: no class scores the 0.5 of a subtitle" in caplog.text


def test_a_stream_that_breaks_off_leaves_what_was_seen():
    with serve(mpegts(60), says_end=False) as url:
        seen = tubelet.predict(Brightness(), url)
    assert len(seen.scores) and "the stream broke off" in seen.failed[url]


def test_ctrl_c_ends_what_is_seen():
    class Interrupted(Brightness):
        calls = 0

        def forward(self, x):
            Interrupted.calls += 1
            if Interrupted.calls == 3:
                raise KeyboardInterrupt
            return super().forward(x)

    with serve(mpegts(2000, fps=100, is_paced=True)) as url:
        assert len(tubelet.predict(Interrupted(), url).scores) == 2
        Interrupted.calls = 2
        with pytest.raises(KeyboardInterrupt):
            tubelet.predict(Interrupted(), url)


def test_a_stream_shorter_than_a_window():
    model = Brightness()
    model.spec = dataclasses.replace(model.spec, num_frames=31)
    with serve(mpegts(30)) as url, pytest.raises(ValueError, match=r"ended within the 31 frames of the first clip"):
        tubelet.predict(model, url)


def test_a_network_of_one_frame_sees_a_stream():
    model = Brightness()
    model.spec = dataclasses.replace(model.spec, num_frames=1)
    with serve(mpegts(30, fps=50, is_paced=True)) as url:
        seen = tubelet.predict(model, url)
    assert (seen.times.diff(dim=1) > 0).all()
    start = dataclasses.replace(seen, times=torch.tensor([[0.0, 0]] + [[0.0, 1]] * (len(seen.times) - 1)))
    assert all("from s" in row for row in start.top().rows)


def test_a_live_source_has_its_own_times():
    with pytest.raises(ValueError, match=r"fps 25: 0 is live and has times of its own"):
        tubelet.predict(Brightness(), 0, fps=25)
    with pytest.raises(ValueError, match="the network's clips have 1 channels and a video has 3"):
        tubelet.predict(tubelet.create("tiny", num_classes=3, in_channels=1), "0")


def test_a_folder_gives_each_video(video, tmp_path):
    write_video(tmp_path / "b.mp4", flat(220), 25.0)
    write_video(tmp_path / "a.mp4", flat(20), 25.0)
    seen = tubelet.predict(Brightness(), tmp_path)
    one, other = seen.videos()
    assert [str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")] == [one.sources[0], other.sources[0]]
    assert [(row["video"], row["class"]) for row in seen.top(1).rows] == [("a.mp4", "dark"), ("b.mp4", "light")]


def test_a_video_smaller_than_the_crop_is_left_out_by_name(tmp_path, caplog):
    write_video(tmp_path / "a.mp4", flat(20), 25.0)
    write_video(tmp_path / "small.mp4", torch.zeros(8, 3, 8, 12, dtype=torch.uint8), 25.0)
    seen = tubelet.predict(Brightness(), tmp_path)
    assert set(seen.sources) == {str(tmp_path / "a.mp4")} and list(seen.failed) == [str(tmp_path / "small.mp4")]
    assert f"left out: {tmp_path / 'small.mp4'}: crop 16x16 does not fit in the frame of 8x12" in caplog.text


def test_batches_do_not_change_the_scores(video):
    one, other = (tubelet.predict(Brightness(), video, batch_size=size) for size in (1, 7))
    assert torch.allclose(one.scores, other.scores, atol=1e-6)


def test_what_is_written(video, tmp_path):
    seen = tubelet.predict(Brightness(), video)
    rows = list(csv.DictReader(seen.to_csv(tmp_path / "w.csv").open()))
    windows = json.loads(seen.to_json(tmp_path / "w.json").read_text())["windows"]
    assert len(rows) == len(windows) == len(seen.times)
    for row, window, times, scores in zip(rows, windows, seen.times, seen.scores, strict=True):
        assert float(row["start_s"]) == pytest.approx(times[0].item(), abs=1e-3) == window["start_s"]
        assert float(row["rising"]) == pytest.approx(scores[2].item(), abs=1e-5)
        assert window["top"] == CLASSES[scores.argmax()]
    with Video(seen.to_video(tmp_path / "w.mp4")) as drawn, Video(video) as plain:
        assert drawn.num_frames == plain.num_frames and drawn.duration_s == pytest.approx(plain.duration_s, rel=1e-3)
        assert (drawn.height, drawn.width) == (240, 360)
        large = plain.frames([5], resize=240)
        changed = (drawn.frames([5]).int() - large.int()).abs().amax((0, 1)) > 60
        assert changed[:80].any() and not changed[120:].any()


def test_a_name_that_is_not_utf8_is_written_as_it_is_on_disk(tmp_path):
    seen = Prediction(("\udcff.mp4",), torch.tensor([[0.0, 1]]), torch.tensor([[0.5, 0.5]]), ("a", "b"))
    assert b"\n\xff.mp4,0.000" in seen.to_csv(tmp_path / "w.csv").read_bytes()
    assert json.loads(seen.to_json(tmp_path / "w.json").read_text())["windows"][0]["source"] == seen.sources[0]


def test_what_is_no_number_is_not_written_as_json(tmp_path):
    scores = torch.tensor([[0.5, 0.5], [math.nan, 0.5]])
    seen = Prediction(("v", "v"), torch.tensor([[0.0, 1], [1, 2]]), scores, ("a", "b"))
    with pytest.raises(ValueError, match=r"scores from 1\.00 to 2\.00 s are nan or infinity"):
        seen.to_json(tmp_path / "v.json")
    assert not (tmp_path / "v.json").exists()
    with pytest.raises(ValueError, match="are nan or infinity"):
        write(seen, tmp_path)
    assert "nan" in (tmp_path / "windows.csv").read_text()  # what was computed is not lost


def test_short_videos_need_a_policy(tmp_path):
    path = tmp_path / "short.mp4"
    write_video(path, flat(220, 3), 25.0)
    with pytest.raises(ValueError, match=r"short\.mp4: 3 frames, and a clip reaches over 4"):
        tubelet.predict(Brightness(), path)
    for policy in ("loop", "hold"):
        seen = tubelet.predict(Brightness(), path, short=policy)
        assert seen.times.tolist() == [[0, pytest.approx(3 / 25)]]


def test_what_does_not_fit(video, tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        tubelet.predict(Brightness(), tmp_path / "gone.mp4")
    with pytest.raises(ValueError, match="no videos"):
        tubelet.predict(Brightness(), tmp_path)
    with pytest.raises(ValueError, match=r"give \(C, T, H, W\) or \(T, H, W, C\) of uint8"):
        tubelet.predict(Brightness(), torch.rand(3, 8, 16, 16))
    with pytest.raises(ValueError, match="array: 1 channels, and the clips of the network have 3"):
        tubelet.predict(Brightness(), torch.zeros(1, 8, 16, 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"long\.mp4: a file has times of its own"):
        tubelet.predict(Brightness(), video, fps=25)
    with pytest.raises(ValueError, match="has no spec"):
        tubelet.predict(torch.nn.Identity(), video)
    array = torch.zeros(3, 8, 16, 16, dtype=torch.uint8)
    for named, says in (
        ({"short": "pad"}, "short 'pad'; there is error, loop, hold"),
        ({"stride_s": math.inf}, "stride_s inf must be above 0 seconds and finite"),
        ({"fps": math.inf}, "fps inf; it must be above 0 and finite"),
    ):
        with pytest.raises(ValueError, match=says):
            tubelet.predict(Brightness(), array, **named)
    with pytest.raises(ValueError, match="source '' is no path"):
        tubelet.predict(Brightness(), "")
    with pytest.raises(ValueError, match="k -1 must be at least 1"):
        tubelet.predict(Brightness(), array).top(-1)


def with_head(head):
    model = tubelet.create("tiny", num_classes=3)
    model.head = head(model.channels[-1])
    return model


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (
            lambda: with_head(lambda width: heads.Detect(width, 3, 8)),
            r"for each box .*tubelet\.heads\.Classify\(.*, 3\)",
        ),
        (lambda: with_head(lambda width: heads.Segment(width, 3)), "for each voxel"),
        (lambda: with_head(lambda width: heads.Features()), r"feature map .*tubelet\.heads\.Classify\(.*, K\)"),
        (lambda: tubelet.create("tiny", num_classes=3, in_channels=1), "clips have 1 channels and a video has 3"),
    ],
)
def test_another_task_is_refused_before_a_video_is_read(model, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        tubelet.predict(model(), tmp_path / "gone.mp4")


def test_several_labels_have_sigmoids():
    model = with_head(lambda width: heads.Classify(width, 3)).eval()
    model.spec = dataclasses.replace(
        model.spec, is_multilabel=True, frame_stride=1, num_frames=8, resize=None, crop=None
    )
    clip = torch.randint(0, 256, (3, 8, 32, 32), dtype=torch.uint8)
    right = model(transforms.prepare(clip[None], model.spec, model)).sigmoid()
    torch.testing.assert_close(tubelet.predict(model, clip).scores, right.detach())


def test_each_frame_is_labelled():
    model = with_head(lambda width: heads.PerFrame(width, 3)).eval()
    model.spec = dataclasses.replace(model.spec, frame_stride=2, num_frames=8, resize=None, crop=None)
    video = torch.randint(0, 256, (3, 37, 32, 32), dtype=torch.uint8)  # 19 frames are seen, the last clip overlaps
    found = tubelet.predict(model, video, fps=10)
    seen = video[:, ::2]
    parts = [model(transforms.prepare(seen[None, :, a : a + 8], model.spec, model)) for a in (0, 8, 11)]
    whole = [torch.nn.functional.interpolate(part, 8, mode="linear")[0] for part in parts]
    right = torch.cat([whole[0], whole[1], whole[2][:, 5:]], 1).T.softmax(1)
    torch.testing.assert_close(found.scores, right.detach())
    assert len(found.times) == 19
    torch.testing.assert_close(found.times[-2:], torch.tensor([[3.4, 3.6], [3.6, 3.7]], dtype=torch.float64))
    for arguments, says in (({"source": 0}, "live, and the network answers for each frame"),
                            ({"source": video, "stride_s": 1.0}, "answers for each frame: leave it out")):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            tubelet.predict(model, **arguments)


def test_an_array_may_have_the_channels_of_the_network():
    model = tubelet.create("tiny", num_classes=3, in_channels=1)
    seen = tubelet.predict(model, torch.zeros(1, 31, 64, 64, dtype=torch.uint8))
    assert seen.classes == ("class 0", "class 1", "class 2")


def test_every_logit_has_a_name(video, tmp_path):
    model = with_head(lambda width: heads.Classify(width, 2))
    model.spec = Brightness().spec
    with pytest.raises(ValueError, match=r"3 names of classes .* for 2 logits"):
        tubelet.predict(model, tmp_path / "gone.mp4")
    with pytest.raises(ValueError, match=r"3 names of classes .* for 2 logits"):
        tubelet.save(model, tmp_path / "kept.safetensors")
    model = Brightness()  # how many it answers is seen in its first answer
    model.spec = tubelet.ClipSpec.from_dict({**model.spec.to_dict(), "classes": ("dark", "light")})
    with pytest.raises(ValueError, match=r"2 names of classes .* for 3 logits"):
        tubelet.predict(model, video)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "night\nday\n\nbrighter\n"),
        ("names.json", '["night", "day", "brighter"]'),
        ("names.json", '{"\\"day\\"": 1, "night": 0, "brighter": "2"}'),
    ],
)
def test_names_from_a_file(video, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert tubelet.predict(Brightness(), video, classes=tmp_path / name).classes == ("night", "day", "brighter")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("names.txt", "\n", "the file is empty"),
        ("names.txt", "night\nday\n", "2 names of classes"),
        ("names.json", "night", "one a line"),
        ("names.json", '{"night": 1, "day": 2, "brighter": 3}', "from 0 up"),
        ("names.json", "[0, 1, 2]", "one a line"),
    ],
)
def test_a_file_without_the_names(video, tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=says):
        tubelet.predict(Brightness(), video, classes=tmp_path / name)


def test_real_clips():
    from pathlib import Path

    clips = Path(__file__).parents[2] / "shared" / "data" / "clips"
    if not clips.exists():
        pytest.skip("../shared/data is absent")
    model = tubelet.create("tiny", num_classes=3)
    for file in sorted(clips.iterdir()):
        seen = tubelet.predict(model, file, stride_s=2.0)
        assert torch.allclose(seen.scores.sum(1), torch.ones(len(seen.scores)), atol=1e-4)
        assert (seen.times[:, 1] > seen.times[:, 0]).all()
