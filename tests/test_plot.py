import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tubelet import plot

CLASSES = ["left", "right", "_up $5 $6", "down"]


def size_of(path):
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return image.size


def pixels_of(path):
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    return torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8).view(rgb.height, rgb.width, 3)


def has_colour(path, colour):
    wanted = torch.tensor([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((pixels_of(path) == wanted).all(2).sum() > 20)


def rows(num):
    return [
        {"epoch": e, "lr": 0.1, "train_loss": 2 / (e + 1), "val_loss": 2.2 / (e + 1), "val_top1": 1 - 0.9**e}
        for e in range(num)
    ]


def windows(num):
    starts = torch.arange(num).float()
    return torch.stack([starts, starts + 2], 1)


def test_all_names_exist():
    assert all(callable(getattr(plot, name)) for name in plot.__all__)


def test_no_pyplot(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would raise
    assert size_of(plot.audit({"as is": 0.9}, 0.1, tmp_path / "a.png"))


def test_a_missing_package_is_named_with_its_pip_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"matplotlib.*pip install .tubelet\[plot\]"):
        plot.audit({"as is": 0.9}, 0.1, tmp_path / "a.png")


# clips


def test_clips_stand_in_rows(tmp_path):
    reds, greens = (torch.zeros(3, 6, 20, 30, dtype=torch.uint8) for _ in range(2))
    reds[0], greens[1] = 255, 255
    path = plot.clips({"as read": [reds, greens], "drawn": [greens[..., :15], reds]}, tmp_path / "c.png", num=3)
    assert has_colour(path, "#ff0000") and has_colour(path, "#00ff00")
    seen = pixels_of(path)
    is_red = (seen == torch.tensor([255, 0, 0])).all(2)
    half = seen.shape[0] // 2, seen.shape[1] // 2
    assert is_red[: half[0], : half[1]].any() and is_red[half[0] :, half[1] :].any()
    assert not is_red[half[0] :, : half[1] - 40].any()


def test_frames_of_a_strip_stand_side_by_side():
    clip = torch.arange(24, dtype=torch.uint8).view(1, 2, 3, 4).expand(3, 2, 3, 4)
    joined = plot._side_by_side(clip)
    assert joined.shape == (3, 3, 9)
    assert torch.equal(joined[..., :4], clip[:, 0]) and torch.equal(joined[..., 5:], clip[:, 1])
    assert (joined[..., 4] == 255).all()


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ({}, "hold no clip"),
        ({"empty": []}, r"\['empty'\] hold no clip"),
        ({"one": [torch.zeros(3, 4, 5, 6)]}, r"must be uint8 \(3, T, H, W\)"),
    ],
)
def test_clips_that_cannot_be_drawn_are_named(tmp_path, rows, says):
    with pytest.raises(ValueError, match=says):
        plot.clips(rows, tmp_path / "c.png")


# curves


@pytest.mark.parametrize("num", [1, 40])
def test_curves_are_two_panels(tmp_path, num):
    width, height = size_of(plot.curves(rows(num), tmp_path / "new folder" / "c.png"))
    assert width > 2 * height


def test_curves_without_accuracies_are_one_panel(tmp_path):
    history = [{"train_loss": 2.0}, {"train_loss": 1.0, "val_loss": 1.5}, {"val_loss": math.nan}]
    width, height = size_of(plot.curves(history, tmp_path / "c.png"))
    assert width < 1.5 * height


def test_curves_need_a_measure(tmp_path):
    with pytest.raises(ValueError, match=r"2 rows .* val_top1"):
        plot.curves([{"epoch": 0, "lr": 0.1}, {"epoch": 1}], tmp_path / "c.png")


def test_best_epoch_prefers_top1_to_loss():
    losses, accuracies = {"val_loss": [(0, 1.0), (1, 0.5)]}, {"val_top1": [(0, 90.0), (1, 80.0)]}
    assert plot._best_point(losses, accuracies) == ("val_top1", (0, 90.0))
    assert plot._best_point(losses, {}) == ("val_loss", (1, 0.5))
    assert plot._best_point({"train_loss": [(0, 1.0)]}, {}) is None
    assert plot._best_point(losses, {"val_map": [(0, 9.0), (1, 8.0)]}) == ("val_map", (0, 9.0))
    assert plot._best_point(losses, {"val_dice": [(0, 9.0), (1, 8.0)]}) == ("val_dice", (0, 9.0))


