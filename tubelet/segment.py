"""Masks of scans: what a network answers for each voxel, window by window, on the scanner's own grid."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import heads, terminal, weights, windows
from .data.grid import ending
from .data.indexes import footprint
from .data.layouts.opposites import mirrors
from .data.layouts.scans import is_beside_images, labels_named
from .data.volume import (
    SUFFIXES,
    WRITTEN,
    Grid,
    Volume,
    VolumeError,
    cleaned,
    is_scan,
    mapped,
    oriented,
    prepared,
    prepared_part,
    read_mask,
    read_volume,
    reading,
    resampled_grid,
    restored,
    restored_scores,
    write_volume,
)
from .machine import aside, folder_for
from .spec import ClipSpec, Intensity
from .terminal import Table

__all__ = [
    "NOTE",
    "Mask",
    "Masks",
    "Way",
    "answer_to_zeros",
    "dense_classes",
    "keeping_axes",
    "masks_of",
    "note_of",
    "numbered",
    "scans_of",
    "segment",
    "stem",
]

log = logging.getLogger("tubelet")

MOST_SCORES = 2**30  # bytes of scores for all classes, above which only the best class of each voxel is kept
LARGE = 2**29  # bytes of a scan, above which it is mapped into memory and seen part by part, and of its scores
MOST_RANKED = 2**23  # voxels of such a scan from which percentiles are taken
NOTE = "masks.json"  # beside masks, of what made them
OTHERWISE = "made otherwise"  # in that note, of a mask of an earlier call with another network or other options
# Endings that a mask takes over from its scan; of two files its one has the same geometry in it.
KEPT = {".nii": ".nii", ".nii.gz": ".nii.gz", ".nrrd": ".nrrd", ".nhdr": ".nrrd", ".mha": ".mha", ".mhd": ".mha"}
ENDING = ".nii.gz"  # of other masks, such as that of a DICOM series
CHANNEL = re.compile(r"_\d{4}$")  # nnU-Net's number of a channel, at the end of a name


@dataclass(frozen=True)
class Way:
    """How a scan is seen, and what is done to its mask.

    Attributes:
        overlap: of neighbouring windows, as a share of their sides.
        batch_size: windows in one pass of the network; None takes what suits the device.
        mirrored: whether each window is also seen mirrored along the axes for which the network was trained to be, and
            the answers averaged.
        largest: whether of each class only the largest connected component is kept.
        holes: whether holes of each class are filled.
    """

    overlap: float = 0.5
    batch_size: int | None = None
    mirrored: bool = False
    largest: bool = False
    holes: bool = False


@dataclass(frozen=True)
class Mask:
    """The mask of one scan.

    Attributes:
        source: the scan.
        labels: (D, H, W), the class of each voxel on the scan's own grid; None where it is in the file alone.
        grid: where the voxels lie.
        voxels: of each class.
        file: where it was written, None for nowhere.
    """

    source: Path
    labels: np.ndarray | None
    grid: Grid
    voxels: tuple[int, ...]
    file: Path | None = None


@dataclass(frozen=True)
class Masks:
    """Masks of one scan or of several.

    Attributes:
        cases: one a scan.
        classes: names, the background first.
        failed: what could not be read, and why.
    """

    cases: tuple[Mask, ...]
    classes: tuple[str, ...]
    failed: Mapping[str, str] = field(default_factory=dict)

    def top(self) -> Table:
        """How much of each class each scan holds, in millilitres."""
        rows = []
        names_tell = len({case.source.name for case in self.cases}) == len(self.cases)
        for case in self.cases:
            ml = np.prod(case.grid.spacing_mm) / 1000
            each = {name: f"{count * ml:.2f} ml" for name, count in zip(self.classes, case.voxels, strict=True)}
            rows.append({"scan": case.source.name if names_tell else str(case.source), **dict(list(each.items())[1:])})
        return Table(rows)


def dense_classes(network: nn.Module, spec: ClipSpec) -> int | None:
    """How many classes a network tells apart at each voxel, None where it does not answer for voxels.

    Of a network that is not ours one window of zeros tells.

    Raises:
        ValueError: it does not take this window.
    """
    head = getattr(network, "head", None)
    if isinstance(head, heads.Segment):
        return heads.num_classes(head)
    answer = answer_to_zeros(network, spec)
    return answer.shape[1] if isinstance(answer, Tensor) and answer.ndim == 5 else None


def answer_to_zeros(network: nn.Module, spec: ClipSpec) -> Any:
    """What a network answers to one window of zeros.

    Raises:
        ValueError: it does not take this window.
    """
    like = next(network.parameters(), torch.empty(0))
    window = (spec.num_frames, *spec.crop) if spec.crop else (spec.num_frames, 32, 32)
    try:
        with torch.no_grad():
            return network(torch.zeros(1, spec.in_channels, *window, device=like.device, dtype=like.dtype))
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{type(network).__name__} does not take a window {(1, spec.in_channels, *window)}: "
            f"{str(error).splitlines()[0]}"
        ) from None


def numbered(number: int) -> tuple[str, ...]:
    """Names of classes that nothing names."""
    return ("background", *(f"class {i}" for i in range(1, number)))


def keeping_axes(axes: Sequence[int], mirrored: Mapping[int, int | None], orientation: str | None) -> tuple[int, ...]:
    """Those of the axes, 0 (depth) to 2 (width), along which a mirrored scan keeps its classes.

    Where left and right are classes these are all but the axis from left to right; none where nobody knows which it is.

    Args:
        axes: of which.
        mirrored: as `VideoData.mirrored`.
        orientation: as `ClipSpec.orientation`.
    """
    if all(index == other for index, other in mirrored.items()):
        return tuple(axes)
    letters = orientation or "RRR"
    return tuple(axis for axis in axes if letters[axis] not in "RL")


@torch.no_grad()
def segment(
    network: nn.Module, spec: ClipSpec, scan: Sequence[Path] | Volume, way: Way, *, series: str | None = None
) -> tuple[np.ndarray, Volume]:
    """The class of each voxel of a scan, on its own grid.

    Args:
        network: (B, C, D, H, W) -> logits (B, K, D, H, W), in evaluation mode.
        spec: how scans are brought to it.
        scan: its file or folder for each channel, or what was read from them.
        way: how it is seen.
        series: id of the DICOM series that is meant, where a folder holds several.

    Returns:
        (D, H, W) labels of the smallest whole numbers that hold them, and the scan.

    Raises:
        VolumeError: the scan cannot be read, or has other channels than the network takes.
        ValueError: the network answers another size, or no numbers.
    """
    if spec.crop is None:
        raise ValueError("the network's spec has no crop: set one, with num_frames it is the window that is seen")
    window = (spec.num_frames, *spec.crop)
    how: dict[str, Any] = {"window": window, "overlap": way.overlap, "batch_size": way.batch_size}
    how["mirrored"] = _mirrored(spec) if way.mirrored else ()
    source = None if isinstance(scan, Volume) else _large(scan, spec)
    volume: Any
    if source is not None:
        _check_channels(source, spec)
        volume, most = _Slabs(source, spec), LARGE
        grid = volume.grid
    else:
        source = scan if isinstance(scan, Volume) else read_volume(list(scan), series=series)
        _check_channels(source, spec)
        seen = prepared(source, spec)
        volume, most = torch.from_numpy(np.ascontiguousarray(seen.array, dtype=np.float32)), MOST_SCORES
        grid = seen.grid
    if 4 * len(spec.classes) * math.prod(grid.size) <= most:
        scores = _seen(network, volume, source.path, how).float().cpu().numpy()
        labels = restored_scores(scores, grid, source.grid)
    else:
        if grid != source.grid:
            log.info("%s: its scores are too large to be brought back; labels are, from the nearest voxel", source.path)
        labels = _seen(network, volume, source.path, {**how, "labels": True}).cpu().numpy()
        labels = restored(labels, grid, source.grid)
    return _clean(labels, way), source


def _seen(network: nn.Module, volume: Any, path: Path, how: Mapping[str, Any]) -> Tensor:
    """Logits (K, D, H, W) or labels (D, H, W)."""
    try:
        return windows.sliding(network, volume, **how)[0]
    except VolumeError:  # of this scan alone
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


class _Slabs:
    """A scan on the disk whose parts are prepared as they are looked at: what `windows.sliding` takes as a volume."""

    def __init__(self, source: Volume, spec: ClipSpec) -> None:
        self._scan = source if spec.orientation is None else oriented(source, spec.orientation)
        self._spec = _fixed(source.array, spec)
        own = self._scan.grid
        self.grid = own if spec.spacing_mm is None else resampled_grid(own, spec.spacing_mm)
        self.shape = len(source.array), *self.grid.size

    def __getitem__(self, part: Any) -> np.ndarray:
        seen = prepared_part(self._scan, self._spec, self.grid, part)
        windows.give_back(self._scan.array)
        return seen


def _fixed(array: np.ndarray, spec: ClipSpec) -> ClipSpec:
    """A spec that does to parts of an array (C, D, H, W) what `spec` does to the whole."""
    if spec.intensity is None:
        return spec
    kind, *ends = spec.intensity
    if kind == "percentile":
        depth, *slices = array.shape[1:]
        planes = np.linspace(0, depth - 1, min(depth, max(1, MOST_RANKED // math.prod(slices)))).round().astype(int)
        low, high = map(float, np.percentile(array[:, planes], ends))
        windows.give_back(array)
        if low < high:
            return replace(spec, intensity=Intensity("window", low, high))
        moments = [(low, 1.0)]  # no contrast: all is 0
    elif kind == "window":
        return spec
    else:
        moments = [_moments(channel) for channel in array]
    # without an intensity, values are brought from 0..255 to 0..1 before mean and deviation count
    mean, std = zip(*moments, strict=True)
    return replace(spec, intensity=None, mean=tuple(each / 255 for each in mean), std=tuple(each / 255 for each in std))


def _moments(channel: np.ndarray) -> tuple[float, float]:
    """Mean and deviation of (D, H, W), slice by slice; the deviation of one without contrast is taken as 1."""
    near = channel[0].mean(dtype=np.float64)  # what is left of the mean after that is small beside the deviation
    sums = np.zeros(2)
    for part in channel:
        rest = part - near
        sums += rest.mean(), np.square(rest).mean()
        windows.give_back(channel)
    off, square = sums / len(channel)
    return float(near + off), math.sqrt(max(0.0, square - off**2)) or 1.0


def _check_channels(source: Volume, spec: ClipSpec) -> None:
    if len(source.array) != spec.in_channels:
        told = f"{terminal.counted(len(source.array), 'channel')}, and the network takes {spec.in_channels}"
        if len(source.array) == 1 and source.path.is_file():
            told += f": give a folder with a file for each, named as in case_0000 to case_{spec.in_channels - 1:04}"
        raise VolumeError(f"{source.path}: {told}")


def _mirrored(spec: ClipSpec) -> tuple[int, ...]:
    """Axes of (B, C, D, H, W) along which a mirrored scan has the same classes."""
    axes = (0, 1, 2) if spec.mirror_axes is None else spec.mirror_axes
    axes = keeping_axes(axes, mirrors(spec.classes), spec.orientation)
    if not axes:
        raise ValueError("mirrored: this network was trained on no mirrored windows whose classes stay the same")
    return tuple(axis + 2 for axis in axes)


def _large(paths: Sequence[Path], spec: ClipSpec) -> Volume | None:
    """The scan mapped into memory, where it is large and can be."""
    if len(paths) > 1 or spec.in_channels > 1 or not paths[0].is_file() or paths[0].stat().st_size < LARGE:
        return None
    return mapped(paths[0])


def _clean(labels: np.ndarray, way: Way) -> np.ndarray:
    return cleaned(labels, largest=way.largest, holes=way.holes) if way.largest or way.holes else labels


def scans_of(source: Path, channels: int, *, has_labels: bool = False) -> list[list[Path]]:
    """The scans of a path, each as its channels: itself, or the files and DICOM series below it.

    Where a network takes several channels, files whose names end in nnU-Net's numbers of all of them, as in
    case_0000.nii.gz and case_0001.nii.gz for two, are one scan. The folder of a DICOM series is that scan alone. Masks
    that training would read as labels of the scans are left out, unless `has_labels`.

    Raises:
        VolumeError: there is no such path, or no scan is there.
    """
    if not os.path.lexists(source):
        raise VolumeError(f"{source}: no such file or folder")
    if _may_be_scan(source):
        _tell_others(source)
        return [[source]]
    none = VolumeError(f"{source}: no scans there (NIfTI, NRRD, MHA, DICOM series, TIFF, npy, npz)")
    if not source.is_dir():
        raise none
    found: list[Path] = []
    named = set() if has_labels else labels_named(source)
    seen: set[str] = set()
    for name, folders, files in os.walk(source, followlinks=True):
        if (real := os.path.realpath(name)) in seen:
            folders.clear()
            continue
        seen.add(real)
        if not has_labels and (labels := [folder for folder in folders if is_beside_images(folder, folders)]):
            log.info("%s: labels in %s, left out", name, ", ".join(sorted(labels)))
            folders[:] = [folder for folder in folders if folder not in labels]
        series = [folder for folder in sorted(folders) if _may_be_scan(Path(name, folder))]
        folders[:] = sorted(folder for folder in folders if folder not in series and not folder.startswith("."))
        for folder in series:
            _tell_others(Path(name, folder))
            found.append(Path(name, folder))
        found += [Path(name, file) for file in files if not file.startswith(".") and _may_be_scan(Path(name, file))]
    if masks := {path for path in found if path.resolve() in named}:
        log.info("%s: %s that a list there calls labels, left out", source, terminal.counted(len(masks), "mask"))
        found = [path for path in found if path not in masks]
    if not found:
        raise none
    if channels == 1:
        return [[path] for path in sorted(found)]
    groups: dict[Path, list[Path]] = {}
    for path in sorted(found):
        name = stem(path)
        groups.setdefault(path.parent / CHANNEL.sub("", name) if CHANNEL.search(name) else path, []).append(path)
    all_channels = [f"_{channel:04}" for channel in range(channels)]
    cases = []
    for paths in groups.values():
        is_one = [stem(path)[-5:] for path in paths] == all_channels
        cases += [paths] if is_one else [[path] for path in paths]
    return cases


def _may_be_scan(path: Path) -> bool:
    """Whether a path is a scan, or may not be read, which is told where it is read."""
    try:
        return is_scan(path)
    except OSError:
        return True


def _tell_others(series: Path) -> None:
    """Log which files of other scans lie in the folder of a DICOM series."""
    files = (path for path in series.rglob("*") if ending(path) in SUFFIXES)
    if others := sorted(path for path in files if ending(path) != ".dcm" or path.parent != series):
        told, first = terminal.counted(len(others), "file"), others[0].relative_to(series)
        log.info("%s: a DICOM series; %s of other scans in it, first %s, left out", series, told, first)


def stem(path: Path) -> str:
    """The name of a scan or of its mask, without the ending of a file."""
    return path.name[: -len(ending(path))] if path.is_file() and ending(path) in SUFFIXES else path.name


def masks_of(
    network: nn.Module,
    spec: ClipSpec,
    source: Path,
    way: Way,
    out: Path | None,
    *,
    series: str | None = None,
) -> Masks:
    """Masks of a scan or of a folder of scans, written as they are made.

    A folder that holds masks of the same network, made of the same scans in the same way, is gone on with. What lies
    there and was not made here is not replaced.

    Args:
        network: as for `segment`.
        spec: of the network, which names its classes.
        source: a scan, or a folder of scans.
        way: how they are seen.
        out: a file for the mask of one scan, or a folder, where each mask has the name of its scan; None keeps them in
            memory.
        series: as for `segment`.

    Raises:
        VolumeError: no scan can be read.
        ValueError: `out` cannot be written to, is one file for several scans, lies where the scans do, or holds a file
            under the name of a mask.
    """
    scans = scans_of(source, spec.in_channels)
    places = _places(scans, source, out)
    folder = None if out is None or out in places else out
    note = {**weights.identity(network), "spec": spec.to_dict(), "way": asdict(way), "series": series}
    kept = _kept(folder, note, places) if folder is not None else {}
    cases: list[Mask] = []
    failed: dict[str, str] = {}
    outdated: list[str] = []
    home = folder if folder is not None or out is None else out.parent
    with nullcontext() if home is None else folder_for(home):
        for paths, place in zip(terminal.progress(scans, "segmenting"), places, strict=True):
            name = "" if place is None or folder is None else place.relative_to(folder).as_posix()
            now: list[Any] = []
            try:
                with reading(paths[0]):
                    now = [str(paths[0].resolve()), [list(footprint(path)) for path in paths]]
                done = None
                if place is not None and place.exists() and kept.get(name) == now:
                    with suppress(VolumeError):  # it is made anew
                        done = read_mask(place, None)
                if done is not None:
                    labels, grid = done.array[0], done.grid
                else:
                    labels, scan = segment(network, spec, paths, way, series=series)
                    grid = scan.grid
                    if folder is not None:  # that it is ours, should the call end before its state is noted
                        kept.setdefault(name, None)
                        _note(folder, {**note, "masks": kept})
                    if place is not None:
                        place.parent.mkdir(parents=True, exist_ok=True)
                        write_volume(place, labels, grid, like=paths[0])
                    if folder is not None:
                        kept[name] = now
                        _note(folder, {**note, "masks": kept})
            except VolumeError as error:
                if now and kept.get(name) and kept[name][1] != now[1]:  # its mask is of another state of the scan
                    outdated.append(name)
                if len(scans) == 1:
                    raise
                log.warning("left out: %s", error)
                failed[str(paths[0])] = str(error)
                continue
            counts = _counts(labels, len(spec.classes))
            cases.append(Mask(paths[0], labels if place is None or len(scans) == 1 else None, grid, counts, place))
        if not cases:
            first = next(iter(failed.values()))
            raise VolumeError(f"{source}: none of its {len(scans)} scans can be read, first {first}")
        if folder is not None:  # only now: where every scan fails, options may be at fault
            for name in outdated:
                (folder / name).unlink(missing_ok=True)
            _note(folder, {**note, "masks": _there(folder, kept)})
    return Masks(tuple(cases), spec.classes, failed)


def note_of(folder: Path) -> dict[str, Any]:
    """What `masks_of` noted in a folder of the masks that it made, empty where it made none."""
    try:
        found = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _counts(labels: np.ndarray, number: int) -> tuple[int, ...]:
    planes = (np.bincount(plane.reshape(-1), minlength=number) for plane in labels)  # each made 8 bytes a voxel
    return tuple(np.sum([*planes], 0).tolist())


def _places(scans: Sequence[Sequence[Path]], source: Path, out: Path | None) -> list[Path | None]:
    """Where the mask of each scan goes; in a folder to the scan's own place and name, in its format if that can be."""
    if out is None:
        return [None] * len(scans)
    if ending(out) in WRITTEN and not out.is_dir():
        if len(scans) > 1:
            raise ValueError(f"{out}: one file for {len(scans)} scans; give a folder")
        if out.exists() and any(out.samefile(path) for path in scans[0]):
            raise ValueError(f"{out}: is the scan itself; give another name")
        return [out]
    if not out.is_dir() and (ending(out) in SUFFIXES or (out.suffix and not source.is_dir())):
        raise ValueError(f"{out}: a mask is written as {', '.join(WRITTEN)}; or give a folder")
    if source.is_dir() and {source.resolve()} & {out.resolve(), *out.resolve().parents}:
        raise ValueError(f"{out}: is, or lies in, the folder of the scans, with which masks would mix; give another")
    places = []
    for paths in scans:
        path, name = paths[0], stem(paths[0])
        name = CHANNEL.sub("", name) if len(paths) > 1 else name
        home = path.parent.relative_to(source) if path != source else Path()
        places.append(out / home / (name + (KEPT.get(ending(path), ENDING) if path.is_file() else ENDING)))
    if doubles := {place for place in places if places.count(place) > 1}:
        raise ValueError(f"{source}: the masks of several scans would be {min(doubles)}; give them one by one")
    return [*places]


def _kept(out: Path, note: Mapping[str, Any], places: Sequence[Path | None]) -> dict[str, Any]:
    """The masks of earlier calls, by name, each with its scan and the state of that; None where they are not known."""
    found = {"precision": weights.PLAIN, **note_of(out)}
    masks = found.get("masks")
    masks = _there(out, masks) if isinstance(masks, dict) else {}
    for place in places:
        if place is not None and place.exists() and place.relative_to(out).as_posix() not in masks:
            raise ValueError(f"{place}: is there and was not made by predict; move it away, or give another folder")
    if all(found.get(key) == json.loads(json.dumps(value)) for key, value in note.items()):
        return masks
    return {name: state and [*state[:2], OTHERWISE] for name, state in masks.items()}


def _there(out: Path, masks: Mapping[str, Any]) -> dict[str, Any]:
    """Those that lie there still: a file that comes under the name of one that is gone is the user's."""
    return {name: state for name, state in masks.items() if (out / name).exists()}


def _note(out: Path, note: Mapping[str, Any]) -> None:
    with aside(out / NOTE) as made:
        made.write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
