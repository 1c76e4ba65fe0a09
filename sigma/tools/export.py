"""``sigma export``: the trained Sigma as a LeRobot policy folder, which LeRobot's own commands run."""

from pathlib import Path

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
    params: Path | None = None,
) -> str:
    """Write the folder whole or not at all; returns one line that says how it acts.

    ``lower``, ``upper`` and ``max_step`` replace those of :func:`sigma.policy.lerobot.policy_folder.default_limits`, in the
    robot's units; without ``clamp`` there are none. The adapter is that of the parameter file.

    Raises :class:`sigma.shared.errors.SigmaError` where a part is missing or of another base, or a value is not legal.
    """
    from sigma.parameters import read_parameters
    from sigma.policy.control.sigma_controller import check_action_steps
    from sigma.policy.lerobot import policy_folder
    from sigma.policy.lerobot.configuration_sigma import AdapterConfig
    from sigma.shared.errors import SigmaError
    from sigma.shared.files import atomic_directory

    adapter = AdapterConfig(**read_parameters(params).adapter.model_dump())
    if output.exists():
        raise SigmaError(f"{output}: exists already; choose another folder")
    config, base = policy_folder.check_parts(MODEL, CALIBRATION, BASE)
    given = {"joint_lower": lower, "joint_upper": upper, "max_step": max_step}
    given = {name: value for name, value in given.items() if value not in (None, [])}
    limits = {}
    if clamp:
        needed = {"joint_lower", "joint_upper"} <= set(given)
        rate = {"max_step": policy_folder.TRAVEL_PER_SECOND / config["fps"]}
        limits = (rate if needed else policy_folder.default_limits(config, ADVICE)) | given
    elif given:
        raise SigmaError("--no-clamp: legal without --lower, --upper and --max-step")
    made = policy_folder.policy_config(config, base, adapter=adapter, n_action_steps=n_action_steps, limits=limits)
    check_action_steps(made.n_action_steps, config)
    with atomic_directory(output) as temporary:
        policy_folder.write_parts(temporary, model=MODEL, calibration=CALIBRATION, base=BASE, config=made)
    clamped = f"at most {made.max_step:g} units a step" if made.clamps else "no clamp"
    source = base["source"] + (f"@{base['revision']}" if base["revision"] else "")
    return f"{output}: Sigma on {source}, {made.n_action_steps} steps a decision, {clamped}"
