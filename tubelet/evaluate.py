"""Evaluation: accuracy over views with its interval, per class, every score on disk, and whether motion is used."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TextIO, cast

import torch
from torch import Tensor, nn

from . import feed, heads, metrics, plot, protocols, tasks, terminal
from .compare import COLUMNS, Combine, Scores, combine, fuse, log_scores
from .data import flow, transforms
from .data.datasets import ViewClips, WholeVideos
from .data.loader import SKIP, Batches, loader
from .data.sample import Actor, Sample, Span, Task, VideoData
from .data.sampling import SHORTS, Short
from .data.video import VideoError
from .models import classifier, read_classes, ready, unnamed
from .report import command
from .report import report as write_page
from .spec import ClipSpec, at_least_one
from .terminal import Table

Model = str | os.PathLike | nn.Module

_HEADS = {"frames": (heads.PerFrame, heads.TemporalTransformer), "detect": (heads.Detect,)}
FITTED_ON = "val"  # the part that temperatures are fitted on
MISTAKES = 24
_COMBINED = {"scores": "mean of the scores", "logits": "mean of the logits", "max": "highest score of each class"}


def evaluate(
    model: Model | Sequence[Model],
    data: str | os.PathLike,
    *,
    task: Task | None = None,
    fold: int | None = None,
    split: str = "val",
    protocol: str | None = None,
    views: int | None = None,
    crops: int | None = None,
    average: Literal["scores", "logits"] | None = None,
    temperature: bool = False,
    classes: str | os.PathLike | None = None,
    audit: bool = True,
    batch_size: int = 16,
    short: Short = "error",
    on_bad: Literal["raise", "skip"] = "raise",
    workers: int | None = None,
    out: str | os.PathLike | None = None,
) -> Table:
    """Measure a network on videos, each seen as views x crops clips whose answers become one.

    Of the task frames each video is seen from end to end, each frame once; of detect each clip is measured by itself.
    Options for answers that become one are errors for both.

    Args:
        model: a file of weights, the folder of a run, or a network with a `spec`. Of several, each is measured, and
            then the average of their scores (late fusion).
        data: as in `train`. For a model of two channels, the optical flow of videos is computed and kept.
        task: classify, one class a video; multilabel, any number; frames, classes of each frame; detect, classes of
            each box. By default the task of the run, else classify.
        fold: as in `train`; by default that of the run whose model it is, where it was trained on this data.
        split: part of the data: train, val or test.
        protocol: name of a published way of measuring, such as k400-10x3 (`tubelet.protocols`), which sets views,
            crops, sizes and average.
        views: clips spread over the length of each video; by default 10, of detect 1. Of frames these clips are then
            measured, each as if it were a video.
        crops: crops of each, spread over its longer side; by default 3, of frames and detect 1.
        average: what is averaged over the views: scores (softmax, or sigmoid of multilabel), the default, or logits.
        temperature: also fit the temperature that makes scores honest (Guo et al. 2017), on the part val. Measured on
            val itself, each half of it is judged by the temperature of the other half.
        classes: file of the model's class names in the order of its logits, for a model that does not say them: text
            with one a line, or .json with a list or {name: index}.
        audit: also measure with one centre view as it is, reversed, shuffled and with one frame repeated, which
            tells whether the network uses motion.
        batch_size: clips in one pass of the network.
        short: videos with fewer frames than a clip: error, loop or hold.
        on_bad: what a video does that cannot be read: raise ends with an error, skip leaves it out and counts it.
        workers: processes that read; 0 reads in this one.
        out: folder for `scores.csv` (each view of each sample), `evaluate.json`, `classes.csv`, `confusion.png`,
            `audit.png`, and for `report.html`, the page of them all; by default `evaluate` beside the weights, or
            `runs/evaluate`. Of several models, each has a folder of its own in it.

    Returns:
        A row for each class, but for frames. `summary` holds of classify top1 and auc with their bootstrap 95 %
            intervals, top5 (above five classes), mean_class and calibration_error, of multilabel and detect map, of
            frames what `metrics.framewise` has; then the audit, all 0..1; and how many samples were measured, were
            bad, or are missing on disk.

    Raises:
        ValueError: model, classes, data, split or protocol do not fit, a video cannot be read, or the network answers
            no number; the message says what would.
    """
    arguments: dict[str, Any] = {
        name: value if value is None or isinstance(value, int) else str(value) for name, value in locals().items()
    }
    models: list[Model] = [*model] if isinstance(model, list | tuple) else [cast(Model, model)]
    if not models:
        raise ValueError("no model: give one, or several to fuse")
    arguments["model"] = [_name(each) for each in models]
    row = protocols.protocol(protocol) if protocol is not None else None
    runs = {_name(each): _run(each) for each in models}
    task = _task(task, runs)
    is_each = task in _HEADS  # each clip has an answer of its own
    is_whole = task == "frames" and views is None and row is None
    if is_whole and crops not in (None, 1):
        raise ValueError(f"crops {crops} of whole videos of frames: leave them out, or give views as well")
    if is_each and (len(models) > 1 or average is not None or temperature):
        raise ValueError(f"several models, average and temperature are not for task {task}: leave them out")
    views, crops, how = _seen(row, views, crops, average, (1, 1) if is_each else (10, 3))
    at_least_one(views=views, crops=crops, batch_size=batch_size)
    if short not in SHORTS:
        raise ValueError(f"short {short!r}; there is {', '.join(SHORTS)}")
    if how == "max" and task == "classify":
        raise ValueError(f"protocol {protocol} takes the highest scores of several classes: it is for task multilabel")
    if temperature and task != "classify":
        raise ValueError(f"temperature is for one class a video, not for task {task}: leave it out")
    if fold is None:
        fold = _same("fold", {_name(each): _fold_of_run(each, runs[_name(each)], data) for each in models})
    folder = Path(out) if out is not None else _default_folder(models)
    feed.check_apart(data, folder)
    networks = [_opened(each, classes, row, task) for each in models]
    parts = tuple(dict.fromkeys((split, FITTED_ON) if temperature else (split,)))
    opened = feed.open_parts(data, parts, task, fold)
    if any(spec.in_channels == flow.CHANNELS for _, spec in networks):
        feed.compute_flow(opened, parts, on_bad, workers)
    ordered = [_in_order_of(spec, opened, data, parts) for _, spec in networks]
    if len({frozenset(found.classes) for found in ordered}) > 1:
        raise ValueError("the models know different classes: fuse models that were trained on the same")

    seeing = _Seeing(split, views, crops, how, is_whole, temperature, audit, batch_size, short, on_bad, workers)
    report: dict[str, Any] = {
        "arguments": arguments, "data": str(data), "task": task, "fold": fold, "split": split, "protocol": protocol,
        "views": None if is_whole else views, "crops": crops, "combine": how, "layout": opened.layout,
        "command": None if any(isinstance(each, nn.Module) for each in models) else command(evaluate, arguments),
    }  # fmt: skip
    if is_each:
        table = _measured_each(*networks[0], ordered[0], seeing, folder, report | _about(models[0], *networks[0]))
        _write_page(folder)
        return table
    title = f"{split} of {data}; of {views} x {crops} clips the {_COMBINED[how]}"
    places = [folder] if len(models) == 1 else [folder / name for name in _distinct(models)]
    results, tables = [], []
    for each, (network, spec), found, place in zip(models, networks, ordered, places, strict=True):
        results.append(_measured(network, spec, found, seeing, place))
        tables.append(_finish(place, title, results[-1], report | _about(each, network, spec), temperature))
    if len(models) == 1:
        _write_page(folder)
        return tables[0]

    fused = _fused(results, folder)
    figure = "top1" if task == "classify" else "map"
    alone = {f"{figure} of {place.name}": table.summary[figure] for place, table in zip(places, tables, strict=True)}
    report |= _about(models[0], *networks[0]) | {"models": arguments["model"], "clip": None}
    report["alone"] = [*map(str, places)]
    table = _finish(folder, f"{title}; {len(models)} models fused", fused, report, temperature, alone)
    _write_page(folder)
    return table


@dataclass(frozen=True)
class _Seeing:
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
class _Result:
    """What was measured: scores, those that a temperature is fitted on (None: the same), and what was not."""

    samples: Sequence[Sample]
    scores: Scores
    fitted_on: Scores | None
    bad: dict[str, str]
    missing: int
    audited: Mapping[str, float]


# What is asked for


def _seen(
    row: protocols.Protocol | None,
    views: int | None,
    crops: int | None,
    average: Literal["scores", "logits"] | None,
    usual: tuple[int, int],
) -> tuple[int, int, Combine]:
    """Views, crops, and what is done with their answers."""
    if average not in (None, "scores", "logits"):
        raise ValueError(f"average {average!r}; there is scores, logits")
    if row is None:
        return usual[0] if views is None else views, usual[1] if crops is None else crops, average or "scores"
    how: Combine = "max" if row.combine == "max" else "scores"
    for name, asked, value in (("views", views, row.views), ("crops", crops, row.crops), ("average", average, how)):
        if asked not in (None, value):
            raise ValueError(f"{name} {asked}, but protocol {row.name} has {value}: give one of the two")
    return row.views, row.crops, how


def _name(model: Model) -> str:
    return type(model).__name__ if isinstance(model, nn.Module) else str(model)


def _distinct(models: Sequence[Model]) -> list[str]:
    """Short names of models, no two alike: the folder of a run, the tag of weights, the class of a network."""
    names = [folder.resolve().name if (folder := _beside(model)) else Path(_name(model)).name for model in models]
    is_distinct = len(set(names)) == len(names)
    return names if is_distinct else [f"{number}-{name}" for number, name in enumerate(names, start=1)]


def _beside(model: Model) -> Path | None:
    """The folder that a model's weights are in; None for a network in memory or from the catalogue."""
    if isinstance(model, nn.Module) or not Path(model).exists():
        return None
    return Path(model) if Path(model).is_dir() else Path(model).parent


