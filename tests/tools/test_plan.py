"""The plan: sizes from LeRobot's own class, memory from the real step's operations, and a verdict."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from sigma.parameters import read_parameters
from sigma.policy.model import lora
from sigma.policy.pi05 import prefix
from sigma.shared.hub import snapshot
from sigma.tools import footprint, plan, profile
from sigma.training.objectives import FlowObjective
from tests import hub as stub
from tests.datasets import write_dataset
from tests.imports import ROOT

FULL = "pi05_so101"
# The action expert is 1024 wide, its attention as wide as the language model's.
EXPERT_LORA = 18 * 16 * ((1024 + 2048) + 2 * (1024 + 256) + (2048 + 1024))


def count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def profiled(name: str = FULL, **changes) -> dict:
    values = profile.load(name)
    for key, value in changes.items():
        section, _, leaf = key.partition("__")
        values[section][leaf] = value
    return read_parameters(Path(name), values)


@pytest.fixture(scope="module")
def full():
    """Sigma on the full π0.5, on the meta device; no test may keep what it changes there."""
    parameters = profiled()
    config, _ = plan.base_configuration(parameters)
    return footprint.build_footprint(config, parameters)


@pytest.fixture(scope="module")
def small(trained):
    """The trained tiny world's sizes, on the meta device."""
    return plan.sigma_here(trained.configure())[2]


def test_the_full_policy_has_the_published_sizes(full):
    counts = {name: group.parameters for name, group in full.frozen.items()}
    # SigLIP So400m/14 at 224 px without its head, Gemma 2B, Gemma 300M with adaRMS: counted by hand from their papers.
    width, layers, mlp, patch = 1152, 27, 4304, 14
    block = 4 * (width * width + width) + 2 * width * mlp + mlp + width + 4 * width
    vision = 3 * patch * patch * width + width + 256 * width + layers * block + 2 * width + (width + 1) * 2048
    assert counts["vision tower and projector"] == vision
    gemma = 257152 * 2048 + 18 * (2 * 2048 * 2048 + 2 * 2048 * 256 + 3 * 2048 * 16384 + 2 * 2048) + 2048
    assert counts["language model"] == gemma
    assert counts["language-model heads, unused"] == 257152 * (2048 + 1024)
    assert (
        sum(counts.values())
        == count(full.work.model.policy) - full.trainable["LoRA on the language model"].parameters - EXPERT_LORA
    )
    # bf16, but for the vision path, the norms, and the projections outside the two towers.
    wide = vision + 18 * 2 * 2048 + 2048 + counts["action and time projections"]
    assert full.weights() == 2 * sum(counts.values()) + 2 * wide + _float32_norms(full)


def _float32_norms(full) -> int:
    """Two more bytes for each number of the expert's norms, which LeRobot keeps in float32 by their names."""
    expert = full.work.model.policy.model.paligemma_with_expert.gemma_expert
    kept = ("input_layernorm", "post_attention_layernorm", "model.norm")
    chosen = [p for name, p in expert.named_parameters() if any(part in name for part in kept)]
    return 2 * sum(parameter.numel() for parameter in chosen)


def test_lora_of_the_full_model_has_the_published_modules(full):
    assert len(lora.lora_layers(full.work.model.adapted)) == 2 * 72
    # By hand: rank · (in + out) of q (2048 → 2048), k and v (2048 → 256), o (2048 → 2048), in 18 layers.
    language = 18 * 16 * ((2048 + 2048) + 2 * (2048 + 256) + (2048 + 2048))
    assert full.trainable["LoRA on the language model"].parameters == language == 3_686_400
    assert full.trainable["LoRA on the action expert"].parameters == EXPERT_LORA
    assert full.trained == 4 * (language + EXPERT_LORA + full.trainable["heads"].parameters)


def test_counts_on_the_meta_device_are_those_of_a_real_training(trained, small):
    trainer = trained.trainer()
    model = trainer.build()
    assert small.trainable["heads"].parameters == count(model.heads)
    assert small.trained == 4 * (
        count(model.heads) + sum(parameter.numel() for parameter in lora.lora_parameters(model.adapted))
    )
    assert small.work.sizes == model.heads.sizes
    assert small.weights() == sum(
        p.numel() * p.element_size() for n, p in model.policy.named_parameters() if ".lora_" not in n
    )


def allocator_peak(work) -> int:
    """The most bytes that torch's CPU allocator had given out during ``work``, by its own records.

    The least of three times: what other threads of the process take meanwhile is recorded too.
    """
    return min(_recorded_peak(work) for _ in range(3))


