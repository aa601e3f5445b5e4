"""The report of a run: how it was trained, how good it is, where it goes wrong, on one offline page."""

from __future__ import annotations

import csv
import heapq
import inspect
import json
import math
import os
import re
import shlex
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import masks, plot, terminal
from .data.augment import Augment
from .data.datasets import part_of
from .data.distort import Distort
from .data.mixing import Mixing
from .data.sample import Sample
from .data.video import Video, write_video
from .data.volume import read_volume
from .models import models
from .page import Section, write_report
from .train import train

__all__ = ["command", "report"]

# The first that is there leads the page: figures that were measured, and those by which a run chose its best epoch.
FIGURES = {"top1": "top-1", "map": "mAP", "frame_accuracy": "frames right", "dice": "Dice"}
BEST = {"auc": "AUC", **FIGURES}
MOST_PAIRS = 30  # of confused classes, where the matrix is too large to read
MOST_BAD = 100  # samples that are listed with their reasons
MOST_CASES = 100  # scans that are listed with their figures
MOST_TOLD = 4  # classes of a scan whose figures stand below its picture
# A thumbnail: seconds and frames at most, pixels of its short and long side at most, and H.264's constant quality.
# Noise, the worst there is, comes to 0.35 MB, what people film to 0.03: the page of 24 mistakes to 11 MB and to 1.
SECONDS, NUM_FRAMES, SHORT_SIDE, LONG_SIDE, CRF = 4, 50, 112, 224, 30

_OF_SCANS = ("spacing_mm", "orientation", "intensity")  # what a clip of videos has none of
# Measures of masks: their names, their units, and what they say.
_OF_MASKS = {
    "dice": ("Dice", "%", "voxels that are right, counted twice, as a share of those answered and those true"),
    "iou": ("IoU", "%", "voxels that are right, as a share of all that are answered or true"),
    "hd95_mm": (
        f"HD{masks.PERCENTILE}",
        "mm",
        f"distance within which {masks.PERCENTILE} % of each surface lie from the other; over cases without a miss",
    ),
    "surface_dice": ("surface Dice", "%", f"share of both surfaces within {masks.TOLERANCE_MM:g} mm of the other"),
}
_FIELDS: dict[str, Any] = {"augment": Augment, "mixing": Mixing, "distort": Distort}


def report(folder: str | os.PathLike, out: str | os.PathLike | None = None) -> Path:
    """Write one HTML page of a run: figures, commands, curves, confusion, worst mistakes, classes, audit, calibration.

    Of masks it has the figures of each scan and pictures of the worst. What a run chose, and why, is there where its
    folder has it as `reasons` in `plan.json`.

    It holds its pictures and videos, and asks no other machine for anything. What was not measured is left out.

    Args:
        folder: of a run (`tubelet train`), or of an evaluation (`tubelet evaluate`, which writes this page itself).
        out: the page; by default `report.html` in the folder.

    Returns:
        Path of the page.

    Raises:
        ValueError: the folder is neither, a file in it is damaged, or `out` is a folder.
        ImportError: a package of `tubelet[plot]` is missing.
    """
    folder = Path(folder)
    path = folder / "report.html" if out is None else Path(out)
    if path.is_dir():
        raise ValueError(f"{path}: a folder; give the name of a file, such as {path / 'report.html'}")
    places = (folder / "evaluate", folder)
    return _written(folder, path, next((each for each in places if (each / "evaluate.json").is_file()), None))


def report_of_evaluation(folder: Path) -> Path:
    """The page of what was measured into this very folder, as `report.html` in it; raises as `report`."""
    return _written(folder, folder / "report.html", folder)