def test_curves_of_every_task_have_two_panels(tmp_path):
    for name in ("val_map", "val_frame_accuracy", "val_edit", "val_dice"):
        width, height = size_of(plot.curves([{"train_loss": 1.0, name: 0.5}], tmp_path / "c.png"))
        assert width > 2 * height


# slices


def boxed(shape, *parts):
    """A mask with (class, slices of it) in it."""
    mask = np.zeros(shape, dtype=np.uint8)
    for label, place in parts:
        mask[place] = label
    return mask


def test_slices_lie_where_the_first_mask_is():
    """Ten slices in five parts: the middles of two each. Stray voxels of an answer push nothing outward."""
    truth, answer = boxed((40, 4, 4), (1, np.s_[10:20])), boxed((40, 4, 4), (1, np.s_[0]), (1, np.s_[39]))
    empty = np.zeros_like(truth)
    assert plot._middles([truth, answer], 40, 5) == [11, 13, 15, 17, 19]
    assert plot._middles([empty, truth], 40, 5) == [11, 13, 15, 17, 19]
    assert plot._middles([empty, empty], 40, 4) == plot._middles([], 40, 4) == [5, 15, 25, 35]
    assert plot._middles([truth[:11]], 11, 5) == [10] and plot._middles([truth[8:12]], 4, 5) == [2, 3]


def test_the_first_mask_is_filled_and_the_others_are_outlined(tmp_path):
    scan = np.random.default_rng(0).normal(size=(6, 30, 20))
    mask = boxed(scan.shape, (1, np.s_[2:4, 5:25, 5:15]))
    filled = plot.slices(scan, {"truth": mask}, ["background", "a"], tmp_path / "1.png")
    both = plot.slices(scan, {"truth": mask * 0, "answer": mask}, ["background", "a"], tmp_path / "2.png")
    pure = torch.tensor([0, 114, 178])  # the colour as it is: in the key, and along outlines
    inked = [(pixels_of(path) == pure).all(2) for path in (filled, both)]
    assert inked[0].any() and not inked[0][: len(inked[0]) // 2].any()
    outline = inked[1][: inked[1].shape[0] // 2]
    assert outline.any() and outline.float().mean() < 0.05


def test_pixels_have_the_proportions_of_voxels(tmp_path):
    scan = np.zeros((1, 20, 20))
    scan[:, ::2] = 1
    sizes = [
        size_of(plot.slices(scan, {}, ["background"], tmp_path / "s.png", spacing_mm=spacing))
        for spacing in ((9, 1, 1), (1, 0.5, 1), (1, 8, 1))
    ]
    assert sizes[0][1] - sizes[1][1] == pytest.approx(3 * 150 / 2, abs=12)
    assert sizes[2][1] < 4.5 * 150 + 120  # what is tall is made narrow


def test_slices_of_many_classes_differ_and_only_those_that_are_seen_are_named(tmp_path):
    assert plot._palette(3) == list(plot.CLASS_COLOURS[:3]) and len(set(plot._palette(110))) == 110
    classes = ["background", *(f"a rather long name {i}" for i in range(60))]
    scan = np.zeros((6, 40, 40))
    few, many = np.zeros(scan.shape, int), np.arange(40 * 40).reshape(40, 40)[None].repeat(6, 0) % 61
    few[:, 10:20] = 33
    heights = [
        size_of(plot.slices(scan, {"truth": mask}, classes, tmp_path / "s.png", caption="x " * 40))[1]
        for mask in (few, many)
    ]
    assert heights[1] - heights[0] > 8 * 0.2 * 150  # ten rows of keys more


def test_slices_refuse_other_shapes_and_no_slices(tmp_path):
    scan = np.zeros((3, 4, 5))
    with pytest.raises(ValueError, match=r"truth is \(3, 4, 4\) and the scan \(3, 4, 5\)"):
        plot.slices(scan, {"truth": scan[..., :4]}, CLASSES, tmp_path / "s.png")
    with pytest.raises(ValueError, match="num 0 must be at least 1"):
        plot.slices(scan, {}, CLASSES, tmp_path / "s.png", num=0)


# swarm


def test_a_swarm_has_a_row_for_each_class_and_crosses_for_what_is_missed(tmp_path):
    shares = {"left": [0.5, 0.9, math.nan], "right": [0.0, 0.9, 0.8]}
    plain = plot.swarm(shares, tmp_path / "a.png", name="Dice")
    assert has_colour(plain, plot.INK) and not has_colour(plain, plot.VERMILION)
    missed = {"left": [False] * 3, "right": [True, False, False]}
    crossed = plot.swarm(shares, tmp_path / "b.png", name="Dice", missed=missed)
    seen = pixels_of(crossed).int()
    assert ((seen - torch.tensor([213, 94, 0])).abs().sum(2) < 90).sum() > 40
    many = plot.swarm({f"class {i}": [0.5, 0.9] for i in range(30)}, tmp_path / "c.png", name="Dice")
    assert 3 * size_of(plain)[1] < size_of(many)[1] < 2100
    assert size_of(plot.swarm({"a": [1.0], "b": [math.nan]}, tmp_path / "d.png", name="Dice"))


def test_dots_of_one_value_stand_apart():
    places = plot._apart(np.array([0.5, 0.5, 0.9, 0.5, 0.5]), 0.1)
    assert places[2] == 0 and len({*places[[0, 1, 3, 4]]}) == 4 and places[0] == 0
    assert np.abs(plot._apart(np.zeros(1000), 0.1)).max() == pytest.approx(0.36)


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ({}, "at least one case"),
        ({"a": [math.nan]}, "at least one case"),
        ({"a": [88.0]}, "from 88 to 88; they are fractions"),
        ({"a": [-0.5, 1.0]}, "from -0.5 to 1; they"),
    ],
)
def test_a_swarm_refuses_what_is_no_fraction(tmp_path, shares, says):
    with pytest.raises(ValueError, match=says):
        plot.swarm(shares, tmp_path / "s.png", name="Dice")


