"""What every exporter checks: that it can write, and that the file computes what the network computes."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from nas.checks import shown
from nas.data.images import ImageData
from nas.errors import BadInput, NasError

FP32_TOLERANCE = 1e-4
"""Of the largest output."""
INT8_COSINE = 0.9
"""Between int8 and float outputs, at least: below, the network is not quantized but broken."""
INT8_SHOWN = 32
"""Calibration images on which int8 outputs are compared."""


def writable(path: str | os.PathLike[str]) -> Path:
    """``path``, when a file of that name could be written. Raises BadInput before any work is done for it."""
    text = os.fspath(path)
    if not text or "\0" in text or Path(text).is_dir():
        raise BadInput(f"cannot write {text!r}: name a file" + (", this is a folder" if text else ""))
    there = next(p for p in Path(text).absolute().parents if os.path.lexists(p))
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise BadInput(f"cannot write {text}: {there} is not a folder that can be written to")
    return Path(text)


def input_shape_of(network: nn.Module, given: tuple[int, int, int] | None = None) -> tuple[int, int, int]:
    """(channels, height, width) of one input. Raises BadInput when neither the network nor the caller says it."""
    shape = given or getattr(network, "input_shape", None)
    if shape is None:
        raise BadInput(
            f"{type(network).__name__} does not say its input_shape; pass input_shape=(channels, height, width)"
        )
    return shape


def noise(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The same random inputs at every call."""
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def torch_outputs(network: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """What ``network`` answers to ``x (n, c, h, w)`` in eval mode on the CPU; the network stays as it was."""
    with torch.no_grad():
        outputs: NDArray[np.float32] = copy.deepcopy(network).eval().cpu()(torch.from_numpy(x)).numpy()
    return outputs


def whole_batches(images: ArrayLike, shape: tuple[int, int, int], batch: int) -> NDArray[np.float32]:
    """Calibration images ``(n, *shape)``, n a multiple of ``batch``. Raises BadInput for other shapes or too few."""
    try:
        given = np.asarray(images, dtype=np.float32)
    except (TypeError, ValueError):
        raise BadInput(f"calibration images are an array of numbers, got {shown(images)}") from None
    if given.shape[1:] != shape or len(given) < batch:
        raise BadInput(
            f"calibration images have shape (n, {', '.join(map(str, shape))}) with n >= {batch}, got {given.shape}"
        )
    if not np.isfinite(given).all():
        raise BadInput("calibration images are finite numbers, got NaN or infinity among them")
    return given[: len(given) // batch * batch]


def compared(images: NDArray[np.float32], batch: int) -> NDArray[np.float32]:
    """The calibration images that int8 outputs are compared on: whole batches of them."""
    return images[: max(batch, INT8_SHOWN // batch * batch)]


def check_fp32(what: str, expected: NDArray[np.float32], seen: NDArray[np.float32]) -> None:
    """Raises NasError when outputs ``seen`` differ from torch's by more than ``FP32_TOLERANCE``."""
    error = float(np.abs(seen - expected).max() / max(np.abs(expected).max(), 1e-6))
    if not error <= FP32_TOLERANCE:  # not "error >": a NaN is no agreement
        raise NasError(f"{what}: its outputs differ from torch's by {error:.1e} (allowed {FP32_TOLERANCE:.0e})")


def check_int8(what: str, expected: NDArray[np.float32], seen: NDArray[np.float32]) -> None:
    """Raises NasError when int8 outputs ``seen`` point in another direction than torch's."""
    cosine = float((expected * seen).sum() / max(np.linalg.norm(expected) * np.linalg.norm(seen), 1e-12))
    if not cosine >= INT8_COSINE:
        raise NasError(f"{what}: int8 outputs and torch's have cosine {cosine:.3f}, at least {INT8_COSINE} is needed")


def needed(data: ImageData | None) -> ImageData:
    """``data``, when there are any. Raises BadInput otherwise."""
    if data is None:
        raise BadInput("this export format needs the data that the network was trained on; pass data=")
    return data
