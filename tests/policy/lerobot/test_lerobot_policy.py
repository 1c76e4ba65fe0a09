"""Sigma behind LeRobot's interface: the same decisions as the project's own controller, to the bit."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors
from lerobot.rollout.inference.sync import SyncInferenceEngine
from safetensors.torch import load_file, save_file

from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
from sigma.policy.control.controller import BaseController
from sigma.policy.control.sigma_controller import SigmaController
from sigma.policy.lerobot.configuration_sigma import PolicyError, SigmaConfig
from sigma.policy.lerobot.modeling_sigma import SigmaPolicy
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_folder, read_json
from sigma.studies.study.cells.workspace import Workspace
from sigma.studies.study.play.players import Player, load_player, read_base
from tests.bases import CAMERAS, write_tiny_base
from tests.lerobot_policies import lerobot_batch, views, write_policy
from tests.worlds import inside

STEPS = 4  # control steps a decision


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """The trained Sigma as a policy folder; read only."""
    return write_policy(trained, tmp_path_factory.mktemp("policies") / "sigma")


def load(folder, *overrides: str):
    """Policy and processors as LeRobot's factory makes them, with these command-line overrides."""
    config = PreTrainedConfig.from_pretrained(folder, cli_overrides=list(overrides))
    config.pretrained_path = folder
    policy = get_policy_class(config.type).from_pretrained(folder, config=config)
    before, after = make_pre_post_processors(
        config,
        pretrained_path=str(folder),
        preprocessor_overrides={
            "device_processor": {"device": "cpu"},
            "rename_observations_processor": {"rename_map": {}},
        },
    )
    return policy, before, after


def controller(world, **bounds) -> SigmaController:
    calibration = world.root / "models/adapter_calibration.json"
    return SigmaController(
        world.vla(), adapter=SigmaTelepathyAdapter(**bounds), calibration=calibration, n_action_steps=STEPS
    )


def plans_of(one, world, steps=(0,)) -> list[np.ndarray]:
    one.reset([0, 1])
    return [one.act(views(world, step), [0, 1]) for step in steps]


def test_the_factory_finds_policy_and_processor_by_the_registered_type():
    assert isinstance(make_policy_config("sigma", device="cpu"), SigmaConfig)
    assert get_policy_class("sigma") is SigmaPolicy


def test_the_first_chunk_is_the_controllers_to_the_bit(trained, folder):
    policy, before, after = load(folder)
    chunk = after(policy.predict_action_chunk(before(lerobot_batch(views(trained, 0)))))
    (expected,) = plans_of(controller(trained), trained)
    assert chunk.shape == (2, 8, 6)
    np.testing.assert_array_equal(chunk.numpy(), expected)
    (base,) = plans_of(BaseController(trained.base(), n_action_steps=STEPS), trained)
    assert not np.array_equal(chunk.numpy(), base[:, :8]), "the adapter is shut: this compares nothing of Sigma"


def test_a_camera_that_the_windows_leave_out_is_asked_of_nobody(prepared, tmp_path):
    world = prepared.copy(tmp_path / "world")
    (world.root / "data/dataset").symlink_to(prepared.root / "data/dataset")
    changes = {"window": {"cameras": {CAMERAS[1]: None}}, "train": {"steps": 1}}
    world.run("window", "baseline", "finetune", "evaluate", changes=changes)
    config = read_json(world.root / "models/sigma/config.json")
    assert config["cameras"] == [CAMERAS[0]] and config["sizes"]["pools"] == 3
    policy, before, after = load(write_policy(world, tmp_path / "policy"))
    seen = views(world, 0)
    assert list(seen[0]["images"]) == [CAMERAS[0]]
    chunk = after(policy.predict_action_chunk(before(lerobot_batch(seen))))
    (expected,) = plans_of(controller(world), world)
    np.testing.assert_array_equal(chunk.numpy(), expected)
    # Training, calibration and the frozen base in closed loop read no more either.
    assert world.material().base.cameras == (CAMERAS[0],)
    with inside(world.root):
        reference, features = read_base(Workspace(Path()))
        options = {"reference": reference, "features": features, "parameters": world.configure(changes)}
        base = load_player(Player("base", "base"), **options, n_action_steps=STEPS)
    assert base.builder.base.cameras == (CAMERAS[0],)


