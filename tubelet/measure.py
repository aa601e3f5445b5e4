"""What a network answers to the samples of a part: scores of views, the motion audit, frames of whole videos, boxes."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TextIO, cast

import torch
from torch import Tensor, nn

from . import feed, frames, heads, metrics, tasks, terminal
from .compare import COLUMNS, Combine, Scores, combine, fuse
from .data import flow, transforms
from .data.datasets import ViewClips, WholeVideos
from .data.loader import SKIP, Batches, loader, told
from .data.sample import Sample, VideoData
from .data.sampling import Short
from .data.scans import WholeScans
from .data.video import VideoError
from .machine import aside, folder_for
from .spec import ClipSpec

__all__ = ["FITTED_ON", "Result", "Seeing", "fused", "measured", "measured_each"]

FITTED_ON = "val"  # the part that temperatures are fitted on


@dataclass(frozen=True)
class Seeing:
    """How samples are read and seen, and what is measured, alike for all models."""

    split: str
    views: int
    crops: int
    how: Combine
    is_whole: bool
    temperature: bool
    audit: bool
    batch_size: int
    short: Short
    on_bad: Literal["raise", "skip"]
    workers: int | None


@dataclass(frozen=True)
class Result:
    """What was measured: scores, those that a temperature is fitted on (None: the same), and what was not."""

    samples: Sequence[Sample]
    scores: Scores
    fitted_on: Scores | None
    bad: dict[str, str]
    missing: int
    audited: Mapping[str, float]


def measured(network: nn.Module, spec: ClipSpec, found: VideoData, seeing: Seeing, folder: Path) -> Result:
    """All that is measured of one model; `scores.csv` in the folder is replaced when all of it is done."""
    said: set[str] = set()
    fitted_on, audited = None, {}
    explained = feed.explained(found, [*found.splits], spec, seeing.short)
    home, scores_of = folder_for(folder), aside(folder / "scores.csv")
    with (
        home,
        explained,
        scores_of as made,
        made.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        scores, bad = _measure(network, spec, found, seeing.split, seeing, said, file)
        if seeing.temperature and seeing.split != FITTED_ON:
            fitted_on, _ = _measure(network, spec, found, FITTED_ON, seeing, said)
        if seeing.audit:
            audited = _audit(network, spec, found, seeing, said)
    return Result(found.splits[seeing.split], scores, fitted_on, bad, found.missing_in(seeing.split), audited)


def fused(results: Sequence[Result], folder: Path) -> Result:
    """Late fusion of several, with its `scores.csv`: one row a sample."""
    scores = fuse([result.scores for result in results])
    fitted_on = [result.fitted_on for result in results if result.fitted_on is not None]
    bad = {name: reason for result in results for name, reason in result.bad.items()}
    with (
        aside(folder / "scores.csv") as made,
        made.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        write = _writer(file, scores.classes)
        for name, target, answer in zip(scores.samples, scores.targets, scores.scores, strict=True):
            write(name, target, answer[None], 1)
    first = results[0]
    return Result(first.samples, scores, fuse(fitted_on) if fitted_on else None, bad, first.missing, {})


def _measure(
    network: nn.Module,
    spec: ClipSpec,
    found: VideoData,
    split: str,
    seeing: Seeing,
    said: set[str],
    file: TextIO | None = None,
) -> tuple[Scores, dict[str, str]]:
    """The answers for a split, with a row for each view in `file`; and what could not be read, and why."""
    views = ViewClips(found, split, spec, seeing.views, seeing.crops, seeing.short)
    clips = feed.Noted(WholeScans(found, split, spec) if found.is_volume else views)
    batches = loader(clips, 1, workers=seeing.workers, on_bad=seeing.on_bad)
    is_open = found.task == "multilabel"
    write = _writer(file, spec.classes) if file is not None else None
    names, targets, answers = [], [], []
    for index, target, scores in _scores(network, spec, batches, seeing, f"evaluating {split}", is_open, said):
        names.append(found.splits[split][index].name)
        targets.append(target)
        answers.append(combine(scores, seeing.how, is_open=is_open))
        if write is not None:
            write(names[-1], target, scores, seeing.crops)
    return Scores(tuple(names), spec.classes, torch.stack(targets).long(), torch.stack(answers)), batches.bad


@torch.no_grad()
def _scores(
    network: nn.Module,
    spec: ClipSpec,
    batches: Batches,
    seeing: Seeing,
    what: str,
    is_open: bool,
    said: set[str],
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Index, target and scores (V, K), float64, of each sample, from batches of one (clips (V, C, T, H, W), ...).

    Notes on files that are not in `said` are printed, and added.
    """
    with closing(batches), batches.watched():
        for views, target, index, notes in terminal.progress(batches, what):
            feed.say_once(notes, said)
            parts = [network(transforms.prepare(part, spec, network)) for part in views[0].split(seeing.batch_size)]
            logits = torch.cat(parts)
            try:
                heads.scores(logits, spec.classes)
            except ValueError as error:
                raise ValueError(f"{batches.dataset.name(int(index))}: {error}") from None
            logits = logits.cpu().double()
            yield int(index), target[0], logits.sigmoid() if is_open else logits.softmax(1)


