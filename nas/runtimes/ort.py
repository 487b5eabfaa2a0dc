"""ONNX Runtime on the CPU, fp32 and static int8."""

from __future__ import annotations

import copy
import os
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nas.deploy.to_onnx import onnx_model, quantized
from nas.errors import BadInput
from nas.runtimes.runtime import Device, cpu_name

SAMPLE_MS = 0.1
"""A timing sample covers as many runs as fill this, so that the clock's own cost does not count."""


@dataclass(frozen=True)
class _Session:
    """A loaded model with its inputs bound; ``runs``: how many make up one sample."""

    session: Any
    binding: Any
    runs: int


@dataclass(frozen=True, kw_only=True)
class OnnxRuntime:
    """ONNX Runtime's CPU provider. ``precision``: "fp32" or "int8"; ``threads``: intra-operator threads.

    Raises BadInput for another precision, or threads or batch below 1.
    """

    precision: str = "fp32"
    threads: int = 1
    batch: int = 1

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "int8"):
            raise BadInput(f"precision of ONNX Runtime is fp32 or int8, got {self.precision!r}")
        if self.threads < 1 or self.batch < 1:
            raise BadInput(f"threads and batch are at least 1, got {self.threads} and {self.batch}")

    @cached_property
    def device(self) -> Device:
        import onnxruntime as ort

        return Device(
            name=cpu_name(),
            chip=cpu_name(),
            runtime="onnxruntime",
            version=ort.__version__,
            precision=self.precision,
            batch=self.batch,
            threads=self.threads,
        )

    def prepare(self, network: nn.Module | Path, input_shape: tuple[int, int, int]) -> _Session:
        """Load ``network`` for timing.

        A module is exported (and for int8 quantized) with random weights and statistics: speed does not depend on
        them, except that freshly initialised ones are degenerate. A path is an ONNX file, timed as it is.
        """
        if isinstance(network, str | os.PathLike):
            return self.load(Path(network).read_bytes(), input_shape)
        return self.load(self.exported(network, input_shape).SerializeToString(), input_shape)

    def exported(self, network: nn.Module, input_shape: tuple[int, int, int]) -> Any:
        """The model that ``prepare`` times, as an ``onnx.ModelProto``."""
        model = onnx_model(_randomised(network), input_shape, batch=self.batch)
        if self.precision == "int8":
            noise = np.random.default_rng(0).standard_normal((2 * self.batch, *input_shape), dtype=np.float32)
            model = quantized(model, noise, batch=self.batch)
        return model

    def load(self, model: bytes, input_shape: tuple[int, int, int]) -> _Session:
        """A serialised model, warmed up."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        shape = (self.batch, *input_shape)
        x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        binding = session.io_binding()
        binding.bind_ortvalue_input(session.get_inputs()[0].name, ort.OrtValue.ortvalue_from_numpy(x))
        output = np.empty(session.get_outputs()[0].shape, dtype=np.float32)
        binding.bind_ortvalue_output(session.get_outputs()[0].name, ort.OrtValue.ortvalue_from_numpy(output))
        once = _Session(session, binding, 1)
        self.time(once, 3)
        one_ms = float(np.median(self.time(once, 5)))
        return _Session(session, binding, max(1, round(SAMPLE_MS / one_ms)))

    def time(self, prepared: _Session, repeats: int) -> NDArray[np.float64]:
        """Milliseconds per run, ``(repeats,)``, each the mean over the runs of one short sample."""
        run, binding, runs = prepared.session.run_with_iobinding, prepared.binding, range(prepared.runs)
        samples = np.empty(repeats)
        for i in range(repeats):
            start = time.perf_counter_ns()
            for _ in runs:
                run(binding)
            samples[i] = time.perf_counter_ns() - start
        return samples / (1e6 * prepared.runs)


def _randomised(network: nn.Module) -> nn.Module:
    random = copy.deepcopy(network).cpu().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*random.parameters(), *random.buffers()]:
            if tensor.dtype.is_floating_point:
                tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.1)
    return random
