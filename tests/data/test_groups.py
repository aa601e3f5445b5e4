"""Enhanced DICOM: many frames in one file, written here byte by byte, since ITK writes no functional groups."""

import struct
import zlib

import numpy as np
import pytest

pytest.importorskip("SimpleITK")
pytest.importorskip("pydicom")

from tubelet.data.groups import frames
from tubelet.data.volume import VolumeError, read_volume

EXPLICIT, IMPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"
CT, PET, CAPTURE = (f"1.2.840.10008.5.1.4.1.1.{kind}" for kind in ("2.1", "130", "7.3"))
OPEN, ITEM = b"\xff" * 4, b"\xfe\xff\x00\xe0"
ITEM_END, SEQUENCE_END = b"\xfe\xff\x0d\xe0" + bytes(4), b"\xfe\xff\xdd\xe0" + bytes(4)
FLAT = "1\\0\\0\\0\\1\\0"


def write_frames(
    path, array, positions, *, rescale=None, syntax=EXPLICIT, is_open=False, kind=CT, along=FLAT, cut=None
):
    """Frames (N, H, W) of int16, of 0.5 by 0.75 mm, at these places along z; `cut` leaves out the end of the header."""

    def element(tag, vr, value, is_explicit=syntax != IMPLICIT, length=None):
        if isinstance(value, str):
            value = value.encode() + (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
        head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        length = struct.pack("<I", len(value)) if length is None else length
        if not is_explicit:
            return head + length + value
        return head + vr.encode() + (bytes(2) + length if vr in ("OW", "SQ") else length[:2]) + value

    def sequence(tag, *items):
        if not is_open:
            return element(tag, "SQ", b"".join(ITEM + struct.pack("<I", len(item)) + item for item in items))
        value = b"".join(ITEM + OPEN + item + ITEM_END for item in items) + SEQUENCE_END
        return element(tag, "SQ", value, length=OPEN)

    def frame(number, z):
        made = sequence(
            0x00209111, element(0x00209056, "SH", "1"), element(0x00209057, "UL", struct.pack("<I", number))
        )
        made += sequence(0x00209113, element(0x00200032, "DS", f"1\\2\\{z}"))
        slope, intercept = rescale[number] if rescale else (1, 0)
        told = element(0x00281052, "DS", str(intercept)) + element(0x00281053, "DS", str(slope))
        return made + sequence(0x00289145, told)

    measures = element(0x00180050, "DS", "3") + element(0x00280030, "DS", "0.5\\0.75")
    shared = sequence(0x00209116, element(0x00200037, "DS", along)) + sequence(0x00289110, measures)
    sides = ((0x00280010, array.shape[1]), (0x00280011, array.shape[2]), (0x00280100, 16), (0x00280101, 16))
    body = element(0x00080016, "UI", kind) + element(0x0020000E, "UI", "1.2.3")
    body += element(0x00280002, "US", b"\1\0") + element(0x00280004, "CS", "MONOCHROME2")
    body += element(0x00280008, "IS", str(len(array)))
    body += b"".join(element(tag, "US", struct.pack("<H", value)) for tag, value in (*sides, (0x00280102, 15)))
    body += element(0x00280103, "US", b"\1\0") + sequence(0x52009229, shared)
    body += sequence(0x52009230, *(frame(number, z) for number, z in enumerate(positions)))
    body += element(0x7FE00010, "OW", array.astype("<i2").tobytes())
    if syntax == DEFLATED:
        packer = zlib.compressobj(wbits=-15)
        body = packer.compress(body) + packer.flush()
    meta = element(0x00020002, "UI", kind, True) + element(0x00020003, "UI", "1.2.4", True)
    meta += element(0x00020010, "UI", syntax, True)
    path.write_bytes(bytes(128) + b"DICM" + element(0x00020000, "UL", struct.pack("<I", len(meta)), True) + meta + body)
    return path


ARRAY = np.random.default_rng(0).integers(-500, 500, (4, 4, 5)).astype(np.int16)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, DEFLATED])
@pytest.mark.parametrize("is_open", [False, True])
def test_frames_are_in_the_order_of_their_positions(tmp_path, caplog, syntax, is_open):
    caplog.set_level("INFO", "tubelet")
    path = write_frames(tmp_path / "a.dcm", ARRAY, (4, 0, 6, 2), syntax=syntax, is_open=is_open)
    for place in (path, tmp_path):
        volume = read_volume(place)
        assert np.array_equal(volume.array[0], ARRAY[[1, 3, 0, 2]])
        assert np.allclose(volume.spacing_mm, (2, 0.5, 0.75)) and volume.grid.origin_mm == (1, 2, 0)
    assert "PixelSpacing" not in caplog.text  # the groups tell it
    told = {"0008|0016": CT, "0028|0004": "MONOCHROME2", "0018|0050": "3", "0028|0030": "0.5\\0.75"}
    told |= {"0020|0037": FLAT, "0028|1052": "0", "0028|1053": "1"}
    assert frames(path) == [{**told, "0020|0032": f"1\\2\\{z}"} for z in (4, 0, 6, 2)]


