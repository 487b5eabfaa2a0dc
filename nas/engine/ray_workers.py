"""Candidates evaluated on Ray actors: weights and data are sent once, results come back one by one."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Annotated, Any

from msgspec import Meta

from nas.checks import Positive, checked
from nas.cluster import check_resources, import_ray, quiet, start_ray
from nas.engine.evaluate import Evaluate, Outcome, timed_out
from nas.errors import BadInput
from nas.files import first_line
from nas.space import Archs

_RETRIES = 2  # of a candidate whose actor was lost
_GRACE_S = 2.0


@checked
def on_ray(
    workers: Annotated[int, Meta(ge=1, le=100_000)],
    *,
    cpus: Positive = 1,
    gpus: Annotated[float, Meta(ge=0, le=1024)] = 0,
    resources: Mapping[str, float] | None = None,
    address: str | None = None,
) -> Callable[[Evaluate], RayWorkers]:
    """For ``nas.search(..., workers=on_ray(4, gpus=0.25))``: how many actors, and what each of them needs.

    ``resources``: Ray's custom resources, such as ``{"jetson": 1}``; ``address``: of a running cluster (default: the one
    this process is connected to, that of RAY_ADDRESS, or else one on this machine).
    """
    return lambda evaluate: RayWorkers(evaluate, workers, cpus=cpus, gpus=gpus, resources=resources, address=address)


class RayWorkers:
    """Actors that each hold ``evaluate`` and take one candidate at a time.

    The candidate of a lost actor is tried again, twice at most, and the actor is replaced; so is one that does not stop at
    the time limit. ``close`` ends the actors, and Ray where this object started it. Raises BadInput when the objectives cannot be sent to a process or no machine of the cluster has what an actor needs.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        workers: int,
        *,
        cpus: float = 1,
        gpus: float = 0,
        resources: Mapping[str, float] | None = None,
        address: str | None = None,
    ) -> None:
        self._ray = import_ray()
        self._started = start_ray(address, cpus=max(workers * cpus, os.cpu_count() or 1))
        self._closed = False
        self._actors: list[Any] = []
        self._threads: list[threading.Thread] = []
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._objectives = [o.name for o in evaluate.objectives]
        self._timeout_s = evaluate.timeout_s
        # Evaluate stops each objective at its limit; one that cannot be stopped from within ends with its process
        self._limit = evaluate.timeout_s and evaluate.timeout_s * len(evaluate.objectives) + _GRACE_S
        try:
            check_resources(cpus, gpus, resources)
            self._evaluate = self._put(evaluate)
        except BadInput:
            self.close()
            raise
        options = {"num_cpus": cpus, "num_gpus": gpus, "resources": dict(resources or {}), "max_concurrency": 1}
        self._actor = self._ray.remote(_Evaluator).options(**options)
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, arch: Archs) -> Future[Outcome]:
        """Queue one candidate ``(genes,)``."""
        task = _Task(arch=arch.copy(), future=Future())
        self._tasks.put(task)
        return task.future

    def close(self) -> None:
        """End all actors; what they were at, and what is still queued, is forgotten."""
        self._closed = True
        for _ in self._threads:
            self._tasks.put(None)
        for actor in self._actors:
            self._ray.kill(actor)
        for thread in self._threads:
            thread.join(timeout=10)
        if self._started:
            with quiet():
                self._ray.shutdown()

    def _serve(self) -> None:
        """One thread per actor: takes a task once its actor is there, waits for the answer, takes the next."""
        errors = self._ray.exceptions
        try:
            actor = self._new_actor()
            while (task := self._tasks.get()) is not None:
                try:
                    task.future.set_result(self._ray.get(actor.evaluate.remote(task.arch), timeout=self._limit))
                    continue
                except errors.RayTaskError as wrong:  # wrong for all candidates, as in nas.search
                    task.future.set_exception(wrong.cause if isinstance(wrong.cause, Exception) else wrong)
                    continue
                except errors.GetTimeoutError:
                    task.future.set_result(self._failed(timed_out("evaluation", self._timeout_s)))
                except (errors.RayActorError, errors.OutOfMemoryError):
                    if self._closed:
                        return
                    if task.losses < _RETRIES:
                        self._tasks.put(replace(task, losses=task.losses + 1))
                    else:
                        text = f"evaluation: its worker process died, {task.losses + 1} times"
                        task.future.set_result(self._failed(text))
                self._ray.kill(actor)
                actor = self._new_actor()
        except Exception as failure:  # no actor can be had: the search stops and says why
            while not self._closed and (task := self._tasks.get()) is not None:
                task.future.set_exception(failure)

    def _new_actor(self) -> Any:
        """An actor that has started, so that its start is not part of a candidate's time."""
        for attempt in range(_RETRIES + 1):
            actor = self._actor.remote(self._evaluate)
            self._actors.append(actor)
            try:
                self._ray.get(actor.ready.remote())
                return actor
            except self._ray.exceptions.RayActorError as error:
                if self._closed or attempt == _RETRIES or getattr(error, "actor_init_failed", False):
                    raise
        raise AssertionError("unreachable")

    def _put(self, evaluate: Evaluate) -> Any:
        """Weights and data go to Ray's memory once, whatever the number of actors."""
        try:
            return self._ray.put(evaluate)
        except TypeError as error:
            why = first_line(error.__cause__ or error)
            raise BadInput(
                f"with workers the objectives go to other processes, and {', '.join(self._objectives)} cannot: {why}"
            ) from None

    def _failed(self, text: str) -> Outcome:
        return Outcome(values=dict.fromkeys(self._objectives, float("nan")), error=text)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """A candidate ``(genes,)`` and how many actors were lost over it."""

    arch: Archs
    future: Future[Outcome]
    losses: int = 0


class _Evaluator:
    """What runs in an actor: on one thread, so that actors do not fight for cores."""

    def __init__(self, evaluate: Evaluate) -> None:
        import torch

        torch.set_num_threads(1)
        self._evaluate = evaluate

    def ready(self) -> None:
        """Answers once the actor is up."""

    def evaluate(self, arch: Archs) -> Outcome:
        return self._evaluate(arch)
