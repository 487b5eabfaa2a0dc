"""The search loop: asks a searcher, evaluates, writes the ledger, tells.

It is a deterministic function of its arguments, and the ledger is its memo: resuming runs it again from the start,
reading what is already known.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from msgspec import Meta
from numpy.typing import ArrayLike
from tqdm import tqdm

from nas.checks import Batch as BatchSize, Count, FilePath, Positive, Seed, checked
from nas.engine.evaluate import Evaluate, Outcome, check_timeout
from nas.engine.ledger import LEDGER, Batch, Entry, Identity, Ledger
from nas.engine.problem import Problem
from nas.engine.proposals import MAX_IDLE_ASKS, Proposals
from nas.engine.result import SearchResult
from nas.errors import BadInput
from nas.files import folder_of, locked
from nas.objectives.objective import Constraint, Objective
from nas.progress import bar
from nas.searchers.searcher import Searcher, identity_of
from nas.space import Archs, SearchSpace

BATCH = 16
"""Architectures per ask: small, so that a searcher soon learns from what it asked for."""
CHEAP_BATCH = 64
"""The same when nothing is expensive: large, so that NumPy has something to do."""

log = logging.getLogger("nas")


class Workers(Protocol):
    """Where candidates are evaluated."""

    def submit(self, arch: Archs) -> Future[Outcome]:
        """Begin with one candidate ``(genes,)``."""
        ...

    def close(self) -> None:
        """End them, with whatever is under way."""
        ...


MakeWorkers = Callable[[Evaluate], Workers]
OnResult = Callable[[dict[str, Any]], object]


@checked
def search(
    space: SearchSpace,
    objectives: Sequence[Objective | Callable[[Archs], ArrayLike]],
    searcher: Searcher | None = None,
    *,
    budget: Count,
    constraints: Sequence[Constraint] = (),
    first: Archs | None = None,
    seed: Seed | None = None,
    run_dir: FilePath | None = None,
    resume: bool | Literal["auto"] = "auto",
    batch: BatchSize | None = None,
    workers: Annotated[int, Meta(ge=1, le=100_000)] | MakeWorkers | None = None,
    timeout_s: Positive | None = None,
    progress: bool | None = None,
    on_result: OnResult | None = None,
) -> SearchResult:
    """Search ``space`` for the Pareto front of ``objectives`` under ``constraints``.

    ``objectives``: also plain functions ``archs (n, genes) -> (n,)``, expensive and minimised (``Objective.of``).
    ``searcher``: when left out, Guided if an objective is expensive and NSGA2 otherwise. ``budget``: how many different
    architectures get their expensive objectives evaluated; when no objective is expensive, how many are evaluated at
    all, those that violate a constraint included. Cheap objectives come first: what violates a constraint on them is
    never evaluated further and costs nothing. ``first (n, genes)``: architectures to begin with, told to the searcher like
    any other, such as ``nas.largest_within``, which needs no search to be known. ``seed`` resets the searcher to that seed.
    ``batch``: architectures per ask (default: the searcher's own ``batch`` where it has one, or 16, or 64 when nothing is
    expensive).

    With ``run_dir`` every finished candidate is on disk, and the same call goes on after an interruption to the same
    result, also with a larger budget. ``resume``: "auto" as said, a searcher that was used before starting again from its
    own seed; True with the searcher as it is; False refuses a folder that holds a search already.

    ``workers``: evaluate that many candidates at a time in processes of their own (Ray), or a function from an
    ``Evaluate`` to Workers, such as ``nas.engine.ray_workers.on_ray``, that says where. ``batch`` candidates are then
    kept on their way, and each result is told as it arrives; a resumed search repeats the order in which they arrived, so
    that the number of workers may change. ``timeout_s``: longest evaluation of one expensive objective.

    ``progress``: a bar (None: on a terminal and in a notebook). ``on_result`` is called with a dict for every candidate
    as it finishes (the columns of ``SearchResult.to_pandas`` and ``seconds``), not for what a resumed search reads back.

    An evaluation that raises, gives NaN or takes too long is recorded as failed with its text, counts, and does not
    stop the search. Raises Infeasible before anything is evaluated when a constraint on an additive objective cannot
    be met, and BadInput for settings that make no sense, a ``run_dir`` that belongs to another search, or one in which
    another process is at work.
    """
    problem = Problem.of(space, objectives, constraints, first)
    for constraint in problem.constraints:
        constraint.check_reachable()
    folder = None if run_dir is None else folder_of(run_dir)
    make = _make_workers(workers) if workers is not None and problem.costly else None
    if make is None:
        check_timeout(timeout_s)
    evaluate = Evaluate(objectives=problem.costly, timeout_s=timeout_s)
    with (
        contextlib.nullcontext() if folder is None else locked(folder),
        contextlib.closing(_InThisProcess(evaluate) if make is None else make(evaluate)) as pool,
        bar(progress, total=budget, desc="search", unit="network") as shown,
    ):
        path = None if folder is None else folder / LEDGER
        searcher = _ready(searcher or _default(problem), seed, resume == "auto" and path is not None and path.exists())
        rows = batch or int(getattr(searcher, "batch", BATCH if problem.costly else CHEAP_BATCH))
        completed: Literal["in batches", "one by one"] = "in batches" if make is None else "one by one"
        identity = Identity(**problem.described(), searcher=identity_of(searcher), batch=rows, completed=completed)
        with contextlib.closing(Ledger(path, identity, space, resume=bool(resume))) as ledger:
            run = _Search(problem, Proposals(problem, searcher), ledger, pool, budget, rows, shown, on_result)
            return run.run(one_by_one=make is not None)


def _default(problem: Problem) -> Searcher:
    if not problem.costly:
        from nas.searchers.nsga2 import NSGA2

        return NSGA2(problem.space)
    from nas.searchers.guided import Guided  # needs torch, which a search of tables does not

    return Guided(problem.space, problem.objectives)


def _ready(searcher: Searcher, seed: int | None, again: bool) -> Searcher:
    """``searcher`` from ``seed``, or from its own where the search has begun before (``again``)."""
    own = getattr(searcher, "seed", None)
    if seed is None and again and getattr(searcher, "known", None) and isinstance(own, int):
        seed = own
    if seed is not None:
        reset = getattr(searcher, "reset", None)
        if reset is None:
            raise BadInput(f"{type(searcher).__name__} has no reset(seed), which a seed needs; make it with its seed")
        reset(seed)
    return searcher


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """Row ``row`` of ``batch``, under way. ``future``: None when there is nothing to wait for."""

    batch: Batch
    row: int
    future: Future[Outcome] | None


@dataclass
class _Search:
    """One search, from its first ask to its result."""

    problem: Problem
    proposals: Proposals
    ledger: Ledger
    pool: Workers
    budget: int
    rows: int
    bar: tqdm[Any]
    on_result: OnResult | None
    done: int = 0

    def run(self, *, one_by_one: bool) -> SearchResult:
        log.info("search of %s: %d networks", self.problem.space.name, self.budget)
        try:
            batches = self._costly(one_by_one) if self.problem.costly else self._cheap()
        except KeyboardInterrupt as interrupt:
            on = "the same call goes on from there" if self.ledger.on_disk else "without run_dir nothing is kept"
            interrupt.args = (f"search stopped after {self.done} of {self.budget} evaluations; {on}",)
            raise
        result = self.proposals.result(batches, self.budget)
        self.ledger.finish(result.stopped)
        log.info("%s: %d on the front", result.stopped, len(result.front))
        return result

    def _cheap(self) -> list[Batch]:
        """All in arrays; a ledger, where there is one, is written but need not be read."""
        told: list[Batch] = []
        idle = 0
        while self.done < self.budget and idle < MAX_IDLE_ASKS:
            found = self.proposals.ask(self.rows)[: self.budget - self.done]
            idle = 0 if len(found) else idle + 1
            if len(found):
                if self.ledger.on_disk or self.on_result:
                    rows = range(len(found))
                    self._record([self.proposals.entry(found, i, Outcome(error=found.error[i])) for i in rows])
                self.proposals.tell(found)
                told.append(found)
                self._count(len(found))
        return told

    def _costly(self, one_by_one: bool) -> list[Batch]:
        """Keeps ``rows`` candidates under way. They are told all together, or ``one_by_one`` as they arrive."""
        under_way: dict[bytes, _Candidate] = {}
        finished: list[Entry] = []
        while len(finished) < self.budget:
            if one_by_one or not under_way:
                self._send(under_way, one_by_one)
            if not under_way:
                break
            keys = [self._next_to_arrive(under_way)] if one_by_one else list(under_way)
            arrived = [self._finish(under_way.pop(key)) for key in keys]
            finished += arrived
            self.proposals.tell(self.proposals.batch_of(arrived))
        return [self.proposals.batch_of(finished)]

    def _send(self, under_way: dict[bytes, _Candidate], one_by_one: bool) -> None:
        """Ask for as many candidates as there is room for, and submit those whose result is not known."""
        room, idle = self.rows - len(under_way), 0
        while room > 0 and idle < MAX_IDLE_ASKS and (left := self.budget - self.done - len(under_way)) > 0:
            found = self.proposals.ask(room)[:left]
            for row, arch in enumerate(found.archs):
                nothing_to_do = self.ledger.get(arch.tobytes()) is not None or found.error[row]
                future = None if nothing_to_do else self.pool.submit(arch)
                under_way[arch.tobytes()] = _Candidate(batch=found, row=row, future=future)
            room, idle = room - len(found), 0 if len(found) else idle + 1
            if under_way and (not one_by_one or not len(found)):
                break  # the results of what is under way may give the searcher better ideas

    def _next_to_arrive(self, under_way: Mapping[bytes, _Candidate]) -> bytes:
        """The candidate that is told next: as the ledger has it while it does, then whichever is finished first."""
        recorded = self.ledger.completed(self.done)
        if recorded is not None and recorded in under_way:
            return recorded
        running = {}
        for key, candidate in under_way.items():
            if candidate.future is None:
                return key
            running[candidate.future] = key
        first = wait(running, return_when=FIRST_COMPLETED).done
        return next(key for future, key in running.items() if future in first)  # in the order of asking

    def _finish(self, candidate: _Candidate) -> Entry:
        batch, row = candidate.batch, candidate.row
        entry = self.ledger.get(batch.archs[row].tobytes())
        if entry is None:
            outcome = candidate.future.result() if candidate.future else Outcome(error=str(batch.error[row]))
            entry = self.proposals.entry(batch, row, outcome)
            self._record([entry])
        self._count(1)
        return entry

    def _record(self, entries: list[Entry]) -> None:
        for number, entry in enumerate(self.ledger.record(entries), self.done + 1):
            if entry.error:
                log.info("network %d failed: %s", number, entry.error)
            if self.on_result:
                arch = np.frombuffer(entry.arch, np.uint8)[None]
                self.on_result(
                    {
                        "evaluation": number,
                        **entry.values,
                        "violation": entry.violation,
                        "error": entry.error,
                        "architecture": self.problem.space.describe(arch)[0],
                        "seconds": entry.seconds,
                    }
                )

    def _count(self, more: int) -> None:
        self.done += more
        self.bar.update(more)


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


def _make_workers(workers: int | MakeWorkers) -> MakeWorkers:
    if callable(workers):
        return workers
    from nas.engine.ray_workers import on_ray

    return on_ray(workers)
