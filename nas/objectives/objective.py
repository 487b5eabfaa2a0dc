"""Objectives and constraints, in the user's direction and units; the search turns them into costs once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from statistics import NormalDist
from typing import Annotated, Protocol

import numpy as np
from msgspec import Meta
from numpy.typing import ArrayLike

from nas.blocks import Block
from nas.checks import Finite, checked, shown
from nas.errors import BadInput, Infeasible
from nas.space import Archs, Extremes, Floats, SearchSpace

BytesEach = Annotated[int, Meta(ge=1, le=16)]


@dataclass(frozen=True, kw_only=True)
class ObjectiveRecord:
    """What files and pages know of an objective: all but its functions.

    ``cheap`` ones are evaluated in batches and at will; the others one candidate at a time, and count as evaluations.
    ``identity``: a text that changes whenever what is computed does; a ledger is only reused under the same one.
    ``within``: the values that can be; others are failures.
    """

    name: str
    unit: str = ""
    maximize: bool = False
    cheap: bool = True
    identity: str = ""
    within: tuple[float, float] | None = None

    @checked
    def cost(self, values: Floats) -> Floats:
        """``values (n,)``, or of any shape, in the direction in which smaller is better; its own inverse.

        The sign of an objective is flipped here and nowhere else.
        """
        return -values if self.maximize else values


@checked
@dataclass(frozen=True, kw_only=True, repr=False)
class Objective(ObjectiveRecord):
    """A quantity of architectures that a search minimises, or maximises. ``fn``: ``archs (n, genes) -> (n,)`` in ``unit``.

    ``extremes``: the exact reachable range where it is known. ``per_block``: of an additive quantity, what each block of
    the space adds. ``parts``: additive quantities that this one rises with. The other fields as of ``ObjectiveRecord``.
    ``objective <= 5.0`` makes a Constraint.
    """

    fn: Callable[[Archs], ArrayLike] = field(repr=False)
    extremes: Extremes | None = field(default=None, compare=False)  # arrays: no hash, no plain equality
    per_block: Floats | None = field(default=None, repr=False, compare=False)
    parts: tuple[Objective, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or not callable(self.fn):
            raise BadInput(f"an objective has a name and a function of architectures, got {self.name!r}, {self.fn!r}")

    def __repr__(self) -> str:
        details = ["maximized" if self.maximize else "minimized", "cheap" if self.cheap else "expensive"]
        if self.extremes is not None:
            details.append(f"{self.extremes.minimum:.6g} to {self.extremes.maximum:.6g}")
        return f"Objective({self.name}{f' in {self.unit}' if self.unit else ''}, {', '.join(details)})"

    @staticmethod
    def of(given: Objective | Callable[[Archs], ArrayLike]) -> Objective:
        """A plain function ``archs (n, genes) -> (n,)`` as an expensive objective to be minimised, under its own name.

        For one to be maximised, or a cheap one, write ``Objective(name=..., fn=..., maximize=True, cheap=True)``; for one
        that wants networks ``nas.of_networks``. Raises BadInput for what is no function.
        """
        if isinstance(given, Objective):
            return given
        if not callable(given) or isinstance(given, type):
            raise BadInput(
                f"objectives are written like nas.macs(space), or are functions of archs, got {shown(given)}"
            )
        name = getattr(given, "__name__", type(given).__name__).strip("<>")  # of a lambda
        where = f"{getattr(given, '__module__', '')}.{getattr(given, '__qualname__', name)}"
        return Objective(name=name, fn=given, cheap=False, identity=f"function {where}")

    def __call__(self, archs: Archs) -> Floats:
        """``(n,)``. Raises BadInput when ``fn`` returns another shape."""
        return values_of(self.name, self.fn(archs), len(archs))

    @property
    def record(self) -> ObjectiveRecord:
        """What is stored of it."""
        return ObjectiveRecord(**{f.name: getattr(self, f.name) for f in fields(ObjectiveRecord)})

    def __le__(self, bound: float) -> Constraint:
        return Constraint(objective=self, sense="<=", bound=float(bound))

    def __ge__(self, bound: float) -> Constraint:
        return Constraint(objective=self, sense=">=", bound=float(bound))


@checked
@dataclass(frozen=True, kw_only=True)
class Constraint:
    """``objective sense bound``, where ``sense`` is "<=" or ">="; write it as ``nas.latency(space, table) <= 5.0``."""

    objective: Objective
    sense: str
    bound: Finite

    def __post_init__(self) -> None:
        if self.sense not in ("<=", ">=") or not np.isfinite(self.bound):
            raise BadInput(
                f"a constraint on {self.objective.name} is <= or >= a finite number, got {self.sense} {self.bound}"
            )

    def __str__(self) -> str:
        return f"{self.objective.name} {self.sense} {self.bound:g}{_unit(self.objective)}"

    def __bool__(self) -> bool:
        # Python reads 1 <= x <= 2 as (1 <= x) and (x <= 2), which would silently drop the first bound
        raise BadInput(f"{self} is a constraint, not true or false; write two bounds as two constraints")

    @checked
    def violation(self, values: Floats) -> Floats:
        """How far ``values (n,)`` miss the bound, relative to it where it is not 0; 0 where they meet it, NaN for NaN."""
        excess = values - self.bound if self.sense == "<=" else self.bound - values
        return np.maximum(excess, 0) / (abs(self.bound) or 1.0)

    @property
    def best(self) -> Archs | None:
        """The architecture ``(genes,)`` that meets it best, where the objective's extremes are known."""
        extremes = self.objective.extremes
        if extremes is None:
            return None
        return extremes.argmin if self.sense == "<=" else extremes.argmax

    def check_reachable(self) -> None:
        """Raises Infeasible, with the nearest reachable value, when it is known that nothing meets the constraint."""
        extremes = self.objective.extremes
        if extremes is None:
            return
        nearest = extremes.minimum if self.sense == "<=" else extremes.maximum
        if self.violation(np.array([nearest]))[0] > 0:
            raise Infeasible(
                f"no architecture meets {self}; the nearest value that can be met is {nearest:.6g}{_unit(self.objective)} "
                f"(the space reaches {extremes.minimum:.6g} to {extremes.maximum:.6g})"
            )


