"""Several quantities as one, for searchers and users that want a single number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nas.checks import Positive, checked
from nas.errors import BadInput
from nas.objectives.objective import Constraint, Objective
from nas.space import Archs, Floats


@checked
def weighted(weights: Mapping[str, Positive], objectives: Sequence[Objective], *, name: str = "weighted") -> Objective:
    """The sum of ``weights[objective.name] * objective``, to be maximised; what is to be minimised counts negatively.

    All weights are positive. Raises BadInput when a weight is missing, not positive, or of no objective given.
    """
    objectives = tuple(objectives)
    names = [o.name for o in objectives]
    if set(weights) != set(names) or not all(w > 0 for w in weights.values()):
        raise BadInput(f"a positive weight for each of {', '.join(names)} is needed, got {dict(weights)}")

    def total(archs: Archs) -> Floats:
        return -np.sum([weights[o.name] * o.cost(o(archs)) for o in objectives], axis=0)

    return Objective(
        name=name,
        fn=total,
        maximize=True,
        cheap=all(o.cheap for o in objectives),
        identity=f"{name} " + " + ".join(f"{weights[o.name]:g} {o.maximize} {o.identity}" for o in objectives),
    )


@checked
def penalized(objective: Objective, *constraints: Constraint, weight: Positive = 1.0) -> Objective:
    """``objective``, made worse by ``weight`` times the relative violation of ``constraints`` (0 where they are met).

    Raises BadInput without constraints.
    """
    if not constraints:
        raise BadInput("penalized needs at least one constraint, such as latency <= 5.0")

    def penalty(archs: Archs) -> Floats:
        missed = np.sum([c.violation(c.objective(archs)) for c in constraints], axis=0)
        return objective(archs) + objective.cost(weight * missed)

    bounds = " ".join(f"{c} {c.objective.identity}" for c in constraints)
    return Objective(
        name=f"penalized_{objective.name}",
        fn=penalty,
        unit=objective.unit,
        maximize=objective.maximize,
        cheap=objective.cheap and all(c.objective.cheap for c in constraints),
        identity=f"{objective.identity} penalized {weight:g} {bounds}",
    )
