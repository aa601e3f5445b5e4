"""Video files: exact frames by index or by time, and writing. The one file that imports PyAV.

A file is described by its packets alone, without decoding: their timestamps give every frame its index, and
the keyframes among them say where decoding may start. Reading then decodes forward from the last keyframe,
converts only the wanted frames, and checks that each of them arrived under its own timestamp.
"""

import os
import uuid
import warnings
from bisect import bisect_right
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice, pairwise
from operator import index as as_int
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from ..machine import needs
from .transforms import center_crop, resize

if TYPE_CHECKING:
    import av

__all__ = ["Video", "VideoError", "write_video"]

# Codecs whose non-reference frames can be left undecoded without changing a bit of the other frames.
# Elsewhere it saves nothing (VP9, all-intra) or loses frames (AV1).
_SKIPPABLE = frozenset({"h264", "hevc", "mpeg4"})

# Frames between the last wanted one and the next keyframe that make a seek cheaper than decoding on.
_SEEK_GAP = 12

# Frames resized in one call. More is no faster, and every one is held at its full size.
_BATCH = 16

# Two frames are never this close: a time computed in floating point may fall short by a rounding error.
_TIME_TOLERANCE_S = 1e-6


class VideoError(ValueError):
    """A video file that cannot be read or written: its path, the reason, and the fix where there is one."""


