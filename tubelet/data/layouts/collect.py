"""Samples of the rows of any layout: their videos found, their classes numbered, their parts made."""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from ...terminal import counted
from ..sample import Actor, Sample, Span, Target, Task, VideoData, shared_groups
from .classes import ClassFile, find_classes
from .opposites import mirrors, reversals
from .places import Places
from .rows import ACCEPTED, Found, Row
from .splits import group_in, labels_of, set_aside
from .text import has_video_suffix, without_suffix

log = logging.getLogger("tubelet")


def collect(path: Path, found: Found, skip_missing: bool) -> VideoData:
    """Samples of rows: their videos found, their classes numbered, their parts made."""
    if not found.rows:
        raise ValueError(f"{path}: no videos; {ACCEPTED}")
    places = Places(found.rows, found.home)
    lost = _lost(path, found, places, skip_missing)
    forms = _forms(path, found, places)
    classes, names, told = _classes(path, found)
    if len(classes) == 1 and found.task == "classify":
        fix = "a classifier needs at least two"
        if len(inner := _inner(path, found.rows)) > 1:
            fix = f"if its folders ({', '.join(inner[:5])}) are classes or parts, give {path / classes[0]}"
        raise ValueError(f"{path}: one class only ({classes[0]}); {fix}")
    splits: dict[str, list[Sample]] = {}
    for row, place in zip(found.rows, places.paths, strict=True):
        if place is not None:
            sample = _sample(row, place, found, names, forms.get(place, ""))
            splits.setdefault(row.split or "train", []).append(sample)
    parts = dict.fromkeys(row.split or "train" for row in found.rows)
    missing_of = {split: len({row.video for row in lost if (row.split or "train") == split}) for split in parts}
    if found.is_official and "test" in splits and "val" not in parts:
        log.info("%s: two official parts; the test part is used to validate, as papers do", path)
        splits["val"], missing_of["val"] = splits.pop("test"), missing_of.pop("test")
    if "train" in splits and "val" not in splits:
        splits["train"], splits["val"] = set_aside(splits["train"], classes, found.task, path)
        if "val" in parts:
            gone = counted(missing_of["val"], "video")
            log.warning("%s: none of %s of val is there; a fifth of train is set aside to validate on", path, gone)
        else:
            missing_of = {}
    if found.task == "classify" and "train" in splits:
        taught = {target for sample in splits["train"] for target in labels_of(sample, found.task)}
        lacking = {target for sample in splits["val"] for target in labels_of(sample, found.task)} - taught
        if lacking:
            listed = ", ".join(sorted(classes[target] for target in lacking)[:5])
            if not lost:
                raise ValueError(f"{path}: no training video for {listed}, which validation has")
            log.warning("%s: no training video for %s is there, validation has some", path, listed)
    measured: Collection[str] = found.evaluated
    if told and told.evaluated is not None:
        measured = {name for name, cell in told.evaluated.items() if cell}
    evaluated = tuple(index for index, name in enumerate(classes) if name in measured)
    mirrored, backwards = mirrors(classes, told), reversals(classes, told)
    if found.is_volume and (told is None or told.reversed is None):
        becomes = {index: mirrored.get(index, index) for index in range(len(classes))}
        backwards = {index: other for index, other in becomes.items() if other is not None}
    missing = len({row.video for row in lost})
    data = VideoData(
        classes, splits, found.task, found.layout, mirrored, backwards, missing, evaluated, missing_of=missing_of
    )
    _warn_of_shared(path, data)
    _warn_of_contradictions(path, data)
    return data


def _forms(path: Path, found: Found, places: Places) -> dict[Path, str]:
    """A group for each video that is there with several endings, or as a file and as a folder of its frames."""
    named: dict[str, list[Path]] = defaultdict(list)
    for place in dict.fromkeys(filter(None, places.paths)):
        named[without_suffix(str(place))].append(place)
    several = {name: sorted(forms) for name, forms in named.items() if len(forms) > 1}
    if several:
        one, other, *_ = next(iter(several.values()))
        log.warning(
            "%s: %s in several forms, first %s and %s; keep one of them",
            path, counted(len(several), "video"), one, other,
        )  # fmt: skip
    # relative, so that the part set aside is the same one wherever the data lies
    home = f"{found.home}{os.sep}"
    return {place: name.removeprefix(home) for name, forms in several.items() for place in forms}


