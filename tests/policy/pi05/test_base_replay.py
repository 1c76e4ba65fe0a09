"""Offline replay: nothing later than a decision reaches it, and the base's numbers are LeRobot's own."""

import dataclasses
import io

import numpy as np
import pytest
import torch

from sigma.data.shards import Shards
from sigma.evaluation.replay.sigma_replay import decide, replay_sigma
from sigma.policy.model.heads import describe_heads
from sigma.policy.model.model_folder import load_model, read_config
from sigma.policy.pi05.base_replay import frame_pictures, replay_base, select_normalisation
from sigma.policy.pi05.description import describe_base
from sigma.policy.pi05.prefix import integrate
from sigma.shared.errors import SigmaError
from sigma.shared.tables import read_columns
from tests.worlds import World

BATCH = 16
DECISION = 8  # windows of the altered episode up to this step must not notice what comes later


def baseline_table(world: World) -> dict[str, np.ndarray]:
    return read_columns(world.root / "data/predictions/baseline.parquet", ())[0]


def sigma_table(world: World) -> dict[str, np.ndarray]:
    return read_columns(world.root / "data/predictions/sigma.parquet", ())[0]


def replay(world: World, shards: Shards, batch: int = BATCH, **changes):
    """The base's and Sigma's replay of these shards, by the code that the stages run."""
    material = world.material()
    parameters = world.configure({"base": changes}).base
    base = replay_base(material.base, shards, material.builder.normalisation, parameters, batch=batch)
    material.shards, material.columns = shards, base.columns
    material.pooled, material.frame_views = base.pooled, base.views
    return base, replay_sigma(material, world.root / "models/sigma", batch=batch)


def perturbed(shards: Shards, episode: int, step: int, what: str) -> Shards:
    """The same shards with everything of ``episode`` after ``step`` replaced, and every recorded action with it."""
    random = np.random.default_rng(0)
    later = (shards.frame_episode == episode) & (shards.frame_step > step)
    assert later.any()
    if what == "frames":
        images = [part.clone() for part in shards._images]
        for row in np.flatnonzero(later):
            shard = int(np.searchsorted(shards._first_frame, row, side="right")) - 1
            images[shard][row - shards._first_frame[shard]] = torch.from_numpy(
                random.integers(0, 256, images[shard].shape[1:], dtype=np.uint8)
            )
        return dataclasses.replace(shards, _images=tuple(images))
    if what == "states":
        state = shards.frame_state.copy()
        state[later] += random.normal(0, 20, state[later].shape).astype(np.float32)
        trace, length = shards.frame_trace.copy(), shards.meta["trace"]
        seen = shards.frame_step[:, None] - length + np.arange(length)
        hidden = (shards.frame_episode == episode)[:, None] & (seen > step)
        trace[hidden] += random.normal(0, 20, trace[hidden].shape).astype(np.float32)
        assert hidden.any()
        return dataclasses.replace(shards, frame_state=state, frame_trace=trace)
    if what == "instructions":
        frame_task, window_task = shards.frame_task.copy(), shards.window_task.copy()
        frame_task[later] = 1 - frame_task[later]
        rows = (shards.window_episode == episode) & (shards.window_step > step)
        window_task[rows] = 1 - window_task[rows]
        return dataclasses.replace(shards, frame_task=frame_task, window_task=window_task)
    action = shards.window_action.copy()
    # The target of the decision step itself is a later thing too: it must not be read anywhere.
    action[shards.window_episode == episode] += random.normal(0, 20, action.shape[1:]).astype(np.float32)
    return dataclasses.replace(shards, window_action=action)


@pytest.fixture(scope="module")
def plain(trained):
    return replay(trained, trained.shards)


@pytest.mark.parametrize("what", ["frames", "states", "instructions", "actions"])
def test_nothing_after_the_decision_reaches_a_prediction(trained, plain, what):
    world, shards = trained, trained.shards
    episode = shards.meta["splits"]["test"][0]
    mine = shards.window_episode == episode
    before, after = mine & (shards.window_step <= DECISION), mine & (shards.window_step > DECISION)
    assert before.sum() == 2 and after.any()
    base, sigma = replay(world, perturbed(shards, episode, DECISION, what))
    frames = (shards.frame_episode == episode) & (shards.frame_step <= DECISION)
    assert torch.equal(base.pooled[frames], plain[0].pooled[frames])
    assert torch.equal(base.views[frames], plain[0].views[frames])
    noticed = []
    for found, expected in ((base.columns, plain[0].columns), (sigma.columns, plain[1].columns)):
        for name, column in found.items():
            # The gate asks where the last command led, which is recorded before the decision.
            if name == "action" or (what == "actions" and name == "gate_tracking"):
                continue
            np.testing.assert_array_equal(column[before], expected[name][before], err_msg=name)
            np.testing.assert_array_equal(column[~mine], expected[name][~mine], err_msg=name)
            if not np.array_equal(column[after], expected[name][after]):
                noticed.append(name)
    expected = {"base_action", "base_zero_noise", "base_samples", "sigma_action", "tau", "sem_align"}
    assert expected <= set(noticed) if what != "actions" else not noticed


