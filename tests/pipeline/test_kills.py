"""Runs killed at random times over every stage, and restarted, end with the bytes of a run that nobody touched.

Killed are the whole process group, the stage's command alone, or `dvc` alone, whose command then lives on; and DVC
itself just after a command has ended, when it stores and records. What may differ is `logs/`: times and memory.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from ruamel.yaml import YAML

from sigma.io import digest_file, digest_folder
from tests.bases import write_tiny_base
from tests.datasets import write_dataset
from tests.projects import environment, make_project, run
from tests.worlds import SMALL, merge

pytestmark = pytest.mark.slow

# Stage -> kills while its command runs, and kills just after it.
PLAN = {
    "fetch": (3, 1),
    "audit": (3, 1),
    "window": (4, 1),
    "baseline": (4, 1),
    "finetune": (10, 1),
    "sigma": (4, 1),
    "report": (3, 1),
}
LEAST = 25
COMMANDS = {"evaluate": "sigma"}  # command -> stage, where they differ
# Training lasts longer than everything before its first step, so that most kills of it fall into it.
LONGER = {
    "base": {"branch": "adapted"},
    "train": {"flow_steps": 60, "steps": 120, "validate_every": 12, "checkpoint_every": 3},
    "machine": {"workers": 2},
}


def project(place: Path, name: str) -> Path:
    origins = {"dataset": {"source": str(place / "recorded")}, "base": {"source": str(place / "base")}}
    return make_project(place / name, merge(SMALL, LONGER, {"fetch": origins}))


def lock(folder: Path) -> dict:
    return YAML(typ="safe").load((folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]


def products(folder: Path) -> dict[str, str]:
    """Digest of every output and metric that ``dvc.lock`` names, as it lies there."""
    paths = [out["path"] for stage in lock(folder).values() for out in stage["outs"]]
    return {name: (digest_folder if (folder / name).is_dir() else digest_file)(folder / name) for name in paths}


def altered_objects(folder: Path) -> list[str]:
    """Objects of DVC's cache whose content is not what their name says."""
    import hashlib

    objects = [file for file in (folder / ".dvc/cache/files/md5").glob("*/*") if file.is_file()]
    assert objects
    names = {file: f"{file.parent.name}{file.name}".removesuffix(".dir") for file in objects}
    return [name for file, name in names.items() if hashlib.md5(file.read_bytes()).hexdigest() != name]


def stage_of(process: psutil.Process) -> str | None:
    """The stage that a living process is the command of."""
    try:
        words = process.cmdline()
        if len(words) < 3 or words[-3:-1] != ["-m", "sigma"] or process.status() == psutil.STATUS_ZOMBIE:
            return None
    except psutil.Error:
        return None
    return COMMANDS.get(words[-1], words[-1])


