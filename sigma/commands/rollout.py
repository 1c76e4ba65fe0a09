"""``sigma rollout``: closed loop in the simulator, the same fresh episodes for every arm."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from sigma.parameters import Section, read_yaml, validate

Arm = Literal["expert", "base", "sigma", "sigma_full_scale"]


class RolloutParameters(Section):
    tasks: list[str] = Field(min_length=1)
    arms: list[Arm] = Field(min_length=1)
    episodes: int = Field(ge=1, le=100_000)
    n_action_steps: int = Field(ge=1, le=1024)
    batch: int = Field(ge=1, le=1024)


BASE = Path("data/base.json")
MODEL = Path("models/sigma")
CALIBRATION = Path("models/adapter_calibration.json")


def _scores(results: list[Any]) -> dict[str, float | int]:
    """Success with its 95 % Wilson interval, mean progress, and how often the cube lay in the wrong box."""
    from scipy.stats import binomtest

    won = sum(result.success for result in results)
    interval = binomtest(won, len(results)).proportion_ci(confidence_level=0.95, method="wilson")
    return {
        "episodes": len(results),
        "success": won / len(results),
        "success_lo": interval.low,
        "success_hi": interval.high,
        "progress": sum(result.progress for result in results) / len(results),
        "wrong_box": sum(result.wrong_box for result in results),
        "non_finite": sum(result.failure == "non-finite action" for result in results),
    }


def run(*, params: Path, output: Path, episodes_table: Path) -> str:
    """Roll out every arm on every task; writes a metrics file and one row an episode; returns one line."""
    section = validate({"rollout": RolloutParameters}, read_yaml(params), params)["rollout"]
    assert isinstance(section, RolloutParameters)
    from sigma.cli import read_parameters

    whole = read_parameters()

    import pyarrow
    import torch

    from sigma.errors import SigmaError
    from sigma.io import read_json, write_json, write_table
    from sigma.machine import open_device
    from sigma.policy.adapter import SigmaTelepathyAdapter
    from sigma.policy.base import load_base
    from sigma.policy.runtime import Controller
    from sigma.policy.sigma import SigmaTelepathyVLA
    from sigma.progress import progress
    from sigma.simulation.rollout import run_expert, run_rollouts
    from sigma.simulation.tasks import task_named

    for task in section.tasks:
        task_named(task)
    machine: Any = whole["machine"]
    base = load_base(read_json(BASE), device=str(open_device(machine)), dtype=whole["base"].dtype)
    device = next(base.policy.parameters()).device
    vla = SigmaTelepathyVLA.from_base(
        base_policy=base, lora_dir=MODEL, device=device, dtype=getattr(torch, whole["base"].dtype)
    )
    settings = whole["adapter"].model_dump()
    bounds = {"sigma": {}, "sigma_full_scale": {"min_scale": 1.0, "max_scale": 1.0}}

    def controller(arm: str) -> Controller:
        adapter = SigmaTelepathyAdapter(**settings | bounds[arm]) if arm in bounds else None
        return Controller(vla, adapter=adapter, calibration=CALIBRATION, n_action_steps=section.n_action_steps)

    seeds = list(range(section.episodes))
    scores: dict[str, dict[str, Any]] = {}
    rows = []
    with progress("rollout", len(section.tasks) * len(section.arms)) as meter:
        for task in section.tasks:
            scores[task] = {}
            for arm in section.arms:
                if arm == "expert":
                    results = run_expert(task, seeds)
                else:
                    results = run_rollouts(
                        controller(arm), task, seeds, section.n_action_steps, batch=section.batch, size=base.resolution
                    )
                if len(results) != len(seeds):
                    raise SigmaError(f"rollout: {task}: {len(results)} of {len(seeds)} episodes came back")
                scores[task][arm] = _scores(results)
                for result in results:
                    kept = ("seed", "instruction", "success", "progress", "wrong_box", "steps", "failure")
                    rows.append({"task": task, "arm": arm} | {name: getattr(result, name) for name in kept})
                meter.advance(1, f"{task} {arm} {scores[task][arm]['success']:.0%}")
    write_table(episodes_table, pyarrow.Table.from_pylist(rows))
    write_json(output, scores)
    first = section.tasks[0]
    told = ", ".join(f"{arm} {scores[first][arm]['success']:.0%}" for arm in section.arms)
    return f"rollout: {first} on {len(seeds)} fresh episodes: {told}"
