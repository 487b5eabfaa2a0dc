"""Ranges, stated once: in the annotation of a field or parameter. ``checked`` refuses every other value in one line.

    @checked
    @dataclass(frozen=True, kw_only=True)
    class Settings:
        epochs: Annotated[Count, "epochs of supernet training"] = 50

    @checked
    def search(space: SearchSpace, *, budget: Count) -> SearchResult: ...

The command line derives its flags from the same annotations (``parsed``), so both refuse with the same words.
"""

from __future__ import annotations

import ast
import collections.abc
import functools
import importlib
import inspect
import os
import re
import sys
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
Finite = Annotated[float, Meta(ge=-1.7e308, le=1.7e308)]
Threads = Annotated[int, Meta(ge=1, le=1024)]
Workers = Annotated[int, Meta(ge=1, le=4096)]
Batch = Annotated[int, Meta(ge=1, le=65_536)]
Bytes = Annotated[int, Meta(ge=1, le=2**50, extra={"unit": "bytes"})]
"""A size of memory; on the command line also as 256KB or 1MB (1024 and 1024² bytes, as microcontrollers' are)."""
Text = Annotated[str, Meta(min_length=1, max_length=10_000, pattern=r"^[^\0]*$")]
"""A text that says something."""
FilePath = Annotated[str | os.PathLike[str], Meta(min_length=1, pattern=r"^[^\0]*$")]
"""A path that is not empty; whether it can be read or written is for ``nas.files`` to say."""

_SHOWN = 60  # characters of a wrong value
_UNITS = {"": 1, "b": 1, "k": 1024, "kb": 1024, "kib": 1024, "m": 1024**2, "mb": 1024**2, "mib": 1024**2}
_CONTAINERS = (
    list,
    tuple,
    set,
    frozenset,
    dict,
    *(getattr(collections.abc, n) for n in ("Sequence", "Iterable", "Mapping")),
)
_LEAVES = (int, float, str, bool, bytes)
T = TypeVar("T")


def checked(made: T) -> T:
    """Decorates a class or function: BadInput for an argument outside the annotation of its field or parameter.

    A class' constructor is what is checked. Annotations that say more than can be decided here (arrays, type
    variables) are left to the code; defaults are trusted.
    """
    if isinstance(made, type):
        _read_inherited(made)
        made.__init__ = _checked_function(made.__init__)  # type: ignore[misc]
        return made
    return _checked_function(made)  # type: ignore[arg-type, return-value]


def check(name: str, value: Any, annotation: Any) -> None:
    """Raises BadInput, one line with what is right and what was given, when ``value`` is not in ``annotation``."""
    if not fits(value, annotation):
        raise BadInput(f"{name} is {described(annotation)}, got {shown(value)}")


def fits(value: Any, annotation: Any) -> bool:
    """Whether ``value`` is in ``annotation``; True where the annotation says more than can be decided here."""
    return any(_is_a(value, base, meta) for base, meta in _kinds(annotation))


def parsed(name: str, text: str, annotation: Any) -> Any:
    """The value that ``text`` of a command line stands for; "none" where the annotation allows None.

    Raises BadInput as ``check`` does.
    """
    kinds = _kinds(annotation)
    if (type(None), None) in kinds and text.lower() == "none":
        return None
    try:
        return _read(text, [(base, meta) for base, meta in kinds if base is not type(None)])
    except (msgspec.ValidationError, BadInput):
        raise BadInput(f"{name} is {described(annotation)}, got {shown(text)}") from None


def described(annotation: Any) -> str:
    """A type with its range in words, such as "a whole number from 1 to 1,024"."""
    base, meta = _plain(annotation)
    options = typing.get_args(base) if typing.get_origin(base) in (Union, types.UnionType) else ()
    if options:
        within = Annotated[Any, meta] if meta else Any
        return " or ".join(dict.fromkeys(described(o) for o in options)) + described(within).removeprefix("anything")
    if typing.get_origin(base) is Literal:
        return "one of " + ", ".join(str(v) for v in typing.get_args(base))
    if typing.get_origin(base) in _CONTAINERS:
        return _described_container(base)
    words: dict[Any, str] = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "True or False",
        type(None): "None",
    }
    words |= {Any: "anything", os.PathLike: "a path", collections.abc.Callable: "a function"}
    kind = base if base in words else typing.get_origin(base) or base
    if meta and (meta.extra or {}).get("unit") == "bytes":
        return "a number of bytes (256KB, 1MB)" + _range(meta)
    return words.get(kind, f"a {getattr(kind, '__name__', kind)}") + (_range(meta) if meta else "")


