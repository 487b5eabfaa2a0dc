"""What candidates promise: expected improvement, expected hypervolume improvement, and a scalarised one beyond two costs.

Costs are normalised: 0 is the best seen and 1 the worst on the front. Modelled ones have a log-normal posterior above
``-RESOLUTION``, so that a model resolves most finely where it matters; known ones are what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from nas.objectives.objective import Objective
from nas.objectives.predictor import Posterior, Predictor
from nas.objectives.scoring import score
from nas.pareto import non_dominated
from nas.space import Archs, Floats

RESOLUTION = 0.1
TINY_VIOLATION = 1e-3
"""Violations are modelled as logarithms, none as this."""
_BEYOND = 0.5  # the reference point lies this far behind the front (or at the worst seen, if that is nearer)
_DRAWS = 64  # samples per candidate with three or more costs
_CLIP = 1.0  # what lies further beyond the reference is modelled as this far
_HOPELESS = 1e6
_VAGUEST = 2.0  # standard deviation of a logarithm; a model that knows less hopes for too much
_SHORTLIST = 3000  # candidates that a search looks at until kernels are fitted again
_FOLLOWED = 512  # candidates that are looked at again after the first pick of a batch


@dataclass(frozen=True, kw_only=True)
class Scale:
    """``ideal (k,)`` and ``span (k,)`` of the front's costs; ``reference (k,)``: worse than this is worth nothing."""

    ideal: Floats
    span: Floats
    reference: Floats

    @staticmethod
    def of(costs: Floats) -> Scale:
        """From the costs ``(n, k)`` of all feasible rows."""
        front = costs[non_dominated(costs)]
        ideal, nadir, worst = front.min(axis=0), front.max(axis=0), costs.max(axis=0)
        span = np.where(nadir > ideal, nadir - ideal, worst - ideal)
        span = np.where(span > 0, span, 1.0)
        reference = np.clip(worst, nadir + 0.1 * span, nadir + _BEYOND * span)
        return Scale(ideal=ideal, span=span, reference=(reference - ideal) / span)

    def normalised(self, costs: Floats) -> Floats:
        return (costs - self.ideal) / self.span

    def modelled(self, costs: Floats, column: int) -> Floats:
        """What a model of this column learns, ``(n,)``: logarithms, level beyond the reference."""
        values = self.normalised(costs)[:, column].clip(-RESOLUTION / 2, self.reference[column] + _CLIP)
        return np.log(values + RESOLUTION)


@dataclass(frozen=True, kw_only=True)
class Models:
    """By column of the costs: a ``predictor``, or the objective itself where it is ``known``.

    ``feasibility``: of the logarithm of the constraints' violation, where any was seen.
    """

    scale: Scale
    predictors: Mapping[int, Predictor]
    known: Mapping[int, Objective]
    feasibility: Predictor | None = None

    def posterior(self, archs: Archs) -> JointPosterior:
        """Of all costs of ``archs (n, genes)``."""
        exact = np.zeros((len(archs), len(self.predictors) + len(self.known)))
        for i, objective in self.known.items():
            values, _ = score([objective], archs)
            exact[:, i] = objective.cost(values[objective.name])
        return JointPosterior(
            exact=np.nan_to_num(self.scale.normalised(exact), nan=_HOPELESS),  # where a known objective fails
            modelled={i: p.posterior(archs) for i, p in self.predictors.items()},
            likely=np.ones(len(archs)) if self.feasibility is None else _likely(self.feasibility, archs),
        )


def _likely(feasibility: Predictor, archs: Archs) -> Floats:
    mean, std = feasibility.predict(archs)
    return ndtr((np.log(3 * TINY_VIOLATION) - mean) / std)