class Table(Protocol):
    """What is needed of a latency table: ms of blocks, their deviation, and for ``energy`` their mJ, ``(n,)`` each."""

    @property
    def fixed_ms(self) -> float: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def validation(self) -> object: ...

    @property
    def relative_error(self) -> float: ...

    def lookup(self, blocks: Sequence[Block]) -> Floats: ...

    def spread(self, blocks: Sequence[Block]) -> Floats: ...

    def lookup_energy(self, blocks: Sequence[Block]) -> Floats: ...


def values_of(name: str, returned: ArrayLike, n: int) -> Floats:
    """What an objective returned for ``n`` architectures as ``(n,)`` floats. Raises BadInput when it is something else."""
    try:
        values = np.asarray(returned, dtype=np.float64)
        got = f"shape {values.shape}"
    except (TypeError, ValueError):
        values, got = np.empty((0, 0)), type(returned).__name__
    if values.shape != (n,):
        raise BadInput(f"objective {name} returned {got}, expected ({n},): one number per architecture")
    return values


def additive(
    space: SearchSpace,
    name: str,
    per_block: ArrayLike,
    *,
    unit: str = "",
    fixed: float = 0.0,
    combine: np.ufunc = np.add,
    identity: str = "",
) -> Objective:
    """The sum (or with ``combine=np.maximum`` the largest) of ``per_block (blocks,)`` over a network, plus ``fixed``.

    Raises BadInput when ``per_block`` does not have one finite value per block of the space.
    """
    vector = np.asarray(per_block, dtype=np.float64)
    if not np.isfinite(vector).all():
        first = space.blocks[int(np.flatnonzero(~np.isfinite(vector))[0])].key if vector.ndim == 1 else vector.shape
        raise BadInput(f"{name} needs a finite value for every block, {first} has none")
    # the space's fingerprint covers the blocks, not their values
    digest = hashlib.sha256(vector.tobytes() + repr((float(fixed), combine.__name__)).encode()).hexdigest()[:16]
    return Objective(
        name=name,
        fn=space.scorer(per_block, fixed=fixed, combine=combine),
        unit=unit,
        extremes=space.extremes(per_block, fixed=fixed, combine=combine),
        identity=identity or f"{name} {space.fingerprint} {digest}",
        per_block=vector if combine is np.add else None,
    )


