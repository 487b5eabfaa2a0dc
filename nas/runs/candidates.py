"""Candidates: networks of the front that are cut out, compressed and exported, each in ``candidates/<id>/``.

One that cannot be deployed (its int8 form is broken, a converter refuses it) is a recorded failure, and costs no other.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nas.blocks import from_key
from nas.compression.int8_network import Int8Network
from nas.compression.pipeline import Compressed, compress
from nas.compression.step import Step
from nas.compression.steps.fine_tune import FineTune
from nas.compression.steps.prune import Prune
from nas.compression.steps.quantize import Quantize
from nas.deploy.bundle import export_bundle
from nas.deploy.to_onnx import export_onnx
from nas.errors import MissingPackage, NasError, Unwritable
from nas.files import file_name, first_line
from nas.modules import Network
from nas.runs import artefacts
from nas.runs.artefacts import Candidate, Failure, MadeFrom, StepRecord
from nas.runs.folder import Run, log
from nas.runs.names import reads_onnx, runtimes_of
from nas.runs.search import front_of, load_trained
from nas.runs.settings import Settings
from nas.runs.tables import local_tables
from nas.space import Archs
from nas.supernet import Supernet
from nas.supernet.training import calibrated
from nas.training.weights import load_weights, save_weights

NOT_ITS_OWN = (Unwritable, MissingPackage, OSError, MemoryError, torch.cuda.OutOfMemoryError)
"""What no network is to blame for, and stops the run: the next one would meet it too, this one perhaps not again."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What is done to a network of the front. The last step quantizes; the network before it is the float one.

    ``after``: the variant whose float network it starts from; None: from the network as the supernet has it.
    """

    steps: tuple[Step, ...]
    after: str | None = None
    pruned: float = 0.0


def variants(settings: Settings) -> Mapping[str, Variant]:
    """Ending of a candidate's id -> what is done to it, in order."""
    tune, quantize = FineTune(epochs=settings.finetune_epochs), Quantize(qat_epochs=settings.qat_epochs)
    found = {"": Variant(steps=(tune, quantize))}
    if settings.prune:
        recover = FineTune(epochs=settings.finetune_epochs, name="recover")
        steps = (Prune(ratio=settings.prune), recover, quantize)
        found["p"] = Variant(steps=steps, after="", pruned=settings.prune)
    return found


@dataclass(frozen=True, kw_only=True)
class Todo:
    """A candidate that is not there yet: variant ``ending`` of the network ``arch (genes,)``, called ``name``."""

    name: str
    ending: str
    arch: Archs


def missing_candidates(run: Run) -> list[Todo]:
    """The candidates that the run still lacks, those first that others start from.

    A network that is there keeps its id, also when the front has changed around it. One that has failed is not missing,
    nor is what starts from it. What starts from one that is missing is missing too.
    """
    chosen = spread_over_front(front_of(run), run.settings.candidates)
    failures = artefacts.read_failures(run.folder)
    tried: list[Candidate | Failure] = [*failures, *artefacts.read_candidates(run.folder)]
    there = {one.id: one for one in tried}
    recipe = {i for i, one in there.items() if one.made_from == _made_from(run, one.made_from.genes)}
    names = {there[i].made_from.genes: i.rstrip("p") for i in sorted(recipe, reverse=True)}
    taken = {i.rstrip("p") for i in there}
    free = (f"c{n:02d}" for n in range(1, 10**6) if f"c{n:02d}" not in taken)
    todo: list[Todo] = []
    lost = {one.id for one in failures}
    for arch in chosen:
        name = names.get(tuple(int(g) for g in arch)) or next(free)
        for ending, variant in variants(run.settings).items():
            if variant.after is not None and f"{name}{variant.after}" in lost:
                lost.add(f"{name}{ending}")
            elif f"{name}{ending}" not in recipe or any((t.name, t.ending) == (name, variant.after) for t in todo):
                todo.append(Todo(name=name, ending=ending, arch=arch))
    return todo


def compress_stage(run: Run) -> list[Candidate]:
    """Networks of the front cut out, fine-tuned, pruned, quantized and exported; what fails on the way is recorded.

    Raises NasError when no network could be deployed.
    """
    if missing_candidates(run):
        (run.folder / artefacts.FINAL_TABLE).unlink(missing_ok=True)  # of other candidates
        supernet = load_trained(run)
        teacher = calibrated(supernet, supernet.largest, run.data)
        while todo := missing_candidates(run):  # a failure takes those that start from it off the list
            candidate = _tried(run, todo[0], supernet, teacher)
            if candidate is not None:
                _drop_what_started_from(run, todo[0])
                if run.on_candidate is not None:
                    run.on_candidate(candidate)
    return deployed(run)


def _drop_what_started_from(run: Run, one: Todo) -> None:
    """Variants that were made from the network which ``one`` has just replaced."""
    for ending, variant in variants(run.settings).items():
        if variant.after == one.ending:
            shutil.rmtree(run.folder / artefacts.CANDIDATES / f"{one.name}{ending}", ignore_errors=True)


def deployed(run: Run) -> list[Candidate]:
    """The finished candidates of a run. Raises NasError when all have failed."""
    there, failures = artefacts.read_candidates(run.folder), artefacts.read_failures(run.folder)
    if failures and not there:
        raise NasError(
            f"none of {len(failures)} networks could be deployed, {failures[0].id} for one: {failures[0].error}; "
            f"delete {run.folder / artefacts.CANDIDATES} to try again"
        )
    return there