def test_frames_that_descend_stay_as_they_are_stored(tmp_path):
    path = write_frames(tmp_path / "a.dcm", ARRAY, (6, 4, 2, 0))
    for place in (path, tmp_path):
        volume = read_volume(place)
        assert np.array_equal(volume.array[0], ARRAY) and np.allclose(volume.spacing_mm, (2, 0.5, 0.75))
        assert volume.grid.orientation == "IPL" and volume.grid.origin_mm == (1, 2, 6)


def test_each_frame_has_its_own_rescale(tmp_path):
    rescale = [(1, 0), (10, 0), (0.5, 5), (2, -1024)]
    volume = read_volume(write_frames(tmp_path / "a.dcm", ARRAY, (0, 2, 6, 4), rescale=rescale, kind=PET))
    expected = [values * slope + shift for values, (slope, shift) in zip(ARRAY.astype(float), rescale, strict=True)]
    assert np.array_equal(volume.array[0], np.stack(expected)[[0, 1, 3, 2]])
    path = write_frames(tmp_path / "b.dcm", ARRAY, (0, 2, 4, 6), rescale=rescale, kind=CAPTURE)
    with pytest.raises(VolumeError, match=r"b\.dcm: frames that differ in slope .*; save them as single slices"):
        read_volume(path)


def test_directions_of_few_digits_are_straightened(tmp_path):
    volume = read_volume(write_frames(tmp_path / "a.dcm", ARRAY, (0, 2, 4, 6), along="1\\0.002\\0\\0\\1\\0"))
    assert np.allclose(volume.grid.steps.T @ volume.grid.steps, np.eye(3), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("positions", "change", "says"),
    [
        ((0, 2, 6, 8), {}, r"1 missing between frame 2 at 2\.00 mm and frame 3 at 6\.00 mm"),
        ((0, 2, 0, 2), {}, r"frame 1 at 0\.00 mm and frame 3 at 0\.00 mm lie at the same place"),
        ((0, 2, 4, 6), {"along": "1\\0\\0\\0\\0"}, "its spacing is 0 along an axis"),
        ((0, 2, 4), {}, "4 frames, and 3 in its header"),
    ],
)
def test_what_is_no_stack(tmp_path, positions, change, says):
    path = write_frames(tmp_path / "a.dcm", ARRAY, positions, **change)
    with pytest.raises(VolumeError, match=says) as caught:
        read_volume(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_a_header_cut_short(tmp_path):
    path = write_frames(tmp_path / "a.dcm", ARRAY, (0, 2, 4, 6))
    path.write_bytes(path.read_bytes()[: -ARRAY.nbytes - 30])
    with pytest.raises(VolumeError, match=rf"^{path}: cannot be read \(not a \.dcm file, or cut short\)$"):
        read_volume(path)


def test_one_frame_is_as_thick_as_its_groups_say(tmp_path, caplog):
    caplog.set_level("INFO", "tubelet")
    assert read_volume(write_frames(tmp_path / "a.dcm", ARRAY[:1], (7,))).spacing_mm == (3, 0.5, 0.75)
    assert not caplog.messages
