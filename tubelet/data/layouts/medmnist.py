"""Volumes in one `.npz`, in the form of MedMNIST's 3D sets: `train_images` (N, D, H, W), `train_labels` (N, 1), ...

Yang et al. 2023, "MedMNIST v2" (arXiv 2110.14795). Each volume is written once, as an array in the cache folder, which
every process that trains then maps into memory.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ...machine import cache_dir, kept
from ...terminal import progress
from ..sample import Task
from .rows import Found, Layout, Row
from .text import Part, names_of

PARTS = ("train", "val", "test")
_FORM = "`train_images` (N, D, H, W) of uint8 and `train_labels` (N, 1), and so for val and test"


def _is_npz(file: Path, head: str) -> bool:
    return file.suffix.lower() == ".npz"


def _is_medmnist(file: Path, head: str) -> bool:
    if not _is_npz(file, head) or not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as held:
        return any(f"{split}_images.npy" in held.namelist() for split in PARTS)


def read(parts: Sequence[Part], task: Task | None) -> Found:
    """The parts that the files hold, whatever their names say. Classes are numbers, which a class file may name.

    Raises:
        ValueError: a file is damaged or of another form, or two hold the same part; or the cache cannot be written.
    """
    rows: list[Row] = []
    for part in parts:
        held = _labels(part.file)
        if shared := sorted(held.keys() & {row.split for row in rows}):
            raise ValueError(f"{part.file}: holds the part {shared[0]}, as a file beside it does; give one as the path")
        folder = _unpacked(part.file, held)
        for split, labels in held.items():
            for i, label in enumerate(labels):
                title = f"{part.file}[{split} {i}]"
                rows.append(Row(_volume(folder, split, i), str(label), split, file=part.file, title=title))
    return Found(f"MedMNIST volumes ({names_of(parts)})", parts[0].file.parent, rows, is_volume=True)


def _volume(folder: Path, split: str, i: int) -> Path:
    return folder / split / f"{i}.npy"


def _labels(file: Path) -> dict[str, list[int]]:
    """The class of each volume, of each part that is there."""
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{file}: no npz archive, or one that breaks off; get the file again")
    with zipfile.ZipFile(file) as archive:
        keys = {name.removesuffix(".npy") for name in archive.namelist()}
    parts = [split for split in PARTS if f"{split}_images" in keys]
    if not parts:
        raise ValueError(f"{file}: holds {', '.join(sorted(keys)[:5]) or 'nothing'}; give {_FORM}")
    return {split: _labels_of(file, f"{split}_labels", keys) for split in parts}


def _labels_of(file: Path, key: str, keys: set[str]) -> list[int]:
    if key not in keys:
        raise ValueError(f"{file}: no {key}; give {_FORM}")
    labels = _array(file, key)
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise ValueError(f"{file}: {key} {labels.shape} are several labels a volume; one class each is read: (N, 1)")
    if labels.dtype.kind not in "iu" or labels.ndim not in (1, 2) or labels.size != len(labels):
        raise ValueError(f"{file}: {key} {labels.shape} of {labels.dtype}; give whole numbers (N, 1)")
    if not labels.size:
        raise ValueError(f"{file}: {key} is empty; give {_FORM}")
    if labels.min() < 0:
        raise ValueError(f"{file}: {key} hold {labels.min()}; classes count from 0")
    return labels.ravel().tolist()


def _array(file: Path, key: str) -> np.ndarray:
    """One array, which is never unpickled."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return arrays[key]
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{file}: {key} cannot be read ({error}); get the file again") from None


def _unpacked(file: Path, labels: Mapping[str, Sequence[int]]) -> Path:
    """The folder of the volumes of a file; another one when the file has changed."""
    status = file.stat()
    stamp = f"{file.resolve()} {status.st_size} {status.st_mtime_ns}"
    folder = cache_dir() / f"{file.stem}-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}"
    if folder.exists():
        return folder
    count = sum(map(len, labels.values()))
    with kept(folder) as made:
        for split, i, volume in progress(_volumes(file, labels), f"unpacking {file.name}", count):
            path = _volume(made, split, i)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, volume)
    return folder


def _volumes(file: Path, labels: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, int, np.ndarray]]:
    """Part, number and (D, H, W, 1) of each volume."""
    for split, of_part in labels.items():
        key = f"{split}_images"
        images = _array(file, key)
        what = f"{file}: {key} {images.shape} of {images.dtype}"
        if images.ndim == 3 or (images.ndim == 4 and images.shape[-1] in (3, 4)):
            raise ValueError(f"{what} are pictures; volumes are (N, D, H, W): a set of MedMNIST whose name ends in 3D")
        if images.ndim != 4 or images.dtype != np.uint8 or 0 in images.shape[1:]:
            raise ValueError(f"{what}; give {_FORM}")
        if len(images) != len(of_part):
            raise ValueError(f"{what} for {len(of_part)} labels; give one each")
        for i, volume in enumerate(images):
            yield split, i, volume[..., None]


LAYOUTS = (Layout(_is_medmnist, read), Layout(_is_npz, read, is_loose=True))
