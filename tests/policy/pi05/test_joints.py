"""A base that declares padded vectors, as π0.5 is published, serves a robot of fewer joints."""

import json

import numpy as np
import pytest
import torch

from sigma import SigmaTelepathyVLA
from sigma.policy.pi05.base import load_base
from sigma.policy.pi05.description import describe_base
from sigma.policy.pi05.placement import place
from sigma.policy.pi05.small.modeling_pi05_small import PI05SmallPolicy
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json, write_json
from sigma.shared.quantiles import Quantiles
from tests.bases import CAMERAS, STATISTICS, tiny_policy, write_tiny_base
from tests.datasets import write_dataset
from tests.worlds import World

PADDED = 32
WIDE = {name: Quantiles(np.full(PADDED, -1.0), np.full(PADDED, 1.0)) for name in STATISTICS}
LONG_PROMPT = {"tokenizer_max_length": 64}
OWN = {"base": {"statistics": "dataset"}}


def narrow_action(folder, joints=6):
    """What LeRobot's fine-tuning leaves in config.json: the dataset's action, the base's own state."""
    config = read_json(folder / "config.json")
    config["output_features"]["action"]["shape"] = [joints]
    write_json(folder / "config.json", config)


@pytest.mark.minutes
def test_every_stage_runs_on_a_base_of_padded_vectors(tmp_path):
    write_tiny_base(tmp_path / "base", padded=PADDED, statistics={}, **LONG_PROMPT)
    write_dataset(tmp_path / "recorded", lengths=(28, 25, 30, 27, 29, 26, 31, 28))
    world = World(tmp_path)
    world.run("fetch", "audit", "window", "baseline", "finetune", "evaluate", "report", changes=OWN)
    record = read_json(tmp_path / "data/base.json")
    assert (record["state_dim"], record["action_dim"], record["statistics"]) == (6, 6, None)
    check = read_json(tmp_path / "metrics/check_b.json")["test"]
    assert check["mse_plan"]["sigma"] > 0
    vla = world.vla()
    out = vla(vis_obs=torch.rand(1, 3, 2, 3, 32, 32), robot_state=torch.zeros(1, 3, 6), texts=["push the cube"])
    assert out["base_action_trajectory"].shape[-1] == out["telepathy_residual_trajectory"].shape[-1] == 6


@pytest.mark.minutes
def test_a_policy_that_lerobot_loaded_is_narrowed_too(tmp_path):
    write_tiny_base(tmp_path / "base", padded=PADDED, statistics={}, **LONG_PROMPT)
    write_dataset(tmp_path / "recorded", lengths=(28, 25, 30, 27, 29, 26, 31, 28))
    world = World(tmp_path)
    world.run("fetch", "audit", "window", "baseline", "finetune", changes=OWN)
    plain = PI05SmallPolicy.from_pretrained(tmp_path / "base")
    batch = {
        "vis_obs": torch.rand(1, 3, 2, 3, 32, 32),
        "robot_state": torch.zeros(1, 3, 6),
        "texts": ["push the cube"],
        "noise": torch.randn(1, 16, PADDED),
    }
    found = [
        SigmaTelepathyVLA.from_base(base_policy=base, lora_dir=tmp_path / "models/sigma")(**batch)
        for base in (plain, world.base())
    ]
    assert torch.equal(found[0]["base_action_trajectory"], found[1]["base_action_trajectory"])


def test_the_joints_are_the_first_values_of_the_padded_action(tmp_path):
    """LeRobot's own sampler, on the policy as it is stored, gives all 32."""
    folder = write_tiny_base(tmp_path / "base", padded=PADDED, statistics={}, **LONG_PROMPT)
    narrow = load_base(describe_base(str(folder), None, 6))
    assert (narrow.action_dim, narrow.state_dim) == (6, 6)
    prompt = narrow.prompter(["push the cube"] * 2, np.zeros((2, 6), dtype=np.float32))
    batch = {camera: torch.rand(2, 3, 32, 32) for camera in CAMERAS}
    batch |= {"observation.language.tokens": prompt.tokens, "observation.language.attention_mask": prompt.mask}
    noise = torch.randn(2, 16, PADDED)
    wide = PI05SmallPolicy.from_pretrained(folder).predict_action_chunk(batch, noise=noise, num_steps=3)
    found = narrow.policy.predict_action_chunk(batch, noise=noise, num_steps=3)
    assert wide.shape[-1] == PADDED and found.shape[-1] == 6
    assert torch.equal(wide[..., :6], found)


@pytest.mark.parametrize(
    ("statistics", "found"), [({}, None), (WIDE, None), (STATISTICS, STATISTICS)], ids=["none", "padded", "robot's"]
)
def test_a_fine_tuned_checkpoint_keeps_the_padded_state(tmp_path, statistics, found):
    folder = write_tiny_base(tmp_path / "base", padded=PADDED, statistics=statistics, **LONG_PROMPT)
    narrow_action(folder)
    base = load_base(describe_base(str(folder), None, 6))
    assert (base.state_dim, base.action_dim) == (6, 6)
    if found is None:
        assert base.statistics is None
    else:
        np.testing.assert_array_equal(base.statistics["action"].q99, found["action"].q99)


@pytest.mark.parametrize(
    ("padded", "action", "joints", "said"),
    [
        (PADDED, PADDED, 33, r"observation\.state has 32 values, the robot 33 joints; legal: at most 32 joints"),
        (PADDED, 7, 6, r"action has 7 values, the robot 6 joints; legal: 7 joints"),
        (None, 6, 7, r"observation\.state has 6 values, the robot 7 joints; legal: at most 6 joints"),
    ],
)
def test_another_robots_sizes_are_refused(tmp_path, padded, action, joints, said):
    folder = write_tiny_base(tmp_path / "base", padded=padded, statistics={}, **LONG_PROMPT)
    narrow_action(folder, action)
    with pytest.raises(SigmaError, match=rf"base/config\.json: {said}"):
        describe_base(str(folder), None, joints)


def test_a_record_of_other_sizes_than_it_was_written_with_is_refused(tmp_path):
    reference = describe_base(str(write_tiny_base(tmp_path / "base", padded=PADDED, statistics={})), None, 6)
    assert load_base(reference).action_dim == 6
    altered = json.loads(json.dumps(reference)) | {"state_dim": 5, "action_dim": 5}
    with pytest.raises(SigmaError, match="the record of it was altered; fetch the base again"):
        load_base(altered)


def test_what_no_pass_reads_stays_on_the_cpu():
    """The meta device stands in for a GPU."""
    policy = tiny_policy()
    names = list(policy.state_dict())
    place(policy, "meta")
    left = {name for name, parameter in policy.named_parameters() if parameter.device.type == "cpu"}
    heads = {name for name in names if "lm_head" in name}
    assert heads and left == heads
    assert list(policy.state_dict()) == names
