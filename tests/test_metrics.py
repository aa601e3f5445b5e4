"""Measures against figures worked out by hand and against scipy; on one process and on two."""

import math
import subprocess
import sys

import pytest
import torch

from tubelet import metrics


def random_scores(samples=300, classes=4, scale=2.0):
    """Logits that know something, with targets."""
    generator = torch.Generator().manual_seed(samples)
    targets = torch.randint(classes, (samples,), generator=generator)
    logits = torch.randn(samples, classes, generator=generator)
    logits[torch.arange(samples), targets] += 1
    return scale * logits, targets


def test_average_precision_by_hand():
    """Ranks 1, 3 and 6 of six are positive: precision 1, 2/3 and 3/6."""
    scores = torch.tensor([[6.0, 0], [5, 0], [4, 0], [3, 0], [2, 0], [1, 0]])
    labels = torch.tensor([[1, 0], [0, 0], [1, 0], [0, 0], [0, 0], [1, 0]])
    found = metrics.average_precision(scores, labels)
    assert found[0].item() == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)
    assert found[1].isnan()
    measure = metrics.multilabel(2)
    for part in ([0, 4], [1, 2, 3], [5]):
        measure.update(scores[part], labels[part])
    assert measure.compute()["map"].item() == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)


def test_large_logits_keep_their_order():
    """A sigmoid would make 40 and 80 alike."""
    scores, labels = torch.tensor([[40.0], [80.0], [-900.0]]), torch.tensor([[0], [1], [1]])
    assert metrics.average_precision(scores, labels).item() == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.roc_auc(scores, labels).item() == pytest.approx(1 / 2)


def test_roc_auc_is_the_chance_of_the_right_order():
    stats = pytest.importorskip("scipy.stats")
    logits, targets = random_scores()
    found = metrics.roc_auc(logits, targets)
    for k in range(4):
        own, others = logits[targets == k, k], logits[targets != k, k]
        u = stats.mannwhitneyu(own.numpy(), others.numpy()).statistic
        assert found[k].item() == pytest.approx(u / (len(own) * len(others)))
    two = logits[:, :2].softmax(1)
    assert metrics.roc_auc(two, (targets > 1).long())[0].item() == pytest.approx(
        metrics.roc_auc(two, (targets > 1).long())[1].item()
    )


def test_roc_auc_by_hand():
    """Of six pairs of a positive and a negative five are in order, one is equal: 5.5 / 6."""
    scores = torch.tensor([[0.9], [0.6], [0.5], [0.5], [0.1]])
    labels = torch.tensor([[1], [1], [1], [0], [0]])
    assert metrics.roc_auc(scores, labels).item() == pytest.approx(5.5 / 6)
    absent = metrics.roc_auc(torch.rand(4, 3), torch.tensor([0, 0, 1, 0]))
    assert absent.isnan().tolist() == [False, False, True]
    assert metrics.roc_auc(torch.rand(2, 2), torch.tensor([1, 1])).isnan().all()


