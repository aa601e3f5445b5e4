import pickle
from collections import Counter
from dataclasses import fields, replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet import ClipSpec
from tubelet.data import sampling, transforms
from tubelet.data.augment import RANDAUGMENT, RECIPES, Augment, Change

SPEC = ClipSpec(num_frames=8, resize=None, crop=(20, 32))
COLORS = Augment(color=0.4, saturation=0.4, hue=0.1, randaugment=3, erase=0.7)
ALL = replace(COLORS, area=(0.3, 1), flip=True, rate=1, drop=0.2, reverse=True)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded(seed))


def draws(augment, number=300, size=(40, 64), spec=SPEC):
    generator = seeded()
    return [augment.draw(size, spec, generator) for _ in range(number)]


# The box


def test_by_default_the_crop_lies_anywhere_and_nothing_else_happens():
    changes = draws(Augment(), size=(22, 34))
    assert {change.box[:2] for change in changes} == {(top, left) for top in range(3) for left in range(3)}
    for change in changes:
        assert change == Change((*change.box[:2], 20, 32), (20, 32))
    clip = noise(3, 2, 20, 32)
    assert torch.equal(changes[0].apply(clip), clip)


@pytest.mark.parametrize("max_shift", [0, 1, 2, 9])
def test_crops_keep_within_their_shift(max_shift):
    changes = draws(Augment(max_shift=max_shift), size=(24, 34))
    tops = range(max(0, 2 - max_shift), min(4, 2 + max_shift) + 1)
    lefts = range(max(0, 1 - max_shift), min(2, 1 + max_shift) + 1)
    assert {change.box[:2] for change in changes} == {(top, left) for top in tops for left in lefts}


def test_a_shift_counts_pixels_of_the_resized_frame():
    spec = ClipSpec(resize=60, crop=(40, 40))  # half of the source
    lefts = {change.box[1] for change in draws(Augment(max_shift=3), size=(120, 160), spec=spec)}
    assert lefts == set(range(40 - 6, 40 + 6 + 1))


@pytest.mark.parametrize(
    ("spec", "box", "size"),
    [
        (ClipSpec(resize=128, crop=(112, 112)), (210, 211), (112, 112)),  # of a frame of 128x170
        (ClipSpec(resize=(120, 80), crop=(60, 20)), (120, 80), (60, 20)),
        (ClipSpec(resize=None, crop=(100, 50)), (100, 50), (100, 50)),
        (ClipSpec(resize=120, crop=None), (240, 320), (120, 160)),
        (ClipSpec(resize=None, crop=None), (240, 320), (240, 320)),
    ],
)
def test_the_box_is_the_crop_at_the_scale_of_the_resize(spec, box, size):
    for change in draws(Augment(), 20, (240, 320), spec):
        assert (change.box[2:], change.size) == (box, size)


def test_a_crop_cut_before_the_resize_shows_what_one_cut_after_it_shows():
    """To the rounding of the box, which lies in whole pixels of the source."""
    rows, columns = torch.meshgrid(torch.arange(240), torch.arange(240), indexing="ij")
    frame = torch.stack([rows, columns, columns * 0]).to(torch.uint8)[:, None]
    spec = ClipSpec(resize=128, crop=(112, 112))
    for change in draws(Augment(), 20, (240, 240), spec):
        top, left, height, width = change.box
        clip = transforms.resize(frame[..., top : top + height, left : left + width], change.size).float()
        step = 240 / 128
        assert abs(clip[0, 0, 50, 50] - (top + 50.5 * step - 0.5)) <= 1
        assert abs(clip[1, 0, 50, 50] - (left + 50.5 * step - 0.5)) <= 1


def test_zoom_takes_less_of_the_frame():
    sides = {
        change.box[2] for change in draws(Augment(zoom=1.25), 500, (256, 340), ClipSpec(resize=256, crop=(224, 224)))
    }
    assert (min(sides), max(sides)) == (round(224 / 1.25), 224)
    assert len(sides) == 224 - 179 + 1


