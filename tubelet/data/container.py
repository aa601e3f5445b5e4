"""Video files as FFmpeg sees them: packets, an index, exact decoding.

A file is described by its packets alone, without decoding: their timestamps give every frame its index, and
the keyframes among them say where decoding may start. Reading then decodes forward from the last keyframe,
converts only the wanted frames, and checks that each of them arrived under its own timestamp.
"""

import os
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence, Set
from contextlib import closing, contextmanager
from fractions import Fraction
from functools import cache, partial
from itertools import count, islice, pairwise
from math import inf
from pathlib import Path
from stat import S_ISREG
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..machine import glibc
from . import indexes, keyframes
from .ffmpeg import VideoError, pyav, upright, video_stream
from .headers import Header, read_header
from .packets import (
    SETTINGS,
    Index,
    Key,
    Packet,
    Setting,
    Start,
    by_decoding,
    from_numbers,
    is_untimed,
    judged,
    offered,
    to_numbers,
)

if TYPE_CHECKING:
    from .ffmpeg import av

__all__ = ["File", "codec_of"]

# Codecs whose non-reference frames can be left undecoded without changing a bit of the other frames.
# Elsewhere it saves nothing (VP9, all-intra), loses frames (AV1), or others come under their names (MPEG-4, where
# a packet holds two frames and the next none).
_SKIPPABLE = frozenset({"h264", "hevc"})

# How a decoder is to look for damage: as closely as it can. That of H.264 marks each picture that it has guessed at;
# told to stop at every error, it would refuse pictures beside which something needless is wrong.
_STRICT = {"h264": "aggressive"}
_STRICT_ELSE = "explode+crccheck"

# Codecs whose decoder writes of damage in FFmpeg's log alone.
_TELLS_LOG = frozenset({"gif"})
_LOG = Lock()

# Codecs whose pictures may be turned by what they hold themselves.
_HAS_EXIF = frozenset({"mjpeg", "png", "tiff", "webp"})

# How a frame begins in MPEG-4.
_MPEG4_FRAME = b"\0\0\1\xb6"

# Packets of a file without presentation times that are decoded once to find them.
_MOST_DECODED = 3000

# Frames decoded to see whether they come in the order of their timestamps, or whether all are keyframes, where that is
# in doubt.
_SAMPLE = 60

# An index that took this long to make is kept: to write it takes a third of that, to read it a thirtieth.
_WORTH_KEEPING_S = 1e-3

# Of the numbers in a kept index.
_VERSION = 4

# Settings of the decoder that an index keeps: a palette takes 1 KiB.
_MOST_SETTINGS = 32

# Zeros that FFmpeg wants behind the parameters of a decoder.
_PADDING = bytes(64)

# Files closed from one return of freed memory to the next: it takes as long as a small file.
_CLOSED_BETWEEN = 32
_closed = count(1)

# Bytes of an AVI chunk before its data.
_AVI_CHUNK_HEAD = 8


# FFmpeg's flag of formats that look for a frame by when it is shown.
_SEEK_TO_PTS = 0x4000000


