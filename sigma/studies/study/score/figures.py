"""Pictures of the study. Plain numbers in, one SVG out."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib import rc_context

from sigma.report.figures import SETTINGS, STYLE, new_figure, plain, to_svg

BETTER, WORSE, OPEN = STYLE["sigma"]["color"], STYLE["base"]["color"], "#8A8A8A"


def forest(score: Mapping[str, Any], title: Callable[[str], str]) -> str:
    """Sigma minus every other row of a task with 95 % intervals: success in points, and error of the executed plan in
    percent of the row's. A mark is coloured only where its interval excludes zero.

    ``score`` is what ``sigma study score`` wrote.
    """
    success = {
        row: [100 * entry["sigma_minus"][key] for key in ("difference", "lo", "hi")]
        for row, entry in score["closed_loop"]["plain"].items()
        if "sigma_minus" in entry
    }
    errors = {
        row: [
            100 * metrics["mse_plan"]["sigma_minus"][key] / metrics["mse_plan"]["mean"]
            for key in ("difference", "lo", "hi")
        ]
        for row, metrics in score["offline"]["test"].items()
        if "sigma_minus" in metrics["mse_plan"]
    }
    rows = list(dict.fromkeys((*success, *errors)))
    panels = (
        ("success, points (right: Sigma's is higher)", success, 1),
        ("error of the plan, % (left: lower)", errors, -1),
    )
    with rc_context(SETTINGS):
        figure, axes = new_figure(10, 1.2 + 0.3 * len(rows), 1, 2, sharey=True)
        for ax, (name, values, good) in zip(axes[0], panels, strict=True):
            ax.axvline(0, color="#444444", linewidth=1)
            for place, row in enumerate(rows):
                if row in values:
                    middle, low, high = values[row]
                    colour = OPEN if low <= 0 <= high else BETTER if good * middle > 0 else WORSE
                    ax.hlines(place, low, high, colors=colour, linewidth=2.5)
                    ax.scatter(middle, place, color=colour, s=26, zorder=3)
            ax.set_title(name, loc="left", fontsize=10)
        axes[0, 0].set_yticks(np.arange(len(rows)), [plain(title(row)) for row in rows])
        axes[0, 0].invert_yaxis()
        figure.supxlabel("Sigma minus the row", fontsize=10)
        return to_svg(figure)