def _default_folder(models: Sequence[Model]) -> Path:
    return ((_beside(models[0]) if len(models) == 1 else None) or Path("runs")) / "evaluate"


def _run(model: Model) -> dict[str, Any]:
    """The arguments of the run whose model it is; empty where it is of no run."""
    folder = _beside(model)
    if folder is None or not (path := folder / "run.json").is_file():
        return {}
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        run, why = None, str(error)
    else:
        why = "not the arguments of a run"
    texts = ("task", "data")
    if not isinstance(run, dict) or not isinstance(run.get("fold"), int | None) or not all(
        isinstance(run.get(name), str | None) for name in texts
    ):  # fmt: skip
        raise ValueError(f"{path}: damaged ({why}); move it away, and give the task and the fold of the run yourself")
    return run


def _task(asked: str | None, runs: Mapping[str, Mapping[str, Any]]) -> Task:
    """The task asked for, else that of the runs, by name."""
    task = asked or _same("task", {name: run.get("task") or "classify" for name, run in runs.items()})
    if task not in tasks.TASKS:
        whose = "" if asked else f" of {next(iter(runs))}"
        raise ValueError(f"task {task!r}{whose}; evaluate measures {', '.join(tasks.TASKS)}")
    return cast(Task, task)


def _same(what: str, values: Mapping[str, Any]) -> Any:
    """What all models have in common."""
    if len(set(values.values())) > 1:
        each = ", ".join(f"{name} has {value}" for name, value in values.items())
        raise ValueError(f"the models differ in {what}: {each}; fuse runs that have the same, or give --{what}")
    return next(iter(values.values()))


