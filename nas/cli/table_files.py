"""Paths and names on the command line to latency tables and their spaces."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from nas.errors import BadInput
from nas.files import first_line, read_text
from nas.space import SearchSpace
from nas.tables.shipped import SHIPPED, stem_of, without_ending
from nas.tables.table import LatencyTable
from nas.tables.whole import WHOLE, About, about_path, read_about

PLACES = (SHIPPED, Path("runs"))
"""Where tables are looked for when no path is given."""

Found = list[tuple[Path, LatencyTable]]


def space_of(table: LatencyTable) -> tuple[SearchSpace | None, str]:
    """The space a table says it was made for, or None and why it cannot be made."""
    import search_spaces

    try:
        return search_spaces.of_table(table.space, table.blocks), ""
    except BadInput as error:
        return None, str(error)


def stems(paths: Sequence[str]) -> list[Path]:
    """Tables (without their ending) in the files and folders given; those of whole networks keep theirs, .csv.gz.

    Raises BadInput where there is none.
    """
    found: list[Path] = []
    if any(not str(p).strip() for p in paths):
        raise BadInput("a path is not empty; name a table or a folder of them")
    for given in paths or [str(p) for p in PLACES if p.is_dir()]:
        if Path(given).name.endswith(WHOLE) and Path(given).is_file():
            found.append(Path(given))
        elif Path(given).is_dir():
            found += sorted({without_ending(p) for p in Path(given).rglob("*.json") if is_table(p)})
            found += sorted(p for p in Path(given).rglob(f"*{WHOLE}") if is_whole(p))
        else:
            found.append(stem_of(given))
    if not found:
        places = ", ".join(str(p) for p in paths or PLACES)
        raise BadInput(f"no latency tables in {places}; nas measure makes one")
    return list(dict.fromkeys(found))


def is_table(path: Path) -> bool:
    """Whether this .json is that of a latency table."""
    try:
        return path.with_suffix(".csv").is_file() and '"calibration"' in path.read_text(errors="replace")
    except OSError:  # unreadable, or gone meanwhile
        return False


def is_whole(path: Path) -> bool:
    """Whether it is a table of whole networks."""
    return path.name.endswith(WHOLE) and about_path(path).exists()


def whole(path: Path) -> tuple[About, int]:
    """What a table of whole networks says of itself, and of how many devices it has latencies. Raises BadInput."""
    try:
        with gzip.open(path, "rt") as file:
            columns = file.readline().split(",")
    except (OSError, EOFError, UnicodeError) as error:
        raise BadInput(f"{path} is damaged: {first_line(error)}") from None
    return read_about(path), sum(name.startswith("latency_ms") for name in columns)


def load(paths: Sequence[str]) -> Found:
    """The tables there. Raises BadInput for one that is damaged, and where there is none of blocks."""
    found = [stem for stem in stems(paths) if not is_whole(stem)]
    if not found:
        raise BadInput(f"{', '.join(paths)}: tables of whole networks have no blocks; nas tables heatmap takes them")
    return [(stem, LatencyTable.load(stem)) for stem in found]


def loadable(paths: Iterable[Path]) -> dict[Path, LatencyTable]:
    """Those that are not damaged."""
    tables = {}
    for stem in paths:
        try:
            tables[stem] = LatencyTable.load(stem)
        except BadInput:
            continue  # the caller says so
    return tables


def readable(paths: Sequence[str]) -> tuple[Found, list[Path]]:
    """Tables, and tables of whole networks; damaged ones in folders are named and left out."""
    found, others = [], []
    asked_for = [Path(p) for p in paths]
    for stem in stems(paths):
        if is_whole(stem):
            others.append(stem)
            continue
        try:
            found.append((stem, LatencyTable.load(stem)))
        except BadInput as error:
            if any(stem == p or (p.parent, p.stem) == (stem.parent, stem.name) for p in asked_for):
                raise
            logging.getLogger("nas").info("note: left out: %s", error)
    return found, others


def sisters(stem: Path, table: LatencyTable | None, besides: Sequence[Path] = ()) -> list[LatencyTable]:
    """The tables of the same space beside ``stem``, to compare with."""
    if table is None or not table.space:
        return []
    beside = {without_ending(p) for p in stem.parent.glob("*.json") if is_table(p)} - {stem, *besides}
    return [t for t in loadable(sorted(beside)).values() if t.space == table.space]


def timings(path: str) -> tuple[list[str], list[float]]:
    """Architectures and milliseconds of a filled-in list. Raises BadInput for what is none, and for empty lines."""
    import csv

    try:
        rows = list(csv.DictReader(read_text(path).splitlines(), strict=True))
        texts, written = [str(row["architecture"]) for row in rows], [str(row["ms"] or "").strip() for row in rows]
        if not rows:
            raise BadInput(f"{path} has no networks in it; a list has the columns architecture and ms")
        if empty := written.count(""):
            raise BadInput(
                f"{path}: {empty} of {len(rows)} networks have no ms yet; fill them in or delete their lines"
            )
        return texts, [float(ms) for ms in written]
    except BadInput:
        raise
    except (ValueError, KeyError, csv.Error) as error:
        raise BadInput(f"{path} is not a list with the columns architecture and ms: {first_line(error)}") from None
