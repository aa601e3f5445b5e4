"""Fair timing: the cases in turn, round after round, in one process on one thread; ratios of medians."""

import statistics
import time
from collections.abc import Callable, Mapping

from tubelet import Table


def alternate(cases: Mapping[str, Callable[[], object]], title: str, rounds: int = 7) -> Table:
    """Processor milliseconds of each case, median and range, and how many times the last case's the median is."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, case in cases.items():
            start = time.process_time()
            case()
            if number:  # the first round warms up
                times[name].append(1000 * (time.process_time() - start))
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
