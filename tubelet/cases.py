"""Masks measured case by case: what a network answers, or masks that are there already, beside what is true."""

from __future__ import annotations

import csv
import heapq
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from . import masks, metrics, plot, terminal
from .data.loader import SKIP, told
from .data.sample import Sample, VideoData
from .data.scans import check_labels
from .data.volume import Volume, VolumeError, read_mask, read_volume
from .losses import IGNORED
from .machine import aside, folder_for
from .segment import CHANNEL, Way, note_of, scans_of, segment, stem
from .spec import ClipSpec

__all__ = ["Answer", "measured", "of_masks", "of_network"]

WORST = 6  # cases that are drawn

Answer = Callable[[Sample], tuple[np.ndarray, Volume]]  # labels (D, H, W) on the scan's own grid, and the scan


@dataclass(frozen=True)
class _Case:
    """One scan: its name, figures (K - 1,) of the classes but the background, and voxels of these in truth."""

    name: str
    figures: dict[str, Tensor]
    voxels: list[int]

    @property
    def dice(self) -> float:
        """Mean of the classes that count; of a scan where none does, 1."""
        return self.figures["dice"].nanmean().nan_to_num(1.0).item()


def of_network(network: nn.Module, spec: ClipSpec, way: Way) -> Answer:
    """What a network answers."""

    def answer(sample: Sample) -> tuple[np.ndarray, Volume]:
        return segment(network, spec, [sample.path, *sample.more], way)

    return answer


def of_masks(folder: Path, num_classes: int) -> Answer:
    """Masks of a folder, such as `predict` writes, each under the name of its scan.

    Where masks lie in folders of the folder, their scans lie in folders of the same names.

    Args:
        folder: the masks.
        num_classes: of the data; labels are below it, or below the number of classes that `predict` noted there.

    Raises:
        VolumeError: no mask is there.
    """
    files: dict[str, list[Path]] = {}
    for (path,) in scans_of(folder, 1, has_labels=True):
        files.setdefault(stem(path), []).append(path)
    noted = note_of(folder).get("spec", {}).get("classes", ())
    of_scan: dict[Path, Path] = {}

    def answer(sample: Sample) -> tuple[np.ndarray, Volume]:
        path = _mask_of(sample.path, files, folder)
        if (other := of_scan.setdefault(path, sample.path)) != sample.path:
            raise VolumeError(f"{sample.path}: its mask {path} is that of {other} as well; keep them in folders")
        scan = read_volume([sample.path, *sample.more])
        mask = read_mask(path, scan.grid).array[0]
        check_labels(path, mask, max(num_classes, len(noted)))
        return mask, scan

    return answer


def _mask_of(scan: Path, files: dict[str, list[Path]], folder: Path) -> Path:
    name = stem(scan)
    where = scan.absolute().parent.parts
    for each in (name, CHANNEL.sub("", name)):
        homes = [(path.relative_to(folder).parent.parts, path) for path in files.get(each, ())]
        if fit := [(len(home), path) for home, path in homes if where[len(where) - len(home) :] == home]:
            return max(fit)[1]
    raise VolumeError(f"{scan}: no mask of this name in {folder}; make it (tubelet predict), or leave the scan out")


