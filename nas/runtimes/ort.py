"""ONNX Runtime on the CPU, fp32 and static int8."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nas.device import Device, cpu_name
from nas.runtimes.clock import Loaded, check_settings, timed, warmed_up
from nas.runtimes.timing_model import onnx_bytes


@dataclass(frozen=True, kw_only=True)
class OnnxRuntime:
    """ONNX Runtime's CPU provider. ``precision``: "fp32" or "int8"; ``threads``: intra-operator threads.

    Raises BadInput for another precision, or threads or batch below 1.
    """

    precision: str = "fp32"
    threads: int = 1
    batch: int = 1

    def __post_init__(self) -> None:
        check_settings("ONNX Runtime", self.precision, ("fp32", "int8"), self.threads, self.batch)

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

    def prepare(self, network: nn.Module | Path, input_shape: tuple[int, int, int]) -> Loaded:
        """Load ``network`` for timing: a module with random weights, or an ONNX file as it is."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        model = onnx_bytes(network, input_shape, precision=self.precision, batch=self.batch)
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        x = np.random.default_rng(0).standard_normal((self.batch, *input_shape), dtype=np.float32)
        binding = session.io_binding()
        binding.bind_ortvalue_input(session.get_inputs()[0].name, ort.OrtValue.ortvalue_from_numpy(x))
        output = np.empty(session.get_outputs()[0].shape, dtype=np.float32)
        binding.bind_ortvalue_output(session.get_outputs()[0].name, ort.OrtValue.ortvalue_from_numpy(output))
        return warmed_up(lambda: session.run_with_iobinding(binding), keeps=output)

    def time(self, prepared: Loaded, repeats: int) -> NDArray[np.float64]:
        """Milliseconds per run, ``(repeats,)``, each the mean over the runs of one short sample."""
        return timed(prepared, repeats)
