"""int8: static post-training quantization, and quantization-aware fine-tuning when that loses too much."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nas.data.images import ImageData
from nas.deploy.to_onnx import onnx_int8, run_onnx, write_model
from nas.errors import BadInput
from nas.modules import Network
from nas.training.loop import Augment, Recipe, batches, fit, input_size, supervised, validation_accuracy

if TYPE_CHECKING:
    from nas.compression.pipeline import Context


class OnnxNetwork(nn.Module):
    """A serialised ONNX model of batch 1, run by ONNX Runtime on one thread, behind torch's interface.

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
        return torch.from_numpy(run_onnx(self.model, x.contiguous().numpy()))

    def save(self, path: Path) -> Path:
        """Write the model to a file, atomically."""
        return write_model(path, self.model)


class Int8Network(OnnxNetwork):
    """A quantized network: the ONNX model that is deployed, and the float ``network`` it was made from."""

    def __init__(self, network: Network, model: bytes, note: str) -> None:
        super().__init__(model, network.input_shape)
        self.network = network
        self.note = note


@dataclass(frozen=True, kw_only=True)
class Quantize:
    """Static int8, weights per channel, activations calibrated on ``calibration`` training images.

    When post-training quantization loses more than ``max_loss`` (fraction, on the validation images), the network is
    fine-tuned for ``qat_epochs`` with simulated quantization and quantized again; the better of the two is kept.
    """

    calibration: int = 128
    max_loss: float = 0.003
    qat_epochs: int = 10
    qat_lr: float = 0.005
    distill: float = 0.5
    name: str = "quantize"

    def apply(self, network: nn.Module, context: Context) -> Int8Network:
        if not isinstance(network, Network):
            raise BadInput(f"quantization takes a float network of blocks, got {type(network).__name__}")
        data = context.data
        images = calibration_images(data, input_size(network), self.calibration)
        target = validation_accuracy(network, data) - self.max_loss
        ptq = Int8Network(network, onnx_int8(network, images), "ptq")
        reached = validation_accuracy(ptq, data)
        if reached >= target or not self.qat_epochs:
            return ptq
        tuned = self._quantization_aware(network, context)
        qat = Int8Network(tuned, onnx_int8(tuned, images), f"qat (ptq reached {reached:.4f})")
        return qat if validation_accuracy(qat, data) > reached else ptq

    def _quantization_aware(self, network: Network, context: Context) -> Network:
        tuned = copy.deepcopy(network)
        recipe = Recipe(epochs=self.qat_epochs, lr=self.qat_lr, batch_size=64)
        teacher = context.teacher if self.distill else None
        step = supervised(recipe, teacher, weight=self.distill)
        size = max([input_size(tuned)] + ([input_size(teacher)] if teacher is not None else []))

        def with_frozen_statistics(
            model: nn.Module, images: Tensor, labels: Tensor, rng: np.random.Generator
        ) -> Tensor:
            # batch norm is folded into the weights on the device: its statistics must not move any more
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
            return step(model, images, labels, rng)

        sample = next(batches(context.data.train, context.data, input_size(tuned)))
        with simulated_int8(tuned, sample):
            fit(
                tuned,
                context.data,
                recipe,
                with_frozen_statistics,
                size=size,
                augment=Augment.suited_to(context.data),
                seed=context.seed,
            )
        return tuned.eval()


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
        parametrize.register_parametrization(layer, "weight", _FakeQuantizedWeight())
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


def calibration_images(data: ImageData, size: int, most: int) -> np.ndarray:
    """A fixed random choice of training images as the network sees them, ``(<= most, c, size, size)`` float32."""
    rows = np.sort(np.random.default_rng(0).permutation(len(data.train))[:most])
    return torch.cat(list(batches(data.train.take(rows), data, size))).contiguous().numpy()


class _FakeQuantizedWeight(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        scale = weight.detach().abs().flatten(1).amax(1).clamp_min(1e-8) / 127
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)


class _ActivationRange:
    """Running minimum and maximum of a tensor, zero included, and the rounding they imply."""

    def __init__(self) -> None:
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        low, high = x.detach().amin().clamp_max(0), x.detach().amax().clamp_min(0)
        self.low = low if self.low is None else torch.lerp(self.low, low, 0.05)
        self.high = high if self.high is None else torch.lerp(self.high, high, 0.05)
        scale = ((self.high - self.low) / 255).clamp_min(1e-8)
        zero = (-self.low / scale).round().clamp(0, 255).to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255)


def _input_hook(observed: _ActivationRange) -> Any:
    return lambda module, inputs: (observed(inputs[0]), *inputs[1:])


def _output_hook(observed: _ActivationRange) -> Any:
    return lambda module, inputs, output: observed(output)
