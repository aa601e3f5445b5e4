"""Which layout a path has: published data sets with folds first, then annotation files, then class folders."""

from __future__ import annotations

from pathlib import Path

from ..sample import Task
from . import activitynet, ava, charades, folders, framewise, lists, something, ucf
from .places import is_annotation
from .rows import ACCEPTED, Found, Layout
from .text import LISTS, Part, families, head, kin, names_of

LAYOUTS: tuple[Layout, ...] = (
    *something.LAYOUTS, *charades.LAYOUTS, *ava.LAYOUTS, *activitynet.LAYOUTS, *lists.LAYOUTS
)  # fmt: skip
FOLDS = (ucf.read_ucf, ucf.read_hmdb, framewise.read)
ANNOTATIONS = LISTS | {".json"}
MOST_FILES = 1000  # of a folder that are looked into; of more, those whose names say a split


def recognise(path: Path, task: Task | None, fold: int | None) -> Found:
    """What a path holds, as `open_data` takes it.

    Raises:
        ValueError: it has no known layout, or not this task or fold; or an annotation cannot be read.
    """
    found = _of_folds(path, fold) or (_of_folder(path, task) if path.is_dir() else _of_file(path, task))
    if task and task != found.task:
        raise ValueError(
            f"{path}: {found.layout} is read as {found.task}, not as {task}; leave the task out or give other data"
        )
    return found


def _of_folds(path: Path, fold: int | None) -> Found | None:
    """What has official folds, in a folder, in one for annotations in it, or around a file of them."""
    if path.is_file():
        number = ucf.fold_of(path)
        places, fold = [path.parent] if number else [], fold or number
    else:
        places = [path, *_annotation_folders(path)]
    for folder in places:
        for read in FOLDS:
            if found := read(folder, fold or 1):
                return found
    if fold is not None:
        raise ValueError(f"{path}: fold {fold}, but no folds of UCF101, HMDB51, Breakfast, 50Salads or GTEA are there")
    return None


def _of_file(file: Path, task: Task | None) -> Found:
    if file.suffix.lower() not in ANNOTATIONS:
        raise ValueError(f"{file}: one file of type {file.suffix or 'unknown'}; {ACCEPTED}")
    layout = next((layout for layout in LAYOUTS if layout.fits(file, head(file))), None)
    if not layout:
        raise ValueError(f"{file}: no annotation of a known form; {ACCEPTED}")
    name, split = kin(file.name)
    parts = [Part(file, None)]
    if split:
        beside = [other for other in file.parent.iterdir() if kin(other.name)[0] == name]
        parts = families(beside)[file.parent, name]
    return layout.read(parts, task)


def _of_folder(path: Path, task: Task | None) -> Found:
    """The annotation in a folder or in one for annotations in it; without one, class folders."""
    for folder in [path, *_annotation_folders(path)]:
        files = [file for file in folder.iterdir() if file.suffix.lower() in ANNOTATIONS and file.is_file()]
        if len(files) > MOST_FILES:
            files = [file for file in files if kin(file.name)[1]]
        groups = list(families(files).values())
        heads = [head(parts[0].file) for parts in groups]
        for layout in LAYOUTS:
            if layout.is_loose:
                continue
            fit = [parts for parts, begin in zip(groups, heads, strict=True) if layout.fits(parts[0].file, begin)]
            fit = [parts for parts in fit if parts[0].split == "train"] or fit
            if len(fit) > 1 and layout.read is lists.read_lists and not any(parts[0].split for parts in fit):
                continue  # tables of anything
            if len(fit) > 1:
                raise ValueError(
                    f"{folder}: {len(fit)} annotations ({'; '.join(map(names_of, fit))}); give the file that is meant"
                )
            if fit:
                return layout.read(fit[0], task)
    return folders.read(path)


def _annotation_folders(path: Path) -> list[Path]:
    return [folder for folder in sorted(path.iterdir()) if is_annotation(folder) and folder.is_dir()]
