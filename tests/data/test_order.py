"""Orders of an epoch: permutations, shared by processes, balanced by class."""

from collections import Counter

import pytest

from tubelet.data.order import EpochOrder


@pytest.mark.parametrize("num_samples", [0, 1, 2, 50])
def test_an_epoch_is_a_permutation_with_its_number(num_samples):
    keys = EpochOrder(num_samples, 3).keys(4)
    assert sorted(keys) == [(4, index, 0) for index in range(num_samples)]
    assert len(EpochOrder(num_samples, 0)) == num_samples


def test_the_order_depends_on_seed_and_epoch_alone():
    one = EpochOrder(50, 0).keys(0)
    assert one == EpochOrder(50, 0).keys(0)
    assert [index for _, index, _ in one] != list(range(50))
    orders = {tuple(i for _, i, _ in EpochOrder(50, seed).keys(epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_clips_of_one_video_follow_one_another():
    order = EpochOrder(5, 0, clips_per_video=3)
    keys = order.keys(2)
    assert len(keys) == len(order) == 15
    assert [draw for _, _, draw in keys] == [0, 1, 2] * 5
    assert [index for _, index, _ in keys[::3]] == [index for _, index, _ in EpochOrder(5, 0).keys(2)]


def test_each_class_is_as_likely():
    classes = [0] * 80 + [1] * 15 + [2] * 4 + [7]
    order = EpochOrder(100, 0, classes=classes, clips_per_video=2)
    seen, extra = Counter(), Counter()
    for epoch in range(40):
        keys = order.keys(epoch)
        assert len(keys) == len(set(keys)) == len(order) == 200
        counts = Counter(classes[index] for _, index, _ in keys)
        assert set(counts.values()) == {50}
        draws = Counter(index for _, index, _ in keys)
        assert max(draws[i] for i in range(80)) == 2
        assert {draws[i] for i in range(95, 99)} <= {12, 14}
        seen.update(draws.keys())
    assert set(seen) == set(range(100))
    for epoch in range(300):  # of a number that three classes cannot share
        counts = Counter(i % 3 for _, i, _ in EpochOrder(10, 0, classes=[i % 3 for i in range(10)]).keys(epoch))
        extra.update(name for name, count in counts.items() if count == 4)
        assert sorted(counts.values()) == [3, 3, 4]
    assert min(extra.values()) > 60


@pytest.mark.parametrize("options", [{}, {"classes": [i % 5 // 3 for i in range(23)]}, {"clips_per_video": 2}])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_share_an_epoch(world, options):
    ranks = [EpochOrder(23, 1, rank=rank, world=world, **options) for rank in range(world)]
    left_out = set()
    for epoch in range(12):
        parts = [order.keys(epoch) for order in ranks]
        assert {len(part) for part in parts} == {len(ranks[0])}
        union = [key for part in parts for key in part]
        whole = EpochOrder(23, 1, **options).keys(epoch)
        assert len(set(union)) == len(union) and set(union) <= set(whole)
        assert len(whole) - len(union) == 23 % world * options.get("clips_per_video", 1)
        left_out |= {index for _, index, _ in set(whole) - set(union)}
    assert world == 1 or len(left_out) > 5, "the same samples are left out every epoch"


def test_orders_that_cannot_be():
    with pytest.raises(ValueError, match="clips_per_video 0"):
        EpochOrder(3, 0, clips_per_video=0)
    with pytest.raises(ValueError, match="2 classes for 3 samples"):
        EpochOrder(3, 0, classes=[0, 1])
    with pytest.raises(ValueError, match=r"rank 2 must lie in 0\.\.1, world is 2"):
        EpochOrder(3, 0, rank=2, world=2)
    with pytest.raises(ValueError, match="3 samples for 4 processes"):
        EpochOrder(3, 0, world=4)
