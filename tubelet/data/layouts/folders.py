"""A folder for each class, alone or under `train/` and `val/` (and `test/`), or with these in each class folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from ..pictures import is_frames
from .rows import Found, Row
from .text import SPLITS, SUFFIXES, has_video_suffix

log = logging.getLogger("tubelet")


def read(root: Path) -> Found:
    """Videos and folders of frames in class folders, at any depth.

    Raises:
        ValueError: a class folder has no videos, or is itself a folder of frames.
    """
    folders = {SPLITS.get(folder.name.lower()): folder for folder in _subfolders(root)}
    if "train" not in folders:
        return Found("class folders", root, [row for folder in _subfolders(root) for row in _class(folder, None)])
    if folders.get(None):
        log.info("%s: %s is no part and is left out", root, folders[None].name)
    rows = [
        row
        for split, folder in folders.items()
        if split
        for inner in _subfolders(folder)
        for row in _class(inner, split)
    ]
    return Found(f"class folders in {', '.join(split for split in folders if split)}", root, rows)


def _class(folder: Path, split: str | None) -> Iterator[Row]:
    videos = [Path(video) for video in sorted(_videos(folder))]
    if not videos:
        raise ValueError(f"{folder}: no videos ({' '.join(sorted(SUFFIXES))}); fill or remove the folder")
    inner = [video.parts[len(folder.parts)] for video in videos]
    parts = [SPLITS.get(name.lower()) if split is None else None for name in inner]
    if any(parts) and not all(parts):
        raise ValueError(f"{folder}: {inner[parts.index(None)]} is beside a folder of a part; move it into one")
    for video, part in zip(videos, parts, strict=True):
        yield Row(video, folder.name, split or part)


def _videos(folder: Path) -> Iterator[str]:
    """Video files and folders of frames."""
    for place, names, files in os.walk(folder, followlinks=True):
        videos = [name for name in files if has_video_suffix(name)]
        if files and not videos and is_frames(place):
            if Path(place) == folder:
                raise ValueError(f"{folder}: pictures; a class folder holds a folder of pictures for each video")
            names.clear()
            yield place
            continue
        names[:] = sorted(name for name in names if not name.startswith("."))
        yield from (f"{place}{os.sep}{name}" for name in videos)


def _subfolders(root: Path) -> list[Path]:
    return [folder for folder in sorted(root.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
