"""Something-Something v1 and v2, and Jester, of 20BN. Goyal et al. 2017 (arXiv 1706.04261).

Version 2 is json and webm, version 1 and Jester are `id;label` and folders of frames.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from ..sample import Task
from .rows import Found, Layout, Row
from .text import Part, families, head, names_of, read_json, read_lines

log = logging.getLogger("tubelet")

FRAMES_FPS = 12.0  # of the frames of version 1 and Jester
_OF_20BN = re.compile("something|jester|20bn", re.IGNORECASE)
_ROW = re.compile(r"\d+;\S.*")


def _is_json(file: Path, head: str) -> bool:
    return file.suffix.lower() == ".json" and bool(re.match(r'\s*\[\s*\{[^}]*"(template|placeholders)"', head))


def _is_csv(file: Path, head: str) -> bool:
    lines = head.splitlines()[:-1] or head.splitlines()
    return file.suffix.lower() == ".csv" and bool(lines) and all(_ROW.fullmatch(line.strip()) for line in lines)


def _is_frame_list(file: Path, head: str) -> bool:
    """PySlowFast's list of frames, whose labels are in the json files beside it."""
    return head.startswith(("original_vido_id", "original_video_id")) and bool(_jsons(file.parent))


def _jsons(folder: Path) -> list[Part]:
    files = [file for file in folder.iterdir() if file.suffix.lower() == ".json" and _is_json(file, head(file))]
    return [part for parts in families(files).values() for part in parts]


def read_json_lists(parts: Sequence[Part], task: Task | None) -> Found:
    """Version 2: `[{id, label, template}]`, and `labels.json` with {template: number} beside it.

    Raises:
        ValueError: no file of labels, or a template that it has not.
    """
    folder = parts[0].file.parent
    numbers = _labels(folder)
    rows = []
    for part in parts:
        unlabelled = 0
        for line, entry in enumerate(read_json(part.file), start=1):
            if not isinstance(entry, dict) or "id" not in entry:
                raise ValueError(f"{part.file}, entry {line} ({entry}): no id; get the file again")
            if "template" not in entry:
                unlabelled += 1
                continue
            name = entry["template"].replace("[", "").replace("]", "")
            if name not in numbers:
                raise ValueError(f"{part.file}, entry {line} ({entry['id']}): {name!r} is not in the file of labels")
            rows.append(Row((str(entry["id"]),), name, part.split, file=part.file, line=line))
        if unlabelled:
            log.info("%s: %d videos without a template; left out", part.file, unlabelled)
    classes = tuple(sorted(numbers, key=numbers.__getitem__))
    return Found(f"Something-Something v2 ({names_of(parts)})", folder, rows, classes=classes, is_official=True)


def _labels(folder: Path) -> dict[str, int]:
    files = sorted(file for file in folder.glob("*labels.json"))
    if len(files) != 1:
        what = f"{len(files)} files" if files else "no file"
        raise ValueError(
            f"{folder}: {what} *labels.json; Something-Something v2 comes with one, keep that beside the lists"
        )
    held = read_json(files[0])
    if not isinstance(held, dict) or not all(str(number).isdecimal() for number in held.values()):
        raise ValueError(f"{files[0]}: not {{template: number}}; get the file again")
    return {name.replace("[", "").replace("]", ""): int(number) for name, number in held.items()}


def read_csv_lists(parts: Sequence[Part], task: Task | None) -> Found:
    """Version 1 and Jester: `id;label` without a header, and folders of frames with the ids as names."""
    rows = []
    for part in parts:
        fps = FRAMES_FPS if _OF_20BN.search(part.file.name) else None
        for line, text in enumerate(read_lines(part.file), start=1):
            video, _, label = text.strip().partition(";")
            if not video.isdecimal():
                raise ValueError(f"{part.file}, row {line} ({text.strip()}): not `id;label`; get the file again")
            if label:
                rows.append(Row((video,), label, part.split, fps=fps, file=part.file, line=line))
    return Found(f"20BN csv ({names_of(parts)})", parts[0].file.parent, rows, is_official=True)


def read_frame_list(parts: Sequence[Part], task: Task | None) -> Found:
    """PySlowFast's frame list: the json files beside it say the same, and the labels too."""
    return read_json_lists(_jsons(parts[0].file.parent), task)


LAYOUTS = (Layout(_is_json, read_json_lists), Layout(_is_csv, read_csv_lists), Layout(_is_frame_list, read_frame_list))
