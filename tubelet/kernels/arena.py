"""Memory that the tensors of one run leave to those of the next, on a CPU.

torch takes the memory of each large tensor from the system and gives it back, so that every answer of a network pays
for every page of its maps: a tenth of the time of r2plus1d_18, a sixth of that of ir_csn_101. Nothing needs the arena:
where it cannot be built, `kept` does nothing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from . import native

__all__ = ["available", "kept", "size", "trim", "why"]

_SOURCE = Path(__file__).with_name("arena.cpp")


@cache
def _library() -> tuple[ctypes.CDLL | None, str]:
    """The library, which stands before torch's allocator from now on, or None and why there is none."""
    home = Path(torch.__file__).parent
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    library, reason = native.library(_SOURCE, "-std=c++20", f"-I{home / 'include'}", abi, f"-L{home / 'lib'}", "-lc10")
    if library is not None:
        library.arena_size.restype = ctypes.c_int64
        library.arena_install()
    return library, reason


def available() -> bool:
    """Whether there is one. The first call builds it, which takes some seconds, and keeps it on disk."""
    return _library()[0] is not None


def why() -> str:
    """One line that tells why there is none; empty where there is."""
    return _library()[1]


@contextmanager
def kept() -> Iterator[None]:
    """Tensors made in here by this thread take the memory of those that were freed in here.

    What is freed outside goes back to the system, such as the answers of a network. At most four times what a tensor
    needs is lent to it.
    """
    library = _library()[0]
    if library is None:
        yield
        return
    library.arena_enter()
    try:
        yield
    finally:
        library.arena_leave()


def size() -> int:
    """Bytes that are kept and not in use."""
    library = _library()[0]
    return 0 if library is None else int(library.arena_size())


def trim() -> None:
    """Give back what is kept and not in use."""
    library = _library()[0]
    if library is not None:
        library.arena_trim()
