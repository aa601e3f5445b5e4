"""What is chosen for scans, worked by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tubelet.data.sample import Sample, VideoData
from tubelet.data.volume import Grid, VolumeError, write_volume
from tubelet.plan import Look, intensity_of, look, plan, read, trained, write
from tubelet.spec import Intensity


def seen(size, spacing, low=0.0, values=None, num=10, channels=1):
    """As if so many scans of one size and spacing had been looked at."""
    values = np.linspace(0, 100, 1001) if values is None else values
    ranges = np.array([[low, 1000.0]] * channels)
    sizes, spacings = np.array([size] * num), np.array([spacing] * num, float)
    return Look(sizes, spacings, channels, ranges, (values,) * channels, {0: 900, 1: 100}, 0, num)


def test_mr_of_even_voxels():
    # 36x50x35: 36 -> 18 -> 9 -> 5, which a next half would bring below 4; rounded up to multiples of 8
    found = plan(seen((36, 50, 35), (1, 1, 1)))
    assert (found.spec.num_frames, *found.spec.crop) == (40, 56, 40)
    assert found.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert found.channels == (24, 48, 96, 192) and found.batch_size == 2
    assert found.spec.intensity == Intensity("z_score") and found.spec.mean == (0.0,) and found.spec.std == (1.0,)
    assert found.spec.orientation == "SPL" and found.spec.spacing_mm == (1.0, 1.0, 1.0) and found.spec.resize is None
    assert len(found.reasons) == 7 and "10 scans looked at: 36x50x35 voxels of 1x1x1 mm" in found.reasons[0]
    assert "90 %, 10 %" in found.reasons[0]


def test_ct_of_thick_slices():
    look_ = seen((60, 512, 512), (5, 0.7, 0.7), low=-1024.0)
    look_ = replace(look_, spacings=np.array([[3.0, 0.7, 0.7]] + [[5.0, 0.7, 0.7]] * 9))
    found = plan(look_)
    # the 10th percentile of 3, 5, 5, ...: a tenth of 9 steps is 0.9 of the way from 3 to 5
    assert found.spec.spacing_mm == pytest.approx((4.8, 0.7, 0.7))
    # median of round(60 * 5 / 4.8) = 62 slices (62.5 to even); 62 * 119 * 119 <= 96 ** 3 < 62 * 120 * 119
    depth, height, width = found.spec.num_frames, *found.spec.crop
    # 0.7 mm is halved to 1.4, 2.8 before 4.8 is within twice of it: 119 -> 60 -> 30, then all three
    assert found.strides[:4] == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2))
    multiple = np.prod(found.strides, 0)
    assert [depth, height, width] == [-(-n // m) * m for n, m in zip((62, 119, 119), multiple, strict=True)]
    # 0.5 % and 99.5 % of 0 to 100; what they leave is scaled to 0..1
    assert found.spec.intensity.kind == "window" and found.spec.intensity[1:] == pytest.approx((0.5, 99.5))
    assert found.spec.mean == pytest.approx((0.5,)) and found.spec.std == pytest.approx((0.2886,), abs=1e-2)
    assert any("CT" in reason for reason in found.reasons)


def test_even_spacing_is_the_median():
    many = replace(seen((100, 100, 100), (1, 1, 1)), spacings=np.array([[1.0, 0.8, 0.8]] * 6 + [[2.0, 0.9, 0.9]] * 4))
    assert plan(many).spec.spacing_mm == (1.0, 0.8, 0.8)


def test_what_is_asked_for_is_taken():
    asked = {"window": (16, 32, 48), "spacing_mm": (2.0, 1.0, 1.0), "batch_size": 7}
    found = plan(seen((36, 50, 35), (1, 1, 1)), intensity=Intensity("percentile", 1, 99), **asked)
    assert (found.spec.num_frames, *found.spec.crop) == (16, 32, 48) and found.batch_size == 7
    assert found.spec.spacing_mm == (2.0, 1.0, 1.0) and found.spec.intensity == Intensity("percentile", 1, 99)
    assert sum("as asked" in reason for reason in found.reasons) == 4


def test_ct_whose_foreground_has_one_value():
    found = plan(seen((36, 50, 35), (1, 1, 1), low=-1024.0, values=np.full(1000, 100.0)))
    assert found.spec.intensity == Intensity("z_score")
    assert any("CT whose foreground is 100 throughout" in reason for reason in found.reasons)


def test_what_does_not_fit_is_made_smaller():
    def size(found):
        return found.batch_size * found.spec.num_frames * np.prod(found.spec.crop)

    large = seen((200, 200, 200), (1, 1, 1), num=1000)
    full = plan(large, device="cuda")
    assert (full.spec.num_frames, *full.spec.crop) == (128, 128, 128) and full.batch_size == 16
    assert full.channels == (32, 64, 128, 256, 320, 320)
    less = plan(large, device="cuda", fits=lambda found: size(found) <= size(full) / 4)
    assert less.batch_size == 4 and less.spec.crop == (128, 128)
    least = plan(large, device="cuda", fits=lambda found: size(found) <= size(full) / 16)
    assert least.batch_size == 2 and (least.spec.num_frames, *least.spec.crop) == (64, 128, 128)
    assert any("halved until" in reason for reason in least.reasons)
    with pytest.raises(ValueError, match=r"a step of 2 windows of \d+x\d+x\d+ does not fit into the memory"):
        plan(large, fits=lambda found: False)
    with pytest.raises(ValueError, match="a step of 5 windows of 8x8x8 does not fit"):
        plan(large, fits=lambda found: False, window=(8, 8, 8), batch_size=5)


def test_tiny_and_flat_scans():
    tiny = plan(seen((6, 6, 6), (1, 1, 1)))
    assert tiny.strides == ((1, 1, 1), (2, 2, 2)) and (tiny.spec.num_frames, *tiny.spec.crop) == (6, 6, 6)
    flat = plan(seen((1, 64, 64), (1, 1, 1)))
    assert {stride[0] for stride in flat.strides} == {1} and flat.spec.num_frames == 1
    assert flat.spec.mirror_axes == (1, 2) and "mirrored along height, width" in flat.reasons
    with pytest.raises(ValueError, match="a window of 2x3x1 voxels is too small for a network"):
        plan(seen((2, 3, 1), (1, 1, 1)))
    with pytest.raises(ValueError, match="spacing_mm"):
        plan(seen((20, 20, 20), (1, 1, 1)), spacing_mm=(0.0, 1.0, 1.0))


def test_a_plan_is_kept(tmp_path):
    found = plan(seen((60, 128, 128), (5, 0.7, 0.7), low=-1000.0, channels=2))
    write(found, tmp_path / "plan.json")
    assert read(tmp_path / "plan.json") == found
    assert json.loads((tmp_path / "plan.json").read_text())["reasons"] == list(found.reasons)
    (tmp_path / "bad.json").write_text('{"spec": {}}')
    for name, says in (("bad.json", "damaged"), ("gone.json", "no such file")):
        with pytest.raises(ValueError, match=says):
            read(tmp_path / name)
    with pytest.raises(ValueError, match=r"^plan .*: a folder; give the file plan\.json that lies in the folder of"):
        read(tmp_path)


def test_reasons_are_those_of_what_is_trained():
    found = plan(seen((36, 50, 35), (1, 1, 1)))
    assert trained(found, (0, 1, 2), has_network=True) == found
    other = trained(found, (1,), has_network=False)
    assert other.spec == replace(found.spec, mirror_axes=(1,)) and other.channels == found.channels
    assert other.reasons[3] == "mirrored along height, as distort.flip says"
    assert not any("stages" in reason for reason in other.reasons) and len(other.reasons) == 6
    assert trained(other, (1,), has_network=False) == other
    assert trained(other, (), has_network=True).reasons[3] == "mirrored along no axis, as distort.flip says"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("z_score", Intensity("z_score")),
        ("window -160 240", Intensity("window", -160, 240)),
        ("percentile 0.5 99.5", Intensity("percentile", 0.5, 99.5)),
    ],
)
def test_intensities_as_typed(text, found):
    assert intensity_of(text) == found


@pytest.mark.parametrize(
    "text", ["", "window", "window 1", "window 5 1", "z_score 1 2", "percentile -1 50", "soft 0 1", "window a b"]
)
def test_intensities_that_are_none(text):
    with pytest.raises(ValueError, match=r"^intensity .*; give \"z_score\""):
        intensity_of(text)


@pytest.mark.parametrize("text", ["foo", "foo 1 2"])
def test_a_kind_of_intensity_that_there_is_not(text):
    with pytest.raises(ValueError, match=f"^intensity '{text}': there is window, percentile, z_score; give"):
        intensity_of(text)


def scans(tmp_path, arrays, spacing=(1.0, 1.0, 1.0)):
    samples = []
    for i, array in enumerate(arrays):
        mask = np.zeros(array.shape[-3:], np.uint8)
        mask[0, 0, :2] = 1
        grid = Grid(mask.shape, spacing)
        write_volume(tmp_path / f"{i}.nii.gz", array, grid)
        write_volume(tmp_path / f"mask{i}.nii.gz", mask, grid)
        samples.append(Sample(tmp_path / f"{i}.nii.gz", tmp_path / f"mask{i}.nii.gz"))
    return VideoData(("background", "one"), {"train": samples}, "segment", is_volume=True)


def test_what_is_seen_of_scans(tmp_path):
    array = np.zeros((4, 5, 6), np.float32)
    array[0, 0, :2] = 7, 9
    array[3, 3, 3] = -5
    data = scans(tmp_path, [array, array[:2]], (3.0, 2.0, 1.0))
    found = look(data)
    assert found.sizes.tolist() == [[4, 5, 6], [2, 5, 6]] and found.spacings.tolist() == [[3, 2, 1]] * 2
    assert sorted(found.values[0].tolist()) == [7, 7, 9, 9]  # of the foreground alone
    assert found.ranges.tolist() == [[-2.5, 9]] and found.voxels == {0: 176, 1: 4} and found.num_scans == 2
    again = look(data)
    assert [each.tolist() for each in again.values] == [each.tolist() for each in found.values]
    (tmp_path / "0.nii.gz").write_bytes(b"nothing")
    with pytest.raises(VolumeError, match=r"0\.nii\.gz"):
        look(data)
    assert look(data, skips=True).num_scans == 1
    (tmp_path / "mask1.nii.gz").write_bytes(b"nothing")
    with pytest.raises(VolumeError, match=r"no scan of train can be read, first .*0\.nii\.gz"):
        look(data, skips=True)


def test_scans_of_other_channels_are_named(tmp_path):
    data = scans(tmp_path, [np.zeros((1, 4, 4, 4), np.float32), np.zeros((2, 4, 4, 4), np.float32)])
    with pytest.raises(VolumeError, match=r"1\.nii\.gz: 2 channels, and scans before it have 1"):
        look(data)


def test_axes_along_which_classes_lie_in_order_are_not_mirrored(tmp_path):
    """Head before tail; left and right exchanged by their names; a lesion anywhere."""
    rng = np.random.default_rng(0)
    classes = ("background", "head", "tail", "left lung", "right lung", "lesion")
    samples = []
    for i in range(8):
        mask = np.zeros((12, 12, 12), np.uint8)
        back = 3 if i % 2 else 8  # depth is as likely as its mirror
        mask[back, 2:4, 5:7], mask[11 - back, 7:10, 5:7] = 1, 2
        mask[5:7, 5:7, :3], mask[5:7, 5:7, 9:] = 3, 4
        mask[tuple(rng.integers(0, 12, (3, 20)))] = 5
        grid = Grid(mask.shape, (1.0, 1.0, 1.0))
        write_volume(tmp_path / f"{i}.nii.gz", mask[None].astype(np.float32), grid)
        write_volume(tmp_path / f"mask{i}.nii.gz", mask, grid)
        samples.append(Sample(tmp_path / f"{i}.nii.gz", tmp_path / f"mask{i}.nii.gz"))
    data = VideoData(classes, {"train": samples}, "segment", mirrored={3: 4, 4: 3}, is_volume=True)
    assert look(data).unoriented == 0
    assert look(data).ordered == {1: ("head", "tail")}
    chosen = plan(look(data))
    assert chosen.spec.mirror_axes == (0, 2)
    assert any("head and tail lie in one order along height" in reason for reason in chosen.reasons)
    assert set(look(replace(data, mirrored={})).ordered) == {1, 2}
    assert look(replace(data, splits={"train": samples[:4]})).ordered == {}  # too few to tell
