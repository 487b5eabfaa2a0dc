"""Once-for-all's published supernets (Cai et al., ICLR 2020), as the weights of ours."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn

from nas.checks import FilePath, checked
from nas.errors import BadInput
from nas.layouts.layout import Parts
from nas.layouts.reading import File, fill, parts_of
from nas.layouts.tables import ONCE_FOR_ALL
from nas.layouts.tensors import read_tensors
from nas.modules import BlockModule

if TYPE_CHECKING:
    from nas.supernet import Supernet


@checked
@torch.no_grad()
def load_ofa(supernet: Supernet, path: FilePath) -> None:
    """The weights of a published MobileNetV3 supernet into one of ours, over the space that it was taught for.

    ``path``: ``ofa_mbv3_d234_e346_k357_w1.0`` or ``_w1.2``; the space: ``search_spaces.OnceForAll.mobilenet_v3`` of that
    width. Smaller kernels are once-for-all's too: its matrices become ours. What is extracted takes images that are
    normalised as usual for ImageNet.
    Raises BadInput when the file does not fit, naming the first tensor that does not; the supernet is then half loaded.
    """
    file = File(path=str(path), tensors=_short(read_tensors(path)), layout="once-for-all's MobileNetV3 supernet")
    slots = list(supernet.slots)
    if len(slots) < 3 or not all(isinstance(slot, BlockModule) for slot in slots):
        raise BadInput(f"{supernet.space!r} is not a space of once-for-all's MobileNetV3")
    modules: list[tuple[nn.Module, Parts]] = [(slots[0], ONCE_FOR_ALL.stem)]
    for number, slot in enumerate(slots[1:-1]):
        ways = ONCE_FOR_ALL.inverted if number else ONCE_FOR_ALL.separable
        modules.append((slot, parts_of(file, f"blocks.{number}.conv.", ways)))
    modules.append((slots[-1], ONCE_FOR_ALL.head))
    for slot, parts in modules:
        if set(parts) != set(dict(slot.named_children())):
            raise file.misfit(f"{next(iter(parts.values()))} is not in a block of the parts {', '.join(parts)} here")
    fill(file, modules)


def _short(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names without what different versions of the library wrap: ``bn.bn.weight`` is ``bn.weight``."""
    found = {}
    for name, tensor in tensors.items():
        words = name.replace("mobile_inverted_conv", "conv").split(".")
        found[
            ".".join([*(a for a, b in pairwise(words) if a != b or a not in ("conv", "bn", "linear")), words[-1]])
        ] = tensor
    return found
