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


def trial_name(settings: Mapping[str, Any]) -> str:
    """The folder of a trial: its settings in a readable form, shortened with a digest where that would be too long."""
    text = ",".join(f"{k}={v:.6g}" if isinstance(v, float) else f"{k}={v}" for k, v in sorted(settings.items()))
    slug = re.sub(r"[^A-Za-z0-9=,._-]+", "-", text)
    if len(slug) <= 120 and slug == text:
        return slug
    return f"{slug[:110]}-{hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:8]}"
