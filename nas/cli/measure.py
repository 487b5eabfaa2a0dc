"""``nas measure``: names on the command line to a runtime, a meter, a way to reach the device, and a table."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from nas.checks import FilePath, Text, checked
from nas.cli import names
from nas.cli.flags import add_flag, add_flags, given, option, parameters
from nas.cli.names import Resume, RunDir, meter, one_of
from nas.cli.printing import print_table
from nas.errors import BadInput
from nas.files import file_name, folder_of

if TYPE_CHECKING:
    from nas.runtimes import Runtime
    from nas.space import SearchSpace
    from nas.tables.table import LatencyTable

Precision = Literal["fp32", "int8", "fp16"]
_NETWORKS = ("calibrate", "validate", "seed")  # the parameters of a campaign that every way to measure has
_EVERYWHERE = ("threads", "batch")


@checked
@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is measured, and with what."""

    run_dir: RunDir = "runs/tables"
    resume: Resume = False
    runtime: Annotated[Text, "what executes the networks on this machine; a wrong name lists them"] = "onnxruntime"
    precision: Annotated[list[Precision] | None, "one table each (default: all that the runtime has)"] = None
    name: Annotated[Text | None, "of the table's files (default: table_<precision>, with the runtime)"] = None
    energy: Annotated[
        Text | None, "also the energy of every block: rapl, nvml, jetson, later (see --energy-log), or a file of µW"
    ] = None
    energy_log: Annotated[FilePath | None, "add the energies from your meter's log (time, watts) to a table"] = None

    def __post_init__(self) -> None:
        if self.name:
            file_name(self.name, "name")


@checked
@dataclass(frozen=True, kw_only=True)
class Device:
    """A device that this machine reaches by cable, card or network."""

    kit: Annotated[FilePath | None, "write a measuring kit: models and one script to run on the device"] = None
    import_kit: Annotated[FilePath | None, "make the table from a kit that has run"] = None
    remote: Annotated[Text | None, "user@host: measure over SSH: copy a kit, run it, fetch the results"] = None
    tool: Annotated[Literal["onnxruntime", "trtexec", "benchmark_model"], "what runs the kit's models there"] = (
        "onnxruntime"
    )
    tool_path: Annotated[Text | None, "with --remote: where trtexec or benchmark_model is there"] = None
    remote_python: Annotated[Text, "with --remote: its Python there"] = "python3"
    leave_out_failed: Annotated[bool, "with --import-kit: a table without the blocks that failed"] = False
    ssh_option: Annotated[list[Text], "Key=Value, passed to ssh as -o; repeatable"] = dataclasses.field(
        default_factory=list
    )

    def __post_init__(self) -> None:
        for name in ("tool_path", "remote_python", "ssh_option", "leave_out_failed"):
            way = "import_kit" if name == "leave_out_failed" else "remote"
            if getattr(self, name) not in (None, False, [], Device.remote_python) and not getattr(self, way):
                raise BadInput(f"{option(name)} goes with {option(way)}")

    @property
    def way(self) -> str:
        """The flag that says how the device is reached; '' for this machine. Raises BadInput for two."""
        ways = [option(name) for name in ("kit", "import_kit", "remote") if getattr(self, name)]
        if len(ways) > 1:
            raise BadInput(f"{' and '.join(ways)} are different ways to measure; give one of them")
        return ways[0] if ways else ""


def add_measure(sub: argparse.ArgumentParser) -> None:
    """The flags of ``nas measure``."""
    from nas.measuring.campaign import measure
    from nas.runtimes import named

    add_flags(sub, names.space)
    add_flags(sub, Measured)
    add_flags(sub, measure, *_NETWORKS)
    settings: dict[str, list[str]] = {}
    for runtime, cls in named().items():
        for name in parameters(cls):
            settings.setdefault(name, []).append(runtime)
    groups = {r: sub.add_argument_group(f"with --runtime {r}") for (r, *others) in settings.values() if not others}
    for name, of in settings.items():
        if name not in vars(Measured):
            add_flag(groups[of[0]] if len(of) == 1 else sub, name, *parameters(named()[of[0]])[name])
    add_flags(sub.add_argument_group("a device that this machine reaches by cable, card or network"), Device)


