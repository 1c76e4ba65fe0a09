"""Runs killed at random times over every stage, and restarted, end with the bytes of a run that nobody touched.

Killed are the whole process group, the stage's command alone, or `dvc` alone, whose command then lives on; and DVC
itself just after a command has ended, when it stores and records. What may differ is `logs/`: times and memory.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from ruamel.yaml import YAML

from sigma.shared.files import digest_file, digest_folder
from tests.bases import write_tiny_base
from tests.datasets import write_dataset
from tests.projects import environment, make_project, run
from tests.worlds import SMALL, merge

pytestmark = pytest.mark.slow

# Stage -> kills while its command runs, kills just after it, and between which parts of its time the former fall.
# Training goes on where it was, so that a kill of it must come soon, and after the imports to have something to resume.
PLAN = {
    "fetch": (3, 1, 0.0, 0.9),
    "audit": (3, 1, 0.0, 0.9),
    "window": (3, 1, 0.0, 0.9),
    "baseline": (3, 1, 0.0, 0.9),
    "finetune": (9, 1, 0.1, 0.6),
    "sigma": (3, 1, 0.0, 0.9),
    "report": (3, 1, 0.0, 0.9),
}
LEAST = 25
# DVC writes these in place. What it says of one that a kill cut off, and the file; without it, it starts as if new.
CUT_OFF = {"dvc.lock'": "dvc.lock", "Unable to read RWLock-file": ".dvc/tmp/rwlock"}
COMMANDS = {"evaluate": "sigma"}  # command -> stage, where they differ
# Training lasts longer than everything before its first step, so that most kills of it fall into it.
LONGER = {"train": {"steps": 400, "validate_every": 25, "checkpoint_every": 2}, "machine": {"workers": 2}}


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


def until(condition: Callable[[], object], seconds: float = 1800) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def running(dvc: subprocess.Popen) -> tuple[str, psutil.Process] | None:
    """The stage that runs under this `dvc repro`, and its command."""
    try:
        children = psutil.Process(dvc.pid).children(recursive=True)
    except psutil.Error:
        return None
    return next(((stage, one) for one in children if (stage := stage_of(one))), None)


def used(command: psutil.Process) -> float:
    """Seconds of processor time so far, which unlike the clock's depend little on what else the machine does."""
    try:
        times = command.cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system


def start(folder: Path, log: Path) -> subprocess.Popen:
    with open(log, "w") as stream:
        options = dict(cwd=folder, env=environment(), stdout=stream, stderr=stream, start_new_session=True)
        return subprocess.Popen(["dvc", "repro"], **options)


def uninterrupted(folder: Path) -> dict[str, float]:
    """Run everything once; stage -> the processor time of its command."""
    log, found = folder.parent / "whole.log", {}
    dvc = start(folder, log)
    while dvc.poll() is None:
        if now := running(dvc):
            found[now[0]] = max(found.get(now[0], 0.0), used(now[1]))
        time.sleep(0.05)
    assert dvc.returncode == 0, log.read_text()[-4000:]
    return found


