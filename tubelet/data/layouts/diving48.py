"""Diving48: 48 kinds of dives. Li et al. 2018, `[{vid_name, label, start_frame, end_frame}]` in json."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..sample import Task
from .rows import Found, Layout, Row
from .text import Part, names_of, read_json


def _is_diving48(file: Path, head: str) -> bool:
    return file.suffix.lower() == ".json" and bool(re.match(r'\s*\[\s*\{[^}]*"vid_name"', head))


def read(parts: Sequence[Part], task: Task | None) -> Found:
    """Whole videos: they are cut to their dives already.

    Raises:
        ValueError: an entry has another form.
    """
    rows = []
    for part in parts:
        for line, entry in enumerate(read_json(part.file), start=1):
            if not isinstance(entry, dict) or {"vid_name", "label"} - entry.keys():
                raise ValueError(f"{part.file}, entry {line} ({entry}): no vid_name or no label; get the file again")
            rows.append(Row((str(entry["vid_name"]),), str(entry["label"]), part.split, file=part.file, line=line))
    return Found(f"Diving48 ({names_of(parts)})", parts[0].file.parent, rows, is_official=True)


LAYOUTS = (Layout(_is_diving48, read),)
