"""Optuna's samplers behind the searcher interface."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from nas.checks import Count, Seed, checked
from nas.errors import BadInput
from nas.files import first_line
from nas.progress import silenced
from nas.searchers.searcher import text_of
from nas.space import Archs, Choice, Floats, SearchSpace, is_ordered

_PATIENCE = 5  # proposals of the sampler per architecture wanted, and 20 more; then random ones
_TRIES = 20  # rounds of random proposals per ask
VIOLATION = "violation"


class OptunaSearch:
    """Any Optuna sampler as a searcher.

    ``sampler``: a function from a seed to a sampler, such as ``lambda seed: optuna.samplers.NSGAIISampler(seed=seed)``
    (default: multivariate TPE, Falkner et al. 2018). Genes are categorical, or integers where their values are three or
    more ordered numbers; those without an effect are not suggested. A proposal that is known already is told its known
    result at once; where the sampler finds nothing new, random architectures take its place. Raises BadInput
    for a sampler that cannot do what the search needs.
    """

    @checked
    def __init__(
        self, space: SearchSpace, sampler: Callable[[int], optuna.samplers.BaseSampler] | None = None, *, seed: Seed = 0
    ) -> None:
        self.space = space
        self._make = _tpe if sampler is None else sampler
        self._distributions = {c.name: _of_index(c) for c in space.choices}
        self.reset(seed)

    @checked
    def reset(self, seed: Seed) -> None:
        """Forget everything and start from ``seed``."""
        self.seed = seed
        self._rng = np.random.default_rng(seed)
        self._sampler = self._made(seed)
        self.sampler = type(self._sampler).__name__
        self.settings = {k: v for k, v in vars(self._sampler).items() if isinstance(v, int | float | str)}
        self._study: optuna.Study | None = None  # how many objectives it has is known with the first results
        self._under_way: dict[bytes, list[optuna.Trial]] = {}
        self._completed: dict[bytes, tuple[Floats, float]] = {}

    __repr__ = text_of

    @property
    def known(self) -> int:
        return len(self._completed)

    @checked
    def ask(self, n: Count) -> Archs:
        """Up to ``n`` new architectures; random ones before the first results, fewer when the space is exhausted."""
        n = min(n, self.space.size - len(self._completed) - len(self._under_way))
        chosen: list[NDArray[np.uint8]] = []
        if self._study is not None:
            with quiet(), self._complaints():
                for _ in range(_PATIENCE * n + 20):
                    if len(chosen) >= n:
                        break
                    trial = self._study.ask()
                    row = self._suggested(trial)
                    key = row.tobytes()
                    if key in self._completed:
                        self._close(trial, *self._completed[key])
                        continue
                    if key not in self._under_way:
                        chosen.append(row)
                    self._under_way.setdefault(key, []).append(trial)
        for _ in range(_TRIES):
            for row in self.space.sample(max(0, n - len(chosen)), self._rng):
                key = row.tobytes()
                if key not in self._completed and key not in self._under_way:
                    self._under_way[key] = []
                    chosen.append(row)
        return np.array(chosen, dtype=np.uint8).reshape(-1, self.space.genes)

    @checked
    def tell(self, archs: Archs, costs: Floats, violation: Floats) -> None:
        """Take in results ``costs (n, k)``; what is NaN makes a failed trial.

        Unless it violates a constraint: then costs do not count, and the worst ones known stand in for missing ones.
        """
        with quiet():
            if self._study is None:
                self._study = optuna.create_study(directions=["minimize"] * costs.shape[1], sampler=self._sampler)
                self._worst = np.full(costs.shape[1], -np.inf)
            if costs.shape[1] != len(self._study.directions):
                raise BadInput(f"this search has {len(self._study.directions)} objectives, got {costs.shape[1]} costs")
            finite = np.isfinite(costs)
            self._worst = np.maximum(self._worst, np.where(finite, costs, -np.inf).max(axis=0, initial=-np.inf))
            stand_in = np.where(np.isfinite(self._worst), self._worst, 0.0)
            for row, cost, excess in zip(self.space.canonical(archs), costs, violation, strict=True):
                key, missed = row.tobytes(), float(excess) if excess > 0 else 0.0
                if key in self._completed:
                    continue
                cost = np.where(np.isfinite(cost) | (missed == 0), cost, stand_in)
                self._completed[key] = (cost, missed)
                for trial in self._under_way.pop(key, []) or [self._injected(row)]:
                    self._close(trial, cost, missed)

    def _suggested(self, trial: optuna.Trial) -> NDArray[np.uint8]:
        config: dict[str, Any] = {}
        for choice in self.space.choices:
            if choice.only_if is None or config.get(choice.only_if[0]) in choice.only_if[1]:
                distribution = self._distributions[choice.name]
                if is_ordered(choice):
                    index = trial.suggest_int(choice.name, distribution.low, distribution.high)
                else:
                    index = trial.suggest_categorical(choice.name, distribution.choices)
                config[choice.name] = choice.values[index]
        return self.space.encode([config])[0]

    def _injected(self, row: NDArray[np.uint8]) -> optuna.Trial:
        """A trial of a network that the sampler did not propose."""
        assert self._study is not None
        active = self.space.active(row[None])[0]
        self._study.enqueue_trial({c.name: int(row[g]) for g, c in enumerate(self.space.choices) if active[g]})
        trial = self._study.ask()
        self._suggested(trial)
        if isinstance(self._sampler, optuna.samplers.BaseGASampler):
            _ = trial.relative_params  # looking makes the trial a member of the generation; others are never parents
        return trial

    def _close(self, trial: optuna.Trial, cost: Floats, missed: float) -> None:
        assert self._study is not None
        trial.set_constraint(VIOLATION, missed)
        fine = bool(np.isfinite(cost).all())
        with self._complaints():
            self._study.tell(trial, cost.tolist() if fine else None, None if fine else optuna.trial.TrialState.FAIL)

    def _made(self, seed: int) -> optuna.samplers.BaseSampler:
        make = self._make
        if not callable(make) or isinstance(make, type):
            name = make.__name__ if isinstance(make, type) else type(make).__name__
            raise BadInput(
                f"sampler is a function from a seed to a sampler, got {name}; write lambda seed: {name}(seed=seed)"
            )
        with quiet(), self._complaints():
            sampler = make(seed)
        if not isinstance(sampler, optuna.samplers.BaseSampler):
            raise BadInput(f"sampler(seed) gives an Optuna sampler, got {type(sampler).__name__}")
        return sampler

    @contextlib.contextmanager
    def _complaints(self) -> Iterator[None]:
        """Optuna's refusals (one objective only, a package of its own is missing) as one line."""
        try:
            yield
        except BadInput:
            raise
        except (ImportError, RuntimeError, ValueError) as error:
            raise BadInput(f"this Optuna sampler cannot run this search: {first_line(error)}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Optuna tells of every trial, and of every feature that is experimental; within this it does not."""
    with silenced("optuna", "alembic"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _of_index(choice: Choice) -> Any:
    """Optuna's distribution of a gene's index."""
    if is_ordered(choice):
        return optuna.distributions.IntDistribution(0, len(choice.values) - 1)
    return optuna.distributions.CategoricalDistribution(tuple(range(len(choice.values))))


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(multivariate=True, seed=seed)
