"""LiteRT flatbuffers (.tflite): written from a graph of operators, quantized to int8, re-packed, run."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.deploy.litert_graph import Graph, Op, Weight
from nas.deploy.to_onnx import quiet
from nas.errors import MissingPackage, NasError

ALIGNMENT = 16
"""Bytes; constants are read in place, and a Cortex-M faults on (or crawls over) unaligned words."""

_OPTIONS = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "ADD": "AddOptions",
    "MUL": "MulOptions",
    "MEAN": "ReducerOptions",
    "PAD": "PadOptions",
    "RESHAPE": "ReshapeOptions",
    "TRANSPOSE": "TransposeOptions",
    "HARD_SWISH": "HardSwishOptions",
}
_VERSIONS = {"FULLY_CONNECTED": 5, "TRANSPOSE": 4}  # of the operator's definition, as litert-torch writes them


def flatbuffer(graph: Graph, weights: Callable[[Weight], NDArray[np.float32]]) -> bytes:
    """``graph`` as an fp32 .tflite; ``weights`` gives the values of each named constant, in its layout."""
    schema = tflite_schema()
    model = schema.ModelT()
    model.version, model.description = 3, b"nas"
    model.buffers = [schema.BufferT()]  # the first is empty, and means "computed"
    kinds = sorted({op.kind for op in graph.ops})
    model.operatorCodes = [_operator_code(kind) for kind in kinds]
    subgraph = schema.SubGraphT()
    subgraph.name = b"main"
    subgraph.tensors = []
    for i, tensor in enumerate(graph.tensors):
        written = schema.TensorT()
        written.name = b"input" if i == graph.input else b"output" if i == graph.output else f"t{i}".encode()
        written.shape = np.array(tensor.shape, np.int32)
        written.type = schema.TensorType.FLOAT32
        written.buffer = 0
        if tensor.constant is not None:
            values = weights(tensor.constant) if isinstance(tensor.constant, Weight) else tensor.constant
            assert values.shape == tensor.shape, (tensor, values.shape)
            written.type = schema.TensorType.INT32 if values.dtype == np.int32 else schema.TensorType.FLOAT32
            written.buffer = len(model.buffers)
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
            model.buffers.append(buffer)
        subgraph.tensors.append(written)
    subgraph.operators = [_operator(op, kinds.index(op.kind)) for op in graph.ops]
    subgraph.inputs, subgraph.outputs = [graph.input], [graph.output]
    model.subgraphs = [subgraph]
    model.signatureDefs = [_signature(graph)]
    return _packed(model)


def quantized(model: bytes, images: NDArray[np.float32]) -> bytes:
    """``model`` as full-integer int8: weights per channel, activations per tensor, int8 in and out, constants inline.

    ``images (n, h, w, c)``, as the model takes them, n a multiple of its batch: their extremes set the activations'
    ranges.
    """
    recipes, quantizer = _quantizer()
    batch = int(interpreter(model).get_input_details()[0]["shape"][0])
    rows = images.reshape(-1, batch, *images.shape[1:])
    with tempfile.TemporaryDirectory() as folder, quiet(), silent():
        source = Path(folder) / "fp32.tflite"
        source.write_bytes(model)
        quantization = quantizer.Quantizer(str(source), recipes.static_wi8_ai8())
        name = next(iter(interpreter(model).get_signature_list().values()))["inputs"][0]
        ranges = quantization.calibrate({"serving_default": [{name: row} for row in rows]})
        result = quantization.quantize(ranges)
        return inlined(bytes(result.quantized_model))


def inlined(model: bytes) -> bytes:
    """``model`` with every constant inside the flatbuffer.

    ai-edge-quantizer appends constants behind it and stores offsets. TensorFlow Lite Micro does not know those: it
    reads nothing there, says nothing, and computes with whatever it has.
    """
    unpacked = tflite_schema().ModelT.InitFromPackedBuf(model, 0)
    for buffer in unpacked.buffers:
        if buffer.offset > 1:  # 1 is a placeholder for "not here"
            buffer.data = np.frombuffer(model, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
        elif buffer.data is not None:
            buffer.data = np.asarray(buffer.data, np.uint8)
    return _packed(unpacked)


def interpreter(model: bytes, threads: int = 1, *, reference: bool = False) -> Any:
    """A LiteRT interpreter (CPU, XNNPACK; ``reference``: the plain kernels) of a serialised model, tensors allocated.

    Raises NasError for a model that LiteRT cannot load, MissingPackage without ai-edge-litert.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError:
        raise MissingPackage("ai-edge-litert", "litert") from None
    kernels = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
    with silent():
        try:
            loaded = Interpreter(model_content=model, num_threads=threads, experimental_op_resolver_type=kernels)
            loaded.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise NasError(f"LiteRT cannot load the model: {str(error).splitlines()[0]}") from None
    return loaded


