"""Data sets on disk: which layout a path has, its samples and its classes.

Each family of layouts is a file here, which reads an annotation into rows of names; `recognise` says which family it
is. What all have in common is done in `collect`: where the videos lie, the numbers of the classes, the parts, and what
each class becomes in a mirror. All of them are imported when used, since `import tubelet` costs torch alone.
"""

from __future__ import annotations

import csv
import gc
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..sample import Task, VideoData
from .text import SUFFIXES

__all__ = ["SUFFIXES", "open_data"]

log = logging.getLogger("tubelet")


def open_data(
    path: str | os.PathLike, *, task: Task | None = None, fold: int | None = None, skip_missing: bool = False
) -> VideoData:
    """Recognise the layout of a folder, a list or an annotation file, and read which samples it names.

    Args:
        path: a folder of videos, of scans, of lists, or of a published data set; or one list, with which the lists
            that differ from it in the word train, val or test are read.
        task: what to read where there is a choice: Charades as multilabel or frames; ActivityNet, and lists with the
            start and end of each row, as frames or classify. None takes the first of these, of lists classify. Scans
            with masks are read as segment, scans of classes as classify.
        fold: which official fold of UCF101, HMDB51, Breakfast, 50Salads or GTEA, or which of a list's column `fold`
            validates; None takes the first. Of scans, which fold validates; None takes the last.
        skip_missing: leave out videos of your own lists that are not there, as those of published data sets are;
            `VideoData.missing` counts them.

    Raises:
        ValueError: no such path, no videos, one class only, a class of the validation part that training lacks, a row
            that cannot be read, or files that are not there; the message says what is wrong and what is accepted.
    """
    from .collect import collect
    from .recognise import recognise
    from .scans import open_scans

    if not os.fspath(path):
        raise ValueError("the path of the data is empty")
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such folder or list of videos")
    with _no_collection():
        try:
            data = open_scans(path, task, fold, skip_missing) or collect(
                path, recognise(path, task, fold), skip_missing
            )
        except csv.Error as error:
            raise ValueError(f"{path}: a row that csv cannot read ({error}); correct it, or give a list") from None
    sizes = ", ".join(f"{name} {len(samples)}" for name, samples in data.splits.items())
    log.info("%s: %s, %s, %d classes, %s", path, data.layout, data.task, len(data.classes), sizes)
    return data


@contextmanager
def _no_collection() -> Iterator[None]:
    """Nothing is garbage here, and looking for it among millions of new objects takes half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
