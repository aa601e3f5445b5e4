"""Tensors out of a pickle, without running it.

A pickle is a program that may call any function it names. The `Inert` reader gives it numpy arrays, tensors and plain
containers, and an empty shell for every other name, which it neither imports nor calls: training arguments, learning
rate schedules and the like that people save beside their weights come out as shells and harm nobody.
"""

from __future__ import annotations

import codecs
import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle in a file of torch before 1.6
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Shell:
    """What stands in for an object of an unknown class: takes everything, does nothing."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def __call__(self, *arguments: Any, **options: Any) -> Shell:
        """Stand in for what the object would have made."""
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Take an item of what was a list."""

    def extend(self, items: Any) -> None:
        """Take items of what was a list."""

    def add(self, item: Any) -> None:
        """Take an item of what was a set."""


class Inert(pickle.Unpickler):
    """Unpickler that knows numpy arrays, and tensors where `storages` are given, and makes a `Shell` of the rest.

    Args:
        file: open for reading in binary.
        storages: numbers of the tensors by key, each 1-D; filled as the pickle asks for them, by `storage`.
    """

    def __init__(self, file: BinaryIO, storages: dict[str, Tensor] | None = None) -> None:
        super().__init__(file, encoding="latin1")  # what numpy of Python 2 wrote
        self.storages = {} if storages is None else storages

    def find_class(self, module: str, name: str) -> Any:
        """A container, an array's maker, a tensor's maker or a new class of shells."""
        full = f"{module}.{name}"
        # new functions each time: a pickle can set attributes on what it is given, and these are thrown away with it
        makers: dict[str, Any] = {
            "collections.OrderedDict": OrderedDict,
            "numpy.ndarray": type("ndarray", (), {}),  # what is made of it, `_reconstruct` tells
            "numpy.dtype": np.dtype,
            "_codecs.encode": lambda text, encoding="latin1": codecs.latin_1_encode(text)[0],
            "torch._utils._rebuild_tensor_v2": lambda *given: _tensor(*given[:4]),
            "torch._utils._rebuild_tensor": lambda *given: _tensor(*given[:4]),
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
            "torch.storage._load_from_bytes": lambda content: _read(io.BytesIO(content)),
        }
        for core in ("numpy.core", "numpy._core"):  # before and since numpy 2
            makers[f"{core}.multiarray._reconstruct"] = lambda *_: _Array.__new__(_Array, (0,), "b")
            makers[f"{core}.numeric._frombuffer"] = lambda *given: _array(*given)
        if full in makers:
            return makers[full]
        if module.split(".")[0] == "torch" and name in DTYPES:
            return DTYPES[name]
        return type(name, (Shell,), {})

    def persistent_load(self, pid: Any) -> Tensor:
        """The numbers of a tensor, ("storage", dtype, key, device, how many, ...)."""
        _, dtype, key, _, count = pid[:5]
        if key not in self.storages:
            self.storages[key] = self.storage(key, dtype, count)
        return self.storages[key]

    def storage(self, key: str, dtype: torch.dtype, count: int) -> Tensor:
        """Room for the numbers of a tensor, (N,); they follow the pickle in the file."""
        return torch.empty(count, dtype=dtype)


class InertZip(Inert):
    """`Inert` for a file of torch since 1.6, a zip with one member for each storage."""

    def __init__(self, file: BinaryIO, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self.archive = archive
        self.folder = folder

    def storage(self, key: str, dtype: torch.dtype, count: int) -> Tensor:
        """The numbers of a tensor, (N,)."""
        return _numbers(self.archive.read(f"{self.folder}/data/{key}"), dtype)


_NUMBERS = "biufcSU"  # kinds of arrays whose bytes are what they hold, numbers and texts


class _Array(np.ndarray):
    """An array that a pickle fills with numbers or texts.

    Of objects, whose bytes numpy takes for pointers if a file's dtype says that it has none, it stays empty.
    """

    def __setstate__(self, state: Any) -> None:
        if state[2].kind in _NUMBERS:
            super().__setstate__(state)


def _array(content: bytes, dtype: np.dtype, shape: tuple[int, ...], order: Any) -> np.ndarray:
    if dtype.kind not in _NUMBERS:
        return np.empty(0, "b")
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def _numbers(content: bytes, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    return storage.as_strided(size, stride, offset)


def read_zip(path: Path) -> Any:
    """Content of a file of torch since 1.6, other objects as shells.

    Raises:
        Exception: of any type, when it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        folder = next(name.rpartition("/")[0] for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(f"{folder}/data.pkl") as file:
            return InertZip(file, archive, folder).load()  # type: ignore[arg-type]


def read_pickle(path: Path) -> Any:
    """Content of a plain pickle, or of a file of torch before 1.6; other objects as shells.

    Raises:
        Exception: of any type, when it is damaged or no pickle.
    """
    with path.open("rb") as file:
        return _read(file)


def _read(file: BinaryIO) -> Any:
    content = Inert(file).load()
    if content != MAGIC:
        return content
    for _ in range(2):  # version of the format, and the machine's own sizes
        Inert(file).load()
    storages: dict[str, Tensor] = {}
    content = Inert(file, storages).load()
    for key in Inert(file).load():
        (count,) = torch.frombuffer(bytearray(file.read(8)), dtype=torch.int64).tolist()
        whole = storages[key]
        whole.copy_(_numbers(file.read(count * whole.element_size()), whole.dtype))
    return content
