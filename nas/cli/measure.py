"""``nas measure``: names on the command line to a runtime, a meter, a way to reach the device, and a table."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import BadInput

if TYPE_CHECKING:
    from nas.measuring.energy import Meter
    from nas.runtimes import Runtime
    from nas.space import SearchSpace
    from nas.tables.table import LatencyTable

_PRECISIONS = ("fp32", "int8", "fp16")
_KIT_TOOLS = ("onnxruntime", "trtexec", "benchmark_model")


def run_measure(args: argparse.Namespace, space: SearchSpace, show: Callable[[Path, LatencyTable], None]) -> None:
    """Measure, or write or read a kit, as the parsed arguments say."""
    logger, handler = logging.getLogger("nas"), logging.StreamHandler(sys.stderr)
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        _run_measure(args, space, show)
    finally:
        logger.removeHandler(handler)


def _run_measure(args: argparse.Namespace, space: SearchSpace, show: Callable[[Path, LatencyTable], None]) -> None:
    _check_combination(args)
    if args.energy_log:
        from nas.measuring.campaign import add_energy

        stem = _stem(args, _precisions(args)[0])
        return show(stem, add_energy(stem, args.energy_log))
    if args.import_kit:
        from nas.measuring.kit import import_kit

        table = import_kit(args.import_kit, run_dir=args.run_dir, name=args.name, allow_failed=args.leave_out_failed)
        return show(Path(args.run_dir) / (args.name or f"table_{table.device.precision}"), table)
    for precision in _precisions(args):
        stem = _stem(args, precision)
        if args.kit:
            from nas.measuring.kit import export_kit

            folder = export_kit(
                space,
                Path(args.kit),
                runtime=args.tool,
                precision=precision,
                batch=args.batch,
                threads=args.threads,
                seed=args.seed,
                calibrate=args.calibrate,
                validate=args.validate,
            )
            print(f"{folder}: copy it to the device and run: python3 run.py")
            continue
        if args.remote:
            from nas.measuring.ssh import measure_remote

            table = measure_remote(
                space,
                args.remote,
                run_dir=args.run_dir,
                name=stem.name,
                runtime=args.tool,
                precision=precision,
                batch=args.batch,
                threads=args.threads,
                resume=args.resume,
                seed=args.seed,
                calibrate=args.calibrate,
                validate=args.validate,
                ssh_options=args.ssh_option,
                python=args.remote_python,
                tool_path=args.tool_path,
            )
        else:
            from nas.measuring.campaign import measure

            table = measure(
                space,
                runtimes()[args.runtime](args, precision),
                run_dir=args.run_dir,
                name=stem.name,
                resume=args.resume,
                seed=args.seed,
                calibrate=args.calibrate,
                validate=args.validate,
                isolate=True,
                meter=_meter(args),
            )
        show(stem, table)
    return None


def runtimes() -> dict[str, Callable[[Any, Any], Runtime]]:
    """Name on the command line -> runtime of (arguments, precision)."""
    from nas.runtimes import EthosU, LiteRT, OnnxRuntime, OpenVINO, TorchCPU, TorchCUDA

    def only(wanted: str, runtime: str, precision: str) -> None:
        if precision != wanted:
            raise BadInput(f"{runtime} measures {wanted}, not {precision}; pass --precision {wanted}")

    def torch_cpu(args: Any, precision: str, compiled: bool) -> Runtime:
        only("fp32", "torch", precision)
        return TorchCPU(compiled=compiled, threads=args.threads, batch=args.batch)

    def ethos_u(args: Any, precision: str) -> Runtime:
        only("int8", "ethos-u", precision)
        return EthosU(args.accelerator, args.system_config, args.memory_mode, args.vela_config)

    return {
        "onnxruntime": lambda a, p: OnnxRuntime(precision=p, threads=a.threads, batch=a.batch),
        "openvino": lambda a, p: OpenVINO(precision=p, threads=a.threads, batch=a.batch),
        "litert": lambda a, p: LiteRT(precision=p, threads=a.threads, batch=a.batch),
        "torch": lambda a, p: torch_cpu(a, p, compiled=False),
        "torch-compiled": lambda a, p: torch_cpu(a, p, compiled=True),
        "cuda": lambda a, p: TorchCUDA(precision=p, batch=a.batch),
        "ethos-u": ethos_u,
    }


def add_flags(sub: argparse.ArgumentParser, seed: Callable[[str], int]) -> None:
    """The flags of ``nas measure``."""
    sub.add_argument("--space", default="mobilenet_v3.digits", help="search space (default %(default)s)")
    sub.add_argument("--classes", type=int, help="number of classes (default: the space's own)")
    sub.add_argument("--channels", type=int, help="input channels (default: the space's own)")
    sub.add_argument(
        "--runtime",
        default="onnxruntime",
        choices=["onnxruntime", "openvino", "litert", "torch", "torch-compiled", "cuda", "ethos-u"],
        help="what executes the networks on this machine (default %(default)s); ethos-u: Arm's compiler, simulated",
    )
    sub.add_argument(
        "--precision", nargs="+", choices=_PRECISIONS, help="default: fp32 int8 (fp32 for torch, int8 for ethos-u)"
    )
    sub.add_argument("--threads", type=int, default=1, help="default %(default)s")
    sub.add_argument("--batch", type=int, default=1, help="images per run (default %(default)s)")
    sub.add_argument("--accelerator", default="ethos-u55-128", help="Ethos-U configuration (default %(default)s)")
    npu = sub.add_argument_group("an Ethos-U other than a microcontroller with flash and SRAM")
    npu.add_argument("--system-config", metavar="NAME", help="System_Config of vela's configuration file")
    npu.add_argument("--memory-mode", metavar="NAME", help="Memory_Mode of vela's configuration file")
    npu.add_argument("--vela-config", metavar="INI", help="a configuration file of yours (default: vela's)")
    sub.add_argument(
        "--name", help="file name of the table (default: table_<precision>, with the runtime if not onnxruntime)"
    )
    sub.add_argument(
        "--calibrate", type=int, default=60, metavar="N", help="networks timed to fit (default %(default)s)"
    )
    sub.add_argument("--validate", type=int, default=20, metavar="N", help="others, to judge by (default %(default)s)")
    sub.add_argument("--seed", type=seed, default=0, help="default 0")
    sub.add_argument(
        "--energy",
        metavar="METER",
        help="also the energy of every block: rapl, nvml, jetson, later (see --energy-log), or a file that holds µW",
    )
    sub.add_argument(
        "--energy-log", metavar="CSV", help="add the energies from your meter's log (time, watts) to a table"
    )
    device = sub.add_argument_group("a device that this machine reaches by cable, card or network")
    device.add_argument(
        "--kit", metavar="DIR", help="write a measuring kit: models and one script to run on the device"
    )
    device.add_argument("--import-kit", metavar="DIR", help="make the table from a kit that has run")
    device.add_argument("--remote", metavar="USER@HOST", help="measure over SSH: copy a kit, run it, fetch the results")
    device.add_argument(
        "--tool",
        default="onnxruntime",
        choices=_KIT_TOOLS,
        help="what runs the kit's models there (default %(default)s)",
    )
    device.add_argument("--tool-path", help="with --remote: where trtexec or benchmark_model is there")
    device.add_argument(
        "--remote-python", default="python3", help="with --remote: its Python there (default %(default)s)"
    )
    device.add_argument(
        "--leave-out-failed", action="store_true", help="with --import-kit: a table without the blocks that failed"
    )
    device.add_argument(
        "--ssh-option", action="append", default=[], metavar="KEY=VALUE", help="passed to ssh as -o; repeatable"
    )


def _check_combination(args: argparse.Namespace) -> None:
    ways = [f"--{name.replace('_', '-')}" for name in ("kit", "import_kit", "remote") if getattr(args, name)]
    if len(ways) > 1:
        raise BadInput(f"{' and '.join(ways)} are different ways to measure; give one of them")
    if ways and args.runtime != "onnxruntime":
        raise BadInput(f"with {ways[0]} the device's tool runs the models: pass --tool, not --runtime {args.runtime}")
    if args.kit and len(_precisions(args)) > 1:
        raise BadInput("a kit is for one precision; pass --precision fp32, fp16 or int8")
    if args.name and len(_precisions(args)) > 1:
        raise BadInput("--name names one table; pass one --precision with it")


def _precisions(args: argparse.Namespace) -> list[Any]:
    if args.precision:
        return list(args.precision)
    return {"torch": ["fp32"], "torch-compiled": ["fp32"], "cuda": ["fp32", "fp16"], "ethos-u": ["int8"]}.get(
        args.runtime, ["fp32", "int8"]
    )


def _stem(args: argparse.Namespace, precision: str) -> Path:
    if args.name:
        return Path(args.run_dir) / args.name
    where = args.remote.rpartition("@")[2] if args.remote else ""
    runtime = args.tool if args.remote else args.runtime
    if args.runtime == "ethos-u":
        runtime = args.accelerator
    parts = ["table", where, runtime if where or runtime != "onnxruntime" else "", precision]
    return Path(args.run_dir) / "_".join(p for p in parts if p)


def _meter(args: argparse.Namespace) -> Meter | None:
    from nas.measuring.energy import Later, Nvml, Rapl, SysfsPower, jetson_power

    if not args.energy:
        return None
    known: dict[str, Callable[[], Meter]] = {"rapl": Rapl, "nvml": Nvml, "jetson": jetson_power, "later": Later}
    if args.energy in known:
        return known[args.energy]()
    if not Path(args.energy).exists():
        raise BadInput(f"there is no meter {args.energy!r}; there are {', '.join(known)}, or a file that holds µW")
    return SysfsPower(Path(args.energy))
