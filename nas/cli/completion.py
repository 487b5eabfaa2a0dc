"""``nas completion``: what a shell reads to complete commands, flags and names."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Iterator
from typing import Annotated, Literal

from nas.checks import checked
from nas.cli.flags import alternatives

Shell = Literal["bash", "zsh", "fish"]


def add_completion(sub: argparse.ArgumentParser) -> None:
    """The shell."""
    sub.add_argument("shell", choices=typing.get_args(Shell), help="whose completion is printed")


def run_completion(args: argparse.Namespace) -> None:
    """Print the script."""
    print(script(args.shell))


@checked
def script(shell: Annotated[Shell, "whose"]) -> str:
    """What that shell reads: written from the parser of all commands, once, so that completing starts no Python."""
    import shtab

    from nas.cli.app import parser

    whole = parser()
    names = _names()
    for action in _actions(whole):
        if known := alternatives(action) or names.get(action.dest):
            action.choices = known
    text: str = shtab.complete(whole, shell)
    return text


def _names() -> dict[str, tuple[str, ...]]:
    """Of what a flag is named after."""
    import search_spaces
    from nas import searchers
    from nas.deploy import names as formats
    from nas.layouts.pretrained import names as pretrained

    return {
        "space": tuple(search_spaces.names()),
        "searcher": searchers.names(),
        "format": tuple(formats()),
        "pretrained": tuple(pretrained()),
    }


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Of all commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in dict.fromkeys(action.choices.values()):
                yield from _actions(sub)
        else:
            yield action
