"""ONNX in fp32: what every runtime reads. And the class of its int8 forms."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from nas.data.images import ImageData
from nas.deploy.parity import calibration_of
from nas.deploy.to_onnx import export_onnx, export_onnx_int8


@dataclass(frozen=True, kw_only=True)
class Onnx:
    precision: str = "fp32"
    symmetric_activations: bool = False
    suffix: str = ".onnx"

    @property
    def needs_data(self) -> bool:
        return self.precision == "int8"

    def export(self, network: nn.Module, path: str | os.PathLike[str], data: ImageData | None = None) -> Path:
        if not self.needs_data:
            return export_onnx(network, path)
        images = calibration_of(network, data)
        return export_onnx_int8(network, path, images, symmetric_activations=self.symmetric_activations)


exporter = Onnx()