class File:
    """A video file: what it holds, and its pictures. `Video` is the face of it.

    Args:
        path: a file of any container and codec of the FFmpeg inside PyAV.

    Attributes:
        path: the file.
        times: (num_frames,) float64, seconds from the first frame to each.
        duration_s: seconds from the first frame to the end of the last.
        channels: 3, also of gray.
        is_damaged: the file breaks off, or something in it is lost. Each frame that it offers is right or an error.

    Raises:
        VideoError: there is no such file, or it is not a video with frames.
        ImportError: PyAV is not installed.
    """

    channels = 3

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._closed = False
        self._size: tuple[int, int] | None = None
        self._idle: _Source | None = None
        self._process = os.getpid()
        self._is_strict = True
        self.path = Path(path)
        version = f"{_VERSION} {pyav().__version__} {pyav().library_versions}"
        self._state = _check_file(self.path)
        kept = indexes.load(self.path, self._state, version)
        self._index = from_numbers(kept) if kept is not None else self._scanned(version)
        self.times = _seconds([pts - self._index.pts[0] for pts in self._index.pts], self._index.time_base)
        self.duration_s = self._index.duration_s
        self.is_damaged = self._index.is_damaged

    def _scanned(self, version: str) -> Index:
        self._idle = _Source(self.path, self._state)
        began = time.perf_counter()
        try:
            index = _scan(self._idle)
        except BaseException:
            self.close()
            raise
        if time.perf_counter() - began > _WORTH_KEEPING_S:
            indexes.save(self.path, self._state, version, to_numbers(index))
        self._idle.index = index
        return index

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        self._closed = True
        if self._idle is not None:
            self._idle.close()
            self._idle = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pictures, upright: as the file says, or as they come where it does not."""
        self._size = self._size or self._index.size
        if self._size is None:
            first = next(index for index, pts in enumerate(self._index.pts) if pts not in self._index.lost)
            for _ in self.pictures([first]):
                pass
        assert self._size is not None
        return self._size

    def pictures(self, wanted: Sequence[int]) -> Generator[np.ndarray]:
        """The pictures (H, W, 3), uint8 RGB and upright, of these ascending frame indices.

        Raises:
            VideoError: a frame cannot be decoded, the picture size changes, or the file is no longer what was opened.
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
                yield self._of_one_size(upright(frame, source.to_rgb), missing.popleft())
            if not missing or missing[0] != first:
                return
            # From further back it would meet the same damage. Met by none, the seek may have missed its mark.
            if source.has_met_damage and not start.skips:
                break
        if self._is_strict and self._index.keys and not list(_run(source, self._index, Start(None, False), [0])):
            # Not one frame is as it should be: this is how its writer writes.
            self._is_strict = source.is_strict = False
            source.rewind()
            return
        later = self._index.next_start(first)
        rest = f"frames from {later} on do not depend on it" if later else "frames behind it may depend on it"
        raise VideoError(f"{self.path}: frame {first} of {len(self.times)} is damaged and cannot be decoded; {rest}")

    def _of_one_size(self, picture: np.ndarray, index: int) -> np.ndarray:
        size = (picture.shape[0], picture.shape[1])
        self._size = self._size or size
        if size != self._size:
            raise VideoError(
                f"{self.path}: frame {index} is {size[0]}x{size[1]} where the video is "
                f"{self._size[0]}x{self._size[1]} (height x width); re-encode the file to one size"
            )
        return picture

    @contextmanager
    def _source(self) -> "Iterator[_Source]":
        """The open file for one pass. Passes that overlap get a handle each: a handle has one position."""
        if self._process != os.getpid():  # a forked one shares the position in the file with its parent
            self._idle, self._process = None, os.getpid()
        source = self._idle or _Source(self.path, self._state, self._index, is_strict=self._is_strict)
        self._idle = None
        try:
            yield source
        finally:
            if self._idle is None and not self._closed:
                self._idle = source
            else:
                source.close()


