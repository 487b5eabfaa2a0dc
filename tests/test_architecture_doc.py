"""docs/architecture.md is true: its files are added to a copy of the tree, and its code runs there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)
FILES = {m[1]: code for code in BLOCKS if (m := re.match(r"# ((?:nas|search_spaces)/[\w/]+\.py)\n", code))}
SCRIPT = [code for code in BLOCKS if code not in FILES.values()]


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The packages, with what the page adds to them."""
    root = tmp_path_factory.mktemp("tree")
    for package in ("nas", "search_spaces"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "latency_tables").mkdir()
    for path, code in FILES.items():
        assert not (root / path).exists(), f"{path} is there already"
        assert (root / path).parent.is_dir(), path
        (root / path).write_text(code)
    return root


def run(code: str, root: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_block_of_the_page_runs(copy):
    """In one process and in order, as a reader would."""
    numbered = "\n".join(f"print('block', {i})\n{code}" for i, code in enumerate(SCRIPT))
    done = run(numbered, copy)
    assert done.returncode == 0, done.stdout[-100:] + done.stderr[-3000:]
    assert done.stdout.count("block") == len(SCRIPT)
    assert (copy / "plain.pt2").exists()


def test_the_page_adds_each_kind_of_thing():
    added = {str(Path(path).parent) for path in FILES}
    assert added == {
        "search_spaces",
        "nas/blocks",
        "nas/searchers",
        "nas/compression/steps",
        "nas/deploy/exporters",
        "nas/runtimes",
    }
    assert len(SCRIPT) >= 10


def test_what_is_added_is_on_the_command_line(copy):
    code = "import sys; from nas.cli.app import main; main(sys.argv[1:])"
    for flags, listed in (
        (["quickstart", "--space", "nowhere"], "plain.digits"),
        (["quickstart", "--searcher", "none"], "hill_climbing"),
    ):
        done = run(code.replace("sys.argv[1:]", repr([*flags, "--run-dir", "none"])), copy)
        assert listed in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_files_and_layers_that_the_page_names_are_there():
    layers = re.search(r"^layers = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.S | re.M)[1]
    modules = set(re.findall(r"\w+", layers))
    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.M)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert modules == named, "layers of pyproject.toml and of the page"
    for path in re.findall(r"`((?:nas|tests|docs|search_spaces)/[\w/]+\.(?:py|md))`", PAGE):
        assert (ROOT / path).exists() or path in FILES, path
