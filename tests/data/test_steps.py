"""Steps: whoever computes them, each has the same clips in the same parts."""

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.data.steps import Part, deal


def test_a_small_example():
    assert deal(7, 4, accumulate=2) == [
        Part(0, 2, 0.5, 0, False),
        Part(2, 4, 0.5, 1, True),
        Part(4, 5, 1 / 3, 2, False),
        Part(5, 7, 2 / 3, 3, True),
    ]


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