class _Source:
    """A file opened by FFmpeg, and its video stream."""

    def __init__(
        self, path: Path, state: os.stat_result, index: Index | None = None, *, is_strict: bool = True
    ) -> None:
        self.path = path
        self.state = state  # it is opened in no other: an index is of one
        self.index = index  # once it is known
        self.is_strict = is_strict
        self.broke_off = False
        self.has_met_damage = False
        self._open()

    def _open(self) -> None:
        av = pyav()
        _keep_freed_memory()
        state = _check_file(self.path)
        if (state.st_size, state.st_mtime_ns) != (self.state.st_size, self.state.st_mtime_ns):
            raise VideoError(f"{self.path}: the file has changed since it was opened; open it again")
        try:
            # An absolute path, since FFmpeg takes what stands before a colon for a protocol. A playlist leads to files
            # alone, not into the network. Titles need not be UTF-8.
            options = {"protocol_whitelist": "file"}
            self.container: Any = av.open(
                str(self.path.absolute()), container_options=options, metadata_errors="ignore"
            )
        except PermissionError as error:
            raise VideoError(f"{self.path}: {error.strerror}") from None
        except av.error.FFmpegError as error:
            raise VideoError(f"{self.path}: not a video that FFmpeg can read ({error.strerror})") from None
        try:
            if self.container.format.name == "tty":  # FFmpeg would draw any text file as a terminal
                raise VideoError(f"{self.path}: a text file, not a video")
            self.stream: Any = video_stream(self.path, self.container)
        except VideoError:
            self.close()
            raise
        # Threads cost a loader's worker more than they give it: its neighbours use the other cores.
        self.stream.thread_type = "NONE"
        if self.is_strict:
            strictness = _STRICT.get(self.stream.codec_context.name, _STRICT_ELSE)
            self.stream.codec_context.options = {"err_detect": strictness}
        # One for all frames: it keeps its tables, whose making costs more than a small frame.
        self.to_rgb = av.video.reformatter.VideoReformatter()

    def close(self) -> None:
        self.container.close()
        # glibc before 2.38 does not use a freed aligned block again for one as large: FFmpeg's leave holes, file by
        # file, up to a hundred megabytes.
        if next(_closed) % _CLOSED_BETWEEN == 0 and (libc := glibc()):
            libc.malloc_trim(0)

    def rewind(self) -> None:
        """Back to the first packet. Opening anew always gets there; seeking does not in every container."""
        self.close()
        self._open()

    def seek(self, key: Key) -> None:
        """To a keyframe, in some formats to one before it."""
        form = self.container.format
        # Matroska lacks the flag. The rest look for a frame by when it is decoded.
        is_by_pts = form.flags & _SEEK_TO_PTS or form.name == "matroska,webm"
        self.container.seek(key.pts if is_by_pts else key.dts, stream=self.stream)

    def packets(self) -> "Iterator[av.Packet]":
        """Packets with data, from here on. They end early, and `broke_off`, where the file cannot be read."""
        try:
            for packet in self.container.demux(self.stream):
                if packet.size:
                    if self.index is not None and self.index.labels:
                        packet.pts = self.index.labels.get(packet.pos)
                    yield packet
        except pyav().error.FFmpegError:
            self.broke_off = True


@cache
def _keep_freed_memory() -> None:
    """Have the memory of one picture serve for the next.

    glibc hands blocks of that size back to the system, which clears them anew at a tenth of the cost of all
    reading, until it has seen a larger one freed. This one, of more than a picture of 1440p, is never touched.
    """
    np.empty(2**24, np.uint8)


def _check_file(path: Path) -> os.stat_result:
    try:
        state = path.stat()
    except FileNotFoundError:
        raise VideoError(f"{path}: no such file") from None
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror}") from None
    if not S_ISREG(state.st_mode):
        raise VideoError(f"{path}: a directory or a device, not a video file")
    if state.st_size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes)")
    return state


