"""Checkpoints as LeRobot writes them: what is read, and what is refused because Sigma would run another policy."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import make_pre_post_processors

from sigma.policy.control.controller import BaseController
from sigma.policy.pi05.base import load_base
from sigma.policy.pi05.base_replay import select_normalisation
from sigma.policy.pi05.description import describe_base
from sigma.policy.pi05.small.modeling_pi05_small import PI05SmallPolicy
from sigma.policy.pi05.small.processor_pi05_small import make_pi05_small_pre_post_processors
from sigma.policy.pi05.small.tokenizer import build_tokenizer
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json, write_json
from sigma.studies.study.train.fine_tuned import save_fine_tuned
from tests.bases import CAMERAS, write_tiny_base


@pytest.fixture
def folder(tmp_path):
    return write_tiny_base(tmp_path / "base")


def edit_config(folder, **values):
    write_json(folder / "config.json", read_json(folder / "config.json") | values)


def test_a_base_normalised_by_mean_and_deviation_acts_as_under_lerobot(tmp_path):
    folder = write_tiny_base(tmp_path / "base")
    mapping = {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
    edit_config(folder, normalization_mapping=mapping)
    config = PreTrainedConfig.from_pretrained(folder)
    draw = np.random.default_rng(1)
    stats = {
        name: {"mean": torch.tensor(draw.normal(size=6) * 40), "std": torch.tensor(draw.uniform(5, 30, 6))}
        for name in ("observation.state", "action")
    }
    for processor in make_pi05_small_pre_post_processors(config, stats, build_tokenizer()):
        processor.save_pretrained(folder)
    before, after = make_pre_post_processors(config, pretrained_path=str(folder))
    pictures = {name: draw.integers(0, 256, (32, 32, 3), dtype=np.uint8) for name in CAMERAS}
    view = {"images": pictures, "state": draw.normal(size=6).astype(np.float32) * 30, "task": "lift the cube"}
    frame = {name: torch.from_numpy(picture).permute(2, 0, 1) / 255 for name, picture in pictures.items()}
    batch = before(frame | {"observation.state": torch.from_numpy(view["state"]), "task": "lift the cube"})
    noise = torch.zeros(1, 16, 6)
    lerobots = after(PI05SmallPolicy.from_pretrained(folder).predict_action_chunk(batch, noise=noise))
    base = load_base(describe_base(str(folder), None))
    ours = BaseController(base, n_action_steps=1).act([view], [0])
    np.testing.assert_allclose(ours, lerobots.numpy(), atol=1e-3, rtol=1e-5)
    # The dataset's statistics then are its mean and deviation too.
    columns = {name: [float(number)] * 6 for name, number in {"mean": 3, "std": 2, "q01": 0, "q99": 9}.items()}
    shards = SimpleNamespace(meta={"statistics": dict.fromkeys(stats, columns)})
    normalisation = select_normalisation("dataset", base, shards)
    assert normalisation.action.q01.tolist() == [1.0] * 6
    # Fine-tuned whole it is written with the units that it was trained in.
    save_fine_tuned(tmp_path / "tuned", base, normalisation)
    tuned = load_base(describe_base(str(tmp_path / "tuned"), None)).statistics["action"]
    assert (tuned.q01.tolist(), tuned.q99.tolist()) == ([1.0] * 6, [5.0] * 6)


def test_fields_of_another_lerobot_pass_where_they_switch_nothing_on(folder, caplog):
    record = describe_base(str(folder), None)
    # LeRobot's main branch at its defaults, and a field of the future.
    memory = {"memory_frames": 6, "memory_stride": 30, "memory_temporal_attention_every": 4}
    newer = memory | {"use_visual_memory": False, "use_proprioceptive_memory": False, "use_telepathy": None}
    edit_config(folder, **newer, rtc_training_max_delay=10)
    again = describe_base(str(folder), None)
    assert "use_telepathy" in caplog.text
    assert {key for key in record if record[key] != again[key]} == {"config", "digest"}
    for name, value in (("use_proprioceptive_memory", True), ("use_telepathy", "yes")):
        edit_config(folder, **newer | {name: value})
        with pytest.raises(SigmaError, match=f"{name} is {value!r}; Sigma does not know this field"):
            describe_base(str(folder), None)


def test_a_camera_that_lerobot_left_empty_is_none_of_the_bases(folder):
    cameras = describe_base(str(folder), None)["cameras"]
    edit_config(folder, empty_cameras=1)
    reference = describe_base(str(folder), None)
    assert reference["cameras"] == cameras and load_base(reference).cameras == tuple(cameras)


@pytest.mark.parametrize("place", [".", "named", "elsewhere"])
def test_a_tokenizer_is_read_where_the_checkpoint_has_it(folder, tmp_path, place):
    record = describe_base(str(folder), None)
    target = tmp_path / "words" if place == "elsewhere" else folder / place
    shutil.move(folder / "tokenizer", tmp_path / "moved")
    shutil.copytree(tmp_path / "moved", target, dirs_exist_ok=True)
    if place != ".":
        file = folder / "policy_preprocessor.json"
        pipeline = read_json(file)
        name = str(target) if place == "elsewhere" else place
        pipeline["steps"].append({"registry_name": "tokenizer_processor", "config": {"tokenizer_name": name}})
        write_json(file, pipeline)
    assert describe_base(str(folder), None) == record
