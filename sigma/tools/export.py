"""``sigma export``: the trained Sigma as a LeRobot policy folder, which LeRobot's own commands run."""

from pathlib import Path
from typing import Any

from sigma.parameters import read_parameters
from sigma.policy.control.sigma_controller import check_action_steps
from sigma.policy.lerobot import policy_folder
from sigma.policy.lerobot.configuration_sigma import AdapterConfig
from sigma.shared.errors import SigmaError
from sigma.shared.files import atomic_directory

MODEL, CALIBRATION, BASE = Path("models/sigma"), Path("models/adapter_calibration.json"), Path("data/base.json")


def run(
    *,
    output: Path,
    n_action_steps: int | None = None,
    lower: list[float] | None = None,
    upper: list[float] | None = None,
    max_step: list[float] | None = None,
    clamp: bool = True,
) -> str:
    """Write the folder whole or not at all; returns one line that says how the policy acts.

    The adapter is that of ``params.yaml``. ``lower``, ``upper`` and ``max_step``, in the robot's units and one for each
    joint or a single step for all, replace those of the training episodes
    (:func:`~sigma.policy.lerobot.policy_folder.training_limits`); without ``clamp`` there are none.

    Raises :class:`SigmaError` where a part is missing or of another base, or a value is not legal.
    """
    adapter = AdapterConfig(**read_parameters().adapter.model_dump())
    if output.exists():
        raise SigmaError(f"{output}: exists already; choose another folder")
    config, base = policy_folder.check_parts(MODEL, CALIBRATION, BASE)
    chosen: dict[str, Any] = {"joint_lower": lower, "joint_upper": upper, "max_step": max_step}
    chosen = {name: values for name, values in chosen.items() if values}
    if max_step and len(max_step) == 1:
        chosen["max_step"] = max_step[0]
    if chosen and not clamp:
        raise SigmaError("--no-clamp: legal without --lower, --upper and --max-step")
    trained = policy_folder.training_limits(config)
    limits = trained | chosen if clamp else {}
    policy = policy_folder.policy_config(config, base, adapter=adapter, n_action_steps=n_action_steps, limits=limits)
    check_action_steps(policy.n_action_steps, config)
    with atomic_directory(output) as temporary:
        policy_folder.write_parts(temporary, model=MODEL, calibration=CALIBRATION, base=BASE, config=policy)
    clamped = "clamped to the range and speed of its training episodes" if clamp else "no clamp"
    clamped += "".join(f", {name} as given (theirs: {_brief(trained.get(name))})" for name in chosen)
    source = base["source"] + (f"@{base['revision']}" if base["revision"] else "")
    return f"{output}: Sigma on {source}, {policy.n_action_steps} steps a decision, {clamped}"


def _brief(values: Any) -> str:
    return "none" if values is None else " ".join(f"{value:.3g}" for value in values)
