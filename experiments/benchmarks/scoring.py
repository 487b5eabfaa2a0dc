"""How many architectures per second the latency objective scores on MobileNetV3.imagenet(), on one core.

Three ways in the same run, on the same architectures and with equal results: ours (``nas.latency``), a plain NumPy
fancy-indexed gather per slot, and a Python loop with one dictionary look-up per block, as tables are usually read.
Repeats are interleaved, so that a busy moment of the machine touches all three; figures are medians. Seconds are CPU
seconds of this process (all its threads), so that other work on the machine does not count.
"""

from __future__ import annotations

import os

# one core, and said before NumPy loads its BLAS
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from harness import Measured, Target, run
from numpy.typing import NDArray

from nas.blocks import Block
from nas.objectives import latency
from nas.space import Archs, SearchSpace
from search_spaces import MobileNetV3

TARGETS = [
    Target(
        figure="architectures_per_second",
        sense=">=",
        bound=5e6,
        why="exhaustive looks at large samples must cost seconds; issue 2",
    )
]
Scorer = Callable[[Archs], NDArray[np.float64]]


class Table:
    """A made-up latency table: what a block costs does not matter to the speed of looking it up."""

    fixed_ms = 0.125
    fingerprint = "benchmark"
    validation = "none needed"

    def lookup(self, blocks: Sequence[Block]) -> NDArray[np.float64]:
        return np.array([0.01 + b.macs / 1e9 for b in blocks])


def fancy_gather(space: SearchSpace, table: Table) -> Scorer:
    """Per slot one array over its genes' values, indexed with the genes' columns."""
    position = {c.name: i for i, c in enumerate(space.choices)}
    arrays = []
    for slot in space.slots:
        genes = [position[name] for name in slot.genes]
        values = _slot_table(space, table, slot.name)
        arrays.append((genes, np.array(list(values.values())).reshape([space.sizes[g] for g in genes])))

    def score(archs: Archs) -> NDArray[np.float64]:
        total = np.full(len(archs), table.fixed_ms)
        for genes, array in arrays:
            total += array[tuple(archs[:, g] for g in genes)]
        return total

    return score


def python_loop(space: SearchSpace, table: Table) -> Scorer:
    """One architecture after the other, one dictionary look-up per slot."""
    position = {c.name: i for i, c in enumerate(space.choices)}
    tables = [([position[name] for name in slot.genes], _slot_table(space, table, slot.name)) for slot in space.slots]

    def score(archs: Archs) -> NDArray[np.float64]:
        return np.array(
            [table.fixed_ms + sum(ms[tuple(row[g] for g in genes)] for genes, ms in tables) for row in archs.tolist()]
        )

    return score


def measure(quick: bool) -> Measured:
    space, table = MobileNetV3.imagenet(), Table()
    batch, few, repeats = (200_000, 2_000, 9) if quick else (1_000_000, 5_000, 25)
    archs = space.sample(batch, np.random.default_rng(0))
    ways: dict[str, tuple[Scorer, Archs]] = {
        "nas.latency": (latency(space, table), archs),
        "fancy-indexed gather": (fancy_gather(space, table), archs),
        "python loop": (python_loop(space, table), archs[:few]),
    }
    expected = ways["nas.latency"][0](archs)
    for name, (score, given) in ways.items():
        assert np.allclose(score(given), expected[: len(given)], rtol=1e-12), f"{name} computes something else"

    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, (score, given) in ways.items():
            started = time.process_time()
            score(given)
            rates[name].append(len(given) / (time.process_time() - started))
    rows = pd.DataFrame(
        [
            {
                "way": name,
                "architectures_per_second": round(float(np.median(rate))),
                "p10": round(float(np.quantile(rate, 0.1))),
                "p90": round(float(np.quantile(rate, 0.9))),
                "batch": len(ways[name][1]),
                "repeats": repeats,
            }
            for name, rate in rates.items()
        ]
    )
    ours, gather, loop = (float(v) for v in rows["architectures_per_second"])
    return Measured(
        rows=rows,
        figures={
            "architectures_per_second": ours,
            "times_fancy_gather": round(ours / gather, 2),
            "times_python_loop": round(ours / loop, 1),
        },
    )


def _slot_table(space: SearchSpace, table: Table, name: str) -> dict[tuple[int, ...], float]:
    """Latency in ms of a slot for every combination of its genes' indices, 0 where it is empty."""
    slot = next(s for s in space.slots if s.name == name)
    values = [next(c.values for c in space.choices if c.name == gene) for gene in slot.genes]
    blocks = {indices: slot.block(*v) for indices, v in zip(_indices(values), itertools.product(*values), strict=True)}
    return {indices: float(table.lookup([b])[0]) if b else 0.0 for indices, b in blocks.items()}


def _indices(values: Sequence[Sequence[object]]) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(len(v)) for v in values)))


if __name__ == "__main__":
    run("scoring", TARGETS, measure, packages=("numpy",))
