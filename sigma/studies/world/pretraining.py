"""Trains the small π0.5 from scratch by flow matching, several noise draws on one pass over the prefix.

Frames, noise and jitter are functions of the seed and the step. The weights that count are the averaged ones, scored on
whole held-out episodes with the same noise every time.

Legend: B batch, V cameras, K noise draws, Tc action chunk, D joints.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sigma.policy.pi05 import prefix
from sigma.policy.pi05.prompt import Prompter
from sigma.policy.pi05.small.base_folder import small_config
from sigma.policy.pi05.small.modeling_pi05_small import PI05SmallPolicy, fan_in_initialise
from sigma.policy.pi05.small.tokenizer import build_tokenizer
from sigma.shared.quantiles import Quantiles
from sigma.shared.seeding import generator
from sigma.studies.world.demonstrations import Demonstrations, sampling_weights, split_frames
from sigma.studies.world.recipe import Recipe
from sigma.training.flow import draw_noise_and_time
from sigma.training.loop import Curve, Objective, Phase, Schedule
from sigma.training.state import Scratch

_EVALUATION_BATCH = 64


@dataclass
class Pretrained:
    """A finished pretraining."""

    policy: PI05SmallPolicy  # with averaged weights
    statistics: dict[str, Quantiles]
    curve: list[dict[str, float]]  # a row for each validation
    summary: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class PlateauSchedule(Schedule):
    """Linear warm-up, a plateau, and a half cosine to zero over ``cooldown``, the last share of the steps.

    Until the cooldown begins the rate does not depend on the number of steps, so a longer run shares its beginning.
    """

    cooldown: float

    def rate(self, step: int) -> float:
        warm = round(self.warmup * self.steps)
        if step < warm:
            return (step + 1) / warm
        begin = round((1 - self.cooldown) * self.steps)
        share = max(0, step - begin) / max(1, self.steps - begin)
        return 0.5 * (1 + math.cos(math.pi * share))


def plateau_schedule(recipe: Recipe) -> PlateauSchedule:
    """The numbers of the one phase of this recipe."""
    return PlateauSchedule(
        **recipe.model_dump(include={"steps", "batch", "cooldown", "weight_decay", "clip", "checkpoint_every", "seed"}),
        accumulation=1,
        warmup=recipe.warmup / recipe.steps,
        average=recipe.ema,
        validate_every=recipe.evaluate_every,
        select="last",
        fused=True,
        remedy="pretrain.learning_rate or pretrain.clip",
    )


def new_policy(recipe: Recipe, cameras: tuple[str, ...], joints: int) -> PI05SmallPolicy:
    """The small π0.5 of this recipe with its initial random weights."""
    fields = recipe.sizes.model_dump() | {
        "image_resolution": (recipe.resolution, recipe.resolution),
        "vocabulary_size": len(build_tokenizer()),
        "n_action_steps": recipe.sizes.chunk_size // 2 or 1,
    }
    policy = PI05SmallPolicy(small_config(cameras, joints, joints, **fields))
    fan_in_initialise(policy, recipe.seed)
    return policy


class PretrainingObjective(Objective):
    """Flow matching of every weight on frames of demonstrations in memory; the rows of a step are frames."""

    name = "pretraining"
    model: PI05SmallPolicy

    def __init__(self, recipe: Recipe, demonstrations: Demonstrations):
        self.recipe, self.data = recipe, demonstrations
        self.train_frames, held_out = split_frames(demonstrations, recipe.held_out, recipe.seed)
        self.weights = sampling_weights(demonstrations, self.train_frames, recipe.balance)
        order = generator(recipe.seed, "held-out frames").permutation(held_out)
        self.held_out_frames = np.sort(order[: recipe.held_out_frames])
        self.statistics = demonstrations.statistics(self.train_frames)
        self.model = new_policy(recipe, demonstrations.cameras, demonstrations.states.shape[1])
        self.prompter = Prompter(build_tokenizer(), recipe.sizes.tokenizer_max_length)
        self.extra_metrics: dict[str, float] = {}

    def _draw(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames (B,) of a step and the noise (B, D) that is added to their states."""
        recipe, source = self.recipe, generator(self.recipe.seed, "batch", step)
        frames = source.choice(self.train_frames, size=recipe.batch, p=self.weights)
        shape = (recipe.batch, self.data.states.shape[1])
        return frames, recipe.state_jitter * source.standard_normal(shape, np.float32)

    def _held_out_batches(self, batch: int) -> Iterator[np.ndarray]:
        for start in range(0, len(self.held_out_frames), batch):
            yield self.held_out_frames[start : start + batch]

    def _encode(self, frames: np.ndarray, jitter: np.ndarray | float = 0.0) -> tuple[prefix.Encoded, Tensor]:
        """The encoded prefix of these frames and their normalised action chunks ``[B, Tc, D]``."""
        states = self.statistics["observation.state"].normalise(self.data.states[frames])
        prompt = self.prompter(self.data.texts(frames), states + jitter)
        images = self.data.images[torch.from_numpy(frames)].float() / 255
        vision, text = prefix.vision_tokens(self.model, images), prefix.text_embeddings(self.model, prompt.tokens)
        encoded = prefix.encode(self.model, prefix.assemble(vision, text, prompt.mask))
        actions = self.data.action_chunks(frames, self.model.config.chunk_size)
        return encoded, torch.from_numpy(self.statistics["action"].normalise(actions))

    def rows(self, step: int) -> np.ndarray:
        return self._draw(step)[0]

    def loss(self, rows: np.ndarray, step: int, start: int, total: int) -> tuple[Tensor, dict[str, float]]:
        recipe, part = self.recipe, slice(start, start + len(rows))
        noise, times = draw_noise_and_time(self.model.config, total, recipe.draws, recipe.seed, "flow", step)
        encoded, actions = self._encode(rows, self._draw(step)[1][part])
        losses = prefix.flow_matching_loss(self.model, encoded, actions, noise[part], times[part])
        return losses.mean() * (len(rows) / total), {}

    @torch.no_grad()
    def validate(self, batch: int) -> float:
        """Flow-matching loss on the held-out frames, with the same noise every time."""
        recipe, total = self.recipe, 0.0
        for number, frames in enumerate(self._held_out_batches(batch)):
            encoded, actions = self._encode(frames)
            address = (recipe.seed, "held-out flow", number)
            noise, times = draw_noise_and_time(self.model.config, len(frames), recipe.draws, *address)
            total += float(prefix.flow_matching_loss(self.model, encoded, actions, noise, times).mean()) * len(frames)
        return total / len(self.held_out_frames)

    @torch.no_grad()
    def open_loop_errors(self, batch: int) -> dict[str, float]:
        """Mean squared error of held-out action chunks, normalised units, and of two references that see no image.

        ``policy`` integrates from zero noise; ``hold`` repeats the current state; ``mean`` is the mean training action.
        """
        errors = dict.fromkeys(("policy", "hold", "mean"), 0.0)
        normalise = self.statistics["action"].normalise
        mean = torch.from_numpy(normalise(self.data.actions[self.train_frames]).mean(axis=0))
        for frames in self._held_out_batches(batch):
            encoded, actions = self._encode(frames)
            zero_noise = torch.zeros(len(frames), 1, *actions.shape[1:])
            plan = prefix.integrate(self.model, encoded, zero_noise, self.model.config.num_inference_steps)[:, 0]
            hold = torch.from_numpy(normalise(self.data.states[frames]))[:, None]
            for name, guess in {"policy": plan, "hold": hold, "mean": mean}.items():
                errors[name] += float((guess - actions).square().mean()) * len(frames)
        return {name: error / len(self.held_out_frames) for name, error in errors.items()}


