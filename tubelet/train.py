"""Training: from a folder of clips to a model in one self-describing file. The one file that imports Lightning."""

from __future__ import annotations

import csv
import functools
import json
import logging
import math
import os
import pickle
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import feed, metrics, plot, terminal
from . import weights as files
from .data import datasets, transforms
from .data.augment import Augment
from .data.loader import ON_BAD, OnBad, loader
from .data.order import EpochOrder
from .data.sampling import SHORTS, Short
from .machine import needs
from .models import create, load, ready
from .spec import ClipSpec, at_least_one

Size = int | tuple[int, int] | Literal["none"]

# For a batch of 16 and new weights; both rates grow with the batch (Goyal et al. 2017, arXiv 1706.02677).
LEARNING_RATE = {"adamw": 1e-3, "sgd": 1e-2}
WEIGHT_DECAY = {"adamw": 0.05, "sgd": 1e-4}
FINE_TUNING = 0.1  # of the rate, when the weights are not new
WARMUP = 0.1  # of the steps
PLAIN = Augment()


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
        out: its folder: `run.json`, `metrics.csv`, `curves.png`, `model.safetensors` (the best epoch), `last.ckpt`.
        history: one row of figures for each epoch.
        best: the row of the epoch whose weights were kept.
        bad: samples that could not be read, and why; `bad.csv` in the folder has them too.
    """

    out: Path
    history: list[dict[str, float]]
    best: dict[str, float]
    bad: dict[str, str] = field(default_factory=dict)

    def load(self) -> nn.Module:
        """The best model, in evaluation mode."""
        return load(self.out)

    def __str__(self) -> str:
        bad = f", {len(self.bad)} bad, see {self.out / 'bad.csv'}" if self.bad else ""
        return f"best top-1 {100 * self.best['val_top1']:.1f} % in epoch {self.best['epoch']:.0f}: {self.out}{bad}"


def train(
    data: str | os.PathLike,
    *,
    model: str | nn.Module = "r2plus1d_18",
    task: Literal["classify"] = "classify",
    fold: int | None = None,
    weights: str | os.PathLike | None = None,
    epochs: int = 30,
    batch_size: int = 16,
    lr: float | None = None,
    optimizer: Literal["adamw", "sgd"] = "adamw",
    weight_decay: float | None = None,
    label_smoothing: float = 0.1,
    num_frames: int | None = None,
    frame_stride: int | None = None,
    fps: float | Literal["none"] | None = None,
    resize: Size | None = None,
    crop: Size | None = None,
    augment: Augment = PLAIN,
    short: Short = "error",
    on_bad: OnBad = "raise",
    workers: int | None = None,
    seed: int = 0,
    resume: bool = False,
    out: str | os.PathLike | None = None,
) -> Run:
    """Train a network on videos and keep the epoch that does best on the validation part.

    Args:
        data: a folder with a folder of videos for each class, a list of `path label`, or `motion` (built in).
        model: name of a network, or any nn.Module from (B, C, T, H, W) to logits (B, K) with a `spec`.
        task: one answer a clip; data that can be read in several ways is read so.
        fold: official fold of UCF101 or HMDB51; by default the first.
        weights: a tag of the catalogue or a checkpoint to start from; the head is new where classes differ.
        epochs: passes over the training part.
        batch_size: clips a step.
        lr: highest learning rate; by default chosen for the optimizer, the batch and the weights, and printed.
        optimizer: adamw, or sgd with Nesterov momentum 0.9; linear warmup, then a cosine to zero.
        weight_decay: of convolutions and linear layers, never of norms and biases.
        label_smoothing: probability spread over the other classes.
        num_frames: frames of a clip; like the next four, by default the network's own (`model.spec`).
        frame_stride: source frames between two of them, counted at `fps`.
        fps: rate to which videos are brought, or none for their own.
        resize: short side, or height and width (128x171), before the crop; none keeps the size.
        crop: height and width of a clip (112x112); none keeps the size.
        augment: random changes to training clips: an `Augment`, such as those of `tubelet.data.augment.RECIPES`, whose
            names (plain, kinetics, strong) the command line takes.
        short: videos with fewer frames than a clip: error, loop (from the start again) or hold (the last frame).
        on_bad: what a video does that cannot be read: raise ends the run (resume it with another choice), skip leaves
            it out, substitute takes another one; the last two count and name it. Validation leaves it out.
        workers: processes that read; 0 reads in this one.
        seed: of order, clips, augmentation and new weights.
        resume: go on after the last whole epoch of the run in `out`, with the same arguments.
        out: folder of the run; by default the next free `runs/DATA-MODEL`.

    Returns:
        The run: its folder and its figures.

    Raises:
        ValueError: data, a name, an argument or a checkpoint does not fit; the message says what would.
        KeyboardInterrupt: Ctrl-C; the message says how to go on.
    """
    arguments = {name: value for name, value in locals().items() if name != "resume"}
    at_least_one(epochs=epochs, batch_size=batch_size)
    _check(task, optimizer, short, on_bad, lr, weight_decay, label_smoothing)
    if weights is not None and not isinstance(model, str):
        raise ValueError(
            f"weights {weights} with a network in memory: load them into it, or give the name of a network"
        )
    _check_apart(data, out)
    found = feed.open_parts(data, ("train", "val"), task, fold)

    torch.manual_seed(seed)
    name = model if isinstance(model, str) else type(model).__name__
    if isinstance(model, str):
        model = create(model, num_classes=len(found.classes), weights=weights)
    network: Any
    network, spec = ready(model)
    network.spec = spec = _spec(spec, found.classes, num_frames, frame_stride, fps, resize, crop)
    rate = lr or LEARNING_RATE[optimizer] * batch_size / 16 * (FINE_TUNING if weights else 1)
    decay = WEIGHT_DECAY[optimizer] if weight_decay is None else weight_decay
    files.header(network)  # what could not be saved is said before the training, not after its first epoch
    arguments["out"] = folder = _folder(out, f"{Path(data).stem}-{name}", resume)
    _write_arguments(folder, arguments, name, resume)

    train_clips = datasets.TrainClips(found, "train", spec, augment, short, seed)
    val_clips = datasets.ViewClips(found, "val", spec, 1, 1, short)
    order = EpochOrder(len(train_clips), seed)
    train_loader = loader(feed.Noted(train_clips), batch_size, order=order, workers=workers, on_bad=on_bad)
    val_loader = loader(
        feed.Noted(val_clips), batch_size, workers=workers, on_bad="raise" if on_bad == "raise" else "skip"
    )
    size = "x".join(map(str, spec.crop)) if spec.crop else "full size"
    terminal.say(
        f"{name} on {terminal.counted(len(train_clips), 'clip')} of {len(found.classes)} classes, {len(val_clips)} to "
        f"validate; {terminal.counted(spec.num_frames, 'frame')}, stride {spec.frame_stride}, {size}; {optimizer}, "
        f"lr {rate:.2g}, batch {batch_size}"
    )
    kept = _kept_class()(folder, epochs)
    module = _task_class()(network.train(), optimizer, rate, decay, label_smoothing, seed)
    try:
        with (
            closing(train_loader),
            closing(val_loader),
            train_loader.watched(),
            val_loader.watched(),
            feed.explained(found, ("train", "val"), spec, short),
        ):
            _fit(module, kept, train_loader, val_loader, epochs, folder, resume)
    finally:
        bad = {**train_loader.bad, **val_loader.bad}
        _write_bad(bad, folder / "bad.csv")
    return Run(folder, kept.history, kept.best, bad)


def _check(
    task: str,
    optimizer: str,
    short: str,
    on_bad: str,
    lr: float | None,
    weight_decay: float | None,
    label_smoothing: float,
) -> None:
    """What a signature says of an argument, for callers in Python; the command line has it checked already."""
    choices = {
        "task": (task, ("classify",)),
        "optimizer": (optimizer, LEARNING_RATE),
        "short": (short, SHORTS),
        "on_bad": (on_bad, ON_BAD),
    }
    for name, (value, known) in choices.items():
        if value not in known:
            raise ValueError(f"{name} {value!r}; there is {', '.join(known)}")
    if lr is not None and not lr > 0:
        raise ValueError(f"lr {lr} must be above 0")
    if weight_decay is not None and not weight_decay >= 0:
        raise ValueError(f"weight_decay {weight_decay} must be at least 0")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing {label_smoothing} must be at least 0 and below 1")


def _spec(
    spec: ClipSpec,
    classes: tuple[str, ...],
    num_frames: int | None,
    frame_stride: int | None,
    fps: float | Literal["none"] | None,
    resize: Size | None,
    crop: Size | None,
) -> ClipSpec:
    """The network's own clip with what was asked for instead."""
    asked = {
        "num_frames": num_frames,
        "frame_stride": frame_stride,
        "fps": fps,
        "resize": resize,
        "crop": crop,
    }
    changes: dict[str, Any] = {
        name: None if value == "none" else value for name, value in asked.items() if value is not None
    }
    if isinstance(changes.get("crop"), int):
        changes["crop"] = (changes["crop"], changes["crop"])
    return replace(spec, classes=classes, **changes)


