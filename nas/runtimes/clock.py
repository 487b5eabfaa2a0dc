"""The timing loop that the runtimes of this machine's CPU share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import BadInput

SAMPLE_MS = 0.1
"""A timing sample covers as many runs as fill this, so that the clock's own cost does not count."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A network ready to run: ``call`` runs it once, a sample is ``runs`` calls. ``keeps``: what must stay alive."""

    call: Callable[[], object]
    runs: int
    keeps: Any = None


def warmed_up(call: Callable[[], object], keeps: Any = None) -> Loaded:
    """``call`` after a few runs, with the number of runs that fill a sample."""
    once = Loaded(call, 1)
    timed(once, 3)
    return Loaded(call, max(1, round(SAMPLE_MS / float(np.median(timed(once, 5))))), keeps)


def timed(loaded: Loaded, repeats: int) -> NDArray[np.float64]:
    """Milliseconds per call, ``(repeats,)``, each the mean over one sample."""
    call, runs = loaded.call, range(loaded.runs)
    samples = np.empty(repeats)
    for i in range(repeats):
        start = time.perf_counter_ns()
        for _ in runs:
            call()
        samples[i] = time.perf_counter_ns() - start
    return samples / (1e6 * loaded.runs)


def check_settings(runtime: str, precision: str, precisions: tuple[str, ...], threads: int, batch: int) -> None:
    """Raises BadInput for a precision that the runtime does not have, or threads or batch below 1."""
    if precision not in precisions:
        raise BadInput(f"precision of {runtime} is {' or '.join(precisions)}, got {precision!r}")
    if threads < 1 or batch < 1:
        raise BadInput(f"threads and batch are at least 1, got {threads} and {batch}")
