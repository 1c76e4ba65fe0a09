"""Peak memory of the window stage as the dataset grows: a fresh process, its children included."""

import shutil
import sys
import tempfile
from pathlib import Path

from sigma.commands.window import BASE_RECORD, DATASET, DATASET_RECORD, EPISODES, METRICS, SHARDS
from sigma.parameters.schema import PARAMS_FILE
from sigma.shared.files import read_json, write_json
from sigma.studies.benchmark.measure import Measured, NotMeasured, in_turn
from sigma.studies.benchmark.project import Project
from sigma.studies.benchmark.subprocesses import environment, peak_memory

COMMAND = (sys.executable, "-m", "sigma", "window")
# So small that few episodes fill several processes, each of which makes a whole shard.
SMALL_MIB = 4
# Every control step is a decision, so that each frame is stored and few episodes make much data.
DENSE = {"train_stride": 1, "eval_stride": 1, "shard_mib": SMALL_MIB}


def prepare(project: Project, folder: Path, episodes: int) -> Path:
    """A project folder in which ``sigma window`` cuts the first ``episodes`` of the project's dataset.

    The shares of validation and test stay, so that every part of the dataset grows alike.
    """
    from ruamel.yaml import YAML

    (folder / DATASET).parent.mkdir(parents=True)
    (folder / DATASET).symlink_to((project.root / DATASET).resolve())
    for record in (BASE_RECORD, DATASET_RECORD):
        shutil.copyfile(project.root / record, folder / record)
    listed = read_json(project.root / EPISODES)
    write_json(folder / EPISODES, {**listed, "used": listed["used"][:episodes]})
    values = project.parameters.model_dump(mode="json")
    window = values["window"]
    window |= DENSE
    for part in ("validation", "test"):
        if isinstance(window[part], int) and window[part]:
            window[part] = round(window[part] / len(listed["used"]), 3)
    with (folder / PARAMS_FILE).open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(values, file)
    return folder


def measure_windowing_memory(project: Project) -> Measured:
    """MiB with many episodes, and with few."""
    few, many = project.settings.memory_episodes
    if (used := len(read_json(project.root / EPISODES)["used"])) < many:
        raise NotMeasured(f"the dataset has {used} episodes, benchmark.memory_episodes asks for {many}")
    frames: dict[int, int] = {}
    with tempfile.TemporaryDirectory(prefix="sigma-benchmark-") as name:
        folders = {episodes: prepare(project, Path(name) / str(episodes), episodes) for episodes in (few, many)}

        def peak(episodes: int) -> float:
            memory = peak_memory(COMMAND, folders[episodes], environment(project.settings.threads))
            frames[episodes] = read_json(folders[episodes] / METRICS)["frames"]
            shutil.rmtree(folders[episodes] / SHARDS)
            return memory

        own, peer = in_turn(lambda: peak(many), lambda: peak(few), project.settings.repetitions)
    details = [{"episodes": episodes, "frames": frames[episodes]} for episodes in (many, few)]
    return Measured(own, peer, *details)