class _Altered(torch.utils.data.Dataset):
    """The centre view of each sample, as it is and with its frames altered in the ways of `WAYS`."""

    WAYS = ("as is", "reversed", "shuffled", "single frame")

    def __init__(self, clips: ViewClips) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def name(self, index: int) -> str:
        """Of the sample."""
        return self.clips.name(index)

    def __getitem__(self, index: int) -> tuple[Tensor, Any, int]:
        (clip,), target, _ = self.clips[index]
        frames = clip.shape[1]
        order = torch.randperm(frames, generator=torch.Generator().manual_seed(index))
        middle = clip[:, frames // 2 : frames // 2 + 1].expand_as(clip)
        backwards = transforms.negated(clip.flip(1)) if len(clip) == flow.CHANNELS else clip.flip(1)
        return torch.stack([clip, backwards, clip[:, order], middle]), target, index


def _audit(network: nn.Module, spec: ClipSpec, found: VideoData, seeing: Seeing, said: set[str]) -> dict[str, float]:
    """Accuracy, or mAP, of each way of altering time."""
    altered = feed.Noted(_Altered(ViewClips(found, seeing.split, spec, 1, 1, seeing.short)))
    batches = loader(altered, 1, workers=seeing.workers, on_bad=seeing.on_bad)
    is_open = found.task == "multilabel"
    seen = [each[1:] for each in _scores(network, spec, batches, seeing, "motion audit", is_open, said)]
    targets, scores = (torch.stack(each) for each in zip(*seen, strict=True))
    if is_open:
        values = [metrics.average_precision(way, targets).nanmean() for way in scores.unbind(1)]
    else:
        values = [(way.argmax(1) == targets).double().mean() for way in scores.unbind(1)]
    return {way: value.item() for way, value in zip(_Altered.WAYS, values, strict=True)}


@torch.no_grad()
def measured_each(
    network: nn.Module, spec: ClipSpec, found: VideoData, seeing: Seeing
) -> tuple[dict[str, Any], list[dict[str, object]], list[dict[str, object]], dict[str, str]]:
    """Of frames or boxes, each video or clip by itself.

    Returns:
        Figures, a row for each class of boxes, a row of figures for each sample of frames, the worst first, and what
        was bad.
    """
    number = len(found.classes)
    task = tasks.task_of(found, "cross_entropy", 0.0, "none", torch.ones(number))
    measures = task.measures()
    counts, seen, bad = torch.zeros(number), 0, dict[str, str]()
    each: list[dict[str, object]] = []
    rows_of_each: list[Tensor] = []
    answered = _answered_whole if seeing.is_whole else _answered
    for name, logits, targets in answered(network, spec, found, task, seeing, bad):
        try:
            heads.scores(logits.movedim(1, -1).flatten(0, -2), spec.classes)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        task.update(measures, logits, targets)
        seen += 1
        if task.name == "detect":
            counts += targets[-1].sum(0)
        else:
            least = 1 if targets[-1].shape == logits.shape else 0  # of several classes a label is 1, of one its number
            if not (targets[-1] >= least).any():
                continue  # no frame has a label: there is nothing to be good at
            of_one = task.measures()
            task.update(of_one, logits, targets)
            if task.best == "val_frame_accuracy":
                rows_of_each.append(of_one.rows()[0].double().sum(0))
            figures = {key: value.item() for key, value in of_one.compute().items() if value.ndim == 0}
            each.append({"sample": name, **figures})
    measured = measures.compute()
    summary: dict[str, Any] = {name: value.item() for name, value in measured.items() if value.ndim == 0}
    if rows_of_each:
        summary |= _intervals(torch.stack(rows_of_each))
    summary |= {"samples": seen, "bad": len(bad), "missing": found.missing_in(seeing.split)}
    summary |= {} if seeing.is_whole else {"views": seeing.views, "crops": seeing.crops}
    rows: list[dict[str, object]] = []
    if task.name == "detect":
        precision = measured["average_precision"].tolist()
        classes = zip(spec.classes, counts.int().tolist(), precision, strict=True)
        rows = [{"class": name, "boxes": count, "average_precision": value} for name, count, value in classes]
    best = task.best.removeprefix("val_")
    return summary, rows, sorted(each, key=lambda row: cast(float, row[best])), bad


def _intervals(counts: Tensor) -> dict[str, float]:
    """The ends of the intervals of `frames.figures`, from the counts of each video (N, 8), resampled by videos.

    Where there is one video, none is known.
    """
    found = {}
    for name in frames.figures(counts.sum(0)):
        draws = metrics.bootstrap(lambda drawn, name=name: frames.figures(drawn.sum(0))[name], counts)
        found[f"{name}_low"], found[f"{name}_high"] = metrics.interval(draws) if len(counts) > 1 else (math.nan,) * 2
    return found


Answers = Iterator[tuple[str, Tensor, list[Tensor]]]  # name of a sample, logits, targets


def _answered(
    network: nn.Module, spec: ClipSpec, found: VideoData, task: tasks.Task, seeing: Seeing, bad: dict[str, str]
) -> Answers:
    """Of the views of each sample. What cannot be read goes to `bad`."""
    said: set[str] = set()
    clips = feed.Noted(ViewClips(found, seeing.split, spec, seeing.views, seeing.crops, seeing.short))
    batches = loader(clips, 1, workers=seeing.workers, on_bad=seeing.on_bad)
    with feed.explained(found, [seeing.split], spec, seeing.short), closing(batches), batches.watched():
        for views, *targets, index, notes in terminal.progress(batches, f"evaluating {seeing.split}"):
            feed.say_once(notes, said)
            if task.name == "frames":
                targets = [targets[0][0]]
            passes = (transforms.prepare(part, spec, network) for part in views[0].split(seeing.batch_size))
            logits = torch.cat([task.answer(network, x, [each.to(x.device) for each in targets]) for x in passes]).cpu()
            yield clips.name(int(index)), logits, targets
    bad.update(batches.bad)


def _answered_whole(
    network: nn.Module, spec: ClipSpec, found: VideoData, task: tasks.Task, seeing: Seeing, bad: dict[str, str]
) -> Answers:
    """Of all frames of each sample, read as they are needed, since a video may be hours."""
    videos = WholeVideos(found, seeing.split, spec, seeing.short)
    for index, sample in enumerate(terminal.progress(videos.samples, f"evaluating {seeing.split}")):
        clips = videos.clips(index)
        logits, targets = list[Tensor](), list[Tensor]()
        try:
            with terminal.told():
                while batch := list(islice(clips, seeing.batch_size)):
                    pictures, truth, fresh = zip(*batch, strict=True)
                    x = transforms.prepare(torch.stack(pictures), spec, network)
                    answers = task.answer(network, x, [torch.stack(truth).to(x.device)]).cpu()
                    logits += [one[..., part] for one, part in zip(answers, fresh, strict=True)]
                    targets += [one[..., part] for one, part in zip(truth, fresh, strict=True)]
        except VideoError as error:
            if seeing.on_bad == "raise":
                with feed.explained(found, [seeing.split], spec, seeing.short):
                    raise VideoError(f"{error} {SKIP}") from None
            bad[sample.name] = str(error)
            continue
        yield sample.name, torch.cat(logits, -1)[None], [torch.cat(targets, -1)[None]]
    if len(bad) == len(videos.samples):
        with feed.explained(found, [seeing.split], spec, seeing.short):
            raise VideoError(f"no video of {seeing.split} can be read, first {next(iter(bad.values()))}")
    if bad:
        terminal.say(told(bad, len(videos.samples)))


def _writer(file: TextIO, classes: Sequence[str]) -> Callable[[str, Tensor, Tensor, int], None]:
    """Writes rows of `scores.csv`: name, target, scores (V, K) and crops of a view."""
    writer = csv.writer(file)
    writer.writerow([*COLUMNS, *classes])

    def write(name: str, target: Tensor, scores: Tensor, crops: int) -> None:
        of_several = [classes[i] for i in target.nonzero().flatten().tolist()] if target.ndim else None
        label = classes[int(target)] if of_several is None else json.dumps(of_several, ensure_ascii=False)
        for i, row in enumerate(scores.tolist()):
            # in six digits a high sigmoid score would be 1, whatever its logit
            written = row if of_several is not None else [f"{value:.6g}" for value in row]
            writer.writerow([name, label, i // crops, i % crops, *written])

    return write
