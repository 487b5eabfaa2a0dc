"""A finished search as an Optuna study, for optuna-dashboard."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import optuna
from sqlalchemy.exc import SQLAlchemyError  # Optuna brings it

from nas.checks import FilePath, Text, checked
from nas.engine.result import SearchResult
from nas.errors import BadInput
from nas.files import first_line, replacing
from nas.searchers.optuna_tpe import VIOLATION, quiet


@checked
def to_optuna(result: SearchResult, path: FilePath, *, name: Text = "search") -> Path:
    """Add a finished search as the study ``name`` to an SQLite file: ``optuna-dashboard sqlite:///<path>`` opens it.

    Parameters are the choices' values, objectives keep their names and directions, failed evaluations are failed trials
    with the text of what went wrong, and violations are constraints. The file is made when it does not exist and is
    replaced as a whole. Raises BadInput when it has a study of that name or cannot be written.
    """
    path = Path(path)
    try:
        with replacing(path) as partial, quiet():
            if path.exists():
                shutil.copyfile(path, partial)
            _write(result, partial, name)
    except optuna.exceptions.DuplicatedStudyError:
        raise BadInput(f"{path} already has a study called {name!r}; choose another file or name") from None
    except (RuntimeError, optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        raise BadInput(f"cannot write an Optuna study to {path}: {first_line(error)}") from None
    return path


def _write(result: SearchResult, path: Path, name: str) -> None:
    values = {c.name: optuna.distributions.CategoricalDistribution(c.values) for c in result.space.choices}
    missed = np.where(result.violation > 0, result.violation, 0.0)
    trials = []
    for row, config in enumerate(result.space.decode(result.archs)):
        error = str(result.error[row])
        fine = not error and bool(np.isfinite(result.values[row]).all())
        trials.append(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.COMPLETE if fine else optuna.trial.TrialState.FAIL,
                values=result.values[row].tolist() if fine else None,
                params=config,
                distributions={choice: values[choice] for choice in config},
                user_attrs={"error": error} if error else {},
                constraints={VIOLATION: float(missed[row])} if missed.any() else {},
            )
        )
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
