"""What weight sharing costs: a training step of the supernet on a subnet against the extracted network's own step.

Forward, backward and optimizer step on the same batch, both channels-last, taken in turns in one run; the ratio is
that of the medians; one thread. The supernet's step includes choosing the subnet (activate) and slicing its weights. Random
subnets of the space, and the largest and the smallest.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import torch
from harness import Measured, Target, run
from torch.nn import functional as F

from nas.supernet import Supernet
from nas.training.loop import keep_freed_memory
from search_spaces import MobileNetV3

TARGETS = [
    Target(figure="median_ratio", sense="<=", bound=1.10, why="issue 2: at most 10% over the extracted network"),
    Target(figure="worst_ratio", sense="<=", bound=1.10, why="the same for every subnet measured"),
]


def measure(quick: bool) -> Measured:
    space = MobileNetV3.cifar()
    batch, repeats, randoms = 64, (4, 2) if quick else (7, 3), 2 if quick else 6
    rng = np.random.default_rng(0)
    supernet = Supernet(space)
    archs = {"largest": supernet.largest, "smallest": supernet.smallest}
    archs |= {f"random {i}": arch for i, arch in enumerate(space.sample(randoms, rng), 1)}
    torch.set_num_threads(1)  # threads that wait for one another multiply every disturbance on a shared machine
    keep_freed_memory()  # as nas.training.loop.fit does; without it page faults make either side slower at random
    rows = []
    for name, arch in archs.items():
        network = supernet.extract(arch)
        x = torch.randn(batch, *network.input_shape).contiguous(memory_format=torch.channels_last)
        y = torch.randint(0, space.classes, (batch,))
        steps = {"supernet": _step(supernet, x, y, arch), "extracted": _step(network, x, y)}
        seconds: dict[str, list[float]] = {"supernet": [], "extracted": []}
        for i in range(repeats[0]):
            for kind, step in steps.items():
                samples = []
                for _ in range(repeats[1]):
                    started = time.perf_counter()
                    step()
                    samples.append(time.perf_counter() - started)
                if i:  # the first round warms up
                    seconds[kind] += samples
        ours, plain = (float(np.median(seconds[k])) for k in ("supernet", "extracted"))
        macs = sum(b.macs for b in network.describe())
        row = {"subnet": name, "mmacs": macs / 1e6, "supernet_ms": 1e3 * ours, "extracted_ms": 1e3 * plain}
        rows.append(row | {"ratio": ours / plain})
    frame = pd.DataFrame(rows)
    figures = {"median_ratio": float(frame["ratio"].median()), "worst_ratio": float(frame["ratio"].max())}
    return Measured(rows=frame, figures=figures)


def _step(model, x, y, arch=None):
    model.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)

    def step() -> None:
        if arch is not None:
            model.activate(arch)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    run("elastic_overhead", TARGETS, measure, packages=("torch",))
