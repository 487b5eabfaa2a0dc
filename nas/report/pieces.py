"""What the report pages are made of: the document, tables, figures."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from nas.report.style import CSS, SCRIPT
from nas.report.svg import Chart


def document(title: str, sections: Iterable[tuple[str, str]]) -> str:
    """A self-contained page; ``sections``: heading and HTML."""
    body = "".join(f"<section><h2>{heading}</h2>{text}</section>" for heading, text in sections)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{CSS}</style></head>'
        f"<body><main><h1>{escape(title)}</h1>{body}</main><div id='tip' role='status'></div><script>{SCRIPT}</script></body></html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[tuple[Any, str]]]) -> str:
    """A sortable table; each cell is (value to sort by, text to show)."""
    top = "".join(f"<th tabindex='0'>{escape(h)}</th>" for h in head)
    body = "".join(
        "<tr>" + "".join(f"<td data-v='{escape(str(v))}'>{escape(text)}</td>" for v, text in row) + "</tr>"
        for row in rows
    )
    return f"<div class='scroll'><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def figure(chart: Chart, note: str = "") -> str:
    caption = f"<p class='note'>{escape(note)}</p>" if note else ""
    return f"<figure>{chart.render()}</figure>{caption}"


def escape(text: Any) -> str:
    """Text as it may stand in HTML."""
    return html.escape(str(text), quote=True)