def run_measure(args: argparse.Namespace) -> None:
    """Measure, or write or read a kit, as the parsed arguments say."""
    from nas.measuring.campaign import add_energy, measure

    what, device = Measured(**given(args, Measured)), Device(**given(args, Device))
    precisions = _precisions(what, device)
    runtimes = [_runtime(args, what, precision) for precision in precisions]
    folder_of(what.run_dir)
    stems = [_stem(what, device, runtime, p) for p, runtime in zip(precisions, runtimes, strict=True)]
    if what.energy_log:
        print_table(stems[0], add_energy(stems[0], what.energy_log))
    elif device.import_kit:
        print_table(*_imported(what, device))
    elif device.kit:
        print(f"{_kit(args, device, precisions[0])}: copy it to the device and run: python3 run.py")
    else:
        for precision, runtime, stem in zip(precisions, runtimes, stems, strict=True):
            shared: dict[str, Any] = {"run_dir": what.run_dir, "name": stem.name, "resume": what.resume}
            if device.remote:
                print_table(stem, _remotely(args, device, precision, shared))
            else:
                shared |= {"isolate": True, "meter": meter(what.energy), **given(args, measure, *_NETWORKS)}
                print_table(stem, measure(_space(args), runtime, **shared))


def _imported(what: Measured, device: Device) -> tuple[Path, LatencyTable]:
    from nas.measuring.kit import import_kit
    from nas.measuring.results import stem_of

    assert device.import_kit is not None
    table = import_kit(device.import_kit, run_dir=what.run_dir, name=what.name, allow_failed=device.leave_out_failed)
    return stem_of(what.run_dir, what.name, table.device.precision), table


def _kit(args: argparse.Namespace, device: Device, precision: Precision) -> Path:
    from nas.measuring.kit import export_kit

    assert device.kit is not None
    shared = given(args, export_kit, *_NETWORKS, *_EVERYWHERE)
    return export_kit(_space(args), device.kit, runtime=device.tool, precision=precision, **shared)


def _remotely(args: argparse.Namespace, device: Device, precision: Precision, shared: dict[str, Any]) -> LatencyTable:
    from nas.measuring.ssh import measure_remote

    assert device.remote is not None
    return measure_remote(
        _space(args),
        device.remote,
        runtime=device.tool,
        precision=precision,
        ssh_options=device.ssh_option,
        python=device.remote_python,
        tool_path=device.tool_path,
        **given(args, measure_remote, *_NETWORKS, *_EVERYWHERE),
        **shared,
    )


def _space(args: argparse.Namespace) -> SearchSpace:
    return names.space(**given(args, names.space))


def _runtime(args: argparse.Namespace, what: Measured, precision: str) -> Runtime:
    from nas.runtimes import made, named

    settings = {k: v for cls in named().values() for k, v in given(args, cls).items() if k != "precision"}
    return made(what.runtime, precision, **settings)


def _precisions(what: Measured, device: Device) -> list[Any]:
    """Of the tables that are made. Raises BadInput for flags that do not go together."""
    from nas.runtimes import named

    way, runtimes = device.way, named()
    one_of("runtime", what.runtime, runtimes)
    if way and what.runtime != "onnxruntime":
        raise BadInput(f"with {way} the device's tool runs the models: pass --tool, not --runtime {what.runtime}")
    precisions = list(dict.fromkeys(what.precision or runtimes[what.runtime].precisions))
    if device.kit and len(precisions) > 1:
        raise BadInput("a kit is for one precision; pass --precision fp32, fp16 or int8")
    if what.name and len(precisions) > 1:
        raise BadInput("--name names one table; pass one --precision with it")
    return precisions


def _stem(what: Measured, device: Device, runtime: Runtime, precision: str) -> Path:
    if what.name:
        return Path(what.run_dir) / what.name
    where = device.remote.rpartition("@")[2] if device.remote else ""
    with_what = (
        device.tool if device.remote else getattr(runtime, "accelerator", getattr(runtime, "core", what.runtime))
    )
    parts = ["table", where, with_what if where or with_what != "onnxruntime" else "", precision]
    return Path(what.run_dir) / "_".join(p for p in parts if p)
