"""Closed loop in the simulator: every player on the same fresh episodes."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigma.parameters import Parameters
from sigma.shared.errors import SigmaError
from sigma.simulation.setting import PLAIN, PLAIN_NAME, Setting
from sigma.studies.study.cells.parameters import StudyParameters
from sigma.studies.study.cells.workspace import Workspace
from sigma.studies.study.play.players import EXPERT, Player, load_player, read_base

if TYPE_CHECKING:
    import numpy as np

    from sigma.policy.control.controller import BaseController
    from sigma.policy.control.gate import Gate, Judgement
    from sigma.policy.control.sigma_controller import SigmaController
    from sigma.simulation.episode import EpisodeSpec, RolloutResult
    from sigma.simulation.parallel import EpisodePool
    from sigma.simulation.rollout import RolloutPolicy


@dataclass(frozen=True)
class Job:
    """Episodes of one kind."""

    setting: str
    seeds: range
    spec: "EpisodeSpec"


@dataclass(frozen=True)
class Played:
    """How a job's episodes ended and, where the player stands behind a gate, what that judged at each decision."""

    job: Job
    results: "list[RolloutResult]"
    judged: "list[list[Judgement]]"

    @property
    def held_back(self) -> int:
        """Episodes in which the gate closed by more than half."""
        return sum(first_held_back(judgements) is not None for judgements in self.judged)


def first_held_back(judgements: "list[Judgement]") -> "Judgement | None":
    """The first decision of an episode at which the gate closed by more than half."""
    return next((judgement for judgement in judgements if judgement.held_back), None)


def jobs_of(study: StudyParameters, task: str, settings: dict[str, Setting], base_tasks: list[str]) -> list[Job]:
    """Everything that one player plays on a task of the study: its settings, then the base's own tasks."""
    from sigma.simulation.episode import EpisodeSpec
    from sigma.simulation.tasks import task_named

    play = study.play

    def job(name: str, setting_name: str, setting: Setting, episodes: int) -> Job:
        spec = EpisodeSpec(task_named(name).name, setting.n_action_steps or play.n_action_steps, setting)
        return Job(setting_name, range(play.first_seed, play.first_seed + episodes), spec)

    played = study.tasks[task].task
    counts = {name: play.episodes if name == PLAIN_NAME else play.setting_episodes for name in settings}
    return [
        *(job(played, name, setting, counts[name]) for name, setting in settings.items()),
        *(job(other, PLAIN_NAME, PLAIN, play.base_episodes) for other in base_tasks),
    ]


class LateFirstPlan:
    """A policy behind a gate whose plans come ``delay`` control steps late: its gate is told what was commanded.

    The first plan begins that much later, at its own first step; those after it are executed at the steps for which
    they were made, as the gate expects.
    """

    def __init__(self, policy: "RolloutPolicy", gate: "Gate", spec: "EpisodeSpec"):
        self.policy, self.gate = policy, gate
        self.delay = spec.setting.delay
        self.last = spec.n_action_steps - 1 - self.delay
        self._begun: set[int] = set()

    def reset(self, indices: list[int]) -> None:
        self._begun -= set(indices)
        self.policy.reset(indices)

    def act(self, observations: list[dict[str, Any]], indices: list[int]) -> "np.ndarray":
        plans = self.policy.act(observations, indices)
        for view, plan, index in zip(observations, plans, indices, strict=True):
            if index not in self._begun:
                # Until its first plan comes a robot stays where it is.
                told = plan[self.last] if self.last >= 0 else view["state"]
                self.gate.follow(index, told, late=self.delay)
                self._begun.add(index)
        return plans


def acting(controller: "BaseController | SigmaController", spec: "EpisodeSpec") -> "RolloutPolicy":
    """What acts in these episodes."""
    if controller.gate is None or not spec.setting.delay:
        return controller
    return LateFirstPlan(controller, controller.gate, spec)


def controllers(
    player: Player, workspace: Workspace, parameters: Parameters, jobs: Sequence[Job], params: Path
) -> "dict[int, BaseController | SigmaController]":
    """The player's policy for each number of control steps that a job executes a decision; none for the expert.

    Raises :class:`SigmaError` for a delay beyond the plan, and for words that the base does not know.
    """
    if player.kind == EXPERT:
        return {}
    from sigma.policy.control.robot_observation import check_words
    from sigma.simulation.tasks import task_named

    reference, features = read_base(workspace)
    loaded = {
        taken: load_player(player, reference=reference, features=features, parameters=parameters, n_action_steps=taken)
        for taken in dict.fromkeys(job.spec.n_action_steps for job in jobs)
    }
    for job in jobs:
        controller, delay = loaded[job.spec.n_action_steps], job.spec.setting.delay
        taken, longest, why = job.spec.n_action_steps, controller.horizon - job.spec.n_action_steps, "plans"
        if controller.gate is not None and taken <= longest:
            # A gate is told of the first plan alone that it came late.
            longest, why = taken - 1, f"acts for {taken} steps behind a gate and plans"
        if delay > longest:
            raise SigmaError(
                f"{params}: settings: {job.setting}: delay: found {delay}; legal: 0 to {longest}, as {player.name} "
                f"{why} {controller.horizon} steps"
            )
        check_words(controller.builder.base.prompter, task_named(job.spec.task).texts(job.spec.setting))
    return loaded


