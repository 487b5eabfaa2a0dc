"""Cortex-M microcontrollers: what the C library's networks cost there, in QEMU or on a board at a serial port.

In QEMU nothing is timed: executed instructions are counted, exactly. A table made of them is ``kind: simulated``, and its
milliseconds are those of a core that executes one instruction per cycle at ``HZ``. For milliseconds of a named board see
``nas.measuring.counted``. A board at a serial port counts the cycles of its own clock: ``kind: measured``.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from nas.checks import FilePath, Text, checked
from nas.deploy.c import emulator, firmware, printed, serial_port
from nas.deploy.c.build import CortexCore, Flags, Optimize
from nas.deploy.c.program import Kind, Program, of_blocks, of_model
from nas.device import Device
from nas.errors import BadInput
from nas.files import first_line
from nas.runtimes.litert import read_tflite

if TYPE_CHECKING:
    from torch import nn

HZ = 100_000_000
"""The emulated clock: 100,000 instructions are a millisecond."""
_PASSES = 3  # of a board, which does not take exactly the same time again
_FLASHING_S = 300


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What one network costs. ``cycles``: of every pass, at ``hz``; in QEMU there is one, and they are instructions."""

    cycles: tuple[int, ...]
    hz: int

    @property
    def ms(self) -> NDArray[np.float64]:
        """``(passes,)``."""
        return 1e3 * np.array(self.cycles) / self.hz


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A network that images went through. ``outputs (n, bytes)`` int8, ``counts (n,)`` instructions or cycles of each.

    ``flash``, ``ram``: bytes that the network adds to firmware, the kernels that it calls among them.
    """

    outputs: NDArray[np.int8]
    counts: NDArray[np.int64]
    flash: int
    ram: int


@checked
@dataclass(frozen=True, kw_only=True)
class CortexM:
    """One Cortex-M core that runs networks as C (``nas.deploy.c``), in QEMU; with ``serial`` one on a board.

    A board takes all three: ``serial``, the port that it prints at (115,200 baud); ``board_code``, a folder with its C
    code and linker script (``nas/deploy/c/sources/firmware/nas_firmware.h`` says what they have to do); and ``flash``, the
    command that puts {elf} on it. It is run for every batch of networks.
    """

    name: ClassVar[str] = "cortex-m"
    precisions: ClassVar[tuple[str, ...]] = ("int8",)
    precision: ClassVar[str] = "int8"
    threads: ClassVar[int] = 1
    batch: ClassVar[int] = 1

    core: Annotated[CortexCore, "the processor"] = "cortex-m4"
    optimize: Annotated[Optimize, "how the compiler optimises"] = "-O2"
    serial: Annotated[FilePath | None, "the port of a real board, such as /dev/ttyACM0 (default: QEMU)"] = None
    board_code: Annotated[FilePath | None, "with --serial: a folder with the board's C code and linker script"] = None
    flash: Annotated[Text | None, "with --serial: the command that puts the firmware {elf} on the board"] = None

    def __post_init__(self) -> None:
        given = [self.serial, self.board_code, self.flash]
        if any(given) and not all(given):
            raise BadInput("a board takes all three: --serial PORT, --board-code FOLDER and --flash 'COMMAND {elf}'")
        if self.flash and "{elf}" not in self.flash:
            raise BadInput("--flash is a command with {elf} in it, such as 'st-flash --format elf write {elf}'")

    @property
    def kind(self) -> str:
        return "measured" if self.serial else "simulated"

    @property
    def flags(self) -> Flags:
        return Flags(core=self.core, optimize=self.optimize)

    @cached_property
    def device(self) -> Device:
        """Raises NasError without the compiler, or without QEMU where that is what runs."""
        emulated = f"{self.core} in QEMU, 1 instruction per cycle at {HZ // 1_000_000} MHz"
        made = "" if self._board else f", QEMU {emulator.version()}"
        return Device(
            name=self._board.resolve().name if self._board else self.core,
            chip=self.core if self._board else emulated,
            runtime="nas-c",
            version=f"gcc {firmware.compiler_version(self.core)} {self.optimize}{made}",
            precision="int8",
        )

    def prepare(self, network: nn.Module | Path, input_shape: tuple[int, int, int]) -> Counted:
        """Count ``network``: a module, of which only the blocks matter, or an int8 .tflite file."""
        return self.prepare_all([network], [input_shape])[0]

    def prepare_all(
        self, networks: Sequence[nn.Module | Path], input_shapes: Sequence[tuple[int, int, int]]
    ) -> list[Counted]:
        """``prepare`` of each, all in one firmware."""
        return self.count([_program(network) for network in networks])

    def time(self, prepared: Counted, repeats: int) -> NDArray[np.float64]:
        """Milliseconds, ``(repeats,)``: those of its passes, over and over."""
        return np.resize(prepared.ms, repeats)

    def count(self, programs: Sequence[Program], parts: Sequence[Container[Kind]] = (get_args(Kind),)) -> list[Counted]:
        """Each of ``programs`` counted; their constants do not matter, and may be missing.

        ``parts``: count these kinds of kernels apart, so many counts for each program (default: all of them together).
        Raises RuntimeError when they do not build, fit, or end; NasError without compiler, QEMU or an answering board.
        """
        with tempfile.TemporaryDirectory() as folder:
            made = firmware.counting(Path(folder), programs, self.flags, self._board, parts=parts)
            if self._board is None:
                macs = sum(firmware.macs(program) for program in programs)
                done = emulator.run(made.elf, self.core, made.identity, timeout_s=60 + len(parts) * macs / 1e6)
                counts = done.instructions(done.cases, emulator.NS)
                return [Counted(cycles=(count,), hz=HZ) for count in counts]
            passes = self._passes(made)
        cycles = zip(*(one.cycles(one.cases) for one in passes), strict=True)
        return [Counted(cycles=own, hz=passes[0].hz) for own in cycles]

    def run(self, model: bytes | Program, images: NDArray[np.int8]) -> Ran:
        """The network of an int8 .tflite, or a program with constants, on ``images (n, height, width, channels)`` int8.

        In QEMU only; raises BadInput for images of another shape, and as ``count`` does.
        """
        program = of_model(model) if isinstance(model, bytes) else model
        shape = program.maps[program.input].shape
        if images.dtype != np.int8 or images.shape[1:] != shape or not len(images):
            raise BadInput(f"the network takes int8 images of {shape}, got {images.dtype} of {images.shape[1:]}")
        if self._board:
            raise BadInput("images go through networks in QEMU only; leave out serial")
        each = [image.tobytes() for image in images]
        at_once = emulator.together(len(each[0]))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            made = firmware.network(folder, program, self.flags)
            patience_s = 60 + firmware.macs(program) * min(len(each), at_once) / 1e6
            passes = [
                emulator.run(made.elf, self.core, made.identity, each[i : i + at_once], timeout_s=patience_s)
                for i in range(0, len(each), at_once)
            ]
            harness = firmware.empty(folder, self.flags).sizes
        return Ran(
            outputs=np.array([np.frombuffer(out, np.int8) for one in passes for out in one.outputs]),
            counts=np.concatenate([one.instructions(one.images, emulator.NS) for one in passes]),
            flash=made.sizes.flash - harness.flash,
            ram=made.sizes.ram - harness.ram,
        )

    @property
    def _board(self) -> Path | None:
        return Path(self.board_code) if self.board_code else None

    def _passes(self, made: firmware.Firmware) -> list[printed.Printed]:
        """What the board prints once ``made`` is on it."""
        assert self.serial is not None
        assert self.flash is not None
        command = [part.replace("{elf}", str(made.elf)) for part in shlex.split(self.flash)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_FLASHING_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BadInput(f"the board cannot be flashed: {first_line(error)}") from None
        if done.returncode:
            raise BadInput(f"the board cannot be flashed: {first_line(done.stderr.strip() or done.stdout)}")
        lines = serial_port.lines(os.fspath(self.serial))
        return list(islice(iter(lambda: printed.read(lines, made.identity), None), _PASSES))


def _program(network: nn.Module | Path) -> Program:
    if isinstance(network, str | os.PathLike):
        return of_model(read_tflite(network))
    from nas.modules import BlockModule, describe

    blocks = [describe(part) for part in network.modules() if isinstance(part, BlockModule)]
    if not blocks:
        raise BadInput(
            f"a {type(network).__name__} has none of the blocks that the C library knows; pass an int8 .tflite"
        )
    return of_blocks(blocks)
