"""Fair timing: the cases in turn, round after round, in one process on one thread; ratios of medians."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from tubelet import Table

T = TypeVar("T")


def in_turn(cases: Mapping[str, Callable[[T], object]], inputs: Sequence[T], rounds: int) -> dict[str, list[float]]:
    """Processor milliseconds an input, round by round, of each case; the cases take turns at every input."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        spent = dict.fromkeys(cases, 0.0)
        for each in inputs:
            for name, case in cases.items():
                start = time.process_time()
                case(each)
                spent[name] += 1000 * (time.process_time() - start)
        if number:  # the first round warms up
            for name in cases:
                times[name].append(spent[name] / len(inputs))
    return times


def alternate(cases: Mapping[str, Callable[[], object]], title: str, rounds: int = 7) -> Table:
    """Processor milliseconds of each case, median and range, and how many times the last case's the median is."""
    times = in_turn({name: lambda _, case=case: case() for name, case in cases.items()}, [None], rounds)
    ours = statistics.median(times[list(cases)[-1]])
    rows = [
        {
            "case": name,
            "median ms": round(statistics.median(each), 2),
            "least": round(min(each), 2),
            "most": round(max(each), 2),
            "times the last": round(statistics.median(each) / ours, 2),
        }
        for name, each in times.items()
    ]
    return Table(rows, title=title)
