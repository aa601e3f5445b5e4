"""Voxels that lie in a file as they are: arrays of numpy, the data of MetaImage, and maps of them."""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from .grid import VolumeError

__all__ = ["check_tiff", "is_packed", "keep_space", "map_bytes", "map_meta", "open_array", "unpack_meta"]

# https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf
_BITS, _PHOTOMETRIC, _SAMPLES, _PALETTE = 258, 262, 277, 3

# https://itk.org/Wiki/ITK/MetaIO/Documentation; MET_LONG is left out, whose size depends on the machine
_DTYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip


def open_array(path: Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    """The array of a .npy file or the only one of a .npz, brought to (C, D, H, W).

    Raises:
        VolumeError: not such an array.
    """
    try:
        array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            with array as arrays:
                if len(arrays.files) != 1:
                    raise VolumeError(f"{path}: {len(arrays.files)} arrays ({', '.join(arrays.files)}); keep one in it")
                array = arrays[arrays.files[0]]
    except VolumeError:
        raise
    except Exception as error:  # numpy lets those of zipfile, zlib and struct through
        raise VolumeError(f"{path}: not an array that numpy can read ({error or 'empty'})") from None
    if array.ndim not in (2, 3, 4) or array.dtype.kind not in "biuf" or not array.size:
        raise VolumeError(f"{path}: {array.shape} of {array.dtype}; give numbers (H, W), (D, H, W) or (C, D, H, W)")
    array = array.view(np.uint8) if array.dtype.kind == "b" else array
    return array.reshape((1,) * (4 - array.ndim) + array.shape)


def check_tiff(path: Path) -> None:
    """Refuse what ITK reads as colours though a voxel is one number.

    Raises:
        VolumeError: the numbers of a TIFF are those of colours in a palette, or have less than 8 bits.
    """
    tags = _tiff_tags(path)
    if tags.get(_PHOTOMETRIC) == _PALETTE:
        raise VolumeError(f"{path}: colours of a palette; save it as greyscale, with the labels as they are")
    if tags and tags.get(_SAMPLES, 1) == 1 and (bits := tags.get(_BITS, 1)) < 8:
        raise VolumeError(f"{path}: bits a voxel: {bits}; save it as greyscale of 8 or more")


def _tiff_tags(path: Path) -> dict[int, int]:
    """Tags of the first page of a TIFF that are one number of 16 bits; nothing where they cannot be read."""
    with path.open("rb") as file:
        head = file.read(16)
        order = ">" if head[:2] == b"MM" else "<"
        is_big = head[2:4] in (b"+\0", b"\0+")  # BigTIFF
        place, number, entry = ("8xQ", "Q", "HHQH6x") if is_big else ("4xI", "H", "HHIH2x")
        try:
            file.seek(*struct.unpack_from(order + place, head))
            page = file.read(2**16)
            (length,) = struct.unpack_from(order + number, page)
            begin, size = struct.calcsize(order + number), struct.calcsize(order + entry)
            entries = struct.iter_unpack(order + entry, page[begin : begin + length * size])
            return {tag: value for tag, _, count, value in entries if count == 1}
        except (struct.error, OverflowError):
            return {}


def keep_space(path: Path, like: Path) -> None:
    """Give a NRRD file the geometry of another, as that has it in writing: ITK's own digits differ in the last one.

    Nothing is done where they have not as many axes, or one of them has not all three fields of it.
    """
    with like.open("rb") as file:
        theirs = _nrrd_lines(file.read(2**16))
    data = path.read_bytes()
    ours = _nrrd_lines(data)
    names = {b"space", b"space directions", b"space origin"}
    if ours.get(b"dimension") == theirs.get(b"dimension") and names <= ours.keys() & theirs.keys():
        head, voxels = data.split(b"\n\n", 1)
        for name in names:
            head = head.replace(name + b": " + ours[name], name + b": " + theirs[name])
        path.write_bytes(head + b"\n\n" + voxels)


def _nrrd_lines(data: bytes) -> dict[bytes, bytes]:
    """The fields of its header, which ends with an empty line, by their names in small letters.

    https://teem.sourceforge.net/nrrd/format.html
    """
    head = data.replace(b"\r\n", b"\n").split(b"\n\n", 1)[0]
    pairs = (line.partition(b":") for line in head.splitlines() if not line.startswith(b"#"))
    return {name.strip().lower(): value.strip() for name, colon, value in pairs if colon}


def map_bytes(path: Path, offset: int, num_bytes: int) -> np.ndarray:
    """A read-only map of so many bytes of a file.

    Raises:
        VolumeError: they are not there.
    """
    try:
        return np.memmap(path, np.uint8, "r", offset, (num_bytes,))
    except (OSError, ValueError) as error:
        raise VolumeError(f"{path}: cut short, or not there ({error}); copy it again") from None


def map_meta(path: Path, shape: tuple[int, ...], num_values: int) -> np.ndarray | None:
    """A map of the voxels of a MetaImage (.mha, .mhd).

    Args:
        path: the file.
        shape: of its axes, slowest first.
        num_values: of a voxel.

    Returns:
        (*shape, num_values), or None where the voxels do not lie in one file as they are.

    Raises:
        VolumeError: they are not all there.
    """
    found = _meta(path, shape, num_values, packed="false")
    if found is None:
        return None
    file, offset, num_bytes, dtype = found
    return map_bytes(file, offset, num_bytes).view(dtype).reshape(*shape, num_values)


def is_packed(path: Path) -> bool:
    """Whether the voxels of a MetaImage are compressed."""
    return _fields(path)[0].get("CompressedData", "").lower() == "true"


def unpack_meta(path: Path, shape: tuple[int, ...], num_values: int) -> np.ndarray | None:
    """The voxels of a compressed MetaImage, which ITK takes as they come where their checksum is another.

    Args:
        path: the file.
        shape: of its axes, slowest first.
        num_values: of a voxel.

    Returns:
        (*shape, num_values), or None where they do not lie in one file.

    Raises:
        VolumeError: they are not all there, or damaged.
    """
    found = _meta(path, shape, num_values, packed="true")
    if found is None or not found[0].is_file():
        return None
    file, offset, num_bytes, dtype = found
    with file.open("rb") as opened:
        opened.seek(offset)
        unpacker = zlib.decompressobj(47)  # zlib's own frame, or that of gzip
        try:
            data = bytearray(unpacker.decompress(opened.read(), num_bytes + 1))
        except zlib.error as error:
            raise VolumeError(f"{path}: damaged or cut short ({error}); copy it again") from None
    if len(data) != num_bytes or not unpacker.eof:
        raise VolumeError(f"{path}: damaged or cut short: its voxels are not {num_bytes} bytes; copy it again")
    return np.frombuffer(data, dtype).reshape(*shape, num_values)


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """Those of a MetaImage's header, and where it ends."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        while "ElementDataFile" not in fields and (line := file.readline(4096)):
            name, _, value = line.decode(errors="replace").partition("=")
            fields[name.strip()] = value.strip()
        return fields, file.tell()


def _meta(path: Path, shape: tuple[int, ...], num_values: int, *, packed: str) -> tuple[Path, int, int, str] | None:
    """The one file with the voxels of a MetaImage, where they begin in it, how many bytes they are, and their type.

    None where that cannot be told, or they are compressed or not, other than `packed` says.
    """
    fields, offset = _fields(path)
    data = fields.get("ElementDataFile", "")
    dtype = _DTYPES.get(fields.get("ElementType", ""))
    is_big = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False"))
    answers = [fields.get("BinaryData", "True"), fields.get("CompressedData", "False"), is_big]
    if [answer.lower() for answer in answers] != ["true", packed, "false"] or dtype is None:
        return None
    if "ElementToIntensityFunctionSlope" in fields or data.startswith("LIST") or "%" in data:
        return None
    num_bytes = math.prod(shape) * num_values * np.dtype(dtype).itemsize
    if data not in ("LOCAL", "Local", "local"):
        path = path.parent / data
        offset = int(fields.get("HeaderSize", 0))
        if offset < 0 and path.is_file():  # the voxels are the end of the file
            offset = max(0, path.stat().st_size - num_bytes)
    return path, offset, num_bytes, "<" + dtype
