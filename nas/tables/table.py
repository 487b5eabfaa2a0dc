"""Latency tables: what each block costs on one device, and how wrong their sum is."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Any, Literal, get_args

import numpy as np
import pandas as pd
from msgspec import Meta

from nas.blocks import Block, from_key
from nas.checks import Count, FilePath, Probability, check, checked, shown
from nas.device import Device
from nas.errors import BadInput, MissingBlocks
from nas.files import file_name, first_line, read_json, read_text, write_text
from nas.notebook import html_table
from nas.space import Floats, SearchSpace
from nas.tables.fit.calibration import Calibration
from nas.tables.shipped import stem_of, without_ending

Kind = Literal["measured", "fitted", "simulated", "published"]
KINDS = get_args(Kind)
COLUMNS = ("block", "latency_ms", "p10_ms", "p90_ms", "runs")
FORMAT = 1
"""Version of the files; a table of a later one is refused."""


@checked
@dataclass(frozen=True, kw_only=True)
class Validation:
    """The table's error on whole networks that neither its rows nor its calibration have seen.

    ``mape``: mean absolute percentage error, as a fraction; ``within_10pct``: share predicted within ±10%.
    ``kendall_tau``: NaN where all networks took equally long.
    """

    networks: Count
    kendall_tau: float = math.nan
    mape: Annotated[float, Meta(ge=0, le=1e12)]
    within_10pct: Probability

    def __post_init__(self) -> None:
        if not (abs(self.kendall_tau) <= 1 or math.isnan(self.kendall_tau)):
            raise BadInput(f"kendall_tau is a number from -1 to 1, got {self.kendall_tau}")


@checked
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
        check("a table's kind", self.kind, Kind)
        for part in (self.device.precision, self.name):
            file_name(part, "a table's name, from its device,")
        _check_rows(self.rows)
        # a published 0 means that the source counts the block elsewhere; a measured one, that the clock is broken
        elsewhere = (self.rows["latency_ms"] == 0) & (self.kind in ("published", "simulated"))
        bad = self.rows[~((self.rows["latency_ms"] > 0) | elsewhere)]
        if len(bad):
            raise BadInput(f"latencies are positive, but [{bad['block'].iloc[0]}] has {bad['latency_ms'].iloc[0]} ms")

    def __repr__(self) -> str:
        return (
            f"LatencyTable({self.name}, {self.kind}, {len(self.rows)} blocks of {self.space.get('name', 'no space')})"
        )

    def _repr_html_(self) -> str:
        slowest = self.rows.assign(in_network_ms=self.effective_ms).sort_values("in_network_ms", ascending=False)
        return html_table(self, slowest[["in_network_ms", "latency_ms", "p10_ms", "p90_ms", "block"]])

    @property
    def name(self) -> str:
        """The device's key, such as ``epyc-7763_onnxruntime_int8_b1_t1``."""
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
    def effective_ms(self) -> Floats:
        """``(rows,)``: what each row's block costs inside a network."""
        calibrated = self.calibration.apply(self.blocks, self.rows["latency_ms"].to_numpy(float))
        return calibrated + self.rows["correction_ms"].to_numpy(float) if "correction_ms" in self.rows else calibrated

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Block key -> position in ``rows``."""
        return {key: i for i, key in enumerate(self.rows["block"])}

    @checked
    def missing(self, blocks: Sequence[Block]) -> list[Block]:
        """Those of ``blocks`` that the table lacks."""
        return [b for b in blocks if b.key not in self.row_of]

    @checked
    def lookup(self, blocks: Sequence[Block]) -> Floats:
        """``(blocks,)`` ms inside a network. Raises MissingBlocks, naming them."""
        if missing := self.missing(blocks):
            raise MissingBlocks(self.name, [b.key for b in missing])
        return self.effective_ms[[self.row_of[b.key] for b in blocks]]

    @checked
    def lookup_energy(self, blocks: Sequence[Block]) -> Floats:
        """``(blocks,)`` mJ each. Raises BadInput when the table has no column ``energy_mj``, MissingBlocks as ``lookup``."""
        self.lookup(blocks)
        if "energy_mj" not in self.rows or self.rows["energy_mj"].isna().any():
            raise BadInput(f"table {self.name} has no energy of its blocks (a column energy_mj)")
        return self.rows["energy_mj"].to_numpy(float)[[self.row_of[b.key] for b in blocks]]

    @checked
    def spread(self, blocks: Sequence[Block]) -> Floats:
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

    @checked
    def predict(self, network: Sequence[Block]) -> float:
        """Milliseconds of one network, given as its blocks."""
        return float(self.lookup(network).sum()) + self.fixed_ms

    @checked
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

    @checked
    def save(self, stem: FilePath) -> Path:
        """Write ``<stem>.csv`` and ``<stem>.json``, each atomically; returns the csv's path.

        Raises BadInput where they cannot be written.
        """
        csv, meta = _paths(stem)
        header = asdict(
            _Header(
                device=self.device,
                kind=self.kind,  # type: ignore[arg-type]
                space=dict(self.space),
                date=self.date or datetime.date.today().isoformat(),
                source=self.source,
                licence=self.licence,
                fixed_ms=self.fixed_ms,
                calibration=self.calibration,
                validation=self.validation,
                notes=dict(self.notes),
                rows=len(self.rows),
                format=FORMAT,
            )
        )
        if self.validation and math.isnan(self.validation.kendall_tau):
            del header["validation"]["kendall_tau"]  # no number in JSON
        text = self.rows.to_csv(index=False, float_format="%.6g")
        header["checksum"] = _checksum(text, header)
        write_text(csv, text)
        write_text(meta, json.dumps(header, indent=2) + "\n")
        return csv

    @staticmethod
    @checked
    def load(stem: FilePath) -> LatencyTable:
        """Read what ``save`` wrote. ``stem``: a path, with or without .csv or .json, or the name of a shipped table.

        Raises BadInput when either file is missing or damaged, or says something a table cannot.
        """
        csv, meta = _paths(stem_of(stem))
        if missing := [p for p in (csv, meta) if not p.is_file()]:
            raise BadInput(f"{missing[0]} does not exist; a table is two files, .csv and .json, side by side")
        header = read_json(meta, _Header)
        if header.format > FORMAT:
            raise BadInput(f"{meta} is of format {header.format}, this version reads up to {FORMAT}: update nas")
        try:
            rows = pd.read_csv(io.StringIO(read_text(csv)))
        except ValueError as error:  # pandas' own
            raise BadInput(f"{csv} is not a readable latency table: {first_line(error)}") from None
        if len(rows) != header.rows:
            raise BadInput(f"{csv} has {len(rows)} rows, {meta.name} says {header.rows}: one of them is damaged")
        known = {f.name: getattr(header, f.name) for f in dataclasses.fields(LatencyTable) if f.name != "rows"}
        try:
            return LatencyTable(rows=rows, **known)
        except BadInput as error:
            raise BadInput(f"{csv.with_suffix('')}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class _Header:
    """The .json of a table."""

    device: Device
    kind: Kind
    space: dict[str, str]
    date: str
    source: str
    licence: str
    fixed_ms: float = 0.0  # for readers; it is that of the calibration
    calibration: Calibration
    validation: Validation | None
    notes: dict[str, Any]
    rows: Count
    format: Count = 1
    checksum: str = ""


def _check_rows(rows: pd.DataFrame) -> None:
    if missing := [c for c in COLUMNS if c not in rows]:
        raise BadInput(f"a table has the columns {', '.join(COLUMNS)}; {', '.join(missing)} missing")
    if rows.empty:
        raise BadInput("a table has one row per block, this one has none")
    if not (texts := rows["block"].map(lambda key: isinstance(key, str))).all():
        raise BadInput(f"blocks are texts such as 'stem in_ch=3 ...', got {shown(rows['block'][~texts].iloc[0])}")
    if (twice := rows["block"].duplicated()).any():
        raise BadInput(f"block [{rows['block'][twice].iloc[0]}] is in the table twice")
    for column in [c for c in (*COLUMNS[1:], "correction_ms") if c in rows]:
        numbers = pd.to_numeric(rows[column], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        wrong = ~np.isfinite(numbers) | (column == "runs") & (numbers < 0)
        if wrong.any() or rows[column].dtype.kind not in "iuf":
            i = int(wrong.argmax())
            raise BadInput(f"{column} is a number, but [{rows['block'].iloc[i]}] has {shown(rows[column].iloc[i])}")


def saved_checksum(stem: str | os.PathLike[str]) -> tuple[str, str]:
    """(when it was saved, now) of the files of a table; the first is empty for a table saved before there was one.

    Covers every row, the device, kind, calibration and validation, but no text that a person may add to.
    Raises BadInput when a file cannot be read.
    """
    csv, meta = _paths(stem_of(stem))
    before = read_json(meta, _Header).checksum
    return before, _checksum(read_text(csv), read_json(meta, dict[str, Any]))


_COVERED = ("device", "kind", "space", "calibration", "validation")


def _checksum(csv: str, header: Mapping[str, Any]) -> str:
    text = json.dumps({name: header[name] for name in _COVERED}, sort_keys=True) + "\n".join(csv.split())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _paths(stem: str | os.PathLike[str]) -> tuple[Path, Path]:
    path = without_ending(stem)
    return path.with_name(path.name + ".csv"), path.with_name(path.name + ".json")
