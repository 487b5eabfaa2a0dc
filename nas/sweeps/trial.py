"""One trial of a sweep: the user's function in a folder of its own, tried again when it raises."""

from __future__ import annotations

import contextlib
import json
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nas.engine.result import SearchResult
from nas.errors import BadInput, NasError
from nas.files import write_text
from nas.runs.search import write_search
from nas.sweeps.folder import REPORTS, last_report, trial_name

Report = Callable[[Mapping[str, float]], None]
Trial = Callable[[dict[str, Any], Path, Report], SearchResult | Mapping[str, float] | None]


def run_trial(
    trial: Trial,
    settings: dict[str, Any],
    trials: Path,
    tell: Report,
    *,
    attempts: int,
    metric: str | None,
    mode: str,
) -> None:
    """Leaves done.json (its metrics) or failed.json in the trial's folder; what is done already is only told.

    ``tell``: Ray Tune's ``report``. It gets what the trial reports on its way, and in the end the metrics with ``ended``.
    """
    folder = trials / trial_name(settings)
    done = folder / "done.json"
    folder.mkdir(parents=True, exist_ok=True)

    def report(metrics: Mapping[str, float]) -> None:
        with open(folder / REPORTS, "a") as file:
            file.write(json.dumps(metrics, default=float) + "\n")
        tell(dict(metrics))

    with _alone(folder):
        for _ in range(attempts):
            if not done.exists():
                _attempt(trial, settings, folder, report, metric)
        # Tune wants the metric of a failed trial too
        worst = {metric: float("-inf" if mode == "max" else "inf")} if metric else {}
        tell({**(json.loads(done.read_text()) if done.exists() else worst), "ended": 1.0})


def _attempt(trial: Trial, settings: dict[str, Any], folder: Path, report: Report, metric: str | None) -> None:
    write_text(folder / "settings.json", json.dumps(settings, indent=2, default=str))
    (folder / REPORTS).unlink(missing_ok=True)
    failed = folder / "failed.json"
    try:
        metrics = _metrics(trial(dict(settings), folder, report), folder)
        metrics = {**last_report(folder), **metrics}
        if metric is not None and metric not in metrics:
            raise BadInput(f"metric={metric!r} is not among what the trial returned or reported: {', '.join(metrics)}")
    except Exception as error:
        text = str(error) if isinstance(error, NasError) else f"{type(error).__name__}: {error}"
        write_text(failed, json.dumps({"error": text, "traceback": traceback.format_exc()}, indent=2))
    else:
        write_text(folder / "done.json", json.dumps(metrics, indent=2))
        failed.unlink(missing_ok=True)


def _metrics(result: SearchResult | Mapping[str, float] | None, folder: Path) -> dict[str, float]:
    if not isinstance(result, SearchResult):
        return {k: float(v) for k, v in (result or {}).items()}
    write_search(folder, result)
    good = result[result.good]
    best = {
        f"best_{o.name}": float(column.max() if o.maximize else column.min())
        for o, column in zip(result.objectives, good.values.T, strict=True)
        if len(good)
    }
    return {"evaluations": len(result), "front": len(result.front), **best}


@contextlib.contextmanager
def _alone(trial: Path) -> Iterator[None]:
    """Two trials may have drawn the same settings, and one of a driver that was killed may not have ended yet."""
    import fcntl

    with open(trial / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
