"""How a campaign times: in groups that take turns, with a reference block among them that shows disturbances.

The one home of this: ``nas.measure`` times this machine with it, ``run.py`` of a kit any other.
"""

# ruff: noqa: UP006, UP035 - Python 3.8
from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Callable, Dict, List, Sequence

from .device import Json
from .outputs import Problem
from .results import ROLES, Log

DISTURBED = 1.10  # a group is timed again when the reference ran this much slower than usual
NETWORK = 5  # a network is about five blocks' work


class Driver:
    """What times models for a campaign, on one device with one runtime. ``name``: in messages.

    ``probe``: how many models tell what one costs. ``again``: blocks that are timed a second time at the end, the
    campaign's own repeatability. ``attempts``: at a group that was disturbed. ``sizes``: part -> models of a group.
    """

    name = ""
    probe, again, attempts = 1, 8, 1
    sizes: Dict[str, int] = {}  # noqa: RUF012 - never written

    def time(self, models: List[Json], energy: bool) -> List[Json]:
        """For each {ms, p10_ms, p90_ms, runs}, with {begin, end, watts} if there is ``energy`` to know, or {failed}."""
        raise NotImplementedError

    def conditions(self) -> Json:
        """The state of the device now, as ``device.conditions``."""
        raise NotImplementedError


@dataclass
class Campaign:
    """Times what ``log`` lacks of ``models``, in their order, keeping every group.

    ``models``: {file, role, key, blocks, ...}, all blocks first; a network's ``blocks`` are positions among them.
    ``say``: is told the estimate. ``progress``: is told (models finished, of how many, what else there is to say).
    """

    models: Sequence[Json]
    reference: Json
    driver: Driver
    log: Log
    say: Callable[[str], None]
    progress: Callable[[int, int, str], None]
    work: float = 0.0  # still to be done, in blocks
    is_estimated: bool = False

    def __post_init__(self) -> None:
        self.blocks = [m for m in self.models if m["role"] == "block"]

    def run(self) -> None:
        """Raises Problem when not even the reference block can be timed."""
        self.log.add({"conditions": self.driver.conditions()})
        todo = [m for m in self.models if self.log.is_open(m["file"])]
        self.work = sum(map(_work, todo))
        if not todo:
            self.say(f"0 of {len(self.models)} models to time")
        for role in ROLES:
            self._time(role, [m for m in todo if m["role"] == role])
        if not self.log.again:
            timed = [m for m in self.blocks if m["file"] in self.log.timed]
            self._time("again", timed[:: max(1, len(timed) // self.driver.again)][: self.driver.again])
        self.log.add({"conditions": self.driver.conditions(), "finished": True})

    def _time(self, part: str, models: List[Json]) -> None:
        self._skip(models)
        models = [m for m in models if part == "again" or self.log.is_open(m["file"])]
        begun, start, size = time.monotonic(), 0, self.driver.sizes.get(part, 16)
        while start < len(models):
            # a small first group, so that the estimate comes early
            stop = start + (size if self.is_estimated else self.driver.probe)
            check = self._group(part, models[start:stop])
            start = min(stop, len(models))
            left = (time.monotonic() - begun) / start * (len(models) - start)
            done = sum(not self.log.is_open(m["file"]) for m in self.models)
            drift = check / self.log.usual(part)[0] - 1
            look = "second look; " if part == "again" else ""
            said = f"{look}{span(left)} left in this part; reference {check:.4g} ms ({drift:+.1%})"
            self.progress(done, len(self.models), said)

    def _skip(self, models: Sequence[Json]) -> None:
        """Networks with a block that failed are not asked for: the block might take the device down again."""
        failed = {i: m for i, m in enumerate(self.blocks) if m["file"] in self.log.failed}
        for model in models:
            bad = next((failed[i] for i in model.get("blocks", []) if i in failed), None)
            if bad:
                self.log.add({**_identity(model, "file"), "skipped": f"[{bad['key']}] failed"})

    def _group(self, part: str, group: List[Json]) -> float:
        """Time a group until it is undisturbed, and keep it; what the reference took."""
        usual, begun = self.log.usual(part), time.monotonic()
        for _ in range(self.driver.attempts):
            *timed, check = self.driver.time([*group, self.reference], energy=part == "block")
            if "failed" in check:
                key = self.reference["key"]
                raise Problem(f"{self.driver.name} cannot run even the reference block [{key}]: {check['failed']}")
            disturbed = bool(usual) and check["ms"] > DISTURBED * statistics.median(usual)
            if not disturbed:
                break
        if not self.is_estimated:
            self._estimate(time.monotonic() - begun, group)
        look = "again" if part == "again" else "file"
        self.log.add(
            {"reference": check["ms"], "among": part, "disturbed": disturbed},
            *({**_identity(model, look), **result} for model, result in zip(group, timed)),  # noqa: B905
        )
        return float(check["ms"])

    def _estimate(self, seconds: float, group: List[Json]) -> None:
        each = seconds / (sum(map(_work, group)) + 1)
        blocks, networks = (
            sum((m["role"] == "block") == alone and self.log.is_open(m["file"]) for m in self.models)
            for alone in (True, False)
        )
        self.say(f"{blocks} blocks and {networks} networks: about {span(each * self.work)}")
        self.is_estimated = True


def _work(model: Json) -> int:
    return 1 if model["role"] == "block" else NETWORK


def _identity(model: Json, look: str) -> Json:
    return {look: model["file"], **({"sha256": model["sha256"]} if "sha256" in model else {})}


def span(seconds: float) -> str:
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds > 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
