"""Videos of any source: exact frames by index or by time, and writing."""

import os
import re
import reprlib
import warnings
from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from fractions import Fraction
from itertools import chain, islice, pairwise
from math import floor, gcd
from operator import index as as_int
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from ..machine import aside
from .container import File
from .ffmpeg import VideoError, encode, without_password
from .pictures import Array, Folder, is_animated, open_array
from .transforms import check_crop, resize_shape
from .webp import Webp

__all__ = ["Box", "Source", "Video", "VideoError", "write_video"]

Size = tuple[int, int]
Box = tuple[int, int, int, int]  # (top, left, height, width), pixels of the upright picture

# Pictures resized in one call: many small ones, since each call costs something; of large ones no more than the
# processor's cache holds.
_BATCH_BYTES = 2**22

# Two frames are never this close: a time computed in floating point may fall short by a rounding error.
_TIME_TOLERANCE_S = 1e-6

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class Source(Protocol):
    """What a `Video` is read from: a file, a folder of pictures, an array.

    Attributes:
        path: what errors call it.
        times: (num_frames,) float64, seconds from the first frame to each.
        duration_s: seconds from the first frame to the end of the last.
        channels: C of the pictures.
        is_damaged: it breaks off; the frames before the break are there.
    """

    path: Path
    times: Tensor
    duration_s: float
    channels: int
    is_damaged: bool

    @property
    def size(self) -> Size:
        """(height, width) of the pictures, upright."""

    def pictures(self, wanted: Sequence[int]) -> Generator[np.ndarray]:
        """The pictures (H, W, C), uint8 and upright, of these ascending frame indices."""

    def close(self) -> None:
        """Close it. Closing twice is fine."""


