"""An int8 .tflite as a ``Graph`` with its constants, and how every tensor is quantized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.deploy.litert_file import inlined, interpreter, tflite_schema
from nas.deploy.litert_graph import Graph, Op, Tensor
from nas.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """Real numbers are ``scales * (integers - zero)``; ``scales (channels,)``, or ``(1,)`` for a whole tensor."""

    scales: NDArray[np.float32]
    zero: int

    @property
    def scale(self) -> float:
        return float(self.scales[0])


def read(model: bytes) -> tuple[Graph, list[Quantized | None]]:
    """The graph of a serialised model of batch 1, and each tensor's quantization.

    Raises NasError for what LiteRT cannot load, BadInput for a network that is not int8 or takes more than one image.
    """
    interpreter(model)  # it verifies the file; reading does not
    written = tflite_schema().ModelT.InitFromPackedBuf(inlined(model), 0)
    subgraph = written.subgraphs[0]
    if len(subgraph.inputs) != 1 or len(subgraph.outputs) != 1:
        raise BadInput(
            f"a network for C has one input and one output, this has {len(subgraph.inputs)} and {len(subgraph.outputs)}"
        )
    tensors = [_tensor(t, written.buffers) for t in subgraph.tensors]
    for end in (subgraph.inputs[0], subgraph.outputs[0]):
        _check_int8(subgraph.tensors[end])
    ops = [_op(op, written.operatorCodes) for op in subgraph.operators]
    graph = Graph(
        tensors=tuple(tensors), ops=tuple(ops), input=int(subgraph.inputs[0]), output=int(subgraph.outputs[0])
    )
    if graph.tensors[graph.input].shape[0] != 1:
        raise BadInput(f"C code takes one image at a time, this network {graph.tensors[graph.input].shape[0]}")
    return graph, [_quantized(t) for t in subgraph.tensors]


def _tensor(tensor: Any, buffers: Any) -> Tensor:
    schema = tflite_schema()
    shape = () if tensor.shape is None else tuple(int(n) for n in tensor.shape)
    data = buffers[tensor.buffer].data
    if data is None or not len(data):
        return Tensor(shape=shape)
    kinds = {schema.TensorType.INT8: np.int8, schema.TensorType.INT32: np.int32, schema.TensorType.FLOAT32: np.float32}
    if tensor.type not in kinds:
        return Tensor(shape=shape, constant=np.asarray(data, np.uint8))
    return Tensor(shape=shape, constant=np.frombuffer(bytes(data), kinds[tensor.type]).reshape(shape))


def _quantized(tensor: Any) -> Quantized | None:
    q = tensor.quantization
    if q is None or q.scale is None or not len(q.scale):
        return None
    zeros = {int(z) for z in q.zeroPoint} if q.zeroPoint is not None else {0}
    return Quantized(scales=np.asarray(q.scale, np.float32), zero=zeros.pop())


def _check_int8(tensor: Any) -> None:
    schema = tflite_schema()
    if tensor.type != schema.TensorType.INT8:
        names = {v: k for k, v in vars(schema.TensorType).items() if isinstance(v, int)}
        raise BadInput(
            f"C code takes int8 networks, this one's input or output is {names.get(tensor.type, '?').lower()}"
        )


def _op(op: Any, codes: Any) -> Op:
    schema = tflite_schema()
    code = codes[op.opcodeIndex]
    kinds = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    options = dict(vars(op.builtinOptions)) if op.builtinOptions else {}
    for field, enum in (("padding", schema.Padding), ("fusedActivationFunction", schema.ActivationFunctionType)):
        if field in options:
            options[field] = next(k for k, v in vars(enum).items() if v == options[field] and isinstance(v, int))
    # an older file has its kind in the deprecated field; new kinds do not fit into it
    kind = kinds.get(max(code.builtinCode, code.deprecatedBuiltinCode), "unknown")
    return Op(kind=kind, inputs=tuple(map(int, op.inputs)), output=int(op.outputs[0]), options=options)
