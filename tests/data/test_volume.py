"""Scans read and written, against nibabel, ITK's own files and bytes worked out by hand."""

import gzip
import itertools
import os
import struct
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("SimpleITK")

import SimpleITK as sitk  # noqa: N813

from tubelet.data.volume import (
    Grid,
    Volume,
    VolumeError,
    is_scan,
    mapped,
    oriented,
    read_mask,
    read_volume,
    restored,
    write_volume,
)

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
ARRAY = np.random.default_rng(0).integers(-900, 900, (6, 7, 8)).astype(np.int16)
TILTED = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.5, 0.2).GetMatrix()
GRID = Grid((6, 7, 8), (2.5, 0.8, 0.7), (-12.5, 30.25, 7.0), tuple(TILTED))
FORMATS = (".nii", ".nii.gz", ".nrrd", ".mha", ".tif", ".npy", ".npz")
HOLDS_GEOMETRY = (".nii", ".nii.gz", ".nrrd", ".mha")


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {path}, real data that the project does not ship")
    return path


def itk_image(array: np.ndarray = ARRAY, grid: Grid = GRID):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing_mm[::-1])
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction)
    return image


@pytest.mark.parametrize("ending", FORMATS)
def test_what_is_written_is_read(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    write_volume(path, ARRAY, GRID)
    volume = read_volume(path)
    assert volume.array.dtype == np.int16 and np.array_equal(volume.array, ARRAY[None])
    assert volume.path == path and is_scan(path)
    if ending not in HOLDS_GEOMETRY:
        assert volume.grid == Grid((6, 7, 8), (1.0, 1.0, 1.0))
    elif "nii" in ending:  # which holds float32
        assert np.allclose(volume.affine, GRID.affine, atol=1e-5)
    else:
        assert np.allclose(volume.affine, GRID.affine, rtol=0, atol=1e-13)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".npy", ".npz"])
def test_channels_are_a_fourth_axis(tmp_path, ending):
    channels = np.stack([ARRAY, ARRAY + 1, ARRAY - 5]).astype(np.float32)
    write_volume(tmp_path / f"a{ending}", channels, GRID)
    volume = read_volume(tmp_path / f"a{ending}")
    assert np.array_equal(volume.array, channels) and volume.grid.size == (6, 7, 8)
    if ending in HOLDS_GEOMETRY:
        assert sitk.ReadImage(str(tmp_path / f"a{ending}")).GetDimension() == 4
        assert np.allclose(volume.affine, GRID.affine, atol=1e-5)


