"""A run, stage by stage, in one folder; ``report.html`` is made from that folder alone.

    table -> supernet -> search -> candidates -> final -> report

A stage is done when its artefact lies there under its final name; ``resume`` goes on with what is missing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from nas.engine.loop import search
from nas.engine.result import SearchResult
from nas.errors import BadInput
from nas.files import write_text
from nas.measuring.campaign import measure
from nas.objectives import Constraint, Objective, latency
from nas.objectives.accuracy import accuracy as accuracy_objective
from nas.runs.candidates import candidates_stage, final_stage
from nas.runs.folder import PRECISIONS, Run, stage
from nas.supernet import Supernet, train_supernet
from nas.supernet.training import load_supernet
from nas.tables.table import LatencyTable
from nas.training.loop import Recipe


def run_all(run: Run) -> pd.DataFrame:
    """All stages in order; returns the final table. The report is made from the folder, by ``nas.report``."""
    if run.settings.table is not None:  # refused before anything is measured
        latency(run.space, search_table(run, {}), unvalidated=run.settings.unvalidated_table)
    tables = measure_stage(run)
    supernet = train_stage(run)
    result = search_stage(run, supernet, tables)
    candidates_stage(run, supernet, tables, result)
    return final_stage(run)


def measure_stage(run: Run) -> dict[str, LatencyTable]:
    """Latency tables of the space on this machine, in every precision."""
    tables = {}
    for precision, runtime in run.runtimes.items():
        with stage(run, f"table_{precision}"):
            table = measure(
                run.space,
                runtime,
                run_dir=run.folder,
                resume=run.resume,
                seed=run.settings.seed,
                progress=run.progress,
            )
            assert table.validation is not None
            run.say(
                f"table {table.name}: {len(table.rows)} blocks; on {table.validation.networks} other networks "
                f"Kendall tau {table.validation.kendall_tau:.3f}, mean error {table.validation.mape:.1%}"
            )
            tables[precision] = table
    return tables


def train_stage(run: Run) -> Supernet:
    """The trained supernet."""
    s = run.settings

    def progress(row: dict[str, float]) -> None:
        if np.isfinite(row.get("accuracy_largest", np.nan)):
            run.say(
                f"epoch {row['epoch']:.0f}/{s.epochs}: loss {row['loss']:.3f}, validation accuracy "
                f"{row['accuracy_largest']:.1%} (largest), {row['accuracy_smallest']:.1%} (smallest)"
            )

    with stage(run, "train"):
        return train_supernet(
            run.space,
            run.data,
            epochs=s.epochs,
            recipe=Recipe(epochs=s.epochs, lr=s.lr, batch_size=s.batch_size),
            run_dir=run.folder,
            seed=s.seed,
            device=s.device,
            resume=run.resume,
            progress=progress,
        )


def search_stage(run: Run, supernet: Supernet, tables: dict[str, LatencyTable]) -> SearchResult:
    """The search for accuracy against latency in the chosen precision."""
    s = run.settings
    with stage(run, "search"):
        objectives, constraints = objectives_of(run, supernet, search_table(run, tables))
        result = search(
            run.space,
            objectives,
            run.make_searcher(run.space, objectives, s),
            budget=s.budget,
            constraints=constraints,
            run_dir=run.folder,
            resume=run.resume,
            progress=run.progress,
        )
        write_search(run.folder, result)
        run.say(f"search: {len(result)} networks evaluated, {len(result.front)} on the Pareto front; {result.stopped}")
    return result


def objectives_of(run: Run, supernet: Supernet, table: LatencyTable) -> tuple[list[Objective], list[Constraint]]:
    """Accuracy with the supernet's weights and predicted latency; the bounds that the settings have."""
    weights = hashlib.sha256((run.folder / "supernet.safetensors").read_bytes()).hexdigest()[:16]
    s = run.settings
    table.check_space(run.space)
    fast = latency(run.space, table, unvalidated=s.unvalidated_table)
    constraints = [] if s.max_latency_ms is None else [fast <= s.max_latency_ms]
    if s.max_sram is not None:
        from nas.objectives.memory import peak_sram

        constraints.append(peak_sram(run.space) <= s.max_sram)
    if s.max_flash is not None:
        from nas.objectives.memory import flash_size

        constraints.append(flash_size(run.space) <= s.max_flash)
    return [accuracy_objective(supernet, run.data, identity=weights), fast], constraints


def search_table(run: Run, tables: dict[str, LatencyTable]) -> LatencyTable:
    """The table that the search goes by: the device's (kept in the folder as ``table_target``), or this machine's.

    Raises BadInput when the folder already holds another device's.
    """
    s = run.settings
    if s.table is None:
        return tables[s.precision]
    kept = run.folder / "table_target"
    if kept.with_suffix(".json").exists():
        there = LatencyTable.load(kept)
        if Path(s.table).with_suffix(".json").exists() and LatencyTable.load(s.table).fingerprint != there.fingerprint:
            raise BadInput(f"{run.folder} was searched for {there.name}, not {s.table}; choose another run folder")
        return there
    table = LatencyTable.load(s.table)
    table.check_space(run.space)
    table.save(kept)
    return table


def load_tables(run: Run) -> dict[str, LatencyTable]:
    """The tables that ``measure_stage`` wrote. Raises BadInput when one is missing or does not fit the space."""
    tables = {p: LatencyTable.load(run.folder / f"table_{p}") for p in PRECISIONS}
    for table in tables.values():
        table.check_space(run.space)
    return tables


def load_trained(run: Run) -> Supernet:
    """The supernet that ``train_stage`` wrote."""
    return load_supernet(run.space, run.folder / "supernet.safetensors", run.settings.device)


def load_front(run: Run) -> SearchResult:
    """The search of the folder, read back from its ledger. Raises BadInput when there is none."""
    if not (run.folder / "evaluations.db").exists():
        raise BadInput(f"{run.folder} has no search yet (nas search)")
    return search_stage(replace(run, resume=True, progress=False), load_trained(run), load_tables(run))


def write_search(folder: Path, result: SearchResult) -> None:
    """The search as text: evaluations.csv, pareto.csv, hypervolume.csv, objectives.json."""
    frame = result.to_pandas()
    write_text(folder / "evaluations.csv", frame.to_csv(index=False))
    write_text(folder / "pareto.csv", frame[frame["on_front"]].to_csv(index=False))
    history = {"evaluations": np.arange(1, len(result) + 1), "hypervolume": result.hypervolume_history()}
    write_text(folder / "hypervolume.csv", pd.DataFrame(history).to_csv(index=False))
    described = [{"name": o.name, "unit": o.unit, "maximize": o.maximize} for o in result.objectives]
    write_text(folder / "objectives.json", json.dumps(described, indent=2) + "\n")
