"""PyTorch on the CPU, eager or compiled. For networks this small it is several times slower than ONNX Runtime."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from nas.checks import Batch, Threads, checked
from nas.device import Device
from nas.errors import BadInput
from nas.on_device.clock import Loaded, timed, warmed_up
from nas.runtimes.runtime import cpu_device
from nas.runtimes.timing_model import randomised

if TYPE_CHECKING:
    from torch import nn


@checked
@dataclass(frozen=True, kw_only=True)
class TorchCPU:
    """fp32, channels last. ``compiled``: through ``torch.compile``, about 10 s per network.

    ``threads`` sets torch's threads for the whole process while a network runs.
    """

    name: ClassVar[str] = "torch"
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    precision: ClassVar[str] = "fp32"

    compiled: bool = False
    threads: Threads = 1
    batch: Batch = 1

    @cached_property
    def device(self) -> Device:
        import torch

        return cpu_device(self, "torch-compiled" if self.compiled else "torch", torch.__version__)

    def prepare(self, network: nn.Module | Path, input_shape: tuple[int, int, int]) -> Loaded:
        """Load a module for timing, with random weights. Raises BadInput for a file."""
        import torch

        module = randomised(as_module(network)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
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
            return np.array(timed(prepared, repeats))


@checked
@dataclass(frozen=True, kw_only=True)
class TorchCompiled(TorchCPU):
    """``TorchCPU(compiled=True)``, by its name on the command line."""

    name: ClassVar[str] = "torch-compiled"

    compiled: bool = True


def as_module(network: nn.Module | Path) -> nn.Module:
    """Raises BadInput for what is not a torch module, such as a file."""
    from torch import nn

    if not isinstance(network, nn.Module):
        raise BadInput(f"torch times modules, not files such as {network}")
    return network


def _compiled(module: nn.Module) -> Callable[..., object]:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.compile(module)


@contextlib.contextmanager
def _threads(wanted: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
