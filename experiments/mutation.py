"""Do the tests notice faults? Mutation testing of the modules in which a silent fault would cost most.

    python experiments/mutation.py [MODULE ...] [--sample N] [--seed S] [--jobs J] [--survivors] [--check]

Of the mutants of each module (``mutants.py``) ``--sample`` are drawn at random; each is put into a copy of the tree,
and those tests of the files named beside the module that run the line (``touching.py``) run on it. Killed: a test
failed, or took far more CPU time than it should. Results are kept as they come (``results/runs/mutation.csv``), and
the same command goes on; ``--survivors`` tries those again that were alive, after new tests were written. Scores with
95% intervals go to ``results/mutation.csv``, survivors to ``results/mutation_survivors.csv``. ``--check`` exits 1
when a module is below its target.

``results/mutation_equivalent.csv`` lists mutants that someone looked at and that change nothing a user could see,
with the reason. The column ``score`` leaves them out, ``score_all`` counts them as alive. ``first`` is how many were
killed when they were tried for the first time, by the tests of that day.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutants import ROOT, Mutant, mutants_of
from touching import Only, Touching, digest, record

RESULTS = ROOT / "experiments" / "results"
NOTHING_COLLECTED = 5  # pytest's exit code
TARGET = 0.90  # a reader of a green suite should be right nine times of ten

# module -> the tests that are there for it, quick ones first; "file -k expression": those of the file only
MODULES = {
    "nas/pareto.py": ["test_pareto"],
    "nas/searchers/exact.py": ["test_oracle"],
    "nas/objectives/memory.py": ["test_memory"],
    "nas/deploy/arena.py": ["test_memory"],
    "nas/tables/table.py": ["test_table"],
    "nas/tables/validation.py": ["test_table"],
    "nas/tables/features.py": ["test_table", "test_interpolate"],
    "nas/tables/interpolate.py": ["test_interpolate"],
    "nas/tables/fit/calibration.py": ["test_table", "test_fitted"],
    "nas/tables/fit/whole_network.py": ["test_fitted"],
    "nas/tables/fit/few_shot.py": ["test_adapt"],
    "nas/on_device/clock.py": ["test_on_device"],
    "nas/on_device/campaign.py": ["test_on_device"],
    "nas/on_device/results.py": ["test_on_device"],
    "nas/searchers/nsga2.py": ["test_nsga2", "test_searchers"],
    "nas/searchers/nsga3.py": ["test_searchers"],
    "nas/searchers/evolution.py": ["test_searchers"],
    "nas/searchers/local_search.py": ["test_searchers"],
    "nas/searchers/guided.py": ["test_searchers"],
    "nas/searchers/acquisition.py": ["test_searchers"],
    "nas/searchers/ppo.py": ["test_searchers"],
    "nas/engine/ledger.py": ["test_ledger"],
    "nas/engine/proposals.py": ["test_search"],
    "nas/compression/steps/prune.py": ["test_compression -k prun or weakest or ratio or channel or ranges or texts"],
    "nas/compression/steps/quantize.py": ["test_compression -k two or breaks or quantiz or ranges or recipe"],
    "nas/compression/simulation.py": ["test_compression -k simulated"],
    "nas/space.py": ["test_space", "test_oracle"],
    "nas/supernet/elastic.py": ["test_modules"],
    "nas/supernet/recalibrate.py": ["test_modules"],
    "nas/supernet/strategies.py": ["test_train -k sandwich or single_path or strateg"],
}


class Trees:
    """Copies of the tree, one per job: a mutant is written into one while its tests run there."""

    def __init__(self, folder: Path, jobs: int) -> None:
        self._free = [folder / str(i) for i in range(jobs)]
        for tree in self._free:
            tree.mkdir()
            for name in ("nas", "tests", "search_spaces"):
                shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            for name in ("experiments", "latency_tables", "docs", "pyproject.toml", "README.md"):
                (tree / name).symlink_to(ROOT / name)

    def recording(self, test: str, module: str) -> Path:
        """The file that says which lines of ``module`` each test of a file runs; made if there is none."""
        tree = self._free[0]
        stem, _, keywords = test.partition(" -k ")
        file = f"tests/{stem}.py"
        name = f"{Path(file).stem}-{digest(tree / file, tree / 'tests/conftest.py')}-{keywords.replace(' ', '_')}.json"
        path = RESULTS / "runs" / "touching" / name
        if path.exists() and json.loads(path.read_text())["sources"].get(module, "") == digest(tree / module):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        if (code := _forked(tree, lambda: record(tree, file, keywords, path))) != 0:
            sys.exit(f"{test} fails without any mutant (pytest ends with {code})")
        return path

    def passes(self, mutant: Mutant, limits: dict[str, float]) -> bool:
        """Whether the tests, with their limits in seconds, pass with the mutant in its place."""
        tree = self._free.pop()
        path = tree / mutant.module
        original = path.read_text()
        files = sorted({test.split("::")[0] for test in limits})
        try:
            path.write_text(mutant.code)
            return _forked(tree, lambda: _pytest(files, limits)) in (0, NOTHING_COLLECTED)
        finally:
            path.write_text(original)
            self._free.append(tree)


def _pytest(files: list[str], limits: dict[str, float]) -> int:
    import pytest

    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *files], plugins=[Only(limits)]))


def _forked(tree: Path, work: Callable[[], int]) -> int:
    """What ``work`` returns in a fork, which spares it the seconds of importing torch; 99 if it died."""
    pid = os.fork()
    if pid == 0:
        try:
            quiet = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(quiet, stream)
            os.chdir(tree)
            os.environ["PYTHONPATH"] = str(tree)
            sys.dont_write_bytecode = True
            sys.path[:0] = [str(tree)]
            os._exit(work())
        except BaseException:
            os._exit(99)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 99


def interval(killed: int, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share."""
    z, p = 1.96, killed / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


