"""Random changes of training images."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor
from torch.nn import functional as F

from nas.blocks import LATER
from nas.checks import Probability, Share, checked, shown
from nas.data.images import ImageData
from nas.data.inputs import resize
from nas.errors import BadInput, MissingPackage
from nas.training.policy import by_policy, drawn_policy

PHOTOGRAPH = 64
"""Pixels from which on colour images are taken for photographs, of which a part shows what the whole does."""
Change = Callable[[Tensor, torch.Generator], Tensor]
"""``change(images, generator)`` of one's own: ``(n, c, h, w)`` floats in [0, 1] to as many, of any size; random numbers
come from ``generator``."""


@checked
@dataclass(frozen=True, kw_only=True)
class Augment:
    """Rotation, scale and shift, as the largest change in either direction; mirroring, crops, cutout, random operations.

    ``cutout``: side of a grey square as a fraction of the image (DeVries and Taylor 2017); 0 for none. ``crop``: the
    least part of the area that a random crop of aspect 3:4 to 4:3 keeps (Szegedy et al. 2015); 1 for none.
    ``operations``: how many of fourteen random changes each image goes through, with that ``magnitude`` (RandAugment,
    Cubuk et al. 2020, which counts to 30 where this counts to 1); by kornia, in the extra ``augment``.
    """

    degrees: Annotated[float, Meta(ge=0, le=180)] = 10.0
    scale: Share = 0.1
    shift: Annotated[Probability, "as a fraction of the image"] = 0.1
    flip: Annotated[bool, "mirror left and right"] = False
    cutout: Probability = 0.0
    crop: Annotated[float, Meta(gt=0, le=1)] = field(default=1.0, metadata=LATER)
    operations: Annotated[int, Meta(ge=0, le=16)] = field(default=0, metadata=LATER)
    magnitude: Probability = field(default=0.3, metadata=LATER)

    def __post_init__(self) -> None:
        if self.operations and importlib.util.find_spec("kornia") is None:
            raise MissingPackage("kornia", "augment")

    @staticmethod
    @checked
    def suited_to(data: ImageData) -> Augment:
        """Colour photographs may be mirrored, and from 64 px on cropped; grey images are mostly symbols and scans."""
        if data.channels == 3 and data.size >= PHOTOGRAPH:
            return Augment(degrees=0.0, scale=0.0, shift=0.0, flip=True, crop=0.35)
        return Augment(flip=True, cutout=0.25) if data.channels == 3 else Augment()


Augmentation = Augment | Change
"""What ``augment`` is wherever something is trained."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What was drawn for n images: ``theta (n, 2, 3)`` of an affine map; ``corners (n, 2)`` of squares to cut out, whose
    side is ``side``; ``policy (n, operations, 2)``. ``enlarged``: how much the map may enlarge them.
    """

    theta: Tensor
    corners: Tensor | None
    side: int
    policy: Tensor | None
    enlarged: float

    def rows(self, rows: Tensor) -> Changes:
        """Of some of the images."""
        corners, policy = (None if drawn is None else drawn[rows] for drawn in (self.corners, self.policy))
        return replace(self, theta=self.theta[rows], corners=corners, policy=policy)


def augmented(images: Tensor, augment: Augment, size: int, generator: torch.Generator) -> Tensor:
    """``images (n, c, h, w) uint8`` changed at random, at ``size`` pixels; floats in [0, 1]."""
    return changed(images, drawn_changes(augment, len(images), size, generator), size)


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
    side, corners, policy = max(1, round(augment.cutout * size)), None, None
    if augment.cutout:
        corners = torch.randint(0, size - side + 1, (2, n, 1), generator=generator, device=device)[..., 0].T
    if augment.crop < 1:
        theta = _within_crops(theta, augment.crop, uniform)
    if augment.operations:
        policy = drawn_policy(n, augment.operations, augment.magnitude, generator)
    return Changes(theta=theta, corners=corners, side=side, policy=policy, enlarged=min(2.0, augment.crop**-0.5))


def _within_crops(theta: Tensor, least: float, uniform: Callable[[float], Tensor]) -> Tensor:
    """The maps ``theta (n, 2, 3)`` after random crops of at least that part of the area."""
    area, aspect = (1 + least + uniform(1 - least)) / 2, uniform(math.log(4 / 3)).exp()
    width, height = (area * aspect).sqrt().clamp_max(1), (area / aspect).sqrt().clamp_max(1)
    middle = torch.stack([uniform(1) * (1 - width), uniform(1) * (1 - height)], 1)
    turned = theta[:, :, :2]
    moved = theta[:, :, 2:] + turned @ middle[:, :, None]
    return torch.cat([turned * torch.stack([width, height], 1)[:, None], moved], 2)


def changed(images: Tensor, changes: Changes | None, size: int) -> Tensor:
    """``images (n, c, h, w) uint8`` as they were drawn to be, at ``size`` pixels; floats in [0, 1]."""
    x = images.float() / 255
    if changes is None:
        return resize(x, size)
    # shrinking first keeps grid_sample, which does not antialias, from skipping pixels
    needed = round(size * changes.enlarged)
    x = resize(x, needed) if needed < x.shape[-1] else x
    grid = F.affine_grid(changes.theta, [len(x), x.shape[1], size, size], align_corners=False)
    x = F.grid_sample(x, grid, align_corners=False, padding_mode="border")
    x = x if changes.policy is None else by_policy(x, changes.policy)
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
    """``x (n, c, size, size)`` with a grey square of ``side`` pixels at ``corners (n, 2)`` in each image."""
    line, first = torch.arange(x.shape[-1], device=x.device), corners[..., None]
    rows, columns = ((line >= first) & (line < first + side)).unbind(1)
    return x.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 0.5)
