"""Runtimes: what executes a network on a device and how long one run takes. Importing them imports no torch."""

from typing import Any

from nas.checks import check, hints_of
from nas.device import Device
from nas.discovery import Files, made_in
from nas.errors import BadInput
from nas.runtimes.cortex_m import CortexM
from nas.runtimes.ethos_u import EthosU
from nas.runtimes.litert import LiteRT
from nas.runtimes.openvino_rt import OpenVINO
from nas.runtimes.ort import OnnxRuntime
from nas.runtimes.runtime import Runtime
from nas.runtimes.torch_cpu import TorchCompiled, TorchCPU
from nas.runtimes.torch_cuda import TorchCUDA

__all__ = [
    "CortexM",
    "Device",
    "EthosU",
    "LiteRT",
    "OnnxRuntime",
    "OpenVINO",
    "Runtime",
    "TorchCPU",
    "TorchCUDA",
    "TorchCompiled",
    "made",
    "named",
]


def named() -> dict[str, type[Runtime]]:
    """Name on the command line -> class, of every runtime in this package.

    A class tells its ``precisions``; its settings are the parameters of its constructor (``nas.checks.hints_of``).
    """
    classes = [c for module in Files(package=__name__, kind="runtime").modules() for c in made_in(module)]
    return dict(sorted((c.name, c) for c in classes if isinstance(vars(c).get("name"), str)))


def made(name: str, precision: str | None = None, **settings: Any) -> Runtime:
    """The runtime of that name. ``precision``: default the first that it has.

    Raises BadInput for a name, a precision or a setting that there is not, and for values out of range.
    """
    known = named()
    if name not in known:
        raise BadInput(f"there is no runtime {name!r}; there are {', '.join(known)}")
    cls = known[name]
    hints = hints_of(cls)
    if precision is not None and precision not in cls.precisions:
        wanted = " or ".join(cls.precisions)
        raise BadInput(f"{name} measures {wanted}, not {precision}; pass --precision {cls.precisions[0]}")
    for setting, value in settings.items():
        if setting not in hints:
            raise BadInput(f"{name} has no setting {setting!r}; it has {', '.join(hints)}")
        check(setting, value, hints[setting])
    if "precision" in hints and precision is not None:
        settings["precision"] = precision
    return cls(**settings)
