"""Random changes of training images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor
from torch.nn import functional as F

from nas.checks import Probability, Share, checked
from nas.data.images import ImageData
from nas.data.inputs import resize


@checked
@dataclass(frozen=True, kw_only=True)
class Augment:
    """Rotation, scale and shift, as the largest change in either direction; mirroring and cutout.

    ``cutout``: side of a grey square as a fraction of the image (DeVries and Taylor 2017); 0 for none.
    """

    degrees: Annotated[float, Meta(ge=0, le=180)] = 10.0
    scale: Share = 0.1
    shift: Annotated[Probability, "as a fraction of the image"] = 0.1
    flip: Annotated[bool, "mirror left and right"] = False
    cutout: Probability = 0.0

    @staticmethod
    @checked
    def suited_to(data: ImageData) -> Augment:
        """Colour photographs may be mirrored; grey images are mostly symbols and scans, which may not."""
        return Augment(flip=True, cutout=0.25) if data.channels == 3 else Augment()


def augmented(images: Tensor, augment: Augment | None, size: int, generator: torch.Generator) -> Tensor:
    """Random affine change of ``images (n, c, h, w) uint8``, sampled at ``size`` pixels; floats in [0, 1]."""
    x = images.float() / 255
    if augment is None:
        return resize(x, size)
    n, device = len(x), x.device

    def uniform(extent: float) -> Tensor:
        return (torch.rand(n, generator=generator, device=device) * 2 - 1) * extent

    angle, zoom = uniform(math.radians(augment.degrees)), 1 + uniform(augment.scale)
    mirror = torch.ones(n, device=device)
    if augment.flip:
        mirror = torch.where(torch.rand(n, generator=generator, device=device) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    shift_x, shift_y = uniform(2 * augment.shift), uniform(2 * augment.shift)
    theta = torch.stack([cos * mirror, -sin, shift_x, sin * mirror, cos, shift_y], 1).view(n, 2, 3)
    # shrinking first keeps grid_sample, which does not antialias, from skipping pixels
    x = resize(x, size) if size < x.shape[-1] else x
    grid = F.affine_grid(theta, [n, x.shape[1], size, size], align_corners=False)
    x = F.grid_sample(x, grid, align_corners=False, padding_mode="border")
    return _cut_out(x, augment.cutout, generator) if augment.cutout else x


def _cut_out(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """``x (n, c, size, size)`` with a grey square of ``share`` of the side somewhere in each image."""
    size = x.shape[-1]
    side = max(1, round(share * size))
    corners = torch.randint(0, size - side + 1, (2, len(x), 1), generator=generator, device=x.device)
    line = torch.arange(size, device=x.device)
    inside = (line >= corners) & (line < corners + side)
    return x.masked_fill((inside[0][:, None, :, None] & inside[1][:, None, None, :]), 0.5)
