"""The heads: everything that Sigma trains beside LoRA, as one module with its own file.

The source keeps them in ``sigma_telepathy_heads.pt``; the same tensors are written as ``.safetensors`` too, which is
the form that this project reads first. ``sizes.architecture`` selects the heads: the telepathy path with its residual
heads, or the plain residual MLP that it is compared with.
"""

import hashlib
from pathlib import Path

import torch
from torch import nn

from sigma.policy.model.residuals import ResidualHeads, matching_width, parameter_count
from sigma.policy.model.sizes import TelepathySizes
from sigma.policy.model.telepathy import FactorTokens, FiLM, StateEncoder, TelepathyPath
from sigma.policy.model.tensors import check_tensors, read_tensors
from sigma.shared.files import atomic_file

FILE = "sigma_telepathy_heads.safetensors"
SOURCE_FILE = "sigma_telepathy_heads.pt"


class TelepathyHeads(nn.Module):
    """Telepathy path, FiLM, state tokens (where there are any) and residual heads, in float32."""

    def __init__(self, sizes: TelepathySizes, token_rms: float):
        super().__init__()
        self.sizes = sizes
        self.state_encoder = StateEncoder(sizes, token_rms) if sizes.state_tokens else None
        self.factor_tokens = FactorTokens(sizes, token_rms) if sizes.factor_tokens else None
        self.film = FiLM(sizes.factors, sizes.factor_dim, sizes.width)
        self.path = TelepathyPath(sizes)
        self.residuals = ResidualHeads(sizes, sizes.head_width)

    def before_pass(self) -> dict[str, nn.Parameter]:
        """The parameters that change what the adapted backbone reads, by name: all but those of the residual heads and
        of the update after the adapted pass."""
        inputs = ("state_encoder.", "factor_tokens.", "film.")
        named = {name: parameter for name, parameter in self.named_parameters() if name.startswith(inputs)}
        return named | {f"path.{name}": parameter for name, parameter in self.path.before_pass().items()}


class MLPHeads(nn.Module):
    """The residual MLP alone, with as many parameters as :class:`TelepathyHeads` of the same sizes, in float32."""

    def __init__(self, sizes: TelepathySizes):
        super().__init__()
        self.sizes = sizes
        with torch.device("meta"):
            wanted = parameter_count(TelepathyHeads(sizes, 1.0))
        self.residuals = ResidualHeads(sizes, matching_width(sizes, wanted), read_factors=False)

    def before_pass(self) -> dict[str, nn.Parameter]:
        """None: the backbone reads the base's own prefix."""
        return {}


Heads = TelepathyHeads | MLPHeads


def new_heads(sizes: TelepathySizes, token_rms: float) -> Heads:
    """Heads of ``sizes.architecture``, at initial values from the current random state."""
    return TelepathyHeads(sizes, token_rms) if sizes.architecture == "telepathy" else MLPHeads(sizes)


def build_heads(sizes: TelepathySizes, token_rms: float, seed: int) -> Heads:
    """Heads with seeded initial weights; the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return new_heads(sizes, token_rms)


def save_heads(heads: Heads, folder: Path) -> None:
    """Write the tensors as ``.safetensors`` and, in the source's form, as ``.pt``; the bytes depend on them alone."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(heads.state_dict().items())}
    with atomic_file(Path(folder) / FILE) as temporary:
        save_file(tensors, temporary)
    with atomic_file(Path(folder) / SOURCE_FILE) as temporary, open(temporary, "wb") as file:
        torch.save(tensors, file)


def load_heads(heads: Heads, path: Path) -> None:
    """Load strictly; raises :class:`SigmaError` naming the first tensor that is missing, extra, misshapen or NaN."""
    tensors = read_tensors(path)
    check_tensors(path, tensors, heads.state_dict(), "other sizes")
    heads.load_state_dict(tensors)


def heads_file(folder: Path) -> Path:
    """``sigma_telepathy_heads.safetensors``, or the source's ``.pt`` where only that is there."""
    file, source = Path(folder) / FILE, Path(folder) / SOURCE_FILE
    return source if source.is_file() and not file.is_file() else file


def describe_heads(heads: Heads) -> dict[str, float | int | str]:
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
