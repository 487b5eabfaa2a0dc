"""LiteRT (TensorFlow Lite) on the CPU with XNNPACK, fp32 and full-integer int8."""

from __future__ import annotations

import copy
import importlib.metadata
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nas.checks import checked
from nas.device import Device
from nas.errors import BadInput, MissingPackage
from nas.on_device.clock import Loaded, warmed_up
from nas.runtimes.runtime import OnCPU, blaming, cpu_device
from nas.runtimes.timing_model import read_model

if TYPE_CHECKING:
    from torch import nn


@checked
@dataclass(frozen=True, kw_only=True)
class LiteRT(OnCPU):
    """LiteRT's CPU interpreter with XNNPACK. int8 is int8 in and out. MissingPackage without ai-edge-litert."""

    name: ClassVar[str] = "litert"

    @cached_property
    def device(self) -> Device:
        try:
            version = importlib.metadata.version("ai-edge-litert")
        except importlib.metadata.PackageNotFoundError:
            raise MissingPackage("ai-edge-litert", "litert") from None
        return cpu_device(self, "litert", version)

    def prepare(self, network: nn.Module | Path, input_shape: tuple[int, int, int]) -> Loaded:
        """Load ``network`` for timing: a module with random weights, or a .tflite file as it is.

        Raises BadInput for a file that is not there or takes inputs of another batch.
        """
        if isinstance(network, str | os.PathLike):
            with blaming(network):
                return self.load(read_tflite(network))
        return self.load(timing_tflite(network, input_shape, precision=self.precision, batch=self.batch))

    def load(self, model: bytes) -> Loaded:
        """A serialised model, warmed up. Raises BadInput for one of another batch, and as ``interpreter`` does."""
        from nas.deploy.litert_file import interpreter, to_integers

        loaded = interpreter(model, self.threads)
        details = loaded.get_input_details()[0]
        if details["shape"][0] != self.batch:
            raise BadInput(f"the model takes a batch of {details['shape'][0]}, the runtime was made for {self.batch}")
        x = np.random.default_rng(0).standard_normal(details["shape"], dtype=np.float32)
        loaded.set_tensor(details["index"], to_integers(x, details))
        return warmed_up(loaded.invoke, keeps=loaded)


def timing_tflite(
    network: nn.Module, input_shape: tuple[int, int, int], *, precision: str = "fp32", batch: int = 1
) -> bytes:
    """The model that stands for ``network`` while it is timed: random weights, and for int8 calibrated on noise.

    The same for equal networks, to the byte: compilers for microcontrollers compress weights, so their estimates depend
    on them. A trained network's are bell-shaped around 0, and so are these.
    """
    from nas.deploy.litert_file import quantized
    from nas.deploy.to_litert import litert_model

    model = litert_model(_bell_shaped(network), input_shape, batch=batch)
    if precision == "fp32":
        return model
    channels, height, width = input_shape
    noise = np.random.default_rng(0).standard_normal((2 * batch, height, width, channels), dtype=np.float32)
    return quantized(model, noise)


def _bell_shaped(network: nn.Module) -> nn.Module:
    import torch
    from torch import nn

    random = copy.deepcopy(network).cpu().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*random.parameters(), *random.buffers()]:
            if tensor.ndim > 1:
                nn.init.kaiming_normal_(tensor, generator=generator)
            elif tensor.dtype.is_floating_point:
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    return random


def read_tflite(path: str | os.PathLike[str]) -> bytes:
    """The content of a .tflite file. Raises BadInput when there is none, or it is something else."""
    content = read_model(path)
    if content[4:8] != b"TFL3":
        raise BadInput(f"{path} is not a .tflite file")
    return content
