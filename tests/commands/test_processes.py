"""Several processes do what one does: the same windows and losses, the same tables, and states that either resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch.distributed.tensor import DTensor

from sigma.commands import baseline, evaluate, finetune
from sigma.compute import processes
from sigma.parameters import read_parameters
from sigma.policy.pi05.placement import large_layers
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_file, digest_folder
from sigma.training.objectives import FlowObjective
from tests.training.test_trainer import interrupt, steps_taken
from tests.worlds import ROOT, World, inside

TWO = {"machine": {"processes": 2, "batch": 8}}
TWICE = {"train": {"accumulation": 2}, "machine": {"batch": 8}}
# What the losses of two processes may differ by from those of one, and what other measures may, relatively.
TOLERANCE, ROUNDING = 1e-5, 1e-3


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """Every test has its own place for checkpoints."""
    monkeypatch.setenv("SIGMA_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def followed(parameters) -> str:
    """``finetune`` as each process runs it; ``seen-N.json`` then holds the rows of every loss, with their place.

    ``split-N.json`` holds how many of the base's tensors the process had a part of alone.
    """
    seen, split = [], set()
    with pytest.MonkeyPatch.context() as patch:

        def loss(self, rows, step, start, total, plain=FlowObjective.loss):
            seen.append((self.name, step, start, rows.tolist()))
            split.add(sum(isinstance(tensor, DTensor) for tensor in self.model.policy.parameters()))
            return plain(self, rows, step, start, total)

        patch.setattr(FlowObjective, "loss", loss)
        line = finetune.run(parameters)
    Path(f"seen-{processes.rank()}.json").write_text(json.dumps(seen))
    Path(f"split-{processes.rank()}.json").write_text(json.dumps(sorted(split)))
    return line


def whole_pipeline(parameters) -> str:
    """Every stage that computes with a model, one after the other, as each process runs them."""
    lines = []
    for stage in (baseline.run, followed, evaluate.run):
        lines.append(stage(parameters))
        processes.all_gather(None)  # the first process has written
    return "\n".join(lines)


def run(work, world: World, count: int, *changes) -> tuple[str, list[list]]:
    """``work`` with ``count`` processes: its line, and ``[name, step, start, rows]`` of every loss in order."""
    parameters = world.configure(*changes, {"machine": {"processes": count}})
    with inside(world.root):
        line = processes.launch(work, parameters, torch.device("cpu")) if count > 1 else work(parameters)
        seen = [json.loads(Path(f"seen-{rank}.json").read_text()) for rank in range(count)]
    return line, sorted(chain.from_iterable(seen))


def curves(world: World) -> dict[str, np.ndarray]:
    """Columns ``step, value`` by quantity."""
    folder = world.root / finetune.CURVES
    return {
        f"{file.parent.name} {file.stem}": np.loadtxt(file, skiprows=1, ndmin=2)
        for file in sorted(folder.glob("plots/metrics/*/*.tsv"))
    }


def assert_same_curves(one: World, other: World, *, digits: float = 1.0) -> None:
    """``digits`` is how much coarser the base's numbers are than those of 32 bits."""
    expected, found = curves(one), curves(other)
    assert found.keys() == expected.keys() and any("train loss" in name for name in found)
    for name, values in expected.items():
        tolerance = TOLERANCE * digits if name.endswith(" loss") else ROUNDING * min(digits, 100)
        np.testing.assert_allclose(found[name], values, rtol=tolerance, atol=1e-7 * digits, err_msg=name)


