"""Training: from a folder of clips to a model in one self-describing file."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import fields, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import nn

from . import checkpoints, feed, fit, heads, optim, plot, regularize, speed, tasks, terminal
from . import memory as memories
from . import plan as plans
from . import run as runs
from . import weights as files
from .blocks import stages_of
from .data import datasets, flow
from .data import distort as distortions
from .data.augment import RECIPES as AUGMENTS
from .data.augment import Augment
from .data.distort import Distort
from .data.layouts.splits import labels_of
from .data.loader import ON_BAD, SKIP, OnBad, loader
from .data.mixing import Mixing
from .data.order import EpochOrder
from .data.sample import VideoData
from .data.sampling import SHORTS, Short
from .data.scans import ScanWindows, WholeScans
from .data.video import VideoError
from .launch import is_first
from .models import MODELS, create, ready
from .recipe import Recipe, choose
from .run import Run
from .segment import answer_to_zeros, dense_classes, keeping_axes
from .spec import ClipSpec, at_least_one, whole_numbers

Size = int | tuple[int, int] | Literal["none"]
TaskName = Literal["classify", "multilabel", "frames", "detect", "segment"]

PLANNED = "plain_unet3d"  # the network that a plan describes
BATCH = 16  # clips
# Shares of the epochs between which changes to scans fade: a network ends on what it will see, while its rate still
# moves it. Ours, after YOLOX (Ge et al. 2021, arXiv 2107.08430): no strong changes in the last twentieth.
FADE = 0.3, 0.7
LONG_S = 120  # of processor time for all steps, from which on the timing of convolutions (5 s) is worth its while
_OF_MEMORY = "precision", "accumulate", "checkpointed_stages", "returns_memory"  # what memory="auto" chooses
_SETTINGS = tuple(each.name for each in fields(Recipe))


def train(
    data: str | os.PathLike,
    *,
    model: str | nn.Module | None = None,
    task: TaskName | None = None,
    input: Literal["rgb", "flow"] | None = None,
    fold: int | None = None,
    weights: str | os.PathLike | None = None,
    recipe: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    optimizer: optim.Optimizer | None = None,
    weight_decay: float | None = None,
    warmup: float | None = None,
    clip_norm: float | None = None,
    layer_decay: float | None = None,
    head_factor: float | None = None,
    frozen_stages: int | None = None,
    is_norm_frozen: bool | None = None,
    norm_parts: int | None = None,
    precise_norms: int | None = None,
    loss: str | None = None,
    label_smoothing: float | None = None,
    class_weights: Literal["none", "balanced"] | None = None,
    dropout: float | None = None,
    stochastic_depth: float | None = None,
    augment: Augment | str | None = None,
    mixing: Mixing | None = None,
    repeats: int | None = None,
    ema_decay: float | None = None,
    patience: int | None = None,
    num_frames: int | None = None,
    frame_stride: int | None = None,
    fps: float | Literal["none"] | None = None,
    resize: Size | None = None,
    crop: Size | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
    intensity: str | None = None,
    distort: Distort | str | None = None,
    plan: str | os.PathLike | None = None,
    short: Short = "error",
    on_bad: OnBad = "raise",
    precision: fit.Precision = "32",
    accumulate: int = 1,
    checkpointed_stages: int = 0,
    returns_memory: bool = False,
    memory: Literal["plain", "auto"] = "plain",
    convolutions: str | os.PathLike | None = None,
    devices: int = 1,
    strategy: fit.Strategy = "ddp",
    logger: Any = "csv",
    checkpoint_s: float = 300,
    workers: int | None = None,
    seed: int = 0,
    resume: bool = False,
    out: str | os.PathLike | None = None,
) -> Run:
    """Train a network on videos or scans and keep the epoch that does best on the validation part.

    What is None is chosen for the data and the network, see `tubelet.recipe`, and printed with the reason.

    Args:
        data: a folder with a folder of videos or scans for each class, a list of `path label`, scans and masks (see
            `open_data`), or `motion` (built in).
        model: name of a network, or any nn.Module from (B, C, T, H, W) to logits (B, K), of segment (B, K, T, H, W),
            with a `spec`, which scans do without. By default r2plus1d_18, of segment a U-Net that fits the scans.
        task: classify, one class a clip; multilabel, any number; frames, a class for each frame; detect, classes for
            each box; segment, a class for each voxel. By default what the data says: masks are to be segmented, class
            folders classified. Data that can be read in several ways is read so, by default to be classified.
        input: flow, the optical flow of the videos, which is computed before the training and kept in the cache folder;
            rgb, what the data holds. By default what the network takes, where it takes flow, else rgb.
        fold: which fold validates; by default of videos the first, of scans the last.
        weights: a tag of the catalogue or a checkpoint to start from; the head is new where classes differ.
        recipe: scratch, scratch_small, finetune, finetune_small or segment.
        epochs: passes over the training part.
        batch_size: clips a step, over all processes; by default 16, of scans what fits them. Where an epoch has fewer,
            all of them.
        lr: highest learning rate.
        optimizer: adamw, or sgd with Nesterov momentum 0.9; linear warmup, then a cosine to zero.
        weight_decay: of convolutions and linear layers, never of norms and biases.
        warmup: share of the steps in which the rate rises.
        clip_norm: largest norm of the gradient, 0 for any.
        layer_decay: rate of a stage to that of the next.
        head_factor: rate of the head, as a multiple of the others'.
        frozen_stages: stages that are held, and the stem with them.
        is_norm_frozen: whether batch norms that have statistics keep them.
        norm_parts: parts of a batch over each of which batch norms take their statistics.
        precise_norms: batches over which batch norms take their true statistics before each validation.
        loss: cross_entropy, focal or logit_adjusted; of voxels also dice_ce, their default, dice or tversky.
        label_smoothing: probability spread over all classes.
        class_weights: balanced gives each class the same weight in sum, none each clip.
        dropout: of the head.
        stochastic_depth: probability that the last residual step is left out.
        augment: random changes to training clips: an `Augment`, or the name of one in `tubelet.data.augment.RECIPES`
            (plain, kinetics, strong).
        mixing: Mixup and CutMix.
        repeats: clips of each video in an epoch, one after another.
        ema_decay: of the running average of the weights, which is then validated and kept; 0 for none.
        patience: epochs without a better one that end the run, 0 for never.
        num_frames: frames of a clip; like the next four, by default the network's own (`model.spec`). Of scans the
            depth of a window, and crop its height and width: by default what fits them.
        frame_stride: source frames between two of them, counted at `fps`.
        fps: rate to which videos are brought, or none for their own.
        resize: short side, or height and width (128x171), before the crop; none keeps the size.
        crop: height and width of a clip (112x112); none keeps the size.
        spacing_mm: depth, height and width of the voxels that scans are resampled to; by default their median.
        intensity: how values of scans become those that the network takes: z_score, "window -160 240" or "percentile
            0.5 99.5"; by default z_score, of CT the window that the foreground lies in.
        distort: random changes to windows of scans: a `Distort`, or the name of one in `tubelet.data.distort.RECIPES`
            (none, light, nnunet, varied); by default varied for masks, light for classes. They grow weaker from 0.3
            to 0.7 of the epochs, after which nothing but mirroring is left.
        plan: the file `plan.json` in the folder of a run on scans, whose choices of window, voxel size, intensities,
            network and batch are repeated. By default the scans are looked at and it is written (`tubelet.plan`).
        short: videos with fewer frames than a clip: error, loop (from the start again) or hold (the last frame).
        on_bad: what a video does that cannot be read: raise ends the run (resume it with another choice), skip leaves
            it out, substitute takes another one; the last two count and name it. Validation leaves it out.
        precision: 32, or bf16 or 16 for mixed precision; a CPU has no 16 and takes bf16 in its place.
        accumulate: parts of a step that go through the network one after another, for batches that the memory does
            not hold at once.
        checkpointed_stages: stages whose maps are computed again on the way back instead of kept, from the first.
        returns_memory: give what is freed back to the system at once: less memory, more time; on a CPU with glibc.
        memory: auto finds out what a step takes and chooses the four before so that it fits; plain takes them as given.
        convolutions: the file of that name in the folder of a run, whose choice of fast convolutions is repeated; by
            default they are timed where the run is long, on a CPU.
        devices: processes of this machine that share each step, one a GPU; `torchrun` starts them on several machines.
        strategy: what each of several processes keeps: ddp the whole network; fsdp a share of its weights, their
            gradients and the optimizer's states, for networks that do not fit otherwise.
        logger: csv, tensorboard, or a Lightning logger.
        checkpoint_s: seconds between two checkpoints within an epoch.
        workers: processes that read; 0 reads in this one.
        seed: of order, clips, augmentation and new weights.
        resume: go on where the run in `out` was, with the same arguments.
        out: folder of the run; by default a new `runs/DATA-MODEL`, numbered after the last.

    Returns:
        The run: its folder and its figures.

    Raises:
        ValueError: data, a name, an argument or a checkpoint does not fit; the message says what would.
        KeyboardInterrupt: Ctrl-C; the message says how to go on.
        ConnectionError: another of several processes has ended.
    """
    precision = cast(fit.Precision, str(precision))
    augment, distort = _named("augment", augment, AUGMENTS), _named("distort", distort, distortions.RECIPES)
    arguments = {name: value for name, value in locals().items() if name != "resume"}
    _check(task, short, on_bad, precision, memory, strategy)
    _check_values(data, out, mixing, seed, checkpoint_s)
    at_least_one(batch_size=1 if batch_size is None else batch_size, accumulate=accumulate, devices=devices)
    if input not in (None, "rgb", "flow"):
        raise ValueError(f"input {input!r}; there is rgb, flow")
    if weights is not None and isinstance(model, nn.Module):
        raise ValueError(
            f"weights {weights} with a network in memory: load them into it, or give the name of a network"
        )
    feed.check_apart(data, "runs" if out is None else out)
    found = feed.open_parts(data, ("train", "val"), task, fold)
    arguments["task"] = task = found.task

    if model is None:
        model = PLANNED if task == "segment" else "r2plus1d_18"
    is_planned = found.is_volume and model == PLANNED and weights is None  # weights of a run bring their own
    name = model if isinstance(model, str) else type(model).__name__
    scans = None
    if found.is_volume:
        _check_unused("videos", input=input, frame_stride=frame_stride, fps=fps, resize=resize, augment=augment)
        wanted = _Asked(_window_of(num_frames, crop), spacing_mm, intensity, batch_size)
        if plan is None and resume:
            plan = runs.plan_of(runs.seen(out, f"{Path(data).stem}-{name}"))
        if plan is not None and out is not None:
            plan = runs.moved(plan, Path(out) / runs.PLAN)
        fits = _fits(len(found.classes), optimizer, precision) if is_planned else _any
        scans = _planned(found, wanted, plan, fits, on_bad)
        arguments["distort"] = distort = distort or _distortion(task, scans.spec.mirror_axes)
        scans = plans.trained(scans, cast(Distort, distort).flip, has_network=is_planned)
        batch_size, channels = scans.batch_size, scans.spec.in_channels
    else:
        _check_unused("scans", spacing_mm=spacing_mm, intensity=intensity, distort=distort, plan=plan)
        channels = feed.channels_of(found, "train")
        if input == "flow" or (input is None and _takes_flow(model, weights)):
            channels = flow.CHANNELS
    batch_size = BATCH if batch_size is None else batch_size
    torch.manual_seed(seed)
    if isinstance(model, str):
        shape = {"channels": scans.channels, "strides": scans.strides, "deep": True} if is_planned and scans else {}
        model = create(model, num_classes=len(found.classes), in_channels=channels, weights=weights, **shape)
    elif scans is not None:
        cast(Any, model).spec = scans.spec
    network, spec = _ready(model, task, name, data, channels)
    if scans is not None:
        # of what a class file says of left and right, the network's classes keep no word for prediction
        axes = keeping_axes(scans.spec.mirror_axes or (), found.mirrored, scans.spec.orientation)
        network.spec = spec = replace(scans.spec, classes=found.classes, mirror_axes=axes)
    else:
        network.spec = spec = _spec(spec, found.classes, num_frames, frame_stride, fps, resize, crop)
    network.spec = spec = replace(spec, is_multilabel=tasks.is_multilabel(found))
    if scans is not None:
        _check_classes(network, task, name, data)
    files.header(network)  # what could not be saved is said before the training, not after its first epoch
    if channels == flow.CHANNELS and scans is None:
        feed.compute_flow(found, ("train", "val"), on_bad, workers)

    if memory == "auto":
        began = runs.seen(out, f"{Path(data).stem}-{name}") if resume else None
        if began is not None and checkpoints.is_in(began):
            before = json.loads((began / "run.json").read_text())
            planned = {key: before[key] for key in _OF_MEMORY}
        else:
            planned = _plan_memory(network, spec, batch_size, optimizer or "adamw", precision)
        precision, accumulate, checkpointed_stages, returns_memory = (planned[key] for key in _OF_MEMORY)
        # a run that is resumed or replayed elsewhere keeps to what was chosen
        arguments |= {"memory": "plain", **planned}

    fabric = fit.open_fabric(precision=precision, devices=devices, strategy=strategy)
    if fabric.broadcast((precision, accumulate, checkpointed_stages)) != (precision, accumulate, checkpointed_stages):
        raise ValueError(
            "the processes find memory for different plans: give precision, accumulate and checkpointed_stages yourself"
        )
    network.to(fabric.device)
    say = terminal.say if fabric.is_global_zero else _silent
    if is_without_16 := precision == "16" and fabric.device.type == "cpu":
        precision = "bf16"  # as the fabric does
    counts = _class_counts(found)
    asked = {setting: arguments[setting] for setting in _SETTINGS}
    if task in ("frames", "detect", "segment"):  # what belongs to a frame, a box or a voxel does not mix
        if mixing and (mixing.mixup or mixing.cutmix):
            raise ValueError(f"mixing is for one answer a clip, not for task {task}: leave it out")
        asked["mixing"] = Mixing()
    chosen, reasons = choose(
        network,
        len(found.splits["train"]),
        [] if task == "segment" else counts.tolist(),
        is_fine_tuned=weights is not None or (recipe or "").startswith("finetune"),
        batch_size=batch_size,
        num_parts=accumulate * fabric.world_size,
        name=recipe,
        is_dense=task == "segment",
        unit="clips" if scans is None else "scans",
        asked=asked,
    )
    if label_smoothing is None and spec.is_multilabel:
        chosen = replace(chosen, label_smoothing=0.0)
    first, end = (round(share * chosen.epochs) for share in FADE)
    train_clips, val_clips = _clips(found, spec, chosen.augment, cast(Any, distort), (first, end), short, seed, on_bad)
    arguments["out"] = folder = fabric.broadcast(
        runs.folder_of(out, f"{Path(data).stem}-{name}", resume) if fabric.is_global_zero else None
    )
    arguments["convolutions"] = ways = runs.moved(convolutions, folder / runs.CONVOLUTIONS).resolve()
    if scans is not None:
        if fabric.broadcast(scans) != scans:
            raise ValueError("the processes find memory for different plans: give the plan of a run of one process")
        arguments["plan"] = runs.moved(plan, folder / runs.PLAN).resolve()
    if convolutions and (ways.exists() or ways.parent != folder.resolve()):
        runs.ways_in(ways)
    if fabric.is_global_zero:
        runs.write_arguments(folder, arguments, name, resume)
        if scans is not None and not (checkpoints.is_in(folder) and (folder / runs.PLAN).exists()):
            plans.write(scans, folder / runs.PLAN)
    fabric.barrier()
    loggers = fit.loggers_of(logger, folder) if fabric.is_global_zero else []
    window = None if scans is None else _window_of(spec.num_frames, spec.crop)
    counts = _class_seconds(found) if task == "frames" else counts
    objective = tasks.task_of(found, chosen.loss, chosen.label_smoothing, chosen.class_weights, counts, window)
    order = EpochOrder(len(train_clips), seed, chosen.repeats)
    step = min(batch_size, len(order))
    part = max(1, batch_size // (accumulate * fabric.world_size))
    measured: Any = {"workers": workers, "on_bad": "raise" if on_bad == "raise" else "skip"}
    batches = loader(
        train_clips,
        batch_size,
        order=order,
        accumulate=accumulate,
        rank=fabric.global_rank,
        world=fabric.world_size,
        workers=workers,
        on_bad=on_bad,
    )
    val_batches = loader(
        val_clips,
        1 if task == "segment" else part,
        order=range(fabric.global_rank, len(val_clips), fabric.world_size),
        **measured,
    )
    still = loader(train_clips, part, order=cast(Any, order.keys(0)[: chosen.precise_norms * part]), **measured)
    say(
        f"{name} on {terminal.counted(len(train_clips), 'clip' if scans is None else 'scan')} of {len(found.classes)} "
        f"classes, {len(val_clips)} to validate; {_clip(spec, found.is_volume)}; {chosen.optimizer}, batch {step}"
    )
    if is_without_16:
        say("  precision bf16: a CPU has no 16")
    if strategy == "fsdp":
        say(f"  fsdp: weights, gradients and optimizer states shared among {fabric.world_size} processes")
    for reason in (*(scans.reasons if scans else ()), *reasons):
        say(f"  {reason}")
    if scans is None and (undefined := chosen.augment.undefined(spec.in_channels)):
        say(f"  {', '.join(undefined)} left out: not for {terminal.counted(spec.in_channels, 'channel')}")
    course = fit.Course(
        epochs=chosen.epochs,
        seed=seed,
        rate=partial(optim.warmup_cosine, warmup=chosen.warmup),
        mixing=chosen.mixing if chosen.mixing.mixup or chosen.mixing.cutmix else None,
        clip_norm=chosen.clip_norm or None,
        patience=chosen.patience or None,
        checkpoint_s=checkpoint_s,
    )
    kept = runs.Kept(folder, objective, chosen.epochs, done=runs.epochs_in(folder) if resume else 0)
    average, prepared = _prepare(network, chosen)
    is_trained = False
    try:
        groups = optim.parameter_groups(
            network, chosen.lr, chosen.weight_decay, layer_decay=chosen.layer_decay, head_factor=chosen.head_factor
        )
        network.loaded_from = folder / "model.safetensors"
        if fabric.is_global_zero and not ways.exists():
            is_timed = fabric.device.type == "cpu" and spec.crop is not None
            steps = chosen.epochs * len(batches)
            runs.write_ways(_timed(network, spec, min(part, step), steps, precision) if is_timed else None, ways)
        routes = fabric.broadcast(runs.ways_in(ways).state() if fabric.is_global_zero else None)
        with (
            closing(batches),
            closing(val_batches),
            closing(still),
            batches.watched(),
            val_batches.watched(),
            feed.explained(found, ("train", "val"), spec, short),
            _checkpointed(network, checkpointed_stages),
            memories.returned() if returns_memory else nullcontext(),
            speed.applied(speed.Choices.restored(routes)),
        ):
            progress = fit.fit(
                fabric,
                network,
                objective,
                optim.OPTIMIZERS[chosen.optimizer](groups),
                batches,
                val_batches,
                course,
                folder,
                average=average,
                still=still if chosen.precise_norms else None,
                loggers=loggers,
                resume=resume,
                on_epoch=kept,
            )
        is_trained = True
        if fabric.is_global_zero:
            plot.curves(progress.history, folder / "curves.png")
    except KeyboardInterrupt:
        if is_trained:
            how_far = f"after the last epoch: {folder / 'model.safetensors'} is complete; draw its curves"
        elif checkpoints.is_in(folder):
            how_far = f"in epoch {kept.done + 1} of {chosen.epochs}; go on"
        else:
            how_far = "in epoch 1: nothing is saved; begin again"
        again = f"tubelet train --config {folder / 'run.json'} --resume"
        raise KeyboardInterrupt(f"interrupted {how_far} with: {again}") from None
    except RuntimeError as error:
        is_of_others = isinstance(error, torch.distributed.DistError) or "/gloo/" in str(error)
        if fabric.world_size == 1 or not is_of_others:
            raise
        raise ConnectionError("another process of this run has ended, and this one with it") from None
    finally:
        prepared.close()
        bad = batches.bad | val_batches.bad
        if fabric.is_global_zero:
            runs.write_bad(bad, folder)
    if fabric.world_size > 1:
        bad = fit.gathered(bad)
        if fabric.is_global_zero:
            runs.write_bad(bad, folder)
    return Run(folder, progress.history, progress.best, objective.best, bad)


def _ready(model: nn.Module, task: TaskName, name: str, data: str | os.PathLike, channels: int) -> tuple[Any, ClipSpec]:
    """A network with a head for a task, and the clip that it takes.

    Raises:
        ValueError: it takes clips of other channels than the data has.
    """
    network, spec = ready(model)
    if spec.in_channels != channels:
        raise ValueError(
            f"{name} takes clips of {spec.in_channels} channels, and the videos of {data} have {channels}: make it "
            f"with in_channels={channels}"
        )
    return tasks.with_head(network, task), spec


def _check_classes(network: Any, task: TaskName, name: str, data: str | os.PathLike) -> None:
    classes = len(network.spec.classes)
    if task == "segment":
        number, what = dense_classes(network, network.spec), "voxel"
    else:
        answer, what = answer_to_zeros(network, network.spec), "scan"
        number = answer.shape[1] if isinstance(answer, torch.Tensor) and answer.ndim == 2 else None
    if number != classes:
        told = f"does not answer for each {what}" if number is None else f"tells {number} classes apart"
        raise ValueError(f"{name} {told}, and {data} has {classes} classes: make it with as many")


def _takes_flow(model: str | nn.Module, weights: str | os.PathLike | None) -> bool:
    """Whether a network is for optical flow, by its weights' own clip or the one that it was published for."""
    if isinstance(model, str):
        if weights is not None and Path(weights).exists() and (header := files.read(weights).header):
            return len(header["spec"]["mean"]) == flow.CHANNELS
        return any(preset.name == model and preset.spec.in_channels == flow.CHANNELS for preset in MODELS)
    return ready(model)[1].in_channels == flow.CHANNELS


