"""Examination of data sets: what spoils a training or flatters its figures; and of networks: how fast a step is."""

from __future__ import annotations

import json
import os
import random
import re
import tempfile
import time
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import torch

from . import speed as speeds
from .data import fingerprint, motion, sampling, transforms
from .data.datasets import part_of
from .data.layouts import open_data
from .data.layouts.classes import own_classes
from .data.layouts.recognise import recognise
from .data.layouts.splits import labels_of
from .data.listing import silence, write_list
from .data.sample import Sample, Span, Task, VideoData, shared_groups
from .data.video import Video, VideoError
from .examine import Scan, Seen, contents, examine, examine_scans
from .models import MODELS, create, ready
from .prepare import clip_rate, faster, megabytes, reencode, videos_in
from .spec import ClipSpec, at_least_one
from .tasks import inputs_of
from .terminal import Table, counted, progress

__all__ = ["Diagnosis", "Finding", "data", "speed"]

Splits = Mapping[str, Sequence[Sample]]

_SHOWN = 3  # videos that a finding names in the terminal
_CLASSES_SHOWN = 10
_TRIED = 3  # videos on which reading is timed
_LONGEST = 2000  # frames of those that are re-encoded for it
_RARE = 10  # times that the most frequent class has the samples of the rarest
_ROUNDS = 6  # of steps that are timed
_ROUNDED = 2  # frames by which those of a stretch of seconds may be fewer than its length says
_RATES = 1.1  # of the least frame rate
_LATE = 0.02  # of a video by which a span may end after it, or a second: annotations are that rough
_STAYS = ("test", "val")  # of copies in two splits, the one in the first of these


class Kind(NamedTuple):
    """What a finding about videos says.

    Attributes:
        text: said of how many there are: `videos`, `samples` or `groups`, each with its number.
        fix: what to do about it; may be empty.
        is_problem: it breaks a training or falsifies its figures; else it is good to know.
        is_left_out: a clean list does without these.
    """

    text: str
    fix: str = ""
    is_problem: bool = True
    is_left_out: bool = True


_GET = "get them again, or train on the clean list (--out clean.csv)"
_CLEAN = "train on the clean list (--out clean.csv), which has none of these"
_STEADY = "where rates vary within a video, re-encode it to a constant one (ffmpeg -fps_mode cfr)"
KINDS = {
    "unreadable": Kind("{videos} that cannot be read", _GET),
    "damaged": Kind("{videos} with frames that cannot be decoded", _GET),
    "cut short": Kind("{videos} breaking off; what is there can be used", "get them again", is_left_out=False),
    "outside": Kind("{samples} lying, or ending, where the video has no frames", "correct their start and end"),
    "late spans": Kind(
        "{samples} with spans that end long after the video",
        "see whether their start and end count frames of another rate, or seconds, and correct them",
        is_left_out=False,
    ),
    "too short": Kind("{samples} with fewer frames than a clip", "lower --num_frames, or train with --short loop"),
    "too small": Kind("{samples} of a picture smaller than the crop", "raise --resize, or lower --crop, of train"),
    "wrong mask": Kind("{videos} whose mask cannot be used", "correct the masks, or " + _CLEAN),
    "blank": Kind("{videos} of one colour and nothing else", _CLEAN),
    "copy across splits": Kind("{videos} in another split, too, byte by byte", _CLEAN),
    "near copy across splits": Kind("{videos} in another split, too, re-encoded, resized or trimmed a little", _CLEAN),
    "copy of another class": Kind("{videos} there twice, with different classes", "keep the one that is right"),
    "shared group": Kind(
        "{groups} (of one source or person) in several splits, so scores will be too good",
        "keep each in one split: a column `group` in a list without splits does",
        is_left_out=False,
    ),
    "copy": Kind("{videos} there twice, byte by byte", "keep one of them", False, False),
    "near copy": Kind("{videos} re-encoded, resized or trimmed out of others", "", False, False),
    "still": Kind("{videos} without motion", "see whether there should be none", False, False),
    "empty mask": Kind("{videos} with nothing but background", "see whether there should be none", False, False),
    "unsteady": Kind("{videos} of a varying frame rate; clips count their frames", _STEADY, False, False),
}


