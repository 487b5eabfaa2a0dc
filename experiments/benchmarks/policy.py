"""Reinforcement learning on NAS-Bench-201 (21 devices, 10 seeds) and on once-for-all's Note10 task.

(a) CIFAR-100 error against measured latency; every searcher may evaluate 100, 200 and 500 different architectures. "ppo" and
"reinforce" know neither objective before; "ppo_table" has the latency from a table. Peers: random search, our NSGA-II and
pymoo's in the settings that did best on the devices of tuning at 100, 200 and 500 evaluations (see ``PYMOO``). The figure
is the hypervolume of nasbench201.py: relative to the true front's, reference 1.1.
(b) 50,000 evaluations on the Note10: seeds that meet all six published accuracies.

Settings were chosen on seeds 1000 and up of six devices (``TUNED``), not on the seeds measured here; the other 15 devices
were kept back, and have figures of their own. Runs are kept in results/runs/policy.csv as they finish, and an interrupted
benchmark (Ctrl-C: with the figures of what is finished) goes on from there; delete the file to start anew.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from harness import RESULTS, Measured, Target, run
from numpy.typing import NDArray

import nas
from nas.objectives.tabular import NASBENCH201, TabularBenchmark
from nas.pareto import hypervolume, non_dominated
from nas.searchers.nsga2 import NSGA2
from nas.searchers.ppo import PolicySearch
from nas.searchers.random import RandomSearch
from search_spaces import OnceForAll
from search_spaces.nasbench201 import NasBench201

try:
    from pymoo_peer import categorical, rounded
except ImportError as missing:
    print(f"policy: skipped, a peer is not installed ({missing}); it comes with the extra 'bench'")
    sys.exit(0)

AT = (100, 200, 500)
RUNS = RESULTS / "runs" / "policy.csv"
SPACE = NasBench201.cell()
TUNED = ("pixel2", "raspi4", "eyeriss", "gold_6240", "1080ti_1", "2080ti_256")
Costs = NDArray[np.float64]
OURS: dict[str, Callable[..., object]] = {
    "random": lambda objectives, seed: RandomSearch(SPACE, seed=seed),
    "nsga2": lambda objectives, seed: NSGA2(SPACE, seed=seed),
    "ppo": lambda objectives, seed: PolicySearch(SPACE, seed=seed),
    "reinforce": lambda objectives, seed: PolicySearch(SPACE, seed=seed, algorithm="reinforce"),
    "ppo_table": lambda objectives, seed: PolicySearch(SPACE, objectives, seed=seed),
}
LEARNERS = ("ppo", "reinforce", "ppo_table")
PYMOO = {
    "pymoo_100": partial(rounded, offspring=16, population=8),
    "pymoo_200": partial(categorical, offspring=4, population=16),
    "pymoo_500": partial(categorical, offspring=4, population=20),
}
"""Our NSGA-II's peers, one for each number of evaluations, the best of an unfinished scan: the categorical operators with
8 to 32 members and 1 to 20 offspring, the rounded ones with 8 members only. They start at random; ours starts with the
even networks, to which it owes most of its lead."""
TARGETS = [
    *(
        Target(figure=f"{way}_devices_{sense}_random_{n}", sense=">=", bound=21, why="on every device; issue 11")
        for way in LEARNERS
        for sense, n in (("not_below", 100), ("above", 200), ("above", 500))
    ),
    *(
        Target(figure=f"{way}_minus_nsga2_500", sense=">=", bound=-0.01, why="within 0.01 of NSGA-II; issue 11")
        for way in LEARNERS
    ),
    *(
        Target(figure=f"nsga2_devices_not_below_pymoo_{n}", sense=">=", bound=21, why="on every device; issue 11")
        for n in AT
    ),
    Target(figure="note10_seeds_that_meet_all", sense=">=", bound=0.9, why="9 of 10 seeds; issue 11"),
]


def measure(quick: bool) -> Measured:
    benchmark = TabularBenchmark.load(SPACE, NASBENCH201)
    devices = ("raspi4", "gold_6240") if quick else benchmark.devices
    wanted = [(m, d, s) for s in range(1 if quick else 10) for d in devices for m in (*OURS, *PYMOO)]
    if not quick:
        wanted += [("ppo", "note10", seed) for seed in range(10)]
    done = pd.DataFrame(columns=["method"]) if quick or not RUNS.exists() else pd.read_csv(RUNS)
    known = set() if done.empty else set(zip(done["method"], done["device"], done["seed"], strict=True))
    rows = done.to_dict("records")
    try:
        for task in wanted:
            if task not in known:
                rows.append(note10_run(task[2]) if task[1] == "note10" else one_run(benchmark, *task))
                if not quick:
                    RUNS.parent.mkdir(exist_ok=True)
                    pd.DataFrame(rows).to_csv(RUNS, index=False)
    except KeyboardInterrupt:
        print(f"stopped after {len(rows)} of {len(wanted)} runs; these are the figures of what is finished")
    measured = summary(pd.DataFrame(rows))
    for name in [n for n in measured.figures if quick and "devices" in n]:
        del measured.figures[name]  # the target counts all devices
    return measured


def summary(runs: pd.DataFrame) -> Measured:
    """Means over the seeds, by device and method."""
    columns = [f"hv_{n}" for n in AT]
    cells = runs[runs["device"] != "note10"]
    table = cells.groupby(["device", "method"])[columns].mean().unstack()
    figures: dict[str, float] = {}
    for n in AT:
        means = table[f"hv_{n}"].dropna(axis=1)  # a peer of 100 evaluations has none of 200
        kept_back = means[~means.index.isin(TUNED)]
        for method in means:
            figures[f"{method}_{n}" if method in OURS else f"{method}_at_{n}"] = round(float(means[method].mean()), 4)
            figures[f"{method}_kept_back_{n}"] = round(float(kept_back[method].mean()), 4)
        for way in [w for w in LEARNERS if w in means]:
            own = cells[cells["method"] == way][["device", "seed"]]  # the same seeds for all that are compared
            paired = cells.merge(own).groupby(["device", "method"])[f"hv_{n}"].mean().unstack()
            sense = "not_below" if n == 100 else "above"
            ahead = paired[way] >= paired["random"] if n == 100 else paired[way] > paired["random"]
            figures[f"{way}_seeds"] = int(own["seed"].nunique())
            figures[f"{way}_devices_{sense}_random_{n}"] = int(ahead.sum())
            figures[f"{way}_minus_nsga2_{n}"] = round(float((paired[way] - paired["nsga2"]).mean()), 5)
            figures[f"{way}_minus_nsga2_worst_{n}"] = round(float((paired[way] - paired["nsga2"]).min()), 5)
        margin = means["nsga2"] - means[f"pymoo_{n}"]
        figures[f"nsga2_devices_not_below_pymoo_{n}"] = int((margin >= 0).sum())
        figures[f"nsga2_minus_pymoo_{n}"] = round(float(margin.mean()), 5)
    phone = runs[runs["device"] == "note10"]
    if len(phone):
        figures["note10_seeds_that_meet_all"] = round(float((phone["limits_met"] == 6).mean()), 2)
    by_device = cells.groupby(["device", "method"])[columns].agg(["mean", "std"]).round(4)
    by_device.columns = ["_".join(c) for c in by_device.columns]
    grouped = runs.groupby(["device", "method"])
    extra = pd.DataFrame({"runs": grouped.size(), "seconds": grouped["seconds"].mean().round(2)})
    if len(phone):
        extra["limits_met"] = grouped["limits_met"].mean()
    return Measured(rows=by_device.join(extra, how="right").reset_index(), figures=figures)


def one_run(benchmark: TabularBenchmark, method: str, device: str, seed: int) -> dict[str, object]:
    """Hypervolumes of one run, and its seconds."""
    error, latency = benchmark.accuracy(), benchmark.latency(device, cheap=True)

    def costs(archs: NDArray[np.uint8]) -> Costs:
        return np.column_stack([-error(archs), latency(archs)])

    everything = np.column_stack([-benchmark.columns["accuracy"], benchmark.columns[f"latency_ms.{device}"]])
    front = everything[non_dominated(everything)]
    started = time.process_time()
    if method in PYMOO:
        most = int(method.split("_")[1])
        seen: list[Costs] = []
        PYMOO[method](SPACE.sizes, 2, lambda archs: seen.append(costs(archs)) or seen[-1], evaluations=most, seed=seed)
        found = np.vstack(seen)[:most]
    else:
        found = ask_and_tell(OURS[method]([error, latency], seed), costs, AT[-1])
    seconds = round(time.process_time() - started, 2)
    low, span = front.min(axis=0), np.ptp(front, axis=0)

    def volume(points: Costs) -> float:
        return hypervolume((points - low) / span, (1.1, 1.1))

    values = {f"hv_{n}": round(volume(found[:n]) / volume(front), 5) for n in AT if n <= len(found)}
    return {"method": method, "device": device, "seed": seed, **values, "seconds": seconds}


def ask_and_tell(searcher: object, costs: Callable[[NDArray[np.uint8]], Costs], most: int) -> Costs:
    """Costs in order of evaluation, asked for as ``nas.search`` does."""
    found: list[Costs] = []
    done = 0
    while done < most:
        archs = searcher.ask(16)[: most - done]  # type: ignore[attr-defined]
        found.append(costs(archs))
        searcher.tell(archs, found[-1], np.zeros(len(archs)))  # type: ignore[attr-defined]
        done += len(archs)
    return np.vstack(found)


def note10_run(seed: int) -> dict[str, object]:
    """How many of the published accuracies one search of the whole front meets."""
    from ofa_note10 import EVALUATIONS, LIMITS_MS, PUBLISHED, SHARED, TABLE, ofa_predictor

    space = OnceForAll.mobilenet_v3()
    accuracy = ofa_predictor(space, Path(SHARED) / "imagenet_accuracy_predictor.npz")
    latency = nas.latency(space, nas.LatencyTable.load(TABLE), unvalidated=True)
    started = time.process_time()
    searcher = PolicySearch(space, [accuracy, latency], seed=seed)
    values = nas.search(space, [accuracy, latency], searcher, budget=EVALUATIONS, batch=250).values
    best = [float(values[values[:, 1] <= limit, 0].max()) for limit in LIMITS_MS]
    met = sum(ours >= published for ours, published in zip(best, PUBLISHED, strict=True))
    margin = min(ours - published for ours, published in zip(best, PUBLISHED, strict=True))
    seconds = round(time.process_time() - started, 2)
    return {"method": "ppo", "device": "note10", "seed": seed, "seconds": seconds, "limits_met": met, "margin": margin}


if __name__ == "__main__":
    run("policy", TARGETS, measure, packages=("numpy", "pymoo"))
