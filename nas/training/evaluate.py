"""What a network answers, and how often it is right."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nas.data.images import ImageData
from nas.data.inputs import batches, normalised
from nas.data.splits import Split
from nas.training.augment import Augment, augmented

VALIDATION_PREDICTIONS = 1500


@torch.no_grad()
def predict(model: nn.Module, split: Split, data: ImageData) -> Tensor:
    """Logits ``(n, classes)`` of ``model`` in eval mode for all images of ``split``."""
    model.eval()
    return torch.cat([model(x) for x in batches(split, data, input_size(model), device=device_of(model))])


def accuracy(model: nn.Module, split: Split, data: ImageData) -> float:
    """Top-1 accuracy of ``model`` on ``split``, as a fraction."""
    guess = predict(model, split, data).argmax(1).cpu().numpy()
    return float((guess == split.labels).mean())


def validation_accuracy(model: nn.Module, data: ImageData) -> float:
    """Top-1 accuracy on the validation images, what searches and compression compare networks by.

    A small validation set tells too few networks apart (one image of 357 is 0.28 points), and the best of hundreds
    is then picked by luck. So sets below 1,500 images are seen several times: as they are, and in fixed random views
    (rotated, scaled and shifted as in training, the same for every network), 1,500 predictions or a few more in all.
    """
    split, size, device = data.val, input_size(model), device_of(model)
    correct = round(accuracy(model, split, data) * len(split))
    views = validation_views(data)
    labels = torch.from_numpy(split.labels).to(device)
    with torch.no_grad():
        for view in range(1, views):
            generator = torch.Generator(device).manual_seed(view)
            images = augmented(torch.from_numpy(split.images[:]).to(device), Augment(), size, generator)
            correct += int((model(normalised(images, data)).argmax(1) == labels).sum())
    return correct / (views * len(split))


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
