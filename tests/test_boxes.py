"""Average precision of boxes against known values and against a plain loop over the definition."""

import pytest
import torch

from tubelet import boxes


def test_box_iou_by_hand():
    a = torch.tensor([[0.0, 0, 2, 2], [1, 1, 1, 1]])
    b = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [2, 2, 4, 4], [0, 0, 1, 1], [1, 1, 1, 1]])
    expected = [[1, 2 / 6, 0, 1 / 4, 0], [0, 0, 0, 0, 0]]
    assert torch.allclose(boxes.box_iou(a, b), torch.tensor(expected))
    assert boxes.box_iou(torch.zeros(0, 4), b).shape == (0, 5)


def test_average_precision_by_hand():
    """Ten true boxes, of which five are found: recall rises by 1/10 at the ranks 1, 2, 4, 7 and 9 of 11."""
    right = torch.tensor([1, 1, 0, 1, 0, 0, 1, 0, 1, 0, 0]).reshape(-1, 1)
    scores = torch.arange(11, 0, -1).float().reshape(-1, 1)
    found = boxes.average_precision(scores, right, torch.tensor([10]))
    # the best precision from there on
    assert found.item() == pytest.approx((1 + 1 + 3 / 4 + 4 / 7 + 5 / 9) / 10)


def frame(found, scores, classes, truth, labels, num_classes=3):
    """Boxes with one class each -> what `matches` takes; a class that a box is not said to have scores -1."""
    table = torch.full((len(found), num_classes), -1.0)
    for i, (score, k) in enumerate(zip(scores, classes, strict=True)):
        table[i, k] = score
    labelled = torch.zeros(len(labels), num_classes)
    labelled[range(len(labels)), labels] = 1
    return torch.tensor(found).reshape(-1, 4).float(), table, torch.tensor(truth).reshape(-1, 4).float(), labelled


def test_pascal_self_test():
    """object_detection_evaluation_test.py of TensorFlow: cat 1/6, dog and elephant 0, mAP 1/18."""
    frames = (
        (*frame([], [], [], [[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]], [0, 2, 0]), torch.zeros(3)),
        (
            *frame(
                [[10, 10, 11, 11], [100, 100, 120, 120], [100, 100, 220, 220]],
                [0.7, 0.8, 0.9],
                [0, 0, 2],
                [[10, 10, 11, 11], [500, 500, 510, 510], [10, 10, 12, 12]],
                [0, 0, 2],
            ),
            torch.tensor([0, 1, 0]),
        ),
        (*frame([], [], [], [[0, 0, 1, 1]], [1]), torch.zeros(1)),
    )
    scores = torch.cat([each[1] for each in frames])
    found = torch.cat([boxes.matches(*each) for each in frames])
    num_true = sum(each[3][each[4] == 0].sum(0) for each in frames)
    assert num_true.tolist() == [3, 1, 2]
    values = boxes.average_precision(scores, torch.where(scores < 0, -1, found), num_true)
    assert values.tolist() == pytest.approx([1 / 6, 0, 0])
    assert values.mean().item() == pytest.approx(1 / 18)


def test_the_surest_box_finds_first_and_ignored_boxes_do_not_count():
    """per_image_evaluation_test.py of TensorFlow: scores 0.8, 0.6, 0.5 are wrong, right, wrong; one is ignored."""
    found = torch.tensor([[0.0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]])
    scores = torch.tensor([[0.6], [0.8], [0.5]])
    truth, labels = torch.tensor([[0.0, 0, 1, 1], [0, 0, 10, 10]]), torch.ones(2, 1)
    assert boxes.matches(found, scores, truth, labels, torch.tensor([0, 1])).flatten().tolist() == [1, 0, 0]
    assert boxes.matches(found, scores, truth, labels, torch.tensor([1, 0])).flatten().tolist() == [-1, 0, 0]
    twice = boxes.matches(found[[0, 0]], scores[[0, 1]], truth, labels)
    assert twice.flatten().tolist() == [0, 1]


def test_boxes_have_several_classes():
    box, other = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[10.0, 10, 14, 14]])
    labels = torch.tensor([[1.0, 1, 0], [0, 1, 0]])
    scores = torch.tensor([[0.9, 0.2, 0.7]])
    assert boxes.matches(box, scores, torch.cat([box, other]), labels).tolist() == [[1, 1, 0]]


def test_half_is_enough():
    truth = torch.tensor([[0.0, 0, 2, 2]])
    found = torch.tensor([[0.0, 0, 2, 1], [0, 0, 2, 0.99]])
    assert boxes.matches(found[:1], torch.ones(1, 1), truth, torch.ones(1, 1)).item() == 1
    assert boxes.matches(found[1:], torch.ones(1, 1), truth, torch.ones(1, 1)).item() == 0


def test_nothing_found_and_nothing_there():
    nothing = torch.zeros(0, 4)
    assert boxes.matches(nothing, torch.zeros(0, 2), nothing, torch.zeros(0, 2)).shape == (0, 2)
    box = torch.tensor([[0.0, 0, 1, 1]])
    assert boxes.matches(box, torch.rand(1, 2), nothing, torch.zeros(0, 2)).tolist() == [[0, 0]]
    values = boxes.average_precision(torch.zeros(0, 2), torch.zeros(0, 2), torch.tensor([3, 0]))
    assert values[0] == 0 and values[1].isnan()
    with pytest.raises(ValueError, match=r"\(1, 4\), \(1, 3\), \(0, 4\), \(0, 2\); they are"):
        boxes.matches(box, torch.rand(1, 3), nothing, torch.zeros(0, 2))


def plain(found, scores, truth, labels, k):
    """The definition, box by box."""
    right, taken = {}, set()
    of_class = [j for j in range(len(truth)) if labels[j, k]]
    for i in sorted(range(len(found)), key=lambda i: -scores[i, k]):
        iou = [boxes.box_iou(found[i : i + 1], truth[j : j + 1]).item() for j in of_class]
        best = max(range(len(iou)), key=iou.__getitem__, default=None)
        right[i] = best is not None and iou[best] >= 0.5 and best not in taken
        if right[i]:
            taken.add(best)
    return [int(right[i]) for i in range(len(found))]


@pytest.mark.parametrize("seed", range(10))
def test_matches_are_those_of_a_plain_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(4, 2, generator=generator)
    truth = torch.cat([truth, truth + 0.2 + 0.4 * torch.rand(4, 2, generator=generator)], 1)
    found = truth[torch.randint(4, (9,), generator=generator)] + 0.06 * torch.randn(9, 4, generator=generator)
    scores = torch.rand(9, 3, generator=generator)
    labels = (torch.rand(4, 3, generator=generator) < 0.6).float()
    expected = torch.tensor([plain(found, scores, truth, labels, k) for k in range(3)]).T
    result = boxes.matches(found, scores, truth, labels)
    assert result.tolist() == expected.tolist()
    assert 0 < result.sum() < result.numel()
