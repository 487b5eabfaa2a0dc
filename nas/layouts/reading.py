"""A network out of named tensors: what its blocks are follows from their shapes, and every tensor has to fit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from nas.blocks import Block, DepthwiseSeparable, Head, InvertedResidual, Stem
from nas.errors import BadInput
from nas.layouts.layout import Layout, Parts
from nas.layouts.tensors import Tensors
from nas.modules import Network


@dataclass(frozen=True, kw_only=True)
class File:
    """The named tensors of a file, to be read by a layout."""

    path: str
    tensors: Tensors
    layout: str

    def shape(self, part: str, *dimensions: int) -> tuple[int, ...]:
        """Of the weight of a part. Raises BadInput when there is none, or with another number of dimensions."""
        weight = self.tensor(f"{part}.weight")
        if weight.ndim not in dimensions:
            wanted = " or ".join(str(d) for d in dimensions)
            raise self.misfit(f"{part}.weight has shape {tuple(weight.shape)}, and {wanted} dimensions would fit")
        return tuple(weight.shape)

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name, such as a weight ``(out_ch, in_ch, kernel, kernel)``. Raises BadInput when there is none."""
        if name not in self.tensors:
            raise self.misfit(f"there is no {name}")
        return self.tensors[name]

    def misfit(self, what: str) -> BadInput:
        """The error that says what does not fit."""
        return BadInput(f"{self.path} does not hold a network laid out as {self.layout}: {what}")


def read(file: File, layout: Layout, size: int) -> Network:
    """The network for images of ``size`` pixels.

    Raises BadInput, naming the first tensor that is missing, of another shape, or of no part of the network.
    """
    planned = list(_blocks(file, layout, size))
    network = Network(block for block, _ in planned)
    fill(file, [(module, names) for module, (_, names) in zip(network, planned, strict=True)])
    network.normalise = layout.normalise
    return network.eval()


def fill(file: File, modules: Sequence[tuple[nn.Module, Parts]]) -> None:
    """The tensors of ``file`` into the parts of ``modules``, each with the full names of its parts.

    Kernel matrices of an elastic layer are once-for-all's. Raises BadInput as ``read``.
    """
    known: set[str] = set()
    for module, names in modules:
        for part, theirs in names.items():
            for key, ours in module.get_submodule(part).state_dict().items():
                if key.startswith("transforms."):
                    name = f"{theirs}.{int(key[-1]) + 2}to{key[-1]}_matrix"
                    ours.copy_(_fitting(file, name, ours).T)  # theirs multiplies columns
                else:
                    name = f"{theirs}.{key}"
                    if key == "bias" and part == "features" and name not in file.tensors:
                        ours.zero_()  # a convolution of one pixel may do without
                    elif ours.ndim or name in file.tensors:  # files need not count batches
                        ours.copy_(_fitting(file, name, ours))
                known.add(name)
    for name in file.tensors:
        if name not in known:
            raise file.misfit(f"{name} belongs to no part of it")


def _fitting(file: File, name: str, ours: Tensor) -> Tensor:
    theirs = file.tensor(name)
    if ours.ndim == 2 and theirs.shape[2:] == (1, 1):  # a linear layer, written as a convolution of one pixel
        theirs = theirs[:, :, 0, 0]
    if theirs.shape != ours.shape:
        raise file.misfit(f"{name} has shape {tuple(theirs.shape)}, and {tuple(ours.shape)} would fit")
    return theirs


def _blocks(file: File, layout: Layout, size: int) -> Iterator[tuple[Block, Parts]]:
    """The blocks in order, each with the full names of its parts."""
    names = layout.names
    how = {"padding": layout.padding, "eps": layout.eps}

    def made(kind: type[Block], parts: Parts, reason: str, **fields: object) -> Block:
        try:
            return kind(size=size, **how, **fields)  # type: ignore[arg-type]
        except BadInput as error:
            raise file.misfit(f"{parts[reason]}.weight: {error}") from None

    out, channels, kernel, _ = file.shape(names.stem["conv"], 4)
    act = layout.family.stem_act
    block = made(Stem, names.stem, "conv", in_ch=channels, out_ch=out, kernel=kernel, stride=2, act=act)
    yield block, names.stem
    stages = zip(layout.family.strides, layout.family.acts, _staged(file, layout), strict=True)
    for s, (first_stride, act, prefixes) in enumerate(stages):
        for b, prefix in enumerate(prefixes):
            size, before = block.out_size, block.out_ch
            stride = first_stride if b == 0 else 1
            parts = parts_of(file, prefix, names.inverted if s else names.separable)
            (mid, *_, kernel), out = file.shape(parts["depthwise"], 4), file.shape(parts["project"], 4)[0]
            block = made(
                InvertedResidual if s else DepthwiseSeparable,
                parts,
                "depthwise",
                in_ch=before,
                out_ch=out,
                kernel=kernel,
                stride=stride,
                se=file.shape(parts["squeeze"], 4)[0] if "squeeze" in parts else 0,
                act=act,
                se_act=layout.family.se_act,
                residual=stride == 1 and out == before,
                **({"mid": mid} if s else {}),
            )
            yield block, parts
    size, before = block.out_size, block.out_ch
    head = {"hidden": file.shape(names.head["conv"], 4)[0], "out_ch": file.shape(names.head["classify"], 2)[0]}
    if "features" in names.head:
        head["features"] = file.shape(names.head["features"], 2, 4)[0]
    yield made(Head, names.head, "conv", in_ch=before, act=act, **head), names.head


def parts_of(file: File, prefix: str, ways: Sequence[Parts]) -> Parts:
    """The full names of a block's parts: of the first of the ``ways`` whose squeeze layer, if it has one, is there."""
    for parts in ways:
        squeeze = parts.get("squeeze", "")
        if not squeeze or any(f"{prefix}{squeeze}.{key}" in file.tensors for key in ("weight", "bias")):
            return {part: f"{prefix}{name}" for part, name in parts.items()}
    raise AssertionError("the last way has no squeeze layer")


def _staged(file: File, layout: Layout) -> list[list[str]]:
    """What the names of the blocks of each stage begin with."""
    names, stages = layout.names, layout.family.strides
    found: dict[tuple[int, ...], str] = {}
    for name in file.tensors:
        if match := re.match(names.block, name):
            found.setdefault(tuple(int(group) for group in match.groups()), match[0])
    groups: list[list[str]] = []
    last = -1
    for place, prefix in sorted(found.items()):
        if len(place) == 2:
            stage = place[0]
        else:  # names do not tell: where the number of channels changes
            way = names.inverted if groups else names.separable
            stage = file.shape(parts_of(file, prefix, way)["project"], 4)[0]
        if stage != last:
            groups.append([])
        groups[-1].append(prefix)
        last = stage
    if len(groups) != len(stages):
        raise file.misfit(f"{names.block} is there in {len(groups)} stages, and {len(stages)} would fit")
    return groups
