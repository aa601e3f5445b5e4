"""What the structure of a file tells that FFmpeg keeps to itself: pictures shown turned, and where it is not whole.

FFmpeg reads on past damage and says so in its log alone. But the elements of a container follow one another without
a gap and end where they say, and some writers add checksums: what breaks these rules is not what was written.
"""

import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

__all__ = ["Header", "Hole", "read_header"]

_PIECE = 1 << 20  # bytes read at once


class Hole(NamedTuple):
    """Bytes [start, end) of a file that are not what was written."""

    start: float
    end: float


@dataclass(frozen=True)
class Header:
    """What the structure of a file tells.

    Attributes:
        is_turned: the pictures are shown turned by a quarter; None where decoding alone tells their size.
        is_cut: the file ends before the end that it announces.
        holes: damaged bytes, ascending.
        num_dropped: frames that the writer left out and counts all the same, of AVI: chunks with nothing in them.
        is_joined: not all frames are coded by one description, of mp4.
    """

    is_turned: bool | None = False
    is_cut: bool = False
    holes: tuple[Hole, ...] = ()
    num_dropped: int = 0
    is_joined: bool = False


def read_header(path: Path, form: str, track: int) -> Header:
    """Walk through the structure of a file: mp4, Matroska, AVI, MPEG-TS, GIF, MXF; of others nothing is known.

    Args:
        path: the file.
        form: FFmpeg's name of the container.
        track: the number of the video stream in the container, of mp4 and AVI.
    """
    with _Bytes(path) as data:
        match form:
            case "mov,mp4,m4a,3gp,3g2,mj2":
                return _walk_mp4(data, track)
            case "matroska,webm":
                return _walk_matroska(data)
            case "avi":
                return _walk_avi(data, track)
            case "mpegts":
                return _walk_ts(data)
            case "gif":
                return _walk_gif(data)
            case "mxf":
                return _look_at_mxf(data)
    return Header()


