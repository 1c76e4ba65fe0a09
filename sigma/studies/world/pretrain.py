"""``sigma pretrain``: train the small π0.5 from scratch on recorded demonstrations and write it as a base."""

from pathlib import Path

from sigma.parameters import Section, read_sections
from sigma.studies.world.recipe import Recipe


class PretrainFile(Section):
    pretrain: Recipe


def run(*, dataset: Path, output: Path, params: Path) -> str:
    """Train by the ``pretrain`` section of ``params`` on the LeRobotDataset ``dataset``; returns one line of result.

    ``output`` appears whole: ``base/`` (a LeRobot policy folder), ``curve.csv``, ``curve.png`` and ``pretrain.json``. A
    run that was killed continues where it last saved its state.
    """
    recipe = read_sections(PretrainFile, params, others=True).pretrain

    import csv
    import hashlib

    from sigma.policy.pi05.small.base_folder import save_base
    from sigma.policy.pi05.small.tokenizer import build_tokenizer
    from sigma.shared.files import atomic_directory, digest_folder, write_json
    from sigma.studies.world.demonstrations import load_demonstrations
    from sigma.studies.world.pretraining import pretrain
    from sigma.training.state import Scratch

    dataset, output = Path(dataset), Path(output)
    demonstrations = load_demonstrations(dataset, recipe.resolution)
    key = hashlib.sha256(f"{recipe.model_dump_json()} {digest_folder(dataset)}".encode()).hexdigest()
    with Scratch.open(f"pretrain-{key}") as scratch:
        trained = pretrain(recipe, demonstrations, scratch)
        with atomic_directory(output) as temporary:
            save_base(temporary / "base", trained.policy, build_tokenizer(), trained.statistics)
            with open(temporary / "curve.csv", "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, fieldnames=list(trained.curve[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(trained.curve)
            _draw_curve(trained.curve, temporary / "curve.png")
            write_json(temporary / "pretrain.json", trained.summary)
        scratch.clear()
    summary = trained.summary
    fall = summary["fall_in_last_fifth"]
    return (
        f"{output}: {summary['parameters']:,} parameters, {summary['steps']} steps, held-out loss "
        f"{summary['held_out_loss']:.4f}, {100 * fall:.1f} % less over the last fifth "
        f"({'trained out' if fall < 0.02 else 'still falling'})"
    )


def _draw_curve(curve: list[dict[str, float]], file: Path) -> None:
    """Write a PNG of training and held-out loss against the step, on a logarithmic loss axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps = [row["step"] for row in curve]
    training, held_out = ([row[name] for row in curve] for name in ("train_loss", "held_out_loss"))
    axes.plot(steps, training, color="0.65", label="training batches")
    axes.plot(steps, held_out, color="tab:blue", label="held-out episodes, averaged weights")
    axes.axvspan(0.8 * steps[-1], steps[-1], color="tab:blue", alpha=0.08, label="last fifth of the steps")
    axes.set(xlabel="step", ylabel="flow-matching loss", yscale="log")
    axes.legend(frameon=False)
    # No creation date or version inside: equal curves give equal files.
    figure.savefig(file, dpi=110, metadata={"Software": None})
