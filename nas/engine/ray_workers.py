"""Candidates evaluated on Ray actors: weights and data are sent once, results come back one by one."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Annotated, Any

from msgspec import Meta

from nas.checks import Positive, checked
from nas.engine.evaluate import Evaluate, Outcome, timed_out
from nas.errors import BadInput
from nas.files import first_line
from nas.progress import silenced
from nas.space import Archs

_RETRIES = 2  # of a candidate whose actor was lost
_GRACE_S = 2.0
_RAYS_OWN = ("memory", "object_store_memory", "node:", "accelerator_type:")


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


def import_ray() -> Any:
    """The ray module, quiet. It takes seconds to import."""
    # Ray reads these when it is imported
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one prints whatever its verbosity
    import ray

    return ray


def start_ray(address: str | None, *, cpus: float) -> bool:
    """Connect to a cluster or start one on this machine; False when this process is connected already.

    ``address``: of a cluster (None: RAY_ADDRESS, else a new one with ``cpus`` cores). Raises BadInput when none answers
    there, MissingPackage without Ray.
    """
    ray = import_ray()
    if ray.is_initialized():
        return False
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        _check_answers(address)
    # a trial or an objective may come from any module that this process can import
    importable = {"env_vars": {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}}
    local = {"num_cpus": max(1, int(cpus)), "include_dashboard": False, "runtime_env": importable}
    try:
        with quiet():
            ray.init(
                address=address or "local",
                logging_level=logging.CRITICAL,
                log_to_driver=False,
                **({} if address else local),
            )
    except ConnectionError as error:
        raise BadInput(f"no Ray cluster answers at {address}: {first_line(error)}") from None
    # Ray prints a paragraph for every lost worker, whatever its settings say; the ledger has the line that matters
    with contextlib.suppress(ImportError):
        from ray._private import worker

        worker.print_worker_logs = lambda *args, **kwargs: None
    return True


def _check_answers(address: str) -> None:
    """Raises BadInput when nothing answers at ``host:port``; Ray itself tries again for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():  # "auto", "local"
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise BadInput(f"no Ray cluster answers at {address}: {error.strerror or error}") from None


def check_resources(cpus: float, gpus: float, resources: Mapping[str, float] | None) -> None:
    """Raises BadInput when no machine of the cluster has that much; Ray itself would wait for one, saying nothing."""
    needed = {"CPU": cpus, "GPU": gpus, **(resources or {})}
    machines = [node["Resources"] for node in import_ray().nodes() if node["Alive"]]
    if not any(all(machine.get(k, 0) >= v for k, v in needed.items()) for machine in machines):
        shown = sorted({f"{k} {v:g}" for m in machines for k, v in m.items() if not k.startswith(_RAYS_OWN)})
        asked = ", ".join(f"{k} {v:g}" for k, v in needed.items() if v)
        raise BadInput(f"no machine of the Ray cluster has {asked}; there is {', '.join(shown)}")


def quiet() -> contextlib.AbstractContextManager[None]:
    """Silences Ray's loggers: what went wrong with a trial or a candidate is in its folder or the ledger."""
    return silenced("ray", "ray.tune", "ray.train", "ray.data", "ray._private")
