"""LiteRT (.tflite) in fp32, for phones."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from nas.data.images import ImageData
from nas.deploy.to_litert import to_litert


@dataclass(frozen=True, kw_only=True)
class LiteRT:
    suffix: str = ".tflite"
    precision: str = "fp32"
    needs_data: bool = False

    def export(self, network: nn.Module, path: str | os.PathLike[str], data: ImageData | None = None) -> Path:
        return to_litert(network, path)


exporter = LiteRT()
