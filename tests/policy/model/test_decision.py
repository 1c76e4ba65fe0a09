"""One decision: the base to the bit before training and with everything off, the past as the only other input."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sigma.policy.model import lora
from sigma.policy.model.decision import FactorSwap
from sigma.policy.model.model_folder import base_digest, load_model, read_config
from sigma.policy.pi05 import prefix
from sigma.policy.pi05.base_action import zero_noise_action
from sigma.policy.pi05.observation import base_pass
from sigma.shared.spans import SPANS
from sigma.training.objectives import ResidualObjective


def windows_with_past(material, count: int = 4) -> np.ndarray:
    """Windows whose whole history is there."""
    return np.flatnonzero((material.shards.window_frames >= 0).all(axis=1))[:count]


def fresh_model(world, *changes):
    """An untrained Sigma, its trainer, and four windows that have a past."""
    trainer = world.trainer(*changes)
    model = trainer.build().eval()
    return model, trainer, windows_with_past(trainer.material)


def trained_model(world):
    """The world's trained Sigma on a fresh base, with its material and four windows that have a past."""
    material, folder = world.material(), world.root / "models/sigma"
    model = load_model(material.base.policy, folder, read_config(folder), folder / "sigma_telepathy_heads.safetensors")
    return model, material, windows_with_past(material)


def actions(policy, encoded):
    return zero_noise_action(policy, encoded, 5)


@torch.no_grad()
@pytest.mark.parametrize("branch", ["frozen", "adapted"])
def test_before_training_sigma_is_the_base_to_the_bit(prepared, branch):
    nothing_appended = {"state_tokens": 0, "factor_tokens": 0}
    changes = {"base": {"branch": branch}, "train": {"flow_steps": 1}, "telepathy": nothing_appended}
    model, trainer, rows = fresh_model(prepared, changes)
    assert model.heads.state_encoder is None and model.heads.factor_tokens is None
    material = trainer.material
    untouched = prepared.base().policy
    observation = material.observation(rows)
    expected = base_pass(untouched, observation)
    for passed in (model.frozen_pass(observation), model.adapted_pass(observation)):
        assert torch.equal(passed.pooled, expected.pooled)
        assert torch.equal(actions(model.policy, passed.encoded), actions(untouched, expected.encoded))
    decision = model(observation, material.base_action(rows))
    assert not any(decision.residuals[span].any() for span in SPANS)
    assert decision.telepathy.anticipated.any()
    assert torch.equal(model.heads.film(observation.vision, decision.telepathy.anticipated), observation.vision)


@torch.no_grad()
def test_after_training_the_base_is_untouched_and_comes_back_to_the_bit(each_branch):
    model, material, rows = trained_model(each_branch)
    untouched = each_branch.base().policy
    assert base_digest(model.policy) == base_digest(untouched)
    observation = material.observation(rows)
    expected = base_pass(untouched, observation)
    frozen = model.frozen_pass(observation)
    assert torch.equal(frozen.pooled, expected.pooled)
    with lora.disabled(model.adapted):
        assert torch.equal(actions(model.policy, frozen.encoded), actions(untouched, expected.encoded))
    adapted = model.adapted_pass(observation)
    assert not torch.equal(adapted.pooled, expected.pooled), "LoRA must have learned, or this shows nothing"
    assert not torch.equal(actions(model.policy, adapted.encoded), actions(untouched, expected.encoded))
    assert any(parameter.any() for parameter in lora.lora_parameters(model.adapted))


@pytest.mark.parametrize("changes", [{}, {"base": {"branch": "adapted"}, "train": {"flow_steps": 2}}])
def test_training_leaves_every_base_tensor_as_it_was(own, changes):
    from sigma.training.state import Scratch

    trainer = own.trainer(changes, {"train": {"steps": 2, "learning_rate": 0.1, "lora_learning_rate": 0.1}})
    before = base_digest(trainer.material.base.policy)
    with Scratch.open(trainer.key()) as scratch:
        model = trainer.run(scratch).model
    assert base_digest(model.policy) == before


def training_objective(world, *changes) -> tuple:
    model, trainer, _ = fresh_model(world, {"train": {"state_noise": 0.0}}, *changes)
    return model, trainer._residual_phase(model, {}).objective


