"""The report's pictures: each function takes plain arrays and returns one SVG as text.

SVG with outlined text looks the same everywhere and needs no font; a fixed salt gives it the same bytes every time.
Colours are Okabe and Ito's, which colour-blind readers can tell apart; line styles differ too.
"""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sigma.evaluation.references import TITLES

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

STYLE: dict[str, dict[str, Any]] = {
    "base": {"color": "#D55E00", "linestyle": "--"},
    "sigma": {"color": "#0072B2", "linestyle": "-"},
    "sigma_scale_1": {"color": "#56B4E9", "linestyle": "-."},
    "sigma_memory_cleared": {"color": "#CC79A7", "linestyle": "-."},
    "base_mean_of_samples": {"color": "#E69F00", "linestyle": "--"},
    "hold_state": {"color": "#7F7F7F", "linestyle": ":"},
    "mean_trajectory": {"color": "#009E73", "linestyle": ":"},
}
RECORDED = "#111111"
# Behind the frames of an audit finding.
SHADE = "#F6C9A8"
SETTINGS: "dict[RcKeyType, Any]" = {
    "svg.hashsalt": "sigma",
    "svg.fonttype": "path",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "grid.color": "#E8E8E8",
    "axes.axisbelow": True,
    "legend.frameon": False,
}
ERROR = "mean squared error (normalised units)"


def plain(text: str, longest: int = 48) -> str:
    """A name from data as a label: Matplotlib reads no mathematics in it, and a long one is cut."""
    text = " ".join(text.split())
    return (text if len(text) <= longest else text[: longest - 1] + "…").replace("$", r"\$")


def to_svg(figure: Figure) -> str:
    """The figure as SVG text, with the same bytes every time; call it within :data:`SETTINGS`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    return buffer.getvalue()


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, np.ndarray]:
    """Make a figure of this size in inches; returns it and its axes ``[rows, columns]``."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _log_where_wide(ax: Axes, values: Sequence[float]) -> None:
    """Make the y axis logarithmic where the values span more than a factor of ten; else begin it at zero."""
    if min(values) > 0 and max(values) > 10 * min(values):
        ax.set_yscale("log")
    else:
        ax.set_ylim(bottom=0)


