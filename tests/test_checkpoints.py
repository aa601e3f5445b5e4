"""Checkpoints: killed, truncated, altered and out of space, a run still has a whole one."""

import os
import subprocess
from pathlib import Path

import pytest
import torch

from tubelet import checkpoints


def saver(number, size=1000):
    return lambda path: torch.save({"number": number, "weights": torch.full((size,), float(number))}, path)


def number_of(path):
    return torch.load(path)["number"]


@pytest.fixture
def two(tmp_path):
    for number in (1, 2):
        assert checkpoints.write(tmp_path, saver(number))
    return tmp_path


def test_the_newest_is_taken_and_the_one_before_kept(two):
    assert number_of(checkpoints.newest(two)) == 2
    assert number_of(two / checkpoints.PREVIOUS) == 1
    assert {path.name for path in two.iterdir()} == {checkpoints.LAST, checkpoints.PREVIOUS}


def test_a_folder_without_any(tmp_path):
    assert checkpoints.newest(tmp_path) is None


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path):
    path.write_bytes(b"")


def altered(path):
    data = bytearray(path.read_bytes())
    at = bytes(data).index(torch.full((4,), 2.0).numpy().tobytes())
    data[at + 8] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, emptied, altered])
def test_a_broken_one_is_named_and_the_one_before_taken(two, damage, capsys):
    damage(two / checkpoints.LAST)
    assert number_of(checkpoints.newest(two)) == 1
    said = capsys.readouterr().err
    assert str(two / checkpoints.LAST) in said and "the one before" in said


def test_killed_between_the_two_renamings(two):
    (two / checkpoints.LAST).replace(two / checkpoints.PREVIOUS)
    assert number_of(checkpoints.newest(two)) == 2


def test_none_that_is_whole_is_an_error(two):
    for path in two.iterdir():
        emptied(path)
    with pytest.raises(ValueError, match="no checkpoint is whole"):
        checkpoints.newest(two)


def test_what_fails_for_another_reason_is_an_error(two):
    def save(path):
        raise OSError(5, "Input/output error", str(path))

    with pytest.raises(OSError, match="Input/output"):
        checkpoints.write(two, save)
    assert number_of(checkpoints.newest(two)) == 2


def small_disk(folder: Path, megabytes: int):
    """A disk of its own at the folder, or a skipped test."""
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], capture_output=True
        ).returncode
    ):
        pytest.skip("only root may mount a small disk")


def test_a_full_disk_leaves_the_one_before(tmp_path, capsys):
    small_disk(tmp_path, 8)
    try:
        assert checkpoints.write(tmp_path, saver(1, 500_000))
        assert checkpoints.write(tmp_path, saver(2, 500_000))
        assert not checkpoints.write(tmp_path, saver(3, 1_500_000))
        assert "disk is full" in capsys.readouterr().err
        assert number_of(checkpoints.newest(tmp_path)) == 2
        assert {path.name for path in tmp_path.iterdir()} == {checkpoints.LAST, checkpoints.PREVIOUS}
        assert checkpoints.write(tmp_path, saver(4, 500_000))
        assert number_of(checkpoints.newest(tmp_path)) == 4
    finally:
        subprocess.run(["umount", tmp_path], check=True)
