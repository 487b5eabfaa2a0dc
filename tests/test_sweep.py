"""Sweeps: every trial once, whatever dies in between; the folder is the record, and the report is made from it."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_trials import SPACE, small_search, training, unlucky

from nas.cli import names
from nas.cli.app import main
from nas.device import Device
from nas.engine.loop import search
from nas.errors import BadInput
from nas.objectives.tabular import NASBENCH201, TabularBenchmark
from nas.report.sweep_page import write_sweep_report
from nas.runs.folder import new_run, opened
from nas.searchers.random import RandomSearch
from nas.supernet import Supernet
from nas.sweeps.folder import last_report, read_sweep, read_sweep_record, trial_name
from nas.sweeps.sweep import sweep
from nas.sweeps.trial import TrialRunner
from nas.tables.table import LatencyTable, Validation
from nas.training.weights import save_weights
from search_spaces import NasBench201

ray = pytest.importorskip("ray")
ROOT = Path(__file__).parents[1]


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


# ---- what a sweep does ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(ray_of_two, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "whole"
    sweep(small_search, {"weight": [1, 2], "seed": [0, 1]}, run_dir=folder)
    return folder


def test_every_combination_is_one_ordinary_search(swept, tmp_path):
    table = read_sweep(swept)
    assert sorted(zip(table["weight"], table["seed"], strict=True)) == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert (table["error"] == "").all()
    assert list(table["evaluations"]) == [30] * 4
    own = small_search({"weight": 2, "seed": 1}, tmp_path / "trials" / "own", None)
    trial = swept / "trials" / "seed=1,weight=2"
    written = pd.read_csv(trial / "evaluations.csv")
    assert list(written["architecture"]) == SPACE.describe(own.archs)
    assert list(written["score"]) == list(own.values[:, 0])
    assert table.set_index("trial").loc[trial.name, "best_score"] == own.values[:, 0].max()
    pd.testing.assert_frame_equal(pd.read_csv(swept / "sweep.csv", keep_default_na=False), table, check_dtype=False)


def test_finished_trials_are_not_done_again(swept, tmp_path):
    """Whatever became of Tune's own state; and more settings are more trials."""
    folder = tmp_path / "again"
    shutil.copytree(swept, folder)
    for path in [*folder.glob("tune/*.json"), *folder.glob("tune/*.pkl")]:
        path.write_bytes(path.read_bytes()[:40])
    before = calls(folder)
    table = sweep(small_search, {"weight": [1, 2], "seed": [0, 1, 2]}, run_dir=folder, resume=True, max_concurrent=1)
    assert len(table) == 6
    assert (table["error"] == "").all()
    assert {line.split()[0] for line in calls(folder)[len(before) :]} == {"seed=2,weight=1", "seed=2,weight=2"}


def test_a_folder_is_not_swept_twice_by_accident(swept):
    settings = {"weight": [1, 2], "seed": [0, 1]}
    with pytest.raises(BadInput, match=r"already holds a sweep; pass resume \(--resume\)"):
        sweep(small_search, settings, run_dir=swept, resume=False)
    for trial, change, options, differing in (
        (
            small_search,
            {"weight": [1]},
            {},
            r"settings \({'weight': \[1, 2\], 'seed': \[0, 1\]}, now {'weight': \[1\],",
        ),
        (small_search, {}, {"seed": 1}, r"seed \(0, now 1\);"),
        (unlucky, {}, {}, r"trial \(small_trials.small_search, now small_trials.unlucky\);"),
    ):
        with pytest.raises(BadInput, match=rf"holds a sweep of other {differing}"):
            sweep(trial, settings | change, run_dir=swept, **options)


def test_a_trial_that_fails_is_a_row(ray_of_two, tmp_path, capfd):
    fates = ["raises", "raises once", "dies once", "dies", "fine"]
    folder = tmp_path / "sweep"
    table = sweep(unlucky, {"fate": fates}, run_dir=folder, max_failures=1).set_index("fate")
    assert table.loc["raises", "error"] == "ValueError: bad luck"
    assert "died" in table.loc["dies", "error"]
    assert list(table.loc[["raises once", "dies once", "fine"], "error"]) == [""] * 3
    assert list(table.loc[["raises once", "dies once", "fine"], "attempts"]) == [2, 2, 1]
    assert capfd.readouterr() == ("", "")
    assert "bad luck" in write_sweep_report(folder).read_text()
    again = sweep(unlucky, {"fate": fates[:2]}, run_dir=folder, max_failures=0, resume=True).set_index("fate")
    assert len(list((folder / "trials" / "fate=raises").glob("attempt*"))) == 3  # failed trials get another chance
    assert again.loc["fine", "attempts"] == 1


