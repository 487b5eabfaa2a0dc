"""Latency tables of Cortex-M boards from counted instructions and MLPerf Tiny's published timings. int8, batch 1.

    block = (cycles per instruction * instructions / clock + what the MACs model says) / 2

MLPerf Tiny's four networks are counted on the emulated core, beside the blocks. Their published milliseconds give one
number per board and runtime: cycles per instruction, the geometric mean over the four. The other half is
``nas.tables.fit.boards``, which knows MACs by kind only, but every board's timings. The two err differently: counts see
that a map's width or a kernel's leftovers cost something, the MACs model what the vendor's kernels do unlike ours.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nas.checks import checked
from nas.deploy.c import mlperf_tiny
from nas.deploy.c.program import of_blocks
from nas.runtimes import CortexM
from nas.space import Floats, SearchSpace
from nas.tables.fit import boards
from nas.tables.fit.boards import Board
from nas.tables.fit.calibration import Calibration
from nas.tables.table import LatencyTable
from nas.tables.validation import validated

CORES = {"Cortex-M0+": "cortex-m0plus", "Cortex-M4F": "cortex-m4", "Cortex-M7": "cortex-m7", "Cortex-M33": "cortex-m33"}
"""The emulated core of each that boards have."""
_Z90 = 1.2816


@dataclass(frozen=True, kw_only=True)
class Held:
    """A board's networks, ms ``(networks,)`` each: published, and predicted without that network's own timing.

    ``counted``: from the board's other three networks and instructions; ``macs``: by the MACs model, from which the
    network was left out on every board; ``both``: their mean, which is what tables hold.
    """

    measured: Floats
    counted: Floats
    macs: Floats

    @property
    def both(self) -> Floats:
        return (self.counted + self.macs) / 2


def reference_instructions(core: str) -> dict[str, int]:
    """Instructions of MLPerf Tiny's networks on an emulated core. Raises as ``CortexM.count`` does."""
    programs = mlperf_tiny.programs()
    counted = CortexM(core=core).count(list(programs.values()))  # type: ignore[arg-type]
    return {name: one.cycles[0] for name, one in zip(programs, counted, strict=True)}


def held_out(board: Board, instructions: Mapping[str, float]) -> Held:
    """``board``'s networks, each left out; ``instructions``: of the networks on its core."""
    load = np.array([instructions[name] for name in board.networks], dtype=float)
    log = np.log(board.measured / load)
    others = (log.sum() - log) / (len(log) - 1)
    return Held(measured=board.measured, counted=np.exp(others) * load, macs=board.never_seen)


@checked
def counted_board_table(board: str, space: SearchSpace) -> LatencyTable:
    """The table (kind "fitted") of the blocks of ``space`` on a board, such as "NUCLEO-L4R5ZI/X-CUBE-AI".

    Counts every block on the emulated core, so it takes the compiler and QEMU, and some 0.1 s per block. ``validation``:
    the board's networks, each predicted without its timing; ``notes`` have the errors of both halves. p10_ms and p90_ms
    are the interval that those errors give. Raises BadInput for boards without timings, or whose timings support no
    table, and as ``CortexM.count`` does.
    """
    by_macs, entry = boards.board_table(board, space), boards.find(board)
    runtime = CortexM(core=CORES[entry.core])  # type: ignore[arg-type]
    blocks = runtime.count([of_blocks([block]) for block in space.blocks])
    references = reference_instructions(runtime.core)
    held = held_out(entry, references)
    log = np.log(entry.measured / np.array([references[name] for name in entry.networks]))
    assert by_macs.calibration is not None
    ms = np.exp(log.mean()) * np.array([block.cycles[0] for block in blocks])
    ms = (ms + by_macs.rows["latency_ms"].to_numpy(float)) / 2
    half = np.exp(_Z90 * np.sqrt(np.mean(np.log(held.both / held.measured) ** 2)))
    keys = [block.key for block in space.blocks]
    return LatencyTable(
        device=entry.device,
        rows=pd.DataFrame({"block": keys, "latency_ms": ms, "p10_ms": ms / half, "p90_ms": ms * half, "runs": 0}),
        calibration=Calibration(fixed_ms=by_macs.calibration.fixed_ms / 2),
        validation=validated(held.both, held.measured),
        kind="fitted",
        space={"name": space.name, "fingerprint": space.fingerprint},
        date=datetime.date.today().isoformat(),
        source=f"instructions counted with {runtime.device.version}; {by_macs.source}",
        licence=by_macs.licence,
        notes={
            "networks": len(entry.networks),
            "validation": f"{', '.join(entry.networks)} of MLPerf Tiny, each predicted without its timing on this board",
            "cycles_per_instruction": round(float(np.exp(log.mean()) * entry.mhz * 1e3), 3),
            "left_out_error": {
                name: round(float(np.abs(predicted / held.measured - 1).mean()), 4)
                for name, predicted in (("counted", held.counted), ("macs", held.macs), ("both", held.both))
            },
            "percentiles": "from the errors of the board's networks when left out, not the spread of timings",
        },
    )
