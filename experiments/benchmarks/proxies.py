"""Zero-cost proxies against accuracy: 40 random networks of MobileNetV3.digits(), each trained alone for 12 epochs.

Rank correlations (Kendall, Spearman) of every proxy, and of plain MACs and parameters, with the validation accuracy on the
embedded digits. There is no target: the table says what each is worth here, and which ones parameters beat.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from harness import Measured, run
from scipy.stats import kendalltau, spearmanr

from nas.data import load_digits
from nas.modules import Network
from nas.objectives import macs, params
from nas.objectives.proxies import PROXIES, proxy
from nas.train import Augment, Recipe, fit, supervised, validation_accuracy
from search_spaces import MobileNetV3


def measure(quick: bool) -> Measured:
    data, space = load_digits(), MobileNetV3.digits()
    archs = space.sample(8 if quick else 40, np.random.default_rng(0))
    recipe = Recipe(epochs=2 if quick else 12, batch_size=64, lr=0.1)
    accuracy = np.empty(len(archs))
    for i, blocks in enumerate(space.networks(archs)):
        torch.manual_seed(i)
        network = Network(blocks)
        fit(
            network,
            data,
            recipe,
            supervised(recipe),
            size=network.input_shape[-1],
            augment=Augment.suited_to(data),
            seed=i,
        )
        accuracy[i] = validation_accuracy(network.eval(), data)
    scores = [macs(space), params(space), *(proxy(p, space, data) for p in PROXIES)]
    rows = []
    for objective in scores:
        values = objective(archs)
        fine = np.isfinite(values)
        rows.append(
            {
                "score": objective.name,
                "networks": int(fine.sum()),
                "kendall_tau": round(float(kendalltau(values[fine], accuracy[fine]).statistic), 3),
                "spearman": round(float(spearmanr(values[fine], accuracy[fine]).statistic), 3),
            }
        )
    figures = {f"tau_{row['score']}": float(row["kendall_tau"]) for row in rows}  # type: ignore[arg-type]
    figures["accuracy_min"], figures["accuracy_max"] = round(accuracy.min(), 4), round(accuracy.max(), 4)
    return Measured(rows=pd.DataFrame(rows), figures=figures)


if __name__ == "__main__":
    run("proxies", [], measure)
