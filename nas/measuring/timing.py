"""Timing several networks fairly: in turns, robustly, and if wanted in a process of their own that may die."""

from __future__ import annotations

import gc
import math
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nas.blocks import Block
from nas.errors import NasError
from nas.measuring.energy import Meter, Window, sustain
from nas.modules import Network, build
from nas.runtimes import Runtime

MIN_ROUNDS, MAX_ROUNDS = 6, 24
SAMPLES = 4  # per visit; the first finds cold caches and is dropped
TIGHT = 0.02  # a network is done when the 95% interval of its median is within ±2%
GROUP_TIMEOUT_S = 900.0  # a group takes seconds; after this the runtime hangs
_FAREWELL_S = 5.0


@dataclass(frozen=True, eq=False)
class Timed:
    """Samples ``ms (n,)`` of one network; ``window``: while it ran without pause, if energy was asked for."""

    ms: NDArray[np.float64]
    window: Window | None = None


@dataclass(frozen=True)
class Failure:
    """A network that could not be timed, and why."""

    text: str


class Timer(Protocol):
    """Times networks, each given as its blocks; a single block counts as a network. ``energy``: windows as well."""

    def __call__(self, networks: Sequence[Sequence[Block]], *, energy: bool = False) -> list[Timed | Failure]: ...


@dataclass(frozen=True)
class Direct:
    """A Timer in this process."""

    runtime: Runtime
    meter: Meter | None = None

    def __call__(self, networks: Sequence[Sequence[Block]], *, energy: bool = False) -> list[Timed | Failure]:
        return time_networks(self.runtime, networks, meter=self.meter if energy else None)


def time_networks(
    runtime: Runtime, networks: Sequence[Sequence[Block]], *, meter: Meter | None = None
) -> list[Timed | Failure]:
    """Samples of each network, timed in turns; one that the runtime refuses becomes a Failure.

    With a ``meter`` each then runs alone for a while (``nas.measuring.energy.WINDOW_S``).
    Errors written for the user (NasError) are not failures of one network and pass.
    """
    prepared = load(runtime, networks)
    good = [i for i, p in enumerate(prepared) if not isinstance(p, Failure)]
    timed: list[Timed | Failure] = list(prepared)
    for i, ms in zip(good, time_interleaved(runtime, [prepared[i] for i in good]), strict=True):
        timed[i] = Timed(ms, sustain(runtime, prepared[i], meter) if meter else None)
    return timed


def load(runtime: Runtime, networks: Sequence[Sequence[Block]]) -> list[Any]:
    """Each network prepared by ``runtime`` (all at once where it has ``prepare_all``), or a Failure."""
    modules = [build(blocks[0]) if len(blocks) == 1 else Network(blocks) for blocks in networks]
    shapes = [blocks[0].in_shape for blocks in networks]
    if prepare_all := getattr(runtime, "prepare_all", None):
        try:
            return list(prepare_all(modules, shapes))
        except NasError:
            raise
        except Exception:  # one of them: find it below
            pass
    prepared: list[Any] = []
    for module, shape in zip(modules, shapes, strict=True):
        try:
            prepared.append(runtime.prepare(module, shape))
        except NasError:
            raise
        except Exception as error:
            prepared.append(Failure(_one_line(error)))
    return prepared


def time_interleaved(
    runtime: Runtime, prepared: Sequence[Any], *, min_rounds: int = MIN_ROUNDS, max_rounds: int = MAX_ROUNDS
) -> list[NDArray[np.float64]]:
    """Samples in ms for each of ``prepared``, taken in turns so that a disturbance hits all and not one.

    Each stops by itself when its median is known to ±2%.
    """
    samples: list[list[float]] = [[] for _ in prepared]
    open_ = set(range(len(prepared)))
    with _no_garbage_collection():
        for done in range(1, max_rounds + 1):
            for i in sorted(open_):
                samples[i].extend(runtime.time(prepared[i], SAMPLES)[1:])
            if done >= min_rounds:
                open_ = {i for i in open_ if _median_interval(samples[i]) > TIGHT}
            if not open_:
                break
    return [np.array(s) for s in samples]


class Isolated:
    """A Timer in a process of its own: a network that crashes or hangs the runtime takes only that process with it.

    The networks of a group that died are then timed alone, which names the culprit; the process is started anew.
    Use as a context manager.
    """

    def __init__(self, runtime: Runtime, *, meter: Meter | None = None, timeout_s: float = GROUP_TIMEOUT_S) -> None:
        self.runtime, self.meter, self.timeout_s = runtime, meter, timeout_s
        self._process: Any = None
        self._pipe: Any = None

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._pipe.close()  # it ends by itself; killed, it would leave semaphores behind
            self._process.join(_FAREWELL_S)
            self._kill()

    def _kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._process = None

    def __call__(self, networks: Sequence[Sequence[Block]], *, energy: bool = False) -> list[Timed | Failure]:
        answer = self._ask([tuple(n) for n in networks], energy)
        if not isinstance(answer, Failure):
            return answer
        if len(networks) == 1:
            return [answer]
        half = len(networks) // 2
        return [*self(networks[:half], energy=energy), *self(networks[half:], energy=energy)]

    def _ask(self, networks: list[tuple[Block, ...]], energy: bool) -> list[Timed | Failure] | Failure:
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(Direct(self.runtime, self.meter), theirs), daemon=True)
            self._process.start()
            theirs.close()
        try:
            self._pipe.send((networks, energy))
            if not self._pipe.poll(self.timeout_s):
                self._kill()
                return Failure(f"the runtime hung for {self.timeout_s:g} s")
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            self._process = None
            died = f"signal {signal.Signals(-code).name}" if code and code < 0 else f"exit status {code}"
            return Failure(f"the runtime crashed ({died})")
        if isinstance(answer, NasError):
            raise answer
        return answer


def _serve(timer: Direct, pipe: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    while True:
        try:
            networks, energy = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(timer(networks, energy=energy))
        except NasError as error:
            pipe.send(type(error)(str(error)) if type(error).__init__ is NasError.__init__ else error)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"


def _median_interval(samples: Sequence[float]) -> float:
    """Half width of the 95% interval of the median, relative; from order statistics, no distribution assumed."""
    ordered = np.sort(samples)
    half = 0.98 * math.sqrt(len(ordered))
    low, high = max(0, math.floor(len(ordered) / 2 - half)), min(len(ordered) - 1, math.ceil(len(ordered) / 2 + half))
    return float((ordered[high] - ordered[low]) / (2 * np.median(ordered)))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
