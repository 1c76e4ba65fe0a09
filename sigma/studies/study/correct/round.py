"""``sigma study round``: a trained arm that learns from corrections, or from as many demonstrations instead.

Ways:

- ``before``: nothing is learned; what the others are compared with.
- ``continued``: goes on from the arm, on its demonstrations and the corrections.
- ``demonstrations``: goes on from the arm, with further demonstrations instead of corrections.
- ``retrained``: begins with the base, on demonstrations and corrections, with all of the arm's steps.
- ``twice``: two rounds of half the corrections and half the steps, the second collected by what the first trained.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sigma.parameters import read_parameters
from sigma.shared.errors import SigmaError
from sigma.studies.study.cells.arm_folder import DECODINGS, EPISODES, FULL_SCALE, MODEL, read_arm_record
from sigma.studies.study.cells.parameters import (
    StudyParameters,
    cell_parameters,
    check_cell,
    check_seed,
    read_study,
    task_values,
)
from sigma.studies.study.cells.workspace import Workspace, cell_file, model_folder
from sigma.studies.study.correct.correct import Request, record_corrections
from sigma.studies.study.correct.parameters import CorrectionParameters, read_corrections, row_name
from sigma.studies.study.play.play import check_simulator, jobs_of, play, table_rows, write_played
from sigma.studies.study.play.players import Player

FIRST_SEED, APART = 1_000_000, 100_000  # of the corrected episodes of training seed 0, and from one to the next


def run(*, task: str, arm: str, way: str, seed: int, params: Path, corrections: Path, output: Path) -> str:
    """Write the folder ``output``: the model, unless ``way`` is ``before``, and the table of the episodes it played.

    Returns one line with its successes. Raises :class:`SigmaError` for a task, arm, way or seed that is not listed.
    """
    study, rounds = read_study(params), read_corrections(corrections)
    check_cell(study, task, arm, params)
    check_seed(study, seed, params)
    if way not in rounds.ways:
        raise SigmaError(f"{corrections}: corrections.ways: no {way!r}; legal: {', '.join(rounds.ways)}")
    workspace = Workspace.of(task)
    record = read_arm_record(model_folder(task, arm, seed), workspace)
    if record["kind"] == "full" and way not in ("before", "retrained"):
        raise SigmaError(
            f"{corrections}: corrections.ways: {arm} is trained with every weight and cannot go on ({way})"
        )
    check_simulator()

    from sigma.shared.files import atomic_directory

    with atomic_directory(output) as folder:
        learner = _Learner(study, rounds, params, task, arm, seed, record)
        model = learner.learn(way, folder / MODEL)
        won, played = _play(learner.player(model, row_name(arm, way)), study, rounds, task, params, folder)
    return f"round: {arm} on {task}, {way}, seed {seed}: {won} of {played} episodes in all settings"


class _Learner:
    """One trained arm, what it is given, and how it goes on."""

    def __init__(
        self,
        study: StudyParameters,
        rounds: CorrectionParameters,
        params: Path,
        task: str,
        arm: str,
        seed: int,
        record: dict[str, Any],
    ):
        self.study, self.rounds, self.params, self.task, self.arm, self.seed = study, rounds, params, task, arm, seed
        self.kind, self.rate = record["kind"], record["rate"]
        self.start = model_folder(task, arm, seed) / MODEL
        self.collected = 0

    def player(self, model: Path, name: str = "") -> Player:
        """The policy of a model without a gate."""
        return Player(name or self.arm, self.kind, FULL_SCALE if self.kind == "sigma" else DECODINGS[0], model)

    def learn(self, way: str, folder: Path) -> Path:
        """Write the model of a way to ``folder``; returns where its model is."""
        if way == "before":
            return self.start
        # Always the same place, since it is written into what is made there: a training that was stopped goes on.
        place = Path("stages/corrections/collected.tmp").resolve() / self.task / self.arm / way / str(self.seed)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        model = self._learn(way, place, folder)
        shutil.rmtree(place)
        return model

    def _learn(self, way: str, place: Path, folder: Path) -> Path:
        rounds, steps = self.rounds, self.rounds.steps
        first, second = place / "first", place / "second"
        if way == "demonstrations":
            self._demonstrate(first)
            return self._train([(first, False)], self.start, steps, folder)
        if way == "twice":
            self._collect(self.start, first, rounds.episodes // 2)
            between = self._train([(first, True)], self.start, steps // 2, place / "between")
            self._collect(between, second, rounds.episodes - rounds.episodes // 2)
            return self._train([(first, True), (second, True)], between, steps - steps // 2, folder)
        self._collect(self.start, first, rounds.episodes)
        if way == "retrained":
            return self._train([(first, True)], None, None, folder)
        return self._train([(first, True)], self.start, steps, folder)

    def _collect(self, model: Path, output: Path, episodes: int) -> None:
        seed = FIRST_SEED + APART * self.seed + APART // 2 * self.collected
        wanted = Request(self.task, episodes, self.rounds.settings, self.rounds.patience, at_random=False, seed=seed)
        place = Workspace.of(self.task)
        print(record_corrections(self.player(model), wanted, self.study, place, self.params, output))
        self.collected += 1

    def _demonstrate(self, output: Path) -> None:
        from sigma.simulation.record import record
        from sigma.simulation.scene import IMAGE_SIZE

        recording, workers = self.study.recording, read_parameters().machine.workers
        task, count = self.study.tasks[self.task].task, self.rounds.episodes
        # Other draws for every training seed, and none of the arm's own demonstrations.
        record(output, [task], [count], recording.seed + 1 + self.seed, IMAGE_SIZE, recording.noise, workers)

    def _train(self, further: list[tuple[Path, bool]], start: Path | None, steps: int | None, folder: Path) -> Path:
        from sigma.studies.study.train.training import trained_arm, write_arm_model

        parameters = cell_parameters(cell_file(self.task, self.arm), seed=self.seed, rate=self.rate)
        if steps is not None:
            # The validation windows are demonstrations; what was learned of corrections is not seen in them.
            changed = parameters.train.model_copy(update={"steps": steps, "select": "last"})
            parameters = parameters.model_copy(update={"train": changed})
        with (
            _joined(self.study, self.task, self.params, further) as workspace,
            trained_arm(self.kind, workspace, parameters, start) as result,
        ):
            folder.mkdir(parents=True)
            write_arm_model(result, folder)
        return folder


@contextmanager
def _joined(study: StudyParameters, task: str, params: Path, further: list[tuple[Path, bool]]) -> Iterator[Workspace]:
    """The first stages on a task's demonstrations and these further datasets (folder, whether it holds corrections)."""
    from ruamel.yaml import YAML

    from sigma.studies.study.cells.workspace import OUT
    from sigma.studies.study.data import data

    origins = [{"source": str(path), "revision": None, "corrections": corrected} for path, corrected in further]
    tasks = dict(study.tasks)
    overrides = tasks[task].overrides | {"fetch.further": origins}
    tasks[task] = tasks[task].model_copy(update={"overrides": overrides})
    with TemporaryDirectory(prefix="joined-") as place:
        file = Path(place) / params.name
        with file.open("w", encoding="utf-8") as stream:
            YAML(typ="safe").dump({"study": study.model_copy(update={"tasks": tasks}).model_dump(mode="json")}, stream)
        workspace = Workspace(Path(place) / task)
        data.run(task=task, params=file, recording=OUT / "recordings" / task, output=workspace.root)
        yield workspace


def _play(
    player: Player, study: StudyParameters, rounds: CorrectionParameters, task: str, params: Path, folder: Path
) -> tuple[int, int]:
    from sigma.simulation.parallel import EpisodePool

    parameters = read_parameters(Path(f"{params}: study.tasks.{task}"), task_values(study, task, params))
    settings = {name: setting for name, setting in study.all_settings(task).items() if name in rounds.settings}
    longer = study.play.model_copy(update={"episodes": rounds.played, "setting_episodes": rounds.played})
    every = study.model_copy(update={"play": longer})
    jobs = jobs_of(every, task, settings, study.tasks[task].base_tasks)
    with EpisodePool(parameters.machine.workers) as crew:
        played, clocks = play(player, jobs, Workspace.of(task), parameters, params, batch=study.play.batch, crew=crew)
    write_played(folder / EPISODES, table_rows(player, played), clocks, every)
    own = [result for one in played if one.job.spec.task == study.tasks[task].task for result in one.results]
    return sum(result.success for result in own), len(own)
