"""The rehearsal: at the sizes of the tiny world in every run, at full size where 16 GB are free (`make rehearsal`)."""

import json

import psutil
import pytest
import torch

from sigma.parameters import read_parameters
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json
from sigma.tools import footprint, plan, profile, rehearse
from tests.worlds import inside


@pytest.fixture(autouse=True)
def _unmeasured(request, monkeypatch):
    """Only the full size measures memory: glibc's setting would slow all later tests of the process, and collecting
    garbage takes long in a process that holds as much as this one."""
    if "fullsize" not in request.keywords:
        monkeypatch.setattr(rehearse, "_return_freed_memory", lambda: None)
        monkeypatch.setattr(rehearse.gc, "collect", lambda: 0)


def test_every_part_runs_at_small_sizes_and_comes_back_to_the_bit(trained, tmp_path):
    parameters = trained.configure({"train": {"gradient_checkpointing": True, "batch": 4}})
    lines: list[str] = []
    with inside(tmp_path):
        record = rehearse.run(parameters, report=lines.append)
    # rank 2 on q, k, v and o of two layers of each tower: q 24 or 16 → 8·4, k and v 24 or 16 → 4, o 8·4 → 24 or 16.
    parameters_of = {width: 2 * 2 * ((width + 32) + 2 * (width + 4) + (32 + width)) for width in (24, 16)}
    assert (record["lora_modules"], record["lora_parameters"]) == (16, sum(parameters_of.values()))
    assert list(record["parts"]) == [
        "build",
        "digest of the base",
        "LoRA and heads",
        "one decision",
        "one training step",
        "save",
        "reload",
    ]
    assert read_json(tmp_path / "logs/rehearsal.json") == json.loads(json.dumps(record))
    assert "digests equal after reload" in lines[-1]


def test_random_weights_are_the_same_again_and_of_the_types_that_lerobot_keeps(trained):
    from sigma.policy.model.model_folder import base_digest
    from sigma.tools.plan import base_configuration

    config, _ = base_configuration(trained.configure())
    first, second = (rehearse.random_policy(config, "bfloat16", 0) for _ in range(2))
    assert base_digest(first) == base_digest(second) != base_digest(rehearse.random_policy(config, "bfloat16", 1))
    real = type(first)(config)
    real.model.paligemma_with_expert.to_bfloat16_for_selected_params("bfloat16")
    assert {n: p.dtype for n, p in first.named_parameters()} == {n: p.dtype for n, p in real.named_parameters()}
    assert not any(tensor.is_meta for tensor in [*first.parameters(), *first.buffers()])


def test_what_does_not_come_back_is_an_error(trained, tmp_path, monkeypatch):
    from sigma.policy.model import heads

    load = heads.load_heads

    def careless(module, path):
        load(module, path)
        with torch.no_grad():
            next(module.parameters()).add_(1e-3)

    monkeypatch.setattr(heads, "load_heads", careless)
    with inside(tmp_path), pytest.raises(SigmaError, match="did not come back to the bit"):
        rehearse.run(trained.configure(), report=lambda _: None)
    assert not (tmp_path / "logs").exists()


def test_the_measured_rate_serves_a_plan_of_the_same_sizes_only(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(footprint.Footprint, "peak", lambda *_: 0)  # the time is compared here
    parameters = trained.configure()
    with inside(tmp_path):
        step = rehearse.run(parameters, report=lambda _: None)["parts"]["one training step"]["seconds"]
        assert plan.run(trained.configure({"train": {"batch": 2}})).time == {}
        found = plan.run(parameters)
    assert found.time == {
        "finetune, by one measured step": step * parameters.train.accumulation * parameters.train.steps
    }


@pytest.mark.fullsize
def test_the_full_size(tmp_path):
    free = psutil.virtual_memory().available / 2**30
    assert free > 16, f"the rehearsal needs 16 GiB of free memory, {free:.1f} are free"
    parameters = read_parameters(tmp_path, profile.load("pi05_so101"))
    with inside(tmp_path):
        record = rehearse.run(parameters)
    assert (record["lora_modules"], record["lora_parameters"]) == (144, 6_193_152)
    assert max(part["peak_mib"] for part in record["parts"].values()) < 22 * 1024
    trained = 4 * (record["lora_parameters"] + record["heads_parameters"]) / 2**20
    planned = record["planned_step_mib"] + 2 * trained
    assert record["parts"]["one training step"]["increment_mib"] == pytest.approx(planned, rel=0.15)
