"""Power: from the files in which a system tells it, sampled while something runs."""

# ruff: noqa: UP006, UP035 - Python 3.8
from __future__ import annotations

import glob
import math
import statistics
import threading
import time
from typing import Any, Callable, List

from .device import Json, text_of

WINDOW_S = 0.3
"""How long a network runs alone for its energy: hundreds of updates of RAPL, a few of a board's sensor."""
EVERY_S = 0.01

Rail = List[Any]
"""[label, file, file or None, factor]: the power is the product of the files times the factor, in W."""


def power_rails(root: str = "/sys") -> List[Rail]:
    """The INA3221 of a Jetson: its supply rail where it has that name, else all rails of its first chip, to be summed."""
    rails: List[Rail] = []
    for hwmon in sorted(glob.glob(f"{root}/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*")):
        channels = [(text_of(f"{hwmon}/in{c}_label"), f"{hwmon}/in{c}_input", f"{hwmon}/curr{c}_input") for c in "123"]
        here: List[Rail] = [[name, v, a, 1e-6] for name, v, a in channels if name and text_of(v) and text_of(a)]
        if supply := [rail for rail in here if rail[0] in ("VDD_IN", "POM_5V_IN")]:  # mV and mA
            return supply
        rails = rails or here
    old = sorted(glob.glob(f"{root}/bus/i2c/drivers/ina3221x/*/iio:device*/in_power0_input"))  # mW
    return rails or [["in_power0", path, None, 1e-3] for path in old[:1]]


class Power:
    """Samples the rails while it is open, and sums them; nothing when there are none."""

    def __init__(self, rails: List[Rail]) -> None:
        self.rails = rails
        self.samples: List[tuple[float, float]] = []
        self.total = 0.0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Power:
        if self.rails:
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.end = time.time()
        if self.rails:
            self.thread.join()

    def joules(self) -> float:
        """A count that only grows; NaN once a sensor has stopped answering: what it took since is unknown, not 0."""
        return self.total if self.rails else math.nan

    def watts(self) -> float:
        """The power now. Raises ValueError when a sensor does not answer."""
        values = [[float(text_of(str(path)) or "") for path in rail[1:3] if path] for rail in self.rails]
        return sum(math.prod(v) * rail[3] for v, rail in zip(values, self.rails))  # noqa: B905

    def window(self, before_end: float = 0.0) -> Json:
        """{watts, begin, end} over WINDOW_S, ``before_end`` seconds before it was closed; {} without samples."""
        end = self.end - before_end
        watts = [w for at, w in self.samples if end - WINDOW_S <= at <= end]
        return {"watts": statistics.mean(watts), "begin": end - WINDOW_S, "end": end} if watts else {}

    def _sample(self) -> None:
        last = time.monotonic()
        while not self.stop.wait(EVERY_S):
            now = time.monotonic()
            try:
                watts = self.watts()
                self.samples.append((time.time(), watts))
            except ValueError:
                watts = math.nan
            self.total += watts * (now - last)
            last = now


def sustained(run: Callable[[], object], joules: Callable[[], float], seconds: float | None = None) -> Json:
    """{begin, end, watts} of ``run``, repeated without pause for ``seconds`` (WINDOW_S); no watts where none are known."""
    begin, before = time.time(), joules()
    stop = time.monotonic() + (WINDOW_S if seconds is None else seconds)
    while time.monotonic() < stop:
        run()
    end, after = time.time(), joules()
    watts = (after - before) / max(1e-9, end - begin)
    return {"begin": begin, "end": end, **({"watts": watts} if math.isfinite(watts) else {})}
