"""What a latency was measured on: the identity of a device, and what is known of this machine (no torch)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nas.checks import Batch, Threads, checked
from nas.on_device.device import affinity, cpu_name as cpu_name


@checked
@dataclass(frozen=True, kw_only=True)
class Device:
    """The identity of a latency: two that differ in any field here are different quantities.

    ``name``: of the board or machine, ``chip``: what computes; ``runtime`` and its ``version``, such as "onnxruntime" and
    "1.20.1"; ``precision``: "fp32" or "int8"; ``batch``: images per call.
    """

    name: str
    chip: str
    runtime: str
    version: str
    precision: str
    batch: Batch = 1
    threads: Threads = 1

    @property
    def key(self) -> str:
        """File-name form, such as ``epyc-7763_onnxruntime_int8_b1_t1``."""
        return f"{slug(self.name)}_{slug(self.runtime)}_{self.precision}_b{self.batch}_t{self.threads}"


def cores() -> int:
    """CPU cores this process may use."""
    return len(affinity())


def slug(text: str) -> str:
    """Lower case, words joined by dashes: safe in file names."""
    words = re.sub(r"\((r|tm)\)", "", text.lower())
    return re.sub(r"[^a-z0-9.]+", "-", words).strip("-") or "unknown"
