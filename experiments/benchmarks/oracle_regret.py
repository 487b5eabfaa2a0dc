"""Every searcher against the exact answer: parameters against latency, where the true front is known.

Two problems: MobileNetV3.digits() with the int8 table of this project, and once-for-all's space with the published Note10
table. Parameters (to be maximised: capacity) and latency are sums over blocks, so ``nas.exact_front`` gives the true
front and ``nas.exact_best`` the true optimum under a latency limit. Regret in hypervolume: what is missing to the true
front's, as a share of it (scaled to the front, reference 1.1). Regret at the limit (a quarter of the latency range): how
many parameters the best network found within it lacks, as a share of the best there is. Five seeds, both objectives unknown to
the searcher until evaluated.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from harness import Measured, run
from nasbench201 import ask_and_tell
from numpy.typing import NDArray

import nas
from nas.pareto import hypervolume
from nas.searchers.evolution import RegularizedEvolution
from nas.searchers.exact import exact_best, exact_front
from nas.searchers.guided import Guided
from nas.searchers.local_search import LocalSearch
from nas.searchers.nsga2 import NSGA2
from nas.searchers.nsga3 import NSGA3
from nas.searchers.optuna_tpe import OptunaSearch
from nas.searchers.ppo import PolicySearch
from nas.searchers.random import RandomSearch
from search_spaces import MobileNetV3, OnceForAll

TABLES = Path(__file__).parents[2] / "latency_tables"
PROBLEMS = {
    "digits int8": (MobileNetV3.digits, "amd-epyc_onnxruntime_int8_mobilenet_v3_digits"),
    "ofa note10": (OnceForAll.mobilenet_v3, "note10_ofa_b1"),
}
SEARCHERS = {
    "random": RandomSearch,
    "nsga2": NSGA2,
    "nsga3": NSGA3,
    "evolution": RegularizedEvolution,
    "local_search": LocalSearch,
    "ppo": PolicySearch,
    "optuna_tpe": OptunaSearch,
    "guided": Guided,
}
SLOW = {"optuna_tpe": 300, "guided": 300}
"""Most evaluations of searchers that take long over each."""


def measure(quick: bool) -> Measured:
    rows = []
    for problem, (make, table) in PROBLEMS.items():
        space = make()
        size = replace(nas.params(space), maximize=True)
        latency = nas.latency(space, nas.LatencyTable.load(TABLES / table), unvalidated=True)
        started = time.perf_counter()
        front = exact_front(space, [size, latency], tolerance=0.0 if problem == "digits int8" else 1e-3)
        seconds = time.perf_counter() - started
        true = front.values * [-1, 1]
        low, span = true.min(axis=0), np.ptp(true, axis=0)
        assert latency.extremes is not None
        limit = latency.extremes.minimum + (latency.extremes.maximum - latency.extremes.minimum) / 4
        _, best = exact_best(space, size, latency <= limit, tolerance=front.error)
        print(f"{problem}: {len(front.archs)} points on the true front, {seconds:.1f} s", flush=True)

        def costs(archs: NDArray[np.uint8], size: nas.Objective = size, latency: nas.Objective = latency) -> np.ndarray:
            return np.column_stack([-size(archs), latency(archs)])

        def volume(points: np.ndarray, low: np.ndarray = low, span: np.ndarray = span) -> float:
            return hypervolume((points - low) / span, (1.1, 1.1))

        for name, searcher in SEARCHERS.items():
            most = SLOW.get(name, 2000)
            most = min(most, 100) if quick else most
            found = [ask_and_tell(searcher(space, seed=seed), costs, most) for seed in range(1 if quick else 5)]
            for n in sorted({min(100, most), min(300, most), most}):
                regret = [1 - volume(f[:n]) / volume(true) for f in found]
                within = [-f[:n][f[:n, 1] <= limit, 0].min(initial=0.0) for f in found]
                rows.append(
                    {
                        "problem": problem,
                        "searcher": name,
                        "evaluations": n,
                        "hypervolume_regret": round(float(np.mean(regret)), 4),
                        "limit_regret": round(float(np.mean([1 - w / best for w in within])), 4),
                    }
                )
    frame = pd.DataFrame(rows)
    at = frame[frame["evaluations"] == (100 if quick else 300)]
    figures = {f"{r.problem} {r.searcher}".replace(" ", "_"): float(r.hypervolume_regret) for r in at.itertuples()}
    return Measured(rows=frame, figures=figures)


if __name__ == "__main__":
    run("oracle_regret", [], measure, packages=("numpy", "torch", "optuna"))