def test_no_gradient_reaches_base_weights_base_action_or_image_tokens(prepared):
    model, trainer, rows = fresh_model(prepared)
    model.train()
    torch.manual_seed(0)
    for head in model.heads.residuals.out.values():
        torch.nn.init.normal_(head.weight)
    torch.nn.init.normal_(model.heads.film.modulation.weight, std=0.1)
    observation = trainer.material.observation(rows)
    vision = observation.vision.requires_grad_(True)
    base = trainer.material.base_action(rows).requires_grad_(True)
    decision = model(replace(observation, vision=vision), base)
    sum(decision.residuals[span].square().sum() for span in SPANS).backward()
    assert base.grad is None
    named = dict(model.adapted.named_parameters())
    assert {name for name, one in named.items() if one.grad is not None and one.grad.any()} == {
        name for name in named if ".lora_B." in name
    }, "A has no gradient while B is zero, and nothing of the base ever has one"
    silent = [name for name, one in model.heads.named_parameters() if one.grad is None]
    assert all(name.startswith(("path.semantic_head", "path.intent_view")) for name in silent), silent
    assert all(one.grad.any() for name, one in model.heads.named_parameters() if name.startswith("film."))


def test_intent_alignment_pulls_the_intent_and_not_the_factors(prepared):
    from sigma.training.losses import intent_telepathy_loss

    model, trainer, rows = fresh_model(prepared, {"telepathy": {"factor_tokens": 0}})
    decision = model(trainer.material.observation(rows), trainer.material.base_action(rows))
    intent_telepathy_loss(decision.telepathy.intent_view, decision.telepathy.factors).backward()
    path = model.heads.path
    assert path.intent_view.weight.grad.any() and path.intent_cell.weight_ih.grad.any()
    # Without tokens that tell them the factors act through FiLM, which starts at zero; so nothing may arrive here.
    assert all(one.grad is None or not one.grad.any() for one in path.factor_network.parameters())


@torch.no_grad()
def test_masked_history_does_not_matter_and_its_order_does(trained):
    model, material, rows = trained_model(trained)
    observation, base = material.observation(rows), material.base_action(rows)
    mask = observation.present.clone()
    mask[:, 0] = False
    short = replace(observation, present=mask)
    junk = short.history.clone()
    junk[:, 0] = torch.randn_like(junk[:, 0]) * 100
    expected, same = model(short, base), model(replace(short, history=junk), base)
    for span in SPANS:
        assert torch.equal(same.residuals[span], expected.residuals[span])
    assert torch.equal(same.telepathy.factors, expected.telepathy.factors)
    whole, turned = model(observation, base), model(replace(observation, history=observation.history.flip(1)), base)
    assert not torch.equal(whole.telepathy.factors, expected.telepathy.factors)
    assert not torch.equal(whole.telepathy.factors, turned.telepathy.factors)
    assert not torch.equal(whole.residuals["trajectory"], turned.residuals["trajectory"])


@torch.no_grad()
def test_the_residual_mlp_reads_no_past_and_says_nothing_of_factors(prepared):
    model, trainer, rows = fresh_model(prepared, {"telepathy": {"architecture": "mlp"}})
    torch.manual_seed(0)
    for head in model.heads.residuals.out.values():
        torch.nn.init.normal_(head.weight)
    for parameter in lora.lora_parameters(model.adapted):
        torch.nn.init.normal_(parameter, std=0.1)
    observation, base = trainer.material.observation(rows), trainer.material.base_action(rows)
    plain = model(observation, base)
    assert plain.telepathy is None
    past = replace(
        observation, history=torch.randn_like(observation.history), present=torch.zeros_like(observation.present)
    )
    for span in SPANS:
        residual = plain.residuals[span]
        assert torch.equal(model(past, base).residuals[span], residual)
        assert torch.equal(model(observation, base, film=False).residuals[span], residual)
        assert not torch.equal(model(observation, base, adapters=False).residuals[span], residual)
        assert not torch.equal(model(observation, base + 0.5).residuals[span], residual)
        moved = replace(observation, state=observation.state + 0.5)
        assert not torch.equal(model(moved, base).residuals[span], residual)
    factors = torch.zeros(len(rows), 3, 4)
    with pytest.raises(ValueError, match="no factors"):
        model(observation, base, swap=FactorSwap(factors, factors))


