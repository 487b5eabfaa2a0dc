"""A campaign on this machine: time every block of a space, then whole networks, and make a table that knows its error."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd

from nas.blocks import Block
from nas.checks import Count, FilePath, Seed, checked
from nas.errors import BadInput
from nas.files import first_line, locked
from nas.measuring.energy import Meter, with_energy
from nas.measuring.plan import CALIBRATE, VALIDATE, Plan, plan
from nas.measuring.results import already, beside, finished, problems_are_bad_input, stem_of
from nas.measuring.timing import Direct, Isolated, Timer, end_if_started_again
from nas.on_device.campaign import Campaign, Driver, Json
from nas.on_device.device import conditions, texts_of
from nas.on_device.results import Log
from nas.progress import bar as progress_bar
from nas.runtimes import Runtime
from nas.space import SearchSpace
from nas.tables.table import LatencyTable

_log = logging.getLogger("nas")


@checked
def measure(
    space: SearchSpace,
    runtime: Runtime,
    *,
    run_dir: FilePath,
    name: str | None = None,
    resume: bool | Literal["auto"] = "auto",
    calibrate: Annotated[Count, "networks timed to fit what blocks alone do not show"] = CALIBRATE,
    validate: Annotated[Count, "other networks, to judge the table by"] = VALIDATE,
    seed: Annotated[Seed, "of the networks that are timed"] = 0,
    isolate: bool = False,
    meter: Meter | None = None,
    progress: bool | None = None,
) -> LatencyTable:
    """The latency table of ``space`` on ``runtime.device``, measured now.

    Times every distinct block alone: warmed up, in groups whose members take turns, until the median is known to
    ±2% or 24 rounds have passed. Then times ``calibrate`` random whole networks and fits what isolated blocks cannot
    see, then ``validate`` others, for the table's error, and last a sample of the blocks again, for its repeatability. A
    reference block is timed along: groups that it shows to be disturbed are timed again, its drift is recorded.

    ``isolate``: in a process of its own, so that a block that crashes or hangs the runtime is left out of the table
    (``notes["failed"]``) and ends nothing. ``meter``: also the energy of every block (``nas.measuring.energy``).
    ``progress``: a bar (None: on a terminal). The logger "nas" is told an estimate and what makes the numbers doubtful.

    Writes ``<name>.csv/.json`` and ``<name>_networks.csv`` into ``run_dir`` (default name: table_<precision>). The same
    call again loads a finished table, and goes on after the last finished group of an interrupted campaign.
    Raises BadInput for another call in that folder (naming what differs), for any with ``resume=False``, when another
    process measures there, or when the disk is full (what was measured is kept).
    """
    if isolate:
        end_if_started_again()
    device = runtime.device
    stem = stem_of(run_dir, name, device.precision)
    campaign = plan(space, calibrate=calibrate, validate=validate, seed=seed)
    energy = {"energy": type(meter).__name__} if meter else {}
    asked = {"networks": [calibrate, validate, seed], "energy": "", **energy}
    partial = beside(stem, ".partial.jsonl")
    if there := already(stem, partial, resume, campaign, **asdict(device), **energy):
        return there
    with locked(stem.parent), problems_are_bad_input(), contextlib.ExitStack() as stack:
        timer: Timer = stack.enter_context(Isolated(runtime, meter=meter)) if isolate else Direct(runtime, meter)
        log = stack.enter_context(_log_of(partial, campaign, {"space": space.fingerprint, **asdict(device), **asked}))
        advance = stack.enter_context(bar(len(campaign.models()), stem.name, "model", progress))
        _time(campaign, timer, log, advance)
        kind = getattr(runtime, "kind", "measured")
        made = finished(campaign, device, campaign.models(), log, kind=kind, source="nas.measure", notes=energy)
        table = made.save(stem, windows=meter is not None)
        partial.unlink()
        return table


def _time(campaign: Plan, timer: Timer, log: Log, advance: Callable[[int], None]) -> None:
    """Time what ``log`` lacks."""
    models = campaign.models()
    networks = [*((block,) for block in campaign.order()), *campaign.space.networks(campaign.archs)]
    here = _Here(timer, dict(zip((m["file"] for m in models), networks, strict=True)))
    reference = next(m for m in models if m["key"] == campaign.reference.key)
    Campaign(models, reference, here, log, _log.info, lambda done, total, text: advance(done)).run()


def add_energy(stem: str | os.PathLike[str], log: str | os.PathLike[str]) -> LatencyTable:
    """Give a table that was measured with ``energy.Later`` its energies, from the log of the user's own meter.

    Raises BadInput when there is no such table, it has no windows, or the log does not cover them.
    """
    path = Path(stem).with_suffix("") if Path(stem).suffix in (".csv", ".json") else Path(stem)
    windows = beside(path, "_windows.csv")
    if not windows.exists():
        raise BadInput(f"{windows} does not exist; measure the table with a meter (nas measure --energy later) first")
    try:
        frame = pd.read_csv(windows)[["block", "begin", "end", "watts"]].astype({"begin": float, "end": float})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{windows} is damaged: {first_line(error)}") from None
    table = with_energy(LatencyTable.load(path), frame, log)
    table.save(path)
    return table


class _Here(Driver):
    """This machine, as a campaign drives it. ``networks``: the blocks of each model."""

    name = "the runtime"
    probe, again, attempts = 8, 48, 3
    sizes = {"block": 48, "calibrate": 12, "validate": 12, "again": 48}  # noqa: RUF012 - never written

    def __init__(self, timer: Timer, networks: Mapping[str, Sequence[Block]]) -> None:
        self._timer, self._networks = timer, networks

    def time(self, models: list[Json], energy: bool) -> list[Json]:
        return self._timer([self._networks[m["file"]] for m in models], energy=energy)

    def conditions(self) -> Json:
        return conditions(texts_of)


@contextlib.contextmanager
def _log_of(path: Path, campaign: Plan, header: Json) -> Iterator[Log]:
    """The campaign's log, which goes again when it was new and nothing could be timed."""
    is_new, log = not path.exists(), None
    try:
        log = Log(str(path), campaign.models(), header, go_on="go on with --resume")
        yield log
    finally:
        if is_new and not (log and log.timed):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def bar(total: int, what: str, unit: str, progress: bool | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, told how much is done; it closes when the block ends, however it does."""
    with progress_bar(progress, total=total, desc=what, unit=unit) as shown_bar:

        def advance(done: int) -> None:
            shown_bar.update(done - shown_bar.n)

        yield advance
