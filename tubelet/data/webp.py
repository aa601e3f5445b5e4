"""Animated WebP. FFmpeg decodes single pictures alone: they are cut out of the file, and laid together here."""

import os
from collections.abc import Generator, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from .ffmpeg import VideoError, decode_webp

__all__ = ["Webp"]

_ANMF_BYTES = 16  # place, size, duration and flags, before the picture
_DEFAULT_MS = 100  # a browser's, for a frame that says 0


class _Part(NamedTuple):
    """A picture that is laid on those before it."""

    start: int  # of its chunks in the file
    end: int
    top: int
    left: int
    height: int
    width: int
    duration_ms: int
    is_blended: bool  # where it is transparent, what was there stays
    is_cleared: bool  # afterwards nothing is left there


class Webp:
    """An animated WebP file (RFC 9649), a source of `Video`. Transparency is left out.

    Args:
        path: the file.

    Attributes:
        path: the file.
        times: (num_frames,) float64, seconds from the first frame to each.
        duration_s: seconds from the first frame to the end of the last.
        channels: 3.
        is_damaged: the file breaks off; the frames before the break are there.
        size: (height, width) of the pictures.

    Raises:
        VideoError: the file holds no frame.
    """

    channels = 3

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._data = self.path.read_bytes()
        self.size = (_number(self._data, 27, 3) + 1, _number(self._data, 24, 3) + 1)
        self._parts = list(_parts(self._data))
        if not self._parts:
            raise VideoError(f"{self.path}: the file holds no whole frame")
        self.is_damaged = 8 + _number(self._data, 4, 4) > len(self._data)
        ends_ms = list(accumulate(part.duration_ms for part in self._parts))
        self.times = torch.tensor([0, *ends_ms[:-1]], dtype=torch.float64) / 1000
        self.duration_s = ends_ms[-1] / 1000

    def close(self) -> None:
        """Let go of the file's bytes. Closing twice is fine."""
        self._data = b""

    def pictures(self, wanted: Sequence[int]) -> Generator[np.ndarray]:
        """The pictures (H, W, 3), uint8 RGB, of these ascending frame indices.

        Raises:
            VideoError: a frame cannot be decoded.
        """
        missing = list(wanted)
        canvas = np.zeros((*self.size, 4), np.uint8)
        for index in range(self._start(missing[0]), missing[-1] + 1):
            part = self._parts[index]
            area = canvas[part.top : part.top + part.height, part.left : part.left + part.width]
            picture = self._decoded(index)
            if picture.shape != area.shape:
                raise VideoError(f"{self.path}: frame {index} does not lie in the picture of {self.size}")
            area[:] = _over(picture, area) if part.is_blended else picture
            while missing and missing[0] == index:
                yield np.ascontiguousarray(canvas[..., :3])
                missing.pop(0)
            if part.is_cleared:
                area[:] = 0

    def _start(self, index: int) -> int:
        """The last frame up to this one that covers all that was before it."""
        parts = self._parts[: index + 1]
        covers = (i for i in range(index, 0, -1) if parts[i][4:6] == self.size and not parts[i].is_blended)
        return next(covers, 0)

    def _decoded(self, index: int) -> np.ndarray:
        part = self._parts[index]
        try:
            return decode_webp(_still(self._data[part.start : part.end], part))
        except VideoError as error:
            raise VideoError(f"{self.path}: frame {index} of {len(self._parts)} cannot be decoded ({error})") from None


def _parts(data: bytes) -> Iterator[_Part]:
    for kind, start, end in _chunks(data, 12, len(data)):
        if kind != b"ANMF" or end - start < _ANMF_BYTES:
            continue
        left, top, width, height, duration_ms = (_number(data, start + 3 * i, 3) for i in range(5))
        flags = data[start + 15]
        yield _Part(
            start=start + 16,
            end=end,
            top=2 * top,
            left=2 * left,
            height=height + 1,
            width=width + 1,
            duration_ms=duration_ms or _DEFAULT_MS,
            is_blended=not flags & 2,
            is_cleared=bool(flags & 1),
        )


def _chunks(data: bytes, place: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of the whole chunks."""
    while place + 8 <= end:
        size = _number(data, place + 4, 4)
        if place + 8 + size > end:
            return
        yield data[place : place + 4], place + 8, place + 8 + size
        place += 8 + size + size % 2


def _still(chunks: bytes, part: _Part) -> bytes:
    """A WebP file of one picture."""
    sides = (part.width - 1).to_bytes(3, "little") + (part.height - 1).to_bytes(3, "little")
    has_alpha = chunks[:4] == b"ALPH"
    body = b"WEBPVP8X" + (10).to_bytes(4, "little") + bytes([16 * has_alpha, 0, 0, 0]) + sides + chunks
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def _over(picture: np.ndarray, below: np.ndarray) -> np.ndarray:
    """A picture (H, W, 4) on another, in the whole numbers of libwebp."""
    over, under = picture.astype(np.uint64), below.astype(np.uint64)
    alpha = over[..., 3:]
    rest = under[..., 3:] * (256 - alpha) >> 8
    together = alpha + rest
    scale = (1 << 24) // np.maximum(together, 1)
    colors = (over[..., :3] * alpha + under[..., :3] * rest) * scale >> 24
    blended = np.concatenate([colors, together], -1)
    return np.select([alpha == 255, alpha > 0], [over, blended], under).astype(np.uint8)


def _number(data: bytes, place: int, size: int) -> int:
    return int.from_bytes(data[place : place + size], "little")
