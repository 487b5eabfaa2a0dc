"""What a search is about: the space, the objectives, the constraints; checked once, and described for the ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nas.errors import BadInput
from nas.objectives.objective import Constraint, Objective
from nas.space import Archs, Floats, SearchSpace


@dataclass(frozen=True, kw_only=True)
class Problem:
    """``objectives``: what is optimised; ``constraints``: on these and on other objectives.

    ``first (n, genes)``: what is evaluated before anything else.
    """

    space: SearchSpace
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    first: Archs

    @staticmethod
    def of(
        space: SearchSpace,
        objectives: Sequence[Objective | Callable[[Archs], ArrayLike]],
        constraints: Sequence[Constraint],
        first: Archs | None = None,
    ) -> Problem:
        """Raises BadInput for what is no objective, constraint or architecture, no objective, or two of the same name."""
        if isinstance(objectives, Objective) or not isinstance(objectives, Sequence) or not objectives:
            raise BadInput("a search needs a list of at least one objective, such as [accuracy, latency]")
        made = tuple(Objective.of(o) for o in objectives)
        if wrong := [c for c in constraints if not isinstance(c, Constraint)]:
            raise BadInput(f"constraints are written like latency <= 2.0, got {wrong[0]!r}")
        names = [o.name for o in made]
        if len(set(names)) != len(names):
            raise BadInput(f"two objectives have the same name: {', '.join(names)}; pass name= to one of them")
        known = np.zeros((0, space.genes), np.uint8) if first is None else space.canonical(space.check(first))
        problem = Problem(space=space, objectives=made, constraints=tuple(constraints), first=known)
        problem._check_constraints()
        return problem

    @cached_property
    def everything(self) -> tuple[Objective, ...]:
        """All different objectives: the search's own first, then those that only constraints are on."""
        unique = {o.name: o for o in self.objectives}
        for constraint in self.constraints:
            unique.setdefault(constraint.objective.name, constraint.objective)
        return tuple(unique.values())

    @property
    def costly(self) -> tuple[Objective, ...]:
        return tuple(o for o in self.everything if not o.cheap)

    def costs(self, values: Floats) -> Floats:
        """``values (n, everything)`` as costs ``(n, objectives)``."""
        return np.column_stack([o.cost(values[:, i]) for i, o in enumerate(self.objectives)])

    def described(self) -> dict[str, Any]:
        """What decides the values of a search, for its ledger."""
        return {
            "space": space_text(self.space),
            "objectives": tuple(o.record for o in self.objectives),
            "constraints": tuple((c.objective.name, c.sense, c.bound, c.objective.identity) for c in self.constraints),
            "first": hashlib.sha256(self.first.tobytes()).hexdigest()[:16] if len(self.first) else "",
        }

    def _check_constraints(self) -> None:
        known = {o.name: o for o in self.everything}
        for constraint in self.constraints:
            own = constraint.objective
            other = known[own.name]
            # the same name with another meaning (latency on another device) would silently bound the wrong quantity
            if other is not own and other.fn is not own.fn and not (own.identity and own.identity == other.identity):
                raise BadInput(
                    f"the constraint {constraint} is on another objective than the one called {own.name}; pass name="
                )


def space_text(space: SearchSpace) -> str:
    """The space as a ledger names it."""
    return f"{space.name} {space.fingerprint}"
