"""Timelines: window scores made smooth, and the segments of time in which something happens."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """A stretch of a video in which a class is seen.

    Attributes:
        start_s: seconds where it begins.
        end_s: seconds where it ends.
        label: name of the class.
        score: mean of its scores there.
        source: the video.
    """

    start_s: float
    end_s: float
    label: str
    score: float
    source: str = ""


def smooth(scores: Tensor, times: Tensor, seconds: float, *, median: bool = False) -> Tensor:
    """Each window's scores averaged with those of the windows whose middles are within half the `seconds` of its own.

    Args:
        scores: (N, K), in the order of time.
        times: (N, 2) seconds of each window.
        seconds: 0 changes nothing.
        median: take the median of each class (of an even number the mean of the two in the middle) instead of the mean.

    Raises:
        ValueError: seconds is not at least 0, scores and times are not as many, the times go back, or a score is nan or
            infinity.
    """
    if not seconds >= 0:
        raise ValueError(f"seconds {seconds} must be at least 0")
    if len(scores) != len(times):
        raise ValueError(f"{len(scores)} scores for {len(times)} times: give one for each window")
    middles = _middles(times)
    check(scores, times)
    near = seconds / 2 + 1e-9
    firsts = torch.searchsorted(middles, middles - near).tolist()
    ends = torch.searchsorted(middles, middles + near, right=True).tolist()
    if median:
        return torch.stack([scores[i:j].double().quantile(0.5, 0) for i, j in zip(firsts, ends, strict=True)]).to(
            scores
        )
    sums = torch.nn.functional.pad(scores.double().cumsum(0), (0, 0, 1, 0))
    counts = torch.tensor([j - i for i, j in zip(firsts, ends, strict=True)])
    return ((sums[ends] - sums[firsts]) / counts[:, None]).to(scores)


def _middles(times: Tensor) -> Tensor:
    if times.ndim != 2 or times.shape[1] != 2:
        raise ValueError(f"times {tuple(times.shape)}; give (N, 2), the seconds from and to of each window")
    middles = times.double().mean(1)
    if not middles.isfinite().all() or (middles.diff() < 0).any():
        raise ValueError("the times of the windows go back or are nan: give them and their scores in the order of time")
    return middles


def check(scores: Tensor, times: Tensor) -> None:
    """Refuse scores (N, K) of windows at times (N, 2), in seconds, with which nothing can be compared.

    Raises:
        ValueError: one is nan or infinity; the message names its window.
    """
    bad = (~scores.isfinite()).any(1).nonzero().flatten()
    if len(bad):
        start, end = times[bad[0]].tolist()
        raise ValueError(f"scores from {start:.2f} to {end:.2f} s are nan or infinity: leave that window out")


def owned(times: Tensor) -> Tensor:
    """What each window stands for where they overlap: (N, 2) seconds -> the same, cut half-way between the middles."""
    middles = _middles(times)
    cuts = (middles[1:] + middles[:-1]) / 2
    starts, ends = times[:, 0].double().clone(), times[:, 1].double().clone()
    starts[1:] = torch.where(starts[1:] < ends[:-1], cuts, starts[1:])
    ends[:-1] = torch.where(times[1:, 0] < times[:-1, 1], cuts, ends[:-1])
    return torch.stack([starts, ends], 1)


def segments(
    scores: Tensor,
    times: Tensor,
    classes: Sequence[str],
    *,
    enter: float = 0.5,
    leave: float | None = None,
    shortest_s: float = 0.0,
    source: str = "",
) -> list[Segment]:
    """Stretches in which the score of a class reaches `enter` and then does not fall below `leave` (hysteresis).

    Classes may overlap. A window stands for the time up to half-way to the middle of its neighbours.

    Args:
        scores: (N, K), in the order of time.
        times: (N, 2) seconds of each window.
        classes: K names.
        enter: score at which a segment begins, in 0 to 1.
        leave: score below which it ends; None is `enter`.
        shortest_s: shorter ones are left out.
        source: the video.

    Returns:
        In the order of their starts.

    Raises:
        ValueError: `leave` is above `enter`, the sizes do not fit, the times go back, or a score is nan or infinity.
    """
    leave = enter if leave is None else leave
    if not 0 <= leave <= enter <= 1:
        raise ValueError(f"leave {leave} and enter {enter}: there must be 0 <= leave <= enter <= 1")
    if not shortest_s >= 0:
        raise ValueError(f"shortest_s {shortest_s} must be at least 0")
    if scores.shape != (len(times), len(classes)):
        raise ValueError(f"scores {tuple(scores.shape)} for {len(times)} times and {len(classes)} classes")
    spans = owned(times).tolist()
    check(scores, times)
    found = []
    for place in (scores >= enter).any(0).nonzero().flatten().tolist():
        column = scores[:, place].tolist()
        start = None
        for i, score in enumerate([*column, -1.0]):
            # a gap between two windows ends it as well
            has_gap = start is not None and i < len(spans) and spans[i][0] > spans[i - 1][1] + 1e-6
            if start is not None and (score < leave or has_gap):
                mean = sum(column[start:i]) / (i - start)
                found.append(Segment(spans[start][0], spans[i - 1][1], classes[place], mean, source))
                start = None
            if start is None and score >= enter:
                start = i
    return sorted(
        (each for each in found if each.end_s - each.start_s >= shortest_s), key=lambda each: (each.start_s, each.end_s)
    )


def write(segments: Sequence[Segment], path: str | os.PathLike) -> Path:
    """Write segments as the file's ending says: .csv, .json, or .srt (subtitles, which players show with a video).

    Raises:
        ValueError: another ending; or .srt for segments of several videos.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise ValueError(f"{path}: ends in {path.suffix!r}; segments are written to {', '.join(FORMATS)}")
    sources = {each.source for each in segments}
    if ending == ".srt" and len(sources) > 1:
        raise ValueError(f"{path}: subtitles are of one video, and these segments are of {len(sources)}")
    path.write_text(FORMATS[ending](segments), encoding="utf-8", errors="surrogateescape")
    return path


def _csv(segments: Sequence[Segment]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", "start_s", "end_s", "class", "score"])
    for each in segments:
        writer.writerow([each.source, f"{each.start_s:.3f}", f"{each.end_s:.3f}", each.label, f"{each.score:.6g}"])
    return text.getvalue()


def _json(segments: Sequence[Segment]) -> str:
    rows = [{("class" if key == "label" else key): value for key, value in asdict(each).items()} for each in segments]
    return json.dumps({"segments": rows}, indent=1) + "\n"


def _srt(segments: Sequence[Segment]) -> str:
    lines = (f"{' '.join(each.label.split())} {100 * each.score:.0f} %" for each in segments)  # a blank line ends one
    return "".join(
        f"{i}\n{_stamp(each.start_s)} --> {_stamp(each.end_s)}\n{line}\n\n"
        for i, (each, line) in enumerate(zip(segments, lines, strict=True), 1)
    )


def _stamp(seconds: float) -> str:
    ms = round(1000 * seconds)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02},{ms % 1000:03}"


FORMATS: dict[str, Callable[[Sequence[Segment]], str]] = {".csv": _csv, ".json": _json, ".srt": _srt}
