"""Predicted against measured latency on 30 whole networks that neither table nor calibration has seen.

Measures an fp32 and an int8 table of MobileNetV3.digits() on this machine's CPU (ONNX Runtime, one thread), then draws
30 fresh random networks per precision, disjoint from those of the campaign, and times them in turns.
"""

from __future__ import annotations

import tempfile

import numpy as np
import pandas as pd
import torch
from harness import Measured, Target, run

from nas.latency import measure as measure_table
from nas.latency.campaign import distinct_archs, time_interleaved, validated
from nas.modules import Network
from nas.runtimes import OnnxRuntime
from search_spaces import MobileNetV2, MobileNetV3

TARGETS = [
    Target(figure="fp32_kendall_tau", sense=">=", bound=0.9, why="issue 2"),
    Target(figure="fp32_within_10pct", sense=">=", bound=0.9, why="issue 2"),
    Target(figure="int8_kendall_tau", sense=">=", bound=0.9, why="issue 2"),
    Target(figure="int8_within_10pct", sense=">=", bound=0.9, why="issue 2"),
]


def measure(quick: bool) -> Measured:
    torch.set_num_threads(1)
    space = MobileNetV2.digits() if quick else MobileNetV3.digits()
    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("fp32", "int8"):
            runtime = OnnxRuntime(precision=precision)
            table = measure_table(space, runtime, run_dir=folder)
            seen = pd.read_csv(f"{folder}/table_{precision}_networks.csv")["architecture"]
            pool = distinct_archs(space, 90, seed=12345)
            fresh = pool[[text not in set(seen) for text in space.describe(pool)]][:30]
            networks = space.networks(fresh)
            prepared = [runtime.prepare(Network(blocks), blocks[0].in_shape) for blocks in networks]
            timed = np.array([np.median(s) for s in time_interleaved(runtime, prepared, min_rounds=12, max_rounds=48)])
            predicted = np.array([table.predict(blocks) for blocks in networks])
            checked = validated(predicted, timed)
            figures |= {
                f"{precision}_kendall_tau": checked.kendall_tau,
                f"{precision}_within_10pct": checked.within_10pct,
                f"{precision}_mape": checked.mape,
            }
            texts = space.describe(fresh)
            for text, p, m in zip(texts, predicted, timed, strict=True):
                error = p / m - 1
                rows.append(
                    {"precision": precision, "predicted_ms": p, "measured_ms": m, "error": error, "architecture": text}
                )
    return Measured(rows=pd.DataFrame(rows).round(6), figures=figures)


if __name__ == "__main__":
    run("table_validation", TARGETS, measure, packages=("onnxruntime", "torch"))
