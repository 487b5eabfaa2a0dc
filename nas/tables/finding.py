"""What a look at a latency table finds, and what every look needs."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas.tables.table import LatencyTable

SAME = 3e-5
"""Relative difference of numbers that are the same: tables are stored with six digits."""

FEWEST = 5
"""Rows before anything is said of how alike or how straight they are."""

_CLASSES = (
    ("NPU", r"ethos|vela|edgetpu|hexagon|hailo|ascend"),
    ("microcontroller", r"cortex-m|tflm|tensorflow lite micro|x-cube|nucleo|disco|esp32"),
    ("GPU", r"cuda|tensorrt|trtexec|gpu|nvidia|gtx|rtx|\d{4}ti\b|titan|tesla|\b[avh]\d00\b|jetson|xavier|orin|\btx2"),
    ("accelerator", r"eyeriss|fpga|simulator|\bhls\b|\bdsp\b"),
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """``severity``: "error" (do not use the table as it is) or "warning". ``rows``: keys of the blocks concerned."""

    severity: str
    code: str
    message: str
    rows: tuple[str, ...] = ()


def error(code: str, message: str, rows: tuple[str, ...] = ()) -> Finding:
    return Finding(severity="error", code=code, message=message, rows=rows)


def warning(code: str, message: str, rows: tuple[str, ...] = ()) -> Finding:
    return Finding(severity="warning", code=code, message=message, rows=rows)


def device_class(table: LatencyTable) -> str:
    """CPU, GPU, NPU, microcontroller or accelerator, from what the table says of its device; CPU where it says nothing."""
    text = f"{table.device.name} {table.device.chip} {table.device.runtime}".lower()
    return next((name for name, pattern in _CLASSES if re.search(pattern, text)), "CPU")


def digits(values: ArrayLike) -> NDArray[np.int64]:
    """``(n,)``: significant digits, six at most; numbers with few were rounded by their source, so equality says nothing."""
    written = (f"{v:.5e}".partition("e")[0] for v in np.asarray(values, dtype=np.float64))
    return np.array([len(text.replace(".", "").strip("0")) for text in written], dtype=np.int64)
