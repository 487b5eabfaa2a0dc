"""How a campaign takes times: samples long enough for the clock, in turns, until each median is known.

The one home of this: runtimes of this machine, local campaigns and measuring kits all time with these functions.
"""

# ruff: noqa: UP006, UP007, UP035 - Python 3.8
from __future__ import annotations

import contextlib
import gc
import math
import statistics
import time
from typing import Any, Callable, Dict, Iterator, List, Sequence, Union

MIN_ROUNDS, MAX_ROUNDS = 6, 24
SAMPLES = 4  # per visit; the first finds cold caches and is dropped
TIGHT = 0.02  # a network is done when the 95% interval of its median is within ±2%
SAMPLE_MS = 0.1
"""A timing sample covers as many runs as fill this, so that the clock's own cost does not count."""

Samples = Union[List[float], Exception]


class Loaded:
    """A network ready to run: ``call`` runs it once, a sample is ``runs`` calls. ``keeps``: what must stay alive."""

    def __init__(self, call: Callable[[], object], runs: int = 1, keeps: Any = None) -> None:
        self.call, self.runs, self.keeps = call, runs, keeps


def warmed_up(call: Callable[[], object], keeps: Any = None) -> Loaded:
    """``call`` after a few runs, with the number of runs that fill a sample."""
    once = Loaded(call)
    timed(once, 3)
    return Loaded(call, max(1, round(SAMPLE_MS / statistics.median(timed(once, 5)))), keeps)


def timed(loaded: Loaded, repeats: int) -> list[float]:
    """Milliseconds per call, ``repeats`` of them, each the mean over one sample."""
    call, runs = loaded.call, range(loaded.runs)
    taken = []
    for _ in range(repeats):
        start = time.perf_counter_ns()
        for _ in runs:
            call()
        taken.append(max(1, time.perf_counter_ns() - start) / (1e6 * loaded.runs))
    return taken


def in_turns(
    takers: Sequence[Callable[[int], Any]],
    *,
    rounds: tuple[int, int] = (MIN_ROUNDS, MAX_ROUNDS),
    long_s: float = math.inf,
) -> list[Samples]:
    """Samples in ms of each network, visited in turns so that a disturbance hits all and not one.

    ``takers``: give n samples each, a sequence of ms. Each is done by itself when its median is known to ±2%, after ``rounds`` (at least,
    at most) visits; after ``long_s`` seconds the least number is enough. One that raises gives its error.
    """
    found: list[Samples] = [[] for _ in takers]
    waiting = list(range(len(takers)))
    begun = time.monotonic()
    with _no_garbage_collection():
        for done in range(1, rounds[1] + 1):
            for i in waiting:
                samples = found[i]
                try:
                    if isinstance(samples, list):
                        samples.extend(takers[i](SAMPLES)[1:])
                except Exception as error:  # this network, not the others
                    found[i] = error
            if done >= rounds[0]:
                late = time.monotonic() - begun > long_s
                waiting = [] if late else [i for i in waiting if not _is_done(found[i])]
    return found


def _is_done(samples: Samples) -> bool:
    return isinstance(samples, Exception) or median_interval(samples) <= TIGHT


def median_interval(samples: Sequence[float]) -> float:
    """Half width of the 95% interval of the median, relative; from order statistics, no distribution assumed."""
    ordered = sorted(samples)
    half = 0.98 * math.sqrt(len(ordered))
    low = max(0, math.floor(len(ordered) / 2 - half))
    high = min(len(ordered) - 1, math.ceil(len(ordered) / 2 + half))
    return (ordered[high] - ordered[low]) / (2 * statistics.median(ordered))


def summary(samples: Sequence[float]) -> Dict[str, Any]:
    """Median, 10th and 90th percentile of samples in ms. Raises ValueError when there are none, or none of a latency."""
    ordered = sorted(map(float, samples))
    if not ordered or not (0 < ordered[0] <= ordered[-1] < math.inf):
        raise ValueError("no latencies")

    def quantile(q: float) -> float:
        at = q * (len(ordered) - 1)
        low, high = ordered[math.floor(at)], ordered[math.ceil(at)]
        return low + (at - math.floor(at)) * (high - low)

    return {"ms": quantile(0.5), "p10_ms": quantile(0.1), "p90_ms": quantile(0.9), "runs": len(ordered)}


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
