"""The sizes that the telepathy heads are built from, saved beside their weights."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from sigma.errors import SigmaError


@dataclass(frozen=True)
class TelepathySizes:
    """Everything that decides which tensors the heads hold; two heads with equal sizes load into each other."""

    width: int  # d, of the backbone
    layers: int  # of the backbone
    pools: int  # P, cameras + instruction + state
    state_dim: int  # D
    action_dim: int  # A
    horizon: int  # T
    chunk: int  # C
    history: int  # M
    trace: int  # S, control steps of the motion before a decision
    inner: int  # w, width of memory, intent and heads
    factors: int  # K
    factor_dim: int  # E
    state_tokens: int  # N_s
    factor_tokens: int  # N_f
    head_width: int  # hidden width of the residual heads
    read_layers: tuple[int, ...]  # backbone layers that the heads read, from 0; the last one is after the final norm
    film: bool
    memory: Literal["carried", "reset"]
    factor_source: Literal["memory", "constant"]
    read_base_action: bool  # False: a direct regressor that ignores the base action
    architecture: Literal["telepathy", "mlp"]  # mlp: residuals without memory, factors, FiLM and state tokens
    from_layer: int = 0  # backbone layers before it are the frozen base's own, shared with its pass

    def to_dict(self) -> dict[str, Any]:
        """As JSON; ``from_layer`` stands there where it is not 0 alone."""
        data = asdict(self) | {"read_layers": list(self.read_layers)}
        return data if self.from_layer else {key: value for key, value in data.items() if key != "from_layer"}

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str) -> "TelepathySizes":
        """Rebuild from JSON; raises :class:`SigmaError` that names a missing or unknown key."""
        names = {field.name for field in fields(cls)}
        wrong = sorted(names ^ ({"from_layer"} | set(data)))
        if wrong:
            raise SigmaError(
                f"{source}: heads: key {wrong[0]!r} is missing or unknown; expected {', '.join(sorted(names))}"
            )
        return cls(**{**data, "read_layers": tuple(data["read_layers"])})
