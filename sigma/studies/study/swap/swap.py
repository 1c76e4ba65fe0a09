"""``sigma study swap``: does the answer follow the history? Two episodes exchange their memories half-way.

Both go on from where they are, each with its own picture, joints and words, and with what the other remembers. A policy
whose memory decides then gives the other's answer: the box that the other was shown, the place from which the other's
cube came.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sigma.parameters import read_parameters
from sigma.shared.errors import SigmaError
from sigma.studies.study.cells.arm_folder import FULL_SCALE, MODEL, SUBJECT
from sigma.studies.study.cells.parameters import check_cell, read_study, task_values
from sigma.studies.study.cells.workspace import Workspace, model_folder

if TYPE_CHECKING:
    from sigma.policy.control.sigma_controller import SigmaController
    from sigma.simulation.env import SO101Env
    from sigma.simulation.episode import Episode, EpisodeSpec
    from sigma.simulation.task import Scenario

Answer = Literal["other", "own", "neither"]
APART = 0.06  # metres between two starts, twice as far as the cube may miss the place from which it came


def run(*, task: str, params: Path, output: Path) -> str:
    """Write ``output``: for each training seed how many answers follow the exchanged memory (``other``), their own
    history (``own``), or no history (``neither``); the share of episodes that follows and of those that keep to their
    own, the difference of both (0 for a policy that ignores the past), each with its interval over seeds and pairs; and
    the share of the answers that follow. Returns one line.

    The plain episodes that every arm plays are paired where the two answers differ. Raises :class:`SigmaError` for a
    task without a moment at which memory alone knows the answer.
    """
    study = read_study(params)
    check_cell(study, task, SUBJECT, params)
    parameters = read_parameters(Path(f"{params}: study.tasks.{task}"), task_values(study, task, params))

    from sigma.simulation.episode import EpisodeSpec
    from sigma.studies.study.play.play import check_simulator
    from sigma.studies.study.play.players import Player, load_player, read_base

    check_simulator()

    import numpy as np

    from sigma.evaluation.crossed import share, share_difference
    from sigma.policy.control.sigma_controller import SigmaController
    from sigma.shared.files import write_json
    from sigma.shared.progress import progress

    play, workspace = study.play, Workspace.of(task)
    spec = EpisodeSpec(study.tasks[task].task, play.n_action_steps)
    pairs = find_pairs(range(play.first_seed, play.first_seed + play.episodes), spec)
    if len(pairs) < 2:
        raise SigmaError(
            f"{params}: study.play.episodes: {len(pairs)} pair among {play.episodes} episodes of {task}; an interval "
            "needs at least 2; legal: more episodes"
        )
    reference, features = read_base(workspace)
    answers: dict[int, list[Answer]] = {}
    with progress("swap", len(study.seeds) * len(pairs)) as meter:
        for seed in study.seeds:
            controller = load_player(
                Player(SUBJECT, SUBJECT, FULL_SCALE, model_folder(task, SUBJECT, seed) / MODEL),
                reference=reference,
                features=features,
                parameters=parameters,
                n_action_steps=play.n_action_steps,
            )
            assert isinstance(controller, SigmaController)
            answers[seed] = []
            for first in range(0, len(pairs), max(1, play.batch // 2)):
                part = pairs[first : first + max(1, play.batch // 2)]
                answers[seed] += exchange(controller, part, spec)
                meter.advance(len(part))
    given = np.array(list(answers.values())).reshape(len(study.seeds), len(pairs), 2)
    # The two of a pair end together, so that pairs are what is drawn.
    other, own = ((given == name).mean(axis=2) for name in ("other", "own"))
    shares: dict[str, dict[str, float]] = {
        name: dict(zip(("share", "lo", "hi"), share(values), strict=True))
        for name, values in (("followed", other), ("own", own))
    }
    more = share_difference(other, own)
    shares["difference"] = {"share": more.mean, "lo": more.low, "hi": more.high, "p": more.p}
    answered = int((given != "neither").sum())
    counts = {
        str(seed): {name: found.count(name) for name in ("other", "own", "neither")} for seed, found in answers.items()
    }
    of_answers = int((given == "other").sum()) / answered if answered else None
    result = {"task": task, "pairs": len(pairs), **shares, "followed_of_answers": of_answers, "seeds": counts}
    write_json(output, result)
    followed, kept = (shares[name]["share"] for name in ("followed", "own"))
    return f"swap: {SUBJECT} on {task}: {followed:.0%} of {len(pairs)} pairs follow the other's history, {kept:.0%} own"


def find_pairs(seeds: Sequence[int], spec: "EpisodeSpec") -> list[tuple[int, int]]:
    """Episodes in pairs whose answers differ: another box was shown, or the cube came from elsewhere.

    Where a box was shown, the boxes of both lie alike, red on the same side: what the other was shown is then the same
    box by its colour and by its place, whichever of the two is remembered.

    Raises :class:`SigmaError` for a task that shows no box and does not ask for the cube to be put back.
    """
    env = spec.environment()
    if not env.task.cued and not _shows_the_cube(env):
        raise SigmaError(f"swap: {spec.task} has no moment at which memory alone knows the answer")
    scenarios = {}
    for seed in seeds:
        env.begin(seed)
        scenarios[seed] = env.scenario
    pairs: list[tuple[int, int]] = []
    waiting: list[int] = []
    for seed, scenario in scenarios.items():
        for partner in waiting:
            other = scenarios[partner]
            if env.task.cued:
                differ = scenario.box != other.box and _side(scenario) != _side(other)
            else:
                (x, y, _), (u, v, _) = scenario.layout.cube, other.layout.cube
                differ = (x - u) ** 2 + (y - v) ** 2 >= APART**2
            if differ:
                waiting.remove(partner)
                pairs.append((partner, seed))
                break
        else:
            waiting.append(seed)
    return pairs


def _side(scenario: "Scenario") -> bool:
    """Whether the box that is shown stands on the robot's left."""
    return scenario.layout.boxes[scenario.box][1] > 0


