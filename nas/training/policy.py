"""Random operations on images after RandAugment (Cubuk et al. 2020), computed by kornia on whole batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nas.errors import MissingPackage

Operation = Callable[[Any, Tensor, Tensor], Tensor]
"""``operation(kornia, images (n, c, size, size), strength (n,))``; strength in [-1, 1]."""

OPERATIONS: dict[str, Operation] = {
    "nothing": lambda k, x, s: x,
    "autocontrast": lambda k, x, s: k.enhance.normalize_min_max(x),
    "equalize": lambda k, x, s: k.enhance.equalize(x),
    "brightness": lambda k, x, s: k.enhance.adjust_brightness_accumulative(x, 1 + 0.9 * s),
    "contrast": lambda k, x, s: k.enhance.adjust_contrast_with_mean_subtraction(x, 1 + 0.9 * s),
    "sharpness": lambda k, x, s: k.enhance.sharpness(x, 1 + 0.9 * s),
    "posterize": lambda k, x, s: k.enhance.posterize(x, (8 - (4 * s.abs()).round()).int()),
    "solarize": lambda k, x, s: k.enhance.solarize(x, 1 - s.abs()),
    "rotate": lambda k, x, s: k.geometry.transform.rotate(x, 30 * s, padding_mode="border"),
    "shear_x": lambda k, x, s: _moved(k.geometry.transform.shear, x, 0.3 * s, 0),
    "shear_y": lambda k, x, s: _moved(k.geometry.transform.shear, x, 0.3 * s, 1),
    "translate_x": lambda k, x, s: _moved(k.geometry.transform.translate, x, 0.3 * x.shape[-1] * s, 0),
    "translate_y": lambda k, x, s: _moved(k.geometry.transform.translate, x, 0.3 * x.shape[-1] * s, 1),
    # nothing on grey images
    "colour": lambda k, x, s: k.enhance.adjust_saturation_with_gray_subtraction(x, 1 + 0.9 * s),
}


def drawn_policy(n: int, operations: int, magnitude: float, generator: torch.Generator) -> Tensor:
    """For ``n`` images, ``(n, operations, 2)``: the number of each operation and its strength, by chance negative."""
    shape, device = (n, operations), generator.device
    which = torch.randint(len(OPERATIONS), shape, generator=generator, device=device)
    sign = torch.randint(2, shape, generator=generator, device=device) * 2 - 1
    return torch.stack([which.float(), sign * magnitude], 2)


def by_policy(images: Tensor, drawn: Tensor) -> Tensor:
    """``images (n, c, size, size)`` in [0, 1] after the operations ``drawn (n, operations, 2)``, one after the other.

    Raises MissingPackage without kornia.
    """
    try:
        import kornia
    except ImportError:
        raise MissingPackage("kornia", "augment") from None
    images, operations = images.clone(), tuple(OPERATIONS.values())
    for step in drawn.unbind(1):
        for number in step[:, 0].unique().int().tolist():
            rows = step[:, 0] == number
            images[rows] = operations[number](kornia, images[rows], step[rows, 1]).clamp(0, 1)
    return images


def _moved(move: Callable[..., Tensor], images: Tensor, by: Tensor, axis: int) -> Tensor:
    """``move`` by ``by (n,)`` along an axis: 0 is x, 1 is y."""
    both = torch.zeros(len(by), 2, device=by.device)
    both[:, axis] = by
    return move(images, both, padding_mode="border")
