"""Compilers: the host's and ``arm-none-eabi-gcc``, their flags, and how large what they make is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nas.checks import checked
from nas.deploy.c.emit import text_of
from nas.errors import NasError
from nas.files import first_line

CortexCore = Literal["cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33"]
Core = Literal["host", CortexCore]
Optimize = Literal["-Os", "-O2", "-O3"]

WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror")
_FPU = {"cortex-m4": "fpv4-sp-d16", "cortex-m7": "fpv5-sp-d16", "cortex-m33": "fpv5-sp-d16"}
_TIMEOUT_S = 300


@checked
@dataclass(frozen=True, kw_only=True)
class Flags:
    """``core``: for which processor; ``lto``: optimised as one file; ``sections``: what is not called is left out.

    ``sanitize``: with the host's address and undefined-behaviour sanitizers. ``portable``: without the kernels for DSP
    instructions, where the core has them.
    """

    core: Core = "host"
    optimize: Optimize = "-O2"
    lto: bool = False
    sections: bool = True
    sanitize: bool = False
    portable: bool = False

    @property
    def arguments(self) -> list[str]:
        """Of the compiler, also when it links."""
        found = [] if self.core == "host" else [f"-mcpu={self.core}", "-mthumb"]
        found += [self.optimize, *WARNINGS]
        found += ["-DNAS_PORTABLE"] if self.portable else []
        found += ["-flto"] if self.lto else []
        found += ["-ffunction-sections", "-fdata-sections"] if self.sections else []
        found += ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"] if self.sanitize else []
        return found


HOST = Flags()


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bytes of a linked program: code, constants, variables with a first value (in flash and RAM), and zeroed ones."""

    text: int
    rodata: int
    data: int
    bss: int

    @property
    def flash(self) -> int:
        return self.text + self.rodata + self.data

    @property
    def ram(self) -> int:
        return self.data + self.bss


def compiler(core: Core = "host") -> str:
    """The path of the C compiler for ``core``. Raises NasError naming the package when it is not installed."""
    return _tool("gcc" if core != "host" else "cc", core)


def compiled(
    sources: Sequence[Path], output: Path, flags: Flags = HOST, *, extra: Sequence[str] = (), link: bool = True
) -> Path:
    """``sources`` compiled, and linked unless ``link`` is False, into ``output``; ``extra``: arguments put last.

    Raises NasError with the compiler's first error, or without a compiler.
    """
    arguments = [
        compiler(flags.core),
        *flags.arguments,
        *(["-Wl,--gc-sections"] if link and flags.sections else ["-c"] if not link else []),
    ]
    run([*arguments, *map(str, sources), "-o", str(output), *extra], "the C compiler refuses the network's code")
    return output


def run(command: Sequence[str], failed: str, given: bytes = b"") -> bytes:
    """Standard output of ``command``, given ``given``. Raises NasError, starting with ``failed``, when it fails."""
    try:
        plain = os.environ | {"LC_ALL": "C"}  # messages in English
        done = subprocess.run(command, input=given, capture_output=True, timeout=_TIMEOUT_S, check=False, env=plain)
    except subprocess.TimeoutExpired:
        raise NasError(f"{failed}: no end within {_TIMEOUT_S} seconds") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace")
        errors = [line for word in ("overflowed", "error: ") for line in said.splitlines() if word in line.lower()]
        raise NasError(f"{failed}: {first_line(errors[0] if errors else said or f'exit status {done.returncode}')}")
    return done.stdout


def host_outputs(folder: Path, x: NDArray[np.int8], flags: Flags = HOST, *, name: str = "model") -> NDArray[np.int8]:
    """What the network in ``folder`` (``write_sources``) answers on this machine to ``x (n, h, w, c)``: ``(n, outputs)``.

    It runs in a process of its own. Raises NasError when it does not compile or run.
    """
    with tempfile.TemporaryDirectory() as scratch:
        driver = Path(scratch) / "driver.c"
        driver.write_text(text_of("driver.c").replace("model", name).replace("MODEL", name.upper()))
        sources = [driver, *sorted(folder.glob("*.c"))]
        program = compiled(sources, Path(scratch) / "driver", flags, extra=(f"-I{folder}",))
        made = run([str(program)], "the network's code fails on this machine", np.ascontiguousarray(x).tobytes())
    return np.frombuffer(made, np.int8).reshape(len(x), -1)


def sizes_of(elf: Path, core: Core = "host") -> Sizes:
    """Of an object, archive member or linked program."""
    said = run([_tool("size", core), "-A", str(elf)], "cannot read the sizes").decode()
    found = dict.fromkeys(("text", "rodata", "data", "bss"), 0)
    for section, size in re.findall(r"^\.(\S+)\s+(\d+)", said, re.MULTILINE):
        kind = section.split(".")[0]
        if kind in found:
            found[kind] += int(size)
    return Sizes(**found)


def _tool(tool: str, core: Core) -> str:
    name, package = (tool, "gcc") if core == "host" else (f"arm-none-eabi-{tool}", "gcc-arm-none-eabi")
    path = shutil.which(name)
    if path is None:
        raise NasError(f"{name} is not installed; it comes with the system's package {package} (apt install {package})")
    return path
