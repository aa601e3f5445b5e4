"""Evaluation: accuracy over views with its interval, per class, every score on disk, and whether motion is used."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import cases, feed, heads, measure, metrics, plot, protocols, tasks, terminal
from .compare import Combine, Scores, log_scores
from .data import flow
from .data.sample import Actor, Sample, Span, Task, VideoData
from .data.sampling import SHORTS, Short
from .data.volume import is_scan
from .machine import aside, folder_for
from .models import classifier, read_classes, ready, unnamed
from .report import command, report_of_evaluation
from .run import begun_in
from .segment import NOTE, Way, dense_classes, numbered
from .spec import ClipSpec, at_least_one
from .terminal import Table

Model = str | os.PathLike | nn.Module

_HEADS = {"frames": (heads.PerFrame,), "detect": (heads.Detect,)}
BATCH = 16  # clips
MISTAKES = 24
MOST_RESAMPLED = 1_000_000  # scores; the interval of their AUC or mAP takes 15 s
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
    batch_size: int | None = None,
    short: Short | None = None,
    overlap: float = 0.5,
    mirrored: bool = False,
    largest: bool = False,
    holes: bool = False,
    on_bad: Literal["raise", "skip"] = "raise",
    workers: int | None = None,
    out: str | os.PathLike | None = None,
) -> Table:
    """Measure a network on videos, each seen as views x crops clips whose answers become one.

    Of the task frames each video is seen from end to end, each frame once; of detect each clip is measured by itself.
    Options for answers that become one are errors for both. Of segment each scan is seen whole, window by window, and
    its mask is measured on the scan's own grid.

    Args:
        model: a file of weights, the folder of a run, or a network with a `spec`. Of several, each is measured, and
            then the average of their scores (late fusion). Or a folder of masks, as `predict` writes them.
        data: as in `train`. For a model of two channels, the optical flow of videos is computed and kept.
        task: classify, one class a video; multilabel, any number; frames, classes of each frame; detect, classes of
            each box; segment, a class of each voxel. By default the task of the run, else what the data says.
        fold: as in `train`; by default that of the run whose model it is, where it was trained on this data.
        split: part of the data: train, val or test. Of scans with masks whose parts nothing tells, all are measured,
            unless they are what the run was trained on.
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
        batch_size: clips in one pass of the network; by default 16, windows of scans what suits the device.
        short: videos with fewer frames than a clip: error, loop or hold; by default that of the run, else error.
        overlap: of segment, as in `predict`; so are mirrored, largest and holes.
        mirrored: as in `predict`.
        largest: as in `predict`.
        holes: as in `predict`.
        on_bad: what a video does that cannot be read: raise ends with an error, skip leaves it out and counts it.
        workers: processes that read; 0 reads in this one, which always reads whole videos of frames.
        out: folder for `scores.csv` (each view of each sample), `evaluate.json`, `classes.csv`, `confusion.png`,
            `audit.png`, of segment `cases.csv` and pictures of the worst, and for `report.html`, the page of them all;
            by default `evaluate` beside the weights, or `runs/evaluate`. Of several models, each has a folder of its
            own in it.

    Returns:
        A row for each class, but for frames. `summary` holds of classify top1 and auc with their bootstrap 95 %
            intervals, top5 (above five classes), mean_class and calibration_error, of multilabel and detect map, of
            frames what `metrics.framewise` has, of segment the means of `masks.MEASURES`, Dice with its interval; then
            the audit, all 0..1 but for millimetres; and how many samples were measured, were bad, or are missing on
            disk.

    Raises:
        ValueError: model, classes, data, split or protocol do not fit, a video cannot be read, or the network answers
            no number; the message says what would.
    """
    arguments: dict[str, Any] = {
        name: value if value is None or isinstance(value, int | float) else str(value)
        for name, value in locals().items()
    }
    models: list[Model] = [*model] if isinstance(model, list | tuple) else [cast(Model, model)]
    if not models:
        raise ValueError("no model: give one, or several to fuse")
    arguments["model"] = [_name(each) for each in models]
    row = protocols.protocol(protocol) if protocol is not None else None
    names = _apart(arguments["model"])
    runs = {name: _run(each) for name, each in zip(names, models, strict=True)}
    opened = None
    if task is None and _answers_voxels(models[0]):
        task = "segment"
    elif task is None and not any(runs.values()):
        opened = feed.open_parts(data, (), None, fold)
        task = opened.task
    task = _task(task, runs)
    is_each = task in _HEADS  # each clip has an answer of its own
    is_whole = task == "frames" and views is None and row is None
    if is_whole and crops not in (None, 1):
        raise ValueError(f"crops {crops} of whole videos of frames: leave them out, or give views as well")
    if is_each and (len(models) > 1 or average is not None or temperature):
        raise ValueError(f"several models, average and temperature are not for task {task}: leave them out")
    if task == "segment":
        given = {"protocol": protocol, "views": views, "crops": crops, "average": average, "classes": classes}
        for name, value in (given | ({"temperature": True} if temperature else {})).items():
            if value is not None:
                raise ValueError(f"{name} is not for task segment: leave it out")
        if len(models) > 1:
            raise ValueError("several models are not for task segment: give one")
        at_least_one(batch_size=1 if batch_size is None else batch_size)
        run = runs[names[0]]
        if fold is None:
            fold = _fold_of_run(models[0], run, data)
        way = Way(overlap, batch_size, mirrored, largest, holes)
        is_seen = _is_of_run(models[0], run, data)
        return _evaluate_masks(models[0], data, opened, fold, split, way, on_bad, out, arguments, is_seen)
    for name, value in {"mirrored": mirrored, "largest": largest, "holes": holes}.items():
        if value:
            raise ValueError(f"{name} is for task segment, not for task {task}: leave it out")
    batch_size = BATCH if batch_size is None else batch_size
    is_several = row is not None or views not in (None, 1) or crops not in (None, 1)
    views, crops, how = _seen(row, views, crops, average, (1, 1) if is_each else (10, 3))
    at_least_one(views=views, crops=crops, batch_size=batch_size)
    if short is None:
        short = _same("short", {name: run.get("short") or "error" for name, run in runs.items()})
    if short not in SHORTS:
        raise ValueError(f"short {short!r}; there is {', '.join(SHORTS)}")
    if how == "max" and task == "classify":
        raise ValueError(f"protocol {protocol} takes the highest scores of several classes: it is for task multilabel")
    if temperature and task != "classify":
        raise ValueError(f"temperature is for one class a video, not for task {task}: leave it out")
    if fold is None:
        fold = _same("fold", {
            name: _fold_of_run(each, runs[name], data) for name, each in zip(names, models, strict=True)
        })  # fmt: skip
    folder = Path(out) if out is not None else _default_folder(models)
    feed.check_apart(data, folder)
    networks = [_opened(each, classes, row, task) for each in models]
    parts = tuple(dict.fromkeys((split, measure.FITTED_ON) if temperature else (split,)))
    opened = opened or feed.open_parts(data, (), task, fold)
    feed.check_parts(data, opened, parts)
    if lone := [_name(each) for each, (_, spec) in zip(models, networks, strict=True)
                if (spec.intensity is not None) != opened.is_volume]:  # fmt: skip
        kinds = ("videos", "scans") if opened.is_volume else ("scans", "videos")
        raise ValueError(f"{lone[0]}: was trained on {kinds[0]}, and {data} has {kinds[1]}: give data of its kind")
    if opened.is_volume:
        if is_several:
            raise ValueError("protocol, views and crops are for videos; of a scan the middle is seen: leave them out")
        views, crops, audit = 1, 1, False
    elif any(spec.in_channels == flow.CHANNELS for _, spec in networks):
        feed.compute_flow(opened, parts, on_bad, workers)
    ordered = [_in_order_of(spec, opened, data, parts) for _, spec in networks]
    if len({frozenset(found.classes) for found in ordered}) > 1:
        raise ValueError("the models know different classes: fuse models that were trained on the same")

    seeing = measure.Seeing(split, views, crops, how, is_whole, temperature, audit, batch_size, short, on_bad, workers)
    report: dict[str, Any] = {
        "arguments": arguments, "data": str(data), "task": task, "fold": fold, "split": split, "protocol": protocol,
        "views": None if is_whole else views, "crops": crops, "combine": how, "layout": opened.layout,
        "command": None if any(isinstance(each, nn.Module) for each in models) else command(evaluate, arguments),
    }  # fmt: skip
    if is_each:
        return _finish_each(*networks[0], ordered[0], seeing, folder, report | _about(models[0], *networks[0]))
    seen = "the middle of each scan" if opened.is_volume else f"of {views} x {crops} clips the {_COMBINED[how]}"
    title = f"{split} of {data}; {seen}"
    places = [folder] if len(models) == 1 else [folder / name for name in _distinct(models)]
    results, tables = [], []
    for each, (network, spec), found, place in zip(models, networks, ordered, places, strict=True):
        results.append(measure.measured(network, spec, found, seeing, place))
        tables.append(_finish(place, title, results[-1], report | _about(each, network, spec), temperature))
    if len(models) == 1:
        _write_page(folder)
        return tables[0]

    fused = measure.fused(results, folder)
    figure = "top1" if task == "classify" else "map"
    alone = {f"{figure} of {place.name}": table.summary[figure] for place, table in zip(places, tables, strict=True)}
    report |= _about(models[0], *networks[0]) | {"models": arguments["model"], "clip": None}
    report["alone"] = [*map(str, places)]
    table = _finish(folder, f"{title}; {len(models)} models fused", fused, report, temperature, alone)
    _write_page(folder)
    return table


def _evaluate_masks(
    model: Model,
    data: str | os.PathLike,
    found: VideoData | None,
    fold: int | None,
    split: str,
    way: Way,
    on_bad: Literal["raise", "skip"],
    out: str | os.PathLike | None,
    arguments: dict[str, Any],
    is_seen: bool,
) -> Table:
    """Measure a network that answers for each voxel, or masks that are there.

    Data whose parts were not told, and that the run was not trained on (`is_seen`), is measured as a whole.
    """
    folder = Path(out) if out is not None else _default_folder([model])
    feed.check_apart(data, folder)
    found = found or feed.open_parts(data, (), "segment", fold)
    if found.is_parted_here and split == "val" and not is_seen:
        every = sorted(chain(*found.splits.values()), key=lambda sample: sample.path)
        found = replace(found, splits={split: every})
        told = f"{data}: tells no parts, so that all {terminal.counted(len(every), 'scan')} are measured"
        terminal.say(told if _is_masks(model) else f"{told}; if it was trained on them, so are those")
    feed.check_parts(data, found, (split,))
    about: dict[str, Any] = {"models": [_name(model)], "clip": None}
    if _is_masks(model):
        answer = cases.of_masks(Path(cast(str, model)), len(found.classes))
    else:
        network, spec = ready(model)
        number = dense_classes(network, spec)
        if number is None:
            raise ValueError(f"{_name(model)}: it does not answer for each voxel: train one with --task segment")
        spec = replace(spec, classes=_classes_of_both(spec.classes or numbered(number), found.classes, data))
        found = replace(found, classes=spec.classes)
        answer = cases.of_network(network, spec, way)
        about = _about(model, network, spec)
    summary, rows, bad = cases.measured(answer, found, split, folder, on_bad)
    report = about | {
        "arguments": arguments, "data": str(data), "task": "segment", "fold": fold, "split": split, "protocol": None,
        "views": None, "crops": None, "combine": None, "layout": found.layout,
        "command": None if isinstance(model, nn.Module) else command(evaluate, arguments),
        "classes": found.classes, "summary": summary, "per_class": rows, "bad": bad,
    }  # fmt: skip
    _write_report(folder, report)
    table = Table(rows, summary, f"{split} of {data}; masks on the scans' own grids")
    table.to_csv(folder / "classes.csv")
    _write_page(folder)
    return table


def _classes_of_both(mine: Sequence[str], theirs: Sequence[str], data: str | os.PathLike) -> tuple[str, ...]:
    """Names of the model's classes, or the data's, of which those count that are no mere numbers.

    Raises:
        ValueError: the data has more, or another name for one.
    """
    plain = numbered(len(mine))
    names = tuple(b if a == number and b else a for a, b, number in zip_longest(mine, theirs[: len(mine)], plain))
    if len(theirs) > len(mine) or any(b not in (a, number) for a, b, number in zip(names, theirs, plain, strict=False)):
        raise ValueError(
            f"{data}: its classes are {', '.join(theirs)}, and the model's {', '.join(mine)}: give data with the same, "
            "in this order"
        )
    return names


def _answers_voxels(model: Model) -> bool:
    """Whether it is a folder of masks, or a network or a file of ours with a head for voxels."""
    if isinstance(model, nn.Module):
        return isinstance(getattr(model, "head", None), heads.Segment)
    return _is_masks(model)


def _is_masks(model: Model) -> bool:
    """Whether a folder holds masks and no model."""
    folder = Path(cast(Any, model)) if not isinstance(model, nn.Module) else Path()
    if isinstance(model, nn.Module) or not folder.is_dir():
        return False
    if any(folder.glob("*.safetensors")) or (folder / "run.json").exists():
        return False
    return (folder / NOTE).exists() or any(is_scan(path) for path in sorted(folder.rglob("*")))


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
    return _apart(names)


def _apart(names: list[str]) -> list[str]:
    """Names, all with their number where two are alike."""
    is_distinct = len(set(names)) == len(names)
    return names if is_distinct else [f"{number}-{name}" for number, name in enumerate(names, start=1)]


def _origin(model: Model) -> Path | None:
    """The folder that a model's weights are in, or were in when a network in memory was loaded."""
    loaded_from = getattr(model, "loaded_from", None)
    return _beside(model) if loaded_from is None else loaded_from.parent


