"""LeRobot's real-time chunking of Sigma: guided as π0.5 is, joined without a jump, and clocked by control steps."""

import numpy as np
import pytest
import torch
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.rollout.inference import RTCInferenceConfig
from lerobot.rollout.inference.rtc import supports_rtc_inference

from sigma.policy.pi05.small.modeling_pi05_small import PI05SmallPolicy
from sigma.shared.errors import SigmaError
from tests.lerobot_policies import lerobot_batch, views, write_policy
from tests.mockarm import roll_out
from tests.policy.lerobot.test_lerobot_policy import load

HORIZON, DELAY = 8, 2


@pytest.fixture(scope="module")
def folders(trained, tmp_path_factory):
    """The trained Sigma with and without a clamp; read only."""
    root = tmp_path_factory.mktemp("policies")
    return write_policy(trained, root / "free"), write_policy(trained, root / "clamped", clamp=True)


def chunked(folder, *overrides: str):
    policy, before, after = load(folder, *overrides)
    assert supports_rtc_inference(policy)
    policy.config.rtc_config = RTCConfig(execution_horizon=6)
    policy.init_rtc_processor()
    return policy, before, after


def robot(world, before, step: int) -> dict:
    return before(lerobot_batch(views(world, step)[:1]))


def test_at_scale_zero_a_guided_plan_is_that_of_pi05_on_the_same_noise(trained, folders):
    policy, before, _ = chunked(folders[0], "--adapter.max_scale=0")
    plain = PI05SmallPolicy.from_pretrained(trained.root / "base")
    plain.config.rtc_config = RTCConfig(execution_horizon=6)
    plain.init_rtc_processor()
    noise = torch.randn(2, 1, 16, 6, generator=torch.Generator().manual_seed(4))
    normalisation, lasts = policy.vla.normalisation.action, None
    for call, delay in enumerate((0, DELAY)):
        batch = robot(trained, before, 3 * call)
        left = None if lasts is None else lasts[3:]
        plan = policy.predict_action_chunk(batch, noise=noise[call], inference_delay=delay, prev_chunk_left_over=left)[
            0
        ]
        prompt = policy.vla.builder.base.prompter(
            batch["task"], policy.vla.normalisation.state.normalise(batch["observation.state"].numpy())
        )
        words = {"observation.language.tokens": prompt.tokens, "observation.language.attention_mask": prompt.mask}
        normalised = None if left is None else normalisation.normalise(left)
        own = plain.predict_action_chunk(
            batch | words, noise=noise[call], inference_delay=delay, prev_chunk_left_over=normalised
        )
        start = delay if left is not None else 0  # before that the last plan is executed
        torch.testing.assert_close(plan[start:], normalisation.unnormalise(own[0, start:HORIZON]), rtol=1e-5, atol=1e-4)
        lasts = plan
    free, before, _ = load(folders[0], "--adapter.max_scale=0")
    seen = views(trained, 3)[:1]
    unguided = free.predict_action_chunk(before(lerobot_batch(seen)), noise=noise[1])[0]
    assert not torch.allclose(unguided[DELAY:], lasts[DELAY:], atol=1e-2), "nothing was guided"


def test_sigmas_own_flow_is_guided_and_goes_on_from_what_is_executed(trained, folders):
    policy, before, _ = chunked(folders[1], "--adapter.min_scale=1")
    step = np.array(policy.config.max_step) + 1e-4
    first = policy.predict_action_chunk(robot(trained, before, 0))[0].numpy()
    state = views(trained, 0)[0]["state"]
    assert (np.abs(first - state) <= step).all(), "LeRobot may begin with any row of an episode's first plan"
    assert (np.abs(np.diff(first, axis=0)) <= step).all()
    left = torch.from_numpy(first[3:])
    second = policy.predict_action_chunk(robot(trained, before, 3), inference_delay=DELAY, prev_chunk_left_over=left)[0]
    np.testing.assert_array_equal(second[:DELAY], left[:DELAY])
    assert (np.abs(np.diff(second.numpy(), axis=0)) <= step).all()