def test_area_and_aspect_keep_their_ranges():
    spec = ClipSpec(resize=None, crop=(100, 200))
    for change in draws(Augment(area=(0.1, 0.3), aspect=(0.5, 2)), size=(400, 400), spec=spec):
        _, _, height, width = change.box
        assert change.size == (100, 200)
        assert 0.098 <= height * width / 400**2 <= 0.302
        assert 0.49 * 2 <= width / height <= 2.04 * 2


@pytest.mark.parametrize("crop", [(10, 300), (300, 10)])
def test_a_shape_that_never_fits_is_cut_to_the_frame(crop):
    for change in draws(Augment(area=(0.9, 1)), 20, (300, 300), ClipSpec(resize=None, crop=crop)):
        top, left, height, width = change.box
        assert max(height, width) == 300 and top + height <= 300 and left + width <= 300


def test_a_crop_that_does_not_fit_names_both_sizes():
    spec = ClipSpec(resize=20, crop=(48, 48))
    for augment in (Augment(), Augment(area=(0.1, 1)), Augment(zoom=2)):
        with pytest.raises(ValueError, match=r"crop 48x48 .* frame of 20x32 \(height x width\)"):
            augment.draw((40, 64), spec, seeded())


AUGMENTS = st.builds(
    Augment,
    max_shift=st.none() | st.integers(0, 50),
    zoom=st.floats(1, 4),
    flip=st.booleans(),
    color=st.floats(0, 1),
    saturation=st.floats(0, 1),
    hue=st.floats(0, 0.5),
    randaugment=st.integers(0, 4),
    magnitude=st.floats(0, 10),
    erase=st.floats(0, 1),
) | st.builds(
    Augment,
    area=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted).map(tuple),
    aspect=st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)).map(sorted).map(tuple),
    randaugment=st.integers(0, 4),
    erase=st.floats(0, 1),
)
SIDES = st.integers(3, 60)
SIZES = st.tuples(SIDES, SIDES)


@settings(deadline=None, max_examples=150)
@given(AUGMENTS, SIZES, st.none() | SIDES | SIZES, SIZES, st.booleans(), st.integers(0, 1000))
def test_every_draw_can_be_applied(augment, size, resize, wanted, has_crop, seed):
    height, width = transforms.resize_shape(*size, resize)
    crop = (min(wanted[0], height), min(wanted[1], width))
    spec = ClipSpec(resize=resize, crop=crop if has_crop else None)
    change = augment.draw(size, spec, seeded(seed))
    assert change == augment.draw(size, spec, seeded(seed))
    assert change.size == (crop if has_crop else (height, width))
    for box, (height, width) in ((change.box, size), (change.erase, change.size)):
        if box is not None:
            assert 0 <= box[0] < box[0] + box[2] <= height and 0 <= box[1] < box[1] + box[3] <= width
    still = noise(3, 1, *change.size).expand(3, 3, *change.size)
    before = still.clone()
    changed = change.apply(still)
    assert changed.shape == still.shape and changed.dtype == torch.uint8
    assert (changed == changed[:, :1]).all()
    assert torch.equal(still, before)


# What is done to the clip


def test_a_change_is_its_steps_one_after_the_other():
    for change in draws(ALL, 30):
        clip = expected = noise(3, 4, 20, 32)
        if change.flip:
            expected = expected.flip(-1)
        expected = transforms.change(expected, change.steps)
        if change.erase:
            expected = transforms.erase(expected, change.erase, change.seed)
        assert torch.equal(change.apply(clip), expected)
        decoded = clip.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
        assert torch.equal(change.apply(decoded), expected)
        assert change.apply(decoded).is_contiguous()


def test_a_change_is_plain():
    for change in draws(ALL, 10):
        assert pickle.loads(pickle.dumps(change)) == change
        assert hash(change) == hash(pickle.loads(pickle.dumps(change)))


def test_a_clip_of_another_size_is_refused():
    with pytest.raises(ValueError, match="clip of 20x30 pixels; this change is for 20x32"):
        Change((0, 0, 20, 32), (20, 32)).apply(noise(3, 1, 20, 30))


def test_half_are_flipped():
    flips = [change.flip for change in draws(Augment(flip=True))]
    assert 0.4 < sum(flips) / len(flips) < 0.6
    assert not any(change.flip for change in draws(replace(ALL, flip=False)))


