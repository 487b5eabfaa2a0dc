"""What several commands print."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from nas.runs.artefacts import Failure
    from nas.tables.table import LatencyTable

Row = dict[str, str]
_LEFT = {
    "table",
    "chip",
    "runtime",
    "precision",
    "kind",
    "space",
    "block",
    "searcher",
    "device",
    "spaces",
    "about",
    "best",
}


def print_rows(rows: Sequence[Row], *, indent: int = 0) -> None:
    """Aligned columns: text to the left, numbers to the right."""
    if not rows:
        return
    table = [list(rows[0]), *([row[k] for k in rows[0]] for row in rows)]
    wide = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        cells = [
            text.ljust(w) if name in _LEFT else text.rjust(w)
            for text, w, name in zip(line, wide, table[0], strict=True)
        ]
        print((" " * indent + "  ".join(cells)).rstrip())


def print_table(stem: Path, table: LatencyTable) -> None:
    """What a latency table is of, and how well it predicts."""
    import search_spaces

    v, d = table.validation, table.device
    checked = (
        f"on {v.networks} other networks: Kendall tau {v.kendall_tau:.3f}, mean error {v.mape:.1%}, "
        f"{v.within_10pct:.0%} within 10%"
        if v
        else "not validated"
    )
    made_with = f"{d.chip}, {d.runtime} {d.version}, {d.precision}, batch {d.batch}, {d.threads} thread(s)"
    print(f"{stem}: {table.kind} {table.date}, {made_with}")
    print(f"  {len(table.rows)} blocks of {table.space.get('name', '-')}; {checked}")
    known = [n for n in search_spaces.names() if n.replace(".", "_") == table.space.get("name")]
    more = [*(f"--space {name}" for name in known), *([] if v else ["--unvalidated-table"])]
    print("  search for it: " + " ".join(["nas quickstart --table", shlex.quote(str(stem)), *more]))


def print_final(final: pd.DataFrame, failures: Sequence[Failure], test_images: int) -> None:
    """The final table of a run, with the columns that are for the command line, and what is not in it, and why.

    Accuracies on the test images have intervals: of a few images they say little.
    """
    from nas.runs.artefacts import FINAL
    from nas.units import interval

    written: dict[str, Callable[[Any], str]] = {
        "text": str,
        "share": lambda v: f"{100 * v:.1f}",
        "ms": lambda v: "-" if v != v else f"{1000 * v:.1f}",
        "ratio": lambda v: "-" if v != v else f"{v:.2f}",
        "flag": lambda v: "*" if v else "",
    }
    briefs = [c for c in FINAL if c.brief and c.name in final]
    columns: dict[str, Any] = {c.brief: final[c.name].map(written.get(c.kind, str)) for c in briefs}
    for column in (c for c in briefs if c.name.endswith("_test_accuracy")):
        low, high = interval(final[column.name], test_images)
        ends = zip(columns[column.brief], 100 * low, 100 * high, strict=True)
        columns[column.brief] = [f"{text} ({a:.0f}..{b:.0f})" for text, a, b in ends]
    print(final.assign(**columns)[list(columns)].to_string(index=False))
    print(f"in brackets: 95% confidence intervals; there are {test_images} test images")
    for failure in failures:
        print(f"{failure.id} failed: {failure.error}")
