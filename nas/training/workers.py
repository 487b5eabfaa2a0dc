"""A training on several processes of this machine or of a cluster, by Ray Train."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import nn

from nas.cluster import check_resources, import_ray, quiet, start_ray
from nas.errors import BadInput, NasError
from nas.files import first_line
from nas.training.team import Team

Train = Callable[[nn.Module, torch.device, Team | None], pd.DataFrame]
"""``train(model, device, team) -> rows``: trains ``model`` in place, there, as one of ``team`` (see ``fit``)."""


def train_in_workers(model: nn.Module, train: Train, device: torch.device, workers: int) -> pd.DataFrame:
    """What ``train`` does to ``model`` in place, done by that many processes; each has a GPU of its own when ``device`` is one.

    With one worker this process does it. They share their machine's files: on several machines folders have to be on a
    shared disk. Raises what ``train`` raises; BadInput when it cannot be sent to a process or the machines are too few;
    NasError when a process is lost.
    """
    if workers == 1:
        return train(model, device, None)
    ray = import_ray()
    cuda = device.type == "cuda"
    started = start_ray(None, cpus=workers)
    try:
        check_resources(1, int(cuda), None)
        _check_room(workers, cuda)
        try:
            job = ray.put((model, train))
        except TypeError as error:
            why = str(error.__cause__ or error).splitlines()[0]
            raise BadInput(f"with workers a training goes to other processes, and this one cannot: {why}") from None
        rows, state = torch.load(io.BytesIO(_run(job, device, workers)), weights_only=True)
    finally:
        if started:
            with quiet():
                ray.shutdown()
    model.load_state_dict(state)
    return pd.DataFrame(rows)


def _run(job: Any, device: torch.device, workers: int) -> bytes:
    """What the first process has in the end: its rows and the state of its model."""
    ray = import_ray()
    cuda = device.type == "cuda"
    with tempfile.TemporaryDirectory() as folder, quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray warns of its own deprecated settings
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.train.v2.api.exceptions import TrainingFailedError

        done = ray.remote(num_cpus=0)(_Result).remote()
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"job": [job], "device": None if cuda else str(device), "done": done},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=cuda, resources_per_worker={"CPU": 1}),
            torch_config=TorchConfig(backend="nccl" if cuda else "gloo"),
            run_config=RunConfig(storage_path=folder),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            lost = NasError(f"training in {workers} workers failed: {first_line(error)}")
            raise (ray.get(done.failure.remote()) or lost) from None
        result: bytes = ray.get(done.get.remote())
    return result


class _Result:
    """An actor that holds what the first process sends, or the failure that came first: those of the others follow from it."""

    def __init__(self) -> None:
        self.value, self.failed = b"", list[Exception]()

    def put(self, value: bytes) -> None:
        self.value = value

    def get(self) -> bytes:
        return self.value

    def fail(self, failure: Exception) -> None:
        self.failed.append(failure)

    def failure(self) -> Exception | None:
        return self.failed[0] if self.failed else None


def _worker(config: dict[str, Any]) -> None:
    """What each process does."""
    import ray
    from ray.train.torch import get_device

    model, train = ray.get(config["job"][0])
    team = Team()
    try:
        rows = train(model, torch.device(config["device"] or get_device()), team)
    except Exception as failure:
        ray.get(config["done"].fail.remote(failure))
        raise
    if not team.rank:
        buffer = io.BytesIO()
        state = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
        torch.save((rows.to_dict("records"), state), buffer)
        ray.get(config["done"].put.remote(buffer.getvalue()))


def _check_room(workers: int, cuda: bool) -> None:
    """Raises BadInput when the machines together have too little for that many; Ray itself would wait, saying nothing."""
    there = import_ray().cluster_resources()
    for what in ("CPU", "GPU") if cuda else ("CPU",):
        if there.get(what, 0) < workers:
            raise BadInput(f"{workers} workers need {workers} {what}s, the Ray cluster has {there.get(what, 0):g}")
