import errno
import platform
from pathlib import Path

import pytest

from tubelet.machine import aside, cache_dir, folder_for, glibc, needs


def test_a_missing_package_is_told_with_the_line_that_installs_it():
    with pytest.raises(ImportError) as caught, needs("train"):
        import absent_package.part  # noqa: F401
    assert str(caught.value) == "no module named 'absent_package'; install it with: pip install \"tubelet[train]\""
    assert caught.value.name == "absent_package"
    assert not isinstance(caught.value, ModuleNotFoundError)


def test_a_package_that_is_there_passes():
    with needs("train"):
        import json  # noqa: F401


def test_a_package_that_fails_inside_keeps_its_error():
    with pytest.raises(ImportError, match="cannot import name 'absent'"), needs("train"):
        from json import absent  # noqa: F401


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"TUBELET_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/tubelet"),
        ({"TUBELET_CACHE": "", "XDG_CACHE_HOME": ""}, "/home/me/.cache/tubelet"),
        ({}, "/home/me/.cache/tubelet"),
    ],
)
def test_the_cache_is_where_the_environment_says(monkeypatch, variables, expected):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    for name in ("TUBELET_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == Path(expected)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs Linux with glibc")
def test_the_allocator_of_glibc_can_be_told_to_give_memory_back():
    assert glibc().malloc_trim(0) in (0, 1)


def test_elsewhere_there_is_no_glibc(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert glibc.__wrapped__() is None


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs Linux")
def test_a_folder_that_holds_no_files_is_told_before_the_work():
    with pytest.raises(PermissionError) as caught, folder_for(Path("/proc")):
        pytest.fail("it was gone into")
    assert caught.value.filename == "/proc"


@pytest.mark.parametrize("name", ["file.csv", "folder"])
def test_what_is_made_aside_takes_its_name_when_it_is_whole(tmp_path, name):
    def write(place, text):
        if place.suffix:
            place.write_text(text)
        else:
            place.mkdir()
            (place / "inside").write_text(text)

    with aside(tmp_path / name) as made:
        write(made, "whole")
        assert (made.parent, made.suffix, (tmp_path / name).exists()) == (tmp_path, (tmp_path / name).suffix, False)
    with pytest.raises(KeyboardInterrupt), aside(tmp_path / name) as made:
        write(made, "half")
        raise KeyboardInterrupt
    with pytest.raises(OSError, match="No space left") as caught, aside(tmp_path / name) as made:
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / name)
    (left,) = tmp_path.iterdir()
    assert left.name == name and (left if left.is_file() else left / "inside").read_text() == "whole"
