"""Pictures of a run: training curves, confusion, calibration, clips, timelines and the motion audit, each a PNG file.

Figures are built with matplotlib's objects and never with pyplot, so no display is needed and no state is
shared between calls. Colours are Okabe and Ito's, which colour-blind readers can tell apart (Color Universal
Design, 2008); good and bad are told by a mark as well as by blue and vermilion.
"""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from . import machine

if TYPE_CHECKING:
    from types import ModuleType

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from PIL.ImageFont import FreeTypeFont

__all__ = ["annotate", "audit", "clips", "confusion", "curves", "reliability", "slices", "strip", "swarm", "timeline"]

INK, FAINT, GRID, OTHER = "#24292f", "#6e7781", "#e6e8eb", "#b4b9c0"
BLUE, VERMILION, PALE_BLUE = "#0072b2", "#d55e00", "#9ccbe6"
CLASS_COLOURS = (BLUE, "#e69f00", "#009e73", "#cc79a7", "#56b4e9", VERMILION, "#8c6d46", "#4b3f72")

Point = tuple[float, float]  # an epoch and a value
Band = tuple[float, float, str]  # start and end in seconds, class name

DOTS_PER_INCH = 150
MOST_CELLS_WITH_NUMBERS = 20  # classes; beyond it a count no longer fits its cell
MOST_CLASS_LABELS = 60  # per axis of a confusion matrix; beyond it every n-th class is named
BEST = ("_auc", "_top1", "_map", "_frame_accuracy", "_dice")  # figures by which an epoch is the best
SMALLEST_LETTERS = 8.0  # pixels; smaller letters cannot be read, so longer lines lose their middle instead
FILL = 0.45  # how much of a mask's colour covers the grey below it
DARKEN = 0.65  # leaves white text a contrast of at least 7 to 1 on a white frame


