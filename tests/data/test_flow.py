"""Optical flow against motions that are known, and the files in which it is kept."""

import multiprocessing
import os
import subprocess
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import tubelet
from tubelet.data import flow, motion, transforms
from tubelet.data.augment import Augment
from tubelet.data.datasets import TrainClips, ViewClips
from tubelet.data.sample import Sample, VideoData
from tubelet.data.video import Video, VideoError, write_video
from tubelet.processes import each

cv2 = pytest.importorskip("cv2")

HEIGHT, WIDTH = 96, 128
INNER = (slice(16, -16), slice(16, -16))  # what leaves the picture has no flow
STEPS = ((0.0, 0.0), (3.0, 0.0), (0.0, -2.0), (-1.5, 0.75))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TUBELET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "flow"


def surface(right, down, height=HEIGHT, width=WIDTH, seed=0):
    """(H, W) uint8: a picture that has moved; as a sum of waves it is known between pixels as well."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] - np.array([down, right])[:, None, None]
    waves = [
        np.cos(2 * np.pi * (np.cos(a) * x + np.sin(a) * y) / length + phase)
        for a, length, phase in random.uniform((0, 5, 0), (2 * np.pi, 30, 2 * np.pi), (12, 3))
    ]
    return (128 + 60 * np.sum(waves, 0) / np.sqrt(12)).clip(0, 255).astype(np.uint8)


def moving(steps=STEPS, **sizes):
    """(T + 1, H, W): what each step does between two pictures."""
    places = np.cumsum([(0, 0), *steps], axis=0)
    return np.stack([surface(*place, **sizes) for place in places])


def write(path, steps=STEPS, times_s=None, **sizes):
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = torch.from_numpy(moving(steps, **sizes))
    write_video(path, pictures[:, None].expand(-1, 3, -1, -1), 25, times_s=times_s, crf=4)
    return path


def pixels(clip):
    """(2, T, H, W) uint8 -> displacements."""
    return clip.float() * (40 / 255) - 20


def read(source, **options):
    with flow.open_video(source, None, 2, **options) as video:
        return video.frames(range(video.num_frames))


def data_of(path, **more):
    return VideoData(("a", "b"), {"train": [Sample(path, 0)]}, **more)


@pytest.mark.parametrize("step", [(0, 0), (0.5, -0.25), (2.5, 1), (-6, 3), (9, -8)])
def test_a_known_shift_is_found(step):
    before, after = moving([step])
    found = flow.displacements(before, after)[INNER]
    assert np.hypot(*(found - step).reshape(-1, 2).T).mean() < 0.1
    assert np.abs(np.median(found, (0, 1)) - step).max() < 0.1


@pytest.mark.parametrize("size", [(1, 1), (8, 9), (12, 40), (100, 3), (37, 13)])
def test_small_pictures_have_flow(size):
    assert flow.displacements(*np.zeros((2, *size), np.uint8)).shape == (*size, 2)


def test_twenty_pixels_are_the_ends_of_the_scale():
    told = flow.encoded(np.array([-90.0, -20, -10, 0, 10, 20, 90]))
    assert told.tolist() == [0, 0, 64, 128, 191, 255, 255]
    spec = tubelet.create("i3d_flow", num_classes=2).spec  # published: -20..20 pixels become -1..1
    clip = torch.from_numpy(told).expand(2, -1)[:, :, None, None]
    normal = transforms.normalize(clip, spec.mean, spec.std)[0].flatten()
    assert torch.allclose(normal, torch.tensor([-1, -1, -0.5, 0, 0.5, 1, 1]), atol=0.005)
    assert tubelet.ClipSpec().with_channels(2).mean == (0.5, 0.5)


def test_frame_i_is_what_moves_from_picture_i_to_the_next_and_the_last_repeats(tmp_path):
    clip = pixels(read(write(tmp_path / "a.mp4")))
    assert clip.shape == (2, len(STEPS) + 1, HEIGHT, WIDTH)
    found = clip[:, :, *INNER].flatten(2).median(2).values.T
    expected = torch.tensor([*STEPS, STEPS[-1]])
    assert (found - expected).abs().max() < 0.25  # of which the scale is 0.16 a step
    assert torch.equal(clip[:, -1], clip[:, -2])


def test_times_frames_and_name_are_those_of_the_video(tmp_path):
    path = write(tmp_path / "a.mp4", times_s=[0, 0.04, 0.2, 0.3, 0.31])
    with Video(path) as video, flow.open_video(path, None, 2) as its:
        assert torch.equal(its.times, video.times) and its.duration_s == video.duration_s
        assert (its.num_frames, its.path, its.fps, its.channels) == (video.num_frames, path, video.fps, 2)
        assert torch.equal(its.frames_at([0.1]), its.frames([1]))
        assert its.frames([3, 1], resize=48, crop=(40, 40)).shape == (2, 2, 40, 40)


def test_pictures_are_made_small_and_displacements_with_them(tmp_path):
    path = write(tmp_path / "a.mp4", [(4.0, 0)], height=512, width=640)
    with flow.open_video(path, None, 2) as video:
        assert (video.height, video.width) == (256, 320)
        clip = pixels(video.frames([0]))
    assert clip[0].median() == pytest.approx(2, abs=0.25) and clip[1].median() == pytest.approx(0, abs=0.25)


def test_a_single_picture_stands_still(tmp_path):
    assert (read(write(tmp_path / "a.mp4", [])) == 128).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_arrays_have_flow_too(channels, tmp_path, cache):
    array = np.broadcast_to(moving(), (channels, len(STEPS) + 1, HEIGHT, WIDTH)).copy()
    if channels == 4:
        array[3] = np.random.default_rng(0).integers(0, 256, array[3].shape)  # transparency
    clip = read(array)
    assert not cache.exists()
    assert (pixels(clip[:, 1])[:, *INNER].mean((1, 2)) - torch.tensor(STEPS[1])).abs().max() < 0.2
    np.save(tmp_path / "a.npy", array)
    assert (read(tmp_path / "a.npy").int() - clip.int()).abs().float().mean() < 1


def test_what_is_flow_is_taken_as_it_is(cache):
    array = np.random.default_rng(0).integers(0, 256, (2, 5, 16, 24), dtype=np.uint8)
    assert torch.equal(read(array), torch.from_numpy(array))
    with flow.open_video(array, None, 3) as video:  # whoever asks for other channels is told by `check_channels`
        assert video.channels == 2


def moves(name, seed):
    """Right, down and turn of the shape of the motion data, means of what moves; the median of the frames."""
    x, y = pixels(read(motion.draw([name], 12, torch.Generator().manual_seed(seed))))[:, :-1]
    is_shape = (x.hypot(y) > 0.5).float()
    row, column = (each.expand_as(x) for each in torch.meshgrid(*[torch.arange(64.0)] * 2, indexing="ij"))

    def mean(values):
        return (is_shape * values).sum((1, 2), keepdim=True) / is_shape.sum((1, 2), keepdim=True).clamp(min=1)

    turn = (column - mean(column)) * y - (row - mean(row)) * x
    return torch.stack([mean(each).median() for each in (x, y, turn)])


@pytest.mark.parametrize(("name", "way"), [("left", (-1, 0)), ("right", (1, 0)), ("up", (0, -1)), ("down", (0, 1))])
def test_directions_of_the_motion_data(name, way):
    for seed in range(3):
        found = moves(name, seed)[:2]
        assert found @ torch.tensor(way).float() > 0.4 and found.abs().min() < 0.4


@pytest.mark.parametrize(("name", "way"), [("clockwise", 1), ("counterclockwise", -1)])
def test_turns_of_the_motion_data(name, way):
    assert way * sum(moves(name, seed)[2] for seed in range(4)) > 5


def test_flow_of_a_mirrored_video_is_the_mirrored_flow_the_other_way():
    clip = torch.from_numpy(moving(STEPS)).expand(3, -1, -1, -1)
    plain, mirrored = read(clip), read(clip.flip(-1))
    change = replace(Augment(flip=True).draw((HEIGHT, WIDTH), tubelet.ClipSpec(resize=None, crop=None),
                                             torch.Generator()), flip=True)  # fmt: skip
    ours = pixels(change.apply(plain))
    assert (ours - pixels(mirrored))[:, :, *INNER].abs().mean() < 0.15
    assert (pixels(plain).flip(-1) - pixels(mirrored))[0, :, *INNER].abs().mean() > 1  # which the negation is for


def test_flow_of_a_video_played_backwards_is_the_flow_the_other_way():
    clip = torch.from_numpy(moving(STEPS)).expand(3, -1, -1, -1)
    plain, backwards = read(clip), read(clip.flip(1))
    ours = pixels(transforms.negated(plain[:, :-1].flip(1)))
    assert (ours - pixels(backwards[:, :-1]))[:, :, *INNER].abs().mean() < 0.15


def test_training_clips_that_are_reversed_go_the_other_way(tmp_path):
    path = write(tmp_path / "a.mp4", [(3.0, -1.0)] * 11)
    spec = tubelet.ClipSpec(4, resize=None, crop=None).with_channels(2)
    clips = TrainClips(
        data_of(path, reversed={0: 1}), "train", spec, Augment(reverse=True, flip=True, color=1), "error", 0
    )
    seen = set()
    for epoch in range(20):
        clip, target = clips[epoch, 0]
        x, y = pixels(clip)[:, :, *INNER].mean((1, 2, 3)).tolist()
        assert abs(abs(x) - 3) < 0.3 and abs(abs(y) - 1) < 0.3
        assert target == (y > 0)
        seen.add((x > 0, y > 0))
    assert len(seen) == 4


def test_clips_of_two_channels_are_flow(tmp_path):
    path = write(tmp_path / "a.mp4", [(3.0, -1.0)] * 7)
    spec = tubelet.ClipSpec(4, resize=None, crop=(64, 64)).with_channels(2)
    clips, _, _ = ViewClips(data_of(path), "train", spec, 2, 1, "error")[0]
    assert clips.shape == (2, 2, 4, 64, 64)
    assert (pixels(clips).mean((0, 2, 3, 4)) - torch.tensor([3.0, -1.0])).abs().max() < 0.2


def files(cache):
    return sorted(cache.rglob("*.mjpeg"))


def test_flow_is_computed_once_for_a_file_as_it_is(tmp_path, cache, monkeypatch):
    path = write(tmp_path / "a.mp4")
    clip = read(path)
    with monkeypatch.context() as patch:
        patch.setattr(flow, "displacements", None)
        assert torch.equal(read(path), clip)
        assert flow.compute([path, path], workers=1) == {}
    (kept,) = files(cache)
    assert kept.name.startswith("a-") and not [*(cache / "unfinished").iterdir()]
    with Video(kept) as seen:  # as a player shows it: x above y
        assert (seen.num_frames, seen.height, seen.width) == (len(STEPS) + 1, 2 * HEIGHT, WIDTH)
        above, below = seen.frames([1])[0, 0].split(HEIGHT)
        assert (torch.stack([above, below]).int() - clip[:, 1].int()).abs().max() <= 2
    write(path, [(0.0, 5.0)] * 4)
    assert not torch.equal(read(path), clip) and len(files(cache)) == 2


def test_a_damaged_file_is_named(tmp_path, cache):
    path = write(tmp_path / "a.mp4")
    read(path)
    (kept,) = files(cache)
    whole = kept.read_bytes()
    for data in (b"", whole[:100], whole[:-8], whole[1:], bytes(2000) + whole[2000:]):
        kept.write_bytes(data)
        with pytest.raises(VideoError, match=r"a-\w+\.mjpeg: damaged; remove it, and the flow of .*a\.mp4 is computed"):
            read(path)


def test_bad_videos_are_named_and_the_others_computed(tmp_path, cache):
    good, bad, gone = write(tmp_path / "a.mp4"), tmp_path / "b.mp4", tmp_path / "c.mp4"
    bad.write_bytes(b"no video")
    failed = flow.compute([bad, good, gone], workers=2)
    assert set(failed) == {bad, gone} and all(line.startswith(str(path)) for path, line in failed.items())
    assert len(files(cache)) == 1


def test_several_processes_may_want_the_same(tmp_path, cache):
    path = write(tmp_path / "a.mp4")
    assert [answer for _, answer in each(flow._ensure, [path] * 6, workers=6)] == [""] * 6
    assert len(files(cache)) == 1 and not [*(cache / "unfinished").iterdir()]
    assert read(path).shape[1] == len(STEPS) + 1


def test_a_killed_process_leaves_nothing_broken(tmp_path, cache, monkeypatch):
    path = write(tmp_path / "a.mp4")
    with monkeypatch.context() as patch:
        patch.setattr(flow, "displacements", lambda *_: time.sleep(60))
        process = multiprocessing.get_context("fork").Process(target=read, args=(path,))
        process.start()
    while not any((cache / "unfinished").glob("*")):
        assert process.is_alive()
        time.sleep(0.02)
    process.kill()
    process.join()
    (left,) = (cache / "unfinished").iterdir()
    assert not files(cache)
    assert flow.compute([path], workers=1) == {} and len(files(cache)) == 1
    assert left.exists()  # it might be of one that is at work
    os.utime(left, (0, 0))
    flow.compute([path], workers=1)
    assert not left.exists()


def test_a_full_disk_is_one_error(tmp_path, cache):
    paths = [write(tmp_path / f"{i}.mp4", [(i, 1.0)] * 8, seed=i) for i in range(5)]
    cache.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", cache]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        with pytest.raises(ValueError, match=r"flow: No space left on device; the flow of \d+ of 5 videos is there"):
            flow.compute(paths, workers=1)
        assert not [*(cache / "unfinished").iterdir()]
        for kept in files(cache):
            kept.unlink()
        assert flow.compute(paths[:1], workers=1) == {}
    finally:
        subprocess.run(["umount", cache], check=True)
