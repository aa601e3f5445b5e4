"""Scans of CT and MRI: read and written, with where they lie in the body."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import reprlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np

from ..machine import aside
from ..terminal import counted, progress
from . import dicom, groups, itk, nifti, raw
from .grid import Grid, Volume, VolumeError, distance_mm, ending, oriented
from .space import cleaned, prepared, prepared_part, resampled, resampled_grid, restored, restored_scores

__all__ = [
    "SUFFIXES",
    "WRITTEN",
    "Grid",
    "Volume",
    "VolumeError",
    "cleaned",
    "is_dicom_name",
    "is_scan",
    "mapped",
    "oriented",
    "prepared",
    "prepared_part",
    "read_mask",
    "read_volume",
    "reading",
    "resampled",
    "resampled_grid",
    "restored",
    "restored_scores",
    "write_volume",
]

log = logging.getLogger("tubelet")

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm", ".tif", ".tiff", ".npy", ".npz")
WRITTEN = (".nii", ".nii.gz", ".nrrd", ".mha", ".tif", ".tiff", ".npy", ".npz")
_PLAIN = (".tif", ".tiff", ".npy", ".npz")  # these hold no geometry

# What follows the last dot in the names of DICOM files.
_NAMED = re.compile(r"|\.\d*|\.(dcm|dicom|dic|ima)", re.IGNORECASE)

# A mask belongs to an image where their corners are no farther apart than this part of a voxel's shortest side.
_OFF = 0.1
# Digits of the same number, in decimals and in binary, lie no farther apart.
_ROUNDED_MM = 1e-6

_LABELS = 2**31
_GREY, _KIND = "0028|0004", "0008|0016"  # PhotometricInterpretation, SOPClassUID

Path_ = str | os.PathLike[str]


def is_scan(path: Path_) -> bool:
    """Whether this is a file of `SUFFIXES`, a DICOM image of any name, or a folder with DICOM images in it."""
    path = Path(path)
    if path.is_dir():
        return bool(_dicoms(path, most=1)[0])
    if not path.is_file():
        return False
    return (ending(path) in SUFFIXES and ending(path) != ".dcm") or _holds_slices(path) is True


def is_dicom_name(name: str) -> bool:
    """Whether a file is called as DICOM files are; others in a folder are not opened to see whether they are."""
    return bool(_NAMED.fullmatch(Path(name).suffix)) and name != "DICOMDIR" and not name.startswith(".")


def read_volume(path: Path_ | Sequence[Path_], *, series: str | None = None) -> Volume:
    """A scan with all its channels.

    Args:
        path: a file of `SUFFIXES`, a DICOM file of any name (with all its frames), or the folder of a DICOM series; or
            several of these, of which each gives its channels. The fourth axis of a file is channels too, as are the
            colours of a voxel.
        series: SeriesInstanceUID, where a folder holds several.

    Returns:
        (C, D, H, W), after the file's rescale (DICOM's slope and intercept, NIfTI's), in the type that this gives. A
        picture of two axes has D 1. TIFF, npy and npz hold no geometry: they are taken as voxels of 1 mm, and arrays as
        (H, W), (D, H, W) or (C, D, H, W).

    Raises:
        VolumeError: no such file, no right to read it, no scan, cut short or damaged, values that are not finite, a
            spacing of 0, axes that are not at right angles, a TIFF with a palette or of less than 8 bits a voxel; files
            that do not lie on one grid; slices that are missing, double or of another kind, or several series.
        TypeError: no path and no sequence of paths.
        ImportError: SimpleITK is not installed.
    """
    if not isinstance(path, str | bytes | os.PathLike):
        if not isinstance(path, Sequence):
            raise TypeError(f"scan {reprlib.repr(path)}; give a path, or several, of which each gives its channels")
        volumes = [read_volume(one, series=series) for one in path]
        if not volumes:
            raise VolumeError("no file for a scan; give one for each channel")
        for other in volumes[1:]:
            _check_same(other, volumes[0].grid, str(volumes[0].path))
        array = np.concatenate([volume.array for volume in volumes]) if len(volumes) > 1 else volumes[0].array
        return dataclasses.replace(volumes[0], array=array)
    path = Path(os.fsdecode(path))
    with reading(path):
        if path.is_dir():
            volume = _read_series(path, series)
        elif not path.is_file():
            raise VolumeError(f"{path}: no such file or folder")
        elif series is not None:
            raise VolumeError(f"{path}: series={series} is for a folder of DICOM files")
        else:
            volume = _completed(_read_file(path), path)
    _check_straight(volume)
    if volume.array.dtype.kind == "f" and not (is_finite := np.isfinite(volume.array)).all():
        where = tuple(map(int, np.argwhere(~is_finite)[0]))
        raise VolumeError(
            f"{path}: {int((~is_finite).sum())} values are NaN or infinite, the first at {where} (channel, depth, "
            "height, width); write it anew with numbers in their place"
        )
    return volume


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Where files of a scan are read: what the system refuses is an error of that scan.

    Raises:
        VolumeError: a file may not be read, or not any more.
    """
    try:
        yield
    except OSError as error:
        raise VolumeError(f"{error.filename or path}: cannot be read ({error.strerror or error})") from None


