"""Candidates evaluated on Ray actors: weights and data are sent once, results come back one by one."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from nas.errors import BadInput, MissingPackage
from nas.search.evaluate import Evaluate, Outcome, timed_out
from nas.space import Archs

_RETRIES = 2  # of a candidate whose actor was lost


def crew(
    workers: int,
    *,
    cpus: float = 1,
    gpus: float = 0,
    resources: Mapping[str, float] | None = None,
    address: str | None = None,
) -> Callable[[Evaluate], RayWorkers]:
    """For ``nas.search(..., workers=crew(4, gpus=0.25))``: how many actors, and what each of them needs.

    ``resources``: Ray's custom resources, such as ``{"jetson": 1}``; ``address``: of a running cluster (default: the one
    this process is connected to, that of RAY_ADDRESS, or else one on this machine).
    """
    return lambda evaluate: RayWorkers(evaluate, workers, cpus=cpus, gpus=gpus, resources=resources, address=address)


class RayWorkers:
    """Actors that each hold ``evaluate`` and take one candidate at a time.

    A lost actor is replaced and its candidate tried again, twice at most. One that takes longer than the time limit is
    killed and replaced. ``close`` ends the actors, and Ray where this object started it. Raises MissingPackage without Ray.
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
        if workers < 1:
            raise BadInput(f"workers is a number of processes, at least 1, got {workers}")
        self._ray = import_ray()
        self._started = start_ray(address, cpus=max(workers * cpus, os.cpu_count() or 1))
        self._limit = evaluate.timeout_s
        self._objectives = [o.name for o in evaluate.objectives]
        self._evaluate = self._ray.put(evaluate)  # once, whatever the number of actors
        options = {"num_cpus": cpus, "num_gpus": gpus, "resources": dict(resources or {}), "max_concurrency": 1}
        self._actor = self._ray.remote(_Evaluator).options(**options)
        self._tasks: queue.SimpleQueue[tuple[Archs, Future[Outcome]] | None] = queue.SimpleQueue()
        self._closed = False
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, arch: Archs) -> Future[Outcome]:
        """Queue one candidate ``(genes,)``."""
        future: Future[Outcome] = Future()
        self._tasks.put((arch.copy(), future))
        return future

    def close(self) -> None:
        """End all actors; what is still queued is forgotten."""
        self._closed = True
        for _ in self._threads:
            self._tasks.put(None)
        if self._started:
            with quiet():
                self._ray.shutdown()
        for thread in self._threads:
            thread.join(timeout=10)

    def _serve(self) -> None:
        """One thread per actor: takes a task, waits for the actor's answer, takes the next."""
        actor = self._actor.remote(self._evaluate)
        while (task := self._tasks.get()) is not None and not self._closed:
            arch, future = task
            for attempt in range(_RETRIES + 1):
                try:
                    self._ray.get(actor.ready.remote())  # its start is not part of the time limit
                    future.set_result(self._ray.get(actor.evaluate.remote(arch), timeout=self._limit))
                except self._ray.exceptions.GetTimeoutError:
                    self._ray.kill(actor)
                    actor = self._actor.remote(self._evaluate)
                    future.set_result(self._failed(timed_out("evaluation", self._limit)))
                except self._ray.exceptions.RayActorError:
                    if self._closed:
                        return
                    actor = self._actor.remote(self._evaluate)
                    if attempt < _RETRIES:
                        continue
                    future.set_result(self._failed(f"evaluation: its worker process died, {attempt + 1} times"))
                except self._ray.exceptions.RayTaskError as wrong:  # wrong for all candidates, as in nas.search
                    future.set_exception(wrong.cause if isinstance(wrong.cause, Exception) else wrong)
                except Exception as failure:
                    if self._closed:
                        return
                    future.set_exception(failure)
                break
        if not self._closed:
            self._ray.kill(actor)

    def _failed(self, text: str) -> Outcome:
        return Outcome(values=dict.fromkeys(self._objectives, float("nan")), error=text)


@dataclass
class _Evaluator:
    """What runs in an actor: on one thread, so that actors do not fight for cores."""

    evaluate_one: Evaluate

    def __post_init__(self) -> None:
        import torch

        torch.set_num_threads(1)

    def ready(self) -> None:
        pass

    def evaluate(self, arch: Archs) -> Outcome:
        return self.evaluate_one(arch)


def import_ray() -> Any:
    """The ray module. Raises MissingPackage when it is not installed."""
    # Ray reads these when it is imported
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one prints whatever its verbosity
    try:
        import ray
    except ImportError:
        raise MissingPackage("ray", "ray") from None
    return ray


def start_ray(address: str | None, *, cpus: float) -> bool:
    """Connect to a cluster or start one on this machine; False when this process is connected already."""
    ray = import_ray()
    if ray.is_initialized():
        return False
    address = address or os.environ.get("RAY_ADDRESS")
    local = {} if address else {"num_cpus": max(1, int(cpus)), "include_dashboard": False}
    try:
        with quiet():
            ray.init(address=address or "local", logging_level=logging.CRITICAL, log_to_driver=False, **local)
    except ConnectionError as error:
        raise BadInput(f"no Ray cluster answers at {address}: {str(error).splitlines()[0]}") from None
    # Ray prints a paragraph for every lost worker, whatever its settings say; the ledger has the line that matters
    with contextlib.suppress(ImportError):
        from ray._private import worker

        worker.print_worker_logs = lambda *args, **kwargs: None
    return True


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences Ray's loggers: what went wrong with a trial or a candidate is in its folder or the ledger."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train", "ray.data", "ray._private")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