def _beside(model: Model) -> Path | None:
    """The folder that a model's weights are in; None for a network in memory or from the catalogue."""
    if isinstance(model, nn.Module) or not Path(model).exists():
        return None
    return Path(model) if Path(model).is_dir() else Path(model).parent


def _default_folder(models: Sequence[Model]) -> Path:
    return ((_beside(models[0]) if len(models) == 1 else None) or Path("runs")) / "evaluate"


def _run(model: Model) -> dict[str, Any]:
    """The arguments of the run whose model it is; empty where it is of no run."""
    folder = _origin(model)
    if folder is None or not (path := folder / "run.json").is_file():
        return {}
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        run, why = None, str(error)
    else:
        why = "not the arguments of a run"
    texts = ("task", "data", "short")
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
    if fold is None or _is_of_run(model, run, data):
        return fold
    terminal.say(
        f"{_origin(model)}: trained on fold {fold} of {run.get('data')}; give --fold {fold} if {data} is the same data"
    )
    return None


def _is_of_run(model: Model, run: Mapping[str, Any], data: str | os.PathLike) -> bool:
    """Whether a run was trained on this data, whose path it has as it was typed: from here, or from above the run."""
    if not run.get("data"):
        return False
    folder = _origin(model)
    place = begun_in(folder, run["data"]) if folder is not None else None
    return Path(data).resolve() in [(at / run["data"]).resolve() for at in (Path(), place) if at is not None]


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

    if found.task == "frames":  # whether classes overlap is asked of all parts, as in training
        parts = [*found.splits]
    splits = {part: [replace(sample, target=moved(sample.target)) for sample in found.splits[part]] for part in parts}
    return replace(found, classes=spec.classes, splits=splits, evaluated=moved(found.evaluated))


