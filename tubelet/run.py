"""The folder of a training run: which one it is, what replays the run, and what each epoch leaves there."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from torch import nn

from . import checkpoints, fit, speed, tasks, terminal
from . import weights as files
from .machine import aside
from .models import load

CONVOLUTIONS = "convolutions.json"
PLAN = "plan.json"
# What a resumed run may ask for otherwise: none of it changes a number.
_FREE = {"workers", "out", "on_bad", "logger", "checkpoint_s", "convolutions", "plan", "returns_memory"}
_FREE |= {"strategy", "devices"}  # another rounding


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
        out: its folder: `run.json`, `metrics.csv`, `curves.png`, `model.safetensors` (the best epoch), `last.ckpt`; of
            scans also `plan.json`, what was chosen for them and the `reasons`.
        history: one row of figures for each epoch.
        best: the row of the epoch whose weights were kept.
        figure: name of the figure by which it is the best.
        bad: samples that could not be read, and why; `bad.csv` in the folder has them too.
    """

    out: Path
    history: list[dict[str, float]]
    best: dict[str, float]
    figure: str = "val_top1"
    bad: dict[str, str] = field(default_factory=dict)

    def load(self, *, model: nn.Module | None = None) -> nn.Module:
        """The best model, in evaluation mode.

        Args:
            model: of a run on a network that tubelet did not make, the same network, which takes the weights.
        """
        return load(self.out, model=model)

    def __str__(self) -> str:
        bad = f", {len(self.bad)} bad, see {self.out / 'bad.csv'}" if self.bad else ""
        return f"best {figure(self.figure, self.best)} in epoch {self.best['epoch']:.0f}: {self.out}{bad}"


@dataclass
class Kept:
    """What a run leaves after each epoch: its figures, a line of them, and the best model.

    Attributes:
        folder: of the run.
        task: what it learns.
        epochs: that it is to take.
        done: that it has taken.
    """

    folder: Path
    task: tasks.Task
    epochs: int
    done: int

    def __call__(self, network: nn.Module, progress: fit.Progress, is_best: bool) -> None:
        """Keep what there is after an epoch, as `fit.fit` calls it."""
        row, self.done = progress.history[-1], progress.epoch
        _write_history(progress.history, self.folder / "metrics.csv")
        if is_best:
            files.save(network, self.folder / "model.safetensors", metrics=row)
        ends = time.strftime("%H:%M", time.localtime(time.time() + row["seconds"] * (self.epochs - progress.epoch)))
        terminal.say(
            f"epoch {progress.epoch}/{self.epochs}  loss {row['train_loss']:.3f}  val loss {row['val_loss']:.3f}  "
            f"{figure(self.task.best, row)}{' *' if is_best else '  '}  {row['seconds']:.1f} s, ends {ends}"
        )


def seen(out: str | os.PathLike | None, name: str) -> Path | None:
    """Folder of the run to resume; None where this machine, of several, does not see it."""
    try:
        return folder_of(out, name, resume=True)
    except ValueError:
        return None


def folder_of(out: str | os.PathLike | None, name: str, resume: bool) -> Path:
    """Folder of the run: the one given, else a new `runs/NAME`, numbered after the last; to resume, the last run."""
    if out is not None:
        folder = Path(out)
    else:
        folders = [Path("runs") / (name if number == 1 else f"{name}-{number}") for number in range(1, 10_000)]
        there = {path.parent.name for path in Path("runs").glob("*/run.json")}
        number = max((number for number, folder in enumerate(folders, start=1) if folder.name in there), default=0)
        if resume:
            folder = folders[max(0, number - 1)]
        else:
            folder = next(folder for folder in folders[number:] if not folder.exists())
            folder.mkdir(parents=True)  # at once, so that a run started beside this one takes another
    if resume and not (folder / "run.json").exists():
        raise ValueError(f"{folder}: no run to resume (no run.json); start it without resume")
    if not resume and (checkpoints.is_in(folder) or (folder / "model.safetensors").exists()):
        raise ValueError(
            f"{folder}: holds a run; go on with it (tubelet train --config {folder / 'run.json'} --resume), or give "
            "another folder as out"
        )
    return folder


