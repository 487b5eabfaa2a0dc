"""A finished search as an Optuna study, for optuna-dashboard."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from sqlalchemy.exc import SQLAlchemyError  # Optuna brings it

from nas.checks import FilePath, Text, checked
from nas.engine.result import SearchResult
from nas.errors import BadInput
from nas.searchers.optuna_tpe import VIOLATION, quiet
from nas.space import Floats


@checked
def to_optuna(result: SearchResult, path: FilePath, *, name: Text = "search") -> Path:
    """Add a finished search as the study ``name`` to an SQLite file: ``optuna-dashboard sqlite:///<path>`` opens it.

    Parameters are the choices' values, objectives keep their names and directions, failed evaluations are failed trials
    with the text of what went wrong, and violations are constraints. The file is made when it does not exist and is
    replaced as a whole. Raises BadInput when it has a study of that name or cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        if path.exists():
            shutil.copyfile(path, partial)
        with quiet():
            _write(result, partial, name)
        os.replace(partial, path)
    except optuna.exceptions.DuplicatedStudyError:
        raise BadInput(f"{path} already has a study called {name!r}; choose another file or name") from None
    except (OSError, RuntimeError, optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        raise BadInput(f"cannot write an Optuna study to {path}: {str(error).splitlines()[0]}") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return path


def _write(result: SearchResult, path: Path, name: str) -> None:
    values = {c.name: optuna.distributions.CategoricalDistribution(c.values) for c in result.space.choices}
    missed = np.where(result.violation > 0, result.violation, 0.0)
    trials = [
        _finished(
            config,
            {choice: values[choice] for choice in config},
            np.where(result.error[row] == "", result.values[row], np.nan),
            {VIOLATION: float(missed[row])} if missed.any() else {},
            str(result.error[row]),
        )
        for row, config in enumerate(result.space.decode(result.archs))
    ]
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=["maximize" if o.maximize else "minimize" for o in result.objectives],
        )
        study.set_metric_names([o.name for o in result.objectives])
        study.add_trials(trials)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _finished(
    params: dict[str, Any],
    distributions: dict[str, Any],
    values: Floats,
    constraints: dict[str, float],
    error: str = "",
) -> Any:
    """A trial that is over; failed when a value is missing."""
    fine = bool(np.isfinite(values).all())
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.COMPLETE if fine else optuna.trial.TrialState.FAIL,
        values=values.tolist() if fine else None,
        params=params,
        distributions=distributions,
        user_attrs={"error": error} if error else {},
        constraints=constraints,
    )