def _scan(source: _Source) -> Index:
    """Read all packets once and index them."""
    form = source.container.format.name
    codec = source.stream.codec_context
    header = read_header(source.path, form, source.stream.id)
    packets, settings = _packets(source, header)
    is_cut = source.broke_off or header.is_cut or len(packets) < _announced(source, header)
    is_damaged = is_cut or not all(packet.is_sound for packet in packets)
    # What the file says. Of the packets FFmpeg says what they look like.
    begins_with_key = any(entry.is_keyframe for entry in source.stream.index_entries[:1])

    is_counted = is_untimed(packets, form) or (not is_damaged and not _keeps_order(source, packets))
    labels: dict[int, int] = {}
    num_shown = 0
    if is_counted and not is_damaged and len(packets) <= _MOST_DECODED:
        shown = [frame.pts for frame in _decoded(source, Start(None, False), set(), [])]
        num_shown = 0 if source.has_met_damage else len(shown)
        labels = by_decoding(packets, shown)
        is_counted = not labels
        packets = [packet._replace(pts=labels.get(packet.pos or 0)) for packet in packets]
    packets = [packet for packet in packets if packet.is_shown]
    stream = source.stream  # opened anew, where something was decoded
    rate = stream.average_rate
    time_base = 1 / (rate or Fraction(25)) if is_counted else stream.time_base
    keys: list[Key] = []
    lost: set[int] = set()
    if is_counted:
        num_whole = next((number for number, packet in enumerate(packets) if not packet.is_sound), len(packets))
        # What a decoder holds at a break may belong behind frames that are gone.
        durations = dict.fromkeys(range(num_shown or num_whole - is_damaged * codec.reorder_depth), 1)
    else:
        # The average rate of a file with gaps is not that of its frames.
        steps = [1 / (each * time_base) for each in (stream.base_rate, rate) if each]
        durations, lost = offered(packets, steps, is_cut=is_cut)
        if form == "mxf" and is_cut and codec.reorder_depth and durations:
            # Its index stands at the end. Without it FFmpeg tells when a frame is shown by those that follow.
            del durations[max(durations)]
        whole = durations.keys() - lost
        keys = sorted(Key.of(packet) for packet in packets if packet.is_key and packet.is_sound and packet.pts in whole)
        if len(settings) > _MOST_SETTINGS:  # those of later frames come in passing, on the way from an earlier keyframe
            keys = [key for key in keys if key.pts < settings[_MOST_SETTINGS].pts]
        lead = _undecodable_lead(source, whole, keys)
        if lead and begins_with_key:
            lost |= lead
            is_damaged = True
        else:
            durations = {pts: duration for pts, duration in durations.items() if pts not in lead}
    if not durations.keys() - lost:
        raise VideoError(f"{source.path}: the video stream holds no {'whole ' if is_damaged else ''}frame")

    stamps = sorted(durations)
    span_s = float((stamps[-1] - stamps[0]) * time_base)
    mean_s = span_s / (len(stamps) - 1) if len(stamps) > 1 else float(1 / (rate or 25))
    return Index(
        pts=stamps,
        keys=keys,
        lost=frozenset(lost),
        labels=labels,
        settings=settings[:_MOST_SETTINGS],
        time_base=time_base,
        duration_s=span_s + (float(durations[stamps[-1]] * time_base) or mean_s),
        size=_size(source.stream, header),
        is_counted=is_counted,
        is_damaged=is_damaged,
        skips=codec.name in _SKIPPABLE,
    )


def _announced(source: _Source, header: Header) -> int:
    """Packets that a whole file has, 0 where it does not tell."""
    stream, form = source.stream, source.container.format.name
    if form.startswith("mov,"):  # what an edit list leaves out counts as well
        return min(stream.frames, len(stream.index_entries))
    return stream.frames - header.num_dropped


