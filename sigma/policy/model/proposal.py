"""What Sigma proposes at B decisions: the base's action, its own and its telepathy, each computed when asked for.

Legend: B batch, A action dim, A' the policy's padded action dim, H horizon, Tc the base's chunk size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from sigma.policy.model import lora
from sigma.policy.model.decision import SigmaModel
from sigma.policy.model.telepathy import Memory, TelepathyState
from sigma.policy.pi05 import prefix
from sigma.policy.pi05.base_action import deterministic_action
from sigma.policy.pi05.observation import BasePass, Observation, Past
from sigma.shared.spans import residuals, split

# Names of the source's card -> fields of TelepathyState.
_TELEPATHY_OUTPUTS = {
    "telepathy_factors": "factors",
    "semantic_factors": "semantic",
    **{name: name for name in ("intent", "memory", "alignment")},
}


@dataclass(frozen=True)
class Proposal:
    """What Sigma proposes at B decisions, before the adapter scales it; actions are normalised and of one noise."""

    base: Tensor | None  # (B, H, A) the frozen base's action; None where it was not asked for
    action: Tensor | None  # (B, H, A) Sigma's, at scale 1; None where it was not asked for
    telepathy: TelepathyState | None  # None where Sigma's pass was not made

    def both(self) -> tuple[Tensor, Tensor]:
        """The base's action and Sigma's; raises :class:`ValueError` where only one of them was asked for."""
        if self.base is None or self.action is None:
            raise ValueError("one of the two actions was not computed")
        return self.base, self.action

    def card_interface(self, chunk: int) -> dict[str, Tensor | None]:
        """The outputs under the names of the source's card; a vector has no axis of steps there."""
        base, action = self.both()
        output: dict[str, Tensor | None] = {}
        for name, actions in (
            ("base_action", split(base, chunk)),
            ("telepathy_residual", residuals(base, action, chunk)),
        ):
            output |= {f"{name}_{span}": values for span, values in actions.items()}
            output[f"{name}_vector"] = actions["vector"][:, 0]
        if self.telepathy is not None:
            output |= {key: getattr(self.telepathy, name) for key, name in _TELEPATHY_OUTPUTS.items()}
        return output


@dataclass
class Decisions:
    """B decisions of a model, computed as far as they are asked for."""

    model: SigmaModel
    config: Mapping[str, Any]
    observation: Observation
    remembered: Memory | Past
    addresses: Sequence[tuple]
    noise: Tensor | None  # (B, Tc, A') the initial noise instead of the deterministic action's

    @cached_property
    def _frozen(self) -> BasePass:
        return self.model.frozen_pass(self.observation)

    @cached_property
    def _seen(self) -> Observation:
        """What the telepathy path reads, the frozen base's pass included where the factors need it."""
        if self.config["sizes"]["present"] != "backbone":
            return self.observation
        return self.observation.with_frozen_features(self._frozen.pooled)

    @cached_property
    def telepathy(self) -> TelepathyState:
        return self.model.telepathy(self._seen, self.remembered)

    def base(self) -> Tensor:
        """The frozen base's action (B, H, A)."""
        encoded = self._frozen.encoded
        with lora.disabled(self.model.adapted):
            return self._integrate(encoded, None)

    def action(self) -> Tensor:
        """Sigma's action (B, H, A), at scale 1."""
        passed = self.model.adapted_pass(self._seen, self.remembered)
        return self._integrate(passed.encoded, passed.steering)

    def _integrate(self, encoded: prefix.Encoded, steering: prefix.Steering | None) -> Tensor:
        config, policy, steps = self.config, self.model.policy, self.config["num_steps"]
        if self.noise is not None:
            action = prefix.integrate(policy, encoded, self.noise[:, None], steps, steering)[:, 0]
        else:
            draws: dict[str, Any] = {name: config[name] for name in ("samples", "seed")}
            action = deterministic_action(
                config["base_action"], policy, encoded, steps, steering, **draws, addresses=self.addresses
            )
        return action[:, : config["sizes"]["horizon"]]
