"""LiteRT (.tflite) in full-integer int8, for phones and microcontrollers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from nas.data.images import ImageData
from nas.data.inputs import calibration_images
from nas.deploy.parity import input_shape_of, needed
from nas.deploy.to_litert import to_litert


@dataclass(frozen=True, kw_only=True)
class LiteRTInt8:
    suffix: str = ".tflite"
    precision: str = "int8"
    needs_data: bool = True

    def export(self, network: nn.Module, path: str | os.PathLike[str], data: ImageData | None = None) -> Path:
        return to_litert(network, path, calibration_images(needed(data), input_shape_of(network)[-1]))


exporter = LiteRTInt8()
