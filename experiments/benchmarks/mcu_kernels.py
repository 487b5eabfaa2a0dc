"""C kernels with DSP instructions against the portable ones: instructions on an emulated Cortex-M4, compiled with -O2.

Networks drawn from the microcontroller spaces; a 1x1 convolution with more and with fewer input channels, whose
difference is the inner loop; and MLPerf Tiny's networks beside what was published for them on Cortex-M4 boards with
Arm's CMSIS-NN. That is cycles per MAC (milliseconds * MHz / MACs): a core needs at least one cycle per instruction, two for
many loads, and more where flash is slower than the core, so ours are a lower bound of what a board would show. Nobody has
submitted TensorFlow Lite Micro with CMSIS-NN on a Cortex-M4; ONNC and microTVM with CMSIS-NN are the nearest.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from harness import Measured, Target, run

from nas.deploy.c import emulator, firmware
from nas.deploy.c.build import Flags, host_outputs
from nas.deploy.c.emit import write_sources
from nas.deploy.c.program import Map, Op, Program, filled, of_blocks
from nas.runtimes import CortexM
from search_spaces.mcu import Mcu

CORE = "cortex-m4"
NETWORKS = 8  # of each space
MOST_MACS = 40e6  # a larger one takes the emulator minutes
DATA = Path(__file__).parents[3] / "shared" / "data" / "mlperf_tiny"
TARGETS = [
    Target(figure="least_ratio", sense=">=", bound=2.5, why="issue 13, worst searched network"),
    Target(figure="inner_loop_per_mac", sense="<=", bound=1.5, why="issue 13, 1x1 convolution"),
    Target(figure="unequal_bytes", sense="<=", bound=0, why="issue 13: outputs are those of the portable kernels"),
]


def measure(quick: bool) -> Measured:
    searched = _searched(1 if quick else NETWORKS)
    loops = {f"1x1, {c} channels to 64 at 8 px": _pointwise(c) for c in (16, 32, 64, 128)}
    tiny = {} if quick else _tiny()
    programs = [*searched.values(), *loops.values(), *tiny.values()]
    dsp, portable = (_instructions(programs, Flags(core=CORE, portable=p)) for p in (False, True))
    rows = pd.DataFrame(
        {
            "device": CortexM(core=CORE).device.version,
            "kind": ["searched"] * len(searched) + ["layer"] * len(loops) + ["MLPerf Tiny"] * len(tiny),
            "network": [*searched, *loops, *tiny],
            "macs": [firmware.macs(program) for program in programs],
            "dsp_instructions": dsp,
            "portable_instructions": portable,
        }
    )
    rows["ratio"] = (rows["portable_instructions"] / rows["dsp_instructions"]).round(3)
    rows["dsp_per_mac"] = (rows["dsp_instructions"] / rows["macs"]).round(3)
    rows["portable_per_mac"] = (rows["portable_instructions"] / rows["macs"]).round(3)
    if tiny:
        rows = rows.join(_published(), on="network")
    own, layers = rows[rows["kind"] == "searched"], rows[rows["kind"] == "layer"]
    more, less = layers.iloc[-1], layers.iloc[-2]
    figures = {
        "least_ratio": own["ratio"].min(),
        "median_ratio": own["ratio"].median(),
        "median_per_mac": own["dsp_per_mac"].median(),
        "inner_loop_per_mac": (more["dsp_instructions"] - less["dsp_instructions"]) / (more["macs"] - less["macs"]),
        "unequal_bytes": _unequal(
            [p for p in searched.values() if firmware.macs(p) < MOST_MACS / 4][: 1 if quick else 4]
        ),
    }
    return Measured(rows=rows, figures={name: round(float(value), 4) for name, value in figures.items()})


def _searched(count: int) -> dict[str, Program]:
    """``count`` networks of each space."""
    found = {}
    for space in (Mcu.small(), Mcu.photos()):
        archs = space.sample(4 * count, np.random.default_rng(0))
        programs = [of_blocks(blocks) for blocks in space.networks(archs)]
        small = [program for program in programs if firmware.macs(program) < MOST_MACS][:count]
        found |= {f"{space.name} {i}": program for i, program in enumerate(small)}
    return found


def _pointwise(channels: int) -> Program:
    maps = Map(shape=(8, 8, channels)), Map(shape=(8, 8, 64))
    return Program(maps=maps, ops=(Op(kind="conv1x1", inputs=(0,), output=1),), input=0, output=1)


def _instructions(programs: Sequence[Program], flags: Flags) -> list[int]:
    with tempfile.TemporaryDirectory() as folder:
        made = firmware.counting(Path(folder), programs, flags)
        done = emulator.run(made.elf, CORE, made.identity, timeout_s=1800)
    return done.instructions(done.cases, emulator.NS)


def _unequal(programs: Sequence[Program]) -> int:
    """Bytes of output that differ from the portable kernels' on this machine, for two random images of each network."""
    differ = 0
    for i, program in enumerate(programs):
        made = filled(program, i)
        x = np.random.default_rng(i).integers(-128, 128, (2, *made.maps[made.input].shape), np.int8)
        with tempfile.TemporaryDirectory() as folder:
            write_sources(Path(folder), made)
            expected = host_outputs(Path(folder), x)
        differ += int((CortexM(core=CORE).run(made, x).outputs != expected).sum())
    return differ


def _tiny() -> dict[str, Program]:
    """MLPerf Tiny's four networks."""
    sys.path.append(str(Path(__file__).parents[1]))
    from mlperf_tiny import programs

    return programs()


def _published() -> pd.DataFrame:
    """Cycles per MAC on Cortex-M4 boards, fewest and most of all submissions; index: network."""
    names = ["cmsis_nn_cycles_per_mac_least", "cmsis_nn_cycles_per_mac_most"]
    if not DATA.exists():
        return pd.DataFrame(columns=names)
    frame = pd.read_csv(DATA / "mlperf_tiny_results.csv")
    cmsis = (frame["system"] + frame["libraries"].fillna("")).str.contains("CMSIS", case=False)
    own = frame[
        (frame["core"] == "Cortex-M4F") & (frame["division"] == "closed") & (frame["precision"] == "int8") & cmsis
    ]
    cycles = (own["latency_ms"] * own["nominal_mhz"] * 1e3 / own["ref_macs"]).round(3)
    return cycles.groupby(own["benchmark"]).agg(["min", "max"]).set_axis(names, axis=1)


if __name__ == "__main__":
    run("mcu_kernels", TARGETS, measure, packages=("numpy", "torch"))
