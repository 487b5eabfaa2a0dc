"""Evaluating candidates: whatever an objective does, a result comes back and says what went wrong."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from nas.errors import BadInput
from nas.objectives.objective import Objective
from nas.objectives.scoring import score
from nas.space import Archs


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one candidate. ``values``: by objective name, NaN where it failed; ``error``: why, '' if it did not."""

    values: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Evaluates one architecture ``(genes,)`` at a time. It can be sent to another process.

    An objective that raises, gives NaN or takes longer than ``timeout_s`` is an ``Outcome`` with an error; those after
    it are not evaluated.
    """

    objectives: tuple[Objective, ...]
    timeout_s: float | None = None

    def __call__(self, arch: Archs) -> Outcome:
        started = time.perf_counter()
        values, error = {o.name: float("nan") for o in self.objectives}, ""
        for objective in self.objectives:
            if not error:
                try:
                    with _time_limit(self.timeout_s):
                        scored, failed = score([objective], arch[None])
                    values[objective.name], error = float(scored[objective.name][0]), str(failed[0])
                except _Late:
                    error = timed_out(objective.name, self.timeout_s)
        return Outcome(values=values, error=error, seconds=time.perf_counter() - started)


def timed_out(what: str, seconds: float | None) -> str:
    """The error text of an evaluation that took too long."""
    return f"{what}: timed out after {seconds:g} s"


def check_timeout(timeout_s: float | None) -> None:
    """Raises BadInput when ``timeout_s`` cannot be enforced in this thread."""
    if timeout_s is not None and not _can_interrupt():
        raise BadInput("timeout_s needs the main thread of a POSIX process, or workers=N; leave it out here")


class _Late(BaseException):
    """No Exception: an objective that catches those must not swallow it."""


@contextlib.contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    if seconds is None or not _can_interrupt():  # a worker's evaluation is stopped from outside
        yield
        return

    def late(signum: int, frame: object) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _can_interrupt() -> bool:
    return hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()
