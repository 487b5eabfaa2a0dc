"""How a run's space and data are made again, in another process: an importable function and its arguments."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from nas.errors import BadInput
from nas.files import first_line
from nas.runs.artefacts import Call

T = TypeVar("T")


def made(source: T | Callable[[], T], kind: type[T], what: str) -> tuple[T, Call | None]:
    """The object, and how it is made again: None where only this process can.

    Raises BadInput for what is neither a ``kind`` nor a function that makes one.
    """
    if isinstance(source, kind):
        return source, None
    if not callable(source):
        raise BadInput(f"{what} is a {kind.__name__} or a function that makes one, got {type(source).__name__}")
    return _of_kind(source(), kind, what), _call_of(source)


def make(call: Call | None, kind: type[T], what: str, folder: Path) -> T:
    """What ``call`` makes. Raises BadInput, saying what to do, when it cannot be made here."""
    if call is None:
        raise BadInput(
            f"{folder} was made from Python with a {what} that only Python can make again: call nas.run(space, data, "
            f"run_dir={str(folder)!r}, resume=True), or pass it functions of a module instead of objects"
        )
    function = _imported(call.function)
    # config.json may be anybody's: what it names is called only if it says that it makes a space, or data
    if function is None or not _returns(function, kind):
        raise BadInput(
            f"{folder} needs {call.function} for its {what}: a function '-> {kind.__name__}' of a module that can be "
            "imported from here, which it is not"
        )
    try:
        return _of_kind(function(**call.arguments), kind, what)
    except TypeError as error:
        raise BadInput(f"{folder}: {call.function} cannot make the {what} again: {first_line(error)}") from None


def check_inputs(call: Call | None, given: dict[str, Any], folder: Path) -> None:
    """Raises BadInput when one of the ``given`` arguments differs from those that the folder's run was made with."""
    known = call.arguments if call else {}
    for name, value in given.items():
        if value != known.get(name):
            before = known.get(name)
            so = f"without {name}, not with" if before is None else f"with {name} {before}, not"
            raise BadInput(f"{folder} was made {so} {value}; choose another run folder")


def _call_of(source: Callable[[], Any]) -> Call | None:
    function, arguments = source, {}
    if isinstance(source, functools.partial):
        if source.args:
            return None
        function = source.func
        arguments = {k: os.fspath(v) if isinstance(v, os.PathLike) else v for k, v in source.keywords.items()}
    name = f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', '')}"
    plain = all(v is None or isinstance(v, str | int | float | bool) for v in arguments.values())
    if name.startswith("__main__") or not plain or _imported(name) != function:
        return None
    return Call(function=name, arguments=arguments)


def _imported(name: str) -> Any:
    """The function ``module:name``, looked for in the current folder too; None when there is none."""
    module, _, path = name.partition(":")
    before = list(sys.path)
    try:
        sys.path.append(os.getcwd())
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
        return found
    except (ImportError, AttributeError, ValueError, TypeError):
        return None
    finally:
        sys.path[:] = before


def _returns(function: Any, kind: type) -> bool:
    try:
        found = typing.get_type_hints(function).get("return")
    except (TypeError, NameError):
        return False
    return isinstance(found, type) and issubclass(found, kind)


def _of_kind(made: Any, kind: type[T], what: str) -> T:
    if not isinstance(made, kind):
        raise BadInput(f"the function of the {what} makes a {kind.__name__}, got {type(made).__name__}")
    return made
