"""The search loop: constraints, failures, budgets, duplicates, resume; laws of every searcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import nas
from nas.engine.loop import search
from nas.errors import BadInput, Infeasible
from nas.objectives import Objective, flash, macs, params, peak_memory
from nas.objectives.objective import additive
from nas.searchers.nsga2 import NSGA2
from nas.searchers.random import RandomSearch
from nas.space import SearchSpace
from search_spaces import MobileNetV3

SEARCHERS = [RandomSearch, NSGA2]
SPACE = MobileNetV3.digits()
COST = additive(SPACE, "cost", SPACE.per_block(lambda b: 1.0 + b.macs / 1e5), unit="ms")
GAIN = SPACE.scorer(SPACE.per_block(lambda b: b.macs**0.5) * np.random.default_rng(7).random(len(SPACE.blocks)) / 100)


def quality(archs):
    """Every block adds something of its own, on the whole more when it costs more: a front that must be found."""
    return GAIN(archs)


class Counting:
    """An expensive objective that counts its calls and can be interrupted, fail, or be slow."""

    def __init__(self, stop_at=None, fail_if=None):
        self.seen, self.stop_at, self.fail_if = [], stop_at, fail_if

    def __call__(self, archs):
        assert len(archs) == 1
        if self.stop_at is not None and len(self.seen) >= self.stop_at:
            raise KeyboardInterrupt
        self.seen.append(archs[0].tobytes())
        if self.fail_if is not None and self.fail_if(archs[0]):
            raise ValueError("does not fit")
        return quality(archs)

    def objective(self):
        return Objective(name="quality", fn=self, maximize=True, cheap=False)


@pytest.fixture(params=SEARCHERS, ids=lambda c: c.__name__)
def searcher(request):
    return request.param(SPACE, seed=3)


def test_searchers_never_repeat_themselves_and_stay_in_the_space(searcher):
    seen = set()
    for _ in range(30):
        archs = searcher.ask(20)
        assert np.array_equal(SPACE.canonical(SPACE.check(archs)), archs)
        new = {row.tobytes() for row in archs}
        assert len(new) == len(archs) == 20
        assert not new & seen
        seen |= new
        costs = np.column_stack([-quality(archs), COST(archs)])
        order = np.random.default_rng(0).permutation(20)[:15]  # any subset, any order
        searcher.tell(archs[order], costs[order], np.zeros(15))


def test_searchers_take_rows_they_never_asked_for_and_failed_ones(searcher):
    archs = SPACE.sample(10, np.random.default_rng(9))
    searcher.tell(archs, np.full((10, 2), np.nan), np.zeros(10))
    searcher.tell(archs[:5], np.full((5, 2), np.nan), np.ones(5))
    asked = searcher.ask(30)
    assert not {r.tobytes() for r in asked} & {r.tobytes() for r in archs}


def test_reset_repeats(searcher):
    first = searcher.ask(10)
    searcher.reset(3)
    assert np.array_equal(searcher.ask(10), first)
    searcher.reset(4)
    assert not np.array_equal(searcher.ask(10), first)


def test_an_exhausted_space_ends_the_search(tiny, searcher):
    searcher = type(searcher)(tiny, seed=0)
    cost = macs(tiny)
    result = search(tiny, [cost, params(tiny)], searcher, budget=10_000)
    assert len(result) == tiny.size
    assert "nothing new" in result.stopped
    assert result.front.values[0, 0] == cost.extremes.minimum


def test_nsga2_learns_from_violators_that_were_never_evaluated():
    searcher = NSGA2(SPACE, seed=0)
    means = []
    for _ in range(20):
        archs = searcher.ask(16)
        violation = COST(archs) / COST.extremes.minimum  # nothing is ever feasible
        searcher.tell(archs, np.full((16, 2), np.nan), violation)
        means.append(violation.mean())
    assert np.mean(means[-3:]) < 0.7 * means[0]


def test_children_of_one_parent_are_near_it():
    searcher = NSGA2(SPACE, seed=0, population=4, crossover=0.0)
    parents = searcher.ask(4)
    searcher.tell(parents, np.column_stack([-quality(parents), COST(parents)]), np.zeros(4))
    children = searcher.ask(16)
    nearest = (children[:, None] != parents).sum(axis=2).min(axis=1)
    assert (nearest >= 1).all()
    assert np.median(nearest) <= 3


def test_nsga2_beats_random_search():
    objectives = [Counting().objective(), COST]
    results = {c: [search(SPACE, objectives, c(SPACE, seed=s), budget=400) for s in range(3)] for c in SEARCHERS}
    reference = results[RandomSearch][0].reference
    volume = {c: np.mean([r.hypervolume(reference) for r in rs]) for c, rs in results.items()}
    assert volume[NSGA2] > 1.005 * volume[RandomSearch]


def test_constraints_hold_and_violators_cost_no_evaluation(searcher):
    counting = Counting()
    bound = float(np.quantile(COST(SPACE.sample(2000, np.random.default_rng(0))), 0.05))
    result = search(SPACE, [counting.objective(), COST], searcher, budget=60, constraints=[bound >= COST])
    assert len(result) == len(counting.seen) == 60
    assert (result.column(COST) <= bound).all()
    assert result.best(counting.objective()).shape == (SPACE.genes,)


def test_the_tightest_feasible_constraint_is_met_and_a_tighter_one_refused_at_once():
    counting = Counting()
    least = COST.extremes.minimum
    result = search(SPACE, [counting.objective(), COST], budget=5, constraints=[least * (1 + 1e-9) >= COST])
    assert len(result) >= 1
    assert result.values[0, 1] == pytest.approx(least)
    calls = len(counting.seen)
    with pytest.raises(Infeasible, match=f"nearest value that can be met is {least:.6g} ms"):
        search(SPACE, [counting.objective(), COST], budget=5, constraints=[0.99 * least >= COST])
    assert len(counting.seen) == calls


def test_constraints_that_only_together_cannot_be_met_end_with_a_reason():
    small, large = (
        macs(SPACE) <= macs(SPACE).extremes.minimum * 1.01,
        params(SPACE) >= params(SPACE).extremes.maximum * 0.99,
    )
    result = search(SPACE, [Counting().objective(), COST], budget=5, constraints=[small, large])
    assert len(result) == 0
    assert "nothing new" in result.stopped
    with pytest.raises(Infeasible):
        result.best(COST)


def test_a_bound_on_an_expensive_objective_is_kept_out_of_the_front():
    objective = Counting().objective()
    bound = float(np.median(quality(SPACE.sample(500, np.random.default_rng(0)))))
    result = search(SPACE, [objective, COST], budget=80, constraints=[objective >= bound])
    assert (result.violation > 0).any()
    assert (result.front.column(objective) >= bound).all()


def test_failures_are_recorded_and_stay_off_the_front(tmp_path):
    counting = Counting(fail_if=lambda arch: arch[0] == 0)
    result = search(SPACE, [counting.objective(), COST], budget=60, run_dir=tmp_path)
    failed = result.error != ""
    assert failed.sum() == (result.archs[:, 0] == 0).sum() > 0
    assert all("ValueError: does not fit" in e for e in result.error[failed])
    assert np.isnan(result.values[failed, 0]).all()
    assert not result.on_front[failed].any()
    nan = Objective(name="quality", fn=lambda a: np.full(len(a), np.nan), cheap=False)
    assert len(search(SPACE, [nan, COST], budget=5).front) == 0


def test_a_cheap_objective_may_fail_for_some(tmp_path):
    def fussy(archs):
        if (archs[:, 0] == 0).any():
            raise RuntimeError("resolution too small")
        return np.where(archs[:, 0] == 1, np.nan, COST(archs))

    cheap, counting = Objective(name="fussy", fn=fussy), Counting()
    arguments = {"budget": 60, "constraints": [cheap <= COST.extremes.maximum], "run_dir": tmp_path}
    result = search(SPACE, [counting.objective(), cheap], NSGA2(SPACE), **arguments)
    raised, nan = result.archs[:, 0] == 0, result.archs[:, 0] == 1
    assert raised.any()
    assert nan.any()
    assert (result.error[raised] == "fussy: RuntimeError: resolution too small").all()
    assert (result.error[nan] == "fussy: not a finite number (nan)").all()
    assert (result.error[~raised & ~nan] == "").all()
    assert len(counting.seen) == (~raised & ~nan).sum()  # the expensive one was not troubled with them
    assert not result.on_front[raised | nan].any()
    again = search(SPACE, [Counting(stop_at=0).objective(), cheap], NSGA2(SPACE), **arguments, resume=True)
    assert np.array_equal(again.values, result.values, equal_nan=True)
    assert again.error.tolist() == result.error.tolist()


def test_infinite_values_are_failures_also_when_resumed(tmp_path):
    objective = Objective(name="q", fn=lambda a: np.where(a[:, 0] == 0, np.inf, 1.0), cheap=False)
    results = [search(SPACE, [objective, COST], budget=30, run_dir=tmp_path, resume=r) for r in (False, True)]
    assert (results[0].error != "").any()
    assert np.array_equal(results[0].values, results[1].values, equal_nan=True)
    assert np.isfinite(results[0].front.values).all()


def test_a_wrong_shape_from_an_expensive_objective_stops_the_search():
    with pytest.raises(BadInput, match=r"expected \(1,\)"):
        search(SPACE, [Objective(name="q", fn=lambda a: 0.5, cheap=False), COST], budget=5)


def test_a_rare_feasible_region_is_found_without_its_corner_being_given(searcher):
    # the same quantity without its extremes: neither a check before the search nor a first candidate helps
    blind = Objective(name="blind", fn=COST.fn)
    values = COST(SPACE.sample(20_000, np.random.default_rng(0)))
    bound = float(np.quantile(values, 0.002))
    result = search(SPACE, [Counting().objective(), blind], searcher, budget=10, constraints=[blind <= bound])
    assert len(result) == 10, result.stopped
    assert (result.column(blind) <= bound).all()


def test_the_best_corner_of_every_constraint_comes_first():
    small = macs(SPACE) <= 1.2 * macs(SPACE).extremes.minimum
    result = search(SPACE, [Counting().objective(), COST], budget=3, constraints=[small])
    assert np.array_equal(result.archs[0], macs(SPACE).extremes.argmin)


def test_what_is_named_first_is_evaluated_first_and_told(tmp_path):
    class Listening(NSGA2):
        def tell(self, archs, costs, violation):
            told.append(archs)
            super().tell(archs, costs, violation)

    told: list[np.ndarray] = []
    first = SPACE.sample(12, np.random.default_rng(5))
    searcher = Listening(SPACE, population=8)
    found = search(SPACE, [Counting().objective(), COST], searcher, budget=20, first=first, run_dir=tmp_path)
    assert np.array_equal(found.archs[:12], SPACE.canonical(first))
    assert np.array_equal(np.concatenate(told), found.archs)
    with pytest.raises(BadInput, match="first differ"):  # another search
        search(
            SPACE,
            [Counting().objective(), COST],
            NSGA2(SPACE, population=8),
            budget=20,
            first=first[:3],
            run_dir=tmp_path,
        )
    again = search(SPACE, [Counting(stop_at=0).objective(), COST], searcher, budget=20, first=first, run_dir=tmp_path)
    assert np.array_equal(again.archs, found.archs)
    with pytest.raises(BadInput, match="architectures"):
        search(SPACE, [COST], budget=5, first=first[:, :2])


def test_no_candidate_is_evaluated_twice(searcher):
    counting = Counting()
    search(SPACE, [counting.objective(), COST], searcher, budget=150)
    assert len(set(counting.seen)) == len(counting.seen) == 150


@pytest.mark.parametrize("stop_at", [0, 1, 17, 40, 79])
def test_an_interrupted_search_resumes_to_the_same_result(tmp_path, searcher, stop_at):
    whole = search(SPACE, [Counting().objective(), COST], type(searcher)(SPACE, seed=1), budget=80)
    broken = Counting(stop_at=stop_at)
    with pytest.raises(KeyboardInterrupt):
        search(SPACE, [broken.objective(), COST], type(searcher)(SPACE, seed=1), budget=80, run_dir=tmp_path)
    rest = Counting()
    resumed = search(
        SPACE, [rest.objective(), COST], type(searcher)(SPACE, seed=1), budget=80, run_dir=tmp_path, resume=True
    )
    assert np.array_equal(resumed.archs, whole.archs)
    assert np.array_equal(resumed.values, whole.values)
    assert len(broken.seen) + len(rest.seen) == 80  # nothing finished was done again


_KILLED = """
import os, time, numpy as np
from test_search import SPACE, COST, quality
from nas.objectives import Objective
from nas.engine.loop import search
from nas.searchers.nsga2 import NSGA2
def slow(archs):
    time.sleep(0.02)
    return quality(archs)
