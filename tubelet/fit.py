"""The loop of training: steps, validation, checkpoints. The one file that imports Lightning, whose Fabric shares the
work among processes.

All chance is drawn by (seed, number of the part): what a step computes depends on nothing that happened before it, an
interruption or the number of processes least of all.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from . import checkpoints, feed, regularize, sharding, terminal
from .data import transforms
from .data.loader import Batches, told
from .data.mixing import Mixing
from .data.video import VideoError
from .launch import is_launched
from .machine import needs
from .tasks import Task, inputs_of

__all__ = [
    "PRECISIONS",
    "STRATEGIES",
    "Course",
    "Precision",
    "Progress",
    "Strategy",
    "fit",
    "gathered",
    "loggers_of",
    "open_fabric",
]

Row = dict[str, float]
Precision = Literal["32", "bf16", "16"]
Strategy = Literal["ddp", "fsdp"]

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
STRATEGIES = ("ddp", "fsdp")

# Steps between two looks at whether the loss is still a number: to look, a GPU must be waited for.
_LOOK = 20


@dataclass(frozen=True)
class Course:
    """How a run goes.

    Attributes:
        epochs: passes over the training part.
        seed: of all chance.
        rate: factor of each parameter group's `initial_lr`, from the step and the number of all steps.
        mixing: of the clips of a part, None for none.
        clip_norm: largest norm of the gradient, None for any.
        patience: epochs without a better one that end the run, None for never.
        checkpoint_s: seconds between checkpoints within an epoch; one more is written after each.
    """

    epochs: int
    seed: int
    rate: Callable[[int, int], float]
    mixing: Mixing | None = None
    clip_norm: float | None = None
    patience: int | None = None
    checkpoint_s: float = 300.0


@dataclass
class Progress:
    """Where a run is: plain values, which a checkpoint holds beside the weights.

    Attributes:
        epoch: whole epochs.
        step: whole steps, over all epochs.
        loss: sum of the losses of this epoch's steps.
        seconds: spent on this epoch so far.
        history: one row of figures for each whole epoch.
        best: the row of the best.
        loader: state of the training loader.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    history: list[Row] = field(default_factory=list)
    best: Row = field(default_factory=dict)
    loader: dict[str, Any] = field(default_factory=dict)


def open_fabric(*, precision: Precision = "32", devices: int = 1, strategy: Strategy = "ddp") -> Any:
    """Lightning's Fabric for this process, joined to the others if `torchrun` has started several.

    Args:
        precision: one of `PRECISIONS`.
        devices: processes on this machine, one a device, as `torchrun` was asked for.
        strategy: what each process keeps: ddp the whole network, fsdp a share of it.

    Raises:
        ValueError: several devices, and one process; or fsdp of one process or in precision 16.
    """
    with needs("train"):
        from lightning.fabric import Fabric
    num_nodes = 1
    if is_launched():
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        num_nodes = int(os.environ["WORLD_SIZE"]) // devices
    elif devices > 1:
        raise ValueError(
            f"devices {devices} in one process: run the script with `torchrun --nproc_per_node {devices}`, or "
            f"`tubelet train --devices {devices}`"
        )
    with _quiet():
        fabric = Fabric(
            accelerator="cuda" if torch.cuda.is_available() else "cpu",  # Apple's has no float64
            devices=devices,
            num_nodes=num_nodes,
            strategy=_how(strategy, devices * num_nodes, precision),
            precision=PRECISIONS[precision],
        )
        fabric.launch()
    return fabric


def _how(strategy: Strategy, num_processes: int, precision: Precision) -> Any:
    """Lightning's strategy; its own FSDP needs a GPU, the one by `fully_shard` does not."""
    if strategy == "ddp":
        return "ddp" if num_processes > 1 else "auto"
    if num_processes == 1:
        raise ValueError(
            "strategy fsdp shares a network among processes, and there is one: give --devices 2 or more, or ddp"
        )
    if precision == "16":
        raise ValueError("strategy fsdp has no precision 16: take bf16 or 32")
    from lightning.fabric.strategies import ModelParallelStrategy

    return ModelParallelStrategy(sharding.shard, data_parallel_size=num_processes, tensor_parallel_size=1)


