"""NIfTI files by their own bytes: voxels that are all there, and results whose geometry is the source's, bit by bit.

ITK reads a file that is cut short as zeros and one with a spacing of zero as 1 mm, without a word, and writes the
geometry anew from its own numbers. So the voxels and the header pass through here; what the header means is left to
ITK.
"""

from __future__ import annotations

import gzip
import math
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, cast

import numpy as np

from .grid import VolumeError, ending

__all__ = ["Nifti", "encode", "open_nifti"]

# The fields that are read or changed, by their place. https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h
_FIELDS = {
    "sizeof_hdr": ("i4", 0), "dim": ("8i2", 40), "intent_code": ("i2", 68), "datatype": ("i2", 70),
    "bitpix": ("i2", 72), "pixdim": ("8f4", 76), "vox_offset": ("f4", 108), "scl_slope": ("f4", 112),
    "scl_inter": ("f4", 116), "xyzt_units": ("u1", 123), "cal_max": ("f4", 124), "cal_min": ("f4", 128),
    "qform_code": ("i2", 252), "sform_code": ("i2", 254), "srow": ("(3,4)f4", 280), "magic": ("S4", 344),
}  # fmt: skip
_FORMATS, _OFFSETS = zip(*_FIELDS.values(), strict=True)
_LAYOUT = np.dtype({"names": [*_FIELDS], "formats": [*_FORMATS], "offsets": [*_OFFSETS], "itemsize": 348})
_DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_CODES = {name: code for code, name in _DTYPES.items()}
_UNITS_MM = {1: 1e3, 3: 1e-3}  # metres, micrometres; all others are taken as millimetres, as ITK does
_PACKED = 1032  # bytes that one of gzip's may stand for, at most. https://zlib.net/zlib_tech.html
_COLOURS = {128: 3, 2304: 4}  # RGB, RGBA: so many values of a byte a voxel


