"""Timelines, with answers worked by hand."""

import csv
import json
import math

import pytest
import torch

from tubelet.timeline import Segment, owned, segments, smooth, write

# windows of 2 s, one each second: middles at 1, 2, 3, 4, 5 s
TIMES = torch.tensor([[0.0, 2], [1, 3], [2, 4], [3, 5], [4, 6]])


def column(*values):
    return torch.tensor(values)[:, None]


def test_a_moving_average_over_seconds():
    scores = column(0.0, 0.0, 0.9, 0.0, 0.3)
    assert smooth(scores, TIMES, 2.0).flatten().tolist() == pytest.approx([0, 0.3, 0.3, 0.4, 0.15])
    assert smooth(scores, TIMES, 1.9).equal(scores) and smooth(scores, TIMES, 0).equal(scores)
    # a gap in time is no neighbour
    apart = TIMES.clone()
    apart[2:] += 10
    assert smooth(scores, apart, 2.0).flatten().tolist() == pytest.approx([0, 0, 0.45, 0.4, 0.15])


def test_a_median_takes_out_one_odd_window():
    scores = column(0.1, 0.2, 0.9, 0.2, 0.4)
    assert smooth(scores, TIMES, 2.0, median=True).flatten().tolist() == pytest.approx([0.15, 0.2, 0.2, 0.4, 0.3])


def test_what_windows_stand_for():
    assert owned(TIMES).tolist() == [[0, 1.5], [1.5, 2.5], [2.5, 3.5], [3.5, 4.5], [4.5, 6]]
    apart = torch.tensor([[0.0, 1], [3, 4]])
    assert owned(apart).equal(apart.double())


def test_segments_have_two_thresholds():
    scores = torch.tensor([[0.1, 0.9], [0.7, 0.6], [0.5, 0.1], [0.3, 0.4], [0.2, 0.7]])
    found = segments(scores, TIMES, ["a", "b"], enter=0.6, leave=0.4, source="v")
    assert [(each.label, each.start_s, each.end_s) for each in found] == [
        ("b", 0, 2.5),
        ("a", 1.5, 3.5),
        ("b", 4.5, 6),
    ]
    assert [each.score for each in found] == pytest.approx([0.75, 0.6, 0.7])
    assert {each.source for each in found} == {"v"}
    assert [each.label for each in segments(scores, TIMES, ["a", "b"], enter=0.6, leave=0.4, shortest_s=2)] == [
        "b",
        "a",
    ]
    assert segments(scores, TIMES, ["a", "b"], enter=0.95) == []


def test_a_gap_in_time_ends_a_segment():
    found = segments(column(0.9, 0.9), torch.tensor([[0.0, 1], [3, 4]]), ["a"])
    assert [(each.start_s, each.end_s) for each in found] == [(0, 1), (3, 4)]


FOUND = [Segment(0, 2.5, "clean, jerk", 0.75, "v.mp4"), Segment(3723.0416, 3725, "b", 0.6, "v.mp4")]


def test_subtitles(tmp_path):
    assert write(FOUND, tmp_path / "v.srt").read_text() == (
        "1\n00:00:00,000 --> 00:00:02,500\nclean, jerk 75 %\n\n2\n01:02:03,042 --> 01:02:05,000\nb 60 %\n\n"
    )
    assert write(FOUND, tmp_path / "v.SRT").read_text() == (tmp_path / "v.srt").read_text()
    assert "\na b 60 %\n" in write([Segment(0, 1, "a\n\nb", 0.6)], tmp_path / "v.srt").read_text()
    with pytest.raises(ValueError, match="of one video, and these segments are of 2"):
        write([*FOUND, Segment(0, 1, "b", 1, "w.mp4")], tmp_path / "v.srt")


def test_tables(tmp_path):
    with write(FOUND, tmp_path / "v.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {"source": "v.mp4", "start_s": "0.000", "end_s": "2.500", "class": "clean, jerk", "score": "0.75"}
    told = json.loads(write(FOUND, tmp_path / "v.json").read_text())["segments"]
    assert told[1] == {"start_s": 3723.0416, "end_s": 3725, "class": "b", "score": 0.6, "source": "v.mp4"}
    with pytest.raises(ValueError, match=r"ends in '.txt'; segments are written to .csv, .json, .srt"):
        write(FOUND, tmp_path / "v.txt")


def test_a_name_that_is_not_utf8_is_written_as_it_is_on_disk(tmp_path):
    found = [Segment(0, 1, "a", 0.5, "\udcff.mp4")]
    assert b"\n\xff.mp4,0.000" in write(found, tmp_path / "v.csv").read_bytes()
    told = json.loads(write(found, tmp_path / "v.json").read_text(encoding="utf-8"))
    assert told["segments"][0]["source"] == "\udcff.mp4"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: smooth(column(1.0), TIMES[:1], -1), "seconds -1 must be"),
        (lambda: smooth(column(1.0), TIMES[:1], math.nan), "seconds nan must be"),
        (lambda: smooth(column(1.0), TIMES, 1), "1 scores for 5 times"),
        (lambda: segments(column(1.0), TIMES[:1], ["a"], enter=0.4, leave=0.5), "leave 0.5 and enter 0.4"),
        (lambda: segments(column(1.0), TIMES[:1], ["a", "b"]), r"scores \(1, 1\) for 1 times and 2 classes"),
        (lambda: segments(column(1.0), TIMES[:1], ["a"], shortest_s=-1), "shortest_s -1"),
        (lambda: segments(column(1.0), TIMES[:1], ["a"], shortest_s=math.nan), "shortest_s nan"),
        (lambda: segments(column(1.0, 1.0), TIMES[:2].flip(0), ["a"]), "in the order of time"),
        (lambda: smooth(column(1.0, 1.0), TIMES[:2].flip(0), 1), "in the order of time"),
        (lambda: smooth(column(1.0), torch.tensor([[0, math.nan]]), 1), "or are nan"),
        (lambda: segments(column(1.0, 1.0), torch.tensor([0.0, 1]), ["a"]), r"^times \(2,\); give \(N, 2\)"),
        (lambda: smooth(column(1.0, math.nan, 1.0), TIMES[:3], 1), r"^scores from 1\.00 to 3\.00 s are nan or inf"),
        (lambda: segments(column(0.9, 0.9, math.nan), TIMES[:3], ["a"]), r"^scores from 2\.00 to 4\.00 s are nan or"),
    ],
)
def test_out_of_range(call, says):
    with pytest.raises(ValueError, match=says):
        call()
