"""Sweeps: many searches or trainings on Ray Tune, each with a folder of its own, finished ones never done twice.

    sweep folder: trials/<settings>/{settings.json, the trial's own run folder, done.json or failed.json}, sweep.csv

The folder is the record: what ``sweep`` returns and what the report shows is read from it, not from Tune's state.
"""

from __future__ import annotations

import contextlib
import json
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.errors import BadInput, NasError
from nas.latency.table import write_text
from nas.run import write_search
from nas.search import SearchResult
from nas.search.ray_workers import import_ray, quiet, start_ray
from nas.sweep_folder import read_sweep, trial_name

Report = Callable[[Mapping[str, float]], None]
Trial = Callable[[dict[str, Any], Path, Report], SearchResult | Mapping[str, float]]


def sweep(
    trial: Trial,
    settings: Mapping[str, Any],
    *,
    run_dir: str | os.PathLike[str],
    samples: int = 1,
    cpus: float = 1,
    gpus: float = 0,
    resources: Mapping[str, float] | None = None,
    max_concurrent: int | None = None,
    max_failures: int = 2,
    metric: str | None = None,
    mode: str = "max",
    search_alg: Any = None,
    scheduler: Any = None,
    resume: bool = False,
    address: str | None = None,
) -> pd.DataFrame:
    """Run ``trial(settings, run_dir, report)`` for all combinations of ``settings``; one row per trial.

    ``settings``: a list is a set of alternatives, of which the product is run; a Ray Tune domain (``ray.tune.loguniform(...)``) is
    sampled, ``samples`` times per combination; anything else is fixed. ``trial`` is an ordinary function: it runs one
    search in the folder it is given (``nas.search(..., run_dir=run_dir, resume=True)``) and returns its result, or it returns
    numbers; a training may ``report({"accuracy": ...})`` per epoch. ``cpus``, ``gpus`` (fractions allowed) and ``resources``
    such as ``{"jetson": 1}``: what each trial needs.

    ``search_alg="optuna"`` samples the domains with Optuna and ``scheduler="asha"`` stops poor trainings early (Li et al.
    2020), both by ``metric``; objects of Ray's own are taken as well. ``address``: of a cluster, as in ``ray.init``.

    A trial that raises is tried again up to ``max_failures`` times and then becomes a row with its ``error``; the others go
    on. After an interruption ``resume=True`` goes on: finished trials are known by their folders, and a search that was
    under way replays its ledger. Raises BadInput when ``run_dir`` holds a sweep and ``resume`` is not given, and
    MissingPackage without Ray.
    """
    folder = Path(run_dir).resolve()
    _check(settings, folder, resume, samples, search_alg, scheduler, metric, mode)
    ray = import_ray()
    from ray import tune

    trials = folder / "trials"
    trials.mkdir(parents=True, exist_ok=True)
    write_text(folder / "sweep.json", json.dumps({"settings": {k: _plain(v) for k, v in settings.items()}}, indent=2))
    sampled_by_optuna = search_alg == "optuna"
    space = {
        k: (tune.choice(v) if sampled_by_optuna else tune.grid_search(list(v))) if isinstance(v, list | tuple) else v
        for k, v in settings.items()
    }

    worst = {metric: float("-inf" if mode == "max" else "inf")} if metric else {}

    def run_one(config: dict[str, Any]) -> None:
        _run_trial(trial, config, trials, tune.report, attempts=1 + max_failures, otherwise=worst)

    started = start_ray(address, cpus=max(os.cpu_count() or 1, max_concurrent or 0))
    try:
        with quiet():
            trainable = tune.with_resources(
                run_one, tune.PlacementGroupFactory([{"CPU": cpus, "GPU": gpus, **(resources or {})}])
            )
            tuner = _restored(folder, trainable) if resume else None
            tuner = tuner or tune.Tuner(
                trainable,
                param_space=space,
                tune_config=tune.TuneConfig(
                    num_samples=samples,
                    metric=metric,
                    mode=mode if metric else None,
                    max_concurrent_trials=max_concurrent,
                    search_alg=_optuna(metric, mode) if sampled_by_optuna else search_alg,
                    reuse_actors=True,
                    scheduler=tune.schedulers.ASHAScheduler() if scheduler == "asha" else scheduler,
                ),
                run_config=tune.RunConfig(
                    name="tune",
                    storage_path=str(folder),
                    verbose=0,
                    failure_config=tune.FailureConfig(max_failures=max_failures),
                ),
            )
            tuner.fit()
    finally:
        if started:
            with quiet():
                ray.shutdown()
    frame = read_sweep(folder)
    write_text(folder / "sweep.csv", frame.to_csv(index=False))
    return frame


