"""Optical flow of videos, computed once and kept in the cache folder. The one file that imports cv2.

Flow has two channels, how far each pixel moves to the right and down until the next frame, as uint8: 0 is -20 pixels,
127.5 none and 255 is 20, as Simonyan and Zisserman (arXiv 1406.2199), TSN and I3D keep it. Whatever takes clips of two
channels takes flow, and a video of other channels gives it its flow.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from functools import cache
from hashlib import blake2b
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..machine import cache_dir, needs
from ..processes import Failed, alive, each
from ..terminal import progress
from .indexes import footprint
from .transforms import Size, resize_shape
from .video import Video, VideoError

__all__ = ["CHANNELS", "LIMIT", "SHORT_SIDE", "compute", "displacements", "encoded", "open_video"]

CHANNELS = 2
LIMIT = 20.0  # pixels that 255 stands for
SHORT_SIDE = 256  # pixels of the pictures whose flow is computed, at most
QUALITY = 90  # of the JPEGs: with it they are 0.05 pixels off, as much as by rounding to 256 levels
VERSION = "DIS medium 1"  # another one is computed anew

_BLOCK = 16  # frames in memory at a time
_LEAST = 12  # pixels of a side that the method needs
_TIME_LIMIT_S = 120.0  # a process that finishes no frame for so long hangs
_UNFINISHED = "unfinished"
_OFFSET = np.dtype("<i8")
_ABANDONED_S = 3600.0  # without a new picture: whoever made them was killed


def open_video(
    source: str | os.PathLike[str] | np.ndarray | Tensor, fps: float | None, channels: int, *, is_shown: bool = False
) -> Video:
    """The video to cut clips of so many channels from: of two, the optical flow of what has other channels.

    The flow of a video has its frames, times and rate: frame i shows what moves from picture i to picture i + 1, and
    the last frame, after which nothing comes, repeats the one before it. It is read from the cache folder, and computed
    where it is not there; that of an array in memory is computed and not kept.

    Args:
        source: as `Video` takes it.
        fps: as `Video` takes it.
        channels: of the clips.
        is_shown: whether a bar tells how far the computing is.

    Raises:
        VideoError: as in `Video`; or a picture cannot be decoded while the flow is computed.
        ValueError: the cache folder cannot be written, or its disk is full.
        ImportError: flow is to be computed, and OpenCV is not installed.
    """
    video = Video(source, fps)
    if channels != CHANNELS or video.channels == CHANNELS:
        return video
    with video:
        if not isinstance(source, str | os.PathLike):
            return Video(np.stack(list(_pictures(video))).transpose(3, 0, 1, 2), video.fps)
        try:
            return Video(_Flow(video, _kept(video, is_shown=is_shown)))
        except OSError as error:
            reason = error.strerror or error
            raise ValueError(f"{_root()}: {reason}; set TUBELET_CACHE to a folder that can be written") from None


def compute(paths: Iterable[Path], *, workers: int | None = None) -> dict[Path, str]:
    """Compute the flow of what is no flow, in several processes, and keep it; what is kept already is left as it is.

    Args:
        paths: video files, folders of frames, `.npy` files.
        workers: processes; None takes one a core.

    Returns:
        What could not be read, and why.

    Raises:
        ValueError: the cache folder cannot be written, or its disk is full.
        ImportError: OpenCV is not installed.
    """
    _cv2()  # one error rather than one for each video
    paths = list(dict.fromkeys(paths))
    _sweep()
    failed: dict[Path, str] = {}
    done = 0
    with closing(each(_ensure, paths, workers=workers, time_limit_s=_TIME_LIMIT_S)) as answers:
        for path, answer in progress(answers, "optical flow", len(paths)):
            if isinstance(answer, Failed):
                failed[path] = answer.reason if str(path) in answer.reason else f"{path}: {answer.reason}"
            elif answer:
                raise ValueError(
                    f"{_root()}: {answer}; the flow of {done - len(failed)} of {len(paths)} videos is there. Make room "
                    "or set TUBELET_CACHE to a folder on another disk, and the same command goes on"
                )
            done += 1
    return failed


def displacements(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How far each pixel of a picture moves to be where it is in the next one.

    It is the dense inverse search of Kroeger et al. (arXiv 1603.03590) as OpenCV has it, with its medium settings.

    Args:
        before: (H, W) uint8, gray.
        after: (H, W) uint8, gray.

    Returns:
        (H, W, 2) float32, pixels to the right and down.
    """
    height, width = before.shape
    # the method needs a few pixels; what is added at the right and below moves as the edge does
    room = ((0, max(0, _LEAST - height)), (0, max(0, _LEAST - width)))
    pair = (np.pad(picture, room, "edge") for picture in (before, after))
    return _search().calc(*pair, None)[:height, :width]


def encoded(pixels: np.ndarray) -> np.ndarray:
    """Displacements in pixels as uint8, -20..20 as 0..255; what is farther is cut off."""
    return np.rint((pixels + LIMIT) * (255 / (2 * LIMIT))).clip(0, 255).astype(np.uint8)


