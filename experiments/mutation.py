"""Do the tests notice faults? Mutation testing of the modules in which a silent fault would cost most.

    python experiments/mutation.py [MODULE ...] [--sample N] [--seed S] [--jobs J] [--check]

Cosmic Ray makes the mutants: an operator turned round, a number off by one, a loop that never runs, a condition
negated. Of each module ``--sample`` are drawn at random, each is put into a copy of the tree, and the tests named
beside the module run on it. Killed: a test failed, or ran three times as long as it should. Results are kept as they
come (``results/runs/mutation.csv``), the same command goes on; scores with 95% intervals go to
``results/mutation.csv``, survivors to ``results/mutation_survivors.csv``. ``--check`` exits 1 when a module is below
its target.

Left out: definitions of tuning constants, which another value would not make wrong.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import math
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
TARGET = 0.90  # a reader of a green suite should be right nine times of ten

# module -> the tests that are there for it, quick ones first
MODULES = {
    "nas/pareto.py": ["test_pareto"],
    "nas/space.py": ["test_space", "test_oracle"],
    "nas/searchers/exact.py": ["test_oracle"],
    "nas/searchers/nsga2.py": ["test_nsga2", "test_searchers"],
    "nas/searchers/nsga3.py": ["test_searchers"],
    "nas/searchers/evolution.py": ["test_searchers"],
    "nas/searchers/local_search.py": ["test_searchers"],
    "nas/searchers/guided.py": ["test_searchers"],
    "nas/searchers/acquisition.py": ["test_searchers"],
    "nas/searchers/ppo.py": ["test_searchers"],
    "nas/engine/ledger.py": ["test_ledger", "test_search"],
    "nas/engine/proposals.py": ["test_search"],
    "nas/tables/table.py": ["test_table"],
    "nas/tables/validation.py": ["test_table"],
    "nas/tables/features.py": ["test_table", "test_interpolate", "test_fitted"],
    "nas/tables/interpolate.py": ["test_interpolate"],
    "nas/tables/fit/calibration.py": ["test_table", "test_fitted"],
    "nas/tables/fit/whole_network.py": ["test_fitted"],
    "nas/tables/fit/few_shot.py": ["test_adapt"],
    "nas/on_device/clock.py": ["test_on_device"],
    "nas/on_device/campaign.py": ["test_on_device"],
    "nas/on_device/results.py": ["test_on_device"],
    "nas/supernet/elastic.py": ["test_modules", "test_laws"],
    "nas/supernet/recalibrate.py": ["test_modules", "test_train"],
    "nas/supernet/strategies.py": ["test_train"],
    "nas/compression/steps/quantize.py": ["test_compression"],
    "nas/compression/simulation.py": ["test_compression", "test_train"],
    "nas/compression/steps/prune.py": ["test_compression"],
    "nas/deploy/arena.py": ["test_memory"],
    "nas/objectives/memory.py": ["test_memory"],
}
_OPERATORS = (
    ["Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Add", "Pow_Mul", "BitAnd_BitOr", "LShift_RShift"],
    [
        "Eq_NotEq",
        "NotEq_Eq",
        "Lt_LtE",
        "Lt_GtE",
        "LtE_Lt",
        "LtE_Gt",
        "Gt_GtE",
        "Gt_LtE",
        "GtE_Gt",
        "GtE_Lt",
        "Is_IsNot",
        "IsNot_Is",
    ],
    [
        "ReplaceUnaryOperator_Delete_USub",
        "ReplaceUnaryOperator_Delete_Not",
        "AddNot",
        "ReplaceTrueWithFalse",
        "ReplaceFalseWithTrue",
        "ReplaceAndWithOr",
        "ReplaceOrWithAnd",
        "ReplaceBreakWithContinue",
        "NumberReplacer",
        "ZeroIterationForLoop",
    ],
)
_CONSTANT = re.compile(r"_?[A-Z][A-Z_, ]* = ")
OPERATORS = [
    *(f"core/ReplaceBinaryOperator_{o}" for o in _OPERATORS[0]),
    *(f"core/ReplaceComparisonOperator_{o}" for o in _OPERATORS[1]),
    *(f"core/{o}" for o in _OPERATORS[2]),
]


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """Occurrence ``occurrence`` of ``operator`` in ``module``. ``line``: where, ``change``: what stands there then."""

    module: str
    operator: str
    occurrence: int
    line: int
    change: str
    code: str

    @property
    def key(self) -> str:
        return hashlib.sha256(f"{self.module} {self.code}".encode()).hexdigest()[:16]


def mutants_of(module: str) -> list[Mutant]:
    """All mutants of a module that change a line of code other than the definition of a tuning constant."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    source = (ROOT / module).read_text()
    before, found = source.split("\n"), []
    for operator in OPERATORS:
        made = get_operator(operator)()
        for occurrence in range(100_000):
            code = mutate_code(source, made, occurrence)
            if code is None:
                break
            line = next((i for i, (a, b) in enumerate(zip(before, code.split("\n"), strict=False)) if a != b), None)
            if line is not None and not _CONSTANT.match(before[line]):
                change = code.split("\n")[line].strip()
                found.append(
                    Mutant(
                        module=module, operator=operator, occurrence=occurrence, line=line + 1, change=change, code=code
                    )
                )
    return found


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

    def test(self, module: str, code: str | None, tests: list[str], limit_s: float) -> tuple[bool, float]:
        """(whether all tests pass, seconds) with ``code`` in the place of ``module``."""
        tree = self._free.pop()
        path = tree / module
        original = path.read_text()
        try:
            if code is not None:
                path.write_text(code)
            begun = time.monotonic()
            return _run(tree, tests, limit_s), time.monotonic() - begun
        finally:
            path.write_text(original)
            self._free.append(tree)


