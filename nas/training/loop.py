"""One training loop for everything: the supernet, a network on its own, fine-tuning with a teacher.

What differs between them is the *step*: a function that runs forward and backward on one batch. The loop owns the
schedule, augmentation, mixed precision, checkpoints and resuming. Every epoch draws from its own random streams
(seed, epoch), so a resumed run repeats an unbroken one.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.data.images import ImageData, Split
from nas.errors import BadInput, NasError

VALIDATION_PREDICTIONS = 1500

Step = Callable[[nn.Module, Tensor, Tensor, np.random.Generator], Tensor]
"""``step(model, images, labels, rng) -> loss``: forward and backward on one batch; the loop steps the optimizer.

``images (n, c, h, w)`` float32, normalised, at the size the loop was given; the step resizes them as it needs.
"""


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of training images: ``degrees`` of rotation, relative ``scale`` and ``shift``, ``flip`` left-right.

    ``cutout``: side of a grey square as a fraction of the image (DeVries and Taylor 2017); 0 for none.
    """

    degrees: float = 10.0
    scale: float = 0.1
    shift: float = 0.1
    flip: bool = False
    cutout: float = 0.0

    @staticmethod
    def suited_to(data: ImageData) -> Augment:
        """Colour photographs may be mirrored; grey images are mostly symbols and scans, which may not."""
        return Augment(flip=True, cutout=0.25) if data.channels == 3 else Augment()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of a training. ``lr`` is the peak of a cosine schedule after ``warmup`` (fraction of all steps)."""

    epochs: int
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 3e-5
    label_smoothing: float = 0.1
    warmup: float = 0.05
    clip_norm: float = 5.0


def fit(
    model: nn.Module,
    data: ImageData,
    recipe: Recipe,
    step: Step,
    *,
    size: int,
    augment: Augment | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    checkpoint: Path | None = None,
    identity: str = "",
    resume: bool = False,
    evaluate: Callable[[int], dict[str, float]] | None = None,
    progress: Callable[[dict[str, float]], None] | None = None,
) -> pd.DataFrame:
    """Train ``model`` in place and return one row per epoch: epoch, loss, learning_rate, seconds, and ``evaluate``'s.

    ``size``: pixels of the images given to ``step``. ``augment``: None trains on the images as they are.
    ``checkpoint``: file rewritten after every epoch; with ``resume`` training goes on from it. ``identity`` is
    stored in it: resuming with another one raises BadInput, as does a checkpoint that cannot be read.
    Raises NasError when the loss is no longer finite.
    """
    device = torch.device(device)
    keep_freed_memory()
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        _decay_groups(model, recipe.weight_decay), lr=recipe.lr, momentum=recipe.momentum, nesterov=True
    )
    images = torch.from_numpy(data.train.images).to(device)
    labels = torch.from_numpy(data.train.labels).to(device)
    per_epoch = math.ceil(len(labels) / recipe.batch_size)
    first = 0
    rows: list[dict[str, float]] = []
    if resume and checkpoint is not None and checkpoint.exists():
        first, rows = _load_checkpoint(checkpoint, model, optimizer, identity)
    for epoch in range(first, recipe.epochs):
        started, total = time.perf_counter(), 0.0
        rng = np.random.default_rng([seed, epoch])
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
        model.train()
        order = torch.from_numpy(rng.permutation(len(labels))).to(device)
        for i, chosen in enumerate(order.split(recipe.batch_size)):
            lr = recipe.lr * cosine((epoch * per_epoch + i) / (recipe.epochs * per_epoch), recipe.warmup)
            for group in optimizer.param_groups:
                group["lr"] = lr
            batch = augmented(images[chosen], augment, size, generator)
            batch = normalised(batch, data).contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad(set_to_none=True)
            with autocast(device):
                loss = step(model, batch, labels[chosen], rng)
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            optimizer.step()
            total += float(loss)
        if not math.isfinite(total):
            raise NasError(
                f"the loss is no longer finite in epoch {epoch + 1}; try a lower learning rate than {recipe.lr}"
            )
        row: dict[str, float] = {"epoch": epoch + 1, "loss": total / per_epoch, "learning_rate": lr}
        row["seconds"] = time.perf_counter() - started
        if evaluate is not None:
            row |= evaluate(epoch + 1)
        rows.append(row)
        if checkpoint is not None:
            _save_checkpoint(checkpoint, model, optimizer, identity, rows)
        if progress is not None:
            progress(row)
    return pd.DataFrame(rows)


def supervised(recipe: Recipe, teacher: nn.Module | None = None, *, weight: float = 0.5) -> Step:
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


@torch.no_grad()
def predict(model: nn.Module, split: Split, data: ImageData, *, batch_size: int = 512) -> Tensor:
    """Logits ``(n, classes)`` of ``model`` in eval mode for all images of ``split``."""
    model.eval()
    return torch.cat([model(x) for x in batches(split, data, input_size(model), batch_size, _device(model))])


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
    split, size, device = data.val, input_size(model), _device(model)
    correct = round(accuracy(model, split, data) * len(split))
    views = validation_views(data)
    labels = torch.from_numpy(split.labels).to(device)
    model.eval()
    with torch.no_grad():
        for view in range(1, views):
            generator = torch.Generator(device).manual_seed(view)
            images = augmented(torch.from_numpy(split.images).to(device), Augment(), size, generator)
            images = normalised(images, data).contiguous(memory_format=torch.channels_last)
            correct += int((model(images).argmax(1) == labels).sum())
    return correct / (views * len(split))


def validation_views(data: ImageData) -> int:
    """How many times ``validation_accuracy`` sees each validation image."""
    return math.ceil(VALIDATION_PREDICTIONS / len(data.val))


def batches(
    split: Split, data: ImageData, size: int, batch_size: int = 512, device: torch.device | str = "cpu"
) -> Iterator[Tensor]:
    """The images of ``split`` in order, resized and normalised, ``(<= batch_size, c, size, size)`` float32."""
    for start in range(0, len(split), batch_size):
        images = torch.from_numpy(split.images[start : start + batch_size]).to(device)
        images = normalised(resize(images.float() / 255, size), data)
        yield images.contiguous(memory_format=torch.channels_last)


def resize(images: Tensor, size: int) -> Tensor:
    """``images (n, c, h, w)`` float at ``size`` pixels; bilinear, antialiased where it shrinks."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(
        images, size=(size, size), mode="bilinear", align_corners=False, antialias=size < images.shape[-1]
    )


