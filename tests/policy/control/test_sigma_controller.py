"""Closed-loop control: the memory of training to the bit, and the base to the bit where Sigma may not speak."""

import numpy as np
import pytest
import torch

from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
from sigma.policy.control.controller import BaseController
from sigma.policy.control.robot_observation import live_observation
from sigma.policy.control.sigma_controller import SigmaController
from sigma.policy.pi05.base_replay import replay_base
from sigma.shared.errors import SigmaError
from tests.worlds import World

STRIDE = 4


def calibration(world: World):
    return world.root / "models/adapter_calibration.json"


def controller(world: World, *, vla=None, n_action_steps: int = STRIDE, **bounds) -> SigmaController:
    adapter = SigmaTelepathyAdapter(**bounds)
    return SigmaController(
        vla or world.vla(), adapter=adapter, calibration=calibration(world), n_action_steps=n_action_steps
    )


def base_controller(world: World) -> BaseController:
    return BaseController(world.base(), n_action_steps=STRIDE)


def observations(world: World, episode: int, step: int) -> dict:
    """What a robot would give at this recorded step, with every state since the episode began."""
    shards = world.shards
    (row,) = np.flatnonzero((shards.frame_episode == episode) & (shards.frame_step == step))
    pictures = shards.images(np.array([row]))[0].permute(0, 2, 3, 1).numpy()
    return {
        "images": dict(zip(shards.meta["cameras"], pictures, strict=True)),
        "state": shards.frame_state[row],
        "task": shards.tasks[shards.frame_task[row]],
        "trace": world.states(episode, step),
    }


def test_episode(world: World) -> int:
    return world.shards.meta["splits"]["test"][0]


test_episode.__test__ = False


def material_of_single_passes(world: World):
    """WindowBatches whose cached features come from passes of one frame, as a robot makes them: equal to the bit."""
    material = world.material()
    parameters = world.configure().base
    replayed = replay_base(material.base, material.shards, material.builder.normalisation, parameters, batch=1)
    material.pooled = replayed.pooled
    return material


