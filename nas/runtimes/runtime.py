"""What a runtime is: something that prepares a network and times runs of it on one device."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from nas.checks import Batch, Threads
from nas.device import Device, cpu_name
from nas.errors import BadInput, NasError
from nas.files import first_line
from nas.on_device.clock import Loaded, timed

if TYPE_CHECKING:
    from torch import nn

Fp32OrInt8 = Literal["fp32", "int8"]


class Runtime(Protocol):
    """What executes networks on a device and times them; ``nas.runtimes`` has those there are.

    To write one: a file in ``nas/runtimes`` with a class of these members, and its name in ``__init__.py``.

    A frozen dataclass, ``@checked`` (``nas.checks``), whose fields are its settings, each with a range and a default;
    ``threads``, ``batch`` and ``precision`` are called so where it has them. ``nas.runtimes.named`` finds it, and with it
    the command line and the tests. Packages that are large or optional are imported in the methods, not by the file, so
    that naming a runtime costs nothing; a missing one is ``MissingPackage``.

    How often to run, in what order, and what is an outlier is not a runtime's business: that is the campaign's. An error
    about one network may be of any kind: the campaign records it and goes on. A NasError ends the campaign.

    Three members are optional. ``kind``: "simulated" when nothing is run. ``reads_onnx``: True when ``prepare`` takes .onnx
    files, fp32 and quantized. ``prepare_all(networks, input_shapes)``: a list, ``prepare`` of each, for a runtime that is
    much faster on many at once.
    """

    name: ClassVar[str]
    """On the command line."""
    precisions: ClassVar[tuple[str, ...]]

    @property
    def device(self) -> Device:
        """The identity of what is timed, with the runtime's version. Raises NasError when the runtime is not here."""

    def prepare(self, network: nn.Module | Path, input_shape: tuple[int, int, int]) -> Any:
        """Load and warm up a network, so that ``time`` can run it on an input of ``input_shape`` (channels, height, width).

        A module is copied and its weights randomised (``timing_model.randomised``): fresh ones are degenerate. A path is an
        exported file, timed as it is; BadInput when the runtime takes none, or not this one.
        """

    def time(self, prepared: Any, repeats: int) -> NDArray[np.float64]:
        """Milliseconds per run of the whole batch, ``(repeats,)``. Called many times, in turns with other networks."""


@dataclass(frozen=True, kw_only=True)
class OnCPU:
    """Base of the runtimes that time a whole network on this machine's CPU in fp32 or int8."""

    precisions: ClassVar[tuple[str, ...]] = get_args(Fp32OrInt8)

    precision: Fp32OrInt8 = "fp32"
    threads: Threads = 1
    batch: Batch = 1

    def time(self, prepared: Loaded, repeats: int) -> NDArray[np.float64]:
        """Milliseconds per run, ``(repeats,)``, each the mean over the runs of one short sample."""
        return np.array(timed(prepared, repeats))


def cpu_device(runtime: Any, called: str, version: str) -> Device:
    """This machine's CPU under ``runtime``, which tables know as ``called``."""
    chip = cpu_name()
    settings = {"precision": runtime.precision, "batch": runtime.batch, "threads": runtime.threads}
    return Device(name=chip, chip=chip, runtime=called, version=version, **settings)


@contextlib.contextmanager
def blaming(network: object) -> Iterator[None]:
    """An error while loading a file of the user's raises BadInput, one line about that file.

    ``network``: the file's path, or a module, whose error is raised as it is.
    """
    try:
        yield
    except NasError:
        raise
    except Exception as error:
        if isinstance(network, str | os.PathLike):
            raise BadInput(f"{network} cannot be run: {first_line(error)}") from None
        raise
