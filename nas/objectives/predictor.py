"""A predictor of architectures' quantities from few examples, with honest uncertainty: Gaussian processes.

The kernel sees an architecture twice: by its genes (ordered ones as numbers, others one-hot, inactive ones as nothing) and,
for genes with the same alternatives, by how often each alternative occurs, which is what capacity depends on; a space may
add features of its own (``SearchSpace.features``). Each view is a Matern-5/2 kernel with a length scale of its own per gene and per count (automatic relevance determination; Rasmussen
and Williams 2006), fitted by maximum a posteriori. Stated variances are scaled by what leave-one-out residuals say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from nas.errors import BadInput
from nas.space import Archs, Floats, SearchSpace, is_ordered

_FEWEST = 4
_JITTER = 1e-6
_WIDTH = 0.4  # standard deviation of the prior on log length scales; wider ones overfit below 200 examples


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Logarithms of the kernel's inverse length scales (per view), the views' variances, and the noise variance."""

    scales: tuple[Tensor, ...]
    variances: Tensor
    noise: Tensor


class Predictor:
    """A Gaussian process over the architectures of ``space``, fitted to ``archs (n, genes)`` and ``values (n,)``.

    ``start``: hyperparameters of an earlier fit to begin from; ``steps``: most steps of the optimiser, 0 to keep ``start``.
    Cost grows with n cubed: seconds for n = 2,000. Raises BadInput for fewer than 4 rows or values that are not finite.
    """

    def __init__(
        self,
        space: SearchSpace,
        archs: Archs,
        values: ArrayLike,
        *,
        start: Hyperparameters | None = None,
        steps: int = 60,
    ) -> None:
        given = np.asarray(values, dtype=np.float64)
        if given.shape != (len(archs),) or len(given) < _FEWEST or not np.isfinite(given).all():
            raise BadInput(
                f"a predictor needs one finite value for each of at least {_FEWEST} architectures, got {len(archs)} "
                f"architectures and values of shape {given.shape}, {np.isfinite(given).sum()} of them finite"
            )
        self.space = space
        self._views = views(space)
        self._mean, self._std = float(given.mean()), float(given.std()) or 1.0
        self._inputs = _inputs(self._views, space, archs)
        target = torch.as_tensor((given - self._mean) / self._std)
        self.hyperparameters = _fit(self._inputs, target, start or _initial(self._inputs), steps)
        with torch.no_grad():
            self._factor = _factor(self._inputs, self.hyperparameters)
            self._weights = torch.cholesky_solve(target[:, None], self._factor)
            precision = torch.cholesky_inverse(self._factor).diagonal()
            residuals = self._weights[:, 0] ** 2 / precision  # leave-one-out residuals squared over their variances
            self.spread = float(residuals.mean().sqrt().clamp(0.9, 3.0))

    def predict(self, archs: Archs) -> tuple[Floats, Floats]:
        """Mean and standard deviation of a new measurement, ``(n,)`` each."""
        posterior = self.posterior(archs)
        return posterior.mean, posterior.std

    def posterior(self, archs: Archs) -> Posterior:
        """Of ``archs (n, genes)``; it can be conditioned on some of them."""
        return Posterior(self, archs)


class Posterior:
    """Of the values of a fixed set of architectures: ``mean (n,)``, ``std (n,)``."""

    def __init__(self, predictor: Predictor, archs: Archs) -> None:
        self._predictor = predictor
        self._inputs = _inputs(predictor._views, predictor.space, archs)
        hyper = predictor.hyperparameters
        with torch.no_grad():
            cross = _kernel(predictor._inputs, self._inputs, hyper)
            self.mean: Floats = (cross.T @ predictor._weights)[:, 0].numpy() * predictor._std + predictor._mean
            self._projected = torch.linalg.solve_triangular(predictor._factor, cross, upper=False)
            self._noise = hyper.noise.exp()
            self._variance = hyper.variances.exp().sum() - (self._projected**2).sum(0)

    @property
    def std(self) -> Floats:
        variance = (self._variance.clamp_min(0) + self._noise).sqrt()
        return variance.numpy() * (self._predictor._std * self._predictor.spread)

    def observe(self, row: int) -> None:
        """Condition on having measured ``row`` and found its mean: the means stay, the uncertainty around it shrinks."""
        with torch.no_grad():
            one = tuple(view[row : row + 1] for view in self._inputs)
            covariance = _kernel(one, self._inputs, self._predictor.hyperparameters)[0]
            covariance -= self._projected[:, row] @ self._projected
            new = covariance / (covariance[row].clamp_min(0) + self._noise + _JITTER).sqrt()
            self._projected = torch.cat([self._projected, new[None]])
            self._variance = self._variance - new**2


@dataclass(frozen=True, kw_only=True)
class View:
    """``lookup (genes, values + 1, features)``: what a gene's value (0: inactive, then index + 1) adds to the features.

    ``scale_of (features,)``: which length scale each feature has.
    """

    lookup: Floats
    scale_of: NDArray[np.int64]


