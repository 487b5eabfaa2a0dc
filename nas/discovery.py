"""Kinds of things that are one file each, found by their files: so that a new file needs no list."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from nas.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of ``package`` but those whose names begin with "_". ``kind``: what each holds, in error messages.

    ``between``: the words of a thing's name, which is its file's. ``parts``: files that hold something else.
    """

    package: str
    kind: str
    between: str = "-"
    parts: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        """Of the things. Imports none of them, so what they need may be missing."""
        found = pkgutil.iter_modules(importlib.import_module(self.package).__path__)
        files = (file.name for file in found if not file.name.startswith("_") and file.name not in self.parts)
        return tuple(sorted(file.replace("_", self.between) for file in files))

    def about(self, name: str) -> str:
        """The first line of its file's docstring, without the full stop. Imports nothing, as ``names``."""
        folder = Path(importlib.import_module(self.package).__path__[0])
        text = ast.get_docstring(ast.parse((folder / f"{name.replace(self.between, '_')}.py").read_text())) or ""
        return text.partition("\n")[0].rstrip(".")

    def named(self, name: str) -> ModuleType:
        """The file of that thing. Raises BadInput, with all names, when there is none."""
        if name not in self.names():
            raise BadInput(f"there is no {self.kind} {name!r}; there are {', '.join(self.names())}")
        return importlib.import_module(f"{self.package}.{name.replace(self.between, '_')}")

    def modules(self) -> list[ModuleType]:
        """All of them, imported."""
        return [self.named(name) for name in self.names()]


def made_in(module: ModuleType) -> list[Any]:
    """The public classes and functions of a file that it does not import."""
    public = (value for name, value in vars(module).items() if not name.startswith("_"))
    return [value for value in public if getattr(value, "__module__", "") == module.__name__]
