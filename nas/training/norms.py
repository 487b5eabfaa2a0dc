"""Batch norms: which a model has, and statistics of a batch from those of its parts."""

from __future__ import annotations

from torch import Tensor, nn


def norms_of(model: nn.Module) -> list[nn.BatchNorm2d]:
    """All batch norms in ``model``."""
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def pooled(shares: Tensor, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance ``(c,)`` over all parts, which have ``means`` and ``variances (parts, c)``.

    The variance is the mean of the parts' plus that of their means. ``shares (parts, 1)``: how much of all each part is.
    """
    mean = (shares * means).sum(0)
    return mean, (shares * (variances + (means - mean) ** 2)).sum(0)
