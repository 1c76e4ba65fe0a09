"""The evidence page's first line: which confirmatory arms Sigma beats, offline and in closed loop, and which not.

Every word follows from the numbers. *Beats* offline: the 95 % interval of the paired difference lies below 0, for every
row of the arm (plain LoRA has three decodings). In closed loop: more successes, and McNemar's exact p below 0.05, again
for every row of the arm.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sigma.report.html import p_value
from sigma.studies.ablation.arm_figures import relative, subject_of
from sigma.studies.ablation.arm_results import CONFIRMATORY, OWN, TITLES
from sigma.studies.ablation.arm_table import CLAIMS, CRITICAL
from sigma.studies.rollout.rollout_results import SETTING, ClosedLoop, Paired, TaskResult

BASES = ("frozen_base", "base")  # the frozen π0.5's names in the closed loop
BEATEN, NOT_SHOWN, LOST_TO = "beaten", "not shown", "lost to"
CLAIM_NAMES = {"mse_plan": "mse_plan", CRITICAL: "critical intervals"}


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def percent(value: float) -> str:
    """A signed percentage with a true minus sign that no line break parts; what rounds to zero has no sign."""
    text = f"{value:+.1f}"
    return f"{text.lstrip('+-') if float(text) == 0 else text.replace('-', '−')}\u00a0%"


def opponents(results: Mapping[str, Any]) -> dict[str, list[str]]:
    """Confirmatory arm -> its rows in ``results``; Sigma's own branches are no opponents."""
    found = {
        arm: [row for row in rows if row in results["rows"]] for arm, rows in CONFIRMATORY.items() if arm not in OWN
    }
    return {arm: rows for arm, rows in found.items() if rows}


def offline_status(results: Mapping[str, Any], rows: Sequence[str], claim: str) -> str:
    """Whether Sigma beats an arm under one claim, is beaten by one of its rows, or neither is shown.

    One episode has no interval, so nothing is shown by it.
    """
    entries = [results["rows"][row].get(claim) for row in rows]
    episodes = results["critical_episodes" if claim == CRITICAL else "episodes"]
    if episodes < 2 or not all(entries):
        return NOT_SHOWN
    if all(entry["delta_hi"] < 0 for entry in entries):
        return BEATEN
    return LOST_TO if any(entry["delta_lo"] > 0 for entry in entries) else NOT_SHOWN


def closed_status(task: TaskResult, rows: Sequence[str]) -> str | None:
    """The same in closed loop; None where no row of the arm was rolled out."""
    pairs = [task.paired[row] for row in rows if row in task.paired]
    if not pairs:
        return None
    if all(pair.won for pair in pairs):
        return BEATEN
    return LOST_TO if any(pair.lost for pair in pairs) else NOT_SHOWN


def _closest(results: Mapping[str, Any], rows: Sequence[str], claim: str) -> str:
    """The relative difference to the arm's best row: the one that Sigma is least far ahead of."""
    return percent(max(relative(results["rows"][row][claim])[0] for row in rows))


def _offline_part(results: Mapping[str, Any], arm: str, claims: Sequence[str]) -> str:
    rows = opponents(results)[arm]
    known = [claim for claim in claims if all(claim in results["rows"][row] for row in rows)]
    told = ", ".join(f"{CLAIM_NAMES[claim]} {_closest(results, rows, claim)}" for claim in known)
    return f"{TITLES[arm]} ({told or ', '.join(CLAIM_NAMES[claim] for claim in claims)})"


def offline_sentence(results: Mapping[str, Any], seeds: int) -> str:
    """What the paired differences on the test episodes say."""
    claims: dict[str, dict[str, list[str]]] = {status: {} for status in (BEATEN, NOT_SHOWN, LOST_TO)}
    arms = opponents(results)
    for arm, rows in arms.items():
        for claim in CLAIMS:
            claims[offline_status(results, rows, claim)].setdefault(arm, []).append(claim)
    parts = {
        status: [_offline_part(results, arm, which) for arm, which in found.items()] for status, found in claims.items()
    }
    absent = [TITLES[arm] for arm in CONFIRMATORY if arm not in (*OWN, *arms)]
    all_won = not absent and not claims[NOT_SHOWN] and not claims[LOST_TO]
    clauses = []
    if not arms:
        clauses.append("no confirmatory arm was trained")
    elif all_won:
        clauses.append(
            f"Sigma beats every confirmatory arm, {listed(parts[BEATEN])}, each with a 95 % interval that excludes zero"
        )
    elif parts[BEATEN]:
        clauses.append(f"Sigma beats {listed(parts[BEATEN])}, with 95 % intervals that exclude zero")
    else:
        clauses.append("Sigma beats no confirmatory arm")
    if parts[NOT_SHOWN]:
        clauses.append(f"it is not shown to beat {listed(parts[NOT_SHOWN])}")
    if parts[LOST_TO]:
        clauses.append(f"it is beaten by {listed(parts[LOST_TO])}")
    if arms and absent:
        clauses.append(f"{listed(absent)} was not trained")
    where = f"{results['windows']} windows of {results['episodes']} test episodes, {seeds} training seeds"
    return f"Offline ({where}) {'; '.join(clauses)}."


