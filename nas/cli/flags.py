"""Flags, derived: from the annotations, defaults and help texts of the function or dataclass that takes the values.

A flag that is not given is not in the namespace, so that the one default there is stays where it is written.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal, Union

from nas.checks import checkable, help_of, hints_of, parsed
from nas.errors import BadInput


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def __init__(self, **about: Any) -> None:
        super().__init__(**about | {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False})

    def error(self, message: str) -> Any:
        flag, _, wrong = message.partition(": ")
        if flag.startswith("argument --") and not wrong.startswith(("expected", "not allowed", "ignored")):
            message = wrong  # the value's own line, as Python has it
        else:
            message += f" (nas {self.prog.partition(' ')[2]} --help lists the flags)"
        print(f"nas: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)


def parameters(takes: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Name -> annotation and default, of the parameters of a function or dataclass that values can be written for."""
    hints = hints_of(takes)
    there = inspect.signature(takes).parameters.items()
    return {name: (hints[name], p.default) for name, p in there if name in hints and checkable(hints[name])}


def add_flags(parser: Any, takes: Callable[..., Any], *names: str) -> None:
    """A flag for each parameter of ``takes``, or for those named: ``--batch-size`` for ``batch_size``."""
    for name, (annotation, default) in parameters(takes).items():
        if not names or name in names:
            add_flag(parser, name, annotation, default)


def given(args: argparse.Namespace, takes: Callable[..., Any], *names: str) -> dict[str, Any]:
    """What the command line gave for the parameters of ``takes``, or for those named."""
    return {k: v for k, v in vars(args).items() if k in parameters(takes) and (not names or k in names)}


def add_flag(parser: Any, name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> None:
    """The flag of one parameter; it must be given when there is no default."""
    text, kind = help_of(annotation), _without_none(annotation)
    if isinstance(default, str | int | float) and default is not False:
        text += f" (default {default})"
    elif kind is not bool and default is not inspect.Parameter.empty and "default" not in text:
        text += " (default: none)"
    about: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
    if kind is bool:
        action = argparse.BooleanOptionalAction if default is True else "store_true"
        parser.add_argument(option(name), action=action, **about)
        return
    many = _element(kind)
    about |= {"type": _value(name, many or annotation), "metavar": _metavar(name, many or kind)}
    about["required"] = default is inspect.Parameter.empty
    parser.add_argument(option(name), **about, **({"nargs": "+", "action": "extend"} if many else {}))


def option(name: str) -> str:
    """The flag of a parameter."""
    return f"--{name.replace('_', '-')}"


def alternatives(action: argparse.Action) -> tuple[str, ...]:
    """The texts that a flag takes, where they can be listed."""
    kind = _without_none(getattr(action.type, "annotation", None))
    return tuple(map(str, typing.get_args(kind))) if typing.get_origin(kind) is Literal else ()


def _value(name: str, annotation: Any) -> Callable[[str], Any]:
    def value(text: str) -> Any:
        try:
            return parsed(name, text, annotation)
        except BadInput as error:
            raise argparse.ArgumentTypeError(str(error).replace(name, option(name), 1)) from None

    value.annotation = annotation  # type: ignore[attr-defined]  # for the tests' walk
    return value


def named_in(message: str, given: Sequence[str]) -> str:
    """``message`` with the flags of a command line that it is about.

    "space and around both ..." begins with parameters; in "there is no device 'x'" the x is what a flag was given. What
    names a flag already stays as it is.
    """
    values = dict(_pairs(given))
    if "--" in message:
        return message
    named = re.sub(
        r"^\w+(?: and \w+)*",
        lambda m: " and ".join(option(n) if option(n) in values else n for n in m[0].split(" and ")),
        message,
    )
    about = [flag for flag, value in values.items() if _says(message, value)] if named == message else []
    return f"{about[-1]}: {named}" if about else named


def _pairs(given: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Flags and their texts; of a flag with several the last."""
    for i, text in enumerate(given):
        flag, joined, value = text.partition("=")
        if flag.startswith("--"):
            yield flag, value if joined else next((v for v in given[i + 1 :][:1] if not v.startswith("--")), "")


def _says(message: str, value: str) -> bool:
    """Whether a message repeats what a flag was given, or a part of it between commas; numbers may be any."""
    parts = (part for part in value.split(",") if re.search(r"[^\W\d]", part))
    return any(re.search(rf"(?<!\w){re.escape(part)}(?!\w)", message) for part in parts)


def _without_none(annotation: Any) -> Any:
    """The type itself: without its range, its help, and None."""
    if typing.get_origin(annotation) is Annotated:
        return _without_none(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (Union, types.UnionType):
        kinds = [a for a in typing.get_args(annotation) if a is not type(None)]
        return _without_none(kinds[0]) if len(kinds) == 1 else annotation
    return annotation


def _element(kind: Any) -> Any:
    """What a list or tuple is of, None for anything else."""
    return typing.get_args(kind)[0] if typing.get_origin(kind) in (list, tuple, Sequence) else None


def _metavar(name: str, kind: Any) -> str:
    plain = _without_none(kind)
    if typing.get_origin(plain) is Literal:
        return "{" + ",".join(map(str, typing.get_args(plain))) + "}"
    return {int: "N", float: "X"}.get(plain, name.rpartition("_")[2].upper())