def curves(history: Sequence[Mapping[str, float]], path: str | Path) -> Path:
    """Draw the losses (left) and accuracies or Dice in % (right) of a training run, with its best epoch marked.

    Args:
        history: one row per epoch. Keys ending in `_loss` are losses, keys ending in `_auc`, `_top1`, `_top5`,
            `_map`, `_frame_accuracy`, `_dice`, `_edit` or `_f1_50` are accuracies as fractions 0..1; `epoch` numbers
            the row (its position when missing). A row may lack any key; a panel with nothing to show is left out.
        path: the PNG file to write.

    The best epoch has the highest `val_auc`, else `val_top1`, `val_map`, `val_frame_accuracy` or `val_dice`, or the
    lowest `val_loss` where none of these was measured.

    Raises:
        ValueError: no row has a loss or an accuracy.
    """
    losses = _series(history, ("_loss",), factor=1)
    accuracies = _series(history, (*BEST, "_top5", "_edit", "_f1_50"), factor=100)
    share = "Dice (%)" if all(name.endswith("_dice") for name in accuracies) else "accuracy (%)"
    panels = [(label, lines) for label, lines in (("loss", losses), (share, accuracies)) if lines]
    if not panels:
        raise ValueError(
            f"history has {len(history)} rows and no loss or accuracy in them; "
            "rows need keys such as train_loss, val_loss or val_top1"
        )
    figure = _figure(4.8 * len(panels), 3.6)
    best = _best_point(losses, accuracies)
    for axes, (label, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_history(axes, lines, best)
        axes.set_ylabel(label)
        if lines is accuracies:
            axes.set(ylim=(-2, 104), yticks=range(0, 101, 20))
    return _save(figure, path)


def confusion(matrix: Tensor, classes: Sequence[str], path: str | Path) -> Path:
    """Draw a confusion matrix: each row coloured by the fraction of its target class, top-1 in the title.

    Cells carry their counts for up to 20 classes (zeros stay blank); beyond 60 classes every n-th is named.

    Args:
        matrix: (K, K) counts, rows = target, columns = predicted.
        classes: the K class names.
        path: the PNG file to write.

    Raises:
        ValueError: the matrix is not (K, K) for K class names, or counts nothing.
    """
    counts = matrix.detach().double().cpu()
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(f"matrix is {tuple(counts.shape)} but there are {len(classes)} classes; it must be (K, K)")
    if counts.sum() <= 0:
        raise ValueError("the confusion matrix counts nothing: every cell is 0")
    fractions = counts / counts.sum(1, keepdim=True).clamp(min=1)
    side = min(max(2.6 + 0.42 * len(classes), 4.5), 10.0)
    figure = _figure(side + 1.2, side)
    axes = figure.subplots()
    shades = _matplotlib().colors.PowerNorm(0.5, vmin=0, vmax=100)  # so that rare mistakes can be seen
    image = axes.imshow(fractions.numpy() * 100, cmap="Blues", norm=shades, interpolation="nearest")
    _name_classes(axes, classes)
    if len(classes) <= MOST_CELLS_WITH_NUMBERS:
        _write_counts(axes, counts, fractions)
    bar = figure.colorbar(image, cax=axes.inset_axes((1.02, 0, 0.03, 1)), ticks=[0, 5, 20, 50, 100])
    bar.set_label("share of the target class (%)", color=FAINT, fontsize=9)
    bar.ax.tick_params(colors=FAINT, labelsize=8, length=0)
    bar.outline.set_visible(False)
    top1 = counts.trace() / counts.sum()
    axes.set_title(f"top-1 {top1:.1%} of {int(counts.sum()):,}".replace("%", " %"), color=INK, fontsize=12, loc="left")
    return _save(figure, path)


def reliability(bins: Sequence[Mapping[str, float]], path: str | Path) -> Path:
    """Draw how many answers are right over their score, the line of honest scores, and below it how many answers.

    Args:
        bins: a row for each bin of scores that has answers: `samples`, and their mean `score` and `accuracy`, 0..1
            (Guo et al. 2017, arXiv 1706.04599, figure 1).
        path: the PNG file to write.

    Raises:
        ValueError: there is no bin.
    """
    if not bins:
        raise ValueError("bins is empty; the picture needs at least one")
    scores, rights = ([100 * row[name] for row in bins] for name in ("score", "accuracy"))
    counts = [row["samples"] for row in bins]
    figure = _figure(5.2, 5.2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _style(upper, grid="y").plot([0, 100], [0, 100], color=FAINT, linewidth=1.2, linestyle=(0, (4, 2)), label="honest")
    upper.vlines(scores, scores, rights, color=VERMILION, linewidth=1.6, label="gap")
    upper.plot(scores, rights, "o-", color=BLUE, linewidth=1.2, markersize=5, label="accuracy")
    upper.set(ylabel="right (%)", ylim=(-3, 104), yticks=range(0, 101, 20))
    upper.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=9, labelcolor=INK)
    bars = _style(lower, grid="y").bar(scores, counts, width=4.5, color=PALE_BLUE)
    lower.bar_label(bars, [f"{count:,.0f}" for count in counts], color=INK, fontsize=7, padding=2)
    lower.set(xlabel="score of the answer (%)", ylabel="answers", xlim=(-3, 103), xticks=range(0, 101, 20))
    lower.margins(y=0.2)
    lower.locator_params(axis="y", nbins=3, integer=True)
    return _save(figure, path)


def strip(clip: Tensor, path: str | Path, *, num: int = 8, caption: str = "", good: bool | None = None) -> Path:
    """Draw evenly spaced frames of a clip side by side, their frame numbers below and a caption above.

    Args:
        clip: uint8 (3, T, H, W).
        path: the PNG file to write.
        num: how many frames to show; all T of them when the clip is shorter.
        caption: e.g. `"true: left   predicted: left 98 %"`; long captions wrap.
        good: True colours the caption blue with a tick, False vermilion with a cross, None leaves it plain.

    Raises:
        ValueError: the clip is not uint8 (3, T, H, W) or `num` is below 1.
    """
    chosen = _spread(clip, num)
    num = len(chosen)
    mark, colour = {True: ("✓  ", BLUE), False: ("✗  ", VERMILION), None: ("", INK)}[good]
    frame_width = 1.35 if num > 1 else 3.0
    width = max(frame_width * num, 3.0)
    lines = textwrap.wrap(mark + caption, int(width * 12), drop_whitespace=False) if caption else []
    height = frame_width * clip.shape[2] / clip.shape[3] + 0.24 + 0.2 * len(lines)
    figure = _figure(width, height)
    for axes, index in zip(figure.subplots(1, num, squeeze=False)[0], chosen, strict=True):
        axes.imshow(clip[:, index].permute(1, 2, 0).cpu().numpy())
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_xlabel(f"frame {index}", color=FAINT, fontsize=8)
    if lines:
        figure.suptitle(_plain("\n".join(lines)), x=0.01, ha="left", color=colour, fontsize=10)
    return _save(figure, path)


def clips(rows: Mapping[str, Sequence[Tensor]], path: str | Path, *, num: int = 4) -> Path:
    """Draw clips as strips, side by side and row under row: what training sees of one video after another, say.

    Args:
        rows: clips uint8 (3, T, H, W) from left to right, by the name of the row.
        path: the PNG file to write.
        num: how many evenly spaced frames of each clip to show; all T of them when it is shorter.

    Raises:
        ValueError: there is no clip, one is not uint8 (3, T, H, W), or `num` is below 1.
    """
    columns = max((len(row) for row in rows.values()), default=0)
    if columns == 0:
        raise ValueError(f"rows {list(rows)} hold no clip; give at least one")
    strips = {name: [_side_by_side(clip[:, _spread(clip, num)]) for clip in row] for name, row in rows.items()}
    tallest = max(strip.shape[1] / strip.shape[2] for row in strips.values() for strip in row)
    figure = _figure(3.2 * columns, (3.2 * tallest + 0.1) * len(rows))
    for axes, (name, row) in zip(figure.subplots(len(rows), columns, squeeze=False), strips.items(), strict=True):
        axes[0].set_ylabel(_label(name), color=FAINT, fontsize=8)
        for each in axes:
            each.set(xticks=[], yticks=[])
            each.spines[:].set_visible(False)
        for each, strip in zip(axes, row, strict=False):
            each.imshow(strip.permute(1, 2, 0).cpu().numpy())
    return _save(figure, path)


def slices(
    scan: np.ndarray,
    masks: Mapping[str, np.ndarray],
    classes: Sequence[str],
    path: str | Path,
    *,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    num: int = 6,
    caption: str = "",
) -> Path:
    """Draw slices of a scan with masks on them: the first mask filled, so that grey shows through, the others outlined.

    Slices lie evenly between the first and the last in which a mask has a class: the first mask that has any, so that
    stray voxels of an answer do not push them outward. Without one they lie over the whole scan. Pixels have the
    proportions of the voxels, and grey runs from the 1st to the 99th percentile of these slices. Classes that none of
    them has are not named.

    Args:
        scan: (D, H, W), one channel.
        masks: (D, H, W) whole numbers by name, such as truth and answer.
        classes: K names, the background first, which is not drawn.
        path: the PNG file to write.
        spacing_mm: (depth, height, width) of a voxel.
        num: how many slices at most.
        caption: above; long ones wrap.

    Raises:
        ValueError: a mask has another shape than the scan, or `num` is below 1.
    """
    for name, mask in masks.items():
        if mask.shape != scan.shape:
            raise ValueError(f"{name} is {mask.shape} and the scan {scan.shape}: give masks of the scan")
    if num < 1:
        raise ValueError(f"num {num} must be at least 1")
    chosen = _middles(masks.values(), len(scan), num)
    seen = set().union(*(np.unique(mask[chosen]).tolist() for mask in masks.values()))
    palette = _palette(len(classes) - 1)
    colours = {k: palette[k - 1] for k in range(1, len(classes)) if k in seen}
    styles = dict(zip(list(masks)[1:], ("-", "--", ":", "-."), strict=False))
    keys = _mask_keys({_label(classes[k]): colour for k, colour in colours.items()}, next(iter(masks), None), styles)

    ratio = scan.shape[1] * spacing_mm[1] / (scan.shape[2] * spacing_mm[2])
    side = min(3.0, 12 / len(chosen), 4.5 / ratio)
    width = max(3.0, side * len(chosen))
    columns = max(1, int(width / (0.5 + 0.065 * max((len(str(key.get_label())) for key in keys), default=1))))
    lines = textwrap.wrap(caption, int(width * 12))
    height = side * ratio + 0.3 + 0.21 * len(lines) + 0.21 * math.ceil(len(keys) / columns)
    figure = _figure(width, height)
    low, high = np.percentile(scan[chosen], (1, 99))
    for axes, index in zip(figure.subplots(1, len(chosen), squeeze=False)[0], chosen, strict=True):
        axes.imshow(scan[index], cmap="gray", vmin=low, vmax=high, aspect=spacing_mm[1] / spacing_mm[2])
        _draw_masks(axes, {name: mask[index] for name, mask in masks.items()}, colours, styles)
        axes.set(xticks=[], yticks=[], xlim=(-0.5, scan.shape[2] - 0.5), ylim=(scan.shape[1] - 0.5, -0.5))
        axes.spines[:].set_visible(False)
        axes.set_xlabel(f"slice {index}", color=FAINT, fontsize=8)
    if keys:
        figure.legend(
            handles=keys,
            loc="outside lower left",
            ncols=columns,
            frameon=False,
            fontsize=8,
            labelcolor=INK,
            handlelength=1.6,
        )
    if lines:
        figure.suptitle(_plain("\n".join(lines)), x=0.01, ha="left", color=INK, fontsize=10)
    return _save(figure, path)


def swarm(
    shares: Mapping[str, Sequence[float]],
    path: str | Path,
    *,
    name: str,
    missed: Mapping[str, Sequence[bool]] | None = None,
) -> Path:
    """Draw a figure of every case as a dot, in % and in a row for each class, with the mean of the row.

    Dots of nearly one value stand above one another. The axis begins at the ten below the least of them.

    Args:
        shares: fractions 0..1 of the cases by class; those that are nan are left out.
        path: the PNG file to write.
        name: of the figure, such as Dice.
        missed: of each of them, whether the class is in the truth or in the answer alone, which makes it a cross.

    Raises:
        ValueError: there is no case, or a value is outside 0..1.
    """
    rows = {key: 100 * np.asarray(values, dtype=float) for key, values in shares.items()}
    every = np.concatenate([*rows.values(), np.zeros(0)])
    every = every[~np.isnan(every)]
    if not len(every):
        raise ValueError("shares hold no number; the picture needs at least one case")
    if every.min() < 0 or every.max() > 100:
        raise ValueError(f"shares run from {every.min() / 100:g} to {every.max() / 100:g}; they are fractions 0..1")
    least = min(90, 10 * math.floor(every.min() / 10))
    pitch = min(0.6, max(0.3, 12 / len(rows)))
    figure = _figure(7.5, 0.9 + pitch * len(rows))
    axes = _style(figure.subplots(), grid="x")
    for row, ((key, values), colour) in enumerate(zip(rows.items(), _palette(len(rows)), strict=True)):
        is_missed = np.asarray((missed or {}).get(key, np.zeros(len(values))), dtype=bool)
        places = row + _apart(values, (100 - least) / 90)
        for is_drawn, style in ((~is_missed, {"marker": "o"}), (is_missed, {"marker": "x", "linewidths": 1.4})):
            paint = VERMILION if style["marker"] == "x" else colour
            axes.scatter(values[is_drawn], places[is_drawn], s=20, color=paint, alpha=0.75, clip_on=False, **style)
        if not np.isnan(values).all():
            mean = np.nanmean(values)
            axes.vlines(mean, row - 0.4, row + 0.4, color=INK, linewidth=1.6, zorder=3)
            axes.text(
                1.02, row, f"{mean:.1f} %", transform=axes.get_yaxis_transform(), va="center", color=INK, fontsize=9
            )
    handles = [axes.plot([], [], "|", color=INK, markersize=9, markeredgewidth=1.6, label="mean of the class")[0]]
    if missed and any(map(any, missed.values())):
        told = "missed: in the truth or the answer alone"
        handles.append(axes.plot([], [], "x", color=VERMILION, markersize=5, label=told)[0])
    figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False, fontsize=8, labelcolor=INK)
    axes.set_yticks(range(len(rows)), [_label(key) for key in rows], color=INK)
    axes.set(xlim=(least - 0.01 * (100 - least), 100), ylim=(len(rows) - 0.5, -0.5), xlabel=f"{name} of a case (%)")
    axes.locator_params(axis="x", steps=(1, 2, 5, 10), integer=True)
    return _save(figure, path)