# What it comes to


def _finish(
    folder: Path,
    title: str,
    result: measure.Result,
    report: dict[str, Any],
    temperature: bool,
    alone: Mapping[str, Any] | None = None,
) -> Table:
    """Figures of what was measured, written to the folder beside `scores.csv`."""
    scores, names = result.scores, result.scores.classes
    found: dict[str, Any] = {}
    if scores.targets.ndim == 1:
        summary, rows, confusion = _classified(scores)
        found = {"calibration": _reliability(scores)}
        chance = 1 / len(names)
        if temperature:
            tempered = _tempered(scores, result.fitted_on)
            summary |= tempered
            found["temperature"] = {**tempered, "fitted_on": measure.FITTED_ON}
    else:
        summary, rows, confusion = *_labelled(scores), None
        chance = scores.targets.double().mean(0)[scores.targets.any(0)].mean().item()
    found["mistakes"] = _mistakes(scores, result.samples)
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
    # where no sample that could be read has a label, nothing was measured
    if result.audited and all(map(math.isfinite, (chance, *result.audited.values()))):
        plot.audit(result.audited, chance, folder / "audit.png")
    return table


def _finish_each(
    network: nn.Module,
    spec: ClipSpec,
    found: VideoData,
    seeing: measure.Seeing,
    folder: Path,
    report: dict[str, Any],
) -> Table:
    """Figures of frames or boxes, measured and written."""
    with folder_for(folder):
        summary, rows, worst, bad = measure.measured_each(network, spec, found, seeing)
    report |= {"combine": None, "classes": spec.classes, "summary": summary, "per_class": rows, "bad": bad}
    report["worst"] = [row | {"sample": str(Path(str(row["sample"])).absolute())} for row in worst[:MISTAKES]]
    _write_report(folder, report)
    seen_as = "whole videos" if seeing.is_whole else "each clip"
    seen_as += ", the true boxes given" if found.task == "detect" else ""
    table = Table(rows, summary, f"{seeing.split} of {report['data']}; {found.task} of {seen_as}")
    if rows:
        table.to_csv(folder / "classes.csv")
    _write_page(folder)
    return table