def test_colours_reach_their_limits_and_not_beyond():
    amounts = {}
    for change in draws(Augment(color=0.3, saturation=0.6, hue=0.1)):
        for name, amount in change.steps:
            amounts.setdefault(name, []).append(amount)
    limits = {"brightness": (0.7, 1.3), "contrast": (0.7, 1.3), "saturation": (0.4, 1.6), "hue": (-0.1, 0.1)}
    assert set(amounts) == set(limits)
    for name, (least, most) in limits.items():
        slack = 0.05 * (most - least)
        assert least <= min(amounts[name]) < least + slack and most - slack < max(amounts[name]) <= most


def test_randaugment_draws_all_alike_at_its_magnitude():
    names = Counter()
    for change in draws(Augment(randaugment=2, magnitude=5), 2000):
        assert len(change.steps) <= 2
        for name, amount in change.steps:
            rest, reach, is_signed = RANDAUGMENT[name]
            names[name, amount > rest] += 1
            assert abs(amount - rest) == pytest.approx(abs(reach) / 2)
    assert {name for name, _ in names} == set(RANDAUGMENT) - {"identity"}
    for name, (_, reach, is_signed) in RANDAUGMENT.items():
        if is_signed:
            assert 90 < names[name, False] < 200 and 90 < names[name, True] < 200
        elif name != "identity":
            assert 220 < names[name, reach > 0] < 360


@pytest.mark.parametrize("name", [name for name, (_, reach, _) in RANDAUGMENT.items() if reach])
def test_a_greater_magnitude_changes_more(name):
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    clip = torch.cat([ramp, ramp.flip(-1), ramp.flip(-2)])
    rest, reach, _ = RANDAUGMENT[name]
    distances = [
        (transforms.change(clip, ((name, rest + reach * m / 10),)).float() - clip.float()).abs().mean()
        for m in (0, 3, 6, 10)
    ]
    assert distances[0] == 0
    assert distances == sorted(distances) and len(set(distances)) == 4


def test_erased_boxes_have_the_published_sizes():
    spec = ClipSpec(resize=None, crop=(200, 200))
    changes = draws(Augment(erase=0.25), 2000, (200, 200), spec)
    boxes = [change.erase for change in changes if change.erase]
    assert 0.21 < len(boxes) / len(changes) < 0.29
    assert all(0.019 < height * width / 200**2 < 0.34 for _, _, height, width in boxes)
    assert all(0.25 < width / height < 4 for _, _, height, width in boxes)
    assert len({change.seed for change in changes if change.erase}) == len(boxes)


# The frames


@settings(deadline=None, max_examples=200)
@given(
    st.builds(Augment, rate=st.floats(0, 3), drop=st.floats(0, 1), reverse=st.booleans()),
    st.integers(1, 80),
    st.integers(1, 16),
    st.floats(0.2, 6),
    st.sampled_from(["error", "loop", "hold"]),
    st.integers(0, 1000),
)
def test_chosen_frames_lie_in_the_video(augment, total, num_frames, step, short, seed):
    has_room = sampling.span(num_frames, step) <= total
    if not has_room and short == "error":
        with pytest.raises(ValueError, match=r"frames?, and a clip reaches over"):
            replace(augment, rate=0).choose(total, num_frames, step, short, seeded(seed))
        return
    indices, is_reversed = augment.choose(total, num_frames, step, short, seeded(seed))
    assert len(indices) == num_frames
    assert all(0 <= index < total for index in indices)
    if has_room or short == "hold":
        assert (indices if not is_reversed else indices[::-1]) == sorted(indices)
    assert augment.reverse or not is_reversed


def test_by_default_frames_are_those_of_the_clip():
    starts = set()
    for seed in range(200):
        indices, is_reversed = Augment().choose(20, 4, 2.0, "error", seeded(seed))
        assert not is_reversed and indices == sampling.clip(indices[0], 4, 2.0)
        starts.add(indices[0])
    assert starts == set(range(20 - 6))


def test_the_frame_rate_keeps_its_limits():
    spans = []
    for seed in range(500):
        indices, _ = Augment(rate=1).choose(200, 11, 4, "error", seeded(seed))
        spans.append(indices[-1] - indices[0])
        assert len({after - before for before, after in pairwise(indices)}) <= 2
    assert min(spans) in (20, 21) and max(spans) in (79, 80)
    assert 0.4 < sum(span < 40 for span in spans) / len(spans) < 0.6  # as often slower as faster


