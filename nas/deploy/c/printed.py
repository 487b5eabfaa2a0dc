"""What the counting firmware prints, over a serial port or out of the emulator: lines of hexadecimal words.

The lines are described in ``sources/firmware/count.c``, which prints them again and again on a board.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nas.errors import BadInput

NOTHING = 0xFFFFFFFF
"""The index of the function that does nothing, whose ticks are taken off all others'."""
_HANDLER = 5  # instructions that count.c runs whenever SysTick has wrapped


@dataclass(frozen=True, kw_only=True)
class Span:
    """Ticks of a core's clock that something took, and how often the counter's interrupt came meanwhile."""

    ticks: int
    wraps: int


@dataclass(frozen=True, kw_only=True)
class Printed:
    """One pass of a firmware. ``hz``: of the core's clock; ``outputs``: bytes of the network's output for every image."""

    hz: int
    nothing: Span
    cases: tuple[Span, ...]
    images: tuple[Span, ...]
    outputs: tuple[bytes, ...]

    def cycles(self, spans: Iterable[Span]) -> list[int]:
        """Of a board: ticks of each, without those of the call itself."""
        return [span.ticks - self.nothing.ticks for span in spans]

    def instructions(self, spans: Iterable[Span], ns: int) -> list[int]:
        """Of an emulator that takes ``ns`` for every instruction: exact when that is more than two ticks."""
        own = self._instructions(self.nothing, ns)
        return [self._instructions(span, ns) - own for span in spans]

    def _instructions(self, span: Span, ns: int) -> int:
        return round(span.ticks * 1_000_000_000 / self.hz / ns) - _HANDLER * span.wraps


def read(lines: Iterable[str], identity: int) -> Printed:
    """The first whole pass in ``lines``; one that began before, or was garbled on the way, is passed over.

    ``lines`` says by its own error that nothing came in time. Raises BadInput when another firmware prints, or none to
    the end; RuntimeError when it says that it failed.
    """
    running: list[list[str]] = []
    for line in lines:
        words = line.split()
        if words == ["fault"]:
            raise RuntimeError("the firmware stopped with a processor fault")
        if words[:1] == ["nas"]:
            running = [words]
        elif words == ["end"] and running:
            if printed := _pass(running, identity):
                return printed
            running = []
        elif running:
            running.append(words)
    raise BadInput("the firmware ended before it had printed everything")


def _pass(running: list[list[str]], identity: int) -> Printed | None:
    """None for lines that are not as they should be."""
    try:
        (_, version, *words), *rest = running
        own, hz, cases, images = (int(word, 16) for word in words)
        if version != "1" or not hz:
            return None
        if own != identity:
            raise BadInput(f"the board runs another firmware ({own:08x}, not {identity:08x}): was it flashed?")
        wanted = [("case", NOTHING), *(("case", i) for i in range(cases)), *(("image", i) for i in range(images))]
        if [(line[0], int(line[1], 16)) for line in rest] != wanted:
            return None
        spans = tuple(Span(ticks=int(line[2], 16), wraps=int(line[3], 16)) for line in rest)
        outputs = tuple(bytes.fromhex(line[4]) for line in rest[cases + 1 :])
    except BadInput:
        raise
    except (ValueError, IndexError):
        return None
    return Printed(hz=hz, nothing=spans[0], cases=spans[1 : cases + 1], images=spans[cases + 1 :], outputs=outputs)
