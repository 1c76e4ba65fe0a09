"""The sizes that the telepathy heads are built from, saved beside their weights."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from sigma.shared.errors import SigmaError

Count = Annotated[int, Field(ge=0, lt=2**20)]
Branch = Literal["condition", "vector", "chunk", "trajectory"]


@dataclass(frozen=True)
class TelepathySizes:
    """Everything that decides which tensors the heads hold: heads of equal sizes have the same tensors."""

    width: Count  # d, of the backbone
    expert_width: Count  # of the action expert
    views: Count  # V, cameras
    pools: Count  # P, cameras + instruction + state
    state_dim: Count  # D
    action_dim: Count  # A
    chunk_size: Count  # actions that the base predicts at once
    horizon: Count  # T
    chunk: Count  # C
    trace: Count  # S, control steps of the motion before a decision
    inner: Count  # w, width of memory and intent
    factors: Count  # K
    factor_dim: Count  # F
    factor_tokens: Count  # tokens of the factors that are appended to the prompt
    film: bool  # whether the factors modulate the image tokens
    branches: tuple[Branch, ...]  # where the factors enter the action expert
    memory: Literal["carried", "cleared"]
    present: Literal["vision", "backbone", "motion"]  # what the factors read of the present picture
    factor_source: Literal["memory", "constant"]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"branches": list(self.branches)}

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str) -> "TelepathySizes":
        """Rebuild from JSON; raises :class:`SigmaError` that names a missing or unknown key, or a wrong value."""
        names = {field.name for field in fields(cls)}
        if wrong := sorted(names ^ set(data)):
            legal = ", ".join(sorted(names))
            raise SigmaError(f"{source}: heads: key {wrong[0]!r} is missing or unknown; expected {legal}")
        try:
            return TypeAdapter(cls).validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            message = f"{first['loc'][0]}: {first['msg'][0].lower()}{first['msg'][1:]}, found {first['input']!r}"
            raise SigmaError(f"{source}: heads: {message}") from None
