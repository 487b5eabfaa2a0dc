"""Searching with workers, here threads: results told as they arrive, resumed in the order in which they arrived."""

import random
import sqlite3
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

import nas
from nas.engine.loop import search
from nas.errors import BadInput
from nas.objectives import Objective
from nas.searchers.guided import Guided
from nas.searchers.nsga2 import NSGA2
from search_spaces import MobileNetV3

SPACE = MobileNetV3.digits()
macs = nas.macs(SPACE)


class Threads:
    """Two threads; ``started`` counts evaluations that were begun."""

    def __init__(self, evaluate, workers=2):
        self.pool = ThreadPoolExecutor(workers)
        self.evaluate, self.started, self.closed = evaluate, 0, False

    def submit(self, arch):
        self.started += 1
        return self.pool.submit(self.evaluate, arch)

    def close(self):
        self.closed = True
        self.pool.shutdown(cancel_futures=True)


def threads(kept):
    def make(evaluate):
        kept.append(Threads(evaluate))
        return kept[-1]

    return make


def quality(pause=0.002, fails=lambda arch: False):
    def fn(archs):
        if fails(archs[0]):
            raise ValueError("does not fit")
        time.sleep(pause * random.random())
        return archs.sum(axis=1) / 10.0

    return Objective(name="quality", fn=fn, maximize=True, cheap=False, identity="quality")


def test_all_candidates_are_evaluated_once_and_told_one_by_one():
    kept = []
    told = []

    class Watching(NSGA2):
        def tell(self, archs, costs, violation):
            told.append(len(archs))
            super().tell(archs, costs, violation)

    result = search(SPACE, [quality(), macs], Watching(SPACE), budget=50, workers=threads(kept))
    assert len(result) == len(np.unique(result.archs, axis=0)) == 50
    assert kept[0].started == 50
    assert kept[0].closed
    assert set(told) == {1}
    assert np.allclose(result.values[:, 0], result.archs.sum(axis=1) / 10)


def few(space, seed):
    """It models what it was told anew for every proposal."""
    return Guided(space, seed=seed, initial=8, candidates=200)


@pytest.mark.parametrize(
    ("make", "budget", "stop_after"), [(NSGA2, 40, 1), (NSGA2, 40, 9), (NSGA2, 40, 38), (few, 18, 3), (few, 18, 13)]
)
def test_a_resumed_search_repeats_the_order_of_arrival(tmp_path, make, budget, stop_after):
    class Stop(KeyboardInterrupt):
        pass

    class Dying(type(make(SPACE, seed=0))):
        def tell(self, archs, costs, violation):
            super().tell(archs, costs, violation)
            self._count = getattr(self, "_count", 0) + 1
            if self._count == stop_after:
                raise Stop

    Dying.__name__ = type(make(SPACE, seed=0)).__name__  # the same search to the ledger

    def dying():
        return Dying(SPACE, seed=1, initial=8, candidates=200) if issubclass(Dying, Guided) else Dying(SPACE, seed=1)

    objectives = [quality(), macs]
    settings = {"budget": budget, "run_dir": tmp_path, "batch": 6}
    with pytest.raises(Stop):
        search(SPACE, objectives, dying(), workers=threads([]), **settings)
    kept = []
    whole = search(SPACE, objectives, make(SPACE, seed=1), workers=threads(kept), resume=True, **settings)
    assert len(whole) == budget
    assert kept[0].started == budget - stop_after  # nothing that arrived is done again
    again = search(SPACE, objectives, make(SPACE, seed=1), workers=threads(kept), resume=True, **settings)
    assert kept[1].started == 0
    assert (again.archs == whole.archs).all()
    assert (again.values == whole.values).all()


class NewestFirst:
    """Of six under way the one that was sent last arrives first."""

    def __init__(self, evaluate):
        self.evaluate, self.pending, self.sent = evaluate, [], 0

    def submit(self, arch):
        self.sent += 1
        self.pending.append((Future(), arch))
        future = self.pending[-1][0]
        while self.pending and (len(self.pending) == 6 or self.sent == 30):
            done, evaluated = self.pending.pop()
            done.set_result(self.evaluate(evaluated))
        return future

    def close(self):
        pass


def test_the_order_of_arrival_is_that_of_the_ledger(tmp_path):
    def once(workers):
        objectives = [quality(pause=0), macs]
        return search(
            SPACE, objectives, NSGA2(SPACE, population=8), budget=30, batch=6, workers=workers, run_dir=tmp_path
        )

    first = once(NewestFirst)
    with sqlite3.connect(tmp_path / "evaluations.db") as db:
        asks = [ask for (ask,) in db.execute("SELECT ask FROM evaluations ORDER BY tell")]
    db.close()
    assert asks != sorted(asks)
    assert np.array_equal(once(threads([])).archs, first.archs)


def test_failures_and_constraints(tmp_path):
    limit = float(np.median(macs(SPACE.sample(200, np.random.default_rng(0)))))
    result = search(
        SPACE,
        [quality(fails=lambda arch: arch.sum() % 5 == 0), macs],
        NSGA2(SPACE, seed=0),
        budget=40,
        constraints=[macs <= limit],
        workers=threads([]),
        run_dir=tmp_path,
    )
    assert len(result) == 40
    failed = result.error != ""
    assert failed.sum() == (result.archs.sum(axis=1) % 5 == 0).sum() > 0
    assert not result.on_front[failed].any()
    assert (macs(result.archs) <= limit).all()


def test_a_ledger_of_batches_is_not_one_of_arrivals(tmp_path):
    search(SPACE, [quality(), macs], NSGA2(SPACE), budget=10, run_dir=tmp_path)
    with pytest.raises(BadInput, match="completed differ"):
        search(SPACE, [quality(), macs], NSGA2(SPACE), budget=10, run_dir=tmp_path, resume=True, workers=threads([]))


def test_a_slow_evaluation_is_stopped_and_recorded():
    def slow(archs):
        if archs.sum() % 2:
            try:
                time.sleep(30)
            except Exception:  # an objective that catches everything
                return np.ones(1)
        return np.ones(1)

    started = time.perf_counter()
    sleepy = Objective(name="sleepy", fn=slow, cheap=False)
    result = search(SPACE, [sleepy, macs], NSGA2(SPACE), budget=6, timeout_s=0.05)
    assert time.perf_counter() - started < 10
    late = result.archs.sum(axis=1) % 2 == 1
    assert late.any()
    assert (result.error[late] == "sleepy: timed out after 0.05 s").all()
    assert (result.error[~late] == "").all()


def test_a_timeout_needs_the_main_thread_or_workers():
    caught = []

    def run():
        try:
            search(SPACE, [quality(), macs], NSGA2(SPACE), budget=2, timeout_s=1)
        except BadInput as error:
            caught.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "needs the main thread" in caught[0]


@pytest.mark.parametrize(
    ("setting", "says"), [({"workers": 0}, "workers is"), ({"timeout_s": 0}, "timeout_s is a number above 0")]
)
def test_settings_that_make_no_sense(setting, says):
    with pytest.raises(BadInput, match=says):
        search(SPACE, [quality(), macs], NSGA2(SPACE), budget=2, **setting)
