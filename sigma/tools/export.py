"""``sigma export``: the trained Sigma as a LeRobot policy folder, which LeRobot's own commands run."""

from pathlib import Path
from typing import Any

from sigma.parameters import read_parameters
from sigma.policy.control.sigma_controller import check_action_steps
from sigma.policy.lerobot import policy_folder
from sigma.policy.lerobot.configuration_sigma import AdapterConfig
from sigma.shared.errors import SigmaError
from sigma.shared.files import atomic_directory

ADVICE = "give --lower and --upper in the units of the data"
MODEL, CALIBRATION, BASE = Path("models/sigma"), Path("models/adapter_calibration.json"), Path("data/base.json")


def run(
    *,
    output: Path,
    n_action_steps: int | None = None,
    lower: list[float] | None = None,
    upper: list[float] | None = None,
    max_step: float | None = None,
    clamp: bool = True,
) -> str:
    """Write the folder whole or not at all; returns one line that says how the policy acts.

    The adapter is that of ``params.yaml``. ``lower``, ``upper`` and ``max_step``, in the robot's units, replace those
    of :func:`sigma.policy.lerobot.policy_folder.default_limits`; without ``clamp`` there are none.

    Raises :class:`SigmaError` where a part is missing or of another base, or a value is not legal.
    """
    adapter = AdapterConfig(**read_parameters().adapter.model_dump())
    if output.exists():
        raise SigmaError(f"{output}: exists already; choose another folder")
    config, base = policy_folder.check_parts(MODEL, CALIBRATION, BASE)
    chosen = {"joint_lower": lower or None, "joint_upper": upper or None, "max_step": max_step}
    limits = _limits(config, {name: value for name, value in chosen.items() if value is not None}, clamp)
    policy = policy_folder.policy_config(config, base, adapter=adapter, n_action_steps=n_action_steps, limits=limits)
    check_action_steps(policy.n_action_steps, config)
    with atomic_directory(output) as temporary:
        policy_folder.write_parts(temporary, model=MODEL, calibration=CALIBRATION, base=BASE, config=policy)
    clamped = f"at most {policy.max_step:g} units a step" if policy.limits else "no clamp"
    source = base["source"] + (f"@{base['revision']}" if base["revision"] else "")
    return f"{output}: Sigma on {source}, {policy.n_action_steps} steps a decision, {clamped}"


def _limits(config: dict[str, Any], chosen: dict[str, Any], clamp: bool) -> dict[str, Any]:
    """The policy's clamp: ``chosen`` by the user, the rest by default; empty without ``clamp``."""
    if not clamp:
        if chosen:
            raise SigmaError("--no-clamp: legal without --lower, --upper and --max-step")
        return {}
    # With both joint limits given it does not matter whether the data's units are LeRobot's.
    if "joint_lower" in chosen and "joint_upper" in chosen:
        return {"max_step": policy_folder.TRAVEL_PER_SECOND / config["fps"]} | chosen
    return policy_folder.default_limits(config, ADVICE) | chosen
