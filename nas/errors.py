"""The errors that mean "the request cannot be met as given": the CLI prints each as one line and exits 2.

Anything else that escapes is a bug, and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable


class NasError(Exception):
    """Base of every error whose message is written for the user."""


class BadInput(NasError, ValueError):
    """A value from outside is wrong. The message says what was wrong, what was seen, what would be right."""


class Unwritable(BadInput):
    """The system refuses to write: a full or read-only disk, a folder without permission."""


class Busy(BadInput):
    """Another process is at work in a folder; the message has its number."""


class MissingBlocks(NasError, LookupError):
    """A table does not cover blocks that a space or network needs.

    ``keys``: the keys of the missing blocks.
    """

    def __init__(self, table: str, keys: Iterable[str]) -> None:
        self.keys = tuple(keys)
        first = ", ".join(self.keys[:3]) + (", ..." if len(self.keys) > 3 else "")
        super().__init__(
            f"table {table} lacks {len(self.keys)} of the blocks asked for ({first}); "
            "measure a table for this space (nas measure), or call nas.estimate for an estimate"
        )


class Infeasible(NasError, ValueError):
    """A constraint that no architecture meets, of the space or of those evaluated; the message says what is nearest."""


class MissingPackage(NasError, ImportError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; it comes with the extra '{extra}': pip install 'nas[{extra}]'")