def timeline(
    times: Tensor,
    scores: Tensor,
    classes: Sequence[str],
    path: str | Path,
    *,
    truth: Sequence[tuple[float, float, str]] | None = None,
) -> Path:
    """Draw what a long video shows and when: the top class as coloured bands, and the scores below.

    Where windows overlap, each owns the time nearest to its middle. Classes are coloured in the order of the
    time they are on top; from the ninth on they are grey and have no curve.

    Args:
        times: (N, 2) start and end of each window in seconds, sorted by start.
        scores: (N, K) in 0..1.
        classes: the K class names.
        path: the PNG file to write.
        truth: rows (start_s, end_s, class name), sorted by start, drawn as a band above.

    Raises:
        ValueError: shapes disagree, or a start is not before its end or is out of order.
    """
    spans, scores = times.detach().double().cpu(), scores.detach().double().cpu()
    if spans.ndim != 2 or len(spans) == 0 or spans.shape[1] != 2 or scores.shape != (len(spans), len(classes)):
        raise ValueError(
            f"times {tuple(spans.shape)} and scores {tuple(scores.shape)} must be (N, 2) and (N, K) "
            f"with N >= 1 and K = {len(classes)} classes"
        )
    known = list(truth or ())
    _check_sorted("times", spans.tolist())
    _check_sorted("truth", [row[:2] for row in known])
    found = [(start, end, classes[top]) for start, end, top in _owned(spans, scores.argmax(1).tolist())]
    colours = _class_colours(found, known)
    curve_colours = {classes.index(name): colours[name] for _, _, name in found if name in colours}
    figure = _figure(10, 3.9 if known else 3.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.7 if known else 1, 5))
    _draw_bands(upper, {"found": found, "truth": known} if known else {"found": found}, colours)
    _draw_scores(lower, spans.mean(1), scores, curve_colours)
    _time_axis(lower, [*spans.flatten().tolist(), *(second for row in known for second in row[:2])])
    _key(figure, colours, has_others=any(name not in colours for _, _, name in found + known))
    return _save(figure, path)


