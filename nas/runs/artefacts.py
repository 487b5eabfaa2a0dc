"""The run folder: what lies in it under which name, what is in it, and how it is read.

    config.json            space, data, settings, machine           Config
    stages.json            seconds by stage                         dict
    table_<name>.*         latency tables (nas.tables.names)        LatencyTable
    supernet.safetensors, training.csv
    evaluations.db         the search as it goes (nas.engine)
    search.json            the search as it ended                   Search
    evaluations.csv, pareto.csv, hypervolume.csv
    candidates/<id>/       summary.json (Candidate) and the network's files, or failure.json (Failure) alone
    final.csv              columns: FINAL
    report.html, pareto.png

Everything is read by a schema: what is damaged or of another kind is BadInput, one line.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import pandas as pd
from msgspec import Meta

from nas.checks import Probability
from nas.errors import BadInput
from nas.files import file_name, first_line, folder_of, read_json, read_text, write_bytes
from nas.objectives.objective import ObjectiveRecord
from nas.runs.settings import Settings
from nas.tables.names import networks_path, tables_in
from nas.tables.table import LatencyTable
from nas.training.names import TRAINING

VERSION: Literal[2] = 2
"""Of the format of a run folder."""

CONFIG = "config.json"
SECONDS = "stages.json"
SEARCH = "search.json"
EVALUATIONS = "evaluations.csv"
PARETO = "pareto.csv"
HYPERVOLUME = "hypervolume.csv"
CANDIDATES = "candidates"
SUMMARY, FAILURE = "summary.json", "failure.json"
FP32, INT8, WEIGHTS = "fp32.onnx", "int8.onnx", "weights.safetensors"
FINAL_TABLE = "final.csv"
TARGET = "target"
"""Name of the table of another device that a search went by."""

Amount = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]
Ms = Annotated[float, Meta(ge=0)]


@dataclass(frozen=True, kw_only=True)
class Call:
    """How a space or data set can be made again: an importable function and its arguments."""

    function: str
    arguments: dict[str, str | int | float | bool | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SpaceRecord:
    """``size``: a number that may be too long for JSON's readers, so a text. ``made_by``: None if only Python can."""

    name: str
    fingerprint: str
    size: str
    blocks: Amount
    made_by: Call | None = None


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """``train``, ``val``, ``test``: numbers of images. ``made_by``: None if only Python can."""

    name: str
    source: str
    classes: tuple[str, ...]
    train: Amount
    val: Amount
    test: Amount
    fingerprint: str
    notes: tuple[str, ...] = ()
    made_by: Call | None = None


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The machine and the packages that a run was started with."""

    cpu: str
    cores: Amount
    memory_gb: float | None
    platform: str
    python: str
    packages: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class _Version:
    """What ``config.json`` of any version of this project can be read as; the first wrote none."""

    version: Amount = 1


@dataclass(frozen=True, kw_only=True)
class Config:
    """``config.json``: everything needed to repeat a run."""

    version: Literal[2]
    command: str
    created: str
    space: SpaceRecord
    data: DataRecord
    settings: Settings
    environment: Environment


@dataclass(frozen=True, kw_only=True)
class Search:
    """``search.json``. ``objectives``: columns of evaluations.csv, by name. ``budget``: that it was allowed; ``stopped``: why it ended."""

    objectives: tuple[ObjectiveRecord, ...]
    budget: Amount
    evaluations: Amount
    stopped: str


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """A network after one compression step, as ``nas.compression.pipeline.Record`` has it. ``predicted_error``: relative."""

    step: str
    precision: Literal["fp32", "int8"]
    accuracy: Probability
    macs: Amount
    params: Amount
    size_bytes: Amount
    predicted_ms: Ms | None = None
    predicted_error: float | None = None
    measured_ms: Ms | None = None
    quantization: Literal["", "ptq", "qat"] = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class MadeFrom:
    """What decides a candidate besides the supernet: its genes and the settings of compression."""

    genes: tuple[Amount, ...]
    finetune_epochs: Amount
    qat_epochs: Amount
    prune: float
    seed: Amount


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """``candidates/<id>/summary.json``: a network of the front that was cut out, compressed and exported.

    ``blocks``: keys. ``fp32_step``: the step whose network is the exported float one; the last step's is the int8 one.
    ``normalise``: mean and standard deviation per channel of pixels in [0, 1] that it was taught with; None: not noted.
    """

    id: str
    architecture: str
    made_from: MadeFrom
    input_shape: tuple[Amount, Amount, Amount]
    pruned: float
    fp32_step: str
    blocks: tuple[str, ...]
    steps: Annotated[tuple[StepRecord, ...], Meta(min_length=1)]
    normalise: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def __post_init__(self) -> None:
        file_name(self.id, "the id of a candidate")
        if self.fp32_step not in [s.step for s in self.steps]:
            raise ValueError(f"there is no step {self.fp32_step!r}, which fp32_step names")

    @property
    def float_step(self) -> StepRecord:
        return next(s for s in self.steps if s.step == self.fp32_step)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """``candidates/<id>/failure.json``: a network of the front that could not be deployed, and why (``error``, one line).

    It is not tried again, and nothing that starts from it, until its folder is deleted.
    """

    id: str
    architecture: str
    made_from: MadeFrom
    error: str

    def __post_init__(self) -> None:
        file_name(self.id, "the id of a candidate")


# ---- the final table -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the final table. ``kind``: how it is shown. ``brief``: its title on the command line, '' if not there."""

    name: str
    title: str
    kind: Literal["text", "share", "ms", "bytes", "macs", "count", "ratio", "flag"]
    brief: str = ""


