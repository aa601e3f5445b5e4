"""Preparation: a data set written anew in small pictures and short groups of them, which random reads find quickly."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .data import motion
from .data.augment import Augment
from .data.datasets import TrainClips
from .data.indexes import footprint
from .data.layouts import SUFFIXES, open_data
from .data.layouts.classes import own_classes
from .data.layouts.places import videos_among
from .data.listing import difference, silence, whole, write_list
from .data.pictures import is_frames
from .data.sample import Sample, Task, VideoData
from .data.transforms import Size, resize_shape
from .data.video import Video, VideoError, write_video
from .machine import FULL
from .processes import Failed, alive, each
from .spec import ClipSpec, at_least_one
from .terminal import counted, progress

__all__ = ["Prepared", "prepare", "reencode"]

LEDGER = ".prepared.jsonl"  # in the new folder: the settings, then a line for each video that is done
LIST = "data.csv"  # there, where the lists of the source do not fit
TEXTS = frozenset({".bundle", ".csv", ".json", ".pbtxt", ".tsv", ".txt"})
CRF = 20
_UNFINISHED = ".unfinished"
_LIMIT_S = 120.0  # a process that finishes no frame for so long hangs
_BLOCK = 16  # frames in memory at a time
_TIME_TOLERANCE_S = 1e-3
_STEADY_S = 1e-5  # by which the frames of a steady rate are off their times
_TRIED = 3  # videos on which reading is timed
_TIMED_S = 0.5
_GAIN = 1.1  # times as fast: less is none
_NAMED = re.compile(rf"({'|'.join(map(re.escape, sorted(SUFFIXES)))})\b", re.IGNORECASE)


@dataclass(frozen=True)
class Prepared:
    """What `prepare` has made.

    Attributes:
        data: what to train on: the new folder, or a list in it.
        videos: number of videos there.
        kept: how many of them an earlier run had made.
        bytes_before: size of their sources.
        bytes_after: their own size.
        cut_short: of each source that breaks off, a line of what is there of it.
        failed: of each source that was left out, a line with the reason.
        clips_per_s: random training clips that one core reads in a second, before and after; None where nothing is new.
        notes: what else to know.
    """

    data: Path
    videos: int
    kept: int
    bytes_before: int
    bytes_after: int
    cut_short: Sequence[str] = ()
    failed: Sequence[str] = ()
    clips_per_s: tuple[float, float] | None = None
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        made = f", {self.kept} of them by an earlier run" if self.kept else ""
        lines = [f"{counted(self.videos, 'video')} prepared{made}; sound is not kept"]
        lines.append(f"size: {megabytes(self.bytes_before)} before, {megabytes(self.bytes_after)} after")
        if self.clips_per_s is not None:
            before, after = self.clips_per_s
            lines.append(
                f"random training clips a second and core: {before:.3g} before, {after:.3g} after; "
                f"{faster(after / before)}"
            )
        lines += [f"cut short: {reason}" for reason in self.cut_short]
        lines += [f"left out: {reason}" for reason in self.failed]
        return "\n".join([*lines, *self.notes])


def prepare(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    short_side: int = 256,
    gop: int = 12,
    crf: int = CRF,
    task: Task | None = None,
    workers: int | None = None,
) -> Prepared:
    """Re-encode the videos of a data set, so that training reads them several times faster.

    Each becomes an H.264 mp4 without sound, in a new folder of the same structure: frame i of it is frame i of its
    source, at the same time. The lists come along, so that `open_data` reads the new folder as it reads the source. A
    run that was interrupted goes on where it was when it is repeated.

    Args:
        source: a data set, a folder of videos or of folders of frames, or `motion` (built in).
        out: the new folder.
        short_side: of the pictures, pixels; smaller videos keep their size. An odd side loses a pixel.
        gop: frames from one keyframe to the next, at most; fewer make random reading faster, the files larger.
        crf: constant quality, from 0 (lossless) to 51.
        task: as in `open_data`: what the new folder is to be read as.
        workers: processes; None takes one a core.

    Returns:
        What was made, and what was left out since it cannot be read.

    Raises:
        ValueError: there are no videos, or none that can be read; the source holds scans, or no data of the task;
            `out` is the source, lies in it or holds it, holds other files, or was prepared with other settings; or the
            disk is full.
    """
    at_least_one(short_side=short_side, gop=gop)
    if not 0 <= crf <= 51:
        raise ValueError(f"crf {crf} must lie in 0..51")
    source, out = motion.motion() if str(source) == "motion" else Path(source), Path(out)
    found, why_not = _opened(source, task)
    if found is not None and found.is_volume:
        raise ValueError(f"{source}: scans; prepare is for videos, and training prepares scans by itself")
    sources = _videos(source, found)
    root = _root(source, sources)
    _check_apart(root if source.is_dir() else _common(sources), out)
    out.mkdir(parents=True, exist_ok=True)
    settings = {"short_side": short_side, "gop": gop, "crf": crf}
    ledger = _open_ledger(out / LEDGER, settings)
    places = new_places(root, sources)
    rates = {sample.path: sample.fps for sample in chain.from_iterable(found.splits.values())} if found else {}
    waiting = [
        path for path in sources
        if not _is_done(path, rates.get(path), out / places[path], ledger.get(str(places[path])))
    ]  # fmt: skip
    failed = _reencode_all(waiting, places, out, settings, rates, ledger, workers)
    ready = {path: out / place for path, place in places.items() if path not in failed}
    if not ready:
        raise ValueError(
            f"{source}: none of {counted(len(sources), 'video')} can be read, first {next(iter(failed.values()))}"
        )
    read_as, notes = _carry_over(source, out, found, ready) if found else (out, [f"no data set to train on: {why_not}"])
    is_several = task is None and found is not None and found.task == "multilabel"
    if is_several and _holds_spans(source) and not _holds_spans(read_as):
        notes.append("its labels of frames do not come along; give task frames")
    rows = [ledger[str(places[path])] for path in ready]
    return Prepared(
        data=read_as,
        videos=len(ready),
        kept=len(sources) - len(waiting),
        bytes_before=sum(row["size"] for row in rows),
        bytes_after=sum(row["bytes"] for row in rows),
        cut_short=tuple(row["note"] for row in rows if row["note"]),
        failed=tuple(failed.values()),
        clips_per_s=_speeds([path for path in waiting if path in ready], ready),
        notes=notes,
    )


def reencode(
    source: Path, target: Path, *, fps: float | None = None, short_side: int = 256, gop: int = 12, crf: int = CRF
) -> dict[str, Any]:
    """Write one video anew, frame for frame, each at its time.

    Args:
        source: a video.
        target: the file to write.
        fps: rate of a folder of frames, as in `Video`.
        short_side: as in `prepare`, like the next two.
        gop: frames from one keyframe to the next.
        crf: constant quality.

    Returns:
        What identifies the source (`source`, `fps`, `size`, `mtime_ns`), the `bytes` that were written, and in `note`
        what the source lacks.

    Raises:
        VideoError: the source cannot be read, has other than three channels, or the target cannot be written.
    """
    size, mtime_ns = footprint(source)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with Video(source, fps) as video:
            if video.channels != 3:
                raise VideoError(f"{source}: {video.channels} channels, and an mp4 has 3; train on it as it is")
            frames = _frames(video, new_size(video.height, video.width, short_side))
            # a steady rate is written as such, since times of a file are whole ticks, and their average not the rate
            even = torch.arange(video.num_frames, dtype=torch.float64) / video.fps
            is_steady = _apart_s(video.times, even) < _STEADY_S
            times = None if is_steady else video.times
            write_video(target, frames, video.fps, times_s=times, crf=crf, gop=gop)
            with Video(target) as made:
                if made.num_frames != video.num_frames or _apart_s(made.times, video.times) > _TIME_TOLERANCE_S:
                    raise VideoError(f"{source}: its frames do not keep their number and times in an mp4")
    note = "; ".join(str(warning.message) for warning in told)
    written = target.stat().st_size
    told_of = {"source": str(source), "fps": fps, "size": size, "mtime_ns": mtime_ns}
    return {**told_of, "bytes": written, "note": note}


def _apart_s(times: Tensor, others: Tensor) -> float:
    return (times - others).abs().max().item()


def new_size(height: int, width: int, short_side: int) -> Size:
    """(height, width) with a short side of at most `short_side`; both even, and never larger than before."""
    height, width = resize_shape(height, width, min(height, width, short_side))
    return max(2, height - height % 2), max(2, width - width % 2)


def _frames(video: Video, size: Size) -> Iterator[Tensor]:
    """All frames (3, H, W), resized."""
    blocks = [range(i, min(i + _BLOCK, video.num_frames)) for i in range(0, video.num_frames, _BLOCK)]
    for clip in video.clips(blocks, resize=size):
        alive()
        yield from clip.unbind(1)


def new_places(root: Path, sources: Iterable[Path]) -> dict[Path, Path]:
    """The new path of each video, relative: its own, ending in .mp4; after its old ending where two would be one."""
    wanted = {path: Path(os.path.relpath(path, root)) for path in sources}
    count = Counter(map(_as_mp4, wanted.values()))
    places: dict[Path, Path] = {}
    taken: set[Path] = set()
    # those whose name stays come first: it is nobody else's then
    for path, place in sorted(wanted.items(), key=lambda item: (_as_mp4(item[1]) != item[1], item[1])):
        new = _as_mp4(place)
        if count[new] > 1 and new != place:
            new = place.with_name(f"{place.name}.mp4")
        while new in taken:
            new = new.with_name(f"{new.name}.mp4")
        taken.add(new)
        places[path] = new
    return places


def _as_mp4(place: Path) -> Path:
    return place.with_suffix(".mp4") if place.suffix.lower() in SUFFIXES else place.with_name(f"{place.name}.mp4")


def videos_in(folder: Path) -> list[Path]:
    """Videos below a folder, in order: files by their endings, and folders of frames.

    Links are followed, to each folder once; what is hidden is left out.
    """
    found: list[Path] = []
    for here, _, files in _walk(folder):
        paths = [here / name for name in videos_among(here, files)]
        found += paths or ([here] if is_frames(here) else [])
    # a folder of flow holds folders of frames
    return sorted(path for path in found if set(found).isdisjoint(path.parents))


def clip_rate(paths: Sequence[Path], spec: ClipSpec | None = None) -> float:
    """Random training clips of these videos that one core reads in a second, waiting for the disk not counted."""
    clips = TrainClips(
        VideoData(("",), {"train": [Sample(path, 0) for path in paths]}),
        "train",
        spec or ClipSpec(),
        Augment(),
        "loop",
        0,
    )
    start, rounds = time.process_time(), 0
    while rounds < 2 or time.process_time() - start < _TIMED_S:
        for index in range(len(paths)):
            clips[rounds, index]
        rounds += 1
    return rounds * len(paths) / (time.process_time() - start)


def faster(gain: float) -> str:
    """How many times as fast prepared videos are read, and, where that is no gain, what follows from it."""
    if gain >= _GAIN:
        return f"{gain:.1f} times as fast"
    return (
        f"no faster ({gain:.1f} times as fast): small pictures and near keyframes already; "
        "train on the videos as they are, or give a smaller --short_side"
    )


def megabytes(size: int) -> str:
    """A size for a reader."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"


