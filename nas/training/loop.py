"""One training loop for everything: the supernet, a network on its own, fine-tuning with a teacher.

What differs between them is the *step*: a function that runs forward and backward on one batch. The loop owns the
schedule, augmentation, mixed precision, averaged weights, early stopping, checkpoints and resuming. Every epoch draws
from its own random streams (seed, epoch), so a resumed run repeats an unbroken one.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from nas.checks import Count, Seed, checked
from nas.data.images import ImageData
from nas.data.inputs import resize
from nas.errors import NasError
from nas.progress import bar
from nas.training.augment import Augmentation
from nas.training.batches import Batch, Batches
from nas.training.evaluate import input_size, validation_accuracy
from nas.training.kept import Kept
from nas.training.parameters import frozen, optimizer_of
from nas.training.recipe import Recipe, precision_of, torch_device
from nas.training.recompute import recomputed
from nas.training.team import Team, check_shares
from nas.training.weights import Checkpoint

TrainingStep = Callable[[nn.Module, Tensor, Tensor, np.random.Generator], Tensor]
"""``step(model, images, labels, rng) -> loss``: forward and backward on one batch; the loop steps the optimizer.

``images (n, c, h, w)`` float32, normalised, at the size the loop was given; the step resizes them as it needs.
``labels (n,) int64``, or ``(n, classes)`` shares where the recipe mixes images: ``Recipe.label_loss`` takes both.
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
    augment: Augmentation | None = None,
    seed: Seed = 0,
    device: str | torch.device = "cpu",
    checkpoint: Checkpoint | None = None,
    evaluate: Callable[[int], dict[str, float]] | None = None,
    on_epoch: Hook | None = None,
    on_step: Hook | None = None,
    progress: bool | None = None,
    team: Team | None = None,
) -> pd.DataFrame:
    """Train ``model`` in place and return one row per epoch: epoch, loss, learning_rate, seconds, and ``evaluate``'s.

    ``size``: pixels of the images given to ``step``. ``augment``: None trains on the images as they are.
    ``checkpoint``: rewritten after every epoch, and where the training goes on from. ``evaluate``: what it calls
    "accuracy..." early stopping goes by (None: validation accuracy, when the recipe stops early); rows then say
    ``stopped_early``, 0 or 1. ``on_epoch`` gets each row, ``on_step`` epoch, step, loss and learning_rate of each batch.
    ``progress``: whether a bar is shown; None: on a terminal or in a notebook. ``team``: of several processes that do
    this call together, to the same result; the first of them evaluates, writes the checkpoint and calls the hooks.
    Raises NasError when the loss is no longer finite; BadInput for a device that is not there, a precision that it does
    not have, a checkpoint with another identity, or one that cannot be read.
    """
    device = torch_device(device)
    precision_of(device, recipe.precision)
    keep_freed_memory()
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if team is not None:
        check_shares(recipe, len(data.train), team.size)
    batches = Batches(
        data, recipe, augment, size=size, seed=seed, device=device, **({} if team is None else team.share)
    )
    if evaluate is None and recipe.patience:
        evaluate = lambda epoch: {"accuracy": validation_accuracy(model, data)}  # noqa: E731
    if team is not None:
        evaluate = evaluate and team.once(evaluate)
    first = team is None or not team.rank
    memory = recomputed(model) if recipe.recompute else contextlib.nullcontext()
    norms = team.norms(model) if team is not None else contextlib.nullcontext()
    with frozen(model, recipe) as still, memory, norms:
        learner = _Learner(model, recipe, still, step, team)
        rows = [] if checkpoint is None else checkpoint.load(learner.parts(), device)
        steps = recipe.epochs * len(batches)
        with bar(
            progress if first else False, desc="train", unit="step", total=steps, initial=len(rows) * len(batches)
        ) as shown:
            tell = _teller(shown, on_step if first else None)
            while len(rows) < recipe.epochs and not (rows and rows[-1].get("stopped_early")):
                rows.append(
                    learner.epoch(batches.epoch(len(rows)), range(len(rows) * len(batches), steps), len(rows) + 1, tell)
                )
                learner.judge(rows, evaluate)
                if checkpoint is not None and first:
                    checkpoint.save(learner.parts(), rows)
                _log_epoch(rows[-1], recipe.epochs)
                if on_epoch is not None and first:
                    on_epoch(dict(rows[-1]))
        learner.finish(rows)
    return pd.DataFrame(rows)


