"""Features of videos: against the network run by hand, resumed, in bounded memory."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
import torch
from painted_scans import Thresholds
from PIL import Image
from test_evaluate import flat, rising

import tubelet
from tubelet.data import transforms
from tubelet.data.video import Video, write_video
from tubelet.features import features


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    (folder / "deep").mkdir()
    write_video(folder / "a.mp4", [*flat(20, 25), *rising(8), *flat(220, 10)], 25.0)
    write_video(folder / "deep" / "b.mp4", [*flat(90, 20), *rising(8)], 25.0)
    return folder


def network():
    torch.manual_seed(0)
    model = tubelet.create("tiny", num_classes=3).eval()
    model.spec = dataclasses.replace(model.spec, num_frames=8, frame_stride=1, fps=None, resize=32, crop=(32, 32))
    return model


def clip_of(path, model, places=None):
    with Video(path) as video:
        clip = video.frames(range(video.num_frames) if places is None else places, resize=32, crop=(32, 32))
    return transforms.prepare(clip[None], model.spec, model)


def test_one_pass_gives_the_map_of_the_whole_video(folder, tmp_path):
    model = network()
    table = features(model, folder, out=tmp_path)
    assert [row["video"] for row in table.rows] == ["a.mp4", "deep/b.mp4"]
    with np.load(tmp_path / "a.mp4.npz") as file:
        found, times = torch.from_numpy(file["features"]), torch.from_numpy(file["times"])
    with torch.no_grad():
        expected = model.features(clip_of(folder / "a.mp4", model))[-1].mean((3, 4))[0].T
    assert torch.allclose(found, expected, atol=1e-4)
    stride = model.strides[-1][0]
    assert len(times) == len(found) == -(-43 // stride)
    assert times[1].tolist() == pytest.approx([stride / 25, 2 * stride / 25]) and times[-1, 1].item() == pytest.approx(
        43 / 25
    )


def test_windows_are_clips_of_their_own(folder, tmp_path):
    model = network()
    features(model, folder / "a.mp4", layer=0, window=8, stride=16, out=tmp_path)
    with np.load(tmp_path / "a.mp4.npz") as file:
        found, times = torch.from_numpy(file["features"]), file["times"]
    starts = [0, 16, 32, 35]
    assert times[:, 0].tolist() == pytest.approx([start / 25 for start in starts])
    assert times[:, 1].tolist() == pytest.approx([(start + 8) / 25 for start in starts])
    with torch.no_grad():
        expected = [
            model.features(clip_of(folder / "a.mp4", model, range(start, start + 8)))[0].mean((2, 3, 4))[0]
            for start in starts
        ]
    assert torch.allclose(found, torch.stack(expected), atol=1e-4)


@pytest.mark.parametrize("window", [None, 8])
def test_an_optimized_network_stays_as_it_is(folder, tmp_path, window):
    model = network()
    fast = tubelet.optimize(model, torch.rand(1, 3, 8, 32, 32), seconds=0)
    found = []
    for each in (model, fast):
        features(each, folder / "a.mp4", layer=0, window=window, out=tmp_path / type(each).__name__)
        with np.load(tmp_path / type(each).__name__ / "a.mp4.npz") as file:
            found.append(file["features"])
    assert np.allclose(*found, atol=1e-4)
    for each in (model, fast):
        assert isinstance(each.head, tubelet.heads.Classify) and len(each.stages) == len(each.strides) == 3
    features(fast, folder / "a.mp4", layer=0, window=window, out=tmp_path / type(model).__name__)  # are its weights
    clip = torch.rand(1, 3, 8, 32, 32)
    with torch.no_grad():
        assert torch.allclose(fast(clip), model(clip), atol=1e-4)


def test_vectors_of_another_precision_are_other_ones(folder, tmp_path):
    model, clip = network(), torch.rand(1, 3, 8, 32, 32)
    features(model, folder / "a.mp4", window=8, out=tmp_path)
    low = tubelet.optimize(model, clip, dtype=torch.bfloat16, seconds=0)
    with pytest.raises(ValueError, match="was made with precision float32, not bfloat16; give another folder as out"):
        features(low, folder / "a.mp4", window=8, out=tmp_path)
    with np.load(tmp_path / "a.mp4.npz") as file:  # as an earlier version wrote it
        held, settings = dict(file), json.loads(str(file["settings"]))
    assert settings.pop("precision") == "float32"
    np.savez(tmp_path / "a.mp4.npz", **{**held, "settings": np.array(json.dumps(settings))})
    before = (tmp_path / "a.mp4.npz").stat().st_mtime_ns
    features(tubelet.optimize(model, clip, seconds=0), folder / "a.mp4", window=8, out=tmp_path)
    assert (tmp_path / "a.mp4.npz").stat().st_mtime_ns == before


def test_only_the_times_of_a_file_that_is_done_are_read(folder, tmp_path, monkeypatch):
    model = network()
    table = features(model, folder / "a.mp4", out=tmp_path)
    read, read_array = [], np.lib.format.read_array

    def noted(*args, **named):
        read.append(read_array(*args, **named))
        return read[-1]

    monkeypatch.setattr(np.lib.format, "read_array", noted)
    again = features(model, folder / "a.mp4", out=tmp_path)
    assert again.rows == table.rows and again.rows[0]["channels"] == model.channels[-1]
    assert sorted(each.ndim for each in read) == [0, 2] and read[-1].shape == (table.rows[0]["vectors"], 2)


def test_what_is_done_is_not_done_again(folder, tmp_path, monkeypatch, caplog):
    model = network()
    features(model, folder / "a.mp4", out=tmp_path)
    before = (tmp_path / "a.mp4.npz").stat()
    copy = tmp_path / "videos"
    (copy).mkdir()
    shutil.copy2(folder / "a.mp4", copy / "a.mp4")
    (copy / "bad.mp4").write_bytes(b"no video")
    (copy / "gone.mp4").symlink_to("nowhere.mp4")
    table = features(model, copy, out=tmp_path)
    assert (tmp_path / "a.mp4.npz").stat() == before and len(table.rows) == 1
    assert "left out: " in caplog.text and "bad.mp4" in caplog.text
    assert f"left out: {copy / 'gone.mp4'}: No such file" in caplog.text
    with pytest.raises(ValueError, match=r"a\.mp4\.npz: was made with window None, not 8; give another folder as out"):
        features(model, folder / "a.mp4", window=8, out=tmp_path)
    other = network()
    torch.nn.init.ones_(next(other.parameters()))
    with pytest.raises(ValueError, match="was made with other weights; give another folder as out"):
        features(other, folder / "a.mp4", out=tmp_path)
    os.utime(copy / "a.mp4", ns=(1, 1))  # a video that has changed is seen again
    features(model, copy, out=tmp_path)
    assert (tmp_path / "a.mp4.npz").stat() != before
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.mp4.npz"]


def test_a_folder_of_frames_has_its_name_from_within(tmp_path, monkeypatch):
    (tmp_path / "frames").mkdir()
    for number, picture in enumerate(rising(8)):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / "frames" / f"{number}.png")
    monkeypatch.chdir(tmp_path / "frames")
    assert features(network(), ".", out=tmp_path / "out").rows[0]["video"] == "frames"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["frames.npz"]


def test_what_does_not_fit(folder, tmp_path):
    model = network()
    with pytest.raises(ValueError, match="layer 9: the network has stages 0 to"):
        features(model, folder, layer=9, out=tmp_path)
    with pytest.raises(ValueError, match="stride 4 is between windows"):
        features(model, folder, stride=4, out=tmp_path)
    with pytest.raises(ValueError, match="window 0 must be at least 1"):
        features(model, folder, window=0, out=tmp_path)
    with pytest.raises(ValueError, match="43 frames, and a window has 50"):
        features(model, folder / "a.mp4", window=50, out=tmp_path)
    with pytest.raises(
        ValueError, match=r"GlobalMean\) cannot be streamed exactly.*; .*give window, such as window=13"
    ):
        features(tubelet.create("x3d_s", num_classes=3), folder, out=tmp_path)
    with pytest.raises(ValueError, match="features are of videos, and this network was trained on scans"):
        features(Thresholds(), folder, out=tmp_path)
    with pytest.raises(TypeError, match=r"^source array.*; give the path of a video, of a folder"):
        features(model, np.zeros((3, 8, 32, 32), np.uint8), out=tmp_path)
    with pytest.raises(ValueError, match="has no `stages`"):
        plain = torch.nn.Conv3d(3, 4, 1)
        plain.spec = model.spec
        features(plain, folder, out=tmp_path)


def test_videos_that_give_nothing_and_files_of_others(folder, tmp_path, caplog):
    videos = tmp_path / "videos"
    videos.mkdir()
    shutil.copy2(folder / "a.mp4", videos / "a.mp4")
    write_video(videos / "b.mp4", flat(60, 3), 25.0)
    small = network()
    small.stages[0] = torch.nn.MaxPool3d((8, 4, 4))
    small.strides = [(8, 8, 8), *small.strides[1:]]
    table = features(small, videos, layer=0, out=tmp_path / "out")
    assert table.summary["left out"] == 1 and len(table.rows) == 1
    assert "b.mp4: 3 frames at the network's rate are too few" in caplog.text
    small.spec = dataclasses.replace(small.spec, resize=None, crop=(16, 24))
    write_video(videos / "b.mp4", torch.zeros(16, 3, 8, 12, dtype=torch.uint8), 25.0)
    assert features(small, videos, layer=0, out=tmp_path / "cropped").summary["left out"] == 1
    assert "b.mp4: crop 16x24 does not fit in the frame of 8x12" in caplog.text
    small.spec = network().spec
    for content in (b"junk", b""):
        (tmp_path / "out" / "a.mp4.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.mp4\.npz: damaged, or not written by features"):
            features(small, videos / "a.mp4", layer=0, out=tmp_path / "out")