def annotate(frame: Tensor, lines: Sequence[str]) -> Tensor:
    """Write lines of text into the upper left corner of a frame, white on a darkened strip.

    Letters are 1/24 of the frame's height and shrink until the longest line fits; a line that does
    not fit at the smallest legible size loses its middle, and lines below the lower edge are left out.

    Args:
        frame: uint8 (3, H, W); it is not changed.
        lines: e.g. `["left 98 %", "12.3 s"]`.

    Returns:
        uint8 (3, H, W), equal to the frame outside the strip.

    Raises:
        ValueError: the frame is not uint8 (3, H, W).
    """
    if frame.dtype != torch.uint8 or frame.ndim != 3 or frame.shape[0] != 3:
        raise ValueError(f"frame must be uint8 (3, H, W), not {frame.dtype} {tuple(frame.shape)}")
    result = frame.clone()
    if not lines:
        return result
    ink = _text_mask(tuple(" ".join(line.split()) for line in lines), frame.shape[1], frame.shape[2]).to(frame.device)
    corner = result[:, : ink.shape[0], : ink.shape[1]]
    dark = corner * (1 - DARKEN)
    corner.copy_((dark + (255 - dark) * ink).round())
    return result


def audit(accuracies: Mapping[str, float], chance: float, path: str | Path) -> Path:
    """Draw the accuracies of a motion audit as bars in %, with the chance level as a line.

    A network that looks at motion loses accuracy when the frames are reversed, shuffled or frozen. Reversed, it may
    fall below chance, as on `motion`, where a clip played backwards shows another class.

    Args:
        accuracies: fractions 0..1 by name, the reference first:
            `{"as is": 0.98, "reversed": 0.1, "shuffled": 0.2, "single frame": 0.13}`.
        chance: the accuracy of guessing, 0..1.
        path: the PNG file to write.

    Raises:
        ValueError: there are no accuracies, or a value is outside 0..1.
    """
    if not accuracies:
        raise ValueError("accuracies is empty; the audit needs at least one")
    for name, value in {**accuracies, "chance": chance}.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; accuracies are fractions 0..1")
    percents = [100 * value for value in accuracies.values()]
    figure = _figure(6.4, 1.3 + 0.6 * len(percents))
    axes = _style(figure.subplots(), grid="x")
    rows = range(len(percents))
    clear = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # where the line crosses a number
    axes.barh(rows, percents, height=0.62, color=[BLUE, *[PALE_BLUE] * (len(percents) - 1)], zorder=2)
    for row, percent in zip(rows, percents, strict=True):
        axes.text(percent + 1, row, f"{percent:.1f} %", va="center", color=INK, fontsize=9, zorder=4, bbox=clear)
    axes.axvline(100 * chance, color=VERMILION, linewidth=1.4, linestyle=(0, (4, 2)), zorder=3)
    axes.text(
        100 * chance,
        -0.62,
        f"chance {chance:.1%}".replace("%", " %"),
        color=VERMILION,
        fontsize=9,
        ha="center",
    )
    axes.set_yticks(rows, [_label(name) for name in accuracies], color=INK)
    axes.set(xlim=(0, 112), ylim=(len(percents) - 0.45, -0.5), xlabel="accuracy (%)", xticks=range(0, 101, 20))
    return _save(figure, path)


