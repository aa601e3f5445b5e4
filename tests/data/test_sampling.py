from itertools import pairwise

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from tubelet import ClipSpec
from tubelet.data import sampling

totals = st.integers(1, 500)
counts = st.integers(1, 40)
steps = st.one_of(st.integers(1, 8), st.floats(0.1, 8))


def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("fps", "video_fps", "expected"), [(None, 25.0, 2), (15.0, 30.0, 4.0), (30.0, 15.0, 1.0), (25.0, 30.0, 2.4)]
)
def test_step_counts_source_frames(fps, video_fps, expected):
    assert sampling.step(ClipSpec(frame_stride=2, fps=fps), video_fps) == pytest.approx(expected)


def test_clip_and_span_of_a_known_case():
    assert sampling.clip(10, 5, 2) == [10, 12, 14, 16, 18]
    assert sampling.clip(10, 5, 1.5) == [10, 11, 13, 14, 16]
    assert sampling.clip(10, 4, 0.5) == [10, 10, 11, 11]
    assert sampling.span(5, 2) == 9
    assert sampling.span(5, 1.5) == 7


@given(st.integers(0, 500), counts, steps)
def test_a_clip_covers_its_span(start, num_frames, step):
    clip = sampling.clip(start, num_frames, step)
    assert len(clip) == num_frames
    assert clip[0] == start
    assert clip[-1] - clip[0] + 1 == sampling.span(num_frames, step)
    assert all(0 <= index - start - i * step + 1 <= 1 + 1e-6 for i, index in enumerate(clip))


@given(totals, counts, steps, st.integers(0, 99))
def test_random_clips_lie_in_the_video(total, num_frames, step, seed):
    span = sampling.span(num_frames, step)
    start = sampling.random_start(total, span, generator(seed))
    assert 0 <= start <= max(0, total - span)
    if span <= total:
        assert sampling.clip(start, num_frames, step)[-1] < total


def test_random_starts_reach_every_place():
    draw = generator(0)
    assert {sampling.random_start(10, 7, draw) for _ in range(200)} == {0, 1, 2, 3}


@given(totals, st.integers(1, 500), st.integers(1, 20))
def test_views_are_evenly_spread_and_symmetric(total, span, num_views):
    slack = max(0, total - span)
    starts = sampling.view_starts(total, span, num_views)
    assert len(starts) == num_views
    assert all(abs(a + b - slack) <= 1 for a, b in zip(starts, reversed(starts), strict=True))
    gaps = [b - a for a, b in pairwise(starts)]
    if num_views > 1:
        assert (starts[0], starts[-1]) == (0, slack)
        assert max(gaps) - min(gaps) <= 1


@given(totals, st.integers(1, 500), st.integers(1, 60))
def test_windows_cover_every_frame(total, span, stride):
    starts = sampling.window_starts(total, span, stride)
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    assert starts[-1] == max(0, total - span)
    assert all(b - a <= stride for a, b in pairwise(starts))
    if stride <= span <= total:
        assert {start + i for start in starts for i in range(span)} == set(range(total))


def test_a_clip_as_long_as_the_video():
    assert [sampling.count(total, 1) for total in (1, 7)] == [1, 7]
    assert [sampling.count(total, 2) for total in (1, 2, 3, 8)] == [1, 1, 2, 4]
    assert sampling.clip(0, sampling.count(10, 2.5), 2.5) == [0, 2, 5, 7]
    assert sampling.count(31, 0.5) == 61


@given(totals, counts, st.integers(0, 99))
def test_segments_take_one_frame_of_each_part(total, num_segments, seed):
    middle, random = sampling.segments(total, num_segments), sampling.segments(total, num_segments, generator(seed))
    assert middle == sampling.uniform(total, num_segments)
    for i, index in enumerate(middle):
        assert 0 <= index * 2 * num_segments - (2 * i + 1) * total + 2 * num_segments - 1 < 2 * num_segments
    for i, index in enumerate(random):
        low, high = i * total // num_segments, (i + 1) * total // num_segments
        assert low <= index < max(high, low + 1)
        assert index < total


def test_random_segments_reach_every_frame():
    draw = generator(0)
    assert {index for _ in range(200) for index in sampling.segments(10, 3, draw)} == set(range(10))


@given(totals, counts, steps)
def test_fit_brings_every_index_into_the_video(total, num_frames, step):
    clip = sampling.clip(0, num_frames, step)
    inside = [index for index in clip if index < total]
    assert sampling.fit(inside, total) == inside
    loop, hold = sampling.fit(clip, total, "loop"), sampling.fit(clip, total, "hold")
    for index, looped, held in zip(clip, loop, hold, strict=True):
        assert 0 <= looped < total
        assert (index - looped) % total == 0
        assert held == min(index, total - 1)


def test_a_short_video_is_an_error_with_both_numbers_and_the_ways_out():
    with pytest.raises(ValueError, match=r"7 frames, .* over 16: .*num_frames.*frame_stride.*loop.*hold"):
        sampling.fit(list(range(16)), 7)
    with pytest.raises(ValueError, match=r"^1 frame, .* in training, or say"):
        sampling.fit([0, 1], 1)
    for short in ("error", "loop", "hold"):
        with pytest.raises(ValueError, match="0 frames has no clip"):
            sampling.fit([0], 0, short)


@pytest.mark.parametrize("fps", [24, 25, 30, 50, 60])
def test_a_rate_read_from_a_file_may_fall_short_of_the_true_one(fps):
    for num_frames in range(2, 500):
        duration = torch.tensor((num_frames - 1) / fps, dtype=torch.float64).item() + 1 / fps
        step = sampling.step(ClipSpec(fps=fps), num_frames / duration)
        assert sampling.clip(5, 16, step) == list(range(5, 21))
        assert sampling.span(16, step) == 16


@given(total=totals, num_frames=counts, step=steps, short=st.sampled_from(["loop", "hold"]))
@example(total=181, num_frames=29, step=6.4375, short="loop")  # frame 180.25 is shown by the last one
def test_clips_that_follow_one_another_have_each_frame_once(total, num_frames, step, short):
    clips = sampling.consecutive(total, num_frames, step, short)
    assert all(len(indices) == num_frames for indices, _ in clips)
    once = [index for indices, fresh in clips for index in indices[fresh]]
    assert once == sampling.clip(0, sampling.count(total, step), step)
    if sampling.clip(0, num_frames, step)[-1] >= total:
        with pytest.raises(ValueError, match=f"{total} frame{'s' * (total != 1)}, and a clip reaches over"):
            sampling.consecutive(total, num_frames, step)