def test_a_training_sampled_by_optuna_and_stopped_by_asha(ray_of_two, tmp_path, capfd):
    from ray import tune

    settings = {"lr": tune.loguniform(0.01, 1), "kind": ["a", "b"]}
    chosen = {"metric": "accuracy", "search_alg": "optuna", "scheduler": "asha"}
    table = sweep(training, settings, run_dir=tmp_path / "sweep", samples=10, max_concurrent=2, **chosen)
    assert len(table) == 10
    assert (table["error"] == "").all()
    stopped = table["stopped_early"] == 1
    assert 0 < stopped.sum() < 10
    assert (table[stopped]["epoch"] < 20).all()
    assert (table[~stopped]["epoch"] == 20).all()
    assert (table[~stopped]["test"] == table[~stopped]["lr"]).all()
    assert table["accuracy"].idxmax() == table[~stopped]["lr"].idxmax()
    again = sweep(training, settings, run_dir=tmp_path / "sweep", samples=10, max_concurrent=2, **chosen)
    pd.testing.assert_frame_equal(again, table)
    assert len((tmp_path / "sweep" / "trained").read_text().splitlines()) == 10
    assert capfd.readouterr() == ("", "")


def test_sampled_settings_are_the_same_after_a_loss_of_state(ray_of_two, tmp_path):
    from ray import tune

    folder = tmp_path / "sweep"
    first = sweep(training, {"lr": tune.uniform(0, 1)}, run_dir=folder, samples=3, max_concurrent=1)
    shutil.rmtree(folder / "tune")
    again = sweep(training, {"lr": tune.uniform(0, 1)}, run_dir=folder, samples=3, max_concurrent=1)
    pd.testing.assert_frame_equal(first, again)
    assert len((folder / "trained").read_text().splitlines()) == 3


def test_a_killed_driver_loses_no_evaluation(ray_of_two, tmp_path):
    """Killed in the middle of its trials, resumed here: what an undisturbed sweep finds, nothing evaluated twice."""
    folder = tmp_path / "killed"
    settings = {"weight": [1, 2], "seed": [0], "pause": 0.05}
    code = f"import small_trials, nas; nas.sweep(small_trials.small_search, {settings}, run_dir={str(folder)!r})"
    cluster = {"RAY_ADDRESS": ray_of_two.get_runtime_context().gcs_address}  # starting another takes seconds
    driver = subprocess.Popen([sys.executable, "-c", code], env=os.environ | cluster, cwd=ROOT / "tests")
    while not (folder / "calls").exists() or len(calls(folder)) < 10:  # pytest ends it, if nothing does
        assert driver.poll() is None
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    before = ledger(folder)
    assert 0 < len(before) < 60
    table = sweep(small_search, settings, run_dir=folder)
    assert (table["error"] == "").all()
    after = ledger(folder)
    assert before <= after
    assert len(after) == 60
    for weight in (1, 2):
        plain = small_search({"weight": weight, "seed": 0}, tmp_path / "trials" / f"{weight}", None)
        trial = folder / "trials" / f"pause=0.05,seed=0,weight={weight}"
        assert list(pd.read_csv(trial / "evaluations.csv")["score"]) == list(plain.values[:, 0])
    assert len(calls(folder)) - len(set(calls(folder))) <= 2 * 2  # at most what was under way in each trial


