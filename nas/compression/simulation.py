"""Simulated quantization: layers round as the int8 file will, so that training can make up for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nas.deploy.to_onnx import weight_limit


@contextmanager
def simulated_int8(network: nn.Module, sample: Tensor) -> Iterator[None]:
    """Inside, ``network`` rounds weights and activations as the int8 file will, with straight-through gradients.

    Weights: symmetric int8 per output channel, which batch-norm folding leaves unchanged because it scales whole
    channels. Activations: asymmetric uint8 per tensor, at the inputs of all convolutions and linear layers and at the
    projections (which residual additions read); their ranges start from ``sample (n, *input_shape)``.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    projections = [m for name, m in network.named_modules() if name.endswith("project_norm")]
    handles = []
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _FakeQuantizedWeight(_limit(layer)))
        handles.append(layer.register_forward_pre_hook(_input_hook(_ActivationRange())))
    for layer in projections:
        handles.append(layer.register_forward_hook(_output_hook(_ActivationRange())))
    try:
        with torch.no_grad():
            network.eval()
            network(sample)
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


def _limit(layer: nn.Conv2d | nn.Linear) -> int:
    depthwise = isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.out_channels
    return weight_limit(depthwise=depthwise)


class _FakeQuantizedWeight(nn.Module):
    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, weight: Tensor) -> Tensor:
        most = self.most
        scale = weight.detach().abs().flatten(1).amax(1).clamp_min(1e-8) / most
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -most, most)


class _ActivationRange:
    """Running minimum and maximum of a tensor, zero included, and the rounding they imply."""

    def __init__(self) -> None:
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        low, high = x.detach().amin().clamp_max(0), x.detach().amax().clamp_min(0)
        if self.low is None or self.high is None:
            self.low, self.high = low, high
        elif torch.is_grad_enabled():  # what is only evaluated leaves no trace
            self.low, self.high = torch.lerp(self.low, low, 0.05), torch.lerp(self.high, high, 0.05)
        scale = ((self.high - self.low) / 255).clamp_min(1e-8)
        zero = (-self.low / scale).round().clamp(0, 255).to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255)


def _input_hook(observed: _ActivationRange) -> Any:
    return lambda module, inputs: (observed(inputs[0]), *inputs[1:])


def _output_hook(observed: _ActivationRange) -> Any:
    return lambda module, inputs, output: observed(output)
