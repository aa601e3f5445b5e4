"""Files opened often, by many, and damaged: what comes out is the right frame or an error that names the file."""

import io
import multiprocessing
import os
import random
import subprocess
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
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
    encode,
    packets_of,
    painted,
    plain_decode,
    read_index,
    read_indices,
    x264,
)
from PIL import Image

from tubelet.data import container
from tubelet.data.packets import SETTINGS
from tubelet.data.video import Video, VideoError, write_video

VP9 = {"g": "12", "deadline": "realtime", "cpu-used": "8"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("whole") / "a.mp4", 60, options=x264(12))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of its own, that takes every index."""
    monkeypatch.setenv("TUBELET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(container, "_WORTH_KEEPING_S", 0)
    return tmp_path / "cache"


# The index that is kept


def scans(monkeypatch):
    counts = []
    original = container._scan
    monkeypatch.setattr(container, "_scan", lambda source: counts.append(1) or original(source))
    return counts


KEPT = {
    "a.mp4": {"options": x264(12)},
    "a.mkv": {"options": x264(12)},
    "a.ts": {"options": x264(12)},
    "a.avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "a.h264": {"options": x264(12)},
    "turned.mp4": {"options": x264(12), "prepare": lambda stream: stream.set_display_rotation(90)},
}


@pytest.mark.parametrize("name", KEPT)
def test_a_kept_index_is_the_index(cache, monkeypatch, tmp_path, name):
    path = encode(tmp_path / name, 40, **KEPT[name])
    counts = scans(monkeypatch)
    with Video(path) as clip:
        first = (clip.times, clip.duration_s, clip.height, clip.width, clip.frames([0, 17, 39, 3]))
        index = clip._source._index
    with Video(path) as clip:
        assert len(counts) == 1
        assert clip._source._index == index
        again = (clip.times, clip.duration_s, clip.height, clip.width, clip.frames([0, 17, 39, 3]))
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(first, again, strict=True))


def test_a_changed_file_is_read_anew(cache, monkeypatch, tmp_path):
    counts = scans(monkeypatch)
    path = encode(tmp_path / "a.mp4", 20, options=x264(12))
    Video(path).close()
    encode(path, 30, options=x264(12))
    with Video(path) as clip:
        assert clip.num_frames == 30
    assert len(counts) == 2


def test_a_file_that_changes_while_it_is_open_is_an_error(tmp_path, whole):
    path = tmp_path / "a.mp4"
    path.write_bytes(whole.read_bytes())
    with Video(path) as clip:
        one, other = (clip.clips([[0], [30]]) for _ in range(2))
        next(one)
        encode(tmp_path / "b.mp4", 60, options=x264(12), draw=lambda i: painted(59 - i)).replace(path)
        assert read_indices(next(one)) == [30]
        with pytest.raises(VideoError, match=r"a\.mp4: the file has changed since it was opened; open it again$"):
            next(other)


def test_a_damaged_entry_is_written_anew(cache, monkeypatch, whole):
    counts = scans(monkeypatch)
    Video(whole).close()
    (entry,) = (path for path in cache.rglob("*") if path.is_file())
    data = entry.read_bytes()
    entry.write_bytes(data[:30])
    with Video(whole) as clip:
        assert clip.num_frames == 60
    assert len(counts) == 2
    assert entry.read_bytes() == data


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch, whole):
    monkeypatch.setenv("TUBELET_CACHE", "/dev/null/cache")
    monkeypatch.setattr(container, "_WORTH_KEEPING_S", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            with Video(whole) as clip:
                assert read_indices(clip.frames([5, 50])) == [5, 50]


def test_what_is_read_through_at_once_is_not_kept(cache, monkeypatch, whole):
    monkeypatch.setattr(container, "_WORTH_KEEPING_S", 1000)
    Video(whole).close()
    assert not cache.exists()


def test_a_damaged_file_is_kept_as_damaged(cache, tmp_path, whole):
    path = tmp_path / "cut.mkv"
    data = encode(tmp_path / "a.mkv", 40, options=x264(12)).read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    for _ in range(2):
        with pytest.warns(UserWarning, match="damaged or cut short"), Video(path) as clip:
            assert read_indices(clip.frames(range(clip.num_frames))) == list(range(clip.num_frames))


def test_where_decoding_was_needed_once_it_is_not_again(cache, monkeypatch, tmp_path):
    path = encode(tmp_path / "a.avi", 40, "mpeg4", options={"g": "12", "bf": "2"})
    Video(path).close()
    monkeypatch.setattr(container, "_scan", None)
    sent = []
    original = container._Decoding._decode
    monkeypatch.setattr(container._Decoding, "_decode", lambda *args: sent.append(1) or original(*args))
    with Video(path) as clip:
        assert read_indices(clip.frames([38])) == [38]
    assert len(sent) <= 14


# The size


def no_decoding(monkeypatch):
    monkeypatch.setattr(container, "_decoded", None)


@pytest.mark.parametrize("name", [name for name in KEPT if name not in ("a.avi", "a.h264")])
def test_the_size_costs_no_decoding(monkeypatch, tmp_path, name):
    path = encode(tmp_path / name, 10, **KEPT[name])
    no_decoding(monkeypatch)
    with Video(path) as clip:
        assert (clip.height, clip.width) == ((WIDTH, HEIGHT) if name == "turned.mp4" else (HEIGHT, WIDTH))


def test_a_size_that_is_not_true_is_an_error(monkeypatch, tmp_path, whole):
    monkeypatch.setattr(container, "_size", lambda stream, header: (WIDTH, HEIGHT))
    with Video(whole) as clip:
        assert (clip.height, clip.width) == (WIDTH, HEIGHT)
        with pytest.raises(VideoError, match="frame 3 is 48x96 where the video is 96x48"):
            clip.frames([3])


@pytest.mark.parametrize("orientation", [1, 6])
def test_pictures_of_a_camera_that_writes_exif(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    with av.open(str(tmp_path / "a.avi"), "w") as target:
        stream = target.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuvj420p"
        for index in range(4):
            jpg = io.BytesIO()
            Image.fromarray(painted(index)).save(jpg, "JPEG", exif=exif)
            packet = av.Packet(jpg.getvalue())
            packet.pts = packet.dts = index
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), stream, True
            target.mux(packet)
    with Video(tmp_path / "a.avi") as clip:
        assert (clip.height, clip.width) == ((HEIGHT, WIDTH) if orientation == 1 else (WIDTH, HEIGHT))
        pictures = clip.frames([3, 1])
        assert read_indices(pictures if orientation == 1 else pictures.rot90(1, (2, 3))) == [3, 1]


def test_pixels_that_are_not_square_stay_as_they_are(tmp_path):
    def wide(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    path = encode(tmp_path / "a.mp4", 10, options=x264(12), prepare=wide)
    with av.open(str(path)) as file:
        assert file.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
    with Video(path) as clip:
        assert (clip.height, clip.width) == (HEIGHT, WIDTH)
        assert read_indices(clip.frames([7])) == [7]


# Timestamps that tell nothing


def test_frames_held_back_without_a_word_are_found_by_decoding(tmp_path):
    """A file whose writer took the times of decoding for those of showing."""
    source = encode(tmp_path / "a.mp4", 40, options=x264(12))
    path = tmp_path / "a.mkv"
    with av.open(str(source)) as origin, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(origin.streams.video[0])
        for packet in origin.demux(video=0):
            if packet.size:
                packet.pts, packet.stream = packet.dts, stream
                target.mux(packet)
    with Video(path) as clip:
        assert clip.num_frames == 40
        for index in (0, 1, 5, 13, 39):
            assert read_indices(clip.frames([index])) == [index]


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".ts"])
def test_two_frames_in_a_packet(tmp_path, suffix):
    """As XviD wrote them, in a real file, and in copies of it that kept the packets."""
    if not (CLIPS / "test.avi").is_file():
        pytest.skip(f"needs {CLIPS / 'test.avi'}, real data that the project does not ship")
    path = tmp_path / f"a{suffix}"
    with av.open(str(CLIPS / "test.avi")) as origin, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(origin.streams.video[0])
        for packet in origin.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    reference = list(plain_decode(path))
    with Video(path) as clip:
        assert clip.num_frames == len(reference)
        for index in (0, 1, 2, 3, 4, 50, 163, clip.num_frames - 1):
            assert np.array_equal(clip.frames([index])[:, 0].permute(1, 2, 0), reference[index])


def test_frames_of_a_raw_stream_are_counted(tmp_path):
    path = encode(tmp_path / "a.h264", 40, options=x264(12))
    with Video(path) as clip:
        assert clip.num_frames == 40
        assert read_indices(clip.frames([39, 0, 13])) == [39, 0, 13]


# What one packet tells the decoder for all behind it


def paletted(path, num_frames, codec, every):
    """Frames of 8 bits, and a palette that changes every so many of them."""
    with av.open(str(path), "w") as target:
        stream = target.add_stream(codec, rate=25, options={"g": "8"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "pal8"
        for index in range(num_frames):
            palette = np.full((256, 4), 255, np.uint8)
            palette[:, 1:] = np.arange(256)[:, None] // 2 + index // every
            frame = av.VideoFrame.from_ndarray((painted(index)[..., 0].copy(), palette), format="pal8")
            target.mux(stream.encode(frame))
        target.mux(stream.encode())
    return path


def joined(path, parts):
    """Recordings of one size behind one another, each with the parameters of its own encoder."""
    with ExitStack() as files:
        origins = [files.enter_context(av.open(str(part))) for part in parts]
        target = files.enter_context(av.open(str(path), "w"))
        stream = target.add_stream_from_template(origins[0].streams.video[0])
        for number, origin in enumerate(origins):
            parameters = origin.streams.video[0].codec_context.extradata
            for place, packet in enumerate(packet for packet in origin.demux(video=0) if packet.size):
                if place == 0:
                    brought = av.packet.PacketSideData(SETTINGS.index("new_extradata"), len(parameters))
                    brought.update(parameters)
                    packet.set_sidedata(brought)
                shift = int(2 * number / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                target.mux(packet)
    return path


def assert_like_plain_decoding(path):
    """In any order, from one file and from another."""
    reference = list(plain_decode(path))
    backwards = [*range(len(reference))][::-3]
    with Video(path) as clip:
        for index in [*backwards, len(reference) - 1, 0]:
            assert np.array_equal(clip.frames([index])[:, 0].permute(1, 2, 0), reference[index]), index
    for index in backwards:
        with Video(path) as clip:
            assert np.array_equal(clip.frames([index])[:, 0].permute(1, 2, 0), reference[index]), index


@pytest.mark.parametrize(
    ("name", "codec", "every", "num_keys"),
    [("a.avi", "rawvideo", 99, 40), ("a.avi", "msrle", 7, 5), ("a.avi", "rawvideo", 1, 32), ("a.mov", "smc", 99, 5)],
)
def test_colours_of_a_palette(cache, tmp_path, name, codec, every, num_keys):
    path = paletted(tmp_path / name, 40, codec, every)
    assert_like_plain_decoding(path)
    with Video(path) as clip:
        assert len(clip._source._index.keys) == num_keys


@pytest.mark.parametrize(("suffix", "order"), [(".flv", [0, 1, 0]), (".mp4", [0, 1])])
def test_recordings_of_two_encoders(cache, tmp_path, suffix, order):
    options = [x264(8, preset="ultrafast"), x264(8, preset="slow")]
    parts = [encode(tmp_path / f"{number}{suffix}", 20, options=options[number]) for number in range(2)]
    assert_like_plain_decoding(joined(tmp_path / f"joined{suffix}", [parts[number] for number in order]))


# Several video streams


@pytest.mark.parametrize("is_default", [False, True])
def test_the_film_is_read_and_not_its_thumbnail(tmp_path, is_default):
    film, path = encode(tmp_path / "film.mkv", 20, options=x264(12)), tmp_path / "a.mkv"
    with av.open(str(film)) as origin, av.open(str(path), "w") as target:
        thumbnail = target.add_stream("mjpeg", rate=25)
        thumbnail.height, thumbnail.width, thumbnail.pix_fmt = 32, 32, "yuvj420p"
        stream = target.add_stream_from_template(origin.streams.video[0])
        if is_default:
            thumbnail.disposition, stream.disposition = 0, av.stream.Disposition.default
        target.mux(thumbnail.encode(av.VideoFrame.from_ndarray(painted(0, 32, 32), format="rgb24")))
        for packet in origin.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    with Video(path) as clip:
        assert clip.num_frames == 20 and (clip.height, clip.width) == (HEIGHT, WIDTH)
        assert read_indices(clip.frames([17, 3])) == [17, 3]


# Keyframes of which the container does not tell


def without_idx1(data):
    return data[: data.rindex(b"idx1")]


def half_an_idx1(data):
    return data[: (data.rindex(b"idx1") + len(data)) // 2]


def without_stss(data):
    return data.replace(b"stss", b"free")


HEVC = {"x265-params": "log-level=none:keyint=12:min-keyint=12"}
SILENT = {
    "a.avi": ("msmpeg4v3", without_idx1, 1),
    "half.avi": ("msmpeg4v3", half_an_idx1, 2),
    "a.mp4": ("mpeg4", without_stss, 1),
    "hevc.mp4": ("libx265", without_stss, 4),
    "intra.avi": ("ffv1", without_idx1, 40),
}


@pytest.mark.parametrize("name", SILENT)
def test_what_is_not_said_to_be_no_keyframe_is_none(tmp_path, name):
    codec, silence, num_keys = SILENT[name]
    options = {"libx265": HEVC, "ffv1": {"g": "1"}}.get(codec, {"g": "12"})
    path = encode(tmp_path / name, 40, codec, options=options)
    path.write_bytes(silence(path.read_bytes()))
    for index in (1, 14, 20, 39):
        with Video(path) as clip:
            assert len(clip._source._index.keys) == num_keys
            assert read_indices(clip.frames([index])) == [index]


def test_a_seek_to_what_is_no_keyframe_is_one_to_another_place(tmp_path):
    """In fragments whose frames are all said to be keyframes FFmpeg jumps among them."""
    source = encode(tmp_path / "a.mp4", 40, "libx265", options=HEVC)
    path = tmp_path / "b.mp4"
    options = {"movflags": "empty_moov+frag_every_frame"}
    with av.open(str(source)) as origin, av.open(str(path), "w", options=options) as target:
        stream = target.add_stream_from_template(origin.streams.video[0])
        for packet in origin.demux(video=0):
            if packet.size:
                packet.is_keyframe, packet.stream = True, stream
                target.mux(packet)
    with Video(path) as clip:
        for index in (39, 14, 20, 1):
            assert read_indices(clip.frames([index])) == [index]


# Many at once


def test_two_videos_and_two_threads(tmp_path, whole):
    paths = [whole, encode(tmp_path / "a.gif", 30, "gif", pix_fmt="rgb8"), CLIPS / "absent.mp4"] * 8

    def read(number):
        draw = random.Random(number)
        try:
            with Video(paths[number]) as clip:
                for _ in range(6):
                    indices = sorted(draw.randrange(clip.num_frames) for _ in range(4))
                    assert read_indices(clip.frames(indices)) == indices
        except VideoError as error:
            return str(error)
        return "right"

    with ThreadPoolExecutor(6) as pool:
        answers = Counter(pool.map(read, range(len(paths))))
    assert answers == {"right": 16, f"{CLIPS / 'absent.mp4'}: no such file": 8}
    assert av.logging.get_level() is None


def test_a_video_opened_before_a_fork(whole):
    with Video(whole) as clip:
        clip.frames([3])

        def read(first, tell):
            draw = random.Random(first)
            wanted = [sorted(draw.randrange(60) for _ in range(3)) for _ in range(40)]
            tell(all(read_indices(clip.frames(indices)) == indices for indices in wanted))

        context = multiprocessing.get_context("fork")
        ends = []
        for number in range(3):
            mine, theirs = context.Pipe()
            context.Process(target=read, args=(number, theirs.send), daemon=True).start()
            ends.append(mine)
        mine_too = []
        read(9, mine_too.append)
        assert mine_too == [True]
        assert all(end.poll(60) and end.recv() for end in ends)
        assert read_indices(clip.frames([30])) == [30]


GROWTH = """
import os, random, sys, warnings
from tubelet.data.video import Video
path, cycles = sys.argv[1], int(sys.argv[2])
warnings.simplefilter("ignore")
def state():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))
def cycle(number):
    with Video(path) as clip:
        clip.frames([random.Random(number).randrange(clip.num_frames)], resize=32)