def measured(
    answer: Answer,
    found: VideoData,
    split: str,
    folder: Path,
    on_bad: Literal["raise", "skip"],
) -> tuple[dict[str, Any], list[dict[str, object]], dict[str, str]]:
    """Measure each case of a part; `cases.csv` and pictures of the worst, in `worst`, are left in the folder.

    Returns:
        Figures of the whole, a row for each class but the background, and what was bad and why.

    Raises:
        ValueError: a scan or a mask cannot be read, where `on_bad` is raise; or none can.
    """
    number = len(found.classes)
    cases: list[_Case] = []
    bad: dict[str, str] = {}
    with folder_for(folder), tempfile.TemporaryDirectory() as pictures:
        drawn: list[tuple[float, int, Path]] = []  # a heap, the best of the worst first
        for sample in terminal.progress(found.splits[split], f"evaluating {split}"):
            try:
                labels, scan = answer(sample)
                truth = _truth(sample, scan, found)
            except VolumeError as error:
                if on_bad == "raise":
                    raise VolumeError(f"{error} {SKIP}") from None
                bad[sample.name] = str(error)
                continue
            most = max(number, int(labels.max()) + 1)  # a class that the data does not name is wrong wherever it is
            pair = torch.from_numpy(labels), torch.from_numpy(truth)
            figures = {name: values[: number - 1] for name, values in masks.case(*pair, most, scan.spacing_mm).items()}
            counts = np.bincount(truth[truth > 0], minlength=number)[1:].tolist()
            case = _Case(sample.name, figures, counts)
            cases.append(case)
            _draw(case, len(cases), labels, truth, scan, found.classes, drawn, Path(pictures))
        if not cases:
            raise VolumeError(f"no scan of {split} can be measured, first {next(iter(bad.values()))}")
        worst = folder / "worst"
        worst.mkdir(exist_ok=True)
        for old in worst.glob("*.png"):
            old.unlink()
        for picture in Path(pictures).iterdir():
            shutil.copy(picture, worst)
    if bad:
        terminal.say(told(bad, len(found.splits[split])))
    names = found.classes[1:]
    _write(cases, names, folder / "cases.csv")
    means = masks.summary([case.figures for case in cases])
    summary: dict[str, Any] = {name: means[name].item() for name in masks.MEASURES}
    each = torch.stack([case.figures["dice"] for case in cases])
    draws = metrics.bootstrap(lambda dice: masks.mean(dice)[1], each)
    summary["dice_low"], summary["dice_high"] = metrics.interval(draws)
    summary |= {"samples": len(cases), "bad": len(bad), "missing": found.missing_in(split)}
    of_class = {name: means[f"{name}_of_class"].tolist() for name in masks.MEASURES}
    missed = means["missed"].tolist()
    rows: list[dict[str, object]] = [
        {"class": name, **{figure: values[i] for figure, values in of_class.items()}, "missed": missed[i]}
        for i, name in enumerate(names)
    ]
    return summary, rows, bad


def _truth(sample: Sample, scan: Volume, found: VideoData) -> np.ndarray:
    """The mask (D, H, W) of a sample, below 0 where it says that nothing counts.

    Raises:
        VolumeError: it cannot be read, lies elsewhere than the scan, or holds what is no class.
    """
    target = cast(Path, sample.target)
    truth = read_mask(target, scan.grid).array[0]
    if found.ignored is None:
        check_labels(target, truth, len(found.classes))
        return truth
    counts = truth != found.ignored
    check_labels(target, truth * counts, len(found.classes))
    return np.where(counts, truth.astype(np.int64), IGNORED)


def _draw(
    case: _Case,
    place: int,
    labels: np.ndarray,
    truth: np.ndarray,
    scan: Volume,
    classes: tuple[str, ...],
    drawn: list[tuple[float, int, Path]],
    folder: Path,
) -> None:
    """A picture of a case while it is among the worst so far."""
    if len(drawn) == WORST and -case.dice <= drawn[0][0]:
        return
    path = folder / f"{place:04d}.png"
    each = zip(classes[1:], case.figures["dice"].tolist(), strict=True)
    dice = ", ".join(f"{name} {value:.2f}" for name, value in each)
    plot.slices(
        scan.array[0],
        {"truth": np.maximum(truth, 0), "answer": labels},
        classes,
        path,
        spacing_mm=scan.spacing_mm,
        caption=f"{Path(case.name).name}: Dice {dice}",
    )
    heapq.heappush(drawn, (-case.dice, place, path))
    if len(drawn) > WORST:
        heapq.heappop(drawn)[2].unlink()


def _write(cases: list[_Case], classes: tuple[str, ...], path: Path) -> None:
    """A row for each case and class."""
    with aside(path) as made, made.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "class", *masks.MEASURES, "voxels"])
        for case in cases:
            figures = [case.figures[name].tolist() for name in masks.MEASURES]
            for name, *values, count in zip(classes, *figures, case.voxels, strict=True):
                writer.writerow([Path(case.name).absolute(), name, *(f"{value:.6g}" for value in values), count])
