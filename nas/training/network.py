"""Train one network on its own, or fine-tune one that is trained already."""

from __future__ import annotations

import copy
from typing import Any, Literal, TypeVar

import pandas as pd
import torch
from torch import nn

from nas.checks import Count, FilePath, Probability, Seed, checked, shown
from nas.data.images import ImageData
from nas.errors import BadInput
from nas.files import folder_of
from nas.modules import weights_digest
from nas.training.augment import Augment, Augmentation
from nas.training.evaluate import input_size, validation_accuracy
from nas.training.folder import decided_by, trained_in
from nas.training.loop import Hook, fit, supervised
from nas.training.names import OF_NETWORK
from nas.training.recipe import Recipe, settled, torch_device
from nas.training.weights import Checkpoint

AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)


@checked
def train_network(
    network: AnyNetwork,
    data: ImageData,
    recipe: Recipe | None = None,
    *,
    epochs: Count | None = None,
    augment: Augmentation | None = None,
    teacher: nn.Module | None = None,
    distill: Probability = 0.5,
    run_dir: FilePath | None = None,
    seed: Seed = 0,
    device: str = "cpu",
    resume: bool | Literal["auto"] = "auto",
    on_epoch: Hook | None = None,
    on_step: Hook | None = None,
    progress: bool | None = None,
) -> AnyNetwork:
    """A trained copy of ``network`` on ``device``, by the same recipe and loop as a supernet; ``network`` stays as it is.

    ``network``: a ``nas.Network``, or any module with an ``input_shape`` (channels, height, width) that gives logits
    ``(n, classes)``. ``epochs`` or ``recipe`` says how long. ``augment``: None is what suits the images. ``teacher``:
    share ``distill`` of the loss comes from its predictions. ``run_dir``: keeps a checkpoint, then the weights and a
    table of the epochs; the same call again goes on, or loads what is finished (``resume`` as for ``nas.train_supernet``).
    Rows given to ``on_epoch`` have the validation ``accuracy``; ``on_step`` and ``progress`` as for ``nas.training.loop.fit``.
    Raises BadInput when network or teacher do not fit the data, the device is not there, or ``run_dir`` holds another
    training; NasError when the loss is no longer finite.
    """
    for one in (network,) if teacher is None else (network, teacher):
        _check_fits(one, data)
    recipe, place = settled(None, recipe, epochs=epochs), torch_device(device)
    chosen = Augment.suited_to(data) if augment is None else augment
    trained = copy.deepcopy(network)

    def train(checkpoint: Checkpoint | None) -> pd.DataFrame:
        return learn(
            trained, data, recipe, augment=chosen, teacher=teacher, distill=distill, seed=seed, device=place,
            checkpoint=checkpoint, evaluate=lambda epoch: {"accuracy": validation_accuracy(trained, data)},
            on_epoch=on_epoch, on_step=on_step, progress=progress,
        )  # fmt: skip

    if run_dir is None:
        train(None)
    else:
        taught = {"network": _digest(network), "teacher": None if teacher is None else _digest(teacher)}
        identity = decided_by(recipe, chosen, data, seed, place, **taught, distill=distill)
        trained_in(folder_of(run_dir), OF_NETWORK, trained, identity, train, resume=bool(resume))
    return trained.to(place).eval()


def learn(
    network: nn.Module,
    data: ImageData,
    recipe: Recipe,
    *,
    augment: Augmentation | None = None,
    teacher: nn.Module | None = None,
    distill: float = 0.5,
    device: str | torch.device = "cpu",
    **settings: Any,
) -> pd.DataFrame:
    """Train ``network`` in place on labels and, by share ``distill``, on the teacher's predictions; the rows of ``fit``."""
    if teacher is not None:
        teacher = copy.deepcopy(teacher).to(torch_device(device)) if distill else None
    size = max(input_size(m) for m in (network, teacher) if m is not None)
    step = supervised(recipe, teacher, weight=distill)
    return fit(network, data, recipe, step, size=size, augment=augment, device=device, **settings)


def _check_fits(network: Any, data: ImageData) -> None:
    """Raises BadInput for what is no network, or one of other channels or classes than the images have."""
    shape = getattr(network, "input_shape", None)
    if not isinstance(network, nn.Module) or not isinstance(shape, tuple) or len(shape) != 3:
        raise BadInput(
            f"a network is a nas.Network, or a torch module with an input_shape (channels, height, width), got {shown(network)}"
        )
    if shape[0] != data.channels:
        raise BadInput(f"the network takes images of {shape[0]} channels, {data.name} has {data.channels}")
    with torch.no_grad():
        logits = copy.deepcopy(network).cpu().eval()(torch.zeros(1, *shape))
    seen = tuple(getattr(logits, "shape", ()))
    if seen != (1, len(data.classes)):
        raise BadInput(f"the network's outputs have shape {seen}, {data.name} has {len(data.classes)} classes")


def _digest(network: nn.Module) -> str:
    return weights_digest(repr(network), network)
