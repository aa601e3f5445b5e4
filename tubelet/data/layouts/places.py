"""Where the videos of an annotation lie: folders are listed, files are not asked for one by one."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ..pictures import is_animated, is_folder, is_frames
from .rows import Row
from .text import has_video_suffix, kin, without_suffix

DEPTH = 3  # folders below one that is searched
FEW = 16  # files of one folder that are asked for one by one
PROBES = 64
ANNOTATIONS = re.compile(
    r"(annot\w*|labels?|lists?|splits?|meta(file|data)?s?|frame_?lists?|ucf_?traintest\w*|test_?train\w*|charades)"
    r"([_-].*)?",
    re.IGNORECASE,
)
_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:[/\\]")
VIDEOS = re.compile(r"(videos?|clips?|(raw_?)?frames?|rgb|jpe?gs?)([-_].*)?", re.IGNORECASE)


def is_annotation(folder: Path) -> bool:
    """Whether the name of a folder says that it holds annotations and its videos lie beside it."""
    return ANNOTATIONS.fullmatch(folder.name) is not None


def roots(home: Path) -> list[Path]:
    """Folders to search for the videos of an annotation in `home`: itself, then what lies beside it."""
    above = home.absolute().parent
    if is_annotation(home.absolute()):
        return [home, above]
    return [home, *_video_folders(above, exclude=home)]


class Places:
    """The places of videos.

    Attributes:
        paths: the place of each row's video, None where there is none.
        looked: folders that were searched.
        doubles: names that are in several places, each with those.
    """

    def __init__(self, rows: Sequence[Row], home: Path) -> None:
        self.paths = [row.video if isinstance(row.video, Path) else None for row in rows]
        self.looked: list[Path] = []
        self.doubles: dict[str, list[Path]] = {}
        self._by_path([i for i, row in enumerate(rows) if isinstance(row.video, str)], rows, home)
        self._by_root(rows, home)
        wanted: dict[int, tuple[str, ...]] = {}
        for i, row in enumerate(rows):
            if isinstance(row.video, tuple):
                wanted[i] = row.video
            elif self.paths[i] is None and not has_video_suffix(str(row.video)):
                wanted[i] = (str(row.video),)
        if wanted:
            self._by_name(wanted, home)

    def _by_path(self, asked: Sequence[int], rows: Sequence[Row], home: Path) -> None:
        """Paths as they are written, relative to the annotation, to where one works, or to folders of videos."""
        if not asked:
            return
        sure = list(dict.fromkeys([home, Path()]))
        likely = [folder for root in roots(home) for folder in (root, *_video_folders(root, exclude=home))]
        likely = [folder for folder in likely if folder not in sure]
        self.looked += [*sure, *likely]
        for split in dict.fromkeys(rows[i].split for i in asked):
            left = {i: str(rows[i].video) for i in asked if rows[i].split == split}
            for root in sure:
                left = self._taken(left, [root])
            # one name may be of a video in videos_train and of another one in videos_val
            own = [folder for folder in likely if kin(folder.name)[1] == split]
            self._searched(self._searched(left, own), [folder for folder in likely if folder not in own])

    def _searched(self, left: dict[int, str], folders: Sequence[Path]) -> dict[int, str]:
        """Take the videos that folders have; returns the names of the others."""
        # most folders have none of the videos, which a few show
        some = list(left.values())[:: max(1, len(left) // PROBES)]
        likely = [folder for folder in folders if any(_there(folder, some))]
        left = self._taken(left, likely)
        for folder in folders:  # it may have the few that are left
            left = left if folder in likely else self._taken(left, [folder])
        return left

    def _taken(self, left: dict[int, str], folders: Sequence[Path]) -> dict[int, str]:
        """Take the videos that folders have, from the first of them; returns the names of the others."""
        held = [_there(folder, list(left.values())) for folder in folders]
        for i, *found in zip(left, *held, strict=True):
            if places := [path for path in found if path]:
                self.paths[i] = places[0]
                if len(places) > 1:
                    self.doubles.setdefault(left[i], places)
        return {i: name for i, name in left.items() if self.paths[i] is None}

    def _by_name(self, wanted: dict[int, tuple[str, ...]], home: Path) -> None:
        """Names without an ending, in the folders of `roots` and those in them."""
        index = self._index({name.rpartition("/")[2] for names in wanted.values() for name in names}, roots(home))
        for i, names in wanted.items():
            for name in names:
                if places := _matching(name, index.get(name.rpartition("/")[2], [])):
                    self.paths[i] = places[0]
                    if len(places) > 1:
                        self.doubles.setdefault(name, places)
                    break

    def _by_root(self, rows: Sequence[Row], home: Path) -> None:
        """Paths such as `/train/a.mp4`, which begin at the folder of the annotation."""
        left = {
            i: row.video.lstrip("/")
            for i, row in enumerate(rows)
            if self.paths[i] is None and isinstance(row.video, str) and row.video.startswith("/")
        }
        for i, path in zip(left, _there(home, list(left.values())), strict=True):
            self.paths[i] = path

    def _index(self, stems: set[str], folders: Iterable[Path]) -> dict[str, list[Path]]:
        """Files (first) and folders of frames by the name they have without an ending."""
        found: dict[str, list[Path]] = defaultdict(list)
        frames: dict[str, list[Path]] = defaultdict(list)
        level = list(folders)
        self.looked += level
        known = {folder.absolute() for folder in level}
        for depth in range(DEPTH + 1):
            below: list[Path] = []
            for folder in level:
                named: list[Path] = []
                others: list[Path] = []
                for entry in _entries(folder):
                    # a link to a video is not followed, which would ask for every file
                    if has_video_suffix(entry.name) and not entry.is_dir(follow_symlinks=False):
                        stem = without_suffix(entry.name)
                        if stem in stems and is_video(folder / entry.name):
                            found[stem].append(folder / entry.name)
                    elif not entry.name.startswith(".") and is_folder(entry):
                        (named if entry.name in stems else others).append(folder / entry.name)
                # one folder tells what those behind it hold; before it may be some whose extraction failed
                first = next((i for i, path in enumerate(named[:PROBES]) if is_frames(path)), len(named))
                for path in named[first:]:
                    frames[path.name].append(path)
                below += named[:first] if first < len(named) else named + others
            if (found.keys() | frames.keys()) >= stems:
                break
            # one of the folders to begin with may lie in another
            level = below if depth else [folder for folder in below if folder.absolute() not in known]
        for stem, folders in frames.items():
            found[stem] += folders
        return found


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its ending; of `.webp` the animated ones, which their first bytes tell."""
    return has_video_suffix(path.name) and (path.suffix.lower() != ".webp" or is_animated(path))