@torch.no_grad()
def test_swapped_factors_are_read_by_heads_and_film_and_the_models_own_change_nothing(trained):
    model, material, rows = trained_model(trained)
    torch.nn.init.normal_(model.heads.film.modulation.weight, std=0.1)
    observation, base = material.observation(rows), material.base_action(rows)
    plain = model(observation, base)
    own = FactorSwap(plain.telepathy.factors, plain.telepathy.anticipated)
    same = model(observation, base, swap=own)
    for span in SPANS:
        assert torch.equal(same.residuals[span], plain.residuals[span])
    assert torch.equal(same.telepathy.alignment, plain.telepathy.alignment)
    others = torch.randn_like(own.factors)
    heads = model(observation, base, swap=replace(own, factors=others))
    film = model(observation, base, swap=replace(own, anticipated=others))
    assert torch.equal(heads.telepathy.factors, others) and torch.equal(film.telepathy.factors, own.factors)
    assert torch.equal(heads.telepathy.memory, plain.telepathy.memory), "the heads' factors come after the backbone"
    assert not torch.equal(film.telepathy.memory, plain.telepathy.memory)
    for other in (heads, film):
        assert not torch.equal(other.residuals["trajectory"], plain.residuals["trajectory"])


@torch.no_grad()
def test_film_lora_and_state_tokens_each_change_the_decision(trained):
    model, material, rows = trained_model(trained)
    observation, base = material.observation(rows), material.base_action(rows)
    whole = model(observation, base).telepathy.factors
    control = model(observation, base, adapters=False, film=False).telepathy.factors
    without_film = model(observation, base, film=False).telepathy.factors
    without_lora = model(observation, base, adapters=False).telepathy.factors
    different = [whole, control, without_film, without_lora]
    assert all(not torch.equal(one, two) for i, one in enumerate(different) for two in different[:i])
    with lora.disabled(model.adapted):
        assert torch.equal(model(observation, base, film=False).telepathy.factors, control)
    moved = replace(observation, state=observation.state + 0.5)
    # The prompt keeps its tokens: only the state tokens and the heads' queries see this state.
    assert not torch.equal(model(moved, base).telepathy.factors, whole)


@torch.no_grad()
def test_the_frozen_view_and_the_motion_reach_the_backbone_through_the_factors_alone(trained):
    model, material, rows = trained_model(trained)
    torch.nn.init.normal_(model.heads.film.modulation.weight, std=0.1)
    observation = material.observation(rows)
    whole = model.adapted_pass(observation)
    told = FactorSwap(torch.zeros_like(whole.anticipation.factors), whole.anticipation.factors)
    assert torch.equal(model.adapted_pass(observation, swap=told).pooled, whole.pooled)
    assert observation.motion.any()
    for name in ("motion", "now"):
        other = replace(observation, **{name: torch.randn_like(getattr(observation, name))})
        passed = model.adapted_pass(other)
        assert not torch.equal(passed.anticipation.factors, whole.anticipation.factors), name
        assert not torch.equal(passed.pooled, whole.pooled), name
        assert torch.equal(model.adapted_pass(other, swap=told).pooled, whole.pooled), name
    with pytest.raises(ValueError, match="the frozen base's pass over the present comes first"):
        model.adapted_pass(replace(observation, now=None))


