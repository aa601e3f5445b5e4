"""Live sources: a camera or a stream, read by a thread of its own, so that what is seen is now."""

import math
import re
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Condition, Thread
from types import TracebackType
from typing import NamedTuple, Self, TypeGuard

import torch
from torch import Tensor

from ..spec import whole_numbers
from .ffmpeg import Live, VideoError, cameras, live, without_password
from .transforms import Size
from .transforms import resize as resized

__all__ = ["Camera", "is_live"]

# Seconds that a source's clock may lose against ours in a second, and still no delay is seen in it.
_DRIFT = 1e-4

# Seconds that closing waits for one more frame, so that a camera can be opened again at once.
_PARTING_S = 0.5

_STREAM = re.compile(r"(rtsp|rtsps|rtmp|http|https|udp|tcp|srt|rtp)://", re.IGNORECASE)


def is_live(source: object) -> TypeGuard[int | str]:
    """Whether a source is a camera or a stream: `0`, "0", "/dev/video0", "rtsp://...", and no file of that name."""
    if isinstance(source, int):
        return True
    if not isinstance(source, str):
        return False
    if _STREAM.match(source) or source.startswith("/dev/video"):
        return True
    return source.isdecimal() and not Path(source).exists()


class Camera:
    """A camera or a stream. A thread reads it as fast as it comes; when nobody takes the frames, the oldest go.

    Usable as a context manager; without `with`, call `close()`. Opening waits for the first frame. Iterating gives each
    frame, `(3, H, W)` uint8 RGB, and the time of its capture, oldest first; `read` gives the newest ones.
    Both end with the stream.

    Args:
        source: the number of a camera, "/dev/video0", or an address (`rtsp://`, `http://`, `https://`, `udp://`, ...).
            A video file is played as if it were live, at its own rate.
        fps: frames to keep of a second, evenly, at most; None keeps all.
        resize: the short side in pixels, or (height, width), or None for the source's own size.
        buffer: frames that wait to be taken, at most.
        timeout_s: seconds without a frame that are an error.

    Attributes:
        name: the source, without a password in its address.
        height: of the frames, pixels.
        width: of the frames, pixels.

    Raises:
        VideoError: there is no such camera, or nothing answers, or what answers is no live video.
        ValueError: the source is neither, or a number is out of its range.
        ImportError: PyAV is not installed.
    """

    def __init__(
        self,
        source: int | str | Path,
        *,
        fps: float | None = None,
        resize: int | Size | None = None,
        buffer: int = 64,
        timeout_s: float = 5.0,
    ) -> None:
        self._feed: _Feed | None = None
        is_played = not is_live(source) and Path(str(source)).is_file()
        if isinstance(source, bool) or not (is_live(source) or is_played):
            raise ValueError(f"{source}: no camera or stream; give 0, /dev/video0, or an address such as rtsp://...")
        for what, value in {"fps": fps, "buffer": buffer, "timeout_s": timeout_s}.items():
            if value is not None and not value > 0:
                raise ValueError(f"{what} {value}; it must be above 0")
        whole_numbers(buffer=buffer)
        self.name = without_password(str(source))
        if self.name.isdecimal():
            self.name = f"camera {source}"
        address = (str(source), None, {}) if is_played else _address(str(source))
        every_s = 0.0 if fps is None else 1 / fps
        # The thread has a timeout of its own, which comes first and says more.
        # a file may show a picture for long, and its end is always told
        self._patience_s = None if is_played else 3 * timeout_s + every_s
        self._feed = feed = _Feed(deque(maxlen=buffer))
        self._given = self._dropped = 0
        self._newest_s = time.monotonic()
        frames = live(self.name, *address, timeout_s)
        arguments = (feed, self.name, _played(frames) if is_played else frames, every_s, resize)
        self._thread = Thread(target=_capture, args=arguments, daemon=True, name=self.name)
        self._thread.start()
        try:
            with feed.changed:
                while not (feed.frames or feed.has_ended):
                    self._wait(feed)
        except BaseException:
            self.close()
            raise
        if not feed.frames:
            raise feed.error or VideoError(f"{self.name}: ended without a frame")
        self.height, self.width = feed.frames[0].picture.shape[1:]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[Tensor, float]]:
        while frames := self._take(1, is_newest=False):
            yield frames[0].picture, frames[0].time_s

    def read(self, num_frames: int = 1, new: int = 1, after_s: float = -math.inf) -> tuple[Tensor, Tensor] | None:
        """The newest frames, one after the other as they were captured. It waits for them.

        Args:
            num_frames: T.
            new: frames that must have come since the last that was given.
            after_s: time of capture that the newest must have reached.

        Returns:
            (3, T, H, W) uint8 and (T,) float64, the times of capture on the clock of `time.monotonic()`; None when the
            stream has ended.

        Raises:
            VideoError: the source broke off, or no frame comes.
            ValueError: more frames than the buffer holds, or the camera is closed.
        """
        buffer = self._opened().frames.maxlen or 0
        if not 1 <= num_frames <= buffer:
            raise ValueError(f"num_frames {num_frames}; the buffer holds 1 to {buffer}: open with buffer={num_frames}")
        frames = self._take(num_frames, is_newest=True, new=new, after_s=after_s)
        if not frames:
            return None
        times = torch.tensor([frame.time_s for frame in frames], dtype=torch.float64)
        return torch.stack([frame.picture for frame in frames], 1), times

    @property
    def dropped(self) -> int:
        """Frames that nobody took in time."""
        feed = self._opened()
        with feed.changed:
            return self._dropped + max(0, feed.count - len(feed.frames) - self._given)

    @property
    def lag_s(self) -> float:
        """Seconds since the newest frame that was given was captured."""
        return time.monotonic() - self._newest_s

    def close(self) -> None:
        """Let go of the camera, with the next frame that comes or at the timeout. Closing twice is fine."""
        if self._feed is not None:
            self._feed.is_wanted = False
            self._feed = None
            self._thread.join(_PARTING_S)

    def _opened(self) -> "_Feed":
        if self._feed is None:
            raise ValueError(f"{self.name}: the camera is closed")
        return self._feed

    def _take(self, num_frames: int, *, is_newest: bool, new: int = 1, after_s: float = -math.inf) -> list["_Frame"]:
        """So many frames that follow one another; none when the stream has ended."""
        feed = self._opened()
        with feed.changed:
            while not feed.has_ended and not feed.holds(num_frames, self._given + new, after_s):
                self._wait(feed)
            if not feed.holds(num_frames, self._given + 1, -math.inf):
                if feed.error:
                    raise feed.error
                return []
            oldest = feed.count - len(feed.frames)
            first = feed.count - num_frames if is_newest else max(self._given, oldest)
            frames = list(islice(feed.frames, first - oldest, first - oldest + num_frames))
            self._dropped += max(0, first - self._given)
            self._given = first + num_frames
        self._newest_s = frames[-1].time_s
        return frames

    def _wait(self, feed: "_Feed") -> None:
        if not feed.changed.wait(self._patience_s):
            raise VideoError(f"{self.name}: no frame for {self._patience_s:g} s")


