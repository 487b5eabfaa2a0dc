"""Linear regression under a Gaussian prior: what fitting from whole networks and adapting to a new device share.

The unknown costs ``c (q,)`` are ``mean + factor @ w`` with ``w`` standard normal; a timing is a known linear combination of
them plus noise. Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), section 2.1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas.space import Floats

_REWEIGHTINGS = 3
_PIVOTS = 100  # rounds at most
_HUBER = 1.345  # in robust standard deviations; 95% efficient where the noise is normal after all


def solve(
    design: Floats, target: Floats, noise: float, *, robust: bool = True, least: float = 0.0
) -> tuple[Floats, Floats]:
    """``(w (r,), weights (n,))``: the most probable ``w ~ N(0, I)`` given ``target (n,) = design (n, r) @ w`` + noise.

    ``robust``: what lies far off counts less (Huber's loss by iterated reweighting); ``weights`` says how much. Nothing
    within ``least`` is far off: a few residuals may all be small by chance, and their median says little.
    """
    weights = np.ones(len(target))
    for last in (*(False,) * (_REWEIGHTINGS if robust else 0), True):
        w = _ridge(design, target, weights, noise)
        if not last:
            apart = np.abs(target - design @ w)
            limit = max(_HUBER * 1.4826 * float(np.median(apart)), least)
            weights = np.minimum(1.0, limit / np.maximum(apart, 1e-12))
    return w, weights


def non_negative(hessian: Floats, gradient: Floats, start: Floats) -> Floats:
    """The ``x >= 0`` that minimises ``x @ hessian @ x / 2 - gradient @ x``; ``hessian (q, q)`` positive definite.

    Block principal pivoting (Portugal, Judice and Vicente, 1994): exact, and a few solves where few bounds bind.
    ``start (q,)``: a guess, such as the unconstrained minimum.
    """
    tiny = 1e-10 * float(np.abs(gradient).max())
    free = start > 0
    fewest, patience = len(start) + 1, 3
    x = np.zeros(len(start))
    for _ in range(_PIVOTS):
        x[:] = 0.0
        if free.any():
            x[free] = np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
        slope = hessian @ x - gradient
        wrong = np.where(free, x < 0, slope < -tiny)
        if not wrong.any():
            break
        if (count := int(wrong.sum())) < fewest:
            fewest, patience = count, 3
        elif patience:
            patience -= 1
        else:  # no progress: one at a time, which cannot cycle
            wrong[: np.flatnonzero(wrong)[-1]] = False
        free ^= wrong
    return np.maximum(x, 0.0)


def i_optimal(rows: Floats, n: int, noise: float) -> NDArray[np.intp]:
    """``(n,)``: which rows to observe so that all are known best; ``rows (m, r)``: combinations of ``w``.

    Greedy: the next is the one whose observation lowers the mean variance over all rows most (I-optimal design). No
    observed value enters, so this can be done before anything is timed.
    """
    covariance = rows @ rows.T
    chosen: list[int] = []
    for _ in range(n):
        variance = covariance.diagonal() + noise**2
        gain = np.einsum("ij,ij->i", covariance, covariance) / variance
        gain[chosen] = -1.0
        best = int(np.argmax(gain))
        chosen.append(best)
        column = covariance[:, best].copy()
        covariance -= np.outer(column / variance[best], column)
    return np.array(chosen, dtype=np.intp)


def _ridge(design: Floats, target: Floats, weights: Floats, noise: float) -> Floats:
    """``(r,)``: ridge regression of ``target (n,)`` on ``design (n, r)``, in the smaller of the two dimensions."""
    n, r = design.shape
    if n <= r:
        inner = design @ design.T
        inner[np.diag_indices(n)] += noise**2 / weights
        return np.asarray(design.T @ np.linalg.solve(inner, target))
    weighted = design * weights[:, None]
    inner = weighted.T @ design
    inner[np.diag_indices(r)] += noise**2
    return np.asarray(np.linalg.solve(inner, weighted.T @ target))
