"""Fair timing: the cases in turn, round after round, in one process on one thread; ratios of medians."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from tubelet import Table

T = TypeVar("T")


def in_turn(
    cases: Mapping[str, Callable[[T], object]],
    inputs: Sequence[T],
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Milliseconds an input, of the processor, round by round, of each case; the cases take turns at every input."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        spent = dict.fromkeys(cases, 0.0)
        for each in inputs:
            for name, case in cases.items():
                start = clock()
                case(each)
                spent[name] += 1000 * (clock() - start)
        if number:  # the first round warms up
            for name in cases:
                times[name].append(spent[name] / len(inputs))
    return times


def alternate(
    cases: Mapping[str, Callable[[], object]],
    title: str,
    rounds: int = 7,
    clock: Callable[[], float] = time.process_time,
) -> Table:
    """Milliseconds of each case, of the processor, median and range, and how many times the last case's the median is.

    Args:
        cases: by name, the one to compare with last.
        title: of the table.
        rounds: that count, after one to warm up.
        clock: seconds; of more threads than one the clock on the wall.
    """
    times = in_turn({name: lambda _, case=case: case() for name, case in cases.items()}, [None], rounds, clock)
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
