"""The pipeline through DVC, as a user runs it, in a clone of its own on a small dataset."""

import json
import shutil
from pathlib import Path

import pytest

from tests.imports import ROOT
from tests.projects import run
from tests.worlds import inside


def metrics(folder: Path, name: str) -> dict:
    return json.loads((folder / "metrics" / f"{name}.json").read_text(encoding="utf-8"))


def test_repro_writes_both_checks_and_a_page(clone):
    assert set(metrics(clone, "check_b")["test"]) >= {"mse_vec", "mse_chk", "mse_trj", "mse_plan"}
    assert metrics(clone, "check_a")["digest"]["sigma"] == metrics(clone, "check_a")["digest"]["baseline"]
    page = (clone / "reports/index.html").read_text(encoding="utf-8")
    assert "CHECK A" in page and "CHECK B" in page
    assert set(metrics(clone, "baseline")["test"]) == set(metrics(clone, "sigma")["test"])


def test_second_repro_does_nothing(clone):
    before = (clone / "dvc.lock").read_bytes()
    output = run(clone, "dvc", "repro")
    assert "up to date" in output and "Running stage" not in output
    assert (clone / "dvc.lock").read_bytes() == before


@pytest.fixture(scope="module")
def fresh(clone, tmp_path_factory) -> Path:
    """As in a fresh clone: DVC's graph spans ``stages/``, whose outputs no cache holds."""
    folder = shutil.copytree(clone, tmp_path_factory.mktemp("fresh") / "project", symlinks=True)
    for name in run(ROOT, "git", "ls-files", "stages").split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    run(folder, "git", "add", "stages")
    run(folder, "git", "commit", "-qm", "further pipelines")
    return folder


def test_adapter_off_gives_the_baseline_to_the_bit_and_the_diff_shows_sigma(fresh):
    """In a project where the further pipelines were never run."""
    options = ["-S", "adapter.max_scale=0", "-S", "adapter.min_scale=0", "-n", "frozen"]
    output = run(fresh, "dvc", "exp", "run", "--temp", *options)
    assert output.count("Running stage") == 1 and "Running stage 'report'" in output
    compared = json.loads(run(fresh, "dvc", "metrics", "diff", "--json", "frozen", printed=True))
    difference = compared["metrics/sigma.json"]
    assert {key.partition(".")[0] for key in difference} == {"test", "train", "validation"}
    changed = {key.removeprefix("test."): value for key, value in difference.items() if key.startswith("test.mse_")}
    baseline = metrics(fresh, "baseline")["test"]
    assert set(changed) == {key for key in baseline if key.startswith("mse_")}
    for key, value in changed.items():
        assert value["old"] == baseline[key], key
        assert value["new"] == metrics(fresh, "sigma")["test"][key], key


def test_loss_change_reruns_from_training_and_earlier_values_come_from_the_run_cache(clone):
    before = (clone / "dvc.lock").read_bytes()
    output = run(clone, "dvc", "exp", "run", "-S", "loss.tau=0.3")
    assert "Running stage 'finetune'" in output and "Running stage 'baseline'" not in output
    assert (clone / "dvc.lock").read_bytes() != before
    output = run(clone, "dvc", "exp", "run", "-S", "loss.tau=0.1")
    assert "Running stage 'finetune'" not in output.replace("is cached - skipping run", "")
    assert (clone / "dvc.lock").read_bytes() == before
    run(clone, "git", "checkout", "-q", "--", ".")


@pytest.mark.slow
def test_queued_sweep_runs_each_value(clone):
    run(clone, "dvc", "exp", "run", "--queue", "-S", "adapter.threshold=5,7")
    run(clone, "dvc", "queue", "start", "-j", "1")
    import time

    for _ in range(120):
        status = run(clone, "dvc", "queue", "status")
        if status.count("Success") == 2:
            break
        assert "Failed" not in status, status
        time.sleep(2)
    else:
        pytest.fail(status)
    run(clone, "dvc", "queue", "stop")


CARD_EXAMPLE = """
import torch
from sigma import SigmaTelepathyAdapter, SigmaTelepathyVLA
from sigma.shared.files import read_json
from sigma.policy.pi05.base import load_base

base = load_base(read_json("data/base.json"))
sigma_policy = SigmaTelepathyVLA.from_base(
    base_policy=base.policy,
    lora_dir="./models/sigma",
    telepathy_heads_path="./models/sigma/sigma_telepathy_heads.pt",
    device="cpu",
    dtype=torch.float32,
)
adapter = SigmaTelepathyAdapter(min_scale=0.0, max_scale=1.0, risk_temperature=1.0)
batch = {
    "vis_obs": torch.rand(2, 16, 2, 3, 96, 96),
    "robot_state": torch.zeros(2, 16, 6),
    "texts": ["put the cube in the red box", "put the cube in the blue box"],
}
with torch.no_grad():
    out = sigma_policy(**batch, use_telepathy=True)
    blended_action = adapter(
        base_action_vector=out["base_action_vector"],
        telepathy_residual=out["telepathy_residual_vector"],
        telepathy_factors=out["telepathy_factors"],
    )
assert blended_action.shape == (2, 6) and torch.isfinite(blended_action).all()
assert out["telepathy_residual_vector"].abs().max() > 0
assert not torch.equal(blended_action, out["base_action_vector"])
with torch.no_grad():
    alone = sigma_policy(**batch, use_telepathy=False)
assert torch.equal(alone["base_action_trajectory"], out["base_action_trajectory"])
"""


def test_the_source_cards_example_runs_on_the_embedded_base(clone):
    with inside(clone):
        exec(CARD_EXAMPLE, {})
