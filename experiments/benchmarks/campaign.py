"""How long a full campaign takes on this CPU, and how well two of them agree.

Measures all blocks of MobileNetV3.cifar() twice in ONNX Runtime, one thread; nothing else should run.
"""

from __future__ import annotations

import logging
import tempfile
import time

import numpy as np
import pandas as pd
import torch
from harness import Measured, Target, run

from nas.measuring.campaign import measure as measure_table
from nas.runtimes import OnnxRuntime
from nas.tables.validation import repeatability
from search_spaces import MobileNetV2, MobileNetV3

TARGETS = [
    Target(figure="minutes", sense="<=", bound=10, why="issue 4: the slower of two campaigns, blocks and networks"),
    Target(
        figure="repeat_median", sense="<=", bound=0.05, why="issue 4: median over the blocks of |second / first - 1|"
    ),
]


def measure(quick: bool) -> Measured:
    torch.set_num_threads(1)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    space = MobileNetV2.digits() if quick else MobileNetV3.cifar()
    runtime = OnnxRuntime(precision="fp32")
    tables, minutes = [], []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            begun = time.monotonic()
            tables.append(measure_table(space, runtime, run_dir=folder))
            minutes.append((time.monotonic() - begun) / 60)
    agree = repeatability(*tables)
    archs = space.sample(1000, np.random.default_rng(0))
    first, second = (space.scorer(t.lookup(space.blocks))(archs) for t in tables)
    rows = [
        {
            "campaign": i,
            "blocks": len(t.rows),
            "minutes": round(m, 2),
            "drift": t.notes["reference_drift"],
            "kendall_tau": t.validation.kendall_tau,
            "mape": t.validation.mape,
        }
        for i, (t, m) in enumerate(zip(tables, minutes, strict=True))
        if t.validation
    ]
    figures = {
        "minutes": max(minutes),
        "repeat_median": agree["median"],
        "repeat_p90": agree["p90"],
        # what a search would notice: the same random networks by either table
        "networks_median": float(np.median(np.abs(second / first - 1))),
    }
    return Measured(rows=pd.DataFrame(rows), figures=figures)


if __name__ == "__main__":
    run("campaign", TARGETS, measure, packages=("onnxruntime", "torch"))