def trajectories(
    seconds: np.ndarray,
    recorded: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    joints: Sequence[str],
    decisions: np.ndarray,
) -> str:
    """Draw recorded and predicted joint positions ``[n, D]`` in joint units over an episode.

    Thin lines mark decisions.
    """
    with rc_context(SETTINGS):
        rows = -(-len(joints) // 2)
        figure, axes = new_figure(10, 1.9 * rows + 0.5, rows, 2, sharex=True)
        for index, ax in enumerate(axes.flat):
            if index >= len(joints):
                ax.set_visible(False)
                continue
            for moment in decisions:
                ax.axvline(moment, color="#DDDDDD", linewidth=0.8, zorder=0)
            ax.plot(seconds, recorded[:, index], color=RECORDED, linewidth=2.0, label="recorded")
            for name, values in predicted.items():
                ax.plot(seconds, values[:, index], linewidth=1.4, label=TITLES[name], **STYLE[name])
            ax.set_title(plain(joints[index]), loc="left", fontsize=10)
            ax.set_ylabel("joint units")
            ax.grid(axis="x", visible=False)
            if index >= len(joints) - 2:
                ax.tick_params(labelbottom=True)
                ax.set_xlabel("time in the episode (s)")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        return to_svg(figure)


def error_by_step(errors: Mapping[str, Sequence[float]], fps: float) -> str:
    """Draw the error of the executed plan at each step of the horizon, for the arms in :data:`STYLE`."""
    with rc_context(SETTINGS):
        figure, axes = new_figure(7, 3.6)
        ax = axes[0, 0]
        for name, style in STYLE.items():
            if name in errors and name != "sigma_scale_1":
                steps = np.arange(len(errors[name])) + 1
                ax.plot(steps, errors[name], marker="o", markersize=3, label=TITLES[name], **style)
        _log_where_wide(ax, [error for name in STYLE if name in errors for error in errors[name]])
        ax.set_xlabel(f"step of the horizon (1 step = {1 / fps:.3g} s)")
        ax.set_ylabel(ERROR)
        figure.legend(loc="outside right upper")
        return to_svg(figure)


def grouped_bars(labels: Sequence[str], values: Mapping[str, Sequence[float]], axis_label: str) -> str:
    """Draw horizontal bars: one group for each label, in it one bar with its number for each arm."""
    with rc_context(SETTINGS):
        figure, axes = new_figure(5.2, 0.9 + 0.55 * len(labels))
        ax, size = axes[0, 0], 0.8 / len(values)
        for index, (name, numbers) in enumerate(values.items()):
            places = np.arange(len(labels)) + (index - (len(values) - 1) / 2) * size
            bars = ax.barh(places, numbers, height=0.9 * size, color=STYLE[name]["color"], label=TITLES[name])
            ax.bar_label(bars, fmt=" {:.3g}", fontsize=8, color="#444444")
        ax.set_yticks(np.arange(len(labels)), [plain(label) for label in labels])
        ax.invert_yaxis()
        ax.margins(x=0.15)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel(axis_label)
        figure.legend(loc="outside upper center", ncols=len(values))
        return to_svg(figure)


def error_ratios(ratios: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> str:
    """Draw Sigma's error divided by each row's, as (estimate, low, high), in one panel for each metric."""
    with rc_context(SETTINGS):
        metrics = list(next(iter(ratios.values())))
        figure, axes = new_figure(10, 1.0 + 0.36 * len(ratios), 1, len(metrics), sharey=True, sharex=True)
        places = np.arange(len(ratios))
        for ax, metric in zip(axes[0], metrics, strict=True):
            middle, low, high = np.array([by_metric[metric] for by_metric in ratios.values()]).T
            colours = [STYLE["sigma"]["color"] if top < 1 else STYLE["base"]["color"] for top in high]
            ax.axvline(1, color="#444444", linewidth=1)
            ax.hlines(places, low, high, colors=colours, linewidth=2.5)
            ax.scatter(middle, places, c=colours, s=26, zorder=3)
            ax.set_title(metric, loc="left", fontsize=10)
        if min(values[0] for by_metric in ratios.values() for values in by_metric.values()) > 0:
            axes[0, 0].set_xscale("log")
        axes[0, 0].xaxis.set_major_formatter("{x:g}")
        axes[0, 0].set_yticks(places, [plain(TITLES[name]) for name in ratios])
        axes[0, 0].invert_yaxis()
        figure.supxlabel("Sigma's error / the row's error (below 1: Sigma's is lower)", fontsize=10)
        return to_svg(figure)


def telepathy(seconds: np.ndarray, tau: Mapping[str, np.ndarray]) -> str:
    """Draw the norm of the telepathy factors in both passes over an episode."""
    with rc_context(SETTINGS):
        figure, axes = new_figure(7, 2.6)
        ax = axes[0, 0]
        for name, title in (("base", "control (LoRA and FiLM off)"), ("sigma", "Sigma")):
            ax.plot(seconds, tau[name], marker="o", markersize=3, label=title, **STYLE[name])
        ax.set_ylabel("‖τ‖₂ of the telepathy factors")
        ax.set_xlabel("time in the episode (s)")
        ax.legend(fontsize=9)
        return to_svg(figure)


def gate(seconds: np.ndarray, surprises: Mapping[str, np.ndarray], scale: np.ndarray) -> str:
    """Draw the adapter's scale over an episode, and below it the p-value of each term of its risk."""
    with rc_context(SETTINGS):
        figure, axes = new_figure(8, 1.7 + 0.27 * len(surprises), 2, 1, sharex=True, height_ratios=[1, 2])
        top, bottom = axes[:, 0]
        step = float(np.diff(seconds).min()) if len(seconds) > 1 else 1.0
        top.step(seconds, scale, where="post", **STYLE["sigma"])
        top.set_ylim(-0.05, 1.05)
        top.set_ylabel("scale")
        decades = np.minimum(np.stack(list(surprises.values())) / np.log(10), 6.0)
        edges = np.append(seconds, seconds[-1] + step), np.arange(len(surprises) + 1)
        drawn = bottom.pcolormesh(*edges, decades, cmap="Oranges", vmin=0, vmax=6, rasterized=False)
        bottom.set_yticks(edges[1][:-1] + 0.5, list(surprises))
        bottom.invert_yaxis()
        bottom.grid(visible=False)
        bottom.set_xlabel("time in the episode (s)")
        bar = figure.colorbar(drawn, ax=axes[:, 0].tolist(), ticks=range(0, 7, 2))
        bar.ax.set_yticklabels(["p = 1", "0.01", "1e-4", "1e-6 or less"])
        return to_svg(figure)


def reliability(bins: Sequence[Mapping[str, Any]]) -> str:
    """Draw the trajectory error of the base, the whole correction and the executed plan, in groups of rising risk."""
    with rc_context(SETTINGS):
        figure, axes = new_figure(7, 3.4)
        ax = axes[0, 0]
        places = np.arange(len(bins))
        for name in ("base", "sigma_scale_1", "sigma"):
            ax.plot(places, [part[name] for part in bins], marker="o", markersize=4, label=TITLES[name], **STYLE[name])
        labels = ["∞" if part["risk"] is None else f"{part['risk']:.2g}" for part in bins]
        ax.set_xticks(places, [f"{risk}\n({part['scale']:.2f})" for risk, part in zip(labels, bins, strict=True)])
        ax.set_xlabel("mean risk of the group (mean scale below it)")
        ax.set_ylabel(ERROR)
        _log_where_wide(ax, [part[name] for part in bins for name in ("base", "sigma_scale_1", "sigma")])
        figure.legend(loc="outside right upper")
        return to_svg(figure)


def joint_trace(state: np.ndarray, action: np.ndarray, joint: str, fps: float, frames: tuple[int, int]) -> str:
    """Draw ``state`` and ``action`` [n] of one joint in joint units over an episode, for an audit finding.

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
