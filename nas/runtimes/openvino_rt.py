"""OpenVINO on the CPU, fp32 and int8. It reads the same ONNX files as ONNX Runtime, the int8 one in QDQ form."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nas.device import Device, cpu_name
from nas.errors import MissingPackage
from nas.runtimes.clock import Loaded, check_settings, timed, warmed_up
from nas.runtimes.timing_model import onnx_bytes


@dataclass(frozen=True, kw_only=True)
class OpenVINO:
    """OpenVINO's CPU plugin, latency mode. ``precision``: "fp32" or "int8".

    Raises BadInput for another precision, or threads or batch below 1; MissingPackage without openvino.
    """

    precision: str = "fp32"
    threads: int = 1
    batch: int = 1

    def __post_init__(self) -> None:
        check_settings("OpenVINO", self.precision, ("fp32", "int8"), self.threads, self.batch)

    @cached_property
    def device(self) -> Device:
        _openvino()
        return Device(
            name=cpu_name(),
            chip=cpu_name(),
            runtime="openvino",
            version=importlib.metadata.version("openvino"),
            precision=self.precision,
            batch=self.batch,
            threads=self.threads,
        )

    def prepare(self, network: nn.Module | Path, input_shape: tuple[int, int, int]) -> Loaded:
        """Load ``network`` for timing: a module with random weights, or an ONNX file as it is."""
        core = _core()
        model = core.read_model(onnx_bytes(network, input_shape, precision=self.precision, batch=self.batch))
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": self.threads,
                "NUM_STREAMS": 1,
                "INFERENCE_PRECISION_HINT": "f32",  # or bf16 is chosen where the CPU has it
            },
        )
        request = compiled.create_infer_request()
        request.get_input_tensor().data[...] = np.random.default_rng(0).standard_normal(
            (self.batch, *input_shape), dtype=np.float32
        )
        return warmed_up(lambda: request.infer(share_outputs=True), keeps=compiled)

    def time(self, prepared: Loaded, repeats: int) -> NDArray[np.float64]:
        """Milliseconds per run, ``(repeats,)``, each the mean over the runs of one short sample."""
        return timed(prepared, repeats)


@cache
def _core() -> Any:
    return _openvino().Core()


def _openvino() -> Any:
    try:
        import openvino
    except ImportError:
        raise MissingPackage("openvino", "openvino") from None
    return openvino