def _recorded_peak(work) -> int:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        kept = work()
    del kept
    now = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_training_step_takes_what_the_plan_says(trained, checkpointing):
    changes = {"train": {"gradient_checkpointing": checkpointing, "batch": 8}}
    parameters = trained.configure(changes)
    _, _, meta = plan.sigma_here(parameters)
    planned = meta.peak(meta.work.training_step(8), 8)
    trainer = trained.trainer(changes)
    trainer.batches.cache_vision(trainer.parts["train"], 8)
    model = trainer.build()
    objective = FlowObjective(model, trainer.batches, parameters.train, parameters.loss, trainer.parts)

    def work():
        objective.loss(np.arange(8), 0, 0, 8)[0].backward()

    work()  # what is made once, such as buffers of kernels, is no part of a step
    model.zero_grad(set_to_none=True)
    assert allocator_peak(work) == pytest.approx(planned, rel=0.15)


@torch.no_grad()
def test_decisions_take_what_the_plan_says(trained, small):
    trainer = trained.trainer()
    model = trainer.build().eval()
    observation, past = trainer.batches.observation(trainer.parts["train"][:4])
    policy = model.policy
    noise = torch.zeros(4, 3, policy.config.chunk_size, policy.config.max_action_dim)

    def base():
        return prefix.integrate(policy, model.frozen_pass(observation).encoded, noise, 1)

    def sigma():
        passed = model.adapted_pass(observation, past)
        return prefix.integrate(policy, passed.encoded, noise, 1, passed.steering)

    for job, planned in ((base, small.work.base_decision(4, 3)), (sigma, small.work.sigma_decision(4, 3))):
        job()
        assert allocator_peak(job) == pytest.approx(small.peak(planned, 4), rel=0.15)


@pytest.mark.minutes
def test_memory_grows_with_the_batch_and_falls_with_checkpointing(full):
    checkpointed = full.peak(full.work.training_step(4), 4)
    assert full.peak(full.work.training_step(1), 1) < checkpointed
    plain = profiled(train__gradient_checkpointing=False)
    config, _ = plan.base_configuration(plain)
    kept = footprint.build_footprint(config, plain)
    assert kept.peak(kept.work.training_step(4), 4) > 5 * checkpointed


@pytest.mark.minutes
def test_the_same_plan_comes_out_again(full):
    """Addresses of freed tensors are given out again, which the count must not take for the old ones."""
    decision = full.work.sigma_decision(4, 3)
    assert len({full.peak(decision, 4) for _ in range(3)}) == 1


def test_the_shipped_profile_is_planned_without_a_download(tmp_path, monkeypatch):
    with stub.serve() as hub:
        stub.connect(monkeypatch, hub, tmp_path / "cache")
        (tmp_path / "dataset").mkdir()
        (tmp_path / "dataset/file.bin").write_bytes(bytes(12345))
        commit = hub.add("dataset", "lerobot/svla_so101_pickplace", tmp_path / "dataset")
        values = profile.load(FULL)
        values["fetch"]["dataset"]["revision"] = commit
        found = plan.run(read_parameters(Path(FULL), values), memory=24)
        assert not [one for one in hub.requests if "/resolve/" in one.path or "/cdn/" in one.path]
    assert found.disk["Hub cache: dataset"] == 12345
    assert found.disk["Hub cache: base, if stored in float32"] == 4 * 4_143_404_816
    assert found.disk["data/shards, at most"] is None
    assert found.fits is True and found.verdict.startswith("fits: ")
    assert [stage.stage for stage in found.memory] == [
        "baseline",
        "finetune",
        "sigma",
        "one decision, scale 1",
        "one decision, adapter",
    ]
    buffer = io.StringIO()
    plan.show(found, Console(file=buffer, width=120))
    text = buffer.getvalue()
    assert "3,686,400" in text and "not known before the fetch" in text
    assert text.rstrip().splitlines()[-1] == found.verdict


def test_a_device_that_is_too_small_or_absent_is_said(monkeypatch):
    parameters = read_parameters(ROOT / "params.yaml")
    found = plan.run(parameters, memory=0.5)
    assert found.fits is False and "does not fit" in found.verdict and "lower train.batch" in found.verdict
    assert plan.run(parameters).fits is True
    assert found.disk["data/shards, at most"] > 0 and "Hub cache: dataset" not in found.disk
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    away = plan.run(read_parameters(Path("p"), profile.load("embedded") | {"machine": _cuda()}))
    assert away.fits is None and "name its memory: --memory GIB" in away.verdict


def _cuda() -> dict:
    return profile.load("embedded")["machine"] | {"device": "cuda"}


