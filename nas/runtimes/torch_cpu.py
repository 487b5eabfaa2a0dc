"""PyTorch on the CPU, eager or compiled. For networks this small it is several times slower than ONNX Runtime."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nas.device import Device, cpu_name
from nas.errors import BadInput
from nas.runtimes.clock import Loaded, check_settings, timed, warmed_up
from nas.runtimes.timing_model import randomised


@dataclass(frozen=True, kw_only=True)
class TorchCPU:
    """fp32, channels last. ``compiled``: through ``torch.compile``, about 10 s per network.

    ``threads`` sets torch's threads for the whole process while a network runs.
    Raises BadInput for threads or batch below 1.
    """

    compiled: bool = False
    threads: int = 1
    batch: int = 1

    def __post_init__(self) -> None:
        check_settings("torch", "fp32", ("fp32",), self.threads, self.batch)

    @cached_property
    def device(self) -> Device:
        return Device(
            name=cpu_name(),
            chip=cpu_name(),
            runtime="torch-compiled" if self.compiled else "torch",
            version=torch.__version__,
            precision="fp32",
            batch=self.batch,
            threads=self.threads,
        )

    def prepare(self, network: nn.Module | Path, input_shape: tuple[int, int, int]) -> Loaded:
        """Load a module for timing, with random weights. Raises BadInput for a file."""
        if not isinstance(network, nn.Module):
            raise BadInput(f"torch times modules, not files such as {network}")
        module = randomised(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = torch.randn(self.batch, *input_shape, generator=torch.Generator().manual_seed(0))
        x = x.to(memory_format=torch.channels_last)
        forward = _compiled(module) if self.compiled else module

        @torch.inference_mode()
        def call() -> object:
            return forward(x)

        with _threads(self.threads), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.compile warns about parts of torch itself
            return warmed_up(call)

    def time(self, prepared: Loaded, repeats: int) -> NDArray[np.float64]:
        """Milliseconds per run, ``(repeats,)``, each the mean over the runs of one short sample."""
        with _threads(self.threads):
            return timed(prepared, repeats)


def _compiled(module: nn.Module) -> Callable[[torch.Tensor], object]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.compile(module)


class _threads:
    def __init__(self, n: int) -> None:
        self._wanted = n

    def __enter__(self) -> None:
        self._before = torch.get_num_threads()
        torch.set_num_threads(self._wanted)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._before)