def test_the_frame_rate_ends_where_the_video_ends():
    spans = {Augment(rate=1).choose(50, 11, 4, "error", seeded(seed))[0][-1] for seed in range(300)}
    assert max(spans) == 49


def test_dropped_frames_show_the_one_before():
    lost = 0
    for seed in range(200):
        indices, _ = Augment(drop=0.3).choose(100, 20, 1, "error", seeded(seed))
        assert indices[0] == min(indices)
        for t in range(1, 20):
            assert indices[t] in (indices[t - 1], indices[0] + t)
            lost += indices[t] == indices[t - 1]
    assert 0.27 < lost / (200 * 19) < 0.33
    assert len(set(Augment(drop=1).choose(100, 20, 1, "error", seeded())[0])) == 1


def test_half_are_reversed():
    flags = []
    for seed in range(300):
        indices, is_reversed = Augment(reverse=True).choose(100, 5, 3, "error", seeded(seed))
        assert indices == sorted(indices, reverse=is_reversed)
        flags.append(is_reversed)
    assert 0.4 < sum(flags) / 300 < 0.6


# Settings


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_shift": -1}, "max_shift -1 must be at least 0"),
        ({"zoom": 0.9}, r"zoom 0.9 must lie in 1\.\.4"),
        ({"color": 1.1}, r"color 1.1 must lie in 0\.\.1"),
        ({"saturation": -0.1}, r"saturation -0.1 must lie in 0\.\.1"),
        ({"hue": 0.6}, r"hue 0.6 must lie in 0\.\.0.5"),
        ({"randaugment": 15}, r"randaugment 15 must lie in 0\.\.14"),
        ({"magnitude": 11}, r"magnitude 11 must lie in 0\.\.10"),
        ({"erase": float("nan")}, r"erase nan must lie in 0\.\.1"),
        ({"rate": 4}, r"rate 4 must lie in 0\.\.3"),
        ({"drop": 2}, r"drop 2 must lie in 0\.\.1"),
        ({"area": (0.5, 0.2)}, r"area \(0.5, 0.2\) must be \(least, most\) with 0 < least <= most <= 1"),
        ({"area": (0.5, 1.2)}, "<= 1"),
        ({"area": (0.5,)}, "least, most"),
        ({"aspect": (0, 1)}, r"aspect \(0, 1\) must be"),
        ({"area": (0.5, 1), "zoom": 1.2}, "leave out max_shift and zoom"),
        ({"area": (0.5, 1), "max_shift": 2}, "leave out max_shift and zoom"),
    ],
)
def test_values_out_of_range_are_named(settings, says):
    with pytest.raises(ValueError, match=says):
        Augment(**settings)


def test_settings_from_a_file_are_the_same():
    """A run.json holds lists where a setting is a pair."""
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(ALL).items()}
    assert Augment(**plain) == ALL
    assert hash(Augment(**plain)) == hash(ALL)


def test_every_setting_is_described():
    for field in fields(Augment):
        assert f"        {field.name}: " in f"        {(Augment.__doc__ or '')}", field.name


def test_recipes_begin_with_the_default():
    assert RECIPES["plain"] == Augment()
    assert len(set(RECIPES.values())) == len(RECIPES)


def test_changes_of_colour_are_for_gray_and_rgb():
    every = Augment(color=0.1, saturation=0.1, hue=0.1, randaugment=1, erase=1, zoom=2)
    assert [every.undefined(channels) for channels in (3, 1, 2, 4)] == [
        (),
        ("saturation", "hue"),
        *[("color", "saturation", "hue", "randaugment")] * 2,
    ]
    assert Augment(flip=True, erase=1, zoom=2).undefined(2) == ()


def test_mirrored_flow_runs_the_other_way():
    clip = noise(2, 3, 20, 32)
    mirrored = Change((0, 0, 20, 32), (20, 32), flip=True).apply(clip)
    assert torch.equal(mirrored, torch.stack([255 - clip[0].flip(-1), clip[1].flip(-1)]))
