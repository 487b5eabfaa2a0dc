"""What report pages are made of: sections of texts, facts, charts and tables. All HTML is in ``templates/``, escaped there."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from nas.files import write_text
from nas.report.chart import Chart


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a table: what is shown, what it is sorted by (default: the same), how dark it is, from 0 to 1."""

    text: str
    value: Any = None
    shade: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Table:
    """A sortable table; with ``folded`` (its heading) it is closed at first."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    folded: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page, shown in the order of the fields. ``missing``: what is not there, and the command that makes it."""

    title: str
    missing: tuple[str, str] | None = None
    text: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()


def write_page(path: Path, title: str, sections: Iterable[Section]) -> Path:
    """Write one self-contained page that opens offline. Raises BadInput when it cannot be written."""
    write_text(path, _template().render(title=title, sections=list(sections)) + "\n")
    return path


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nas.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")
