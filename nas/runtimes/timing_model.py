"""The ONNX model that stands for a network while it is timed: random weights, and for int8 the QDQ form."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas.errors import BadInput

if TYPE_CHECKING:
    from torch import nn


def onnx_bytes(
    network: nn.Module | str | os.PathLike[str],
    input_shape: tuple[int, int, int],
    *,
    precision: str = "fp32",
    batch: int = 1,
    symmetric_activations: bool = False,
) -> bytes:
    """A serialised model to time. A path is an ONNX file, read as it is; BadInput when that cannot be.

    A module is exported (and for int8 quantized) with random weights and statistics: speed does not depend on them,
    except that freshly initialised ones are degenerate.
    """
    from nas.deploy.to_onnx import onnx_model, quantized

    if isinstance(network, str | os.PathLike):
        return read_model(network)
    model = onnx_model(randomised(network), input_shape, batch=batch)
    if precision == "int8":
        noise = np.random.default_rng(0).standard_normal((2 * batch, *input_shape), dtype=np.float32)
        model = quantized(model, noise, batch=batch, symmetric_activations=symmetric_activations)
    return bytes(model.SerializeToString())


def read_model(path: str | os.PathLike[str]) -> bytes:
    """The content of an exported file. Raises BadInput when it cannot be read."""
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise BadInput(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def randomised(network: nn.Module) -> nn.Module:
    """A copy on the CPU with no weight or statistic at its initial value."""
    import torch

    random = copy.deepcopy(network).cpu().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*random.parameters(), *random.buffers()]:
            if tensor.dtype.is_floating_point:
                tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.1)
    return random
