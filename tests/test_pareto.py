"""Dominance, crowding and hypervolume against their definitions, counting of cells, and pymoo."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance

from nas.errors import BadInput
from nas.pareto import crowding_by_front, hypervolume, hypervolume_history, non_dominated, rank


def dominates(a, b):
    return (a <= b).all() and (a < b).any()


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_non_dominated_equals_the_definition(k):
    rng = np.random.default_rng(k)
    corners = np.array(list(itertools.product((-np.inf, -1.0, 1.0, np.inf), repeat=k)))
    for costs in [corners, *(rng.integers(0, 4, (30, k)).astype(float) for _ in range(50)), rng.random((200, k))]:
        expected = [not any(dominates(other, row) for other in costs) for row in costs]
        assert non_dominated(costs).tolist() == expected


def test_rows_with_nan_are_never_on_the_front():
    assert non_dominated([[np.nan, 0.0], [1.0, 1.0], [0.0, np.nan]]).tolist() == [False, True, False]
    assert rank([[np.nan, 0.0], [1.0, 1.0], [2.0, 2.0]]).tolist() == [3, 0, 1]
    assert not non_dominated(np.empty((0, 2))).any()


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_rank_peels_fronts(k):
    costs = np.random.default_rng(0).integers(0, 6, (80, k)).astype(float)
    ranks = rank(costs)
    for i, row in enumerate(costs):
        above = [ranks[j] for j, other in enumerate(costs) if dominates(other, row)]
        assert ranks[i] == (max(above) + 1 if above else 0)


def test_crowding_distance_by_hand():
    costs = np.array([[0.0, 40.0], [1.0, 20.0], [3.0, 10.0], [4.0, 0.0], [1.0, 20.0], [9.0, 90.0]])
    distance = crowding_by_front(costs, np.array([0, 0, 0, 0, 0, 1]))
    assert np.isinf(distance[[0, 3, 5]]).all()
    assert distance[1] + distance[4] == pytest.approx(3 / 4 + 3 / 4)  # of equal rows one is crowded
    assert min(distance[1], distance[4]) == 0
    assert distance[2] == pytest.approx(3 / 4 + 2 / 4)


@pytest.mark.parametrize("k", [2, 3])
def test_crowding_distance_of_every_front_is_pymoo_s(k):
    rng = np.random.default_rng(k)
    costs = rng.random((60, k)) * 10.0 ** np.arange(k)  # objectives of different units
    ranks = rng.integers(0, 3, 60)
    ours = crowding_by_front(costs, ranks)
    for front in range(3):
        theirs = calc_crowding_distance(costs[ranks == front]) * k  # pymoo divides by the number of objectives
        assert ours[ranks == front] == pytest.approx(theirs)


def cells(points, side):
    """Unit cells below ``side`` in every direction that whole-numbered points dominate: their hypervolume."""
    corners = np.indices([side] * points.shape[1]).reshape(points.shape[1], -1).T
    return int((points[:, None] <= corners).all(axis=2).any(axis=0).sum())


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_hypervolume_and_its_history_count_cells(k):
    rng = np.random.default_rng(k)
    for _ in range(30):
        points = rng.integers(0, 6, (rng.integers(1, 15), k)).astype(float)  # some on or beyond the reference
        assert hypervolume(points, np.full(k, 4.0)) == cells(points, 4)
        rows = np.insert(points, rng.integers(0, len(points)), np.nan, axis=0)
        rows = np.insert(rows, rng.integers(0, len(points)), np.inf, axis=0)
        history = hypervolume_history(rows, np.full(k, 4.0))
        assert history.tolist() == [cells(rows[: i + 1], 4) for i in range(len(rows))]
        sides = np.arange(1.0, k + 1)  # another reference in every objective
        assert hypervolume_history(rows * sides, 4 * sides) == pytest.approx(history * sides.prod())
    assert hypervolume(points / 4 - 1, np.zeros(k)) == pytest.approx(cells(points, 4) / 4**k)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_last_of_a_history_is_the_whole(k):
    points = np.random.default_rng(0).random((300, k))
    history = hypervolume_history(points, np.ones(k))
    assert history[-1] == pytest.approx(hypervolume(points, np.ones(k)))
    assert history[99] == pytest.approx(hypervolume(points[:100], np.ones(k)))
    assert (np.diff(history) >= 0).all()
    for seed in range(5):  # where rounding takes more than a point adds
        rng = np.random.default_rng(seed)
        level = rng.random((60, k))
        level /= level.sum(axis=1, keepdims=True)
        nearly = np.vstack([level, level[:30] + 1e-15 * (rng.random((30, k)) - 0.5)])
        assert (np.diff(hypervolume_history(nearly, np.ones(k))) >= 0).all()


def test_bad_input_is_refused():
    for reference in ([1.0], 1.0, [1.0, np.nan]):
        with pytest.raises(BadInput, match="reference of shape"):
            hypervolume([[0.0, 0.0]], reference)
        with pytest.raises(BadInput, match="reference of shape"):
            hypervolume_history([[0.0, 0.0]], reference)
    with pytest.raises(BadInput, match="shape"):
        non_dominated([1.0, 2.0])
    assert hypervolume(np.empty((0, 4)), [1.0] * 4) == 0
    assert hypervolume_history(np.empty((0, 4)), [1.0] * 4).shape == (0,)


def test_a_history_in_which_every_row_joins_the_front_takes_no_quadratic_time():
    x = np.random.default_rng(0).permutation(20_000) / 20_000
    started = time.perf_counter()
    history = hypervolume_history(np.column_stack([x, 1 - x]), [1.0, 1.0])
    assert time.perf_counter() - started < 5  # 0.05 s; 80 s when each row costs a pass over the front
    assert history[-1] == pytest.approx(hypervolume(np.column_stack([x, 1 - x]), [1.0, 1.0]))