@checked
def latency(
    space: SearchSpace,
    table: Table,
    *,
    name: str = "latency_ms",
    confidence: Annotated[float, Meta(ge=0.5, lt=1)] | None = None,
    unvalidated: bool = False,
) -> Objective:
    """Latency in ms, predicted as the sum of a table's blocks: ``nas.LatencyTable.load`` or ``nas.measure`` gives one.

    Raises MissingBlocks when the table does not cover the space; BadInput when nobody has measured the table's error on
    whole networks, unless ``unvalidated``.

    ``confidence``: instead of the expected latency the one that is not exceeded with this probability, so that
    ``latency(space, table, confidence=0.95) <= T`` is the chance constraint P(latency <= T) >= 0.95. The spread is the
    table's own: that of its blocks' timings, and its error on whole networks (both taken as normal).
    """
    if table.validation is None and not unvalidated:
        raise BadInput(
            f"nothing is known of the error of table {getattr(table, 'name', '')} on whole networks; time some (nas measure, "
            "nas fit), or accept it as it is with unvalidated=True (--unvalidated-table)"
        )
    expected = additive(
        space, name, table.lookup(space.blocks), unit="ms", fixed=table.fixed_ms, identity=f"table {table.fingerprint}"
    )
    if confidence is None:
        return expected
    deviations = NormalDist().inv_cdf(confidence)
    variance = additive(space, f"{name}_variance", table.spread(space.blocks) ** 2, unit="ms^2")
    relative = table.relative_error

    def bounded(archs: Archs) -> Floats:
        mean = expected(archs)
        return mean + deviations * np.sqrt(variance(archs) + (relative * mean) ** 2)

    return Objective(
        name=f"{name}_p{100 * confidence:g}",
        fn=bounded,
        unit="ms",
        identity=f"table {table.fingerprint} confidence {confidence:g} spread {variance.identity} error {relative:.6g}",
        parts=(expected, variance),
    )


@checked
def energy(space: SearchSpace, table: Table, *, name: str = "energy_mj") -> Objective:
    """Energy per image in mJ, predicted as the sum of a table's blocks (``nas.measure(..., meter=)`` makes such tables).

    Raises MissingBlocks or BadInput when the table does not know it for every block of ``space``.
    """
    identity = f"energy of table {table.fingerprint}"
    return additive(space, name, table.lookup_energy(space.blocks), unit="mJ", identity=identity)


@checked
def macs(space: SearchSpace) -> Objective:
    """Multiply-accumulates of convolutions and linear layers for one image; papers often call them FLOPs."""
    return additive(space, "macs", space.per_block(lambda b: b.macs), unit="MACs")


@checked
def params(space: SearchSpace) -> Objective:
    """Trainable parameters, batch norm's included."""
    return additive(space, "params", space.per_block(lambda b: b.params), unit="parameters")


@checked
def peak_memory(space: SearchSpace, *, bytes_per_element: BytesEach = 1) -> Objective:
    """Most bytes of activations alive at once, block by block (1 byte per element for int8, 4 for fp32)."""
    per_block = bytes_per_element * space.per_block(lambda b: b.live_elements)
    return additive(space, "peak_memory", per_block, unit="bytes", combine=np.maximum)


@checked
def flash(space: SearchSpace, *, bytes_per_weight: BytesEach = 1) -> Objective:
    """Bytes of weights stored on the device, batch norm folded (1 byte each for int8, 4 for fp32)."""
    per_block = bytes_per_weight * space.per_block(lambda b: b.weights)
    return additive(space, "flash", per_block, unit="bytes")


def _unit(objective: Objective) -> str:
    return f" {objective.unit}" if objective.unit else ""