def test_what_no_stage_reads_is_not_counted_on_a_gpu(full, monkeypatch):
    heads = full.frozen[footprint.UNUSED].bytes
    assert full.weights() - full.weights("cuda") == heads > 2**30
    monkeypatch.setattr(footprint.Footprint, "peak", lambda *_: 0)  # weights alone are compared here
    stages = {stage.stage: stage.weights for stage in plan.stages(full, full.work.parameters, "cuda")}
    assert stages.pop("baseline") == full.weights("cuda")
    assert set(stages.values()) == {full.weights("cuda") + full.trained}


def test_processes_that_split_the_layers_hold_a_part_of_them_each(trained, monkeypatch):
    parameters = profiled(base__dtype="float32", machine__processes=4, machine__fsdp=True)
    config, _ = plan.base_configuration(parameters)
    split = footprint.build_footprint(config, parameters)
    # By hand: 27 blocks of SigLIP, 17 of Gemma 2B's 18 layers, in four bytes a number; a layer at a time is whole.
    vision = 4 * (1152 * 1152 + 1152) + 2 * 1152 * 4304 + 4304 + 1152 + 4 * 1152
    language = 2 * 2048 * 2048 + 2 * 2048 * 256 + 3 * 2048 * 16384 + 2 * 2048
    monkeypatch.setattr(footprint.Footprint, "peak", lambda *_: 0)  # weights alone are compared here
    saved = 4 * ((27 * vision + 17 * language) * 3 // 4 - language)
    whole = plan.stages(split, profiled(base__dtype="float32", machine__processes=4), "cuda")
    parts = plan.stages(split, parameters, "cuda")
    spared = {one.stage: one.weights - other.weights for one, other in zip(whole, parts, strict=True)}
    assert spared == {
        **dict.fromkeys(("baseline", "finetune", "sigma"), saved),
        **dict.fromkeys(("one decision, scale 1", "one decision, adapter"), 0),
    }
    several = {"machine": {"processes": 4}}
    found = plan.run(trained.configure(several, {"machine": {"fsdp": True}}), memory=0.5)
    assert any(note.startswith("memory is that of each of 4 processes") for note in found.notes)
    assert "machine.fsdp" not in found.verdict
    assert "or set machine.fsdp" in plan.run(trained.configure(several), memory=0.5).verdict


@pytest.mark.parametrize("joints", [None, 6])
def test_heads_are_planned_for_the_robots_joints(full, joints):
    """π0.5 declares 32; the heads say as many numbers as the robot has joints, where these are known."""
    parameters = profiled()
    config, _ = plan.base_configuration(parameters)
    sizes = footprint.build_footprint(config, parameters, joints).work.sizes
    assert (sizes.state_dim, sizes.action_dim) == ((joints or 32), (joints or 32))
    assert full.work.sizes.action_dim == 32


def test_the_joints_come_from_the_dataset_where_it_is_known(tmp_path, monkeypatch):
    assert len(plan.dataset_here(read_parameters(ROOT / "params.yaml")).joint_names) == 6
    monkeypatch.setattr(footprint.Footprint, "peak", lambda *_: 0)  # the disk and the notes are compared here
    with stub.serve() as hub:
        stub.connect(monkeypatch, hub, tmp_path / "cache")
        write_dataset(tmp_path / "dataset", lengths=(28,))
        commit = hub.add("dataset", "somebody/pickplace", tmp_path / "dataset")
        values = profile.load(FULL)
        values["fetch"]["dataset"] |= {"source": "somebody/pickplace", "revision": commit}
        parameters = read_parameters(Path(FULL), values)
        assert plan.dataset_here(parameters) is None
        assert any("counted with 32" in note for note in plan.run(parameters, memory=24).notes)
        snapshot("somebody/pickplace", commit, "dataset")
        fetched = plan.run(parameters, memory=24)
        assert not any("counted with" in note for note in fetched.notes)
        assert fetched.disk["data/shards, at most"] > 0 and fetched.disk["Hub cache: dataset"] > 0


def test_the_longest_episode_says_how_often_memory_reads(trained):
    """The tiny world's memory reads every fourth step."""
    parameters = trained.configure()
    longest = max(episode.length for episode in plan.dataset_here(parameters).episodes)
    assert plan.sigma_here(parameters)[2].work.reads == -(-longest // 4)


@pytest.mark.parametrize(
    ("on", "advice"), [(False, "or set train.gradient_checkpointing"), (True, "lower train.batch or machine.batch")]
)
def test_advice_is_what_is_not_done_yet(trained, on, advice):
    changes = {"train": {"gradient_checkpointing": on}}
    assert plan.run(trained.configure(changes), memory=0.5).verdict.endswith(advice)
