from pathlib import Path

import pytest

from tubelet.data.sample import Sample, VideoData, shared_groups


@pytest.mark.parametrize(
    ("sample", "name"),
    [
        (Sample(Path("a.mp4"), 0), "a.mp4"),
        (Sample(Path("a.mp4"), 0, 3), "a.mp4[3:]"),
        (Sample(Path("a.mp4"), 0, 0, 8), "a.mp4[0:8]"),
        (Sample(Path("a.mp4"), 0, 0.5, 8.25, unit="s"), "a.mp4[0.5:8.25 s]"),
        (Sample(Path("a.mp4"), (), moment=902, unit="s"), "a.mp4[902 s]"),
    ],
)
def test_names(sample, name):
    assert sample.name == name


def test_shared_groups():
    def samples(*names):
        return [Sample(Path(name), 0, group=group) for name, group in names]

    splits = {
        "train": samples(("a.mp4", "p1"), ("b.mp4", "p2"), ("c.mp4", ""), ("c.mp4", "")),
        "val": samples(("d.mp4", "p1"), ("c.mp4", "")),
        "test": samples(("e.mp4", "p1"), ("f.mp4", "")),
    }
    assert shared_groups(VideoData(("a",), splits)) == {"c.mp4": ("train", "val"), "p1": ("train", "val", "test")}
    assert shared_groups(VideoData(("a",), {"train": splits["train"]})) == {}
