"""The folder of a sweep, and how each file in it is read.

sweep.json                         what was swept last        Sweep
trials/<name>/settings.json        of one trial
trials/<name>/reports.jsonl        what it reported on its way
trials/<name>/done.json            its numbers                Numbers
trials/<name>/failed.json          or why there are none      Failed
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from nas.errors import BadInput
from nas.files import file_name, folder_of, read_json, read_text
from nas.runs.artefacts import Amount

SWEEP, TRIALS = "sweep.json", "trials"
SETTINGS, REPORTS, DONE, FAILED = "settings.json", "reports.jsonl", "done.json", "failed.json"

Scalar = str | int | float | bool | None
Numbers = dict[str, float | None]
"""By name; None in a file stands for a number that is none."""
_LONGEST = 90  # characters of a trial's readable name, so that a digest still fits behind it


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """``sweep.json``. ``trial``: the function; ``settings``: fixed ones, alternatives (a list), and domains as texts."""

    trial: str = ""
    settings: dict[str, Scalar | list[Scalar]]
    samples: Amount = 1
    seed: Amount = 0


@dataclass(frozen=True, kw_only=True)
class Failed:
    """``failed.json``: why a trial has no result, in a line, and where in its code."""

    error: str
    traceback: str = ""


def read_sweep(run_dir: str | os.PathLike[str]) -> pd.DataFrame:
    """One row per trial of a sweep folder: ``trial``, its settings, its metrics, ``error`` ('' when it finished).

    Raises BadInput when the folder holds no sweep, or a file in it is damaged.
    """
    rows = []
    for path in sorted((folder_of(run_dir, "sweep folder") / TRIALS).glob(f"*/{SETTINGS}")):
        trial = path.parent
        row: dict[str, Any] = {"trial": trial.name, **read_json(path, dict[str, Scalar])}
        if (trial / DONE).exists():
            row |= {**read_numbers(trial / DONE), "error": ""}
        else:
            row["error"] = read_json(trial / FAILED, Failed).error if (trial / FAILED).exists() else "not finished"
        rows.append(row)
    if not rows:
        raise BadInput(f"{run_dir} holds no sweep; nas sweep makes one")
    return pd.DataFrame(rows)


def read_sweep_record(run_dir: str | os.PathLike[str]) -> Sweep | None:
    """What a sweep folder was last run with; None when it holds no sweep."""
    path = folder_of(run_dir, "sweep folder") / SWEEP
    return read_json(path, Sweep) if path.exists() else None


def read_numbers(path: Path) -> dict[str, float]:
    """The numbers of a trial that is done. Raises BadInput when the file is damaged."""
    return {k: math.nan if v is None else v for k, v in read_json(path, Numbers).items()}


def trial_name(settings: Mapping[str, Any]) -> str:
    """The folder of a trial: its settings in a readable form, with a digest where that form is not exact.

    Raises BadInput for a setting whose name cannot be part of a file's.
    """
    ordered = [(file_name(name, "the name of a setting"), value) for name, value in sorted(settings.items())]
    text = ",".join(f"{k}={v:.6g}" if isinstance(v, float) else f"{k}={v}" for k, v in ordered)
    slug = re.sub(r"[^A-Za-z0-9=,._+-]+", "-", text)
    if all(_exact(value) for _, value in ordered) and len(slug) <= _LONGEST:
        return slug
    return f"{slug[:_LONGEST]}-{hashlib.sha256(repr(ordered).encode()).hexdigest()[:8]}"


def last_report(trial: Path) -> dict[str, float]:
    """What a trial reported last, {} when nothing."""
    reports = trial / REPORTS
    lines = read_text(reports).splitlines() if reports.exists() else []
    for line in reversed(lines):
        try:
            last = msgspec.json.decode(line, type=Numbers)
        except msgspec.MsgspecError:  # its process was killed while it wrote
            continue
        return {k: math.nan if v is None else v for k, v in last.items()}
    return {}


def _exact(value: Any) -> bool:
    """Whether the value is told from all others by how it reads in a name."""
    if isinstance(value, str):  # no text that could be a number, a constant or another setting
        return re.fullmatch(r"[A-Za-z_][A-Za-z0-9._+-]*", value) is not None and value.lower() not in _CONSTANTS
    return not isinstance(value, float) or float(f"{value:.6g}") == value


_CONSTANTS = ("true", "false", "none", "nan", "inf", "infinity")
