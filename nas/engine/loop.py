"""The search loop: asks a searcher, evaluates, writes the ledger, tells.

It is a deterministic function of its arguments, and the ledger is its memo: resuming runs it again from the start,
reading what is already known.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from nas.engine.evaluate import Evaluate, Outcome, check_timeout
from nas.engine.ledger import Entry, Ledger
from nas.engine.proposals import MAX_IDLE_ASKS, Batch, Proposals
from nas.engine.result import SearchResult
from nas.errors import BadInput
from nas.objectives.objective import Constraint, Objective
from nas.searchers.nsga2 import NSGA2
from nas.searchers.searcher import Searcher
from nas.space import Archs, SearchSpace

LEDGER = "evaluations.db"
BATCH = 16
"""Architectures per ask: small, so that a searcher soon learns from what it asked for."""
CHEAP_BATCH = 64
"""The same when nothing is expensive: large, so that NumPy has something to do."""


class Workers(Protocol):
    """Where candidates are evaluated."""

    def submit(self, arch: Archs) -> Future[Outcome]: ...

    def close(self) -> None: ...


Crew = Callable[[Evaluate], Workers]


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
    workers: int | Crew | None = None,
    timeout_s: float | None = None,
    progress: bool = False,
) -> SearchResult:
    """Search ``space`` for the Pareto front of ``objectives`` under ``constraints``.

    ``searcher``: when left out, Guided if an objective is expensive and NSGA2 otherwise. ``budget``: how many different
    architectures get their expensive objectives evaluated; when no objective is expensive, how many are evaluated at
    all, those that violate a constraint included. Cheap objectives come first: what violates a constraint on them is
    never evaluated further and costs nothing. ``seed`` restarts the searcher from that seed; without it, pass a fresh
    searcher. ``batch``: architectures per ask (default: the
    searcher's own ``batch`` where it has one, or 16, or 64 when nothing is expensive). With ``run_dir`` every finished candidate is on disk, and
    ``resume=True`` goes on after an interruption to the same result, also with a larger budget.

    ``workers``: evaluate that many candidates at a time in processes of their own (needs the extra 'ray'), or a
    function from an ``Evaluate`` to Workers, such as ``nas.engine.ray_workers.crew``, that says where. ``batch`` candidates
    are then kept on their way, and each result is told as it arrives; a resumed search repeats the order in which they
    arrived, so that the number of workers may change. ``timeout_s``: longest evaluation of one expensive objective.

    An evaluation that raises, gives NaN or takes too long is recorded as failed with its text, counts, and does not
    stop the search. Raises Infeasible before anything is evaluated when a constraint on an additive objective cannot
    be met, and BadInput for settings that make no sense or a ``run_dir`` that belongs to another search.
    """
    objectives, constraints = tuple(objectives), tuple(constraints)
    everything = _check(objectives, constraints, budget, batch)
    for constraint in constraints:
        constraint.check_reachable()
    costly = tuple(o for o in everything if not o.cheap)
    parallel = bool(costly) and workers is not None
    if not parallel:
        check_timeout(timeout_s)
    searcher = searcher or _default(space, objectives)
    rows = batch or int(getattr(searcher, "batch", BATCH if costly else CHEAP_BATCH))
    if seed is not None:
        searcher.reset(seed)
    identity = {
        "space": f"{space.name} {space.fingerprint}",
        "objectives": [[o.name, o.identity, o.maximize] for o in objectives],
        "constraints": [f"{c} {c.objective.identity}" for c in constraints],
        "searcher": _described(searcher),
        "batch": rows,
        "told": "one by one" if parallel else "in batches",
    }
    ledger = Ledger(None if run_dir is None else Path(run_dir) / LEDGER, identity, resume=resume)
    proposals = Proposals(space, searcher, objectives, everything, constraints, filters=bool(costly))
    bar = tqdm(total=budget, desc="search", disable=not progress, unit="network")
    try:
        if not costly:
            evaluated = _search_cheap(proposals, ledger, budget, rows, bar)
        else:
            evaluate = Evaluate(objectives=costly, timeout_s=timeout_s)
            with contextlib.closing(_crew(workers, evaluate) if parallel else _InThisProcess(evaluate)) as crew:
                evaluated = _search_costly(proposals, ledger, crew, budget, rows, bar, one_by_one=parallel)
    finally:
        bar.close()
        ledger.close()
    return proposals.result(evaluated, budget)


def _described(searcher: Searcher) -> dict[str, Any]:
    """What tells one searcher from another, for the ledger: its class and its public plain attributes."""
    own = {k: _plain(v) for k, v in vars(searcher).items() if not k.startswith("_")}
    return {
        "searcher": type(searcher).__name__,
        **{k: v for k, v in own.items() if v is not _OTHER},
        "known": getattr(searcher, "known", 0),
    }


_OTHER = object()


def _plain(value: Any) -> Any:
    """``value`` as JSON takes it; ``_OTHER`` for what is no number, text or collection of such."""
    if isinstance(value, Objective):
        return [value.name, value.cheap]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        items = [_plain(v) for v in value]
        return _OTHER if _OTHER in items else items
    if isinstance(value, dict):
        items = {str(k): _plain(v) for k, v in value.items()}
        return _OTHER if _OTHER in items.values() else items
    return value if value is None or isinstance(value, bool | int | float | str) else _OTHER


def _default(space: SearchSpace, objectives: Sequence[Objective]) -> Searcher:
    if all(o.cheap for o in objectives):
        return NSGA2(space)
    from nas.searchers.guided import Guided  # needs torch, which a search of tables does not

    return Guided(space, objectives)


def _search_cheap(proposals: Proposals, ledger: Ledger, budget: int, batch: int, bar: tqdm[Any]) -> list[Batch]:
    """All in arrays; a ledger, where there is one, is written but need not be read."""
    told: list[Batch] = []
    done = idle = 0
    while done < budget and idle < MAX_IDLE_ASKS:
        found = proposals.ask(batch)[: budget - done]
        idle = 0 if len(found) else idle + 1
        if len(found):
            if ledger.on_disk:
                rows = range(len(found))
                ledger.record(proposals.completed(found, i, {}, str(found.error[i]), 0.0) for i in rows)
            proposals.tell(found)
            told.append(found)
            done += len(found)
            bar.update(len(found))
    return told


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """Row ``row`` of ``batch``, under way. ``future``: None when there is nothing to wait for."""

    batch: Batch
    row: int
    future: Future[Outcome] | None


def _search_costly(
    proposals: Proposals, ledger: Ledger, crew: Workers, budget: int, batch: int, bar: tqdm[Any], *, one_by_one: bool
) -> list[Batch]:
    """Keeps ``batch`` candidates under way. They are told all together, or ``one_by_one`` as they arrive."""
    under_way: dict[bytes, _Candidate] = {}
    finished: list[Entry] = []
    while len(finished) < budget:
        idle = 0
        room = batch - len(under_way) if one_by_one or not under_way else 0
        while room > 0 and idle < MAX_IDLE_ASKS and len(finished) + len(under_way) < budget:
            found = proposals.ask(room)[: budget - len(finished) - len(under_way)]
            for row, arch in enumerate(found.archs):
                nothing_to_do = ledger.get(arch.tobytes()) is not None or found.error[row]
                future = None if nothing_to_do else crew.submit(arch)
                under_way[arch.tobytes()] = _Candidate(batch=found, row=row, future=future)
            room, idle = room - len(found), 0 if len(found) else idle + 1
            if under_way and (not one_by_one or not len(found)):
                break  # the results of what is under way may give the searcher better ideas
        if not under_way:
            break
        keys = [_next_to_arrive(under_way, ledger, len(finished))] if one_by_one else list(under_way)
        arrived = []
        for key in keys:
            arrived.append(_finish(under_way.pop(key), proposals, ledger))
            bar.update()
        finished += arrived
        proposals.tell(proposals.batch_of(arrived))
    return [proposals.batch_of(finished)]


def _next_to_arrive(under_way: Mapping[bytes, _Candidate], ledger: Ledger, arrived: int) -> bytes:
    """The candidate that is told next: as the ledger has it while it does, then whichever is finished first."""
    recorded = ledger.told(arrived)
    if recorded is not None and recorded in under_way:
        return recorded
    running = {}
    for key, candidate in under_way.items():
        if candidate.future is None:
            return key
        running[candidate.future] = key
    first = wait(running, return_when=FIRST_COMPLETED).done
    return next(key for future, key in running.items() if future in first)  # in the order of asking


def _finish(candidate: _Candidate, proposals: Proposals, ledger: Ledger) -> Entry:
    batch, row = candidate.batch, candidate.row
    entry = ledger.get(batch.archs[row].tobytes())
    if entry is None:
        outcome = candidate.future.result() if candidate.future else Outcome(values={}, error=str(batch.error[row]))
        entry = proposals.completed(batch, row, outcome.values, outcome.error, outcome.seconds)
        ledger.record([entry])
    return entry


class _InThisProcess:
    """Workers of the plain search: a candidate is evaluated when its result is asked for."""

    def __init__(self, evaluate: Evaluate) -> None:
        self._evaluate = evaluate

    def submit(self, arch: Archs) -> Future[Outcome]:
        return _Later(self._evaluate, arch)

    def close(self) -> None:
        pass


class _Later(Future[Outcome]):
    def __init__(self, evaluate: Evaluate, arch: Archs) -> None:
        super().__init__()
        self._evaluate, self._arch = evaluate, arch

    def result(self, timeout: float | None = None) -> Outcome:
        return self._evaluate(self._arch)


def _crew(workers: int | Crew | None, evaluate: Evaluate) -> Workers:
    if callable(workers):
        return workers(evaluate)
    if not isinstance(workers, int) or workers < 1:
        raise BadInput(f"workers is a number of processes, at least 1, got {workers!r}")
    from nas.engine.ray_workers import RayWorkers

    return RayWorkers(evaluate, workers)


def _check(
    objectives: Sequence[Objective], constraints: Sequence[Constraint], budget: int, batch: int | None
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
    for name, value in (("budget", budget), ("batch", 1 if batch is None else batch)):
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