def assert_same_windows(one: list[list], two: list[list]) -> None:
    """Each step's windows are those of one process, in their order; either process has half of them."""
    for name, step in {(name, step) for name, step, *_ in one}:
        whole, parts = ([entry[2:] for entry in seen if entry[:2] == [name, step]] for seen in (one, two))
        rows, again = (list(chain.from_iterable(rows for _, rows in seen)) for seen in (whole, parts))
        assert again == rows
        assert [start for start, _ in parts] == [0, len(rows) // 2]


@pytest.fixture(scope="module")
def outcomes(prepared, tmp_path_factory):
    """Worlds in which every stage ran on one process, on two, and on two that split the base; lines and windows."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, count in (("one", 1), ("two", 2), ("split", 2)):
            folder = tmp_path_factory.mktemp("processes")
            patch.setenv("SIGMA_SCRATCH", str(folder / "scratch"))
            world = prepared.copy(folder / "world")
            fsdp = {"machine": {"fsdp": name == "split"}}
            found[name] = (world, *run(whole_pipeline, world, count, TWICE, fsdp))
    return found


@pytest.mark.processes
@pytest.mark.parametrize("how", ["two", "split"])
def test_two_processes_share_each_step_and_learn_what_one_does(outcomes, how):
    (alone, _, one), (both, _, two) = outcomes["one"], outcomes[how]
    assert len({(name, step) for name, step, *_ in one}) == 6
    layers = [tensor for layer in large_layers(alone.base().policy) for tensor in layer.parameters()]
    for rank in range(2):
        assert json.loads((both.root / f"split-{rank}.json").read_text()) == [len(layers) if how == "split" else 0]
    assert_same_windows(one, two)
    assert_same_curves(alone, both)


@pytest.mark.processes
@pytest.mark.parametrize("how", ["two", "split"])
def test_the_base_says_the_same_to_the_bit(outcomes, how):
    (alone, line, _), (both, again, _) = outcomes["one"], outcomes[how]
    assert again.splitlines()[0] == line.splitlines()[0]
    assert digest_folder(both.root / "data/features") == digest_folder(alone.root / "data/features")
    for file in (baseline.PREDICTIONS, baseline.FRAMES):
        assert digest_file(both.root / file) == digest_file(alone.root / file), file


@pytest.mark.processes
@pytest.mark.parametrize("how", ["two", "split"])
def test_a_model_says_the_same_to_the_bit(outcomes, tmp_path, how):
    both, line, _ = outcomes[how]
    alone = both.copy(tmp_path / "alone")
    assert alone.run("evaluate", changes=TWICE) == line.splitlines()[2:]
    for file in (evaluate.PREDICTIONS, evaluate.HEADS, "models/adapter_calibration.json"):
        assert digest_file(both.root / file) == digest_file(alone.root / file), file


@pytest.mark.parametrize("command", [baseline, finetune, evaluate])
def test_each_command_leaves_the_work_to_the_processes_that_it_starts(prepared, monkeypatch, command):
    parameters = read_parameters(Path("params.yaml"), prepared.values(TWO))
    monkeypatch.setattr(processes, "launch", lambda *given: given)
    assert command.run(parameters) == (command.run, parameters, torch.device("cpu"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"machine": {"processes": 17}, "train": {"accumulation": 2}},
            r"^params\.yaml: machine\.processes: found 17 with 16 windows an optimizer step .*integer from 1 to 16$",
        ),
        (
            {"machine": {"processes": 3, "fsdp": True}, "train": {"accumulation": 2}},
            r"^params\.yaml: machine\.processes: found 3 with machine\.fsdp true and 16 windows .*a divisor of 16",
        ),
        (
            {"machine": {"processes": 2}, "lora": {"dropout": 0.1}},
            r"^params\.yaml: machine\.processes: found 2 with lora\.dropout 0\.1.*legal: 1, or lora\.dropout 0$",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused_with_the_parameters(prepared, changes, message):
    with pytest.raises(SigmaError, match=message):
        read_parameters(Path("params.yaml"), prepared.values(changes))


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True], ids=["whole", "split"])
@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"accumulation": 2, "gradient_checkpointing": True}},
        {"telepathy": {"factor_tokens": 2, "present": "backbone"}},
        {"loss": {"vec": 0.5, "traf": {"top_k": 0.0}}},
        {"base": {"dtype": "bfloat16"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_kind_of_training_is_shared(prepared, tmp_path, monkeypatch, changes, fsdp):
    alone = prepared.copy(tmp_path / "alone")
    alone.run("baseline", changes=changes)
    both = alone.copy(tmp_path / "both")
    _, one = run(followed, alone, 1, changes)
    monkeypatch.setenv("SIGMA_SCRATCH", str(tmp_path / "other"))
    _, two = run(followed, both, 2, changes, {"machine": {"fsdp": fsdp}})
    assert_same_windows(one, two)
    # Other kernels compute parts of a batch, and a number of 16 bits has three digits.
    assert_same_curves(alone, both, digits=1e3 if "base" in changes else 1)


@pytest.mark.processes
@pytest.mark.slow
def test_a_state_serves_any_number_of_processes(own, trained, monkeypatch):
    undo = interrupt(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        own.run("finetune")
    undo()
    _, seen = run(followed, own, 2)
    assert [(name, step) for name, step, start, _ in seen if not start] == [("flow", step) for step in (2, 3, 4, 5)]
    assert_same_curves(trained, own)


@pytest.mark.processes
@pytest.mark.parametrize("which", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_process_ends_the_run_and_its_state_is_resumed(prepared, tmp_path, place, monkeypatch, which):
    changes = {"train": {"steps": 40, "checkpoint_every": 1}}
    world, whole = prepared.copy(tmp_path / "killed"), prepared.copy(tmp_path / "whole")
    world.configure(changes, TWO)
    command = [sys.executable, "-m", "sigma", "finetune"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(command, cwd=world.root, env=environment, stderr=subprocess.PIPE, text=True)
    while killed.poll() is None and not list(place.rglob("state.pt")):
        time.sleep(0.05)
    children = psutil.Process(killed.pid).children()
    ranks = sorted(child.pid for child in children if any("spawn_main" in word for word in child.cmdline()))
    os.kill(ranks[which], signal.SIGKILL)
    _, told = killed.communicate(timeout=60)
    assert killed.returncode == 1 and "Traceback" not in told
    assert told.splitlines()[-1].startswith(f"sigma: error: machine.processes: rank {which} was ended by SIGKILL")
    assert told.count("error") == 1 and not any(psutil.pid_exists(rank) for rank in ranks)
    assert not (world.root / "models/sigma").exists()
    steps = steps_taken(monkeypatch)
    world.run("finetune", changes=changes)
    assert 0 < steps[0] < 40 and steps[-1] == 39
    monkeypatch.setenv("SIGMA_SCRATCH", str(tmp_path / "other"))
    whole.run("finetune", changes=changes)
    assert_same_curves(whole, world)
