"""The final table: all deployed networks timed again, side by side, and the test images looked at, once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.blocks import from_key
from nas.compression.int8_network import OnnxNetwork
from nas.deploy.memory import McuRuntime, memory_of
from nas.errors import BadInput, NasError
from nas.files import first_line, write_text
from nas.on_device.clock import in_turns
from nas.pareto import non_dominated
from nas.runs import artefacts
from nas.runs.artefacts import Candidate
from nas.runs.candidates import NOT_ITS_OWN, bundle_candidate, deployed, load_candidate, record_failure
from nas.runs.folder import Run, log
from nas.runs.names import PRECISIONS, reads_onnx, runtimes_of
from nas.runtimes import Runtime
from nas.tables.interpolate import PRUNED, estimate
from nas.tables.names import table_stem
from nas.tables.table import LatencyTable
from nas.training.evaluate import accuracy

_FILES = dict(zip(PRECISIONS, (artefacts.FP32, artefacts.INT8), strict=True))
_ROUNDS = (20, 60)
"""Fewest and most turns in which the networks are timed."""


def final_is_done(run: Run) -> bool:
    """Whether the final table is there, and of all candidates."""
    if not (run.folder / artefacts.FINAL_TABLE).exists():
        return False
    return set(artefacts.read_final(run.folder)["id"]) == {c.id for c in artefacts.read_candidates(run.folder)}


def final_stage(run: Run) -> pd.DataFrame:
    """``final.csv``: one row per candidate, fastest first, with the columns of ``artefacts.FINAL``; a bundle of the best.

    Raises NasError when there is no candidate, since all have failed.
    """
    timed = _timed(run, deployed(run))
    candidates = deployed(run)  # what could not be timed is none any more
    rows = [_row(run, candidate, timed[candidate.id]) for candidate in candidates]
    if run.settings.table is not None:
        target = LatencyTable.load(table_stem(run.folder, artefacts.TARGET))
        for row, candidate in zip(rows, candidates, strict=True):
            row["predicted_target_ms"] = _on_target(target, candidate)
    if run.settings.max_sram is not None or run.settings.max_flash is not None:
        for row, candidate in zip(rows, candidates, strict=True):
            row |= _on_microcontroller(candidate, run.settings.mcu_runtime)
    final = with_front(pd.DataFrame(rows))
    try:
        bundle_candidate(run, artefacts.best_of(final))
    except NasError as error:
        log.warning("no bundle of %s: %s", artefacts.best_of(final), error)
    write_text(run.folder / artefacts.FINAL_TABLE, final.to_csv(index=False))
    return final


def with_front(rows: pd.DataFrame) -> pd.DataFrame:
    """The final table of these rows: sorted by latency, with the front of int8 validation accuracy against it."""
    costs = np.column_stack([-rows["int8_val_accuracy"], rows["measured_int8_ms"]])
    final = rows.assign(on_final_front=non_dominated(costs)).sort_values("measured_int8_ms", ignore_index=True)
    return final[[c.name for c in artefacts.FINAL if c.name in final]]


def _timed(run: Run, candidates: Sequence[Candidate]) -> dict[str, dict[str, float]]:
    """Median ms by candidate and precision, all networks in turns; NaN where the runtime lacks the precision or refuses.

    A candidate that cannot be timed although the runtime took it becomes a recorded failure.
    """
    runtimes = runtimes_of(run.settings)
    if not all(reads_onnx(runtime) for runtime in runtimes.values()):
        log.info("%s times the deployed networks in a form of its own, with random weights", run.settings.runtime)
    prepared = {
        (candidate.id, precision): network
        for candidate in candidates
        for precision, runtime in runtimes.items()
        if (network := _prepared(run, candidate, precision, runtime)) is not None
    }
    first = next(iter(runtimes.values()))  # a runtime times what any of its kind has prepared
    samples = in_turns([partial(first.time, p) for p in prepared.values()], rounds=_ROUNDS)
    by_id = {candidate.id: candidate for candidate in candidates}
    timed = {name: dict.fromkeys(_FILES, float("nan")) for name in by_id}
    for (name, precision), ms in zip(prepared, samples, strict=True):
        if isinstance(ms, NOT_ITS_OWN):
            raise ms
        if isinstance(ms, Exception):
            candidate = by_id[name]
            record_failure(run, name, candidate.architecture, candidate.made_from, ms)
        else:
            timed[name][precision] = float(np.median(ms))
    return timed


def _prepared(run: Run, candidate: Candidate, precision: str, runtime: Runtime) -> Any:
    """A deployed network as its runtime takes it; None, and a line in the log, where it refuses this one."""
    folder = run.folder / artefacts.CANDIDATES / candidate.id
    try:
        network = folder / _FILES[precision] if reads_onnx(runtime) else load_candidate(folder)
        return runtime.prepare(network, candidate.input_shape)
    except NOT_ITS_OWN:
        raise
    except Exception as error:
        log.warning("%s is not timed: %s refuses it: %s", candidate.id, runtime.name, first_line(error))
        return None


def _row(run: Run, candidate: Candidate, timed: dict[str, float]) -> dict[str, Any]:
    folder = run.folder / artefacts.CANDIDATES / candidate.id
    float_step, int8_step = candidate.float_step, candidate.steps[-1]
    return {
        "id": candidate.id,
        "architecture": candidate.architecture,
        "supernet_accuracy": candidate.steps[0].accuracy,
        "fp32_val_accuracy": float_step.accuracy,
        "int8_val_accuracy": int8_step.accuracy,
        "fp32_test_accuracy": _test_accuracy(folder / artefacts.FP32, run, candidate),
        "int8_test_accuracy": _test_accuracy(folder / artefacts.INT8, run, candidate),
        "macs": int8_step.macs,
        "params": int8_step.params,
        "fp32_bytes": (folder / artefacts.FP32).stat().st_size,
        "int8_bytes": (folder / artefacts.INT8).stat().st_size,
        "predicted_fp32_ms": float_step.predicted_ms,
        "measured_fp32_ms": timed["fp32"],
        "predicted_int8_ms": int8_step.predicted_ms,
        "measured_int8_ms": timed["int8"],
        "speedup_int8": timed["fp32"] / timed["int8"],
        "pruned": candidate.pruned,
        "quantization": int8_step.quantization,
    }


def _on_target(table: LatencyTable, candidate: Candidate) -> float:
    """Predicted ms of a deployed network on the device that was searched for; NaN where its table cannot tell."""
    try:
        ms, _ = estimate(table, [from_key(key) for key in candidate.blocks], beyond=PRUNED)
    except BadInput:
        return float("nan")
    return float(ms.sum()) + table.fixed_ms


def _on_microcontroller(candidate: Candidate, runtime: McuRuntime) -> dict[str, int]:
    """Memory of a deployed int8 network, which ``max_sram`` and ``max_flash`` limit."""
    model = memory_of([from_key(key) for key in candidate.blocks], runtime)
    ids = np.arange(1, len(candidate.blocks) + 1)[None]
    return {"peak_sram": int(model.arena(ids)[0]), "flash_size": int(model.stored(ids)[0])}


def _test_accuracy(path: Path, run: Run, candidate: Candidate) -> float:
    """Of an exported file, as it is."""
    return accuracy(OnnxNetwork(path.read_bytes(), candidate.input_shape), run.data.test, run.data)
