"""A run, stage by stage, in one folder; ``report.html`` is made from that folder alone.

    tables -> supernet -> search -> candidates -> final

A stage reads what those before it left in the folder, and is done when its own artefact lies there under its final name.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from nas.checks import checked
from nas.data.images import ImageData
from nas.errors import BadInput
from nas.runs.artefacts import read_final
from nas.runs.candidates import compress_stage, missing_candidates
from nas.runs.final import final_is_done, final_stage
from nas.runs.folder import Run, check_run, has_begun, log, new_run, opened, timed
from nas.runs.search import search_is_done, search_stage, train_stage
from nas.runs.settings import Settings
from nas.runs.tables import check_limits, tables_are_there, tables_stage
from nas.space import SearchSpace
from nas.training.names import SUPERNET


@dataclass(frozen=True, kw_only=True)
class Stage:
    """``what`` it makes, and the ``command`` that makes it alone; ``needs``: stages that must be done before."""

    name: str
    what: str
    command: str
    needs: tuple[str, ...]
    done: Callable[[Run], bool]
    run: Callable[[Run], Any]


def _candidates_are_done(run: Run) -> bool:
    return search_is_done(run) and not missing_candidates(run)


STAGES: tuple[Stage, ...] = tuple(
    Stage(name=name, what=what, command=command, needs=needs, done=done, run=run)
    for name, what, command, needs, done, run in (
        ("tables", "latency tables", "nas measure", (), tables_are_there, tables_stage),
        ("supernet", "a supernet", "nas train", (), lambda run: (run.folder / SUPERNET).exists(), train_stage),
        ("search", "a search", "nas search", ("supernet",), search_is_done, search_stage),
        ("candidates", "candidates", "nas compress", ("supernet", "search"), _candidates_are_done, compress_stage),
        ("final", "a final table", "nas compress", ("candidates",), final_is_done, final_stage),
    )
)
"""All stages, in order."""

_BY_NAME = {stage.name: stage for stage in STAGES}


@checked
def run(
    space: SearchSpace | Callable[[], SearchSpace],
    data: ImageData | Callable[[], ImageData],
    *,
    run_dir: str | os.PathLike[str],
    settings: Settings | None = None,
    resume: bool | Literal["auto"] = "auto",
    progress: bool | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    on_result: Callable[[Any], None] | None = None,
    on_candidate: Callable[[Any], None] | None = None,
) -> pd.DataFrame:
    """The whole job in ``run_dir``: measure, train, search, compress, export, time again. Returns the final table.

    ``space``, ``data``: objects, or functions of a module that make them (``functools.partial`` of one where it takes
    arguments); of a function the commands of ``nas`` can go on with the folder, such as ``nas export``. The function's
    annotation says what it makes: ``def flowers() -> nas.ImageData``.
    The same call again goes on with what is there, and with its settings where none are given; what is finished is not
    done again. ``on_epoch``, ``on_result``, ``on_candidate``: called with every epoch (a dict), evaluated network (a dict)
    and finished candidate. ``nas.write_report`` makes the page.

    Raises BadInput when the folder holds another run (naming what differs), or any with ``resume=False``, or when the
    settings do not fit; Infeasible when no network meets a limit: both before anything is measured or trained.
    """
    job = new_run(
        space,
        data,
        run_dir=run_dir,
        settings=settings,
        resume=bool(resume),
        progress=progress,
        on_epoch=on_epoch,
        on_result=on_result,
        on_candidate=on_candidate,
    )
    try:
        return run_all(job)
    except KeyboardInterrupt:
        log.warning("interrupted; the same call goes on from here")
        raise


def run_all(job: Run) -> pd.DataFrame:
    """All stages that are not done, in order; returns the final table. Raises as ``run`` does."""
    if has_begun(job, "run") and not job.resume:
        raise BadInput(f"{job.folder} already holds a run; pass resume (--resume) to go on with it, or another folder")
    with _ready(job, STAGES):
        for stage in STAGES:
            if not stage.done(job):
                _do(stage, job)
        return read_final(job.folder)


def run_stage(job: Run, name: str) -> Any:
    """One stage alone; returns what it made.

    Raises BadInput when one that it needs is not done, or when it has begun before and the run does not ``resume``.
    """
    stage = _BY_NAME[name]
    for needed in stage.needs:
        before = _BY_NAME[needed]
        if not before.done(job):
            what = before.what.removeprefix("a ")
            raise BadInput(f"{job.folder} has no finished {what} yet ({before.command})")
    with _ready(job, (stage,)):
        return _do(stage, job)


@contextlib.contextmanager
def _ready(job: Run, stages: tuple[Stage, ...]) -> Iterator[None]:
    """What can be refused is refused here, before anything is made."""
    for stage in stages:
        if stage.name != "final" and has_begun(job, stage.name) and not job.resume:
            raise BadInput(
                f"{job.folder} already holds {stage.what}; pass resume (--resume) to go on with it, or another folder"
            )
    check_run(job)
    if not search_is_done(job):
        check_limits(job)
    with opened(job):
        yield


def _do(stage: Stage, job: Run) -> Any:
    with timed(job, stage.name):
        return stage.run(job)
