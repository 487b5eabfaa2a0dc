"""Progress bars: ``progress=None`` shows one to people (a terminal, a notebook), True always, False never."""

from __future__ import annotations

import sys

from tqdm import tqdm


def bar(progress: bool | None, *, total: int, desc: str, unit: str, initial: int = 0) -> tqdm:
    """A bar on the standard error output; it is closed by its ``with``, whatever happens there."""
    if progress is None:
        progress = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(total=total, initial=initial, desc=desc, unit=unit, disable=not progress)