def test_affine_and_orientation_by_hand():
    grid = Grid((3, 4, 5), (5.0, 2.0, 1.0), (10.0, 20.0, 30.0))
    # ITK's x is to the left and RAS's to the right, so both of the first rows change sign
    assert np.array_equal(grid.affine, [[0, 0, -1, -10], [0, -2, 0, -20], [5, 0, 0, 30], [0, 0, 0, 1]])
    assert grid.orientation == "SPL"
    sagittal = Grid((3, 4, 5), (1.0, 1.0, 1.0), direction=(0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
    assert sagittal.orientation == "RIP"  # width to the back, height down, depth to the right
    assert np.allclose(grid.cropped((1, 2, 3), (1, 1, 1)).affine[:3, 3], grid.affine[:3] @ [1, 2, 3, 1])


@pytest.mark.parametrize("number", range(48))
def test_orientation_is_itks(number):
    letters = ["".join(p) for p in itertools.product("RL", "AP", "SI")]
    letters = ["".join(p) for triple in letters for p in itertools.permutations(triple)][number]
    direction = sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation(letters)
    assert Grid((1, 1, 1), (1.0, 1.0, 1.0), direction=tuple(direction)).orientation == letters[::-1]


@pytest.mark.parametrize("name", ["volumes/anatomical.nii", "hippocampus/images/hippocampus_001.nii.gz"])
def test_nibabel_reads_the_same(name):
    nibabel = pytest.importorskip("nibabel")
    theirs = nibabel.load(shared(name))
    ours = read_volume(shared(name))
    assert np.array_equal(ours.array[0].transpose(2, 1, 0), np.asarray(theirs.dataobj))
    assert np.allclose(ours.affine[:, [2, 1, 0, 3]], theirs.affine, atol=1e-5)
    letters = nibabel.aff2axcodes(theirs.affine)
    assert ours.grid.orientation == "".join(letters)[::-1]


@pytest.mark.parametrize("slope", [None, 0.5])
def test_nibabels_oblique_files(tmp_path, slope):
    nibabel = pytest.importorskip("nibabel")
    affine = np.eye(4)
    affine[:3, :3] = np.array(TILTED).reshape(3, 3) @ np.diag((1.5, 2.0, 3.0))
    affine[:3, 3] = (4, 5, -6)
    image = nibabel.Nifti1Image(np.arange(4 * 5 * 6 * 2, dtype=np.int16).reshape(4, 5, 6, 2), affine)
    image.header.set_slope_inter(slope, 3 if slope else None)
    nibabel.save(image, tmp_path / "a.nii")
    theirs, ours = nibabel.load(tmp_path / "a.nii"), read_volume(tmp_path / "a.nii")
    assert np.allclose(ours.array.transpose(3, 2, 1, 0), theirs.get_fdata())
    assert np.allclose(ours.affine[:, [2, 1, 0, 3]], affine, atol=1e-5)
    assert ours.array.dtype == (np.float32 if slope else np.int16)
    assert (mapped(tmp_path / "a.nii") is None) == bool(slope)


GEOMETRY = {"pixdim": slice(76, 108), "codes": slice(252, 256), "quaternion, offset, srow": slice(256, 328)}


@pytest.mark.parametrize("name", ["volumes/anatomical.nii", "hippocampus/images/hippocampus_001.nii.gz"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_geometry_of_nifti_stays_byte_by_byte(tmp_path, name, ending):
    source = shared(name)
    volume = read_volume(source)
    mask = (volume.array[0] > volume.array.mean()).astype(np.uint8)
    write_volume(tmp_path / f"mask{ending}", mask, volume.grid, like=source)
    before, after = (
        (gzip.open if path.suffix == ".gz" else open)(path, "rb").read()
        for path in (source, tmp_path / f"mask{ending}")
    )
    for part, where in GEOMETRY.items():
        assert before[where] == after[where], part
    assert before[40:48] == after[40:48]  # number of axes and size
    written = read_mask(tmp_path / f"mask{ending}", volume.grid)
    assert written.grid == volume.grid and np.array_equal(written.array[0], mask)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"mask{ending}"))), mask)
    write_volume(tmp_path / f"again{ending}", mask, volume.grid, like=source)
    assert (tmp_path / f"again{ending}").read_bytes() == (tmp_path / f"mask{ending}").read_bytes()


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4", "f8", "i8"])
def test_a_header_is_kept_for_other_types_and_channels(tmp_path, dtype):
    write_volume(tmp_path / "a.nii", ARRAY, GRID)
    grid = read_volume(tmp_path / "a.nii").grid
    array = np.abs(np.stack([ARRAY, ARRAY])).astype(dtype)
    write_volume(tmp_path / "b.nii.gz", array, grid, like=tmp_path / "a.nii")
    volume = read_volume(tmp_path / "b.nii.gz")
    assert volume.grid == grid and volume.array.dtype == dtype and np.array_equal(volume.array, array)
    with pytest.raises(VolumeError, match="an array"):
        write_volume(tmp_path / "c.nii", array[:, 1:], grid, like=tmp_path / "a.nii")
    moved = Grid(grid.size, grid.spacing_mm, (0.0, 0.0, 0.0), grid.direction)
    with pytest.raises(VolumeError, match=r"lies .* mm from .*a\.nii"):
        write_volume(tmp_path / "c.nii", array, moved, like=tmp_path / "a.nii")
    assert not (tmp_path / "c.nii").exists()


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_geometry_of_other_formats_is_itks(tmp_path, ending):
    sitk.WriteImage(itk_image(), str(tmp_path / f"a{ending}"))
    volume = read_volume(tmp_path / f"a{ending}")
    write_volume(tmp_path / f"b{ending}", volume.array, volume.grid, like=volume.path)
    theirs, ours = (sitk.ReadImage(str(tmp_path / f"{name}{ending}")) for name in "ab")
    for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(theirs, what)() == getattr(ours, what)()


