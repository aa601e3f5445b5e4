import shutil

import pytest
import torch

from tubelet import ClipSpec
from tubelet.data.augment import Augment
from tubelet.data.datasets import TrainClips, ViewClips
from tubelet.data.sample import Sample
from tubelet.data.video import VideoError, write_video

SPEC = ClipSpec(num_frames=4, frame_stride=2, resize=None, crop=(20, 32))
HEIGHT, WIDTH = 40, 64
STEP = 8  # of brightness from frame to frame


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """40 frames of growing brightness, 12 frames of it, and 30 frames of a ramp from left to right."""
    root = tmp_path_factory.mktemp("videos")
    frames = [torch.full((3, HEIGHT, WIDTH), STEP * (i % 30), dtype=torch.uint8) for i in range(40)]
    ramp = (3 * torch.arange(WIDTH)).to(torch.uint8).expand(3, HEIGHT, WIDTH)
    write_video(root / "long.mp4", frames[:30], 25, crf=4)
    write_video(root / "short.mp4", frames[:5], 25, crf=4)
    write_video(root / "ramp.mp4", [ramp] * 8, 25, crf=4)
    return root


def indices(clip):
    """Frame numbers of a clip of `long` or `short`, read from its brightness."""
    return (clip.float().mean((0, 2, 3)) / STEP).round().int().tolist()


def train_clips(*samples, augment=None, short="error", seed=0, spec=SPEC):
    return TrainClips(samples, spec, augment or Augment(), short, seed)


def test_training_clips_are_the_same_for_the_same_key(videos):
    samples = [Sample(videos / "long.mp4", 0), Sample(videos / "ramp.mp4", 1)]
    augment = Augment(flip=True, color=0.3)
    one, two = train_clips(*samples, augment=augment), train_clips(*samples, augment=augment)
    other = train_clips(*samples, augment=augment, seed=1)
    assert len(one) == 2
    for key in ((0, 0), (3, 1)):
        clip, target = one[key]
        assert clip.shape == (3, 4, 20, 32)
        assert clip.dtype == torch.uint8
        assert target == key[1]
        assert torch.equal(clip, two[key][0])
        assert not torch.equal(clip, one[key[0] + 1, key[1]][0])
        assert not torch.equal(clip, other[key][0])


@pytest.mark.parametrize(("start", "end"), [(5, 15), (20, None), (9, 16), (0, 7)])
def test_training_clips_keep_to_their_frames(videos, start, end):
    clips = train_clips(Sample(videos / "long.mp4", 0, start, end))
    seen = [indices(clips[epoch, 0][0]) for epoch in range(40)]
    stop = end or 30
    assert all(clip == list(range(clip[0], clip[0] + 8, 2)) for clip in seen)
    assert {clip[0] for clip in seen} == set(range(start, stop - 6))


def test_max_shift_limits_the_place_of_the_crop(videos):
    def lefts(augment):
        clips = train_clips(Sample(videos / "ramp.mp4", 0), augment=augment)
        return {round(float(clips[epoch, 0][0].float().mean() / 3 - 15.5)) for epoch in range(40)}

    assert lefts(Augment(max_shift=0)) == {16}
    assert lefts(Augment(max_shift=2)) == {14, 15, 16, 17, 18}
    assert {min(lefts(Augment())), max(lefts(Augment()))} <= {*range(5), *range(28, 33)}


def test_flipped_half_of_the_time(videos):
    clips = train_clips(Sample(videos / "ramp.mp4", 0), augment=Augment(max_shift=0, flip=True))
    falling = [bool(clip[0, 0, 0, 0] > clip[0, 0, 0, -1]) for clip, _ in (clips[epoch, 0] for epoch in range(40))]
    assert 8 <= sum(falling) <= 32


