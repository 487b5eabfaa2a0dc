"""Mixup and cutmix: images of a batch blended with, or patched from, others of it; and their labels likewise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from nas.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Mix:
    """What is drawn for a batch of n: ``partner (n,)`` of each image, the ``share (n,)`` that it keeps of itself.

    ``middle (n, 2)``: of the patch (row, column), as fractions; None for a blend.
    """

    partner: NDArray[np.int64]
    share: NDArray[np.float64]
    middle: NDArray[np.float64] | None

    def rows(self, rows: NDArray[np.int64]) -> Mix:
        """Of some images of the batch."""
        middle = None if self.middle is None else self.middle[rows]
        return Mix(partner=self.partner[rows], share=self.share[rows], middle=middle)


def drawn_mix(recipe: Recipe, n: int, rng: np.random.Generator) -> Mix | None:
    """For a batch of ``n``; None where the recipe mixes nothing. With both kinds, a batch is of either, as often."""
    if not (recipe.mixup or recipe.cutmix):
        return None
    patches = bool(recipe.cutmix) and (not recipe.mixup or rng.random() < 0.5)
    alpha = recipe.cutmix if patches else recipe.mixup
    partner, share = rng.permutation(n), rng.beta(alpha, alpha, n)
    return Mix(partner=partner, share=share, middle=rng.random((n, 2)) if patches else None)


def mixed(
    images: Tensor, others: Tensor, labels: Tensor, other_labels: Tensor, classes: int, mix: Mix
) -> tuple[Tensor, Tensor]:
    """``images`` and ``others (n, c, size, size)`` mixed, and ``labels`` and ``other_labels (n,)`` as shares ``(n, classes)``."""
    share = torch.as_tensor(mix.share, dtype=images.dtype, device=images.device)
    if mix.middle is None:
        blended = torch.lerp(others, images, share.view(-1, 1, 1, 1))
    else:
        inside = _patches(mix, images.shape[-1]).to(images.device)
        blended = torch.where(inside[:, None], others, images)
        share = 1 - inside.float().mean((1, 2))  # what really is its own, at the edges too
    own, other = F.one_hot(labels, classes), F.one_hot(other_labels, classes)
    return blended, torch.lerp(other.to(images.dtype), own.to(images.dtype), share[:, None])


def _patches(mix: Mix, size: int) -> Tensor:
    """Which pixels come from the partner, ``(n, size, size)``: squares of ``1 - share`` of the area, cut off at the edges."""
    assert mix.middle is not None
    half = np.sqrt(1 - mix.share)[:, None] * size / 2
    pixel = np.arange(size) + 0.5
    rows, columns = (np.abs(pixel - middle[:, None] * size) < half for middle in mix.middle.T)
    return torch.from_numpy(rows[:, :, None] & columns[:, None, :])
