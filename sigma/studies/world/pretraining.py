"""Trains the small π0.5 from scratch by flow matching, several noise draws on one pass over the prefix.

Resumable to the bit: batches, noise and jitter are addressed by the step, and the saved state is one file. The weights
that count are an exponential moving average, scored on whole held-out episodes with fixed noise.

Legend: B batch, V cameras, K noise draws, Tc action chunk, D joints.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sigma.policy.pi05.prefix import (
    Encoded,
    assemble,
    encode,
    flow_matching_loss,
    integrate,
    text_embeddings,
    vision_tokens,
)
from sigma.policy.pi05.prompt import Prompter
from sigma.policy.pi05.small.base_folder import small_config
from sigma.policy.pi05.small.initialisation import fan_in_initialise
from sigma.policy.pi05.small.modeling_pi05_small import PI05SmallPolicy
from sigma.policy.pi05.small.tokenizer import build_tokenizer
from sigma.shared.progress import progress
from sigma.shared.quantiles import Quantiles
from sigma.shared.seeding import generator
from sigma.studies.world.demonstrations import Demonstrations, sampling_weights, split_frames
from sigma.studies.world.recipe import Recipe
from sigma.training.flow import draw_noise_and_time
from sigma.training.state import Scratch

_EVALUATION_BATCH = 64


@dataclass
class Trained:
    """The result: the policy with averaged weights, its statistics, the curve, and what the curve says."""

    policy: PI05SmallPolicy
    statistics: dict[str, Quantiles]
    curve: list[dict[str, float]] = field(default_factory=list)
    summary: dict[str, float] = field(default_factory=dict)


def new_policy(recipe: Recipe, cameras: tuple[str, ...], joints: int) -> PI05SmallPolicy:
    """The small π0.5 of this recipe with its initial random weights."""
    sizes = recipe.sizes.model_dump()
    resolution = (recipe.resolution, recipe.resolution)
    vocabulary = len(build_tokenizer())
    executed = sizes["chunk_size"] // 2 or 1
    config = small_config(
        cameras,
        joints,
        joints,
        image_resolution=resolution,
        vocabulary_size=vocabulary,
        n_action_steps=executed,
        **sizes,
    )
    policy = PI05SmallPolicy(config)
    fan_in_initialise(policy, recipe.seed)
    return policy


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, a plateau, and a half cosine to zero over the last ``cooldown`` of the steps (counted from 0).

    Until the cooldown begins the rate does not depend on the number of steps, so a longer run shares its beginning.
    """
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    begin = round((1 - recipe.cooldown) * recipe.steps)
    share = max(0, step - begin) / max(1, recipe.steps - begin)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


