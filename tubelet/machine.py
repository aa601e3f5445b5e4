"""What this machine has: optional packages, its allocator, a folder for what is downloaded or drawn once, and disks."""

import ctypes
import errno
import os
import platform
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

__all__ = ["FULL", "aside", "cache_dir", "folder_for", "glibc", "kept", "needs"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors of a disk, an account's share of it, or a file's largest size


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Guard the late import of an optional package: `with needs("video"): import av`.

    Args:
        extra: the name of the extra of `tubelet` that brings the package.

    Raises:
        ImportError: the package is missing; the message names it and the pip line that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        message = f'no module named {error.name!r}; install it with: pip install "tubelet[{extra}]"'
        raise ImportError(message, name=error.name) from error


def cache_dir() -> Path:
    """Where downloads and drawn data sets go: $TUBELET_CACHE, else `tubelet` in the user's cache folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("TUBELET_CACHE") or home / "tubelet")


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Another name beside `path` for a file or a folder that is being made, which takes its own when it is whole.

    What fails or is interrupted leaves nothing, and what was there before. Where the disk is full, the error has `path`
    as its `filename`.
    """
    # in the same folder, since a rename is atomic only within a file system
    made = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        yield made
        made.replace(path)
    except OSError as error:
        if error.errno in FULL and error.filename is None:  # an open file does not know its name
            error.filename = str(path)
        raise
    finally:
        if made.is_dir():
            shutil.rmtree(made, ignore_errors=True)
        else:
            made.unlink(missing_ok=True)


@contextmanager
def folder_for(path: Path) -> Iterator[Path]:
    """A folder to write to, made before the work, so that an error comes first; work that fails leaves none empty.

    Raises:
        OSError: it cannot be made, or written to.
    """
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "", str(path))
        try:
            with tempfile.TemporaryFile(dir=path):  # some hold no files of anybody's, such as /proc
                pass
        except OSError as error:
            code = errno.EACCES if error.errno == errno.ENOENT else error.errno
            raise OSError(code, "", str(path)) from None
        yield path
    except BaseException:
        with suppress(OSError):  # what holds something stays, as do those around it
            for folder in new:
                folder.rmdir()
        raise


@contextmanager
def kept(path: Path) -> Iterator[Path]:
    """`aside` for what is made once and kept in the cache folder. Another process may be the first to make it.

    Raises:
        ValueError: it cannot be written there; the message says where else.
    """
    try:
        with aside(path) as made:
            yield made
    except OSError as error:
        if not path.exists():
            reason = error.strerror or error
            raise ValueError(
                f"{path}: cannot be written ({reason}); set TUBELET_CACHE to a folder that can be"
            ) from None


@cache
def glibc() -> ctypes.CDLL | None:
    """The C library, where it is glibc, whose allocator can be told when to give memory back; else None."""
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
