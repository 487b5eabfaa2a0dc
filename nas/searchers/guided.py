"""Bayesian optimisation by expected hypervolume improvement.

Each expensive objective has a Gaussian process over the genes (nas/objectives/predictor.py), fitted anew as results
arrive; cheap ones are known. Proposals maximise the expected hypervolume improvement (Emmerich et al. 2006), in batches:
after each pick the posterior is conditioned on its mean ("Kriging believer", Ginsbourger et al. 2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta

from nas.checks import Batch, Count, Seed, checked
from nas.errors import BadInput
from nas.objectives.objective import Objective
from nas.objectives.predictor import Hyperparameters, Predictor
from nas.objectives.scoring import score
from nas.pareto import non_dominated, rank
from nas.searchers.acquisition import TINY_VIOLATION, Models, Scale
from nas.searchers.nsga2 import NSGA2
from nas.searchers.searcher import text_of
from nas.space import Archs, Floats, SearchSpace

_ENUMERABLE = 20_000  # spaces up to this size are looked at whole
_MOST_ROWS = 1000  # a model's examples: the best ones
_SETTLED = 150  # examples beyond which a few steps of the optimiser do
_REFIT = 0.1  # growth of the examples after which kernels are fitted again
_SHORTEST = 500  # of a small space's networks, those that promised most when kernels were last fitted
_GENERATIONS = 10  # of the inner search


class Guided:
    """Multi-objective Bayesian optimisation: the default for expensive objectives.

    ``objectives``: those of the search, in its order; the cheap ones among them are computed instead of modelled. When
    left out, everything is modelled. ``initial``: random architectures before the first model. ``candidates``: how many
    architectures an inner search looks at for every ask (spaces of up to 20,000 are looked at whole). ``batch``:
    architectures per ask in ``nas.search``. Constraints on expensive quantities enter as a probability of being met.
    """

    @checked
    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective] | None = None,
        *,
        seed: Seed = 0,
        initial: Annotated[int, Meta(ge=4, le=1_000_000)] = 20,
        candidates: Annotated[int, Meta(ge=100, le=1_000_000)] = 2000,
        batch: Batch = 8,
    ) -> None:
        self.space = space
        self.objectives = None if objectives is None else tuple(objectives)
        self.initial, self.candidates, self.batch = initial, candidates, batch
        combinations = float(np.prod(space.sizes.astype(float)))
        self._all = _everything(space) if combinations <= _ENUMERABLE else None
        self.reset(seed)

    @checked
    def reset(self, seed: Seed) -> None:
        """Forget everything and start from ``seed``."""
        self.seed = seed
        self._rng = np.random.default_rng(seed)
        self._completed: dict[bytes, tuple[Floats, float]] = {}
        self._under_way: dict[bytes, None] = {}
        self._shortlist = np.empty((0, self.space.genes), dtype=np.uint8)
        self._kernels: dict[int, tuple[int, Hyperparameters]] = {}
        self._shift = float(self._rng.random())

    __repr__ = text_of

    @property
    def known(self) -> int:
        return len(self._completed)

    @checked
    def tell(self, archs: Archs, costs: Floats, violation: Floats) -> None:
        """Take in results ``costs (n, k)``, ``violation (n,)``. Failed rows (NaN) are not proposed again.

        Raises BadInput for another number of costs than ``objectives``.
        """
        if self.objectives is not None and costs.shape[1] != len(self.objectives):
            raise BadInput(f"Guided was made for {len(self.objectives)} objectives, the search has {costs.shape[1]}")
        for arch, cost, missed in zip(self.space.canonical(archs), costs, violation, strict=True):
            self._completed[arch.tobytes()] = (cost, float(missed))
            self._under_way.pop(arch.tobytes(), None)

    @checked
    def ask(self, n: Count) -> Archs:
        """Up to ``n`` new architectures: random ones until ``initial`` results are there."""
        archs, costs, violation = self._results()
        if len(archs) < self.initial or not (violation <= 0).any():
            chosen = self._first(n)
        else:
            models = self._models(archs, costs, violation)
            chosen = self._best(n, models, costs[violation <= 0])
        self._under_way.update((row.tobytes(), None) for row in chosen)
        return chosen

    def _first(self, n: int) -> Archs:
        """Random architectures; where an objective is known they cover its range, the two ends first.

        The ends are the space's own where the objective's extremes are known, else those of what is looked at.
        """
        known = next((o for o in self.objectives or () if o.cheap), None)
        if known is None:
            return self._new(self.space.sample(20 * n, self._rng))[:n]
        pool = self.space.sample(self.candidates, self._rng) if self._all is None else self._all
        if known.extremes is not None:
            pool = np.vstack([pool, known.extremes.argmin, known.extremes.argmax])
        pool = self._new(pool)
        values, errors = score([known], pool)
        pool = pool[np.argsort(values[known.name] + self._rng.random(len(pool)) * 1e-12)]
        pool = pool[: len(pool) - int((errors != "").sum())]
        asked = len(self._completed) + len(self._under_way)
        rows = [round(_spread(asked + i, self._shift) * (len(pool) - 1)) for i in range(n)] if len(pool) else []
        return pool[list(dict.fromkeys(rows))]

    def _results(self) -> tuple[Archs, Floats, Floats]:
        """All that was told and did not fail, in order."""
        fine = [(key, cost, missed) for key, (cost, missed) in self._completed.items() if np.isfinite(cost).all()]
        archs = np.frombuffer(b"".join(key for key, _, _ in fine), np.uint8).reshape(-1, self.space.genes)
        costs = np.array([cost for _, cost, _ in fine]).reshape(len(fine), -1 if fine else 1)
        return archs, costs, np.array([missed for _, _, missed in fine])

    def _models(self, archs: Archs, costs: Floats, violation: Floats) -> Models:
        """A predictor for every column that is not cheap, and one for the violation where there is any."""
        scale = Scale.of(costs[violation <= 0])
        if len(archs) > _MOST_ROWS:
            best = np.argsort(rank(costs) + len(costs) * (violation > 0), kind="stable")[:_MOST_ROWS]
            archs, costs, violation = archs[best], costs[best], violation[best]
        known = {i: o for i, o in enumerate(self.objectives or ()) if o.cheap}
        predictors = {
            i: self._predictor(i, archs, scale.modelled(costs, i)) for i in range(costs.shape[1]) if i not in known
        }
        missed = np.log(violation.clip(TINY_VIOLATION, 10.0))
        feasibility = self._predictor(-1, archs, missed) if (violation > 0).any() else None
        return Models(scale=scale, predictors=predictors, known=known, feasibility=feasibility)

    def _predictor(self, column: int, archs: Archs, values: Floats) -> Predictor:
        fitted, kernel = self._kernels.get(column, (0, None))
        grown = len(archs) >= (1 + _REFIT) * fitted
        steps = 60 if kernel is None else 0 if not grown else 20 if len(archs) < _SETTLED else 8
        predictor = Predictor(self.space, archs, values, start=kernel, steps=steps)
        if steps:
            self._shortlist = self._shortlist[:0]
        self._kernels[column] = (len(archs) if steps else fitted, predictor.hyperparameters)
        return predictor

    def _best(self, n: int, models: Models, feasible: Floats) -> Archs:
        candidates = self._candidates(models)
        posterior = models.posterior(np.vstack([candidates, self._pending()]))
        front = models.scale.normalised(feasible)
        front = front[non_dominated(front)]
        for row in range(len(candidates), len(posterior)):  # what is being evaluated now will be known soon
            front = posterior.observe(row, front)
        ranked = candidates[posterior.pick(n, len(candidates), front, models.scale.reference, self._rng)]
        self._shortlist = ranked[n:]
        return ranked[:n]

    def _candidates(self, models: Models) -> Archs:
        """New architectures worth a look: all of them, or what an inner search over optimistic costs comes across."""
        if self._all is not None:
            shortlist = self._new(self._shortlist)
            return shortlist if len(shortlist) >= _SHORTEST else self._new(self._all)
        inner = NSGA2(self.space, seed=int(self._rng.integers(1 << 31)), population=max(100, self.candidates // 20))
        archs, costs, violation = self._results()
        keep = np.argsort(rank(costs), kind="stable")[: inner.population]
        inner.tell(archs[keep], models.scale.normalised(costs[keep]), violation[keep])
        found = [archs[:0]]
        for generation in range(_GENERATIONS):
            batch = inner.ask(self.candidates // _GENERATIONS)
            if not len(batch):
                break
            # expected costs and hopeful ones in turn: candidates for both
            inner.tell(batch, models.posterior(batch).optimistic(float(generation % 2)), np.zeros(len(batch)))
            found.append(batch)
        return self._new(np.vstack(found))

    def _pending(self) -> Archs:
        return np.frombuffer(b"".join(self._under_way), np.uint8).reshape(-1, self.space.genes)

    def _new(self, archs: Archs) -> Archs:
        rows: dict[bytes, int] = {}
        for i, row in enumerate(archs):
            key = row.tobytes()
            if key not in self._completed and key not in self._under_way:
                rows.setdefault(key, i)
        return archs[list(rows.values())]


def _spread(i: int, shift: float) -> float:
    """0, 1, then the van der Corput sequence turned by ``shift``: numbers that fill [0, 1] evenly, however many are taken."""
    if i < 2:
        return float(i)
    value, weight, left = 0.0, 0.5, i - 1
    while left:
        value, weight, left = value + weight * (left & 1), weight / 2, left >> 1
    return (value + shift) % 1.0


def _everything(space: SearchSpace) -> Archs:
    """All networks of a small space, each once."""
    grid = np.indices(tuple(space.sizes)).reshape(space.genes, -1).T.astype(np.uint8)
    return np.unique(space.canonical(grid), axis=0)
