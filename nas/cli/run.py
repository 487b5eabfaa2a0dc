"""The commands of a run folder: ``nas quickstart``, ``train``, ``search``, ``compress``, ``export`` and ``report``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from nas.checks import FilePath, Text
from nas.cli import names
from nas.cli.flags import add_flag, add_flags, given, parameters
from nas.cli.names import Resume, RunDir
from nas.cli.printing import print_final
from nas.files import folder_of, writable
from nas.runs.artefacts import CONFIG, Call, read_config, read_failures
from nas.runs.settings import SETTINGS_OF, Settings

if TYPE_CHECKING:
    from nas.runs.folder import Run

_OF_SPACE = ("space", "pretrained", "around")
"""What a run's command line says of its space; the rest is said by its images."""


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
    add_flag(sub, "run_dir", RunDir)
    add_flag(sub, "candidate", Annotated[Text, "its id in the final table, such as c03"])
    from nas.deploy import names as formats

    forms = f"{', '.join(formats())}; onnx-int8-symmetric is for TensorRT, litert for phones and microcontrollers"
    add_flag(sub, "format", Annotated[Text, forms], "onnx")
    add_flag(sub, "output", Annotated[FilePath, "file (or folder, for a bundle) to write"])


def add_report(sub: argparse.ArgumentParser) -> None:
    add_flag(sub, "run_dir", RunDir)


def _add_folder(sub: argparse.ArgumentParser, *default: str) -> None:
    add_flag(sub, "run_dir", RunDir, *default)
    add_flag(sub, "resume", Resume, False)
    sub.set_defaults(**dict(zip(("run_dir",), default, strict=False)))


def _add_inputs(sub: argparse.ArgumentParser) -> None:
    more = (*_OF_SPACE, "seed")
    add_flags(sub, names.images, *(name for name in parameters(names.images) if name not in more))
    add_flags(sub, names.space, *_OF_SPACE)


def run_quickstart(args: argparse.Namespace) -> None:
    """All stages, and the report."""
    from nas.report import write_report
    from nas.runs.stages import run_all

    run = _run(args)
    final = run_all(run)
    print_final(final, read_failures(run.folder), len(run.data.test))
    print(f"\nreport: {write_report(run.folder)}")


def run_train(args: argparse.Namespace) -> None:
    """The supernet; makes the folder when it is new."""
    from nas.runs.stages import run_stage
    from nas.training.names import SUPERNET

    run = _run(args)
    run_stage(run, "supernet")
    print(run.folder / SUPERNET)


def run_search(args: argparse.Namespace) -> None:
    """The search, its figure, and an Optuna study of it when one is asked for."""
    from nas.engine.optuna_study import to_optuna
    from nas.runs.stages import run_stage

    optuna = getattr(args, "optuna", None)
    if optuna:
        writable(optuna)
    run = _reopened(args)
    result = run_stage(run, "search")
    path = result.plot(run.folder / "search.png")
    if optuna:
        print(to_optuna(result, optuna))
    front = result.front.to_pandas()
    columns = [*(o.name for o in result.objectives), "architecture"]
    print(front[columns].to_string(index=False, max_colwidth=60))
    print(path)


def run_compress(args: argparse.Namespace) -> None:
    """The candidates, and the final table of them."""
    from nas.runs.stages import run_stage

    run = _reopened(args)
    run_stage(run, "candidates")
    print_final(run_stage(run, "final"), read_failures(run.folder), len(run.data.test))


def run_export(args: argparse.Namespace) -> None:
    """One network of the run, in one form."""
    from nas.data.images import ImageData
    from nas.deploy import named
    from nas.runs.candidates import candidate_folder, load_candidate
    from nas.runs.made_by import make

    exporter = named(getattr(args, "format", "onnx"))
    (writable if exporter.suffix else folder_of)(args.output, "output")
    folder = folder_of(args.run_dir)
    network = load_candidate(candidate_folder(folder, args.candidate))
    # the images alone: the space may be one that only Python can make
    images = make(read_config(folder).data.made_by, ImageData, "data", folder) if exporter.needs_data else None
    print(exporter.export(network, args.output, images))


def run_report(args: argparse.Namespace) -> None:
    """The page of a run's folder, or of a sweep's."""
    from nas.report import write_report
    from nas.report.sweep_page import write_sweep_report

    folder = folder_of(args.run_dir)
    print((write_sweep_report if (folder / "sweep.json").exists() else write_report)(folder))


def _run(args: argparse.Namespace) -> Run:
    """Of what the command line says; of the folder, where there is one."""
    there = (folder_of(args.run_dir) / CONFIG).exists()
    return _reopened(args) if there else _new(args)


def _new(args: argparse.Namespace) -> Run:
    from nas.runs.folder import new_run

    settings = Settings(**given(args, Settings))
    of_data, of_space = _all(args, names.images) | {"seed": settings.seed}, _all(args, names.space)
    chosen = {name: of_space[name] for name in _OF_SPACE}
    if names.network(**chosen) is None:
        names.space(**chosen)  # a wrong name is refused before images are read
        if of_data["data"] == names.DIGITS:
            of_space["space"] = of_space["space"] or names.SPACE
        else:
            fit = names.suited(of_data["data"], of_space["space"], of_data["size"], of_data["channels"])
            of_space["space"], of_data["size"], of_data["channels"] = fit
    images = names.images(**of_data)
    sizes = {"classes": len(images.classes), "channels": images.channels}
    of_space |= sizes | {"size": images.size if of_space["pretrained"] else None}
    return new_run(
        names.space(**of_space),
        images,
        run_dir=args.run_dir,
        settings=settings,
        space_by=_call(names.space, of_space),
        data_by=_call(names.images, of_data),
        resume="resume" in args,
        command=args.command_line,
    )


def _call(function: Callable[..., Any], arguments: dict[str, Any]) -> Call:
    return Call(function=f"{function.__module__}:{function.__name__}", arguments=arguments)


def _reopened(args: argparse.Namespace) -> Run:
    """The run of a folder, with the settings that the command line changes."""
    from nas.runs.folder import reopen

    return reopen(
        args.run_dir,
        given(args, Settings),
        space=given(args, names.space, *_OF_SPACE),
        data=given(args, names.images),
        resume="resume" in args,
        command=args.command_line,
    )


def _all(args: argparse.Namespace, takes: Callable[..., Any]) -> dict[str, Any]:
    """What ``takes`` is called with: as given, else its defaults."""
    return {name: default for name, (_, default) in parameters(takes).items()} | given(args, takes)
