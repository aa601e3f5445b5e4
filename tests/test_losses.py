"""Losses against torch's own, the formulas of the papers, and figures worked out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from tubelet import losses

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.5, 0.0], [0.0, 0.0, 3.0], [1.0, -1.0, 1.0]])
TARGETS = torch.tensor([0, 1, 1, 2])
WEIGHTS = torch.tensor([0.5, 2.0, 1.0])
COUNTS = torch.tensor([60, 30, 10])


def frames(seed=0, frames=7):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, frames, generator=generator)
    targets = torch.randint(0, 3, (2, frames), generator=generator)
    targets[0, :3] = losses.IGNORED
    return logits, targets


def test_cross_entropy_is_that_of_torch():
    for smoothing in (0.0, 0.1):
        plain = F.cross_entropy(LOGITS, TARGETS, label_smoothing=smoothing)
        assert losses.cross_entropy(LOGITS, TARGETS, label_smoothing=smoothing) == pytest.approx(plain.item())
    soft = torch.tensor([[0.7, 0.3, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 0.5], [0.2, 0.2, 0.6]])
    assert losses.cross_entropy(LOGITS, soft) == pytest.approx(F.cross_entropy(LOGITS, soft).item())
    hard = F.one_hot(TARGETS, 3).float()
    for options in ({}, {"label_smoothing": 0.2}, {"class_weights": WEIGHTS}):
        by_index = losses.cross_entropy(LOGITS, TARGETS, **options)
        assert losses.cross_entropy(LOGITS, hard, **options) == pytest.approx(by_index.item())


def test_weights_count_alike_in_every_batch():
    """The mean over four samples is the mean of the means over two halves, whichever classes are in them."""
    for loss in (losses.cross_entropy, losses.focal):
        whole = loss(LOGITS, TARGETS, class_weights=WEIGHTS)
        halves = [loss(LOGITS[half], TARGETS[half], class_weights=WEIGHTS) for half in ([0, 3], [1, 2])]
        assert whole == pytest.approx(sum(halves).item() / 2)
    each = F.cross_entropy(LOGITS, TARGETS, reduction="none")
    expected = (each * WEIGHTS[TARGETS]).mean()
    assert losses.cross_entropy(LOGITS, TARGETS, class_weights=WEIGHTS) == pytest.approx(expected.item())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_frames_without_a_label_count_nowhere(smoothing):
    logits, targets = frames()
    seen = targets != losses.IGNORED
    rows = logits.movedim(1, 2)[seen]
    for loss in (losses.cross_entropy, losses.focal):
        for weights in (None, WEIGHTS):
            options = {"label_smoothing": smoothing, "class_weights": weights}
            assert loss(logits, targets, **options) == pytest.approx(loss(rows, targets[seen], **options).item())
    assert losses.cross_entropy(logits, targets) == pytest.approx(F.cross_entropy(rows, targets[seen]).item())


def test_a_batch_without_labels_is_worth_nothing():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    for loss in (losses.cross_entropy, losses.focal):
        value = loss(logits, torch.full((2, 5), losses.IGNORED), label_smoothing=0.1)
        (slope,) = torch.autograd.grad(value, logits)
        assert value == 0 and not slope.any()
    assert losses.binary_cross_entropy(torch.zeros(0, 3), torch.zeros(0, 3)) == 0


def test_focal_by_hand():
    """Probabilities 0.9 and 0.5 of the right class, gamma 2: 0.1^2 x -ln 0.9 and 0.5^2 x -ln 0.5."""
    logits = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()
    expected = (0.01 * -math.log(0.9) + 0.25 * -math.log(0.5)) / 2
    assert losses.focal(logits, torch.tensor([0, 1])) == pytest.approx(expected)
    weighted = (3 * 0.01 * -math.log(0.9) + 0.5 * 0.25 * -math.log(0.5)) / 2
    weights = torch.tensor([3.0, 0.5])
    assert losses.focal(logits, torch.tensor([0, 1]), class_weights=weights) == pytest.approx(weighted)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"class_weights": WEIGHTS, "label_smoothing": 0.1}])
def test_focal_without_gamma_is_cross_entropy(options):
    plain = losses.cross_entropy(LOGITS, TARGETS, **options)
    assert losses.focal(LOGITS, TARGETS, gamma=0, **options) == pytest.approx(plain.item())
    labels = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    plain = losses.binary_cross_entropy(LOGITS, labels, **options)
    assert losses.binary_focal(LOGITS, labels, gamma=0, **options) == pytest.approx(plain.item())


def test_binary_focal_by_hand():
    """The paper's example: an easy answer of probability 0.9 counts 100 times less than in cross-entropy."""
    logit = torch.tensor([[math.log(9)]])
    for label in (torch.ones(1, 1), torch.zeros(1, 1)):
        easy = logit if label else -logit
        plain, less = losses.binary_cross_entropy(easy, label), losses.binary_focal(easy, label)
        assert plain == pytest.approx(-math.log(0.9))
        assert plain / less == pytest.approx(100, rel=1e-4)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_slopes_are_numbers_where_the_answer_is_certain(gamma):
    logits = torch.tensor([[200.0, -200.0], [0.0, 0.0]], requires_grad=True)
    for loss, targets in (
        (losses.focal, torch.tensor([0, 1])),
        (losses.focal, torch.tensor([1, 1])),
        (losses.binary_focal, torch.tensor([[1.0, 0], [1, 0]])),
        (losses.binary_focal, torch.tensor([[0.0, 1], [1, 0]])),
    ):
        value = loss(logits, targets, gamma=gamma)
        (slope,) = torch.autograd.grad(value, logits)
        assert value.isfinite() and slope.isfinite().all()