class _Frame(NamedTuple):
    picture: Tensor
    time_s: float


@dataclass
class _Feed:
    """What the thread and the taker share."""

    frames: deque[_Frame]  # the newest ones
    count: int = 0  # frames that ever were among them
    has_ended: bool = False
    error: Exception | None = None
    is_wanted: bool = True
    changed: Condition = field(default_factory=Condition)

    def holds(self, num_frames: int, count: int, time_s: float) -> bool:
        """Whether so many frames are there, so many have come, and the newest is of this time or later."""
        return len(self.frames) >= num_frames and self.count >= count and self.frames[-1].time_s >= time_s

    def put(self, frame: _Frame) -> None:
        with self.changed:
            self.frames.append(frame)
            self.count += 1
            self.changed.notify_all()

    def end(self, error: Exception | None = None) -> None:
        with self.changed:
            self.has_ended, self.error = True, error
            self.changed.notify_all()


def _capture(feed: _Feed, name: str, frames: Live, every_s: float, size: int | Size | None) -> None:
    """The thread. It knows the feed alone, so that a camera that nobody holds any more is closed."""
    clock, pace = _Clock(), _Pace(every_s)
    shape: torch.Size | None = None
    try:
        with closing(frames):
            for stamp_s, picture in frames:
                if not feed.is_wanted:
                    return
                time_s = clock.captured_s(stamp_s, time.monotonic())
                if not pace.keeps(time_s):
                    continue
                clip = torch.from_numpy(picture()).permute(2, 0, 1)[:, None]
                small = resized(clip, size)[:, 0].contiguous()
                shape = shape or small.shape
                if small.shape != shape:
                    raise VideoError(f"{name}: the size of the picture changes; open it again")
                feed.put(_Frame(small, time_s))
        feed.end()
    except Exception as error:  # told to whoever takes the next frame
        feed.end(error)


def _played(frames: Live) -> Live:
    """Frames of a file at its own rate."""
    with closing(frames):
        start_s = None
        for stamp_s, picture in frames:
            start_s = time.monotonic() - stamp_s if start_s is None else start_s
            time.sleep(max(0.0, start_s + stamp_s - time.monotonic()))
            yield stamp_s, picture


@dataclass
class _Clock:
    """When a frame was captured, on our clock, from what its source stamped on it.

    Nobody tells the difference between the two clocks. The frame that was least on its way shows it best.
    """

    difference_s: float = math.inf
    last_s: float = -math.inf

    def captured_s(self, stamp_s: float, now_s: float) -> float:
        passed_s, self.last_s = stamp_s - self.last_s, stamp_s
        known_s = self.difference_s + _DRIFT * passed_s if passed_s > 0 else math.inf  # else it has begun again
        self.difference_s = min(known_s, now_s - stamp_s)
        return stamp_s + self.difference_s


@dataclass
class _Pace:
    """Which frames to keep so that they are at least `every_s` seconds apart, evenly; each may come a quarter early."""

    every_s: float
    due_s: float | None = None

    def keeps(self, time_s: float) -> bool:
        due_s = time_s if self.due_s is None else self.due_s
        if time_s < due_s - self.every_s / 4:
            return False
        self.due_s = max(due_s + self.every_s, time_s + self.every_s / 2)
        return True


def _address(source: int | str) -> tuple[str, str | None, dict[str, str]]:
    """What FFmpeg opens, the kind of device, and its options."""
    text = str(source)
    if _STREAM.match(text):
        # Over UDP, FFmpeg's first choice for rtsp, lost packets smear the picture.
        return text, None, {"rtsp_transport": "tcp", "analyzeduration": "500000", "overrun_nonfatal": "1"}
    if sys.platform == "darwin":
        return f"{text}:none", "avfoundation", {"framerate": "30"}
    if sys.platform == "win32":
        names = cameras("dshow")
        if not 0 <= int(text) < len(names):
            raise VideoError(f"camera {text}: no such device; there are {len(names)}: {', '.join(names)}")
        return f"video={names[int(text)]}", "dshow", {}
    device = Path(text if text.startswith("/dev/") else f"/dev/video{text}")
    if not device.exists():
        known = ", ".join(str(path) for path in sorted(Path("/dev").glob("video*"))) or "none (no /dev/video*)"
        raise VideoError(f"camera {text}: no such device {device}; on this machine there are: {known}")
    return str(device), "v4l2", {}
