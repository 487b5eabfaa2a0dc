"""Running a tool that may fail, crash or hang."""

# ruff: noqa: UP035 - Python 3.8
from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from typing import Sequence

from .outputs import Broken


def checked(command: Sequence[str], timeout_s: float) -> str:
    """What it prints. Raises Broken when it does not start, fails, dies or hangs."""
    code, output = run_tool(command, timeout_s)
    if code:
        raise Broken(died(code, output, timeout_s))
    return output


def run_tool(command: Sequence[str], timeout_s: float, sent: bytes = b"") -> tuple[int, str]:
    """(status, output); -SIGALRM when it hangs. What it started ends with it."""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError as error:
        raise Broken(f"{command[0]} does not start: {error.strerror}") from None
    hung = False
    try:
        output = process.communicate(sent, timeout=timeout_s)[0]
    except subprocess.TimeoutExpired:
        hung = True
    finally:
        if process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
    if hung:
        output = process.communicate()[0]
    return -signal.SIGALRM if hung else process.returncode, output.decode("utf-8", "replace")


def died(code: int, output: str, timeout_s: float) -> str:
    """One line: how it ended, and what it said last."""
    if code == -signal.SIGALRM:
        return f"hung: no sign of life for {timeout_s:g} s"
    how = f"crashed (signal {-code})" if code < 0 else f"ended with status {code}"
    with contextlib.suppress(ValueError):
        how = f"crashed ({signal.Signals(-code).name})"
    said = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in said if re.search(r"\[E\]|ERROR|rror:|nknown option", line)]
    last = errors[0] if errors else said[-1] if said else ""
    return f"{how}: {last[:200]}" if last else how