for number in range(cycles // 10):
    cycle(number)
before = state()
for number in range(cycles):
    cycle(number)
after = state()
print(after[0] - before[0], after[1] - before[1])
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc, which is Linux's")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "cut.mkv"])
def test_memory_and_files_do_not_grow(tmp_path, name):
    codec = "gif" if name == "a.gif" else "libx264"
    path = encode(tmp_path / name, 30, codec, pix_fmt="rgb8" if codec == "gif" else "yuv420p", options={"g": "12"})
    if name == "cut.mkv":
        path.write_bytes(path.read_bytes()[:-200])
    done = subprocess.run([sys.executable, "-c", GROWTH, str(path), "2000"], capture_output=True, text=True, check=True)
    growth, files = map(int, done.stdout.split())
    assert growth < 5e6
    assert files == 0


# Bad files


def no_moov(path):
    data = encode(path, 20, options=x264(12)).read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])


def header_alone(path):
    data = encode(path.with_suffix(".mkv"), 20, options=x264(12)).read_bytes()
    path.write_bytes(data[: data.index(b"\x1f\x43\xb6\x75")])


def forbidden(path):
    path.write_bytes(b"some video")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")


BAD_FILES = {
    "the file is empty": lambda path: path.write_bytes(b""),
    "not a video that FFmpeg can read": lambda path: path.write_text("hello\n" * 100_000),
    "not a video": lambda path: path.write_bytes(random.Random(0).randbytes(3_000_000)),
    "not a video that": lambda path: path.write_bytes(bytes(3_000_000)),
    "not a video that FFmpeg can": no_moov,
    "no": header_alone,
    "a directory or a device": os.mkfifo,
    "a directory or": lambda path: path.symlink_to("/dev/zero"),
    "no such file": lambda path: path.symlink_to("nowhere"),
    "Permission denied": forbidden,
    "not a": lambda path: path.write_text("#EXTM3U\n#EXTINF:10,\nhttp://192.0.2.1/a.ts\n#EXT-X-ENDLIST\n"),
}


