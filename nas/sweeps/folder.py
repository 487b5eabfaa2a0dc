"""The folder of a sweep: ``trials/<settings>/`` with settings.json, and done.json or failed.json in the end."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from nas.errors import BadInput

REPORTS = "reports.jsonl"
"""What a trial reported on its way, one JSON object per line."""


def read_sweep(run_dir: str | os.PathLike[str]) -> pd.DataFrame:
    """One row per trial of a sweep folder: ``trial``, its settings, its metrics, ``error`` ('' when it finished).

    Raises BadInput when the folder holds no sweep.
    """
    rows = []
    for path in sorted((Path(run_dir) / "trials").glob("*/settings.json")):
        done, failed = path.with_name("done.json"), path.with_name("failed.json")
        row = {"trial": path.parent.name, **json.loads(path.read_text())}
        if done.exists():
            row |= {**json.loads(done.read_text()), "error": ""}
        else:
            row["error"] = json.loads(failed.read_text())["error"] if failed.exists() else "not finished"
        rows.append(row)
    if not rows:
        raise BadInput(f"{run_dir} holds no sweep; nas sweep makes one")
    return pd.DataFrame(rows)


def read_settings(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings that a sweep folder was last run with; {} when it holds no sweep."""
    path = Path(run_dir) / "sweep.json"
    try:
        return dict(json.loads(path.read_text())["settings"]) if path.exists() else {}
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{path} is damaged; delete it, and give the sweep's settings again") from None


def trial_name(settings: Mapping[str, Any]) -> str:
    """The folder of a trial: its settings in a readable form, with a digest where that form is not exact."""
    texts = {k: f"{v:.6g}" if isinstance(v, float) else str(v) for k, v in sorted(settings.items())}
    text = ",".join(f"{k}={v}" for k, v in texts.items())
    slug = re.sub(r"[^A-Za-z0-9=,._+-]+", "-", text)
    exact = slug == text and all(float(texts[k]) == v for k, v in settings.items() if isinstance(v, float))
    if exact and len(slug) <= 120:
        return slug
    return f"{slug[:110]}-{hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:8]}"


def last_report(trial: Path) -> dict[str, float]:
    """What a trial reported last, {} when nothing."""
    reports = trial / REPORTS
    lines = reports.read_text().splitlines() if reports.exists() else []
    for line in reversed(lines):
        try:
            return dict(json.loads(line))
        except ValueError:  # its process was killed while it wrote
            continue
    return {}