def write_arguments(folder: Path, arguments: dict[str, Any], name: str, resume: bool) -> None:
    """Write `run.json`, from which `tubelet train --config` replays the run; what is chosen, it leaves out or null.

    A resumed run must ask for the same, once a checkpoint is there; one that failed before may be mended.
    """
    if not isinstance(arguments["logger"], str):  # an object, which no file makes again
        arguments = arguments | {"logger": "csv"}
    plain = {
        key: value if value is None or isinstance(value, int | float | str | tuple) else
        vars(value) if is_dataclass(value) else name if key == "model" else str(value)
        for key, value in arguments.items() if value is not None or key not in ("augment", "mixing", "distort")
    }  # fmt: skip
    plain = json.loads(json.dumps(plain))
    path = folder / "run.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    changed = [key for key in (plain.keys() | before.keys()) - _FREE if before.get(key) != plain.get(key)]
    if resume and checkpoints.is_in(folder):
        for key in changed:
            raise ValueError(
                f"{folder}: was trained with {key} {before.get(key)!r}, now {plain.get(key)!r}; resume it with the "
                f"same (tubelet train --config {path} --resume), or give another folder as out"
            )
        return
    if changed:
        (folder / CONVOLUTIONS).unlink(missing_ok=True)  # of other clips
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain, indent=2) + "\n")


def epochs_in(folder: Path) -> int:
    """Whole epochs that a run has figures of."""
    path = folder / "metrics.csv"
    if not path.exists():
        return 0
    with path.open(newline="") as file:
        return sum(1 for _ in csv.DictReader(file))


def _write_history(history: list[dict[str, float]], path: Path) -> None:
    with aside(path) as made, made.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)


def write_bad(bad: dict[str, str], folder: Path) -> None:
    """Write `bad.csv`: samples that could not be read, and why. Without any there is no file."""
    if bad:
        with (folder / "bad.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            csv.writer(file).writerows([("sample", "reason"), *bad.items()])


def moved(file: str | os.PathLike | None, kept: Path) -> Path:
    """A file that a run is to take over, or where its own is: there, too, where the folder of the run was moved."""
    return kept if file is None or (not Path(file).exists() and kept.exists()) else Path(file)


def begun_in(folder: Path, data: str | os.PathLike) -> Path | None:
    """The nearest folder above that of a run from which the path of its data is there; None where there is none."""
    return next((place for place in folder.absolute().parents if (place / data).exists()), None)


def plan_of(folder: Path | None) -> Path | None:
    """The plan of a run that is to be resumed, None where it has not trained for an epoch."""
    if folder is None:
        return None
    return folder / PLAN if checkpoints.is_in(folder) and (folder / PLAN).exists() else None


def ways_in(path: Path) -> speed.Choices:
    """The fast convolutions that a file has.

    Raises:
        ValueError: it is another file, or none.
    """
    try:
        return speed.Choices.restored(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        why = "no such file"
    except IsADirectoryError:
        why = f"a folder, and the file {CONVOLUTIONS} in that of a run is wanted"
    except ValueError as error:
        why = f"not the {CONVOLUTIONS} of a run ({error})"
    raise ValueError(f"convolutions {path}: {why}; leave it out (or remove the file), and the ways are chosen anew")


def write_ways(choices: speed.Choices | None, path: Path) -> None:
    """Write the fast convolutions of a run, None for none, and say what they gain."""
    path.write_text(json.dumps(choices.state() if choices else []))
    if choices and choices.routes:
        row = choices.rows[-1]
        terminal.say(
            f"  convolutions: {row['chosen']} ms where torch takes {row['plain']} ms, of {choices.clips} clips forward "
            "and back"
        )


def figure(name: str, row: Mapping[str, float]) -> str:
    """A figure of a row in words: `top-1  97.5 %`."""
    words = {
        "val_top1": "top-1", "val_auc": "AUC", "val_map": "mAP", "val_frame_accuracy": "frames right",
        "val_dice": "Dice",
    }  # fmt: skip
    return f"{words.get(name, name)} {100 * row[name]:5.1f} %"
