"""One trial of a sweep: the user's function in a folder of its own, tried again when it raises."""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from nas.engine.result import SearchResult
from nas.errors import BadInput, Busy, NasError
from nas.files import append_text, first_line, locked, write_bytes
from nas.runs.artefacts import write_record
from nas.runs.search import write_search
from nas.sweeps.folder import DONE, FAILED, REPORTS, SETTINGS, Failed, last_report, read_numbers, trial_name

Report = Callable[[Mapping[str, float]], None]
Trial = Callable[[dict[str, Any], Path, Report], SearchResult | Mapping[str, float] | None]

_POLL_S = 0.2
_log = logging.getLogger("nas")


@dataclass(frozen=True, kw_only=True)
class TrialRunner:
    """Runs ``trial`` for one combination of settings after another, each in a folder of ``trials``.

    ``at``: the current folder of whoever sweeps, so that relative paths mean the same in a trial (Tune would have it run
    elsewhere). ``attempts``: how often one that raises is run. ``metric``, ``mode``: the number by which trials are compared.
    """

    trial: Trial
    trials: Path
    at: Path = Path()
    attempts: int = 1
    metric: str | None = None
    mode: Literal["max", "min"] = "max"

    def __call__(self, settings: dict[str, Any], tell: Report) -> None:
        """Leaves done.json (its metrics) or failed.json in the trial's folder; what is done already is only told.

        ``tell``: Ray Tune's ``report``. It gets what the trial reports on its way, and in the end the metrics with
        ``ended``.
        """
        folder = self.trials / trial_name(settings)
        done = folder / DONE
        with _alone(folder), contextlib.chdir(self.at) if self.at.is_dir() else contextlib.nullcontext():
            for _ in range(self.attempts):
                if not done.exists():
                    self._attempt(settings, folder, tell)
            # Tune wants the metric of a failed trial too
            worst = {self.metric: float("-inf" if self.mode == "max" else "inf")} if self.metric else {}
            tell({**(read_numbers(done) if done.exists() else worst), "ended": 1.0})

    def _attempt(self, settings: dict[str, Any], folder: Path, tell: Report) -> None:
        def report(metrics: Mapping[str, float]) -> None:
            numbers = {k: float(v) for k, v in metrics.items()}
            append_text(folder / REPORTS, msgspec.json.encode(numbers).decode() + "\n")
            tell(numbers)

        plain = msgspec.json.encode(settings, enc_hook=str)
        write_bytes(folder / SETTINGS, msgspec.json.format(plain, indent=2))
        (folder / REPORTS).unlink(missing_ok=True)
        try:
            returned = _metrics(self.trial(dict(settings), folder, report), folder)
            metrics = {**last_report(folder), **returned}
            if self.metric is not None and self.metric not in metrics:
                known = ", ".join(metrics)
                raise BadInput(f"metric={self.metric!r} is not among what the trial returned or reported: {known}")
        except Exception as error:
            kind = "" if isinstance(error, NasError) else f"{type(error).__name__}: "
            text = f"{kind}{first_line(error)}"
            write_record(folder / FAILED, Failed(error=text, traceback=traceback.format_exc()))
        else:
            write_record(folder / DONE, metrics)
            (folder / FAILED).unlink(missing_ok=True)


def _metrics(result: SearchResult | Mapping[str, float] | None, folder: Path) -> dict[str, float]:
    if not isinstance(result, SearchResult):
        return {k: float(v) for k, v in (result or {}).items()}
    write_search(folder, result)
    good = result[result.good]
    best = {
        f"best_{o.name}": float(o.cost(o.cost(column).min()))
        for o, column in zip(result.objectives, good.values.T, strict=True)
        if len(good)
    }
    return {"evaluations": len(result), "front": len(result.front), **best}


@contextlib.contextmanager
def _alone(trial: Path) -> Iterator[None]:
    """Two trials may have drawn the same settings, and one of a driver that was killed may not have ended yet: wait."""
    waiting = False
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(trial))
                break
            except Busy as busy:
                if not waiting:
                    _log.info("a trial waits: %s", busy)
                waiting = True
                time.sleep(_POLL_S)
        yield
