"""Latency tables: what each block costs on one device, and how wrong their sum is."""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nas.blocks import Block, from_key
from nas.device import Device
from nas.errors import BadInput, MissingBlocks
from nas.files import write_text
from nas.space import SearchSpace
from nas.tables.fit.calibration import Calibration

KINDS = ("measured", "fitted", "simulated", "published")
COLUMNS = ("block", "latency_ms", "p10_ms", "p90_ms", "runs")


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The table's error on whole networks that neither its rows nor its calibration have seen.

    ``mape``: mean absolute percentage error, as a fraction; ``within_10pct``: share predicted within ±10%.
    """

    networks: int
    kendall_tau: float
    mape: float
    within_10pct: float


@dataclass(frozen=True, kw_only=True, eq=False)
class LatencyTable:
    """Milliseconds per block on one device. Immutable.

    ``rows``: columns block, latency_ms, p10_ms, p90_ms, runs: each block as it was timed alone. ``calibration``
    turns those into what the block costs inside a network, and a column ``correction_ms``, where there is one
    (``nas.tables.fit.refine``), is added to that; ``lookup`` and ``predict`` apply both.
    ``kind``: "measured", "fitted", "simulated" or "published". ``space``: name and fingerprint of the space whose
    blocks these are. ``notes``: what the campaign noticed, such as clock drift.
    """

    device: Device
    rows: pd.DataFrame
    calibration: Calibration = field(default_factory=Calibration)
    validation: Validation | None = None
    kind: str = "measured"
    space: Mapping[str, str] = field(default_factory=dict)
    date: str = ""
    source: str = ""
    licence: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadInput(f"a table's kind is one of {', '.join(KINDS)}, got {self.kind!r}")
        missing = [c for c in COLUMNS if c not in self.rows]
        if missing:
            raise BadInput(f"a table has the columns {', '.join(COLUMNS)}; {', '.join(missing)} missing")
        # a published 0 means that the source counts the block elsewhere; a measured one, that the clock is broken
        elsewhere = (self.rows["latency_ms"] == 0) & (self.kind in ("published", "simulated"))
        bad = self.rows[~((self.rows["latency_ms"] > 0) | elsewhere)]
        if len(bad):
            raise BadInput(f"latencies are positive, but [{bad['block'].iloc[0]}] has {bad['latency_ms'].iloc[0]} ms")
        if self.rows["block"].duplicated().any():
            raise BadInput(
                f"block [{self.rows['block'][self.rows['block'].duplicated()].iloc[0]}] is in the table twice"
            )

    @property
    def name(self) -> str:
        return self.device.key

    @property
    def fixed_ms(self) -> float:
        """What one call of a network costs besides its blocks."""
        return self.calibration.fixed_ms

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks of the rows, in order."""
        return tuple(from_key(key) for key in self.rows["block"])

    @cached_property
    def effective_ms(self) -> NDArray[np.float64]:
        """``(rows,)``: what each row's block costs inside a network."""
        calibrated = self.calibration.apply(self.blocks, self.rows["latency_ms"].to_numpy(float))
        return calibrated + self.rows["correction_ms"].to_numpy(float) if "correction_ms" in self.rows else calibrated

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Block key -> position in ``rows``."""
        return {key: i for i, key in enumerate(self.rows["block"])}

    def missing(self, blocks: Sequence[Block]) -> list[Block]:
        """Those of ``blocks`` that the table lacks."""
        return [b for b in blocks if b.key not in self.row_of]

    def lookup(self, blocks: Sequence[Block]) -> NDArray[np.float64]:
        """``(blocks,)`` ms inside a network. Raises MissingBlocks, naming them."""
        if missing := self.missing(blocks):
            raise MissingBlocks(self.name, [b.key for b in missing])
        return self.effective_ms[[self.row_of[b.key] for b in blocks]]

    def lookup_energy(self, blocks: Sequence[Block]) -> NDArray[np.float64]:
        """``(blocks,)`` mJ each. Raises BadInput when the table has no column ``energy_mj``, MissingBlocks as ``lookup``."""
        self.lookup(blocks)
        if "energy_mj" not in self.rows or self.rows["energy_mj"].isna().any():
            raise BadInput(f"table {self.name} has no energy of its blocks (a column energy_mj)")
        return self.rows["energy_mj"].to_numpy(float)[[self.row_of[b.key] for b in blocks]]

    def spread(self, blocks: Sequence[Block]) -> NDArray[np.float64]:
        """``(blocks,)`` standard deviations in ms of one block's timings, from their 10th and 90th percentiles."""
        self.lookup(blocks)
        width = (self.rows["p90_ms"] - self.rows["p10_ms"]).to_numpy(float) / (2 * NormalDist().inv_cdf(0.9))
        return (self.calibration.scale * width)[[self.row_of[b.key] for b in blocks]]

    @property
    def relative_error(self) -> float:
        """Standard deviation of the relative error on whole networks, from the validation. Raises BadInput without one."""
        if self.validation is None:
            raise BadInput(f"table {self.name} has no validation, so nothing is known of its error on whole networks")
        return self.validation.mape * (np.pi / 2) ** 0.5  # normal: from the mean absolute error

    def predict(self, network: Sequence[Block]) -> float:
        """Milliseconds of one network, given as its blocks."""
        return float(self.lookup(network).sum()) + self.fixed_ms

    def check_space(self, space: SearchSpace) -> None:
        """Raises BadInput when the table lacks blocks of ``space``."""
        missing = self.missing(space.blocks)
        if missing:
            made_for = self.space.get("name", "another space")
            raise BadInput(
                f"table {self.name} was made for {made_for} and lacks {len(missing)} of the {len(space.blocks)} blocks "
                f"of {space.name}; measure one for it (nas measure)"
            )

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with the device, any latency, or the calibration."""
        digest = hashlib.sha256(json.dumps([asdict(self.device), asdict(self.calibration)], sort_keys=True).encode())
        columns = [c for c in ("block", "latency_ms", "correction_ms") if c in self.rows]
        digest.update(self.rows[columns].to_csv(index=False, float_format="%.6g").encode())
        return digest.hexdigest()[:16]

    def save(self, stem: str | os.PathLike[str]) -> Path:
        """Write ``<stem>.csv`` and ``<stem>.json``, each atomically; returns the csv's path."""
        csv, meta = _paths(stem)
        validation = asdict(self.validation) if self.validation else None
        header: dict[str, Any] = {
            "device": asdict(self.device),
            "kind": self.kind,
            "space": dict(self.space),
            "date": self.date or datetime.date.today().isoformat(),
            "source": self.source,
            "licence": self.licence,
            "fixed_ms": self.fixed_ms,
            "calibration": asdict(self.calibration),
            "validation": validation,
            "notes": dict(self.notes),
            "rows": len(self.rows),
        }
        text = self.rows.to_csv(index=False, float_format="%.6g")
        header["checksum"] = _checksum(text, header)
        write_text(csv, text)
        write_text(meta, json.dumps(header, indent=2) + "\n")
        return csv

    @staticmethod
    def load(stem: str | os.PathLike[str]) -> LatencyTable:
        """Read what ``save`` wrote; ``stem`` may end in .csv or .json.

        Raises BadInput when either file is missing or damaged, or says something a table cannot.
        """
        csv, meta = _paths(stem)
        try:
            header = json.loads(meta.read_text())
            rows = pd.read_csv(io.StringIO(csv.read_text()))
            if len(rows) != header["rows"]:
                raise BadInput(f"{csv} has {len(rows)} rows, {meta.name} says {header['rows']}: one of them is damaged")
            validation = header["validation"]
            return LatencyTable(
                device=Device(**header["device"]),
                rows=rows,
                calibration=Calibration(**header["calibration"]),
                validation=Validation(**validation) if validation else None,
                kind=header["kind"],
                space=header["space"],
                date=header["date"],
                source=header["source"],
                licence=header["licence"],
                notes=header["notes"],
            )
        except FileNotFoundError as error:
            raise BadInput(
                f"{error.filename} does not exist; a table is two files, .csv and .json, side by side"
            ) from None
        except BadInput as error:
            raise BadInput(f"{csv.with_suffix('')}: {error}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{csv.with_suffix('')} is not a readable latency table: {error}") from None


def saved_checksum(stem: str | os.PathLike[str]) -> tuple[str, str]:
    """(when it was saved, now) of the files of a table; the first is empty for a table saved before there was one.

    Covers every row, the device, kind, calibration and validation, but no text that a person may add to.
    Raises BadInput when a file cannot be read.
    """
    csv, meta = _paths(stem)
    try:
        header = json.loads(meta.read_text())
        return header.get("checksum", ""), _checksum(csv.read_text(), header)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise BadInput(f"{csv.with_suffix('')} is not a readable latency table: {error}") from None


def _checksum(csv: str, header: Mapping[str, Any]) -> str:
    covered = {name: header[name] for name in ("device", "kind", "space", "calibration", "validation")}
    text = json.dumps(covered, sort_keys=True) + "\n".join(csv.split())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _paths(stem: str | os.PathLike[str]) -> tuple[Path, Path]:
    path = Path(stem)
    if path.suffix in (".csv", ".json"):
        path = path.with_suffix("")
    return path.with_name(path.name + ".csv"), path.with_name(path.name + ".json")