@torch.no_grad()
def test_the_bases_action_is_lerobots_own(prepared):
    from lerobot.processor import PolicyProcessorPipeline

    shards, table, base = prepared.shards, baseline_table(prepared), prepared.base()
    processor = PolicyProcessorPipeline.from_pretrained(
        prepared.root / "base", config_filename="policy_preprocessor.json"
    )
    for window in (0, 17, 41):
        row = shards.window_frame[window]
        images = shards.images(np.array([row]))[0].float() / 255
        batch = processor(
            {
                **dict(zip(base.cameras, images, strict=True)),
                "observation.state": torch.from_numpy(shards.frame_state[row]),
                "task": shards.tasks[shards.window_task[window]],
            }
        )
        expected = base.policy.predict_action_chunk(batch, noise=torch.zeros(1, 16, 6))[0, :8]
        # Kernels of one row and of a batch round differently, and five Euler steps let it grow.
        np.testing.assert_allclose(table["base_zero_noise"][window], expected.numpy(), rtol=1e-4, atol=1e-4)


def test_noise_belongs_to_the_decision_and_not_to_the_batch(prepared):
    material, shards = prepared.material(), prepared.shards
    results = {}
    for batch, seed in ((5, 0), (BATCH, 0), (BATCH, 1)):
        parameters = prepared.configure({"base": {"seed": seed}}).base
        results[batch, seed] = replay_base(
            material.base, shards, material.builder.normalisation, parameters, batch=batch
        ).columns
    small, large, other = results.values()
    np.testing.assert_allclose(small["base_samples"], large["base_samples"], rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(other["base_zero_noise"], large["base_zero_noise"])
    assert not np.isclose(other["base_samples"], large["base_samples"]).any(axis=(1, 2, 3)).all()
    spread = large["base_samples"].std(axis=1)
    assert (spread > 1e-3).any(axis=(1, 2)).all(), "samples of one decision differ"


@pytest.mark.parametrize("kind", ["zero_noise", "mean", "sample"])
def test_the_action_that_sigma_corrects_is_the_chosen_one(prepared, kind):
    material = prepared.material()
    parameters = prepared.configure({"base": {"action": kind, "samples": 3}}).base
    columns = replay_base(material.base, prepared.shards, material.builder.normalisation, parameters, batch=64).columns
    samples = columns["base_samples"]
    assert samples.shape[1] == 3
    expected = {"zero_noise": columns["base_zero_noise"], "mean": samples.mean(axis=1), "sample": samples[:, 0]}
    np.testing.assert_array_equal(columns["base_action"], expected[kind])
    for other in {"zero_noise", "mean", "sample"} - {kind}:
        assert not np.array_equal(columns["base_action"], expected[other])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["zero_noise", "mean", "sample"])
def test_sigma_decides_from_the_noise_that_the_base_had(prepared, tmp_path, kind):
    world = prepared.copy(tmp_path / "world")
    world.run("baseline", changes={"base": {"action": kind}})
    trainer = world.trainer({"base": {"action": kind}})
    # Untrained, Sigma is the base, so its action must be the base's.
    frames = trainer.batches.shards.window_frame[:10]
    found = decide(trainer.build().eval(), trainer.batches, frames, 4, "sigma")["sigma_action"]
    np.testing.assert_allclose(found, trainer.batches.base_action(np.arange(10)), rtol=1e-3, atol=1e-4)


def test_targets_and_the_held_state_are_normalised_records(prepared):
    shards, table = prepared.shards, baseline_table(prepared)
    quantiles = prepared.base().statistics
    low, high = quantiles["action"].q01, quantiles["action"].q99
    np.testing.assert_allclose(table["action"], 2 * (shards.window_action[:, :8] - low) / (high - low) - 1, atol=1e-5)
    state = shards.frame_state[shards.window_frame]
    np.testing.assert_allclose(table["hold"], 2 * (state - low) / (high - low) - 1, atol=1e-5)
    np.testing.assert_array_equal(table["valid"], shards.window_valid[:, :8])
    np.testing.assert_array_equal(table["split"], shards.window_split)
    np.testing.assert_array_equal(table["window"], np.arange(len(state)))
    assert [shards.tasks.index(task) for task in table["task"]] == shards.window_task.tolist()