@torch.no_grad()
@pytest.mark.parametrize("tokens", [0, 2])
def test_untrained_the_factors_are_told_by_their_tokens_alone(prepared, tokens):
    model, trainer, rows = fresh_model(prepared, {"telepathy": {"factor_tokens": tokens, "state_tokens": 1}})
    observation = trainer.material.observation(rows)
    passed = model.adapted_pass(observation)
    own = base_pass(model.policy, observation).encoded.last.shape[1]
    assert passed.encoded.last.shape[1] == own + 1 + tokens
    assert passed.encoded.pad_mask[:, own:].all()
    others = torch.randn_like(passed.anticipation.factors)
    changed = model.adapted_pass(observation, swap=FactorSwap(others, others))
    assert torch.equal(changed.anticipation.factors, others)
    assert torch.equal(changed.pooled, passed.pooled) is (tokens == 0)
    assert torch.equal(actions(model.policy, changed.encoded), actions(model.policy, passed.encoded)) is (tokens == 0)
    # The norm of the factors is the loss's to control, so it is told neither by FiLM nor by tokens.
    louder = FactorSwap(others, 3.0 * passed.anticipation.factors)
    same = model.adapted_pass(observation, swap=louder)
    torch.testing.assert_close(same.pooled, passed.pooled, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("tokens", [0, 2])
def test_what_the_backbone_makes_of_the_factor_tokens_teaches_memory(prepared, tokens):
    model, trainer, rows = fresh_model(prepared, {"telepathy": {"factor_tokens": tokens}})
    passed = model.adapted_pass(trainer.material.observation(rows))
    passed.encoded.layers[-1].square().sum().backward()
    # Untrained FiLM gives no gradient to the factors, only to its own weights.
    names = ("factor_network.", "memory_cell.", "intent_cell.", "frozen_encoder.", "motion_encoder.")
    for name, parameter in model.heads.path.named_parameters():
        if name.startswith(names):
            assert (parameter.grad is not None and bool(parameter.grad.any())) is (tokens > 0), name


@torch.no_grad()
@pytest.mark.parametrize("memory", ["carried", "reset"])
def test_the_motion_changes_what_is_anticipated_where_memory_is_carried_alone(prepared, memory):
    model, trainer, rows = fresh_model(prepared, {"telepathy": {"memory": memory}})
    observation = trainer.material.observation(rows)
    still = replace(observation, motion=torch.zeros_like(observation.motion))
    moving, standing = (model.adapted_pass(one) for one in (observation, still))
    assert observation.motion.any()
    assert torch.equal(moving.anticipation.factors, standing.anticipation.factors) is (memory == "reset")
    assert torch.equal(moving.pooled, standing.pooled) is (memory == "reset")


@torch.no_grad()
def test_a_pass_that_was_made_before_gives_the_same_decision(trained):
    model, material, rows = trained_model(trained)
    observation, base = material.observation(rows), material.base_action(rows)
    alone, shared = model(observation, base), model(observation, base, passed=model.adapted_pass(observation))
    for span in SPANS:
        assert torch.equal(alone.residuals[span], shared.residuals[span])


@torch.no_grad()
def test_alignment_is_the_cosine_to_the_instructions_embedding(trained):
    model, material, rows = trained_model(trained)
    observation = material.observation(rows)
    decision = model(observation, material.base_action(rows))
    embedded = prefix.text_embeddings(model.policy, observation.tokens).numpy()
    for row in range(len(rows)):
        text = embedded[row][observation.groups[row].numpy() == 1].mean(axis=0)
        semantic = decision.telepathy.semantic[row].numpy()
        cosine = text @ semantic / np.linalg.norm(text) / np.linalg.norm(semantic)
        assert decision.telepathy.alignment[row].item() == pytest.approx(cosine, abs=1e-5)


def test_checkpointing_gives_the_same_gradients_and_really_recomputes(prepared):
    gradients, calls = {}, {}
    for on in (False, True):
        model, objective = training_objective(prepared, {"train": {"gradient_checkpointing": on}, "lora": {"rank": 3}})
        assert isinstance(objective, ResidualObjective)
        model.train()
        torch.manual_seed(0)
        for parameter in (
            *lora.lora_parameters(model.adapted),
            *(h.weight for h in model.heads.residuals.out.values()),
        ):
            torch.nn.init.normal_(parameter, std=0.1)
        count = []
        layer = next(iter(lora.lora_layers(model.adapted).values()))
        layer.register_forward_hook(lambda *_, count=count: count.append(1))
        loss, _ = objective.loss(np.arange(4), 0, 0, 4)
        loss.backward()
        calls[on] = len(count)
        named = [*model.heads.named_parameters(), *model.adapted.named_parameters()]
        gradients[on] = {name: one.grad for name, one in named if one.grad is not None}
    assert (calls[False], calls[True]) == (1, 2)
    assert gradients[False].keys() == gradients[True].keys()
    for name, gradient in gradients[False].items():
        torch.testing.assert_close(gradients[True][name], gradient, rtol=1e-5, atol=1e-7)
