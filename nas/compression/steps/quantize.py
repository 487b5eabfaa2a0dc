"""int8: static post-training quantization, and quantization-aware fine-tuning when that loses too much."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta
from torch import nn

from nas.checks import Count, CountOrNone, Positive, Probability, checked
from nas.compression.int8_network import Int8Network
from nas.compression.simulation import simulated_int8
from nas.compression.step import Context, float_network
from nas.compression.tuning import tune
from nas.data.inputs import INT8_IMAGES, batches, calibration_images
from nas.deploy.to_onnx import onnx_int8
from nas.errors import NasError
from nas.modules import Network
from nas.training.evaluate import device_of, input_size, validation_accuracy
from nas.training.recipe import Recipe


@checked
@dataclass(frozen=True, kw_only=True)
class Quantize:
    """Static int8: weights per channel, activations by their extremes on training images.

    When post-training quantization loses more than ``max_loss``, the network is fine-tuned with simulated
    quantization and quantized again; the better of the two, on the validation images, is kept.
    """

    calibration: Annotated[Count, "training images that set the activations' ranges"] = INT8_IMAGES
    max_loss: Annotated[float, Meta(ge=-1, le=1), "accepted loss of validation accuracy, as a fraction"] = 0.003
    qat_epochs: Annotated[CountOrNone, "epochs of quantization-aware fine-tuning; 0: never"] = 10
    qat_lr: Annotated[Positive, "its peak learning rate"] = 0.005
    distill: Annotated[Probability, "share of its loss that comes from the teacher's predictions"] = 0.5
    name: str = "quantize"

    @checked
    def apply(self, network: nn.Module, context: Context) -> Int8Network:
        """Raises NasError when the int8 network is broken either way."""
        network = float_network(network, self.name)
        images = calibration_images(context.data, input_size(network), self.calibration)
        target = validation_accuracy(network, context.data) - self.max_loss
        tried: list[tuple[float, Int8Network]] = []
        failed: list[NasError] = []
        for how in ("ptq", "qat") if self.qat_epochs else ("ptq",):
            if tried and tried[0][0] >= target:
                break
            source = network if how == "ptq" else self._tuned(network, context)
            note = "" if how == "ptq" else f"ptq reached {tried[0][0]:.4f}" if tried else "ptq failed"
            try:
                int8 = Int8Network(source, onnx_int8(source, images), how, note)
                tried.append((validation_accuracy(int8, context.data), int8))
            except NasError as broken:  # its outputs have nothing to do with the network's
                failed.append(broken)
        if not tried:
            raise failed[-1]
        return max(tried, key=lambda pair: pair[0])[1]  # the first of equals

    def _tuned(self, network: Network, context: Context) -> Network:
        """A copy, trained with simulated quantization: what the int8 file is then made from."""
        tuned = copy.deepcopy(network)
        sample = next(batches(context.data.train, context.data, input_size(tuned), device=device_of(tuned)))
        # batch norm is folded into the weights on the device: its statistics must not move any more
        recipe = Recipe(epochs=self.qat_epochs, lr=self.qat_lr, batch_size=64, freeze="norms")
        with simulated_int8(tuned, sample):
            tune(tuned, recipe, context, distill=self.distill)
        return tuned.eval()