def loggers_of(logger: Any, folder: Path) -> list[Any]:
    """The loggers that `--logger` names, beside the file of figures that every run writes.

    Args:
        logger: csv for none, tensorboard, or a Lightning logger.
        folder: of the run.

    Raises:
        ValueError: there is no such logger.
        ImportError: TensorBoard is not installed.
    """
    if logger == "csv":
        return []
    if logger == "tensorboard":
        with needs("train"):
            from lightning.fabric.loggers import TensorBoardLogger
        try:
            return [TensorBoardLogger(folder, name="", version="tensorboard")]
        except ModuleNotFoundError:
            raise ImportError("no module named 'tensorboard'; install it with: pip install tensorboard") from None
    if not hasattr(logger, "log_metrics"):
        raise ValueError(f"logger {logger!r}; give csv, tensorboard or a Lightning logger")
    return [logger]


def gathered(values: dict[str, str]) -> dict[str, str]:
    """The dictionaries of all processes as one."""
    several: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(several, values)
    return {key: value for each in several for key, value in each.items()}


def fit(
    fabric: Any,
    network: Any,
    task: Task,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    val_batches: Batches,
    course: Course,
    folder: Path,
    *,
    average: Any = None,
    still: Batches | None = None,
    loggers: Sequence[Any] = (),
    resume: bool,
    on_epoch: Callable[[nn.Module, Progress, bool], None],
) -> Progress:
    """Train until the last epoch, and validate after each.

    Args:
        fabric: as `open_fabric` gives it, launched.
        network: (B, C, T, H, W) -> what the task measures, with a `spec`.
        task: loss and measures.
        optimizer: of the network's parameters; its groups have `initial_lr`.
        batches: of the training part, its clips by the parts of steps; like the next two with notes (`feed.Noted`).
        val_batches: one view of each sample of the validation part, or of this process's share.
        course: how the run goes.
        folder: of the run, where the checkpoints are.
        average: a running average of the network, which is validated in its place.
        still: clips over which batch norms take their true statistics before each validation.
        loggers: Lightning's, told the figures of each epoch.
        resume: go on from the newest checkpoint, where there is one.
        on_epoch: called by the first process after each epoch, with the network that was validated, where the run is,
            and whether its last epoch is the best.

    Raises:
        ValueError: the loss is no longer a number, in training or in validation.
        KeyboardInterrupt: the run was asked to stop, and a checkpoint holds where it was.
    """
    spec = network.spec
    model, optimizer, whole = sharding.set_up(fabric, network, optimizer, average)
    is_sharded = sharding.is_sharded(network)
    kept = {"model": network, "optimizer": optimizer} | ({} if average is None else {"average": average})
    progress = Progress()
    said: set[str] = set()
    state = None
    if resume and fabric.is_global_zero and (path := checkpoints.newest(folder)):
        state = torch.load(path, map_location="cpu", weights_only=True)
    if state := fabric.broadcast(state):  # other machines may not see the folder
        for name, each in kept.items():
            sharding.load(each, state[name])
        progress = Progress(**state["progress"])
        batches.load_state_dict(progress.loader)
        fabric.strategy.precision.load_state_dict(state.get("precision", {}))

    def save() -> None:
        progress.loader = batches.state_dict()
        place = "cpu" if fabric.is_global_zero else "meta"
        state = {name: sharding.whole_state(each, place) for name, each in kept.items()}
        state |= {"progress": vars(progress), "precision": fabric.strategy.precision.state_dict()}
        if fabric.is_global_zero:
            checkpoints.write(folder, lambda path: torch.save(state, path))

    steps = sum(part.is_last for part in batches.parts)
    total = course.epochs * steps
    bar = terminal.Bar("training", total - progress.step) if fabric.is_global_zero else None
    if progress.epoch >= course.epochs:
        terminal.say(f"all {course.epochs} epochs are done already")
    with _asked_to_stop() as is_asked, _shown(bar), _finalized(loggers):
        saved = time.monotonic()
        while progress.epoch < course.epochs and not _is_over(progress, task, course.patience):
            since = time.monotonic() - progress.seconds
            # of the clips of this process; the sum of all, which a checkpoint has, goes on in the first one
            loss = torch.zeros((), dtype=torch.float64, device=fabric.device)
            loss += progress.loss if fabric.is_global_zero else 0.0
            batches.set_epoch(progress.epoch)
            model.train()
            step_loss, weight = torch.zeros_like(loss), torch.zeros_like(loss)
            left = batches.parts[batches.position :]
            for part, batch in zip(left, batches, strict=True):
                chance = hash((course.seed, progress.epoch, part.number)) & (2**63 - 1)
                torch.manual_seed(chance)
                *parts, notes = batch
                feed.say_once(notes, said)
                clips, *targets = (each.to(fabric.device, non_blocking=True) for each in parts)
                x = transforms.prepared(clips, spec)
                if course.mixing is not None:
                    x, targets[-1] = course.mixing(
                        x, targets[-1], torch.Generator().manual_seed(chance), task.num_classes
                    )
                # of a sharded network no gradient waits for the last part, since it would be whole
                with fabric.no_backward_sync(model, enabled=not part.is_last and not is_sharded):
                    value = task.loss(task.answer(model, x, targets), targets[-1])
                    # both strategies take the mean over processes, and a step has the mean over its clips
                    share = part.share * task.density(clips, targets)
                    fabric.backward(value * (share * fabric.world_size))
                step_loss += value.detach() * share
                weight += share
                if not part.is_last:
                    continue
                if task.is_uneven:  # ... or over their answers, whose number is known now
                    total_weight = max(1e-9, fabric.all_reduce(weight, reduce_op="sum").item())
                    step_loss /= total_weight
                    for parameter in network.parameters():
                        if parameter.grad is not None:
                            parameter.grad /= total_weight
                loss += step_loss
                step_loss, weight = torch.zeros_like(loss), torch.zeros_like(loss)
                if course.clip_norm is not None:
                    # one that is no number is told by the loss, and in fp16 left out by its scaler
                    fabric.clip_gradients(model, optimizer, max_norm=course.clip_norm, error_if_nonfinite=False)
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * course.rate(progress.step, total)
                optimizer.step()
                optimizer.zero_grad()
                # here, not at the end of the epoch, so that the average and a checkpoint have those of all
                sharding.share_statistics(fabric, network)
                if average is not None:
                    average.update_parameters(network)
                progress.step += 1
                if bar:
                    bar.advance()
                if progress.step % _LOOK == 0:
                    _check("loss", loss.item(), progress.epoch + 1, optimizer)
                is_due = time.monotonic() - saved > course.checkpoint_s
                stops, is_due = _agreed(fabric, is_asked(), is_due)
                if (stops or is_due) and batches.position < len(batches):
                    # of a clone, which is changed
                    progress.loss = fabric.all_reduce(loss.clone(), reduce_op="sum").item()
                    progress.seconds = time.monotonic() - since
                    save()
                    saved = time.monotonic()
                if stops and batches.position < len(batches):
                    raise KeyboardInterrupt
            _check("loss", loss.item(), progress.epoch + 1, optimizer)
            with whole() as validated:
                if still is not None:
                    regularize.precise_norms(validated, _inputs(fabric, still, validated, said))
                sharding.share_statistics(fabric, validated)
                progress.epoch += 1
                row = {
                    "epoch": progress.epoch,
                    "lr": optimizer.param_groups[0]["lr"],
                    "train_loss": fabric.all_reduce(loss, reduce_op="sum").item() / steps,
                    **_validate(fabric, validated, task, val_batches, said),
                    "seconds": time.monotonic() - since,
                }
                _check("validation loss", row["val_loss"], progress.epoch, optimizer)
                progress.history.append(row)
                is_best = not progress.best or task.quality(row) > task.quality(progress.best)
                if is_best:
                    progress.best = row
                progress.loss, progress.seconds = 0.0, 0.0
                if fabric.is_global_zero:
                    for logger in loggers:
                        figures = {name: value for name, value in row.items() if name != "epoch"}
                        logger.log_metrics(figures, progress.epoch)
                    on_epoch(validated, progress, is_best)
            save()
            saved = time.monotonic()
            if _agreed(fabric, is_asked(), False)[0] and progress.epoch < course.epochs:
                raise KeyboardInterrupt
    return progress


