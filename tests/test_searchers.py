"""Laws of every searcher: valid proposals, any results in any order, repeatable, resumable, better than luck."""

import dataclasses
import json

import numpy as np
import optuna
import pytest

import nas
from nas.engine.loop import search
from nas.errors import BadInput
from nas.objectives import Objective
from nas.pareto import hypervolume, non_dominated
from nas.searchers.evolution import RegularizedEvolution
from nas.searchers.guided import Guided
from nas.searchers.local_search import LocalSearch, neighbours
from nas.searchers.nsga2 import NSGA2
from nas.searchers.nsga3 import NSGA3, reference_directions
from nas.searchers.optuna_tpe import OptunaSearch
from nas.searchers.ppo import PolicySearch
from nas.searchers.random import RandomSearch
from nas.space import Choice, SearchSpace
from search_spaces import MobileNetV3

SPACE = MobileNetV3.digits()
SEARCHERS = {
    "random": RandomSearch,
    "nsga2": NSGA2,
    "nsga3": NSGA3,
    "evolution": RegularizedEvolution,
    "local_search": LocalSearch,
    "guided": lambda space, seed: Guided(space, seed=seed, initial=16, candidates=300),
    "ppo": PolicySearch,
    "reinforce": lambda space, seed: PolicySearch(space, seed=seed, algorithm="reinforce", reward="mnasnet"),
    "optuna_tpe": OptunaSearch,
    "optuna_nsga2": lambda space, seed: OptunaSearch(
        space, lambda s: optuna.samplers.NSGAIISampler(seed=s, population_size=16), seed=seed
    ),
}


@pytest.fixture(params=SEARCHERS)
def make(request):
    return SEARCHERS[request.param]


WEIGHTS = np.random.default_rng(7).normal(size=SPACE.genes)


def costs(archs):
    """Two costs in conflict: MACs, and one that falls with size but also depends on every gene."""
    size = MACS(archs) / 1e6
    shape = (np.where(SPACE.active(archs), archs, 0) * WEIGHTS).sum(axis=1)
    return np.column_stack([1.0 / (0.3 + size) + 0.1 * shape + 1.0, size])


MACS = nas.macs(SPACE)


def play(searcher, evaluations, batch=10, results=costs):
    told = []
    while sum(len(t) for t in told) < evaluations:
        archs = searcher.ask(batch)
        told.append(archs)
        searcher.tell(archs, results(archs), np.zeros(len(archs)))
    return np.vstack(told)


def test_proposals_are_valid_new_and_canonical(make):
    archs = play(make(SPACE, seed=3), 80)
    assert archs.dtype == np.uint8
    assert (SPACE.check(archs) == SPACE.canonical(archs)).all()
    assert len(np.unique(archs, axis=0)) == len(archs) >= 80


def test_the_same_seed_and_results_give_the_same_proposals_and_reset_repeats_them(make):
    searcher = make(SPACE, seed=5)
    first = play(searcher, 60)
    assert (first == play(make(SPACE, seed=5), 60)).all()
    searcher.reset(5)
    assert (first == play(searcher, 60)).all()
    assert (first != play(make(SPACE, seed=6), 60)).any()


def test_results_may_be_partial_reordered_foreign_failed_or_infeasible(make):
    searcher = make(SPACE, seed=0)
    rng = np.random.default_rng(0)
    for _ in range(6):
        asked = searcher.ask(12)
        told = np.vstack([rng.permutation(asked)[:8], SPACE.sample(4, rng)])
        values, violation = costs(told), np.zeros(12)
        values[0] = np.nan
        violation[1] = 0.5
        values[2, 0], violation[2] = np.nan, 0.2  # never evaluated: a cheap constraint ruled it out
        searcher.tell(told, values, violation)
    assert len(searcher.ask(5)) == 5


def test_it_asks_before_it_is_told_and_for_any_number(make):
    searcher = make(SPACE, seed=0)
    rows = np.vstack([searcher.ask(n) for n in (1, 7, 30)])
    assert len(np.unique(rows, axis=0)) == 38


def test_a_space_may_be_exhausted(make):
    tiny = SearchSpace(
        "tiny", [Choice("a", (1, 2, 3)), Choice("b", ("x", "y")), Choice("c", (1, 2), ("b", ("x",)))], ()
    )
    searcher = make(tiny, seed=0)
    seen = set()
    for _ in range(8):
        archs = searcher.ask(4)
        assert not seen & {a.tobytes() for a in archs}
        seen |= {a.tobytes() for a in archs}
        values = archs[:, :2].astype(float) + 0.1
        searcher.tell(archs, values, np.zeros(len(archs)))
    assert len(seen) == tiny.size == 9


def test_what_decides_a_search_is_plain_json(make):
    searcher = make(SPACE, seed=4)
    described = json.loads(json.dumps(searcher.describe()))
    assert described["seed"] == 4
    assert described["known"] == 0
    play(searcher, 20)
    assert searcher.describe()["known"] > 0  # a used searcher is not the same search


@pytest.mark.parametrize(
    ("name", "evaluations"),
    [("nsga2", 400), ("nsga3", 400), ("evolution", 400), ("local_search", 400), ("guided", 100), ("optuna_tpe", 150)],
)
def test_it_finds_more_than_luck_does(name, evaluations):
    def volume(make):
        found = [costs(play(make(SPACE, seed=s), evaluations)) for s in range(3)]
        return np.mean([hypervolume(f[non_dominated(f)], (3.0, 4.0)) for f in found])

    assert volume(SEARCHERS[name]) > volume(RandomSearch)


