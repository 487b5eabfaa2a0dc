"""What a search returns: columns over all evaluated architectures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from nas.checks import FilePath, checked
from nas.engine.ledger import LEDGER, Batch, read
from nas.errors import BadInput, Infeasible
from nas.notebook import html_table
from nas.objectives.objective import Constraint, Objective, ObjectiveRecord
from nas.pareto import hypervolume, hypervolume_history, non_dominated
from nas.space import Archs, Floats, SearchSpace
from nas.units import label, scale

_COLUMNS = ("archs", "values", "violation", "error")


@checked
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SearchResult:
    """Columns in order of evaluation.

    ``archs (n, genes)``; ``values (n, k)`` in the objectives' own direction and unit, NaN where an evaluation failed;
    ``violation (n,)``, 0 where all constraints are met; ``error (n,)``, '' where all went well; ``stopped``: why the
    search ended. Indexing with a slice, a mask or rows gives another SearchResult.
    """

    space: SearchSpace
    objectives: tuple[Objective, ...]
    archs: Archs
    values: Floats
    violation: Floats
    error: NDArray[np.object_]
    stopped: str = ""
    _reference: tuple[float, ...] | None = field(default=None, repr=False)

    @staticmethod
    @checked
    def load(run_dir: FilePath, space: SearchSpace, objectives: Sequence[Objective] | None = None) -> SearchResult:
        """The search of a run folder as far as it is: nothing is evaluated, replayed or changed.

        ``objectives``: the search's own, in its order, so that more can be evaluated with the result's; without them
        they are made from what the ledger says (name, unit, direction) and have no function. Raises BadInput when there
        is no search, it is damaged, or it was of another space or other objectives.
        """
        path = Path(run_dir) / LEDGER
        identity, stopped, entries = read(path, space)
        made = tuple(map(_only_read, identity.objectives)) if objectives is None else tuple(objectives)
        if identity.objectives != (given := tuple(o.record for o in made)):
            there, now = (", ".join(f"{o.name} ({o.identity})" for o in side) for side in (identity.objectives, given))
            raise BadInput(f"{path} is a search for {there}; got {now}")
        stopped = stopped or f"not finished: {len(entries)} evaluations so far"
        found = vars(Batch.of(entries, space, [o.name for o in made]))
        return SearchResult(space=space, objectives=made, stopped=stopped, **{k: found[k] for k in _COLUMNS})

    def __len__(self) -> int:
        return len(self.archs)

    def __repr__(self) -> str:
        names = ", ".join(o.name for o in self.objectives)
        counts = f"{len(self)} evaluated, {int((self.error != '').sum())} failed, {len(self.front)} on the front"
        return f"SearchResult({self.space.name}: {names}; {counts}; {self.stopped or 'not finished'})"

    def _repr_html_(self) -> str:
        front = self.front.to_pandas()
        return html_table(self, front[["evaluation", *(o.name for o in self.objectives), "architecture"]])

    def __getitem__(self, rows: int | slice | NDArray[np.bool_] | NDArray[np.int64]) -> SearchResult:
        rows = np.atleast_1d(np.arange(len(self))[rows])
        return replace(self, **{k: getattr(self, k)[rows] for k in _COLUMNS}, _reference=tuple(self.reference))

    @property
    def good(self) -> NDArray[np.bool_]:
        """Rows that were evaluated and meet all constraints."""
        return (self.violation <= 0) & (self.error == "") & np.isfinite(self.values).all(axis=1)

    @property
    def costs(self) -> Floats:
        """``values`` with the sign that makes smaller better; NaN for rows that are not good."""
        costs = np.column_stack([o.cost(self.values[:, i]) for i, o in enumerate(self.objectives)])
        return np.where(self.good[:, None], costs, np.nan)

    @cached_property
    def on_front(self) -> NDArray[np.bool_]:
        """Rows that are good and that no other row dominates."""
        return non_dominated(self.costs)

    @property
    def front(self) -> SearchResult:
        """The Pareto front, each point once, in increasing order of the first cheap objective."""
        rows = np.flatnonzero(self.on_front)
        _, first = np.unique(self.values[rows], axis=0, return_index=True)
        rows = rows[np.sort(first)]
        by = next((i for i, o in enumerate(self.objectives) if o.cheap), 0)
        return self[rows[np.argsort(self.values[rows, by], kind="stable")]]

    @checked
    def column(self, objective: Objective) -> Floats:
        """The values of one objective, ``(n,)``. Raises BadInput when the search did not have it."""
        names = [o.name for o in self.objectives]
        if objective.name not in names:
            raise BadInput(f"this search has no objective {objective.name!r}; it has {', '.join(names)}")
        own = self.objectives[names.index(objective.name)]
        if own.identity and objective.identity and own.identity != objective.identity:
            raise BadInput(
                f"{objective.name} was {own.identity} in this search, got {objective.identity}; pass the search's own"
            )
        return self.values[:, names.index(objective.name)]

    @checked
    def best(self, objective: Objective, *constraints: Constraint) -> Archs:
        """The good architecture ``(genes,)`` with the best ``objective`` among those that meet ``constraints``.

        Constraints may be on any objective of the search. Raises Infeasible, with the nearest value found, when none
        qualifies.
        """
        rows = self.good
        for constraint in constraints:
            column = self.column(constraint.objective)
            met = rows & (constraint.violation(column) <= 0)
            if rows.any() and not met.any():
                nearest = column[rows].min() if constraint.sense == "<=" else column[rows].max()
                raise Infeasible(f"no evaluated architecture meets {constraint}; the nearest has {nearest:.6g}")
            rows = met
        if not rows.any():
            raise Infeasible(f"none of {len(self)} evaluated architectures is free of failures and violations")
        return self.archs[np.where(rows, objective.cost(self.column(objective)), np.inf).argmin()]

    @property
    def reference(self) -> Floats:
        """Default reference point, as costs ``(k,)``: the worst of all good rows plus a tenth of their range."""
        if self._reference is not None:
            return np.array(self._reference)
        costs = self.costs[self.good]
        if not len(costs):
            return np.ones(len(self.objectives))
        worst, best = costs.max(axis=0), costs.min(axis=0)
        return worst + 0.1 * np.where(worst > best, worst - best, 1.0)

    def hypervolume(self, reference: ArrayLike | None = None) -> float:
        """Hypervolume of the front up to ``reference`` (as costs; default: ``self.reference``)."""
        costs = self.costs[self.good]
        return hypervolume(costs, self.reference if reference is None else reference) if len(costs) else 0.0

    def hypervolume_history(self, reference: ArrayLike | None = None) -> Floats:
        """Hypervolume after each evaluation, ``(n,)``."""
        return hypervolume_history(self.costs, self.reference if reference is None else reference)

    def to_pandas(self) -> pd.DataFrame:
        """One row per architecture: evaluation, the objectives, violation, error, on_front, architecture, the genes."""
        frame = pd.DataFrame(
            {
                "evaluation": np.arange(1, len(self) + 1),
                **{o.name: self.values[:, i] for i, o in enumerate(self.objectives)},
                "violation": self.violation,
                "error": self.error,
                "on_front": self.on_front,
                "architecture": self.space.describe(self.archs),
            }
        )
        genes = pd.DataFrame(self.space.decode(self.archs), columns=[c.name for c in self.space.choices])
        return pd.concat([frame, genes], axis=1)

    @checked
    def plot(self, path: FilePath) -> Path:
        """A picture of the first two objectives: all good rows, and their own front as a step line.

        ``path``: the suffix says the format (.png, .svg, .pdf). Raises BadInput with fewer than two objectives.
        """
        from matplotlib.figure import Figure

        if len(self.objectives) < 2:
            raise BadInput(f"a Pareto plot needs two objectives, this search has {len(self.objectives)}")
        # the cheap one goes along x, as in every accuracy-over-latency plot
        y, x = (0, 1) if self.objectives[1].cheap else (1, 0)
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        good = self[self.good]
        scales = [scale(o.unit, column) for o, column in zip(self.objectives, good.values.T, strict=True)]
        places = good.values * [s.factor for s in scales]
        axes.scatter(places[:, x], places[:, y], s=12, color="0.7", label="evaluated")
        # with a third objective the front is no staircase in two: show the part that is
        front = places[non_dominated(good.costs[:, [x, y]])] if len(good) else places
        front = front[np.argsort(front[:, x], kind="stable")]
        steps = "steps-pre" if self.objectives[x].maximize else "steps-post"
        axes.plot(front[:, x], front[:, y], "o-", ms=5, drawstyle=steps, label="Pareto front")
        axes.set_xlabel(label(self.objectives[x].name, scales[x].unit))
        axes.set_ylabel(label(self.objectives[y].name, scales[y].unit))
        axes.grid(alpha=0.3)
        figure.legend(loc="outside upper center", ncols=2, frameon=False)  # never over a point
        figure.savefig(path, dpi=150)
        return Path(path)


def _only_read(record: ObjectiveRecord) -> Objective:
    """An objective of a search that is only read: it cannot be evaluated."""

    def fn(archs: Archs) -> ArrayLike:
        raise BadInput(f"{record.name} was read back from a ledger; pass the objective itself to evaluate more")

    return Objective(fn=fn, **asdict(record))
