"""Videos that are pictures already: a folder of frames, an array. `Video` is the face of both."""

import math
import os
import re
from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .ffmpeg import VideoError, decode_pictures

__all__ = ["FPS", "Array", "Folder", "is_animated", "is_folder", "is_frames", "open_array"]

FPS = 30.0  # of what has no times; frame lists of the field count in frames of 30 a second

_SUFFIXES = frozenset({"bmp", "jpeg", "jpg", "png", "webp"})
_MOST_CHANNELS = 4

# An x or a u that stands alone in a name, and its partner: horizontal flow, vertical flow.
_HORIZONTAL = re.compile(r"(?<![A-Za-z])[xu](?![A-Za-z])")
_VERTICAL = {"x": "y", "u": "v"}

_Numbered = tuple[int, str]  # the number in the name of a file, and the file


def is_frames(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is one video: most of its files are numbered pictures, or it holds two folders of flow."""
    if not Path(folder).is_dir():
        return False
    listing = _list(Path(folder))
    if listing.sequences:
        # of a folder of videos that are pictures by their names, one tells
        webps = (numbered[0][1] for (_, suffix), numbered in listing.sequences.items() if suffix == "webp")
        is_most = sum(map(len, listing.sequences.values())) > listing.num_others
        return is_most and not any(is_animated(Path(folder, name)) for name in webps)
    flow = _flow(listing.folders)
    return bool(flow) and all(is_frames(Path(folder, name)) for name in flow)


def is_animated(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a WebP of several pictures, which its first bytes tell."""
    path = Path(path)
    if path.suffix.lower() != ".webp" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(21)
    except OSError:  # whoever reads it tells why it cannot be
        return False
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) == 21 and bool(head[20] & 2)


class Folder:
    """A folder of frames: pictures (jpg, png, bmp, webp) whose names are alike but for the number at their end.

    Any prefix will do, with the numbers padded or not, from any first number on: `img_00001.jpg`, `000001.jpg`,
    `frame0.png`, `ID-000001.jpg`. Other files are ignored. Two sequences that differ in an x and a y (or u and v)
    are optical flow and give two channels: `flow_x_00001.jpg` and `flow_y_00001.jpg`, or the folders `u` and `v`. Where
    pictures lie beside their flow, the pictures are meant.

    Args:
        path: the folder.
        fps: frames a second; None takes `FPS`.

    Attributes:
        path: the folder.
        times: (num_frames,) float64, seconds from the first frame to each.
        duration_s: seconds from the first frame to the end of the last.
        channels: 3, or 2 of flow.
        is_damaged: never; a number that is missing is an error.

    Raises:
        VideoError: no numbered picture, several sequences, a number that is missing or there twice.
        ValueError: fps not above 0.
    """

    is_damaged = False

    def __init__(self, path: str | os.PathLike[str], fps: float | None = None) -> None:
        self.path = Path(path)
        self._files = [_in_order(self.path, numbered) for numbered in _choose(self.path)]
        if len({len(files) for files in self._files}) > 1:
            x, y = self._files
            raise VideoError(
                f"{self.path}: {len(x)} pictures like {x[0]} and {len(y)} like {y[0]}; flow has as many of both"
            )
        self._size: tuple[int, int] | None = None
        self.channels = 2 if len(self._files) == 2 else 3
        self.times, self.duration_s = _times(len(self._files[0]), fps)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pictures."""
        if self._size is None:
            next(self.pictures([0]))
        assert self._size is not None
        return self._size

    def pictures(self, wanted: Sequence[int]) -> Generator[np.ndarray]:
        """The pictures of these frame indices: (H, W, 3) uint8 RGB, or (H, W, 2) of flow. No other file is read.

        Raises:
            VideoError: a picture cannot be decoded, or is of another size than the others.
        """
        channels = (self._decoded([files[index] for index in wanted]) for files in self._files)
        for planes in zip(*channels, strict=True):
            yield planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)

    def close(self) -> None:
        """Nothing stays open between two pictures."""

    def _decoded(self, files: Sequence[str]) -> Generator[np.ndarray]:
        paths = [self.path / file for file in files]
        for path, picture in zip(paths, decode_pictures(paths, is_gray=len(self._files) == 2), strict=True):
            size = (picture.shape[0], picture.shape[1])
            self._size = self._size or size
            if size != self._size:
                raise VideoError(
                    f"{path}: {size[0]}x{size[1]} where other frames of the folder are "
                    f"{self._size[0]}x{self._size[1]} (height x width); bring them to one size"
                )
            yield picture


class Array:
    """A video in memory, or memory-mapped: (C, T, H, W) or (T, H, W, C) of uint8, C from 1 to 4.

    Args:
        array: the frames; they are not copied.
        fps: frames a second; None takes `FPS`.
        path: what errors call it.

    Attributes:
        path: what errors call it.
        times: (num_frames,) float64, seconds from the first frame to each.
        duration_s: seconds from the first frame to the end of the last.
        channels: C.
        is_damaged: never.

    Raises:
        VideoError: another dtype, a shape that is neither, or one that may be both.
        ValueError: fps not above 0.
    """

    is_damaged = False

    def __init__(self, array: np.ndarray | Tensor, fps: float | None = None, path: Path = Path("array")) -> None:
        self.path = path
        dtype = str(array.dtype).removeprefix("torch.")
        what = f"{path}: {tuple(array.shape)} of {dtype}"
        layouts = "(C, T, H, W) or (T, H, W, C) of uint8, C from 1 to 4"
        if array.ndim != 4 or dtype != "uint8" or 0 in array.shape:
            raise VideoError(f"{what}; give {layouts}")
        if isinstance(array, Tensor):
            array = array.detach().cpu().numpy()
        is_first, is_last = (array.shape[axis] <= _MOST_CHANNELS for axis in (0, -1))
        if is_first and is_last:
            raise VideoError(f"{what} may be (C, T, H, W) or (T, H, W, C); bring the latter to (C, T, H, W)")
        if not (is_first or is_last):
            raise VideoError(f"{what} is neither of {layouts}")
        self._frames = array if is_last else array.transpose(1, 2, 3, 0)
        self.channels = int(self._frames.shape[3])
        self.times, self.duration_s = _times(len(self._frames), fps)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pictures."""
        return self._frames.shape[1:3]

    def pictures(self, wanted: Sequence[int]) -> Generator[np.ndarray]:
        """The pictures (H, W, C), uint8, of these frame indices."""
        for index in wanted:
            yield np.asarray(self._frames[index])

    def close(self) -> None:
        """The memory is the caller's."""