def test_the_words_of_a_nrrd_header_are_kept_whole_or_not_at_all(tmp_path):
    head = "NRRD0005\ntype: short\ndimension: 3\nsizes: 8 7 6\nendian: little\nencoding: raw\n"
    space = "space directions: (0.1,0.3,0) (-0.3,0.1,0) (0,0,3)\nspace origin: (1,2,3)\n"
    (tmp_path / "a.nrrd").write_bytes(f"{head}Space: RAS\n{space}\n".encode() + ARRAY.tobytes())  # ITK reads any case
    volume = read_volume(tmp_path / "a.nrrd")
    write_volume(tmp_path / "b.nrrd", ARRAY, volume.grid, like=volume.path)
    assert read_volume(tmp_path / "b.nrrd").grid == volume.grid and b"space: RAS" in (tmp_path / "b.nrrd").read_bytes()
    write_volume(tmp_path / "c.nrrd", ARRAY, GRID, like=volume.path)  # which lies elsewhere
    assert np.allclose(read_volume(tmp_path / "c.nrrd").affine, GRID.affine, rtol=0, atol=1e-12)


def test_single_slices(tmp_path):
    flat = sitk.GetImageFromArray(ARRAY[0])
    flat.SetSpacing((0.5, 0.75))
    for ending in (".nii.gz", ".mha", ".nrrd", ".tif"):
        sitk.WriteImage(flat, str(tmp_path / f"a{ending}"))
        volume = read_volume(tmp_path / f"a{ending}")
        assert np.array_equal(volume.array, ARRAY[None, :1])
        assert volume.spacing_mm == ((1, 1, 1) if ending == ".tif" else (1, 0.75, 0.5))
    np.save(tmp_path / "a.npy", ARRAY[0])
    assert read_volume(tmp_path / "a.npy").array.shape == (1, 1, 7, 8)
    mask = np.ones((1, 7, 8), np.uint8)
    source = read_volume(tmp_path / "a.nii.gz")
    write_volume(tmp_path / "mask.nii.gz", mask, source.grid, like=source.path)
    assert sitk.ReadImage(str(tmp_path / "mask.nii.gz")).GetSpacing() == (0.5, 0.75)


def test_colours_are_channels(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (6, 7, 8, 3)).astype(np.uint8)
    image = sitk.GetImageFromArray(colours, isVector=True)
    for ending in (".nii", ".mha", ".nrrd", ".tif"):
        sitk.WriteImage(image, str(tmp_path / f"a{ending}"))
        assert np.array_equal(read_volume(tmp_path / f"a{ending}").array, colours.transpose(3, 0, 1, 2))


