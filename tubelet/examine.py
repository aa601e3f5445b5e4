"""What a video shows when some of its frames are decoded, remembered until the file changes; what a scan holds."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sqlite3
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .data import fingerprint
from .data.container import codec_of
from .data.indexes import footprint
from .data.sample import Sample
from .data.scans import TIME_LIMIT_S, check_labels
from .data.video import Video, VideoError
from .data.volume import VolumeError, read_mask, read_volume
from .machine import cache_dir
from .processes import Failed, alive, each
from .terminal import progress

VERSION = 3  # of what is remembered; what another version remembers is not looked at
_BLANK = 8  # grey levels between the darkest and the brightest field of a picture that shows nothing
_STILL = 4  # grey levels by which a field changes in a video that does not move
_UNSTEADY = 0.5  # of the usual time between two frames: by how much those times differ where the rate varies
_BLOCK = 16  # frames in memory at a time
_WAIT_S = 10.0  # for another process that writes to the memory


@dataclass(frozen=True)
class Seen:
    """What was found out about a video.

    Attributes:
        num_frames: of the video.
        fps: frames a second, the average.
        duration_s: its length.
        height: of the pictures; 0 where none could be decoded.
        width: likewise.
        codec: how the file is compressed, such as h264; empty for a folder of frames and for an array.
        size: bytes of the file, or of all files of a folder of frames.
        is_steady: whether all frames are shown for the same time.
        is_blank: no picture shows more than one colour.
        is_still: all pictures are the same.
        cut_short: what is there of a file that breaks off; empty if it is whole.
        damage: which frame cannot be decoded; empty if all those looked at can.
        print: fingerprint of a video that shows something, float16 in base64; empty for an array.
    """

    num_frames: int
    fps: float
    duration_s: float
    height: int
    width: int
    codec: str
    size: int
    is_steady: bool
    is_blank: bool = False
    is_still: bool = False
    cut_short: str = ""
    damage: str = ""
    print: str = ""

    @property
    def fingerprint(self) -> Tensor:
        """(576,) float32."""
        return torch.from_numpy(np.frombuffer(base64.b64decode(self.print), np.float16).astype(np.float32))


@dataclass(frozen=True)
class Scan:
    """What was found out about a scan.

    Attributes:
        shape: (channels, depth, height, width).
        spacing_mm: between voxels along (depth, height, width).
        size: bytes of its file, or of all files of its series.
        is_blank: all voxels have one value.
        labels: those of its mask; empty without one.
        wrong: why its mask cannot be used; empty if it can.
        print: empty, as scans are compared by their bytes: the same organ in two bodies looks alike.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    size: int
    is_blank: bool
    labels: tuple[int, ...] = ()
    wrong: str = ""
    print: str = ""


def examine(
    videos: Sequence[Path], *, full: bool = False, workers: int | None = None, time_limit_s: float = 60.0
) -> tuple[dict[Path, Seen], dict[Path, str]]:
    """What each of these videos shows, and why the others cannot be read.

    Args:
        videos: files, or folders of frames.
        full: decode all frames; else sixteen, the first and the last among them.
        workers: processes; None takes one a core.
        time_limit_s: seconds in which a video must show a frame.
    """
    # whoever saw all frames has seen these, too
    known = ["all frames"] if full else ["all frames", "some frames"]
    found, failed = _remembered(videos, known, partial(_look, full=full), "looking", workers, time_limit_s)
    return {path: Seen(**value) for path, value in found.items()}, failed


def examine_scans(
    samples: Sequence[Sample], num_classes: int, *, workers: int | None = None
) -> tuple[dict[Path, Scan], dict[Path, str]]:
    """What each of these scans and its mask hold, read as training reads them; and why the others cannot be read.

    Args:
        samples: scans with the file of a mask or the index of a class.
        num_classes: labels of masks are below it.
        workers: processes; None takes one a core.
    """
    found: dict[Path, Scan] = {}
    failed: dict[Path, str] = {}
    look = partial(_look_at_scan, num_classes=num_classes)
    with closing(each(look, samples, workers=workers, time_limit_s=TIME_LIMIT_S)) as asked:
        for sample, answer in progress(asked, "looking", len(samples)):
            if isinstance(answer, Failed):
                failed[sample.path] = answer.reason.removeprefix(f"{sample.path}: ")
            else:
                found[sample.path] = answer
    return found, failed


def contents(videos: Sequence[Path], *, workers: int | None = None, time_limit_s: float = 60.0) -> dict[Path, str]:
    """A hash of the whole of each file."""
    return _remembered(videos, ["hash"], _hash, "comparing", workers, time_limit_s)[0]


