"""Class files: which class has which number, and what each becomes in a mirror or played backwards."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .text import cells_of, column, has_video_suffix, head, read_json, read_lines, read_text

NAMES = re.compile(
    r"(classes|class_?names|class_?ind|class_?list|class_?index|categor(y|ies)|labels|label_?map|category_?idx"
    r"|label_?map[-_].*|.*[-_](class_?names|labels|label_?map|classes))\.(csv|txt|json|pbtxt)",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"\s*(\d+)[\s,;:]+(\S.*)")
_NAME = ("name", "class_name", "label_name", "label", "class")  # of columns
_NUMBER = ("id", "index", "class_id", "class_index", "label_id", "label")
_COLUMNS = ("mirrored", "reversed", "evaluated")


class ClassFile(NamedTuple):
    """A file of class names.

    Attributes:
        file: which.
        names: class names by the number that the file gives them, counted from 0 where it gives none.
        mirrored: the cells of that column, by name; None without the column. So are `reversed` and `evaluated`.
    """

    file: Path
    names: dict[int, str]
    mirrored: dict[str, str] | None = None
    reversed: dict[str, str] | None = None
    evaluated: dict[str, str] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of their numbers."""
        return tuple(name for _, name in sorted(self.names.items()))


def own_classes(file: Path) -> Path:
    """The class file of one list alone, `clean.classes.csv` of `clean.csv`."""
    return file.with_suffix(".classes.csv")


def find_classes(
    folders: Iterable[Path], annotation: Iterable[Path] = (), *, has_own: bool = False
) -> ClassFile | None:
    """The class file of a list's own; else that in the first of these folders that has one, `classes.*` first.

    Args:
        folders: where to look.
        annotation: files that are lists of videos themselves.
        has_own: the data set has class names already, so that only `classes.csv` is looked for, for what it adds.

    Raises:
        ValueError: a file cannot be read, or two of them give different classes.
    """
    lists = dict.fromkeys(annotation)
    own = [read_classes(file) for file in map(own_classes, lists) if file.is_file()]
    if own:
        return _agreed(own)
    for folder in folders:
        files = sorted(file for file in folder.iterdir() if NAMES.fullmatch(file.name) and file not in lists)
        files = [file for file in files if not _is_table(file) and (not has_own or file.name == "classes.csv")]
        plain = [file for file in files if file.stem.lower() == "classes"]
        found = [read_classes(file) for file in plain or files]
        if found:
            return _agreed(found)
    return None


def _agreed(found: list[ClassFile]) -> ClassFile:
    """The first of class files that give the same classes."""
    for one in found[1:]:
        if one.names != found[0].names:
            raise ValueError(
                f"{found[0].file} and {one.file.name} give different classes; remove one, or write classes.csv"
            )
    return found[0]


def read_classes(file: Path) -> ClassFile:
    """Read a class file: a name a line; `number name` a line; csv with a column `name`; json {name: number} or a list.

    A csv may have columns `id` (or `index`), `mirrored`, `reversed` and `evaluated` too, and call its names
    `class_name` or `label`; `.pbtxt` is TensorFlow's label map.

    Raises:
        ValueError: it is none of these, or names or numbers are there twice.
    """
    columns: dict[str, dict[str, str]] = {}
    if file.suffix.lower() == ".json":
        names = _from_json(file, read_json(file))
    elif file.suffix.lower() == ".pbtxt":
        names = read_pbtxt(file)
    else:
        lines = read_lines(file)
        header = [cell.strip().lower() for cell in next(csv.reader(lines[:1]), [])]
        if not set(header).isdisjoint(_NAME):
            names, columns = _from_table(file, header, list(cells_of(lines))[1:])
        else:
            names = _from_lines(file, lines)
    if not names:
        raise ValueError(f"{file}: no class names; write one a line")
    if twice := _twice(names.values()):
        raise ValueError(f"{file}: class {twice!r} is there twice; give each class one line")
    told = ClassFile(file, names, *(columns.get(name) for name in _COLUMNS))
    if odd := [cell for cell in (told.evaluated or {}).values() if cell not in ("1", "")]:
        raise ValueError(f"{file}: evaluated {odd[0]!r}; write 1 for a class that is, and nothing for others")
    return told


