"""Fits the tables that ship in latency_tables/ from whole-network timings that others published (../shared/data)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sources import OFA_SIZES, SHARED, TABLES, staged

from nas.device import Device
from nas.space import Archs, SearchSpace
from nas.tables.features import block_counts, macs
from nas.tables.fit.whole_network import fit_blocks
from search_spaces import FBNet, OnceForAll

CHIPS = {
    "1080ti": "NVIDIA GeForce GTX 1080 Ti",
    "2080ti": "NVIDIA GeForce RTX 2080 Ti",
    "titan_rtx": "NVIDIA Titan RTX",
    "titanx": "NVIDIA Titan X",
    "titanxp": "NVIDIA Titan Xp",
    "gold_6240": "Intel Xeon Gold 6240",
    "silver_4114": "Intel Xeon Silver 4114",
    "essential_ph": "Essential Phone",
    "pixel2": "Google Pixel 2",
    "samsung_s7": "Samsung Galaxy S7",
}
PHONES = ("essential_ph", "pixel2", "samsung_s7")
XEONS = ("gold_6240", "silver_4114")
SUMS = ("eyeriss", "fpga", "raspi4")
"""FBNet columns that are sums of a per-block table: additive by construction, so nothing is shown by fitting them."""


def main() -> None:
    """One table per device and batch."""
    for name, (space, archs, timings) in {"fbnet": fbnet_timings(), "ofa": ofa_timings()}.items():
        for column, ms in timings.items():
            device = device_of(column)
            table = fit_blocks(
                space,
                archs,
                ms,
                device=device,
                date="2021-06-16",
                source="fitted from the whole-network timings in HayeonLee/HELP at 45f70eb (NeurIPS 2021)",
                licence="MIT",
                notes=about(space, archs, ms, column, name),
            )
            assert table.validation
            stem = f"{device.name}_{name}_b{device.batch}"
            print(table.save(TABLES / stem), f"mape {table.validation.mape:.2%}", table.notes["regime"])


def fbnet_timings() -> tuple[SearchSpace, Archs, dict[str, Any]]:
    """FBNet's space, 5,000 architectures ``(n, genes)``, and ms ``(n,)`` per device that was timed end to end."""
    space = FBNet.cifar100()
    frame = pd.read_csv(SHARED / "fbnet" / "fbnet_latency.csv.gz")
    columns = [c for c in frame if c.startswith("lat_") and c.removeprefix("lat_") not in SUMS]
    archs = frame[[c.name for c in space.choices]].to_numpy(np.uint8)
    return space, archs, {c.removeprefix("lat_"): frame[c].to_numpy(float) for c in columns}


def ofa_timings() -> tuple[SearchSpace, Archs, dict[str, Any]]:
    """The same for once-for-all's MobileNetV3, 128 to 224 px.

    Width 1.2: the timings do not state it, but it is the one network that HELP's own evaluation script loads.
    """
    space = OnceForAll.mobilenet_v3(width=1.2, resolutions=OFA_SIZES)
    frame = pd.read_csv(SHARED / "help" / "help_ofa_latency.csv.gz")
    archs = space.encode(staged(space, r.r, r.ks, r.e, r.d, listed=4) for r in frame.itertuples())
    return space, archs, {c.removesuffix("_ms"): frame[c].to_numpy(float) for c in frame if c.endswith("_ms")}


def device_of(column: str) -> Device:
    """``titan_rtx_32`` -> Titan RTX at batch 32; without a batch: 1 (assumed)."""
    name, _, batch = (column, "", "1") if column in CHIPS else column.rpartition("_")
    gpu = name not in PHONES + XEONS
    return Device(
        name=name.replace("_", "-"),
        chip=CHIPS[name],
        runtime="PyTorch" if gpu else "unknown",
        version="",
        precision="fp32",
        batch=int(batch),
    )


def about(space: SearchSpace, archs: Archs, ms: Any, column: str, name: str) -> dict[str, Any]:
    """What a user of the table should know: what latency follows on this device, and what the source leaves open."""
    depth = block_counts(space, archs)[:, :-1].sum(axis=1)
    arithmetic = space.scorer(macs(space.blocks))(archs)
    follows = {"depth": spearmanr(depth, ms).statistic, "MACs": spearmanr(arithmetic, ms).statistic}
    regime = ", ".join(f"{corr:.2f} with {what}" for what, corr in follows.items())
    notes: Mapping[str, Any] = {
        "regime": f"rank correlation of latency: {regime}",
        "device": "precision and threads are not in the source's file, and for CPUs and phones neither are runtime and "
        "batch: assumed",
        "date": "that of the paper",
    }
    extra = {}
    if any(column.startswith(phone) for phone in PHONES):
        extra["timings"] = "rounded to whole ms by the source, and noisy"
    if name == "ofa":
        extra["width"] = "1.2 is not stated with the timings; it is what HELP's evaluation script loads"
    return {**notes, **extra}


if __name__ == "__main__":
    main()
