"""A function on many items, in processes of their own: one that dies or hangs costs its item alone, and says so."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch

from .spec import at_least_one

Item = TypeVar("Item")
Answer = TypeVar("Answer")

CAN_FORK = sys.platform == "linux"  # macOS could, and its libraries crash

_END = object()
_limit_s: float | None = None  # of the item at hand; None outside of a worker


@dataclass(frozen=True)
class Failed:
    """What became of an item that got no answer.

    Attributes:
        reason: one line: the error, or how its process ended.
    """

    reason: str


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(
    function: Callable[[Item], Answer],
    items: Iterable[Item],
    *,
    workers: int | None = None,
    time_limit_s: float | None = None,
) -> Generator[tuple[Item, Answer | Failed]]:
    """(item, function(item)) for all items, in the order in which they are done.

    An error that the function raises is the item's answer, `Failed`; so is the end of its process, by a crash of a
    library or by the time limit. The other items go on. Closing the iterator, or Ctrl-C, ends the processes; they
    leave their `finally` blocks orderly.

    Args:
        function: what is done with an item; it runs in a forked process, so it may be any.
        items: taken one by one as workers get free.
        workers: processes; None takes one a core. Where processes are not forked (macOS, Windows) the work is done in
            this one, without a time limit.
        time_limit_s: seconds for one item, counted anew from each call of `alive`; None sets no limit.

    Raises:
        ValueError: fewer than one worker.
    """
    workers = cores() if workers is None else workers
    at_least_one(workers=workers)
    return _forked(function, items, workers, time_limit_s) if CAN_FORK else _here(function, items)


def alive() -> None:
    """Called by the function of `each` in the middle of long work: its time limit starts anew."""
    if _limit_s is not None:
        signal.setitimer(signal.ITIMER_REAL, _limit_s)


def _here(function: Callable[[Item], Answer], items: Iterable[Item]) -> Generator[tuple[Item, Answer | Failed]]:
    for item in items:
        yield item, _answer(function, item)


def _answer(function: Callable[[Item], Answer], item: Item) -> Answer | Failed:
    try:
        return function(item)
    except Exception as error:
        if isinstance(error, OSError) and error.filename:
            return Failed(f"{error.filename}: {error.strerror}")
        is_told = isinstance(error, ValueError | OSError | ImportError)
        return Failed(str(error) if is_told else " ".join(f"{type(error).__name__}: {error}".split()))


def _forked(
    function: Callable[[Item], Answer], items: Iterable[Item], workers: int, time_limit_s: float | None
) -> Generator[tuple[Item, Answer | Failed]]:
    context = multiprocessing.get_context("fork")
    waiting: Iterator[Any] = iter(items)
    crew: dict[Connection, BaseProcess] = {}
    at_work: dict[Connection, Item] = {}

    def hire() -> Connection:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, function, time_limit_s, [*crew, ours]), daemon=True)
        process.start()
        theirs.close()
        crew[ours] = process
        return ours

    def give(connection: Connection, item: Item) -> None:
        at_work[connection] = item
        with suppress(BrokenPipeError):  # it has died: its answer will say so
            connection.send(item)

    try:
        for item in islice(waiting, workers):
            give(hire(), item)
        while at_work:
            for connection in wait(list(at_work)):
                assert isinstance(connection, Connection)
                item = at_work.pop(connection)
                try:
                    answer = connection.recv()
                except (EOFError, OSError):
                    answer = Failed(_cause(crew.pop(connection), time_limit_s))
                following: Any = next(waiting, _END)
                if following is not _END:
                    give(connection if connection in crew else hire(), following)
                yield item, answer
    finally:
        _dismiss(crew)


def _serve(connection: Connection, function: Callable, time_limit_s: float | None, of_others: list[Connection]) -> None:
    """What a worker does: answer items until there are none."""
    global _limit_s
    for other in of_others:  # else it never learns that the parent has gone
        other.close()
    # the parent's may belong to a progress bar, whose lock was maybe held when this process was forked
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends its workers
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process even where it hangs in a library
    torch.set_num_threads(1)
    _limit_s = time_limit_s
    with suppress(EOFError, OSError):
        while True:
            item = connection.recv()
            alive()
            answer = _answer(function, item)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send(answer)


def _cause(process: BaseProcess, time_limit_s: float | None) -> str:
    process.join()
    code = process.exitcode or 0
    if code == -signal.SIGALRM:
        return f"took longer than {time_limit_s:g} s"
    if code == -signal.SIGKILL:
        return "its process was killed, as when the machine runs out of memory"
    return f"its process died ({signal.Signals(-code).name if code < 0 else f'exit status {code}'})"


def _dismiss(crew: dict[Connection, BaseProcess]) -> None:
    for process in crew.values():
        process.terminate()
    for connection, process in crew.items():
        process.join(5)
        process.kill()
        process.join()
        connection.close()