def test_several_files_are_channels(tmp_path):
    write_volume(tmp_path / "a.nii.gz", ARRAY, GRID)
    write_volume(tmp_path / "b.nii.gz", ARRAY + 1, GRID)
    volume = read_volume([tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"])
    assert np.array_equal(volume.array, np.stack([ARRAY, ARRAY + 1])) and volume.path == tmp_path / "a.nii.gz"
    write_volume(tmp_path / "c.nii.gz", ARRAY, Grid(GRID.size, GRID.spacing_mm))
    with pytest.raises(VolumeError, match=r"c\.nii\.gz: lies [\d.]+ mm from .*a\.nii\.gz, and may 0\.07 "):
        read_volume([tmp_path / "a.nii.gz", tmp_path / "c.nii.gz"])
    with pytest.raises(VolumeError, match="no file"):
        read_volume([])


@pytest.mark.parametrize("ending", [".npy", ".nii", ".mha", ".mhd"])
@pytest.mark.parametrize("shape", [(6, 7, 8), (2, 6, 7, 8)])
def test_maps_are_what_is_read(tmp_path, ending, shape):
    path = tmp_path / f"a{ending}"
    array = np.resize(ARRAY, shape)
    if ending == ".npy":
        np.save(path, array)
    else:
        images = [itk_image(part) for part in array.reshape(-1, 6, 7, 8)]
        sitk.WriteImage(images[0] if len(images) == 1 else sitk.JoinSeries(images), str(path))
    read, seen = read_volume(path), mapped(path)
    assert isinstance(seen.array, np.memmap) and not seen.array.flags.writeable
    assert np.array_equal(seen.array, read.array) and seen.grid == read.grid and seen.array.dtype == read.array.dtype
    data = path.with_suffix(".raw") if ending == ".mhd" else path
    data.write_bytes(data.read_bytes()[:-10])
    with pytest.raises(VolumeError, match=r"cut short|not an array"):
        mapped(path)


def test_what_a_wrong_header_says_is_not_mapped(tmp_path):
    for name in ("inside.nii", "nowhere.nii", "beyond.nii", "huge.nii", "sheared.mha", "singular.mha"):
        (tmp_path / name).write_bytes(BAD[name][0])
        with pytest.raises(VolumeError, match=BAD[name][1]):
            mapped(tmp_path / name)


def test_what_cannot_be_mapped(tmp_path):
    for ending in (".nii.gz", ".nrrd", ".npz", ".tif"):
        write_volume(tmp_path / f"a{ending}", ARRAY, GRID)
        assert mapped(tmp_path / f"a{ending}") is None
    sitk.WriteImage(itk_image(), str(tmp_path / "a.mha"), True)
    assert mapped(tmp_path / "a.mha") is None
    assert mapped(shared("volumes/anatomical.nii")) is None  # big-endian, which torch has not


def test_a_map_of_several_values_a_voxel(tmp_path):
    pairs = np.random.default_rng(0).normal(size=(6, 7, 8, 2))
    sitk.WriteImage(sitk.GetImageFromArray(pairs, isVector=True), str(tmp_path / "a.mha"))
    assert np.array_equal(mapped(tmp_path / "a.mha").array, pairs.transpose(3, 0, 1, 2))


def nifti(change: dict[int, bytes]) -> bytes:
    """A plain file, with these bytes of its header changed."""
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, 8, 7, 6, 1, 1, 1, 1)
    struct.pack_into("<2h", head, 70, 4, 16)
    struct.pack_into("<9f", head, 76, 1, 1, 2, 3, 1, 1, 1, 1, 352)
    head[344:348] = b"n+1\0"
    for place, value in change.items():
        head[place : place + len(value)] = value
    return bytes(head) + ARRAY.tobytes()


NAN = struct.pack("<f", float("nan"))
WHOLE = nifti({})
MHA = (
    b"ObjectType = Image\nNDims = 3\nElementSpacing = 1 %b 3\nDimSize = 8 7 6\n"
    b"ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
)


def metaimage(directions: bytes) -> bytes:
    """A MetaImage with these columns of cosines."""
    head = (MHA % b"2").replace(b"ElementSpacing", b"TransformMatrix = " + directions + b"\nElementSpacing")
    return head + ARRAY.tobytes()


BAD = {
    "text.nii": (b"hello", "not a NIfTI file"),
    "text.nii.gz": (b"hello", "Not a gzipped file"),
    "text.nrrd": (b"hello", r"not a \.nrrd file"),
    "text.mha": (b"hello", r"not a \.mha file"),
    "text.tif": (b"hello", r"not a \.tif file"),
    "text.dcm": (b"hello", r"not a \.dcm file"),
    "text.npy": (b"hello", "not an array"),
    "text.npz": (b"hello", "not an array"),
    "empty.nii": (b"", "not a NIfTI file, or cut short within its header"),
    "text.xyz": (b"hello", "not a scan; these are .nii"),
    "header.nii": (WHOLE[:300], "cut short within its header"),
    "cut.nii": (WHOLE[:-10], "cut short: 662 bytes of voxels where 672 belong"),
    "cut.nii.gz": (gzip.compress(WHOLE)[:-50], "damaged or cut short"),
    "short.nii.gz": (gzip.compress(WHOLE[:-10]), "cut short: 662"),
    "flipped.nii.gz": (gzip.compress(WHOLE)[:-8] + bytes(8), "damaged or cut short"),
    "cut.mha": (MHA % b"2" + ARRAY.tobytes()[:-10], "data not read completely"),
    "zero.mha": (MHA % b"0" + ARRAY.tobytes(), "its spacing is 0"),
    "zero.nii": (nifti({84: bytes(4)}), r"spacing \[1.0, 0.0, 3.0\] mm"),
    "nan.nii": (nifti({84: NAN}), "spacing .*nan"),
    "minus.nii": (nifti({84: struct.pack("<f", -2)}), "spacing .*-2"),
    "sizeless.nii": (nifti({42: bytes(2)}), "tells no size"),
    "inside.nii": (nifti({108: bytes(4)}), "voxels from byte 0 on; correct vox_offset"),
    "nowhere.nii": (nifti({108: NAN}), "voxels from byte nan on"),
    "beyond.nii": (nifti({108: struct.pack("<f", 1e30)}), "cut short: 0 bytes of voxels where 672 belong"),
    "huge.nii": (nifti({42: b"\xff\x7f" * 3}), "cut short: 672 bytes of voxels where 70362301923326"),
    "huge.nii.gz": (gzip.compress(nifti({40: b"\7\0" + b"\xff\x7f" * 7})), r"correct dim \[32767, .*\] in its header"),
    "complex.nii": (nifti({70: struct.pack("<h", 32)}), "datatype 32"),
    "pair.nii": (nifti({344: b"ni1"}), "not a NIfTI file of one part"),
    "sheared.nii": (
        nifti({254: b"\1\0", 280: struct.pack("<12f", 1, 0.7, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0)}),
        "sform is sheared or contradicts pixdim|axes are not at right angles",
    ),
    "stretched.nii": (
        nifti({254: b"\1\0", 280: struct.pack("<12f", 1, 0, 0, 0, 0, 3, 0, 0, 0, 0, 3, 0)}),
        "sform is sheared or contradicts pixdim",
    ),
    "two.nii": (bytes(540), "not a NIfTI file"),
    "sheared.nrrd": (
        b"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 8 7 6\n"
        b"space directions: (1,0,0) (0,1,0) (0,1,2.5)\nendian: little\nencoding: raw\n\n" + ARRAY.tobytes(),
        r"axes are not at right angles or not of length 1 \(by 2\.45 mm",
    ),
    "sheared.mha": (metaimage(b"1 0 0 0 1 0 0 0.371 0.928"), "at right angles"),
    "singular.mha": (metaimage(b"1 0 0 1 0 0 0 0 1"), "at right angles"),
    "long.mha": (metaimage(b"2 0 0 0 1 0 0 0 1"), "not of length 1"),
    "second.nii": (struct.pack("<i", 540) + bytes(536), "NIfTI-2, which ITK does not read"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_line(tmp_path, name, capfd):
    data, says = BAD[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(VolumeError, match=says) as caught:
        read_volume(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_header_made_by_hand_is_read(tmp_path):
    (tmp_path / "a.nii").write_bytes(WHOLE)
    volume = read_volume(tmp_path / "a.nii")
    assert np.array_equal(volume.array[0], ARRAY) and volume.spacing_mm == (3, 2, 1)


def test_directions_of_few_digits_are_read(tmp_path):
    (tmp_path / "a.mha").write_bytes(metaimage(b"1 0 0 0.001 1 0 0 0 1"))
    assert read_volume(tmp_path / "a.mha").array.shape == mapped(tmp_path / "a.mha").array.shape == (1, 6, 7, 8)


SFORM = struct.pack("<12f", 1, 0, 0, 5, 0, 2, 0, 6, 0, 0, 3, 7)


@pytest.mark.parametrize(("unit", "mm"), [(b"\1", 1000), (b"\2", 1), (b"\3", 0.001)])
def test_units_of_an_sform(tmp_path, unit, mm):
    (tmp_path / "a.nii").write_bytes(nifti({123: unit, 254: b"\1\0", 280: SFORM}))
    volume = read_volume(tmp_path / "a.nii")
    assert np.allclose(volume.affine[:3], np.array([[0, 0, 1, 5], [0, 2, 0, 6], [3, 0, 0, 7]]) * mm, rtol=1e-6)


@pytest.mark.parametrize(("width", "number"), [(1, 0), (2, 1)])
def test_an_sform_with_other_voxels_than_pixdim_is_told(tmp_path, caplog, width, number):
    caplog.set_level("INFO", "tubelet")
    turned = struct.pack("<12f", 0, 2, 0, 5, -width, 0, 0, 6, 0, 0, 3, 7)
    (tmp_path / "a.nii").write_bytes(nifti({252: b"\1\0\1\0", 280: turned}))
    assert read_volume(tmp_path / "a.nii").spacing_mm == (3, 2, 1)
    assert caplog.text.count("a.nii: its sform has voxels of another size or shape than pixdim") == number


def test_a_tiff_cut_short(tmp_path):
    sitk.WriteImage(itk_image(), str(tmp_path / "a.tif"))
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[:-50])
    with pytest.raises(VolumeError, match=r"a\.tif: (damaged|cannot be read)"):
        read_volume(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", ["SAR", "RSA"])  # mirrored, and of another size, too
def test_a_mask_of_other_axes_is_to_be_reoriented(tmp_path, orientation):
    turned = oriented(Volume(np.ones((1, 6, 7, 8), np.uint8), GRID, Path("a")), orientation)
    write_volume(tmp_path / "a.nii.gz", turned.array, turned.grid)
    with pytest.raises(VolumeError, match=f"axes point to {orientation} .*, there to SPL; reorient it"):
        read_mask(tmp_path / "a.nii.gz", GRID)


@pytest.mark.parametrize(("mode", "says"), [("P", "colours of a palette"), ("1", "bits a voxel: 1")])
@pytest.mark.parametrize("is_big", [False, True])
def test_numbers_that_itk_would_read_as_colours(tmp_path, mode, says, is_big):
    page = pytest.importorskip("PIL.Image").new(mode, (8, 7), 1)
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page] * 5, big_tiff=is_big)
    with pytest.raises(VolumeError, match=rf"a\.tif: {says}"):
        read_mask(tmp_path / "a.tif", None)


@pytest.mark.parametrize("ending", [".mha", ".mhd"])
def test_a_packed_metaimage_is_whole_or_an_error(tmp_path, ending, capfd):
    pairs = np.stack([ARRAY, ARRAY + 1], -1)
    sitk.WriteImage(sitk.GetImageFromArray(pairs, isVector=True), str(tmp_path / f"a{ending}"), True)
    assert np.array_equal(read_volume(tmp_path / f"a{ending}").array, pairs.transpose(3, 0, 1, 2))
    file = tmp_path / ("a.mha" if ending == ".mha" else "a.zraw")
    data = file.read_bytes()
    noise = data[:-200] + bytes([data[-200] ^ 255]) + data[-199:]
    of_itk = noise.replace(b"OrderMSB = False", b"OrderMSB = True")
    for changed in (data[:-2] + bytes(2), data[:-100], noise, of_itk):
        file.write_bytes(changed)
        with pytest.raises(VolumeError, match=rf"a\{ending}: damaged or cut short"):
            read_volume(tmp_path / f"a{ending}")
    assert capfd.readouterr() == ("", "")


def test_other_bad_input(tmp_path):
    with pytest.raises(VolumeError, match=r"gone\.nii: no such file or folder"):
        read_volume(tmp_path / "gone.nii")
    with pytest.raises(VolumeError, match=": empty; give"):
        read_volume(tmp_path)
    with pytest.raises(TypeError, match="scan None; give a path, or several"):
        read_volume(None)
    write_volume(tmp_path / "a.npy", ARRAY, GRID)
    assert (read_volume(os.fsencode(tmp_path / "a.npy")).array[0] == ARRAY).all()
    (tmp_path / "a.npy").unlink()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(VolumeError, match="no DICOM file in it"):
        read_volume(tmp_path)
    assert not is_scan(tmp_path) and not is_scan(tmp_path / "notes.txt") and not is_scan(tmp_path / "gone.nii")
    values = ARRAY.astype(np.float32)
    values[1, 2, 3] = np.nan
    values[4, 2, 3] = np.inf
    for ending in (".nii.gz", ".npy", ".mha"):
        write_volume(tmp_path / f"a{ending}", values, GRID)
        with pytest.raises(VolumeError, match=r"2 values are NaN or infinite, the first at \(0, 1, 2, 3\)"):
            read_volume(tmp_path / f"a{ending}")
    np.savez(tmp_path / "two.npz", a=ARRAY, b=ARRAY)
    with pytest.raises(VolumeError, match=r"2 arrays \(a, b\)"):
        read_volume(tmp_path / "two.npz")
    np.save(tmp_path / "five.npy", np.zeros((1, 1, 1, 2, 2)))
    with pytest.raises(VolumeError, match=r"\(1, 1, 1, 2, 2\) of float64; give"):
        read_volume(tmp_path / "five.npy")


def test_masks(tmp_path):
    labels = (np.abs(ARRAY) // 300).astype(np.uint8)
    write_volume(tmp_path / "a.nii.gz", labels.astype(np.float32), GRID)
    mask = read_mask(tmp_path / "a.nii.gz", GRID)
    assert mask.array.dtype == np.uint8 and np.array_equal(mask.array[0], labels)
    np.save(tmp_path / "a.npy", labels)
    assert read_mask(tmp_path / "a.npy", GRID).grid == GRID
    for name in ("a.nii.gz", "a.npy"):
        with pytest.raises(VolumeError, match="6x7x8 voxels where its image has 6x7x7"):
            read_mask(tmp_path / name, Grid((6, 7, 7), GRID.spacing_mm))
    write_volume(tmp_path / "large.nii.gz", labels.astype(np.int32) * 1000, GRID)
    assert read_mask(tmp_path / "large.nii.gz", None).array.dtype == np.int64
    near = Grid(GRID.size, GRID.spacing_mm, (GRID.origin_mm[0] + 0.06, *GRID.origin_mm[1:]), GRID.direction)
    assert read_mask(tmp_path / "a.nii.gz", near)
    far = Grid(GRID.size, GRID.spacing_mm, (GRID.origin_mm[0] + 0.08, *GRID.origin_mm[1:]), GRID.direction)
    with pytest.raises(VolumeError, match=r"lies 0\.08 mm from its image, and may 0\.07 \(a tenth of a voxel\)"):
        read_mask(tmp_path / "a.nii.gz", far)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (ARRAY + 0.5, "a mask holds whole numbers, and this"),
        (-np.abs(ARRAY), "label -[0-9]+; labels count from 0"),
        (np.stack([ARRAY, ARRAY]), "2 channels; a mask has one"),
        (np.abs(ARRAY) * 1e30, r"label 8\.96e\+32; labels are below 2147483648"),
    ],
)
def test_what_is_no_mask(tmp_path, array, says):
    write_volume(tmp_path / "a.nii.gz", array.astype(np.float32), GRID)
    with pytest.raises(VolumeError, match=says):
        read_mask(tmp_path / "a.nii.gz", GRID)


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".npy"])
@pytest.mark.parametrize(("dtype", "read"), [("f2", "f4"), (">i2", "i2"), (">f8", "f8"), ("?", "u1")])
def test_types_that_itk_has_not(tmp_path, ending, dtype, read):
    write_volume(tmp_path / f"a{ending}", ARRAY.astype(dtype), GRID)
    volume = read_volume(tmp_path / f"a{ending}")
    assert volume.array.dtype == read and np.array_equal(volume.array[0], ARRAY.astype(dtype))


