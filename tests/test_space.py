"""Laws of search spaces, over every family."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import search_spaces
from nas.blocks import InvertedResidual, Stem, from_key, round_channels
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


def test_crossover_takes_half_from_either_parent_gene_by_gene(space):
    always = np.array([c.only_if is None for c in space.choices])
    ends = np.zeros((2, 4000, space.genes), np.uint8)
    ends[1, :, always] = (space.sizes[always] - 1)[:, None]
    child = space.crossover(ends[0], ends[1], np.random.default_rng(0))
    open_genes = always & (space.sizes > 1)
    shares = (child == ends[1])[:, open_genes].mean(axis=0)
    assert (abs(shares - 0.5) < 0.05).all()
    together = np.corrcoef(child[:, open_genes].T != 0)
    assert (abs(together - np.eye(open_genes.sum())) < 0.1).all()  # no gene follows another
    with pytest.raises(BadInput, match="as many first as second parents"):
        space.crossover(ends[0], ends[1, :1], np.random.default_rng(0))


@pytest.fixture(scope="module")
def nested() -> SearchSpace:
    """Conditions below conditions, named in an order unlike their depth."""
    return SearchSpace(
        "nested",
        [
            Choice("top", (0, 1, 2)),
            Choice("other", ("a", "b")),
            Choice("middle", (3, 5), ("top", (1, 2))),
            Choice("low", (7, 8, 9), ("middle", (5,))),
            Choice("lowest", (True, False), ("low", (8, 9))),
            Choice("beside", (1.5, 2.5), ("other", ("b",))),
        ],
        (),
    )


def test_below_an_inactive_gene_nothing_is_active(nested):
    def on(name: str, row: np.ndarray) -> bool:
        choice = next(c for c in nested.choices if c.name == name)
        if choice.only_if is None:
            return True
        parent, allowed = choice.only_if
        position = [c.name for c in nested.choices].index(parent)
        return on(parent, row) and nested.choices[position].values[row[position]] in allowed

    archs = every_genotype(nested)
    expected = [[on(c.name, row) for c in nested.choices] for row in archs]
    assert nested.active(archs).tolist() == expected
    assert nested.size == len(np.unique(nested.canonical(archs), axis=0)) == 3 * (1 + 2 * (1 + 1 + 2 * 2))
    assert [len(d) for d in nested.decode(archs)] == np.sum(expected, axis=1).tolist()
    canonical = np.unique(nested.canonical(archs), axis=0)
    assert np.array_equal(nested.encode(nested.decode(canonical)), canonical)
    assert np.array_equal(nested.parse(nested.describe(canonical)), canonical)


def test_samples_and_mutations_are_uniform(nested):
    rng = np.random.default_rng(0)
    archs = nested.sample(20_000, rng)
    for value in range(3):
        assert (archs[:, 0] == value).mean() == pytest.approx(1 / 3, abs=0.02)
        low = archs[nested.active(archs)[:, 3], 3]
        assert (low == value).mean() == pytest.approx(1 / 3, abs=0.04)
    parents = np.tile(nested.encode([{"top": 1, "other": "a", "middle": 5, "low": 7}]), (20_000, 1))
    children = nested.mutate(parents, rng, rate=0.0)
    alone = children[(children[:, 0] == 1) & (children[:, 2] == 1)]  # top and middle as they were
    assert (children[:, 0] != 1).mean() == pytest.approx(1 / 4, abs=0.02)  # of four active genes one changes
    assert {tuple(row) for row in alone[:, [1, 3]]} == {(0, 1), (0, 2), (1, 0)}
    often = nested.mutate(parents, rng, rate=0.75)
    assert (often[:, 1] != 0).mean() == pytest.approx(0.75, abs=0.02)
    assert nested.mutate(parents, rng)[:, 1].mean() == pytest.approx(
        1 / 6 + (5 / 6) ** 4 / 4, abs=0.02
    )  # 1 / genes, or forced where nothing changed


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.sample(-1, np.random.default_rng(0)), "n is a whole number from 0"),
        (lambda s: s.sample(1.5, np.random.default_rng(0)), "n is a whole number"),
        (
            lambda s: s.mutate(np.zeros((1, 6), np.uint8), np.random.default_rng(0), rate=2),
            "rate is a number from 0 to 1",
        ),
        (lambda s: s.mutate(np.zeros((1, 6), np.uint8), np.random.default_rng(0), rate=np.nan), "rate is a number"),
        (lambda s: Choice("x", ()), "1 to 255 values"),
        (lambda s: Choice("x", 5), "values is a tuple, each a whole number"),
        (lambda s: Choice("x", (1, 1)), "different"),
        (lambda s: Choice("x", (None,)), r"values is a tuple, each .*, got \(None,\)"),
        (lambda s: Choice("two words", (1,)), "neither spaces nor '='"),
        (lambda s: Choice("x", ("a=b",)), "neither spaces nor '='"),
        (lambda s: SearchSpace(5, [], []), "name is a text"),
        (lambda s: SearchSpace("x", [Choice("c", (8,))], [Slot("a", ("c",), lambda c: c)]), "a block or None, got 8"),
    ],
)
def test_wrong_numbers_are_refused(nested, call, message):
    with pytest.raises(BadInput, match=message):
        call(nested)


def test_a_gene_has_255_values_at_most():
    assert len(Choice("x", tuple(range(255))).values) == 255
    with pytest.raises(BadInput, match="1 to 255 values"):
        Choice("x", tuple(range(256)))


def test_a_space_says_what_goes_in_and_comes_out(tiny):
    assert (tiny.in_channels, tiny.classes) == (1, 10)
    small, large = (SearchSpace("s", [Choice(f"g{i}", (1, 2, 3)) for i in range(n)], ()) for n in (6, 30))
    assert repr(small) == "<SearchSpace s: 729 networks of 0 different blocks, 6 genes>"
    assert repr(large).startswith("<SearchSpace s: 10^14 networks ")


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


def test_fingerprint_knows_which_genes_make_which_block():
    def space(order):
        widths = dict(zip((1, 2, 3), order, strict=True))
        first = Slot("all", (), lambda: Stem(in_ch=8, out_ch=8, size=8, stride=1))
        middle = Slot("a", ("c",), lambda c: Stem(in_ch=8, out_ch=8, size=8, stride=1, kernel=widths[c]))
        return SearchSpace("x", [Choice("c", (1, 2, 3))], [first, middle])

    one, other = space((3, 5, 5)), space((3, 3, 5))
    assert one.blocks == other.blocks
    assert one.fingerprint != other.fingerprint


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


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mobilenet_v3.nosuch", {}, "there is no search space 'mobilenet_v3.nosuch'; there are efficientnet.digits, "),
        ("", {}, "there is no search space ''"),
        (None, {}, "there is no search space None"),
        ("nasbench201.cell", {"classes": 3}, "nasbench201.cell has no setting 'classes'; it has none"),
        ("mobilenet_v3.cifar", {"colour": 3}, "has no setting 'colour'; it has classes, in_channels"),
        ("mobilenet_v3.cifar", {"classes": 0}, "classes is a whole number from 1 to 1,000,000, got 0"),
        ("fbnet.cifar100", {"resolution": 10**6}, "resolution is a whole number"),
        ("ofa.mobilenet_v3", {"width": float("nan")}, "width is a number above 0"),
        ("ofa.mobilenet_v3", {"resolutions": 3}, "resolutions is a tuple, each a whole number, got 3"),
        ("ofa.mobilenet_v3", {"resolutions": (0,)}, "size of a stem is a whole number"),
    ],
)
def test_wrong_names_and_settings_are_refused(name, settings, message):
    with pytest.raises(BadInput, match=message):
        search_spaces.named(name, **settings)


@pytest.mark.parametrize(
    ("begin", "annotation"),
    [
        ("from nas.space import SearchSpace", "SearchSpace"),
        ("from __future__ import annotations\nfrom nas.space import SearchSpace", "SearchSpace"),
        ("import nas", "'nas.SearchSpace'"),
    ],
)
def test_a_new_file_is_a_space_however_its_annotation_is_written(begin, annotation, tmp_path, monkeypatch):
    (tmp_path / "extra.py").write_text(
        f"{begin}\nfrom nas.space import Choice, SearchSpace as Made\n\nclass Extra:\n    @staticmethod\n"
        f"    def one(*, gene: str = 'g') -> {annotation}:\n        return Made('extra_one', [Choice(gene, (1, 2))], [])\n\n"
        "    @staticmethod\n    def helper() -> int:\n        return 1\n"
    )
    monkeypatch.setattr(search_spaces, "__path__", [*search_spaces.__path__, str(tmp_path)])
    monkeypatch.setattr(search_spaces, "_constructors", search_spaces._constructors.__wrapped__)
    monkeypatch.delitem(sys.modules, "search_spaces.extra", raising=False)
    assert [name for name in search_spaces.names() if name.startswith("extra.")] == ["extra.one"]
    assert search_spaces.named("extra.one", gene="h").choices[0].name == "h"
    del sys.modules["search_spaces.extra"]


def test_names_lead_to_spaces_and_tables_back_to_them():
    assert search_spaces.named("mobilenet_v3.cifar", classes=None).name == "mobilenet_v3_cifar"
    assert search_spaces.named("mobilenet_v3.cifar", classes=3).classes == 3
    assert {"ofa.proxyless_nas", "fbnet.cifar100", "nasbench201.cell"} < set(search_spaces.names())
    tables = [
        p for p in (Path(__file__).parents[1] / "latency_tables").glob("*.json") if p.with_suffix(".csv").exists()
    ]
    seen = set()
    for path in tables:
        header = json.loads(path.read_text())
        record = header["space"]
        text = repr(record)
        if "fingerprint" not in record or text in seen:
            continue
        seen.add(text)
        blocks = [from_key(row.split(",")[0]) for row in path.with_suffix(".csv").read_text().splitlines()[1:]]
        space = search_spaces.of_table(record, blocks)
        assert (space.name, space.fingerprint) == (record["name"], record["fingerprint"])
        with pytest.raises(BadInput, match="another space now"):
            search_spaces.of_table(record | {"fingerprint": "0"}, blocks)
        with pytest.raises(BadInput, match="there is no search space 'nosuch'"):
            search_spaces.of_table({"name": "nosuch"}, blocks)
        with pytest.raises(BadInput, match="not of a whole space"):
            search_spaces.of_table(record, blocks[:1])
    assert len(seen) >= 9


def test_bad_keys_are_refused():
    stem = Stem(in_ch=1, out_ch=8, size=8).key
    wrong = ("", "stem", "stem in_ch=x", "nosuch in_ch=1", f"{stem} extra=1", f" {stem}", stem.replace("=8", "=08"))
    wide = InvertedResidual(in_ch=8, out_ch=8, mid=8, size=8).key
    other = (
        "stem out_ch=8 in_ch=1" + stem.removeprefix("stem in_ch=1 out_ch=8"),
        f"{wide} groups=1",
        f"{wide[:-1]}false",
    )
    for key in (*wrong, *other, stem.replace("in_ch=1", "in_ch=0"), stem.replace("relu", "rleu"), None, 5):
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
