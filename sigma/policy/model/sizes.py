"""The sizes that the telepathy heads are built from, saved beside their weights."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from sigma.shared.errors import SigmaError

Count = Annotated[int, Field(ge=0, lt=2**20)]


@dataclass(frozen=True)
class TelepathySizes:
    """Everything that decides which tensors the heads hold: heads of equal sizes have the same tensors."""

    width: Count  # d, of the backbone
    layers: Count  # of the backbone
    pools: Count  # P, cameras + instruction + state
    state_dim: Count  # D
    action_dim: Count  # A
    horizon: Count  # T
    chunk: Count  # C
    history: Count  # M
    trace: Count  # S, control steps of the motion before a decision
    inner: Count  # w, width of memory, intent and heads
    factors: Count  # K
    factor_dim: Count  # E
    state_tokens: Count  # N_s
    factor_tokens: Count  # N_f
    head_width: Count  # hidden width of the residual heads
    read_layers: tuple[Count, ...]  # backbone layers that the heads read, from 0; the last one is after the final norm
    film: bool
    memory: Literal["carried", "reset"]
    factor_source: Literal["memory", "constant"]
    read_base_action: bool  # False: a direct regressor that ignores the base action
    architecture: Literal["telepathy", "mlp"]  # mlp: residuals without memory, factors, FiLM and state tokens
    from_layer: Count = 0  # backbone layers before it are the frozen base's own, shared with its pass

    def to_dict(self) -> dict[str, Any]:
        """As JSON; ``from_layer`` is left out where it is 0, its default."""
        data = asdict(self) | {"read_layers": list(self.read_layers)}
        if not self.from_layer:
            del data["from_layer"]
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str) -> "TelepathySizes":
        """Rebuild from JSON; raises :class:`SigmaError` that names a missing or unknown key, or a wrong value."""
        names = {field.name for field in fields(cls)}
        if wrong := sorted(names ^ ({"from_layer"} | set(data))):
            legal = ", ".join(sorted(names))
            raise SigmaError(f"{source}: heads: key {wrong[0]!r} is missing or unknown; expected {legal}")
        try:
            return TypeAdapter(cls).validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            message = f"{first['loc'][0]}: {first['msg'][0].lower()}{first['msg'][1:]}, found {first['input']!r}"
            raise SigmaError(f"{source}: heads: {message}") from None
