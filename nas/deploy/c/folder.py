"""A trained network as a folder of C: sources, ``Makefile`` and an example, checked on this machine before it is there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nas.checks import FilePath, checked
from nas.deploy.c import kernels
from nas.deploy.c.build import compiler, host_outputs
from nas.deploy.c.emit import text_of, write_sources
from nas.deploy.c.program import Map, Program, of_model
from nas.deploy.litert_file import from_integers, quantized, run_litert, to_integers
from nas.deploy.parity import INT8_SHOWN, Shape, check_int8, input_shape_of, torch_outputs, whole_batches
from nas.deploy.to_litert import channels_last, litert_model
from nas.errors import BadInput, NasError
from nas.files import replacing_folder

MARKER = "model.json"
STEPS = 0.5
"""Of the output's scale: how far outputs may on average be from those of LiteRT's reference kernels."""
COMPARED = 8
"""Images on which they are compared: those kernels are slow."""


@checked
def export_c(
    network: nn.Module,
    path: FilePath,
    images: NDArray[np.float32],
    *,
    classes: Sequence[str] = (),
    preprocessing: Mapping[str, Any] | None = None,
    input_shape: Shape | None = None,
    name: str = "model",
) -> Path:
    """Write a folder with ``network`` as C99: int8, no heap, no dependencies.

    ``images (n, c, h, w)`` set the activations' ranges. ``classes`` and ``preprocessing`` (``ImageData.preprocessing``)
    become tables: class names, and what the network takes for an image's bytes. ``name``: prefix of its functions.
    Raises BadInput for an operator without a kernel and for a path that cannot be written; NasError, and leaves what was
    there, without a C compiler to check with, and when outputs are not LiteRT's and the network's.
    """
    with replacing_folder(path, "folder of C", MARKER) as folder:
        shape = input_shape_of(network, input_shape)
        calibration = whole_batches(images, shape, 1)
        model = litert_model(network, shape)
        compiler()  # said before the work, not after
        model = quantized(model, channels_last(calibration))
        program = of_model(model)
        table = None if preprocessing is None else pixel_table(program.maps[program.input], preprocessing)
        _check_classes(program, classes)
        plan = write_sources(folder, program, name=name, classes=classes, pixels=table)
        _copy(folder, name)
        seen = _verified(f"{path} was not written", folder, network, model, program, calibration[:INT8_SHOWN], name)
        made = {
            "input_shape": shape,
            "classes": list(classes),
            "arena_bytes": plan.arena,
            "constant_bytes": sum(kernels.constant_bytes(program, op) for op in program.ops),
            "mean_steps_from_litert": seen,
        }
        (folder / MARKER).write_text(json.dumps(made, indent=2) + "\n")
    return Path(path)


def pixel_table(into: Map, preprocessing: Mapping[str, Any]) -> NDArray[np.int8]:
    """``(channels, 256)``: the int8 input for every byte of an image, as training normalised it.

    Raises BadInput for a mean or deviation of another number of channels.
    """
    mean, std = (np.array(preprocessing[key], np.float32)[:, None] for key in ("mean", "std"))
    if len(mean) != into.shape[2] or len(std) != into.shape[2]:
        raise BadInput(f"preprocessing is for {len(mean)} channel(s), the network takes {into.shape[2]}")
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    return to_integers(((levels - mean) / std).astype(np.float32), _details(into))


def _verified(
    failed: str,
    folder: Path,
    network: nn.Module,
    model: bytes,
    program: Program,
    images: NDArray[np.float32],
    name: str,
) -> float:
    """Mean distance from LiteRT's outputs in steps, when that is small and the outputs are the network's."""
    into, out = program.maps[program.input], program.maps[program.output]
    x = channels_last(images)
    seen = from_integers(host_outputs(folder, to_integers(x, _details(into)), name=name), _details(out))
    check_int8(failed, torch_outputs(network, images).reshape(seen.shape), seen)
    expected = run_litert(model, x[:COMPARED], reference=True).reshape(-1, seen.shape[1])
    steps = float(np.abs(seen[:COMPARED] - expected).mean() / out.scale)
    if not steps <= STEPS:
        raise NasError(f"{failed}: its outputs differ from LiteRT's by {steps:.2f} steps of int8 (allowed {STEPS})")
    return steps


def _details(seen: Map) -> dict[str, Any]:
    """As an interpreter describes a tensor."""
    return {"dtype": np.int8, "quantization": (seen.scale, seen.zero)}


def _check_classes(program: Program, classes: Sequence[str]) -> None:
    outputs = program.maps[program.output].bytes
    if len(classes) not in (0, outputs):
        raise BadInput(f"{len(classes)} class names for a network with {outputs} outputs")


def _copy(folder: Path, name: str) -> None:
    """What a folder has besides the network: its functions' names are the network's."""
    (folder / "example").mkdir()
    for file in ("Makefile", "example/main.c", "example/start.c", "example/board.ld"):
        own = text_of(file).replace("model", name).replace("MODEL", name.upper())
        (folder / file).write_text(own)