def _classified(scores: Scores) -> tuple[dict[str, Any], list[dict[str, object]], Tensor]:
    """Figures, rows of the classes, and confusion (K, K) of samples with one class each."""
    measures = metrics.classification(len(scores.classes))
    measures.update(scores.scores, scores.targets)
    measured = measures.compute()
    confusion = measured["confusion"]
    is_right = (scores.scores.argmax(1) == scores.targets).double()
    low, high = metrics.share_interval(is_right)
    summary: dict[str, Any] = {"top1": measured["top1"].item(), "top1_low": low, "top1_high": high}
    if "top5" in measured:
        summary["top5"] = measured["top5"].item()
    summary["auc"] = metrics.roc_auc(scores.scores, scores.targets).nanmean().item()
    if scores.scores.numel() <= MOST_RESAMPLED:
        summary["auc_low"], summary["auc_high"] = metrics.interval(metrics.bootstrap_auc(scores.scores, scores.targets))
    summary["mean_class"] = metrics.mean_class(confusion)
    summary["calibration_error"] = metrics.calibration_error(scores.scores, scores.targets)
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
    summary: dict[str, Any] = {"map": precision.nanmean().item()}
    if scores.scores.numel() <= MOST_RESAMPLED:
        draws = metrics.bootstrap_precision(scores.scores, scores.targets)
        summary["map_low"], summary["map_high"] = metrics.interval(draws)
    return summary, rows