def _check_apart(data: str | os.PathLike, out: str | os.PathLike | None) -> None:
    """Raise ValueError where the run would be written into the folder of the videos."""
    root, folder = Path(data), Path("runs" if out is None else out)
    if str(data) != "motion" and root.is_dir() and root.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise ValueError(f"{folder}: is, or lies in, the folder of the videos ({root}); give one elsewhere as out")


def _folder(out: str | os.PathLike | None, name: str, resume: bool) -> Path:
    """Folder of the run: the one given, else a new `runs/NAME`, numbered where there is one; to resume, the last."""
    if out is not None:
        folder = Path(out)
    else:
        folders = [Path("runs") / (name if number == 1 else f"{name}-{number}") for number in range(1, 10_000)]
        folder = next(folder for folder in folders if not folder.exists())
        if resume:
            folder = folders[max(0, folders.index(folder) - 1)]
        else:
            folder.mkdir(parents=True)  # at once, so that a run started beside this one takes another
    if resume and not (folder / "run.json").exists():
        raise ValueError(f"{folder}: no run to resume (no run.json); start it without resume")
    if not resume and (folder / "last.ckpt").exists():
        raise ValueError(
            f"{folder}: holds a run; go on with it (tubelet train --config {folder / 'run.json'} --resume), or give "
            "another folder as out"
        )
    return folder