class Nifti(NamedTuple):
    """The header of a file.

    Attributes:
        head: its bytes.
        header: a view of these, with names for some.
        order: of bytes, < or >.
        shape: (C, D, H, W); a fourth axis, and what is beyond, are channels.
        dtype: of a value, in the file's byte order.
        offset: where the voxels begin.
        slope: what a stored value is multiplied by.
        shift: what is added then.
        num_colours: values that are stored together for a voxel, 1 unless it is of colour.
    """

    head: bytearray
    header: np.void
    order: Literal["<", ">"]
    shape: tuple[int, int, int, int]
    dtype: np.dtype
    offset: int
    slope: float
    shift: float
    num_colours: int

    @property
    def num_bytes(self) -> int:
        """Of the voxels."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def sform(self) -> np.ndarray | None:
        """(3, 4) float64, from (w, h, d, 1) to millimetres in RAS+, None without."""
        unit = _UNITS_MM.get(int(self.header["xyzt_units"]) & 7, 1.0)
        return self.header["srow"].astype(np.float64) * unit if self.header["sform_code"] > 0 else None

    def voxels(self, data: np.ndarray) -> np.ndarray:
        """The bytes of the voxels -> (C, D, H, W) as stored, a view."""
        values = data.view(self.dtype)
        if self.num_colours > 1:
            return values.reshape(*self.shape[1:], self.num_colours).transpose(3, 0, 1, 2)
        return values.reshape(self.shape)


def open_nifti(path: Path) -> tuple[Nifti, np.ndarray]:
    """The header of a file, and its voxels (C, D, H, W) with slope and shift applied: a float where there are such.

    Raises:
        VolumeError: no NIfTI file, cut short, damaged, or of voxels that are no real numbers.
    """
    try:
        with _opened(path) as file:
            info = read_header(path, file)
            file.read(info.offset - len(info.head))
            data = np.empty(info.num_bytes, np.uint8)
            num_read = file.readinto(data)  # type: ignore[attr-defined]  # every one of them has it
            while num_read < len(data) and (more := file.readinto(data[num_read:])):  # type: ignore[attr-defined]
                num_read += more
            if num_read == len(data):
                file.read(1)  # gzip compares its checksum at the end
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise VolumeError(f"{path}: damaged or cut short ({error}); copy it again") from None
    if num_read < len(data):
        raise VolumeError(f"{path}: cut short: {num_read} bytes of voxels where {len(data)} belong; copy it again")
    stored = info.voxels(data)
    stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if (info.slope, info.shift) == (1, 0):
        return info, stored
    # as ITK does: float32, or float64 where the values are
    dtype = np.float64 if stored.dtype == np.float64 else np.float32
    return info, (stored * info.slope + info.shift).astype(dtype)


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if ending(path) == ".nii.gz" else path.open("rb")


def read_header(path: Path, file: BinaryIO) -> Nifti:
    """The header, which an open file begins with.

    Raises:
        VolumeError: there is none; it tells no sound size, spacing, place or kind of voxels, or more than can be there.
    """
    head = bytearray(file.read(348))
    order: Literal["<", ">"] = "<" if head[:4] == (348).to_bytes(4, "little") else ">"
    size = int.from_bytes(head[:4], "little" if order == "<" else "big")
    if 540 in (size, int.from_bytes(head[:4], "little")):
        raise VolumeError(f"{path}: NIfTI-2, which ITK does not read; save it as NIfTI-1 or as .nrrd")
    if size != 348 or len(head) < 348:
        raise VolumeError(f"{path}: not a NIfTI file, or cut short within its header ({len(head)} bytes)")
    header = np.frombuffer(head, _LAYOUT.newbyteorder(order))[0]
    if header["magic"][:2] != b"n+":
        raise VolumeError(f"{path}: not a NIfTI file of one part (its mark is {header['magic']!r}); convert it to .nii")
    num_axes = int(header["dim"][0])
    dim = [int(n) for n in header["dim"][1 : 1 + num_axes]] if 1 <= num_axes <= 7 else []
    if not dim or min(dim) < 1:
        raise VolumeError(f"{path}: its header tells no size (dim {header['dim'].tolist()})")
    spacing = [float(value) for value in header["pixdim"][1 : 1 + min(num_axes, 3)]]
    if not all(math.isfinite(value) and value > 0 for value in spacing):
        raise VolumeError(f"{path}: spacing {spacing} mm; each must be above 0: correct pixdim in its header")
    code = int(header["datatype"])
    if code not in _DTYPES and code not in _COLOURS:
        raise VolumeError(f"{path}: voxels of NIfTI's datatype {code}; convert them to integers or floats")
    slope, shift = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not (math.isfinite(slope) and math.isfinite(shift)):  # the standard: 0 is none
        slope, shift = 1.0, 0.0
    offset = float(header["vox_offset"])
    if not 352 <= offset < math.inf:
        raise VolumeError(f"{path}: voxels from byte {offset:g} on; correct vox_offset in its header, 352 or more")
    num_colours = _COLOURS.get(code, 1)
    w, h, d, *channels = [*dim, 1, 1, 1][: max(3, num_axes)]
    if num_colours > 1 and math.prod(channels) > 1:
        raise VolumeError(f"{path}: {math.prod(channels)} volumes of colour in one file; split it")
    shape = (num_colours * math.prod(channels), d, h, w)
    dtype = np.dtype(order + _DTYPES.get(code, "u1"))
    info = Nifti(head, header, order, shape, dtype, int(offset), slope, shift, num_colours)
    num_held = path.stat().st_size * (_PACKED if ending(path) == ".nii.gz" else 1) - info.offset
    if num_held < info.num_bytes:  # before memory is asked for as many
        raise VolumeError(
            f"{path}: cut short: {max(0, num_held)} bytes of voxels where {info.num_bytes} belong; copy it again, or "
            f"correct dim {dim} in its header"
        )
    return info


def encode(path: Path, like: Path, array: np.ndarray) -> None:
    """Write voxels (C, D, H, W) with the header of a file of the same size: its geometry stays, byte by byte.

    Raises:
        VolumeError: `like` is no NIfTI file, or the voxels are of a type that NIfTI does not have.
    """
    with _opened(like) as file:
        info = read_header(like, file)
    dtype = array.dtype.newbyteorder("=")
    code = _CODES.get(dtype.str[1:])
    if code is None:
        raise VolumeError(f"{path}: NIfTI holds no {array.dtype}; bring it to uint8, int32 or float32")
    header = info.header
    header["dim"][0] = 4 if len(array) > 1 else min(3, header["dim"][0])
    header["dim"][4:] = [len(array), 1, 1, 1]
    header["datatype"], header["bitpix"] = code, 8 * dtype.itemsize
    header["vox_offset"] = 352
    for field, value in (("scl_slope", 1), ("scl_inter", 0), ("cal_max", 0), ("cal_min", 0), ("intent_code", 0)):
        header[field] = value
    # in the byte order of the header, so that no byte of its geometry changes
    voxels = np.ascontiguousarray(array, dtype.newbyteorder(info.order))
    # without name and time the same voxels give the same file
    with path.open("wb") as plain, _packed(plain) if ending(path) == ".nii.gz" else nullcontext(plain) as file:
        file.write(bytes(info.head) + bytes(4))
        file.write(voxels.data)


def _packed(file: BinaryIO) -> gzip.GzipFile:
    return gzip.GzipFile("", "wb", 6, file, mtime=0)
