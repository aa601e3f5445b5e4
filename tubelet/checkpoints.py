"""Checkpoints of a run: written aside and renamed, the one before kept, and a broken one never trusted."""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from .terminal import say

__all__ = ["LAST", "PREVIOUS", "is_in", "newest", "write"]

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
_ASIDE = "last.ckpt.part"


def write(folder: Path, save: Callable[[Path], None]) -> bool:
    """Write a checkpoint; whenever the process is killed, a whole one is left.

    Args:
        folder: of the run.
        save: writes the file whose path it is given.

    Returns:
        False where the disk is full: the ones before are left as they are, and a line says so.

    Raises:
        OSError: the folder cannot be written for another reason.
    """
    aside, last = folder / _ASIDE, folder / LAST
    try:
        save(aside)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch's writer says RuntimeError, whatever the cause
        is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or _is_full(folder)
        aside.unlink(missing_ok=True)
        if not is_full:
            raise
        there = next((f"; {path} stands" for path in _existing(folder)), "")
        say(f"{folder}: the disk is full, this checkpoint is not written{there}; free some space while the run goes on")
        return False
    if last.exists():
        last.replace(folder / PREVIOUS)
    aside.replace(last)
    return True


def is_in(folder: Path) -> bool:
    """Whether a folder has a checkpoint, whole or not."""
    return any(_existing(folder))


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run, None where there was never one; a line says which is broken.

    Raises:
        ValueError: there are checkpoints, and none is whole.
    """
    broken: list[str] = []
    for path in _existing(folder):
        if not (damage := _damage(path)):
            for line in broken:
                say(f"{line}; going on from {path}, the one before")
            return path
        broken.append(f"{path}: {damage}")
    if broken:
        raise ValueError(
            f"{'; '.join(broken)}: no checkpoint is whole. Train on from model.safetensors beside it, the best epoch, "
            "with --weights and another --out"
        )
    return None


def _existing(folder: Path) -> Iterator[Path]:
    return (path for name in (LAST, PREVIOUS) if (path := folder / name).exists())


def _damage(path: Path) -> str:
    """What is wrong with a file; its writer stored checksums."""
    try:
        with zipfile.ZipFile(path) as file:
            member = file.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        return f"damaged ({error})"
    return f"damaged (in {member})" if member else ""


def _is_full(folder: Path) -> bool:
    """Whether not even a small file fits."""
    return shutil.disk_usage(folder).free < 2**20