class Video:
    """A video file, read by frame index or by time.

    Usable as a context manager; without `with`, call `close()`. Opening reads the packets of the file, not
    its pictures. Pictures come upright (a phone's rotation is applied) and as RGB, whatever the file holds.

    Args:
        path: a file of any container and codec of the FFmpeg inside PyAV.

    Attributes:
        path: the file.
        num_frames: frames that are displayed, leaving out what an edit list hides.
        times: (num_frames,) float64, seconds from the first frame to each.
        duration_s: seconds from the first frame to the end of the last.
        fps: frames a second, the average over the file.

    Raises:
        VideoError: there is no such file, or it is not a video with frames.
        ImportError: PyAV is not installed.

    A file that breaks off warns once and offers the frames before the break.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._idle: _Source | None = None
        self._closed = False
        self._size: tuple[int, int] | None = None
        self.path = Path(path)
        self._idle = _Source(self.path)
        try:
            self._index = _scan(self._idle)
        except BaseException:
            self.close()
            raise
        if self._index.is_damaged:
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
        self._closed = True
        if self._idle is not None:
            self._idle.close()
            self._idle = None

    @property
    def num_frames(self) -> int:
        """Frames that are displayed."""
        return len(self._index.pts)

    @property
    def times(self) -> Tensor:
        """(num_frames,) float64, seconds from the first frame to each."""
        return self._index.times

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the end of the last."""
        return self._index.duration_s

    @property
    def fps(self) -> float:
        """Frames a second, the average over the file."""
        return self.num_frames / self.duration_s

    @property
    def height(self) -> int:
        """Pixels, after rotation. The first use decodes a frame if none has been read yet."""
        return self._picture_size()[0]

    @property
    def width(self) -> int:
        """Pixels, after rotation. The first use decodes a frame if none has been read yet."""
        return self._picture_size()[1]

    def frames(
        self,
        indices: Sequence[int] | Tensor,
        *,
        resize: int | tuple[int, int] | None = None,
        crop: tuple[int, int] | None = None,
    ) -> Tensor:
        """Exactly these frames, in this order.

        Args:
            indices: T frame indices from 0, in any order, repeats allowed.
            resize: the short side in pixels, or (height, width), or None for the file's own size.
            crop: (height, width) cut from the centre after the resize.

        Returns:
            (3, T, H, W) uint8, RGB.

        Raises:
            ValueError: no index, an index outside the video, or a crop larger than the frame.
            VideoError: a frame cannot be decoded, or the picture size changes.
        """
        return next(self.clips([indices], resize=resize, crop=crop))

    def frames_at(
        self,
        times_s: Sequence[float] | Tensor,
        *,
        resize: int | tuple[int, int] | None = None,
        crop: tuple[int, int] | None = None,
    ) -> Tensor:
        """The frames that are on screen at these times: the last that starts at or before each.

        Args:
            times_s: T times in seconds from the first frame, each in [0, duration_s].
            resize: as in `frames`.
            crop: as in `frames`.

        Returns:
            (3, T, H, W) uint8, RGB.

        Raises:
            ValueError: a time outside the video, and all of `frames`.
            VideoError: as in `frames`.
        """
        times = torch.as_tensor(times_s, dtype=torch.float64)
        outside = ~((times >= -_TIME_TOLERANCE_S) & (times <= self.duration_s + _TIME_TOLERANCE_S))
        if outside.any():
            time_s = times[outside][0].item()
            raise ValueError(f"{self.path}: no frame at {time_s} s; the video runs from 0 to {self.duration_s} s")
        after = torch.searchsorted(self.times, times + _TIME_TOLERANCE_S, right=True)
        return self.frames((after - 1).tolist(), resize=resize, crop=crop)

    def clips(
        self,
        clips: Sequence[Sequence[int] | Tensor],
        *,
        resize: int | tuple[int, int] | None = None,
        crop: tuple[int, int] | None = None,
    ) -> Iterator[Tensor]:
        """One tensor for each list of frame indices, in the order given.

        As long as each clip begins no earlier than the one before it, the file is decoded forward once for
        all of them: a frame that several clips share is decoded and resized once and kept until the last of
        them, and a long stretch between clips is jumped over. A clip that begins earlier starts a new pass.

        Args:
            clips: lists of frame indices; each as in `frames`.
            resize: as in `frames`.
            crop: as in `frames`.

        Yields:
            (3, T, H, W) uint8, RGB, T of each clip its own.

        Raises:
            ValueError: as in `frames`, before anything is decoded, except for a crop that does not fit.
            VideoError: as in `frames`.
        """
        if self._closed:
            raise ValueError(f"{self.path}: the video is closed")
        requests = [[as_int(i) for i in clip] for clip in clips]
        for request in requests:
            self._check(request)
        passes = (self._forward(group, resize, crop) for group in _forward_groups(requests))
        return chain.from_iterable(passes)

    def _check(self, request: list[int]) -> None:
        if not request:
            raise ValueError(f"{self.path}: no frame index given")
        for index in (min(request), max(request)):
            if 0 <= index < self.num_frames:
                continue
            reason = f"frame {index} asked for; the video has frames 0 to {self.num_frames - 1}"
            if index >= 0 and self._index.is_damaged:
                raise VideoError(f"{self.path}: {reason}, where the damaged file breaks off")
            raise ValueError(f"{self.path}: {reason}")

    def _picture_size(self) -> tuple[int, int]:
        if self._size is None:
            self.frames([0])
        assert self._size is not None
        return self._size

    def _forward(
        self, clips: list[list[int]], resize: int | tuple[int, int] | None, crop: tuple[int, int] | None
    ) -> Iterator[Tensor]:
        last_use = {index: number for number, clip in enumerate(clips) for index in clip}
        wanted = sorted(last_use)
        kept: dict[int, Tensor] = {}
        done = 0
        with closing(self._decode(wanted)) as pictures:
            for number, clip in enumerate(clips):
                needed = bisect_right(wanted, max(clip))
                for start in range(done, needed, _BATCH):
                    batch = wanted[start : min(start + _BATCH, needed)]
                    kept.update(zip(batch, _fit(list(islice(pictures, len(batch))), resize, crop), strict=True))
                done = max(done, needed)
                yield torch.stack([kept[index] for index in clip], dim=1)
                for index in set(clip):
                    if last_use[index] == number:
                        del kept[index]

    def _decode(self, wanted: list[int]) -> Generator[np.ndarray]:
        """The pictures (H, W, 3) of these ascending frame indices."""
        with self._source() as source:
            for span in self._index.spans(wanted):
                missing = deque(span)
                while missing:
                    yield from self._pictures(source, missing)

    def _pictures(self, source: "_Source", missing: deque[int]) -> Iterator[np.ndarray]:
        """Pictures from the first start that gives any; what is found leaves `missing`."""
        first = missing[0]
        for start in self._index.starts(first):
            for frame in _run(source, self._index, start, list(missing)):
                yield self._of_one_size(_upright(frame, source.to_rgb), missing.popleft())
            if not missing or missing[0] != first:
                return
        readable = sum(1 for _ in _run(source, self._index, _Start(None, False), range(self.num_frames)))
        raise VideoError(
            f"{self.path}: frame {first} of {self.num_frames} cannot be decoded, the file is damaged; "
            f"from its start {readable} frames are readable"
        )

    def _of_one_size(self, picture: np.ndarray, index: int) -> np.ndarray:
        size = (picture.shape[0], picture.shape[1])
        self._size = self._size or size
        if size != self._size:
            raise VideoError(
                f"{self.path}: frame {index} is {size[0]}x{size[1]} where others are "
                f"{self._size[0]}x{self._size[1]} (height x width); re-encode the file to one size"
            )
        return picture

    @contextmanager
    def _source(self) -> "Iterator[_Source]":
        """The open file for one pass. Passes that overlap get a handle each: a handle has one position."""
        source, self._idle = self._idle or _Source(self.path), None
        try:
            yield source
        finally:
            if self._idle is None and not self._closed:
                self._idle = source
            else:
                source.close()


