"""The table of protocols against the rows of the catalogue that were measured with them."""

import pytest

import tubelet
from tubelet.protocols import PROTOCOLS, protocol
from tubelet.weights import CATALOGUE


def test_rows_are_whole():
    assert len({row.name for row in PROTOCOLS}) == len(PROTOCOLS)
    for row in PROTOCOLS:
        assert f"-{row.views}x{row.crops}" in row.name
        assert row.views >= 1 and row.crops >= 1 and row.source


@pytest.mark.parametrize(
    ("name", "tag", "published"),
    [
        ("k400-10x3", "slowfast_r50.", "10 clips x 3 crops"),
        ("k400-10x3-own-size", "x3d_m.", "10 clips x 3 crops"),
        ("k400-5x1-torchvision", "r3d_18.", "5 clips x 1 crop"),
        ("ucf101-10x1", "c3d.", "10 clips x 1 crop"),
    ],
)
def test_catalogue_agrees(name, tag, published):
    row = protocol(name)
    measured = [file for file in CATALOGUE if file.tag.startswith(tag) and file.protocol == published]
    assert measured
    assert any(row.clip(file.spec) == file.spec for file in measured)


def test_clip_takes_the_sizes():
    spec = tubelet.ClipSpec(num_frames=8, resize=128, crop=(112, 112))
    assert (protocol("k400-10x3").clip(spec).resize, protocol("k400-10x3").clip(spec).crop) == (256, (256, 256))
    assert protocol("k400-10x3-own-size").clip(spec) == spec
    assert (protocol("ava-1x1").clip(spec).resize, protocol("ava-1x1").clip(spec).crop) == (256, None)


def test_unknown_names():
    with pytest.raises(ValueError, match="protocol 'k400-10x33'; there is k400-10x3"):
        protocol("k400-10x33")
    with pytest.raises(ValueError, match=r"there is k400-10x3, .*ucf101-10x1"):
        protocol("zzz")
