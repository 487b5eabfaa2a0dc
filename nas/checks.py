"""Ranges, stated once: in the annotation of a field or parameter. ``checked`` refuses every other value in one line.

    @checked
    @dataclass(frozen=True, kw_only=True)
    class Settings:
        epochs: Count = 50

    @checked
    def search(space, *, budget: Count) -> SearchResult: ...

The command line derives its flags from the same annotations (``parsed``), so both refuse with the same words.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, Union

import msgspec
from msgspec import Meta

from nas.errors import BadInput

Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
"""A whole number of things, at least one."""
CountOrNone = Annotated[int, Meta(ge=0, le=1_000_000_000)]
"""A whole number of things, or 0 for none."""
Seed = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Share = Annotated[float, Meta(ge=0, lt=1)]
"""A part of a whole, which is never all of it."""
Probability = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0, le=1e12)]
Threads = Annotated[int, Meta(ge=1, le=1024)]
Batch = Annotated[int, Meta(ge=1, le=65_536)]

_SHOWN = 60  # characters of a wrong value
T = TypeVar("T")


def checked(made: T) -> T:
    """Decorates a dataclass or function: BadInput for a value outside the annotation of its field or parameter.

    Annotations that say more than ``msgspec`` can decide (arrays, protocols, callables) are left to the code.
    """
    if isinstance(made, type):
        return _checked_class(made)  # type: ignore[return-value]
    return _checked_function(made)  # type: ignore[arg-type, return-value]


def check(name: str, value: Any, annotation: Any) -> None:
    """Raises BadInput, one line with what is right and what was given, when ``value`` is not in ``annotation``."""
    plain = value.item() if type(value).__module__ == "numpy" and hasattr(value, "item") else value
    try:
        msgspec.convert(plain, annotation)
    except msgspec.ValidationError:
        raise BadInput(f"{name} is {described(annotation)}, got {shown(value)}") from None


def parsed(name: str, text: str, annotation: Any) -> Any:
    """The value that ``text`` of a command line stands for. Raises BadInput as ``check`` does."""
    try:
        if not text.isascii() and not _takes_text(annotation):
            raise msgspec.ValidationError
        return msgspec.convert(text, annotation, strict=False)
    except msgspec.ValidationError:
        raise BadInput(f"{name} is {described(annotation)}, got {shown(text)}") from None


def described(annotation: Any) -> str:
    """A type with its range in words, such as "a whole number from 1 to 1,024"."""
    meta = _meta(annotation)
    base = typing.get_args(annotation)[0] if typing.get_origin(annotation) is Annotated else annotation
    options = typing.get_args(base) if typing.get_origin(base) in (Union, types.UnionType) else ()
    if options:
        return " or ".join(described(o) for o in options)
    if typing.get_origin(base) is Literal:
        return "one of " + ", ".join(str(v) for v in typing.get_args(base))
    words = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", type(None): "None"}
    return words.get(base, getattr(base, "__name__", str(base))) + (_range(meta) if meta else "")


def shown(value: Any) -> str:
    """A value in an error message: its repr on one line, cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def checkable(annotation: Any) -> bool:
    """Whether ``check`` can decide about this annotation: numbers, texts, and alternatives of them."""
    if typing.get_origin(annotation) is Annotated:
        return checkable(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return all(checkable(a) for a in typing.get_args(annotation))
    return annotation in (int, float, str, bool, type(None)) or typing.get_origin(annotation) is Literal


def help_of(annotation: Any) -> str:
    """The text in an annotation such as ``Annotated[Count, "epochs of training"]``; '' where there is none."""
    return next((a for a in typing.get_args(annotation)[1:] if isinstance(a, str)), "")


def hints_of(made: Any) -> dict[str, Any]:
    """The checkable annotations of a dataclass' fields or a function's parameters, ranges included."""
    # what only type checkers import stays a text, and is not checkable
    names = inspect.get_annotations(made)
    scope = vars(inspect.getmodule(made)) if inspect.getmodule(made) else {}
    hints = {name: _evaluated(hint, scope) for name, hint in names.items() if name != "return"}
    return {name: hint for name, hint in hints.items() if checkable(hint)}


def _evaluated(hint: Any, scope: dict[str, Any]) -> Any:
    if not isinstance(hint, str):
        return hint
    try:
        return eval(hint, {**vars(typing), **scope})  # annotations of our own source, as typing.get_type_hints does
    except (NameError, TypeError, AttributeError):
        return hint


def _checked_class(cls: type[Any]) -> type[Any]:
    hints = hints_of(cls)
    plain = cls.__init__

    @functools.wraps(plain)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        for name, hint in hints.items():
            check(name, getattr(self, name), hint)

    cls.__init__ = init
    return cls


def _checked_function(function: Callable[..., Any]) -> Callable[..., Any]:
    hints = hints_of(function)
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in hints:
                check(name, value, hints[name])
        return function(*args, **kwargs)

    return call


def _meta(annotation: Any) -> Meta | None:
    if typing.get_origin(annotation) is not Annotated:
        return None
    return next((m for m in typing.get_args(annotation)[1:] if isinstance(m, Meta)), None)


def _range(meta: Meta) -> str:
    bounds = (("from", meta.ge), ("above", meta.gt), ("to", meta.le), ("to below", meta.lt))
    return "".join(f" {word} {bound:,.12g}" for word, bound in bounds if bound is not None)


def _takes_text(annotation: Any) -> bool:
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return any(_takes_text(a) for a in typing.get_args(annotation))
    return annotation is str or (typing.get_origin(annotation) is Annotated and typing.get_args(annotation)[0] is str)
