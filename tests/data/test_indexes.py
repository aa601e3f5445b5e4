import os

import numpy as np
import pytest

from tubelet.data import indexes

NUMBERS = np.concatenate([np.arange(9000) * 512, [-5, 2**62, 0], np.random.default_rng(0).integers(0, 10**9, 50)])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TUBELET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"some video")
    return path


def entries(cache):
    return [path for path in (cache / "index").rglob("*") if path.is_file()]


def test_numbers_come_back(cache, file):
    state = file.stat()
    assert indexes.load(file, state, "1") is None
    indexes.save(file, state, "1", NUMBERS)
    assert np.array_equal(indexes.load(file, state, "1"), NUMBERS)
    (entry,) = entries(cache)
    assert entry.stat().st_size < 4096


def test_another_file_time_size_or_version_is_another_entry(cache, file):
    indexes.save(file, file.stat(), "1", NUMBERS)
    assert indexes.load(file, file.stat(), "2") is None
    assert indexes.load(file.with_name("b.mp4"), file.stat(), "1") is None
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert indexes.load(file, file.stat(), "1") is None
    indexes.save(file, file.stat(), "1", NUMBERS)
    file.write_bytes(b"some longer video")
    assert indexes.load(file, file.stat(), "1") is None
    indexes.save(file, file.stat(), "1", NUMBERS)
    assert len(entries(cache)) == 1


def test_the_same_file_by_another_way(cache, file, monkeypatch):
    indexes.save(file, file.stat(), "1", NUMBERS)
    monkeypatch.chdir(file.parent)
    assert indexes.load(type(file)("a.mp4"), file.stat(), "1") is not None


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-3], lambda data: data[:40] + b"\0\0" + data[42:]]
)
def test_a_damaged_entry_is_none(cache, file, damage):
    indexes.save(file, file.stat(), "1", NUMBERS)
    (entry,) = entries(cache)
    entry.write_bytes(damage(entry.read_bytes()))
    assert indexes.load(file, file.stat(), "1") is None


def test_the_number_of_entries_has_a_bound(cache, file, monkeypatch):
    monkeypatch.setattr(indexes, "_SLOTS", 5)
    for number in range(50):
        indexes.save(file.with_name(str(number)), file.stat(), "1", NUMBERS)
        assert indexes.load(file.with_name(str(number)), file.stat(), "1") is not None
    assert len(entries(cache)) == 5


@pytest.mark.parametrize("place", ["/dev/null/cache", "/proc/cache"])
def test_where_nothing_can_be_written_nothing_is_kept(file, monkeypatch, place):
    monkeypatch.setenv("TUBELET_CACHE", place)
    indexes.save(file, file.stat(), "1", NUMBERS)
    assert indexes.load(file, file.stat(), "1") is None


def test_a_full_disk_leaves_nothing_behind(cache, file, monkeypatch):
    def full(path, data):
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(file), "write_bytes", full)
    indexes.save(file, file.stat(), "1", NUMBERS)
    assert not entries(cache)


@pytest.mark.parametrize("header", ["a.mhd", "a.nhdr"])
def test_the_voxels_of_a_header_belong_to_it(tmp_path, header):
    sitk = pytest.importorskip("SimpleITK")
    sitk.WriteImage(sitk.Image(4, 5, 6, sitk.sitkUInt8), str(tmp_path / header))
    (voxels,) = (path for path in tmp_path.iterdir() if path.name != header)
    before = indexes.footprint(tmp_path / header)
    assert before[0] == sum(path.stat().st_size for path in tmp_path.iterdir())
    os.utime(voxels, ns=(0, before[1] + 1))
    assert indexes.footprint(tmp_path / header) == (before[0], before[1] + 1)


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("a.mhd", "NDims = 3\nElementDataFile = LIST\ns001.raw\ns002.raw\ns003.raw\n"),
        ("a.mhd", "NDims = 3\nElementDataFile = s%03d.raw 1 3 1\n"),
        ("a.nhdr", "NRRD0004\ndata file: LIST 2\ns001.raw\ns002.raw\ns003.raw\n"),
        ("a.nhdr", "NRRD0004\ndatafile: s%03d.raw 3 1 -1 2\r\n"),
    ],
)
def test_all_parts_of_a_header_belong_to_it(tmp_path, header, text):
    (tmp_path / header).write_text(text, newline="")
    for number in range(1, 4):
        (tmp_path / f"s{number:03}.raw").write_bytes(bytes(number))
    for number in range(1, 4):
        size, time = indexes.footprint(tmp_path / header)
        assert size == len(text) + 6
        os.utime(tmp_path / f"s{number:03}.raw", ns=(0, time + 1))
        assert indexes.footprint(tmp_path / header) == (size, time + 1)


@pytest.mark.parametrize("value", ["50%.raw", "%s%s.raw 1 2 1"])
def test_what_is_no_pattern_is_a_name(tmp_path, value):
    (tmp_path / "a.mhd").write_text(f"ElementDataFile = {value}\n")
    (tmp_path / value).write_bytes(b"voxels")
    assert indexes.footprint(tmp_path / "a.mhd")[0] == (tmp_path / "a.mhd").stat().st_size + 6
