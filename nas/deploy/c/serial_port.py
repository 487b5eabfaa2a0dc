"""Lines from a board's serial port."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterator

from nas.errors import BadInput

BAUD = 115_200
TIMEOUT_S = 60.0


def lines(port: str | os.PathLike[str], timeout_s: float = TIMEOUT_S) -> Iterator[str]:
    """The lines that come in at ``port``, for ever. Raises BadInput when none has for ``timeout_s``, or there is no port."""
    try:
        handle = os.open(port, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        raise BadInput(f"cannot open the serial port {port}: {error.strerror}") from None
    try:
        _raw(handle, port)
        yield from _lines(handle, port, timeout_s)
    finally:
        os.close(handle)


def _lines(handle: int, port: object, timeout_s: float) -> Iterator[str]:
    begun, until = b"", time.monotonic() + timeout_s
    while True:
        left = until - time.monotonic()
        if left <= 0 or not select.select([handle], [], [], left)[0]:
            raise BadInput(
                f"{port} was silent for {timeout_s:g} s: is the board flashed, connected, and at {BAUD} baud?"
            )
        try:
            came = os.read(handle, 4096)
        except BlockingIOError:
            continue
        except OSError as error:
            raise BadInput(f"cannot read from {port}: {error.strerror}") from None
        if not came:
            raise BadInput(f"{port} was closed: is the board still connected?")
        *whole, begun = (begun + came).split(b"\n")
        begun = begun[-4096:]  # of a line that never ends
        if whole:
            until = time.monotonic() + timeout_s
        yield from (line.decode("ascii", "replace") for line in whole)


def _raw(handle: int, port: object) -> None:
    """Bytes as they come, at ``BAUD``."""
    try:
        import termios
        import tty
    except ImportError:
        raise BadInput("serial ports are read on Linux and macOS only") from None
    try:
        tty.setraw(handle)
        settings = termios.tcgetattr(handle)
        settings[4] = settings[5] = getattr(termios, f"B{BAUD}")
        with contextlib.suppress(termios.error):  # a pseudo-terminal has no speed
            termios.tcsetattr(handle, termios.TCSANOW, settings)
    except termios.error:
        raise BadInput(f"{port} is not a serial port") from None