def shown(value: Any) -> str:
    """A value in an error message: its repr on one line, cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a repr of the user's own that fails, or a whole number of too many digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def checkable(annotation: Any) -> bool:
    """Whether a text on the command line can stand for it: numbers, texts, paths, and alternatives or lists of them."""
    for base, _ in _kinds(annotation):
        origin = typing.get_origin(base)
        inside = [a for a in typing.get_args(base) if a is not Ellipsis] if origin in (list, tuple) else []
        plain = base in (*_LEAVES, type(None), os.PathLike) or origin in (Literal, os.PathLike)
        if not plain and not (inside and all(map(checkable, inside))):
            return False
    return True


def help_of(annotation: Any) -> str:
    """The text in an annotation such as ``Annotated[Count, "epochs of training"]``; '' where there is none."""
    return next((a for a in typing.get_args(annotation)[1:] if isinstance(a, str)), "")


def hints_of(made: Any) -> dict[str, Any]:
    """The annotations of a class' constructor or a function's parameters, ranges included.

    What only type checkers import stays a text.
    """
    function = inspect.unwrap(getattr(made, "__init__") if isinstance(made, type) else made)  # noqa: B009
    hints = inspect.get_annotations(function)
    return {
        name: _evaluated(hint, getattr(function, "__globals__", {})) for name, hint in hints.items() if name != "return"
    }


def _read_inherited(made: type) -> None:
    """Annotations of fields that a base in another file states mean what they mean there."""
    hints = inspect.get_annotations(made.__init__)  # type: ignore[misc]
    for name in set(hints) - set(inspect.get_annotations(made)):
        home = next((base for base in made.__mro__ if name in inspect.get_annotations(base)), made)
        hints[name] = _evaluated(hints[name], vars(sys.modules[home.__module__]))
    made.__init__.__annotations__ = hints  # type: ignore[misc]


def _evaluated(hint: Any, scope: dict[str, Any]) -> Any:
    if not isinstance(hint, str):
        return hint
    try:
        return eval(hint, {**vars(typing), **scope})  # annotations of our own source, as typing.get_type_hints does
    except (NameError, TypeError, AttributeError):
        return hint


def _plain(annotation: Any) -> tuple[Any, Meta | None]:
    """The type without its annotations, and its range."""
    if typing.get_origin(annotation) is not Annotated:
        return annotation, None
    base, *about = typing.get_args(annotation)
    return base, next((m for m in about if isinstance(m, Meta)), None)


def _late(function: Callable[..., Any], hint: str) -> Any:
    """An annotation whose classes the function's module imports for type checkers only, which are there at a call."""
    imported: dict[str, Any] = {}
    try:
        for node in ast.walk(ast.parse(inspect.getsource(sys.modules[function.__module__]))):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported |= {a.asname or a.name: (node.module, a.name) for a in node.names}
        names = {n.id for n in ast.walk(ast.parse(hint)) if isinstance(n, ast.Name)} & set(imported)
        found = {name: getattr(importlib.import_module(imported[name][0]), imported[name][1]) for name in names}
    except (OSError, SyntaxError, ImportError, AttributeError):
        return Any
    late = _evaluated(hint, {**function.__globals__, **found})
    return Any if isinstance(late, str) else late


def _is_a(value: Any, base: Any, meta: Meta | None) -> bool:
    origin, options = typing.get_origin(base), typing.get_args(base)
    if base is type(None):
        return value is None
    if origin is Literal or base in _LEAVES:
        plain = value.item() if _is_numpy_scalar(value) else value
        return _converts(plain, Annotated[base, meta] if meta else base)
    if origin in _CONTAINERS:
        return _contains(value, origin, options)
    if getattr(origin, "__name__", "") == "ndarray":
        return isinstance(value, list | tuple) or hasattr(value, "__array__")
    if collections.abc.Callable in (base, origin):
        return callable(value)
    kind = origin if isinstance(origin, type) else base
    return not isinstance(kind, type) or _undecidable(kind) or isinstance(value, kind)