def test_views_come_in_order_view_by_view_and_crop_by_crop(videos):
    long, ramp = Sample(videos / "long.mp4", 3), Sample(videos / "ramp.mp4", 5)
    clips = ViewClips([long, ramp], SPEC, views=3, crops=2, short="error")
    assert len(clips) == 2
    views, target, index = clips[0]
    assert views.shape == (6, 3, 4, 20, 32)
    assert views.dtype == torch.uint8
    assert (target, index) == (3, 0)
    assert [indices(view)[0] for view in views] == [0, 0, 11, 11, 23, 23]
    views, target, index = clips[1]
    assert (target, index) == (5, 1)
    assert [round(float(view.float().mean() / 3 - 15.5)) for view in views] == [0, 32] * 3


def test_one_view_is_the_centre_of_the_samples_frames(videos):
    clips = ViewClips([Sample(videos / "long.mp4", 0, 10, 20)], SPEC, views=1, crops=1, short="error")
    assert [indices(view) for view in clips[0][0]] == [[11, 13, 15, 17]]


def both(sample, short="error"):
    return train_clips(sample, short=short)[0, 0][0], ViewClips([sample], SPEC, 2, 1, short)[0][0]


@pytest.mark.parametrize(("name", "start", "end"), [("short.mp4", 0, None), ("long.mp4", 10, 15)])
def test_a_clip_longer_than_the_video(videos, name, start, end):
    sample = Sample(videos / name, 0, start, end)
    for read in (lambda: train_clips(sample)[0, 0], lambda: ViewClips([sample], SPEC, 2, 1, "error")[0]):
        with pytest.raises(VideoError, match=r"5 frames, .* over 7") as caught:
            read()
        assert str(caught.value).startswith(sample.name)
    clip, views = both(sample, "loop")
    assert indices(clip) == [start + i for i in (0, 2, 4, 1)]
    assert [indices(view) for view in views] == [indices(clip)] * 2
    clip, views = both(sample, "hold")
    assert indices(clip) == [start + i for i in (0, 2, 4, 4)]
    assert [indices(view) for view in views] == [indices(clip)] * 2


def test_frames_beyond_the_video_are_named(videos):
    with pytest.raises(VideoError, match=r"short\.mp4\[0:9\]: the video has 5 frames only"):
        both(Sample(videos / "short.mp4", 0, 0, 9))
    with pytest.raises(VideoError, match=r"short\.mp4.*: a video of -3 frames"):
        both(Sample(videos / "short.mp4", 0, 8))


def test_a_crop_that_does_not_fit_names_the_file(videos):
    sample = Sample(videos / "short.mp4", 0)
    spec = ClipSpec(num_frames=2, resize=None, crop=(48, 48))
    for augment in (Augment(), Augment(max_shift=3)):
        with pytest.raises(VideoError, match=r"short\.mp4: crop 48x48 does not fit in the frame of 40x64"):
            train_clips(sample, spec=spec, augment=augment)[0, 0]
    with pytest.raises(VideoError, match=r"short\.mp4: crop 48x48 does not fit in the frame of 40x64"):
        ViewClips([sample], spec, 1, 3, "error")[0]


def test_a_shift_beyond_the_frame_ends_at_its_edge(videos):
    clips = train_clips(Sample(videos / "ramp.mp4", 0), augment=Augment(max_shift=12))
    lefts = {round(float(clips[epoch, 0][0].float().mean() / 3 - 15.5)) for epoch in range(60)}
    assert lefts <= set(range(4, 29))
    assert max(lefts) - min(lefts) > 16


def test_the_rate_of_a_video_is_brought_to_the_specs(videos, tmp_path):
    shutil.copy(videos / "long.mp4", tmp_path / "copy.mp4")
    spec = ClipSpec(num_frames=4, frame_stride=1, fps=12.5, resize=None, crop=None)
    (view,), _, _ = ViewClips([Sample(tmp_path / "copy.mp4", 0)], spec, 1, 1, "error")[0]
    assert indices(view) == [11, 13, 15, 17]
    assert view.shape == (3, 4, HEIGHT, WIDTH)
