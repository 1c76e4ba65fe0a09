"""Flow matching alone: what it trains, what selects, and that a killed run ends as if it never was."""

import numpy as np
import pytest
import torch

from sigma.policy.model import lora
from sigma.policy.model.model_folder import base_digest
from sigma.policy.pi05.base import load_base
from sigma.policy.pi05.description import describe_base
from sigma.shared.errors import SigmaError
from sigma.studies.study.train.flow_trainer import FlowTrainer
from sigma.studies.study.train.training import new_trainer, write_arm_model
from sigma.training.flow import FlowModel
from sigma.training.state import Scratch
from sigma.training.trainer import TrainingResult
from tests.training.test_trainer import interrupt, steps_taken
from tests.worlds import World

SHORT = {"train": {"steps": 4, "validate_every": 2, "lora_learning_rate": 0.02}}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Every test has its own place for checkpoints."""
    monkeypatch.setenv("SIGMA_SCRATCH", str(tmp_path / "scratch"))


def train(world: World, kind: str, *changes) -> TrainingResult[FlowModel]:
    trainer = new_trainer(kind, world.material(), world.configure(SHORT, *changes))
    with Scratch.open(trainer.key()) as scratch:
        result = trainer.run(scratch)
        scratch.clear()
    return result


@pytest.fixture(scope="module")
def tuned(prepared, tmp_path_factory) -> dict[str, TrainingResult[FlowModel]]:
    """Both kinds, trained for a few steps; read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGMA_SCRATCH", str(tmp_path_factory.mktemp("flow") / "scratch"))
        return {kind: train(prepared, kind) for kind in ("lora", "full")}


@torch.no_grad()
def actions(model: FlowModel, batches) -> torch.Tensor:
    rows = np.arange(6)
    return batches.decide(model.policy, model.adapted_pass(*batches.observation(rows)).encoded, rows, "zero_noise")


def test_full_training_moves_vision_language_and_expert_and_lora_none_of_the_base(prepared, tuned):
    before = prepared.base().policy.state_dict()
    after = tuned["full"].model.policy.state_dict()
    moved = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    for part in (
        ".vision_tower.",
        ".multi_modal_projector.",
        ".embed_tokens.",
        ".language_model.layers.0.",
        "gemma_expert.",
    ):
        assert any(part in name for name in moved), part
    assert not any("lm_head" in name for name in moved)
    assert base_digest(tuned["lora"].model.policy) == base_digest(prepared.base().policy)
    assert tuned["full"].trainable > 20 * tuned["lora"].trainable


def test_the_saved_model_acts_as_the_trained_one_to_the_bit(prepared, tuned, tmp_path):
    for kind, result in tuned.items():
        write_arm_model(result, tmp_path / kind)
    batches = prepared.material()
    reloaded = FlowModel(lora.load(batches.base.policy, tmp_path / "lora")).eval()
    assert torch.equal(actions(reloaded, batches), actions(tuned["lora"].model, tuned["lora"].batches))
    assert not (tmp_path / "lora/config.json").exists()
    # A whole checkpoint is a base: strictly loaded, with the processors and statistics that the base has.
    reference = describe_base(str(tmp_path / "full"), None)
    base = load_base(reference)
    trained = tuned["full"].model.policy.state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in base.policy.state_dict().items())
    origin = prepared.base()
    for name, quantiles in origin.statistics.items():
        np.testing.assert_array_equal(base.statistics[name].q01, quantiles.q01)
        np.testing.assert_array_equal(base.statistics[name].q99, quantiles.q99)
    assert {path.name for path in (tmp_path / "full").iterdir()} == {
        path.name for path in (prepared.root / "base").iterdir()
    }


def test_a_checkpoint_trained_in_the_datasets_statistics_is_saved_with_them(prepared, tmp_path):
    world = prepared.copy(tmp_path / "world")
    change = {"base": {"statistics": "dataset"}}
    world.run("baseline", changes=change)
    result = train(world, "full", change, {"train": {"steps": 1}})
    write_arm_model(result, tmp_path / "full")
    found = load_base(describe_base(str(tmp_path / "full"), None)).statistics
    expected = result.batches.builder.normalisation
    for name, quantiles in (("observation.state", expected.state), ("action", expected.action)):
        np.testing.assert_allclose(found[name].q01, quantiles.q01, rtol=1e-6)
        np.testing.assert_allclose(found[name].q99, quantiles.q99, rtol=1e-6)
    assert not np.allclose(found["action"].q01, world.base().statistics["action"].q01)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_flow_loss_selects_and_the_action_from_zero_noise_is_recorded_beside_it(prepared, tuned, kind):
    result = tuned[kind]
    points = result.curve.validation
    assert [point["step"] for point in points] == [2, 4] and all(point["mse_plan"] > 0 for point in points)
    assert (result.validation, result.selected) == min((point["value"], point["step"]) for point in points)


def test_checkpointed_layers_train_plain_lora_to_the_same_loss(prepared):
    losses = []
    for on in (False, True):
        changes = {"train": {"gradient_checkpointing": on}}
        trainer = new_trainer("lora", prepared.material(), prepared.configure(SHORT, changes))
        phase = trainer.phase(trainer.build())
        losses.append([])
        for phase.step in range(3):
            losses[-1].append(phase._optimize())
    assert losses[1] == losses[0]


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize(("after", "resumed"), [(1, [0, 1, 2, 3]), (3, [2, 3])])
def test_an_interrupted_training_ends_as_an_uninterrupted_one_to_the_bit(
    prepared, tuned, monkeypatch, kind, after, resumed
):
    undo = interrupt(monkeypatch, after)
    with pytest.raises(KeyboardInterrupt):
        train(prepared, kind)
    undo()
    steps = steps_taken(monkeypatch)
    result = train(prepared, kind)
    assert steps == resumed
    expected = tuned[kind]
    assert (result.validation, result.selected, result.trainable) == (
        expected.validation,
        expected.selected,
        expected.trainable,
    )
    assert result.curve.train == expected.curve.train
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(result.model.state_dict()[name], tensor), name


def test_kinds_rates_and_seeds_have_keys_of_their_own(prepared):
    def key(kind, *changes):
        return new_trainer(kind, prepared.material(), prepared.configure(SHORT, *changes)).key()

    others = [key("full"), key("sigma"), key("lora", {"train": {"seed": 1}}), key("lora", {"lora": {"rank": 3}})]
    assert len({key("lora"), *others}) == 5 and key("lora") == key("lora")


def test_a_learning_rate_of_zero_is_refused(prepared):
    parameters = prepared.configure(SHORT, {"train": {"lora_learning_rate": 0.0}})
    with pytest.raises(SigmaError, match=r"train\.lora_learning_rate: found 0 with flow matching alone; legal: > 0"):
        FlowTrainer(prepared.material(), parameters, "lora")


def test_a_base_without_statistics_cannot_be_saved_and_so_is_not_trained_whole(prepared):
    from dataclasses import replace

    batches = prepared.material()
    batches.base = replace(batches.base, statistics=None)
    with pytest.raises(SigmaError, match="without statistics cannot be saved"):
        new_trainer("full", batches, prepared.configure(SHORT))