class Log:
    """Every trial of a mutant: key, whether it was killed, module, line. What is there is not tried again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.first: dict[str, bool] = {}
        self.last: dict[str, bool] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        for key, killed, *_ in csv.reader(path.open()) if path.exists() else ():
            self._keep(key, killed == "1")

    def add(self, mutant: Mutant, killed: bool) -> None:
        with self._path.open("a") as file:
            csv.writer(file).writerow([mutant.key, int(killed), mutant.module, mutant.line, *mutant.change])
        self._keep(mutant.key, killed)

    def _keep(self, key: str, killed: bool) -> None:
        self.first.setdefault(key, killed)
        self.last[key] = killed or self.last.get(key, False)


def equivalents() -> set[tuple[str, ...]]:
    """Module, operator, line before, line after of those that change nothing to be seen."""
    path = RESULTS / "mutation_equivalent.csv"
    return {tuple(row[:4]) for row in csv.reader(path.open())} if path.exists() else set()


def row_of(mutant: Mutant) -> tuple[str, ...]:
    return mutant.module, mutant.operator.removeprefix("core/"), *mutant.change


def score(module: str, args: argparse.Namespace, trees: Trees, log: Log) -> tuple[dict[str, object], list[Mutant]]:
    """The row of one module, and the mutants that survived."""
    everything = mutants_of(module)
    order = sorted(everything, key=lambda m: m.order(args.seed))
    some = list(itertools.islice((m for m in order if m.is_python), args.sample))  # of a larger sample the first
    tests = Touching(module, [trees.recording(name, module) for name in MODULES[module]])

    def killed(mutant: Mutant) -> bool:
        if mutant.key not in log.last or (args.survivors and not log.last[mutant.key]):
            limits = tests.limits(mutant.line, args.patience)
            log.add(mutant, bool(limits) and not trees.passes(mutant, limits))
        return log.last[mutant.key]

    with ThreadPoolExecutor(args.jobs) as pool:
        outcomes = list(pool.map(killed, some))
    alive = [m for m, dead in zip(some, outcomes, strict=True) if not dead]
    known = equivalents()
    same = sum(row_of(m) in known for m in alive)
    dead, counted = sum(outcomes), len(some) - same
    low, high = interval(dead, counted)
    row = {
        "module": module,
        "seed": args.seed,
        "mutants": len(everything),
        "sampled": len(some),
        "first": sum(log.first[m.key] for m in some),
        "killed": dead,
        "equivalent": same,
        "score": round(dead / counted, 3),
        "low": round(low, 3),
        "high": round(high, 3),
        "score_all": round(dead / len(some), 3),
    }
    print(
        f"{module}: {dead} of {counted} killed ({row['score']:.0%}, 95% interval {low:.0%} to {high:.0%}), "
        f"{same} equivalent",
        flush=True,
    )
    return row, [m for m in alive if row_of(m) not in known]


def update(name: str, columns: list[str], module: str, seed: int, rows: list[list[object]]) -> None:
    """Puts the rows of a module and seed in the place of their old ones."""
    path = RESULTS / name
    old = list(csv.reader(path.open()))[1:] if path.exists() else []
    kept = [row for row in old if row[:2] != [module, str(seed)] and row[0] in MODULES]
    order = list(MODULES)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(sorted([*kept, *rows], key=lambda row: (order.index(str(row[0])), int(str(row[1])))))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="default: all")
    parser.add_argument("--sample", type=int, default=25, help="mutants per module (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--patience", type=float, default=300.0, help="seconds of tests per mutant, quick ones first")
    parser.add_argument("--survivors", action="store_true", help="try again what was alive")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import matplotlib.figure  # noqa: F401 - inherited by the forks
    import pandas  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch  # noqa: F401

    log = Log(RESULTS / "runs" / "mutation.csv")
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        trees = Trees(Path(folder), args.jobs)
        for module in args.modules or MODULES:
            row, alive = score(module, args, trees, log)
            rows.append(row)
            update("mutation.csv", list(row), module, args.seed, [list(row.values())])
            columns = ["module", "seed", "operator", "before", "after", "line"]
            lines = [[module, args.seed, *row_of(m)[1:], m.line] for m in alive]
            update("mutation_survivors.csv", columns, module, args.seed, lines)
    below = [str(r["module"]) for r in rows if float(str(r["score"])) < TARGET]
    print(f"below {TARGET:.0%}: {', '.join(below) or 'none'}")
    return int(args.check and bool(below))


if __name__ == "__main__":
    sys.exit(main())
