"""LiteRT (.tflite) in fp32, for phones. And the class of its int8 form."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from nas.data.images import ImageData
from nas.deploy.parity import calibration_of
from nas.deploy.to_litert import export_litert


@dataclass(frozen=True, kw_only=True)
class LiteRT:
    precision: str = "fp32"
    suffix: str = ".tflite"

    @property
    def needs_data(self) -> bool:
        return self.precision == "int8"

    def export(self, network: nn.Module, path: str | os.PathLike[str], data: ImageData | None = None) -> Path:
        return export_litert(network, path, calibration_of(network, data) if self.needs_data else None)


exporter = LiteRT()
