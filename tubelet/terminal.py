"""What a person sees in the terminal: progress bars, tables, log lines. The one file that imports rich."""

from __future__ import annotations

import csv
import functools
import io
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")


@functools.cache
def _console() -> Console:
    """One for bars and lines, so that a line appears above a running bar."""
    from rich.console import Console

    class Unbroken(Console):
        def on_broken_pipe(self) -> None:
            """What is said to a pipe that nobody reads any more is lost; rich would end the run."""
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), self.file.fileno())

    return Unbroken(stderr=True, highlight=False)


class Bar:
    """A bar on stderr: how much is done, at which rate, and when it will end. Nothing where that is no terminal."""

    def __init__(self, what: str, total: int | None) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        rate = TextColumn("{task.fields[rate]}")
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            rate,
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=_console(), transient=True, disable=not _console().is_terminal)
        self._task = self._progress.add_task(what, total=total, rate="")

    def start(self) -> None:
        """Show the bar."""
        self._progress.start()

    def advance(self) -> None:
        """One more is done."""
        speed = self._progress.tasks[0].speed
        self._progress.update(self._task, advance=1, rate=f"{speed:.1f}/s" if speed else "")

    def stop(self) -> None:
        """Take the bar away."""
        self._progress.stop()


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The items, with a `Bar` while they last; `total` where the items do not know their number."""
    bar = Bar(what, len(items) if total is None and isinstance(items, Sized) else total)
    bar.start()
    try:
        for item in items:
            yield item
            bar.advance()
    finally:
        bar.stop()


def say(line: str) -> None:
    """Print one line for the reader, on stderr, so that what a command answers stays alone on stdout."""
    _console().print(line, markup=False, emoji=False, soft_wrap=True)


@contextmanager
def told() -> Iterator[None]:
    """While it lasts, Python's warnings are lines for the reader, without a line of our code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: say(str(message))
        yield


class _Lines(logging.Handler):
    """Says each log line, above a bar that runs, on what stderr is by then."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


def log_to_terminal() -> None:
    """Show tubelet's own log lines (a new head, a looped video) on stderr."""
    logger = logging.getLogger("tubelet")
    if not logger.handlers:
        logger.addHandler(_Lines())
        logger.setLevel(logging.INFO)


@dataclass
class Table:
    """Rows of one kind with the figures that sum them up; `print(table)` draws it.

    Attributes:
        rows: mappings from column to value.
        summary: figures of the whole.
        title: one line above.
    """

    rows: Sequence[Mapping[str, object]]
    summary: Mapping[str, object] = field(default_factory=dict)
    title: str = ""

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table as Drawing

        drawing = Drawing(title=self.title or None, title_justify="left")
        for column in self.rows[0] if self.rows else ():
            is_text = isinstance(self.rows[0][column], str)
            drawing.add_column(column, justify="left" if is_text else "right", overflow="fold")
        for row in self.rows:
            drawing.add_row(*(show(row[column]) if column in row else "" for column in self.rows[0]))
        text = io.StringIO()
        out = Console(file=text, width=100, highlight=False, markup=False, emoji=False, color_system=None)
        if self.rows:
            out.print(drawing)
        for name, value in self.summary.items():
            out.print(f"{name}: {show(value)}")
        return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())

    def to_csv(self, path: str | os.PathLike) -> Path:
        """Write the rows with a header."""
        path = Path(path)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(self.rows[0]) if self.rows else [])
            writer.writeheader()
            writer.writerows(self.rows)
        return path


def show(value: object) -> str:
    """A value as a table shows it: floats to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def counted(n: int, noun: str) -> str:
    """How many there are of something, such as `1 video` or `2,000 videos`."""
    return f"{n:,} {noun}" + "s" * (n != 1)
