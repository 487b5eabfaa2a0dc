"""``nas sweep``: names on the command line to a sweep of searches."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import BadInput

if TYPE_CHECKING:
    from nas.search import SearchResult
    from nas.search.proposals import Searcher


def run_sweep(args: argparse.Namespace) -> None:
    """Run the sweep of the parsed arguments, print its table, write its report."""
    from nas.report.sweep_page import write_sweep_report
    from nas.sweep import sweep

    names = [n.strip() for n in args.searchers.split(",") if n.strip()]
    for name in names:
        if name not in searchers():
            raise BadInput(f"there is no searcher {name!r}; there are {', '.join(searchers())}")
    devices = _devices(args)
    settings: dict[str, Any] = {"device": devices, "searcher": names, "seed": list(range(args.seeds))}
    fixed: dict[str, Any] = {"budget": args.budget, "run": args.run and os.path.abspath(args.run)}
    frame = sweep(
        _on_run if args.run else _on_table,
        settings | {k: v for k, v in fixed.items() if v is not None},
        run_dir=args.run_dir,
        resume=args.resume,
        max_concurrent=args.max_concurrent,
        address=args.address,
    )
    shown = frame.drop(columns=[c for c in ("trial", "run") if c in frame])
    print(shown.to_string(index=False))
    print(f"\nreport: {write_sweep_report(args.run_dir)}")


def searchers() -> dict[str, Callable[..., Searcher]]:
    """Name on the command line -> searcher of (space, objectives, seed)."""
    from nas.search import NSGA2, NSGA3, Guided, LocalSearch, RandomSearch, RegularizedEvolution
    from nas.search.optuna_sampler import OptunaSearch
    from nas.search.policy import PolicySearch

    return {
        "guided": lambda space, objectives, seed: Guided(space, objectives, seed=seed),
        "nsga2": lambda space, objectives, seed: NSGA2(space, seed=seed),
        "nsga3": lambda space, objectives, seed: NSGA3(space, seed=seed),
        "evolution": lambda space, objectives, seed: RegularizedEvolution(space, seed=seed),
        "local_search": lambda space, objectives, seed: LocalSearch(space, seed=seed),
        "ppo": lambda space, objectives, seed: PolicySearch(space, seed=seed, algorithm="ppo"),
        "reinforce": lambda space, objectives, seed: PolicySearch(space, seed=seed, algorithm="reinforce"),
        "optuna_tpe": lambda space, objectives, seed: OptunaSearch(space, seed=seed),
        "random": lambda space, objectives, seed: RandomSearch(space, seed=seed),
    }


def add_flags(sub: argparse.ArgumentParser) -> None:
    """The flags of ``nas sweep`` besides --run-dir and --resume."""
    sub.add_argument(
        "--space", default="nasbench201", choices=["nasbench201"], help="a tabular space (default %(default)s)"
    )
    sub.add_argument("--run", help="instead: a run folder with tables and a supernet; its tables are the devices")
    sub.add_argument("--devices", help="comma-separated (default: all of the run folder; three of the tabular space)")
    sub.add_argument("--searchers", default="guided,nsga2,random", help="comma-separated (default %(default)s)")
    sub.add_argument("--seeds", type=int, default=3, help="repetitions (default %(default)s)")
    sub.add_argument("--budget", type=int, default=200, help="networks evaluated per search (default %(default)s)")
    sub.add_argument("--max-concurrent", type=int, help="trials at a time (default: one per core)")
    sub.add_argument("--address", help="of a running Ray cluster (default: this machine)")


def _devices(args: argparse.Namespace) -> list[str]:
    given = None if args.devices is None else [d.strip() for d in args.devices.split(",") if d.strip()]
    if args.run:
        from nas.run_folder import read_config

        read_config(Path(args.run))
        known = [p.stem.removeprefix("table_") for p in sorted(Path(args.run).glob("table_*.json"))]
        default = known
    else:
        from nas.objectives.tabular import NASBENCH201, TabularBenchmark
        from search_spaces import NasBench201

        known = list(TabularBenchmark.load(NasBench201.cell(), NASBENCH201).devices)
        default = ["raspi4", "pixel2", "gold_6240"]
    for device in given or []:
        if device not in known:
            raise BadInput(f"there is no device {device!r} here; there are {', '.join(known)}")
    if args.seeds < 1 or args.budget < 1:
        raise BadInput(f"seeds and budget are at least 1, got {args.seeds} and {args.budget}")
    return given or default


def _on_table(settings: dict[str, Any], run_dir: Path, report: Callable[[Mapping[str, float]], None]) -> SearchResult:
    from nas.objectives.tabular import NASBENCH201, TabularBenchmark
    from search_spaces import NasBench201

    benchmark = TabularBenchmark.load(NasBench201.cell(), NASBENCH201)
    return _search([benchmark.accuracy(), benchmark.latency(settings["device"])], benchmark.space, settings, run_dir)


def _on_run(settings: dict[str, Any], run_dir: Path, report: Callable[[Mapping[str, float]], None]) -> SearchResult:
    from nas import run as stages
    from nas.cli import open_folder

    run = open_folder(Path(settings["run"]))
    tables = stages.load_tables(run)
    objectives, _ = stages.objectives_of(run, stages.load_trained(run), tables[settings["device"]])
    return _search(objectives, run.space, settings, run_dir)


def _search(objectives: list[Any], space: Any, settings: dict[str, Any], run_dir: Path) -> SearchResult:
    from nas.search.loop import search

    searcher = searchers()[settings["searcher"]](space, objectives, settings["seed"])
    return search(space, objectives, searcher, budget=settings["budget"], run_dir=run_dir, resume=True)