def _walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        is_new = os.path.realpath(here) not in seen
        seen.add(os.path.realpath(here))
        folders[:] = sorted(name for name in folders if is_new and not name.startswith("."))
        if is_new:
            yield Path(here), folders, sorted(name for name in files if not name.startswith("."))


def _opened(source: Path, task: Task | None) -> tuple[VideoData | None, str]:
    """The data set, each video spelled in one way, or why a folder is none."""
    try:
        found = open_data(source, task=task)
    except ValueError as error:
        why_not = f"{error}; give task frames" if task is None and _holds_spans(source) else str(error)
        if task is not None or not source.is_dir():
            raise ValueError(why_not) from None
        return None, why_not
    spelled: dict[Path, Path] = {}
    splits = {
        split: [replace(sample, path=spelled.setdefault(whole(sample.path), sample.path)) for sample in samples]
        for split, samples in found.splits.items()
    }
    return replace(found, splits=splits), ""


def _holds_spans(source: Path) -> bool:
    """Whether a data set can be read as labels of frames."""
    try:
        with silence():
            open_data(source, task="frames")
    except ValueError:
        return False
    return True


def _videos(source: Path, found: VideoData | None) -> list[Path]:
    named = [sample.path for sample in chain.from_iterable(found.splits.values())] if found else []
    there = videos_in(source) if source.is_dir() else []
    # as the data set writes them, since it may write them in another way than the folder
    videos = sorted({whole(path): path for path in [*there, *named]}.values())
    if not videos:
        raise ValueError(f"{source}: no videos ({' '.join(sorted(SUFFIXES))}) and no folders of frames")
    return videos


