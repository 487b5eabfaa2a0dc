"""The settings of a training, and what is checked about them before anything is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from msgspec import Meta

from nas.checks import Batch, Count, Positive, Probability, Share, checked
from nas.errors import BadInput
from nas.files import first_line


@checked
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Stochastic gradient descent with Nesterov momentum and a cosine schedule."""

    epochs: Annotated[Count, "epochs of training"]
    batch_size: Annotated[Batch, "images per step"] = 128
    lr: Annotated[Positive, "peak learning rate"] = 0.1
    momentum: Share = 0.9
    weight_decay: Annotated[float, Meta(ge=0, le=1)] = 3e-5
    label_smoothing: Annotated[Share, "share of the target that is spread over all classes"] = 0.1
    warmup: Annotated[Share, "share of all steps in which the learning rate rises"] = 0.05
    clip_norm: Annotated[Positive, "largest norm of the gradient"] = 5.0

    @checked
    def learning_rate(self, progress: Probability) -> float:
        """At ``progress`` in [0, 1) of the training."""
        return self.lr * cosine(progress, self.warmup)


def cosine(progress: float, warmup: float = 0.0) -> float:
    """Learning-rate factor at ``progress`` in [0, 1): linear warm-up, then half a cosine down to 0."""
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def torch_device(name: str | torch.device) -> torch.device:
    """The device of that name, tried out. Raises BadInput when torch does not know it or this machine lacks it."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise BadInput(
            f"device is 'cpu', or one such as 'cuda' that this machine has, got {str(name)[:60]!r} ({first_line(error, 80)})"
        ) from None
    return device


def precision_of(device: torch.device) -> str:
    """Of the arithmetic of a training there: bfloat16 where the hardware has it, "fp32" elsewhere."""
    return "bf16" if device.type == "cuda" else "fp32"
