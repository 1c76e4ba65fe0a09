"""Pictures of the diagnostics: probe scores, and what Sigma does along an episode. Plain numbers in, one SVG out."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context

from sigma.report.figures import BRANCH_STYLE, SETTINGS, STYLE, new_figure, plain, to_svg

if TYPE_CHECKING:
    from sigma.studies.evidence.telepathy_replay import Trace

REPRESENTATIONS = {
    "tau": "telepathy factors τ",
    "memory": "memory m",
    "intent": "intent z",
    "base": "π0.5's pooled features",
    "base_history": "the same, whole history",
    "state": "joint state alone",
}
TARGETS = {
    "phase": "task phase (accuracy)",
    "cube_position": "cube position (R²)",
    "instruction": "instruction (accuracy)",
    "episode_position": "position in the episode (R²)",
}
OWN = ("tau", "memory", "intent")


def probe_scores(probes: Mapping[str, Mapping[str, Any]]) -> str:
    """Score of each linear probe with its 95 % interval, a panel a label; the dashed line is chance."""
    names = [name for name in REPRESENTATIONS if any(name in target for target in probes.values())]
    places = np.arange(len(names))
    with rc_context(SETTINGS):
        figure, axes = new_figure(10, 1.1 + 0.32 * len(names), 1, len(probes), sharey=True)
        for ax, (target, scores) in zip(axes[0], probes.items(), strict=True):
            ax.axvline(scores["chance"], color="#444444", linewidth=1, linestyle="--")
            for place, name in zip(places, names, strict=True):
                colour = STYLE["sigma" if name in OWN else "base"]["color"]
                ax.hlines(place, scores[name]["lo"], scores[name]["hi"], colors=colour, linewidth=2.5)
                ax.scatter(scores[name]["score"], place, color=colour, s=24, zorder=3)
            ax.set_title(TARGETS[target].replace(" (", "\n("), loc="left", fontsize=9)
            lowest = min(scores["chance"], *(scores[name]["lo"] for name in names))
            ax.set_xlim(max(-1.0, min(0.0, lowest)) - 0.03, 1.03)
        axes[0, 0].set_yticks(places, [REPRESENTATIONS[name] for name in names])
        axes[0, 0].invert_yaxis()
        figure.supxlabel("score on test episodes (1: read off without error; dashed: chance)", fontsize=10)
        return to_svg(figure)


def traces(episodes: Mapping[int, "Trace"], phases: Mapping[int, Sequence[tuple[float, str]]], fps: float) -> str:
    """Size of the correction and the adapter's scale along episodes, a column each.

    ``episodes`` and ``phases`` are by episode number; a phase is the second at which it begins, and its name.
    """
    line: dict[str, Any] = {"marker": "o", "markersize": 2.5}
    with rc_context(SETTINGS):
        figure, axes = new_figure(3.6 * len(episodes) + 0.6, 4.6, 2, len(episodes), sharex="col", sharey="row")
        for column, (number, trace) in enumerate(episodes.items()):
            upper, lower = axes[:, column]
            seconds = trace.steps / fps
            for branch, style in BRANCH_STYLE.items():
                upper.plot(seconds, trace.corrections[branch], label=branch, **line, **style)
                lower.plot(seconds, trace.scales[branch], **line, **style)
            for begin, name in phases.get(number, ()):
                for ax in (upper, lower):
                    ax.axvline(begin, color="#777777", linewidth=0.8, linestyle=":")
                lower.text(begin, 0.04, f" {plain(name)}", rotation=90, fontsize=7, color="#444444", va="bottom")
            upper.set_title(f"test episode {number}", loc="left", fontsize=10)
            upper.set_ylim(bottom=0)
            lower.set_ylim(-0.03, 1.03)
            lower.set_xlabel("time (s)")
        axes[0, 0].set_ylabel("correction, rms\n(normalised units)")
        axes[1, 0].set_ylabel("adapter scale")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        return to_svg(figure)
