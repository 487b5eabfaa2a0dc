"""The command line as a guide: what it lists, what its help says, what its errors name, what shells complete."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import re
import shlex
import subprocess
from pathlib import Path

import pandas as pd
import pytest

import nas
import search_spaces
from nas import searchers
from nas.cli import app, completion
from nas.cli.flags import named_in
from nas.cli.sweep import _winners
from nas.errors import NasError
from nas.objectives.tabular import NASBENCH201, TabularBenchmark
from nas.runs.artefacts import write_record
from nas.sweeps.folder import SWEEP

ROOT = Path(__file__).parents[1]


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Every parser by its words."""
    found = {parser.prog: parser}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                found |= commands(sub)
    return found


PARSERS = commands(app.parser())


def test_without_a_command_it_helps(capsys):
    assert app.main([]) == 0
    shown = capsys.readouterr().out
    for name in app.COMMANDS:
        assert f"\n    {name} " in shown or f"\n    {name}\n" in shown


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as ended:
        app.main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"nas {nas.__version__}\n")
    assert f"## {nas.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {nas.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize("name", PARSERS)
def test_every_help_has_an_example_that_parses(name):
    _, examples = PARSERS[name].epilog.split(":\n")
    for line in examples.splitlines():
        command = shlex.split(line.split(" > ")[0])
        app.parser(*command[1:2]).parse_args(command[1:])
        assert command[: len(name.split())] == name.split()


@pytest.mark.parametrize("name", PARSERS)
def test_every_help_says_what_is_taken_when_a_flag_is_not_given(name):
    for action in PARSERS[name]._actions:
        switch = isinstance(action, argparse._StoreTrueAction | argparse._HelpAction | argparse._VersionAction)
        if action.option_strings and not switch and not action.required:
            assert "default" in action.help, action.option_strings


def test_the_lists_have_everything_that_there_is(capsys):
    assert app.main(["spaces"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:] if line}
    for name in search_spaces.names():
        assert search_spaces.about(name) in lines[name]
    assert app.main(["spaces", "mobilenet_v2.photos", "nasbench201.cell"]) == 0
    space = search_spaces.named("mobilenet_v2.photos")
    reach = nas.macs(space).extremes
    _, pixels, networks, blocks, macs = capsys.readouterr().out.splitlines()[1].split()
    assert (pixels, blocks) == ("64..96", f"{len(space.blocks):,}")
    assert float(networks) == pytest.approx(space.size, rel=0.05)
    assert [float(m) * 1e6 for m in macs.split("..")] == pytest.approx([reach.minimum, reach.maximum], rel=0.01)
    assert app.main(["searchers"]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()[1:-2]] == list(searchers.names())
    assert "NSGA-II" in shown
    assert app.main(["devices"]) == 0
    shown = capsys.readouterr().out
    for device in TabularBenchmark.load(search_spaces.NasBench201.cell(), NASBENCH201).devices:
        assert f" {device}" in shown
    for name in ("onnxruntime", "cuda", "note10", "NUCLEO-L4R5ZI/X-CUBE-AI"):
        assert f" {name}" in shown


@pytest.mark.parametrize(
    ("message", "given", "said"),
    [
        ("there is no device 'x'", "--seeds 2 --devices raspi4,x", "--devices: there is no device 'x'"),
        ("space and around both say it", "--space a --around=b", "--space and --around both say it"),
        ("device is cpu, got 'cuda'", "--device cuda", "--device is cpu, got 'cuda'"),
        ("--name names one", "--name x", "--name names one"),
        ("there are 3 of them", "--seeds 3", "there are 3 of them"),
        ("nowhere is damaged", "--table now", "nowhere is damaged"),
        ("it is full", "--resume", "it is full"),
    ],
)
def test_a_refusal_names_the_flag(message, given, said):
    assert named_in(message, given.split()) == said


