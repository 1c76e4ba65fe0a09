"""``sigma rates``: the learning rate of every arm, chosen from its trials on validation windows."""

from pathlib import Path

from sigma.shared.files import write_json
from sigma.studies.ablation.arms import choose_rates, read_ablation


def run(*, params: Path, trials: Path, output: Path) -> str:
    """Write the chosen multiplier of each arm that has trials; returns one line that names them."""
    chosen = choose_rates(read_ablation(params), trials)
    write_json(output, chosen)
    return "rates: " + ", ".join(f"{name} {rate:g}" for name, rate in sorted(chosen.items()))