class Attacks:
    """Starts `dvc repro` again and again and kills it by plan; the seed draws the times and what is killed."""

    def __init__(self, folder: Path, seconds: dict[str, float], seed: int):
        self.folder, self.seconds, self.source = folder, seconds, random.Random(seed)
        self.kills: Counter = Counter()  # (stage, what was killed)
        self.planned: Counter = Counter()  # stage -> kills so far
        self.seen: Counter = Counter()

    def enough(self) -> bool:
        stages = {stage for stage, _ in self.kills}
        trained = self.seen["kills of a training with a saved state"]
        return self.kills.total() >= LEAST and stages >= set(PLAN) and trained >= 3

    def attack(self) -> bool:
        """One `dvc repro`, killed where the plan says so; whether it came to its own good end."""
        log = self.folder.parent / "attack.log"
        dvc = start(self.folder, log)
        while dvc.poll() is None:
            until(lambda: dvc.poll() is not None or running(dvc))
            stage, command = running(dvc) or (None, None)
            if stage is None:
                continue
            during, after, first, last = PLAN[stage]
            if self.planned[stage] < during:
                point = self.source.uniform(first, last) * self.seconds[stage]
                until(lambda one=command, point=point: not stage_of(one) or used(one) >= point)
                if stage_of(command):
                    self.planned[stage] += 1
                    return self.kill(
                        dvc, stage, command, self.source.choice(("group", "group", "group", "command", "dvc"))
                    )
                continue
            until(lambda one=command: not stage_of(one))
            if self.planned[stage] < during + after:
                self.planned[stage] += 1
                time.sleep(self.source.uniform(0, 0.5))
                if dvc.poll() is None and not running(dvc):
                    return self.kill(dvc, f"after {stage}", None, "group")
        return dvc.returncode == 0 or self.refused(log.read_text())

    def kill(self, dvc: subprocess.Popen, stage: str, command: psutil.Process | None, what: str) -> bool:
        step = self.saved_step() if stage == "finetune" else 0
        if step:
            self.seen["kills of a training with a saved state"] += 1
        print(f"killed: {what}, {stage}, {step} steps saved", flush=True)
        if what == "group":
            os.killpg(dvc.pid, signal.SIGKILL)
        elif what == "dvc":
            dvc.kill()
        else:
            with suppress(psutil.NoSuchProcess):
                command.kill()
        dvc.wait()
        self.kills[stage, what] += 1
        return False

    def refused(self, output: str) -> bool:
        """What a `dvc repro` that ended badly by itself must have said; then what its message asks for is done."""
        if "still works in this project" in output:
            self.seen["refused while a command lived on"] += 1
            until(lambda: not any(map(self.here, psutil.process_iter())))
        elif cut_off := next((file for message, file in CUT_OFF.items() if message in output), None):
            self.seen[f"{cut_off} removed, as DVC was killed while it wrote it"] += 1
            (self.folder / cut_off).unlink()
        else:
            pytest.fail(output[-4000:])
        return False

    def here(self, process: psutil.Process) -> bool:
        try:
            return bool(stage_of(process)) and Path(process.cwd()) == self.folder
        except psutil.Error:
            return False

    def saved_step(self) -> int:
        """Steps that the training's last saved state has behind it; 0 where there is none."""
        found = list((self.folder / ".dvc/tmp/sigma-scratch").glob("*/state.pt"))
        return torch.load(found[0], weights_only=True)["step"] if found else 0

    def forget(self) -> None:
        """Everything has to be run again, and may be killed again."""
        (self.folder / "dvc.lock").unlink()
        shutil.rmtree(self.folder / ".dvc/cache/runs")
        self.planned.clear()


def test_killed_runs_that_are_restarted_end_with_the_bytes_of_an_uninterrupted_run(tmp_path):
    write_tiny_base(tmp_path / "base")
    write_dataset(tmp_path / "recorded", lengths=(28, 25, 30, 27, 29, 26, 31, 28))
    whole, killed = project(tmp_path, "whole"), project(tmp_path, "killed")
    seconds = uninterrupted(whole)
    print("\nprocessor seconds of each stage, uninterrupted:", {stage: round(one, 1) for stage, one in seconds.items()})
    attacks = Attacks(killed, seconds, seed=0)
    while True:
        while not attacks.attack():
            assert attacks.kills.total() < 4 * LEAST
        if attacks.enough():
            break
        attacks.forget()
    for (stage, what), count in sorted(attacks.kills.items()):
        print(f"{count:3d} kills: {stage}, {what}")
    print(attacks.kills.total(), "kills;", dict(attacks.seen))
    assert lock(killed) == lock(whole)
    assert products(killed) == products(whole)
    assert altered_objects(killed) == altered_objects(whole) == []
    assert "Running stage" not in run(killed, "dvc", "repro")
    left = [
        file for file in killed.rglob(".*") if file.name.startswith(tuple(f".{Path(n).name}." for n in products(whole)))
    ]
    assert not left
