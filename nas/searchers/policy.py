"""Reinforcement learning: an autoregressive policy over the genes, trained with REINFORCE or PPO.

The policy is a masked network (MADE; Germain et al. 2015): the distribution of each gene depends on the genes before it,
and, in a conditioned policy, on the resource target that a rollout was given. So one run learns networks for all targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nas.errors import BadInput
from nas.space import Archs, SearchSpace

_ROUNDS = 20  # of rollouts per ask, until enough of them are new
_HIDDEN = 128
_MNASNET_EXPONENT = -0.07  # Tan et al. 2019: twice the latency is worth 5% accuracy
_TUNAS_SLOPE = -0.5
_CLIP = 0.2
_EPOCHS = 8
_BASELINE = 0.9


class PolicySearch:
    """Learns where good networks are by trial and reward; a baseline for the other searchers.

    ``algorithm``: "ppo" (Schulman et al. 2017) or "reinforce" (Williams 1992). ``reward``: "tunas", quality less the
    distance to the target (absolute value reward; Bender et al. 2020), or "mnasnet", quality times a soft power of it (Tan et
    al. 2019). Quality is the first cost, scaled by the range seen so far; every further cost is a resource.
    ``targets``: one number per resource for a policy that aims there; None for one policy conditioned on the target, each
    rollout with a target drawn from the range seen. ``entropy``: weight of the entropy bonus at the start; it halves
    every ``10 * rollout`` results. ``rollout``: results per update.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        algorithm: str = "ppo",
        reward: str = "tunas",
        targets: Sequence[float] | float | None = None,
        learning_rate: float = 0.03,
        entropy: float = 0.05,
        rollout: int = 16,
    ) -> None:
        for name, value, allowed in (
            ("algorithm", algorithm, ("ppo", "reinforce")),
            ("reward", reward, ("tunas", "mnasnet")),
        ):
            if value not in allowed:
                raise BadInput(f"{name} is one of {', '.join(allowed)}, got {value!r}")
        if not learning_rate > 0 or entropy < 0 or rollout < 1:
            raise BadInput(
                f"learning_rate is positive, entropy not negative, rollout at least 1; "
                f"got {learning_rate}, {entropy}, {rollout}"
            )
        self.space = space
        self.algorithm, self.reward = algorithm, reward
        self.targets = None if targets is None else tuple(np.atleast_1d(np.asarray(targets, dtype=float)).tolist())
        if self.targets is not None and not (np.array(self.targets) > 0).all():
            raise BadInput(f"targets are positive, got {targets}")
        self.learning_rate, self.entropy, self.rollout = learning_rate, entropy, rollout
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Forget everything and start from ``seed``."""
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._seen: set[bytes] = set()
        self._aims: dict[bytes, NDArray[np.float64]] = {}
        self._costs: list[NDArray[np.float64]] = []
        self._waiting: list[tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64], float]] = []
        self._policy: _Policy | None = None
        self._baseline: float | None = None
        self._results = 0

    def describe(self) -> dict[str, Any]:
        """What decides the proposals, for the ledger. ``known``: what it has learnt before, which no replay can repeat."""
        return {
            "searcher": self.algorithm,
            "seed": self._seed,
            "reward": self.reward,
            "targets": None if self.targets is None else list(self.targets),
            "learning_rate": self.learning_rate,
            "entropy": self.entropy,
            "rollout": self.rollout,
            "known": len(self._seen),
        }

    def ask(self, n: int) -> Archs:
        """Up to ``n`` new architectures: uniform ones before the first result, rollouts of the policy from then on."""
        chosen: list[NDArray[np.uint8]] = []
        for attempt in range(_ROUNDS):
            aims = self._draw_aims(n)
            if self._policy is None or attempt == _ROUNDS - 1:
                proposals = self.space.sample(n, self._rng)
            else:
                proposals = self._policy.sample(self._features(aims), self._rng)
            for row, aim in zip(proposals, aims, strict=True):
                if len(chosen) < n and row.tobytes() not in self._seen:
                    self._seen.add(row.tobytes())
                    self._aims[row.tobytes()] = aim
                    chosen.append(row)
            if len(chosen) == n:
                break
        return np.array(chosen, dtype=np.uint8).reshape(-1, self.space.genes)

    def tell(self, archs: Archs, costs: NDArray[np.float64], violation: NDArray[np.float64]) -> None:
        """Take in results ``costs (n, k)``; every ``rollout`` of them the policy is updated.

        A failed row (NaN) gets the worst reward, one that violates a constraint loses by how much it does.
        """
        resources = costs.shape[1] - 1
        if self.targets is not None and len(self.targets) != resources:
            raise BadInput(f"targets has {len(self.targets)} numbers, the search has {resources} resources")
        if self._policy is None:
            self._policy = _Policy(self.space, resources if self.targets is None else 0, self._seed)
            self._optimiser = torch.optim.Adam(self._policy.parameters(), lr=self.learning_rate)
        for row, cost, missed in zip(self.space.canonical(archs), costs, violation, strict=True):
            key = row.tobytes()
            self._seen.add(key)
            if np.isfinite(cost).all():
                self._costs.append(cost)
            aim = self._aims.pop(key, np.full(resources, np.nan))
            self._waiting.append((row, cost, aim, float(missed)))
        while len(self._waiting) >= self.rollout:
            batch, self._waiting = self._waiting[: self.rollout], self._waiting[self.rollout :]
            self._learn(batch)

    def _draw_aims(self, n: int) -> NDArray[np.float64]:
        """Targets ``(n, resources)``, NaN where there is nothing to draw from yet."""
        if not self._costs:
            return np.full((n, 0), np.nan)
        seen = np.array(self._costs)[:, 1:]
        if self.targets is not None:
            return np.tile(self.targets, (n, 1))
        low, high = seen.min(axis=0), seen.max(axis=0)
        share = self._rng.random((n, seen.shape[1]))
        logarithmic = (low > 0).all()
        aims: NDArray[np.float64] = low * (high / low) ** share if logarithmic else low + (high - low) * share
        return aims

    def _features(self, aims: NDArray[np.float64]) -> Tensor:
        """Aims as the policy sees them: 0 to 1 over the range seen."""
        if self.targets is not None or not self._costs:
            return torch.zeros(len(aims), 0)
        seen = np.array(self._costs)[:, 1:]
        low, high = seen.min(axis=0), seen.max(axis=0)
        scaled = (aims - low) / np.where(high > low, high - low, 1.0)
        return torch.as_tensor(scaled, dtype=torch.float32)

    def _rewards(
        self, costs: NDArray[np.float64], aims: NDArray[np.float64], violation: NDArray[np.float64]
    ) -> NDArray[np.float64]:
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

    def _learn(self, batch: list[tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64], float]]) -> None:
        assert self._policy is not None
        archs = np.array([row for row, _, _, _ in batch])
        costs = np.array([cost for _, cost, _, _ in batch])
        missed = np.array([m for _, _, _, m in batch])
        resources = costs.shape[1] - 1
        aims = np.array([aim if len(aim) == resources else np.full(resources, np.nan) for _, _, aim, _ in batch])
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