def _tried(run: Run, one: Todo, supernet: Supernet, teacher: nn.Module) -> Candidate | None:
    """A candidate, or None and a record of why there is none."""
    try:
        candidate = _deploy(run, one, calibrated(supernet, one.arch, run.data), teacher)
    except NOT_ITS_OWN:
        raise
    except Exception as error:
        text = run.space.describe(one.arch[None])[0]
        record_failure(run, f"{one.name}{one.ending}", text, _made_from(run, one.arch), error)
        return None
    last = candidate.steps[-1]
    log.info(
        "%s: %.2f MMACs, int8 validation accuracy %.1f%%, %s predicted, %s measured",
        candidate.id, last.macs / 1e6, 100 * last.accuracy, _ms(last.predicted_ms), _ms(last.measured_ms),
    )  # fmt: skip
    return candidate


def record_failure(run: Run, name: str, architecture: str, made_from: MadeFrom, error: Exception) -> None:
    """Write ``failure.json``, alone in its folder. Of an error that is none of ours the log has the traceback, too."""
    known = isinstance(error, NasError)
    folder = run.folder / artefacts.CANDIDATES / name
    text = first_line(error) if known else f"{type(error).__name__}: {first_line(error)}"
    failure = Failure(id=name, architecture=architecture, made_from=made_from, error=text)
    shutil.rmtree(folder, ignore_errors=True)
    artefacts.write_record(folder / artefacts.FAILURE, failure)
    log.warning(
        "%s failed and is left out: %s (delete %s to try it again)", failure.id, failure.error, folder,
        exc_info=None if known else error,
    )  # fmt: skip


def spread_over_front(front: Archs, n: int) -> Archs:
    """``n`` architectures of a front ``(m, genes)``, evenly spaced along it, both ends included (all of a smaller one)."""
    return front[np.unique(np.linspace(0, len(front) - 1, min(n, len(front))).round().astype(int))]


def load_candidate(folder: Path) -> Network:
    """The float network of a candidate. Raises BadInput when the folder holds none."""
    candidate = artefacts.read_candidate(folder)
    network = Network(from_key(key) for key in candidate.blocks)
    load_weights(folder / artefacts.WEIGHTS, network, {})
    network.normalise = candidate.normalise
    return network.eval()


def candidate_folder(run_dir: Path, candidate: str) -> Path:
    """Where a candidate lies. Raises BadInput when ``candidate`` is no id, or none that is there."""
    folder = run_dir / artefacts.CANDIDATES / file_name(candidate, "the id of a candidate")
    artefacts.read_candidate(folder)
    return folder


def bundle_candidate(run: Run, candidate: str) -> Path:
    """A self-contained bundle of a candidate's float network, beside its other files."""
    folder = candidate_folder(run.folder, candidate)
    network = load_candidate(folder)
    preprocessing = run.data.preprocessing(network.input_shape[-1])
    return export_bundle(network, folder / "bundle", classes=run.data.classes, preprocessing=preprocessing)


def _deploy(run: Run, one: Todo, network: nn.Module, teacher: nn.Module) -> Candidate:
    """Compress a network and write it; ``summary.json`` last: with it the candidate is done."""
    variant = variants(run.settings)[one.ending]
    earlier: tuple[StepRecord, ...] = ()
    if variant.after is not None:
        folder = run.folder / artefacts.CANDIDATES / f"{one.name}{variant.after}"
        before = artefacts.read_candidate(folder)
        network, earlier = load_candidate(folder), before.steps[: before.steps.index(before.float_step) + 1]
    assert isinstance(network, Network)
    result = compress(
        network,
        variant.steps,
        run.data,
        local_tables(run),
        runtime=[r for r in runtimes_of(run.settings).values() if reads_onnx(r)],
        teacher=teacher,
        seed=run.settings.seed,
        device=run.settings.device,
        progress=run.progress,
    )
    return _write(run, one, variant, result, earlier)


def _write(run: Run, one: Todo, variant: Variant, result: Compressed, earlier: tuple[StepRecord, ...]) -> Candidate:
    float_step = variant.steps[-2].name
    network, int8 = result.stages[float_step], result.network
    assert isinstance(network, Network)
    assert isinstance(int8, Int8Network)
    folder = run.folder / artefacts.CANDIDATES / f"{one.name}{one.ending}"
    export_onnx(network, folder / artefacts.FP32)
    int8.save(folder / artefacts.INT8)
    save_weights(folder / artefacts.WEIGHTS, network, {})
    records = tuple(StepRecord(**asdict(r)) for r in result.records)
    candidate = Candidate(
        id=folder.name,
        architecture=run.space.describe(one.arch[None])[0],
        made_from=_made_from(run, one.arch),
        input_shape=network.input_shape,
        pruned=variant.pruned,
        fp32_step=float_step,
        blocks=tuple(b.key for b in network.describe()),
        steps=earlier + (records[1:] if earlier else records),
        normalise=(tuple(map(float, run.data.mean)), tuple(map(float, run.data.std))),
    )
    artefacts.write_record(folder / artefacts.SUMMARY, candidate)
    return candidate


def _made_from(run: Run, genes: Archs | tuple[int, ...]) -> MadeFrom:
    s = run.settings
    return MadeFrom(
        genes=tuple(int(g) for g in genes),
        finetune_epochs=s.finetune_epochs,
        qat_epochs=s.qat_epochs,
        prune=s.prune,
        seed=s.seed,
    )


def _ms(value: float | None) -> str:
    return "unknown" if value is None else f"{value * 1000:.1f} µs" if value < 1 else f"{value:.2f} ms"