def test_what_cannot_be_written(tmp_path):
    for name in ("a.dcm", "a.mhd", "a", "a.jpg"):
        with pytest.raises(VolumeError, match="cannot write"):
            write_volume(tmp_path / name, ARRAY, GRID)
    with pytest.raises(VolumeError, match=r"an array \(5, 7, 8\) for a grid of \(6, 7, 8\)"):
        write_volume(tmp_path / "a.nii", ARRAY[:5], GRID)
    for name in ("a.nii", "a.npy"):
        with pytest.raises(VolumeError, match="cannot be written"):
            write_volume(tmp_path / "gone" / name, ARRAY, GRID)
    with pytest.raises(VolumeError, match=rf"^{tmp_path}/a\.tif: cannot be written"):
        write_volume(tmp_path / "a.tif", ARRAY.astype(np.int64), GRID)
    assert not list(tmp_path.iterdir())


def test_nothing_of_itk_is_left_changed(tmp_path):
    threads, warns = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads(), sitk.ProcessObject.GetGlobalWarningDisplay()
    write_volume(tmp_path / "a.nii.gz", ARRAY, GRID)
    read_volume(tmp_path / "a.nii.gz")
    assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == threads
    assert sitk.ProcessObject.GetGlobalWarningDisplay() == warns


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_reads_and_resamples(tmp_path):
    """As the workers of a loader do, after the threads of ITK have worked in their parent."""
    labels = (np.abs(ARRAY) // 300).astype(np.uint8)
    other = Grid((12, 14, 16), (1.25, 0.4, 0.35), GRID.origin_mm, GRID.direction)
    write_volume(tmp_path / "a.mha", labels, GRID)
    wanted = restored(labels, GRID, other)
    child = os.fork()
    if not child:
        is_same = np.array_equal(restored(read_volume(tmp_path / "a.mha").array[0], GRID, other), wanted)
        os._exit(0 if is_same else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_volume_tells_its_grid():
    volume = Volume(ARRAY[None], GRID, Path("a"))
    assert volume.spacing_mm == GRID.spacing_mm and np.array_equal(volume.affine, GRID.affine)
