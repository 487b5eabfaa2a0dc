"""Tables of whole networks, such as NAS-Bench-201's: ``<name>.csv.gz``, and what it says of itself, ``<name>.json``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nas.files import read_json

WHOLE = ".csv.gz"


@dataclass(frozen=True, kw_only=True)
class About:
    """The .json beside a table of whole networks. ``columns``: what each holds, in words."""

    kind: str = ""
    space: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    source: str = ""
    licence: str = ""
    notes: str = ""


def about_path(path: Path) -> Path:
    """The .json of ``<name>.csv.gz``."""
    return path.with_name(path.name.removesuffix(WHOLE) + ".json")


def read_about(path: Path) -> About:
    """What the table ``<name>.csv.gz`` says of itself. Raises BadInput when that is missing or damaged."""
    return read_json(about_path(path), About)
