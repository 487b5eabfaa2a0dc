"""Compression: steps that change a network, and the pipeline that measures it before the first and after every one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from nas.checks import hints_of, parsed
from nas.discovery import Files, made_in
from nas.errors import BadInput

if TYPE_CHECKING:
    from nas.compression.step import Step

_STEPS = Files(package="nas.compression.steps", kind="compression step")


def names() -> tuple[str, ...]:
    """Of all steps, such as "fine-tune"; imports none of them."""
    return _STEPS.names()


def named(name: str) -> type[Step]:
    """The class of the step of that name: its fields are its settings. Raises BadInput when there is none."""
    return cast("type[Step]", next(c for c in made_in(_STEPS.named(name)) if hasattr(c, "apply")))


def step_of(text: str) -> Step:
    """The step that a text stands for, such as "prune" or "prune:ratio=0.5,round_to=8".

    Raises BadInput for a name that is no step, a setting that it does not have, or a value out of its range.
    """
    name, _, given = text.partition(":")
    made = named(name.strip())
    hints, settings = hints_of(made), dict[str, Any]()
    for pair in filter(None, given.split(",")):
        key, _, value = (part.strip() for part in pair.partition("="))
        if key not in hints:
            raise BadInput(f"{name} has no setting {key!r}; it has {', '.join(hints)}")
        settings[key] = parsed(f"{name}'s {key}", value, hints[key])
    return made(**settings)