def _root(source: Path, videos: Iterable[Path]) -> Path:
    """The folder whose structure the new one has: that of the source, or where the videos lie elsewhere, theirs."""
    folder = whole(source if source.is_dir() else source.parent)
    common = _common(videos)
    if common.is_relative_to(folder):
        return folder
    return Path(os.path.commonpath([common, folder])) if source.is_dir() else common


def _common(videos: Iterable[Path]) -> Path:
    return Path(os.path.commonpath([whole(path).parent for path in videos]))


def _check_apart(root: Path, out: Path) -> None:
    new, old = out.resolve(), root.resolve()
    if new == old or old in new.parents or new in old.parents:
        raise ValueError(f"{out}: is the folder of the videos ({root}), lies in it or holds it; give one elsewhere")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: a file; give a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / LEDGER).exists():
        raise ValueError(f"{out}: holds other files, which could be overwritten; give a new or an empty folder")


def _open_ledger(path: Path, settings: dict[str, int]) -> dict[str, dict[str, Any]]:
    """What earlier runs made, by place."""
    # a line without an end is of a run that was stopped as it wrote it
    lines = path.read_text(errors="replace").splitlines(keepends=True) if path.exists() else []
    rows = [row for line in lines if line.endswith("\n") and (row := _row(line))] or [settings]
    if "place" in rows[0]:
        raise ValueError(f"{path}: its first line is damaged; give another folder")
    if rows[0] != settings:
        other = ", ".join(f"{name} {value}" for name, value in rows[0].items())
        raise ValueError(f"{path.parent}: was prepared with {other}; give the same, or another folder")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {row["place"]: row for row in rows[1:]}


