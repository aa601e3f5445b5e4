"""Frames read from files must be the very frames asked for: each carries its index, painted in its pixels."""

import gc
import os
import random
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from painted import (
    CLIPS,
    HEIGHT,
    WIDTH,
    av,
    av1,
    encode,
    interlaced,
    packets_of,
    painted,
    plain_decode,
    read_index,
    read_indices,
    x264,
)

from tubelet.data import container, video
from tubelet.data.video import Video, VideoError, write_video
from tubelet.machine import needs

VFR_MS = np.cumsum([0] + [20 + 13 * (i % 7) + 200 * (i % 11 == 0) for i in range(59)]).tolist()
OPEN_GOP = "keyint=12:min-keyint=12:open-gop=1:scenecut=0"

X265 = {"g": "12", "x265-params": "log-level=none:keyint=12"}
X265_OPEN_GOP = {"x265-params": "log-level=none:keyint=12:open-gop=1"}
VP9 = {"g": "12", "deadline": "realtime", "cpu-used": "8"}
HIDDEN_FRAMES = {"g": "30", "deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "16"}
FRAGMENTED = {"container_options": {"movflags": "frag_keyframe+empty_moov"}}

# name: (file name, frames, codec, pixel format, codec options, more for `encode`)
FILES = {
    "h264 gop 12": ("a.mp4", 60, "libx264", "yuv420p", x264(12)),
    "h264 gop 250": ("a.mp4", 60, "libx264", "yuv420p", x264(250)),
    "h264 open gop": ("a.mkv", 60, "libx264", "yuv420p", {"bf": "2", "x264-params": OPEN_GOP}),
    "h264 10 bit": ("a.mkv", 30, "libx264", "yuv420p10le", x264(12)),
    "h264 4:4:4": ("a.mp4", 30, "libx264", "yuv444p", x264(12)),
    "h264 interlaced": ("a.mp4", 30, "libx264", "yuv420p", x264(12, **{"x264-params": "interlaced=1:tff=1"})),
    "h264 fragments": ("a.mp4", 40, "libx264", "yuv420p", x264(12), FRAGMENTED),
    "h264 in avi": ("a.avi", 40, "libx264", "yuv420p", x264(12)),
    "h264 in flv": ("a.flv", 40, "libx264", "yuv420p", x264(12)),
    "h264 raw, no timestamps": ("a.h264", 40, "libx264", "yuv420p", x264(12)),
    "hevc": ("a.mkv", 40, "libx265", "yuv420p", X265),
    "hevc 10 bit": ("a.mp4", 30, "libx265", "yuv420p10le", X265),
    "hevc open gop, ts": ("a.ts", 40, "libx265", "yuv420p", X265_OPEN_GOP),
    "hevc raw": ("a.hevc", 40, "libx265", "yuv420p", X265),
    "av1": ("a.mp4", 40, "libsvtav1", "yuv420p", av1(12)),
    "av1 in webm": ("a.webm", 40, "libsvtav1", "yuv420p", av1(40)),
    "vp9": ("a.webm", 40, "libvpx-vp9", "yuv420p", VP9),
    "vp9 hidden frames": ("a.webm", 40, "libvpx-vp9", "yuv420p", HIDDEN_FRAMES),
    "vp9 4:4:4": ("a.mkv", 20, "libvpx-vp9", "yuv444p", VP9),
    "vp8": ("a.webm", 40, "libvpx", "yuv420p", {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "vp8 alpha": ("a.webm", 20, "libvpx", "yuva420p", {"g": "12", "auto-alt-ref": "0"}),
    "mpeg4": ("a.mp4", 40, "mpeg4", "yuv420p", {"g": "12", "bf": "2"}),
    "mpeg4 in mkv": ("a.mkv", 40, "mpeg4", "yuv420p", {"g": "12", "bf": "2"}),
    "mpeg4 in avi with b-frames": ("a.avi", 40, "mpeg4", "yuv420p", {"g": "12", "bf": "2"}),
    "mpeg4 in avi": ("a.avi", 40, "mpeg4", "yuv420p", {"g": "12"}),
    "mpeg-ts": ("a.ts", 60, "libx264", "yuv420p", x264(12)),
    "mpeg2 interlaced": ("a.ts", 40, "mpeg2video", "yuv420p", {"g": "12", "bf": "2"}, {"prepare": interlaced}),
    "mpeg2 program stream": ("a.mpg", 40, "mpeg2video", "yuv420p", {"g": "12", "bf": "2"}),
    "wmv": ("a.wmv", 30, "wmv2", "yuv420p", {"g": "12"}),
    "mjpeg": ("a.avi", 20, "mjpeg", "yuvj420p", {}),
    "mjpeg in mov": ("a.mov", 20, "mjpeg", "yuvj422p", {}),
    "gif": ("a.gif", 30, "gif", "rgb8", {}),
    "apng": ("a.apng", 20, "apng", "rgba", {}),
    "gray": ("a.mkv", 20, "ffv1", "gray", {}),
    "gray 16 bit": ("a.mkv", 20, "ffv1", "gray16le", {}),
    "alpha": ("a.mov", 20, "qtrle", "argb", {}),
    "alpha 4:4:4 10 bit": ("a.mov", 12, "prores_ks", "yuva444p10le", {}),
    "one frame": ("a.mp4", 1, "libx264", "yuv420p", {}),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, int]]:
    """Makes each file of FILES once."""
    made: dict[str, tuple[Path, int]] = {}

    def make(name: str) -> tuple[Path, int]:
        if name not in made:
            file_name, num_frames, codec, pix_fmt, options, *more = FILES[name]
            if codec not in av.codecs_available:
                pytest.skip(f"this PyAV has no encoder {codec}")
            path = tmp_path_factory.mktemp("video") / file_name
            encode(path, num_frames, codec, pix_fmt=pix_fmt, options=options, **(more[0] if more else {}))
            made[name] = path, num_frames
        return made[name]

    return make


@pytest.fixture
def long(files) -> Path:
    return files("h264 gop 12")[0]


@pytest.mark.parametrize("name", FILES)
def test_every_frame_is_the_one_asked_for(files, name):
    path, num_frames = files(name)
    reference = list(plain_decode(path))
    assert len(reference) == num_frames
    with Video(path) as clip:
        assert (clip.num_frames, clip.height, clip.width) == (num_frames, HEIGHT, WIDTH)
        for index in range(num_frames):
            picture = clip.frames([index])
            assert picture.shape == (3, 1, HEIGHT, WIDTH)
            assert picture.dtype == torch.uint8
            assert read_index(picture[:, 0]) == index
            assert np.array_equal(picture[:, 0].permute(1, 2, 0), reference[index])


@pytest.mark.parametrize("name", FILES)
def test_any_selection_in_any_order(files, name):
    path, num_frames = files(name)
    draw = random.Random(0)
    selections = [[draw.randrange(num_frames) for _ in range(length)] for length in (1, 4, 16)]
    selections += [list(range(num_frames)), list(range(num_frames))[::-1], list(range(num_frames))[-5:]]
    selections += [list(range(start, num_frames, stride)) for stride in (2, 3, 7, 16) for start in (0, num_frames // 2)]
    with Video(path) as clip:
        for indices in selections:
            assert read_indices(clip.frames(indices)) == indices
        for indices, tensor in zip(selections, clip.clips(selections), strict=True):
            assert read_indices(tensor) == indices


@pytest.mark.parametrize("name", FILES)
def test_any_time(files, name):
    path, num_frames = files(name)
    draw = random.Random(0)
    with Video(path) as clip:
        ends = [*clip.times[1:].tolist(), clip.duration_s]
        for index, (start, end) in enumerate(zip(clip.times.tolist(), ends, strict=True)):
            times = [start, start + (end - start) * draw.random() * 0.99]
            assert read_indices(clip.frames_at(times)) == [index, index]
        assert read_indices(clip.frames_at(clip.times)) == list(range(num_frames))


@pytest.mark.parametrize("name", FILES)
def test_times_of_a_steady_file(files, name):
    path, num_frames = files(name)
    with Video(path) as clip:
        assert clip.times.dtype == torch.float64
        torch.testing.assert_close(clip.times, torch.arange(num_frames).double() / 25, atol=1e-3, rtol=0)
        assert clip.fps == pytest.approx(25, rel=1e-3)
        assert clip.duration_s == pytest.approx(num_frames / 25, abs=1e-3)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_times_of_an_unsteady_file(tmp_path, suffix):
    path = encode(tmp_path / f"vfr{suffix}", 60, options=x264(12), stamps_ms=VFR_MS)
    with Video(path) as clip:
        times = torch.tensor(VFR_MS).double() / 1000
        torch.testing.assert_close(clip.times, times, atol=1e-3, rtol=0)
        assert clip.fps == pytest.approx(60 / clip.duration_s)
        draw = random.Random(0)
        for _ in range(10):
            indices = [draw.randrange(60) for _ in range(4)]
            assert read_indices(clip.frames(indices)) == indices


def test_frames_at_gives_the_frame_on_screen(tmp_path):
    stamps = [0, 40, 500, 540, 2000]
    path = encode(tmp_path / "vfr.mp4", 5, options=x264(12), stamps_ms=stamps)
    with Video(path) as clip:
        clip_at = clip.frames_at([0, 0.039, 0.04, 0.499, 0.5, 1.999, 2.0, clip.duration_s, 0.0])
        assert read_indices(clip_at) == [0, 0, 1, 1, 2, 3, 4, 4, 0]
        # Sums of fractions fall short of the frame's time by a rounding error; the frame is still meant.
        assert read_indices(clip.frames_at(torch.tensor([0.5 - 1e-12], dtype=torch.float64))) == [2]
        for time_s in (-0.1, clip.duration_s + 0.1, float("nan")):
            with pytest.raises(ValueError, match=r"no frame at .* the video runs from 0 to"):
                clip.frames_at([0.0, time_s])


def test_the_first_frame_is_at_time_zero(tmp_path):
    path = encode(tmp_path / "late.mkv", 30, options=x264(12), stamps_ms=[5000 + 40 * i for i in range(30)])
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).time == 5
    with Video(path) as clip:
        assert clip.times[0] == 0
        assert clip.duration_s == pytest.approx(1.2, abs=2e-3)
        assert read_indices(clip.frames_at([0.4])) == [10]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("gop", "hidden"), [(12, 5), (12, 20), (250, 20)])
def test_an_edit_list_hides_frames(tmp_path, long, gop, hidden):
    """Of 20 the first group of 12 is not even among the packets, or the only keyframe is hidden; nothing is damaged."""
    path = tmp_path / "edited.mp4"
    full = long if gop == 12 else encode(tmp_path / "full.mp4", 60, options=x264(gop))
    with av.open(str(full)) as source, av.open(str(path), "w", options={"use_editlist": "1"}) as edited:
        stream = edited.add_stream_from_template(source.streams.video[0])
        shift = int(hidden / 25 / source.streams.video[0].time_base)
        for packet in source.demux(video=0):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                edited.mux(packet)
    reference = list(plain_decode(path))
    with Video(path) as clip:
        assert clip.num_frames == len(reference) == 60 - hidden
        for index in (0, 1, 6, 7, 30, 59 - hidden):
            assert read_indices(clip.frames([index])) == [index + hidden]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", [{"g": "12"}, {"g": "12", "bf": "2"}])
def test_frames_that_the_writer_of_an_avi_dropped(tmp_path, options):
    """Their chunks are empty: the rest is there, and where times are told, at its own."""
    stamps_ms = [40 * i for i in range(40) if i % 10 not in (3, 4)]
    path = tmp_path / "dropped.avi"
    full = encode(tmp_path / "a.mp4", 32, "mpeg4", options=options, stamps_ms=stamps_ms)
    with av.open(str(full)) as source, av.open(str(path), "w") as copied:
        stream = copied.add_stream_from_template(source.streams.video[0])
        stream.time_base = Fraction(1, 25)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                copied.mux(packet)
    with av.open(str(path)) as whole:
        assert whole.streams.video[0].frames > len(list(plain_decode(path))) == 32
    with Video(path) as clip:
        assert clip.num_frames == 32
        assert read_indices(clip.frames(range(32))) == list(range(32))
        if "bf" not in options:
            assert clip.times.tolist() == pytest.approx([stamp / 1000 for stamp in stamps_ms], abs=1e-6)


@pytest.mark.parametrize(
    ("codec", "options"),
    [("libx264", {"bf": "2", "x264-params": OPEN_GOP}), ("mpeg2video", {"g": "12", "bf": "2"})],
)
def test_a_recording_cut_out_of_a_broadcast(tmp_path, codec, options):
    whole = encode(tmp_path / "whole.ts", 60, codec, options=options).read_bytes()
    path = tmp_path / "cut.ts"
    path.write_bytes(whole[len(whole) // 188 // 2 * 188 :])
    reference = list(plain_decode(path))
    assert 0 < len(reference) < 40
    with Video(path) as clip:
        assert clip.num_frames == len(reference)
        for index in range(clip.num_frames):
            assert np.array_equal(clip.frames([index])[:, 0].permute(1, 2, 0), reference[index])


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_pictures_come_upright(tmp_path, degrees, mirrored):
    path = encode(
        tmp_path / "turned.mp4",
        6,
        options=x264(12),
        prepare=lambda stream: stream.set_display_rotation(degrees, hflip=mirrored),
    )
    with Video(path) as clip:
        upright = np.rot90(painted(5), degrees // 90)
        upright = upright[:, ::-1] if mirrored else upright
        picture = clip.frames([5])[:, 0].permute(1, 2, 0).numpy()
        assert (clip.height, clip.width) == picture.shape[:2] == upright.shape[:2]
        assert np.abs(picture.astype(int) - upright).mean() < 8


def test_odd_sizes(tmp_path):
    path = encode(tmp_path / "odd.mp4", 10, pix_fmt="yuv444p", options=x264(12), height=49, width=97)
    with Video(path) as clip:
        assert (clip.height, clip.width) == (49, 97)
        for index, reference in enumerate(plain_decode(path)):
            assert np.array_equal(clip.frames([index])[:, 0].permute(1, 2, 0), reference)


OVERLAPPING = [list(range(start, start + 8)) for start in range(0, 52, 4)]
GAPPED = [[0, 1], [30, 31], [31, 59]]
BACKWARD = [[40, 41, 42], [3, 2, 1], [2, 2, 50], [0]]
ENTWINED = [[0, 59], [1, 58], [2, 30], [2]]


@pytest.mark.parametrize("clips", [OVERLAPPING, GAPPED, BACKWARD, ENTWINED, []])
@pytest.mark.parametrize("name", ["h264 gop 12", "h264 gop 250", "mpeg-ts"])
def test_clips_are_the_frames_one_by_one(files, name, clips):
    with Video(files(name)[0]) as clip:
        together = list(clip.clips(clips, resize=24, crop=(20, 30)))
        assert len(together) == len(clips)
        for indices, tensor in zip(clips, together, strict=True):
            assert torch.equal(tensor, clip.frames(indices, resize=24, crop=(20, 30)))


def spied(monkeypatch, module: object, name: str, record: Callable[[object], None]) -> None:
    original = getattr(module, name)

    def spy(*args):
        result = original(*args)
        record(result)
        return result

    monkeypatch.setattr(module, name, spy)


@pytest.mark.parametrize("clips", [OVERLAPPING, GAPPED, ENTWINED])
def test_no_frame_is_converted_twice(monkeypatch, long, clips):
    converted: list[object] = []
    spied(monkeypatch, container, "upright", lambda picture: converted.append(1))
    with Video(long) as clip:
        list(clip.clips(clips))
    assert len(converted) == len({index for indices in clips for index in indices})


def test_only_the_frames_still_needed_are_kept(monkeypatch, long):
    alive: weakref.WeakSet = weakref.WeakSet()
    most = 0

    original = video._fitted

    def fitted(*args):
        nonlocal most
        for picture in original(*args):
            alive.add(picture)
            most = max(most, len(alive))
            yield picture

    monkeypatch.setattr(video, "_fitted", fitted)
    with Video(long) as clip:
        for _ in clip.clips(OVERLAPPING):
            assert len(alive) <= 8
    assert 8 <= most <= 12
    gc.collect()
    assert not alive


@pytest.mark.parametrize("clips", [[[0, 1], [2, 3], range(60)], [[40, 41], [0, 1]]])
def test_the_first_clip_waits_for_no_later_one(monkeypatch, long, clips):
    converted: list[object] = []
    spied(monkeypatch, container, "upright", lambda picture: converted.append(1))
    with Video(long) as clip:
        next(clip.clips(clips))
    assert len(converted) == 2


def count_packets(monkeypatch) -> list[int]:
    counts: list[int] = []
    original = container._Source.packets

    def packets(source):
        for packet in original(source):
            counts.append(1)
            yield packet

    monkeypatch.setattr(container._Source, "packets", packets)
    return counts


@pytest.mark.parametrize("name", ["h264 gop 12", "mpeg-ts", "mpeg4 in avi"])
def test_it_seeks_over_a_gap(monkeypatch, files, name):
    path, num_frames = files(name)
    with Video(path) as clip:
        counts = count_packets(monkeypatch)
        indices = [0, num_frames - 2]
        assert read_indices(clip.frames(indices)) == indices
    assert len(counts) <= num_frames // 2


@pytest.mark.parametrize("name", ["h264 gop 12", "h264 open gop", "mpeg-ts", "vp9"])
def test_it_starts_at_the_last_keyframe(monkeypatch, files, name):
    path, _ = files(name)
    keys = [number for number, packet in enumerate(packets_of(path)) if packet.is_keyframe]
    with Video(path) as clip:
        counts = count_packets(monkeypatch)
        for key in keys[1:]:
            counts.clear()
            clip.frames([key])
            assert len(counts) <= 3


def test_no_picture_waits_for_a_collection_of_garbage(long):
    def alive() -> int:
        return sum(isinstance(each, av.VideoFrame) for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        with Video(long) as clip:
            clip.frames(range(20))
        assert alive() == 0
    finally:
        gc.enable()


def test_a_clip_without_gap_is_read_once(monkeypatch, long):
    with Video(long) as clip:
        counts = count_packets(monkeypatch)
        clip.frames(range(2, 40))
    assert len(counts) <= 40


def test_passes_may_overlap(long):
    with Video(long) as clip:
        outer = clip.clips([[0, 1], [20, 21], [50]])
        for expected in ([0, 1], [20, 21], [50]):
            assert read_indices(next(outer)) == expected
            assert read_indices(clip.frames([33])) == [33]


def test_resize_and_crop(tmp_path):
    # The left half is white: a resize keeps it, a centre crop keeps the edge in the middle.
    half = torch.zeros(3, 60, 120, dtype=torch.uint8)
    half[..., :60] = 255
    write_video(tmp_path / "half.mp4", [half] * 3, 25)
    with Video(tmp_path / "half.mp4") as clip:
        assert clip.frames([0, 2], resize=30).shape == (3, 2, 30, 60)
        assert clip.frames([0], resize=(30, 31)).shape == (3, 1, 30, 31)
        cut = clip.frames([0, 2], resize=30, crop=(20, 24))
        assert cut.shape == (3, 2, 20, 24)
        assert cut[..., :10].float().mean() > 245
        assert cut[..., 14:].float().mean() < 10
        assert torch.equal(clip.frames([1], crop=(20, 24)), clip.frames([1])[..., 20:40, 48:72])
        whole = clip.frames([1])[:, 0]
        small = torch.nn.functional.interpolate(whole[None], (30, 60), mode="bilinear", antialias=True)[0]
        assert (clip.frames([1], resize=30)[:, 0].int() - small.int()).abs().max() <= 1
        with pytest.raises(ValueError, match="crop 31x20 does not fit in the frame of 30x60"):
            clip.frames([0], resize=30, crop=(31, 20))
        with pytest.raises(ValueError, match="resize 0"):
            clip.frames([0], resize=0)


@pytest.mark.parametrize("size", [(64, 85), (45, 80), (90, 160), (180, 200), (64, 160), (91, 161), (1, 3)])
@pytest.mark.parametrize("crop", [(1.0, 1.0), (0.9, 0.7), (0.5, 1.0), (0.3, 0.2)])
@pytest.mark.parametrize("box", [None, (5, 7, 71, 120)])
def test_a_crop_is_that_of_the_whole_frame_resized(size, crop, box):
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 90, 160), np.uint8))
    height, width = (max(1, int(side * part)) for side, part in zip(size, crop, strict=True))
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    with Video(noise) as clip:
        cut = clip.frames([2, 0], box=box, resize=size, crop=(height, width))
        whole = clip.frames([2, 0], box=box)
    small = torch.nn.functional.interpolate(whole.transpose(0, 1), size, mode="bilinear", antialias=True)
    expected = small.transpose(0, 1)[..., top : top + height, left : left + width]
    assert cut.shape == expected.shape
    assert (cut.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize(("indices", "number"), [([60], 60), ([0, -1], -1), ([3, 1000, 5], 1000)])
def test_an_index_outside_the_video(long, indices, number):
    with Video(long) as clip:
        with pytest.raises(ValueError, match=f"frame {number} asked for; the video has frames 0 to 59"):
            clip.frames(indices)
        with pytest.raises(ValueError, match=f"frame {number} "):
            clip.clips([[0], indices])
        with pytest.raises(ValueError, match="no frame index"):
            clip.frames([])


def test_one_number_is_a_square_crop(long):
    with Video(os.fsencode(long)) as clip:
        for read, where in ((clip.frames, [0]), (clip.frames_at, [0.0])):
            assert torch.equal(read(where, crop=32), read(where, crop=(32, 32)))
            assert torch.equal(read(where, resize=np.int64(32), crop=np.int32(16)), read(where, resize=32, crop=16))


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_what_is_no_source():
    for source in (0, None, ["a.mp4"]):
        with pytest.raises(TypeError, match=f"^video {re.escape(repr(source))}; give a path, or an array"):
            Video(source)
    gc.collect()


def test_a_path_longer_than_can_be():
    with pytest.raises(VideoError, match=r"a{300}\.mp4: "):
        Video("a" * 300 + ".mp4")


def test_a_path_with_a_null_byte():
    with pytest.raises(VideoError, match=r"^'a\\x00b': no path has a null byte"):
        Video("a\0b")
    with pytest.raises(VideoError, match=r"write the bytes of a video to a file$") as caught:
        Video(bytes(10**6))
    assert len(str(caught.value)) < 200


OTHER_FORMS = {
    r"frames 3; give a list of whole numbers, such as \[3\]": lambda clip: clip.frames(3),
    r"frames \[1.5\]; give a list of whole": lambda clip: clip.frames([1.5]),
    r"frames tensor\(2\); give a list of whole": lambda clip: clip.clips([torch.tensor(2)]),
    r"times 1.0; give a list of seconds, such as \[1.0\]": lambda clip: clip.frames_at(1.0),
    r"times None; give a list of seconds": lambda clip: clip.frames_at(None),
    r"times \['a'\]; give a list of seconds": lambda clip: clip.frames_at(["a"]),
    r"crop 0.5; give \(height, width\) in pixels, or the side": lambda clip: clip.frames([0], crop=0.5),
    r"crop \(1, 2, 3\); give \(height, width\)": lambda clip: clip.frames([0], crop=(1, 2, 3)),
    r"resize 'a'; give the short side in pixels, or": lambda clip: clip.frames([0], resize="a"),
    r"resize 0.5; give the short side": lambda clip: clip.frames_at([0.0], resize=0.5),
    r"box \(0, 0, 8\); give \(top, left, height, width\)": lambda clip: clip.clips([[0]], box=(0, 0, 8)),
}


@pytest.mark.parametrize("told", OTHER_FORMS)
def test_arguments_of_another_form(long, told):
    with Video(long) as clip, pytest.raises(TypeError, match=told):
        OTHER_FORMS[told](clip)


@pytest.mark.parametrize(
    "address", ["http://a.org/b.mp4", "https://a.org/b.mp4", "rtsp://camera/live", "s3://bucket/b.mp4"]
)
def test_an_address_is_no_file(address):
    with pytest.raises(VideoError, match=f"^{address}: an address; download the file .*`tubelet predict`"):
        Video(address)
    with pytest.raises(VideoError, match=f"^{address.replace('://', '://me@')}: an address"):
        Video(address.replace("://", "://me:secret@"))


def write_audio(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        for _ in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


BAD_FILES = {
    "no such file": lambda path: None,
    "a directory": lambda path: path.mkdir(),
    "the file is empty": lambda path: path.write_bytes(b""),
    "not a video": lambda path: path.write_text("hello\n" * 100),
    "not a video that FFmpeg can read": lambda path: path.write_bytes(random.Random(0).randbytes(5000)),
    "no video stream": write_audio,
}


@pytest.mark.parametrize("reason", BAD_FILES)
def test_a_bad_file_is_one_named_error(tmp_path, reason):
    path = tmp_path / "bad.mp4"
    BAD_FILES[reason](path)
    with pytest.raises(VideoError) as caught:
        Video(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_a_file_without_frames(tmp_path):
    path = tmp_path / "none.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        container.start_encoding()
    with pytest.raises(VideoError, match="no frame"):
        Video(path)


@pytest.fixture
def noisy(tmp_path) -> Path:
    """60 frames of moving noise, the index of the file first, so that a cut removes pictures alone."""
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 48, 96), np.uint8))
    write_video(tmp_path / "noisy.mp4", (noise.roll(2 * i, -1) for i in range(60)), 25, gop=12)
    return tmp_path / "noisy.mp4"


@pytest.mark.parametrize("within_a_packet", [True, False])
def test_a_truncated_file_offers_what_is_there(noisy, within_a_packet):
    reference = list(plain_decode(noisy))
    packet = packets_of(noisy)[30]
    noisy.write_bytes(noisy.read_bytes()[: packet.pos + packet.size // 2 * within_a_packet])
    with pytest.warns(UserWarning, match="damaged or cut short: only 29 frames"):
        clip = Video(noisy)
    with clip:
        # The 30th packet there holds frame 30, and frame 29 came behind it.
        for index in range(29):
            assert np.array_equal(clip.frames([index])[:, 0].permute(1, 2, 0), reference[index])
        with pytest.raises(VideoError, match=r"frame 59 .* breaks off"):
            clip.frames([59])


def test_damage_in_the_middle_is_named_and_the_rest_is_read(noisy):
    reference = list(plain_decode(noisy))
    packet = packets_of(noisy)[26]
    data = bytearray(noisy.read_bytes())
    data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    noisy.write_bytes(data)
    with Video(noisy) as clip:
        assert clip.num_frames == 60
        for index in [*range(24), *range(36, 60)]:
            assert np.array_equal(clip.frames([index])[:, 0].permute(1, 2, 0), reference[index])
        with pytest.raises(VideoError, match=r"frame 30 of 60 is damaged and .* frames from 36 on do not depend on it"):
            clip.frames([30])
        first = clip.clips([[0, 1], [30]])
        assert next(first).shape[1] == 2
        with pytest.raises(VideoError, match="frame 30"):
            next(first)
        assert clip.frames([59]).shape[1] == 1


def test_a_picture_the_decoder_marks_as_corrupt_is_not_given(tmp_path):
    path = encode(tmp_path / "a.avi", 40, "mpeg4", options={"g": "40", "sc_threshold": "1000000000"})
    packet = packets_of(path)[20]
    data = bytearray(path.read_bytes())
    start = path.read_bytes().index(bytes(packet))
    data[start + packet.size // 4 : start + packet.size] = b"\xff" * (packet.size - packet.size // 4)
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert [frame.is_corrupt for frame in container.decode(video=0)].index(True) == 20
    with Video(path) as clip:
        assert read_indices(clip.frames(range(20))) == list(range(20))
        for index in (20, 25):
            with pytest.raises(VideoError, match=f"frame {index} of 40 is damaged"):
                clip.frames([index])


def test_timestamps_that_repeat_are_not_trusted(tmp_path):
    part = encode(tmp_path / "part.ts", 13, options=x264(12)).read_bytes()
    path = tmp_path / "twice.ts"
    path.write_bytes(part + part)
    with Video(path) as clip:
        assert clip.num_frames == len(list(plain_decode(path))) == 26
        assert read_indices(clip.frames(range(26))) == [*range(13), *range(13)]


def test_a_change_of_picture_size_is_an_error(tmp_path):
    parts = []
    for number, size in enumerate([(48, 96), (96, 48)]):
        stamps = [40 * (13 * number + i) for i in range(13)]
        part = encode(tmp_path / f"{number}.ts", 13, options=x264(12), stamps_ms=stamps, height=size[0], width=size[1])
        parts.append(part.read_bytes())
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(parts))
    with Video(path) as clip:
        assert clip.frames(range(13)).shape[-2:] == (48, 96)
        with pytest.raises(VideoError, match="is 96x48 where the video is 48x96"):
            clip.frames([0, 20])


def test_closing(long):
    clip = Video(long)
    clip.close()
    clip.close()
    with pytest.raises(ValueError, match="closed"):
        clip.frames([0])


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc, which is Linux's")
def test_no_file_stays_open(tmp_path, long):
    write_audio(tmp_path / "audio.mp4")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    gc.disable()
    try:
        for number in range(100):
            clip = Video(long)
            if number % 4 == 0:
                next(clip.clips([[3], [4]]))
            if number % 2:
                clip.close()
            del clip
            with pytest.raises(VideoError):
                Video(tmp_path / "audio.mp4")
        clip = Video(long)
        unfinished = clip.clips([[3], [4]])
        next(unfinished)
        clip.close()
        assert read_index(next(unfinished)[:, 0]) == 4
        assert next(unfinished, None) is None
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    finally:
        gc.enable()


@pytest.mark.parametrize("fps", [25, 30000 / 1001, 12.5])
def test_written_files_read_back(tmp_path, fps):
    frames = [torch.from_numpy(painted(index)).permute(2, 0, 1) for index in range(30)]
    path = tmp_path / "out.mp4"
    write_video(path, iter(frames), fps, gop=10)
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]
    with Video(path) as clip:
        assert clip.fps == pytest.approx(fps, rel=1e-6)
        assert read_indices(clip.frames(range(30))) == list(range(30))
        assert (clip.frames(range(30)).float() - torch.stack(frames, 1)).abs().mean() < 3


def test_written_files_keep_their_times(tmp_path):
    times = [ms / 1000 for ms in VFR_MS]
    frames = [torch.full((3, 48, 64), 4 * i, dtype=torch.uint8) for i in range(len(times))]
    write_video(tmp_path / "a.mp4", frames, 25, times_s=times)
    with Video(tmp_path / "a.mp4") as clip:
        assert clip.times.tolist() == pytest.approx(times, abs=1e-9)
    for wrong, reason in ((times[:5], "5 times"), ([*times, 99], "61 times for 60 frames"), ([0, 0], "after")):
        with pytest.raises(ValueError, match=reason):
            write_video(tmp_path / "b.mp4", frames, 25, times_s=wrong)
    assert not list(tmp_path.glob("*b*"))


def test_damage_of_the_source_is_not_told_of_the_target(tmp_path):
    def frames():
        yield torch.zeros(3, 48, 64, dtype=torch.uint8)
        raise VideoError("source.mp4: damaged")

    with pytest.raises(VideoError, match=r"^source\.mp4: damaged$"):
        write_video(tmp_path / "a.mp4", frames(), 25)


def test_written_files_are_h264_with_the_gop_asked_for(tmp_path):
    path = tmp_path / "out.mp4"
    write_video(path, torch.zeros(30, 3, 48, 96, dtype=torch.uint8), 25, gop=10)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        keys = [packet.pts for packet in container.demux(stream) if packet.is_keyframe]
        assert [key * stream.time_base * 25 for key in keys] == [0, 10, 20]


def test_fewer_bits_for_a_larger_crf(tmp_path):
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, 48, 96), np.uint8))
    for crf in (10, 40):
        write_video(tmp_path / f"{crf}.mp4", noise, 25, crf=crf)
    assert (tmp_path / "40.mp4").stat().st_size < (tmp_path / "10.mp4").stat().st_size / 2


def test_an_interrupted_write_leaves_no_file(tmp_path):
    def frames():
        yield from torch.zeros(200, 3, 48, 96, dtype=torch.uint8)
        raise KeyboardInterrupt

    path = tmp_path / "out.mp4"
    path.write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt):
        write_video(path, frames(), 25)
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]
    assert path.read_bytes() == b"before"


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.uint8)


