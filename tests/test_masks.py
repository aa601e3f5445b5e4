"""Measures of masks: cubes worked out by hand, scipy's distances, MONAI's Dice, and the rule for empty classes."""

import copy
import math

import pytest
import torch

from tubelet import masks

pytest.importorskip("monai")
pytest.importorskip("torchmetrics")
NAN, INF = math.nan, math.inf


def cube(start, side=6, size=20, k=1):
    """A scan of zeros with a cube of class k."""
    labels = torch.zeros(size, size, size, dtype=torch.uint8)
    d, h, w = start
    labels[d : d + side, h : h + side, w : w + side] = k
    return labels


def blobs(seed, num_classes=4, size=(9, 12, 10)):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, num_classes, *(n // 3 for n in size), generator=generator)
    return torch.nn.functional.interpolate(coarse, size, mode="trilinear")[0].argmax(0)


def test_a_cube_moved_by_two_voxels():
    """Of 6 x 6 x 6 voxels 4 x 6 x 6 are shared; one face of each surface lies two voxels of 1.5 mm from the other."""
    found = masks.case(cube((4, 4, 4)), cube((6, 4, 4)), 2, (1.5, 1.0, 0.5))
    assert found["dice"].item() == pytest.approx(4 / 6)
    assert found["iou"].item() == pytest.approx(4 / 8)
    # 36 of the 152 voxels of a surface are its far face, more than 5 %
    assert found["hd95_mm"].item() == pytest.approx(3.0)
    wider = masks.case(cube((4, 4, 4)), cube((6, 4, 4)), 2, (1.5, 1.0, 0.5), tolerance_mm=2.9)
    assert wider["surface_dice"].item() == pytest.approx((152 - 36) / 152)
    along_width = masks.case(cube((4, 4, 4)), cube((4, 4, 6)), 2, (1.5, 1.0, 0.5))
    assert along_width["hd95_mm"].item() == pytest.approx(1.0)
    assert along_width["surface_dice"].item() == 1  # within 1 mm
    same = masks.case(cube((4, 4, 4)), cube((4, 4, 4)), 2, (1.5, 1.0, 0.5), tolerance_mm=0.0)
    assert [same[name].item() for name in masks.MEASURES] == [1, 1, 0, 1]


def test_distances_are_scipys():
    """Surfaces by eroding, distances by the distance transform, the percentile as numpy takes it."""
    import numpy as np
    from scipy import ndimage

    spacing, tolerance = (3.0, 0.7, 1.1), 1.2
    labels, targets = blobs(0), blobs(1)
    found = masks.case(labels, targets, 4, spacing, tolerance_mm=tolerance)
    for k in range(1, 4):
        edges = []
        for each in (labels, targets):
            mask = (each == k).numpy()
            edges.append(mask & ~ndimage.binary_erosion(mask))
        far = [ndimage.distance_transform_edt(~b, sampling=spacing)[a] for a, b in (edges, edges[::-1])]
        assert found["hd95_mm"][k - 1] == pytest.approx(max(np.percentile(each, 95) for each in far), rel=1e-5)
        near = np.concatenate(far) <= tolerance
        assert found["surface_dice"][k - 1] == pytest.approx(near.mean(), rel=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_surfaces_of_a_single_slice_are_its_edges(axis):
    """A square of 6 x 6 is moved by 2: of its 20 voxels at an edge 4 above and 4 below lie on the other's."""
    found, true = (cube(start)[4:5].movedim(0, axis) for start in ((4, 4, 4), (4, 6, 4)))
    figures = masks.case(found, true, 2, (1.0, 1.0, 1.0), tolerance_mm=0.5)
    assert figures["hd95_mm"].item() == 2
    assert figures["surface_dice"].item() == pytest.approx(8 / 20)
    row = torch.ones(1, 1, 9).movedim(2, axis).long()
    assert masks.case(row, row, 2, (1.0, 1.0, 1.0))["hd95_mm"].item() == 0


def test_dice_and_iou_are_monais():
    from monai.metrics import compute_dice, compute_iou

    pairs = [(blobs(2 * i), blobs(2 * i + 1)) for i in range(3)]
    numbers = torch.stack([masks.counts(*pair, 4) for pair in pairs])
    hot = [torch.nn.functional.one_hot(torch.stack(each), 4).movedim(-1, 1) for each in zip(*pairs, strict=True)]
    for found, compute in zip(masks.dice_iou(numbers), (compute_dice, compute_iou), strict=True):
        torch.testing.assert_close(found.float(), compute(*hot, include_background=False))


def test_the_rule_for_empty_classes():
    """Class 1 in both, 2 in the answer alone, 3 in the truth alone, 4 in neither."""
    answer, truth = cube((1, 1, 1)) + cube((12, 1, 1), k=2), cube((1, 1, 1)) + cube((1, 12, 12), k=3)
    found = masks.case(answer, truth, 5, (1, 1, 1))
    for name, expected in (
        ("dice", [1, 0, 0, NAN]),
        ("iou", [1, 0, 0, NAN]),
        ("hd95_mm", [0, INF, INF, NAN]),
        ("surface_dice", [1, 0, 0, NAN]),
    ):
        assert found[name].tolist() == pytest.approx(expected, nan_ok=True), name
    right = masks.case(truth, truth, 5, (1, 1, 1))
    total = masks.summary([found, right])
    assert total["dice_of_class"].tolist() == pytest.approx([1, 0, 0.5, NAN], nan_ok=True)
    assert total["dice"] == pytest.approx(0.5)
    assert total["hd95_mm_of_class"].tolist() == pytest.approx([0, NAN, 0, NAN], nan_ok=True)
    assert total["hd95_mm"] == 0
    assert total["missed"].tolist() == [0, 1, 1, 0]


def test_voxels_without_a_label_do_not_count():
    answer, truth = cube((4, 4, 4)).long(), cube((6, 4, 4)).long()
    truth[:6] = -1  # what the answer has too much
    found = masks.case(answer, truth, 2, (1, 1, 1))
    assert found["dice"].item() == pytest.approx(2 * 4 / (4 + 6))
    truth[10:] = -1
    found = masks.case(answer, truth, 2, (1, 1, 1))
    assert [found[name].item() for name in masks.MEASURES] == [1, 1, 0, 1]


def test_overlaps_are_means_over_cases_however_they_come():
    """One process with batches of two, and two processes with one case each, gathered as torchmetrics does."""
    pairs = [(blobs(2 * i), blobs(2 * i + 1)) for i in range(4)]
    small = [(cube((1, 1, 1), 2, 5), cube((1, 1, 2), 2, 5))]  # another size, class 1 alone
    whole, *parts = (masks.overlaps(4) for _ in range(4))
    for first, second in zip(pairs[::2], pairs[1::2], strict=True):
        whole.update(*(torch.stack(each) for each in zip(first, second, strict=True)))
    whole.update(*(each[None] for each in small[0]))
    for i, (answer, truth) in enumerate(pairs + small):
        logits = torch.nn.functional.one_hot(answer.long(), 4).movedim(-1, 0)[None].float()
        parts[i % 2].update(logits, truth[None].long())  # the third has no case
    gathered = copy.deepcopy(parts[0])
    gathered.part0 = [torch.cat(part.part0) for part in parts]
    cases = [masks.case(*pair, 4, (1, 1, 1)) for pair in pairs + small]
    expected = masks.summary(cases)
    for metric in (whole, gathered):
        found = metric.compute()
        for name in ("dice", "iou", "dice_of_class", "iou_of_class"):
            torch.testing.assert_close(found[name], expected[name])
    assert math.isnan(masks.overlaps(4).compute()["dice"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: masks.counts(cube((0, 0, 0)), cube((0, 0, 0), size=9), 2), r"labels \(20, 20, 20\) for targets \(9, "),
        (lambda: masks.counts(cube((0, 0, 0), k=3), cube((0, 0, 0)), 3), "labels hold class 3; there are 3, from 0 up"),
        (lambda: masks.counts(cube((0, 0, 0)), cube((0, 0, 0), k=2), 2), "targets hold class 2; there are 2"),
        (lambda: masks.counts(-cube((0, 0, 0)).long(), cube((0, 0, 0)), 2), "labels hold -1"),
        (lambda: masks.case(cube((0, 0, 0)), cube((0, 0, 0)), 2, (1, 0, 1)), r"spacing_mm \(1, 0, 1\) must be three"),
        (lambda: masks.summary([]), "no cases"),
    ],
)
def test_what_does_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()
