"""The supernet and the search of a run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from nas.engine.loop import search
from nas.engine.result import SearchResult
from nas.errors import BadInput
from nas.files import read_json, write_text
from nas.objectives import Objective, macs
from nas.objectives.accuracy import accuracy
from nas.runs.artefacts import EVALUATIONS, HYPERVOLUME, PARETO, SEARCH, Search, read_frame, write_record
from nas.runs.folder import Run, has_begun
from nas.runs.names import searcher_of
from nas.runs.tables import constraints_of, predicted_latency
from nas.searchers.exact import largest_within
from nas.space import Archs, SearchSpace
from nas.space_around import SpaceAround
from nas.supernet import Supernet, train_supernet
from nas.supernet.training import load_supernet, suited_lr
from nas.training.names import SUPERNET
from nas.training.recipe import Recipe


def train_stage(run: Run) -> Supernet:
    """The trained supernet."""
    s = run.settings
    return train_supernet(
        run.space,
        run.data,
        recipe=Recipe(epochs=s.epochs, lr=s.lr or suited_lr(run.space), batch_size=s.batch_size),
        run_dir=run.folder,
        seed=s.seed,
        device=s.device,
        workers=s.workers,
        resume=run.resume,
        on_epoch=run.on_epoch,
        progress=run.progress,
    )


def load_trained(run: Run) -> Supernet:
    """The supernet that ``train_stage`` wrote."""
    return load_supernet(run.space, run.folder / SUPERNET, run.settings.device)


def search_stage(run: Run) -> SearchResult:
    """The search for accuracy against predicted latency, within the limits; one that is finished is read back."""
    if search_is_done(run):
        return SearchResult.load(run.folder, run.space)
    objectives = objectives_of(run)
    result = search(
        run.space,
        objectives,
        searcher_of(run.settings, run.space, objectives),
        budget=run.settings.budget,
        constraints=constraints_of(run, objectives[1]),
        first=known_members(run.space, objectives[1]),
        run_dir=run.folder,
        resume=run.resume,
        progress=run.progress,
        on_result=run.on_result,
    )
    write_search(run.folder, result, run.settings.budget)
    return result


def known_members(space: SearchSpace, latency: Objective) -> Archs:
    """What needs no search to be known, ``(n, genes)``: the most MACs under each of some latencies, both ends included.

    Of a space around a network also that network at every resolution.
    """
    known = [space.whole] if isinstance(space, SpaceAround) else []
    if latency.per_block is not None:
        known.append(largest_within(space, macs(space), latency))
    return np.concatenate([np.zeros((0, space.genes), np.uint8), *known])


def search_is_done(run: Run) -> bool:
    """Whether a search with this budget has ended."""
    path = run.folder / SEARCH
    return has_begun(run, "search") and path.exists() and read_json(path, Search).budget >= run.settings.budget


def objectives_of(run: Run, table: str | None = None) -> list[Objective]:
    """Accuracy with the supernet's weights, and latency by the table that the run goes by, or the folder's ``table``."""
    weights = hashlib.sha256((run.folder / SUPERNET).read_bytes()).hexdigest()[:16]
    return [accuracy(load_trained(run), run.data, identity=weights), predicted_latency(run, table)]


def front_of(run: Run) -> Archs:
    """The front of the finished search, ``(n, genes)``, each point once, from the fastest to the most accurate.

    Raises BadInput when it is empty or damaged.
    """
    record = read_json(run.folder / SEARCH, Search)
    names = [o.name for o in record.objectives]
    frame = read_frame(run.folder / PARETO, names, ("architecture",))
    if frame is None or not len(frame):
        raise BadInput(f"the search found no network that meets the constraints; {record.stopped}")
    frame = frame.drop_duplicates(names).sort_values(names[1], kind="stable")
    return run.space.parse(frame["architecture"])


def write_search(folder: Path, result: SearchResult, budget: int | None = None) -> None:
    """The search as text: evaluations.csv, pareto.csv, hypervolume.csv, and last search.json. ``budget``: None is unknown."""
    frame = result.to_pandas()
    write_text(folder / EVALUATIONS, frame.to_csv(index=False))
    write_text(folder / PARETO, frame[frame["on_front"]].to_csv(index=False))
    history = {"evaluations": np.arange(1, len(result) + 1), "hypervolume": result.hypervolume_history()}
    write_text(folder / HYPERVOLUME, pd.DataFrame(history).to_csv(index=False))
    records = tuple(o.record for o in result.objectives)
    record = Search(objectives=records, budget=budget or len(result), evaluations=len(result), stopped=result.stopped)
    write_record(folder / SEARCH, record)
