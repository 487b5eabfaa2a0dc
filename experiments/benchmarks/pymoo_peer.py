"""pymoo's NSGA-II on integer genes, with two sets of operators and two numbers of offspring; a peer of nsga2.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem
from pymoo.indicators.hv import HV
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.crossover.ux import UniformCrossover
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize

Evaluate = Callable[[NDArray[np.uint8]], NDArray[np.float64]]


class OtherLevel(Mutation):
    """Every gene changes to another of its levels with probability 1/genes: the mutation of a categorical choice."""

    def _do(self, problem: Problem, X: NDArray[Any], *args: Any, random_state: Any = None, **kwargs: Any) -> Any:
        rng = np.random if random_state is None else random_state
        levels = problem.xu + 1
        changed = rng.random(X.shape) < 1 / X.shape[1]
        step = 1 + np.floor(rng.random(X.shape) * (levels - 1)).astype(int)
        return np.where(changed, (X + step) % levels, X)


def _run(
    operators: Callable[[], dict[str, Any]],
    levels: Sequence[int],
    objectives: int,
    costs: Evaluate,
    evaluations: int,
    population: int,
    seed: int,
    *,
    offspring: int,
) -> NDArray[np.float64]:
    """The non-dominated costs among all that were evaluated, ``evaluations`` of them at most."""
    found: list[NDArray[np.float64]] = []

    class Table(Problem):
        def __init__(self) -> None:
            super().__init__(n_var=len(levels), n_obj=objectives, xl=0, xu=np.array(levels) - 1, vtype=int)

        def _evaluate(self, X: NDArray[Any], out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            out["F"] = costs(X.astype(np.uint8))
            found.append(out["F"])

    algorithm = NSGA2(
        pop_size=population,
        n_offsprings=offspring,
        sampling=IntegerRandomSampling(),
        eliminate_duplicates=True,
        **operators(),
    )
    minimize(Table(), algorithm, ("n_eval", evaluations), seed=seed)
    return np.vstack(found)[:evaluations]


def _rounded() -> dict[str, Any]:
    # as in pymoo's guide to discrete variables
    return {
        "crossover": SBX(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
        "mutation": PM(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
    }


def _categorical() -> dict[str, Any]:
    return {"crossover": UniformCrossover(prob=0.9), "mutation": OtherLevel()}


PEERS: dict[str, Callable[..., NDArray[np.float64]]] = {
    "sbx_pm_64": partial(_run, _rounded, offspring=64),
    "sbx_pm_16": partial(_run, _rounded, offspring=16),
    "uniform_64": partial(_run, _categorical, offspring=64),
    "uniform_16": partial(_run, _categorical, offspring=16),
}
categorical = partial(_run, _categorical)
rounded = partial(_run, _rounded)
"""Either set of operators, with ``offspring`` and ``population`` to be chosen."""
DEFAULT: Callable[..., NDArray[np.float64]] = partial(_run, _rounded, offspring=100)
"""The settings of pymoo's guide with as many offspring as a population of 100 has members."""


def pymoo_hypervolume(points: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    return float(HV(ref_point=reference)(points))
