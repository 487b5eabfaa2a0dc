"""pymoo's and Optuna's multi-objective samplers on a tabulated space of integer genes; peers of nasbench201.py."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import optuna
from numpy.typing import NDArray
from pymoo_peer import PEERS as PYMOO

Costs = NDArray[np.float64]
Evaluate = Callable[[NDArray[np.uint8]], Costs]
_MAX_REPEATS = 3  # trials per wanted evaluation, after which a sampler that only repeats itself is stopped


def pymoo_nsga2(levels: tuple[int, ...], costs: Evaluate, evaluations: int, seed: int) -> Costs:
    """pymoo's NSGA-II in the setting that does best on categorical genes: its own uniform crossover, 16 offspring."""
    seen: list[Costs] = []

    def recorded(archs: NDArray[np.uint8]) -> Costs:
        seen.append(costs(archs))
        return seen[-1]

    PYMOO["uniform_16"](levels, 2, recorded, evaluations, 64, seed)
    return np.vstack(seen)[:evaluations]


def optuna_sampler(make: Callable[[int], optuna.samplers.BaseSampler]) -> Callable[..., Costs]:
    """A peer from an Optuna sampler. A repeated proposal is told its known value and costs no evaluation."""

    def run(levels: tuple[int, ...], costs: Evaluate, evaluations: int, seed: int) -> Costs:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study = optuna.create_study(directions=["minimize", "minimize"], sampler=make(seed))
        known: dict[tuple[int, ...], Costs] = {}
        for _ in range(_MAX_REPEATS * evaluations):
            trial = study.ask()
            arch = tuple(trial.suggest_categorical(f"g{i}", range(n)) for i, n in enumerate(levels))
            if arch not in known:
                known[arch] = costs(np.array([arch], dtype=np.uint8))[0]
            study.tell(trial, known[arch].tolist())
            if len(known) == evaluations:
                break
        return np.array(list(known.values()))

    return run


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # multivariate is experimental
        return optuna.samplers.TPESampler(multivariate=True, seed=seed)


PEERS: dict[str, Callable[[tuple[int, ...], Evaluate, int, int], Costs]] = {
    "pymoo_nsga2": pymoo_nsga2,
    "optuna_nsga2": optuna_sampler(lambda seed: optuna.samplers.NSGAIISampler(seed=seed)),
    "optuna_tpe": optuna_sampler(_tpe),
}
