"""Scoring batches of architectures: a failure is text beside its row, never the end of a search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nas.objectives.objective import Objective, values_of
from nas.space import Archs, Floats


def score(objectives: Sequence[Objective], archs: Archs) -> tuple[dict[str, Floats], NDArray[np.object_]]:
    """``{name: (n,)}`` and the text of the first failure of each row, ``(n,)``, '' where there was none."""
    errors = np.full(len(archs), "", dtype=object)
    values: dict[str, Floats] = {}
    for objective in objectives:
        values[objective.name], failed = _column(objective, archs)
        if failed is not None:
            errors = np.where(errors == "", failed, errors)
    return values, errors


def _column(objective: Objective, archs: Archs) -> tuple[Floats, NDArray[np.object_] | None]:
    if not len(archs):
        return np.empty(0), None
    try:
        returned = objective.fn(archs)
    except Exception as failure:  # whatever it was: the search goes on, and the ledger says what happened
        return _failed(objective, archs, failure)
    values = values_of(
        objective.name, returned, len(archs)
    )  # a wrong shape is wrong for all: that does stop the search
    finite = np.isfinite(values)
    low, high = objective.within or (-np.inf, np.inf)
    fine = finite & (values >= low) & (values <= high)
    if fine.all():
        return values, None
    texts = np.full(len(archs), "", dtype=object)
    for row in np.flatnonzero(~fine):
        wrong = f"not from {low:g} to {high:g}" if finite[row] else "not a finite number"
        texts[row] = f"{objective.name}: {wrong} ({values[row]})"
    return np.where(fine, values, np.nan), texts


def _failed(objective: Objective, archs: Archs, failure: Exception) -> tuple[Floats, NDArray[np.object_] | None]:
    if len(archs) == 1:
        text = f"{objective.name}: {type(failure).__name__}: {failure}"
        return np.full(1, np.nan), np.array([text], dtype=object)
    each = [_column(objective, arch[None]) for arch in archs]  # not all of them need fail
    errors = [np.array([""], dtype=object) if e is None else e for _, e in each]
    return np.concatenate([v for v, _ in each]), np.concatenate(errors)
