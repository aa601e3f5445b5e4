"""Edit score and F1 of spans: worked by hand, and against what the published script gives for the same labels."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet import frames, measure
from tubelet.data.sample import Span

# Truth and answer of three videos, `.` is background, and what eval.py of MS-TCN gives for them (last frames included).
VIDEOS = (
    ("CCCCCCCCCC..........BBBBBBBCCCCDDAAAAABBBBBB....", "CCACDCC.B....BBBBBBBCCCCDDAAAADBBBBB............"),
    ("...................CCCCAAAAAAAAAAAAAAAAA", ".....B...B...CCCCAAACAAAAAAAAAAAAAAAAAAA"),
    (
        "..........CCCCCCCCCC.....CCCCCCCCCCCCCCCCDDDDDDDDDDDAAAA",
        ".......CCCCCCCCCC.....CCCCCCCCCBCCC.DDDDDDDDDDAAAAAAAAAA",
    ),
)
PUBLISHED = {
    (): {"frame_accuracy": 52.083333, "edit": 51.111111, "f1_10": 48.0, "f1_25": 44.0, "f1_50": 12.0},
    (0,): {"frame_accuracy": 52.083333, "edit": 50.0, "f1_10": 38.888889, "f1_25": 33.333333, "f1_50": 11.111111},
}


def indices(text):
    return torch.tensor([".ABCD?".index(letter) if letter != "?" else -1 for letter in text])


@pytest.mark.parametrize("background", PUBLISHED)
def test_the_published_script_agrees(background):
    total = sum(frames.counts(indices(found), indices(truth), background) for truth, found in VIDEOS)
    found = {name: 100 * value.item() for name, value in frames.figures(total).items()}
    assert found == pytest.approx(PUBLISHED[background], abs=1e-5)


def test_spans():
    assert frames.spans(indices("AA.BBB")) == [Span(0, 2, 1), Span(2, 3, 0), Span(3, 6, 2)]
    assert frames.spans(indices("AA.BBB"), background=[0]) == [Span(0, 2, 1), Span(3, 6, 2)]
    assert frames.spans(indices("AA.AA"), background=[0]) == [Span(0, 2, 1), Span(3, 5, 1)]
    assert frames.spans(torch.tensor([], dtype=torch.long)) == []


@pytest.mark.parametrize(
    ("found", "truth", "score"),
    [
        ("AABBCC", "ABBBBC", 1),  # the same order, other lengths
        ("AABBCC", "AACCBB", 1 - 2 / 3),
        ("ABAB", "AABB", 1 - 2 / 4),  # two splinters too many
        ("AAAA", "ABCD", 1 - 3 / 4),
        ("AA", "BB", 0),
    ],
)
def test_edit_score_by_hand(found, truth, score):
    assert frames.edit_score(frames.spans(indices(found)), frames.spans(indices(truth))) == pytest.approx(score)


def test_edit_score_of_nothing():
    assert frames.edit_score([], []) == 1
    assert frames.edit_score([], [Span(0, 3, 1)]) == 0


def test_matches_by_hand():
    truth = [Span(0, 10, 1), Span(10, 20, 2)]
    assert frames.num_matched([Span(0, 5, 1)], truth, 0.5) == 1  # exactly half
    assert frames.num_matched([Span(0, 4, 1)], truth, 0.5) == 0
    assert frames.num_matched([Span(0, 10, 2)], truth, 0.1) == 0  # its time, another class
    assert frames.num_matched([Span(0, 4, 1), Span(5, 9, 1)], truth, 0.25) == 1  # the second is one too many
    assert frames.num_matched([], truth, 0.1) == frames.num_matched(truth, [], 0.1) == 0


def test_f1_by_hand():
    """AABB against AAAB: A has 2/3, B 1/2; both found at 50 %. AABBA against AAAAA: A has 2/5, two false positives."""
    total = frames.counts(indices("AABB"), indices("AAAB"))
    assert frames.figures(total)["f1_50"] == 1
    total = total + frames.counts(indices("AABBA"), indices("AAAAA"))
    figures = frames.figures(total)
    assert figures["f1_50"] == pytest.approx(2 * 2 / (2 + 2 + 3 + 1))
    assert figures["f1_25"] == pytest.approx(2 * 3 / (2 + 2 + 3 + 1))
    assert figures["frame_accuracy"] == pytest.approx((3 + 3) / 9)
    assert figures["edit"] == pytest.approx((1 + 1 / 3) / 2)


def test_frames_without_a_label_are_cut_out():
    cut = frames.counts(indices("AABCBB"), indices("AA??BB"))
    assert cut.equal(frames.counts(indices("AABB"), indices("AABB")))
    nothing = frames.figures(frames.counts(indices("AB"), indices("??")))
    assert nothing["frame_accuracy"] == 0 and nothing["f1_10"] == 0
    with pytest.raises(ValueError, match=r"labels \(2,\) for targets \(3,\)"):
        frames.counts(indices("AB"), indices("ABC"))


LABELS = st.lists(st.integers(0, 3), min_size=1, max_size=30)


@settings(deadline=None)
@given(LABELS, st.data())
def test_what_always_holds(truth, data):
    found = data.draw(st.lists(st.integers(0, 3), min_size=len(truth), max_size=len(truth)))
    a, b = torch.tensor(truth), torch.tensor(found)
    assert all(value == 1 for value in frames.figures(frames.counts(a, a)).values())
    forth, back = frames.figures(frames.counts(b, a)), frames.figures(frames.counts(a, b))
    assert forth["edit"] == back["edit"]
    assert 1 >= forth["f1_10"] >= forth["f1_25"] >= forth["f1_50"] >= 0
    spans = frames.spans(a)
    assert [label for start, end, label in spans for _ in range(start, end)] == truth


def test_a_video_without_a_label_is_none():
    labels = torch.tensor([0, 1, 1])
    total = frames.counts(labels, labels) + frames.counts(labels, torch.full((3,), -1))
    assert total.equal(frames.counts(labels, labels))


def test_intervals_are_those_of_videos_drawn_again():
    """Of two videos, one right and one wrong, a draw has both, or one of them twice."""
    right, wrong = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 0])
    found = measure._intervals(torch.stack([frames.counts(right, right), frames.counts(wrong, right)]))
    assert (found["frame_accuracy_low"], found["frame_accuracy_high"]) == (0, 1)
    same = measure._intervals(torch.stack([frames.counts(right, right)] * 2))
    assert set(same.values()) == {1.0}
    assert all(math.isnan(end) for end in measure._intervals(frames.counts(wrong, right)[None]).values())