@torch.no_grad()
def test_streaming_decisions_equal_those_of_stored_windows_to_the_bit(trained):
    material, vla = material_of_single_passes(trained), trained.vla()
    live = controller(trained, vla=vla, min_scale=1.0, max_scale=1.0)
    shards, episode = material.shards, test_episode(trained)
    live.reset([7])
    compared = 0
    for step in range(0, 17, STRIDE):
        acted = live.act([observations(trained, episode, step)], [7])[0]
        window = np.flatnonzero((shards.window_episode == episode) & (shards.window_step == step))
        if not len(window):
            continue
        observation = material.observation(window)
        output = vla.decide(observation, [("any",)])
        plan = output["base_action_trajectory"] + output["telepathy_residual_trajectory"]
        plan[:, :4] = output["base_action_chunk"] + output["telepathy_residual_chunk"]
        plan[:, 0] = output["base_action_vector"] + output["telepathy_residual_vector"]
        np.testing.assert_array_equal(acted, vla.to_robot(plan[0]).numpy())
        assert int(observation.present.sum()) == min(2, step // STRIDE)
        assert observation.motion.any() == (step > 0)
        compared += 1
    assert compared == 3


@torch.no_grad()
def test_forgetting_changes_the_decision_and_a_reset_forgets(trained):
    live = controller(trained, min_scale=1.0, max_scale=1.0)
    episode = test_episode(trained)
    live.reset([0])
    for step in (0, 4, 8):
        remembered = live.act([observations(trained, episode, step)], [0])
    live.reset([0])
    forgotten = live.act([observations(trained, episode, 8)], [0])
    assert not np.array_equal(remembered, forgotten)
    fresh = controller(trained, min_scale=1.0, max_scale=1.0)
    fresh.reset([0])
    np.testing.assert_array_equal(fresh.act([observations(trained, episode, 8)], [0]), forgotten)


@torch.no_grad()
def test_the_latest_states_are_read_as_motion_and_a_view_without_them_is_refused(trained):
    live, seen = controller(trained, min_scale=1.0, max_scale=1.0), observations(trained, test_episode(trained), 8)

    def acted(**changes):
        live.reset([0])
        return live.act([seen | changes], [0])

    whole = acted()
    # Three states before the present one are what this model reads; a fourth says nothing.
    np.testing.assert_array_equal(acted(trace=seen["trace"][-4:]), whole)
    assert not np.array_equal(acted(trace=seen["trace"][-3:]), whole)
    moved = seen["trace"].copy()
    moved[-4] += 5.0
    assert not np.array_equal(acted(trace=moved), whole)
    words = "give trace, states whose last one is the state"
    with pytest.raises(SigmaError, match=words):
        acted(trace=seen["trace"][:-1])
    for empty in (None, seen["trace"][:0]):
        with pytest.raises(SigmaError, match=words):
            acted(trace=empty)
    base = base_controller(trained)
    base.reset([0])
    base.act([{name: value for name, value in seen.items() if name != "trace"}], [0])


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_without_the_residual_heads_the_policy_that_they_correct_acts_alone(each_branch, scale):
    vla, bounds = each_branch.vla(), {"min_scale": scale, "max_scale": scale}
    alone = SigmaController(
        vla,
        adapter=SigmaTelepathyAdapter(**bounds),
        calibration=calibration(each_branch),
        n_action_steps=STRIDE,
        heads=False,
    )
    whole, base = controller(each_branch, vla=vla, **bounds), base_controller(each_branch)
    adapted, seen = vla.config["branch"] == "adapted", observations(each_branch, test_episode(each_branch), 0)
    plans = []
    for one in (alone, whole, base):
        one.reset([0])
        plans.append(one.act([seen], [0])[:, : alone.horizon])
    observation = live_observation(vla.builder, [seen], *vla.empty_past(1), vla.config["sizes"]["trace"])
    output = vla.decide(observation, [("live", 0, 0)])
    frozen, corrected = output["base_action_trajectory"], output["corrected_action_trajectory"]
    expected = vla.to_robot(frozen + scale * (corrected - frozen)).numpy()
    np.testing.assert_allclose(plans[0], expected, rtol=1e-4, atol=1e-3)
    assert not np.array_equal(plans[0], plans[1])
    assert np.array_equal(plans[0], plans[2]) is not adapted
    assert torch.equal(frozen, corrected) is not adapted


@torch.no_grad()
def test_robots_in_one_batch_do_not_share_a_memory(trained):
    episodes = trained.shards.meta["splits"]["test"]
    together = controller(trained, min_scale=1.0, max_scale=1.0)
    together.reset([3, 5])
    alone = controller(trained, vla=together.vla, min_scale=1.0, max_scale=1.0)
    alone.reset([5])
    for step in (0, 4, 8):
        both = together.act([observations(trained, episode, step) for episode in episodes], [3, 5])
        one = alone.act([observations(trained, episodes[1], step)], [5])
        np.testing.assert_allclose(both[1], one[0], rtol=1e-4, atol=1e-3)
    assert not np.allclose(both[0], both[1], atol=1e-2)


@torch.no_grad()
def test_the_memory_holds_no_more_than_a_decision_can_read(trained):
    live = controller(trained, n_action_steps=2)
    live.reset([0])
    for _ in range(9):
        live.act([observations(trained, test_episode(trained), 0)], [0])
        assert len(live.episodes[0].features) <= 8 // 2
    assert min(live.episodes[0].features) == 18 - 8


@torch.no_grad()
def test_scale_zero_executes_the_bases_own_actions_to_the_bit(each_branch):
    episode = test_episode(each_branch)
    shut = controller(each_branch, min_scale=0.0, max_scale=0.0)
    full = controller(each_branch, min_scale=1.0, max_scale=1.0)
    controllers = [base_controller(each_branch), shut, full]
    for one in controllers:
        one.reset([0])
    for step in (0, 4, 8):
        expected, closed, sigma = (one.act([observations(each_branch, episode, step)], [0]) for one in controllers)
        np.testing.assert_array_equal(closed, expected[:, : closed.shape[1]])
        assert not np.array_equal(sigma, closed)


def test_what_cannot_be_run_is_refused(trained):
    vla = trained.vla()
    for steps in (0, 3, 16):
        with pytest.raises(SigmaError, match="n_action_steps"):
            controller(trained, vla=vla, n_action_steps=steps)
    live = controller(trained, vla=vla)
    live.reset([0])
    blind = observations(trained, test_episode(trained), 0)
    del blind["images"]["observation.images.wrist"]
    with pytest.raises(SigmaError, match=r"needs the camera observation\.images\.wrist"):
        live.act([blind], [0])


@torch.no_grad()
def test_cameras_may_go_by_their_short_names(trained):
    live = base_controller(trained)
    live.reset([0, 1])
    full = observations(trained, test_episode(trained), 0)
    short = full | {"images": {name.rsplit(".", 1)[1]: picture for name, picture in full["images"].items()}}
    actions = live.act([full, short], [0, 1])
    np.testing.assert_array_equal(actions[0], actions[1])


def test_the_callers_adapter_is_left_as_it_was(trained):
    adapter = SigmaTelepathyAdapter()
    live = SigmaController(trained.vla(), adapter=adapter, calibration=calibration(trained), n_action_steps=STRIDE)
    assert adapter.calibration is None and live.adapter.calibration is not None
