"""How stored images become a network's input: resized, normalised, in batches, on a device (torch).

``ImageData.preprocessing`` says the same in words for those who deploy.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from nas.data.images import ImageData
from nas.data.splits import Split

INT8_IMAGES = 128
"""Training images whose extremes set the ranges of int8 activations."""


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
    return torch.cat(list(batches(fixed_choice(data, most), data, size))).contiguous().numpy()