class _Key(NamedTuple):
    """A keyframe: decoding may start here."""

    pts: int
    dts: int


class _Start(NamedTuple):
    """Where a run starts (None: at the first packet), and whether it leaves out frames nobody refers to."""

    key: _Key | None
    skips: bool


@dataclass(frozen=True)
class _Index:
    """What the packets of a file tell without decoding."""

    pts: list[int]  # ascending, one for each displayed frame
    keys: list[_Key]  # ascending
    times: Tensor
    duration_s: float
    is_counted: bool  # timestamps tell nothing: a frame's index is its number in the decoder's output
    is_damaged: bool  # reading broke off before the end
    skips: bool

    def starts(self, index: int) -> Iterator[_Start]:
        """Where to try to decode this frame from, the cheapest first."""
        if not self.is_counted:
            number = self._key_before(index)
            yield _Start(self.keys[number], self.skips)
            yield _Start(self.keys[max(number - 1, 0)], False)
        yield _Start(None, False)

    def spans(self, wanted: list[int]) -> Iterator[list[int]]:
        """Ascending frame indices, cut where jumping to a keyframe is cheaper than decoding the gap."""
        span = wanted[:1]
        for last, index in pairwise(wanted):
            if not self.is_counted and self._frame_of_key_before(index) - last > _SEEK_GAP:
                yield span
                span = []
            span.append(index)
        yield span

    def _key_before(self, index: int) -> int:
        return max(bisect_right(self.keys, self.pts[index], key=lambda key: key.pts) - 1, 0)

    def _frame_of_key_before(self, index: int) -> int:
        return bisect_right(self.pts, self.keys[self._key_before(index)].pts) - 1


