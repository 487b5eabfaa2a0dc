"""ONNX Runtime on the CPU, fp32 and static int8."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from nas.checks import checked
from nas.device import Device
from nas.on_device.clock import Loaded
from nas.on_device.worker import load
from nas.runtimes.runtime import OnCPU, blaming, cpu_device
from nas.runtimes.timing_model import onnx_bytes

if TYPE_CHECKING:
    from torch import nn


@checked
@dataclass(frozen=True, kw_only=True)
class OnnxRuntime(OnCPU):
    """ONNX Runtime's CPU provider. ``threads``: intra-operator threads."""

    name: ClassVar[str] = "onnxruntime"
    reads_onnx: ClassVar[bool] = True

    @cached_property
    def device(self) -> Device:
        import onnxruntime as ort

        return cpu_device(self, "onnxruntime", ort.__version__)

    def prepare(self, network: nn.Module | Path, input_shape: tuple[int, int, int]) -> Loaded:
        """Load ``network`` for timing: a module with random weights, or an ONNX file as it is."""
        model = onnx_bytes(network, input_shape, precision=self.precision, batch=self.batch)
        with blaming(network):
            return load(model, (self.batch, *input_shape), self.threads)