search(SPACE, [Objective(name="quality", fn=slow, maximize=True, cheap=False), COST], NSGA2(SPACE, seed=1),
       budget=120, run_dir=os.environ["RUN_DIR"])
"""


def test_a_killed_search_resumes_to_the_same_result(tmp_path):
    import sqlite3

    environment = os.environ | {"RUN_DIR": str(tmp_path), "PYTHONPATH": f"{Path(__file__).parent}"}
    process = subprocess.Popen([sys.executable, "-c", _KILLED], env=environment, cwd=Path(__file__).parents[1])
    database = tmp_path / "evaluations.db"
    deadline = time.monotonic() + 60
    finished = 0
    while finished < 30 and time.monotonic() < deadline:
        time.sleep(0.05)
        if database.exists():
            try:
                with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as db:
                    finished = db.execute("SELECT count(*) FROM evaluations").fetchone()[0]
                db.close()
            except sqlite3.OperationalError:
                pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 30 <= finished < 120
    rest = Counting()
    resumed = search(SPACE, [rest.objective(), COST], NSGA2(SPACE, seed=1), budget=120, run_dir=tmp_path, resume=True)
    whole = search(SPACE, [Counting().objective(), COST], NSGA2(SPACE, seed=1), budget=120)
    assert np.array_equal(resumed.archs, whole.archs)
    assert len(rest.seen) <= 120 - finished


def test_a_finished_search_continues_with_a_larger_budget(tmp_path):
    search(SPACE, [Counting().objective(), COST], NSGA2(SPACE, seed=1), budget=40, run_dir=tmp_path)
    more = Counting()
    result = search(SPACE, [more.objective(), COST], NSGA2(SPACE, seed=1), budget=64, run_dir=tmp_path, resume=True)
    assert len(result) == 64
    assert len(more.seen) == 24


def test_ledgers_of_other_searches_are_refused(tmp_path):
    objective = Counting().objective()
    search(SPACE, [objective, COST], NSGA2(SPACE, seed=1), budget=5, run_dir=tmp_path)
    with pytest.raises(BadInput, match="already holds a search"):
        search(SPACE, [objective, COST], NSGA2(SPACE, seed=1), budget=5, run_dir=tmp_path, resume=False)
    with pytest.raises(
        BadInput,
        match=r"searcher differ .*there \{'population': None, 'seed': 1\}, here \{'population': 8, 'seed': 2\}",
    ):
        search(SPACE, [objective, COST], NSGA2(SPACE, seed=2, population=8), budget=5, run_dir=tmp_path)
    with pytest.raises(BadInput, match=r"batch differ .*there 16, here 7"):
        search(SPACE, [objective, COST], NSGA2(SPACE, seed=1), budget=5, run_dir=tmp_path, batch=7)
    with pytest.raises(BadInput, match="searcher differ"):
        search(SPACE, [objective, COST], NSGA2(SPACE, seed=2), budget=5, run_dir=tmp_path, resume=True)
    with pytest.raises(BadInput, match="constraints differ"):
        search(
            SPACE,
            [objective, COST],
            NSGA2(SPACE, seed=1),
            budget=5,
            run_dir=tmp_path,
            resume=True,
            constraints=[COST <= 50],
        )
    with pytest.raises(BadInput, match="objectives differ"):
        search(SPACE, [objective, macs(SPACE)], NSGA2(SPACE, seed=1), budget=5, run_dir=tmp_path, resume=True)
    (tmp_path / "evaluations.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(BadInput, match="not a usable ledger"):
        search(SPACE, [objective, COST], NSGA2(SPACE, seed=1), budget=5, run_dir=tmp_path, resume=True)


def test_the_ledger_keeps_numbers_violations_and_failures(tmp_path):
    import json
    import sqlite3

    objective = Counting(fail_if=lambda arch: arch[0] == 0).objective()
    bound = float(np.median(quality(SPACE.sample(500, np.random.default_rng(0)))))
    result = search(SPACE, [objective, COST], budget=40, constraints=[objective >= bound], run_dir=tmp_path)
    with sqlite3.connect(tmp_path / "evaluations.db") as db:
        rows = db.execute(
            "SELECT arch, ask, tell, objectives, violation, error FROM evaluations ORDER BY tell"
        ).fetchall()
    db.close()
    assert [r[0] for r in rows] == [a.tobytes() for a in result.archs]
    assert [r[2] for r in rows] == list(range(1, 41))
    assert [r[1] for r in rows] == sorted(r[1] for r in rows)
    assert [r[4] for r in rows] == result.violation.tolist()
    assert [r[5] for r in rows] == result.error.tolist()
    assert [json.loads(r[3])["cost"] for r in rows] == result.column(COST).tolist()
    assert {json.loads(r[3])["quality"] is None for r in rows if r[5]} == {True}


def test_a_run_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for folder, says in (
        (tmp_path / "file", "is a file; name a folder"),
        (tmp_path / "file" / "below", "lies below a file"),
        ("", "a path that is not empty"),
        (tmp_path / ("x" * 300), "too long"),
        (Path("/proc/nowhere"), "cannot "),
    ):
        with pytest.raises(BadInput, match=says) as caught:
            search(SPACE, [COST], budget=5, run_dir=folder)
        assert "\n" not in str(caught.value)
    (tmp_path / "evaluations.db").mkdir()
    with pytest.raises(BadInput, match="cannot write"):
        search(SPACE, [COST], budget=5, run_dir=tmp_path, resume=True)


def test_a_damaged_ledger_is_refused_in_one_line(tmp_path):
    search(SPACE, [Counting().objective(), COST], budget=40, run_dir=tmp_path)
    path = tmp_path / "evaluations.db"
    whole = path.read_bytes()
    for damaged in (whole[:5000], whole[:4096] + bytes(len(whole) - 4096), b"\xff" * len(whole)):
        path.write_bytes(damaged)
        with pytest.raises(BadInput, match=r"evaluations\.db is not a usable ledger \(.*\); delete it") as caught:
            search(SPACE, [Counting().objective(), COST], budget=40, run_dir=tmp_path, resume=True)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 0}, "budget is a whole number from 1 .*, got 0"),
        ({"budget": 2.5}, "budget is a whole number"),
        ({"batch": 0}, "batch is a whole number"),
        ({"seed": -1}, "seed is a whole number"),
        ({"timeout_s": float("nan")}, "timeout_s is a number"),
        ({"resume": "yes"}, "resume is"),
        ({"objectives": ["accuracy"]}, "objectives is a list, each an? Objective or a function"),
        ({"objectives": COST}, "objectives is a list, each"),
        ({"constraints": [Objective(name="cost", fn=quality) <= 1.0]}, "another objective than the one called cost"),
        ({"objectives": []}, "at least one objective"),
        ({"objectives": [COST, COST]}, "same name"),
        ({"constraints": [True]}, "constraints is a list, each a Constraint, got .True."),
        ({"objectives": [Objective(name="x", fn=lambda a: np.zeros(1 + len(a))), COST]}, "returned shape"),
    ],
)
def test_senseless_settings_are_refused(arguments, message):
    arguments = {"objectives": [COST], "budget": 5} | arguments
    with pytest.raises(BadInput, match=message):
        search(SPACE, arguments.pop("objectives"), **arguments)


def test_result_columns_best_and_plot(tmp_path):
    objective = Counting().objective()
    result = search(SPACE, [objective, COST], budget=100, seed=5)
    frame = result.to_pandas()
    assert len(frame) == 100
    assert frame["on_front"].sum() >= len(result.front)
    half = float(np.median(result.column(COST)))
    best = result.best(objective, half >= COST)
    allowed = result.column(COST) <= half
    assert objective(best[None])[0] == result.column(objective)[allowed].max()
    with pytest.raises(Infeasible, match="the nearest has"):
        result.best(objective, COST <= 0.0)
    history = result.hypervolume_history()
    assert history[-1] == pytest.approx(result.hypervolume())
    assert len(np.unique(result.front.values, axis=0)) == len(result.front)
    assert (np.diff(result.front.column(COST)) > 0).all()
    assert (np.diff(result.front.column(objective)) > 0).all()  # more cost only ever for more quality
    assert list(frame.columns[:7]) == [
        "evaluation",
        "quality",
        "cost",
        "violation",
        "error",
        "on_front",
        "architecture",
    ]
    assert list(frame.columns[7:]) == [c.name for c in SPACE.choices]
    assert frame["evaluation"].tolist() == list(range(1, 101))
    assert result.plot(tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    assert len(result[result.on_front]) == result.on_front.sum()
    part = result[:50]  # a part keeps the reference of the whole, so that volumes can be compared
    assert part.hypervolume() == pytest.approx(history[49])
    assert result.hypervolume([0.0, 1e9]) > 0


def test_a_search_for_three_cheap_objectives(tmp_path):
    objectives = [macs(SPACE), params(SPACE), Objective(name="quality", fn=quality, maximize=True)]
    result = search(SPACE, objectives, budget=200, seed=0, run_dir=tmp_path)
    assert len(result) == 200
    assert result.hypervolume() > 0
    assert result.hypervolume_history()[-1] == pytest.approx(result.hypervolume())
    assert result.plot(tmp_path / "p.png").stat().st_size > 1000
    again = search(SPACE, objectives, budget=200, seed=0, run_dir=tmp_path, resume=True)
    assert np.array_equal(again.values, result.values)
    assert not np.array_equal(search(SPACE, objectives, budget=200, seed=1).archs, result.archs)


def test_memory_and_flash_are_what_the_blocks_need(family: SearchSpace):
    archs = family.sample(30, np.random.default_rng(0))
    networks = family.networks(archs)
    assert peak_memory(family, bytes_per_element=4)(archs).tolist() == [
        4 * max(b.live_elements for b in n) for n in networks
    ]
    assert flash(family)(archs).tolist() == [sum(b.weights for b in n) for n in networks]


def test_packages_are_also_their_main_function():
    assert nas.search(SPACE, [COST, macs(SPACE)], budget=10, seed=0).values.shape == (10, 2)
    assert nas.engine.loop.search is search


def test_when_all_objectives_are_cheap_the_budget_counts_violators_too(searcher):
    bound = float(np.quantile(COST(SPACE.sample(2000, np.random.default_rng(0))), 0.1))
    result = search(SPACE, [macs(SPACE), COST], searcher, budget=100, constraints=[bound >= COST])
    assert len(result) == len(np.unique(result.archs, axis=0)) == 100
    above = result.column(COST) > bound
    assert above.any()
    assert np.array_equal(result.violation > 0, above)
    assert not result.on_front[above].any()


def test_a_searcher_that_has_learnt_something_is_not_resumed_with(tmp_path, searcher):
    # a notebook's cell run again after an interruption: another search than the one in the ledger
    arguments = {"budget": 60, "run_dir": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        search(SPACE, [Counting(stop_at=30).objective(), COST], searcher, **arguments)
    with pytest.raises(BadInput, match=r"searcher differ.*'known': 0.*'known': 32"):
        search(SPACE, [Counting().objective(), COST], searcher, **arguments, resume=True)
    rest = Counting()
    result = search(SPACE, [rest.objective(), COST], searcher, **arguments, resume=True, seed=3)
    assert len(rest.seen) == 30
    whole = search(SPACE, [Counting().objective(), COST], type(searcher)(SPACE, seed=3), budget=60)
    assert np.array_equal(result.archs, whole.archs)


def test_searchers_know_other_spellings_of_a_network_they_are_told(searcher):
    told = SPACE.sample(200, np.random.default_rng(0))
    spelt = np.where(SPACE.active(told), told, SPACE.sizes - 1).astype(np.uint8)
    assert (spelt != told).any()
    for archs in (told, spelt):
        searcher.tell(archs, np.ones((200, 2)), np.zeros(200))
    assert searcher.known == len(np.unique(told, axis=0))


class Parrot:
    """A searcher with nothing but the two methods; it repeats itself, and spells the same networks in other ways."""

    def ask(self, n):
        archs = SPACE.sample(6, np.random.default_rng(0))
        return np.vstack([archs, np.where(SPACE.active(archs), archs, SPACE.sizes - 1), archs]).astype(np.uint8)

    def tell(self, archs, costs, violation):
        pass


def test_a_searcher_hears_of_what_was_ruled_out_at_once():
    told = []

    class Watching(RandomSearch):
        def tell(self, archs, costs, violation):
            told.extend(zip(COST(archs), costs, violation, strict=True))
            super().tell(archs, costs, violation)

    bound = float(np.median(COST(SPACE.sample(500, np.random.default_rng(0)))))
    search(SPACE, [Counting().objective(), COST], Watching(SPACE), budget=20, constraints=[bound >= COST])
    beyond = [(cost, costs, missed) for cost, costs, missed in told if cost > bound]
    assert len(told) - len(beyond) == 20
    assert len(beyond) > 5
    for cost, costs, missed in beyond:
        assert np.isnan(costs[0])  # never evaluated
        assert costs[1] == cost
        assert missed == pytest.approx(cost / bound - 1)


def test_what_a_searcher_repeats_is_not_evaluated_again():
    counting = Counting()
    result = search(SPACE, [counting.objective(), COST], Parrot(), budget=20)
    assert len(counting.seen) == len(set(counting.seen)) == len(result) == 6
    assert "nothing new in 50 asks, after 6 of 20 evaluations" in result.stopped


def test_a_searcher_needs_ask_and_tell_and_reset_only_for_a_seed(tmp_path):
    class Lean:
        __slots__ = ("mood", "rng")

        def __init__(self, mood):
            self.mood, self.rng = mood, np.random.default_rng(0)

        def ask(self, n):
            return SPACE.sample(n, self.rng)

        def tell(self, archs, costs, violation):
            pass

    def once(mood, **settings):
        return search(SPACE, [Counting().objective(), COST], Lean(mood), budget=20, run_dir=tmp_path, **settings)

    first = once("calm")
    assert np.array_equal(once("calm").archs, first.archs)
    with pytest.raises(BadInput, match=r"there \{.mood.: .calm.\}, here \{.mood.: .wild.\}"):
        once("wild")
    with pytest.raises(BadInput, match=r"Lean has no reset\(seed\)"):
        once("calm", seed=1)


def test_a_result_has_rows_and_refuses_another_quantity_of_the_same_name():
    result = search(SPACE, [macs(SPACE), COST], budget=20)
    assert np.array_equal(result[-1].archs, result.archs[-1:])
    assert result[3].hypervolume() <= result.hypervolume()
    other = additive(SPACE, "cost", np.ones(len(SPACE.blocks)))
    with pytest.raises(BadInput, match=r"cost was .* in this search"):
        result.best(macs(SPACE), other <= 5.0)
    assert result.best(macs(SPACE)).shape == (SPACE.genes,)
