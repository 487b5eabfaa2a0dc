"""What the few published Jetson timings support: leave-one-out errors, and no table.

AGX Xavier: 2 networks of once-for-all (HELP). TX2: 3 networks of FBNet (HW-NAS-Bench's notebook) and 4 of ProxylessNAS at
width 1.3 and batch 16 (once-for-all). ``adapt`` refuses all of them (it wants 6 networks); what it would have predicted for
each network from the others is written to jetson_few_shot.csv, with the bound on the error that so few leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sources import OFA_SIZES, SHARED, TABLES, staged

from nas.device import Device
from nas.errors import BadInput
from nas.space import Archs, SearchSpace
from nas.tables.features import block_counts
from nas.tables.fit.few_shot import BEYOND, adapt, error_bound
from nas.tables.fit.prior import cost_prior
from nas.tables.fit.whole_network import fit_blocks, solve_blocks
from nas.tables.table import LatencyTable
from search_spaces import FBNet, OnceForAll
from search_spaces.stages import Family, Stage, build_space

NOISE = (0.03,)  # nothing to choose it by


def main() -> None:
    """Every case, and the CSV."""
    rows = [row for case in (xavier(), tx2_fbnet(), tx2_proxyless()) for row in judged(*case)]
    frame = pd.DataFrame(rows)
    print(frame.drop(columns="verdict").to_string(index=False))
    print("\n".join(frame["verdict"].unique()))
    frame.to_csv(Path(__file__).with_suffix(".csv"), index=False)


def judged(
    device: Device, space: SearchSpace, archs: Archs, ms: Any, tables: Sequence[LatencyTable]
) -> list[dict[str, Any]]:
    """One row per network."""
    counts = block_counts(space, archs)
    factor, typical = cost_prior(space, counts, tables, own=BEYOND if tables else 1.0)
    held_out = solve_blocks(counts, ms, factor, typical, np.arange(len(ms)), NOISE).held_out
    try:
        if tables:
            adapt(space, tables, archs, ms, device=device)
        else:
            fit_blocks(space, archs, ms, device=device)
        verdict = "a table"
    except BadInput as error:
        verdict = str(error)
    apart = np.abs(held_out / ms - 1)
    others = (ms.sum() - ms) / (len(ms) - 1)  # no knowledge at all: the mean of the other networks
    about = {
        "device": device.name,
        "batch": device.batch,
        "space": space.name,
        "known_tables": len(tables),
        "networks": len(ms),
        "leave_one_out_mape": round(float(apart.mean()), 4),
        "mape_at_most": round(error_bound(held_out, ms), 4),
        "mean_of_the_others_mape": round(float(np.abs(others / ms - 1).mean()), 4),
    }
    return [
        about | {"measured_ms": m, "predicted_ms": round(float(p), 3), "error": round(float(e), 4), "verdict": verdict}
        for m, p, e in zip(ms, held_out, apart, strict=True)
    ]


def xavier() -> tuple[Any, ...]:
    space = OnceForAll.mobilenet_v3(width=1.2, resolutions=OFA_SIZES)
    frame = pd.read_csv(SHARED / "help" / "help_ofa_searched.csv")
    archs = space.encode(staged(space, r.r, r.ks, r.e, r.d, listed=4) for r in frame.itertuples())
    return (
        _device("agx-xavier", "NVIDIA Jetson AGX Xavier", 1),
        space,
        archs,
        frame["latency_ms"].to_numpy(),
        _known("ofa"),
    )


def tx2_fbnet() -> tuple[Any, ...]:
    space = FBNet.cifar100()
    frame = pd.read_csv(SHARED / "fbnet_lut_hwnasbench" / "published_points.csv")
    frame = frame[frame["dataset"] == "cifar100"]
    archs = np.array([[int(v) for v in ops.split("-")] for ops in frame["ops"]], np.uint8)
    return _device("tx2", "NVIDIA Jetson TX2", 1), space, archs, frame["edgegpu_ms"].to_numpy(), _known("fbnet")


def tx2_proxyless() -> tuple[Any, ...]:
    """No known table holds blocks of this width: the sizes of the blocks are all there is to go by."""
    frame = pd.read_csv(SHARED / "ofa" / "specialized_networks.csv")
    frame = frame[frame["device"] == "tx2_gpu16"]
    places = ((24, 2, 4), (40, 2, 4), (80, 2, 4), (96, 1, 4), (192, 2, 4), (320, 1, 1))
    space = build_space(
        "proxyless_nas_w1.3",
        Family(stem=32, first=16, hidden=1280, squeeze=lambda before, mid: 0),
        [
            Stage(channels=c, stride=s, depths=tuple(range(1, d + 1)), expansions=(3, 4, 6), acts=("relu6",))
            for c, s, d in places
        ],
        resolutions=tuple(sorted(set(frame["image_size"]))),
        widths=(1.3,),
        classes=1000,
        in_channels=3,
    )
    archs = space.encode(staged(space, r.image_size, r.kernels, r.expands, r.depths) for r in frame.itertuples())
    return _device("tx2", "NVIDIA Jetson TX2", 16), space, archs, frame["latency_ms"].to_numpy(float), []


def _device(name: str, chip: str, batch: int) -> Device:
    return Device(name=name, chip=chip, runtime="unknown", version="", precision="unknown", batch=batch)


def _known(space: str) -> list[LatencyTable]:
    """The fitted GPU tables of a space."""
    tables = [LatencyTable.load(path) for path in sorted(TABLES.glob(f"*_{space}_b*.csv"))]
    return [t for t in tables if t.kind == "fitted" and t.device.runtime == "PyTorch"]


if __name__ == "__main__":
    main()
