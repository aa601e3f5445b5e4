"""Evaluation: accuracy over views, per class, with every score on disk, and whether motion is used at all."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from . import feed, heads, metrics, plot, terminal
from .data import transforms
from .data.datasets import ViewClips
from .data.loader import Batches, loader
from .data.sample import VideoData
from .data.sampling import SHORTS, Short
from .models import classifier, unnamed
from .spec import ClipSpec, at_least_one
from .terminal import Table


def evaluate(
    model: str | os.PathLike | nn.Module,
    data: str | os.PathLike,
    *,
    task: Literal["classify"] = "classify",
    fold: int | None = None,
    split: str = "val",
    views: int = 10,
    crops: int = 3,
    classes: str | os.PathLike | None = None,
    audit: bool = True,
    batch_size: int = 16,
    short: Short = "error",
    on_bad: Literal["raise", "skip"] = "raise",
    workers: int | None = None,
    out: str | os.PathLike | None = None,
) -> Table:
    """Measure a classifier on videos, each seen as views x crops clips whose softmax scores are averaged.

    Args:
        model: a file of weights, the folder of a run, or a network with a `spec`.
        data: as in `train`.
        task: as in `train`.
        fold: as in `train`; by default that of the run whose model it is, where it was trained on this data.
        split: part of the data: train, val or test.
        views: clips spread over the length of each video.
        crops: crops of each, spread over its longer side.
        classes: file of the model's class names in the order of its logits, for a model that does not say them: text
            with one a line, or .json with a list or {name: index}.
        audit: also measure with one centre view as it is, reversed, shuffled and with one frame repeated, which
            tells whether the network uses motion.
        batch_size: clips in one pass of the network.
        short: videos with fewer frames than a clip: error, loop or hold.
        on_bad: what a video does that cannot be read: raise ends with an error, skip leaves it out and counts it.
        workers: processes that read; 0 reads in this one.
        out: folder for `scores.csv` (each view of each sample), `classes.csv`, `confusion.png`, `audit.png` and
            `evaluate.json`; by default `evaluate` beside the weights, or `runs/evaluate`.

    Returns:
        A row for each class; `summary` holds top1, top5 (above five classes), mean_class, and the audit, 0..1, and how
        many samples were measured, were bad, or are missing on disk.

    Raises:
        ValueError: model, classes, data or split do not fit, a video cannot be read, or the network answers no number;
            the message says what would.
    """
    at_least_one(views=views, crops=crops, batch_size=batch_size)
    if short not in SHORTS:
        raise ValueError(f"short {short!r}; there is {', '.join(SHORTS)}")
    if task != "classify":
        raise ValueError(f"task {task!r}; evaluate measures classify")
    network, spec = classifier(model, classes)
    if not spec.classes:
        raise ValueError(unnamed(model, network))
    folder = Path(out) if out is not None else (_beside(model) or Path("runs")) / "evaluate"
    fold = _fold_of_run(model, data) if fold is None else fold
    found = _in_order_of(spec, feed.open_parts(data, (split,), task, fold), data, split)
    samples = found.splits[split]
    names = spec.classes
    folder.mkdir(parents=True, exist_ok=True)
    measures = metrics.classification(len(names))
    said: set[str] = set()
    with (
        feed.explained(found, (split,), spec, short),
        (folder / "scores.csv").open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["sample", "target", "view", "crop", *names])
        clips = feed.Noted(ViewClips(found, split, spec, views, crops, short))
        batches = loader(clips, 1, workers=workers, on_bad=on_bad)
        seen = 0
        for index, target, scores in _scores(network, spec, batches, batch_size, "evaluating", said):
            for i, row in enumerate(scores.tolist()):
                values = [f"{value:.6g}" for value in row]
                writer.writerow([samples[index].name, names[target], i // crops, i % crops, *values])
            measures.update(scores.mean(0, keepdim=True), torch.tensor([target]))
            seen += 1
    measured = measures.compute()
    confusion = measured.pop("confusion")
    summary: dict[str, Any] = {name: value.item() for name, value in sorted(measured.items(), reverse=True)}
    summary["mean_class"] = metrics.mean_class(confusion)
    counts = {"samples": seen, "bad": len(samples) - seen, "missing": found.missing}
    summary |= {**counts, "views": views, "crops": crops}
    if audit:
        altered = feed.Noted(_Altered(ViewClips(found, split, spec, 1, 1, short)))
        summary |= _audit(network, spec, loader(altered, 1, workers=workers, on_bad=on_bad), batch_size, said)
    table = Table(_rows(confusion, names), summary, f"{split} of {data}")
    table.to_csv(folder / "classes.csv")
    plot.confusion(confusion, names, folder / "confusion.png")
    if audit:
        accuracies = {name.removeprefix("audit "): value for name, value in summary.items() if "audit" in name}
        plot.audit(accuracies, 1 / len(names), folder / "audit.png")
    report = {"data": str(data), "task": task, "fold": fold, "split": split, "classes": names, "summary": summary}
    report |= {"bad": batches.bad, "confusion": confusion.tolist()}
    (folder / "evaluate.json").write_text(json.dumps(report, indent=2) + "\n")
    return table


def _beside(model: str | os.PathLike | nn.Module) -> Path | None:
    """The folder that a model's weights are in; None for a network in memory or from the catalogue."""
    if isinstance(model, nn.Module) or not Path(model).exists():
        return None
    return Path(model) if Path(model).is_dir() else Path(model).parent


