"""Activations: the one list, with what each is in torch and in LiteRT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nas.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Activation:
    """``torch``: the function, by its name below ``torch``. ``gate``: of squeeze-excite, not what a block's ``act`` can be.

    In LiteRT: ``fused`` into the operator before, whose bias is raised by ``shift``; then ``operator``, multiplied by its
    own input where ``by_input``; then multiplied by ``factor``.
    """

    torch: str
    gate: bool = False
    fused: str = "NONE"
    shift: float = 0.0
    operator: str = ""
    by_input: bool = False
    factor: float = 1.0


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(torch="nn.functional.relu", fused="RELU"),
    "relu6": Activation(torch="nn.functional.relu6", fused="RELU6"),
    "hswish": Activation(torch="nn.functional.hardswish", operator="HARD_SWISH"),
    "silu": Activation(torch="nn.functional.silu", operator="LOGISTIC", by_input=True),
    "sigmoid": Activation(torch="sigmoid", gate=True, operator="LOGISTIC"),
    # relu6(x + 3) / 6
    "hsigmoid": Activation(torch="nn.functional.hardsigmoid", gate=True, fused="RELU6", shift=3.0, factor=1 / 6),
}

if TYPE_CHECKING:
    Act = str
else:
    Act = Literal[tuple(name for name, activation in ACTIVATIONS.items() if not activation.gate)]
    """An activation that a block can have."""


def activation(name: str) -> Activation | None:
    """The activation of that name, None for "". Raises BadInput for a name that is not in the list."""
    if name and name not in ACTIVATIONS:
        raise BadInput(f"an activation is one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name] if name else None
