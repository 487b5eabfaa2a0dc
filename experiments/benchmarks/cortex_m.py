"""Firmware outputs on emulated Cortex-M cores, against the host's build and LiteRT's int8 interpreter, on real test images.

Two networks, one of them of the space for microcontrollers, trained on scikit-learn's scans of handwritten digits; quantized,
exported as C, built for the core, run in QEMU on 200 test images. The logits come out of the firmware.

    python experiments/benchmarks/cortex_m.py [--quick] [--check]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from harness import Measured, Target, run

import nas
import search_spaces
from nas.data import load_digits
from nas.data.inputs import batches
from nas.deploy import litert_file
from nas.deploy.c import build, emit
from nas.deploy.c.program import of_model
from nas.deploy.parity import calibration_of
from nas.deploy.to_litert import channels_last, litert_model
from nas.modules import Network
from nas.runtimes import CortexM
from nas.training.network import train_network

EPOCHS = {"mobilenet_v2.digits": 15, "mcu.small": 5}
IMAGES = 200
TARGETS = [
    Target(figure="images_equal_to_host", sense=">=", bound=1.0, why="the same C code: to the bit"),
    Target(
        figure="top1_agreement_with_litert",
        sense=">=",
        bound=0.995,
        why="the issue's; LiteRT's XNNPACK rounds its own way",
    ),
    Target(figure="repeats_identical", sense=">=", bound=1.0, why="instructions are counted, not timed"),
]


def measure(quick: bool) -> Measured:
    rows = []
    data = load_digits()
    for space, epochs in EPOCHS.items():
        blocks = search_spaces.named(space, classes=len(data.classes), in_channels=data.train.images.shape[1])
        some = blocks.sample(20, np.random.default_rng(3))
        arch = some[[nas.macs(blocks)(some).argmin()]]  # 200 images are emulated
        network = train_network(Network(blocks.networks(arch)[0]), data, epochs=2 if quick else epochs, progress=False)
        x = next(batches(data.test, data, network.input_shape[1], IMAGES // (10 if quick else 1))).numpy()
        model = litert_file.quantized(
            litert_model(network, network.input_shape), channels_last(calibration_of(network, data))
        )
        labels = data.test.labels[: len(x)]
        rows += [_row(space, core, model, channels_last(x), labels) for core in ("cortex-m4", "cortex-m7")]
    frame = pd.DataFrame(rows)
    figures = {
        "images_equal_to_host": float(frame["equal_to_host"].min()),
        "top1_agreement_with_litert": float(frame["agree_with_litert"].min()),
        "repeats_identical": float(frame["repeat_identical"].all()),
    }
    return Measured(rows=frame, figures=figures)


def _row(space: str, core: str, model: bytes, x: np.ndarray, labels: np.ndarray) -> dict[str, object]:
    """``x (n, h, w, c)`` through the firmware, the host's build and LiteRT."""
    details = litert_file.interpreter(model).get_input_details()[0]
    images = litert_file.to_integers(x, details)
    runtime = CortexM(core=core)
    ran, again = runtime.run(model, images), runtime.run(model, images[:5])
    with tempfile.TemporaryDirectory() as folder:
        emit.write_sources(Path(folder), of_model(model))
        host = build.host_outputs(Path(folder), images)
    litert = litert_file.run_litert(model, x).reshape(len(x), -1)
    top = ran.outputs.argmax(1)
    return {
        "network": space,
        "core": core,
        "images": len(x),
        "equal_to_host": float((ran.outputs == host).all(1).mean()),
        "agree_with_litert": float((top == litert.argmax(1)).mean()),
        "top1": float((top == labels).mean()),
        "litert_top1": float((litert.argmax(1) == labels).mean()),
        "instructions": int(np.median(ran.counts)),
        "repeat_identical": bool((again.counts == ran.counts[:5]).all()),
        "flash": ran.flash,
        "ram": ran.ram,
    }


if __name__ == "__main__":
    run("cortex_m", TARGETS, measure, packages=("numpy", "torch", "ai-edge-litert"))