@torch.no_grad()
def test_noise_given_by_lerobot_begins_the_bases_sampling(trained, folder):
    policy, before, _ = load(folder, "--adapter.min_scale=1")
    noise = torch.randn(2, 16, 6, generator=torch.Generator().manual_seed(3))
    chunk = policy.predict_action_chunk(before(lerobot_batch(views(trained, 0))), noise=noise)
    seen, vla = views(trained, 0), trained.vla()
    images = np.stack([np.stack(list(view["images"].values())) for view in seen])[:, None]
    output = vla(
        vis_obs=torch.from_numpy(images).permute(0, 1, 2, 5, 3, 4).float() / 255,
        robot_state=torch.from_numpy(np.stack([view["state"] for view in seen]))[:, None],
        texts=[view["task"] for view in seen],
        noise=noise,
    )
    plan = output["base_action_trajectory"] + output["telepathy_residual_trajectory"]
    torch.testing.assert_close(chunk, vla.to_robot(plan), rtol=1e-5, atol=1e-4)
    policy.reset()
    unseeded = policy.predict_action_chunk(before(lerobot_batch(views(trained, 0))))
    assert not torch.allclose(unseeded, chunk, atol=1e-2), "noise of one call reached the next, or none"


def test_actions_step_through_the_plans_and_memory_is_kept(trained, folder):
    policy, before, after = load(folder)
    assert policy.vla.config["sizes"]["trace"] == 3
    actions = [after(policy.select_action(before(lerobot_batch(views(trained, step))))) for step in range(3 * STEPS)]
    plans = plans_of(controller(trained), trained, steps=(0, STEPS, 2 * STEPS))
    expected = np.concatenate([plan[:, :STEPS] for plan in plans], axis=1)
    np.testing.assert_array_equal(torch.stack(actions, dim=1).numpy(), expected)


def test_at_full_scale_a_decision_costs_one_pass_and_the_steps_between_cost_none(trained, folder, monkeypatch):
    policy, before, _ = load(folder, "--adapter.min_scale=1", "--n_action_steps=2")
    batches, passes = [before(lerobot_batch(views(trained, step))) for step in range(9)], []
    for name in ("frozen_pass", "adapted_pass"):
        plain = getattr(policy.vla.model, name)
        monkeypatch.setattr(
            policy.vla.model, name, lambda *given, plain=plain, name=name: passes.append(name) or plain(*given)
        )
    for number, batch in enumerate(batches):
        passes.clear()
        policy.select_action(batch)
        # Memory reads every second of these decisions, and needs no pass of its own for that.
        assert passes == ["adapted_pass"] * (number % 2 == 0), number


def test_the_states_of_every_control_step_are_recorded_and_the_latest_are_read(trained, folder):
    policy, before, _ = load(folder, "--adapter.min_scale=1")

    def acted(shifts: dict[int, float]) -> torch.Tensor:
        """The action of the third decision, where the states of some control steps were others."""
        policy.reset()
        for step in range(2 * STEPS + 1):
            batch = before(lerobot_batch(views(trained, step)))
            shifted = {"observation.state": batch["observation.state"] + shifts.get(step, 0.0)}
            action = policy.select_action(batch | shifted)
        return action

    plain = acted({})
    assert torch.equal(acted({}), plain)
    for step, read in ((3, False), (5, True), (6, True), (7, True)):
        assert torch.equal(acted({step: 5.0}), plain) is not read, step
    # What came before a reset is forgotten: the first decision's robot stood still.
    batch = before(lerobot_batch(views(trained, 0)))
    policy.reset()
    first = policy.select_action(batch)
    acted({})
    policy.reset()
    assert torch.equal(policy.select_action(batch), first)


def traced(batch: dict, seen: list[dict], steps: int | None = None) -> dict:
    """A batch with the latest ``steps`` states of each robot beside it, all by default."""
    return batch | {"trace": torch.from_numpy(np.stack([view["trace"][-(steps or 0) :] for view in seen]))}


def test_a_chunk_needs_the_trace_from_the_second_decision_on(trained, folder):
    policy, before, after = load(folder)
    plans = plans_of(controller(trained), trained, steps=(0, STEPS, 2 * STEPS))
    for number, plan in enumerate(plans):
        seen = views(trained, number * STEPS)
        batch = before(lerobot_batch(seen))
        if number:
            with pytest.raises(PolicyError, match=r"'trace' is missing: .*call select_action at every control step"):
                policy.predict_action_chunk(batch)
        # All states, or as many as are read: the three before the present one.
        given = traced(batch, seen, steps=4 if number == 2 else None) if number else batch
        np.testing.assert_array_equal(after(policy.predict_action_chunk(given)).numpy(), plan)
    seen = views(trained, 3 * STEPS)
    batch = before(lerobot_batch(seen))
    with pytest.raises(SigmaError, match="states whose last one is the state"):
        policy.predict_action_chunk(traced(batch, views(trained, 2 * STEPS)))
    policy.reset()
    policy.predict_action_chunk(batch)


