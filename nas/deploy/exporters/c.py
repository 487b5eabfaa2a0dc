"""A folder of C99 in int8, for Cortex-M and any other C compiler: no heap, no dependencies."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from nas.data.images import ImageData
from nas.deploy.c.folder import export_c
from nas.deploy.parity import calibration_of, input_shape_of


@dataclass(frozen=True, kw_only=True)
class C:
    suffix: str = ""
    precision: str = "int8"
    needs_data: bool = True

    def export(self, network: nn.Module, path: str | os.PathLike[str], data: ImageData | None = None) -> Path:
        images = calibration_of(network, data)
        assert data is not None  # calibration_of refuses that
        preprocessing = data.preprocessing(input_shape_of(network)[-1])
        return export_c(network, path, images, classes=data.classes, preprocessing=preprocessing)


exporter = C()
