"""Spans of untrimmed videos in json: ActivityNet, THUMOS, HACS, and MMAction2's form of them.

Caba Heilbron et al. 2015, `{"database": {id: {subset, duration, annotations: [{segment: [start, end], label}]}}}`.
3D-ResNets (Hara et al. 2018) writes one class a video so: `{"labels": [...], "database": {id: {subset, annotations:
{label}}}}`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..sample import Task
from .rows import Found, Layout, Row, split_of
from .text import Part, names_of, read_json

log = logging.getLogger("tubelet")

_THUMOS = re.compile(r"video_(validation|test)_\d+")


def _is_official(file: Path, head: str) -> bool:
    first = re.match(r'\s*\{\s*"(database|taxonomy|version)"\s*:', head)
    # many files begin with a version, and the taxonomy is long
    return file.suffix.lower() == ".json" and first is not None and b'"database"' in file.read_bytes()


def _is_of_3d_resnets(file: Path, head: str) -> bool:
    first = re.match(r'\s*\{\s*"labels"\s*:\s*\[', head)
    return file.suffix.lower() == ".json" and first is not None and b'"database"' in file.read_bytes()


def _is_mmaction(file: Path, head: str) -> bool:
    return file.suffix.lower() == ".json" and head.lstrip().startswith("{") and '"duration_second"' in head


def read(parts: Sequence[Part], task: Task | None) -> Found:
    """All videos that have annotations, spans in seconds; with the task classify each span is a sample of its own.

    Raises:
        ValueError: the json has another form.
    """
    rows: list[Row] = []
    left_out = empty = unsure = 0
    for part in parts:
        held = read_json(part.file)
        database = held.get("database", held)
        if not isinstance(database, dict):
            raise ValueError(f"{part.file}: `database` is no map of videos; get the file again")
        for name, video in database.items():
            try:
                split = split_of(video.get("subset") or "") or part.split
                spans = [_span(each) for each in video.get("annotations") or ()]
            except (ValueError, AttributeError, TypeError, KeyError) as error:
                raise ValueError(f"{part.file}, video {name}: {error or 'no subset or annotations'}") from None
            long = [span for span in spans if span[1] > span[0]]
            # THUMOS marks what its annotators did not agree on; that is no class of its 20
            kept = tuple(span for span in long if not (span[2] == "Ambiguous" and _THUMOS.match(name)))
            empty, unsure = empty + len(spans) - len(long), unsure + len(long) - len(kept)
            left_out += not kept
            row = Row(_names(name), kept, split, unit="s", group=name, fps=_fps(video), file=part.file)
            if task == "classify":
                rows += [row._replace(label=label, start=start, end=end) for start, end, label in kept]
            elif kept:
                rows.append(row)
    folder = parts[0].file.parent
    if left_out or empty:
        log.info("%s: %d videos without annotations and %d empty spans; left out", folder, left_out, empty)
    if unsure:
        log.info("%s: THUMOS: %d spans are marked Ambiguous; left out", folder, unsure)
    if {row.split for row in rows} == {"val", "test"} and any(
        name.startswith("video_validation") for name in _stems(rows)
    ):
        # THUMOS has no untrimmed videos to train on: papers train on its validation part
        rows = [row._replace(split={"val": "train", "test": "val"}[row.split or ""]) for row in rows]
        log.info("%s: THUMOS: its validation part is to train on, its test part to validate", folder)
    kind: Task = "classify" if task == "classify" else "frames"
    return Found(f"ActivityNet json ({names_of(parts)})", folder, rows, task=kind, is_official=True)


def read_3d_resnets(parts: Sequence[Part], task: Task | None) -> Found:
    """The json of 3D-ResNets: a class a video. A `segment` from frame 1 on is the whole video, as its scripts write it.

    Raises:
        ValueError: the json has another form.
    """
    rows: list[Row] = []
    for part in parts:
        held = read_json(part.file)
        classes = tuple(map(str, held["labels"]))
        for name, video in held["database"].items():
            try:
                told = video["annotations"]
                if "label" not in told:
                    continue
                split = split_of(video["subset"]) or part.split
                first, last = map(int, told.get("segment") or (1, 0))
            except (ValueError, AttributeError, TypeError, KeyError) as error:
                raise ValueError(f"{part.file}, video {name}: {error}; get the file again") from None
            start, end = (first - 1, last - 1) if first > 1 else (0, None)
            rows.append(Row((name,), str(told["label"]), split, start, end, file=part.file))
    folder = parts[0].file.parent
    return Found(f"3D-ResNets json ({names_of(parts)})", folder, rows, classes=classes, is_official=True)


def _span(annotation: Mapping[str, Any]) -> tuple[float, float, str]:
    if not isinstance(annotation, Mapping) or {"segment", "label"} - annotation.keys():
        raise ValueError(f"annotation {annotation!r} is not {{segment: [start, end], label}}")
    start, end = annotation["segment"]
    # in this order NaN stays NaN, a span that is left out
    return max(float(start), 0.0), float(end), str(annotation["label"])


def _names(name: str) -> tuple[str, ...]:
    """Files are called `v_<id>`, ids not always."""
    return (name, name[2:]) if name.startswith("v_") else (f"v_{name}", name)


def _stems(rows: Sequence[Row]) -> set[str]:
    return {row.group for row in rows}


def _fps(video: Mapping[str, Any]) -> float | None:
    """Rate of the frames that MMAction2's form counts, which is that of a folder of them."""
    if video.get("duration_frame") and video.get("duration_second"):
        return float(video["duration_frame"]) / float(video["duration_second"])
    return None


LAYOUTS = (Layout(_is_official, read), Layout(_is_of_3d_resnets, read_3d_resnets), Layout(_is_mmaction, read))
