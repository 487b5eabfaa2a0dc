"""Tabular benchmarks: every architecture of a small space with its published measurements."""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nas.checks import FilePath, checked
from nas.errors import BadInput
from nas.objectives.objective import Objective
from nas.space import Archs, Floats, SearchSpace
from nas.tables.shipped import SHIPPED
from nas.tables.whole import WHOLE, read_about

NASBENCH201 = SHIPPED / "nasbench201.csv.gz"
"""The table that comes with this project's sources: CIFAR-100 accuracy and latencies on 21 devices."""


@checked
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TabularBenchmark:
    """Published measurements of every architecture of a small space, such as NAS-Bench-201; ``load`` reads one.

    ``columns``: name -> ``(architectures,)``, in the order of all combinations of genes, last gene fastest.

    ``about``: what the file beside the table says (source, licence, kind, units). ``fingerprint``: of the table.
    """

    space: SearchSpace
    columns: Mapping[str, Floats]
    about: Mapping[str, Any]
    fingerprint: str

    def __repr__(self) -> str:
        return f"TabularBenchmark({self.space.name}: {self.space.size:,} architectures, {len(self.devices)} devices)"

    @staticmethod
    @checked
    def load(space: SearchSpace, path: FilePath) -> TabularBenchmark:
        """Read ``<name>.csv.gz``, or by its name one that ships such as "nasbench201" (a column per gene with the choices' values, then the metrics) and ``<name>.json``.

        Raises BadInput when a file is missing or damaged, or does not have every architecture of ``space`` once.
        """
        path = Path(path)
        if path.name == str(path) and not path.is_file():
            path = SHIPPED / (path.name.removesuffix(WHOLE) + WHOLE)
        try:
            raw = path.read_bytes()
            frame = pd.read_csv(io.BytesIO(gzip.decompress(raw)), keep_default_na=False)
        except OSError as error:
            raise BadInput(f"cannot read the table {error.filename or path}: {error.strerror or error}") from None
        except (ValueError, EOFError) as error:
            raise BadInput(f"{path} is not a readable table: {error}") from None
        genes = [c.name for c in space.choices]
        if missing := [g for g in genes if g not in frame]:
            raise BadInput(f"{path} has no column {missing[0]}; a table of {space.name} has {', '.join(genes)}")
        index = _index(space, _encoded(space, frame[genes]))
        everything = int(np.prod(space.sizes))
        if len(np.unique(index)) != len(index) or len(index) != everything:
            raise BadInput(
                f"{path} has {len(index)} rows, {len(np.unique(index))} of them different; "
                f"{space.name} has {everything} architectures"
            )
        order = np.argsort(index)
        metrics = frame.drop(columns=genes)
        if texts := [c for c in metrics if metrics[c].dtype.kind not in "iuf"]:
            raise BadInput(f"{path}: the column {texts[0]} is not all numbers; a metric is, every architecture has one")
        columns = {str(c): metrics[c].to_numpy(dtype=np.float64)[order] for c in metrics}
        return TabularBenchmark(
            space=space,
            columns=columns,
            about=asdict(read_about(path)),
            fingerprint=hashlib.sha256(raw).hexdigest()[:16],
        )

    @property
    def devices(self) -> tuple[str, ...]:
        """Those that it has latencies for."""
        return tuple(c.removeprefix("latency_ms.") for c in self.columns if c.startswith("latency_ms."))

    @checked
    def objective(
        self, column: str, *, name: str | None = None, unit: str = "", maximize: bool = False, cheap: bool = False
    ) -> Objective:
        """One column as an objective; raises BadInput, naming those there are, when there is no such column.

        Not ``cheap`` unless told otherwise, although it is: so that evaluations of a search are counted.
        """
        if column not in self.columns:
            raise BadInput(f"the table of {self.space.name} has no {column!r}; it has {', '.join(self.columns)}")
        values, space = self.columns[column], self.space
        return Objective(
            name=name or column,
            fn=lambda archs: values[_index(space, space.check(archs))],
            unit=unit,
            maximize=maximize,
            cheap=cheap,
            identity=f"table {self.fingerprint} {column}",
        )

    def accuracy(self) -> Objective:
        """The column ``accuracy``, to be maximised."""
        return self.objective("accuracy", unit="fraction", maximize=True)

    @checked
    def latency(self, device: str, *, cheap: bool = False) -> Objective:
        """The latency on ``device``, in ms. Raises BadInput, naming the devices there are, for another."""
        if device not in self.devices:
            raise BadInput(f"the table of {self.space.name} has no device {device!r}; it has {', '.join(self.devices)}")
        return self.objective(f"latency_ms.{device}", name="latency_ms", unit="ms", cheap=cheap)


def _encoded(space: SearchSpace, genes: pd.DataFrame) -> Archs:
    """As ``space.encode`` of the rows, value by value instead of row by row. Raises BadInput as that does."""
    archs = np.empty(genes.shape, dtype=np.uint8)
    for gene, choice in enumerate(space.choices):
        which, values = pd.factorize(genes[choice.name])
        known = [choice.values.index(v) if v in choice.values else None for v in values]
        if None in known:  # which only an inactive gene may be
            (row,) = genes.iloc[[int(np.argmax(which == known.index(None)))]].to_dict("records")
            space.encode([{str(name): value for name, value in row.items()}])
        archs[:, gene] = np.array([i or 0 for i in known], dtype=np.uint8)[which]
    return space.canonical(archs)


def _index(space: SearchSpace, archs: Archs) -> NDArray[np.int64]:
    index = np.zeros(len(archs), dtype=np.int64)
    for gene, size in enumerate(space.sizes):
        index = index * int(size) + archs[:, gene]
    return index
