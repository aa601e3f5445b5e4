"""What training on scans needs to know of them: voxel size, values, window, depth of the network, batch; with reasons.

The rules are nnU-Net's (Isensee et al. 2021, Nature Methods 18, 203-211), but for those marked "ours".
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from . import terminal
from .data.sample import VideoData
from .data.sampling import uniform
from .data.volume import Volume, VolumeError, oriented, read_mask, read_volume
from .machine import aside
from .spec import ClipSpec, Intensity, Kind, check_intensity

__all__ = ["Look", "Plan", "intensity_of", "look", "plan", "read", "trained", "write"]

Triple = tuple[int, int, int]
Size = tuple[float, float, float]

AXES = ("depth", "height", "width")
ORIENTATION = "SPL"  # head first, as most scanners store; any fixed one would do
MOST_LOOKED_AT = 100  # scans; ours
VALUES = 10_000  # of each scan and channel
CUT = (0.5, 99.5)  # percent of the foreground's values between which CT is cut off
IS_CT = -200.0  # Hounsfield units, below any value of what is no CT and above that of air; ours
ANISOTROPIC = 3.0  # times the spacing of the other axes
RARE = 10  # percentile of the coarse axis' spacing that is aimed at there
LEAST_MAP = 4  # voxels along an axis of the coarsest map
LEAST_TINY = 2  # of scans that are too small for that; ours
MOST_POOLED = 5  # times
WIDTHS = {"cuda": 32, "cpu": 24}  # channels of the first stage; of a CPU ours
LARGE, NARROW = 48**3, 16  # voxels of a window from which on a CPU takes no more channels than that; ours
MOST_CHANNELS = 320
MOST_VOXELS = {"cuda": 128**3, "cpu": 96**3}  # of a window; of a CPU ours
LEAST_BATCH = 2
MOST_BATCH = 16  # ours
SHARE = 0.05  # of all voxels that one step may see
ORDERED = 0.95  # of the scans in which two classes lie in one order, which is then theirs; ours
LEAST_ORDERED = 5  # scans that tell; ours

_MIRRORED, _STAGES = "mirrored along ", " stages of "  # what tells these two reasons from others


@dataclass(frozen=True)
class Look:
    """What the scans of a part are like.

    Attributes:
        sizes: (N, 3) voxels along depth, height and width, in `ORIENTATION`.
        spacings: (N, 3) millimetres of a voxel.
        channels: of each scan.
        ranges: (channels, 2) the value of each channel in most scans' darkest and brightest voxel.
        values: of each channel, drawn from the foreground of all scans, or from all of it where there are no masks.
        voxels: of each class, 0 first, in all scans that were looked at; empty where there are no masks.
        unoriented: scans that are not stored in `ORIENTATION`.
        num_scans: that were looked at.
        ordered: two classes for each axis along which they lie in the same order in nearly every scan, and would not
            in a mirror.
    """

    sizes: np.ndarray
    spacings: np.ndarray
    channels: int
    ranges: np.ndarray
    values: tuple[np.ndarray, ...]
    voxels: Mapping[int, int]
    unoriented: int
    num_scans: int
    ordered: Mapping[int, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What was chosen for some scans.

    Attributes:
        spec: window, voxel size, orientation and values, without class names.
        channels: width of each stage of a network that fits the window.
        strides: (depth, height, width) of each stage's first convolution.
        batch_size: windows of a step.
        reasons: in sentences.
    """

    spec: ClipSpec
    channels: tuple[int, ...]
    strides: tuple[Triple, ...]
    batch_size: int
    reasons: tuple[str, ...]


