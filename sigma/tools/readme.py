"""Figures in Markdown files, rendered from metrics files so that no number is typed in by hand.

A region begins with ``<!-- figures: NAME -->`` and ends with ``<!-- end -->``; what stands between is replaced.
"""

import csv
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sigma.evaluation.intervals import Difference
from sigma.evaluation.references import TITLES
from sigma.report.verdict import verdict
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json
from sigma.tools.doubts import confirmation, doubts, settled

METRICS = ("mse_vec", "mse_chk", "mse_trj", "mse_plan")
ARMS = {
    "expert": "expert",
    "base": "frozen π0.5",
    "sigma": "Sigma",
    "sigma_full_scale": "Sigma at scale 1",
    "sigma_without_residual": "Sigma without residual heads",
}
_REGION = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _number(value: float) -> str:
    return f"{value:.4f}".replace("-", "−")


def _percent(scores: Mapping[str, float]) -> str:
    low, high = 100 * scores["success_lo"], 100 * scores["success_hi"]
    return f"{100 * scores['success']:.0f} % ({low:.0f}–{high:.0f})"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def sentence(root: Path) -> str:
    """The verdict that heads the report."""
    first, second = (read_json(root / f"metrics/check_{name}.json") for name in "ab")
    episodes = second["test"]["episodes"]

    def differences(values: Mapping[str, Any], name: str) -> dict[str, Difference]:
        return {metric: Difference.from_json(values[metric], name, "sigma", episodes) for metric in METRICS}

    references = {name: differences(values, "reference") for name, values in second["references"].items()}
    return "> " + verdict(first, second, differences(second["test"], "baseline"), references)


def errors(root: Path) -> str:
    """Test error of Sigma and of every reference, with the interval of the difference."""
    check = read_json(root / "metrics/check_b.json")
    test = check["test"]

    def row(title: str, values: Mapping[str, Any], key: str) -> list[str]:
        cells = [
            f"{_number(values[m][key])} ({_number(values[m]['delta_lo'])} to {_number(values[m]['delta_hi'])})"
            for m in METRICS
        ]
        return [title, *cells]

    rows = [["**Sigma**", *(f"**{_number(test[m]['sigma'])}**" for m in METRICS)], row("frozen π0.5", test, "baseline")]
    rows += [row(TITLES[name], values, "reference") for name, values in sorted(check["references"].items())]
    passed = "passed" if check["passed"] else "failed"
    lead = (
        f"Mean squared error on {test['samples']} windows of {test['episodes']} test episodes, normalised action "
        f"units; in\nbrackets the 95 % interval of Sigma's error minus the row's. CHECK B {passed}."
    )
    return f"{lead}\n\n{_table(['', *METRICS], rows)}"


def control(root: Path) -> str:
    """CHECK A in one paragraph."""
    check = read_json(root / "metrics/check_a.json")
    norm, alignment = check["avg_tau_l2"], check["avg_semantic_text_alignment"]
    passed = "passed" if check["passed"] else "failed"
    return (
        f"CHECK A: {check['heads_tensors']} head tensors, mean {_number(check['mean'])}, std {check['std']:.4f}, "
        f"rms {check['rms']:.4f}; ‖τ‖ {norm['baseline']:.2f} (control)\nand {norm['sigma']:.2f} (Sigma); "
        f"semantic–text alignment {alignment['baseline']:.3f} and {alignment['sigma']:.3f}; {passed} at "
        f"{check['tolerance']:.0%} tolerance."
    )


def closed_loop(root: Path) -> str:
    """Success in the simulator by task and arm; harder settings of the target, and what is kept of the base's tasks."""
    results = read_json(root / "metrics/rollout_sigma.json")
    kept = results.pop("retention")["arms"]
    target = min(name.split("/")[0] for name in results if "/" in name)
    order = sorted(results, key=lambda name: (not name.startswith(target), name))
    rows = []
    for name in order:
        arms = results[name]["arms"]
        rows.append([f"`{name}`", str(arms["base"]["episodes"]), *(_percent(arms[arm]) for arm in ARMS)])
    rows.append(["mean of the base's own tasks", str(kept["base"]["episodes"]), *(_percent(kept[arm]) for arm in ARMS)])
    table = _table(["task, or task/setting", "episodes", *ARMS.values()], rows)
    gain = results[target]["paired"]["base"]
    points = [f"{100 * value:+.1f}" for value in (gain["difference"], gain["low"], gain["high"])]
    own = kept["sigma"]
    change = [f"{100 * own[key]:+.1f}" for key in ("difference", "difference_lo", "difference_hi")]
    text = (
        f"Sigma against the frozen π0.5, percentage points, on the same episodes: {points[0]} on `{target}` "
        f"({points[1]} to {points[2]}, McNemar p {gain['p']:.2g}),\n{change[0]} on the base's own tasks "
        f"({change[1]} to {change[2]})."
    )
    rates = {arm: results[target]["arms"][arm]["decisions_per_second"] for arm in ("base", "sigma")}
    text += (
        f"\nDecisions a second on `{target}`, for many episodes in one call: {rates['base']:.0f} of the frozen π0.5 "
        f"and {rates['sigma']:.0f} of Sigma, {rates['sigma'] / rates['base']:.2f} times as many."
    )
    return f"{table}\n\n{text.replace('-', '−')}"


