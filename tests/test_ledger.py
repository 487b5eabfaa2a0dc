"""The ledger's border: what is written survives, what is read is what a search could have written."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

import nas
from nas.engine.ledger import LEDGER, Batch, Ledger, read
from nas.engine.result import SearchResult
from nas.errors import BadInput
from nas.files import locked
from nas.objectives import Objective
from nas.objectives.accuracy import accuracy
from nas.searchers.nsga2 import NSGA2
from nas.space import Choice, SearchSpace
from nas.supernet import Supernet

SPACE = SearchSpace("ledger", [Choice(f"g{i}", (1, 2, 3)) for i in range(6)], ())
SIZE = Objective(name="size", fn=lambda a: a.sum(axis=1) + 1.0, unit="MB")


def quality(fn=lambda a: a.mean(axis=1) / 3, **settings):
    return Objective(name="quality", fn=fn, maximize=True, cheap=False, within=(0.0, 1.0), **settings)


def once(folder, objectives=None, budget=12, **settings):
    return nas.search(SPACE, objectives or [quality(), SIZE], NSGA2(SPACE), budget=budget, run_dir=folder, **settings)


def change(folder, statement, *values):
    with sqlite3.connect(folder / "evaluations.db") as db:
        db.execute(statement, values)
    db.close()


def refused(call, match):
    with pytest.raises(BadInput, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_search_is_read_back_without_being_repeated(tmp_path):
    fails = quality(lambda a: np.where(a[:, 0] == 0, np.nan, a.mean(axis=1) / 3))
    result = once(tmp_path, [fails, SIZE], constraints=[SIZE <= 8.0])
    before = (tmp_path / "evaluations.db").read_bytes()
    names = sorted(p.name for p in tmp_path.iterdir())
    for objectives in ([fails, SIZE], None):
        read = SearchResult.load(tmp_path, SPACE, objectives)
        assert np.array_equal(read.archs, result.archs)
        assert np.array_equal(read.values, result.values, equal_nan=True)
        assert read.violation.tolist() == result.violation.tolist()
        assert read.error.tolist() == result.error.tolist()
        assert (result.error != "").any()
        assert read.stopped == result.stopped
        assert np.array_equal(read.front.archs, result.front.archs)
        assert [(o.name, o.unit, o.maximize) for o in read.objectives] == [("quality", "", True), ("size", "MB", False)]
    with pytest.raises(BadInput, match="pass the objective itself"):
        read.objectives[0](result.archs)
    assert (tmp_path / "evaluations.db").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == names


def test_what_is_read_back_is_the_search_that_was_asked_for(tmp_path):
    refused(lambda: SearchResult.load(tmp_path, SPACE), "has no search")
    once(tmp_path)
    other = SearchSpace("other", SPACE.choices, ())
    refused(lambda: SearchResult.load(tmp_path, other), "is a search of space ledger")
    for wrong in ([SIZE, quality()], [quality()], [quality(identity="retrained"), SIZE]):
        refused(lambda wrong=wrong: SearchResult.load(tmp_path, SPACE, wrong), "is a search for quality .*; got ")


def test_an_interrupted_search_says_how_to_go_on_and_is_read_as_far_as_it_is(tmp_path, capsys):
    left = [7]

    def stops(archs):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return archs.mean(axis=1) / 3

    with pytest.raises(KeyboardInterrupt, match=r"^search stopped after 7 of 12 .*; the same call goes on from there$"):
        once(tmp_path, [quality(stops), SIZE], progress=True)
    assert capsys.readouterr().err.endswith("\n")  # the bar is closed
    part = SearchResult.load(tmp_path, SPACE)
    assert len(part) == 7
    assert part.stopped == "not finished: 7 evaluations so far"
    left[0] = 5
    whole = once(tmp_path, [quality(stops), SIZE])
    assert np.array_equal(whole.archs[:7], part.archs)
    assert SearchResult.load(tmp_path, SPACE).stopped == "the budget of 12 evaluations is used"
    left[0] = 3
    with pytest.raises(KeyboardInterrupt, match="without run_dir nothing is kept"):
        nas.search(SPACE, [quality(stops), SIZE], NSGA2(SPACE), budget=12)


def test_the_same_call_with_the_same_searcher_goes_on(tmp_path):
    searcher, evaluated = NSGA2(SPACE, seed=3), []

    def counted(archs):
        if len(evaluated) == 5:
            evaluated.append(None)
            raise KeyboardInterrupt
        evaluated.append(archs[0].tobytes())
        return archs.mean(axis=1) / 3

    def again():
        return nas.search(SPACE, [quality(counted), SIZE], searcher, budget=12, run_dir=tmp_path)

    with pytest.raises(KeyboardInterrupt):
        again()
    result = again()
    assert len(evaluated) == 12 + 1
    assert np.array_equal(result.archs, again().archs)
    assert np.array_equal(nas.search(SPACE, [quality(), SIZE], NSGA2(SPACE, seed=3), budget=12).archs, result.archs)


def test_every_commit_waits_for_the_disk(tmp_path):
    once(tmp_path)
    ledger = Ledger(None, read(tmp_path / LEDGER, SPACE)[0], SPACE)
    assert ledger._db.execute("PRAGMA synchronous").fetchone()[0] >= 2  # FULL
    ledger.close()
    with sqlite3.connect(tmp_path / "evaluations.db") as db:
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "delete"  # no journal that a power cut could lose
    db.close()


META = {
    "version": 1,
    "space": None,
    "objectives": [["quality"]],
    "constraints": [["size", "<", 1.0, ""]],
    "searcher": "nsga2",
    "batch": "16",
    "completed": "at once",
}


@pytest.mark.parametrize("field", META)
def test_a_wrong_type_in_the_identity_is_one_line(tmp_path, field):
    once(tmp_path)
    with sqlite3.connect(tmp_path / "evaluations.db") as db:
        meta = json.loads(db.execute("SELECT identity FROM meta").fetchone()[0])
    db.close()
    for wrong in ({**meta, field: META[field]}, {k: v for k, v in meta.items() if k != field or field == "version"}):
        if wrong == meta:
            continue
        change(tmp_path, "UPDATE meta SET identity = ?", json.dumps(wrong))
        refused(lambda: once(tmp_path), r"evaluations\.db is not a usable ledger \(.*\); delete it")
        refused(lambda: SearchResult.load(tmp_path, SPACE), "is not a usable ledger")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("objectives", '{"quality": 5.0, "size": 3.0}'),
        ("objectives", '{"quality": -0.1, "size": 3.0}'),
        ("objectives", '{"quality": Infinity, "size": 3.0}'),
        ("objectives", '{"quality": 1e999, "size": 3.0}'),
        ("objectives", '{"quality": "0.5", "size": 3.0}'),
        ("objectives", '{"quality": null, "size": 3.0}'),
        ("objectives", '{"size": 3.0}'),
        ("objectives", '{"quality": 0.5, "size": 3.0, "speed": 1.0}'),
        ("objectives", "[" * 100_000),
        ("objectives", 7),
        ("violation", -0.5),
        ("violation", float("inf")),
        ("violation", "much"),
        ("error", b"x"),
        ("seconds", b"long"),
        ("ask", 0),
        ("ask", "first"),
        ("tell", 40),
        ("arch", b"\x00"),
        ("arch", b"\x07\x00\x00\x00\x00\x00"),
        ("arch", "text"),
    ],
)
def test_a_row_that_no_search_writes_is_refused_in_one_line(tmp_path, column, value):
    once(tmp_path)
    change(tmp_path, f"UPDATE evaluations SET {column} = ? WHERE tell = 3", value)
    refused(lambda: SearchResult.load(tmp_path, SPACE), r"evaluations\.db is not a usable ledger \(.*\)")
    refused(lambda: once(tmp_path), r"evaluations\.db is not a usable ledger \(.*\)")


def test_what_is_no_ledger_is_left_alone(tmp_path):
    path = tmp_path / "evaluations.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE photos (name TEXT)")
    db.close()
    before = path.read_bytes()
    refused(lambda: once(tmp_path), "is not a usable ledger")
    refused(lambda: SearchResult.load(tmp_path, SPACE), "is not a usable ledger")
    assert path.read_bytes() == before
    path.write_text("a text\n" * 1000)
    refused(lambda: once(tmp_path), "is not a usable ledger")
    path.unlink()
    path.mkdir()
    refused(lambda: SearchResult.load(tmp_path, SPACE), "has no search")


def test_a_second_process_is_refused_with_the_pid_of_the_first(tmp_path):
    code = f"import sys, time; from nas.files import locked; from pathlib import Path\nwith locked(Path({str(tmp_path)!r})):\n    print(1, flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        refused(lambda: once(tmp_path), f"another process .pid {holder.pid}. is at work in")
        assert not (tmp_path / "evaluations.db").exists()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert len(once(tmp_path)) == 12  # a crash releases it
    with locked(tmp_path):  # the same process may: a run that holds its folder searches in it
        assert len(once(tmp_path, budget=14)) == 14


def test_values_outside_their_range_are_failures():
    result = nas.search(SPACE, [quality(lambda a: a[:, 0] * 0.6), SIZE], NSGA2(SPACE), budget=30)
    beyond = result.archs[:, 0] == 2
    assert beyond.any()
    assert set(result.error[beyond]) == {"quality: not from 0 to 1 (1.2)"}
    assert set(result.error[~beyond]) == {""}
    assert not result.on_front[beyond].any()


def test_other_data_or_another_spread_is_another_search(tmp_path, tiny, few_digits):
    supernet = Supernet(tiny)
    turned = dataclasses.replace(
        few_digits, val=dataclasses.replace(few_digits.val, images=few_digits.val.images[:, :, ::-1].copy())
    )
    here, there = accuracy(supernet, few_digits), accuracy(supernet, turned)
    assert (here.within, here.identity != there.identity) == ((0.0, 1.0), True)
    nas.search(tiny, [here], NSGA2(tiny), budget=2, run_dir=tmp_path)
    refused(lambda: nas.search(tiny, [there], NSGA2(tiny), budget=2, run_dir=tmp_path), "objectives differ")


def test_the_spread_of_a_chance_constraint_is_part_of_the_search(tiny):
    class Table:
        fixed_ms, fingerprint, validation, relative_error, width = 0.1, "same", "somewhere", 0.05, 0.01

        def lookup(self, blocks):
            return np.ones(len(blocks))

        def spread(self, blocks):
            return np.full(len(blocks), self.width)

    wide, vague = Table(), Table()
    wide.width, vague.relative_error = 0.02, 0.06
    identities = {nas.latency(tiny, table, confidence=0.9).identity for table in (Table(), wide, vague)}
    assert len(identities) == 3
    assert nas.latency(tiny, Table(), confidence=0.95).identity not in identities


def test_a_bound_is_known_to_its_last_digit(tmp_path):
    once(tmp_path, constraints=[SIZE <= 8.0])
    refused(lambda: once(tmp_path, constraints=[SIZE <= 8.0000001]), "constraints differ")


def test_a_plain_function_is_an_objective_and_networks_come_to_one_that_wants_them(tiny):
    def my_cost(archs):
        assert len(archs) == 1
        return archs.sum(axis=1)

    result = nas.search(tiny, [my_cost, nas.macs(tiny)], NSGA2(tiny), budget=10)
    assert [o.name for o in result.objectives] == ["my_cost", "macs"]
    assert not result.objectives[0].cheap
    assert result.values[:, 0].tolist() == result.archs.sum(axis=1).tolist()

    from nas.objectives.networks import of_networks

    def weights(network):
        return sum(p.numel() for p in network.parameters() if p.requires_grad)

    count = of_networks(weights, tiny, unit="weights")
    archs = tiny.sample(5, np.random.default_rng(0))
    assert count(archs).tolist() == nas.params(tiny)(archs).tolist()
    first = of_networks(lambda network: float(next(network.parameters()).detach().sum()), tiny, name="first", seed=1)
    assert first(archs).tolist() == first(archs[::-1])[::-1].tolist()  # initial weights go by the seed alone


def test_every_candidate_is_reported_as_it_finishes(tmp_path):
    seen = []
    result = once(tmp_path, on_result=seen.append)
    frame = result.to_pandas()
    assert [s["evaluation"] for s in seen] == list(range(1, 13))
    for column in ("quality", "size", "violation", "error", "architecture"):
        assert [s[column] for s in seen] == frame[column].tolist()
    more = []
    once(tmp_path, budget=15, on_result=more.append)
    assert [s["evaluation"] for s in more] == [13, 14, 15]  # not what was read back
    cheap = []
    nas.search(SPACE, [SIZE], budget=20, on_result=cheap.append)
    assert [s["size"] for s in cheap] == [SIZE.fn(SPACE.parse([s["architecture"]]))[0] for s in cheap]
    assert len(cheap) == 20


def test_the_library_s_log_tells_of_the_search_and_its_failures(caplog):
    fails = quality(lambda a: np.full(len(a), np.nan))
    with caplog.at_level(logging.INFO, logger="nas"):
        nas.search(SPACE, [fails], NSGA2(SPACE), budget=2)
    assert "search of ledger: 2 networks" in caplog.messages
    assert "network 2 failed: quality: not a finite number (nan)" in caplog.messages


def test_a_bar_is_for_people(capsys):
    def shown(progress):
        nas.search(SPACE, [SIZE], budget=4, progress=progress)
        return "search" in capsys.readouterr().err

    assert [shown(p) for p in (True, False, None)] == [True, False, False]  # None: this is no terminal


def test_four_objectives(tmp_path):
    objectives = [
        quality(),
        SIZE,
        *(Objective(name=f"g{i}", fn=lambda a, i=i: 2.0 - a[:, i], maximize=i > 2) for i in (1, 4)),
    ]
    result = nas.search(SPACE, objectives, NSGA2(SPACE), budget=40, run_dir=tmp_path)
    assert result.values.shape == (40, 4)
    assert result.hypervolume_history()[-1] == pytest.approx(result.hypervolume())
    assert 0 < len(result.front) <= 40
    assert result.plot(tmp_path / "p.png").stat().st_size > 1000


def test_objects_print_in_a_line(tiny):
    result = nas.search(SPACE, [quality(), SIZE], NSGA2(SPACE), budget=5)
    assert repr(result).startswith("SearchResult(ledger: quality, size; 5 evaluated, 0 failed, ")
    assert repr(quality()) == "Objective(quality, maximized, expensive)"
    assert repr(nas.macs(tiny)).startswith("Objective(macs in MACs, minimized, cheap, ")
    assert repr(NSGA2(SPACE, seed=3)).startswith("NSGA2(")
    assert all("\n" not in repr(o) and len(repr(o)) < 200 for o in (result, quality(), NSGA2(SPACE)))


def test_a_result_judges_by_error_and_violation():
    archs = SPACE.sample(4, np.random.default_rng(0))
    result = SearchResult(
        space=SPACE,
        objectives=(quality(), SIZE),
        archs=archs,
        values=np.array([[0.5, 5.0], [0.9, 1.0], [0.9, 1.0], [0.9, 1.0]]),
        violation=np.array([0.0, 0.05, 1e-9, 0.0]),
        error=np.array(["", "", "", "quality: timed out after 1 s"], dtype=object),
    )
    assert result.good.tolist() == [True, False, False, False]
    assert result.on_front.tolist() == [True, False, False, False]
    assert np.array_equal(result.best(quality()), archs[0])
    assert np.isnan(result.costs[1:]).all()
    assert result.costs[0].tolist() == [-0.5, 5.0]


def test_after_a_failure_the_other_objectives_are_spared():
    seen = []

    def second(archs):
        seen.append(archs[0, 0])
        return archs.sum(axis=1) * 1.0

    fails = quality(lambda a: np.where(a[:, 0] == 0, np.nan, 0.5))
    more = Objective(name="second", fn=second, cheap=False)
    result = nas.search(SPACE, [fails, more], NSGA2(SPACE), budget=20)
    assert len(seen) == (result.archs[:, 0] > 0).sum() < 20
    assert 0 not in seen


def test_the_ends_of_a_range_belong_to_it(tmp_path):
    """An accuracy of exactly 1, or 0, is one."""
    ends = quality(lambda a: (a[:, 0] > 0).astype(float))
    result = once(tmp_path, [ends, SIZE])
    assert set(result.values[:, 0]) == {0.0, 1.0}
    assert np.array_equal(SearchResult.load(tmp_path, SPACE, [ends, SIZE]).values, result.values)


def test_another_search_is_refused_with_all_parts_that_differ_and_the_first_of_them_shown(tmp_path):
    once(tmp_path)
    there = re.escape("searcher, batch differ (searcher: there {'seed': 0}, here {'seed': 7})")
    refused(
        lambda: nas.search(SPACE, [quality(), SIZE], NSGA2(SPACE, seed=7), budget=12, batch=3, run_dir=tmp_path), there
    )


def test_a_ledger_that_is_there_is_opened_on_request_only(tmp_path):
    once(tmp_path)
    identity, _, entries = read(tmp_path / LEDGER, SPACE)
    refused(lambda: Ledger(tmp_path / LEDGER, identity, SPACE), "already holds a search")
    ledger = Ledger(tmp_path / LEDGER, identity, SPACE, resume=True)
    assert len(ledger) == len(entries) == 12
    ledger.close()
    assert Batch.of(entries, SPACE, ("size",)).ask == 0  # of several asks: none
