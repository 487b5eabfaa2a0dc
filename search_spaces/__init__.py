"""Search spaces, one file per family. They import ``nas.space`` and ``nas.blocks`` only.

A file here with a class whose static methods are annotated ``-> SearchSpace`` is all that a family needs: each of them
is a space named ``file.method``, such as "mobilenet_v3.cifar".
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nas.blocks import Block, Stem
from nas.discovery import Files, made_in
from nas.errors import BadInput
from nas.space import SearchSpace
from search_spaces.efficientnet import EfficientNet
from search_spaces.efficientnet_v2 import EfficientNetV2
from search_spaces.fbnet import FBNet
from search_spaces.mcu import Mcu
from search_spaces.mobilenet_v2 import MobileNetV2
from search_spaces.mobilenet_v3 import MobileNetV3
from search_spaces.nasbench201 import NasBench201
from search_spaces.ofa import OnceForAll
from search_spaces.resnet import ResNet

__all__ = [
    "EfficientNet",
    "EfficientNetV2",
    "FBNet",
    "Mcu",
    "MobileNetV2",
    "MobileNetV3",
    "NasBench201",
    "OnceForAll",
    "ResNet",
    "about",
    "named",
    "names",
    "of_table",
]


def names() -> list[str]:
    """The names of all spaces, such as "mobilenet_v3.cifar"."""
    return list(_constructors())


def named(name: str, **settings: Any) -> SearchSpace:
    """The space of that name; ``settings`` that are not None go to its constructor: ``classes``, ``in_channels``, ...

    Raises BadInput for a name that is none of ``names()``, a setting that the space does not have, or a wrong value.
    """
    constructors = _constructors()
    if not isinstance(name, str) or name not in constructors:
        raise BadInput(f"there is no search space {name!r}; there are {', '.join(constructors)}")
    given = {setting: value for setting, value in settings.items() if value is not None}
    known = inspect.signature(constructors[name]).parameters
    if wrong := [setting for setting in given if setting not in known]:
        raise BadInput(f"{name} has no setting {wrong[0]!r}; it has {', '.join(known) or 'none'}")
    return constructors[name](**given)


def about(name: str) -> str:
    """What the space of that name is, in a line: the first of its constructor's docstring."""
    return (_constructors()[name].__doc__ or "").strip().partition("\n")[0].rstrip(".")


def of_table(record: Mapping[str, str], blocks: Iterable[Block]) -> SearchSpace:
    """The space whose table says ``record`` (its name and fingerprint) and has rows for ``blocks``.

    A space's own name is that of ``named`` with "_" for ".", or its last part, and may go on with its width: so the
    constructor is found by the name, and what it was given by the blocks. Raises BadInput when there is no such space.
    """
    recorded, blocks = record.get("name", ""), tuple(blocks)
    heads = [b for b in blocks if b.trace.output.flat]
    stems = [b for b in blocks if isinstance(b, Stem)]
    if not stems or not heads:
        raise BadInput(f"a table of {recorded!r} without stem or head is not of a whole space")
    in_channels = min(b.in_ch for b in stems)
    images = tuple(sorted({b.size for b in stems if b.in_ch == in_channels}))
    seen = {"in_channels": in_channels, "classes": heads[0].out_ch, "resolutions": images, "resolution": images[0]}
    if width := re.search(r"_w(\d+(\.\d+)?)$", recorded):
        seen["width"] = float(width[1])
    stem = recorded[: width.start()] if width else recorded
    for name, make in _constructors().items():
        if stem and f"_{name.replace('.', '_')}".endswith(f"_{stem}"):
            known = inspect.signature(make).parameters
            space = make(**{setting: value for setting, value in seen.items() if setting in known})
            if space.name != recorded:
                continue
            if record.get("fingerprint", space.fingerprint) != space.fingerprint:
                raise BadInput(f"{recorded} is another space now than when its table was made")
            return space
    raise BadInput(f"there is no search space {recorded!r}; there are {', '.join(names())}")


@functools.cache
def _constructors() -> dict[str, Callable[..., SearchSpace]]:
    found = {}
    for module in Files(package=__name__, kind="family", between="_").modules():
        for family in filter(inspect.isclass, made_in(module)):
            for method, made in vars(family).items():
                if isinstance(made, staticmethod) and _is_space(made.__func__.__annotations__.get("return")):
                    found[f"{family.__module__.rpartition('.')[2]}.{method}"] = made.__func__
    return dict(sorted(found.items()))


def _is_space(annotation: object) -> bool:
    """Whether it says SearchSpace: the class itself, or a text, as where annotations are not evaluated."""
    if isinstance(annotation, str):
        return annotation.strip("'\"").rpartition(".")[2] == "SearchSpace"
    return annotation is SearchSpace
