"""The public classes, used as the source's model card uses them."""

import numpy as np
import pytest
import torch

from sigma import SigmaTelepathyAdapter, SigmaTelepathyVLA
from sigma.policy.model import lora
from sigma.policy.pi05.prefix import integrate
from sigma.shared.errors import SigmaError
from sigma.shared.spans import SPANS
from tests.policy.control.test_sigma_controller import STRIDE, batches_of_single_passes, observations, test_episode
from tests.worlds import World, make_world


def sequence(world: World, window: int, *, junk: float = 0.0) -> dict:
    """The observation of a stored window as the card gives it: every step of its episode, of which some are read.

    ``junk`` stands where nothing is read: images between those that memory reads, and states before the motion.
    """
    shards = world.shards
    step, last = int(shards.window_step[window]), shards.window_frame[window]
    views, side = len(shards.meta["cameras"]), shards.meta["resolution"]
    vis_obs, state = torch.full((1, step + 1, views, 3, side, side), junk), torch.full((1, step + 1, 6), junk)
    (frames,) = np.nonzero((shards.frame_episode == shards.window_episode[window]) & (shards.frame_step <= step))
    for frame in (*frames[shards.frame_step[frames] % STRIDE == 0], last):
        vis_obs[0, shards.frame_step[frame]] = shards.images(np.array([frame]))[0].float() / 255
        state[0, shards.frame_step[frame]] = torch.from_numpy(shards.frame_state[frame])
    state[0, step - 3 : step] = torch.from_numpy(shards.frame_trace[last])
    return {"vis_obs": vis_obs, "robot_state": state, "texts": [shards.tasks[shards.window_task[window]]]}


def whole_window(world: World) -> int:
    """A window at step 8, before which memory has read the steps 0 and 4."""
    return int(np.flatnonzero(world.shards.window_step == 8)[0])


def test_the_cards_example_runs(trained):
    vla = SigmaTelepathyVLA.from_base(
        base_policy=trained.base().policy,
        lora_dir=trained.root / "models/sigma",
        telepathy_heads_path=trained.root / "models/sigma/sigma_telepathy_heads.pt",
        device="cpu",
        dtype=torch.float32,
    )
    adapter = SigmaTelepathyAdapter(min_scale=0.2, max_scale=0.9, risk_temperature=1.0)
    torch.manual_seed(0)
    batch = {"vis_obs": torch.rand(2, 16, 2, 3, 40, 48), "robot_state": 50 * torch.randn(2, 16, 6)}
    with torch.no_grad():
        out = vla(**batch, texts=["push the cube", "lift the cube"])
        action = adapter(
            base_action_vector=out["base_action_vector"],
            telepathy_residual=out["telepathy_residual_vector"],
            telepathy_factors=out["telepathy_factors"],
        )
    shapes = {
        "base_action_vector": (2, 6),
        "base_action_chunk": (2, 4, 6),
        "base_action_trajectory": (2, 8, 6),
        "telepathy_residual_vector": (2, 6),
        "telepathy_residual_chunk": (2, 4, 6),
        "telepathy_residual_trajectory": (2, 8, 6),
        "telepathy_factors": (2, 3, 4),
        "semantic_factors": (2, 24),
        "intent": (2, 16),
        "memory": (2, 16),
        "alignment": (2,),
    }
    assert {name: tuple(value.shape) for name, value in out.items()} == shapes
    moved = (action - out["base_action_vector"]) / out["telepathy_residual_vector"]
    assert ((moved > 0.19) & (moved < 0.91)).all()
    # Inside these bounds the scale is one number a window, not one a joint.
    torch.testing.assert_close(moved, moved[:, :1].expand_as(moved), rtol=1e-2, atol=1e-2)
    assert not any(value.requires_grad for value in out.values())


def test_one_camera_takes_the_cards_five_dimensions(tmp_path):
    from tests import bases, datasets

    camera = ("observation.images.up",)
    root = tmp_path / "one"
    root.mkdir()
    policy = bases.tiny_policy(cameras=camera)
    bases.save_base(root / "base", policy, bases.build_tokenizer(), bases.STATISTICS)
    datasets.write_dataset(root / "recorded", lengths=(20,) * 6, cameras=camera)
    world = World(root)
    world.run("fetch", "audit", "window", "baseline", "finetune", changes={"train": {"steps": 1}})
    vla, given = world.vla(), sequence(world, whole_window(world))
    with torch.no_grad():
        six = vla(**given)
        five = vla(**given | {"vis_obs": given["vis_obs"][:, :, 0]})
    assert all(torch.equal(six[name], five[name]) for name in six)
    with pytest.raises(SigmaError, match=r"legal: \[B, T, 1, 3, H, W\]"):
        vla(**given | {"vis_obs": given["vis_obs"].expand(-1, -1, 2, -1, -1, -1)})


