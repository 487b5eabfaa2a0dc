"""Every table that this CPU can measure, against 50 whole networks that neither table nor calibration has seen.

Measures each space of ``SPACES`` in each runtime and precision (one thread, batch 1): every block alone, 100 networks
to calibrate with, then 50 others. The tables stay in ``runs/table_validation`` (a campaign that was cut short goes on),
from where ``experiments/own_tables.py`` ships them. About half an hour; nothing else should run.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pandas as pd
import torch
from harness import Measured, Target, run

from nas.measuring.campaign import measure as measure_table
from nas.runtimes import LiteRT, OnnxRuntime, OpenVINO, Runtime, TorchCPU
from search_spaces import EfficientNet, MobileNetV2, MobileNetV3

FOLDER = Path(__file__).parents[2] / "runs" / "table_validation"
SPACES = (MobileNetV2.digits, MobileNetV3.digits, EfficientNet.digits, MobileNetV3.cifar)
RUNTIMES: tuple[Runtime, ...] = (
    LiteRT(precision="fp32"),
    LiteRT(precision="int8"),
    TorchCPU(),
    OpenVINO(precision="fp32"),
    OpenVINO(precision="int8"),
    OnnxRuntime(precision="fp32"),
    OnnxRuntime(precision="int8"),
)
CALIBRATE = 100
UNSEEN = 50

LABELS = [f"{r.device.runtime}_{r.device.precision}" for r in RUNTIMES]
TARGETS = [
    Target(figure=f"{label}_{figure}", sense=sense, bound=bound, why="issue 4, worst space")
    for label in LABELS
    for figure, sense, bound in (("kendall_tau", ">=", 0.95), ("within_10pct", ">=", 0.95), ("mape", "<=", 0.05))
]


def measure(quick: bool) -> Measured:
    torch.set_num_threads(1)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    rows, figures = [], {}
    for runtime, label in zip(RUNTIMES[-1:] if quick else RUNTIMES, LABELS[-1:] if quick else LABELS, strict=True):
        worst: dict[str, float] = {}
        for make in SPACES[:1] if quick else SPACES:
            space = make()
            stem = FOLDER / f"{space.name}_{label}"
            table = measure_table(
                space,
                runtime,
                run_dir=FOLDER,
                name=stem.name,
                calibrate=CALIBRATE,
                validate=UNSEEN,
                isolate=True,
                resume=True,
            )
            seen = json.loads(stem.with_suffix(".json").read_text())["validation"]
            rows.append(
                {
                    "runtime": runtime.device.runtime,
                    "version": runtime.device.version,
                    "precision": runtime.device.precision,
                    "space": space.name,
                    "blocks": len(table.rows),
                    **seen,
                    "repeat_median": table.notes["repeatability"]["median"],
                    "drift": table.notes["reference_drift"],
                    "seconds": table.notes["seconds"],
                }
            )
            print(rows[-1], flush=True)
            for figure, better in (("kendall_tau", min), ("within_10pct", min), ("mape", max)):
                worst[figure] = better(worst.get(figure, seen[figure]), seen[figure])
        figures |= {f"{label}_{figure}": value for figure, value in worst.items()}
    return Measured(rows=pd.DataFrame(rows), figures=figures)


if __name__ == "__main__":
    run("table_validation", TARGETS, measure, packages=("onnxruntime", "openvino", "ai-edge-litert", "torch"))