def test_logit_adjusted_by_hand():
    """Equal logits and shares 0.6, 0.3, 0.1: the softmax is the shares."""
    loss = losses.logit_adjusted(torch.zeros(1, 3), torch.tensor([2]), counts=COUNTS)
    assert loss == pytest.approx(-math.log(0.1))
    loss = losses.logit_adjusted(torch.zeros(1, 3, 2), torch.tensor([[2, 0]]), counts=COUNTS)
    assert loss == pytest.approx(-(math.log(0.1) + math.log(0.6)) / 2)
    even = losses.logit_adjusted(LOGITS, TARGETS, counts=torch.tensor([5, 5, 5]), label_smoothing=0.1)
    assert even == pytest.approx(losses.cross_entropy(LOGITS, TARGETS, label_smoothing=0.1).item())
    absent = losses.logit_adjusted(LOGITS, TARGETS, counts=torch.tensor([5, 5, 0]), label_smoothing=0.1)
    assert absent.isfinite()


def test_logit_adjusted_learns_the_balanced_answer():
    """Menon 2021: among inputs that tell nothing, cross-entropy learns the shares, the adjusted loss even logits."""
    targets = torch.tensor([0] * 6 + [1] * 3 + [2])
    learned = {}
    for name in ("cross_entropy", "logit_adjusted"):
        loss, logits = losses.choose(name, counts=COUNTS), torch.zeros(3, requires_grad=True)
        optimizer = torch.optim.LBFGS([logits], max_iter=100)

        def closure(loss=loss, logits=logits, optimizer=optimizer):
            optimizer.zero_grad()
            value = loss(logits.expand(10, 3), targets)
            value.backward()
            return value

        optimizer.step(closure)
        learned[name] = logits.detach().softmax(0)
    assert torch.allclose(learned["cross_entropy"], torch.tensor([0.6, 0.3, 0.1]), atol=1e-3)
    assert torch.allclose(learned["logit_adjusted"], torch.tensor([1 / 3] * 3), atol=1e-3)


def test_binary_cross_entropy_is_that_of_torch():
    labels = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    plain = F.binary_cross_entropy_with_logits(LOGITS, labels)
    assert losses.binary_cross_entropy(LOGITS, labels) == pytest.approx(plain.item())
    assert losses.binary_cross_entropy(LOGITS, labels.long()) == pytest.approx(plain.item())
    weighted = F.binary_cross_entropy_with_logits(LOGITS, labels, WEIGHTS)
    assert losses.binary_cross_entropy(LOGITS, labels, class_weights=WEIGHTS) == pytest.approx(weighted.item())
    smooth = F.binary_cross_entropy_with_logits(LOGITS, 0.9 * labels + 0.05)
    assert losses.binary_cross_entropy(LOGITS, labels, label_smoothing=0.1) == pytest.approx(smooth.item())
    over_time = losses.binary_cross_entropy(LOGITS[..., None], labels[..., None], class_weights=WEIGHTS)
    assert over_time == pytest.approx(weighted.item())