def test_scores_that_do_not_fit():
    with pytest.raises(ValueError, match=r"scores \(3, 2\) for labels \(3, 4\)"):
        metrics.average_precision(torch.rand(3, 2), torch.ones(3, 4))
    with pytest.raises(ValueError, match="no order among them"):
        metrics.roc_auc(torch.tensor([[torch.nan, 0.0]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="no log: clamp them first"):
        metrics.fit_temperature(torch.tensor([[0.0, 1.0]]).log(), torch.tensor([1]))


def test_per_class_by_hand():
    found = metrics.per_class(torch.tensor([[2, 1, 0], [1, 3, 0], [0, 0, 0]]))
    assert found["samples"].tolist() == [3, 4, 0]
    for name, expected in {"recall": [2 / 3, 3 / 4], "precision": [2 / 3, 3 / 4], "f1": [2 / 3, 3 / 4]}.items():
        assert found[name].tolist()[:2] == pytest.approx(expected)
        assert found[name][2].isnan()


def test_calibration_error_by_hand():
    """Four answers at 0.9, half of them right; two at 0.6, both right: 4/6 x 0.4 + 2/6 x 0.4."""
    scores = torch.tensor([[0.9, 0.1]] * 4 + [[0.4, 0.6]] * 2)
    assert metrics.calibration_error(scores, torch.tensor([0, 0, 1, 1, 1, 1])) == pytest.approx(0.4)


def test_scores_of_exactly_one_share_the_last_bin():
    """A hundred answers at 1 with 98 right and a hundred at 0.95 all right: one bin, of 0.975 and 0.99."""
    scores = torch.tensor([[1.0, 0.0]] * 100 + [[0.95, 0.05]] * 100)
    assert metrics.calibration_error(scores, (torch.arange(200) < 2).long()) == pytest.approx(0.015, abs=1e-5)


def test_temperature_undoes_overconfidence():
    logits, _ = random_scores(samples=4000, scale=1.0)
    targets = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(0))[:, 0]
    assert metrics.fit_temperature(logits, targets) == pytest.approx(1, abs=0.1)
    assert metrics.fit_temperature(5 * logits, targets) == pytest.approx(5, rel=0.1)
    before = metrics.calibration_error((5 * logits).softmax(1), targets)
    after = metrics.calibration_error((5 * logits / metrics.fit_temperature(5 * logits, targets)).softmax(1), targets)
    assert after < 0.03 < before


def test_temperature_is_the_best_one():
    optimize = pytest.importorskip("scipy.optimize")
    logits, targets = random_scores(scale=3.0)

    def loss(temperature):
        return torch.nn.functional.cross_entropy(logits.double() / temperature, targets).item()

    best = optimize.minimize_scalar(loss, bounds=(0.01, 100), method="bounded", options={"xatol": 1e-8}).x
    assert metrics.fit_temperature(logits, targets) == pytest.approx(best, rel=1e-4)


def test_temperature_at_its_ends():
    assert metrics.fit_temperature(torch.eye(3), torch.arange(3)) == pytest.approx(0.01)
    assert metrics.fit_temperature(-torch.eye(3), torch.arange(3)) == pytest.approx(100)


def test_bootstrap_of_a_mean():
    """Of n samples right with chance p, the mean varies by sqrt(p (1 - p) / n)."""
    right = (torch.arange(400) % 4 > 0).double()
    estimates = metrics.bootstrap(torch.mean, right)
    assert estimates.std().item() == pytest.approx(math.sqrt(0.75 * 0.25 / 400), rel=0.1)
    low, high = metrics.interval(estimates)
    assert low == pytest.approx(0.75 - 1.96 * math.sqrt(0.75 * 0.25 / 400), abs=0.005)
    assert high == pytest.approx(0.75 + 1.96 * math.sqrt(0.75 * 0.25 / 400), abs=0.005)
    assert estimates.equal(metrics.bootstrap(torch.mean, right))
    assert not estimates.equal(metrics.bootstrap(torch.mean, right, seed=1))


def test_bootstrap_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    values = torch.randn(200, generator=torch.Generator().manual_seed(0)).exp().double()
    found = metrics.interval(metrics.bootstrap(torch.median, values, rounds=3000), 0.9)
    other = stats.bootstrap(
        (values.numpy(),), lambda x, axis: torch.from_numpy(x).median(axis).values.numpy(), n_resamples=3000,
        confidence_level=0.9, method="percentile", rng=0,
    ).confidence_interval  # fmt: skip
    assert found == pytest.approx((other.low, other.high), rel=0.05)


@pytest.mark.parametrize("classes", [2, 4])
def test_bootstrap_of_the_auc_is_that_of_its_definition(classes):
    logits, targets = random_scores(samples=120, classes=classes)
    for scores in (logits, logits.round()):  # without and with equal ones
        expected = metrics.bootstrap(lambda s, t: metrics.roc_auc(s, t).nanmean(), scores, targets, rounds=60, seed=3)
        found = metrics.bootstrap_auc(scores, targets, rounds=60, seed=3)
        assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_bootstrap_of_the_precision_is_that_of_its_definition():
    logits, targets = random_scores(samples=120)
    labels = torch.nn.functional.one_hot(targets, 4) | torch.nn.functional.one_hot((targets + 1) % 4, 4)
    labels[:, 3] = torch.arange(120) < 2  # not in every resample
    for scores in (logits, logits.round()):
        expected = metrics.bootstrap(
            lambda s, t: metrics.average_precision(s, t).nanmean(), scores, labels, rounds=60, seed=3
        )
        found = metrics.bootstrap_precision(scores, labels, rounds=60, seed=3)
        assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_bootstrap_of_the_auc_of_a_rare_class():
    """In the resamples without it there is nothing to rank: nan, which the interval leaves out."""
    found = metrics.bootstrap_auc(torch.tensor([[0.1, 0.9], [0.6, 0.4], [0.7, 0.3]]), torch.tensor([1, 0, 0]))
    assert found.isnan().float().mean().item() == pytest.approx((2 / 3) ** 3 + (1 / 3) ** 3, abs=0.05)
    assert metrics.interval(found) == (1, 1)


def test_the_interval_of_a_share_is_honest_where_all_samples_are_alike():
    low, high = metrics.share_interval(torch.ones(64))
    assert (low, high) == (pytest.approx(0.9434, abs=1e-4), 1.0)  # 64 / (64 + 1.96^2)
    assert metrics.share_interval(torch.zeros(64)) == (0.0, pytest.approx(1 - low))
    mixed = torch.tensor([1.0, 0.0, 1.0, 1.0] * 20)
    assert metrics.share_interval(mixed) == metrics.interval(metrics.bootstrap(torch.mean, mixed.double()))


def test_interval_by_hand():
    estimates = torch.cat([torch.arange(101.0), torch.tensor([torch.nan])])
    assert metrics.interval(estimates, 0.9) == pytest.approx((5, 95))
    with pytest.raises(ValueError, match="level 95 must be above 0 and below 1"):
        metrics.interval(estimates, 95)
    with pytest.raises(ValueError, match=r"\[3, 4\] samples"):
        metrics.bootstrap(torch.mean, torch.ones(3), torch.ones(4))
    with pytest.raises(ValueError, match=r"\[0\] samples"):
        metrics.bootstrap(torch.mean, torch.ones(0))
    with pytest.raises(ValueError, match="rounds 0 must be at least 1"):
        metrics.bootstrap(torch.mean, torch.ones(3), rounds=0)


def test_framewise_adds_up_videos_of_several_batches():
    targets = torch.tensor([[0, 0, 1, 1, -1], [2, 2, 2, 2, 2]])
    found = torch.tensor([[0, 0, 1, 1, 2], [2, 2, 0, 2, 2]])
    scores = torch.nn.functional.one_hot(found, 3).movedim(2, 1).float()
    measure = metrics.framewise()
    for i in range(2):
        measure.update(scores[i : i + 1], targets[i : i + 1])
    figures = {name: value.item() for name, value in measure.compute().items()}
    # spans: two of two, then three for one, of which the first overlaps it by 2/5
    assert figures == pytest.approx(
        {"frame_accuracy": 8 / 9, "edit": (1 + 1 / 3) / 2, "f1_10": 6 / 8, "f1_25": 6 / 8, "f1_50": 4 / 8}
    )
    measure = metrics.framewise(background=[0])
    measure.update(scores, targets)
    assert measure.compute()["edit"].item() == pytest.approx((1 + 1 / 2) / 2)


def test_detection_adds_up_frames():
    box, other = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[9.0, 9, 12, 12]])
    measure = metrics.detection(2)
    measure.update(box, torch.tensor([[0.9, 0.1]]), box, torch.tensor([[1.0, 0]]))
    measure.update(torch.cat([box, other]), torch.tensor([[0.95, 0.2], [0.8, 0.3]]), other, torch.tensor([[1.0, 1]]))
    # class 0: wrong 0.95, right 0.9, right 0.8 of two; class 1: right 0.3 first of one
    found = measure.compute()
    assert found["average_precision"].tolist() == pytest.approx([2 / 3, 1])
    assert found["map"].item() == pytest.approx(5 / 6)
    listed = metrics.detection(2, classes=[0])
    listed.update(box, torch.tensor([[0.9, 0.1]]), box, torch.tensor([[1.0, 1]]))
    assert listed.compute()["map"] == 1 and listed.compute()["average_precision"][1].isnan()
    skipped = metrics.detection(2)
    skipped.update(box, torch.tensor([[0.9, 0.1]]), box, torch.tensor([[1.0, 0]]), torch.tensor([True]))
    skipped.update(other, torch.tensor([[0.5, 0.1]]), other, torch.tensor([[1.0, 0]]), torch.tensor([False]))
    assert skipped.compute()["map"] == 1