def _written(folder: Path, path: Path, place: Path | None) -> Path:
    """The page of a folder, with the figures of `place`."""
    measured = _read_json(place / "evaluate.json", "summary") if place else {}
    runs = [_run(each) for each in _run_folders(folder, measured)]
    if not measured and not runs:
        raise ValueError(
            f"{folder}: no run.json and no evaluate.json in it; give the folder of a run, such as runs/NAME"
        )

    with tempfile.TemporaryDirectory() as drawn:
        sections = [_commands(runs, measured), _choices(runs), _training(runs, Path(drawn))]
        if place is not None and measured.get("task") == "segment":
            cases = _read_cases(place / "cases.csv", measured["classes"][1:])
            sections += [
                _mask_figures(measured),
                _dice_by_case(cases, Path(drawn)),
                _worst_cases(cases, place),
                _mask_classes(measured),
                _cases(cases),
            ]
        elif place is not None:
            sections += [
                _all_figures(measured),
                _confusion(measured, place),
                _mistakes(measured, Path(drawn)),
                _worst(measured),
                _classes(measured),
                _audit(measured, place),
                _calibration(measured, Path(drawn)),
            ]
        sections += [_data(runs, measured), _environment(measured)]
        names = [run.folder.resolve().name for run in runs] or [Path(name).name for name in measured["models"]]
        data = measured["data"] if measured else runs[0].arguments["data"]
        return write_report(
            path,
            f"{' + '.join(names)} on {data}",
            [section for section in sections if section is not None],
            summary=_summary(measured),
            figures=_headline(runs, measured),
        )


def command(verb: Callable, values: Mapping[str, Any]) -> str:
    """The line that calls a verb of tubelet in a shell, what is the default left out.

    Args:
        verb: `train` or `evaluate`.
        values: its arguments by name, as `run.json` and `evaluate.json` hold them.
    """
    words = ["tubelet", verb.__name__, str(values["data"])]
    for name, parameter in inspect.signature(verb).parameters.items():
        value = values.get(name)
        if name == "data":
            continue
        if name in _FIELDS and value is not None:
            for key, each in _changed(value, _FIELDS[name]).items():
                words += [f"--{name}.{key}", _typed(each)]
        elif value not in (None, parameter.default):
            several = value if isinstance(value, list) and isinstance(value[0], str) else [value]
            for each in several:
                words += [f"--{name}", _typed(each)]
    return shlex.join(words)


