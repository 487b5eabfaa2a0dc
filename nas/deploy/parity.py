"""What every exporter checks: that it has what it needs, and that the file computes what the network computes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from nas.checks import Count, shown
from nas.data.images import ImageData
from nas.data.inputs import calibration_images
from nas.errors import BadInput, NasError

Shape = tuple[Count, Count, Count]
"""(channels, height, width) of one input."""
Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From images ``(n, c, h, w)`` to an exported model's outputs, as torch lays them out."""
FP32_TOLERANCE = 1e-4
"""Of the largest output."""
INT8_COSINE = 0.9
"""Between int8 and float outputs, at least: below, the network is not quantized but broken."""
INT8_SHOWN = 32
"""Calibration images on which int8 outputs are compared."""


def input_shape_of(network: nn.Module, given: Shape | None = None) -> Shape:
    """(channels, height, width) of one input. Raises BadInput when neither the network nor the caller says it."""
    shape: Shape | None = given or getattr(network, "input_shape", None)
    if shape is None:
        raise BadInput(
            f"{type(network).__name__} does not say its input_shape; pass input_shape=(channels, height, width)"
        )
    return shape


def torch_outputs(network: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """What ``network`` answers to ``x (n, c, h, w)`` in eval mode on the CPU; the network stays as it was."""
    with torch.no_grad():
        outputs: NDArray[np.float32] = copy.deepcopy(network).eval().cpu()(torch.from_numpy(x)).numpy()
    return outputs


def whole_batches(images: ArrayLike, shape: Shape | None, batch: int) -> NDArray[np.float32]:
    """Calibration images ``(n, *shape)``, n a multiple of ``batch``; ``shape``: None where the network does not say it.

    Raises BadInput for other shapes, too few images, and what is not a finite number.
    """
    try:
        given = np.asarray(images, dtype=np.float32)
    except (TypeError, ValueError):
        raise BadInput(f"calibration images are an array of numbers, got {shown(images)}") from None
    if given.ndim != 4 or given.shape[1:] != (shape or given.shape[1:]) or len(given) < batch:
        wanted = ", ".join(map(str, shape or ("channels", "height", "width")))
        raise BadInput(f"calibration images have shape (n, {wanted}) with n >= {batch}, got {given.shape}")
    if not np.isfinite(given).all():
        raise BadInput("calibration images are finite numbers, got NaN or infinity among them")
    return given[: len(given) // batch * batch]


def verify_fp32(what: str, network: nn.Module, run: Run, shape: tuple[int, ...]) -> None:
    """``check_fp32`` of ``run`` and ``network``, on the same noise ``shape (n, c, h, w)`` at every call."""
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    check_fp32(what, torch_outputs(network, x), run(x))


def verify_int8(what: str, network: nn.Module, run: Run, images: NDArray[np.float32], batch: int) -> None:
    """``check_int8`` of ``run`` and ``network``, on the first whole batches, about 32, of ``images (n, c, h, w)``."""
    shown = images[: max(batch, INT8_SHOWN // batch * batch)]
    check_int8(what, torch_outputs(network, shown), run(shown))


def check_fp32(what: str, expected: NDArray[np.float32], seen: NDArray[np.float32]) -> None:
    """Raises NasError when outputs ``seen (n, classes)`` differ from torch's by more than ``FP32_TOLERANCE``."""
    error = float(np.abs(seen - expected).max() / max(np.abs(expected).max(), 1e-6))
    if not error <= FP32_TOLERANCE:  # not "error >": a NaN is no agreement
        raise NasError(f"{what}: its outputs differ from torch's by {error:.1e} (allowed {FP32_TOLERANCE:.0e})")


def check_int8(what: str, expected: NDArray[np.float32], seen: NDArray[np.float32]) -> None:
    """Raises NasError when int8 outputs ``seen (n, classes)`` point in another direction than torch's."""
    cosine = float((expected * seen).sum() / max(np.linalg.norm(expected) * np.linalg.norm(seen), 1e-12))
    if not cosine >= INT8_COSINE:
        raise NasError(f"{what}: int8 outputs and torch's have cosine {cosine:.3f}, at least {INT8_COSINE} is needed")


def needed(data: ImageData | None) -> ImageData:
    """``data``, when there are any. Raises BadInput otherwise."""
    if data is None:
        raise BadInput("this export format needs the data that the network was trained on; pass data=")
    return data


def calibration_of(network: nn.Module, data: ImageData | None) -> NDArray[np.float32]:
    """The training images that set the ranges of an int8 ``network``'s activations, ``(n, c, h, w)``."""
    return calibration_images(needed(data), input_shape_of(network)[-1])