def play(
    player: Player,
    jobs: list[Job],
    workspace: Workspace,
    parameters: Parameters,
    params: Path,
    *,
    batch: int,
    crew: "EpisodePool",
) -> tuple[list[Played], list[dict[str, Any]]]:
    """Every job's episodes, and of each job its seconds and the policy's decisions a second.

    These are measured in calls of ``batch`` rows, rows that are free included; None for the expert, who has no policy.
    """
    from sigma.shared.progress import progress
    from sigma.simulation.rollout import FixedRows, run_expert, run_rollouts
    from sigma.simulation.scene import IMAGE_SIZE

    loaded = controllers(player, workspace, parameters, jobs, params)
    # An expert looks at no picture.
    size = next((controller.builder.base.resolution for controller in loaded.values()), IMAGE_SIZE)
    played, clocks = [], []
    with progress(f"rollout {player.name}", sum(len(job.seeds) for job in jobs)) as meter:
        for job in jobs:
            started = time.perf_counter()
            spec, rate, judged = replace(job.spec, size=size), None, list["list[Judgement]"]()
            if not loaded:
                results = run_expert(job.seeds, spec, crew=crew)
            else:
                controller = loaded[spec.n_action_steps]
                gate, policy = controller.gate, FixedRows(acting(controller, spec), batch)
                results = run_rollouts(policy, job.seeds, spec, batch=batch, crew=crew)
                rate = round(sum(result.decisions for result in results) / policy.seconds, 2)
                if gate is not None:
                    judged = [gate.robots[result.seed].judgements for result in results]
            seconds = round(time.perf_counter() - started, 2)
            clocks.append({"arm": player.name, "task": spec.task, "setting": job.setting, "seconds": seconds})
            clocks[-1] |= {"episodes": len(results), "decisions_per_second": rate}
            played.append(Played(job, results, judged))
            won = sum(result.success for result in results)
            meter.advance(len(results), f"{spec.task} {job.setting}: {won} of {len(results)}")
    return played, clocks


def check_simulator() -> None:
    """Raise :class:`SigmaError` where episodes cannot be simulated and drawn here."""
    from sigma.simulation.parallel import check_renderer

    check_renderer()


def write_played(
    output: Path, rows: list[dict[str, Any]], clocks: list[dict[str, Any]], study: StudyParameters
) -> None:
    """``output``, a table with one row an episode, and the times in a JSON file beside it.

    The table is the same to the bit when the arm is played again, which no clock is.
    """
    import pyarrow as pa

    from sigma.shared.files import Outputs

    text, count = pa.string(), pa.int64()
    columns = {"arm": text, "task": text, "setting": text, "seed": count, "instruction": text, "success": pa.bool_()}
    columns |= {"progress": pa.float64(), "wrong_box": pa.bool_(), "steps": count, "failure": text}
    columns |= {"milestones": count, "decisions": count}  # of a result the actions alone are left out
    # Of the gate: risk −ln p and scale at each decision, and what it said first; null without one.
    columns |= {"risk": pa.list_(pa.float64()), "scale": pa.list_(pa.float64()), "held_back": text}
    # What must be equal of two arms for their episodes to be compared.
    protocol = study.play.model_dump(exclude={"episodes", "setting_episodes", "base_episodes"})
    schema = pa.schema(columns).with_metadata({"protocol": json.dumps(protocol, sort_keys=True)})
    with Outputs() as outputs:
        outputs.table(output, pa.Table.from_pylist(rows, schema=schema))
        outputs.json(output.with_suffix(".json"), {"played": clocks})


def table_rows(player: Player, played: list[Played]) -> list[dict[str, Any]]:
    """One row an episode."""
    rows = []
    for part in played:
        about = {"arm": player.name, "task": part.job.spec.task, "setting": part.job.setting}
        for number, result in enumerate(part.results):
            gate = _judged(part.judged[number]) if part.judged else {}
            rows.append(about | vars(result) | gate)
    return rows


def _judged(judgements: "list[Judgement]") -> dict[str, Any]:
    closed = first_held_back(judgements)
    return {
        "risk": [-math.log(judgement.p) if judgement.p else math.inf for judgement in judgements],
        "scale": [judgement.scale for judgement in judgements],
        "held_back": None if closed is None else str(closed),
    }
