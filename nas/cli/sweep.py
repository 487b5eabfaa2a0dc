"""``nas sweep``: names on the command line to a sweep of searches."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import BadInput
from nas.searchers import names

if TYPE_CHECKING:
    from nas.engine.result import SearchResult
    from nas.objectives import Objective
    from nas.objectives.tabular import TabularBenchmark
    from nas.runs.folder import Settings
    from nas.searchers.searcher import Searcher
    from nas.space import SearchSpace

_DEVICES = ("raspi4", "pixel2", "gold_6240")
_SEARCHERS = ("guided", "nsga2", "random")
SEARCHERS = names()
_SEEDS = 3
_BUDGET = 200


def run_sweep(args: argparse.Namespace) -> None:
    """Run the sweep of the parsed arguments, print its table, write its report."""
    from nas.report.sweep_page import write_sweep_report
    from nas.sweeps.folder import read_settings
    from nas.sweeps.sweep import sweep

    settings = _settings(args, read_settings(args.run_dir) if args.resume else {})
    frame = sweep(
        _on_run if "run" in settings else _on_table,
        settings,
        run_dir=args.run_dir,
        resume=args.resume,
        max_concurrent=args.max_concurrent,
        address=args.address,
        progress=sys.stderr.isatty(),
    )
    print(frame.drop(columns=[c for c in ("trial", "run") if c in frame]).to_string(index=False))
    print(f"\nreport: {write_sweep_report(args.run_dir)}")


def make_searcher(space: SearchSpace, objectives: Sequence[Objective], settings: Settings) -> Searcher:
    """The searcher that a run's settings name."""
    from nas import searchers

    more = {"population": settings.population} if settings.searcher == "nsga2" else {}
    return searchers.make(settings.searcher, space, objectives, seed=settings.seed, **more)


def add_flags(sub: argparse.ArgumentParser) -> None:
    """The flags of ``nas sweep`` besides --run-dir and --resume."""
    sub.add_argument(
        "--space", default="nasbench201", choices=["nasbench201"], help="a tabular space (default %(default)s)"
    )
    sub.add_argument(
        "--run", dest="source", help="instead: a run folder with tables and a supernet; its tables are the devices"
    )
    sub.add_argument("--devices", help=f"comma-separated (default: all of the run folder; {','.join(_DEVICES)})")
    sub.add_argument("--searchers", help=f"comma-separated (default {','.join(_SEARCHERS)})")
    sub.add_argument("--seeds", type=int, help=f"repetitions (default {_SEEDS})")
    sub.add_argument("--budget", type=int, help=f"networks evaluated per search (default {_BUDGET})")
    sub.add_argument("--max-concurrent", type=int, help="trials at a time (default: one per core)")
    sub.add_argument("--address", help="of a running Ray cluster (default: this machine)")


def _settings(args: argparse.Namespace, before: Mapping[str, Any]) -> dict[str, Any]:
    """What is swept: the flags given, else what the sweep that is resumed had ``before``, else the defaults."""
    run = args.source and os.path.abspath(args.source)
    if before and run not in (None, before.get("run")):
        raise BadInput(f"{args.run_dir} is a sweep of {before.get('run', 'a table')}, not of {args.source}")
    run = run or before.get("run")
    known = _devices(run)
    devices = _names(args.devices, known, "device") or before.get("device") or (known if run else list(_DEVICES))
    names = _names(args.searchers, SEARCHERS, "searcher") or before.get("searcher") or list(_SEARCHERS)
    seeds = len(before.get("seed", range(_SEEDS))) if args.seeds is None else args.seeds
    budget = before.get("budget", _BUDGET) if args.budget is None else args.budget
    for flag, value in (("seeds", seeds), ("budget", budget), ("max-concurrent", args.max_concurrent or 1)):
        if value < 1:
            raise BadInput(f"--{flag} is at least 1, got {value}")
    settings = {"device": devices, "searcher": names, "seed": list(range(seeds)), "budget": budget}
    return settings | ({"run": run} if run else {})


def _names(given: str | None, known: Collection[str], what: str) -> list[str]:
    names = [name.strip() for name in (given or "").split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise BadInput(f"there is no {what} {name!r} here; there are {', '.join(known)}")
    return list(dict.fromkeys(names))


def _devices(run: str | None) -> list[str]:
    """Those of a run folder (its tables), or of the tabular space."""
    if run is None:
        return list(_benchmark().devices)
    from nas.runs.folder import read_config

    read_config(Path(run))
    tables = [p.stem.removeprefix("table_") for p in sorted(Path(run).glob("table_*.json"))]
    if not tables or not (Path(run) / "supernet.safetensors").exists():
        raise BadInput(f"{run} has no {'supernet' if tables else 'tables'} yet (nas quickstart makes a whole run)")
    return tables


def _benchmark() -> TabularBenchmark:
    from nas.objectives.tabular import NASBENCH201, TabularBenchmark
    from search_spaces import NasBench201

    return TabularBenchmark.load(NasBench201.cell(), NASBENCH201)


def _on_table(settings: dict[str, Any], run_dir: Path, report: Callable[[Mapping[str, float]], None]) -> SearchResult:
    benchmark = _benchmark()
    return _search([benchmark.accuracy(), benchmark.latency(settings["device"])], benchmark.space, settings, run_dir)


def _on_run(settings: dict[str, Any], run_dir: Path, report: Callable[[Mapping[str, float]], None]) -> SearchResult:
    from nas.cli.app import open_folder
    from nas.runs import stages as stages

    run = open_folder(Path(settings["run"]))
    tables = stages.load_tables(run)
    objectives, _ = stages.objectives_of(run, stages.load_trained(run), tables[settings["device"]])
    return _search(objectives, run.space, settings, run_dir)


def _search(objectives: list[Any], space: Any, settings: dict[str, Any], run_dir: Path) -> SearchResult:
    from nas.engine.loop import search
    from nas.searchers import make

    searcher = make(settings["searcher"], space, objectives, seed=settings["seed"])
    return search(space, objectives, searcher, budget=settings["budget"], run_dir=run_dir, resume=True)