def ledger(folder: Path) -> set[tuple]:
    rows: set[tuple] = set()
    for path in folder.glob("trials/*/evaluations.db"):
        with sqlite3.connect(path) as db:
            found = db.execute("SELECT arch, objectives FROM evaluations").fetchall()
        rows |= {(path.parent.name, *row) for row in found}
    return rows


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        ({}, {}, "a sweep needs settings"),
        ({"seed": []}, {}, "setting seed has no alternatives"),
        ({"seed": [0]}, {"samples": 0}, "samples is a whole number from 1 to 1,000,000,000, got 0"),
        ({"seed": [0]}, {"samples": 2}, "samples=2 would repeat the same trials"),
        ({"seed": [0]}, {"mode": "up"}, "mode is one of max, min, got 'up'"),
        ({"seed": [0]}, {"search_alg": "bayes"}, "search_alg is 'optuna' or an object"),
        ({"seed": [0]}, {"scheduler": "asha"}, "scheduler='asha' needs metric="),
        ({"../seed": [0]}, {}, "the name of a setting becomes a file name"),
    ],
)
def test_settings_that_make_no_sense(tmp_path, settings, options, said):
    with pytest.raises(BadInput, match=re.escape(said)):
        sweep(training, settings, run_dir=tmp_path / "sweep", **options)
    assert not (tmp_path / "sweep").exists()


def test_what_no_machine_has_is_said_at_once(ray_of_two, tmp_path):
    with pytest.raises(BadInput, match="no machine of the Ray cluster has CPU 1, jetson 1; there is CPU 2"):
        sweep(training, {"lr": [1.0]}, run_dir=tmp_path / "sweep", resources={"jetson": 1})
    assert not (tmp_path / "sweep").exists()


def test_trial_folders_are_readable_and_their_own():
    assert trial_name({"searcher": "nsga2", "device": "pixel2", "lr": 0.5}) == "device=pixel2,lr=0.5,searcher=nsga2"
    close = [trial_name({"lr": 0.1234567}), trial_name({"lr": 0.12345671}), trial_name({"lr": 0.123457})]
    assert len(set(close)) == 3
    assert all(name.startswith("lr=0.123457") for name in close)
    alike = [{"a": 1}, {"a": "1"}, {"a": True}, {"a": "True"}, {"a": None}, {"a": "None"}, {"a": "1,b=2"}, {"a": "inf"}]
    alike += [{"a": 1, "b": 2}, {"a": "1", "b": "2"}, {"a": float("inf")}, {"a": "x/y"}, {"a": "x y"}, {"a": "x-y"}]
    assert len({trial_name(settings) for settings in alike}) == len(alike)
    assert "/" not in trial_name({"run": "/a/b"})
    assert len(trial_name({"run": "/a" * 200})) <= 100


# ---- one process at a time, and files as they may be -----------------------------------------------------------------


@pytest.fixture
def elsewhere():
    """``elsewhere(folder)``: another process that is at work there, until it is killed."""
    others = []

    def start(folder: Path) -> subprocess.Popen:
        code = (
            "import time; from pathlib import Path; from nas.files import locked\n"
            f"with locked(Path({str(folder)!r})): print('mine', flush=True); time.sleep(600)"
        )
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        others.append(
            subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        )
        assert others[-1].stdout.readline() == "mine\n"
        return others[-1]

    yield start
    for other in others:
        other.kill()
        other.communicate()


def test_a_trial_waits_for_another_process_in_its_folder(tmp_path, elsewhere, caplog):
    """And takes its result, when there is one by then."""
    caplog.set_level("INFO", logger="nas")
    folder = tmp_path / "trials" / "seed=0"
    told, ran = [], []

    def trial(settings, run_dir, report):
        ran.append(settings)
        return {"x": 2}

    for finished in (False, True):
        caplog.clear()
        shutil.rmtree(tmp_path / "trials", ignore_errors=True)
        other = elsewhere(folder)
        runner = TrialRunner(trial=trial, trials=tmp_path / "trials")
        waiting = threading.Thread(target=runner, args=({"seed": 0}, told.append))
        waiting.start()
        while f"(pid {other.pid}) is at work" not in caplog.text:
            assert waiting.is_alive()
            time.sleep(0.01)
        assert not (folder / "settings.json").exists()
        if finished:
            (folder / "done.json").write_text('{"x": 1}')
        other.kill()
        waiting.join()
        assert told.pop() == {"x": 1 if finished else 2, "ended": 1.0}
    assert ran == [{"seed": 0}]


def test_a_second_sweep_in_the_folder_is_refused(tmp_path, elsewhere):
    other = elsewhere(tmp_path / "sweep")
    with pytest.raises(BadInput, match=rf"another process \(pid {other.pid}\) is at work"):
        sweep(training, {"lr": [1.0]}, run_dir=tmp_path / "sweep")


