"""The parts of π0.5 give what LeRobot's whole gives: actions to the bit, training loss and gradients to rounding."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from sigma.policy.pi05.prefix import assemble, encode, flow_matching_loss, integrate, text_embeddings, vision_tokens
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


def encoded(policy, inputs, *, extra=None, hidden_states=False):
    text = text_embeddings(policy, inputs["tokens"])
    prefix = assemble(vision_tokens(policy, inputs["images"]), text, inputs["mask"], extra)
    return encode(policy, prefix, hidden_states=hidden_states)


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


def test_the_shared_prefix_loss_equals_lerobots_joint_forward_in_value_and_gradient(policy, inputs):
    policy.train()
    noise, time = inputs["noise"][:, :1], inputs["time"][:, :1]
    joint = policy.model.forward(*core_inputs(policy, inputs), inputs["actions"], noise[:, 0], time[:, 0])
    joint.mean().backward()
    expected = {name: one.grad.clone() for name, one in policy.named_parameters() if one.grad is not None}
    policy.zero_grad()
    loss = flow_matching_loss(policy, encoded(policy, inputs), inputs["actions"], noise, time)
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
def test_appended_tokens_are_read_by_the_whole_prefix(policy, inputs):
    extra = torch.randn(BATCH, 2, policy.config.language_width, generator=torch.Generator().manual_seed(1))
    plain, longer = encoded(policy, inputs), encoded(policy, inputs, extra=extra)
    assert longer.last.shape[1] == plain.last.shape[1] + 2
    assert not torch.allclose(longer.last[:, : plain.last.shape[1]], plain.last)
    # Positions count real tokens only, so padding between text and appended tokens changes nothing.
    noise = inputs["noise"][:, :1]
    assert not torch.allclose(integrate(policy, longer, noise, 5), integrate(policy, plain, noise, 5))


@torch.no_grad()
def test_hidden_states_of_every_layer_end_in_the_last(policy, inputs):
    state = encoded(policy, inputs, hidden_states=True)
    assert len(state.layers) == policy.config.depth
    assert torch.equal(state.layers[-1], state.last)
    assert torch.equal(state.last, encoded(policy, inputs).last)
    assert encoded(policy, inputs).layers is None


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
