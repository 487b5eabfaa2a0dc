"""The searcher's side of the loop: proposals that are new and worth evaluating, and results told back as costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.engine.ledger import Entry
from nas.engine.result import SearchResult
from nas.objectives.objective import Constraint, Objective
from nas.objectives.scoring import score
from nas.searchers.searcher import Searcher
from nas.space import Archs, SearchSpace

MAX_IDLE_ASKS = 50
"""Asks in a row without a new candidate that may be evaluated, after which a search stops."""
_WIDEST = 6  # an ask after proposals that all violate constraints is twice as large as the last, up to 64 times


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Rows of one ask, or of several.

    ``values (n, objectives)``: of the search's and the constraints' objectives, in the order of ``Proposals.everything``,
    NaN where unknown or failed; ``violation (n,)``; ``error (n,)``.
    """

    archs: Archs
    values: NDArray[np.float64]
    violation: NDArray[np.float64]
    error: NDArray[np.object_]
    ask: int = 0

    def __len__(self) -> int:
        return len(self.archs)

    def __getitem__(self, rows: slice | NDArray[Any]) -> Batch:
        return Batch(
            archs=self.archs[rows],
            values=self.values[rows],
            violation=self.violation[rows],
            error=self.error[rows],
            ask=self.ask,
        )


class Proposals:
    """Asks ``searcher`` on behalf of a search, and tells it.

    ``filters``: what violates a constraint on a cheap objective is told to the searcher at once and goes no further.
    """

    def __init__(
        self,
        space: SearchSpace,
        searcher: Searcher,
        objectives: Sequence[Objective],
        everything: Sequence[Objective],
        constraints: Sequence[Constraint],
        *,
        filters: bool,
    ) -> None:
        self.everything = tuple(everything)
        self._space, self._searcher = space, searcher
        self._objectives, self._constraints = tuple(objectives), tuple(constraints)
        self._at_first_sight = [c for c in constraints if c.objective.cheap] if filters else list(constraints)
        self._cheap = [o for o in everything if o.cheap]
        self._filters = filters
        self._sign = np.array([-1.0 if o.maximize else 1.0 for o in objectives])
        self._column = {o.name: i for i, o in enumerate(everything)}
        # known ground that is feasible comes first: the exact optimum of each constrained quantity
        self._starts = [c.best for c in constraints if c.best is not None]
        self._seen: set[bytes] = set()
        self._nearest = np.inf
        self._ruled_out = self._asks = self._width = 0

    def ask(self, n: int) -> Batch:
        """New architectures with the values of their cheap objectives; empty when the searcher has none this time."""
        if self._starts:
            proposed, self._starts = np.array(self._starts), []
        else:
            proposed = self._space.check(self._searcher.ask(n << self._width))
        self._asks += 1
        found = self._scored(self._new(self._space.canonical(proposed)))
        violators = (found.violation > 0) & self._filters
        if violators.any():
            self._ruled_out += int(violators.sum())
            self._nearest = min(self._nearest, float(found.violation[violators].min()))
            self.tell(found[violators])
        allowed = found[~violators]
        self._width = 0 if len(allowed) else min(self._width + bool(len(found)), _WIDEST)
        return allowed

    def tell(self, batch: Batch) -> None:
        """Tell the searcher what is known of these rows."""
        if len(batch):
            costs = self._sign * batch.values[:, [self._column[o.name] for o in self._objectives]]
            self._searcher.tell(batch.archs, costs, batch.violation)

    def completed(self, batch: Batch, row: int, values: Mapping[str, float], error: str, seconds: float) -> Entry:
        """The ledger's entry of one row, with the ``values`` of its expensive objectives."""
        known = {o.name: float(v) for o, v in zip(self.everything, batch.values[row], strict=True)} | dict(values)
        columns = {name: np.array([value]) for name, value in known.items()}
        violation = 0.0 if error else float(_violation(self._constraints, columns, 1)[0])
        return Entry(
            arch=batch.archs[row].tobytes(),
            ask=batch.ask,
            values=known,
            violation=violation,
            error=error,
            seconds=seconds,
        )

    def batch_of(self, entries: Sequence[Entry]) -> Batch:
        """Entries as columns."""
        names = [o.name for o in self.everything]
        return Batch(
            archs=np.frombuffer(b"".join(e.arch for e in entries), np.uint8).reshape(-1, self._space.genes),
            values=np.array([[e.values[n] for n in names] for e in entries], np.float64).reshape(-1, len(names)),
            violation=np.array([e.violation for e in entries], dtype=np.float64),
            error=np.array([e.error for e in entries], dtype=object),
        )

    def result(self, batches: Sequence[Batch], budget: int) -> SearchResult:
        """What was evaluated, in order."""
        batches = batches or [self.batch_of([])]
        done = sum(len(b) for b in batches)
        return SearchResult(
            space=self._space,
            objectives=self._objectives,
            archs=np.concatenate([b.archs for b in batches]),
            values=np.concatenate([b.values for b in batches])[:, [self._column[o.name] for o in self._objectives]],
            violation=np.concatenate([b.violation for b in batches]),
            error=np.concatenate([b.error for b in batches]).astype(str),
            stopped=f"the budget of {budget} evaluations is used" if done >= budget else self._exhausted(done, budget),
        )

    def _new(self, archs: Archs) -> Archs:
        rows = []
        for i, row in enumerate(archs):
            key = row.tobytes()
            if key not in self._seen:
                self._seen.add(key)
                rows.append(i)
        return archs[rows]

    def _scored(self, archs: Archs) -> Batch:
        columns, errors = score(self._cheap, archs)
        values = np.full((len(archs), len(self.everything)), np.nan)
        for name, column in columns.items():
            values[:, self._column[name]] = column
        violation = np.nan_to_num(_violation(self._at_first_sight, columns, len(archs)))  # NaN: failed, no violation
        violation[errors != ""] = 0.0
        return Batch(archs=archs, values=values, violation=violation, error=errors, ask=self._asks)

    def _exhausted(self, done: int, budget: int) -> str:
        text = f"the searcher proposed nothing new in {MAX_IDLE_ASKS} asks, after {done} of {budget} evaluations"
        if self._ruled_out:
            text = text.replace("nothing new", "nothing new that meets the cheap constraints")
            text += f"; {self._ruled_out:,} candidates violated them, the nearest by {self._nearest:.2%}"
        return text


def _violation(
    constraints: Sequence[Constraint], values: Mapping[str, NDArray[np.float64]], n: int
) -> NDArray[np.float64]:
    return sum((c.violation(values[c.objective.name]) for c in constraints), start=np.zeros(n))
