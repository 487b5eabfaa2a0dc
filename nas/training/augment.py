"""Random changes of training images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor
from torch.nn import functional as F

from nas.checks import Probability, Share, checked, shown
from nas.data.images import ImageData
from nas.data.inputs import resize
from nas.errors import BadInput

Change = Callable[[Tensor, torch.Generator], Tensor]
"""``change(images, generator)`` of one's own: ``(n, c, h, w)`` floats in [0, 1] to as many, of any size; random numbers
come from ``generator``."""


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


Augmentation = Augment | Change
"""What ``augment`` is wherever something is trained."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What was drawn for n images: ``theta (n, 2, 3)``, and ``corners (2, n, 1)`` of what is cut out of side ``side``."""

    theta: Tensor
    corners: Tensor | None
    side: int

    def rows(self, rows: Tensor) -> Changes:
        """Of some of the images."""
        return Changes(
            theta=self.theta[rows], corners=None if self.corners is None else self.corners[:, rows], side=self.side
        )


def augmented(images: Tensor, augment: Augmentation | None, size: int, generator: torch.Generator) -> Tensor:
    """``images (n, c, h, w) uint8`` changed at random, at ``size`` pixels; floats in [0, 1].

    Raises BadInput when a change of one's own gives something else.
    """
    if augment is None or isinstance(augment, Augment):
        draws = None if augment is None else drawn_changes(augment, len(images), size, generator)
        return changed(images, draws, size)
    return own_change(augment, images, size, generator)


def drawn_changes(augment: Augment, n: int, size: int, generator: torch.Generator) -> Changes:
    """For ``n`` images that become ``size`` pixels wide."""
    device = generator.device

    def uniform(extent: float) -> Tensor:
        return (torch.rand(n, generator=generator, device=device) * 2 - 1) * extent

    angle, zoom = uniform(math.radians(augment.degrees)), 1 + uniform(augment.scale)
    mirror = torch.ones(n, device=device)
    if augment.flip:
        mirror = torch.where(torch.rand(n, generator=generator, device=device) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    shift_x, shift_y = uniform(2 * augment.shift), uniform(2 * augment.shift)
    theta = torch.stack([cos * mirror, -sin, shift_x, sin * mirror, cos, shift_y], 1).view(n, 2, 3)
    side, corners = max(1, round(augment.cutout * size)), None
    if augment.cutout:
        corners = torch.randint(0, size - side + 1, (2, n, 1), generator=generator, device=device)
    return Changes(theta=theta, corners=corners, side=side)


def changed(images: Tensor, changes: Changes | None, size: int) -> Tensor:
    """``images (n, c, h, w) uint8`` as they were drawn to be, at ``size`` pixels; floats in [0, 1]."""
    x = images.float() / 255
    if changes is None:
        return resize(x, size)
    # shrinking first keeps grid_sample, which does not antialias, from skipping pixels
    x = resize(x, size) if size < x.shape[-1] else x
    grid = F.affine_grid(changes.theta, [len(x), x.shape[1], size, size], align_corners=False)
    x = F.grid_sample(x, grid, align_corners=False, padding_mode="border")
    return x if changes.corners is None else _cut_out(x, changes.corners, changes.side)


def own_change(augment: Change, images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """``augment(images, generator)`` of ``images (n, c, h, w) uint8``, which it gets as floats in [0, 1], resized.

    Raises BadInput for anything but as many such images.
    """
    x = augment(images.float() / 255, generator)
    if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[:2] != images.shape[:2] or x.shape[2] != x.shape[3]:
        seen = f"a tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else shown(x)
        raise BadInput(
            f"augment(images, generator) gives ({len(images)}, {images.shape[1]}, size, size) floats, got {seen}"
        )
    return resize(x, size)


def _cut_out(x: Tensor, corners: Tensor, side: int) -> Tensor:
    """``x (n, c, size, size)`` with a grey square of ``side`` pixels at ``corners (2, n, 1)`` in each image."""
    line = torch.arange(x.shape[-1], device=x.device)
    inside = (line >= corners) & (line < corners + side)
    return x.masked_fill((inside[0][:, None, :, None] & inside[1][:, None, None, :]), 0.5)
