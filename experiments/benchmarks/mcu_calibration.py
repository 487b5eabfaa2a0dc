"""Milliseconds of Cortex-M boards from counted instructions, beside the model of MACs: MLPerf Tiny's networks, each left out.

Four predictions of every published timing, none of which has seen it: ``counted`` and ``macs_one`` have one number per board
(milliseconds per instruction, or per MAC), from the board's other three networks. ``macs`` is the model of ``nas fit --board``
(costs per kind of MAC, informed by all boards; the network is left out on all of them). ``both`` is what ``nas fit --board
--counted`` makes tables of: the mean of ``counted`` and ``macs``.

    python experiments/benchmarks/mcu_calibration.py [--quick] [--check]
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from harness import Measured, Target, run

from nas.deploy.c import mlperf_tiny
from nas.deploy.c.firmware import macs
from nas.measuring.counted import CORES, held_out, reference_instructions
from nas.tables.fit.boards import boards, find

WAYS = ("counted", "macs_one", "macs", "both")
TARGETS = [
    Target(figure="worst_board", sense="<=", bound=0.2, why="the issue's: median error of each board's networks"),
    Target(figure="boards_better_than_macs", sense=">=", bound=1.0, why="the issue's: smaller mean error"),
    Target(figure="boards_better_with_one_number", sense=">=", bound=1.0, why="instructions or MACs, all else equal"),
]


def measure(quick: bool) -> Measured:
    found = [find(name) for name in boards()]
    cores = sorted({CORES[board.core] for board in found})
    instructions = {core: reference_instructions(core) for core in (cores[:1] if quick else cores)}
    by_macs = {name: float(macs(program)) for name, program in mlperf_tiny.programs().items()}
    frames = []
    for board in found:
        if (core := CORES[board.core]) not in instructions:
            continue
        held = held_out(board, instructions[core])
        frame = pd.DataFrame({"board": board.name, "core": core, "network": list(board.networks)})
        frame["instructions"] = frame["network"].map(instructions[core])
        one = held_out(board, by_macs).counted
        predicted = {"counted": held.counted, "macs_one": one, "macs": held.macs, "both": held.both}
        frame = frame.assign(measured_ms=held.measured, **predicted)
        frames.append(frame.assign(**{f"{way}_error": predicted[way] / held.measured - 1 for way in WAYS}))
    rows = pd.concat(frames)
    errors = rows[[f"{way}_error" for way in WAYS]].abs().set_axis(WAYS, axis=1).groupby(rows["board"])
    median, mean = errors.median(), errors.mean()
    print(pd.concat({"median error": median, "mean error": mean}, axis=1).round(3).to_string())
    figures = {
        "worst_board": float(median["both"].max()),
        "boards_within_20pct": float((median["both"] <= 0.2).mean()),
        "boards_better_than_macs": float((mean["both"] < mean["macs"]).mean()),
        "boards_better_with_one_number": float((mean["counted"] < mean["macs_one"]).mean()),
        **{f"median_board_{way}": float(np.median(mean[way])) for way in WAYS},
    }
    return Measured(rows=rows.round(4), figures=figures)


if __name__ == "__main__":
    run("mcu_calibration", TARGETS, measure, packages=("numpy", "pandas"))
