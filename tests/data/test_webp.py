import random

import numpy as np
import pytest
import torch
from painted import HEIGHT, WIDTH, painted, read_index, read_indices

from tubelet.data.ffmpeg import VideoError
from tubelet.data.pictures import is_animated
from tubelet.data.video import Video

Image = pytest.importorskip("PIL.Image")

NUM_FRAMES = 20


def write(path, pictures, durations_ms=40, **options):
    first, *rest = [Image.fromarray(picture) for picture in pictures]
    first.save(path, save_all=True, append_images=rest, duration=durations_ms, **options)
    return path


def by_pillow(path, mode):
    with Image.open(path) as image:
        for number in range(image.n_frames):
            image.seek(number)
            yield np.asarray(image.convert(mode))


@pytest.fixture(scope="module", params=[{"lossless": True}, {"quality": 80}, {"lossless": True, "kmin": 3, "kmax": 5}])
def painting(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("webp") / "a.webp"
    return write(path, map(painted, range(NUM_FRAMES)), list(range(40, 60)), **request.param)


def test_every_frame_is_the_one_asked_for(painting):
    reference = list(by_pillow(painting, "RGB"))
    draw = random.Random(0)
    with Video(painting) as clip:
        assert (clip.num_frames, clip.height, clip.width) == (NUM_FRAMES, HEIGHT, WIDTH)
        for index in range(NUM_FRAMES):
            picture = clip.frames([index])[:, 0]
            assert read_index(picture) == index
            assert np.abs(picture.permute(1, 2, 0).numpy().astype(int) - reference[index]).mean() < 1
        for _ in range(5):
            indices = [draw.randrange(NUM_FRAMES) for _ in range(6)]
            assert read_indices(clip.frames(indices)) == indices
        assert read_indices(clip.frames(range(0, NUM_FRAMES, 3))) == list(range(0, NUM_FRAMES, 3))


def test_times(painting):
    with Video(painting) as clip:
        assert clip.times.tolist() == pytest.approx(np.cumsum([0, *range(40, 59)]) / 1000)
        assert clip.duration_s == pytest.approx(sum(range(40, 60)) / 1000)
        assert read_indices(clip.frames_at(clip.times)) == list(range(NUM_FRAMES))


def test_transparent_frames_are_laid_on_those_before(tmp_path):
    draw = np.random.default_rng(0)
    pictures = []
    for _ in range(12):  # small patches on nothing, some of them half transparent
        picture = np.zeros((40, 60, 4), np.uint8)
        top, left = draw.integers(0, 20), draw.integers(0, 30)
        picture[top : top + 15, left : left + 20] = draw.integers(0, 256, (15, 20, 4))
        pictures.append(picture)
    path = write(tmp_path / "a.webp", pictures, lossless=True, exact=True)
    with Video(path) as clip:
        for index, reference in enumerate(by_pillow(path, "RGBA")):
            picture = clip.frames([index])[:, 0].permute(1, 2, 0).numpy()
            seen = reference[..., 3] > 0
            assert np.array_equal(picture[seen], reference[..., :3][seen])


def test_a_file_cut_short_offers_what_is_whole(painting, tmp_path):
    data = painting.read_bytes()
    (tmp_path / "cut.webp").write_bytes(data[: len(data) // 2])
    with pytest.warns(UserWarning, match="damaged or cut short"), Video(tmp_path / "cut.webp") as clip:
        assert 0 < clip.num_frames < NUM_FRAMES
        assert read_indices(clip.frames(range(clip.num_frames))) == list(range(clip.num_frames))
    (tmp_path / "head.webp").write_bytes(data[:50])
    with pytest.raises(VideoError, match="no whole frame"):
        Video(tmp_path / "head.webp")


def test_a_frame_without_its_head_is_none(painting, tmp_path):
    data = painting.read_bytes()
    path = tmp_path / "short.webp"
    path.write_bytes(data + b"ANMF" + (4).to_bytes(4, "little") + bytes(4))
    with Video(path) as clip:
        assert clip.num_frames == NUM_FRAMES


def test_a_file_that_may_not_be_read_is_named(painting, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    assert not is_animated(painting)


def test_a_damaged_frame_is_named(painting, tmp_path):
    data = painting.read_bytes()
    start = -1
    for _ in range(3):
        start = data.index(b"ANMF", start + 1)
    path = tmp_path / "damaged.webp"
    path.write_bytes(data[: start + 32] + bytes(8) + data[start + 40 :])
    with Video(path) as clip:
        assert read_indices(clip.frames([0, 1])) == [0, 1]
        with pytest.raises(VideoError, match=rf"{path}: frame 2 of {NUM_FRAMES} cannot be decoded"):
            clip.frames([2])


def test_a_single_picture_is_a_video_of_one_frame(tmp_path):
    Image.fromarray(painted(9)).save(tmp_path / "a.webp", lossless=True)
    with Video(tmp_path / "a.webp") as clip:
        assert clip.num_frames == 1
        assert torch.equal(clip.frames([0])[:, 0].permute(1, 2, 0), torch.from_numpy(painted(9)))