def videos_among(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of the files in a folder that are videos. Of a folder of frames that are WebP, one file is looked into."""
    videos = [name for name in names if has_video_suffix(name) and not name.startswith(".")]
    if not any(name.lower().endswith(".webp") for name in videos):
        return videos
    if is_frames(folder):
        return [name for name in videos if not name.lower().endswith(".webp")]
    return [name for name in videos if is_video(folder / name)]


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from sorted(entries, key=lambda entry: entry.name)
    except (PermissionError, FileNotFoundError):
        return


def _video_folders(root: Path, exclude: Path) -> list[Path]:
    """Folders in `root` whose names say that they hold videos."""
    same = os.path.realpath(exclude)
    return [
        root / entry.name
        for entry in _entries(root)
        if VIDEOS.fullmatch(entry.name) and is_folder(entry) and os.path.realpath(entry.path) != same
    ]


def _there(root: Path, names: Sequence[str]) -> list[Path | None]:
    """`root / name` where it exists."""
    base = "" if root == Path() else f"{root.as_posix()}/"
    folders: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for number, name in enumerate(names):
        full = (name if _ABSOLUTE.match(name) else base + name).replace(os.sep, "/").rstrip("/")
        folder, slash, file = full.rpartition("/")
        folders[folder + slash].append((number, file))
    found: list[Path | None] = [None] * len(names)
    for folder, files in folders.items():
        if len(files) < FEW:
            for number, file in files:
                path = Path(folder + file)
                with suppress(OSError):  # text of another column may be longer than a name can be
                    if path.exists():
                        found[number] = path
            continue
        try:
            with os.scandir(folder or ".") as entries:
                held = {entry.name for entry in entries}
        except OSError:
            continue
        for number, file in files:
            if file in held:
                found[number] = Path(folder + file)
    return found


def _matching(name: str, places: Sequence[Path]) -> list[Path]:
    """The places whose last folders are those of a name."""
    parts = name.split("/")
    return (
        [path for path in places if list(path.parts[-len(parts) : -1]) == parts[:-1]]
        if len(parts) > 1
        else list(places)
    )
