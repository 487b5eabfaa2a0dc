"""Packages that are named like the one function most users want from them: ``nas.search(...)`` and ``nas.search.loop``."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


def call_as(package: str, module: str, function: str) -> None:
    """Let ``package`` be called as ``module.function``, which is imported on the first call."""

    class CallablePackage(ModuleType):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return getattr(importlib.import_module(module), function)(*args, **kwargs)

        def __reduce__(self) -> tuple[Any, ...]:  # as plain modules are pickled: by name
            return importlib.import_module, (package,)

    sys.modules[package].__class__ = CallablePackage
