"""``sigma figures``: fill the tables in README files from the metrics files, so that no number is typed by hand.

A table stands between ``<!-- figures: NAME -->`` and ``<!-- end -->``; the sentences around it are written by a person.
"""

import csv
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from sigma.shared.errors import SigmaError
from sigma.shared.files import atomic_file, read_json

# The rows of the front page's table.
RESULTS = {
    "sigma": "**Sigma**",
    "sigma_without_residual": "Sigma without residual heads",
    "plain_lora_zero_noise": "plain LoRA, zero noise",
    "residual_mlp": "residual MLP",
    "direct": "direct regressor",
    "frozen_base": "frozen π0.5",
}
TARGET = "pick_place"
_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(header)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))


def signed(value: float) -> str:
    """One decimal with a sign, a true minus."""
    return f"{value:+.1f}".replace("-", "−")


def success(arm: Mapping[str, float]) -> str:
    """Success in percent with its interval."""
    return f"{100 * arm['success']:.0f} % ({100 * arm['success_lo']:.0f}–{100 * arm['success_hi']:.0f})"


def results(root: Path) -> str:
    """Offline error, success on the target and the change of success on the base's own tasks."""
    errors, loop = read_json(root / "metrics/ablation.json")["test"]["rows"], read_json(root / "metrics/rollout.json")

    def row(name: str, title: str) -> list[str]:
        entry, played = errors[name]["mse_plan"], "base" if name == "frozen_base" else name
        against = ""
        if "delta" in entry:
            delta, low, high = (signed(100 * entry[key] / entry["mean"]) for key in ("delta", "delta_lo", "delta_hi"))
            against = f"{delta} % ({low} to {high})"
        kept = signed(100 * loop["retention"]["arms"][played]["difference"])
        return [title, f"{entry['mean']:.4f}", against, success(loop[TARGET]["arms"][played]), kept]

    header = ("", "error `mse_plan`", "Sigma's error against it", f"success, `{TARGET}`")
    return _table((*header, "change on the base's own tasks, points"), (row(*names) for names in RESULTS.items()))


def base(root: Path) -> str:
    """Success of the shipped base on fresh seeds of every task, against random weights."""
    scores = read_json(root / "stages/embedded/metrics.json")
    rows = [[f"`{task}`", success(arm), success(scores["random"][task])] for task, arm in scores["trained"].items()]
    return _table((f"task, {scores['seeds']} seeds", "trained", "random weights"), rows)


def pretraining(root: Path) -> str:
    """Where the training of the shipped base ended."""
    with (root / "stages/embedded/curve.csv").open(encoding="utf-8", newline="") as file:
        best = min(csv.DictReader(file), key=lambda row: float(row["held_out_loss"]))
    end = read_json(root / "stages/embedded/pretrain.json")
    errors = {name: f"{end[f'open_loop_mse_{name}']:.3f}" for name in ("policy", "hold", "mean")}
    rows = {
        "parameters, training frames": f"{end['parameters']:,}, {end['train_frames']:,}",
        "steps": f"{end['steps']:,}",
        "training loss, held-out loss at the end": f"{end['train_loss']:.4f}, {end['held_out_loss']:.4f}",
        "least held-out loss": f"{float(best['held_out_loss']):.4f} at step {int(best['step']):,}",
        "change of the held-out loss over the last fifth": f"{signed(-100 * end['fall_in_last_fifth'])} %",
        "MSE of held-out chunks from zero noise, normalised units": errors["policy"],
        "the same of holding still, of the mean action": f"{errors['hold']}, {errors['mean']}",
    }
    return _table(("training of the base", ""), rows.items())


BLOCKS: dict[str, Callable[[Path], str]] = {block.__name__: block for block in (results, base, pretraining)}


def filled(text: str, root: Path) -> str:
    """``text`` with every block filled from the metrics files under ``root``; raises :class:`SigmaError` for an unknown
    name and for a metrics file without the block's keys."""

    def fill(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        if name not in BLOCKS:
            raise SigmaError(f"figures: {name}: no such block; legal: {', '.join(BLOCKS)}")
        try:
            return f"{begin}{BLOCKS[name](root)}\n{end}"
        except KeyError as error:
            raise SigmaError(f"figures: {name}: its metrics file lacks {error}; run the stage that writes it") from None

    return _BLOCK.sub(fill, text)


def run(*, root: Path) -> str:
    """Rewrite README.md and every stages/*/README.md that has blocks; returns one line that says which changed."""
    files = [root / "README.md", *sorted(root.glob("stages/*/README.md"))]
    if not files[0].is_file():
        raise SigmaError(f"{files[0]}: not found; run this in the project's root")
    changed = []
    for file in files:
        text = file.read_text(encoding="utf-8")
        if (new := filled(text, root)) != text:
            with atomic_file(file) as temporary:
                temporary.write_text(new, encoding="utf-8")
            changed.append(str(file.relative_to(root)))
    return f"figures: {', '.join(changed) or 'nothing'} changed"
