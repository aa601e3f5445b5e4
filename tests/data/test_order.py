"""Orders of an epoch: permutations, balanced by class, dealt to steps and processes."""

from collections import Counter, defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.data.order import EpochOrder, Part, deal


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


def test_classes_may_be_a_tensor_or_an_array():
    classes = torch.tensor([0] * 9 + [1])
    keys = [EpochOrder(10, 0, classes=each).keys(0) for each in (classes, classes.numpy(), classes.tolist())]
    assert keys[0] == keys[1] == keys[2]
    assert Counter(index for _, index, _ in keys[0])[9] == 5


def test_orders_that_cannot_be():
    with pytest.raises(ValueError, match="clips_per_video 0"):
        EpochOrder(3, 0, clips_per_video=0)
    with pytest.raises(ValueError, match="2 classes for 3 samples"):
        EpochOrder(3, 0, classes=[0, 1])


def test_a_small_example():
    assert deal(7, 4, accumulate=2) == [
        Part(0, 2, 0.5, 0, False),
        Part(2, 4, 0.5, 1, True),
        Part(4, 5, 1 / 3, 2, False),
        Part(5, 7, 2 / 3, 3, True),
    ]


@settings(deadline=None)
@given(
    num_clips=st.integers(1, 60),
    world=st.integers(1, 4),
    accumulate=st.integers(1, 4),
    more=st.integers(0, 20),
)
def test_processes_compute_what_one_does(num_clips, world, accumulate, more):
    batch_size = world * accumulate + more
    if num_clips < world:
        with pytest.raises(ValueError, match="each needs one"):
            deal(num_clips, batch_size, world=world)
        return
    dealt = [deal(num_clips, batch_size, accumulate=accumulate, rank=rank, world=world) for rank in range(world)]
    assert len({len(parts) for parts in dealt}) == 1
    assert len({tuple(part.is_last for part in parts) for parts in dealt}) == 1
    alone = deal(num_clips, batch_size, accumulate=accumulate * world)
    together = sorted((part for parts in dealt for part in parts), key=lambda part: part.number)
    whole = num_clips // batch_size * world * accumulate
    assert [part[:4] for part in together[:whole]] == [part[:4] for part in alone[:whole]]
    clips = [clip for part in together for clip in range(part.start, part.stop)]
    left = num_clips - len(clips)
    assert clips == list(range(len(clips))) and (left < world or left < batch_size)
    shares = defaultdict(float)
    for part in together:
        shares[part.number // (world * accumulate)] += part.share
        assert part.stop > part.start
    assert all(share == pytest.approx(1) for share in shares.values())


def test_too_few_clips_are_an_error():
    with pytest.raises(ValueError, match="batch_size 3 is less than 2 processes x 2 parts"):
        deal(10, 3, accumulate=2, world=2)
