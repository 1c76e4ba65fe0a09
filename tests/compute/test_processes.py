"""Several processes: who takes what, what they tell each other, and what is said where one of them fails."""

import os
import time

import pytest
import torch
from torch import nn

from sigma.compute import processes
from sigma.parameters import PARAMS_FILE, Parameters, read_parameters
from sigma.shared.errors import SigmaError
from tests.imports import ROOT

CPU = torch.device("cpu")


def count(number: int, fsdp: bool = False) -> Parameters:
    """Parameters of a machine with so many processes, which split the base's layers or not."""
    shipped = read_parameters(ROOT / PARAMS_FILE)
    machine = shipped.machine.model_copy(update={"device": "cpu", "threads": 1, "processes": number, "fsdp": fsdp})
    return shipped.model_copy(update={"machine": machine})


@pytest.fixture
def place(monkeypatch):
    """Makes this process the given one of several, as the launcher's environment does."""

    def put(rank: int, count: int, fsdp: bool = False) -> None:
        values = {"TORCHELASTIC_RUN_ID": "sigma", "RANK": rank, "WORLD_SIZE": count, "SIGMA_FSDP": int(fsdp)}
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return put


@pytest.mark.parametrize("fsdp", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("total", [0, 1, 4, 5, 16, 17])
def test_each_row_is_one_process_s_and_each_item_comes_back_in_its_place(place, monkeypatch, count, total, fsdp):
    rows, parts = [], []
    for rank in range(count):
        place(rank, count, fsdp)
        assert (processes.rank(), processes.count()) == (rank, count)
        rows.append(list(range(total))[processes.share(total)])
        parts.append([10 * item for item in processes.local_shard(range(total))])
    assert [row for part in rows for row in part] == list(range(total))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1
    # Where layers are split, a process that made one pass less than the others would keep them waiting for ever.
    assert max(map(len, parts)) - min(map(len, parts)) <= (0 if fsdp else 1)
    monkeypatch.setattr(processes, "all_gather", lambda value: parts)
    assert processes.gather_parts([], total) == [10 * item for item in range(total)]


def test_a_single_process_is_handed_back_what_it_gives():
    assert (processes.started(), processes.rank(), processes.count()) == (False, 0, 1)
    module = nn.Linear(2, 2)
    assert processes.data_parallel(module) is module
    assert processes.all_gather(3) == [3] and processes.gather_parts([1, 2], 2) == [1, 2]
    assert processes.broadcast_first(lambda: 4) == 4
    weights = [*module.parameters()]
    processes.split_layers([module], "cpu")
    assert [*module.parameters()] == weights and not processes.splitting()
    assert processes.share(7) == slice(0, 7) and processes.local_shard(range(3)) == range(3)


def test_processes_are_started_by_the_command_alone_and_not_by_those_that_it_starts(place, monkeypatch):
    assert processes.to_start(2) and not processes.to_start(1)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another launcher's")
    assert not processes.started()
    place(1, 2)
    assert not processes.to_start(2)


def test_more_processes_than_gpus_are_refused_before_any_is_started(monkeypatch):
    from torch.distributed.launcher import api

    monkeypatch.setattr(api, "elastic_launch", lambda *_: pytest.fail("processes were started"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    message = r"^params\.yaml: machine\.processes: found 3 with 2 CUDA devices; legal: integer from 1 to 2$"
    with pytest.raises(SigmaError, match=message):
        processes.launch(exchange, count(3), torch.device("cuda"))


class Product(nn.Module):
    """Two factors, of which a loss has but one."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))

    def forward(self, inputs):
        return (self.used * inputs).sum()


def exchange(parameters) -> str:
    """Runs in each process: one exchange of every kind."""
    rank, model = processes.rank(), Product()
    wrapped = processes.data_parallel(model)
    for last in (False, True):
        with processes.accumulating(wrapped, last):
            wrapped(torch.tensor([1.0 + rank, 10.0])).backward()
        if not last:
            assert processes.all_gather(model.used.grad.tolist()) == [[1.0, 10.0], [2.0, 10.0]]
    squares = processes.gather_parts([item**2 for item in processes.local_shard(range(5))], 5)
    told = processes.broadcast_first(lambda: f"by {rank}")
    print("nobody reads this")
    gradients = processes.all_gather((model.used.grad.tolist(), model.unused.grad))
    return f"{gradients} {squares} {told} {torch.get_num_threads()}"


def split(parameters) -> str:
    """Runs in each process: a layer whose weights are split, forward and backward, and what it keeps of them."""
    layer = nn.Linear(6, 4, bias=False).requires_grad_(False)
    nn.init.constant_(layer.weight, 0.5)
    processes.split_layers([layer], "cpu")
    inputs = torch.ones(2, 6, requires_grad=True)
    outputs = layer(inputs)
    outputs.sum().backward()
    return f"{outputs[0].tolist()} {inputs.grad[0].tolist()} {tuple(layer.weight.to_local().shape)}"


@pytest.mark.processes
def test_the_processes_split_a_layer_where_they_are_told_to():
    line = processes.launch(split, count(2, fsdp=True), CPU)
    assert line == f"{[3.0] * 4} {[2.0] * 6} (2, 6)"


@pytest.mark.processes
def test_the_processes_average_gradients_and_know_what_all_have_found(capfd):
    line = processes.launch(exchange, count(2), CPU)
    assert line == "[([3.0, 20.0], None), ([3.0, 20.0], None)] [0, 1, 4, 9, 16] by 0 1"
    assert "nobody reads this" not in "".join(capfd.readouterr())
    assert not processes.started()


def fail(parameters) -> str:
    """Runs in each process: the second one fails while the first waits for it."""
    if processes.rank():
        raise SigmaError("train.steps: not today") if os.environ["FAULT"] == "refused" else ValueError("unforeseen")
    processes.all_gather(0)
    return "never"


@pytest.mark.processes
@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("refused", SigmaError, "^train.steps: not today$"),
        ("unforeseen", RuntimeError, r"^rank 1: (.|\n)*ValueError: unforeseen"),
    ],
)
def test_where_one_fails_all_end_and_its_reason_is_told(monkeypatch, capfd, fault, kind, message):
    monkeypatch.setenv("FAULT", fault)
    started = time.monotonic()
    with pytest.raises(kind, match=message):
        processes.launch(fail, count(2), CPU)
    assert time.monotonic() - started < processes.PATIENCE.total_seconds() / 10, "the others waited for it"
    assert "Traceback" not in "".join(capfd.readouterr())
