"""The command line: every command is a thin call of the Python API, its flags those of the functions that it calls."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nas import __version__
from nas.cli.flags import Parser, named_in
from nas.errors import NasError
from nas.files import first_line

_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)


@dataclass(frozen=True)
class Command:
    """A command of a module of this package, which has ``add_<name>(parser)`` and ``run_<name>(args)``."""

    module: str
    text: str
    examples: tuple[str, ...]

    def part(self, name: str) -> Callable[[Any], Any]:
        """Its module's function; imported now, so that a command loads no more than it needs."""
        function: Callable[[Any], Any] = getattr(importlib.import_module(f"nas.cli.{self.module}"), name)
        return function


COMMANDS = {
    "quickstart": Command(
        "run",
        "The whole job: measure, train, search, compress, export, time again, report. Without --data: handwritten digits.",
        (
            "nas quickstart",
            "nas quickstart --data photos.zip --space mobilenet_v3.cifar --size 40 --run-dir runs/photos",
            "nas quickstart --resume",
        ),
    ),
    "measure": Command(
        "measure",
        "Measure latency tables of a search space: on this machine, over SSH, or with a kit for a device on the desk.",
        (
            "nas measure --space mobilenet_v3.digits --channels 1 --run-dir runs/cpu",
            "nas measure --space mobilenet_v3.cifar --runtime openvino --precision int8 --run-dir runs/cifar --resume",
            "nas measure --space mobilenet_v3.cifar --remote pi@raspberrypi --precision int8 --run-dir runs/pi",
            "nas measure --space mobilenet_v3.cifar --kit kit/ --tool trtexec --precision fp16",
            "nas measure --import-kit kit/ --run-dir runs/jetson",
        ),
    ),
    "fit": Command(
        "fit",
        "A latency table from timings of whole networks, for a device that cannot run a campaign.",
        (
            "nas fit --space mobilenet_v3.cifar --choose 10 --like latency_tables/*mobilenet_v3_cifar.json --output jetson/",
            "nas fit --space mobilenet_v3.cifar --timings jetson/timings.csv --like "
            "latency_tables/*mobilenet_v3_cifar.json --device-name 'Jetson TX2' --runtime tensorrt --precision fp16 "
            "--run-dir runs/jetson",
            "nas fit --space mobilenet_v3.digits --channels 1 --board NUCLEO-L4R5ZI --run-dir runs/mcu",
        ),
    ),
    "train": Command(
        "run",
        "Train the supernet of a space on images.",
        (
            "nas train --data digits --run-dir runs/digits",
            "nas train --data flowers/ --space mobilenet_v3.cifar --size 40 --epochs 100 --run-dir runs/flowers",
        ),
    ),
    "search": Command(
        "run",
        "Search the Pareto front of accuracy and latency in a run folder that has tables and a supernet.",
        (
            "nas search --run-dir runs/digits --budget 500 --max-latency-ms 0.05",
            "nas search --run-dir runs/digits --resume --optuna runs/digits/optuna.db",
        ),
    ),
    "compress": Command(
        "run",
        "Cut networks of the front out, fine-tune, prune, quantize, export and time them.",
        ("nas compress --run-dir runs/digits --candidates 4 --prune 0.3",),
    ),
    "export": Command(
        "run",
        "Export a deployed network of a run.",
        (
            "nas export --run-dir runs/quickstart --candidate c03 --format bundle --output classifier/",
            "nas export --run-dir runs/quickstart --candidate c03p --format onnx-int8-symmetric --output board.onnx",
        ),
    ),
    "sweep": Command(
        "sweep",
        "Run searches with every combination of devices, searchers and seeds on Ray, and compare them.",
        (
            "nas sweep --devices raspi4,pixel2,gold_6240 --searchers guided,nsga2,random --seeds 3 --run-dir runs/sweep",
            "nas sweep --run runs/quickstart --searchers guided,nsga2 --seeds 2 --budget 100 --run-dir runs/compare",
            "nas sweep --run-dir runs/sweep --resume",
        ),
    ),
    "report": Command(
        "run", "Write the report of a run folder, or of a sweep's.", ("nas report --run-dir runs/quickstart",)
    ),
    "spaces": Command(
        "lists",
        "List the search spaces, or compute the sizes of some.",
        ("nas spaces", "nas spaces mobilenet_v2.photos resnet.cifar"),
    ),
    "searchers": Command("lists", "List the searchers.", ("nas searchers",)),
    "devices": Command("lists", "List what can be measured here, and the devices whose tables ship.", ("nas devices",)),
    "tables": Command(
        "tables",
        "List, show, compare and validate latency tables, and draw how devices agree.",
        (
            "nas tables runs/ latency_tables/",
            "nas tables show latency_tables/note10_ofa_b1",
            "nas tables compare runs/a/table_fp32 runs/b/table_fp32",
            "nas tables validate runs/",
            "nas tables heatmap latency_tables/ --output heat.png",
        ),
    ),
    "completion": Command(
        "completion",
        "Print what a shell reads to complete commands, flags and names.",
        (
            "nas completion bash > ~/.local/share/bash-completion/completions/nas",
            "nas completion fish > ~/.config/fish/completions/nas.fish",
            'nas completion zsh > "${fpath[1]}/_nas"',
        ),
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, or 2 after one line about what was wrong (1: ``tables validate``)."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given:
        parser("").print_help()
        return 0
    args = parser(*given[:1]).parse_args(given)
    args.command_line = shlex.join(["nas", *given])
    try:
        with _logged(args.command):
            return args.command.part(f"run_{args.name_of_command}")(args) or 0
    except NasError as error:
        return _refused(named_in(str(error), given))
    except KeyboardInterrupt:
        goes_on = "; the same command with --resume goes on from here" if hasattr(args, "run_dir") else ""
        print(f"nas: interrupted{goes_on}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        return _refused(f"{error.filename or 'the disk'}: {error.strerror}")


def parser(*named: str) -> argparse.ArgumentParser:
    """The parser of all commands; with the flags of those ``named`` only, which saves importing what has the others."""
    whole = Parser(
        prog="nas",
        description=__doc__,
        epilog="examples:\n  nas quickstart\n  nas quickstart --data flowers/ --space mobilenet_v3.cifar --run-dir runs/flowers\n  nas tables runs/",
    )
    whole.add_argument("--version", action="version", version=f"nas {__version__}")
    commands = whole.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=Parser)
    for name, command in COMMANDS.items():
        examples = "examples:\n" + "\n".join(f"  {e}" for e in command.examples)
        sub = commands.add_parser(name, help=command.text, description=command.text, epilog=examples)
        sub.set_defaults(command=command, name_of_command=name)
        if name in (named or COMMANDS):
            command.part(f"add_{name}")(sub)
    return whole


def _refused(text: str) -> int:
    print(f"nas: {' '.join(text.split()) or first_line(text)}", file=sys.stderr)
    return 2


@contextlib.contextmanager
def _logged(command: Command) -> Iterator[None]:
    """What nas logs is printed, above a progress bar when there is one: the steps of a run are its output."""
    from tqdm import tqdm

    stream = sys.stdout if command.module == "run" else sys.stderr

    class Printed(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tqdm.write(record.getMessage(), file=stream)
            stream.flush()

    logger, handler = logging.getLogger("nas"), Printed()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # to what libraries install at the root: every line would be printed twice
    try:
        yield
    finally:
        logger.removeHandler(handler)
        level, logger.propagate = before
        logger.setLevel(level)
