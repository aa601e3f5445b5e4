"""Libraries that are compiled on first use and kept."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from tubelet.kernels import native


def test_a_damaged_library_is_compiled_anew(tmp_path, monkeypatch):
    source = tmp_path / "seven.cpp"
    source.write_text('extern "C" int seven() { return 7; }\n')
    monkeypatch.setenv("TUBELET_CACHE", str(tmp_path / "first"))
    library, why = native.library(source)
    if library is None:
        pytest.skip(why)
    kept = Path(library._name)
    whole = kept.read_bytes()
    for size in (0, 1000, len(whole) // 2, len(whole) - 1):
        damaged = tmp_path / str(size) / "kernels" / kept.name
        damaged.parent.mkdir(parents=True)
        damaged.write_bytes(whole[:size])
        monkeypatch.setenv("TUBELET_CACHE", str(tmp_path / str(size)))
        with monkeypatch.context() as patch:  # a folder that cannot be written
            patch.setattr(native.machine, "kept", lambda path: nullcontext(tmp_path / "aside.so"))
            assert native.library(source) == (None, f"{damaged}: is damaged, and cannot be written anew: remove it")
        library, _ = native.library(source)
        assert library is not None and library.seven() == 7 and len(damaged.read_bytes()) == len(whole)
