"""The parts of π0.5 give what LeRobot's whole gives: actions to the bit, training loss and gradients to rounding."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from sigma.policy.pi05.prefix import (
    Steering,
    assemble,
    encode,
    flow_matching_loss,
    integrate,
    text_embeddings,
    velocity,
    vision_tokens,
)
from tests.bases import ACTION_DIM, CAMERAS, tiny_policy

BATCH, CHUNK, SIDE, LENGTH = 3, 16, 32, 32


@pytest.fixture
def policy():
    return tiny_policy()


@pytest.fixture
def inputs():
    draw = torch.Generator().manual_seed(7)
    tokens = torch.randint(0, 500, (BATCH, LENGTH), generator=draw)
    mask = torch.arange(LENGTH)[None] < torch.tensor([[20], [25], [32]])
    return {
        "images": torch.rand(BATCH, 2, 3, SIDE, SIDE, generator=draw),
        "tokens": tokens,
        "mask": mask,
        "actions": torch.randn(BATCH, CHUNK, ACTION_DIM, generator=draw),
        "noise": torch.randn(BATCH, 4, CHUNK, ACTION_DIM, generator=draw),
        "time": torch.rand(BATCH, 4, generator=draw) * 0.9 + 0.05,
    }


def lerobot_batch(inputs):
    return {
        **{camera: inputs["images"][:, view] for view, camera in enumerate(CAMERAS)},
        "observation.language.tokens": inputs["tokens"],
        "observation.language.attention_mask": inputs["mask"],
    }


def encoded(policy, inputs, *, extra=None):
    text = text_embeddings(policy, inputs["tokens"])
    prefix = assemble(vision_tokens(policy, inputs["images"]), text, inputs["mask"], extra)
    return encode(policy, prefix, appended=0 if extra is None else extra.shape[1])


def steering_of(policy, rows: int = BATCH) -> Steering:
    """Steering as large as what it is added to, and another one for every sample and step."""
    draw, width = torch.Generator().manual_seed(5), policy.model.action_in_proj.out_features
    return Steering(torch.randn(rows, width, generator=draw), torch.randn(rows, CHUNK, width, generator=draw))


def steer_lerobot(policy, steering: Steering, monkeypatch) -> None:
    """From now on LeRobot's own passes embed their actions with ``steering`` added."""
    plain = policy.model.embed_suffix

    def steered(noisy_actions, timestep):
        embedded, pad_mask, blocks, condition = plain(noisy_actions, timestep)
        return embedded + steering.tokens, pad_mask, blocks, condition + steering.condition

    monkeypatch.setattr(policy.model, "embed_suffix", steered)


def extra_tokens(policy, count: int = 2) -> torch.Tensor:
    return torch.randn(BATCH, count, policy.config.language_width, generator=torch.Generator().manual_seed(1))


def core_inputs(policy, inputs):
    images, masks = policy._preprocess_images(lerobot_batch(inputs))
    return images, masks, inputs["tokens"], inputs["mask"]


@torch.no_grad()
def test_one_draw_is_bit_identical_to_lerobots_sampler(policy, inputs):
    noise = inputs["noise"][:, 0]
    for steps in (1, 5):
        expected = policy.predict_action_chunk(lerobot_batch(inputs), noise=noise, num_steps=steps)
        assert torch.equal(integrate(policy, encoded(policy, inputs), noise[:, None], steps)[:, 0], expected)


