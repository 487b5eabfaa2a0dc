"""Writes the published tables in latency_tables/ from the data that others measured (../shared/data beside the project)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pandas as pd

from search_spaces.nasbench201 import EDGES, OPERATIONS

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
TABLES = ROOT / "latency_tables"


def main() -> None:
    """All of them."""
    write_nasbench201()


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
