"""Accuracy by a predictor trained on networks that were evaluated: cheap, and honest about what it does not know."""

from __future__ import annotations

import hashlib
from typing import Annotated

import numpy as np
from msgspec import Meta

from nas.checks import checked
from nas.engine.result import SearchResult
from nas.errors import BadInput
from nas.objectives.objective import Objective
from nas.objectives.predictor import Predictor

Examples = Annotated[int, Meta(ge=20, le=100_000)]
_MOST = 1500  # examples; a fit takes time with their number cubed


@checked
def predicted(result: SearchResult, objective: Objective, *, most: Examples = _MOST) -> Objective:
    """``objective`` as a Gaussian process predicts it from the good rows of a search (its last ``most``).

    For a second, cheap level of search: tens of thousands of architectures a second instead of one. Raises BadInput
    when the search has fewer than 20 good rows, or not this objective.
    """
    rows = np.flatnonzero(result.good)[-most:]
    if len(rows) < 20:
        raise BadInput(f"a predictor needs at least 20 evaluated architectures, the search has {len(rows)} good ones")
    archs, values = result.archs[rows], result.column(objective)[rows]
    predictor = Predictor(result.space, archs, values)
    digest = hashlib.sha256(archs.tobytes() + values.tobytes()).hexdigest()[:16]
    return Objective(
        name=f"predicted_{objective.name}",
        fn=lambda a: predictor.predict(a)[0],
        unit=objective.unit,
        maximize=objective.maximize,
        identity=f"predicted from {digest} {result.space.fingerprint}",
    )
