"""Distances between fingerprints; tests/test_doctor.py has real videos."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.data.fingerprint import NUM_FRAMES, SIZE, fingerprint, nearest, spread
from tubelet.data.motion import draw
from tubelet.data.transforms import resize


def print_of(clip):
    return fingerprint(resize(clip[:, spread(clip.shape[1])], (SIZE, SIZE)))


def scene(seed):
    return draw(["left", "growing"], 30, torch.Generator().manual_seed(seed))


def distance(one, other):
    ((least, _),) = nearest(torch.stack([one, other]))
    return least[0].item()


@given(st.integers(1, 5000))
def test_the_frames_are_spread_from_the_first_to_the_last(num_frames):
    indices = spread(num_frames)
    assert len(indices) == NUM_FRAMES and indices == sorted(indices)
    assert indices[0] == 0 and indices[-1] == num_frames - 1


def test_what_leaves_the_picture_as_it_is_leaves_the_fingerprint():
    clip = scene(0)
    own = print_of(clip)
    assert distance(own, own) == 0
    brighter = (clip.float() + 9).clamp(max=255).to(torch.uint8)
    for same in (resize(clip, (40, 90)), clip[:, 2:], clip[:, 1:-2], clip[:, ::2], brighter):
        assert distance(own, print_of(same)) < 0.15
    for other in (scene(1), clip.flip(1), clip.flip(-1), clip[:, :30]):
        assert distance(own, print_of(other)) > 0.4


def test_the_distance_counts_the_change_over_time():
    """Two takes of one scene, whose change is unrelated, are about 1 apart, however small the change."""
    ground = torch.randint(50, 200, (1, 1, SIZE // 8, SIZE // 8)).repeat_interleave(8, 2).repeat_interleave(8, 3)
    for size in (8, 40):
        takes = [
            (ground + size * torch.randn(1, NUM_FRAMES, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3))
            .clamp(0, 255).to(torch.uint8).expand(3, -1, -1, -1)
            for _ in range(2)
        ]  # fmt: skip
        assert 0.5 < distance(*map(fingerprint, takes)) < 1.6


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 40), st.integers(1, 30), st.integers(0, 10**6))
def test_the_nearest_is_the_nearest(num, others, seed):
    generator = torch.Generator().manual_seed(seed)
    prints, among = (torch.randn(n, 576, generator=generator) for n in (num, others))

    def plain(one, other):
        return ((one - other).square().sum() / (one[64:].square().sum() + other[64:].square().sum() + 1)).item()

    ((least, index),) = nearest(prints, among)
    table = [[plain(one, other) for other in among] for one in prints]
    assert least.tolist() == pytest.approx([min(row) for row in table], rel=1e-4)
    assert [row[i] for row, i in zip(table, index.tolist(), strict=True)] == pytest.approx([min(row) for row in table])
    ((least, index),) = nearest(prints)
    assert least[-1] == torch.inf
    for i in range(num - 1):
        following = [plain(prints[i], other) for other in prints[i + 1 :]]
        assert least[i].item() == pytest.approx(min(following), rel=1e-4)
        assert plain(prints[i], prints[index[i]]) == pytest.approx(min(following))


def test_blocks_follow_one_another():
    prints = torch.randn(2500, 576)
    prints[2400] = prints[1100]
    found = [(least, index) for least, index in nearest(prints)]
    assert [len(least) for least, _ in found] == [1024, 1024, 452]
    assert found[1][1][1100 - 1024] == 2400 and found[1][0][1100 - 1024] < 1e-3