# reliability


def test_reliability_shows_the_gap_and_the_line(tmp_path):
    bins = [{"samples": 90, "score": 0.55, "accuracy": 0.4}, {"samples": 10, "score": 0.95, "accuracy": 0.97}]
    path = plot.reliability(bins, tmp_path / "r.png")
    assert all(has_colour(path, colour) for colour in (plot.BLUE, plot.VERMILION, plot.PALE_BLUE))
    honest = plot.reliability([{"samples": 5, "score": 0.5, "accuracy": 0.5}], tmp_path / "h.png")
    assert (pixels_of(path) == torch.tensor([213, 94, 0])).all(2).sum() > 2 * (
        pixels_of(honest) == torch.tensor([213, 94, 0])
    ).all(2).sum()  # of an honest bin only the key is vermilion
    with pytest.raises(ValueError, match="bins is empty"):
        plot.reliability([], tmp_path / "r.png")


# confusion


def test_confusion_shows_the_counts(tmp_path):
    one = plot.confusion(torch.eye(4) * 9, CLASSES, tmp_path / "one.png")
    two = plot.confusion(torch.eye(4) * 8, CLASSES, tmp_path / "two.png")
    assert not torch.equal(pixels_of(one), pixels_of(two))  # same fractions, other numbers


def test_confusion_normalises_rows(tmp_path):
    matrix = torch.tensor([[1, 0], [0, 500]])
    picture = pixels_of(plot.confusion(matrix, ["a", "b"], tmp_path / "c.png"))
    darkest = torch.tensor([8, 48, 107])  # the end of Blues: 100 % of the target class
    is_full = (picture == darkest).all(2)
    assert is_full.sum() > 0.3 * 400**2
    assert is_full[: picture.shape[0] // 2, : picture.shape[1] // 2].any()


def test_confusion_of_400_long_names_stays_small(tmp_path):
    classes = [f"playing a very long musical instrument {i}" for i in range(400)]
    width, height = size_of(plot.confusion(torch.ones(400, 400), classes, tmp_path / "c.png"))
    assert width < 2000
    assert height < 2000


def test_confusion_refuses_other_shapes_and_no_counts(tmp_path):
    with pytest.raises(ValueError, match=r"\(3, 4\) but there are 4 classes"):
        plot.confusion(torch.ones(3, 4), CLASSES, tmp_path / "c.png")
    with pytest.raises(ValueError, match="every cell is 0"):
        plot.confusion(torch.zeros(4, 4), CLASSES, tmp_path / "c.png")


# strip


def test_strip_shows_first_and_last_frame_and_tells_good_from_bad(tmp_path):
    clip = torch.zeros(3, 9, 32, 32, dtype=torch.uint8)
    clip[0, 0], clip[1, 8], clip[2, 3] = 200, 210, 220
    path = plot.strip(clip, tmp_path / "s.png", num=3, caption="true: left", good=True)
    assert has_colour(path, "#c80000")
    assert has_colour(path, "#00d200")
    assert not has_colour(path, "#0000dc")
    assert has_colour(path, plot.BLUE)
    bad = plot.strip(clip, tmp_path / "bad.png", num=3, caption="true: left", good=False)
    assert has_colour(bad, plot.VERMILION)
    assert not has_colour(bad, plot.BLUE)


def test_strip_of_a_short_clip_has_fewer_frames(tmp_path):
    clip = torch.zeros(3, 16, 32, 32, dtype=torch.uint8)
    long, _ = size_of(plot.strip(clip, tmp_path / "long.png"))
    short, _ = size_of(plot.strip(clip[:, :4], tmp_path / "short.png"))
    assert 1.9 < long / short < 2.1


def test_strip_refuses_floats_and_no_frames(tmp_path):
    with pytest.raises(ValueError, match=r"uint8 \(3, T, H, W\), not torch.float32"):
        plot.strip(torch.zeros(3, 4, 8, 8), tmp_path / "s.png")
    with pytest.raises(ValueError, match="num is 0"):
        plot.strip(torch.zeros(3, 4, 8, 8, dtype=torch.uint8), tmp_path / "s.png", num=0)


# timeline


def test_timeline_colours_only_classes_that_are_top(tmp_path):
    scores = torch.eye(4)[[0, 0, 0, 2, 2]]
    path = plot.timeline(windows(5), scores, CLASSES, tmp_path / "t.png")
    first, second, third = plot.CLASS_COLOURS[:3]
    assert has_colour(path, first)
    assert has_colour(path, second)
    assert not has_colour(path, third)


def test_timeline_truth_adds_a_band(tmp_path):
    plain = plot.timeline(windows(5), torch.eye(4)[[0] * 5], CLASSES, tmp_path / "plain.png")
    truth = [(0.0, 2.0, "left"), (2.0, 6.0, "nothing we know")]
    more = plot.timeline(windows(5), torch.eye(4)[[0] * 5], CLASSES, tmp_path / "more.png", truth=truth)
    assert size_of(more)[1] > size_of(plain)[1]
    assert has_colour(more, plot.CLASS_COLOURS[1])


def test_timeline_of_one_window_and_of_many_classes(tmp_path):
    names = [f"class {i}" for i in range(101)]
    assert size_of(plot.timeline(windows(1), torch.eye(4)[:1], CLASSES, tmp_path / "one.png"))
    many = plot.timeline(60 * windows(101), torch.eye(101), names, tmp_path / "many.png")
    assert has_colour(many, plot.OTHER)


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ([(5.0, 6.0, "left"), (1.0, 2.0, "left")], "truth has a start at 1 s after one at 5 s"),
        ([(2.0, 2.0, "left")], "truth has a span from 2 s to 2 s"),
    ],
)
def test_timeline_refuses_unsorted_truth(tmp_path, truth, message):
    with pytest.raises(ValueError, match=message):
        plot.timeline(windows(3), torch.ones(3, 4), CLASSES, tmp_path / "t.png", truth=truth)


