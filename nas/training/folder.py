"""A training in a folder: a checkpoint while it goes on, finished weights and a table of its epochs after it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from nas.data.images import ImageData
from nas.errors import BadInput
from nas.files import locked, write_text
from nas.training.augment import Augmentation
from nas.training.names import TrainingFiles
from nas.training.recipe import Recipe, precision_of, stated
from nas.training.weights import Checkpoint, Identity, load_weights, save_weights


def decided_by(
    recipe: Recipe, augment: Augmentation, data: ImageData, seed: int, device: torch.device, **more: Any
) -> Identity:
    """Everything that decides the weights of a training; ``more``: what is so for this kind of it alone."""
    return stated(recipe) | {
        "augment": stated(augment),
        "seed": seed,
        "data": data.fingerprint,
        "precision": precision_of(device, recipe.precision),
        **more,
    }


def trained_in(
    folder: Path,
    files: TrainingFiles,
    model: nn.Module,
    identity: Identity,
    train: Callable[[Checkpoint], pd.DataFrame],
    *,
    resume: bool,
    more: Mapping[str, str] | None = None,
) -> None:
    """Give ``model`` the finished weights of ``folder``, or ``train`` it, from where an interrupted training stopped.

    ``more``: what else the weights file says of itself. Raises BadInput when the folder holds a training with another
    identity, or, without ``resume``, any; or when another process is at work there.
    """
    weights, checkpoint = folder / files.weights, folder / files.checkpoint
    if not resume and (weights.exists() or checkpoint.exists()):
        raise BadInput(f"{folder} already holds a training; pass resume (--resume) to go on with it, or another folder")
    told: dict[str, str | Identity] = {**(more or {}), "identity": identity}
    if weights.exists():
        load_weights(weights, model, told)
        return
    with locked(folder), _how_to_go_on(folder):
        rows = train(Checkpoint(path=checkpoint, identity=identity, resume=resume))
        write_text(folder / files.rows, rows.to_csv(index=False))
        save_weights(weights, model, told)
        checkpoint.unlink(missing_ok=True)


@contextlib.contextmanager
def _how_to_go_on(folder: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"finished epochs are kept in {folder}; the same call (--resume) goes on") from None
