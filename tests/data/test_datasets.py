import shutil
from fractions import Fraction

import numpy as np
import pytest
import torch

from tubelet import ClipSpec
from tubelet.data import datasets, flow
from tubelet.data.augment import Augment
from tubelet.data.datasets import TrainClips, ViewClips
from tubelet.data.loader import loader
from tubelet.data.sample import Actor, Sample, Span, VideoData
from tubelet.data.video import Video, VideoError, write_video

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


def data_of(samples, task="classify", num_classes=8, **maps):
    return VideoData(tuple(map(str, range(num_classes))), {"train": list(samples)}, task, **maps)


def train_clips(*samples, augment=None, short="error", seed=0, spec=SPEC, **data):
    return TrainClips(data_of(samples, **data), "train", spec, augment or Augment(), short, seed)


def view_clips(*samples, spec=SPEC, views=1, crops=1, short="error", **data):
    return ViewClips(data_of(samples, **data), "train", spec, views, crops, short)


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
    clips = view_clips(long, ramp, views=3, crops=2)
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
    clips = view_clips(Sample(videos / "long.mp4", 0, 10, 20))
    assert [indices(view) for view in clips[0][0]] == [[11, 13, 15, 17]]


def both(sample, short="error"):
    return train_clips(sample, short=short)[0, 0][0], view_clips(sample, views=2, short=short)[0][0]


@pytest.mark.parametrize(("name", "start", "end"), [("short.mp4", 0, None), ("long.mp4", 10, 15)])
def test_a_clip_longer_than_the_video(videos, name, start, end):
    sample = Sample(videos / name, 0, start, end)
    for read in (lambda: train_clips(sample)[0, 0], lambda: view_clips(sample, views=2)[0]):
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
    with pytest.raises(VideoError, match=r"short\.mp4.*: it begins where the video of 5 frames has ended"):
        both(Sample(videos / "short.mp4", 0, 8))


def test_a_crop_that_does_not_fit_names_the_file(videos):
    sample = Sample(videos / "short.mp4", 0)
    spec = ClipSpec(num_frames=2, resize=None, crop=(48, 48))
    for augment in (Augment(), Augment(max_shift=3)):
        with pytest.raises(VideoError, match=r"short\.mp4: crop 48x48 does not fit in the frame of 40x64"):
            train_clips(sample, spec=spec, augment=augment)[0, 0]
    with pytest.raises(VideoError, match=r"short\.mp4: crop 48x48 does not fit in the frame of 40x64"):
        view_clips(sample, spec=spec, crops=3)[0]


def test_a_shift_beyond_the_frame_ends_at_its_edge(videos):
    clips = train_clips(Sample(videos / "ramp.mp4", 0), augment=Augment(max_shift=12))
    lefts = {round(float(clips[epoch, 0][0].float().mean() / 3 - 15.5)) for epoch in range(60)}
    assert lefts <= set(range(4, 29))
    assert max(lefts) - min(lefts) > 16


def test_the_rate_of_a_video_is_brought_to_the_specs(videos, tmp_path):
    shutil.copy(videos / "long.mp4", tmp_path / "copy.mp4")
    spec = ClipSpec(num_frames=4, frame_stride=1, fps=12.5, resize=None, crop=None)
    (view,), _, _ = view_clips(Sample(tmp_path / "copy.mp4", 0), spec=spec)[0]
    assert indices(view) == [11, 13, 15, 17]
    assert view.shape == (3, 4, HEIGHT, WIDTH)


def test_several_clips_come_from_one_opening(videos, monkeypatch):
    clips = train_clips(
        Sample(videos / "long.mp4", 0), Sample(videos / "ramp.mp4", 1), augment=Augment(area=(0.2, 1), flip=True)
    )
    keys = [(2, 0, 0), (2, 0, 1), (2, 0, 2), (2, 1, 0), (2, 1, 1)]
    alone = [clips[key] for key in keys]
    opened = []
    monkeypatch.setattr(flow, "Video", lambda path, fps: opened.append(path.name) or Video(path, fps))
    together = clips.__getitems__(keys)
    assert opened == ["long.mp4", "ramp.mp4"]
    for (clip, target), (same, again) in zip(alone, together, strict=True):
        assert torch.equal(clip, same)
        assert target == again
    assert not torch.equal(together[0][0], together[1][0])
    assert torch.equal(clips[2, 0][0], alone[0][0])
    assert clips.name((2, 1)) == str(videos / "ramp.mp4")