def _packets(source: _Source, header: Header) -> tuple[list[Packet], list[Setting]]:
    """All packets, judged, and the settings that they bring."""
    form = source.container.format.name
    codec = source.stream.codec_context
    is_mpeg4 = codec.name == "mpeg4"
    num_bytes = keyframes.bytes_of_unit_size(codec.extradata) if codec.name == "hevc" else 0
    settings: list[Setting] = []
    # To look for them in every file would make opening a thirtieth slower.
    has_settings = codec.pix_fmt == "pal8" or form == "flv" or header.is_joined
    packets = [
        Packet(
            pts=packet.pts,
            dts=packet.dts,
            duration=packet.duration or 0,
            pos=packet.pos,
            size=packet.size,
            is_key=packet.is_keyframe and (not num_bytes or keyframes.is_hevc_key(memoryview(packet), num_bytes)),
            is_shown=not packet.is_discard,
            is_double=is_mpeg4 and bytes(packet).count(_MPEG4_FRAME) > 1,
            is_sound=not packet.is_corrupt,
        )
        for packet in (_noted(source, settings) if has_settings else source.packets())
    ]
    if form == "mpegts" and packets:
        # FFmpeg marks the packet before the damaged one. The last packet ends where the file does.
        marks = [True, *(packet.is_sound for packet in packets)]
        sizes = [(after.pos or 0) - (packet.pos or 0) for packet, after in pairwise(packets)] + [packets[-1].size]
        packets = [
            packet._replace(is_sound=is_sound, size=size)
            for packet, is_sound, size in zip(packets, marks, sizes, strict=False)
        ]
        packets[-1] = packets[-1]._replace(is_sound=packets[-1].is_sound and not header.is_cut)
    if form == "dv" and packets:
        # FFmpeg fills the last packet up with what is left of the one before.
        is_whole = (packets[-1].pos or 0) + packets[-1].size <= source.state.st_size
        packets[-1] = packets[-1]._replace(is_sound=is_whole)
    if form == "avi" and len(packets) < _announced(source, header):
        # Where the file's own table has a chunk that did not come, all times are wrong from there on.
        places = [entry.pos + _AVI_CHUNK_HEAD for entry in source.stream.index_entries]
        pairs = enumerate(zip(packets, places, strict=False))
        gap = next((number for number, (packet, place) in pairs if packet.pos != place), len(packets))
        packets = [packet._replace(is_sound=number < gap) for number, packet in enumerate(packets)]
    if not codec.codec.intra_only:
        told = keyframes.num_told(packets, form, codec.codec.canonical_name, partial(_begins_intra, source))
        packets[told:] = [packet._replace(is_key=False) for packet in packets[told:]]
    return judged(packets, header.holes), settings


def _noted(source: _Source, settings: list[Setting]) -> "Iterator[av.Packet]":
    """All packets. The settings that they bring are added, up to one more than an index keeps."""
    opening = source.stream.codec_context.extradata
    current = {"new_extradata": opening}
    for packet in source.packets():
        for brought in packet.iter_sidedata():
            kind, data, pts = brought.data_type, bytes(brought), packet.pts
            if kind not in SETTINGS or pts is None or current.get(kind) == data or len(settings) > _MOST_SETTINGS:
                continue
            if kind == "new_extradata" and opening and not any(setting.kind == kind for setting in settings):
                settings.append(Setting(pts, kind, opening))  # which no packet brings
            current[kind] = data
            settings.append(Setting(pts, kind, data))
        yield packet


def _begins_intra(source: _Source) -> bool:
    kinds = {frame.key_frame for frame in islice(_decoded(source, Start(None, False), set(), []), _SAMPLE)}
    return kinds == {True}


def _keeps_order(source: _Source, packets: list[Packet]) -> bool:
    """False where frames are reordered, and the file takes the times of decoding for those of showing."""
    codec = source.stream.codec_context
    stamps = [packet.pts for packet in packets if packet.is_shown and packet.pts is not None]
    if codec.name not in ("h264", "hevc") or not codec.reorder_depth or stamps != sorted(stamps):
        return True
    first = stamps[:_SAMPLE]
    return [frame.pts for frame in _decoded(source, Start(None, False), set(first), first)] == first


def _size(stream: Any, header: Header) -> tuple[int, int] | None:
    """(height, width) upright, if the headers tell."""
    size = (stream.codec_context.height, stream.codec_context.width)
    if header.is_turned is None or stream.codec_context.name in _HAS_EXIF or not all(size):
        return None
    return size[::-1] if header.is_turned else size


def _undecodable_lead(source: _Source, shown: Set[int], keys: list[Key]) -> Set[int]:
    """Frames shown before the first keyframe that refer to what is gone, in a recording cut from a broadcast.

    Only decoding tells them from those that refer to the keyframe alone.
    """
    lead = {pts for pts in shown if keys and pts < keys[0].pts}
    if not lead:
        return lead
    return lead - {frame.pts for frame in _decoded(source, Start(None, False), lead, sorted(lead))}


