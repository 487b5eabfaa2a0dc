"""``Block``: what every block kind is, and its text form.

A block is a frozen record of plain numbers. Its kind says once how it computes, in operators; MACs, parameters, memory,
the torch module, the elastic module, LiteRT's operators and the key in latency tables all derive from that. Channel
counts are explicit everywhere, so that a pruned network is still a tuple of blocks.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
from msgspec import Meta

from nas.blocks.operators import EPS, Norm, Operators, Padding, Part, Trace, traced
from nas.checks import check, shown
from nas.errors import BadInput

T = TypeVar("T")

Channels = Annotated[int, Meta(ge=1, le=1_000_000)]
ChannelsOrNone = Annotated[int, Meta(ge=0, le=1_000_000)]
Pixels = Annotated[int, Meta(ge=1, le=16_384)]
Stride = Annotated[int, Meta(ge=1, le=16)]
Groups = Annotated[int, Meta(ge=1, le=1_000_000)]

if TYPE_CHECKING:
    Kernel = int
else:
    Kernel = Literal[1, 3, 5, 7, 9, 11]

LATER: Mapping[str, bool] = {"later": True}
"""Metadata of a field that a kind got when tables of it existed: keys with its default do not mention it."""
KINDS: dict[str, type[Block]] = {}
"""Every block kind by its name; defining one puts it here."""


def round_channels(channels: float, divisor: int = 8) -> int:
    """Nearest multiple of ``divisor``, never more than 10% below ``channels`` (Sandler et al. 2018)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


@dataclass(frozen=True, kw_only=True)
class Block:
    """Base of the block kinds. ``size`` is the height and width of the *input* in pixels.

    ``padding`` of its convolutions and ``eps`` of its batch norms are for whoever interprets ``compute``.

    A kind of your own is a frozen dataclass below this one: ``kind`` (one word, in keys of tables), ``read_from``, its
    fields with their ranges, and ``compute``. Nothing else needs to know of it. Raises BadInput for a value out of range
    and for operators whose shapes do not fit.
    """

    kind: ClassVar[str]
    read_from: ClassVar[Mapping[str, str]]
    """Where the layers show the value of a field that pruning or extraction may change: field -> "part.attribute"."""

    in_ch: Channels
    out_ch: Channels
    size: Pixels
    padding: Padding = field(default="symmetric", metadata=LATER)
    eps: Annotated[float, Meta(gt=0, le=0.1)] = field(default=EPS, metadata=LATER)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        kind = vars(cls).get("kind")
        if kind is None:  # a family's own base
            return
        known = KINDS.get(kind)
        if known and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise BadInput(f"there is a block kind {kind!r} already, {known.__module__}.{known.__qualname__}")
        if not isinstance(kind, str) or not kind.isidentifier():
            raise BadInput(f"a block kind is one word, got {shown(kind)}")
        KINDS[kind] = cls

    def __post_init__(self) -> None:
        kind: Any = type(self)
        try:
            msgspec.convert(self.__dict__, _schema(kind))
        except msgspec.ValidationError:
            for name, hint in _ranges(kind).items():
                check(f"{name} of a {self.kind}", getattr(self, name), hint)
        made = self.trace.output.channels
        if made != self.out_ch:
            raise BadInput(f"[{self.key}] has {self.out_ch} output channels, but computes {made}")

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # not what derives from them

    def compute(self, on: Operators[T], x: T) -> T:
        """How the block computes: ``x`` is the input, the result the output."""
        raise NotImplementedError

    @cached_property
    def trace(self) -> Trace:
        """Parts, output and memory, from following ``compute``."""
        return _traced(self)

    def parts(self) -> dict[str, Part]:
        """The primitives in order of execution, by name."""
        return dict(self.trace.parts)

    def resized(self, parts: Mapping[str, Part]) -> Block:
        """This block with the channel counts and kernels found in ``parts`` (the inverse of ``parts``)."""
        places = {name: place.split(".") for name, place in self.read_from.items()}
        seen = {name: getattr(parts[part], what) for name, (part, what) in places.items() if part in parts}
        return dataclasses.replace(self, **seen)

    @property
    def out_size(self) -> int:
        """Height and width of the output in pixels."""
        return self.trace.output.size

    @property
    def live_elements(self) -> int:
        """Most activation elements alive at once while the block runs, input and output included."""
        return self.trace.live_elements

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the input."""
        return (self.in_ch, self.size, self.size)

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the output; a head's is (classes, 1, 1)."""
        return (self.out_ch, self.out_size, self.out_size)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and linear layers, batch 1."""
        return sum(part.macs for part in self.trace.parts.values())

    @cached_property
    def params(self) -> int:
        """Trainable parameters (batch-norm scale and shift included)."""
        return sum(part.params for part in self.trace.parts.values())

    @cached_property
    def weights(self) -> int:
        """Weights stored on the device once batch norm is folded into the convolutions (bias included)."""
        return sum(p.channels if isinstance(p, Norm) else p.params for p in self.trace.parts.values())

    @cached_property
    def key(self) -> str:
        """Unique text form, as in latency tables: ``kind field=value ...``; ``from_key`` is its inverse."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not _left_out(self, f)}
        return f"{self.kind} {' '.join(f'{name}={_plain(value)}' for name, value in values.items())}"


def from_key(key: str) -> Block:
    """The block that a key describes.

    Raises BadInput for a text that is not the key of a block whose kind has been defined.
    """
    kind, *pairs = str(key).split(" ")
    if kind not in KINDS:
        raise BadInput(
            f"not a block key: {shown(key)}; there is no block kind {shown(kind)} (of your own? then import it first), "
            f"the kinds are {', '.join(KINDS)}"
        )
    made: Any = KINDS[kind]
    try:
        values = msgspec.convert(dict(pair.split("=", 1) for pair in pairs), _schema(made), strict=False)
        block: Block = made(**msgspec.structs.asdict(values))
    except (msgspec.ValidationError, ValueError) as error:
        raise BadInput(f"not a block key: {shown(key)}; {error}") from None
    if block.key != key:
        raise BadInput(f"not a block key: {shown(key)}; written out it is {block.key!r}")
    return block


def chain_error(blocks: Iterable[Block]) -> str | None:
    """Why these blocks do not follow one another, or None when they do."""
    for before, after in pairwise(blocks):
        if before.out_shape != after.in_shape:
            return f"[{before.key}] gives {before.out_shape}, but [{after.key}] takes {after.in_shape}"
    return None


@functools.lru_cache(maxsize=1 << 12)  # spaces make equal blocks many times over
def _traced(block: Block) -> Trace:
    try:
        return traced(block.compute, block.in_ch, block.size, padding=block.padding, eps=block.eps)
    except BadInput as error:
        raise BadInput(f"[{block.key}]: {error}") from None


@functools.cache
def _ranges(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


@functools.cache
def _schema(cls: Any) -> Any:
    defaults = {f.name: f.default for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING}
    fields = [(name, hint, defaults[name]) if name in defaults else (name, hint) for name, hint in _ranges(cls).items()]
    return msgspec.defstruct(cls.__name__, fields, kw_only=True, forbid_unknown_fields=True)


def _left_out(block: Block, field: dataclasses.Field[Any]) -> bool:
    return "later" in field.metadata and getattr(block, field.name) == field.default


def _plain(value: object) -> object:
    return int(value) if isinstance(value, bool) else value