def test_classes_of_a_mirrored_clip(videos):
    """Ramps that rise to the right (class 0) and, mirrored, to the left (class 1); class 2 has no mirror image."""
    samples = [Sample(videos / "ramp.mp4", target) for target in (0, 1, 2, 3)]
    clips = train_clips(*samples, augment=Augment(flip=True), mirrored={0: 1, 1: 0, 2: None})
    seen = set()
    for index in range(4):
        for epoch in range(20):
            clip, target = clips[epoch, index]
            seen.add((index, bool(clip[0, 0, 0, 0] > clip[0, 0, 0, -1]), target))
    assert seen == {
        (0, False, 0),
        (0, True, 1),
        (1, False, 1),
        (1, True, 0),
        (2, False, 2),
        (3, False, 3),
        (3, True, 3),
    }


def test_classes_of_a_reversed_clip(videos):
    samples = [Sample(videos / "long.mp4", target) for target in (0, 1, 2)]
    clips = train_clips(*samples, augment=Augment(reverse=True, flip=True), reversed={0: 1, 1: 1}, mirrored={1: None})
    seen = set()
    for index in range(3):
        for epoch in range(20):
            clip, target = clips[epoch, index]
            seen.add((index, indices(clip)[0] > indices(clip)[-1], target))
    assert seen == {(0, False, 0), (0, True, 1), (1, False, 1), (1, True, 1), (2, False, 2)}


def test_multilabel_targets(videos):
    sample = Sample(videos / "ramp.mp4", (1, 3))
    hot = [0.0, 1.0, 0.0, 1.0, 0.0]
    _, target, _ = view_clips(sample, views=2, task="multilabel", num_classes=5)[0]
    assert target.tolist() == hot and target.dtype == torch.float32
    clips = train_clips(sample, task="multilabel", num_classes=5, augment=Augment(flip=True), mirrored={1: 2})
    seen = {tuple(clips[epoch, 0][1].tolist()) for epoch in range(20)}
    assert seen == {tuple(hot), (0.0, 0.0, 1.0, 1.0, 0.0)}
    assert view_clips(Sample(videos / "ramp.mp4", ()), task="multilabel", num_classes=3)[0][1].tolist() == [0, 0, 0]


SPANS = (Span(3, 9, 2), Span(9, 12, 0), Span(20, 30, 1))


def label(frame, spans=SPANS):
    return next((span.target for span in spans if span.start <= frame < span.end), -1)


def test_a_label_for_each_frame_of_the_clip(videos):
    sample = Sample(videos / "long.mp4", SPANS)
    clips = train_clips(
        sample, task="frames", augment=Augment(rate=1, drop=0.3, reverse=True), reversed={0: 3, 1: 1, 2: 4}
    )
    ways = set()
    for epoch in range(40):
        clip, target = clips[epoch, 0]
        seen = indices(clip)
        if seen[0] == seen[-1]:  # all frames but the first were dropped
            continue
        is_reversed = seen[0] > seen[-1]
        names = {0: 3, 1: 1, 2: 4, -1: -1} if is_reversed else {i: i for i in range(-1, 3)}
        assert target.tolist() == [names[label(frame)] for frame in seen]
        assert target.dtype == torch.int64
        ways.add(is_reversed)
    assert ways == {False, True}
    views, target, _ = view_clips(sample, views=3, crops=2, task="frames")[0]
    assert target.tolist() == [[label(frame) for frame in indices(view)] for view in views]


@pytest.mark.parametrize("short", ["loop", "hold"])
def test_labels_of_a_short_video_follow_its_frames(videos, short):
    sample = Sample(videos / "long.mp4", (Span(10, 12, 1), Span(12, 15, 2)), 10, 15)
    clip, target = train_clips(sample, task="frames", short=short)[0, 0]
    assert target.tolist() == [1 if frame < 12 else 2 for frame in indices(clip)]


def test_spans_that_overlap_have_a_row_a_class(videos):
    spans = (Span(3, 12, 2), Span(9, 20, 0))
    data = [Sample(videos / "long.mp4", spans), Sample(videos / "long.mp4", (Span(0, 4, 1),))]
    clips = train_clips(*data, task="frames")
    for epoch in range(20):
        clip, target = clips[epoch, 0]
        assert target.shape == (8, 4) and target.dtype == torch.float32
        rows = {span.target: [float(span.start <= i < span.end) for i in indices(clip)] for span in spans}
        assert target[[2, 0]].tolist() == [rows[2], rows[0]]
        assert target[1].sum() == target[3:].sum() == 0
    assert clips[0, 1][1].shape == (8, 4)


