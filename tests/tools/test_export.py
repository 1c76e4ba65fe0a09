"""``sigma export``: what it writes, the clamp it chooses, and what it refuses."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from sigma.policy.lerobot.policy_folder import training_limits
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_folder, read_json, write_json
from sigma.simulation.scene import FEATURE_NAMES
from tests.lerobot_policies import write_policy
from tests.worlds import merge


def test_parts_are_copied_byte_by_byte(trained, tmp_path):
    folder = write_policy(trained, tmp_path / "policy")
    assert digest_folder(folder / "model") == digest_folder(trained.root / "models/sigma")
    for copy, source in (
        ("base.json", "data/base.json"),
        ("adapter_calibration.json", "models/adapter_calibration.json"),
        ("adapter_calibration.safetensors", "models/adapter_calibration.safetensors"),
    ):
        assert (folder / copy).read_bytes() == (trained.root / source).read_bytes()
    config = read_json(folder / "config.json")
    assert config["adapter"] == trained.values()["adapter"]
    assert (config["n_action_steps"], config["max_step"]) == (4, None)
    assert config["action_feature_names"] == list(FEATURE_NAMES)


def test_the_clamp_is_the_range_and_speed_of_the_training_data_whatever_its_units(trained, tmp_path):
    config = read_json(write_policy(trained, tmp_path / "policy", clamp=True) / "config.json")
    table = pq.read_table(trained.root / "recorded/data", columns=["episode_index", "action"]).to_pydict()
    episodes = np.array(table["episode_index"])
    actions = [np.stack(table["action"])[episodes == index] for index in trained.shards.meta["splits"]["train"]]
    every = np.concatenate(actions)
    assert config["joint_lower"] == every.min(axis=0).tolist()
    assert config["joint_upper"] == every.max(axis=0).tolist()
    steps = np.array(config["max_step"])
    moves = np.concatenate([np.abs(np.diff(episode, axis=0)) for episode in actions])
    assert (steps <= moves.max(axis=0)).all() and (steps > np.quantile(moves, 0.99, axis=0)).all()
    model = read_json(trained.root / "models/sigma/config.json")
    held = model["limits"] | {"step": [0.0, 0.02]}
    assert training_limits({"limits": held})["max_step"] == [0.0002, 0.02], "a joint that never moved cannot come back"


def test_limits_may_be_given_each_for_itself(trained, tmp_path):
    folder = write_policy(trained, tmp_path / "policy", clamp=True, max_step=[2.0])
    config = read_json(folder / "config.json")
    model = read_json(trained.root / "models/sigma/config.json")
    assert (config["joint_upper"], config["max_step"]) == (model["limits"]["max"], 2.0)


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(trained, tmp_path):
    def refused(match: str, world=trained, **options) -> None:
        with pytest.raises(SigmaError, match=match):
            write_policy(world, tmp_path / "policy", **options)
        assert not (tmp_path / "policy").exists()

    refused("n_action_steps: found 3; legal: divisors of 4", n_action_steps=3)
    refused("--no-clamp", max_step=[2.0])
    refused("positive step", clamp=True, max_step=[0.0])
    world = trained.copy(tmp_path / "world")
    base = read_json(world.root / "data/base.json")
    write_json(world.root / "data/base.json", merge(base, {"digest": "0" * 64}))
    refused("was trained on another base", world=world)
    (world.root / "models/adapter_calibration.json").unlink()
    refused(r"adapter_calibration\.json: not found", world=world)
    (tmp_path / "policy").mkdir()
    with pytest.raises(SigmaError, match="exists already"):
        write_policy(trained, tmp_path / "policy")