def _run_trial(
    trial: Trial, config: dict[str, Any], trials: Path, report: Report, *, attempts: int, otherwise: Mapping[str, float]
) -> None:
    """What runs in a Tune trial; a lost process is Tune's to replace. ``otherwise``: reported when all attempts fail."""
    folder = trials / trial_name(config)
    done, failed = folder / "done.json", folder / "failed.json"
    if done.exists():
        report({**json.loads(done.read_text()), "finished": 1.0})
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "settings.json", json.dumps(config, indent=2, default=str))
    for _ in range(attempts):
        try:
            metrics = _metrics(trial(dict(config), folder, report), folder)
        except Exception as error:
            text = str(error) if isinstance(error, NasError) else f"{type(error).__name__}: {error}"
            write_text(failed, json.dumps({"error": text, "traceback": traceback.format_exc()}, indent=2))
        else:
            write_text(done, json.dumps(metrics, indent=2))
            failed.unlink(missing_ok=True)
            report({**metrics, "finished": 1.0})
            return
    report({**otherwise, "finished": 0.0})


def _metrics(result: SearchResult | Mapping[str, float], folder: Path) -> dict[str, float]:
    if not isinstance(result, SearchResult):
        return {k: float(v) for k, v in result.items()}
    write_search(folder, result)
    best = {
        o.name: float(np.nanmax(column) if o.maximize else np.nanmin(column))
        for o, column in zip(result.objectives, np.where(result.good[:, None], result.values, np.nan).T, strict=True)
        if result.good.any()
    }
    return {"evaluations": len(result), "front": len(result.front), **{f"best_{k}": v for k, v in best.items()}}


def _restored(folder: Path, trainable: Any) -> Any:
    """Tune's own state, where it is there and sound; otherwise the sweep starts over and skips what is finished."""
    from ray import tune

    with contextlib.suppress(Exception):
        if tune.Tuner.can_restore(str(folder / "tune")):
            return tune.Tuner.restore(
                str(folder / "tune"), trainable, resume_errored=True, resume_unfinished=True, restart_errored=False
            )
    return None


def _optuna(metric: str | None, mode: str) -> Any:
    from ray.tune.search.optuna import OptunaSearch

    return OptunaSearch(metric=metric, mode=mode)


def _check(
    settings: Mapping[str, Any],
    folder: Path,
    resume: bool,
    samples: int,
    search_alg: Any,
    scheduler: Any,
    metric: str | None,
    mode: str,
) -> None:
    if not settings:
        raise BadInput("a sweep needs settings, such as {'seed': [0, 1, 2]}")
    for name, value in settings.items():
        if isinstance(value, list | tuple) and not value:
            raise BadInput(f"setting {name} has no alternatives")
    if samples < 1:
        raise BadInput(f"samples is at least 1, got {samples}")
    if mode not in ("max", "min"):
        raise BadInput(f"mode is max or min, got {mode!r}")
    for name, given, known in (("search_alg", search_alg, "optuna"), ("scheduler", scheduler, "asha")):
        if isinstance(given, str) and given != known:
            raise BadInput(f"{name} is '{known}' or an object of Ray Tune's, got {given!r}")
        if given == known and metric is None:
            raise BadInput(f"{name}='{known}' needs metric=, the name of a reported number")
    if (folder / "sweep.json").exists() and not resume:
        raise BadInput(f"{folder} already holds a sweep; pass resume (--resume) to go on with it, or another folder")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
