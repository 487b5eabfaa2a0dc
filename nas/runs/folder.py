"""A run: a folder, and what its stages work on. Opened, checked and locked here; nothing is written before it is right."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from nas.checks import checked
from nas.data.images import ImageData
from nas.device import cores, cpu_name
from nas.engine.ledger import LEDGER
from nas.errors import BadInput
from nas.files import folder_of, locked
from nas.runs import artefacts
from nas.runs.artefacts import Call, Candidate, Config, DataRecord, Environment, SpaceRecord
from nas.runs.made_by import check_inputs, made, make
from nas.runs.names import PRECISIONS, check_names
from nas.runs.settings import SETTINGS_OF, Settings
from nas.space import SearchSpace
from nas.supernet.training import check_fit
from nas.tables.names import table_stem
from nas.training.names import CHECKPOINT, SUPERNET

log = logging.getLogger("nas")

_ANY_TIME = ("candidates", "device")
_GROWS = {"budget": None, "epochs": "search"}
"""Settings that may grow after their stage has begun, until another one has."""
_PACKAGES = ("numpy", "onnx", "onnxruntime", "pandas", "scikit-learn", "torch", "torch-pruning")


@checked
@dataclass(frozen=True, kw_only=True, repr=False)
class Run:
    """A run folder with what its stages work on; ``nas.run`` makes one and does all stages.

    ``space_by``, ``data_by``: how both are made again in another process; None where only this one can.
    ``resume``: go on with what the folder holds. ``progress``: bars (None: on a terminal or in a notebook).
    ``on_epoch``, ``on_result``, ``on_candidate``: called with every epoch of the supernet's training (a dict), evaluated
    network and finished candidate, for TensorBoard, W&B or MLflow. ``command``: what is noted in config.json.
    """

    folder: Path
    space: SearchSpace
    data: ImageData
    settings: Settings = Settings()  # noqa: RUF009 (frozen)
    space_by: Call | None = None
    data_by: Call | None = None
    resume: bool = False
    progress: bool | None = None
    on_epoch: Callable[[dict[str, float]], None] | None = None
    on_result: Callable[[Any], None] | None = None
    on_candidate: Callable[[Candidate], None] | None = None
    command: str = "nas.run(...)"

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}: {self.space.name} on {self.data!r})"


def new_run(
    space: SearchSpace | Callable[[], SearchSpace],
    data: ImageData | Callable[[], ImageData],
    *,
    run_dir: str | os.PathLike[str],
    settings: Settings | None = None,
    **options: Any,
) -> Run:
    """A run of this space and data, or of what functions make; ``options`` as the fields of ``Run``. Nothing is written yet.

    ``settings``: None takes those of the folder where it is resumed, else the defaults. Raises BadInput for what is no space,
    data or folder.
    """
    folder = folder_of(run_dir)
    if settings is None and options.get("resume") and (folder / artefacts.CONFIG).exists():
        settings = artefacts.read_config(folder).settings
    made_space, space_by = made(space, SearchSpace, "space")
    made_data, data_by = made(data, ImageData, "data")
    return Run(
        folder=folder,
        space=made_space,
        data=made_data,
        settings=settings or Settings(),
        **{"space_by": space_by, "data_by": data_by, **options},
    )


def reopen(
    run_dir: str | os.PathLike[str],
    changes: Mapping[str, Any] | None = None,
    *,
    space: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    **options: Any,
) -> Run:
    """The run of a folder, as its config.json has it but for ``changes`` of settings. Nothing is written yet.

    ``space``, ``data``: arguments with which both are said to have been made. Raises BadInput when they were not, when
    the folder holds no run, or one whose space and data only Python can make again.
    """
    folder = folder_of(run_dir)
    config = artefacts.read_config(folder)
    check_inputs(config.space.made_by, dict(space or {}), folder)
    check_inputs(config.data.made_by, dict(data or {}), folder)
    return Run(
        folder=folder,
        space=make(config.space.made_by, SearchSpace, "space", folder),
        data=make(config.data.made_by, ImageData, "data", folder),
        settings=replace(config.settings, **(changes or {})),
        space_by=config.space.made_by,
        data_by=config.data.made_by,
        **options,
    )


@contextlib.contextmanager
def opened(run: Run) -> Iterator[None]:
    """Only this process works in the run's folder meanwhile; ``config.json`` is there, and has its settings.

    Raises BadInput, with the disk as it was, when the folder holds a run of another space or data, or one whose settings
    may no longer change so, or when another process is at work there.
    """
    with locked(run.folder):
        before = check_run(run)
        config = config_of(run) if before is None else replace(before, settings=run.settings)
        if before is not None and run.settings.epochs > before.settings.epochs:
            _set_aside_training(run.folder, before.settings.epochs)
        if config != before:
            artefacts.write_record(run.folder / artefacts.CONFIG, config)
        _clear(run.folder)
        yield


def check_run(run: Run) -> Config | None:
    """What the folder holds, None when it is new. Raises BadInput when this run may not go on with it."""
    check_fit(run.space, run.data)
    check_names(run.settings, run.space)
    if not (run.folder / artefacts.CONFIG).exists():
        return None
    there = artefacts.read_config(run.folder)
    for part, record, given in (("space", there.space, run.space), ("data", there.data, run.data)):
        if record.fingerprint != given.fingerprint:
            raise BadInput(
                f"{run.folder} holds a run on {part} {record.name} ({record.fingerprint}), this is "
                f"{given.name} ({given.fingerprint}); choose another run folder"
            )
    before, now = there.settings, run.settings
    late = [
        f"{name} = {getattr(before, name)}, now it is {getattr(now, name)}"
        for stage, names in SETTINGS_OF.items()
        for name in names
        if getattr(before, name) != getattr(now, name) and not _may_change(run, stage, name, before)
    ]
    if late:
        raise BadInput(
            f"{run.folder} was started with {', and with '.join(late)}; go on with the same, or choose another run folder"
        )
    return there


def has_begun(run: Run, stage: str) -> bool:
    """Whether a stage has left anything in the folder."""
    names = {
        "run": [artefacts.CONFIG],
        "tables": [f"{table_stem(run.folder, p).name}.*" for p in PRECISIONS],
        "supernet": [SUPERNET, CHECKPOINT],
        "search": [LEDGER],
        "candidates": [f"{artefacts.CANDIDATES}/*"],
    }[stage]
    return any(True for name in names for _ in run.folder.glob(name))


@contextlib.contextmanager
def timed(run: Run, stage: str) -> Iterator[None]:
    """Adds the seconds of a stage up in ``stages.json``, over interruptions."""
    started = time.perf_counter()
    try:
        yield
    finally:
        with contextlib.suppress(BadInput):  # never hides what stopped the stage
            seconds = artefacts.read_seconds(run.folder)
            seconds[stage] = round(seconds.get(stage, 0.0) + time.perf_counter() - started, 2)
            artefacts.write_record(run.folder / artefacts.SECONDS, seconds)


def config_of(run: Run) -> Config:
    """The ``config.json`` of a new run."""
    return Config(
        version=artefacts.VERSION,
        command=run.command,
        created=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        space=SpaceRecord(
            name=run.space.name,
            fingerprint=run.space.fingerprint,
            size=str(run.space.size),
            blocks=len(run.space.blocks),
            made_by=run.space_by,
        ),
        data=DataRecord(
            name=run.data.name,
            source=run.data.source,
            classes=tuple(run.data.classes),
            train=len(run.data.train),
            val=len(run.data.val),
            test=len(run.data.test),
            fingerprint=run.data.fingerprint,
            notes=tuple(run.data.notes),
            made_by=run.data_by,
        ),
        settings=run.settings,
        environment=Environment(
            cpu=cpu_name(),
            cores=cores(),
            memory_gb=round(psutil.virtual_memory().total / 2**30, 1),
            platform=platform.platform(),
            python=platform.python_version(),
            packages={name: metadata.version(name) for name in _PACKAGES},
        ),
    )


def _may_change(run: Run, stage: str, name: str, before: Settings) -> bool:
    if not has_begun(run, stage) or name in _ANY_TIME:
        return True
    until = _GROWS.get(name)
    grown = name in _GROWS and getattr(run.settings, name) > getattr(before, name)
    return grown and not (until and has_begun(run, until))


def _clear(folder: Path) -> None:
    """Take away what a killed process had half written, files and bundles; nobody else is at work in the folder."""
    for left in [*folder.rglob(".*.tmp*"), *folder.glob(f"{artefacts.CANDIDATES}/*/.bundle-*")]:
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _set_aside_training(folder: Path, epochs: int) -> None:
    """More epochs are another schedule from the first step on: the old weights are kept under another name."""
    if (folder / SUPERNET).exists():
        old = folder / SUPERNET.replace(".", f"_{epochs}_epochs.", 1)
        (folder / SUPERNET).replace(old)
        log.info("the supernet is trained anew for more epochs; that of %d epochs is kept as %s", epochs, old.name)
    (folder / CHECKPOINT).unlink(missing_ok=True)
