"""What blocks are made of: the parts that hold weights, and the operators that a block kind is written in.

A kind says how it computes once, as calls of ``Operators``. Torch (``nas.modules``) runs those calls, LiteRT
(``nas.deploy.litert_graph``) writes them down, and ``traced`` here follows their shapes: parts, MACs, parameters and
memory come from that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from nas.blocks.activations import activation
from nas.errors import BadInput

T = TypeVar("T")

Padding = Literal["symmetric", "tf"]
"""Zeros around a convolution's input: ``kernel // 2`` on every side, or TensorFlow's 'same', which with a stride pads
only what the windows need, and more of it after than before."""
EPS = 1e-5
"""torch's epsilon of batch norm."""


@dataclass(frozen=True, kw_only=True)
class Conv:
    """2-D convolution, 'same' padding for odd kernels; ``size``: height and width of its output.

    ``groups``: of one that is not depthwise; each group of outputs sees only its own group of inputs.
    ``spared``: rows of padding less than ``kernel // 2`` on both sides, first of those before.
    """

    in_ch: int
    out_ch: int
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False
    groups: int = 1
    bias: bool = False
    spared: int = 0
    size: int

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros before and after every row and column."""
        both = 2 * (self.kernel // 2) - self.spared
        return both // 2, both - both // 2

    @property
    def macs(self) -> int:
        return self.size**2 * self.out_ch * self._seen * self.kernel**2

    @property
    def params(self) -> int:
        return self.out_ch * self._seen * self.kernel**2 + self.bias * self.out_ch

    @property
    def _seen(self) -> int:
        """Input channels that one output channel sees."""
        return 1 if self.depthwise else self.in_ch // self.groups


@dataclass(frozen=True, kw_only=True)
class Norm:
    """Batch normalisation over ``channels``. Folded into the convolution at deployment, so it has no MACs."""

    channels: int
    eps: float = EPS

    @property
    def macs(self) -> int:
        return 0

    @property
    def params(self) -> int:
        return 2 * self.channels


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Fully connected layer with bias."""

    in_ch: int
    out_ch: int

    @property
    def macs(self) -> int:
        return self.in_ch * self.out_ch

    @property
    def params(self) -> int:
        return (self.in_ch + 1) * self.out_ch


Part = Conv | Norm | Linear


def norm_of(conv: str) -> str:
    """The name of the batch norm that follows the convolution of this name."""
    return "norm" if conv == "conv" else f"{conv}_norm"


class Operators(Protocol[T]):
    """The operators. ``T`` is a feature map as the interpreter has it; ``act``: a name in ``ACTIVATIONS``, "" for none.

    Every ``name`` is that of a part, and so of the layer in state dicts; it occurs once in a block.
    """

    def conv(
        self,
        name: str,
        x: T,
        out_ch: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        depthwise: bool = False,
        groups: int = 1,
        norm: bool = True,
        act: str = "",
    ) -> T:
        """Convolution with 'same' padding, then batch norm (without: a bias), then activation."""

    def linear(self, name: str, x: T, out_ch: int, *, act: str = "") -> T:
        """Fully connected layer with bias of a flat ``x``, then activation."""

    def pool(self, x: T, *, flat: bool = False) -> T:
        """Mean over all pixels, a map of one pixel; ``flat``: a vector, as ``linear`` takes it."""

    def scale(self, x: T, gate: T) -> T:
        """Every channel of ``x`` times its pixel in ``gate``."""

    def add(self, x: T, y: T, *, act: str = "") -> T:
        """Sum of two maps of one shape, then activation."""

    def shuffle(self, x: T, groups: int) -> T:
        """Channels (groups, n) become (n, groups) (Zhang et al., "ShuffleNet", 2018)."""

    def custom(self, name: str, xs: Sequence[T], torch: Callable[..., Any], *, channels: int, size: int) -> T:
        """An operator of your own, without weights: ``torch`` computes it from the tensors ``xs``.

        ``channels``, ``size``: of its output. It runs wherever torch is exported; LiteRT refuses it by ``name``.
        """