def test_a_batch_of_another_size_is_refused_before_anything_is_remembered(trained, folder):
    policy, before, _ = load(folder)
    two, one = (before(lerobot_batch(views(trained, step)[:count])) for step, count in ((0, 2), (1, 1)))
    policy.select_action(two)
    for _ in range(2):
        with pytest.raises(SigmaError, match="a batch of 1 robots after one of 2; call reset"):
            policy.select_action(one)
    assert [len(states) for states in policy._seen] == [2]
    expected = plans_of(controller(trained), trained)[0][:, 1]
    np.testing.assert_array_equal(policy.select_action(before(lerobot_batch(views(trained, 1)))).numpy(), expected)
    policy.reset()
    assert policy.select_action(one).shape == (1, 6)


def test_a_reset_forgets_memory_and_pending_actions(trained, folder):
    policy, before, _ = load(folder)
    first = policy.select_action(before(lerobot_batch(views(trained, 8))))
    for _ in range(STEPS + 1):
        later = policy.select_action(before(lerobot_batch(views(trained, 8))))
    assert not torch.equal(first, later)
    policy.reset()
    assert torch.equal(policy.select_action(before(lerobot_batch(views(trained, 8)))), first)


def test_dropped_actions_are_decided_anew_and_memory_goes_on(trained, folder):
    """As LeRobot's main branch asks for when the instruction changes between two decisions."""
    policy, before, _ = load(folder, "--adapter.min_scale=1")
    batches = [before(lerobot_batch(views(trained, step))) for step in range(3)]
    policy.select_action(batches[0])
    policy.select_action(batches[1])
    carried = policy.controller.episodes[0].carried.memory.clone()
    policy.drop_queued_actions()
    other = policy.select_action(batches[2] | {"task": ["push the cube"] * 2})
    episode = policy.controller.episodes[0]
    assert (episode.step, episode.next_read) == (2 + STEPS, STEPS)
    assert torch.equal(episode.carried.memory, carried), "memory reads every four control steps"
    views_now = [view | {"task": "push the cube"} for view in views(trained, 2)]
    one = controller(trained, min_scale=1.0)
    plans_of(one, trained)
    one.episodes[0].step = one.episodes[1].step = 2
    np.testing.assert_array_equal(other.numpy(), one.act(views_now, [0, 1])[:, 0])


def test_the_gate_is_told_what_was_commanded_and_not_what_was_planned(trained, tmp_path):
    options = {"lower": [-200.0] * 6, "upper": [200.0] * 6, "max_step": [0.5], "clamp": True}
    policy, before, _ = load(write_policy(trained, tmp_path / "policy", **options))
    commands = [policy.select_action(before(lerobot_batch(views(trained, step)))).numpy() for step in range(STEPS)]
    robots = policy.controller.gate.robots
    np.testing.assert_allclose([robots[row].command for row in (0, 1)], commands[-1], rtol=1e-6)
    policy.select_action(before(lerobot_batch(views(trained, STEPS))))
    last = policy.select_action(before(lerobot_batch(views(trained, STEPS + 1)))).numpy()
    policy.drop_queued_actions()
    np.testing.assert_allclose([robots[row].command for row in (0, 1)], last, rtol=1e-6)
    assert [(robots[row].step, robots[row].passed) for row in (0, 1)] == [(STEPS + 2, 2)] * 2


def test_scale_zero_from_the_command_line_is_the_base_to_the_bit(trained, folder):
    policy, before, _ = load(folder, "--adapter.max_scale=0", "--n_action_steps=2")
    assert policy.controller.n_action_steps == 2
    chunk = policy.predict_action_chunk(before(lerobot_batch(views(trained, 0))))
    (base,) = plans_of(BaseController(trained.base(), n_action_steps=STEPS), trained)
    np.testing.assert_array_equal(chunk.numpy(), base[:, :8])