class Video:
    """A video, read by frame index or by time: a file, a folder of frames, an array.

    Usable as a context manager; without `with`, call `close()`. Opening a file reads its packets, not its
    pictures; opening a folder reads its names. Pictures come upright (a phone's rotation is applied) and as RGB,
    whatever is stored; a folder of optical flow gives two channels, an array its own.

    Args:
        source: a file of any container and codec of the FFmpeg inside PyAV; a folder of frames (see
            `tubelet.data.pictures.Folder`); an array or tensor (C, T, H, W), or (T, H, W, C), of uint8, or a `.npy`
            file of one, which is memory-mapped; or another `Source`.
        fps: frames a second of a folder or an array, which have no times; None takes 30.

    Attributes:
        path: the file or the folder; "array" for an array.
        num_frames: frames that are displayed, leaving out what an edit list hides.
        times: (num_frames,) float64, seconds from the first frame to each.
        duration_s: seconds from the first frame to the end of the last.
        channels: C of its clips: 3 of a file or a folder of pictures, 2 of flow, an array's own.
        fps: frames a second, the average over the video.

    Raises:
        VideoError: there is no such file, it is not a video with frames, the folder is no sequence of pictures, the
            array has another dtype or shape, or the source is an address.
        ValueError: `fps` is given for a file, which has times of its own, or is not above 0.
        TypeError: the source is none of these.
        ImportError: PyAV is not installed.

    A file that is cut short, or has lost something within, warns once. It offers what is whole; a frame that is not, or
    that refers to what is not, is an error.
    """

    def __init__(
        self, source: str | bytes | os.PathLike | np.ndarray | Tensor | Source, fps: float | None = None
    ) -> None:
        self._source: Source | None = None
        self._source = _source(source, fps)
        self.path = self._source.path
        self.times = self._source.times
        self.duration_s = self._source.duration_s
        self.channels = self._source.channels
        self.num_frames = len(self.times)
        if self._source.is_damaged:
            message = f"{self.path}: the file is damaged or cut short: only {self.num_frames} frames are there"
            warnings.warn(message, stacklevel=2)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Video({str(self.path)!r}, {self.num_frames} frames, {self.fps:.2f} fps)"

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        if self._source is not None:
            self._source.close()
            self._source = None

    @property
    def fps(self) -> float:
        """Frames a second, the average over the file."""
        return self.num_frames / self.duration_s

    @property
    def height(self) -> int:
        """Pixels, after rotation."""
        return self._opened().size[0]

    @property
    def width(self) -> int:
        """Pixels, after rotation."""
        return self._opened().size[1]

    def frames(
        self,
        indices: Sequence[int] | Tensor,
        *,
        box: Box | None = None,
        resize: int | Size | None = None,
        crop: int | Size | None = None,
    ) -> Tensor:
        """Exactly these frames, in this order.

        Args:
            indices: T frame indices from 0, in any order, repeats allowed.
            box: (top, left, height, width) cut out of each picture before the resize, in pixels.
            resize: the short side in pixels, or (height, width), or None for the file's own size.
            crop: (height, width) cut from the centre after the resize; one number is a square.

        Returns:
            (3, T, H, W) uint8, RGB; of flow and arrays (C, T, H, W).

        Raises:
            ValueError: no index, an index outside the video, or a box or a crop that does not fit in the frame.
            TypeError: one index and no list, or an argument of another form.
            VideoError: a frame cannot be decoded, the picture size changes, or the file is no longer what was opened.
        """
        return next(self.clips([indices], box=box, resize=resize, crop=crop))

    def frames_at(
        self,
        times_s: Sequence[float] | Tensor,
        *,
        box: Box | None = None,
        resize: int | Size | None = None,
        crop: int | Size | None = None,
    ) -> Tensor:
        """The frames that are on screen at these times: the last that starts at or before each.

        Args:
            times_s: T times in seconds from the first frame, each in [0, duration_s].
            box: as in `frames`.
            resize: as in `frames`.
            crop: as in `frames`.

        Returns:
            (3, T, H, W) uint8, RGB; of flow and arrays (C, T, H, W).

        Raises:
            ValueError: a time outside the video, and all of `frames`.
            TypeError: one time and no list, and all of `frames`.
            VideoError: as in `frames`.
        """
        times = _times(self.path, times_s)
        outside = ~((times >= -_TIME_TOLERANCE_S) & (times <= self.duration_s + _TIME_TOLERANCE_S))
        if outside.any():
            time_s = times[outside][0].item()
            raise ValueError(f"{self.path}: no frame at {time_s} s; the video runs from 0 to {self.duration_s} s")
        after = torch.searchsorted(self.times, times + _TIME_TOLERANCE_S, right=True)
        return self.frames((after - 1).tolist(), box=box, resize=resize, crop=crop)

    def clips(
        self,
        clips: Sequence[Sequence[int] | Tensor],
        *,
        box: Box | None = None,
        resize: int | Size | None = None,
        crop: int | Size | None = None,
    ) -> Iterator[Tensor]:
        """One tensor for each list of frame indices, in the order given.

        As long as each clip begins no earlier than the one before it, the file is decoded forward once for
        all of them: a frame that several clips share is decoded and resized once and kept until the last of
        them, and a long stretch between clips is jumped over. A clip that begins earlier starts a new pass.

        Args:
            clips: lists of frame indices; each as in `frames`.
            box: as in `frames`.
            resize: as in `frames`.
            crop: as in `frames`.

        Yields:
            (3, T, H, W) uint8 as in `frames`, T of each clip its own.

        Raises:
            ValueError: as in `frames`, before anything is decoded, except for a crop that does not fit.
            TypeError: as in `frames`, before anything is decoded.
            VideoError: as in `frames`.
        """
        source = self._opened()
        resize, crop = (int(each) if isinstance(each, np.integer) else each for each in (resize, crop))
        _check_form("box", box, 4, "(top, left, height, width) in pixels")
        crop = (crop, crop) if isinstance(crop, int) else crop
        _check_form("crop", crop, 2, "(height, width) in pixels, or the side of a square in pixels")
        if not isinstance(resize, int):
            _check_form("resize", resize, 2, "the short side in pixels, or (height, width)")
        if box is not None:
            _check_box(source, box)
        requests = [_indices(self.path, clip) for clip in clips]
        for request in requests:
            self._check(request)
        passes = (_forward(source, group, box, resize, crop) for group in _forward_groups(requests))
        return chain.from_iterable(passes)

    def _check(self, request: list[int]) -> None:
        if not request:
            raise ValueError(f"{self.path}: no frame index given")
        for index in (min(request), max(request)):
            if 0 <= index < self.num_frames:
                continue
            reason = f"frame {index} asked for; the video has frames 0 to {self.num_frames - 1}"
            if index >= 0 and self._opened().is_damaged:
                raise VideoError(f"{self.path}: {reason}, where the damaged file breaks off")
            raise ValueError(f"{self.path}: {reason}")

    def _opened(self) -> Source:
        if self._source is None:
            raise ValueError(f"{self.path}: the video is closed")
        return self._source