class Pretraining:
    """One training run over demonstrations in memory."""

    def __init__(self, recipe: Recipe, demonstrations: Demonstrations):
        self.recipe, self.data = recipe, demonstrations
        self.train_frames, held_out = split_frames(demonstrations, recipe.held_out, recipe.seed)
        self.weights = sampling_weights(demonstrations, self.train_frames, recipe.balance)
        order = generator(recipe.seed, "held-out frames").permutation(held_out)
        self.held_out_frames = np.sort(order[: recipe.held_out_frames])
        self.statistics = demonstrations.statistics(self.train_frames)
        self.policy = new_policy(recipe, demonstrations.cameras, demonstrations.states.shape[1])
        self.prompter = Prompter(build_tokenizer(), recipe.sizes.tokenizer_max_length)
        self.average = {name: tensor.detach().clone() for name, tensor in self.policy.named_parameters()}
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self.step, self.curve = 0, []
        self._losses: list[float] = []

    def _encode(self, frames: np.ndarray, jitter: np.ndarray | float = 0.0) -> tuple[Encoded, Tensor]:
        """The encoded prefix of these frames and their normalised action chunks ``[B, Tc, D]``."""
        states = self.statistics["observation.state"].normalise(self.data.states[frames])
        prompt = self.prompter(self.data.texts(frames), states + jitter)
        images = self.data.images[torch.from_numpy(frames)].float() / 255
        prefix = assemble(vision_tokens(self.policy, images), text_embeddings(self.policy, prompt.tokens), prompt.mask)
        actions = self.data.action_chunks(frames, self.policy.config.chunk_size)
        return encode(self.policy, prefix), torch.from_numpy(self.statistics["action"].normalise(actions))

    def update(self) -> float:
        """One optimizer step; returns its loss."""
        recipe, seed = self.recipe, self.recipe.seed
        source = generator(seed, "batch", self.step)
        frames = source.choice(self.train_frames, size=recipe.batch, p=self.weights)
        jitter = recipe.state_jitter * source.standard_normal((recipe.batch, self.data.states.shape[1]), np.float32)
        noise, times = draw_noise_and_time(self.policy.config, recipe.batch, recipe.draws, seed, "flow", self.step)
        encoded, actions = self._encode(frames, jitter)
        loss = flow_matching_loss(self.policy, encoded, actions, noise, times).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.policy.parameters(), recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, self.step)
        self.optimizer.step()
        self.step += 1
        decay = min(recipe.ema, self.step / (self.step + 9))
        live = [parameter.detach() for parameter in self.policy.parameters()]
        torch._foreach_lerp_(list(self.average.values()), live, 1 - decay)
        return float(loss.detach())

    def averaged(self) -> "_Averaged":
        """Context in which the policy carries the averaged weights."""
        return _Averaged(self)

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Flow-matching loss of the averaged weights on the held-out frames, with the same noise every time."""
        total = 0.0
        with self.averaged():
            for number, start in enumerate(range(0, len(self.held_out_frames), _EVALUATION_BATCH)):
                frames = self.held_out_frames[start : start + _EVALUATION_BATCH]
                encoded, actions = self._encode(frames)
                noise, times = draw_noise_and_time(
                    self.policy.config, len(frames), self.recipe.draws, self.recipe.seed, "held-out flow", number
                )
                total += float(flow_matching_loss(self.policy, encoded, actions, noise, times).mean()) * len(frames)
        return total / len(self.held_out_frames)

    @torch.no_grad()
    def open_loop_errors(self) -> dict[str, float]:
        """Mean squared error of held-out action chunks, normalised units, beside two references that know nothing.

        ``policy`` integrates from zero noise; ``hold`` repeats the current state; ``mean`` is the mean training action.
        """
        errors = {"policy": 0.0, "hold": 0.0, "mean": 0.0}
        normalise = self.statistics["action"].normalise
        mean = torch.from_numpy(normalise(self.data.actions[self.train_frames]).mean(axis=0))
        with self.averaged():
            for start in range(0, len(self.held_out_frames), _EVALUATION_BATCH):
                frames = self.held_out_frames[start : start + _EVALUATION_BATCH]
                encoded, actions = self._encode(frames)
                still = torch.zeros(len(frames), 1, *actions.shape[1:])
                steps = self.policy.config.num_inference_steps
                hold = torch.from_numpy(normalise(self.data.states[frames]))[:, None]
                guesses = {"policy": integrate(self.policy, encoded, still, steps)[:, 0], "hold": hold, "mean": mean}
                for name, guess in guesses.items():
                    errors[name] += float((guess - actions).square().mean()) * len(frames)
        return {name: error / len(self.held_out_frames) for name, error in errors.items()}

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {
            "step": self.step,
            "policy": self.policy.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "curve": self.curve,
            "losses": self._losses,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.step, self.curve, self._losses = state["step"], list(state["curve"]), list(state["losses"])
        self.policy.load_state_dict(state["policy"], strict=True)
        self.average = {name: state["average"][name].clone() for name in self.average}
        self.optimizer.load_state_dict(state["optimizer"])

    def run(self, scratch: Scratch, after_step: Callable[[int], None] | None = None) -> Trained:
        """Train to the last step, from the saved state where there is one; ``after_step`` is called with each count."""
        saved = scratch.load()
        if saved is not None:
            self.restore(saved)
        self.policy.train()
        written = time.monotonic()
        with progress("pretraining", self.recipe.steps) as meter:
            meter.advance(self.step)
            while self.step < self.recipe.steps:
                self._losses.append(self.update())
                note = ""
                if self.step % self.recipe.evaluate_every == 0 or self.step == self.recipe.steps:
                    self._record()
                    note = f"held-out loss {self.curve[-1]['held_out_loss']:.4f}"
                if time.monotonic() - written >= self.recipe.checkpoint_seconds:
                    scratch.save(self.state())
                    written = time.monotonic()
                meter.advance(1, note)
                if after_step is not None:
                    after_step(self.step)
        return self._finish()

    def _record(self) -> None:
        self.curve.append(
            {
                "step": self.step,
                "train_loss": float(np.mean(self._losses)),
                "held_out_loss": self.held_out_loss(),
                "learning_rate": learning_rate(self.recipe, self.step - 1),
            }
        )
        self._losses = []

    def _finish(self) -> Trained:
        errors = self.open_loop_errors()
        summary = {
            "steps": self.step,
            "train_frames": len(self.train_frames),
            "parameters": sum(parameter.numel() for parameter in self.policy.parameters()),
            "train_loss": self.curve[-1]["train_loss"],
            "held_out_loss": self.curve[-1]["held_out_loss"],
            "fall_in_last_fifth": fall_in_last_fifth(self.curve),
            **{f"open_loop_mse_{name}": error for name, error in errors.items()},
        }
        with torch.no_grad():
            for name, parameter in self.policy.named_parameters():
                parameter.copy_(self.average[name])
        return Trained(self.policy.eval(), self.statistics, self.curve, summary)


class _Averaged:
    def __init__(self, training: Pretraining):
        self.training = training

    def _swap(self) -> None:
        average = self.training.average
        with torch.no_grad():
            for name, parameter in self.training.policy.named_parameters():
                kept = parameter.detach().clone()
                parameter.copy_(average[name])
                average[name] = kept

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *_: object) -> None:
        self._swap()


def fall_in_last_fifth(curve: list[dict[str, float]]) -> float:
    """Relative fall of the held-out loss over the last fifth of the steps; below 0.02 the training counts as done."""
    last = curve[-1]
    before = max(
        (row for row in curve if row["step"] <= 0.8 * last["step"]), key=lambda row: row["step"], default=curve[0]
    )
    return 1 - last["held_out_loss"] / before["held_out_loss"]