def pretrain(recipe: Recipe, demonstrations: Demonstrations, scratch: Scratch) -> Pretrained:
    """Train to the last step, from the state in ``scratch`` where there is one."""
    objective = PretrainingObjective(recipe, demonstrations)
    policy = objective.model.train()
    phase = Phase(objective, [(dict(policy.named_parameters()), recipe.learning_rate)], plateau_schedule(recipe))
    if saved := scratch.load():
        phase.load_state(saved)
    curve = curve_rows(phase.run(scratch, _EVALUATION_BATCH).curve, recipe.learning_rate)
    summary = {
        "steps": recipe.steps,
        "train_frames": len(objective.train_frames),
        "parameters": sum(parameter.numel() for parameter in policy.parameters()),
        "train_loss": curve[-1]["train_loss"],
        "held_out_loss": curve[-1]["held_out_loss"],
        "fall_in_last_fifth": fall_in_last_fifth(curve),
    }
    for name, error in objective.open_loop_errors(_EVALUATION_BATCH).items():
        summary[f"open_loop_mse_{name}"] = error
    return Pretrained(policy.eval(), objective.statistics, curve, summary)


def curve_rows(curve: Curve, learning_rate: float) -> list[dict[str, float]]:
    """A row for each validation: the mean training loss since the one before, and the learning rate of its step."""
    rows, start = [], 0
    for point in curve.validation:
        step = int(point["step"])
        loss = float(np.mean([row["loss"] for row in curve.train[start:step]]))
        rate = learning_rate * curve.train[step - 1]["rate"]
        rows.append({"step": step, "train_loss": loss, "held_out_loss": point["value"], "learning_rate": rate})
        start = step
    return rows


def fall_in_last_fifth(curve: list[dict[str, float]]) -> float:
    """Relative fall of the held-out loss over the last fifth of the steps; below 0.02 the training counts as done."""
    last = curve[-1]
    earlier = [row for row in curve if row["step"] <= 0.8 * last["step"]] or curve[:1]
    return 1 - last["held_out_loss"] / earlier[-1]["held_out_loss"]
