"""Live sources: what is seen is now, what is not taken goes, and nothing waits for ever."""

import gc
import math
import socket
import threading
import time
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("av")

from streams import BOUNDARY, mjpeg, mpegts, number_of, serve

from tubelet.data import camera
from tubelet.data.camera import Camera, is_live
from tubelet.data.video import VideoError, write_video


def finished(opened: Camera) -> Camera:
    """The camera, when its thread has read the whole of the stream."""
    opened._thread.join(20)
    assert not opened._thread.is_alive()
    return opened


def test_each_frame_of_a_stream():
    with serve(mpegts(40)) as url, Camera(url) as opened:
        assert (opened.height, opened.width) == (48, 64)
        frames = list(opened)
        assert [number_of(picture) for picture, _ in frames] == list(range(40))
        assert frames[0][0].shape == (3, 48, 64) and frames[0][0].dtype == torch.uint8
        times = [time_s for _, time_s in frames]
        assert times == sorted(times) and times[-1] <= time.monotonic()
        assert opened.dropped == 0


def test_a_slow_taker_gets_the_newest_and_knows_what_it_missed():
    with serve(mpegts(40)) as url, Camera(url, buffer=5) as opened:
        finished(opened)
        assert opened.dropped == 35
        assert [number_of(picture) for picture, _ in opened] == [35, 36, 37, 38, 39]
        assert opened.dropped == 35
        assert opened.read() is None


def test_newest_frames():
    with serve(mpegts(40)) as url, Camera(url, buffer=8) as opened:
        clip, times = finished(opened).read(6)
        assert clip.shape == (3, 6, 48, 64) and times.shape == (6,) and times.dtype == torch.float64
        assert [number_of(picture) for picture in clip.unbind(1)] == list(range(34, 40))
        assert opened.dropped == 34
        assert opened.lag_s == pytest.approx(time.monotonic() - times[-1].item(), abs=0.5)
        assert opened.read(6) is None
        for wrong in (0, 9):
            with pytest.raises(ValueError, match=f"num_frames {wrong}; the buffer holds 1 to 8"):
                opened.read(wrong)


def test_windows_may_overlap_and_wait_for_what_is_new():
    with serve(mpegts(30, fps=50, is_paced=True)) as url, Camera(url, buffer=10) as opened:
        ends = []
        while (window := opened.read(10, new=5)) is not None:
            numbers = [number_of(picture) for picture in window[0].unbind(1)]
            assert numbers == list(range(numbers[0], numbers[0] + 10))
            ends.append(numbers[-1])
        assert all(later - end >= 5 for end, later in pairwise(ends[:-1]))
        assert ends[-1] == 29


def test_a_time_to_wait_for():
    with serve(mpegts(30, fps=50, is_paced=True)) as url, Camera(url, buffer=10) as opened:
        _, times = opened.read(2)
        _, later = opened.read(2, after_s=times[-1].item() + 0.1)
        assert later[-1] >= times[-1] + 0.1


def test_frames_are_resized_in_the_thread():
    with serve(mpegts(5)) as url, Camera(url, resize=24) as opened:
        assert (opened.height, opened.width) == (24, 32)
        assert [number_of(picture) for picture, _ in opened] == list(range(5))


def test_a_camera_that_sends_jpgs():
    with serve(mjpeg([(48, 64)] * 12), BOUNDARY) as url, Camera(url) as opened:
        assert number_of(opened.read()[0]) < 12
        clip, times = finished(opened).read(5)
        numbers = [number_of(picture) for picture in clip.unbind(1)]
        assert numbers == list(range(numbers[0], numbers[0] + 5)) and numbers[-1] >= 9
        assert (times.diff() > 0).all()


def taken(opened: Camera) -> tuple[int, str]:
    """Frames until the stream breaks off, and why."""
    count = 0
    with pytest.raises(VideoError, match=r"http://127\.0\.0\.1:\d+/live: ") as caught:
        for _ in opened:
            count += 1
    return count, str(caught.value)


def test_a_picture_of_another_size_is_an_error():
    with serve(mjpeg([(48, 64)] * 6 + [(32, 64)] * 6), BOUNDARY) as url, Camera(url) as opened:
        count, error = taken(opened)
        assert count == 6 and "the size of the picture changes" in error


def test_a_stream_that_breaks_off_gives_what_came():
    with serve(mpegts(20), says_end=False) as url, Camera(url) as opened:
        count, error = taken(opened)
        assert count == 20 and "the stream broke off" in error


def test_a_stream_that_falls_silent():
    resume = threading.Event()
    with serve(mpegts(40, then=resume.wait)) as url, Camera(url, timeout_s=0.5) as opened:
        count, error = taken(opened)
        assert count >= 35 and "no data for 0.5 s" in error  # what the server's muxer holds back never comes
        resume.set()


