"""What a run folder holds, read once. Nothing here is required: a run may have ended after any stage."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nas.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The artefacts that are there; None or empty where they are not. ``tables``: by precision."""

    folder: Path
    config: dict[str, Any] | None
    stages: dict[str, float]
    tables: dict[str, dict[str, Any]]
    networks: dict[str, pd.DataFrame]
    training: pd.DataFrame | None
    objectives: list[dict[str, Any]]
    evaluations: pd.DataFrame | None
    hypervolume: pd.DataFrame | None
    candidates: list[dict[str, Any]]
    final: pd.DataFrame | None


def read_folder(folder: str | os.PathLike[str]) -> Contents:
    """Read a run folder. Raises BadInput when it does not exist, holds no artefact, or one of them is damaged."""
    root = Path(folder)
    if not root.is_dir():
        raise BadInput(f"{root} is not a folder; give the run folder of a search")
    tables = {p.stem.removeprefix("table_"): _json(p) for p in sorted(root.glob("table_*.json"))}
    networks = {
        p.stem.removeprefix("table_").removesuffix("_networks"): _csv(p, "predicted_ms", "measured_ms", "role")
        for p in sorted(root.glob("table_*_networks.csv"))
    }
    contents = Contents(
        folder=root,
        config=_json(root / "config.json"),
        stages=_json(root / "stages.json") or {},
        tables={k: v for k, v in tables.items() if v},
        networks={k: v for k, v in networks.items() if v is not None},
        training=_csv(root / "training.csv", "epoch", "loss"),
        objectives=_json(root / "objectives.json") or [],
        evaluations=_csv(root / "evaluations.csv", "on_front", "architecture"),
        hypervolume=_csv(root / "hypervolume.csv", "evaluations", "hypervolume"),
        candidates=[c for p in sorted(root.glob("candidates/*/summary.json")) if (c := _json(p))],
        final=_csv(root / "final.csv", "id"),
    )
    parts = (contents.tables, contents.training, contents.evaluations, contents.candidates, contents.final)
    if all(part is None or len(part) == 0 for part in parts):
        raise BadInput(f"{root} holds nothing to report; a run folder has tables, a training or a search in it")
    return contents


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is damaged: {error}") from None


def _csv(path: Path, *needed: str) -> pd.DataFrame | None:
    try:
        frame = pd.read_csv(io.StringIO(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is damaged: {error}") from None
    missing = [c for c in needed if c not in frame]
    if missing:
        raise BadInput(f"{path} is damaged: it has no column {missing[0]}")
    return frame
