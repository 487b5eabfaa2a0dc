"""LiteRT (TensorFlow Lite) export, fp32 and full-integer int8, with outputs checked before a file gets its name.

A ``Network`` is written directly: 0.1 s instead of the 5 s of litert-torch's converter, and without its packages. Any
other module goes through the converter. Either way the file takes NHWC images, so that no transposition remains.
"""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nas.blocks import norm_of
from nas.checks import Batch, FilePath, checked
from nas.deploy.litert_file import flatbuffer, inlined, quantized, run_litert, silent
from nas.deploy.litert_graph import Weight, lowered
from nas.deploy.parity import Shape, input_shape_of, verify_fp32, verify_int8, whole_batches
from nas.deploy.to_onnx import quiet
from nas.errors import MissingPackage
from nas.files import writable, write_bytes
from nas.modules import BlockModule, Network, describe


@checked
def export_litert(
    network: nn.Module,
    path: FilePath,
    images: NDArray[np.float32] | None = None,
    *,
    input_shape: Shape | None = None,
    batch: Batch = 1,
) -> Path:
    """Write ``network`` as .tflite for inputs ``(batch, height, width, channels)``.

    Without ``images`` fp32; with ``images (n, c, h, w)`` full-integer int8 (per-channel weights, int8 in and out), their
    extremes setting the activations' ranges. ``input_shape``: (c, h, w), of a module that does not say its own.
    Raises BadInput for a path that cannot be written or images of another shape; NasError, and leaves what was there,
    when fp32 outputs differ from torch's by more than 1e-4 of the largest logit, or int8 ones have a cosine below 0.9.
    """
    path, shape = writable(path), input_shape_of(network, input_shape)
    calibration = None if images is None else whole_batches(images, shape, batch)
    failed = f"{path} was not written"
    model = litert_model(network, shape, batch=batch)
    verify_fp32(failed, network, functools.partial(_run, model), (batch, *shape))
    if calibration is not None:
        model = quantized(model, channels_last(calibration))
        verify_int8(failed, network, functools.partial(_run, model), calibration, batch)
    write_bytes(path, model)
    return path


def litert_model(network: nn.Module, input_shape: tuple[int, int, int], *, batch: int = 1) -> bytes:
    """``network`` as a serialised fp32 model for inputs ``(batch, h, w, c)``, in eval mode."""
    modules = _block_modules(network)
    if modules is None:
        return converted(network, input_shape, batch=batch)
    graph = lowered([describe(m) for m in modules], batch)
    return flatbuffer(graph, functools.partial(_values, modules))


def converted(network: nn.Module, input_shape: tuple[int, int, int], *, batch: int = 1) -> bytes:
    """``litert_model`` of any module, by litert-torch's converter (about 5 s). Raises MissingPackage without that."""
    with quiet(), silent():
        try:
            import litert_torch
        except ImportError:
            raise MissingPackage("litert-torch", "litert") from None
        plain = copy.deepcopy(network).eval().cpu()
        x = torch.zeros(batch, *input_shape)
        with torch.no_grad():
            flat = plain(x).ndim == 2
        last = litert_torch.to_channel_last_io(plain, args=[0], outputs=None if flat else [0]).eval()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.tflite"
            litert_torch.convert(last, (x.permute(0, 2, 3, 1).contiguous(),)).export(str(path))
            return inlined(path.read_bytes())


def channels_last(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(n, c, h, w)`` as ``(n, h, w, c)``."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def _block_modules(network: nn.Module) -> Sequence[BlockModule] | None:
    if isinstance(network, BlockModule):
        return [network]
    return list(network) if type(network) is Network else None  # type: ignore[arg-type]


def _values(modules: Sequence[BlockModule], weight: Weight) -> NDArray[np.float32]:
    """The values of one constant: batch norm folded into the convolution, axes in LiteRT's order."""
    kernel, bias = _folded(modules[weight.block], weight.part)
    match weight.layout:
        case "O":
            values = bias + weight.shift
        case "OI":
            values = kernel
        case "OHWI":
            values = kernel.permute(0, 2, 3, 1)
        case "1HWO":
            values = kernel.permute(1, 2, 3, 0)
        case other:
            raise ValueError(other)
    return np.ascontiguousarray(values.float().numpy())


def _folded(module: BlockModule, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    layer: Any = module.get_submodule(name)
    kernel = layer.weight.detach().cpu().double()
    bias = torch.zeros(len(kernel), dtype=torch.double) if layer.bias is None else layer.bias.detach().cpu().double()
    norm: Any = getattr(module, norm_of(name), None)
    if norm is None:
        return kernel, bias
    scale = norm.weight.detach().cpu().double() / torch.sqrt(norm.running_var.cpu().double() + norm.eps)
    folded = (bias - norm.running_mean.cpu().double()) * scale + norm.bias.detach().cpu().double()
    return kernel * scale.view(-1, 1, 1, 1), folded


def _run(model: bytes, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs for images ``(n, c, h, w)``, feature maps with their channels first as torch has them."""
    y = run_litert(model, channels_last(x))
    return y.transpose(0, 3, 1, 2) if y.ndim == 4 else y