def test_timeline_refuses_unsorted_times_and_other_shapes(tmp_path):
    with pytest.raises(ValueError, match="times has a start at 1 s after one at 2 s"):
        plot.timeline(windows(3).flip(0), torch.ones(3, 4), CLASSES, tmp_path / "t.png")
    with pytest.raises(ValueError, match=r"scores \(3, 5\).*K = 4"):
        plot.timeline(windows(3), torch.ones(3, 5), CLASSES, tmp_path / "t.png")
    with pytest.raises(ValueError, match="N >= 1"):
        plot.timeline(torch.zeros(0, 2), torch.zeros(0, 4), CLASSES, tmp_path / "t.png")


def test_windows_own_the_time_nearest_to_their_middle():
    overlapping = torch.tensor([[0.0, 4], [2, 6], [4, 8]])
    assert plot._owned(overlapping, [0, 1, 1]) == [(0, 3, 0), (3, 8, 1)]
    apart = torch.tensor([[0.0, 1], [5, 6]])
    assert plot._owned(apart, [0, 0]) == [(0, 1, 0), (5, 6, 0)]


# annotate


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (180, 320), (720, 1280)])
def test_annotate_changes_only_a_legible_strip(height, width, value):
    frame = torch.full((3, height, width), value, dtype=torch.uint8)
    result = plot.annotate(frame, ["left 98 %", "12.3 s"])
    assert (frame == value).all()
    assert result.shape == frame.shape
    assert result.dtype == torch.uint8
    assert result.max() >= 250  # white letters
    strip_height = 2 * 1.3 * max(height / 24, 10) + max(height / 24, 10)
    assert (result[:, math.ceil(strip_height) + 2 :] == value).all()
    assert (result[:, :, -1] == value).all()
    if value:
        background = result[:, 0, 0]
        assert (background < 0.4 * value).all()