def until(condition: Callable[[], object], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


class Attacks:
    """Starts `dvc repro` again and again and kills it by plan; the seed draws the times and what is killed."""

    def __init__(self, folder: Path, seconds: dict[str, float], seed: int):
        self.folder, self.seconds, self.source = folder, seconds, random.Random(seed)
        self.kills: Counter = Counter()  # (stage, what was killed)
        self.planned: Counter = Counter()  # stage -> kills so far
        self.seen: Counter = Counter()

    def attack(self) -> bool:
        """One `dvc repro`, killed where the plan says so; whether it came to its own good end."""
        log = self.folder.parent / "attack.log"
        with open(log, "w") as stream:
            options = dict(cwd=self.folder, env=environment(), stdout=stream, stderr=stream, start_new_session=True)
            dvc = subprocess.Popen(["dvc", "repro"], **options)
        while dvc.poll() is None:
            until(lambda: dvc.poll() is not None or self.running(dvc))
            stage, command = self.running(dvc) or (None, None)
            if stage is None:
                continue
            during, after = PLAN[stage]
            if self.planned[stage] < during:
                time.sleep(self.source.uniform(0, 0.9) * self.seconds[stage])
                self.planned[stage] += 1
                return self.kill(dvc, self.source.choice(("group", "group", "command", "dvc")))
            until(lambda one=command: not stage_of(one))
            if self.planned[stage] < during + after:
                time.sleep(self.source.uniform(0, 0.5))
                self.planned[stage] += 1
                return self.kill(dvc, "group")
        return dvc.returncode == 0 or self.refused(log.read_text())

    def running(self, dvc: subprocess.Popen) -> tuple[str, psutil.Process] | None:
        try:
            children = psutil.Process(dvc.pid).children(recursive=True)
        except psutil.Error:
            return None
        return next(((stage, one) for one in children if (stage := stage_of(one))), None)

    def kill(self, dvc: subprocess.Popen, what: str) -> bool:
        stage, command = self.running(dvc) or ("between stages", None)
        if stage == "finetune" and (step := self.saved_step()):
            self.seen["kills of a training with a saved state"] += 1
            self.seen["greatest saved step of a killed training"] = max(
                step, self.seen["greatest saved step of a killed training"]
            )
        if dvc.poll() is not None:
            return False
        if what == "group":
            os.killpg(dvc.pid, signal.SIGKILL)
        elif what == "command" and command:
            command.kill()
        else:
            dvc.kill()
        dvc.wait()
        self.kills[stage, what] += 1
        return False

    def refused(self, output: str) -> bool:
        """What a `dvc repro` that ended badly by itself must have said; then what its message asks for is done."""
        if "still works in this project" in output:
            self.seen["refused while a command lived on"] += 1
            until(lambda: not any(map(self.here, psutil.process_iter())))
        elif "Lockfile 'dvc.lock' is corrupted" in output:
            self.seen["dvc.lock removed, as DVC was killed while it wrote it"] += 1
            (self.folder / "dvc.lock").unlink()
        else:
            pytest.fail(output[-4000:])
        return False

    def here(self, process: psutil.Process) -> bool:
        try:
            return bool(stage_of(process)) and Path(process.cwd()) == self.folder
        except psutil.Error:
            return False

    def saved_step(self) -> int:
        """Steps of the whole training that its last saved state has behind it; 0 where there is none."""
        found = list((self.folder / ".dvc/tmp/sigma-scratch").glob("*/state.pt"))
        if not found:
            return 0
        state = torch.load(found[0], weights_only=True)
        return state["state"]["step"] + (LONGER["train"]["flow_steps"] if state["phase"] == "residual" else 0)

    def forget(self) -> None:
        """Everything has to be run again, and may be killed again."""
        (self.folder / "dvc.lock").unlink()
        shutil.rmtree(self.folder / ".dvc/cache/runs")
        self.planned.clear()


def test_killed_runs_that_are_restarted_end_with_the_bytes_of_an_uninterrupted_run(tmp_path):
    write_tiny_base(tmp_path / "base")
    write_dataset(tmp_path / "recorded", lengths=(28, 25, 30, 27, 29, 26, 31, 28))
    whole, killed = project(tmp_path, "whole"), project(tmp_path, "killed")
    run(whole, "dvc", "repro")
    times = {file.stem: json.loads(file.read_text())["seconds"] for file in (whole / "logs").glob("*.json")}
    seconds = {COMMANDS.get(command, command): value for command, value in times.items()}
    attacks = Attacks(killed, seconds, seed=0)
    while not attacks.attack():
        assert sum(attacks.kills.values()) < 3 * LEAST
    while sum(attacks.kills.values()) < LEAST:
        attacks.forget()
        while not attacks.attack():
            pass
    print("\nseconds of each stage, uninterrupted:", seconds)
    for (stage, what), count in sorted(attacks.kills.items()):
        print(f"{count:3d} kills: {stage}, {what}")
    print(sum(attacks.kills.values()), "kills;", dict(attacks.seen))
    assert {stage for stage, _ in attacks.kills} >= set(PLAN)
    assert attacks.seen["kills of a training with a saved state"] >= 3
    assert lock(killed) == lock(whole)
    assert products(killed) == products(whole)
    assert altered_objects(killed) == altered_objects(whole) == []
    assert "Running stage" not in run(killed, "dvc", "repro")
    left = [
        file for file in killed.rglob(".*") if file.name.startswith(tuple(f".{Path(n).name}." for n in products(whole)))
    ]
    assert not left