def _undecidable(kind: type) -> bool:
    if getattr(kind, "_is_protocol", False):
        return not getattr(kind, "_is_runtime_protocol", False)
    return kind in (Any, object) or kind.__module__ == "numpy._typing._array_like"


def _is_numpy_scalar(value: Any) -> bool:
    return any(k.__module__ == "numpy" and k.__name__ == "generic" for k in type(value).__mro__)


def _converts(value: Any, annotation: Any) -> bool:
    try:
        msgspec.convert(value, annotation)
    except (msgspec.ValidationError, OverflowError):
        return False
    return True


def _contains(value: Any, origin: Any, options: tuple[Any, ...]) -> bool:
    if not isinstance(value, origin) or isinstance(value, str | bytes):
        return False
    if isinstance(value, collections.abc.Mapping):
        return len(options) != 2 or all(fits(k, options[0]) and fits(v, options[1]) for k, v in value.items())
    if not isinstance(value, collections.abc.Sequence):  # an iterator is read once only
        return True
    if origin is tuple and Ellipsis not in options:
        return len(value) == len(options) and all(fits(v, o) for v, o in zip(value, options, strict=True))
    return all(fits(v, options[0]) for v in value)


@functools.cache
def _kinds(annotation: Any) -> list[tuple[Any, Meta | None]]:
    """The alternatives of an annotation, each with its range."""
    base, meta = _plain(annotation)
    if typing.get_origin(base) not in (Union, types.UnionType):
        return [(base, meta)]
    kinds = [kind for option in typing.get_args(base) for kind in _kinds(option)]
    return [(kind, own or (None if kind is type(None) else meta)) for kind, own in kinds]


def _read(text: str, kinds: list[tuple[Any, Meta | None]]) -> Any:
    for base, meta in kinds:
        if meta and (meta.extra or {}).get("unit") == "bytes":
            return _bytes(text, base, meta)
        is_text = base is str or os.PathLike in (base, typing.get_origin(base))
        value = text if is_text else msgspec.convert(text, base, strict=False)
        if fits(value, Annotated[base, meta] if meta else base) and value == value:  # NaN is not
            return value
    raise BadInput(text)


def _bytes(text: str, base: Any, within: Meta) -> int:
    parts = re.fullmatch(r"(\d{1,18}(?:\.\d{0,9})?)\s*([A-Za-z]*)", text.strip(), re.ASCII)
    if parts is None or parts[2].lower() not in _UNITS:
        raise BadInput(text)
    value = round(float(parts[1]) * _UNITS[parts[2].lower()])
    if not fits(value, Annotated[base, within]):
        raise BadInput(text)
    return value


def _range(meta: Meta) -> str:
    bounds = (("from", meta.ge), ("above", meta.gt), ("to", meta.le), ("to below", meta.lt))
    words = "".join(f" {word} {bound:,.12g}" for word, bound in bounds if bound is not None and abs(bound) < 1e300)
    words += ", which is finite" if (meta.le or 0) >= 1e300 else ""
    return words + (" that is not empty" if meta.min_length == 1 else "")


def _described_container(base: Any) -> str:
    options = [o for o in typing.get_args(base) if o is not Ellipsis]
    each = f", each {', '.join(dict.fromkeys(described(o) for o in options))}" if options else ""
    return {collections.abc.Mapping: "a mapping", tuple: "a tuple"}.get(typing.get_origin(base), "a list") + each


def _checked_function(function: Callable[..., Any]) -> Callable[..., Any]:
    hints = hints_of(function)
    signature = inspect.signature(function)
    many = {p.name for p in signature.parameters.values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    places = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if many or len(args) > len(places):
            given = signature.bind(*args, **kwargs).arguments
        else:  # the same in a fraction of the time, which searchers spend on every call
            given = dict(zip(places, args, strict=False)) | kwargs
        for name, value in given.items():
            if name in hints:
                if isinstance(hints[name], str) and value is not None:
                    hints[name] = _late(inspect.unwrap(function), hints[name])
                values = value.values() if isinstance(value, dict) else value
                for one in values if name in many else (value,):
                    check(name, one, hints[name])
        return function(*args, **kwargs)

    return call
