"""What the C++ kernels share: they are compiled on first use, and read tensors in channels_last_3d."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import machine

__all__ = ["checked", "fields", "library", "parallel", "pixel"]

_FLAGS = ("-O3", "-shared", "-fPIC", "-pthread")
_HASH = 32  # bytes behind a library that is kept: the SHA-256 of it
_LIMIT_S = 300.0  # for the compiler, which takes five seconds of a processor; more where that is busy


def _compiler() -> str | None:
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    return next(filter(None, (shutil.which(name) for name in names if name)), None)


class _BuildError(Exception):
    """Why the compiler gave no library, in one line."""


def _compile(compiler: str, source: Path, flags: Sequence[str], library: Path) -> None:
    with tempfile.TemporaryFile() as log:
        command = [compiler, *_FLAGS, str(source), *flags, "-o", str(library)]
        # in a group of its own, so that what the compiler starts ends with it
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            status = process.wait(_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise _BuildError(f"{compiler} did not end within {_LIMIT_S:g} s") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(0)
        said = log.read().decode(errors="replace").split("\n")
    if status:
        line = next((line for line in said if "error" in line), said[0])
        raise _BuildError(f"{compiler} ended with status {status}: {line or 'it said nothing'}")
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        raise _BuildError(f"{compiler} made a library that does not load: {error}") from None


def _is_whole(library: Path) -> bool:
    """Whether a library is as it was kept, its own hash behind it: to load a part of one may end the process."""
    held = library.read_bytes() if library.exists() else b""
    return held[-_HASH:] == hashlib.sha256(held[:-_HASH]).digest()


def library(source: Path, *flags: str) -> tuple[ctypes.CDLL | None, str]:
    """A C++ file as a library, compiled the first time on a machine and kept in the cache folder.

    Args:
        source: the file.
        flags: for the compiler, beside those of all kernels.

    Returns:
        The library, or None and one line that tells why there is none.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None, f"the kernels are for x86-64 and Linux, this is {platform.machine()} and {platform.system()}"
    compiler = _compiler()
    if compiler is None:
        return None, "no C++ compiler was found ($CXX, c++, g++, clang++); install one, such as g++"
    try:
        version = Path(compiler).stat().st_mtime_ns
        parts = (source.read_bytes(), compiler, version, _FLAGS, flags, platform.libc_ver(), torch.__version__)
        name = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
        path = machine.cache_dir() / "kernels" / f"{source.stem}-{name}.so"
        if not _is_whole(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with machine.kept(path) as made:
                _compile(compiler, source, flags, made)
                with made.open("ab") as file:  # it is loaded by now, and may not be written anew
                    file.write(hashlib.sha256(made.read_bytes()).digest())
            if not _is_whole(path):
                raise _BuildError(f"{path}: is damaged, and cannot be written anew: remove it")
        return ctypes.CDLL(str(path)), ""
    except (_BuildError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: a user without a home
        return None, str(error)


@cache
def parallel() -> int | None:
    """Address of GOMP_parallel in the OpenMP library that torch runs on, so that both share their threads."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    paths = {line.split(maxsplit=5)[-1] for line in maps if "omp" in line.rpartition("/")[2]}
    folder = str(Path(torch.__file__).parent)
    for path in sorted(paths, key=lambda path: (not path.startswith(folder), path)):
        with suppress(OSError, AttributeError):
            return ctypes.cast(ctypes.CDLL(path).GOMP_parallel, ctypes.c_void_p).value
    return None


def fields(numbers: str, pointers: str) -> list[tuple[str, Any]]:
    """Of a structure that a kernel takes: names of 64-bit numbers, then of pointers, apart by spaces."""
    kinds = ((numbers, ctypes.c_int64), (pointers, ctypes.c_void_p))
    return [(name, kind) for names, kind in kinds for name in names.split()]


def pixel(x: Tensor) -> int:
    """Floats from one pixel of x to the next: C, or more for some channels of a wider tensor; 0 in other layouts."""
    _, c, t, h, w = x.shape
    steps = {4: 1, 3: w, 2: h * w, 0: t * h * w}  # pixels from one of an axis to the next
    found = {x.stride(axis) / step for axis, step in steps.items() if x.shape[axis] > 1} or {c}
    is_right = len(found) == 1 and min(found) >= c and (c == 1 or x.stride(1) == 1)
    return int(found.pop()) if is_right else 0


def checked(x: Tensor, name: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """x itself.

    Raises:
        ValueError: it is not of this shape and type and on the CPU.
    """
    if x.shape != tuple(shape) or x.dtype != dtype or x.device.type != "cpu":
        wanted = f"{str(dtype).removeprefix('torch.')} {tuple(shape)}"
        raise ValueError(f"{name} is {x.dtype} {tuple(x.shape)} on {x.device}; it must be {wanted} on the CPU")
    return x