class _Flow:
    """The kept flow of a video, a source of `Video`, with the video's name and times.

    Its file is a JPEG for each frame, one after another, x above y, as players show it (MJPEG), and then where each
    begins and the last ends, int64. One file of a video takes a tenth of the room of two small ones a frame.
    """

    channels = CHANNELS
    is_damaged = False  # the video has told

    def __init__(self, video: Video, kept: Path) -> None:
        self.path, self.times, self.duration_s = video.path, video.times, video.duration_s
        self.size = _size(video)
        self._file = kept.open("rb")
        end = max(0, kept.stat().st_size - _OFFSET.itemsize * (video.num_frames + 1))
        self._file.seek(end)
        tail = self._file.read()
        self._starts = np.frombuffer(tail[: len(tail) // 8 * 8], _OFFSET).tolist()
        if self._starts[-1:] != [end]:
            raise self._damaged()

    def pictures(self, wanted: Sequence[int]) -> Generator[np.ndarray]:
        """The pictures (H, W, 2), uint8, of these frame indices."""
        cv2 = _cv2()
        for index in wanted:
            self._file.seek(self._starts[index])
            data = np.frombuffer(self._file.read(self._starts[index + 1] - self._starts[index]), np.uint8)
            planes = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
            if planes is None or planes.shape != (2 * self.size[0], self.size[1]):
                raise self._damaged()
            yield planes.reshape(2, *self.size).transpose(1, 2, 0)

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        self._file.close()

    def _damaged(self) -> VideoError:
        return VideoError(f"{self._file.name}: damaged; remove it, and the flow of {self.path} is computed anew")


def _ensure(path: Path) -> str:
    """Have the flow of a video kept; why the cache folder does not take it, or nothing."""
    with Video(path) as video:
        if video.channels != CHANNELS:
            try:
                _kept(video)
            except OSError as error:
                return error.strerror or str(error)
    return ""


def _kept(video: Video, *, is_shown: bool = False) -> Path:
    """The file of a video's flow. Where it is not there it is made, and gets its name when it is whole."""
    place = _place(video)
    if place.exists():
        return place
    cv2 = _cv2()
    aside = _root() / _UNFINISHED / uuid.uuid4().hex
    aside.parent.mkdir(parents=True, exist_ok=True)
    place.parent.mkdir(exist_ok=True)
    try:
        with aside.open("wb") as file:
            starts = [0]
            pictures = _pictures(video)
            for picture in progress(pictures, f"flow of {video.path.name}", video.num_frames) if is_shown else pictures:
                alive()
                planes = picture.transpose(2, 0, 1).reshape(-1, picture.shape[1])
                _, data = cv2.imencode(".jpg", planes, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
                starts.append(starts[-1] + file.write(data))
            file.write(np.array(starts, _OFFSET).tobytes())
        aside.replace(place)
    finally:
        aside.unlink(missing_ok=True)
    return place


def _pictures(video: Video) -> Iterator[np.ndarray]:
    """The flow of each frame, (H, W, 2) uint8."""
    size = _size(video)
    blocks = [range(i, min(i + _BLOCK, video.num_frames)) for i in range(0, video.num_frames, _BLOCK)]
    pictures = chain.from_iterable(clip.unbind(1) for clip in video.clips(blocks, resize=size))
    last = encoded(np.zeros((*size, CHANNELS)))
    for before, after in pairwise(map(_gray, pictures)):
        last = encoded(displacements(before, after))
        yield last
    yield last


def _size(video: Video) -> Size:
    return resize_shape(video.height, video.width, min(video.height, video.width, SHORT_SIDE))


def _gray(picture: Tensor) -> np.ndarray:
    """(C, H, W) uint8 -> (H, W)."""
    planes = picture.numpy()
    if len(planes) == 1:
        return planes[0]
    cv2 = _cv2()
    return cv2.cvtColor(np.ascontiguousarray(planes[:3].transpose(1, 2, 0)), cv2.COLOR_RGB2GRAY)


@cache
def _search() -> Any:
    cv2 = _cv2()
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)


def _cv2() -> Any:
    with needs("flow"):
        import cv2
    # a process that is forked from one whose threads have worked would wait for them forever
    cv2.setNumThreads(1)
    return cv2


def _root() -> Path:
    return cache_dir() / "flow"


def _place(video: Video) -> Path:
    """Where the flow of a video belongs, as it is now."""
    path = video.path.absolute()
    state = f"{VERSION} {SHORT_SIDE} {LIMIT} {QUALITY} {video.num_frames} {footprint(path)} "
    key = blake2b(state.encode() + os.fsencode(path), digest_size=16).hexdigest()
    return _root() / key[:2] / f"{path.stem[:40]}-{key[2:]}.mjpeg"


def _sweep() -> None:
    """Remove what was left unfinished by processes that were killed."""
    for file in (_root() / _UNFINISHED).glob("*"):
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > _ABANDONED_S:
                file.unlink()
