"""Write ``latency_tables/cortex_m_boards.json``: what MLPerf Tiny's timings say of the cost of operators on Cortex-M boards.

    milliseconds of a network = fixed + sum over operator kinds of (cost per MAC * MACs)

Four networks per board cannot tell five costs apart, so every submission (board, runtime, version) is taken to
resemble the others: its logarithms of costs are those of all, plus deviations of its core, runtime, version and its own,
all Gaussian. The most probable costs are found by Gauss-Newton; their covariance is that at the optimum (Laplace).
Each network is also predicted for each board by a fit that never saw it on that board, and by one that never saw it at all.

    python experiments/cortex_m_boards.py            # needs /work/shared/data/mlperf_tiny
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nas.tables.features import OPERATORS
from nas.tables.fit.boards import FILE

Array = NDArray[np.float64]

DATA = Path(__file__).parents[2] / "shared" / "data" / "mlperf_tiny" / "mlperf_tiny_results.csv"
REPRODUCTIONS = ("Krai", "cTuning")
"""Submitters whose rows repeat another's submission: counted twice they would look like evidence."""

# Standard deviations of logarithms. Judgements, not tuned on the held-out errors; MISFIT came after a first look: from v1.1 on
# several runtimes time vww at half of before and the others hardly faster, which no cost per MAC explains.
SHAPE, CORE, RUNTIME, VERSION, OWN = 0.5, 0.15, 0.15, 0.15, 0.05  # of each cost: all, core, runtime, version, board
SPEED_ALL, SPEED_CORE, SPEED = 2.0, 0.5, 0.2  # of all costs together, at the same clock
NOISE, NETWORK, MISFIT = 0.05, 0.1, 0.2  # of a timing; of a network everywhere; of a network in one version
FIXED_MACS = 10_000.0  # a call costs about as much as this many MACs, within a factor of FIXED
FIXED = 0.5


def network_macs() -> pd.DataFrame:
    """MACs by operator (columns) of the reference networks (rows), from their published definitions."""
    rows = {
        # ResNet-8 (16, 32, 64 channels) on 32x32x3, the 1x1 convolutions are its two shortcuts
        "ic": [32**2 * 9 * (3 * 16 + 2 * 16 * 16) + 16**2 * 9 * (16 * 32 + 32 * 32) + 8**2 * 9 * (32 * 64 + 64 * 64),
               16**2 * 16 * 32 + 8**2 * 32 * 64, 0, 64 * 10],
        # DS-CNN on 49x10x1: a 10x4 convolution of stride 2, four separable ones at 25x5
        "kws": [25 * 5 * 64 * 10 * 4, 4 * 25 * 5 * 64 * 64, 4 * 25 * 5 * 64 * 9, 64 * 12],
        "vww": _mobilenet(),
        "ad": [0, 0, 0, sum(a * b for a, b in pairwise([640, *[128] * 4, 8, *[128] * 4, 640]))],
    }  # fmt: skip
    return pd.DataFrame(rows, index=list(OPERATORS)).T


def _mobilenet() -> list[int]:
    """MobileNetV1 of width 0.25 on 96x96x3 with 2 classes."""
    size, channels = 48, 8
    full, pointwise, depthwise = size**2 * channels * 27, 0, 0
    for out, stride in [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)]:
        size //= stride
        depthwise += size**2 * channels * 9
        pointwise += size**2 * channels * out
        channels = out
    return [full, pointwise, depthwise, channels * 2]


def timings(path: Path = DATA) -> pd.DataFrame:
    """One row per submission and network: board, core, mhz, runtime, version, network, ms (median of its systems).

    int8, closed division (the reference networks), Cortex-M without an accelerator, no reproductions.
    """
    frame = pd.read_csv(path)
    frame = frame[
        frame["core"].fillna("").str.startswith("Cortex-M")
        & (frame["division"] == "closed")
        & (frame["precision"] == "int8")
        & frame["latency_ms"].notna()
        & ~frame["submitter"].isin(REPRODUCTIONS)
    ]
    # microTVM was submitted with two sets of kernels, which are two runtimes
    cmsis = frame["system"].str.contains("cmsis", case=False, na=False)
    runtime = frame["runtime"].fillna("unstated").mask(frame["runtime"].eq("microTVM") & cmsis, "microTVM CMSIS-NN")
    named = frame.assign(runtime=runtime, version=frame["round"], board=frame["board_id"], mhz=frame["nominal_mhz"])
    keys = ["board", "core", "mhz", "runtime", "version", "benchmark"]
    ms = named.groupby(keys, as_index=False)["latency_ms"].median()
    return ms.rename(columns={"benchmark": "network", "latency_ms": "ms"})