FINAL: tuple[Column, ...] = tuple(
    Column(name=name, title=title, kind=kind, brief=brief)  # type: ignore[arg-type]
    for name, title, kind, brief in (
        ("id", "network", "text", "network"),
        ("on_final_front", "front", "flag", "front"),
        ("supernet_accuracy", "supernet", "share", "supernet %"),
        ("fp32_val_accuracy", "fp32 val.", "share", ""),
        ("int8_val_accuracy", "int8 val.", "share", "int8 val %"),
        ("fp32_test_accuracy", "fp32 test", "share", "fp32 test %"),
        ("int8_test_accuracy", "int8 test", "share", "int8 test %"),
        ("predicted_int8_ms", "int8 pred.", "ms", "int8 pred. µs"),
        ("measured_int8_ms", "int8 meas.", "ms", "int8 µs"),
        ("predicted_fp32_ms", "fp32 pred.", "ms", ""),
        ("measured_fp32_ms", "fp32 meas.", "ms", "fp32 µs"),
        ("predicted_target_ms", "target pred.", "ms", "target pred. µs"),
        ("speedup_int8", "fp32/int8", "ratio", "fp32/int8"),
        ("macs", "MACs", "macs", ""),
        ("params", "parameters", "count", ""),
        ("fp32_bytes", "fp32 size", "bytes", ""),
        ("int8_bytes", "int8 size", "bytes", "int8 bytes"),
        ("peak_sram", "peak SRAM", "bytes", ""),
        ("flash_size", "flash", "bytes", ""),
        ("pruned", "pruned", "share", ""),
        ("quantization", "quantized", "text", ""),
        ("architecture", "architecture", "text", ""),
    )
)
"""All columns, in order. ``predicted_target_ms``, ``peak_sram`` and ``flash_size`` are there when the run asked for them."""

_OPTIONAL = {"predicted_target_ms", "peak_sram", "flash_size"}


def best_of(final: pd.DataFrame) -> str:
    """The id of the deployed network with the best int8 validation accuracy, the fastest of equals."""
    return str(final.sort_values(["int8_val_accuracy", "measured_int8_ms"], ascending=[False, True])["id"].iloc[0])


# ---- writing and reading ---------------------------------------------------------------------------------------

Record = TypeVar("Record", Candidate, Failure)


