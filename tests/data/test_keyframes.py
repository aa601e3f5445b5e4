"""Keyframes by the packets themselves, where containers say nothing of them."""

import pytest

from tubelet.data.keyframes import bytes_of_unit_size, is_hevc_key, num_told
from tubelet.data.packets import Packet

VPS, SEI, CRA, TRAIL = 32, 39, 21, 1  # types of HEVC's units


def packets(kinds):
    """One for each letter: K a keyframe by its flag, - none."""
    return [Packet(n, n, 1, n, 1, kind == "K", True, False, True) for n, kind in enumerate(kinds)]


@pytest.mark.parametrize(
    ("form", "codec", "kinds", "is_intra", "told"),
    [
        ("avi", "msmpeg4v3", "KKKKKK", False, 1),  # without an index
        ("avi", "msmpeg4v3", "K--K--KKKK", False, 6),  # with a part of one
        ("avi", "msmpeg4v3", "K--K--", False, 6),
        ("avi", "msrle", "KKKKKK", True, 6),
        ("mov,mp4,m4a,3gp,3g2,mj2", "mpeg4", "KKKK", False, 1),
        ("mov,mp4,m4a,3gp,3g2,mj2", "mpeg4", "K--KK", False, 5),  # it names its keyframes
        ("matroska,webm", "mpeg4", "KKKK", False, 4),
        ("avi", "h264", "KKKK", False, 4),  # seen in the packets
        ("mpegts", "mpeg4", "KKKK", False, 4),
    ],
)
def test_flags_by_silence_are_not_believed(form, codec, kinds, is_intra, told):
    assert num_told(packets(kinds), form, codec, lambda: is_intra) == told


@pytest.mark.parametrize("num_bytes", [1, 2, 4])
@pytest.mark.parametrize(("types", "is_key"), [([VPS, SEI, CRA], True), ([SEI, TRAIL, CRA], False), ([VPS], False)])
def test_hevc_tells_by_its_first_picture(types, is_key, num_bytes):
    units = [bytes([kind << 1, 1, 9, 9, 9]) for kind in types]
    data = b"".join(len(unit).to_bytes(num_bytes) + unit for unit in units)
    assert is_hevc_key(memoryview(data), num_bytes) is is_key


def test_the_size_of_a_units_size_is_in_the_header():
    assert bytes_of_unit_size(bytes([1, *[0] * 20, 0xFF])) == 4
    assert bytes_of_unit_size(bytes([0, 0, 0, 1, *[0] * 20])) == bytes_of_unit_size(None) == 0
