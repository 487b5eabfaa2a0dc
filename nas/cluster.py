"""Ray, quietly: importing it, connecting to a cluster or starting one, and what its machines have."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Mapping
from typing import Any

from nas.errors import BadInput, NasError
from nas.files import first_line
from nas.progress import silenced

_RAYS_OWN = ("memory", "object_store_memory", "node:", "accelerator_type:")


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
    except Exception as error:  # a plain one, when its processes take too long to start
        raise NasError(f"Ray did not start: {first_line(error)}") from None
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
