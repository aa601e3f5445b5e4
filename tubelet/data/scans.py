"""Scans as training and validation take them: prepared once, kept in the cache folder, cut into windows.

A scan is prepared when it lies in the network's orientation, spacing and intensities, see `volume.prepared`. It is kept
as float32, its mask as small integers, both memory-mapped, so that a window costs the reading of its own voxels. Beside
them lie the places of some thousand voxels of each class: to find one of a small organ costs nothing.

Items, by the task of the data set:

- segment: a window and its mask, `IGNORED` where voxels do not count; windows lie in the scan, and reach over its edge
  only where the scan is smaller.
- classify: the window in the middle of the scan, and the index of the class.

Outside of a scan is 0: the mean of the scan after z-score, `spec.mean` of a window or of percentiles; and in the mask
class 0, the background. `windows.sliding` pads with the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..losses import IGNORED
from ..machine import cache_dir, kept
from ..processes import Failed, each
from ..spec import ClipSpec
from ..terminal import counted, progress
from . import distort, volume
from .distort import Distort, Size
from .indexes import footprint
from .sample import Sample, VideoData
from .video import VideoError
from .volume import Grid

log = logging.getLogger("tubelet")

Key = tuple[int, int] | tuple[int, int, int]

VERSION = 2  # of what is kept of a scan
MOST_PLACES = 2000  # of each class
TIME_LIMIT_S = 900.0  # for the preparation of one scan


class ScanWindows(Dataset):
    """Random windows to train on: (window float32 (C, D, H, W), target), the same for the same (seed, *key).

    Keys are (epoch, index) or (epoch, index, draw), as those of `datasets.TrainClips`. The target is the mask int64
    (D, H, W), or the index of the class.

    Args:
        data: a data set of scans.
        split: which of its parts.
        spec: of the window: `num_frames` deep, `crop` high and wide.
        augment: random changes. Along the axis from left to right it mirrors only where the data set says what each
            class becomes, and then changes the mask as well; where the orientation is not known and left and right
            are classes, along none.
        seed: of all chance.
        foreground: share of the windows whose middle is a voxel of a class, each class of the scan as likely; the
            others lie anywhere. One third is nnU-Net's.
        fades: epochs, from 0, between which the changes grow weaker (`Distort.weakened`), until nothing but mirroring
            would be left; None: all epochs are alike.

    Raises:
        ValueError: an argument is out of its range, or no scan can be prepared. What is wrong with one scan is
            raised, as VideoError, by its items.
    """

    def __init__(
        self,
        data: VideoData,
        split: str,
        spec: ClipSpec,
        augment: Distort,
        seed: int,
        *,
        foreground: float = 1 / 3,
        fades: tuple[int, int] | None = None,
    ) -> None:
        if not 0 <= foreground <= 1:
            raise ValueError(f"foreground {foreground} must lie in 0..1")
        self.scans = _Scans.of(data, split, spec)
        self.window = window_of(spec)
        self.spec, self.seed, self.foreground = spec, seed, foreground
        self.num_classes, self.has_ignored = len(data.classes), data.ignored is not None
        self.augment, self.swapped = _mirrored(augment, data, spec)
        self.fades = fades
        if self.augment != Distort():
            distort.transforms()  # before worker processes are forked, each of which would import it anew

    def __len__(self) -> int:
        return len(self.scans.samples)

    def name(self, key: Key) -> str:
        """Path of the scan."""
        return self.scans.samples[key[1]].name

    def __getitem__(self, key: Key) -> tuple[Tensor, int | Tensor]:
        epoch, index, draw = (*key, 0)[:3]
        generator = torch.Generator().manual_seed(hash((self.seed, epoch, index, draw)) & (2**63 - 1))
        sample = self.scans.samples[index]
        image, mask, places = self.scans.open(sample)
        places = places[: np.searchsorted(places[:, 0], self.num_classes)]  # not of voxels that do not count
        change = self._augment(epoch).draw(self.window, self.spec.spacing_mm, generator)
        size = cast(Size, image.shape[1:])
        start = middle(size, self.window) if mask is None else self._start(size, places, generator)
        start = [at - (far - near) // 2 for at, far, near in zip(start, change.reach, self.window, strict=True)]
        truth = None if mask is None else torch.from_numpy(cut(mask, start, change.reach))
        window, truth = change.apply(torch.from_numpy(cut(image, start, change.reach)), truth)
        swapped = self.swapped if self.swapped is not None and self.swapped.axis in change.flip else None
        if truth is None:
            target = cast(int, sample.target)
            return window, swapped.classes[target] if swapped else target
        truth = truth.long()
        if swapped is None and not self.has_ignored:
            return window, truth
        return window, torch.tensor([*(swapped.classes if swapped else range(self.num_classes)), IGNORED])[truth]

    def _augment(self, epoch: int) -> Distort:
        if self.fades is None or epoch <= self.fades[0]:
            return self.augment
        first, end = self.fades
        return self.augment.weakened(max(0.0, (end - epoch) / (end - first)))

    def _start(self, size: Size, places: np.ndarray, generator: torch.Generator) -> list[int]:
        """First voxel of a window, around a voxel of a class or anywhere."""
        ranges = [sorted((0, side - window)) for side, window in zip(size, self.window, strict=True)]
        if len(places) and float(torch.rand((), generator=generator)) < self.foreground:
            classes = np.unique(places[:, 0])
            chosen = classes[int(torch.randint(len(classes), (), generator=generator))]
            first, end = np.searchsorted(places[:, 0], [chosen, chosen + 1])
            place = places[first + int(torch.randint(int(end - first), (), generator=generator)), 1]
            voxel = np.unravel_index(int(place), size)
            wanted = [int(at) - window // 2 for at, window in zip(voxel, self.window, strict=True)]
            return [min(max(at, low), high) for at, (low, high) in zip(wanted, ranges, strict=True)]
        return [low + int(torch.randint(high - low + 1, (), generator=generator)) for low, high in ranges]


class WholeScans(Dataset):
    """Whole prepared scans: (float32 (1, C, D, H, W), target, index), of a size of their own: read one at a time.

    The target is the mask int64 (1, D, H, W). Where it is the index of a class, the scan is the window in its middle,
    as training sees it.

    Args:
        data: a data set of scans.
        split: which of its parts.
        spec: how they are prepared.

    Raises:
        ValueError: no scan can be prepared. What is wrong with one scan is raised, as VideoError, by its item.
    """

    def __init__(self, data: VideoData, split: str, spec: ClipSpec) -> None:
        self.scans, self.spec, self.num_classes = _Scans.of(data, split, spec), spec, len(data.classes)

    def __len__(self) -> int:
        return len(self.scans.samples)

    def name(self, index: int) -> str:
        """Path of the scan."""
        return self.scans.samples[index].name

    def grid(self, index: int) -> Grid:
        """Where the voxels of the prepared scan lie."""
        held = json.loads((self.scans.folder(self.scans.samples[index]) / "grid.json").read_text())
        return Grid(**{name: tuple(value) for name, value in held.items()})

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor, int]:
        sample = self.scans.samples[index]
        image, mask, _ = self.scans.open(sample)
        if mask is None:
            window = window_of(self.spec)
            image = cut(image, middle(cast(Size, image.shape[1:]), window), window)
            return torch.from_numpy(image)[None], cast(int, sample.target), index
        truth = torch.from_numpy(mask.astype(np.int64))[None]
        return torch.from_numpy(np.array(image))[None], truth.where(truth < self.num_classes, IGNORED), index


def window_of(spec: ClipSpec) -> Size:
    """(depth, height, width) of the windows of a spec.

    Raises:
        ValueError: it has no crop.
    """
    if spec.crop is None:
        raise ValueError("windows of scans need a size: give the spec a crop (height, width)")
    return spec.num_frames, *spec.crop


def middle(size: Sequence[int], window: Sequence[int]) -> list[int]:
    """First voxel of the window in the middle of a scan; below 0 where the scan is smaller."""
    return [(side - of_window) // 2 for side, of_window in zip(size, window, strict=True)]


def cut(array: np.ndarray, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """A part of an array (..., D, H, W), 0 where it reaches over the edge: a copy (..., *size)."""
    part = np.zeros((*array.shape[:-3], *size), array.dtype)
    ends = [min(at + side, whole) for at, side, whole in zip(start, size, array.shape[-3:], strict=True)]
    if all(end > max(at, 0) for at, end in zip(start, ends, strict=True)):
        near, far = [max(at, 0) for at in start], [end - at for end, at in zip(ends, start, strict=True)]
        d, h, w = (slice(at, end) for at, end in zip(near, ends, strict=True))
        to_d, to_h, to_w = (slice(max(-at, 0), end) for at, end in zip(start, far, strict=True))
        part[..., to_d, to_h, to_w] = array[..., d, h, w]
    return part


def prepare(
    samples: Sequence[Sample], spec: ClipSpec, num_classes: int, *, workers: int | None = None
) -> tuple[dict[str, Path], dict[str, str]]:
    """Have scans prepared in the cache folder. What is there already, unchanged, is not prepared again.

    A folder for each scan: `image.npy`, `mask.npy`, `places.npy` (class, place in the mask counted row by row) and
    `grid.json`.

    Args:
        samples: scans with the file of a mask or the index of a class.
        spec: how they are prepared.
        num_classes: labels of masks are below it.
        workers: processes; None takes one a core.

    Returns:
        The folder of each scan, by its name; and of each that cannot be prepared why, in one line.

    Raises:
        ValueError: none can be.
    """
    folders: dict[str, Path] = {}
    failed: dict[str, str] = {}
    for sample in samples:
        try:
            folders[sample.name] = _folder(sample, spec, num_classes)
        except OSError as error:
            failed[sample.name] = f"{error.filename}: {error.strerror}"
    named = {sample.name: sample for sample in samples}
    waiting = [(folder, named[name]) for name, folder in folders.items() if not folder.exists()]
    if waiting:
        make = partial(_prepare, spec=spec, num_classes=num_classes)
        with closing(each(make, waiting, workers=workers, time_limit_s=TIME_LIMIT_S)) as made:
            for (_, sample), answer in progress(made, "preparing scans", len(waiting)):
                if isinstance(answer, Failed):
                    failed[sample.name] = answer.reason
                    del folders[sample.name]
    if failed and not folders:
        raise ValueError(f"none of {counted(len(failed), 'scan')} can be read, first {next(iter(failed.values()))}")
    return folders, failed


def _prepare(item: tuple[Path, Sample], spec: ClipSpec, num_classes: int) -> None:
    folder, sample = item
    source = volume.read_volume([sample.path, *sample.more] if sample.more else sample.path)
    mask = None
    if isinstance(sample.target, Path):
        mask = volume.read_mask(sample.target, source.grid)
        check_labels(sample.target, mask.array, num_classes)
        mask = volume.prepared(mask, spec, is_mask=True)
    scan = volume.prepared(source, spec)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with kept(folder) as made:
        made.mkdir()
        np.save(made / "image.npy", scan.array)
        (made / "grid.json").write_text(json.dumps(asdict(scan.grid)))
        if mask is not None:
            labels = mask.array[0].astype(np.uint8 if num_classes <= 256 else np.int32)
            np.save(made / "mask.npy", labels)
            np.save(made / "places.npy", _places(labels))


def check_labels(path: Path, mask: np.ndarray, num_classes: int) -> None:
    """Raise VolumeError unless all labels of a mask are classes."""
    lowest, highest = int(mask.min()), int(mask.max())
    if lowest < 0 or highest >= num_classes:
        wrong = lowest if lowest < 0 else highest
        raise volume.VolumeError(f"{path}: label {wrong}, and the classes are 0 to {num_classes - 1}; correct the mask")


def _places(labels: np.ndarray) -> np.ndarray:
    """(N, 2) int64: class and place of some voxels of each class but the background, sorted."""
    found = np.flatnonzero(labels)
    of_class = labels.ravel()[found]
    order = np.argsort(of_class, kind="stable")
    found, of_class = found[order], of_class[order]
    chance = np.random.default_rng(0)
    chosen = [
        np.sort(chance.choice(part, min(len(part), MOST_PLACES), replace=False))
        for part in np.split(np.arange(len(found)), np.flatnonzero(np.diff(of_class)) + 1)
    ]
    rows = np.concatenate(chosen)
    return np.stack([of_class[rows].astype(np.int64), found[rows]], axis=1)


def _folder(sample: Sample, spec: ClipSpec, num_classes: int) -> Path:
    """Where a scan is kept; elsewhere when a file of it, or how it is prepared, has changed."""
    paths = [sample.path, *sample.more]
    if isinstance(sample.target, Path):
        paths.append(sample.target)
    files = [(str(path.absolute()), *footprint(path)) for path in paths]
    way = (VERSION, spec.spacing_mm, spec.orientation, spec.intensity, spec.mean, spec.std, num_classes)
    digest = hashlib.sha256(json.dumps([files, way]).encode()).hexdigest()
    return cache_dir() / "scans" / digest[:2] / digest[2:34]


@dataclass(frozen=True)
class _Scans:
    """The prepared scans of a part of a data set."""

    samples: Sequence[Sample]
    folders: dict[str, Path]
    failed: dict[str, str]

    @staticmethod
    def of(data: VideoData, split: str, spec: ClipSpec) -> _Scans:
        samples = data.splits[split]
        return _Scans(samples, *prepare(samples, spec, len(data.classes) + (data.ignored is not None)))

    def folder(self, sample: Sample) -> Path:
        if reason := self.failed.get(sample.name):
            raise VideoError(reason)
        return self.folders[sample.name]

    def open(self, sample: Sample) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Image (C, D, H, W), mask (D, H, W) or None, and places (N, 2), memory-mapped."""
        folder = self.folder(sample)
        try:
            arrays = [np.load(folder / "image.npy", mmap_mode="r")]
            if not isinstance(sample.target, Path):
                return arrays[0], None, np.empty((0, 2), np.int64)
            arrays += [np.load(folder / name, mmap_mode="r") for name in ("mask.npy", "places.npy")]
        except OSError as error:
            raise VideoError(f"{sample.name}: {folder}, where it is kept, is gone ({error}); start again") from None
        return arrays[0], arrays[1], arrays[2]


@dataclass(frozen=True)
class _Swapped:
    """What each class becomes in a mirror along an axis."""

    axis: int
    classes: list[int]


def _mirrored(augment: Distort, data: VideoData, spec: ClipSpec) -> tuple[Distort, _Swapped | None]:
    """The changes without the mirrors in which a class has no name, and what the others make of the classes."""
    if not data.mirrored or not augment.flip:
        return augment, None
    names = "left and right are classes"
    if spec.orientation is None:
        log.info("%s, and which axis they lie on is not known: nothing is mirrored", names)
        return replace(augment, flip=()), None
    axis = next(i for i, letter in enumerate(spec.orientation) if letter in "RL")
    if axis not in augment.flip:
        return augment, None
    becomes: list[Any] = [data.mirrored.get(index, index) for index in range(len(data.classes))]
    if None in becomes:
        log.info("%s, and not each has another: axis %d is not mirrored", names, axis)
        return replace(augment, flip=tuple(other for other in augment.flip if other != axis)), None
    return augment, _Swapped(axis, becomes)
