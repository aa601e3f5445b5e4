"""Series of DICOM slices: real ones, and drawn ones with what goes wrong in them."""

import locale
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("SimpleITK")

import SimpleITK as sitk  # noqa: N813
from painted_scans import write_slice

from tubelet.data.dicom import thickness_mm
from tubelet.data.volume import VolumeError, is_scan, read_volume

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "dicom"
COS, SIN = np.cos(0.3), np.sin(0.3)
TURNED = (COS, SIN, 0.0, 0.0, 0.0, -1.0)  # rows to the left and back, columns down


def slices(folder: Path, positions, **changes) -> np.ndarray:
    folder.mkdir(exist_ok=True)
    array = np.random.default_rng(0).integers(0, 500, (len(positions), 4, 5))
    for number, (values, z) in enumerate(zip(array, positions, strict=True)):
        write_slice(folder / f"{7 * number % 10}.dcm", values, (1.0, 2.0, z), **changes)
    return array


def test_slices_are_in_the_order_of_their_positions(tmp_path):
    array = slices(tmp_path, [5.0, -2.5, 0.0, 2.5])
    volume = read_volume(tmp_path)
    assert is_scan(tmp_path) and np.array_equal(volume.array[0], array[[1, 2, 3, 0]])
    assert np.allclose(volume.spacing_mm, (2.5, 0.8, 0.7)) and volume.grid.origin_mm == (1, 2, -2.5)
    assert volume.grid.orientation == "SPL"


def test_the_locale_stays_as_it_is(tmp_path):
    slices(tmp_path, [0.0, 2.5])
    before = locale.getencoding(), locale.setlocale(locale.LC_ALL)
    read_volume(tmp_path)
    assert (locale.getencoding(), locale.setlocale(locale.LC_ALL)) == before


def test_oblique_slices(tmp_path):
    normal = np.cross(TURNED[:3], TURNED[3:])
    array = np.random.default_rng(0).integers(0, 500, (4, 4, 5))
    for number in (2, 0, 3, 1):
        write_slice(tmp_path / f"{9 - number}.dcm", array[number], 3.0 * number * normal + (9, 8, 7), along=TURNED)
    for path in list(tmp_path.iterdir()):
        path.rename(path.with_name(path.stem))  # DICOM files often have no suffix
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array[0], array)
    stated = np.stack([3 * normal, 0.8 * np.array(TURNED[3:]), 0.7 * np.array(TURNED[:3])], 1)
    assert np.allclose(volume.affine[:3, :3], np.diag((-1, -1, 1)) @ stated, atol=1e-6)
    assert np.allclose(volume.affine[:3, 3], (-9, -8, 7), atol=1e-6)


def test_each_slice_has_its_own_rescale(tmp_path):
    values = np.arange(20).reshape(4, 5)
    for number, rescale in enumerate([(1, -1024), (2, -1000), (3, 0)]):
        write_slice(tmp_path / f"{number}.dcm", values, (0, 0, number), rescale=rescale)
    expected = np.stack([values - 1024, 2 * values - 1000, 3 * values])
    assert np.array_equal(read_volume(tmp_path).array[0], expected)
    assert np.array_equal(read_volume(tmp_path / "1.dcm").array[0, 0], expected[1])


def test_several_series_are_asked_about(tmp_path):
    slices(tmp_path / "a", [0, 1, 2])
    slices(tmp_path / "b", [0, 1], series="1.2.4")
    for path in list((tmp_path / "b").iterdir()):
        path.rename(tmp_path / "a" / f"b{path.name}")
    with pytest.raises(
        VolumeError, match=r"2 series; pass series=.*--series.*1\.2\.3 \(Brain 1\.2\.3, 3 files of 4x5\); 1"
    ):
        read_volume(tmp_path / "a")
    assert read_volume(tmp_path / "a", series="1.2.4").array.shape == (1, 2, 4, 5)
    with pytest.raises(VolumeError, match=r"no series 9; pass series="):
        read_volume(tmp_path / "a", series="9")
    with pytest.raises(VolumeError, match="series=9 is for a folder"):
        read_volume(tmp_path / "a" / "0.dcm", series="9")


