"""Which tests run a line: a mutant is put before those only, quick ones first (coverage.py, one run of each file).

A test that looks at what a fixture made counts as running what the fixture ran. What a test runs in another process
is not seen: a mutant that only such a test would kill counts as alive.
"""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from mutants import ROOT, Places


class Recorder:
    """Pytest plugin: names each test and each shared fixture to coverage, and keeps times."""

    def __init__(self, coverage: Any) -> None:
        self._coverage, self._contexts = coverage, [""]
        self.seconds: dict[str, float] = {}
        self.fixtures: dict[str, list[str]] = {}

    def _within(self, context: str) -> Generator[None, Any, Any]:
        begun = time.monotonic()
        self._contexts.append(context)
        self._coverage.switch_context(context)
        try:
            return (yield)
        finally:
            self.seconds[context] = time.monotonic() - begun
            self._contexts.pop()
            self._coverage.switch_context(self._contexts[-1])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self.fixtures[item.nodeid] = list(getattr(item, "fixturenames", []))
        return (yield from self._within(item.nodeid))

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, Any]:
        if fixturedef.scope == "function":
            return (yield)
        return (yield from self._within(f"@{fixturedef.argname}"))


def record(tree: Path, test: str, keywords: str, out: Path) -> int:
    """Runs a test file in ``tree`` and writes which tests run which line; the exit code of pytest.

    ``keywords``: as of ``pytest -k``.
    """
    import coverage

    cover = coverage.Coverage(data_file=None, include=[f"{tree}/nas/*"], config_file=False)
    recorder = Recorder(cover)
    cover.start()
    code = int(pytest.main(["-q", "-p", "no:cacheprovider", "-k", keywords, test], plugins=[recorder]))
    cover.stop()
    data = cover.get_data()
    lines = {
        str(Path(name).relative_to(tree)): {
            str(line): sorted(set(contexts) - {""}) for line, contexts in data.contexts_by_lineno(name).items()
        }
        for name in data.measured_files()
    }
    sources = {module: digest(tree / module) for module in lines}
    out.write_text(
        json.dumps({"seconds": recorder.seconds, "fixtures": recorder.fixtures, "lines": lines, "sources": sources})
    )
    return code


def digest(*paths: Path) -> str:
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()[:16]


class Touching:
    """Tests that run the lines of one module. ``recordings``: one file of ``record`` per test file."""

    def __init__(self, module: str, recordings: list[Path]) -> None:
        self._places = Places((ROOT / module).read_text())
        self._seconds: dict[str, float] = {}
        self._limits: dict[str, float] = {}
        self._lines: dict[int, set[str]] = {}
        for path in recordings:
            data = json.loads(path.read_text())
            seconds = data["seconds"]
            users: dict[str, list[str]] = {}
            for test, fixtures in data["fixtures"].items():
                self._seconds[test] = seconds[test]
                self._limits[test] = 10 + 3 * (seconds[test] + sum(seconds.get(f"@{f}", 0.0) for f in fixtures))
                for fixture in fixtures:
                    users.setdefault(f"@{fixture}", []).append(test)
            for line, contexts in data["lines"].get(module, {}).items():
                tests = (t for c in contexts for t in (users.get(c, []) if c.startswith("@") else [c]))
                self._lines.setdefault(int(line), set()).update(tests)

    def limits(self, line: int, patience: float) -> dict[str, float]:
        """Tests that run the statement at a line, quick ones first until ``patience`` seconds are full.

        For what runs at import only (the head of a function, a field) those that run its function, or else anything of
        the module. Each with the CPU seconds after which it hangs, whichever fixtures fall to it.
        """
        head = self._places.function(line)
        found = self._between(*self._places.statement(line)) or (self._between(*head) if head else set())
        if not found and (head or line in self._lines):
            found = self._between(0, 1_000_000)
        limits, spent = {}, 0.0
        for test in sorted(found, key=lambda test: self._seconds[test]):
            spent += self._seconds[test]
            if not limits or spent <= patience:
                limits[test] = self._limits[test]
        return limits

    def _between(self, first: int, last: int) -> set[str]:
        return {test for line, tests in self._lines.items() if first <= line <= last for test in tests}


class Only:
    """Pytest plugin: these tests only, in this order, each dead after so many seconds of CPU time.

    Of CPU time, so that a busy machine kills nothing; what waits without computing, pytest-timeout ends.
    """

    def __init__(self, limits: dict[str, float]) -> None:
        self._limits, self._order = limits, {test: i for i, test in enumerate(limits)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self._order), key=lambda i: self._order[i.nodeid])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        signal.setitimer(signal.ITIMER_PROF, self._limits[item.nodeid])