def evidence(root: Path) -> str:
    """The evidence page's first lines, and every row of the ablation with its success where it was played."""
    from sigma.parameters.schema import read_yaml
    from sigma.studies.ablation.arm_figures import compared_rows, relative, subject_of
    from sigma.studies.ablation.arm_results import FULL_SCALE, title
    from sigma.studies.evidence.evidence_verdict import verdict as told
    from sigma.studies.rollout.rollout_results import read_closed_loop

    ablation, loop = read_json(root / "metrics/ablation.json"), read_closed_loop(root / "metrics/rollout.json")
    section = read_yaml(root / "stages/evidence/params.yaml")["evidence"]
    target = section["target"]
    sentence = told(ablation, loop, target=target, margin=section["kept_within"])
    results = ablation["test"]

    def cells(name: str, row: Mapping[str, Any]) -> list[str]:
        compared = []
        for claim in ("mse_plan", "mse_plan_critical"):
            entry = row[claim]
            if "delta" not in entry:
                compared.append("")
                continue
            middle, low, high = (f"{value:+.1f}".replace("-", "−") for value in relative(entry))
            compared.append(f"{middle} % ({low} to {high})")
        name = {"frozen_base": "base"}.get(name, name)
        arms = loop.tasks[target].arms if loop is not None else {}
        played = ""
        if name in arms:
            won = arms[name]
            played = f"{100 * won.success:.0f} % ({100 * won.low:.0f}–{100 * won.high:.0f})"
        kept = loop.kept[name].difference if loop is not None and name in loop.kept else None
        change = "" if kept is None else f"{100 * kept:+.1f}".replace("-", "−")
        return [_number(row["mse_plan"]["mean"]), *compared, played, change]

    subject = subject_of(results)
    rows = [[f"**{title(subject)}**", *cells(subject, results["rows"][subject])]]
    for name, row in compared_rows(results):
        if not name.endswith(FULL_SCALE):
            shown = f"**{title(name)}**" if row["confirmatory"] else title(name)
            rows.append([shown, *cells(name, row)])
    header = ["", "mse_plan", "Sigma against it", "on critical intervals", f"success, `{target}`", "own tasks, points"]
    return f"> {sentence}\n\n{_table(header, rows)}"


def benchmark(root: Path) -> str:
    """The line on the targets of speed, and every figure with its peer, spread and verdict."""
    from sigma.studies.benchmark.comparison import markdown, summary_line

    figures = read_json(root / "metrics/benchmark.json")["figures"]
    return f"> {summary_line(figures)}.\n\n{markdown(figures)}"


def base(root: Path) -> str:
    """Success of the shipped base on fresh seeds of every task, against random weights."""
    scores = read_json(root / "stages/embedded/metrics.json")

    kinds = ("trained", "random")
    rows = [[f"`{task}`", *(_percent(scores[kind][task]) for kind in kinds)] for task in scores["trained"]]
    return _table([f"task, {scores['seeds']} seeds", "trained", "random weights"], rows)


def pretraining(root: Path) -> str:
    """Where the base's training ended, from its curve."""
    with (root / "stages/embedded/curve.csv").open(encoding="utf-8", newline="") as file:
        curve = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    best = min(curve, key=lambda row: row["held_out_loss"])
    summary = read_json(root / "stages/embedded/pretrain.json")
    change = -100 * summary["fall_in_last_fifth"]
    error = {name: f"{summary[f'open_loop_mse_{name}']:.3f}" for name in ("policy", "hold", "mean")}
    rows = [
        ["parameters, training frames", f"{summary['parameters']:,}, {summary['train_frames']:,}"],
        ["steps", f"{summary['steps']:,}"],
        [
            "training loss, held-out loss at the end",
            f"{_number(summary['train_loss'])}, {_number(summary['held_out_loss'])}",
        ],
        ["least held-out loss", f"{_number(best['held_out_loss'])} at step {best['step']:,.0f}"],
        ["change of the held-out loss over the last fifth", f"{change:+.1f} %".replace("-", "−")],
        ["MSE of held-out chunks from zero noise, normalised units", error["policy"]],
        ["the same of holding still, of the mean action", f"{error['hold']}, {error['mean']}"],
    ]
    return _table(["training of the base", ""], rows)


REGIONS: dict[str, Callable[[Path], str]] = {
    "verdict": sentence,
    "errors": errors,
    "control": control,
    "closed_loop": closed_loop,
    "evidence": evidence,
    "confirmation": confirmation,
    "doubts": doubts,
    "settled": settled,
    "benchmark": benchmark,
    "base": base,
    "pretraining": pretraining,
}


def rendered(text: str, root: Path) -> str:
    """``text`` with every region filled from the metrics files under ``root``."""

    def fill(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        if name not in REGIONS:
            raise SigmaError(f"figures: {name}: no such region; legal: {', '.join(REGIONS)}")
        try:
            return f"{begin}{REGIONS[name](root)}\n{end}"
        except KeyError as error:
            raise SigmaError(f"figures: {name}: its metrics file lacks {error}; run the stage that writes it") from None

    return _REGION.sub(fill, text)
