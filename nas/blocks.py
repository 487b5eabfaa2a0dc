"""Block kinds: what a network is made of, as shape arithmetic (no torch).

A block is a frozen record of plain numbers. It lists its ``parts`` (convolutions, norms, linear layers) once;
MACs, parameters, the torch module, the elastic module and the key in latency tables all derive from that list.
Channel counts are explicit everywhere, so that a pruned network is still a tuple of blocks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

from nas.errors import BadInput

ACTIVATIONS = ("relu", "relu6", "hswish", "silu")


def round_channels(channels: float, divisor: int = 8) -> int:
    """Nearest multiple of ``divisor``, never more than 10% below ``channels`` (Sandler et al. 2018)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


# --------------------------------------------------------------------------------------------------------------
# Parts: the primitives


@dataclass(frozen=True, kw_only=True)
class Conv:
    """2-D convolution, 'same' padding for odd kernels; ``size``: height and width of its output.

    ``groups``: of one that is not depthwise; each group of outputs sees only its own group of inputs.
    """

    in_ch: int
    out_ch: int
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False
    groups: int = 1
    bias: bool = False
    size: int

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


# --------------------------------------------------------------------------------------------------------------
# Block kinds


@dataclass(frozen=True, kw_only=True)
class Block:
    """Base of the block kinds. ``size`` is the height and width of the *input* in pixels."""

    kind: ClassVar[str]

    in_ch: int
    out_ch: int
    size: int

    def parts(self) -> dict[str, Part]:
        """The primitives in order of execution, by name."""
        raise NotImplementedError

    def resized(self, parts: Mapping[str, Part]) -> Block:
        """This block with the channel counts and kernels found in ``parts`` (the inverse of ``parts``)."""
        raise NotImplementedError

    @property
    def out_size(self) -> int:
        raise NotImplementedError

    @property
    def live_elements(self) -> int:
        """Most activation elements alive at once while the block runs, inputs and outputs included."""
        raise NotImplementedError

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
        return sum(part.macs for part in self.parts().values())

    @cached_property
    def params(self) -> int:
        """Trainable parameters (batch-norm scale and shift included)."""
        return sum(part.params for part in self.parts().values())

    @cached_property
    def weights(self) -> int:
        """Weights stored on the device once batch norm is folded into the convolutions (bias included)."""
        return sum(p.channels if isinstance(p, Norm) else p.params for p in self.parts().values())

    @cached_property
    def key(self) -> str:
        """Unique text form, as in latency tables: ``kind field=value ...``; ``from_key`` is its inverse."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        # groups came later: keys of tables that know nothing of it stay as they were
        fields = (f"{name}={_plain(value)}" for name, value in values.items() if (name, value) != ("groups", 1))
        return f"{self.kind} {' '.join(fields)}"


@dataclass(frozen=True, kw_only=True)
class Stem(Block):
    """kxk convolution, batch norm, activation: the first layer."""

    kind: ClassVar[str] = "stem"
    kernel: int = 3
    stride: int = 2
    act: str = "relu"

    @property
    def out_size(self) -> int:
        return -(-self.size // self.stride)

    def parts(self) -> dict[str, Part]:
        return {
            "conv": Conv(
                in_ch=self.in_ch, out_ch=self.out_ch, kernel=self.kernel, stride=self.stride, size=self.out_size
            ),
            "norm": Norm(channels=self.out_ch),
        }

    def resized(self, parts: Mapping[str, Part]) -> Stem:
        conv = _conv(parts, "conv")
        return dataclasses.replace(self, in_ch=conv.in_ch, out_ch=conv.out_ch, kernel=conv.kernel)

    @property
    def live_elements(self) -> int:
        return self.in_ch * self.size**2 + self.out_ch * self.out_size**2


@dataclass(frozen=True, kw_only=True)
class DepthwiseSeparable(Block):
    """Depthwise convolution, optional squeeze-excite, linear 1x1 projection (MobileNet's block without expansion).

    ``se``: channels of the squeeze layer, 0 for none. The gate is a sigmoid with ``silu`` and a hard sigmoid with
    every other activation, as in EfficientNet and MobileNetV3.
    """

    kind: ClassVar[str] = "separable"
    kernel: int = 3
    stride: int = 1
    se: int = 0
    act: str = "relu"
    residual: bool = False

    @property
    def out_size(self) -> int:
        return -(-self.size // self.stride)

    def parts(self) -> dict[str, Part]:
        return {
            **_depthwise(self.in_ch, self.kernel, self.stride, self.se, self.out_size),
            "project": Conv(in_ch=self.in_ch, out_ch=self.out_ch, size=self.out_size),
            "project_norm": Norm(channels=self.out_ch),
        }

    def resized(self, parts: Mapping[str, Part]) -> DepthwiseSeparable:
        depthwise, project = _conv(parts, "depthwise"), _conv(parts, "project")
        return dataclasses.replace(
            self, in_ch=depthwise.in_ch, out_ch=project.out_ch, kernel=depthwise.kernel, se=_squeeze(parts)
        )

    @property
    def live_elements(self) -> int:
        before, between = self.in_ch * self.size**2, self.in_ch * self.out_size**2
        after = self.out_ch * self.out_size**2
        return max(before + between, between + after + (before if self.residual else 0))


@dataclass(frozen=True, kw_only=True)
class InvertedResidual(Block):
    """1x1 expansion to ``mid`` channels, depthwise convolution, optional squeeze-excite, linear 1x1 projection.

    MobileNetV2's block (Sandler et al. 2018), with squeeze-excite as in MobileNetV3 (Howard et al. 2019).
    ``se`` and the gate as in ``DepthwiseSeparable``. ``groups``: of both 1x1 convolutions; with more than one, channels
    are shuffled between the groups after the expansion (FBNet, Wu et al. 2019).
    """

    kind: ClassVar[str] = "inverted_residual"
    mid: int
    kernel: int = 3
    stride: int = 1
    se: int = 0
    act: str = "relu"
    residual: bool = False
    groups: int = 1

    @property
    def out_size(self) -> int:
        return -(-self.size // self.stride)

    def parts(self) -> dict[str, Part]:
        return {
            "expand": Conv(in_ch=self.in_ch, out_ch=self.mid, groups=self.groups, size=self.size),
            "expand_norm": Norm(channels=self.mid),
            **_depthwise(self.mid, self.kernel, self.stride, self.se, self.out_size),
            "project": Conv(in_ch=self.mid, out_ch=self.out_ch, groups=self.groups, size=self.out_size),
            "project_norm": Norm(channels=self.out_ch),
        }

    def resized(self, parts: Mapping[str, Part]) -> InvertedResidual:
        expand, depthwise, project = (_conv(parts, name) for name in ("expand", "depthwise", "project"))
        return dataclasses.replace(
            self,
            in_ch=expand.in_ch,
            mid=depthwise.in_ch,
            out_ch=project.out_ch,
            kernel=depthwise.kernel,
            se=_squeeze(parts),
            groups=expand.groups,
        )

    @property
    def live_elements(self) -> int:
        before, wide = self.in_ch * self.size**2, self.mid * self.size**2
        narrow, after = self.mid * self.out_size**2, self.out_ch * self.out_size**2
        kept = before if self.residual else 0
        return max(before + wide, kept + wide + narrow, kept + narrow + after)


@dataclass(frozen=True, kw_only=True)
class Head(Block):
    """1x1 convolution to ``hidden`` channels, global average pool, optional ``features`` layer, classifier.

    ``features`` > 0 adds a linear layer with activation between pool and classifier (MobileNetV3).
    ``out_ch`` is the number of classes.
    """

    kind: ClassVar[str] = "head"
    hidden: int
    features: int = 0
    act: str = "relu"

    @property
    def out_size(self) -> int:
        return 1

    def parts(self) -> dict[str, Part]:
        parts: dict[str, Part] = {
            "conv": Conv(in_ch=self.in_ch, out_ch=self.hidden, size=self.size),
            "norm": Norm(channels=self.hidden),
        }
        if self.features:
            parts["features"] = Linear(in_ch=self.hidden, out_ch=self.features)
        parts["classify"] = Linear(in_ch=self.features or self.hidden, out_ch=self.out_ch)
        return parts

    def resized(self, parts: Mapping[str, Part]) -> Head:
        conv, classify, features = _conv(parts, "conv"), parts["classify"], parts.get("features")
        assert isinstance(classify, Linear)
        return dataclasses.replace(
            self,
            in_ch=conv.in_ch,
            hidden=conv.out_ch,
            features=features.out_ch if isinstance(features, Linear) else 0,
            out_ch=classify.out_ch,
        )

    @property
    def live_elements(self) -> int:
        return (self.in_ch + self.hidden) * self.size**2


KINDS: dict[str, type[Block]] = {k.kind: k for k in (Stem, DepthwiseSeparable, InvertedResidual, Head)}


def from_key(key: str) -> Block:
    """The block that a key describes.

    Raises BadInput for a text that no block of this version has as its key.
    """
    try:
        kind, *pairs = key.split()
        cls: Any = KINDS[kind]
        types = {f.name: str(f.type) for f in dataclasses.fields(cls)}
        values = dict(pair.split("=", 1) for pair in pairs)
        return cls(
            **{k: v if types[k] == "str" else bool(int(v)) if types[k] == "bool" else int(v) for k, v in values.items()}
        )
    except (KeyError, TypeError, ValueError):
        raise BadInput(
            f"not a block key: {key!r}; a key reads like {Stem(in_ch=3, out_ch=16, size=32).key!r}"
        ) from None


def chain_error(blocks: Iterable[Block]) -> str | None:
    """Why these blocks do not follow one another, or None when they do."""
    blocks = tuple(blocks)
    for before, after in pairwise(blocks):
        if before.out_shape != after.in_shape:
            return f"[{before.key}] gives {before.out_shape}, but [{after.key}] takes {after.in_shape}"
    return None


def _depthwise(channels: int, kernel: int, stride: int, se: int, size: int) -> dict[str, Part]:
    parts: dict[str, Part] = {
        "depthwise": Conv(in_ch=channels, out_ch=channels, kernel=kernel, stride=stride, depthwise=True, size=size),
        "depthwise_norm": Norm(channels=channels),
    }
    if se:
        parts["squeeze"] = Conv(in_ch=channels, out_ch=se, bias=True, size=1)
        parts["excite"] = Conv(in_ch=se, out_ch=channels, bias=True, size=1)
    return parts


def _squeeze(parts: Mapping[str, Part]) -> int:
    return _conv(parts, "squeeze").out_ch if "squeeze" in parts else 0


def _conv(parts: Mapping[str, Part], name: str) -> Conv:
    part = parts[name]
    assert isinstance(part, Conv), f"{name} is not a convolution"
    return part


def _plain(value: object) -> object:
    return int(value) if isinstance(value, bool) else value
