"""What came of the confirmation set, and what speaks against the result, as Markdown from the metrics files."""

from collections.abc import Mapping
from pathlib import Path

from sigma.shared.files import read_json
from sigma.studies.ablation.arm_figures import relative
from sigma.studies.ablation.arm_results import CONFIRMATORY, title

TARGET = "pick_place"


def _signed(value: float, digits: int = 1) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _points(entry: Mapping[str, float]) -> str:
    """A paired difference of success in percentage points with its interval and McNemar's p."""
    middle, low, high = (_signed(100 * entry[key]) for key in ("difference", "low", "high"))
    return f"{middle} points ({low} to {high}, McNemar p {entry['p']:.2g})"


def _told_apart(entry: Mapping[str, float]) -> str:
    """What the interval of Sigma's error minus an arm's says of the arm."""
    if entry["delta_lo"] > 0:
        return "better than Sigma offline"
    return "worse than Sigma offline" if entry["delta_hi"] < 0 else "not told apart from Sigma offline"


def _percent_of(entry: Mapping[str, float]) -> str:
    """Sigma's error minus an arm's in percent of the arm's, with its interval."""
    middle, low, high = (_signed(value) for value in relative(entry))
    return f"{middle} % ({low} to {high})"


def confirmation(root: Path) -> str:
    """Sigma against the confirmatory arms on fresh episodes, and in closed loop on fresh seeds."""
    offline, loop = (read_json(root / f"metrics/confirmation{name}.json") for name in ("", "_rollout"))
    rows = offline["rows"]
    lines = [
        f"Fresh episodes ({offline['windows']} windows of {offline['episodes']} episodes), training seeds averaged: "
        "Sigma's error minus the row's, with its 95 % interval over episodes.",
        "",
        f"| | mse_plan: Sigma {rows['sigma']['mse_plan']['mean']:.4f} | on the {offline['critical_windows']} critical "
        f"windows: Sigma {rows['sigma']['mse_plan_critical']['mean']:.4f} |",
        "| --- | --- | --- |",
    ]
    for name in (row for arm in CONFIRMATORY.values() for row in arm if "delta" in rows[row]["mse_plan"]):
        cells = []
        for claim in ("mse_plan", "mse_plan_critical"):
            entry = rows[name][claim]
            middle, low, high = (_signed(entry[key], 4) for key in ("delta", "delta_lo", "delta_hi"))
            cells.append(f"{entry['mean']:.4f}: {middle} ({low} to {high})")
        lines.append(f"| {title(name)} | {' | '.join(cells)} |")
    lines.append("")
    for setting, told in sorted(loop.items()):
        if setting == "retention":
            continue
        arms = told["arms"]
        for other, entry in told["paired"].items():
            success = (f"{100 * arms[arm]['success']:.1f} %" for arm in ("sigma", other))
            ours, theirs = success
            lines.append(
                f"- `{setting}`, {arms['sigma']['episodes']} fresh seeds: Sigma {ours}, {title(other)} {theirs}; "
                f"{_points(entry)}."
            )
    return "\n".join(lines)


def settled(root: Path) -> str:
    """Where plain LoRA's validation error stood still, and whose still fell."""
    arms = read_json(root / "metrics/ablation.json")["arms"]
    plain = arms["plain_lora"]
    steps = ", ".join(str(step) for _, step in sorted(plain["selected_step"].items()))
    falls = ", ".join(
        f"{title(name)} {_signed(-100 * told['fall_over_last_fifth']['mean'], 2)} %" for name, told in arms.items()
    )
    return (
        f"Plain LoRA was selected at step {steps} of {plain['steps']} (seeds in turn). Change of the validation error "
        f"over the last fifth of the steps, mean of the seeds: {falls}. More steps would not help plain LoRA; "
        "they might help the arms whose error still falls by percents."
    )


def doubts(root: Path) -> str:
    """Findings of the same metrics files that a sceptic would look for."""
    ablation, loop = read_json(root / "metrics/ablation.json"), read_json(root / "metrics/rollout.json")
    risk = read_json(root / "metrics/diagnostics.json")["risk"]
    test, arms = ablation["test"], ablation["arms"]
    alone, direct = (test["rows"][name]["mse_plan"] for name in ("sigma_without_residual", "direct"))
    played = loop[TARGET]
    share = 100 * alone["delta"] / alone["mean"]
    with_heads, without = (
        f"{100 * played['arms'][arm]['success']:.1f} %" for arm in ("sigma", "sigma_without_residual")
    )
    shown = ("direct", "sigma_frozen", "sigma", "plain_lora")
    changed = {name: _signed(-100 * arms[name]["fall_over_last_fifth"]["mean"]) for name in shown}
    worst = min(
        (told["paired"]["plain_lora_zero_noise"]["difference"], name)
        for name, told in loop.items()
        if "/" in name and "plain_lora_zero_noise" in told["paired"]
    )
    ranks = ", ".join(
        f"{scale} {_signed(one['spearman'], 2)} ({_signed(one['lo'], 2)} to {_signed(one['hi'], 2)})"
        for scale, one in sorted(risk.items())
    )
    return "\n".join(
        (
            f"- **The residual heads are worth little here.** Offline they take {-share:.1f} % off the error of "
            f"what flow matching learned with the telepathy path; in closed loop Sigma succeeds in {with_heads} with "
            f"them and in {without} without: {_points(played['paired']['sigma_without_residual'])}. What helps is the "
            "telepathy path inside flow matching.",
            f"- **The direct regressor is {_told_apart(direct)}**: Sigma's mse_plan minus its own is "
            f"{_percent_of(direct)}. Over the last fifth of its {arms['direct']['steps']} steps its validation error "
            f"changed by {changed['direct']} % (frozen branch {changed['sigma_frozen']} %, Sigma {changed['sigma']} %, "
            f"plain LoRA {changed['plain_lora']} %). In closed loop Sigma's success minus its own is "
            f"{_points(played['paired']['direct'])}.",
            f"- **Risk does not rank errors** within the target task: rank correlation {ranks}. The adapter keeps the "
            "base's own tasks because their instructions are not those of the calibration; it is a gate by "
            f"instruction. So it shuts Sigma off where the same task is told in other words: `{worst[1]}`, "
            f"{_signed(100 * worst[0])} points against plain LoRA.",
            f"- **Critical windows are {test['critical_windows']} of {test['windows']}**: whole windows in which the "
            "gripper moves, so the second offline claim is close to the first.",
        )
    )
