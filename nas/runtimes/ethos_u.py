"""Arm Ethos-U microcontroller NPUs: cycles, SRAM and flash of the int8 network, as Arm's compiler vela estimates them.

Nothing is run: these are a compiler's estimates, and a table made of them is ``kind: simulated``.
"""

from __future__ import annotations

import configparser
import csv
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from nas.checks import FilePath, Text, checked
from nas.device import Device, cores
from nas.errors import BadInput, MissingPackage
from nas.files import first_line
from nas.runtimes.litert import read_tflite, timing_tflite

if TYPE_CHECKING:
    from torch import nn

ACCELERATORS = {
    "ethos-u55": (32, 64, 128, 256),
    "ethos-u65": (256, 512),
    "ethos-u85": (128, 256, 512, 1024, 2048),
}
"""Multiply-accumulates per cycle that each comes with."""

_DEFAULTS = {  # microcontrollers: weights in flash, the rest in SRAM (vela itself takes U65 and U85 to have DRAM)
    "ethos-u55": ("Ethos_U55_High_End_Embedded", "Shared_Sram"),
    "ethos-u65": ("Ethos_U65_Embedded", "Shared_Sram"),
    "ethos-u85": ("Ethos_U85_SYS_Flash_High", "Shared_Sram"),
}
_TIMEOUT_S = 600
_TOGETHER = 24  # networks per process: starting one takes ten times as long as compiling a block
_SEPARATOR = "=== next network ===\n"
_CALLS = f"""
import sys
from ethosu.vela.vela import main
count = int(sys.argv[1])
for name in sys.argv[2 : 2 + count]:
    print({_SEPARATOR!r}, end="", flush=True)
    if main([name, *sys.argv[2 + count :]]):
        sys.exit(1)
"""


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What vela says of one network. ``cycles`` at ``clock_hz``; bytes of each memory that it needs."""

    cycles: float
    clock_hz: float
    sram: int
    dram: int
    flash: int

    @property
    def ms(self) -> float:
        return 1e3 * self.cycles / self.clock_hz


@checked
@dataclass(frozen=True)
class EthosU:
    """One Ethos-U in one system, through vela.

    ``accelerator``: such as "ethos-u55-128". ``system_config`` and ``memory_mode``: sections of vela's configuration file (clock and
    bandwidths; which memory holds what); None for a microcontroller with flash and SRAM. ``vela_config``: a configuration file of
    yours. Raises BadInput, with what there is, for a name that does not exist.
    """

    name: ClassVar[str] = "ethos-u"
    precisions: ClassVar[tuple[str, ...]] = ("int8",)
    kind: ClassVar[str] = "simulated"
    precision: ClassVar[str] = "int8"
    threads: ClassVar[int] = 1
    batch: ClassVar[int] = 1

    accelerator: Annotated[Text, "Ethos-U configuration"] = "ethos-u55-128"
    system_config: Annotated[Text | None, "System_Config of vela's configuration file"] = None
    memory_mode: Annotated[Text | None, "Memory_Mode of vela's configuration file"] = None
    vela_config: Annotated[FilePath | None, "a configuration file of yours (default: vela's)"] = None

    def __post_init__(self) -> None:
        known = [f"{family}-{macs}" for family, sizes in ACCELERATORS.items() for macs in sizes]
        if self.accelerator not in known:
            raise BadInput(f"no accelerator {self.accelerator!r}; vela knows {', '.join(known)}")
        if self.system_config or self.memory_mode or self.vela_config:
            sections = _sections(self._config)
            for asked, prefix in ((self._system, "System_Config"), (self._memory, "Memory_Mode")):
                names = [s.removeprefix(f"{prefix}.") for s in sections if s.startswith(f"{prefix}.")]
                if asked not in names:
                    raise BadInput(f"{self._config} has no {prefix} {asked!r}; it has {', '.join(names)}")

    @cached_property
    def device(self) -> Device:
        default = self.vela_config is None and (self._system, self._memory) == _DEFAULTS[self._family]
        return Device(
            name=self.accelerator if default else f"{self.accelerator} {self._system} {self._memory}",
            chip=f"{self.accelerator}, {self._system}, {self._memory}",
            runtime="vela",
            version=_version(),
            precision="int8",
        )

    def prepare(self, network: nn.Module | Path, input_shape: tuple[int, int, int]) -> Compiled:
        """Compile ``network``: a module with random weights, or an int8 .tflite file as it is."""
        return self.compile(_model(network, input_shape))

    def prepare_all(
        self, networks: Sequence[nn.Module | Path], input_shapes: Sequence[tuple[int, int, int]]
    ) -> list[Compiled]:
        """``prepare`` of each, several per call of vela and on all cores: 10 times faster than one by one."""
        models = [_model(network, shape) for network, shape in zip(networks, input_shapes, strict=True)]
        groups = [models[i : i + _TOGETHER] for i in range(0, len(models), _TOGETHER)]
        with ThreadPoolExecutor(cores()) as pool:
            return [one for group in pool.map(self._compile, groups) for one in group]

    def time(self, prepared: Compiled, repeats: int) -> NDArray[np.float64]:
        """Milliseconds, ``(repeats,)`` times the same."""
        return np.full(repeats, prepared.ms)

    def compile(self, model: bytes) -> Compiled:
        """vela's summary of a serialised int8 model.

        Raises RuntimeError when vela fails on it, or when an operator would run on the CPU, whose time vela does not
        know; MissingPackage without vela.
        """
        return self._compile([model])[0]

    def _compile(self, models: Sequence[bytes]) -> list[Compiled]:
        _version()
        with tempfile.TemporaryDirectory() as folder:
            names = [f"network{i}" for i in range(len(models))]
            for name, model in zip(names, models, strict=True):
                (Path(folder) / f"{name}.tflite").write_bytes(model)
            options = [
                *("--output-dir", folder, "--accelerator-config", self.accelerator, "--config", self._config),
                *("--system-config", self._system, "--memory-mode", self._memory),
            ]
            command = [sys.executable, "-c", _CALLS, str(len(names)), *(f"{n}.tflite" for n in names), *options]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, errors="replace", cwd=folder, timeout=_TIMEOUT_S
                )
            except subprocess.TimeoutExpired:
                raise RuntimeError(f"vela did not finish within {_TIMEOUT_S} s") from None
            said = done.stdout.split(_SEPARATOR)[1:]
            summaries = [next(Path(folder).glob(f"{name}_summary_*.csv"), None) for name in names]
            if done.returncode or len(said) != len(names) or None in summaries:
                if len(models) > 1:  # one of them: the others are none the worse for it
                    return [self.compile(model) for model in models]
                lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
                raise RuntimeError(f"vela failed (exit {done.returncode}): {lines[-1] if lines else 'it said nothing'}")
            return [_compiled(s.read_text(), text) for s, text in zip(summaries, said, strict=True) if s]

    @property
    def _family(self) -> str:
        return self.accelerator.rsplit("-", 1)[0]

    @property
    def _system(self) -> str:
        return self.system_config or _DEFAULTS[self._family][0]

    @property
    def _memory(self) -> str:
        return self.memory_mode or _DEFAULTS[self._family][1]

    @property
    def _config(self) -> str:
        return os.path.abspath(self.vela_config) if self.vela_config else "Arm/vela.ini"


def _model(network: nn.Module | Path, input_shape: tuple[int, int, int]) -> bytes:
    if isinstance(network, str | os.PathLike):
        return read_tflite(network)
    return timing_tflite(network, input_shape, precision="int8")


def _compiled(summary: str, said: str) -> Compiled:
    on_cpu = re.search(r"CPU operators = (\d+)", said)
    if on_cpu is None:
        raise RuntimeError("vela's output does not say how many operators run on the CPU; is its version supported?")
    if int(on_cpu[1]):
        raise RuntimeError(
            f"{on_cpu[1]} operators cannot run on the NPU, and vela does not know what they cost on the CPU"
        )
    try:
        (row,) = csv.DictReader(summary.splitlines())
        kib = {
            memory: float(row[f"{memory}_memory_used"])
            for memory in ("sram", "dram", "on_chip_flash", "off_chip_flash")
        }
        return Compiled(
            cycles=float(row["cycles_total"]),
            clock_hz=float(row["core_clock"]),
            sram=round(1024 * kib["sram"]),
            dram=round(1024 * kib["dram"]),
            flash=round(1024 * (kib["on_chip_flash"] + kib["off_chip_flash"])),
        )
    except (KeyError, ValueError) as error:
        raise RuntimeError(f"vela's summary is not as expected: {error}") from None


def _sections(config: str) -> list[str]:
    spec = importlib.util.find_spec("ethosu")
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackage("ethos-u-vela", "ethos-u")
    path = Path(spec.submodule_search_locations[0]) / "config_files" / config  # an absolute one stays as it is
    parser = configparser.ConfigParser()
    try:
        if not parser.read(path):
            raise BadInput(f"cannot read the configuration file {path}")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not a configuration file of vela: {first_line(error)}") from None
    return parser.sections()


def _version() -> str:
    try:
        return importlib.metadata.version("ethos-u-vela")
    except importlib.metadata.PackageNotFoundError:
        raise MissingPackage("ethos-u-vela", "ethos-u") from None