class Mark(NamedTuple):
    """What is the matter with one video, sample or group.

    Attributes:
        kind: of `KINDS`.
        name: path of the video, name of the sample, or the group.
        detail: more, in words.
    """

    kind: str
    name: str
    detail: str = ""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or good to know.

    Attributes:
        kind: a word or two, always the same for the same thing.
        text: what it is, in one line.
        fix: what to do about it; may be empty.
        is_problem: it breaks a training or falsifies its figures.
        marks: the videos, samples or groups concerned.
    """

    kind: str
    text: str
    fix: str = ""
    is_problem: bool = False
    marks: Sequence[Mark] = ()

    def __str__(self) -> str:
        lines = [f"- {self.kind}: {self.text}"]
        lines += [f"    {mark.name}" + (f": {mark.detail}" if mark.detail else "") for mark in self.marks[:_SHOWN]]
        if len(self.marks) > _SHOWN:
            lines.append(f"    and {len(self.marks) - _SHOWN} more")
        return "\n".join([*lines, *([f"    fix: {self.fix}"] if self.fix else [])])


@dataclass(frozen=True)
class Diagnosis:
    """What `data` has found: print it, or write it.

    Attributes:
        path: of the data set.
        contents: the data set; None for a folder that is none.
        findings: the problems first.
        classes: a row for each class with its number of samples in each split, in the order of the data set.
        figures: of the data set as a whole.
        videos: what each video or scan shows, of those that can be read.
        left_out: samples and videos that a clean list does without, with the reason.
    """

    path: Path
    contents: VideoData | None
    findings: Sequence[Finding]
    classes: Sequence[Mapping[str, object]]
    figures: Mapping[str, str]
    videos: Mapping[Path, Seen | Scan]
    left_out: Mapping[str, str]

    @property
    def is_healthy(self) -> bool:
        """Whether there is no problem; what is good to know does not count."""
        return not any(finding.is_problem for finding in self.findings)

    def __str__(self) -> str:
        problems = [str(finding) for finding in self.findings if finding.is_problem]
        others = [str(finding) for finding in self.findings if not finding.is_problem]
        parts = [counted(len(problems), "problem") if problems else "no problems", *problems]
        parts += ["good to know", *others] if others else []
        if self.classes:
            title = f"{len(self.classes)} classes" + ", the rarest" * (len(self.classes) > _CLASSES_SHOWN)
            parts += ["", str(Table(_rarest(self.classes), title=title))]
        return "\n".join([*parts, "", *(f"{name}: {value}" for name, value in self.figures.items())])

    def clean(self) -> VideoData:
        """The data set without what is `left_out`.

        Raises:
            ValueError: the folder is no data set.
        """
        if self.contents is None:
            raise ValueError(f"{self.path}: no data set with classes, so there is no list of it")
        splits = {
            split: [sample for sample in samples if self.left_out.keys().isdisjoint((sample.name, str(sample.path)))]
            for split, samples in self.contents.splits.items()
        }
        return replace(self.contents, splits=splits)

    def to_json(self, path: str | os.PathLike) -> Path:
        """Write all of it."""
        held = {
            "path": str(self.path),
            "is_healthy": self.is_healthy,
            "findings": [{**asdict(f), "marks": [mark._asdict() for mark in f.marks]} for f in self.findings],
            "figures": self.figures,
            "classes": self.classes,
            "left_out": self.left_out,
            "videos": {str(video): {**asdict(seen), "print": ""} for video, seen in self.videos.items()},
        }
        path = Path(path)
        path.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
        return path


def data(
    path: str | os.PathLike,
    *,
    model: str | None = None,
    num_frames: int | None = None,
    frame_stride: int | None = None,
    full: bool = False,
    task: Task | None = None,
    fold: int | None = None,
    out: str | os.PathLike | None = None,
    workers: int | None = None,
    time_limit_s: float = 60.0,
) -> Diagnosis:
    """Examine all videos or scans of a data set: which cannot be read, are too short, in two splits, and what else.

    Sixteen frames of each video are decoded, the first and the last among them. What a video shows is kept in the cache
    folder until the file changes: an examination that was interrupted goes on, and a second one is quick. Scans and
    their masks are read whole, as training reads them.

    Args:
        path: a data set, any folder of videos, or `motion` (built in).
        model: name of a network, or file or run of one, for whose clips the videos should be long and large enough.
        num_frames: of the clips, in place of the model's.
        frame_stride: of the clips, in place of the model's.
        full: decode every frame, the only proof that a file is whole.
        task: as in `open_data`.
        fold: as in `open_data`.
        out: a csv for the clean list; all findings go beside it, as .json.
        workers: processes; None takes one a core.
        time_limit_s: seconds in which a video must show a frame; one that does not counts as unreadable.

    Returns:
        The findings; printed, the problems come first, each with what to do.

    Raises:
        ValueError: there are no videos, the lists of the data set cannot be read, `out` is the list itself, or a file
            is there that doctor did not write, the model is not known, or a clip is given for scans.
    """
    if out is not None and Path(out).suffix.lower() != ".csv":
        raise ValueError(f"{out}: the clean list is a .csv file; let its name end so")
    if out is not None and Path(out).resolve() == Path(path).resolve():
        raise ValueError(f"{out}: the list that is examined, which stays as it is; give the clean one another name")
    if out is not None:
        _check_free(Path(out))
    spec = _clip(model, num_frames, frame_stride)
    path = motion.motion() if str(path) == "motion" else Path(path)
    found, splits, remarks = _open(path, task, fold)
    samples = list(chain.from_iterable(splits.values()))
    paths = sorted({sample.path for sample in samples})
    videos: Mapping[Path, Any]
    if found is not None and found.is_volume:
        if spec is not None:
            raise ValueError(f"{path}: scans, of which training fills up what a window lacks: leave the clip out")
        videos, failed = examine_scans(samples, len(found.classes) + (found.ignored is not None), workers=workers)
        what, marks = "scan", list(_of_scans(videos))
        rates, figures = [], _scan_figures(videos)
    else:
        videos, failed = examine(paths, full=full, workers=workers, time_limit_s=time_limit_s)
        what, marks = "video", [*_of_videos(videos), *_of_samples(splits, videos, spec)]
        rates, figures = list(_of_rates(videos)), {**_video_figures(videos), **_speeds(videos, spec or ClipSpec())}
    marks += [Mark("unreadable", str(video), reason) for video, reason in failed.items()]
    marks += _of_copies(splits, videos, workers)
    marks += _of_groups(found) if found else []
    counts = _class_counts(found, videos) if found else ()
    findings = [*_findings(marks, what), *(_of_classes(found, counts) if found else ()), *rates, *remarks]
    diagnosis = Diagnosis(
        path=path,
        contents=found,
        findings=sorted(findings, key=lambda finding: not finding.is_problem),
        classes=counts,
        figures={**_figures(found, paths, videos, what), **figures},
        videos=videos,
        left_out=_left_out(marks, sum(map(len, splits.values()))),
    )
    return diagnosis if out is None else _written(diagnosis, Path(out))


def speed(
    model: str = "r2plus1d_18",
    *,
    num_frames: int | None = None,
    crop: tuple[int, int] | None = None,
    batch_size: int = 4,
    precision: Literal["32", "bf16"] = "32",
    seconds: float = 5.0,
) -> Table:
    """Time each convolution of a training step, torch's way and the fastest, and the whole step with both.

    It is what `train` chooses by at its start on a CPU, with the threads that it would have. On a GPU it only tells.

    Args:
        model: name of a network, or file or run of one.
        num_frames: of the clips; by default the network's own.
        crop: height and width of the clips (112x112); by default the network's own.
        batch_size: clips of a step.
        precision: 32, or bf16 for mixed precision.
        seconds: for the convolutions.

    Returns:
        A row for each kind of layer, in milliseconds forward and back. `summary` has the whole step, with torch's
        convolutions and with the chosen ones, its clips a second, and how many times as fast it is (medians of 5).

    Raises:
        ValueError: the model is not known, its clips have no fixed size and none is given, or a value is out of range.
    """
    if precision not in ("32", "bf16"):
        raise ValueError(f"precision {precision!r}; there is 32, bf16")
    names = {preset.name for preset in MODELS}
    network, spec = ready(create(model) if model in names else model)
    frames = spec.num_frames if num_frames is None else num_frames
    at_least_one(batch_size=batch_size, num_frames=frames)
    size = crop or spec.crop
    if size is None:
        raise ValueError(f"{model}: its clips have no fixed size; give one with --crop 112x112")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device).train()
    clips = torch.randn(batch_size, spec.in_channels, frames, *size, device=device)
    inputs = inputs_of(network, clips)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    choices = speeds.choose(network, *inputs, dtype=dtype, seconds=seconds)
    took: dict[str, list[float]] = {"torch": [], "chosen": []}
    for _ in range(_ROUNDS):
        for name, ways in (("torch", speeds.Choices({})), ("chosen", choices)):
            with speeds.applied(ways), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                took[name].append(_step_s(network, inputs))
    plain, fast = (median(each[1:]) for each in took.values())  # the first one makes what the others use
    shape = "x".join(map(str, clips.shape))
    return Table(
        choices.rows,
        {
            "step as torch does it, ms": 1e3 * plain,
            "step with what was chosen, ms": 1e3 * fast,
            "clips a second": batch_size / fast,
            "times as fast": plain / fast,
        },
        f"{model}, a step of {shape} on {device.type}, {counted(torch.get_num_threads(), 'thread')}; convolutions of "
        f"{counted(choices.clips, 'clip')}, ms",
    )


def _step_s(network: Any, inputs: Sequence[torch.Tensor]) -> float:
    """Seconds of a step, forward and back."""
    began = time.perf_counter()
    network(*inputs).float().square().mean().backward()
    network.zero_grad()
    if inputs[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _check_free(out: Path) -> None:
    """That nothing would be replaced but what an earlier examination wrote, as its .json shows."""
    try:
        held = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        held = None
    if isinstance(held, dict) and {"is_healthy", "findings", "left_out"} <= held.keys():
        return
    for file in (out, out.with_suffix(".json"), own_classes(out)):
        if file.exists():
            raise ValueError(f"{file}: is there and was not written by doctor; give the clean list another name")


def _written(diagnosis: Diagnosis, out: Path) -> Diagnosis:
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_list(out, diagnosis.clean())
    except ValueError as error:
        none = Finding("no clean list", str(error), "the .json beside it names what to leave out", is_problem=True)
        diagnosis = replace(diagnosis, findings=[none, *diagnosis.findings])
    diagnosis.to_json(out.with_suffix(".json"))
    return diagnosis


def _clip(model: str | None, num_frames: int | None, frame_stride: int | None) -> ClipSpec | None:
    """The clip that videos should be long and large enough for; None where nothing is asked."""
    if model is None and num_frames is None and frame_stride is None:
        return None
    named = {preset.name: preset.spec for preset in MODELS}
    spec = ClipSpec() if model is None else named[model] if model in named else ready(model)[1]
    given = {"num_frames": num_frames, "frame_stride": frame_stride}
    return replace(spec, **{name: value for name, value in given.items() if value is not None})


def _open(path: Path, task: Task | None, fold: int | None) -> tuple[VideoData | None, Splits, list[Finding]]:
    """The data set if it is one, its samples (or whole videos of no class), and what opening it said."""
    try:
        found = open_data(path, task=task, fold=fold, skip_missing=True)
    except ValueError as error:
        if not path.is_dir() or not (videos := videos_in(path)):
            raise
        reason = str(error).removeprefix(f"{path}: ")
        nothing = Finding("no data set", reason, is_problem=_names_classes(path))
        return None, {"": [Sample(video, 0) for video in videos]}, [nothing]
    missing = Finding("missing", f"{counted(found.missing, 'video')} of the lists not there", _GET, is_problem=True)
    return found, found.splits, [missing] if found.missing else []


def _names_classes(path: Path) -> bool:
    """Whether a folder has lists or class folders, so that it is meant for a data set, and not videos alone."""
    try:
        with silence():
            return bool(recognise(path, None, None).rows)
    except ValueError:
        return True


def _of_videos(videos: Mapping[Path, Seen]) -> Iterator[Mark]:
    for path, seen in videos.items():
        if seen.damage:
            yield Mark("damaged", str(path), seen.damage)
        if seen.cut_short:
            yield Mark("cut short", str(path), seen.cut_short)
        if seen.is_blank:
            yield Mark("blank", str(path))
        elif seen.is_still:
            yield Mark("still", str(path))
        if not seen.is_steady:
            yield Mark("unsteady", str(path), f"{seen.fps:.2f} frames a second on average")


def _of_scans(scans: Mapping[Path, Scan]) -> Iterator[Mark]:
    for path, seen in scans.items():
        if seen.wrong:
            yield Mark("wrong mask", str(path), seen.wrong)
        elif seen.labels == (0,):
            yield Mark("empty mask", str(path))
        if seen.is_blank:
            yield Mark("blank", str(path))


def _of_samples(splits: Splits, videos: Mapping[Path, Seen], spec: ClipSpec | None) -> Iterator[Mark]:
    """Samples that lie outside of their video, or are too short for a clip; each video is opened once at most."""
    samples = sorted(chain.from_iterable(splits.values()), key=lambda sample: (sample.path, sample.fps or 0))
    for (path, own_fps), group in groupby(samples, attrgetter("path", "fps")):
        if (seen := videos.get(path)) is None:
            continue
        with ExitStack() as opened:
            video = cache(partial(_entered, opened, path, own_fps))
            for sample in group:
                yield from _of_sample(sample, seen, spec, video)


def _of_sample(sample: Sample, seen: Seen, spec: ClipSpec | None, video: Callable[[], Video]) -> Iterator[Mark]:
    fps = sample.fps or seen.fps
    per_unit = 1 if sample.unit == "frames" else fps
    length = f"the video has {seen.num_frames} frames, {seen.duration_s:.2f} s"
    spans = [each for each in sample.target if isinstance(each, Span)] if isinstance(sample.target, tuple) else []
    is_beyond = sample.unit == "frames" and sample.end is not None and sample.end > seen.num_frames
    begins = max(sample.start, sample.moment or 0, *(span.start for span in spans))
    if is_beyond or begins * per_unit >= seen.num_frames:
        yield Mark("outside", sample.name, length)
        return
    end = max((span.end for span in spans), default=0)
    if end * per_unit - seen.num_frames > max(fps, _LATE * seen.num_frames):
        yield Mark("late spans", sample.name, f"to {end:g}{' s' if sample.unit == 's' else ''}, and {length}")
    if spec is None:
        return
    if reason := _misfit(seen, spec):
        yield Mark("too small", sample.name, reason)
    if sample.moment is not None:
        return
    needed = sampling.span(spec.num_frames, sampling.step(spec, fps))
    if not _is_long(sample, seen, fps, needed) and (there := _frames_there(sample, seen, video)) < needed:
        yield Mark("too short", sample.name, f"{there} frames of {needed}")


def _misfit(seen: Seen, spec: ClipSpec) -> str:
    """Why the crop of a spec cannot be cut from pictures of this size; empty if it can."""
    if spec.crop is None or not seen.height:
        return ""
    height, width = transforms.resize_shape(seen.height, seen.width, spec.resize)
    is_small = height < spec.crop[0] or width < spec.crop[1]
    return f"{height}x{width} after the resize, and the crop is {spec.crop[0]}x{spec.crop[1]}" if is_small else ""


def _entered(opened: ExitStack, path: Path, fps: float | None) -> Video:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of those cut short, which are told anyway
        return opened.enter_context(Video(path, fps))


def _is_long(sample: Sample, seen: Seen, fps: float, needed: int) -> bool:
    """Whether seconds of a steady video surely hold so many frames."""
    if sample.unit == "frames" or not seen.is_steady:
        return False
    end = seen.num_frames if sample.end is None else min(seen.num_frames, sample.end * fps)
    return end - sample.start * fps >= needed + _ROUNDED


def _frames_there(sample: Sample, seen: Seen, video: Callable[[], Video]) -> int:
    """Frames of a sample that does not lie outside of its video, as many as training finds."""
    if sample.unit == "frames" or (sample.start == 0 and sample.end is None):
        return int(seen.num_frames if sample.end is None else sample.end) - int(sample.start)
    with suppress(VideoError):  # where no frame lies
        return len(part_of(sample, video()))
    return 0


def _of_copies(splits: Splits, videos: Mapping[Path, Any], workers: int | None) -> Iterator[Mark]:
    """Videos that are there more than once; of two, the one that should stay is not marked."""
    order = sorted(splits, key=lambda split: _STAYS.index(split) if split in _STAYS else len(_STAYS))
    where: dict[Path, str] = {}  # of a file in several splits, the first in this order: its group tells the rest
    whole: dict[Path, set] = defaultdict(set)
    for split in order:
        for sample in splits[split]:
            if sample.more:  # one channel of a scan, the same as another's, makes no copy
                continue
            where.setdefault(sample.path, split)
            is_part = sample.start != 0 or sample.end is not None
            whole[sample.path].add(None if is_part or isinstance(sample.target, Path) else sample.target)
    paths = [path for path in where if path in videos]

    by_content = _same_contents(paths, videos, workers)
    copies: set[Path] = set()
    for kept, *others in by_content:
        labels = {frozenset(whole[path]) for path in (kept, *others)}
        if len(labels) > 1 and not any(None in each for each in labels):
            yield from (Mark("copy of another class", str(path), f"as {kept}") for path in others)
            yield Mark("copy of another class", str(kept), f"as {others[0]}")
        else:
            yield from (Mark(_kind("copy", where[path], where[kept]), str(path), f"of {kept}") for path in others)
        copies.update(others)

    shown = [path for path in paths if videos[path].print and path not in copies]
    for path, other, distance in _near(shown, [where[path] for path in shown], videos):
        yield Mark(_kind("near copy", where[path], where[other]), str(path), f"of {other}, distance {distance:.2f}")


def _kind(kind: str, split: str, other: str) -> str:
    return kind if split == other else f"{kind} across splits"


def _same_contents(paths: Sequence[Path], videos: Mapping[Path, Any], workers: int | None) -> list[list[Path]]:
    """Files of the same bytes, in the order given."""
    files = [path for path in paths if path.is_file()]
    count = Counter(videos[path].size for path in files)
    hashes = contents([path for path in files if count[videos[path].size] > 1], workers=workers)
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        if path in hashes:
            groups[hashes[path]].append(path)
    return [group for group in groups.values() if len(group) > 1]


def _near(
    paths: Sequence[Path], splits: Sequence[str], videos: Mapping[Path, Seen]
) -> Iterator[tuple[Path, Path, float]]:
    """(video, what it is a copy of, distance), one for each video: of another split if there is one.

    Videos of one split stand together.
    """
    if not paths:
        return
    prints = torch.stack([videos[path].fingerprint for path in paths])
    starts = {split: splits.index(split) for split in dict.fromkeys(splits)}
    ends = [*list(starts.values())[1:], len(paths)]
    for (split, start), end in zip(starts.items(), ends, strict=True):
        own = prints[start:end]
        marked: set[int] = set()
        if start:
            for i, j, distance in _below(fingerprint.nearest(own, prints[:start]), f"copies in {split}"):
                marked.add(i)
                yield paths[start + i], paths[j], distance
        for i, j, distance in _below(fingerprint.nearest(own), "copies"):
            if i not in marked:
                yield paths[start + i], paths[start + j], distance


def _below(blocks: Iterable[tuple[torch.Tensor, torch.Tensor]], what: str) -> Iterator[tuple[int, int, float]]:
    done = 0
    for distances, indices in progress(blocks, what):
        for i in (distances < fingerprint.NEAR).nonzero().flatten().tolist():
            yield done + i, int(indices[i]), float(distances[i])
        done += len(distances)


def _left_out(marks: Sequence[Mark], num_samples: int) -> dict[str, str]:
    """What a clean list does without. Where most samples are too short or too small, it is the clip that is wrong."""
    counts = Counter(mark.kind for mark in marks)
    usual = {kind for kind in ("too short", "too small") if 2 * counts[kind] > num_samples}
    kinds = {name for name, kind in KINDS.items() if kind.is_left_out} - usual
    return {mark.name: f"{mark.kind}: {mark.detail}".rstrip(": ") for mark in marks if mark.kind in kinds}


def _of_groups(found: VideoData) -> list[Mark]:
    return [Mark("shared group", group, ", ".join(splits)) for group, splits in shared_groups(found).items()]


def _findings(marks: Sequence[Mark], what: str) -> list[Finding]:
    """One finding for all marks of a kind, in the order of `KINDS`."""
    by_kind: dict[str, list[Mark]] = defaultdict(list)
    for mark in marks:
        by_kind[mark.kind].append(mark)
    return [
        Finding(name, kind.text.format(**_numbers(len(by_kind[name]), what)), kind.fix, kind.is_problem, by_kind[name])
        for name, kind in KINDS.items()
        if name in by_kind
    ]


def _numbers(n: int, what: str) -> dict[str, str]:
    return {"videos": counted(n, what), **{f"{noun}s": counted(n, noun) for noun in ("sample", "group")}}


def _class_counts(found: VideoData, videos: Mapping[Path, Any]) -> list[dict[str, object]]:
    """Samples of each class in each split."""

    def labels(sample: Sample) -> Iterable[int]:
        is_mask = isinstance(sample.target, Path) and sample.path in videos
        return videos[sample.path].labels if is_mask else labels_of(sample, found.task)

    counts = {
        split: Counter(name for sample in samples for name in labels(sample)) for split, samples in found.splits.items()
    }
    return [
        {"class": name, **{split: count[index] for split, count in counts.items()}}
        for index, name in enumerate(found.classes)
    ]


def _rarest(rows: Sequence[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """The `_CLASSES_SHOWN` classes with the fewest samples, in the order of the data set."""
    totals = [sum(n for n in row.values() if isinstance(n, int)) for row in rows]
    chosen = sorted(range(len(rows)), key=totals.__getitem__)[:_CLASSES_SHOWN]
    return [rows[i] for i in sorted(chosen)]


def _of_classes(found: VideoData, counts: Sequence[Mapping[str, object]]) -> Iterator[Finding]:
    spelled: dict[str, list[str]] = defaultdict(list)
    for name in found.classes:
        plain = unicodedata.normalize("NFC", name)
        spelled[re.sub(r"[\W_]+", "", plain.casefold()) or plain].append(name)
    if alike := [names for names in spelled.values() if len(names) > 1]:
        text = "; ".join(" and ".join(names) for names in alike[:_SHOWN])
        yield Finding(
            "class names", f"alike but for case, punctuation or the code of accents: {text}", "give them one name", True
        )
    for split in found.splits:
        if lacking := [str(row["class"]) for row in counts if not row[split]]:
            text = f"{len(lacking)} of {len(counts)} classes without samples in {split}: {', '.join(lacking[:5])}"
            yield Finding("lacking classes", text, "add samples of them there", is_problem=split == "train")
    trained = sorted(int(str(row["train"])) for row in counts if row.get("train"))
    if trained and trained[-1] >= _RARE * trained[0] and found.task != "segment":
        text = f"{counted(trained[0], 'sample')} of the rarest class to train on, {trained[-1]} of the most frequent"
        yield Finding("imbalance", text, "draw the classes equally often, and read the accuracy of each class")


def _of_rates(videos: Mapping[Path, Seen]) -> Iterator[Finding]:
    rates = [seen.fps for path, seen in videos.items() if not path.is_dir()]
    if rates and max(rates) > _RATES * min(rates):
        text = f"{min(rates):.4g} to {max(rates):.4g} frames a second, so frame_stride is not one stretch of time"
        yield Finding("mixed rates", text, "give one rate, such as --fps 25, which counts them alike")


def _figures(found: VideoData | None, paths: Sequence[Path], videos: Mapping[Path, Any], what: str) -> dict[str, str]:
    figures = {}
    if found:
        sizes = ", ".join(f"{split} {len(samples)}" for split, samples in found.splits.items())
        figures["data set"] = f"{found.layout}, {found.task}, {len(found.classes)} classes; {sizes}"
        if found.mirrored or found.reversed:
            lost = sum(other is None for other in found.mirrored.values())
            figures["label maps"] = (
                f"mirrored, {len(found.mirrored) - lost} classes are another one and {lost} are none; "
                f"backwards, {len(found.reversed)} of {len(found.classes)} are a class"
            )
    figures[f"{what}s"] = f"{len(paths)}, {len(videos)} of them can be read"
    if videos:
        figures["size"] = megabytes(sum(seen.size for seen in videos.values()))
    return figures


def _scan_figures(scans: Mapping[Path, Scan]) -> dict[str, str]:
    def most(values: Iterable[Sequence[float]]) -> str:
        return _most("x".join(f"{side:.3g}" for side in each) for each in values)

    return {
        "depth x height x width": most(seen.shape[1:] for seen in scans.values()),
        "spacing in mm": most(seen.spacing_mm for seen in scans.values()),
        "channels": most(seen.shape[:1] for seen in scans.values()),
    }


def _video_figures(videos: Mapping[Path, Seen]) -> dict[str, str]:
    figures = {}
    if videos:
        seconds = sorted(seen.duration_s for seen in videos.values())
        figures["length"] = (
            f"{sum(seconds) / 60:.1f} minutes; each {seconds[0]:.4g} to {seconds[-1]:.4g} s, "
            f"half of them below {median(seconds):.4g} s"
        )
        figures["pictures"] = _most(f"{seen.width}x{seen.height}" for seen in videos.values() if seen.width)
        figures["codecs"] = _most(seen.codec or "pictures" for seen in videos.values())
        figures["frames a second"] = _most(f"{seen.fps:.4g}" for seen in videos.values())
    return figures


def _most(values: Iterable[str]) -> str:
    """The values that come most often, each with how often."""
    common = Counter(values).most_common()
    told = ", ".join(f"{value} in {count}" for value, count in common[:_SHOWN])
    return told + (f", {len(common) - _SHOWN} others" if len(common) > _SHOWN else "")


def _speeds(videos: Mapping[Path, Seen], spec: ClipSpec) -> dict[str, str]:
    """How fast random training clips are read, now and after `prepare`."""
    whole = sorted(path for path, seen in videos.items() if not seen.damage and not seen.is_blank)
    if not whole:
        return {}
    tried = random.Random(0).sample(whole, min(_TRIED, len(whole)))
    clip = f"{spec.num_frames} frames" + (f" of {spec.crop[1]}x{spec.crop[0]}" if spec.crop else "")
    told: dict[str, str] = {}
    made: dict[Path, Path] = {}
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # of those cut short, which are told above
        # what is whole in the frames that were examined need not be whole
        with suppress(VideoError):
            told["reading"] = f"{clip_rate(tried, spec):.3g} random clips a second and core ({clip})"
        for path in tried:
            with suppress(VideoError):
                if videos[path].num_frames <= _LONGEST and path.suffix.lower() != ".npy":  # arrays are fast already
                    reencode(path, target := Path(folder, f"{len(made)}.mp4"))
                    made[path] = target
        if told and made:
            gain = clip_rate(list(made.values()), spec) / clip_rate(list(made), spec)
            told["reading after `tubelet prepare`"] = faster(gain)
    return told
