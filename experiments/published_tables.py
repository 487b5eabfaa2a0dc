"""Writes the published tables in latency_tables/ from the data that others measured (../shared/data beside the project)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd

from nas.blocks import Block, DepthwiseSeparable, Head, InvertedResidual, Stem
from nas.latency import LatencyTable
from nas.runtimes import Device
from nas.space import SearchSpace
from search_spaces import OnceForAll
from search_spaces.nasbench201 import EDGES, OPERATIONS

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
TABLES = ROOT / "latency_tables"
Published = dict[tuple[int, str], tuple[float, float, int]]
NOTES = {
    "percentiles": "from the source's mean and standard deviation, taken as normal",
    "runtime": "as far as published",
}


def main() -> None:
    """All of them."""
    write_nasbench201()
    write_ofa()


def write_ofa() -> None:
    """Per-block tables of once-for-all's MobileNetV3 (width 1.2) on a Note10 and of ProxylessNAS on a Pixel 1."""
    source = "han-cai/files (data of once-for-all, github mit-han-lab/once-for-all)"
    note10 = _sized(pd.read_csv(SHARED / "ofa" / "samsung_note10_latency.csv"))
    space = OnceForAll.mobilenet_v3()
    table = LatencyTable(
        device=Device(
            name="note10",
            chip="Samsung Note10 CPU",
            runtime="unknown",
            version="",
            precision="fp32",
            batch=1,
            threads=1,
        ),
        rows=_rows(space, note10, _note10_keys),
        kind="published",
        space={"name": space.name, "fingerprint": space.fingerprint},
        date="2020-05-01",
        source=source,
        licence="MIT",
        notes=NOTES,
    )
    print(table.save(TABLES / "note10_ofa_b1"))
    pixel1 = _sized(pd.read_csv(SHARED / "ofa" / "google_pixel1_latency_proxylessnas.csv"))
    space = OnceForAll.proxyless_nas()
    table = LatencyTable(
        device=Device(
            name="pixel1", chip="Google Pixel 1 CPU", runtime="TFLite", version="", precision="fp32", batch=1, threads=1
        ),
        rows=_rows(space, pixel1, _pixel1_keys),
        kind="published",
        space={"name": space.name, "fingerprint": space.fingerprint},
        date="2018-12-01",
        source=source,
        licence="MIT",
        notes=NOTES,
    )
    print(table.save(TABLES / "pixel1_proxyless_b1"))


def _sized(frame: pd.DataFrame) -> dict[tuple[int, str], tuple[float, float, int]]:
    return {(r.image_size, r.op): (r.mean_ms, r.std_ms, r.n_runs) for r in frame.itertuples()}


def _rows(space: SearchSpace, source: Published, keys: Callable[[Block], list[str]]) -> pd.DataFrame:
    """One row per block of ``space``: the sum of its rows in ``source``; variances add up."""
    by_op: dict[str, list[tuple[float, float, int]]] = {}
    for (_, op), row in source.items():
        by_op.setdefault(op, []).append(row)
    rows = []
    for block in space.blocks:
        # an operation of one shape was timed once per image size in which it occurs
        parts = [by_op[key] for key in keys(block)]
        mean = sum(float(np.mean([m for m, _, _ in part])) for part in parts)
        std = sum(float(np.mean([s for _, s, _ in part])) ** 2 for part in parts) ** 0.5
        spread = NormalDist().inv_cdf(0.9) * std
        runs = min(n for part in parts for _, _, n in part)
        rows.append((block.key, mean, max(mean - spread, 0.0), mean + spread, runs))
    return pd.DataFrame(rows, columns=["block", "latency_ms", "p10_ms", "p90_ms", "runs"])


def _note10_keys(block: Block) -> list[str]:
    n, m = block.size, block.out_size
    if isinstance(block, Stem):
        return [f"Conv-input:{n}x{n}x{block.in_ch}-output:{m}x{m}x{block.out_ch}"]
    if isinstance(block, Head):
        return [
            f"Conv_1-input:{n}x{n}x{block.in_ch}-output:{n}x{n}x{block.hidden}",
            f"AvgPool2D-input:{n}x{n}x{block.hidden}-output:1x1x{block.hidden}",
            f"Conv_2-input:1x1x{block.hidden}-output:1x1x{block.features}",
            f"Logits-input:1x1x{block.features}-output:{block.out_ch}",
        ]
    assert isinstance(block, DepthwiseSeparable | InvertedResidual)
    mid = block.mid if isinstance(block, InvertedResidual) else block.in_ch
    return [
        f"expanded_conv-input:{n}x{n}x{block.in_ch}-output:{m}x{m}x{block.out_ch}-expand:{mid}-kernel:{block.kernel}-"
        f"stride:{block.stride}-idskip:{int(block.residual)}-se:{int(block.se > 0)}-hs:{int(block.act == 'hswish')}"
    ]


def _pixel1_keys(block: Block) -> list[str]:
    n, m = block.size, block.out_size
    if isinstance(block, Stem):
        return [f"Conv-input:{n}x{n}x{block.in_ch}-output:{m}x{m}x{block.out_ch}"]
    if isinstance(block, Head):
        return [
            f"Conv_1-input:{n}x{n}x{block.in_ch}-output:{n}x{n}x{block.hidden}",
            f"Logits-input:{n}x{n}x{block.hidden}-output:{block.out_ch}",
        ]
    assert isinstance(block, DepthwiseSeparable | InvertedResidual)
    expand = block.mid // block.in_ch if isinstance(block, InvertedResidual) else 1
    return [
        f"expanded_conv-input:{n}x{n}x{block.in_ch}-output:{m}x{m}x{block.out_ch}-expand:{expand}-"
        f"kernel:{block.kernel}-stride:{block.stride}-idskip:{int(block.residual)}"
    ]


def write_nasbench201() -> None:
    """nasbench201.csv.gz and .json: accuracy as a fraction, latencies in ms."""
    source = pd.read_csv(SHARED / "nasbench201" / "nasbench201.csv.gz")
    frame = pd.DataFrame({e: [OPERATIONS[i] for i in source[e]] for e in EDGES})
    frame["accuracy"] = (source["cifar100_top1"] / 100).round(6)
    for column in [c for c in source if c.startswith("lat_")]:
        frame[f"latency_ms.{column.removeprefix('lat_')}"] = source[column]
    path = TABLES / "nasbench201.csv.gz"
    path.write_bytes(gzip.compress(frame.to_csv(index=False).encode(), compresslevel=9, mtime=0))
    about = {
        "kind": "published",
        "space": "nasbench201",
        "columns": {
            "accuracy": "CIFAR-100 top-1 as a fraction, NAS-Bench-201 (Dong and Yang, ICLR 2020)",
            "latency_ms.<device>": "whole-network latency in ms; the suffix is the batch size where there is one",
        },
        "source": (
            "latencies: HayeonLee/HELP at 45f70eb (NeurIPS 2021), but raspi4 and eyeriss: HW-NAS-Bench (ICLR 2021); "
            "accuracy: NAS-Bench-201 as tabulated by roldebijvank/HW-NAS-Bench-360"
        ),
        "licence": "MIT (HELP, HW-NAS-Bench, NAS-Bench-201)",
        "notes": "phones are rounded to whole ms by the source; eyeriss was estimated by a simulator, not measured",
        "rows": len(frame),
    }
    path.with_name("nasbench201.json").write_text(json.dumps(about, indent=2) + "\n")
    print(path, f"{path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
