"""Independent jobs, spread over this machine's processes or over a Dask or Ray cluster that already runs.

A job writes its own file or returns something small, so its result cannot depend on where it ran. Results come back in
the order of the jobs. The jobs of a worker that died are run again by new workers.
"""

import hashlib
import importlib
import importlib.resources
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from sigma.parameters.machine import MachineParameters
from sigma.shared.errors import SigmaError
from sigma.shared.progress import track

# Tries of a job whose workers die. A Dask cluster has its own setting, distributed.scheduler.allowed-failures.
ROUNDS = 3
# Seconds to wait for a cluster that does not answer.
PATIENCE = 10


@dataclass(frozen=True)
class Workers:
    """``count`` processes of this machine, or all workers of the cluster at ``address``.

    A cluster's workers must see the project's folder under the same path and have the same sources of ``sigma``.
    """

    count: int = 1
    backend: Literal["local", "dask", "ray"] = "local"
    address: str | None = None

    @classmethod
    def of(cls, machine: MachineParameters) -> "Workers":
        """The workers that the section ``machine`` of params.yaml asks for."""
        return cls(machine.workers, machine.backend, machine.address)

    def run(self, function: Callable[..., Any], jobs: Sequence[tuple], label: str) -> Iterator[Any]:
        """Yield ``function(*job)`` for every job, in order, and show the progress under ``label``.

        Raises:
            SigmaError: the cluster's package is not installed, the cluster does not answer, its workers lack the folder
                or have other code, workers died in each of ``ROUNDS`` tries, or a job raised this error.
        """
        # joblib reuses its processes, so those of this machine too may still be in another folder.
        in_folder = partial(_in_folder, str(Path.cwd()), package_digest(), function)
        if self.backend == "local":
            results = _by_processes(self.count, in_folder, jobs)
        else:
            results = (_by_dask if self.backend == "dask" else _by_ray)(self.address, in_folder, jobs)
        return track(results, label, len(jobs))


def _exhausted() -> SigmaError:
    return SigmaError(
        f"params.yaml: machine.workers: worker processes died in each of {ROUNDS} tries, often for want of memory; "
        "try fewer workers, or a smaller window.shard_mib"
    )


def _by_processes(count: int, function: Callable[..., Any], jobs: Sequence[tuple]) -> Iterator[Any]:
    """Run the jobs in joblib's processes. When one dies, its whole pool ends; a new pool runs the remaining jobs."""
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    done = 0
    for _ in range(ROUNDS):
        remaining = jobs[done:]
        try:
            pool = Parallel(n_jobs=min(count, max(len(remaining), 1)), return_as="generator")
            for result in pool(delayed(function)(*job) for job in remaining):
                done += 1
                yield result
            return
        except TerminatedWorkerError:
            continue
    raise _exhausted()


# Dask and Ray are used directly. Joblib's backend for Dask waits for ever for a job whose workers keep dying, and its
# backend for Ray leaves a second driver connected.


def _by_dask(address: str | None, function: Callable[..., Any], jobs: Sequence[tuple]) -> Iterator[Any]:
    """Run the jobs as Dask futures; Dask's scheduler retries a dead worker's job as often as it is configured to."""
    distributed = _package("dask")
    try:
        client = distributed.Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise _silent("dask", address, error) from None
    with client:
        futures = [client.submit(function, *job, pure=False) for job in jobs]
        try:
            for future in futures:
                yield _result(client, future)
        except distributed.KilledWorker:
            raise _exhausted() from None
        finally:
            client.cancel(futures)


def _result(client: Any, future: Any) -> Any:
    """Wait for a Dask future, but not for ever: an error is raised once the cluster has no workers left."""
    while True:
        try:
            return future.result(timeout=PATIENCE)
        except TimeoutError:
            if future.done():  # it ended just now, or the job itself raised TimeoutError
                return future.result()
            if not client.scheduler_info()["workers"]:
                raise _exhausted() from None


def _by_ray(address: str | None, function: Callable[..., Any], jobs: Sequence[tuple]) -> Iterator[Any]:
    """Run the jobs as Ray tasks, each tried ``ROUNDS`` times."""
    ray = _package("ray")
    try:
        host, _, port = str(address).rpartition(":")
        if host:  # without an open port Ray would try for minutes
            socket.create_connection((host, int(port)), PATIENCE).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:
        raise _silent("ray", address, error) from None
    try:
        task = ray.remote(max_retries=ROUNDS - 1)(lambda function, job: function(*job))  # a task cannot be a partial
        for reference in [task.remote(function, job) for job in jobs]:
            yield ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
        raise _exhausted() from None
    finally:
        ray.shutdown()


def _package(backend: str) -> Any:
    """The optional package of a backend, which has no types here."""
    name = {"dask": "distributed", "ray": "ray"}[backend]
    try:
        return importlib.import_module(name)
    except ImportError:
        raise SigmaError(
            f"params.yaml: machine.backend: {backend} needs the package {name}: install lerobot_policy_sigma[{backend}]"
        ) from None


def _silent(backend: str, address: str | None, error: Exception) -> SigmaError:
    return SigmaError(
        f"params.yaml: machine.address: no {backend} cluster answers at {address} within {PATIENCE} s "
        f"({type(error).__name__})"
    )


def _in_folder(folder: str, digest: str, function: Callable[..., Any], *job: Any) -> Any:
    """On a worker: run a job in the project's folder, after a check that the worker has the same sources."""
    try:
        os.chdir(folder)
    except OSError:
        raise SigmaError(
            f"params.yaml: machine.address: a worker does not see {folder}; the project must lie on a file system that "
            "all workers share under one path"
        ) from None
    if package_digest() != digest:
        raise SigmaError("params.yaml: machine.address: a worker has other sources of sigma; install the same on all")
    return function(*job)


@cache
def package_digest() -> str:
    """Digest of the package's sources, as they were at the first call in this process."""
    package, digest = Path(str(importlib.resources.files("sigma"))), hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()
