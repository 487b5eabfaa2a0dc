"""Reinforcement learning: an autoregressive policy over the genes, trained with REINFORCE or PPO on everything told.

A rollout is given an aim, which the policy sees: weights of the costs, or a target of the resources. Results are few and
dear, so none is used once: all of the best are kept, and for any aim each of them says what it would have been rewarded
with (hindsight; Andrychowicz et al. 2017). The policy is pulled to the best for an aim and pushed from the others, these
weighted by how likely it still is to propose them (tapered off-policy REINFORCE; Le Roux et al. 2025). Of several
rollouts a critic chooses, which knows cheap costs as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from nas.checks import Count, Finite, Positive, Seed, checked, shown
from nas.errors import BadInput
from nas.objectives.objective import Objective
from nas.objectives.scoring import score
from nas.pareto import non_dominated
from nas.searchers.nsga2 import constrained_rank
from nas.searchers.policy import Critic, Policy
from nas.searchers.seen import LAST, NeverTwice, Results, even
from nas.space import Archs, Floats, SearchSpace

_MNASNET_EXPONENT = -0.07  # Tan et al. 2019: twice the latency is worth 5% accuracy
_TUNAS_SLOPE = -0.5
_AUGMENTED = 0.05  # share of the sum in a Chebyshev reward, so that it tells apart what is weakly dominated
_CLIP = 0.2
_EPOCHS = 4  # of PPO, on one draw from the replay
_STEPS = 32  # per update, over all draws
_AIMS = 16  # aims in a draw
_PAIRS = 8  # results drawn for each of them to be pulled to, and as many to be pushed from
_ELITE = 0.1  # of the results, those that an aim pulls to; so many at least and at most
_FEWEST, _MOST = 4, 24
_PUSH = 0.3  # how much a result that is pushed from weighs against one that is pulled to
_REPLAY = 600  # results kept: the best ones
_BUMPS = 6  # in which an aim is told to the policy
_TRIES = 16  # rollouts for each network wanted, of which the critic chooses
_EXPLORE = 1.0  # genes of a rollout that are drawn at random
_HARDER = 0.5  # as much more for every round of rollouts that brought too little that is new
_RESOLUTION = 0.05  # of the range of qualities, in the critic


class PolicySearch(NeverTwice):
    """Learns where good networks are by trial and reward.

    ``objectives``: those of the search, in its order. Where all but the first are cheap, they are computed and not
    guessed, and the ends of their ranges are the first proposals.

    ``algorithm``: "ppo" (Schulman et al. 2017) or "reinforce" (Williams 1992). ``reward``: "chebyshev", the largest of
    the weighted costs, in units of the front's range, weights drawn anew for each rollout (Knowles 2006), so that one run
    learns the whole front; "tunas", quality less the distance to the target (Bender et al. 2020); "mnasnet", quality times
    a soft power of it (Tan et al. 2019). For these quality is the first cost, scaled by the range seen so far, and every
    further cost a resource. By default "tunas" with ``targets``, else "chebyshev". ``targets``: one number per resource;
    without them "tunas" and "mnasnet" draw a target from the front's range for each rollout. ``entropy``: weight of the
    entropy bonus. ``rollout``: results after which the policy is updated.
    """

    @checked
    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective] | None = None,
        *,
        seed: Seed = 0,
        algorithm: Literal["ppo", "reinforce"] = "ppo",
        reward: Literal["chebyshev", "tunas", "mnasnet"] | None = None,
        targets: Sequence[Finite] | Finite | None = None,
        learning_rate: Positive = 0.03,
        entropy: Annotated[float, Meta(ge=0, le=1000)] = 0.01,
        rollout: Count = 16,
    ) -> None:
        self.space = space
        self.objectives = None if objectives is None else tuple(objectives)
        self.algorithm = algorithm
        self.targets = _checked_targets(targets)
        self.reward = reward or ("chebyshev" if targets is None else "tunas")
        if self.reward == "chebyshev" and targets is not None:
            raise BadInput("targets go with the rewards tunas and mnasnet; chebyshev is for the whole front")
        self.learning_rate, self.entropy, self.rollout = learning_rate, entropy, rollout
        resources = (self.objectives or ())[1:]
        self._cheap = resources if all(o.cheap for o in resources) else ()
        self.reset(seed)

    @checked
    def reset(self, seed: Seed) -> None:
        """Forget everything and start from ``seed``."""
        super().reset(seed)
        self._policy: Policy | None = None
        self._critic: Critic | None = None
        self._told = Results.none(self.space)
        self._fine = self._front = np.empty((0, 0))
        self._waiting = 0

    @checked
    def ask(self, n: Count) -> Archs:
        """Up to ``n`` new architectures: even and uniform ones before the first update, then rollouts of the policy."""

        def propose(attempt: int, missing: int) -> Archs:
            if self._policy is None or not len(self._front) or attempt == LAST:
                first = self.space.sample(0, self._rng) if self.known else self._ends()
                return np.vstack([first, self.space.sample(2 * missing, self._rng)])
            return self._rollouts(missing + 2, _EXPLORE * (1 + attempt * _HARDER) / self.space.genes)

        return self._seen.fill(n, propose)

    @checked
    def tell(self, archs: Archs, costs: Floats, violation: Floats) -> None:
        """Take in results ``costs (n, k)``; when ``rollout`` of them are new to the policy, it is updated.

        A failed row (NaN) gets the worst reward, one that violates a constraint loses by how much it does. Raises
        BadInput for another number of costs than ``objectives``, or of resources than ``targets``.
        """
        resources = costs.shape[1] - 1
        if self.targets is not None and len(self.targets) != resources:
            raise BadInput(f"targets has {len(self.targets)} numbers, the search has {resources} resources")
        if self.objectives is not None and resources + 1 != len(self.objectives):
            raise BadInput(
                f"PolicySearch was made for {len(self.objectives)} objectives, the search has {resources + 1}"
            )
        archs = self.space.canonical(archs)
        self._seen.add(archs)
        self._told = self._told.plus(Results(archs=archs, costs=costs, violation=violation))
        self._summarise()
        self._waiting += len(archs)
        if self._waiting >= self.rollout and len(self._front) and len(self._told) > 1:
            self._waiting = 0
            self._policy = self._policy or Policy(self.space, self._features(self._draw_aims(1)).shape[1])
            self._learn(self._policy)

    def _ends(self) -> Archs:
        """What to begin with: the even networks, and the ends of what is known of cheap costs."""
        known = [o.extremes for o in self._cheap if o.extremes is not None]
        return np.vstack([even(self.space), *(row for e in known for row in (e.argmin, e.argmax))])

    def _summarise(self) -> None:
        """Keep the best results, their costs ``_fine`` where they neither failed nor violate a constraint (or, where
        all violate one, did not fail), and the ``_front`` of these."""
        if len(self._told) > _REPLAY:
            costs = np.nan_to_num(self._told.costs, nan=np.inf)
            ranks = constrained_rank(costs, self._told.violation)
            self._told = self._told.take(np.argsort(ranks, kind="stable")[:_REPLAY])
        told = self._told.take(np.isfinite(self._told.costs).all(axis=1))
        self._fine = told.costs[told.violation <= 0] if (told.violation <= 0).any() else told.costs
        self._front = self._fine[non_dominated(self._fine)] if len(self._fine) else self._fine
        self._critic = None

    def _rollouts(self, n: int, explore: float) -> Archs:
        """``n`` rollouts, each the best of several with one aim, as far as the critic can tell."""
        assert self._policy is not None
        aims = np.repeat(self._draw_aims(n), _TRIES, axis=0)
        archs = self._policy.sample(self._features(aims), self._rng, explore)
        hope = self._rewards(self._expected(archs), aims, np.zeros(len(aims)))
        hope[self._seen.known(archs)] = -np.inf
        return archs[np.arange(n) * _TRIES + hope.reshape(n, _TRIES).argmax(axis=1)]

    def _expected(self, archs: Archs) -> Floats:
        """Costs ``(n, k)``: cheap ones as they are, others as the critic expects them."""
        best, span = self._fine.min(axis=0), np.ptp(self._fine, axis=0)
        span[span == 0] = 1.0
        if self._critic is None:
            told = self._told.take(np.isfinite(self._told.costs).all(axis=1))
            # logarithms: resolved most finely where it matters
            values = np.log(((told.costs - best) / span).clip(0) + _RESOLUTION)
            self._critic = Critic(self.space, told.archs, values)
        expected = best + span * (np.exp(self._critic.predict(archs).clip(-10, 10)) - _RESOLUTION)
        if self._cheap:
            values_of, _ = score(list(self._cheap), archs)
            expected[:, 1:] = np.column_stack([o.cost(values_of[o.name]) for o in self._cheap])
        return np.asarray(expected)

    def _draw_aims(self, n: int) -> Floats:
        """Weights ``(n, k)``, or targets ``(n, resources)``: the searcher's own, or of the range of the front."""
        if self.reward == "chebyshev":
            return self._rng.dirichlet(np.ones(self._front.shape[1]), n)
        if self.targets is not None:
            return np.tile(self.targets, (n, 1))
        low, high = self._front[:, 1:].min(axis=0), self._front[:, 1:].max(axis=0)
        share = self._rng.random((n, len(low)))
        return np.asarray(low * (high / low) ** share if (low > 0).all() else low + (high - low) * share)

    def _features(self, aims: Floats) -> Floats:
        """Aims as the policy sees them: bumps over the range of each number that can differ, ``(n, features)``."""
        if self.reward == "chebyshev":
            place = aims[:, 1:]
        elif self.targets is not None:
            place = aims[:, :0]
        else:
            low, high = self._front[:, 1:].min(axis=0), self._front[:, 1:].max(axis=0)
            if (low > 0).all():
                low, high, aims = np.log(low), np.log(high), np.log(aims)
            place = (aims - low) / np.where(high > low, high - low, 1.0)
        apart = place[:, :, None] * (_BUMPS - 1) - np.arange(_BUMPS)
        return np.asarray(np.exp(-0.5 * apart**2)).reshape(len(aims), place.shape[1] * _BUMPS)

    def _rewards(self, costs: Floats, aims: Floats, violation: Floats) -> Floats:
        """Of ``costs (n, k)``, each for its row of ``aims``, ``(n,)``."""
        if self.reward == "chebyshev":
            span = np.ptp(self._front, axis=0)
            relative = (costs - self._front.min(axis=0)) / np.where(span > 0, span, 1.0)
            weighted = aims * np.nan_to_num(relative, nan=10.0)
            reward = -weighted.max(axis=1) - _AUGMENTED * weighted.sum(axis=1)
            return np.asarray(reward - violation.clip(0, 1))
        best, worst = self._fine[:, 0].min(), self._fine[:, 0].max()
        reward = np.nan_to_num((worst - costs[:, 0]) / (worst - best or 1.0), nan=0.0)
        low, span = self._fine[:, 1:].min(axis=0), np.ptp(self._fine[:, 1:], axis=0)
        # a resource without a natural zero is measured by its range
        shifted = 1 + (costs[:, 1:] - aims) / np.where(span > 0, span, 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(low > 0, costs[:, 1:] / aims, shifted)
        ratios = np.nan_to_num(ratios, nan=2.0).clip(0.05, 20.0)
        if self.reward == "mnasnet":
            reward = reward * (ratios**_MNASNET_EXPONENT).prod(axis=1)
        else:
            reward = reward + _TUNAS_SLOPE * np.abs(ratios - 1).sum(axis=1)
        return np.asarray(reward - violation.clip(0, 1))

    def _learn(self, policy: Policy) -> None:
        """An update: ``_STEPS`` steps on draws from the replay."""
        chance = -float(np.log(self.space.sizes).sum())
        epochs = _EPOCHS if self.algorithm == "ppo" else 1
        for _ in range(_STEPS // epochs):
            rows, aims, gains = self._draw()
            archs, features = self._told.archs[rows], self._features(aims)
            before = policy.log_probability(archs, features)
            gains = gains * np.where(gains < 0, np.exp(np.minimum(before - chance, 0)), 1.0)
            weights = gains
            for epoch in range(epochs):
                if epoch:
                    ratio = np.exp(policy.log_probability(archs, features) - before)
                    weights = gains * ratio * np.where(gains > 0, ratio < 1 + _CLIP, ratio > 1 - _CLIP)
                policy.step(archs, features, weights, self.entropy, self.learning_rate)

    def _draw(self) -> tuple[NDArray[np.int64], Floats, Floats]:
        """Rows of what was told, an aim for each, ``(n, numbers)``, and what it gains there, ``(n,)``."""
        n, aims = len(self._told), self._draw_aims(_AIMS)
        every = np.tile(np.arange(n), _AIMS)
        rewards = self._rewards(self._told.costs[every], np.repeat(aims, n, axis=0), self._told.violation[every])
        order = np.argsort(-rewards.reshape(_AIMS, n), axis=1, kind="stable")
        elite = min(max(_FEWEST, min(_MOST, round(_ELITE * n))), n - 1)
        pulled = self._rng.integers(0, elite, (_AIMS, _PAIRS))
        pushed = self._rng.integers(elite, n, (_AIMS, _PAIRS))
        rows = np.take_along_axis(order, np.hstack([pulled, pushed]), axis=1)
        gains = np.tile(np.repeat([1.0, -_PUSH], _PAIRS), _AIMS)
        return rows.ravel(), np.repeat(aims, 2 * _PAIRS, axis=0), gains


def _checked_targets(targets: Sequence[Finite] | Finite | None) -> tuple[float, ...] | None:
    if targets is None:
        return None
    try:
        numbers = tuple(float(t) for t in (targets if isinstance(targets, Sequence) else (targets,)))
    except (TypeError, ValueError):
        numbers = (np.nan,)
    if not numbers or not all(0 < t < np.inf for t in numbers):
        raise BadInput(f"targets are positive numbers, one for each resource, got {shown(targets)}")
    return numbers