class _Learner:
    """What changes while ``model`` trains: its weights and what the optimizer, the average and the best epoch keep of them."""

    def __init__(
        self, model: nn.Module, recipe: Recipe, still: Iterable[nn.Module], step: TrainingStep, team: Team | None
    ) -> None:
        self.model, self.recipe, self.still, self.step, self.team = model, recipe, list(still), step, team
        self.optimizer = optimizer_of(model, recipe)
        self.factors = [group["lr"] / recipe.lr for group in self.optimizer.param_groups]
        self.average = Kept(model) if recipe.ema else None
        self.best = Kept(model) if recipe.patience else None

    def parts(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        parts = {"model": self.model, "optimizer": self.optimizer, "average": self.average, "best": self.best}
        return {name: part for name, part in parts.items() if part is not None}

    def epoch(
        self, batches: Iterable[Batch], left: range, epoch: int, tell: Callable[[dict[str, float]], None]
    ) -> dict[str, float]:
        """The row of an epoch (counted from 1) after training it. ``left``: the numbers of the steps from here to the end."""
        started, losses, lr = time.perf_counter(), list[float](), 0.0
        self.model.train()
        for module in self.still:
            module.eval()
        for i, batch in zip(left, batches, strict=False):
            lr = self.recipe.learning_rate(i / left.stop)
            for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
                group["lr"] = lr * factor
            losses.append(self._descend(batch))
            if self.average is not None:  # the first steps would be remembered for too long
                self.average.take(self.model, 1 - min(self.recipe.ema, (1 + i) / (10 + i)))
            tell({"epoch": epoch, "step": i + 1, "loss": losses[-1], "learning_rate": lr})
        mean = sum(losses) / len(losses)
        if not math.isfinite(mean):
            raise NasError(
                f"the loss is no longer finite in epoch {epoch}; try a lower learning rate than {self.recipe.lr}"
            )
        return {"epoch": epoch, "loss": mean, "learning_rate": lr, "seconds": time.perf_counter() - started}

    def judge(self, rows: list[dict[str, float]], evaluate: Callable[[int], dict[str, float]] | None) -> None:
        """Add to the last row what ``evaluate`` says of the weights that would be kept, and whether training ends here."""
        with self.average.inside(self.model) if self.average is not None else contextlib.nullcontext():
            if evaluate is not None:
                rows[-1] |= evaluate(len(rows))
            if self.best is not None:
                late = len(rows) - _best(rows)
                if not late:
                    self.best.take(self.model)
                is_known = math.isfinite(_accuracy(rows[-1]))
                rows[-1]["stopped_early"] = float(is_known and late >= self.recipe.patience)

    def finish(self, rows: list[dict[str, float]]) -> None:
        """Give the model the weights that are kept."""
        kept = self.best or self.average
        if kept is not None:
            kept.give(self.model)
        if rows and rows[-1].get("stopped_early"):
            best = _best(rows)
            _log.info(
                "stopped after epoch %d of %d: validation accuracy was best in epoch %d (%.1f%%), whose weights are kept",
                len(rows), self.recipe.epochs, best, 100 * _accuracy(rows[best - 1]),
            )  # fmt: skip

    def _descend(self, batch: Batch) -> float:
        """One step of the optimizer; the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._gradient(batch)
        if self.team is not None:
            loss = self.team.add_up(self.model, loss, len(batch.labels) / batch.of)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        return loss

    def _gradient(self, batch: Batch) -> float:
        """Of the whole batch, part by part; the loss."""
        n, loss, before = len(batch.labels), 0.0, 0
        parts = min(self.recipe.accumulate, n)
        device = batch.images.device
        mixed = precision_of(device, self.recipe.precision) == "bf16"
        for i, (images, labels) in enumerate(
            zip(batch.images.tensor_split(parts), batch.labels.tensor_split(parts), strict=True)
        ):
            # every part draws what the whole batch would, and the last leaves the stream as that does
            rng = batch.rng if i + 1 == parts else copy.deepcopy(batch.rng)
            if before:  # each part's gradient is a mean, and they are to add up to the batch's
                self._scale(before / len(labels))
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed):
                loss += float(self.step(self.model, images, labels, rng)) * (len(labels) / n)
            before = len(labels)
        self._scale(before / n)
        return loss

    def _scale(self, factor: float) -> None:
        if factor != 1:
            torch._foreach_mul_([p.grad for p in self.model.parameters() if p.grad is not None], factor)


def supervised(recipe: Recipe, teacher: nn.Module | None = None, *, weight: float = 0.5) -> TrainingStep:
    """The step of a network on its own: the recipe's loss, plus distillation from ``teacher``.

    ``weight``: share of the distillation loss (Hinton et al. 2015, temperature 1). The teacher sees the images at
    its own input size and is put into eval mode.
    """
    if teacher is not None:
        teacher.eval()

    def step(model: nn.Module, images: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        logits = model(resize(images, input_size(model)))
        loss = recipe.label_loss(logits, labels)
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


def _accuracy(row: Mapping[str, float]) -> float:
    """What early stopping goes by: the mean of what an epoch's row calls accuracy; NaN when it was not evaluated."""
    known = [v for k, v in row.items() if k.startswith("accuracy") and math.isfinite(v)]
    return sum(known) / len(known) if known else math.nan


def _best(rows: list[dict[str, float]]) -> int:
    """The epoch with the best accuracy, the first of equals; the last one while none is known."""
    known = [(_accuracy(row), -epoch) for epoch, row in enumerate(rows, 1) if math.isfinite(_accuracy(row))]
    return -max(known)[1] if known else len(rows)
