"""Train a supernet in a run folder: checkpoints, resume, and the finished weights under their final name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from nas.data.images import ImageData
from nas.errors import BadInput
from nas.space import Archs, SearchSpace
from nas.supernet.recalibrate import recalibrate
from nas.supernet.strategies import sandwich
from nas.supernet.supernet import Supernet
from nas.training.loop import (
    Augment,
    Recipe,
    Step,
    batches,
    describe_recipe,
    fit,
    load_weights,
    save_weights,
    validation_accuracy,
)

CALIBRATION_IMAGES = 512
"""Training images that batch-norm recalibration of a subnet looks at."""


def train_supernet(
    space: SearchSpace,
    data: ImageData,
    *,
    epochs: int,
    run_dir: str | os.PathLike[str],
    recipe: Recipe | None = None,
    augment: Augment | None = None,
    step: Step | None = None,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = False,
    progress: Callable[[dict[str, float]], None] | None = None,
) -> Supernet:
    """The trained supernet of ``space`` on ``data``, by the sandwich rule unless ``step`` says otherwise.

    Writes ``supernet.safetensors`` and ``training.csv`` into ``run_dir``; a checkpoint lies beside them while it
    trains. With ``resume``, finished weights are loaded and an interrupted training goes on where it stopped, to the
    same result. Raises BadInput when the data do not fit the space, when ``run_dir`` holds a training already and
    ``resume`` is not given, or when it holds one with other settings.
    """
    check_fit(space, data)
    recipe = recipe or Recipe(epochs=epochs)
    augment = augment or Augment.suited_to(data)
    folder = Path(run_dir)
    weights, checkpoint = folder / "supernet.safetensors", folder / "supernet.checkpoint.pt"
    identity = describe_recipe(recipe, augment, seed=seed, space=space.fingerprint, data=data.fingerprint)
    supernet = Supernet(space, seed=seed).to(device)
    if not resume and (weights.exists() or checkpoint.exists()):
        raise BadInput(f"{folder} already holds a training; pass resume (--resume) to go on with it, or another folder")
    if weights.exists():
        load_weights(weights, supernet, {"space": space.fingerprint, "identity": identity})
        return supernet
    folder.mkdir(parents=True, exist_ok=True)
    size = max(_resolutions(space))

    def evaluate(epoch: int) -> dict[str, float]:
        if epoch % max(1, recipe.epochs // 10) and epoch != recipe.epochs:
            return {"accuracy_largest": np.nan, "accuracy_smallest": np.nan}
        return {
            "accuracy_largest": subnet_accuracy(supernet, supernet.largest, data),
            "accuracy_smallest": subnet_accuracy(supernet, supernet.smallest, data),
        }

    history = fit(
        supernet,
        data,
        recipe,
        step or sandwich(label_smoothing=recipe.label_smoothing),
        size=size,
        augment=augment,
        seed=seed,
        device=device,
        checkpoint=checkpoint,
        identity=identity,
        resume=resume,
        evaluate=evaluate,
        progress=progress,
    )
    _write_csv(folder / "training.csv", history)
    save_weights(weights, supernet, {"space": space.fingerprint, "identity": identity})
    checkpoint.unlink(missing_ok=True)
    return supernet


def load_supernet(space: SearchSpace, path: str | os.PathLike[str], device: str = "cpu") -> Supernet:
    """A supernet from the weights file that ``train_supernet`` wrote.

    Raises BadInput when the file is missing, damaged or was made for another space.
    """
    if not Path(path).exists():
        raise BadInput(f"{path} does not exist; train a supernet first (nas train)")
    supernet = Supernet(space).to(device)
    load_weights(Path(path), supernet, {"space": space.fingerprint})
    return supernet


def calibrated(supernet: Supernet, arch: Archs, data: ImageData) -> torch.nn.Module:
    """``arch (genes,)`` cut out of the supernet, its batch norm recalibrated on training images."""
    network = supernet.extract(arch).eval()
    images = data.train.take(calibration_rows(len(data.train)))
    recalibrate(network, batches(images, data, network.input_shape[-1], device=next(network.parameters()).device))
    return network


def subnet_accuracy(supernet: Supernet, arch: Archs, data: ImageData) -> float:
    """Validation accuracy of ``arch (genes,)`` with the supernet's weights, batch norm recalibrated."""
    return validation_accuracy(calibrated(supernet, arch, data), data)


def calibration_rows(n: int, most: int = CALIBRATION_IMAGES) -> np.ndarray:
    """A fixed random choice of training images, the same for every architecture."""
    return np.sort(np.random.default_rng(0).permutation(n)[:most])


def check_fit(space: SearchSpace, data: ImageData) -> None:
    """Raises BadInput when channels or number of classes of ``data`` and ``space`` differ."""
    if space.in_channels != data.channels:
        raise BadInput(f"{space.name} takes images of {space.in_channels} channels, {data.name} has {data.channels}")
    if space.classes != len(data.classes):
        raise BadInput(f"{space.name} has {space.classes} classes, {data.name} has {len(data.classes)}")


def _resolutions(space: SearchSpace) -> set[int]:
    return {block.size for block in space.slot_options(0)}


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    temporary = path.with_suffix(".tmp")
    table.to_csv(temporary, index=False)
    os.replace(temporary, path)