def _source(source: str | bytes | os.PathLike | np.ndarray | Tensor | Source, fps: float | None) -> Source:
    if isinstance(source, np.ndarray | Tensor):
        return Array(source, fps)
    if not isinstance(source, str | bytes | os.PathLike):
        if not hasattr(source, "pictures"):
            raise TypeError(f"video {reprlib.repr(source)}; give a path, or an array (C, T, H, W) or (T, H, W, C)")
        return source
    source = os.fsdecode(source)
    if "\0" in source:
        told = reprlib.repr(source)
        raise VideoError(f"{told}: no path has a null byte; give another, or write the bytes of a video to a file")
    if _ADDRESS.match(source):
        raise VideoError(
            f"{without_password(source)}: an address; download the file and give its path, or, if it is live, give the "
            "address to `tubelet predict` or `tubelet.data.camera.Camera`"
        )
    path = Path(source)
    if path.suffix.lower() == ".npy":
        return open_array(path, fps)
    try:
        is_folder = path.is_dir()
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror}") from None
    if is_folder:
        return Folder(path, fps)
    if fps is not None and path.exists():
        raise ValueError(f"{path}: a file has times of its own; fps {fps} is for folders of frames and arrays")
    return Webp(path) if is_animated(path) else File(path)


def _indices(path: Path, clip: Sequence[int] | Tensor) -> list[int]:
    try:
        return [as_int(i) for i in clip]
    except TypeError:
        raise TypeError(f"{path}: frames {reprlib.repr(clip)}; give a list of whole numbers, such as [3]") from None


def _times(path: Path, times_s: Sequence[float] | Tensor) -> Tensor:
    with suppress(TypeError, ValueError, RuntimeError):
        times = torch.as_tensor(times_s, dtype=torch.float64)
        if times.ndim == 1:
            return times
    raise TypeError(f"{path}: times {reprlib.repr(times_s)}; give a list of seconds, such as [1.0]")


def _check_form(name: str, value: Sequence[int] | None, count: int, form: str) -> None:
    """Raise TypeError unless a value is None or so many whole numbers."""
    try:
        is_right = value is None or len([as_int(number) for number in value]) == count
    except TypeError:
        is_right = False
    if not is_right:
        raise TypeError(f"{name} {value!r}; give {form}")


def _check_box(source: Source, box: Box) -> None:
    top, left, height, width = box
    size = source.size
    if not (0 <= top <= top + height <= size[0] and 0 <= left <= left + width <= size[1] and height and width):
        raise ValueError(
            f"{source.path}: box (top, left, height, width) {box} does not lie in the frame of "
            f"{size[0]}x{size[1]} (height x width)"
        )