class Fit:
    """The prior of the costs of all submissions; ``keep`` conditions it on some of the timings."""

    def __init__(self, ms: pd.DataFrame, new: pd.DataFrame | None = None) -> None:
        """``new``: submissions without timings, of which the costs are wanted too."""
        who = ms[["board", "core", "mhz", "runtime", "version"]].drop_duplicates()
        self.who = pd.concat([who, new], ignore_index=True)[list(who)]
        index = {tuple(row): i for i, row in enumerate(self.who.itertuples(index=False))}
        named = ms[list(self.who)].itertuples(index=False)
        self.of = np.array([index[tuple(row)] for row in named])  # submission of each timing
        self.network = ms["network"].to_numpy()
        self.version = self.who["runtime"].str.cat(self.who["version"], sep=" ").to_numpy()
        self.log_ms = np.log(ms["ms"].to_numpy(float))
        macs = network_macs()
        self.load = np.column_stack([macs.loc[ms["network"]].to_numpy(float), np.ones(len(ms))])  # (timings, 5)
        self.kinds = self.load.shape[1]
        self.mean = self._mean()
        self.covariance = self._covariance()

    def _mean(self) -> Array:
        """``(submissions, 5)`` log cost: every MAC two cycles, a priori; SPEED_ALL makes that all but irrelevant."""
        log = np.log(np.append(np.ones(len(OPERATORS)), FIXED_MACS) * 2 / 1e3)
        return np.asarray(log - np.log(self.who["mhz"].to_numpy(float))[:, None])

    def _covariance(self) -> Array:
        """``(submissions * 5, submissions * 5)`` of the log costs."""
        same = {n: _same(self.who[n].to_numpy()) for n in ("core", "runtime", "board")}
        same["version"] = _same(self.version)
        own = np.eye(len(self.who))
        every = np.ones_like(own)
        shared = SHAPE**2 * every + CORE**2 * same["core"] + RUNTIME**2 * same["runtime"] + VERSION**2 * same["version"]
        each = shared + OWN**2 * (same["board"] + own)
        together = (
            SPEED_ALL**2 * every + SPEED_CORE**2 * same["core"] + SPEED**2 * (same["runtime"] + same["board"] + own)
        )
        scale = np.array([1.0] * len(OPERATORS) + [FIXED / SHAPE])  # costs of a call vary in their own measure
        return np.asarray(np.kron(each, np.diag(scale**2)) + np.kron(together, np.ones((self.kinds, self.kinds))))

    def keep(self, keep: NDArray[np.bool_]) -> tuple[Array, Array]:
        """``(log costs (submissions, 5), their covariance)`` from the timings that ``keep (timings,)`` marks."""
        of, load, target = self.of[keep], self.load[keep], self.log_ms[keep]
        same = _same(self.network[keep])
        noise = NOISE**2 * np.eye(len(of)) + NETWORK**2 * same + MISFIT**2 * same * _same(self.version[of])
        precision = np.linalg.inv(noise)
        weights = np.zeros(self.mean.size)  # costs are mean + covariance @ weights, so nothing large is inverted

        def at(weights: Array) -> tuple[Array, Array, float]:
            moved = self.covariance @ weights
            x = self.mean + moved.reshape(self.mean.shape)
            part = np.exp(x[of]) * load
            left = target - np.log(part.sum(axis=1))
            return x, part, float(left @ precision @ left + weights @ moved)

        x, part, loss = at(weights)
        for _ in range(100):
            total = part.sum(axis=1)
            slope = np.zeros((len(of), x.size))
            for k in range(self.kinds):
                slope[np.arange(len(of)), of * self.kinds + k] = part[:, k] / total
            seen = slope @ self.covariance
            inner = seen @ slope.T + noise
            left = target - np.log(total) + seen @ weights
            step = slope.T @ np.linalg.solve(inner, left) - weights
            far = 1.0
            while far > 1e-6 and not at(weights + far * step)[2] <= loss:
                far /= 2
            before = loss
            weights = weights + far * step
            x, part, loss = at(weights)
            if before - loss <= 1e-9 * (1 + loss):
                break
        else:
            raise RuntimeError("the fit did not settle")
        return x, self.covariance - seen.T @ np.linalg.solve(inner, seen)

    def predict(self, x: Array, rows: NDArray[np.bool_]) -> Array:
        """ms of the timings that ``rows`` marks."""
        return np.asarray((np.exp(x[self.of[rows]]) * self.load[rows]).sum(axis=1))

    def held_out(self, *, everywhere: bool) -> Array:
        """``(timings,)`` ms, each by a fit that has not seen the network on that board (or on any)."""
        predicted = np.empty(len(self.of))
        board = self.who["board"].to_numpy()[self.of]
        for group in ["all"] if everywhere else np.unique(board):
            for network in np.unique(self.network):
                out = (self.network == network) & (everywhere | (board == group))
                predicted[out] = self.predict(self.keep(~out)[0], out)
        return predicted


