"""From a campaign's log to its table, however it was measured: here, over SSH, by a kit on a device without nas."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.device import Device
from nas.errors import BadInput
from nas.files import file_name, first_line, folder_of, write_text
from nas.measuring.assemble import assemble
from nas.measuring.energy import with_energy
from nas.measuring.plan import Plan
from nas.on_device.campaign import DISTURBED
from nas.on_device.device import warnings
from nas.on_device.outputs import Problem
from nas.on_device.results import Results
from nas.tables.names import networks_path, table_stem
from nas.tables.table import COLUMNS, LatencyTable
from nas.tables.validation import repeatability


@contextlib.contextmanager
def problems_are_bad_input() -> Iterator[None]:
    """What the parts that run without nas raise for the user, as this library does."""
    try:
        yield
    except Problem as error:
        raise BadInput(str(error)) from None


def stem_of(run_dir: str | os.PathLike[str], name: str | None, precision: str) -> Path:
    """Where a table goes, without its ending. Raises BadInput for a name that leaves ``run_dir``, or no folder."""
    folder = folder_of(run_dir)
    return (
        table_stem(folder, precision, "precision") if name is None else folder / file_name(name, "the name of a table")
    )


def beside(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def already(stem: Path, begun: Path, resume: object, plan: Plan, **asked: object) -> LatencyTable | None:
    """The table, when it is finished. ``asked``: fields of its device, and notes.

    Raises BadInput when there is one, or one was begun, and ``resume`` is false, or when it is not what is asked for.
    """
    is_finished = beside(stem, ".json").exists()
    if (is_finished or begun.exists()) and not resume:
        raise BadInput(f"{stem.parent} already holds {stem.name}; pass resume (--resume) to use it, or another folder")
    if not is_finished:
        return None
    table = LatencyTable.load(stem)
    there = {"energy": "", **asdict(table.device), **table.notes, "space": table.space.get("fingerprint")}
    asked["space"] = plan.space.fingerprint
    differing = [f"{k} ({there[k]}, now {now})" for k, now in asked.items() if k in there and there[k] != now]
    networks = networks_path(stem)
    if networks.exists() and _architectures(networks) != plan.space.describe(plan.archs):
        differing.append("choice of networks (calibrate, validate, seed)")
    if differing:
        raise BadInput(f"{stem} is a table of another {' and another '.join(differing)}; choose another folder or name")
    return table


def _architectures(path: Path) -> list[str]:
    try:
        return list(pd.read_csv(path)["architecture"])
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{path} is damaged: {first_line(error)}") from None


@dataclass(frozen=True, kw_only=True)
class Finished:
    """``networks``: role, architecture, predicted_ms, measured_ms. ``windows``: block, begin, end, watts (maybe NaN)."""

    table: LatencyTable
    networks: pd.DataFrame
    windows: pd.DataFrame

    def save(self, stem: Path, *, windows: bool = False) -> LatencyTable:
        """Write the table and its networks, and log its warnings; returns the table as it can be read again."""
        for line in self.table.notes["warnings"]:
            logging.getLogger("nas").info("note: %s", line)
        if windows:
            write_text(beside(stem, "_windows.csv"), self.windows.to_csv(index=False))
        write_text(networks_path(stem), self.networks.to_csv(index=False, float_format="%.6g"))
        self.table.save(stem)
        return LatencyTable.load(stem)


def finished(
    plan: Plan,
    device: Device,
    models: Sequence[Mapping[str, Any]],
    results: Results,
    *,
    source: str,
    kind: str = "measured",
    notes: Mapping[str, Any] | None = None,
) -> Finished:
    """The table of a log that is complete. ``models``: what was to be timed, as ``Plan.models`` has it.

    Raises BadInput when too little could be timed (``assemble``).
    """
    blocks = {m["key"]: results.timed[m["file"]] for m in models if m["role"] == "block" and m["file"] in results.timed}
    order = {block.key: i for i, block in enumerate(plan.space.blocks)}
    timed = sorted(blocks.items(), key=lambda item: order[item[0]])
    rows = pd.DataFrame(
        [[key, t["ms"], t["p10_ms"], t["p90_ms"], t["runs"]] for key, t in timed], columns=list(COLUMNS)
    )
    whole = [m["file"] for m in models if m["role"] != "block"]
    network_ms = np.array([results.timed.get(file, {}).get("ms", np.nan) for file in whole], dtype=float)
    windows = pd.DataFrame(
        [[key, t["begin"], t["end"], t.get("watts", np.nan)] for key, t in timed if "begin" in t],
        columns=["block", "begin", "end", "watts"],
    )
    noted = {**(notes or {}), **_notes(models, results)}
    table, networks = assemble(plan, device, rows, network_ms, kind=kind, source=source, notes=noted)
    if len(windows) == len(rows) and windows["watts"].notna().all():
        table = with_energy(table, windows)
    return Finished(table=table, networks=networks, windows=windows)


def _notes(models: Sequence[Mapping[str, Any]], results: Results) -> dict[str, Any]:
    before, after = (results.conditions or [{}])[0], (results.conditions or [{}])[-1]
    failed = {m["key"]: results.failed[m["file"]] for m in models if m["file"] in results.failed}
    disturbed = sum(r["disturbed"] for r in results.references)
    said = warnings(before, after)
    if disturbed:
        said.append(
            f"{disturbed} of {len(results.references)} groups ran while the reference block was more than "
            f"{DISTURBED - 1:.0%} slower than usual, however often they were timed"
        )
    notes: dict[str, Any] = {
        "conditions": {"before": before, "after": after},
        "seconds": round(max(results.at) - min(results.at)) if results.at else 0,
        "warnings": [*said, *(f"[{key}] failed: {text}" for key, text in failed.items())],
        "failed": failed,
    }
    if drift := results.usual("block"):
        notes["reference_drift"] = round(max(drift) / min(drift) - 1, 4)
    if twice := [f for f in results.again if f in results.timed]:
        once, again = (np.array([r[f]["ms"] for f in twice]) for r in (results.timed, results.again))
        notes["repeatability"] = repeatability(once, again)
    return notes
