"""Predicted RAM and flash of the C library against linked firmware, and its arena against TensorFlow Lite Micro's.

Random networks of three spaces are quantized, written as C and linked with the firmware for a Cortex-M4 (-O2). ``sram_error`` and
``flash_error``: the largest relative error of ``nas.peak_sram`` and ``nas.flash_size(space, "c")``, which know the blocks only,
against the sections of the ELF (RAM without the stack). ``arena_worst`` and ``arena_saved``: the planned arena over the one that TensorFlow Lite
Micro records for the same int8 file (activations and its own records; also without these, for which there is no target), at
its worst, and what is saved on average. Nothing is timed, so that nothing depends on the machine. 5 minutes on a quiet one.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from harness import Measured, Target, run

import nas
import search_spaces
from nas.deploy.arena import recorded_arena
from nas.deploy.c import firmware
from nas.deploy.c.build import Flags, compiler
from nas.deploy.c.plan import planned
from nas.deploy.c.program import of_model
from nas.runtimes.litert import timing_tflite

TARGETS = [
    Target(figure="sram_error", sense="<=", bound=0.02, why="issue 13: within 2% of the linked ELF"),
    Target(figure="flash_error", sense="<=", bound=0.02, why="issue 13: within 2% of the linked ELF"),
    Target(figure="arena_worst", sense="<=", bound=1.0, why="issue 13: no larger than TensorFlow Lite Micro's"),
    Target(figure="arena_saved", sense=">=", bound=0.2, why="issue 13: at least 20% smaller on average"),
]
NETWORKS = {"mcu.small": 20, "mcu.photos": 15, "mobilenet_v3.digits": 15}
FLAGS = Flags(core="cortex-m4")


def measure(quick: bool) -> Measured:
    try:
        compiler(FLAGS.core)
    except nas.NasError as missing:
        sys.exit(f"skipped: {missing}")
    rows = [row for name, n in NETWORKS.items() for row in _networks(name, 2 if quick else n)]
    frame = pd.DataFrame(rows)
    figures = {
        "networks": float(len(frame)),
        "sram_error": float((frame["predicted_sram"] / frame["elf_ram"] - 1).abs().max()),
        "flash_error": float((frame["predicted_flash"] / frame["elf_flash"] - 1).abs().max()),
        "arena_worst": float((frame["arena"] / frame["tflm_arena"]).max()),
        "arena_saved": float((1 - frame["arena"] / frame["tflm_arena"]).mean()),
        "arena_saved_of_activations": float((1 - frame["arena"] / frame["tflm_activations"]).mean()),
    }
    return Measured(rows=frame, figures=figures)


def _networks(name: str, n: int) -> list[dict[str, object]]:
    """A row per random network of a space."""
    space = search_spaces.named(name)
    archs = space.sample(n, np.random.default_rng(13))
    predicted = zip(nas.peak_sram(space, "c")(archs), nas.flash_size(space, "c")(archs), strict=True)
    rows = []
    for i, (blocks, (sram, flash)) in enumerate(zip(space.networks(archs), predicted, strict=True)):
        model = timing_tflite(nas.Network(blocks), blocks[0].in_shape, precision="int8")
        program = of_model(model)
        with tempfile.TemporaryDirectory() as folder:
            sizes = firmware.network(Path(folder), program, FLAGS).sizes
        activations, records = recorded_arena(model)
        rows.append(
            {
                "space": name,
                "network": i,
                "predicted_sram": int(sram),
                "elf_ram": sizes.ram,
                "predicted_flash": int(flash),
                "elf_flash": sizes.flash,
                "arena": planned(program).arena,
                "tflm_arena": activations + records,
                "tflm_activations": activations,
            }
        )
    return rows


if __name__ == "__main__":
    run("mcu_memory", TARGETS, measure, packages=("numpy", "torch", "ai-edge-litert", "tflite-micro"))