def test_balanced_weights_are_those_of_scikit_learn():
    """Its documentation: n_samples / (n_classes * bincount(y))."""
    assert losses.balanced(COUNTS).tolist() == pytest.approx([100 / 180, 100 / 90, 100 / 30])
    assert losses.balanced(torch.tensor([3, 0, 1])).tolist() == pytest.approx([4 / 6, 0, 2])
    weights = losses.balanced(COUNTS)
    assert (weights * COUNTS).sum() / COUNTS.sum() == pytest.approx(1)


def test_half_precision_is_computed_in_single():
    for loss in (losses.cross_entropy, losses.focal):
        found = loss(LOGITS.bfloat16(), TARGETS)
        assert found.dtype == torch.float32
        assert found == pytest.approx(loss(LOGITS.bfloat16().float(), TARGETS).item())
    soft = F.one_hot(TARGETS, 3).bfloat16()
    assert losses.cross_entropy(LOGITS.bfloat16(), soft).dtype == torch.float32


def test_choose():
    found = losses.choose("focal", class_weights="balanced", counts=COUNTS, label_smoothing=0.1)
    expected = losses.focal(LOGITS, TARGETS, class_weights=losses.balanced(COUNTS), label_smoothing=0.1)
    assert found(LOGITS, TARGETS) == expected
    labels = F.one_hot(TARGETS, 3).float()
    assert losses.choose("cross_entropy", multilabel=True)(LOGITS, labels) == losses.binary_cross_entropy(
        LOGITS, labels
    )
    assert losses.choose("focal", multilabel=True)(LOGITS, labels) == losses.binary_focal(LOGITS, labels)


def voxels(is_masked=False):
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(2, 4, 5, 6, 7, generator=generator)
    targets = torch.randint(0, 4, (2, 5, 6, 7), generator=generator)
    targets[1, targets[1] == 3] = 0  # a class that one sample does not have
    if is_masked:
        targets[0, :2] = targets[1, :, :, 4:] = losses.IGNORED
    return logits, targets


def test_losses_of_voxels_are_monais():
    theirs = pytest.importorskip("monai.losses")
    logits, targets = voxels()
    truth, kind = targets[:, None], {"softmax": True, "to_onehot_y": True, "include_background": False}
    for ours, other in (
        (losses.dice(logits, targets), theirs.DiceLoss(**kind, smooth_nr=1e-5, smooth_dr=1e-5)),
        (losses.dice_ce(logits, targets), theirs.DiceCELoss(**kind)),
        (
            losses.dice_ce(logits, targets, label_smoothing=0.1),
            theirs.DiceCELoss(**kind, label_smoothing=0.1),
        ),
        (losses.tversky(logits, targets), theirs.TverskyLoss(**kind, alpha=0.3, beta=0.7)),
        (losses.tversky(logits, targets, alpha=0.9, beta=0.2), theirs.TverskyLoss(**kind, alpha=0.9, beta=0.2)),
        (losses.focal(logits, targets), theirs.FocalLoss(use_softmax=True, to_onehot_y=True, include_background=True)),
    ):
        # their focal loss is a mean over classes, too
        factor = 4 if isinstance(other, theirs.FocalLoss) else 1
        assert ours.item() == pytest.approx(factor * other(logits, truth).item(), rel=2e-5), other


def test_dice_by_hand():
    """Of 4 voxels class 1 has 2, one of them is found for sure, and half of a wrong one: 1 - 2 * 1 / (2 + 1.5)."""
    scores = torch.tensor([1.0, 0.0, 0.5, 0.0]).clamp(1e-9, 1 - 1e-9)
    logits = torch.stack((1 - scores, scores)).log().view(1, 2, 1, 1, 4)
    targets = torch.tensor([1, 1, 0, 0]).view(1, 1, 1, 4)
    assert losses.dice(logits, targets) == pytest.approx(1 - 2 / 3.5, abs=1e-5)
    assert losses.tversky(logits, targets, alpha=1.0, beta=2.0) == pytest.approx(1 - 1 / (1 + 0.5 + 2), abs=1e-5)
    assert losses.tversky(logits, targets, alpha=0.5, beta=0.5) == pytest.approx(1 - 2 / 3.5, abs=1e-5)
    empty = torch.zeros_like(targets)
    nowhere = torch.tensor([30.0, -30.0]).view(1, 2, 1, 1, 1).expand(1, 2, 1, 1, 4)
    assert losses.dice(nowhere, empty) == pytest.approx(0, abs=1e-5)
    assert losses.dice(logits, empty) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("loss", [losses.dice, losses.dice_ce, losses.tversky, losses.focal, losses.cross_entropy])
