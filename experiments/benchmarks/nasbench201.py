"""Searchers on NAS-Bench-201: CIFAR-100 error against measured latency, on 21 devices, 10 seeds each.

Every searcher may evaluate 100, 200 and 500 different architectures. Both objectives count as unknown until an architecture
is evaluated, for ours as for the peers; "guided_table" is the way this framework is meant to be used, with the latency of
every architecture known from a table and only the accuracy evaluated. The figure is the hypervolume relative to the true
front's, objectives scaled so that the true front's ideal is 0 and its nadir 1, reference 1.1.

Peers: pymoo's NSGA-II (uniform crossover, 16 offspring), Optuna's NSGA-II and multivariate TPE. Runs are kept in
results/runs/nasbench201.csv as they finish, and an interrupted benchmark goes on from there; delete the file to start anew.
The settings of Guided were chosen on seeds 1000 and up of six of the devices, not on the seeds measured here.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import pandas as pd
from harness import RESULTS, Measured, Target, run
from on_nasbench201 import AT, SPACE, Costs, Evaluate, Runs, ask_and_tell, by_device, one_run

from nas.objectives import Objective
from nas.objectives.tabular import NASBENCH201, TabularBenchmark
from nas.searchers.evolution import RegularizedEvolution
from nas.searchers.guided import Guided
from nas.searchers.local_search import LocalSearch
from nas.searchers.nsga2 import NSGA2
from nas.searchers.ppo import PolicySearch
from nas.searchers.random import RandomSearch

try:
    from tabular_peers import PEERS
except ImportError as missing:
    print(f"nasbench201: skipped, a peer is not installed ({missing}); they come with the extra 'bench'")
    sys.exit(0)

RUNS = RESULTS / "runs" / "nasbench201.csv"

TARGETS = [
    *(
        Target(figure=f"{way}_{n}", sense=">=", bound=bound, why="mean over devices and seeds; issue 3")
        for way in ("guided_table", "guided")
        for n, bound in ((100, 0.98), (200, 0.993))
    ),
    *(Target(figure=f"devices_ahead_{n}", sense=">=", bound=21, why="guided ahead of every peer; issue 3") for n in AT),
    *(
        Target(figure=f"devices_ahead_table_{n}", sense=">=", bound=21, why="guided_table ahead of every peer; issue 3")
        for n in AT
    ),
    *(
        Target(figure=f"nsga2_minus_pymoo_{n}", sense=">=", bound=0.0, why="at least equal to pymoo's; issue 3")
        for n in AT
    ),
]

OURS: dict[str, Callable[..., object]] = {
    "guided": lambda objectives, seed: Guided(SPACE, seed=seed),
    "guided_table": lambda objectives, seed: Guided(SPACE, objectives, seed=seed),
    "nsga2": lambda objectives, seed: NSGA2(SPACE, seed=seed),
    "evolution": lambda objectives, seed: RegularizedEvolution(SPACE, seed=seed),
    "local_search": lambda objectives, seed: LocalSearch(SPACE, seed=seed),
    "ppo": lambda objectives, seed: PolicySearch(SPACE, seed=seed, algorithm="ppo"),
    "reinforce": lambda objectives, seed: PolicySearch(SPACE, seed=seed, algorithm="reinforce"),
    "random": lambda objectives, seed: RandomSearch(SPACE, seed=seed),
}


def measure(quick: bool) -> Measured:
    devices = ("raspi4", "gold_6240") if quick else TabularBenchmark.load(SPACE, NASBENCH201).devices
    seeds, most = (1, 100) if quick else (10, AT[-1])
    runs = Runs(None if quick else RUNS)
    wanted = [(method, device, seed) for seed in range(seeds) for device in devices for method in (*PEERS, *OURS)]
    with ProcessPoolExecutor(max_workers=2) as pool:
        futures = [pool.submit(run_of, *task, most) for task in runs.left(wanted)]
        for future in as_completed(futures):
            runs.add(future.result())
    measured = summary(runs.frame, most)
    for name in [n for n in measured.figures if quick and n.startswith("devices_ahead")]:
        del measured.figures[name]  # the target counts all devices
    return measured


def summary(runs: pd.DataFrame, most: int) -> Measured:
    """Means over the seeds, by device and method."""
    columns = [f"hv_{n}" for n in AT if n <= most]
    table = runs.groupby(["device", "method"])[columns].mean().unstack()
    figures: dict[str, float] = {}
    for n in [n for n in AT if n <= most]:
        means = table[f"hv_{n}"]
        for method in means:
            figures[f"{method}_{n}"] = round(float(means[method].mean()), 4)
        rivals = means[["random", *PEERS]].max(axis=1)
        figures[f"devices_ahead_{n}"] = int((means["guided"] > rivals).sum())
        figures[f"devices_ahead_table_{n}"] = int((means["guided_table"] > rivals).sum())
        figures[f"nsga2_minus_pymoo_{n}"] = round(float((means["nsga2"] - means["pymoo_nsga2"]).mean()), 5)
    return Measured(rows=by_device(runs, columns).reset_index(), figures=figures)


def run_of(method: str, device: str, seed: int, most: int) -> dict[str, object]:
    """One run of one of ours or of a peer."""

    def search(objectives: Sequence[Objective], costs: Evaluate) -> Costs:
        if method in PEERS:
            return PEERS[method](tuple(SPACE.sizes), costs, most, seed)
        return ask_and_tell(OURS[method](objectives, seed), costs, most)

    ran = one_run(TabularBenchmark.load(SPACE, NASBENCH201), device, search)
    return {"method": method, "device": device, "seed": seed, **ran}


if __name__ == "__main__":
    run("nasbench201", TARGETS, measure, packages=("numpy", "torch", "pymoo", "optuna"))
