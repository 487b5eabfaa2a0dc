"""ONNX in static int8 (QDQ), activations unsigned: the fastest form on x86."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from nas.data.images import ImageData
from nas.data.inputs import calibration_images
from nas.deploy.parity import input_shape_of, needed
from nas.deploy.to_onnx import export_onnx_int8


@dataclass(frozen=True, kw_only=True)
class OnnxInt8:
    suffix: str = ".onnx"
    precision: str = "int8"
    needs_data: bool = True
    symmetric_activations: bool = False

    def export(self, network: nn.Module, path: str | os.PathLike[str], data: ImageData | None = None) -> Path:
        images = calibration_images(needed(data), input_shape_of(network)[-1])
        return export_onnx_int8(network, path, images, symmetric_activations=self.symmetric_activations)


exporter = OnnxInt8()
