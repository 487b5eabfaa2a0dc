"""The latency tables of a run, and the limits that can be checked as soon as they are there."""

from __future__ import annotations

from nas.errors import BadInput, Infeasible
from nas.measuring.campaign import measure
from nas.objectives import Constraint, Objective, latency
from nas.runs.artefacts import TARGET
from nas.runs.folder import Run, has_begun, log
from nas.runs.names import runtimes_of
from nas.runtimes import Runtime
from nas.tables.names import table_stem, tables_in
from nas.tables.table import LatencyTable


def tables_are_there(run: Run) -> bool:
    """Whether all tables that the run needs are finished."""
    there = tables_in(run.folder)
    if run.settings.table is None:
        return TARGET not in there and all(p in there for p in runtimes_of(run.settings))
    return TARGET in there and (has_begun(run, "search") or _given(run).fingerprint == _kept(run, TARGET).fingerprint)


def tables_stage(run: Run) -> None:
    """A copy of the table of the device that is searched for, or this machine's, measured now in every precision.

    The stages after it need no others: deployed networks are timed as they are.
    """
    stem = table_stem(run.folder, TARGET)
    if run.settings.table is not None:
        if not has_begun(run, "search"):
            _given(run).save(stem)
        return
    for path in (stem.with_suffix(".csv"), stem.with_suffix(".json")):
        path.unlink(missing_ok=True)  # of a search that was meant and never begun
    for precision, runtime in runtimes_of(run.settings).items():
        table = measure(
            run.space,
            runtime,
            run_dir=run.folder,
            name=table_stem(run.folder, precision).name,
            resume=run.resume,
            seed=run.settings.seed,
            progress=run.progress,
        )
        v = table.validation
        if v is not None:
            log.info(
                "table %s: %d blocks; on %d other networks Kendall tau %.3f, mean error %.1f%%",
                table.name, len(table.rows), v.networks, v.kendall_tau, 100 * v.mape,
            )  # fmt: skip
    check_limits(run)


def search_table(run: Run) -> LatencyTable:
    """The table that the search goes by. Raises BadInput when there is none, or it does not fit the space."""
    s = run.settings
    if s.table is not None:
        return _kept(run, TARGET) if TARGET in tables_in(run.folder) else _given(run)
    if s.precision not in tables_in(run.folder):
        raise BadInput(
            f"{run.folder} has no {s.precision} latency table yet (nas measure, or --table of another device)"
        )
    table, timed = _kept(run, s.precision), runtimes_of(s).get(s.precision)
    if timed is None or not _predicts(table, timed):
        raise BadInput(
            f"{run.folder} has a table of {table.device.runtime}, {table.device.precision}, {table.device.threads} thread(s); "
            f"networks are timed on {s.runtime} with {s.threads}: choose the same for both (--runtime, --threads)"
        )
    return table


def local_tables(run: Run) -> list[LatencyTable]:
    """The tables that predict what the run's runtimes measure."""
    chosen = {}
    for name, stem in tables_in(run.folder).items():
        table = LatencyTable.load(stem)
        for runtime in runtimes_of(run.settings).values():
            here = name != TARGET or table.device.chip == runtime.device.chip
            if here and _predicts(table, runtime) and not table.missing(run.space.blocks):
                chosen[table.device.precision] = table
    return list(chosen.values())


def predicted_latency(run: Run, name: str | None = None) -> Objective:
    """The objective that the search goes by; ``name``: of another table in the folder."""
    table = search_table(run) if name is None else _kept(run, name)
    return latency(run.space, table, unvalidated=run.settings.unvalidated_table)


def constraints_of(run: Run, fast: Objective | None) -> list[Constraint]:
    """The limits of the settings; ``fast``: the predicted latency, None where it is not known yet."""
    from nas.objectives.memory import flash_size, peak_sram

    s = run.settings
    limits = [] if s.max_latency_ms is None or fast is None else [fast <= s.max_latency_ms]
    limits += [] if s.max_sram is None else [peak_sram(run.space, s.mcu_runtime) <= s.max_sram]
    return limits + ([] if s.max_flash is None else [flash_size(run.space, s.mcu_runtime) <= s.max_flash])


def check_limits(run: Run) -> None:
    """Raises Infeasible, naming all limits that no network meets, and BadInput for a table that does not do.

    A limit on the latency is checked as soon as the table is known.
    """
    s = run.settings
    known = s.table is not None or s.precision in tables_in(run.folder)
    refused = []
    for limit in constraints_of(run, predicted_latency(run) if known else None):
        try:
            limit.check_reachable()
        except Infeasible as error:
            refused.append(str(error))
    if refused:
        raise Infeasible("; and ".join(refused))


def _predicts(table: LatencyTable, runtime: Runtime) -> bool:
    """Whether both are of the same kind. The machine may be called otherwise by now, and the runtime be newer."""
    a, b = table.device, runtime.device
    return (a.runtime, a.precision, a.batch, a.threads) == (b.runtime, b.precision, b.batch, b.threads)


def _given(run: Run) -> LatencyTable:
    assert run.settings.table is not None
    table = LatencyTable.load(run.settings.table)
    table.check_space(run.space)
    return table


def _kept(run: Run, name: str) -> LatencyTable:
    table = LatencyTable.load(table_stem(run.folder, name))
    table.check_space(run.space)
    return table
