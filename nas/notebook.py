"""What a notebook shows of an object: its repr and a table, escaped."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_ROWS = 20


def html_table(about: Any, frame: pd.DataFrame) -> str:
    """HTML for ``_repr_html_``: ``repr(about)`` above the first rows of ``frame``, numbers with four digits."""
    more = f"; {_ROWS} of {len(frame):,} rows shown" if len(frame) > _ROWS else ""
    style = frame.head(_ROWS).style.hide(axis="index").set_caption(html.escape(repr(about) + more))
    numbers: dict[Any, Any] = {name: "{:.4g}" for name in frame.select_dtypes("float")}
    return style.format(numbers, escape="html").set_table_attributes('style="white-space: nowrap"').to_html()
