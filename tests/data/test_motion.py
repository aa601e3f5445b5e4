import math
from itertools import pairwise

import pytest
import torch

from tubelet.data import motion, video
from tubelet.data.layouts import open_data
from tubelet.data.motion import CLASSES, NUM_FRAMES, SIZE, draw


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def poses(monkeypatch):
    """Poses of many clips of a class, (N, T, 4): place, angle and size, without drawing them."""

    def record(names, num):
        seen = []

        def masks(_, poses):
            seen.append(poses)
            return torch.zeros(len(poses), 1, 1)

        monkeypatch.setattr(motion, "_masks", masks)
        monkeypatch.setattr(motion, "SIZE", 1)
        draws = generator()
        for _ in range(num):
            draw(names, NUM_FRAMES, draws)
        return torch.stack(seen)

    return record


def distance(values, other):
    """Of two distributions: the largest difference of their cumulative ones (Kolmogorov-Smirnov)."""
    grid = torch.cat([values, other]).sort().values
    return max(abs(float((values <= x).float().mean() - (other <= x).float().mean())) for x in grid[:: len(grid) // 50])


@pytest.mark.parametrize("name", CLASSES)
def test_a_single_frame_tells_nothing_of_the_class(poses, name):
    num = 400
    uniform = torch.rand(4000, generator=generator(1))
    of_class = poses([name], num)
    for frame in (0, NUM_FRAMES // 2, NUM_FRAMES - 1):
        x, y, angle, size = of_class[:, frame].unbind(1)
        for values in (x, y, angle / (2 * math.pi) % 1, size):
            assert values.min() >= 0
            assert values.max() < 1
            # differs from uniform by more than this once in 100,000 draws of 400
            assert distance(values, uniform) < 2.47 / math.sqrt(num)


@pytest.mark.parametrize("name", CLASSES)
def test_each_class_changes_its_own_property_alone(poses, name):
    changes = poses([name], 50).diff(dim=1)
    changes[..., [0, 1, 3]] = (changes[..., [0, 1, 3]] + 0.5) % 1 - 0.5
    place, sign = {
        "left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1),
        "clockwise": (2, 1), "counterclockwise": (2, -1), "growing": (3, 1), "shrinking": (3, -1),
    }[name]  # fmt: skip
    others = [i for i in range(4) if i != place]
    assert (sign * changes[..., place] > 0.01).all()
    assert changes[..., others].abs().max() < 1e-5


def drift(clip):
    """Usual step a frame to the right and down of the bright shape, in sides of the frame."""
    bright = (clip.float().mean(0) > 140).float()
    weights = bright / bright.sum((1, 2), keepdim=True)
    places = [(weights.sum(axis) * torch.arange(SIZE) / SIZE).sum(1) for axis in (1, 2)]
    return [float(place.diff().median()) for place in places]


@pytest.mark.parametrize(("name", "other", "axis"), [("left", "right", 0), ("up", "down", 1)])
@pytest.mark.parametrize("seed", range(3))
def test_reversed_is_the_other_class(name, other, axis, seed):
    clip, mirrored = draw([name], 12, generator(seed)), draw([other], 12, generator(seed))
    assert drift(clip)[axis] < -0.01
    assert drift(mirrored)[axis] > 0.01
    assert drift(clip.flip(1))[axis] == pytest.approx(drift(mirrored)[axis], abs=0.01)
    assert abs(drift(clip)[1 - axis]) < 0.005


def area(clip):
    return (clip.float().mean(0) > 128).float().mean((1, 2))


def test_a_growing_shape_grows_until_it_begins_again():
    clips = [area(draw(["growing"], 12, generator(seed))) for seed in range(6)]
    assert sum(bool(sizes[-1] > sizes[0]) for sizes in clips) >= 3
    assert all((sizes.diff() > -0.004).sum() >= 10 for sizes in clips)


def test_clips_are_the_seeds_and_have_noise():
    one, again, other = (draw(["left"], 4, generator(seed)) for seed in (0, 0, 1))
    assert one.shape == (3, 4, SIZE, SIZE)
    assert one.dtype == torch.uint8
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.fixture
def few(monkeypatch):
    """One clip a class and split; the list of clips drawn."""
    drawn = []
    monkeypatch.setattr(motion, "TRAIN", 1)
    monkeypatch.setattr(motion, "VAL", 1)
    monkeypatch.setattr(motion, "NUM_FRAMES", 2)
    monkeypatch.setattr(motion, "draw", lambda *arguments: drawn.append(arguments[0]) or draw(*arguments))
    return drawn


def test_the_data_set_is_drawn_once(tmp_path, monkeypatch, few):
    monkeypatch.setenv("TUBELET_CACHE", str(tmp_path))
    root = motion.motion(seed=3)
    assert len(few) == 16
    assert root.parent == tmp_path
    assert motion.motion(seed=3) == root
    assert len(few) == 16
    data = open_data(root)
    assert data.classes == CLASSES
    assert [len(data.splits[split]) for split in ("train", "val")] == [8, 8]
    with video.Video(data.splits["val"][0].path) as clip:
        assert (clip.num_frames, clip.height, clip.width, clip.fps) == (2, SIZE, SIZE, 25)


def test_other_seeds_are_other_folders_and_clips(tmp_path, monkeypatch, few):
    monkeypatch.setattr(motion, "CLASSES", CLASSES[:1])
    monkeypatch.setenv("TUBELET_CACHE", str(tmp_path))
    one, other = motion.motion(seed=0), motion.motion(seed=1)
    assert one != other
    files = [sorted(root.rglob("*.mp4")) for root in (one, other)]
    contents = {file.read_bytes() for found in files for file in found}
    assert len(contents) == 4


def test_an_interrupted_build_leaves_nothing(tmp_path, monkeypatch, few):
    def write(*arguments):
        if len(few) == 3:
            raise KeyboardInterrupt
        video.write_video(*arguments)

    monkeypatch.setattr(motion, "write_video", write)
    with pytest.raises(KeyboardInterrupt):
        motion.motion(tmp_path / "deep" / "set")
    assert not [file for file in tmp_path.rglob("*") if file.name != "deep"]
    monkeypatch.setattr(motion, "write_video", video.write_video)
    assert len(list(motion.motion(tmp_path / "deep" / "set").rglob("*.mp4"))) == 16


def test_the_truth_of_a_long_video_fits_its_length(tmp_path):
    path = tmp_path / "long.mp4"
    names = ["left", "growing", "left"]
    truth = motion.long_video(path, names, seconds=0.41)
    with video.Video(path) as clip:
        assert clip.num_frames == 30
        assert truth[-1][1] == pytest.approx(clip.duration_s)
    assert truth[0][0] == 0
    assert [name for *_, name in truth] == names
    assert all(one[1] == two[0] for one, two in pairwise(truth))
    assert all(end - start == pytest.approx(0.4) for start, end, _ in truth)


def test_the_same_seed_gives_the_same_files(tmp_path):
    frames = motion.draw(["left"], 40, torch.Generator().manual_seed(7)).unbind(1)
    written = set()
    for i in range(12):
        video.write_video(tmp_path / f"{i}.mp4", frames, motion.FPS)
        written.add((tmp_path / f"{i}.mp4").read_bytes())
    assert len(written) == 1
