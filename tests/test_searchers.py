"""Laws of every searcher: valid proposals, any results in any order, repeatable, resumable, better than luck."""

import dataclasses

import numpy as np
import optuna
import pytest

import nas
from nas import searchers
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
from nas.searchers.policy import Critic, Policy
from nas.searchers.ppo import PolicySearch
from nas.searchers.random import RandomSearch
from nas.space import Choice, SearchSpace
from search_spaces import MobileNetV3

SPACE = MobileNetV3.digits()
LEVELS = SearchSpace("levels", [Choice(f"g{i}", ("a", "b", "c")) for i in range(12)], ())
FAST = {"guided": {"initial": 16, "candidates": 300}}


def named(name):
    return lambda space, seed: searchers.make(name, space, None, seed=seed, **FAST.get(name, {}))


SEARCHERS = {name: named(name) for name in searchers.names()} | {
    "mnasnet": lambda space, seed: PolicySearch(space, seed=seed, algorithm="reinforce", reward="mnasnet"),
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


def test_a_used_searcher_is_told_from_a_fresh_one(make):
    searcher = make(SPACE, seed=4)
    assert (searcher.seed, searcher.known) == (4, 0)
    play(searcher, 20)
    assert searcher.known >= 20
    searcher.reset(5)
    assert (searcher.seed, searcher.known) == (5, 0)


def test_names_are_those_of_the_files_and_a_new_file_is_enough(tmp_path, monkeypatch):
    wanted = {"guided", "nsga2", "nsga3", "evolution", "local_search", "ppo", "reinforce", "optuna_tpe", "random"}
    assert set(searchers.names()) == wanted
    (tmp_path / "cyclic.py").write_text(
        "import numpy as np\n"
        "class Cyclic:\n"
        "    def __init__(self, space, *, seed=0, step=3):\n"
        "        self.space, self.seed, self.step = space, seed, step\n"
        "    def ask(self, n): return self.space.sample(n, np.random.default_rng(self.step))\n"
        "    def tell(self, archs, costs, violation): pass\n"
    )
    monkeypatch.setattr(searchers, "__path__", [*searchers.__path__, str(tmp_path)])
    assert "cyclic" in searchers.names()
    assert searchers.make("cyclic", SPACE, [], seed=2, step=5).step == 5
    with pytest.raises(BadInput, match=r"cyclic has no setting 'steps'; it has seed, step$"):
        searchers.make("cyclic", SPACE, [], steps=5)
    with pytest.raises(BadInput, match="there is no searcher 'nsga4'; there are cyclic, evolution, guided"):
        searchers.named("nsga4")


@pytest.mark.parametrize(
    ("name", "evaluations"),
    [
        ("ppo", 100),
        ("reinforce", 100),
        ("nsga2", 400),
        ("nsga3", 400),
        ("evolution", 400),
        ("local_search", 400),
        ("guided", 100),
        ("optuna_tpe", 150),
    ],
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
    for stop in (3, 19, 7, 0):
        left[0] = stop
        try:
            result = search(
                SPACE,
                objectives,
                make(SPACE, seed=1),
                budget=60,
                run_dir=tmp_path,
            )
        except Stop:
            continue
    assert (result.archs == whole.archs).all()
    assert (result.values == whole.values).all()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: RegularizedEvolution(SPACE, sample=99), "a sample has 2 to 64"),
        (lambda: LocalSearch(SPACE, initial=0), "initial is a whole number from 1"),
        (lambda: Guided(SPACE, candidates=3), "candidates is a whole number from 100"),
        (lambda: PolicySearch(SPACE, algorithm="a2c"), "one of ppo, reinforce"),
        (lambda: PolicySearch(SPACE, targets=-1), "targets are positive"),
        (lambda: PolicySearch(SPACE, targets=1.0, reward="chebyshev"), "targets go with the rewards tunas and mnasnet"),
        (lambda: PolicySearch(SPACE, targets="fast"), "targets is a list, each a number.* got 'fast'"),
        (lambda: PolicySearch(SPACE, learning_rate=float("nan")), "learning_rate is a number above 0"),
        (lambda: RandomSearch(SPACE, seed=-1), "seed is a whole number from 0"),
        (lambda: NSGA3(SPACE, crossover=1.5), "crossover is a number from 0 to 1"),
        (lambda: OptunaSearch(SPACE, optuna.samplers.RandomSampler()), "sampler is a function or None"),
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


def test_local_search_looks_around_the_front_only():
    searcher = LocalSearch(LEVELS, initial=4)
    searcher.ask(4)
    best, worse = np.zeros((1, 12), np.uint8), np.full((1, 12), 2, np.uint8)
    missed = np.ones((1, 12), np.uint8)
    searcher.tell(
        np.vstack([worse, best, missed]), np.array([[2.0, 2.0], [1.0, 1.0], [0.0, 0.0]]), np.array([0, 0, 1e-9])
    )
    around = searcher.ask(24)  # as many as there are
    assert (np.count_nonzero(around, axis=1) == 1).all()
    assert (np.count_nonzero(searcher.ask(10), axis=1) > 1).all()  # then at random


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


def test_nsga3_keeps_the_member_nearest_to_every_direction():
    directions = reference_directions(3, 15)
    rng = np.random.default_rng(0)
    crowd = directions[4] + 0.02 * rng.random((45, 3))  # all nearest to the same direction
    crowd /= np.linalg.norm(crowd, axis=1, keepdims=True)  # on a sphere nothing dominates anything
    points = np.vstack([crowd[:20], directions, crowd[20:]])
    archs = np.unique(SPACE.sample(200, rng), axis=0)[: len(points)]
    searcher = NSGA3(SPACE, population=15)
    searcher.tell(archs, points, np.zeros(len(points)))
    kept = {row.tobytes() for row in searcher._alive.archs}
    assert [i for i, row in enumerate(archs) if row.tobytes() in kept] == list(range(20, 35))


@pytest.mark.parametrize("algorithm", ["ppo", "reinforce"])
@pytest.mark.parametrize("reward", ["chebyshev", "tunas", "mnasnet"])
def test_a_policy_learns_what_is_rewarded(algorithm, reward):
    def one(archs):
        return (archs > 0).mean(axis=1, keepdims=True)  # lower indices are better, gene by gene

    archs = play(PolicySearch(LEVELS, seed=0, algorithm=algorithm, reward=reward), 64, 16, one)
    early, late = one(archs[:16]).mean(), one(archs[-32:]).mean()
    assert late < 0.5 * early


@pytest.mark.parametrize("reward", ["tunas", "mnasnet"])
def test_rewards_are_those_of_the_papers(reward):
    searcher = PolicySearch(SPACE, reward=reward, targets=2.0)
    told = np.array([[0.0, 1.0], [1.0, 4.0]])  # the range of quality is 0 to 1
    searcher.tell(SPACE.sample(2, np.random.default_rng(0)), told, np.zeros(2))
    costs = np.array([[0.2, 2.0], [0.2, 4.0], [0.2, 1.0], [0.6, 2.0], [0.2, 2.0], [np.nan, np.nan]])
    rewards = searcher._rewards(costs, np.full((6, 1), 2.0), np.array([0, 0, 0, 0, 0.3, 0]))
    if reward == "mnasnet":
        expected = [0.8, 0.8 * 2**-0.07, 0.8 * 0.5**-0.07, 0.4, 0.8 - 0.3, 0.0]
    else:
        expected = [0.8, 0.8 - 0.5 * 1, 0.8 - 0.5 * 0.5, 0.4, 0.8 - 0.3, -0.5 * 1]
    assert rewards == pytest.approx(expected)


def test_a_chebyshev_reward_is_the_largest_of_the_weighted_costs_in_units_of_the_front():
    searcher = PolicySearch(SPACE)
    told = np.array([[0.0, 4.0], [10.0, 2.0], [99.0, 99.0]])  # the front reaches from 0 to 10 and from 2 to 4
    searcher.tell(SPACE.sample(3, np.random.default_rng(0)), told, np.zeros(3))
    costs = np.array([[5.0, 3.0], [5.0, 3.0], [0.0, 4.0], [5.0, 3.0]])
    weights = np.array([[0.5, 0.5], [0.8, 0.2], [1.0, 0.0], [0.5, 0.5]])
    rewards = searcher._rewards(costs, weights, np.array([0, 0, 0, 0.3]))
    assert rewards == pytest.approx([-0.25 - 0.05 * 0.5, -0.4 - 0.05 * 0.5, 0.0, -0.275 - 0.3])


@pytest.mark.parametrize("algorithm", ["ppo", "reinforce"])
def test_a_policy_is_pulled_to_the_best_and_pushed_from_the_rest(algorithm):
    searcher = PolicySearch(LEVELS, algorithm=algorithm, entropy=0.0)
    archs = np.unique(LEVELS.sample(40, np.random.default_rng(0)), axis=0)
    values = np.arange(len(archs), dtype=float)[:, None]
    searcher.tell(archs, values, np.zeros(len(archs)))
    after = searcher._policy.log_probability(archs, searcher._features(np.ones((len(archs), 1))))
    uniform = -12 * np.log(3)
    assert after[:4].min() > uniform + 1
    assert after[8:].mean() < uniform


def test_a_policy_knows_its_probabilities_and_their_slope():
    rng = np.random.default_rng(0)
    policy, aims = Policy(SPACE, 2), np.tile([[0.3, 0.7]], (20_000, 1))
    for _ in range(30):  # away from uniform
        policy.step(SPACE.sample(8, rng), rng.random((8, 2)), rng.normal(size=8), 0.0, 0.1)
    drawn, times = np.unique(policy.sample(aims, rng), axis=0, return_counts=True)
    common = np.argsort(-times)[:5]
    expected = np.exp(policy.log_probability(drawn[common], aims[:5]))
    assert np.abs(times[common] / 20_000 - expected).max() < 4 * np.sqrt(expected.max() / 20_000)
    archs, gains = SPACE.sample(6, rng), rng.normal(size=6)

    def gained():
        weighted = gains * policy.log_probability(archs, aims[:6]) + 0.3 * policy.entropy(archs, aims[:6])
        return weighted.mean()

    before = gained()
    policy.step(archs, aims[:6], gains, 0.3, 1e-5)
    for _ in range(20):  # Adam's momentum of other gains fades
        policy.step(archs, aims[:6], gains, 0.3, 1e-5)
    assert gained() > before


def test_a_critic_expects_of_a_network_what_its_likes_have():
    archs = np.random.default_rng(0).permutation(np.unique(LEVELS.sample(300, np.random.default_rng(0)), axis=0))
    values = np.column_stack([(archs == 0).sum(axis=1), archs[:, 0]]).astype(float)
    critic = Critic(LEVELS, archs[:200], values[:200])
    for column in (0, 1):
        assert np.corrcoef(critic.predict(archs[200:])[:, column], values[200:, column])[0, 1] > 0.8


def test_a_conditioned_policy_goes_by_its_aim():
    searcher, rng = PolicySearch(SPACE, seed=0), np.random.default_rng(0)
    play(searcher, 160, batch=16)
    weights = np.repeat([[0.1, 0.9], [0.9, 0.1]], 200, axis=0)  # of quality and MACs
    sizes = MACS(searcher._policy.sample(searcher._features(weights), rng)).reshape(2, 200).mean(axis=1)
    assert sizes[1] > 1.5 * sizes[0]


def test_a_policy_with_a_target_aims_at_it():
    searcher = PolicySearch(SPACE, seed=0, targets=1.5)
    archs = play(searcher, 96, batch=16)
    early, late = costs(archs[:16])[:, 1], costs(archs[-32:])[:, 1]
    assert np.abs(late - 1.5).mean() < 0.5 * np.abs(early - 1.5).mean()


def test_a_policy_with_cheap_costs_begins_with_their_ends_and_guesses_none_of_them():
    quality = Objective(name="quality", fn=lambda a: costs(a)[:, 0], cheap=False)
    searcher = PolicySearch(SPACE, [quality, MACS], seed=0)
    first = searcher.ask(16)
    assert {MACS.extremes.minimum, MACS.extremes.maximum} <= set(MACS(first))
    searcher.tell(first, np.column_stack([costs(first)[:, 0], MACS(first)]), np.zeros(16))
    some = SPACE.sample(9, np.random.default_rng(1))
    assert (searcher._expected(some)[:, 1] == MACS(some)).all()
    with pytest.raises(BadInput, match="made for 2 objectives, the search has 3"):
        searcher.tell(first, np.ones((16, 3)), np.zeros(16))


def test_guided_uses_what_is_known_of_cheap_objectives():
    quality = Objective(name="quality", fn=lambda a: costs(a)[:, 0], cheap=False)
    objectives = [quality, dataclasses.replace(MACS, fn=lambda a: MACS(a) / 1e6)]
    searcher = Guided(SPACE, objectives, seed=0)
    play(searcher, 40)
    with pytest.raises(BadInput, match="made for 2 objectives"):
        searcher.tell(searcher.ask(2), np.ones((2, 3)), np.zeros(2))
    assert search(SPACE, objectives, budget=30).values.shape == (30, 2)  # the default for expensive objectives


def test_guided_begins_with_the_true_ends_of_what_it_knows_and_then_goes_by_its_seed():
    quality = Objective(name="quality", fn=lambda a: costs(a)[:, 0], cheap=False)
    first, other = (Guided(SPACE, [quality, MACS], seed=seed, candidates=100).ask(8) for seed in (0, 1))
    assert MACS(first[:2]).tolist() == MACS(other[:2]).tolist() == [MACS.extremes.minimum, MACS.extremes.maximum]
    table = Objective(name="table", fn=lambda a: a @ 3 ** np.arange(6.0), cheap=True)  # all of one small space, no ties
    small = SearchSpace("small", [Choice(f"g{i}", ("a", "b", "c")) for i in range(6)], ())
    one, two = (Guided(small, [quality, table], seed=seed).ask(8) for seed in (0, 1))
    assert (one[:2] == two[:2]).all()
    assert (one[2:] != two[2:]).any()


def test_guided_reckons_with_what_is_under_way(tiny):
    def few(archs):
        return np.column_stack([nas.params(tiny)(archs) / 1e3, -nas.macs(tiny)(archs) / 1e5])

    batch, single = (Guided(tiny, seed=0, initial=16) for _ in range(2))
    for searcher in (batch, single):
        archs = np.unique(tiny.sample(60, np.random.default_rng(0)), axis=0)[:20]
        searcher.tell(archs, few(archs), np.zeros(20))
    together, one_by_one = batch.ask(5), np.vstack([single.ask(1) for _ in range(5)])
    assert np.array_equal(together, one_by_one)


def test_guided_improves_on_three_objectives():
    def three(archs):
        return np.column_stack([costs(archs), (archs > 0).sum(axis=1) / 4.0])

    def volume(searcher):
        found = three(play(searcher, 64, 8, three))
        return hypervolume(found, (3.0, 4.0, 5.0))

    assert volume(Guided(SPACE, seed=0, initial=16, candidates=300)) > volume(RandomSearch(SPACE, seed=0))


def test_guided_learns_an_expensive_constraint():
    heavy = Objective(name="heavy", fn=lambda a: MACS(a) / 1e6, cheap=False)
    quality = Objective(name="quality", fn=lambda a: costs(a)[:, 0], cheap=False)

    def best(searcher):
        result = search(SPACE, [quality], searcher, budget=100, constraints=[heavy <= 1.0])
        return quality(result.best(quality)[None])[0], (result.violation <= 0).mean()

    guided, luck = best(Guided(SPACE, seed=0)), best(RandomSearch(SPACE, seed=0))
    assert guided[0] < luck[0]
    assert guided[1] > luck[1]


def test_a_search_asks_guided_for_as_many_as_it_was_made_for(monkeypatch):
    asked, ask = [], Guided.ask
    monkeypatch.setattr(Guided, "ask", lambda self, n: asked.append(n) or ask(self, n))
    quality = Objective(name="quality", fn=lambda archs: archs @ WEIGHTS, cheap=False)
    search(SPACE, [quality], Guided(SPACE, seed=0, initial=6, candidates=100, batch=3), budget=12)
    assert asked == [3, 3, 3, 3]