def _seconds(stamps: list[int], time_base: Fraction) -> Tensor:
    # One division of whole numbers gives the float64 nearest to the true time, as `3 / 30` does for frame 3.
    ticks = torch.tensor(stamps, dtype=torch.int64) * time_base.numerator
    return ticks.double() / time_base.denominator


def _run(source: _Source, index: Index, start: Start, wanted: Sequence[int]) -> "Iterator[av.VideoFrame]":
    """The frames of these ascending indices, from one start, up to the first that does not come."""
    labels = deque(wanted if index.is_counted else [index.pts[i] for i in wanted])
    needed = set() if index.is_counted else set(labels)
    first = index.frame_of(start.key) if start.key else 0
    shown_till = [] if index.is_counted else index.pts[first : wanted[-1] + 1]
    for number, frame in enumerate(_decoded(source, start, needed, shown_till)):
        label = number if index.is_counted else frame.pts
        if label < labels[0]:
            continue
        if label > labels[0]:
            return
        yield frame
        labels.popleft()
        if not labels:
            return


def _decoded(source: _Source, start: Start, needed: Set[int], shown_till: Sequence[int]) -> "Iterator[av.VideoFrame]":
    """Frames in display order: those with the timestamps `needed`, and others.

    All packets are sent that are to be `shown_till` the last one needed, as their ascending timestamps say; without
    any, the file is decoded to its end. Damage ends it, `lost` packets included. What was decoded before still comes.
    """
    av = pyav()
    source.has_met_damage = False
    try:
        if start.key is None:
            source.rewind()
        else:
            source.seek(start.key)
    except av.error.FFmpegError:
        return
    codec = source.stream.codec_context
    codec.skip_frame = "DEFAULT"
    lost = source.index.lost if source.index is not None else frozenset()
    decoding = _Decoding(source, shown_till)
    for number, packet in enumerate(_from_keyframe(source, start, needed)):
        if not needed:
            packet.pts = number
        elif packet.pts in lost and not decoding.is_lead(packet.pts):
            source.has_met_damage = True
            break
        if start.skips:
            codec.skip_frame = "DEFAULT" if packet.pts in needed else "NONREF"
        yield from decoding.of(packet)
        if decoding.is_over or (needed and not decoding.ahead):
            break
    # The decoder still holds frames: let them out rather than read on.
    yield from decoding.of(None)


