"""NSGA-II's own rules: who survives, and who becomes a parent."""

from __future__ import annotations

import numpy as np
import pytest

from nas.errors import BadInput
from nas.searchers.nsga2 import NSGA2
from nas.space import Choice, SearchSpace


@pytest.fixture
def archs(tiny):
    return np.unique(tiny.sample(200, np.random.default_rng(0)), axis=0)


def survivors(searcher, archs):
    """Rows of ``archs`` that are in the population."""
    population = {row.tobytes() for row in searcher._alive.archs}
    return [i for i, row in enumerate(archs) if row.tobytes() in population]


def test_the_most_crowded_of_the_last_front_gives_way(tiny, archs):
    searcher = NSGA2(tiny, population=4)
    costs = np.array([[0.0, 4.0], [1.0, 3.0], [1.1, 2.9], [3.0, 1.0], [4.0, 0.0]])
    searcher.tell(archs[:5], costs, np.zeros(5))
    assert survivors(searcher, archs[:5]) == [0, 2, 3, 4]  # distances 0.55, 1.0 and 1.45 between the ends


def test_dominated_failed_and_violating_rows_give_way_in_this_order(tiny, archs):
    searcher = NSGA2(tiny, population=4)
    costs = np.array([[0.0, 3.0], [1.0, 1.0], [3.0, 0.0], [2.0, 2.0], [-9.0, -9.0], [np.nan, 0.0], [-np.inf, 0.0]])
    violation = np.array([0, 0, 0, 0, 1e-9, 0, 0])  # the least violation is one
    for i in np.random.default_rng(1).permutation(7):  # one by one and in any order
        searcher.tell(archs[[i]], costs[[i]], violation[[i]])
    assert survivors(searcher, archs[:7]) == [0, 1, 2, 3]
    searcher.tell(archs[7:8], np.array([[0.5, 0.5]]), np.zeros(1))
    assert survivors(searcher, archs[:8]) == [0, 1, 2, 7]


def test_of_violators_the_nearest_survive_whatever_they_cost(tiny, archs):
    searcher = NSGA2(tiny, population=4)
    costs = np.column_stack([np.arange(8.0), -np.arange(8.0)])
    costs[1] = np.nan  # never evaluated: it was ruled out before
    searcher.tell(archs[:8], costs, np.array([0.8, 0.1, 0.7, 0.2, 0.6, 0.3, 0.5, 0.4]))
    assert survivors(searcher, archs[:8]) == [1, 3, 5, 7]


def test_a_network_told_again_takes_no_second_place(tiny, archs):
    searcher = NSGA2(tiny, population=4)
    for _ in range(3):
        searcher.tell(np.repeat(archs[:3], 2, axis=0), np.repeat(np.arange(3.0), 2)[:, None], np.zeros(6))
    assert len(searcher._alive.archs) == 3


def test_tournaments_of_two_prefer_the_better(tiny, archs):
    searcher = NSGA2(tiny, population=4)
    searcher.tell(archs[:4], np.arange(4.0)[:, None], np.zeros(4))
    drawn = {row.tobytes(): 0 for row in archs[:4]}
    for row in searcher._tournament(20_000):
        drawn[row.tobytes()] += 1
    assert [n / 20_000 for n in drawn.values()] == pytest.approx([7 / 16, 5 / 16, 3 / 16, 1 / 16], abs=0.02)


def test_of_equal_rank_the_less_crowded_becomes_a_parent(tiny, archs):
    searcher = NSGA2(tiny, population=5)
    costs = np.array([[0.0, 4.0], [1.0, 3.0], [1.1, 2.9], [1.2, 2.8], [4.0, 0.0]])
    searcher.tell(archs[:5], costs, np.zeros(5))
    drawn = [row.tobytes() for row in searcher._tournament(20_000)]
    share = [drawn.count(row.tobytes()) / 20_000 for row in archs[:5]]
    assert share[2] == pytest.approx(1 / 25, abs=0.02)  # only against itself
    assert min(share[0], share[4]) > max(share[1:4])


def test_a_search_begins_with_the_even_networks_and_its_population_grows_with_what_is_known():
    levels = SearchSpace("levels", [Choice(f"g{i}", tuple(range(2 + i % 4))) for i in range(12)], ())
    searcher = NSGA2(levels, seed=1)
    first = searcher.ask(16)
    assert (first[0] == 0).all()
    assert (first[1:5] == levels.sizes - 1).all(axis=1).any()
    rng, sizes = np.random.default_rng(0), []
    for _ in range(25):
        rows = levels.sample(16, rng)
        searcher.tell(rows, np.column_stack([rows.sum(axis=1), -rows.sum(axis=1)]), np.zeros(16))  # all non-dominated
        sizes.append(len(searcher._alive))
    assert sizes[3] == 16
    assert sizes[-1] == 20  # of 400 results


def test_children_of_two_parents_mix_them():
    levels = SearchSpace("levels", [Choice(f"g{i}", ("a", "b", "c")) for i in range(12)], ())
    searcher = NSGA2(levels, population=4, crossover=1.0, mutated=0.0)
    searcher.ask(4)
    searcher.tell(np.repeat([[0], [2]], 12, axis=1).astype(np.uint8), np.array([[0.0, 1.0], [1.0, 0.0]]), np.zeros(2))
    children = searcher.ask(40)
    assert np.isin(children, (0, 2)).mean() > 0.95
    assert 0.4 < (children == 2).mean() < 0.6
    assert ((children == 0).any(axis=1) & (children == 2).any(axis=1)).mean() > 0.9


def test_mutation_reaches_every_value_and_stays_canonical(tiny):
    searcher = NSGA2(tiny, seed=0)
    parents = np.repeat(tiny.sample(1, np.random.default_rng(3)), 4000, axis=0)
    children = searcher._mutate(parents, rate=1.0 / tiny.genes)
    assert np.array_equal(children, tiny.canonical(children))
    assert (children != parents).any(axis=1).all()
    for gene, size in enumerate(tiny.sizes):
        on = tiny.active(children)[:, gene]
        assert set(children[on, gene]) == set(range(size))


def test_mutated_numbers_mostly_step_and_names_jump_anywhere():
    space = SearchSpace("one of each", [Choice("number", tuple(range(9))), Choice("name", tuple("abcdefghi"))], ())
    parents = np.full((20_000, 2), 4, dtype=np.uint8)
    away = np.abs(NSGA2(space)._mutate(parents, rate=0.5).astype(int) - parents)
    assert (away > 0).any(axis=1).all()
    near = [(gene[gene > 0] <= 2).mean() for gene in away.T]
    assert near[0] > 0.65
    assert near[1] == pytest.approx(4 / 8, abs=0.02)
    assert [set(gene) for gene in away.T] == [set(range(5))] * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population": 2}, "from 4"),
        ({"mutation": 1.5}, "mutation is a number from 0 to 1"),
        ({"crossover": -1}, "cross"),
    ],
)
def test_settings_out_of_range_are_refused(tiny, settings, message):
    with pytest.raises(BadInput, match=message):
        NSGA2(tiny, **settings)
