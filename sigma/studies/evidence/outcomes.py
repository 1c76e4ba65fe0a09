"""The evidence page's table of outcomes: Sigma against every confirmatory row, offline and in closed loop.

Offline, Sigma is *better* or *worse* where the 95 % interval of the paired difference of errors excludes 0; in closed
loop, where McNemar's exact p of the difference in success is below 0.05. Everything else is *not shown*.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sigma.studies.ablation.arm_figures import relative
from sigma.studies.ablation.arm_results import CONFIRMATORY, OWN, title
from sigma.studies.ablation.arm_table import CLAIMS, CRITICAL
from sigma.studies.rollout.rollout_results import ClosedLoop, Paired, TaskScores

BASE = "base"  # the frozen π0.5's name in the closed loop
BETTER, WORSE, NOT_SHOWN, MISSING = "better", "worse", "not shown", "not measured"
MEASURES = {"mse_plan": "mse_plan, %", CRITICAL: "mse_plan on critical windows, %"}
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Outcome:
    """Sigma against one opponent under one measure.

    Offline the difference and its interval are Sigma's error minus the opponent's in percent of the opponent's; in
    closed loop they are Sigma's success minus the opponent's in percentage points. None: not measured.
    """

    opponent: str
    measure: str
    outcome: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


def outcomes(results: Mapping[str, Any], closed_loop: ClosedLoop | None, target: str) -> list[Outcome]:
    """Every confirmatory row under both offline measures and, where the closed loop was run, its success on ``target``;
    ``results`` is the test episodes' part of ``metrics/ablation.json``."""
    opponents = [row for arm, rows in CONFIRMATORY.items() if arm not in OWN for row in rows]
    table = [_offline(results, row, claim) for claim in CLAIMS for row in opponents]
    if closed_loop is not None:
        pairs = closed_loop.tasks[target]["paired"] if target in closed_loop.tasks else {}
        table += [_closed(pairs.get(row), row, f"success on {target}, points") for row in opponents]
    return table


def _offline(results: Mapping[str, Any], row: str, claim: str) -> Outcome:
    entry = results["rows"].get(row, {}).get(claim)
    if entry is None:
        return Outcome(title(row), MEASURES[claim], MISSING)
    difference, low, high = relative(entry)
    # The interval of one episode is the estimate itself, so it shows nothing.
    several = results["critical_episodes" if claim == CRITICAL else "episodes"] >= 2
    outcome = BETTER if several and high < 0 else WORSE if several and low > 0 else NOT_SHOWN
    return Outcome(title(row), MEASURES[claim], outcome, difference, low, high, entry["p"])


def _closed(pair: Paired | None, row: str, measure: str) -> Outcome:
    if pair is None:
        return Outcome(title(row), measure, MISSING)
    difference, low, high = (100 * value for value in (pair["difference"], pair["low"], pair["high"]))
    return Outcome(title(row), measure, closed_outcome(pair), difference, low, high, pair["p"])


def closed_outcome(pair: Paired) -> str:
    """What McNemar's exact test says of Sigma against another arm on the same episodes."""
    if pair["p"] >= SIGNIFICANT or pair["difference"] == 0:
        return NOT_SHOWN
    return BETTER if pair["difference"] > 0 else WORSE


def losses(
    tasks: Mapping[str, TaskScores], target: str, subject: str, margin: float
) -> dict[str, tuple[float, Paired | None, bool]]:
    """By task of the base's own: Sigma's success minus the frozen base's in points, the paired test where there is one,
    and whether the task counts as kept, which means at most ``margin`` points lost."""
    changes = {}
    for name, task in tasks.items():
        arms = task["arms"]
        if name != target and BASE in arms and subject in arms:
            change = 100.0 * (arms[subject]["success"] - arms[BASE]["success"])
            # Shares of a count are not exact in floating point: a loss of just the margin counts as kept.
            changes[name] = (change, task["paired"].get(BASE), change >= -margin - 1e-9)
    return changes


def signed(value: float) -> str:
    """One decimal with a sign, a true minus; what rounds to zero has no sign."""
    text = f"{value:+.1f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")