def test_voxels_without_a_label_count_nowhere(loss):
    logits, targets = voxels(is_masked=True)
    rows = [each[:, targets[i] != losses.IGNORED] for i, each in enumerate(logits)]
    seen = [each[each != losses.IGNORED] for each in targets]
    if loss is losses.dice_ce:  # the cross-entropy is a mean over voxels, not over samples
        expected = sum(losses.dice(x[None], y[None]) for x, y in zip(rows, seen, strict=True)) / 2
        expected = expected + losses.cross_entropy(logits, targets)
    elif loss in (losses.dice, losses.tversky):
        expected = sum(loss(x[None], y[None]) for x, y in zip(rows, seen, strict=True)) / 2
    else:
        expected = loss(torch.cat(rows, 1).T, torch.cat(seen))
    assert loss(logits, targets).item() == pytest.approx(expected.item(), rel=1e-5)
    nothing = torch.full_like(targets, losses.IGNORED)
    logits.requires_grad_()
    value = loss(logits, nothing)
    (slope,) = torch.autograd.grad(value, logits)
    assert value.item() == pytest.approx(0, abs=1e-6) and not slope.any()


def test_deep_weighs_sizes_and_takes_the_nearest_targets():
    """Two sizes: (1 x fine + 1/2 x coarse) / 1.5, the coarse one against every other voxel's class."""
    logits, targets = voxels(is_masked=True)
    coarse = torch.randn(2, 4, 3, 2, 7)
    for loss in (losses.dice_ce, losses.cross_entropy, losses.focal):
        near = targets[:, [0, 2, 4]][:, :, [1, 4]]  # centres of 3 in 5 lie at 0.33, 2 and 3.67, of 2 in 6 at 1 and 4
        expected = (loss(logits, targets) + 0.5 * loss(coarse, near)) / 1.5
        assert losses.deep(loss, [logits, coarse], targets).item() == pytest.approx(expected.item())
        assert losses.deep(loss, logits, targets) == loss(logits, targets)
        stacked = torch.stack([logits, -logits], 1)
        assert losses.deep(loss, stacked, targets) == losses.deep(loss, [logits, -logits], targets)
    chosen = losses.choose("dice_ce", is_dense=True, class_weights="balanced", counts=torch.tensor([9, 5, 3, 1]))
    weights = losses.balanced(torch.tensor([9, 5, 3, 1]))
    expected = losses.dice(logits, targets) + losses.cross_entropy(logits, targets, class_weights=weights)
    assert chosen([logits], targets).item() == pytest.approx(expected.item())
    assert losses.choose("tversky", is_dense=True)(logits, targets) == losses.tversky(logits, targets)
    assert losses.choose("dice", is_dense=True)(logits, targets) == losses.dice(logits, targets)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bce", {}, "loss 'bce'; there is cross_entropy, focal, logit_adjusted, dice"),
        ("dice", {}, r"'dice' is for voxels \(task segment\); for other tasks there is cross_entropy, focal, logit_"),
        ("dice_ce", {"multilabel": True}, "'dice_ce' is for voxels"),
        ("dice", {"is_dense": True, "label_smoothing": 0.1}, "'dice' has no label_smoothing or class_weights; dice_ce"),
        ("tversky", {"is_dense": True, "class_weights": "balanced", "counts": COUNTS}, "'tversky' has no label_smo"),
        ("focal", {"class_weights": "even"}, "class_weights 'even'; there is balanced"),
        ("focal", {"class_weights": "balanced"}, "needs the counts"),
        ("logit_adjusted", {}, "needs the counts"),
        ("logit_adjusted", {"multilabel": True, "counts": COUNTS}, "is for one class a clip"),
        ("cross_entropy", {"label_smoothing": 1.0}, "label_smoothing 1.0 must be at least 0 and below 1"),
    ],
)
def test_what_does_not_fit(name, options, message):
    with pytest.raises(ValueError, match=message):
        losses.choose(name, **options)
    with pytest.raises(ValueError, match=r"targets \(4,\) for logits \(4, 3\)"):
        losses.binary_cross_entropy(LOGITS, TARGETS)