def _run(tree: Path, tests: list[str], limit_s: float) -> bool:
    """pytest in a fork, which spares it the seconds of importing torch."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            quiet = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(quiet, stream)
            os.chdir(tree)
            os.environ["PYTHONPATH"] = str(tree)
            sys.dont_write_bytecode = True
            sys.path[:0] = [str(tree)]
            import pytest

            os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])))
        except BaseException:
            os._exit(99)
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def interval(killed: int, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share."""
    z, p = 1.96, killed / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def score(module: str, args: argparse.Namespace, trees: Trees, log: Path) -> tuple[dict[str, object], list[Mutant]]:
    """The row of one module, and the mutants that survived."""
    tests = [f"tests/{name}.py" for name in MODULES[module]]
    everything = mutants_of(module)
    some = random.Random(args.seed).sample(everything, min(args.sample, len(everything)))
    known = {row[0]: row[1] == "1" for row in csv.reader(log.open())} if log.exists() else {}
    fine, seconds = trees.test(module, None, tests, 600.0)
    if not fine:
        sys.exit(f"{' '.join(tests)} fail without any mutant")

    def killed(mutant: Mutant) -> bool:
        if mutant.key not in known:
            passed, _ = trees.test(module, mutant.code, tests, 10.0 + 3.0 * seconds)
            with log.open("a") as file:
                csv.writer(file).writerow([mutant.key, int(not passed), module, mutant.line])
            known[mutant.key] = not passed
        return known[mutant.key]

    with ThreadPoolExecutor(args.jobs) as pool:
        outcomes = list(pool.map(killed, some))
    dead = sum(outcomes)
    low, high = interval(dead, len(some))
    row = {
        "module": module,
        "mutants": len(everything),
        "sampled": len(some),
        "killed": dead,
        "score": round(dead / len(some), 3),
        "low": round(low, 3),
        "high": round(high, 3),
    }
    print(
        f"{module}: {dead} of {len(some)} killed ({row['score']:.0%}, 95% interval {low:.0%} to {high:.0%})", flush=True
    )
    return row, [m for m, ok in zip(some, outcomes, strict=True) if not ok]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="default: all")
    parser.add_argument("--sample", type=int, default=40, help="mutants per module (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import matplotlib.figure  # noqa: F401 - inherited by the forks
    import pandas  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch  # noqa: F401

    log = RESULTS / "runs" / "mutation.csv"
    log.parent.mkdir(parents=True, exist_ok=True)
    rows, survivors = [], []
    with tempfile.TemporaryDirectory() as folder:
        trees = Trees(Path(folder), args.jobs)
        for module in args.modules or MODULES:
            row, alive = score(module, args, trees, log)
            rows.append(row)
            survivors += alive
    if not args.modules:
        with (RESULTS / "mutation.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    with (RESULTS / "mutation_survivors.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["module", "line", "operator", "change"])
        writer.writerows([m.module, m.line, m.operator.removeprefix("core/"), m.change] for m in survivors)
    below = [str(r["module"]) for r in rows if float(str(r["score"])) < TARGET]
    print(f"below {TARGET:.0%}: {', '.join(below) or 'none'}")
    return int(args.check and bool(below))


if __name__ == "__main__":
    sys.exit(main())
