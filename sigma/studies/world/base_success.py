"""``sigma closed-loop``: success of a base, and of the same policy with random weights, over fresh simulator seeds."""

from pathlib import Path


def run(*, base: Path, output: Path, tasks: list[str], seeds: int, first_seed: int, execute: int, samples: int) -> str:
    """Roll out the policy folder ``base`` in each task from ``seeds`` seeds and write the scores; returns one line.

    ``trained`` and ``random`` of the JSON file ``output`` hold the :func:`~sigma.evaluation.success.score` of each
    task. ``execute`` steps of each plan are executed before the policy looks again. ``samples``: 0 integrates from zero
    noise, n ≥ 1 averages n seeded samples. Raises :class:`SigmaError` for an unknown task, a base that does not load,
    and where the simulator is not installed or cannot render.
    """
    import os

    from sigma.evaluation.success import score
    from sigma.policy.control.controller import BaseController
    from sigma.policy.pi05.base import load_base
    from sigma.policy.pi05.base_action import Kind
    from sigma.policy.pi05.description import describe_base
    from sigma.policy.pi05.small.modeling_pi05_small import fan_in_initialise
    from sigma.shared.files import write_json
    from sigma.shared.progress import progress
    from sigma.simulation.episode import EpisodeSpec
    from sigma.simulation.parallel import EpisodePool, check_renderer
    from sigma.simulation.rollout import FixedRows, run_rollouts
    from sigma.simulation.tasks import task_named

    for task in tasks:
        task_named(task)
    check_renderer()
    reference = describe_base(str(base), None)
    trained, untrained = load_base(reference), load_base(reference)
    fan_in_initialise(untrained.policy, seed=first_seed)
    figures: dict[str, dict[str, dict[str, float]]] = {}
    with progress("closed loop", 2 * len(tasks)) as meter, EpisodePool(min(2, os.cpu_count() or 1)) as crew:
        for name, policy in (("trained", trained), ("random", untrained)):
            decoding: Kind = "mean" if samples else "zero_noise"
            controller = BaseController(
                policy, n_action_steps=execute, decoding=decoding, samples=samples, seed=first_seed
            )
            figures[name] = {}
            for task in tasks:
                spec = EpisodeSpec(task, execute, size=policy.resolution)
                episodes = range(first_seed, first_seed + seeds)
                results = run_rollouts(FixedRows(controller, seeds), episodes, spec, crew=crew)
                figures[name][task] = score(
                    [result.success for result in results],
                    [result.progress for result in results],
                    [result.wrong_box for result in results],
                    [result.failure for result in results],
                )
                meter.advance(1, f"{name} {task} {figures[name][task]['success']:.0%}")
    write_json(Path(output), {**figures, "seeds": seeds})
    rates = ", ".join(f"{task} {100 * scores['success']:.0f} %" for task, scores in figures["trained"].items())
    return f"{output}: success over {seeds} seeds: {rates}"
