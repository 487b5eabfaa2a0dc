"""OpenVINO on the CPU, fp32 and int8. It reads the same ONNX files as ONNX Runtime, the int8 one in QDQ form."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nas.checks import checked
from nas.device import Device
from nas.errors import MissingPackage
from nas.on_device.clock import Loaded, warmed_up
from nas.runtimes.runtime import OnCPU, blaming, cpu_device
from nas.runtimes.timing_model import onnx_bytes

if TYPE_CHECKING:
    from torch import nn


@checked
@dataclass(frozen=True, kw_only=True)
class OpenVINO(OnCPU):
    """OpenVINO's CPU plugin, latency mode. MissingPackage without openvino."""

    name: ClassVar[str] = "openvino"
    reads_onnx: ClassVar[bool] = True

    @cached_property
    def device(self) -> Device:
        _openvino()
        return cpu_device(self, "openvino", importlib.metadata.version("openvino"))

    def prepare(self, network: nn.Module | Path, input_shape: tuple[int, int, int]) -> Loaded:
        """Load ``network`` for timing: a module with random weights, or an ONNX file as it is."""
        core = _core()
        content = onnx_bytes(network, input_shape, precision=self.precision, batch=self.batch)
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",  # or bf16 is chosen where the CPU has it
        }
        x = np.random.default_rng(0).standard_normal((self.batch, *input_shape), dtype=np.float32)
        with blaming(network):
            compiled = core.compile_model(core.read_model(content), "CPU", settings)
            request = compiled.create_infer_request()
            request.get_input_tensor().data[...] = x
            return warmed_up(lambda: request.infer(share_outputs=True), keeps=compiled)


@cache
def _core() -> Any:
    return _openvino().Core()


def _openvino() -> Any:
    try:
        import openvino
    except ImportError:
        raise MissingPackage("openvino", "openvino") from None
    return openvino
