"""A search under a microcontroller's limits against MobileNetV2 scaled into them, on CIFAR-10's JPEGs.

Compares what ``experiments/mcu.py`` has made so far in ``runs/mcu`` (it keeps what is finished, and goes on): per seed the network
searched in ``mcu.small`` and the best width and resolution of MobileNetV2, both within 128 KB of SRAM, 512 KB of flash and
3 million MACs, trained on the same 4,000 images for as many epochs. ``fits``: share of the networks whose firmware was linked
and is within the limits. ``equal``: share whose emulated firmware gave the host's outputs to the bit. ``margin``: test accuracy of
the C code (int8, with or without an epoch of quantization-aware training, whichever is better on validation images),
searched minus MobileNetV2, in points, mean over seeds; ``margin_se`` its standard error; ``_fp32``: before. 5,000 test images leave 0.7 points of noise in each accuracy.

``--quick``: one seed, few images: that all of it runs, not that it is good.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from harness import Measured, Target, run

sys.path.insert(0, str(Path(__file__).parents[1]))

import cifar
from mcu import Scale, Study

FOLDER = Path(__file__).parents[2] / "runs" / "mcu"
TINY = Scale(train=100, val=100, test=100, scored=8, tried=1, epochs=1, emulated=2)
TARGETS = [
    Target(figure="fits", sense=">=", bound=1.0, why="issue 13: every returned network builds and fits"),
    Target(figure="equal", sense=">=", bound=1.0, why="issue 13: firmware equal to the host build to the bit"),
    Target(
        figure="margin", sense=">=", bound=0.0, why="issue 13: more accurate than width-scaled MobileNetV2, 3 seeds"
    ),
]


def networks_in(folder: Path) -> pd.DataFrame:
    """A row per network that is finished, sorted by seed and method."""
    rows = []
    for path in sorted(p for name in ("searched", "mobilenet_v2") for p in folder.glob(f"seed*/{name}.json")):
        board = path.with_name(f"{path.stem}_board.json")
        rows.append(json.loads(path.read_text()) | (json.loads(board.read_text()) if board.exists() else {}))
    return pd.DataFrame(rows).drop(columns=["arch", "tried", "peak_sram", "flash_size"], errors="ignore")


def measure(quick: bool) -> Measured:
    cifar.needed()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if quick else FOLDER
        if quick:
            Study(folder, 0, TINY).run()
        rows = networks_in(folder)
    if rows.empty:
        sys.exit("runs/mcu holds no networks: run experiments/mcu.py first")
    on_board = rows[rows["ram"].notna()]
    figures = {
        "fits": float(on_board["fits"].astype(float).mean()),
        "equal": float(on_board["emulated_equal"].astype(float).mean()),
    }
    for name, column in (("margin", "test_c"), ("margin_fp32", "test_fp32")):
        by = rows.pivot(index="seed", columns="method", values=column).dropna()
        points = 100 * (by["searched"] - by["mobilenet_v2"])
        figures |= {f"{name}_seeds": float(len(points)), name: float(points.mean()), f"{name}_se": float(points.sem())}
    figures = {name: value for name, value in figures.items() if np.isfinite(value)}  # no error of a single seed
    return Measured(rows=rows, figures=figures)


if __name__ == "__main__":
    run("mcu_search", TARGETS, measure, packages=("numpy", "torch", "ai-edge-litert"))
