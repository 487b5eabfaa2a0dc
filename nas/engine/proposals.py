"""The searcher's side of the loop: proposals that are new and worth evaluating, and results told back as costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nas.engine.evaluate import Outcome
from nas.engine.ledger import Batch, Entry
from nas.engine.problem import Problem
from nas.engine.result import SearchResult
from nas.objectives.objective import Constraint
from nas.objectives.scoring import score
from nas.searchers.searcher import Searcher
from nas.searchers.seen import Seen
from nas.space import Archs, Floats

MAX_IDLE_ASKS = 50
"""Asks in a row without a new candidate that may be evaluated, after which a search stops."""
_WIDEST = 6  # an ask after proposals that all violate constraints is twice as large as the last, up to 64 times


class Proposals:
    """Asks ``searcher`` on behalf of a search, and tells it.

    When something is costly, what violates a constraint on a cheap objective is told to the searcher at once and goes no
    further.
    """

    def __init__(self, problem: Problem, searcher: Searcher) -> None:
        self._problem, self._space, self._searcher = problem, problem.space, searcher
        self._filters = bool(problem.costly)
        self._at_first_sight = [c for c in problem.constraints if c.objective.cheap or not self._filters]
        self._cheap = [o for o in problem.everything if o.cheap]
        self._column = {o.name: i for i, o in enumerate(problem.everything)}
        # known ground that is feasible comes first: the exact optimum of each constrained quantity
        self._starts = [*(c.best for c in problem.constraints if c.best is not None), *problem.first]
        self._seen = Seen()
        self._nearest = np.inf
        self._ruled_out = self._asks = self._width = 0

    def ask(self, n: int) -> Batch:
        """New architectures with the values of their cheap objectives; empty when the searcher has none this time."""
        if self._starts:
            proposed, self._starts = np.array(self._starts), []
        else:
            proposed = self._space.check(self._searcher.ask(n << self._width))
        self._asks += 1
        canonical = self._space.canonical(proposed)
        found = self._scored(canonical[self._seen.take(canonical, len(canonical))])
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
            self._searcher.tell(batch.archs, self._problem.costs(batch.values), batch.violation)

    def entry(self, batch: Batch, row: int, outcome: Outcome) -> Entry:
        """The ledger's entry of one row, whose expensive objectives have the values of ``outcome``."""
        known = dict(zip(self._column, batch.values[row].tolist(), strict=True)) | dict(outcome.values)
        single = {name: np.array([value]) for name, value in known.items()}
        violation = 0.0 if outcome.error else float(_violation(self._problem.constraints, single, 1)[0])
        return Entry(
            arch=batch.archs[row].tobytes(),
            ask=batch.ask,
            values=known,
            violation=violation,
            error=outcome.error,
            seconds=outcome.seconds,
        )

    def batch_of(self, entries: Sequence[Entry]) -> Batch:
        """Entries as columns."""
        return Batch.of(entries, self._space, list(self._column))

    def result(self, batches: Sequence[Batch], budget: int) -> SearchResult:
        """What was evaluated, in order."""
        batches = batches or [self.batch_of([])]
        done = sum(len(b) for b in batches)
        return SearchResult(
            space=self._space,
            objectives=self._problem.objectives,
            archs=np.concatenate([b.archs for b in batches]),
            values=np.concatenate([b.values for b in batches])[:, : len(self._problem.objectives)],
            violation=np.concatenate([b.violation for b in batches]),
            error=np.concatenate([b.error for b in batches]),
            stopped=f"the budget of {budget} evaluations is used" if done >= budget else self._exhausted(done, budget),
        )

    def _scored(self, archs: Archs) -> Batch:
        scored, errors = score(self._cheap, archs)
        values = np.full((len(archs), len(self._column)), np.nan)
        for name, column in scored.items():
            values[:, self._column[name]] = column
        violation = np.nan_to_num(_violation(self._at_first_sight, scored, len(archs)))  # NaN: failed, no violation
        violation[errors != ""] = 0.0
        return Batch(archs=archs, values=values, violation=violation, error=errors, ask=self._asks)

    def _exhausted(self, done: int, budget: int) -> str:
        text = f"the searcher proposed nothing new in {MAX_IDLE_ASKS} asks, after {done} of {budget} evaluations"
        if self._ruled_out:
            text = text.replace("nothing new", "nothing new that meets the cheap constraints")
            text += f"; {self._ruled_out:,} candidates violated them, the nearest by {self._nearest:.2%}"
        return text


def _violation(constraints: Sequence[Constraint], values: Mapping[str, Floats], n: int) -> Floats:
    return sum((c.violation(values[c.objective.name]) for c in constraints), start=np.zeros(n))
