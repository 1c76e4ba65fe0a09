"""``sigma export``: what it writes, the clamp it chooses, and what it refuses."""

import pytest

from sigma.policy.lerobot.policy_folder import default_limits
from sigma.policy.pi05.description import describe_base
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_folder, read_json, write_json
from sigma.simulation.env import MAX_STEP
from sigma.simulation.scene import CONTROL_HZ, FEATURE_NAMES, unit_ranges
from tests.lerobot_policies import WIDE, write_policy
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


def test_the_clamp_is_the_simulators_for_data_in_its_units():
    statistics = describe_base("embedded", None)["statistics"]
    described = {"joint_names": FEATURE_NAMES, "normalisation": statistics, "fps": CONTROL_HZ}
    found = default_limits(described, "")
    lower, upper = unit_ranges()
    assert found == {"joint_lower": lower.tolist(), "joint_upper": upper.tolist(), "max_step": MAX_STEP}
    assert default_limits(described | {"fps": 30}, "")["max_step"] == MAX_STEP / 3


def test_units_that_are_not_lerobots_need_limits_of_their_own(trained, tmp_path):
    with pytest.raises(SigmaError, match=r"joint gripper\.pos: .* leave 0 to 100.*--lower and --upper"):
        write_policy(trained, tmp_path / "policy", clamp=True)
    folder = write_policy(trained, tmp_path / "policy", clamp=True, **WIDE)
    config = read_json(folder / "config.json")
    assert (config["joint_upper"], config["max_step"]) == (WIDE["upper"], 30.0)


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(trained, tmp_path):
    def refused(match: str, world=trained, **options) -> None:
        with pytest.raises(SigmaError, match=match):
            write_policy(world, tmp_path / "policy", **options)
        assert not (tmp_path / "policy").exists()

    refused("n_action_steps: found 3; legal: divisors of 4", n_action_steps=3)
    refused("--no-clamp", max_step=2.0)
    refused("positive step", clamp=True, max_step=0.0, **WIDE)
    world = trained.copy(tmp_path / "world")
    base = read_json(world.root / "data/base.json")
    write_json(world.root / "data/base.json", merge(base, {"digest": "0" * 64}))
    refused("was trained on another base", world=world)
    (world.root / "models/adapter_calibration.json").unlink()
    refused(r"adapter_calibration\.json: not found", world=world)
    (tmp_path / "policy").mkdir()
    with pytest.raises(SigmaError, match="exists already"):
        write_policy(trained, tmp_path / "policy")
