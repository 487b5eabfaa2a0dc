"""A folder with the network as plain PyTorch source, weights and preprocessing, free of this library."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from nas.data.images import ImageData
from nas.deploy.bundle import export_bundle
from nas.deploy.parity import input_shape_of, needed


@dataclass(frozen=True, kw_only=True)
class Bundle:
    suffix: str = ""
    precision: str = "fp32"
    needs_data: bool = True

    def export(self, network: nn.Module, path: str | os.PathLike[str], data: ImageData | None = None) -> Path:
        data = needed(data)
        preprocessing = data.preprocessing(input_shape_of(network)[-1])
        return export_bundle(network, path, classes=data.classes, preprocessing=preprocessing)


exporter = Bundle()
