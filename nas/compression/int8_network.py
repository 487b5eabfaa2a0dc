"""Quantized networks as they are deployed: files run by ONNX Runtime, behind torch's interface."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from nas.blocks import Block
from nas.deploy.to_onnx import run_onnx
from nas.files import write_bytes
from nas.modules import Network


class OnnxNetwork(nn.Module):
    """A serialised ONNX model of batch 1, run by ONNX Runtime on one thread.

    Forward takes ``(n, *input_shape)`` float32 and returns logits ``(n, classes)``; the images go through one by
    one, as on the device.
    """

    def __init__(self, model: bytes, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.model = model
        self.input_shape = input_shape

    @property
    def size_bytes(self) -> int:
        return len(self.model)

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(run_onnx(self.model, x.cpu().contiguous().numpy())).to(x.device)

    def save(self, path: Path) -> Path:
        """Write the model to a file, atomically."""
        write_bytes(path, self.model)
        return path


class Int8Network(OnnxNetwork):
    """A quantized network: the ONNX model that is deployed, and the float ``network`` it was made from.

    ``how``: "ptq" (quantized after training) or "qat" (trained with simulated quantization first).
    """

    precision = "int8"

    def __init__(self, network: Network, model: bytes, how: str, note: str = "") -> None:
        super().__init__(model, network.input_shape)
        self.network = network
        self.how = how
        self.note = note

    def describe(self) -> tuple[Block, ...]:
        """The blocks of the float network."""
        return self.network.describe()
