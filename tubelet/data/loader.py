"""Batches: the processes that read them, files that cannot be read, and where an epoch was.

The order of an epoch is a pure function of its number, and every clip is one of its key. A loader that goes on in the
middle of an epoch therefore begins at a number: nothing is read again, nothing is stored but that number.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import shutil
import signal
import sys
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import groupby
from multiprocessing.connection import wait
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from ..processes import CAN_FORK, cores
from .order import EpochOrder, Key, Part, deal
from .video import VideoError

log = logging.getLogger("tubelet")

OnBad = Literal["raise", "skip", "substitute"]
Read = tuple[list, dict[str, str]]  # items, and why samples have none

SKIP = "(--on_bad skip goes on without such files and counts them)"
ON_BAD = ("raise", "skip", "substitute")
SUBSTITUTES = 10  # tries before a data set counts as broken
POLL_S = 5.0  # how long a worker may be dead before it is seen where no signal tells (Windows, threads)
NOTE_BYTES = 1024
STOPS = {signal.SIGINT, signal.SIGTERM}  # which a terminal and a cluster send to the workers, too


class Readable(Protocol):
    """What a loader reads: items by key, and the name of what is behind a key.

    A data set that reads several keys of one video better at once has torch's `__getitems__(keys)` as well.
    """

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, key: Any) -> tuple:
        """What belongs to a key; VideoError where it cannot be read."""

    def name(self, key: Any) -> str:
        """The sample's name, for errors."""


def loader(
    dataset: Readable,
    batch_size: int,
    *,
    order: EpochOrder | Sequence[int] | np.ndarray | Tensor | None = None,
    accumulate: int = 1,
    rank: int = 0,
    world: int = 1,
    workers: int | None = None,
    on_bad: OnBad = "raise",
    timeout_s: float = 600,
) -> Batches:
    """Batches of `batch_size` clips, the last one maybe smaller.

    Args:
        dataset: gives an item for each key.
        batch_size: clips in a step, which is one batch unless several processes or parts share it, see `steps.deal`.
        order: the keys: of an `EpochOrder`, epoch after epoch, or these, every time, such as
            `range(rank, len(dataset), world)` for the part of one process of an exact evaluation, of which nothing may
            be left. None takes the samples as they stand.
        accumulate: batches of a step that a process reads one after another.
        rank: of this process, of `world` that share each step.
        world: number of processes.
        workers: processes that read; 0 reads in this one. None takes one a core and leaves one core to the network,
            and 0 where processes are not forked (macOS, Windows).
        on_bad: what a file does that cannot be read: raise ends with an error that names it, skip leaves its sample
            out, substitute takes another one, always the same. Batches that would be empty are left out; in an
            `EpochOrder` they get one substitute, since every process must have as many steps.
        timeout_s: seconds without a batch that end with an error which names what the workers read; 0 waits forever.

    Raises:
        ValueError: workers, on_bad or timeout_s are out of their range, or the order is of another number of samples.
    """
    if workers is None:
        # elsewhere a worker imports the caller's script anew, which runs a script without `if __name__` twice
        workers = max(1, min(8, cores() - 1)) if CAN_FORK else 0
    if workers < 0:
        raise ValueError(f"workers {workers} must be at least 0")
    if on_bad not in ON_BAD:
        raise ValueError(f"on_bad {on_bad!r}; there is {', '.join(ON_BAD)}")
    if on_bad == "substitute" and not isinstance(order, EpochOrder):
        raise ValueError("on_bad substitute is for training: an evaluation measures what is there; take skip")
    if timeout_s < 0:
        raise ValueError(f"timeout_s {timeout_s} must be at least 0")
    if isinstance(order, EpochOrder) and order.num_samples != len(dataset):
        raise ValueError(f"an order of {order.num_samples} samples for {len(dataset)}: give EpochOrder their number")
    if isinstance(order, np.ndarray | Tensor):
        order = order.tolist()
    order = range(len(dataset)) if order is None else order
    parts = deal(len(order), batch_size, accumulate=accumulate, rank=rank, world=world) if order else []
    return Batches(dataset, parts, batch_size, accumulate, order, workers, on_bad, timeout_s)