def write_record(path: Path, record: Any) -> None:
    """Write a record as JSON, atomically."""
    write_bytes(path, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


def read_config(folder: str | os.PathLike[str]) -> Config:
    """``config.json``. Raises BadInput when it is missing, damaged, or another version's."""
    path = folder_of(folder) / CONFIG
    if not path.exists():
        raise BadInput(f"{folder} is not a run folder: it has no {CONFIG}")
    if (version := read_json(path, _Version).version) != VERSION:
        raise BadInput(
            f"{path} is of format {version}, this nas reads {VERSION}: go on with the version that made it, or start anew "
            "in another run folder"
        )
    return read_json(path, Config)


def read_candidate(folder: Path) -> Candidate:
    """The summary of a candidate's folder. Raises BadInput when there is none, or it is damaged."""
    path = folder / SUMMARY
    if not path.exists():
        there = ", ".join(c.id for c in read_candidates(folder.parent.parent))
        failed = f" ({_own(folder / FAILURE, Failure).error})" if (folder / FAILURE).exists() else ""
        raise BadInput(f"{folder} is not a finished candidate{failed}; there are {there or 'none'}")
    return _own(path, Candidate)


def read_candidates(folder: Path) -> list[Candidate]:
    """All finished candidates of a run folder, by id."""
    return [read_candidate(p.parent) for p in sorted((folder / CANDIDATES).glob(f"*/{SUMMARY}"))]


def read_failures(folder: Path) -> list[Failure]:
    """All candidates of a run folder that could not be deployed, by id. Raises BadInput when a record is damaged."""
    return [_own(p, Failure) for p in sorted((folder / CANDIDATES).glob(f"*/{FAILURE}"))]


def _own(path: Path, schema: type[Record]) -> Record:
    """The record of a candidate's folder, which has the folder's name."""
    record = read_json(path, schema)
    if record.id != path.parent.name:
        raise BadInput(f"{path} is damaged: it is of {record.id}")
    return record


def read_final(folder: Path) -> pd.DataFrame:
    """The final table. Raises BadInput when it is missing or damaged."""
    columns = [c for c in FINAL if c.name not in _OPTIONAL]
    numbers = [c.name for c in columns if c.kind not in ("text", "flag")]
    frame = read_frame(folder / FINAL_TABLE, numbers, [c.name for c in columns])
    if frame is None:
        raise BadInput(f"{folder} has no deployed networks yet (nas compress)")
    return frame


def read_frame(path: Path, numbers: Iterable[str], others: Iterable[str] = ()) -> pd.DataFrame | None:
    """A .csv; None when there is none.

    Raises BadInput when it is damaged, lacks one of the columns, or one of ``numbers`` holds something else.
    """
    if not path.exists():
        return None
    text = read_text(path)
    try:
        frame = pd.read_csv(io.StringIO(text))
    except ValueError as error:
        raise BadInput(f"{path} is damaged: {first_line(error)}") from None
    numbers = list(numbers)
    for column in (*numbers, *others):
        if column not in frame:
            raise BadInput(f"{path} is damaged: it has no column {column}")
    for column in numbers:
        if len(frame) and not pd.api.types.is_numeric_dtype(frame[column]):
            raise BadInput(f"{path} is damaged: column {column} holds more than numbers")
    return frame


@dataclass(frozen=True, kw_only=True, eq=False)
class Contents:
    """All artefacts of a run folder, read once; None or empty where they are not. ``tables``, ``networks``: by name."""

    folder: Path
    config: Config | None
    seconds: dict[str, float]
    tables: dict[str, LatencyTable]
    networks: dict[str, pd.DataFrame]
    training: pd.DataFrame | None
    search: Search | None
    evaluations: pd.DataFrame | None
    hypervolume: pd.DataFrame | None
    candidates: list[Candidate]
    failures: list[Failure]
    final: pd.DataFrame | None


def read_run(folder: str | os.PathLike[str]) -> Contents:
    """Read a run folder, finished or not. Raises BadInput when it does not exist, is empty, or a file is damaged."""
    root = folder_of(folder)
    if not root.is_dir():
        raise BadInput(f"{root} is not a folder; give the run folder of a search")
    stems = tables_in(root)
    networks = {
        name: frame
        for name, stem in stems.items()
        if (frame := read_frame(networks_path(stem), ("predicted_ms", "measured_ms"), ("role",))) is not None
    }
    search = read_json(root / SEARCH, Search) if (root / SEARCH).exists() else None
    values = [o.name for o in search.objectives] if search else []
    contents = Contents(
        folder=root,
        config=read_config(root) if (root / CONFIG).exists() else None,
        seconds=read_seconds(root),
        tables={name: LatencyTable.load(stem) for name, stem in stems.items()},
        networks=networks,
        training=read_frame(root / TRAINING, ("epoch", "loss")),
        search=search,
        evaluations=read_frame(root / EVALUATIONS, ("violation", "on_front", *values), ("architecture", "error")),
        hypervolume=read_frame(root / HYPERVOLUME, ("evaluations", "hypervolume")),
        candidates=read_candidates(root),
        failures=read_failures(root),
        final=read_final(root) if (root / FINAL_TABLE).exists() else None,
    )
    parts = (contents.tables, contents.training, contents.evaluations, contents.candidates, contents.final)
    if all(part is None or len(part) == 0 for part in parts):
        raise BadInput(f"{root} holds nothing to report; a run folder has tables, a training or a search in it")
    return contents


def read_seconds(folder: Path) -> dict[str, float]:
    """Seconds by stage, added up over interruptions."""
    path = folder / SECONDS
    return read_json(path, dict[str, Seconds]) if path.exists() else {}