def _forward(
    source: Source, clips: list[list[int]], box: Box | None, resize: int | Size | None, crop: Size | None
) -> Iterator[Tensor]:
    """Clips of one pass over the source."""
    last_use = {index: number for number, clip in enumerate(clips) for index in clip}
    wanted = sorted(last_use)
    kept: dict[int, Tensor] = {}
    done = 0
    with closing(source.pictures(wanted)) as pictures:
        for number, clip in enumerate(clips):
            needed = max(done, bisect_right(wanted, max(clip)))
            new = _fitted(islice(pictures, needed - done), box, resize, crop)
            kept.update(zip(wanted[done:needed], new, strict=True))
            done = needed
            yield torch.stack([kept[index] for index in clip], dim=1)
            for index in set(clip):
                if last_use[index] == number:
                    del kept[index]


def _forward_groups(clips: list[list[int]]) -> Iterator[list[list[int]]]:
    """Runs of clips, cut where a clip begins earlier than the one before it."""
    group: list[list[int]] = []
    for clip in clips:
        if group and min(clip) < min(group[-1]):
            yield group
            group = []
        group.append(clip)
    if group:
        yield group


def _fitted(
    pictures: Iterator[np.ndarray], box: Box | None, size: int | Size | None, crop: Size | None
) -> Iterator[Tensor]:
    """Each picture (H, W, C) boxed, resized and cropped: (C, h, w) uint8."""
    for batch in _batches(pictures):
        if box is not None:
            top, left, height, width = box
            batch = [picture[top : top + height, left : left + width] for picture in batch]
        sides = batch[0].shape[0], batch[0].shape[1]
        resized = resize_shape(*sides, size)
        cropped = crop or resized
        check_crop(*resized, cropped)
        rows, columns = (_part(*each) for each in zip(sides, resized, cropped, strict=True))
        parts = [picture[rows.first :, columns.first :] for picture in batch]
        # one alone is not copied where torch can take it as it is
        array = np.stack(parts) if len(parts) > 1 else np.require(parts[0], requirements=["C", "W"])[None]
        images = torch.from_numpy(array).permute(0, 3, 1, 2)
        if resized != sides:
            # what F.interpolate calls, which cannot be told both the size and the scale
            size_and_scales = (rows.size, columns.size), False, rows.scale, columns.scale
            images = torch.ops.aten._upsample_bilinear2d_aa(images, *size_and_scales)
        yield from images[:, :, rows.crop, columns.crop]


class _Part(NamedTuple):
    """Of one side of a picture, what a centre crop after the resize needs."""

    first: int  # pixel before the resize
    size: int  # pixels after it, from there on
    scale: float | None  # pixels after by pixels before; None: as many times as the sizes tell
    crop: slice  # of the pixels after it


def _part(side: int, resized: int, crop: int) -> _Part:
    """Less of the side, such that the crop is to the bit what it is after a resize of the whole.

    It begins where a pixel before the resize and one after it begin at the same place, and leaves the
    antialiasing filter all that it reaches from the crop.
    """
    if crop == resized:
        return _Part(0, resized, None, slice(0, crop))
    before = (resized - crop) // 2
    scale = resized / side
    reach = max(1.0, 1 / scale) + 0.5  # of the filter, in pixels before the resize
    step = resized // gcd(side, resized)
    start = max(0, floor(before + 0.5 - reach * scale)) // step * step
    first, last = start * side // resized, before + crop - start
    # a side whose size stays the same is not resized, whatever the scale
    return _Part(first, last + (last == side - first), scale, slice(before - start, last))


