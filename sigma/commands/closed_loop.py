"""``sigma closed-loop``: success of a base, and of the same policy with random weights, over fresh simulator seeds."""

from pathlib import Path


def run(*, base: Path, output: Path, tasks: list[str], seeds: int, first_seed: int, execute: int, samples: int) -> str:
    """Roll out each task from ``seeds`` seeds and write success and mean progress as JSON; returns one line.

    Args:
        base: the policy folder.
        output: JSON file; ``trained`` and ``random`` hold, for each task, ``success`` (a fraction), its Wilson 95 %
            interval ``low`` and ``high``, and ``progress`` (mean share of milestones passed).
        execute: steps of each chunk that are executed before the policy looks again.
        samples: 0 integrates from zero noise, n ≥ 1 averages n seeded samples.
    """
    import dataclasses

    from scipy.stats import binomtest

    from sigma.errors import SigmaError
    from sigma.io import write_json
    from sigma.policy.base import describe_base, load_base
    from sigma.policy.controller import BaseController
    from sigma.policy.initialisation import fan_in_initialise
    from sigma.progress import progress

    try:
        from sigma.simulation.rollout import run_rollouts
    except ModuleNotFoundError as error:
        if error.name not in ("mujoco", "so101_nexus", "gymnasium"):
            raise
        raise SigmaError(f"closed-loop: {error.name} is not installed; install the extra 'simulation'") from None

    reference = describe_base(str(base), None)
    trained, untrained = load_base(reference), load_base(reference)
    fan_in_initialise(untrained.policy, seed=first_seed)
    figures: dict[str, dict[str, dict[str, float]]] = {}
    with progress("closed loop", 2 * len(tasks)) as meter:
        for name, one in (("trained", trained), ("random", dataclasses.replace(untrained, reference={}))):
            controller = BaseController(one, execute=execute, samples=samples, seed=first_seed)
            figures[name] = {}
            for task in tasks:
                results = run_rollouts(controller, task, range(first_seed, first_seed + seeds), execute)
                won = sum(result.success for result in results)
                interval = binomtest(won, seeds).proportion_ci(method="wilson")
                figures[name][task] = {
                    "success": won / seeds,
                    "low": float(interval.low),
                    "high": float(interval.high),
                    "progress": sum(result.progress for result in results) / seeds,
                }
                meter.advance(1, f"{name} {task} {won}/{seeds}")
    write_json(Path(output), {**figures, "seeds": seeds})
    rates = ", ".join(f"{task} {100 * one['success']:.0f} %" for task, one in figures["trained"].items())
    return f"{output}: success over {seeds} seeds: {rates}"