def _write_arguments(folder: Path, arguments: dict[str, Any], name: str, resume: bool) -> None:
    """Write `run.json`, from which `tubelet train --config` replays the run.

    A resumed run must ask for the same, once an epoch is done; one that failed before may be mended.
    """
    plain = {
        key: value if value is None or isinstance(value, int | float | str | tuple) else
        vars(value) if isinstance(value, Augment) else name if key == "model" else str(value)
        for key, value in arguments.items()
    }  # fmt: skip
    plain = json.loads(json.dumps(plain))
    path = folder / "run.json"
    if resume and (folder / "last.ckpt").exists():
        before = json.loads(path.read_text())
        free = {"workers", "out", "on_bad"}
        for key in plain.keys() - free:
            if before.get(key) != plain[key]:
                raise ValueError(
                    f"{folder}: was trained with {key} {before.get(key)!r}, now {plain[key]!r}; resume it with the "
                    f"same (tubelet train --config {path} --resume), or give another folder as out"
                )
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain, indent=2) + "\n")


def _epochs_of(checkpoint: Path) -> int:
    """Whole epochs that a checkpoint was written after."""
    try:
        return torch.load(checkpoint, mmap=True, weights_only=True)["epoch"] + 1
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{checkpoint}: damaged ({str(error).splitlines()[0]}); train on from model.safetensors beside it, "
            "the best epoch, with `weights`"
        ) from error


def _fit(task: Any, kept: Any, train_loader: Any, val_loader: Any, epochs: int, folder: Path, resume: bool) -> None:
    from lightning.pytorch import Trainer

    last = folder / "last.ckpt"
    goes_on = resume and last.exists()
    with _quiet():
        trainer = Trainer(
            max_epochs=epochs,
            devices=1,
            callbacks=[kept],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            default_root_dir=folder,
        )
        handler = signal.getsignal(signal.SIGINT)
        before = _epochs_of(last) if goes_on else 0
        try:
            if before >= epochs:
                terminal.say(f"all {epochs} epochs are done already")
            trainer.fit(task, train_loader, val_loader, ckpt_path=last if goes_on else None)
        except SystemExit:  # what Lightning makes of Ctrl-C
            signal.signal(signal.SIGINT, handler)
            done = max(before, len(kept.history))  # which is empty until the checkpoint is read
            how_far = f"after {done} of {epochs} epochs; go on" if done else "in epoch 1: nothing is saved; begin again"
            raise KeyboardInterrupt(
                f"interrupted {how_far} with: tubelet train --config {folder / 'run.json'} --resume"
            ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's banners and advice, which are for its own users, kept off the screen."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning.*")
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


# The classes that inherit from Lightning's are made when training starts, so that `import tubelet` costs torch alone.


@functools.cache
def _task_class() -> type:
    with needs("train"):
        from lightning.pytorch import LightningModule

    class ClassifyTask(LightningModule):
        """Loss, measures and optimizer of clip classification."""

        def __init__(
            self,
            model: Any,
            optimizer: str,
            lr: float,
            weight_decay: float,
            label_smoothing: float,
            seed: int,
        ) -> None:
            super().__init__()
            self.model = model
            self.spec: ClipSpec = model.spec
            self.optimizer, self.lr, self.weight_decay = optimizer, lr, weight_decay
            self.label_smoothing, self.seed = label_smoothing, seed
            self.measures = metrics.classification(len(self.spec.classes))
            self.said: set[str] = set()

        def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
            # so that dropout of a step depends on nothing that happened before it, an interruption least of all
            torch.manual_seed(hash((self.seed, self.global_step)) & (2**63 - 1))

        def training_step(self, batch: list[Any], _: int) -> Tensor:
            clips, targets, notes = batch
            feed.say_once(notes, self.said)
            logits = self.model(transforms.normalize(clips, self.spec.mean, self.spec.std))
            loss = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
            self.log("train_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(targets))
            return loss

        def validation_step(self, batch: list[Any], _: int) -> None:
            clips, targets, _index, notes = batch
            feed.say_once(notes, self.said)
            logits = self.model(transforms.normalize(clips[:, 0], self.spec.mean, self.spec.std))
            loss = F.cross_entropy(logits, targets)
            self.log("val_loss", loss, on_epoch=True, batch_size=len(targets))
            self.measures.update(logits, targets)

        def on_validation_epoch_end(self) -> None:
            for name, value in self.measures.compute().items():
                if name == "confusion":
                    name, value = "mean_class", metrics.mean_class(value)
                self.log(f"val_{name}", value)
            self.measures.reset()

        def configure_optimizers(self) -> Any:
            decayed = [p for p in self.model.parameters() if p.requires_grad and p.ndim > 1]
            others = [p for p in self.model.parameters() if p.requires_grad and p.ndim <= 1]
            groups = [
                {"params": decayed, "weight_decay": self.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ]
            if self.optimizer == "adamw":
                optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=self.lr)
            else:
                optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=0.9, nesterov=True)
            steps = int(self.trainer.estimated_stepping_batches)
            warmup = max(1, int(WARMUP * steps))
            rising = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=warmup)
            falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - warmup))
            schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [rising, falling], [warmup])
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return ClassifyTask


