"""Video files as FFmpeg sees them: packets, an index, exact decoding, encoding. The one file that imports PyAV.

A file is described by its packets alone, without decoding: their timestamps give every frame its index, and
the keyframes among them say where decoding may start. Reading then decodes forward from the last keyframe,
converts only the wanted frames, and checks that each of them arrived under its own timestamp.
"""

import os
from bisect import bisect_right
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..machine import needs

if TYPE_CHECKING:
    import av

__all__ = ["File", "VideoError", "encode"]

# Codecs whose non-reference frames can be left undecoded without changing a bit of the other frames.
# Elsewhere it saves nothing (VP9, all-intra) or loses frames (AV1).
_SKIPPABLE = frozenset({"h264", "hevc", "mpeg4"})

# Frames between the last wanted one and the next keyframe that make a seek cheaper than decoding on.
_SEEK_GAP = 12


class VideoError(ValueError):
    """A video file that cannot be read or written: its path, the reason, and the fix where there is one."""


class File:
    """A video file: what it holds, and its pictures. `Video` is the face of it.

    Args:
        path: a file of any container and codec of the FFmpeg inside PyAV.

    Attributes:
        path: the file.
        times: (num_frames,) float64, seconds from the first frame to each.
        duration_s: seconds from the first frame to the end of the last.
        is_damaged: the file breaks off; the frames before the break are there.

    Raises:
        VideoError: there is no such file, or it is not a video with frames.
        ImportError: PyAV is not installed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._closed = False
        self._size: tuple[int, int] | None = None
        self.path = Path(path)
        self._idle: _Source | None = _Source(self.path)
        try:
            self._index = _scan(self._idle)
        except BaseException:
            self.close()
            raise
        self.times = self._index.times
        self.duration_s = self._index.duration_s
        self.is_damaged = self._index.is_damaged

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        self._closed = True
        if self._idle is not None:
            self._idle.close()
            self._idle = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pictures, upright."""
        if self._size is None:
            for _ in self.pictures([0]):
                pass
        assert self._size is not None
        return self._size

    def pictures(self, wanted: Sequence[int]) -> Generator[np.ndarray]:
        """The pictures (H, W, 3), uint8 RGB and upright, of these ascending frame indices.

        Raises:
            VideoError: a frame cannot be decoded, or the picture size changes.
        """
        with self._source() as source:
            for span in self._index.spans(list(wanted)):
                missing = deque(span)
                while missing:
                    yield from self._found(source, missing)

    def _found(self, source: "_Source", missing: deque[int]) -> Iterator[np.ndarray]:
        """Pictures from the first start that gives any; what is found leaves `missing`."""
        first = missing[0]
        for start in self._index.starts(first):
            for frame in _run(source, self._index, start, list(missing)):
                yield self._of_one_size(_upright(frame, source.to_rgb), missing.popleft())
            if not missing or missing[0] != first:
                return
        total = len(self.times)
        readable = sum(1 for _ in _run(source, self._index, _Start(None, False), range(total)))
        raise VideoError(
            f"{self.path}: frame {first} of {total} cannot be decoded, the file is damaged; "
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


def encode(path: Path, pictures: Iterator[np.ndarray], rate: Fraction, options: dict[str, str]) -> None:
    """Write pictures (H, W, 3) of uint8 RGB as H.264 in yuv420p.

    Raises:
        VideoError: the file cannot be written; the message is the reason alone.
    """
    av = _av()
    first = next(pictures)
    try:
        # The index goes first, so that a browser plays the file before it is all there.
        with av.open(str(path.absolute()), "w", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=rate, options=options)
            stream.height, stream.width = first.shape[:2]
            stream.pix_fmt = "yuv420p"
            for picture in chain([first], pictures):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    except av.error.FFmpegError as error:
        raise VideoError(error.strerror) from None
