"""What train and evaluate read: parts of a data set, and what is said of its files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from . import terminal
from .data import flow, motion, sampling
from .data.datasets import ViewClips
from .data.layouts import open_data
from .data.loader import SKIP, OnBad, Readable
from .data.sample import Task, VideoData
from .data.sampling import Short
from .data.video import Video, VideoError
from .processes import cores
from .spec import ClipSpec

_LOOKED_AT = 10  # videos, before it is said that none gives a clip


def open_parts(data: str | os.PathLike, parts: Sequence[str], task: Task | None, fold: int | None) -> VideoData:
    """A data set that has samples in each of these parts.

    Args:
        data: a path as `open_data` takes it, or `motion` (built in).
        parts: names of splits.
        task: what it is to be read as; None takes what it says, where it says several things classify.
        fold: which official fold; None takes the first.

    Raises:
        ValueError: as in `open_data`; or a part has no samples.
    """
    place = motion.motion() if str(data) == "motion" else data
    found = open_data(place, task=task, fold=fold)
    if task is None and found.task == "frames":  # spans may be clips of one class as well
        with suppress(ValueError):
            found = open_data(place, task="classify", fold=fold)
    check_parts(data, found, parts)
    return found


def check_parts(data: str | os.PathLike, found: VideoData, parts: Sequence[str]) -> None:
    """Raise ValueError unless a data set, named as `data`, has samples in each of these parts, and labels of some."""
    for part in parts:
        if not found.splits.get(part):
            there = ", ".join(sorted(name for name, samples in found.splits.items() if samples))
            fix = ""
            if part == "val" and (train := found.splits.get("train")):
                why = "of one sample" if len(train) == 1 else "as each group of train has a class that no other has,"
                fix = f"; {why} none is left to validate on: add others, or a part val"
            raise ValueError(f"{data}: no part {part!r}; it has {there or 'no samples at all'}{fix}")
        samples = found.splits[part]
        if found.task in ("multilabel", "frames", "detect") and not any(sample.target for sample in samples):
            raise ValueError(
                f"{data}: part {part} has {terminal.counted(len(samples), 'sample')} and not one label, so that "
                "nothing can be learned or measured there; label some, or take a part that has labels"
            )


def channels_of(data: VideoData, part: str) -> int:
    """Channels of the clips of a part: those of its first video that can be opened, and 3 where none can."""
    for sample in data.splits[part][:_LOOKED_AT]:
        with (
            suppress(VideoError),
            warnings.catch_warnings(action="ignore"),
            Video(sample.path, sample.fps) as video,
        ):
            return video.channels
    return 3


def compute_flow(data: VideoData, parts: Sequence[str], on_bad: OnBad, workers: int | None) -> None:
    """Have the optical flow of all videos of some parts in the cache folder, see `flow.compute`, unless they are flow.

    Of the processes of one machine that share a step, each computes its share.

    Args:
        data: the data set.
        parts: names of splits.
        on_bad: with raise, a video that cannot be read is an error here; else whoever reads it will tell.
        workers: processes; None, or 0, takes one a core.

    Raises:
        VideoError: a video cannot be read.
        ValueError: as in `flow.compute`.
    """
    if channels_of(data, parts[0]) == flow.CHANNELS:
        return
    paths = list(dict.fromkeys(sample.path for part in parts for sample in data.splits[part]))
    rank, world = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    failed = flow.compute(paths[rank::world], workers=workers or max(1, cores() // world))
    if failed and on_bad == "raise":
        raise VideoError(f"{next(iter(failed.values()))} {SKIP}")


def check_apart(data: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Check that what is written does not lie among the videos, where it would be read as a part of the data.

    Raises:
        ValueError: `folder` is, or lies in, the folder `data`.
    """
    root, folder = Path(data), Path(folder)
    if str(data) != "motion" and root.is_dir() and root.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise ValueError(f"{folder}: is, or lies in, the folder of the videos ({root}); give one elsewhere as out")


@contextmanager
def explained(data: VideoData, parts: Sequence[str], spec: ClipSpec, short: Short) -> Iterator[None]:
    """Where a video ends the reading, find out whether any gives a clip: else to leave it out is no way on.

    Raises:
        VideoError: in place of the first one's, where no video of a part gives a clip; the message says what would.
    """
    try:
        yield
    except VideoError:
        for part in () if data.is_volume else parts:
            clips = ViewClips(data, part, spec, 1, 1, short)
            looked_at = sampling.uniform(len(clips), min(len(clips), _LOOKED_AT))
            errors = [error for index in looked_at if (error := _misfit(clips, index))]
            if len(errors) == len(looked_at):
                raise VideoError(
                    f"no video of {part} gives a clip ({len(errors)} of {len(clips)} looked at), first {errors[0]}"
                ) from None
        raise


def _misfit(clips: ViewClips, index: int) -> str:
    try:
        with warnings.catch_warnings(action="ignore"):
            clips[index]
    except VideoError as error:
        return str(error)
    return ""


class Noted(torch.utils.data.Dataset):
    """Clips with a note at the end of each item: what Python was warned of its file, "" for nothing.

    A worker process that reads has a terminal of its own, and several may read one file; with its clips, the note comes
    to the process that can say it once.
    """

    def __init__(self, clips: Readable) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def name(self, key: Any) -> str:
        """Of the sample."""
        return self.clips.name(key)

    def __getitem__(self, key: Any) -> tuple:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list) -> list[tuple]:
        """Items of several keys of one sample."""
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", UserWarning)
            several = getattr(self.clips, "__getitems__", None)
            items = several(keys) if several else [self.clips[key] for key in keys]
        note = "; ".join(dict.fromkeys(str(warning.message) for warning in told))
        return [(*item, note) for item in items]


def say_once(notes: Iterable[str], said: set[str]) -> None:
    """Print the notes that are not in `said`, and add them."""
    for note in dict.fromkeys(notes):
        if note and note not in said:
            said.add(note)
            terminal.say(note)