class _Source:
    """A file opened by FFmpeg, and its video stream."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broke_off = False
        self._open()

    def _open(self) -> None:
        av = _av()
        _check_file(self.path)
        try:
            # An absolute path, since FFmpeg takes what stands before a colon for a protocol.
            self.container: Any = av.open(str(self.path.absolute()))
        except av.error.FFmpegError as error:
            raise VideoError(f"{self.path}: not a video that FFmpeg can read ({error.strerror})") from None
        try:
            if self.container.format.name == "tty":  # FFmpeg would draw any text file as a terminal
                raise VideoError(f"{self.path}: a text file, not a video")
            self.stream: Any = _video_stream(self.path, self.container)
        except VideoError:
            self.close()
            raise
        # Threads cost a loader's worker more than they give it: its neighbours use the other cores.
        self.stream.thread_type = "NONE"
        # One for all frames: it keeps its tables, whose making costs more than a small frame.
        self.to_rgb = av.video.reformatter.VideoReformatter()

    def close(self) -> None:
        self.container.close()

    def rewind(self) -> None:
        """Back to the first packet. Opening anew always gets there; seeking does not in every container."""
        self.close()
        self._open()

    def packets(self) -> "Iterator[av.Packet]":
        """Packets with data, from here on. They end early, and `broke_off`, where the file cannot be read."""
        try:
            for packet in self.container.demux(self.stream):
                if packet.size:
                    yield packet
        except _av().error.FFmpegError:
            self.broke_off = True


def _av() -> ModuleType:
    with needs("video"):
        import av
    return av


def _check_file(path: Path) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise VideoError(f"{path}: no such file") from None
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror}") from None
    if not path.is_file():
        raise VideoError(f"{path}: a directory or a device, not a video file")
    if size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes)")


def _video_stream(path: Path, container: Any) -> Any:
    cover = _av().stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        raise VideoError(f"{path}: no video stream (audio or subtitles only)")
    if streams[0].codec_context is None:
        raise VideoError(f"{path}: this FFmpeg has no decoder for the codec; re-encode the file")
    return streams[0]


def _scan(source: _Source) -> _Index:
    """Read all packets once and index them."""
    stream = source.stream
    num_packets = 0
    shown: list[tuple[int | None, int]] = []
    keys: list[_Key] = []
    is_partial = is_guessed = False
    # AVI stores no presentation times. Those FFmpeg works out are right where nothing is reordered.
    is_avi = source.container.format.name == "avi"
    for packet in source.packets():
        num_packets += 1
        is_partial = packet.is_corrupt
        is_guessed |= is_avi and packet.pts != packet.dts
        if packet.is_keyframe and packet.pts is not None:
            keys.append(_Key(packet.pts, packet.pts if packet.dts is None else packet.dts))
        if not packet.is_discard:
            shown.append((packet.pts, packet.duration or 0))
    if is_partial:  # the last packet, where a file is cut short within it
        shown = shown[:-1]
    if not shown:
        raise VideoError(f"{source.path}: the video stream holds no frame")
    is_damaged = source.broke_off or is_partial or num_packets < stream.frames

    durations = {pts: duration for pts, duration in shown if pts is not None}
    has_repeats = len(durations) < sum(pts is not None for pts, _ in shown)
    is_counted = is_guessed or has_repeats or not keys
    if is_counted:
        durations = dict.fromkeys(range(len(shown)), 1)
    else:
        keys.sort()
        for pts in _undecodable_lead(source, set(durations), keys[0].pts):
            del durations[pts]
    return _index(source, durations, keys, is_counted=is_counted, is_damaged=is_damaged)


def _undecodable_lead(source: _Source, shown: set[int], first_key: int) -> set[int]:
    """Frames shown before the first keyframe that refer to what is gone, in a recording cut from a broadcast.

    Only decoding tells them from those that refer to the keyframe alone.
    """
    lead = {pts for pts in shown if pts < first_key}
    if not lead:
        return lead
    return lead - {frame.pts for frame in _decoded(source, _Start(None, False), lead)}


def _index(
    source: _Source, durations: dict[int, int], keys: list[_Key], *, is_counted: bool, is_damaged: bool
) -> _Index:
    rate = source.stream.average_rate or Fraction(25)
    time_base = 1 / rate if is_counted else source.stream.time_base
    pts = sorted(durations)
    times = _seconds([stamp - pts[0] for stamp in pts], time_base)
    start_of_last_s = times[-1].item()
    last_s = float(durations[pts[-1]] * time_base)
    mean_s = start_of_last_s / (len(pts) - 1) if len(pts) > 1 else float(1 / rate)
    return _Index(
        pts=pts,
        keys=keys,
        times=times,
        duration_s=start_of_last_s + (last_s or mean_s),
        is_counted=is_counted,
        is_damaged=is_damaged,
        skips=source.stream.codec_context.name in _SKIPPABLE,
    )


def _seconds(stamps: list[int], time_base: Fraction) -> Tensor:
    # One division of whole numbers gives the float64 nearest to the true time, as `3 / 30` does for frame 3.
    ticks = torch.tensor(stamps, dtype=torch.int64) * time_base.numerator
    return ticks.double() / time_base.denominator


def _run(source: _Source, index: _Index, start: _Start, wanted: Sequence[int]) -> "Iterator[av.VideoFrame]":
    """The frames of these ascending indices, from one start, up to the first that does not come."""
    labels = deque(wanted if index.is_counted else [index.pts[i] for i in wanted])
    needed = set() if index.is_counted else set(labels)
    for number, frame in enumerate(_decoded(source, start, needed)):
        label = number if index.is_counted else frame.pts
        if label is None or label < labels[0]:
            continue
        if label > labels[0]:
            return
        yield frame
        labels.popleft()
        if not labels:
            return


def _decoded(source: _Source, start: _Start, needed: set[int]) -> "Iterator[av.VideoFrame]":
    """Frames in display order, until those with the timestamps `needed` are out (none given: to the end)."""
    av = _av()
    try:
        if start.key is None:
            source.rewind()
        else:
            source.container.seek(start.key.dts, stream=source.stream)
    except av.error.FFmpegError:
        return
    codec = source.stream.codec_context
    codec.skip_frame = "DEFAULT"
    unsent = set(needed)
    has_output = False
    for packet in _from_keyframe(source, start, needed):
        if start.skips:
            codec.skip_frame = "DEFAULT" if packet.pts in needed else "NONREF"
        try:
            frames = codec.decode(packet)
        except av.error.FFmpegError:
            # Before the first picture a decoder may lack what a cut recording lost; later it is damage, and
            # what follows would be guessed from it. The same goes for frames that it marks as corrupt.
            if has_output:
                break
            continue
        for frame in frames:
            if not frame.is_corrupt:
                has_output = True
                yield frame
            elif has_output:
                return
        unsent.discard(packet.pts)
        if needed and not unsent:
            break
    try:
        # The decoder still holds frames: let them out rather than read on.
        yield from codec.decode(None)
    except av.error.FFmpegError:
        return


def _from_keyframe(source: _Source, start: _Start, needed: set[int]) -> "Iterator[av.Packet]":
    """The packets from here on, or none when a seek has landed beyond the first frame needed."""
    packets = source.packets()
    if start.key is None:
        yield from packets
        return
    first = next((packet for packet in packets if packet.is_keyframe), None)
    if first is not None and first.pts is not None and first.pts <= min(needed):
        yield first
        yield from packets


def _upright(frame: "av.VideoFrame", to_rgb: Any) -> np.ndarray:
    """(H, W, 3) RGB, turned and mirrored as the file's display matrix says, to the nearest quarter turn."""
    picture = to_rgb.reformat(frame, format="rgb24").to_ndarray()
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return picture
    # Rows of (a b u, c d v, x y w): x' = a x + c y and y' = b x + d y.
    a, b, _, c, d = memoryview(bytes(matrix)).cast("i")[:5]
    right, down = a, d
    if abs(b) > abs(a):
        picture = picture.transpose(1, 0, 2)
        right, down = c, b
    if right < 0:
        picture = picture[:, ::-1]
    if down < 0:
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


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


