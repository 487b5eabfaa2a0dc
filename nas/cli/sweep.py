"""``nas sweep``: names on the command line to a sweep of searches."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from nas.checks import Count, FilePath, Text, checked, shown
from nas.cli.flags import add_flag, add_flags, given
from nas.cli.names import Resume, RunDir, one_of
from nas.cli.printing import Row, print_rows
from nas.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from nas.engine.result import SearchResult
    from nas.objectives.tabular import TabularBenchmark

_DEVICES = ("raspi4", "pixel2", "gold_6240")


@checked
@dataclass(frozen=True, kw_only=True)
class Swept:
    """What is swept; of a sweep that is resumed, what is not given stays as it was."""

    space: Annotated[Literal["nasbench201"], "a tabular space"] = "nasbench201"
    run: Annotated[FilePath | None, "instead: a run folder with tables and a supernet; its tables are the devices"] = (
        None
    )
    devices: Annotated[Text | None, f"comma-separated (default: all of the run folder; {','.join(_DEVICES)})"] = None
    searchers: Annotated[Text, "comma-separated"] = "guided,nsga2,random"
    seeds: Annotated[int, Meta(ge=1, le=10_000), "repetitions"] = 3
    budget: Annotated[Count, "networks evaluated per search"] = 200


@checked
@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where a sweep runs."""

    max_concurrent: Annotated[int | None, Meta(ge=1, le=10_000), "trials at a time (default: one per core)"] = None
    address: Annotated[Text | None, "of a running Ray cluster (default: this machine)"] = None

    def __post_init__(self) -> None:
        if self.address and not re.fullmatch(r"auto|(ray://)?[\w.\-]{1,253}:\d{1,5}", self.address):
            raise BadInput(f"address is auto, host:port or ray://host:port, got {shown(self.address)}")


def add_sweep(sub: argparse.ArgumentParser) -> None:
    """The flags of ``nas sweep``."""
    add_flag(sub, "run_dir", RunDir)
    add_flag(sub, "resume", Resume, False)
    add_flags(sub, Swept)
    add_flags(sub, Cluster)


def run_sweep(args: argparse.Namespace) -> None:
    """Run the sweep of the parsed arguments, print its table, write its report."""
    from nas.report.sweep_page import final_hypervolumes, write_sweep_report
    from nas.sweeps.folder import read_sweep_record
    from nas.sweeps.sweep import sweep

    resume, where = bool(given(args, sweep, "resume")), Cluster(**given(args, Cluster))
    before = read_sweep_record(args.run_dir) if resume else None
    settings = _settings(given(args, Swept), before.settings if before else {}, args.run_dir)
    trial = _on_run if "run" in settings else _on_table
    frame = sweep(trial, settings, run_dir=args.run_dir, resume=resume, **asdict(where))
    found = final_hypervolumes(args.run_dir)
    shown = frame.merge(found[["trial", "hypervolume"]], on="trial", how="left").round({"hypervolume": 4})
    # the best of each objective alone is that of a degenerate network: the hypervolume says what is worth something
    left_out = [c for c in shown if c in ("trial", "run") or c.startswith("best_")]
    print(shown.drop(columns=left_out).to_string(index=False))
    print("\nhypervolume at the end, mean ± standard deviation over seeds; 1: the front of all trials on the device")
    print_rows(_winners(found), indent=2)
    print(f"\nreport: {write_sweep_report(args.run_dir)}")


def _winners(found: pd.DataFrame) -> list[Row]:
    """A row per device: each searcher's hypervolume, and which is best, with those within the spread of it."""
    from nas.report.sweep_page import spread

    rows = []
    nothing = {str(name): "-" for name in found["searcher"].unique()}
    for device, of_device in found.groupby("device", sort=False):
        each = of_device.groupby("searcher", sort=False)["hypervolume"]
        mean, deviation = each.mean(), each.std().fillna(0.0)
        best = mean.idxmax()
        near = mean.index[mean + deviation >= mean[best] - deviation[best]].drop(best)
        named = {str(name): spread(values) for name, values in each}
        rows.append({"device": str(device), **nothing, **named, "best": " or ".join([best, *near])})
    return rows


def _settings(chosen: Mapping[str, Any], before: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """The settings of the trials: as ``chosen``, else what the sweep that is resumed had ``before``, else the defaults."""
    from nas.searchers import names as searcher_names

    swept, run = Swept(**chosen), before.get("run")
    if swept.run is not None:
        run = os.path.abspath(swept.run)
        if before and run != before.get("run"):
            raise BadInput(f"{folder} is a sweep of {before.get('run', 'a table')}, not of {swept.run}")
    known = _devices(run)
    devices = _listed("device", swept.devices, known) or before.get("device") or (known if run else list(_DEVICES))
    searchers = _listed("searcher", swept.searchers, searcher_names())
    settings = {"searcher": searchers, "seed": list(range(swept.seeds)), "budget": swept.budget}
    kept = {
        k: before[k]
        for k, flag in (("searcher", "searchers"), ("seed", "seeds"), ("budget", "budget"))
        if k in before and flag not in chosen
    }
    return {"device": devices, **settings, **kept, **({"run": run} if run else {})}


def _listed(what: str, text: str | None, known: Collection[str]) -> list[str]:
    listed = [name.strip() for name in (text or "").split(",") if name.strip()]
    return list(dict.fromkeys(one_of(what, name, known) for name in listed))


def _devices(run: str | None) -> list[str]:
    """Those of a run folder (its tables), or of the tabular space."""
    if run is None:
        return list(benchmark().devices)
    from nas.runs.artefacts import read_config
    from nas.tables.names import tables_in
    from nas.training.names import SUPERNET

    read_config(run)
    tables = list(tables_in(Path(run)))
    if not tables or not (Path(run) / SUPERNET).exists():
        raise BadInput(f"{run} has no {'supernet' if tables else 'tables'} yet (nas quickstart makes a whole run)")
    return tables


def benchmark() -> TabularBenchmark:
    """The tabular space of a sweep that has no run folder."""
    from nas.objectives.tabular import NASBENCH201, TabularBenchmark
    from search_spaces import NasBench201

    return TabularBenchmark.load(NasBench201.cell(), NASBENCH201)


def _on_table(settings: dict[str, Any], run_dir: Path, report: Callable[[Mapping[str, float]], None]) -> SearchResult:
    table = benchmark()
    return _search([table.accuracy(), table.latency(settings["device"])], table.space, settings, run_dir)


def _on_run(settings: dict[str, Any], run_dir: Path, report: Callable[[Mapping[str, float]], None]) -> SearchResult:
    from nas.runs.folder import reopen
    from nas.runs.search import objectives_of

    run = reopen(settings["run"])
    return _search(objectives_of(run, settings["device"]), run.space, settings, run_dir)


def _search(objectives: list[Any], space: Any, settings: dict[str, Any], run_dir: Path) -> SearchResult:
    from nas.engine.loop import search
    from nas.searchers import make

    searcher = make(settings["searcher"], space, objectives, seed=settings["seed"])
    return search(space, objectives, searcher, budget=settings["budget"], run_dir=run_dir, resume=True)
