"""Closed-loop control: the memory of training, and the base to the bit where Sigma may not act."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from sigma.evaluation.predictions import stored_measures
from sigma.evaluation.replay.sigma_replay import replay_windows
from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
from sigma.policy.control.controller import BaseController
from sigma.policy.control.sigma_controller import SigmaController
from sigma.policy.pi05.base_replay import replay_base
from sigma.shared.errors import SigmaError
from sigma.training.batches import WindowBatches
from tests.worlds import World

STRIDE = 4


def calibration(world: World):
    return world.root / "models/adapter_calibration.json"


def controller(
    world: World, *, vla=None, n_action_steps: int = STRIDE, memory: bool = True, **bounds
) -> SigmaController:
    return SigmaController(
        vla or world.vla(),
        adapter=SigmaTelepathyAdapter(**bounds),
        calibration=calibration(world),
        n_action_steps=n_action_steps,
        memory=memory,
    )


def base_controller(world: World) -> BaseController:
    return BaseController(world.base(), n_action_steps=STRIDE)


def observations(world: World, episode: int, step: int) -> dict:
    """What a robot would give at this recorded step, with every state since the episode began.

    Where no frame is stored of the step, its images are those of the last one before.
    """
    shards = world.shards
    row = np.flatnonzero((shards.frame_episode == episode) & (shards.frame_step <= step))[-1]
    pictures = shards.images(np.array([row]))[0].permute(0, 2, 3, 1).numpy()
    trace = world.states(episode, step)
    return {
        "images": dict(zip(shards.meta["cameras"], pictures, strict=True)),
        "state": trace[-1],
        "task": shards.tasks[shards.frame_task[row]],
        "trace": trace,
    }


def test_episode(world: World) -> int:
    return world.shards.meta["splits"]["test"][0]


test_episode.__test__ = False


def batches_of_single_passes(world: World) -> WindowBatches:
    """The inputs with cached features that come from passes of one frame, as a robot makes them: equal to the bit."""
    batches = world.material()
    parameters = world.configure().base
    replayed = replay_base(batches.base, batches.shards, batches.builder.normalisation, parameters, batch=1)
    batches.pooled, batches.frame_views = replayed.pooled, replayed.views
    return batches


def counted(live: SigmaController, monkeypatch) -> list[str]:
    """The passes that the model makes from now on, by name."""
    passes: list[str] = []

    def counting(name: str, plain: Callable) -> Callable:
        return lambda *given: passes.append(name) or plain(*given)

    for name in ("frozen_pass", "adapted_pass"):
        monkeypatch.setattr(live.vla.model, name, counting(name, getattr(live.vla.model, name)))
    return passes


@torch.no_grad()
@pytest.mark.parametrize("n_action_steps", [4, 2])
def test_decisions_one_by_one_equal_those_of_the_whole_episode_at_once(trained, n_action_steps):
    batches, vla = batches_of_single_passes(trained), trained.vla()
    live, shards = controller(trained, vla=vla, n_action_steps=n_action_steps, min_scale=1.0), batches.shards
    episode = shards.meta["splits"]["train"][0]
    windows = np.flatnonzero(shards.window_episode == episode)
    steps = shards.window_step[windows]
    assert steps.tolist() == list(range(0, steps[-1] + 1, STRIDE)) and len(steps) >= 7
    observation, past = batches.observation(windows)
    assert len(past.views) == 1, "one unroll serves the whole episode"
    expected = vla.propose(observation, past, [("any",)] * len(windows))
    memory = vla.model.heads.path.recall(past, observation.text)
    live.reset([7])
    for step in range(0, steps[-1] + 1, n_action_steps):
        acted = live.act([observations(trained, episode, step)], [7])[0]
        if step in steps:
            row = int(np.flatnonzero(steps == step)[0])
            plan = vla.to_robot(expected.action[row]).numpy()
            np.testing.assert_allclose(acted, plan, rtol=1e-4, atol=1e-3, err_msg=str(step))
        carried, later = live.episodes[7].carried, np.flatnonzero(steps > step)
        if len(later):  # all that was read so far is what the next recorded decision has before it
            for name, batched in vars(memory).items():
                torch.testing.assert_close(getattr(carried, name), batched[later[:1]], rtol=0, atol=1e-5)


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
def test_cleared_memory_makes_every_decision_an_episodes_first(trained):
    live, fresh = controller(trained, min_scale=1.0, memory=False), controller(trained, min_scale=1.0)
    live.reset([0])
    for step in (0, 4, 8):
        seen = observations(trained, test_episode(trained), step)
        fresh.reset([0])
        np.testing.assert_array_equal(live.act([seen], [0]), fresh.act([seen], [0]))


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
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_bounds_that_leave_no_choice_need_no_calibration_and_no_more_passes_than_they_execute(
    trained, monkeypatch, scale
):
    vla, seen = trained.vla(), observations(trained, test_episode(trained), 0)
    live = SigmaController(vla, adapter=SigmaTelepathyAdapter(scale, scale), calibration=None, n_action_steps=STRIDE)
    passes = counted(live, monkeypatch)
    live.reset([0])
    plan = live.act([seen], [0])
    assert passes == ["frozen_pass"] * (scale < 1) + ["adapted_pass"] * (scale > 0)
    images = np.stack(list(seen["images"].values()))[None, None]
    out = vla(
        vis_obs=torch.from_numpy(images).permute(0, 1, 2, 5, 3, 4).float() / 255,
        robot_state=torch.from_numpy(seen["state"])[None, None],
        texts=[seen["task"]],
    )
    expected = out["base_action_trajectory"] + scale * out["telepathy_residual_trajectory"]
    np.testing.assert_allclose(plan, vla.to_robot(expected).numpy(), rtol=1e-5, atol=1e-4)
    if scale == 0:
        np.testing.assert_array_equal(plan, vla.to_robot(out["base_action_trajectory"]).numpy())


def test_an_adapter_that_chooses_its_scale_needs_a_calibration(trained):
    with pytest.raises(SigmaError, match="needs the calibration that evaluate wrote"):
        SigmaController(trained.vla(), adapter=SigmaTelepathyAdapter(), calibration=None, n_action_steps=STRIDE)


@torch.no_grad()
def test_the_gate_measures_what_was_measured_offline(trained):
    """Of a decision that was replayed: the same scores, so the same scale and the same plan."""
    batches, live = batches_of_single_passes(trained), controller(trained)
    shards, episode = batches.shards, test_episode(trained)
    rows = np.arange(len(shards.window_step))
    columns = replay_windows(live.vla.model, batches, rows, 1, "replay").columns
    (row,) = np.flatnonzero((shards.window_episode == episode) & (shards.window_step == 8))
    measures = {term: score[row : row + 1] for term, score in stored_measures(columns).items()}
    live.reset([0])
    for step in (0, 4, 8):
        live.act([observations(trained, episode, step)], [0])
    judged = live.gate.robots[0].judgements[-1]
    for term, expected in live.adapter.surprises(measures).items():
        # Where the last command led, and whether the last plan still holds, is another matter in a recording.
        if term not in ("tracking", "agreement"):
            assert judged.surprises[term] == pytest.approx(float(expected[0]), rel=1e-3, abs=1e-3), term


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
def test_robots_whose_episodes_began_at_other_times_keep_their_own_clock(trained):
    episodes = trained.shards.meta["splits"]["test"]
    together = controller(trained, n_action_steps=2, min_scale=1.0)
    alone = controller(trained, vla=together.vla, n_action_steps=2, min_scale=1.0)
    together.reset([0, 1])
    together.act([observations(trained, episode, 0) for episode in episodes], [0, 1])
    together.reset([1])
    alone.reset([1])
    for step in (0, 2, 4, 6, 8):
        seen = [observations(trained, episodes[0], step + 2), observations(trained, episodes[1], step)]
        both, one = together.act(seen, [0, 1]), alone.act(seen[1:], [1])
        np.testing.assert_allclose(both[1], one[0], rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_scale_zero_executes_the_bases_own_actions_to_the_bit(trained):
    episode = test_episode(trained)
    shut = controller(trained, min_scale=0.0, max_scale=0.0)
    full = controller(trained, min_scale=1.0, max_scale=1.0)
    controllers = [base_controller(trained), shut, full]
    for one in controllers:
        one.reset([0])
    for step in (0, 4, 8):
        expected, closed, sigma = (one.act([observations(trained, episode, step)], [0]) for one in controllers)
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