def _shows_the_cube(env: "SO101Env") -> bool:
    from sigma.simulation.milestones import held_still

    return held_still in env.task.milestones


@dataclass
class _Side:
    """One episode of a pair."""

    episode: "Episode"
    swapped: bool = False
    answer: Answer = "neither"
    over: bool = False

    def ready(self) -> bool:
        """Whether the next decision is one that memory alone can make: the light is off and the cube about to come, or
        the cube is held where nothing tells where it lay."""
        from sigma.simulation.milestones import held_still

        env = self.episode.env
        if env.task.cued:
            return env.steps + self.episode.spec.n_action_steps >= env.scenario.arrival
        return env.monitor.passed > env.task.milestones.index(held_still)

    def judge(self, other: "SO101Env") -> None:
        """Read the answer where it has been given; ``other`` is the partner's environment."""
        from sigma.simulation.milestones import released_back, released_in_goal

        env = self.episode.env
        if env.task.cued:
            given = {"other": env.monitor.wrong_box, "own": released_in_goal(env.world, env.monitor)}
        else:
            given = {"other": released_back(env.world, other.monitor), "own": released_back(env.world, env.monitor)}
        if self.swapped:
            self.answer = "other" if given["other"] else "own" if given["own"] else "neither"
        self.over = self.episode.done or self.answer != "neither"


def exchange(controller: "SigmaController", pairs: Sequence[tuple[int, int]], spec: "EpisodeSpec") -> list[Answer]:
    """Play pairs of episodes; each gets what its partner remembers at its first decision that memory alone can make.

    An episode waits there for its partner. Where one ends before that moment, both count as ``neither``. Returns the
    answers in the order of the pairs.
    """
    from sigma.simulation.episode import Episode

    seeds = [seed for pair in pairs for seed in pair]
    partner = {seed: other for pair in pairs for seed, other in (pair, pair[::-1])}
    sides = {seed: _Side(Episode(seed, spec)) for seed in seeds}
    controller.reset(seeds)
    while True:
        for first, second in pairs:
            one, two = sides[first], sides[second]
            if not one.swapped and one.ready() and two.ready() and not (one.over or two.over):
                here, there = controller.episodes[first], controller.episodes[second]
                here.carried, there.carried = there.carried, here.carried
                one.swapped = two.swapped = True
        acting = [seed for seed, side in sides.items() if not side.over and (side.swapped or not side.ready())]
        if not acting:
            return [sides[seed].answer for seed in seeds]
        plans = controller.act([sides[seed].episode.observe() for seed in acting], acting)
        for seed, plan in zip(acting, plans, strict=True):
            sides[seed].episode.execute(plan)
            sides[seed].judge(sides[partner[seed]].episode.env)