class Batches:
    """What `loader` returns: each `iter` is an epoch, `len` its batches.

    An epoch that was finished is followed by the next one; `set_epoch` chooses another. `state_dict` tells where the
    epoch is: after the batches that were handed out, whatever the workers have read ahead. A loader of the same data,
    order and batch size that loads it goes on with the next batch.

    Attributes:
        dataset: what is read.
        parts: which of the epoch's clips each batch has, and its place in a step.
        epoch: the one that is read, or will be.
        position: batches of it that were handed out.
        bad: samples that could not be read, by name, and why, in the order in which they were met, over all epochs.
    """

    batch_sampler = None  # Lightning looks here before it looks at `sampler`

    def __init__(
        self,
        dataset: Readable,
        parts: Sequence[Part],
        batch_size: int,
        accumulate: int,
        order: EpochOrder | Sequence[int],
        workers: int,
        on_bad: OnBad,
        timeout_s: float,
    ) -> None:
        self.dataset, self.parts, self.order = dataset, parts, order
        self.batch_size, self.accumulate = batch_size, accumulate
        self.on_bad, self.timeout_s = on_bad, timeout_s
        self.epoch = self.position = 0
        self.bad: dict[str, str] = {}
        self._goes_on = False
        self._current: object | None = None  # the iteration that is under way
        self._plan = _Plan()
        self._notes = RawArray(ctypes.c_char * NOTE_BYTES, max(1, workers))
        self._loader = DataLoader(
            _Reader(dataset, on_bad, isinstance(order, EpochOrder), self._notes),
            batch_sampler=self._plan,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=_collate,
            pin_memory=torch.cuda.is_available(),
            timeout=min(POLL_S, timeout_s or POLL_S) if workers else 0,
            worker_init_fn=_begin,
            multiprocessing_context="fork" if workers and CAN_FORK else None,
        )
        _LOADERS.add(self)

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def sampler(self) -> Batches:
        """Where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Read this epoch next, from its beginning; the one that a loaded state is in goes on where it was."""
        if epoch != self.epoch or (self.position == len(self) and not self._goes_on):
            self.epoch, self.position, self._goes_on = epoch, 0, False

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch is, plain values."""
        return {"epoch": self.epoch, "position": self.position, "bad": dict(self.bad), "of": self._made_of()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: the state is of another number of clips, batch size or seed.
        """
        of, mine = dict(state["of"]), self._made_of()
        batches = of.pop("batches")
        del mine["batches"]  # a last step of few clips has fewer parts for more processes, or none
        if of != mine:
            raise ValueError(
                f"the state of a loader of {state['of']} does not fit this one of {self._made_of()}: "
                "go on with the same data and arguments"
            )
        self.epoch, self.bad = state["epoch"], dict(state["bad"])
        self.position = min(state["position"], len(self))
        # there may be nothing left of an epoch that is not finished, and the reverse
        self._goes_on = state["position"] < batches or self.position < len(self)

    def _made_of(self) -> dict[str, int]:
        made = {"clips": len(self.order), "batch_size": self.batch_size, "accumulate": self.accumulate}
        made["batches"] = len(self)
        if isinstance(self.order, EpochOrder):
            made |= {"seed": self.order.seed, "clips_per_video": self.order.clips_per_video}
            made["balanced"] = self.order.classes is not None
        return made

    def __iter__(self) -> Iterator[list]:
        # A generator: Lightning asks for iterators that it never reads from, and tells the epoch after the asking.
        if not self._goes_on:
            self.set_epoch(self.epoch + (self.position == len(self)))
            self.position = 0
        self._goes_on = False
        if self._current:  # an epoch that was left: what its workers have read ahead is not wanted
            self.close()
        current = self._current = object()
        keys = self.order.keys(self.epoch) if isinstance(self.order, EpochOrder) else self.order
        parts = self.parts[self.position :]  # the generator below must not hold `self`, see `close`
        self._plan.batches = (list(keys[part.start : part.stop]) for part in parts)
        is_empty = self.position == 0
        try:
            with nullcontext() if self._loader._iterator is not None else _held_back():
                batches = iter(self._loader)
            for _ in parts:
                if self._current is not current:
                    raise RuntimeError("this loader was closed or iterated anew; to read twice at once, make two")
                batch = self._next(batches)
                self.position += 1
                if self.position == len(self):
                    self._current = None
                    if self.bad:
                        log.warning(told(self.bad, len(self.dataset)))
                if batch is not None:
                    is_empty = False
                    yield batch
            # one process's part, all of it bad, tells nothing of the others'
            is_part = isinstance(self.order, range) and self.order.step > 1
            if is_empty and parts and not is_part:
                raise VideoError(f"no sample is left: {told(self.bad, len(self.dataset))}")
        except Exception:
            if self._current in (current, None):
                self.close()
            raise

    def close(self) -> None:
        """End the workers at once; a later epoch starts new ones.

        Where a loader is part of a cycle of references, as in a Lightning trainer, torch waits five seconds for each
        worker before it ends it: close it there.
        """
        self._current = None
        iterator, self._loader._iterator = self._loader._iterator, None
        if iterator is not None:
            with suppress(RuntimeError):  # once more, that a worker has died
                cast(Any, iterator)._shutdown_workers()
            for worker in cast(Any, iterator)._workers:
                worker.kill()  # what hears nothing else, Python would wait for when it exits
                worker.join(1)

    def _next(self, batches: Iterator) -> list | None:
        """The next batch, however often torch stops to look after its workers; None where all of it was bad."""
        since = time.monotonic()
        while True:
            try:
                with self.watched():
                    batch, bad = next(batches)
            except _StillWaitingError:
                if self.timeout_s and time.monotonic() - since >= self.timeout_s:
                    raise TimeoutError(
                        f"no batch in {self.timeout_s:g} s; {self._reading()}: its disk or network hangs, or the file "
                        "is the cause; `tubelet doctor data` looks at every file"
                    ) from None
                continue
            except VideoError as error:  # of a worker: without the traceback that torch puts before it
                raise VideoError(reason(error)) from None
            if bad and self.on_bad == "raise":
                line = next(iter(bad.values()))
                raise VideoError(f"{line} {SKIP}")
            self.bad |= bad
            return batch

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Tell what torch says of a worker's end, wherever in the process it says it, in one line.

        Raises:
            ChildProcessError: a worker died: which, of what, the file that it read, and what helps.
            OSError: the shared memory is full.
        """
        try:
            yield
        except (RuntimeError, OSError, EOFError) as error:
            try:
                self._tell(error)
            except RuntimeError:  # by a signal, torch tells of a worker's end at whichever line is run
                self._tell(error)
            raise

    def _tell(self, error: Exception) -> None:
        """Raise what an error of torch's means in one line, where it is of a worker."""
        text = str(error)
        if "DataLoader timed out" in text:
            raise _StillWaitingError from None
        # one that died while it handed over a batch leaves a broken connection, and its end to be awaited
        is_lost = isinstance(error, ConnectionError | EOFError)
        if (is_lost or "DataLoader worker" in text) and (fate := self._fate()):
            raise ChildProcessError(fate) from None
        if isinstance(error, RuntimeError) and ("shared memory" in text or "No space left on device" in text):
            raise OSError(f"no room in the shared memory for the workers' batches; {_room()}") from None

    def _fate(self) -> str | None:
        """The first dead worker's end."""
        workers = getattr(self._loader._iterator, "_workers", [])
        with suppress(RuntimeError):  # torch may say it only now
            ended = wait([worker.sentinel for worker in workers], timeout=1)
            for worker in workers:
                if worker.sentinel in ended:
                    worker.join()
        for number, worker in enumerate(workers):
            if (code := worker.exitcode) is None:
                continue
            how = signal.Signals(-code).name if code < 0 else f"status {code}"
            where = f"while it read {file}" if (file := self._read_by(number)) else "between two files"
            return f"worker {number} (process {worker.pid}) died of {how} {where}: {_advice(how)}"
        return None

    def _reading(self) -> str:
        files = [(number, self._read_by(number)) for number in range(len(self._notes))]
        return ", ".join(f"worker {number} reads {file}" for number, file in files if file) or "no worker reads a file"

    def _read_by(self, worker: int) -> str:
        return self._notes[worker].value.decode(errors="replace")