def _changed(fields: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """The fields that differ from the usual ones; where none does, one of them, since to ask for none is to choose."""
    usual = json.loads(json.dumps(asdict(kind())))
    return {key: value for key, value in fields.items() if value != usual[key]} or dict([[*fields.items()][-1]])


def _typed(value: Any) -> str:
    if isinstance(value, list):  # two numbers are a size, which the command line has as 112x112
        is_size = len(value) == 2 and all(isinstance(each, int) for each in value)
        return "x".join(map(str, value)) if is_size else json.dumps(value)
    return json.dumps(value) if isinstance(value, bool) else str(value)


# What is there


@dataclass(frozen=True)
class _Run:
    """What a run left: its folder, `run.json`, `metrics.csv`, `bad.csv` and the reasons in `plan.json`."""

    folder: Path
    arguments: dict[str, Any]
    history: list[dict[str, float]]
    bad: dict[str, str]
    reasons: list[str]


@dataclass(frozen=True)
class _Case:
    """A scan that was measured: its name, and Dice and HD95 of each class but the background."""

    name: str
    dice: dict[str, float]
    hd95_mm: dict[str, float]

    @property
    def mean(self) -> float:
        """Of Dice, over the classes that count; where none does, 1."""
        counted = [value for value in self.dice.values() if not math.isnan(value)]
        return sum(counted) / len(counted) if counted else 1.0

    @property
    def ranked(self) -> list[str]:
        """Its classes by Dice, the worst first, those that do not count last."""
        return sorted(self.dice, key=lambda name: (math.isnan(self.dice[name]), self.dice[name]))

    @property
    def missed(self) -> list[str]:
        """Classes that are in the truth or the answer alone."""
        return [name for name, value in self.hd95_mm.items() if math.isinf(value)]


def _run_folders(folder: Path, measured: Mapping[str, Any]) -> list[Path]:
    """The folders of the runs whose models were measured, as far as they are there."""
    around = [each for each in (folder, folder.parent) if (each / "run.json").is_file()]
    models = (Path(name) for name in measured.get("models", []) if Path(name).exists())
    folders = (model if model.is_dir() else model.parent for model in models)
    found = [each for each in folders if (each / "run.json").is_file()]
    return found or (around[:1] if len(measured.get("models", [])) < 2 else [])  # the run may have been moved


def _run(folder: Path) -> _Run:
    rows = _read_csv(folder / "metrics.csv")
    try:
        history = [{name: float(value) for name, value in row.items() if value} for row in rows]
    except (TypeError, ValueError):
        raise ValueError(f"{folder / 'metrics.csv'}: damaged; move it away") from None
    bad = {row["sample"]: row["reason"] for row in _read_csv(folder / "bad.csv")}
    plan = folder / "plan.json"
    reasons = _read_json(plan, "reasons")["reasons"] if plan.is_file() else []
    return _Run(folder, _read_json(folder / "run.json", "data"), history, bad, reasons)


def _read_cases(path: Path, classes: Sequence[str]) -> list[_Case]:
    """The scans in the order in which they were measured; each has a row for each class."""
    rows = _read_csv(path)
    try:
        figures = [(row["case"], row["class"], float(row["dice"]), float(row["hd95_mm"])) for row in rows]
    except (TypeError, ValueError, KeyError):
        raise ValueError(f"{path}: damaged; evaluate again") from None
    if [row[1] for row in figures] != [*classes] * (len(figures) // len(classes)):
        raise ValueError(f"{path}: not a row for each class of each scan; evaluate again")
    groups = [figures[i : i + len(classes)] for i in range(0, len(figures), len(classes))]
    return [_Case(rows[0][0], {row[1]: row[2] for row in rows}, {row[1]: row[3] for row in rows}) for rows in groups]


def _read_json(path: Path, key: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or key not in found:
        raise ValueError(f"{path}: not whole; train or evaluate again")
    return found


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


# The head of the page


def _summary(measured: Mapping[str, Any]) -> str:
    if not measured:
        return "Not measured yet: the figures are those of the validation after each epoch."
    views = measured["views"]  # None where each frame is seen once
    if measured["task"] == "segment" or _is_of_scans(measured):
        seen = "whole scans" if views is None else "the middle of each scan"
    else:
        seen = "whole videos" if views is None else f"{views} x {measured['crops']} clips of each video"
    return f"Part {measured['split']}, {seen}" + (f", protocol {measured['protocol']}" if measured["protocol"] else "")


def _headline(runs: Sequence[_Run], measured: Mapping[str, Any]) -> dict[str, str]:
    """The figures in large letters."""
    if measured:
        found = measured["summary"]
        name = next(name for name in FIGURES if name in found)
        tiles = {FIGURES[name]: _percent(found[name])}
        if found.get(f"{name}_low") is not None:
            low, high = _percent(found[f"{name}_low"]), _percent(found[f"{name}_high"])
            tiles["95 % interval"] = f"{low.removesuffix(' %')} to {high}"
        if "auc" in found:
            tiles["AUC"] = _percent(found["auc"])
        if "hd95_mm" in found:
            tiles[_OF_MASKS["hd95_mm"][0]] = _measure("hd95_mm", found["hd95_mm"])
        tiles |= {"samples": f"{found['samples']:,}"}
        if missed := sum(row.get("missed", 0) for row in measured["per_class"]):
            tiles["missed structures"] = f"{missed:,}"
        return tiles | {name: f"{found[name]:,}" for name in ("bad", "missing") if found[name]}
    history = runs[0].history
    figure = next((name for name in BEST if history and f"val_{name}" in history[0]), None)
    best = {
        f"{BEST[name]}, best epoch": _percent(max(values))
        for name in BEST
        if name == figure
        and (values := [value for row in history if not math.isnan(value := row.get(f"val_{name}", math.nan))])
    }
    return best | {"epochs": str(len(history))}


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def _measure(name: str, value: float | None) -> str:
    """A measure of masks with its unit."""
    if _OF_MASKS[name][1] == "%":
        return _percent(value)
    return "-" if value is None or not math.isfinite(value) else f"{value:.1f} mm"


# Its sections; None where there is nothing to show


def _commands(runs: Sequence[_Run], measured: Mapping[str, Any]) -> Section:
    lines, notes = [], []
    for run in runs:
        if run.arguments["model"] in models():
            lines.append(command(train, _asked(run.arguments)))
        else:
            notes.append(f"{run.folder} was trained from Python, on a network in memory: see its run.json.")
    if measured.get("command"):
        lines.append(measured["command"])
    elif measured:
        notes.append("Measured from Python, on a network in memory: see evaluate.json.")
    return Section("Commands", "\n".join(notes), commands=lines)


def _asked(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a run without the paths that it chose by itself."""
    chosen = dict(arguments)
    out = Path(chosen.get("out") or "")
    if re.fullmatch(re.escape(f"{Path(chosen['data']).stem}-{chosen['model']}") + r"(-\d+)?", out.name) and (
        out.parent == Path("runs")
    ):
        del chosen["out"]
    for name in ("convolutions", "plan"):
        if Path(chosen.get(name) or "").parent.name == out.name:
            chosen[name] = None
    return chosen


def _choices(runs: Sequence[_Run]) -> Section | None:
    rows = []
    for run in runs:
        for reason in run.reasons:
            what, _, why = reason.partition(": ")
            rows.append(({"run": str(run.folder)} if len(runs) > 1 else {}) | {"what": what, "why": why})
    return Section("Choices", "What was chosen for the data, the network and the device.", table=rows) if rows else None


def _training(runs: Sequence[_Run], drawn: Path) -> Section | None:
    pictures, lines = [], []
    for number, run in enumerate(run for run in runs if run.history):
        epochs, seconds = len(run.history), sum(row.get("seconds", 0) for row in run.history)
        lines.append(f"{run.folder}: {terminal.counted(epochs, 'epoch')} in {seconds / 60:.1f} minutes.")
        share = "Dice" if run.arguments.get("task") == "segment" else "accuracy"
        caption = f"Loss and {share} of {run.folder.resolve().name} over its {terminal.counted(epochs, 'epoch')}"
        pictures.append((plot.curves(run.history, drawn / f"curves{number}.png"), caption))
    return Section("Training", "\n".join(lines), pictures) if pictures else None


def _all_figures(measured: Mapping[str, Any]) -> Section:
    elsewhere = ("samples", "bad", "missing", "views", "crops")
    found = {name: value for name, value in measured["summary"].items() if name not in elsewhere}
    rows = [{"figure": name.replace("_", " "), "value": _shown(value)} for name, value in found.items()]
    return Section("Figures", "Accuracies and errors are shares, 0 to 1.", table=rows)


def _mask_figures(measured: Mapping[str, Any]) -> Section:
    found = measured["summary"]
    rows = []
    for name, (word, _, says) in _OF_MASKS.items():
        value = _measure(name, found[name])
        if name == "dice" and found["dice_low"] is not None:
            value += f" ({_percent(found['dice_low']).removesuffix(' %')} to {_percent(found['dice_high'])})"
        rows.append({"figure": word, "value": value, "what it is": says})
    text = (
        "Means over the classes of the mean over the cases; of Dice with the 95 % interval from drawing the cases "
        "again. A class that is in neither truth nor answer does not count; one that is in one of them alone has "
        "Dice 0 and is missed."
    )
    return Section("Figures", text, table=rows)


def _dice_by_case(cases: Sequence[_Case], drawn: Path) -> Section | None:
    if not any(math.isfinite(value) for case in cases for value in case.dice.values()):
        return None
    names = cases[0].dice.keys()
    shares = {name: [case.dice[name] for case in cases] for name in names}
    missed = {name: [name in case.missed for case in cases] for name in names}
    picture = plot.swarm(shares, drawn / "dice.png", name="Dice", missed=missed)
    return Section("Dice by case", pictures=[(picture, "A dot for each case and class; the line is the class's mean")])


def _cases(cases: Sequence[_Case]) -> Section | None:
    if not cases:
        return None
    root = _root([case.name for case in cases])
    rows = [_row(case, root) for case in heapq.nsmallest(MOST_CASES, cases, key=lambda case: case.mean)]
    if not any(case.missed for case in cases):
        rows = [{name: value for name, value in row.items() if name != "missed"} for row in rows]
    number = f"The {len(rows)} worst of {len(cases):,} scans" if len(rows) < len(cases) else "All scans"
    return Section("Cases", f"{number}, by Dice; every figure is in cases.csv. The files are in {root}.", table=rows)


def _row(case: _Case, root: str) -> dict[str, object]:
    """A case in a table: its mean, its worst class, and its largest distance."""
    name = case.ranked[0]
    of_worst = {"worst class": name, "its Dice (%)": round(100 * case.dice[name], 1)} if len(case.dice) > 1 else {}
    far = [value for value in case.hd95_mm.values() if math.isfinite(value)]
    return {
        "case": _below(case.name, root),
        "Dice (%)": round(100 * case.mean, 1),
        **of_worst,
        "largest HD95 (mm)": round(max(far, default=math.nan), 1),
        "missed": ", ".join(case.missed),
    }


def _worst_cases(cases: Sequence[_Case], place: Path) -> Section | None:
    """Pictures of scans; the name of each is the number of the scan, from 1."""
    if not cases:
        return None
    files = {int(path.stem) - 1: path for path in (place / "worst").glob("*.png") if path.stem.isdecimal()}
    shown = sorted((number for number in files if number < len(cases)), key=lambda number: cases[number].mean)
    root = _root([case.name for case in cases])
    pictures = []
    for number in shown:
        case = cases[number]
        told = [
            f"{name} {_measure('dice', case.dice[name])}, "
            + ("missed" if name in case.missed else f"HD95 {_measure('hd95_mm', case.hd95_mm[name])}")
            for name in case.ranked[:MOST_TOLD]
        ]
        rest = f"; {len(case.dice) - MOST_TOLD} more classes" if len(case.dice) > MOST_TOLD else ""
        caption = f"{_below(case.name, root)}: Dice {_measure('dice', case.mean)}\n{'; '.join(told)}{rest}"
        pictures.append((files[number], caption))
    text = f"The scans of least Dice, in slices through what is true; the answer is outlined. The files are in {root}."
    return Section("Worst cases", text, pictures) if pictures else None


def _mask_classes(measured: Mapping[str, Any]) -> Section:
    rows = sorted(measured["per_class"], key=lambda row: math.inf if row["dice"] is None else row["dice"])
    table = []
    for row in rows:
        shown = {"class": row["class"]}
        for name, (word, unit, _) in _OF_MASKS.items():
            value = math.nan if row[name] is None else row[name]
            shown[f"{word} ({unit})"] = round(100 * value if unit == "%" else value, 1)
        table.append(shown | {"cases that miss it": row["missed"]})
    return Section("Classes", "The worst first, by Dice.", table=table)


def _root(names: Sequence[str]) -> str:
    """The folder that all files of these names lie in."""
    return os.path.commonpath([Path(name).absolute().parent for name in names])


def _below(name: str, root: str) -> str:
    """A name as it is told below a folder; one that does not lie in it, such as a title, as it is."""
    path = str(Path(name).absolute())
    return path.removeprefix(root + os.sep) if path.startswith(root + os.sep) else name


def _confusion(measured: Mapping[str, Any], place: Path) -> Section | None:
    counts, classes = measured.get("confusion"), measured["classes"]
    if counts is None:
        return None
    picture = place / "confusion.png"
    if len(classes) <= plot.MOST_CELLS_WITH_NUMBERS and picture.is_file():
        return Section("Confusion", pictures=[(picture, "Confusion matrix: rows are targets, columns are answers")])
    wrong = [(n, i, j) for i, row in enumerate(counts) for j, n in enumerate(row) if n and i != j]
    rows = [
        {
            "target": classes[i],
            "taken for": classes[j],
            "times": n,
            "of its samples (%)": round(100 * n / sum(counts[i]), 1),
        }
        for n, i, j in heapq.nlargest(MOST_PAIRS, wrong, key=lambda each: each[0])
    ]
    text = f"{sum(n for n, _, _ in wrong):,} wrong answers in {len(wrong):,} pairs of the {len(classes)} classes"
    return Section("Confusion", f"{text}; the {len(rows)} most frequent pairs:" if rows else f"{text}.", table=rows)


def _mistakes(measured: Mapping[str, Any], drawn: Path) -> Section | None:
    if "mistakes" not in measured:
        return None
    if not measured["mistakes"]:
        return Section("Worst mistakes", "No answer is wrong.")
    pictures, unseen = [], []
    root, is_scan = _root([row["path"] for row in measured["mistakes"]]), _is_of_scans(measured)
    for number, row in enumerate(terminal.progress(measured["mistakes"], "drawing mistakes")):
        path = drawn / f"mistake{number}.{'png' if is_scan else 'mp4'}"
        says = f"{row['target']}, taken for {row['answer']}"
        told = f"{says}\n{_percent(row['score'])} against {_percent(row['score_of_target'])}"
        told += f"\n{_below(row['sample'], root)}"
        try:
            (_draw_scan if is_scan else _write_thumbnail)(row, path)
            pictures.append((path, told))
        except (ValueError, OSError) as error:
            unseen.append({"target": row["target"], "answer": row["answer"], "cannot be shown": str(error)})
    text = (
        "The wrong answers with the highest scores: target and answer, and the score of the answer against that of the "
        f"target. The files are in {root}."
    )
    return Section("Worst mistakes", text, pictures, unseen, is_gallery=True)


def _worst(measured: Mapping[str, Any]) -> Section | None:
    """Of frames, whose videos have figures each."""
    rows = measured.get("worst")
    if not rows:
        return None
    root = _root([row["sample"] for row in rows])
    table = [
        {
            "video": _below(row["sample"], root),
            **{f"{FIGURES.get(name, name)} (%)": _shown(100 * row[name]) for name in row if name != "sample"},
        }
        for row in rows
    ]
    return Section("Worst videos", f"Each measured by itself, the worst first. The files are in {root}.", table=table)


def _write_thumbnail(row: Mapping[str, Any], path: Path) -> None:
    """Write the middle of a sample as a small video, all of it where it is short."""
    sample = Sample(Path(row["path"]), 0, row["start"], row["end"], unit=row["unit"], fps=row.get("fps"))
    with warnings.catch_warnings(action="ignore"), Video(sample.path, sample.fps) as video:
        part = part_of(sample, video)
        span = min(len(part), max(1, round(SECONDS * video.fps)))
        count = min(span, NUM_FRAMES)
        start = part.start + (len(part) - span) // 2
        scale = min(1, SHORT_SIDE / min(video.height, video.width), LONG_SIDE / max(video.height, video.width))
        size = max(2, 2 * round(video.height * scale / 2)), max(2, 2 * round(video.width * scale / 2))
        clip = video.frames([start + i * span // count for i in range(count)], resize=size)
        rate = video.fps * count / span
    colours = clip[:3] if len(clip) >= 3 else clip[:1].expand(3, -1, -1, -1)  # of flow and volumes the first channel
    write_video(path, colours.unbind(1), rate, crf=CRF)


def _draw_scan(row: Mapping[str, Any], path: Path) -> None:
    """Draw slices of the first channel of a scan."""
    scan = read_volume(row["path"])
    plot.slices(scan.array[0], {}, (), path, spacing_mm=scan.spacing_mm, num=3)


def _classes(measured: Mapping[str, Any]) -> Section | None:
    rows = measured["per_class"]
    if not rows:
        return None
    shares = ("recall", "precision", "f1", "average_precision")
    figure = next(name for name in ("f1", "average_precision") if name in rows[0])
    table = [
        {
            f"{name} (%)".replace("_", " ") if name in shares else name: round(100 * value, 1)
            if name in shares and value is not None else value for name, value in row.items()
        }
        for row in sorted(rows, key=lambda row: math.inf if row[figure] is None else row[figure])
    ]  # fmt: skip
    return Section("Classes", f"The worst first, by {figure.replace('_', ' ')}.", table=table)


def _audit(measured: Mapping[str, Any], place: Path) -> Section | None:
    picture = place / "audit.png"
    if "audit as is" not in measured["summary"] or not picture.is_file():
        return None
    text = (
        "The centre clip of each video as it is, with its frames reversed, shuffled, and as one frame repeated. Where "
        "one frame does as well as the clip, one picture tells the class; far below it, the network uses motion."
    )
    return Section("Motion audit", text, [(picture, "Accuracy of clips as they are and with their time altered")])


def _calibration(measured: Mapping[str, Any], drawn: Path) -> Section | None:
    bins = measured.get("calibration")
    if not bins:
        return None
    found = measured["summary"]
    text = (
        "Answers by their score, and how many of them are right: on the line, scores are honest. Calibration error "
        f"{_percent(found['calibration_error'])}."
    )
    if "temperature" in found:
        text += f" With temperature {found['temperature']:.3f}: {_percent(found['calibration_error_tempered'])}."
    picture = plot.reliability(bins, drawn / "reliability.png")
    return Section("Calibration", text, [(picture, "Accuracy over score, and the number of answers of each score")])


def _data(runs: Sequence[_Run], measured: Mapping[str, Any]) -> Section:
    first = runs[0].arguments if runs else {}
    told = ("data", "layout", "task", "fold", "split")
    found = {name: measured[name] for name in told if measured.get(name) is not None}
    found = found or {name: first[name] for name in ("data", "task", "fold") if first.get(name) is not None}
    if measured:
        found |= {"classes": len(measured["classes"])}
        found |= {name: measured["summary"][name] for name in ("samples", "bad", "missing")}
    found |= {f"bad, {run.folder}": len(run.bad) for run in runs if run.bad}
    bad = measured.get("bad", {}) | {name: reason for run in runs for name, reason in run.bad.items()}
    rows: list[dict[str, object]] = [{"what": name, "value": _shown(value)} for name, value in found.items()]
    rows += [{"what": f"bad: {name}", "value": reason} for name, reason in [*bad.items()][:MOST_BAD]]
    if len(bad) > MOST_BAD:
        rows.append({"what": "bad", "value": f"and {len(bad) - MOST_BAD:,} more, in evaluate.json and bad.csv"})
    return Section("Data", table=rows)


def _is_of_scans(measured: Mapping[str, Any]) -> bool:
    return (measured.get("clip") or {}).get("intensity") is not None


def _environment(measured: Mapping[str, Any]) -> Section | None:
    clip = measured.get("clip") or {}
    if _is_of_scans(measured):
        kind, *ends = clip["intensity"]
        seen = {
            "window (voxels)": [clip["num_frames"], *clip["crop"]],
            "voxel size (mm)": clip["spacing_mm"],
            "orientation": clip["orientation"],
            "intensity": kind if kind == "z_score" else f"{kind} {ends[0]:g} to {ends[1]:g}",
        }
    else:
        seen = {f"clip, {name}": value for name, value in clip.items() if name not in _OF_SCANS}
    found = measured.get("environment", {}) | seen  # of masks that were there already, neither
    if not found:
        return None
    return Section("Environment", table=[{"what": name, "value": _shown(value)} for name, value in found.items()])


def _shown(value: object) -> str:
    """A value in words, a size as 56 x 72."""
    if isinstance(value, list):
        return " x ".join(map(_shown, value))
    return "none" if value is None else terminal.show(value)
