"""Ray: what a second worker brings, what a candidate costs the driver, and what a killed process costs a sweep.

Scaling: the same search on a supernet (accuracy with batch norm recalibrated, one thread per worker) with one and with
two workers, in turns; rates are taken between the results of a search, without the start of its processes. Overhead: wall time
per candidate of a search whose objective does nothing, ledger on disk, so the worker's side of the exchange is included.
Faults: a sweep of devices x searchers x seeds on NAS-Bench-201; a worker or the driver gets SIGKILL at a random moment, the
driver's sweep is then resumed. Every ledger row from before must be there afterwards, and every search must have found
exactly what it finds undisturbed.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import itertools
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from harness import Measured, Target, run

import nas
from nas.cluster import start_ray
from nas.engine.evaluate import Evaluate, Outcome
from nas.engine.loop import search
from nas.engine.ray_workers import RayWorkers
from nas.objectives import Objective
from nas.objectives.tabular import NASBENCH201, TabularBenchmark
from nas.searchers import make
from nas.searchers.random import RandomSearch
from nas.space import Archs
from nas.sweeps.sweep import sweep
from search_spaces import MobileNetV3, NasBench201

TARGETS = [
    Target(figure="speedup_2_workers", sense=">=", bound=1.7, why="issue 3; candidates per minute, 2 cores"),
    Target(figure="overhead_ms", sense="<=", bound=10, why="issue 3; per candidate"),
    Target(figure="rows_lost", sense="<=", bound=0, why="issue 3: no evaluated candidate is lost"),
    Target(figure="searches_changed", sense="<=", bound=0, why="the same results as undisturbed"),
]
SEARCHERS = ("nsga2", "random", "evolution")
PAUSE_S = 0.02  # of an evaluation in the sweeps, so that kills hit searches
WARM_UP = 10  # candidates before rates are taken
Report = Callable[[dict[str, float]], None]


def measure(quick: bool) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        faults = _faults(Path(folder), kills=1 if quick else 5, sizes=(2, 2, 1) if quick else (3, 3, 3))
    start_ray(None, cpus=2)
    scaling = _scaling(budget=60 if quick else 400, rounds=1 if quick else 3)
    overhead = _overhead(budget=200 if quick else 1000)
    figures = {
        "speedup_2_workers": float(scaling["speedup"].median()),
        "overhead_ms": overhead,
        "rows_lost": float(faults["rows_lost"].sum()),
        "searches_changed": float(faults["searches_changed"].sum()),
        "kills": float(faults["killed"].notna().sum()),
    }
    return Measured(rows=pd.concat([scaling, faults]), figures=figures)


# ---- scaling and overhead -----------------------------------------------------------------------------------------


class Stamped:
    """Ray workers; ``times``: when each result came."""

    def __init__(self, evaluate: Evaluate, workers: int) -> None:
        self.times: list[float] = []
        self._workers = RayWorkers(evaluate, workers)

    def submit(self, arch: Archs) -> Future[Outcome]:
        future = self._workers.submit(arch)
        future.add_done_callback(lambda _: self.times.append(time.perf_counter()))
        return future

    def close(self) -> None:
        self._workers.close()


def _scaling(budget: int, rounds: int) -> pd.DataFrame:
    space, data = MobileNetV3.digits(), nas.load_digits()
    with tempfile.TemporaryDirectory() as folder:
        accuracy = nas.accuracy(nas.train_supernet(space, data, epochs=1, run_dir=folder), data)
    objectives = [accuracy, nas.macs(space)]
    rows = []
    for turn in range(1, rounds + 1):
        rates = {n: _rate(space, objectives, workers=n, budget=budget) for n in (1, 2)}
        rows.append({"measured": f"scaling {turn}", "per_minute_1": 60 * rates[1], "per_minute_2": 60 * rates[2]})
    frame = pd.DataFrame(rows)
    return frame.assign(speedup=frame["per_minute_2"] / frame["per_minute_1"])


def _overhead(budget: int) -> float:
    space = MobileNetV3.digits()
    nothing = Objective(name="nothing", fn=lambda archs: np.zeros(len(archs)), cheap=False)
    return 1e3 / _rate(space, [nothing, nas.macs(space)], workers=1, budget=budget)


def _rate(space: nas.SearchSpace, objectives: list[Objective], *, workers: int, budget: int) -> float:
    """Candidates per second."""
    kept: list[Stamped] = []

    def crew(evaluate: Evaluate) -> Stamped:
        kept.append(Stamped(evaluate, workers))
        return kept[0]

    with tempfile.TemporaryDirectory() as folder:
        searcher = RandomSearch(space, seed=0)  # the same candidates for any number of workers
        search(space, objectives, searcher, budget=budget + WARM_UP, run_dir=folder, workers=crew)
    times = np.sort(kept[0].times)[WARM_UP - 1 :]
    return float((len(times) - 1) / (times[-1] - times[0]))


# ---- faults -------------------------------------------------------------------------------------------------------


def small_search(settings: dict[str, Any], run_dir: Path, report: Report) -> nas.SearchResult:
    """One trial of the sweeps, which leaves the id of its process."""
    (run_dir / "pid").write_text(str(os.getpid()))
    benchmark = TabularBenchmark.load(NasBench201.cell(), NASBENCH201)
    accuracy = benchmark.accuracy()

    def slowly(archs: Archs) -> np.ndarray:
        time.sleep(PAUSE_S)
        return accuracy(archs)

    objectives = [replace(accuracy, fn=slowly), benchmark.latency(settings["device"])]
    searcher = make(settings["searcher"], benchmark.space, (), seed=settings["seed"])
    return search(benchmark.space, objectives, searcher, budget=40, run_dir=run_dir, resume=True)


def run_sweep(folder: str, sizes: tuple[int, int, int]) -> None:
    """The sweep, new or resumed, of the first so many devices, searchers and seeds."""
    devices, searchers, seeds = sizes
    settings = {
        "device": ["raspi4", "pixel2", "gold_6240"][:devices],
        "searcher": list(SEARCHERS)[:searchers],
        "seed": list(range(seeds)),
    }
    sweep(small_search, settings, run_dir=folder, resume=Path(folder).exists())


def _faults(folder: Path, kills: int, sizes: tuple[int, int, int]) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    whole = folder / "undisturbed"
    driver = _driver(whole, sizes)
    seconds = _searching_s(whole, driver)
    expected = _results(whole)
    rows = []
    for number, victim in itertools.product(range(1, kills + 1), ("worker", "driver")):
        disturbed = folder / f"{victim}{number}"
        driver = _driver(disturbed, sizes)
        _wait(lambda place=disturbed: _ledger_rows(place), driver)  # type: ignore[misc]
        moment = rng.uniform(0, 0.8) * seconds
        time.sleep(moment)
        before = _kill(victim, disturbed, driver, rng)
        resumed = 0
        while driver.wait() != 0:
            resumed += 1
            if resumed > 1:
                raise SystemExit(f"the sweep in {disturbed} does not finish after a killed {victim}")
            driver = _driver(disturbed, sizes)
        found = _results(disturbed)
        rows.append(
            {
                "measured": f"fault {number}",
                "killed": victim,
                "after_s": moment,
                "rows_before": len(before),
                "rows_lost": len(before - _ledger_rows(disturbed)),
                "searches_changed": sum(found.get(k) != v for k, v in expected.items()),
                "resumed": resumed,
            }
        )
    return pd.DataFrame(rows)


def _kill(victim: str, folder: Path, driver: subprocess.Popen[bytes], rng: np.random.Generator) -> set[tuple]:
    """SIGKILL; returns the ledger rows there were at that moment."""
    if victim == "driver":
        if driver.poll() is not None:
            raise SystemExit("the sweep was over before its driver could be killed")
        before = _ledger_rows(folder)
        driver.kill()
        driver.wait()
        return before

    def running() -> list[Path]:
        return [p for p in folder.glob("trials/*/pid") if not (p.parent / "done.json").exists()]

    _wait(running, driver)
    before = _ledger_rows(folder)
    os.kill(int(rng.choice([p.read_text() for p in running()])), 9)
    return before


def _driver(folder: Path, sizes: tuple[int, int, int]) -> subprocess.Popen[bytes]:
    code = f"import ray_scaling; ray_scaling.run_sweep({str(folder)!r}, {sizes})"
    return subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent)


def _searching_s(folder: Path, driver: subprocess.Popen[bytes]) -> float:
    """Seconds from the first evaluation to the last."""
    _wait(lambda: _ledger_rows(folder), driver)
    started = time.perf_counter()
    driver.wait()
    return (
        max(p.stat().st_mtime for p in folder.glob("trials/*/done.json")) - time.time() + time.perf_counter() - started
    )


def _wait(condition: Callable[[], Any], driver: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        if driver.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the sweep did not start, or was over before anything could be killed")
        time.sleep(0.02)


def _ledger_rows(folder: Path) -> set[tuple]:
    rows: set[tuple] = set()
    for path in folder.glob("trials/*/evaluations.db"):
        try:
            db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            found = db.execute("SELECT arch, objectives FROM evaluations").fetchall()
            db.close()
        except sqlite3.Error:  # it is being created or written
            continue
        rows |= {(path.parent.name, *row) for row in found}
    return rows


def _results(folder: Path) -> dict[str, str]:
    return {p.parent.name: p.read_text() for p in folder.glob("trials/*/evaluations.csv")}


if __name__ == "__main__":
    run("ray_scaling", TARGETS, measure, packages=("numpy", "torch", "ray"))