# Drawing on axes


def _draw_history(axes: Axes, lines: Mapping[str, list[Point]], best: tuple[str, Point] | None) -> None:
    """Draw one panel of `curves`: training in pale blue, validation in blue, top-5 dashed."""
    _style(axes, grid="y")
    for name, points in lines.items():
        axes.plot(
            *zip(*points, strict=True),
            color=PALE_BLUE if name.startswith("train") else BLUE,
            linestyle=(0, (3, 1.5)) if name.endswith("_top5") else "-",
            linewidth=1.8,
            marker="o" if len(points) == 1 else None,
            label=name.replace("_top", " top-").replace("_", " "),
        )
    if best is not None:
        name, (epoch, value) = best
        axes.axvline(epoch, color=FAINT, linewidth=1, linestyle=(0, (1, 2)), zorder=0)
        if name in lines:
            amount = f"{value:.4g}" if name.endswith("_loss") else f"{value:.1f} %"
            axes.plot(epoch, value, "o", color=INK, markersize=5, label=f"best: {amount} (epoch {epoch:g})")
    epochs = [epoch for points in lines.values() for epoch, _ in points]
    axes.set(xlabel="epoch", xlim=(min(epochs) - 0.5, max(epochs) + 0.5))
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=3,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        borderaxespad=0,
        columnspacing=1.2,
        handlelength=1.4,
    )


