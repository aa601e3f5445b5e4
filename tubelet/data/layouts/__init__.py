"""Data sets on disk: which layout a path has, its samples and its classes.

Each family of layouts is a file here, which reads an annotation into rows of names. What all have in common is done in
this one: which layout it is, where the videos lie, the numbers of the classes, the parts, and what each class becomes
in a mirror.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..sample import Actor, Sample, Span, Target, Task, VideoData, shared_groups
from . import activitynet, ava, charades, folders, framewise, lists, something, ucf
from .classes import ClassFile, find_classes
from .opposites import mirrors, reversals
from .places import Places, is_annotation
from .rows import Found, Layout, Row
from .splits import group_in, labels_of, set_aside
from .text import LISTS, SUFFIXES, Part, families, has_video_suffix, head, kin, names_of

__all__ = ["SUFFIXES", "open_data"]

log = logging.getLogger("tubelet")

LAYOUTS: tuple[Layout, ...] = (
    *something.LAYOUTS, *charades.LAYOUTS, *ava.LAYOUTS, *activitynet.LAYOUTS, *lists.LAYOUTS
)  # fmt: skip
FOLDS = (ucf.read_ucf, ucf.read_hmdb, framewise.read)
ANNOTATIONS = LISTS | {".json"}
MOST_FILES = 1000  # of a folder that are looked into; of more, those whose names say a split

_ACCEPTED = (
    f"give a folder with a folder of videos for each class, or a list ({', '.join(sorted(LISTS))}) of `path label`"
)


def open_data(path: str | os.PathLike, *, task: Task | None = None, fold: int | None = None) -> VideoData:
    """Recognise the layout of a folder, a list or an annotation file, and read which samples it names.

    Args:
        path: a folder of videos, of lists, or of a published data set; or one list, with which the lists that differ
            from it in the word train, val or test are read.
        task: what to read where there is a choice: Charades as multilabel or frames; ActivityNet, and lists with the
            start and end of each row, as frames or classify. None takes the first of these, of lists classify.
        fold: which official fold of UCF101, HMDB51, Breakfast, 50Salads or GTEA; None takes the first.

    Raises:
        ValueError: no such path, no videos, one class only, a class of the validation part that training lacks, a row
            that cannot be read, or a file that is not there; the message says what is wrong and what is accepted.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such folder or list of videos")
    with _no_collection():
        found = _of_folds(path, fold) or (_of_folder(path, task) if path.is_dir() else _of_file(path, task))
        if task and task != found.task:
            raise ValueError(
                f"{path}: {found.layout} is read as {found.task}, not as {task}; leave the task out or give other data"
            )
        data = _collect(path, found)
    sizes = ", ".join(f"{name} {len(samples)}" for name, samples in data.splits.items())
    log.info("%s: %s, %s, %d classes, %s", path, data.layout, data.task, len(data.classes), sizes)
    return data


