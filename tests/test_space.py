"""Laws of search spaces, over every family."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from nas.blocks import Stem, from_key, round_channels
from nas.errors import BadInput
from nas.space import Choice, SearchSpace, Slot
from search_spaces import MobileNetV2


def every_genotype(space: SearchSpace) -> np.ndarray:
    return np.array(list(itertools.product(*(range(n) for n in space.sizes))), dtype=np.uint8)


def test_decode_and_encode_are_inverse(space):
    archs = space.sample(200, np.random.default_rng(0))
    assert np.array_equal(space.encode(space.decode(archs)), archs)


def test_same_network_exactly_when_canonical_rows_are_equal(space):
    archs = space.canonical(np.random.default_rng(0).integers(0, space.sizes, (3000, space.genes)).astype(np.uint8))
    archs = np.vstack([archs, space.mutate(archs, np.random.default_rng(1))])
    networks = {tuple(row) for row in space.block_ids(archs)}
    assert len(networks) == len(np.unique(archs, axis=0))


def test_inactive_genes_change_nothing(space):
    rng = np.random.default_rng(0)
    archs = rng.integers(0, space.sizes, (500, space.genes)).astype(np.uint8)
    assert np.array_equal(space.block_ids(archs), space.block_ids(space.canonical(archs)))


def test_mutation_changes_active_genes_and_at_least_one(space):
    rng = np.random.default_rng(0)
    parents = space.sample(300, rng)
    children = space.mutate(parents, rng, rate=0.0)
    changed = parents != children
    # one gene is forced; the only others that may differ are those it switched on or off
    assert changed.any(axis=1).all()
    same_active = (space.active(parents) == space.active(children)).all(axis=1)
    assert (changed[same_active].sum(axis=1) == 1).all()
    assert np.array_equal(children, space.canonical(children))


def test_crossover_takes_genes_from_the_parents(space):
    rng = np.random.default_rng(0)
    first, second = space.sample(100, rng), space.sample(100, rng)
    child = space.crossover(first, second, rng)
    assert ((child == first) | (child == second) | (child == 0)).all()
    assert (child != first).any()
    assert (child != second).any()


def test_neighbouring_blocks_fit(space):
    for blocks in space.networks(space.sample(100, np.random.default_rng(5))):
        for before, after in itertools.pairwise(blocks):
            assert before.out_shape == after.in_shape


def test_keys_are_unique_and_readable_back(space):
    assert len({b.key for b in space.blocks}) == len(space.blocks)
    assert all(from_key(b.key) == b for b in space.blocks)


def test_size_and_extremes_equal_enumeration(tiny):
    archs = every_genotype(tiny)
    assert tiny.size == len(np.unique(tiny.canonical(archs), axis=0)) == len(np.unique(tiny.block_ids(archs), axis=0))
    rng = np.random.default_rng(0)
    for combine in (np.add, np.maximum):
        for _ in range(20):
            vector = rng.normal(size=len(tiny.blocks)) if combine is np.add else rng.random(len(tiny.blocks))
            values = tiny.scorer(vector, fixed=0.5, combine=combine)(archs)
            extremes = tiny.extremes(vector, fixed=0.5, combine=combine)
            assert extremes.minimum == pytest.approx(values.min(), abs=1e-12)
            assert extremes.maximum == pytest.approx(values.max(), abs=1e-12)
            reached = tiny.scorer(vector, fixed=0.5, combine=combine)(np.array([extremes.argmin, extremes.argmax]))
            assert reached == pytest.approx([extremes.minimum, extremes.maximum])


def test_extremes_bound_samples_of_large_spaces(space):
    rng = np.random.default_rng(0)
    vector = rng.normal(size=len(space.blocks))
    values = space.scorer(vector)(space.sample(20_000, rng))
    extremes = space.extremes(vector)
    assert extremes.minimum <= values.min()
    assert extremes.maximum >= values.max()


def test_scorer_equals_a_sum_over_blocks(space):
    archs = space.sample(5000, np.random.default_rng(0))
    vector = space.per_block(lambda b: b.macs)
    expected = [sum(b.macs for b in blocks) for blocks in space.networks(archs[:50])]
    scored = space.scorer(vector, fixed=7)(archs)
    assert np.array_equal(scored[:50], np.array(expected) + 7.0)
    assert np.array_equal(scored[4990:], space.scorer(vector, fixed=7)(archs[4990:]))  # chunks do not matter


def test_fingerprint_tells_spaces_apart(space):
    first = next(c for c in space.choices if len(c.values) > 1)
    choices = [dataclasses.replace(c, values=c.values[:1]) if c is first else c for c in space.choices]
    assert SearchSpace(space.name, choices, space.slots).fingerprint != space.fingerprint
    assert SearchSpace(space.name, space.choices, space.slots).fingerprint == space.fingerprint


@pytest.mark.parametrize(
    ("archs", "message"),
    [
        (np.zeros(3, np.uint8), "have shape"),
        (np.zeros((1, 2), np.uint8), "have shape"),
        (np.full((1, 9), 200, np.uint8), "only"),
        (np.full((1, 9), -1), "0..255"),
        (np.zeros((1, 9)), "integers"),
    ],
)
def test_wrong_architectures_are_refused(tiny, archs, message):
    if archs.ndim == 2 and archs.shape[1] == 9:
        archs = np.resize(archs, (1, tiny.genes)).astype(archs.dtype)
    with pytest.raises(BadInput, match=message):
        tiny.block_ids(archs)


@pytest.mark.parametrize(
    ("config", "message"),
    [({"colour": 1}, "no choice 'colour'"), ({"resolution": 9}, "not one of"), ({"resolution": 8}, "is missing")],
)
def test_wrong_configurations_are_refused(tiny, config, message):
    with pytest.raises(BadInput, match=message):
        tiny.encode([config])


def test_wrong_spaces_are_refused():
    stem = Slot("stem", ("r",), lambda r: Stem(in_ch=1, out_ch=8, size=r))
    again = Slot("again", ("r",), lambda r: Stem(in_ch=3, out_ch=8, size=r))
    with pytest.raises(BadInput, match="gives"):
        SearchSpace("x", [Choice("r", (8,))], [stem, again])
    with pytest.raises(BadInput, match="does not have"):
        SearchSpace("x", [Choice("q", (8,))], [stem])
    with pytest.raises(BadInput, match="earlier choice"):
        SearchSpace("x", [Choice("r", (8,), ("later", (1,))), Choice("later", (1,))], [stem])
    with pytest.raises(BadInput, match="same name"):
        SearchSpace("x", [Choice("r", (8,)), Choice("r", (8,))], [stem])


def test_bad_keys_are_refused():
    for key in ("", "stem", "stem in_ch=x", "nosuch in_ch=1", Stem(in_ch=1, out_ch=8, size=8).key + " extra=1"):
        with pytest.raises(BadInput, match="not a block key"):
            from_key(key)


def test_round_channels_follows_the_paper():
    assert [round_channels(c) for c in (3, 8, 11, 12, 18, 23, 100)] == [8, 8, 16, 16, 24, 24, 104]


def test_texts_are_read_back(space):
    archs = space.sample(50, np.random.default_rng(4))
    assert (space.parse(space.describe(archs)) == archs).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour=red", "'colour=red' does not belong to space mobilenet_v2_digits: there is no such choice"),
        ("resolution=17", "'resolution=17' does not belong to space mobilenet_v2_digits: it takes "),
        ("", "resolution"),
    ],
)
def test_texts_of_something_else_are_refused(text, message):
    with pytest.raises(BadInput, match=message):
        MobileNetV2.digits().parse([text])
