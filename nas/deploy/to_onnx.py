"""ONNX export, fp32 and static int8, with outputs checked before a file gets its name."""

from __future__ import annotations

import copy
import functools
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nas.checks import Batch, FilePath, checked
from nas.deploy.parity import Shape, input_shape_of, verify_fp32, verify_int8, whole_batches
from nas.files import writable, write_bytes

OPSET = 17
INPUT, OUTPUT = "input", "logits"


@checked
def export_onnx(
    network: nn.Module,
    path: FilePath,
    *,
    input_shape: Shape | None = None,
    batch: Batch = 1,
) -> Path:
    """Write ``network`` as fp32 ONNX for inputs ``(batch, *input_shape)``; batch norm is folded into convolutions.

    Raises BadInput when ``path`` cannot be written; NasError, and leaves what was there, when ONNX Runtime's outputs
    differ from torch's by more than 1e-4 of the largest logit.
    """
    path, shape = writable(path), input_shape_of(network, input_shape)
    model = onnx_model(network, shape, batch=batch).SerializeToString()
    verify_fp32(f"{path} was not written", network, lambda x: run_onnx(model, x, batch), (batch, *shape))
    write_bytes(path, model)
    return path


@checked
def export_onnx_int8(
    network: nn.Module,
    path: FilePath,
    calibration: NDArray[np.float32],
    *,
    symmetric_activations: bool = False,
    batch: Batch = 1,
) -> Path:
    """Write ``network`` as static int8 ONNX (QDQ): weights int8 per channel, activations uint8 per tensor.

    ``calibration (n, c, h, w)``: inputs whose extremes set the activations' ranges. ``symmetric_activations``: int8
    activations with zero point 0, as TensorRT and microcontrollers want them; slower on x86.
    Raises BadInput for a path that cannot be written or images of another shape; NasError, and leaves what was there,
    when int8 outputs and torch's on the calibration images have a cosine below 0.9.
    """
    path = writable(path)
    write_bytes(path, onnx_int8(network, calibration, symmetric_activations=symmetric_activations, batch=batch))
    return path


def onnx_int8(
    network: nn.Module, calibration: NDArray[np.float32], *, symmetric_activations: bool = False, batch: int = 1
) -> bytes:
    """What ``export_onnx_int8`` writes, checked in the same way; ``calibration (n, c, h, w)``."""
    images = whole_batches(calibration, getattr(network, "input_shape", None), batch)
    shape = images.shape[1:]
    fp32 = onnx_model(network, shape, batch=batch)
    model: bytes = quantized(fp32, images, symmetric_activations=symmetric_activations, batch=batch).SerializeToString()
    verify_int8("quantization failed", network, lambda x: run_onnx(model, x, batch), images, batch)
    return model


def onnx_model(network: nn.Module, input_shape: tuple[int, int, int], *, batch: int = 1) -> Any:
    """``network`` as an ``onnx.ModelProto`` for inputs ``(batch, *input_shape)``, in eval mode, weights copied."""
    import onnx

    buffer = io.BytesIO()
    plain = copy.deepcopy(network).eval().cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with quiet():
        torch.onnx.export(
            plain,
            (torch.zeros(batch, *input_shape),),
            buffer,  # type: ignore[arg-type]
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamo=False,  # 20 times faster than the new exporter on a single block, and a campaign exports hundreds
        )
    model = onnx.load_from_string(buffer.getvalue())
    if any(node.op_type == "Pad" for node in model.graph.node):
        _pad_in_convolutions(model.graph)
    _unshare_initializers(model)
    return model