def normalised(images: Tensor, data: ImageData) -> Tensor:
    """Images in [0, 1] to zero mean and unit deviation per channel, by the training set's statistics."""
    mean = torch.as_tensor(data.mean, device=images.device).view(1, -1, 1, 1)
    std = torch.as_tensor(data.std, device=images.device).view(1, -1, 1, 1)
    return (images - mean) / std


def augmented(images: Tensor, augment: Augment | None, size: int, generator: torch.Generator) -> Tensor:
    """Random affine change of ``images (n, c, h, w) uint8``, sampled at ``size`` pixels; floats in [0, 1]."""
    x = images.float() / 255
    if augment is None:
        return resize(x, size)
    n, device = len(x), x.device

    def uniform(extent: float) -> Tensor:
        return (torch.rand(n, generator=generator, device=device) * 2 - 1) * extent

    angle, zoom = uniform(math.radians(augment.degrees)), 1 + uniform(augment.scale)
    mirror = torch.ones(n, device=device)
    if augment.flip:
        mirror = torch.where(torch.rand(n, generator=generator, device=device) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    shift_x, shift_y = uniform(2 * augment.shift), uniform(2 * augment.shift)
    theta = torch.stack([cos * mirror, -sin, shift_x, sin * mirror, cos, shift_y], 1).view(n, 2, 3)
    # shrinking first keeps grid_sample, which does not antialias, from skipping pixels
    x = resize(x, size) if size < x.shape[-1] else x
    grid = F.affine_grid(theta, [n, x.shape[1], size, size], align_corners=False)
    x = F.grid_sample(x, grid, align_corners=False, padding_mode="border")
    if augment.cutout:
        side = max(1, round(augment.cutout * size))
        corners = torch.randint(0, size - side + 1, (2, n, 1), generator=generator, device=device)
        line = torch.arange(size, device=device)
        inside = (line >= corners) & (line < corners + side)
        x = x.masked_fill((inside[0][:, None, :, None] & inside[1][:, None, None, :]), 0.5)
    return x


def input_size(model: nn.Module) -> int:
    """Pixels of the square input of a network or of the supernet's active architecture."""
    return model.input_shape[-1]  # type: ignore[index, return-value, unused-ignore]


def cosine(progress: float, warmup: float = 0.0) -> float:
    """Learning-rate factor at ``progress`` in [0, 1): linear warm-up, then half a cosine down to 0."""
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


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


def autocast(device: torch.device) -> torch.autocast:
    """Mixed precision where the hardware has it (bfloat16 on CUDA); elsewhere a context that changes nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def save_weights(path: Path, model: nn.Module, metadata: dict[str, str]) -> None:
    """Write the model's state as safetensors, atomically."""
    from safetensors.torch import save_file

    temporary = path.with_suffix(".tmp")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, temporary, metadata=metadata)
    os.replace(temporary, path)


def load_weights(path: Path, model: nn.Module, expected: dict[str, str]) -> None:
    """Load what ``save_weights`` wrote. Raises BadInput for a corrupt file or other metadata than ``expected``."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            for key, value in expected.items():
                if metadata.get(key) != value:
                    raise BadInput(f"{path} was made for {key} {metadata.get(key)}, this run has {key} {value}")
            model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BadInput(f"{path} is not a readable weights file for this space: {_one_line(error)}") from None


def _save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: str, rows: list[dict[str, float]]
) -> None:
    temporary = path.with_suffix(".tmp")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "identity": identity}
    torch.save(state | {"rows": json.dumps(rows)}, temporary)
    os.replace(temporary, path)


def _load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: str
) -> tuple[int, list[dict[str, float]]]:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location=_device(model))
        seen = state["identity"]
        if seen == identity:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        rows = json.loads(state["rows"])
    except Exception as error:  # a damaged file fails in many ways inside torch and zipfile
        raise BadInput(
            f"{path} is not a readable checkpoint ({_one_line(error)}); delete it to start this training again"
        ) from None
    if seen != identity:
        raise BadInput(
            f"{path} belongs to a training with other settings ({_difference(seen, identity)}); "
            "repeat those, or choose another run folder"
        )
    return len(rows), rows


def _difference(seen: str, wanted: str) -> str:
    try:
        a, b = json.loads(seen), json.loads(wanted)
        return "; ".join(f"{k}: there {a.get(k)}, here {b.get(k)}" for k in sorted({*a, *b}) if a.get(k) != b.get(k))
    except (ValueError, AttributeError):
        return f"there {seen!r}, here {wanted!r}"


def _decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    # norms, biases and kernel transforms (which start as the identity) are not pulled towards zero
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (free if parameter.ndim < 2 or ".transforms." in name else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def _device(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def describe_recipe(recipe: Recipe, augment: Augment | None, **others: object) -> str:
    """Everything that decides a training, as sorted JSON: the identity of its checkpoint."""
    return json.dumps({**asdict(recipe), "augment": asdict(augment) if augment else None, **others}, sort_keys=True)
