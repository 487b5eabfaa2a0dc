"""Actor and critic of reinforcement learning (ppo.py).

The policy is autoregressive over the genes of a space, every gene a softmax that is linear in the genes before it: a fully
visible sigmoid belief network (Neal 1992; Frey 1998), for genes of any number of values, that also sees what it is aimed
at. The critic is kernel ridge regression. Both are this simple because a few hundred results have to be enough for them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas.space import Archs, Floats, SearchSpace

_ADAM = (0.9, 0.99, 1e-8)
_LARGEST_STEP = 1.0  # norm of a gradient beyond which it is scaled down
_REACH = 1 / 3  # share of the genes by which two networks differ that have little to say of each other
_NOISE = 1e-2  # variance of what the critic need not explain


class Policy:
    """Distributions of all genes, each given those before it and ``aims`` numbers. Starts uniform."""

    def __init__(self, space: SearchSpace, aims: int) -> None:
        self._space = space
        self._first = np.concatenate([[0], np.cumsum(space.sizes)]).astype(np.int64)
        gene_of = np.repeat(np.arange(space.genes), space.sizes)
        # rows: logits; columns: the genes' values, the aims, and a constant
        sees = gene_of[None, :] < gene_of[:, None]
        self._sees = np.hstack([sees, np.ones((len(gene_of), aims + 1), dtype=bool)])
        self._weights = np.zeros(self._sees.shape)
        self._moments = np.zeros((2, *self._sees.shape))
        self._steps = 0
        self._conditional = np.array([choice.only_if is not None for choice in space.choices])

    def log_probability(self, archs: Archs, aims: Floats) -> Floats:
        """Of each of ``archs (n, genes)`` under its row of ``aims (n, aims)``, ``(n,)``; active genes only."""
        inputs = self._inputs(archs, aims)
        chosen = inputs[:, : self._first[-1]]
        with np.errstate(divide="ignore"):
            return np.where(chosen > 0, np.log(self._probabilities(inputs)), 0.0).sum(axis=1)

    def entropy(self, archs: Archs, aims: Floats) -> Floats:
        """Of the choices that were open to ``archs (n, genes)``, ``(n,)``."""
        inputs = self._inputs(archs, aims)
        return np.where(self._open(inputs), -_p_log_p(self._probabilities(inputs)), 0.0).sum(axis=1)

    def sample(self, aims: Floats, rng: np.random.Generator, explore: float = 0.0) -> Archs:
        """One architecture for every row of ``aims (n, aims)``, ``(n, genes)``; a share ``explore`` of genes is uniform."""
        archs = np.zeros((len(aims), self._space.genes), dtype=np.uint8)
        genes = int(self._first[-1])
        logits = aims @ self._weights[:, genes:-1].T + self._weights[:, -1]
        for gene in range(self._space.genes):
            part = slice(self._first[gene], self._first[gene + 1])
            # the largest of logits with Gumbel noise is a draw from their softmax
            free = rng.random((len(aims), 1)) < explore
            noisy = np.where(free, 0.0, logits[:, part]) + rng.gumbel(size=(len(aims), int(self._space.sizes[gene])))
            archs[:, gene] = noisy.argmax(axis=1)
            step = self._weights.T[self._first[gene] + archs[:, gene]]
            if self._conditional[gene]:
                active = self._space.active(archs)[:, gene]
                archs[:, gene] *= active
                step = step * active[:, None]
            logits += step
        return archs

    def step(self, archs: Archs, aims: Floats, gains: Floats, entropy: float, rate: float) -> None:
        """One step of Adam up the mean of ``gains (n,)`` times the log-probability, and ``entropy`` times the entropy."""
        inputs = self._inputs(archs, aims)
        p, considered = self._probabilities(inputs), self._open(inputs)
        slope = gains[:, None] * (inputs[:, : self._first[-1]] - p)
        if entropy:
            spread = _p_log_p(p)
            own = np.add.reduceat(spread, self._first[:-1], axis=1)
            slope -= entropy * (spread - p * np.repeat(own, self._space.sizes, axis=1))
        slope *= considered
        gradient = slope.T @ inputs * self._sees / len(archs)
        gradient *= min(1.0, _LARGEST_STEP / max(float(np.linalg.norm(gradient)), 1e-12))
        self._steps += 1
        first, second, tiny = _ADAM
        mean, square = self._moments
        mean += (1 - first) * (gradient - mean)
        square += (1 - second) * (gradient**2 - square)
        unbiased = mean / (1 - first**self._steps)
        self._weights += rate * unbiased / (np.sqrt(square / (1 - second**self._steps)) + tiny)

    def _probabilities(self, inputs: Floats) -> Floats:
        """Of all values of all genes, ``(n, values)``."""
        values = np.exp((inputs @ self._weights.T).clip(-50, 50))
        return values / np.repeat(np.add.reduceat(values, self._first[:-1], axis=1), self._space.sizes, axis=1)

    def _inputs(self, archs: Archs, aims: Floats) -> Floats:
        inputs = np.zeros((len(archs), self._sees.shape[1]))
        active = self._space.active(archs)
        rows, genes = active.nonzero()
        inputs[rows, self._first[genes] + archs[rows, genes]] = 1.0
        inputs[:, self._first[-1] : -1] = aims
        inputs[:, -1] = 1.0
        return inputs

    def _open(self, inputs: Floats) -> Floats:
        """1 for the values of active genes, ``(n, values)``."""
        chosen = np.add.reduceat(inputs[:, : self._first[-1]], self._first[:-1], axis=1)
        return np.repeat(chosen, self._space.sizes, axis=1)


class Critic:
    """What ``archs (n, genes)`` with known ``values (n, k)`` let expect of others: the more genes agree, the more alike."""

    def __init__(self, space: SearchSpace, archs: Archs, values: Floats) -> None:
        self._space, self._archs, self._mean = space, archs, values.mean(axis=0)
        alike = self._alike(archs)
        alike[np.diag_indices(len(archs))] += _NOISE
        self._weights = np.linalg.solve(alike, values - self._mean)

    def predict(self, archs: Archs) -> Floats:
        """``(n, k)``."""
        return np.asarray(self._alike(archs) @ self._weights + self._mean)

    def _alike(self, archs: Archs) -> Floats:
        differ = np.zeros((len(archs), len(self._archs)))
        for mine, known in zip(self._values(archs).T, self._values(self._archs).T, strict=True):
            differ += mine[:, None] != known
        return np.exp(-differ / (_REACH * self._space.genes))

    def _values(self, archs: Archs) -> NDArray[np.int64]:
        return np.where(self._space.active(archs), archs.astype(np.int64) + 1, 0)


def _p_log_p(p: Floats) -> Floats:
    return p * np.log(np.maximum(p, 1e-30))
