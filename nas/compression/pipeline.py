"""The compression pipeline: runs steps in order and measures the network before the first and after every one.

A step changes a network and nothing else; accuracy, size and latency are taken here, so no step can forget or
flatter. Accuracy is ``nas.training.evaluate.validation_accuracy``.
"""

from __future__ import annotations

import copy
import inspect
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from torch import nn

from nas.blocks import Block
from nas.checks import Seed, Text, checked, shown
from nas.compression.step import Context, Deployed, Step
from nas.data.images import ImageData
from nas.errors import BadInput
from nas.modules import Network
from nas.notebook import html_table
from nas.runtimes import Runtime
from nas.tables.interpolate import PRUNED, estimate
from nas.tables.table import LatencyTable
from nas.training.augment import Augmentation
from nas.training.evaluate import device_of, validation_accuracy
from nas.training.recipe import torch_device

TIMED_RUNS = 200
"""Runs that a recorded latency is the median of."""

_log = logging.getLogger("nas.compression")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One measurement. ``accuracy``: validation fraction; ``predicted_error``: relative, None where it is unknown.

    ``quantization``: "" of a float network, else "ptq" or "qat" (see ``nas.compression.step.Deployed.how``).
    """

    step: str
    precision: str
    accuracy: float
    macs: int
    params: int
    size_bytes: int
    predicted_ms: float | None
    predicted_error: float | None
    measured_ms: float | None
    quantization: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True, repr=False)
class Compressed:
    """The result: the last network, the network after each step by step name, and the records."""

    network: nn.Module
    stages: dict[str, nn.Module]
    records: tuple[Record, ...]

    def __repr__(self) -> str:
        steps = ", ".join(f"{r.step} {r.accuracy:.1%} {r.size_bytes:,} bytes" for r in self.records)
        return f"Compressed({steps})"

    def _repr_html_(self) -> str:
        return html_table(self, self.to_pandas())

    def to_pandas(self) -> pd.DataFrame:
        """One row per record."""
        return pd.DataFrame([asdict(r) for r in self.records])


@checked
def compress(
    network: Network,
    steps: Sequence[Step],
    data: ImageData,
    tables: LatencyTable | Iterable[LatencyTable] = (),
    *,
    runtime: Runtime | Iterable[Runtime] = (),
    teacher: nn.Module | None = None,
    augment: Augmentation | None = None,
    seed: Seed = 0,
    device: Text | None = None,
    on_step: Callable[[dict[str, Any]], object] | None = None,
    on_epoch: Callable[[dict[str, float]], object] | None = None,
    progress: bool | None = None,
) -> Compressed:
    """Apply ``steps`` to ``network`` in order, on ``device`` (None: where it lies); measure before the first and after each.

    ``tables`` and ``runtime``: one or several; the one of the network's current precision ("fp32", "int8") predicts
    and times it, and where there is none the record says None. ``teacher``: usually the largest subnet. ``augment``:
    of the trainings inside steps; None is what suits the images. ``on_step`` gets each record as a dict, ``on_epoch`` the
    rows of the trainings inside steps.
    Raises BadInput when two steps have the same name, something is no step, or a step follows quantization.
    """
    for step in steps:
        has_both = isinstance(getattr(step, "name", None), str) and callable(getattr(step, "apply", None))
        if inspect.isclass(step) or not has_both:
            raise BadInput(f"a compression step has a name and apply(network, context), got {shown(step)}")
    names = [step.name for step in steps]
    if len(set(names)) != len(names):
        raise BadInput(f"two compression steps have the same name: {names}")
    by_precision = {t.device.precision: t for t in _several(tables)}
    runtimes = {r.device.precision: r for r in _several(runtime)}
    now: nn.Module = network if device is None else copy.deepcopy(network).to(torch_device(device))
    context = Context(
        data=data,
        teacher=teacher,
        augment=augment,
        seed=seed,
        device=device or str(device_of(network)),
        on_epoch=on_epoch,
        progress=progress,
    )
    stages: dict[str, nn.Module] = {}
    records: list[Record] = []
    for applied in (None, *steps):
        if applied is not None:
            if not isinstance(now, Network):
                raise BadInput(f"{applied.name} follows {records[-1].step}, which leaves no layers; quantize last")
            now = applied.apply(now, context)
        name = "extract" if applied is None else applied.name
        stages[name] = now
        records.append(measured(name, now, data, by_precision, runtimes))
        if on_step is not None:
            on_step(asdict(records[-1]))
    return Compressed(network=now, stages=stages, records=tuple(records))


def measured(
    name: str,
    network: nn.Module,
    data: ImageData,
    tables: Mapping[str, LatencyTable],
    runtimes: Mapping[str, Runtime],
) -> Record:
    """The record of ``network`` as it is now."""
    deployed = None if isinstance(network, Network) else cast(Deployed, network)
    blocks = cast("Network | Deployed", network).describe()
    precision = "fp32" if deployed is None else deployed.precision
    predicted, error = predict(blocks, tables.get(precision))
    return Record(
        step=name,
        precision=precision,
        accuracy=validation_accuracy(network, data),
        macs=sum(b.macs for b in blocks),
        params=sum(b.params for b in blocks),
        size_bytes=sum(b.weights for b in blocks) * 4 if deployed is None else deployed.size_bytes,
        predicted_ms=predicted,
        predicted_error=error,
        measured_ms=time_on(runtimes.get(precision), network),
        quantization="" if deployed is None else deployed.how,
        note="" if deployed is None else deployed.note,
    )


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
    shape = cast("Network | Deployed", network).input_shape
    with tempfile.TemporaryDirectory() as folder:
        is_file = not isinstance(network, Network)
        model: Any = cast(Deployed, network).save(Path(folder) / "network.onnx") if is_file else network
        prepared = runtime.prepare(model, shape)
    runtime.time(prepared, TIMED_RUNS // 10)
    return float(np.median(runtime.time(prepared, TIMED_RUNS)))


def _several(given: Any) -> list[Any]:
    return [given] if hasattr(given, "device") else list(given)