def open_array(path: str | os.PathLike[str], fps: float | None = None) -> Array:
    """The array of a `.npy` file, memory-mapped: what is not asked for is not read.

    Raises:
        VideoError: no such file, or not such an array.
        ValueError: fps not above 0.
    """
    path = Path(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror}") from None
    except (ValueError, EOFError) as error:
        raise VideoError(f"{path}: not an array that numpy can read ({error})") from None
    return Array(array, fps, path)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; a link to itself, which the system refuses to follow, is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


class _Listing(NamedTuple):
    """What lies in a folder."""

    sequences: dict[tuple[str, str], list[_Numbered]]  # numbered pictures by (prefix, suffix)
    unnumbered: list[str]  # other pictures
    num_others: int  # files that are no numbered pictures
    folders: list[str]


def _list(folder: Path) -> _Listing:
    sequences: dict[tuple[str, str], list[_Numbered]] = defaultdict(list)
    unnumbered: list[str] = []
    folders: list[str] = []
    num_others = 0
    # Names alone: to ask each of 100,000 files what it is would take longer than to decode a clip.
    with os.scandir(folder) as entries:
        for entry in entries:
            stem, _, suffix = entry.name.rpartition(".")
            prefix = stem.rstrip("0123456789")
            if entry.name.startswith("."):
                continue
            if suffix.lower() in _SUFFIXES and prefix != stem:
                sequences[prefix, suffix.lower()].append((int(stem[len(prefix) :]), entry.name))
            elif suffix.lower() in _SUFFIXES:
                unnumbered.append(entry.name)
                num_others += 1
            elif is_folder(entry):
                folders.append(entry.name)
            else:
                num_others += 1
    return _Listing(sequences, unnumbered, num_others, folders)


def _choose(folder: Path) -> list[list[_Numbered]]:
    """The one sequence of pictures, or the two of flow."""
    try:
        listing = _list(folder)
    except OSError as error:
        raise VideoError(f"{folder}: {error.strerror}") from None
    sequences = {f"{prefix}0.{suffix}": numbered for (prefix, suffix), numbered in listing.sequences.items()}
    if not sequences and (flow := _flow(listing.folders)):
        return [[(number, f"{name}/{file}") for number, file in _choose(folder / name)[0]] for name in flow]
    if not sequences:
        raise VideoError(f"{folder}: a directory without frames, which are numbered pictures such as img_00001.jpg")
    flow = _flow(sequences)
    pictures = [numbered for name, numbered in sequences.items() if name not in flow]
    strays = sorted(min(numbered)[1] for numbered in pictures[1:]) + sorted(listing.unnumbered)
    chosen = pictures[:1] or [sequences[name] for name in flow]
    if strays:
        raise VideoError(
            f"{folder}: {min(chosen[0])[1]} and {strays[0]} are not of one sequence; "
            "frames are alike but for the number at their end"
        )
    return chosen


def _flow(names: Iterable[str]) -> tuple[str, ...]:
    """The names of horizontal and vertical flow among these, if any: one has an x for the other's y, or u for v."""
    known = set(names)
    for name in known:
        partner = _HORIZONTAL.sub(lambda found: _VERTICAL[found[0]], name)
        if partner != name and partner in known:
            return name, partner
    return ()


def _in_order(folder: Path, numbered: list[_Numbered]) -> list[str]:
    """Files by number. A gap is an error: all frames after it would be taken for earlier ones."""
    numbered = sorted(numbered)
    for (number, file), (next_number, next_file) in pairwise(numbered):
        if next_number == number:
            raise VideoError(f"{folder}: {file} and {next_file} have the same number")
        if next_number > number + 1:
            raise VideoError(
                f"{folder}: picture {number + 1} is missing, between {file} and {next_file}; "
                "extract the frames again, or number them without a gap"
            )
    return [file for _, file in numbered]


def _times(num_frames: int, fps: float | None) -> tuple[Tensor, float]:
    rate = FPS if fps is None else fps
    if not 0 < rate < math.inf:
        raise ValueError(f"fps {fps}; it must be above 0 and finite")
    return torch.arange(num_frames, dtype=torch.float64) / rate, num_frames / rate
