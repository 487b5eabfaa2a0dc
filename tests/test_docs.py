"""The documentation's code runs, its commands follow one another, and what it says of files and flags is so."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import pydoc
import re
import shlex
import types
from pathlib import Path

import numpy as np
import pytest
import small_run
from conftest import some_digits
from PIL import Image

import nas
from nas.blocks import Head, InvertedResidual, Stem
from nas.checks import hints_of
from nas.cli import fit, measure
from nas.cli.app import parser
from nas.cli.flags import given
from nas.cli.names import SPACE
from nas.tables.names import table_stem
from nas.tables.table import LatencyTable
from search_spaces import MobileNetV3

ROOT = Path(__file__).parents[1]
PAGES = {p.name: p for p in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
TEXTS = {name: page.read_text() for name, page in PAGES.items() if name != "architecture.md"}  # which has its own test
README = TEXTS["README.md"]


def commands(text):
    """What follows ``nas`` in the lines of a page's shell blocks."""
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S)).splitlines()
    parts = (part.split(" > ")[0].strip() for line in lines for part in line.split(" #")[0].split(";"))
    return [part.removeprefix(".venv/bin/")[4:] for part in parts if re.match(r"(\.venv/bin/)?nas \w", part)]


COMMANDS = [(name, line) for name, text in TEXTS.items() for line in commands(text)]


def test_the_python_example_runs(tmp_path, monkeypatch):
    """As it stands, but on a smaller space and fewer images, with fewer epochs, evaluations and timed networks, and
    limits that any machine meets."""
    code = re.search(r"```python\n(.*?)```", README, re.S).group(1)
    monkeypatch.setattr(nas, "load_digits", some_digits, raising=False)
    monkeypatch.setattr(nas, "measure", functools.partial(nas.measure, calibrate=12, validate=8), raising=False)
    monkeypatch.setattr(
        MobileNetV3, "digits", lambda made=MobileNetV3.digits, **given: small_run.space() if made(**given) else None
    )
    smaller = {
        "epochs=50": "epochs=3",
        "budget=300": "budget=20",
        "<= 0.04": "<= 4.0",
        "<= 0.03": "<= 3.0",
        "nas.FineTune()": "nas.FineTune(epochs=2)",
        "nas.Quantize()": "nas.Quantize(qat_epochs=1)",
    }
    for old, new in smaller.items():
        assert old in code
        code = code.replace(old, new)
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(code, scope)
    assert scope["small"].records[-1].precision == "int8"
    assert (tmp_path / "runs/api/digits_int8.onnx").exists()
    assert (tmp_path / "runs/api/front.png").exists()


def test_the_sweep_example_runs_as_it_stands(tmp_path, monkeypatch, ray_of_two):
    (code,) = re.findall(r"```python\n(.*?)```", TEXTS["searching.md"], re.S)
    monkeypatch.chdir(tmp_path)
    scope: dict = {"__name__": "__main__"}
    exec(code, scope)
    assert len(scope["trials"]) == 4
    assert (scope["trials"]["error"] == "").all()


def test_the_examples_of_pretrained_starts_run(tmp_path, monkeypatch):
    """As they stand, but with a few small images, and a small untaught network in the place of the published ones."""
    blocks = [Stem(in_ch=3, out_ch=16, size=16), Head(in_ch=16, hidden=32, out_ch=2, size=8)]
    middle = InvertedResidual(in_ch=16, out_ch=16, mid=32, size=8, residual=True)

    def pretrained(source, *, classes=None, size=None):
        network = nas.Network([blocks[0], middle, blocks[1]])
        network.normalise = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        return network

    monkeypatch.setattr(nas, "pretrained", pretrained, raising=False)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for i in range(24):
        file = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(file)
    scope: dict = {}
    for code in re.findall(r"```python\n(.*?)```", TEXTS["pretrained.md"], re.S):
        exec(code.replace("size=96", "size=16").replace("epochs=8", "epochs=1"), scope)
    assert isinstance(scope["faster"], nas.Network)
    assert sum(b.macs for b in scope["faster"].describe()) < sum(b.macs for b in scope["network"].describe())


OTHERS = {"--adb", "--quick", "--check"}  # of a kit's run.py and of the benchmarks


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_commands_in_the_documentation_parse(page, line):
    parser(line.split()[0]).parse_args(shlex.split(line))


