"""Training strategies of the supernet: which subnets a batch trains, and on what targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np
from msgspec import Meta
from torch import Tensor
from torch.nn import functional as F

from nas.checks import checked
from nas.data.inputs import resize
from nas.supernet.supernet import Supernet
from nas.training.recipe import Recipe


class Strategy(Protocol):
    """Which subnets each batch of a supernet's training updates, and on what targets.

    A frozen dataclass of its own settings: its repr becomes part of the checkpoint, so that no other resumes it.
    """

    def step(
        self, supernet: Supernet, images: Tensor, labels: Tensor, rng: np.random.Generator, recipe: Recipe
    ) -> Tensor:
        """Forward and backward of the chosen subnets on one batch; returns the loss that is shown.

        ``images (n, c, h, w)`` float32, normalised, at the largest resolution of the space; ``labels (n,) int64``,
        or ``(n, classes)`` shares where the recipe mixes images: ``recipe.label_loss`` takes both.
        Gradients add up over the subnets; the loop steps the optimizer.
        """


@checked
@dataclass(frozen=True, kw_only=True)
class Sandwich:
    """The sandwich rule with in-place distillation (Yu and Huang, "Universally Slimmable Networks", ICCV 2019).

    Every batch trains the largest subnet on the labels; the smallest and ``randoms`` random ones on the largest's
    own predictions.
    """

    randoms: Annotated[int, Meta(ge=0, le=64)] = 2

    @checked
    def step(
        self, supernet: Supernet, images: Tensor, labels: Tensor, rng: np.random.Generator, recipe: Recipe
    ) -> Tensor:
        logits = _logits(supernet, supernet.largest, images)
        loss = recipe.label_loss(logits, labels)
        loss.backward()
        soft = logits.detach().softmax(1)
        for arch in [supernet.smallest, *supernet.space.sample(self.randoms, rng)]:
            F.cross_entropy(_logits(supernet, arch, images), soft).backward()
        return loss.detach()


@checked
@dataclass(frozen=True, kw_only=True)
class SinglePath:
    """One random subnet per batch on the labels (Guo et al., "Single Path One-Shot NAS", ECCV 2020)."""

    @checked
    def step(
        self, supernet: Supernet, images: Tensor, labels: Tensor, rng: np.random.Generator, recipe: Recipe
    ) -> Tensor:
        logits = _logits(supernet, supernet.space.sample(1, rng)[0], images)
        loss = recipe.label_loss(logits, labels)
        loss.backward()
        return loss.detach()


def _logits(supernet: Supernet, arch: np.ndarray, images: Tensor) -> Tensor:
    supernet.activate(arch)
    return supernet(resize(images, supernet.input_shape[-1]))