def _same(names: NDArray[Any]) -> Array:
    return np.asarray((names[:, None] == names[None]).astype(float))


def boards(ms: pd.DataFrame) -> list[dict[str, Any]]:
    """What ships: of each board and runtime its latest version."""
    fit = Fit(ms)
    x, covariance = fit.keep(np.ones(len(ms), bool))
    held_out, never_seen = fit.held_out(everywhere=False), fit.held_out(everywhere=True)
    found = []
    for (board, runtime), group in fit.who.groupby(["board", "runtime"]):
        i = int(group["version"].idxmax())  # v0.7 < v1.0 < ... also as text
        rows = np.flatnonzero(fit.of == i)
        block = slice(i * fit.kinds, (i + 1) * fit.kinds)
        found.append(
            {
                "board": board,
                "runtime": runtime,
                "version": f"MLPerf Tiny {fit.who['version'][i]}",
                "core": fit.who["core"][i],
                "mhz": float(fit.who["mhz"][i]),
                "costs": dict(zip([*OPERATORS, "fixed"], [float(f"{c:.5g}") for c in np.exp(x[i])], strict=True)),
                "log_covariance": [[round(float(c), 5) for c in row] for row in covariance[block, block]],
                "networks": {
                    fit.network[r]: {
                        "measured_ms": float(f"{np.exp(fit.log_ms[r]):.6g}"),
                        "held_out_ms": float(f"{held_out[r]:.6g}"),
                        "never_seen_ms": float(f"{never_seen[r]:.6g}"),
                    }
                    for r in rows
                },
            }
        )
    return found


def new_boards(ms: pd.DataFrame) -> dict[str, Any]:
    """What the timings say of a board and runtime that are not among them, by core: costs in cycles."""
    cores = sorted(ms["core"].unique())
    named = [*cores, "other"]
    new = pd.DataFrame({"core": named, "board": [f"new {c}" for c in named], "mhz": 1.0})
    fit = Fit(ms, new.assign(runtime="new " + new["core"], version="new"))
    x, covariance = fit.keep(np.ones(len(ms), bool))
    found = {}
    for i in range(len(fit.who) - len(named), len(fit.who)):
        block = slice(i * fit.kinds, (i + 1) * fit.kinds)
        found[str(fit.who["core"][i])] = {
            "log_kilocycles": [round(float(c), 4) for c in x[i]],
            "log_covariance": [[round(float(c), 5) for c in row] for row in covariance[block, block]],
        }
    return found


def main() -> None:
    ms = timings()
    header = {
        "what": "milliseconds per MAC by operator kind, and per network (fixed), of int8 networks on Cortex-M boards; "
        "fitted by experiments/cortex_m_boards.py. held_out_ms: that network predicted by a fit that had not seen it on "
        "that board; never_seen_ms: by one that had not seen it on any",
        "source": "MLPerf Tiny results v0.7 to v1.3, closed division (github.com/mlcommons/tiny_results_v0.7 and later)",
        "licence": "Apache-2.0",
        "network_macs": network_macs().astype(int).T.to_dict(),
        "timing_log_sd": round(float(np.sqrt(NOISE**2 + NETWORK**2 + MISFIT**2)), 4),
        "new_boards": new_boards(ms),
    }
    lines = ",\n".join(json.dumps(b) for b in boards(ms))
    FILE.write_text(
        "{\n"
        + ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in header.items())
        + f',\n "boards": [\n{lines}\n]}}\n'
    )


if __name__ == "__main__":
    main()
