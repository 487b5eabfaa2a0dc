"""One run of a searcher or peer on a device of NAS-Bench-201, and how runs are kept; for nasbench201.py and policy.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nas.objectives import Objective
from nas.objectives.tabular import TabularBenchmark
from nas.pareto import hypervolume, non_dominated
from search_spaces.nasbench201 import NasBench201

AT = (100, 200, 500)
SPACE = NasBench201.cell()
Costs = NDArray[np.float64]
Evaluate = Callable[[NDArray[np.uint8]], Costs]


def one_run(
    benchmark: TabularBenchmark, device: str, search: Callable[[Sequence[Objective], Evaluate], Costs]
) -> dict[str, float]:
    """Hypervolumes ``hv_<n>`` of a run, relative to the true front's, and its seconds.

    ``search``: from CIFAR-100 error and latency on ``device``, as objectives and as a function of networks, to the costs
    ``(evaluations, 2)`` that it came across.
    """
    error, latency = benchmark.accuracy(), benchmark.latency(device, cheap=True)
    everything = np.column_stack([-benchmark.columns["accuracy"], benchmark.columns[f"latency_ms.{device}"]])
    front = everything[non_dominated(everything)]
    started = time.process_time()
    found = search([error, latency], lambda archs: np.column_stack([-error(archs), latency(archs)]))
    seconds = round(time.process_time() - started, 2)
    low, span = front.min(axis=0), np.ptp(front, axis=0)

    def volume(points: Costs) -> float:
        return hypervolume((points - low) / span, (1.1, 1.1))

    values = {f"hv_{n}": round(volume(found[:n]) / volume(front), 5) for n in AT if n <= len(found)}
    return values | {"seconds": seconds}


def ask_and_tell(searcher: object, costs: Evaluate, most: int) -> Costs:
    """Costs in order of evaluation, asked for as ``nas.search`` does."""
    batch = getattr(searcher, "batch", 16)
    found: list[Costs] = []
    done = 0
    while done < most:
        archs = searcher.ask(batch)[: most - done]  # type: ignore[attr-defined]
        found.append(costs(archs))
        searcher.tell(archs, found[-1], np.zeros(len(archs)))  # type: ignore[attr-defined]
        done += len(archs)
    return np.vstack(found)


class Runs:
    """Runs that are finished, a row each; ``path``: where they are kept, so that a benchmark goes on (None: nowhere)."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        kept = path is not None and path.exists()
        self.rows: list[dict[str, object]] = pd.read_csv(path).to_dict("records") if kept else []

    def left(self, wanted: Sequence[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
        """Those of (method, device, seed) that are not finished."""
        known = {(row["method"], row["device"], row["seed"]) for row in self.rows}
        return [task for task in wanted if task not in known]

    def add(self, row: dict[str, object]) -> None:
        self.rows.append(row)
        if self.path is not None:
            self.path.parent.mkdir(exist_ok=True)
            self.frame.to_csv(self.path, index=False)

    @property
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)


def by_device(runs: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Mean and standard deviation over the seeds of ``columns``, by device and method; how many runs, and their seconds."""
    grouped = runs.groupby(["device", "method"])
    table = grouped[list(columns)].agg(["mean", "std"]).round(4)
    table.columns = ["_".join(c) for c in table.columns]
    return table.assign(runs=grouped.size(), seconds=grouped["seconds"].mean().round(2))
