"""The search loop: asks a searcher, evaluates, writes the ledger, tells.

It is a deterministic function of its arguments, and the ledger is its memo: resuming runs it again from the start,
reading what is already known.
"""

from __future__ import annotations

import os
import time
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from nas.errors import BadInput
from nas.objectives.objective import Constraint, Objective
from nas.search.ledger import Entry, Ledger
from nas.search.nsga2 import NSGA2
from nas.search.result import SearchResult
from nas.space import Archs, SearchSpace

LEDGER = "evaluations.db"
MAX_IDLE_ASKS = 50
"""Asks in a row without a new candidate that may be evaluated, after which a search stops."""


class Searcher(Protocol):
    """Proposes architectures and learns from results. Only minimises; owns no loop, budget or files."""

    def restart(self, seed: int) -> None: ...

    def describe(self) -> dict[str, Any]: ...

    def ask(self, n: int) -> Archs: ...

    def tell(self, archs: Archs, costs: NDArray[np.float64], violation: NDArray[np.float64]) -> None: ...


def search(
    space: SearchSpace,
    objectives: Sequence[Objective],
    searcher: Searcher | None = None,
    *,
    budget: int,
    constraints: Sequence[Constraint] = (),
    seed: int | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    batch: int | None = None,
    progress: bool = False,
) -> SearchResult:
    """Search ``space`` for the Pareto front of ``objectives`` under ``constraints``.

    ``searcher``: NSGA2 when left out. ``budget``: how many different architectures get their expensive objectives
    evaluated (all objectives, when none is expensive). Cheap objectives come first: what violates a constraint on
    them is never evaluated further and costs nothing. ``seed`` restarts the searcher from that seed. ``batch``:
    architectures per ask (default 16, or 64 when all objectives are cheap). With ``run_dir`` every finished candidate
    is on disk, and ``resume=True`` goes on after an interruption to the same result, also with a larger budget.

    An evaluation that raises or gives NaN is recorded as failed with its text and does not stop the search.
    Raises Infeasible before anything is evaluated when a constraint on an additive objective cannot be met, and
    BadInput for settings that make no sense or a ``run_dir`` that belongs to another search.
    """
    objectives, constraints = tuple(objectives), tuple(constraints)
    _check(objectives, constraints, budget, batch)
    for constraint in constraints:
        constraint.check_reachable()
    searcher = searcher or NSGA2(space)
    if seed is not None:
        searcher.restart(seed)
    cheap = _unique([*(o for o in objectives if o.cheap), *(c.objective for c in constraints if c.objective.cheap)])
    costly = _unique([o for o in [*objectives, *(c.objective for c in constraints)] if not o.cheap])
    batch = batch or (16 if costly else 64)
    path = None if run_dir is None else Path(run_dir) / LEDGER
    identity = {
        "space": f"{space.name} {space.fingerprint}",
        "objectives": [[o.name, o.identity, o.maximize] for o in objectives],
        "constraints": [f"{c} {c.objective.identity}" for c in constraints],
        "searcher": searcher.describe(),
        "batch": batch,
    }
    ledger = Ledger(path, identity, resume=resume)
    sign = np.array([-1.0 if o.maximize else 1.0 for o in objectives])
    evaluated: dict[bytes, tuple[NDArray[np.float64], float, str]] = {}
    ruled_out: set[bytes] = set()
    stopped, idle = "", 0
    starts = [c.best for c in constraints if c.best is not None]
    bar = tqdm(total=budget, desc="search", disable=not progress, unit="network")
    try:
        while len(evaluated) < budget:
            # known ground that is feasible: the exact optimum of each constrained quantity
            archs = space.canonical(np.array(starts)) if starts else space.canonical(space.check(searcher.ask(batch)))
            starts = []
            archs = _first_of_each(archs, evaluated, ruled_out)
            values_of = {o.name: o(archs) for o in cheap} if len(archs) else {}
            violation = _violation([c for c in constraints if c.objective.cheap], values_of, len(archs))
            allowed = np.flatnonzero(violation <= 0)[: budget - len(evaluated)]
            ruled_out.update(archs[i].tobytes() for i in np.flatnonzero(violation > 0))
            done = {o.name: np.full(len(archs), np.nan) for o in costly}
            errors = np.full(len(archs), "", dtype=object)
            for row, entry in zip(allowed, _evaluate(archs[allowed], values_of, allowed, costly, ledger), strict=True):
                errors[row] = entry.error
                for o in costly:
                    done[o.name][row] = entry.values[o.name]
                bar.update()
            told = np.sort(np.concatenate([allowed, np.flatnonzero(violation > 0)]))
            everything = values_of | done
            late = _violation([c for c in constraints if not c.objective.cheap], everything, len(archs))
            violation = violation + np.nan_to_num(late)
            values = np.column_stack([everything[o.name] for o in objectives]) if len(archs) else np.empty((0, 0))
            for row in allowed:
                evaluated[archs[row].tobytes()] = (values[row], violation[row], str(errors[row]))
            if len(told):
                searcher.tell(archs[told], sign * values[told], violation[told])
            idle = 0 if len(allowed) else idle + 1
            if idle >= MAX_IDLE_ASKS:
                stopped = (
                    f"the searcher proposed nothing new that meets the cheap constraints in {MAX_IDLE_ASKS} asks, "
                    f"after {len(evaluated)} of {budget} evaluations"
                )
                break
    finally:
        bar.close()
        ledger.close()
    rows = list(evaluated.values())
    return SearchResult(
        space=space,
        objectives=objectives,
        archs=np.frombuffer(b"".join(evaluated), dtype=np.uint8).reshape(-1, space.genes),
        values=np.array([r[0] for r in rows]).reshape(-1, len(objectives)),
        violation=np.array([r[1] for r in rows], dtype=np.float64),
        error=np.array([r[2] for r in rows], dtype=str),
        stopped=stopped or f"the budget of {budget} evaluations is used",
    )


