"""Firmware that counts: C sources and a board's code, linked for a core."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from nas.deploy.c import emulator
from nas.errors import BadInput

SOURCES = Path(__file__).parent / "sources"
_FIRMWARE = SOURCES / "firmware"
_TIMEOUT_S = 600


def elf(sources: Sequence[Path], to: Path, *, core: str, level: str = "-O2") -> Path:
    """Link ``sources`` with what counts and the emulated board of ``core``."""
    machine = emulator.MACHINES[core]
    compiler = shutil.which("arm-none-eabi-gcc")
    if not compiler:
        raise BadInput("arm-none-eabi-gcc is not installed; on Debian: apt install gcc-arm-none-eabi")
    files = [_FIRMWARE / "count.c", _FIRMWARE / "mps2.c", *sources]
    command = [compiler, f"-mcpu={core}", "-mthumb", "-std=c99", level, "-ffunction-sections", "-fdata-sections"]
    command += [f"-D{name}={value}" for name, value in machine.defines.items()]
    command += [f"-I{SOURCES}", f"-I{_FIRMWARE}", *map(str, files), "-nostartfiles", "--specs=nosys.specs"]
    command += ["-T", str(_FIRMWARE / "mps2.ld"), "-Wl,--gc-sections"]
    command += [f"-Wl,--defsym={name}={value}" for name, value in machine.symbols.items()]
    done = subprocess.run([*command, "-o", str(to)], capture_output=True, text=True, timeout=_TIMEOUT_S)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line or "overflowed" in line]
        raise RuntimeError(f"the firmware does not build: {(lines or [done.stderr.strip()])[0]}")
    return to
