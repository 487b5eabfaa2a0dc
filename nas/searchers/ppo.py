"""Reinforcement learning: an autoregressive policy over the genes, trained with REINFORCE or PPO.

The policy is a masked network (MADE; Germain et al. 2015): the distribution of each gene depends on the genes before it,
and, in a conditioned policy, on the resource target that a rollout was given. So one run learns networks for all targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor, nn

from nas.checks import Count, Finite, Positive, Seed, checked, shown
from nas.errors import BadInput
from nas.searchers.seen import LAST, NeverTwice
from nas.space import Archs, Floats, SearchSpace

_HIDDEN = 128
_MNASNET_EXPONENT = -0.07  # Tan et al. 2019: twice the latency is worth 5% accuracy
_TUNAS_SLOPE = -0.5
_CLIP = 0.2
_EPOCHS = 8
_BASELINE = 0.9


class PolicySearch(NeverTwice):
    """Learns where good networks are by trial and reward; a baseline for the other searchers.

    ``algorithm``: "ppo" (Schulman et al. 2017) or "reinforce" (Williams 1992). ``reward``: "tunas", quality less the
    distance to the target (absolute value reward; Bender et al. 2020), or "mnasnet", quality times a soft power of it (Tan et
    al. 2019). Quality is the first cost, scaled by the range seen so far; every further cost is a resource.
    ``targets``: one number per resource for a policy that aims there; None for one policy conditioned on the target, each
    rollout with a target drawn from the range seen. ``entropy``: weight of the entropy bonus at the start; it halves
    every ``10 * rollout`` results. ``rollout``: results per update.
    """

    @checked
    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: Seed = 0,
        algorithm: Literal["ppo", "reinforce"] = "ppo",
        reward: Literal["tunas", "mnasnet"] = "tunas",
        targets: Sequence[Finite] | Finite | None = None,
        learning_rate: Positive = 0.03,
        entropy: Annotated[float, Meta(ge=0, le=1000)] = 0.05,
        rollout: Count = 16,
    ) -> None:
        self.space = space
        self.algorithm, self.reward = algorithm, reward
        self.targets = _checked_targets(targets)
        self.learning_rate, self.entropy, self.rollout = learning_rate, entropy, rollout
        self.reset(seed)

    @checked
    def reset(self, seed: Seed) -> None:
        """Forget everything and start from ``seed``."""
        super().reset(seed)
        self._aims: dict[bytes, Floats] = {}
        self._costs: list[Floats] = []
        self._waiting: list[_Rollout] = []
        self._policy: _Policy | None = None
        self._baseline: float | None = None
        self._results = 0

    @checked
    def ask(self, n: Count) -> Archs:
        """Up to ``n`` new architectures: uniform ones before the first result, rollouts of the policy from then on."""
        chosen: list[Archs] = []
        missing = n
        for attempt in range(LAST + 1):
            aims = self._draw_aims(n)
            if self._policy is None or attempt == LAST:
                proposals = self.space.sample(n, self._rng)
            else:
                proposals = self._policy.sample(self._features(aims), self._rng)
            rows = self._seen.take(proposals, missing)
            self._aims.update((proposals[row].tobytes(), aims[row]) for row in rows)
            chosen.append(proposals[rows])
            missing -= len(rows)
            if not missing:
                break
        return np.concatenate(chosen)

    @checked
    def tell(self, archs: Archs, costs: Floats, violation: Floats) -> None:
        """Take in results ``costs (n, k)``; every ``rollout`` of them the policy is updated.

        A failed row (NaN) gets the worst reward, one that violates a constraint loses by how much it does. Raises
        BadInput for another number of resources than ``targets``.
        """
        resources = costs.shape[1] - 1
        if self.targets is not None and len(self.targets) != resources:
            raise BadInput(f"targets has {len(self.targets)} numbers, the search has {resources} resources")
        if self._policy is None:
            self._policy = _Policy(self.space, resources if self.targets is None else 0, self.seed)
            self._optimiser = torch.optim.Adam(self._policy.parameters(), lr=self.learning_rate)
        archs = self.space.canonical(archs)
        self._seen.add(archs)
        for row, cost, missed in zip(archs, costs, violation, strict=True):
            key = row.tobytes()
            if np.isfinite(cost).all():
                self._costs.append(cost)
            aim = self._aims.pop(key, np.full(resources, np.nan))
            self._waiting.append(_Rollout(arch=row, cost=cost, aim=aim, violation=float(missed)))
        while len(self._waiting) >= self.rollout:
            batch, self._waiting = self._waiting[: self.rollout], self._waiting[self.rollout :]
            self._learn(batch)

    def _draw_aims(self, n: int) -> Floats:
        """Targets ``(n, resources)``, NaN where there is nothing to draw from yet."""
        if not self._costs:
            return np.full((n, 0), np.nan)
        seen = np.array(self._costs)[:, 1:]
        if self.targets is not None:
            return np.tile(self.targets, (n, 1))
        low, high = seen.min(axis=0), seen.max(axis=0)
        share = self._rng.random((n, seen.shape[1]))
        logarithmic = (low > 0).all()
        return low * (high / low) ** share if logarithmic else low + (high - low) * share

    def _features(self, aims: Floats) -> Tensor:
        """Aims as the policy sees them: 0 to 1 over the range seen."""
        if self.targets is not None or not self._costs:
            return torch.zeros(len(aims), 0)
        seen = np.array(self._costs)[:, 1:]
        low, high = seen.min(axis=0), seen.max(axis=0)
        scaled = (aims - low) / np.where(high > low, high - low, 1.0)
        return torch.as_tensor(scaled, dtype=torch.float32)

    def _rewards(self, costs: Floats, aims: Floats, violation: Floats) -> Floats:
        seen = np.array(self._costs) if self._costs else np.zeros((1, costs.shape[1]))
        best, worst = seen[:, 0].min(), seen[:, 0].max()
        reward = np.nan_to_num((worst - costs[:, 0]) / (worst - best or 1.0), nan=0.0)
        low, high = seen[:, 1:].min(axis=0), seen[:, 1:].max(axis=0)
        for i in range(aims.shape[1]):
            if low[i] > 0:
                ratio = costs[:, i + 1] / aims[:, i]
            else:  # a resource without a natural zero
                ratio = 1 + (costs[:, i + 1] - aims[:, i]) / (high[i] - low[i] or 1.0)
            ratio = np.nan_to_num(ratio, nan=2.0).clip(0.05, 20.0)
            if self.reward == "mnasnet":
                reward = reward * ratio**_MNASNET_EXPONENT
            else:
                reward = reward + _TUNAS_SLOPE * np.abs(ratio - 1)
        return reward - violation.clip(0, 1)

    def _learn(self, batch: list[_Rollout]) -> None:
        assert self._policy is not None
        archs, costs = np.array([r.arch for r in batch]), np.array([r.cost for r in batch])
        missed = np.array([r.violation for r in batch])
        resources = costs.shape[1] - 1
        aims = np.array([r.aim if len(r.aim) == resources else np.full(resources, np.nan) for r in batch])
        # a network that was proposed for no target in particular was meant for what it costs
        aims = np.where(np.isnan(aims), np.nan_to_num(costs[:, 1:], nan=1.0), aims) if resources else aims
        rewards = self._rewards(costs, aims, missed)
        self._results += len(batch)
        baseline = float(rewards.mean()) if self._baseline is None else self._baseline
        self._baseline = _BASELINE * baseline + (1 - _BASELINE) * float(rewards.mean())
        advantage = torch.as_tensor((rewards - baseline) / (rewards.std() + 1e-6), dtype=torch.float32)
        features = self._features(aims)
        bonus = self.entropy * 0.5 ** (self._results / (10 * self.rollout))
        with torch.no_grad():
            before, _ = self._policy.log_probability(archs, features)
        for _ in range(_EPOCHS if self.algorithm == "ppo" else 1):
            now, entropy = self._policy.log_probability(archs, features)
            if self.algorithm == "ppo":
                ratio = (now - before).exp()
                gain = torch.minimum(ratio * advantage, ratio.clamp(1 - _CLIP, 1 + _CLIP) * advantage)
            else:
                gain = now * advantage
            loss = -gain.mean() - bonus * entropy.mean()
            self._optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self._policy.parameters(), 1.0)
            self._optimiser.step()


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


@dataclass(frozen=True, kw_only=True)
class _Rollout:
    """``arch (genes,)``, ``cost (k,)`` with NaN where it failed, ``aim (resources,)`` with NaN where there was none."""

    arch: Archs
    cost: Floats
    aim: Floats
    violation: float


class _Policy(nn.Module):
    """Distributions of all genes, each given those before it and ``targets`` numbers."""

    def __init__(self, space: SearchSpace, targets: int, seed: int) -> None:
        super().__init__()
        self._space = space
        sizes = torch.as_tensor(space.sizes)
        gene_of = torch.repeat_interleave(torch.arange(space.genes), sizes)  # of every one-hot input and output
        degree = torch.arange(_HIDDEN) % space.genes  # a hidden unit sees genes below its degree
        self._see = (gene_of[None, :] < degree[:, None]).float()
        self._serve = (degree[None, :] <= gene_of[:, None]).float()
        self._first = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)]).tolist()
        generator = torch.Generator().manual_seed(seed)
        scale = 1 / (space.genes + targets) ** 0.5
        self.read = nn.Parameter(scale * torch.randn(_HIDDEN, len(gene_of), generator=generator))
        self.aim = nn.Parameter(torch.randn(_HIDDEN, targets, generator=generator))
        self.bias = nn.Parameter(torch.zeros(_HIDDEN))
        self.write = nn.Parameter(0.1 * _HIDDEN**-0.5 * torch.randn(len(gene_of), _HIDDEN, generator=generator))
        self.favour = nn.Parameter(torch.zeros(len(gene_of), targets))
        self.start = nn.Parameter(torch.zeros(len(gene_of)))

    def logits(self, onehot: Tensor, targets: Tensor) -> Tensor:
        hidden = torch.tanh(onehot @ (self.read * self._see).T + targets @ self.aim.T + self.bias)
        return hidden @ (self.write * self._serve).T + targets @ self.favour.T + self.start

    def log_probability(self, archs: Archs, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Of each architecture, and the entropy of the choices that were open to it, ``(n,)`` each; active genes only."""
        logits = self.logits(self._onehot(archs), targets)
        active = torch.as_tensor(self._space.active(archs))
        rows = torch.as_tensor(archs.astype(np.int64))
        total, entropy = torch.zeros(len(archs)), torch.zeros(len(archs))
        for gene in range(self._space.genes):
            part = logits[:, self._first[gene] : self._first[gene + 1]].log_softmax(dim=1)
            total = total + torch.where(active[:, gene], part.gather(1, rows[:, gene, None])[:, 0], 0.0)
            entropy = entropy - torch.where(active[:, gene], (part.exp() * part).sum(dim=1), 0.0)
        return total, entropy

    @torch.no_grad()
    def sample(self, targets: Tensor, rng: np.random.Generator) -> Archs:
        archs = np.zeros((len(targets), self._space.genes), dtype=np.uint8)
        for gene in range(self._space.genes):
            part = self.logits(self._onehot(archs), targets)[:, self._first[gene] : self._first[gene + 1]]
            cumulative = part.softmax(dim=1).numpy().cumsum(axis=1)
            drawn = (rng.random((len(archs), 1)) > cumulative).sum(axis=1).clip(0, part.shape[1] - 1)
            archs[:, gene] = np.where(self._space.active(archs)[:, gene], drawn, 0)
        return archs

    def _onehot(self, archs: Archs) -> Tensor:
        onehot = torch.zeros(len(archs), self._first[-1])
        columns = torch.as_tensor(archs.astype(np.int64) + np.array(self._first[:-1]))
        return onehot.scatter_(1, columns, torch.as_tensor(self._space.active(archs)).float())
