"""What plays in the closed loop: the scripted expert, the frozen base, Sigma, and the study's trained arms."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigma.parameters import Parameters
from sigma.shared import records
from sigma.shared.errors import SigmaError
from sigma.shared.records import read_json
from sigma.studies.study.cells.arm_folder import (
    CALIBRATION,
    DECODINGS,
    GATED,
    HALF,
    MEMORY_RESET,
    MODEL,
    read_arm_record,
    variant_names,
)
from sigma.studies.study.cells.workspace import Workspace

if TYPE_CHECKING:
    from sigma.policy.control.controller import BaseController
    from sigma.policy.control.sigma_controller import SigmaController

EXPERT, BASE, SIGMA = "expert", "base", "sigma"


@dataclass(frozen=True)
class Player:
    """What acts, and how. ``kind`` is ``expert``, ``base`` or a kind of trained arm, which alone has a ``model``."""

    name: str
    kind: str
    variant: str = ""
    model: Path = Path()
    calibration: Path = Path()

    @property
    def gated(self) -> bool:
        """Whether it acts behind the calibrated gate."""
        return self.variant == GATED or (self.kind == SIGMA and not self.variant)


def _existing(player: Player) -> Player:
    """The player; raises :class:`SigmaError` where something of it is missing."""
    for path in (player.model, player.calibration) if player.gated else (player.model,):
        if not path.exists():
            raise SigmaError(f"{path}: not found; run the stage that writes it (dvc repro)")
    return player


def root_player(name: str, workspace: Workspace) -> Player:
    """A player of the root pipeline. Raises :class:`SigmaError` where there is none of this name."""
    names = variant_names(SIGMA, SIGMA)
    if name in (EXPERT, BASE):
        return Player(name, name)
    if name not in names:
        raise SigmaError(f"arm {name!r} does not exist; legal: {', '.join((EXPERT, BASE, *names))}")
    return _existing(Player(name, SIGMA, names[name], workspace.models / SIGMA, workspace.models / CALIBRATION))


def arm_players(model: Path, predicted: Path, workspace: Workspace) -> list[Player]:
    """A trained arm in each of its variants. ``model`` and ``predicted`` are what the study trained and predicted."""
    record = read_arm_record(model, workspace)
    return [
        _existing(Player(name, record["kind"], variant, model / MODEL, predicted / CALIBRATION))
        for name, variant in variant_names(record["arm"], record["kind"]).items()
    ]


def read_base(workspace: Workspace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The base's reference, and how the baseline stage computed with it, the base's ``cameras`` that are read among it;
    refuses a pair of two runs."""
    base = records.read_record(workspace.base, records.BASE)
    file = workspace.features / "meta.json"
    meta = records.read_record(file, records.FEATURES)
    if meta["base_digest"] != base["digest"]:
        raise SigmaError(f"{file}: belongs to another base than {workspace.base}; run `dvc repro`")
    return base, meta | {"cameras": read_json(workspace.shards / "meta.json")["cameras"]}


def load_player(
    player: Player,
    *,
    reference: dict[str, Any],
    features: Mapping[str, Any],
    parameters: Parameters,
    n_action_steps: int,
) -> "BaseController | SigmaController":
    """Load a player's policy, in the type that the features were made with; an expert has none.

    ``reference`` and ``features`` are what :func:`read_base` gave. Raises :class:`SigmaError` for a model of another
    base, and for ``n_action_steps`` (of each plan) that it cannot act by; both before weights are read.
    """
    import torch

    from sigma.compute.device import open_device
    from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
    from sigma.policy.adapter.calibration import read_calibration
    from sigma.policy.control.controller import BaseController
    from sigma.policy.control.sigma_controller import SigmaController, check_action_steps
    from sigma.policy.model import lora
    from sigma.policy.model.model_folder import read_config
    from sigma.policy.model.vla import SigmaTelepathyVLA
    from sigma.policy.pi05.base import load_base
    from sigma.policy.pi05.description import describe_base
    from sigma.policy.pi05.inputs import Normalisation
    from sigma.studies.study.play.past_frames import PastFramesController

    model, dtype, adapter = player.model, features["dtype"], parameters.adapter.model_dump()
    device = open_device(parameters.machine)
    if player.kind == SIGMA:
        config = read_config(model)
        if config["base"]["digest"] != reference["digest"]:
            raise SigmaError(f"{model}: was trained on another base than the windows' features; train it again")
        check_action_steps(n_action_steps, config)
        base = load_base(reference, device=str(device), dtype=dtype)
        always = {"min_scale": 1.0, "max_scale": 1.0} if player.variant else {}
        calibration = read_calibration(player.calibration, model) if player.gated else None
        return SigmaController(
            SigmaTelepathyVLA.from_base(base_policy=base, lora_dir=model, device=device, dtype=getattr(torch, dtype)),
            adapter=SigmaTelepathyAdapter(**{**adapter, **always}, calibration=calibration),
            calibration=None,
            n_action_steps=n_action_steps,
            memory=player.variant != MEMORY_RESET,
        )
    described = describe_base(str(model), None) if player.kind == "full" else reference
    for key in ("cameras", "resolution", "state_dim", "action_dim"):
        if described[key] != reference[key]:
            raise SigmaError(f"{model}: {key}: found {described[key]}; legal: {reference[key]}, as the frozen base")
    if not 1 <= n_action_steps <= described["chunk_size"]:
        raise SigmaError(f"n_action_steps: found {n_action_steps}; legal: 1 to {described['chunk_size']}")
    base = replace(load_base(described, device=str(device), dtype=dtype), cameras=tuple(features["cameras"]))
    settings: dict[str, Any] = {
        "n_action_steps": n_action_steps,
        "decoding": next((kind for kind in DECODINGS if kind == player.variant), features["action"]),
        "samples": features["samples"],
        "seed": features["seed"],
        "normalisation": Normalisation.from_json(features["normalisation"]),
    }
    controller: type[BaseController] = BaseController
    if player.kind == "frames":
        controller, settings["stride"] = PastFramesController, parameters.window.memory_stride
    if player.kind in ("lora", "frames"):
        tuned = lora.load(base.policy, model)
        if player.variant == HALF:
            for layer in lora.lora_layers(tuned).values():
                layer.scale_layer(0.5)
        if player.variant == GATED:
            calibration = read_calibration(player.calibration, model)
            settings |= {"tuned": tuned, "adapter": SigmaTelepathyAdapter(**adapter, calibration=calibration)}
    return controller(base, **settings)
