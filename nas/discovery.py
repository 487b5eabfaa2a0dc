"""Kinds of things that are one file each: a file's name is the thing's name, so that a new file needs no list."""

from __future__ import annotations

import importlib
import pkgutil
from importlib.util import find_spec
from types import ModuleType

from nas.errors import BadInput


def names(package: str) -> tuple[str, ...]:
    """The public modules of ``package``, "_" written as "-". Imports none of them, so what they need may be missing."""
    spec = find_spec(package)
    found = pkgutil.iter_modules(spec.submodule_search_locations if spec else ())
    return tuple(sorted(module.name.replace("_", "-") for module in found if not module.name.startswith("_")))


def named(package: str, name: str, kind: str) -> ModuleType:
    """The module that ``names`` lists as ``name``. Raises BadInput, with all names, for another one."""
    if name not in names(package):
        raise BadInput(f"there is no {kind} {name!r}; there are {', '.join(names(package))}")
    return importlib.import_module(f"{package}.{name.replace('-', '_')}")