def read_mask(path: Path_, like: Grid | None) -> Volume:
    """The labels of a scan's voxels.

    Args:
        path: as for `read_volume`.
        like: the grid of the image, on which the mask must lie: as many voxels, and corners within a tenth of a voxel's
            shortest side. None takes the mask's own. A file without geometry takes that of the image.

    Returns:
        (1, D, H, W) uint8, or int64 where labels exceed 255.

    Raises:
        VolumeError: as `read_volume`; several channels, another size or another place than the image, or a value that
            is no whole number from 0 on, below 2**31.
    """
    volume = read_volume(path)
    array, path = volume.array, volume.path
    if len(array) != 1:
        raise VolumeError(f"{path}: {len(array)} channels; a mask has one, whose values are the labels")
    if array.dtype.kind == "f" and (is_part := array != np.rint(array)).any():
        raise VolumeError(
            f"{path}: a mask holds whole numbers, and this {array[is_part][0]:g}; round it, or is it an image?"
        )
    if (least := array.min()) < 0:
        raise VolumeError(f"{path}: label {least:g}; labels count from 0, the background")
    if (most := array.max()) >= _LABELS:
        raise VolumeError(f"{path}: label {most:g}; labels are below {_LABELS}: is it an image?")
    grid = volume.grid
    if like is not None:
        if ending(path) in _PLAIN and grid.size == like.size:
            grid = like
        _check_same(dataclasses.replace(volume, grid=grid), like, "its image")
    return Volume(array.astype(np.uint8 if most <= 255 else np.int64), grid, path)


def write_volume(path: Path_, array: np.ndarray, grid: Grid, *, like: Path | None = None) -> None:
    """Write a scan, whole or not at all.

    Args:
        path: .nii, .nii.gz, .nrrd, .mha, .tif, .npy or .npz; the last three hold no geometry.
        array: (D, H, W), or (C, D, H, W), whose channels become a fourth axis; bool is written as uint8, float16 as
            float32.
        grid: where it lies.
        like: the file that the grid is from. Where both are NIfTI, its header is kept, so that every byte of the
            geometry stays as it was; where both are NRRD, its words for the geometry. Else this is written as ITK has
            read it.

    Raises:
        VolumeError: another ending, another size than the grid's, or the place cannot be written to.
    """
    path, array = Path(path), itk.known(np.asarray(array))
    given = array.shape
    array = array[None] if array.ndim == 3 else array
    suffix = ending(path)
    if suffix not in WRITTEN:
        raise VolumeError(f"{path}: cannot write {suffix or 'a name without ending'}; write {', '.join(WRITTEN)}")
    if array.ndim != 4 or array.shape[1:] != grid.size:
        raise VolumeError(f"{path}: an array {given} for a grid of {grid.size} (depth, height, width)")
    header = Path(like) if like is not None and "nii" in suffix and "nii" in ending(Path(like)) else None
    if header is not None:
        _check_same(Volume(array, grid, path), itk.read_header(header).grid, str(header))

    def write(made: Path) -> None:
        if suffix == ".npy":
            np.save(made, array if len(array) > 1 else array[0])
        elif suffix == ".npz":
            np.savez_compressed(made, array if len(array) > 1 else array[0])
        elif header is not None:
            nifti.encode(made, header, array)
        else:
            itk.write(made, array, grid)
            if like is not None and suffix == ".nrrd" and ending(Path(like)) in (".nrrd", ".nhdr"):
                raw.keep_space(made, Path(like))
                if distance_mm(itk.read_header(made).grid, grid) > _ROUNDED_MM:  # the words are of another place
                    itk.write(made, array, grid)

    try:
        with aside(path) as whole:
            made = whole.with_name(f"{whole.stem}_{suffix}")  # of .nii.gz, ITK wants both
            try:
                write(made)
                made.replace(whole)
            except VolumeError as error:
                raise VolumeError(str(error).replace(str(made), str(path))) from None
            finally:
                made.unlink(missing_ok=True)
    except OSError as error:
        raise VolumeError(f"{path}: cannot be written ({error.strerror or error})") from None