@torch.no_grad()
def test_several_draws_equal_one_at_a_time(policy, inputs):
    shared = integrate(policy, encoded(policy, inputs), inputs["noise"], 5)
    for draw in range(inputs["noise"].shape[1]):
        alone = integrate(policy, encoded(policy, inputs), inputs["noise"][:, draw : draw + 1], 5)
        torch.testing.assert_close(shared[:, draw : draw + 1], alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("steered", [False, True])
def test_the_velocity_is_that_of_lerobots_own_step_to_the_bit(policy, inputs, monkeypatch, steered):
    state, x_t, time = encoded(policy, inputs), inputs["noise"][:, 0], inputs["time"][:, 0]
    steering = steering_of(policy) if steered else None
    ours = velocity(policy, state, x_t, time, steering)
    plain = policy.model.denoise_step(state.pad_mask, state.cache, x_t, time)
    assert torch.equal(ours, plain) is not steered
    if steering is not None:
        steer_lerobot(policy, steering, monkeypatch)
        assert torch.equal(ours, policy.model.denoise_step(state.pad_mask, state.cache, x_t, time))


@torch.no_grad()
@pytest.mark.parametrize("part", ["condition", "tokens"])
def test_each_sample_is_steered_by_its_own_and_by_both_parts(policy, inputs, part):
    state, noise, steering = encoded(policy, inputs), inputs["noise"][:, :2], steering_of(policy)
    steered = integrate(policy, state, noise, 5, steering)
    altered = replace(steering, **{part: getattr(steering, part).clone()})
    getattr(altered, part)[1] += 1.0
    other = integrate(policy, state, noise, 5, altered)
    changed = (other - steered).abs().amax(dim=(2, 3)) > 1e-3
    assert changed.tolist() == [[False, False], [True, True], [False, False]]
    for draw in range(2):
        alone = integrate(policy, state, noise[:, draw : draw + 1], 5, steering)
        torch.testing.assert_close(steered[:, draw : draw + 1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steered", [False, True])
def test_the_shared_prefix_loss_equals_lerobots_joint_forward_in_value_and_gradient(
    policy, inputs, monkeypatch, steered
):
    policy.train()
    noise, time = inputs["noise"][:, :1], inputs["time"][:, :1]
    steering = steering_of(policy) if steered else None
    with monkeypatch.context() as patch:
        if steering is not None:
            steer_lerobot(policy, steering, patch)
        joint = policy.model.forward(*core_inputs(policy, inputs), inputs["actions"], noise[:, 0], time[:, 0])
    joint.mean().backward()
    expected = {name: one.grad.clone() for name, one in policy.named_parameters() if one.grad is not None}
    policy.zero_grad()
    loss = flow_matching_loss(policy, encoded(policy, inputs), inputs["actions"], noise, time, steering)
    loss.mean().backward()
    torch.testing.assert_close(loss[:, 0], joint, rtol=1e-4, atol=1e-4)
    for name, gradient in expected.items():
        found = dict(policy.named_parameters())[name].grad
        found = torch.zeros_like(gradient) if found is None else found
        torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_the_loss_of_several_draws_is_the_loss_of_each(policy, inputs):
    noise, time = inputs["noise"], inputs["time"]
    with torch.no_grad():
        together = flow_matching_loss(policy, encoded(policy, inputs), inputs["actions"], noise, time)
        for draw in range(noise.shape[1]):
            one = slice(draw, draw + 1)
            state = encoded(policy, inputs)
            alone = flow_matching_loss(policy, state, inputs["actions"], noise[:, one], time[:, one])
            torch.testing.assert_close(together[:, one], alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_image_tokens_equal_lerobots_embedding(policy, inputs):
    images, masks, tokens, text_mask = core_inputs(policy, inputs)
    embeddings, pad_mask, _ = policy.model.embed_prefix(images, masks, tokens, text_mask)
    ours = assemble(vision_tokens(policy, inputs["images"]), text_embeddings(policy, tokens), text_mask)
    assert torch.equal(ours.embeddings, embeddings)
    assert torch.equal(ours.pad_mask, pad_mask)


def test_images_of_another_size_are_refused(policy):
    with pytest.raises(ValueError, match=r"\[B, V, 3, 32, 32\]"):
        vision_tokens(policy, torch.rand(1, 2, 3, 16, 16))


@torch.no_grad()
def test_appended_tokens_are_read_by_the_whole_prefix_and_by_the_expert(policy, inputs):
    plain, longer = encoded(policy, inputs), encoded(policy, inputs, extra=extra_tokens(policy))
    assert longer.last.shape[1] == plain.last.shape[1] + 2
    assert not torch.allclose(longer.last[:, : plain.last.shape[1]], plain.last)
    noise = inputs["noise"][:, :1]
    assert not torch.allclose(integrate(policy, longer, noise, 5), integrate(policy, plain, noise, 5))


@torch.no_grad()
def test_appended_tokens_leave_the_experts_actions_where_they_were(policy, inputs, monkeypatch):
    """LeRobot counts every token of the prefix, so its own step moves the actions by as many as were appended."""
    model, x_t, time = policy.model, inputs["noise"][:, 0], inputs["time"][:, 0]
    forward, positions = model.paligemma_with_expert.forward, []

    def noting(**given):
        positions.append(given["position_ids"])
        return forward(**given)

    monkeypatch.setattr(model.paligemma_with_expert, "forward", noting)
    plain = encoded(policy, inputs)
    for count in (1, 5):
        longer = encoded(policy, inputs, extra=extra_tokens(policy, count))
        positions.clear()
        model.denoise_step(plain.pad_mask, plain.cache, x_t, time)
        model.denoise_step(longer.pad_mask, longer.cache, x_t, time)
        velocity(policy, longer, x_t, time)
        untouched, moved, ours = positions
        assert torch.equal(ours, untouched) and torch.equal(ours, moved - count)


def test_lora_on_the_language_model_learns_through_the_cache_and_can_be_switched_off(policy, inputs):
    noise = inputs["noise"][:, :1]
    with torch.no_grad():
        before = integrate(policy, encoded(policy, inputs), noise, 5)
    inner = policy.model.paligemma_with_expert.paligemma.model
    targets = r".*self_attn\.(q|k|v|o)_proj"
    adapted = get_peft_model(inner.language_model, LoraConfig(r=2, target_modules=targets))
    inner.language_model = adapted.base_model.model
    with torch.no_grad():
        assert torch.equal(integrate(policy, encoded(policy, inputs), noise, 5), before)
    flow_matching_loss(
        policy, encoded(policy, inputs), inputs["actions"], noise, inputs["time"][:, :1]
    ).sum().backward()
    gradients = {name: one.grad for name, one in adapted.named_parameters() if "lora_B" in name}
    moving = [name for name, gradient in gradients.items() if gradient is not None and gradient.any()]
    first = [name for name in gradients if "layers.0." in name]
    assert set(first) <= set(moving)
    with torch.no_grad():
        for name, one in adapted.named_parameters():
            if "lora_B" in name:
                one += 0.1
        assert not torch.equal(integrate(policy, encoded(policy, inputs), noise, 5), before)
        with adapted.disable_adapter():
            assert torch.equal(integrate(policy, encoded(policy, inputs), noise, 5), before)