def _lost(path: Path, found: Found, places: Places, skip: bool) -> list[Row]:
    """Rows whose video is not there: those of a published list are left out, others where that is asked for."""
    lost = [row for row, place in zip(found.rows, places.paths, strict=True) if place is None]
    if places.doubles:
        one, other, *_ = next(iter(places.doubles.values()))
        log.warning("%s: %s in two places; %s is read, not %s", path, counted(len(places.doubles), "name"), one, other)
    if not lost:
        return []
    videos = {row.video for row in found.rows}
    gone = {row.video for row in lost}
    first = lost[0]
    name = first.video[0] if isinstance(first.video, tuple) else first.video
    which = f"{len(gone):,} of {len(videos):,} videos are not there, first {name} ({first.where})"
    looked = ", ".join(dict.fromkeys(map(str, places.looked[:5])))
    if not (found.is_official or skip) or len(gone) == len(videos):
        fix = "correct these rows, or `tubelet doctor data LIST --out clean.csv` writes the list without them"
        if found.is_official:
            fix = "put them there"
        elif first.line == 1 and len(gone) == 1:
            fix = "if this row is a header, call its columns path and label"
        raise ValueError(f"{path}: {which}; looked in {looked} and folders in them; {fix}")
    log.warning("%s: %s; they are left out", path, which)
    return lost


def _inner(path: Path, rows: Iterable[Row]) -> list[str]:
    """Folders of videos in class folders; those of parts where there are folders in them."""
    found: set[str] = set()
    for row in rows:
        if isinstance(row.video, Path) and row.video.is_relative_to(path):
            inner = row.video.relative_to(path).parts[1:]
            found.update(inner[:1] if len(inner) > 1 + bool(row.split) else ())
    return sorted(found)


def _classes(path: Path, found: Found) -> tuple[tuple[str, ...], dict[str, int], ClassFile | None]:
    """All class names, the number of each label, and the class file that tells more of them."""
    labels = {name for row in found.rows for name in _names(row.label, found.task)}
    beside = dict.fromkeys([path, found.home] if path.is_dir() else [found.home])
    lists = dict.fromkeys(row.file for row in found.rows if row.file.name)
    told = find_classes(beside, lists, has_own=found.classes is not None)
    if found.classes is not None:
        classes, names = found.classes, {name: index for index, name in enumerate(found.classes)}
    elif told:
        classes = told.classes
        names = _numbers(told, labels)
    else:
        if odd := _odd_numbers(labels):
            raise ValueError(f"{path}: label {odd} where all are numbers; write whole ones from 0, or names")
        is_numbered = all(label.isdecimal() for label in labels)
        classes = tuple(sorted(labels, key=int) if is_numbered else sorted(labels))
        names = {name: index for index, name in enumerate(classes)}
    if unknown := sorted(labels - names.keys()):
        file = told.file if told and found.classes is None else found.layout
        raise ValueError(
            f"{path}: {', '.join(unknown[:5])} is not among the {len(classes)} classes of {file}; add it there"
        )
    return classes, names, told


def _odd_numbers(labels: Iterable[str]) -> str | None:
    """A label such as -1 or 2.0 where all are numbers: sorted as text they would be other classes than are meant."""
    found = [re.fullmatch(r"\d+|(-\d+|\d+\.0*)", label) for label in sorted(labels)]
    return next((match[1] for match in found if match and match[1]), None) if all(found) else None


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


def _sample(row: Row, place: Path, found: Found, names: dict[str, int], form: str) -> Sample:
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
    group = row.group or group_in(place.name) or form
    fps = None if row.fps is None or _has_times(place) else row.fps
    return Sample(place, target, row.start, row.end, moment, row.unit, group, fps, row.title)


def _has_times(place: Path) -> bool:
    """Whether a video is a file with times of its own; folders of frames, mostly without an ending, are not asked."""
    return has_video_suffix(place.name) or (place.suffix.lower() not in ("", ".npy") and place.is_file())


def _warn_of_shared(path: Path, data: VideoData) -> None:
    if shared := shared_groups(data):
        group, splits = next(iter(shared.items()))
        log.warning(
            "%s: %s in several parts, first %s in %s; scores will be too good",
            path, counted(len(shared), "group"), group, " and ".join(splits),
        )  # fmt: skip


def _warn_of_contradictions(path: Path, data: VideoData) -> None:
    """A part of a video that a list names twice, with two classes, is half wrong whatever is learnt."""
    if data.task != "classify":
        return
    seen: dict[tuple, Sample] = {}
    pairs = [
        (seen.setdefault((sample.path, sample.start, sample.end), sample), sample)
        for samples in data.splits.values()
        for sample in samples
    ]
    twice = [(first, other) for first, other in pairs if first.target != other.target]
    if twice:
        first, other = twice[0]
        log.warning(
            "%s: %s with several classes, first %s (%s, %s); write a column labels if that is meant",
            path, counted(len(twice), "sample"), first.name,
            *(data.classes[each.target] for each in (first, other)),  # type: ignore[index]
        )  # fmt: skip