def test_one_robot_may_give_its_instruction_as_a_string(trained, folder):
    policy, before, _ = load(folder)
    seen = views(trained, 0)[:1]
    batch = before(lerobot_batch(seen))
    listed = policy.predict_action_chunk(batch)
    policy.reset()
    assert torch.equal(policy.predict_action_chunk(batch | {"task": seen[0]["task"]}), listed)


def test_lerobot_rollouts_engine_runs_it_with_renamed_cameras(trained, folder):
    config = PreTrainedConfig.from_pretrained(folder)
    policy = SigmaPolicy.from_pretrained(folder, config=config)
    names = {"observation.images.top": "observation.images.up"}
    overrides = {"device_processor": {"device": "cpu"}, "rename_observations_processor": {"rename_map": names}}
    before, after = make_pre_post_processors(config, pretrained_path=str(folder), preprocessor_overrides=overrides)
    (seen, _), joints = views(trained, 0), config.action_feature_names
    engine = SyncInferenceEngine(
        policy, before, after, {"action": {"names": joints}}, joints[::-1], seen["task"], "cpu", "so101_follower"
    )
    engine.reset()
    frame = {"observation.state": seen["state"].copy()}
    frame |= {name.replace(".up", ".top"): picture for name, picture in seen["images"].items()}
    action = engine.get_action(frame)
    one = controller(trained)
    one.reset([0])
    np.testing.assert_array_equal(action.numpy(), one.act([seen], [0])[0, 0][::-1])


def test_the_clamp_holds_limits_and_rate_from_the_measured_state_on(trained, tmp_path):
    options = {"lower": [-30.0] * 6, "upper": [40.0] * 6, "max_step": [3.0], "clamp": True}
    policy, before, after = load(write_policy(trained, tmp_path / "policy", **options))
    batches = [before(lerobot_batch(views(trained, step))) for step in range(2 * STEPS)]
    actions = torch.stack([after(policy.select_action(batch)) for batch in batches], dim=1).numpy()
    plans = plans_of(controller(trained), trained, steps=(0, STEPS))
    command, expected = np.stack([view["state"] for view in views(trained, 0)]), []
    for asked in np.concatenate([plan[:, :STEPS] for plan in plans], axis=1).swapaxes(0, 1):
        command = np.minimum(np.maximum(np.clip(asked, -30, 40), command - 3), command + 3)
        expected.append(command)
    np.testing.assert_allclose(actions, np.stack(expected, axis=1), atol=1e-5)
    assert not np.allclose(actions[:, :STEPS], plans[0][:, :STEPS], atol=1.0), "nothing was clamped"
    policy.reset()
    chunk = policy.predict_action_chunk(batches[0]).numpy()
    np.testing.assert_array_equal(chunk[:, :STEPS], actions[:, :STEPS])


def test_an_action_that_is_not_a_number_stops_the_robot(trained, tmp_path, monkeypatch):
    policy, before, _ = load(write_policy(trained, tmp_path / "policy"))  # without a clamp too
    monkeypatch.setattr(policy.controller, "act", lambda *_, **__: np.full((2, 8, 6), np.nan, np.float32))
    with pytest.raises(PolicyError, match="action: not finite at joint index"):
        policy.select_action(before(lerobot_batch(views(trained, 0))))


def test_saved_again_it_is_the_same_folder_and_names_its_base(trained, folder, tmp_path):
    policy, before, _ = load(folder)
    chunk = policy.predict_action_chunk(before(lerobot_batch(views(trained, 0))))
    policy.save_pretrained(tmp_path / "again")
    assert digest_folder(tmp_path / "again") == digest_folder(folder)
    config, base = read_json(folder / "config.json"), read_json(folder / "base.json")
    pinned = read_json(trained.root / "data/base.json")
    assert (config["type"], config["base_source"], config["base_revision"]) == ("sigma", pinned["source"], None)
    assert base == pinned and base["tensors"]
    again = SigmaPolicy.from_pretrained(tmp_path / "again")
    assert torch.equal(again.predict_action_chunk(before(lerobot_batch(views(trained, 0)))), chunk)
    with pytest.raises(SigmaError, match="where this policy was loaded from"):
        policy.save_pretrained(folder)
    with pytest.raises(SigmaError, match="other weights"):
        policy.save_pretrained(tmp_path / "other", state_dict={})