TWO_PROCESSES = """
import sys, torch
from tubelet import metrics

generator = torch.Generator().manual_seed(0)
scores, labels = torch.randn(21, 3, generator=generator), (torch.rand(21, 3, generator=generator) < 0.4).long()
frames, targets = torch.randn(5, 3, 9, generator=generator), torch.randint(0, 3, (5, 9), generator=generator)
boxes = torch.rand(7, 6, 4, generator=generator).sort(2).values
found = (boxes + 0.05 * torch.rand(7, 6, 4, generator=generator)).clamp(0, 1)
sure, truth = torch.rand(7, 6, 3, generator=generator), (torch.rand(7, 6, 3, generator=generator) < 0.4).long()

def measured(share):
    measures = [metrics.multilabel(3), metrics.framewise(), metrics.detection(3)]
    for i in share(range(21)):
        measures[0].update(scores[i : i + 1], labels[i : i + 1])
    for i in share(range(5)):
        measures[1].update(frames[i : i + 1], targets[i : i + 1])
    for i in share(range(7)):
        measures[2].update(found[i], sure[i], boxes[i], truth[i])
    return [measure.compute() for measure in measures]

whole, rank = measured(lambda items: items), int(sys.argv[2])
torch.distributed.init_process_group("gloo", f"file://{sys.argv[1]}", rank=rank, world_size=2)
for first in (1 / 3, 0):  # of the samples; the process with none of them has to gather as well
    def share(items):
        return items[: int(len(items) * first)] if rank else items[int(len(items) * first) :]

    for expected, values in zip(whole, measured(share), strict=True):
        for name, value in expected.items():
            assert torch.allclose(value, values[name], atol=1e-12), (name, value, values[name])
            assert 0 < value.nanmean() < 1, (name, value)
"""


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path):
    command = [sys.executable, "-c", TWO_PROCESSES, str(tmp_path / "meet")]
    running = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(2)]
    for process in running:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
