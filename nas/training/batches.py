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
from nas.training.augment import Augment, Augmentation, changed, drawn_changes, own_change
from nas.training.mixing import drawn_mix, mixed
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
        # images are mixed with any other of the batch, and a function of one's own is shown whole batches
        self._reads_all = bool(recipe.mixup or recipe.cutmix) or not (augment is None or isinstance(augment, Augment))
        self._labels = torch.from_numpy(data.train.labels).to(device)

    def __len__(self) -> int:
        return -(-len(self._labels) // self.recipe.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch (counted from 0), in the order of ``ImageData.epoch_rows``."""
        rng = np.random.default_rng([self.seed, epoch])
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        batches = torch.from_numpy(self.data.epoch_rows(rng)).to(self.device).split(self.recipe.batch_size)
        read = batches if self._reads_all else [chosen[self._share(len(chosen))] for chosen in batches]
        for chosen, images in zip(batches, self._feed(read), strict=True):
            yield self._batch(chosen, images, generator, rng)

    def _share(self, n: int) -> NDArray[np.int64]:
        """This worker's rows of a batch of ``n``."""
        return np.array_split(np.arange(n), self.workers)[self.worker]

    def _batch(self, chosen: Tensor, stored: Tensor, generator: torch.Generator, rng: np.random.Generator) -> Batch:
        n, labels = len(chosen), self._labels[chosen]
        augment = self.augment
        draws = drawn_changes(augment, n, self.size, generator) if isinstance(augment, Augment) else None
        mix = drawn_mix(self.recipe, n, rng)
        mine = self._share(n)
        rows = torch.from_numpy(mine if mix is None else np.union1d(mine, mix.partner[mine])).to(self.device)
        if augment is not None and not isinstance(augment, Augment):
            images = own_change(augment, stored, self.size, generator)[rows]
        else:
            images = changed(
                stored[rows] if self._reads_all else stored, None if draws is None else draws.rows(rows), self.size
            )
        images = normalised(images, self.data)
        if mix is None:
            return Batch(images=images, labels=labels[rows], rng=rng, of=n)
        own, other = (torch.searchsorted(rows, torch.from_numpy(p).to(self.device)) for p in (mine, mix.partner[mine]))
        classes = len(self.data.classes)
        images, shares = mixed(
            images[own], images[other], labels[rows[own]], labels[rows[other]], classes, mix.rows(mine)
        )
        return Batch(images=images, labels=shares, rng=rng, of=n)