def look(data: VideoData, split: str = "train", *, skips: bool = False) -> Look:
    """Read scans of a part, at most `MOST_LOOKED_AT` of them, spread over it.

    Args:
        data: the data set.
        split: which of its parts.
        skips: whether a scan that cannot be read is passed over, as long as another can.

    Raises:
        VolumeError: a scan or a mask cannot be read, or scans differ in their channels; the message names it.
    """
    samples = data.splits[split]
    samples = [samples[i] for i in uniform(len(samples), min(len(samples), MOST_LOOKED_AT))]
    sizes, spacings, ends = [], [], []
    drawn: list[list[np.ndarray]] = []
    voxels: Counter[int] = Counter()
    centers = []
    unoriented = 0
    first_bad: VolumeError | None = None
    for number, sample in enumerate(terminal.progress(samples, "looking at scans")):
        try:
            stored = read_volume([sample.path, *sample.more])
            labels = read_mask(sample.target, stored.grid) if isinstance(sample.target, Path) else None
        except VolumeError as error:
            if not skips:
                raise
            first_bad = first_bad or error
            continue
        if drawn and len(stored.array) != len(drawn[0]):
            raise VolumeError(
                f"{sample.path}: {terminal.counted(len(stored.array), 'channel')}, and scans before it have "
                f"{len(drawn[0])}; give all as many"
            )
        unoriented += stored.grid.orientation != ORIENTATION
        scan = oriented(stored, ORIENTATION)
        sizes.append(scan.grid.size)
        spacings.append(scan.grid.spacing_mm)
        ends.append(np.stack([scan.array.min((1, 2, 3)), scan.array.max((1, 2, 3))], 1))
        inside = np.ones(scan.grid.size, bool)
        if labels is not None:
            mask = oriented(labels, ORIENTATION).array[0]
            found, counts = np.unique(mask if data.ignored is None else mask[mask != data.ignored], return_counts=True)
            voxels.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
            centers.append(_centers(mask, len(data.classes)))
            is_class = (mask > 0) & (mask < len(data.classes))
            inside = is_class if is_class.any() else inside
        drawn.append(_drawn(scan, inside, np.random.default_rng(number)))
    if not drawn:
        raise VolumeError(f"no scan of {split} can be read, first {first_bad}")
    values = tuple(np.concatenate(each) for each in zip(*drawn, strict=True))
    ranges = np.median(np.stack(ends), 0)
    of_class = dict(sorted(voxels.items()))
    arrays = np.array(sizes, dtype=np.int64), np.array(spacings, dtype=np.float64)
    ordered = _ordered(np.array(centers), data) if centers else {}
    return Look(*arrays, len(values), ranges, values, of_class, unoriented, len(drawn), ordered)


def _centers(mask: np.ndarray, num_classes: int) -> np.ndarray:
    """(num_classes, 3) mean place of each class, in voxels; nan for one that is not there, and for 0."""
    places = np.nonzero((mask > 0) & (mask < num_classes))
    labels = mask[places]
    sums = np.stack([np.bincount(labels, axis, num_classes) for axis in places], 1)
    counts = np.bincount(labels, minlength=num_classes)[:, None]
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _ordered(centers: np.ndarray, data: VideoData) -> dict[int, tuple[str, str]]:
    """Of each axis, two classes whose order there tells which is which; centers are (N, K, 3)."""
    found: dict[int, tuple[str, str]] = {}
    for axis, letter in enumerate(ORIENTATION):
        apart = centers[:, :, None, axis] - centers[:, None, :, axis]  # (N, K, K)
        known = np.isfinite(apart).sum(0)
        share = (apart > 0).sum(0) / np.maximum(known, 1)
        always = (share >= ORDERED) & (known >= LEAST_ORDERED)
        if letter in "RL":  # left and right, exchanged in the mirror, keep their order there
            becomes = np.array([_or_itself(data.mirrored.get(k), k) for k in range(len(data.classes))])
            always &= ~always[becomes[None, :], becomes[:, None]]
        for before, after in np.argwhere(always)[:1].tolist():
            found[axis] = data.classes[after], data.classes[before]
    return found


def _or_itself(other: int | None, index: int) -> int:
    return index if other is None else other


def _drawn(scan: Volume, inside: np.ndarray, generator: np.random.Generator) -> list[np.ndarray]:
    """Values of each channel at places that are drawn from inside."""
    places = np.flatnonzero(inside)
    places = generator.choice(places, min(len(places), VALUES), replace=False)
    return [channel.reshape(-1)[places].astype(np.float32) for channel in scan.array]


