"""What a runtime is: something that prepares a network and times runs of it on one device."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Device:
    """The identity of a latency: two that differ in any field here are different quantities."""

    name: str
    chip: str
    runtime: str
    version: str
    precision: str
    batch: int = 1
    threads: int = 1

    @property
    def key(self) -> str:
        """File-name form, such as ``epyc-7763_onnxruntime_int8_b1_t1``."""
        return f"{slug(self.name)}_{slug(self.runtime)}_{self.precision}_b{self.batch}_t{self.threads}"


class Runtime(Protocol):
    """How often to run, in what order, and what is an outlier is not a runtime's business: that is the campaign's."""

    @property
    def device(self) -> Device: ...

    def prepare(self, network: nn.Module | Path, input_shape: tuple[int, int, int]) -> Any:
        """Load a network (or an exported file) so that ``time`` can run it."""

    def time(self, prepared: Any, repeats: int) -> NDArray[np.float64]:
        """Milliseconds per run, ``(repeats,)``."""


def cpu_name() -> str:
    """The CPU's model name, as the operating system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "cpu"


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slug(text: str) -> str:
    """Lower case, words joined by dashes: safe in file names."""
    words = re.sub(r"\((r|tm)\)", "", text.lower())
    return re.sub(r"[^a-z0-9.]+", "-", words).strip("-") or "unknown"
