import numpy as np
import pytest

from sigma.errors import SigmaError
from sigma.policy.limits import NonFiniteActionError
from sigma.simulation.env import MAX_STEP, SO101Env
from sigma.simulation.expert import demonstrate
from sigma.simulation.rollout import NON_FINITE, TIMEOUT, WRONG_BOX, run_rollouts
from sigma.simulation.scene import World, to_units
from sigma.simulation.tasks import TARGET, TASKS


class Planned:
    """A policy that plays a prepared row of actions for every episode, and remembers how it was called."""

    def __init__(self, plans: dict[int, np.ndarray], chunk: int = 12):
        self.plans, self.chunk, self.step, self.calls = plans, chunk, {}, []

    def reset(self, indices):
        self.step |= dict.fromkeys(indices, 0)

    def act(self, observations, indices):
        self.calls.append(list(indices))
        chunks = []
        for index in indices:
            plan = self.plans[index]
            rows = np.minimum(np.arange(self.chunk) + self.step[index], len(plan) - 1)
            self.step[index] += 8
            chunks.append(plan[rows])
        return np.stack(chunks)


def _plan(task: str, seed: int, instruction: str | None = None) -> np.ndarray:
    """The expert's actions for a rollout seed, found in another environment."""
    env = SO101Env(task, cameras=())
    env.begin(seed, instruction)
    actions = []
    for action, _ in demonstrate(env.world, task, env.scenario):
        env.advance(action)
        actions.append(action)
    return np.stack(actions)


def _goal(seed: int) -> str:
    env = SO101Env(TARGET, cameras=())
    env.begin(seed)
    return env.scenario.goal


SEEDS = [3, 4, 5]


@pytest.fixture(scope="module")
def plans() -> dict[int, np.ndarray]:
    return {index: _plan("lift", seed) for index, seed in enumerate(SEEDS)}


def test_batched_rollouts_equal_one_by_one(plans):
    together = run_rollouts(Planned(plans), "lift", SEEDS, 8, cameras=())
    apart = run_rollouts(Planned(plans), "lift", SEEDS, 8, batch=1, cameras=())
    assert together == apart
    assert all(result.success for result in together)


def test_one_policy_call_serves_every_running_episode(plans):
    policy = Planned(plans)
    results = run_rollouts(policy, "lift", SEEDS, 8, cameras=())
    assert policy.calls[0] == [0, 1, 2]
    assert len(policy.calls) == -(-max(result.steps for result in results) // 8)


def test_replaying_another_episode_fails():
    plan = _plan(TARGET, 100)
    results = run_rollouts(Planned(dict.fromkeys(range(10), plan)), TARGET, range(10), 8, cameras=())
    assert sum(result.success for result in results) <= 1
    assert {result.failure for result in results} <= {None, TIMEOUT, WRONG_BOX}


def test_wrong_box_is_told_from_a_time_limit():
    seed = next(seed for seed in range(20) if _goal(seed) == "red")
    plan = _plan(TARGET, seed, TASKS[TARGET].instructions[1])
    (result,) = run_rollouts(Planned({0: plan}), TARGET, [seed], 8, cameras=())
    assert (result.success, result.wrong_box, result.failure) == (False, True, WRONG_BOX)
    assert result.instruction == TASKS[TARGET].instructions[0]


def test_non_finite_action_ends_only_its_episode(plans):
    broken = plans | {1: np.where(np.arange(len(plans[1]))[:, None] > 4, np.nan, plans[1])}
    results = run_rollouts(Planned(broken), "lift", SEEDS, 8, cameras=())
    assert [result.failure for result in results] == [None, NON_FINITE, None]
    assert results[1].steps == 5


def test_chunks_of_another_shape_are_refused(plans):
    with pytest.raises(SigmaError, match=r"shape \(3, 5, 6\).*at least 8"):
        run_rollouts(Planned(plans, chunk=5), "lift", SEEDS, 8, cameras=())


def test_executed_actions_are_clamped():
    env = SO101Env("reach", cameras=())
    env.begin(0)
    before = to_units(env.world.command)
    env.advance(before + 1000)
    np.testing.assert_allclose(to_units(env.world.command), np.minimum(before + MAX_STEP, 100), atol=1e-3)
    with pytest.raises(NonFiniteActionError):
        env.advance(np.full(6, np.inf))


@pytest.mark.render
def test_environment_keeps_gymnasiums_contract():
    from gymnasium.utils.env_checker import check_env

    check_env(SO101Env(render_mode="rgb_array"), skip_render_check=True)


@pytest.mark.render
def test_same_seed_gives_the_same_first_observation():
    first, second = SO101Env(), SO101Env()
    a, _ = first.reset(seed=9)
    second.reset(seed=8)
    b, _ = second.reset(seed=9)
    assert a["task"] == b["task"] and np.array_equal(a["state"], b["state"])
    assert all(np.array_equal(a["images"][camera], b["images"][camera]) for camera in ("up", "wrist"))


@pytest.mark.render
def test_frames_are_kept_for_the_named_cameras(plans):
    (result,) = run_rollouts(Planned({0: plans[0]}), "lift", SEEDS[:1], 8, cameras=(), size=48, record=("up",))
    assert result.frames["up"].shape == (result.steps, 48, 48, 3)


def test_physics_alone_needs_no_renderer(monkeypatch):
    def refuse(*_):
        raise AssertionError("rendered")

    monkeypatch.setattr(World, "render", refuse)
    env = SO101Env("reach")
    env.begin(0)
    env.advance(env.world.state())