def _draw_masks(
    axes: Axes, masks: Mapping[str, np.ndarray], colours: Mapping[int, str], styles: Mapping[str, str]
) -> None:
    """Fill the classes of the mask (H, W) that has no line style, and outline those of the others."""
    to_rgba = _matplotlib().colors.to_rgba
    for name, mask in masks.items():
        if name not in styles:
            paint = np.zeros((*mask.shape, 4))
            for label, colour in colours.items():
                paint[mask == label] = to_rgba(colour, FILL)
            axes.imshow(paint, aspect=axes.get_aspect())
            continue
        at = range(-1, mask.shape[1] + 1), range(-1, mask.shape[0] + 1)
        for label, colour in colours.items():
            framed = np.pad(mask == label, 1)  # so that outlines close at the edge of the scan
            if framed.any():
                axes.contour(*at, framed, [0.5], colors=[colour], linewidths=1.3, linestyles=styles[name])


def _mask_keys(classes: Mapping[str, str], filled: str | None, styles: Mapping[str, str]) -> list[Patch]:
    """Keys of the classes by their colours, and of the masks by how they are drawn."""
    patch = _matplotlib().patches.Patch
    keys = [patch(color=colour, label=name) for name, colour in classes.items()]
    if filled is not None:
        keys.append(patch(facecolor=INK, alpha=FILL, label=_label(filled)))
    outlined = styles.items()
    return keys + [patch(fill=False, edgecolor=INK, linestyle=style, label=_label(name)) for name, style in outlined]


def _name_classes(axes: Axes, classes: Sequence[str]) -> None:
    """Name every class on both axes of a confusion matrix, or every n-th where all would not be legible."""
    step = math.ceil(len(classes) / MOST_CLASS_LABELS)
    ticks = range(0, len(classes), step)
    names = [_label(classes[tick], 24) for tick in ticks]
    size = 9 if len(ticks) <= MOST_CELLS_WITH_NUMBERS else 7
    axes.set_yticks(ticks, names, fontsize=size, color=INK)
    axes.set_xticks(ticks, names, fontsize=size, color=INK)
    if len(ticks) > MOST_CELLS_WITH_NUMBERS:
        axes.tick_params(axis="x", labelrotation=90)
    elif max(map(len, names)) * len(names) > 60:  # letters side by side under the matrix
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    every = "" if step == 1 else f" (one class in {step} is named)"
    axes.set_xlabel("predicted" + every, color=FAINT, fontsize=9)
    axes.set_ylabel("target", color=FAINT, fontsize=9)
    axes.tick_params(length=0 if step == 1 else 2, color=FAINT)
    axes.spines[:].set_color(GRID)


def _write_counts(axes: Axes, counts: Tensor, fractions: Tensor) -> None:
    """Write each count that is not zero into its cell, white on the dark ones."""
    size = 9 if counts.max() < 1000 else 7
    for row, column in counts.nonzero().tolist():
        colour = "white" if fractions[row, column] > 0.45 else INK
        text = f"{counts[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)


def _draw_bands(axes: Axes, rows: Mapping[str, list[Band]], colours: Mapping[str, str]) -> None:
    """Draw one row of coloured bands for each entry of `rows`, the last entry uppermost."""
    for height, bands in enumerate(rows.values()):
        for start, end, name in bands:
            axes.broken_barh([(start, end - start)], (height - 0.36, 0.72), color=colours.get(name, OTHER), linewidth=0)
    axes.set_yticks(range(len(rows)), list(rows), color=INK, fontsize=9)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelbottom=False)


def _draw_scores(axes: Axes, middles: Tensor, scores: Tensor, colours: Mapping[int, str]) -> None:
    """Draw the score of each class in `colours` over the middles of the windows."""
    _style(axes, grid="y")
    for index, colour in colours.items():
        marker = "o" if len(middles) == 1 else None
        axes.plot(middles.numpy(), 100 * scores[:, index].numpy(), color=colour, linewidth=1.6, marker=marker)
    axes.set(ylim=(0, 104), ylabel="score (%)", yticks=range(0, 101, 25))


