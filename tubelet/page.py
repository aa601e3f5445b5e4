"""Pages: one HTML file that holds its text, tables, pictures and videos and needs no network."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from . import machine

__all__ = ["Section", "write_report"]

MEDIA_TYPES = {".png": "image/png", ".mp4": "video/mp4"}


@dataclass
class Section:
    """One headed part of a page.

    Attributes:
        title: the heading.
        text: plain text; blank lines part paragraphs.
        pictures: (path, caption) pairs, each a `.png` or an `.mp4` file; the caption is the alternative text.
        table: rows of one table. Columns are the keys in the order they first appear; a row may lack some.
        commands: lines to copy.
        is_gallery: the pictures are many and small; videos among them play in a loop, and one button starts them all.
    """

    title: str
    text: str = ""
    pictures: Sequence[tuple[Path, str]] = ()
    table: Sequence[Mapping[str, object]] = ()
    commands: Sequence[str] = ()
    is_gallery: bool = False


def write_report(
    path: str | Path,
    title: str,
    sections: Sequence[Section],
    *,
    summary: str = "",
    figures: Mapping[str, str] | None = None,
) -> Path:
    """Write sections as one self-contained HTML file.

    A click on the head of a column of numbers, or of a column beside one, sorts the table.

    Args:
        path: the HTML file; it is written aside and renamed, so a reader never sees half of it.
        title: the heading of the page.
        sections: shown in order; from four on, a list of contents comes first.
        summary: plain text below the title.
        figures: what matters most, by name, in large letters below the summary; the first is the largest.

    Raises:
        ValueError: a picture is missing, or is neither a `.png` nor an `.mp4` file.
    """
    with machine.needs("plot"):
        import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["sha256"] = _sha256
    source = resources.files(__package__).joinpath("page.html.j2").read_text(encoding="utf-8")
    page = environment.from_string(source).render(
        title=title, summary=summary, figures=figures or {}, sections=[_content(section) for section in sections]
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with machine.aside(path) as aside:
        aside.write_text(page, encoding="utf-8", errors="backslashreplace")
    return path


def _content(section: Section) -> dict[str, object]:
    """Return what the template shows of a section."""
    return {
        "title": section.title,
        "paragraphs": section.text.strip().split("\n\n") if section.text.strip() else [],
        "pictures": [_picture(Path(path), caption) for path, caption in section.pictures],
        "table": _table(section.table),
        "commands": section.commands,
        "is_gallery": section.is_gallery,
    }


def _sha256(text: str) -> str:
    """The hash by which a page allows its own script, and no other (CSP Level 3, 2.3.1)."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _picture(path: Path, caption: str) -> dict[str, object]:
    """Return a picture or video as a data URI, with its caption."""
    media_type = MEDIA_TYPES.get(path.suffix.lower())
    if media_type is None:
        raise ValueError(f"{path} is neither a .png nor an .mp4 file; a page holds only these")
    if not path.is_file():
        raise ValueError(f"{path} does not exist; write the picture before the page")
    data = path.read_bytes()
    return {
        "uri": f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}",
        "caption": caption,
        "is_video": media_type.startswith("video/"),
        **(_room(data) if media_type == "image/png" else {}),
    }


def _room(png: bytes) -> dict[str, bool]:
    """Whether a PNG is too flat or too detailed to read in half the page's width, or on a telephone.

    Width and height are big-endian at bytes 16 and 20 (PNG specification, 11.2.1 IHDR).
    """
    width, height = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
    return {"is_wide": width > 1.8 * height or width > 1200, "is_large": width > 700}


def _table(rows: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Return the heads and cells of a table as text, each with whether its column holds numbers."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = [[row.get(name) for row in rows] for name in names]
    numeric = [all(_is_number(value) for value in column if value is not None) for column in columns]
    texts = [
        _numbers(column) if is_number else _words(column) for column, is_number in zip(columns, numeric, strict=True)
    ]
    return {
        "heads": list(zip(names, numeric, strict=True)),
        "rows": [list(zip(row, numeric, strict=True)) for row in zip(*texts, strict=True)],
    }


def _is_number(value: object) -> bool:
    """Tell whether a value is a number to be aligned; True and False are words."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _words(column: Sequence[object]) -> list[str]:
    """Return a column as text: yes and no for True and False, nothing for None."""
    return [{"True": "yes", "False": "no", "None": ""}.get(str(value), str(value)) for value in column]


def _numbers(column: Sequence[Any]) -> list[str]:
    """Return a column of numbers with its decimal points in line: four digits of a float, all of an integer.

    A column with values below 0.0001 keeps their exponents instead. What is no number at all is a dash.
    """
    floats = [f"{value:.4g}" for value in column if isinstance(value, float) and math.isfinite(value)]
    decimals = max((len(text.partition(".")[2]) for text in floats if "e" not in text), default=0)
    pattern = ".4g" if any("e-" in text for text in floats) else f",.{decimals}f"
    return ["" if value is None else "-" if math.isnan(value) else format(value, pattern) for value in column]