class JointPosterior:
    """Of the costs of a fixed set of ``n`` architectures. ``exact (n, k)``: only the known columns count.

    ``modelled``: by column; ``likely (n,)``: the probability that all constraints are met.
    """

    def __init__(self, *, exact: Floats, modelled: Mapping[int, Posterior], likely: Floats) -> None:
        self._exact, self._modelled, self._likely = exact, modelled, likely

    def __len__(self) -> int:
        return len(self._exact)

    def optimistic(self, deviations: float) -> Floats:
        """Normalised costs ``(n, k)``, modelled ones that many standard deviations better than expected."""
        costs = self._exact.copy()
        for i, posterior in self._modelled.items():
            costs[:, i] = np.exp(posterior.mean - deviations * posterior.std) - RESOLUTION
        return costs

    def observe(self, row: int, front: Floats) -> Floats:
        """Condition on the mean of ``row``; returns the front ``(m, k)`` with it."""
        for posterior in self._modelled.values():
            posterior.observe(row)
        point = self._exact[row].copy()
        for i, posterior in self._modelled.items():
            point[i] = np.exp(posterior.mean[row]) - RESOLUTION
        front = np.vstack([front, point])
        return front[non_dominated(front)]

    def pick(self, n: int, candidates: int, front: Floats, reference: Floats, rng: np.random.Generator) -> list[int]:
        """``n`` of the first ``candidates`` rows, one after the other, each by its expected gain over those before.

        Behind them come, from best to worst at the first look, the others that were worth following.
        """
        rows = np.arange(candidates)
        chosen: list[int] = []
        while len(chosen) < min(n, candidates):
            gain = self.expected_gain(rows, front, reference, rng) * self._likely[rows]
            gain[np.isin(rows, chosen)] = -1.0
            best = int(rows[gain.argmax()])
            if not chosen:  # gains only fall from here on
                rows = rows[np.argsort(-gain, kind="stable")[:_SHORTLIST]]
                shortlist, rows = rows, rows[:_FOLLOWED]
            chosen.append(best)
            front = self.observe(best, front)
        return [*chosen, *(int(row) for row in shortlist if row not in chosen)] if chosen else []

    def expected_gain(
        self, rows: NDArray[np.int64], front: Floats, reference: Floats, rng: np.random.Generator
    ) -> Floats:
        """``(rows,)``: in hypervolume with two costs, in the cost itself with one, else in a random scalarisation."""
        columns = self._exact.shape[1]
        if columns == 1:
            return self._shortfall(0, rows, front.min(axis=0))[:, 0]
        if columns == 2:
            return self._hypervolume_gain(rows, front, reference)
        return self._chebyshev_gain(rows, front, rng)

    def _hypervolume_gain(self, rows: NDArray[np.int64], front: Floats, reference: Floats) -> Floats:
        gain = np.zeros(len(rows))
        front = front[(front < reference).all(axis=1)]
        front = front[np.argsort(front[:, 0])]
        # nothing to hope for where even three standard deviations would not reach beyond the front
        best = np.column_stack([self._bound(i, rows, 3.0) for i in range(2)])
        hopeless = (best >= reference).any(axis=1)
        for point in front:
            hopeless |= (best >= point).all(axis=1)
        rows, worth = rows[~hopeless], np.flatnonzero(~hopeless)
        # strips between successive points of the front: width times height of what lies below it, in expectation
        widths = np.diff(self._shortfall(0, rows, np.append(front[:, 0], reference[0])), axis=1, prepend=0.0)
        heights = self._shortfall(1, rows, np.concatenate([[reference[1]], front[:, 1]]))
        gain[worth] = (widths * heights).sum(axis=1)
        return gain

    def _chebyshev_gain(self, rows: NDArray[np.int64], front: Floats, rng: np.random.Generator) -> Floats:
        """Expected improvement of the largest weighted cost (Knowles 2006), weights drawn anew for every pick."""
        weights = rng.dirichlet(np.ones(self._exact.shape[1]))
        normal = rng.standard_normal((_DRAWS, 1, len(self._modelled)))
        values = np.broadcast_to(self._exact[rows], (_DRAWS, *self._exact[rows].shape)).copy()
        for j, (i, posterior) in enumerate(self._modelled.items()):
            values[:, :, i] = np.exp(posterior.mean[rows] + posterior.std[rows] * normal[:, :, j]) - RESOLUTION
        best = _chebyshev(front, weights).min()
        return np.maximum(best - _chebyshev(values, weights), 0).mean(axis=0)

    def _bound(self, column: int, rows: NDArray[np.int64], deviations: float) -> Floats:
        if column not in self._modelled:
            return self._exact[rows, column]
        posterior = self._modelled[column]
        return np.exp(posterior.mean[rows] - deviations * posterior.std[rows]) - RESOLUTION

    def _shortfall(self, column: int, rows: NDArray[np.int64], levels: Floats) -> Floats:
        """Expected ``max(level - cost, 0)``, ``(rows, levels)``."""
        if column not in self._modelled:
            return np.maximum(levels - self._exact[rows, column, None], 0.0)
        posterior = self._modelled[column]
        mean, std = posterior.mean[rows, None], posterior.std[rows, None].clip(max=_VAGUEST)
        shifted = np.maximum(levels + RESOLUTION, 1e-9)
        distance = (np.log(shifted) - mean) / std
        return shifted * ndtr(distance) - np.exp(mean + std**2 / 2) * ndtr(distance - std)


def _chebyshev(costs: Floats, weights: Floats) -> Floats:
    weighted = costs * weights
    return weighted.max(axis=-1) + 0.05 * weighted.sum(axis=-1)
