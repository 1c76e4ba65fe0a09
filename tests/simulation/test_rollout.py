"""The closed loop: batches, rows and processes change no episode."""

import numpy as np
import pytest

from sigma.policy.control.controller import BaseController
from sigma.shared.errors import SigmaError
from sigma.simulation.env import SO101Env
from sigma.simulation.episode import EpisodeSpec
from sigma.simulation.failures import NON_FINITE, WRONG_BOX
from sigma.simulation.parallel import EpisodePool
from sigma.simulation.rollout import FixedRows, run_expert, run_rollouts
from sigma.simulation.tasks import TARGET, TASKS
from tests.bases import load_tiny_base
from tests.simulation.plans import Planned, expert_plan

SEEDS = [3, 4, 5]
LIFT = EpisodeSpec("lift", 8, cameras=())
PICK = EpisodeSpec(TARGET, 8, cameras=())


@pytest.fixture(scope="module")
def plans() -> dict[int, np.ndarray]:
    return {seed: expert_plan("lift", seed) for seed in SEEDS}


def same_actions(first, second) -> bool:
    return all(np.array_equal(a.actions, b.actions) for a, b in zip(first, second, strict=True))


def test_batched_rollouts_equal_one_by_one(plans):
    together = run_rollouts(Planned(plans), SEEDS, LIFT)
    apart = run_rollouts(Planned(plans), SEEDS, LIFT, batch=1)
    assert together == apart and same_actions(together, apart)
    assert all(result.success for result in together)
    assert [result.seed for result in together] == SEEDS


def test_processes_change_no_result(plans):
    alone = run_rollouts(Planned(plans), SEEDS, LIFT)
    with EpisodePool(2) as crew:
        spread = run_rollouts(Planned(plans), SEEDS, LIFT, crew=crew)
        experts = run_expert(SEEDS, LIFT, crew=crew)
    assert spread == alone and same_actions(spread, alone)
    assert experts == run_expert(SEEDS, LIFT)


def test_one_policy_call_serves_every_running_episode(plans):
    policy = Planned(plans)
    results = run_rollouts(policy, SEEDS, LIFT)
    assert policy.calls[0] == SEEDS
    assert len(policy.calls) == -(-max(result.steps for result in results) // 8)
    assert [result.decisions for result in results] == [-(-result.steps // 8) for result in results]


def test_replaying_another_episode_fails():
    plan = expert_plan(TARGET, 100)
    results = run_rollouts(Planned(dict.fromkeys(range(10), plan)), range(10), PICK)
    assert sum(result.success for result in results) <= 1


def test_the_wrong_box_is_recorded():
    env = SO101Env(TARGET, cameras=())

    def goal(seed: int) -> str:
        env.begin(seed)
        return env.scenario.goal

    seed = next(seed for seed in range(20) if goal(seed) == "red")
    plan = expert_plan(TARGET, seed, TASKS[TARGET].instructions[1].canonical)
    (result,) = run_rollouts(Planned({seed: plan}), [seed], PICK)
    assert (result.success, result.wrong_box, result.failure) == (False, True, WRONG_BOX)
    assert result.instruction in TASKS[TARGET].instructions[0].wordings


def test_non_finite_action_ends_only_its_episode(plans):
    broken = plans | {4: np.where(np.arange(len(plans[4]))[:, None] > 4, np.nan, plans[4])}
    results = run_rollouts(Planned(broken), SEEDS, LIFT)
    assert [result.failure for result in results] == [None, NON_FINITE, None]
    assert results[1].steps == 5 == len(results[1].actions)


@pytest.mark.parametrize("shape", [(3, 5, 6), (3, 8, 5), (2, 8, 6), (3, 6)])
def test_plans_of_another_shape_are_refused(shape):
    class Misshapen(Planned):
        def act(self, observations, indices):
            return np.zeros(shape)

    with pytest.raises(SigmaError, match=r"legal: \(3, at least 8, 6\)"):
        run_rollouts(Misshapen({}), SEEDS, LIFT)


def test_fixed_rows_keep_every_episode_in_its_own_row():
    class Rows(Planned):
        def act(self, observations, indices):
            self.calls.append(list(indices))
            return np.array([[[float(view["state"][0])]] for view in observations])

    inner = Rows({})
    policy = FixedRows(inner, 3)
    policy.reset([7, 8])
    views = [{"state": np.array([value])} for value in (70.0, 80.0)]
    assert policy.act(views, [7, 8]).ravel().tolist() == [70, 80]
    assert policy.act(views[1:], [8]).ravel().tolist() == [80]
    assert [calls[1] for calls in inner.calls] == [8, 8] and all(len(calls) == 3 for calls in inner.calls)
    assert inner.calls[1][0] < 0 and inner.calls[1][2] < 0
    with pytest.raises(ValueError, match="4 episodes do not fit into 3 rows"):
        policy.reset([1, 2, 3, 4])


@pytest.mark.render
def test_an_episode_does_not_depend_on_which_others_run(tmp_path):
    """With a real network, to the bit: other seeds beside it, others that end sooner, and processes."""
    base = load_tiny_base(tmp_path / "base")
    spec = EpisodeSpec("reach", 4, max_steps=12, size=32)

    def play(seeds, crew=None):
        controller = BaseController(base, n_action_steps=4, decoding="sample")
        return run_rollouts(FixedRows(controller, 4), seeds, spec, batch=4, crew=crew)

    (alone,) = play([5])
    beside = play([5, 6, 7, 8])
    assert np.array_equal(alone.actions, beside[0].actions)
    assert not np.array_equal(beside[0].actions, beside[1].actions)
    with EpisodePool(2) as crew:
        assert same_actions(play([5, 6, 7, 8], crew), beside)


def test_a_process_that_dies_is_one_line(plans):
    import os

    class Dying(Planned):
        def act(self, observations, indices):
            for pool in crew._pools:
                for process in list(pool._processes):
                    os.kill(process, 9)
            return super().act(observations, indices)

    with EpisodePool(2) as crew, pytest.raises(SigmaError, match="process that simulates has died"):
        run_rollouts(Dying(plans), SEEDS, LIFT, crew=crew)