class _Decoding:
    """Decodes packet by packet, and lets out the frames that are sure to be right."""

    def __init__(self, source: _Source, shown_till: Sequence[int]) -> None:
        self.ahead = deque(shown_till)  # from the first timestamp whose packet did not come yet
        self._source = source
        self._av = pyav()  # once: for each packet even to look whether it is there would count
        self._is_counted = not shown_till
        self._order: dict[int | None, float] = {}  # of decoding, by timestamp
        self._damage = inf  # where in that order it begins: what is decoded behind it is built on it
        self._first_key: int | None = None
        self._shown: int | None = None  # the last one
        self._held: deque[av.VideoFrame] = deque()

    @property
    def is_over(self) -> bool:
        """Whether no packet after this one can be trusted."""
        return self._damage < inf

    def is_lead(self, pts: int | None) -> bool:
        """Whether a frame comes before all that this run can be sure of: a cut recording lost what it refers to."""
        return self._first_key is None or (pts is not None and pts < self._first_key)

    def of(self, packet: "av.Packet | None") -> "Iterator[av.VideoFrame]":
        """The frames that this packet (None: the last one) makes sure of, in display order."""
        if packet is not None:
            self._order[packet.pts] = len(self._order)
            while self.ahead and self.ahead[0] in self._order:
                self.ahead.popleft()
            if self._first_key is None and packet.is_keyframe:
                self._first_key = packet.pts
        for frame in [] if packet is None and self._ends_here else self._decode(packet):
            if frame.is_corrupt:
                self._spoil(frame.pts)
            elif self._is_out_of_order(frame.pts):
                # As after a seek to an unknown place. What waits to be let out may be the one that is wrong.
                doubtful = (frame.pts, *(held.pts for held in self._held))
                self._damage = min(self._damage, *(self._order.get(pts, 0) for pts in doubtful))
            elif not self._ends_here:
                self._held.append(frame)
                self._shown = frame.pts
        # A frame may be built on one that is shown later, and marked as damaged only then: as late as that.
        depth = 0 if packet is None or self._ends_here else self._source.stream.codec_context.reorder_depth
        while len(self._held) > depth:
            frame = self._held.popleft()
            if not self.is_over or self._order.get(frame.pts, inf) < self._damage:
                yield frame
            elif self._is_counted:
                self._held.clear()

    @property
    def _ends_here(self) -> bool:
        """Whether what is shown from now on has no number, since a frame before it is gone."""
        return self._is_counted and self.is_over

    def _is_out_of_order(self, pts: int | None) -> bool:
        """Whether the timestamp of a decoded frame contradicts the order in which the decoder shows frames."""
        if self._is_counted:
            return False
        if pts is None or (self._shown is not None and pts <= self._shown):
            return True
        return bool(self.ahead) and pts > self.ahead[0]

    def _decode(self, packet: "av.Packet | None") -> "list[av.VideoFrame]":
        codec = self._source.stream.codec_context
        try:
            if codec.name not in _TELLS_LOG:
                return codec.decode(packet)
            with _errors_logged(self._av) as errors:
                frames = codec.decode(packet)
            if not errors:
                return frames
        except self._av.error.FFmpegError:
            pass
        if packet is not None:
            self._spoil(packet.pts)
        return []

    def _spoil(self, pts: int | None) -> None:
        if self.is_lead(pts):
            self._order[pts] = inf
        else:
            self._damage = min(self._damage, self._order.get(pts, 0))
            self._source.has_met_damage = True


@contextmanager
def _errors_logged(av: ModuleType) -> Iterator[list[Any]]:
    """What FFmpeg logs as an error meanwhile, in this thread."""
    log = av.logging
    with _LOG:
        level, skips = log.get_level(), log.get_skip_repeated()
        log.set_level(log.ERROR)
        log.set_skip_repeated(False)
        try:
            with log.Capture() as errors:
                yield errors
        finally:
            log.set_level(level)
            log.set_skip_repeated(skips)


def _from_keyframe(source: _Source, start: Start, needed: Set[int]) -> "Iterator[av.Packet]":
    """The packets from here on, or none when a seek has landed beyond the first frame needed, or nobody knows where."""
    packets = source.packets()
    if start.key is None:
        yield from packets
        return
    times = source.index.key_times if source.index is not None else {}
    # By a damaged table of places a seek gives packets the times of others, by an untrue one it finds others than keys.
    keys = (each for each in packets if each.is_keyframe and (not times or each.pos is None or each.pos in times))
    first = next(keys, None)
    if first is None or first.pts is None or first.pts > min(needed):
        return
    if times.get(first.pos, first.pts) == first.pts:
        if source.index is not None and source.index.settings:
            _give(first, source.index.settings_at(first.pts))
        yield first
        yield from packets


def _give(packet: "av.Packet", settings: dict[str, bytes]) -> None:
    """Have a packet bring the settings that others brought."""
    form = pyav().packet
    for kind, data in settings.items():
        padded = data if kind == "palette" else data + _PADDING
        brought = form.PacketSideData(form.packet_sidedata_type_from_literal(kind), len(padded))
        brought.update(padded)
        packet.set_sidedata(brought, move=True)


def codec_of(path: str | os.PathLike[str]) -> str:
    """The name of a file's codec, such as h264 or av1.

    Raises:
        VideoError: as `File`.
    """
    path = Path(path)
    with closing(_Source(path, _check_file(path))) as source:
        return source.stream.codec_context.codec.canonical_name
