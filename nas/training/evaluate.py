"""What a network answers, and how often it is right."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from nas.checks import checked
from nas.data.images import ImageData
from nas.data.inputs import batches, images_at_once, kept_inputs, normalised
from nas.data.splits import Split
from nas.training.augment import Augment, augmented

VALIDATION_PREDICTIONS = 1500


@torch.no_grad()
def predict(model: nn.Module, split: Split, data: ImageData) -> Tensor:
    """Logits ``(n, classes)`` of ``model`` in eval mode for all images of ``split``."""
    model.eval()
    size, device = input_size(model), device_of(model)
    return torch.cat([model(x) for x in batches(split, data, size, images_at_once(size, device), device)])


def accuracy(model: nn.Module, split: Split, data: ImageData) -> float:
    """Top-1 accuracy of ``model`` on ``split``, as a fraction."""
    guess = predict(model, split, data).argmax(1).cpu().numpy()
    return float((guess == split.labels).mean())


@torch.no_grad()
def validation_accuracy(model: nn.Module, data: ImageData) -> float:
    """Top-1 accuracy on the validation images, what searches and compression compare networks by.

    A small validation set tells too few networks apart (one image of 357 is 0.28 points), and the best of hundreds
    is then picked by luck. So sets below 1,500 images are seen several times: as they are, and in fixed random views
    (rotated, scaled and shifted as in training, the same for every network), 1,500 predictions or a few more in all.
    """
    model.eval()
    inputs, labels = validation_inputs(data, input_size(model), device_of(model))
    return float((torch.cat([model(x).argmax(1) for x in inputs]) == labels).double().mean())


def validation_inputs(data: ImageData, size: int, device: torch.device) -> tuple[Iterable[Tensor], Tensor]:
    """All views of the validation images as a network of ``size`` pixels sees them, in batches; and their labels ``(n,)``."""
    views, n = validation_views(data), images_at_once(size, device)

    def make() -> Iterator[Tensor]:
        if views == 1:
            return batches(data.val, data, size, n, device)
        plain = torch.from_numpy(data.val.images[:]).to(device)
        seeded = (torch.Generator(device).manual_seed(view) for view in range(1, views))
        changed = [normalised(augmented(plain, Augment(), size, generator), data) for generator in seeded]
        return iter(torch.cat([*batches(data.val, data, size, device=device), *changed]).split(n))

    labels = torch.from_numpy(data.val.labels).to(device).repeat(views)
    return kept_inputs(data, len(labels), ("validation", size, str(device)), make), labels


def validation_views(data: ImageData) -> int:
    """How many times ``validation_accuracy`` sees each validation image."""
    return math.ceil(VALIDATION_PREDICTIONS / len(data.val))


def input_size(model: nn.Module) -> int:
    """Pixels of the square input of a network or of the supernet's active architecture."""
    return model.input_shape[-1]  # type: ignore[index, return-value, unused-ignore]


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are; the CPU for one without any."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


@checked
def balanced_accuracy(network: nn.Module, split: Split, data: ImageData) -> float:
    """The mean over classes of how many of their images in ``split`` are recognised, where accuracy speaks for the large ones."""
    right = predict(network, split, data).argmax(1).cpu().numpy() == split.labels
    return float(np.mean([right[split.labels == label].mean() for label in np.unique(split.labels)]))