def _remembered(
    paths: Sequence[Path],
    known: Sequence[str],
    function: Callable[[Path], Any],
    what: str,
    workers: int | None,
    time_limit_s: float,
) -> tuple[dict[Path, Any], dict[Path, str]]:
    """Answers of a function for each path, and reasons for those without; what is known is not asked again."""
    answers: dict[Path, Any] = {}
    failed: dict[Path, str] = {}
    stamps: dict[Path, tuple[int, int]] = {}
    for path in paths:
        with suppress(OSError):  # a worker will tell why
            stamps[path] = footprint(path)
    with closing(_Memory()) as memory:
        for path, stamp in stamps.items():
            if (value := memory.recall(path, known, stamp)) is not None:
                answers[path] = value
        waiting = [path for path in paths if path not in answers]
        try:
            with closing(each(function, waiting, workers=workers, time_limit_s=time_limit_s)) as asked:
                for path, answer in progress(asked, what, len(waiting)):
                    if isinstance(answer, Failed):
                        failed[path] = answer.reason.removeprefix(f"{path}: ")
                    else:
                        answers[path] = answer
                        memory.keep(path, known[-1], stamps[path], answer)
        except KeyboardInterrupt:
            told = f"{len(answers)} of {len(paths)} videos are examined; the same command goes on from there"
            raise KeyboardInterrupt(told) from None
    return answers, failed


def _look(path: Path, full: bool) -> dict[str, Any]:
    is_array = path.suffix.lower() == ".npy"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with Video(path) as video:
            found = Seen(
                num_frames=video.num_frames,
                fps=video.fps,
                duration_s=video.duration_s,
                height=0,
                width=0,
                codec="" if path.is_dir() or is_array else codec_of(path),
                size=footprint(path)[0],
                is_steady=_is_steady(video.times),
                cut_short="; ".join(str(each.message).removeprefix(f"{path}: ") for each in told),
            )
            try:
                pictures = _pictures(video, full)
            except VideoError as error:
                return {**asdict(found), "damage": str(error).removeprefix(f"{path}: ")}
            gray = pictures.float().mean(0).flatten(1)
            is_blank = bool((gray.amax(1) - gray.amin(1)).max() < _BLANK)
            print_ = fingerprint.fingerprint(pictures).half().numpy().tobytes()
            return {
                **asdict(found),
                "height": video.height,
                "width": video.width,
                "is_blank": is_blank,
                "is_still": video.num_frames > 1 and bool((gray - gray[0]).abs().max() < _STILL),
                # arrays are volumes: organs cut out alike are near to one another without being copies
                "print": "" if is_blank or is_array else base64.b64encode(print_).decode(),
            }


def _look_at_scan(sample: Sample, num_classes: int) -> Scan:
    volume = read_volume([sample.path, *sample.more])
    array, grid = volume.array, volume.grid
    size = sum(footprint(path)[0] for path in (sample.path, *sample.more))
    found = Scan(array.shape, grid.spacing_mm, size, bool(array.min() == array.max()))
    if not isinstance(sample.target, Path):
        return found
    try:
        mask = read_mask(sample.target, grid).array
        check_labels(sample.target, mask, num_classes)
    except VolumeError as error:
        return replace(found, wrong=str(error))
    return replace(found, labels=tuple(np.unique(mask).tolist()))


def _pictures(video: Video, full: bool) -> Tensor:
    """The frames of a fingerprint, (C, 16, 32, 32); on the way to them, in full, all others are decoded."""
    wanted = fingerprint.spread(video.num_frames)
    total = video.num_frames
    blocks = (
        [range(i, min(i + _BLOCK, total)) for i in range(0, total, _BLOCK)]
        if full
        else [[i] for i in sorted({*wanted})]
    )
    kept: dict[int, Tensor] = {}
    for block, clip in zip(blocks, video.clips(blocks, resize=(fingerprint.SIZE, fingerprint.SIZE)), strict=True):
        alive()
        kept.update((i, clip[:, i - block[0]]) for i in block if i in wanted)
    return torch.stack([kept[i] for i in wanted], dim=1)


def _is_steady(times: Tensor) -> bool:
    between = times.diff()
    return len(between) < 2 or bool(between.max() - between.min() < _UNSTEADY * between.median())


def _hash(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while part := file.read(1 << 22):
            alive()
            digest.update(part)
    return digest.hexdigest()


class _Memory:
    """What was found out about files, in the cache folder; where that cannot be written, nowhere."""

    def __init__(self) -> None:
        place = cache_dir() / f"examined-v{VERSION}.sqlite"
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            self._base = self._open(str(place))
        except (OSError, sqlite3.Error):
            self._base = self._open(":memory:")

    def _open(self, place: str) -> sqlite3.Connection:
        base = sqlite3.connect(place, timeout=_WAIT_S, isolation_level=None)
        base.execute("pragma synchronous = off")  # what is lost in a power cut is found out again
        base.execute(
            "create table if not exists seen (path blob, what text, size int, changed int, value text, "
            "primary key (path, what)) without rowid"
        )
        return base

    def recall(self, path: Path, known: Iterable[str], stamp: tuple[int, int]) -> Any:
        """What is known of a file that has not changed, the first that there is; else None."""
        query = "select value from seen where path = ? and what = ? and size = ? and changed = ?"
        with suppress(sqlite3.Error):  # a damaged file
            for what in known:
                if row := self._base.execute(query, (os.fsencode(path.absolute()), what, *stamp)).fetchone():
                    return json.loads(row[0])
        return None

    def keep(self, path: Path, what: str, stamp: tuple[int, int], value: Any) -> None:
        """Remember it."""
        with suppress(sqlite3.Error):  # a full disk, another process that does not let go
            row = (os.fsencode(path.absolute()), what, *stamp, json.dumps(value))
            self._base.execute("insert or replace into seen values (?, ?, ?, ?, ?)", row)

    def close(self) -> None:
        """Close the file."""
        self._base.close()
