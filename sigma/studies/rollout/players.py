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

EXPERT, BASE, SIGMA = "expert", "base", "sigma"
FULL_SCALE, WITHOUT_RESIDUAL = "full_scale", "without_residual"
DECODINGS = ("sample", "zero_noise", "mean")
VARIANTS = {"residual": ("", FULL_SCALE, WITHOUT_RESIDUAL), "lora": DECODINGS, "full": DECODINGS}
MODEL, CALIBRATION = Path("models/sigma"), Path("models/adapter_calibration.json")
REFERENCE, FEATURES = Path("data/base.json"), Path("data/features")


@dataclass(frozen=True)
class Arm:
    """An arm that was found. ``variant`` is one of :data:`VARIANTS`, maybe empty."""

    name: str
    kind: Literal["expert", "base", "residual", "lora", "full"]
    model: Path | None = None
    calibration: Path | None = None
    variant: str = ""


def _names(name: str, kind: str) -> dict[str, str]:
    """Full name -> variant."""
    return {f"{name}_{variant}" if variant else name: variant for variant in VARIANTS[kind]}


def find_arm(name: str, folder: Path | None) -> Arm:
    """The arm of this name; ``folder`` is where a trained one lies, None for those of the main pipeline.

    Raises :class:`SigmaError` where there is no such arm, or where something of it is missing.
    """
    own = _names(SIGMA, "residual")
    if folder is None:
        if name in (EXPERT, BASE):
            return Arm(name, name)
        if name not in own:
            legal = ", ".join((EXPERT, BASE, *own))
            raise SigmaError(
                f"arm {name!r} does not exist; legal: {legal}, or a trained arm with the folder it lies in"
            )
        arm = Arm(name, "residual", MODEL, CALIBRATION, own[name])
    else:
        record = read_json(folder / "arm.json")
        if not isinstance(record, dict) or record.get("kind") not in VARIANTS or not isinstance(record.get("arm"), str):
            raise SigmaError(f"{folder / 'arm.json'}: arm and kind: legal: a name, and one of {', '.join(VARIANTS)}")
        kind, names = record["kind"], _names(record["arm"], record["kind"])
        if name not in names:
            raise SigmaError(f"{folder}: holds no arm {name!r}; legal: {', '.join(names)}")
        calibration = folder / CALIBRATION.name if kind == "residual" else None
        arm = Arm(name, kind, folder / "model", calibration, names[name])
        digest = digest_folder(FEATURES)
        if record.get("features_digest") != digest:
            raise SigmaError(
                f"{folder / 'arm.json'}: features_digest: the arm was trained on another base or other windows than "
                f"those in {FEATURES}; train it again (dvc repro)"
            )
    for path in (arm.model, arm.calibration):
        if path is not None and not path.exists():
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

    def load(described: Mapping[str, Any]) -> Any:
        return load_base(dict(described), device=str(device), dtype=dtype)

    if arm.kind == "residual":
        config = read_config(arm.model)
        if config["base"]["digest"] != reference["digest"]:
            raise SigmaError(f"{arm.model}: was trained on another base than {REFERENCE}; train it again (dvc repro)")
        check_action_steps(n_action_steps, config)
        vla = SigmaTelepathyVLA.from_base(
            base_policy=load(reference), lora_dir=arm.model, device=device, dtype=getattr(torch, dtype)
        )
        bounds = {"min_scale": 1.0, "max_scale": 1.0} if arm.variant == FULL_SCALE else {}
        return SigmaController(
            vla,
            adapter=SigmaTelepathyAdapter(**adapter | bounds),
            calibration=arm.calibration,
            n_action_steps=n_action_steps,
            heads=arm.variant != WITHOUT_RESIDUAL,
        )
    described = dict(reference)
    if arm.kind == "full":
        described = describe_base(str(arm.model), None)
        for key in ("cameras", "resolution", "state_dim", "action_dim"):
            if described[key] != reference[key]:
                raise SigmaError(
                    f"{arm.model}: {key}: found {described[key]}; legal: {reference[key]}, as in {REFERENCE}"
                )
    if not 1 <= n_action_steps <= described["chunk_size"]:
        raise SigmaError(f"n_action_steps: found {n_action_steps}; legal: 1 to {described['chunk_size']}")
    base = load(described)
    if arm.kind == "lora":
        lora.load(base.policy, arm.model)
    return BaseController(
        base,
        n_action_steps=n_action_steps,
        decoding=arm.variant or features["action"],
        samples=features["samples"],
        seed=features["seed"],
        normalisation=Normalisation.from_json(features["normalisation"]),
    )
