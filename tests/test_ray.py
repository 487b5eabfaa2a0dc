"""Candidates on Ray actors: the same results as without, whatever happens to the actors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from nas.engine.evaluate import Evaluate
from nas.engine.loop import search
from nas.engine.ray_workers import RayWorkers, on_ray
from nas.errors import BadInput
from nas.objectives import Objective, macs
from nas.searchers.random import RandomSearch

ray = pytest.importorskip("ray")


pytestmark = pytest.mark.usefixtures("ray_of_two")


def costly(fn, name="costly"):
    return Objective(name=name, fn=fn, cheap=False, identity=name)


def count(archs):
    return archs.sum(axis=1, dtype=np.float64)


def test_a_search_with_workers_is_a_search(tiny, tmp_path):
    objectives = [costly(count), macs(tiny)]

    def once(**settings):
        return search(tiny, objectives, RandomSearch(tiny, seed=0), budget=40, run_dir=tmp_path, **settings)

    result = once(workers=2)
    assert len(np.unique(result.archs, axis=0)) == 40
    np.testing.assert_array_equal(result.values, np.column_stack([o(result.archs) for o in objectives]))
    again = once(workers=1, resume=True)
    np.testing.assert_array_equal(again.archs, result.archs)  # in the order in which they arrived


def test_supernet_accuracy_is_the_same_in_an_actor(tiny, few_digits):
    from nas.objectives.accuracy import accuracy  # not above: the workers of the other tests would import torch
    from nas.supernet import Supernet

    objective = accuracy(Supernet(tiny), few_digits)
    archs = tiny.sample(2, np.random.default_rng(0))
    workers = RayWorkers(Evaluate(objectives=(objective,)), 1)
    try:
        futures = [workers.submit(arch) for arch in archs]
        assert [f.result(60).values["accuracy"] for f in futures] == pytest.approx(list(objective(archs)), abs=1e-6)
    finally:
        workers.close()


def test_an_objective_that_raises_costs_only_its_candidates(tiny):
    def picky(archs):
        if archs[0, 0]:
            raise ValueError("not that one")
        return count(archs)

    objective = costly(picky)
    result = search(tiny, [objective, macs(tiny)], RandomSearch(tiny, seed=0), budget=20, workers=2)
    failed = result.archs[:, 0] > 0
    assert 0 < failed.sum() < len(failed)
    assert set(result.error[failed]) == {"costly: ValueError: not that one"}
    assert (result.column(objective)[~failed] == count(result.archs[~failed])).all()


def test_a_wrong_shape_stops_the_search(tiny):
    with pytest.raises(BadInput, match=r"costly returned shape \(3,\), expected \(1,\)"):
        search(tiny, [costly(lambda archs: np.zeros(3))], RandomSearch(tiny, seed=0), budget=5, workers=1)


def test_a_killed_actor_loses_nothing(tiny, tmp_path, capfd):
    def fatal_once(archs):
        if not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return count(archs)

    objective = costly(fatal_once)
    result = search(tiny, [objective], RandomSearch(tiny, seed=0), budget=8, workers=2)
    assert (tmp_path / "killed").exists()
    assert list(result.error) == [""] * 8
    np.testing.assert_array_equal(result.column(objective), count(result.archs))
    assert capfd.readouterr() == ("", "")


def test_what_kills_every_actor_is_a_failed_candidate(tiny, tmp_path):
    def fatal(archs):
        (tmp_path / f"{time.time_ns()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    result = search(tiny, [costly(fatal)], RandomSearch(tiny, seed=0), budget=1, workers=1)
    assert list(result.error) == ["evaluation: its worker process died, 3 times"]
    assert np.isnan(result.values).all()
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("stubborn", [False, True], ids=["sleeps", "ignores signals"])
def test_an_evaluation_that_takes_too_long_is_ended(tiny, stubborn):
    slow = tiny.sample(1, np.random.default_rng(0))[0]

    def evaluate(archs):
        if (archs[0] == slow).all():
            if stubborn:
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
            time.sleep(60)
        return count(archs)

    workers = RayWorkers(Evaluate(objectives=(costly(evaluate),), timeout_s=0.5), 1)
    try:
        first, second = workers.submit(slow), workers.submit((slow + 1) % 2)
        outcome = first.result(30)
        assert outcome.error == ("evaluation" if stubborn else "costly") + ": timed out after 0.5 s"
        assert np.isnan(outcome.values["costly"])
        assert second.result(30).error == ""
    finally:
        workers.close()


def test_close_ends_what_is_under_way(tiny, tmp_path):
    def endless(archs):
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(600)

    workers = RayWorkers(Evaluate(objectives=(costly(endless),)), 1)
    workers.submit(np.zeros(tiny.genes, dtype=np.uint8))
    _until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    workers.close()
    _until(lambda: not _alive(int((tmp_path / "pid").read_text())))
    assert ray.is_initialized()  # it was not theirs


def test_more_workers_than_the_cluster_has_room_for(tiny):
    """The actors that never start must not hold candidates back."""
    result = search(tiny, [costly(count)], RandomSearch(tiny, seed=0), budget=10, workers=on_ray(3, cpus=2))
    assert list(result.error) == [""] * 10


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        (on_ray(1, resources={"jetson": 1}), r"no machine of the Ray cluster has CPU 1, jetson 1; there is CPU 2"),
        (on_ray(1, gpus=64), r"has CPU 1, GPU 64"),
        (0, r"workers is a whole number from 1 .*, got 0"),
    ],
    ids=["resource", "gpus", "zero"],
)
def test_what_cannot_be_had_is_said_at_once(tiny, workers, said):
    with pytest.raises(BadInput, match=said):
        search(tiny, [costly(count)], RandomSearch(tiny, seed=0), budget=5, workers=workers)


def test_objectives_that_cannot_travel_are_named(tiny):
    lock = threading.Lock()

    def locked(archs):
        with lock:
            return count(archs)

    with pytest.raises(BadInput, match=r"^with workers .* costly cannot: cannot pickle '_thread.lock' object$"):
        search(tiny, [costly(locked)], RandomSearch(tiny, seed=0), budget=5, workers=1)


def test_a_cluster_that_does_not_answer_is_said_at_once():
    code = "import nas.cluster as r; r.start_ray('127.0.0.1:9', cpus=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "BadInput: no Ray cluster answers at 127.0.0.1:9: Connection refused" in done.stderr


def test_an_interrupt_ends_the_workers_in_one_line(tmp_path):
    """Ctrl-C goes to the whole process group, workers included."""
    code = f"""
import os, signal, time, numpy as np, nas
signal.signal(signal.SIGINT, signal.default_int_handler)  # of tests that a shell runs in the background it is ignored
from nas.objectives import Objective
from nas.searchers.random import RandomSearch
from nas.space import Choice, SearchSpace
space = SearchSpace("s", [Choice(f"g{{i}}", (1, 2, 3)) for i in range(6)], ())
def slow(archs):
    open({str(tmp_path / "started")!r}, "w").close()
    time.sleep(60)
try:
    nas.search(space, [slow], RandomSearch(space), budget=9, workers=2, run_dir={str(tmp_path / "run")!r})
except KeyboardInterrupt as stopped:
    print(stopped)
"""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment,
    )
    with process:
        try:
            _until(lambda: (tmp_path / "started").exists(), 200)
            os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert out == "search stopped after 0 of 9 evaluations; the same call goes on from there\n"
    assert "Traceback" not in err


def _until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"