def _batches(pictures: Iterator[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Pictures in lists of about `_BATCH_BYTES`."""
    batch: list[np.ndarray] = []
    for picture in pictures:
        batch.append(picture)
        if len(batch) * picture.nbytes >= _BATCH_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[Tensor],
    fps: float,
    *,
    times_s: Sequence[float] | Tensor | None = None,
    crf: int = 18,
    gop: int = 12,
) -> None:
    """Write frames as an H.264 mp4 (yuv420p), which every player and browser shows.

    The file appears under its name when it is complete: an interrupted write leaves nothing there.

    Args:
        path: the file, ending in .mp4; an existing one is replaced.
        frames: (3, H, W) uint8 RGB, all of one size, H and W even.
        fps: frames a second; the average of them where `times_s` is given.
        times_s: (T,) seconds of each frame, rising from 0, for a video of varying rate; None: they follow evenly.
        crf: constant quality, from 0 (lossless) to 51; 18 looks like the original.
        gop: frames from one keyframe to the next, at most; fewer make random reading faster, the file larger.

    Raises:
        ValueError: no frame, or a frame of another dtype, shape or size; fps not above 0; times that do not rise, or
            fewer or more than frames.
        VideoError: the file cannot be written there, or its name does not end in .mp4.
        ImportError: PyAV is not installed.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise VideoError(f"{path}: written as mp4; let the name end in .mp4")
    if fps <= 0:
        raise ValueError(f"fps {fps}; it must be above 0")
    times = None if times_s is None else [float(time) for time in times_s]
    if times and any(after <= before for before, after in pairwise(times)):
        raise ValueError(f"times_s of {path}: a frame must come after the one before it")
    pictures = _even_pictures(frames, None if times is None else len(times))
    # With its macroblock tree x264 writes other bytes for the same small frames from one call to the next.
    options = {"crf": str(crf), "g": str(gop), "mbtree": "0"}
    try:
        with aside(path) as made:
            encode(made, pictures, Fraction(fps).limit_denominator(10_000), options, times)
    except OSError as error:
        raise VideoError(f"{path}: cannot be written ({error})") from None


def _other_form(frames: Iterable[Tensor], number: int, frame: Any) -> str:
    """What a frame is in place of (3, H, W) uint8, and what makes it that."""
    if not isinstance(frame, Tensor):
        what = getattr(frame, "shape", "")
        return f"frame {number} is {type(frame).__name__} {what}; write tensors (3, H, W), such as of torch.from_numpy"
    is_one = isinstance(frames, Tensor)
    given: Any = frames if is_one else frame
    name = "the tensor" if is_one else f"frame {number}"
    shape = tuple(given.shape)
    told = f"{name} is {given.dtype} {shape}; write (3, H, W) of torch.uint8"
    if given.dtype != torch.uint8 or len(shape) not in (3, 4) or 3 not in (shape[0], shape[-1]):
        return told
    if shape[0] == 3:
        return told + (": clip.unbind(1) of a clip (3, T, H, W)" if len(shape) == 4 else ": [picture] of one picture")
    fix = "frames.permute(0, 3, 1, 2)" if len(shape) == 4 else "picture.permute(2, 0, 1)"
    return f"{told}: {fix} puts the channels first"


def _even_pictures(frames: Iterable[Tensor], num_frames: int | None) -> Iterator[np.ndarray]:
    """Checked frames as (H, W, 3) arrays, as many as there are times."""
    shape: tuple[int, ...] | None = None
    number = -1
    for number, frame in enumerate(frames):
        if number == num_frames:
            raise ValueError(f"times_s has {num_frames} times, and there are more frames")
        if not isinstance(frame, Tensor) or frame.dtype != torch.uint8 or frame.ndim != 3 or frame.shape[0] != 3:
            raise ValueError(_other_form(frames, number, frame))
        if frame.shape[1] % 2 or frame.shape[2] % 2 or not frame.numel():
            raise ValueError(
                f"frame {number} is {frame.shape[1]}x{frame.shape[2]} (height x width); "
                f"H.264 in yuv420p needs even sides: crop or resize by one pixel"
            )
        shape = shape or tuple(frame.shape)
        if tuple(frame.shape) != shape:
            raise ValueError(f"frame {number} is {tuple(frame.shape)} where the first is {shape}")
        yield np.ascontiguousarray(frame.detach().cpu().permute(1, 2, 0).numpy())
    if shape is None:
        raise ValueError("no frames to write")
    if num_frames is not None and number + 1 < num_frames:
        raise ValueError(f"times_s has {num_frames} times for {number + 1} frames")
