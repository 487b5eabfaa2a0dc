"""Batches of stored pixels for a training loop, read ahead of it (torch)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from nas.data.decoding import ImageFiles
from nas.data.splits import Split
from nas.data.stored import StoredImages
from nas.device import cores
from nas.errors import BadInput

AHEAD = 2
"""Batches that are read while the loop works on another."""
Feed = Callable[[Sequence[Tensor]], Iterator[Tensor]]


def feed(split: Split, device: torch.device | str) -> Feed:
    """A function from the rows of batches, each ``(n,)``, to their images, each ``(n, c, h, h) uint8`` on ``device``.

    Made once for a training. Images in memory are moved to the device as a whole; images in the cache are read by a thread
    ahead of the loop; image files are decoded by processes, which are started once and end with the feed.
    """
    images = split.images
    if isinstance(images, np.ndarray):
        there = torch.from_numpy(images).to(device)
        return lambda batches: (there[rows.to(there.device)] for rows in batches)
    ahead = _by_processes(images) if isinstance(images.source, ImageFiles) else _by_a_thread(images)
    return lambda batches: (torch.from_numpy(batch).to(device) for batch in ahead([r.cpu().numpy() for r in batches]))


Ahead = Callable[[Sequence[NDArray[Any]]], Iterator[NDArray[np.uint8]]]


def _by_a_thread(images: StoredImages) -> Ahead:
    def read(batches: Sequence[NDArray[Any]]) -> Iterator[NDArray[np.uint8]]:
        coming: deque[Future[NDArray[np.uint8]]] = deque()
        with ThreadPoolExecutor(1) as thread:
            for rows in batches:
                coming.append(thread.submit(images.__getitem__, rows))
                if len(coming) > AHEAD:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()

    return read


def _by_processes(images: StoredImages) -> Ahead:
    epoch: list[list[int]] = []  # what the loader goes through next; its processes stay from epoch to epoch
    loader: DataLoader[Any] = DataLoader(
        _Rows(images),  # type: ignore[arg-type]
        batch_sampler=epoch,
        num_workers=cores(),
        prefetch_factor=1,
        collate_fn=_as_it_is,
        persistent_workers=True,
        generator=torch.Generator(),  # else the loader draws a number from everybody's
    )

    def read(batches: Sequence[NDArray[Any]]) -> Iterator[NDArray[np.uint8]]:
        epoch[:] = [rows.tolist() for rows in batches]
        for batch in loader:
            if isinstance(batch, BadInput):
                raise batch
            yield batch

    return read


class _Rows:
    """What a process of the loader asks for images; a refusal goes back as a value, since raised it becomes many lines."""

    def __init__(self, images: StoredImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, rows: list[int]) -> NDArray[np.uint8] | BadInput:
        try:
            return self.images[np.asarray(rows)]
        except BadInput as error:
            return error


def _as_it_is(batch: Any) -> Any:
    return batch
