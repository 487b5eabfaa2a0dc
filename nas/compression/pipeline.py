"""The compression pipeline: runs steps in order and measures the network before the first and after every one.

A step changes a network and nothing else; accuracy, size and latency are taken here, so no step can forget or
flatter. Accuracy is ``nas.training.loop.validation_accuracy``.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from torch import nn

from nas.blocks import Block
from nas.compression.quantize import Int8Network
from nas.data.images import ImageData
from nas.errors import BadInput
from nas.modules import Network
from nas.runtimes import Runtime
from nas.tables.interpolate import PRUNED, estimate
from nas.tables.table import LatencyTable
from nas.training.loop import validation_accuracy

TIMED_RUNS = 200
"""Runs that a recorded latency is the median of."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a step may use besides the network: ``teacher`` for distillation (None: labels only), data, seed."""

    data: ImageData
    teacher: nn.Module | None = None
    seed: int = 0


class Step(Protocol):
    """A compression step: its own settings, and ``apply``, which leaves the network it is given unchanged."""

    @property
    def name(self) -> str: ...

    def apply(self, network: nn.Module, context: Context) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class Record:
    """One measurement. ``accuracy``: validation fraction; ``predicted_error``: relative, None where it is unknown."""

    step: str
    precision: str
    accuracy: float
    macs: int
    params: int
    size_bytes: int
    predicted_ms: float | None
    predicted_error: float | None
    measured_ms: float | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """The result: the last network, the network after each step by step name, and the records."""

    network: nn.Module
    stages: dict[str, nn.Module] = field(repr=False)
    records: tuple[Record, ...]

    def to_pandas(self) -> pd.DataFrame:
        """One row per record."""
        return pd.DataFrame([asdict(r) for r in self.records])


def compress(
    network: Network,
    steps: Sequence[Step],
    data: ImageData,
    tables: LatencyTable | Iterable[LatencyTable] = (),
    *,
    runtime: Runtime | Iterable[Runtime] = (),
    teacher: nn.Module | None = None,
    seed: int = 0,
) -> Compressed:
    """Apply ``steps`` to ``network`` in order; measure before the first and after each.

    ``tables`` and ``runtime``: one or several; the one of the network's current precision ("fp32", "int8") predicts
    and times it, and where there is none the record says None. ``teacher``: usually the largest subnet.
    Raises BadInput when two steps have the same name or a step follows quantization.
    """
    names = [step.name for step in steps]
    if len(set(names)) != len(names):
        raise BadInput(f"two compression steps have the same name: {names}")
    by_precision = {t.device.precision: t for t in _several(tables, LatencyTable)}
    runtimes = {r.device.precision: r for r in _several(runtime)}
    context = Context(data=data, teacher=teacher, seed=seed)
    stages: dict[str, nn.Module] = {"extract": network}
    records = [measured("extract", network, data, by_precision, runtimes)]
    for step in steps:
        if isinstance(network, Int8Network):
            raise BadInput(f"{step.name} follows quantization; quantize last")
        network = step.apply(network, context)  # type: ignore[assignment]
        stages[step.name] = network
        records.append(measured(step.name, network, data, by_precision, runtimes))
    return Compressed(network=network, stages=stages, records=tuple(records))


def measured(
    name: str,
    network: nn.Module,
    data: ImageData,
    tables: dict[str, LatencyTable],
    runtimes: dict[str, Runtime],
) -> Record:
    """The record of ``network`` as it is now."""
    blocks = describe(network)
    precision = "int8" if isinstance(network, Int8Network) else "fp32"
    predicted, error = predict(blocks, tables.get(precision))
    bytes_each = 1 if precision == "int8" else 4
    size = network.size_bytes if isinstance(network, Int8Network) else sum(b.weights for b in blocks) * bytes_each
    return Record(
        step=name,
        precision=precision,
        accuracy=validation_accuracy(network, data),
        macs=sum(b.macs for b in blocks),
        params=sum(b.params for b in blocks),
        size_bytes=size,
        predicted_ms=predicted,
        predicted_error=error,
        measured_ms=time_on(runtimes.get(precision), network),
        note=network.note if isinstance(network, Int8Network) else "",
    )


def describe(network: nn.Module) -> tuple[Block, ...]:
    """The blocks of a float or int8 network."""
    float_network = network.network if isinstance(network, Int8Network) else network
    assert isinstance(float_network, Network)
    return float_network.describe()


def predict(blocks: Sequence[Block], table: LatencyTable | None) -> tuple[float | None, float | None]:
    """(ms, relative error) from a table; blocks it lacks are interpolated, and None says that they cannot be."""
    if table is None:
        return None, None
    try:
        ms, error = estimate(table, blocks, beyond=PRUNED)
    except BadInput as refused:
        _log.info("no prediction: %s", refused)
        return None, None
    # errors of blocks are taken as independent: they add up in squares
    total = float(ms.sum()) + table.fixed_ms
    return total, float(np.sqrt(((ms * error) ** 2).sum()) / total)


def time_on(runtime: Runtime | None, network: nn.Module) -> float | None:
    """Median latency of ``network`` in ms on a device; None without one."""
    if runtime is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        model: Any = network.save(Path(folder) / "int8.onnx") if isinstance(network, Int8Network) else network
        prepared = runtime.prepare(model, network.input_shape)  # type: ignore[arg-type]
    runtime.time(prepared, TIMED_RUNS // 10)
    return float(np.median(runtime.time(prepared, TIMED_RUNS)))


def _several(given: Any, cls: type | None = None) -> list[Any]:
    if cls is not None and isinstance(given, cls):
        return [given]
    return [given] if hasattr(given, "device") else list(given)
