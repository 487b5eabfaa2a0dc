"""Cortex-M cores in QEMU: machines that run firmware and take the same virtual time for every instruction.

Every machine runs one instruction per tick of a virtual clock (``-icount``), so SysTick counts instructions, exactly and
whatever else the computer does. There are no caches, wait states or pipelines in it: an instruction is an instruction.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.deploy.c.printed import Printed, read
from nas.errors import BadInput

_SHIFT = 7
NS = 2**_SHIFT
"""Virtual time of an instruction: more than two ticks of each machine's clock, so that ticks tell instructions exactly."""
_IMAGE_BYTES = 12 * 2**20  # of the machines' 16 MB that images go into
TIMEOUT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A board in QEMU: where its memories (4 MB of flash and RAM each, 16 MB for images) and its serial port are."""

    qemu: str
    flash: int
    ram: int
    uart: int
    images: int
    hz: int

    @property
    def defines(self) -> dict[str, str]:
        """Of the firmware's C code."""
        return {"NAS_UART": f"0x{self.uart:x}u", "NAS_IMAGES": f"0x{self.images:x}u", "NAS_HZ": f"{self.hz}u"}

    @property
    def symbols(self) -> dict[str, str]:
        """Of the linker script."""
        return {"nas_flash": f"0x{self.flash:x}", "nas_ram": f"0x{self.ram:x}"}


def _mps2(qemu: str, images: int = 0x21000000) -> Machine:
    return Machine(qemu=qemu, flash=0, ram=0x20000000, uart=0x40004000, images=images, hz=25_000_000)


MACHINES = {
    "cortex-m0plus": _mps2("mps2-an385"),  # a Cortex-M3, which runs all of the M0+'s instructions
    "cortex-m3": _mps2("mps2-an385"),
    "cortex-m4": _mps2("mps2-an386"),
    "cortex-m7": _mps2("mps2-an500", images=0x60000000),
    "cortex-m33": Machine(
        qemu="mps2-an505", flash=0x10000000, ram=0x38000000, uart=0x50200000, images=0x80000000, hz=20_000_000
    ),
}


def version() -> str:
    """QEMU's. Raises BadInput when it is not installed."""
    said = subprocess.run([_qemu(), "--version"], capture_output=True, text=True, timeout=60).stdout.split()
    return said[3] if len(said) > 3 else "unknown"


def run(elf: Path, core: str, identity: int, images: Sequence[bytes] = (), timeout_s: float = TIMEOUT_S) -> Printed:
    """One pass of the firmware ``elf``, with ``images`` (bytes of a network's input) in the machine's memory.

    Raises RuntimeError when it has not ended after ``timeout_s``, or crashes; BadInput without QEMU.
    """
    machine = MACHINES[core]
    command = [_qemu(), "-M", machine.qemu, "-icount", f"shift={_SHIFT}", "-display", "none", "-monitor", "none"]
    command += ["-serial", "stdio", "-semihosting-config", "enable=on,target=native", "-kernel", str(elf)]
    if images:
        put = elf.with_suffix(".images")
        put.write_bytes(len(images).to_bytes(4, "little") + b"".join(images))
        command += ["-device", f"loader,file={put},addr=0x{machine.images:x},force-raw=on"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"the firmware did not end within {timeout_s:g} s on the emulated {core}") from None
    try:
        return read(done.stdout.splitlines(), identity)
    except BadInput:
        said = done.stderr.strip().splitlines() or ["it printed no numbers"]
        raise RuntimeError(f"the firmware failed on the emulated {core} (exit {done.returncode}): {said[0]}") from None


def together(image_bytes: int) -> int:
    """How many images of ``image_bytes`` go into a machine's memory at once. Raises RuntimeError when not even one."""
    if not (count := _IMAGE_BYTES // image_bytes):
        raise RuntimeError(f"an image of {image_bytes} bytes does not fit the emulated machine's memory")
    return count


def _qemu() -> str:
    if not (found := shutil.which("qemu-system-arm")):
        raise BadInput(
            "qemu-system-arm is not installed, which runs the firmware; on Debian: apt install qemu-system-arm"
        )
    return found