@torch.no_grad()
def test_a_sequence_is_read_as_the_stored_window(trained):
    batches, vla, window = batches_of_single_passes(trained), trained.vla(), whole_window(trained)
    expected, past = batches.observation(np.array([window]))
    given = sequence(trained, window)
    found, remembered = vla._from_sequence(**given)
    for name, value in vars(expected).items():
        if name not in ("pooled", "earlier"):
            assert torch.equal(getattr(found, name), value), name
    assert (
        found.pooled is found.earlier is expected.earlier is None
        and expected.motion.any()
        and past.reads.tolist() == [2]
    )
    unrolled = vla.model.heads.path.recall(past, expected.text)
    for name, value in vars(unrolled).items():
        torch.testing.assert_close(getattr(remembered, name), value, rtol=0, atol=1e-5)
    # Images between those that memory reads are not read, nor are states before the motion.
    output = vla(**given)
    assert all(torch.equal(value, output[name]) for name, value in vla(**sequence(trained, window, junk=0.7)).items())


@torch.no_grad()
def test_the_past_changes_memory_and_sigmas_action_and_never_the_bases(trained):
    vla, given = trained.vla(), sequence(trained, whole_window(trained))
    shorter = [{name: given[name][:, -steps:] for name in ("vis_obs", "robot_state")} for steps in (5, 1)]
    turned = {"vis_obs": given["vis_obs"].clone()}
    turned["vis_obs"][:, [0, 4]] = given["vis_obs"][:, [4, 0]]
    outputs = [vla(**given | change) for change in ({}, *shorter, turned)]
    for place, one in enumerate(outputs):
        assert torch.equal(one["base_action_trajectory"], outputs[0]["base_action_trajectory"])
        for other in outputs[:place]:
            for name in ("memory", "telepathy_factors", "telepathy_residual_vector"):
                assert not torch.equal(one[name], other[name]), name


@torch.no_grad()
def test_a_batch_from_lerobots_own_processor_says_the_same_as_a_sequence_of_one_step(trained):
    from lerobot.processor import PolicyProcessorPipeline

    live = observations(trained, test_episode(trained), 0)
    processor = PolicyProcessorPipeline.from_pretrained(
        trained.root / "base", config_filename="policy_preprocessor.json"
    )
    images = {
        name: torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float() / 255
        for name, picture in live["images"].items()
    }
    state = torch.from_numpy(live["state"].copy())
    batch = processor({**images, "observation.state": state, "task": live["task"]})
    vla = trained.vla()
    from_batch = vla(batch)
    from_sequence = vla(
        vis_obs=torch.stack(list(images.values()))[None, None], robot_state=state[None, None], texts=[live["task"]]
    )
    assert from_batch.keys() == from_sequence.keys()
    for name, value in from_sequence.items():
        assert torch.equal(from_batch[name], value), name
    # LeRobot's own sampler on the same batch, with the same noise.
    noise = torch.zeros(1, 16, 6)
    expected = trained.base().policy.predict_action_chunk(batch, noise=noise)[:, :8]
    assert torch.equal(from_batch["base_action_trajectory"], expected)


@torch.no_grad()
def test_a_batchs_normalised_state_is_taken_as_it_is(trained):
    vla = trained.vla()
    # A detour over raw units would change last digits, and at the edge of a bin the prompt.
    state = 2 * torch.rand(32, 6, generator=torch.Generator().manual_seed(0)) - 1
    texts = ["push the cube"] * len(state)
    batch = {name: torch.rand(len(state), 3, 32, 32) for name in vla.config["cameras"]}
    batch |= {"observation.state": state, "task": [f"Task: {text}, State: 1;\nAction: " for text in texts]}
    observation = vla._from_batch(batch)
    assert torch.equal(observation.state, state)
    assert torch.equal(observation.tokens, vla.builder.base.prompter(texts, state.numpy()).tokens)