def leaves(args, made):
    """The tables, without ending, and other files that a command leaves."""
    if args.name_of_command == "fit":
        what = fit.Fit(**given(args, fit.Fit))
        precision = "int8" if what.board else fit.Timed(**given(args, fit.Timed)).precision
        return [Path(what.output) / "timings.csv"] if what.choose else [table_stem(Path(what.run_dir), precision)]
    what, device = (cls(**given(args, cls)) for cls in (measure.Measured, measure.Device))
    precisions = measure._precisions(what, device)
    if device.kit:
        return [Path(device.kit) / precisions[0]]
    if device.import_kit:
        return [table_stem(Path(what.run_dir), p.name) for p in made if p.parent == Path(device.import_kit)]
    return [measure._stem(what, device, measure._runtime(args, what, p), p) for p in precisions]


@pytest.mark.parametrize("page", ["README.md", "devices.md"])
def test_commands_of_a_page_follow_one_another(page):
    """What one reads an earlier one has written, or it ships; and a table is of the space that is searched."""
    made = {}
    for line in commands(TEXTS[page]):
        args = parser(line.split()[0]).parse_args(shlex.split(line))
        needed = [Path(getattr(args, name)) for name in ("table", "timings") if getattr(args, name, None)]
        for path in needed:
            assert made[path] == vars(args).get("space", SPACE), line
        for like in getattr(args, "like", ()):
            assert LatencyTable.load(like).space["name"] == vars(args).get("space", SPACE).replace(".", "_")
        if args.name_of_command in ("fit", "measure"):
            left = leaves(args, made)
            assert left, line
            assert set(left) <= set(made) if "energy_log" in args else set(left).isdisjoint(made), line
            made |= dict.fromkeys(left, vars(args).get("space", SPACE))


@pytest.mark.parametrize("flag", sorted({f for text in TEXTS.values() for f in re.findall(r"`(--[a-z-]+)", text)}))
def test_flags_in_the_documentation_exist(flag):
    (known,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert any(flag in sub._option_string_actions for sub in known.choices.values()) or flag in OTHERS


PUBLIC = {name: getattr(nas, name) for name in nas.__all__}
FUNCTIONS = {name: made for name, made in PUBLIC.items() if inspect.isfunction(made)}


def test_public_names_are_listed_once_and_typed():
    assert sorted(set(nas.__all__)) == sorted(nas.__all__)
    assert set(nas.__all__) <= set(dir(nas))
    assert (Path(nas.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_says_what_it_is(name):
    about = inspect.getdoc(PUBLIC[name]) or ""
    assert len(about) > 20
    assert not about.startswith(f"{name}(")  # what dataclass writes where nobody has written anything


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures_and_help_tell_the_truth(name):
    made = FUNCTIONS[name]
    signature = inspect.signature(made)
    assert list(signature.parameters) == list(inspect.signature(inspect.unwrap(made)).parameters)
    shown = pydoc.plain(pydoc.render_doc(made))
    assert f"{name}(" in shown
    for parameter in signature.parameters.values():
        assert parameter.name in shown
        assert parameter.annotation is not parameter.empty, parameter
    assert signature.return_annotation is not signature.empty


def test_help_of_search_is_of_the_function():
    assert not isinstance(nas.search, types.ModuleType)
    assert {"space", "objectives", "searcher", "budget", "run_dir"} <= set(inspect.signature(nas.search).parameters)
    assert "Pareto front" in pydoc.render_doc(nas.search)


def test_defaults_and_helps_of_flags_are_those_of_the_settings(capsys):
    with pytest.raises(SystemExit):
        parser("quickstart").parse_args(["quickstart", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for setting in dataclasses.fields(nas.Settings):
        assert f"--{setting.name.replace('_', '-')}" in shown
        text = next(a for a in hints_of(nas.Settings)[setting.name].__metadata__ if isinstance(a, str))
        default = f" (default {setting.default})" if setting.default not in (None, False) else ""
        assert f"{text}{default}" in shown


@pytest.mark.parametrize("page", TEXTS)
def test_links_point_at_files(page):
    text = re.sub(r"```.*?```", "", TEXTS[page], flags=re.S)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (PAGES[page].parent / target).exists(), target
    for name in re.findall(r"`((?:nas|experiments|search_spaces|tests)/[\w/.]+\w)`", text):
        assert (ROOT / name).exists(), name


def test_every_benchmark_has_a_committed_result():
    folder = ROOT / "experiments" / "benchmarks"
    names = {p.stem for p in folder.glob("*.py") if '__name__ == "__main__"' in p.read_text()}
    assert names == {p.stem for p in (folder / "results").glob("*.csv")}
    assert set(re.findall(r"^\| `(\w+)`", TEXTS["benchmarks.md"], re.M)) <= names
