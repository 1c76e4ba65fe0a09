"""Which figures exist: what each compares, in what unit, and what it should reach.

This module imports nothing heavy, so that a misspelt name is reported at once.
"""

from dataclasses import dataclass
from typing import Literal

LEROBOT_LOADER = "LeRobotDataset in a torch DataLoader, its faster video backend"


@dataclass(frozen=True)
class Target:
    """What a figure should reach: at least or at most ``value``, of the ratio's median or of our own side's."""

    bound: Literal["at_least", "at_most"]
    value: float
    of: Literal["ratio", "own"] = "ratio"

    def met(self, value: float) -> bool:
        return value >= self.value if self.bound == "at_least" else value <= self.value


@dataclass(frozen=True)
class Figure:
    """A comparison: the part that measures it, its title, the peer, the unit of both sides, and a target if one is set.

    A unit that ends in ``/s`` is a rate.
    """

    part: str
    title: str
    peer: str
    unit: str
    target: Target | None = None


CATALOGUE: dict[str, Figure] = {
    "loading": Figure(
        "loading",
        "windows into training, the same number of loader processes",
        LEROBOT_LOADER,
        "windows/s",
        Target("at_least", 20),
    ),
    "loading_in_process": Figure(
        "loading",
        "windows into training, no loader process, as Sigma trains",
        LEROBOT_LOADER,
        "windows/s",
        Target("at_least", 20),
    ),
    "video_to_shards": Figure(
        "windowing",
        "video to shards",
        "the images that shards store, decoded and converted by the same decoder, then thrown away",
        "images/s",
    ),
    "video_to_shards_processes": Figure(
        "windowing", "video to shards by several processes", "the same by one process", "images/s"
    ),
    "windowing_memory": Figure(
        "windowing",
        "peak memory of the window stage on many episodes",
        "the same stage on few episodes",
        "MiB",
        Target("at_most", 1.1),
    ),
    "training_step": Figure(
        "training",
        "a training step of Sigma",
        "a step of plain LoRA of the same rank and layers by the same trainer, with as many noise draws",
        "s",
    ),
    "training_step_against_lerobot": Figure(
        "training",
        "a training step of Sigma, one noise draw a window",
        "plain LoRA of the same rank and layers, a step of LeRobot's update_policy, one noise draw a window",
        "s",
    ),
    "decision_against_plain_lora": Figure(
        "decision", "a decision of Sigma at scale 1", "a decision of the base under plain LoRA", "s"
    ),
    "decision_against_base": Figure(
        "decision",
        "a decision of Sigma under its adapter, which looks at the base's too",
        "a decision of the frozen base",
        "s",
    ),
    "evaluation": Figure(
        "evaluation",
        "evaluation of the frozen base, all samples",
        "PI05Policy.predict_action_chunk, window by window, the draws of a window as one batch",
        "windows/s",
        Target("at_least", 4),
    ),
    "help": Figure("startup", "sigma --help", "python -c 'import typer'", "s", Target("at_most", 1.5)),
    "repro": Figure(
        "startup",
        "dvc repro with nothing to do",
        "dvc root, which opens the project and ends",
        "s",
        Target("at_most", 5, "own"),
    ),
    "adapter_experiment": Figure(
        "startup",
        "an experiment that changes only the adapter",
        "sigma report by itself, the one stage that it runs",
        "s",
        Target("at_most", 15, "own"),
    ),
}

PARTS: tuple[str, ...] = tuple(dict.fromkeys(figure.part for figure in CATALOGUE.values()))


def figures_of(part: str) -> list[str]:
    """Names of a part's figures, in the catalogue's order."""
    return [name for name, figure in CATALOGUE.items() if figure.part == part]