def _fold_of_run(model: str | os.PathLike | nn.Module, data: str | os.PathLike) -> int | None:
    """The fold that a run was trained on, if on this data: in another, videos of its training would be measured."""
    folder = _beside(model)
    if folder is None or not (folder / "run.json").is_file():
        return None
    run = json.loads((folder / "run.json").read_text())
    fold = run.get("fold")
    if Path(run.get("data", "")).resolve() == Path(data).resolve():
        return fold
    if fold is not None:
        terminal.say(
            f"{folder}: trained on fold {fold} of {run['data']}; give --fold {fold} if {data} is the same data"
        )
    return None


def _in_order_of(spec: ClipSpec, found: VideoData, data: str | os.PathLike, split: str) -> VideoData:
    """The data set, with the targets of a split in the order of the model's own classes."""
    places = {name: i for i, name in enumerate(spec.classes)}
    if unknown := [name for name in found.classes if name not in places]:
        raise ValueError(
            f"{data}: the model does not know {', '.join(unknown[:5])}; it knows {', '.join(spec.classes[:5])}"
            + (f" and {len(spec.classes) - 5} more" if len(spec.classes) > 5 else "")
        )
    samples = [
        replace(sample, target=places[found.classes[cast(int, sample.target)]]) for sample in found.splits[split]
    ]
    return replace(found, classes=spec.classes, splits={split: samples})


@torch.no_grad()
def _scores(
    network: nn.Module, spec: ClipSpec, batches: Batches, batch_size: int, what: str, said: set[str]
) -> Iterator[tuple[int, int, Tensor]]:
    """Index, target and softmax scores (V, K) of each sample, from batches of one (clips (V, C, T, H, W), ...).

    Notes on files that are not in `said` are printed, and added.
    """
    with closing(batches), batches.watched():
        for views, target, index, notes in terminal.progress(batches, what):
            feed.say_once(notes, said)
            logits = [network(transforms.prepare(part, spec, network)) for part in views[0].split(batch_size)]
            try:
                scores = heads.scores(torch.cat(logits), spec.classes)
            except ValueError as error:
                raise ValueError(f"{batches.dataset.name(int(index))}: {error}") from None
            yield int(index), int(target), scores


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
        return torch.stack([clip, clip.flip(1), clip[:, order], middle]), target, index


def _audit(network: nn.Module, spec: ClipSpec, batches: Batches, batch_size: int, said: set[str]) -> dict[str, float]:
    """Accuracy of each way of altering time: `{"audit reversed": 0.1, ...}`."""
    right, samples = torch.zeros(len(_Altered.WAYS)), 0
    for _, target, scores in _scores(network, spec, batches, batch_size, "motion audit", said):
        right += scores.argmax(1) == target
        samples += 1
    return {f"audit {way}": value / samples for way, value in zip(_Altered.WAYS, right.tolist(), strict=True)}


def _rows(confusion: Tensor, names: Sequence[str]) -> list[dict[str, object]]:
    """One row a class: samples, recall, precision and the class it is taken for most often."""
    rows = []
    for i, name in enumerate(names):
        of_class, as_class, right = (
            confusion[i].sum().item(),
            confusion[:, i].sum().item(),
            confusion[i, i].item(),
        )
        others = confusion[i].clone()
        others[i] = 0
        rows.append(
            {
                "class": name,
                "samples": int(of_class),
                "recall": right / of_class if of_class else float("nan"),
                "precision": right / as_class if as_class else float("nan"),
                "mostly taken for": names[int(others.argmax())] if others.sum() else "",
            }
        )
    return rows
