"""Runs side by side: which is better, and could it be chance; and several runs fused into one answer.

Everything starts from what `evaluate` writes: `scores.csv`, scores of each view of each sample, or of scans with masks
`cases.csv`, the Dice of each class in each scan.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from . import masks, metrics
from .terminal import Table

Combine = Literal["scores", "logits", "max"]

COLUMNS = ["sample", "target", "view", "crop"]
NAMED = 3  # of samples that only one run has
_LEAST = 1e-300  # of a score: 0 has no logarithm
_ROOM = 1e-12  # between a sigmoid score and 0 or 1


@dataclass(frozen=True)
class Scores:
    """What a run answered, one answer for all views of a sample.

    Attributes:
        samples: names, as in `scores.csv`.
        classes: names, in the order of the scores.
        targets: class indices (N,); labels (N, K), 0 or 1, where a sample may have several classes.
        scores: (N, K), float64, softmax, or sigmoid where a sample may have several classes.
    """

    samples: tuple[str, ...]
    classes: tuple[str, ...]
    targets: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Difference:
    """A figure of two runs on the same samples.

    Attributes:
        a: of the first.
        b: of the second.
        low: lower end of the confidence interval of b - a.
        high: its upper end.
        p: how probable a difference at least as large is by chance, were both alike; two-sided.
    """

    a: float
    b: float
    low: float
    high: float
    p: float


def combine(scores: Tensor, how: Combine = "scores", *, is_open: bool = False) -> Tensor:
    """One answer (K,), float64, from the scores (V, K) of the views of a sample.

    Args:
        scores: softmax scores, or sigmoid scores if `is_open`.
        how: scores, their mean; logits, the scores of the mean of the logits; max, the highest of each class.
        is_open: whether a sample may have several classes.
    """
    scores = scores.double()
    if how == "max":
        return scores.amax(0)
    if how == "scores":
        return scores.mean(0)
    if is_open:
        return scores.logit(_ROOM).mean(0).sigmoid()
    # the logarithms of softmax scores are the logits, but for a number that is the same for all classes
    return log_scores(scores).mean(0).softmax(0)


def log_scores(scores: Tensor) -> Tensor:
    """What serves as logits where only softmax scores (N, K) are known: their logarithms, finite, float64."""
    return scores.double().clamp(min=_LEAST).log()


def read_scores(path: str | os.PathLike) -> Scores:
    """The scores of a run, its views combined as `evaluate` did.

    Args:
        path: the folder of a run, its `evaluate` folder, or a `scores.csv`; without `evaluate.json` beside it, the
            scores of the views are averaged.

    Raises:
        ValueError: there are none, or the files are not whole.
    """
    places = [Path(path) / "evaluate" / "scores.csv", Path(path) / "scores.csv", Path(path)]
    file_path = next((place for place in places if place.is_file()), None)
    if file_path is None:
        raise ValueError(
            f"{path}: no scores.csv in it nor in its folder evaluate; `tubelet evaluate` writes one, but "
            "not of the tasks frames and detect"
        )
    how = _combined(file_path.with_name("evaluate.json"))
    target_of: dict[str, str] = {}
    rows_of: dict[str, int] = {}
    answers = []
    with file_path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        classes = tuple(header[len(COLUMNS) :])
        if header[: len(COLUMNS)] != COLUMNS or not classes:
            raise ValueError(f"{file_path}: its header is not {','.join(COLUMNS)} and classes, as evaluate writes it")
        for name, group in groupby(_views(reader, classes, file_path), key=itemgetter(0)):
            views = list(group)
            target_of.setdefault(name, views[0][1])
            if odd := next((target for _, target, _ in views if target != target_of[name]), None):
                raise ValueError(f"{file_path}: {name} is {target_of[name]} and {odd}; evaluate again")
            if name in rows_of:
                raise ValueError(f"{file_path}: {name} is there twice; leave it out of the list once, evaluate again")
            rows_of[name] = len(views)
            scores = torch.from_numpy(np.stack([values for *_, values in views]))
            answers.append(combine(scores, how, is_open=views[0][1] not in classes))
    if not answers:
        raise ValueError(f"{file_path}: no samples; evaluate again")
    most, least = max(rows_of, key=rows_of.__getitem__), min(rows_of, key=rows_of.__getitem__)
    if rows_of[most] != rows_of[least]:
        raise ValueError(
            f"{file_path}: {rows_of[least]} rows for {least}, {rows_of[most]} for {most}: cut off, or a sample that is "
            "listed twice; evaluate again"
        )
    labels = [_labels(target, classes) for target in target_of.values()]
    if all(target in classes for target in target_of.values()):
        targets = torch.tensor([classes.index(names[0]) for names in labels])
    else:
        targets = torch.tensor([[int(name in names) for name in classes] for names in labels])
    return Scores(tuple(target_of), classes, targets, torch.stack(answers))


def _views(reader: Any, classes: Sequence[str], path: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """Name, target and scores (K,) of each row."""
    for row in reader:
        name, target = [*row, "", ""][:2]
        try:
            values = np.array(row[len(COLUMNS) :], dtype=np.float64)
            is_known = set(_labels(target, classes)) <= set(classes)
        except (ValueError, TypeError):
            values, is_known = np.array([]), False
        if values.shape != (len(classes),) or not np.isfinite(values).all() or not is_known:
            raise ValueError(f"{path}: line {reader.line_num} is not whole; evaluate again")
        yield name, target, values


def _labels(target: str, classes: Sequence[str]) -> list[str]:
    """Classes of a sample: a name, or a list of them as json, which is what evaluate writes of several."""
    return [target] if target in classes else [*json.loads(target)]


def _combined(path: Path) -> Combine:
    """How the views were combined, from an `evaluate.json`."""
    if not path.is_file():
        return "scores"
    try:
        how = json.loads(path.read_text(encoding="utf-8")).get("combine", "scores")
    except (ValueError, AttributeError):
        how = None
    if how not in get_args(Combine):
        raise ValueError(f"{path}: not whole; evaluate again")
    return how


def compare(
    a: str | os.PathLike | Scores,
    b: str | os.PathLike | Scores,
    *,
    level: float = 0.95,
    rounds: int = 2000,
    seed: int = 0,
) -> Table:
    """Compare two runs on the samples that both have.

    Args:
        a: a run: its folder, its `scores.csv`, or its `Scores`.
        b: another one.
        level: of the confidence intervals.
        rounds: resamples of the bootstrap.
        seed: of the resamples.

    Returns:
        Rows top1, top5 (above five classes) and mean_class: each figure of a and of b, the difference b - a with its
            confidence interval (paired bootstrap over samples), and p: of top1 and top5 by McNemar's exact test, of
            mean_class by the bootstrap. Of samples of several classes one row, map, and of scans with masks dice and
            the Dice of each class, by the bootstrap. `summary` tells how many samples both have, what only one has, and
            of samples of one class how many only one gets right.

    Raises:
        ValueError: there are no scores, their classes or targets differ, or no sample is in both.
    """
    names = ["a" if isinstance(a, Scores) else str(a), "b" if isinstance(b, Scores) else str(b)]
    title = f"a: {names[0]}, b: {names[1]}; low to high: {100 * level:g} %"
    how: dict[str, Any] = {"level": level, "rounds": rounds, "seed": seed}
    if not isinstance(a, Scores) and not isinstance(b, Scores) and (files := _files_of_cases(a, b)):
        one, other = map(_read_cases, files)
        return Table(*_of_cases(one, other, names, how), title)
    first, second = (run if isinstance(run, Scores) else read_scores(run) for run in (a, b))
    both, summary = _shared(first.samples, second.samples, names)
    left, right = (_in_order(run, both, first.classes) for run in (first, second))
    _check_targets(left, right)
    if left.targets.ndim > 1:
        found = _precision_difference(left, right, level, rounds, seed)
        return Table([_row("map", found, found.p)], summary, title)
    rows = []
    for k in (1, metrics.TOP_K) if len(first.classes) > metrics.TOP_K else (1,):
        hits = [is_right(run.scores, run.targets, k) for run in (left, right)]
        found = paired_bootstrap(torch.mean, hits[0], hits[1], **how)
        rows.append(_row(f"top{k}", found, mcnemar(hits[0] > 0, hits[1] > 0)))
    hits = [is_right(run.scores, run.targets) for run in (left, right)]
    found = paired_bootstrap(_mean_class, hits[0], hits[1], left.targets, **how)
    rows.append(_row("mean_class", found, found.p))
    summary["right in a alone"] = int((hits[0] > hits[1]).sum())
    summary["right in b alone"] = int((hits[1] > hits[0]).sum())
    return Table(rows, summary, title)


def _shared(a: Sequence[str], b: Sequence[str], names: Sequence[str]) -> tuple[list[str], dict[str, object]]:
    """The samples that both runs have, in the order of the first, and how many there are in words."""
    there = set(b)
    both = [sample for sample in a if sample in there]
    if not both:
        raise ValueError(
            f"no sample is in both: {names[0]} has {a[0]}, {names[1]} {b[0]}; evaluate both by one path of the data"
        )
    known = set(both)
    return both, {"samples": len(both), "only in a": _named(a, known), "only in b": _named(b, known)}


_Cases = dict[str, dict[str, tuple[float, int]]]  # of each class in each scan its Dice, and its voxels in the truth


def _files_of_cases(*paths: str | os.PathLike) -> list[Path]:
    """The `cases.csv` of each run, nothing where none has one.

    Raises:
        ValueError: one has it, another has not.
    """
    found: dict[str, Path] = {}
    for path in paths:
        places = [Path(path) / "evaluate" / "cases.csv", Path(path) / "cases.csv", Path(path)]
        found |= {str(path): place for place in places[::-1] if place.is_file() and place.name == "cases.csv"}
    if found and (lacking := [path for path in paths if str(path) not in found]):
        raise ValueError(
            f"{lacking[0]}: no cases.csv in it nor in its folder evaluate, and {next(iter(found))} has one; "
            "`tubelet evaluate` writes it, of scans with masks"
        )
    return [found[str(path)] for path in paths if found]


def _read_cases(path: Path) -> _Cases:
    found: _Cases = {}
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        try:
            for row in csv.DictReader(file):
                found.setdefault(row["case"], {})[row["class"]] = float(row["dice"]), int(row["voxels"])
        except (KeyError, TypeError, ValueError, csv.Error):
            found = {}
    if not found or len({tuple(case) for case in found.values()}) > 1:
        raise ValueError(f"{path}: not whole; evaluate again")
    return found


def _of_cases(
    a: _Cases, b: _Cases, names: Sequence[str], how: dict[str, Any]
) -> tuple[list[dict[str, object]], dict[str, object]]:
    both, summary = _shared(list(a), list(b), names)
    classes = list(a[both[0]])
    if odd := set(classes) ^ set(b[both[0]]):
        raise ValueError(f"the runs differ in {len(odd)} classes, such as {min(odd)}; compare runs on the same classes")
    for case, name in product(both, classes):
        if a[case][name][1] != b[case][name][1]:
            raise ValueError(
                f"{case}: {a[case][name][1]} voxels of {name} in the truth of a, {b[case][name][1]} in that of b: the "
                "masks were changed between the two; evaluate both again"
            )
    left, right = (
        torch.tensor([[run[case][name][0] for name in classes] for case in both], dtype=torch.float64) for run in (a, b)
    )
    each = {"dice": (left, right)} | {f"dice {name}": (left[:, [i]], right[:, [i]]) for i, name in enumerate(classes)}
    rows = []
    for name, (one, other) in each.items():
        found = paired_bootstrap(_mean_dice, one, other, **how)
        rows.append(_row(name, found, found.p))
    return rows, summary


def fuse(runs: Sequence[Scores], weights: Sequence[float] | None = None) -> Scores:
    """Late fusion: the average of the scores of several runs on the same samples, such as frames and flow.

    The two streams of Simonyan and Zisserman 2014 (arXiv 1406.2199), and ensembles of any size.

    Args:
        runs: at least one; samples and classes may come in any order.
        weights: of each run, at least 0; by default all alike.

    Returns:
        Scores in the order of the first run.

    Raises:
        ValueError: the runs differ in samples, classes or targets, or the weights do not fit.
    """
    weights = [1.0] * len(runs) if weights is None else list(weights)
    if not runs or len(weights) != len(runs) or min(weights) < 0 or not sum(weights) > 0:
        raise ValueError(f"weights {weights} for {len(runs)} runs: one a run, at least 0, some above 0")
    first = runs[0]
    ordered = []
    for number, run in enumerate(runs, start=1):
        if odd := set(run.samples) ^ set(first.samples):
            raise ValueError(
                f"runs 1 and {number} differ in {len(odd)} samples, such as {min(odd)}; evaluate both on the same"
            )
        ordered.append(_in_order(run, first.samples, first.classes))
        _check_targets(first, ordered[-1])
    fused = sum(weight / sum(weights) * run.scores for weight, run in zip(weights, ordered, strict=True))
    return Scores(first.samples, first.classes, first.targets, torch.as_tensor(fused))


def is_right(scores: Tensor, targets: Tensor, k: int = 1) -> Tensor:
    """1 where the target is among the k best classes, else 0: (N,) float64, from scores (N, K) and targets (N,)."""
    return (scores.topk(k).indices == targets[:, None]).any(1).double()


def mcnemar(a: Tensor, b: Tensor) -> float:
    """p value of McNemar's exact test that two runs are right equally often, from right or not (N,) of each.

    Only the samples that one alone gets right tell; were both alike, a fair coin would say which. Two-sided (McNemar
    1947; Dietterich 1998).
    """
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    count, fewer = only_a + only_b, min(only_a, only_b)
    ways = tail = 1
    for k in range(1, fewer + 1):
        ways = ways * (count - k + 1) // k
        tail += ways
    return min(1.0, 2 * tail / 2**count)


def paired_bootstrap(
    statistic: Callable[..., Tensor],
    a: Tensor,
    b: Tensor,
    *shared: Tensor,
    level: float = 0.95,
    rounds: int = 2000,
    seed: int = 0,
) -> Difference:
    """How sure the difference of a figure between two runs is, resampling the samples of both together.

    The p value is two-sided: it is below 1 - level where the interval leaves out 0, and never below 2 / (rounds + 1).

    Args:
        statistic: (values of a run (N, ...), shared...) -> number.
        a: of the first run, (N, ...).
        b: of the second, (N, ...).
        shared: what both have, such as targets (N,).
        level: of the confidence interval.
        rounds: resamples.
        seed: of the resamples.
    """

    def difference(a: Tensor, b: Tensor, *shared: Tensor) -> Tensor:
        return statistic(b, *shared) - statistic(a, *shared)

    estimates = metrics.bootstrap(difference, a, b, *shared, rounds=rounds, seed=seed)
    return _difference(float(statistic(a, *shared)), float(statistic(b, *shared)), estimates, level)


def _difference(a: float, b: float, estimates: Tensor, level: float) -> Difference:
    """Of a figure of two runs, from its difference on resamples."""
    low, high = metrics.interval(estimates, level)
    defined = estimates[~estimates.isnan()]
    beyond = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    p = min(1.0, 2 * (beyond + 1) / (len(defined) + 1))
    return Difference(a, b, low, high, p)


def _precision_difference(a: Scores, b: Scores, level: float, rounds: int, seed: int) -> Difference:
    """Of mAP, as `paired_bootstrap` has it: a seed draws the same resamples of both, which are sorted once."""
    draws = [metrics.bootstrap_precision(each.scores, each.targets, rounds=rounds, seed=seed) for each in (a, b)]
    figures = [float(metrics.average_precision(each.scores, each.targets).nanmean()) for each in (a, b)]
    return _difference(figures[0], figures[1], draws[1] - draws[0], level)


def _mean_dice(dice: Tensor) -> Tensor:
    """The mean over classes of the mean over scans (N, K), nan left out, as `evaluate` has it."""
    return masks.mean(dice)[1]


def _mean_class(right: Tensor, targets: Tensor) -> Tensor:
    """Accuracy averaged over the classes that occur, from right or not (N,) and targets (N,)."""
    counts = targets.bincount()
    return (targets.bincount(right)[counts > 0] / counts[counts > 0]).mean()


def _row(figure: str, found: Difference, p: float) -> dict[str, object]:
    return {
        "figure": figure,
        "a": found.a,
        "b": found.b,
        "b - a": found.b - found.a,
        "low": found.low,
        "high": found.high,
        "p": p,
    }


def _in_order(run: Scores, samples: Sequence[str], classes: Sequence[str]) -> Scores:
    """These samples of a run in this order, with its classes in this order."""
    if odd := set(run.classes) ^ set(classes):
        raise ValueError(f"the runs differ in {len(odd)} classes, such as {min(odd)}; compare runs on the same classes")
    place = {sample: i for i, sample in enumerate(run.samples)}
    rows = torch.tensor([place[sample] for sample in samples])
    columns = torch.tensor([run.classes.index(name) for name in classes])
    targets = run.targets[rows]
    if targets.ndim == 1:
        moved = torch.empty_like(columns)
        moved[columns] = torch.arange(len(columns))
        targets = moved[targets]
    else:
        targets = targets[:, columns]
    return Scores(tuple(samples), tuple(classes), targets, run.scores[rows][:, columns])


def _check_targets(a: Scores, b: Scores) -> None:
    if a.targets.ndim != b.targets.ndim:
        raise ValueError("one run has one class a sample, another several; evaluate both for the same task")
    odd = (a.targets != b.targets).reshape(len(a.targets), -1).any(1).nonzero().flatten().tolist()
    if odd:
        names = [_named_classes(run.targets[odd[0]], a.classes) for run in (a, b)]
        raise ValueError(
            f"{a.samples[odd[0]]} is {names[0]} in one run and {names[1]} in the other, and so {len(odd)} samples; "
            "evaluate both on the same data"
        )


def _named_classes(target: Tensor, classes: Sequence[str]) -> str:
    """A class index (), or labels (K,), in words."""
    indices = target.nonzero().flatten() if target.ndim else target[None]
    return " + ".join(classes[i] for i in indices.tolist()) or "of no class"


def _named(samples: Sequence[str], known: set[str]) -> object:
    """How many samples are not known, and which are the first."""
    odd = [sample for sample in samples if sample not in known]
    dots = ", ..." if len(odd) > NAMED else ""
    return f"{len(odd)}: {', '.join(odd[:NAMED])}{dots}" if odd else 0