@pytest.mark.parametrize(
    ("spans", "overlap"),
    [
        ((), False),
        ((Span(0, 5, 0), Span(5, 9, 1)), False),
        ((Span(5, 9, 1), Span(0, 5.5, 0)), True),
        ((Span(0, 9, 0), Span(2, 3, 0), Span(4, 5, 0)), False),
        ((Span(0, 9, 0), Span(2, 3, 0), Span(4, 5, 1)), True),
        ((Span(0, 0.1 + 0.2, 0), Span(0.3, 1, 1)), False),
    ],
)
def test_overlap(spans, overlap):
    assert datasets._overlap(spans) == overlap


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """20 frames of growing brightness whose times lie 20 to 240 ms apart."""
    av = pytest.importorskip("av")
    path = tmp_path_factory.mktemp("uneven") / "uneven.mp4"
    stamps = np.cumsum([0] + [20 + 13 * (i % 7) + 150 * (i % 5 == 0) for i in range(19)]).tolist()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "4"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, stamp in enumerate(stamps):
            picture = np.full((HEIGHT, WIDTH, 3), STEP * i, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path, [stamp / 1000 for stamp in stamps]


@pytest.mark.parametrize(("first", "end"), [(0, 20), (3, 11), (12, 20), (7, 11)])
def test_parts_in_seconds_follow_the_videos_own_times(uneven, first, end):
    path, times = uneven
    spec = ClipSpec(num_frames=4, frame_stride=1, resize=None, crop=None)
    end_s = times[end] if end < 20 else 99.0
    sample = Sample(path, 0, times[first], end_s, unit="s")
    clips = train_clips(sample, spec=spec)
    seen = [indices(clips[epoch, 0][0]) for epoch in range(60)]
    assert {clip[0] for clip in seen} == set(range(first, end - 3))
    between = Sample(path, 0, times[first] - 0.001 * (first > 0), end_s - 0.001, unit="s")
    assert {indices(train_clips(between, spec=spec)[epoch, 0][0])[0] for epoch in range(60)} == set(
        range(first, end - 3)
    )


def test_a_source_without_times_has_those_of_its_sample(tmp_path):
    levels = STEP * torch.arange(30, dtype=torch.uint8)
    np.save(tmp_path / "array.npy", levels.view(1, 30, 1, 1).expand(3, 30, HEIGHT, WIDTH).numpy())
    clips = train_clips(Sample(tmp_path / "array.npy", 0, 1, 2, unit="s", fps=10))
    assert {indices(clips[epoch, 0][0])[0] for epoch in range(30)} == {10, 11, 12, 13}


def test_spans_and_moments_in_seconds(uneven):
    path, times = uneven
    spec = ClipSpec(num_frames=4, frame_stride=2, resize=None, crop=None)
    spans = (Span(times[4], times[9], 1), Span(times[9], times[15] - 0.01, 2))
    clips = train_clips(Sample(path, spans, unit="s"), spec=spec, task="frames")
    for epoch in range(20):
        clip, target = clips[epoch, 0]
        assert target.tolist() == [label(times[i], spans) for i in indices(clip)]
    for moment, middle in ((times[9], 9), (times[9] + 0.01, 9), (times[10] - 0.001, 9), (times[0], 0), (times[19], 19)):
        sample = Sample(path, (Actor(0, 0, 1, 1, (0,)),), moment=moment, unit="s")
        (clip,), _, _ = view_clips(sample, spec=spec, task="detect")[0]
        assert indices(clip) == [min(max(middle + i, 0), 19) for i in (-4, -2, 0, 2)]
    with pytest.raises(VideoError, match=r"uneven\.mp4\[50:51 s\]: no frame lies there; the video lasts"):
        train_clips(Sample(path, 0, 50, 51, unit="s"))[0, 0]
    with pytest.raises(VideoError, match=r"uneven\.mp4\[50 s\]: the video lasts"):
        view_clips(Sample(path, (), moment=50, unit="s"), task="detect")[0]
    with pytest.raises(VideoError, match=r"uneven\.mp4\[20\]: the video has frames 0 to 19"):
        view_clips(Sample(path, (), moment=20), task="detect")[0]


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """Two bright patches on black, at rows 8..20 and columns 4..24, and at rows 24..36 and columns 40..56."""
    path = tmp_path_factory.mktemp("patches") / "patches.mp4"
    frame = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    frame[:, 8:20, 4:24] = 255
    frame[:, 24:36, 40:56] = 255
    write_video(path, [frame] * 8, 25, crf=1)
    actors = (Actor(4 / WIDTH, 8 / HEIGHT, 24 / WIDTH, 20 / HEIGHT, (0, 2)),
              Actor(40 / WIDTH, 24 / HEIGHT, 56 / WIDTH, 36 / HEIGHT, (1,)))  # fmt: skip
    return Sample(path, actors, moment=4)


def assert_bright(clip, box):
    """The box is that of a bright patch, to a pixel or two of blur."""
    x1, y1, x2, y2 = (round(side) for side in box)
    inner = clip[0, 0, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]
    assert inner.numel() == 0 or inner.min() > 128
    rim = torch.nn.functional.pad(clip[0, 0], (4, 4, 4, 4))[y1 : y2 + 8, x1 : x2 + 8].clone()
    rim[2:-2, 2:-2] = 0
    assert rim.max() < 128


@pytest.mark.parametrize("resize", [None, 80, (60, 60)])
@pytest.mark.parametrize("augment", [Augment(flip=True), Augment(area=(0.3, 1), flip=True), Augment(zoom=1.5)])
def test_boxes_lie_on_what_they_show(patches, resize, augment):
    spec = ClipSpec(num_frames=2, resize=resize, crop=(32, 40))
    clips = train_clips(patches, spec=spec, task="detect", num_classes=3, augment=augment)
    numbers = set()
    for epoch in range(30):
        clip, (boxes, targets) = clips[epoch, 0]
        assert boxes.shape == (len(targets), 4) and targets.shape == (len(boxes), 3)
        for box, target in zip(boxes.tolist(), targets.tolist(), strict=True):
            assert_bright(clip, box)
            assert target in ([1, 0, 1], [0, 1, 0])
        numbers.add(len(boxes))
    assert len(numbers) > 1
    views, (boxes, targets), _ = view_clips(patches, spec=spec, task="detect", num_classes=3)[0]
    assert targets.tolist() == [[1, 0, 1], [0, 1, 0]]
    for box in boxes.tolist():
        assert box[0] <= box[2] <= 40 and box[1] <= box[3] <= 32
        assert_bright(views[0], box)


def test_boxes_of_a_mirrored_clip_change_their_classes(patches):
    clips = train_clips(
        patches,
        spec=ClipSpec(num_frames=2, resize=None, crop=None),
        task="detect",
        num_classes=3,
        augment=Augment(flip=True),
        mirrored={0: 1, 1: 0},
    )
    seen = {(boxes[0, 0].item(), str(targets.tolist())) for _, (boxes, targets) in (clips[i, 0] for i in range(20))}
    assert seen == {(4.0, "[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]"), (40.0, "[[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]")}


def test_what_is_not_there(videos):
    sample = Sample(videos / "long.mp4", 0)
    with pytest.raises(ValueError, match=r"no part 'test'; there is train$"):
        ViewClips(data_of([sample]), "test", SPEC, 1, 1, "error")
    with pytest.raises(ValueError, match=r"short 'lop'; there is error, loop, hold$"):
        view_clips(sample, short="lop")
    with pytest.raises(TypeError, match=r"key 0 is no \(epoch, index\); give `loader` an EpochOrder"):
        next(iter(loader(train_clips(sample), 1, workers=0)))


def test_what_boxes_forbid(patches):
    with pytest.raises(ValueError, match="randaugment turns and moves the picture"):
        train_clips(patches, task="detect", augment=Augment(randaugment=1))
    with pytest.raises(ValueError, match="2 views x 1 crops of boxes"):
        view_clips(patches, task="detect", views=2)
    empty = Sample(patches.path, (), moment=3)
    _, (boxes, targets) = train_clips(empty, task="detect")[0, 0]
    assert boxes.shape == (0, 4) and targets.shape == (0, 8)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_clips_of_other_channels(channels, tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (channels, 20, 40, 64), dtype=np.uint8))
    every = Augment(color=1, saturation=1, hue=0.5, randaugment=4, erase=1, flip=True, reverse=True)
    sample, spec = Sample(tmp_path / "a.npy", 0), SPEC.with_channels(channels)
    clip, _ = train_clips(sample, spec=spec, augment=every)[0, 0]
    assert clip.shape == (channels, 4, 20, 32)
    clips, _, _ = view_clips(sample, spec=spec, views=2, crops=3)[0]
    assert clips.shape == (6, channels, 4, 20, 32)
    for one in (train_clips(sample), view_clips(sample)):
        with pytest.raises(VideoError, match=rf"a\.npy: {channels} channels, and the clips of the network have 3"):
            one[(0, 0)] if isinstance(one, TrainClips) else one[0]
