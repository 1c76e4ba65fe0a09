"""Pictures of the ablation: forest plot and training curves. Plain numbers in, one SVG out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context

from sigma.report.figures import SETTINGS, STYLE, new_figure, plain, to_svg
from sigma.studies.ablation.arm_results import FULL_SCALE, SUBJECT, place, title
from sigma.studies.ablation.arm_table import CLAIMS, CRITICAL, LAST_PART, REFERENCES

BETTER, WORSE, OPEN = STYLE["sigma"]["color"], STYLE["base"]["color"], "#8A8A8A"
CLAIM_TITLES = {"mse_plan": "executed plan", CRITICAL: "executed plan, critical intervals"}
GROUPS = ("confirmatory", "explanatory", "references")
# Okabe and Ito's, for arms; more arms than colours share them and differ by line style.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.")


def group_of(name: str, row: Mapping[str, Any]) -> str:
    """Which part of the table a row stands in."""
    return "references" if name in REFERENCES else "confirmatory" if row["confirmatory"] else "explanatory"


def compared_rows(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The rows that Sigma is compared with, confirmatory ones first."""
    rows = [(name, row) for name, row in results["rows"].items() if "delta" in row.get("mse_plan", {})]
    return sorted(rows, key=lambda item: (GROUPS.index(group_of(*item)), place(item[0])))


def relative(entry: Mapping[str, float]) -> tuple[float, float, float]:
    """The difference and its interval in percent of the row's own error; 0 where that is 0."""
    scale = 100.0 / entry["mean"] if entry["mean"] else 0.0
    return entry["delta"] * scale, entry["delta_lo"] * scale, entry["delta_hi"] * scale


def forest(results: Mapping[str, Any]) -> str:
    """Sigma's error against each row's, in percent of the row's, with 95 % intervals; one panel a claim.

    ``results`` is one split of ``metrics/ablation.json``. A mark is coloured only where its interval excludes zero. Of
    the rows at scale 1, which lie close to their arms', only Sigma's own is drawn.
    """
    rows = compared_rows(results)
    rows = [item for item in rows if not item[0].endswith(FULL_SCALE) or item[0] == SUBJECT + FULL_SCALE]
    claims = [claim for claim in CLAIMS if any(claim in row for _, row in rows)]
    places = np.arange(len(rows))
    with rc_context(SETTINGS):
        figure, axes = new_figure(10, 1.2 + 0.3 * len(rows), 1, max(1, len(claims)), sharey=True)
        for ax, claim in zip(axes[0], claims, strict=True):
            ax.axvline(0, color="#444444", linewidth=1)
            for place, (_, row) in zip(places, rows, strict=True):
                middle, low, high = relative(row[claim])
                colour = BETTER if high < 0 else WORSE if low > 0 else OPEN
                ax.hlines(place, low, high, colors=colour, linewidth=2.5)
                ax.scatter(middle, place, color=colour, s=26, zorder=3)
            ax.set_title(CLAIM_TITLES[claim], loc="left", fontsize=10)
            groups = [group_of(*item) for item in rows]
            for place in places[1:]:
                if groups[place] != groups[place - 1]:
                    ax.axhline(place - 0.5, color="#BBBBBB", linewidth=1)
        axes[0, 0].set_yticks(places, [plain(title(name)) for name, _ in rows])
        for label, (name, row) in zip(axes[0, 0].get_yticklabels(), rows, strict=True):
            label.set_fontweight("bold" if group_of(name, row) == "confirmatory" else "normal")
        axes[0, 0].invert_yaxis()
        figure.supxlabel("Sigma's error minus the row's, % of the row's (left of 0: Sigma's is lower)", fontsize=10)
        return to_svg(figure)


def curves(trainings: Sequence[tuple[str, Mapping[str, np.ndarray]]]) -> str:
    """Validation loss over each arm's steps, one thin line a seed; the last fifth is shaded.

    ``trainings`` are (arm, columns of ``curves.parquet``). Steps are shown as a share of the arm's own.
    """
    styles: dict[str, dict[str, Any]] = {}
    with rc_context(SETTINGS):
        figure, axes = new_figure(8, 4.0)
        ax = axes[0, 0]
        ax.axvspan(1 - LAST_PART, 1, color="#0072B2", alpha=0.06)
        for arm, columns in trainings:
            label = None if arm in styles else plain(title(arm))
            dash, colour = divmod(len(styles), len(PALETTE))
            style = styles.setdefault(arm, {"color": PALETTE[colour], "linestyle": DASHES[dash % len(DASHES)]})
            rows = np.isfinite(columns["validation"])
            share = columns["step"][rows] / columns["step"].max()
            ax.plot(share, columns["validation"][rows], linewidth=1.1, label=label, **style)
        ax.set_yscale("log")
        ax.set_xlabel("share of the arm's training steps")
        ax.set_ylabel("flow-matching loss of the validation windows")
        figure.legend(loc="outside right upper", fontsize=8)
        return to_svg(figure)