def test_the_base_may_lie_elsewhere_but_must_be_the_same(trained, folder, tmp_path):
    moved = shutil.copytree(trained.root / "base", tmp_path / "moved")
    policy, *_ = load(folder, f"--base_source={moved}")
    assert policy.config.base_source == str(moved)
    other = write_tiny_base(tmp_path / "other", seed=5)
    with pytest.raises(SigmaError, match=r"model\.safetensors: tensor .* is not the one that was recorded"):
        load(folder, f"--base_source={other}")


def test_observations_that_do_not_fit_are_refused_by_name(trained, folder):
    policy, before, _ = load(folder)
    batch = before(lerobot_batch(views(trained, 0)))
    policy.select_action(batch)
    for name in ("observation.images.wrist", "observation.state", "task"):
        policy.reset()
        with pytest.raises(SigmaError, match=f"'{name}' is missing among .*--rename_map"):
            policy.select_action({key: value for key, value in batch.items() if key != name})
    with pytest.raises(SigmaError, match=r"observation\.images\.up: legal values lie in \[0, 1\]"):
        policy.select_action(batch | {"observation.images.up": batch["observation.images.up"] * 255})
    with pytest.raises(SigmaError, match="speed: unknown argument"):
        policy.select_action(batch, speed=2)
    with pytest.raises(SigmaError, match="B instructions"):
        policy.select_action(batch | {"task": ["lift the cube"]})
    policy.reset()
    policy.predict_action_chunk(batch)
    seen = views(trained, 0)[:1]
    with pytest.raises(SigmaError, match="a batch of 1 robots after one of 2; call reset"):
        policy.predict_action_chunk(traced(before(lerobot_batch(seen)), seen))


def test_nothing_of_lerobots_trains_it(folder):
    policy, *_ = load(folder)
    for refused in (policy.config.get_optimizer_preset, policy.get_optim_params, lambda: policy.forward({})):
        with pytest.raises(SigmaError, match=r"`dvc repro`.*`sigma export`") as found:
            refused()
        assert isinstance(found.value, SystemExit), "LeRobot's commands would print a traceback"
    with pytest.raises(SigmaError, match="no untrained form"):
        SigmaPolicy(SigmaConfig(device="cpu"), dataset_stats=None)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--n_action_steps=3", "n_action_steps: found 3; legal: divisors of 4"),
        ("--n_action_steps=0", "n_action_steps: found 0; legal: at least 1"),
        ("--adapter.max_scale=2", "adapter: 0 <= min_scale <= max_scale <= 1"),
        ("--adapter.false_alarms=0", "adapter: risk_temperature 0.5: legal: > 0; false_alarms 0.0: legal: > 0 and < 1"),
        ("--max_step=5", "joint_lower, joint_upper and max_step: legal: all three"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(folder, override, message):
    with pytest.raises(SigmaError, match=message):
        load(folder, override)


def test_limits_must_fit_the_joints(folder):
    limits = ("--max_step=5", "--joint_lower=[-1, -1]")
    with pytest.raises(SigmaError, match="joint_lower, joint_upper: found 2 joints; legal: 6"):
        load(folder, *limits, "--joint_upper=[1, 1]")
    with pytest.raises(SigmaError, match="a positive step, one or as many"):
        load(folder, "--max_step=[1, 1, 1]", *limits[1:], "--joint_upper=[1, 1]")
    for upper in ("[-2, 1]", "[1]"):
        with pytest.raises(SigmaError, match="none above its upper one"):
            load(folder, *limits, f"--joint_upper={upper}")


def test_a_damaged_folder_is_refused_by_name(folder, tmp_path):
    def damaged(name: str, match: str, change) -> None:
        broken = shutil.copytree(folder, tmp_path / name)
        change(broken)
        with pytest.raises(SigmaError, match=match):
            SigmaPolicy.from_pretrained(broken)

    def swap(file):
        tensors = load_file(file)
        name = sorted(tensors)[0]
        save_file({**tensors, name: tensors[name][:1]}, file)

    damaged("heads", "made with other weights", lambda at: swap(at / "model/sigma_telepathy_heads.safetensors"))
    damaged("reference", "missing or altered", lambda at: (at / "adapter_calibration.safetensors").unlink())
    damaged(
        "calibration", r"adapter_calibration\.json: not found", lambda at: (at / "adapter_calibration.json").unlink()
    )
    damaged("base", r"base\.json: not found", lambda at: (at / "base.json").unlink())
    with pytest.raises(SigmaError, match="no such folder, and not given by the Hub"):
        SigmaPolicy.from_pretrained("nobody/nothing", config=SigmaConfig(device="cpu"), local_files_only=True)
