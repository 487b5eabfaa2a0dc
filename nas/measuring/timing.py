"""Timing networks with a runtime of this machine, if wanted in a process of its own that may die.

How samples are taken is ``nas.on_device.clock``'s business.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from nas.blocks import Block
from nas.errors import BadInput, NasError
from nas.measuring.energy import Meter
from nas.modules import Network, build
from nas.on_device.clock import in_turns, summary
from nas.on_device.power import sustained
from nas.runtimes import Runtime

GROUP_TIMEOUT_S = 900.0  # a group takes seconds; after this the runtime hangs
_START_S = 300.0  # a busy machine takes long to import torch; that is no hang of a network
_FAREWELL_S = 5.0
_STARTED_AGAIN = 76  # exit status of a process whose script has no main guard

Line = dict[str, Any]
"""How one network did, as a campaign's log keeps it: {ms, p10_ms, p90_ms, runs}, with {begin, end, watts}, or {failed}."""


class Timer(Protocol):
    """Times networks, each given as its blocks; a single block counts as a network. ``energy``: windows as well."""

    def __call__(self, networks: Sequence[Sequence[Block]], *, energy: bool = False) -> list[Line]: ...


@dataclass(frozen=True)
class Direct:
    """A Timer in this process."""

    runtime: Runtime
    meter: Meter | None = None

    def __call__(self, networks: Sequence[Sequence[Block]], *, energy: bool = False) -> list[Line]:
        return time_networks(self.runtime, networks, meter=self.meter if energy else None)


def time_networks(runtime: Runtime, networks: Sequence[Sequence[Block]], *, meter: Meter | None = None) -> list[Line]:
    """Each network timed in turns with the others; one that the runtime refuses has {failed}.

    With a ``meter`` each then runs alone for a while (``nas.on_device.power.WINDOW_S``).
    Errors written for the user (NasError) are not failures of one network and pass.
    """
    prepared = load(runtime, networks)
    good = [i for i, p in enumerate(prepared) if not isinstance(p, Exception)]
    found: list[Any] = list(prepared)
    for i, samples in zip(good, in_turns([partial(runtime.time, prepared[i]) for i in good]), strict=True):
        found[i] = samples
        if meter is not None and not isinstance(samples, Exception):
            window = sustained(partial(runtime.time, prepared[i], 8), meter.joules)
            found[i] = (samples, window)
    return [_line(outcome) for outcome in found]


def _line(outcome: Any) -> Line:
    samples, window = outcome if isinstance(outcome, tuple) else (outcome, {})
    if isinstance(samples, NasError):
        raise samples
    try:
        return failure(samples) if isinstance(samples, Exception) else {**summary(samples), **window}
    except ValueError as error:
        return failure(error)


def failure(error: Exception) -> Line:
    return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def load(runtime: Runtime, networks: Sequence[Sequence[Block]]) -> list[Any]:
    """Each network prepared by ``runtime`` (all at once where it has ``prepare_all``), or the error that it raised."""
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
        except Exception as error:
            prepared.append(error)
    return prepared


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

    def __call__(self, networks: Sequence[Sequence[Block]], *, energy: bool = False) -> list[Line]:
        """Raises BadInput when the runtime cannot be sent to another process."""
        answer = self._ask([tuple(n) for n in networks], energy)
        if isinstance(answer, list):
            return answer
        if len(networks) == 1:
            return [answer]
        half = len(networks) // 2
        return [*self(networks[:half], energy=energy), *self(networks[half:], energy=energy)]

    def _start(self) -> Any:
        """None when the process is ready, else what went wrong."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with _without_interrupts():
            self._process.start()
        theirs.close()
        try:
            self._pipe.send(Direct(self.runtime, self.meter))
        except OSError:  # it is gone already
            raise
        except Exception as error:  # pickle raises many kinds
            raise BadInput(
                f"this runtime cannot be sent to a process of its own ({failure(error)['failed']}); pass isolate=False"
            ) from None
        return self._answer(_START_S)

    def _ask(self, networks: list[tuple[Block, ...]], energy: bool) -> list[Line] | Line:
        try:
            answer = self._start() if self._process is None else None
            if answer is None:
                self._pipe.send((networks, energy))
                answer = self._answer(self.timeout_s)
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            self._process = None
            if code == _STARTED_AGAIN:
                raise BadInput(
                    "a process of its own starts this script again: put what it does below "
                    "if __name__ == '__main__':, or pass isolate=False"
                ) from None
            died = f"signal {signal.Signals(-code).name}" if code and code < 0 else f"exit status {code}"
            return {"failed": f"the runtime crashed ({died})"}
        if isinstance(answer, NasError):
            raise answer
        return failure(answer) if isinstance(answer, Exception) else answer

    def _answer(self, patience_s: float) -> Any:
        if self._pipe.poll(patience_s):
            return self._pipe.recv()
        self._kill()
        return {"failed": f"the runtime hung for {patience_s:g} s"}


def end_if_started_again() -> None:
    """Ends a process of ``Isolated`` whose script, lacking a main guard, arrives at measuring a second time."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(_STARTED_AGAIN)


def _serve(pipe: Any) -> None:
    """Answers until the other end closes. No error of it reaches the terminal."""
    timer: Any = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            try:
                asked = pipe.recv()
                answer = None  # ready
                if timer is None:
                    timer = asked
                else:
                    networks, energy = asked
                    answer = timer(networks, energy=energy)
            except NasError as error:
                answer = BadInput(str(error))  # others take more than a text, and could not be sent
            except (EOFError, OSError):
                raise
            except Exception as error:
                if timer is None:
                    answer = BadInput(f"a process of its own cannot load this runtime: {failure(error)['failed']}")
                else:
                    answer = RuntimeError(failure(error)["failed"])  # the error itself need not survive pickling
            pipe.send(answer)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """What is started inside never sees Ctrl-C: this process decides. One that comes meanwhile comes afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