def test_a_trial_that_failed_is_told_as_the_worst(tmp_path):
    told = []

    def trial(settings, run_dir, report):
        report({"loss": 0.5, "other": float("nan")})
        raise ValueError("bad luck\nand more")

    for mode, worst in (("max", -np.inf), ("min", np.inf)):
        runner = TrialRunner(trial=trial, trials=tmp_path / mode, metric="loss", mode=mode, attempts=2)
        runner({"seed": 0}, told.append)
        assert told[0]["loss"] == 0.5
        assert told[-1] == {"loss": worst, "ended": 1.0}
        assert len(told) == 3
        assert np.isnan(last_report(tmp_path / mode / "seed=0")["other"])
        told.clear()
    assert json.loads((tmp_path / "max" / "seed=0" / "failed.json").read_text())["error"] == "ValueError: bad luck"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("sweep.json", '{"samples": 1}'),
        ("sweep.json", '{"settings": {"a": {"b": 1}}}'),
        ("trials/seed=0/settings.json", "[]"),
        ("trials/seed=0/settings.json", '{"seed": {"a": 1}}'),
        ("trials/seed=0/done.json", '{"x": "much"}'),
        ("trials/seed=0/done.json", "[" * 100_000),
        ("trials/seed=0/failed.json", '{"error": 3}'),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, file, content):
    (tmp_path / "trials" / "seed=0").mkdir(parents=True)
    (tmp_path / "trials" / "seed=0" / "settings.json").write_text('{"seed": 0}')
    (tmp_path / file).write_text(content)
    with pytest.raises(BadInput, match=f"{Path(file).name} is damaged") as refused:
        read_sweep_record(tmp_path) if file == "sweep.json" else read_sweep(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_full_disk_is_one_line(ray_of_two, tmp_path, monkeypatch):
    """Tune then reads back what it could not write."""

    class Tuner:
        def fit(self):
            raise EOFError("Ran out of input")

    monkeypatch.setattr("nas.sweeps.sweep._Plan._tuner", lambda self, trainable: Tuner())
    with pytest.raises(BadInput, match=r"cannot write .*: Ran out of input; finished trials are kept"):
        sweep(training, {"lr": [1.0]}, run_dir=tmp_path / "sweep")


# ---- the command and the report -----------------------------------------------------------------------------------


def test_the_command_sweeps_a_benchmark_and_goes_on(ray_of_two, tmp_path, capsys):
    folder = tmp_path / "sweep"
    given = ["--devices", "pixel2,raspi4", "--searchers", "nsga2,random", "--seeds", "1", "--budget", "40"]
    assert main(["sweep", *given, "--run-dir", str(folder)]) == 0
    table = read_sweep(folder)
    assert len(table) == 4
    assert (table["evaluations"] == 40).all()
    page = (folder / "sweep.html").read_text()
    assert all(text in page for text in ("pixel2", "raspi4", "nsga2", "random", "Kendall"))
    assert str(folder / "sweep.html") in capsys.readouterr().out
    (folder / "sweep.html").unlink()
    assert main(["sweep", "--run-dir", str(folder), "--resume", "--seeds", "2"]) == 0  # the rest as before
    assert len(read_sweep(folder)) == 8
    assert main(["report", "--run-dir", str(folder)]) == 0
    assert (folder / "sweep.html").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--devices", "nokia"], "there is no device 'nokia'; there are"),
        (["--searchers", "nsga2,magic"], "there is no searcher 'magic'; there are evolution, guided"),
        (["--budget", "0"], "budget is a whole number from 1 to 1,000,000,000, got"),
        (["--run", "nowhere"], "is not a run folder"),
    ],
)
def test_the_command_refuses_in_one_line(tmp_path, capsys, given, said):
    try:
        status = main(["sweep", "--run-dir", str(tmp_path / "sweep"), *given])
    except SystemExit as refused:
        status = refused.code
    assert status == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_the_command_sweeps_a_trained_run(ray_of_two, tmp_path, digits, capsys):
    space = functools.partial(names.space, space="efficientnet.digits")
    run = new_run(space, names.images, run_dir=tmp_path / "run")
    with opened(run):
        pass
    rows = pd.DataFrame({"block": [b.key for b in SPACE.blocks], "runs": 1})
    for i, precision in enumerate(("fp32", "int8")):
        rows["latency_ms"] = rows["p10_ms"] = rows["p90_ms"] = np.random.default_rng(i).uniform(1, 2, len(rows))
        device = Device(name="d", chip="c", runtime="r", version="1", precision=precision, batch=1, threads=1)
        made_for = {"name": SPACE.name, "fingerprint": SPACE.fingerprint}
        judged = Validation(networks=20, kendall_tau=0.9, mape=0.03, within_10pct=1.0)
        table = LatencyTable(device=device, rows=rows, space=made_for, validation=judged)
        table.save(run.folder / f"table_{precision}")
    save_weights(run.folder / "supernet.safetensors", Supernet(SPACE), {"space": SPACE.fingerprint})
    given = ["--searchers", "random", "--seeds", "1", "--budget", "3"]
    assert main(["sweep", "--run", str(run.folder), *given, "--run-dir", str(tmp_path / "sweep")]) == 0
    table = read_sweep(tmp_path / "sweep")
    assert set(table["device"]) == {"fp32", "int8"}
    assert (table["evaluations"] == 3).all()
    assert "fp32" in capsys.readouterr().out


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Path:
    """Two devices, two searchers, two seeds, as a sweep leaves them; and one trial that failed."""
    folder = tmp_path_factory.mktemp("compared")
    benchmark = TabularBenchmark.load(NasBench201.cell(), NASBENCH201)

    def trial(settings, run_dir, report):
        if settings["searcher"] == "broken":
            raise ValueError("<no> luck")
        objectives = [benchmark.accuracy(), benchmark.latency(settings["device"])]
        return search(
            benchmark.space, objectives, RandomSearch(benchmark.space, seed=settings["seed"]),
            budget=60 if settings["searcher"] == "long" else 30, run_dir=run_dir, resume=True,
        )  # fmt: skip

    grid = [(d, s, seed) for d in ("pixel2", "raspi4") for s in ("long", "short") for seed in (0, 1)]
    for device, searcher, seed in [*grid, ("pixel2", "broken", 0)]:
        settings = {"device": device, "searcher": searcher, "seed": seed}
        TrialRunner(trial=trial, trials=folder / "trials")(settings, lambda m: None)
    return folder