def test_three_objectives_and_one(make):
    for k in (1, 3):

        def few(archs, k=k):
            return np.column_stack([costs(archs), archs.sum(axis=1) + 1.0])[:, :k]

        assert len(play(make(SPACE, seed=0), 40, results=few)) >= 40


def test_resuming_after_any_interruption_gives_the_unbroken_result(make, tmp_path):
    class Stop(KeyboardInterrupt):
        pass

    left = [0]

    def quality(archs):
        left[0] -= 1
        if left[0] == 0:
            raise Stop
        return costs(archs)[:, 0]

    objectives = [Objective(name="quality", fn=quality, cheap=False), MACS]
    whole = search(SPACE, objectives, make(SPACE, seed=1), budget=60)
    rng = np.random.default_rng(abs(hash(str(make(SPACE, seed=1).describe()))) % 1000)
    for stop in (*rng.integers(2, 25, size=3), 0):
        left[0] = stop
        try:
            result = search(
                SPACE,
                objectives,
                make(SPACE, seed=1),
                budget=60,
                run_dir=tmp_path,
                resume=stop == 0 or (tmp_path / "evaluations.db").exists(),
            )
        except Stop:
            continue
    assert (result.archs == whole.archs).all()
    assert (result.values == whole.values).all()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: RegularizedEvolution(SPACE, sample=99), "a sample has 2 to 64"),
        (lambda: LocalSearch(SPACE, initial=0), "initial is at least 1"),
        (lambda: Guided(SPACE, candidates=3), "candidates is at least 100"),
        (lambda: PolicySearch(SPACE, algorithm="a2c"), "one of ppo, reinforce"),
        (lambda: PolicySearch(SPACE, targets=-1), "targets are positive"),
        (lambda: OptunaSearch(SPACE, optuna.samplers.RandomSampler()), "a function from a seed to a sampler"),
    ],
)
def test_settings_that_make_no_sense(wrong, says):
    with pytest.raises(BadInput, match=says):
        wrong()


def test_neighbours_differ_in_one_gene():
    arch = SPACE.sample(1, np.random.default_rng(0))[0]
    near = neighbours(SPACE, arch)
    active = SPACE.active(arch[None])[0]
    assert len(near) == (SPACE.sizes[active] - 1).sum()
    unconditional = np.array([c.only_if is None for c in SPACE.choices])
    assert ((near != arch) & unconditional).sum(axis=1).max() == 1


def test_reference_directions_are_das_and_dennis():
    directions = reference_directions(3, 91)
    assert len(directions) == 91  # 12 divisions, as in the paper
    shares = directions / directions.sum(axis=1, keepdims=True)
    assert np.allclose(np.round(shares * 12), shares * 12)
    assert len(np.unique(np.round(shares * 12), axis=0)) == 91


def test_nsga3_spreads_over_a_sphere_at_least_as_well_as_nsga2():
    levels = SearchSpace("sphere", [Choice(f"g{i}", tuple(range(11))) for i in range(6)], ())

    def sphere(archs):
        x = archs / 10
        g = 1 + ((x[:, 2:] - 0.5) ** 2).sum(axis=1)
        a, b = x[:, 0] * np.pi / 2, x[:, 1] * np.pi / 2
        return g[:, None] * np.column_stack([np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), np.sin(a)])

    def volume(make):
        found = [sphere(play(make(levels, seed=s, population=36), 1200, 36, sphere)) for s in range(3)]
        return np.mean([hypervolume(f[non_dominated(f)], (1.1, 1.1, 1.1)) for f in found])

    assert volume(NSGA3) > 0.97 * volume(NSGA2)


def test_a_policy_with_a_target_aims_at_it():
    searcher = PolicySearch(SPACE, seed=0, targets=1.5)
    archs = play(searcher, 480, batch=16)
    early, late = costs(archs[:100])[:, 1], costs(archs[-100:])[:, 1]
    assert np.abs(late - 1.5).mean() < np.abs(early - 1.5).mean()


def test_guided_uses_what_is_known_of_cheap_objectives():
    quality = Objective(name="quality", fn=lambda a: costs(a)[:, 0], cheap=False)
    objectives = [quality, dataclasses.replace(MACS, fn=lambda a: MACS(a) / 1e6)]
    searcher = Guided(SPACE, objectives, seed=0)
    play(searcher, 40)
    with pytest.raises(BadInput, match="made for 2 objectives"):
        searcher.tell(searcher.ask(2), np.ones((2, 3)), np.zeros(2))
    assert search(SPACE, objectives, budget=30).values.shape == (30, 2)  # the default for expensive objectives


def test_guided_learns_an_expensive_constraint():
    heavy = Objective(name="heavy", fn=lambda a: MACS(a) / 1e6, cheap=False)
    quality = Objective(name="quality", fn=lambda a: costs(a)[:, 0], cheap=False)

    def best(searcher):
        result = search(SPACE, [quality], searcher, budget=100, constraints=[heavy <= 1.0])
        return quality(result.best(quality)[None])[0], (result.violation <= 0).mean()

    guided, luck = best(Guided(SPACE, seed=0)), best(RandomSearch(SPACE, seed=0))
    assert guided[0] < luck[0]
    assert guided[1] > luck[1]
