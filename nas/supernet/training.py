"""Train a supernet in a run folder: checkpoints, resume, and the finished weights under their final name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from nas.checks import Count, FilePath, Seed, Workers, checked, shown
from nas.data.images import ImageData
from nas.data.inputs import batches, fixed_choice
from nas.errors import BadInput
from nas.files import folder_of
from nas.space import Archs, SearchSpace
from nas.space_around import SpaceAround
from nas.supernet.evaluation import subnet_accuracies
from nas.supernet.recalibrate import RECALIBRATION_IMAGES, recalibrate
from nas.supernet.strategies import Sandwich, Strategy
from nas.supernet.supernet import Supernet
from nas.training.augment import Augment, Augmentation
from nas.training.evaluate import device_of, input_size
from nas.training.folder import decided_by, trained_in
from nas.training.loop import Hook, fit
from nas.training.names import OF_SUPERNET
from nas.training.recipe import Recipe, settled, torch_device
from nas.training.team import Team, check_shares
from nas.training.weights import Checkpoint, load_weights
from nas.training.workers import train_in_workers

log = logging.getLogger("nas")

START_LR = 0.04
"""Peak learning rate from a trained network: EfficientNet-Lite0's best of 0.01, 0.04, 0.12 (experiments/transfer.py)."""


@checked
def train_supernet(
    space: SearchSpace,
    data: ImageData,
    *,
    epochs: Count | None = None,
    run_dir: FilePath,
    recipe: Recipe | None = None,
    augment: Augmentation | None = None,
    strategy: Strategy | None = None,
    seed: Seed = 0,
    device: str = "cpu",
    resume: bool | Literal["auto"] = "auto",
    on_epoch: Hook | None = None,
    on_step: Hook | None = None,
    progress: bool | None = None,
    workers: Workers = 1,
) -> Supernet:
    """The trained supernet of ``space`` on ``data``, by the sandwich rule unless ``strategy`` says otherwise.

    Writes ``supernet.safetensors`` and ``training.csv`` into ``run_dir``; a checkpoint lies beside them while it
    trains. The same call again loads finished weights, or goes on where an interrupted training stopped, to the same
    result; with ``resume=False`` a folder that holds a training is refused. ``epochs`` or ``recipe`` says how long;
    without a recipe the peak learning rate is ``suited_lr(space)``.
    ``on_epoch``, ``on_step`` and ``progress`` as for ``nas.training.loop.fit``. ``workers``: processes that share every
    batch, by Ray Train (with ``device="cuda"`` a GPU each), to the same weights within float error; an interrupted
    training goes on with any number of them. The hooks are then called in the first of these processes.
    Raises BadInput when the data do not fit the space, the device is not there, or ``run_dir`` holds a training with
    other settings, which are named; NasError when the loss is no longer finite.
    """
    folder = folder_of(run_dir)
    check_fit(space, data)
    lr = suited_lr(space) if recipe is None else None
    recipe, strategy = settled(None, recipe, epochs=epochs, lr=lr), strategy or Sandwich()
    chosen = Augment.suited_to(data) if augment is None else augment
    if recipe.freeze == "norms":
        raise BadInput(
            "freeze is 'norms', but the subnets of a supernet have no batch-norm statistics of their own to keep"
        )
    check_shares(recipe, len(data.train), workers)
    if isinstance(space, SpaceAround) and space.source.normalise not in (None, data.normalise):
        log.warning("%s was taught with pixels of another normalisation; pass data.normalised_as(network)", space.name)
    place = torch_device(device)
    supernet = Supernet(space, seed=seed).to(place)

    def fitted(supernet: Any, checkpoint: Checkpoint, place: torch.device, team: Team | None) -> pd.DataFrame:
        return fit(
            supernet,
            data,
            recipe,
            lambda model, images, labels, rng: strategy.step(supernet, images, labels, rng, recipe),
            size=max(block.size for block in space.slot_options(0)),
            augment=chosen,
            seed=seed,
            device=place,
            checkpoint=checkpoint,
            evaluate=_evaluation(supernet, data, recipe.epochs),
            on_epoch=on_epoch,
            on_step=on_step,
            progress=progress,
            team=team,
        )

    def train(checkpoint: Checkpoint) -> pd.DataFrame:
        return train_in_workers(supernet, lambda *there: fitted(there[0], checkpoint, *there[1:]), place, workers)

    made_for = {"space": space.fingerprint}
    start = {"start": space.start} if isinstance(space, SpaceAround) else {}
    identity = decided_by(recipe, chosen, data, seed, place, strategy=repr(strategy), **made_for, **start)
    trained_in(folder, OF_SUPERNET, supernet, identity, train, resume=bool(resume), more=made_for)
    return supernet


@checked
def load_supernet(space: SearchSpace, path: FilePath, device: str = "cpu") -> Supernet:
    """A supernet from the weights file that ``train_supernet`` wrote.

    Raises BadInput when the file is missing, damaged or was made for another space, or the device is not there.
    """
    if not Path(path).is_file():
        raise BadInput(f"{path} does not exist; train a supernet first (nas train)")
    supernet = Supernet(space).to(torch_device(device))
    load_weights(Path(path), supernet, {"space": space.fingerprint})
    return supernet


@checked
def calibrated(supernet: Supernet, arch: Archs, data: ImageData) -> torch.nn.Module:
    """``arch (genes,)`` cut out of the supernet, its batch norm recalibrated on training images.

    Raises BadInput for what is not one architecture of the space.
    """
    if np.ndim(arch) != 1:
        raise BadInput(f"one architecture is a row of choice indices (genes,), got {shown(arch)}")
    network = supernet.extract(arch).eval()
    images = fixed_choice(data, RECALIBRATION_IMAGES)
    recalibrate(network, batches(images, data, input_size(network), device=device_of(network)))
    return network


def subnet_accuracy(supernet: Supernet, arch: Archs, data: ImageData) -> float:
    """Validation accuracy of ``arch (genes,)`` with the supernet's weights, batch norm recalibrated."""
    return float(subnet_accuracies(supernet, np.asarray(arch)[None], data)[0])


def check_fit(space: SearchSpace, data: ImageData) -> None:
    """Raises BadInput when channels or number of classes of ``data`` and ``space`` differ."""
    if space.in_channels != data.channels:
        raise BadInput(f"{space.name} takes images of {space.in_channels} channels, {data.name} has {data.channels}")
    if space.classes != len(data.classes):
        raise BadInput(f"{space.name} has {space.classes} classes, {data.name} has {len(data.classes)}")


def suited_lr(space: SearchSpace) -> float:
    """Peak learning rate that a supernet is trained with unless it is said: lower where it starts from a trained network."""
    return START_LR if isinstance(space, SpaceAround) else Recipe.lr


def _evaluation(supernet: Supernet, data: ImageData, epochs: int) -> Callable[[int], dict[str, Any]]:
    """Accuracy of the largest and the smallest subnet, ten times in a training: it costs as much as some steps."""

    def evaluate(epoch: int) -> dict[str, float]:
        now = not epoch % max(1, epochs // 10) or epoch == epochs
        return {
            f"accuracy_{name}": subnet_accuracy(supernet, arch, data) if now else np.nan
            for name, arch in (("largest", supernet.largest), ("smallest", supernet.smallest))
        }

    return evaluate