class _Asked(NamedTuple):
    """What was asked for of a plan, None for what is to be chosen."""

    window: tuple[int, int, int] | None
    spacing_mm: tuple[float, float, float] | None
    intensity: str | None
    batch_size: int | None


def _check_unused(what: str, **given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name} is for {what}, and the data has none: leave it out")


def _window_of(num_frames: int | None, crop: Size | None) -> tuple[int, int, int] | None:
    """(T, H, W), or None where none of it is told.

    Raises:
        ValueError: a part of it is told.
    """
    if num_frames is None and crop is None:
        return None
    if num_frames is None or crop is None or crop == "none":
        raise ValueError(f"num_frames {num_frames}, crop {crop}: of scans give both, depth and sides of a window")
    return (num_frames, crop, crop) if isinstance(crop, int) else (num_frames, *crop)


def _planned(
    found: VideoData,
    asked: _Asked,
    file: str | os.PathLike | None,
    fits: Callable[[plans.Plan], bool],
    on_bad: OnBad,
) -> plans.Plan:
    """What is chosen for scans, or what a file has of an earlier choice."""
    intensity = None if asked.intensity is None else plans.intensity_of(asked.intensity)
    if file is None:
        seen = plans.look(found, skips=on_bad != "raise")
        return plans.plan(seen, device=_device().type, fits=fits, **(asked._asdict() | {"intensity": intensity}))
    kept = plans.read(file)
    spec = kept.spec
    has = (spec.num_frames, *cast(Any, spec.crop)), spec.spacing_mm, spec.intensity, kept.batch_size
    for name, wanted, value in zip(_Asked._fields, asked._replace(intensity=cast(Any, intensity)), has, strict=True):
        if wanted is not None and wanted != value:
            raise ValueError(f"{name} {wanted}, and {file} has {value}: leave one of the two out")
    return kept


