"""A folder for each class, alone or under `train/` and `val/` (and `test/`), or with these in each class folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ...terminal import counted
from ..pictures import is_frames
from .places import videos_among
from .rows import Found, Row
from .text import SPLITS, SUFFIXES, Part, families, kin, names_of

log = logging.getLogger("tubelet")

_LIKE_VAL = ("dev", "eval")  # where there is no other folder to validate on


def read(root: Path) -> Found:
    """Videos and folders of frames in class folders, at any depth.

    Raises:
        ValueError: a class folder has no videos, or is itself a folder of frames; or two folders say the same part.
    """
    folders = _subfolders(root)
    parts = _parts(folders)
    _warn_of_strays([root, *(part.file for part in parts)] if folders else [])
    if not parts:
        return Found("class folders", root, [row for folder in folders for row in _class(folder, None)])
    if others := [folder.name for folder in folders if folder not in {part.file for part in parts}]:
        log.warning("%s: %s is no part and is left out", root, ", ".join(others))
    rows = [row for part in parts for inner in _subfolders(part.file) for row in _class(inner, part.split)]
    return Found(f"class folders in {names_of(parts)}", root, rows)


def has_parts(root: Path) -> bool:
    """Whether a folder holds folders of parts, with class folders in them."""
    return bool(_parts(_subfolders(root)))


def _parts(folders: Sequence[Path]) -> list[Part]:
    """Folders of the parts: `train`, or names that differ in that word alone, as `videos_train` and `videos_val`."""
    named = families(folder for folder in folders if kin(folder.name)[1])
    for (_, name), parts in named.items():
        is_sure = name == "*" or len(parts) > 1  # "train ride" is a class
        if is_sure and parts[0].split == "train" and _subfolders(parts[0].file):
            likely = [name.replace("*", word) for word in _LIKE_VAL if "val" not in {part.split for part in parts}]
            extra = [folder for folder in folders if folder.name.lower() in likely]
            return [*parts, *(Part(folder, "val") for folder in extra[:1])]
    return []


def _warn_of_strays(folders: Iterable[Path]) -> None:
    """Say which videos lie where class folders are looked for."""
    for folder in folders:
        files = sorted(entry.name for entry in folder.iterdir() if not entry.is_dir())
        if strays := videos_among(folder, files):
            number = counted(len(strays), "video")
            log.warning("%s: %s in no class folder, first %s; left out", folder, number, strays[0])


def _class(folder: Path, split: str | None) -> Iterator[Row]:
    videos = [Path(video) for video in sorted(_videos(folder))]
    if not videos:
        raise ValueError(
            f"{folder}: no videos ({' '.join(sorted(SUFFIXES))}) and no scans (NIfTI, NRRD, MHA, DICOM series); "
            "fill or remove the folder"
        )
    inner = [video.parts[len(folder.parts)] for video in videos]
    parts = [SPLITS.get(name.lower()) if split is None else None for name in inner]
    if any(parts) and not all(parts):
        raise ValueError(f"{folder}: {inner[parts.index(None)]} is beside a folder of a part; move it into one")
    for video, part in zip(videos, parts, strict=True):
        yield Row(video, folder.name, split or part)


def _videos(folder: Path) -> Iterator[str]:
    """Video files and folders of frames. A link is followed once, and never to where it came from."""
    seen = {os.path.realpath(folder)}

    def is_new(path: str) -> bool:
        if not Path(path).is_symlink():
            return True
        real = os.path.realpath(path)
        if any(other == real or other.startswith(real + os.sep) for other in seen):
            return False
        seen.add(real)
        return True

    for place, names, files in os.walk(folder, followlinks=True):
        # what macOS leaves beside a.mp4 on other disks is called ._a.mp4
        videos = videos_among(Path(place), files)
        if files and not videos and is_frames(place):
            if Path(place) == folder:
                raise ValueError(f"{folder}: pictures; a class folder holds a folder of pictures for each video")
            names.clear()
            yield place
            continue
        names[:] = sorted(name for name in names if not name.startswith(".") and is_new(f"{place}{os.sep}{name}"))
        yield from (f"{place}{os.sep}{name}" for name in videos)


def _subfolders(root: Path) -> list[Path]:
    return [folder for folder in sorted(root.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
