"""int8: static post-training quantization, and quantization-aware fine-tuning when that loses too much."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
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
from nas.errors import BadInput, NasError
from nas.modules import Network
from nas.training.evaluate import device_of, input_size, validation_accuracy
from nas.training.recipe import Recipe, settled

_USUAL = Recipe(epochs=10, lr=0.005, batch_size=64, precision="fp32")
"""bf16 keeps 8 bits of a number, as many as the rounding that is learnt here."""


@checked
@dataclass(frozen=True, kw_only=True)
class Quantize:
    """Static int8: weights per channel, activations by their extremes on training images.

    When post-training quantization loses more than ``max_loss``, the network is fine-tuned with simulated
    quantization and quantized again; the better of the two, on the validation images, is kept. ``qat``: the recipe of
    that, instead of ``qat_epochs`` and ``qat_lr``; its batch norm keeps its statistics in any case. Raises BadInput when
    both are given and differ.
    """

    calibration: Annotated[Count, "training images that set the activations' ranges"] = INT8_IMAGES
    max_loss: Annotated[float, Meta(ge=-1, le=1), "accepted loss of validation accuracy, as a fraction"] = 0.003
    qat_epochs: Annotated[CountOrNone | None, "epochs of quantization-aware fine-tuning; 0: never (default: 10)"] = None
    qat_lr: Annotated[Positive | None, "its peak learning rate (default: 0.005)"] = None
    qat: Recipe | None = None
    distill: Annotated[Probability, "share of its loss that comes from the teacher's predictions"] = 0.5
    name: str = "quantize"

    def __post_init__(self) -> None:
        self._recipe()

    @checked
    def apply(self, network: nn.Module, context: Context) -> Int8Network:
        """Raises NasError when the int8 network is broken either way."""
        network = float_network(network, self.name)
        images = calibration_images(context.data, input_size(network), self.calibration)
        target = validation_accuracy(network, context.data) - self.max_loss
        tried: list[tuple[float, Int8Network]] = []
        failed: list[NasError] = []
        recipe = self._recipe()
        for how in ("ptq", "qat") if recipe else ("ptq",):
            if tried and tried[0][0] >= target:
                break
            source = network if how == "ptq" or recipe is None else self._tuned(network, recipe, context)
            note = "" if how == "ptq" else f"ptq reached {tried[0][0]:.4f}" if tried else "ptq failed"
            try:
                int8 = Int8Network(source, onnx_int8(source, images), how, note)
                tried.append((validation_accuracy(int8, context.data), int8))
            except NasError as broken:  # its outputs have nothing to do with the network's
                failed.append(broken)
        if not tried:
            raise failed[-1]
        return max(tried, key=lambda pair: pair[0])[1]  # the first of equals

    def _recipe(self) -> Recipe | None:
        """Of quantization-aware training; None for never."""
        if self.qat_epochs == 0 and self.qat is None:
            return None
        recipe = settled(_USUAL, self.qat, epochs=self.qat_epochs, lr=self.qat_lr)
        if recipe.freeze not in (0, "norms"):
            raise BadInput(f"quantization-aware training freezes batch norm and no blocks, got freeze={recipe.freeze}")
        # batch norm is folded into the weights on the device: its statistics must not move any more
        return replace(recipe, freeze="norms")

    def _tuned(self, network: Network, recipe: Recipe, context: Context) -> Network:
        """A copy, trained with simulated quantization: what the int8 file is then made from."""
        tuned = copy.deepcopy(network)
        sample = next(batches(context.data.train, context.data, input_size(tuned), device=device_of(tuned)))
        with simulated_int8(tuned, sample):
            tune(tuned, recipe, context, distill=self.distill)
        return tuned.eval()
