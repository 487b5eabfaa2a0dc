"""Progress of long calls: a bar on stderr. What is worth keeping goes through ``logging.getLogger("nas")``."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def bar(progress: bool | None, **settings: Any) -> tqdm[Any]:
    """A bar that is shown or not; None: on a terminal or in a notebook. Use it in ``with``, so that it is closed."""
    shown = sys.stderr.isatty() or "ipykernel" in sys.modules if progress is None else progress
    return tqdm(disable=not shown, **settings)
