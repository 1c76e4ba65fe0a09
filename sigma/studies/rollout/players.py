"""What plays in the closed loop, by name: the frozen base, Sigma, and the arms that the ablation trained.

An arm's folder holds ``arm.json`` and ``model/``; ``kind`` says what the model is:

- ``residual``: LoRA and heads on the frozen base, as ``models/sigma``, with ``adapter_calibration.json`` beside it.
  NAME acts under the calibrated adapter, NAME_full_scale at scale 1, NAME_without_residual under the adapter without
  the residual heads.
- ``lora``: a PEFT adapter on the base; ``full``: a whole checkpoint. Both act by NAME_sample, NAME_zero_noise or
  NAME_mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sigma.shared import records
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_folder, read_json

if TYPE_CHECKING:
    import torch

    from sigma.policy.control.controller import BaseController
    from sigma.policy.control.sigma_controller import SigmaController
    from sigma.policy.pi05.base import Base
    from sigma.policy.pi05.base_action import Kind

EXPERT, BASE, SIGMA = "expert", "base", "sigma"
FULL_SCALE, WITHOUT_RESIDUAL = "full_scale", "without_residual"
DECODINGS: "tuple[Kind, ...]" = ("sample", "zero_noise", "mean")
VARIANTS: dict[str, tuple[str, ...]] = {
    "residual": ("", FULL_SCALE, WITHOUT_RESIDUAL),
    "lora": DECODINGS,
    "full": DECODINGS,
}
MODEL, CALIBRATION = Path("models/sigma"), Path("models/adapter_calibration.json")
REFERENCE, FEATURES = Path("data/base.json"), Path("data/features")


@dataclass(frozen=True)
class UntrainedArm:
    """The scripted expert or the frozen base."""

    name: Literal["expert", "base"]


@dataclass(frozen=True)
class ResidualArm:
    """LoRA and heads on the frozen base with the adapter's calibration; ``variant`` may be empty."""

    name: str
    model: Path
    calibration: Path
    variant: str


@dataclass(frozen=True)
class TunedArm:
    """A PEFT adapter on the base, or a whole checkpoint, and how its samples become one action."""

    name: str
    kind: Literal["lora", "full"]
    model: Path
    decoding: "Kind"


Arm = UntrainedArm | ResidualArm | TunedArm
UNTRAINED = {EXPERT: UntrainedArm("expert"), BASE: UntrainedArm("base")}


def _names(name: str, kind: str) -> dict[str, str]:
    """Full name -> variant."""
    return {f"{name}_{variant}" if variant else name: variant for variant in VARIANTS[kind]}


def find_arm(name: str, folder: Path | None) -> Arm:
    """The arm of this name; ``folder`` is where a trained one lies, None for those of the main pipeline.

    Raises :class:`SigmaError` where there is no such arm, or where something of it is missing.
    """
    shipped = _names(SIGMA, "residual")
    if folder is None:
        if name in UNTRAINED:
            return UNTRAINED[name]
        if name not in shipped:
            legal = ", ".join((EXPERT, BASE, *shipped))
            raise SigmaError(
                f"arm {name!r} does not exist; legal: {legal}, or a trained arm with the folder it lies in"
            )
        arm: ResidualArm | TunedArm = ResidualArm(name, MODEL, CALIBRATION, shipped[name])
    else:
        record = read_json(folder / "arm.json")
        if not isinstance(record, dict) or record.get("kind") not in VARIANTS or not isinstance(record.get("arm"), str):
            raise SigmaError(f"{folder / 'arm.json'}: arm and kind: legal: a name, and one of {', '.join(VARIANTS)}")
        kind, names = record["kind"], _names(record["arm"], record["kind"])
        if name not in names:
            raise SigmaError(f"{folder}: holds no arm {name!r}; legal: {', '.join(names)}")
        if kind == "residual":
            arm = ResidualArm(name, folder / "model", folder / CALIBRATION.name, names[name])
        else:
            arm = TunedArm(name, kind, folder / "model", next(kind for kind in DECODINGS if kind == names[name]))
        digest = digest_folder(FEATURES)
        if record.get("features_digest") != digest:
            raise SigmaError(
                f"{folder / 'arm.json'}: features_digest: the arm was trained on another base or other windows than "
                f"those in {FEATURES}; train it again (dvc repro)"
            )
    for path in (arm.model, arm.calibration) if isinstance(arm, ResidualArm) else (arm.model,):
        if not path.exists():
            raise SigmaError(f"{path}: not found; run the stage that writes it (dvc repro)")
    return arm