def read_pbtxt(file: Path) -> dict[int, str]:
    """Names by number of a label map, `label { name: "run" label_id: 1 }` or `item { name: "run" id: 1 }`."""
    blocks = re.findall(r'\{((?:[^{}"]|"[^"]*")*)\}', read_text(file))
    names = {}
    for block in blocks:
        name = re.search(r'name:\s*"([^"]*)"', block)
        number = re.search(r"\b(?:label_)?id:\s*(\d+)", block)
        if not name or not number:
            raise ValueError(f"{file}: {' '.join(block.split())!r} has no name or no id; get the file again")
        names[int(number[1])] = name[1]
    return names


def _is_table(file: Path) -> bool:
    """Whether it lists videos in spite of its name: columns of paths and labels, or a video in its first line."""
    cells = [
        cell.strip("\"'").lower() for cell in re.split(r"[,;\t ]+", head(file).lstrip().partition("\n")[0].strip())
    ]
    return len({column(cell) for cell in cells} & {"path", "label", "labels"}) > 1 or any(map(has_video_suffix, cells))


def _from_json(file: Path, held: Any) -> dict[int, str]:
    if isinstance(held, list) and all(isinstance(name, str) for name in held):
        return dict(enumerate(map(_plain, held)))
    if isinstance(held, dict):
        pairs = [(key, value) for key, value in held.items() if isinstance(value, str | int)]
        if len(pairs) == len(held):
            turned = [(number, name) for name, number in pairs]
            for way in (turned, pairs):  # {name: number} is more usual than {number: name}
                if all(str(number).isdecimal() for number, _ in way):
                    return _numbered(file, [(int(number), _plain(str(name))) for number, name in way])
    raise ValueError(f"{file}: no class names; write a list of names or {{name: number}}")


def _from_table(
    file: Path, header: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[dict[int, str], dict[str, dict[str, str]]]:
    place = next(header.index(name) for name in _NAME if name in header)
    numbers = [header.index(name) for name in _NUMBER if name in header]
    number = next((other for other in numbers if other != place), None)
    pairs = []
    columns: dict[str, dict[str, str]] = {name: {} for name in _COLUMNS if name in header}
    for line, cells in enumerate(rows, start=2):
        if not place < len(cells) <= len(header) or not cells[place].strip():
            raise ValueError(f"{file}, row {line} ({','.join(cells)}): no name, or more cells than the header has")
        name = _plain(cells[place])
        told = str(line - 2) if number is None else cells[number].strip()
        if not told.isdecimal():
            raise ValueError(f"{file}, row {line} ({','.join(cells)}): {told!r} is no number of a class")
        pairs.append((int(told), name))
        for title, values in columns.items():
            other = header.index(title)
            values[name] = _plain(cells[other]) if other < len(cells) else ""
    return _numbered(file, pairs), columns


def _from_lines(file: Path, lines: Sequence[str]) -> dict[int, str]:
    """Lines `number name` whose numbers run from 0 or 1 without a gap, maybe below a header; else each is a name."""
    if found := _counted(lines):
        return found
    if len(lines) < 3 or _NUMBERED.fullmatch(lines[0]) or not (found := _counted(lines[1:])):
        return dict(enumerate(map(_plain, lines)))
    if not set(re.split(r"[\s,;:]+", lines[0].strip().lower())) <= {*_NUMBER, *_NAME}:
        raise ValueError(
            f"{file}: numbers in all lines but the first ({lines[0].strip()}); if it is a header, write id,name, "
            "if it is a class, give it a number too"
        )
    return found


def _counted(lines: Sequence[str]) -> dict[int, str] | None:
    found = [_NUMBERED.fullmatch(line) for line in lines]
    numbers = sorted(int(line[1]) for line in found if line)
    if len(numbers) == len(lines) and numbers in (list(range(len(lines))), list(range(1, len(lines) + 1))):
        return {int(line[1]): _plain(line[2]) for line in found if line}
    return None


def _numbered(file: Path, pairs: Sequence[tuple[int, str]]) -> dict[int, str]:
    if twice := _twice([str(number) for number, _ in pairs]):
        raise ValueError(f"{file}: number {twice} is there twice; give each class its own")
    return dict(pairs)


def _twice(values: Iterable[str]) -> str | None:
    seen: set[str] = set()
    return next((value for value in values if value in seen or seen.add(value)), None)  # type: ignore[func-returns-value]


def _plain(name: str) -> str:
    """A name without the quotes around it."""
    name = name.strip()
    while len(name) > 1 and name[0] == name[-1] and name[0] in "\"'":
        name = name[1:-1].strip()
    return name
