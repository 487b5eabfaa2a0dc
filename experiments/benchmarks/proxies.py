"""Zero-cost proxies against accuracy: 40 random networks of MobileNetV3.digits(), each trained alone for 12 epochs.

Rank correlations (Kendall, Spearman) of every proxy, and of plain MACs and parameters, with the validation accuracy on the
embedded digits, the mean of two trainings. ``low`` and ``high``: 95% bootstrap interval of Kendall's tau over networks. The
row ``second training`` is how well one training ranks the networks as the other does: so noisy are the accuracies.
There is no target for the proxies: the table says what each is worth here, and which ones parameters or MACs beat.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from harness import Measured, Target, run
from scipy.stats import kendalltau, spearmanr

from nas.data.images import load_digits
from nas.modules import Network
from nas.objectives import macs, params
from nas.objectives.proxies import PROXIES, proxy
from nas.training.augment import Augment
from nas.training.evaluate import validation_accuracy
from nas.training.loop import fit, supervised
from nas.training.recipe import Recipe
from search_spaces import MobileNetV3

TARGETS = [
    Target(figure="tau_second_training", sense=">=", bound=0.3, why="sanity: noisier accuracies can judge no score")
]


def measure(quick: bool) -> Measured:
    torch.set_num_threads(1)
    data, space = load_digits(), MobileNetV3.digits()
    archs = space.sample(8 if quick else 40, np.random.default_rng(0))
    recipe = Recipe(epochs=4 if quick else 12, batch_size=64, lr=0.1)
    trainings = np.array([[_trained(b, data, recipe, seed) for b in space.networks(archs)] for seed in (0, 1)])
    accuracy = trainings.mean(axis=0)
    scores = {o.name: o(archs) for o in (macs(space), params(space), *(proxy(p, space, data) for p in PROXIES))}
    rows = [_row(name, values, accuracy) for name, values in scores.items()]
    rows.append(_row("second training", *trainings))
    figures = {"tau_" + row["score"].replace(" ", "_"): row["kendall_tau"] for row in rows}
    figures |= {"accuracy_min": round(float(accuracy.min()), 4), "accuracy_max": round(float(accuracy.max()), 4)}
    return Measured(rows=pd.DataFrame(rows), figures=figures)


def _trained(blocks, data, recipe, seed):
    torch.manual_seed(seed)
    network = Network(blocks)
    size = network.input_shape[-1]
    fit(network, data, recipe, supervised(recipe), size=size, augment=Augment.suited_to(data), seed=seed)
    return validation_accuracy(network, data)


def _row(name, values, accuracy):
    fine = np.isfinite(values)
    values, accuracy = values[fine], accuracy[fine]
    rng = np.random.default_rng(0)
    again = [kendalltau(values[i], accuracy[i]).statistic for i in rng.integers(0, len(values), (1000, len(values)))]
    row = {"score": name, "networks": len(values)}
    tau = {"kendall_tau": kendalltau(values, accuracy).statistic}
    tau |= dict(zip(("low", "high"), np.nanquantile(again, (0.025, 0.975)), strict=True))
    tau["spearman"] = spearmanr(values, accuracy).statistic
    return row | {k: round(float(v), 3) for k, v in tau.items()}


if __name__ == "__main__":
    run("proxies", TARGETS, measure, packages=("torch", "scipy"))