def read_base(reference: Path = REFERENCE, features: Path = FEATURES) -> tuple[dict[str, Any], dict[str, Any]]:
    """The base's reference and what the baseline stage computed with it; refuses a pair of two runs."""
    base = records.read_record(reference, records.BASE)
    meta = records.read_record(features / "meta.json", records.FEATURES)
    if meta["base_digest"] != base["digest"]:
        raise SigmaError(f"{features / 'meta.json'}: belongs to another base than {reference}; run `dvc repro`")
    return base, meta


def load_arm(
    arm: Arm,
    *,
    reference: Mapping[str, Any],
    features: Mapping[str, Any],
    adapter: Mapping[str, Any],
    n_action_steps: int,
    device: "torch.device | str" = "cpu",
    dtype: str = "float32",
) -> "BaseController | SigmaController":
    """Load an arm's policy; an expert has none.

    Args:
        reference, features: what :func:`read_base` gave.
        adapter: the section ``adapter`` of the parameters, for residual arms.
        n_action_steps: control steps executed of each plan.

    Raises:
        SigmaError: a model of another base, or ``n_action_steps`` that it cannot act by; both before weights are read.
    """
    import torch

    from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
    from sigma.policy.control.controller import BaseController
    from sigma.policy.control.sigma_controller import SigmaController, check_action_steps
    from sigma.policy.model import lora
    from sigma.policy.model.model_folder import read_config
    from sigma.policy.model.vla import SigmaTelepathyVLA
    from sigma.policy.pi05.base import load_base
    from sigma.policy.pi05.description import describe_base
    from sigma.policy.pi05.inputs import Normalisation

    def load(described: Mapping[str, Any]) -> "Base":
        return load_base(dict(described), device=str(device), dtype=dtype)

    if isinstance(arm, ResidualArm):
        config = read_config(arm.model)
        if config["base"]["digest"] != reference["digest"]:
            raise SigmaError(f"{arm.model}: was trained on another base than {REFERENCE}; train it again (dvc repro)")
        check_action_steps(n_action_steps, config)
        vla = SigmaTelepathyVLA.from_base(
            base_policy=load(reference), lora_dir=arm.model, device=device, dtype=getattr(torch, dtype)
        )
        settings = dict(adapter)
        if arm.variant == FULL_SCALE:
            settings |= {"min_scale": 1.0, "max_scale": 1.0}
        return SigmaController(
            vla,
            adapter=SigmaTelepathyAdapter(**settings),
            calibration=arm.calibration,
            n_action_steps=n_action_steps,
            heads=arm.variant != WITHOUT_RESIDUAL,
        )
    described = dict(reference)
    tuned = arm if isinstance(arm, TunedArm) else None
    if tuned is not None and tuned.kind == "full":
        described = describe_base(str(tuned.model), None)
        for key in ("cameras", "resolution", "state_dim", "action_dim"):
            if described[key] != reference[key]:
                raise SigmaError(
                    f"{tuned.model}: {key}: found {described[key]}; legal: {reference[key]}, as in {REFERENCE}"
                )
    if not 1 <= n_action_steps <= described["chunk_size"]:
        raise SigmaError(f"n_action_steps: found {n_action_steps}; legal: 1 to {described['chunk_size']}")
    base = load(described)
    if tuned is not None and tuned.kind == "lora":
        lora.load(base.policy, tuned.model)
    return BaseController(
        base,
        n_action_steps=n_action_steps,
        decoding=features["action"] if tuned is None else tuned.decoding,
        samples=features["samples"],
        seed=features["seed"],
        normalisation=Normalisation.from_json(features["normalisation"]),
    )