def test_a_server_that_never_answers():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for scheme in ("http", "rtsp"):
            with pytest.raises(VideoError, match=rf"{scheme}://127\.0\.0\.1:\d+/live: no data for 0\.5 s"):
                Camera(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/live", timeout_s=0.5)


@pytest.mark.parametrize("scheme", ["http", "rtsp", "tcp"])
def test_no_server(scheme):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(VideoError, match=rf"^{scheme}://me@127\.0\.0\.1:{port}/live: cannot be opened \(") as caught:
        Camera(f"{scheme}://me:secret@127.0.0.1:{port}/live", timeout_s=2)
    assert "secret" not in str(caught.value)


def test_nobody_sends():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(VideoError, match=rf"udp://127\.0\.0\.1:{port}: no data for 0\.5 s"):
        Camera(f"udp://127.0.0.1:{port}", timeout_s=0.5)


def test_what_is_no_video():
    with (
        serve(lambda out: out.write(b"no video, but a page of text\n" * 200), "text/plain") as url,
        pytest.raises(VideoError, match=r"http://.*/live: "),
    ):
        Camera(url, timeout_s=2)


def test_a_file_at_an_address_is_not_live(tmp_path):
    write_video(tmp_path / "a.mp4", torch.zeros(10, 3, 48, 64, dtype=torch.uint8), 25)
    data = (tmp_path / "a.mp4").read_bytes()
    with serve(lambda out: out.write(data), "video/mp4") as url, pytest.raises(VideoError, match="download it"):
        Camera(url)


def test_a_camera_that_is_not_there(monkeypatch):
    monkeypatch.setattr(camera.sys, "platform", "linux")
    with pytest.raises(VideoError, match=r"camera 99: no such device /dev/video99; on this machine there are: \S+"):
        Camera(99)


def test_devices_of_other_systems(monkeypatch):
    monkeypatch.setattr(camera, "cameras", lambda form: ["front", "back"])
    monkeypatch.setattr(camera.sys, "platform", "win32")
    assert camera._address("1") == ("video=back", "dshow", {})
    with pytest.raises(VideoError, match="camera 2: no such device; there are 2: front, back"):
        camera._address(2)
    monkeypatch.setattr(camera.sys, "platform", "darwin")
    assert camera._address(0)[:2] == ("0:none", "avfoundation")


def test_a_file_is_played_at_its_own_rate(tmp_path):
    write_video(tmp_path / "a.mp4", torch.zeros(12, 3, 48, 64, dtype=torch.uint8), 25)
    with Camera(tmp_path / "a.mp4") as opened:
        times = [time_s for _, time_s in opened]
    # 11 frames of 0.04 s: never sooner, however quick the reader
    assert len(times) == 12 and times[-1] - times[0] >= 11 * 0.04 - 0.01


def test_what_is_live(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source in (0, "0", "12", "/dev/video0", "rtsp://host/live", "HTTPS://host/a.m3u8", "udp://127.0.0.1:1234"):
        assert is_live(source)
    (tmp_path / "12").mkdir()
    for source in ("12", "a.mp4", tmp_path, tmp_path / "0", "http", "file://a.mp4", None, torch.zeros(1)):
        assert not is_live(source)
    for source in ("a.mp4", True):
        with pytest.raises(ValueError, match=rf"^{source}: no camera or stream; give 0"):
            Camera(source)


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"buffer": 0}, {"timeout_s": -1}])
def test_numbers_out_of_range(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} {value}; it must be above 0"):
        Camera(0, **wrong)


def test_a_buffer_of_whole_frames():
    with pytest.raises(ValueError, match=r"buffer 2\.5 must be a whole number"):
        Camera(0, buffer=2.5)


def test_closing_ends_the_thread():
    with serve(mpegts(1000, is_paced=True)) as url:
        opened = Camera(url)
        thread = opened._thread
        opened.close()
        opened.close()
        thread.join(5)
        assert not thread.is_alive()
        with pytest.raises(ValueError, match="the camera is closed"):
            opened.read()


def test_a_camera_nobody_holds_is_closed():
    with serve(mpegts(1000, is_paced=True)) as url:
        opened = Camera(url)
        thread = opened._thread
        del opened
        gc.collect()
        thread.join(5)
        assert not thread.is_alive()


@given(st.floats(1, 120), st.floats(1, 120), st.floats(0, 0.2), st.randoms())
def test_frames_are_kept_evenly(source_fps, fps, jitter, draw):
    pace, seconds = camera._Pace(1 / fps), 5
    times = [(i + jitter * draw.random()) / source_fps for i in range(int(seconds * source_fps))]
    kept = [time_s for time_s in times if pace.keeps(time_s)]
    expected = min(fps, source_fps) * seconds
    assert expected * 0.9 - 3 <= len(kept) <= expected * 1.02 + 2
    if source_fps >= fps:
        slack = 1.5 / source_fps + 0.25 / fps
        assert all(1 / fps - slack <= b - a <= 1 / fps + slack for a, b in pairwise(kept))


def test_no_pace_keeps_all():
    pace = camera._Pace(0.0)
    assert all(pace.keeps(time_s) for time_s in (0.0, 0.0, 0.1, 0.1, 5.0))


@given(st.lists(st.tuples(st.floats(1e-3, 1), st.floats(0, 3)), min_size=1, max_size=50), st.floats(-1e6, 1e6))
def test_times_of_capture_are_those_of_the_least_delay(frames, shift):
    """Whatever the source's clock shows and however late a frame is: times rise, and none is in the future."""
    clock, stamp_s, now_s, last_s, least = camera._Clock(), 0.0, 0.0, -math.inf, math.inf
    for passed_s, delay_s in frames:
        stamp_s += passed_s
        now_s = max(now_s, stamp_s + delay_s)  # none overtakes another
        time_s = clock.captured_s(stamp_s + shift, now_s)
        least = min(least, now_s - stamp_s)
        assert last_s - 1e-6 <= time_s <= now_s + 1e-6
        assert time_s - stamp_s == pytest.approx(least, abs=1e-4 * stamp_s + 1e-6)
        last_s = time_s


def test_a_source_that_begins_again():
    clock = camera._Clock()
    assert clock.captured_s(100.0, 7.0) == 7.0
    assert clock.captured_s(100.5, 7.8) == pytest.approx(7.5, abs=1e-3)
    assert clock.captured_s(0.0, 8.0) == 8.0