@functools.cache
def _kept_class() -> type:
    with needs("train"):
        from lightning.pytorch import Callback

    class Kept(Callback):
        """What a run leaves: figures of each epoch, curves, the best model; on the way a bar and a line an epoch."""

        def __init__(self, folder: Path, epochs: int) -> None:
            self.folder, self.epochs = folder, epochs
            self.bar: terminal.Bar | None = None  # and none either where a resumed run was over
            self.history: list[dict[str, float]] = []
            self.best: dict[str, float] = {}

        def state_dict(self) -> dict[str, Any]:
            return {"history": self.history, "best": self.best}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.history, self.best = state_dict["history"], state_dict["best"]

        def on_train_start(self, trainer: Any, task: Any) -> None:
            left = self.epochs - trainer.current_epoch
            self.bar = terminal.Bar("training", left * trainer.num_training_batches)
            self.bar.start()

        def on_train_epoch_start(self, trainer: Any, task: Any) -> None:
            self.since = time.monotonic()

        def on_train_batch_end(self, *_: Any) -> None:
            if self.bar:
                self.bar.advance()

        def on_train_epoch_end(self, trainer: Any, task: Any) -> None:
            row = {
                "epoch": trainer.current_epoch + 1,
                "lr": trainer.optimizers[0].param_groups[0]["lr"],
                **{name: value.item() for name, value in sorted(trainer.callback_metrics.items())},
            }
            if not math.isfinite(row["train_loss"]):
                raise ValueError(f"the loss is {row['train_loss']} in epoch {row['epoch']}: lower lr ({row['lr']:.2g})")
            seconds = row["seconds"] = time.monotonic() - self.since
            self.history = [*self.history, row]
            _write_history(self.history, self.folder / "metrics.csv")
            is_best = not self.best or _quality(row) > _quality(self.best)
            if is_best:
                self.best = row
                files.save(task.model, self.folder / "model.safetensors", metrics=row)
            ends = time.strftime("%H:%M", time.localtime(time.time() + seconds * (self.epochs - row["epoch"])))
            terminal.say(
                f"epoch {row['epoch']}/{self.epochs}  loss {row['train_loss']:.3f}  "
                f"val loss {row['val_loss']:.3f}  top-1 {100 * row['val_top1']:5.1f} %{' *' if is_best else '  '}  "
                f"{seconds:.1f} s, ends {ends}"
            )
            # aside first: killed in the middle of writing, the run still has its last whole epoch
            aside = self.folder / "last.ckpt.part"
            trainer.save_checkpoint(aside)
            aside.replace(self.folder / "last.ckpt")

        def on_fit_end(self, trainer: Any, task: Any) -> None:
            if self.bar:
                self.bar.stop()
            plot.curves(self.history, self.folder / "curves.png")

        def on_exception(self, *_: Any) -> None:
            if self.bar:
                self.bar.stop()

    return Kept


def _quality(row: dict[str, float]) -> tuple[float, float]:
    """What the best epoch has most of: accuracy, and among equals the lower loss."""
    return row["val_top1"], -row["val_loss"]


def _write_history(history: list[dict[str, float]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)


def _write_bad(bad: dict[str, str], path: Path) -> None:
    if bad:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("sample", "reason"), *bad.items()])
