"""Ten timings on a device never seen, others known: NAS-Bench-201 (HELP's latencies of 15,625 networks on 21 devices).

A device is left out together with its other batch sizes. ``transfer`` times the ten networks that ``choose_timed`` picks
from the known devices; its one setting is rehearsed on the known devices (``rehearse``), anew for every device left out. The
form of the model (logarithms, standardised, cut at 3 robust deviations, Huber's loss) was found on these same 21 devices.
Peers: ridge regression (scikit-learn, alpha by cross-validation) on the standardised log latencies of the known devices, and
on features of the architectures alone (genes and live paths); on ten random networks, and on the very ten that ours timed.
Figures are Spearman over all 15,625 networks; ``worst`` is the worst of all runs, of every device and seed.

``fbnet``: the same question for tables. ``adapt`` makes a table from 10 chosen networks and the fitted tables of the other
devices (not of the same chip); networks it has not seen, of a device it has not seen, judge it and its claimed error.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from harness import Measured, Target, run
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV

sys.path.append(str(Path(__file__).parents[1]))
from fit_tables import PHONES, device_of, fbnet_timings
from sources import SHARED

import nas
from nas.tables.features import block_counts
from nas.tables.fit.few_shot import BEYOND, adapt, choose_timed, rehearse, transfer
from nas.tables.fit.whole_network import choose_among, fit_blocks
from search_spaces import NasBench201
from search_spaces.nasbench201 import EDGES

TEN = 10
TARGETS = [
    Target(figure="mean", sense=">=", bound=0.955, why="21 devices, 5 seeds; issue 4"),
    Target(figure="worst", sense=">=", bound=0.87, why="no run below; issue 4"),
    Target(
        figure="ahead_of_ridge", sense=">=", bound=0.0, why="mean over ridge on known devices, the same ten; issue 4"
    ),
    Target(figure="ahead_of_direct", sense=">=", bound=0.0, why="mean over a direct fit from the same ten; issue 4"),
    Target(
        figure="fbnet_claimed_over_seen",
        sense=">=",
        bound=0.9,
        why="the error a table claims is not below the one it has",
    ),
]


def measure(quick: bool) -> Measured:
    """One row per device and seed, of either space."""
    if not SHARED.exists():
        print(f"few_shot: skipped, the timings are not at {SHARED}")
        sys.exit(0)
    frame = pd.concat([nasbench201(quick), fbnet(1 if quick else 5)], ignore_index=True)
    return Measured(rows=frame.round(4), figures=figures(frame))


def nasbench201(quick: bool) -> pd.DataFrame:
    source = pd.read_csv(SHARED / "nasbench201" / "nasbench201.csv.gz")
    columns = [c for c in source if c.startswith("lat_")]
    ms = source[columns].to_numpy(float)
    devices = [c.removeprefix("lat_") for c in columns]
    family = np.array([family_of(d) for d in devices])
    space = NasBench201.cell()
    archs = source[list(EDGES)].to_numpy(np.uint8)
    assert space.features
    genes = np.concatenate([archs == o for o in range(5)], axis=1)
    features = standardised(np.column_stack([space.features(archs), genes]).astype(float))
    rows = []
    for name in dict.fromkeys(family):
        known = ms[:, family != name]
        logs = standardised(np.log(known))
        noise, rehearsed = rehearse(known, family[family != name].tolist(), TEN)
        for seed in range(1 if quick else 5):
            chosen = choose_timed(known, TEN, noise=noise, seed=seed)
            random = np.random.default_rng(seed).choice(len(ms), TEN, replace=False)
            for d in np.flatnonzero(family == name):
                predicted = {
                    "transfer": transfer(known, chosen, ms[chosen, d], noise=noise),
                    "transfer_random": transfer(known, random, ms[random, d], noise=noise),
                    "transfer_default": transfer(known, chosen, ms[chosen, d]),
                    "ridge_random": ridge(logs, random, ms[random, d]),
                    "ridge_same": ridge(logs, chosen, ms[chosen, d]),
                    "direct_random": ridge(features, random, ms[random, d]),
                    "direct_same": ridge(features, chosen, ms[chosen, d]),
                }
                scores = {k: float(spearmanr(p, ms[:, d]).statistic) for k, p in predicted.items()}
                error = np.abs(predicted["transfer"] / ms[:, d] - 1)
                about = {
                    "space": "nasbench201",
                    "device": devices[d],
                    "seed": seed,
                    "noise": noise,
                    "rehearsed": rehearsed,
                }
                rows.append(about | scores | {"median_error": float(np.median(error))})
    return pd.DataFrame(rows)


def fbnet(seeds: int) -> pd.DataFrame:
    space, archs, timings = fbnet_timings()
    tables = {c: fit_blocks(space, archs[:3000], ms[:3000], device=device_of(c)) for c, ms in timings.items()}
    counts = block_counts(space, archs)
    rows = []
    for column, ms in timings.items():
        known = [t for c, t in tables.items() if device_of(c).name != device_of(column).name]
        for seed in range(seeds):
            order = 3000 + np.random.default_rng(seed).permutation(2000)
            pool, held = order[:1000], order[1000:]
            ten = pool[choose_among(space, archs[pool], TEN, prior=known, own=BEYOND)]
            table = adapt(space, known, archs[ten], ms[ten], device=device_of(column), max_error=1e9)
            assert table.validation
            predicted = nas.latency(space, table)(archs[held])  # type: ignore[operator]
            direct = ridge(standardised(counts[:, :-1]), ten, ms[ten])[held]
            mixed = ridge(standardised(np.log([counts @ cost(t, space) for t in known]).T), ten, ms[ten])[held]
            rows.append(
                {
                    "space": "fbnet",
                    "device": column,
                    "seed": seed,
                    "transfer": float(spearmanr(predicted, ms[held]).statistic),
                    "ridge_same": float(spearmanr(mixed, ms[held]).statistic),
                    "direct_same": float(spearmanr(direct, ms[held]).statistic),
                    "mape": float(np.abs(predicted / ms[held] - 1).mean()),
                    "ridge_same_mape": float(np.abs(mixed / ms[held] - 1).mean()),
                    "direct_same_mape": float(np.abs(direct / ms[held] - 1).mean()),
                    "claimed_mape": table.validation.mape,
                    "claimed_at_most": table.notes["mape_at_most"],
                }
            )
    return pd.DataFrame(rows)


def cost(table: nas.LatencyTable, space: nas.SearchSpace) -> np.ndarray:
    return np.append(table.lookup(space.blocks), table.fixed_ms)


def family_of(device: str) -> str:
    """``titanx_256`` -> ``titanx``; ``gold_6240`` is no batch size."""
    name, _, batch = device.rpartition("_")
    return name if batch in ("1", "32", "256") else device


def standardised(columns: np.ndarray) -> np.ndarray:
    spread = columns.std(axis=0)
    return (columns - columns.mean(axis=0))[:, spread > 0] / spread[spread > 0]


def ridge(columns: np.ndarray, timed: np.ndarray, ms: np.ndarray) -> np.ndarray:
    return np.exp(RidgeCV(np.logspace(-3, 3, 13)).fit(columns[timed], np.log(ms)).predict(columns))


def figures(frame: pd.DataFrame) -> dict[str, float]:
    cells, nets = frame[frame["space"] == "nasbench201"], frame[frame["space"] == "fbnet"]
    found = {
        "mean": cells["transfer"].mean(),
        "worst": cells["transfer"].min(),
        "worst_device": cells.groupby("device")["transfer"].mean().min(),
    }
    for way in ("transfer_random", "transfer_default", "ridge_random", "ridge_same", "direct_random", "direct_same"):
        found |= {f"{way}_mean": cells[way].mean(), f"{way}_worst": cells[way].min()}
    found["ahead_of_ridge"] = found["mean"] - found["ridge_same_mean"]
    found["ahead_of_direct"] = found["mean"] - found["direct_same_mean"]
    found["median_error"] = cells["median_error"].mean()
    rounded = nets["device"].str.startswith(PHONES)
    for name, part in (("fbnet", nets[~rounded]), ("fbnet_phones", nets[rounded])):
        found |= {f"{name}_{k}": part[k].mean() for k in ("transfer", "mape", "ridge_same_mape", "direct_same_mape")}
    found["fbnet_claimed_over_seen"] = nets["claimed_mape"].mean() / nets["mape"].mean()
    found["fbnet_bound_holds"] = (nets["mape"] <= nets["claimed_at_most"]).mean()
    return {k: round(float(v), 4) for k, v in found.items()}


if __name__ == "__main__":
    run("few_shot", TARGETS, measure, packages=("numpy", "scipy", "scikit-learn"))
