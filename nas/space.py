"""Search spaces: choices, slots, and the vocabulary of blocks they expand to (NumPy only).

An architecture is a row of choice indices; a batch of them, ``archs (n, genes) uint8``, is what every public
method takes and returns. Each ``Slot`` maps a few genes to a block. The space expands all slots once; from then on
a network is a row of block ids, and everything additive over blocks is a gather and a sum.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas.blocks import Block, chain_error
from nas.checks import CountOrNone, Finite, Probability, checked, shown
from nas.errors import BadInput

Archs = NDArray[np.uint8]
Floats = NDArray[np.float64]
Value = int | float | str | bool

_CHUNK = 4096  # architectures scored at a time: index and value buffers stay in the second-level cache
_MAX_COMBINATIONS = 1 << 22  # per slot; indices must stay exact in float32


@checked
@dataclass(frozen=True)
class Choice:
    """The alternatives of one gene.

    ``only_if``: ``(name of another choice, its values)``; with any other value there, or while that choice is
    itself inactive, this gene has no effect. The other choice must come earlier in the space. Raises BadInput for values
    that no gene can have.
    """

    name: str
    values: tuple[Value, ...]
    only_if: tuple[str, tuple[Value, ...]] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.values, tuple | list) or not 1 <= len(self.values) <= 255:
            raise BadInput(f"choice {self.name} takes a tuple of 1 to 255 values, got {shown(self.values)}")
        for text in (self.name, *(v for v in self.values if isinstance(v, str))):
            if not isinstance(text, str) or not re.fullmatch(r"[^\s=]+", text):
                raise BadInput(f"names and texts of choices have neither spaces nor '=', got {shown(text)}")
        if any(not isinstance(v, Value) for v in self.values) or len(set(self.values)) != len(self.values):
            raise BadInput(
                f"choice {self.name} takes different numbers, texts or truth values, got {shown(self.values)}"
            )


@checked
@dataclass(frozen=True)
class Slot:
    """One position in the network.

    ``block`` is called with the values of ``genes`` (in that order) and returns the block there, or None when the
    position is empty. It must be a pure function of those values.
    """

    name: str
    genes: tuple[str, ...]
    block: Callable[..., Block | None]


@dataclass(frozen=True, eq=False)
class _Expanded:
    """``Slot.block`` as what it returned: ``ids`` into ``blocks`` (from 1, 0 for None) over all combinations of values."""

    values: tuple[tuple[Value, ...], ...]
    ids: NDArray[np.int32]
    blocks: tuple[Block, ...]

    def __call__(self, *values: Value) -> Block | None:
        index = [options.index(value) for options, value in zip(self.values, values, strict=True)]
        block = int(self.ids.reshape([len(options) for options in self.values])[tuple(index)])
        return self.blocks[block - 1] if block else None


@dataclass(frozen=True)
class Extremes:
    """The exact reachable range of a quantity, with an architecture ``(genes,)`` at either end."""

    minimum: float
    maximum: float
    argmin: Archs
    argmax: Archs


@checked
class SearchSpace:
    """An immutable space of networks: ``choices`` and ``slots`` in network order.

    Without slots it is a space that only tables can score. ``features``: ``archs (n, genes) -> (n, f)``, numbers that
    say more about a network than its genes do one by one (which operations lie on a live path, say); predictors look at
    them. ``members``: networks with a name, such as published ones, as configurations for ``encode``; they do not change
    the fingerprint. Raises BadInput when a slot names an unknown choice, an ``only_if`` cannot be resolved, the blocks of
    a sampled network do not follow one another, or a member is no network of the space.
    """

    def __init__(
        self,
        name: str,
        choices: Sequence[Choice],
        slots: Sequence[Slot],
        *,
        features: Callable[[Archs], Floats] | None = None,
        members: Mapping[str, Mapping[str, Value]] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self.features = features
        self.choices = tuple(choices)
        self.slots = tuple(slots)
        self._position = {c.name: i for i, c in enumerate(self.choices)}
        self._check_choices()
        self.sizes: NDArray[np.int64] = np.array([len(c.values) for c in self.choices])
        self._conditions = tuple(self._condition(c) for c in self.choices)
        self._genes = tuple(tuple(self._position[name] for name in slot.genes) for slot in self.slots)
        self.blocks, self._slot_ids = self._expand()
        self._radix = self._mixed_radix()
        self._check_chain()
        self.members = {name: self._member(name, config) for name, config in members.items()}
        """Networks that have a name, each as an architecture ``(genes,)``."""

    def __repr__(self) -> str:
        networks = f"{self.size:,}" if self.size < 10**9 else f"10^{len(str(self.size)) - 1}"
        return f"<SearchSpace {self.name}: {networks} networks of {len(self.blocks):,} different blocks, {self.genes} genes>"

    def _repr_html_(self) -> str:
        import pandas as pd

        from nas.notebook import html_table

        genes = [(c.name, ", ".join(map(str, c.values)), c.only_if or "") for c in self.choices]
        return html_table(self, pd.DataFrame(genes, columns=["gene", "alternatives", "only where"]))

    def __getstate__(self) -> dict[str, Any]:
        # the slots' functions are often closures, which cannot be pickled; what they returned can
        values = [tuple(self.choices[g].values for g in genes) for genes in self._genes]
        expanded = map(_Expanded, values, self._slot_ids, itertools.repeat(self.blocks))
        slots = tuple(Slot(s.name, s.genes, block) for s, block in zip(self.slots, expanded, strict=True))
        return self.__dict__ | {"slots": slots}

    # ---- what the space is -----------------------------------------------------------------------------------

    @property
    def genes(self) -> int:
        """How many choices an architecture makes: the length of its row."""
        return len(self.choices)

    @cached_property
    def size(self) -> int:
        """Number of distinct networks (exact)."""
        counts = [[1] * int(n) for n in self.sizes]  # by value of a gene: the choices that hang on it
        size = 1
        for gene, condition in reversed(list(enumerate(self._conditions))):
            own = sum(counts[gene])
            if condition is None:
                size *= own
            else:
                parent, allowed = condition
                counts[parent] = [n * own if on else n for n, on in zip(counts[parent], allowed, strict=True)]
        return size

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change whenever any network of the space does."""
        choices = [(c.name, list(c.values), c.only_if) for c in self.choices]
        digest = hashlib.sha256(json.dumps([self.name, choices, [b.key for b in self.blocks]]).encode())
        for ids in self._slot_ids:
            digest.update(ids.tobytes())
        return digest.hexdigest()[:16]

    @property
    def in_channels(self) -> int:
        """Channels of the images that its networks take."""
        self._check_slots()
        return self.slot_options(0)[0].in_ch

    @property
    def classes(self) -> int:
        """Logits that its networks give."""
        self._check_slots()
        return self.slot_options(len(self.slots) - 1)[0].out_ch

    @checked
    def slot_options(self, slot: CountOrNone) -> tuple[Block, ...]:
        """The distinct blocks that this slot can hold. Raises BadInput when there is none of that number."""
        if slot >= len(self.slots):
            raise BadInput(f"{self.name} has {len(self.slots)} slots, counted from 0, got {slot}")
        return tuple(self.blocks[i - 1] for i in np.unique(self._slot_ids[slot]) if i)

    @checked
    def member(self, *names: str) -> Archs:
        """The architectures ``(n, genes)`` of these names. Raises BadInput that lists the members for any other."""
        if unknown := [name for name in names if name not in self.members]:
            known = ", ".join(self.members) or "none"
            raise BadInput(f"{self.name} has no member {shown(unknown[0])}; its members: {known}")
        return np.array([self.members[name] for name in names], dtype=np.uint8).reshape(len(names), self.genes)

    # ---- batches of architectures ----------------------------------------------------------------------------

    def check(self, archs: ArrayLike) -> Archs:
        """``archs`` as a ``(n, genes) uint8`` array. Raises BadInput on a wrong shape or a value out of range."""
        given = np.asarray(archs)
        if given.ndim != 2 or given.shape[1] != self.genes:
            raise BadInput(
                f"architectures of {self.name} have shape (n, {self.genes}), got {given.shape}; "
                "a single architecture is arch[None]"
            )
        if given.dtype != np.uint8:
            if given.dtype.kind not in "iu":
                raise BadInput(f"architectures are integers (indices into the choices), got dtype {given.dtype}")
            if (given < 0).any() or (given > 255).any():
                raise BadInput(f"choice indices lie in 0..255, got {given.min()}..{given.max()}")
            given = given.astype(np.uint8)
        wrong = given >= self.sizes.astype(np.uint16)
        if wrong.any():
            row, gene = np.argwhere(wrong)[0]
            raise BadInput(
                f"architecture {row}: {self.choices[gene].name} has index {given[row, gene]}, "
                f"but only {self.sizes[gene]} values"
            )
        return given

    @checked
    def sample(self, n: CountOrNone, rng: np.random.Generator) -> Archs:
        """``n`` random architectures, every gene uniform, in canonical form (duplicates are possible)."""
        return self.canonical(rng.integers(0, self.sizes, size=(n, self.genes)).astype(np.uint8))

    @checked
    def active(self, archs: Archs) -> NDArray[np.bool_]:
        """Which genes have an effect, ``(n, genes)``."""
        active = np.ones(archs.shape, dtype=bool)
        for genes, parents, allowed in self._levels:
            active[:, genes] = active[:, parents] & allowed[np.arange(len(genes)), archs[:, parents]]
        return active

    @checked
    def canonical(self, archs: Archs) -> Archs:
        """Inactive genes set to 0: two architectures are the same network exactly when these rows are equal."""
        if not self._levels:
            return archs.astype(np.uint8)
        return np.where(self.active(archs), archs, 0).astype(np.uint8)

    @checked
    def mutate(self, archs: Archs, rng: np.random.Generator, rate: Probability | None = None) -> Archs:
        """Each active gene changes to another of its values with probability ``rate`` (default: 1/genes).

        At least one active gene with more than one value changes in every row. Returns canonical architectures.
        """
        archs = self.canonical(archs)
        free = self.active(archs) & (self.sizes > 1)
        rate = 1.0 / self.genes if rate is None else rate
        changed = free & (rng.random(archs.shape) < rate)
        forced = np.where(free, rng.random(archs.shape), -1.0).argmax(axis=1)
        untouched = np.flatnonzero(~changed.any(axis=1) & free.any(axis=1))
        changed[untouched, forced[untouched]] = True
        step = rng.integers(1, np.maximum(self.sizes, 2), size=archs.shape)
        return self.canonical(np.where(changed, (archs + step) % self.sizes, archs).astype(np.uint8))

    @checked
    def crossover(self, first: Archs, second: Archs, rng: np.random.Generator) -> Archs:
        """Uniform crossover of two batches of parents, row by row. Returns canonical architectures.

        Raises BadInput for batches of two shapes.
        """
        if first.shape != second.shape:
            raise BadInput(f"crossover takes as many first as second parents, got {first.shape} and {second.shape}")
        differs = (first ^ second) * (rng.random(first.shape) < 0.5)
        return self.canonical(second ^ differs)

    def decode(self, archs: ArrayLike) -> list[dict[str, Value]]:
        """The value of every active choice, one dict per architecture."""
        archs = self.check(archs)
        active = self.active(archs)
        return [
            {c.name: c.values[row[g]] for g, c in enumerate(self.choices) if on[g]}
            for row, on in zip(archs, active, strict=True)
        ]

    @checked
    def encode(self, configs: Iterable[Mapping[str, Any]]) -> Archs:
        """The inverse of ``decode``; inactive choices may be left out.

        Raises BadInput for an unknown choice, a value that is not among the alternatives, or a missing choice.
        """
        rows = [self._encode(config) for config in configs]
        return self.canonical(np.array(rows, dtype=np.uint8).reshape(len(rows), self.genes))

    def describe(self, archs: ArrayLike) -> list[str]:
        """One line of text per architecture."""
        return [" ".join(f"{k}={v}" for k, v in config.items()) for config in self.decode(archs)]

    @checked
    def parse(self, texts: Iterable[str]) -> Archs:
        """The inverse of ``describe``. Raises BadInput for what is not a network of this space."""
        values = {c.name: {str(v): v for v in c.values} for c in self.choices}
        configs = []
        for text in texts:
            config = {}
            for pair in text.split():
                name, _, value = pair.partition("=")
                if value not in values.get(name, {}):
                    wanted = f"it takes {', '.join(values[name])}" if name in values else "there is no such choice"
                    raise BadInput(f"{pair!r} does not belong to space {self.name}: {wanted}")
                config[name] = values[name][value]
            configs.append(config)
        return self.encode(configs)

    # ---- networks as block ids, and what is additive over them -----------------------------------------------

    def block_ids(self, archs: ArrayLike) -> NDArray[np.int32]:
        """``(n, slots)``: position in ``blocks`` plus one, or 0 where a slot is empty."""
        archs = self.check(archs)
        out = np.empty((len(archs), len(self.slots)), dtype=np.int32)
        for slot, index in enumerate(self._indices(archs)):
            out[:, slot] = self._slot_ids[slot][index]
        return out

    def networks(self, archs: ArrayLike) -> list[tuple[Block, ...]]:
        """The blocks of each architecture's network, in order."""
        return [tuple(self.blocks[i - 1] for i in row if i) for row in self.block_ids(archs)]

    @checked
    def scorer(
        self, per_block: ArrayLike, *, fixed: Finite = 0.0, combine: np.ufunc = np.add
    ) -> Callable[[ArrayLike], Floats]:
        """A function ``archs (n, genes) -> (n,)`` that adds up ``per_block`` (blocks,) over each network.

        ``fixed`` is added once. ``combine=np.maximum`` takes the largest value instead of the sum.
        """
        tables = self._slot_values(per_block)

        def score(archs: ArrayLike) -> Floats:
            checked = self.check(archs)
            out = np.full(len(checked), float(fixed))
            partial = np.empty(_CHUNK)
            total = np.empty(_CHUNK)
            for start in range(0, len(checked), _CHUNK):
                chunk = checked[start : start + _CHUNK]
                n = len(chunk)
                indices = self._indices(chunk)
                tables[0].take(indices[0], out=total[:n], mode="clip")
                for table, index in zip(tables[1:], indices[1:], strict=True):
                    table.take(index, out=partial[:n], mode="clip")
                    combine(total[:n], partial[:n], out=total[:n])
                out[start : start + n] += total[:n]
            return out

        return score

    @checked
    def extremes(self, per_block: ArrayLike, *, fixed: Finite = 0.0, combine: np.ufunc = np.add) -> Extremes:
        """The exact smallest and largest value of ``scorer(per_block)`` over the whole space.

        Dynamic programming over slots (variable elimination): no sampling, a few milliseconds.
        """
        tables = [
            (genes, values.reshape([self.sizes[g] for g in genes]))
            for genes, values in zip(self._genes, self._slot_values(per_block), strict=True)
        ]
        low = self.canonical(self._eliminate(tables, combine, np.argmin)[None])
        high = self.canonical(self._eliminate(tables, combine, np.argmax)[None])
        score = self.scorer(per_block, fixed=fixed, combine=combine)
        return Extremes(float(score(low)[0]), float(score(high)[0]), low[0], high[0])

    @checked
    def slot_sums(self, per_block: Floats) -> list[tuple[tuple[int, ...], dict[tuple[int, ...], Floats]]]:
        """Per slot its genes, and for every combination of their values what the block there adds, ``(1, k)``.

        ``per_block (k, blocks)``: k quantities.
        """
        columns = [self._slot_values(vector) for vector in per_block]
        result = []
        for slot, genes in enumerate(self._genes):
            values = np.column_stack([column[slot] for column in columns])
            keys = itertools.product(*(range(self.sizes[g]) for g in genes))
            result.append((genes, {key: values[i : i + 1] for i, key in enumerate(keys)}))
        return result

    @checked
    def per_block(self, quantity: Callable[[Block], float]) -> Floats:
        """``quantity`` of every block of the vocabulary, ``(blocks,)``."""
        return np.array([quantity(block) for block in self.blocks], dtype=np.float64)

    # ---- private ---------------------------------------------------------------------------------------------

    def _indices(self, archs: Archs) -> NDArray[np.intp]:
        # one small matrix product turns all genes into all slots' table indices: (slots, n), exact in float32
        return np.matmul(self._radix, archs.T.astype(np.float32)).astype(np.intp)

    def _slot_values(self, per_block: ArrayLike) -> list[Floats]:
        self._check_slots()
        vector = np.asarray(per_block, dtype=np.float64)
        if vector.shape != (len(self.blocks),):
            raise BadInput(f"{self.name} has {len(self.blocks)} blocks, got values of shape {vector.shape}")
        padded = np.concatenate([[0.0], vector])
        return [padded[ids] for ids in self._slot_ids]

    def _eliminate(
        self, tables: list[tuple[tuple[int, ...], Floats]], combine: np.ufunc, pick: Callable[..., Any]
    ) -> Archs:
        factors = list(tables)
        steps: list[tuple[int, tuple[int, ...], NDArray[np.intp]]] = []
        remaining = {g for genes, _ in factors for g in genes}
        while remaining:
            # cheapest gene first: the one whose removal leaves the smallest joint table
            def cost(gene: int) -> float:
                scope = {g for genes, _ in factors if gene in genes for g in genes}  # noqa: B023
                return float(np.prod(self.sizes[list(scope)].astype(float)))

            gene = min(sorted(remaining), key=cost)
            touching = [f for f in factors if gene in f[0]]
            scope = (*sorted({g for genes, _ in touching for g in genes} - {gene}), gene)
            joint = functools.reduce(combine, [_spread(table, genes, scope) for genes, table in touching])
            joint = np.broadcast_to(joint, [self.sizes[g] for g in scope])
            best = pick(joint, axis=-1)
            factors = [f for f in factors if gene not in f[0]]
            factors.append((scope[:-1], np.take_along_axis(joint, best[..., None], axis=-1)[..., 0]))
            steps.append((gene, scope[:-1], best))
            remaining.discard(gene)
        arch = np.zeros(self.genes, dtype=np.uint8)
        for gene, others, best in reversed(steps):
            arch[gene] = best[tuple(arch[list(others)])] if others else best
        return arch

    def _expand(self) -> tuple[tuple[Block, ...], list[NDArray[np.int32]]]:
        ids: dict[Block, int] = {}
        slot_ids = []
        for slot, genes in zip(self.slots, self._genes, strict=True):
            values = [self.choices[g].values for g in genes]
            combinations = int(np.prod([len(v) for v in values]))
            if combinations > _MAX_COMBINATIONS:
                raise BadInput(
                    f"slot {slot.name} depends on {combinations:,} combinations of genes, the limit is {_MAX_COMBINATIONS:,}"
                )
            table = np.zeros(combinations, dtype=np.int32)
            for i, combination in enumerate(itertools.product(*values)):
                block = slot.block(*combination)
                if not isinstance(block, Block | None):
                    raise BadInput(f"slot {slot.name} is filled by a block or None, got {shown(block)}")
                if block is not None:
                    table[i] = ids.setdefault(block, len(ids) + 1)
            slot_ids.append(table)
        return tuple(ids), slot_ids

    def _mixed_radix(self) -> NDArray[np.float32]:
        radix = np.zeros((len(self.slots), self.genes), dtype=np.float32)
        for slot, genes in enumerate(self._genes):
            stride = 1
            for gene in reversed(genes):
                radix[slot, gene] = stride
                stride *= int(self.sizes[gene])
        return radix

    def _encode(self, config: Mapping[str, Any]) -> list[int]:
        unknown = [name for name in config if name not in self._position]
        if unknown:
            raise BadInput(f"{self.name} has no choice {unknown[0]!r}; its choices are {', '.join(self._position)}")
        row: list[int] = []
        active: list[bool] = []
        for choice, condition in zip(self.choices, self._conditions, strict=True):
            on = condition is None or bool(active[condition[0]] and condition[1][row[condition[0]]])
            active.append(on)
            if not on:
                row.append(0)
            elif choice.name not in config:
                raise BadInput(f"{choice.name} is missing; it takes one of {list(choice.values)}")
            elif config[choice.name] not in choice.values:
                raise BadInput(f"{choice.name} = {config[choice.name]!r} is not one of {list(choice.values)}")
            else:
                row.append(choice.values.index(config[choice.name]))
        return row

    @cached_property
    def _levels(self) -> list[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]]:
        """Conditional genes, their parents, and the parents' values that allow them; parents' levels come first."""
        depth = np.zeros(self.genes, dtype=int)
        for gene, condition in enumerate(self._conditions):
            if condition:
                depth[gene] = depth[condition[0]] + 1
        levels = []
        for level in range(1, depth.max(initial=0) + 1):
            genes = np.flatnonzero(depth == level)
            conditions = [c for g in genes if (c := self._conditions[g])]
            allowed = np.zeros((len(genes), int(self.sizes.max())), dtype=bool)
            for row, (_, values) in zip(allowed, conditions, strict=True):
                row[: len(values)] = values
            levels.append((genes, np.array([parent for parent, _ in conditions]), allowed))
        return levels

    def _condition(self, choice: Choice) -> tuple[int, NDArray[np.bool_]] | None:
        if choice.only_if is None:
            return None
        parent = self._position[choice.only_if[0]]
        return parent, np.array([v in choice.only_if[1] for v in self.choices[parent].values])

    def _check_choices(self) -> None:
        if len(self._position) != len(self.choices):
            raise BadInput(f"{self.name}: two choices have the same name")
        for slot in self.slots:
            if unknown := [name for name in slot.genes if name not in self._position]:
                raise BadInput(f"slot {slot.name} names the choice {unknown[0]!r}, which {self.name} does not have")
        for i, choice in enumerate(self.choices):
            if choice.only_if and self._position.get(choice.only_if[0], i) >= i:
                raise BadInput(
                    f"choice {choice.name} depends on {choice.only_if[0]!r}, which must be an earlier choice"
                )

    def _member(self, name: str, config: Mapping[str, Value]) -> Archs:
        try:
            return self.encode([config])[0]
        except BadInput as error:
            raise BadInput(f"{self.name}: member {shown(name)}: {error}") from None

    def _check_slots(self) -> None:
        if not self.slots:
            raise BadInput(f"{self.name} has no blocks: only a table of its architectures can score it")

    def _check_chain(self) -> None:
        for blocks in self.networks(self.sample(64, np.random.default_rng(0))):
            if error := chain_error(blocks):
                raise BadInput(f"{self.name}: {error}")


def keys(archs: Archs) -> list[bytes]:
    """A hashable form of every row of ``archs (n, genes)``."""
    rows: list[bytes] = np.ascontiguousarray(archs, dtype=np.uint8).view(f"V{archs.shape[1]}")[:, 0].tolist()
    return rows


def is_ordered(choice: Choice) -> bool:
    """Whether the alternatives are three or more numbers in increasing or decreasing order."""
    if len(choice.values) < 3 or not all(isinstance(v, int | float) for v in choice.values):
        return False
    rising = [a < b for a, b in pairwise(choice.values)]  # type: ignore[operator]
    return all(rising) or not any(rising)


def _spread(table: Floats, genes: tuple[int, ...], scope: tuple[int, ...]) -> Floats:
    """``table`` with its axes moved into the order of ``scope``, length 1 where a gene is absent."""
    order = sorted(range(len(genes)), key=lambda i: scope.index(genes[i]))
    moved = table.transpose(order)
    present = set(genes)
    shape = iter(moved.shape)
    return moved.reshape([next(shape) if g in present else 1 for g in scope])
