"""What the compiler's flags buy: flash, RAM and instructions of one exported network, on cores with and without DSP.

A network of the microcontroller space, compiled with -Os, -O2 and -O3, with and without link-time optimisation, with and
without leaving out what is not called, and with the portable kernels in place of those for DSP instructions. Flash and RAM
are what the network adds to firmware, kernels, weights and arena among them.
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from harness import Measured, Target, run

from nas.deploy.c import emulator, firmware
from nas.deploy.c.build import Flags
from nas.deploy.c.program import Program, filled, of_blocks
from search_spaces.mcu import Mcu

CORES = ("cortex-m4", "cortex-m0plus")
USUAL = Flags(core="cortex-m4")
TARGETS = [
    Target(
        figure="different_outputs",
        sense="<=",
        bound=0,
        why="flags and cores change what is compiled, not what it computes",
    ),
    Target(figure="o2_instructions", sense="<=", bound=1, why="the usual -O2 is at least as fast as -Os on the M4"),
    Target(figure="sections_flash", sense="<=", bound=1, why="leaving out what is not called costs nothing"),
]


def measure(quick: bool) -> Measured:
    space = Mcu.small()
    networks = list(space.networks(space.sample(16, np.random.default_rng(1))))
    program = filled(min(map(of_blocks, networks), key=firmware.macs))
    image = np.random.default_rng(0).integers(-128, 128, program.maps[program.input].shape, np.int8).tobytes()
    rows = pd.DataFrame([_row(program, flags, image) for flags in _choices(quick)])
    usual = rows[(rows["core"] == USUAL.core) & ~rows["portable"] & ~rows["lto"]].set_index(["optimize", "sections"])
    figures = {
        "different_outputs": rows.pop("output").nunique() - 1,
        "o2_instructions": usual["instructions"]["-O2", True] / usual["instructions"]["-Os", True],
        "sections_flash": usual["flash"]["-O2", True] / usual["flash"]["-O2", False],
    }
    rows.insert(0, "tools", f"gcc {firmware.compiler_version(USUAL.core)}, QEMU {emulator.version()}")
    rows.insert(1, "macs", firmware.macs(program))
    return Measured(rows=rows, figures={name: round(float(value), 4) for name, value in figures.items()})


def _choices(quick: bool) -> list[Flags]:
    if quick:
        return [USUAL, dataclasses.replace(USUAL, optimize="-Os"), dataclasses.replace(USUAL, sections=False)]
    ways = itertools.product(CORES, ("-Os", "-O2", "-O3"), (False, True))
    made = [Flags(core=core, optimize=optimize, lto=lto) for core, optimize, lto in ways]
    usual = [flags for flags in made if flags.core == USUAL.core and not flags.lto]
    return [
        *made,
        *(dataclasses.replace(flags, portable=True) for flags in usual),
        *(dataclasses.replace(flags, sections=False) for flags in usual),
    ]


def _row(program: Program, flags: Flags, image: bytes) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name:
        made = firmware.network(Path(name), program, flags)
        done = emulator.run(made.elf, flags.core, made.identity, [image])
        harness = firmware.empty(Path(name), dataclasses.replace(flags, sections=True)).sizes
    return {
        "core": flags.core,
        "portable": flags.portable or flags.core == "cortex-m0plus",
        "optimize": flags.optimize,
        "lto": flags.lto,
        "sections": flags.sections,
        "flash": made.sizes.flash - harness.flash,
        "ram": made.sizes.ram - harness.ram,
        "instructions": done.instructions(done.images, emulator.NS)[0],
        "output": done.outputs[0],
    }


if __name__ == "__main__":
    run("mcu_flags", TARGETS, measure, packages=("numpy", "torch"))