def _is_over(progress: Progress, task: Task, patience: int | None) -> bool:
    """Whether too many epochs have passed since the best."""
    return patience is not None and bool(progress.best) and progress.epoch - progress.best["epoch"] >= patience


def _check(name: str, value: float, epoch: int, optimizer: Any) -> None:
    """Raise ValueError where a loss is no number."""
    if not math.isfinite(value):
        rate = optimizer.param_groups[0]["lr"]
        raise ValueError(
            f"the {name} is {value} in epoch {epoch}: lower lr ({rate:.2g}) or clip_norm, or train in precision 32"
        )


def _inputs(fabric: Any, batches: Batches, network: nn.Module, said: set[str]) -> Iterator[tuple[Tensor, ...]]:
    """The clips of batches as the network takes them."""
    spec: Any = network.spec
    for clips, *_, notes in batches:
        feed.say_once(notes, said)
        yield tuple(inputs_of(network, transforms.prepared(clips.to(fabric.device), spec)))


@torch.no_grad()
def _validate(fabric: Any, network: nn.Module, task: Task, batches: Batches, said: set[str]) -> Row:
    """The measures over all processes, each sample once."""
    network.eval()
    measures = task.measures().to(fabric.device)
    losses = torch.zeros(2, dtype=torch.float64, device=fabric.device)
    spec: Any = network.spec
    has_clips = False
    for views, *targets, _, notes in batches:
        has_clips = True
        feed.say_once(notes, said)
        clips, *targets = (each.to(fabric.device) for each in (views[:, 0], *targets))
        if task.name in ("frames", "segment"):
            targets = [targets[0][:, 0]]
        with fabric.autocast():
            logits = task.answer(network, transforms.prepared(clips, spec), targets)
        counted = len(clips) * task.density(clips, targets)
        losses += torch.stack([task.plain_loss(logits, targets[-1]).double(), losses.new_ones(())]) * counted
        task.update(measures, logits, targets)
    if not any(_agreed(fabric, has_clips)):
        raise VideoError(f"no sample is left to validate on: {told(batches.bad, len(batches.dataset))}")
    losses = fabric.all_reduce(losses, reduce_op="sum")
    return {"val_loss": (losses[0] / losses[1].clamp(min=1e-9)).item()} | task.figures(measures.compute())


def _agreed(fabric: Any, *flags: bool) -> list[bool]:
    """What any process says, of each of these."""
    if fabric.world_size == 1:
        return list(flags)
    said = fabric.all_reduce(torch.tensor(flags, dtype=torch.float32, device=fabric.device), reduce_op="sum")
    return (said > 0).tolist()


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's banners and advice, which are for its own users, kept off the screen."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning.*")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _shown(bar: terminal.Bar | None) -> Iterator[None]:
    if bar is None:
        yield
        return
    bar.start()
    try:
        yield
    finally:
        bar.stop()


@contextmanager
def _finalized(loggers: Sequence[Any]) -> Iterator[None]:
    """What loggers still hold is written in the end."""
    status = "failed"
    try:
        yield
        status = "success"
    finally:
        for logger in loggers:
            logger.finalize(status)


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, or the system wants its machine back; a second Ctrl-C ends the run at once."""
    asked = 0

    def note(number: int, _: Any) -> None:
        nonlocal asked
        if asked and signal.SIGINT in (asked, number):  # of several processes, torch tells a second Ctrl-C as SIGTERM
            raise KeyboardInterrupt
        if not asked:
            terminal.say("stopping after this step; Ctrl-C again stops at once, at the last checkpoint")
        asked = number

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
