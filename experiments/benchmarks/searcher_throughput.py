"""Searchers alone: ask and tell per CPU second, 45 genes of three to four values, two objectives, population 100.

The objectives are two sums of random weights, whose time is not counted for ours; pymoo and Optuna call them themselves,
and the time of the same calls is taken off theirs.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
from harness import Measured, Target, run
from numpy.typing import NDArray

from nas.searchers.evolution import RegularizedEvolution
from nas.searchers.local_search import LocalSearch
from nas.searchers.nsga2 import NSGA2
from nas.searchers.nsga3 import NSGA3
from nas.searchers.random import RandomSearch
from nas.space import Choice, SearchSpace

try:
    import optuna
    from pymoo_peer import DEFAULT, PEERS
except ImportError as missing:
    print(f"searcher_throughput: skipped, a peer is not installed ({missing}); they come with the extra 'bench'")
    sys.exit(0)

LEVELS = tuple(3 + i % 2 for i in range(45))
POPULATION = 100
WEIGHTS = np.random.default_rng(0).normal(size=(2, 45, 4))
TARGETS = [
    Target(figure="nsga2_over_pymoo", sense=">=", bound=10, why="issue 3"),
    Target(figure="nsga2_over_optuna", sense=">=", bound=500, why="issue 3"),
]


def measure(quick: bool) -> Measured:
    space = SearchSpace(
        "throughput", [Choice(f"g{i}", tuple(f"v{v}" for v in range(n))) for i, n in enumerate(LEVELS)], ()
    )
    ours = {
        "nsga2": lambda seed: NSGA2(space, seed=seed, population=POPULATION),
        "nsga3": lambda seed: NSGA3(space, seed=seed, population=POPULATION),
        "evolution": lambda seed: RegularizedEvolution(space, seed=seed, population=POPULATION),
        "local_search": lambda seed: LocalSearch(space, seed=seed),
        "random": lambda seed: RandomSearch(space, seed=seed),
    }
    repeats = 3 if quick else 7
    ways: dict[str, Callable[[int], float]] = {
        name: lambda seed, make=make: _ask_and_tell(make(seed), 10_000 if quick else 20_000)  # type: ignore[misc]
        for name, make in ours.items()
    }
    ways["nsga2_asked_for_1000"] = lambda seed: _ask_and_tell(
        NSGA2(space, seed=seed, population=POPULATION), 20_000, 1000
    )
    ways["pymoo_nsga2"] = lambda seed: _pymoo(DEFAULT, 5_000 if quick else 10_000, seed)
    ways["pymoo_nsga2_uniform"] = lambda seed: _pymoo(PEERS["uniform_64"], 5_000 if quick else 10_000, seed)
    # its first population is random and costs nothing like the rest: fewer evaluations would flatter it
    ways["optuna_nsga2"] = lambda seed: _optuna(1_000 if quick else 3_000, seed)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for seed in range(repeats):  # in turn, so that a noisy moment hits all
        for name, way in ways.items():
            rates[name].append(way(seed))
    rows = pd.DataFrame(
        [
            {"searcher": n, "evaluations_per_cpu_second": round(float(np.median(r))), "runs": repeats}
            for n, r in rates.items()
        ]
    )
    medians = {name: float(np.median(r)) for name, r in rates.items()}
    return Measured(
        rows=rows,
        figures={
            "nsga2_over_pymoo": round(medians["nsga2"] / medians["pymoo_nsga2"], 1),
            "nsga2_over_optuna": round(medians["nsga2"] / medians["optuna_nsga2"], 0),
        },
    )


def costs(archs: NDArray[np.uint8]) -> NDArray[np.float64]:
    return WEIGHTS[:, np.arange(45), archs].sum(axis=2).T


def _ask_and_tell(searcher: object, evaluations: int, batch: int = POPULATION) -> float:
    spent, done = 0.0, 0
    while done < evaluations:
        started = time.process_time()
        archs = searcher.ask(batch)  # type: ignore[attr-defined]
        spent += time.process_time() - started
        values, met = costs(archs), np.zeros(len(archs))
        started = time.process_time()
        searcher.tell(archs, values, met)  # type: ignore[attr-defined]
        spent += time.process_time() - started
        done += len(archs)
    return done / spent


def _pymoo(peer: Callable[..., NDArray[np.float64]], evaluations: int, seed: int) -> float:
    inside = 0.0

    def timed(archs: NDArray[np.uint8]) -> NDArray[np.float64]:
        nonlocal inside
        started = time.process_time()
        values = costs(archs)
        inside += time.process_time() - started
        return values

    started = time.process_time()
    found = peer(LEVELS, 2, timed, evaluations, POPULATION, seed)
    assert len(found)
    return evaluations / (time.process_time() - started - inside)


def _optuna(evaluations: int, seed: int) -> float:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    spent = 0.0
    for _ in range(evaluations):
        started = time.process_time()
        trial = study.ask()
        arch = [trial.suggest_categorical(f"g{i}", range(n)) for i, n in enumerate(LEVELS)]
        spent += time.process_time() - started
        values = costs(np.array([arch], dtype=np.uint8))[0].tolist()
        started = time.process_time()
        study.tell(trial, values)
        spent += time.process_time() - started
    return evaluations / spent


if __name__ == "__main__":
    run("searcher_throughput", TARGETS, measure, packages=("numpy", "pymoo", "optuna"))