def test_memory_and_trace_count_the_control_steps_between_two_plans(trained, folders, monkeypatch):
    policy, before, _ = chunked(folders[0])
    traces, plain = [], policy.controller.act
    monkeypatch.setattr(
        policy.controller,
        "act",
        lambda seen, *rest, **more: traces.append(seen[0]["trace"]) or plain(seen, *rest, **more),
    )
    plan = policy.predict_action_chunk(robot(trained, before, 0))[0]
    for step, padding in ((3, 0), (5, 5), (5, 0)):
        left = plan[3 if step == 3 else 2 if padding else 0 :]
        left = torch.cat([left, torch.zeros(padding, 6)])
        plan = policy.predict_action_chunk(robot(trained, before, step), inference_delay=1, prev_chunk_left_over=left)[
            0
        ]
        assert policy.controller.episodes[0].step - policy.controller.n_action_steps == step
    # The gate compares plans where they overlap, and joints with the command that really led there.
    gated = policy.controller.gate.robots[0]
    assert [judged.step for judged in gated.judgements] == [0, 3, 5, 5]
    states = [views(trained, step)[0]["state"] for step in (0, 3, 5)]
    expected = [states[0] + (states[1] - states[0]) * 2 / 3, states[1], (states[1] + states[2]) / 2, states[2]]
    np.testing.assert_allclose(traces[-1], expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(traces[0], [states[0]] * 4)
    # Everything was executed while the plan was made.
    plan = policy.predict_action_chunk(robot(trained, before, 13), prev_chunk_left_over=torch.zeros(6, 6))[0]
    assert policy.controller.episodes[0].next_read == 16, "memory reads every four control steps"
    with pytest.raises(SigmaError, match="prev_chunk_left_over: found rows that are not of the last plan"):
        policy.predict_action_chunk(robot(trained, before, 14), prev_chunk_left_over=plan + 1)
    policy.reset()
    policy.predict_action_chunk(robot(trained, before, 0))


@pytest.mark.parametrize(("left", "delay"), [(3, 5), (0, 4), (0, HORIZON + 2)])
def test_where_a_plan_ran_out_before_the_next_was_made_no_row_is_more_than_a_step_away(trained, folders, left, delay):
    policy, before, _ = chunked(folders[1], "--adapter.min_scale=1")
    step = np.array(policy.config.max_step) + 1e-4
    first = policy.predict_action_chunk(robot(trained, before, 0))[0]
    rest = torch.cat([first[HORIZON - left :], torch.zeros(6 - left, 6)])
    second = policy.predict_action_chunk(robot(trained, before, 3), inference_delay=delay, prev_chunk_left_over=rest)
    second, stands = second[0].numpy(), first[-1].numpy()
    np.testing.assert_array_equal(second[:left], first[HORIZON - left :])
    # LeRobot begins with one of these, once the robot stands where the last plan has led it.
    assert (np.abs(second[left : delay + 1] - stands) <= step).all()
    assert (np.abs(np.diff(second, axis=0)) <= step).all()


def test_a_plan_that_could_not_be_made_is_not_counted_and_one_that_is_not_finite_ends_the_run(
    trained, folders, monkeypatch
):
    policy, before, _ = chunked(folders[1])
    plan = policy.predict_action_chunk(robot(trained, before, 0))[0]
    rest = torch.cat([plan[3:], torch.zeros(1, 6)])
    with pytest.raises(SigmaError, match="is missing"):
        seen = robot(trained, before, 3)
        policy.predict_action_chunk({key: seen[key] for key in seen if "up" not in key}, prev_chunk_left_over=rest)
    plan = policy.predict_action_chunk(
        robot(trained, before, 5), prev_chunk_left_over=torch.cat([plan[5:], rest[:3] * 0])
    )
    assert policy.controller.episodes[0].step - policy.controller.n_action_steps == 5
    act = policy.controller.act
    monkeypatch.setattr(policy.controller, "act", lambda *given, **more: act(*given, **more) * np.nan)
    for _ in range(2):
        with pytest.raises(SigmaError, match="not finite"):
            policy.predict_action_chunk(robot(trained, before, 6), prev_chunk_left_over=plan[0, 1:])
        monkeypatch.setattr(policy.controller, "act", act)


def test_lerobot_rollout_runs_it_on_a_robot(folders, tmp_path):
    arm = roll_out(folders[1], tmp_path, duration=3.0, inference=RTCInferenceConfig())
    assert len(arm.sent) > HORIZON, "no second plan was executed"
    with pytest.raises(SigmaError, match=r"--inference\.rtc\.enabled: found false; legal: true"):
        roll_out(folders[1], tmp_path, inference=RTCInferenceConfig(rtc=RTCConfig(enabled=False)))