@torch.no_grad()
def test_noise_reaches_the_base_action_and_without_telepathy_the_base_speaks_alone(trained):
    vla, given = trained.vla(), sequence(trained, whole_window(trained))
    plain = vla(**given)
    noise = torch.randn(1, 16, 6, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(vla(**given, noise=noise)["base_action_vector"], plain["base_action_vector"])
    zero = vla(**given, noise=torch.zeros(1, 16, 6))
    assert all(torch.equal(zero[name], value) for name, value in plain.items())
    alone = vla(**given, use_telepathy=False)
    for name, value in alone.items():
        assert torch.equal(value, plain[name]) if name.startswith("base") else not value.any(), name
    assert alone.keys() < plain.keys()


@torch.no_grad()
def test_scale_zero_is_the_base_to_the_bit_and_scale_one_is_sigma(trained):
    vla, given = trained.vla(), sequence(trained, whole_window(trained))
    out = vla(**given)
    for span in SPANS:
        names = {
            "base_action_vector": out[f"base_action_{span}"],
            "telepathy_residual": out[f"telepathy_residual_{span}"],
        }
        assert out[f"telepathy_residual_{span}"].any()
        shut = SigmaTelepathyAdapter(min_scale=0.0, max_scale=0.0)(**names)
        assert torch.equal(shut, out[f"base_action_{span}"])
        full = SigmaTelepathyAdapter(min_scale=1.0, max_scale=1.0)(**names)
        torch.testing.assert_close(full, out[f"base_action_{span}"] + out[f"telepathy_residual_{span}"])


@torch.no_grad()
def test_the_motion_is_that_of_the_control_steps_before_and_matters(trained):
    vla, given = trained.vla(), sequence(trained, whole_window(trained))
    output = vla(**given)
    normalised = vla.normalisation.state.normalise(given["robot_state"][0].numpy())
    expected = torch.from_numpy(normalised[5:8] - normalised[8])
    torch.testing.assert_close(vla._from_sequence(**given)[0].motion[0], expected, rtol=0, atol=1e-6)
    for step, read in ((3, False), (5, True), (7, True)):
        state = given["robot_state"].clone()
        state[0, step] += 5.0
        other = vla(**given | {"robot_state": state})
        assert torch.equal(other["telepathy_factors"], output["telepathy_factors"]) is not read, step
        assert torch.equal(other["base_action_trajectory"], output["base_action_trajectory"]), step


@torch.no_grad()
def test_a_residual_is_sigmas_action_minus_the_bases_from_the_same_noise(trained):
    vla, given = trained.vla(), sequence(trained, whole_window(trained))
    for noise in (torch.zeros(1, 16, 6), torch.randn(1, 16, 6, generator=torch.Generator().manual_seed(0))):
        out = vla(**given, noise=noise)
        passed = vla.model.adapted_pass(*vla._from_sequence(**given))
        action = integrate(vla.model.policy, passed.encoded, noise[:, None], vla.config["num_steps"], passed.steering)
        for span, steps in (("chunk", 4), ("trajectory", 8)):
            reached = out[f"base_action_{span}"] + out[f"telepathy_residual_{span}"]
            torch.testing.assert_close(reached, action[:, 0, :steps], rtol=0, atol=1e-5)
        assert torch.equal(out["telepathy_residual_vector"], out["telepathy_residual_chunk"][:, 0])
        assert torch.equal(out["base_action_vector"], out["base_action_chunk"][:, 0])


@pytest.mark.parametrize("present", ["vision", "backbone"])
def test_what_is_not_asked_for_is_not_computed(prepared, tmp_path, monkeypatch, present):
    world = prepared.copy(tmp_path / "world")
    world.run("finetune", changes={"train": {"steps": 1}, "telepathy": {"present": present}})
    vla, passes = world.vla(), []
    for name in ("frozen_pass", "adapted_pass"):
        plain = getattr(vla.model, name)
        monkeypatch.setattr(
            vla.model, name, lambda *given, plain=plain, name=name: passes.append(name) or plain(*given)
        )
    with torch.no_grad():
        observation, remembered = vla._from_sequence(**sequence(world, whole_window(world)))
    passes.clear()
    whole = vla.propose(observation, remembered, [("any",)])
    assert passes == ["frozen_pass", "adapted_pass"]
    passes.clear()
    sigma = vla.propose(observation, remembered, [("any",)], use_base=False)
    assert passes == ["frozen_pass"] * (present == "backbone") + ["adapted_pass"]
    passes.clear()
    base = vla.propose(observation, remembered, [("any",)], use_sigma=False)
    assert passes == ["frozen_pass"]
    assert torch.equal(sigma.action, whole.action) and torch.equal(base.base, whole.base)
    assert sigma.base is None and base.action is None
    with pytest.raises(ValueError, match="one of the two actions was not computed"):
        sigma.both()


def test_actions_come_back_in_the_robots_units(trained):
    vla = trained.vla()
    assert torch.equal(vla.to_robot(torch.full((1, 6), -1.0))[0], torch.from_numpy(vla.normalisation.action.q01))


def test_the_sources_adapter_model_bin_is_read(trained, tmp_path):
    from safetensors.torch import load_file

    world = trained.copy(tmp_path / "world")
    folder = world.root / "models/sigma"
    torch.save(dict(load_file(folder / lora.WEIGHTS)), folder / lora.SOURCE_WEIGHTS)
    (folder / lora.WEIGHTS).unlink()
    (folder / "sigma_telepathy_heads.safetensors").unlink()
    given = sequence(trained, whole_window(trained))
    with torch.no_grad():
        expected, found = trained.vla()(**given), world.vla()(**given)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": None}, "give either"),
        ({"texts": ["a", "b"]}, r"robot_state and texts: found .*2\).*1 texts"),
        ({"texts": [" "]}, "empty"),
        ({"robot_state": torch.zeros(1, 9, 5)}, r"legal: \[1, 9, 6\]"),
        ({"robot_state": torch.full((1, 9, 6), float("nan"))}, "not finite"),
        ({"vis_obs": torch.zeros(1, 9, 3, 32, 32)}, r"legal: \[B, T, 2, 3, H, W\]"),
        ({"vis_obs": torch.full((1, 9, 2, 3, 32, 32), 255.0)}, r"legal values lie in \[0, 1\]"),
        ({"vis_obs": torch.full((1, 9, 2, 3, 32, 32), float("nan"))}, r"legal values lie in \[0, 1\]"),
    ],
)
def test_inputs_that_cannot_be_read_are_refused(trained, change, message):
    with pytest.raises(SigmaError, match=message):
        trained.vla()(**sequence(trained, whole_window(trained)) | change)


