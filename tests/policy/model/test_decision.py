"""One decision of Sigma: the base to the bit before training, factors that LoRA cannot move, and what then moves it."""

import numpy as np
import pytest
import torch

from sigma.policy.model import lora
from sigma.policy.model.decision import AdaptedPass, SigmaModel
from sigma.policy.model.heads import FILE
from sigma.policy.model.model_folder import base_digest, load_model, read_config
from sigma.policy.pi05 import prefix
from sigma.policy.pi05.observation import base_pass
from sigma.training.batches import WindowBatches
from tests.worlds import World

STEPS = 5


def windows_with_past(batches: WindowBatches, count: int = 4) -> np.ndarray:
    """Windows that memory has read twice or more before, of more episodes than one."""
    reads = batches.shards.memory_reads(np.arange(len(batches.split)))
    return np.flatnonzero(reads >= 2)[:: len(reads) // (2 * count)][:count]


def fresh_model(world: World, *changes) -> tuple[SigmaModel, WindowBatches, np.ndarray]:
    """An untrained Sigma, its inputs, and four windows that have a past."""
    trainer = world.trainer(*changes)
    return trainer.build().eval(), trainer.batches, windows_with_past(trainer.batches)


def awake_model(world: World, *changes) -> tuple[SigmaModel, WindowBatches, np.ndarray]:
    """The same with random numbers for everything that begins at zero, so that every part acts."""
    model, batches, rows = fresh_model(world, *changes)
    awaken(model)
    return model, batches, rows


def awaken(model: SigmaModel) -> None:
    heads, draw = model.heads, torch.Generator().manual_seed(0)
    maps = list(heads.branches.maps.parameters()) if heads.branches else []
    if heads.film is not None:
        maps.append(heads.film.modulation.weight)
    for parameter in (*lora.lora_parameters(model.adapted), *maps):
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=draw)


def trained_model(world: World) -> tuple[SigmaModel, WindowBatches, np.ndarray]:
    """The world's trained Sigma on a fresh base, its inputs, and four windows that have a past."""
    batches, folder = world.material(), world.root / "models/sigma"
    model = load_model(batches.base.policy, folder, read_config(folder), folder / FILE)
    return model, batches, windows_with_past(batches)


def one_noise(rows: np.ndarray) -> torch.Tensor:
    return torch.randn(len(rows), 1, 16, 6, generator=torch.Generator().manual_seed(3))


def actions(policy, encoded, rows, steering=None) -> torch.Tensor:
    return prefix.integrate(policy, encoded, one_noise(rows), STEPS, steering)


def acted(model: SigmaModel, passed: AdaptedPass, rows: np.ndarray) -> torch.Tensor:
    return actions(model.policy, passed.encoded, rows, passed.steering)


@torch.no_grad()
def test_before_training_sigma_is_the_base_to_the_bit_in_action_and_loss(prepared):
    model, batches, rows = fresh_model(prepared)
    assert model.heads.film is not None and len(model.heads.branches.maps) == 4
    untouched = prepared.base().policy
    observation, past = batches.observation(rows)
    expected, passed = base_pass(untouched, observation), model.adapted_pass(observation, past)
    assert passed.telepathy.factors.any()
    assert torch.equal(acted(model, passed, rows), actions(untouched, expected.encoded, rows))
    targets = torch.from_numpy(batches.builder.normalisation.action.normalise(batches.shards.window_action[rows]))
    given = targets, one_noise(rows), torch.linspace(0.1, 1.0, len(rows))[:, None]
    losses = (
        prefix.flow_matching_loss(model.policy, passed.encoded, *given, passed.steering),
        prefix.flow_matching_loss(untouched, expected.encoded, *given),
    )
    assert torch.equal(*losses)


@torch.no_grad()
def test_after_training_the_frozen_base_comes_back_to_the_bit(trained):
    model, batches, rows = trained_model(trained)
    untouched = trained.base().policy
    assert base_digest(model.policy) == base_digest(untouched)
    observation, past = batches.observation(rows)
    expected, frozen = base_pass(untouched, observation), model.frozen_pass(observation)
    assert torch.equal(frozen.pooled, expected.pooled)
    plain = actions(untouched, expected.encoded, rows)
    with lora.disabled(model.adapted):
        assert torch.equal(actions(model.policy, frozen.encoded, rows), plain)
    moved = acted(model, model.adapted_pass(observation, past), rows)
    assert (moved - plain).abs().max() > 0.01, "Sigma must have learned, or this shows nothing"


def test_training_leaves_every_base_tensor_as_it_was(own):
    from sigma.training.state import Scratch

    trainer = own.trainer({"train": {"steps": 2, "learning_rate": 0.1, "lora_learning_rate": 0.1}})
    before = base_digest(trainer.batches.base.policy)
    with Scratch.open(trainer.key()) as scratch:
        model = trainer.run(scratch).model
    assert base_digest(model.policy) == before