@contextmanager
def _no_collection() -> Iterator[None]:
    """Nothing is garbage here, and looking for it among millions of new objects takes half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


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
        raise ValueError(f"{file}: one file of type {file.suffix or 'unknown'}; {_ACCEPTED}")
    layout = next((layout for layout in LAYOUTS if layout.fits(file, head(file))), None)
    if not layout:
        raise ValueError(f"{file}: no annotation of a known form; {_ACCEPTED}")
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


def _collect(path: Path, found: Found) -> VideoData:
    """Samples of rows: their videos found, their classes numbered, their parts made."""
    if not found.rows:
        raise ValueError(f"{path}: no videos; {_ACCEPTED}")
    places = Places(found.rows, found.home)
    missing = _missing(path, found, places)
    classes, names, told = _classes(path, found)
    if len(classes) == 1 and found.task == "classify":
        raise ValueError(f"{path}: one class only ({classes[0]}); a classifier needs at least two")
    splits: dict[str, list[Sample]] = {}
    for row, place in zip(found.rows, places.paths, strict=True):
        if place is not None:
            splits.setdefault(row.split or "train", []).append(_sample(row, place, found, names))
    if found.is_official and "test" in splits and "val" not in splits:
        log.info("%s: two official parts; the test part is used to validate, as papers do", path)
        splits["val"] = splits.pop("test")
    if "train" in splits and "val" not in splits:
        splits["train"], splits["val"] = set_aside(splits["train"], classes, found.task, path)
    if found.task == "classify" and "train" in splits:
        taught = {target for sample in splits["train"] for target in labels_of(sample, found.task)}
        lacking = {target for sample in splits["val"] for target in labels_of(sample, found.task)} - taught
        if lacking:
            listed = ", ".join(sorted(classes[target] for target in lacking)[:5])
            if not missing:
                raise ValueError(f"{path}: no training video for {listed}, which validation has")
            log.warning("%s: no training video for %s is there, validation has some", path, listed)
    evaluated = tuple(classes.index(name) for name in found.evaluated)
    data = VideoData(
        classes, splits, found.task, found.layout, mirrors(classes, told), reversals(classes, told), missing, evaluated
    )
    _warn_of_shared(path, data)
    return data


def _missing(path: Path, found: Found, places: Places) -> int:
    """How many videos are not there: those of a published list are left out, in any other list they are an error."""
    lost = [row for row, place in zip(found.rows, places.paths, strict=True) if place is None]
    if places.doubles:
        one, other, *_ = next(iter(places.doubles.values()))
        log.warning("%s: %d names are in two places; %s is read, not %s", path, len(places.doubles), one, other)
    if not lost:
        return 0
    videos = {row.video for row in found.rows}
    gone = {row.video for row in lost}
    first = lost[0]
    name = first.video[0] if isinstance(first.video, tuple) else first.video
    which = f"{len(gone):,} of {len(videos):,} videos are not there, first {name} ({first.where})"
    looked = ", ".join(dict.fromkeys(map(str, places.looked[:5])))
    if not found.is_official or len(gone) == len(videos):
        fix = "put them there" if found.is_official else "correct or remove these rows"
        raise ValueError(f"{path}: {which}; looked in {looked} and folders in them; {fix}")
    log.warning("%s: %s; they are left out", path, which)
    return len(gone)


def _classes(path: Path, found: Found) -> tuple[tuple[str, ...], dict[str, int], ClassFile | None]:
    """All class names, the number of each label, and the class file that tells more of them."""
    labels = {name for row in found.rows for name in _names(row.label, found.task)}
    beside = dict.fromkeys([path, found.home] if path.is_dir() else [found.home])
    told = find_classes(beside, [path], has_own=found.classes is not None)
    if found.classes is not None:
        classes, names = found.classes, {name: index for index, name in enumerate(found.classes)}
    elif told:
        classes = told.classes
        names = _numbers(told, labels)
    else:
        is_numbered = all(label.isdecimal() for label in labels)
        classes = tuple(sorted(labels, key=int) if is_numbered else sorted(labels))
        names = {name: index for index, name in enumerate(classes)}
    if unknown := sorted(labels - names.keys()):
        file = told.file if told and found.classes is None else found.layout
        raise ValueError(
            f"{path}: {', '.join(unknown[:5])} is not among the {len(classes)} classes of {file}; add it there"
        )
    return classes, names, told


def _numbers(told: ClassFile, labels: Iterable[str]) -> dict[str, int]:
    """The place of each label among the names of a class file, or, where labels are numbers, among its numbers."""
    names = {name: index for index, name in enumerate(told.classes)}
    labels = set(labels)
    if labels <= names.keys() or not all(label.isdecimal() for label in labels):
        return names
    used = {int(label) for label in labels}
    shift = 0
    if min(used) < min(told.names) or max(used) > max(told.names):
        # a list that counts from 0 with a file that counts from 1, or the reverse: one of them has a number too many
        begin = 0 if 0 in used else 1
        shift = min(told.names) - begin
        if shift:
            log.warning("%s counts from %d, the labels from %d; read so", told.file, min(told.names), begin)
    places = {number: index for index, number in enumerate(sorted(told.names))}
    return {label: places[int(label) + shift] for label in labels if int(label) + shift in places}


def _names(label: Any, task: Task) -> Iterable[str]:
    """All class names of a label."""
    if task == "classify":
        return (label,)
    if task == "multilabel":
        return label
    if task == "frames":
        return [name for *_, name in label]
    return [name for _, names in label for name in names]


def _sample(row: Row, place: Path, found: Found, names: dict[str, int]) -> Sample:
    target: Target
    if found.task == "classify":
        target = names[row.label]
    elif found.task == "multilabel":
        target = tuple(sorted({names[name] for name in row.label}))
    elif found.task == "frames":
        target = tuple(Span(start, end, names[name]) for start, end, name in row.label)
    else:
        target = tuple(
            Actor(x1, y1, x2, y2, tuple(sorted(names[name] for name in held))) for (x1, y1, x2, y2), held in row.label
        )
    moment = row.moment
    if moment is not None and found.cut_s and (not has_video_suffix(place.name) or "15min" in place.parent.name):
        moment -= found.cut_s
    group = row.group or group_in(place.name)
    fps = None if row.fps is None or has_video_suffix(place.name) else row.fps
    return Sample(place, target, row.start, row.end, moment, row.unit, group, fps)


def _warn_of_shared(path: Path, data: VideoData) -> None:
    if shared := shared_groups(data):
        group, splits = next(iter(shared.items()))
        log.warning(
            "%s: %d groups are in several parts, first %s in %s; scores will be too good",
            path, len(shared), group, " and ".join(splits),
        )  # fmt: skip
