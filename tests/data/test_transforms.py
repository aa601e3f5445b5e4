import colorsys
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from tubelet.data import transforms
from tubelet.data.augment import RANDAUGMENT
from tubelet.data.transforms import resize_shape
from tubelet.spec import IMAGENET, TORCHVISION, ClipSpec


def noise(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def grid(height, width, frames=2):
    """Frames whose two first channels are the row and the column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, rows * 0]).to(torch.uint8).unsqueeze(1).repeat(1, frames, 1, 1)


def place(crop):
    """Top and left of a crop of `grid`."""
    return int(crop[0, 0, 0, 0]), int(crop[1, 0, 0, 0])


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 1000))
def test_resize_shape_keeps_the_proportion(height, width, short):
    size = resize_shape(height, width, short)
    assert min(size) == short
    assert max(size) == int(Fraction(short * max(height, width), min(height, width)))
    assert (size[0] <= size[1]) if height <= width else (size[0] >= size[1])


def test_resize_shape_of_a_pair_or_nothing():
    assert resize_shape(10, 20, (3, 4)) == (3, 4)
    assert resize_shape(10, 20, None) == (10, 20)
    with pytest.raises(ValueError, match="at least 1"):
        resize_shape(10, 20, (3, 0))


@pytest.mark.parametrize(("size", "expected"), [(10, (10, 15)), ((8, 30), (8, 30)), (None, (20, 30)), (20, (20, 30))])
def test_resize_of_a_clip(size, expected):
    clip = noise(3, 4, 20, 30)
    resized = transforms.resize(clip, size)
    assert resized.shape == (3, 4, *expected)
    assert resized.dtype == torch.uint8
    for t in range(4):
        assert torch.equal(resized[:, t : t + 1], transforms.resize(clip[:, t : t + 1], size))


def test_resize_averages_instead_of_picking():
    stripes = torch.zeros(3, 1, 8, 64, dtype=torch.uint8)
    stripes[..., ::2] = 200
    assert (transforms.resize(stripes, (8, 16)).float()[..., 2:-2] - 100).abs().max() <= 2


@pytest.mark.parametrize(("size", "expected"), [((4, 6), (8, 7)), ((20, 20), (0, 0)), ((19, 19), (0, 0)), (None, None)])
def test_center_crop(size, expected):
    clip = grid(20, 20)
    crop = transforms.center_crop(clip, size)
    assert crop.shape[-2:] == (size or (20, 20))
    assert place(crop) == (expected or (0, 0))


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(12, 30, [(1, 0), (1, 10), (1, 20)]), (31, 12, [(0, 1), (10, 1), (21, 1)]), (10, 10, [(0, 0)] * 3)],
)
def test_three_crops_cover_both_ends_of_the_longer_side(height, width, expected):
    crops = transforms.spread_crops(grid(height, width), (10, 10), 3)
    assert [tuple(crop.shape) for crop in crops] == [(3, 2, 10, 10)] * 3
    assert [place(crop) for crop in crops] == expected


def test_spread_crops_of_one_or_no_size_are_the_centre():
    clip = grid(12, 30)
    assert place(*transforms.spread_crops(clip, (10, 10), 1)) == (1, 10)
    assert all(crop is clip for crop in transforms.spread_crops(clip, None, 3))


@pytest.mark.parametrize(
    ("height", "width", "num_crops", "area"),
    [(13, 30, 3, (10, 30)), (31, 13, 5, (31, 10)), (15, 15, 2, (10, 15)), (31, 13, 1, (10, 10))],
)
def test_spread_crops_need_no_more_than_their_area(height, width, num_crops, area):
    clip = noise(3, 2, height, width)
    assert transforms.spread_area(height, width, (10, 10), num_crops) == area
    within = transforms.spread_crops(transforms.center_crop(clip, area), (10, 10), num_crops)
    for crop, expected in zip(within, transforms.spread_crops(clip, (10, 10), num_crops), strict=True):
        assert torch.equal(crop, expected)


@pytest.mark.parametrize("size", [(21, 5), (5, 31), (0, 5)])
def test_a_crop_that_does_not_fit_names_both_sizes(size):
    clip = noise(3, 2, 20, 30)
    for crop in (
        lambda: transforms.center_crop(clip, size),
        lambda: transforms.spread_area(20, 30, size, 3),
        lambda: transforms.spread_crops(clip, size, 3),
    ):
        with pytest.raises(ValueError, match=rf"crop {size[0]}x{size[1]} .* 20x30 \(height x width\)"):
            crop()


def test_flip_mirrors_left_and_right():
    clip = grid(4, 6)
    assert transforms.flip(clip)[1, 0, 0].tolist() == [5, 4, 3, 2, 1, 0]
    assert torch.equal(transforms.flip(clip)[0], clip[0])
    assert torch.equal(transforms.flip(transforms.flip(clip)), clip)


def tall(clip):
    """The frames of a clip one below the other, as a Pillow picture: what Pillow takes as one, a clip is to us."""
    return Image.fromarray(clip.permute(1, 2, 3, 0).reshape(-1, clip.shape[-1], 3).numpy())


def clip_of(picture, like):
    array = torch.from_numpy(np.array(picture))
    return array.view(like.shape[1], *like.shape[2:], 3).permute(3, 0, 1, 2)


def frame_by_frame(clip, change):
    frames = [change(Image.fromarray(frame.permute(1, 2, 0).numpy())) for frame in clip.unbind(1)]
    return torch.stack([torch.from_numpy(np.array(frame)).permute(2, 0, 1) for frame in frames], 1)


def off(one, other):
    """Largest difference in grey levels."""
    return int((one.int() - other.int()).abs().max())


def muted(seed=0, low=60, high=200):
    """A clip of soft blobs with some noise, whose values leave room above and below; not square."""
    generator = torch.Generator().manual_seed(seed)
    blobs = torch.rand(3, 3, 5, 7, generator=generator)
    clip = torch.nn.functional.interpolate(blobs, (30, 44), mode="bicubic").clamp(0, 1)
    clip = clip + 0.1 * torch.rand(clip.shape, generator=generator)
    return (low + (high - low) * clip / 1.1).to(torch.uint8)


@pytest.mark.parametrize("amount", [0.0, 0.1, 0.6, 1.0, 1.3, 1.9])
@pytest.mark.parametrize(
    ("name", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_colours_are_pillows(name, enhance, amount):
    for clip in (muted(), noise(3, 4, 9, 8)):
        expected = clip_of(enhance(tall(clip)).enhance(amount), clip)
        assert off(transforms.change(clip, ((name, amount),)), expected) <= 1


@pytest.mark.parametrize("amount", [0.1, 0.6, 1.0, 1.9])
def test_sharpness_is_pillows(amount):
    for clip in (muted(), noise(3, 4, 9, 8)):
        expected = frame_by_frame(clip, lambda frame: ImageEnhance.Sharpness(frame).enhance(amount))
        assert off(transforms.change(clip, (("sharpness", amount),)), expected) <= 1


@pytest.mark.parametrize(
    ("name", "amount", "pillows"),
    [
        ("autocontrast", 0, ImageOps.autocontrast),
        ("equalize", 0, ImageOps.equalize),
        *[("posterize", bits, lambda picture, bits=bits: ImageOps.posterize(picture, bits)) for bits in (1, 4, 7, 8)],
        *[
            ("solarize", level, lambda picture, level=level: ImageOps.solarize(picture, level))
            for level in (0, 99, 256)
        ],
    ],
)
def test_tables_are_pillows_to_the_last_bit(name, amount, pillows):
    flat = torch.full((3, 2, 3, 4), 7, dtype=torch.uint8)
    for clip in (muted(), noise(3, 4, 9, 8), flat, noise(3, 4, 8, 9).permute(0, 1, 3, 2)):
        assert torch.equal(transforms.change(clip, ((name, amount),)), clip_of(pillows(tall(clip)), clip))


@pytest.mark.parametrize("amount", [-0.5, -0.13, 0.0, 0.05, 0.25])
def test_hue_turns_the_chroma_of_the_standard_library(amount):
    clip = muted(low=100, high=150)
    changed = transforms.change(clip, (("hue", amount),))
    for (t, y, x), _ in zip(np.ndindex(clip.shape[1:]), range(500), strict=False):
        before, after = ([float(v) / 255 for v in each[:, t, y, x]] for each in (clip, changed))
        luma, i, q = colorsys.rgb_to_yiq(*before)
        turned = complex(i, q) * np.exp(2j * np.pi * amount)
        # its matrix has two decimals, which is two grey levels here
        assert 255 * abs(np.array(colorsys.yiq_to_rgb(luma, turned.real, turned.imag)) - after).max() < 2.5
    thrice = transforms.change(clip, (("hue", 1 / 3), ("sharpness", 1.0)) * 3)
    assert off(thrice, clip) <= 2


@pytest.mark.parametrize(
    # Pillow's: where output (x, y) comes from, in pixels off the centre. Never from the edge itself, where rounding
    # decides between the picture and what lies outside.
    ("step", "matrix"),
    [
        (("shear_x", 0.3), (1, -0.3, 0, 0, 1, 0)),
        (("shear_y", -0.203), (1, 0, 0, 0.203, 1, 0)),
        (("translate_x", 0.21), (1, 0, -0.21 * 44, 0, 1, 0)),
        (("translate_y", -0.44), (1, 0, 0, 0, 1, 0.44 * 30)),
    ],
)
def test_places_are_pillows(step, matrix):
    clip = muted()
    a, b, c, d, e, f = matrix
    x, y = 22, 15
    data = (a, b, c + x - a * x - b * y, d, e, f + y - d * x - e * y)
    expected = frame_by_frame(
        clip,
        lambda frame: frame.transform(frame.size, Image.AFFINE, data, Image.BILINEAR, fillcolor=(128, 128, 128)),
    )
    assert off(transforms.change(clip, (step,)), expected) <= 1


@pytest.mark.parametrize("degrees", [-27, 3, 90, 180])
def test_rotation_is_pillows(degrees):
    clip = muted()
    grey = (128, 128, 128)
    expected = frame_by_frame(clip, lambda frame: frame.rotate(degrees, Image.BILINEAR, fillcolor=grey))
    differs = (transforms.change(clip, (("rotate", degrees),)).int() - expected.int()).abs() > 1
    assert differs.float().mean() < (
        0.01 if degrees % 90 else 0.04
    )  # pixels on the edge itself, where rounding decides


def test_places_of_one_draw_are_one_warp():
    clip = muted()
    there_and_back = (("rotate", 20), ("shear_x", 0.2), ("shear_x", -0.2), ("rotate", -20))
    assert off(transforms.change(clip, there_and_back), clip) <= 1
    ordered = transforms.change(clip, (("translate_x", 0.25), ("rotate", 90)))
    corner = torch.full_like(clip, 128)
    corner[:, :, 14:16, 10:12] = 255  # 11 left and 0 above the centre; moved onto it, it stays in the rotation
    moved = transforms.change(corner, (("translate_x", 0.25), ("rotate", 90)))
    assert (moved[:, :, 14:16, 21:23] == 255).all()
    assert not torch.equal(ordered, transforms.change(clip, (("rotate", 90), ("translate_x", 0.25))))


def one_by_one(clip, steps):
    """The definition of a run of linear changes: each alone in float64, nothing cut off between them."""
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]).double()
    x = clip.double()
    for name, amount in steps:
        y, i, q = torch.einsum("kc,cthw->kthw", to_yiq, x)
        if name == "hue":
            turned = torch.complex(i, q) * np.exp(2j * np.pi * amount)
            x = torch.einsum("kc,cthw->kthw", to_yiq.inverse(), torch.stack([y, turned.real, turned.imag]))
        else:
            other = {"brightness": torch.zeros(()), "contrast": y.mean(), "saturation": y}[name]
            x = other + amount * (x - other)
    return x.clamp(0, 255).round()


LINEAR = st.one_of(
    st.tuples(st.sampled_from(["brightness", "contrast", "saturation"]), st.floats(0, 2)),
    st.tuples(st.just("hue"), st.floats(-0.5, 0.5)),
)


@settings(deadline=None, max_examples=80)
@given(st.lists(LINEAR, min_size=1, max_size=6), st.integers(0, 99), st.booleans())
def test_one_map_is_its_changes_one_by_one(steps, seed, is_noise):
    clip = noise(3, 2, 7, 5, seed=seed) if is_noise else muted(seed)
    assert off(transforms.change(clip, tuple(steps)), one_by_one(clip, steps)) <= 1


@settings(deadline=None, max_examples=30)
@given(st.permutations([("brightness", 1.3), ("contrast", 0.6), ("saturation", 1.7), ("hue", 0.2)]), st.integers(0, 99))
def test_the_order_of_linear_changes_makes_no_difference(steps, seed):
    clip = noise(3, 2, 7, 5, seed=seed)
    assert off(transforms.change(clip, tuple(steps)), transforms.change(clip, tuple(sorted(steps)))) <= 1


STEP = st.one_of(
    st.tuples(st.sampled_from(["brightness", "contrast", "saturation", "sharpness"]), st.floats(0.1, 1.9)),
    st.tuples(st.just("hue"), st.floats(-0.5, 0.5)),
    st.tuples(st.just("posterize"), st.floats(1, 8)),
    st.tuples(st.just("solarize"), st.floats(0, 256)),
    st.tuples(st.sampled_from(["autocontrast", "equalize"]), st.just(0.0)),
)
LINEAR_NAMES = {"brightness", "contrast", "saturation", "hue"}


@settings(deadline=None, max_examples=80)
@given(st.lists(STEP, max_size=8), st.integers(0, 99))
def test_runs_follow_one_another(steps, seed):
    """Between changes of different kinds a clip is uint8 again, and tables compose to the last bit."""
    clip = noise(3, 2, 9, 7, seed=seed)
    expected = clip
    run = []
    for step in [*steps, ("end", 0)]:
        if step[0] in LINEAR_NAMES:
            run.append(step)
            continue
        expected = transforms.change(expected, tuple(run))
        run = []
        if step[0] != "end":
            expected = transforms.change(expected, (step,))
    assert torch.equal(transforms.change(clip, tuple(steps)), expected)


EVERY_STEP = [
    *[(name, 1.4) for name in ("brightness", "contrast", "saturation", "sharpness")],
    *[(name, 0.2) for name in ("hue", "shear_x", "shear_y", "translate_x", "translate_y")],
    *[("rotate", 17), ("posterize", 4), ("solarize", 120), ("autocontrast", 0), ("equalize", 0)],
]


@pytest.mark.parametrize("step", EVERY_STEP, ids=lambda step: step[0])
def test_a_change_takes_any_layout_and_leaves_its_input(step):
    clip = muted()
    before = clip.clone()
    expected = transforms.change(clip, (step,))
    assert expected.dtype == torch.uint8 and not torch.equal(expected, clip)
    assert torch.equal(clip, before)
    decoded = clip.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)  # (T, H, W, C) in memory
    assert torch.equal(transforms.change(decoded, (step,)), expected)
    wide = torch.cat([clip, clip], -1)[..., :44]  # rows apart in memory
    assert torch.equal(transforms.change(wide, (step,)), expected)
    still = clip[:, :1].expand(3, 5, 30, 44)
    changed = transforms.change(still, (step,))
    assert (changed == changed[:, :1]).all()


def test_erased_boxes_are_noise_alike_in_every_frame():
    clip = noise(3, 5, 40, 50)
    erased = transforms.erase(clip, (3, 7, 30, 40), seed=1)
    inside = erased[..., 3:33, 7:47]
    assert torch.equal(inside, inside[:, :1].expand_as(inside))
    assert len(inside.unique()) > 250 and 110 < inside.float().mean() < 145
    outside = torch.ones(40, 50, dtype=torch.bool)
    outside[3:33, 7:47] = False
    assert torch.equal(erased[..., outside], clip[..., outside])
    assert torch.equal(erased, transforms.erase(clip, (3, 7, 30, 40), seed=1))
    assert not torch.equal(erased, transforms.erase(clip, (3, 7, 30, 40), seed=2))
    assert torch.equal(clip, noise(3, 5, 40, 50))


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (2, 3, 4, 5, 6)])
@pytest.mark.parametrize("spec", [ClipSpec(), TORCHVISION, ClipSpec(mean=(0, 0.5, 1), std=(1, 0.5, 0.1))])
def test_normalize_is_its_definition(spec, shape):
    clip = noise(*shape)
    before = clip.clone()
    mean, std = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1) for values in (spec.mean, spec.std))
    expected = (clip.double() / 255 - mean) / std
    result = transforms.normalize(clip, spec.mean, spec.std)
    assert result.dtype == torch.float32
    assert ((result - expected).abs() <= 1e-6 * expected.abs().clamp(min=1)).all()
    assert torch.equal(clip, before)


def test_normalize_takes_any_layout():
    clips = noise(2, 3, 4, 5, 6)
    expected = transforms.normalize(clips, IMAGENET.mean, IMAGENET.std)
    decoded = clips.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
    for layout in (
        decoded,
        clips.transpose(3, 4).contiguous().transpose(3, 4),
        torch.cat([clips, clips], 3)[..., :5, :],
    ):
        result = transforms.normalize(layout, IMAGENET.mean, IMAGENET.std)
        assert result.is_contiguous() and torch.equal(result, expected)


def test_scans_are_prepared_already():
    scan = torch.randn(1, 3, 4, 5, 6)
    assert transforms.prepared(scan, IMAGENET) is scan


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prepare_gives_what_the_network_takes(dtype):
    network = torch.nn.Conv3d(3, 1, 1).to(dtype)
    prepared = transforms.prepare(noise(2, 3, 4, 5, 6), ClipSpec(), network)
    assert prepared.dtype == dtype
    assert network(prepared).shape == (2, 1, 4, 5, 6)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(sorted(RANDAUGMENT)), min_size=1, max_size=4), st.floats(0, 10), st.integers(0, 99))
def test_a_gray_clip_is_changed_as_three_equal_channels_are(names, magnitude, seed):
    gray = torch.randint(0, 256, (1, 2, 20, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    steps = [(name, RANDAUGMENT[name][0] + RANDAUGMENT[name][1] * magnitude / 10) for name in names]
    steps = [*(step for step in steps if step[0] != "identity"), ("hue", 0.3), ("contrast", 0.7)]
    as_rgb = transforms.change(gray.expand(3, -1, -1, -1), tuple(steps))
    assert off(transforms.change(gray, tuple(steps)), as_rgb[:1]) <= 1


def test_flow_runs_the_other_way():
    flow = torch.tensor([0, 100, 127, 128, 255], dtype=torch.uint8).expand(2, 1, 1, 5)
    both = transforms.negated(flow)
    assert both[0].flatten().tolist() == both[1].flatten().tolist() == [255, 155, 128, 127, 0]
    assert torch.equal(transforms.negated(flow, (0,)), torch.stack([both[0], flow[1]]))
