"""The settings of a training, and what is checked about them before anything is made."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from msgspec import Meta
from torch import Tensor
from torch.nn import functional as F

from nas.blocks import LATER
from nas.checks import Batch, Count, CountOrNone, Positive, Probability, Share, checked, shown
from nas.errors import BadInput
from nas.files import first_line

Alpha = Annotated[float, Meta(ge=0, le=100)]
Precision = Literal["auto", "fp32", "bf16"]


@checked
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long and by what rule a training goes: SGD with Nesterov momentum and a cosine schedule, unless it says otherwise.

    ``body_lr``: what the layers before the classifier learn at, as a factor of ``lr``: little, when they come
    pretrained. ``freeze``: "norms" (batch norm normalises by the statistics it came with; single networks only), or how
    many of the first blocks stay as they are. ``ema``: the weights are averaged over the steps by that decay, and the
    averaged ones are evaluated and kept. ``mixup`` (Zhang et al. 2018) and ``cutmix`` (Yun et al. 2019): the parameter
    of their beta distribution; with both, every batch is of one. ``patience``: training ends when validation accuracy
    has not risen for so many epochs, and the weights of the best epoch are kept. ``accumulate``: a batch goes through in
    so many parts, and ``recompute`` keeps no activations within blocks: less memory, the same gradient (batch norm sees
    the parts). ``precision``: "auto" is bf16 on a GPU that has it, else fp32.

    Functions of one's own: ``optimizer(groups)`` of torch parameter groups with their ``lr`` and ``weight_decay``, such
    as ``torch.optim.AdamW``; ``schedule(progress)``, the factor of ``lr`` at a progress in [0, 1); ``loss(logits,
    labels)``, a scalar, of labels ``(n,)``, or ``(n, classes)`` shares with mixup or cutmix. By their names they are part of
    what a checkpoint belongs to. What they raise is raised as it is.
    """

    epochs: Annotated[Count, "epochs of training"]
    batch_size: Annotated[Batch, "images per step"] = 128
    lr: Annotated[Positive, "peak learning rate"] = 0.1
    momentum: Share = 0.9
    weight_decay: Annotated[float, Meta(ge=0, le=1)] = 3e-5
    label_smoothing: Annotated[Share, "share of the target that is spread over all classes"] = 0.1
    warmup: Annotated[Share, "share of all steps in which the learning rate rises"] = 0.05
    clip_norm: Annotated[Positive, "largest norm of the gradient"] = 5.0
    body_lr: Annotated[Probability, "learning rate before the classifier, as a factor"] = field(
        default=1.0, metadata=LATER
    )
    freeze: Annotated[Literal["norms"] | CountOrNone, "norms, or a number of first blocks"] = field(
        default=0, metadata=LATER
    )
    ema: Annotated[Share, "decay of the averaged weights; 0: none"] = field(default=0.0, metadata=LATER)
    mixup: Annotated[Alpha, "0: none"] = field(default=0.0, metadata=LATER)
    cutmix: Annotated[Alpha, "0: none"] = field(default=0.0, metadata=LATER)
    patience: Annotated[CountOrNone, "epochs without a better one; 0: train to the end"] = field(
        default=0, metadata=LATER
    )
    accumulate: Annotated[Batch, "parts of a batch"] = field(default=1, metadata=LATER)
    recompute: bool = field(default=False, metadata=LATER)
    precision: Precision = field(default="auto", metadata=LATER)
    optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] | None = field(default=None, metadata=LATER)
    schedule: Callable[[float], float] | None = field(default=None, metadata=LATER)
    loss: Callable[[Tensor, Tensor], Tensor] | None = field(default=None, metadata=LATER)

    @checked
    def learning_rate(self, progress: Probability) -> float:
        """At ``progress`` in [0, 1) of the training. Raises BadInput when a schedule of one's own gives no rate."""
        factor = cosine(progress, self.warmup) if self.schedule is None else self.schedule(progress)
        if not (isinstance(factor, int | float) and 0 <= factor < math.inf):
            raise BadInput(
                f"a schedule gives factors of the learning rate, at least 0, got {shown(factor)} at {progress:g}"
            )
        return self.lr * factor

    @checked
    def label_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Scalar, of ``logits (n, classes)`` and ``labels (n,)`` or ``(n, classes)`` shares.

        Raises BadInput when a loss of one's own is no scalar.
        """
        if self.loss is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        loss = self.loss(logits, labels)
        if not isinstance(loss, Tensor) or loss.ndim:
            seen = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else shown(loss)
            raise BadInput(f"a loss is one number, a tensor without dimensions, got {seen}")
        return loss


def settled(default: Recipe | None, recipe: Recipe | None, **given: Any) -> Recipe:
    """``recipe``, or ``default`` with what is ``given`` (what is None is not).

    Raises BadInput when neither says how long to train, or something is given that ``recipe`` says otherwise.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if recipe is None:
        if default is None and "epochs" not in given:
            raise BadInput("say how long to train: epochs=50, or recipe=Recipe(epochs=50, ...)")
        return Recipe(**given) if default is None else replace(default, **given)
    for name, value in given.items():
        if value != getattr(recipe, name):
            raise BadInput(f"{name} is {value} but recipe.{name} is {getattr(recipe, name)}; give one of them")
    return recipe


def stated(settings: Any) -> Any:
    """A recipe or augmentation, JSON-serialisable: functions by name, and settings added later only where they are used."""
    if callable(settings):
        return function_name(settings)
    found = {f.name: (getattr(settings, f.name), f) for f in fields(settings)}
    told = {name: value for name, (value, f) in found.items() if not f.metadata or value != f.default}
    return {name: function_name(value) if callable(value) else value for name, value in told.items()}


def function_name(function: Any) -> str:
    """What tells a function, class or callable object from others, in every process alike."""
    if isinstance(function, functools.partial):
        keywords = (f"{name}={_argument(value)}" for name, value in function.keywords.items())
        return f"{function_name(function.func)}({', '.join([*map(_argument, function.args), *keywords])})"
    if hasattr(function, "__qualname__"):
        return f"{function.__module__}.{function.__qualname__}"
    return _argument(function)


def _argument(value: Any) -> str:
    if callable(value) and hasattr(value, "__qualname__"):
        return function_name(value)
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))  # where an object lies says nothing about it


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


def precision_of(device: torch.device, wanted: Precision = "auto") -> str:
    """Of the arithmetic of a training there, "bf16" or "fp32". Raises BadInput for bf16 where the hardware lacks it."""
    if wanted == "auto":
        return "bf16" if device.type == "cuda" and has_bf16(device) else "fp32"
    if wanted == "bf16" and not has_bf16(device):
        raise BadInput(f"precision is bf16, which this machine's {device} has no instructions for; take auto or fp32")
    return wanted


@functools.cache
def has_bf16(device: torch.device) -> bool:
    """Whether the hardware computes in bfloat16 itself."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text() if device.type == "cpu" else ""
    except OSError:  # not Linux
        return False
    return bool(re.search(r"^(flags|Features)\b.*\b(avx512_bf16|amx_bf16|bf16)\b", flags, re.MULTILINE))
