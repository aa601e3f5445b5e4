"""Data sets made of empty files: what lies on disk and what is written of it, never what a video shows."""

from pathlib import Path

import pytest

from tubelet.data.layouts import open_data


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def touch(tmp_path):
    """Make empty files, relative to the temporary folder, which is returned."""

    def make(*names):
        for name in names:
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return tmp_path

    return make


@pytest.fixture
def frames(touch):
    """Make folders of frames."""
    return lambda *folders, name="img_{:05}.jpg", num=3: touch(
        *(f"{folder}/{name.format(i)}" for folder in folders for i in range(1, num + 1))
    )


@pytest.fixture
def write(tmp_path):
    """Write a file of lines."""

    def make(name, *lines, end="\n", encoding="utf-8"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes("".join(line + end for line in lines).encode(encoding))
        return file

    return make


@pytest.fixture
def named(tmp_path):
    """Pairs (path below the temporary folder, class or classes) of the samples of a split."""

    def pairs(data, split):
        for sample in data.splits[split]:
            target = sample.target
            label = data.classes[target] if isinstance(target, int) else tuple(data.classes[each] for each in target)
            yield str(Path(sample.path).absolute().relative_to(tmp_path)), label

    return lambda data, split: list(pairs(data, split))


@pytest.fixture
def refused(tmp_path):
    """The one line, with the place in it, that says why a path cannot be read."""

    def line(path):
        with pytest.raises(ValueError) as caught:
            open_data(path)
        told = str(caught.value)
        assert "\n" not in told and str(tmp_path) in told
        return told

    return line
