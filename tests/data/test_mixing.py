import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.data.mixing import Mixing

MIXUP, CUTMIX = Mixing(mixup=0.8), Mixing(cutmix=1.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(size=4, frames=3, height=13, width=17, dtype=torch.uint8):
    """Clips each of one value in all its pixels, 10 apart, so that a pixel tells whose it is."""
    values = (10 * torch.arange(size) + 5).to(dtype)
    return values.view(-1, 1, 1, 1, 1).expand(size, 3, frames, height, width)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 5), st.integers(2, 30), st.integers(2, 30), st.integers(0, 1000), st.booleans())
def test_cutmix_weights_are_the_pixels_of_each(size, height, width, seed, is_float):
    clips = batch(size, 2, height, width, torch.float32 if is_float else torch.uint8)
    mixed, targets = CUTMIX(clips, torch.arange(size), seeded(seed), num_classes=size)
    assert mixed.shape == clips.shape and mixed.dtype == clips.dtype and targets.dtype == torch.float32
    assert (mixed == mixed[:, :1, :1]).all()  # one box for all channels and frames
    for i, (clip, target) in enumerate(zip(mixed, targets, strict=True)):
        for other in range(size):
            share = (clip == clips[other, 0, 0, 0, 0]).float().mean()
            assert abs(target[other] - share) < 1e-6
        replaced = (clip[0, 0] != clips[i, 0, 0, 0, 0]).nonzero()
        if len(replaced):
            (top, left), (bottom, right) = replaced.min(0).values, replaced.max(0).values
            assert len(replaced) == (bottom - top + 1) * (right - left + 1)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 5), st.integers(0, 1000), st.booleans())
def test_mixup_weighs_clips_as_targets(size, seed, is_float):
    generator = seeded(seed)
    clips = torch.randint(0, 256, (size, 3, 2, 4, 5), dtype=torch.uint8, generator=generator)
    clips = clips.float() if is_float else clips
    before = clips.clone()
    mixed, targets = MIXUP(clips, torch.arange(size), generator, num_classes=size)
    assert mixed.dtype == clips.dtype
    expected = torch.einsum("bk,kcthw->bcthw", targets, clips.float())
    assert (mixed.float() - expected).abs().max() <= (1e-3 if is_float else 0.501)
    assert torch.equal(clips, before)
    assert ((targets.sum(1) - 1).abs() < 1e-6).all()


@pytest.mark.parametrize(("alpha", "kind"), [(0.2, "mixup"), (1.0, "mixup"), (1.0, "cutmix")])
def test_weights_follow_the_beta_distribution(alpha, kind):
    clips = torch.zeros(2, 1, 1, 200, 200, dtype=torch.uint8)
    generator = seeded()
    number = 400
    kept = torch.stack([
        Mixing(**{kind: alpha})(clips, torch.arange(2), generator, num_classes=2)[1][0, 0] for _ in range(number)
    ])  # fmt: skip
    if kind == "mixup":
        assert abs(kept.mean() - 0.5) < 4 * 0.5 / math.sqrt(number)
        assert kept.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.25)
    else:
        assert 0.5 < kept.mean() < 0.75  # part of some boxes is beyond the border


def test_a_batch_without_mixing_has_plain_targets():
    clips = batch()
    for mixing in (Mixing(), Mixing(mixup=1, cutmix=1, probability=0)):
        mixed, targets = mixing(clips, torch.tensor([2, 0, 1, 1]), seeded(), num_classes=3)
        assert mixed is clips
        assert targets.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 1, 0]]


def test_both_kinds_take_their_share():
    clips, counts = batch(), {"none": 0, "mixup": 0, "cutmix": 0}
    generator = seeded()
    mixing = Mixing(mixup=1, cutmix=1, probability=0.6)
    for _ in range(500):
        mixed, _ = mixing(clips, torch.arange(4), generator, num_classes=4)
        own = set(clips.unique().tolist())
        counts["none" if mixed is clips else "cutmix" if set(mixed.unique().tolist()) <= own else "mixup"] += 1
    assert 160 < counts["none"] < 240
    assert 110 < counts["mixup"] < 190 and 110 < counts["cutmix"] < 200


def test_targets_of_several_classes_are_weighed_alike():
    clips = batch(2)
    targets = torch.tensor([[1, 1, 0], [0, 1, 0]])
    mixed, soft = CUTMIX(clips, targets, seeded(1))
    share = (mixed[0] == clips[0]).float().mean()
    assert 0 < share < 1
    assert torch.allclose(soft, torch.tensor([[share, 1, 0], [1 - share, 1, 0]]))


def test_the_same_seed_mixes_the_same():
    clips = batch(dtype=torch.float16)
    mixing = Mixing(mixup=0.8, cutmix=1)
    for seed in range(6):
        one, two = (mixing(clips, torch.arange(4), seeded(seed), num_classes=4) for _ in range(2))
        assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
        assert one[0].dtype == torch.float16


def test_mixed_targets_are_what_the_loss_takes():
    _, soft = MIXUP(batch(), torch.arange(4), seeded(), num_classes=6)
    loss = torch.nn.functional.cross_entropy(torch.zeros(4, 6), soft, label_smoothing=0.1)
    assert loss == pytest.approx(math.log(6))


@pytest.mark.parametrize(
    ("targets", "num_classes", "says"),
    [
        (torch.arange(4), None, "give num_classes"),
        (torch.arange(4), 3, "targets go from 0 to 3, and there are 3 classes"),
        (torch.arange(4) - 1, 9, "targets go from -1 to 2"),
        (torch.arange(8).view(4, 2), None, r"targets \(4, 2\) go from 0 to 7; \(B, K\) holds 0\.\.1 a class"),
        (torch.arange(3), 9, r"targets \(3,\) of 4 clips must be \(4,\) or \(4, K\)"),
        (torch.zeros(4, 2, 5), None, r"targets \(4, 2, 5\) of 4 clips"),
    ],
)
def test_targets_that_do_not_fit_are_named(targets, num_classes, says):
    with pytest.raises(ValueError, match=says):
        MIXUP(batch(), targets, seeded(), num_classes=num_classes)


def test_an_empty_batch_is_named():
    with pytest.raises(ValueError, match=r"targets \(0,\) of 0 clips hold nothing; give at least one clip"):
        MIXUP(batch()[:0], torch.arange(0), seeded(), num_classes=2)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"mixup": -1}, "mixup -1 must be at least 0"),
        ({"cutmix": float("nan")}, "cutmix nan must be at least 0"),
        ({"probability": 1.5}, r"probability 1.5 must lie in 0\.\.1"),
    ],
)
def test_values_out_of_range_are_named(settings, says):
    with pytest.raises(ValueError, match=says):
        Mixing(**settings)


def test_clips_of_one_video_one_after_another_are_mixed_with_those_of_another():
    clips, targets = torch.zeros(8, 3, 2, 4, 4), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    _, soft = Mixing(mixup=5.0)(clips, targets, torch.Generator().manual_seed(0), num_classes=2)
    assert ((soft > 0) & (soft < 1)).all()