def run_litert(model: bytes, x: NDArray[np.float32], *, reference: bool = False) -> NDArray[np.float32]:
    """Outputs of a serialised model for ``x (n, h, w, c)``, n a multiple of its batch; int8 ones are (de)quantized."""
    loaded = interpreter(model, reference=reference)
    into, out = loaded.get_input_details()[0], loaded.get_output_details()[0]
    results = []
    for row in x.reshape(-1, *into["shape"]):
        loaded.set_tensor(into["index"], to_integers(row, into))
        loaded.invoke()
        results.append(from_integers(loaded.get_tensor(out["index"]), out))
    return np.concatenate(results)


def to_integers(x: NDArray[np.float32], details: dict[str, Any]) -> NDArray[Any]:
    """``x (batch, ...)`` as the tensor that ``details`` (an interpreter's) describes takes it: rounded to int8 if need be."""
    if details["dtype"] == np.float32:
        return x
    scale, zero = details["quantization"]
    return np.clip(np.round(x / scale) + zero, -128, 127).astype(np.int8)


def from_integers(x: NDArray[Any], details: dict[str, Any]) -> NDArray[np.float32]:
    """The inverse of ``to_integers``: ``x (batch, ...)`` as float32."""
    if details["dtype"] == np.float32:
        return x
    scale, zero = details["quantization"]
    return ((x.astype(np.float32) - zero) * scale).astype(np.float32)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep what native libraries write to the process's own stdout and stderr out of the user's terminal."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for descriptor in (nowhere, *kept):
            os.close(descriptor)


def _packed(model: Any) -> bytes:
    import flatbuffers

    class Aligned(flatbuffers.Builder):
        """Aligns byte vectors, which in a model are the constants; the generated code leaves them unaligned."""

        def CreateNumpyVector(self: Any, x: NDArray[Any]) -> int:
            if x.dtype != np.uint8:
                return super().CreateNumpyVector(x)
            self.StartVector(1, x.size, ALIGNMENT)
            self.head = self.head - x.size
            self.Bytes[self.head : self.head + x.size] = x.tobytes()
            return self.EndVector()

    builder = Aligned(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _operator_code(kind: str) -> Any:
    schema = tflite_schema()
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
    code.version = _VERSIONS.get(kind, 1)
    return code


def _operator(op: Op, code: int) -> Any:
    schema = tflite_schema()
    written = schema.OperatorT()
    written.opcodeIndex = code
    written.inputs, written.outputs = list(op.inputs), [op.output]
    if kind := _OPTIONS.get(op.kind):
        options = getattr(schema, f"{kind}T")()
        enums = {"padding": schema.Padding, "fusedActivationFunction": schema.ActivationFunctionType}
        for name, value in op.options.items():
            setattr(options, name, getattr(enums[name], value) if isinstance(value, str) else value)
        for name in ("dilationWFactor", "dilationHFactor"):
            if hasattr(options, name):
                setattr(options, name, 1)
        written.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        written.builtinOptions = options
    return written


def _signature(graph: Graph) -> Any:
    schema = tflite_schema()
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
    for side, name, tensor in (("inputs", b"input", graph.input), ("outputs", b"output", graph.output)):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, tensor
        setattr(signature, side, [entry])
    return signature


def tflite_schema() -> Any:
    """The classes of the .tflite format. Raises MissingPackage without ai-edge-litert."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:
        raise MissingPackage("ai-edge-litert", "litert") from None
    return schema_py_generated


def _quantizer() -> tuple[Any, Any]:
    with quiet(), silent():
        try:
            from ai_edge_quantizer import quantizer, recipe
        except ImportError:
            raise MissingPackage("ai-edge-quantizer", "litert") from None
    return recipe, quantizer