def _evaluate(
    archs: Archs,
    cheap: dict[str, NDArray[np.float64]],
    rows: NDArray[np.int64],
    costly: Sequence[Objective],
    ledger: Ledger,
) -> list[Entry]:
    """One entry per architecture, from the ledger where it is known. Costly ones are committed one by one."""
    entries: list[Entry] = []
    for row, arch in zip(rows, archs, strict=True):
        key = arch.tobytes()
        entry = ledger.get(key)
        if entry is None:
            entry = _run(arch, key, costly)
            entry = Entry(
                arch=key,
                values={**{k: float(v[row]) for k, v in cheap.items()}, **entry.values},
                error=entry.error or _not_finite({k: float(v[row]) for k, v in cheap.items()}),
                seconds=entry.seconds,
            )
            if costly:
                ledger.record([entry])
        entries.append(entry)
    if not costly:
        ledger.record(entries)
    return entries


def _run(arch: NDArray[np.uint8], key: bytes, costly: Sequence[Objective]) -> Entry:
    values: dict[str, float] = {}
    error = ""
    started = time.perf_counter()
    for objective in costly:
        values[objective.name] = float("nan")
        if error:
            continue
        try:
            values[objective.name] = float(objective(arch[None])[0])
        except Exception as failure:  # whatever it was: the search goes on, and the ledger says what happened
            error = f"{objective.name}: {type(failure).__name__}: {failure}"
    return Entry(arch=key, values=values, error=error or _not_finite(values), seconds=time.perf_counter() - started)


def _not_finite(values: dict[str, float]) -> str:
    return next((f"{name}: not a finite number ({v})" for name, v in values.items() if not np.isfinite(v)), "")


def _violation(
    constraints: Sequence[Constraint], values: dict[str, NDArray[np.float64]], n: int
) -> NDArray[np.float64]:
    total = np.zeros(n)
    for constraint in constraints:
        if n:
            total += constraint.violation(values[constraint.objective.name])
    return total


def _first_of_each(archs: Archs, *known: Container[bytes]) -> Archs:
    keys: dict[bytes, int] = {}
    for i, row in enumerate(archs):
        key = row.tobytes()
        if not any(key in seen for seen in known):
            keys.setdefault(key, i)
    return archs[list(keys.values())]


def _unique(objectives: Sequence[Objective]) -> list[Objective]:
    return list({o.name: o for o in objectives}.values())


def _check(objectives: Sequence[Objective], constraints: Sequence[Constraint], budget: int, batch: int | None) -> None:
    if not objectives:
        raise BadInput("a search needs at least one objective")
    names = [o.name for o in objectives]
    if len(set(names)) != len(names):
        raise BadInput(f"two objectives have the same name: {', '.join(names)}; pass name= to one of them")
    if budget < 1 or (batch is not None and batch < 1):
        raise BadInput(f"budget and batch are at least 1, got {budget} and {batch}")
    wrong = [c for c in constraints if not isinstance(c, Constraint)]
    if wrong:
        raise BadInput(f"a constraint is written like latency <= 2.0, got {wrong[0]!r}")
