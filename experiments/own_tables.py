"""Ship the tables that ``experiments/benchmarks/table_validation.py`` measured on this machine.

Copies ``runs/table_validation/*`` to ``latency_tables/<device>_<runtime>_<precision>_<space>``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from nas.device import slug
from nas.tables.table import LatencyTable

ROOT = Path(__file__).parents[1]


def main() -> None:
    found = sorted((ROOT / "runs" / "table_validation").glob("*.json"))
    if not found:
        sys.exit("runs/table_validation holds no tables: run experiments/benchmarks/table_validation.py first")
    for path in found:
        table = LatencyTable.load(path)
        device = table.device
        name = f"{slug(device.name)}_{slug(device.runtime)}_{device.precision}_{table.space['name']}"
        table.save(ROOT / "latency_tables" / name)
        print(f"{name}: {len(table.rows)} blocks, {table.validation}")


if __name__ == "__main__":
    main()
