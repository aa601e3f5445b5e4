import random

import numpy as np
import pytest
from painted import CLIPS, av, encode, packets_of, x264

from tubelet.data.container import File
from tubelet.data.headers import Header, read_header

NAMES = ["a.mp4", "a.mov", "a.mkv", "a.webm", "a.avi", "a.ts", "a.gif"]


def noise(index):
    return np.random.default_rng(index).integers(0, 256, (48, 96, 3), np.uint8)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    folder = tmp_path_factory.mktemp("headers")

    def make(name):
        codec, options, pix_fmt = {
            "a.webm": ("libvpx-vp9", {"g": "12", "deadline": "realtime", "cpu-used": "8"}, "yuv420p"),
            "a.gif": ("gif", {}, "rgb8"),
        }.get(name, ("libx264", x264(12), "yuv420p"))
        path = folder / name
        return path if path.exists() else encode(path, 40, codec, options=options, pix_fmt=pix_fmt, draw=noise)

    return make


def header(path):
    with av.open(str(path)) as container:
        return read_header(path, container.format.name, container.streams.video[0].id)


def test_mxf_is_whole_with_its_last_partition(tmp_path):
    path = encode(tmp_path / "a.mxf", 4, "mpeg2video")
    data = path.read_bytes()
    assert header(path) == Header()
    places = int.from_bytes(data[-4:])  # of the partitions, which not every writer adds
    for size, is_cut in ((len(data) - places, False), (len(data) - places - 2000, True)):
        path.write_bytes(data[:size])
        assert header(path).is_cut == is_cut


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_file_has_no_hole(make, name):
    assert header(make(name)) == Header()


@pytest.mark.parametrize("name", ["arm_wrestling.mp4", "cricket_shot.gif", "h264_long_gop.mp4", "test.avi"])
def test_real_files_are_whole(name):
    if not (CLIPS / name).is_file():
        pytest.skip(f"needs {CLIPS / name}, real data that the project does not ship")
    assert header(CLIPS / name) == Header()


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_is_seen(make, name, tmp_path):
    draw = random.Random(0)
    data = make(name).read_bytes()
    form, track = ("", 1)
    with av.open(str(make(name))) as container:
        form, track = container.format.name, container.streams.video[0].id
    for _ in range(20):
        size = draw.randrange(len(data) // 4, len(data) * 3 // 4)
        size += form == "mpegts" and size % 188 == 0  # between two packets nothing tells
        path = tmp_path / name
        path.write_bytes(data[:size])
        found = read_header(path, form, track)
        assert found.is_cut or found.holes[-1].end >= size


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.avi", "a.ts"])
def test_overwritten_bytes_lie_in_a_hole(make, name, tmp_path):
    draw = random.Random(0)
    data = make(name).read_bytes()
    packets = packets_of(make(name))
    for _ in range(20):
        start = draw.randrange(packets[3].pos, packets[30].pos)
        path = tmp_path / name
        path.write_bytes(data[:start] + draw.randbytes(6000) + data[start + 6000 :])
        holes = header(path).holes
        assert holes
        # From the first header that is wrong; a packet of TS may begin within.
        assert holes[0].start <= min(packet.pos for packet in packets if packet.pos > start)
        assert holes[-1].end >= start + 6000 - 188


def test_a_single_bit_is_seen_where_the_writer_added_checksums(make, tmp_path):
    draw = random.Random(0)
    data = bytearray(make("a.mkv").read_bytes())
    first, last = (packets_of(make("a.mkv"))[number].pos for number in (0, -1))
    for _ in range(50):
        place = draw.randrange(first, last)
        data[place] ^= 1 << draw.randrange(8)
        (tmp_path / "a.mkv").write_bytes(data)
        (hole,) = header(tmp_path / "a.mkv").holes
        assert hole.start <= place < hole.end
        data[:] = make("a.mkv").read_bytes()


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi"])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_quarter_turns(tmp_path, suffix, degrees):
    path = encode(
        tmp_path / f"a{suffix}", 6, options=x264(12), prepare=lambda stream: stream.set_display_rotation(degrees)
    )
    with av.open(str(path)) as container:
        turned = next(container.decode(video=0)).rotation % 180 != 0
    assert header(path).is_turned in ({None} if suffix == ".mkv" and degrees else {turned})
    file = File(path)
    assert file.size == next(file.pictures([0])).shape[:2] == ((96, 48) if turned else (48, 96))
    file.close()


def test_garbage_ends_soon(tmp_path):
    """No walk goes byte by byte through what it does not know."""
    data = random.Random(0).randbytes(3_000_000) + bytes(30_000_000)
    heads = {
        "mov,mp4,m4a,3gp,3g2,mj2": b"\0\0\0\x08ftyp",
        "matroska,webm": bytes.fromhex("1a45dfa3 80 18538067 01ffffffffffffff 1f43b675 01ffffffffffffff"),
        "avi": b"RIFF\0\0\0\0AVI LIST\0\0\0\0movi",
        "mpegts": b"G",
        "gif": b"GIF89a" + bytes(7) + b",",
    }
    for form, head in heads.items():
        (tmp_path / "a").write_bytes(head + data)
        read_header(tmp_path / "a", form, 1)
