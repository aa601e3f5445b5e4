import json
from dataclasses import FrozenInstanceError, replace

import pytest

from tubelet import ClipSpec
from tubelet.spec import TORCHVISION

FULL = ClipSpec(
    num_frames=8,
    frame_stride=4,
    fps=12.5,
    resize=(30, 40),
    crop=(20, 24),
    mean=(0.1, 0.2),
    std=(0.3, 0.4),
    classes=("a", "é"),
)


@pytest.mark.parametrize("spec", [ClipSpec(), TORCHVISION, FULL, ClipSpec(resize=None, crop=None), ClipSpec(resize=64)])
def test_json_gives_the_spec_back(spec):
    back = ClipSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert back == spec
    assert hash(back) == hash(spec)


def test_a_later_versions_fields_are_an_error():
    with pytest.raises(ValueError, match=r"\['colour', 'depth'\].* newer tubelet"):
        ClipSpec.from_dict({**FULL.to_dict(), "depth": 3, "colour": 1})


def test_fields_that_a_file_lacks_have_their_defaults():
    assert ClipSpec.from_dict({"num_frames": 4}) == ClipSpec(num_frames=4)


def test_a_spec_cannot_be_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        FULL.num_frames = 3
    assert replace(FULL, num_frames=3).num_frames == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_frames": 0}, "num_frames 0"),
        ({"frame_stride": 0}, "frame_stride 0"),
        ({"fps": 0.0}, r"fps 0\.0 must be above 0"),
        ({"fps": -1.0}, r"fps -1\.0"),
        ({"resize": 0}, "resize 0"),
        ({"resize": (0, 4)}, r"resize \(0, 4\)"),
        ({"resize": (1, 2, 3)}, r"resize \(1, 2, 3\)"),
        ({"crop": (4, 0)}, r"crop \(4, 0\)"),
        ({"crop": (4,)}, r"crop \(4,\)"),
        ({"mean": (0.5,)}, "mean has 1 channels and std 3"),
        ({"std": (0.5, 0.0, 0.5)}, r"std \(0\.5, 0\.0, 0\.5\) must be above 0"),
    ],
)
def test_what_is_no_clip_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        ClipSpec(**values)


def test_one_number_is_a_square_crop():
    assert ClipSpec(crop=28) == ClipSpec(crop=(28, 28))


def test_channels_are_those_of_the_statistics():
    assert [spec.in_channels for spec in (ClipSpec(), FULL)] == [3, 2]
    assert FULL.with_channels(2) is FULL
    one, four = FULL.with_channels(1), FULL.with_channels(4)
    assert (one.in_channels, four.in_channels) == (1, 4)
    assert one.mean == pytest.approx((0.15,))
    assert four.std == pytest.approx((0.35,) * 4)
    assert replace(four, mean=FULL.mean, std=FULL.std) == FULL
