"""The search loop: asks a searcher, evaluates, writes the ledger, tells.

It is a deterministic function of its arguments, and the ledger is its memo: resuming runs it again from the start,
reading what is already known.
"""

from __future__ import annotations

import os
import time
from collections.abc import Container, Iterator, Mapping, Sequence
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
BATCH = 16
"""Architectures per ask: small, so that a searcher soon learns from what it asked for."""
MAX_IDLE_ASKS = 50
"""Asks in a row without a new candidate that may be evaluated, after which a search stops."""
_WIDEST = 6  # an ask after proposals that all violate constraints is twice as large as the last, up to 64 batches


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
    evaluated; when no objective is expensive, how many are evaluated at all, those that violate a constraint included.
    Cheap objectives come first: what violates a constraint on them is never evaluated further and costs nothing. ``seed`` restarts the searcher from that seed; without it, pass
    a fresh searcher. ``batch``: architectures per ask. With ``run_dir`` every finished candidate is on disk, and
    ``resume=True`` goes on after an interruption to the same result, also with a larger budget.

    An evaluation that raises or gives NaN is recorded as failed with its text, counts, and does not stop the search.
    Raises Infeasible before anything is evaluated when a constraint on an additive objective cannot be met, and
    BadInput for settings that make no sense or a ``run_dir`` that belongs to another search.
    """
    objectives, constraints, batch = tuple(objectives), tuple(constraints), BATCH if batch is None else batch
    everything = _check(objectives, constraints, budget, batch)
    for constraint in constraints:
        constraint.check_reachable()
    searcher = searcher or NSGA2(space)
    if seed is not None:
        searcher.restart(seed)
    cheap, costly = [o for o in everything if o.cheap], [o for o in everything if not o.cheap]
    first_sight = [c for c in constraints if c.objective.cheap]
    identity = {
        "space": f"{space.name} {space.fingerprint}",
        "objectives": [[o.name, o.identity, o.maximize] for o in objectives],
        "constraints": [f"{c} {c.objective.identity}" for c in constraints],
        "searcher": searcher.describe(),
        "batch": batch,
    }
    ledger = Ledger(None if run_dir is None else Path(run_dir) / LEDGER, identity, resume=resume)
    sign = np.array([-1.0 if o.maximize else 1.0 for o in objectives])
    evaluated: dict[bytes, Entry] = {}
    ruled_out: dict[bytes, float] = {}
    starts = [c.best for c in constraints if c.best is not None]
    stopped, asks, idle, width = "", 0, 0, 0
    bar = tqdm(total=budget, desc="search", disable=not progress, unit="network")
    try:
        while len(evaluated) < budget:
            # known ground that is feasible comes first: the exact optimum of each constrained quantity
            proposed = np.array(starts) if starts else space.check(searcher.ask(batch << width))
            starts, asks = [], asks + 1
            archs = _first_of_each(space.canonical(proposed), evaluated, ruled_out)
            known, errors = _score(cheap, archs)
            violation = np.nan_to_num(_violation(first_sight, known, len(archs)))  # NaN: failed, which is no violation
            violators = np.flatnonzero((violation > 0) & (errors == "") & bool(costly))
            ruled_out.update((archs[i].tobytes(), violation[i]) for i in violators)
            allowed = np.setdiff1d(np.arange(len(archs)), violators)[: budget - len(evaluated)]
            finished = []
            for entry in _evaluate(
                archs[allowed], asks, _rows(known, allowed), errors[allowed], costly, constraints, ledger
            ):
                finished.append(entry)
                bar.update()
            evaluated.update((entry.arch, entry) for entry in finished)
            told = np.sort(np.concatenate([allowed, violators]))
            if len(told):
                values = np.full((len(archs), len(objectives)), np.nan)
                for i, o in enumerate(objectives):
                    values[allowed, i] = [entry.values[o.name] for entry in finished]
                    if o.cheap:
                        values[violators, i] = known[o.name][violators]
                violation[allowed] = [entry.violation for entry in finished]
                searcher.tell(archs[told], sign * values[told], violation[told])
            idle = 0 if len(allowed) else idle + 1
            width = 0 if len(allowed) else min(width + bool(len(archs)), _WIDEST)
            if idle >= MAX_IDLE_ASKS:
                stopped = _exhausted(len(evaluated), budget, ruled_out)
                break
    finally:
        bar.close()
        ledger.close()
    entries = list(evaluated.values())
    return SearchResult(
        space=space,
        objectives=objectives,
        archs=np.frombuffer(b"".join(evaluated), dtype=np.uint8).reshape(-1, space.genes),
        values=np.array([[e.values[o.name] for o in objectives] for e in entries]).reshape(-1, len(objectives)),
        violation=np.array([e.violation for e in entries], dtype=np.float64),
        error=np.array([e.error for e in entries], dtype=str),
        stopped=stopped or f"the budget of {budget} evaluations is used",
    )


def _evaluate(
    archs: Archs,
    ask: int,
    known: Sequence[Mapping[str, float]],
    errors: NDArray[np.object_],
    costly: Sequence[Objective],
    constraints: Sequence[Constraint],
    ledger: Ledger,
) -> Iterator[Entry]:
    """One entry per architecture, from the ledger where it is there.

    ``known``, ``errors``: its cheap values, and why they failed. With costly objectives every candidate is committed
    as it finishes, otherwise all together.
    """
    new = []
    for arch, cheap, cheap_error in zip(archs, known, errors, strict=True):
        entry = ledger.get(arch.tobytes())
        if entry is None:
            started = time.perf_counter()
            values, error = {**cheap, **{o.name: float("nan") for o in costly}}, cheap_error
            for objective in costly:
                if not error:
                    scored, failed = _score([objective], arch[None])
                    values[objective.name], error = float(scored[objective.name][0]), str(failed[0])
            violation = 0.0 if error else float(_violation(constraints, _columns(values), 1)[0])
            seconds = time.perf_counter() - started
            entry = Entry(
                arch=arch.tobytes(), ask=ask, values=values, violation=violation, error=error, seconds=seconds
            )
            if costly:
                ledger.record([entry])
            else:
                new.append(entry)
        yield entry
    ledger.record(new)


def _score(objectives: Sequence[Objective], archs: Archs) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.object_]]:
    """``{name: (n,)}`` and the text of the first failure of each row, ``(n,)``, '' where there was none."""
    errors = np.full(len(archs), "", dtype=object)
    values: dict[str, NDArray[np.float64]] = {}
    for objective in objectives:
        values[objective.name], failed = _column(objective, archs)
        errors = np.where(errors == "", failed, errors)
    return values, errors


def _column(objective: Objective, archs: Archs) -> tuple[NDArray[np.float64], NDArray[np.object_]]:
    """Values ``(n,)``, NaN where they failed, and the texts of the failures."""
    if not len(archs):
        return np.empty(0), np.empty(0, dtype=object)
    try:
        returned = objective.fn(archs)
    except Exception as failure:  # whatever it was: the search goes on, and the ledger says what happened
        if len(archs) == 1:
            text = f"{objective.name}: {type(failure).__name__}: {failure}"
            return np.full(1, np.nan), np.array([text], dtype=object)
        each = [_column(objective, arch[None]) for arch in archs]  # not all of them need fail
        return np.concatenate([v for v, _ in each]), np.concatenate([e for _, e in each])
    values = objective.checked(returned, len(archs))  # a wrong shape is wrong for all: that does stop the search
    finite = np.isfinite(values)
    texts = ["" if ok else f"{objective.name}: not a finite number ({v})" for ok, v in zip(finite, values, strict=True)]
    return np.where(finite, values, np.nan), np.array(texts, dtype=object)


def _violation(
    constraints: Sequence[Constraint], values: Mapping[str, NDArray[np.float64]], n: int
) -> NDArray[np.float64]:
    return sum((c.violation(values[c.objective.name]) for c in constraints), start=np.zeros(n))


def _rows(columns: Mapping[str, NDArray[np.float64]], rows: NDArray[np.int64]) -> list[dict[str, float]]:
    return [{name: float(column[i]) for name, column in columns.items()} for i in rows]


def _columns(row: Mapping[str, float]) -> dict[str, NDArray[np.float64]]:
    return {name: np.array([value]) for name, value in row.items()}


def _first_of_each(archs: Archs, *known: Container[bytes]) -> Archs:
    keys: dict[bytes, int] = {}
    for i, row in enumerate(archs):
        key = row.tobytes()
        if not any(key in seen for seen in known):
            keys.setdefault(key, i)
    return archs[list(keys.values())]


def _exhausted(evaluated: int, budget: int, ruled_out: Mapping[bytes, float]) -> str:
    text = f"the searcher proposed nothing new in {MAX_IDLE_ASKS} asks, after {evaluated} of {budget} evaluations"
    if ruled_out:
        text = text.replace("nothing new", "nothing new that meets the cheap constraints")
        text += f"; {len(ruled_out):,} candidates violated them, the nearest by {min(ruled_out.values()):.2%}"
    return text


def _check(
    objectives: Sequence[Objective], constraints: Sequence[Constraint], budget: int, batch: int
) -> list[Objective]:
    """All different objectives, those of the constraints included."""
    for given, kind, example in (
        (objectives, Objective, "nas.macs(space)"),
        (constraints, Constraint, "latency <= 2.0"),
    ):
        wrong = [g for g in given if not isinstance(g, kind)]
        if wrong:
            raise BadInput(f"{kind.__name__.lower()}s are written like {example}, got {wrong[0]!r}")
    if not objectives:
        raise BadInput("a search needs at least one objective")
    names = [o.name for o in objectives]
    if len(set(names)) != len(names):
        raise BadInput(f"two objectives have the same name: {', '.join(names)}; pass name= to one of them")
    for name, value in (("budget", budget), ("batch", batch)):
        if not isinstance(value, int | np.integer) or value < 1:
            raise BadInput(f"{name} is a whole number of architectures, at least 1, got {value!r}")
    unique = {o.name: o for o in objectives}
    for constraint in constraints:
        own = constraint.objective
        other = unique.setdefault(own.name, own)
        # the same name with another meaning (latency on another device) would silently bound the wrong quantity
        if other is not own and (other.fn is not own.fn) and not (own.identity and own.identity == other.identity):
            raise BadInput(
                f"the constraint {constraint} is on another objective than the one called {own.name}; pass name="
            )
    return list(unique.values())
