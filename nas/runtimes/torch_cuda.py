"""PyTorch on an NVIDIA GPU: CUDA graphs, fp32 or fp16, channels last.

A CUDA graph replays the recorded kernels without Python or launch overhead, which is what a deployed engine does; at
batch 1 the launches would otherwise be most of the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, get_args

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from nas.checks import Batch, checked
from nas.device import Device
from nas.errors import BadInput
from nas.on_device.clock import Loaded
from nas.runtimes.timing_model import randomised
from nas.runtimes.torch_cpu import as_module

if TYPE_CHECKING:
    from torch import nn

Fp32OrFp16 = Literal["fp32", "fp16"]

_WARM_UP = 5  # on a side stream, as CUDA graphs demand
_SAMPLE_MS = 1.0  # events resolve about half a microsecond


@checked
@dataclass(frozen=True, kw_only=True)
class TorchCUDA:
    """One CUDA device. ``precision``: fp32 has TF32 off. ``graphs``: False runs eagerly, launches included.

    Its device and networks raise BadInput without such a GPU.
    """

    name: ClassVar[str] = "cuda"
    precisions: ClassVar[tuple[str, ...]] = get_args(Fp32OrFp16)

    precision: Fp32OrFp16 = "fp32"
    batch: Batch = 1
    graphs: bool = True
    index: Annotated[int, Meta(ge=0, le=1023)] = 0

    @cached_property
    def device(self) -> Device:
        import torch

        self._check()
        name = torch.cuda.get_device_name(self.index)
        return Device(
            name=name,
            chip=name,
            runtime="torch-cuda-graph" if self.graphs else "torch-cuda",
            version=f"{torch.__version__} cuDNN {torch.backends.cudnn.version()}",
            precision=self.precision,
            batch=self.batch,
        )

    def prepare(self, network: nn.Module | Path, input_shape: tuple[int, int, int]) -> Loaded:
        """Load a module for timing, with random weights. Raises BadInput for a file."""
        import torch

        given = as_module(network)
        self._check()
        kind = torch.float16 if self.precision == "fp16" else torch.float32
        where = torch.device("cuda", self.index)
        with torch.inference_mode(), torch.cuda.device(where), torch.backends.cudnn.flags(allow_tf32=False):
            module = randomised(given).to(where, kind, memory_format=torch.channels_last)  # type: ignore[call-overload]
            x = torch.randn(self.batch, *input_shape, device=where, dtype=kind)
            x = x.to(memory_format=torch.channels_last)
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP):
                    module(x)
            torch.cuda.current_stream().wait_stream(side)
            graph = None
            if self.graphs:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    output = module(x)
                call = graph.replay
            else:
                output = None

                def call() -> None:
                    with torch.inference_mode():
                        module(x)

        once = Loaded(call, 1, (module, x, output, graph))
        one_ms = float(np.median(self.time(once, 8)))
        return Loaded(call, max(1, round(_SAMPLE_MS / one_ms)), once.keeps)

    def time(self, prepared: Loaded, repeats: int) -> NDArray[np.float64]:
        """Milliseconds per run, ``(repeats,)``, by CUDA events around samples of several runs."""
        import torch

        samples = np.empty(repeats)
        with torch.cuda.device(self.index):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            for i in range(repeats):
                begin.record()
                for _ in range(prepared.runs):
                    prepared.call()
                end.record()
                end.synchronize()
                samples[i] = begin.elapsed_time(end)
        return samples / prepared.runs

    def _check(self) -> None:
        import torch

        if not torch.cuda.is_available():
            raise BadInput("no NVIDIA GPU that this build of torch can use (torch.cuda.is_available() is False)")
        if self.index >= torch.cuda.device_count():
            raise BadInput(f"there is no GPU {self.index}; there are {torch.cuda.device_count()}")
