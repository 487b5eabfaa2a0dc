"""What every benchmark does around its measurement: flags, CSV with a header, table, JSON line, targets."""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True)
class Target:
    """``figure`` must be at least (``sense='>='``) or at most (``'<='``) ``bound``; ``why``: where the bound comes from."""

    figure: str
    sense: str
    bound: float
    why: str

    def met(self, value: float) -> bool:
        return value >= self.bound if self.sense == ">=" else value <= self.bound


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a benchmark returns: ``rows`` go into the CSV, ``figures`` are compared with the targets."""

    rows: pd.DataFrame
    figures: dict[str, float]


def run(
    name: str,
    targets: Sequence[Target],
    measure: Callable[[bool], Measured],
    *,
    packages: Sequence[str] = ("numpy", "torch", "onnxruntime"),
) -> None:
    """Run ``measure(quick)`` and report. Full runs write ``results/<name>.csv``; quick ones leave it alone."""
    parser = argparse.ArgumentParser(
        prog=f"{name}.py",
        description=sys.modules["__main__"].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--quick", action="store_true", help="the same measurement at a size that ends within 60 seconds"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 and name every target that is missed")
    args = parser.parse_args()
    if args.quick:
        print(f"{name}: --quick, a smaller measurement than the committed one; nothing is written")
    measured = measure(args.quick)
    print(measured.rows.to_string(index=False, max_rows=60))
    missed = []
    for target in targets:
        value = measured.figures.get(target.figure)
        if value is None:
            print(f"{target.figure}: not measured in this run")
            continue
        met = target.met(value)
        print(
            f"{target.figure}: {value:.4g} (target {target.sense} {target.bound:g}: {'met' if met else 'MISSED'}; {target.why})"
        )
        if not met:
            missed.append(target.figure)
    if not args.quick:
        write(name, measured, packages)
    print(json.dumps({"benchmark": name, "quick": args.quick, "missed": missed, **measured.figures}))
    if args.check and missed:
        print(f"{name}: missed {', '.join(missed)}", file=sys.stderr)
        sys.exit(1)


def write(name: str, measured: Measured, packages: Sequence[str]) -> Path:
    """``results/<name>.csv`` with machine, date and versions in a header comment."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.csv"
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in packages)
    header = [
        f"# {name}, {datetime.date.today()}, {_cpu()}, Python {platform.python_version()}, {versions}",
        f"# {json.dumps(measured.figures)}",
    ]
    path.write_text("\n".join(header) + "\n" + measured.rows.to_csv(index=False))
    return path


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
        return f"{model} x{sum(line.startswith('processor') for line in lines)}"
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