class Map(NamedTuple):
    """A feature map while shapes are followed: ``channels`` of ``size`` x ``size`` pixels."""

    channels: int
    size: int
    flat: bool = False

    @property
    def elements(self) -> int:
        return self.channels * self.size**2


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What the operators of a block need: its ``parts`` in order of execution, the ``output``, and memory.

    ``live_elements``: most activation elements alive at once, input and output included.
    """

    parts: dict[str, Part]
    output: Map
    live_elements: int


def traced(
    compute: Callable[[Operators[int], int], int],
    channels: int,
    size: int,
    *,
    padding: Padding = "symmetric",
    eps: float = EPS,
) -> Trace:
    """``compute`` followed for an input of ``channels`` and ``size``. Raises BadInput where shapes do not fit."""
    shapes = _Shapes(Map(channels, size), padding, eps)
    output = compute(shapes, 0)
    return Trace(parts=shapes.parts, output=shapes.maps[output], live_elements=_live_elements(shapes, output))


class _Shapes:
    """``Operators`` on shapes: a feature map is its position in ``maps``. Each step makes one map, from ``reads``."""

    def __init__(self, x: Map, padding: Padding, eps: float) -> None:
        self.padding, self.eps = padding, eps
        self.maps = [x]
        self.parts: dict[str, Part] = {}
        self.reads: list[tuple[int, ...]] = [()]
        self.in_place = [False]

    def conv(self, name: str, x: int, out_ch: int, *, norm: bool = True, act: str = "", **sizes: Any) -> int:
        activation(act)
        seen = self.maps[x]
        size = -(-seen.size // sizes.get("stride", 1))
        conv = Conv(in_ch=seen.channels, out_ch=out_ch, bias=not norm, size=size, **sizes)
        if self.padding == "tf":
            needed = max((size - 1) * conv.stride + conv.kernel - seen.size, 0)
            conv = replace(conv, spared=sum(conv.padding) - needed)
        if (conv.depthwise and seen.channels != out_ch) or seen.channels % conv.groups or out_ch % conv.groups:
            ways = "depthwise" if conv.depthwise else f"in {conv.groups} groups"
            raise BadInput(f"{name}: a convolution {ways} cannot turn {seen.channels} channels into {out_ch}")
        self._part(name, conv)
        if norm:
            self._part(norm_of(name), Norm(channels=out_ch, eps=self.eps))
        return self._map(Map(out_ch, size), x)

    def linear(self, name: str, x: int, out_ch: int, *, act: str = "") -> int:
        activation(act)
        if not self.maps[x].flat:
            raise BadInput(f"{name}: a linear layer takes a flat map, the result of pool(..., flat=True)")
        self._part(name, Linear(in_ch=self.maps[x].channels, out_ch=out_ch))
        return self._map(Map(out_ch, 1, flat=True), x)

    def pool(self, x: int, *, flat: bool = False) -> int:
        return self._map(Map(self.maps[x].channels, 1, flat=flat), x)

    def scale(self, x: int, gate: int) -> int:
        if self.maps[gate] != Map(self.maps[x].channels, 1):
            raise BadInput(f"a gate of {self.maps[x]} has as many channels and one pixel, got {self.maps[gate]}")
        return self._map(self.maps[x], x, gate, in_place=True)

    def add(self, x: int, y: int, *, act: str = "") -> int:
        activation(act)
        if self.maps[x] != self.maps[y]:
            raise BadInput(f"a sum (a residual) takes maps of one shape, got {self.maps[x]} and {self.maps[y]}")
        return self._map(self.maps[x], x, y, in_place=True)

    def shuffle(self, x: int, groups: int) -> int:
        return self._map(self.maps[x], x)

    def custom(self, name: str, xs: Sequence[int], torch: Callable[..., Any], *, channels: int, size: int) -> int:
        return self._map(Map(channels, size), *xs)

    def _part(self, name: str, part: Part) -> None:
        if name in self.parts:
            raise BadInput(f"two parts of a block are called {name}")
        self.parts[name] = part

    def _map(self, made: Map, *reads: int, in_place: bool = False) -> int:
        self.maps.append(made)
        self.reads.append(reads)
        self.in_place.append(in_place)
        return len(self.maps) - 1


def _live_elements(shapes: _Shapes, output: int) -> int:
    """Step by step: what a later step still reads, what this one reads, and what it makes."""
    elements = [m.elements for m in shapes.maps]
    last = list(range(len(elements)))
    for step, reads in enumerate(shapes.reads):
        for read in reads:
            last[read] = step
    last[output] = len(elements)
    most = elements[0]
    for step in range(1, len(elements)):
        alive = sum(elements[m] for m in range(step) if last[m] >= step)
        # element by element, the result can overwrite an operand of its size that nobody reads again
        free = shapes.in_place[step] and any(
            last[r] == step and elements[r] == elements[step] for r in shapes.reads[step]
        )
        most = max(most, alive + (0 if free else elements[step]))
    return most