def _time_axis(axes: Axes, seconds: Sequence[float]) -> None:
    """Limit the axis to `seconds` and count it in seconds, or in minutes:seconds from two minutes on."""
    start, end = min(seconds), max(seconds)
    axes.set_xlim(start, end)
    axes.set_xlabel("time (s)")
    if end < 120:
        return
    steps = (10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
    step = next((step for step in steps if end - start <= 10 * step), 3600 * math.ceil((end - start) / 36000))
    axes.xaxis.set_major_locator(_matplotlib().ticker.MultipleLocator(step))
    axes.xaxis.set_major_formatter(lambda second, _: f"{second // 60:.0f}:{second % 60:02.0f}")
    axes.set_xlabel("time (min:s)")


def _key(figure: Figure, colours: Mapping[str, str], *, has_others: bool) -> None:
    """Tell which colour is which class, right of the axes."""
    entries = [(_label(name, 22), colour) for name, colour in colours.items()]
    if has_others:
        entries.append(("other classes", OTHER))
    labels = [label for label, _ in entries]
    patches = [_matplotlib().patches.Patch(color=colour) for _, colour in entries]
    figure.legend(
        patches,
        labels,
        loc="outside right upper",
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=0.9,
        handleheight=0.9,
    )


# Numbers behind the drawings


def _spread(clip: Tensor, num: int) -> list[int]:
    """Return the indices of `num` evenly spaced frames of a clip, or of all when it has fewer."""
    if clip.dtype != torch.uint8 or clip.ndim != 4 or clip.shape[0] != 3 or 0 in clip.shape:
        raise ValueError(f"clip must be uint8 (3, T, H, W), not {clip.dtype} {tuple(clip.shape)}")
    if num < 1:
        raise ValueError(f"num is {num}; a strip shows at least 1 frame")
    return torch.linspace(0, clip.shape[1] - 1, min(num, clip.shape[1])).round().long().tolist()


def _middles(masks: Iterable[np.ndarray], depth: int, num: int) -> list[int]:
    """Slices in the middle of `num` equal parts of what the first mask (D, H, W) with any class spans."""
    full = next((full for mask in masks if len(full := np.flatnonzero(mask.any((1, 2))))), range(depth))
    first, span = int(full[0]), int(full[-1]) - int(full[0]) + 1
    return sorted({first + int(span * (i + 0.5) / num) for i in range(num)})


def _apart(values: np.ndarray, width: float) -> np.ndarray:
    """Offsets within -0.36..0.36 of dots, 0, 1, -1, 2, -2 ... steps for those within one width of values."""
    bins = np.floor(np.nan_to_num(values) / width)
    steps = np.zeros(len(values))
    for each in np.unique(bins):
        turns = np.arange((bins == each).sum())
        steps[bins == each] = (turns + 1) // 2 * np.where(turns % 2, 1, -1)
    return steps * min(0.09, 0.36 / max(1, np.abs(steps).max(initial=0)))


def _palette(num: int) -> list[str]:
    """Colours of `num` classes: of more than are told apart by name, hues a golden section apart."""
    if num <= len(CLASS_COLOURS):
        return list(CLASS_COLOURS[:num])
    colors = _matplotlib().colors
    hues = [(0.618034 * i % 1, (0.95, 0.6)[i % 2], (0.95, 0.75, 0.55)[i % 3]) for i in range(num)]
    return [colors.to_hex(colors.hsv_to_rgb(hue)) for hue in hues]


def _side_by_side(clip: Tensor) -> Tensor:
    """Return the frames (3, T, H, W) as one picture (3, H, W'), a white pixel between them."""
    return torch.nn.functional.pad(clip, (0, 1), value=255).transpose(1, 2).flatten(2)[..., :-1]


def _series(
    history: Sequence[Mapping[str, float]], endings: tuple[str, ...], *, factor: float
) -> dict[str, list[Point]]:
    """Return the (epoch, value times factor) points of each key with one of the endings, NaNs left out."""
    lines: dict[str, list[Point]] = {}
    for position, row in enumerate(history):
        for key, value in row.items():
            if key.endswith(endings) and math.isfinite(value):
                lines.setdefault(key, []).append((row.get("epoch", position), factor * value))
    return lines


def _best_point(losses: Mapping[str, list[Point]], accuracies: Mapping[str, list[Point]]) -> tuple[str, Point] | None:
    """Return the highest point of the first of `BEST` (of equal ones that of least val_loss), else of least loss."""
    if name := next((f"val{ending}" for ending in BEST if f"val{ending}" in accuracies), None):
        loss = dict(losses.get("val_loss", []))
        return name, max(accuracies[name], key=lambda point: (point[1], -loss.get(point[0], 0.0)))
    if "val_loss" in losses:
        return "val_loss", min(losses["val_loss"], key=lambda point: point[1])
    return None


def _check_sorted(name: str, spans: Sequence[Sequence[float]]) -> None:
    """Raise ValueError unless each span starts before it ends and none starts before its predecessor."""
    for start, end in spans:
        if not start < end:
            raise ValueError(f"{name} has a span from {start:g} s to {end:g} s; a start must be before its end")
    for (before, _), (start, _) in pairwise(spans):
        if start < before:
            raise ValueError(f"{name} has a start at {start:g} s after one at {before:g} s; sort them by start")


def _owned(spans: Tensor, tops: Sequence[int]) -> list[tuple[float, float, int]]:
    """Cut overlapping windows halfway between their middles and join neighbours with the same top class."""
    middles = spans.mean(1)
    cuts = (middles[1:] + middles[:-1]) / 2
    starts, ends = spans[:, 0].clone(), spans[:, 1].clone()
    starts[1:] = torch.maximum(starts[1:], cuts)
    ends[:-1] = torch.minimum(ends[:-1], cuts)
    runs: list[tuple[float, float, int]] = []
    for start, end, top in zip(starts.tolist(), ends.tolist(), tops, strict=True):
        if runs and runs[-1][2] == top and start - runs[-1][1] < 1e-6:
            runs[-1] = (runs[-1][0], end, top)
        else:
            runs.append((start, end, top))
    return runs


def _class_colours(found: Sequence[Band], known: Sequence[Band]) -> dict[str, str]:
    """Return the colours of the classes, longest on top first, then those only in the truth."""
    seconds: dict[str, float] = {}
    for start, end, name in found:
        seconds[name] = seconds.get(name, 0) + end - start
    ranked = sorted(seconds, key=lambda name: -seconds[name])
    names = dict.fromkeys([*ranked, *(name for _, _, name in known)])
    return dict(zip(names, CLASS_COLOURS, strict=False))


# Text


def _shorten(text: str, limit: int) -> str:
    """Put text on one line of at most `limit` letters; its end stays, since names often differ there."""
    text = " ".join(text.split())
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 2
    return text[: limit - 1 - tail] + "…" + text[len(text) - tail :]


def _plain(text: str) -> str:
    """Keep matplotlib from reading dollar signs as mathematics."""
    return text.replace("$", r"\$")


def _label(name: str, limit: int = 28) -> str:
    """Return a class name as matplotlib can show it."""
    return _plain(_shorten(name, limit))


@functools.lru_cache(maxsize=32)
def _font(size: float) -> FreeTypeFont:
    """Return the sans-serif font that comes with matplotlib, so a frame looks alike on every machine."""
    matplotlib = _matplotlib()
    with machine.needs("plot"):
        from PIL import ImageFont
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


@functools.lru_cache(maxsize=32)
def _text_mask(lines: tuple[str, ...], height: int, width: int) -> Tensor:
    """Return the strip that holds the lines in a frame of that size: (h, w), 1 where there is ink."""
    with machine.needs("plot"):
        from PIL import Image, ImageDraw
    size = max(height / 24, 10.0)
    room = width - size  # half a letter's height on either side
    longest = max(_font(size).getlength(line) for line in lines)
    if longest > room:
        size = max(size * room / longest, SMALLEST_LETTERS)
    font, pitch, margin = _font(size), math.ceil(1.3 * size), math.ceil(size / 2)
    shown = [_fit(line, font, width - 2 * margin) for line in lines[: max((height - margin) // pitch, 1)]]
    strip_width = min(math.ceil(max(map(font.getlength, shown))) + 2 * margin, width)
    image = Image.new("L", (strip_width, min(pitch * len(shown) + margin, height)))
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(shown):
        draw.text((margin, margin // 2 + row * pitch + pitch / 2), line, fill=255, font=font, anchor="lm")
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width) / 255


def _fit(line: str, font: FreeTypeFont, width: float) -> str:
    """Shorten a line until it is at most `width` pixels wide."""
    limit = len(line)
    while limit > 1 and font.getlength(_shorten(line, limit)) > width:
        limit -= 1
    return _shorten(line, limit)


# Figures


def _matplotlib() -> ModuleType:
    """Import the parts of matplotlib that are used here."""
    with machine.needs("plot"):
        import matplotlib.colors
        import matplotlib.figure
        import matplotlib.patches
        import matplotlib.ticker
    return matplotlib


def _figure(width: float, height: float) -> Figure:
    """Return a white figure of that size in inches that arranges itself."""
    return _matplotlib().figure.Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _style(axes: Axes, *, grid: Literal["x", "y"]) -> Axes:
    """Give axes the house look: no box, faint ticks and a faint grid across the values."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(OTHER)
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=FAINT, labelsize=9, pad=6)
    axes.xaxis.label.set(color=FAINT, fontsize=9)
    axes.yaxis.label.set(color=FAINT, fontsize=9)
    return axes


def _save(figure: Figure, path: str | Path) -> Path:
    """Write the figure as PNG, making its folder where missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight", pad_inches=0.1)
    return path
