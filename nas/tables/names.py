"""What a latency table's files are called in a run folder: ``table_<name>.csv``, ``.json``, ``_networks.csv``."""

from __future__ import annotations

from pathlib import Path

from nas.files import file_name

_START, _NETWORKS = "table_", "_networks.csv"


def table_stem(folder: Path, name: str, what: str = "a table name") -> Path:
    """The table called ``name`` (a precision, say) of a folder, without ending. Raises BadInput for a name that is none."""
    return folder / f"{_START}{file_name(name, what)}"


def networks_path(stem: Path) -> Path:
    """The whole networks that were timed for a table, beside it."""
    return stem.with_name(stem.name + _NETWORKS)


def tables_in(folder: Path) -> dict[str, Path]:
    """Name -> stem of every finished table of a folder."""
    stems = [p.with_suffix("") for p in sorted(folder.glob(f"{_START}*.json"))]
    return {stem.name.removeprefix(_START): stem for stem in stems}