BAD_FRAMES = {
    "no frames to write": [],
    "needs even sides": [torch.zeros(3, 47, 96, dtype=torch.uint8)],
    r"frame 0 is torch.float32 \(3, 48, 96\)": [torch.zeros(3, 48, 96)],
    r"frame 0 is torch.uint8 \(48, 96, 3\).*: picture.permute\(2, 0, 1\) puts": [zeros(48, 96, 3)],
    r"tensor is torch.uint8 \(4, 48, 96, 3\).*: frames.permute\(0, 3, 1, 2\) puts": zeros(4, 48, 96, 3),
    r"tensor is torch.uint8 \(3, 4, 48, 96\).*: clip.unbind\(1\) of a clip": zeros(3, 4, 48, 96),
    r"frame 0 is torch.uint8 \(3, 4, 48, 96\).*: clip.unbind\(1\) of a clip": [zeros(3, 4, 48, 96)],
    r"tensor is torch.uint8 \(3, 48, 96\).*: \[picture\] of one picture": zeros(3, 48, 96),
    r"tensor is torch.uint8 \(48, 96, 3\).*: picture.permute\(2, 0, 1\) puts": zeros(48, 96, 3),
    r"frame 0 is torch.uint8 \(1, 48, 96\); write \(3, H, W\) of torch.uint8$": [zeros(1, 48, 96)],
    r"frame 0 is ndarray \(48, 96, 3\); write tensors": [np.zeros((48, 96, 3), np.uint8)],
    r"frame 1 is \(3, 48, 48\) where the first": [torch.zeros(3, 48, w, dtype=torch.uint8) for w in (96, 48)],
}


