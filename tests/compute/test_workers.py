"""Independent jobs: the same results in the same order from one process, several or a cluster, and after a death."""

import os
import signal
import sys
from pathlib import Path

import pytest

from sigma.compute import workers as jobs
from sigma.compute.workers import Workers
from sigma.shared.errors import SigmaError
from tests.worlds import inside

ROOT = Path(__file__).resolve().parent.parent


def write(folder: Path, number: int) -> tuple[int, int, str]:
    """A job: writes its own file, says which process it ran in and from where."""
    (folder / f"{number}.txt").write_text(str(number**2))
    return number, os.getpid(), str(Path.cwd())


def die_once(folder: Path, number: int, victim: int) -> int:
    """A job whose worker is killed the first time it comes to ``victim``."""
    mark = folder / "died"
    if number == victim and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def always_die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def refuse(number: int) -> int:
    if number == 2:
        raise SigmaError("job 2 is at fault")
    return number


@pytest.fixture(scope="module")
def dask_cluster():
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        yield Workers(backend="dask", address=cluster.scheduler_address)


@pytest.fixture(scope="module")
def ray_cluster():
    from ray.cluster_utils import Cluster

    # Two nodes of one worker each, in processes of their own, as a cluster that already runs.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
    yield Workers(backend="ray", address=cluster.address)
    cluster.shutdown()


TWO = pytest.param("two", marks=pytest.mark.processes)
DASK = pytest.param("dask", marks=pytest.mark.processes)
RAY = pytest.param("ray", marks=pytest.mark.slow)


@pytest.fixture(params=["one", TWO, DASK, RAY])
def workers(request) -> Workers:
    if request.param in ("dask", "ray"):
        return request.getfixturevalue(f"{request.param}_cluster")
    return Workers({"one": 1, "two": 2}[request.param])


def test_results_come_in_order_from_wherever_they_were_made(workers, tmp_path):
    with inside(tmp_path):
        made = list(workers.run(write, [(tmp_path, number) for number in range(12)], "jobs"))
    assert [number for number, _, _ in made] == list(range(12))
    assert {folder for _, _, folder in made} == {str(tmp_path)}
    assert sorted(int(path.read_text()) for path in tmp_path.glob("*.txt")) == [number**2 for number in range(12)]
    if workers.backend != "local":
        assert os.getpid() not in {process for _, process, _ in made}


def test_no_jobs_are_no_work(workers):
    assert list(workers.run(write, [], "jobs")) == []


def test_a_job_whose_worker_is_killed_is_done_again(workers, tmp_path):
    if workers == Workers(1):
        pytest.skip("one worker works in this process: its death is ours")
    with inside(tmp_path):
        made = list(workers.run(die_once, [(tmp_path, number, 5) for number in range(12)], "jobs"))
    assert made == list(range(12)) and (tmp_path / "died").exists()


@pytest.mark.parametrize("backend", [TWO, DASK, RAY])
def test_a_job_that_kills_every_worker_ends_in_one_line(backend, request):
    workers = Workers(2) if backend == "two" else request.getfixturevalue(f"{backend}_cluster")
    with pytest.raises(SigmaError, match=r"machine\.workers: worker processes died .* fewer workers") as caught:
        list(workers.run(always_die, [(number,) for number in range(3)], "jobs"))
    assert "\n" not in str(caught.value)


@pytest.mark.processes
def test_a_cluster_that_has_lost_its_workers_is_not_waited_for(monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr(jobs, "PATIENCE", 1)
    with LocalCluster(n_workers=0, processes=True, dashboard_address=None) as cluster:
        workers = Workers(backend="dask", address=cluster.scheduler_address)
        with pytest.raises(SigmaError, match=r"machine\.workers: worker processes died .* fewer workers"):
            list(workers.run(refuse, [(0,)], "jobs"))


def test_a_job_that_ends_just_when_the_wait_for_it_does_is_done():
    class Future:
        def result(self, timeout=None):
            if timeout is not None:
                raise TimeoutError
            return 7

        def done(self) -> bool:
            return True

    assert jobs._result(None, Future()) == 7


def test_an_error_of_a_job_is_the_error_of_the_run(workers):
    with pytest.raises(SigmaError, match=r"^job 2 is at fault$"):
        list(workers.run(refuse, [(number,) for number in range(4)], "jobs"))


@pytest.mark.parametrize("backend", [DASK, RAY])
def test_workers_of_other_code_or_without_the_folder_are_refused(backend, request, tmp_path, monkeypatch):
    workers = request.getfixturevalue(f"{backend}_cluster")
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "package_digest", lambda: "other")
        with pytest.raises(SigmaError, match=r"a worker has other sources of sigma"):
            list(workers.run(refuse, [(0,)], "jobs"))
    monkeypatch.setattr(jobs.Path, "cwd", lambda: tmp_path / "gone")
    with pytest.raises(SigmaError, match=r"a worker does not see .*gone; the project must lie on a file system"):
        list(workers.run(refuse, [(0,)], "jobs"))


@pytest.mark.parametrize(
    ("backend", "address"), [("dask", "tcp://127.0.0.1:9"), pytest.param("ray", "127.0.0.1:9", marks=pytest.mark.slow)]
)
def test_a_cluster_that_does_not_answer_is_named(backend, address, monkeypatch):
    monkeypatch.setattr(jobs, "PATIENCE", 1)
    with pytest.raises(SigmaError, match=rf"machine\.address: no {backend} cluster answers at {address}") as caught:
        list(Workers(backend=backend, address=address).run(refuse, [(0,)], "jobs"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("backend", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_a_package_that_is_not_installed_is_named(backend, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SigmaError, match=rf"{backend} needs the package {package}: install lerobot_policy_sigma\["):
        list(Workers(backend=backend, address="tcp://127.0.0.1:9").run(refuse, [(0,)], "jobs"))