def _fold_of_run(model: Model, run: Mapping[str, Any], data: str | os.PathLike) -> int | None:
    """The fold that a run was trained on, if on this data: in another, videos of its training would be measured."""
    fold = run.get("fold")
    if fold is None or Path(run.get("data") or "").resolve() == Path(data).resolve():
        return fold
    terminal.say(
        f"{_beside(model)}: trained on fold {fold} of {run.get('data')}; give --fold {fold} if {data} is the same data"
    )
    return None


def _opened(
    model: Model, classes: str | os.PathLike | None, row: protocols.Protocol | None, task: Task
) -> tuple[nn.Module, ClipSpec]:
    """A network with the head of the task that names its classes, and the clip it is to see."""
    if task not in _HEADS:
        network, spec = classifier(model, classes, is_video=False)
    else:
        network, spec = ready(model)
        head = getattr(network, "head", None)
        if type(head) in heads.HEADS and type(head) not in _HEADS[task]:
            raise ValueError(
                f"{_name(model)}: its head is {type(head).__name__}, and task {task} wants "
                f"{' or '.join(kind.__name__ for kind in _HEADS[task])}: train one with --task {task}"
            )
        if classes is not None:
            spec = replace(spec, classes=read_classes(classes))
    if not spec.classes:
        raise ValueError(unnamed(model, network))
    return network, spec if row is None else row.clip(spec)


