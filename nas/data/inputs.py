"""How stored images become a network's input: resized, normalised, in batches, on a device (torch).

``ImageData.preprocessing`` says the same in words for those who deploy.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from nas.data.images import ImageData
from nas.data.splits import Split

INT8_IMAGES = 128
"""Training images whose extremes set the ranges of int8 activations."""
KEPT_BYTES = 1 << 30
"""Most memory that the images of one data set take as networks see them (float32, at their resolutions)."""


def resize(images: Tensor, size: int) -> Tensor:
    """``images (n, c, h, w)`` float at ``size`` pixels; bilinear, antialiased where it shrinks."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(
        images, size=(size, size), mode="bilinear", align_corners=False, antialias=size < images.shape[-1]
    )


def normalised(images: Tensor, data: ImageData) -> Tensor:
    """``images (n, c, h, w)`` in [0, 1] to zero mean and unit deviation per channel, by the training set's statistics."""
    mean = torch.as_tensor(data.mean, device=images.device).view(1, -1, 1, 1)
    std = torch.as_tensor(data.std, device=images.device).view(1, -1, 1, 1)
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def images_at_once(size: int, device: torch.device | str) -> int:
    """How many images of ``size`` pixels go through a network together when nothing else decides it.

    On the CPU as many as keep feature maps in its cache, and below what the C library hands back to the system when it is
    freed: 512 images of 20 pixels take a batch norm seven times as long, each, as 128 do.
    """
    pixels = 1 << (17 if torch.device(device).type == "cpu" else 23)
    return min(max(pixels // size**2, 8), 512)


def batches(
    split: Split, data: ImageData, size: int, batch_size: int = 512, device: torch.device | str = "cpu"
) -> Iterator[Tensor]:
    """The images of ``split`` in order, resized and normalised: ``(n, c, size, size)`` float32, n at most ``batch_size``."""
    for start in range(0, len(split), batch_size):
        images = torch.from_numpy(split.images[start : start + batch_size]).to(device)
        yield normalised(resize(images.float() / 255, size), data)


def fixed_choice(data: ImageData, most: int) -> Split:
    """A random choice of at most ``most`` *training* images, the same at every call: what statistics are taken from."""
    return data.train.take(np.sort(np.random.default_rng(0).permutation(len(data.train))[:most]))


def calibration_images(data: ImageData, size: int, most: int = INT8_IMAGES) -> NDArray[np.float32]:
    """``fixed_choice(data, most)`` as a network of ``size`` pixels sees it, ``(n, c, size, size)``: for int8 ranges."""
    return torch.cat(list(chosen_inputs(data, most, size))).contiguous().numpy()


def chosen_inputs(data: ImageData, most: int, size: int, device: torch.device | str = "cpu") -> Iterable[Tensor]:
    """``fixed_choice(data, most)`` in batches as of ``kept_inputs``."""

    def make() -> Iterator[Tensor]:
        return batches(fixed_choice(data, most), data, size, images_at_once(size, device), device)

    return kept_inputs(data, min(most, len(data.train)), ("choice", most, size, str(device)), make)


def kept_inputs(data: ImageData, images: int, key: Hashable, make: Callable[[], Iterator[Tensor]]) -> Iterable[Tensor]:
    """The batches ``(n, c, size, size)`` that ``make`` yields, ``images`` in all, kept under ``key`` while ``data`` lives.

    Beyond ``KEPT_BYTES`` those used longest ago are forgotten; what would not fit at all is made anew at every call.
    """
    return _KEPT.setdefault(data, _Kept()).get(key, images, make)


class _Kept:
    def __init__(self) -> None:
        self._batches: OrderedDict[Hashable, list[Tensor]] = OrderedDict()

    def get(self, key: Hashable, images: int, make: Callable[[], Iterator[Tensor]]) -> Iterable[Tensor]:
        if key in self._batches:
            self._batches.move_to_end(key)
            return self._batches[key]
        made = make()
        first = next(made)
        if first[0].nbytes * images > KEPT_BYTES:
            return itertools.chain([first], made)
        self._batches[key] = [first, *made]
        while sum(x.nbytes for kept in self._batches.values() for x in kept) > KEPT_BYTES:
            self._batches.popitem(last=False)
        return self._batches.get(key, ())


_KEPT: WeakKeyDictionary[ImageData, _Kept] = WeakKeyDictionary()
