"""Progress of long calls: a bar on stderr. What is worth keeping goes through ``logging.getLogger("nas")``."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm


def bar(progress: bool | None, **settings: Any) -> tqdm[Any]:
    """A bar that is shown or not; None: on a terminal or in a notebook. Use it in ``with``, so that it is closed."""
    shown = sys.stderr.isatty() or "ipykernel" in sys.modules if progress is None else progress
    return tqdm(disable=not shown, **settings)


@contextlib.contextmanager
def silenced(*names: str) -> Iterator[None]:
    """Within it the loggers of those names (of libraries that talk a lot) say nothing."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