def mapped(path: Path_) -> Volume | None:
    """A scan whose voxels stay on the disk until they are looked at, for one that memory does not hold.

    Its array (C, D, H, W) is a read-only memory map, of .npy, .nii, .mha and .mhd. Values are as stored, and nothing
    looks at all of them: NaN is not found.

    Returns:
        None where that cannot be: compressed, rescaled, in a foreign byte order (but for .npy), of another format.

    Raises:
        VolumeError: as `read_volume`, for what the header and the length of the file tell.
        ImportError: SimpleITK is not installed.
    """
    path = Path(path)
    suffix = ending(path)
    if suffix not in (".npy", ".nii", ".mha", ".mhd") or not path.is_file():
        return None
    with reading(path):
        volume = _mapped(path)
    if volume is not None:
        _check_straight(volume)
    return volume


def _mapped(path: Path) -> Volume | None:
    suffix = ending(path)
    if suffix == ".npy":
        return _plain(path, raw.open_array(path, "r"))
    if suffix == ".nii":
        with path.open("rb") as file:
            info = nifti.read_header(path, file)
        if (info.slope, info.shift) != (1, 0) or not info.dtype.isnative:
            return None
        array = info.voxels(raw.map_bytes(path, info.offset, info.num_bytes))
        return Volume(array, _nifti_grid(path, info), path)
    return _meta(path, raw.map_meta)


def _meta(path: Path, opened: Callable[[Path, tuple[int, ...], int], np.ndarray | None]) -> Volume | None:
    """A MetaImage whose voxels are `opened` here; None where they are left to ITK."""
    header = itk.read_header(path)
    values = opened(path, header.shape, header.num_values)
    return None if values is None else Volume(itk.channels_first(values, len(header.shape)), header.grid, path)


def _holds_slices(path: Path) -> bool | None:
    """Whether a DICOM file can hold an image; None where it is none."""
    with path.open("rb") as file:
        begin = file.read(1024)
    return dicom.holds_image(begin) if ending(path) == ".dcm" or begin[128:132] == b"DICM" else None


def _dicoms(folder: Path, most: int | None = None) -> tuple[list[Path], list[Path]]:
    """The DICOM files of a folder with images, or the first that may be read, and those before that hold none."""
    found: list[Path] = []
    others: list[Path] = []
    for path in sorted(folder.iterdir()):
        with nullcontext() if most is None else suppress(OSError):  # what asks for one does not read it
            if is_dicom_name(path.name) and path.is_file() and (has_image := _holds_slices(path)) is not None:
                (found if has_image else others).append(path)
        if len(found) == most:
            break
    return found, others