def _in_order_of(spec: ClipSpec, found: VideoData, data: str | os.PathLike, parts: Sequence[str]) -> VideoData:
    """The data set, with the targets of these parts in the order of the model's own classes."""
    places = {name: i for i, name in enumerate(spec.classes)}
    if unknown := [name for name in found.classes if name not in places]:
        raise ValueError(
            f"{data}: the model does not know {', '.join(unknown[:5])}; it knows {', '.join(spec.classes[:5])}"
            + (f" and {len(spec.classes) - 5} more" if len(spec.classes) > 5 else "")
        )

    def moved(target: Any) -> Any:
        if isinstance(target, int):
            return places[found.classes[target]]
        if isinstance(target, Span):
            return target._replace(target=moved(target.target))
        if isinstance(target, Actor):
            return target._replace(targets=moved(target.targets))
        return tuple(map(moved, target))

    splits = {part: [replace(sample, target=moved(sample.target)) for sample in found.splits[part]] for part in parts}
    return replace(found, classes=spec.classes, splits=splits, evaluated=moved(found.evaluated))


# Measuring


def _measured(network: nn.Module, spec: ClipSpec, found: VideoData, seeing: _Seeing, folder: Path) -> _Result:
    """All that is measured of one model; `scores.csv` in the folder is replaced when all of it is done."""
    folder.mkdir(parents=True, exist_ok=True)
    said: set[str] = set()
    fitted_on, audited = None, {}
    with feed.explained(found, [*found.splits], spec, seeing.short), _aside(folder / "scores.csv") as file:
        scores, bad = _measure(network, spec, found, seeing.split, seeing, said, file)
        if seeing.temperature and seeing.split != FITTED_ON:
            fitted_on, _ = _measure(network, spec, found, FITTED_ON, seeing, said)
        if seeing.audit:
            audited = _audit(network, spec, found, seeing, said)
    return _Result(found.splits[seeing.split], scores, fitted_on, bad, found.missing, audited)


def _fused(results: Sequence[_Result], folder: Path) -> _Result:
    """Late fusion of several, with its `scores.csv`: one row a sample."""
    scores = fuse([result.scores for result in results])
    fitted_on = [result.fitted_on for result in results if result.fitted_on is not None]
    bad = {name: reason for result in results for name, reason in result.bad.items()}
    with _aside(folder / "scores.csv") as file:
        write = _writer(file, scores.classes)
        for name, target, answer in zip(scores.samples, scores.targets, scores.scores, strict=True):
            write(name, target, answer[None], 1)
    first = results[0]
    return _Result(first.samples, scores, fuse(fitted_on) if fitted_on else None, bad, first.missing, {})


def _measure(
    network: nn.Module,
    spec: ClipSpec,
    found: VideoData,
    split: str,
    seeing: _Seeing,
    said: set[str],
    file: TextIO | None = None,
) -> tuple[Scores, dict[str, str]]:
    """The answers for a split, with a row for each view in `file`; and what could not be read, and why."""
    clips = feed.Noted(ViewClips(found, split, spec, seeing.views, seeing.crops, seeing.short))
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
    seeing: _Seeing,
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


def _audit(network: nn.Module, spec: ClipSpec, found: VideoData, seeing: _Seeing, said: set[str]) -> dict[str, float]:
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
def _measured_each(
    network: nn.Module, spec: ClipSpec, found: VideoData, seeing: _Seeing, folder: Path, report: dict[str, Any]
) -> Table:
    """All that is measured of frames or boxes, each video or clip by itself, and written."""
    folder.mkdir(parents=True, exist_ok=True)
    number = len(found.classes)
    task = tasks.task_of(found, "cross_entropy", 0.0, "none", torch.ones(number))
    measures = task.measures()
    counts, seen, bad = torch.zeros(number), 0, dict[str, str]()
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
    measured = measures.compute()
    summary: dict[str, Any] = {name: value.item() for name, value in measured.items() if value.ndim == 0}
    summary |= {"samples": seen, "bad": len(bad), "missing": found.missing}
    summary |= {} if seeing.is_whole else {"views": seeing.views, "crops": seeing.crops}
    rows: list[dict[str, object]] = []
    if task.name == "detect":
        precision = measured["average_precision"].tolist()
        each = zip(spec.classes, counts.int().tolist(), precision, strict=True)
        rows = [{"class": name, "boxes": count, "average_precision": value} for name, count, value in each]
    report |= {"combine": None, "classes": spec.classes, "summary": summary, "per_class": rows, "bad": bad}
    _write_report(folder, report)
    seen_as = "whole videos" if seeing.is_whole else "each clip"
    table = Table(rows, summary, f"{seeing.split} of {report['data']}; {task.name} of {seen_as}")
    if rows:
        table.to_csv(folder / "classes.csv")
    return table


