"""Sweeps: many searches or trainings on Ray Tune, each with a folder of its own, finished ones never done twice.

The folder (``nas.sweeps.folder``) is the record: what ``sweep`` returns and what the report shows is read from it, not
from Tune's state.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pandas as pd
from msgspec import Meta

from nas.checks import Count, CountOrNone, Seed, Text, checked
from nas.cluster import check_resources, import_ray, quiet, start_ray
from nas.errors import BadInput, MissingPackage, NasError
from nas.files import first_line, folder_of, locked, write_text
from nas.progress import bar
from nas.runs.artefacts import write_record
from nas.sweeps.folder import (
    DONE,
    FAILED,
    SWEEP,
    TRIALS,
    Failed,
    Sweep,
    last_report,
    read_sweep,
    read_sweep_record,
    trial_name,
)
from nas.sweeps.trial import Trial, TrialRunner

_TUNE = "tune"
"""Folder of Tune's own state."""
_KNOWN = {"search_alg": "optuna", "scheduler": "asha"}

Amount = Annotated[float, Meta(ge=0, le=1_000_000)]


@checked
def sweep(
    trial: Trial,
    settings: Mapping[str, Any],
    *,
    run_dir: str | os.PathLike[str],
    samples: Count = 1,
    seed: Seed = 0,
    cpus: Amount = 1,
    gpus: Amount = 0,
    resources: Mapping[str, float] | None = None,
    max_concurrent: Annotated[int | None, Meta(ge=1, le=10_000)] = None,
    max_failures: CountOrNone = 2,
    metric: Text | None = None,
    mode: Literal["max", "min"] = "max",
    search_alg: Any = None,
    scheduler: Any = None,
    resume: bool | Literal["auto"] = "auto",
    address: Text | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Run ``trial(settings, run_dir, report)`` for all combinations of ``settings``; one row per trial.

    ``settings``: the product of all lists is run; a Ray Tune domain (``ray.tune.loguniform(...)``) is sampled ``samples``
    times per combination, from ``seed``; anything else is fixed. ``trial`` runs one search in its folder (``nas.search(...,
    run_dir=run_dir, resume=True)``) and returns the result, or returns numbers; a training may ``report({"accuracy": ...})``
    per epoch. It needs ``cpus``, ``gpus`` (fractions allowed) and ``resources`` such as ``{"jetson": 1}``.
    ``search_alg="optuna"`` draws ``samples`` settings, those of lists too, and ``scheduler="asha"`` stops poor trainings
    early (Li et al. 2020, arXiv:1810.05934), both by ``metric``; Ray's own objects are taken as well. ``address``: of a
    cluster, as in ``ray.init``; all its machines must see ``run_dir``.

    A trial that raises is tried again ``max_failures`` times and then is a row with its ``error``. The same call again goes
    on: finished trials are known by their folders, failed ones get another chance, an interrupted search replays its
    ledger. ``resume=True`` goes on with other settings, too. Raises BadInput when ``run_dir`` holds another sweep (naming
    what differs), or any with ``resume=False``, another process is at work there, or no machine has what a trial needs;
    MissingPackage without Ray; NasError when no trial has come to a result.
    """
    folder = folder_of(run_dir, "sweep folder").resolve()
    runner = TrialRunner(
        trial=trial, trials=folder / TRIALS, at=Path.cwd(), attempts=1 + max_failures, metric=metric, mode=mode
    )
    plan = _Plan(folder, runner, settings, samples, seed, max_concurrent, search_alg, scheduler, max_failures)
    plan.check(resume)
    with locked(folder), _ray(address, max(os.cpu_count() or 1, (max_concurrent or 0) * cpus)):
        check_resources(cpus, gpus, resources)
        plan.run({"CPU": cpus, "GPU": gpus, **(resources or {})}, progress)
        frame = read_sweep(folder)
        write_text(folder / "sweep.csv", frame.to_csv(index=False))
    if (frame["error"] != "").all():
        raise NasError(f"all {len(frame)} trials failed, the first with: {frame['error'].iloc[0]} (more in {folder})")
    return frame


@dataclass(frozen=True)
class _Plan:
    """What is swept, in Tune's terms."""

    folder: Path
    runner: TrialRunner
    settings: Mapping[str, Any]
    samples: int
    seed: int
    max_concurrent: int | None
    search_alg: Any
    scheduler: Any
    max_failures: int

    def check(self, resume: bool | Literal["auto"]) -> None:
        """Raises BadInput for settings that make no sense, or a folder that holds a sweep which is not to be gone on with."""
        if not self.settings:
            raise BadInput("a sweep needs settings, such as {'seed': [0, 1, 2]}")
        trial_name(self.settings)
        for name, value in self.settings.items():
            if _is_set(value) and not value:
                raise BadInput(f"setting {name} has no alternatives")
        for name, known in _KNOWN.items():
            given = getattr(self, name)
            if isinstance(given, str) and given != known:
                raise BadInput(f"{name} is '{known}' or an object of Ray Tune's, got {given!r}")
            if isinstance(given, str) and self.runner.metric is None:
                raise BadInput(f"{name}='{known}' needs metric=, the name of a reported number")
        if self.samples > 1 and self.search_alg is None and not any(map(_is_domain, self.settings.values())):
            raise BadInput(
                f"samples={self.samples} would repeat the same trials; add a Ray Tune domain, or a list of seeds"
            )
        before = read_sweep_record(self.folder)
        if before is not None and not resume:
            raise BadInput(
                f"{self.folder} already holds a sweep; pass resume (--resume) to go on with it, or another folder"
            )
        if before is not None and resume == "auto" and before != self.record:
            there, now = asdict(before), asdict(self.record)
            what = ", ".join(f"{k} ({there[k]}, now {now[k]})" for k in now if there[k] != now[k])
            raise BadInput(
                f"{self.folder} holds a sweep of other {what}; pass resume=True to add to it, or another folder"
            )

    @property
    def record(self) -> Sweep:
        """What the folder says of it."""
        trial = self.runner.trial
        return Sweep(
            trial=f"{getattr(trial, '__module__', '')}.{getattr(trial, '__qualname__', type(trial).__name__)}",
            settings=_plain(self.settings),
            samples=self.samples,
            seed=self.seed,
        )

    @property
    def total(self) -> int:
        """Number of trials."""
        products = [len(v) for v in self.settings.values() if _is_set(v)]
        return self.samples if self.search_alg is not None else self.samples * math.prod(products)

    def run(self, needs: Mapping[str, float], progress: bool | None) -> None:
        """Run what is not done, and leave done.json or failed.json in every trial's folder."""
        from ray import tune

        runner = self.runner  # Tune sends the function to other processes: nothing but this goes with it
        trainable = tune.with_resources(
            lambda config: runner(config, tune.report), tune.PlacementGroupFactory([dict(needs)])
        )
        # without these two nothing but the folders is needed to go on, and failed trials get another chance
        restorable = self.search_alg is not None or self.scheduler is not None
        restorable = restorable and read_sweep_record(self.folder) == self.record
        write_record(self.folder / SWEEP, self.record)
        runner.trials.mkdir(exist_ok=True)
        with quiet(), _counted(runner.trials, self.total, progress):
            try:
                _settle((restorable and self._restored(trainable)) or self._tuner(trainable).fit(), runner.trials)
            except KeyboardInterrupt:
                logging.getLogger("nas").warning("interrupted; the same call goes on from here")
                raise
            except (OSError, EOFError) as error:  # Tune on a full disk
                raise BadInput(f"cannot write {self.folder}: {first_line(error)}; finished trials are kept") from None

    def _restored(self, trainable: Any) -> Any:
        """The results of going on from Tune's own state; None where that is missing or damaged: the sweep then starts
        over, and skips what is finished."""
        from ray import tune

        with contextlib.suppress(Exception):
            if tune.Tuner.can_restore(str(self.folder / _TUNE)):
                return tune.Tuner.restore(str(self.folder / _TUNE), trainable, resume_errored=True).fit()
        return None

    def _tuner(self, trainable: Any) -> Any:
        from ray import tune

        shutil.rmtree(self.folder / _TUNE, ignore_errors=True)
        metric, mode, drawn = self.runner.metric, self.runner.mode, self.search_alg is not None
        searcher = tune.search.BasicVariantGenerator(random_state=self.seed, max_concurrent=self.max_concurrent or 0)
        if drawn:
            searcher = _optuna(metric, mode, self.seed) if self.search_alg == "optuna" else self.search_alg
        alternatives = tune.choice if drawn else tune.grid_search
        return tune.Tuner(
            trainable,
            param_space={k: alternatives(list(v)) if _is_set(v) else v for k, v in self.settings.items()},
            tune_config=tune.TuneConfig(
                num_samples=self.samples,
                metric=metric,
                mode=mode if metric else None,
                max_concurrent_trials=self.max_concurrent if drawn else None,
                search_alg=searcher,
                scheduler=tune.schedulers.ASHAScheduler() if self.scheduler == "asha" else self.scheduler,
                reuse_actors=True,  # a process needs seconds to import torch
            ),
            run_config=tune.RunConfig(
                name=_TUNE,
                storage_path=str(self.folder),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=self.max_failures),
            ),
        )