@pytest.mark.parametrize(
    ("positions", "says"),
    [
        ([0, 2, 4, 8, 10], r"1 missing between 4\.dcm|1 missing between .* at 4\.00 mm and .* at 8\.00 mm"),
        ([0, 2, 6], r"1 missing between .* at 2\.00 mm and .* at 6\.00 mm, where slices are 2\.00 mm apart"),
        ([0, 2, 4, 4, 6], r"at 4\.00 mm and .* at 4\.00 mm lie at the same place"),
        ([0, 2, 4, 5, 7], r"at 4\.00 mm and .* at 5\.00 mm are 1\.00 mm apart, others 2\.00"),
    ],
)
def test_gaps_and_doubles(tmp_path, positions, says):
    slices(tmp_path, [float(z) for z in positions])
    with pytest.raises(VolumeError, match=says) as caught:
        read_volume(tmp_path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{tmp_path}: ")


@pytest.mark.parametrize(
    ("values", "change", "says"),
    [
        (np.zeros((5, 5)), {}, r"voxels \(height, width\) \(4, 5\), 9\.dcm \(5, 5\)"),
        (np.zeros((4, 5)), {"along": TURNED}, "direction"),
        (np.zeros((4, 5)), {"spacing": (0.7, 0.9)}, r"spacing \(height, width\)"),
    ],
)
def test_slices_of_another_kind(tmp_path, values, change, says):
    slices(tmp_path, [0.0, 1.0])
    write_slice(tmp_path / "9.dcm", values, (1, 2, 2), **change)
    with pytest.raises(VolumeError, match=says):
        read_volume(tmp_path)


def test_a_tilted_gantry(tmp_path):
    for number in range(5):
        write_slice(tmp_path / f"{number}.dcm", np.zeros((4, 5)), (0, 0.5 * number, 2 * number))
    with pytest.raises(VolumeError, match="tilted gantry"):
        read_volume(tmp_path)


def test_a_slice_cut_short(tmp_path, capfd):
    slices(tmp_path, [0.0, 1.0, 2.0])
    path = tmp_path / "7.dcm"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(VolumeError, match=r"7\.dcm: cannot be read"):
        read_volume(tmp_path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("stored", "found"), [("5.0", 5.0), ("0", 1.0)])
def test_a_single_slice_is_as_thick_as_its_header_says(tmp_path, caplog, stored, found):
    caplog.set_level("INFO", "tubelet")
    file = tmp_path / "0.dcm"
    write_slice(file, np.zeros((4, 5)), (0, 0, 3), tags={"0018|0050": stored})
    # at times ITK adds SpacingBetweenSlices: give that another number
    file.write_bytes(file.read_bytes().replace(b"\x18\0\x88\0\2\0\0\0", b"\x18\0\x89\0\2\0\0\0"))
    for path in (tmp_path, file):
        assert read_volume(path).spacing_mm == pytest.approx((found, 0.8, 0.7))
        assert (f"{path}: one slice whose header tells no thickness" in caplog.text) == (found == 1)


@pytest.mark.parametrize("stored", ["0\\0", "-1\\1", "nan"])
def test_a_spacing_that_is_not_above_0(tmp_path, stored):
    slices(tmp_path, [0.0, 2.5])
    file = tmp_path / "7.dcm"
    file.write_bytes(file.read_bytes().replace(b".8\\.7 ", stored.encode().ljust(6)))
    for path in (tmp_path, file):
        with pytest.raises(VolumeError, match=r"7\.dcm: spacing .* mm \(PixelSpacing\); each must be above 0"):
            read_volume(path)


def test_slices_without_a_spacing_are_told(tmp_path, caplog):
    caplog.set_level("INFO", "tubelet")
    slices(tmp_path, [0.0, 2.5])
    for file in list(tmp_path.iterdir()):
        file.write_bytes(file.read_bytes().replace(b"\x28\0\x30\0\6\0\0\0", b"\x28\0\x31\0\6\0\0\0"))
    for path in (tmp_path, tmp_path / "0.dcm"):
        assert read_volume(path).spacing_mm[1:] == (1, 1)
        assert f"{path}: its header tells no PixelSpacing, taken as 1 x 1 mm" in caplog.text


def test_turned_grey_levels_are_told(tmp_path, caplog):
    caplog.set_level("INFO", "tubelet")
    slices(tmp_path, [0.0, 2.5])
    for file in list(tmp_path.iterdir()):
        file.write_bytes(file.read_bytes().replace(b"MONOCHROME2", b"MONOCHROME1"))
    for path in (tmp_path, tmp_path / "0.dcm"):
        read_volume(path)
        assert caplog.text.count(f"{path}: MONOCHROME1") == 1


def test_the_spacing_of_slices_comes_before_their_thickness():
    assert thickness_mm({"0018|0050": "5", "0018|0088": "6.5"}) == 6.5
    assert thickness_mm({"0018|0050": "5", "0018|0088": "0"}) == 5
    assert thickness_mm({"0018|0050": "thick"}) is None


def test_frames_of_one_file(tmp_path):
    array = np.random.default_rng(0).integers(0, 500, (3, 4, 5)).astype(np.uint16)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.7, 0.8, 2.5))
    sitk.WriteImage(image, str(tmp_path / "a.dcm"))
    for path in (tmp_path, tmp_path / "a.dcm"):
        volume = read_volume(path)
        assert np.array_equal(volume.array[0], array) and np.allclose(volume.spacing_mm, (2.5, 0.8, 0.7))