def _told(task: TaskResult, arm: str, rows: Sequence[str]) -> str:
    """An arm's best success, and the largest p of its rows."""
    paired = [row for row in rows if row in task.paired]
    best, p = max(task.arms[row].success for row in paired), max(task.paired[row].p for row in paired)
    text = p_value(p)
    return f"{TITLES[arm]} ({100 * best:.0f}\u00a0%, McNemar p {text if text.startswith('<') else '= ' + text})"


def target_clause(task: TaskResult, name: str, subject: str, arms: Mapping[str, Sequence[str]]) -> str:
    """Success on the target against each opponent that was rolled out."""
    groups: dict[str | None, list[str]] = {status: [] for status in (BEATEN, NOT_SHOWN, LOST_TO, None)}
    for arm, rows in arms.items():
        status = closed_status(task, rows)
        groups[status].append(TITLES[arm] if status is None else _told(task, arm, rows))
    own = task.arms[subject]
    episodes = f", {own.episodes} episodes" if own.episodes else ""
    clauses = []
    if groups[BEATEN]:
        clauses.append(f"more often than {listed(groups[BEATEN])}")
    if groups[NOT_SHOWN]:
        clauses.append(f"not shown to be more often than {listed(groups[NOT_SHOWN])}")
    if groups[LOST_TO]:
        clauses.append(f"less often than {listed(groups[LOST_TO])}")
    if groups[None]:
        clauses.append(f"not compared with {listed(groups[None])}")
    told = "; ".join(clauses) or "with no opponent beside it"
    return f"In closed loop ({name}{episodes}) it succeeds in {100 * own.success:.0f}\u00a0%: {told}"


def losses(tasks: Mapping[str, TaskResult], target: str, subject: str) -> dict[str, tuple[float, Paired | None]]:
    """Own task of the base -> success of Sigma minus the frozen base's, in points, and the paired test if there is
    one."""
    found = {}
    for name, task in tasks.items():
        base = next((arm for arm in BASES if arm in task.arms), None)
        if name != target and base is not None and subject in task.arms:
            loss = 100.0 * (task.arms[subject].success - task.arms[base].success)
            found[name] = (loss, task.paired.get(base))
    return found


def points(share: float) -> str:
    """A difference of shares in points, signed, with a true minus sign."""
    return percent(100.0 * share).removesuffix("\u00a0%")


def retention_clause(closed_loop: ClosedLoop, target: str, subject: str, margin: float) -> str:
    """Whether Sigma keeps what the base could do: on each of its own tasks at most ``margin`` points below it."""
    found = losses(closed_loop.tasks, target, subject)
    if not found:
        return "the base's own tasks were not rolled out"
    kept = closed_loop.kept.get(subject)
    mean = "" if kept is None else f"mean {points(kept.difference)}, {points(kept.low)} to {points(kept.high)}; "
    # Shares of a count are not exact: a loss of just the margin is within it.
    fallen = {name: loss for name, (loss, _) in found.items() if loss < -margin - 1e-9}
    if fallen:
        told = listed([f"{name} {points(loss / 100)}" for name, loss in fallen.items()])
        return f"it does not keep the base's own tasks within {margin:g} points of the frozen π0.5 ({mean}{told})"
    name, (loss, _) = min(found.items(), key=lambda item: item[1][0])
    told = f"{mean}least: {name} {points(loss / 100)}"
    return f"it keeps each of the base's own tasks within {margin:g} points of the frozen π0.5 ({told})"


def settings_sentence(
    settings: Mapping[str, TaskResult], target: str, subject: str, arms: Mapping[str, Sequence[str]]
) -> str:
    """The harder settings of the target in which Sigma beats an opponent or is beaten; empty where none decides.

    Many settings are looked at, each by itself: what is said here is an estimate and no claim.
    """
    clauses = []
    for name, task in settings.items():
        if not name.startswith(target + SETTING) or subject not in task.arms:
            continue
        groups: dict[str | None, list[str]] = {}
        for arm, rows in arms.items():
            groups.setdefault(closed_status(task, rows), []).append(arm)
        told = [
            f"{words} {listed([_told(task, arm, arms[arm]) for arm in groups[status]])}"
            for status, words in ((BEATEN, "more often than"), (LOST_TO, "less often than"))
            if status in groups
        ]
        if told:
            own = 100 * task.arms[subject].success
            clauses.append(f"{name.removeprefix(target + SETTING)} ({own:.0f}\u00a0%): {' and '.join(told)}")
    return f" In harder settings, each by itself: {'; '.join(clauses)}." if clauses else ""


def verdict(ablation: Mapping[str, Any], closed_loop: ClosedLoop | None, *, target: str, margin: float) -> str:
    """Two or three sentences, from ``metrics/ablation.json`` and the closed loop (None where it was not run).

    ``target`` is the task that Sigma learned, ``margin`` the loss in points that counts as keeping a task.
    """
    results = ablation["test"]
    subject = subject_of(results)
    first = offline_sentence(results, len(results["rows"][subject]["mse_plan"]["seeds"]))
    if closed_loop is None:
        return f"{first} The closed loop was not run: nothing is known of success."
    task = closed_loop.tasks.get(target)
    if task is None or subject not in task.arms:
        second = f"The closed loop has no {subject} on {target}"
    else:
        second = target_clause(task, target, subject, opponents(results))
    harder = settings_sentence(closed_loop.settings, target, subject, opponents(results))
    return f"{first} {second}; {retention_clause(closed_loop, target, subject, margin)}.{harder}"
