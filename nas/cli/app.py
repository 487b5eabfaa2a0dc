"""The command line: every command is a thin call of the Python API, and the only place where names become objects."""

from __future__ import annotations

import argparse
import dataclasses
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas import deploy
from nas.cli.fit import add_flags as fit_flags
from nas.cli.measure import add_flags as measure_flags
from nas.cli.sweep import SEARCHERS, add_flags as sweep_flags, make_searcher
from nas.cli.tables import add_flags as tables_flags
from nas.errors import BadInput, NasError

if TYPE_CHECKING:
    from nas.data.images import ImageData
    from nas.runs.folder import Run
    from nas.space import SearchSpace

DIGITS = "digits"
_INPUTS = ("data", "test_data", "size", "channels", "skip_bad", "space")
_DEFAULT_INPUTS = {"data": DIGITS, "space": "mobilenet_v3.digits"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, or 2 after one line about what was wrong (1: ``tables validate``)."""
    given = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(given)
    args.command_line = shlex.join(["nas", *given])
    try:
        return args.run(args) or 0
    except NasError as error:
        print(f"nas: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("nas: interrupted; the same command with --resume goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


# --------------------------------------------------------------------------------------------------------------
# Commands


def _quickstart(args: argparse.Namespace) -> None:
    from nas.report import write_report
    from nas.runs import folder as run_folder, stages as stages

    run = _run(args, new=True)
    run_folder.open_run(run, args.command_line)
    final = stages.run_all(run)
    page = write_report(run.folder)
    _print_final(final)
    print(f"\nreport: {page}")


def _measure(args: argparse.Namespace) -> None:
    from nas.cli.measure import run_measure

    run_measure(args, _space(args.space, args.classes, args.channels), _print_table)


def _fit(args: argparse.Namespace) -> None:
    from nas.cli.fit import run_fit

    made = run_fit(args, _space(args.space, args.classes, args.channels))
    if isinstance(made, tuple):
        _print_table(*made)
    else:
        print(made)


def _train(args: argparse.Namespace) -> None:
    from nas.runs import folder as run_folder, stages as stages

    run = _run(args, new=not (Path(args.run_dir) / "config.json").exists())
    if not (run.folder / "config.json").exists():
        run_folder.open_run(run, args.command_line)
    stages.train_stage(run)
    run_folder.remember_settings(run)
    print(run.folder / "supernet.safetensors")


def _search(args: argparse.Namespace) -> None:
    from nas.runs import folder as run_folder, stages as stages

    run = _run(args)
    result = stages.search_stage(run, stages.load_trained(run), stages.load_tables(run))
    run_folder.remember_settings(run)
    path = result.plot(run.folder / "search.png")
    if args.optuna:
        from nas.engine.optuna_study import to_optuna

        print(to_optuna(result, args.optuna))
    print(result.front.to_pandas()[["accuracy", "latency_ms", "architecture"]].to_string(index=False, max_colwidth=60))
    print(path)


def _compress(args: argparse.Namespace) -> None:
    from nas.runs import candidates, folder as run_folder, stages as stages

    run = _run(args)
    candidates.candidates_stage(run, stages.load_trained(run), stages.load_tables(run), stages.load_front(run))
    run_folder.remember_settings(run)
    _print_final(candidates.final_stage(run))


def _export(args: argparse.Namespace) -> None:
    from nas.runs import candidates

    run = _run(args)
    exporter = deploy.named(args.format)
    print(exporter.export(candidates.load_candidate(run.folder / "candidates" / args.candidate), args.output, run.data))


def _report(args: argparse.Namespace) -> None:
    from nas.report import write_report
    from nas.report.sweep_page import write_sweep_report

    is_sweep = (Path(args.run_dir) / "sweep.json").exists()
    print((write_sweep_report if is_sweep else write_report)(args.run_dir))


def _sweep(args: argparse.Namespace) -> None:
    from nas.cli.sweep import run_sweep

    run_sweep(args)


def _tables(args: argparse.Namespace) -> int:
    from nas.cli.tables import run_tables

    return run_tables(args)


# --------------------------------------------------------------------------------------------------------------
# Names to objects


def _run(args: argparse.Namespace, *, new: bool = False) -> Run:
    """The run of ``args.run_dir``: from the command line when it is new, from its config.json otherwise."""
    from nas.runs.folder import Run, Settings, read_config

    folder = Path(args.run_dir)
    known = {f.name for f in dataclasses.fields(Settings)}
    chosen = {k: v for k, v in vars(args).items() if k in known and v is not None}
    if new:
        config: dict[str, Any] = {"settings": {}}
        source = {name: getattr(args, name) for name in _INPUTS}
        source |= {k: v for k, v in _DEFAULT_INPUTS.items() if source[k] is None}
    else:
        config = read_config(folder)
        source = config["inputs"]
        for name in _INPUTS:
            given = getattr(args, name, None)
            if given not in (None, False, source[name]):
                raise BadInput(f"{folder} was made with {name} {source[name]}, not {given}; choose another run folder")
    data = _data(source, config["settings"].get("seed", 0))
    space = _space(source["space"], len(data.classes), data.channels)
    settings = Settings(**{k: v for k, v in config["settings"].items() if k in known} | chosen)
    return Run(
        folder=folder,
        space=space,
        data=data,
        settings=settings,
        inputs=source,
        resume=args.resume,
        progress=_tty(),
        say=lambda line: print(line, flush=True),
        make_searcher=make_searcher,
    )


def open_folder(folder: Path) -> Run:
    """The run of a folder, as its config.json has it, to go on with."""
    return _run(argparse.Namespace(run_dir=str(folder), resume=True))


def _data(source: dict[str, Any], seed: int) -> ImageData:
    from nas.data.images import load_digits, load_images

    if source["data"] == DIGITS:
        return load_digits()
    data = load_images(
        source["data"],
        size=source["size"] or 32,
        channels=source["channels"] or 3,
        test_path=source["test_data"],
        skip_bad=source["skip_bad"],
        seed=seed,
    )
    for note in data.notes:
        print(f"note: {note}", flush=True)
    return data


def _space(name: str, classes: int | None, channels: int | None) -> SearchSpace:
    import search_spaces

    families = {
        "mobilenet_v2": search_spaces.MobileNetV2,
        "mobilenet_v3": search_spaces.MobileNetV3,
        "efficientnet": search_spaces.EfficientNet,
    }
    family, _, size = name.partition(".")
    make = getattr(families.get(family), size, None) if not size.startswith("_") else None
    if make is None:
        names = [f"{f}.{s}" for f, c in families.items() for s in vars(c) if not s.startswith("_")]
        raise BadInput(f"there is no search space {name!r}; there are {', '.join(names)}")
    sizes = {"classes": classes, "in_channels": channels}
    space: SearchSpace = make(**{k: v for k, v in sizes.items() if v is not None})
    return space


# --------------------------------------------------------------------------------------------------------------
# Printing


def _print_final(final: Any) -> None:
    shown = final.copy()
    for column in [c for c in shown if c.endswith("_accuracy")]:
        shown[column] = [f"{100 * v:.1f}" for v in shown[column]]
    for column in [c for c in shown if c.endswith("_ms")]:
        shown[column] = ["-" if v != v else f"{1000 * v:.1f}" for v in shown[column]]
    names = {
        "id": "network",
        "supernet_accuracy": "supernet %",
        "fp32_test_accuracy": "fp32 test %",
        "int8_test_accuracy": "int8 test %",
        "int8_val_accuracy": "int8 val %",
        "measured_fp32_ms": "fp32 µs",
        "predicted_int8_ms": "int8 pred. µs",
        "measured_int8_ms": "int8 µs",
        "speedup_int8": "fp32/int8",
        "int8_bytes": "int8 bytes",
        "on_final_front": "front",
    }
    shown["speedup_int8"] = [f"{v:.2f}" for v in shown["speedup_int8"]]
    shown["on_final_front"] = ["*" if v else "" for v in shown["on_final_front"]]
    print(shown[list(names)].rename(columns=names).to_string(index=False))


def _print_table(stem: Path, table: Any) -> None:
    v = table.validation
    checked = (
        f"on {v.networks} other networks: Kendall tau {v.kendall_tau:.3f}, mean error {v.mape:.1%}, "
        f"{v.within_10pct:.0%} within 10%"
        if v
        else "not validated"
    )
    made_for = table.space.get("name", "-")
    print(
        f"{stem}: {table.kind} {table.date}, {table.device.chip}, {table.device.runtime} {table.device.version}, ",
        end="",
    )
    print(f"{table.device.precision}, batch {table.device.batch}, {table.device.threads} thread(s)")
    print(f"  {len(table.rows)} blocks of {made_for}; {checked}")


def _tty() -> bool:
    return sys.stderr.isatty()


# --------------------------------------------------------------------------------------------------------------
# Flags


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        print(f"nas: {message} (nas {self.prog.partition(' ')[2]} --help lists the flags)", file=sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="nas",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  nas quickstart\n  nas quickstart --data flowers/ --space mobilenet_v3.cifar --run-dir runs/flowers\n  nas tables runs/",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(
        name: str, run: Callable[[argparse.Namespace], int | None], text: str, *examples: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog="examples:\n" + "\n".join(f"  {e}" for e in examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(run=run)
        return sub

    sub = command(
        "quickstart",
        _quickstart,
        "The whole job: measure, train, search, compress, export, time again, report. Without --data: handwritten digits.",
        "nas quickstart",
        "nas quickstart --data photos.zip --space mobilenet_v3.cifar --size 40 --run-dir runs/photos",
        "nas quickstart --resume",
    )
    _run_dir(sub, default="runs/quickstart")
    _inputs(sub)
    for group in (_training, _searching, _compressing):
        group(sub)
    sub.add_argument("--threads", type=int, help="threads of the measured runtime (default 1)")

    sub = command(
        "measure",
        _measure,
        "Measure latency tables of a search space: on this machine, over SSH, or with a kit for a device on the desk.",
        "nas measure --space mobilenet_v3.digits --channels 1 --run-dir runs/cpu",
        "nas measure --space mobilenet_v3.cifar --runtime openvino --precision int8 --run-dir runs/cifar --resume",
        "nas measure --space mobilenet_v3.cifar --remote pi@raspberrypi --precision int8 --run-dir runs/pi",
        "nas measure --space mobilenet_v3.cifar --kit kit/ --tool trtexec --precision fp16",
        "nas measure --import-kit kit/ --run-dir runs/jetson",
    )
    _run_dir(sub, default="runs/tables")
    measure_flags(sub, _seed)

    sub = command(
        "fit",
        _fit,
        "A latency table from timings of whole networks, for a device that cannot run a campaign.",
        "nas fit --space mobilenet_v3.cifar --choose 10 --like latency_tables/*mobilenet_v3_cifar.json --output jetson/",
        "nas fit --space mobilenet_v3.cifar --timings jetson/timings.csv --like latency_tables/*mobilenet_v3_cifar.json "
        "--device-name 'Jetson TX2' --runtime tensorrt --precision fp16 --run-dir runs/jetson",
        "nas fit --space mobilenet_v3.digits --channels 1 --board NUCLEO-L4R5ZI --run-dir runs/mcu",
    )
    fit_flags(sub)

    sub = command(
        "train",
        _train,
        "Train the supernet of a space on images.",
        "nas train --data digits --run-dir runs/digits",
        "nas train --data flowers/ --space mobilenet_v3.cifar --size 40 --epochs 100 --run-dir runs/flowers",
    )
    _run_dir(sub)
    _inputs(sub)
    _training(sub)

    sub = command(
        "search",
        _search,
        "Search the Pareto front of accuracy and latency in a run folder that has tables and a supernet.",
        "nas search --run-dir runs/digits --budget 500 --max-latency-ms 0.05",
        "nas search --run-dir runs/digits --resume --optuna runs/digits/optuna.db",
    )
    _run_dir(sub)
    _searching(sub)
    sub.add_argument(
        "--optuna", metavar="FILE", help="also write the search as an Optuna study: optuna-dashboard sqlite:///FILE"
    )

    sub = command(
        "compress",
        _compress,
        "Cut networks of the front out, fine-tune, prune, quantize, export and time them.",
        "nas compress --run-dir runs/digits --candidates 4 --prune 0.3",
    )
    _run_dir(sub)
    _compressing(sub)

    sub = command(
        "export",
        _export,
        "Export a deployed network of a run.",
        "nas export --run-dir runs/quickstart --candidate c03 --format bundle --output classifier/",
        "nas export --run-dir runs/quickstart --candidate c03p --format onnx-int8-symmetric --output board.onnx",
    )
    _run_dir(sub)
    sub.add_argument("--candidate", required=True, help="its id in the final table, such as c03")
    sub.add_argument(
        "--format",
        choices=deploy.names(),
        default="onnx",
        help="onnx-int8-symmetric: for TensorRT; litert, litert-int8: .tflite, for phones and microcontrollers "
        "(default %(default)s)",
    )
    sub.add_argument("--output", required=True, help="file (or folder, for a bundle) to write")

    sub = command(
        "sweep",
        _sweep,
        "Run searches with every combination of devices, searchers and seeds on Ray, and compare them.",
        "nas sweep --devices raspi4,pixel2,gold_6240 --searchers guided,nsga2,random --seeds 3 --run-dir runs/sweep",
        "nas sweep --run runs/quickstart --searchers guided,nsga2 --seeds 2 --budget 100 --run-dir runs/compare",
        "nas sweep --run-dir runs/sweep --resume",
    )
    _run_dir(sub)
    sweep_flags(sub)

    sub = command(
        "report", _report, "Write the report of a run folder, or of a sweep's.", "nas report --run-dir runs/quickstart"
    )
    _run_dir(sub)

    sub = command(
        "tables",
        _tables,
        "List, show, compare and validate latency tables, and draw how devices agree.",
        "nas tables runs/ latency_tables/",
        "nas tables show latency_tables/note10_ofa_b1",
        "nas tables compare runs/a/table_fp32 runs/b/table_fp32",
        "nas tables validate runs/",
        "nas tables heatmap latency_tables/ --output heat.png",
    )
    tables_flags(sub)
    return parser


def _bytes(text: str) -> int:
    """A size from the command line; KB and MB are 1024 and 1024² bytes, as microcontrollers' memories are."""
    parts = re.fullmatch(r"(\d+\.?\d*)\s*(\w*)", text.strip())
    units = {"": 1, "b": 1, "k": 1024, "kb": 1024, "kib": 1024, "m": 1024**2, "mb": 1024**2, "mib": 1024**2}
    if parts is None or parts[2].lower() not in units:
        raise argparse.ArgumentTypeError(f"a size is a number of bytes, KB or MB, such as 256KB, got {text!r}")
    value = float(parts[1]) * units[parts[2].lower()]
    if value < 1:
        raise argparse.ArgumentTypeError(f"a size is at least 1 byte, got {text!r}")
    return round(value)


def _seed(text: str) -> int:
    """A seed from the command line."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a seed is a whole number from 0, got {text!r}")
    return int(text)


def _run_dir(sub: argparse.ArgumentParser, default: str | None = None) -> None:
    sub.add_argument(
        "--run-dir",
        default=default,
        required=default is None,
        help="run folder" + (" (default %(default)s)" if default else ""),
    )
    sub.add_argument("--resume", action="store_true", help="go on with what the folder already holds")


def _inputs(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--data", help="'digits' (the default), or a folder or .zip with one subfolder of images per class"
    )
    sub.add_argument("--test-data", help="a second folder or .zip that holds the test images")
    sub.add_argument("--size", type=int, help="pixels at which images are stored (default 32)")
    sub.add_argument("--channels", type=int, choices=[1, 3], help="1: grey, 3: RGB (default 3; digits are grey)")
    sub.add_argument("--skip-bad", action="store_true", help="skip images that do not decode")
    sub.add_argument("--space", help="search space (default mobilenet_v3.digits)")
    sub.add_argument("--seed", type=_seed, help="default 0")


def _training(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--epochs", type=int, help="epochs of supernet training (default 50)")
    sub.add_argument("--batch-size", type=int, help="default 128")
    sub.add_argument("--lr", type=float, help="peak learning rate (default 0.1)")
    sub.add_argument("--device", help="torch device that trains (default cpu)")


def _searching(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--budget", type=int, help="networks evaluated (default 400)")
    sub.add_argument("--searcher", choices=list(SEARCHERS), help="default guided, which needs the fewest evaluations")
    sub.add_argument("--population", type=int, help="of NSGA-II (default 48)")
    sub.add_argument("--table", help="latency table of the device to search for (default: this machine's, measured)")
    sub.add_argument(
        "--unvalidated-table", action="store_true", default=None, help="accept a table whose error nobody has measured"
    )
    sub.add_argument("--max-latency-ms", type=float, help="hard limit on the predicted latency")
    sub.add_argument("--max-sram", type=_bytes, help="hard limit on the int8 network's peak SRAM, such as 256KB")
    sub.add_argument("--max-flash", type=_bytes, help="hard limit on the int8 network's size in flash, such as 1MB")
    sub.add_argument("--precision", choices=["fp32", "int8"], help="the latency that is searched for (default int8)")


def _compressing(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--candidates", type=int, help="networks of the front that are deployed (default 10)")
    sub.add_argument(
        "--prune", type=float, help="share of channels removed in the pruned variant (default 0.25; 0: none)"
    )
    sub.add_argument("--finetune-epochs", type=int, help="default 12")


if __name__ == "__main__":
    sys.exit(main())