def test_annotate_grows_with_the_frame():
    def num_inked(height):
        return (plot.annotate(torch.zeros(3, height, 2 * height, dtype=torch.uint8), ["left"]) > 128).sum()

    assert num_inked(960) > 3 * num_inked(480)


def test_annotate_fits_long_lines_and_many_lines():
    frame = torch.zeros(3, 64, 64, dtype=torch.uint8)
    long = plot.annotate(frame, ["playing\na very long musical instrument 98 %"] * 40)
    assert long.max() == 255
    assert (long[:, :, -2:] == 0).all()  # no letter runs over the right edge


def test_shortening_keeps_the_end():
    assert plot._shorten("playing the violin 98 %", 12) == "playin… 98 %"
    assert len(plot._shorten("x" * 99, 12)) == 12
    assert plot._shorten(" two\n words ", 12) == "two words"


def test_annotate_nothing_and_refusals():
    frame = torch.full((3, 64, 64), 7, dtype=torch.uint8)
    assert torch.equal(plot.annotate(frame, []), frame)
    with pytest.raises(ValueError, match=r"uint8 \(3, H, W\), not torch.float32 \(3, 4, 4\)"):
        plot.annotate(torch.zeros(3, 4, 4), ["x"])


# audit


def test_audit_draws_bars_and_chance(tmp_path):
    bars = {"as is": 0.98, "reversed": 0.1, "shuffled": 0.2, "single frame": 0.13}
    path = plot.audit(bars, 0.125, tmp_path / "a.png")
    assert all(has_colour(path, colour) for colour in (plot.BLUE, plot.PALE_BLUE, plot.VERMILION))
    taller = size_of(path)[1]
    assert taller > size_of(plot.audit({"as is": 0.98}, 0.125, tmp_path / "b.png"))[1]


@pytest.mark.parametrize("value", [98.0, -0.1, math.nan])
def test_audit_refuses_what_is_no_fraction(tmp_path, value):
    with pytest.raises(ValueError, match=r"as is is .* fractions"):
        plot.audit({"as is": value}, 0.1, tmp_path / "a.png")
    with pytest.raises(ValueError, match="chance is"):
        plot.audit({"as is": 0.5}, value, tmp_path / "a.png")
    with pytest.raises(ValueError, match="empty"):
        plot.audit({}, 0.5, tmp_path / "a.png")
