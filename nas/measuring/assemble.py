"""The table that a campaign's timings make, shared by every way of measuring: here, over SSH, on a device without Python."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from nas.device import Device
from nas.errors import BadInput
from nas.measuring.plan import Plan
from nas.space import Floats
from nas.tables.fit.calibration import fit_calibration
from nas.tables.fit.refine import refined
from nas.tables.table import LatencyTable
from nas.tables.validation import validated


def assemble(
    plan: Plan,
    device: Device,
    rows: pd.DataFrame,
    network_ms: Floats,
    *,
    kind: str = "measured",
    source: str = "",
    notes: Mapping[str, Any] | None = None,
) -> tuple[LatencyTable, pd.DataFrame]:
    """The table of a finished campaign, and its networks (role, architecture, predicted_ms, measured_ms).

    ``rows``: columns block, latency_ms, p10_ms, p90_ms, runs, and perhaps energy_mj: blocks timed alone, in ms.
    ``network_ms (calibrate + validate,)``: NaN where a network could not be timed; so are networks with a block that
    ``rows`` lacks left out. Raises BadInput when fewer than 8 networks are left to fit or 2 to judge by.
    """
    table = LatencyTable(
        device=device,
        rows=rows.reset_index(drop=True),
        kind=kind,
        space={"name": plan.space.name, "fingerprint": plan.space.fingerprint},
        date=datetime.date.today().isoformat(),
        source=source,
        notes=dict(notes or {}),
    )
    networks = plan.space.networks(plan.archs)
    alone = dict(zip(table.rows["block"], table.rows["latency_ms"], strict=True))
    usable = np.isfinite(network_ms) & np.array([all(b.key in alone for b in blocks) for blocks in networks])
    is_first = np.arange(len(networks)) < len(plan.calibrate)
    first, second = np.flatnonzero(usable & is_first), np.flatnonzero(usable & ~is_first)
    if len(first) < 8 or len(second) < 2:
        raise BadInput(
            f"only {len(first)} networks to calibrate and {len(second)} to validate with could be timed, of "
            f"{len(plan.calibrate)} and {len(plan.validate)}; a table needs 8 and 2"
        )
    seen, times = [networks[i] for i in first], [np.array([alone[b.key] for b in networks[i]]) for i in first]
    table = replace(table, calibration=fit_calibration(seen, times, network_ms[first]))
    table = refined(table, plan.space, seen, network_ms[first])
    predicted = np.array([table.predict(blocks) if ok else np.nan for blocks, ok in zip(networks, usable, strict=True)])
    frame = {
        "role": np.where(is_first, "calibrate", "validate"),
        "architecture": plan.space.describe(plan.archs),
        "predicted_ms": predicted,
        "measured_ms": network_ms,
    }
    return replace(table, validation=validated(predicted[second], network_ms[second])), pd.DataFrame(frame)
