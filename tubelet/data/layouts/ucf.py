"""UCF101 and HMDB51: three official folds as lists of names, the videos in class folders elsewhere.

Soomro et al. 2012 (arXiv 1212.0402), `ucfTrainTestlist`; Kuehne et al. 2011, `testTrainMulti_7030_splits`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from .classes import read_classes
from .rows import Found, Row
from .text import read_lines, without_suffix

_UCF = re.compile(r"(train|test)list0?(\d)\.txt", re.IGNORECASE)
_HMDB = re.compile(r"(.+)_test_split(\d)\.txt", re.IGNORECASE)
# In these lists the class of its folder, `HandstandPushups`, has another case in the names of its files.
_SPELLINGS = ("HandstandPushups", "HandStandPushups")


def fold_of(file: Path) -> int | None:
    """The fold that one of these files belongs to, the first for `classInd.txt`; None for any other file."""
    if file.name == "classInd.txt":
        return 1
    found = _UCF.fullmatch(file.name) or _HMDB.fullmatch(file.name)
    return int(found[2]) if found else None


def read_ucf(folder: Path, fold: int) -> Found | None:
    """UCF101, if a folder has its lists; None if it has not.

    Raises:
        ValueError: no such fold, no `classInd.txt`, or a row that it does not fit.
    """
    lists = {(m[1].lower(), int(m[2])): file for file in folder.iterdir() if (m := _UCF.fullmatch(file.name))}
    if not lists:
        return None
    _check(folder, fold, {number for _, number in lists})
    index = folder / "classInd.txt"
    if not index.exists():
        raise ValueError(f"{index}: no such file; the lists of UCF101 come with it")
    names = read_classes(index)
    known = {name.lower(): name for name in names.classes}
    rows = []
    for split, file in ((split, file) for (split, number), file in sorted(lists.items()) if number == fold):
        for line, text in enumerate(read_lines(file), start=1):
            path, number = (*text.split(maxsplit=1), "")[:2]
            folder_name, _, video = path.replace("\\", "/").rpartition("/")
            name = known.get(folder_name.lower())
            is_right = not number or (number.strip().isdecimal() and names.names.get(int(number)) == name)
            if not name or not is_right:
                raise ValueError(
                    f"{file}, row {line} ({text.strip()}): no such class or number in {index.name}; get both again"
                )
            stem = without_suffix(video)
            stems = dict.fromkeys([stem, *(stem.replace(*pair) for pair in (_SPELLINGS, _SPELLINGS[::-1]))])
            rows.append(
                Row(
                    tuple(f"{at}{each}" for each in stems for at in (f"{folder_name}/", "")),
                    name,
                    split,
                    file=file,
                    line=line,
                )
            )
    return Found(f"UCF101 fold {fold} ({folder.name})", folder, rows, classes=names.classes, is_official=True)


def read_hmdb(folder: Path, fold: int) -> Found | None:
    """HMDB51, if a folder has its lists; None if it has not.

    Raises:
        ValueError: no such fold, or a row that cannot be read.
    """
    lists = sorted((m[1], int(m[2]), file) for file in folder.iterdir() if (m := _HMDB.fullmatch(file.name)))
    if not lists:
        return None
    _check(folder, fold, {number for _, number, _ in lists})
    rows = [row for name, number, file in lists if number == fold for row in _hmdb_rows(file, name)]
    classes = tuple(sorted({name for name, _, _ in lists}))
    return Found(f"HMDB51 fold {fold} ({folder.name})", folder, rows, classes=classes, is_official=True)


def _hmdb_rows(file: Path, name: str) -> Iterator[Row]:
    for line, text in enumerate(read_lines(file), start=1):
        video, _, mark = text.strip().rpartition(" ")
        if mark not in ("0", "1", "2") or not video:
            raise ValueError(f"{file}, row {line} ({text.strip()}): not `name.avi` and 0, 1 or 2; get the file again")
        if mark != "0":
            stem = without_suffix(video.strip())
            source = stem.partition(f"_{name}_")[0]
            yield Row(
                (f"{name}/{stem}", stem),
                name,
                ("train", "test")[mark == "2"],
                group=f"{name} {source}",
                file=file,
                line=line,
            )


def _check(folder: Path, fold: int, folds: set[int]) -> None:
    if fold not in folds:
        raise ValueError(f"{folder}: no fold {fold}; there is {', '.join(map(str, sorted(folds)))}")