def test_normalisation_is_the_checkpoints_or_the_train_episodes(prepared, tmp_path):
    base, shards = prepared.base(), prepared.shards
    own = select_normalisation("checkpoint", base, shards)
    np.testing.assert_array_equal(own.action.q99, base.statistics["action"].q99)
    train = select_normalisation("dataset", base, shards)
    np.testing.assert_allclose(train.state.q01, shards.meta["statistics"]["observation.state"]["q01"], rtol=1e-6)
    bare = dataclasses.replace(base, statistics=None)
    with pytest.raises(SigmaError, match=r"base\.statistics: found checkpoint.*legal here: dataset"):
        select_normalisation("checkpoint", bare, shards)
    select_normalisation("dataset", bare, shards)


def test_a_horizon_beyond_the_bases_chunk_is_refused(prepared):
    material = prepared.material()
    base = dataclasses.replace(material.base, chunk_size=4)
    with pytest.raises(SigmaError, match=r"window\.horizon: found 8; legal: at most the base's chunk size 4"):
        replay_base(base, prepared.shards, material.builder.normalisation, prepared.configure().base, batch=8)


def test_pictures_are_those_of_held_out_decisions(prepared):
    from PIL import Image

    shards = prepared.shards
    pictures = frame_pictures(shards).to_pylist()
    held_out = np.flatnonzero(shards.window_split != "train")
    assert [(one["window"], one["camera"]) for one in pictures] == [
        (window, camera) for window in held_out for camera in shards.meta["cameras"]
    ]
    for one in pictures[:4]:
        view = shards.meta["cameras"].index(one["camera"])
        stored = shards.images(shards.window_frame[[one["window"]]])[0, view].permute(1, 2, 0).numpy()
        shown = np.asarray(Image.open(io.BytesIO(one["jpeg"])))
        assert np.abs(shown.astype(int) - stored).mean() < 12


@torch.no_grad()
def test_sigmas_table_says_what_the_model_says(trained):
    table, material, folder = sigma_table(trained), trained.material(), trained.root / "models/sigma"
    model = load_model(material.base.policy, folder, read_config(folder), folder / "sigma_telepathy_heads.safetensors")
    rows = np.arange(len(material.split))
    passed = model.adapted_pass(*material.observation(rows))
    zero = torch.zeros(len(rows), 1, 16, 6)
    action = integrate(model.policy, passed.encoded, zero, material.base.num_steps, passed.steering)[:, 0, :8]
    expected = {
        "base_action": material.base_action(rows),
        "sigma_action": action,
        "tau": passed.telepathy.factors,
        "tau_l2": passed.telepathy.factors.square().sum((1, 2)).sqrt(),
        "sem_align": passed.telepathy.alignment,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(table[name], value.numpy(), rtol=1e-4, atol=1e-4, err_msg=name)


def test_the_control_has_sigmas_factors_to_the_bit(trained):
    table = sigma_table(trained)
    for name in ("tau_l2", "sem_align"):
        np.testing.assert_array_equal(table[f"control_{name}"], table[name])
    assert np.abs(table["sigma_action"] - table["base_action"]).max() > 0.05, "LoRA, FiLM and branches have learned"


def test_both_passes_say_which_heads_they_loaded(trained):
    _, sigma = replay(trained, trained.shards)
    assert sigma.heads["control"] == sigma.heads["sigma"]
    material, folder = trained.material(), trained.root / "models/sigma"
    model = load_model(material.base.policy, folder, read_config(folder), folder / "sigma_telepathy_heads.safetensors")
    assert sigma.heads["sigma"] == describe_heads(model.heads)


def test_a_model_of_other_inputs_is_refused(trained):
    folder = trained.root / "models/sigma"
    for change, message in (
        ({"base_digest": "0" * 64}, "another dataset or base"),
        ({"action": "mean"}, "another base_action"),
        ({"seed": 3}, "another seed"),
        ({"normalisation": {}}, "another normalisation"),
    ):
        material = trained.material()
        material.meta |= change
        with pytest.raises(SigmaError, match=message):
            replay_sigma(material, folder, batch=8)


def test_the_worlds_base_is_the_one_that_was_recorded(prepared):
    from sigma.shared.files import read_json

    recorded = read_json(prepared.root / "data/base.json")
    assert describe_base(recorded["source"], None)["digest"] == recorded["digest"]
