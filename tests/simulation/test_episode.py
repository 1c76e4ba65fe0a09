"""Plans and delays: which step of which plan is executed when, and that an episode can be played again."""

from types import SimpleNamespace

import numpy as np
import pytest

from sigma.shared.errors import SigmaError
from sigma.simulation.episode import Episode, EpisodeSpec, expert_episode, replay
from sigma.simulation.rollout import run_rollouts
from sigma.simulation.setting import Setting
from tests.simulation.plans import Planned, expert_plan


class Still:
    """Stands in for a world that does nothing: remembers the actions and lets time pass."""

    def __init__(self):
        self.steps, self.executed = 0, []
        self.world = SimpleNamespace(command=np.zeros(6), state=lambda: np.full(6, self.steps, np.float32))

    def begin(self, seed):
        pass

    def advance(self, action):
        self.steps += 1
        self.executed.append(float(action[0]))
        return False, False


def executed(delay: int, n: int, decisions: int = 4, stalled: bool = False) -> list[float]:
    """First joint of every executed action; step s of the plan from step t says 100 t + s, holding says its own."""
    env = Still()
    episode = Episode(0, EpisodeSpec("reach", n, Setting(delay=delay, stalled=stalled)), env=env)
    episode.hold = lambda: np.full(6, -1.0)
    for _ in range(decisions):
        now = env.steps
        episode.execute(np.repeat(100.0 * now + np.arange(12)[:, None], 6, axis=1))
    return env.executed


def test_without_delay_each_plan_is_executed_from_its_first_step():
    assert executed(0, 3) == [0, 1, 2, 300, 301, 302, 600, 601, 602, 900, 901, 902]


def test_a_stalled_robot_holds_while_each_plan_is_made_and_loses_the_plans_first_step():
    assert executed(0, 3, stalled=True) == [-1, 1, 2, -1, 301, 302, -1, 601, 602, -1, 901, 902]


def test_a_delayed_plan_takes_over_late_at_the_step_that_is_meant():
    # The plan of step 3 may act from step 5 on, by its own step 2; until then the plan before it goes on.
    assert executed(2, 3) == [-1, -1, 0, 1, 2, 302, 303, 304, 602, 603, 604, 902]


def test_a_delay_longer_than_the_executed_steps_keeps_several_plans_waiting():
    assert executed(5, 3) == [-1, -1, -1, -1, -1, 0, 1, 2, 305, 306, 307, 605]


def test_what_is_seen_has_the_states_of_every_control_step_so_far():
    env = Still()
    env.observe = lambda: {"state": env.world.state(), "task": "reach"}
    episode = Episode(0, EpisodeSpec("reach", 3, Setting(delay=1)), env=env)
    episode.hold = lambda: np.zeros(6)
    for decision in range(3):
        seen = episode.observe()
        assert seen["task"] == "reach" and seen["trace"].dtype == np.float32
        np.testing.assert_array_equal(seen["trace"][:, 0], np.arange(3 * decision + 1))
        np.testing.assert_array_equal(seen["trace"][-1], seen["state"])
        episode.execute(np.zeros((12, 6)))


SEED = 3
LIFT = EpisodeSpec("lift", 8, cameras=())


def test_delay_zero_equals_no_delay_to_the_bit():
    plans = {SEED: expert_plan("lift", SEED)}
    (first,) = run_rollouts(Planned(plans), [SEED], LIFT)
    (second,) = run_rollouts(Planned(plans), [SEED], EpisodeSpec("lift", 8, Setting(delay=0), cameras=()))
    assert first == second and np.array_equal(first.actions, second.actions)


def test_a_delayed_episode_begins_later_and_needs_longer_plans():
    plans = {SEED: expert_plan("lift", SEED)}
    spec = EpisodeSpec("lift", 8, Setting(delay=3), cameras=())
    (plain,) = run_rollouts(Planned(plans), [SEED], LIFT)
    (late,) = run_rollouts(Planned(plans), [SEED], spec)
    assert plain.success
    np.testing.assert_array_equal(late.actions[3:11], plain.actions[:8])
    np.testing.assert_array_equal(late.actions[11:19], plain.actions[11:19], "later plans know their age")
    assert np.ptp(late.actions[:3], axis=0).max() < 1e-3
    with pytest.raises(SigmaError, match=r"at least 11"):
        run_rollouts(Planned(plans, steps=10), [SEED], spec)


def test_the_experts_actions_come_late_by_the_delay():
    on_time, late = (expert_episode(SEED, EpisodeSpec("lift", setting=Setting(delay=delay))) for delay in (0, 4))
    assert on_time.success
    np.testing.assert_array_equal(late.actions[4:8], on_time.actions[:4])
    assert late.steps > on_time.steps


def test_a_policy_is_given_the_motion_of_its_own_episode():
    seeds = [SEED, SEED + 1]
    policy = Planned({seed: expert_plan("lift", seed) for seed in seeds})
    run_rollouts(policy, seeds, LIFT)
    both = [seen for seen in policy.seen if len(seen) == 2]
    assert len(both) >= 2
    for decision, seen in enumerate(both):
        assert [view["trace"].shape for view in seen] == [(8 * decision + 1, 6)] * 2
        for row, view in enumerate(seen):
            np.testing.assert_array_equal(view["trace"][-1], view["state"])
            np.testing.assert_array_equal(both[-1][row]["trace"][: 8 * decision + 1], view["trace"])
    first, second = (view["trace"] for view in both[-1])
    assert not np.array_equal(first, second) and np.ptp(first, axis=0).max() > 1


@pytest.mark.render
def test_a_replay_shows_what_was_played():
    spec = EpisodeSpec("reach", 8, size=48, max_steps=10)
    plan = expert_plan("reach", SEED)
    policy = Planned({SEED: plan})
    (result,) = run_rollouts(policy, [SEED], spec)
    views = replay(SEED, spec, result.actions)
    assert views["up"].shape == views["wrist"].shape == (result.steps + 1, 48, 48, 3)
    for decision, seen in enumerate(policy.seen):
        for camera, frames in views.items():
            np.testing.assert_array_equal(frames[8 * decision], seen[0]["images"][camera])