class _Bytes:
    """A file, read where it is asked for. Mapped into memory, one that shrinks meanwhile would end the process."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.size = os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def at(self, start: int, size: int) -> bytes:
        self._file.seek(start)
        return self._file.read(size)

    def find(self, wanted: bytes, start: int) -> int:
        """Where these bytes come next; the size of the file if nowhere."""
        for place in range(start, self.size, _PIECE):
            found = self.at(place, _PIECE + len(wanted) - 1).find(wanted)
            if found >= 0:
                return place + found
        return self.size

    def crc(self, start: int, end: int) -> int:
        crc = 0
        for place in range(start, end, _PIECE):
            crc = zlib.crc32(self.at(place, min(_PIECE, end - place)), crc)
        return crc


class _Element(NamedTuple):
    """A box, an element, a chunk: its kind, and where what is in it lies."""

    kind: bytes
    start: int
    end: int


# mp4 and mov: ISO/IEC 14496-12

_TO_SAMPLES = (b"mdia", b"minf", b"stbl", b"stsd")


def _walk_mp4(data: _Bytes, track: int) -> Header:
    top = list(_boxes(data, 0, data.size))
    is_turned: bool | None = False
    is_joined = False
    for movie in _of_kind(top, b"moov"):
        inner = list(_boxes(data, movie.start, movie.end))
        movie_matrix = [_matrix(data, box, 36) for box in _of_kind(inner, b"mvhd")]
        for trak in _of_kind(inner, b"trak"):
            for box in _of_kind(_boxes(data, trak.start, trak.end), b"tkhd"):
                number = int.from_bytes(data.at(box.start + (20 if _is_wide(data, box) else 12), 4))
                if number == track:
                    is_turned = _is_quarter_turn(_matrix(data, box, 40), *movie_matrix)
                    descriptions = _inside(data, trak, _TO_SAMPLES)
                    is_joined = int.from_bytes(descriptions[4:8]) > 1
                    if b"clap" in descriptions:  # a crop
                        is_turned = None
    # Less than a box is left over where a file ends within the first bytes of one.
    is_cut = bool(top) and (top[-1].end > data.size or 0 < data.size - top[-1].end < 8)
    return Header(is_turned, is_cut=is_cut, is_joined=is_joined)


def _boxes(data: _Bytes, start: int, end: int) -> Iterator[_Element]:
    while start + 8 <= end:
        head = data.at(start, 16)
        size, kind, inner = int.from_bytes(head[:4]), head[4:8], start + 8
        if size == 1:
            size, inner = int.from_bytes(head[8:]), start + 16
        elif size == 0:  # to the end of the file
            size = end - start
        if size < inner - start:
            return
        yield _Element(kind, inner, start + size)
        start += size


def _of_kind(boxes: "list[_Element] | Iterator[_Element]", kind: bytes) -> Iterator[_Element]:
    return (box for box in boxes if box.kind == kind)


def _inside(data: _Bytes, box: _Element, path: tuple[bytes, ...]) -> bytes:
    for kind in path:
        found = next(_of_kind(_boxes(data, box.start, box.end), kind), None)
        if found is None:
            return b""
        box = found
    return data.at(box.start, min(box.end - box.start, _PIECE))


def _is_wide(data: _Bytes, box: _Element) -> bool:
    """Times of 64 bits, three of which stand before what is wanted here."""
    return data.at(box.start, 1) == b"\1"


def _matrix(data: _Bytes, box: _Element, place: int) -> tuple[int, ...]:
    """(a, b, c, d) of a matrix whose rows are (a b u, c d v, x y w)."""
    matrix = data.at(box.start + place + (12 if _is_wide(data, box) else 0), 20).ljust(20, b"\0")
    return tuple(int.from_bytes(matrix[4 * i : 4 * i + 4], signed=True) for i in (0, 1, 3, 4))


def _is_quarter_turn(track: tuple[int, ...], movie: tuple[int, ...] = (1, 0, 0, 1)) -> bool:
    a = track[0] * movie[0] + track[1] * movie[2]
    b = track[0] * movie[1] + track[1] * movie[3]
    return abs(b) > abs(a)


# Matroska and WebM: RFC 9559, in the elements of RFC 8794

_SEGMENT = b"\x18\x53\x80\x67"
_CLUSTER = b"\x1f\x43\xb6\x75"
_TRACKS = b"\x16\x54\xae\x6b"
_INFO = b"\x15\x49\xa9\x66"
_CRC, _VOID = b"\xbf", b"\xec"
# SeekHead, Cues, Attachments, Chapters, Tags
_OTHER_TOP = {b"\x11\x4d\x9b\x74", b"\x1c\x53\xbb\x6b", b"\x19\x41\xa4\x69", b"\x10\x43\xa7\x70", b"\x12\x54\xc3\x67"}
_DESCRIPTIONS = {_INFO, _TRACKS}
_TOP = {_CLUSTER, _VOID, _CRC} | _DESCRIPTIONS | _OTHER_TOP
_BLOCK = b"\xa3"
# Timestamp, SilentTracks, Position, PrevSize, BlockGroup, EncryptedBlock
_IN_CLUSTER = {_BLOCK, b"\xe7", b"\x58\x54", b"\xa7", b"\xab", b"\xa0", b"\xaf", _VOID, _CRC}
# Four of a crop, one of a rotation.
_RESHAPES = (b"\x54\xaa", b"\x54\xbb", b"\x54\xcc", b"\x54\xdd", b"\x76\x75")
_UNKNOWN = 1 << 62  # the size of what is written while it is recorded

_SYNC = b"G"  # the first byte of a packet of 188 bytes
_PACKETS = ((188, 0), (192, 4), (204, 0))  # their bytes with what some add to them, and how many come first

_FOUR_LETTERS = re.compile(rb"[ -~]{4}")


def _walk_matroska(data: _Bytes) -> Header:
    segment = _element(data, _element(data, 0).end)
    if segment.kind != _SEGMENT:
        return Header()
    is_turned: bool | None = False
    holes = []
    place, end = segment.start, min(segment.end, data.size)
    while place < end:
        element = _element(data, place)
        is_whole = element.kind in _TOP and element.end <= end
        if element.kind == _CLUSTER:
            place, is_whole = _walk_cluster(data, element, end)
        elif is_whole:
            place = element.end
        if element.kind in _DESCRIPTIONS and is_whole:
            if not _has_true_crc(data, element):
                holes.append(Hole(0, inf))
            described = data.at(element.start, element.end - element.start)
            if element.kind == _TRACKS and any(mark in described for mark in _RESHAPES):
                is_turned = None
        if not is_whole:
            after = data.find(_CLUSTER, place + 1)
            holes.append(Hole(place, after))
            place = after
    if segment.end < data.size:  # FFmpeg reads on
        holes.append(Hole(segment.end, inf))
    return Header(is_turned, data.size < segment.end < _UNKNOWN, tuple(holes))


def _walk_cluster(data: _Bytes, cluster: _Element, end: int) -> tuple[int, bool]:
    """Where a cluster ends, or may stop being what was written, and whether it is whole."""
    if cluster.end <= end and _element(data, cluster.start).kind == _CRC:
        is_whole = _has_true_crc(data, cluster)
        return (cluster.end if is_whole else cluster.start), is_whole
    before = place = cluster.start
    end = min(cluster.end, end)
    while place < end:
        element = _element(data, place)
        if cluster.end >= _UNKNOWN and element.kind in _TOP - _IN_CLUSTER:
            return place, True
        is_block = element.kind != _BLOCK or data.at(element.start, 1) >= b"\x81"  # the number of its track
        if element.kind not in _IN_CLUSTER or element.end > end or not is_block:
            return before, False  # what is not where it should be was put there by what stands before it
        before, place = place, element.end
    return place, cluster.end >= _UNKNOWN or place == cluster.end


def _has_true_crc(data: _Bytes, element: _Element) -> bool:
    """False where a CRC-32, which stands first and covers what follows it, tells of damage."""
    first = _element(data, element.start)
    if first.kind != _CRC:
        return True
    return data.crc(first.end, element.end) == int.from_bytes(data.at(first.start, 4), "little")


def _element(data: _Bytes, place: int) -> _Element:
    head = data.at(place, 12).ljust(12, b"\0")
    # As many zero bits as a number's first byte begins with, so many bytes follow it.
    id_size = 9 - head[0].bit_length()
    size_size = 9 - head[min(id_size, 11)].bit_length()
    start = place + id_size + size_size
    size = int.from_bytes(head[id_size : id_size + size_size]) & ((1 << 7 * size_size) - 1)
    if id_size > 4 or size_size > 8:
        return _Element(b"", start, start)
    is_unknown = size == (1 << 7 * size_size) - 1
    return _Element(head[:id_size], start, _UNKNOWN if is_unknown else start + size)


# AVI: chunks of RIFF


def _walk_avi(data: _Bytes, track: int) -> Header:
    before = place = file_end = num_dropped = 0
    is_over = False
    frames = b"%02ddc" % track, b"%02ddb" % track
    while place + 8 <= data.size:
        kind, size = data.at(place, 4), int.from_bytes(data.at(place + 4, 4), "little")
        end = place + 8 + size
        if kind == b"RIFF":
            file_end, is_over = end, False
        elif is_over and place >= file_end:  # FFmpeg reads on
            return Header(holes=(Hole(place, inf),), num_dropped=num_dropped)
        if kind == b"RIFF" or (kind == b"LIST" and data.at(place + 8, 4) in (b"movi", b"rec ")):
            before, place = place, place + 12
            continue
        is_over |= kind == b"idx1"
        if not _FOUR_LETTERS.fullmatch(kind) or end > data.size:
            return Header(holes=() if is_over else (Hole(before, inf),), num_dropped=num_dropped)
        num_dropped += kind in frames and not size
        # Some writers leave out the byte that makes a chunk even.
        is_odd = size % 2 and not (_is_chunk(data, end) and not _is_chunk(data, end + 1))
        before, place = place, end + bool(is_odd)
    return Header(num_dropped=num_dropped)


def _is_chunk(data: _Bytes, place: int) -> bool:
    return bool(_FOUR_LETTERS.fullmatch(data.at(place, 4)))


# MPEG transport stream: ISO/IEC 13818-1


def _walk_ts(data: _Bytes) -> Header:
    head = data.at(0, 5 * max(size for size, _ in _PACKETS))
    size, lead = next(((size, lead) for size, lead in _PACKETS if _has_marks(head, lead, size)), (0, 0))
    if not size:
        return Header()
    holes = []
    mark, rest = lead, 0
    while mark < data.size:
        piece = data.at(mark, _PIECE // size * size)
        is_bad = np.frombuffer(piece, np.uint8)[::size] != ord(_SYNC)
        if is_bad.any():
            start = mark + int(is_bad.argmax()) * size
            mark = _next_mark(data, start, size)
            holes.append(Hole(start - lead, mark - lead))
        else:
            rest = (data.size - mark + lead) % size
            mark += len(piece)
    return Header(is_cut=rest > 0, holes=tuple(holes))


def _has_marks(piece: bytes, place: int, size: int) -> bool:
    """Whether packets begin here: five of them, or as many as there are."""
    marks = piece[place : place + 5 * size : size]
    return len(marks) > 0 and marks == _SYNC * len(marks)


def _next_mark(data: _Bytes, start: int, size: int) -> int:
    for base in range(start, data.size, _PIECE):
        piece = data.at(base, _PIECE + 5 * size)
        place = piece.find(_SYNC)
        while 0 <= place < _PIECE:
            if _has_marks(piece, place, size):
                return base + place
            place = piece.find(_SYNC, place + 1)
    return data.size


# GIF89a


def _walk_gif(data: _Bytes) -> Header:
    place = 13 + _colors(data, 10)
    while place < data.size:
        kind = data.at(place, 1)
        if kind == b";":
            return Header()
        if kind not in (b"!", b","):
            break
        after = place + 2 if kind == b"!" else place + 11 + _colors(data, place + 9)
        while after < data.size and (length := data.at(after, 1)[0]):
            after += 1 + length
        if after >= data.size:
            break
        place = after + 1
    return Header(is_cut=True, holes=(Hole(place, inf),) if place < data.size else ())


def _colors(data: _Bytes, place: int) -> int:
    """Bytes of a table of colours, by the flags that announce it."""
    flags = int.from_bytes(data.at(place, 1))
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


# MXF: SMPTE ST 377-1

_PACK = b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01"
_FOOTER, _PLACES_OF_PARTITIONS = _PACK + b"\x04", _PACK + b"\x11"


def _look_at_mxf(data: _Bytes) -> Header:
    """The last partition, with the index of its frames, and the list of all of them are written last."""
    length = int.from_bytes(data.at(max(data.size - 4, 0), 4))
    if data.at(max(data.size - length, 0), len(_PACK) + 1) == _PLACES_OF_PARTITIONS:
        return Header()
    return Header(is_cut=_FOOTER not in data.at(max(data.size - _PIECE, 0), _PIECE))
