"""Independent jobs, spread over this machine's processes or over a Dask or Ray cluster that already runs.

A job writes its own file or returns something small, so its result cannot depend on where it ran; results come back in
the jobs' order. A worker that dies takes its jobs with it: they are done again, by new workers.
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

from sigma.shared.errors import SigmaError
from sigma.shared.progress import track

# Tries of a job whose workers keep dying. A Dask cluster has its own setting, distributed.scheduler.allowed-failures.
ROUNDS = 3
# Seconds to wait for a cluster that does not answer.
PATIENCE = 10


@dataclass(frozen=True)
class Workers:
    """``count`` processes of this machine, or every worker of the cluster at ``address``.

    A cluster's workers must see the project's folder under the same path and have the same sources of ``sigma``.
    """

    count: int = 1
    backend: Literal["local", "dask", "ray"] = "local"
    address: str | None = None

    @classmethod
    def of(cls, machine: Any) -> "Workers":
        """Those that the section ``machine`` of params.yaml names."""
        return cls(machine.workers, machine.backend, machine.address)

    def run(self, function: Callable[..., Any], jobs: Sequence[tuple], label: str) -> Iterator[Any]:
        """``function(*job)`` for every job, in order, under a meter named ``label``.

        Raises:
            SigmaError: the cluster's package is not installed, it does not answer, its workers lack the folder or have
                other code, workers died in every one of ``ROUNDS`` rounds, or a job raised one.
        """
        return track(self._results(function, list(jobs)), label, len(jobs))

    def _results(self, function: Callable[..., Any], jobs: Sequence[tuple]) -> Iterator[Any]:
        # Processes of this machine too may have been started from another folder, by an earlier run of theirs.
        elsewhere = partial(_in_folder, str(Path.cwd()), package_digest(), function)
        if self.backend == "local":
            return _by_processes(self.count, elsewhere, jobs)
        return (_by_dask if self.backend == "dask" else _by_ray)(self.address, elsewhere, jobs)


def _exhausted() -> SigmaError:
    return SigmaError(
        f"params.yaml: machine.workers: worker processes died in each of {ROUNDS} tries, often for want of memory; "
        "try fewer workers, or a smaller window.shard_mib"
    )


def _by_processes(count: int, function: Callable[..., Any], jobs: Sequence[tuple]) -> Iterator[Any]:
    """By joblib's processes; after a death, which takes the whole pool with it, what was left is done by a new one."""
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    done = 0
    for _ in range(ROUNDS):
        left = jobs[done:]
        try:
            pool = Parallel(n_jobs=min(count, max(len(left), 1)), return_as="generator")
            for result in pool(delayed(function)(*job) for job in left):
                done += 1
                yield result
            return
        except TerminatedWorkerError:
            continue
    raise _exhausted()


# Clusters are asked by their own futures. Joblib's backends for them lose what dies: that for Dask waits for ever for a
# job whose workers keep dying, that for Ray leaves a second driver connected.


def _by_dask(address: str | None, function: Callable[..., Any], jobs: Sequence[tuple]) -> Iterator[Any]:
    """By Dask's futures; its scheduler gives a dead worker's job to another one, as often as it is configured to."""
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
    """What a Dask future becomes; a cluster whose workers all died and were not started again would wait for ever."""
    while True:
        try:
            return future.result(timeout=PATIENCE)
        except TimeoutError:
            if future.done():  # it ended just now, or the error is its own
                return future.result()
            if not client.scheduler_info()["workers"]:
                raise _exhausted() from None


def _by_ray(address: str | None, function: Callable[..., Any], jobs: Sequence[tuple]) -> Iterator[Any]:
    """By Ray's tasks, each tried ``ROUNDS`` times."""
    ray = _package("ray")
    try:
        host, _, port = str(address).rpartition(":")
        if host:  # Ray itself tries for minutes
            socket.create_connection((host, int(port)), PATIENCE).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:
        raise _silent("ray", address, error) from None
    try:
        task = ray.remote(max_retries=ROUNDS - 1)(_call)
        for reference in [task.remote(function, job) for job in jobs]:
            yield ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
        raise _exhausted() from None
    finally:
        ray.shutdown()


def _call(function: Callable[..., Any], job: tuple) -> Any:
    return function(*job)


def _package(backend: str) -> Any:
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
    """Run a job on a cluster's worker, in the project's folder and by the same code as here."""
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
    """Digest of the package's sources, as they were when the process first asked."""
    package, whole = Path(str(importlib.resources.files("sigma"))), hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        whole.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return whole.hexdigest()