_LOADERS: weakref.WeakSet[Batches] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_LOADERS.clear)  # their workers are the parent's


@atexit.register
def _close_all() -> None:
    """Before Python waits for the workers, which hear no SIGTERM."""
    for batches in list(_LOADERS):
        batches.close()


class _StillWaitingError(Exception):
    """No batch came in POLL_S, and no worker is dead."""


class _Plan:
    """The keys of the batches to read; torch holds on to one object for all epochs."""

    batches: Iterator[list] = iter(())

    def __iter__(self) -> Iterator[list]:
        return self.batches


@contextmanager
def _held_back() -> Iterator[None]:
    """While it lasts, `STOPS` wait, and so they do in processes that are started, until `_begin`."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(worker: int) -> None:
    """What a worker does first."""
    # Ctrl-C and a cluster's end reach a group of processes at once: the parent hears them, finishes its step with the
    # workers' batches, and ends them. Where it has died, they find that out by themselves.
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    # The parent's may belong to a progress bar, whose lock was maybe held when this process was forked.
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


class _Reader(Dataset):
    """Reads batches, in a worker process where there are any: items, and why samples have none."""

    def __init__(self, dataset: Readable, on_bad: OnBad, fills: bool, notes: Any) -> None:
        self.dataset, self.on_bad, self.fills, self.notes = dataset, on_bad, fills, notes

    def __getitems__(self, keys: list) -> Read:
        items: list = []
        bad: dict[str, str] = {}
        for name, several in groupby(keys, self.dataset.name):
            same = list(several)
            try:
                items += self._read(same)
            except VideoError as error:
                bad[name] = _line(name, error)
                if self.on_bad == "raise":
                    return [], bad
                if self.on_bad == "substitute":
                    items += self._substitute(same, bad)
        if not items and self.fills:
            items = self._substitute(keys[:1], bad)
        return items, bad

    def _read(self, keys: list) -> list:
        """Items of keys of one sample."""
        worker = get_worker_info()
        note = self.notes[worker.id if worker else 0]
        note.value = os.fsencode(self.dataset.name(keys[0]))[1 - NOTE_BYTES :]  # a file is known by the end of its name
        try:
            read = getattr(self.dataset, "__getitems__", None)
            return read(keys) if read else [self.dataset[key] for key in keys]
        finally:
            note.value = b""

    def _substitute(self, keys: list[Key], bad: dict[str, str]) -> list:
        """Items of another sample, with the epoch and the draws of these keys: the same for the same keys."""
        generator = torch.Generator().manual_seed(hash(keys[0]) & (2**63 - 1))
        for index in torch.randint(len(self.dataset), (SUBSTITUTES,), generator=generator).tolist():
            others = [(epoch, index, draw) for epoch, _, draw in keys]
            try:
                return self._read(others)
            except VideoError as error:
                name = self.dataset.name(others[0])
                bad[name] = last = _line(name, error)
        raise VideoError(f"{SUBSTITUTES} samples in place of {self.dataset.name(keys[0])} are bad as well, last {last}")


def _line(name: str, error: Exception) -> str:
    """What is wrong with a sample, its file first."""
    text = str(error)
    return text if text.startswith(name.partition("[")[0]) else f"{name}: {text}"


def told(bad: Mapping[str, str], total: int) -> str:
    """How many samples are bad, and the first three reasons, in one line."""
    first = "; ".join(list(bad.values())[:3])
    return f"{len(bad):,} of {total:,} samples are bad, first {first}"


def _collate(read: Any) -> tuple[list | None, dict[str, str]]:
    """One batch of what a `_Reader` has read; boxes (N, 4) become rows (clip, x1, y1, x2, y2) of all clips."""
    items, bad = read
    if not items:
        return None, bad
    sizes = sorted({tuple(item[0].shape[-2:]) for item in items if isinstance(item[0], Tensor)})
    if len(sizes) > 1:
        raise VideoError(
            f"clips of different sizes (height, width) {sizes} cannot be one batch: give a crop, or resize to a size"
        )
    batch: list = []
    for column in zip(*items, strict=True):
        if isinstance(column[0], tuple):
            clips = [torch.full((len(boxes), 1), float(i)) for i, (boxes, _) in enumerate(column)]
            boxes = torch.cat([boxes for boxes, _ in column])
            batch += [torch.cat([torch.cat(clips), boxes], dim=1), torch.cat([targets for _, targets in column])]
        else:
            batch.append(default_collate(list(column)))
    return batch, bad


def _advice(how: str) -> str:
    """What helps where a worker has died of this."""
    if how == "SIGKILL":
        return "most often the memory was full; take fewer workers or a smaller batch_size"
    if how == "SIGBUS":
        return f"most often the shared memory was full; {_room()}"
    return "if it dies at this file again, the file is the cause; `tubelet doctor data` looks at every file"


def _room() -> str:
    """What helps where the shared memory, in which batches travel from the workers, is too small."""
    path = Path("/dev/shm")
    size = f" has {shutil.disk_usage(path).total >> 20:,} MB" if path.exists() else ""
    return f"{path}{size}: give it more (docker run --shm-size 8g), or take a smaller batch_size or workers 0"


def reason(error: Exception) -> str:
    """What an error says in one line; one that a worker process raised comes wrapped in its traceback."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    text, name = str(error).strip(), type(error).__name__
    if "Original Traceback" in text:
        name, _, text = text.splitlines()[-1].partition(": ")
    return text or name