def test_the_report_says_what_the_trials_found(compared):
    page = write_sweep_report(compared).read_text()
    assert "9 trials, 8 finished" in page
    assert "ValueError: &lt;no&gt; luck" in page
    volumes = _row(page, "pixel2", after="<h2>Hypervolume at the end")
    long, short = (float(cell.split()[0]) for cell in volumes)
    assert 0.5 < short < long <= 1
    benchmark = TabularBenchmark.load(NasBench201.cell(), NASBENCH201)
    found = [pd.read_csv(p) for p in compared.glob("trials/*/evaluations.csv")]
    both = pd.concat(found)["architecture"].drop_duplicates()
    archs = benchmark.space.encode([dict(g.split("=") for g in text.split()) for text in both])
    from scipy.stats import kendalltau

    tau = kendalltau(*(benchmark.latency(d)(archs) for d in ("pixel2", "raspi4"))).statistic
    one, other = _row(page, "pixel2", after="<h2>Rank correlation")
    assert float(one) == 1
    assert float(other) == pytest.approx(tau, abs=0.03)


def _row(page: str, name: str, *, after: str) -> list[str]:
    """The other cells of the table row that begins with ``name``."""
    rows = re.findall(r"<tr>(.*?)</tr>", page[page.index(after) :])
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    return next(c[1:] for c in cells if c and c[0] == name)


def test_the_report_needs_a_sweep(tmp_path):
    with pytest.raises(BadInput, match="holds no sweep"):
        write_sweep_report(tmp_path)


def test_a_sweep_of_trainings_has_a_report_too(tmp_path):
    TrialRunner(trial=training, trials=tmp_path / "trials")({"lr": 0.5}, lambda m: None)
    assert json.loads((tmp_path / "trials" / "lr=0.5" / "done.json").read_text())["test"] == 0.5
    assert "1 trials, 1 finished" in write_sweep_report(tmp_path).read_text()