def _tempered(scores: Scores, fitted_on: Scores | None) -> dict[str, float]:
    """The temperature, and the calibration error with it; without other scores to fit on, of each half by the other."""
    logits, targets = log_scores(scores.scores), scores.targets
    if fitted_on is not None:
        found = metrics.fit_temperature(log_scores(fitted_on.scores), fitted_on.targets)
        after = (logits / found).softmax(1)
    else:
        if len(targets) < 2:
            raise ValueError(
                f"temperature: {measure.FITTED_ON} has 1 sample, and two halves are needed; leave temperature out"
            )
        found, after = metrics.fit_temperature(logits, targets), torch.empty_like(logits)
        for half in (0, 1):
            is_held = torch.arange(len(targets)) % 2 == half
            of_others = metrics.fit_temperature(logits[~is_held], targets[~is_held])
            after[is_held] = (logits[is_held] / of_others).softmax(1)
    return {"temperature": found, "calibration_error_tempered": metrics.calibration_error(after, targets)}


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
    """The wrong answers with the highest scores, and where they can be seen.

    Of samples with several classes: where a class that it lacks has a higher score than one that it has.
    """
    places = {sample.name: sample for sample in samples}
    is_true = scores.targets.bool()
    if scores.targets.ndim == 1:
        is_true = F.one_hot(scores.targets, len(scores.classes)).bool()
    tops, answers = scores.scores.masked_fill(is_true, -1).max(1)
    least, targets = scores.scores.masked_fill(~is_true, 2).min(1)
    is_first = ~is_true.gather(1, scores.scores.argmax(1, keepdim=True))[:, 0]
    is_wrong = (is_first | (tops > least)) & is_true.any(1)
    rows = []
    for i in [i for i in tops.argsort(descending=True).tolist() if is_wrong[i]][:MISTAKES]:
        sample, target, answer = places[scores.samples[i]], int(targets[i]), int(answers[i])
        rows.append(
            {
                "sample": sample.name,
                "path": str(sample.path.absolute()),
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
    with aside(folder / "evaluate.json") as made:
        made.write_text(json.dumps(plain, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _write_page(folder: Path) -> None:
    """Write `report.html`. What was measured is on disk by then, so that a page that fails is told and no more."""
    try:
        report_of_evaluation(folder)
    except (ImportError, ValueError, OSError) as error:
        terminal.say(f"no {folder / 'report.html'}: {error}")