def _distortion(task: str, axes: tuple[int, ...] | None) -> Distort:
    """How windows are changed where nothing was asked for, mirrored along the axes that the plan allows."""
    distort = distortions.RECIPES["varied" if task == "segment" else "light"]
    return replace(distort, flip=tuple(axis for axis in distort.flip if axes is None or axis in axes))


def _fits(
    num_classes: int, optimizer: optim.Optimizer | None, precision: fit.Precision
) -> Callable[[plans.Plan], bool]:
    """Whether a step of the network that a plan describes fits into the memory at hand."""
    device = _device()
    world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    available = memories.available_bytes(device) // (world if device.type == "cpu" else 1)

    def fits(plan: plans.Plan) -> bool:
        channels = plan.spec.in_channels
        network = create(
            PLANNED, num_classes=num_classes, in_channels=channels, channels=plan.channels, strides=plan.strides,
            deep=True,
        ).to(device)  # fmt: skip
        shape = math.ceil(plan.batch_size / world), channels, plan.spec.num_frames, *cast(Any, plan.spec.crop)
        return memories.fits(network, shape, optim.OPTIMIZERS[optimizer or "adamw"], precision, available)

    return fits


def _device() -> torch.device:
    """Where this process will train."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _any(plan: plans.Plan) -> bool:
    """Of a network that was given, the plan does not know how large it is."""
    return True


def _silent(line: str) -> None:
    """What the other processes say."""


def _check(task: str | None, short: str, on_bad: str, precision: str, memory: str, strategy: str) -> None:
    """What a signature says of an argument, for callers in Python; the command line has it checked already."""
    choices: dict[str, tuple[str | None, Any]] = {
        "task": (task, (None, *tasks.TASKS)),
        "short": (short, SHORTS),
        "on_bad": (on_bad, ON_BAD),
        "precision": (precision, fit.PRECISIONS),
        "memory": (memory, ("plain", "auto")),
        "strategy": (strategy, fit.STRATEGIES),
    }
    for name, (value, known) in choices.items():
        if value not in known:
            raise ValueError(f"{name} {value!r}; there is {', '.join(filter(None, known))}")


def _check_values(data: Any, out: Any, mixing: Any, seed: Any, checkpoint_s: Any) -> None:
    """What is out of its range, or of another kind."""
    if not isinstance(data, str | os.PathLike):
        raise ValueError(f"data {data!r}; give the path of a folder or a list, or motion")
    if mixing is not None and not isinstance(mixing, Mixing):
        raise ValueError(f"mixing {mixing!r}; give a tubelet.data.mixing.Mixing, such as Mixing(mixup=0.2)")
    whole_numbers(seed=seed)
    if not -(2**63) <= seed < 2**64:  # torch's
        raise ValueError(f"seed {seed} must be at least -2^63 and below 2^64")
    if not checkpoint_s >= 0:
        raise ValueError(f"checkpoint_s {checkpoint_s} must be at least 0")
    if out is not None:
        there = next(each for each in (Path(out), *Path(out).absolute().parents) if each.exists())
        if there == Path(out) and not there.is_dir():
            raise ValueError(f"{out}: a file is in the way; move it, or give another path as out")
        if not there.is_dir():
            raise ValueError(f"{out}: a part of this path is a file, not a folder; give another path as out")


def _named(what: str, given: Any, known: Mapping[str, Any]) -> Any:
    """What was given, or, of a name, what it stands for.

    Raises:
        ValueError: there is no such name, or it is something else.
    """
    if isinstance(given, str) and given in known:
        return known[given]
    kind = type(next(iter(known.values())))
    if given is None or isinstance(given, kind):
        return given
    raise ValueError(f"{what} {given!r}; there is {', '.join(known)}, or give a {kind.__module__}.{kind.__name__}")


def _clips(
    found: VideoData,
    spec: ClipSpec,
    augment: Augment,
    distort: Distort | None,
    fades: tuple[int, int],
    short: Short,
    seed: int,
    on_bad: OnBad,
) -> tuple[feed.Noted, feed.Noted]:
    """Clips to train on and to validate on. Scans are prepared for them: what is wrong with one is found out here.

    Raises:
        VideoError: a scan cannot be prepared, where that ends the run.
    """
    if not found.is_volume:
        train_clips = datasets.TrainClips(found, "train", spec, augment, short, seed)
        return feed.Noted(train_clips), feed.Noted(datasets.ViewClips(found, "val", spec, 1, 1, short))
    windows = ScanWindows(found, "train", spec, cast(Distort, distort), seed, fades=fades)
    scans = WholeScans(found, "val", spec)
    failed = [*windows.scans.failed.values(), *scans.scans.failed.values()]
    if failed and on_bad == "raise":
        raise VideoError(f"{failed[0]} {SKIP}")
    return feed.Noted(windows), feed.Noted(scans)


def _clip(spec: ClipSpec, is_volume: bool) -> str:
    """What a network sees, in some words."""
    size = "x".join(map(str, spec.crop)) if spec.crop else "full size"
    if is_volume:
        return f"windows {spec.num_frames}x{size}"
    return f"{terminal.counted(spec.num_frames, 'frame')}, stride {spec.frame_stride}, {size}"


def _class_counts(data: VideoData) -> torch.Tensor:
    """Training samples of each class; ones where each voxel has a class, not a sample."""
    if data.task == "segment":
        return torch.ones(len(data.classes))
    counts = Counter(name for sample in data.splits["train"] for name in labels_of(sample, data.task))
    return torch.tensor([counts[i] for i in range(len(data.classes))])


def _class_seconds(data: VideoData) -> torch.Tensor:
    """How long each class is seen in the training part, in the unit of the data."""
    seconds = torch.zeros(len(data.classes))
    for span in chain.from_iterable(cast(Any, sample.target) for sample in data.splits["train"]):
        seconds[span.target] += span.end - span.start
    return seconds


def _prepare(network: nn.Module, recipe: Recipe) -> tuple[Any, ExitStack]:
    """Have a network do what a recipe says while it is trained.

    Returns:
        The running average of its weights, or None; and what takes all of it back but the dropout, which is part of the
        network: a later training of it begins from there.
    """
    with ExitStack() as undone:
        if recipe.dropout is not None:
            regularize.set_dropout(network, recipe.dropout)
        for weight in network.parameters():
            undone.callback(weight.requires_grad_, weight.requires_grad)
        handles = regularize.stochastic_depth(network, recipe.stochastic_depth) if recipe.stochastic_depth else []
        handles += regularize.split_norms(network, recipe.norm_parts) if recipe.norm_parts > 1 else []
        handles += regularize.freeze_norms(network) if recipe.is_norm_frozen else []
        handles += regularize.freeze(network, recipe.frozen_stages)
        for handle in handles:
            undone.callback(handle.remove)
        if recipe.precise_norms and not regularize.free_norms(network):
            raise ValueError(
                f"precise_norms {recipe.precise_norms}: the network has no batch norm whose statistics are not held; "
                "leave it out"
            )
        average = optim.averaged(network, recipe.ema_decay) if recipe.ema_decay else None
        return average, undone.pop_all()


def _plan_memory(
    network: nn.Module, spec: ClipSpec, batch_size: int, optimizer: optim.Optimizer, precision: fit.Precision
) -> dict[str, Any]:
    """How a step fits into the memory at hand, of which each process of this machine has its share: `_OF_MEMORY`."""
    if spec.crop is None:
        raise ValueError("memory auto needs a crop: clips of the videos' own size may take any memory")
    if isinstance(getattr(network, "head", None), heads.Detect):
        raise ValueError("memory auto does not know how many boxes there will be: leave it out for task detect")
    share, world = (int(os.environ.get(name, "1")) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    device = _device()
    planned = memories.plan(
        network.to(device),
        math.ceil(batch_size / world),
        (spec.in_channels, spec.num_frames, *spec.crop),
        optimizer=optim.OPTIMIZERS[optimizer],
        available=memories.available_bytes(device) // (share if device.type == "cpu" else 1),
        precision=None if precision == "32" else precision,
    )
    if is_first():
        terminal.say(planned.reason)
    accumulate = min(planned.accumulate, max(1, batch_size // world))  # each part of each process has a clip
    chosen = planned.precision, accumulate, planned.num_checkpointed, planned.is_returned
    return dict(zip(_OF_MEMORY, chosen, strict=True))


def _checkpointed(network: Any, num_stages: int) -> AbstractContextManager[None]:
    if not num_stages:
        return nullcontext()
    stages = stages_of(network)
    if not 0 < num_stages <= len(stages):
        raise ValueError(f"checkpointed_stages {num_stages}; the network has {len(stages)} stages")
    return memories.checkpointed(stages[:num_stages])


def _timed(
    network: nn.Module, spec: ClipSpec, batch_size: int, steps: int, precision: fit.Precision
) -> speed.Choices | None:
    """The fast convolutions of a run on a CPU; None for one so short that the timing would not be worth its while."""
    clips = min(2, batch_size)
    inputs = tasks.inputs_of(network, torch.zeros(clips, spec.in_channels, spec.num_frames, *cast(Any, spec.crop)))
    with torch.random.fork_rng(devices=[]), speed.applied(speed.Choices({})):
        twin = copy.deepcopy(network).train()
        began = time.perf_counter()
        answers = twin(*inputs)
        each = [answers] if isinstance(answers, torch.Tensor) else answers  # several where all depths are supervised
        torch.stack([one.float().sum() for one in each]).sum().backward()
        seconds = steps * batch_size / clips * (time.perf_counter() - began)
    dtypes = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}
    return None if seconds < LONG_S else speed.choose(network, *inputs, dtype=dtypes[precision])


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
