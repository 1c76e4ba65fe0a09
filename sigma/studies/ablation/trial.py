"""``sigma trial``: one arm at one learning rate, for its validation error alone."""

from pathlib import Path

from sigma.shared.errors import SigmaError
from sigma.studies.ablation.arms import arm_parameters, read_ablation, select_arm


def run(*, params: Path, arm: str, rate: float, output: Path) -> str:
    """Train and write ``{"arm", "rate", "validation"}``; test windows are not looked at; returns one line.

    Raises :class:`SigmaError` for an arm without trials or a rate that is not in the list, before any long work.
    """
    ablation = read_ablation(params)
    chosen = select_arm(ablation, arm, params)
    if arm not in ablation.confirmatory:
        raise SigmaError(
            f"{params}: ablation.arms.{arm}: has no trials of its own, it takes the rate of {chosen.rate_of}"
        )
    if rate not in ablation.trials.rates:
        legal = ", ".join(f"{value:g}" for value in ablation.trials.rates)
        raise SigmaError(f"{params}: ablation.trials.rates: no rate {rate:g}; legal: {legal}")
    parameters = arm_parameters(params, arm, chosen, seed=ablation.trials.seed, rate=rate)

    from sigma.shared.files import write_json
    from sigma.studies.ablation.arm_training import trained_arm

    with trained_arm(chosen.kind, parameters) as result:
        write_json(output, {"arm": arm, "rate": rate, "validation": result.validation})
    return f"trial: {arm} at {rate:g} times the rates: validation flow loss {result.validation:.5f}"
