"""The picture of a finding of the audit: a joint's state and action, with the frames that it concerns shaded."""

import numpy as np
from matplotlib import rc_context

from sigma.report.figures import RECORDED, SETTINGS, STYLE, new_figure, plain, to_svg

SHADE = "#F6C9A8"


def joint_trace(state: np.ndarray, action: np.ndarray, joint: str, fps: float, frames: tuple[int, int]) -> str:
    """State and action [n] of one joint over an episode in joint units, as SVG text; ``frames`` are the first and the
    last that are shaded, none where they are negative.
    """
    with rc_context(SETTINGS):
        figure, axes = new_figure(5.4, 2.2)
        ax = axes[0, 0]
        first, last = frames
        if first >= 0:
            ax.axvspan((first - 0.5) / fps, (last + 0.5) / fps, color=SHADE, linewidth=0, zorder=0)
        for values, label, style in (
            (action, "action", {**STYLE["base"], "linewidth": 1.4}),
            (state, "state", {"color": RECORDED, "linewidth": 1.6}),
        ):
            finite = np.where(np.isfinite(values), values, np.nan)
            ax.plot(np.arange(len(finite)) / fps, finite, label=label, **style)
        ax.set_title(plain(joint), loc="left", fontsize=10)
        ax.set_xlabel("time in the episode (s)")
        ax.set_ylabel("joint units")
        ax.legend(fontsize=9, loc="best")
        return to_svg(figure)
