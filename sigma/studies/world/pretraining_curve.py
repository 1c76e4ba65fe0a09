"""The picture of a pretraining: training and held-out loss over the steps."""

from pathlib import Path

from matplotlib.figure import Figure


def draw_curve(curve: list[dict[str, float]], file: Path) -> None:
    """Write a PNG of ``train_loss`` and ``held_out_loss`` against ``step``, on a logarithmic loss axis."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps = [row["step"] for row in curve]
    axes.plot(steps, [row["train_loss"] for row in curve], color="0.65", label="training batches")
    axes.plot(
        steps, [row["held_out_loss"] for row in curve], color="tab:blue", label="held-out episodes, averaged weights"
    )
    axes.axvspan(0.8 * steps[-1], steps[-1], color="tab:blue", alpha=0.08, label="last fifth of the steps")
    axes.set(xlabel="step", ylabel="flow-matching loss", yscale="log")
    axes.legend(frameon=False)
    # No creation date or version inside: equal curves give equal files.
    figure.savefig(file, dpi=110, metadata={"Software": None})