def _row(line: str) -> dict[str, Any] | None:
    """A line of the ledger; None where it is damaged, so that its video is made again."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _is_done(source: Path, fps: float | None, target: Path, row: dict[str, Any] | None) -> bool:
    try:
        return row is not None and (fps, *footprint(source), target.stat().st_size) == (
            row.get("fps"),
            row["size"],
            row["mtime_ns"],
            row["bytes"],
        )
    except OSError:
        return False


def _reencode_all(
    waiting: Sequence[Path],
    places: Mapping[Path, Path],
    out: Path,
    settings: dict[str, int],
    rates: Mapping[Path, float | None],
    ledger: dict[str, dict[str, Any]],
    workers: int | None,
) -> dict[Path, str]:
    """Make what is waiting and note it in the ledger; returns what failed, with the reason."""
    failed: dict[Path, str] = {}

    def make(path: Path) -> dict[str, Any]:
        unfinished = out / _UNFINISHED / f"{uuid.uuid4().hex}.mp4"
        row = reencode(path, unfinished, fps=rates.get(path), **settings)
        target = out / places[path]
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished.replace(target)
        return row

    try:
        (out / _UNFINISHED).mkdir(exist_ok=True)
        with (
            (out / LEDGER).open("a") as file,
            closing(each(make, waiting, workers=workers, time_limit_s=_LIMIT_S)) as answers,
        ):
            for path, answer in progress(answers, "preparing", len(waiting)):
                if isinstance(answer, Failed):
                    for number in FULL:
                        if os.strerror(number) in answer.reason:
                            raise OSError(number, answer.reason)
                    failed[path] = answer.reason if str(path) in answer.reason else f"{path}: {answer.reason}"
                    continue
                place = str(places[path])
                ledger[place] = {"place": place, **answer}
                file.write(json.dumps(ledger[place]) + "\n")
                file.flush()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{_made(places, ledger)}; the same command goes on from there") from None
    except OSError as error:
        if error.errno not in FULL:
            raise
        what, fix = "the disk is full", "Make room"
        if error.errno == errno.EFBIG:
            what, fix = "a file is larger than this disk or shell allows", "Raise `ulimit -f`"
        raise ValueError(f"{out}: {what}; {_made(places, ledger)}. {fix}, and the same command goes on") from None
    finally:
        shutil.rmtree(out / _UNFINISHED, ignore_errors=True)
    return failed


def _made(places: Mapping[Path, Path], ledger: Mapping[str, object]) -> str:
    return f"{sum(str(place) in ledger for place in places.values())} of {len(places)} videos are made"


def _carry_over(source: Path, out: Path, found: VideoData, ready: Mapping[Path, Path]) -> tuple[Path, list[str]]:
    """Bring the lists along; returns what reads as the source does, and what else there is to say."""
    splits = {
        split: [replace(sample, path=ready[sample.path], fps=None) for sample in samples if sample.path in ready]
        for split, samples in found.splits.items()
    }
    wanted = replace(found, splits=splits)
    lists = _copy_texts(source, out, set(ready)) if source.is_dir() else []
    if source.is_dir() and not difference(out, wanted):
        return out, []
    for file in lists:
        file.unlink()
    try:
        written = write_list(out / LIST, wanted)
    except ValueError as error:
        for file in (out / LIST, own_classes(out / LIST)):  # of an earlier run, unless the source has them
            if not (source / file.name).exists():
                file.unlink(missing_ok=True)
        return out, [f"its lists do not come along, only the videos: {error}"]
    return (out if not difference(out, wanted) else written), []


def _copy_texts(source: Path, out: Path, videos: set[Path]) -> list[Path]:
    """Copy the text files of a data set that can be read; returns those that name video files."""
    lists = []
    for here, folders, files in _walk(source):
        folders[:] = [name for name in folders if here / name not in videos]
        for name in files:
            file = here / name
            if file.suffix.lower() not in TEXTS or not file.is_file() or not os.access(file, os.R_OK):
                continue
            target = out / os.path.relpath(file, source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            if _NAMED.search(target.read_text(encoding="utf-8", errors="replace")):
                lists.append(target)
    return lists


def _speeds(new: Sequence[Path], ready: Mapping[Path, Path]) -> tuple[float, float] | None:
    if not new:
        return None
    tried = random.Random(0).sample(sorted(new), min(_TRIED, len(new)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of those cut short, which are told anyway
        return clip_rate(tried), clip_rate([ready[path] for path in tried])