def _nifti_grid(path: Path, info: nifti.Nifti) -> Grid:
    """What ITK makes of the header. It holds straight axes alone, and leaves a sheared one out without a word."""
    grid = itk.read_header(path).grid
    if info.sform is None:
        return grid
    stated = info.sform[:, [2, 1, 0, 3]]  # of (d, h, w, 1)
    far, limit = np.array(grid.size) - 1, _OFF * min(grid.spacing_mm)
    if info.header["qform_code"] > 0:
        # products of the sides of the scan, which turning and moving it to an atlas leaves as they are
        theirs, ours = stated[:, :3] * far, grid.affine[:3, :3] * far
        if np.abs(theirs.T @ theirs - ours.T @ ours).max() > 2 * limit * np.linalg.norm(ours, axis=0).max():
            log.info("%s: its sform has voxels of another size or shape than pixdim, which counts", path)
        return grid
    _check_ends(path, grid, stated, "its sform is sheared or contradicts pixdim")
    return grid


def _check_straight(volume: Volume) -> None:
    """Refuse sheared axes: spacings and NIfTI take them for straight ones."""
    own = volume.grid
    left, _, right = np.linalg.svd(np.reshape(own.direction, (3, 3)))
    nearest = dataclasses.replace(own, direction=tuple(map(float, (left @ right).ravel())))
    _check_ends(volume.path, nearest, own.affine[:3], "its axes are not at right angles or not of length 1")


def _check_ends(path: Path, grid: Grid, stated: np.ndarray, told: str) -> None:
    """Refuse a file whose axes (3, 4), from (d, h, w, 1), end elsewhere than those of a straight grid."""
    off = float(np.abs((grid.affine[:3] - stated) * [*(n - 1 for n in grid.size), 1]).max())
    if not off <= _OFF * min(grid.spacing_mm):
        raise VolumeError(f"{path}: {told} (by {off:.3g} mm at the far end); resample it to a straight grid first")


def _read_file(path: Path) -> Volume:
    suffix = ending(path)
    if suffix in (".npy", ".npz"):
        return _plain(path, raw.open_array(path))
    if suffix in (".nii", ".nii.gz"):
        info, array = nifti.open_nifti(path)
        return Volume(array, _nifti_grid(path, info), path)
    if suffix not in SUFFIXES and _holds_slices(path) is None:
        raise VolumeError(f"{path}: not a scan; these are {', '.join(SUFFIXES)}, and folders of DICOM files")
    if suffix in (".mha", ".mhd") and raw.is_packed(path) and (volume := _meta(path, raw.unpack_meta)) is not None:
        return volume
    if suffix not in SUFFIXES or suffix == ".dcm":
        return _read_dicom(path)
    if suffix in (".tif", ".tiff"):
        raw.check_tiff(path)
    array, grid = itk.read(path)
    return _plain(path, array) if suffix in _PLAIN else Volume(array, grid, path)


def _read_dicom(path: Path) -> Volume:
    """All frames of one file, in the order of their positions, each with its own rescale."""
    array, grid = itk.read(path)
    if grid.size[0] == 1 or not (frames := groups.frames(path)):
        return Volume(array, grid, path)
    if len(frames) != grid.size[0]:
        raise VolumeError(f"{path}: {grid.size[0]} frames, and {len(frames)} in its header; get the file again")
    order, placed = dicom.frames_in_order(frames, path)
    if rescales := dicom.rescales(frames, path):
        array = _rescaled(array, rescales)
    if order != sorted(order):
        array = array[:, order]
    if placed is not None:
        placed = dataclasses.replace(placed, size=grid.size)
        grid = placed if distance_mm(placed, grid) > _ROUNDED_MM else grid
    return Volume(array, grid, path)


def _rescaled(array: np.ndarray, rescales: Sequence[tuple[float, ...]]) -> np.ndarray:
    """Frames (C, D, H, W), of which ITK has applied the first one's rescale to all, each with its own: float32."""
    made = np.empty(array.shape, np.float32)
    first, shift = rescales[0]
    for number, (slope, intercept) in enumerate(rescales):
        made[:, number] = np.rint((array[:, number] - shift) / first) * slope + intercept
    return made


def _plain(path: Path, array: np.ndarray) -> Volume:
    """(C, D, H, W) without geometry: voxels of 1 mm."""
    d, h, w = array.shape[1:]
    return Volume(array, Grid((d, h, w), (1.0, 1.0, 1.0)), path)


