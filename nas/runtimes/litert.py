"""LiteRT (TensorFlow Lite) on the CPU with XNNPACK, fp32 and full-integer int8."""

from __future__ import annotations

import copy
import importlib.metadata
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nas.deploy.litert_file import interpreter, quantized, to_integers
from nas.deploy.to_litert import litert_model
from nas.device import Device, cpu_name
from nas.errors import BadInput, MissingPackage
from nas.runtimes.clock import Loaded, check_settings, timed, warmed_up


@dataclass(frozen=True, kw_only=True)
class LiteRT:
    """LiteRT's CPU interpreter with XNNPACK. ``precision``: "fp32" or "int8" (int8 in and out); ``threads``: XNNPACK's.

    Raises BadInput for another precision, or threads or batch below 1; MissingPackage without ai-edge-litert.
    """

    precision: str = "fp32"
    threads: int = 1
    batch: int = 1

    def __post_init__(self) -> None:
        check_settings("LiteRT", self.precision, ("fp32", "int8"), self.threads, self.batch)

    @cached_property
    def device(self) -> Device:
        try:
            version = importlib.metadata.version("ai-edge-litert")
        except importlib.metadata.PackageNotFoundError:
            raise MissingPackage("ai-edge-litert", "litert") from None
        return Device(
            name=cpu_name(),
            chip=cpu_name(),
            runtime="litert",
            version=version,
            precision=self.precision,
            batch=self.batch,
            threads=self.threads,
        )

    def prepare(self, network: nn.Module | Path, input_shape: tuple[int, int, int]) -> Loaded:
        """Load ``network`` for timing: a module with random weights, or a .tflite file as it is.

        Raises BadInput for a file that is not there or takes inputs of another batch.
        """
        if isinstance(network, str | os.PathLike):
            return self.load(read_tflite(network))
        return self.load(timing_tflite(network, input_shape, precision=self.precision, batch=self.batch))

    def load(self, model: bytes) -> Loaded:
        """A serialised model, warmed up."""
        loaded = interpreter(model, self.threads)
        details = loaded.get_input_details()[0]
        if details["shape"][0] != self.batch:
            raise BadInput(f"the model takes a batch of {details['shape'][0]}, the runtime was made for {self.batch}")
        x = np.random.default_rng(0).standard_normal(details["shape"], dtype=np.float32)
        loaded.set_tensor(details["index"], to_integers(x, details))
        return warmed_up(loaded.invoke, keeps=loaded)

    def time(self, prepared: Loaded, repeats: int) -> NDArray[np.float64]:
        """Milliseconds per run, ``(repeats,)``, each the mean over the runs of one short sample."""
        return timed(prepared, repeats)


def timing_tflite(
    network: nn.Module, input_shape: tuple[int, int, int], *, precision: str = "fp32", batch: int = 1
) -> bytes:
    """The model that stands for ``network`` while it is timed: random weights, and for int8 calibrated on noise.

    The same for equal networks, to the byte: compilers for microcontrollers compress weights, so their estimates depend
    on them. A trained network's are bell-shaped around 0, and so are these.
    """
    model = litert_model(_bell_shaped(network), input_shape, batch=batch)
    if precision == "fp32":
        return model
    channels, height, width = input_shape
    noise = np.random.default_rng(0).standard_normal((2 * batch, height, width, channels), dtype=np.float32)
    return quantized(model, noise)


def _bell_shaped(network: nn.Module) -> nn.Module:
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
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    if content[4:8] != b"TFL3":
        raise BadInput(f"{path} is not a .tflite file")
    return content
