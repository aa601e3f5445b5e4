"""Functional groups of enhanced DICOM files (PS3.3, C.7.6.16): what each of the frames in one file tells, by its bytes.

ITK shows no sequences. It takes frames in the order in which they are stored, and the first one's rescale for all.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from .grid import VolumeError

__all__ = ["frames"]

_SHARED, _EACH = 0x52009229, 0x52009230
_GROUPS = {0x00209113, 0x00209116, 0x00289110, 0x00289145}  # position, orientation, measures, values of a frame
# What is told: SliceThickness, SpacingBetweenSlices, position, orientation, PixelSpacing, intercept, slope.
_TOLD = {0x00180050, 0x00180088, 0x00200032, 0x00200037, 0x00280030, 0x00281052, 0x00281053}
_OF_FILE = {0x00080016, 0x00280004}  # SOPClassUID, PhotometricInterpretation
_SYNTAX, _PIXELS = 0x00020010, 0x7FE0
_ITEM, _ENDS = 0xFFFEE000, (0xFFFEE00D, 0xFFFEE0DD)
_OPEN = 0xFFFFFFFF  # the length of what a mark ends

# PS3.5, 7.1.2: kinds of values whose length takes four bytes, after two that are empty.
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_IMPLICIT = b"1.2.840.10008.1.2"
_OTHER = {b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99"}  # big-endian, deflated


def frames(path: Path) -> list[dict[str, str]] | None:
    """What the groups tell of each frame under names such as 0020|0032, with what they and the file tell of all.

    None where the file has another order of bytes or is deflated; empty where it has no groups.

    Raises:
        VolumeError: it is damaged.
    """
    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            return []
        with closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as data:
            try:
                return _frames(data)
            except struct.error:
                raise VolumeError(f"{path}: cannot be read (cut short within its header)") from None


def _frames(data: mmap.mmap) -> list[dict[str, str]] | None:
    at, syntax = 132, b""
    while struct.unpack_from("<H", data, at)[0] == 2:
        tag, _, length, start = _head(data, at, True)
        at = start + length
        if tag == _SYNTAX:
            syntax = data[start:at].rstrip(b"\0 ")
    if syntax in _OTHER:
        return None
    told: dict[str, str] = {}
    found: dict[int, list[dict[str, str]]] = {}
    for tag, start, end, is_explicit in _walk(data, at, len(data), syntax != _IMPLICIT):
        if tag in (_SHARED, _EACH):
            found[tag] = [_told(data, *item[1:]) for item in _walk(data, start, end, is_explicit)]
        elif tag in _OF_FILE:
            told |= _text(data, tag, start, end)
    shared = found.get(_SHARED) or [{}]
    return [{**told, **shared[0], **each} for each in found.get(_EACH, ())]


def _told(data: mmap.mmap, start: int, end: int, is_explicit: bool) -> dict[str, str]:
    """Of `_TOLD` what an item of the groups holds."""
    told: dict[str, str] = {}
    for tag, begin, stop, is_inner_explicit in _walk(data, start, end, is_explicit):
        if tag in _TOLD:
            told |= _text(data, tag, begin, stop)
        elif tag in _GROUPS or tag == _ITEM:
            told |= _told(data, begin, stop, is_inner_explicit)
    return told


def _text(data: mmap.mmap, tag: int, start: int, end: int) -> dict[str, str]:
    return {f"{tag >> 16:04x}|{tag & 0xFFFF:04x}": data[start:end].decode(errors="replace").strip("\0 ")}


def _walk(data: mmap.mmap, at: int, end: int, is_explicit: bool) -> Iterator[tuple[int, int, int, bool]]:
    """The elements of a data set, or the items of a sequence, up to the voxels.

    Yields:
        Its tag, where its value begins and ends, and whether the kinds of what is in there are written.
    """
    while at < end:
        tag, kind, length, start = _head(data, at, is_explicit)
        if tag in _ENDS or tag >> 16 == _PIXELS:
            return
        is_inner_explicit = is_explicit and kind != b"UN"
        stop = _end(data, start, is_inner_explicit) if length == _OPEN else start + length
        yield tag, start, stop, is_inner_explicit
        at = stop + 8 if length == _OPEN else stop


def _end(data: mmap.mmap, at: int, is_explicit: bool) -> int:
    """Where the mark stands that ends a value without a length."""
    while True:
        tag, kind, length, start = _head(data, at, is_explicit)
        if tag in _ENDS:
            return at
        at = _end(data, start, is_explicit and kind != b"UN") + 8 if length == _OPEN else start + length


def _head(data: mmap.mmap, at: int, is_explicit: bool) -> tuple[int, bytes, int, int]:
    """Of the element that begins at a byte: its tag, kind, the length of its value, and where that begins."""
    group, element, length = struct.unpack_from("<HHI", data, at)
    tag, kind = group << 16 | element, data[at + 4 : at + 6]
    if not is_explicit or group == _ITEM >> 16:
        return tag, b"", length, at + 8
    if kind in _LONG:
        return tag, kind, struct.unpack_from("<I", data, at + 8)[0], at + 12
    return tag, kind, length >> 16, at + 8
