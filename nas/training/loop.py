"""One training loop for everything: the supernet, a network on its own, fine-tuning with a teacher.

What differs between them is the *step*: a function that runs forward and backward on one batch. The loop owns the
schedule, augmentation, mixed precision, checkpoints and resuming. Every epoch draws from its own random streams
(seed, epoch), so a resumed run repeats an unbroken one.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from nas.checks import Count, Seed, checked
from nas.data.feed import Feed, feed
from nas.data.images import ImageData
from nas.data.inputs import normalised, resize
from nas.errors import NasError
from nas.progress import bar
from nas.training.augment import Augment, augmented
from nas.training.evaluate import input_size
from nas.training.recipe import Recipe, precision_of, torch_device
from nas.training.weights import Checkpoint

TrainingStep = Callable[[nn.Module, Tensor, Tensor, np.random.Generator], Tensor]
"""``step(model, images, labels, rng) -> loss``: forward and backward on one batch; the loop steps the optimizer.

``images (n, c, h, w)`` float32, normalised, at the size the loop was given; the step resizes them as it needs.
"""
Hook = Callable[[dict[str, float]], object]
"""Called with the figures of an epoch or a step: for TensorBoard, W&B, MLflow. What it raises ends the training."""

_log = logging.getLogger("nas.training")


@checked
def fit(
    model: nn.Module,
    data: ImageData,
    recipe: Recipe,
    step: TrainingStep,
    *,
    size: Count,
    augment: Augment | None = None,
    seed: Seed = 0,
    device: str | torch.device = "cpu",
    checkpoint: Checkpoint | None = None,
    evaluate: Callable[[int], dict[str, float]] | None = None,
    on_epoch: Hook | None = None,
    on_step: Hook | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Train ``model`` in place and return one row per epoch: epoch, loss, learning_rate, seconds, and ``evaluate``'s.

    ``size``: pixels of the images given to ``step``. ``augment``: None trains on the images as they are.
    ``checkpoint``: rewritten after every epoch, and where the training goes on from. ``on_epoch`` gets each row,
    ``on_step`` epoch, step, loss and learning_rate of each batch.
    ``progress``: whether a bar is shown; None: on a terminal or in a notebook.
    Raises NasError when the loss is no longer finite; BadInput for a device that is not there, a checkpoint with
    another identity, or one that cannot be read.
    """
    device = torch_device(device)
    keep_freed_memory()
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _optimizer(model, recipe)
    images = feed(data.train, device)
    labels = torch.from_numpy(data.train.labels).to(device)
    per_epoch = math.ceil(len(labels) / recipe.batch_size)
    rows = [] if checkpoint is None else checkpoint.load(model, optimizer)
    steps = recipe.epochs * per_epoch
    with bar(progress, desc="train", unit="step", total=steps, initial=len(rows) * per_epoch) as shown:
        tell = _teller(shown, on_step)
        for epoch in range(len(rows), recipe.epochs):
            batches = _epoch(images, labels, data, recipe, augment, size, seed, epoch)
            row = _trained_epoch(
                model, optimizer, batches, step, recipe, range(epoch * per_epoch, steps), epoch + 1, tell
            )
            rows.append(row | (evaluate(epoch + 1) if evaluate is not None else {}))
            if checkpoint is not None:
                checkpoint.save(model, optimizer, rows)
            _log_epoch(rows[-1], recipe.epochs)
            if on_epoch is not None:
                on_epoch(dict(rows[-1]))
    return pd.DataFrame(rows)


def supervised(recipe: Recipe, teacher: nn.Module | None = None, *, weight: float = 0.5) -> TrainingStep:
    """The step of a network on its own: cross-entropy with label smoothing, plus distillation from ``teacher``.

    ``weight``: share of the distillation loss (Hinton et al. 2015, temperature 1). The teacher sees the images at
    its own input size and is put into eval mode.
    """
    if teacher is not None:
        teacher.eval()

    def step(model: nn.Module, images: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        logits = model(resize(images, input_size(model)))
        loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        if teacher is not None:
            with torch.no_grad():
                target = teacher(resize(images, input_size(teacher))).softmax(1)
            loss = (1 - weight) * loss + weight * F.cross_entropy(logits, target)
        loss.backward()
        return loss.detach()

    return step


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next step instead of handing it back to the system.

    A training step on the CPU frees and takes the same large buffers again and again; faulting their pages in anew
    costs up to a third of the time of elementwise operations. Does nothing where the C library is not glibc.
    """
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(mmap_threshold, 32 << 20)  # the largest that glibc takes
        library.mallopt(trim_threshold, 1 << 30)
        library.mallopt(top_pad, 64 << 20)


def _epoch(
    images: Feed,
    labels: Tensor,
    data: ImageData,
    recipe: Recipe,
    augment: Augment | None,
    size: int,
    seed: int,
    epoch: int,
) -> Iterator[tuple[Tensor, Tensor, np.random.Generator]]:
    """The batches of an epoch, images ``(n, c, size, size)`` and labels ``(n,)``, and the random numbers of their steps."""
    rng = np.random.default_rng([seed, epoch])
    generator = torch.Generator(labels.device).manual_seed(int(rng.integers(2**62)))
    chosen = torch.from_numpy(data.epoch_rows(rng)).to(labels.device).split(recipe.batch_size)
    for rows, batch in zip(chosen, images(chosen), strict=True):
        yield normalised(augmented(batch, augment, size, generator), data), labels[rows], rng


def _trained_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[Tensor, Tensor, np.random.Generator]],
    step: TrainingStep,
    recipe: Recipe,
    left: range,
    epoch: int,
    tell: Callable[[dict[str, float]], None],
) -> dict[str, float]:
    """The row of an epoch (counted from 1) after training it. ``left``: the numbers of the steps from here to the end."""
    started, losses, lr = time.perf_counter(), list[float](), 0.0
    model.train()
    for i, (images, labels, rng) in zip(left, batches, strict=False):
        lr = recipe.learning_rate(i / left.stop)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        mixed = precision_of(images.device) == "bf16"
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=mixed):
            loss = step(model, images, labels, rng)
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        losses.append(float(loss))
        tell({"epoch": epoch, "step": i + 1, "loss": losses[-1], "learning_rate": lr})
    mean = sum(losses) / len(losses)
    if not math.isfinite(mean):
        raise NasError(f"the loss is no longer finite in epoch {epoch}; try a lower learning rate than {recipe.lr}")
    return {"epoch": epoch, "loss": mean, "learning_rate": lr, "seconds": time.perf_counter() - started}


def _teller(shown: tqdm[Any], on_step: Hook | None) -> Callable[[dict[str, float]], None]:
    def tell(done: dict[str, float]) -> None:
        shown.update()
        if on_step is not None:
            on_step(done)

    return tell


def _log_epoch(row: Mapping[str, float], epochs: int) -> None:
    """A line where the epoch was evaluated; without, only for who listens closely."""
    evaluated = {k.replace("_", " "): v for k, v in row.items() if k.startswith("accuracy") and np.isfinite(v)}
    told = "".join(f", {name} {value:.1%}" for name, value in evaluated.items())
    level = logging.INFO if evaluated else logging.DEBUG
    _log.log(level, "epoch %d/%d: loss %.3f%s", row["epoch"], epochs, row["loss"], told)


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    # norms, biases and kernel transforms (which start as the identity) are not pulled towards zero
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (free if parameter.ndim < 2 or ".transforms." in name else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
