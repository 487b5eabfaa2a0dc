"""ONNX in fp32: what every runtime reads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from nas.data.images import ImageData
from nas.deploy.to_onnx import export_onnx


@dataclass(frozen=True, kw_only=True)
class Onnx:
    suffix: str = ".onnx"
    precision: str = "fp32"
    needs_data: bool = False

    def export(self, network: nn.Module, path: str | os.PathLike[str], data: ImageData | None = None) -> Path:
        return export_onnx(network, path)


exporter = Onnx()
