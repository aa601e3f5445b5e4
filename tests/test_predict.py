"""Prediction: windows and their times, every kind of source, what is written."""

import csv
import json

import pytest
import torch
from test_evaluate import CLASSES, Brightness, flat, rising

import tubelet
from tubelet.data.video import Video, write_video


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


def test_a_folder_gives_each_video(video, tmp_path):
    write_video(tmp_path / "b.mp4", flat(220), 25.0)
    write_video(tmp_path / "a.mp4", flat(20), 25.0)
    seen = tubelet.predict(Brightness(), tmp_path)
    one, other = seen.videos()
    assert [str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")] == [one.sources[0], other.sources[0]]
    assert [(row["video"], row["class"]) for row in seen.top(1).rows] == [("a.mp4", "dark"), ("b.mp4", "light")]


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
    with pytest.raises(ValueError, match=r"give \(3, T, H, W\) of torch\.uint8"):
        tubelet.predict(Brightness(), torch.rand(3, 8, 16, 16))
    with pytest.raises(ValueError, match="has no spec"):
        tubelet.predict(torch.nn.Identity(), video)


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
