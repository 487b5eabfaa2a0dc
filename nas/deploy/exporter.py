"""What an exporter is: a form in which a network leaves this library."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from torch import nn

from nas.data.images import ImageData


class Exporter(Protocol):
    """One form of deployed network, such as ONNX in int8.

    To add one, put a file into ``nas/deploy/exporters`` that ends in ``exporter = ...``: an object with the three
    attributes and the method below. The file's name is its name ("onnx_int8.py" is "onnx-int8"), in
    ``nas.deploy.names()`` and on the command line; nothing else is edited, and ``tests/test_deploy.py`` tests it.
    """

    @property
    def suffix(self) -> str:
        """Of the file, such as ".onnx"; "" for a folder."""

    @property
    def precision(self) -> str:
        """Of weights and activations: "fp32" or "int8"."""

    @property
    def needs_data(self) -> bool:
        """Whether ``export`` wants images: int8 for its ranges, a bundle for classes and preprocessing."""

    def export(self, network: nn.Module, path: str | os.PathLike[str], data: ImageData | None = None) -> Path:
        """Write ``network`` to ``path`` and return it; ``data``: what the network was trained on.

        The file appears under its name whole, and only after its outputs were found equal to the network's
        (``nas.deploy.parity``). Looks at training images only. Raises BadInput for a path that cannot be written and
        for data that are missing; NasError, leaving what was there, when the outputs differ.
        """
