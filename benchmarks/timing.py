"""Timing two or more ways of the same work in one process, in turn, so that the machine's moods hit all alike."""

import statistics
import time
from collections.abc import Callable


def interleaved(ways: dict[str, Callable[[], object]], rounds: int = 5) -> dict[str, list[float]]:
    """Seconds of each way in each round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def table(seconds: dict[str, list[float]]) -> None:
    """Print minimum, median and maximum of each way."""
    for name, values in seconds.items():
        print(f"  {name:44s} {min(values):8.3f} {statistics.median(values):8.3f} {max(values):8.3f} s")


def ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> float:
    """The median of the rounds' ratios slow / fast."""
    return statistics.median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))


def verdict(what: str, value: float, bar: str, *, holds: bool) -> None:
    """One line: the figure, the bar, and whether it holds."""
    print(f"  {'holds' if holds else 'FALLS SHORT'}: {what} {value:.3g} (bar {bar})", flush=True)