def plan(
    seen: Look,
    *,
    device: str = "cpu",
    fits: Callable[[Plan], bool] = lambda plan: True,
    window: Triple | None = None,
    spacing_mm: Size | None = None,
    intensity: Intensity | None = None,
    batch_size: int | None = None,
) -> Plan:
    """Choose for scans what was not asked for.

    Args:
        seen: the scans.
        device: cuda or cpu, which tells how large a network and a window are worth while.
        fits: whether a step of a plan fits into the memory at hand. Until one does, the batch is halved, then the
            longest side of the window is.
        window: (depth, height, width) in voxels.
        spacing_mm: of a voxel that the network sees.
        intensity: how values become those that it takes.
        batch_size: windows of a step.

    Raises:
        ValueError: nothing fits the memory, or the scans or the window are too small for a network.
    """
    reasons = [_what(seen)]
    target, why = (spacing_mm, "as asked") if spacing_mm else _spacing(seen)
    reasons.append(f"voxels of {_mm(target)}: {why}")
    values, mean, std, why = _values(seen, intensity)
    reasons.append(
        f"intensity {values.kind}{'' if values.kind == 'z_score' else f' {values.low:.4g} to {values.high:.4g}'}: {why}"
    )
    axes = tuple(axis for axis in range(3) if axis not in seen.ordered and seen.sizes[:, axis].max() > 1)
    spec = ClipSpec(
        1, resize=None, crop=(1, 1), mean=mean, std=std, spacing_mm=target, orientation=ORIENTATION, intensity=values,
        mirror_axes=axes,
    )  # fmt: skip
    reasons.append(_mirrors(seen, axes))
    median = np.median(np.maximum(1, np.round(seen.sizes * seen.spacings / target)), 0).astype(int)
    sides, why = (window, "as asked") if window else _window(median, MOST_VOXELS[device])
    total = seen.num_scans * int(np.prod(median))
    batch = batch_size or _batch(sides, total, device)
    while True:
        strides = _strides(sides, target)
        if len(strides) == 1:
            raise ValueError(f"a window of {_by(sides)} voxels is too small for a network; one side must be at least 4")
        multiple = np.prod(strides, 0)
        sides = sides if window else cast(Triple, tuple((-(-np.array(sides) // multiple) * multiple).tolist()))
        width = min(WIDTHS[device], NARROW) if device == "cpu" and math.prod(sides) > LARGE else WIDTHS[device]
        channels = tuple(min(MOST_CHANNELS, width * 2**i) for i in range(len(strides)))
        found = Plan(replace(spec, num_frames=sides[0], crop=sides[1:]), channels, strides, batch, ())
        if fits(found):
            break
        if batch > LEAST_BATCH and batch_size is None:
            batch //= 2
        elif window is None and max(sides) > 2 * LEAST_MAP:
            sides = cast(
                Triple, tuple(side // 2 if i == int(np.argmax(sides)) else side for i, side in enumerate(sides))
            )
            why = "halved until a step fits into the memory"
        else:
            raise ValueError(f"a step of {batch} windows of {_by(sides)} does not fit into the memory: ask for less")
    pooled = multiple.tolist()
    reasons += [
        f"window {_by(sides)}: {why}; the median scan has {_by(median.tolist())} of these voxels",
        f"{len(channels)}{_STAGES}{', '.join(map(str, channels))} channels, {_by(pooled)} times coarser in the last: "
        f"each axis is halved while {LEAST_MAP} voxels are left, a coarse one later; wide as a {device.upper()} bears",
        f"batch {batch}: {'as asked' if batch_size else _why_batch(device)}",
    ]
    return replace(found, reasons=tuple(reasons))


def trained(chosen: Plan, mirror_axes: tuple[int, ...], *, has_network: bool) -> Plan:
    """A plan with what a run makes of it, so that its reasons tell of nothing else.

    Args:
        chosen: the plan.
        mirror_axes: along which the run mirrors its windows, 0 (depth) to 2 (width).
        has_network: whether it trains the network of the plan.
    """
    reasons = [reason for reason in chosen.reasons if has_network or _STAGES not in reason]
    if mirror_axes != chosen.spec.mirror_axes:
        told = f"{_mirrored(mirror_axes)}, as distort.flip says"
        reasons = [told if reason.startswith(_MIRRORED) else reason for reason in reasons]
    return replace(chosen, spec=replace(chosen.spec, mirror_axes=mirror_axes), reasons=tuple(reasons))


def intensity_of(text: str) -> Intensity:
    """What a command line says of values: `z_score`, `window -160 240`, `percentile 0.5 99.5`.

    Raises:
        ValueError: it says something else.
    """
    try:
        kind, *ends = text.split() or [""]
        if kind not in get_args(Kind):
            raise ValueError(f"there is {', '.join(get_args(Kind))}")
        found = Intensity(cast(Any, kind), *map(float, ends))
        if len(ends) != (0 if kind == "z_score" else 2):
            raise ValueError("its two ends are to follow" if kind != "z_score" else "nothing is to follow it")
        check_intensity(found)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f'intensity {text!r}: {error}; give "z_score", "window -160 240" or "percentile 0.5 99.5"'
        ) from None
    return found


def write(chosen: Plan, path: str | os.PathLike) -> None:
    """Write a plan as json, for a reader and for `read`."""
    held = {
        "reasons": chosen.reasons, "batch_size": chosen.batch_size, "channels": chosen.channels,
        "strides": chosen.strides, "spec": chosen.spec.to_dict(),
    }  # fmt: skip
    with aside(Path(path)) as made:
        made.write_text(json.dumps(held, indent=2) + "\n", encoding="utf-8")


def read(path: str | os.PathLike) -> Plan:
    """The plan that `write` wrote.

    Raises:
        ValueError: there is none.
    """
    try:
        held = json.loads(Path(path).read_text(encoding="utf-8"))
        spec = ClipSpec.from_dict(held["spec"])
        strides = tuple((t, h, w) for t, h, w in held["strides"])
        return Plan(spec, tuple(held["channels"]), strides, held["batch_size"], tuple(held["reasons"]))
    except FileNotFoundError:
        raise ValueError(f"plan {path}: no such file; leave it out, and the scans are looked at anew") from None
    except IsADirectoryError:
        raise ValueError(f"plan {path}: a folder; give the file plan.json that lies in the folder of a run") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"plan {path}: damaged ({error!r}); leave it out, and the scans are looked at anew") from None


def _what(seen: Look) -> str:
    sizes = _ends(_by(seen.sizes.min(0).tolist()), _by(seen.sizes.max(0).tolist()))
    lengths = _ends(_mm(seen.spacings.min(0)), _mm(seen.spacings.max(0)))
    told = f"{terminal.counted(seen.num_scans, 'scan')} looked at: {sizes} voxels of {lengths}"
    if seen.unoriented:
        told += f", {seen.unoriented} of them turned to {ORIENTATION}"
    if seen.voxels:
        total = sum(seen.voxels.values())
        shares = ", ".join(f"{100 * count / total:.2g} %" for count in seen.voxels.values())
        told += f"; classes have {shares} of the voxels"
    return told


def _mirrored(axes: Sequence[int]) -> str:
    return _MIRRORED + (", ".join(AXES[axis] for axis in axes) or "no axis")


def _mirrors(seen: Look, axes: Sequence[int]) -> str:
    told = _mirrored(axes)
    for axis, (first, second) in seen.ordered.items():
        told += f"; {first} and {second} lie in one order along {AXES[axis]}"
    return told


def _spacing(seen: Look) -> tuple[Size, str]:
    """The median, and of an axis much coarser than the others a fine one, so that no scan loses much there."""
    target = np.median(seen.spacings, 0)
    axis = int(np.argmax(target))
    others = np.delete(target, axis)
    median = np.median(seen.sizes, 0)
    if target[axis] > ANISOTROPIC * others.max() and median[axis] * ANISOTROPIC < np.delete(median, axis).min():
        target[axis] = max(others.max(), np.percentile(seen.spacings[:, axis], RARE))
        return _size(target), f"the median, and of the coarse axis the finest {RARE} %"
    return _size(target), "the median of the scans"


def _values(seen: Look, asked: Intensity | None) -> tuple[Intensity, tuple[float, ...], tuple[float, ...], str]:
    """How values become those that the network takes; mean and deviation of what comes out, by channel."""
    if asked is None and (seen.ranges[:, 0] > IS_CT).any():
        asked, why = Intensity("z_score"), "no CT, whose values mean the same in every scan"
    elif asked is None:
        low, high = np.percentile(np.concatenate(seen.values), CUT)
        if low < high:
            asked = Intensity("window", float(low), float(high))
            why = f"CT, as values below {IS_CT:g} tell; {CUT[0]:g} % to {CUT[1]:g} % of the foreground lie below"
        else:
            asked, why = Intensity("z_score"), f"CT whose foreground is {low:g} throughout: no window of its values"
    else:
        why = "as asked"
    if asked.kind == "z_score":
        return asked, (0.0,) * seen.channels, (1.0,) * seen.channels, why
    if asked.kind == "percentile":
        return asked, (0.5,) * seen.channels, (0.25,) * seen.channels, why
    scaled = [(np.clip(each, asked.low, asked.high) - asked.low) / (asked.high - asked.low) for each in seen.values]
    return (
        asked,
        tuple(float(each.mean()) for each in scaled),
        tuple(max(1e-3, float(each.std())) for each in scaled),
        why,
    )


def _window(median: np.ndarray, most: int) -> tuple[Triple, str]:
    """The median scan, or as much of its longer sides as a window may have."""
    sides = median.copy()
    while sides.prod() > most:
        sides[np.argmax(sides)] -= 1
    why = "the median scan" if (sides == median).all() else f"of the median scan as much as some {most:,} voxels"
    return cast(Triple, tuple(sides.tolist())), f"{why}, rounded up to what can be halved"


def _strides(sides: Sequence[int], spacing: Sequence[float]) -> tuple[Triple, ...]:
    """Of each stage: axes are halved while enough is left of them, not yet those with voxels twice as long."""
    left, length = np.array(sides, dtype=float), np.array(spacing, dtype=float)
    strides: list[Triple] = [(1, 1, 1)]
    while len(strides) <= MOST_POOLED:
        may = left / 2 >= LEAST_MAP
        if not may.any() and len(strides) == 1:
            may = left / 2 >= LEAST_TINY
        if not may.any():
            break
        may &= length < 2 * length[may].min()
        strides.append(cast(Triple, tuple(np.where(may, 2, 1).tolist())))
        left, length = np.where(may, np.ceil(left / 2), left), np.where(may, 2 * length, length)
    return tuple(strides)


def _batch(sides: Sequence[int], total: int, device: str) -> int:
    """Windows of a step."""
    if device == "cpu":
        return LEAST_BATCH
    return int(np.clip(SHARE * total / np.prod(sides), LEAST_BATCH, MOST_BATCH))


def _why_batch(device: str) -> str:
    if device == "cpu":
        return "the least, since on a CPU a larger one takes as much longer, and smaller steps are more"
    return f"at least {LEAST_BATCH} windows, at most {SHARE:.0%} of all voxels"


def _ends(least: str, most: str) -> str:
    return least if least == most else f"{least} to {most}"


def _size(values: np.ndarray) -> Size:
    depth, height, width = (float(value) for value in islice(values, 3))
    return depth, height, width


def _mm(values: Sequence[float] | np.ndarray) -> str:
    return "x".join(f"{value:.3g}" for value in values) + " mm"


def _by(values: Sequence[int]) -> str:
    return "x".join(map(str, values))
