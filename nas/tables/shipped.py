"""Where tables are: as paths, or by the names of those that ship (``latency_tables``, a folder beside this package)."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from nas.errors import BadInput
from nas.files import short

SHIPPED = Path(__file__).parents[2] / "latency_tables"
"""In a checkout and in an installed wheel alike."""


def stem_of(name: str | os.PathLike[str]) -> Path:
    """The path, without ending, of a table given as a path or, without a folder, by a shipped name.

    Raises BadInput for what is neither.
    """
    path = without_ending(name)
    places = [path, *([SHIPPED / path.name] if path.name == str(path) else [])]
    try:
        if found := [p for p in places if any(p.with_name(p.name + end).is_file() for end in (".csv", ".json"))]:
            return found[0]
        folder = path.is_dir()
    except OSError as error:  # a name that is too long, a loop of links
        raise BadInput(f"{short(path)} cannot be read: {error.strerror}") from None
    if folder:
        raise BadInput(f"{short(path)} is a folder; name a table, which is two files there, .csv and .json")
    shipped = sorted(p.stem for p in SHIPPED.glob("*.csv"))
    near = difflib.get_close_matches(path.name, shipped, n=3, cutoff=0.5)
    raise BadInput(
        f"{short(path)} does not exist; a table is two files, .csv and .json, side by side, or the name of one that "
        f"ships{', such as ' + ', '.join(near) if near else ': nas tables lists them'}"
    )


def without_ending(name: str | os.PathLike[str]) -> Path:
    """A table's path without .csv or .json. Raises BadInput for what is no path."""
    text = os.fspath(name)
    if not text.strip() or "\0" in text or Path(text).name in ("", "..", "~"):
        raise BadInput(f"a latency table is a path or the name of one that ships, got {text[:60]!r}")
    path = Path(text)
    return path.with_suffix("") if path.suffix in (".csv", ".json") else path