def _settle(results: Any, trials: Path) -> None:
    """Trials that did not come to their own end: stopped by the scheduler, or their process died too often."""
    for result in results:
        folder = trials / trial_name(result.config)
        if result.error is not None:
            text = first_line(str(result.error).strip().splitlines()[-1])
            write_record(folder / FAILED, Failed(error=f"its process died: {text}"))
        elif "ended" not in result.metrics:
            write_record(folder / DONE, {**last_report(folder), "stopped_early": 1.0})


def _optuna(metric: str | None, mode: str, seed: int) -> Any:
    try:
        from ray.tune.search.optuna import OptunaSearch

        searcher = OptunaSearch(metric=metric, mode=mode, seed=seed)
    except (ImportError, AssertionError):
        raise MissingPackage("optuna", "ray") from None
    logging.getLogger("optuna").setLevel(logging.CRITICAL)  # its import sets another; ``quiet`` takes this back
    return searcher


@contextlib.contextmanager
def _ray(address: str | None, cpus: float) -> Iterator[None]:
    """Ray, started here unless it runs already."""
    ray = import_ray()
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Tune would take Ctrl-C for a normal end
    started = start_ray(address, cpus=cpus)
    try:
        yield
    finally:
        if started:
            with quiet():
                ray.shutdown()


@contextlib.contextmanager
def _counted(trials: Path, total: int, progress: bool | None) -> Iterator[None]:
    """A progress bar of the trials that have ended."""
    over = threading.Event()

    def count() -> None:
        while not over.wait(1.0):
            shown.n = sum((p / DONE).exists() or (p / FAILED).exists() for p in trials.iterdir())
            shown.refresh()

    with bar(progress, total=total, desc="sweep", unit="trial") as shown:
        counter = threading.Thread(target=count, daemon=True)
        if not shown.disable:
            counter.start()
        try:
            yield
        finally:
            over.set()
            if not shown.disable:
                counter.join()


def _is_set(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_domain(value: Any) -> bool:
    return hasattr(value, "domain_str")


def _plain(value: Any) -> Any:
    """Settings as JSON has them; of a domain its kind and range."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if _is_set(value):
        return [_plain(v) for v in value]
    if _is_domain(value):
        return f"{type(value).__name__} {value.domain_str} {value.sampler}"
    try:
        return msgspec.convert(value, str | int | float | bool | None)
    except msgspec.ValidationError:
        return str(value)
