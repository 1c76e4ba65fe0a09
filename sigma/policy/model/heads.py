"""The heads: everything that Sigma trains beside LoRA, as one module with its own file.

The source keeps them in ``sigma_telepathy_heads.pt``; the same tensors are written as ``.safetensors`` too, which is
the form that this project reads first. Beside the telepathy path they hold the maps by which its factors act on the
base. All of these begin at zero, so that the untrained Sigma is the base itself, to the bit.

Legend: B batch, V cameras, n tokens an image, d backbone width, w_e width of the action expert, Tc the base's chunk
size, K factors, F factor dim.
"""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sigma.policy.model.sizes import TelepathySizes
from sigma.policy.model.telepathy import TelepathyPath, normalise_factors
from sigma.policy.model.tensors import check_tensors, read_tensors
from sigma.policy.pi05.prefix import Steering
from sigma.shared.files import atomic_file
from sigma.shared.spans import span_steps

FILE = "sigma_telepathy_heads.safetensors"
SOURCE_FILE = "sigma_telepathy_heads.pt"


def _zero_map(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


class FiLM(nn.Module):
    """(γ, β) = W_f (exp(θ) ⊙ N(τ)); v' = (1 + γ) ⊙ v + β. W_f starts at zero, so that v' = v."""

    def __init__(self, sizes: TelepathySizes):
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(sizes.factors, 1))
        self.modulation = _zero_map(sizes.factors * sizes.factor_dim, 2 * sizes.width)

    def forward(self, vision: Tensor, factors: Tensor) -> Tensor:
        """Modulate vision tokens (B, V, n, d) by the factors (B, K, F)."""
        modulation = self.modulation((self.log_gain.exp() * normalise_factors(factors)).flatten(1)).to(vision.dtype)
        gamma, beta = modulation[:, None, None, :].chunk(2, dim=-1)
        return (1 + gamma) * vision + beta


class ResidualBranches(nn.Module):
    """Where the factors enter the action expert: its condition, and its input tokens on three spans.

    With c the expert's condition and x_t the input token of action t::

        c' = c + W_c N(τ)          x_t' = x_t + W_trj N(τ) + 1[t < C] W_chk N(τ) + 1[t = 0] W_vec N(τ)

    The flow integrates what they change like everything else, so that the residual of a span, Sigma's action minus the
    base's, stays one coherent motion.
    """

    def __init__(self, sizes: TelepathySizes):
        super().__init__()
        self.steps = span_steps(sizes.chunk, sizes.chunk_size)
        self.chunk_size = sizes.chunk_size
        flat = sizes.factors * sizes.factor_dim
        self.maps = nn.ModuleDict({branch: _zero_map(flat, sizes.expert_width) for branch in sizes.branches})

    def forward(self, factors: Tensor) -> Steering:
        """From the factors (B, K, F)."""
        normed = normalise_factors(factors).flatten(1)
        moved: dict[str, Tensor] = {branch: layer(normed) for branch, layer in self.maps.items()}
        some = next(iter(moved.values()))
        tokens = some.new_zeros(len(some), self.chunk_size, some.shape[1])
        for span, count in self.steps.items():
            if span in moved:
                tokens = tokens + functional.pad(
                    moved[span][:, None].expand(-1, count, -1), (0, 0, 0, self.chunk_size - count)
                )
        return Steering(moved.get("condition", torch.zeros_like(some)), tokens)


class FactorTokens(nn.Module):
    """``N_f`` tokens (B, N_f, d) that tell the backbone the factors, at the size of its text embeddings.

    ``token_rms`` is the root mean square of the frozen base's text embeddings: the backbone was not trained on tokens
    of another size.
    """

    token_rms: Tensor

    def __init__(self, sizes: TelepathySizes, token_rms: float):
        super().__init__()
        self.shape = (sizes.factor_tokens, sizes.width)
        self.project = nn.Linear(sizes.factors * sizes.factor_dim, sizes.factor_tokens * sizes.width)
        self.register_buffer("token_rms", torch.tensor(float(token_rms)))

    def forward(self, factors: Tensor) -> Tensor:
        tokens = self.project(normalise_factors(factors).flatten(1)).unflatten(-1, self.shape)
        return functional.layer_norm(tokens, self.shape[1:]) * self.token_rms


class TelepathyHeads(nn.Module):
    """The telepathy path, and FiLM, residual branches and factor tokens where the sizes ask for them, in float32."""

    def __init__(self, sizes: TelepathySizes, token_rms: float):
        super().__init__()
        self.sizes = sizes
        self.path = TelepathyPath(sizes)
        self.film = FiLM(sizes) if sizes.film else None
        self.branches = ResidualBranches(sizes) if sizes.branches else None
        self.factor_tokens = FactorTokens(sizes, token_rms) if sizes.factor_tokens else None


def build_heads(sizes: TelepathySizes, token_rms: float, seed: int) -> TelepathyHeads:
    """Heads with seeded initial weights; the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TelepathyHeads(sizes, token_rms)


def save_heads(heads: TelepathyHeads, folder: Path) -> None:
    """Write the tensors as ``.safetensors`` and, in the source's form, as ``.pt``; the bytes depend on them alone."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(heads.state_dict().items())}
    with atomic_file(Path(folder) / FILE) as temporary:
        save_file(tensors, temporary)
    with atomic_file(Path(folder) / SOURCE_FILE) as temporary, open(temporary, "wb") as file:
        torch.save(tensors, file)


def load_heads(heads: TelepathyHeads, path: Path) -> None:
    """Load strictly; raises :class:`SigmaError` naming the first tensor that is missing, extra, misshapen or NaN."""
    tensors = read_tensors(path)
    check_tensors(path, tensors, heads.state_dict(), "other sizes")
    heads.load_state_dict(tensors)


def heads_file(folder: Path) -> Path:
    """``sigma_telepathy_heads.safetensors``, or the source's ``.pt`` where only that is there."""
    file, source = Path(folder) / FILE, Path(folder) / SOURCE_FILE
    return source if source.is_file() and not file.is_file() else file


def describe_heads(heads: TelepathyHeads) -> dict[str, float | int | str]:
    """What CHECK A compares: a digest of every tensor, their count, and mean, std and rms of all numbers together."""
    digest, values = hashlib.sha256(), []
    for name, tensor in sorted(heads.state_dict().items()):
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{name}:{data.dtype}:{tuple(data.shape)}:".encode() + data.numpy().tobytes())
        values.append(data.double().flatten())
    numbers = torch.cat(values)
    return {
        "digest": digest.hexdigest(),
        "tensors": len(values),
        "mean": numbers.mean().item(),
        "std": numbers.std(correction=0).item(),
        "rms": numbers.square().mean().sqrt().item(),
    }
