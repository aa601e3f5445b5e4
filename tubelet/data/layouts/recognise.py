"""Which layout a path has: published data sets with folds first, then annotation files, then class folders."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ...terminal import counted
from ..pictures import is_frames
from ..sample import Task
from . import activitynet, ava, charades, diving48, folders, framewise, kinetics, lists, medmnist, something, ucf
from .classes import NAMES
from .places import Places, is_annotation
from .rows import ACCEPTED, Found, Layout
from .text import LISTS, Part, families, has_video_suffix, head, kin, names_of

log = logging.getLogger("tubelet")

LAYOUTS: tuple[Layout, ...] = (
    *something.LAYOUTS, *charades.LAYOUTS, *ava.LAYOUTS, *activitynet.LAYOUTS, *kinetics.LAYOUTS,
    *diving48.LAYOUTS, *medmnist.LAYOUTS, *lists.LAYOUTS,
)  # fmt: skip
FOLDS = (ucf.read_ucf, ucf.read_hmdb, framewise.read)
ANNOTATIONS = LISTS | {".json", ".npz"}
MOST_FILES = 1000  # of a folder that are looked into; of more, those whose names say a split


def recognise(path: Path, task: Task | None, fold: int | None) -> Found:
    """What a path holds, as `open_data` takes it.

    Raises:
        ValueError: it has no known layout, or not this task or fold; or an annotation cannot be read.
    """
    found = _of_folds(path, fold)
    if found is None:
        found = _parted(path, _of_folder(path, task) if path.is_dir() else _of_file(path, task), fold)
    if task and task != found.task:
        raise ValueError(
            f"{path}: {found.layout} is read as {found.task}, not as {task}; give other data or task {found.task}"
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
    return None


def _parted(path: Path, found: Found, fold: int | None) -> Found:
    """What has a column of folds and no part to validate on, with the part that a fold gives each row."""
    rows = [row for row in found.rows if row.split != "test"]
    numbers = sorted({row.fold for row in rows if row.fold is not None})
    if len(numbers) < 2 or any(row.split == "val" for row in rows):
        if fold is not None:
            raise ValueError(
                f"{path}: fold {fold}, but no folds of UCF101, HMDB51, Breakfast, 50Salads or GTEA are there, and no "
                "list without a part val whose column fold has several"
            )
        return found
    if bare := [row for row in rows if row.fold is None]:
        raise ValueError(f"{bare[0].file}, row {bare[0].line}: no fold, others have one; give each row its fold")
    fold = numbers[0] if fold is None else fold
    if fold not in numbers:
        raise ValueError(f"{path}: fold {fold}; there is {', '.join(map(str, numbers))}")
    parts = {True: "val", False: "train"}
    given = [row if row.split == "test" else row._replace(split=parts[row.fold == fold]) for row in found.rows]
    return replace(found, rows=given, layout=f"{found.layout}, fold {fold}")


def _of_file(file: Path, task: Task | None) -> Found:
    if file.suffix.lower() not in ANNOTATIONS:
        raise ValueError(f"{file}: one file of type {file.suffix or 'unknown'}; {ACCEPTED}")
    layout = next((layout for layout in LAYOUTS if layout.fits(file, head(file))), None)
    if not layout:
        raise ValueError(f"{file}: no annotation of a known form; {ACCEPTED}")
    name, split = kin(file.name)
    parts = [Part(file, None)]
    if split and layout not in medmnist.LAYOUTS:  # those hold all their parts in one file
        beside = [
            other
            for other in file.parent.iterdir()
            # a folder train/ of videos is none
            if other.suffix.lower() in ANNOTATIONS and kin(other.name)[0] == name and other.is_file()
        ]
        parts = families(beside)[file.parent, name]
    return layout.read(parts, task)


def _of_folder(path: Path, task: Task | None) -> Found:
    """The annotation in a folder or in one for annotations in it; without one, class folders."""
    seen: list[tuple[list[Part], str]] = []
    for folder in [path, *_annotation_folders(path)]:
        files = [file for file in folder.iterdir() if file.suffix.lower() in ANNOTATIONS and file.is_file()]
        if len(files) > MOST_FILES:
            files = [file for file in files if kin(file.name)[1]]
        groups = [(parts, head(parts[0].file)) for parts in families(files).values()]
        seen += groups
        for layout in LAYOUTS:
            if layout.is_loose:
                continue
            fit = [parts for parts, begin in groups if layout.fits(parts[0].file, begin)]
            fit = [parts for parts in fit if parts[0].split == "train"] or fit
            if fit and layout.read is lists.read_lists and fit[0][0].split != "train":
                sure = _sure(groups)
                # one table may be of videos that are not there; several may be tables of anything
                fit = sure if len(fit) > 1 else [*fit, *(parts for parts in sure if parts not in fit)]
            if len(fit) > 1:
                raise _several(folder, fit)
            if fit:
                try:
                    return layout.read(fit[0], task)
                except lists.NoLabelsError as error:
                    if not folders.has_parts(path):
                        raise
                    log.warning("%s; the class folders are read in its place", str(error).partition(";")[0])
                    return folders.read(path)
    found = folders.read(path)
    if len(labels := {row.label for row in found.rows}) < 2:
        if sure := _sure(seen):
            raise _several(path, sure)
        names = [part.file.name for parts, _ in seen for part in parts]
        unread = [name for name in names if not name.lower().endswith(".txt")]
        if unread and not any(map(NAMES.fullmatch, names)):  # which may tell of more classes
            there = f"one class only ({', '.join(labels)})" if labels else "no class folders"
            raise ValueError(f"{path}: {there}, and {', '.join(unread[:5])} of no known form; {ACCEPTED}")
    return found


def _several(folder: Path, fit: Sequence[Sequence[Part]]) -> ValueError:
    named = "; ".join(map(names_of, fit))
    return ValueError(f"{folder}: {counted(len(fit), 'annotation')} ({named}); give the file that is meant as the path")


def _sure(groups: Iterable[tuple[list[Part], str]]) -> list[list[Part]]:
    return [parts for parts, begin in groups if _names_videos(parts[0], begin)]


def _names_videos(part: Part, begin: str) -> bool:
    """Whether the beginning of a list names a video that is there."""
    rows = [
        row
        for row in lists.first_rows(part, begin)
        # without an ending and a header, any word is a name
        if lists.is_table(part.file, begin)
        or has_video_suffix(str(row.video))
        or is_frames(part.file.parent / str(row.video))
    ]
    return any(Places(rows, part.file.parent).paths)


def _annotation_folders(path: Path) -> list[Path]:
    return [folder for folder in sorted(path.iterdir()) if is_annotation(folder) and folder.is_dir()]