@pytest.mark.parametrize("kind", ["481.3", "481.5", "88.33", "11.1", "66.1", "104.1"])
def test_what_is_no_image_is_left_out(tmp_path, caplog, kind):
    caplog.set_level("INFO", "tubelet")
    uid = f"1.2.840.10008.5.1.4.1.1.{kind}".encode()
    uid += b"\0" * (len(uid) % 2)
    told = bytes(128) + b"DICM" + b"\2\0\2\0UI" + len(uid).to_bytes(2, "little") + uid
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "a.dcm").write_bytes(told)
    assert not is_scan(tmp_path / "alone") and not is_scan(tmp_path / "alone" / "a.dcm")
    with pytest.raises(VolumeError, match="no image among its DICOM files"):
        read_volume(tmp_path / "alone")
    array = slices(tmp_path / "scan", [0.0, 1.0, 2.0])
    (tmp_path / "scan" / "0a").write_bytes(told)
    assert np.array_equal(read_volume(tmp_path / "scan").array[0], array)
    assert caplog.messages == [f"{tmp_path / 'scan'}: 1 DICOM file without an image, first 0a, left out"]


def test_a_damaged_slice_is_not_taken_for_something_else(tmp_path):
    slices(tmp_path, [0.0, 1.0, 2.0])
    (tmp_path / "9.dcm").write_bytes((tmp_path / "7.dcm").read_bytes()[:400])
    with pytest.raises(VolumeError, match=r"9\.dcm"):
        read_volume(tmp_path)


def test_real_series(tmp_path):
    if not SHARED.exists():
        pytest.skip(f"needs {SHARED}, real data that the project does not ship")
    volume = read_volume(SHARED / "mr_hippocampus_crop")
    assert volume.array.shape == (1, 32, 51, 35) and volume.spacing_mm == (1, 1, 1)
    for number in (1, 9, 32):  # slice n lies at n mm
        alone = read_volume(SHARED / "mr_hippocampus_crop" / f"{number}.dcm")
        assert np.array_equal(volume.array[:, number - 1], alone.array[:, 0])
    with pytest.raises(VolumeError, match=r"161 missing between 7106 at -99\.48 mm and 7136 at 103\.02 mm"):
        read_volume(SHARED / "ct_series")
    for name in ("7136", "7166", "7196"):
        shutil.copyfile(SHARED / "ct_series" / name, tmp_path / name)
    volume = read_volume(tmp_path)
    stored = np.frombuffer((tmp_path / "7166").read_bytes()[-512:], "<i2").reshape(16, 16)
    assert np.array_equal(volume.array[0, 1], stored - 1024.0)  # its header says intercept -1024, slope 1
    assert np.allclose(volume.spacing_mm, (1.25, 0.488281, 0.488281))
