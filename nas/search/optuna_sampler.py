"""Optuna's samplers behind the searcher interface, and finished searches as Optuna studies."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import BadInput, MissingPackage
from nas.search.result import SearchResult
from nas.space import Archs, SearchSpace, is_ordered

if TYPE_CHECKING:
    import optuna

_TRIES = 20  # proposals per wanted architecture
_VIOLATION = "violation"


class OptunaSearch:
    """Any Optuna sampler as a searcher.

    ``sampler``: a function from a seed to a sampler, such as ``lambda seed: optuna.samplers.NSGAIISampler(seed=seed)``
    (default: multivariate TPE). Genes are categorical, or integers where their values are three or more ordered numbers;
    those without an effect are not suggested. A proposal that is known already is told its known result at once.
    Raises MissingPackage without Optuna.
    """

    def __init__(
        self, space: SearchSpace, sampler: Callable[[int], optuna.samplers.BaseSampler] | None = None, *, seed: int = 0
    ) -> None:
        _optuna()
        if sampler is not None and not callable(sampler):
            raise BadInput(
                f"sampler is a function from a seed to a sampler, got {type(sampler).__name__}; "
                f"write lambda seed: {type(sampler).__name__}(seed=seed)"
            )
        self.space = space
        self._make = sampler or _tpe
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Forget everything and start from ``seed``."""
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        with quiet():
            self._sampler = self._make(seed)
        self._study: optuna.Study | None = None
        self._under_way: dict[bytes, list[optuna.Trial]] = {}
        self._known: dict[bytes, tuple[NDArray[np.float64], float]] = {}

    def describe(self) -> dict[str, Any]:
        """What decides the proposals, for the ledger. ``known``: what it has learnt before, which no replay can repeat."""
        return {"searcher": f"optuna {type(self._sampler).__name__}", "seed": self._seed, "known": len(self._known)}

    def ask(self, n: int) -> Archs:
        """Up to ``n`` new architectures; random ones before the first results, which say how many objectives there are."""
        chosen: dict[bytes, NDArray[np.uint8]] = {}
        for _ in range(_TRIES * n):
            if len(chosen) == n:
                break
            if self._study is None:
                row = self.space.sample(1, self._rng)[0]
                trial = None
            else:
                with quiet():
                    trial = self._study.ask()
                    row = self._suggested(trial)
            key = row.tobytes()
            if key in self._known:
                if trial is not None:
                    self._close(trial, *self._known[key])
                continue
            if key not in self._under_way:
                chosen[key] = row
            self._under_way.setdefault(key, []).extend([trial] if trial is not None else [])
        return np.array(list(chosen.values()), dtype=np.uint8).reshape(-1, self.space.genes)

    def tell(self, archs: Archs, costs: NDArray[np.float64], violation: NDArray[np.float64]) -> None:
        """Take in results ``costs (n, k)``; a NaN makes a failed trial."""
        if self._study is None:
            optuna = _optuna()
            with quiet():
                self._study = optuna.create_study(directions=["minimize"] * costs.shape[1], sampler=self._sampler)
        for row, cost, missed in zip(self.space.canonical(archs), costs, violation, strict=True):
            key = row.tobytes()
            if key in self._known:
                continue
            self._known[key] = (cost, float(missed))
            trials = self._under_way.pop(key, [])
            for trial in trials:
                self._close(trial, cost, float(missed))
            if not trials:
                with quiet():
                    self._study.add_trial(_trial(self.space, row, cost, float(missed)))

    def _suggested(self, trial: optuna.Trial) -> NDArray[np.uint8]:
        row = np.zeros((1, self.space.genes), dtype=np.uint8)
        for gene, (choice, distribution) in enumerate(zip(self.space.choices, distributions(self.space), strict=True)):
            if self.space.active(row)[0, gene]:
                if hasattr(distribution, "choices"):
                    row[0, gene] = trial.suggest_categorical(choice.name, distribution.choices)
                else:
                    row[0, gene] = trial.suggest_int(choice.name, distribution.low, distribution.high)
        return self.space.canonical(row)[0]

    def _close(self, trial: optuna.Trial, cost: NDArray[np.float64], missed: float) -> None:
        assert self._study is not None
        optuna = _optuna()
        with quiet():
            trial.set_constraint(_VIOLATION, missed)
            if np.isfinite(cost).all():
                self._study.tell(trial, cost.tolist())
            else:
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)


def distributions(space: SearchSpace) -> list[Any]:
    """Optuna's distribution of each gene's index."""
    optuna = _optuna()
    return [
        optuna.distributions.IntDistribution(0, len(c.values) - 1)
        if is_ordered(c)
        else optuna.distributions.CategoricalDistribution(tuple(range(len(c.values))))
        for c in space.choices
    ]


def to_optuna(result: SearchResult, path: str | os.PathLike[str], *, name: str = "search") -> Path:
    """Write a finished search as an Optuna study into an SQLite file: ``optuna-dashboard sqlite:///<path>`` opens it.

    Parameters are the choices' values, objectives keep their names and directions, failed evaluations are failed trials,
    and violations are constraints. Raises BadInput when the file has a study of that name or cannot be written.
    """
    optuna = _optuna()
    path = Path(path)
    values: dict[str, Any] = {
        c.name: optuna.distributions.CategoricalDistribution(c.values) for c in result.space.choices
    }
    trials = []
    for row, config in enumerate(result.space.decode(result.archs)):
        fine = result.error[row] == "" and bool(np.isfinite(result.values[row]).all())
        with quiet():
            trials.append(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState.COMPLETE if fine else optuna.trial.TrialState.FAIL,
                    values=result.values[row].tolist() if fine else None,
                    params=dict(config),
                    distributions={k: values[k] for k in config},
                    user_attrs={} if fine else {"error": str(result.error[row])},
                    system_attrs={f"constraints:{_VIOLATION}": float(result.violation[row])},
                )
            )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with quiet():
            study = optuna.create_study(
                storage=f"sqlite:///{path}",
                study_name=name,
                directions=["maximize" if o.maximize else "minimize" for o in result.objectives],
            )
            study.set_metric_names([o.name for o in result.objectives])
            study.add_trials(trials)
            study._storage.remove_session()
    except optuna.exceptions.DuplicatedStudyError:
        raise BadInput(f"{path} already has a study called {name!r}; choose another file or name") from None
    except (OSError, optuna.exceptions.StorageInternalError) as error:
        raise BadInput(f"cannot write {path}: {str(error).splitlines()[0]}") from None
    return path


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Optuna tells of every trial, and of every feature that is experimental; within this it does not."""
    optuna = _optuna()
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)


def _trial(space: SearchSpace, row: NDArray[np.uint8], cost: NDArray[np.float64], missed: float) -> Any:
    optuna = _optuna()
    active = space.active(row[None])[0]
    there: Mapping[str, Any] = {
        c.name: d for c, d, on in zip(space.choices, distributions(space), active, strict=True) if on
    }
    fine = bool(np.isfinite(cost).all())
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.COMPLETE if fine else optuna.trial.TrialState.FAIL,
        values=cost.tolist() if fine else None,
        params={c.name: int(row[i]) for i, c in enumerate(space.choices) if active[i]},
        distributions=dict(there),
        system_attrs={f"constraints:{_VIOLATION}": missed},
    )


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    samplers = _optuna().samplers
    sampler: optuna.samplers.BaseSampler = samplers.TPESampler(multivariate=True, seed=seed)
    return sampler


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise MissingPackage("optuna", "optuna") from None
    return optuna
