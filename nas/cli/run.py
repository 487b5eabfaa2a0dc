"""The commands of a run folder: ``nas quickstart``, ``train``, ``search``, ``compress``, ``export`` and ``report``."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from nas.checks import FilePath, Text
from nas.cli import names
from nas.cli.flags import add_flag, add_flags, given
from nas.cli.names import Resume, RunDir
from nas.cli.printing import print_final
from nas.errors import BadInput
from nas.files import file_name, folder_of, writable
from nas.runs.settings import SETTINGS_OF, Settings

if TYPE_CHECKING:
    from nas.runs.folder import Run


# ---- flags -----------------------------------------------------------------------------------------------------


def add_quickstart(sub: argparse.ArgumentParser) -> None:
    _add_folder(sub, "runs/quickstart")
    _add_inputs(sub)
    add_flags(sub, Settings)


def add_train(sub: argparse.ArgumentParser) -> None:
    _add_folder(sub)
    _add_inputs(sub)
    add_flags(sub, Settings, *SETTINGS_OF["run"], *SETTINGS_OF["supernet"])


def add_search(sub: argparse.ArgumentParser) -> None:
    _add_folder(sub)
    add_flags(sub, Settings, *SETTINGS_OF["search"])
    add_flag(
        sub,
        "optuna",
        Annotated[FilePath | None, "also write the search as an Optuna study: optuna-dashboard sqlite:///FILE"],
        None,
    )


def add_compress(sub: argparse.ArgumentParser) -> None:
    _add_folder(sub)
    add_flags(sub, Settings, *SETTINGS_OF["candidates"])


def add_export(sub: argparse.ArgumentParser) -> None:
    _add_folder(sub)
    add_flag(sub, "candidate", Annotated[Text, "its id in the final table, such as c03"])
    add_flag(sub, "format", Annotated[Text, f"one of {', '.join(_exporters())}"], "onnx")
    add_flag(sub, "output", Annotated[FilePath, "file (or folder, for a bundle) to write"])


def add_report(sub: argparse.ArgumentParser) -> None:
    _add_folder(sub)


def _add_folder(sub: argparse.ArgumentParser, *default: str) -> None:
    add_flag(sub, "run_dir", RunDir, *default)
    add_flag(sub, "resume", Resume, False)
    sub.set_defaults(**dict(zip(("run_dir",), default, strict=False)))


def _add_inputs(sub: argparse.ArgumentParser) -> None:
    add_flags(sub, names.images, "data", "test_data", "size", "channels", "skip_bad")
    add_flags(sub, names.space, "space")


# ---- commands --------------------------------------------------------------------------------------------------


def run_quickstart(args: argparse.Namespace) -> None:
    """All stages, and the report."""
    from nas.report import write_report
    from nas.runs.artefacts import CONFIG
    from nas.runs.stages import run_all

    run = _reopened(args) if getattr(args, "resume", False) and _is_run(args) else _new(args)
    if (run.folder / CONFIG).exists() and not run.resume:
        raise BadInput(f"{run.folder} already holds a run; pass --resume to go on with it, or another folder")
    final = run_all(run)
    print_final(final)
    print(f"\nreport: {write_report(run.folder)}")


def run_train(args: argparse.Namespace) -> None:
    """The stage of the supernet; makes the folder when it is new."""
    from nas.runs.stages import train

    print(train(_reopened(args) if _is_run(args) else _new(args)))


def run_search(args: argparse.Namespace) -> None:
    """The stage of the search."""


def run_compress(args: argparse.Namespace) -> None:
    """The stages after the search."""


def run_export(args: argparse.Namespace) -> None:
    """One network of the run into one file."""


def run_report(args: argparse.Namespace) -> None:
    """The page of a run's folder, or of a sweep's."""


def _exporters() -> list[str]:
    return []


def _is_run(args: argparse.Namespace) -> bool:
    from nas.runs.artefacts import CONFIG

    return (folder_of(args.run_dir) / CONFIG).exists()


def _new(args: argparse.Namespace) -> Run:
    """A run of what the command line says."""
    from nas.runs.folder import new_run

    settings = Settings(**given(args, Settings))
    chosen: dict[str, Any] = {name: default for name, (_, default) in parameters(names.images).items()}
    images = functools.partial(names.images, **chosen | given(args, names.images) | {"seed": settings.seed})
    data = images()
    ...


def _reopened(args: argparse.Namespace) -> Run:
    """The run of a folder, with what the command line changes."""
    from nas.runs.folder import reopen

    return reopen(
        args.run_dir,
        given(args, Settings),
        space=given(args, names.space, "space"),
        data=given(args, names.images),
        resume=getattr(args, "resume", False),
        command=args.command_line,
    )
