"""Indexes of video files, kept in the cache folder, so that a file is read through once and not each time it is opened.

An entry belongs to a path, a size and a time of change. Its name is a number made from the path, one of `_SLOTS`, and
a file that comes to a taken one takes it over: the folder stays below that many entries, of a few hundred bytes each.
"""

import os
import re
import zlib
from hashlib import blake2b
from pathlib import Path

import numpy as np

from ..machine import aside, cache_dir

__all__ = ["footprint", "load", "save"]

_SLOTS = 1 << 18
_KEY_SIZE = 16
_HEADERS = (".mhd", ".nhdr")  # of scans whose voxels lie in another file, which they name
_DATA = re.compile(rb"^(?:ElementDataFile\s*=|data ?file:)(.+)$", re.MULTILINE)
_MOST_PARTS = 2**16  # that are looked at
_RANGE = re.compile(rb"(\S*%.*?)\s+(-?\d+)\s+(-?\d+)(?:\s+(-?[1-9]\d*))?(?:\s+\d)?")  # pattern, first, last, step


def footprint(path: Path) -> tuple[int, int]:
    """Bytes, and time of the last change (ns), of a video, file or folder of frames: with others it is another one.

    Of the header of a scan, those of the files of its voxels count as well.
    """
    status = path.stat()
    if path.is_dir():
        inside = [file.stat() for file in path.rglob("*")]
        return sum(s.st_size for s in inside), max(s.st_mtime_ns for s in [status, *inside])
    all_of_it = [status]
    if path.suffix.lower() in _HEADERS:
        with path.open("rb") as file:
            files = [path.parent / os.fsdecode(name) for name in _named(file.read(2**20))]
        all_of_it += [file.stat() for file in files if file.is_file()]
    return sum(s.st_size for s in all_of_it), max(s.st_mtime_ns for s in all_of_it)


def _named(header: bytes) -> list[bytes]:
    """The files of voxels that a header names: one, a list, or a pattern with numbers such as `s%03d.raw 1 20 1`."""
    if (found := _DATA.search(header)) is None:
        return []
    value = found[1].strip()
    if re.match(rb"LIST\b", value):
        return [line.strip() for line in header[found.end() :].splitlines() if line.strip()]
    if (numbered := _RANGE.fullmatch(value)) is None:
        return [value]
    first, last, step = (int(number or 1) for number in numbered.groups()[1:])
    try:
        return [numbered[1] % number for number in range(first, last + (1 if step > 0 else -1), step)[:_MOST_PARTS]]
    except (TypeError, ValueError):  # no pattern of one number
        return [value]


def load(path: Path, state: os.stat_result, version: str) -> np.ndarray | None:
    """The numbers kept for a file, if it has not changed since.

    Args:
        path: the file.
        state: its size and time of change.
        version: of what makes the numbers and of their order.

    Returns:
        (N,) int64; None where there is no entry, or a damaged one.
    """
    try:
        data = _place(path).read_bytes()
        if data[:_KEY_SIZE] != _key(path, state, version):
            return None
        return np.frombuffer(zlib.decompress(data[_KEY_SIZE:]), "<i8").cumsum()
    except (OSError, RuntimeError, ValueError, zlib.error):
        return None


def save(path: Path, state: os.stat_result, version: str, numbers: np.ndarray) -> None:
    """Keep numbers for a file. Where the cache folder cannot be written nothing is kept.

    Args:
        path: as in `load`.
        state: as in `load`, from before the file was read.
        version: as in `load`.
        numbers: (N,) int64. Steady steps take the least room.
    """
    try:
        place = _place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        steps = np.diff(numbers, prepend=0).astype("<i8")
        with aside(place) as made:
            made.write_bytes(_key(path, state, version) + zlib.compress(steps.tobytes(), 1))
    except (OSError, RuntimeError):
        pass


def _place(path: Path) -> Path:
    number = int.from_bytes(blake2b(_name(path)).digest()) % _SLOTS
    return cache_dir() / "index" / f"{number >> 10:02x}" / f"{number & 1023:03x}"


def _key(path: Path, state: os.stat_result, version: str) -> bytes:
    numbers = f"{state.st_size} {state.st_mtime_ns} {version} ".encode()
    return blake2b(numbers + _name(path), digest_size=_KEY_SIZE).digest()


def _name(path: Path) -> bytes:
    return os.fsencode(path.absolute())