@pytest.mark.parametrize("reason", BAD_FRAMES)
def test_frames_that_cannot_be_written(tmp_path, reason):
    with pytest.raises(ValueError, match=reason):
        write_video(tmp_path / "out.mp4", BAD_FRAMES[reason], 25)
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written(tmp_path):
    frames = [torch.zeros(3, 48, 96, dtype=torch.uint8)]
    with pytest.raises(VideoError, match="No such file or directory"):
        write_video(tmp_path / "absent" / "out.mp4", frames, 25)
    with pytest.raises(VideoError, match=r"end in \.mp4"):
        write_video(tmp_path / "out.avi", frames, 25)
    with pytest.raises(ValueError, match="fps 0"):
        write_video(tmp_path / "out.mp4", frames, 0)


@pytest.mark.parametrize(
    "name", ["arm_wrestling.mp4", "cricket_shot.gif", "h264_long_gop.mp4", "test.avi", "walking_people.mp4"]
)
def test_real_files_equal_a_plain_decode(name):
    path = CLIPS / name
    if not path.is_file():
        pytest.skip(f"needs {path}, real data that the project does not ship")
    draw = random.Random(0)
    with Video(path) as clip:
        some = sorted(draw.sample(range(clip.num_frames), 12))
        reference = {}
        for number, picture in enumerate(plain_decode(path)):
            if number in some:
                reference[number] = picture
        assert number + 1 == clip.num_frames
        draw.shuffle(some)
        for indices in (some[:1], some[1:4], some[4:]):
            for index, picture in zip(indices, clip.frames(indices).unbind(1), strict=True):
                assert np.array_equal(picture.permute(1, 2, 0), reference[index])


def test_a_missing_package_is_named_with_its_remedy(monkeypatch, long):
    with (
        pytest.raises(ImportError, match=r"no module named 'absent_package'.* pip install \"tubelet\[plot\]\""),
        needs("plot"),
    ):
        import absent_package  # noqa: F401
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r'pip install "tubelet\[video\]"'):
        Video(long)


def test_other_errors_pass_through_needs():
    with pytest.raises(ZeroDivisionError), needs("plot"):
        _ = 1 / 0


def test_importing_the_module_does_not_import_av():
    code = "import sys, tubelet.data.video; sys.exit('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
