"""Sweeps: many searches or trainings on Ray Tune, each with a folder of its own, finished ones never done twice.

    sweep folder: trials/<settings>/{settings.json, the trial's own run folder, done.json or failed.json}, sweep.csv

The folder is the record: what ``sweep`` returns and what the report shows is read from it, not from Tune's state.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from nas.engine.ray_workers import check_resources, import_ray, quiet, start_ray
from nas.errors import BadInput, MissingPackage
from nas.files import write_text
from nas.sweeps.folder import last_report, read_sweep, trial_name
from nas.sweeps.trial import Trial, run_trial


def sweep(
    trial: Trial,
    settings: Mapping[str, Any],
    *,
    run_dir: str | os.PathLike[str],
    samples: int = 1,
    seed: int = 0,
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
    progress: bool = False,
) -> pd.DataFrame:
    """Run ``trial(settings, run_dir, report)`` for all combinations of ``settings``; one row per trial.

    ``settings``: a list is a set of alternatives, of which the product is run; a Ray Tune domain
    (``ray.tune.loguniform(...)``) is sampled from ``seed``, ``samples`` times per combination; anything else is fixed.
    ``trial`` is an ordinary function: it runs one search in the folder that it is given
    (``nas.search(..., run_dir=run_dir, resume=True)``) and returns its result, or it returns numbers; a training may
    ``report({"accuracy": ...})`` per epoch. ``cpus``, ``gpus`` (fractions allowed) and ``resources`` such as
    ``{"jetson": 1}``: what each trial needs.

    ``search_alg="optuna"`` draws ``samples`` settings with Optuna, those of lists too, and ``scheduler="asha"`` stops
    poor trainings early (Li et al. 2020, arXiv:1810.05934), both by ``metric``; Ray's own objects are taken as well.
    ``address``: of a cluster, as in ``ray.init``; ``run_dir`` must then be a folder that all its machines see.

    A trial that raises is tried again up to ``max_failures`` times and then becomes a row with its ``error``; the others
    go on. After an interruption ``resume=True`` goes on, also with other settings: finished trials are known by their
    folders, failed ones get another chance, and a search that was under way replays its ledger. Raises BadInput when ``run_dir`` holds a sweep and
    ``resume`` is not given, or no machine has what a trial needs, and MissingPackage without Ray.
    """
    folder = Path(run_dir).resolve()
    _check(settings, folder, resume, samples, search_alg, scheduler, metric, mode)
    ray = import_ray()
    from ray import tune

    drawn = search_alg is not None
    alternatives = tune.choice if drawn else tune.grid_search
    space = {k: alternatives(list(v)) if isinstance(v, list | tuple) else v for k, v in settings.items()}
    products = [v for v in settings.values() if isinstance(v, list | tuple)]
    total = samples if drawn else samples * math.prod(map(len, products))
    if samples > 1 and not drawn and not any(isinstance(v, tune.search.sample.Domain) for v in settings.values()):
        raise BadInput(f"samples={samples} would repeat the same trials; add a Ray Tune domain, or a list of seeds")

    trials = folder / "trials"
    record = json.dumps({"settings": {k: _plain(v) for k, v in settings.items()}, "samples": samples}, indent=2)
    same = (folder / "sweep.json").exists() and (folder / "sweep.json").read_text() == record
    # without these two nothing but the folders is needed to go on, and failed trials get another chance
    restorable = same and (drawn or scheduler is not None)

    def run_one(config: dict[str, Any]) -> None:
        run_trial(trial, config, trials, tune.report, attempts=1 + max_failures, metric=metric, mode=mode)

    trainable = tune.with_resources(
        run_one, tune.PlacementGroupFactory([{"CPU": cpus, "GPU": gpus, **(resources or {})}])
    )

    def new_tuner() -> Any:
        shutil.rmtree(folder / "tune", ignore_errors=True)
        if drawn:
            searcher = _optuna(metric, mode, seed) if search_alg == "optuna" else search_alg
        else:
            searcher = tune.search.BasicVariantGenerator(random_state=seed, max_concurrent=max_concurrent or 0)
        return tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                num_samples=samples,
                metric=metric,
                mode=mode if metric else None,
                max_concurrent_trials=max_concurrent if drawn else None,
                search_alg=searcher,
                scheduler=tune.schedulers.ASHAScheduler() if scheduler == "asha" else scheduler,
                reuse_actors=True,  # a process needs seconds to import torch
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(folder),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=max_failures),
            ),
        )

    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Tune would take Ctrl-C for a normal end
    started = start_ray(address, cpus=max(os.cpu_count() or 1, (max_concurrent or 0) * cpus))
    try:
        check_resources(cpus, gpus, resources)
        write_text(folder / "sweep.json", record)
        trials.mkdir(exist_ok=True)
        with quiet(), _counted(trials, total, progress):
            results = _restored(folder, trainable) if restorable else None
            _settle(results or new_tuner().fit(), trials)
    finally:
        if started:
            with quiet():
                ray.shutdown()
    frame = read_sweep(folder)
    write_text(folder / "sweep.csv", frame.to_csv(index=False))
    return frame


def _settle(results: Any, trials: Path) -> None:
    """Trials that did not come to their own end: stopped by the scheduler, or their process died too often."""
    for result in results:
        folder = trials / trial_name(result.config)
        if result.error is not None:
            text = str(result.error).strip().splitlines()[-1]
            write_text(folder / "failed.json", json.dumps({"error": f"its process died: {text}", "traceback": ""}))
        elif "ended" not in result.metrics:
            write_text(folder / "done.json", json.dumps({**last_report(folder), "stopped_early": 1.0}, indent=2))


def _restored(folder: Path, trainable: Any) -> Any:
    """The results of going on from Tune's own state; None where that is missing or damaged: the sweep then starts over,
    and skips what is finished."""
    from ray import tune

    with contextlib.suppress(Exception):
        if tune.Tuner.can_restore(str(folder / "tune")):
            return tune.Tuner.restore(str(folder / "tune"), trainable, resume_errored=True).fit()
    return None


def _optuna(metric: str | None, mode: str, seed: int) -> Any:
    try:
        from ray.tune.search.optuna import OptunaSearch

        searcher = OptunaSearch(metric=metric, mode=mode, seed=seed)
    except (ImportError, AssertionError):
        raise MissingPackage("optuna", "ray") from None
    logging.getLogger("optuna").setLevel(logging.CRITICAL)  # its import sets another; ``quiet`` takes this back
    return searcher


@contextlib.contextmanager
def _counted(trials: Path, total: int, shown: bool) -> Iterator[None]:
    """A progress bar of the trials that have ended."""
    over = threading.Event()

    def count() -> None:
        with tqdm(total=total, desc="sweep", unit="trial") as bar:
            while not over.wait(1.0):
                bar.n = sum((p / "done.json").exists() or (p / "failed.json").exists() for p in trials.iterdir())
                bar.refresh()

    counter = threading.Thread(target=count, daemon=True)
    if shown:
        counter.start()
    try:
        yield
    finally:
        over.set()
        if shown:
            counter.join()


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
    """A setting as JSON has it; of a domain its kind and range."""
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    known = hasattr(value, "domain_str")
    return f"{type(value).__name__} {value.domain_str} {value.sampler}" if known else str(value)
