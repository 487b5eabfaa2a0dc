"""The batches of an epoch: which images, how each is changed, and with what they are mixed.

What is random is drawn for the whole batch, from (seed, epoch) and its position, before any image is touched. So workers
that each make their share of a batch make, together, the very batch that one makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.data.feed import feed
from nas.data.images import ImageData
from nas.data.inputs import normalised
from nas.training.augment import Augment, Augmentation, Changes, changed, drawn_changes, own_change
from nas.training.mixing import Mix, drawn_mix, mixed
from nas.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Batch:
    """``images (n, c, size, size)`` normalised, ``labels (n,) int64``, or ``(n, classes)`` shares of mixed images.

    ``rng``: for the step. ``of``: images of the whole batch; these may be one worker's share.
    """

    images: Tensor
    labels: Tensor
    rng: np.random.Generator
    of: int


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A batch before its images are read: the ``rows`` of the data that it needs, and all that was drawn for it.

    ``own``, ``other``: positions in ``rows`` of the images that are made, and of their partners.
    """

    rows: Tensor
    own: Tensor
    other: Tensor | None
    changes: Changes | None
    mix: Mix | None
    of: int


class Batches:
    """Of the training images, ``size`` pixels wide, on ``device``; ``worker`` of ``workers``: whose share is made."""

    def __init__(
        self,
        data: ImageData,
        recipe: Recipe,
        augment: Augmentation | None,
        *,
        size: int,
        seed: int,
        device: torch.device,
        worker: int = 0,
        workers: int = 1,
    ) -> None:
        self.data, self.recipe, self.augment = data, recipe, augment
        self.size, self.seed, self.device = size, seed, device
        self.worker, self.workers = worker, workers
        self._feed = feed(data.train, device)
        self._labels = torch.from_numpy(data.train.labels).to(device)

    def __len__(self) -> int:
        return -(-len(self._labels) // self.recipe.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch (counted from 0), in the order of ``ImageData.epoch_rows``."""
        rng = np.random.default_rng([self.seed, epoch])
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        order = torch.from_numpy(self.data.epoch_rows(rng)).to(self.device)
        mixing = np.random.default_rng([self.seed, epoch, 1])
        plans = [self._planned(chosen, generator, mixing) for chosen in order.split(self.recipe.batch_size)]
        for plan, images in zip(plans, self._feed([plan.rows for plan in plans]), strict=True):
            yield self._made(plan, images, generator, rng)

    def _planned(self, chosen: Tensor, generator: torch.Generator, rng: np.random.Generator) -> _Plan:
        n, augment = len(chosen), self.augment
        changes = drawn_changes(augment, n, self.size, generator) if isinstance(augment, Augment) else None
        mix = drawn_mix(self.recipe, n, rng)
        mine = np.array_split(np.arange(n), self.workers)[self.worker]
        partners = None if mix is None else mix.partner[mine]
        needed = mine if partners is None else np.union1d(mine, partners)
        if augment is not None and changes is None:  # one's own may look at the whole batch
            needed = np.arange(n)
        there = torch.from_numpy(needed).to(self.device)
        return _Plan(
            rows=chosen[there],
            own=self._positions(mine, needed),
            other=None if partners is None else self._positions(partners, needed),
            changes=None if changes is None else changes.rows(there),
            mix=None if mix is None else mix.rows(mine),
            of=n,
        )

    def _positions(self, wanted: NDArray[np.int64], needed: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.searchsorted(needed, wanted)).to(self.device)

    def _made(self, plan: _Plan, images: Tensor, generator: torch.Generator, rng: np.random.Generator) -> Batch:
        augment, labels = self.augment, self._labels[plan.rows]
        if augment is None or isinstance(augment, Augment):
            x = changed(images, plan.changes, self.size)
        else:
            x = own_change(augment, images, self.size, generator)
        x = normalised(x, self.data)
        if plan.mix is not None and plan.other is not None:
            own, other = plan.own, plan.other
            x, labels = mixed(x[own], x[other], labels[own], labels[other], len(self.data.classes), plan.mix)
        elif len(plan.own) < len(labels):
            x, labels = x[plan.own], labels[plan.own]
        return Batch(images=x, labels=labels, rng=rng, of=plan.of)