def quantized(
    model: Any, calibration: NDArray[np.float32], *, symmetric_activations: bool = False, batch: int = 1
) -> Any:
    """``model`` (an ``onnx.ModelProto`` from ``onnx_model``, left as it is) quantized to static int8.

    The extremes of ``calibration (n, c, h, w)`` set the activations' ranges; what fills no whole batch is left out.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            whole = len(calibration) // batch * batch
            self.rows = iter(calibration[:whole].reshape(-1, batch, *calibration.shape[1:]))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            rows = next(self.rows, None)
            return None if rows is None else {INPUT: np.ascontiguousarray(rows)}

    reduced = not symmetric_activations and weight_limit() < 127
    with tempfile.TemporaryDirectory(dir=_memory_folder()) as folder, quiet():
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        # a path, not the model itself: quantize_static would move the caller's weights out to files
        source.write_bytes(model.SerializeToString())
        quantize_static(
            source,
            target,
            Images(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduced,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QInt8 if symmetric_activations else QuantType.QUInt8,
            extra_options={"ActivationSymmetric": symmetric_activations}
            | ({"TensorQuantOverrides": _whole_range(model)} if reduced else {}),
        )
        return onnx.load(target)


def weight_limit(*, depthwise: bool = False) -> int:
    """The largest integer of a weight beside unsigned activations: 127, or 64 on an x86 CPU without VNNI.

    There ONNX Runtime adds pairs of products in 16 bits, which larger weights overflow in silence; but not in depthwise
    convolutions, whose weights vary most and need every bit.
    """
    return 127 if depthwise else _dense_limit()


@functools.cache
def _dense_limit() -> int:
    try:
        flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):  # not Linux, or not x86
        return 127
    return 127 if "vnni" in flags else 64


def _whole_range(model: Any) -> dict[str, list[dict[str, Any]]]:
    """What tells the quantizer to leave the weights of depthwise convolutions their 8 bits."""
    from onnxruntime.quantization import QuantType

    whole = {"quant_type": QuantType.QInt8, "axis": 0, "symmetric": True, "reduce_range": False}
    groups = {
        n.input[1]: a.i for n in model.graph.node if n.op_type == "Conv" for a in n.attribute if a.name == "group"
    }
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    return {name: [dict(whole)] for name, g in groups.items() if g > 1 and g == weights[name][0]}


def run_onnx(model: bytes, x: NDArray[np.float32], batch: int = 1) -> NDArray[np.float32]:
    """Outputs of a serialised model for ``x (n, c, h, w)``, ``batch`` rows at a time (n a multiple of it)."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    step = batch if batch > 1 else 1
    return np.concatenate([session.run(None, {name: x[i : i + step]})[0] for i in range(0, len(x), step)])


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's and the quantizer's deprecation notices and advice out of the user's terminal."""
    previous, handlers = logging.root.manager.disable, list(logging.root.handlers)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
        logging.root.handlers[:] = handlers  # their calls of logging.warning() install one


def _pad_in_convolutions(graph: Any) -> None:
    """Asymmetric padding, which torch's convolution lacks, becomes the ``pads`` of ONNX's: its own node would cost time."""
    made = {output: node for node in graph.node for output in node.output}
    for conv in [node for node in graph.node if node.op_type == "Conv"]:
        pad = made.get(conv.input[0])
        zeros = None if pad is None or pad.op_type != "Pad" else _zeros(graph, pad)
        if pad is None or zeros is None:
            continue
        own = next(attribute for attribute in conv.attribute if attribute.name == "pads")
        own.ints[:] = [a + b for a, b in zip(own.ints, zeros, strict=True)]
        conv.input[0] = pad.input[0]
    wanted = {output.name for output in graph.output}
    for node in reversed(graph.node):
        if wanted.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            wanted.update(node.input)


def _zeros(graph: Any, pad: Any) -> list[int] | None:
    """How many zeros a ``Pad`` puts around an image, as a convolution's ``pads``; None when it does something else."""
    mode = next((attribute.s for attribute in pad.attribute if attribute.name == "mode"), b"constant")
    amounts, *filled = [_constant(graph, name) for name in pad.input[1:3] if name]
    if mode != b"constant" or amounts is None or any(value is None or value.any() for value in filled):
        return None
    each = amounts.reshape(2, -1)  # before and after, of every axis
    return None if each[:, :2].any() else [int(amount) for amount in each[:, 2:].ravel()]


def _constant(graph: Any, name: str) -> NDArray[Any] | None:
    """The value of a tensor, None when it depends on the input. torch writes how padding is worked out, not the padding."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    wanted = {name}
    nodes: list[Any] = []
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output):
            wanted.update(node.input)
            nodes.insert(0, node)
    if any(entry.name in wanted for entry in graph.input):
        return None
    constants = [tensor for tensor in graph.initializer if tensor.name in wanted]
    part = helper.make_graph(nodes, "constant", [], [helper.make_empty_tensor_value_info(name)], constants)
    model = helper.make_model(part, opset_imports=[helper.make_opsetid("", OPSET)])
    return np.asarray(ReferenceEvaluator(model).run(None, {})[0])  # type: ignore[index]


def _unshare_initializers(model: Any) -> None:
    # The exporter merges equal tensors. Two convolutions with one bias cannot both quantize it with their own
    # scale, and ONNX Runtime then leaves them in float: six times slower (seen with all-zero biases).
    taken: set[str] = set()
    by_name = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name not in by_name:
                continue
            if name in taken:
                twin = copy.deepcopy(by_name[name])
                twin.name = node.input[i] = f"{name}_of_{node.name or len(taken)}_{i}"
                model.graph.initializer.append(twin)
            taken.add(node.input[i])


def _memory_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