def _read_series(folder: Path, series: str | None) -> Volume:
    paths, others = _dicoms(folder)
    if not paths:
        kinds = "empty" if not any(folder.iterdir()) else "no DICOM file in it"
        kinds = "no image among its DICOM files" if others else kinds
        raise VolumeError(f"{folder}: {kinds}; give a file, or the folder that holds the slices of a scan")
    if others:
        told = counted(len(others), "DICOM file")
        log.info("%s: %s without an image, first %s, left out", folder, told, others[0].name)
    slices = []
    for path in progress(paths, f"headers of {folder.name}"):
        names = "0020|000e", "0008|103e", dicom.SPACING
        header = itk.read_header(path, *names)
        series_id, description, spacing = (header.tags.get(tag, "") for tag in names)
        slices.append(dicom.Slice(path, series_id, description, header.grid, spacing))
    chosen, grid = dicom.in_order(dicom.choose(slices, folder, series), folder)
    if len(chosen) == 1:  # perhaps of many frames, whose headers tell more
        return _completed(dataclasses.replace(_read_dicom(chosen[0].path), path=folder), chosen[0].path)
    # one by one, since each has a rescale of its own, which ITK's reader of series takes from the first
    arrays = [_read_file(one.path).array for one in progress(chosen, f"slices of {folder.name}")]
    if len({len(array) for array in arrays}) > 1:
        raise VolumeError(f"{folder}: slices of {sorted({len(array) for array in arrays})} channels; keep one kind")
    return _completed(Volume(np.concatenate(arrays, axis=1), grid, folder), chosen[0].path)


def _completed(volume: Volume, file: Path) -> Volume:
    """A scan of DICOM, one slice as thick as its header says; ITK does not look at SliceThickness."""
    if ending(file) in set(SUFFIXES) - {".dcm"}:
        return volume
    tags = itk.read_header(file, _GREY, _KIND, dicom.SPACING, *dicom.THICKNESS).tags
    if not tags.get(dicom.SPACING) or (volume.grid.size[0] == 1 and dicom.is_enhanced(tags.get(_KIND, ""))):
        tags |= (groups.frames(file) or [{}])[0]
    dicom.check_spacing(tags.get(dicom.SPACING, ""), file)
    if not tags.get(dicom.SPACING):
        taken = "{:g} x {:g}".format(*volume.spacing_mm[1:])
        log.info("%s: its header tells no PixelSpacing, taken as %s mm (height x width)", volume.path, taken)
    if tags.get(_GREY) == "MONOCHROME1":
        log.info("%s: MONOCHROME1: ITK turns its values over, so that more is brighter; HU change sign", volume.path)
    if volume.grid.size[0] > 1:
        return volume
    thickness = dicom.thickness_mm(tags)
    depth, height, width = volume.spacing_mm
    if thickness is None and depth == 1:
        log.info("%s: one slice whose header tells no thickness, taken as 1 mm", volume.path)
    grid = dataclasses.replace(volume.grid, spacing_mm=(thickness or depth, height, width))
    return dataclasses.replace(volume, grid=grid)


def _check_same(volume: Volume, grid: Grid, other: str) -> None:
    limit = _OFF * min(grid.spacing_mm)
    if _lies_on(volume.grid, grid, limit):
        return
    if _lies_on(oriented(volume, grid.orientation).grid, grid, limit):
        raise VolumeError(
            f"{volume.path}: the voxels of {other} in another order: axes point to {volume.grid.orientation} (depth, "
            f"height, width), there to {grid.orientation}; reorient it"
        )
    if volume.grid.size != grid.size:
        raise VolumeError(
            f"{volume.path}: {'x'.join(map(str, volume.grid.size))} voxels where {other} has "
            f"{'x'.join(map(str, grid.size))} (depth x height x width); resample it onto that grid"
        )
    raise VolumeError(
        f"{volume.path}: lies {distance_mm(volume.grid, grid):.3g} mm from {other}, and may {limit:.3g} (a tenth of a "
        "voxel): resample it onto that grid, or correct its header"
    )


def _lies_on(grid: Grid, other: Grid, limit_mm: float) -> bool:
    return grid.size == other.size and distance_mm(grid, other) <= limit_mm
