"""The picture of an audit finding: one joint's state and action over the episode, the frames in question shaded."""

import numpy as np
from matplotlib import rc_context

from sigma.report.figures import RECORDED, SETTINGS, STYLE, new_figure, plain, to_svg

SHADE = "#F6C9A8"


def joint_trace(state: np.ndarray, action: np.ndarray, joint: str, fps: float, frames: tuple[int, int]) -> str:
    """Draw ``state`` and ``action`` [n] of one joint in joint units; returns SVG text.

    ``frames`` are the first and the last shaded frame; nothing is shaded where they are negative.
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