@pytest.mark.parametrize(
    "refused",
    [
        "quickstart --table note10_ofa_b1",
        "quickstart --max-latency-ms 0.00001 --table amd-epyc_onnxruntime_int8_mobilenet_v3_digits",
        "quickstart --max-sram 1",
        "train --data nowhere",
        "measure --space mobilenet_v3.nothing",
        "sweep --devices nothing",
    ],
)
def test_a_refused_command_leaves_nothing(refused, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert app.main([*refused.split(), "--run-dir", "runs/x"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def completed(folder: Path, line: str) -> list[str]:
    """What bash offers for the last word of a line."""
    words = line.split(" ")
    script = f"""
source {folder}/nas
COMP_WORDS=({" ".join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}
function_of=$(complete -p nas | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$function_of nas {shlex.quote(words[-1])} {shlex.quote(words[-2])}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split()


def test_bash_completes_commands_flags_and_names(tmp_path):
    (tmp_path / "nas").write_text(completion.script("bash"))
    assert completed(tmp_path, "nas sw") == ["sweep"]
    assert completed(tmp_path, "nas quickstart --max-l") == ["--max-latency-ms"]
    assert completed(tmp_path, "nas measure --precision i") == ["int8"]
    assert completed(tmp_path, "nas tables show --ro") == ["--rows"]
    offered = completed(tmp_path, "nas train --space mobilenet_v3.")
    assert offered == [name for name in search_spaces.names() if name.startswith("mobilenet_v3.")]
    for shell in ("zsh", "fish"):
        assert re.search(r"\bmax-latency-ms\b", completion.script(shell))


def test_a_sweep_says_who_wins_and_who_may_have():
    shares = {"first": [0.90, 0.92], "second": [0.97, 0.99], "third": [0.96, 0.98]}
    rows = [("d", name, share) for name, values in shares.items() for share in values] + [("e", "first", 0.5)]
    found = pd.DataFrame(rows, columns=["device", "searcher", "hypervolume"])
    of_d, of_e = _winners(found)
    assert (of_d["best"], of_e["best"]) == ("second or third", "first")
    assert of_d["first"] == "0.9100 ± 0.0141"
    assert of_e == {"device": "e", "first": "0.5000", "second": "-", "third": "-", "best": "first"}


def in_this_process(plan, needs, progress):
    """All trials of a plan without Ray, in another current folder, as Tune runs them."""
    write_record(plan.folder / SWEEP, plan.record)
    plan.runner.trials.mkdir(exist_ok=True)
    with contextlib.chdir("/"):
        for seed in plan.settings["seed"]:
            plan.runner({"seed": seed}, lambda metrics: None)


@pytest.fixture
def without_ray(monkeypatch, tmp_path):
    monkeypatch.setattr("nas.sweeps.sweep._Plan.run", in_this_process)
    monkeypatch.setattr("nas.sweeps.sweep._ray", lambda *where: contextlib.nullcontext())
    monkeypatch.setattr("nas.sweeps.sweep.check_resources", lambda *needed: None)
    monkeypatch.chdir(tmp_path)


def test_paths_mean_the_same_in_a_trial_as_where_the_sweep_was_started(without_ray):
    Path("share.txt").write_text("0.5")
    frame = nas.sweep(lambda *_: {"share": float(Path("share.txt").read_text())}, {"seed": [0, 1]}, run_dir="runs/x")
    assert list(frame["share"]) == [0.5, 0.5]
    assert Path("runs/x/trials/seed=1/done.json").exists()


def test_a_sweep_of_which_nothing_comes_says_why(without_ray):
    def fails(settings, run_dir, report):
        raise ValueError(f"seed {settings['seed']} is no good")

    with pytest.raises(
        NasError, match=r"^all 2 trials failed, the first with: ValueError: seed 0 is no good \(more in "
    ):
        nas.sweep(fails, {"seed": [0, 1]}, run_dir="runs/x")
    frame = nas.sweep(
        lambda settings, *_: {"x": 1} if settings["seed"] else fails(settings, 0, 0), {"seed": [0, 1]}, run_dir="y"
    )
    assert list(frame["error"]) == ["ValueError: seed 0 is no good", ""]


def test_notebooks_show_tables_that_are_escaped(tiny):
    result = nas.search(tiny, [nas.macs(tiny), nas.params(tiny)], budget=12)
    shown = result._repr_html_()
    assert shown.count("<tr>") == 1 + len(result.front)
    assert "12 evaluated" in shown
    table = nas.LatencyTable.load("raspi4_fbnet_b1")
    shown = dataclasses.replace(table, space={"name": "<script>", "fingerprint": "0"})._repr_html_()
    assert shown.count("<tr>") == 21
    assert "20 of 104 rows" in shown
    assert "<script>" not in shown
    assert f"{table.effective_ms.max():.4g}" in shown
    assert "resolution" in tiny._repr_html_()
    benchmark = TabularBenchmark.load(search_spaces.NasBench201.cell(), "nasbench201")
    assert repr(benchmark) == "TabularBenchmark(nasbench201: 15,625 architectures, 21 devices)"
