"""Evaluating candidates: whatever an objective does, a result comes back and says what went wrong."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.errors import BadInput
from nas.objectives.objective import Objective
from nas.space import Archs


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one candidate. ``values``: by objective name, NaN where it failed; ``error``: why, '' if it did not."""

    values: Mapping[str, float]
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
    """Raises BadInput when ``timeout_s`` is not positive, or cannot be enforced in this thread."""
    if timeout_s is None:
        return
    if not timeout_s > 0:
        raise BadInput(f"timeout_s is a positive number of seconds, got {timeout_s!r}")
    if not _can_interrupt():
        raise BadInput("timeout_s needs the main thread of a POSIX process, or workers=N; leave it out here")


def score(objectives: Sequence[Objective], archs: Archs) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.object_]]:
    """``{name: (n,)}`` and the text of the first failure of each row, ``(n,)``, '' where there was none."""
    errors = np.full(len(archs), "", dtype=object)
    values: dict[str, NDArray[np.float64]] = {}
    for objective in objectives:
        values[objective.name], failed = _column(objective, archs)
        if failed is not None:
            errors = np.where(errors == "", failed, errors)
    return values, errors


def _column(objective: Objective, archs: Archs) -> tuple[NDArray[np.float64], NDArray[np.object_] | None]:
    if not len(archs):
        return np.empty(0), None
    try:
        returned = objective.fn(archs)
    except Exception as failure:  # whatever it was: the search goes on, and the ledger says what happened
        return _failed(objective, archs, failure)
    values = objective.checked(returned, len(archs))  # a wrong shape is wrong for all: that does stop the search
    finite = np.isfinite(values)
    if finite.all():
        return values, None
    texts = ["" if ok else f"{objective.name}: not a finite number ({v})" for ok, v in zip(finite, values, strict=True)]
    return np.where(finite, values, np.nan), np.array(texts, dtype=object)


def _failed(
    objective: Objective, archs: Archs, failure: Exception
) -> tuple[NDArray[np.float64], NDArray[np.object_] | None]:
    if len(archs) == 1:
        text = f"{objective.name}: {type(failure).__name__}: {failure}"
        return np.full(1, np.nan), np.array([text], dtype=object)
    each = [_column(objective, arch[None]) for arch in archs]  # not all of them need fail
    errors = [np.array([""], dtype=object) if e is None else e for _, e in each]
    return np.concatenate([v for v, _ in each]), np.concatenate(errors)


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