@pytest.mark.parametrize("reason", BAD_FILES)
def test_a_bad_file_is_one_named_error(tmp_path, reason):
    path = tmp_path / "bad.mp4"
    BAD_FILES[reason](path)
    with pytest.raises(VideoError) as caught:
        Video(path)
    assert str(caught.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(caught.value)


def test_a_playlist_leads_to_files_alone(tmp_path):
    path = tmp_path / "a.m3u8"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://192.0.2.1/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(VideoError, match=str(path)):
        Video(path)


def test_a_file_that_may_not_be_read(cache, monkeypatch, whole):
    def refuse(*args, **kwargs):
        raise av.error.PermissionError(13, "Permission denied")

    monkeypatch.setattr(av, "open", refuse)
    with pytest.raises(VideoError, match=r"a\.mp4: Permission denied$"):
        Video(whole)


@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.avi", "a.webm"])
def test_a_file_that_is_being_written(tmp_path, name):
    codec = {"a.avi": "mpeg4", "a.webm": "libvpx-vp9"}.get(name, "libx264")
    data = encode(tmp_path / name, 60, codec, options=VP9 if codec == "libvpx-vp9" else {"g": "12"}).read_bytes()
    path = tmp_path / f"growing-{name}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for size in range(0, len(data), len(data) // 20):
            path.write_bytes(data[:size])
            try:
                with Video(path) as clip:
                    assert read_indices(clip.frames(range(clip.num_frames))) == list(range(clip.num_frames))
            except VideoError as error:
                assert str(error).startswith(str(path))
                assert size < len(data) * 2 // 3


# Damage


def textured(index):
    """A painted index under moving noise: data that fills packets."""
    noise = np.random.default_rng(0).integers(-40, 41, (HEIGHT, WIDTH, 3))
    return np.clip(painted(index) * 0.6 + 50 + np.roll(noise, (index, 2 * index), (0, 1)), 0, 255).astype(np.uint8)


def test_20_kb_overwritten(tmp_path):
    frames = [torch.from_numpy(np.kron(textured(i), np.ones((2, 2, 1), np.uint8))).permute(2, 0, 1) for i in range(96)]
    write_video(tmp_path / "a.mp4", frames, 25, crf=10)
    reference = list(plain_decode(tmp_path / "a.mp4"))
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    packets = packets_of(tmp_path / "a.mp4")
    start = packets[40].pos
    data[start : start + 20_000] = random.Random(0).randbytes(20_000)
    (tmp_path / "a.mp4").write_bytes(data)
    hit = [packet.pts for packet in packets if start - packet.size < packet.pos < start + 20_000]
    hit = sorted(round(pts * packets[0].time_base * 25) for pts in hit)
    with Video(tmp_path / "a.mp4") as clip:
        assert clip.num_frames == 96
        readable = []
        for index in range(96):
            try:
                picture = clip.frames([index])[:, 0].permute(1, 2, 0)
            except VideoError as error:
                assert f"frame {index} of 96 is damaged" in str(error)
            else:
                assert np.array_equal(picture, reference[index])
                readable.append(index)
        assert not set(hit) & set(readable)
        assert set(range(hit[0] // 12 * 12)) | set(range(hit[-1] // 12 * 12 + 12, 96)) <= set(readable)


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.ts"])
def test_a_hole_keeps_the_numbers_behind_it(tmp_path, name):
    codec = "libvpx-vp9" if name == "a.webm" else "libx264"
    path = encode(tmp_path / name, 96, codec, options=VP9 if codec == "libvpx-vp9" else x264(12), draw=textured)
    data = bytearray(path.read_bytes())
    start = packets_of(path)[40].pos
    data[start + 100 : start + 3100] = random.Random(0).randbytes(3000)
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="damaged or cut short"), Video(path) as clip:
        assert clip.num_frames == 96
        readable = []
        for index in range(96):
            try:
                assert read_index(clip.frames([index])[:, 0]) == index
                readable.append(index)
            except VideoError as error:
                assert f"frame {index} of 96" in str(error)
        assert set(range(36)) | set(range(72, 96)) <= set(readable)
        assert not {40, 41, 42, 43} & set(readable)


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.avi", "a.ts", "a.mp4", "fragments.mp4", "a.gif"])
def test_a_file_cut_anywhere(tmp_path, name):
    """The frames that it offers are the first ones, without a gap."""
    codec, options, pix_fmt, more = "libx264", x264(12), "yuv420p", {}
    match name:
        case "a.webm":
            codec, options = "libvpx-vp9", VP9
        case "a.gif":
            codec, options, pix_fmt = "gif", {}, "rgb8"
        case "fragments.mp4":
            more = {"container_options": {"movflags": "frag_keyframe+empty_moov"}}
        case "a.mp4":
            more = {"container_options": {"movflags": "faststart"}}
    path = encode(tmp_path / name, 60, codec, options=options, pix_fmt=pix_fmt, draw=textured, **more)
    data = path.read_bytes()
    packets = packets_of(path)
    sizes = range(packets[20].pos, packets[50].pos)
    if name == "fragments.mp4":  # one that is cut within the description of a fragment is not a video to FFmpeg
        sizes = range(packets[26].pos, packets[34].pos)
    for size in random.Random(0).sample(sizes, 8):
        path.write_bytes(data[: size + (name == "a.ts" and size % 188 == 0)])
        with pytest.warns(UserWarning, match="damaged or cut short"), Video(path) as clip:
            num_whole = sum(packet.pos + packet.size <= size for packet in packets)
            assert num_whole - 4 <= clip.num_frames <= num_whole
            assert read_indices(clip.frames(range(clip.num_frames))) == list(range(clip.num_frames))
            with pytest.raises(VideoError, match=r"frame 59 .* breaks off"):
                clip.frames([59])


def test_dv_cut_within_its_last_frame(tmp_path):
    path = encode(tmp_path / "a.dv", 6, "dvvideo", height=576, width=720)
    path.write_bytes(path.read_bytes()[:-7000])
    with pytest.warns(UserWarning, match="only 5 frames are there"), Video(path) as clip:
        assert read_indices(clip.frames(range(5))) == list(range(5))


@pytest.mark.parametrize("share", [0.3, 0.45, 0.6, 0.75, 0.95])
def test_mxf_that_lost_its_index(tmp_path, share):
    path = encode(tmp_path / "a.mxf", 40, "mpeg2video", options={"g": "12", "bf": "2"}, draw=textured)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.warns(UserWarning, match="damaged or cut short"), Video(path) as clip:
        assert read_indices(clip.frames(range(clip.num_frames))) == list(range(clip.num_frames))


def test_what_is_wrong_in_every_frame_is_the_habit_of_its_writer(tmp_path):
    """Words that belong to nothing behind the data of each picture."""
    source = encode(tmp_path / "a.mp4", 40, options=x264(12, **{"x264-params": "cabac=0"}))
    path = tmp_path / "b.mp4"
    with av.open(str(source)) as origin, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(origin.streams.video[0])
        for packet in origin.demux(video=0):
            data, parts = bytes(packet), []
            while data:
                size = int.from_bytes(data[:4])
                unit, data = data[4 : 4 + size], data[4 + size :]
                unit += b"\x11\x80" * (unit[0] & 31 in (1, 5))
                parts.append(len(unit).to_bytes(4) + unit)
            if parts:
                longer = av.Packet(b"".join(parts))
                longer.pts, longer.dts, longer.time_base = packet.pts, packet.dts, packet.time_base
                longer.is_keyframe, longer.stream = packet.is_keyframe, stream
                target.mux(longer)
    with Video(path) as clip:
        assert read_indices(clip.frames([39, 17, 0])) == [39, 17, 0]


def test_recordings_that_were_joined_are_whole(tmp_path):
    """Counters begin anew at a joint, which looks like a loss."""
    path = tmp_path / "a.ts"
    parts = []
    for number in range(2):
        stamps = [40 * (24 * number + i) for i in range(24)]
        parts.append(encode(path, 24, options=x264(12), stamps_ms=stamps).read_bytes())
    path.write_bytes(b"".join(parts))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Video(path) as clip:
            assert clip.num_frames == 48
            assert read_indices(clip.frames(range(48))) == [*range(24), *range(24)]


def test_of_two_files_in_one_the_first_is_read(tmp_path):
    path = tmp_path / "a.mkv"
    parts = [
        encode(path, 30, options=x264(gop), draw=lambda i, first=first: painted(first + i)).read_bytes()
        for gop, first in ((12, 0), (7, 30))
    ]
    path.write_bytes(b"".join(parts))
    with pytest.warns(UserWarning, match="damaged or cut short"), Video(path) as clip:
        for index in (8, 16, 2, 24):
            assert read_indices(clip.frames([index])) == [index]


# Fuzzing. Within the compressed data of a frame a changed bit can make other data that is just as lawful, and then no
# decoder can tell. What share of the frames that are read may be wrong for that is stated for each kind of file: hardly
# any where the writer added checksums (Matroska by FFmpeg) or the code is full of words that mean nothing, many where
# each sequence of bits means something (the arithmetic codes of H.264, HEVC and VP9), more so in pictures this small.

# With its macroblock tree x264 writes other bytes for the same frames from one call to the next.
H264 = x264(12, **{"x264-params": "mbtree=0"})
FUZZED = {
    "a.mp4": ({"codec": "libx264", "options": H264}, 0.2),
    "baseline.mp4": ({"codec": "libx264", "options": x264(12, **{"x264-params": "mbtree=0:cabac=0"})}, 0.04),
    "hevc.mp4": ({"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=12"}}, 0.35),
    "a.mkv": ({"codec": "libx264", "options": H264}, 0.005),
    "vp9.mkv": ({"codec": "libvpx-vp9", "options": VP9}, 0.005),
    "a.ts": ({"codec": "libx264", "options": H264}, 0.15),
    "a.avi": ({"codec": "mpeg4", "options": {"g": "12"}}, 0.03),
    "b.avi": ({"codec": "mpeg4", "options": {"g": "12", "bf": "2"}}, 0.03),
    "a.webm": ({"codec": "libvpx-vp9", "options": VP9}, 0.35),
    "a.gif": ({"codec": "gif", "pix_fmt": "rgb8"}, 0.05),
}
NUM_FUZZED_FRAMES = 36
LIMIT_S = 20
# Mean difference to the picture that was written, in grey levels, below which a picture is that one.
CLOSE = 8.0


def mutated(data, draw):
    data = bytearray(data)
    start = draw.randrange(len(data))
    end = min(start + draw.choice([1, 8, 64, 188, 512, 4096, 20_000]), len(data))
    match draw.randrange(7):
        case 0:
            data[start] ^= 1 << draw.randrange(8)
        case 1:
            for _ in range(draw.randrange(2, 30)):
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        case 2:
            data[start:end] = draw.randbytes(end - start)
        case 3:
            data[start:end] = bytes(end - start)
        case 4:
            del data[start:]
        case 5:
            del data[start:end]
        case 6:
            data[start:start] = data[start:end]
    return bytes(data)


def verdicts(path, reference):
    """How many frames were right, wrong, an error; all of them an error where the file cannot be opened."""
    counts = Counter()
    try:
        clip = Video(path)
    except VideoError:
        return Counter(error=NUM_FUZZED_FRAMES)
    with clip:
        for index in range(min(clip.num_frames, 2 * NUM_FUZZED_FRAMES)):
            try:
                picture = clip.frames([index])[:, 0].permute(1, 2, 0).numpy()
            except VideoError:
                counts["error"] += 1
                continue
            number = round(clip.times[index].item() * 25)
            is_right = number < len(reference) and picture.shape == reference[number].shape
            is_right = is_right and np.abs(picture.astype(int) - reference[number]).mean() < CLOSE
            counts["right" if is_right else "wrong"] += 1
    return counts


def work(paths, reference, pipe):
    warnings.simplefilter("ignore")
    for path in paths:
        try:
            pipe.send(verdicts(path, reference))
        except Exception as error:
            pipe.send(repr(error))


def in_other_processes(paths, reference):
    """The verdicts of each file; a string where the process broke down over it, or took too long."""
    context = multiprocessing.get_context("fork")
    answers = []
    while len(answers) < len(paths):
        mine, theirs = context.Pipe()
        process = context.Process(target=work, args=(paths[len(answers) :], reference, theirs), daemon=True)
        process.start()
        theirs.close()
        while len(answers) < len(paths):
            if not mine.poll(LIMIT_S):
                answers.append(f"no answer in {LIMIT_S} s")
                process.kill()
                break
            try:
                answers.append(mine.recv())
            except EOFError:
                process.join()
                answers.append(f"ended by {process.exitcode}")
                break
        process.join()
    return answers


@pytest.mark.parametrize("num_files", [5, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FUZZED)
def test_mutated_files_end_in_errors_or_right_frames(tmp_path, name, num_files, record_property):
    options, may_be_wrong = FUZZED[name]
    path = encode(tmp_path / name, NUM_FUZZED_FRAMES, draw=textured, **options)
    reference = [picture.astype(int) for picture in plain_decode(path)]
    assert [read_index(torch.from_numpy(picture).permute(2, 0, 1)) for picture in reference] == list(range(36))
    draw = random.Random(num_files)
    paths = [tmp_path / f"{number}-{name}" for number in range(num_files)]
    for mutant in paths:
        mutant.write_bytes(mutated(path.read_bytes(), draw))
    began = time.perf_counter()
    answers = in_other_processes(paths, reference)
    assert [answer for answer in answers if isinstance(answer, str)] == []
    total = sum(answers, Counter())
    record_property("fuzz", (name, num_files, dict(total), round(time.perf_counter() - began, 1)))
    if num_files > 5:
        assert total["wrong"] <= may_be_wrong * (total["right"] + total["wrong"]), total
    assert total["right"] > 0