def views(space: SearchSpace) -> tuple[View, ...]:
    """The genes, and the counts of alternatives over genes that share theirs (where there are such)."""
    most = int(space.sizes.max()) + 1
    columns: list[tuple[int, Floats]] = []  # gene, contribution of each of its values
    for gene, choice in enumerate(space.choices):
        n = len(choice.values)
        if is_ordered(choice):
            columns.append((gene, np.arange(n + 1) / n))
        else:
            columns += [(gene, np.eye(n + 1)[value]) for value in range(1, n + 1)]
    lookup = np.zeros((space.genes, most, len(columns)))
    for feature, (gene, contribution) in enumerate(columns):
        lookup[gene, : len(contribution), feature] = contribution
    by_gene = View(lookup=lookup, scale_of=np.array([gene for gene, _ in columns]))
    groups: dict[tuple[object, ...], list[int]] = {}
    for gene, choice in enumerate(space.choices):
        groups.setdefault(choice.values, []).append(gene)
    shared = [(values, genes) for values, genes in groups.items() if len(genes) > 1]
    if not shared:
        return (by_gene,)
    counts = np.zeros((space.genes, most, sum(len(values) for values, _ in shared)))
    feature = 0
    for values, genes in shared:
        for value in range(1, len(values) + 1):
            counts[genes, value, feature] = len(genes) ** -0.5
            feature += 1
    return (by_gene, View(lookup=counts, scale_of=np.arange(feature)))


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """Architectures in one view. ``features (n, f)``; ``scale_of (f,)``: the length scale of each feature."""

    features: Tensor
    scale_of: Tensor

    def __getitem__(self, rows: slice) -> _Seen:
        return _Seen(features=self.features[rows], scale_of=self.scale_of)


_Inputs = tuple[_Seen, ...]


def _inputs(all_views: tuple[View, ...], space: SearchSpace, archs: Archs) -> _Inputs:
    archs = space.check(archs)
    index = np.where(space.active(archs), archs.astype(np.int64) + 1, 0)
    seen = []
    for view in all_views:
        onehot = (index[:, :, None] == np.arange(view.lookup.shape[1])).reshape(len(archs), -1)
        features = onehot.astype(np.float64) @ view.lookup.reshape(-1, view.lookup.shape[2])
        seen.append(_Seen(features=torch.as_tensor(features), scale_of=torch.as_tensor(view.scale_of)))
    if space.features is not None:
        own = torch.as_tensor(np.asarray(space.features(archs), dtype=np.float64))
        seen.append(_Seen(features=own, scale_of=torch.arange(own.shape[1])))
    return tuple(seen)


def _initial(inputs: _Inputs) -> Hyperparameters:
    scales = []
    for seen in inputs:
        # two random architectures are about one length scale apart
        apart = 2 * seen.features.var(0).sum().clamp_min(1e-3)
        scales.append(torch.full((int(seen.scale_of.max()) + 1,), -0.5 * float(apart.log()), dtype=torch.float64))
    return Hyperparameters(
        scales=tuple(scales),
        variances=torch.zeros(len(inputs), dtype=torch.float64),
        noise=torch.tensor(-4.0, dtype=torch.float64),
    )


def _fit(inputs: _Inputs, target: Tensor, start: Hyperparameters, steps: int) -> Hyperparameters:
    """Maximum a posteriori by L-BFGS. ``target (n,)``: standardised values."""
    if not steps:
        return start
    prior = _initial(inputs)
    found = Hyperparameters(
        scales=tuple(s.clone().requires_grad_(True) for s in start.scales),
        variances=start.variances.clone().requires_grad_(True),
        noise=start.noise.clone().requires_grad_(True),
    )
    optimiser = torch.optim.LBFGS(
        [*found.scales, found.variances, found.noise], max_iter=steps, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        factor = _factor(inputs, found)
        weights = torch.cholesky_solve(target[:, None], factor)[:, 0]
        value = 0.5 * target @ weights + factor.diagonal().log().sum()
        for scale, usual in zip(found.scales, prior.scales, strict=True):
            value = value + (scale - usual).pow(2).sum() / (2 * _WIDTH**2)
        value = value + found.variances.pow(2).sum() / 8 + (found.noise - prior.noise).pow(2) / 8
        value.backward()
        return value

    optimiser.step(loss)
    fine = all(bool(torch.isfinite(p).all()) for p in (*found.scales, found.variances, found.noise))
    if not fine:
        return start
    return Hyperparameters(
        scales=tuple(s.detach() for s in found.scales), variances=found.variances.detach(), noise=found.noise.detach()
    )


def _kernel(first: _Inputs, second: _Inputs, hyper: Hyperparameters) -> Tensor:
    """Covariances ``(n, m)``: a sum over the views."""
    total = torch.zeros(len(first[0].features), len(second[0].features), dtype=torch.float64)
    for a, b, scale, variance in zip(first, second, hyper.scales, hyper.variances, strict=True):
        weight = 5**0.5 * scale.exp()[a.scale_of]
        weighted_a, weighted_b = a.features * weight, b.features * weight
        squares = weighted_b.pow(2).sum(1)
        if torch.is_grad_enabled():
            squared = weighted_a.pow(2).sum(1)[:, None] + squares - 2 * weighted_a @ weighted_b.T
            distance = (squared.clamp_min(0) + 1e-12).sqrt()
            total = total + variance.exp() * (1 + distance + distance**2 / 3) * (-distance).exp()
        else:  # the same in place: this is where a search spends its time
            squared = torch.addmm(squares, weighted_a, weighted_b.T, alpha=-2)
            squared += weighted_a.pow(2).sum(1)[:, None]
            distance = squared.clamp_min_(1e-12).sqrt()
            squared.div_(3).add_(distance).add_(1)
            total.addcmul_(squared, distance.neg_().exp_(), value=float(variance.exp()))
    return total


def _factor(inputs: _Inputs, hyper: Hyperparameters) -> Tensor:
    """Cholesky factor of the covariances of noisy measurements."""
    covariance = _kernel(inputs, inputs, hyper)
    diagonal = torch.eye(len(covariance), dtype=torch.float64)
    jitter = _JITTER * float(hyper.variances.detach().exp().sum())
    while True:
        factor, failed = torch.linalg.cholesky_ex(covariance + (hyper.noise.exp() + jitter) * diagonal)
        if not failed or not np.isfinite(jitter) or jitter > 1e3:
            return factor
        jitter *= 10