@torch.no_grad()
@pytest.mark.parametrize("tokens", [0, 2])
def test_lora_film_and_tokens_cannot_move_the_factors(prepared, tokens):
    """CHECK A by construction: what the control reads of the telepathy path is what Sigma reads, to the bit."""
    model, batches, rows = awake_model(prepared, {"telepathy": {"factor_tokens": tokens}})
    observation, past = batches.observation(rows)
    sigma = model.adapted_pass(observation, past)
    with lora.disabled(model.adapted):
        control = model.adapted_pass(observation, past, film=False)
    assert not torch.equal(acted(model, sigma, rows), acted(model, control, rows))
    for name, value in vars(sigma.telepathy).items():
        assert torch.equal(getattr(control.telepathy, name), value), name


@torch.no_grad()
def test_each_part_that_the_factors_act_through_changes_the_action(prepared):
    model, batches, rows = awake_model(prepared, {"telepathy": {"factor_tokens": 2}})
    observation, past = batches.observation(rows)
    whole = acted(model, model.adapted_pass(observation, past), rows)

    def differs(passed: AdaptedPass) -> bool:
        return (acted(model, passed, rows) - whole).abs().amax(dim=(1, 2, 3)).min() > 1e-3

    assert differs(model.adapted_pass(observation, past, film=False))
    with lora.disabled(model.adapted):
        assert differs(model.adapted_pass(observation, past))
    for name, layer in (*model.heads.branches.maps.items(), ("tokens", model.heads.factor_tokens.project)):
        weight = layer.weight.clone()
        layer.weight.zero_()
        assert differs(model.adapted_pass(observation, past)), name
        layer.weight.copy_(weight)
    assert not differs(model.adapted_pass(observation, past)), "each part is back"


@torch.no_grad()
def test_a_carried_memory_and_the_past_that_it_was_read_from_decide_alike(prepared):
    model, batches, rows = awake_model(prepared)
    path, shards = model.heads.path, batches.shards
    observation, past = batches.observation(rows)
    assert past.reads.min() >= 2
    for place, window in enumerate(rows):
        row = torch.tensor([place])
        carried = path.start(observation.text[row])
        for frame in batches.memory_frames[int(shards.window_episode[window])][: int(past.reads[place])]:
            vision = batches.builder.encode_images(shards.images(np.array([frame])))
            seen = batches.builder.observation(
                vision, shards.frame_state[[frame]], [shards.tasks[shards.frame_task[frame]]]
            )
            carried = path.read(carried, seen)
        one, _ = batches.observation(rows[[place]])
        alone, together = model.telepathy(one, carried), model.telepathy(observation, past)
        torch.testing.assert_close(alone.factors[0], together.factors[place], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(alone.memory, path.start(one.text).memory, atol=1e-3)


def flow_loss(model: SigmaModel, batches: WindowBatches, rows: np.ndarray) -> torch.Tensor:
    passed = model.adapted_pass(*batches.observation(rows))
    targets, time = torch.zeros(len(rows), 16, 6), torch.full((len(rows), 1), 0.5)
    return prefix.flow_matching_loss(
        model.policy, passed.encoded, targets, one_noise(rows), time, passed.steering
    ).mean()


def reached(module: torch.nn.Module) -> set[str]:
    return {name for name, one in module.named_parameters() if one.grad is not None and one.grad.any()}


def test_flow_matching_teaches_lora_and_all_heads_and_nothing_of_the_base(prepared):
    # Nothing attends to the last layer's queries and outputs of the language model; all else of LoRA's is reached.
    silent = "paligemma.model.language_model.layers.1.self_attn."
    for make, factor in ((fresh_model, "B"), (awake_model, "[AB]")):
        model, batches, rows = make(prepared)
        model.train()
        flow_loss(model, batches, rows).backward()
        named = dict(model.adapted.named_parameters())
        expected = {
            name
            for name in named
            if f".lora_{factor}." in name or (factor != "B" and ".lora_" in name)
            if not any(f"{silent}{part}_proj" in name for part in "qo")
        }
        assert reached(model.adapted) == expected
        maps = {name for name in dict(model.heads.named_parameters()) if name.startswith(("film.", "branches."))}
        if factor == "B":  # what acts begins at zero: its maps are the first to learn
            assert reached(model.heads) == maps - {"film.log_gain"}
        else:
            unread = ("path.semantic_head.", "path.intent_view.", "path.beginning.")
            named = {name for name, _ in model.heads.named_parameters() if not name.startswith(unread)}
            assert reached(model.heads) == named


@torch.no_grad()
def test_alignment_is_the_cosine_to_the_instructions_embedding(trained):
    model, batches, rows = trained_model(trained)
    observation, past = batches.observation(rows)
    telepathy = model.telepathy(observation, past)
    embedded = prefix.text_embeddings(model.policy, observation.tokens).numpy()
    for row in range(len(rows)):
        text = embedded[row][observation.groups[row].numpy() == 1].mean(axis=0)
        semantic = telepathy.semantic[row].numpy()
        cosine = text @ semantic / np.linalg.norm(text) / np.linalg.norm(semantic)
        assert telepathy.alignment[row].item() == pytest.approx(cosine, abs=1e-5)