def _fit(pictures: list[np.ndarray], size: int | tuple[int, int] | None, crop: tuple[int, int] | None) -> list[Tensor]:
    """Pictures (H, W, 3) of one size to resized and cropped (3, h, w) uint8, each with memory of its own."""
    batch = torch.from_numpy(np.stack(pictures)).permute(3, 0, 1, 2)
    batch = center_crop(resize(batch, size), crop)
    return [picture.clone(memory_format=torch.contiguous_format) for picture in batch.unbind(1)]


def write_video(
    path: str | os.PathLike[str], frames: Iterable[Tensor], fps: float, *, crf: int = 18, gop: int = 12
) -> None:
    """Write frames as an H.264 mp4 (yuv420p), which every player and browser shows.

    The file appears under its name when it is complete: an interrupted write leaves nothing there.

    Args:
        path: the file, ending in .mp4; an existing one is replaced.
        frames: (3, H, W) uint8 RGB, all of one size, H and W even.
        fps: frames a second.
        crf: constant quality, from 0 (lossless) to 51; 18 looks like the original.
        gop: frames from one keyframe to the next, at most; fewer make random reading faster, the file larger.

    Raises:
        ValueError: no frame, or a frame of another dtype, shape or size; fps not above 0.
        VideoError: the file cannot be written there, or its name does not end in .mp4.
        ImportError: PyAV is not installed.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise VideoError(f"{path}: written as mp4; let the name end in .mp4")
    if fps <= 0:
        raise ValueError(f"fps {fps}; it must be above 0")
    pictures = _even_pictures(frames)
    # In the same folder, since a rename is atomic only within a file system.
    aside = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.mp4")
    # With its macroblock tree x264 writes other bytes for the same small frames from one call to the next.
    options = {"crf": str(crf), "g": str(gop), "mbtree": "0"}
    try:
        _encode(aside, pictures, Fraction(fps).limit_denominator(10_000), options)
        aside.replace(path)
    except _av().error.FFmpegError as error:
        raise VideoError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        aside.unlink(missing_ok=True)


def _encode(path: Path, pictures: Iterator[np.ndarray], rate: Fraction, options: dict[str, str]) -> None:
    av = _av()
    first = next(pictures)
    # The index goes first, so that a browser plays the file before it is all there.
    with av.open(str(path.absolute()), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in chain([first], pictures):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _even_pictures(frames: Iterable[Tensor]) -> Iterator[np.ndarray]:
    """Checked frames as (H, W, 3) arrays."""
    shape: tuple[int, ...] | None = None
    for number, frame in enumerate(frames):
        if frame.dtype != torch.uint8 or frame.ndim != 3 or frame.shape[0] != 3:
            raise ValueError(f"frame {number} is {frame.dtype} {tuple(frame.shape)}; write (3, H, W) of torch.uint8")
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
