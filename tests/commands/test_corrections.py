"""From a dataset of corrections to windows, and a training that goes on from an earlier Sigma."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from sigma.commands import audit, fetch, window
from sigma.data.shards import Shards
from sigma.policy.model import lora
from sigma.policy.model.heads import FILE as HEADS
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_folder
from tests.commands.data_stages import parameters
from tests.datasets import CAMERAS, JOINTS, write_dataset
from tests.worlds import inside


def takes_over(episode: int, step: int) -> bool:
    return not episode and 20 <= step < 32


@pytest.fixture(scope="module")
def corrections(tmp_path_factory):
    def far(episode, step, frame):
        frame |= {camera: 255 - frame[camera] for camera in CAMERAS}  # not the pictures of the demonstrations
        if takes_over(episode, step):  # the person begins elsewhere, after a while that is not recorded
            frame |= {key: frame[key] + 40 for key in ("observation.state", "action")}
        else:  # the policy's commands swing, and the arm never follows
            frame["action"] = frame["action"] + (30 if step % 2 else -30)
        return frame

    folder = tmp_path_factory.mktemp("corrections") / "recorded"
    return write_dataset(folder, lengths=(60, 44), corrected=takes_over, alter=far)


def entry(folder: Path):
    return [{"source": str(folder), "revision": None, "corrections": True}]


def test_corrections_are_trained_on_and_nothing_of_them_is_held_out(project, small_dataset, small_base, corrections):
    fetch.run(parameters(small_dataset, small_base))
    audit.run(parameters())
    window.run(parameters())
    alone = json.loads(Path("data/shards/meta.json").read_text())
    # Each of these fails in episode 8 or 9, were the policy and the change of hands judged too.
    strict = {name: {"warn": 0.1, "fail": 0.3} for name in ("jump", "action_jump")}
    strict["diverging_action"] = {"warn": 0.05, "fail": 0.15}
    given = parameters(small_dataset, small_base, fetch__further=entry(corrections), audit__limits=strict)
    assert fetch.run(given).endswith("the last 2 episodes come from fetch.further")
    audit.run(given)
    assert json.loads(Path("data/episodes.json").read_text())["used"] == list(range(10)), (
        "a policy's jumps are no fault"
    )
    assert "windows of corrections" in window.run(given)
    meta = json.loads(Path("data/shards/meta.json").read_text())
    assert [one["corrections"] for one in meta["dataset"]["further"]] == [True], "what was trained on is on record"
    assert meta["splits"]["test"] == alone["splits"]["test"] and meta["statistics"] == alone["statistics"]
    assert set(meta["splits"]["train"]) == {*alone["splits"]["train"], 8, 9}
    table = pd.read_parquet("data/shards/windows.parquet")
    assert not table[table.episode < 8].intervention.any() and table[table.episode < 8].to_correction.isna().all()
    shards = Shards.open(Path("data/shards"))
    rows = np.flatnonzero(shards.window_episode == 8)
    valid = dict(zip(shards.window_step[rows].tolist(), shards.window_valid[rows].sum(1).tolist(), strict=True))
    # 16 targets, but none beyond the changes of hands at 20 and 32 and the end at 60
    ends = {step: next(end for end in (20, 32, 60) if step < end) for step in range(0, 60, 4)}
    assert valid == {step: min(16, end - step) for step, end in ends.items()}
    first = table[table.episode == 8].set_index("step")
    assert first.intervention.to_dict() == {step: 20 <= step < 32 for step in range(0, 60, 4)}
    assert first.to_correction[0] == 2.0 and first.to_correction[20] == 0.0 and np.isinf(first.to_correction[32])
    counts = json.loads(Path("metrics/window.json").read_text())["windows"]["train"]
    assert counts["corrections"] == 3 and counts["autonomous"] == len(table[table.episode >= 8]) - 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fps": 20}, "fps: found 20; legal: 10, as"),
        ({"joints": ["a.pos", *JOINTS[1:]]}, "joints: found a.pos"),
        ({"size": (32, 64)}, "camera observation.images.up: found"),
        ({"cameras": ("observation.images.up",)}, "camera observation.images.wrist: found None"),
    ],
)
def test_another_robot_rate_or_camera_is_refused(project, small_dataset, small_base, tmp_path, changes, words):
    folder = write_dataset(tmp_path / "other", lengths=(10,), corrected=lambda *_: True, **changes)
    with pytest.raises(SigmaError, match=rf"params.yaml: fetch.further.0.source: .*{words}"):
        fetch.run(parameters(small_dataset, small_base, fetch__further=entry(folder)))
    assert not Path("data").exists()


def test_a_training_goes_on_from_an_earlier_sigma(trained, own):
    earlier = trained.root / "models/sigma"
    with inside(own.root):
        own.run("fetch", changes={"fetch": {"start": str(earlier)}})
        model = own.trainer_from(Path("data/start/model")).build()
    heads, stored = load_file(earlier / HEADS), load_file(earlier / lora.WEIGHTS)
    with pytest.raises(SigmaError, match=r"lora.alpha: found 8.0, but fetch.start .* has 4.0; legal: 4.0"):
        own.run("finetune", changes={"lora": {"alpha": 8.0}})  # the fetch stage need not run for it
    assert all(torch.equal(value, heads[name]) for name, value in model.heads.state_dict().items())
    found = {name.replace(".default", ""): value for name, value in lora.named_parameters(model.adapted).items()}
    assert same(found, stored)
    own.run("finetune", changes={"train": {"steps": 2, "lora_learning_rate": 0.0, "select": "last"}})
    assert same(load_file(own.root / "models/sigma" / lora.WEIGHTS), stored), "LoRA is kept"
    assert not same(load_file(own.root / "models/sigma" / HEADS), heads), "the heads go on"
    begun = json.loads((own.root / "models/sigma/config.json").read_text())["start"]
    assert begun == {"source": str(earlier), "digest": digest_folder(own.root / "data/start/model")}


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in second)


@pytest.mark.parametrize(
    ("start", "changes", "words"),
    [
        ("nowhere", {}, "fetch.start: 'nowhere' is no folder of a trained Sigma"),
        ("model", {"telepathy": {"factors": 7}}, "telepathy.factors: found 7, but fetch.start .* has"),
        ("model", {"lora": {"rank": 3}}, "lora.rank: found 3, but fetch.start .* has"),
        ("other base", {}, "fetch.start: .* was trained on another base"),
    ],
)
def test_a_start_that_does_not_fit_is_refused_by_the_first_stage(trained, own, tmp_path, start, changes, words):
    folder = Path(start)
    if start != "nowhere":
        folder = shutil.copytree(trained.root / "models/sigma", tmp_path / "earlier")
    if start == "other base":
        config = json.loads((folder / "config.json").read_text())
        config["base"]["digest"] = "0" * 64
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SigmaError, match=f"params.yaml: {words}"):
        own.run("fetch", changes={"fetch": {"start": str(folder)}, **changes})