Answers = Iterator[tuple[str, Tensor, list[Tensor]]]  # name of a sample, logits, targets


def _answered(
    network: nn.Module, spec: ClipSpec, found: VideoData, task: tasks.Task, seeing: _Seeing, bad: dict[str, str]
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
    network: nn.Module, spec: ClipSpec, found: VideoData, task: tasks.Task, seeing: _Seeing, bad: dict[str, str]
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


# What it comes to


def _finish(
    folder: Path,
    title: str,
    result: _Result,
    report: dict[str, Any],
    temperature: bool,
    alone: Mapping[str, Any] | None = None,
) -> Table:
    """Figures of what was measured, written to the folder beside `scores.csv`."""
    scores, names = result.scores, result.scores.classes
    found: dict[str, Any] = {}
    if scores.targets.ndim == 1:
        summary, rows, confusion = _classified(scores)
        found = {"calibration": _reliability(scores), "mistakes": _mistakes(scores, result.samples)}
        chance = 1 / len(names)
        if temperature:
            tempered = _tempered(scores, result.fitted_on)
            summary |= tempered
            found["temperature"] = {**tempered, "fitted_on": FITTED_ON}
    else:
        summary, rows, confusion = *_labelled(scores), None
        chance = scores.targets.double().mean(0)[scores.targets.any(0)].mean().item()
    summary |= alone or {}
    summary |= {"samples": len(scores.samples), "bad": len(result.bad), "missing": result.missing}
    summary |= {"views": report["views"], "crops": report["crops"]}
    summary |= {f"audit {way}": value for way, value in result.audited.items()}
    report |= {"classes": names, "summary": summary, "per_class": rows, **found, "bad": result.bad}
    report["confusion"] = None if confusion is None else confusion.tolist()
    _write_report(folder, report)
    table = Table(rows, summary, title)
    table.to_csv(folder / "classes.csv")
    if confusion is not None:
        plot.confusion(confusion, names, folder / "confusion.png")
    if result.audited:
        plot.audit(result.audited, chance, folder / "audit.png")
    return table


def _classified(scores: Scores) -> tuple[dict[str, Any], list[dict[str, object]], Tensor]:
    """Figures, rows of the classes, and confusion (K, K) of samples with one class each."""
    measures = metrics.classification(len(scores.classes))
    measures.update(scores.scores, scores.targets)
    measured = measures.compute()
    confusion = measured["confusion"]
    is_right = (scores.scores.argmax(1) == scores.targets).double()
    low, high = metrics.interval(metrics.bootstrap(torch.mean, is_right))
    summary: dict[str, Any] = {"top1": measured["top1"].item(), "top1_low": low, "top1_high": high}
    if "top5" in measured:
        summary["top5"] = measured["top5"].item()
    summary["auc"] = metrics.roc_auc(scores.scores, scores.targets).nanmean().item()
    summary["auc_low"], summary["auc_high"] = metrics.interval(metrics.bootstrap_auc(scores.scores, scores.targets))
    summary["mean_class"] = metrics.mean_class(confusion)
    summary["calibration_error"] = _calibration_error(scores.scores, scores.targets)
    figures = {name: values.tolist() for name, values in metrics.per_class(confusion).items()}
    others = confusion.clone().fill_diagonal_(0)
    rows: list[dict[str, object]] = [
        {
            "class": name,
            **{figure: values[i] for figure, values in figures.items()},
            "mostly taken for": scores.classes[int(others[i].argmax())] if others[i].any() else "",
        }
        for i, name in enumerate(scores.classes)
    ]
    return summary, rows, confusion


def _labelled(scores: Scores) -> tuple[dict[str, Any], list[dict[str, object]]]:
    """Figures, and rows of the classes, of samples with any number of classes each."""
    precision = metrics.average_precision(scores.scores, scores.targets)
    counts = scores.targets.sum(0).tolist()
    rows: list[dict[str, object]] = [
        {"class": name, "samples": count, "average_precision": value}
        for name, count, value in zip(scores.classes, counts, precision.tolist(), strict=True)
    ]
    return {"map": precision.nanmean().item()}, rows


def _calibration_error(scores: Tensor, targets: Tensor) -> float:
    return metrics.calibration_error(scores.clamp(max=1), targets)  # rounding may go beyond 1, which is no score


def _tempered(scores: Scores, fitted_on: Scores | None) -> dict[str, float]:
    """The temperature, and the calibration error with it; without other scores to fit on, of each half by the other."""
    logits, targets = log_scores(scores.scores), scores.targets
    if fitted_on is not None:
        found = metrics.fit_temperature(log_scores(fitted_on.scores), fitted_on.targets)
        after = (logits / found).softmax(1)
    else:
        if len(targets) < 2:
            raise ValueError(f"temperature: {FITTED_ON} has 1 sample, and two halves are needed; leave temperature out")
        found, after = metrics.fit_temperature(logits, targets), torch.empty_like(logits)
        for half in (0, 1):
            is_held = torch.arange(len(targets)) % 2 == half
            of_others = metrics.fit_temperature(logits[~is_held], targets[~is_held])
            after[is_held] = (logits[is_held] / of_others).softmax(1)
    return {"temperature": found, "calibration_error_tempered": _calibration_error(after, targets)}


def _reliability(scores: Scores) -> list[dict[str, float]]:
    """For each bin of scores in which there are answers: how many, their mean score, and how many of them are right."""
    tops, answers = scores.scores.max(1)
    bins = (tops * metrics.BINS).long().clamp(max=metrics.BINS - 1)
    is_right = (answers == scores.targets).double()
    return [
        {
            "samples": int((bins == number).sum()),
            "score": tops[bins == number].mean().item(),
            "accuracy": is_right[bins == number].mean().item(),
        }
        for number in bins.unique().tolist()
    ]


def _mistakes(scores: Scores, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """The wrong answers with the highest scores, and where they can be seen."""
    places = {sample.name: sample for sample in samples}
    tops, answers = scores.scores.max(1)
    wrong = [i for i in tops.argsort(descending=True).tolist() if answers[i] != scores.targets[i]]
    rows = []
    for i in wrong[:MISTAKES]:
        sample, target, answer = places[scores.samples[i]], int(scores.targets[i]), int(answers[i])
        rows.append(
            {
                "sample": sample.name,
                "path": str(sample.path),
                "start": sample.start,
                "end": sample.end,
                "unit": sample.unit,
                "fps": sample.fps,
                "target": scores.classes[target],
                "answer": scores.classes[answer],
                "score": tops[i].item(),
                "score_of_target": scores.scores[i, target].item(),
            }
        )
    return rows


def _about(model: Model, network: nn.Module, spec: ClipSpec) -> dict[str, Any]:
    """What was measured, and where, for the report."""
    device = next((str(value.device) for value in network.parameters()), "cpu")
    versions = {"tubelet": version("tubelet"), "torch": torch.__version__, "python": platform.python_version()}
    return {
        "models": [_name(model)],
        "clip": {name: value for name, value in spec.to_dict().items() if name != "classes"},
        "environment": {**versions, "system": platform.platform(), "device": device},
    }


# Files


def _write_report(folder: Path, report: Mapping[str, Any]) -> None:
    plain = json.loads(json.dumps(report), parse_constant=lambda _: None)  # nan is no json
    with _aside(folder / "evaluate.json") as file:
        file.write(json.dumps(plain, indent=2, allow_nan=False) + "\n")


def _write_page(folder: Path) -> None:
    """Write `report.html`. What was measured is on disk by then, so that a page that fails is told and no more."""
    try:
        write_page(folder)
    except (ImportError, ValueError, OSError) as error:
        terminal.say(f"no {folder / 'report.html'}: {error}")


def _writer(file: TextIO, classes: Sequence[str]) -> Callable[[str, Tensor, Tensor, int], None]:
    """Writes rows of `scores.csv`: name, target, scores (V, K) and crops of a view."""
    writer = csv.writer(file)
    writer.writerow([*COLUMNS, *classes])

    def write(name: str, target: Tensor, scores: Tensor, crops: int) -> None:
        of_several = [classes[i] for i in target.nonzero().flatten().tolist()] if target.ndim else None
        label = classes[int(target)] if of_several is None else json.dumps(of_several, ensure_ascii=False)
        for i, row in enumerate(scores.tolist()):
            writer.writerow([name, label, i // crops, i % crops, *(f"{value:.6g}" for value in row)])

    return write


@contextmanager
def _aside(path: Path) -> Iterator[TextIO]:
    """A file that takes its name when it is whole: what fails leaves the one that was there."""
    aside = path.with_name(f".{path.name}.part")
    try:
        with aside.open("w", newline="", encoding="utf-8") as file:
            yield file
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