def test_a_batch_of_another_processor_is_refused(trained):
    vla = trained.vla()
    batch = {
        "observation.images.up": torch.rand(1, 3, 32, 32),
        "observation.images.wrist": torch.rand(1, 3, 32, 32),
        "observation.state": torch.zeros(1, 6),
        "task": ["Task: push the cube, State: 1 2 3 4 5 6;\nAction: "],
    }
    vla(batch)
    with pytest.raises(SigmaError, match=r"not a π0\.5 prompt"):
        vla(batch | {"task": ["push the cube"]})
    with pytest.raises(SigmaError, match="not those of Sigma's tokenizer"):
        vla(batch | {"observation.language.tokens": torch.zeros(1, 32, dtype=torch.int64)})
    del batch["observation.images.wrist"]
    with pytest.raises(SigmaError, match=r"'observation\.images\.wrist' is missing"):
        vla(batch)


def test_what_does_not_fit_the_base_is_refused(trained, tmp_path):
    folder = trained.root / "models/sigma"
    with pytest.raises(SigmaError, match="legal: float32"):
        trained.vla(dtype=torch.bfloat16)
    with pytest.raises(SigmaError, match=r"gone\.pt: not found"):
        trained.vla(telepathy_heads_path=tmp_path / "gone.pt")
    with pytest.raises(SigmaError, match=r"config\.json: not found"):
        SigmaTelepathyVLA.from_base(base_policy=trained.base(), lora_dir=tmp_path)
    base = trained.base()
    SigmaTelepathyVLA.from_base(base_policy=base, lora_dir=folder)
    with pytest.raises(SigmaError, match="carries LoRA already"):
        SigmaTelepathyVLA.from_base(base_policy=base, lora_dir=folder)


@pytest.mark.parametrize("kind", ["mean", "sample"])
def test_seeded_samples_as_the_base_action_are_the_same_in_every_call(prepared, tmp_path, kind):
    world = prepared.copy(tmp_path / "world")
    changes = {"base": {"action": kind}, "train": {"steps": 1}}
    world.run("baseline", "finetune", changes=changes)
    given = sequence(world, whole_window(world))
    with torch.no_grad():
        first, second = world.vla()(**given), world.vla()(**given)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_world_of_the_tests_is_reproducible(prepared, tmp_path):
    again = make_world(tmp_path / "again")
    for name in (
        "data/shards/shard_00000.pt",
        "data/features/features.safetensors",
        "data/predictions/baseline.parquet",
    ):
        assert (again.root / name).read_bytes() == (prepared.root / name).read_bytes(), name
